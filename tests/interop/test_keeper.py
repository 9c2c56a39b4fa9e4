#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 90
"""`oxbow serve` with its keeper: the process that serves is killed, and those who use the disk hardly notice
(docs/processes.md)."""
import random
import re
import resource
import shutil
import threading

import nbd

from hostfs import loop_device, mounted
from interop import *
from kept import *
from killed_writer import Writer
from promises import Promises


# ---- a killed worker ----

def unended_request(server):
    """Stands for a request of the worker that goes on: a write end of the pipe whose end of file the
    keeper waits for. Returns what ends it."""
    place = f"/proc/{server.keeper}/fd"
    pipe = next(name for name in os.listdir(place)
                if int(name) > 2 and os.readlink(f"{place}/{name}").startswith("pipe:"))
    fd = os.open(f"{place}/{pipe}", os.O_WRONLY)
    return lambda: os.close(fd)


def test_nobody_begins_before_the_requests_of_the_dead_have_ended():
    with kept_disk() as server:
        end = unended_request(server)
        old = server.kill_worker()
        eventually("its death", lambda: f"Process {old}, which" in server.stderr())
        for _ in range(50):
            check_equal(children_of(server.keeper), [], "children meanwhile")
            time.sleep(0.01)
        expect_failure("qemu-io", "-f", "qcow2", "-c", "write 0 512", "disk", message="lock")
        end()
        server.next_worker(old)


def test_requests_that_never_end_hold_the_end_up_for_so_long_as_is_said():
    with kept_disk("--drain", "1") as server:
        end = unended_request(server)
        old = server.kill_worker()
        eventually("its death", lambda: f"Process {old}, which" in server.stderr())
        check_equal(server.terminate(), 1, "exit code")
        check_in("The image's file does not answer: the image is not closed", server.stderr())
        end()


def test_a_client_that_comes_while_nobody_serves_waits():
    with kept_disk() as server:
        server.kill_worker()
        handles = [nbd_connect(server.uri) for _ in range(5)]
        for handle in handles:
            handle.pwrite(b"\x11" * 4096, 0)
            handle.shutdown()


def test_a_worker_is_followed_whatever_it_dies_of():
    with kept_disk(env={"ASAN_OPTIONS": "handle_segv=0"}) as server:
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
            old = server.kill_worker(number)
            server.next_worker(old)
            check_in(f"Process {old}, which served 'disk', ", server.stderr())


def test_a_chain_whose_names_are_gone_is_served_on():
    os.mkdir("base")
    data = pattern("base", MIB)
    pathlib.Path("base/0.raw").write_bytes(data)
    oxbow("create", "-q", "-f", "qcow2", "-b", "0.raw", "-F", "raw", "base/1")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base/1", "-F", "qcow2", "disk")
    with Kept("-f", "qcow2", "--allow-backing=base", "-t", "directsync", "disk") as server:
        os.rename("disk", "elsewhere")
        os.rename("base", "gone")
        for turn in range(3):
            handle = nbd_connect(server.uri)
            handle.pwrite(bytes([turn]) * 512, turn * 512)
            handle.shutdown()
            server.next_worker(server.kill_worker())
        expected = b"".join(bytes([turn]) * 512 for turn in range(3)) + data[3 * 512:]
        check_bytes(read_disk(server), expected, "the disk")


def test_a_chain_of_more_images_than_a_message_has_room_for_is_served_on():
    oxbow("create", "-q", "-f", "qcow2", "0", "1M")
    for number in range(1, 70):
        oxbow("create", "-q", "-f", "qcow2", "-b", str(number - 1), "-F", "qcow2", str(number))
    with Kept("--allow-backing", "69") as server:
        for _ in range(2):
            check_equal(read_disk(server), bytes(MIB), "the disk")
            server.next_worker(server.kill_worker())


