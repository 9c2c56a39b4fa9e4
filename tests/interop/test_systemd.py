#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 60
"""The keeper's descriptors in the service manager's store: the death of all processes of a server loses
nothing that was answered (docs/systemd.md). service_manager.py plays the manager."""
import fcntl
import random
import re
import shutil
import socket
import struct
import threading

import nbd

from interop import *
from kept import eventually
from service_manager import Managed, Manager
from vhostwire import OK, OUT, FrontEnd, Memory, Ring

CLUSTER = 64 * KIB
F_OFD_GETLK = 36
F_OFD_SETLK = 37
WITNESSES = 8
WHOLE = ["oxbow-barrier", "oxbow-file-0.1", "oxbow-state",
         *(f"oxbow-witness-1.{i}" for i in range(WITNESSES))]
ADOPTED = "left with the service manager is adopted"
AS_AFTER_A_POWER_CUT = "'disk' is opened as after a power cut"


def make_disk(kind="", size=64 * MIB):
    oxbow("create", "-q", *kind_args(kind), "disk", str(size))


def managed(manager, *args, kind="", **kwargs):
    """Its tables are written by nothing but a flush."""
    return Managed(manager, "-f", split_kind(kind)[0], "--table-age", "never", "--lazy-idle", "never",
                   *args, "disk", **kwargs)


def worker_of(server):
    def find():
        path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
        for pid in pathlib.Path(path).read_text().split():
            try:
                if "--kept-as=worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
            except (FileNotFoundError, ProcessLookupError):
                pass
        return None
    return eventually("a worker", find)


def write_one(server, byte, at=0, flush=False):
    handle = nbd_connect(server.uri)
    handle.pwrite(bytes([byte]) * CLUSTER, at)
    if flush:
        handle.flush()
    handle.shutdown()


def check_one(server, byte, at=0):
    handle = nbd_connect(server.uri)
    check_bytes(bytes(handle.pread(CLUSTER, at)), bytes([byte]) * CLUSTER, f"the cluster at {at}")
    handle.shutdown()


def fill_until(server, kill, after_seconds, rng, expected):
    """Writes clusters until the server dies. What was answered is expected afterwards; no flush, ever."""
    handle = nbd_connect(server.uri)
    killer = threading.Timer(after_seconds, kill)
    killer.start()
    try:
        while True:
            at = rng.randrange(1024)
            data = bytes([rng.randrange(1, 256)]) * CLUSTER
            expected.pop(at, None)  # while it is not answered it may be there or not
            handle.pwrite(data, at * CLUSTER)
            expected[at] = data
    except nbd.Error:
        pass
    killer.join()


def fails_to_start(server, message):
    try:
        server.start_again()
    except Failure as error:
        check_in(message, str(error))
        server._expected_dead = True
        return
    raise Failure("it serves")


def check_all(server, expected, what):
    handle = nbd_connect(server.uri)
    for at, data in expected.items():
        check_bytes(bytes(handle.pread(CLUSTER, at * CLUSTER)), data, f"{what}: cluster {at}")
    handle.shutdown()


# ---- nothing is lost ----

def deaths_take_nothing(kind, cache, env=None, deaths=5):
    rng = random.Random(f"{kind} {cache} {env}")
    expected = {}
    make_disk(kind)
    with Manager() as manager, managed(manager, "--cache", cache, kind=kind, env=env) as server:
        for turn in range(deaths):
            what = f"{kind} {cache}, death {turn}"
            if rng.random() < 0.4:  # of the worker alone, before that of all
                old = worker_of(server)
                fill_until(server, lambda: os.kill(old, signal.SIGKILL), rng.uniform(0.01, 0.1), rng,
                           expected)
                eventually("the next worker", lambda: worker_of(server) != old)
            fill_until(server, server.kill9, rng.uniform(0.01, 0.15), rng, expected)
            server.start_again()
            check_in(ADOPTED, server.stderr(), what)
            check_equal("not closed cleanly" in server.stderr(), False, f"a recovery, {what}")
            check_all(server, expected, what)
        check_equal(server.terminate(), 0, "exit code")
        eventually("an empty store", lambda: manager.names() == [])
    data = guest_bytes_by_oxbow("disk")
    for at, cluster in expected.items():
        check_bytes(data[at * CLUSTER:(at + 1) * CLUSTER], cluster, f"cluster {at} at the end")
    if kind != "raw:":
        check_codes("disk", (0, 3), "at the end")
    os.unlink("disk")


