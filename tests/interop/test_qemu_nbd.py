#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Called as qemu-nbd, oxbow listens, lives, locks and ends as that does (docs/old-names.md)."""
import socket

from kept import eventually
from nbdwire import *
from oldnames import *
from service_manager import HAND_OVER
from harness import serving_pid


class At:
    """A server that was started by its old name, as nbdwire knows one."""

    def __init__(self, uri):
        self.uri = uri


def unix():
    return At(f"nbd+unix:///?socket={tmpdir()}/s")


def disk(size="16M", name="disk.qcow2"):
    path = tmpdir() / name
    qemu_img("create", "-q", "-f", "qcow2", path, size)
    return path


def start(*args, **kwargs):
    """Listens on a unix socket and has returned; the server's process id."""
    pid_file = tmpdir() / "pid"
    nbd("--fork", "--pid-file", pid_file, "-k", tmpdir() / "s", *args, **kwargs)
    pid = int(pid_file.read_text())
    on_exit(lambda: end(pid))
    return pid


def end(pid):
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def is_gone(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state == "Z"
    except FileNotFoundError:
        return True


def await_end(pid):
    eventually("the server's end", lambda: is_gone(pid))


def leaves_nothing():
    check_equal(sorted(path.name for path in tmpdir().iterdir() if path.name in ("s", "pid")), [],
                "what is left of the server")


# ---- life ----


def test_the_parent_of_a_fork_returns_when_clients_can_connect():
    pid = start("-f", "qcow2", disk())
    check_equal(pathlib.Path(f"/proc/{pid}/comm").read_text().strip(), "qemu-nbd", "who serves")
    check_equal(children_of(pid), [], "its children")
    wire = Client(unix())
    wire.close()


def test_it_ends_with_the_last_client_that_chose_the_export():
    pid = start("-e", "2", "-f", "qcow2", disk())
    first, second = Client(unix()), Client(unix())
    first.close()
    second.write(0, b"x" * 512)
    second.close()
    await_end(pid)
    leaves_nothing()
    qemu_img("check", "disk.qcow2")
    qemu_io("-f", "qcow2", "-c", "read -P 120 0 512", "disk.qcow2")


def test_a_bare_connection_does_not_end_it():
    pid = start("-f", "qcow2", disk())
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(tmpdir() / "s"))
    link.recv(18)
    link.close()
    Client(unix()).read(0, 512)
    check_equal(is_gone(pid), False, "it has ended")


def test_nbdinfo_ends_it():
    pid = start("-f", "qcow2", disk())
    run("nbdinfo", unix().uri)
    await_end(pid)


def test_with_t_it_persists_under_a_keeper():
    pid = start("-t", "-f", "qcow2", disk())
    for _ in range(3):
        run("nbdinfo", unix().uri)
    check_equal(len(children_of(pid)) > 0, True, "it has a child that serves")
    for child in children_of(pid):
        check_equal(pathlib.Path(f"/proc/{child}/cmdline").read_text().split("\0")[0], "qemu-nbd",
                    "the child's name")
    os.kill(serving_pid(pid), signal.SIGKILL)
    run("nbdinfo", unix().uri)
    end(pid)
    await_end(pid)
    leaves_nothing()


def test_a_second_client_waits_for_its_turn():
    start("-f", "qcow2", disk())
    first = Client(unix())
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(tmpdir() / "s"))
    link.settimeout(0.5)
    try:
        link.recv(1)
        raise Failure("a second client was greeted")
    except TimeoutError:
        pass
    first.read(0, 512)


# ---- failures, told by the parent ----


def test_the_parent_of_a_fork_tells_failures():
    disk()
    for words, said in ((["nosuch"], "qemu-nbd: Failed to blk_new_open 'nosuch'"),
                        (["-f", "bogus", "disk.qcow2"], "Unknown driver 'bogus'"),
                        (["--pid-file", "/nonexistent/pid", "disk.qcow2"], "/nonexistent/pid"),
                        (["-o", "99999999999", "disk.qcow2"], "past the end")):
        result = expect_failure(called("qemu-nbd"), "--fork", "-k", tmpdir() / "s", *words, message=said)
        check_equal(result.stderr.startswith("qemu-nbd: "), True, "how the message begins")
        leaves_nothing()


def test_an_image_that_is_in_use_is_refused():
    first = start("-f", "qcow2", disk())
    said = expect_failure(called("qemu-nbd"), "--fork", "-f", "qcow2", "-k", tmpdir() / "t", "disk.qcow2")
    check_in('Failed to get "write" lock', said.stderr, "the message")
    check_equal(is_gone(first), False, "the first server has ended")


