#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the seed corpus of fuzz_vhost into corpus/vhost: rings of requests, sound ones first."""
import pathlib
import struct

EVENT_IDX, INDIRECT, INFLIGHT, READ_ONLY, SHRINK, FAIL_SOME, CHANGE, THROUGH = \
    (1 << bit for bit in range(8))
AVAILABLE, USED, HEADERS, DATA, BORDER = 0x800, 0xa00, 0x1000, 0x3000, 0x4000
NEXT, WRITE, TABLE = 1, 2, 4
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
ORDER = 5  # 32 descriptors


class Guest:
    """Memory, and the requests that its driver makes available."""

    def __init__(self):
        self.memory = bytearray(2 * BORDER)
        self.used = self.requests = self.offered = 0

    def put(self, at, data):
        self.memory[at:at + len(data)] = data

    def descriptor(self, address, length, flags=0, following=0):
        self.put(16 * self.used, struct.pack("<QIHH", address, length, flags, following))
        self.used += 1

    def offer(self, head):
        self.put(AVAILABLE + 4 + 2 * self.offered, struct.pack("<H", head))
        self.offered += 1
        self.put(AVAILABLE + 2, struct.pack("<H", self.offered))

    def header(self, kind, sector):
        at = HEADERS + 64 * self.requests
        self.requests += 1
        self.put(at, struct.pack("<IIQ", kind, 0, sector))
        return at

    def request(self, kind, sector=0, read=0, write=0, data=DATA):
        """read, write: bytes for the device to read and to write, beside header and status."""
        at = self.header(kind, sector)
        head = self.used
        self.descriptor(at, 16, NEXT, self.used + 1)
        if read:
            self.descriptor(data, read, NEXT, self.used + 1)
        if write:
            self.descriptor(data, write, NEXT | WRITE, self.used + 1)
        self.descriptor(at + 32, 1, WRITE)
        self.offer(head)

    def indirect(self, kind, sector, write, at=BORDER - 24):
        header = self.header(kind, sector)
        self.put(at, struct.pack("<QIHHQIHHQIHH", header, 16, NEXT, 1, DATA, write, NEXT | WRITE,
                                 2, header + 32, 1, WRITE, 0))
        head = self.used
        self.descriptor(at, 48, TABLE)
        self.offer(head)


def usual():
    guest = Guest()
    guest.request(OUT, 1, read=1024)
    guest.request(IN, 1, write=1024)
    guest.request(FLUSH)
    guest.request(GET_ID, write=20)
    guest.request(OUT, 511, read=1024)
    guest.request(99)
    return guest


def ranges():
    guest = Guest()
    guest.put(DATA, struct.pack("<QIIQII", 8, 8, 0, 0, 512, 1))
    guest.request(DISCARD, read=16)
    guest.request(WRITE_ZEROES, read=16)
    guest.request(WRITE_ZEROES, read=16, data=DATA + 16)
    guest.request(DISCARD, read=32)
    return guest


def many_ranges():
    guest = Guest()
    guest.put(DATA, b"".join(struct.pack("<QII", 8 * i, i % 8, i % 2) for i in range(33)))
    guest.request(WRITE_ZEROES, read=32 * 16)
    guest.request(DISCARD, read=33 * 16)
    guest.request(DISCARD, read=16)
    guest.request(WRITE_ZEROES, read=48)
    return guest


def tables():
    guest = Guest()
    guest.indirect(IN, 3, 512)
    guest.request(IN, 0, write=512, data=BORDER - 100)
    return guest


def broken(descriptor):
    guest = Guest()
    guest.request(IN, 0, write=512)
    guest.descriptor(*descriptor)
    guest.offer(guest.used - 1)
    return guest


def part(version=1, size=1 << ORDER, last=0, used=0, records=()):
    """An inflight region; records: (head, next, counter)."""
    data = bytearray(struct.pack("<QHHHH", 0, version, size, last, used) + bytes(16 << ORDER))
    for head, following, counter in records:
        data[16 + 16 * head:32 + 16 * head] = struct.pack("<B5xHQ", 1, following, counter)
    return bytes(data)


def seed(world, guest, region=b"", base=0, changes=b""):
    # Three places change at a time.
    return struct.pack("<BBH", world, ORDER | 3 << 3, base) + region + bytes(guest.memory) + \
        changes


SEEDS = {
    "usual": seed(0, usual()),
    "through": seed(THROUGH | EVENT_IDX, usual()),
    "read_only": seed(READ_ONLY, usual()),
    "ranges": seed(INDIRECT | FAIL_SOME, ranges()),
    "many_ranges": seed(INFLIGHT, many_ranges(), part(0, 0)),
    "ranges_of_which_some_fail": seed(FAIL_SOME | THROUGH, many_ranges()),
    "tables": seed(INDIRECT | EVENT_IDX, tables()),
    "shrink": seed(INDIRECT | SHRINK, tables()),
    "fresh": seed(INFLIGHT, usual(), part(0, 0)),
    "recovered": seed(INFLIGHT, usual(), part(records=[(3, 0, 2), (0, 0, 1)]), base=6),
    "last_batch": seed(INFLIGHT, usual(), part(last=3, used=0xfffe, records=[
        (3, 0, 2), (0, 0, 1), (6, 0, 0)])),
    "batch_outside": seed(INFLIGHT, usual(), part(last=99, used=0xffff, records=[(3, 99, 2)])),
    "circle": seed(0, broken((DATA, 1, NEXT, 3))),
    "outside": seed(0, broken((2 * BORDER - 1, 2, WRITE))),
    "empty_table": seed(INDIRECT, broken((DATA, 0, TABLE))),
    "no_status": seed(0, broken((HEADERS, 16))),
    "jump": seed(0, usual(), base=0x8000),
    "change": seed(CHANGE | INDIRECT, usual(), changes=bytes(
        [0x02, 0x08, 0x20, 0x1c, 0x00, 0x03, 0x00, 0x10, 0x0d] * 4)),
}

folder = pathlib.Path(__file__).parent / "corpus" / "vhost"
folder.mkdir(parents=True, exist_ok=True)
for name, data in SEEDS.items():
    (folder / name).write_bytes(data.rstrip(b"\0") or b"\0")
