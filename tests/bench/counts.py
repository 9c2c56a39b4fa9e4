#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Counts what a state that outlives the process (D10) costs: instructions a request, host writes, syncs.

    ./dev bench counts [--requests N] [KIND...]

tests/bench/counted.c works on an image without a state and with one, N and 2 N requests each, under
valgrind's callgrind; the difference is what N requests take. The threads engine is used, as io_uring and
valgrind do not go together. How often a thread sleeps and wakes is a matter of time, so that is left out:
counted are the functions of the library, but for the reactor, the pool, what asks them, and the search for
requests in the way, and those by which the C library copies, clears, compares, takes and frees memory. Host writes and syncs are the library's own count.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

import harness

KINDS = {
    "qcow2": ("qcow2", ()),
    "lazy": ("qcow2", ("-o", "lazy_refcounts=on")),
    "qed": ("qed", ()),
}
LOADS = ("alloc", "write", "read", "trim")  # of trim, no more than 4096 clusters can be had
DEPTHS = (1, 32)


# What depends on when a request completes, and with how many others.
ENGINE = re.compile(r"/rt/(reactor|threads|pool)\.c$")
LOOPS = ("ox_queue_reap", "ox_context_poll", "ox_context_wait", "ox_co_self", "is_blocked")
MEMORY = re.compile(r"^(__)?(mem(cpy|move|set|cmp)|malloc|calloc|realloc|free|_int_(malloc|free|realloc))")


def is_counted(file, function):
    if "/src/" not in file or "/tests/" in file or ENGINE.search(file):
        return MEMORY.search(function)
    return function not in LOOPS


def instructions(profile):
    """Of the functions that count, themselves; as callgrind writes it, names stand where they are first met."""
    names = {}
    file = ""
    counts = called = False
    total = 0
    for line in profile.splitlines():
        named = re.match(r"(fl|fn|fi|fe|cfi|cfl|cfn)=\((\d+)\)(?: (.*))?", line)
        if named:
            what, number, name = named.groups()
            key = ("function" if what in ("fn", "cfn") else "file", number)
            if name:
                names[key] = name
            if what == "fl":
                file = names[key]
            elif what == "fn":
                counts = is_counted(file, names[key])
        elif line.startswith("calls="):
            called = True
        elif re.match(r"[\d+*-]", line):
            if counts and not called:
                total += int(line.split()[1])
            called = False
    return total


def count(folder, kind, load, depth, requests, state):
    """Instructions, host writes, syncs."""
    fmt, options = KINDS[kind]
    image = folder / "disk"
    image.unlink(missing_ok=True)
    harness.oxbow("create", "-q", "-f", fmt, *options, image, "16G")
    program = pathlib.Path(harness.oxbow_path()).parent / "tests" / "bench" / "counted"
    out = folder / "out"
    said = subprocess.run(["valgrind", "-q", "--tool=callgrind", "--separate-threads=yes",
                           f"--callgrind-out-file={out}", program, image, fmt, load, str(depth),
                           str(requests), state], env=dict(os.environ, OXBOW_IO="threads"), check=True,
                          stdout=subprocess.PIPE, text=True, timeout=300).stdout
    counted = instructions((folder / "out-01").read_text())
    for path in folder.glob("out*"):
        path.unlink()
    writes, syncs = said.split()
    return counted, int(writes), int(syncs)


def compare(folder, kind, load, depth, requests):
    """Instructions, host writes and syncs a request: without a state, with one."""
    for state in ("none", "state"):
        once = count(folder, kind, load, depth, requests, state)
        twice = count(folder, kind, load, depth, 2 * requests, state)
        yield [(b - a) / requests for a, b in zip(once, twice)]


def print_row(kind, load, depth, without, held):
    more = 100 * (held[0] / without[0] - 1)
    print(f"| {kind} | {load} | {depth} | {without[0]:,.0f} | {held[0]:,.0f} | {more:+.1f} % | "
          f"{1000 * without[1]:.0f} / {1000 * held[1]:.0f} | {1000 * without[2]:.0f} / {1000 * held[2]:.0f} |",
          flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2048)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    options = parser.parse_args()
    print("| kind | load | depth | without | with a state | more | writes for 1000 | syncs for 1000 |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="oxbow-counts-") as folder:
        for kind in options.kinds or KINDS:
            for load in LOADS:
                for depth in DEPTHS:
                    print_row(kind, load, depth,
                              *compare(pathlib.Path(folder), kind, load, depth, options.requests))


if __name__ == "__main__":
    main()
