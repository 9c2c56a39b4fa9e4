# SPDX-License-Identifier: MIT
"""A small Debian on a disk: unpacked from Debian's packages, with GRUB, started by a PC's firmware.

Nothing is installed on the host and nobody has to be root. Everything is kept in build/guest, and made
again when this file or the kernel changes."""
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent / name) for name in ("interop", "")]

import guest
from harness import ROOT, Failure, run

CACHE = guest.CACHE
KERNEL_MODULES = CACHE / "lib" / "modules"
# What the guest consists of, with what these need.
PACKAGES = ("base-files", "base-passwd", "bash", "coreutils", "dash", "util-linux", "mount", "e2fsprogs",
            "fdisk", "kmod", "grep", "sed", "mawk", "procps", "less", "gzip", "tar", "usr-is-merged")
BOOT_LOADER = ("grub-pc-bin",)
# Of packages that only a boot loader or a package's own set-up needs nothing goes to the guest.
NOT_IN_GUEST = re.compile(r"(grub|perl|debconf|gettext|libfuse|libefi|libfreetype|libpng|libbrotli|ucf)")
NOT_UNPACKED = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*")
# Parts of the kernel's modules; with what they need they are all of its drivers.
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "xfs", "btrfs")

SECTOR = 512
PARTITION_AT = 2048
PARTITION_SECTORS = 320 * 2048
LINUX, ACTIVE = 0x83, 0x80

GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "normal")
# no_timer_check: TCG on a busy host is too slow for a check that the kernel panics over.
GRUB_CONFIG = """\
linux /boot/vmlinuz root=/dev/vda1 console=ttyS0 panic=-1 no_timer_check quiet
initrd /boot/initrd
boot
"""
INITRAMFS_INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
do
	insmod /modules/$module.ko
done
for word in $(cat /proc/cmdline)
do
	case $word in root=*) root=${word#root=};; esac
done
mount -t ext4 -o ro $root /mnt || exec sh
umount /dev /proc
exec switch_root /mnt /sbin/init
"""
# The console is for a person; a program gives its commands over ttyS1, and hears from those that go on
# in the background over ttyS2.
INIT = """\
#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=vt100
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
echo oxbow-guest >/proc/sys/kernel/hostname
mount -o remount,rw,discard /
cd /root
[ -e /lib/modules/$(uname -r)/modules.dep ] || depmod
stty -F /dev/ttyS2 raw -echo 2>/dev/null
if stty -F /dev/ttyS1 raw -echo 2>/dev/null
then
	(
		exec >/dev/ttyS1 2>&1
		echo READY
		cat /dev/ttyS1 | setsid bash
	) &
fi
echo
echo "Debian $(cat /etc/debian_version) on $(findmnt -no SOURCE /), a disk of oxbow's. exit switches it off."
setsid -c bash -l </dev/ttyS0 >/dev/ttyS0 2>&1
exec /sbin/poweroff
"""
POWEROFF = """\
#!/bin/bash
cd /
trap '' TERM HUP
kill -TERM -1 2>/dev/null
sync
umount -a -t ext4,xfs,btrfs 2>/dev/null
mount -o remount,ro /
echo o >/proc/sysrq-trigger
sleep 60
"""


# ---- packages ----

def _apt(*args, lists=None, archives=None, cwd=None):
    """apt-get as anybody: it neither asks what is installed here nor locks anything."""
    options = ["-qq", "-y", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1",
               "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false",
               "-o", "APT::Architecture=amd64"]
    if lists:
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        options += ["-o", f"Dir::State::lists={lists}"]
    if archives:
        (archives / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options += ["-o", f"Dir::Cache={archives}"]
    return run("apt-get", *options, *args, check=False, cwd=cwd, timeout=600)


def _download(place):
    """The packages and what they need, in a folder of place."""
    asked = ("--download-only", "install", *PACKAGES, *BOOT_LOADER)
    if _apt(*asked, archives=place).returncode != 0:
        _apt("update", lists=place / "lists", archives=place)
        said = _apt(*asked, lists=place / "lists", archives=place)
        if said.returncode != 0:
            raise Failure(f"apt-get could not download the guest's packages: {said.stderr[-2000:]}")
    return sorted((place / "archives").glob("*.deb"))


def _unpack(package, tree):
    contents = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    excluded = [f"--exclude={name}" for name in NOT_UNPACKED]
    run("tar", "-xk", "--keep-directory-symlink", "--no-same-owner", *excluded, "-C", tree,
        stdin=contents.stdout)
    contents.stdout.close()
    if contents.wait() != 0:
        raise Failure(f"dpkg-deb could not read {package}")


# ---- the tree ----

def _merged_usr(tree):
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")


def _write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _needed_modules(version):
    """The paths of the drivers and of what they need, which the modules themselves say."""
    found = {path.stem.replace("-", "_"): path for path in (KERNEL_MODULES / version).rglob("*.ko")}
    left, needed = [name for name in DRIVERS if name in found], set()
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        stated = re.search(rb"\0depends=([^\0]*)", found[name].read_bytes())
        left += [word for word in stated.group(1).decode().replace("-", "_").split(",") if word]
        if name == "virtio_pci":
            left += ["virtio_pci_legacy_dev", "virtio_pci_modern_dev"]
    if "xfs" in needed and "crc32c_generic" in found:
        left.append("crc32c_generic")
    return {found[name] for name in needed | set(left)}


def _add_kernel(tree):
    kernel = guest.kernel_file("boot/vmlinuz-*")
    version = kernel.name.partition("-")[2]
    (tree / "boot" / "grub").mkdir(parents=True)
    shutil.copy(kernel, tree / "boot" / "vmlinuz")
    guest.build_initramfs(tree / "boot" / "initrd", INITRAMFS_INIT, programs=())
    _write(tree / "boot" / "grub" / "grub.cfg", GRUB_CONFIG)
    for path in _needed_modules(version):
        goal = tree / "usr" / path.relative_to(CACHE)
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, goal)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(KERNEL_MODULES / version / name, tree / "usr/lib/modules" / version / name)


def _set_up(tree):
    """What the packages' own scripts would do, as far as a guest without services needs it."""
    for name in ("passwd", "group"):
        shutil.copy(tree / "usr/share/base-passwd" / f"{name}.master", tree / "etc" / name)
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "root"):
        (tree / name).mkdir(exist_ok=True)
    for name in ("bashrc", "profile"):
        shutil.copy(tree / f"usr/share/base-files/dot.{name}", tree / f"root/.{name}")
    awk = tree / "usr/bin/awk"
    if not awk.is_symlink():
        awk.symlink_to("mawk")
    _write(tree / "sbin/init", INIT, 0o755)
    _write(tree / "sbin/poweroff", POWEROFF, 0o755)


