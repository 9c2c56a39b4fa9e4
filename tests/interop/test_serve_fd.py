#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`oxbow serve --fd`: the image is a descriptor that the caller opened, and nothing more is taken."""
from interop import *


def opened(path, flags):
    fd = os.open(path, flags)
    on_exit(lambda: os.close(fd))
    return fd


def of_each_format(test):
    def run_all():
        for fmt in FORMATS:
            oxbow("create", "-q", "-f", fmt, "disk", "8M")
            test(fmt)
    return run_all


@of_each_format
def test_a_descriptor_is_served_whatever_becomes_of_its_name(fmt):
    fd = opened("disk", os.O_RDWR)
    os.rename("disk", "elsewhere")
    with Server("-f", fmt, "--fd", fd, "disk", pass_fds=(fd,)) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x61" * MIB, MIB)
        handle.flush()
        handle.shutdown()
    oxbow("io", "-r", "-f", fmt, "-c", "read -P 0x61 1M 1M", "elsewhere")
    check_clean("elsewhere")


@of_each_format
def test_a_read_only_descriptor_is_served_read_only_or_not_at_all(fmt):
    before = fingerprint("disk")
    fd = opened("disk", os.O_RDONLY)
    expect_failure(oxbow_path(), "serve", "-f", fmt, "--nbd", "s.sock", "--fd", fd, "disk",
                   pass_fds=(fd,), message="not open for writing")
    with Server("-f", fmt, "-r", "--fd", fd, "disk", pass_fds=(fd,)) as server:
        handle = nbd_connect(server.uri)
        check_equal(handle.is_read_only(), True, "whether the export is read-only")
        check_equal(bytes(handle.pread(512, 0)), bytes(512), "what is read")
        handle.shutdown()
    check_equal(fingerprint("disk"), before, "the image")


def test_relative_backing_names_are_looked_for_beside_the_name_given():
    os.mkdir("sub")
    pathlib.Path("sub/base.raw").write_bytes(b"s" * 8 * MIB)
    pathlib.Path("base.raw").write_bytes(b"h" * 8 * MIB)
    oxbow("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "sub/disk")
    fd = opened("sub/disk", os.O_RDWR)
    for name, byte in (("sub/x", b"s"), ("x", b"h")):
        with Server("-f", "qcow2", "--allow-backing", "--fd", fd, name, pass_fds=(fd,)) as server:
            handle = nbd_connect(server.uri)
            check_equal(bytes(handle.pread(4, 0)), byte * 4, f"what the disk shows as {name}")
            handle.shutdown()


@of_each_format
def test_the_image_is_locked_and_free_again_afterwards(fmt):
    fd = opened("disk", os.O_RDWR)
    with Server("-f", fmt, "--fd", fd, "disk", pass_fds=(fd,)):
        expect_failure("qemu-io", "-f", fmt, "-c", "write 0 512", "disk", message="lock")
        expect_failure(oxbow_path(), "io", "-f", fmt, "-c", "length", "disk",
                       message="lock")
    check_equal(locked_bytes("disk"), [], "locked bytes")
    qemu_io("-f", fmt, "-c", "write -q 0 512", "disk")


@of_each_format
def test_a_number_that_is_no_descriptor_of_an_image_is_refused(fmt):
    read_end, write_end = os.pipe()
    on_exit(lambda: (os.close(read_end), os.close(write_end)))
    for number in ("99", "-1", "x", str(read_end)):
        result = run(oxbow_path(), "serve", "-f", fmt, "--nbd", "s.sock", "--fd", number,
                     "disk", check=False, pass_fds=(read_end,))
        check_equal(result.returncode, 1, f"exit code with descriptor {number}")
        if not result.stderr:
            raise Failure(f"descriptor {number} is refused without a word")


run_tests(globals())
