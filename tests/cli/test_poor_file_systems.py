#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""File systems without locks, or without fallocate: a library between the command and the C library
plays them."""
from peers import *

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

static int fail(int code)
{
	errno = code;
	return -1;
}

int fcntl64(int fd, int command, ...)
{
	int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl64");
	va_list args;
	void *arg;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	if (getenv("SHIM_NO_LOCKS") && (command == F_OFD_SETLK || command == F_OFD_GETLK))
		return fail(ENOLCK);
	return next(fd, command, arg);
}

int fcntl(int fd, int command, ...)
{
	va_list args;
	void *arg;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	return fcntl64(fd, command, arg);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	int (*next)(int, int, off64_t, off64_t) =
		(int (*)(int, int, off64_t, off64_t))dlsym(RTLD_NEXT, "fallocate64");

	return getenv("SHIM_NO_FALLOCATE") ? fail(EOPNOTSUPP) : next(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return fallocate64(fd, mode, offset, length);
}
"""


def poor(without):
    """The environment of a command on a file system without something. The pool of threads is
    taken, since io_uring does not ask the C library."""
    if not os.path.exists("shim.so"):
        pathlib.Path("shim.c").write_text(SHIM)
        run("cc", "-shared", "-fPIC", "-O1", "-o", "shim.so", "shim.c", "-ldl")
    asan = os.environ.get("ASAN_OPTIONS", "")
    return dict(os.environ, LD_PRELOAD=str(pathlib.Path("shim.so").absolute()), OXBOW_IO="threads",
                ASAN_OPTIONS=f"{asan}:verify_asan_link_order=0", **{without: "1"})


def make_chain():
    qemu_img("create", "-q", "-f", "qcow2", "base", "1M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 3 0 64k", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over")


def test_without_locks_an_image_is_read_by_who_refuses_nothing_to_others():
    make_chain()
    env = poor("SHIM_NO_LOCKS")
    for args in (("info", "-U", "--backing-chain", "over"), ("map", "-U", "over"),
                 ("check", "-U", "over"),
                 ("io", "-r", "-U", "-c", "read -q -P 3 0 64k", "over"),
                 ("info", "--image-opts", "driver=qcow2,file.filename=over,file.locking=off"),
                 ("io", "-r", "--image-opts", "-c", "read -q -P 3 0 64k",
                  "driver=qcow2,file.filename=over,file.locking=off")):
        oxbow(*args, env=env)


def test_without_locks_the_others_are_told_what_to_do():
    make_chain()
    before = pathlib.Path("over").read_bytes()
    for args in (("info", "over"), ("map", "over"), ("check", "over"), ("check", "-r", "all", "over"),
                 ("io", "-c", "write 0 64k", "over"), ("io", "-r", "-c", "read 0 64k", "over"),
                 ("create", "-f", "qcow2", "over", "1M")):
        result = oxbow(*args, check=False, env=poor("SHIM_NO_LOCKS"))
        check_equal(result.returncode, 1, f"exit code of {args}")
        check_in("Failed to lock 'over': No locks available", result.stderr)
        check_in("-U", result.stderr)
    check_equal(pathlib.Path("over").read_bytes() == before, True, "the image is as before")


def blocks_of(path):
    return os.stat(path).st_blocks * 512


def test_without_fallocate_space_is_taken_by_zeroes():
    env = poor("SHIM_NO_FALLOCATE")
    for fmt in ("raw", "qcow2"):
        for mode in ("falloc", "full"):
            oxbow("create", "-q", "-f", fmt, "-o", f"preallocation={mode}", "disk", "9M", env=env)
            check_equal(blocks_of("disk") >= 9 << 20, True, f"space of {fmt}, {mode}")
            qemu_io("-f", fmt, "-c", "read -q -P 0 0 9M", "disk")
    qemu_img("check", "disk")


def test_without_fallocate_what_is_freed_is_used_again_and_reads_right():
    """Nothing can be punched: a cluster that is used again holds old bytes, which no guest may see."""
    env = poor("SHIM_NO_FALLOCATE")
    for fmt, options in (("qcow2", "lazy_refcounts=on"), ("qcow2", "cluster_size=4k"),
                         ("qed", "cluster_size=64k"),
                         ("qed", "cluster_size=4k,table_size=2")):
        oxbow("create", "-q", "-f", fmt, "-o", options, "disk", "16M", env=env)
        commands = []
        for turn in range(1, 5):
            commands += [f"write -q -P {turn} 0 4M", "flush", "discard -q 0 4M", "flush",
                         "read -P 0 0 4M", f"write -q -P {turn + 9} 1000 100", "read -P 0 1100 3000",
                         "read -P 0 0 1000", "write -q -z -u 0 64k", "flush"]
        oxbow("io", "-f", fmt, *[word for command in commands for word in ("-c", command)], "disk",
              env=env)
        if os.path.getsize("disk") > 14 << 20:
            raise Failure(f"{fmt}, {options}: the file has {os.path.getsize('disk')} bytes")
        qemu_io("-r", "-f", fmt, "-c", "read -P 0 0 16M", "disk")
        code = qemu_img("check", "-f", fmt, "disk", check=False).returncode
        check_in(code, (0, 3) if fmt == "qed" else (0,), f"exit codes of check of {fmt}")


run_tests(globals())