def test_the_death_of_all_processes_loses_no_answered_write():
    for kind in ("", "lazy_refcounts=on", "qed:cluster_size=65536", "raw:"):
        for cache in ("writeback", "none"):
            deaths_take_nothing(kind, cache)


def test_nor_does_it_with_threads():
    deaths_take_nothing("", "writeback", env={"OXBOW_IO": "threads"})


def test_what_is_stored_has_its_names():
    make_disk()
    oxbow("create", "-q", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "above")
    with Manager() as manager:
        with managed(manager) as server:
            check_equal(manager.names(), WHOLE, "names")
            pids = {words["sender"] for words in manager.notices}
            check_equal(pids, {server.process.pid}, "who tells the manager")
        eventually("an empty store", lambda: manager.names() == [])
        with Managed(manager, "--allow-backing", "above"):
            check_equal([name for name in manager.names() if "file" in name],
                        ["oxbow-file-0.2", "oxbow-file-1.2"], "files of a chain")


def test_a_chain_of_many_images_is_adopted():
    oxbow("create", "-q", "-f", "qcow2", "0", "1M")
    for number in range(1, 60):
        oxbow("create", "-q", "-f", "qcow2", "-b", str(number - 1), "-F", "qcow2", str(number))
    with Manager() as manager, Managed(manager, "--allow-backing", "--table-age", "never",
                                       "59") as server:
        write_one(server, 7)
        # A busy machine may take longer for so many than a client waits for them.
        eventually("a whole store", lambda: "oxbow-state" in manager.names())
        server.kill9()
        os.rename("30", "elsewhere")  # what is stored needs no name
        server.start_again()
        check_in(ADOPTED, server.stderr())
        check_one(server, 7)
        os.rename("elsewhere", "30")


# ---- order, and who waits for whom ----

def test_nobody_begins_before_the_requests_of_the_dead_have_ended():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        write_one(server, 1)
        # Stands for a request that goes on.
        request = os.open(f"/proc/self/fd/{manager.fd('oxbow-barrier')}", os.O_WRONLY)
        server.kill9()
        starter = threading.Thread(target=server.start_again)
        starter.start()
        eventually("word of it", lambda: "have not ended" in server.stderr())
        path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
        check_equal(pathlib.Path(path).read_text(), "", "the keeper's children meanwhile")
        os.close(request)
        starter.join()
        check_one(server, 1)


