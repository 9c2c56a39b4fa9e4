#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Many disks under one keeper: the configuration file, reloads, sockets' rights and activation."""
import contextlib
import glob
import os
import pathlib
import re
import signal
import socket
import stat
import time

import nbd

import hostfs
from harness import command_of
from interop import *
from kept import eventually
from service_manager import Managed, Manager
from vhostwire import FLUSH, IN, OK, OUT, FrontEnd, Memory, Ring

DISK = 8 * MIB


def make(*names):
    for name in names:
        oxbow("create", "-q", "-f", "qcow2", name, DISK)


def disk(name, image=None, **settings):
    """A section of a file; a key's '_' stands for '-'."""
    lines = [f"[disk {name}]", f"image = {image or name}"]
    if "nbd" not in settings:
        lines.append(f"nbd = {tmpdir() / name}.sock")
    lines += [f"{key.replace('_', '-')} = {value}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def write(*sections, name="disks.conf"):
    pathlib.Path(name).write_text("\n".join(sections))


class Configured(Managed):
    """A server of disks.conf, which has written its pid file once all disks are served or have failed."""

    def __init__(self, manager, *args, **kwargs):
        super().__init__(manager, **kwargs)
        self.own_argv = [oxbow_path(), "serve", "--config", "disks.conf", "--pid-file", "pid", *args]

    def start(self):
        pathlib.Path("pid").unlink(missing_ok=True)
        super().start()
        eventually("the pid file", lambda: pathlib.Path("pid").exists() and pathlib.Path("pid").read_text())

    def worker(self, name):
        return next((pid for pid in self.children() if any(
            word.startswith("--kept-as=worker:") and word.endswith(":" + name) for word in command_of(pid))), None)

    def await_worker(self, name):
        return eventually(f"a process for {name}", lambda: self.worker(name))

    def reload(self, line):
        self.process.send_signal(signal.SIGHUP)
        eventually(line, lambda: line() if callable(line) else line in self.stderr())


@contextlib.contextmanager
def configured(*args, **kwargs):
    with Manager() as manager, Configured(manager, *args, **kwargs) as server:
        yield server


def uri(name):
    return f"nbd+unix:///?socket={tmpdir() / name}.sock"


def connects(name):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(tmpdir() / f"{name}.sock")) == 0


def put(name, value, offset=0):
    handle = nbd_connect(uri(name))
    handle.pwrite(bytes([value]) * 4096, offset)
    handle.shutdown()


def check(name, value, offset=0):
    handle = nbd_connect(uri(name))
    check_equal(bytes(handle.pread(4096, offset)), bytes([value]) * 4096, f"what {name} has")
    handle.shutdown()


# ---- disks ----

def test_each_disk_is_served_by_a_process_of_its_own():
    make("one", "two")
    write("# a comment\n[defaults]\ncache = none\n", disk("one"), disk("two", cache="directsync"))
    with configured() as server:
        put("one", 1)
        put("two", 2)
        check("one", 1)
        check("two", 2)
        commands = {name: command_of(server.await_worker(name)) for name in ("one", "two")}
        check_in("--cache=none", commands["one"])
        check_in("--cache=directsync", commands["two"])
        check_equal("--cache=none" in commands["two"], False, "a default beside what the disk says itself")
        check_equal(int(pathlib.Path("pid").read_text()), server.process.pid, "pid file")
    for name in ("one", "two"):
        check_clean(name)
        check_equal(pathlib.Path(f"{name}.sock").exists(), False, "socket after the end")
    check_equal(pathlib.Path("pid").exists(), False, "pid file after the end")


def test_the_addresses_are_told_by_name():
    make("one", "two")
    write(disk("one"), disk("two", vhost_user_blk=tmpdir() / "two.vhost"))
    with Manager() as manager:
        server = Configured(manager)
        server._wait_for_uri = lambda: None
        with server:
            eventually("the pid file", lambda: pathlib.Path("pid").exists())
            server.process.terminate()
            told = sorted(server.process.stdout.read().decode().splitlines())
            check_equal(server.wait(), 0, "exit code")
    check_equal(told, [f"one {uri('one')}", f"two {tmpdir() / 'two.vhost'}", f"two {uri('two')}"], "lines")


def test_the_death_of_one_process_is_none_of_the_others():
    make("one", "two")
    write(disk("one"), disk("two"))
    with configured() as server:
        other = nbd_connect(uri("two"))
        other.pwrite(b"b" * 4096, 0)
        before = server.await_worker("two")
        put("one", 7)
        os.kill(server.await_worker("one"), signal.SIGKILL)
        check("one", 7)
        check_equal(server.worker("two"), before, "process of the other disk")
        check_equal(bytes(other.pread(4096, 0)), b"b" * 4096, "what the other disk has")
        eventually("a line in the log", lambda: "'one' again after" in server.stderr())
        other.shutdown()


