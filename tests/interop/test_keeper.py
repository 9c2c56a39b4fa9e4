#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 60
"""`oxbow serve --keeper`: the process that serves is killed, and those who use the disk hardly notice
(docs/processes.md)."""
import random
import re
import resource
import threading

import nbd

from interop import *
from killed_writer import Writer
from promises import Promises

DISK_BYTES = 8 * MIB


def parent_of(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)


def children_of(pid):
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(name) == pid]


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def eventually(what, look, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failure(f"{what} does not come")
        time.sleep(0.002)
    return found


class Kept(Server):
    """A server with a keeper, which is the process that was started."""

    def __init__(self, *args, **kwargs):
        super().__init__("--keeper", *args, **kwargs)

    @property
    def keeper(self):
        return self.process.pid

    def _find_worker(self):
        return next((pid for pid in children_of(self.keeper)
                     if any(word.startswith("--kept-as=worker") for word in command_of(pid))), None)

    def worker(self):
        return eventually("a worker", self._find_worker)

    def kill_worker(self, number=signal.SIGKILL):
        pid = self.worker()
        check_equal(parent_of(pid), self.keeper, "parent of the process to kill")
        os.kill(pid, number)
        return pid

    def next_worker(self, old):
        """The one that serves after it."""
        pid = eventually("another worker", lambda: (found := self._find_worker()) != old and found)
        handle = nbd_connect(self.uri)
        handle.shutdown()
        return pid


def kept_disk(*args, size=DISK_BYTES, kind="", **kwargs):
    oxbow("create", "-q", *kind_args(kind), "disk", str(size))
    return Kept("-f", split_kind(kind)[0], *args, "disk", **kwargs)


def read_disk(server):
    handle = nbd_connect(server.uri)
    data = nbd_read_all(handle)
    handle.shutdown()
    return data


# ---- a killed worker ----

def kill_under_load(kills, cache, kind="", seed="", **kwargs):
    """Writes, kills and compares, with one keeper and one address for all of it."""
    rng = random.Random(f"{seed} {cache} {kind}")
    promises = Promises(bytes(DISK_BYTES), 16 * KIB, 16 * KIB)
    acknowledged = 0
    with kept_disk("--cache", cache, kind=kind, **kwargs) as server:
        for turn in range(kills):
            writer = Writer(server.uri, promises, cache, rng.random())
            writer.synchronous = True  # what is answered is kept, flushed or not (D10)
            killer = threading.Timer(rng.uniform(0.02, 0.25), server.kill_worker)
            killer.start()
            writer.run()
            killer.join()
            acknowledged += writer.acknowledged
            data = read_disk(server)
            try:
                promises.check(data)
            except Failure as error:
                raise Failure(f"after kill {turn}: {error}") from None
            promises.settle(data)
        told = server.stderr()
        check_equal(server.terminate(), 0, "exit code")
    check_equal(told.count("died of signal 9"), kills, "deaths that were told")
    check_equal(told.count("serves 'disk' again"), kills, "starts that were told")
    check_bytes(guest_bytes_by_oxbow("disk"), data, "the disk afterwards")
    check_leaks_at_most("disk", "after the kills")
    if acknowledged < kills:
        raise Failure(f"only {acknowledged} requests were acknowledged: nothing was tested")


def test_twenty_kills_lose_no_answered_write():
    kill_under_load(20, "directsync")


def test_kills_lose_no_answered_write_with_threads():
    kill_under_load(8, "directsync", env={"OXBOW_IO": "threads"})


def test_kills_lose_no_answered_write_through_the_page_cache():
    kill_under_load(8, "writethrough")


def test_kills_lose_no_answered_write_that_no_flush_has_followed():
    for cache in ("writeback", "none", "unsafe"):
        for kind in ("", "qed:", "compat=1.1,lazy_refcounts=on", "cluster_size=4k"):
            kill_under_load(6, cache, kind=kind)
            os.unlink("disk")


def test_kills_lose_no_answered_write_of_a_qed_or_lazy_image():
    for kind in ("qed:", "compat=1.1,lazy_refcounts=on"):
        kill_under_load(5, "directsync", kind=kind)
        os.unlink("disk")


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


def kills_take_nothing_that_was_answered(kind, cache, kills=6):
    """No flush, ever: new clusters are written until the server dies, each answer is kept count of."""
    cluster = 64 * KIB
    expected = {}
    rng = random.Random(f"{kind} {cache}")
    with kept_disk("--cache", cache, "--table-age", "never", "--lazy-idle", "never", size=64 * MIB,
                   kind=kind) as server:
        for turn in range(kills):
            killer = threading.Timer(rng.uniform(0.01, 0.15), server.kill_worker)
            handle = nbd_connect(server.uri)
            killer.start()
            try:
                for n in range(100000):
                    at = rng.randrange(1024)
                    data = bytes([1 + (n + turn) % 255]) * cluster
                    expected.pop(at, None)  # while it is not answered it may be there or not
                    handle.pwrite(data, at * cluster)
                    expected[at] = data
            except nbd.Error:
                pass
            killer.join()
            handle = nbd_connect(server.uri)
            for at, data in expected.items():
                check_bytes(bytes(handle.pread(cluster, at * cluster)), data,
                            f"{kind} {cache}: cluster {at} after kill {turn}")
        told = server.stderr()
    check_equal(told.count("serves 'disk' again"), kills, "deaths that were told")
    check_equal("not closed cleanly" in told, False, "a recovery")
    check_in(oxbow("check", *kind_args(kind)[:2], "disk", check=False).returncode, (0, 3), "the check")


def test_kills_take_nothing_that_was_answered_and_not_flushed():
    for kind in ("", "lazy_refcounts=on", "qed:cluster_size=65536"):
        for cache in ("writeback", "none", "unsafe"):
            kills_take_nothing_that_was_answered(kind, cache)


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


def test_a_sync_that_failed_for_the_dead_is_told_to_the_next():
    inject = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e",
              "inject=fsync:error=EIO")
    with kept_disk(wrapper=inject, env={"ASAN_OPTIONS": "detect_leaks=0"}) as server:
        server.kill_worker()
        check_equal(server.wait(), 1, "exit code")
        check_in("Could not open 'disk' again: a sync failed", server.stderr())


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
    with Server("--keeper", "disk", wrapper=inside) as server:
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


