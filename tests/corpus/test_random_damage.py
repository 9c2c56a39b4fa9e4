#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Findings in pairs and triples, at random: no check or repair crashes or hangs, and no repair ends
worse than it began. What the guest and the snapshots see is read by code of its own.

CASES and SEED in the environment: how many, and from which seed on."""
import random
import shutil
from multiprocessing.pool import ThreadPool

import reader
from corpus import *
from corpus import DISK

CASES = int(os.environ.get("CASES", "150"))
SEED = int(os.environ.get("SEED", "1"))
BASES = ("plain", "v2", "snapshots", "bitmaps", "compressed", "narrow")
TASKS = 4
TIMEOUT_SECONDS = 60
MOST_BYTES = 16 << 20


def damages():
    """The recipes that fit each base: those of the plain one fit all."""
    fit = {base: [] for base in BASES}
    for recipe in recipes():
        if recipe.commands or recipe.options or not recipe.corrupt or recipe.base not in fit:
            continue
        for base in BASES if recipe.base == "plain" else (recipe.base,):
            fit[base].append(recipe)
    return fit


def check_status(folder, *options):
    result = oxbow("check", "--output=json", *options, DISK, check=False, cwd=folder,
                   timeout=TIMEOUT_SECONDS)
    if result.returncode not in (0, 1, 2, 3):
        raise Failure(f"exit code {result.returncode}: {result.stderr}")
    return result.returncode


def judge(folder, right_before, truth):
    """What is wrong with what a check and a repair did, or None."""
    check_status(folder)
    check_status(folder, "-r", "all")
    after = check_status(folder)
    # The number of findings says little: a refcount block that is rebuilt shows what none counted.
    lost = reader.lost_sectors(right_before, reader.right_sectors(folder / DISK, *truth))
    if lost:
        return f"{len(lost)} clusters read right before the repair alone, as {sorted(lost)[:4]}"
    if after == 0 and qemu_img("check", DISK, check=False, cwd=folder).returncode != 0:
        return "qemu-img does not call clean what oxbow does"
    return None


def run_case(seed, fit, truths):
    rng = random.Random(seed)
    base = rng.choice(BASES)
    chosen = rng.sample(fit[base], rng.choice((2, 2, 3)))
    folder = tmpdir() / f"case{seed}"
    shutil.copytree(base_folder(base), folder)
    for recipe in chosen:
        try:
            corrupt(folder / DISK, recipe.corrupt)
        except Failure as error:
            # What one damaged the next may look for.
            if "crashed" in str(error):
                raise
    # Where a table was damaged, the next line may write far away.
    if os.path.getsize(folder / DISK) > MOST_BYTES:
        os.truncate(folder / DISK, MOST_BYTES)
    # A table that is not in this base is nowhere: the file was cut at its beginning.
    if (folder / DISK).read_bytes()[:4] != b"QFI\xfb":
        return None
    truth = truths[base]
    try:
        wrong = judge(folder, reader.right_sectors(folder / DISK, *truth), truth)
    except Failure as error:
        wrong = str(error)
    shutil.rmtree(folder)
    if wrong:
        return f"seed {seed}, {base} with {[recipe.name for recipe in chosen]}: {wrong}"
    return None


def test_the_reader_reads_what_qemu_reads():
    for base in BASES:
        truth, _, cluster = reader.contents(base_folder(base) / DISK)
        qemu_img("convert", "-f", "qcow2", "-O", "raw", base_folder(base) / DISK, "flat.raw")
        flat = pathlib.Path("flat.raw").read_bytes()
        for index, pieces in enumerate(truth[""]):
            check_equal(pieces, [flat[index * cluster:(index + 1) * cluster].rstrip(b"\0")],
                        f"{base}, cluster {index}")


def test_damage_at_random_is_never_made_worse():
    fit = damages()
    truths = {base: reader.contents(base_folder(base) / DISK) for base in BASES}
    with ThreadPool(TASKS) as pool:
        failed = [wrong for wrong in pool.imap(lambda seed: run_case(seed, fit, truths),
                                               range(SEED, SEED + CASES)) if wrong]
    for wrong in failed:
        print(f"# {wrong}")
    check_equal(len(failed), 0, f"failed cases of {CASES}")


run_tests(globals())
