#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check --dry-run and --undo, and oxbow undo."""
from peers import *

import hashlib
import pathlib
import random


def digest(file):
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def make_damaged(seed, *options):
    """An image with a snapshot, whose tables and counts are damaged at random."""
    rng = random.Random(seed)
    qemu_img("create", "-q", "-f", "qcow2", *options, "disk", "4M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 3 0 1M", "disk")
    qemu_img("snapshot", "-c", "before", "disk")
    qemu_io("-f", "qcow2", "-c", "write -q -P 4 100k 700k", "disk")
    data = bytearray(open("disk", "rb").read())
    cluster = 1 << int.from_bytes(data[20:24], "big")
    table = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[table:table + 8], "big")
    l1 = int.from_bytes(data[40:48], "big")
    l2 = int.from_bytes(data[l1:l1 + 8], "big") & 0xfffffffffffe00
    for _ in range(rng.randrange(1, 6)):
        where = rng.choice([block, l2])
        at = where + 8 * rng.randrange(min(cluster, 256) // 8) + rng.randrange(8)
        data[at] ^= 1 << rng.randrange(8)
    open("disk", "wb").write(data)


def json_of(*args):
    result = oxbow("check", "--output=json", *args, check=False)
    return json.loads(result.stdout), result


def test_a_dry_run_says_what_the_repair_then_does():
    for seed in range(12):
        for how in ("leaks", "all"):
            make_damaged(seed, "-o", f"cluster_size={random.Random(seed).choice([512, 4096, 65536])}")
            before = digest("disk")
            os.chmod("disk", 0o444)
            dry, dry_run = json_of("-r", how, "--dry-run", "disk")
            os.chmod("disk", 0o644)
            check_equal(digest("disk"), before, "the image after a dry run")
            check_equal(dry.pop("dry-run"), True, "dry-run in the JSON")
            real, real_run = json_of("-r", how, "disk")
            for finding in dry.get("findings", []):
                finding["message"] = finding["message"].replace("Would repair", "Repairing")
            check_equal(dry, real, f"the plan and the repair, seed {seed}")
            check_equal(dry_run.returncode, real_run.returncode, "exit code")
            os.remove("disk")


def test_a_dry_run_of_a_sound_image_plans_nothing():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "4M")
    check_in("Nothing would be repaired.",
             oxbow("check", "-r", "all", "--dry-run", "disk").stdout)


def test_an_undo_gives_the_damaged_image_back():
    for seed in range(12):
        make_damaged(seed)
        before = digest("disk")
        oxbow("check", "-r", "all", "--undo", "saved", "disk", check=False)
        after = digest("disk")
        oxbow("undo", "saved", "disk")
        check_equal(digest("disk"), before, f"the image after the undo, seed {seed}")
        oxbow("check", "-r", "all", "disk", check=False)
        check_equal(digest("disk"), after, "the same repair without an undo file")
        os.remove("saved")


def damaged_and_repaired():
    make_damaged(1)
    set_refcount("disk", 2, 0)
    oxbow("check", "-r", "all", "--undo", "saved", "disk", check=False)


def test_an_image_that_was_written_since_is_not_undone_without_force():
    damaged_and_repaired()
    qemu_io("-f", "qcow2", "-c", "write -q -P 9 3M 64k", "disk")
    before = digest("disk")
    result = oxbow("undo", "saved", "disk", check=False)
    check_equal(result.returncode, 1, "exit code")
    check_in("not as the repair left it", result.stderr)
    check_equal(digest("disk"), before, "the image")
    check_in("were not as the repair left them",
             oxbow("undo", "--force", "saved", "disk").stdout)


def test_another_image_and_what_is_no_undo_file_are_refused():
    damaged_and_repaired()
    qemu_img("create", "-q", "-f", "qcow2", "other", "8M")
    for undo, image, why in (("saved", "other", "not as the repair left it"),
                             ("other", "disk", "not an undo file"),
                             ("missing", "disk", "Could not open"),
                             ("saved", "missing", "Could not open")):
        result = oxbow("undo", undo, image, check=False)
        check_equal(result.returncode, 1, "exit code")
        check_in(why, result.stderr)


