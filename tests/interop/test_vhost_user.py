#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A disk over vhost-user: every front end's order of messages, requests, hostile messages, deaths of the
process that serves."""
import random

from kept import *
from vhostwire import *

SOCKET = "disk.vhost"
PATTERN = bytes(range(256)) * 16


def served(*args, **kwargs):
    return kept_disk("--vhost-user-blk", SOCKET, *args, **kwargs)


def connect():
    front = FrontEnd(SOCKET)
    on_exit(front.close)
    return front


def guest(rings=1, size=128):
    memory = Memory()
    return memory, [Ring(memory, index, size) for index in range(rings)]


def rw_check(ring, sector=0):
    """Writes, flushes and reads back."""
    check_equal(ring.do(OUT, sector, PATTERN)["status"], OK, "status of a write")
    check_equal(ring.do(FLUSH)["status"], OK, "status of a flush")
    read = ring.do(IN, sector, length=len(PATTERN))
    check_equal((read["status"], read["data"] == PATTERN), (OK, True), "what was read")


# ---- front ends ----

def test_the_order_of_qemu():
    memory, rings = guest(2)
    with served() as server:
        front = connect()
        front.as_qemu(memory, rings)
        check_equal(front.queues, 4, "queues")
        for ring in rings:
            rw_check(ring, 64 * ring.index)
        check_equal([front.get_base(ring) for ring in rings], [3, 3], "bases")
        check_equal(read_disk(server)[:4096] == PATTERN, True, "what NBD reads")


def test_the_order_of_firecracker():
    memory, rings = guest(1, 256)
    with served() as server:
        front = connect()
        front.as_firecracker(memory, rings[0])
        check_equal(struct.unpack_from("<Q", front.config)[0] * 512, DISK_BYTES, "capacity")
        check_equal(rings[0].do(OUT, 0, PATTERN)["status"], OK, "status of a write")
        front.close()
        eventually("a line that tells of write-through", lambda: "neither FLUSH nor CONFIG_WCE" in server.stderr())


def test_the_order_of_cloud_hypervisor():
    memory, rings = guest(2)
    with served():
        front = connect()
        front.as_cloud_hypervisor(memory, rings)
        for ring in rings:
            rw_check(ring, 64 * ring.index)
        check_equal(front.set_config(32, b"\0", flags=1), True, "whether the cache can be turned off")
        check_equal(front.get_config(32, 1), b"\0", "wce")
        check_equal(front.set_config(32, b"\1", flags=0), True, "whether it can be turned on")
        check_equal(front.get_config(32, 1), b"\1", "wce")
        for ring in rings:
            front.tell_ring(SET_VRING_ENABLE, ring, 0)
            front.get_base(ring)


def test_the_order_of_crosvm():
    memory, rings = guest(3)
    with served("--num-queues", "3"):
        front = connect()
        front.as_crosvm(memory, rings)
        check_equal(front.queues, 3, "queues, which crosvm takes for what it has to set up")
        for ring in rings:
            rw_check(ring, 64 * ring.index)
        for offset, length in ((0, 8), (8, 4), (12, 4), (34, 2), (59, 1), (60, 4), (100, 4)):
            whole = front.get_config() + bytes(64)
            check_equal(front.get_config(offset, length), whole[offset:offset + length],
                        f"{length} bytes at {offset}")


def test_the_order_of_libkrun_whose_reset_is_to_disable():
    memory, rings = guest()
    with served():
        front = connect()
        front.as_libkrun(memory, rings)
        rw_check(rings[0])
        front.tell_ring(SET_VRING_ENABLE, rings[0], 0)
        front.ask64(GET_FEATURES)  # what came before has been carried out
        rings[0].reset()
        front.set_memory(memory)
        front.tell64(SET_FEATURES, front.features)
        front.start_ring(rings[0])
        front.tell_ring(SET_VRING_ENABLE, rings[0], 1)
        rw_check(rings[0])


def test_features_that_front_ends_misread_are_not_offered():
    with served():
        front = connect()
        features, protocol = front.ask64(GET_FEATURES), front.ask64(GET_PROTOCOL_FEATURES)
        for bit in (34, 35, 33, 38, 40, 4):  # packed, in order, IOMMU, notification data, ...
            check_equal(features >> bit & 1, 0, f"feature {bit}")
        for bit in (17, 18, 19, 20, 21, 22):
            check_equal(protocol >> bit & 1, 0, f"protocol feature {bit}")
        check_equal(struct.unpack_from("<I", front.get_config(), 8)[0] > 0, True, "size_max")


# ---- requests ----

def test_requests():
    memory, rings = guest()
    ring = rings[0]
    with served("--serial", "a serial of 20 bytes") as server:
        front = connect()
        front.as_qemu(memory, rings)
        check_equal(ring.do(OUT, 0, PATTERN)["written"], 1, "bytes written into memory by a write")
        identity = ring.do(GET_ID, length=20)
        check_equal((identity["status"], identity["data"], identity["written"]),
                    (OK, b"a serial of 20 bytes", 21), "serial")
        zero = struct.pack("<QII", 0, 8, 1)
        check_equal(ring.do(WRITE_ZEROES, 0, zero)["status"], OK, "status of a write of zeroes")
        check_equal(ring.do(IN, 0, length=4096)["data"], bytes(4096), "what it has left")
        check_equal(ring.do(DISCARD, 0, struct.pack("<QII", 0, 128, 0))["status"], OK,
                    "status of a discard")
        past = DISK_BYTES // 512
        check_equal(ring.do(IN, past, length=512)["status"], IOERR, "status of a read past the end")
        check_equal(ring.do(77)["status"], UNSUPP, "status of what nobody knows")
        rw_check(ring, 16)


def test_many_ranges_in_one_request():
    memory, rings = guest()
    ring = rings[0]
    with served() as server:
        front = connect()
        front.as_qemu(memory, rings)
        for place in range(0, 64, 8):
            ring.do(OUT, place, PATTERN)
        ranges = b"".join(struct.pack("<QII", 16 * i, 8, i % 2) for i in range(4))
        answer = ring.do(WRITE_ZEROES, 0, ranges)
        check_equal((answer["status"], answer["written"]), (OK, 1), "answer to zeroes in four places")
        for place in range(0, 64, 8):
            check_equal(ring.do(IN, place, length=4096)["data"], PATTERN if place % 16 else bytes(4096),
                        f"what is at sector {place} afterwards")
        config = front.get_config()
        check_equal(struct.unpack_from("<I", config, 40)[0], 32, "max_discard_seg")
        ranges = b"".join(struct.pack("<QII", 128 * i, 128, 0) for i in range(32))
        check_equal(ring.do(DISCARD, 0, ranges)["status"], OK, "status of a discard of 32 ranges")
        check_equal(ring.do(IN, 8, length=4096)["data"], bytes(4096), "what it has left")
        check_equal(ring.do(DISCARD, 0, ranges + ranges[:16])["status"], IOERR, "status of one of 33")


def test_a_size_of_blocks_is_told_and_kept_to():
    for size, layout, cluster in ((4096, "cluster_size=2M", 2 << 20), (512, "cluster_size=4k", 4096)):
        oxbow("create", "-q", "-f", "qcow2", "-o", layout, "disk", str(DISK_BYTES))
        memory, rings = guest()
        with Kept("-f", "qcow2", "--block-size", str(size), "--vhost-user-blk", SOCKET, "disk"):
            front = connect()
            front.as_qemu(memory, rings, features=F_BLK_SIZE | F_DISCARD | F_FLUSH | F_VERSION_1)
            config = front.get_config()
            check_equal(struct.unpack_from("<I", config, 20)[0], size, "blk_size")
            check_equal(struct.unpack_from("<I", config, 44)[0] * 512, cluster, "what is discarded at once")
            check_equal(rings[0].do(OUT, 1, PATTERN[:512])["status"], OK if size == 512 else IOERR,
                        f"status of a write of 512 bytes to blocks of {size}")
            check_equal(rings[0].do(OUT, 8, PATTERN)["status"], OK, "status of a write of 4096 bytes")
    oxbow("create", "-q", "-f", "raw", "disk.raw", str(DISK_BYTES))
    memory, rings = guest()
    with Kept("-f", "raw", "--vhost-user-blk", SOCKET, "disk.raw"):
        front = connect()
        front.as_qemu(memory, rings)
        check_equal(struct.unpack_from("<I", front.get_config(), 44)[0] * 512, 4096,
                    "what is discarded at once of a raw image")


def test_a_read_only_disk_takes_no_write_and_any_number_of_front_ends():
    oxbow("create", "-q", *kind_args(""), "disk", str(DISK_BYTES))
    with Kept("-f", "qcow2", "-r", "--vhost-user-blk", SOCKET, "disk"):
        for _ in range(3):
            memory, rings = guest()
            front = connect()
            front.as_qemu(memory, rings)
            check_equal(bool(front.offered & F_RO), True, "whether it says that it is read-only")
            check_equal(rings[0].do(OUT, 0, PATTERN)["status"], IOERR, "status of a write")
            check_equal(rings[0].do(IN, 0, length=512)["status"], OK, "status of a read")


def test_many_requests_at_once_are_answered_once_each():
    memory, rings = guest(4)
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        for turn in range(8):
            for ring in rings:
                for i in range(30):
                    ring.add(OUT, 8 * (30 * ring.index + i), bytes([turn * 31 + i & 255]) * 4096)
                ring.notify()
            for ring in rings:
                ring.wait()
            memory.next = RING_BYTES * 4


def test_a_ring_without_kick_and_call_is_served():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.negotiate(F_VERSION_1 | F_FLUSH | F_PROTOCOL, CONFIG | REPLY_ACK)
        front.tell64(SET_FEATURES, front.features)
        front.set_memory(memory)
        front.tell_ring(SET_VRING_NUM, ring, ring.size)
        front.tell(SET_VRING_ADDR, ring.address_message())
        check_equal(front.tell64(SET_VRING_KICK, 0x100), True, "whether no kick is taken")
        front.tell_ring(SET_VRING_ENABLE, ring, 1)
        request = ring.add(IN, 0, length=512)
        eventually("the answer", ring.reap)
        check_equal(request["status"], OK, "status")


def test_a_disabled_ring_is_not_served():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        front.tell_ring(SET_VRING_ENABLE, ring, 0)
        request = ring.add(IN, 0, length=512)
        ring.notify()
        front.ask64(GET_QUEUE_NUM)
        check_equal(ring.reap(), [], "answers of a disabled ring")
        front.tell_ring(SET_VRING_ENABLE, ring, 1)
        ring.wait()
        check_equal(request["status"], OK, "status")


def test_the_base_of_a_stopped_ring_counts_what_was_answered():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        inflight = front.as_qemu(memory, rings)
        for turn in range(20):
            for i in range(20):
                ring.add(OUT, 8 * i, PATTERN)
            ring.notify()
            base = front.get_base(ring)
            check_equal(ring.used_index(), base, "used index of a stopped ring")
            assert front.tell(SET_INFLIGHT_FD, inflight[1], [inflight[0]])
            front.start_ring(ring, base)
            ring.wait()
            memory.next = RING_BYTES


def test_a_stop_waits_for_a_disk_that_is_slow():
    memory, rings = guest()
    ring = rings[0]
    with served(**slow_syncs(0.5)) as server:
        front = connect()
        front.as_qemu(memory, rings, features=F_VERSION_1)  # each write is made durable
        requests = [ring.add(OUT, 8 * i, PATTERN) for i in range(3)]
        ring.notify()
        eventually("the notes", lambda: len(in_flight(server)) == 3)
        check_equal((front.get_base(ring), ring.used_index()), (3, 3), "base, and answers")
        ring.reap()
        check_equal([request["status"] for request in requests], [OK] * 3, "statuses")


def test_each_start_of_a_ring_is_signalled_once():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        inflight = front.as_qemu(memory, rings)
        rw_check(ring)
        for _ in range(3):
            base = front.get_base(ring)
            while select.select([ring.call], [], [], 0)[0]:
                os.eventfd_read(ring.call)
            assert front.tell(SET_INFLIGHT_FD, inflight[1], [inflight[0]])
            front.start_ring(ring, base)
            check_equal(os.eventfd_read(ring.call), 1, "calls at the start")


def test_a_memory_table_may_change_under_requests():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        for turn in range(20):
            requests = [ring.add(OUT, 8 * i, PATTERN) for i in range(20)]
            ring.notify()
            check_equal(front.set_memory(memory), True, "whether the table is taken")
            ring.wait()
            check_equal({request["status"] for request in requests}, {OK}, "statuses")
            memory.next = RING_BYTES
        for i in range(20):
            ring.add(OUT, 8 * i, PATTERN)
        ring.notify()
        check_equal(front.tell(REM_MEM_REG, bytes(8) + memory.region()), False,
                    "whether a region under a ring can go: the ring is broken then")


def test_a_reset_under_requests():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        for i in range(20):
            ring.add(OUT, 8 * i, PATTERN)
        ring.notify()
        check_equal(front.tell(RESET_DEVICE), True, "whether the reset is carried out")
        used = ring.used_index()
        ring.add(OUT, 0, PATTERN)
        ring.notify()
        front.ask64(GET_QUEUE_NUM)
        check_equal(ring.used_index(), used, "used index after the reset")


# ---- two front ends ----

def test_a_second_front_end_is_answered_and_starts_when_the_first_stops():
    memory, rings = guest()
    other_memory, other_rings = guest()
    with served():
        first, second = connect(), connect()
        first.as_qemu(memory, rings)
        rw_check(rings[0])
        second.as_qemu(other_memory, other_rings)
        request = other_rings[0].add(IN, 0, length=4096)
        other_rings[0].notify()
        rw_check(rings[0])
        check_equal(other_rings[0].reap(), [], "answers to the second while the first runs")
        first.get_base(rings[0])
        other_rings[0].wait()
        check_equal((request["status"], request["data"] == PATTERN), (OK, True), "what it reads")


# ---- migration ----

PAGE = 4096


def log_of(pages):
    fd = os.memfd_create("log")
    os.truncate(fd, pages // 8)
    return fd


def set_log(front, fd, size=None):
    message = struct.pack("<QQ", os.fstat(fd).st_size if size is None else size, 0)
    front.ask(6, message, [fd])


def dirty(fd, address):
    page = address // PAGE
    return os.pread(fd, 1, page // 8)[0] >> page % 8 & 1


def test_what_is_written_into_the_guest_is_logged_while_it_migrates():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        old, new = log_of(memory.size // PAGE), log_of(memory.size // PAGE)
        unlogged = ring.do(IN, 0, length=PAGE)
        set_log(front, old)
        front.tell64(SET_FEATURES, front.features | 1 << 26)
        front.tell(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 1, USER_BASE + ring.descriptors,
                                               USER_BASE + ring.used, USER_BASE + ring.available, ring.used))
        read, write = ring.do(IN, 0, length=3 * PAGE), ring.do(OUT, 0, PATTERN)
        for at in (read["place"], read["place"] + PAGE, read["place"] + 3 * PAGE - 1, read["status_at"],
                   write["status_at"], ring.used):
            check_equal(dirty(old, at), 1, f"bit of the page at {at:#x}")
        check_equal(dirty(old, ring.descriptors), 0, "bit of a page that only the guest writes")
        check_equal(dirty(old, unlogged["place"]), 0, "bit of what was written before")
        before = os.pread(old, memory.size, 0)
        set_log(front, new)
        later = ring.do(IN, 0, length=PAGE)
        check_equal(os.pread(old, memory.size, 0), before, "the log that was replaced")
        check_equal(dirty(new, later["place"]), 1, "bit in the new log")
        front.tell64(SET_FEATURES, front.features)
        memory.next += 16 * PAGE
        last = ring.do(IN, 0, length=PAGE)
        check_equal(dirty(new, last["place"]), 0, "bit of what was written after the end")


def test_a_log_that_is_too_short_or_shrinks():
    memory, rings = guest()
    with served() as server:
        pid = server.worker()
        front = connect()
        front.as_qemu(memory, rings)
        short = log_of(64)
        set_log(front, short)
        front.tell64(SET_FEATURES, front.features | 1 << 26)
        rw_check(rings[0])
        os.truncate(short, 0)
        rings[0].reset()
        memory.next = 0
        check_equal(front.tell(6, struct.pack("<QQ", 1 << 40, 1 << 40), []), False, "a log that is not there")
        front.close()
        whole = log_of(memory.size // PAGE)
        other_memory, other_rings = guest()
        front = connect()
        front.as_qemu(other_memory, other_rings)
        set_log(front, whole)
        front.tell64(SET_FEATURES, front.features | 1 << 26)
        os.truncate(whole, 0)
        other_rings[0].add(IN, 0, length=PAGE)
        other_rings[0].notify()
        check_equal(front.ended(), True, "whether a log that shrank ends the connection")
        check_equal(server.worker(), pid, "the process that serves")


# ---- hostile messages ----

def test_refusals_are_told_where_that_was_asked_for():
    memory, rings = guest()
    ring = rings[0]
    pipe = os.pipe()
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        refused = (
            (SET_VRING_NUM, struct.pack("<II", 0, 0), []),
            (SET_VRING_NUM, struct.pack("<II", 0, 65536), []),
            (SET_VRING_NUM, struct.pack("<II", 0, 2 ** 32 - 1), []),
            (SET_VRING_NUM, struct.pack("<II", 0, 100), []),
            (SET_VRING_NUM, struct.pack("<II", 200, 128), []),
            (SET_VRING_NUM, b"\0", []),
            (SET_VRING_ENABLE, struct.pack("<II", 9, 1), []),
            (SET_VRING_KICK, struct.pack("<Q", 0), []),
            (SET_VRING_KICK, struct.pack("<Q", 77), [ring.kick]),
            (SET_VRING_CALL, struct.pack("<Q", 0), [pipe[1]]),
            (SET_VRING_CALL, struct.pack("<Q", 0), [front.socket.fileno()]),
            (SET_VRING_KICK, struct.pack("<Q", 0), [memory.fd]),
            (SET_MEM_TABLE, struct.pack("<II", 9, 0) + 9 * memory.region(), [memory.fd]),
            (SET_MEM_TABLE, struct.pack("<II", 2 ** 32 - 1, 0) + memory.region(), [memory.fd]),
            (SET_MEM_TABLE, struct.pack("<II", 1, 0) + memory.region(), []),
            (SET_MEM_TABLE, struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, memory.size, 0, 4096),
             [memory.fd]),
            (SET_MEM_TABLE, struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, 2 ** 64 - 1, 0, 0),
             [memory.fd]),
            (ADD_MEM_REG, bytes(8) + memory.region(), []),
            (ADD_MEM_REG, bytes(8) + memory.region(), [memory.fd]),  # it is there
            (REM_MEM_REG, bytes(40), []),
            (SET_INFLIGHT_FD, struct.pack("<QQHH", 64, 0, 1, 128), [memory.fd]),
            (SET_INFLIGHT_FD, struct.pack("<QQHH", 2 ** 64 - 1, 2 ** 63, 1, 128), [memory.fd]),
            (SET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8), []),
            (SET_CONFIG, struct.pack("<III", 32, 1, 2) + b"\0", []),
            (SET_CONFIG, struct.pack("<III", 32, 2 ** 32 - 1, 0) + b"\0", []),
            (SET_CONFIG, struct.pack("<III", 0, 0, 0), []),
            (250, b"", []),
            (0, b"", []),
            (2 ** 32 - 1, b"x" * 64, [memory.fd]),
        )
        for request, payload, fds in refused:
            check_equal(front.tell(request, payload, fds), False, f"answer to {request} {payload[:16]}")
        rw_check(ring)


def test_what_no_message_can_be_ends_that_connection_alone():
    endings = (
        struct.pack("<III", GET_FEATURES, 0, 0),                # no version
        struct.pack("<III", GET_FEATURES, VERSION | REPLY, 0),  # a reply
        struct.pack("<III", SET_CONFIG, VERSION, 1 << 20) + bytes(64),
        struct.pack("<III", SET_CONFIG, VERSION, 2 ** 32 - 1),
        struct.pack("<III", GET_VRING_BASE, VERSION, 8) + struct.pack("<II", 99, 0),
        struct.pack("<III", GET_VRING_BASE, VERSION, 4) + bytes(4),
        struct.pack("<III", SET_MEM_TABLE, VERSION, 8) + struct.pack("<II", 1, 0),
    )
    memory, rings = guest()
    with served():
        good = connect()
        good.as_qemu(memory, rings)
        for data in endings:
            front = connect()
            front.send_raw(data)
            check_equal(front.ended(), True, f"whether {data[:12].hex()} ends the connection")
        rw_check(rings[0])


def test_a_front_end_that_misbehaves_again_and_again_fills_no_log():
    with served() as server:
        for _ in range(300):
            front = connect()
            front.send(SET_VRING_NUM, struct.pack("<II", 0, 65536))
            check_equal(front.ended(), True, "whether the connection ends")
            front.close()

        def told():
            return server.stderr().count("SET_VRING_NUM cannot be carried out")
        eventually("ten lines", lambda: told() >= 10)
        check_equal(server.terminate(), 0, "exit code")
        # and one in ten seconds
        check_equal(told() < 150, True, f"whether {told()} lines are fewer than one for each")


def open_files(server):
    return len(os.listdir(f"/proc/{server.worker()}/fd"))


def test_descriptors_of_messages_do_not_stay():
    with served() as server:
        front = connect()
        front.ask64(GET_FEATURES)
        before = open_files(server)
        files = [os.memfd_create("stray") for _ in range(8)]
        for request in (GET_FEATURES, GET_QUEUE_NUM):
            for _ in range(20):
                front.ask(request, fds=files)
        # They are closed after the answer is sent.
        eventually("the end of the last ones", lambda: open_files(server) == before)
        for count in (9, 64):
            other = connect()
            other.send(SET_OWNER, fds=(files * 8)[:count])
            check_equal(other.ended(), True, f"whether {count} descriptors end the connection")
        half = connect()
        half.send_raw(struct.pack("<III", SET_MEM_TABLE, VERSION, 40) + bytes(10), files)
        half.close()
        eventually("the end of the descriptors", lambda: open_files(server) == before)


def test_a_call_descriptor_that_blocks_keeps_nobody_waiting():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front, other = connect(), connect()
        front.as_qemu(memory, rings)
        for _ in range(3):
            rw_check(ring)
            while select.select([ring.call], [], [], 0)[0]:
                os.eventfd_read(ring.call)
            os.eventfd_write(ring.call, 2 ** 64 - 2)
            os.set_blocking(ring.call, True)  # of the open file, which the server has too
            request = ring.add(IN, 0, length=512)
            ring.notify()
            eventually("an answer without a call", lambda: ring.reap() and request["status"] == OK)
            os.set_blocking(ring.call, False)
            os.eventfd_read(ring.call)
        other.ask64(GET_FEATURES)
        rw_check(ring)


def test_messages_come_in_any_parts():
    memory, rings = guest()
    with served():
        front = connect()
        whole = b"".join(struct.pack("<III", request, VERSION, len(payload)) + payload
                         for request, payload in ((SET_OWNER, b""), (SET_VRING_NUM, struct.pack("<II", 0, 64)),
                                                  (GET_FEATURES, b"")))
        for i in range(len(whole)):
            front.send_raw(whole[i:i + 1])
        check_equal(bool(struct.unpack("<Q", front.receive(GET_FEATURES))[0] & F_PROTOCOL), True, "features")
        front.send_raw(whole + whole)
        front.receive(GET_FEATURES)
        front.receive(GET_FEATURES)
        front.as_qemu(memory, rings)
        rw_check(rings[0])


def test_a_front_end_that_reads_no_replies_is_let_go():
    memory, rings = guest()
    with served():
        deaf = connect()
        deaf.socket.settimeout(0.5)
        try:
            while True:
                deaf.send(GET_FEATURES)
        except (BrokenPipeError, ConnectionResetError):
            pass
        front = connect()
        front.as_qemu(memory, rings)
        rw_check(rings[0])


def test_memory_that_shrinks_ends_that_front_end_alone():
    memory, rings = guest()
    with served() as server:
        front = connect()
        front.as_qemu(memory, rings)
        pid = server.worker()
        os.truncate(memory.fd, 0)
        rings[0].kick and os.eventfd_write(rings[0].kick, 1)
        check_equal(front.ended(), True, "whether the connection ends")
        other_memory, other_rings = guest()
        other = connect()
        other.as_qemu(other_memory, other_rings)
        rw_check(other_rings[0])
        check_equal(server.worker(), pid, "the process that serves")


def test_old_front_ends_ask_for_a_region_without_saying_how_large():
    with served():
        front = connect()
        for payload in (b"", bytes(24), struct.pack("<QQHHI", 0, 0, 999, 128, 0),
                        struct.pack("<QQHHI", 0, 0, 1, 65535, 0)):
            answer = front.ask(GET_INFLIGHT_FD, payload)
            size = struct.unpack_from("<Q", answer)[0]
            check_equal((size > 0, len(front.fds)), (payload == b"", 1 if payload == b"" else 0),
                        f"a region for {payload.hex()}")


def random_message(chance, memory, ring, files):
    """Anything, most of it nearly right."""
    request = chance.choice([*range(46), 2 ** 32 - 1])
    number = chance.choice([0, 1, 2, 3, 128, 256, 65536, 2 ** 32 - 1])
    payload = chance.choice([
        b"", struct.pack("<Q", number), struct.pack("<II", chance.randrange(5), number),
        struct.pack("<II", 1, 0) + memory.region(), bytes(8) + memory.region(), ring.address_message(),
        struct.pack("<QQHHI", 1 << 16, 0, 4, 128, 0), struct.pack("<III", 32, 1, number % 3) + b"\0",
        struct.pack("<Q", F_VERSION_1 | F_PROTOCOL | F_FLUSH), struct.pack("<Q", F_VERSION_1),
        struct.pack("<II", 0, 1), chance.randbytes(chance.randrange(80))])
    fds = chance.choices(files, k=chance.choice([0, 0, 1, 1, 1, 2, 8]))
    return struct.pack("<III", request, VERSION | chance.choice([0, 0, NEED_REPLY]), len(payload)) + payload, fds


def test_any_messages_in_any_order_end_at_most_their_connection():
    memory, rings = guest()
    stray = Memory(1 << 16)
    with served() as server:
        pid = server.worker()
        for seed in range(300):
            chance = random.Random(seed)
            front = FrontEnd(SOCKET)
            files = [memory.fd, rings[0].kick, rings[0].call, stray.fd, front.socket.fileno()]
            if chance.random() < 0.5:
                rings[0].reset()
                front.as_libkrun(memory, rings)
                for i in range(20):
                    rings[0].add(OUT, 8 * i, PATTERN)
                rings[0].notify()
                memory.next = RING_BYTES
            try:
                for _ in range(chance.randrange(1, 60)):
                    front.send_raw(*random_message(chance, memory, rings[0], files))
            except (BrokenPipeError, ConnectionResetError):
                pass
            front.close()
        memory, rings = guest()
        front = connect()
        front.as_qemu(memory, rings)
        rw_check(rings[0])
        check_equal(server.worker(), pid, "the process that serves")


# ---- deaths ----

def reconnect(server, old):
    """A connection to the process that follows on the one that died."""
    eventually("another worker", lambda: (found := server._find_worker()) not in (old, None))
    return connect()


def run_through_deaths(as_front_end):
    """Each request of a front end that comes again is answered once, whatever was in flight."""
    memory, rings = guest(2)
    with served() as server:
        front = connect()
        inflight = as_front_end(front, memory, rings, None)
        for turn in range(6):
            place = memory.next
            for ring in rings:
                for i in range(40):
                    ring.add(OUT, 8 * (40 * ring.index + i), bytes([turn + 1]) * 4096)
                ring.notify()
            front.close()
            front = reconnect(server, server.kill_worker())
            as_front_end(front, memory, rings, inflight)
            for ring in rings:
                ring.wait()
            memory.next = place
            rings[0].do(FLUSH)
            check_equal(set(read_disk(server)[:80 * 4096]), {turn + 1}, "bytes on the disk")
            memory.next = place


def test_qemu_finds_its_requests_answered_after_a_death():
    run_through_deaths(lambda front, memory, rings, inflight: front.as_qemu(
        memory, rings, inflight, {ring.index: ring.used_index() for ring in rings}))


def test_cloud_hypervisor_finds_its_requests_answered_though_its_base_is_behind_them():
    run_through_deaths(lambda front, memory, rings, inflight: front.as_cloud_hypervisor(
        memory, rings, inflight, {ring.index: ring.avail_index for ring in rings} if inflight else None))


def test_a_restored_ring_loses_no_request_though_the_base_is_behind_it():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.as_cloud_hypervisor(memory, rings)
        for _ in range(5):
            rw_check(ring)
        front.get_base(ring)
        front.close()
        requests = [ring.add(IN, 0, length=512) for _ in range(3)]
        front = connect()
        # another machine: its region knows of nothing
        front.as_cloud_hypervisor(memory, rings, None, {0: ring.avail_index})
        ring.wait()
        check_equal([request["status"] for request in requests], [OK] * 3, "statuses of what was queued")


def test_the_first_request_after_a_migration_is_not_lost():
    memory, rings = guest()
    ring = rings[0]
    with served():
        front = connect()
        front.as_qemu(memory, rings)
        rw_check(ring)
        base = front.get_base(ring)
        front.close()
        front = connect()
        region = front.as_qemu(memory, rings, None, {0: base})
        rw_check(ring)
        used = struct.unpack_from("<H", os.pread(region[0], 16, 0), 14)[0]
        check_equal(used, ring.used_index(), "used index in the region")


def test_a_request_that_was_in_flight_at_two_deaths_is_answered_with_an_error():
    memory, rings = guest()
    ring = rings[0]
    killer = (64 * KIB, 4096)
    with served(**slow_syncs(0.2)) as server:
        front = connect()
        front.as_qemu(memory, rings, features=F_VERSION_1)  # each write is made durable
        request = ring.add(OUT, 128, PATTERN)
        ring.notify()
        for _ in range(2):
            eventually("the note", lambda: killer in in_flight(server))
            server.next_worker(server.kill_worker(signal.SIGABRT))
        ring.wait()
        check_equal(request["status"], IOERR, "status of what two processes died of")
        check_in("two processes died while a write of 4096 bytes at 65536 was under way", server.stderr())
        rw_check(ring, 256)


def test_what_was_in_flight_at_a_death_is_carried_out_one_by_one():
    memory, rings = guest()
    ring = rings[0]
    places = {(64 * KIB * n, 4096) for n in range(1, 6)}
    with served(**slow_syncs(0.2)) as server:
        front = connect()
        front.as_qemu(memory, rings, features=F_VERSION_1)
        requests = [ring.add(OUT, offset // 512, PATTERN) for offset, _ in sorted(places)]
        ring.notify()
        eventually("the notes", lambda: places <= set(in_flight(server)))
        server.next_worker(server.kill_worker(signal.SIGABRT))

        def all_are_answered():
            check_equal(len(set(in_flight(server)) & places) <= 1, True, "one at a time")
            ring.reap()
            return not ring.flying
        eventually("all answers", all_are_answered)
        check_equal([request["status"] for request in requests], [OK] * 5, "their statuses")


def test_who_connects_while_the_process_dies_is_served_by_the_next():
    memory, rings = guest()
    with served() as server:
        half, before = connect(), connect()
        table = struct.pack("<II", 1, 0) + memory.region()
        half.send_raw(struct.pack("<III", SET_MEM_TABLE, VERSION, len(table)) + table[:10], [memory.fd])
        before.ask64(GET_FEATURES)
        old = server.worker()
        os.kill(old, signal.SIGSTOP)
        front = connect()
        front.send(GET_FEATURES)
        server.kill_worker()
        half.send_raw(table[10:])
        for other in (half, before):
            check_equal(bool(other.ask64(GET_FEATURES) & F_VERSION_1), True, "what others are told")
        check_equal(bool(struct.unpack("<Q", front.receive(GET_FEATURES))[0] & F_VERSION_1), True,
                    "what the next process says")
        front.as_qemu(memory, rings)
        rw_check(rings[0])


def test_the_cache_stays_as_the_guest_has_set_it_after_a_death():
    memory, rings = guest()
    with served() as server:
        front = connect()
        inflight = front.as_qemu(memory, rings)
        check_equal(front.set_config(32, b"\0"), True, "whether the cache can be turned off")
        front.close()
        front = reconnect(server, server.kill_worker())
        front.as_qemu(memory, rings, inflight)
        check_equal(front.get_config(32, 1), b"\0", "wce")


def test_an_end_leaves_what_was_not_taken_to_the_next_server():
    memory, rings = guest()
    ring = rings[0]
    with served() as server:
        front = connect()
        inflight = front.as_qemu(memory, rings)
        for i in range(100):
            ring.add(OUT, 8 * i, PATTERN) if len(ring.free) >= 3 else None
        ring.notify()
        check_equal(server.terminate(), 0, "exit code")
        server.start()
        front = connect()
        front.as_qemu(memory, rings, inflight)
        ring.wait()


def test_without_a_keeper_and_without_nbd():
    oxbow("create", "-q", *kind_args(""), "disk", str(DISK_BYTES))
    process = subprocess.Popen([oxbow_path(), "serve", "--no-keeper", "--vhost-user-blk", SOCKET, "disk"],
                               stdout=subprocess.PIPE)
    on_exit(lambda: process.poll() is None and process.kill())
    check_equal(process.stdout.readline().decode(), os.path.realpath(SOCKET) + "\n", "what it prints")
    memory, rings = guest()
    front = connect()
    front.as_qemu(memory, rings)
    rw_check(rings[0])
    process.terminate()
    check_equal(process.wait(30), 0, "exit code")
    check_equal(front.ended(), True, "whether the connection ends")
    check_equal(os.path.exists(SOCKET), False, "whether the socket is left")


run_tests(globals())
