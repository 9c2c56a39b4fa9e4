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

BOTH = {
    "creator": ("oxbow", "qemu"),
    # Who writes first, and who goes on.
    "writers": (("oxbow", "qemu"), ("qemu", "oxbow"), ("oxbow", "oxbow"), ("qemu", "qemu")),
}
DIMENSIONS = {
    "qcow2": {
        "version": (3, 2),
        "cluster": tuple(1 << bits for bits in range(9, 22)),
        "refcount_bits": (1, 2, 4, 8, 16, 32, 64),
        "lazy": (False, True),
        "backing": ("none", "qcow2", "raw", "short-raw", "short-qcow2", "2 deep", "3 deep"),
        "preallocation": ("off", "metadata", "falloc", "full"),
        **BOTH,
    },
    "qed": {
        "cluster": tuple(1 << bits for bits in range(12, 23)),
        "table": (2, 4, 8, 16),
        "backing": ("none", "qcow2", "raw", "qed", "short-raw", "short-qcow2", "2 deep", "3 deep"),
        **BOTH,
    },
}
ROWS_PER_CLUSTER_SIZE = 8


def is_possible(row):
    if row["format"] == "qed":
        return qemu_opens_qed(row["cluster"], row["table"])
    if row["version"] == 2 and (row["lazy"] or row["refcount_bits"] != 16):
        return False
    return row["backing"] == "none" or row["preallocation"] == "off"


def pairs_of(row):
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(DIMENSIONS[row["format"]], 2)}


# What decides possibility beside a pair itself, at its most permissive.
PERMISSIVE = {
    "qcow2": {"version": 3, "lazy": False, "refcount_bits": 16, "backing": "none",
              "preallocation": "off"},
    "qed": {"cluster": 4096, "table": 2},
}


def all_possible_pairs(fmt):
    found = set()
    dimensions = DIMENSIONS[fmt]
    for a, b in itertools.combinations(dimensions, 2):
        for x, y in itertools.product(dimensions[a], dimensions[b]):
            if is_possible({"format": fmt, **PERMISSIVE[fmt], a: x, b: y}):
                found.add((a, x, b, y))
    return found


def covering_rows(fmt):
    """The same rows each time, ROWS_PER_CLUSTER_SIZE for each cluster size."""
    rng = random.Random(20)
    dimensions = DIMENSIONS[fmt]
    missing = all_possible_pairs(fmt)
    rows = []
    for cluster in dimensions["cluster"]:
        for _ in range(ROWS_PER_CLUSTER_SIZE):
            candidates = []
            while len(candidates) < 150:
                row = {name: rng.choice(values) for name, values in dimensions.items()}
                row.update(format=fmt, cluster=cluster)
                if is_possible(row):
                    candidates.append(row)
            best = max(candidates, key=lambda row: len(pairs_of(row) & missing))
            missing -= pairs_of(best)
            rows.append(best)
    return rows, missing


COVERING = {fmt: covering_rows(fmt) for fmt in DIMENSIONS}


def test_the_rows_meet_every_value_and_nearly_every_pair():
    for fmt, (rows, missing) in COVERING.items():
        for name, values in DIMENSIONS[fmt].items():
            check_equal({row[name] for row in rows}, set(values), name)
        total = len(all_possible_pairs(fmt))
        if len(missing) > total * 0.05:
            raise Failure(f"{len(missing)} of {total} pairs are not met with {fmt}")


def create_options(row):
    if row["format"] == "qed":
        return f"cluster_size={row['cluster']},table_size={row['table']}"
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
    if not row["backing"].endswith("deep"):
        fmt = row["backing"].removeprefix("short-")
        cluster = min(row["cluster"], 2 * MIB)
        qemu_img("convert", "-f", "raw", "-O", fmt, "-o", f"cluster_size={cluster}", "base.raw",
                 f"base.{fmt}")
        return f"base.{fmt}", fmt, guest
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
    io("-f", format_of(name), *io_args(commands), name)