def test_a_stale_socket_is_replaced_and_one_in_use_is_not():
    disk()
    disk(name="other.qcow2")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmpdir() / "s"))
    stale.close()
    start("-f", "qcow2", "disk.qcow2")
    expect_failure(called("qemu-nbd"), "--fork", "-f", "qcow2", "-k", tmpdir() / "s", "other.qcow2",
                   message="Another server listens")
    Client(unix()).read(0, 512)


def test_a_pid_file_of_before_is_overwritten():
    (tmpdir() / "pid").write_text("1234567890123\n")
    pid = start("-f", "qcow2", disk())
    check_equal(is_gone(pid), False, "the process that the file names")


def test_what_is_not_there_is_refused_by_name():
    disk()
    for words in (["-c", "/dev/nbd0", "disk.qcow2"], ["-d", "/dev/nbd0"], ["-B", "b0", "disk.qcow2"],
                  ["--selinux-label=x", "disk.qcow2"]):
        said = expect_failure(called("qemu-nbd"), *words).stderr
        check_in(f"qemu-nbd: {words[0].split('=')[0]}", said, "the message")
        check_in("is not supported", said, "the message")


def test_wrong_command_lines_are_answered_alike():
    disk()
    for line in ("", "disk.qcow2 b", "-e x disk.qcow2", "-o 2M disk.qcow2", "--cache=x disk.qcow2",
                 "-n --cache=none disk.qcow2", "--aio=x disk.qcow2", "--discard=x disk.qcow2",
                 "--detect-zeroes=x disk.qcow2", "--detect-zeroes=unmap disk.qcow2",
                 "-k rel disk.qcow2", "--image-opts -f qcow2 driver=qcow2", "-f bogus disk.qcow2"):
        check_alike("qemu-nbd", *line.split())


# ---- where it listens ----


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def warnings_of(*words):
    """Of a server that ends with the client that looks at it."""
    port = str(free_port())
    disk()
    pid_file = tmpdir() / "pid"
    result = nbd("--fork", "--pid-file", pid_file, "-f", "qcow2", "-p", port, *words, "disk.qcow2")
    pid = int(pid_file.read_text())
    run("nbdinfo", "--size", f"nbd://127.0.0.1:{port}")
    await_end(pid)
    return result.stderr


def test_one_line_warns_where_the_net_can_reach_the_disk():
    said = warnings_of()
    check_equal(said.count("\n"), 1, f"lines of {said!r}")
    check_in("qemu-nbd: warning: ", said, "the warning")
    check_equal(warnings_of("-b", "127.0.0.1"), "", "what is said of the loopback")


