#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""TLS of the NBD server: who gets in and who does not, and what is left of what was said before."""
import socket
import ssl
import struct

from interop import read_at
from nbdwire import *
from tlspki import *

ERR_TLS_REQD = ERR + 5
DISK = 64 * MIB
QEMU_X509 = "tls-creds-x509,id=tls,endpoint=client,dir="
QEMU_PSK = "tls-creds-psk,id=tls,endpoint=client,username=alice,dir="


def tls_server(*args, name="server", verify=False, size=DISK, **kwargs):
    return serve(size, "--nbd", "localhost:0", *credentials(name, verify), *args, **kwargs)


def start_tls(client, certificate=None):
    check_equal(client.option(OPT_STARTTLS), [(REP_ACK, b"")], "answer to STARTTLS")
    client.link = client_context(certificate).wrap_socket(client.link, server_hostname="localhost")


class SecureClient(Client):
    """Through OpenSSL. Its style is negotiated in TLS."""

    def __init__(self, server, certificate=None, style="simple", flags=C_FIXED | C_NO_ZEROES):
        Client.__init__(self, server, None)
        self.greet(flags)
        start_tls(self, certificate)
        self.style = style
        if style == "structured":
            check_equal(self.option(OPT_STRUCTURED), [(REP_ACK, b"")], "answer")

    def receive(self, count):
        try:
            return Client.receive(self, count)
        except ssl.SSLError as error:
            raise Closed(str(error)) from None


def served_certificate(server):
    client = SecureClient(server)
    der = client.link.getpeercert(binary_form=True)
    client.close()
    return der


def certificate_of(name):
    return ssl.PEM_cert_to_DER_cert((pki() / name / "server-cert.pem").read_text())


def fails_to_connect(server, name, message=None):
    return expect_failure("nbdinfo", nbds(server, tls_certificates=pki() / name), message=message)


def serves(server, name="client"):
    size = output("nbdinfo", "--size", nbds(server, tls_certificates=pki() / name))
    check_equal(int(size), DISK, "size")


