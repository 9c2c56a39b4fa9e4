# SPDX-License-Identifier: MIT
"""The life of a guest on a disk of oxbow's, from its first boot to a power cut and beyond.

One guest goes through all of it, since booting takes longest. Each step is a method, in the order of the
calls."""
import random
import re
import struct
import tempfile

from debian import *  # first: it knows where the others are
from disk import *
from interop import *
from kept import *
from machine import *

DISK_BYTES = 2048 * MIB
KILLS = 25
BIG_MIB = 8
SERIAL = "a-life-of-a-disk"
SOCKET, CONTROL = "disk.vhost", "disk.control"
GROWN_MIB = 64
ROOT_DEVICE, EXT4, XFS, RAW = "/dev/vda1", "/dev/vda2", "/dev/vda3", "/dev/vda4"
FILE_SYSTEMS = {"ext4": EXT4, "xfs": XFS}
EXT4_CHECK, XFS_CHECK = ("e2fsck", "-f", "-n"), ("xfs_repair", "-n")
# What no kernel may say of its disk.
COMPLAINTS = r"I/O error|EXT4-fs error|EXT4-fs warning|XFS .*(rror|orrupt|hutdown)|blocked for more|Call Trace"

WRITE_FILES = r"""#!/bin/bash
# Files of many lengths, each synced, with what is in them.
for ((i = 1; ; i++))
do
	file=$1/file$i
	dd if=/dev/urandom of=$file bs=1k count=$((i * 37 % 200 + 1)) conv=fsync status=none || break
	set -- $1 $(sha256sum $file)
	echo "SYNCED $file $2" >/dev/ttyS2
done
echo "FAILED $1" >/dev/ttyS2
"""
MAKE_NOISE = r"""#!/bin/bash
# Files that nobody syncs: written, overwritten, deleted.
for ((i = 1; ; i++))
do
	dd if=/dev/zero of=$1/noise$((i % 5)) bs=4k count=$((i % 300)) status=none || break
	[ $((i % 7)) != 0 ] || rm -f $1/noise$((i % 3))
done
echo "FAILED $1" >/dev/ttyS2
"""
FIO = ("/mnt/tools/fio --minimal --direct=1 --ioengine=libaio --rw=randwrite --verify=crc32c "
       "--verify_fatal=1")
VERIFY_RAW = rf"""#!/bin/bash
# Many requests at once, read back.
for ((i = 1; ; i++))
do
	{FIO} --name=raw --filename={RAW} --bsrange=4k-16k --iodepth=8 --size=12m >/tmp/fio 2>&1 || break
	echo "VERIFIED $i" >/dev/ttyS2
done
echo "FAILED fio: $(tail -n 3 /tmp/fio)" >/dev/ttyS2
"""
SCRIPTS = {"write-files": WRITE_FILES, "make-noise": MAKE_NOISE, "verify-raw": VERIFY_RAW}


def synced_of(reports):
    """{path: checksum} of the files whose fsync was reported."""
    found = [line.split() for line in reports if line.startswith("SYNCED ")]
    return {words[1]: words[2] for words in found if len(words) == 3 and len(words[2]) == 64}


