#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow compare beside qemu-img compare."""
import random

from peers import *

MIB = 1 << 20


def write(disk, fmt, *words):
    qemu_io("-t", "unsafe", "-f", fmt, *[part for word in words for part in ("-c", word)], disk)


def make(name, fmt, size, *words):
    qemu_img("create", "-q", "-f", fmt, name, size)
    if words:
        write(name, fmt, *words)


def test_the_same_bytes_in_any_format_are_the_same():
    words = ("write -q -P 5 1M 64k", "write -q -P 6 3000k 700", "write -q -z 2M 64k")
    for fmt in ("raw", "qcow2", "qed"):
        make(fmt, fmt, "4M", *words)
    for one in ("raw", "qcow2", "qed"):
        for other in ("raw", "qcow2", "qed"):
            for options in ((), ("-q",), ("-s",), ("-p", "-q")):
                if "-s" in options and {one, other} != {one}:
                    continue  # what is allocated is up to the format
                same_as_qemu_img("compare", *options, "-f", one, "-F", other, one, other)


def test_the_first_difference_is_told():
    make("a", "qcow2", "8M", "write -q -P 5 0 8M")
    for offset in (0, 513, MIB - 1, MIB, 3 * MIB + 70000, 8 * MIB - 1):
        make("b", "qcow2", "8M", "write -q -P 5 0 8M", f"write -q -P 6 {offset} 1", "write -q -P 9 7M 1M")
        for pair in (("a", "b"), ("b", "a")):
            ours = same_as_qemu_img("compare", *pair)
            check_equal(ours.returncode, 1, "exit code")


def test_sizes_may_differ_in_zeroes_alone():
    make("small", "raw", "1M", "write -q -P 5 0 64k")
    make("large", "qcow2", "3M", "write -q -P 5 0 64k", "write -q -P 0 2M 64k")
    make("other", "qcow2", "3M", "write -q -P 5 0 64k", "write -q -P 1 2100k 1")
    make("early", "qcow2", "3M", "write -q -P 5 0 64k", "write -q -P 1 100k 1")
    for pair in (("small", "large"), ("large", "small"), ("small", "other"), ("small", "early"),
                 ("large", "other"), ("other", "large")):
        for options in ((), ("-s",), ("-q",)):
            same_as_qemu_img("compare", *options, *pair)


def test_progress_is_shown_from_nothing_to_all():
    make("a", "qcow2", "4M", "write -q -P 5 1M 2M")
    said = oxbow("compare", "-p", "a", "a").stdout
    check_equal(said.startswith("    (0.00/100%)\n"), True, f"beginning of {said!r}")
    check_equal(said.endswith("    (100.00/100%)\nImages are identical.\n"), True, f"end of {said!r}")


def test_strict_mode_compares_what_is_allocated():
    """QEMU names the extent before the difference if that one reaches to the disk's end on one side."""
    make("a", "qcow2", "4M", "write -q -P 5 1M 64k")
    make("b", "qcow2", "4M", "write -q -P 5 1M 64k", "write -q -P 0 2M 64k")
    make("c", "qcow2", "4M", "write -q -P 5 1M 64k", "write -q -z 2M 64k")
    for one in "abc":
        for other in "abc":
            same_as_qemu_img("compare", one, other)
            theirs = qemu_img("compare", "-s", one, other, check=False)
            ours = oxbow("compare", "-s", one, other, check=False)
            expected = theirs.returncode, theirs.stdout.replace("1114112", "2097152")
            check_equal((ours.returncode, ours.stdout), expected, f"strict answer for {one} and {other}")


def test_random_pairs_are_judged_as_qemu_img_does():
    for seed in range(14):
        rng = random.Random(seed)
        size = rng.choice((1, 2, 5)) * MIB
        words = [f"write -q -P {rng.randrange(3)} {at} {rng.choice((512, 4096, 70144))}"
                 for at in (rng.randrange((size - 80000) // 512) * 512 for _ in range(rng.randrange(8)))]
        make("a", rng.choice(("raw", "qcow2", "qed")), size, *words)
        more = [] if rng.random() < 0.4 else [f"write -q -P 2 {rng.randrange(size // 512) * 512} 512"]
        make("b", rng.choice(("raw", "qcow2", "qed")), size + rng.choice((0, 0, 65536)), *words, *more)
        same_as_qemu_img("compare", "a", "b")


def test_holes_of_a_preallocated_file_are_zeroes():
    make("a", "qcow2", "64M", "write -q -P 5 3M 1M")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "b", "64M")
    write("b", "qcow2", "write -q -P 5 3M 1M")
    same_as_qemu_img("compare", "a", "b")


def test_an_image_that_cannot_be_read_is_told_by_the_status():
    make("good", "qcow2", "4M", "write -q -P 5 0 1M")
    make("bad", "qcow2", "4M", "write -q -P 5 0 1M")
    with open("bad", "rb") as file:
        file.seek(40)
        l1 = int.from_bytes(file.read(8), "big")
    poke("bad", l1, (0x7ffffffffe00 | 1 << 63).to_bytes(8, "big"))
    ours = oxbow("compare", "good", "bad", check=False)
    check_equal((ours.returncode, ours.stdout), (3, ""), "answer")
    check_in("Sector allocation test failed for bad", ours.stderr)
    # A difference that comes before it counts.
    pathlib.Path("cut").write_bytes(pathlib.Path("good").read_bytes()[:-65536])
    check_equal(oxbow("compare", "good", "cut", check=False).returncode in (1, 3, 4), True, "status")


def test_a_backing_file_belongs_to_the_disk():
    make("base", "raw", "4M", "write -q -P 5 1M 1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top", "6M")
    same_as_qemu_img("compare", "base", "top")
    write("top", "qcow2", "write -q -P 5 1M 64k", "write -q -P 7 5M 1")
    same_as_qemu_img("compare", "base", "top")
    same_as_qemu_img("compare", "--image-opts", "driver=raw,file.filename=base",
                     "driver=qcow2,file.filename=top")


def test_empty_disks_of_8_tib_are_compared_by_their_maps():
    for name in "ab":
        make(name, "qcow2", "8T")
    check_equal(oxbow("compare", "a", "b", timeout=60).stdout, "Images are identical.\n", "answer")


def test_a_wrong_command_line_is_refused_in_the_known_words():
    make("a", "raw", "1M")
    for args in ((), ("a",), ("a", "b", "c"), ("-Z", "a", "b"), ("-T", "foo", "a", "a"), ("a", "missing"),
                 ("missing", "a"), ("-f", "foo", "a", "a"), ("--image-opts", "-f", "raw", "a", "a"),
                 ("-f", "raw", "-F", "raw", "-U", "a", "a"), ("-f", "raw", "-F", "raw", "-T", "none", "a", "a")):
        same_as_qemu_img("compare", *args)


run_tests(globals())
