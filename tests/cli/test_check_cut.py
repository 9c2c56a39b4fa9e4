#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check of files that were cut, as by a copy that was broken off, in a table or before it."""
from peers import *

import itertools
import pathlib

SIZES = ("512", "4k", "64k", "2M")
# Where the file ends; whether a range of the disk is lost by that; what the image has to have.
CUTS = (("&l1[0]", True, ""), ("&l1[0] + 4", True, ""), ("host l1@0", True, ""),
        ("(host l1@0) + 8", True, ""), ("(host l1@0) + (cluster - 1)", True, ""),
        ("header.snapshots_offset", False, "snapshots"),
        ("header.snapshots_offset + 0x30", False, "snapshots"),
        ("bitmap[0].table_offset", False, "bitmaps"),
        ("bitmap[0].table_offset + 5", False, "bitmaps"),
        ("&bitmap[0].name", False, "bitmaps"))


def make(size, version, has):
    options = f"cluster_size={size}" + (",compat=0.10" if version == 2 else "")
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, "disk", "2M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 1 0 64k", "disk")
    if has == "snapshots":
        qemu_img("snapshot", "-c", "first", "disk")
    elif has == "bitmaps":
        qemu_img("bitmap", "--add", "disk", "b0")
        qemu_io("-f", "qcow2", "-c", "write -q -P 2 1M 64k", "disk")


def cut(place):
    run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "-e", f"truncate {place}", "disk")


def said(*options):
    result = oxbow("check", *options, "disk", check=False)
    return result.returncode, result.stderr


def test_a_table_that_was_cut_is_no_table_of_zeroes():
    for size, (place, is_lost, has) in itertools.product(SIZES, CUTS):
        for version in (3,) if has == "bitmaps" else (2, 3):
            what = f"{place} of version {version}, clusters of {size}"
            make(size, version, has)
            cut(place)
            before = pathlib.Path("disk").read_bytes()
            code, text = said()
            check_equal(code, 2, f"exit code of a check, {what} ({text})")
            check_in("the file ends before the end of its", text)
            check_equal("is lost" in text, is_lost, f"a lost range is told, {what}")
            for how in ("leaks", "all"):
                code, text = said("-r", how)
                check_equal(code, 2, f"exit code of -r {how}, {what} ({text})")
                check_equal("Repairing" in text, False, f"something is repaired, {what}")
                check_equal(pathlib.Path("disk").read_bytes() == before, True,
                            f"the file is as before, {what}")
            os.remove("disk")


def test_what_is_counted_past_the_end_is_no_leak_where_something_is_missing():
    make("4k", 3, "")
    cut("end - (cluster * 3)")
    code, text = said()
    check_equal(code, 2, "exit code")
    check_in("3 clusters are counted past the end of the file", text)
    check_equal("Leaked" in text, False, "leaks are told")


def test_refcounts_that_were_cut_are_made_anew():
    for size in ("512", "4k", "64k"):
        for line in ("copy host reftable[0], end, cluster",
                     "copy header.refcount_table_offset, end, cluster"):
            make(size, 3, "")
            name = "reftable[0]" if "reftable[0]" in line else "header.refcount_table_offset"
            for step in (line, f"{name} = end - cluster", "truncate end - 0x100"):
                run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "-e", step, "disk")
            code, text = said()
            check_equal(code, 2, f"exit code of a check ({text})")
            code, text = said("-r", "all")
            check_equal(code, 0, f"exit code of a repair ({text})")
            qemu_img("check", "disk")
            qemu_io("-f", "qcow2", "-c", "read -q -P 1 0 64k", "disk")
            os.remove("disk")


run_tests(globals())
