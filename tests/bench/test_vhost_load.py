#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The client by which `./dev bench guest` measures servers of vhost-user does what it says, to oxbow's and to
QEMU's."""
import guest
from harness import *

CLUSTER = 65536
CLUSTERS = 64
BLOCK = 4096
DEPTH = 8


def bench(seconds):
    made = guest.parse_arguments(["--seconds", str(seconds)])
    made.oxbow = oxbow_path()
    made.client = pathlib.Path(oxbow_path()).parent / "tests" / "bench" / "vhost_load"
    made.dir = tmpdir()
    guest.EMPTY_BYTES = guest.PREFILLED_BYTES = CLUSTERS * CLUSTER
    return made


def disk_bytes(image):
    qemu_img("convert", "-O", "raw", image, "read.raw")
    return pathlib.Path("read.raw").read_bytes()


def is_by_a_slot(block):
    return 1 <= block[0] <= DEPTH and block == block[:1] * BLOCK


def test_alloc_writes_one_block_of_each_cluster_and_ends_at_the_end_of_the_disk():
    for contender in ("oxbow", "qsd"):
        sample = guest.measure(bench(30), contender, guest.Row("alloc", 1, DEPTH), 1)
        disk = disk_bytes("empty.img")
        for at in range(0, len(disk), CLUSTER):
            if not is_by_a_slot(disk[at:at + BLOCK]) or any(disk[at + BLOCK:at + CLUSTER]):
                raise Failure(f"{contender}: the cluster at {at} was not written as it should be")
        check_equal(sample["p50_us"] <= sample["p99_us"], True, "whether the median is the lesser")


def test_reads_change_nothing_and_writes_whole_blocks():
    for contender in ("oxbow", "qsd", "oxbow-raw", "qsd-raw"):
        made = bench(0.2)
        image = guest.prefilled_image(made, contender)
        before = disk_bytes(image)
        read = guest.measure(made, contender, guest.Row("read", 2, DEPTH), 1)
        check_equal(disk_bytes(image) == before, True, "whether reads leave the disk as it was")
        written = guest.measure(made, contender, guest.Row("write", 2, DEPTH), 1)
        after = disk_bytes(image)
        changed = [at for at in range(0, len(after), BLOCK) if after[at:at + BLOCK] != before[at:at + BLOCK]]
        if not changed or not all(is_by_a_slot(after[at:at + BLOCK]) for at in changed):
            raise Failure(f"{contender}: {len(changed)} blocks have changed")
        for what, sample in (("reads", read), ("writes", written)):
            if sample["iops"] <= 0 or sample["memory_kib"] <= 0:
                raise Failure(f"{contender}: {what} were not measured: {sample}")
        for name in ("full.raw", "full.qcow2"):
            pathlib.Path(name).unlink(missing_ok=True)


run_tests(globals())