def cpu_ticks(server):
    fields = pathlib.Path(f"/proc/{server.server_pid()}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# ---- who gets in ----

def test_libnbd_and_qemu_write_and_read_with_certificates():
    data = pattern(1, 3 * MIB + 12345)
    pathlib.Path("data").write_bytes(data + bytes(-len(data) % 512))
    with tls_server(verify=True) as server:
        uri = nbds(server, tls_certificates=pki() / "client")
        check_in("newstyle-fixed with TLS", output("nbdinfo", uri), "what nbdinfo says")
        run("nbdcopy", "data", uri)
        port = server.uri.split(":")[2].rstrip("/")
        qemu_img("convert", "--object", f"{QEMU_X509}{pki() / 'client'}", "--image-opts", "-O", "raw",
                 f"driver=nbd,host=localhost,port={port},tls-creds=tls", "back")
    check_equal(pathlib.Path("back").read_bytes()[:len(data)] == data, True, "data are the same")


def test_libnbd_and_qemu_write_and_read_with_a_key():
    keys = pki() / "psk" / "keys.psk"
    with serve(DISK, *credentials("psk")) as server:
        check_in("nbds+unix:", server.uri, "URI")
        uri = nbds(server, tls_psk_file=keys).replace("///", "//alice@/", 1)
        port = ["--object", QEMU_PSK + str(pki() / "psk"), "--image-opts",
                f"driver=nbd,path={server.socket},tls-creds=tls"]
        qemu_io("-c", "write -P 0x78 4096 70000", "-c", "flush", *port)
        run("nbdcopy", uri, "copy")
        check_equal(read_at("copy", 0, 80000) == bytes(4096) + b"x" * 70000 + bytes(5904), True, "data are the same")
        run("nbdinfo", uri.replace("alice", "bob"))
        (tmpdir() / "wrong.psk").write_text(f"alice:{'11' * 32}\ncarol:{KEY}\n")
        for name in ("alice", "carol"):
            wrong = uri.replace("alice", name).replace(str(keys), str(tmpdir() / "wrong.psk"))
            expect_failure("nbdinfo", wrong)
        check_in("with TLS", output("nbdinfo", uri), "what nbdinfo says")


def test_both_a_key_and_a_certificate_can_be_offered():
    with tls_server() as plain:
        serves(plain, "nameless")
    (tmpdir() / "credentials" / "keys.psk").write_text(f"alice:{KEY}\n")
    with serve(DISK, "--nbd", "localhost:0", "--tls-creds", "credentials", "--tls-verify-peer") as server:
        serves(server)
        fails_to_connect(server, "nameless")
        uri = nbds(server, tls_psk_file=pki() / "psk" / "keys.psk").replace("//", "//alice@", 1)
        check_in("with TLS", output("nbdinfo", uri), "what nbdinfo says")


def test_each_client_needs_a_certificate_of_ours_where_peers_are_verified():
    with tls_server("-v", verify=True) as server:
        for name in ("nameless", "stranger", "no-client"):
            fails_to_connect(server, name)
        serves(server)
        check_in("it has no certificate", server.stderr(), "log")
        check_in("its certificate is not accepted", server.stderr(), "log")
        check_in("CN=one", server.stderr(), "log")


def test_a_revoked_certificate_is_refused():
    with tls_server(verify=True) as server:
        serves(server, "revoked")
        shutil.copy(pki() / "crl.pem", tmpdir() / "credentials" / "ca-crl.pem")
        reload(server, 1)
        fails_to_connect(server, "revoked")
        serves(server)


def test_without_verification_no_certificate_is_needed():
    with tls_server() as server:
        serves(server, "nameless")
        serves(server, "stranger")
        fails_to_connect(server, "wrong-ca")
        serves(server, "nameless")


def test_old_protocols_are_refused():
    with tls_server() as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = Client(server, None)
            client.greet()
            client.option(OPT_STARTTLS)
            context = client_context()
            context.minimum_version = context.maximum_version = version
            client.link = context.wrap_socket(client.link, server_hostname="localhost")
            check_equal(client.go() is not None, True, "export is open")
        client = Client(server, None)
        client.greet()
        client.option(OPT_STARTTLS)
        context = client_context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        try:
            context.wrap_socket(client.link, server_hostname="localhost")
        except (ssl.SSLError, OSError):
            return
        raise Failure("TLS 1.1 is spoken")


# ---- the handshake of NBD ----

def test_a_client_in_the_clear_is_told_nothing_but_that_tls_is_required():
    with tls_server("-x", "secret", "-D", "a description") as server:
        client = Client(server, None)
        client.greet()
        for number, data in ((OPT_LIST, b""), (OPT_GO, info_bytes("secret")), (OPT_INFO, info_bytes("secret")),
                             (OPT_STRUCTURED, b""), (OPT_EXTENDED, b""), (OPT_GO, b"x"), (77, b"abc"),
                             (OPT_SET_META, meta_bytes("secret", "base:allocation")),
                             (OPT_LIST_META, meta_bytes("secret")), (OPT_GO, info_bytes("wrong"))):
            answer = client.option(number, data)
            check_equal([kind for kind, _ in answer], [ERR_TLS_REQD], f"answer to option {number}")
            check_equal(b"secret" in answer[0][1] or b"description" in answer[0][1], False, "told")
        check_equal(client.option(OPT_ABORT), [(REP_ACK, b"")], "answer to ABORT")
        client = Client(server, None)
        client.greet()
        client.send(option_bytes(OPT_EXPORT_NAME, b"secret"))
        client.check_closed()
        expect_failure("nbdinfo", server.uri.replace("nbds:", "nbd:"))


def test_what_was_said_in_the_clear_is_forgotten():
    with tls_server() as server:
        client = Client(server, None)
        client.greet()
        client.option(OPT_STRUCTURED)
        client.option(OPT_EXTENDED)
        client.option(OPT_SET_META, meta_bytes("", "base:allocation"))
        start_tls(client)
        client.style = "simple"
        client.go()
        check_equal(client.flags & SEND_DF, 0, "the flag of structured replies")
        check_equal(client.read(0, 512), bytes(512), "data")
        client.fails(EINVAL, STATUS, 0, 512)


def test_what_follows_starttls_in_the_clear_ends_the_connection():
    with tls_server() as server:
        for rest in (option_bytes(OPT_GO, info_bytes("")), b"x", option_bytes(OPT_STARTTLS)):
            client = Client(server, None)
            client.greet()
            client.send(option_bytes(OPT_STARTTLS) + rest)
            client.check_closed()
        serves(server)


def test_starttls_is_refused_where_it_makes_no_sense():
    with serve(DISK) as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.option(OPT_STARTTLS)[0][0], ERR_UNSUP, "answer without credentials")
        check_equal(client.option(OPT_STRUCTURED), [(REP_ACK, b"")], "the next answer")
    with tls_server() as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.option(OPT_STARTTLS, b"data")[0][0], ERR_INVALID, "answer with data")
        start_tls(client)
        check_equal(client.option(OPT_STARTTLS)[0][0], ERR_INVALID, "the second answer")
        client.style = "simple"
        client.go()
        check_equal(client.read(4096, 4096), bytes(4096), "data")


