# SPDX-License-Identifier: MIT
"""An opinion of its own on whether a small qcow2 image is sound. Shares no code with oxbow.

It asks less than either check does (header extensions and names are left to them), but what it finds
is corruption: a table that cannot be followed, two owners of one cluster, a count below its references,
a COPIED bit that lies."""
import struct

from reader import (BITMAPS_EXTENSION, COMPRESSED, COPIED, DATA_FILE, EXTENDED, MASK, Image,
                    round_up)

KNOWN = (1 << 5) - 1
MOST_PROBLEMS = 20


class Judge:
    def __init__(self, path):
        self.image = Image(path)
        self.problems = []
        self.refs = {}    # cluster -> references
        self.owner = {}   # cluster -> what it is: "meta", ("l2", L1 index), ("data", guest), "stream"
        self.copied = []  # (cluster, bit) of the active entries
        self.tables = {}  # L2 table -> [L1 index, trees that name it, whether the active one does]

    def wrong(self, text):
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)

    def refer(self, cluster, owner, times=1):
        """References a cluster; two owners of different kinds or places are a problem."""
        have = self.owner.setdefault(cluster, owner)
        exclusive = owner == "meta" and cluster in self.refs
        if have != owner and "stream" not in (have, owner) or exclusive or \
                {have, owner} & {"meta"} and have != owner:
            self.wrong(f"cluster {cluster} is {have} and {owner}")
        self.refs[cluster] = self.refs.get(cluster, 0) + times

    def claim(self, what, offset, length):
        """Metadata that nothing shares. Whether it can be read."""
        image = self.image
        if offset % image.cluster or offset + length > round_up(len(image.bytes), image.cluster):
            self.wrong(f"{what} at {offset:#x} is out of place")
            return False
        for cluster in range(offset // image.cluster, -(-(offset + length) // image.cluster)):
            self.refer(cluster, "meta")
        return True

    def header(self):
        image = self.image
        if image.incompatible & ~KNOWN or image.order > 6 or image.crypt > 2:
            self.wrong("header fields")
        if image.incompatible & EXTENDED and image.bits < 14:
            self.wrong("extended entries in small clusters")
        if -(-image.size // (image.cluster * image.entries)) > image.l1_size:
            self.wrong("L1 table too small")
        self.claim("header", 0, image.cluster)
        length = image.reftable_clusters * image.cluster
        if length == 0 or length > 8 << 20 or \
                not self.claim("refcount table", image.reftable_offset, length):
            self.wrong("refcount table")
            image.reftable_clusters = 0
        for at in range(image.reftable_offset, image.reftable_offset +
                        image.reftable_clusters * image.cluster, 8):
            entry = image.word(at) or 0
            if entry & 511:
                self.wrong(f"refcount table entry {entry:#x}")
            elif entry:
                self.claim("refcount block", entry, image.cluster)

    def trees(self):
        """Claims the L1 tables and yields (tree, L1 index, entry)."""
        image = self.image
        found = [(image.l1_offset, image.l1_size)] if image.l1_size else []
        records = list(image.snapshots()) if image.snapshots_offset % image.cluster == 0 else []
        if len(records) != image.snapshot_count:
            self.wrong("snapshot table")
        if records:
            last = records[-1][0]
            id_size, name_size = struct.unpack_from(">HH", image.bytes, last + 12)
            extra = struct.unpack_from(">I", image.bytes, last + 36)[0]
            self.claim("snapshot table", image.snapshots_offset, last + 40 + extra + id_size +
                       name_size - image.snapshots_offset)
        for number, (offset, size) in enumerate(found + [record[1:] for record in records]):
            if size > 4 << 20 or size and not self.claim("L1 table", offset, 8 * size):
                self.wrong(f"L1 table of tree {number}")
                continue
            for index in range(size):
                yield number, index, image.word(offset + 8 * index)

    def level1(self):
        image = self.image
        for tree, index, entry in self.trees():
            if not entry:
                continue
            table = image.l2_table(entry)
            if not table:
                self.wrong(f"L1 entry {entry:#x}")
                continue
            self.refer(table // image.cluster, ("l2", index))
            known = self.tables.setdefault(table, [index, 0, False])
            known[1] += 1
            known[2] |= tree == 0
            if tree == 0:
                self.copied.append((table // image.cluster, bool(entry & COPIED)))

    def level2(self):
        image = self.image
        for table, (l1_index, times, active) in self.tables.items():
            for i in range(image.entries):
                at = table + 8 * image.words * i
                entry = image.word(at) or 0
                second = image.word(at + 8) or 0 if image.words == 2 else 0
                if entry or second:
                    self.entry(entry, second, l1_index * image.entries + i, times, active)

    def entry(self, entry, second, guest, times, active):
        image = self.image
        if entry & COMPRESSED:
            offset, end = image.stream(entry)
            if offset >= len(image.bytes) or image.incompatible & DATA_FILE or second or \
                    entry & COPIED and active:
                self.wrong(f"compressed entry {entry:#x}")
                return
            for cluster in range(offset // image.cluster, (end - 1) // image.cluster + 1):
                self.refer(cluster, "stream", times)
            return
        offset = image.host(entry)
        allocated = image.is_allocated(entry)
        if offset is None or second & second >> 32 & 0xffffffff or \
                second & 0xffffffff and not allocated:
            self.wrong(f"L2 entry {entry:#x} {second:#x}")
        elif image.incompatible & DATA_FILE:
            if allocated and offset != guest * image.cluster:
                self.wrong(f"data file entry {entry:#x}")
        elif allocated and offset >= len(image.bytes):
            self.wrong(f"L2 entry {entry:#x} past the end")
        elif allocated:
            self.refer(offset // image.cluster, ("data", guest), times)
            if active:
                self.copied.append((offset // image.cluster, bool(entry & COPIED)))

    def bitmaps(self):
        image = self.image
        at = image.header_length
        while image.autoclear & 1 and at + 8 <= image.cluster:
            kind, length = struct.unpack_from(">II", image.bytes, at)
            if kind == BITMAPS_EXTENSION and length >= 24:
                count, _, size, offset = struct.unpack_from(">IIQQ", image.bytes, at + 8)
                self.directory(count, size, offset)
            if kind == 0:
                break
            at += 8 + round_up(length, 8)

    def directory(self, count, size, offset):
        image = self.image
        if not self.claim("bitmap directory", offset, size):
            return
        at = offset
        for _ in range(count):
            if at + 24 > offset + size:
                self.wrong("bitmap directory")
                return
            table, entries, _, _, _, name, extra = struct.unpack_from(">QIIBBHI", image.bytes, at)
            at += round_up(24 + name + extra, 8)
            if entries > 1 << 20 or not self.claim("bitmap table", table, 8 * entries):
                continue
            for i in range(entries):
                entry = image.word(table + 8 * i) or 0
                if entry & ~(MASK | 1) or entry & 1 and entry != 1:
                    self.wrong(f"bitmap entry {entry:#x}")
                elif entry & MASK:
                    self.claim("bitmap data", entry, image.cluster)

    def stored(self, cluster):
        image = self.image
        per_block = image.cluster * 8 >> image.order
        index, within = divmod(cluster, per_block)
        if 8 * index >= image.reftable_clusters * image.cluster:
            return 0
        block = image.word(image.reftable_offset + 8 * index) or 0
        width = 1 << image.order
        at = block + within * width // 8
        if block == 0 or block % image.cluster or at + max(width // 8, 1) > len(image.bytes):
            return 0
        if width < 8:
            return image.bytes[at] >> within * width % 8 & ((1 << width) - 1)
        return int.from_bytes(image.bytes[at:at + width // 8], "big")

    def counts(self):
        for cluster, refs in self.refs.items():
            if self.stored(cluster) < refs:
                self.wrong(f"cluster {cluster} is counted {self.stored(cluster)} times and named "
                           f"{refs} times")
        for cluster, bit in self.copied:
            if bit != (self.stored(cluster) == 1):
                self.wrong(f"COPIED of cluster {cluster}")

    def judge(self):
        self.header()
        self.level1()
        self.level2()
        self.bitmaps()
        if self.image.order <= 6:
            self.counts()
        return self.problems


def problems(path):
    """What is wrong with an image, in words; nothing where it is sound."""
    try:
        return Judge(path).judge()
    except (ValueError, struct.error) as error:
        return [f"unreadable: {error}"]