def activate(*words):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmpdir() / "s"))
    listener.listen()
    env = dict(os.environ, LISTEN_FDS="1")
    process = subprocess.run(
        [sys.executable, "-c", HAND_OVER, "1", str(listener.fileno()), str(called("qemu-nbd")), *words],
        env=env, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    return listener, process


def test_a_socket_that_is_handed_over_is_served():
    disk()
    listener, process = activate("--fork", "--pid-file", str(tmpdir() / "pid"), "-f", "qcow2", "disk.qcow2")
    check_equal((process.returncode, process.stderr), (0, ""), "the parent's end")
    listener.close()
    run("nbdinfo", unix().uri)
    check_equal((tmpdir() / "s").exists(), True, "the socket that another made stays")


def test_a_handed_socket_goes_with_no_address():
    disk()
    _, process = activate("-k", str(tmpdir() / "t"), "disk.qcow2")
    check_equal((process.returncode, process.stderr),
                (1, "qemu-nbd: Unix socket can't be set when using socket activation\n"), "its end")


def test_tls_is_asked_for_by_an_object():
    keys = tmpdir() / "creds"
    keys.mkdir()
    (keys / "keys.psk").write_text("alice:" + "11" * 32 + "\n")
    disk()
    psk = f"tls-creds-psk,id=tls0,endpoint=server,dir={keys}"
    start("--object", psk, "--tls-creds", "tls0", "-f", "qcow2", "disk.qcow2")
    client = Client(unix(), style=None)
    client.greet()
    kind, _ = client.option(OPT_LIST)[-1]
    check_equal(kind, ERR + 5, "the answer to what is asked in the clear")
    client.close()
    run("nbdinfo", f"nbds+unix://alice@/?socket={tmpdir()}/s&tls-psk-file={keys}/keys.psk")
    start_again = ("--object", psk, "--tls-creds", "tls0", "-t", "-f", "qcow2", "disk.qcow2")
    eventually("the server's end", lambda: not (tmpdir() / "s").exists())
    start(*start_again)
    image = f"driver=nbd,path={tmpdir()}/s,tls-creds=c"
    client = f"tls-creds-psk,id=c,endpoint=client,username=alice,dir={keys}"
    check_in("16 MiB", img("info", "--object", client, "--image-opts", image).stdout, "info over TLS")
    expect_failure(called("qemu-img"), "info", "--image-opts", image,
                   message="No TLS credentials with id 'c'")
    disk(name="other.qcow2")
    for words, said in ((["--tls-creds", "x"], "Failed to get TLS creds: No TLS credentials with id 'x'"),
                        (["--object", "secret,id=x,data=y", "--tls-creds", "x"],
                         "Object with id 'x' is not TLS credentials"),
                        (["--object", psk.replace("server", "client"), "--tls-creds", "tls0"],
                         "Expecting TLS credentials with a server endpoint")):
        expect_failure(called("qemu-nbd"), *words, "-f", "qcow2", "-k", tmpdir() / "t", "other.qcow2",
                       message=f"qemu-nbd: {said}")


# ---- what is served ----


def test_the_format_is_found_where_it_is_not_stated():
    start("-r", disk())
    wire = Client(unix())
    check_equal(wire.size, 16 * MIB, "size of the export")
    wire.close()


def test_an_export_begins_at_the_offset():
    path = tmpdir() / "disk.raw"
    path.write_bytes(b"a" * 4096 + b"b" * 4096 + bytes(65536) + b"c" * 65536)
    start("-f", "raw", "-o", "4096", path)
    wire = Client(unix(), "structured", meta=True)
    check_equal(wire.size, 4096 + 2 * 65536, "size of the export")
    check_equal(wire.read(0, 4096) == b"b" * 4096, True, "the first block")
    check_equal(wire.read(0, 4096 + 2 * 65536) == b"b" * 4096 + bytes(65536) + b"c" * 65536, True, "all of it")
    wire.write(512, b"d" * 512)
    wire.fails(EINVAL, READ, 4096 + 2 * 65536, 1)
    wire.close()
    eventually("the server's end", lambda: not (tmpdir() / "s").exists())
    check_equal(path.read_bytes()[4096:5632] == b"b" * 512 + b"d" * 512 + b"b" * 512, True, "the file")


def test_trims_are_ignored_unless_they_are_asked_for():
    for words, left in (([], True), (["--discard=unmap"], False)):
        path = disk()
        qemu_io("-f", "qcow2", "-c", "write -P 7 0 1M", path)
        pid = start("-f", "qcow2", *words, path)
        wire = Client(unix())
        wire.ok(TRIM, 0, MIB)
        wire.close()
        await_end(pid)
        data = [extent["data"] for extent in json.loads(qemu_img("map", "--output=json", path).stdout)]
        check_equal(any(data), left, f"data is left with {words}")


def mapped(path):
    return json.loads(qemu_img("map", "--output=json", path).stdout)[0]


def test_zeroes_that_are_detected_read_as_zeroes_over_a_backing_file():
    base = disk(name="base.qcow2")
    qemu_io("-f", "qcow2", "-c", "write -P 7 0 1M", base)
    for mode, discard in (("off", "ignore"), ("on", "ignore"), ("unmap", "unmap")):
        path = tmpdir() / f"{mode}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
        pid = start("-f", "qcow2", f"--detect-zeroes={mode}", f"--discard={discard}", path)
        wire = Client(unix())
        wire.write(0, bytes(65536))
        wire.write(65536, bytes(65535) + b"x")
        wire.close()
        await_end(pid)
        qemu_io("-f", "qcow2", "-c", "read -P 0 0 128k", path, check=False)
        said = qemu_io("-f", "qcow2", "-r", "-c", "read -P 0 0 64k", "-c", "read -P 7 128k 64k", path).stdout
        check_equal("failed" in said, False, f"what {mode} left reads right")
        check_equal(mapped(path)["data"], mode == "off", f"whether {mode} stored the zeroes")


# ---- what clients are told ----


def test_the_depth_of_allocation_is_told_as_qemus_server_tells_it():
    base, over = disk("4M", "base.qcow2"), tmpdir() / "over.qcow2"
    qemu_io("-f", "qcow2", "-c", "write 0 2M", base)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over)
    qemu_io("-f", "qcow2", "-c", "write 1M 2M", "-c", "write -z 3M 256k", over)
    told = []
    for program in (called("qemu-nbd"), "qemu-nbd"):
        for words in (["-A"], []):
            listing = tmpdir() / "s"
            server = subprocess.Popen([program, "-t", "-r", "-f", "qcow2", *words, "-k", listing, over])
            on_exit(server.kill)
            eventually("the socket", listing.exists)
            uri = unix().uri
            told.append([run("nbdinfo", f"--map={context}", uri, check=False).stdout
                         for context in ("qemu:allocation-depth", "base:allocation")])
            server.terminate()
            server.wait()
            listing.unlink(missing_ok=True)
    check_equal(told[0], told[2], "maps with -A")
    check_equal(told[1], told[3], "maps without")
    check_in("local", told[0][0], "the map of depths")
    check_in("backing depth 2", told[0][0], "the map of depths")
    check_equal(told[1][0], "", "a map of depths that nobody has asked for")