# ---- the stream ----

def test_every_style_of_reply_goes_through_tls():
    data = pattern(2, 5 * MIB)
    with tls_server() as server:
        for style in ("simple", "structured"):
            client = SecureClient(server, style=style)
            client.go()
            client.write(12345, data)
            check_equal(client.read(12345, len(data)) == data, True, "data are the same")
            client.ok(FLUSH)
            client.request(DISC)
            client.check_closed()


def test_records_may_come_in_pieces_and_many_at_once():
    with tls_server() as server:
        client = Client(server, None)
        client.greet()
        client.option(OPT_STARTTLS)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        wrapped = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

        def call(function, *args):
            while True:
                try:
                    return function(*args)
                except ssl.SSLWantReadError:
                    trickle()
                    incoming.write(client.link.recv(777))

        def trickle():
            data = outgoing.read()
            for at in range(0, len(data), 13):
                client.link.sendall(data[at:at + 13])

        def read_all(count):
            data = b""
            while len(data) < count:
                data += call(wrapped.read, count - len(data))
            return data

        call(wrapped.do_handshake)
        # many small records in one go: an option each byte of which is a record of its own
        for byte in option_bytes(OPT_EXPORT_NAME):
            wrapped.write(bytes([byte]))
        client.link.sendall(outgoing.read())
        check_equal(struct.unpack(">Q", read_all(10)[:8])[0], DISK, "size")
        data = pattern(3, 50000)
        wrapped.write(struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 512, len(data)) + data[:20])
        for at in range(20, len(data), 9999):
            wrapped.write(data[at:at + 9999])
        trickle()
        read_all(16)
        wrapped.write(struct.pack(">IHHQQI", 0x25609513, 0, READ, 2, 512, len(data)))
        trickle()
        check_equal(read_all(16 + len(data))[16:] == data, True, "data are the same")


def test_a_client_that_reads_late_gets_all_of_it():
    data = pattern(4, 8 * MIB)
    with tls_server() as server:
        client = SecureClient(server)
        client.go()
        client.write(0, data)
        cookies = [client.request(READ, i * MIB, MIB) for i in range(8)]
        before = cpu_ticks(server)
        time.sleep(0.5)
        if cpu_ticks(server) - before > 25:
            raise Failure("a client that does not read costs CPU")
        got = dict(client.reply() for _ in cookies)
        for i, cookie in enumerate(cookies):
            check_equal(got[cookie].data == data[i * MIB:(i + 1) * MIB], True, "data are the same")


def test_another_handshake_is_refused():
    """TLS 1.2 allows one at any time: a client could have us do nothing else."""
    with tls_server("-v") as server:
        client = Client(server, None)
        client.greet()
        client.option(OPT_STARTTLS)
        context = client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        wrapped = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                wrapped.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.link.sendall(outgoing.read())
                incoming.write(client.link.recv(65536))
        client.link.sendall(outgoing.read())
        # a ClientHello in the clear, in a session that is not
        client.link.sendall(b"\x16\x03\x03\x00\x04\x01\x00\x00\x00")
        while client.link.recv(65536):
            pass
        serves(server)


# ---- those who leave ----

