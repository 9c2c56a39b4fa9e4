#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs every test program of a build and counts the single tests in them.

    tools/runtests.py [--build DIR] [--jobs N] [--slower N] [--valgrind] [NAME...]

Test programs are what meson knows as tests, and the Python files tests/**/test_*.py and
tools/**/test_*.py. Each says `ok NAME` or `not ok NAME` a test (TAP, which cmocka speaks and
tests/harness.py resembles). A program that is killed, takes too long, exits with another code than
its lines explain, or runs no test at all, is a failed test of its own. NAME selects programs by a
part of their name; NAME:TEST selects, for Python files, tests in them.

The replays of the fuzz corpora run a second time under valgrind; with --valgrind, every compiled
test does, and nothing else runs. Those that choose io_uring do not, as valgrind does not follow it, nor
those that ask for their own process's name.

A program may take 600 seconds, and those that take longest start first, so that none is left to run
alone at the end. What differs is stated beside the test: with `timeout` and `priority` in a
meson.build, and in a Python file by a line

    # runtests: timeout 900, priority 60

(one of the two, or both; the priority is about the seconds that it takes, 0 if not stated). --slower N
gives all N times as long, for sanitizers.

The output of each goes to DIR/test-logs; that of one that failed is shown. The last line is
`N passed, N failed`; the exit code is 1 if one failed. A skip ("ok # SKIP") is reported before it.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOWN_LINES = 120
SLOWEST_SHOWN = 10
TIMEOUT_SECONDS = 600
# What a Python test file states of itself.
STATED = re.compile(r"^# runtests: (\w+ \d+(?:, \w+ \d+)*)$", re.MULTILINE)
NOT_UNDER_VALGRIND = ("io", "file_lock")
VALGRIND = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full",
            "--errors-for-leak-kinds=definite"]


class Program:
    """One test program and, once it ran, what came of it."""

    def __init__(self, name, argv, env=None, timeout=0, priority=0):
        self.name = name
        self.argv = argv
        self.env = env or {}
        # A shorter limit than all have would only fail on slow machines.
        self.timeout = max(timeout, TIMEOUT_SECONDS)
        self.priority = priority
        self.passed = []
        self.failed = []
        self.skipped = []
        self.remarks = []
        self.log = None
        self.seconds = 0.0


