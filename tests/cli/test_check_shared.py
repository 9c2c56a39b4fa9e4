#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check -r all of entries that name what a snapshot shares, with counts and without."""
from peers import *

import itertools
import pathlib

SIZES = ("512", "4k", "64k")
# None: version 2.
WIDTHS = (2, 64, None)
BITS = ("0x0800000000000000", "0x0200000000000020")


def other_place(size):
    """Where the disk's own data is: under the same L1 entry, in another cluster."""
    return "128k" if size == "64k" else "16k"


def make(size, width, has_own_table):
    options = "compat=0.10" if width is None else f"refcount_bits={width}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={size},{options}", "disk", "2M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 1 0 16k", "disk")
    qemu_img("snapshot", "-c", "first", "disk")
    if has_own_table:
        qemu_io("-f", "qcow2", "-c", f"write -q -P 2 {other_place(size)} 8k", "disk")


def corrupt(*lines):
    run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"),
        *itertools.chain.from_iterable(("-e", line) for line in lines), "disk")


def check_is_kept(what, size, has_own_table):
    result = oxbow("check", "-r", "all", "disk", check=False)
    check_equal(result.returncode, 0, f"exit code with {what} ({result.stderr})")
    check_equal("is lost" in result.stderr, False, f"something is lost with {what}")
    qemu_img("check", "disk")
    qemu_io("-f", "qcow2", "-c", "read -q -P 1 0 16k", "disk")
    if has_own_table:
        qemu_io("-f", "qcow2", "-c", f"read -q -P 2 {other_place(size)} 8k", "disk")
    qemu_img("snapshot", "-a", "first", "disk")
    qemu_io("-f", "qcow2", "-c", "read -q -P 1 0 16k", "disk")


def damages():
    for bits in BITS:
        yield (f"l2@0 |= {bits}",)
        yield (f"l1@0 |= {bits}",)
        yield f"l2@0 |= {bits}", "reftable[0] |= 0x100"
        yield f"l1@0 |= {bits}", "reftable[0] |= 0x100"
    yield ("l2@0 = end + (cluster * 4096)",)
    yield ("l1@0 = end + (cluster * 4096)",)


def test_what_a_snapshot_shares_is_kept():
    for size, width, lines in itertools.product(SIZES, WIDTHS, damages()):
        # The disk's own table shares clusters; one that it shares itself has an L1 entry to lose.
        has_own_table = lines[0].startswith("l2")
        make(size, width, has_own_table)
        corrupt(*lines)
        check_is_kept(f"{lines}, clusters of {size}, counts of {width} bits", size, has_own_table)
        os.remove("disk")


def test_what_nobody_else_names_is_kept_without_counts():
    for size, bits in itertools.product(SIZES, BITS):
        for table in ("l1", "l2"):
            qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}", "disk", "2M")
            qemu_io("-f", "qcow2", "-c", "write -q -P 1 0 16k", "disk")
            corrupt(f"{table}@0 |= {bits}", "reftable[0] |= 0x100")
            what = f"{bits} in {table}, clusters of {size}"
            result = oxbow("check", "-r", "all", "disk", check=False)
            check_equal(result.returncode, 0, f"exit code with {what} ({result.stderr})")
            check_in("is in doubt", result.stderr)
            qemu_img("check", "disk")
            qemu_io("-f", "qcow2", "-c", "read -q -P 1 0 16k", "disk")
            os.remove("disk")


run_tests(globals())