def test_descriptors_that_were_given_are_served_on():
    oxbow("create", "-q", "-f", "qcow2", "disk", "8M")
    fd = os.open("disk", os.O_RDWR)
    on_exit(lambda: os.close(fd))
    os.unlink("disk")
    with Kept("-f", "qcow2", "--fd", fd, "-t", "directsync", "disk", pass_fds=(fd,)) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x77" * 512, 0)
        server.next_worker(server.kill_worker())
        check_equal(read_disk(server)[:512], b"\x77" * 512, "what is read")


def test_processes_that_die_before_they_serve_are_given_up():
    with kept_disk() as server:
        # What the keeper starts from now on has no room for its libraries.
        resource.prlimit(server.keeper, resource.RLIMIT_AS, (MIB, MIB))
        server.kill_worker()
        check_equal(server.wait(60), 1, "exit code")
        check_in("3 processes in a row died before they could serve 'disk'", server.stderr())
        check_equal(os.path.exists(server.socket), False, "socket exists")
    check_equal(locked_bytes("disk"), [], "locked bytes")


# ---- the first sync of the next one ----

# As long as a file "hold" is there, syncs wait and say so in a file "held"; one fails for a file "fail".
SHIM = """
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int fdatasync(int fd)
{
	int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");

	if (access("hold", F_OK) == 0)
		close(open("held", O_CREAT | O_WRONLY, 0644));
	while (access("hold", F_OK) == 0)
		usleep(1000);
	if (unlink("fail") == 0) {
		errno = EIO;
		return -1;
	}
	return next(fd);
}
"""


