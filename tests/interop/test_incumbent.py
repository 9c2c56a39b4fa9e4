#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What QEMU's block layer gets wrong, and what oxbow does there (docs/findings.md, "Side by side").

oxbow's side is asserted. QEMU's is printed: its versions differ."""
import shutil

from interop import *

COPIED = "0x8000000000000000"


def corrupt(image, *lines):
    tool = pathlib.Path(oxbow_path()).with_name("oxbow-corrupt")
    run(tool, image, input="".join(line + "\n" for line in lines))


def make(*lines, options="cluster_size=4k", writes=("write -q -P 1 0 64k", "write -q -P 2 2M 64k")):
    """disk, and theirs with the same bytes."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, "disk", "6M")
    for write in writes:
        qemu_io("-f", "qcow2", "-c", write, "disk")
    corrupt("disk", *lines)
    shutil.copy("disk", "theirs")


def header(image, at, size=8):
    with open(image, "rb") as file:
        file.seek(at)
        return int.from_bytes(file.read(size), "big")


def is_dirty(image):
    return bool(header(image, 72) & 1)


def reads(image, pattern_byte, offset, length):
    """Whether the guest reads the pattern there, as QEMU sees it."""
    result = qemu_io("-r", "-f", "qcow2", "-c", f"read -q -P {pattern_byte} {offset} {length}",
                     image, check=False)
    return result.returncode == 0 and "verification failed" not in result.stdout


def theirs(what, result):
    print(f"# QEMU: {what}: exit {result.returncode}")


def qemu_check(*options):
    return qemu_img("check", *options, "theirs", check=False)


def test_a_repair_of_leaks_leaves_a_crashed_image_dirty():
    make("header.incompatible_features |= 1", "refcount[host l2@0 / cluster] = 0",
         options="cluster_size=4k,lazy_refcounts=on")
    theirs("-r leaks", qemu_check("-r", "leaks"))
    print(f"# QEMU: dirty afterwards: {is_dirty('theirs')}")
    oxbow("check", "-r", "leaks", "disk", check=False)
    check_equal(is_dirty("disk"), True, "dirty bit")


def test_a_dirty_image_that_cannot_be_recovered_is_not_written_to():
    make("header.incompatible_features |= 1", "l1[1] |= 1",
         options="cluster_size=4k,lazy_refcounts=on")
    theirs("write", qemu_io("-f", "qcow2", "-c", "write -q 4M 4k", "theirs", check=False))
    print(f"# QEMU: dirty afterwards: {is_dirty('theirs')}")
    before = pathlib.Path("disk").read_bytes()
    oxbow("io", "-f", "qcow2", "-c", "write -q 4M 4k", "disk", check=False)
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "image left alone")


def test_two_entries_on_one_cluster_are_told_apart():
    make("l2@0x1000 = l2@0")
    theirs("-r all", qemu_check("-r", "all"))
    result = oxbow("check", "-r", "all", "disk")
    check_in("is named for guest offsets 0x0 and 0x1000", result.stderr)
    for image in ("theirs", "disk"):
        qemu_io("-f", "qcow2", "-c", "write -q -P 9 0 4k", image, check=False)
    print(f"# QEMU: the other entry reads what it did: {reads('theirs', 1, '4k', '4k')}")
    check_equal(reads("disk", 1, "4k", "4k"), True, "the other entry reads what it did")


def test_a_bad_l1_pointer_does_not_cost_what_it_named():
    make("l1[0] |= 0x200")
    theirs("-r all", qemu_check("-r", "all"))
    corrupt("theirs", "l1[0] &= ~0x200")
    print(f"# QEMU: what the entry named is still there: {reads('theirs', 1, 0, '64k')}")
    oxbow("check", "-r", "all", "disk", check=False)
    check_equal(reads("disk", 1, 0, "64k"), True, "the range reads as before")


def test_a_lost_table_is_found_and_what_it_named_is_not_freed():
    make("l1[0] = 0x7f00112233445566")
    theirs("-r all", qemu_check("-r", "all"))
    theirs("-r leaks", qemu_check("-r", "leaks"))
    found = json.loads(oxbow("check", "--salvage", "--output=json", "theirs", check=False).stdout)["lost-tables"]
    print(f"# QEMU: the table is {'there, ' + ('counted' if found[0]['is-counted'] else 'freed') if found else 'gone'}")
    result = oxbow("check", "-r", "all", "--salvage", "disk")
    check_in("guest offset 0x0 length 0x200000 is in doubt", result.stderr)
    check_equal(reads("disk", 1, 0, "64k"), True, "the range reads as before")
    check_equal(qemu_img("check", "disk").returncode, 0, "QEMU's check")


def test_a_repair_of_leaks_does_not_free_what_a_lost_l1_entry_led_to():
    make("l1[0] = 0")
    theirs("-r leaks", qemu_check("-r", "leaks"))
    found = json.loads(oxbow("check", "--salvage", "--output=json", "theirs", check=False).stdout)["lost-tables"]
    print(f"# QEMU: the table is {'there, ' + ('counted' if found[0]['is-counted'] else 'freed') if found else 'gone'}")
    result = oxbow("check", "-r", "leaks", "--output=json", "disk", check=False)
    check_equal(result.returncode, 3, "exit status")
    table = json.loads(result.stdout)["lost-tables"][0]["host-offset"]
    oxbow("check", "-r", "all", f"--salvage=0:{table}", "disk")
    check_equal(reads("disk", 1, 0, "64k"), True, "the range reads as before")


