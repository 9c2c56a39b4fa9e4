# SPDX-License-Identifier: MIT
"""oxbow and qemu-img or qemu-io doing the same: what both say, made comparable."""
import re
import shutil
import sys as _sys
import pathlib as _pathlib

_sys.path.insert(0, str(_pathlib.Path(__file__).resolve().parent.parent))
from harness import *  # noqa: E402

TIMING = re.compile(r"; (\d\d\.\d\d sec|\d+:\d\d:\d\d\.\d\d) \([\d.]+ \w+/sec and [\d.]+ ops/sec\)")
MACHINE_TIMING = re.compile(r"^(\d+,\d+),\d+:\d\d:\d\d\.\d\d,[\d.]+,[\d.]+$", re.M)
PROGRAM = re.compile(r"^(qemu-img|qemu-io|oxbow): ", re.M)
EMPTY_ARRAY = re.compile(r"\[\s+\]")
COMPRESSED = re.compile(r', "compressed": (true|false)')
HINT = re.compile(r"^Try '.*\n", re.M)


def said(result):
    """Exit code, stdout and stderr without timings, the program's name and a hint's."""
    stdout = MACHINE_TIMING.sub(r"\1,T", TIMING.sub("; T", result.stdout))
    stdout = EMPTY_ARRAY.sub("[]", stdout)
    stderr = HINT.sub("", PROGRAM.sub("", result.stderr)).rstrip("\n")
    return result.returncode, stdout, stderr


def check_same_map(theirs, ours, what):
    """The same of maps as JSON: only QEMU 8.2 and later say what is compressed."""
    if '"compressed"' not in theirs.stdout:
        ours.stdout = COMPRESSED.sub("", ours.stdout)
    check_same(theirs, ours, what)


def check_same(theirs, ours, what):
    for name, expected, actual in zip(("exit code", "stdout", "stderr"), said(theirs), said(ours)):
        check_equal(actual, expected, f"{name} of {what}")


def same_as_qemu_img(*args, **kwargs):
    """Both run where they are, on the same files."""
    theirs = qemu_img(*args, check=False, **kwargs)
    ours = oxbow(*args, check=False, **kwargs)
    check_same(theirs, ours, " ".join(map(str, args)))
    return ours


def in_two_places(*files):
    """Two folders of the test, each with a copy of the files."""
    places = tmpdir() / "qemu", tmpdir() / "oxbow"
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for file in files:
            shutil.copy(file, place)
    return places


def apart_as_qemu_img(*args, files=()):
    """Each in a folder of its own, because they write."""
    theirs_at, ours_at = in_two_places(*files)
    theirs = qemu_img(*args, check=False, cwd=theirs_at)
    ours = oxbow(*args, check=False, cwd=ours_at)
    check_same(theirs, ours, " ".join(map(str, args)))
    return theirs_at, ours_at


def io_as_qemu_io(*commands, options=(), files=(), disk="disk"):
    """The same session, and the same disk after it."""
    theirs_at, ours_at = in_two_places(*files)
    args = list(options)
    for command in commands:
        args += ["-c", command]
    args.append(disk)
    theirs = qemu_io(*args, check=False, cwd=theirs_at)
    ours = oxbow("io", *args, check=False, cwd=ours_at)
    check_same(theirs, ours, f"io {args}")
    if (theirs_at / disk).exists():
        qemu_img("compare", theirs_at / disk, ours_at / disk)
    return ours


def the_verbs():
    """The verbs, as the overview lists them."""
    listed = output(oxbow_path(), "help").split("\nVerbs:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines()]


def documented_verbs():
    """The verbs that have options and a manual page: all but those of which oxbow.1 itself tells."""
    return [verb for verb in the_verbs() if verb not in ("help", "version")]


def help_options(verb):
    """The options that a verb's help lists: for each, all its spellings, without the first dash."""
    lines = output(oxbow_path(), verb, "--help").splitlines()
    options = [frozenset(re.findall(r"(?:^| )-(-?[a-zA-Z0-9][-a-zA-Z0-9]*)", line[:28]))
               for line in lines if line.startswith("  -")]
    check_equal(frozenset(("h", "-help")) in options, True, f"-h in the help of {verb}")
    return options


def poke(file, offset, data):
    with open(file, "r+b") as f:
        f.seek(offset)
        f.write(data)


def refcount_offset(file, cluster):
    """Where the refcount of a cluster is, for 16-bit counts in the first block."""
    with open(file, "rb") as f:
        header = f.read(104)
        f.seek(int.from_bytes(header[48:56], "big"))
        return int.from_bytes(f.read(8), "big") + 2 * cluster


def set_refcount(file, cluster, count):
    poke(file, refcount_offset(file, cluster), count.to_bytes(2, "big"))