def test_a_message_of_a_process_tells_of_which_disk_it_is():
    make("one")
    write(disk("one"))
    with configured("-v") as server:
        put("one", 1)
        eventually("a line", lambda: re.search(r"^oxbow: one: .*connected", server.stderr(), re.M))


def test_a_disk_that_cannot_be_served_is_none_of_the_others():
    make("one")
    write(disk("one"), disk("two"))
    with configured() as server:
        check_in("two: Could not open 'two': Could not open 'two': No such file or directory", server.stderr())
        put("one", 1)
        before = server.await_worker("one")
        make("two")
        server.reload(lambda: connects("two"))  # what has failed is tried again
        put("two", 2)
        check_equal(server.worker("one"), before, "process of the disk that was not changed")
    check_clean("two")


def test_a_disk_without_a_socket_to_be_had_is_none_of_the_others():
    make("one", "two")
    write(disk("one"), disk("two", nbd=tmpdir() / "one.sock"))
    with configured() as server:
        eventually("a line", lambda: "Another server listens on" in server.stderr())
        eventually("the end of that disk", lambda: len(server.children()) == 1)
        left = "one" if server.worker("one") else "two"
        put("one", 1)
    check_equal(guest_bytes_by_oxbow(left)[:1], b"\1", "what the one that came first has")
    check_clean("one")
    check_clean("two")


def test_a_file_without_a_disk_is_a_server_that_waits_for_one():
    write("[server]\n")
    with Manager() as manager:
        server = Configured(manager)
        server._wait_for_uri = lambda: None
        with server:
            make("one")
            write(disk("one"))
            server.reload(lambda: connects("one"))
            put("one", 1)


# ---- reloads ----

def test_a_reload_takes_on_and_lets_go():
    make("stays", "goes", "changes", "comes")
    write(disk("stays"), disk("goes"), disk("changes"))
    with configured() as server:
        client = nbd_connect(uri("stays"))
        put("changes", 3)
        stays, changes = server.await_worker("stays"), server.await_worker("changes")
        write(disk("stays"), disk("changes", cache="none"), disk("comes"))
        server.reload(lambda: connects("comes") and not server.worker("goes"))
        eventually("the change", lambda: server.worker("changes") not in (None, changes))
        eventually("its socket", lambda: connects("changes"))
        check("changes", 3)
        check_in("--cache=none", command_of(server.worker("changes")))
        put("comes", 4)
        check_equal(server.worker("stays"), stays, "process of the disk that was not changed")
        client.pwrite(b"x" * 512, 0)
        client.shutdown()
        check_equal(pathlib.Path("goes.sock").exists(), False, "socket of the disk that was let go")
        check_clean("goes")
    for name in ("stays", "changes", "comes"):
        check_clean(name)


def test_reloads_one_upon_the_other_end_with_the_last_file():
    make("one", "two")
    write(disk("one"))
    with configured() as server:
        for turn in range(12):
            write(disk("one", serial=f"s{turn}"), *([disk("two")] if turn % 2 else []))
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.03 * (turn % 3))
        def is_last():
            pid = server.worker("one")
            return pid and "--serial=s11" in command_of(pid) and server.worker("two") and connects("two")
        eventually("the last file's", is_last)
        eventually("its socket", lambda: connects("one"))
        put("one", 1)
        put("two", 2)
    check_clean("one")
    check_clean("two")


def test_a_disk_that_was_to_follow_another_does_not_keep_the_server_from_its_end():
    make("one")
    write(disk("one"))
    with configured() as server:
        before = server.await_worker("one")
        os.kill(before, signal.SIGSTOP)
        write(disk("one", cache="none"))
        server.process.send_signal(signal.SIGHUP)
        eventually("the disk is told to end", lambda: not pathlib.Path("one.sock").exists())
        server.process.send_signal(signal.SIGTERM)
        eventually("the signal is taken", lambda: any("STOPPING" in notice for notice in server.manager.notices))
        os.kill(before, signal.SIGCONT)
        check_equal(server.wait(), 0, "exit status")
    check_clean("one")


