#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Limits of a disk's I/Os and bandwidth (docs/limits.md): shared by all clients, in turns, and nothing
that ends waits for them."""
import struct

from kept import *
from nbdwire import Client, READ
from vhostwire import FrontEnd, IN, Memory, OK, OUT, RESET_DEVICE, Ring

SOCKET = "disk.vhost"
BLOCK = 4096
# After its first request nothing is due for hours.
STILL = ("--limit", "bandwidth=1")
LARGE = bytes(64 * KIB)


def limited(*args):
    return kept_disk("--vhost-user-blk", SOCKET, *args)


def connect():
    front = FrontEnd(SOCKET)
    on_exit(front.close)
    return front


def guest(rings=1):
    memory = Memory()
    return memory, [Ring(memory, index) for index in range(rings)]


def replies_so_far(client):
    """How many simple replies to reads of a block lie in the socket."""
    client.link.setblocking(False)
    count = 0
    try:
        while data := client.link.recv(1 << 20):
            count += len(data)
    except BlockingIOError:
        pass
    return count // (16 + BLOCK)


def test_clients_and_rings_take_turns():
    """The greedy client needs ten seconds for all that it wants, the others one."""
    memory, rings = guest(2)
    with limited("--limit", "iops=20,iops-burst=1") as server:
        front = connect()
        front.as_qemu(memory, rings)
        greedy, other = Client(server), Client(server)
        # at once: many small messages fill a socket
        greedy.send(b"".join(struct.pack(">IHHQQI", 0x25609513, 0, READ, n, 0, BLOCK)
                             for n in range(200)))
        for ring in rings:
            for _ in range(5):
                ring.add(IN, 0, length=512)
            ring.notify()
        for _ in range(5):
            other.request(READ, 0, BLOCK)
        for _ in range(5):
            other.reply()
        for ring in rings:
            ring.wait()
        answered = replies_so_far(greedy)
        if not 0 < answered < 100:
            raise Failure(f"the greedy client has {answered} answers when the others have all")
        greedy.close()


def test_what_waits_for_a_limit_is_left_where_it_is_by_whatever_ends():
    memory, rings = guest()
    ring = rings[0]
    with limited("-v", *STILL) as server:
        front = connect()
        inflight = front.as_qemu(memory, rings)
        Client(server).write(0, LARGE)  # larger than what can be saved up
        waits, leaves = Client(server), Client(server)
        waits.request(READ, 0, BLOCK)
        leaves.request(READ, 0, BLOCK)
        request = ring.add(IN, 0, length=512)
        ring.notify()
        check_equal(front.get_base(ring), 0, "the next index of a ring whose request waits")
        check_equal((ring.reap(), request["status"]), ([], None), "answers")
        front.start_ring(ring)
        check_equal(front.set_memory(memory), True, "whether a memory table is taken")
        check_equal(front.tell(RESET_DEVICE), True, "whether a reset is carried out")
        leaves.close()
        eventually("the leave of a client", lambda: "client 3 " in server.stderr()
                   and "is gone" in server.stderr())
        check_equal(replies_so_far(waits), 0, "answers that the limit forbids")
        os.close(inflight[0])
    waits.check_closed("connection at the end of the server")


def test_a_front_end_that_goes_leaves_its_ring_as_it_is():
    memory, rings = guest()
    ring = rings[0]
    with limited("-v", *STILL) as server:
        Client(server).write(0, LARGE)
        inflight = None
        for connection in range(1, 4):
            front = connect()
            inflight = front.as_qemu(memory, rings, inflight)
            ring.add(IN, 0, length=512)
            ring.notify()
            front.get_config()
            front.get_config()  # the server has turned, and asked for the ring
            client = Client(server)
            client.request(READ, 0, BLOCK)
            front.close()
            eventually("the leave of a front end",
                       lambda: f"front end {connection} is gone" in server.stderr())
        check_equal((ring.reap(), len(ring.flying)), ([], 3), "answers")


def test_a_guest_finds_each_request_answered_once_under_a_limit_and_a_death():
    memory, rings = guest(2)
    with limited("--limit", "iops=100,iops-burst=1,bandwidth=1G") as server:
        front = connect()
        inflight = front.as_qemu(memory, rings)
        pid = server.worker()
        for ring in rings:
            for i in range(25):
                ring.add(OUT, 8 * (25 * ring.index + i), bytes([ring.index * 100 + i + 1]) * BLOCK)
            ring.notify()
        requests = [request for ring in rings for request in ring.flying.values()]
        eventually("the first answers", lambda: [ring.reap() for ring in rings][0])
        server.kill_worker()
        server.worker_after(pid)
        front = connect()
        front.as_qemu(memory, rings, inflight)
        for ring in rings:
            ring.wait()
        check_equal({request["status"] for request in requests}, {OK}, "statuses")
        client = Client(server)
        for n in range(50):
            check_equal(client.read(n * BLOCK, BLOCK), bytes([n // 25 * 100 + n % 25 + 1]) * BLOCK,
                        f"block {n}")


def test_what_is_no_limit_is_refused():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    for text in ("iops", "iops=0,iops-burst=5", "bandwidth=fast", "iops=5,iops=6"):
        refused = run(oxbow_path(), "serve", "--nbd", "./socket", "--limit", text, "disk",
                      check=False)
        check_equal(refused.returncode, 1, "exit status")
        check_in("iops=N, iops-burst=N, bandwidth=SIZE", refused.stderr, f"message for {text!r}")


run_tests(globals())
