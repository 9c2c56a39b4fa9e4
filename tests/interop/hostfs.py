# SPDX-License-Identifier: MIT
"""Loop devices and small file systems for tests; all of it needs root."""
import errno
import time

import nbd
from interop import *


def needs_root():
    """Ends a test program that cannot run: 77 says so to the runner."""
    if os.geteuid() != 0:
        print("# loop devices and mounts need root")
        sys.exit(77)


def loop_device(size, sector_bytes=512, name="device.img"):
    """A block device of size bytes that lasts for the test."""
    with open(name, "wb") as file:
        file.truncate(size)
    device = output("losetup", "--show", "-f", "-b", str(sector_bytes), name).strip()
    on_exit(lambda: run("losetup", "-d", device, check=False))
    return device


def sector_bytes(device):
    return int(output("blockdev", "--getss", device))


MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0"),
    "ext4_with_large_blocks": ("mkfs.ext4", "-q", "-b", "4096", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=0"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "btrfs_without_cow": ("mkfs.btrfs", "-q"),
}
# The least that the makers take, and btrfs of this size has room for its own tables when full.
LEAST_BYTES = {"xfs": 320 * MIB, "btrfs": 1024 * MIB, "btrfs_without_cow": 1024 * MIB}


def unmount(where):
    """Linux lets go of a ring's files a moment after the end of its process."""
    deadline = time.monotonic() + 60
    while run("umount", where, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise Failure(f"'{where}' stays in use")
        time.sleep(0.05)


def mounted(kind, size):
    """A directory on a file system of its own, of size bytes or the least there is: tmpfs, or one on
    a loop device."""
    where = pathlib.Path("mounted").absolute()
    where.mkdir()
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", where)
    else:
        device = loop_device(max(size, LEAST_BYTES.get(kind, 0)), name="filesystem.img")
        run(*MAKE[kind], device)
        run("mount", device, where)
    on_exit(lambda: unmount(where))
    if kind == "btrfs_without_cow":
        run("chattr", "+C", where)
    return where


def leave_room(filler, size):
    """A file that takes all the room but size bytes."""
    free = os.statvfs(filler.parent)
    with open(filler, "wb") as file:
        if free.f_bavail * free.f_frsize > size:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - size)


def write_until_full(handle, offset, end, length, flags=0):
    """Writes blocks that tell their offset one after another until the host has no room; returns the
    offsets that were acknowledged. Any other error, or none, is a failure."""
    written = []
    for at in range(offset, end, length):
        try:
            handle.pwrite(block_at(at, length), at, flags)
        except nbd.Error as error:
            if error.errnum != errno.ENOSPC:
                raise Failure(f"the write at {at:#x} failed with {error}, expected ENOSPC") from None
            return written
        written.append(at)
    raise Failure("the host was never full: nothing was tested")


def block_at(at, length):
    return at.to_bytes(8, "little") * (length // 8)


def check_blocks(handle, offsets, length, what):
    for at in offsets:
        check_bytes(bytes(handle.pread(length, at)), block_at(at, length), f"{what} at {at:#x}")


__all__ = [name for name in dir() if not name.startswith("_")]
