#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check of QED images, against qemu-img check: texts, JSON, exit codes, and what is refused."""
from peers import *

CLUSTER = 4096


def make_disk(*options, size="64M"):
    options = options or ("cluster_size=4k,table_size=4",)
    qemu_img("create", "-q", "-f", "qed", "-o", *options, "disk", size)
    qemu_io("-f", "qed", "-c", "write -q -P 1 0 256k", "-c", "write -q -P 2 40M 64k",
            "-c", "write -q -z 1M 64k", "-c", "write -q -P 3 20k 8k", "disk")


def corrupt(*lines):
    run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "disk",
        input="".join(line + "\n" for line in lines))


def is_marked():
    return bool(pathlib.Path("disk").read_bytes()[16] & 2)


def same_summary(*args):
    """Each leak has a line of ours, on the standard error."""
    theirs = qemu_img("check", *args, "disk", check=False)
    ours = oxbow("check", *args, "disk", check=False)
    check_equal((ours.returncode, ours.stdout), (theirs.returncode, theirs.stdout), "summary")
    theirs = json.loads(qemu_img("check", "--output=json", *args, "disk", check=False).stdout)
    found = json.loads(oxbow("check", "--output=json", *args, "disk", check=False).stdout)
    found.pop("findings", None)
    check_equal(found, theirs, "JSON")
    return ours


def test_a_sound_image_is_called_clean():
    for options in ("cluster_size=4k,table_size=2", "cluster_size=4k,table_size=16",
                    "cluster_size=64k", "cluster_size=1M,table_size=2"):
        make_disk(options)
        check_equal(same_summary().returncode, 0, "exit code")
        same_summary("-f", "qed")
        check_equal(same_as_qemu_img("check", "-q", "disk").returncode, 0, "exit code")


def test_an_empty_image_is_called_clean():
    for size in ("0", "64M"):
        qemu_img("create", "-q", "-f", "qed", "disk", size)
        check_equal(same_summary().returncode, 0, "exit code")


def test_leaks_are_counted_as_by_qemu_img_and_have_exit_code_3():
    for options in ("cluster_size=4k,table_size=4", "cluster_size=64k"):
        make_disk(options)
        corrupt("l2@0x1000 = 0", "l2@40M = 1")
        check_equal(same_summary().returncode, 3, "exit code")
        check_equal(same_summary("-f", "qed").returncode, 3, "exit code")


def make_leaks():
    """In the middle, one of them of two clusters, and at the end."""
    make_disk("cluster_size=64k")
    corrupt("l2@0x10000 = 0", "l2@0x20000 = 0", "l2@40M = 0", "header.features |= 2")


def space():
    return os.stat("disk").st_blocks * 512


def test_leaks_are_given_back_and_the_image_is_marked_clean():
    for repair in ("leaks", "all"):
        make_leaks()
        length, taken = os.path.getsize("disk"), space()
        check_equal(oxbow("check", "disk", check=False).returncode, 3, "exit code before")
        result = oxbow("check", "-r", repair, "disk")
        check_in("Repairing cluster ", result.stderr)
        check_in("\n    3 leaked clusters\n", result.stdout)
        check_equal(is_marked(), False, "NEED_CHECK")
        check_equal(length - os.path.getsize("disk"), 64 << 10, "what is cut off")
        check_equal(taken - space(), 3 * (64 << 10), "what is given back")
        qemu_io("-f", "qed", "-c", "read -q -P 1 0 20k", "-c", "read -q -P 0 64k 128k",
                "-c", "read -q -P 1 192k 64k", "-c", "read -q -P 0 40M 64k", "disk")
        # To QEMU the holes are what they were: leaks, and nothing worse.
        theirs = json.loads(qemu_img("check", "--output=json", "disk", check=False).stdout)
        check_equal((theirs["leaks"], theirs.get("corruptions")), (2, None), "qemu-img")


