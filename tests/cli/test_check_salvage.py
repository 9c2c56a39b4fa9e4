#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check --salvage: L2 tables that a damaged L1 entry lost."""
from peers import *

import pathlib
import random

OFFSET_MASK = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
GARBAGE = 0x7F00112233445566
KINDS = [("-o", "cluster_size=512"), ("-o", "cluster_size=4k"), ("-o", "cluster_size=64k"),
         ("-o", "cluster_size=4k,compat=0.10"), ("-o", "cluster_size=4k,refcount_bits=1"),
         ("-o", "cluster_size=16k,extended_l2=on"), ("-o", "cluster_size=64k,lazy_refcounts=on")]


def number(image, at, size=8):
    return int.from_bytes(pathlib.Path(image).read_bytes()[at:at + size], "big")


def l1_at(image, index):
    return number(image, 40) + 8 * index


def l1(image, index):
    return number(image, l1_at(image, index))


def set_l1(image, index, value):
    with open(image, "r+b") as file:
        file.seek(l1_at(image, index))
        file.write(value.to_bytes(8, "big"))


def span(image):
    """What one L1 entry stands for."""
    bits = number(image, 20, 4)
    extended = number(image, 4, 4) > 2 and number(image, 72) & 16
    return (1 << bits) * (1 << (bits - (4 if extended else 3)))


def make(*options, tables=3):
    """An image with data under each of a few L1 entries; returns what the guest reads."""
    qemu_img("create", "-q", "-f", "qcow2", *options, "disk", "6M")
    step = span("disk")
    size = min(6 << 20, tables * step)
    for index in range(tables):
        start = index * step
        if start < size:
            qemu_io("-f", "qcow2", "-c", f"write -q -P {index + 1} {start} {min(step // 2, 128 << 10)}",
                    "disk")
    return guest()


def guest(image="disk"):
    qemu_img("convert", "-U", "-O", "raw", image, "flat")
    return pathlib.Path("flat").read_bytes()


def salvage(*options, image="disk"):
    result = oxbow("check", "--output=json", *options, image, check=False)
    return json.loads(result.stdout), result


def test_a_lost_table_is_found_and_linked_again():
    for kind in KINDS:
        before = make(*kind)
        right = l1("disk", 0)
        for wrong in (GARBAGE, right | 0x200, right ^ 1 << 50, COPIED, right & ~OFFSET_MASK | 0x30000000000):
            set_l1("disk", 0, wrong)
            report, result = salvage("--salvage")
            check_equal(result.returncode, 2, f"{kind}: a check")
            check_equal([table["host-offset"] for table in report["lost-tables"]],
                        [right & OFFSET_MASK], f"{kind}: lost tables")
            check_equal(report["lost-tables"][0]["l1-index"], 0, "the entry it fits")
            check_equal(report["damaged-l1-entries"], 1, "damaged entries")
            result = oxbow("check", "-r", "all", "--salvage", "disk")
            check_in("1 L2 table that nothing named was linked again.", result.stdout)
            check_in(f"guest offset 0x0 length {hex(min(span('disk'), 6 << 20))} is in doubt",
                     result.stderr)
            check_equal(l1("disk", 0), right, f"{kind}: the entry")
            check_equal(guest() == before, True, f"{kind}: the guest reads as before")
            qemu_img("check", "disk")
        os.remove("disk")


