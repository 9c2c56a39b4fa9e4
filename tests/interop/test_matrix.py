#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 40
"""Images cross between oxbow and QEMU in both directions, over the whole matrix.

Each row of the matrix is an image: created by one, written by one (perhaps the other), then checked
and read by both. The rows are a covering set: every value of every dimension is met, and nearly every
pair of values.
"""
import itertools
import random

from interop import *

DIMENSIONS = {
    "version": (3, 2),
    "cluster": tuple(1 << bits for bits in range(9, 22)),
    "refcount_bits": (1, 2, 4, 8, 16, 32, 64),
    "lazy": (False, True),
    "backing": ("none", "qcow2", "raw", "short-raw", "short-qcow2", "2 deep", "3 deep"),
    "preallocation": ("off", "metadata", "falloc", "full"),
    "creator": ("oxbow", "qemu"),
    "writer": ("oxbow", "qemu"),
}
NAMES = tuple(DIMENSIONS)
ROWS_PER_CLUSTER_SIZE = 8


def is_possible(row):
    if row["version"] == 2 and (row["lazy"] or row["refcount_bits"] != 16):
        return False
    return row["backing"] == "none" or row["preallocation"] == "off"


def pairs_of(row):
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(NAMES, 2)}


def all_possible_pairs():
    found = set()
    for a, b in itertools.combinations(NAMES, 2):
        for x, y in itertools.product(DIMENSIONS[a], DIMENSIONS[b]):
            # What decides possibility beside the pair itself, at its most permissive.
            row = {"version": 3, "lazy": False, "refcount_bits": 16, "backing": "none",
                   "preallocation": "off", a: x, b: y}
            if is_possible(row):
                found.add((a, x, b, y))
    return found


def covering_rows():
    """The same rows each time, ROWS_PER_CLUSTER_SIZE for each cluster size."""
    rng = random.Random(20)
    missing = all_possible_pairs()
    rows = []
    for cluster in DIMENSIONS["cluster"]:
        for _ in range(ROWS_PER_CLUSTER_SIZE):
            candidates = []
            while len(candidates) < 150:
                row = {name: rng.choice(values) for name, values in DIMENSIONS.items()}
                row["cluster"] = cluster
                if is_possible(row):
                    candidates.append(row)
            best = max(candidates, key=lambda row: len(pairs_of(row) & missing))
            missing -= pairs_of(best)
            rows.append(best)
    return rows, missing


ROWS, MISSING_PAIRS = covering_rows()


def test_the_rows_meet_every_value_and_nearly_every_pair():
    for name, values in DIMENSIONS.items():
        check_equal({row[name] for row in ROWS}, set(values), name)
    total = len(all_possible_pairs())
    if len(MISSING_PAIRS) > total * 0.05:
        raise Failure(f"{len(MISSING_PAIRS)} of {total} pairs are not met")


def create_options(row):
    options = [f"cluster_size={row['cluster']}", f"preallocation={row['preallocation']}",
               "compat=" + ("0.10" if row["version"] == 2 else "1.1")]
    if row["version"] == 3:
        options.append(f"refcount_bits={row['refcount_bits']}")
        options.append("lazy_refcounts=" + ("on" if row["lazy"] else "off"))
    return ",".join(options)


def virtual_bytes(row):
    return max(MIB, 6 * row["cluster"]) + 512


def creator_of(name):
    return oxbow if name == "oxbow" else qemu_img


def io_of(name):
    return (lambda *args: oxbow("io", *args)) if name == "oxbow" else qemu_io