def test_what_was_given_back_is_told_once_and_is_no_leak():
    make_leaks()
    oxbow("check", "-r", "leaks", "disk")
    before = pathlib.Path("disk").read_bytes()
    for args in ((), ("-r", "leaks"), ("-r", "all"), ("-r", "leaks", "--dry-run")):
        result = oxbow("check", *args, "disk")
        check_equal(result.stderr,
                    "Note: clusters that are named by nothing and take no space: 2\n", "stderr")
        check_in("No errors were found on the image.\n", result.stdout)
    check_equal(json.loads(oxbow("check", "--output=json", "disk").stdout).get("leaks"), None, "JSON")
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "the file is as before")


def test_leaks_that_may_be_a_lost_tables_stay_until_they_are_given_up():
    make_disk()
    corrupt("l1[0] = 0")
    before = pathlib.Path("disk").read_bytes()
    for repair in ("leaks", "all"):
        result = oxbow("check", "-r", repair, "disk", check=False)
        check_equal(result.returncode, 3, "exit code")
        check_in(" is named by nothing and looks like an L2 table\n", result.stderr)
        check_in("--salvage=none", result.stdout + result.stderr)
        check_equal(pathlib.Path("disk").read_bytes() == before, True, "the file is as before")
    taken = space()
    oxbow("check", "-r", "leaks", "--salvage=none", "disk")
    check_equal(space() < taken, True, "space is given back")
    qemu_io("-f", "qed", "-c", "read -q -P 0 0 16M", "-c", "read -q -P 2 40M 64k", "disk")


def test_a_corruption_has_exit_code_2_and_its_repair_0_or_3():
    make_disk()
    corrupt("l2@0x3000 += 512", "header.features |= 2")
    check_equal(oxbow("check", "disk", check=False).returncode, 2, "exit code")
    before = pathlib.Path("disk").read_bytes()
    result = oxbow("check", "-r", "leaks", "disk", check=False)
    check_equal((result.returncode, pathlib.Path("disk").read_bytes() == before), (2, True),
                "-r leaks")
    check_in("guest offset 0x3000 length 0x1000 is in doubt",
             oxbow("check", "-r", "all", "disk").stderr)
    check_equal(is_marked(), False, "NEED_CHECK")
    qemu_img("check", "disk")
    qemu_io("-f", "qed", "-c", "read -q -P 1 0 20k", "disk")


def test_what_is_of_qcow2_alone_is_refused_and_nothing_is_written():
    make_disk()
    before = pathlib.Path("disk").read_bytes()
    for args, message in ((("--salvage",), "Tables can be salvaged in qcow2 images alone"),
                          (("--data",), "has no compressed clusters"),
                          (("--header", "size=1M"), "Header fields can be stated for qcow2 images alone"),
                          (("-r", "all", "--undo", "undo", "--header", "size=1M"),
                           "Header fields can be stated for qcow2 images alone")):
        for form in ((), ("-f", "qed")):
            expect_failure(oxbow_path(), "check", *args, *form, "disk", message=message)
            pathlib.Path("undo").unlink(missing_ok=True)
            check_equal(pathlib.Path("disk").read_bytes() == before, True, "the file is as before")


def test_a_format_that_is_stated_is_the_one_that_is_checked():
    make_disk()
    expect_failure(oxbow_path(), "check", "-f", "qcow2", "disk", message="not in qcow2 format")
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    expect_failure(oxbow_path(), "check", "-f", "qed", "disk", message="not in QED format")
    check_equal(oxbow("check", "-f", "raw", "disk", check=False).returncode, 63, "exit code")


def test_a_dry_run_says_what_the_repair_then_does():
    for damages in (("l2@0x3000 = l2@0", "l2@0x4000 = end", "l1[1] = l1[0]"),
                    ("l2@0x3000 = l2@0", "l2@0x1000 = 0"),
                    ("l2@0x1000 = 0", f"l2@{(40 << 20) + (60 << 10)} = 0")):
        make_disk()
        corrupt(*damages)
        before = pathlib.Path("disk").read_bytes()
        taken = space()
        would = oxbow("check", "-r", "all", "--dry-run", "disk", check=False)
        check_equal(pathlib.Path("disk").read_bytes() == before, True, "the file is as before")
        check_equal(space(), taken, "the space that it takes")
        does = oxbow("check", "-r", "all", "disk", check=False)
        check_equal(would.stderr.replace("Would repair", "Repairing"), does.stderr, "what is said")
        check_equal(would.returncode, does.returncode, "exit code")


