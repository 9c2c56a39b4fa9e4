# SPDX-License-Identifier: MIT
"""A Debian guest under QEMU's TCG: kernel, initramfs, and a machine that is watched on its serial line."""
import gzip
import os
import pathlib
import re
import select
import subprocess
import tempfile
import time

from interop import ROOT, Failure, run

CACHE = ROOT / "build" / "guest"
MODULES = ("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
           "virtio_blk")
PROGRAMS = ("/usr/sbin/mke2fs", "/usr/sbin/e2fsck")
BUSYBOX_APPLETS = ("sh", "mount", "umount", "insmod", "dd", "sha256sum", "poweroff", "sync", "cat",
                   "sleep", "fstrim", "rm", "mkdir", "echo", "basename", "seq")


def _fetch_kernel():
    """Unpacks Debian's cloud kernel into the cache, where ./dev has not done so."""
    if any(CACHE.glob("boot/vmlinuz-*")):
        return
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64").stdout
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise Failure("apt knows no linux-image-cloud-amd64; does `apt-get update` help?")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", found.group(1), cwd=scratch)
        run("dpkg-deb", "-x", next(pathlib.Path(scratch).glob("*.deb")), CACHE)


def _kernel_file(pattern):
    found = sorted(CACHE.glob(pattern))
    if not found:
        raise Failure(f"{CACHE} has no {pattern}; remove it to have it fetched again")
    return found[-1]


class _Archive:
    """A cpio archive in the form the kernel wants ("newc")."""

    def __init__(self):
        self.data = bytearray()
        self.count = 0
        self.directories = set()

    def add(self, name, mode, content=b""):
        parent = os.path.dirname(name)
        if parent and parent not in self.directories:
            self.directories.add(parent)
            self.add(parent, 0o040755)
        self.count += 1
        encoded = name.encode() + b"\0"
        numbers = (self.count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        self.data += b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._pad()
        self.data += content
        self._pad()

    def add_file(self, path, name=None, mode=0o100755):
        self.add(name or str(path).lstrip("/"), mode, pathlib.Path(path).read_bytes())

    def _pad(self):
        self.data += bytes(-len(self.data) % 4)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return gzip.compress(bytes(self.data), 1)


def _libraries_of(program):
    return set(re.findall(r"(/\S+) \(0x", run("ldd", program).stdout))


def build_initramfs(path, init):
    """Writes an initramfs whose /init is the text given."""
    _fetch_kernel()
    archive = _Archive()
    for directory in ("proc", "sys", "dev", "mnt", "tmp", "etc"):
        archive.directories.add(directory)
        archive.add(directory, 0o040755)
    archive.add_file("/bin/busybox", "bin/busybox")
    for applet in BUSYBOX_APPLETS:
        archive.add(f"bin/{applet}", 0o120777, b"busybox")
    libraries = set()
    for program in PROGRAMS:
        archive.add_file(program, "bin/" + os.path.basename(program))
        libraries |= _libraries_of(program)
    for library in sorted(libraries):
        archive.add_file(library)
    archive.add_file("/etc/mke2fs.conf", mode=0o100644)
    for module in MODULES:
        archive.add_file(_kernel_file(f"lib/modules/**/{module}.ko"), f"modules/{module}.ko", 0o100644)
    archive.add("init", 0o100755, init.encode())
    pathlib.Path(path).write_bytes(archive.finish())


class Machine:
    """A running guest; every line of its serial console is kept in .lines."""

    def __init__(self, initramfs, append, *drive):
        self.lines = []
        self._part = ""
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-display", "none", "-monitor",
             "none", "-serial", "stdio", "-no-reboot", "-nodefaults", "-kernel",
             str(_kernel_file("boot/vmlinuz-*")), "-initrd", str(initramfs), "-append",
             f"console=ttyS0 panic=-1 quiet {append}", *drive],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def read(self, until, timeout):
        """Reads lines until until(line) holds; None when the machine ended instead."""
        deadline = time.monotonic() + timeout
        fd = self.process.stdout.fileno()
        while True:
            while "\n" in self._part:
                line, self._part = self._part.split("\n", 1)
                self.lines.append(line.rstrip("\r"))
                if until(self.lines[-1]):
                    return self.lines[-1]
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise Failure("the guest did not get there in time; its last lines: "
                              f"{self.lines[-15:]}")
            data = os.read(fd, 65536)
            if not data:
                return None
            self._part += data.decode(errors="replace")

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        try:
            return self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