def test_an_undo_file_that_exists_is_left_alone():
    make_damaged(3)
    before = digest("disk")
    open("saved", "w").write("precious")
    result = oxbow("check", "-r", "all", "--undo", "saved", "disk", check=False)
    check_equal(result.returncode, 1, "exit code")
    check_in("exists already", result.stderr)
    check_equal(open("saved").read(), "precious", "the file")
    check_equal(digest("disk"), before, "the image")


def test_a_header_that_is_gone_is_restored_from_what_is_known_of_it():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "64M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 5 1M 1M", "disk")
    good = open("disk", "rb").read()
    word = lambda at, size: int.from_bytes(good[at:at + size], "big")
    fields = (f"size={word(24, 8)},l1_size={word(36, 4)},l1_table_offset={word(40, 8)},"
              f"refcount_table_offset={word(48, 8)},refcount_table_clusters={word(56, 4)}")
    poke("disk", 0, bytes(65536))
    before = digest("disk")
    check_equal(oxbow("check", "disk", check=False).returncode, 63, "exit code without a header")
    oxbow("check", "--header", fields, "disk")
    oxbow("check", "-r", "all", "--dry-run", "--header", fields, "disk")
    result = oxbow("check", "-r", "all", "--header", fields, "disk", check=False)
    check_equal(result.returncode, 1, "exit code without an undo file")
    check_equal(digest("disk"), before, "the image so far")
    oxbow("check", "-r", "all", "--undo", "saved", "--header", fields, "disk")
    qemu_img("check", "disk")
    qemu_io("-f", "qcow2", "-c", "read -q -P 5 1M 1M", "-c", "read -q -P 0 0 1M", "disk")
    oxbow("undo", "saved", "disk")
    check_equal(digest("disk"), before, "the image after the undo")


def test_where_no_header_is_left_the_rest_is_as_in_a_new_image():
    for options, fields in (((), "size=67108864"),
                            (("-o", "cluster_size=4k"), "size=67108864,cluster_bits=12"),
                            (("-o", "compat=0.10"), "size=67108864,version=2")):
        qemu_img("create", "-q", "-f", "qcow2", *options, "disk", "64M")
        qemu_io("-f", "qcow2", "-c", "write -q -P 5 1M 1M", "disk")
        poke("disk", 0, bytes(512))
        before = digest("disk")
        check_in("No errors", oxbow("check", "--header", fields, "disk").stdout)
        check_equal(digest("disk"), before, "the image after a check")
        oxbow("check", "-r", "all", "--undo", "saved", "--header", fields, "disk")
        qemu_img("check", "disk")
        qemu_io("-f", "qcow2", "-c", "read -q -P 5 1M 1M", "-c", "read -q -P 0 0 1M", "disk")
        oxbow("undo", "saved", "disk")
        check_equal(digest("disk"), before, "the image after the undo")
        os.remove("saved")


def test_header_fields_that_make_no_sense_are_refused():
    make_damaged(5)
    before = digest("disk")
    for fields in ("", "size", "colour=3", "size=-1", "size=5x", "version=4", "cluster_bits=99",
                   "refcount_order=4294967296", "size=1,,l1_size=1", "header_length=3"):
        result = oxbow("check", "-r", "all", "--undo", "saved", "--header", fields, "disk",
                       check=False)
        check_equal(result.returncode, 1, f"exit code with {fields!r}")
        os.remove("saved")
        check_equal(digest("disk"), before, "the image")


def test_options_without_a_repair_are_refused():
    make_damaged(4)
    for options in (("--dry-run",), ("--undo", "saved"),
                    ("-r", "all", "--dry-run", "--undo", "saved")):
        check_equal(oxbow("check", *options, "disk", check=False).returncode, 1, f"{options}")
    check_equal(os.path.exists("saved"), False, "an undo file was made")


run_tests(globals())
