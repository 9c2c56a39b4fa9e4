#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A small part of the measure of damage_measure.py, always the same: no repair loses a sector, calls
clean what is not, clears a bit over what remains, crashes or hangs.

DAMAGE_IMAGES and DAMAGE_SEED in the environment: how many, and from which seed on."""
import stat
import zlib

import damage_bases
import damage_measure
import judge
import reader
from corpus import *
from damage_bases import DISK

IMAGES = int(os.environ.get("DAMAGE_IMAGES", "60"))
SEED = int(os.environ.get("DAMAGE_SEED", "0"))
# One of each feature; what is of each cluster size besides is for the whole measure.
KINDS = range(16)
# A repair that zeroes a refcount block and some of the guest's clusters, and is content.
BAD_REPAIR = """#!/bin/sh
case "$*" in
*" all "*)
	dd if=/dev/zero of=oxbow.qcow2 bs=4096 seek=2 count=1 conv=notrunc status=none
	dd if=/dev/zero of=oxbow.qcow2 bs=4096 seek=5 count=40 conv=notrunc status=none
	;;
esac
echo '{"check-errors": 0}'
"""


def chosen_seeds():
    """Of each kind in turn, so that few bases are made."""
    return [damage_bases.KINDS * (SEED + number // len(KINDS)) + number % len(KINDS)
            for number in range(IMAGES)]


def test_the_reader_and_the_judge_agree_with_qemu_on_sound_images():
    for number in KINDS:
        base = damage_bases.Base(number, tmpdir() / f"base{number}")
        truth, size, cluster = base.truth
        qemu_img("convert", "-f", "qcow2", "-O", "raw", DISK, "flat.raw", cwd=base.folder)
        flat = reader.file_bytes(base.folder / "flat.raw")
        for index, pieces in enumerate(truth[""]):
            at = index * cluster
            whole = b"".join(piece.ljust(cluster // len(pieces), b"\0") for piece in pieces)
            check_equal(zlib.crc32(whole[:size - at]), zlib.crc32(flat[at:at + cluster]),
                        f"{base.name}, cluster {index}")
        if "dirty" not in base.features:
            check_equal(judge.problems(base.path), [], base.name)


def test_no_repair_of_random_damage_loses_or_lies():
    summaries = damage_measure.measure(chosen_seeds(), 1, sides=("oxbow",))
    bad = [s for s in summaries if s["oxbow"]["trouble"]]
    for s in bad:
        print(f"# seed {s['seed']}, {s['base']}, {s['damage']}: {s['oxbow']}")
    check_equal(len(bad), 0, f"failed cases of {IMAGES}")
    visible = [s for s in summaries if s["visible"]]
    repaired = sum(s["oxbow"]["repaired"] for s in visible)
    # Far below what is measured: a repair that does nothing any more is noticed.
    check_equal(repaired * 4 >= len(visible), True, f"{repaired} repaired of {len(visible)}")


def test_a_repair_that_loses_and_lies_is_found_out():
    path = tmpdir() / "bad-oxbow"
    path.write_text(BAD_REPAIR)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    before = os.environ.get("OXBOW")
    os.environ["OXBOW"] = str(path)
    try:
        # A plain image of 4 KiB clusters: the block is its third, the L1 table its fourth.
        summary, = damage_measure.measure([32], 1, sides=("oxbow",))
    finally:
        del os.environ["OXBOW"]
        if before is not None:
            os.environ["OXBOW"] = before
    check_equal(summary["oxbow"]["trouble"], ["lowered", "untrue"])


run_tests(globals())
