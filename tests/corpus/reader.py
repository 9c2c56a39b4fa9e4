# SPDX-License-Identifier: MIT
"""Reads what a guest, and each snapshot, sees of a small qcow2 image that may be damaged.

Shares no code with oxbow. A cluster that cannot be read is None; zeroes are b""."""
import struct
import zlib

MASK = 0x00fffffffffffe00
COPIED = 1 << 63
COMPRESSED = 1 << 62


class Image:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        (magic, self.version, _, _, self.bits, self.size, _, self.l1_size, self.l1_offset, _, _,
         self.snapshot_count, self.snapshots_offset) = struct.unpack_from(">4sIQIIQIIQQIIQ",
                                                                          self.bytes)
        if magic != b"QFI\xfb" or not 9 <= self.bits <= 21:
            raise ValueError("no header")
        self.cluster = 1 << self.bits
        self.entries = self.cluster // 8

    def word(self, offset):
        if offset + 8 > len(self.bytes):
            return None
        return struct.unpack_from(">Q", self.bytes, offset)[0]

    def decompress(self, entry):
        shift = 62 - (self.bits - 8)
        offset = entry & ((1 << shift) - 1)
        sectors = (entry & (COMPRESSED - 1)) >> shift
        end = (offset & ~511) + (sectors + 1) * 512
        if offset >= len(self.bytes):
            return None
        try:
            data = zlib.decompressobj(-12).decompress(self.bytes[offset:end], self.cluster)
        except zlib.error:
            return None
        return data if len(data) == self.cluster else None

    def entry_data(self, entry):
        if entry is None:
            return None
        if entry & COMPRESSED:
            return self.decompress(entry)
        offset = entry & MASK
        if entry & ~(MASK | COPIED | 1) or offset % self.cluster or entry == COPIED:
            return None
        if entry & 1:
            return b"" if self.version >= 3 else None
        if offset == 0:
            return b""
        if offset + self.cluster > len(self.bytes) + self.cluster - 1:
            return None
        return self.bytes[offset:offset + self.cluster].ljust(self.cluster, b"\0")

    def tree(self, name, l1_offset, l1_size, size):
        """(name, guest cluster) -> content."""
        seen = {}
        for index in range(-(-size // self.cluster)):
            l1_index = index // self.entries
            l1 = self.word(l1_offset + 8 * l1_index) if l1_index < l1_size else None
            data = None
            if l1 == 0:
                data = b""
            elif l1 is not None and not l1 & ~(MASK | COPIED) and l1 != COPIED and \
                    (l1 & MASK) % self.cluster == 0 and l1 & MASK < len(self.bytes):
                data = self.entry_data(self.word((l1 & MASK) + 8 * (index % self.entries)))
            seen[name, index] = data.rstrip(b"\0") if data is not None else None
        return seen

    def contents(self, size):
        """Of the active disk (of the size it should have) and of every snapshot that is found."""
        seen = self.tree("", self.l1_offset, self.l1_size, size)
        at = self.snapshots_offset
        for number in range(min(self.snapshot_count, 64)):
            if at + 40 > len(self.bytes):
                break
            l1_offset, l1_size, id_size, name_size = struct.unpack_from(">QIHH", self.bytes, at)
            extra = struct.unpack_from(">I", self.bytes, at + 36)[0]
            if l1_offset % self.cluster == 0:
                seen.update(self.tree(f"snapshot {number}", l1_offset, l1_size, size))
            at = -(-(at + 40 + extra + id_size + name_size) // 8) * 8
        return seen


def right_clusters(path, truth, size):
    """Which clusters read as in truth."""
    try:
        seen = Image(path).contents(size)
    except (ValueError, struct.error):
        return set()
    return {key for key, data in seen.items() if data is not None and data == truth.get(key)}


def contents(path):
    image = Image(path)
    return image.contents(image.size), image.size
