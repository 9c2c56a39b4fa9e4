#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`oxbow check` beside `qemu-img check`, on images that qemu-img makes, that crashes left, that are damaged."""
import pathlib as _pathlib
import sys as _sys

_sys.path.insert(0, str(_pathlib.Path(__file__).resolve().parent.parent))
from harness import *

import random
import shutil
import struct

COUNTS = ["image-end-offset", "total-clusters", "check-errors", "corruptions", "leaks",
          "allocated-clusters", "fragmented-clusters", "compressed-clusters"]
COPIED = 1 << 63
DIRTY, CORRUPT = 1, 2


def create(disk, size, **options):
    text = ",".join(f"{key}={value}" for key, value in options.items())
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", text] if text else []), disk, size)


def some_writes(rng, size, count):
    commands = []
    for _ in range(count):
        offset = rng.randrange(size // 512) * 512
        length = min(size - offset, rng.choice([512, 4096, 65536, 199680]))
        verb = rng.choice(["write -P 7", "write -P 9", "write -z", "write -z -u", "discard"])
        commands += ["-c", f"{verb} {offset} {length}"]
    return commands


def crash(disk, *commands):
    """Leaves the image as a program leaves it that dies (qemu-io's own abort)."""
    subprocess.run(["qemu-io", "-t", "writethrough", *commands, "-c", "abort", str(disk)],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
                   timeout=60)


def checked(disk, *options, code=None):
    result = oxbow("check", "--output=json", *options, disk, check=False)
    if code is not None:
        check_equal(result.returncode, code, f"exit code of oxbow check ({result.stderr!r})")
    return json.loads(result.stdout), result.stderr


def checked_by_qemu(disk, *options):
    result = qemu_img("check", "--output=json", *options, disk, check=False)
    return json.loads(result.stdout), result.stderr


def counts(answer):
    return {key: answer.get(key, 0) for key in COUNTS}


def check_as_qemu(disk, what):
    ours, our_text = checked(disk, "-v")
    theirs, their_text = checked_by_qemu(disk)
    check_equal(counts(ours), counts(theirs), f"counts of {what}")
    lines = [line for line in our_text.splitlines() if not line.startswith("Note: ")]
    check_equal(sorted(lines), sorted(their_text.splitlines()), f"text of {what}")


def check_is_clean(disk):
    qemu_img("check", disk)
    _, text = checked(disk, code=0)
    check_equal(text, "", "findings")


def guest_bytes(disk):
    raw = tmpdir() / "guest.raw"
    qemu_img("convert", "-U", "-O", "raw", disk, raw)
    return raw.read_bytes()


class Bytes:
    """An image's file, to be damaged word by word."""

    def __init__(self, disk):
        self.disk = disk
        self.data = bytearray(disk.read_bytes())
        self.cluster_bytes = 1 << struct.unpack_from(">I", self.data, 20)[0]
        self.l1_offset = self.word(40)
        self.reftable_offset = self.word(48)

    def word(self, offset):
        return struct.unpack_from(">Q", self.data, offset)[0]

    def set_word(self, offset, value):
        struct.pack_into(">Q", self.data, offset, value)

    def l2_entry(self, index):
        """Where the first table's entry lies."""
        return (self.word(self.l1_offset) & 0xFFFFFFFFFFFE00) + 8 * index

    def write(self):
        self.disk.write_bytes(self.data)


def incompatible(disk):
    return struct.unpack_from(">Q", disk.read_bytes()[:104], 72)[0]


def crashed_lazy_image(disk, **options):
    create(disk, "4M", lazy_refcounts="on", **options)
    qemu_io("-c", "write -P 1 0 256k", disk)
    crash(disk, "-c", "write -P 2 1M 256k", "-c", "write -P 3 0 4k")
    check_equal(incompatible(disk) & DIRTY, DIRTY, "the dirty bit")


def test_counts_are_those_of_qemu_on_sound_images():
    rng = random.Random(5)
    size = 5000704
    for cluster_size in (512, 4096, 65536, 2 << 20):
        for bits in (2, 16, 64):
            disk = tmpdir() / "disk.qcow2"
            packed = tmpdir() / "packed.qcow2"
            options = {"cluster_size": cluster_size, "refcount_bits": bits}
            what = f"cluster size {cluster_size}, refcount bits {bits}"
            create(disk, size, preallocation="metadata" if bits == 2 else "off", **options)
            check_as_qemu(disk, f"{what}, empty")
            qemu_io(*some_writes(rng, size, 12), disk)
            qemu_img("snapshot", "-c", "s", disk)
            qemu_io(*some_writes(rng, size, 6), disk)
            check_as_qemu(disk, f"{what}, snapshot")
            qemu_img("convert", "-c", "-O", "qcow2", "-o",
                     ",".join(f"{k}={v}" for k, v in options.items()), disk, packed)
            check_as_qemu(packed, f"{what}, compressed")
            qemu_io(*some_writes(rng, size, 6), packed)
            check_as_qemu(packed, f"{what}, compressed and written")
            disk.unlink()


def test_bitmaps_count_while_they_are_vouched_for():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    qemu_img("bitmap", "--add", "-g", "64k", disk, "b")
    qemu_io("-c", "write 0 1M", disk)
    check_as_qemu(disk, "bitmap")
    image = Bytes(disk)
    image.set_word(88, 0)
    image.write()
    answer, _ = checked(disk, code=3)
    check_equal(answer["leaks"], checked_by_qemu(disk)[0]["leaks"], "leaks")


def test_crashed_lazy_images_are_described_as_by_qemu():
    rng = random.Random(6)
    for cluster_size in (512, 65536):
        for bits in (1, 16):
            disk = tmpdir() / "disk.qcow2"
            create(disk, "3M", lazy_refcounts="on", cluster_size=cluster_size, refcount_bits=bits)
            qemu_io(*some_writes(rng, 3 << 20, 8), disk)
            if bits > 1:
                qemu_img("snapshot", "-c", "s", disk)
            crash(disk, *some_writes(rng, 3 << 20, 8))
            check_as_qemu(disk, f"crashed, cluster size {cluster_size}, refcount bits {bits}")
            disk.unlink()


def test_repair_all_of_a_crashed_image_makes_it_clean_and_keeps_its_bytes():
    disk = tmpdir() / "disk.qcow2"
    crashed_lazy_image(disk)
    before = guest_bytes(disk)
    answer, text = checked(disk, "-r", "all", code=0)
    check_in("Repairing cluster ", text)
    check_equal(answer["corruptions-fixed"] > 0, True, "something fixed")
    check_equal(incompatible(disk) & DIRTY, 0, "the dirty bit")
    check_is_clean(disk)
    check_equal(guest_bytes(disk) == before, True, "guest bytes unchanged")


def test_repair_leaks_of_a_crashed_image_keeps_the_dirty_bit():
    disk = tmpdir() / "disk.qcow2"
    crashed_lazy_image(disk)
    before = disk.read_bytes()
    checked(disk, "-r", "leaks", code=2)
    check_equal(incompatible(disk) & DIRTY, DIRTY, "the dirty bit")
    check_equal(disk.read_bytes() == before, True, "file unchanged")


def test_opening_a_crashed_image_for_writing_recovers_it():
    disk = tmpdir() / "disk.qcow2"
    crashed_lazy_image(disk)
    before = guest_bytes(disk)
    oxbow("io", "-f", "qcow2", "-c", "write -P 4 3M 64k", disk)
    check_is_clean(disk)
    after = guest_bytes(disk)
    check_equal(after[:3 << 20] == before[:3 << 20], True, "other guest bytes unchanged")
    check_equal(after[3 << 20:(3 << 20) + 65536], b"\4" * 65536, "what was written")


def test_check_alone_writes_nothing():
    disk = tmpdir() / "disk.qcow2"
    crashed_lazy_image(disk)
    before = disk.read_bytes()
    checked(disk, code=2)
    check_equal(disk.read_bytes() == before, True, "file unchanged")


def test_an_entry_past_the_end_of_a_dirty_image_is_dropped():
    disk = tmpdir() / "disk.qcow2"
    crashed_lazy_image(disk)
    image = Bytes(disk)
    # Right where a repair that grew the file first would put a table.
    past = (len(image.data) + image.cluster_bytes - 1) // image.cluster_bytes
    image.set_word(image.l2_entry(40), COPIED | past * image.cluster_bytes)
    image.set_word(image.reftable_offset, 0)
    image.write()
    checked(disk, "-r", "all", code=0)
    image = Bytes(disk)
    check_equal(image.word(image.l2_entry(40)), 0, "the entry")
    check_is_clean(disk)


def test_leaks_are_reported_with_exit_code_3_and_freed():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    qemu_io("-c", "write 0 256k", disk)
    image = Bytes(disk)
    image.set_word(image.l2_entry(1), 0)
    image.write()
    _, text = checked(disk, code=3)
    check_in("Leaked cluster ", text)
    check_as_qemu(disk, "leak")
    answer, text = checked(disk, "-r", "leaks", code=0)
    check_in("Repairing cluster ", text)
    check_equal(answer["leaks-fixed"], 1, "leaks fixed")
    check_is_clean(disk)


def test_a_cross_link_is_told_apart_and_not_papered_over():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M", lazy_refcounts="on")
    qemu_io("-c", "write -P 6 0 256k", disk)
    image = Bytes(disk)
    image.set_word(72, DIRTY)
    image.set_word(image.l2_entry(9), image.word(image.l2_entry(0)))
    image.write()
    _, text = checked(disk, code=2)
    check_in("is named for guest offsets 0x", text)
    checked(disk, "-r", "leaks", code=2)
    check_equal(incompatible(disk) & DIRTY, DIRTY, "the dirty bit")
    # Nor is it opened for writing, and the message says what to do.
    result = expect_failure(oxbow_path(), "io", "-f", "qcow2", "-c", "write 0 512", disk)
    check_in("oxbow check", result.stderr)
    before = guest_bytes(disk)
    answer, _ = checked(disk, "-r", "all", code=0)
    check_equal([(f["name"], f["guest-offset"], f["guest-length"], f["fate"])
                 for f in answer["findings"]], [("cross-link", 9 << 16, 1 << 16, "in doubt")])
    check_equal(incompatible(disk) & DIRTY, 0, "the dirty bit")
    check_is_clean(disk)
    check_equal(guest_bytes(disk) == before, True, "what the guest reads")
    # A write to one is no longer seen in the other.
    qemu_io("-c", "write -P 9 576k 64k", "-c", "read -P 6 0 64k", disk)


def test_guest_data_on_a_table_are_moved_off_it():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    qemu_io("-c", "write -P 6 0 256k", disk)
    image = Bytes(disk)
    image.set_word(image.l2_entry(9), image.l1_offset | COPIED)
    image.write()
    answer, _ = checked(disk, "-r", "all", code=0)
    check_equal([(f["name"], f["guest-offset"], f["fate"]) for f in answer["findings"]],
                [("metadata-overlap", 9 << 16, "in doubt")])
    check_is_clean(disk)
    qemu_io("-c", "write -P 9 576k 64k", "-c", "read -P 6 0 256k", disk)


def test_reserved_bits_of_an_l1_entry_are_cleared_where_a_table_is_there():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "1G")
    qemu_io("-c", "write -P 5 0 256k", disk)
    good = disk.read_bytes()
    image = Bytes(disk)
    image.set_word(image.l1_offset, image.word(image.l1_offset) | 0x100)
    image.write()
    checked(disk, "-r", "all", code=0)
    check_equal(disk.read_bytes() == good, True, "the file is as it was")