def make_backing(row):
    """Makes the layers under the image. Returns the name and format of the highest (or None) and
    the bytes that a guest reads through it."""
    size = virtual_bytes(row)
    guest = bytearray(size)
    if row["backing"] == "none":
        return None, None, guest
    short = row["backing"].startswith("short")
    base_bytes = size // 2 // 512 * 512 if short else size
    data = pattern(f"base {row}", base_bytes)
    with open("base.raw", "wb") as file:
        file.write(data)
    guest[:base_bytes] = data
    if row["backing"] in ("raw", "short-raw"):
        return "base.raw", "raw", guest
    if row["backing"] in ("qcow2", "short-qcow2"):
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={row['cluster']}",
                 "base.raw", "base.qcow2")
        return "base.qcow2", "qcow2", guest
    below, fmt = "base.raw", "raw"
    for level in range(1, 2 if row["backing"] == "2 deep" else 3):
        name = f"layer{level}.qcow2"
        # Layers differ in cluster size, and the tool that makes them alternates.
        creator_of("oxbow" if level % 2 else "qemu")(
            "create", "-q", "-f", "qcow2", "-o", f"cluster_size={4096 << level}", "-b", below,
            "-F", fmt, name, str(size))
        at, length = 3000 * level, 70000
        write(io_of("qemu" if level % 2 else "oxbow"), name, guest,
              [(at, length, 0x10 + level)])
        below, fmt = name, "qcow2"
    return below, fmt, guest


def write(io, name, guest, pieces):
    """Writes pieces (offset, length, byte) to an image and to the model; byte None is zeroes."""
    commands = []
    for at, length, byte in pieces:
        length = min(length, len(guest) - at)
        commands.append(f"write -z {at} {length}" if byte is None
                        else f"write -P {byte:#x} {at} {length}")
        guest[at:at + length] = bytes([byte or 0]) * length
    io("-f", "qcow2", *io_args(commands), name)


def pieces_to_write(row):
    cluster, size = row["cluster"], virtual_bytes(row)
    return [
        (0, 512, 0xA1),
        (cluster - 512 if cluster > 512 else 512, 1024, 0xA2),
        (2 * cluster, cluster, 0xA3),
        (3 * cluster + 100, 3 * cluster // 2, 0xA4),
        (size // 2 // 512 * 512, 2048, 0xA5),
        (2 * cluster + 512 if cluster > 512 else 2 * cluster, 1024, None),
        (size - 700, 700, 0xA6),
    ]


def check_info(row, name):
    """Both describe it as it was asked for."""
    for command in (oxbow, qemu_img):
        info = json.loads(command("info", "--output=json", name).stdout)
        data = info["format-specific"]["data"]
        check_equal(info["virtual-size"], virtual_bytes(row), f"virtual size {row}")
        check_equal(info["cluster-size"], row["cluster"], f"cluster size {row}")
        check_equal(data["compat"], "0.10" if row["version"] == 2 else "1.1", f"compat {row}")
        check_equal(data["refcount-bits"], row["refcount_bits"], f"refcount bits {row}")
        if row["version"] == 3:
            check_equal(data["lazy-refcounts"], row["lazy"], f"lazy {row}")
    header = Qcow2(name)
    check_equal(header.get("version"), row["version"], f"version on disk {row}")
    check_equal(1 << header.get("refcount_order"), row["refcount_bits"], f"width on disk {row}")
    check_equal(header.get("compatible_features") & LAZY, int(row["lazy"]), f"lazy bit {row}")
    check_equal(header.is_dirty, False, f"dirty bit after a clean close {row}")


def run_row(row):
    for name in os.listdir("."):
        os.unlink(name)
    backing, backing_format, guest = make_backing(row)
    create = ["create", "-q", "-f", "qcow2", "-o", create_options(row)]
    if backing:
        create += ["-b", backing, "-F", backing_format]
    creator_of(row["creator"])(*create, "disk.qcow2", str(virtual_bytes(row)))
    check_clean("disk.qcow2", f"as created: {row}")
    check_bytes(guest_bytes_by_qemu("disk.qcow2"), bytes(guest), f"fresh, by QEMU: {row}")
    write(io_of(row["writer"]), "disk.qcow2", guest, pieces_to_write(row))
    check_clean("disk.qcow2", f"as written: {row}")
    check_info(row, "disk.qcow2")
    check_bytes(guest_bytes_by_qemu("disk.qcow2"), bytes(guest), f"written, by QEMU: {row}")
    check_bytes(guest_bytes_by_oxbow("disk.qcow2"), bytes(guest), f"written, by oxbow: {row}")


def cluster_size_test(cluster):
    def test():
        for row in ROWS:
            if row["cluster"] == cluster:
                run_row(row)
    return test


for _cluster in DIMENSIONS["cluster"]:
    globals()[f"test_images_with_clusters_of_{_cluster}_bytes_cross_both_ways"] = (
        cluster_size_test(_cluster))

run_tests(globals())