def test_a_client_that_is_alone_is_told_that_more_connections_are_of_no_use():
    for words, expected in (([], False), (["-e", "2"], True), (["-e", "0"], True)):
        pid = start("-f", "qcow2", *words, disk())
        info = json.loads(run("nbdinfo", "--json", unix().uri).stdout)
        check_equal(info["exports"][0]["can_multi_conn"], expected, f"what is told with {words}")
        await_end(pid)


def test_an_internal_snapshot_is_served_read_only_also_after_a_death():
    path = disk("4M")
    qemu_io("-f", "qcow2", "-c", "write -P 1 0 4M", path)
    qemu_img("snapshot", "-c", "first", path)
    qemu_io("-f", "qcow2", "-c", "write -P 2 0 4M", path)
    for name in ("first", "1", "snapshot.id=1,snapshot.name=first"):
        pid = start("-t", "-f", "qcow2", "-l", name, path)
        for _ in range(2):
            wire = Client(unix())
            check_equal(wire.read(MIB, 512) == b"\1" * 512, True, f"what {name} has")
            wire.fails(EPERM, WRITE, 0, 512, data=bytes(512))
            wire.close()
            os.kill(serving_pid(pid), signal.SIGKILL)
        end(pid)
        await_end(pid)
    said = expect_failure(called("qemu-nbd"), "-f", "qcow2", "-k", tmpdir() / "s", "-l", "second", path)
    check_in("Failed to load snapshot: Can't find snapshot", said.stderr, "the message")
    said = expect_failure(called("qemu-nbd"), "-f", "qcow2", "-k", tmpdir() / "s", "-l", "snapshot.x=1", path)
    check_in("Failed in parsing snapshot param 'snapshot.x=1'", said.stderr, "the message")


def test_a_disk_that_holds_nothing_is_served():
    for words, size in ((["null-co://"], 1 << 30), (["-f", "raw", "null-co://?size=1048576"], MIB),
                        (["-t", "json:{'driver': 'null-co', 'size': 4096}"], 4096)):
        pid = start(*words)
        wire = Client(unix())
        check_equal(wire.size, size, f"size of {words}")
        wire.write(0, b"x" * 512)
        check_equal(wire.read(0, 512) == bytes(512), True, "what is read")
        wire.close()
        end(pid)
        await_end(pid)
    expect_failure(oxbow_path(), "serve", "--keeper", "-f", "raw", "--nbd", tmpdir() / "s", "null-co://",
                   message="--keeper takes a keeper, and what is no file has none")


def test_a_temporary_snapshot_takes_what_is_written():
    path = disk()
    before = path.read_bytes()
    folder = tmpdir() / "tmp"
    folder.mkdir()
    pid = start("-s", path, env=dict(os.environ, TMPDIR=str(folder)))
    check_equal(list(folder.iterdir()), [], "a name of the overlay")
    wire = Client(unix())
    wire.write(0, b"x" * 512)
    check_equal(wire.read(0, 512) == b"x" * 512, True, "what was written")
    wire.close()
    await_end(pid)
    check_equal(path.read_bytes() == before, True, "the image is as it was")


def test_a_raw_image_of_an_odd_length_grows_only_by_what_is_written():
    path = tmpdir() / "odd.raw"
    path.write_bytes(b"a" * 1000)
    for write, length in ((False, 1000), (True, 1024)):
        pid = start("-f", "raw", path)
        wire = Client(unix())
        check_equal(wire.size, 1024, "size of the export: whole sectors")
        check_equal(wire.read(512, 512) == b"a" * 488 + bytes(24), True, "the last sector")
        if write:
            wire.write(512, b"b" * 512)
        wire.close()
        await_end(pid)
        check_equal(path.stat().st_size, length, "length of the file")


run_tests(globals())