def test_a_file_that_is_wrong_changes_nothing():
    make("one")
    write(disk("one"))
    with configured() as server:
        before = server.await_worker("one")
        for text in ("[disk two]\n", disk("one", cache="sometimes"), disk("one") + "nbd\n"):
            write(text)
            server.reload("'disks.conf' is not taken: all disks are served as before")
            os.ftruncate(server._stderr.fileno(), 0)
        pathlib.Path("disks.conf").unlink()
        server.reload("Cannot read 'disks.conf': No such file or directory")
        check_equal(server.worker("one"), before, "process")
        put("one", 1)


def test_what_is_wrong_with_a_file_is_told():
    for text, message in (
            ("image = x", ":1: a setting stands in a section"),
            ("\n[disk]", ":2: there is no section [disk]"),
            ("[disk a/b]", ":1: 'a/b' is no name of a disk"),
            (f"[disk {'n' * 65}]", "is no name of a disk"),
            ("[disk a", ":1: a section is written [disk NAME]"),
            ("[disk a]\nimage = x\n[disk a]", ":3: the disk 'a' stands in line 1 already"),
            ("[disk a]\nnbd = x", ":1: the disk 'a' has no image"),
            ("[disk a]\nimage = x\nimage = y", ":3: 'image' stands in line 2 already"),
            ("[disk a]\nimage = x\nspeed = high", ":3: a disk has no setting 'speed'"),
            ("[disk a]\nimage = x\npid-file = y", ":3: a disk has no setting 'pid-file'"),
            ("[disk a]\nimage = x\nread-only = perhaps", ":3: 'read-only' is yes or no"),
            ("[server]\nnbd = x", ":2: the server has no setting 'nbd'"),
            ("[disk a]\nimage = x", "a: No address"),
            ("[disk a]\nimage = x\nnbd = s\ncache = odd", "a: --cache 'odd' is not valid"),
            ("[disk a]\nimage = x\nnbd = s\0s", ":3: a byte of this line is zero")):
        write(text)
        expect_failure(oxbow_path(), "serve", "--config", "disks.conf", code=1, message=message)
    make("one")
    write(disk("one"))
    for args in (("--nbd", "s"), ("-r",), ("one",)):
        expect_failure(oxbow_path(), "serve", "--config", "disks.conf", *args, code=1,
                       message="--config: what is said of a disk stands in that file")


def test_settings_that_are_yes_or_no():
    make("one", "two")
    write("[defaults]\nread-only = yes\n", disk("one"), disk("two", read_only="no", allow_backing="off"))
    with configured():
        handle = nbd_connect(uri("one"))
        check_equal(handle.is_read_only(), True, "read-only")
        handle.shutdown()
        put("two", 1)


# ---- sockets ----

def test_the_rights_of_a_socket():
    make("one")
    write(disk("one", socket_mode="0660", socket_owner="nobody", socket_group="nogroup",
               vhost_user_blk=tmpdir() / "one.vhost"))
    with configured():
        for path in ("one.sock", "one.vhost"):
            st = os.stat(path)
            check_equal((stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid), (0o660, 65534, 65534), path)
    for option in ("--socket-mode=888", "--socket-mode=1777", "--socket-owner=no such user", "--socket-group=-1"):
        expect_failure(oxbow_path(), "serve", option, "--nbd", "s", "one", code=1, message="is not valid; it takes")
    with Server("--no-keeper", "--socket-mode", "0600", "--nbd", tmpdir() / "own.sock", "one"):
        check_equal(stat.S_IMODE(os.stat("own.sock").st_mode), 0o600, "mode without a keeper")


def listening(family, address):
    made = socket.socket(family)
    made.bind(address)
    made.listen()
    on_exit(made.close)
    return made


def test_sockets_that_the_service_manager_has_made():
    make("one", "two")
    path = str(tmpdir() / "one.sock")
    write(disk("one", nbd="systemd:one-nbd", vhost_user_blk="systemd:one-vhost"), disk("two", nbd="systemd:two"))
    with Manager() as manager:
        tcp = listening(socket.AF_INET, ("127.0.0.1", 0))
        manager.opened = [("one-nbd", listening(socket.AF_UNIX, path).fileno()),
                          ("one-vhost", listening(socket.AF_UNIX, str(tmpdir() / "one.vhost")).fileno()),
                          ("two", tcp.fileno())]
        with Configured(manager) as server:
            put("one", 1)
            handle = nbd_connect(f"nbd://127.0.0.1:{tcp.getsockname()[1]}")
            handle.pwrite(b"t" * 512, 0)
            handle.shutdown()
            os.kill(server.await_worker("one"), signal.SIGKILL)
            check("one", 1)
            server.process.send_signal(signal.SIGHUP)
            check("one", 1)
            check_equal(server.stderr().count("not used"), 0, "descriptors that are not used")
        check_equal(pathlib.Path(path).exists(), True, "the manager's socket after the end")