def client_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    wrapped = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        wrapped.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def test_a_client_that_leaves_amid_the_handshake_costs_nothing():
    hello = client_hello()
    with tls_server() as server:
        kept = []
        for data in (b"", hello[:1], hello[:5], hello[:-1], hello):
            for leave in ("close", "shutdown", "reset", "stay"):
                client = Client(server, None)
                client.greet()
                check_equal(client.option(OPT_STARTTLS), [(REP_ACK, b"")], "answer")
                client.send(data)
                if leave == "close":
                    client.close()
                elif leave == "shutdown":
                    client.link.shutdown(socket.SHUT_WR)
                elif leave == "reset":
                    client.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                kept.append(client)
        serves(server)
        before = cpu_ticks(server)
        time.sleep(1)
        if cpu_ticks(server) - before > 20:
            raise Failure(f"{cpu_ticks(server) - before} ticks for clients that do nothing")
        serves(server)


class Handshake:
    """OpenSSL's part of one, with the bytes in our hands: at most `limit` of them reach the server."""

    def __init__(self, server, limit=1 << 30):
        self.client = Client(server, None)
        self.client.greet()
        check_equal(self.client.option(OPT_STARTTLS), [(REP_ACK, b"")], "answer")
        self.come, self.go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context().wrap_bio(self.come, self.go, server_hostname="localhost")
        self.left, self.sent = limit, 0

    def turn(self):
        """Whether it goes on."""
        try:
            self.tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        data = self.go.read()[:self.left]
        self.left -= len(data)
        self.sent += len(data)
        self.client.send(data)
        if done or self.left == 0:
            return False
        self.come.write(self.client.link.recv(65536))
        return True


def test_a_handshake_that_is_cut_at_any_byte_costs_nothing():
    with tls_server() as server:
        whole = Handshake(server)
        while whole.turn():
            pass
        worker = server.server_pid()
        descriptors = len(os.listdir(f"/proc/{worker}/fd"))
        for limit in range(1, whole.sent):
            cut = Handshake(server, limit)
            while cut.turn():
                pass
            if limit % 2:
                cut.client.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            cut.client.close()
        serves(server)
        deadline = time.monotonic() + 60
        check_equal(server.server_pid(), worker, "the process that serves")
        while len(os.listdir(f"/proc/{worker}/fd")) > descriptors:
            if time.monotonic() > deadline:
                raise Failure("descriptors of clients that have left stay open")
            time.sleep(0.01)
        before = cpu_ticks(server)
        time.sleep(1)
        if cpu_ticks(server) - before > 20:
            raise Failure(f"{cpu_ticks(server) - before} ticks for clients that are gone")


def test_credentials_may_change_while_handshakes_are_under_way():
    with tls_server() as server:
        for name in ("renewed", "broken", "server"):
            under_way = [Handshake(server) for _ in range(24)]
            for i, handshake in enumerate(under_way):
                if i % 2:
                    handshake.turn()
            if name == "broken":
                (tmpdir() / "credentials" / "server-key.pem").write_text("no key\n")
            else:
                replace(name)
            reload(server, name == "broken")
            if name != "broken":
                await_certificate(server, name)
            for handshake in under_way:
                while handshake.turn():
                    pass
                check_equal(handshake.tls.version() in ("TLSv1.2", "TLSv1.3"), True, "the handshake ends well")
                handshake.client.close()
            serves(server)


def test_garbage_ends_the_handshake():
    with tls_server("-v") as server:
        for data in (b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(65535),
                     b"\x15\x03\x01\x00\x02\x02\x28", b"\x17\x03\x03\x00\x01\x00"):
            client = Client(server, None)
            client.greet()
            client.option(OPT_STARTTLS)
            client.send(data)
            try:
                while client.link.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        serves(server)


def test_a_client_whose_stream_is_broken_is_let_go():
    with tls_server("-v") as server:
        client = SecureClient(server)
        client.go()
        socket.socket(fileno=os.dup(client.link.fileno())).sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        try:
            while client.link.recv(4096):
                pass
        except (ssl.SSLError, ConnectionResetError):
            pass
        serves(server)


def test_requests_of_a_client_that_is_gone_are_carried_out():
    with tls_server() as server:
        client = SecureClient(server)
        client.go()
        client.write(0, b"\x5a" * 65536)
        client.close()
        after = SecureClient(server)
        after.go()
        check_equal(after.read(0, 65536), b"\x5a" * 65536, "data")


