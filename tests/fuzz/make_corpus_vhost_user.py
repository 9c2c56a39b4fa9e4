#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes seeds for fuzz_vhost_user: front ends that set up a ring, use it, and stop it in each way."""
import pathlib
import struct
import sys

WANT_REPLY, HOLD, KICK = 1, 2, 4
USER = 0x10000000
MEMORY, KICK_FD, CALL_FD, LOG, SOCKET = 0, 1, 2, 3, 4
RESIZE, FULL, LIMIT = 63, 62, 61


def record(request, payload=b"", flags=0, fds=0, first=0):
    return bytes([request, flags | fds * 8, first, len(payload)]) + payload


def u64(value):
    return struct.pack("<Q", value)


def ring(index, value):
    return struct.pack("<II", index, value)


REGION = struct.pack("<QQQQ", 0, 0x10000, USER, 0)
TABLE = record(5, struct.pack("<II", 1, 0) + REGION, 0, 1, MEMORY)
ADDRESSES = record(9, struct.pack("<IIQQQQ", 0, 1, USER, USER + 0xA00, USER + 0x800, 0xA00))
START = (record(16, u64(0x1920B)) + record(2, u64(1 << 32 | 1 << 30 | 1 << 13 | 1 << 11 | 1 << 9)) + TABLE
         + record(8, ring(0, 64)) + record(10, ring(0, 0)) + ADDRESSES + record(13, u64(0), 0, 1, CALL_FD)
         + record(12, u64(0), 0, 1, KICK_FD) + record(18, ring(0, 1), HOLD))
CONFIG = struct.pack("<III", 0, 60, 0)
SEEDS = {
    "asks": b"".join(record(request) for request in (1, 3, 15, 17, 36, 40)) + record(24, CONFIG),
    "stops": START + record(11, ring(0, 0), HOLD) + record(1),
    "memory": START + record(5, struct.pack("<II", 1, 0) + REGION, HOLD | WANT_REPLY, 1) + record(1),
    "slots": START + record(37, bytes(8) + struct.pack("<QQQQ", 1 << 20, 4096, 1 << 20, 0), WANT_REPLY, 1)
    + record(38, bytes(8) + REGION, WANT_REPLY | HOLD) + record(1),
    "reset": START + record(34, b"", WANT_REPLY | HOLD) + START,
    "disable": START + record(18, ring(0, 0), HOLD) + record(18, ring(0, 1)),
    "cache": START + record(25, struct.pack("<III", 32, 1, 1) + b"\0", WANT_REPLY | HOLD) + record(1),
    "log": START + record(6, struct.pack("<QQ", 4096, 0), 0, 1, LOG)
    + record(2, u64(1 << 32 | 1 << 30 | 1 << 26), KICK) + record(1, b"", KICK),
    "inflight": record(31, struct.pack("<QQHHI", 0, 0, 1, 64, 0))
    + record(32, struct.pack("<QQHHI", 4096, 0, 1, 64, 0), WANT_REPLY, 1, LOG) + START,
    "channel": record(21, b"", WANT_REPLY, 1, SOCKET) + START.replace(u64(0x1920B), u64(0x1922B))
    + record(RESIZE, b"", KICK) + record(RESIZE, bytes(9), KICK) + record(24, CONFIG)
    + record(21, b"", WANT_REPLY, 1, LOG),
    "full": record(FULL, b"1") + START + record(1) + record(FULL, b"") + record(1),
    "full_stops": record(FULL, b"1") + START + record(1) + record(11, ring(0, 0)) + record(1),
    "full_memory": record(FULL, b"1") + START + record(1)
    + record(5, struct.pack("<II", 1, 0) + REGION, WANT_REPLY, 1) + record(1),
    "full_hang_up": record(31, struct.pack("<QQHHI", 0, 0, 1, 64, 0))
    + record(32, struct.pack("<QQHHI", 4096, 0, 1, 64, 0), WANT_REPLY, 1, LOG) + record(FULL, b"1") + START
    + record(1, b"", HOLD),
    "limit": record(LIMIT, b"1") + START + record(1) + record(11, ring(0, 0)) + record(LIMIT, b"") + START,
    "discard": record(RESIZE, bytes(200)) + START + record(1, b"", HOLD) + record(11, ring(0, 0), HOLD)
    + record(1) + record(1),
    "half": record(64, struct.pack("<III", 5, 1, 40) + b"1234567", 0, 9),
    "hang_up": START,
}

place = pathlib.Path(sys.argv[1])
place.mkdir(parents=True, exist_ok=True)
for name, data in SEEDS.items():
    (place / name).write_bytes(data)