def test_sockets_that_are_none():
    make("one")
    with Manager() as manager:
        plain = socket.socket(socket.AF_UNIX)
        on_exit(plain.close)
        tcp = listening(socket.AF_INET, ("127.0.0.1", 0))
        manager.opened = [("plain", plain.fileno()), ("tcp", tcp.fileno())]
        wrapper, fds, env = manager.handing_over()
        for fd in fds:
            on_exit(lambda fd=fd: os.close(fd))
        for args, message in ((("--nbd", "systemd:plain"), "'plain' of the service manager is no stream socket"),
                              (("--nbd", "systemd:other"), "has handed over no socket 'other'"),
                              (("--vhost-user-blk", "systemd:tcp"), "is no unix socket"),
                              (("--nbd", "systemd:tcp", "--no-keeper"), "--no-keeper takes no socket")):
            result = run(*[str(word) for word in wrapper], oxbow_path(), "serve", *args, "one", check=False,
                         pass_fds=fds, env=dict(os.environ, **env))
            check_equal(result.returncode, 1, "exit code")
            check_in(message, result.stderr)
        check_equal(locked_bytes("one"), [], "locked bytes")


# ---- one process for several ----

def shared_pids(server):
    return [pid for pid in server.children()
            if any(word.startswith("--kept-as=shared:") for word in command_of(pid))]


NAMES = ("one", "two", "three")


def await_all(names=NAMES):
    eventually("all are served", lambda: all(connects(name) for name in names))


@contextlib.contextmanager
def configured_as_one(names=NAMES):
    """One process serves all. A disk that is ready late gets another one, as on a busy host: then
    the server is started once more."""
    for _ in range(30):
        with configured() as server:
            await_all(names)
            if len(shared_pids(server)) == 1:
                yield server
                return
    raise Failure("no process served all: nothing was tested")


def write_shared(names=NAMES):
    make(*names)
    write("[defaults]\nworker = shared\n", *[disk(name) for name in names])


@contextlib.contextmanager
def sharing():
    write_shared()
    with configured() as server:
        yield server


def test_disks_that_share_a_process_have_threads():
    write_shared()
    with configured_as_one() as server:
        pid, = shared_pids(server)
        for i, name in enumerate(NAMES):
            put(name, i + 1)
        for i, name in enumerate(NAMES):
            check(name, i + 1)
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
                          if ":\t" in line)
            check_equal((status["CapEff"], status["Uid"].split()[0]), ("0" * 16, "65534"), f"rights of {task}")
            check_equal(status["Seccomp"], "2", f"filter of {task}")
    for name in NAMES:
        check_clean(name)


def test_front_ends_of_disks_that_share_a_process_outlive_its_death():
    make(*NAMES)
    write("[defaults]\nworker = shared\n",
          *[disk(name, vhost_user_blk=tmpdir() / f"{name}.vhost") for name in NAMES])
    with configured_as_one() as server:
        fronts = {}
        for name in NAMES:
            memory = Memory()
            front, ring = FrontEnd(tmpdir() / f"{name}.vhost"), Ring(memory)
            on_exit(front.close)
            front.as_crosvm(memory, [ring])
            fronts[name] = (front, ring)
        for turn in range(3):
            await_all()
            requests = [ring.add(OUT, 8 * turn, bytes([turn + 1]) * 4096) for _, ring in fronts.values()]
            for _, ring in fronts.values():
                ring.notify()
            for pid in shared_pids(server):
                os.kill(pid, signal.SIGKILL)
            for front, ring in fronts.values():
                ring.wait()
                check_equal(ring.do(IN, 8 * turn, length=4096)["data"], bytes([turn + 1]) * 4096, "what is read")
                check_equal(len(front.get_config()), 60, "bytes of the configuration")
            check_equal({request["status"] for request in requests}, {OK}, "statuses")
            for _, ring in fronts.values():
                check_equal(ring.do(FLUSH)["status"], OK, "status of a flush")
    for name in NAMES:
        check_clean(name)


def test_the_death_of_a_shared_process_loses_nothing_of_any_disk():
    with sharing() as server:
        for turn in range(4):
            for i, name in enumerate(NAMES):
                put(name, 10 * turn + i, offset=turn * 65536)
            pids = shared_pids(server)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for i, name in enumerate(NAMES):
                for before in range(turn + 1):
                    check(name, 10 * before + i, offset=before * 65536)
        eventually("a line in the log", lambda: "'two' again after" in server.stderr())
    for name in NAMES:
        check_clean(name)


