# SPDX-License-Identifier: MIT
"""A front end of vhost-user and the guest behind it, as bytes: messages, memory, split rings, requests of
virtio-blk. It does what a test tells it to, in any order, right or wrong."""
import array
import mmap
import os
import select
import socket
import struct
import time

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD = 21
GET_CONFIG, SET_CONFIG, GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE = 24, 25, 31, 32, 34
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 36, 37, 38, 39, 40

VERSION, REPLY, NEED_REPLY = 1, 4, 8
MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT, RESET, MEM_SLOTS, STATUS = (
    1 << bit for bit in (0, 1, 3, 5, 9, 12, 13, 15, 16))

F_BLK_SIZE = 1 << 6
F_RO, F_FLUSH, F_CONFIG_WCE, F_DISCARD, F_WRITE_ZEROES = (1 << bit for bit in (5, 9, 11, 13, 14))
F_INDIRECT, F_EVENT_IDX, F_PROTOCOL, F_VERSION_1 = (1 << bit for bit in (28, 29, 30, 32))

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2

NEXT, WRITE = 1, 2
USER_BASE = 0x7F0000000000
RING_BYTES = 1 << 16
WAIT_SECONDS = 30


class Ended(Exception):
    """The other side has closed the connection."""


class Memory:
    """The memory of a guest: one file, from guest address 0 on."""

    def __init__(self, size=8 << 20):
        self.size = size
        self.fd = os.memfd_create("guest")
        os.truncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.next = 0

    def take(self, count, align=4096):
        address = (self.next + align - 1) // align * align
        self.next = address + count
        assert self.next <= self.size, "the guest's memory is used up"
        return address

    def region(self):
        return struct.pack("<QQQQ", 0, self.size, USER_BASE, 0)

    def close(self):
        self.map.close()
        os.close(self.fd)


class Ring:
    """A split ring of the driver's. Requests are dictionaries that get "status" and "length"."""

    def __init__(self, memory, index=0, size=128):
        self.memory, self.index, self.size = memory, index, size
        self.kick, self.call = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self.descriptors = memory.take(RING_BYTES)
        self.available = self.descriptors + 16 * size
        self.used = (self.available + 6 + 2 * size + 4095) // 4096 * 4096
        self.reset()

    def reset(self):
        """As a driver that begins anew."""
        end = self.used + 6 + 8 * self.size
        self.memory.map[self.descriptors:end] = bytes(end - self.descriptors)
        self.avail_index = self.seen = 0
        self.free = list(range(self.size))
        self.flying = {}

    def put(self, at, layout, *values):
        struct.pack_into(layout, self.memory.map, at, *values)

    def get(self, at, layout):
        return struct.unpack_from(layout, self.memory.map, at)[0]

    def used_index(self):
        return self.get(self.used + 2, "<H")

    def offer(self, head):
        self.put(self.available + 4 + 2 * (self.avail_index % self.size), "<H", head)
        self.avail_index = (self.avail_index + 1) % 65536
        self.put(self.available + 2, "<H", self.avail_index)

    def add_chain(self, parts):
        """parts: (address, length, flags). Returns the head."""
        taken = [self.free.pop(0) for _ in parts]
        for i, (address, length, flags) in enumerate(parts):
            last = i + 1 == len(parts)
            self.put(self.descriptors + 16 * taken[i], "<QIHH", address, length,
                     flags | (0 if last else NEXT), 0 if last else taken[i + 1])
        self.offer(taken[0])
        return taken

    def add(self, kind, sector=0, data=None, length=0):
        """A request, which the device sees; kick() tells it."""
        head = self.memory.take(17, 16)
        self.memory.map[head:head + 16] = struct.pack("<IIQ", kind, 0, sector)
        self.memory.map[head + 16] = 0xAA
        parts = [(head, 16, 0)]
        place = None
        if data is not None:
            place = self.memory.take(len(data), 16)
            self.memory.map[place:place + len(data)] = data
            parts.append((place, len(data), 0))
        elif length:
            place = self.memory.take(length, 16)
            parts.append((place, length, WRITE))
        parts.append((head + 16, 1, WRITE))
        taken = self.add_chain(parts)
        request = {"taken": taken, "status_at": head + 16, "place": place, "length": length,
                   "status": None}
        self.flying[taken[0]] = request
        return request

    def notify(self):
        os.eventfd_write(self.kick, 1)

    def reap(self):
        """Takes what the device has answered."""
        done = []
        while self.seen != self.used_index():
            at = self.used + 4 + 8 * (self.seen % self.size)
            head, written = struct.unpack_from("<II", self.memory.map, at)
            self.seen = (self.seen + 1) % 65536
            request = self.flying.pop(head)  # answered twice: no such key
            self.free += request["taken"]
            request["written"] = written
            request["status"] = self.memory.map[request["status_at"]]
            if request["length"]:
                place = request["place"]
                request["data"] = self.memory.map[place:place + request["length"]]
            done.append(request)
        # with EVENT_IDX: a call for the next one, please
        self.put(self.available + 4 + 2 * self.size, "<H", self.seen)
        return done

    def wait(self, seconds=WAIT_SECONDS):
        """Until all is answered, looking at the used ring when called."""
        deadline = time.monotonic() + seconds
        while True:
            self.reap()
            self.reap()  # what came before the last one had asked for a call
            if not self.flying:
                return
            left = deadline - time.monotonic()
            called = left > 0 and select.select([self.call], [], [], left)[0]
            assert called, f"ring {self.index}: no call for {len(self.flying)} requests"
            os.eventfd_read(self.call)

    def do(self, kind, sector=0, data=None, length=0):
        """One request, and its answer."""
        request = self.add(kind, sector, data, length)
        self.notify()
        self.wait()
        return request

    def address_message(self, index=None):
        return struct.pack("<IIQQQQ", self.index if index is None else index, 0,
                           USER_BASE + self.descriptors, USER_BASE + self.used,
                           USER_BASE + self.available, 0)

    def close(self):
        os.close(self.kick)
        os.close(self.call)