# ---- credentials ----

def reload(server, lines=0):
    """SIGHUP, until the server's process has taken it. Needs -v to be seen; else one look a while."""
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 30
    while lines and time.monotonic() < deadline:
        if "renewed" in server.stderr() or "old ones stay" in server.stderr():
            return
        time.sleep(0.02)
        if "-v" not in server.argv:
            time.sleep(0.5)
            return


def await_certificate(server, name):
    deadline = time.monotonic() + 30
    while served_certificate(server) != certificate_of(name):
        if time.monotonic() > deadline:
            raise Failure("the old certificate is still served")
        time.sleep(0.02)


def test_sighup_renews_credentials_and_sessions_go_on():
    for args in ((), ("--no-keeper",)):
        shutil.rmtree(tmpdir() / "credentials", ignore_errors=True)
        with tls_server(*args, size=DISK) as server:
            client = SecureClient(server)
            client.go()
            check_equal(served_certificate(server) == certificate_of("server"), True, "certificate is the first")
            replace("renewed")
            reload(server)
            await_certificate(server, "renewed")
            client.write(0, b"x" * 4096)
            check_equal(client.read(0, 4096), b"x" * 4096, "data over the old session")
        os.unlink(tmpdir() / f"disk.{FORMAT}")


def test_credentials_that_are_wrong_are_not_taken():
    for args in ((), ("--no-keeper",)):
        shutil.rmtree(tmpdir() / "credentials", ignore_errors=True)
        with tls_server("-v", *args, size=DISK) as server:
            shutil.copy(pki() / "renewed" / "server-key.pem", tmpdir() / "credentials")
            reload(server, 1)
            check_in("the old ones stay", server.stderr(), "log")
            check_equal(served_certificate(server) == certificate_of("server"), True, "certificate is the first")
            os.unlink(tmpdir() / "credentials" / "server-key.pem")
            reload(server, 1)
            replace("renewed")
            reload(server)
            await_certificate(server, "renewed")
        os.unlink(tmpdir() / f"disk.{FORMAT}")


def test_the_next_worker_has_the_credentials_that_the_last_one_took():
    with tls_server() as server:
        replace("renewed")
        reload(server)
        await_certificate(server, "renewed")
        shutil.rmtree(tmpdir() / "credentials")
        client = SecureClient(server)
        client.go()
        client.write(65536, b"y" * 4096)
        os.kill(server.server_pid(), signal.SIGKILL)
        client.check_closed()
        again = SecureClient(server)
        again.go()
        check_equal(again.read(65536, 4096), b"y" * 4096, "data")
        check_equal(served_certificate(server) == certificate_of("renewed"), True, "certificate is the second")
        reload(server, 1)  # there is nothing to be read
        check_equal(served_certificate(server) == certificate_of("renewed"), True, "certificate is the second")


def test_a_worker_has_neither_the_files_nor_a_descriptor_of_them():
    with tls_server() as server:
        serves(server, "nameless")
        for pid in (server.process.pid, server.server_pid()):
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            found = [link for link in links if "credentials" in link or "pem" in link]
            check_equal(found, [], "descriptors of credentials")


def test_an_expired_certificate_is_told_and_served():
    with tls_server(name="expired") as server:
        fails_to_connect(server, "client")
        deadline = time.monotonic() + 30
        while "has expired" not in server.stderr() and time.monotonic() < deadline:
            time.sleep(0.02)  # a thread of its own writes it
        check_in("has expired", server.stderr(), "log")
        replace("server")
        reload(server)
        await_certificate(server, "server")
        serves(server)