def test_a_disk_that_shares_a_process_comes_and_goes():
    with sharing() as server:
        eventually("all", lambda: all(connects(name) for name in NAMES))
        before = shared_pids(server)
        client = nbd_connect(uri("one"))
        client.pwrite(b"k" * 512, 0)
        put("two", 2)
        make("four")
        write("[defaults]\nworker = shared\n", disk("one"), disk("three"), disk("four"))
        server.reload(lambda: connects("four") and not pathlib.Path("two.sock").exists())
        put("four", 4)
        eventually("the end of the disk that was let go", lambda: locked_bytes("two") == [])
        check_clean("two")
        check_equal(bytes(client.pread(512, 0)), b"k" * 512, "what a client sees that was there all the time")
        check_equal(set(before) <= set(shared_pids(server)), True, "the process that serves on")
        client.shutdown()


def test_a_disk_that_cannot_be_opened_is_none_of_those_in_its_process():
    make("one", "two", "three")
    Qcow2("two").put("incompatible_features", 1 << 63)
    write("[defaults]\nworker = shared\n", *[disk(name) for name in NAMES])
    with configured() as server:
        eventually("a line", lambda: "two: Could not open 'two'" in server.stderr())
        put("one", 1)
        put("three", 3)


def test_a_process_that_goes_on_has_nothing_of_a_disk_that_it_could_not_open():
    make("one", "two")
    Qcow2("two").put("incompatible_features", 1 << 1)  # corrupt: not to be written
    write("[defaults]\nworker = shared\nlow-space = 1M\n", disk("one"), disk("two"))
    with configured() as server:
        eventually("a line", lambda: "two: Could not open 'two'" in server.stderr())
        put("one", 1)
        def has_it_open():
            for pid in shared_pids(server):
                for entry in glob.glob(f"/proc/{pid}/fd/*"):
                    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                        if os.path.samefile(entry, "two"):
                            return True
            return False
        eventually("all of it is closed", lambda: not has_it_open())


def test_an_image_that_does_not_answer_holds_up_none_of_those_in_its_process():
    where = hostfs.mounted("ext4", 64 * MIB)
    make("two", where / "one")
    sections = ["[defaults]\nworker = shared\ncache = none\ndrain = 1\n", disk("one", where / "one"), disk("two")]
    write(*sections)
    with configured_as_one(("one", "two")) as server:
        put("one", 1)
        before, = shared_pids(server)
        run("fsfreeze", "-f", where)
        thaw = on_exit_once(lambda: run("fsfreeze", "-u", where, check=False))
        waits = nbd_connect(uri("one"))
        waits.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"w" * 4096)), 1 * MIB)
        for turn in range(20):
            put("two", turn)
        write(sections[0], sections[2])
        server.reload("one: The image's file does not answer")
        for turn in range(20):
            put("two", turn)
        check_equal(shared_pids(server), [before], "the process")
        thaw()
        del waits
    check_clean("two")


def on_exit_once(function):
    """Called by whoever asks for it, else at the end of the test."""
    left = [function]
    call = lambda: left and left.pop()()
    on_exit(call)
    return call


# ---- all processes killed ----

def test_the_store_of_the_service_manager_keeps_disks_apart():
    make("one", "two")
    write(disk("one"), disk("two"))
    with configured() as server:
        for turn in range(3):
            put("one", 10 + turn)
            put("two", 20 + turn)
            check_equal({name.partition("@")[2] for name in server.manager.names()}, {"one", "two"}, "names")
            server.kill9()
            server.start_again()
            check_equal(server.stderr().count("is adopted"), 2, "adoptions")
            check("one", 10 + turn)
            check("two", 20 + turn)
    check_equal(server.manager.names(), [], "the store after the end")


def test_what_is_stored_of_a_disk_that_the_file_has_no_more_is_kept():
    make("one", "two")
    write(disk("one"), disk("two"))
    with configured() as server:
        put("one", 1)
        put("two", 2)
        server.kill9()
        write(disk("one"))
        server.start_again()
        check_in("What a server of the disk 'two' left with the service manager is kept", server.stderr())
        check("one", 1)
        write(disk("one"), disk("two"))
        server.reload(lambda: connects("two"))
        check("two", 2)
        eventually("a line in the log", lambda: "What the last server of 'two' left with the service manager is adopted" in server.stderr())
    check_clean("two")


run_tests(globals())
