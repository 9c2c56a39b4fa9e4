#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow resize against qemu-img resize."""
from peers import *

NOTE = re.compile(r"^(oxbow: )?note: .*\n?", re.M)


def make(name, fmt="qcow2", size="1M", options=()):
    qemu_img("create", "-q", "-f", fmt, *options, name, size)


def without_notes(result):
    result.stderr = NOTE.sub("", result.stderr)
    return result


def resized_alike(*args, files=("disk",), disk="disk"):
    theirs_at, ours_at = in_two_places(*files)
    theirs = qemu_img("resize", *args, check=False, cwd=theirs_at)
    ours = without_notes(oxbow("resize", *args, check=False, cwd=ours_at))
    check_same(theirs, ours, f"resize {args}")
    theirs_size = size_of(theirs_at / disk)
    check_equal(size_of(ours_at / disk), theirs_size, f"size after resize {args}")
    return ours_at


def size_of(path):
    return json.loads(output("qemu-img", "info", "--output=json", path))["virtual-size"]


def test_sizes_are_read_as_qemu_img_reads_them():
    make("disk")
    for size in ("2M", "+1M", "0x200000", "1.5M", "+0", "-0", "1048576", "1M", "+512", "0", "-1M", "-2M"):
        resized_alike("disk", size)


def test_a_word_that_is_no_size_changes_nothing():
    make("disk")
    for size in ("x", "", "1kb", "+x", "1.5", "99999999999999999999"):
        expect_failure(oxbow_path(), "resize", "disk", size, message="nvalid image size")
    check_equal(size_of("disk"), 1 << 20)


def test_a_smaller_disk_needs_consent():
    make("disk")
    qemu_io("-c", "write 512k 200k", "disk")
    for size in ("512k", "-1", "-512k"):
        resized_alike("disk", size)
        resized_alike("-q", "disk", size)
    for size in ("512k", "-512k", "1k", "1537", "0", "-1M", "-1G"):
        resized_alike("--shrink", "disk", size)


def test_a_refused_shrinking_says_how_much_would_be_lost():
    make("disk")
    qemu_io("-c", "write 256k 256k", "-c", "write -z 768k 64k", "disk")
    result = expect_failure(oxbow_path(), "resize", "disk", "384k")
    check_in("128 KiB (131072 bytes) of data lie beyond the new end", result.stderr)


def test_a_dry_run_changes_nothing_and_says_what_would_go():
    make("disk")
    qemu_io("-c", "write 256k 256k", "disk")
    before = pathlib.Path("disk").read_bytes()
    result = oxbow("resize", "--dry-run", "--shrink", "disk", "384k")
    check_in("from 1 MiB (1048576 bytes) to 384 KiB (393216 bytes)", result.stdout)
    check_in("131072 bytes", result.stderr)
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "untouched")


def test_a_raw_file_gets_every_byte_that_is_asked_for():
    make("disk", "raw")
    for args in (("disk", "1537"), ("--shrink", "disk", "1000"), ("disk", "+1"), ("--shrink", "disk", "-1")):
        at = resized_alike("-f", "raw", *args)
        check_equal((at / "disk").stat().st_size, (at / ".." / "qemu" / "disk").stat().st_size, "bytes of the file")


def test_sectors_are_what_qcow2_counts():
    make("disk")
    for args in (("disk", "1048577"), ("--shrink", "disk", "1537"), ("disk", "+1")):
        resized_alike(*args)


def test_preallocation_is_that_of_qemu_img():
    make("disk")
    for mode in ("off", "metadata", "falloc", "full", "foo"):
        at = resized_alike(f"--preallocation={mode}", "disk", "3M")
        if mode != "foo":
            qemu_img("check", at / "disk")
            qemu_img("compare", at / "disk", at / ".." / "qemu" / "disk")
            ours = json.loads(output("qemu-img", "map", "--output=json", at / "disk"))
            check_equal(sum(e["length"] for e in ours if e["data"]), 0 if mode == "off" else 2 << 20, mode)
    resized_alike("--preallocation=full", "disk", "1M")
    resized_alike("--shrink", "--preallocation=full", "disk", "512k")
    make("raw", "raw")
    for mode in ("off", "metadata", "falloc", "full"):
        resized_alike("-f", "raw", f"--preallocation={mode}", "raw", "3M", files=("raw",), disk="raw")
    make("qed", "qed")
    resized_alike("--preallocation=metadata", "qed", "3M", files=("qed",), disk="qed")


