# SPDX-License-Identifier: MIT
"""What the interop tests share beyond the harness.

The small qcow2 reader in here is a third opinion, written from the specification: it asks neither
oxbow nor QEMU what is in a file.
"""
import fcntl
import hashlib
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import harness
from harness import *

KIB = 1024
MIB = 1024 * KIB

CACHE_MODES = ("writeback", "writethrough", "none", "directsync", "unsafe")
SYNCHRONOUS_MODES = ("writethrough", "directsync")
DIRECT_MODES = ("none", "directsync")

# name -> (offset, bytes)
HEADER_FIELDS = {
    "magic": (0, 4), "version": (4, 4), "backing_file_offset": (8, 8),
    "backing_file_size": (16, 4), "cluster_bits": (20, 4), "size": (24, 8),
    "crypt_method": (32, 4), "l1_size": (36, 4), "l1_table_offset": (40, 8),
    "refcount_table_offset": (48, 8), "refcount_table_clusters": (56, 4), "nb_snapshots": (60, 4),
    "snapshots_offset": (64, 8), "incompatible_features": (72, 8), "compatible_features": (80, 8),
    "autoclear_features": (88, 8), "refcount_order": (96, 4), "header_length": (100, 4),
    "compression_type": (104, 1),
}
V2_HEADER_BYTES = 72

DIRTY = 1
CORRUPT = 2
LAZY = 1
BITMAPS = 1

F_OFD_GETLK = 36
LOCK_BYTES = tuple(range(100, 104)) + tuple(range(200, 204))

OFFSET_MASK = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1


def fingerprint(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_at(path, offset, length):
    with open(path, "rb") as file:
        return os.pread(file.fileno(), length, offset)


def write_at(path, offset, data):
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), data, offset)


def host_bytes(path):
    """What the file takes on the host."""
    return os.stat(path).st_blocks * 512


