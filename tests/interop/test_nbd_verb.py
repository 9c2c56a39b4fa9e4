#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`oxbow serve`: its options, texts and exit codes."""
from nbdwire import *


def refused(*args, message):
    return expect_failure(oxbow_path(), "serve", *args, message=message)


def test_help_goes_to_stdout():
    for option in ("-h", "--help"):
        text = output(oxbow_path(), "serve", option)
        for word in ("--nbd", "--cache", "--export", "--allow-backing", "qcow2"):
            check_in(word, text)


def test_a_bad_command_line_says_what_is_wrong():
    disk = make_disk(MIB)
    place = ("--nbd", "s.sock")
    refused(*place, message="No image is given")
    refused(*place, disk, disk, message="Only one image")
    refused(disk, message="--nbd")
    refused(*place, "--cache", "fast", disk, message="--cache 'fast'")
    refused(*place, "--discard", "maybe", disk, message="--discard 'maybe'")
    refused(*place, "--l2-cache-size", "1x", disk, message="--l2-cache-size '1x'")
    refused(*place, "--refcount-cache-size", "-1", disk, message="--refcount-cache-size '-1'")
    refused(*place, "--shared", "0", disk, message="--shared '0'")
    refused(*place, "--drain", "0", disk, message="--drain '0'")
    refused(*place, "--memory", "lots", disk, message="--memory 'lots'")
    refused(*place, "--memory", "50M", disk, message="64 clients (--shared) need at least 53248 KiB")
    refused(*place, "--memory", "50M", "--shared", "60", disk, message="60 clients")
    refused(*place, "-U", disk, message="-U needs -r")
    refused(*place, "--no-such-option", disk, message="--help")
    refused(*place, "--export", "x" * 4097, disk, message="4096")
    check_equal(os.path.exists("s.sock"), False, "socket exists")


def test_a_missing_image_is_named():
    refused("--nbd", "s.sock", "-f", "raw", "no-such-file", message="no-such-file")
    check_equal(os.path.exists("s.sock"), False, "socket exists")


def test_a_format_is_never_guessed():
    path = tmpdir() / "disk.raw"
    path.write_bytes(bytes(MIB))
    refused("--nbd", "s.sock", path, message="disk.raw")
    with Server("-f", "raw", path) as server:
        check_equal(Client(server).size, MIB, "size")
    disk = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", disk, "3M")
    with Server(disk) as server:
        check_equal(Client(server).size, 3 * MIB, "size")
    with Server("-f", "raw", disk) as server:
        check_equal(Client(server).read(0, 4), b"QFI\xfb", "data")


def test_a_backing_file_is_opened_only_when_allowed():
    os.mkdir("inside")
    base = tmpdir() / "inside" / "base.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", base, "1M")
    qemu_io("-c", "write -P 0x77 0 64k", base)
    disk = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)
    os.mkdir("elsewhere")
    refused("--nbd", "s.sock", disk, message="backing")
    refused("--nbd", "s.sock", "--allow-backing=elsewhere", disk, message="backing")
    for option in ("--allow-backing", "--allow-backing=inside"):
        with Server(option, disk) as server:
            check_equal(Client(server).read(0, 65536), b"\x77" * 65536, "data")


def test_a_backing_format_that_the_image_does_not_state_can_be_stated():
    base = tmpdir() / "base.raw"
    base.write_bytes(b"\x66" * MIB)
    disk = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk, "1M")
    header = disk.read_bytes()
    stated = header.index(b"\xe2\x79\x2a\xca")  # the extension that states it
    disk.write_bytes(header[:stated] + bytes(4) + header[stated + 4:])
    refused("--nbd", "s.sock", "--allow-backing", disk, message="format")
    refused("--nbd", "s.sock", "--allow-backing", "--backing-format", "nonsense", disk,
            message="nonsense")
    with Server("--allow-backing", "--backing-format", "raw", disk) as server:
        check_equal(Client(server).read(0, 4096), b"\x66" * 4096, "data")


def test_every_cache_mode_serves():
    for mode in ("writeback", "writethrough", "none", "directsync", "unsafe"):
        with serve(MIB, "-t", mode) as server:
            client = Client(server)
            client.write(1, b"odd")
            client.ok(FLUSH)
            check_equal(client.read(0, 5), b"\0odd\0", "data")
        os.unlink(f"disk.{FORMAT}")


def test_discard_can_be_ignored():
    with serve(4 * MIB, "--discard=ignore", "--cache=writeback") as server:
        client = Client(server)
        client.write(0, b"\x88" * MIB)
        client.ok(TRIM, 0, MIB)
        check_equal(client.read(0, MIB) == b"\x88" * MIB, True, "data kept")


def test_cache_sizes_are_taken_with_suffixes():
    with serve(MIB, "--l2-cache-size", "1M", "--refcount-cache-size=256k") as server:
        Client(server).write(0, b"x")


def test_the_uri_leads_to_the_export():
    with serve(MIB, "--export", "sp ace/ümlaut") as server:
        check_in("sp%20ace%2F%C3%BCmlaut", server.uri)
        check_equal(Client(server, export="sp ace/ümlaut").size, MIB, "size")
        run("nbdinfo", server.uri)