class Life:
    def __init__(self, cache, lazy, kills=KILLS):
        self.cache = cache
        self.lazy = lazy
        self.kills = kills
        self.rng = random.Random(f"{cache} {lazy}")
        self.earlier_reports = []
        make_image("disk", DISK_BYTES, f"lazy_refcounts={'on' if lazy else 'off'}")
        self.server = Kept("-f", "qcow2", "--cache", cache, "--serial", SERIAL, "--num-queues", "2",
                           "--vhost-user-blk", SOCKET, "--control", CONTROL, "disk")
        self.guest = None
        self.memory = self._memory_file() if accelerator() == "tcg" else None

    @staticmethod
    def _memory_file():
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        handle, path = tempfile.mkstemp(prefix="oxbow-test-", dir=place)
        os.close(handle)
        on_exit(lambda: os.unlink(path))
        return path

    @property
    def is_cached(self):
        return self.cache not in SYNCHRONOUS_MODES

    def go_through(self):
        with self.server:
            self.boots_from_the_disk()
            self.partitions_it()
            self.finds_and_switches_the_cache()
            self.verifies_what_it_wrote()
            self.shrinks_the_file_by_discards()
            self.sees_another_size()
            self.starts_a_load()
            self.outlives_kills(self.kills // 2)
            self.moves_to_another_machine()
            self.outlives_kills(self.kills - self.kills // 2)
            promised = self.ends_the_load()
            self.loses_power() if self.cache != "unsafe" else self.goes_off()
            self.finds_again(promised)
            check_equal(self.server.terminate(), 0, "exit code of the server")
            check_equal(self.server.stderr().count("died of signal 9"), self.kills, "deaths that were told")
        self.leaves_a_sound_image()
        return len(promised)

    def _power_on(self, *more):
        self.guest = Machine(*vhost_user_disk(SOCKET), *tools_hardware(), *more, memory=self.memory)
        on_exit(self.guest.kill)

    def boots_from_the_disk(self, *more):
        self._power_on("-qmp", "unix:first.qmp,server=on,wait=off", *more)
        self.guest.await_start()
        check_equal(self.guest.run("findmnt -no SOURCE /"), ROOT_DEVICE, "what the guest runs from")
        check_equal(self.guest.run("cat /sys/block/vda/serial"), SERIAL, "serial number")
        check_equal(self.guest.run("ls /sys/block/vda/mq").split(), ["0", "1"], "queues")
        self.guest.run("modprobe xfs && mkdir -p /mnt/tools /mnt/ext4 /mnt/xfs && "
                       "mount -o ro /dev/vdb /mnt/tools")

    def partitions_it(self):
        self.guest.run(r"printf ',512M\n,512M\n,512M\n' | "
                       "sfdisk -q --append --no-reread --no-tell-kernel /dev/vda && "
                       "partx -a --nr 2:4 /dev/vda")

    # ---- the cache ----

    def _write_raw(self, at_mib, seed, flags):
        """Into a place that nobody has written to. Returns whether the image's file, read as it lies
        there, knows of it."""
        data = pattern(f"{self.cache} {seed}", 64 * KIB)
        text = "".join(f"\\x{byte:02x}" for byte in data[:32])
        self.guest.run(f"printf '{text}%.0s' $(seq 2048) >/tmp/data && dd if=/tmp/data of={RAW} bs=64k "
                       f"count=1 seek={at_mib * 16} conv=notrunc{flags} oflag=direct status=none")
        offset = int(self.guest.run("cat /sys/block/vda/vda4/start")) * 512 + at_mib * MIB
        place = Qcow2("disk").place_of(offset)
        return place != 0 and read_at("disk", place, 64 * KIB) == data[:32] * 2048

    def finds_and_switches_the_cache(self):
        seen = "cat /sys/block/vda/cache_type /sys/block/vda/queue/write_cache"
        back, through = ["write back"] * 2, ["write through"] * 2
        check_equal(self.guest.run(seen).splitlines(), back if self.is_cached else through, "cache")
        if not self.is_cached:
            check_equal(self._write_raw(100, 0, ""), True, "whether a completed write is in the file")
            self.guest.run("echo write back >/sys/block/vda/cache_type")
            check_equal(self.guest.run(seen).splitlines(), through, "cache that nobody may switch on")
        elif self.cache != "unsafe":
            check_equal(self._write_raw(100, 1, ",fsync"), True, "whether a flushed write is in the file")
            self.guest.run("echo write through >/sys/block/vda/cache_type")
            check_equal(self.guest.run(seen).splitlines(), through, "cache that was switched off")
            for number in range(3):
                check_equal(self._write_raw(110 + number, number, ""), True,
                            "whether a write is in the file that was completed without the cache")
            self.guest.run("echo write back >/sys/block/vda/cache_type")
            check_equal(self.guest.run(seen).splitlines(), back, "cache that was switched on")

    # ---- file systems ----

    def verifies_what_it_wrote(self):
        self.guest.run(f"mke2fs -q -F -t ext4 {EXT4} && /mnt/tools/mkfs.xfs -q -f {XFS} && "
                       f"mount {EXT4} /mnt/ext4 && mount {XFS} /mnt/xfs")
        self.guest.run(f"{FIO} --iodepth=16 --bsrange=4k-64k --size=8m --name=ext4 --directory=/mnt/ext4 "
                       "--cpus_allowed=0 --name=xfs --directory=/mnt/xfs --cpus_allowed=1")
        for queue in (0, 1):
            counts = self.guest.run(f"grep virtio0-req.{queue} /proc/interrupts").split()[1:3]
            if sum(int(count) for count in counts) < 100:
                raise Failure(f"queue {queue} was hardly used: {counts}")

    def shrinks_the_file_by_discards(self):
        for name in FILE_SYSTEMS:
            big = f"/mnt/{name}/big"
            self.guest.run(f"dd if=/dev/urandom of={big} bs=1M count={BIG_MIB} conv=fsync status=none")
            before = host_bytes("disk")
            self.guest.run(f"rm {big} && sync -f /mnt/{name}")
            # xfs frees in the background what was removed, and one trim may come too early; a flush makes
            # durable that the clusters are free, so that they can be given back
            eventually(f"a smaller file after the trim of {name}", lambda: self.guest.run(
                f"fstrim /mnt/{name} && sync /dev/vda") == "" and
                host_bytes("disk") <= before - (BIG_MIB - 1) * MIB)

    def sees_another_size(self):
        """At once, and from the server alone: QEMU's monitor is not asked. What is new can be used."""
        oxbow("ctl", CONTROL, "resize", f"+{GROWN_MIB}M")
        sectors = str((DISK_BYTES + GROWN_MIB * MIB) // 512)
        eventually("another size", lambda: self.guest.run("cat /sys/block/vda/size") == sectors)
        last = DISK_BYTES // MIB + GROWN_MIB - 1
        self.guest.run("dd if=/dev/urandom of=/tmp/new bs=1M count=1 status=none && dd if=/tmp/new of=/dev/vda "
                       f"bs=1M seek={last} oflag=direct conv=notrunc,fsync status=none")
        written, found = self.guest.run(f"sha256sum </tmp/new; dd if=/dev/vda bs=1M skip={last} iflag=direct "
                                        "status=none | sha256sum").splitlines()
        check_equal(found, written, "the last MiB of the larger disk")

    # ---- a load, and what befalls it ----

    def starts_a_load(self):
        for name, text in SCRIPTS.items():
            self.guest.run(f"cat >/tmp/{name} <<'END'\n{text}END\nchmod +x /tmp/{name}")
        for name in FILE_SYSTEMS:
            self.guest.run(f"/tmp/write-files /mnt/{name} >/dev/null 2>&1 &")
        self.guest.run("/tmp/make-noise /mnt/ext4 >/dev/null 2>&1 & /tmp/verify-raw >/dev/null 2>&1 &")

    def _await_files(self):
        """One more file in each of the file systems."""
        had = len(self.guest.reports)

        def enough(lines):
            if any(line.startswith("FAILED") for line in lines):
                raise Failure(f"the guest complains: {lines[-3:]}; {self.guest.said()}")
            return all(any(f"/mnt/{name}/" in line for line in lines[had:]) for name in FILE_SYSTEMS)

        self.guest.await_reports(enough, "an fsync in each of the file systems")

    def outlives_kills(self, count):
        for _ in range(count):
            self._await_files()
            time.sleep(self.rng.uniform(0, 0.3))
            self.server.next_worker(self.server.kill_worker())

    def moves_to_another_machine(self):
        """Live. QEMU 7.2 copies memory wrongly now and then while its own TCG runs the guest, with its own
        disks too. So under TCG both machines have the same memory, and all else is copied."""
        source = self.guest
        self._power_on("-qmp", "unix:second.qmp,server=on,wait=off", "-incoming", "defer")
        from_here, to_there = Qmp("first.qmp"), Qmp("second.qmp")
        if self.memory:
            for monitor in (from_here, to_there):
                monitor.ask("migrate-set-capabilities", capabilities=[
                    {"capability": "x-ignore-shared", "state": True}])
        to_there.ask("migrate-incoming", uri="unix:move")
        eventually("a machine that listens", lambda: os.path.exists("move"))
        from_here.ask("migrate", uri="unix:move")
        state = eventually("the end of the migration", lambda: (
            found := from_here.ask("query-migrate")["status"]) in ("completed", "failed") and found,
            BOOT_SECONDS)
        check_equal(state, "completed", f"how the migration ended ({source.said()} {self.guest.said()})")
        from_here.ask("quit")
        source.await_end()
        self.earlier_reports += source.reports
        check_equal(self._complaints(source.console.text), [], "what the guest said before it moved")

    def ends_the_load(self):
        """The files that have to be there from now on."""
        self._await_files()
        check_equal(self._complaints(self.guest.run("dmesg")), [], "what the guest's kernel said")
        reports = self.earlier_reports + self.guest.reports
        promised = synced_of(reports)
        if len(promised) < 2 * self.kills or not any(line.startswith("VERIFIED") for line in reports):
            raise Failure(f"the guest did too little: {len(promised)} files, {reports[-3:]}")
        return promised

    @staticmethod
    def _complaints(text):
        return [line for line in text.splitlines() if re.search(COMPLAINTS, line)]

    # ---- the end, and the next day ----

    def loses_power(self):
        self.guest.kill()
        self.server.kill9()
        self.server.start()

    def goes_off(self):
        self.guest.run("pkill -f /tmp/; umount /mnt/ext4 /mnt/xfs; true")
        self.guest.power_off()

    def finds_again(self, promised):
        self.boots_from_the_disk()
        self.guest.run(f"mount {EXT4} /mnt/ext4 && mount {XFS} /mnt/xfs")
        sums = self.guest.run("sha256sum /mnt/ext4/file* /mnt/xfs/file*")
        found = {path: checksum for checksum, path in (line.split() for line in sums.splitlines())}
        wrong = [path for path, checksum in promised.items() if found.get(path) != checksum]
        check_equal(wrong, [], "files that were fsynced and are not as they were")
        check_equal(self._complaints(self.guest.run("dmesg")), [], "what the guest's kernel said")
        self.guest.run("umount /mnt/ext4 /mnt/xfs")
        self.guest.power_off()

    def leaves_a_sound_image(self):
        if self.lazy:
            check_closed("disk")
        else:
            check_leaks_at_most("disk")  # the power cut's
        with Server("-f", "qcow2", "-r", "disk") as server:
            run("nbdcopy", server.uri, "all.raw")
        places = self._partitions()
        for number, check in ((1, EXT4_CHECK), (2, EXT4_CHECK), (3, XFS_CHECK)):
            start, sectors = places[number - 1]
            run("dd", "if=all.raw", f"of=part{number}", "bs=64k", f"skip={start // 128}",
                f"count={sectors // 128}", "conv=sparse", "status=none")
            run(*check, f"part{number}")

    @staticmethod
    def _partitions():
        """(first sector, sectors) of each."""
        table = read_at("all.raw", 446, 64)
        return [struct.unpack_from("<II", table, at + 8) for at in range(0, 64, 16)]
