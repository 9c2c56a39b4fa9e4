#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 110
"""A Linux guest makes ext4 on a disk served by oxbow, and writes files and fsyncs them. The server dies
by kill -9 in the middle. What the guest was promised is there afterwards, to ext4 and to the files."""
from guest import Machine, build_initramfs
from recovery_images import *

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
	case $word in phase=*) phase=${word#phase=};; esac
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
	for i in $(seq 1 100000)
	do
		write_synced file$i $((i * 37 % 400 + 1)) || break
		[ $i = 60 ] && break
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
esac
poweroff -f
"""


def machine(phase, server, *node_options):
    options = ",".join(("driver=nbd", "node-name=disk", "server.type=unix",
                        f"server.path={server.socket}", "discard=unmap", *node_options))
    guest = Machine("initramfs", f"phase={phase}", "-blockdev", options,
                    "-device", "virtio-blk-pci,drive=disk")
    on_exit(lambda: guest.process.poll() is None and guest.process.kill())
    return guest


def synced_files(lines):
    """{name: checksum} of the files whose fsync the guest reported."""
    return {line.split()[1]: line.split()[2] for line in lines
            if line.startswith("SYNCED") and len(line.split()) == 3 and len(line.split()[2]) == 64}


def check_no_failure(lines):
    failed = [line for line in lines if "FAILED" in line or "I/O error" in line
              or "EXT4-fs error" in line]
    rest = [line for line in lines if not line.startswith("SYNCED")]
    check_equal(failed, [], f"what the guest complained of (it said: {rest[-30:]})")


def verify_in_guest(server, promised):
    guest = machine("verify", server)
    guest.read(lambda line: line == "DONE", BOOT_SECONDS)
    guest.close()
    check_no_failure(guest.lines)
    sums = {line.split()[1]: line.split()[2] for line in guest.lines if line.startswith("SUM ")}
    codes = [line for line in guest.lines if line.startswith(("FSCK ", "FSCK-AGAIN"))]
    texts = [line for line in guest.lines if line.startswith("FSCK-TEXT")]
    if codes not in (["FSCK 0", "FSCK-AGAIN 0"], ["FSCK 1", "FSCK-AGAIN 0"]):
        raise Failure(f"fsck is not content: {codes} {texts}")
    for name, checksum in promised.items():
        check_equal(sums.get(name), checksum, f"checksum of {name}, which the guest had fsynced")


def run_guest_through_power_cut(cache, after_files, kind="lazy_refcounts=on"):
    """Server and guest die together, as in a power cut; both start again."""
    build_initramfs("initramfs", INIT)
    oxbow("create", "-q", *kind_args(kind), "disk", DISK)
    with Server("-f", format_of("disk"), "--cache", cache, "disk") as server:
        guest = machine("write", server)
        for _ in range(after_files):
            if guest.read(lambda line: line.startswith("SYNCED"), BOOT_SECONDS) is None:
                raise Failure(f"the guest ended early: {guest.lines[-10:]}")
        check_no_failure(guest.lines)
        promised = synced_files(guest.lines)
        server.kill9()
        guest.kill()
        check_equal(image_file("disk").is_dirty, True, "mark after the kill")
        server.start()
        verify_in_guest(server, promised)
        check_equal(server.terminate(), 0, "exit code of the server")
    if len(promised) < after_files:
        raise Failure(f"the guest promised only {promised}")
    check_closed("disk", freed=True)


def test_a_guest_finds_its_fsynced_files_after_a_kill_in_writeback():
    run_guest_through_power_cut("writeback", 10)


def test_a_guest_finds_its_fsynced_files_in_a_qed_image_after_a_kill():
    run_guest_through_power_cut("writeback", 10, "qed:")


def run_guest_through_kills(image, kills):
    """No acknowledged write can be lost, so the guest just goes on when the server is back. Returns what
    the servers said."""
    build_initramfs("initramfs", INIT)
    with Server("-f", format_of(image), "--cache", "directsync", image) as server:
        guest = machine("write", server, "reconnect-delay=60")
        for _ in range(kills):
            for _ in range(8):
                if guest.read(lambda line: line.startswith("SYNCED"), BOOT_SECONDS) is None:
                    raise Failure(f"the guest ended early: {guest.lines[-10:]}")
            server.kill9()
            server.start()
        guest.read(lambda line: line == "DONE", BOOT_SECONDS)
        guest.close()
        check_no_failure(guest.lines)
        promised = synced_files(guest.lines)
        if len(promised) < 55:  # one line or another may be torn by the kernel's own
            raise Failure(f"the guest reported only {sorted(promised)}")
        verify_in_guest(server, promised)
        check_equal(server.terminate(), 0, "exit code of the server")
        said = server.stderr()
    check_closed(image, freed=True)
    return said


def test_a_guest_outlives_a_kill_of_its_server_in_directsync():
    oxbow("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk", DISK)
    run_guest_through_kills("disk", 2)


def test_a_guest_of_a_qed_image_outlives_kills_of_its_server():
    image = left_dirty_by_qemu("disk", 64 * KIB, tables=512, fmt="qed")
    said = run_guest_through_kills(image, 3)
    check_equal(said.count(BEGAN["qed"]), 4, "recoveries begun")


def test_a_guest_goes_on_beside_each_recovery_of_a_disk_of_two_tib():
    image = left_dirty_by_qemu("disk", 64 * KIB, tables=4096)
    said = run_guest_through_kills(image, 4)
    check_equal(said.count(BEGAN["qcow2"]), 5, "recoveries begun")


run_tests(globals())