def test_what_an_l1_entry_lost_reads_as_zeroes_and_not_as_the_backing_file():
    """Past the end, where the file grows for the table of zeroes, and with reserved bits."""
    for damage, options in (("l1[1] = end", {"cluster_size": 4096}),
                            ("l1[1] = end | 1", {"cluster_size": 4096}),
                            ("l1[1] = 0x4000000000000000", {"cluster_size": 4096}),
                            ("l1[1] = end", {"cluster_size": 16384, "extended_l2": "on"})):
        options |= {"backing_file": "base", "backing_fmt": "raw"}
        span = options["cluster_size"] ** 2 // (16 if "extended_l2" in options else 8)
        pathlib.Path("base").write_bytes(b"\x09" * 3 * span)
        create("disk", 3 * span, **options)
        qemu_io("-c", "write -q -P 1 0 64k", "disk")
        run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "-e", damage, "disk")
        plan, _ = checked("disk", "-r", "all", "--dry-run")
        check_equal(plan.get("corruptions", 0), 0, f"corruptions left by a dry run, {damage}")
        before = pathlib.Path("disk").read_bytes()
        checked("disk", "-r", "all", "--undo", "undo", code=0)
        qemu_img("check", "-q", "disk")
        for read in ("read -P 1 0 64k", f"read -P 9 64k {span - 65536}", f"read -P 0 {span} {span}",
                     f"read -P 9 {2 * span} {span}"):
            qemu_io("-c", read, "disk")
            if "extended_l2" not in options:
                oxbow("io", "-c", read, "disk")
        oxbow("undo", "undo", "disk")
        check_equal(pathlib.Path("disk").read_bytes() == before, True,
                    f"an undo leaves what was before, {damage}")
        os.remove("undo")


