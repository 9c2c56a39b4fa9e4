#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 50
"""Deaths and hangs of the process that serves which repeat (docs/processes.md)."""
import errno

import nbd

from interop import *
from kept import *


def send(server, *requests):
    """Requests that need a sync, whose answers nobody waits for."""
    handle = nbd_connect(server.uri)
    for offset, length in requests:
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"\x5a" * length)), offset, flags=nbd.CMD_FLAG_FUA)

    def are_noted():
        handle.poll(5)
        return set(requests) <= set(in_flight(server))
    eventually("the note", are_noted)
    return handle


def die(server, number=signal.SIGABRT):
    old = server.kill_worker(number)
    server.next_worker(old)


def check_answers(server, requests, refused):
    """Each is carried out or answered with EIO."""
    handle = nbd_connect(server.uri)
    for offset, length in requests:
        try:
            handle.pwrite(b"\xa5" * length, offset, flags=nbd.CMD_FLAG_FUA)
            answer = 0
        except nbd.Error as error:
            answer = error.errnum
        check_in(answer, (errno.EIO,) if (offset, length) in refused else (0,), f"the answer at {offset}")
    handle.shutdown()


def test_a_request_in_flight_at_two_deaths_is_answered_with_an_error():
    killer = (64 * KIB, 4096)
    others = [(64 * KIB, 8192), (MIB, 4096)]
    with kept_disk(**slow_syncs(0.2)) as server:
        for _ in range(2):
            handle = send(server, killer)
            die(server)
        check_answers(server, [killer] + others, [killer])
        check_in("two processes died while a write of 4096 bytes at 65536 was under way", server.stderr())
        die(server)  # it stays so, and is told once
        check_answers(server, [killer], [killer])
        check_equal(server.stderr().count("was under way"), 1, "how often it is told")
        check_equal(server.terminate(), 0, "exit code")
        server.start()  # the operator's
        check_answers(server, [killer], [])
        handle = None


def test_a_request_that_completes_between_two_deaths_is_not_refused():
    request = (64 * KIB, 4096)
    with kept_disk(**slow_syncs(0.2)) as server:
        for _ in range(3):
            handle = send(server, request)
            die(server)
            check_answers(server, [request], [])
        handle = None


def test_what_was_killed_from_outside_blames_no_request():
    request = (64 * KIB, 4096)
    with kept_disk(**slow_syncs(0.2)) as server:
        for _ in range(3):
            handle = send(server, request)
            die(server, signal.SIGKILL)
        check_answers(server, [request], [])
        handle = None


def test_what_was_in_flight_for_long_is_blamed_for_a_kill_from_outside_too():
    request = (64 * KIB, 4096)
    with kept_disk(**slow_syncs(2)) as server:
        for _ in range(2):
            handle = send(server, request)
            time.sleep(1.2)
            die(server, signal.SIGKILL)
        check_answers(server, [request], [request])
        handle = None


def test_those_who_were_in_flight_beside_the_killer_are_not_refused():
    requests = [(64 * KIB * n, 4096) for n in range(1, 6)]
    with kept_disk(**slow_syncs(0.2)) as server:
        handle = send(server, *requests)
        die(server)
        # All are sent anew, and one of them at a time is carried out.
        handle = nbd_connect(server.uri)
        done = []
        for offset, length in requests:
            handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"\x11" * length)), offset,
                              lambda error, offset=offset: done.append(offset) or 1, flags=nbd.CMD_FLAG_FUA)

        def two_are_done():
            handle.poll(5)
            check_equal(len(set(in_flight(server)) & set(requests)) <= 1, True, "one at a time")
            return len(done) >= 2
        eventually("answers", two_are_done)
        (tried,) = eventually("the third", lambda: in_flight(server))
        die(server)
        check_answers(server, requests, [tried])
        handle = None


