#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Random chains: oxbow's commit, rebase and resize against qemu-img's, and killed at random."""
import pathlib as _pathlib
import random
import shutil
import sys as _sys
import time

_sys.path.insert(0, str(_pathlib.Path(__file__).resolve().parent.parent))
from harness import *  # noqa: E402

ROUNDS = 8
KILLS = 6
OPTIONS = ("cluster_size=64k", "cluster_size=512", "cluster_size=4k,lazy_refcounts=on", "compat=0.10",
           "cluster_size=1M", "cluster_size=32k,refcount_bits=64")


def some_size(rng):
    return rng.randrange(1, 6 << 11) * 512


def scribble(rng, name, fmt, size, zeroes):
    commands = []
    for _ in range(rng.randrange(1, 12)):
        start = rng.randrange(size // 512) * 512
        length = min(rng.choice((512, 4096, 65536, 300 << 10)) * rng.randrange(1, 4), size - start)
        if zeroes and rng.random() < 0.3:
            commands += ["-c", f"write -z {start} {length}"]
        else:
            commands += ["-c", f"write -P {rng.randrange(1, 256)} {start} {length}"]
    qemu_io("-f", fmt, *commands, name)


def make_chain(rng):
    """i0 <- i1 <- ..., the format of each, and files that another chain may begin with."""
    formats = [rng.choice(("raw", "qcow2", "qed"))]
    size = some_size(rng)
    qemu_img("create", "-q", "-f", formats[0], "i0", size)
    scribble(rng, "i0", formats[0], size, formats[0] != "raw")
    for n in range(1, rng.randrange(2, 5)):
        fmt = rng.choice(("qcow2", "qcow2", "qed"))
        options = ("-o", rng.choice(OPTIONS)) if fmt == "qcow2" else ()
        size = some_size(rng)
        qemu_img("create", "-q", "-f", fmt, *options, "-b", f"i{n - 1}", "-F", formats[-1], f"i{n}", size)
        scribble(rng, f"i{n}", fmt, size, True)
        formats.append(fmt)
    qemu_img("create", "-q", "-f", "raw", "other", some_size(rng))
    scribble(rng, "other", "raw", pathlib.Path("other").stat().st_size, False)
    return formats


def bytes_of(path, fmt):
    flat = path.parent / "flat"
    for _ in range(100):  # the kernel keeps the locks of the dead until it is done with their requests
        result = qemu_img("convert", "-f", fmt, "-O", "raw", path, flat, check=False)
        if "lock" not in result.stderr:
            break
        time.sleep(0.1)
    check_equal(result.returncode, 0, f"{path} can be read ({result.stderr})")
    return flat.read_bytes()


def sound(path, fmt, leaks=False):
    if fmt == "raw":
        return
    result = qemu_img("check", "-f", fmt, path, check=False)
    allowed = (0, 3) if leaks or fmt == "qed" else (0,)
    check_equal(result.returncode in allowed, True, f"check of {path}: {result.stdout}")


def some_command(rng, formats):
    """A verb with its arguments, on the chain's last image."""
    last = len(formats) - 1
    which = rng.random()
    if which < 0.4:
        base = rng.randrange(last)
        return ("commit", "-f", formats[last]) + (("-b", f"i{base}") if base < last - 1 else ()) \
            + (("-d",) if rng.random() < 0.3 else ()) + (f"i{last}",)
    if which < 0.9:
        below = rng.randrange(-2, last)
        new = ("-b", "") if below == -2 else ("-b", "other", "-F", "raw") if below == -1 \
            else ("-b", f"i{below}", "-F", formats[below])
        return ("rebase", "-f", formats[last]) + new + (f"i{last}",)
    more = f"+{rng.randrange(1, 4000) * 512}"
    return "resize", "-f", formats[last], f"i{last}", more


def places(formats):
    names = [f"i{n}" for n in range(len(formats))] + ["other"]
    ret = []
    for name in ("qemu", "oxbow"):
        place = tmpdir() / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for file in names:
            shutil.copy(file, place)
        ret.append(place)
    return ret


def test_random_chains_read_as_qemu_img_leaves_them():
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        formats = make_chain(rng)
        theirs_at, ours_at = places(formats)
        for _ in range(3):
            command = some_command(rng, formats)
            what = f"seed {seed}: {' '.join(command)}"
            theirs = qemu_img(*command, check=False, cwd=theirs_at)
            ours = oxbow(*command, check=False, cwd=ours_at)
            check_equal(ours.returncode, 0, f"{what} ({ours.stderr!r})")
            if theirs.returncode != 0:  # a QED base that it cannot lengthen
                check_in("not supported", theirs.stderr, what)
                break
            for n, fmt in enumerate(formats):
                check_equal(bytes_of(ours_at / f"i{n}", fmt) == bytes_of(theirs_at / f"i{n}", fmt), True,
                            f"bytes of i{n} after {what}")
                sound(ours_at / f"i{n}", fmt)


def kill_at_random(rng, command, place):
    process = subprocess.Popen([oxbow_path(), *command], cwd=place, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        process.wait(rng.random() * 0.06)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def test_killed_at_random_the_chain_reads_the_same_and_the_work_goes_on():
    for seed in range(KILLS):
        rng = random.Random(1000 + seed)
        formats = make_chain(rng)
        last = len(formats) - 1
        top = f"i{last}"
        place = places(formats)[1]
        before = bytes_of(place / top, formats[last])
        command = some_command(rng, formats)
        while command[0] == "resize":
            command = some_command(rng, formats)
        what = f"seed {seed}: {' '.join(command)}"
        for _ in range(4):
            kill_at_random(rng, command, place)
            check_equal(bytes_of(place / top, formats[last]) == before, True, f"bytes after a kill in {what}")
        oxbow(*command, cwd=place)
        check_equal(bytes_of(place / top, formats[last]) == before, True, f"bytes at the end of {what}")
        for n, fmt in enumerate(formats):
            sound(place / f"i{n}", fmt, leaks=True)


run_tests(globals())