def shimmed_disk(**kwargs):
    """The pool of threads is taken, since io_uring does not ask the C library. The shim looks for
    files."""
    if not os.path.exists("shim.so"):
        pathlib.Path("shim.c").write_text(SHIM)
        run("cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-o", "shim.so", "shim.c", "-ldl")
    asan = os.environ.get("ASAN_OPTIONS", "")
    env = {"LD_PRELOAD": str(pathlib.Path("shim.so").absolute()), "OXBOW_IO": "threads",
           "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}
    return kept_disk("--no-sandbox", env=env, **kwargs)


def touch(name):
    pathlib.Path(name).touch()


def expect_eio(call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        check_equal(error.errno, "EIO", "error")
        return
    raise Failure(f"{call.__name__} was answered with success")


def write_before_the_death(server):
    handle = nbd_connect(server.uri)
    handle.pwrite(b"\x77" * MIB, 0)
    touch("hold")
    server.kill_worker()


def check_reads_on(server):
    handle = nbd_connect(server.uri)
    check_bytes(handle.pread(MIB, 0), b"\x77" * MIB, "what was answered before")
    expect_eio(handle.pwrite, b"\x78" * 512, 0)
    expect_eio(handle.flush)
    check_bytes(handle.pread(MIB, 0), b"\x77" * MIB, "what was answered before")


def test_serving_begins_before_the_sync_of_the_dead_ones_writes_has_ended():
    for kind in ("", "qed:", "raw:"):
        with shimmed_disk(kind=kind) as server:
            write_before_the_death(server)
            handle = nbd_connect(server.uri)
            check_bytes(handle.pread(MIB, 0), b"\x77" * MIB, "what was answered before")
            handle.pwrite(b"\x78" * 512, 0)
            eventually("the sync", lambda: os.path.exists("held"))
            check_equal(descriptors(server.keeper).count("disk"), 1 + 7 + 8, "the keeper's: locked, old, next")
            check_equal(descriptors(server.worker()).count("disk"), 3, "the worker's: fresh, locked, witness")
            cookie = handle.aio_flush()
            check_bytes(handle.pread(512, 0), b"\x78" * 512, "what was written since")
            check_equal(handle.aio_command_completed(cookie), False, "a flush has overtaken the sync")
            os.unlink("hold")
            eventually("the flush", lambda: handle.poll(1) == 1 and handle.aio_command_completed(cookie))
        for name in ("disk", "held"):
            os.unlink(name)


def test_a_sync_that_failed_for_the_dead_leaves_a_disk_that_is_read_on():
    for kind in ("", "qed:", "raw:"):
        with shimmed_disk(kind=kind) as server:
            write_before_the_death(server)
            touch("fail")
            os.unlink("hold")
            nbd_connect(server.uri).shutdown()
            eventually("the sync", lambda: not os.path.exists("fail"))
            check_reads_on(server)
            if kind != "raw:":
                # Neither does another death lift it.
                server.next_worker(server.kill_worker())
                check_reads_on(server)
            check_equal(server.terminate(), 1, "exit code")
        os.unlink("disk")


def test_an_error_that_the_kernel_told_the_dead_alone_is_told_to_the_next():
    """The host has no room for what is in its page cache. A raw disk, which has no state that knows."""
    where = mounted("tmpfs", MIB)
    device = loop_device(DISK_BYTES, name=where / "device.img")
    with Kept("-f", "raw", device) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x77" * (4 * MIB), 0)
        expect_eio(handle.flush)
        server.kill_worker()
        handle = nbd_connect(server.uri)
        expect_eio(handle.flush)
        expect_eio(handle.pwrite, b"\x78" * 512, 0)
        handle.shutdown()
        check_equal(server.terminate(), 1, "exit code")


def test_workers_that_die_before_the_sync_has_ended_use_the_witnesses_up():
    with shimmed_disk() as server:
        write_before_the_death(server)
        worker = server.worker()
        for _ in range(8):
            eventually("the sync", lambda: os.path.exists("held"))
            check_equal("Nobody can tell" in server.stderr(), False, "the witnesses are used up")
            os.unlink("held")
            worker = server.next_worker(server.kill_worker())
        check_in("Nobody can tell any more whether a sync of 'disk' failed", server.stderr())
        check_reads_on(server)
        os.unlink("hold")
        check_equal(server.terminate(), 1, "exit code")


def test_a_sync_that_has_ended_gives_new_witnesses():
    with shimmed_disk() as server:
        for _ in range(10):
            server.next_worker(server.kill_worker())
            handle = nbd_connect(server.uri)
            handle.pwrite(b"\x78" * 512, 0)
            handle.flush()
        check_equal("Nobody can tell" in server.stderr(), False, "the witnesses are used up")


def test_a_disk_that_is_only_read_is_served_on():
    oxbow("create", "-q", "-f", "qcow2", "disk", "8M")
    before = fingerprint("disk")
    for args in (("-r",), ("-r", "-U")):
        with Kept(*args, "disk") as server:
            for _ in range(2):
                server.next_worker(server.kill_worker())
                check_equal(read_disk(server), bytes(8 * MIB), "the disk")
    check_equal(fingerprint("disk"), before, "the image")


# ---- a killed keeper ----

def test_a_killed_keeper_takes_its_worker_along():
    with kept_disk("-t", "directsync") as server:
        for turn in range(3):
            worker = server.worker()
            promises = Promises(bytes(DISK_BYTES) if turn == 0 else data, 16 * KIB, 16 * KIB)
            writer = Writer(server.uri, promises, "directsync", turn)
            threading.Timer(0.1, server.kill9).start()
            writer.run()
            # The next one comes as soon as it is told to, and waits for what the dead one left.
            eventually("the worker's end", lambda: parent_of(worker) is None)
            server.start()
            data = read_disk(server)
            promises.check(data)


def test_nobody_else_writes_while_requests_of_a_killed_keeper_go_on():
    """The locks are let go when the worker's last request has ended, and not with the keeper."""
    for turn in range(5):
        with kept_disk("-t", "directsync") as server:
            handle = nbd_connect(server.uri)
            buffers = [bytearray(b"\xaa" * MIB) for _ in range(6)]
            import nbd
            kept = [nbd.Buffer.from_bytearray(buffer) for buffer in buffers]
            for number, buffer in enumerate(kept):
                handle.aio_pwrite(buffer, number * MIB)
            for _ in range(3):
                handle.poll(10)
            server.kill9()
            qemu_writes = run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x55 0 8M", "disk", check=False)
            while qemu_writes.returncode != 0:  # refused until then
                check_in("lock", qemu_writes.stderr)
                qemu_writes = run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x55 0 8M", "disk",
                                  check=False)
        time.sleep(0.1)
        check_codes("disk", (0, 3), "after both")
        check_equal(guest_bytes_by_oxbow("disk") == b"\x55" * DISK_BYTES, True, "what was written last")
        os.unlink("disk")


# ---- the end ----

def test_sigterm_ends_both_with_0():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with kept_disk("--pid-file", "pid") as server:
            worker = server.worker()
            handle = nbd_connect(server.uri)
            handle.pwrite(b"\x22" * 4096, 0)
            server.process.send_signal(number)
            check_equal(server.wait(), 0, "exit code")
            check_equal(server.stderr(), "", "stderr")
        check_equal((parent_of(worker), os.path.exists(server.socket), os.path.exists("pid")),
                    (None, False, False), "what is left: worker, socket, pid file")
        check_equal(locked_bytes("disk"), [], "locked bytes")
        check_closed("disk")
        os.unlink("disk")


def test_sigterm_between_two_workers_closes_the_image():
    for seconds in (0, 0.005, 0.02, 0.05, 0.1):
        with kept_disk(kind="lazy_refcounts=on") as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(b"\x33" * MIB, 0)
            handle.flush()
            server.kill_worker()
            time.sleep(seconds)
            check_equal(server.terminate(), 0, "exit code")
        check_equal(image_file("disk").is_dirty, False, "mark after the end")
        check_leaks_at_most("disk", "what the dead one held in reserve")
        os.unlink("disk")


def test_a_signal_that_reaches_all_of_a_group_does_no_harm():
    """As Ctrl-C does. A worker that took it for a second signal would not wait for slow clients."""
    import nbd

    with kept_disk("-t", "directsync", wrapper=("setsid",)) as server:
        worker = server.worker()
        check_equal(os.getpgid(worker), server.keeper, "process group")
        handle = nbd_connect(server.uri)
        errors = []
        buffers = [nbd.Buffer.from_bytearray(bytearray(b"\x44" * MIB)) for _ in range(8)]
        for number, buffer in enumerate(buffers):
            handle.aio_pwrite(buffer, number * MIB, lambda error: errors.append(error.value) or 1)
        while not errors:
            handle.poll(1000)
        os.killpg(server.keeper, signal.SIGINT)
        try:
            while handle.aio_in_flight():
                handle.poll(1000)
        except nbd.Error:
            pass  # what was not accepted
        check_equal(server.wait(), 0, "exit code")
        check_equal(server.stderr(), "", "stderr")
    check_closed("disk")


def test_a_signal_to_the_worker_alone_ends_nothing():
    with kept_disk() as server:
        worker = server.worker()
        os.kill(worker, signal.SIGTERM)
        nbd_connect(server.uri).shutdown()
        check_equal(server.worker(), worker, "the worker")


def test_the_pid_file_names_the_keeper_for_good():
    with kept_disk("--pid-file", "pid") as server:
        for _ in range(2):
            check_equal(pathlib.Path("pid").read_text(), f"{server.keeper}\n", "pid file")
            server.next_worker(server.kill_worker())


def test_as_process_1_it_reaps_and_ends_with_0():
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if run(*inside, "true", check=False).returncode != 0:
        print("# no pid namespaces here")
        return
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    with Server("disk", wrapper=inside) as server:
        init = eventually("process 1", lambda: children_of(server.process.pid))[0]
        worker = eventually("the worker", lambda: children_of(init))[0]
        os.kill(worker, signal.SIGKILL)
        nbd_connect(server.uri).shutdown()
        os.kill(init, signal.SIGTERM)
        check_equal(server.wait(), 0, "exit code")


# ---- what is seen from outside ----

def test_locks_are_named_after_the_keeper():
    with kept_disk() as server:
        for _ in range(2):
            expect_failure(oxbow_path(), "io", "-c", "length", "disk",
                           message=f"process {server.keeper})")
            expect_failure("qemu-io", "-f", "qcow2", "-c", "write 0 512", "disk", message="lock")
            server.next_worker(server.kill_worker())


def test_each_process_has_what_it_needs_and_no_more():
    witnesses = 8
    keeper = ["anon_inode:[signalfd]", "base", "disk", *["disk"] * witnesses, "memfd:oxbow-flight",
              "memfd:oxbow-state", "memfd:oxbow-stats", "oxbow", "pipe", "socket", "socket", "stat"]
    worker = ["anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[io_uring]", "base", "disk",
              "memfd:oxbow-state", "pipe", "pipe", "socket", "socket"]
    oxbow("create", "-q", "-f", "qcow2", "base", "1M")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk")
    foreign = os.open("base", os.O_RDONLY)
    on_exit(lambda: os.close(foreign))
    with Kept("--allow-backing", "disk", env={"OXBOW_IO": "io_uring"}, pass_fds=(foreign,)) as server:
        for _ in range(3):
            # One that a stranger left open stays the keeper's; it is not handed on.
            # The last witnesses go once the worker's first sync has ended.
            eventually("the keeper's descriptors",
                       lambda: descriptors(server.keeper) == sorted(keeper + ["base"]))
            eventually("the worker's", lambda: descriptors(server.worker()) == worker)
            check_equal(children_of(server.keeper), [server.worker()], "the keeper's children")
            server.next_worker(server.kill_worker())


def test_each_process_has_what_its_engine_and_a_reader_need():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    keeper = ["anon_inode:[signalfd]", "disk", "memfd:oxbow-flight", "memfd:oxbow-stats", "oxbow", "pipe", "socket", "socket",
              "stat"]
    reader = ["anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[io_uring]", "disk", "pipe", "pipe",
              "socket", "socket"]
    with Kept("-r", "disk", env={"OXBOW_IO": "io_uring"}) as server:
        check_equal(descriptors(server.keeper), keeper, "the keeper's of a reader")
        check_equal(descriptors(server.worker()), reader, "the reader's")
    # With threads, what a ring holds is a descriptor: the barrier, and the locked image.
    writer = ["anon_inode:[eventpoll]", "anon_inode:[eventpoll]", "anon_inode:[timerfd]", "disk", "disk",
              "memfd:oxbow-state", "pipe", "pipe", "pipe", "socket", "socket"]
    with Kept("disk", env={"OXBOW_IO": "threads"}) as server:
        check_equal(descriptors(server.worker()), writer, "the writer's")


def private_kib(pid):
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines()
               if line.startswith(("Private_Clean", "Private_Dirty")))