def test_a_flush_that_dies_twice_is_refused_and_one_that_succeeds_is_not():
    with kept_disk(**slow_syncs(0.2)) as server:
        for succeeds in (True, False, False):
            handle = nbd_connect(server.uri)
            handle.pwrite(b"\x01" * 4096, 0)
            handle.aio_flush()

            def is_noted():
                handle.poll(5)
                return (0, 0) in in_flight(server)
            eventually("the note", is_noted)
            die(server)
            if succeeds:
                handle = nbd_connect(server.uri)
                handle.flush()
        handle = nbd_connect(server.uri)
        try:
            handle.flush()
            raise Failure("the flush that killed two processes is carried out")
        except nbd.Error as error:
            check_equal(error.errnum, errno.EIO, "its error")
        check_answers(server, [(0, 4096)], [])


# ---- hangs ----

def test_a_stopped_worker_is_killed_and_nothing_is_lost():
    with kept_disk("--hang-timeout", "2") as server:
        handle = nbd_connect(server.uri)
        data = pattern("stopped", MIB)
        handle.pwrite(data, 0)
        old = server.kill_worker(signal.SIGSTOP)
        server.next_worker(old)
        check_in(f"Process {old}, which serves 'disk', hangs: it has done nothing for 2 s", server.stderr())
        check_bytes(read_disk(server)[:MIB], data, "what was answered")


def test_a_worker_that_stops_before_it_serves_is_killed():
    with kept_disk("--hang-timeout", "2") as server:
        old = server.worker()
        os.kill(old, signal.SIGKILL)
        new = eventually("another worker", lambda: (found := server._find_worker()) != old and found)
        os.kill(new, signal.SIGSTOP)
        eventually("its death", lambda: parent_of(new) is None)
        server.next_worker(new)
        check_in(f"Process {new}, which serves 'disk', hangs", server.stderr())


def test_a_worker_that_turns_is_left_alone():
    """Idle, busy, and with a disk that takes longer than the time-out."""
    for kwargs in ({}, slow_syncs(3)):
        with kept_disk("--hang-timeout", "2", **kwargs) as server:
            worker = server.worker()
            end = time.monotonic() + 6
            handle = nbd_connect(server.uri)
            while time.monotonic() < end and not kwargs:
                handle.pread(64 * KIB, 0)
            if kwargs:
                handle.pwrite(b"\x01" * 4096, 0, flags=nbd.CMD_FLAG_FUA)
            else:
                time.sleep(6)
            check_equal(server.worker(), worker, "the worker")
            check_equal(server.stderr(), "", "stderr")
            if kwargs:
                server.kill9()  # its end would take as long for each sync
        os.unlink("disk")


def test_a_hang_is_never_looked_for_if_nobody_wants_it():
    with kept_disk("--hang-timeout", "never") as server:
        expect_failure(oxbow_path(), "serve", "--hang-timeout", "1", "--nbd", "x", "disk",
                       message="it takes 2 to 86400")
        check_equal(server.terminate(), 0, "exit code")


# ---- core dumps ----

def mappings(pid):
    """(start, end, name, whether dumps leave it out) of each."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not line.startswith("VmFlags"):
            start, end = (int(word, 16) for word in words[0].split("-"))
            found.append([start, end, line, False])
        elif words[0] == "VmFlags:":
            found[-1][3] = "dd" in words
    return found


def test_core_dumps_leave_out_state_caches_and_what_clients_sent():
    secret = pattern("secret", MIB)
    with kept_disk(size=64 * MIB, kind="cluster_size=4k") as server:
        handle = nbd_connect(server.uri)
        for number, length in enumerate((512, 4096, 64 * KIB, MIB)):
            handle.pwrite(secret[:length], number * 2 * MIB)
        worker = server.worker()
        maps = mappings(worker)
        for name in ("oxbow-state", "oxbow-flight"):
            flags = [left_out for _, _, line, left_out in maps if name in line]
            check_equal(flags, [True], f"what is left out of {name}")
        places = 0
        with open(f"/proc/{worker}/mem", "rb", buffering=0) as memory:
            for start, end, line, left_out in maps:
                if " rw" not in line:
                    continue
                memory.seek(start)
                # More than a thread's registers hold, which are dumped in any case.
                if secret[:512] not in memory.read(end - start):
                    continue
                places += 1
                check_equal(left_out, True, f"{line}, with bytes of a client, is left out")
        if places == 0:
            raise Failure("no bytes of the client are anywhere")


run_tests(globals())
