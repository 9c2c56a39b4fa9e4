#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`oxbow vhost-user-blk`, as the conventions for back-end programs have it."""
import json

from kept import *
from vhostwire import *

PATTERN = b"\x5a" * 4096


def make_disk():
    oxbow("create", "-q", "-f", "qcow2", "disk", str(DISK_BYTES))


def program(*args, name=None, **kwargs):
    """By the verb, or by another name of the program."""
    argv = [name] if name else [oxbow_path(), "vhost-user-blk"]
    process = subprocess.Popen([*argv, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, **kwargs)
    on_exit(lambda: process.poll() is None and process.kill())
    return process


def ended(process):
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def use(front, kind=OUT):
    """A guest's request, answered."""
    memory = Memory()
    ring = Ring(memory)
    front.as_qemu(memory, [ring])
    answer = ring.do(kind, 8, PATTERN)
    ring.do(FLUSH)
    return answer["status"]


def disk_has_pattern():
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x5a 4k 4k", "disk")
    check_clean("disk")


def test_what_it_can_do_is_printed_whatever_else_is_said():
    for args in ((), ("--fd=99", "--bogus", "disk"), ("--socket-path",)):
        text = output(oxbow_path(), "vhost-user-blk", *args, "--print-capabilities")
        check_equal(json.loads(text), {"type": "block", "features": ["read-only", "blk-file"]}, "capabilities")


def test_a_path_is_listened_on_until_sigterm():
    make_disk()
    os.symlink(oxbow_path(), "vhost-user-blk")
    for name in (None, "./vhost-user-blk"):
        process = program("--socket-path=guest.sock", "--blk-file=disk", name=name)
        check_in("guest.sock", process.stdout.readline())
        front = FrontEnd("guest.sock")
        check_equal(use(front), OK, "status of a write")
        process.terminate()
        check_equal(ended(process)[0], 0, "exit code")
        front.close()
        check_equal(os.path.exists("guest.sock"), False, "whether the socket is there")
    disk_has_pattern()


def test_read_only_and_options_of_serve():
    make_disk()
    process = program("--read-only", "--socket-path", "guest.sock", "-f", "qcow2", "--serial", "abc",
                      "--blk-file", "disk")
    check_in("guest.sock", process.stdout.readline())
    front = FrontEnd("guest.sock")
    check_equal(use(front), IOERR, "status of a write")
    check_equal(bool(front.offered & F_RO), True, "whether it says so")
    process.terminate()
    check_equal(ended(process)[0], 0, "exit code")


def test_a_socket_that_listens_is_taken_and_outlives_a_death():
    make_disk()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0oxbow-test-" + str(os.getpid()))  # it has no path
        listener.listen(8)
        fd = listener.fileno()
        process = program(f"--fd={fd}", "--blk-file=disk", pass_fds=(fd,))
        process.stdout.readline()
        front = FrontEnd.__new__(FrontEnd)

        def connect():
            front.socket = socket.socket(socket.AF_UNIX)
            front.socket.settimeout(WAIT_SECONDS)
            front.socket.connect(listener.getsockname())
            front.acks = False
        connect()
        check_equal(use(front), OK, "status of a write")
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (worker,) = children.read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        check_equal(bool(front.ask64(GET_FEATURES)), True, "whether the connection stays")
        front.socket.close()
        connect()
        check_equal(use(front), OK, "status of a write to the next process")
        process.terminate()
        check_equal(ended(process)[0], 0, "exit code")
    disk_has_pattern()


def test_a_connected_socket_is_the_one_front_end():
    make_disk()
    ours, theirs = socket.socketpair()
    with theirs:
        process = program(f"--fd={theirs.fileno()}", "--blk-file=disk", pass_fds=(theirs.fileno(),))
    front = FrontEnd.__new__(FrontEnd)
    front.socket, front.acks = ours, False
    ours.settimeout(WAIT_SECONDS)
    check_equal(use(front), OK, "status of a write")
    front.close()
    check_equal(ended(process), (0, ""), "how it ends when the front end leaves")
    disk_has_pattern()
    ours, theirs = socket.socketpair()
    with theirs:
        process = program(f"--fd={theirs.fileno()}", "--blk-file=disk", pass_fds=(theirs.fileno(),))
    front.socket = ours
    front.ask64(GET_FEATURES)
    process.terminate()
    check_equal(ended(process)[0], 0, "exit code after SIGTERM")
    ours.close()


def test_what_cannot_be_is_refused():
    make_disk()
    file = os.open("disk", os.O_RDWR)
    on_exit(lambda: os.close(file))
    for args, message in (
            (("--blk-file=disk",), "Say --socket-path=PATH or --fd=N"),
            (("--socket-path=a", "--fd=0", "--blk-file=disk"), "exclude each other"),
            (("--socket-path=a", "--bogus", "--blk-file=disk"), "unrecognized option '--bogus'"),
            (("--socket-path=a", "--blk-file"), "missing argument for option '--blk-file'"),
            (("--socket-path=a",), "No image is given"),
            ((f"--fd={file}", "--blk-file=disk"), "is no unix socket"),
            (("--fd=nothing", "--blk-file=disk"), "is no unix socket"),
            (("--fd=999", "--blk-file=disk"), "is no unix socket"),
            (("--socket-path=a", "--blk-file=absent"), "absent")):
        expect_failure(oxbow_path(), "vhost-user-blk", *args, message=message, pass_fds=(file,))
    check_equal(os.path.exists("a"), False, "whether a socket is left")
    for args in ((), ("--no-keeper",)):
        expect_failure(oxbow_path(), "serve", *args, "--vhost-user-blk", f"fd:{file}", "disk",
                       message="is no unix stream socket that listens", pass_fds=(file,))


run_tests(globals())
