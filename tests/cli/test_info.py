#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow info against qemu-img info."""
from peers import *


def told_alike(*args):
    same_as_qemu_img("info", *args)
    same_as_qemu_img("info", "--output=json", *args)


def test_qcow2_images_are_described_as_qemu_img_does():
    for number, options in enumerate(("compat=0.10", "compat=1.1", "cluster_size=512",
                                      "cluster_size=2M", "lazy_refcounts=on", "refcount_bits=1",
                                      "compression_type=zstd", "extended_l2=on",
                                      "data_file=data,data_file_raw=on")):
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, f"disk{number}", "1.23G")
        told_alike(f"disk{number}")


def test_qed_images_that_oxbow_wrote_are_described_as_qemu_img_does():
    qemu_img("create", "-q", "base", "1M")
    for args in (("-o", "cluster_size=4k,table_size=2"), ("-o", "cluster_size=2M,table_size=8"),
                 ("-b", "base", "-F", "raw")):
        oxbow("create", "-q", "-f", "qed", *args, "disk", "1.23G")
        oxbow("io", "-f", "qed", "-c", "write -q 0 3M", "-c", "write -q -z 1M 64k", "-c",
              "truncate 2G", "disk")
        told_alike("disk")
        told_alike("--backing-chain", "disk")


def test_sizes_are_rounded_as_qemu_img_rounds_them():
    for size in ("0", "512", "1000k", "1023k", "1M", "1025k", "999M", "1000M", "1023M", "1.5G",
                 "9999M", "99999M", "999.5G", "1T"):
        qemu_img("create", "-q", "-f", "raw", "disk", size)
        told_alike("-f", "raw", "disk")


def test_snapshots_and_bitmaps_are_listed():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "64M")
    qemu_img("snapshot", "-c", "first", "disk")
    qemu_img("snapshot", "-c", "a name longer than its column", "disk")
    qemu_img("bitmap", "--add", "disk", "b0")
    qemu_img("bitmap", "--add", "--disable", "-g", "1M", "disk", "b1")
    same_as_qemu_img("info", "--output=json", "disk")
    theirs, ours = (text.split("Snapshot list:\n") for text in
                    (output("qemu-img", "info", "disk"), output(oxbow_path(), "info", "disk")))
    check_equal(ours[0], theirs[0], "what stands before the list")
    list_of = [text[1].splitlines() for text in (theirs, ours)]
    check_equal(list_of[1][3:], list_of[0][3:], "what stands behind it")
    # The columns are those of QEMU 10.
    check_equal(list_of[1][0],
                "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT", "head")
    for number, name in ((1, "first"), (2, "a name longer than its column")):
        row = list_of[1][number]
        check_equal(row.startswith(f"{number:<7} {name:<16} "), True, f"the row {row!r}")


def test_an_unclean_or_corrupt_image_says_so():
    for bit in (1, 2, 3):
        qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk", "64M")
        poke("disk", 79, bytes([bit]))
        told_alike("disk")


def test_the_backing_file_is_named_as_stored_and_as_resolved():
    os.mkdir("sub")
    qemu_img("create", "-q", "-f", "raw", "base.raw", "3M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "../base", "-F", "qcow2", "sub/disk")
    qemu_img("create", "-q", "-f", "qcow2", "-b", tmpdir() / "base", "-F", "qcow2", "absolute")
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "missing", "-F", "qcow2", "orphan", "1M")
    for disk in ("sub/disk", "./sub/../sub/disk", tmpdir() / "sub/disk", "absolute", "orphan"):
        told_alike(disk)
        told_alike("--backing-chain", disk)
    told_alike("--backing-chain", "base.raw")


def test_a_chain_that_loops_is_refused():
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "b", "-F", "qcow2", "a", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "a", "-F", "qcow2", "b", "1M")
    told_alike("--backing-chain", "a")
    told_alike("a")


def test_image_opts_name_the_image():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    for options in ("driver=qcow2,file.filename=disk",
                    "driver=qcow2,file.driver=file,file.filename=disk",
                    "driver=raw,file.driver=file,file.filename=disk",
                    "driver=qcow2,file.driver=file,file.filename=missing"):
        told_alike("--image-opts", options)
    told_alike("--image-opts", "-f", "qcow2", "driver=qcow2,file.filename=disk")
    expect_failure(oxbow_path(), "info", "--image-opts", "driver=qcow2,file.filename=disk,foo=1",
                   message="Invalid parameter 'foo'")


def test_a_comma_in_a_file_name_is_doubled():
    qemu_img("create", "-q", "-f", "qcow2", "a,b", "1M")
    told_alike("--image-opts", "driver=qcow2,file.filename=a,,b")


def test_a_stated_format_is_believed():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    pathlib.Path("raw").write_bytes(bytes(1000))
    told_alike("-f", "raw", "disk")
    told_alike("-f", "qcow2", "raw")
    told_alike("-f", "bla", "raw")
    told_alike("raw")


def test_a_name_that_is_no_utf8_is_valid_json():
    name = b"disk\xff\xc3\xa4"
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    os.rename("disk", name)
    result = subprocess.run([oxbow_path(), "info", "--output=json", name], check=True,
                            stdout=subprocess.PIPE)
    check_equal(json.loads(result.stdout)["filename"], "disk\ufffdä")


def test_a_wrong_command_line_is_refused_in_the_known_words():
    for args in ((), ("a", "b"), ("--output=foo", "a"), ("--foo", "a"), ("-f",), ("missing",)):
        same_as_qemu_img("info", *args)


run_tests(globals())
