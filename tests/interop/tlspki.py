# SPDX-License-Identifier: MIT
"""Certificates and keys for tests of TLS, in directories as servers and clients take them."""
import atexit
import functools
import shutil
import ssl
import tempfile

from harness import *

SERVER = "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\n"
CLIENT = "cn = {name}\ntls_www_client\n"
KEY = "5af0c1d2" * 8


class Authority:
    """Who signs certificates: Authority(directory, "name")."""

    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.name = name
        self.key = self.directory / f"{name}-key.pem"
        self.cert = self.directory / f"{name}-cert.pem"
        make_key(self.key)
        template = self._template(f"cn = {name}\nca\ncert_signing_key\ncrl_signing_key\n")
        certtool("--generate-self-signed", "--load-privkey", self.key, "--template", template,
                 "--outfile", self.cert)

    def _template(self, text, until="expiration_days = 30"):
        path = self.directory / "template"
        path.write_text(f"{text}{until}\n")
        return path

    def sign(self, directory, role, text, *until):
        """Puts ROLE-cert.pem and ROLE-key.pem, and the authority's certificate, into directory."""
        directory = pathlib.Path(directory)
        directory.mkdir(exist_ok=True)
        key = directory / f"{role}-key.pem"
        make_key(key)
        certtool("--generate-certificate", "--load-ca-certificate", self.cert, "--load-ca-privkey",
                 self.key, "--load-privkey", key, "--template", self._template(text, *until),
                 "--outfile", directory / f"{role}-cert.pem")
        shutil.copy(self.cert, directory / "ca-cert.pem")
        return directory

    def revoke(self, certificate, path):
        """A list of revoked certificates, with that one."""
        certtool("--generate-crl", "--load-ca-privkey", self.key, "--load-ca-certificate", self.cert,
                 "--load-certificate", certificate, "--template",
                 self._template("crl_next_update = 30\ncrl_number = 1\n"), "--outfile", path)


def certtool(*args):
    run("certtool", *args)


def make_key(path):
    certtool("--generate-privkey", "--key-type", "ecdsa", "--outfile", path)


@functools.cache
def pki():
    """Once a program: a directory with server/, client/ and what is wrong with others."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="oxbow-pki-"))
    atexit.register(shutil.rmtree, base, True)
    ours = Authority(base, "ours")
    theirs = Authority(base, "theirs")
    ours.sign(base / "server", "server", SERVER)
    ours.sign(base / "renewed", "server", SERVER)
    ours.sign(base / "client", "client", CLIENT.format(name="one"))
    ours.sign(base / "revoked", "client", CLIENT.format(name="revoked"))
    ours.sign(base / "expired", "server", SERVER,
              'activation_date = "2020-01-01 00:00:00"\nexpiration_date = "2020-02-01 00:00:00"')
    ours.sign(base / "no-client", "client", SERVER)
    ours.revoke(base / "revoked" / "client-cert.pem", base / "crl.pem")
    theirs.sign(base / "stranger", "client", CLIENT.format(name="stranger"))
    shutil.copy(ours.cert, base / "stranger" / "ca-cert.pem")
    (base / "nameless").mkdir()
    shutil.copy(ours.cert, base / "nameless" / "ca-cert.pem")
    (base / "wrong-ca").mkdir()
    shutil.copy(theirs.cert, base / "wrong-ca" / "ca-cert.pem")
    (base / "psk").mkdir()
    (base / "psk" / "keys.psk").write_text(f"alice:{KEY}\nbob:{'77' * 32}\n")
    return base


def credentials(name="server", verify=False):
    """Options of a server, with a copy of the directory that a test may change."""
    copy = tmpdir() / "credentials"
    shutil.copytree(pki() / name, copy)
    return ("--tls-creds", copy, *(("--tls-verify-peer",) if verify else ()))


def replace(name):
    """Puts other files into that copy."""
    for file in (pki() / name).iterdir():
        shutil.copy(file, tmpdir() / "credentials" / file.name)


def client_context(name=None):
    """Of OpenSSL: trusts our authority, and has that certificate."""
    context = ssl.create_default_context(cafile=pki() / "client" / "ca-cert.pem")
    if name is not None:
        context.load_cert_chain(pki() / name / "client-cert.pem", pki() / name / "client-key.pem")
    return context


def nbds(server, **parameters):
    """The URI of a server, for clients of libnbd."""
    words = [f"{key.replace('_', '-')}={value}" for key, value in parameters.items()]
    return server.uri + ("&" if "?" in server.uri else "?") + "&".join(words)