def test_the_keeper_stays_small():
    """Whatever the size of the image, the length of its chain, and what has been written and has died."""
    oxbow("create", "-q", "-f", "qcow2", "0", "10T")
    for number in range(1, 20):
        oxbow("create", "-q", "-f", "qcow2", "-b", str(number - 1), "-F", "qcow2", str(number))
    with Kept("--allow-backing", "19") as server:
        most = private_kib(server.keeper)
        for turn in range(3):
            handle = nbd_connect(server.uri)
            for number in range(300):
                handle.pwrite(b"\x11" * 4096, (turn * 300 + number) * 10 * 1024 * MIB)
            server.next_worker(server.kill_worker())
            most = max(most, private_kib(server.keeper))
    print(f"# the keeper has had {most} KiB of its own")
    if most > 512 and "asan" not in oxbow_path():
        raise Failure(f"the keeper has {most} KiB of its own")


def test_what_fails_at_the_start_fails_as_without_a_keeper():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    oxbow("create", "-q", "-f", "qcow2", "locked", "1M")
    pathlib.Path("raw").write_bytes(bytes(MIB))
    os.mkdir("dir")
    pathlib.Path("file").write_text("text")
    oxbow("create", "-q", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "above")
    oxbow("create", "-q", "-f", "qcow2", "gone", "1M")
    oxbow("create", "-q", "-f", "qcow2", "-b", "gone", "-F", "qcow2", "orphan")
    os.rename("gone", "loop")
    oxbow("create", "-q", "-f", "qcow2", "-b", "loop", "-F", "qcow2", "x")
    os.rename("x", "loop")
    oxbow("create", "-q", "-f", "qcow2", "-b", "locked", "-F", "qcow2", "over", "1M")
    place = ("--nbd", "s.sock")
    with Server("locked") as holder:
        cases = (
            (*place, "no-such-file"), (*place, "raw"), (*place, "dir"), (*place, "above"),
            (*place, "--allow-backing=dir", "above"), (*place, "--allow-backing", "orphan"),
            (*place, "--allow-backing=dir", "orphan"),
            (*place, "--allow-backing", "loop"), (*place, "--allow-backing", "over"),
            (*place, "locked"), (*place, "-r", "locked"), (*place, "--fd", "99", "disk"),
            ("--nbd", "file", "disk"), ("--nbd", holder.socket, "disk"), ("--nbd", "dir/x/s.sock", "disk"),
            ("--nbd", "10809", "disk"), (*place, "--pid-file", "dir/x/pid", "disk"),
            (*place, "-f", "nonsense", "disk"), (*place, "--cache", "fast", "disk"),
        )
        for case in cases:
            alone = run(oxbow_path(), "serve", "--no-keeper", *case, check=False)
            kept = run(oxbow_path(), "serve", *case, check=False)
            check_equal((kept.returncode, kept.stdout, kept.stderr),
                        (alone.returncode, alone.stdout, alone.stderr), f"exit code and texts of {case}")
            check_equal(kept.returncode, 1, f"exit code of {case}")
            check_equal(os.path.exists("s.sock"), False, "socket exists")
    check_equal(locked_bytes("disk"), [], "locked bytes")


