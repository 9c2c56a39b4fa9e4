#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check against qemu-img check: texts, JSON and exit codes."""
from peers import *


def checked_alike(*args):
    same_as_qemu_img("check", *args)
    theirs = qemu_img("check", "--output=json", *args, check=False)
    ours = oxbow("check", "--output=json", *args, check=False)
    if "findings" in ours.stdout:
        # What JSON says more than theirs, in the place before the last brace.
        plain = json.loads(ours.stdout)
        check_equal(bool(plain.pop("findings")), True, "findings are not empty")
        check_equal(plain, json.loads(theirs.stdout), "the rest of the JSON")
        check_equal(list(plain), list(json.loads(theirs.stdout)), "the order of the JSON")
        ours.stdout = theirs.stdout
    check_same(theirs, ours, " ".join(map(str, args)))
    return ours


def make_disk(*options):
    qemu_img("create", "-q", "-f", "qcow2", *options, "disk", "10M")
    qemu_io("-f", "qcow2", "-c", "write -q 0 1M", "-c", "write -q 5M 64k", "disk")


def test_a_clean_image_is_called_clean():
    for options in ((), ("-o", "compat=0.10"), ("-o", "cluster_size=4k"),
                    ("-o", "refcount_bits=1"), ("-o", "lazy_refcounts=on")):
        make_disk(*options)
        checked_alike("disk")
        checked_alike("-f", "qcow2", "disk")
        checked_alike("-q", "disk")


def test_an_image_without_data_has_no_line_of_percentages():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "10M")
    checked_alike("disk")
    qemu_img("create", "-q", "-f", "qcow2", "disk", "0")
    checked_alike("disk")


def test_fragmented_and_compressed_clusters_are_counted():
    make_disk()
    qemu_img("convert", "-c", "-O", "qcow2", "disk", "packed")
    qemu_io("-f", "qcow2", "-c", "write -q 0 64k", "-c", "write -q 7M 64k", "-c",
            "write -q 512k 64k", "packed")
    checked_alike("packed")


def test_a_leak_has_exit_code_3():
    make_disk()
    size = os.path.getsize("disk")
    os.truncate("disk", size + 65536)
    set_refcount("disk", size // 65536, 1)
    check_equal(checked_alike("disk").returncode, 3, "exit code")
    checked_alike("-q", "disk")


def test_many_neighbours_that_leak_are_told_in_one_line_and_counted_as_by_qemu_img():
    make_disk("-o", "cluster_size=4k")
    disk = bytearray(pathlib.Path("disk").read_bytes())
    l1_offset = int.from_bytes(disk[40:48], "big")
    disk[l1_offset:l1_offset + 8] = bytes(8)
    pathlib.Path("disk").write_bytes(disk)
    theirs = qemu_img("check", "disk", check=False)
    ours = oxbow("check", "--salvage=none", "disk", check=False)
    check_equal((ours.returncode, ours.stdout), (theirs.returncode, theirs.stdout), "the summary")
    lines = ours.stderr.splitlines()
    check_equal(len(lines) < 5 and len(theirs.stderr.splitlines()) > 200, True, "fewer lines")
    check_in("Leaked clusters ", lines[0])
    found = json.loads(oxbow("check", "--salvage=none", "--output=json", "disk", check=False).stdout)
    check_equal(sum(finding["host-length"] for finding in found["findings"]),
                found["leaks"] * 4096, "bytes of the runs")
    oxbow("check", "-r", "leaks", "--salvage=none", "disk")
    qemu_img("check", "disk")


def test_a_corruption_has_exit_code_2():
    make_disk()
    set_refcount("disk", 5, 0)
    check_equal(checked_alike("disk").returncode, 2, "exit code")


def test_a_repaired_leak_is_told_and_has_exit_code_0():
    for repair in ("leaks", "all"):
        make_disk()
        size = os.path.getsize("disk")
        os.truncate("disk", size + 65536)
        set_refcount("disk", size // 65536, 1)
        place = in_two_places("disk")[1]
        ours = oxbow("check", "-r", repair, "disk", cwd=place)
        check_in("The following inconsistencies were found and repaired:\n\n"
                 "    1 leaked clusters\n    0 corruptions\n\n"
                 "Double checking the fixed image now...\nNo errors were found on the image.\n",
                 ours.stdout)
        place = in_two_places("disk")[1]
        ours = json.loads(oxbow("check", "-r", repair, "--output=json", "disk", cwd=place).stdout)
        check_equal((ours["leaks-fixed"], "leaks" in ours, ours["check-errors"]), (1, False, 0))
        qemu_img("check", place / "disk")


def test_what_is_found_goes_to_stderr_and_the_rest_to_stdout():
    make_disk()
    set_refcount("disk", 5, 0)
    result = oxbow("check", "--output=json", "disk", check=False)
    check_in("ERROR cluster 5 refcount=0 reference=1", result.stderr)
    check_equal(json.loads(result.stdout)["corruptions"], 2, "corruptions")


def test_raw_has_no_check_and_exit_code_63():
    pathlib.Path("disk").write_bytes(bytes(4096))
    check_equal(checked_alike("disk").returncode, 63, "exit code")
    checked_alike("-f", "raw", "disk")


def test_what_cannot_be_checked_has_exit_code_1():
    pathlib.Path("disk").write_bytes(bytes(4096))
    checked_alike("missing")
    check_equal(checked_alike("-f", "qcow2", "disk").returncode, 1, "exit code")


def test_a_wrong_command_line_is_refused_in_the_known_words():
    for args in ((), ("-r", "foo", "a"), ("-T", "foo", "a"), ("a", "b"), ("--foo", "a"),
                 ("--output=xml", "a")):
        same_as_qemu_img("check", *args)


def test_progress_for_programs_is_an_object_a_line():
    make_disk()
    for flags in ((), ("--output=json",), ("-r", "all")):
        result = oxbow("check", "--progress=json", *flags, "disk")
        lines = [json.loads(line) for line in result.stderr.splitlines()]
        check_equal(set(lines[-1]), {"done", "total", "unit", "per_second", "seconds_left"}, "keys")
        check_equal(lines[-1]["done"], lines[-1]["total"], "the last line's done")
        check_equal({line["unit"] for line in lines}, {"tables"}, "unit")
    for flags in (("--progress=xml",), ("-p", "--progress=json")):
        check_equal(oxbow("check", *flags, "disk", check=False).returncode, 1, "exit code")


def test_findings_come_before_the_summary_in_one_stream():
    make_disk()
    disk = bytearray(pathlib.Path("disk").read_bytes())
    l1_offset = int.from_bytes(disk[40:48], "big")
    disk[l1_offset:l1_offset + 8] = bytes(8)
    pathlib.Path("disk").write_bytes(disk)
    pathlib.Path("log").write_bytes(b"")
    with open("log", "ab") as log:
        subprocess.run([oxbow_path(), "check", "disk"], stdout=log, stderr=log, check=False)
    lines = pathlib.Path("log").read_text().splitlines()
    check_in("Leaked cluster", lines[0])
    check_in("leaked clusters were found", "\n".join(lines[-8:]))


def test_progress_is_shown_when_asked_for():
    make_disk()
    check_in("(100.00/100%)\r\n", oxbow("check", "-p", "disk", text=False).stdout.decode())
    result = oxbow("check", "-p", "--output=json", "disk")
    check_equal(json.loads(result.stdout)["check-errors"], 0, "check-errors")


run_tests(globals())
