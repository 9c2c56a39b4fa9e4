# SPDX-License-Identifier: MIT
"""Images of every kind, small, with known content, and damage done to them at random.

A kind is what follows from a number: version, cluster size, refcount width, snapshots, bitmaps,
compressed clusters, a backing file, lazy refcounts left dirty, extended L2 entries, a data file."""
import os
import pathlib
import random
import struct
import subprocess

import reader
from reader import round_up

DISK = "disk.qcow2"
CLUSTERS = (512, 1024, 4096, 16384, 65536)
FEATURES = ("plain", "v2", "snapshots", "v2-snapshots", "bitmaps", "compressed", "backing", "dirty",
            "extended", "data-file", "snapshots-compressed", "snapshots-bitmaps",
            "backing-snapshots", "dirty-snapshots", "bitmaps-compressed", "backing-extended")
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
KINDS = 80
METHODS = ("bytes", "sector-random", "sector-zero", "sector-ones", "bit", "swap-sectors",
           "swap-clusters")
SECTOR = 512


def quiet(*argv, cwd, aborts=False):
    result = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0 and not aborts:
        raise RuntimeError(f"{argv}: {result.stdout.decode(errors='replace')}")


class Base:
    """One image of a kind, in a folder of its own: folder/disk.qcow2 and what it needs."""

    def __init__(self, number, folder):
        rng = random.Random(f"kind {number}")
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.features = FEATURES[number % len(FEATURES)].split("-")
        if "data" in self.features:
            self.features = ["data-file"]
        # Each feature meets each cluster size: 16 and 5 have no common divisor.
        self.cluster = CLUSTERS[number % len(CLUSTERS)]
        if "extended" in self.features:
            self.cluster = max(self.cluster, 16384)
        self.width = 16 if "v2" in self.features else WIDTHS[number % len(WIDTHS)]
        if "snapshots" in self.features:
            self.width = max(self.width, 4)
        # Several L2 tables, but where that would take gigabytes.
        self.size = {512: 1 << 20, 1024: 1 << 20, 4096: 3 << 20, 16384: 40 << 20,
                     65536: 6 << 20}[self.cluster]
        self._make(rng)
        self.truth = reader.contents(self.path)
        self.regions = regions(self.path)

    @property
    def path(self):
        return self.folder / DISK

    @property
    def name(self):
        return f"{'-'.join(self.features)}, {self.cluster}-byte clusters, {self.width}-bit counts"

    def _make(self, rng):
        options = [f"cluster_size={self.cluster}"]
        options.append("compat=0.10" if "v2" in self.features else f"refcount_bits={self.width}")
        more = []
        if "dirty" in self.features:
            options.append("lazy_refcounts=on")
        if "extended" in self.features:
            options.append("extended_l2=on")
        if "data-file" in self.features:
            options.append("data_file=data.raw")
        if "backing" in self.features:
            (self.folder / "base.raw").write_bytes(rng.randbytes(min(self.size, 6 << 20) // 2))
            more = ["-F", "raw", "-b", "base.raw"]
        quiet("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *more, DISK,
              str(self.size), cwd=self.folder)
        if "bitmaps" in self.features:
            for name in ("monday", "tuesday"):
                quiet("qemu-img", "bitmap", "--add", DISK, name, cwd=self.folder)
        if "snapshots" in self.features:
            for name in ("first", "second"):
                self._write(rng)
                quiet("qemu-img", "snapshot", "-c", name, DISK, cwd=self.folder)
        self._write(rng, "dirty" in self.features)

    def _write(self, rng, abort=False):
        """Writes unlike bytes in a few places; a sector is like no other."""
        commands = []
        unit = max(self.cluster, 4096)
        # Only what is not there yet can be written compressed.
        if "compressed" in self.features and not hasattr(self, "truth"):
            for i in rng.sample(range(self.size // self.cluster), 6):
                half = rng.randbytes(self.cluster // 2)
                commands.append(self._source(f"c{i}", half + half, i * self.cluster, "-c "))
            self.truth = None
        for i in range(5):
            length = rng.choice((unit, 4 * unit, 64 << 10))
            at = rng.randrange((self.size - length) // 4096) * 4096
            commands.append(self._source(f"w{i}", rng.randbytes(length), at))
        if "v2" not in self.features:
            commands.append(f"write -q -z {rng.randrange(self.size // unit) * unit} {unit}")
        if abort:
            commands += ["flush", "abort"]
        argv = ["qemu-io"]
        for command in commands:
            argv += ["-c", command]
        quiet(*argv, DISK, cwd=self.folder, aborts=abort)
        for path in self.folder.glob("source-*"):
            path.unlink()

    def _source(self, name, data, at, option=""):
        (self.folder / f"source-{name}").write_bytes(data)
        return f"write -q {option}-s source-{name} {at} {len(data)}"


# ---- where the metadata are ----

def regions(path):
    """Kind of metadata -> [(offset, length)], of a sound image."""
    image = reader.Image(path)
    found = {"header": [(4, image.header_length - 4)], "L1 table": [(image.l1_offset,
                                                                    8 * image.l1_size)]}
    tables = set()
    for offset, size in [(image.l1_offset, image.l1_size)] + [s[1:] for s in image.snapshots()]:
        for i in range(size):
            tables.add(image.l2_table(image.word(offset + 8 * i)))
    found["L2 table"] = [(table, image.cluster) for table in sorted(tables) if table]
    found["refcount table"] = [(image.reftable_offset,
                                min(image.reftable_clusters * image.cluster, 1024))]
    blocks = [image.word(image.reftable_offset + 8 * i) for i in range(64)]
    found["refcount block"] = [(block, image.cluster) for block in blocks if block]
    records = list(image.snapshots())
    if records:
        start = image.snapshots_offset
        found["snapshot table"] = [(start, records[-1][0] + 64 - start)]
        found["snapshot L1 table"] = [(record[1], 8 * record[2]) for record in records]
    found.update(first_cluster(image))
    return found


def first_cluster(image):
    """The header extensions, and the bitmap directory that one of them names."""
    found = {}
    at = image.header_length
    while at + 8 <= image.cluster:
        kind, length = struct.unpack_from(">II", image.bytes, at)
        if kind == reader.BITMAPS_EXTENSION:
            _, _, size, offset = struct.unpack_from(">IIQQ", image.bytes, at + 8)
            found["bitmap directory"] = [(offset, size)]
        at += 8 + round_up(length, 8)
        if kind == 0:
            break
    found["header extensions"] = [(image.header_length, at - image.header_length)]
    return found


# ---- damage ----

class Damage:
    """Damages a copy of a base; .steps says how."""

    def __init__(self, base, rng):
        self.base, self.rng = base, rng
        self.bytes = bytearray(base.path.read_bytes())
        self.steps = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kind = rng.choice(sorted(base.regions))
            method = rng.choice(METHODS)
            place = rng.choice(base.regions[kind])
            self._do(method, kind, *place)

    def _do(self, method, kind, start, length):
        rng = self.rng
        at = start + rng.randrange(length)
        if method.startswith("swap") and kind.startswith("header"):
            method = "bytes"
        self.steps.append(f"{method} in the {kind} at {at:#x}")
        if method == "bytes":
            some = rng.randbytes(min(rng.randint(1, 16), len(self.bytes) - at))
            self.bytes[at:at + len(some)] = some
        elif method == "bit":
            for _ in range(rng.choice((1, 1, 2, 4))):
                self.bytes[start + rng.randrange(length)] ^= 1 << rng.randrange(8)
        elif method.startswith("swap"):
            self._swap(at, SECTOR if method == "swap-sectors" else self.base.cluster)
        else:
            # The header's fields are a kind of their own.
            first = max(at // SECTOR * SECTOR, start if kind == "header extensions" else 4)
            end = min(at // SECTOR * SECTOR + SECTOR, len(self.bytes))
            self.bytes[first:end] = {
                "sector-random": rng.randbytes(end - first),
                "sector-zero": bytes(end - first),
                "sector-ones": b"\xff" * (end - first),
            }[method]

    def _swap(self, at, unit):
        """With other metadata, or with anything; the header stays where it is."""
        rng = self.rng
        where = rng.choice(rng.choice([places for kind, places in self.base.regions.items()
                                       if not kind.startswith("header")]))
        other = where[0] + rng.randrange(where[1])
        if rng.random() < 0.3:
            other = rng.randrange(self.base.cluster, len(self.bytes))
        a, b = at // unit * unit, other // unit * unit
        if max(a, b) + unit <= len(self.bytes) and min(a, b) > 0:
            self.bytes[a:a + unit], self.bytes[b:b + unit] = \
                self.bytes[b:b + unit], self.bytes[a:a + unit]