def test_where_no_keeper_can_be_it_says_how_to_serve():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    loader = re.search(r"\S*/ld-linux\S*", output("ldd", oxbow_path()))[0]
    serve = (oxbow_path(), "serve", "--nbd", "s.sock", "disk")
    for how in (("unshare", "-m", "sh", "-c", 'umount -l /proc; exec "$@"', "-"),  # nothing opened anew
                (loader,),  # which is the program that runs
                ("prlimit", f"--fsize={64 * KIB}")):  # too little for the state
        result = run(*how, *serve, check=False)
        check_equal(result.returncode, 1, f"exit code of {how}")
        check_in("serve with --no-keeper", result.stderr)
        check_equal(os.path.exists("s.sock"), False, "socket exists")
    # A descriptor that whoever serves could not have opened.
    os.chmod("disk", 0o600)
    fd = os.open("disk", os.O_RDWR)
    on_exit(lambda: os.close(fd))
    os.chmod(".", 0o777)
    shutil.copy(oxbow_path(), "oxbow")
    result = run("setpriv", "--reuid=65534", "--clear-groups", "./oxbow", "serve", "--fd", fd, "--nbd",
                 "s.sock", "disk", check=False, pass_fds=(fd,))
    check_equal(result.returncode, 1, "exit code")
    check_in("serve with --no-keeper", result.stderr)
    check_equal(locked_bytes("disk"), [], "locked bytes")


def test_nobody_but_a_keeper_makes_a_worker():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    for role in ("worker:0", "opener:0", "worker:99", "worker", "keeper:1"):
        result = run(oxbow_path(), "serve", "--kept-as", role, "--nbd", "s.sock", "disk", check=False)
        check_in("keeper", result.stderr)
        check_in(result.returncode, (1, 3))


run_tests(globals())
