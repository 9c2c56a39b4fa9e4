#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`oxbow check -r all` that is killed half way: nothing that could be read before is lost, the same
repair finishes it, and an undo takes it back (docs/check.md)."""
from interop import *

import random
import shutil
import time

sys.path.insert(0, str(ROOT / "tests" / "corpus"))
import reader
from hostfs import loop_device

CLUSTER = 4 * KIB
DISK_BYTES = 6 * MIB
KILLS = 5


def shared_with_a_snapshot():
    """Each cluster of the disk holds bytes of its own, half of them a snapshot's too."""
    with open("plain", "wb") as file:
        for n in range(DISK_BYTES // CLUSTER):
            file.write(n.to_bytes(4, "big") * (CLUSTER // 4))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={CLUSTER}", "plain",
             "sound")
    qemu_img("snapshot", "-c", "before", "sound")
    qemu_io("-f", "qcow2", "-c", f"write -q -P 7 0 {DISK_BYTES // 2}", "sound")


def damage(image):
    """Every third entry of the disk's tables names its neighbour's cluster, and a quarter of the counts is
    gone: thousands of copies, counts and bits to mend."""
    file = Qcow2(image)
    for guest in range(CLUSTER, DISK_BYTES, 3 * CLUSTER):
        file.put_be64(file.l2_entry_at(guest), file.l2_entry(guest - CLUSTER))
    write_at(image, file.refcount_block_at(0) + CLUSTER // 2, bytes(CLUSTER // 4))


def copy_onto(image, device):
    if device == "disk":
        shutil.copyfile(image, device)
        return
    with open(device, "r+b") as file:
        file.write(pathlib.Path(image).read_bytes())
        os.fsync(file.fileno())


def repair(device, *options):
    return oxbow("check", "-q", "-f", "qcow2", "-r", "all", *options, device, check=False)


def kill_a_repair(device, seconds, *options):
    """Whether it was still at work."""
    process = subprocess.Popen([oxbow_path(), "check", "-q", "-f", "qcow2", "-r", "all", *options,
                                device], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    return process.wait() < 0


def check_nothing_lost(device, truth, what):
    right = reader.right_sectors("sound", *truth)
    lost = reader.lost_sectors(right, reader.right_sectors(device, *truth))
    check_equal(sorted(lost)[:4], [], f"clusters that read otherwise {what}")


def check_repaired(device, truth, what):
    """Returns how long the repair took."""
    began = time.monotonic()
    check_equal(repair(device).returncode, 0, f"exit code of the repair {what}")
    seconds = time.monotonic() - began
    check_nothing_lost(device, truth, f"after the repair {what}")
    check_clean(device, what)
    return seconds


def run_kills(device, *, undo):
    shared_with_a_snapshot()
    damage("sound")
    truth = reader.contents("sound")
    copy_onto("sound", device)
    whole = check_repaired(device, truth, "that nobody killed")
    rng = random.Random(f"kill {undo}")
    killed = turn = 0
    while killed < KILLS:
        turn += 1
        if turn > 10 * KILLS:
            raise Failure(f"only {killed} of {turn} repairs were killed")
        copy_onto("sound", device)
        options = ("--undo", f"undo{turn}") if undo else ()
        if kill_a_repair(device, whole * rng.uniform(0, 1), *options):
            killed += 1
            whole *= 1.1
        else:  # how busy the machine is changes
            whole *= 0.7
        check_nothing_lost(device, truth, f"after kill {turn}")
        if undo and os.path.exists(f"undo{turn}") and turn % 2:
            undone = oxbow("undo", f"undo{turn}", device, check=False)
            # killed before the undo file had a header: then nothing was written either
            if undone.returncode == 0 or os.path.getsize(f"undo{turn}") < 512:
                check_equal(read_at(device, 0, os.path.getsize("sound")),
                            pathlib.Path("sound").read_bytes(), f"image after the undo of {turn}")
            else:
                raise Failure(f"no undo after kill {turn}: {undone.stderr}")
        else:
            check_repaired(device, truth, f"after kill {turn}")


def test_a_repair_that_is_killed_is_finished_by_the_next():
    run_kills("disk", undo=False)


def test_a_repair_that_is_killed_is_undone():
    run_kills("disk", undo=True)


def test_a_repair_on_a_block_device_that_is_killed_is_finished_by_the_next():
    run_kills(loop_device(32 * MIB), undo=False)


def test_a_repair_on_a_block_device_that_is_killed_is_undone():
    run_kills(loop_device(32 * MIB), undo=True)


run_tests(globals())