# ---- the disk ----

def _as_root(*command):
    """The user namespace makes files of whoever builds this root's."""
    return command if os.getuid() == 0 else ("unshare", "--map-root-user", *command)


def _boot_loader(tools, tree, scratch):
    """GRUB's first sector, and what it loads from those behind it. The program of its package runs with
    the guest's own libraries, whatever the host has."""
    libraries = [root / folder for root in (tree, tools)
                 for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")]
    images = tools / "usr/lib/grub/i386-pc"
    core = scratch / "core.img"
    run(tree / "lib64/ld-linux-x86-64.so.2", "--library-path", ":".join(map(str, libraries)),
        tools / "usr/bin/grub-mkimage", "-d", images, "-O", "i386-pc", "-o", core, "-p",
        "(hd0,msdos1)/boot/grub", *GRUB_MODULES)
    return (images / "boot.img").read_bytes()[:440], core.read_bytes()


def _partition_entry():
    """Of the first partition; a disk's cylinders are what nobody has any more."""
    anywhere = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", ACTIVE, anywhere, LINUX, anywhere, PARTITION_AT, PARTITION_SECTORS)


def _write_disk(path, boot_sector, core, partition):
    if len(core) > (PARTITION_AT - 1) * SECTOR:
        raise Failure(f"the boot loader's {len(core)} bytes do not fit before the partition")
    with open(path, "wb") as disk:
        disk.write(boot_sector.ljust(446, b"\0") + _partition_entry().ljust(64, b"\0") + b"\x55\xaa" + core)
        disk.truncate((PARTITION_AT + PARTITION_SECTORS) * SECTOR)
    run("dd", f"if={partition}", f"of={path}", "bs=1M", f"seek={PARTITION_AT * SECTOR >> 20}",
        "conv=notrunc,sparse", "status=none")


def file_system_of(tree, path, size):
    """An ext4 with what is in a tree, in a file of its own."""
    with open(path, "wb") as file:
        file.truncate(size)
    run(*_as_root("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, path))


def _build(goal):
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        scratch = pathlib.Path(scratch)
        tree, tools = scratch / "tree", scratch / "tools"
        _merged_usr(tree)
        _merged_usr(tools)
        for package in _download(scratch):
            _unpack(package, tools if NOT_IN_GUEST.match(package.name) else tree)
        _set_up(tree)
        _add_kernel(tree)
        boot_sector, core = _boot_loader(tools, tree, scratch)
        file_system_of(tree, scratch / "partition", PARTITION_SECTORS * SECTOR)
        _write_disk(scratch / "disk", boot_sector, core, scratch / "partition")
        os.rename(scratch / "disk", goal)


def debian_disk():
    """The path of the raw disk. It is made where there is none; two who want it at once wait for one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        guest.fetch_kernel()
        parts = pathlib.Path(__file__).read_bytes() + guest.kernel_file("boot/vmlinuz-*").name.encode()
        goal = CACHE / f"debian-{hashlib.sha256(parts).hexdigest()[:16]}.raw"
        if not goal.exists():
            for old in CACHE.glob("debian-*.raw"):
                old.unlink()
            print("making a small Debian from its packages", file=sys.stderr, flush=True)
            _build(goal)
    return goal
