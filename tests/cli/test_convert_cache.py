#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow convert leaves the page cache as it was: pages of neither side stay in it."""
import ctypes
import mmap
from peers import *

SIZE = 64 << 20


def resident(name):
    """How many of its bytes are in the page cache."""
    with open(name, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        pages = (len(view) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * pages)()
        first = ctypes.c_char.from_buffer(view)
        result = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(view)), found)
        del first
    check_equal(result, 0, "mincore's result")
    return sum(page & 1 for page in found) * mmap.PAGESIZE


def file_system(path="."):
    return output("stat", "-f", "-c", "%T", path).strip()


def check_few(name):
    """A file in memory alone has nowhere else to keep its pages."""
    if file_system() not in ("tmpfs", "ramfs") and resident(name) > SIZE // 8:
        raise Failure(f"{resident(name)} bytes of {name} are in the page cache")


def make(name):
    """Clean pages: those that somebody else has yet to write out stay."""
    with open(name, "wb") as file:
        for seed in range(SIZE >> 20):
            file.write(bytes([seed + 1]) * (1 << 20))
        file.flush()
        os.fsync(file.fileno())


def test_neither_side_stays_in_the_page_cache():
    make("source")
    for fmt in ("qcow2", "raw"):
        for options in ((), ("-W", "--verify")):
            output("cat", "source", text=False)
            oxbow("convert", *options, "-f", "raw", "-O", fmt, "source", f"new.{fmt}")
            check_few(f"new.{fmt}")
            check_few("source")
    oxbow("convert", "-f", "qcow2", "-O", "raw", "new.qcow2", "back")
    check_few("new.qcow2")
    check_few("back")
    run("cmp", "source", "back")


def test_a_target_that_nobody_syncs_stays_and_the_source_does_not():
    make("source")
    output("cat", "source", text=False)
    oxbow("convert", "-t", "unsafe", "-f", "raw", "-O", "qcow2", "source", "new")
    check_few("source")
    if resident("new") < SIZE // 2:
        raise Failure(f"{resident('new')} bytes of the target are in the page cache")


def test_a_backing_file_does_not_stay_either():
    make("base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    oxbow("convert", "-O", "qcow2", "top", "new")
    check_few("base")
    check_few("new")
    qemu_img("compare", "-q", "top", "new")


run_tests(globals())