def pieces_to_write(row):
    cluster, size = row["cluster"], virtual_bytes(row)
    if row["format"] == "qed":
        # QEMU writes no part of a cluster of zeroes rightly where there is a backing file.
        zeroes = (2 * cluster, cluster, None)
    else:
        zeroes = (2 * cluster + 512 if cluster > 512 else 2 * cluster, 1024, None)
    return [
        (0, 512, 0xA1),
        (cluster - 512 if cluster > 512 else 512, 1024, 0xA2),
        (2 * cluster, cluster, 0xA3),
        (3 * cluster + 100, 3 * cluster // 2, 0xA4),
        (size // 2 // 512 * 512, 2048, 0xA5),
        zeroes,
        (size - 700, 700, 0xA6),
    ]


def pieces_to_add(row):
    """What the second writer writes: in place, beside what is there, and where nothing is."""
    cluster, size = row["cluster"], virtual_bytes(row)
    return [
        (100, 300, 0xB1),
        (cluster + cluster // 2, cluster // 2, 0xB2),
        (2 * cluster, cluster, 0xB3),
        (3 * cluster, cluster, None),
        (5 * cluster - 256, 512, 0xB4),
        (size - 512, 512, None),
    ]


def check_info(row, name):
    """Both describe it as it was asked for."""
    for command in (oxbow, qemu_img):
        info = json.loads(command("info", "--output=json", name).stdout)
        check_equal(info["virtual-size"], virtual_bytes(row), f"virtual size {row}")
        check_equal(info["cluster-size"], row["cluster"], f"cluster size {row}")
        check_equal(info["dirty-flag"], False, f"dirty flag {row}")
        if row["format"] == "qed":
            continue
        data = info["format-specific"]["data"]
        check_equal(data["compat"], "0.10" if row["version"] == 2 else "1.1", f"compat {row}")
        check_equal(data["refcount-bits"], row["refcount_bits"], f"refcount bits {row}")
        if row["version"] == 3:
            check_equal(data["lazy-refcounts"], row["lazy"], f"lazy {row}")
    header = image_file(name)
    check_equal(header.is_dirty, False, f"mark after a clean close {row}")
    if row["format"] == "qed":
        check_equal(header.get("table_size"), row["table"], f"table size on disk {row}")
        return
    check_equal(header.get("version"), row["version"], f"version on disk {row}")
    check_equal(1 << header.get("refcount_order"), row["refcount_bits"], f"width on disk {row}")
    check_equal(header.get("compatible_features") & LAZY, int(row["lazy"]), f"lazy bit {row}")


def run_row(row):
    for name in os.listdir("."):
        os.unlink(name)
    backing, backing_format, guest = make_backing(row)
    create = ["create", "-q", "-f", row["format"], "-o", create_options(row)]
    stated = ()
    if backing:
        create += ["-b", backing, "-F", backing_format]
        if row["format"] == "qed" and backing_format != "raw":
            stated = ("--backing-format", backing_format)
    creator_of(row["creator"])(*create, "disk", str(virtual_bytes(row)))
    check_clean("disk", f"as created: {row}")
    check_bytes(guest_bytes_by_qemu("disk"), bytes(guest), f"fresh, by QEMU: {row}")
    for writer, pieces in zip(row["writers"], (pieces_to_write(row), pieces_to_add(row))):
        write(io_of(writer), "disk", guest, pieces)
        what = f"written by {writer} as one of {row}"
        check_closed("disk", what, freed=True)
        check_info(row, "disk")
        check_bytes(guest_bytes_by_qemu("disk"), bytes(guest), f"read by QEMU, {what}")
        check_bytes(guest_bytes_by_oxbow("disk", *stated), bytes(guest), f"read by oxbow, {what}")


def cluster_size_test(fmt, cluster):
    def test():
        for row in COVERING[fmt][0]:
            if row["cluster"] == cluster:
                run_row(row)
    return test


for _fmt in DIMENSIONS:
    for _cluster in DIMENSIONS[_fmt]["cluster"]:
        globals()[f"test_{_fmt}_images_with_clusters_of_{_cluster}_bytes_cross_both_ways"] = (
            cluster_size_test(_fmt, _cluster))

run_tests(globals())