class Qcow2:
    """A qcow2 file as its bytes tell it."""

    def __init__(self, path):
        self.path = path

    def get(self, field):
        offset, size = HEADER_FIELDS[field]
        if offset >= V2_HEADER_BYTES and field != "version" and self.get("version") < 3:
            return 4 if field == "refcount_order" else 0
        return int.from_bytes(read_at(self.path, offset, size), "big")

    def put(self, field, value):
        offset, size = HEADER_FIELDS[field]
        write_at(self.path, offset, value.to_bytes(size, "big"))

    def be64(self, offset):
        return struct.unpack(">Q", read_at(self.path, offset, 8))[0]

    def put_be64(self, offset, value):
        write_at(self.path, offset, struct.pack(">Q", value))

    @property
    def cluster_bytes(self):
        return 1 << self.get("cluster_bits")

    @property
    def is_dirty(self):
        return bool(self.get("incompatible_features") & DIRTY)

    def l1_entry_at(self, guest):
        """Where in the file the L1 entry for a guest offset lies."""
        entries = self.cluster_bytes // 8
        return self.get("l1_table_offset") + guest // self.cluster_bytes // entries * 8

    def l2_entry_at(self, guest):
        """The same for the L2 entry; None where there is no table."""
        table = self.be64(self.l1_entry_at(guest)) & OFFSET_MASK
        if table == 0:
            return None
        return table + guest // self.cluster_bytes % (self.cluster_bytes // 8) * 8

    def l2_entry(self, guest):
        at = self.l2_entry_at(guest)
        return 0 if at is None else self.be64(at)

    def refcount_block_at(self, host):
        """The offset of the refcount block that counts a host offset; 0 for none."""
        bits = 1 << self.get("refcount_order")
        per_block = self.cluster_bytes * 8 // bits
        return self.be64(self.get("refcount_table_offset")
                         + host // self.cluster_bytes // per_block * 8)

    def refcount(self, host):
        bits = 1 << self.get("refcount_order")
        index = host // self.cluster_bytes % (self.cluster_bytes * 8 // bits)
        block = self.refcount_block_at(host)
        if block == 0:
            return 0
        if bits >= 8:
            raw = read_at(self.path, block + index * bits // 8, bits // 8)
            return int.from_bytes(raw, "big")
        byte = read_at(self.path, block + index * bits // 8, 1)[0]
        return byte >> (index * bits % 8) & ((1 << bits) - 1)

    def put_refcount(self, host, value):
        bits = 1 << self.get("refcount_order")
        if bits < 8:
            raise ValueError("for counts of whole bytes")
        index = host // self.cluster_bytes % (self.cluster_bytes * 8 // bits)
        write_at(self.path, self.refcount_block_at(host) + index * bits // 8,
                 value.to_bytes(bits // 8, "big"))

    def extensions(self):
        """[(type, offset of its data, length)] without the end marker."""
        at = self.get("header_length") if self.get("version") >= 3 else V2_HEADER_BYTES
        found = []
        while at + 8 <= self.cluster_bytes:
            kind, length = struct.unpack(">II", read_at(self.path, at, 8))
            if kind == 0:
                break
            found.append((kind, at + 8, length))
            at += 8 + (length + 7) // 8 * 8
        return found


def locked_bytes(path):
    """Which of QEMU's lock bytes anyone holds."""
    held = []
    with open(path, "r+b") as file:
        for byte in LOCK_BYTES:
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(file, F_OFD_GETLK, asked)
            if struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK:
                held.append(byte)
    return held


def wait_until_unlocked(path):
    """After a kill the kernel releases a dead process's files when their I/O is done, not before. oxbow
    waits for that itself; for QEMU the tests do."""
    deadline = time.monotonic() + 30
    while locked_bytes(path):
        if time.monotonic() > deadline:
            raise Failure(f"{path} stays locked: {locked_bytes(path)}")
        time.sleep(0.005)


def nbd_connect(uri):
    import nbd

    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_uri(uri)
    return handle


def nbd_read_all(handle):
    step = 8 * MIB
    size = handle.get_size()
    return b"".join(bytes(handle.pread(min(step, size - at), at)) for at in range(0, size, step))


def guest_bytes_by_oxbow(path, *args, fmt="qcow2"):
    """All the guest's bytes, read through a read-only oxbow server."""
    with Server("-f", fmt, "-r", "--allow-backing", *args, path) as server:
        handle = nbd_connect(server.uri)
        data = nbd_read_all(handle)
        handle.shutdown()
    return data


def guest_bytes_by_qemu(path, *args, fmt="qcow2"):
    raw = f"{path}.guest-bytes"
    qemu_img("convert", "-f", fmt, "-O", "raw", *args, path, raw)
    with open(raw, "rb") as file:
        data = file.read()
    os.unlink(raw)
    return data


def check_bytes(actual, expected, what):
    """As check_equal, but says where two long byte strings part."""
    if actual == expected:
        return
    if len(actual) != len(expected):
        raise Failure(f"{what}: {len(actual)} bytes, expected {len(expected)}")
    at = next(i for i in range(0, len(actual), 512) if actual[i:i + 512] != expected[i:i + 512])
    raise Failure(f"{what}: differs in the sector at {at:#x}: {actual[at:at + 16].hex()}, "
                  f"expected {expected[at:at + 16].hex()}")


def check_clean(path, what=""):
    """Both checkers find nothing, and say so with their exit codes."""
    for command in ((oxbow_path(),), ("qemu-img",)):
        result = run(*command, "check", "-f", "qcow2", path, check=False)
        if result.returncode != 0:
            raise Failure(f"{command[0]} check {path} exits with {result.returncode} {what}: "
                          f"{(result.stdout + result.stderr)[-2000:]}")


def io_args(commands):
    """['-c', 'write 0 1k', '-c', ...]"""
    return [word for command in commands for word in ("-c", command)]


__all__ = [name for name in dir() if not name.startswith("_")]