def parse_arguments(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build", type=pathlib.Path)
    # Most programs wait for a disk, a process or a clock for half of their time.
    parser.add_argument("--jobs", default=(os.cpu_count() or 1) + 1, type=int)
    parser.add_argument("--slower", default=1.0, type=float,
                        help="how many times as long as usual a program may take")
    parser.add_argument("--valgrind", action="store_true",
                        help="only compiled tests, and those under valgrind")
    parser.add_argument("--no-valgrind", action="store_true",
                        help="nothing under valgrind (which sanitizers do not bear)")
    parser.add_argument("--tree", default=ROOT, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    return parser.parse_args(argv)


def compiled_programs(build):
    """(what meson knows as tests of this build, what of it valgrind is to look at)."""
    if not (build / "meson-info").is_dir():
        return [], []
    listing = subprocess.run(["meson", "introspect", "--tests", str(build)], check=True,
                             stdout=subprocess.PIPE).stdout
    plain, checked = [], []
    for test in json.loads(listing):
        name = test["name"].replace(" ", "-")
        stated = (test["timeout"], test["priority"])
        plain.append(Program(name, test["cmd"], test["env"], *stated))
        if name.endswith("-uring") or name in NOT_UNDER_VALGRIND:
            continue
        if not test["cmd"][0].endswith((".py", ".sh")):
            checked.append(Program("valgrind-" + name, VALGRIND + test["cmd"],
                                   dict(test["env"], OXBOW_IO="threads"), *stated))
    return plain, checked


def all_programs(options):
    """Every program that could run, before names select; what takes longest first."""
    plain, checked = compiled_programs(options.build)
    if options.valgrind:
        return checked
    python = python_programs(options.tree)
    scripts = {program.argv[1] for program in python}
    if options.no_valgrind:
        checked = []
    programs = python + [program for program in plain if scripts.isdisjoint(program.argv)] \
        + [program for program in checked if program.name.startswith("valgrind-fuzz")]
    return sorted(programs, key=lambda program: -program.priority)


def python_programs(tree):
    found = sorted(path for folder in ("tests", "tools") for path in (tree / folder).rglob("test_*.py"))
    return [Program(str(path.relative_to(tree).with_suffix("")), ["/usr/bin/python3", str(path)],
                    **stated_in(path)) for path in found]


def stated_in(path):
    """The timeout and the priority that a Python test file states."""
    found = STATED.search(path.read_text())
    stated = dict(pair.split() for pair in found.group(1).split(", ")) if found else {}
    if not stated.keys() <= {"timeout", "priority"}:
        sys.exit(f"{path}: '{found.group()}' states what the runner does not know")
    return {key: int(value) for key, value in stated.items()}


def select(programs, names):
    """The programs that names select; arguments for single tests are added to theirs."""
    if not names:
        return programs
    chosen = []
    for program in programs:
        for name in names:
            part, _, test = name.partition(":")
            if part in program.name:
                if test:
                    program.argv = program.argv + [test]
                if program not in chosen:
                    chosen.append(program)
    return chosen


def count(program, text, code):
    """Sorts the lines of text into passed, failed and skipped, and what is to be shown of a test that
    passed; code None: it did not end."""
    plan = None
    for line in text.splitlines():
        found = re.match(r"(not )?ok\b(?: (\d+))?(?: - )? *(.*)", line)
        if found:
            name = found.group(3) or found.group(2) or "?"
            if re.search(r"# *SKIP", line, re.IGNORECASE):
                program.skipped.append(name)
            elif found.group(1):
                program.failed.append(name)
            else:
                program.passed.append(name)
        elif re.fullmatch(r"1\.\.\d+", line):
            plan = (plan or 0) + int(line[3:])
        elif line.startswith("# shown: ") and line[9:] not in program.remarks:
            program.remarks.append(line[9:])
    done = len(program.passed) + len(program.failed) + len(program.skipped)
    if code is None:
        program.failed.append("(did not end in time)")
    elif plan is not None and done < plan:
        program.failed.append(f"(ended after {done} of {plan} tests, exit code {code})")
    elif code == 77 and done == 0:
        program.skipped.append(program.name)
    elif code != 0 and not program.failed:
        program.failed.append(f"(exit code {code})")
    elif done == 0 and code == 0:
        program.failed.append("(ran no test)")


def environment(build):
    return dict(os.environ,
                OXBOW=str((build / "oxbow").absolute()),
                OXBOW_BUILD=str(build.absolute()),
                PYTHONPATH=str(ROOT / "tests"),
                PYTHONDONTWRITEBYTECODE="1",
                CMOCKA_MESSAGE_OUTPUT="TAP",
                MALLOC_PERTURB_="165")


def run(program, options):
    """Runs it in a process group of its own, so that what it leaves behind can be ended."""
    program.log = options.build / "test-logs" / (program.name.replace("/", "-") + ".log")
    began = time.monotonic()
    with open(program.log, "wb") as log:
        process = subprocess.Popen(program.argv, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
                                   env=dict(environment(options.build), **program.env))
        try:
            code = process.wait(program.timeout * options.slower)
        except subprocess.TimeoutExpired:
            code = None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    program.seconds = time.monotonic() - began
    count(program, program.log.read_text(errors="replace"), code)


def show(program):
    verdict = "FAILED" if program.failed else "ok"
    skipped = f", {len(program.skipped)} skipped" if program.skipped else ""
    remarks = "".join(f", {remark}" for remark in program.remarks)
    print(f"{verdict:6} {program.name}: {len(program.passed)} passed, "
          f"{len(program.failed)} failed{skipped} ({program.seconds:.1f} s{remarks})")
    if program.failed:
        lines = program.log.read_text(errors="replace").splitlines()
        if len(lines) > SHOWN_LINES:
            print(f"    [...] the whole of it is in {program.log}")
        for line in lines[-SHOWN_LINES:]:
            print(f"    {line}")
        for name in program.failed:
            print(f"    failed: {name}")
    sys.stdout.flush()


def show_slowest(programs, seconds):
    """Which programs took longest: whoever finds the run too long starts there."""
    if len(programs) > SLOWEST_SHOWN:
        slowest = sorted(programs, key=lambda program: -program.seconds)[:SLOWEST_SHOWN]
        print("longest: " + ", ".join(f"{program.name} {program.seconds:.0f} s" for program in slowest))
        print(f"{len(programs)} programs in {seconds / 60:.1f} min")


def main(argv):
    # Of whoever starts this in the background: programs are to be interruptible all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = parse_arguments(argv)
    programs = select(all_programs(options), options.names)
    (options.build / "test-logs").mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    began = time.monotonic()

    def run_and_show(program):
        run(program, options)
        with lock:
            show(program)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for future in [pool.submit(run_and_show, program) for program in programs]:
            future.result()
    if not programs:
        print("no test is named like that")
    show_slowest(programs, time.monotonic() - began)
    skipped = [f"{program.name}: {name}" for program in programs for name in program.skipped]
    for name in skipped:
        print(f"skipped: {name}")
    failed = [f"{program.name}: {name}" for program in programs for name in program.failed]
    for name in failed:
        print(f"failed: {name}")
    passed = sum(len(program.passed) for program in programs)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not programs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
