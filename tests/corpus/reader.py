# SPDX-License-Identifier: MIT
"""Reads what a guest, and each snapshot, sees of a small qcow2 image that may be damaged.

Shares no code with oxbow. What one L2 entry maps is a list of pieces of equal length (one, or 32 of
an extended entry): bytes without the zeroes at their end, or None where they cannot be read. A
snapshot goes by the place of its L1 table."""
import mmap
import os
import struct
import zlib

MASK = 0x00fffffffffffe00
COPIED = 1 << 63
COMPRESSED = 1 << 62
DIRTY, CORRUPT, DATA_FILE, ZSTD, EXTENDED = (1 << bit for bit in range(5))
SECTOR = 512
SUBCLUSTERS = 32
MOST_SNAPSHOTS = 64
MOST_BYTES = 1 << 40
BITMAPS_EXTENSION = 0x23852875
ZEROES = [b""]  # one for all: most of a disk


def round_up(value, unit):
    return -(-value // unit) * unit


def file_bytes(path):
    """The file mapped, so that a sparse one of any length does not matter."""
    with open(path, "rb") as file:
        length = min(file.seek(0, os.SEEK_END), MOST_BYTES)
        return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) if length else b""


class Image:
    def __init__(self, path):
        self.bytes = file_bytes(path)
        if len(self.bytes) < 104:
            raise ValueError("no header")
        (magic, self.version, backing_offset, backing_size, self.bits, self.size, self.crypt,
         self.l1_size, self.l1_offset, self.reftable_offset, self.reftable_clusters,
         self.snapshot_count, self.snapshots_offset) = struct.unpack_from(
             ">4sIQIIQIIQQIIQ", self.bytes)
        if magic != b"QFI\xfb" or not 9 <= self.bits <= 21 or self.version not in (2, 3):
            raise ValueError("no header")
        self.incompatible = self.autoclear = 0
        self.order, self.header_length = 4, 72
        if self.version >= 3:
            self.incompatible, _, self.autoclear, self.order, self.header_length = \
                struct.unpack_from(">QQQII", self.bytes, 72)
        self.cluster = 1 << self.bits
        self.words = 2 if self.incompatible & EXTENDED else 1
        self.entries = self.cluster // 8 // self.words
        self._open_others(os.path.dirname(path), backing_offset, backing_size)

    def _open_others(self, folder, backing_offset, backing_size):
        """The bytes of the backing file (b"" where there is none) and of the data file; None where
        they are named and not there."""
        self.backing = b""
        if backing_offset:
            name = bytes(self.bytes[backing_offset:backing_offset + min(backing_size, 1023)])
            path = os.path.join(folder.encode(), name)
            whole = name and b"\0" not in name and os.path.isfile(path)
            self.backing = file_bytes(path) if whole else None
        self.data = self.bytes
        if self.incompatible & DATA_FILE:
            path = os.path.join(folder, "data.raw")
            self.data = file_bytes(path) if os.path.exists(path) else None

    def word(self, offset):
        if offset < 0 or offset + 8 > len(self.bytes):
            return None
        return struct.unpack_from(">Q", self.bytes, offset)[0]

    def stream(self, entry):
        """Where a compressed stream begins and ends."""
        shift = 62 - (self.bits - 8)
        offset = entry & ((1 << shift) - 1)
        sectors = (entry & (COMPRESSED - 1)) >> shift
        return offset, (offset & ~511) + (sectors + 1) * 512

    def decompress(self, entry):
        offset, end = self.stream(entry)
        if offset >= len(self.bytes) or self.incompatible & (ZSTD | DATA_FILE):
            return None
        try:
            data = zlib.decompressobj(-12).decompress(self.bytes[offset:end], self.cluster)
        except zlib.error:
            return None
        return data if len(data) == self.cluster else None

    def behind(self, guest, length):
        """What shows through where the image has nothing."""
        return None if self.backing is None else self.backing[guest:guest + length]

    def host(self, entry):
        """The host cluster that a sound entry names (0: none), or None."""
        offset = entry & MASK
        zero = 1 if self.version >= 3 and self.words == 1 else 0
        if entry & ~(MASK | COPIED | zero) or offset % self.cluster:
            return None
        if offset == 0 and entry & COPIED and not self.incompatible & DATA_FILE:
            return None
        return offset

    def is_allocated(self, entry):
        """Whether a sound entry names a cluster: one of a data file may lie at 0."""
        return bool(entry & MASK) or bool(self.incompatible & DATA_FILE and entry & COPIED)

    def cluster_at(self, offset):
        if self.data is None or offset >= len(self.data):
            return None
        return self.data[offset:offset + self.cluster].ljust(self.cluster, b"\0")

    def entry_pieces(self, entry, subclusters, guest):
        if entry is None:
            return [None]
        if entry & COMPRESSED:
            return [self.decompress(entry)]
        offset = self.host(entry)
        if offset is None or self.incompatible & DATA_FILE and offset not in (0, guest):
            return [None]
        if self.words == 2:
            return self.subcluster_pieces(entry, offset, subclusters, guest)
        if entry & 1:
            return [b""]
        if not self.is_allocated(entry):
            return [self.behind(guest, self.cluster)]
        return [self.cluster_at(offset)]

    def subcluster_pieces(self, entry, offset, subclusters, guest):
        size = self.cluster // SUBCLUSTERS
        data = self.cluster_at(offset) if self.is_allocated(entry) else None
        pieces = []
        for i in range(SUBCLUSTERS):
            allocated, zero = subclusters >> i & 1, subclusters >> (32 + i) & 1
            if allocated:
                pieces.append(data[i * size:(i + 1) * size] if data and not zero else None)
            else:
                pieces.append(b"" if zero else self.behind(guest + i * size, size))
        return pieces

    def l2_table(self, l1):
        """Where a sound L1 entry's table is; 0: none; None: it cannot be followed."""
        if l1 is None or l1 & ~(MASK | COPIED) or l1 == COPIED or (l1 & MASK) % self.cluster:
            return None
        return l1 & MASK if l1 & MASK < len(self.bytes) else None

    def tree(self, l1_offset, l1_size, size):
        """The pieces of each guest cluster."""
        seen = []
        table = None
        for index in range(-(-size // self.cluster)):
            l1_index, within = divmod(index, self.entries)
            guest = index * self.cluster
            if within == 0:
                table = self.l2_table(self.word(l1_offset + 8 * l1_index)) \
                    if l1_index < l1_size else None
            if table is None:
                pieces = [None]
            elif table == 0:
                pieces = [self.behind(guest, self.cluster)]
            else:
                at = table + 8 * self.words * within
                second = self.word(at + 8) or 0 if self.words == 2 else 0
                pieces = self.entry_pieces(self.word(at), second, guest)
            pieces = [piece and piece.rstrip(b"\0") for piece in pieces]
            seen.append(ZEROES if pieces == ZEROES else pieces)
        return seen

    def snapshots(self):
        """(place of its record, L1 offset, L1 entries) of each that is found."""
        at = self.snapshots_offset
        for _ in range(min(self.snapshot_count, MOST_SNAPSHOTS)):
            if at + 40 > len(self.bytes):
                break
            l1_offset, l1_size, id_size, name_size = struct.unpack_from(">QIHH", self.bytes, at)
            extra = struct.unpack_from(">I", self.bytes, at + 36)[0]
            yield at, l1_offset, l1_size
            at = round_up(at + 40 + extra + id_size + name_size, 8)

    def contents(self, size):
        """Tree -> pieces of each guest cluster: of the active disk, "", of the size it should have,
        and of every snapshot that is found."""
        seen = {"": self.tree(self.l1_offset, self.l1_size, min(size, self.size))}
        for _, l1_offset, l1_size in self.snapshots():
            if l1_offset % self.cluster == 0:
                seen[f"snapshot at {l1_offset:#x}"] = self.tree(l1_offset, l1_size, size)
        return seen


def right_mask(pieces, truth, cluster):
    """Which of a guest cluster's sectors read as they should, a bit each."""
    if pieces == truth:
        return (1 << cluster // SECTOR) - 1
    parts = max(len(pieces), len(truth))
    size = cluster // parts

    def spread(some):
        if len(some) == parts:
            return some
        whole = None if some[0] is None else some[0].ljust(cluster, b"\0")
        return [whole if whole is None else whole[i * size:(i + 1) * size] for i in range(parts)]

    mask = 0
    for i, (piece, wanted) in enumerate(zip(spread(pieces), spread(truth))):
        if piece is None or wanted is None:
            continue
        piece, wanted = piece.ljust(size, b"\0"), wanted.ljust(size, b"\0")
        for s in range(0, size, SECTOR):
            if piece[s:s + SECTOR] == wanted[s:s + SECTOR]:
                mask |= 1 << (i * size + s) // SECTOR
    return mask


def right_sectors(path, truth, size, cluster):
    """(tree, guest cluster) -> which of its sectors read as in truth, a bit each."""
    try:
        image = Image(path)
        seen = image.contents(size) if image.cluster == cluster else {}
    except (ValueError, struct.error):
        return {}
    right = {}
    for tree in seen.keys() & truth.keys():
        for index, (pieces, wanted) in enumerate(zip(seen[tree], truth[tree])):
            mask = right_mask(pieces, wanted, cluster)
            if mask:
                right[tree, index] = mask
    return right


def lost_sectors(before, after):
    """(tree, guest cluster) -> the sectors that read right before and do not after."""
    lost = {}
    for key, mask in before.items():
        gone = mask & ~after.get(key, 0)
        if gone:
            lost[key] = gone
    return lost


def contents(path):
    image = Image(path)
    return image.contents(image.size), image.size, image.cluster
