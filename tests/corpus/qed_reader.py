# SPDX-License-Identifier: MIT
"""Reads what a guest sees of a small QED image that may be damaged, and says what is wrong with its
tables. Shares no code with oxbow."""
import collections
import os
import struct

BACKING, NEED_CHECK = 1, 2
SECTOR = 512
ZERO = 1


class Image:
    """ValueError where nothing can be made out."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        if len(self.bytes) < 64:
            raise ValueError("no header")
        (magic, self.cluster, table, header, self.features, _, _, self.l1_offset, self.size,
         name_offset, name_size) = struct.unpack_from("<4sIIIQQQQQII", self.bytes)
        if magic != b"QED\0" or table not in (1, 2, 4, 8, 16) or \
                self.cluster not in (1 << bits for bits in range(12, 27)):
            raise ValueError("no header")
        self.table_bytes = table * self.cluster
        self.entries = self.table_bytes // 8
        self.header_bytes = header * self.cluster
        self.backing = b""
        if self.features & BACKING:
            name = self.bytes[name_offset:name_offset + name_size]
            self.backing = self._file_beside(path, name)

    @staticmethod
    def _file_beside(path, name):
        """Its bytes, or None."""
        try:
            with open(os.path.join(os.path.dirname(path).encode(), name), "rb") as file:
                return file.read()
        except (OSError, ValueError):
            return None

    def is_place(self, offset, length):
        return offset % self.cluster == 0 and self.header_bytes <= offset and \
            offset + length <= len(self.bytes)

    def has_l1(self):
        return 0 < self.header_bytes <= len(self.bytes) and \
            self.is_place(self.l1_offset, self.table_bytes)

    def table(self, offset):
        return struct.unpack_from(f"<{self.entries}Q", self.bytes, offset)

    def word(self, offset):
        return struct.unpack_from("<Q", self.bytes, offset)[0]

    def unallocated(self, guest):
        if self.backing is None:
            return None
        return self.backing[guest:guest + self.cluster].ljust(self.cluster, b"\0")

    def read(self, guest):
        """The bytes of a guest cluster; None: EIO."""
        number = guest // self.cluster
        if not self.has_l1() or number // self.entries >= self.entries:
            return None
        l2 = self.word(self.l1_offset + number // self.entries * 8)
        if l2 == 0:
            return self.unallocated(guest)
        if not self.is_place(l2, self.table_bytes):
            return None
        entry = self.word(l2 + number % self.entries * 8)
        if entry == 0:
            return self.unallocated(guest)
        if entry == ZERO:
            return bytes(self.cluster)
        if not self.is_place(entry, 1):
            return None
        return self.bytes[entry:entry + self.cluster].ljust(self.cluster, b"\0")


def contents(path, step):
    """Of a sound image: sector -> bytes, of what is not zeroes, and each step sectors of what is."""
    image = Image(path)
    truth = {}
    zeroes = bytes(image.cluster)
    for guest in range(0, image.size, image.cluster):
        cluster = image.read(guest)
        if cluster == zeroes and guest // SECTOR % step >= image.cluster // SECTOR:
            continue
        for at in range(0, min(image.cluster, image.size - guest), SECTOR):
            truth[(guest + at) // SECTOR] = cluster[at:at + SECTOR]
    return truth


def right_sectors(path, truth):
    """Those of the sectors that read as they should."""
    right = set()
    try:
        image = Image(path)
    except ValueError:
        return right
    parts = {}
    for sector, data in truth.items():
        guest = sector * SECTOR // image.cluster * image.cluster
        if guest not in parts:
            parts[guest] = image.read(guest) if guest < image.size else None
        at = sector * SECTOR - guest
        if parts[guest] is not None and parts[guest][at:at + SECTOR] == data:
            right.add(sector)
    return right


def problems(path):
    """What is wrong with the tables, beside lost space."""
    image = Image(path)
    if not image.has_l1():
        return ["no L1 table"]
    wrong = []
    users = collections.Counter()

    def use(offset, length):
        for at in range(offset, offset + length, image.cluster):
            users[at] += 1

    use(0, image.header_bytes)
    use(image.l1_offset, image.table_bytes)
    tables = [offset for offset in image.table(image.l1_offset) if offset]
    for offset in tables:
        if not image.is_place(offset, image.table_bytes):
            wrong.append(f"L1 names {offset:#x}")
            continue
        use(offset, image.table_bytes)
        for entry in image.table(offset):
            if entry in (0, ZERO):
                continue
            if image.is_place(entry, image.cluster):
                use(entry, image.cluster)
            else:
                wrong.append(f"L2 names {entry:#x}")
    wrong += [f"{at:#x} is named {count} times" for at, count in users.items() if count > 1]
    return wrong


def is_marked(path):
    """NEED_CHECK."""
    try:
        return bool(Image(path).features & NEED_CHECK)
    except ValueError:
        return False
