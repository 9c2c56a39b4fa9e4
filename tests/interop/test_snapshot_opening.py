#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A disk as an internal snapshot has it, beside what QEMU says that is."""
from interop import *


def at_snapshot(image, snapshot, *commands, **kwargs):
    return oxbow("io", "-r", "-f", "qcow2", "-l", snapshot, *io_args(commands), image, **kwargs)



def make_disk(kind="cluster_size=64k"):
    """Named as they lie: each has an ID that is another one's name, and the disk grows."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", kind, "disk", "4M")
    qemu_io("-c", "write -q -P 1 0 2M", "-c", "write -q -c -P 9 3M 256k", "disk")
    qemu_img("snapshot", "-c", "2", "disk")
    qemu_io("-c", "write -q -P 2 1M 2M", "-c", "discard -q 0 128k", "disk")
    qemu_img("snapshot", "-c", "three", "disk")
    if "0.10" not in kind:
        qemu_img("resize", "-q", "disk", "6M")
    qemu_io("-c", "write -q -P 3 0 4M", "disk")
    qemu_img("snapshot", "-c", "three", "disk")
    qemu_io("-c", "write -q -P 4 0 4M", "disk")
    return "disk"


def same_as_qemus(image, snapshot, size):
    """QEMU makes it as large as the disk is now; the disk was smaller."""
    qemu_img("convert", "-f", "qcow2", "-O", "raw", "-l", snapshot, image, "was")
    was = pathlib.Path("was").read_bytes()
    check_equal(was[size:].strip(b"\0"), b"", "bytes past the end")
    was = was[:size]
    reads = []
    for at in range(0, len(was), 64 * KIB):
        block = was[at:at + 64 * KIB]
        check_equal(len(set(block)), 1, "bytes in one block")
        reads.append(f"read -q -P {block[0]} {at} {len(block)}")
    at_snapshot(image, snapshot, *reads)
    said = at_snapshot(image, snapshot, f"read -q {len(was) - 512} 512", f"read -q {len(was)} 512", check=False)
    check_in("read failed: Input/output error", said.stdout, "what is said of bytes past the end")


def test_every_snapshot_reads_as_qemu_converts_it():
    for kind in ("cluster_size=64k", "cluster_size=4k,compat=0.10", "cluster_size=512"):
        image = make_disk(kind)
        before = fingerprint(image)
        grown = 4 * MIB if "0.10" in kind else 6 * MIB
        for snapshot, size in (("1", 4 * MIB), ("2", 4 * MIB), ("three", 4 * MIB), ("snapshot.id=3", grown),
                               ("snapshot.name=2", 4 * MIB), ("snapshot.id=3,snapshot.name=three", grown)):
            same_as_qemus(image, snapshot, size)
        check_equal(fingerprint(image), before, "the image's bytes")


def test_a_snapshot_that_is_not_there_is_told_as_qemu_tells_it():
    image = make_disk()
    for snapshot in ("4", "nothing", "snapshot.id=three", "snapshot.name=1", "snapshot.id=1,snapshot.name=three"):
        expect_failure(oxbow_path(), "io", "-r", "-f", "qcow2", "-l", snapshot, "-c", "length", image,
                       message="Failed to load snapshot: Can't find snapshot")
    oxbow("create", "-q", "-f", "raw", "plain", "1M")
    expect_failure(oxbow_path(), "io", "-r", "-f", "raw", "-l", "1", "-c", "length", "plain",
                   message="Failed to load snapshot: ")
    expect_failure(oxbow_path(), "io", "-f", "qcow2", "-l", "1", "-c", "length", image,
                   message="A snapshot is opened read-only")


def test_a_snapshot_over_a_backing_file_reads_through_to_it():
    with open("base", "wb") as file:
        file.write(b"\7" * 4 * MIB)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "disk")
    qemu_img("snapshot", "-c", "empty", "disk")
    qemu_io("-c", "write -q -P 1 0 4M", "disk")
    at_snapshot("disk", "empty", "read -q -P 7 0 4M")


def test_a_damaged_record_is_refused():
    image = make_disk()
    table = int.from_bytes(read_at(image, 64, 8), "big")
    healthy = read_at(image, table, 40)
    for at, value in ((0, 1 << 50), (0, 513), (0, 0), (8, 0xffffffff), (8, 1 << 22), (8, 0)):
        write_at(image, table, healthy)
        write_at(image, table + at, value.to_bytes(8 if at == 0 else 4, "big"))
        expect_failure(oxbow_path(), "io", "-r", "-f", "qcow2", "-l", "1", "-c", "read -q 0 512", image)
    write_at(image, table, healthy)
    at_snapshot(image, "1", "read -q -P 1 0 1M")


if __name__ == "__main__":
    run_tests(globals())