def descriptors(pid):
    """What they are, sorted; standard ones left out."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if int(name) > 2:
            found.append(re.sub(r"(socket|pipe):.*", r"\1", os.path.basename(target.removesuffix(" (deleted)"))))
    return sorted(found)


def test_each_process_has_what_it_needs_and_no_more():
    keeper = ["anon_inode:[signalfd]", "base", "disk", "disk", "disk", "disk", "memfd:oxbow-state",
              "oxbow", "pipe", "socket", "socket"]
    worker = ["anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[io_uring]", "base", "disk",
              "memfd:oxbow-state", "pipe", "pipe", "socket", "socket"]
    oxbow("create", "-q", "-f", "qcow2", "base", "1M")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk")
    foreign = os.open("base", os.O_RDONLY)
    on_exit(lambda: os.close(foreign))
    with Kept("--allow-backing", "disk", env={"OXBOW_IO": "io_uring"}, pass_fds=(foreign,)) as server:
        for _ in range(3):
            # One that a stranger left open stays the keeper's; it is not handed on.
            check_equal(descriptors(server.keeper), sorted(keeper + ["base"]), "the keeper's")
            check_equal(descriptors(server.worker()), worker, "the worker's")
            check_equal(children_of(server.keeper), [server.worker()], "the keeper's children")
            server.next_worker(server.kill_worker())


def test_the_keeper_stays_small():
    with kept_disk() as server:
        server.next_worker(server.kill_worker())
        if "asan" in oxbow_path():
            return
        rollup = pathlib.Path(f"/proc/{server.keeper}/smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.splitlines()
                      if line.startswith(("Private_Clean", "Private_Dirty")))
        if private > 512:
            raise Failure(f"the keeper has {private} KiB of its own")


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
            alone = run(oxbow_path(), "serve", *case, check=False)
            kept = run(oxbow_path(), "serve", "--keeper", *case, check=False)
            check_equal((kept.returncode, kept.stdout, kept.stderr),
                        (alone.returncode, alone.stdout, alone.stderr), f"exit code and texts of {case}")
            check_equal(kept.returncode, 1, f"exit code of {case}")
            check_equal(os.path.exists("s.sock"), False, "socket exists")
    check_equal(locked_bytes("disk"), [], "locked bytes")


def test_nobody_but_a_keeper_makes_a_worker():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    for role in ("worker:0", "opener:0", "worker:99", "worker", "keeper:1"):
        result = run(oxbow_path(), "serve", "--kept-as", role, "--nbd", "s.sock", "disk", check=False)
        check_in("keeper", result.stderr)
        check_in(result.returncode, (1, 3))


run_tests(globals())