def test_tables_of_zeroes_are_not_made_without_end():
    pathlib.Path("base").write_bytes(b"\x09" * 512)
    for count, code in ((1024, 0), (1025, 2)):
        create("disk", "64M", cluster_size=512, backing_file="base", backing_fmt="raw")
        run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "disk",
            input="".join(f"l1[{i}] = 1\n" for i in range(count)))
        before = pathlib.Path("disk").read_bytes()
        checked("disk", "-r", "all", code=code)
        check_equal(pathlib.Path("disk").read_bytes() == before, code == 2, f"unchanged, {count} entries")


def test_leaks_are_kept_while_an_l1_entry_is_bad():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "1G")
    qemu_io("-c", "write -P 5 0 256k", "-c", "write -P 6 512M 256k", disk)
    image = Bytes(disk)
    # Into the middle of the data: there is no table. Which of two lost ones each named nothing tells.
    data = image.word(image.l2_entry(1))
    for index in range(2):
        image.set_word(image.l1_offset + 8 * index, data | 0x100 << index)
    image.write()
    before = disk.read_bytes()
    for how in ("leaks", "all"):
        checked(disk, "-r", how, code=2)
        check_equal(disk.read_bytes() == before, True, f"file unchanged by -r {how}")


def test_a_snapshot_survives_repair_beside_a_bitmap():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    qemu_io("-c", "write -P 1 0 1M", disk)
    qemu_img("snapshot", "-c", "s", disk)
    qemu_img("bitmap", "--add", "-g", "64k", disk, "b")
    qemu_io("-c", "write -P 2 0 64k", disk)
    before = disk.read_bytes()
    checked(disk, "-r", "leaks", code=0)
    check_equal(disk.read_bytes() == before, True, "file unchanged")


