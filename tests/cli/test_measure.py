#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow measure: against the files that come of it, and against qemu-img's words."""
import random

from peers import *

MIB = 1 << 20


def measured(*args):
    return json.loads(oxbow("measure", "--output=json", *args).stdout)


def file_of(source, fmt, options):
    """The bytes of the file that a conversion makes."""
    oxbow("convert", "-f", fmt, "-O", "qcow2", *options, source, "made")
    return pathlib.Path("made").stat().st_size


def random_source(rng, size):
    """Whole pages of data, so that all that the map calls data is."""
    with open("source", "wb") as file:
        file.truncate(size)
    commands = []
    for _ in range(rng.randrange(30)):
        length = rng.choice((4096, 65536, 300 << 10, 2 * MIB))
        if length < size:
            commands += ["-c", f"write -q -P 7 {rng.randrange(size - length) // 4096 * 4096} {length}"]
    if commands:
        qemu_io("-t", "unsafe", "-f", "raw", *commands, "source")


def random_options(rng):
    cluster = rng.choice((512, 512, 2048, 4096, 65536, 65536, 2 * MIB))
    options = ["-o", f"cluster_size={cluster}"]
    if rng.random() < 0.4:
        options += ["-o", f"refcount_bits={rng.choice((1, 8, 16, 64))}"]
    return options


def test_required_is_the_size_of_the_file_that_comes_of_it():
    for seed in range(8):
        rng = random.Random(seed)
        size = rng.choice((0, 1, 9, 24)) * MIB + rng.choice((0, 512, 70000 // 512 * 512))
        options = random_options(rng)
        random_source(rng, size)
        said = measured("-f", "raw", "-O", "qcow2", *options, "source")
        check_equal(said["required"], file_of("source", "raw", options), f"required of case {seed}, {size} {options}")
        check_equal(said["fully-allocated"], file_of("source", "raw", ("-S", "0", *options)),
                    f"all of case {seed}, {size} {options}")


def test_a_conversion_makes_no_larger_file_than_qemu_img():
    for seed in range(8):
        rng = random.Random(200 + seed)
        size = rng.choice((1, 9, 24)) * MIB
        options = random_options(rng)
        random_source(rng, size)
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, "source", "theirs")
        theirs = pathlib.Path("theirs").stat().st_size
        made = file_of("source", "raw", options)
        # Its file may end within the last table.
        check_equal(made < theirs + 512, True, f"{made}, {theirs} by qemu-img ({options})")


def test_preallocation_makes_a_file_of_the_required_size():
    for mode in ("metadata", "falloc"):
        for options in (("-o", "cluster_size=512"), (), ("-o", "cluster_size=2M")):
            said = measured("--size", 20 * MIB + 512, "-O", "qcow2", "-o", f"preallocation={mode}", *options)
            oxbow("create", "-q", "-f", "qcow2", "-o", f"preallocation={mode}", *options, "made", 20 * MIB + 512)
            check_equal(said["required"], pathlib.Path("made").stat().st_size, f"{mode} {options}")


def test_an_empty_disk_of_8_tib_takes_what_its_file_takes():
    oxbow("create", "-q", "-f", "qcow2", "disk", "8T")
    said = measured("-O", "qcow2", "disk")
    check_equal(said["required"], pathlib.Path("disk").stat().st_size, "required")
    check_equal(said["fully-allocated"] > 8 << 40, True, f"{said}")


def test_raw_is_as_long_as_the_disk():
    for size in (0, 1537, MIB):
        same_as_qemu_img("measure", "--size", size)
        same_as_qemu_img("measure", "--output=json", "--size", size, "-O", "raw")
    pathlib.Path("odd").write_bytes(pattern(1, 1000))
    same_as_qemu_img("measure", "-f", "raw", "odd")


def test_a_chain_counts_as_a_whole():
    qemu_img("create", "-q", "-f", "qcow2", "base", "4M")
    qemu_io("-f", "qcow2", "-c", "write -q 0 1M", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    qemu_io("-f", "qcow2", "-c", "write -q 2M 1M", "top")
    empty = measured("--size", "4M", "-O", "qcow2")["required"]
    check_equal(measured("-O", "qcow2", "top")["required"], empty + 2 * MIB + 65536, "required")


def test_bitmaps_are_counted_as_qemu_img_does():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1G")
    qemu_img("bitmap", "--add", "-g", "512", "disk", "fine")
    qemu_img("bitmap", "--add", "disk", "coarse")
    for options in ((), ("-o", "cluster_size=512"), ("-o", "compat=0.10")):
        theirs = json.loads(qemu_img("measure", "--output=json", "-O", "qcow2", *options, "disk").stdout)
        check_equal(measured("-O", "qcow2", *options, "disk").get("bitmaps"), theirs.get("bitmaps"), "bitmaps")


def test_a_wrong_command_line_is_refused_in_the_known_words():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    for args in ((), ("a", "b"), ("-f", "raw"), ("--size", "1k", "x"), ("--size", "1k", "-O", "foo"),
                 ("--size", "1k", "-O", "qed"), ("--size", "foo"), ("--size", "9E"), ("-l", "foo", "disk"),
                 ("--size", "1G", "-l", "foo"), ("missing",), ("--size", "1G", "--output=xml"),
                 ("--image-opts", "--size", "1k")):
        same_as_qemu_img("measure", *args)


def test_a_snapshot_is_measured_in_the_size_that_its_image_has():
    for before, after in ((1, 2), (2, 1), (1, 1)):
        qemu_img("create", "-q", "-f", "qcow2", "disk", f"{before}M")
        qemu_io("-f", "qcow2", "-c", f"write -q -P 0x11 64k {before * 512}k", "disk")
        qemu_img("snapshot", "-c", "s1", "disk")
        qemu_img("resize", "-q", "-f", "qcow2", "--shrink", "disk", f"{after}M")
        qemu_io("-f", "qcow2", "-c", f"write -q -P 0x22 0 {after}M", "disk")
        for fmt in ("raw", "qcow2"):
            for words in ("s1", "1", "snapshot.name=s1"):
                theirs = qemu_img("measure", "-O", fmt, "-l", words, "disk")
                ours = oxbow("measure", "-O", fmt, "-l", words, "disk")
                check_equal(ours.stdout, theirs.stdout, f"{fmt} of {before}M, {after}M now")
    for words in ("nope", "snapshot.id=7", "snapshot.bad=7"):
        same_as_qemu_img("measure", "-l", words, "disk")


def test_a_copy_is_no_larger_than_measured_whatever_its_clusters_and_its_runs_of_zeroes():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "source", "512k")
    commands = [word for at in range(0, 524288, 4096) for word in ("-c", f"write -q {at} 512")]
    qemu_io("-f", "qcow2", *commands, "source")
    for cluster, words in ((512, ()), (512, ("-c",)), (1024, ("-S", "512")), (4096, ("-S", "100k"))):
        options = ("-O", "qcow2", "-o", f"cluster_size={cluster},refcount_bits=64")
        said = measured(*options, "source")["required"]
        oxbow("convert", *options, *words, "source", "copy")
        made = pathlib.Path("copy").stat().st_size
        check_equal(made <= said, True, f"{made} of {said} ({options} {words})")


run_tests(globals())
