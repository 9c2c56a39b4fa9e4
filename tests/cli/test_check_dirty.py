#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An image with lazy refcounts that was not closed is no alarm: what a check says of it, once."""
import struct
import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import *

MIB = 1 << 20


def make_dirty(*commands):
    """An image whose writer was killed."""
    oxbow("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk.qcow2", "1G")
    writer = subprocess.Popen([oxbow_path(), "io", "-f", "qcow2", "-t", "writethrough", "disk.qcow2"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for command in (*commands, "flush", "read 0 4k"):
        writer.stdin.write(command.encode() + b"\n")
    writer.stdin.flush()
    while b"read 4096/4096" not in writer.stdout.readline():
        pass
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()


def check(*args, code):
    result = oxbow("check", *args, "disk.qcow2", check=False)
    check_equal(result.returncode, code, f"exit code ({result.stderr})")
    return result


def test_an_image_that_was_not_closed_is_said_to_be_so_once():
    make_dirty("write 0 20M")
    result = check(code=2)  # as qemu-img has it: its counts are too low
    check_in("The image was not closed: its reference counts lag behind.\n"
             "321 clusters are still to be counted.\n"
             "No data are harmed. The next opening for writing sets this right", result.stdout)
    if "ERROR" in result.stderr or "corrupt" in result.stdout:
        raise Failure(f"it alarms: {result.stderr}{result.stdout}")
    check_equal(result.stderr.count("\n"), 1, "number of lines on stderr")
    check_equal(qemu_img("check", "disk.qcow2", check=False).returncode, 2, "exit code of qemu-img")


def test_details_are_there_for_who_asks():
    make_dirty("write 0 20M")
    result = check("-v", code=2)
    check_in("ERROR clusters 4-324 refcount=0 reference=1\n", result.stderr)
    check_in("ERROR OFLAG_COPIED data clusters: 320 entries, the first: l2_entry=", result.stderr)
    whole = json.loads(check("--output=json", code=2).stdout)
    check_equal(whole["uncounted-clusters"], 321)
    check_equal(whole["recoverable-corruptions"], whole["corruptions"])
    told = [finding.get("recovers", False) for finding in whole["findings"]
            if finding["severity"] == "corruption"]
    check_equal((all(told), len(told)), (True, 3), "findings that recover, of all corruptions")


def test_the_next_opening_sets_it_right():
    make_dirty("write 0 20M", "discard 0 1M")
    check(code=2)
    oxbow("io", "-f", "qcow2", "-c", "write 512M 4k", "disk.qcow2")
    check_in("No errors were found on the image.", check(code=0).stdout)


def test_damage_in_such_an_image_is_an_alarm():
    make_dirty("write 0 20M")
    with open("disk.qcow2", "r+b") as file:  # the second entry of the L2 table names the first's cluster
        file.seek(40)
        l1 = struct.unpack(">Q", file.read(8))[0]
        file.seek(l1)
        l2 = struct.unpack(">Q", file.read(8))[0] & 0x00FFFFFFFFFFFE00
        file.seek(l2)
        entry = file.read(8)
        file.write(entry)
    result = check(code=2)
    check_in("the damage below is to be repaired first", result.stdout)
    check_in("errors were found on the image.\nData may be corrupted", result.stdout)
    check_in("ERROR", result.stderr)


def test_a_clean_image_whose_counts_are_too_low_is_an_alarm():
    make_dirty("write 0 20M")
    with open("disk.qcow2", "r+b") as file:
        file.seek(79)
        file.write(b"\0")  # the dirty bit
    result = check(code=2)
    check_in("Data may be corrupted", result.stdout)
    check_in("ERROR clusters 4-324 refcount=0 reference=1\n", result.stderr)


run_tests(globals())
