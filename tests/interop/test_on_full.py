#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""--on-full=pause: a write that finds no room on the host waits for it, and nothing else does
(docs/full.md)."""
import socket
import struct

import nbdwire
from hostfs import *
from kept import *
from nbdwire import Client
from vhostwire import *

SOCKET = "disk.vhost"
HOST_BYTES = 16 * MIB
ROOM = 3 * MIB
BLOCK = 64 * KIB
WRITES = 60  # more than there is room for
IS_FULL = "is full: writes wait until there is room"
HAS_ROOM = "has room again: writes go on"
PAUSE = "--on-full=pause"


class Host:
    """A file system with an image that has not much room, and a server of it."""

    def __init__(self, *args, kind="ext4", options="lazy_refcounts=on", room=ROOM):
        self.where = mounted(kind, HOST_BYTES)
        self.image = self.where / "disk"
        oxbow("create", "-q", *kind_args(options), self.image, "256M")
        self.filler = self.where / "filler"
        leave_room(self.filler, room)
        self.server = Kept("-f", format_of(self.image), PAUSE, "--vhost-user-blk", SOCKET, *args,
                           self.image)

    def await_full(self, count=1):
        eventually("the pause", lambda: self.server.stderr().count(IS_FULL) == count)

    def make_room(self):
        os.unlink(self.filler)
        run("sync", "-f", self.where)


def connect():
    front = FrontEnd(SOCKET)
    on_exit(front.close)
    return front


def guest():
    memory = Memory(16 * MIB)
    return memory, Ring(memory, 0, 256)


def offer_writes(ring, count=WRITES):
    """Writes of a block each, which begin at the disk's begin."""
    requests = [ring.add(OUT, n * BLOCK // 512, block_at((n + 1) * BLOCK, BLOCK)) for n in range(count)]
    ring.notify()
    return requests


def send_writes(client, count=WRITES):
    """The same over NBD: the numbers of the blocks, by cookie."""
    return {client.request(nbdwire.WRITE, n * BLOCK, BLOCK, 0, block_at((n + 1) * BLOCK, BLOCK)): n
            for n in range(count)}


def take_replies(client, cookies, count):
    """Of so many replies: {number of the block: error}."""
    errors = {}
    for _ in range(count):
        cookie, reply = client.reply()
        errors[cookies.pop(cookie)] = reply.error
    return errors


def check_disk(client, blocks):
    for n in blocks:
        check_bytes(client.read(n * BLOCK, BLOCK), block_at((n + 1) * BLOCK, BLOCK), f"block {n}")


def nbd_client_waits_alone(kind, cache, options, engine):
    host = Host("-t", cache, kind=kind, options=options)
    host.server.env["OXBOW_IO"] = engine
    with host.server as server:
        full, other = Client(server), Client(server)
        cookies = send_writes(full)
        host.await_full()
        # On its own connection and on another: reads, flushes, and writes in place.
        other.write(0, block_at(BLOCK, BLOCK))
        other.ok(nbdwire.FLUSH)
        check_disk(other, [0])
        wanted = {full.request(nbdwire.FLUSH), full.request(nbdwire.READ, 0, BLOCK)}
        errors = {}
        while wanted:
            cookie, reply = full.reply()
            check_equal(reply.error, 0, "error")
            wanted.discard(cookie)
            if cookie in cookies:
                errors[cookies.pop(cookie)] = reply.error
        if not 0 < len(cookies) < WRITES:
            raise Failure(f"{len(cookies)} of {WRITES} writes wait")
        check_disk(other, errors)
        host.make_room()
        errors.update(take_replies(full, cookies, len(cookies)))
        check_equal(set(errors.values()), {0}, "errors")
        other.ok(nbdwire.FLUSH)
        check_disk(other, range(WRITES))
        server.terminate()  # all lines are written
        said = server.stderr()
        check_equal((said.count(IS_FULL), said.count(HAS_ROOM), said.count("no space")), (1, 1, 0),
                    "lines that tell of it")
    if format_of(host.image) != "raw":
        check_closed(host.image)


def make_test(*args):
    return lambda: nbd_client_waits_alone(*args)


for _args in (("ext4", "none", "lazy_refcounts=on", "uring"),
              ("ext4", "writeback", "lazy_refcounts=off", "threads"),
              ("ext4", "directsync", "lazy_refcounts=off", "uring"),
              ("ext4", "writeback", "raw:", "uring"),
              ("tmpfs", "writethrough", "lazy_refcounts=on", "uring"),
              ("tmpfs", "writeback", "qed:", "threads")):
    globals()[f"test_a_write_waits_for_room_alone_{'_'.join(_args[:2])}_{_args[2][:6]}".rstrip(":")] = (
        make_test(*_args))


def full_guest(host):
    """A guest whose writes wait: the front end, its inflight region, memory, ring, all writes."""
    memory, ring = guest()
    front = connect()
    inflight = front.as_qemu(memory, [ring])
    requests = offer_writes(ring)
    host.await_full()
    return front, inflight, memory, ring, requests


def do(ring, *args, **kwargs):
    """One request of a ring on which others wait: all that can be answered before it is."""
    request = ring.add(*args, **kwargs)
    ring.notify()
    eventually("an answer", lambda: (ring.reap(), request["status"] is not None)[1])
    return request


def waiting(requests):
    return [n for n, request in enumerate(requests) if request["status"] is None]


def check_guest_disk(server, requests):
    """What was answered well is there."""
    check_disk(Client(server), [n for n, request in enumerate(requests) if request["status"] == OK])


def test_a_guest_s_writes_wait_and_its_reads_and_flushes_do_not():
    host = Host("-t", "none")
    with host.server as server:
        _, _, _, ring, requests = full_guest(host)
        check_equal(do(ring, FLUSH)["status"], OK, "status of a flush")
        check_equal(do(ring, IN, length=512)["status"], OK, "status of a read")
        check_equal(do(ring, OUT, 0, block_at(BLOCK, BLOCK))["status"], OK, "status of a write in place")
        if not 0 < len(waiting(requests)) < WRITES:
            raise Failure(f"{len(waiting(requests))} of {WRITES} writes wait")
        host.make_room()
        ring.wait()
        check_equal({request["status"] for request in requests}, {OK}, "statuses")
        check_guest_disk(server, requests)
    check_closed(host.image)


def control_ends_the_wait(control):
    """The host stays full; the message is answered, and what waited has failed."""
    host = Host("-t", "none")
    with host.server as server:
        front, _, memory, ring, requests = full_guest(host)
        do(ring, FLUSH)
        waited = waiting(requests)
        check_equal(len(waited) > 0, True, "whether any waits")
        control(front, memory, ring)
        ring.reap()
        check_equal(waiting(requests), [], "what is not answered")
        check_equal({requests[n]["status"] for n in waited}, {IOERR}, "statuses of what waited")
        eventually("a line", lambda: "no write waits for room any more" in server.stderr())
        check_guest_disk(server, requests)
    check_closed(host.image)


def test_a_ring_that_stops_waits_for_no_room():
    control_ends_the_wait(lambda front, memory, ring: check_equal(
        front.get_base(ring), ring.used_index(), "the next index"))


def test_a_ring_that_is_disabled_waits_for_no_room():
    control_ends_the_wait(lambda front, memory, ring: front.tell_ring(SET_VRING_ENABLE, ring, 0))


def test_a_reset_waits_for_no_room():
    control_ends_the_wait(lambda front, memory, ring: check_equal(
        front.tell(RESET_DEVICE), True, "whether the reset is carried out"))


def test_a_new_memory_table_waits_for_no_room():
    control_ends_the_wait(lambda front, memory, ring: check_equal(
        front.set_memory(memory), True, "whether the table is taken"))


def test_other_messages_end_no_wait():
    host = Host("-t", "none")
    with host.server:
        front, _, _, ring, requests = full_guest(host)
        front.get_config()
        front.ask64(GET_QUEUE_NUM)
        check_equal(front.set_config(32, b"\0"), True, "whether the cache can be turned off")
        do(ring, FLUSH)
        check_equal(len(waiting(requests)) > 0, True, "whether any waits")
        host.make_room()
        ring.wait()
        check_equal({request["status"] for request in requests}, {OK}, "statuses")


def test_trims_and_writes_of_zeroes_are_served_on_a_full_host():
    host = Host("-t", "none")
    with host.server:
        _, _, _, ring, requests = full_guest(host)
        for kind in (DISCARD, WRITE_ZEROES):
            check_equal(do(ring, kind, 0, struct.pack("<QII", 0, BLOCK // 512, 0))["status"], OK,
                        f"status of request {kind}")
        check_equal(bytes(BLOCK), do(ring, IN, length=BLOCK)["data"], "what is left")
        host.make_room()
        ring.wait()
        check_equal({request["status"] for request in requests}, {OK}, "statuses")


def test_zeroes_that_need_room_wait_for_it():
    host = Host("-t", "none", options="raw:")
    with host.server as server:
        client = Client(server)
        cookies = send_writes(client, 40)  # for which there is room
        cookies[client.request(nbdwire.ZEROES, 100 * MIB, 8 * MIB, nbdwire.NO_HOLE)] = -1
        host.await_full()
        host.make_room()
        check_equal(set(take_replies(client, cookies, 41).values()), {0}, "errors")
        check_disk(client, range(40))
        eventually("the line", lambda: HAS_ROOM in server.stderr())


# ---- ends ----

def test_the_end_leaves_what_waits_in_the_inflight_region():
    """And the next server carries it out."""
    host = Host("-t", "none")
    with host.server as server:
        front, inflight, memory, ring, requests = full_guest(host)
        do(ring, FLUSH)
        waited = waiting(requests)
        client, cookies = writer(server)
        check_equal(server.terminate(), 0, "exit code")
        check_equal(take_replies(client, cookies, 1), {0: nbdwire.ENOSPC}, "what a client of NBD is told")
        ring.reap()
        check_equal(waiting(requests), waited, "what is not answered")
        check_closed(host.image)
        host.make_room()
        server.start()
        front = connect()
        front.as_qemu(memory, [ring], inflight)
        ring.wait()
        check_equal({request["status"] for request in requests}, {OK}, "statuses")
        check_guest_disk(server, requests)


def test_the_end_answers_what_waits_where_there_is_no_inflight_region():
    host = Host("-t", "none")
    with host.server as server:
        memory, ring = guest()
        connect().as_firecracker(memory, ring, writeback=True)
        requests = offer_writes(ring)
        host.await_full()
        do(ring, FLUSH)
        waited = waiting(requests)
        check_equal(server.terminate(), 0, "exit code")
        ring.reap()
        check_equal({requests[n]["status"] for n in waited}, {IOERR}, "statuses of what waited")
    check_closed(host.image)


def test_a_front_end_that_comes_again_finds_what_waits():
    host = Host("-t", "none")
    with host.server as server:
        front, inflight, memory, ring, requests = full_guest(host)
        do(ring, FLUSH)
        waited = waiting(requests)
        front.close()
        eventually("the end of the wait", lambda: "no write waits" in server.stderr())
        ring.reap()
        check_equal(waiting(requests), waited, "what is not answered")
        front = connect()
        front.as_qemu(memory, [ring], inflight)
        host.await_full(2)
        host.make_room()
        ring.wait()
        check_equal({request["status"] for request in requests}, {OK}, "statuses")
        check_guest_disk(server, requests)


def test_a_client_that_goes_takes_its_writes_along():
    host = Host("-t", "none", "-v")
    with host.server as server:
        gone, half, stays = Client(server), Client(server), Client(server)
        send_writes(gone)
        host.await_full()
        gone.close()
        eventually("its leave", lambda: "client 1 " in server.stderr() and "is gone" in server.stderr())
        stays.write(0, block_at(BLOCK, BLOCK))
        cookies = {half.request(nbdwire.WRITE, 200 * MIB, BLOCK, 0, bytes(range(256)) * 256): 0}
        host.await_full(2)
        half.link.shutdown(socket.SHUT_WR)
        check_equal(take_replies(half, cookies, 1), {0: nbdwire.ENOSPC}, "what who says no more is told")
        cookies = {stays.request(nbdwire.WRITE, 100 * MIB, BLOCK, 0, block_at(100 * MIB, BLOCK)): 0}
        host.await_full(3)
        host.make_room()
        check_equal(take_replies(stays, cookies, 1), {0: 0}, "what who stays is told")
    check_closed(host.image)


def writer(server):
    """A client of NBD whose one write finds no room."""
    client = Client(server)
    cookies = {client.request(nbdwire.WRITE, 200 * MIB, BLOCK, 0, bytes(range(256)) * 256): 0}
    client.ok(nbdwire.FLUSH)  # the server has read what came before
    return client, cookies


def test_deaths_while_writes_wait_lose_no_answered_one_and_blame_none():
    host = Host("-t", "none")
    with host.server as server:
        front, inflight, memory, ring, requests = full_guest(host)
        for death in range(3):
            client, cookies = writer(server)
            do(ring, FLUSH)
            check_guest_disk(server, requests)
            time.sleep(1.2)  # what has been in flight for so long is blamed for a death from outside
            server.worker_after(server.kill_worker())
            host.await_full(death + 2)
        client, cookies = writer(server)
        check_guest_disk(server, requests)
        host.make_room()
        ring.wait()
        check_equal(take_replies(client, cookies, 1), {0: 0}, "what a client of NBD is told")
        check_equal({request["status"] for request in requests}, {OK}, "statuses")
        check_guest_disk(server, requests)
    check_closed(host.image)


def test_without_the_option_a_write_fails():
    host = Host("-t", "none", "--on-full=error")
    with host.server as server:
        client = Client(server)
        errors = take_replies(client, send_writes(client), WRITES)
        check_equal(set(errors.values()), {0, nbdwire.ENOSPC}, "errors")
        check_equal(server.stderr().count(IS_FULL), 0, "lines that tell of a pause")
        eventually("a line", lambda: "no space on the host" in server.stderr())


# ---- block devices, low space ----

def device_disk(device, *args):
    """A disk on a device that is too small for it."""
    qemu_img("create", "-q", "-f", "qcow2", device, "256M")
    return Kept("-f", "qcow2", PAUSE, *args, device)


def test_a_device_that_becomes_longer_has_room():
    device = loop_device(4 * MIB)
    with device_disk(device, "-t", "none") as server:
        client = Client(server)
        cookies = send_writes(client, 80)
        eventually("the pause", lambda: IS_FULL in server.stderr())
        os.truncate("device.img", 16 * MIB)
        run("losetup", "-c", device)
        check_equal(set(take_replies(client, cookies, 80).values()), {0}, "errors")
        check_disk(client, range(80))
        eventually("the line", lambda: HAS_ROOM in server.stderr())


def test_a_host_that_may_tell_too_late_is_named_at_the_start():
    late = "may tell too late that there is no room"
    device = loop_device(4 * MIB)
    for cache, told in (("none", False), ("directsync", False), ("writeback", True),
                        ("writethrough", True)):
        with device_disk(device, "-t", cache) as server:
            server.terminate()  # all lines are written
            check_equal(late in server.stderr(), told, f"whether {cache} is warned of")
    where = mounted("tmpfs", HOST_BYTES)
    oxbow("create", "-q", "-f", "qcow2", where / "disk", "1M")
    for keeper in ("--keeper", "--no-keeper"):
        with Server(keeper, PAUSE, where / "disk") as server:
            server.terminate()
            check_equal(server.stderr(), "", "what a server says whose host reserves")


def test_low_space_is_told_once_and_again_after_there_was_more():
    where = mounted("ext4", HOST_BYTES)
    oxbow("create", "-q", "-f", "qcow2", where / "disk", "64M")
    filler = where / "filler"
    for keeper in ("--keeper", "--no-keeper"):
        leave_room(filler, 3 * MIB)
        with Server(keeper, "--low-space", "8M", where / "disk") as server:
            def count():
                return server.stderr().count("disk': less than 8M is free on its file system")

            eventually("the line", count)
            time.sleep(2.5)
            check_equal(count(), 1, "lines")

            def told_again():  # it may not have looked in between
                os.unlink(filler)
                run("sync", "-f", where)
                time.sleep(1.2)
                leave_room(filler, 3 * MIB)
                time.sleep(1.2)
                return count() > 1

            eventually("another line", told_again)
        os.unlink(filler)
        run("sync", "-f", where)


def test_nobody_knows_how_much_room_a_device_has():
    device = loop_device(4 * MIB)
    qemu_img("create", "-q", "-f", "qcow2", device, "1M")
    with Server("--low-space", "8M", device) as server:
        server.terminate()
        check_in("is a block device: nobody knows how much room it has left", server.stderr())


needs_root()
run_tests(globals())
