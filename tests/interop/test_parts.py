#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Images that are a part of a file, such as a partition's or an archive's (offset=, size=)."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from harness import *
from harness import serving_pid
from kept import eventually
from oldnames import *

KIB = 1 << 10
MIB = 1 << 20
BEFORE = 1536  # no multiple of a block, as in an archive
BEHIND = 700


def make_disk():
    """disk.raw: 8 MiB, of which [2 MiB, 3 MiB) is a partition."""
    pieces = (b"\1" * 2 * MIB, pattern(7, MIB // 2), bytes(MIB // 2), b"\2" * 5 * MIB)
    (tmpdir() / "disk.raw").write_bytes(b"".join(pieces))


def make_archive(image):
    """archive: the image between bytes that are none of its business. Returns what describes it."""
    data = (tmpdir() / image).read_bytes()
    data += bytes(-len(data) % 512)  # QEMU takes whole sectors alone
    (tmpdir() / "archive").write_bytes(b"\3" * BEFORE + data + b"\4" * BEHIND)
    return f"file.driver=raw,file.offset={BEFORE},file.size={len(data)},file.file.filename=archive"


def check_around_archive():
    data = (tmpdir() / "archive").read_bytes()
    check_equal(data[:BEFORE] == b"\3" * BEFORE, True, "what lies before the image is as it was")
    check_equal(data[-BEHIND:] == b"\4" * BEHIND, True, "what lies behind the image is as it was")


def bytes_of(path):
    return (tmpdir() / path).read_bytes()


def test_a_part_of_a_disk_is_read_as_qemu_img_reads_it():
    make_disk()
    for part in ("offset=2M,size=1M", "offset=2M", "size=4M", "offset=2097664,size=512", "offset=8M"):
        opts = f"driver=raw,{part},file.driver=file,file.filename=disk.raw"
        for name, program in (("theirs", qemu_img), ("ours", oxbow)):
            program("convert", "--image-opts", opts, "-O", "raw", name)
        check_equal(bytes_of("ours") == bytes_of("theirs"), True, f"the same bytes of {part}")
        sizes = [json.loads(output(*words, "info", "--image-opts", "--output=json", opts))["virtual-size"]
                 for words in ((oxbow_path(),), ("qemu-img",))]
        check_equal(*sizes, f"the size of {part}")


def test_a_partition_is_written_and_nothing_beside_it():
    make_disk()
    whole = bytearray(bytes_of("disk.raw"))
    (tmpdir() / "new.raw").write_bytes(pattern(9, MIB))
    for fmt in ("raw", "qcow2"):
        oxbow("convert", "-O", fmt, "new.raw", "source")
        for cache in ("writeback", "none"):
            (tmpdir() / "disk.raw").write_bytes(whole)
            oxbow("convert", "-n", "-t", cache, "-f", fmt, "--target-image-opts", "source",
                  "driver=raw,offset=2M,size=1M,file.filename=disk.raw")
            check_equal(bytes_of("disk.raw") == bytes(whole[:2 * MIB]) + pattern(9, MIB) + bytes(whole[3 * MIB:]),
                        True, f"{fmt} into a partition")
    expect_failure(oxbow_path(), "convert", "-n", "--target-image-opts", "new.raw",
                   "driver=raw,offset=2M,size=512k,file.filename=disk.raw", message="smaller")


def test_an_image_in_an_archive_is_used_where_it_lies():
    qemu_img("create", "-q", "-f", "qcow2", "in.qcow2", "8M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 7 1M 1M", "in.qcow2")
    where = make_archive("in.qcow2")
    for name, program in (("theirs", qemu_img), ("ours", oxbow)):
        program("convert", "--image-opts", f"driver=qcow2,{where}", "-O", "raw", name)
    check_equal(bytes_of("ours") == bytes_of("theirs"), True, "the same bytes")
    oxbow("io", "--image-opts", "-c", "write -q -P 8 1536k 100k", "-c", "discard -q 1M 64k",
          f"driver=qcow2,{where}")
    qemu_io("--image-opts", "-r", "-c", "read -q -P 8 1536k 100k", "-c", "read -q -P 7 1100k 400k",
            f"driver=qcow2,{where}")
    check_around_archive()
    # It cannot grow: a write that needs a cluster more fails, and what is there stays.
    result = oxbow("io", "--image-opts", "-c", "write -q -P 9 4M 2M", f"driver=qcow2,{where}", check=False)
    check_in("No space left on device", result.stdout + result.stderr, "a write that finds no room")
    qemu_io("--image-opts", "-r", "-c", "read -q -P 8 1536k 100k", f"driver=qcow2,{where}")
    check_around_archive()


def test_an_image_in_an_archive_ends_anywhere():
    qemu_img("create", "-q", "-f", "qcow2", "in.qcow2", "8M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 7 1M 1000", "in.qcow2")
    os.truncate(tmpdir() / "in.qcow2", os.path.getsize(tmpdir() / "in.qcow2") - 61 * KIB - 123)
    length = os.path.getsize(tmpdir() / "in.qcow2")
    make_archive("in.qcow2")
    oxbow("io", "-r", "--image-opts", "-c", "read -q -P 7 1M 1000", "-c", "read -q -P 0 1025k 60k",
          f"driver=qcow2,file.driver=raw,file.offset={BEFORE},file.size={length},file.file.filename=archive")


def test_what_begins_within_a_sector_is_read_alone():
    make_disk()
    opts = "driver=raw,offset=777,size=1M,file.filename=disk.raw"
    oxbow("io", "-r", "--image-opts", "-c", "read -q -P 1 0 1M", opts)
    expect_failure(oxbow_path(), "io", "--image-opts", "-c", "read -q 0 1M", opts,
                   message="can be opened read-only alone")
    expect_failure(oxbow_path(), "serve", "--no-keeper", "--nbd", tmpdir() / "s", "-f", "raw", "--file-offset=777",
                   "disk.raw", message="can be opened read-only alone")


def test_the_size_of_a_disk_that_holds_nothing_is_no_part():
    for opts, size in (("driver=null-co,size=1M", MIB), ("driver=raw,file.driver=null-co,file.size=1M", MIB),
                       ("driver=raw,size=512k,file.driver=null-co,file.size=1M", MIB // 2),
                       ("driver=raw,offset=512k,file.driver=null-co,file.size=1M", MIB // 2)):
        for words in ((oxbow_path(),), ("qemu-img",)):
            info = json.loads(output(*words, "info", "--image-opts", "--output=json", opts))
            check_equal(info["virtual-size"], size, f"the size of {opts} to {words[0]}")


def test_a_map_says_where_in_the_file_the_bytes_are():
    make_disk()
    for part in ("offset=2M,size=1M", "offset=2M"):
        opts = f"driver=raw,{part},file.filename=disk.raw"
        ours, theirs = (json.loads(output(*words, "map", "--image-opts", "--output=json", opts))
                        for words in ((oxbow_path(),), ("qemu-img",)))
        check_equal([extent["offset"] for extent in ours], [extent["offset"] for extent in theirs], f"places in {part}")
    qemu_img("create", "-q", "-f", "qcow2", "in.qcow2", "8M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 7 1M 64k", "-c", "write -q -P 7 2M 64k", "in.qcow2")
    where = make_archive("in.qcow2")
    extents = json.loads(output(oxbow_path(), "map", "--image-opts", "--output=json", f"driver=qcow2,{where}"))
    places = [extent["offset"] for extent in extents if extent["data"]]
    check_equal([bytes_of("archive")[place:place + 64 * KIB] == b"\7" * 64 * KIB for place in places], [True, True],
                "the data lies where the map says")


def test_a_raw_part_has_whole_sectors():
    make_disk()
    for args in ((), ("-r",)):
        expect_failure(oxbow_path(), "serve", "-f", "raw", *args, "--nbd", tmpdir() / "s", "--file-offset=1M",
                       "--file-length=1000", "disk.raw", message="Specified size is not multiple of 512")


def test_what_cannot_be_a_part_is_refused():
    make_disk()
    qemu_img("create", "-q", "-f", "qcow2", "in.qcow2", "8M")
    for opts, message in (
            ("driver=raw,offset=9M,file.filename=disk.raw",
             "Offset (9437184) cannot be greater than size of the containing file (8388608)"),
            ("driver=raw,offset=1M,size=8M,file.filename=disk.raw",
             "The sum of offset (1048576) and size (8388608) has to be smaller or equal to the actual size"),
            ("driver=raw,size=700,file.filename=disk.raw", "Specified size is not multiple of 512"),
            ("driver=raw,size=0,file.filename=disk.raw", "Parameter 'size' is 0"),
            ("driver=raw,offset=x,file.filename=disk.raw", "Parameter 'offset' expects a size"),
            ("driver=qcow2,offset=1M,file.filename=in.qcow2", "Invalid parameter 'offset'"),
            ("driver=file,offset=1M,filename=disk.raw", "Invalid parameter 'offset'"),
            ("driver=qcow2,size=1M,file.filename=in.qcow2", "Invalid parameter 'size'"),
            ("driver=qcow2,file.size=1M,file.filename=in.qcow2", "Invalid parameter 'size'"),
            ("driver=qcow2,file.file.filename=in.qcow2", "Invalid parameter 'file.file.filename'"),
            ("driver=qcow2,file.offset=1M,file.filename=in.qcow2", "Invalid parameter 'file.offset'"),
            ("driver=raw,offset=1M,file.driver=raw,file.offset=1M,file.file.filename=disk.raw",
             "Invalid parameter 'offset'")):
        expect_failure(oxbow_path(), "info", "--image-opts", opts, message=message)
    where = make_archive("in.qcow2")
    expect_failure(oxbow_path(), "check", "--image-opts", f"driver=qcow2,{where}", message="takes a whole file")
    expect_failure(oxbow_path(), "map", "--picture", "--image-opts", f"driver=qcow2,{where}",
                   message="takes a whole file")
    expect_failure(oxbow_path(), "io", "-s", "--image-opts", "-c", "read 0 1", f"driver=qcow2,{where}",
                   message="takes a whole file")


def test_a_part_is_served():
    make_disk()
    whole = bytes_of("disk.raw")
    nbd("--fork", "--pid-file", tmpdir() / "pid", "-k", tmpdir() / "s", "--image-opts",
        "driver=raw,offset=2M,size=1M,file.filename=disk.raw")
    pid = int((tmpdir() / "pid").read_text())
    uri = f"nbd+unix:///?socket={tmpdir()}/s"
    check_equal(output("nbdinfo", "--size", uri).strip(), str(MIB), "the size of the export")
    eventually("the server's end", lambda: not os.path.exists(f"/proc/{pid}"))
    with Server("-f", "raw", "--file-offset=2M", "--file-length=1M", "disk.raw") as server:
        qemu_io("-f", "raw", "-c", "write -q -P 5 64k 64k", "-c", "flush", server.uri)
        os.kill(serving_pid(server.process.pid), signal.SIGKILL)  # the next one has the same part
        qemu_io("-f", "raw", "-c", "read -q -P 5 64k 64k", "-c", "write -q -P 6 128k 64k", server.uri)
    check_equal(bytes_of("disk.raw") == whole[:2 * MIB + 64 * KIB] + b"\5" * 64 * KIB + b"\6" * 64 * KIB +
                whole[2 * MIB + 192 * KIB:], True, "the disk afterwards")


def test_a_served_image_in_an_archive_survives_its_server():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "in.qcow2", "8M")
    where = make_archive("in.qcow2")
    length = os.path.getsize(tmpdir() / "archive") - BEFORE - BEHIND
    with Server("-f", "qcow2", f"--file-offset={BEFORE}", f"--file-length={length}", "archive") as server:
        for turn in range(3):
            qemu_io("-f", "raw", "-c", f"write -q -P {turn + 1} {turn}M 1M", server.uri)
            os.kill(serving_pid(server.process.pid), signal.SIGKILL)
        for turn in range(3):
            qemu_io("-f", "raw", "-c", f"read -q -P {turn + 1} {turn}M 1M", server.uri)
    qemu_io("--image-opts", "-r", "-c", "read -q -P 2 1M 1M", f"driver=qcow2,{where}")
    check_around_archive()


run_tests(globals())
