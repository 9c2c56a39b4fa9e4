#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow bench, beside qemu-img bench: texts, exit codes, and what it does to the disk."""
from peers import *

SECONDS = re.compile(r"completed in \d+\.\d{3} seconds\.")


def bench_as_qemu_img(*args, **kwargs):
    """Both on disks of their own, which are the same afterwards."""
    theirs_at, ours_at = in_two_places("disk")
    theirs = qemu_img("bench", *args, check=False, cwd=theirs_at, **kwargs)
    ours = oxbow("bench", *args, check=False, cwd=ours_at, **kwargs)
    for result in (theirs, ours):
        result.stdout = SECONDS.sub("completed in T seconds.", result.stdout)
    check_same(theirs, ours, f"bench {args}")
    qemu_img("compare", theirs_at / "disk", ours_at / "disk")
    qemu_img("check", "-q", ours_at / "disk")
    return ours_at / "disk"


def new_disk(size="16M"):
    qemu_img("create", "-q", "-f", "qcow2", "disk", size)


def test_reads_are_told_as_by_qemu_img():
    new_disk()
    qemu_io("-c", "write -q -P 3 1M 2M", "disk")
    for args in ((), ("-c", "100"), ("-c", "0x10", "-d", "1"), ("-c", "100", "-o", "64k", "-S", "1M", "-s", "8k"),
                 ("-c", "10", "-s", "1000"), ("-c", "10", "-s", "0"), ("-c", "10", "-S", "0"), ("-c", "0"),
                 ("-t", "none", "-n", "-c", "20"), ("-t", "none", "-i", "native", "-c", "20"),
                 ("-i", "threads", "-c", "20"), ("-i", "io_uring", "-c", "20"), ("-f", "raw", "-c", "3"),
                 ("-U", "-c", "3"), ("-c", "5", "--pattern=3"), ("-c", "5", "--no-drain")):
        bench_as_qemu_img(*args, "disk")
    bench_as_qemu_img("--image-opts", "driver=qcow2,file.filename=disk", "-c", "7")


def test_writes_leave_the_disk_that_qemu_img_leaves():
    new_disk()
    qemu_io("-c", "write -q -P 3 0 16M", "disk")
    for args in (("-c", "100"), ("-c", "100", "--pattern=0x5a"), ("-c", "300", "-S", "128k", "--pattern=200"),
                 ("-c", "50", "-s", "12k", "-S", "8k", "--pattern=7"), ("-c", "9", "-o", "1M", "--pattern=255"),
                 ("-c", "64", "-d", "4", "--flush-interval=8", "--pattern=1"),
                 ("-c", "61", "-d", "4", "--flush-interval=8", "--no-drain", "--pattern=1"),
                 ("-c", "20", "-d", "1", "--flush-interval=1", "-t", "writethrough"),
                 ("-c", "20", "--flush-interval=0"), ("-c", "20", "-t", "directsync"), ("-c", "5", "-t", "unsafe")):
        bench_as_qemu_img("-w", *args, "disk")


def test_what_is_refused_is_refused_in_the_same_words():
    new_disk()
    for args in (("-c", "x", "disk"), ("-c", "-1", "disk"), ("-c", "1k", "disk"), ("-c", "4294967296", "disk"),
                 ("-d", "x", "disk"), ("-d", "-1", "disk"), ("-o", "1x", "disk"), ("-s", "x", "disk"),
                 ("-s", "4G", "disk"), ("-S", "x", "disk"), ("-S", "4G", "disk"), ("-w", "--pattern=256", "disk"),
                 ("--pattern=x", "disk"), ("--flush-interval=1", "disk"), ("-w", "--flush-interval=x", "disk"),
                 ("-w", "--flush-interval=2", "disk"), ("-i", "foo", "disk"), ("-t", "foo", "disk"),
                 ("-n", "disk"), ("-i", "native", "disk"), (), ("disk", "disk"), ("-p", "disk"), ("-c",),
                 ("-o", "16M", "-c", "1", "disk"), ("-s", "32M", "-c", "1", "-d", "1", "disk"),
                 ("-w", "-U", "-c", "1", "disk"), ("-f", "qcow2", "--image-opts", "driver=raw")):
        bench_as_qemu_img(*args)


def test_a_disk_of_any_size_is_gone_through_again_and_again():
    """qemu-img fails where a request would cross the end."""
    new_disk("1000k")
    result = oxbow("bench", "-w", "--pattern=9", "-s", "96k", "-c", "100", "disk")
    check_in("Run completed in ", result.stdout)
    qemu_io("-c", "read -q -P 9 0 960k", "-c", "read -q -P 0 960k 40k", "disk")
    oxbow("bench", "-c", "10", "-s", "1000k", "disk")
    oxbow("bench", "-c", "10", "-s", "512", "-S", "1500k", "disk")
    expect_failure(oxbow_path(), "bench", "-c", "10", "-o", "999k", "disk", message="Failed request: Input/output")


def test_a_depth_of_nothing_is_refused_and_waits_for_nobody():
    """qemu-img waits for ever."""
    new_disk()
    expect_failure(oxbow_path(), "bench", "-d", "0", "disk", message="Invalid queue depth specified", timeout=60)


def test_an_empty_disk_is_measured_by_no_requests():
    new_disk("0")
    check_in("completed", oxbow("bench", "-c", "0", "disk").stdout)
    expect_failure(oxbow_path(), "bench", "disk", message="Failed request: Input/output error")


def test_more_memory_than_there_is_is_an_error():
    new_disk("64M")
    expect_failure(oxbow_path(), "bench", "-d", "2000000000", "-c", "2000000000", "-s", "2147483647", "disk",
                   message="Cannot allocate memory")
    oxbow("bench", "-d", "2000000000", "-c", "10", "-s", "1M", "disk")


def test_quiet_means_quiet():
    """qemu-img 7.2 takes -q and prints all the same."""
    new_disk()
    check_equal(oxbow("bench", "-q", "-w", "-c", "5", "disk").stdout, "", "what is printed")


def test_a_request_that_fails_ends_the_run():
    new_disk()
    qemu_io("-c", "write -q 0 16M", "disk")
    with open("disk", "rb") as image:
        l1 = int.from_bytes(image.read(48)[40:48], "big")
        image.seek(l1)
        l2 = int.from_bytes(image.read(8), "big") & ~(1 << 63)
    poke("disk", l2, (0x50200 | 1 << 63).to_bytes(8, "big"))
    expect_failure(oxbow_path(), "bench", "-U", "-c", "1000", "disk", message="Failed request: ")


def test_every_other_engine_does_the_same():
    new_disk()
    env = dict(os.environ, OXBOW_IO="threads")
    bench_as_qemu_img("-w", "-c", "200", "-d", "8", "--flush-interval=20", "--pattern=66", "disk", env=env)


run_tests(globals())
