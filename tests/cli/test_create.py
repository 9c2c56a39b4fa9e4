#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow create against qemu-img create."""
from peers import *


def created_alike(*args, name="disk", files=()):
    theirs_at, ours_at = apart_as_qemu_img("create", *args, files=files)
    if (theirs_at / name).exists():
        theirs = json.loads(output("qemu-img", "info", "--output=json", name, cwd=theirs_at))
        ours = json.loads(output("qemu-img", "info", "--output=json", name, cwd=ours_at))
        theirs.pop("actual-size")
        ours.pop("actual-size")
        check_equal(ours, theirs, f"image that create {args} makes")


def test_sizes_are_read_as_qemu_img_reads_them():
    for size in ("0", "1", "512", "513", "1k", "1K", "1M", "1.5G", "0x100000", "1b", "1B", "1.",
                 "1.0", "1.0k", "0.5k", "0.3k", "3.3M", "1.99999999M", "1.7T", " 1k", "+1k",
                 "010", "1e3", "1e", "1.5", "1.5b", ".5k", "1kk", "1Z", "", "k", "-0", "0x",
                 "0x1.8k", "1 k", "1..5k", "1e1k", "8E", "16E", "18446744073709551616",
                 "9223372036854775808"):
        theirs_at, ours_at = in_two_places()
        args = "create", "-f", "qcow2", "disk", "--", size
        theirs = qemu_img(*args, check=False, cwd=theirs_at)
        ours = oxbow(*args, check=False, cwd=ours_at)
        check_same(theirs, ours, repr(size))


def test_qcow2_options_make_the_image_that_qemu_img_makes():
    for options in ("compat=0.10", "compat=v2", "compat=1.1", "compat=v3", "cluster_size=4k",
                    "cluster_size=2M,compat=0.10", "lazy_refcounts=on", "lazy_refcounts=yes",
                    "lazy_refcounts", "nolazy_refcounts", "refcount_bits=1", "refcount_bits=64",
                    "preallocation=off", "preallocation=metadata", "preallocation=falloc",
                    "preallocation=full", "compression_type=zstd", "extended_l2=off", "nocow=on"):
        created_alike("-f", "qcow2", "-o", options, "disk", "5M")


def test_the_last_of_several_values_of_an_option_counts():
    created_alike("-f", "qcow2", "-o", "cluster_size=64k", "-o", "cluster_size=4k", "disk", "5M")


def test_version_stands_for_compat():
    oxbow("create", "-q", "-f", "qcow2", "-o", "version=2", "disk", "5M")
    info = json.loads(output("qemu-img", "info", "--output=json", "disk"))
    check_equal(info["format-specific"]["data"]["compat"], "0.10")


def test_the_size_may_be_an_option():
    created_alike("-f", "qcow2", "-o", "size=5M", "disk")
    created_alike("-f", "qcow2", "-o", "size=5M", "disk", "1M")
    created_alike("-f", "qcow2", "disk")


def test_raw_is_the_default_format():
    created_alike("disk", "1M")
    created_alike("-f", "raw", "-o", "preallocation=full", "disk", "1M")
    created_alike("-f", "raw", "-o", "cluster_size=4k", "disk", "1M")
    created_alike("-f", "raw", "-b", "base", "disk", "1M")


def test_a_raw_image_that_is_too_large_for_its_file_system_is_refused():
    for program in (oxbow_path(), "qemu-img"):
        expect_failure(program, "create", "-f", "raw", "x.raw", "7E",
                       message="The image size is too large for file format 'raw'")


def test_a_link_to_nothing_is_told_as_such():
    os.symlink("nowhere", "link")
    for words in (("create", "-q", "-f", "qcow2", "link", "1M"), ("info", "link")):
        expect_failure(oxbow_path(), *words, message="No such file or directory (it is a link to 'nowhere')")
    check_equal(os.path.lexists("nowhere"), False, "whether the file was made")


def test_quiet_says_nothing():
    created_alike("-q", "-f", "qcow2", "disk", "1M")
    created_alike("-f", "qcow2", "disk", "1M", "-q")