def is_locked(fd, byte):
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind = struct.unpack("hhqqi4x", fcntl.fcntl(fd, F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


def test_the_locks_are_held_without_a_gap():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        fd = os.open("disk", os.O_RDWR)
        on_exit(lambda: os.close(fd))
        gaps = []
        looks = []
        end = threading.Event()

        def look():
            while not end.is_set():
                looks.append(1)
                if not is_locked(fd, 101) or not is_locked(fd, 201):
                    gaps.append(1)
        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            for turn in range(4):
                write_one(server, turn)
                server.kill9()
                if turn == 0:
                    expect_failure(oxbow_path(), "io", "-c", "length", "disk",
                                   message=f"(held by systemd, process {os.getpid()}, for a service that "
                                           "has died and may be started again)")
                    expect_failure("qemu-io", "-f", "qcow2", "-c", "write 0 512", "disk", message="lock")
                server.start_again()
                check_one(server, turn)
        finally:
            end.set()
            watcher.join()
        check_equal((len(gaps), len(looks) > 100), (0, True), "gaps, and enough looks")
        expect_failure(oxbow_path(), "io", "-c", "length", "disk",
                       message=f"process {server.process.pid})")


def test_a_sync_that_failed_for_the_dead_is_told_to_the_next():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        write_one(server, 1)
        server.kill9()
        server.own_argv = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
                           "-e", "inject=fsync,fdatasync:error=EIO"] + server.own_argv
        server.own_env.update(ASAN_OPTIONS="detect_leaks=0", OXBOW_IO="threads")
        server.start_again()
        check_one(server, 1)
        try:
            write_one(server, 2, flush=True)
        except nbd.Error:
            pass
        else:
            raise Failure("a flush is answered")
        check_equal([name for name in manager.names() if "witness" in name],
                    [f"oxbow-witness-1.{i}" for i in range(WITNESSES - 1)], "what is not used up")
        check_equal(server.terminate(), 1, "exit code")
        eventually("an empty store", lambda: manager.names() == [])


# No sync of a process with HOLD in its environment ever ends.
SHIM = """
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd)
{
	while (getenv("HOLD"))
		usleep(1000);
	return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


def with_shim():
    """The pool of threads is taken, since io_uring does not ask the C library."""
    pathlib.Path("shim.c").write_text(SHIM)
    run("cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-o", "shim.so", "shim.c", "-ldl")
    asan = os.environ.get("ASAN_OPTIONS", "")
    return {"LD_PRELOAD": str(pathlib.Path("shim.so").absolute()), "OXBOW_IO": "threads",
            "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}


def test_witnesses_that_are_used_up_are_not_forgotten():
    """Each start is killed before its first sync has ended, and has perhaps been told an error."""
    make_disk()
    with Manager() as manager, managed(manager, env=with_shim()) as server:
        write_one(server, 1)
        server.kill9()
        server.own_env["HOLD"] = "1"
        for left in range(WITNESSES - 1, -1, -1):
            server.start_again()
            check_in(ADOPTED, server.stderr())
            check_equal(len([name for name in manager.names() if "witness-1" in name]), left,
                        "witnesses that are left")
            check_equal("Nobody can tell" in server.stderr(), False, "it is told too early")
            server.kill9()
        check_in("oxbow-witness-none", manager.names())
        del server.own_env["HOLD"]
        for _ in range(2):
            server.start_again()
            check_in(ADOPTED, server.stderr())
            check_in("Nobody can tell any more whether a sync of 'disk' failed", server.stderr())
            check_one(server, 1)
            try:
                write_one(server, 2, flush=True)
            except nbd.Error:
                pass
            else:
                raise Failure("a flush is answered")
            server.kill9()


def test_a_witness_that_is_missing_is_not_missed():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        write_one(server, 1)
        server.kill9()
        manager.drop("oxbow-witness-1.0", "oxbow-witness-1.3", "oxbow-witness-1.7")
        server.start_again()
        check_in(ADOPTED, server.stderr())
        write_one(server, 2, flush=True)
        eventually("the next witnesses", lambda: [name for name in manager.names() if "witness" in name] ==
                   [f"oxbow-witness-2.{i}" for i in range(WITNESSES)])


def witnesses(manager):
    return [name for name in manager.names() if "witness" in name]


def test_kills_at_any_moment_of_a_start_lose_nothing():
    rng = random.Random("starts")
    expected = {}
    make_disk()
    with Manager() as manager, managed(manager) as server:
        fill_until(server, server.kill9, 0.2, rng, expected)
        for turn in range(40):
            wrapper, fds, env = manager.handing_over()
            process = subprocess.Popen([str(word) for word in wrapper] + server.own_argv, pass_fds=fds,
                                       env=dict(server.own_env, **env), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for fd in fds:
                os.close(fd)
            time.sleep(rng.uniform(0, 0.12))
            process.kill()
            told = process.communicate()[1]
            check_equal("power cut" in told, False, f"an adoption is refused at start {turn}: {told}")
            if turn % 4 == 3:  # one gets through its first sync, else the witnesses are used up
                used = witnesses(manager)
                server.start_again()
                check_in(ADOPTED, server.stderr())
                eventually("the next witnesses", lambda: witnesses(manager) not in ([], used) and
                           len(witnesses(manager)) == WITNESSES)
                server.kill9()
        server.start_again()
        check_all(server, expected, "after many starts")


def test_witnesses_are_followed_through_deaths_of_workers():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        for generation in range(2, 5):
            old = worker_of(server)
            os.kill(old, signal.SIGKILL)
            eventually("the next worker", lambda: worker_of(server) != old)
            nbd_connect(server.uri).shutdown()
            eventually("the next witnesses",
                       lambda: witnesses(manager) ==
                       [f"oxbow-witness-{generation}.{i}" for i in range(WITNESSES)])
        write_one(server, 9)
        server.kill9()
        server.start_again()
        check_one(server, 9)
        eventually("the next witnesses", lambda: "oxbow-witness-5.0" in manager.names())


# ---- the end ----

def test_a_clean_end_empties_the_store():
    make_disk("lazy_refcounts=on")
    with Manager() as manager:
        with managed(manager) as server:
            write_one(server, 1)
            state = os.dup(manager.fd("oxbow-state"))
            on_exit(lambda: os.close(state))
            check_equal(server.terminate(), 0, "exit code")
        eventually("an empty store", lambda: manager.names() == [])
        check_equal(os.pread(state, 8, 16), struct.pack("Q", 2), "phase of the state: spent")
        check_equal(locked_bytes("disk"), [], "locked bytes")
        check_closed("disk")
        with managed(manager) as server:
            check_equal((server.stderr(), manager.names()), ("", WHOLE), "the next start")
            check_one(server, 1)


def test_what_is_adopted_leaves_no_mark():
    """Under which the next server of a front end would take writes for lost."""
    make_disk("lazy_refcounts=on")
    with Manager() as manager, managed(manager, "--vhost-user-blk", "disk.vhost") as server:
        memory = Memory()
        ring = Ring(memory, 0, 128)
        front = FrontEnd("disk.vhost")
        front.as_qemu(memory, [ring])
        check_equal(ring.do(OUT, 0, bytes(4096))["status"], OK, "status of a write")
        check_equal(len(list(pathlib.Path(".").rglob("*.unflushed"))), 1, "marks after a write")
        server.kill9()
        front.close()
        server.start_again()
        check_equal(server.terminate(), 0, "exit code")
        check_equal(list(pathlib.Path(".").rglob("*.unflushed")), [], "marks after an end in order")


def test_an_end_right_after_the_start_adopts_and_closes():
    make_disk("lazy_refcounts=on")
    with Manager() as manager, managed(manager) as server:
        for turn in range(4):
            write_one(server, turn + 1)
            server.kill9()
            server.start_again()
            server.process.send_signal(signal.SIGTERM)
            check_equal(server.wait(), 0, "exit code")
            eventually("an empty store", lambda: manager.names() == [])
            check_equal(image_file("disk").is_dirty, False, "mark after the end")
            server.start_again()
            check_equal("adopted" in server.stderr(), False, "what is closed is adopted")
            check_one(server, turn + 1)


def test_a_start_that_fails_leaves_nothing_behind_in_the_store():
    make_disk()
    pathlib.Path("file").write_text("text")
    with Manager() as manager:
        _, _, env = manager.handing_over()
        for args in (("--nbd", "file", "disk"), ("--nbd", "s", "nothing"), ("--nbd", "s", "file")):
            run(oxbow_path(), "serve", *args, check=False, env=dict(os.environ, **env))
            eventually("an empty store", lambda: manager.names() == [])
        check_equal(manager.told("READY"), [], "READY")
        check_equal(locked_bytes("disk"), [], "locked bytes")


def test_a_start_that_fails_saves_what_the_dead_one_left():
    """As a unit that has failed has no store any more."""
    make_disk()
    with Manager() as manager, managed(manager) as server:
        write_one(server, 3)
        server.kill9()
        os.rename("disk", "elsewhere")
        fails_to_start(server, "Could not open 'disk': No such file or directory")
        eventually("an empty store", lambda: manager.names() == [])
        os.rename("elsewhere", "disk")
        saved = re.search(r"is saved in '(.*?)'", server.stderr()).group(1)
        server.own_argv.insert(-1, f"--state={saved}")
        server.start_again()
        check_one(server, 3)
        check_equal(server.terminate(), 0, "exit code")


# ---- what is not adopted ----

def not_adopted(change, message, kind="lazy_refcounts=on", flush=True):
    """After a death the store is changed: then the image is opened as after a power cut, which is said,
    and nothing that was flushed is lost."""
    make_disk(kind)
    with Manager() as manager, managed(manager, kind=kind) as server:
        write_one(server, 5, flush=True)
        server.kill9()
        change(manager)
        server.start_again()
        told = server.stderr()
        check_in(message, told)
        check_in(AS_AFTER_A_POWER_CUT, told)
        check_equal(ADOPTED in told, False, "it is adopted")
        check_one(server, 5)
        eventually("a new store", lambda: [name.split("-")[1] for name in manager.names()] ==
                   ["barrier", "file", "state"] + ["witness"] * WITNESSES)
        write_one(server, 6)
        server.kill9()
        server.start_again()
        check_in(ADOPTED, server.stderr())
        check_one(server, 6)
    os.unlink("disk")


def test_a_store_of_which_a_part_is_missing_is_not_adopted():
    for name in ("oxbow-state", "oxbow-barrier", "oxbow-file", "oxbow-witness"):
        not_adopted(lambda manager: manager.drop(name), "is not whole")
    not_adopted(lambda manager: manager.drop("oxbow-file", "oxbow-state", "oxbow-witness"), "is not whole")
    not_adopted(lambda manager: manager.drop("oxbow-barrier", "oxbow-state", "oxbow-witness"),
                "is not whole")


def test_an_emptied_store_is_as_a_power_cut():
    make_disk("lazy_refcounts=on")
    with Manager() as manager, managed(manager) as server:
        write_one(server, 5, flush=True)
        write_one(server, 6, at=CLUSTER)
        server.kill9()
        manager.drop_all()
        server.start_again()
        check_in("not closed cleanly", server.stderr())
        check_one(server, 5)


def other_file(name="other", mode=os.O_RDWR):
    if not os.path.exists(name):
        oxbow("create", "-q", "-f", "qcow2", name, "64M")
    return os.open(name, mode)


def memory(length, seals):
    fd = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, length)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def replaced(name, make):
    def change(manager):
        full = next(stored for stored in manager.names() if stored.startswith(name))
        manager.drop(full)
        manager.put(full, make())
    return change


def test_descriptors_of_the_wrong_type_are_not_adopted():
    firm = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    cases = (
        ("oxbow-state", lambda: other_file()),
        ("oxbow-state", lambda: memory(MIB, 0)),
        ("oxbow-state", lambda: memory(MIB, fcntl.F_SEAL_SHRINK)),
        ("oxbow-state", lambda: memory(0, firm | fcntl.F_SEAL_SEAL)),
        ("oxbow-state", lambda: memory(MIB, firm | fcntl.F_SEAL_WRITE)),
        ("oxbow-barrier", lambda: other_file()),
        ("oxbow-barrier", lambda: os.pipe()[1]),
        ("oxbow-file", lambda: os.open(".", os.O_RDONLY)),
        ("oxbow-file", lambda: other_file("disk", os.O_RDONLY)),
        ("oxbow-file", lambda: os.pipe()[0]),
        ("oxbow-witness", lambda: os.pipe()[0]),
        ("oxbow-witness", lambda: other_file()),
        ("oxbow-witness", lambda: os.open("disk", os.O_WRONLY)),
    )
    for name, make in cases:
        not_adopted(replaced(name, make), "is not whole")


def test_names_that_contradict_each_other_are_not_adopted():
    for name in ("oxbow-file-0.2", "oxbow-file-1.1", "oxbow-file-0.0", "oxbow-file-999.1000",
                 f"oxbow-witness-1.{WITNESSES}"):
        not_adopted(lambda manager: manager.put(name, other_file("disk")), "is not whole")


def test_another_file_is_not_adopted():
    def put_another_in_its_place(manager):
        pathlib.Path("copy").write_bytes(pathlib.Path("disk").read_bytes())
        os.rename("copy", "disk")
    not_adopted(put_another_in_its_place, "it is of another file")

    def replace_file_and_witnesses(manager):
        for name in [name for name in manager.names() if "file" in name or "witness" in name]:
            replaced(name, other_file)(manager)
    not_adopted(replace_file_and_witnesses, "it is of another file")


def test_locks_that_were_let_go_are_not_adopted():
    def unlock(manager):
        for byte in (100, 201):
            fcntl.fcntl(manager.fd("oxbow-file-0"), F_OFD_SETLK,
                        struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))
    not_adopted(unlock, "its locks are not unbroken")
    not_adopted(replaced("oxbow-file-0", lambda: other_file("disk")), "its locks are not unbroken")


def test_a_state_that_is_not_of_the_image_is_not_adopted():
    def of_another_version(manager):
        os.pwrite(manager.fd("oxbow-state"), struct.pack("Q", 99), 8)
    not_adopted(of_another_version, "another version of this program has written it")

    def of_nothing(manager):
        os.pwrite(manager.fd("oxbow-state"), bytes(4096), 0)
        os.pwrite(manager.fd("oxbow-state"), b"x", 0)
    not_adopted(of_nothing, "it is no state of an image")

    def full_of_nonsense(manager):
        fd = manager.fd("oxbow-state")
        os.pwrite(fd, b"\xff" * (os.fstat(fd).st_size - 4096), 4096)
    not_adopted(full_of_nonsense, "cannot be adopted")


def test_an_image_that_was_cut_is_not_adopted():
    def cut(manager):
        os.truncate("disk", os.path.getsize("disk") - 4096)
    not_adopted(cut, "the image's file has been cut since")


def test_a_server_that_only_reads_adopts_nothing():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        write_one(server, 5, flush=True)
        server.kill9()
        server.own_argv.insert(-1, "-r")
        server.start_again()
        check_in("is for a server that writes", server.stderr())
        check_one(server, 5)
        check_equal(manager.names(), [], "what is stored for one that only reads")


# ---- the manager itself ----

def test_a_store_that_is_too_small_is_noticed_at_the_next_start():
    make_disk()
    with Manager(most=10) as manager, managed(manager) as server:
        write_one(server, 5, flush=True)
        server.kill9()
        server.start_again()
        check_in("is not whole", server.stderr())
        check_one(server, 5)


def test_a_manager_that_takes_nothing_does_not_keep_clients_waiting():
    make_disk()
    deaf, filler = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    on_exit(deaf.close)
    on_exit(filler.close)
    deaf.bind("notify")
    filler.setblocking(False)
    try:
        while True:
            filler.sendto(b"X=1", "notify")
    except BlockingIOError:
        pass
    with Server("disk", env={"NOTIFY_SOCKET": str(tmpdir() / "notify")}) as server:
        write_one(server, 1)
        check_equal(server.stderr().count("The service manager does not take what is left with it"), 1,
                    "lines about it")


def test_a_manager_that_is_not_there_is_told_of_once():
    make_disk()
    for address in (str(tmpdir() / "nobody"), "nonsense", "/" + "x" * 200):
        with Server("disk", env={"NOTIFY_SOCKET": address}) as server:
            write_one(server, 1)
            check_equal(server.stderr().count("NOTIFY_SOCKET"), 1, "lines about it")


def test_unknown_descriptors_are_left_alone():
    make_disk()
    with Manager() as manager:
        pipe = os.pipe()
        manager.put("http", pipe[0])
        manager.put("oxbow-file-00.1", pipe[1])
        with managed(manager) as server:
            write_one(server, 1)
            for name in ("http", "oxbow-file-00.1"):
                check_in(f"('{name}') of the service manager is none of a server's", server.stderr())
            check_in("http", manager.names())


def test_an_image_that_the_manager_hands_over_is_served():
    make_disk()
    with Manager() as manager:
        image = os.open("disk", os.O_RDWR)
        on_exit(lambda: os.close(image))
        manager.opened = [("disk", image)]
        with managed(manager, "--fd", "3") as server:
            write_one(server, 8)
            check_equal(server.stderr(), "", "stderr")


def test_it_is_told_what_the_server_does():
    make_disk()
    with Manager() as manager, managed(manager, env={"WATCHDOG_USEC": "100000"}) as server:
        eventually("three signs of life", lambda: len(manager.told("WATCHDOG")) >= 3)
        check_equal(manager.told("READY"), ["1"], "READY")
        check_in(f"Serving, by process {worker_of(server)}", manager.told("STATUS"))
        os.kill(worker_of(server), signal.SIGKILL)
        eventually("another", lambda: len(manager.told("READY")) == 2)
        check_in("The process that served has died; the next one is started", manager.told("STATUS"))
        check_equal(server.terminate(), 0, "exit code")
        check_equal(manager.told("STOPPING"), ["1"], "STOPPING")


def test_a_worker_that_stands_still_gives_no_sign_of_life():
    make_disk()
    with Manager() as manager, managed(manager, "--hang-timeout", "4", env={"WATCHDOG_USEC": "100000"}) as server:
        eventually("a sign of life", lambda: manager.told("WATCHDOG"))
        os.kill(worker_of(server), signal.SIGSTOP)

        def is_silent():
            count = len(manager.told("WATCHDOG"))
            time.sleep(0.5)
            return len(manager.told("WATCHDOG")) == count
        eventually("silence", is_silent)
        count = len(manager.told("WATCHDOG"))
        eventually("another worker", lambda: len(manager.told("READY")) == 2)
        eventually("a sign of life again", lambda: len(manager.told("WATCHDOG")) > count)


def test_a_watchdog_of_another_process_is_not_told():
    make_disk()
    with Manager() as manager, managed(manager, env={"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}) as server:
        write_one(server, 1)
        time.sleep(0.1)
        check_equal(manager.told("WATCHDOG"), [], "signs of life")


def test_descriptors_for_another_process_are_not_taken():
    make_disk()
    with Manager() as manager, managed(manager) as server:
        env = dict(os.environ, LISTEN_PID="1", LISTEN_FDS="2", LISTEN_FDNAMES="oxbow-state:oxbow-barrier")
        with Server("-r", "-U", "disk", env=env) as other:
            check_equal(other.stderr(), "", "stderr")


def test_a_server_without_a_keeper_says_that_it_is_ready():
    make_disk()
    with Manager() as manager:
        with Server("--no-keeper", "disk", env=manager.environment()):
            eventually("READY", lambda: manager.told("READY") == ["1"])


def test_children_know_nothing_of_the_manager():
    make_disk()
    with Manager() as manager, managed(manager, env={"WATCHDOG_USEC": "10000000"}) as server:
        write_one(server, 1)
        server.kill9()
        server.start_again()
        environment = pathlib.Path(f"/proc/{worker_of(server)}/environ").read_bytes()
        for name in (b"NOTIFY_SOCKET", b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES", b"WATCHDOG_USEC"):
            check_equal(name in environment, False, f"{name} in the worker's environment")


def test_a_worker_is_ended_before_the_keeper_where_memory_is_short():
    make_disk()
    scores = []
    with Server("disk") as server:
        for pid in (server.process.pid, worker_of(server)):
            scores.append(int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text()))
    check_equal(scores[1] - scores[0], min(200, 1000 - scores[0]), "what the worker's score is above")


def test_the_units_are_sound():
    if not shutil.which("systemd-analyze"):
        print("# no systemd-analyze here")
        return
    built = pathlib.Path(oxbow_path()).parent / "units"
    for name, path in (("oxbow@.service", built / "oxbow@.service"), ("oxbow.service", built / "oxbow.service"),
                       ("disk.service", ROOT / "units" / "disk.service")):
        text = path.read_text()
        program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE).group(1)
        pathlib.Path(name).write_text(text.replace(program, oxbow_path()))
        said = run("systemd-analyze", "verify", "--man=no", str(tmpdir() / name.replace("@", "@disk")))
        check_equal(said.stderr, "", f"what is said of {name}")


run_tests(globals())