def test_an_undo_file_puts_everything_back():
    make_disk()
    corrupt("l2@0x3000 = l2@0", "l2@0x4000 = end", "l1[1] = l1[0]", "header.features |= 2")
    before = pathlib.Path("disk").read_bytes()
    oxbow("check", "-r", "all", "--undo", "undo", "disk", check=False)
    check_equal(pathlib.Path("disk").read_bytes() == before, False, "something was repaired")
    oxbow("undo", "undo", "disk")
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "all is back")


def test_an_undo_file_has_the_bytes_of_what_was_given_back():
    for repair in ("leaks", "all"):
        make_leaks()
        before = pathlib.Path("disk").read_bytes()
        taken = space()
        result = oxbow("check", "-r", repair, "--undo", "undo", "disk")
        check_in("\n    3 leaked clusters\n", result.stdout)
        # The file keeps its length: what it grew by since could not be told from what was cut off.
        check_equal(os.path.getsize("disk"), len(before), "the length")
        check_equal(taken - space(), 3 * (64 << 10), "what is given back")
        oxbow("undo", "undo", "disk")
        check_equal(pathlib.Path("disk").read_bytes() == before, True, "all is back")
        os.remove("undo")


def test_an_undo_file_holds_the_length_of_a_file_that_grows():
    # Cut within a cluster that is in use: alone, and where entries are mended first.
    for cut, left in ((512, 1), (4608, 2)):
        qemu_img("create", "-q", "-f", "qed", "-o", "cluster_size=4k,table_size=2", "disk", "6M")
        qemu_io("-f", "qed", "-c", "write -q -P 1 0 4k", "-c", "write -q -P 2 4k 28k", "disk")
        with open("disk", "r+b") as file:
            file.truncate(os.path.getsize("disk") - cut)
        before = pathlib.Path("disk").read_bytes()
        result = oxbow("check", "-r", "all", "--undo", "undo", "disk")
        check_equal(result.stderr.count("Repairing"), left, "what is repaired")
        check_equal(os.path.getsize("disk") % 4096, 0, "the length in clusters")
        oxbow("undo", "undo", "disk")
        check_equal(pathlib.Path("disk").read_bytes() == before, True, "all is back")
        os.remove("undo")


def test_a_chain_that_is_not_there_does_not_matter():
    qemu_img("create", "-q", "-f", "raw", "base", "1M")
    qemu_img("create", "-q", "-f", "qed", "-F", "raw", "-b", "base", "disk")
    check_equal(oxbow("check", "disk").stderr, "", "stderr")
    os.unlink("base")
    check_in("backing file 'base' is not there", oxbow("check", "disk").stderr)


def test_progress_ends_at_the_total():
    make_disk()
    lines = oxbow("check", "--progress=json", "disk").stderr.splitlines()
    last = json.loads(lines[-1])
    check_equal((last["done"], last["total"] > 0), (last["total"], True), "progress")


def test_a_file_of_terabytes_that_nothing_names_is_told_in_a_line():
    make_disk()
    length = os.path.getsize("disk")
    clusters = (2 << 40) // CLUSTER
    in_use = length // CLUSTER
    os.truncate("disk", clusters * CLUSTER)
    result = oxbow("check", "disk")
    check_equal(result.stderr, "Note: clusters that are named by nothing and take no space: "
                f"{clusters - in_use}\n", "what is said")
    with open("disk", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    result = oxbow("check", "disk", check=False)
    check_equal(result.returncode, 3, "exit code")
    check_in(f"Leaked cluster {clusters - 1} named by nothing\n", result.stderr)
    oxbow("check", "-r", "leaks", "disk")
    check_equal(os.path.getsize("disk"), length, "the length")


def test_both_engines_repair_alike():
    for damage in ("l2@0x3000 = l2@0", "l1[1] = l1[0]"):
        images = []
        for engine in ("uring", "threads"):
            make_disk()
            corrupt(damage)
            oxbow("check", "-r", "all", "-T", "none", "disk", check=False,
                  env=dict(os.environ, OXBOW_IO=engine))
            images.append(pathlib.Path("disk").read_bytes())
        check_equal(images[0] == images[1], True, "the images")


run_tests(globals())
