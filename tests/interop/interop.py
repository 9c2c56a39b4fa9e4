# SPDX-License-Identifier: MIT
"""What the interop tests share beyond the harness.

The small readers of qcow2 and QED in here are a third opinion, written from the specifications: they ask
neither oxbow nor QEMU what is in a file.

Tests that hold for both formats take a *kind*, which is what `create -o` takes, behind the format's name
and a colon where that is not qcow2: "compat=1.1,cluster_size=4k", "qed:cluster_size=64k", "qed:". What a
file is, its first bytes tell (format_of).
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


FORMATS = ("qcow2", "qed")
NEED_CHECK = 2


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


def split_kind(kind):
    """The format, and what to give to -o; see above."""
    fmt, colon, options = kind.partition(":")
    return (fmt, options) if colon else ("qcow2", kind)


def kind_args(kind):
    """What create takes for it."""
    fmt, options = split_kind(kind)
    return ("-f", fmt, *(("-o", options) if options else ()))


def format_of(path):
    return {b"QFI\xfb": "qcow2", b"QED\0": "qed"}.get(read_at(path, 0, 4), "raw")


def image_file(path):
    """What its bytes tell, by the reader of its format."""
    return {"qcow2": Qcow2, "qed": Qed}[format_of(path)](path)


class Qcow2:
    """A qcow2 file as its bytes tell it."""

    def __init__(self, path):
        self.path = path

    def mark(self, marked=True):
        """As one that was not closed."""
        features = self.get("incompatible_features") & ~DIRTY
        self.put("incompatible_features", features | (DIRTY if marked else 0))

    def place_of(self, guest):
        """Where in the file a guest offset's cluster lies; 0: nowhere."""
        return self.l2_entry(guest) & OFFSET_MASK

    def alias(self, guest, other):
        """The entry for guest names the cluster of the other as well."""
        self.put_be64(self.l2_entry_at(guest), self.l2_entry(other))

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


QED_FIELDS = {
    "magic": (0, 4), "cluster_size": (4, 4), "table_size": (8, 4), "header_size": (12, 4),
    "features": (16, 8), "compat_features": (24, 8), "autoclear_features": (32, 8),
    "l1_table_offset": (40, 8), "size": (48, 8), "backing_offset": (56, 4), "backing_size": (60, 4),
}