def test_a_lost_refcount_block_is_made_again():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    qemu_io("-c", "write -P 1 0 1M", disk)
    before = guest_bytes(disk)
    for value in (0, 0x10001, 0x40000000):
        image = Bytes(disk)
        image.set_word(image.reftable_offset, value)
        image.write()
        checked(disk, code=2)
        checked(disk, "-r", "all", code=0)
        check_is_clean(disk)
        check_equal(guest_bytes(disk) == before, True, "guest bytes unchanged")


def test_the_corrupt_bit_goes_when_nothing_is_wrong():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    image = Bytes(disk)
    image.set_word(72, CORRUPT)
    image.write()
    _, text = checked(disk, code=0)
    check_in("marked corrupt", text)
    checked(disk, "-r", "all", code=0)
    check_equal(incompatible(disk), 0, "incompatible bits")


def test_what_cannot_be_checked_is_refused():
    raw = tmpdir() / "disk.raw"
    raw.write_bytes(b"\0" * 65536)
    expect_failure(oxbow_path(), "check", raw, code=63)
    expect_failure(oxbow_path(), "check", "-f", "raw", raw, code=63)
    expect_failure(oxbow_path(), "check", "-f", "qcow2", raw, code=1)
    expect_failure(oxbow_path(), "check", tmpdir() / "absent", code=1)


def test_an_image_in_use_is_not_checked():
    disk = tmpdir() / "disk.qcow2"
    create(disk, "4M")
    with Server("-f", "qcow2", disk):
        expect_failure(oxbow_path(), "check", disk, message="lock")
        oxbow("check", "-U", disk)
        expect_failure(oxbow_path(), "check", "-r", "all", disk, message="lock")


def test_damage_that_qemu_sees_is_never_called_clean():
    rng = random.Random(7)
    sound = tmpdir() / "sound.qcow2"
    create(sound, "1M", cluster_size=512)
    qemu_io(*some_writes(rng, 1 << 20, 8), sound)
    qemu_img("snapshot", "-c", "s", sound)
    qemu_io(*some_writes(rng, 1 << 20, 3), sound)
    for _ in range(25):
        disk = tmpdir() / "disk.qcow2"
        shutil.copy(sound, disk)
        image = Bytes(disk)
        places = [image.l1_offset + 8 * i for i in range(8)]
        places += [image.l2_entry(i) for i in range(64)]
        places += [image.word(image.reftable_offset) + 8 * i for i in range(64)]
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.choice(places)
            image.set_word(place, rng.choice([0, rng.getrandbits(64), image.word(place) ^ COPIED,
                                              image.word(rng.choice(places))]))
        image.write()
        theirs, _ = checked_by_qemu(disk)
        ours, _ = checked(disk)
        if theirs.get("corruptions") or theirs.get("leaks"):
            check_equal(bool(ours.get("corruptions") or ours.get("leaks")), True,
                        "something found")
        mended, _ = checked(disk, "-r", "all")
        if not mended.get("corruptions") and not mended.get("leaks"):
            qemu_img("check", disk)


run_tests(globals())
