#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Front ends of vhost-user whose server dies: their connections stay, no reply is missing or comes twice, each
request is answered once."""
import random
import socket

from kept import *
from vhostwire import *

SOCKET = "disk.vhost"


def served(*args, **kwargs):
    return kept_disk("--vhost-user-blk", SOCKET, *args, **kwargs)


def guest(rings=1, size=128):
    memory = Memory()
    return memory, [Ring(memory, index, size) for index in range(rings)]


class Killing(FrontEnd):
    """Has the server die at some of its messages: before one is sent, amid one, or after it."""

    def __init__(self, server, points, chance):
        super().__init__(SOCKET)
        self.server, self.points, self.chance, self.sent, self.old = server, points, chance, 0, None
        on_exit(self.close)

    def kill(self):
        # one that serves: three in a row that do not are the end
        pid = eventually("another worker", lambda: (found := self.server._find_worker()) != self.old and found)
        nbd_connect(self.server.uri).shutdown()
        self.old = pid
        os.kill(pid, signal.SIGKILL)

    def send_raw(self, data, fds=()):
        self.sent += 1
        if self.sent not in self.points:
            return super().send_raw(data, fds)
        when = self.chance.randrange(3)
        if when == 0:
            self.kill()
        cut = self.chance.randrange(1, len(data)) if when == 1 else len(data)
        super().send_raw(data[:cut], fds)
        if when > 0:
            time.sleep(self.chance.choice([0, 0.0002, 0.001]))
            self.kill()
        if cut < len(data):
            super().send_raw(data[cut:])


def fill(ring, first, count, byte):
    for i in range(count):
        ring.add(OUT, 8 * (first + i), bytes([byte]) * 4096)
    ring.notify()


ORDERS = {
    "qemu": lambda front, memory, rings: front.as_qemu(memory, rings),
    "cloud_hypervisor": lambda front, memory, rings: front.as_cloud_hypervisor(memory, rings, None),
    "firecracker": lambda front, memory, rings: front.as_firecracker(memory, rings[0], True),
    "crosvm": lambda front, memory, rings: front.as_crosvm(memory, rings),
    "libkrun": lambda front, memory, rings: front.as_libkrun(memory, rings),
}


def handshake_through_deaths(name):
    point, longest = 1, 2
    while point < longest:
        with served() as server:
            memory, rings = guest(1, 256 if name == "firecracker" else 128)
            chance = random.Random(point)
            front = Killing(server, {point, point + 8, point + 16}, chance)
            ORDERS[name](front, memory, rings)
            fill(rings[0], 0, 20, 7)
            rings[0].wait()
            check_equal(rings[0].do(FLUSH)["status"] in (OK, UNSUPP), True, "status of a flush")
            base = front.get_base(rings[0])
            check_equal(base, rings[0].used_index(), "base")
            longest = min(front.sent + 1, 9)
            check_equal(set(read_disk(server)[:20 * 4096]), {7}, "bytes on the disk")
            front.close()
        point += 1


def test_qemu_goes_on_whichever_message_its_server_dies_at():
    handshake_through_deaths("qemu")


def test_cloud_hypervisor_goes_on_whichever_message_its_server_dies_at():
    handshake_through_deaths("cloud_hypervisor")


def test_firecracker_goes_on_whichever_message_its_server_dies_at():
    handshake_through_deaths("firecracker")


def test_crosvm_goes_on_whichever_message_its_server_dies_at():
    handshake_through_deaths("crosvm")


def test_libkrun_goes_on_whichever_message_its_server_dies_at():
    handshake_through_deaths("libkrun")


# ---- under load ----

def run_through_deaths(name, turns=8):
    """Requests in flight when the server dies, over a connection that stays."""
    memory, rings = guest(1 if name in ("firecracker", "libkrun") else 2, 256)
    with served() as server:
        front = FrontEnd(SOCKET)
        on_exit(front.close)
        ORDERS[name](front, memory, rings)
        start = memory.next
        for turn in range(turns):
            old = server.worker()
            for ring in rings:
                fill(ring, 60 * ring.index, 60, turn + 1)
            os.kill(old, signal.SIGKILL)
            for ring in rings:
                ring.wait()
            memory.next = start
            check_equal(rings[0].do(FLUSH)["status"], OK, "status of a flush")
            server.next_worker(old)
            check_equal(set(read_disk(server)[:60 * len(rings) * 4096]), {turn + 1}, "bytes on the disk")
            memory.next = start
            check_equal(len(front.get_config()), 60, "bytes of the configuration")


def test_requests_of_a_front_end_with_an_inflight_region():
    run_through_deaths("qemu")


def test_requests_of_front_ends_without_one():
    run_through_deaths("firecracker")
    run_through_deaths("crosvm")


def test_two_front_ends_and_the_disk_that_one_of_them_has():
    (memory, rings), (other_memory, other_rings) = guest(), guest()
    with served() as server:
        first, second = FrontEnd(SOCKET), FrontEnd(SOCKET)
        on_exit(first.close)
        on_exit(second.close)
        first.as_qemu(memory, rings)
        second.as_crosvm(other_memory, other_rings)
        waits = other_rings[0].add(IN, 0, length=4096)
        other_rings[0].notify()
        for turn in range(3):
            fill(rings[0], 0, 20, turn + 1)
            old = server.kill_worker()
            rings[0].wait()
            check_equal(other_rings[0].reap(), [], "answers to the second while the first runs")
            server.next_worker(old)
        first.get_base(rings[0])
        other_rings[0].wait()
        check_equal((waits["status"], set(waits["data"])), (OK, {3}), "what the second reads then")
        old = server.kill_worker()
        check_equal(other_rings[0].do(IN, 0, length=512)["status"], OK, "status at the next server")


def test_a_message_that_waits_for_requests_is_carried_out_by_the_next_server():
    for message in (GET_VRING_BASE, SET_MEM_TABLE, RESET_DEVICE):
        memory, rings = guest(1, 256)
        with served() as server:
            front = FrontEnd(SOCKET)
            on_exit(front.close)
            front.as_qemu(memory, rings)
            for turn in range(3):
                requests = [rings[0].add(OUT, 8 * i, bytes([turn + 1]) * 4096) for i in range(80)]
                rings[0].notify()
                if message == GET_VRING_BASE:
                    front.send(message, struct.pack("<II", 0, 0))
                elif message == SET_MEM_TABLE:
                    front.send(message, struct.pack("<II", 1, 0) + memory.region(), [memory.fd], NEED_REPLY)
                else:
                    front.send(message, flags=NEED_REPLY)
                old = server.kill_worker()
                reply = front.receive(message)
                if message == SET_MEM_TABLE:
                    check_equal(struct.unpack("<Q", reply)[0], 0, "reply")
                    rings[0].wait()
                elif message == GET_VRING_BASE:
                    check_equal(struct.unpack("<II", reply)[1], rings[0].used_index(), "base")
                    front.start_ring(rings[0], rings[0].used_index())
                    rings[0].wait()
                else:
                    used = rings[0].used_index()
                    front.ask64(GET_QUEUE_NUM)
                    check_equal(rings[0].used_index(), used, "used index after the reset")
                    break
                check_equal({request["status"] for request in requests}, {OK}, "statuses")
                memory.next = RING_BYTES
                server.next_worker(old)


def test_the_dirty_log_goes_on():
    memory, rings = guest()
    with served() as server:
        front = FrontEnd(SOCKET)
        on_exit(front.close)
        front.as_qemu(memory, rings)
        log = os.memfd_create("log")
        on_exit(lambda: os.close(log))
        os.truncate(log, memory.size // 4096 // 8)
        front.ask(6, struct.pack("<QQ", memory.size // 4096 // 8, 0), [log])
        front.tell64(SET_FEATURES, front.features | 1 << 26)
        old = server.kill_worker()
        memory.next = 64 * 4096
        read = rings[0].do(IN, 0, length=4096)
        page = read["place"] // 4096
        check_equal(os.pread(log, 1, page // 8)[0] >> page % 8 & 1, 1, "bit of the page that was written")
        server.next_worker(old)


def test_what_is_negotiated_outlives_a_server():
    memory, rings = guest()
    with served() as server:
        front = FrontEnd(SOCKET)
        on_exit(front.close)
        front.as_qemu(memory, rings)
        check_equal(front.set_config(32, b"\0"), True, "whether the cache can be turned off")
        front.tell64(SET_STATUS, 0xf)
        old = server.kill_worker()
        check_equal(front.ask64(GET_STATUS), 0xf, "status")
        check_equal(front.get_config(32, 1), b"\0", "wce")
        check_equal(front.tell_ring(SET_VRING_NUM, rings[0], 3), False, "whether a refusal is told")
        server.next_worker(old)


def of_fronts(pid):
    """Descriptors of the kinds that sessions consist of."""
    return [name for name in descriptors(pid) if name in ("socket", "anon_inode:[eventfd]", "memfd:guest",
                                                          "memfd:oxbow-inflight")]


def test_each_process_has_what_it_needs_of_front_ends_and_no_more():
    memory, rings = guest(2)
    events = ["anon_inode:[eventfd]"] * 4  # kicks and calls
    sockets = ["socket"] * 2  # the connection, and the channel
    with served() as server:
        old = server.kill_worker()
        server.next_worker(old)  # a first worker has no witness
        keeper, worker = of_fronts(server.keeper), of_fronts(server.worker())
        for turn in range(3):
            front = FrontEnd(SOCKET)
            front.as_qemu(memory, rings)
            old = server.kill_worker()
            check_equal(rings[0].do(IN, 0, length=512)["status"], OK, "status")
            server.next_worker(old)
            has = sorted(keeper + events + sockets + ["memfd:guest", *["memfd:oxbow-inflight"] * 2])
            eventually("what the keeper has of a front end", lambda: of_fronts(server.keeper) == has)
            eventually("what the worker has", lambda: of_fronts(server.worker())
                       == sorted(worker + events + sockets))
            front.close()
            eventually("what the keeper has without it", lambda: of_fronts(server.keeper) == keeper)
            eventually("what the worker has", lambda: of_fronts(server.worker()) == worker)
            for ring in rings:
                ring.reset()


def test_a_descriptor_that_lingers_keeps_no_keeper_waiting():
    with served() as server:
        front = FrontEnd(SOCKET)
        on_exit(front.close)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            slow = socket.create_connection(listener.getsockname())
            peer = listener.accept()[0]  # which reads nothing
        on_exit(peer.close)
        slow.setblocking(False)
        try:
            while slow.send(bytes(1 << 16)):
                pass
        except BlockingIOError:
            pass
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
        pid = server.worker()
        os.kill(pid, signal.SIGSTOP)  # so that the last to close it is not this process
        front.send(SET_INFLIGHT_FD, bytes(24), [slow.fileno()])
        slow.close()
        os.kill(pid, signal.SIGCONT)
        check_equal(front.ended(), True, "whether what cannot be ends the connection")
        old = server.kill_worker()
        server.next_worker(old)


# ---- all of it dies ----

def come_again(server, unflushed=True, mode=()):
    """A front end of a server that dies with its keeper, at the next one. Returns it, its ring, its region."""
    memory, rings = guest()
    front = FrontEnd(SOCKET)
    inflight = front.as_qemu(memory, rings)
    if unflushed:
        check_equal(rings[0].do(OUT, 0, bytes(4096))["status"], OK, "status of a write")
    else:
        check_equal(rings[0].do(IN, 0, length=512)["status"], OK, "status of a read")
    server.kill9()
    check_equal(front.ended(), True, "whether the connection is lost")
    front.close()
    server.start()
    front = FrontEnd(SOCKET)
    on_exit(front.close)
    front.as_qemu(memory, rings, inflight)
    return front, memory, rings[0], inflight


def marks():
    return [entry.name for entry in pathlib.Path(".").glob("*.unflushed")]


def check_fails_until_a_guest_begins_anew(server):
    front, memory, ring, _ = come_again(server)
    check_equal([ring.do(OUT, 0, bytes(4096))["status"], ring.do(FLUSH)["status"],
                 ring.do(IN, 0, length=512)["status"]], [IOERR] * 3, "statuses")
    eventually("a line in the log", lambda: "may be lost" in server.stderr())
    front.get_base(ring)
    ring.reset()
    inflight = front.as_qemu(memory, [ring])
    check_equal(ring.do(OUT, 0, bytes(4096))["status"], OK, "status with a fresh region")
    front.close()
    front = FrontEnd(SOCKET)
    on_exit(front.close)
    front.as_qemu(memory, [ring], inflight, {0: ring.used_index()})
    check_equal(ring.do(IN, 0, length=512)["status"], OK, "status of one that comes again to the same server")
    check_equal(len(marks()), 1, "marks")


def test_requests_fail_where_answered_writes_may_be_lost():
    with served() as server:
        check_fails_until_a_guest_begins_anew(server)
    check_equal(marks(), [], "marks after an end in order")


def test_a_loss_is_not_forgotten_when_the_mark_is_gone():
    with served() as server:
        front, memory, ring, inflight = come_again(server)
        check_equal(ring.do(IN, 0, length=512)["status"], IOERR, "status")
        front.close()
        check_equal(server.terminate(), 0, "exit code")
        check_equal(marks(), [], "marks after an end in order")
        server.start()
        front = FrontEnd(SOCKET)
        on_exit(front.close)
        front.as_qemu(memory, [ring], inflight, {0: ring.used_index()})
        check_equal(ring.do(IN, 0, length=512)["status"], IOERR, "status at the next server")


def test_a_mark_that_could_not_be_made_is_made_later():
    for options in ((), ("--no-keeper",)):
        with served(*options) as server:
            memory, rings = guest()
            front = FrontEnd(SOCKET)
            on_exit(front.close)
            front.as_qemu(memory, rings)
            st = os.stat("disk")
            in_the_way = pathlib.Path(f"{st.st_dev:x}-{st.st_ino}.unflushed")
            in_the_way.mkdir()
            check_equal(rings[0].do(OUT, 0, bytes(4096))["status"], OK, "status of a write")
            eventually("a line in the log", lambda: "It cannot be noted that writes are answered" in server.stderr())
            in_the_way.rmdir()

            def is_made():
                check_equal(rings[0].do(OUT, 0, bytes(4096))["status"], OK, "status of a write")
                return in_the_way.is_file()
            eventually("the mark", is_made)
            front.close()
        check_equal(marks(), [], "marks after an end in order")


def test_the_same_without_a_keeper():
    with served("--no-keeper") as server:
        check_fails_until_a_guest_begins_anew(server)
    check_equal(marks(), [], "marks after an end in order")


def test_a_server_that_fails_requests_may_die():
    with served() as server:
        front, memory, ring, _ = come_again(server)
        old = server.kill_worker()
        check_equal(ring.do(IN, 0, length=512)["status"], IOERR, "status at the next worker")
        server.next_worker(old)


def test_nothing_fails_where_nothing_can_be_lost():
    with served() as server:
        front, memory, ring, _ = come_again(server, unflushed=False)
        check_equal(ring.do(IN, 0, length=512)["status"], OK, "status where nobody wrote")
    for mode in ("directsync", "writethrough"):
        with served("-t", mode) as server:
            front, memory, ring, _ = come_again(server)
            check_equal(ring.do(IN, 0, length=512)["status"], OK, f"status with {mode}")
            check_equal(marks(), [], f"marks with {mode}")


run_tests(globals())