def test_bad_entries_are_repaired_and_bad_headers_checked():
    for name, line, code in (("past the end", f"l2@0 = end / cluster * cluster + 1M | {COPIED}", (0, 3)),
                             ("unaligned", "l2@0 |= 0x200", (0,)),
                             ("reserved bits", "l2@0 |= 2", (0,)),
                             ("L1 too small", "header.l1_size = 1", (2,)),
                             ("refcount table lost", "header.refcount_table_clusters = 0", (0,))):
        make(line)
        qemu_check("-r", "all")
        theirs(f"{name}, after -r all", qemu_check())
        oxbow("check", "-r", "all", "disk", check=False)
        check_in(oxbow("check", "disk", check=False).returncode, code, name)


def test_what_others_overlook_is_found():
    make("garble 4k", writes=("write -q -c -P 1 0 4k", "write -q -c -P 2 4k 4k"))
    theirs("garbage in a compressed cluster", qemu_check())
    check_equal(oxbow("check", "--data", "disk", check=False).returncode, 2, "garbage")
    make("refcount[end / cluster + 3] = 2")
    theirs("a count past the end", qemu_check())
    check_equal(oxbow("check", "disk", check=False).returncode, 3, "count past the end")
    make()
    qemu_img("bitmap", "--add", "disk", "b")
    corrupt("disk", "bitmap[0].flags |= 1")
    shutil.copy("disk", "theirs")
    theirs("a bitmap in use", qemu_check())
    check_in("was in use and not saved", oxbow("check", "disk").stderr)


def test_a_snapshot_beside_a_bitmap_survives_a_repair():
    make()
    qemu_img("snapshot", "-c", "s", "disk")
    qemu_img("bitmap", "--add", "disk", "b")
    shutil.copy("disk", "theirs")
    theirs("-r leaks", qemu_check("-r", "leaks"))
    print(f"# QEMU: snapshots afterwards: {header('theirs', 60, 4)}")
    oxbow("check", "-r", "leaks", "disk")
    check_equal(header("disk", 60, 4), 1, "snapshots")
    qemu_img("convert", "-l", "s", "-O", "raw", "disk", "flat")
    check_equal(pathlib.Path("flat").read_bytes()[:64 * KIB], b"\1" * 64 * KIB, "the snapshot")


def test_a_live_cluster_that_is_not_counted_is_not_given_to_a_bitmap():
    make()
    qemu_img("bitmap", "--add", "disk", "b")
    corrupt("disk", "refcount[host l2@0 / cluster] = 0")
    shutil.copy("disk", "theirs")
    theirs("-r leaks", qemu_check("-r", "leaks"))
    print(f"# QEMU: the cluster reads as before: {reads('theirs', 1, 0, '4k')}")
    oxbow("check", "-r", "leaks", "disk", check=False)
    check_equal(reads("disk", 1, 0, "4k"), True, "the cluster reads as before")


def test_an_entry_that_is_copied_and_empty_ends_no_program():
    make(f"l1[2] = {COPIED}")
    result = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q 5M 4k", "theirs"],
                            capture_output=True, check=False)
    theirs("write", result)
    check_equal(oxbow("check", "disk", check=False).returncode, 2, "exit code")
    oxbow("io", "-f", "qcow2", "-c", "write -q 5M 4k", "disk", check=False)  # dies by no signal


def test_a_cluster_out_of_place_in_a_data_file_is_found():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "disk", "6M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 1 0 256k", "disk")
    corrupt("disk", "l2@0x10000 += cluster")
    shutil.copy("disk", "theirs")
    theirs("check", qemu_check())
    check_in("stands for guest offset 0x10000", oxbow("check", "disk", check=False).stderr)


def make_qed(*lines, write="write -q -P 1 0 64k"):
    qemu_img("create", "-q", "-f", "qed", "-o", "cluster_size=4k,table_size=4", "disk", "64M")
    qemu_io("-f", "qed", "-c", write, "disk")
    corrupt("disk", *lines)
    shutil.copy("disk", "theirs")


def needs_check(image):
    with open(image, "rb") as file:
        return bool(file.read(17)[16] & 2)


def test_a_qed_image_with_a_cross_link_is_not_called_checked():
    make_qed("header.features |= 2", "l2@0x1000 = l2@0")
    theirs("QED, -r all", qemu_check("-r", "all"))
    print(f"# QEMU: still to be checked: {needs_check('theirs')}; a check then: exit "
          f"{qemu_check().returncode}")
    # Where nothing may be written for it, the mark stays.
    oxbow("check", "-r", "leaks", "disk", check=False)
    check_equal(needs_check("disk"), True, "NEED_CHECK while entries share a cluster")
    oxbow("check", "-r", "all", "disk", check=False)
    check_equal(needs_check("disk"), False, "NEED_CHECK once they do not")
    qemu_io("-f", "qed", "-c", "write -q -P 9 0 4k", "-c", "read -q -P 1 4k 4k", "disk")


def test_a_large_qed_image_without_leaks_has_none():
    make_qed(write="write -q -P 1 0 24M")
    result = qemu_check()
    print(f"# QEMU: a sound QED image: exit {result.returncode}: {result.stdout.strip()[:24]}")
    check_equal(oxbow("check", "disk").returncode, 0, "exit code")


run_tests(globals())
