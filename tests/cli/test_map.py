#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow map against qemu-img map."""
from peers import *


def mapped_alike(*args):
    same_as_qemu_img("map", *args)
    theirs = qemu_img("map", "--output=json", *args, check=False)
    ours = oxbow("map", "--output=json", *args, check=False)
    check_same_map(theirs, ours, f"map {args}")


def make_chain(fmt="qcow2", writer=qemu_io):
    qemu_img("create", "-q", "-f", "raw", "base.raw", "64M")
    qemu_io("-f", "raw", "-c", "write -q -P 9 5M 1M", "base.raw")
    qemu_img("create", "-q", "-f", fmt, "-b", "base.raw", "-F", "raw", "base")
    writer("-f", fmt, "-c", "write -q -P 1 0 1M", "-c", "write -q -P 2 10M 100k", "base")
    qemu_img("create", "-q", "-f", fmt, "-b", "base", "-F", fmt, "disk", "80M")
    writer("-f", fmt, "-c", "write -q -z 0 64k", "-c", "write -q -P 3 10M 64k", "-c",
           "write -q -P 3 30M 128k", "-c", "write -q -P 4 30208k 64k", "-c", "discard -q 11M 1M",
           "disk")


def oxbow_io(*args):
    return oxbow("io", *args)


def test_a_chain_is_mapped_as_qemu_img_does():
    for fmt in ("qcow2", "qed"):
        for writer in (qemu_io, oxbow_io):
            make_chain(fmt, writer)
            for disk in ("disk", "base", "base.raw"):
                mapped_alike(disk)


def test_a_part_of_the_disk_can_be_mapped():
    for fmt in ("qcow2", "qed"):
        make_chain(fmt)
        for args in (("-s", "1000", "-l", "100000"), ("-s", "1M"), ("-l", "1M"), ("-l", "0"),
                     ("-s", "100M"), ("-s", "80M", "-l", "1"),
                     ("--start-offset=10M", "--max-length=2M")):
            mapped_alike(*args, "disk")


def test_written_in_any_order_host_runs_are_told_apart():
    for fmt in ("qcow2", "qed"):
        for writer in (qemu_io, oxbow_io):
            qemu_img("create", "-q", "-f", fmt, "-o", "cluster_size=4k", "disk", "64M")
            for at in (7, 5, 6, 0, 1, 2, 30, 29, 4):
                writer("-f", fmt, "-c", f"write -q {at * 4}k 4k", "disk")
            mapped_alike("disk")


def test_compressed_clusters_have_no_place_of_their_own():
    make_chain()
    qemu_img("convert", "-c", "-O", "qcow2", "disk", "packed")
    mapped_alike("packed")


def test_an_empty_disk_has_one_empty_range():
    for fmt in ("qcow2", "qed"):
        qemu_img("create", "-q", "-f", fmt, "disk", "0")
        mapped_alike("disk")


def test_an_odd_length_of_a_raw_file_is_kept():
    pathlib.Path("disk").write_bytes(pattern(1, 1000))
    mapped_alike("-f", "raw", "disk")


def test_a_wrong_command_line_is_refused_in_the_known_words():
    for args in ((), ("-s", "foo", "a"), ("-l", "-1", "a"), ("a", "b"), ("--foo", "a"), ("missing",),
                 ("--output=xml", "a")):
        same_as_qemu_img("map", *args)


run_tests(globals())
