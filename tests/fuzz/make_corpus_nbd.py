#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the seed corpus of fuzz_nbd into corpus/nbd: whole conversations of clients."""
import pathlib
import struct

IHAVEOPT = 0x49484156454F5054
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
EXPORT_NAME, ABORT, LIST, _, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = \
    range(1, 12)


def option(number, data=b""):
    return struct.pack(">QII", IHAVEOPT, number, len(data)) + data


def name(text):
    return struct.pack(">I", len(text)) + text


def info(number, *infos):
    return option(number, name(b"disk") + struct.pack(">H", len(infos)) +
                  b"".join(struct.pack(">H", one) for one in infos))


def meta(number, *queries):
    return option(number, name(b"disk") + struct.pack(">I", len(queries)) +
                  b"".join(name(query) for query in queries))


def compact(kind, flags, offset, length, data=b""):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, 7, offset, length) + data


def extended(kind, flags, offset, length, data=b""):
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, 9, offset, length) + data


def requests(make, payload_flag=0):
    return b"".join([
        make(WRITE, payload_flag | 1, 4096, 512, b"x" * 512), make(READ, 0, 4000, 1000),
        make(READ, 0, 0, 131072), make(READ, 4, 0, 131072), make(FLUSH, 0, 0, 0),
        make(TRIM, 1, 8192, 8192), make(ZEROES, 2, 0, 4096), make(ZEROES, 16, 0, 4096),
        make(CACHE, 0, 0, 65536), make(STATUS, 0, 0, 262144), make(STATUS, 8, 100, 5000),
        make(READ, 0, 262143, 2), make(WRITE, payload_flag, 262143, 2, b"yy"),
        make(99, 0, 0, 0), make(READ, 0x8000, 0, 1), make(DISC, 0, 0, 0)])


FIXED = struct.pack(">I", 3)
SEEDS = {
    "old": b"\0" + struct.pack(">I", 0) + option(EXPORT_NAME, b"disk") + requests(compact),
    "simple": b"\0" + FIXED + info(GO, 0, 1, 2, 3) + requests(compact),
    "structured": b"\2" + FIXED + option(STRUCTURED) + meta(LIST_META) + meta(LIST_META, b"base:") +
                  meta(SET_META, b"base:allocation", b"x:y") + info(GO) + requests(compact),
    "extended": b"\4" + FIXED + option(EXTENDED) + meta(SET_META, b"base:allocation") + info(GO) +
                extended(STATUS, 32, 0, 12, struct.pack(">QI", 200000, 1)) +
                requests(extended, 32),
    "options": b"\0" + FIXED + option(LIST) + option(STARTTLS) + info(INFO, 1) + option(55, b"zz") +
               option(INFO, b"\0") + option(INFO, name(b"other") + b"\0\0") + option(ABORT),
    "read_only": b"\1" + FIXED + option(STRUCTURED) + info(GO) + requests(compact),
    "trickle": b"\x18" + FIXED + option(STRUCTURED) + info(GO) + requests(compact),
    "vanish": b"\x64" + FIXED + option(STRUCTURED) + info(GO) + requests(compact)[:-28],
    "short_memory": b"\x88" + FIXED + option(STRUCTURED) + info(GO) +
                    compact(READ, 0, 0, 262144) * 8 + requests(compact),
    "short_memory_late": b"\xd4" + FIXED + info(GO) + compact(READ, 0, 0, 262144) * 8 +
                         compact(WRITE, 0, 0, 262144, bytes(262144)) + requests(compact),
    "long_option": b"\0" + FIXED + struct.pack(">QII", IHAVEOPT, 77, 70000) + bytes(500),
    "long_write": b"\0" + FIXED + info(GO) + compact(WRITE, 0, 0, 33 << 20, bytes(1000)),
}

if __name__ == "__main__":
    folder = pathlib.Path(__file__).resolve().parent / "corpus" / "nbd"
    folder.mkdir(exist_ok=True)
    for seed, data in SEEDS.items():
        (folder / seed).write_bytes(data)