def test_bad_options_are_refused_in_the_known_words():
    for options in ("foo=1", "", ",", "cluster_size=1000", "cluster_size=4M",
                    "refcount_bits=3", "refcount_bits=abc", "refcount_bits=64k",
                    "lazy_refcounts=maybe", "compat=0.9", "lazy_refcounts=on,compat=v2",
                    "refcount_bits=8,compat=0.10", "compression_type=foo",
                    "compression_type=zstd,compat=0.10", "preallocation=foo"):
        created_alike("-f", "qcow2", "-o", options, "disk", "5M")
    created_alike("-f", "foo", "disk", "1M")


def test_a_wrong_command_line_is_refused_in_the_known_words():
    for args in ((), ("-f", "raw"), ("--foo", "disk"), ("-X", "disk"), ("-f",),
                 ("-f", "qcow2", "disk", "1M", "2M")):
        created_alike(*args)


def test_features_that_are_not_there_are_refused_by_name():
    for option, feature in (("data_file=x", "external data file"),
                            ("data_file_raw=on", "external data file"),
                            ("extended_l2=on", "extended L2"), ("encryption=on", "encryption"),
                            ("encrypt.format=luks", "encryption")):
        expect_failure(oxbow_path(), "create", "-f", "qcow2", "-o", option, "disk", "1M",
                       message=feature)
        check_equal(os.path.exists("disk"), False, f"existence of the image with {option}")


def test_a_backing_file_gives_size_and_is_looked_for_beside_the_image():
    os.mkdir("sub")
    qemu_img("create", "-q", "-f", "qcow2", "base", "7M")
    for args in (("-b", "base", "-F", "qcow2", "disk"), ("-b", "base", "-F", "qcow2", "disk", "9M"),
                 ("-o", "backing_file=base,backing_fmt=qcow2", "disk"),
                 ("-o", "backing_file=other", "-b", "base", "-F", "qcow2", "disk"),
                 ("-u", "-b", "missing", "-F", "qcow2", "disk", "1M"),
                 ("-u", "-b", "missing", "-F", "qcow2", "disk"),
                 ("-u", "-o", "backing_file=a,,b,backing_fmt=raw", "disk", "1M")):
        created_alike("-f", "qcow2", *args, files=["base"])
    oxbow("create", "-q", "-f", "qcow2", "-b", "../base", "-F", "qcow2", "sub/disk")
    info = json.loads(output("qemu-img", "info", "--output=json", "sub/disk"))
    check_equal((info["virtual-size"], info["backing-filename"]), (7 << 20, "../base"))
    expect_failure(oxbow_path(), "create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "sub/disk",
                   message="'sub/base': No such file or directory\nCould not open backing image.")


def test_a_backing_file_needs_a_stated_format():
    qemu_img("create", "-q", "-f", "qcow2", "base", "7M")
    created_alike("-f", "qcow2", "-b", "base", "disk", files=["base"])
    created_alike("-u", "-f", "qcow2", "-b", "base", "disk", "1M", files=["base"])
    result = expect_failure(oxbow_path(), "create", "-f", "qcow2", "-b", "base", "disk")
    check_in("Detected format of qcow2.", result.stderr)


def test_a_backing_file_that_cannot_be_is_refused():
    qemu_img("create", "-q", "-f", "qcow2", "base", "7M")
    for args in (("-b", "missing", "-F", "qcow2", "disk"),
                 ("-b", "missing", "-F", "qcow2", "disk", "1M"),
                 ("-b", "disk", "-F", "qcow2", "disk"), ("-b", "", "-F", "qcow2", "disk"),
                 ("-b", "base", "-F", "bar", "disk")):
        created_alike("-f", "qcow2", *args, files=["base"])
    result = expect_failure(oxbow_path(), "create", "-f", "qcow2", "-F", "qcow2", "disk", "1M")
    check_in("Backing format cannot be used without backing file", result.stderr)


def test_option_help_lists_every_option():
    text = output(oxbow_path(), "create", "-f", "qcow2", "-o", "help")
    for name in ("backing_file", "backing_fmt", "cluster_size", "compat", "compression_type",
                 "lazy_refcounts", "preallocation", "refcount_bits", "size"):
        check_in(f"  {name}=", text)
    check_in("size=<size>", output(oxbow_path(), "create", "-o", "size=1M,help", "disk"))
    check_equal(os.path.exists("disk"), False, "existence of the image")


run_tests(globals())