def test_the_new_part_of_the_last_cluster_has_its_place_too():
    for mode, room in (("metadata", 0), ("falloc", 65536), ("full", 65536)):
        qemu_img("create", "-q", "-f", "qcow2", "disk", "1000k")
        before = pathlib.Path("disk").stat()
        oxbow("resize", f"--preallocation={mode}", "disk", "1010k")
        after = pathlib.Path("disk").stat()
        check_equal((after.st_blocks - before.st_blocks) * 512 >= room, True, f"{mode} takes room")
        qemu_io("-c", "write 990k 20k", "disk")
        check_equal(pathlib.Path("disk").stat().st_size, after.st_size, f"length of the file after {mode}")
        if room:
            more = pathlib.Path("disk").stat().st_blocks - after.st_blocks
            check_equal(more * 512 < 16384, True, f"{mode}: {more} blocks more")
        qemu_img("check", "disk")


def test_a_backing_file_that_shows_through_the_last_cluster_stays():
    make("base", "raw")
    qemu_io("-f", "raw", "-c", "write -P 7 0 1M", "base")
    for size in ("1M", "1000k"):
        qemu_img("resize", "-q", "-f", "raw", "--shrink", "base", size)
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "disk", "1000k")
        oxbow("resize", "--preallocation=full", "disk", "1010k")
        said = output("qemu-io", "-c", "read -P 7 0 1000k", "-c", "read -P 0 1000k 10k", "disk")
        check_equal("Pattern verification failed" in said, False, said)
        qemu_img("check", "disk")


def test_what_is_preallocated_hides_a_longer_backing_file():
    make("base", size="4M")
    qemu_io("-c", "write -P 7 0 4M", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk", "1M")
    for mode in ("off", "metadata", "full"):
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk", "1000k")
        oxbow("resize", f"--preallocation={mode}", "disk", "3M")
        said = output("qemu-io", "-c", "read -P 7 0 1000k", "-c", "read -P 0 1000k 2072k", "disk")
        check_equal("Pattern verification failed" in said, False, said)
        qemu_img("check", "disk")


def test_qed_disks_shrink_too():
    make("disk", "qed", "4M")
    qemu_io("-f", "qed", "-c", "write -P 5 1M 2M", "disk")
    check_equal(oxbow("resize", "--shrink", "disk", "2M").stdout, "Image resized.\n")
    oxbow("check", "disk")
    check_equal("failed" in output("qemu-io", "-f", "qed", "-c", "read -P 5 1M 1M", "disk"), False, "verification")


def test_snapshots_survive_a_resize():
    make("disk")
    qemu_io("-c", "write -P 3 0 1M", "disk")
    qemu_img("snapshot", "-c", "one", "disk")
    oxbow("resize", "--shrink", "disk", "512k")
    qemu_img("check", "disk")
    oxbow("resize", "disk", "2M")
    qemu_img("check", "disk")
    check_equal("failed" in output("qemu-io", "-c", "read -P 3 0 512k", "-c", "read -P 0 512k 1536k", "disk"),
                False, "verification")
    make("old", options=("-o", "compat=0.10"))
    qemu_img("snapshot", "-c", "one", "old")
    expect_failure(oxbow_path(), "resize", "old", "2M", message="Can't resize a v2 image which has snapshots")


def test_wrong_command_lines_are_told_as_qemu_img_tells_them():
    make("disk")
    for args in ((), ("disk",), ("disk", "1M", "2M"), ("--bogus", "disk", "2M"), ("nofile", "1M"),
                 ("--image-opts", "-f", "qcow2", "driver=qcow2,file.filename=disk", "10M"),
                 ("--image-opts", "driver=qcow2,file.filename=disk", "10M"), ("-q", "disk", "3M")):
        resized_alike(*args)


run_tests(globals())