class FrontEnd:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT_SECONDS)
        self.socket.connect(str(path))
        self.acks = False

    def send_raw(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], rights)

    def send(self, request, payload=b"", fds=(), flags=0):
        self.send_raw(struct.pack("<III", request, VERSION | flags, len(payload)) + payload, fds)

    def _read(self, count):
        data = b""
        while len(data) < count:
            try:
                got, fds, _, _ = socket.recv_fds(self.socket, count - len(data), 8)
            except ConnectionResetError:
                raise Ended from None
            self.fds += fds
            if not got:
                raise Ended
            data += got
        return data

    def receive(self, request):
        """The reply to a request. Descriptors are in .fds."""
        self.fds = []
        got, flags, length = struct.unpack("<III", self._read(12))
        assert (got, flags & 7) == (request, VERSION | REPLY), f"reply to {got} with {flags:#x}"
        return self._read(length)

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        return self.receive(request)

    def ask64(self, request):
        return struct.unpack("<Q", self.ask(request))[0]

    def tell(self, request, payload=b"", fds=()):
        """Sends what has no reply of its own; where acknowledgements were negotiated, says whether it was
        carried out."""
        if not self.acks:
            self.send(request, payload, fds)
            return True
        self.send(request, payload, fds, NEED_REPLY)
        return struct.unpack("<Q", self.receive(request))[0] == 0

    def tell64(self, request, value, fds=()):
        return self.tell(request, struct.pack("<Q", value), fds)

    def tell_ring(self, request, ring, value):
        return self.tell(request, struct.pack("<II", getattr(ring, "index", ring), value))

    def get_base(self, ring):
        answer = self.ask(GET_VRING_BASE, struct.pack("<II", getattr(ring, "index", ring), 0))
        return struct.unpack("<II", answer)[1]

    def get_config(self, offset=0, length=60, flags=0):
        answer = self.ask(GET_CONFIG, struct.pack("<III", offset, length, flags) + bytes(length))
        return answer[12:]

    def set_config(self, offset, data, flags=0):
        return self.tell(SET_CONFIG, struct.pack("<III", offset, len(data), flags) + data)

    def set_memory(self, memory):
        return self.tell(SET_MEM_TABLE, struct.pack("<II", 1, 0) + memory.region(), [memory.fd])

    def ended(self):
        """Whether the other side closes the connection."""
        try:
            self.fds = []
            self._read(1)
        except Ended:
            return True
        return False

    def close(self):
        self.socket.close()

    # ---- the orders of messages of those who speak it ----

    def negotiate(self, features, protocol):
        self.offered = self.ask64(GET_FEATURES)
        self.protocol_offered = self.ask64(GET_PROTOCOL_FEATURES)
        self.protocol = protocol & self.protocol_offered
        self.tell64(SET_PROTOCOL_FEATURES, self.protocol)
        self.acks = bool(self.protocol & REPLY_ACK)
        self.features = features & self.offered

    def set_channel(self):
        """Hands over one end of a channel for messages of the back end's."""
        self.channel, theirs = socket.socketpair()
        with theirs:
            return self.tell(SET_BACKEND_REQ_FD, fds=[theirs.fileno()])

    def start_ring(self, ring, base=0, call=True):
        index = struct.pack("<Q", ring.index)
        assert self.tell_ring(SET_VRING_NUM, ring, ring.size)
        assert self.tell_ring(SET_VRING_BASE, ring, base)
        assert self.tell(SET_VRING_ADDR, ring.address_message())
        if call:
            assert self.tell(SET_VRING_CALL, index, [ring.call])
        assert self.tell(SET_VRING_KICK, index, [ring.kick])

    def as_qemu(self, memory, rings, inflight=None, bases=None,
                features=F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES | F_VERSION_1):
        """Returns the inflight region: (descriptor, its message)."""
        self.negotiate(features | F_PROTOCOL,
                       MQ | LOG_SHMFD | REPLY_ACK | BACKEND_REQ | CONFIG | INFLIGHT | MEM_SLOTS | RESET
                       | STATUS)
        assert self.set_channel()
        self.tell(SET_OWNER)
        self.queues = self.ask64(GET_QUEUE_NUM)
        self.get_config()
        if inflight is None:
            message = self.ask(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, len(rings), rings[0].size, 0))
            inflight = (self.fds[0], message)
        assert self.tell(SET_INFLIGHT_FD, inflight[1], [inflight[0]])
        assert self.tell64(SET_FEATURES, self.features)
        assert self.set_memory(memory)
        for ring in rings:
            self.start_ring(ring, (bases or {}).get(ring.index, 0))
        for ring in rings:
            assert self.tell_ring(SET_VRING_ENABLE, ring, 1)
        return inflight

    def as_firecracker(self, memory, ring, writeback=False):
        self.tell(SET_OWNER)
        self.negotiate(F_VERSION_1 | F_EVENT_IDX | F_RO | (F_FLUSH if writeback else 0) | F_PROTOCOL, CONFIG)
        self.config = self.get_config(0, 60)
        self.tell64(SET_FEATURES, self.features)
        self.set_memory(memory)
        self.tell64(SET_FEATURES, self.features)
        self.start_ring(ring)
        self.tell_ring(SET_VRING_ENABLE, ring, 1)

    def as_cloud_hypervisor(self, memory, rings, inflight=None, bases=None):
        """Returns the inflight region. On reconnect its bases are the available indices."""
        self.tell(SET_OWNER)
        self.negotiate(F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES | F_VERSION_1 | F_EVENT_IDX
                       | F_INDIRECT | F_PROTOCOL, MQ | REPLY_ACK | CONFIG | INFLIGHT | MEM_SLOTS)
        self.queues = self.ask64(GET_QUEUE_NUM)
        self.get_config()
        assert self.tell64(SET_FEATURES, self.features)
        assert self.set_memory(memory)
        for ring in rings:
            assert self.tell_ring(SET_VRING_NUM, ring, ring.size)
        if inflight is None:
            message = self.ask(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, len(rings), rings[0].size, 0))
            inflight = (self.fds[0], message)
        assert self.tell(SET_INFLIGHT_FD, inflight[1], [inflight[0]])
        for ring in rings:
            index = struct.pack("<Q", ring.index)
            assert self.tell(SET_VRING_ADDR, ring.address_message())
            assert self.tell_ring(SET_VRING_BASE, ring, (bases or {}).get(ring.index, 0))
            assert self.tell(SET_VRING_CALL, index, [ring.call])
            assert self.tell(SET_VRING_KICK, index, [ring.kick])
        for ring in rings:
            assert self.tell_ring(SET_VRING_ENABLE, ring, 1)
        return inflight

    def as_crosvm(self, memory, rings):
        self.tell(SET_OWNER)
        self.negotiate(F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_VERSION_1 | F_EVENT_IDX | F_PROTOCOL,
                       CONFIG | MQ | BACKEND_REQ | REPLY_ACK)
        assert self.set_channel()
        self.acks = False  # it negotiates them, and never asks for one
        self.queues = self.ask64(GET_QUEUE_NUM)
        self.tell64(SET_FEATURES, self.features)
        self.set_memory(memory)
        for ring in rings:
            self.start_ring(ring)
            self.tell_ring(SET_VRING_ENABLE, ring, 1)

    def as_libkrun(self, memory, rings):
        self.negotiate(F_FLUSH | F_VERSION_1 | F_PROTOCOL, CONFIG | MQ)
        self.tell(SET_OWNER)
        self.queues = self.ask64(GET_QUEUE_NUM)
        self.set_memory(memory)
        self.tell64(SET_FEATURES, self.features)
        for ring in rings:
            self.start_ring(ring)
            self.tell_ring(SET_VRING_ENABLE, ring, 1)