class Qed:
    """The same of a QED file."""

    def __init__(self, path):
        self.path = path

    def get(self, field):
        offset, size = QED_FIELDS[field]
        return int.from_bytes(read_at(self.path, offset, size), "little")

    def put(self, field, value):
        offset, size = QED_FIELDS[field]
        write_at(self.path, offset, value.to_bytes(size, "little"))

    def le64(self, offset):
        return int.from_bytes(read_at(self.path, offset, 8), "little")

    def put_le64(self, offset, value):
        write_at(self.path, offset, value.to_bytes(8, "little"))

    @property
    def cluster_bytes(self):
        return self.get("cluster_size")

    @property
    def table_bytes(self):
        return self.get("cluster_size") * self.get("table_size")

    @property
    def is_dirty(self):
        return bool(self.get("features") & NEED_CHECK)

    def mark(self, marked=True):
        features = self.get("features") & ~NEED_CHECK
        self.put("features", features | (NEED_CHECK if marked else 0))

    def l1_entry_at(self, guest):
        span = self.table_bytes // 8 * self.cluster_bytes
        return self.get("l1_table_offset") + guest // span * 8

    def l2_entry_at(self, guest):
        table = self.le64(self.l1_entry_at(guest))
        if table == 0:
            return None
        return table + guest // self.cluster_bytes % (self.table_bytes // 8) * 8

    def l2_entry(self, guest):
        at = self.l2_entry_at(guest)
        return 0 if at is None else self.le64(at)

    def place_of(self, guest):
        entry = self.l2_entry(guest)
        return 0 if entry == 1 else entry

    def alias(self, guest, other):
        self.put_le64(self.l2_entry_at(guest), self.l2_entry(other))

    def table(self, offset):
        """The entries that are not zero, by their index. What lies in a hole costs nothing."""
        found = {}
        at, end = offset, offset + self.table_bytes
        with open(self.path, "rb") as file:
            while at < end:
                try:
                    at = max(at, os.lseek(file.fileno(), at, os.SEEK_DATA))
                except OSError:  # nothing but holes
                    break
                data = os.pread(file.fileno(), max(0, min(end - at, 64 * KIB)), at)
                for n, (word,) in enumerate(struct.iter_unpack("<Q", data[:len(data) // 8 * 8])):
                    if word:
                        found[(at - offset) // 8 + n] = word
                at += 64 * KIB
        return found

    def guest_bytes(self):
        """Of an image without a backing file, and without problems."""
        data = bytearray(self.get("size"))
        cluster = self.cluster_bytes
        for index, table in self.table(self.get("l1_table_offset")).items():
            for inner, entry in self.table(table).items():
                at = (index * (self.table_bytes // 8) + inner) * cluster
                length = min(cluster, len(data) - at)
                if entry != 1 and length > 0:
                    data[at:at + length] = read_at(self.path, entry, length).ljust(length, b"\0")
        return bytes(data)

    def problems(self):
        """What is wrong beside lost space: what an entry names lies in the file, and nothing else
        names it (docs/qed.md)."""
        cluster = self.cluster_bytes
        with open(self.path, "rb") as file:
            length = file.seek(0, os.SEEK_END)  # devices have one as well
        named, wrong = {}, []

        def name(offset, clusters, by):
            if offset % cluster or offset + (clusters - 1) * cluster >= length:
                wrong.append(f"{by} names {offset:#x} of {length:#x}")
            for n in range(clusters):
                owner = named.setdefault(offset // cluster + n, by)
                if owner != by:
                    wrong.append(f"{owner} and {by} name cluster {offset // cluster + n}")

        name(0, self.get("header_size"), "header")
        name(self.get("l1_table_offset"), self.get("table_size"), "L1")
        for index, table in self.table(self.get("l1_table_offset")).items():
            name(table, self.get("table_size"), f"L1[{index}]")
            for inner, entry in self.table(table).items():
                if entry != 1:
                    name(entry, 1, f"L2[{index}][{inner}]")
        return wrong


def qed_by_hand(path, cluster, table, size, header=1, l1=None, raw_backing=None, name_at=64):
    """An empty image of any shape, also of those that neither oxbow nor qemu-img makes: clusters of the
    header, the L1 table's cluster, and where the name of a backing file lies."""
    name = (raw_backing or "").encode()
    l1 = (l1 or header) * cluster
    with open(path, "wb") as file:
        file.write(struct.pack("<4sIIIQQQQQII", b"QED\0", cluster, table, header, 5 if name else 0, 0,
                               0, l1, size, name_at if name else 0, len(name)))
        os.pwrite(file.fileno(), name, name_at)
        file.truncate(l1 + cluster * table)


def qemu_opens_qed(cluster, table):
    """It does not open what qemu-img makes with tables of one cluster, nor what maps 2^64 bytes."""
    return table > 1 and not qed_maps_too_much(cluster, table)


def qed_maps_too_much(cluster, table):
    return (cluster * table // 8) ** 2 * cluster >= 1 << 64


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


def guest_bytes_by_oxbow(path, *args, fmt=None):
    """All the guest's bytes, read through a read-only oxbow server."""
    with Server("-f", fmt or format_of(path), "-r", "--allow-backing", *args, path) as server:
        handle = nbd_connect(server.uri)
        data = nbd_read_all(handle)
        handle.shutdown()
    return data


def guest_bytes_by_qemu(path, *args, fmt=None):
    raw = f"{path}.guest-bytes"
    qemu_img("convert", "-f", fmt or format_of(path), "-O", "raw", *args, path, raw)
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


def check_codes(path, codes, what):
    """Both checkers exit with one of the codes; the last one's is returned. Of QED, the reader in here
    has to find nothing either."""
    for command in ((oxbow_path(),), ("qemu-img",)):
        result = run(*command, "check", "-f", format_of(path), path, check=False)
        if result.returncode not in codes:
            raise Failure(f"{command[0]} check {path} exits with {result.returncode} {what}: "
                          f"{(result.stdout + result.stderr)[-2000:]}")
    if format_of(path) == "qed":
        check_equal(Qed(path).problems(), [], f"problems {what}")
    return result.returncode


def check_clean(path, what=""):
    """Both checkers find nothing, and say so with their exit codes."""
    check_codes(path, (0,), what)


def check_leaks_at_most(path, what=""):
    """They find lost space at the most. What is lost is returned where the format knows how, and then
    there is nothing to find."""
    if check_codes(path, (0, 3), what) == 3 and format_of(path) != "qed":
        oxbow("check", "-q", "-r", "leaks", "-f", format_of(path), path)
        check_clean(path, what)


def check_closed(path, what="", freed=False):
    """After a clean close: not marked, and clean. freed: something gave its clusters back, which QED
    uses again while the image is open, and has lost then."""
    check_equal(image_file(path).is_dirty, False, f"mark after the close {what}")
    if freed and format_of(path) == "qed":
        check_leaks_at_most(path, what)
    else:
        check_clean(path, what)


def io_args(commands):
    """['-c', 'write 0 1k', '-c', ...]"""
    return [word for command in commands for word in ("-c", command)]


__all__ = [name for name in dir() if not name.startswith("_")]
