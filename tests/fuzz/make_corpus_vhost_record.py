#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes seeds for fuzz_vhost_record: records that make sense, and such that do not in one place each."""
import pathlib
import struct
import sys

PART = 8 + 32 * 8
NUMBER, WORD, DEATHS, HAND = PART, PART + 8, PART + 16, PART + 24
STATE = HAND + 12 + 4 + 16 + 1024
CHANNEL, OWN, INFLIGHT, LOG, RING_COUNT, REGION_COUNT, REPLY = (STATE + at for at in (36, 38, 40, 64, 88, 92, 96))
RING = REPLY + 1120
REGION = RING + 64 * 48
MEMORY, KICK, CALL, OWN_FD, THEIRS, LOG_FD, CHANNEL_FD = range(7)
IN_HAND, ENDED = 2, 4


def change(at, data):
    return struct.pack("<HB", at, len(data)) + data


def u64(value):
    return struct.pack("<Q", value)


def in_hand(request, payload=b"", slots=(), flags=1 | 8):
    return (change(HAND, struct.pack("<IIII", request, flags, len(payload), len(slots)))
            + (change(HAND + 16, struct.pack(f"<{len(slots)}H", *slots)) if slots else b"")
            + (change(HAND + 32, payload) if payload else b"") + change(WORD, u64(IN_HAND)))


def shared(offset, size, slot, queues=0, queue_size=0):
    return struct.pack("<QQHHHH", offset, size, slot, queues, queue_size, 0)


def reply(count, slot=0xffff):
    return change(REPLY, struct.pack("<QIH", 1, count, slot))


REGION_IS = struct.pack("<QQQQ", 0, 0x10000, 0x10000000, 0)
SEEDS = {
    "goes_on": change(STATE + 24, b"\x0f"),
    "ended": change(WORD, u64(ENDED)),
    "second_state": change(WORD, u64(1)),
    "never_begun": change(NUMBER, u64(0)),
    "stops": in_hand(11, struct.pack("<II", 0, 0)),
    "memory": in_hand(5, struct.pack("<II", 1, 0) + REGION_IS, [MEMORY]),
    "kicks": in_hand(12, u64(1), [KICK]),
    "blamed": change(DEATHS, u64(2)) + in_hand(34),
    "long_message": in_hand(34) + change(HAND + 8, struct.pack("<I", 1025)),
    "many_descriptors": in_hand(34) + change(HAND + 12, struct.pack("<I", 9)),
    "wild_slot": in_hand(12, u64(1), [768]),
    "empty_slot": in_hand(12, u64(1), [100]),
    "answers": reply(20) + change(REPLY + 16, bytes(20)),
    "answers_with_a_file": reply(12, THEIRS),
    "long_reply": reply(1101),
    "many_rings": change(RING_COUNT, struct.pack("<I", 65)),
    "few_rings": change(RING_COUNT, struct.pack("<I", 1)),
    "many_regions": change(REGION_COUNT, struct.pack("<I", 510)),
    "the_same_region_twice": change(REGION_COUNT, struct.pack("<I", 2)) + change(REGION + 40, REGION_IS),
    "no_region": change(REGION_COUNT, bytes(4)),
    "long_region": change(REGION + 8, u64(1 << 40)),
    "region_without_a_file": change(REGION + 32, struct.pack("<H", KICK)),
    "ring_of_three": change(RING + 32, struct.pack("<I", 3)),
    "long_ring": change(RING + 32, struct.pack("<I", 128)),
    "ring_elsewhere": change(RING, u64(1 << 50)),
    "kick_that_is_a_file": change(RING + 40, struct.pack("<H", LOG_FD)),
    "kick_and_call_of_one_slot": change(RING + 42, struct.pack("<H", KICK)),
    "no_own_region": change(OWN, struct.pack("<H", 0xffff)),
    "their_region": change(INFLIGHT, shared(0, 2 * 1088, THEIRS, 2, 64)),
    "short_region": change(INFLIGHT, shared(0, 8, THEIRS, 2, 64)),
    "log": change(LOG, shared(0, 4096, LOG_FD)) + change(STATE + 28, b"\3"),
    "log_behind_its_end": change(LOG, shared(4096, 4096, LOG_FD)),
    "channel": change(CHANNEL, struct.pack("<H", CHANNEL_FD)) + change(STATE + 8, u64(0x28)),
    "fails": change(STATE + 28, b"\5"),
    "wild_wce": change(STATE + 32, b"\x99"),
}

directory = pathlib.Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
for name, data in SEEDS.items():
    (directory / name).write_bytes(data)