def test_a_start_with_bad_credentials_says_what_is_wrong():
    make_disk(MIB)
    base = pki()
    shutil.copytree(base / "server", "half")
    os.unlink("half/server-key.pem")
    shutil.copytree(base / "server", "mixed")
    shutil.copy(base / "renewed" / "server-key.pem", "mixed")
    for name, text in (("text", "nothing\n"), ("short", "alice:0011\n"), ("none", "\n")):
        os.mkdir(name)
        pathlib.Path(name, "keys.psk").write_text(text)
    os.mkdir("fifo")
    os.mkfifo("fifo/keys.psk")
    os.mkdir("empty")
    shutil.copytree(base / "server", "no-ca")
    os.unlink("no-ca/ca-cert.pem")
    shutil.copytree(base / "server", "odd-ca")
    pathlib.Path("odd-ca/ca-cert.pem").write_text("no certificate\n")
    for keeper in ("--keeper", "--no-keeper"):
        for args, message in ((("absent",), "'absent': No such file"), (("empty",), "server-cert.pem': there is no such file"),
                              (("half",), "server-key.pem': there is no such file"), (("mixed",), "server-cert.pem'"),
                              (("text",), "line 1 is not USER:KEY"), (("short",), "line 1 is not USER:KEY"),
                              (("none",), "there is no key in it"), (("fifo",), "it is no regular file"),
                              (("no-ca", "--tls-verify-peer"), "ca-cert.pem': there is no such file"),
                              (("odd-ca", "--tls-verify-peer"), "ca-cert.pem'")):
            expect_failure(oxbow_path(), "serve", keeper, "-f", FORMAT, "--nbd", "unix:x.sock", "--tls-creds",
                           *args, f"disk.{FORMAT}", message=message, timeout=60)
            check_equal(os.path.exists("x.sock"), False, "a socket is left")
    for args, message in ((("--tls-verify-peer",), "needs --tls-creds"),
                          (("--tls-creds", "half", "--insecure"), "exclude each other")):
        expect_failure(oxbow_path(), "serve", "--nbd", "x.sock", *args, "disk", message=message)


# ---- where it is required ----

def test_other_hosts_are_served_by_tls_or_not_at_all():
    make_disk(DISK)
    for keeper in ("--keeper", "--no-keeper"):
        for address in ("*:0", "0.0.0.0:0"):
            expect_failure(oxbow_path(), "serve", keeper, "-f", FORMAT, "--nbd", address, f"disk.{FORMAT}",
                           message=f"Other hosts can reach '{address}'", timeout=60)
        with Server(keeper, "-f", FORMAT, "--nbd", "*:0", "--insecure", f"disk.{FORMAT}") as server:
            check_equal(server.uri.startswith("nbd://0.0.0.0:"), True, "the URI is plain")
        with Server(keeper, "-f", FORMAT, "--nbd", "*:0", "--tls-creds", pki() / "server", f"disk.{FORMAT}") as server:
            check_equal(server.uri.startswith("nbds://0.0.0.0:"), True, "the URI is of TLS")


def test_a_configuration_has_tls_for_each_disk():
    for name in ("one", "two", "three"):
        qemu_img("create", "-q", "-f", "qcow2", name, str(DISK))
    shutil.copytree(pki() / "server", "credentials")
    pathlib.Path("disks.conf").write_text(
        "[server]\npid-file = pid\n[defaults]\ntls-creds = credentials\nworker = shared\n"
        "[disk one]\nimage = one\nnbd = ./one.sock\ntls-verify-peer = yes\n"
        "[disk two]\nimage = two\nnbd = ./two.sock\n"
        "[disk three]\nimage = three\nnbd = ./three.sock\nworker = own\n")
    process = subprocess.Popen([oxbow_path(), "serve", "-q", "--config", "disks.conf"])

    def end():
        process.terminate()
        check_equal(process.wait(60), 0, "exit code")

    def uri(name, certificates):
        return f"nbds+unix://localhost/?socket={name}.sock&tls-certificates={pki() / certificates}"

    on_exit(end)
    deadline = time.monotonic() + 30
    while not (os.path.exists("pid") and pathlib.Path("pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for name in ("one", "two", "three"):
        run("nbdinfo", uri(name, "client"))
        expect_failure("nbdinfo", f"nbd+unix:///?socket={name}.sock")
    expect_failure("nbdinfo", uri("one", "nameless"))
    run("nbdinfo", uri("two", "nameless"))
    replace("renewed")
    process.send_signal(signal.SIGHUP)

    class Other:
        uri = "nbd+unix:///?socket=three.sock"

    for name in ("two", "three"):
        Other.uri = f"nbd+unix:///?socket={name}.sock"
        await_certificate(Other, "renewed")


run_tests(globals())
