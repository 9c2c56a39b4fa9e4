# SPDX-License-Identifier: MIT
"""A guest with Debian's kernel under QEMU: kernel, initramfs, and a machine that is watched on its serial
line."""
import gzip
import os
import pathlib
import re
import select
import subprocess
import tempfile
import time

from interop import ROOT, Failure, check_equal, run

CACHE = ROOT / "build" / "guest"
MODULES = ("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
           "virtio_blk")
PROGRAMS = ("/usr/sbin/mke2fs", "/usr/sbin/e2fsck")
BUSYBOX_APPLETS = ("sh", "mount", "umount", "insmod", "dd", "sha256sum", "poweroff", "sync", "cat",
                   "sleep", "fstrim", "rm", "mkdir", "echo", "basename", "seq", "switch_root")
PROBE_SECONDS = 15
PROBE_INIT = """\
#!/bin/sh
echo PROBE-IS-ALIVE
poweroff -f
"""


def fetch_kernel():
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


def kernel_file(pattern):
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


def libraries_of(program):
    return set(re.findall(r"(/\S+) \(0x", run("ldd", program).stdout))


def build_initramfs(path, init, programs=PROGRAMS):
    """Writes an initramfs whose /init is the text given."""
    fetch_kernel()
    archive = _Archive()
    for directory in ("proc", "sys", "dev", "mnt", "tmp", "etc"):
        archive.directories.add(directory)
        archive.add(directory, 0o040755)
    archive.add_file("/bin/busybox", "bin/busybox")
    for applet in BUSYBOX_APPLETS:
        archive.add(f"bin/{applet}", 0o120777, b"busybox")
    libraries = set()
    for program in programs:
        archive.add_file(program, "bin/" + os.path.basename(program))
        libraries |= libraries_of(program)
    for library in sorted(libraries):
        archive.add_file(library)
    archive.add_file("/etc/mke2fs.conf", mode=0o100644)
    for module in MODULES:
        archive.add_file(kernel_file(f"lib/modules/**/{module}.ko"), f"modules/{module}.ko", 0o100644)
    archive.add("init", 0o100755, init.encode())
    pathlib.Path(path).write_bytes(archive.finish())


# ---- which accelerator ----

def _kvm_boots():
    """Whether a kernel comes to life under KVM. Some hosts have the device, and guests stand still."""
    with tempfile.TemporaryDirectory() as scratch:
        build_initramfs(f"{scratch}/initramfs", PROBE_INIT, programs=())
        command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "max", "-m", "128", "-nodefaults",
                   "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel",
                   str(kernel_file("boot/vmlinuz-*")), "-initrd", f"{scratch}/initramfs", "-append",
                   "console=ttyS0 panic=-1 no_timer_check quiet"]
        try:
            said = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=PROBE_SECONDS, check=False).stdout
        except subprocess.TimeoutExpired:
            return False
    return b"PROBE-IS-ALIVE" in said


def accelerator():
    """"kvm" where a probe guest boots with it, else "tcg". What the probe found holds until the host boots."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = CACHE / "accelerator"
    known = note.read_text().split() if note.exists() else []
    if known[:1] != [boot]:
        known = [boot, "kvm" if _kvm_boots() else "tcg"]
        scratch = CACHE / f"accelerator.{os.getpid()}"
        scratch.write_text(" ".join(known))
        scratch.rename(note)
    return known[1]


class Machine:
    """A running guest; every line of its serial console is kept in .lines."""

    def __init__(self, initramfs, append, *drive):
        self.lines = []
        self._part = ""
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", accelerator(), "-cpu", "max", "-m", "256", "-display", "none",
             "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults", "-kernel",
             str(kernel_file("boot/vmlinuz-*")), "-initrd", str(initramfs), "-append",
             f"console=ttyS0 panic=-1 no_timer_check quiet {append}", *drive],
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


# ---- a guest that makes ext4 and writes files, then looks at them ----

BOOT_SECONDS = 120
DISK = "512M"

INIT = r"""#!/bin/sh
fail() {
	echo "FAILED $*"
	poweroff -f
}

mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
do
	insmod /modules/$module.ko || fail insmod $module
done
for word in $(cat /proc/cmdline)
do
	case $word in phase=*) phase=${word#phase=};; files=*) files=${word#files=};; esac
done

write_synced() {	# name, KiB
	dd if=/dev/urandom of=/mnt/$1 bs=1024 count=$2 conv=fsync 2>/dev/null || { echo "FAILED write"; return 1; }
	set -- $1 $(sha256sum /mnt/$1)
	echo "SYNCED $1 $2"
}

case $phase in
write)
	/bin/mke2fs -q -F -t ext4 /dev/vda 512M || fail mke2fs $?
	mount -t ext4 -o discard /dev/vda /mnt || fail mount
	echo "MOUNTED"
	# Unsynced noise beside the files that count: written, overwritten, deleted.
	(for i in $(seq 1 1000); do dd if=/dev/zero of=/mnt/noise$((i % 5)) bs=4096 count=$((i % 300)) 2>/dev/null
		[ $((i % 7)) = 0 ] && rm -f /mnt/noise$((i % 3)); done) &
	for i in $(seq 1 $files)
	do
		write_synced file$i $((i * 37 % 400 + 1)) || break
	done
	sync
	echo "DONE"
	;;
verify)
	/bin/e2fsck -f -y /dev/vda >/tmp/fsck 2>&1
	echo "FSCK $?"
	/bin/e2fsck -f -n /dev/vda >/tmp/fsck2 2>&1
	echo "FSCK-AGAIN $?"
	cat /tmp/fsck | while read line; do echo "FSCK-TEXT $line"; done
	mount -t ext4 /dev/vda /mnt || fail mount
	for path in /mnt/file*
	do
		set -- $path $(sha256sum $path)
		echo "SUM $(basename $1) $2"
	done
	umount /mnt
	echo "DONE"
	;;
mount)
	mount -t ext4 /dev/vda /mnt || fail mount
	for path in /mnt/file*
	do
		set -- $path $(sha256sum $path)
		echo "SUM $(basename $1) $2"
	done
	umount /mnt
	/bin/e2fsck -f -n /dev/vda >/tmp/fsck 2>&1
	echo "FSCK $?"
	cat /tmp/fsck | while read line; do echo "FSCK-TEXT $line"; done
	echo "DONE"
	;;
esac
poweroff -f
"""


def synced_files(lines):
    """{name: checksum} of the files whose fsync the guest reported."""
    return {line.split()[1]: line.split()[2] for line in lines
            if line.startswith("SYNCED") and len(line.split()) == 3 and len(line.split()[2]) == 64}


def check_no_failure(lines):
    failed = [line for line in lines if "FAILED" in line or "I/O error" in line
              or "EXT4-fs error" in line]
    rest = [line for line in lines if not line.startswith("SYNCED")]
    check_equal(failed, [], f"what the guest complained of (it said: {rest[-30:]})")