def test_a_lost_table_with_a_sector_of_noise_is_linked_again():
    for cluster, more, noisy in ((4096, "", 1), (65536, "", 0), (16384, ",extended_l2=on", 2), (4096, ",compat=0.10", 0)):
        entry = 16 if "extended" in more else 8
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}{more}", "disk", "64M")
        used = 4 * 512 // entry * cluster
        writes = [f"write -q -P {n + 1} {n * used // 8} {used // 8}" for n in range(8)]
        qemu_io("-f", "qcow2", *(word for write in writes for word in ("-c", write)), "disk")
        before = guest()
        table = l1("disk", 0) & OFFSET_MASK
        set_l1("disk", 0, GARBAGE)
        with open("disk", "r+b") as file:
            file.seek(table + 512 * noisy)
            file.write(random.Random(cluster + noisy).randbytes(512))
        report, _ = salvage("--salvage")
        check_equal([(t["host-offset"], t["is-sure"]) for t in report["lost-tables"]], [(table, True)], "found")
        check_equal(report["lost-tables"][0]["damaged"] > 512 // entry - 4, True, "its damaged entries")
        result = oxbow("check", "-r", "all", "--salvage", "disk", check=False)
        check_equal(result.returncode in (0, 3), True, "exit status of the repair")
        oxbow("check", "-r", "leaks", "disk")
        qemu_img("check", "disk")
        after = guest()
        for at in range(0, len(before), cluster):
            now, then = after[at:at + cluster], before[at:at + cluster]
            in_noise = at // cluster * entry // 512 == noisy
            if now != then and not (in_noise and set(now) <= {0, *then}):
                raise Failure(f"{cluster}{more}: guest cluster {at // cluster} reads something else")
        os.remove("disk")


def test_compressed_tables_are_linked_again():
    for method in ("zlib", "zstd"):
        before = make("-o", "cluster_size=4k")
        qemu_img("convert", "-c", "-O", "qcow2", "-o", f"cluster_size=4k,compression_type={method}",
                 "disk", "packed")
        set_l1("packed", 0, GARBAGE)
        oxbow("check", "-r", "all", "--salvage", "packed")
        qemu_img("check", "packed")
        check_equal(guest("packed") == before, True, "the guest reads as before")


def test_tables_that_are_shared_with_snapshots_are_linked_again():
    for cluster in ("512", "4k"):
        before = make("-o", f"cluster_size={cluster}")
        qemu_img("snapshot", "-c", "early", "disk")
        qemu_io("-f", "qcow2", "-c", "write -q -P 77 1k 8k", "-c", f"write -q -P 78 {span('disk')} 4k",
                "disk")
        now = guest()
        set_l1("disk", 0, GARBAGE)
        set_l1("disk", 1, GARBAGE + 5)
        oxbow("check", "-r", "all", "--salvage", "disk")
        qemu_img("check", "disk")
        check_equal(guest() == now, True, "the guest reads as before")
        qemu_img("snapshot", "-a", "early", "disk")
        check_equal(guest() == before, True, "so does the snapshot")
        qemu_img("check", "disk")


def test_what_does_not_name_its_place_is_left_and_kept_and_linked_by_hand():
    before = make("-o", "cluster_size=4k")
    right = [l1("disk", index) & OFFSET_MASK for index in range(3)]
    set_l1("disk", 0, GARBAGE)
    set_l1("disk", 1, GARBAGE + 2)
    report, result = salvage("-r", "all", "--salvage")
    check_equal(result.returncode, 2, "two of each")
    check_equal([table["fits"] for table in report["lost-tables"]], [2, 2], "what they fit")
    leaks = [finding for finding in report["findings"] if finding["name"] == "leaked-cluster"]
    check_equal(sum(leak["host-length"] for leak in leaks) > 60 * 4096, True, "leaks are kept")
    check_in("belongs to an L2 table", leaks[0]["why-not"])
    oxbow("check", "-r", "all", f"--salvage=0:{right[0]}", f"--salvage=1:{hex(right[1])}", "disk")
    qemu_img("check", "disk")
    check_equal(guest() == before, True, "the guest reads as before")


def test_an_empty_entry_is_filled_only_on_request_and_nothing_is_freed_meanwhile():
    before = make("-o", "cluster_size=4k")
    table = l1("disk", 1) & OFFSET_MASK
    set_l1("disk", 1, 0)
    for how in ("leaks", "all"):
        report, result = salvage("-r", how, "--salvage")
        check_equal((result.returncode, l1("disk", 1)), (3, 0), f"-r {how}")
        check_equal(report.get("leaks-fixed", 0), 0, f"leaks freed by -r {how}")
        check_in("it fits no damaged L1 entry", result.stderr)
    oxbow("check", "-r", "all", f"--salvage=1:{table}", "disk")
    qemu_img("check", "disk")
    check_equal(guest() == before, True, "the guest reads as before")


def test_a_dry_run_shows_it_and_an_undo_takes_it_back():
    make("-o", "cluster_size=4k")
    set_l1("disk", 0, GARBAGE)
    damaged = pathlib.Path("disk").read_bytes()
    plan, _ = salvage("-r", "all", "--salvage", "--dry-run")
    check_equal(pathlib.Path("disk").read_bytes() == damaged, True, "a dry run writes nothing")
    done, _ = salvage("-r", "all", "--salvage", "--undo", "saved")
    check_equal([t["linked"] for t in plan["lost-tables"]], [True], "the plan")
    check_equal(plan["lost-tables"], done["lost-tables"], "the plan and the repair")
    oxbow("undo", "saved", "disk")
    check_equal(pathlib.Path("disk").read_bytes() == damaged, True, "the undone image")


def test_a_link_that_cannot_be_is_refused_and_nothing_is_written():
    make("-o", "cluster_size=4k")
    table = l1("disk", 0) & OFFSET_MASK
    set_l1("disk", 0, 0)
    before = pathlib.Path("disk").read_bytes()
    for link, why in ((f"0:{table + 512}", "No cluster begins at"), (f"0:{1 << 45}", "past the end"),
                      (f"7:{table}", "There is no L1 entry 7"), ("0:0", "it is in use"),
                      (f"1:{table}", "names a table, which is not replaced"),
                      (f"0:{table + 4096}", "is no entry of an L2 table")):
        result = oxbow("check", "-r", "all", f"--salvage={link}", "disk", check=False)
        check_equal(result.returncode, 1, link)
        check_in(why, result.stderr)
        check_equal(pathlib.Path("disk").read_bytes() == before, True, f"image left alone by {link}")
    for words in (["--salvage=0:1:2", "-r", "all"], ["--salvage=x", "-r", "all"], ["--salvage=-1:0", "-r", "all"],
                  ["--salvage=0:4096"], ["--salvage=0:4096", "-r", "leaks"]):
        check_equal(oxbow("check", *words, "disk", check=False).returncode, 1, words)


def test_a_check_tells_that_there_is_salvage_and_a_sound_image_has_no_use_for_it():
    make("-o", "cluster_size=4k")
    plain = oxbow("check", "disk").stdout
    if "salvage" in plain:
        raise Failure("a sound image is told of salvage")
    check_equal(salvage("--salvage")[0]["lost-tables"], [], "lost tables of a sound image")
    check_in("There is no L2 table that nothing names.", oxbow("check", "--salvage", "disk").stdout)
    set_l1("disk", 0, GARBAGE)
    check_in("1 L1 entry was damaged.", oxbow("check", "disk", check=False).stdout)
    check_in("--salvage looks for it", oxbow("check", "disk", check=False).stdout)


def test_a_repair_without_it_keeps_a_lost_table_among_the_leaks():
    for kind in KINDS:
        before = make(*kind)
        table = l1("disk", 0) & OFFSET_MASK
        set_l1("disk", 0, 0)
        leaks = salvage()[0]["leaks"]
        for how in (), ("-r", "leaks"), ("-r", "all"):
            report, result = salvage(*how)
            check_equal((result.returncode, report["leaks"]), (3, leaks), f"{kind} {how}")
            check_equal(report.get("leaks-fixed", 0), 0, f"{kind}: leaks freed by {how}")
            check_equal([t["host-offset"] for t in report["lost-tables"]], [table], f"{kind}: lost tables")
            check_in(f"orphaned L2 table at {hex(table)}", result.stderr)
        check_in("--salvage=none frees it", report["findings"][0]["why-not"])
        check_in("The leaks hold 1 L2 table that nothing names", oxbow("check", "disk", check=False).stdout)
        oxbow("check", "-r", "all", f"--salvage=0:{table}", "disk")
        qemu_img("check", "disk")
        check_equal(guest() == before, True, f"{kind}: the guest reads as before")
        os.remove("disk")


def test_a_recovery_leaves_what_is_surely_a_lost_tables():
    # First, and beside the guest.
    for how in ("wait", "auto"):
        for options in (("-o", "lazy_refcounts=on,cluster_size=4k"),
                        ("-o", "lazy_refcounts=on,cluster_size=512,refcount_bits=1")):
            before = make(*options)
            place = l1("disk", 1) & OFFSET_MASK
            set_l1("disk", 1, 0)
            with open("disk", "r+b") as file:
                file.seek(79)
                file.write(bytes([number("disk", 79, 1) | 1]))
            oxbow("io", "--recover", how, "-c", "write -q -P 9 5M 512", "-c", "sleep 500", "disk")
            check_equal(number("disk", 79, 1) & 1, 0, "the dirty bit")
            result = oxbow("check", "disk", check=False)
            check_equal(result.returncode, 3, f"exit code after the recovery ({result.stderr})")
            check_in("orphaned L2 table", result.stderr)
            oxbow("check", "-r", "all", f"--salvage=1:{place:#x}", "disk")
            after = guest()
            check_equal(after[:5 << 20] == before[:5 << 20], True, f"what the guest reads, {options}")
            os.remove("disk")


def test_salvage_none_frees_it():
    for how in "leaks", "all":
        make("-o", "cluster_size=4k")
        set_l1("disk", 1, 0)
        check_equal("lost-tables" in salvage("--salvage=none")[0], False, "nothing is looked for")
        check_equal(oxbow("check", "-r", how, "--salvage=none", "disk").returncode, 0, f"freed by -r {how}")
        qemu_img("check", "disk")
    for words in ("--salvage", "--salvage=none"), ("--salvage=None",):
        check_equal(oxbow("check", *words, "disk", check=False).returncode, 1, words)


def test_leaks_that_are_no_table_are_freed():
    make("-o", "cluster_size=4k")
    table = l1("disk", 0) & OFFSET_MASK
    with open("disk", "r+b") as file:
        file.seek(table)
        file.write(bytes(8 * 12))
    check_equal(salvage("-r", "leaks")[0]["leaks-fixed"], 12, "leaks of a table that is still named")
    qemu_img("check", "disk")


def test_too_many_leaks_are_not_searched_and_that_is_told():
    told = ["Note: 66690 leaked clusters are too many to be searched for lost L2 tables"]
    for filled, none in ("full", ()), ("metadata", ("--salvage=none",)):
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size=4k,preallocation={filled}", "disk", "260M")
        with open("disk", "r+b") as file:
            file.seek(40)
            file.seek(int.from_bytes(file.read(8), "big"))
            file.write(bytes(8 * 260 // 2))
        for how in (), ("-r", "leaks", *none):
            report, result = salvage(*how)
            notes = [line for line in result.stderr.splitlines() if line.startswith("Note:")]
            if filled == "full":
                check_equal(notes, told, f"notes of {how}")
            else:  # Holes take no reading.
                check_equal(len(report.get("lost-tables", [])), 0 if how else 130, "lost tables")
        check_equal(report["leaks-fixed"], 66690, "leaks that were freed")
        qemu_img("check", "disk")
        os.remove("disk")


def test_data_files_and_raw_images_have_none():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=data", "disk", "1M")
    qemu_io("-f", "qcow2", "-c", "write -q 0 64k", "disk")
    check_equal(salvage("--salvage")[0]["lost-tables"], [], "with a data file")
    qemu_img("create", "-q", "-f", "raw", "raw", "1M")
    check_equal(oxbow("check", "--salvage", "raw", check=False).returncode, 63, "raw")


run_tests(globals())
