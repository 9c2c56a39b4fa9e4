#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An export by TLS as the image of `oxbow serve` and `oxbow mount`: with certificates and with keys, at
every server that has them, lost and found again, and refused."""
import socket
import struct

from interop import *
from mounting import *
from nbd_servers import *
from tlspki import *

SIZE = 8 * MIB
KEYS = "psk"
SERVERS = ("oxbow", "nbdkit", "qemu-nbd")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def raw_file(name="disk.raw", size=SIZE):
    path = tmpdir() / name
    with open(path, "wb") as file:
        file.truncate(size)
    return path


class Far:
    """A server of the disk by TLS, at one port however often it is started. keys: with keys, else with
    certificates, of which clients have to have one that it knows."""

    def __init__(self, program, disk, keys, folder=None):
        self.port = free_port()
        folder = folder or pki() / ("psk" if keys else "server")
        self.argv = [str(word) for word in self._words(program, disk, keys, folder)]

    def _words(self, program, disk, keys, folder):
        if program == "oxbow":
            verify = () if keys else ("--tls-verify-peer",)
            return (oxbow_path(), "serve", "--no-keeper", "-q", "-f", "raw", "--nbd", f"127.0.0.1:{self.port}",
                    "--tls-creds", folder, *verify, disk)
        if program == "nbdkit":
            creds = (f"--tls-psk={folder}/keys.psk",) if keys else (f"--tls-certificates={folder}", "--tls-verify-peer")
            return ("nbdkit", "-f", "-i", "127.0.0.1", "-p", self.port, "--tls=require", *creds, "file", disk)
        kind = "tls-creds-psk" if keys else "tls-creds-x509"
        verify = "" if keys else ",verify-peer=yes"
        return ("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-b", "127.0.0.1", "-p", self.port, "--object",
                f"{kind},id=t,dir={folder},endpoint=server{verify}", "--tls-creds", "t", disk)

    def start(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        wait_for(self._listens, self.argv[0])

    def _listens(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.argv} ended with {self.process.returncode}")
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def uri(self, keys, host="localhost", user="alice", **parameters):
        secret = {"tls_psk_file": pki() / "psk" / "keys.psk"} if keys else {"tls_certificates": pki() / "client"}
        words = "&".join(f"{key.replace('_', '-')}={value}" for key, value in {**secret, **parameters}.items())
        return f"nbds://{user + '@' if keys else ''}{host}:{self.port}/?{words}"


class Served:
    """`oxbow serve` of an export, in the clear, for the length of a with statement."""

    def __init__(self, far, *args):
        self.uri = uri(tmpdir() / "near.sock")
        self.argv = [oxbow_path(), "serve", "--nbd", tmpdir() / "near.sock", *args, far]

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE)
        if not self.process.stdout.readline():
            raise Failure(f"it exited with {self.process.wait()}")
        return self

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        code = self.process.wait(60)
        self.process.stdout.close()
        if kind is None:
            check_equal(code, 0, "exit code")


def relays_of(mount):
    """The processes that talk TLS for its worker."""
    [connector] = children_of(mount.worker())
    return [child for child in children_of(connector)]


def is_gone(process):
    try:
        return "\nState:\tZ" in pathlib.Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def every_server():
    for keys in (False, True):
        for program in SERVERS:
            yield program, keys


# ---- used ----

def test_an_export_by_tls_is_served_on():
    for program, keys in every_server():
        disk, data = raw_file(), pattern(1, SIZE)
        with Far(program, disk, keys) as far, Served(far.uri(keys), "-f", "raw") as near:
            handle = nbd_connect(near.uri)
            for at in range(0, SIZE, MIB):
                handle.pwrite(data[at:at + MIB], at)
            handle.flush()
            check_bytes(disk.read_bytes(), data, f"{program}'s file after the flush")
            check_bytes(nbd_read_all(handle), data, "what is read")
            handle.shutdown()


def test_an_export_by_tls_is_mounted_in_the_sandbox():
    for program, keys in every_server():
        disk, data = raw_file(), pattern(2, SIZE)
        with Far(program, disk, keys) as far, Mount(far.uri(keys), "-f", "raw") as mount:
            mount.is_in_sandbox()
            with open(mount.path, "r+b", buffering=0) as file:
                for at in range(0, SIZE, MIB):
                    check_equal(os.pwrite(file.fileno(), data[at:at + MIB], at), MIB, "written")
                os.fsync(file.fileno())
                check_bytes(disk.read_bytes(), data, f"{program}'s file after the sync")
            check_bytes(pathlib.Path(mount.path).read_bytes(), data, "what is read")


def test_an_image_in_an_export_by_tls_is_mounted_with_its_chain():
    disk, base, data = raw_file(size=4 * SIZE), raw_file("base.raw"), bytearray(pattern(3, SIZE))
    base.write_bytes(data)
    with Far("oxbow", disk, True) as far:
        oxbow("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", far.uri(True))
        with Mount(far.uri(True), "--allow-backing") as mount:
            mount.is_in_sandbox()
            with open(mount.path, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"x" * MIB, MIB + 100)
                os.fsync(file.fileno())
            data[MIB + 100:2 * MIB + 100] = b"x" * MIB
            check_bytes(pathlib.Path(mount.path).read_bytes(), bytes(data), "what is read")
    check_bytes(guest_bytes_by_qemu(disk), bytes(data), "the chain to QEMU")


def test_a_server_at_a_unix_socket_is_compared_with_the_name_that_is_stated():
    disk = raw_file()
    folder = credentials("server", verify=True)
    with Server("--no-keeper", "-f", "raw", *folder, disk) as server:
        def far(**more):
            return uri(server.socket, scheme="nbds+unix", tls_certificates=pki() / "client", **more)
        with Mount(far(tls_hostname="localhost"), "-f", "raw") as mount:
            mount.is_in_sandbox()
            check_equal(os.stat(mount.path).st_size, SIZE, "size")
        expect_failure(oxbow_path(), "mount", "--foreground", "-f", "raw", far(tls_hostname="elsewhere"), "m",
                       message="its certificate is not accepted: The certificate is NOT trusted. The name in the certificate does not match the expected")
        with Mount(far(tls_verify_peer=0), "-f", "raw") as mount:
            check_equal(os.stat(mount.path).st_size, SIZE, "size")


# ---- lost ----

def test_a_mount_by_tls_goes_on_when_its_server_was_killed_in_mid_write():
    for program, keys in every_server():
        disk, data = raw_file(), pattern(4, SIZE)
        (tmpdir() / "data").write_bytes(data)
        with Far(program, disk, keys) as far:
            with Mount(far.uri(keys, reconnect_delay=60), "-f", "raw") as mount:
                writer = subprocess.Popen(["dd", f"if={tmpdir() / 'data'}", f"of={mount.path}", "bs=16k",
                                           "conv=notrunc,fsync", "status=none"])
                wait_until(lambda: disk.read_bytes()[:65536] == data[:65536], "the first write")
                far.kill()
                far.start()
                check_equal(writer.wait(60), 0, "exit code of dd")
                check_bytes(disk.read_bytes(), data, f"{program}'s file after the sync")
                mount.is_in_sandbox()


def test_a_served_export_by_tls_comes_back():
    for program, keys in every_server():
        disk, data = raw_file(), pattern(5, SIZE)
        with Far(program, disk, keys) as far, Served(far.uri(keys, reconnect_delay=60), "-f", "raw") as near:
            handle = nbd_connect(near.uri)
            for at in range(0, SIZE, MIB):
                if at == SIZE // 2:
                    far.kill()
                    far.start()
                handle.pwrite(data[at:at + MIB], at)
            handle.flush()
            check_bytes(disk.read_bytes(), data, f"{program}'s file after the flush")
            handle.shutdown()


def test_renewed_credentials_are_those_of_the_next_connection():
    """The far server gets keys that the client did not have when it mounted."""
    disk, data = raw_file(), pattern(6, SIZE)
    theirs, ours = tmpdir() / "theirs", tmpdir() / "ours.psk"
    theirs.mkdir()
    (theirs / "keys.psk").write_text(f"alice:{KEY}\n")
    ours.write_text(f"alice:{KEY}\n")
    with Far("oxbow", disk, True, theirs) as far:
        with Mount(far.uri(True, tls_psk_file=ours, reconnect_delay=60), "-f", "raw") as mount:
            far.kill()
            for path in (theirs / "keys.psk", ours):
                path.write_text(f"alice:{'99' * 32}\n")
            far.start()
            with open(mount.path, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), data[:MIB], 0)
                os.fsync(file.fileno())
            check_bytes(disk.read_bytes()[:MIB], data[:MIB], "the far file")


# ---- refused ----

def refuses(far, *said, verbs=("serve", "mount")):
    """Both verbs: exit code 1, and one of the texts for each."""
    for verb, text in zip(("serve", "mount"), said):
        if verb not in verbs:
            continue
        words = ("--nbd", tmpdir() / "near.sock", far) if verb == "serve" else ("--foreground", far, tmpdir())
        result = expect_failure(oxbow_path(), verb, "-f", "raw", *words, message=text)
        check_in(f"Could not open '{far}': Failed to connect to 'localhost:", result.stderr, "message")
        check_equal(result.stderr.count("\n"), 1, f"lines of {result.stderr!r}")


def test_a_wrong_key_is_refused():
    (tmpdir() / "wrong.psk").write_text(f"alice:{'11' * 32}\n")
    for program in SERVERS:
        with Far(program, raw_file(), True) as far:
            refuses(far.uri(True, tls_psk_file=tmpdir() / "wrong.psk"), "may refuse this client's credentials",
                    "refuses this client's credentials")
            refuses(far.uri(True, user="carol"), "username carol was not found", "", verbs=("serve",))
            with Mount(far.uri(True), "-f", "raw"):
                pass


def test_a_certificate_of_nobody_known_is_refused():
    for program in SERVERS:
        with Far(program, raw_file(), False) as far:
            for name in ("stranger", "nameless"):
                refuses(far.uri(False, tls_certificates=pki() / name), "may refuse this client's credentials",
                        "refuses this client's credentials")


def test_a_server_with_a_certificate_of_nobody_known_is_refused():
    with Far("oxbow", raw_file(), False) as far:
        refuses(far.uri(False, tls_certificates=pki() / "wrong-ca"), "Error in the certificate verification", "TLS: its certificate is not accepted: The "
                "certificate is NOT trusted. The certificate issuer is unknown")
        refuses(far.uri(False, tls_hostname="elsewhere"), "", "The name in the certificate does not match the expected",
                verbs=("mount",))
    with Far("oxbow", raw_file(), False, pki() / "expired") as far:
        refuses(far.uri(False), "Error in the certificate verification", "The certificate chain uses expired certificate")


def test_no_certificate_is_taken_that_nothing_verifies():
    """libnbd before 1.22 takes any where it finds no ca-cert.pem."""
    os.mkdir("empty")
    disk, name = raw_file(), "certificate is not accepted: The certificate is NOT trusted"
    with Server("--no-keeper", "-f", "raw", "--nbd", "localhost:0", *credentials(), disk) as server:
        far = server.uri
        for verb in (("info",), ("map", "-f", "raw"), ("serve", "--nbd", "near.sock")):
            expect_failure(oxbow_path(), *verb, far, message="there is no ca-cert.pem to verify the server's certificate by")
            expect_failure(oxbow_path(), *verb, f"{far}?tls-certificates={tmpdir()}/empty", message="there is no ca-cert.pem")
        expect_failure(oxbow_path(), "mount", "--foreground", "-f", "raw", far, "empty", message=name)
        for more in ("tls-verify-peer=0", f"tls-certificates={pki() / 'nameless'}"):
            oxbow("info", f"{far}?{more}")
            with Mount(f"{far}?{more}", "-f", "raw") as mount:
                check_equal(os.stat(mount.path).st_size, SIZE, "size")
        # where libnbd looks unasked
        home = tmpdir() / "home"
        shutil.copytree(pki() / "nameless", home / ".config" / "pki" / "libnbd")
        for path in (tmpdir(), *home.rglob("*")):
            path.chmod(0o755)
        as_nobody = ("setpriv", "--reuid", "65534", "--clear-groups", oxbow_path(), "info", far)
        run(*as_nobody, env=dict(os.environ, HOME=str(home)))
        expect_failure(*as_nobody, env=dict(os.environ, HOME="/nonexistent"), message="there is no ca-cert.pem")


def test_a_server_without_tls_is_refused():
    port = free_port()
    with Program("nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "-P", tmpdir() / "pid", "--tls=off", "memory", "1M",
                 socket=tmpdir() / "pid"):
        refuses(f"nbds://localhost:{port}/?tls-certificates={pki() / 'client'}", "TLS", "it offers no TLS")


def test_credentials_that_are_not_there_are_named():
    os.mkdir("m")
    (tmpdir() / "other.psk").write_text(f"bob:{KEY}\n")
    (tmpdir() / "bad.psk").write_text("alice:no hexadecimal digits\n")
    (tmpdir() / "folder").mkdir()
    (tmpdir() / "folder" / "ca-cert.pem").write_text("no certificate\n")
    for words, said in (("tls-psk-file=none.psk", "TLS credentials 'none.psk': No such file or directory"),
                        ("tls-psk-file=other.psk", "TLS credentials 'other.psk': there is no key of 'alice' in it"),
                        ("tls-psk-file=bad.psk", "TLS credentials 'bad.psk': "),
                        ("tls-certificates=none", "TLS credentials 'none/ca-cert.pem': No such file or directory"),
                        ("tls-certificates=folder", "TLS credentials 'folder/ca-cert.pem': ")):
        result = expect_failure(oxbow_path(), "mount", "-f", "raw", f"nbds://alice@localhost:9/?{words}", "m", message=said)
        check_equal(result.stderr.count("\n"), 1, f"lines of {result.stderr!r}")


# ---- the processes ----

def test_who_talks_tls_has_a_sandbox_of_its_own_and_ends_with_its_connection():
    with Far("oxbow", raw_file(), False) as far:
        with Mount(far.uri(False, connections=2, reconnect_delay=60), "-f", "raw") as mount:
            first = relays_of(mount)
            check_equal(len(first), 2, "connections")
            for relay in first:
                status = pathlib.Path(f"/proc/{relay}/status").read_text()
                for line in ("Name:\toxbow-tls", "Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"):
                    check_in(line, status, "status")
                fds = [os.readlink(f"/proc/{relay}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{relay}/fd")]
                check_equal(sorted(fds), ["/dev/null"] * 3 + ["socket"] * 2, "descriptors")
            check_equal(any("gnutls" in line and "/libgnutls" not in line for line in open(f"/proc/{mount.worker()}/maps")),
                        False, "keys of the worker")
            far.kill()
            far.start()
            with open(mount.path, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"x" * 4096, 0)
                os.fsync(file.fileno())
            wait_until(lambda: all(is_gone(relay) for relay in first), "the end of the first ones")
            second = relays_of(mount)
        wait_until(lambda: all(is_gone(relay) for relay in second), "the end of the second ones")


def test_a_worker_that_is_killed_leaves_no_process():
    with Far("oxbow", raw_file(), True) as far:
        with Mount(far.uri(True), "-f", "raw") as mount:
            [connector] = children_of(mount.worker())
            relays = relays_of(mount)
            os.kill(mount.worker(), 9)
            check_equal(mount.wait(), 1, "exit code")
            wait_until(lambda: all(is_gone(process) for process in (connector, *relays)), "the end of them all")


# ---- servers that lie ----

class Liar:
    """Answers one client with these bytes, and then nothing, until it leaves."""

    def __init__(self, *answers):
        self.answers = answers
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.uri = (f"nbds://alice@localhost:{self.socket.getsockname()[1]}/?tls-psk-file={pki() / 'psk' / 'keys.psk'}"
                    "&open-timeout=2")

    def __enter__(self):
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self.uri

    def _serve(self):
        while True:
            try:
                client = self.socket.accept()[0]
            except OSError:
                return
            with client:
                try:
                    client.sendall(b"".join(self.answers))
                    while client.recv(65536):
                        pass
                except OSError:
                    pass

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


HELLO = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)


def option_reply(kind, data=b"", option=5):
    return struct.pack(">QIII", 0x3e889045565a9, option, kind, len(data)) + data


def test_a_server_that_lies_before_tls_is_refused():
    for answers, said in (((b"HTTP/1.0 400 Bad Request\r\n\r\n",), "it is no NBD server"),
                          ((struct.pack(">8sQ", b"NBDMAGIC", 0x420281861253) + bytes(136),), "too old a server for TLS"),
                          ((struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0),), "too old a server for TLS"),
                          ((HELLO, option_reply(1, option=7)), "its answers make no sense"),
                          ((HELLO, option_reply(1 << 31 | 2, b"no \x1b[31m")), "it offers no TLS"),
                          ((HELLO, struct.pack(">QIII", 0x3e889045565a9, 5, 1 << 31 | 1, 0xfffffff0)), "make no sense"),
                          ((HELLO, option_reply(1), HELLO, option_reply(1)), "TLS: "),
                          ((HELLO, option_reply(1), b"\xff" * 70000), "TLS: "),
                          ((), "Connection timed out"),
                          ((HELLO,), "Connection timed out"),
                          ((HELLO, option_reply(1)), "Connection timed out")):
        with Liar(*answers) as far:
            expect_failure(oxbow_path(), "mount", "--foreground", "-f", "raw", far, tmpdir(), message=said)
            check_equal(is_mounted(tmpdir()), False, "mounted")


run_tests(globals())