def test_a_relative_socket_path_is_told_in_full():
    with serve(MIB, "--nbd", "my socket") as server:
        check_in(f"?socket={tmpdir()}/my%20socket", server.uri)
        run("nbdinfo", server.uri)


def test_addresses_that_make_no_sense_are_refused():
    disk = make_disk(MIB)
    for address, message in (("no.such.host.invalid:1", "no.such.host.invalid"),
                             ("127.0.0.1:notaport", "notaport"), ("[::1:10809", "ADDRESS"),
                             ("::1:10809", "ADDRESS"), ("192.0.2.1:0", "192.0.2.1"),
                             ("127.0.0.1:65536", "65535"), ("10809", ":10809"),
                             ("localhost", "./localhost"), ("x" * 200, "bytes"), ("no/such/dir/s.sock", "no/such/dir")):
        refused("-f", FORMAT, "--nbd", address, disk, message=message)


def test_localhost_is_known_without_a_resolver():
    for address, shown in ((":0", "127.0.0.1"), ("localhost:0", "localhost")):
        with serve(MIB, "--nbd", address) as server:
            check_in(f"nbd://{shown}:", server.uri)
            server.uri = server.uri.replace("localhost", "127.0.0.1")
            Client(server).read(0, 1)
        os.unlink(f"disk.{FORMAT}")


def test_a_port_that_is_taken_is_refused():
    with serve(MIB, "--nbd", "127.0.0.1:0") as server:
        port = server.uri.split(":")[2].strip("/")
        refused("-f", FORMAT, "--nbd", f"127.0.0.1:{port}", make_disk(MIB, "other"), message=port)


def test_the_pid_file_lives_as_long_as_the_server():
    with serve(MIB, "--pid-file", "pid") as server:
        check_equal(open("pid").read(), f"{server.process.pid}\n", "pid file")
        server.terminate()
        check_equal(os.path.exists("pid"), False, "pid file exists")


def test_who_waits_for_the_pid_file_can_connect():
    argv = [oxbow_path(), "serve", "-f", FORMAT, "--nbd", "s.sock", "--pid-file", "pid", make_disk(MIB)]
    for _ in range(5):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        try:
            while not os.path.exists("pid") and process.poll() is None:
                pass
            check_equal(open("pid").read(), f"{process.pid}\n", "pid file")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("s.sock")
        finally:
            process.terminate()
            check_equal(process.wait(20), 0, "status")


def test_a_pid_file_that_cannot_be_written_is_found_out_first():
    disk = make_disk(MIB)
    for path in ("no/such/dir/pid", "."):
        refused("-f", FORMAT, "--nbd", "s.sock", "--pid-file", path, disk, message=f"'{path}'")
        check_equal(os.path.exists("s.sock"), False, "socket exists")
    refused("-f", FORMAT, "--nbd", "s.sock", "--pid-file", "pid", "missing", message="missing")
    check_equal(os.path.exists("pid"), False, "pid file exists")


def test_a_server_that_does_not_start_leaves_the_pid_file_of_another_alone():
    with serve(MIB, "--pid-file", "pid") as server:
        refused("-f", FORMAT, "--nbd", server.socket, "--pid-file", "pid", make_disk(MIB, "other"),
                message="Another server")
        check_equal(open("pid").read(), f"{server.process.pid}\n", "pid file")


def test_an_inherited_descriptor_is_served():
    path = make_disk(MIB)
    fd = os.open(path, os.O_RDWR)
    on_exit(lambda: os.close(fd))
    process = subprocess.Popen([oxbow_path(), "serve", "-f", FORMAT, "--nbd", "s.sock", "--fd",
                                str(fd), "a name"], pass_fds=(fd,), stdout=subprocess.PIPE, text=True)
    on_exit(process.wait)
    on_exit(process.terminate)
    uri = process.stdout.readline().strip()
    process.stdout.close()
    run("nbdinfo", uri)


def test_verbose_tells_of_clients_and_quiet_says_nothing():
    with serve(MIB, "-v") as server:
        Client(server).close()
        Client(server).send(b"this is no request of the protocol")
        while "client 2" not in server.stderr() or "broke" not in server.stderr():
            time.sleep(0.01)
        Client(server).ok(FLUSH)
        server.terminate()
        me = f"(pid {os.getpid()}, uid {os.getuid()})"
        for line in (f"client 1 {me} is connected", f"client 1 {me} is gone: it hung up",
                     f"client 2 {me} is gone: it broke the protocol",
                     f"client 3 {me} is gone: the server ends"):
            check_in(line, server.stderr())
    with serve(MIB, "-v", "--nbd", "127.0.0.1:0") as server:
        client = Client(server)
        name = "127.0.0.1:%d" % client.link.getsockname()[1]
        client.request(DISC)
        client.check_closed()
        while "gone" not in server.stderr():
            time.sleep(0.01)
        check_in(f"client 1 ({name}) is connected", server.stderr())
        check_in(f"client 1 ({name}) is gone: it said goodbye", server.stderr())
    process = subprocess.Popen([oxbow_path(), "serve", "-q", "-f", FORMAT, "--nbd", "q.sock",
                                make_disk(MIB, "quiet")], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    while not os.path.exists("q.sock"):
        time.sleep(0.01)
    process.terminate()
    check_equal((process.communicate()[0], process.returncode), ("", 0), "output and exit code")


run_tests(globals())
