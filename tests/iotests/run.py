#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the regression suite of QEMU's tools (its tests/qemu-iotests) with oxbow called as qemu-img,
qemu-io and qemu-nbd. The suite is fetched from Debian's source package into build/iotests: nothing
of it is part of this repository. docs/iotests.md tells what passes, and why the rest does not.

A test is selected if it needs nothing but the three tools, which its text tells (see needs_more).
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "iotests"
TOOLS = ("qemu-img", "qemu-io", "qemu-nbd")
NO_END = "no end"

# The names of the suites: Debian's source packages, by the QEMU that they are of.
SUITES = {
    "7.2": "bookworm",
    "10.0": "trixie",
}

# What --all runs.
CONFIGURATIONS = (
    ("-qcow2",),
    ("-qed",),
    ("-qcow2", "-o", "compat=1.1,lazy_refcounts=on"),
    ("-qcow2", "-c", "writethrough"),
    ("-qcow2", "-c", "none"),
)

# What oxbow has not, and the tests of 10.0 that fail for it: docs/iotests.md has the same table.
LACKS = {
    "blkdebug": "026 033 046 066 074 098 162 177 179 204 217 251 268 271 289",
    "copy-on-read, subclusters": "197 215",
    "an image within an image": "072 089 214",
    "data files": "270 289",
    "encryption": "049 134 158 178 188 189 198",
    "snapshot": "014 015 029 058 061 062 066 080 103 112 137 217 261 271",
    "amend": "061 080 082 112 261 271",
    "bitmap": "190 303 qemu-img-bitmaps qemu-img-close-errors",
    "the place of a machine's state": "022 026 029",
    "bitmaps of a client": "nbd-qemu-allocation",
    "character devices, CD drives": "226",
}
LACKING = {name for names in LACKS.values() for name in names.split()}

# ---- the suite ----


class Fetcher:
    """Downloads a source package with lists of its own; the system's are not touched."""

    def __init__(self):
        self.apt = WORK / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.apt / folder).mkdir(parents=True, exist_ok=True)
        (self.apt / "sources.list").write_text(
            "".join(
                "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                f"http://deb.debian.org/debian {release} main\n"
                for release in SUITES.values()
            )
        )
        self.options = [
            "-qq",
            "-o", f"Dir::Etc::sourcelist={self.apt}/sources.list",
            "-o", "Dir::Etc::sourceparts=/dev/null",
            "-o", f"Dir::State::lists={self.apt}/lists",
            "-o", f"Dir::Cache={self.apt}/cache",
            "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip

    def run(self, *words):
        subprocess.run(["apt-get", *self.options, *words], cwd=WORK, check=True)

    def version(self, suite):
        shown = subprocess.run(
            ["apt-cache", *self.options, "showsrc", "--only-source", "qemu"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for line in shown.splitlines():
            if re.match(rf"Version: \d+:{re.escape(suite)}\b", line):
                return line.split()[1]
        sys.exit(f"iotests: Debian has no source package of QEMU {suite}")

    def fetch(self, suite):
        print(f"iotests: fetching the source package of QEMU {suite}", file=sys.stderr)
        self.run("update")
        version = self.version(suite)
        self.run("--download-only", "source", f"qemu={version}")
        upstream = version.split(":")[1].rsplit("-", 1)[0]
        return WORK / f"qemu_{upstream}.orig.tar.xz"


def suite_folder(suite):
    """The suite, fetched where it is not there."""
    target = WORK / f"qemu-{suite}"
    if not (target / "tests" / "qemu-iotests" / "check").exists():
        archive = Fetcher().fetch(suite)
        with tempfile.TemporaryDirectory(dir=WORK) as scratch:
            subprocess.run(
                ["tar", "-C", scratch, "--strip-components=1", "--wildcards", "-xf", archive]
                + ["*/tests/qemu-iotests/*", "*/python/*"],
                check=True,
            )
            shutil.rmtree(target, ignore_errors=True)
            Path(scratch).chmod(0o755)
            shutil.copytree(scratch, target, symlinks=True)
    return target / "tests" / "qemu-iotests"


# ---- which tests ----

# Words by which a shell script starts, or asks, more than the three tools.
SHELL_NEEDS = re.compile(
    r"""(?x)
    _launch_qemu | _send_qemu_cmd | \$\{?QEMU\b | \$\{?QEMU_PROG\b | \$\{?QSD\b
    | _require_devices | _require_one_device_of | \brun_qemu\b | (?<!_filter_)qmp
    """
)

# The same of a Python program.
PYTHON_NEEDS = re.compile(
    r"""(?x)
    \bVM\( | QemuStorageDaemon | qemu_prog | \.qmp\( | \.vm\b | \bqsd | import \s+ qemu\b
    | from \s+ qemu\b
    """
)


def without_comments(text):
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def needs_more(path):
    """Whether the test needs a guest, a monitor or the storage daemon."""
    text = path.read_text(errors="replace")
    needs = PYTHON_NEEDS if "python" in text.splitlines()[0] else SHELL_NEEDS
    return needs.search(without_comments(text)) is not None


def all_tests(folder):
    found = [path for path in folder.glob("[0-9][0-9][0-9]") if os.access(path, os.X_OK)]
    for path in (folder / "tests").iterdir():
        if path.suffix == "" and os.access(path, os.X_OK) and path.is_file():
            found.append(path)
    return sorted(found, key=lambda path: path.name)


def select(folder, names):
    tests = all_tests(folder)
    if names:
        known = {path.name: path for path in tests}
        unknown = [name for name in names if name not in known]
        if unknown:
            sys.exit(f"iotests: the suite has no test {', '.join(unknown)}")
        return [known[name] for name in names]
    return [path for path in tests if not needs_more(path)]


# ---- running ----


@dataclass
class Outcome:
    passed: list = field(default_factory=list)
    failed: list = field(default_factory=list)
    not_run: list = field(default_factory=list)

    def take(self, name, status, text):
        if status == "pass":
            self.passed.append(name)
        elif status == "not run":
            self.not_run.append((name, text))
        else:
            self.failed.append((name, text))


def make_tools(arguments):
    """A folder with the three programs. oxbow is copied: it may be built anew meanwhile."""
    if arguments.tools:
        return arguments.tools.resolve()
    folder = Path(tempfile.mkdtemp(prefix="tools-", dir=WORK))
    if not arguments.stock:
        shutil.copy(arguments.build / "oxbow", folder / "oxbow")
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name) if arguments.stock else "oxbow")
    return folder


def environment(arguments, scratch):
    env = dict(os.environ)
    tools = arguments.folder
    for name in TOOLS:
        env[name.upper().replace("-", "_") + "_PROG"] = str(tools / name)
    env["QEMU_PROG"] = shutil.which("qemu-system-x86_64") or "/bin/false"
    env["QSD_PROG"] = shutil.which("qemu-storage-daemon") or "/bin/false"
    env["TEST_DIR"] = str(scratch / "images")
    env["SOCK_DIR"] = str(scratch / "s")
    env["LC_ALL"] = "C"
    return env


def belongs_to(process, scratch):
    """Whether the process was started for the test of that folder, by whatever ways."""
    mark = b"TEST_DIR=" + os.fsencode(scratch) + b"/"
    try:
        state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z" and mark in (process / "environ").read_bytes()
    except OSError:
        return False


def end_all(scratch):
    """A test that failed leaves its servers, and one that is killed starts others meanwhile."""
    while True:
        found = [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if int(process.name) != os.getpid() and belongs_to(process, scratch)
        ]
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)


def await_end(process, scratch, name, limit):
    """What the test says; of one that does not end, what it has said so far."""
    try:
        return process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        end_all(scratch)
        output, _ = process.communicate()
    bad = list(scratch.glob(f"**/{name}.out.bad"))
    said = bad[0].read_text(errors="replace") if bad else ""
    return f"{output}\n{NO_END} after {limit:g} seconds\n{said}"


def run_test(arguments, folder, path, words):
    # The paths of sockets have little room.
    scratch = Path(tempfile.mkdtemp(prefix="ox-iotest-", dir=arguments.scratch))
    (scratch / "images").mkdir()
    check = scratch / "check"
    check.symlink_to(folder / "check")
    try:
        process = subprocess.Popen(
            [sys.executable, str(check), *words, path.name],
            cwd=scratch,
            env=environment(arguments, scratch),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        return judge(path.name, await_end(process, scratch, path.name, arguments.timeout))
    finally:
        end_all(scratch)
        if not arguments.keep:
            shutil.rmtree(scratch, ignore_errors=True)


def judge(name, output):
    for status in ("pass", "not run", "fail"):
        match = re.search(
            rf"^{re.escape(name)}\s+{status}\b.*?\]\s+(?:[\d.]+s|\.\.\.)?(.*)$", output, re.M
        )
        if match:
            return status, match.group(1).strip() if status == "not run" else output
    return "fail", output


def run_configuration(arguments, words):
    folder = suite_folder(arguments.suite)
    tests = select(folder, arguments.tests)
    outcome = Outcome()
    logs = WORK / "logs" / ("-".join(word.strip("-") for word in words).replace("/", "_"))
    if not arguments.tests:
        shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [
            (path.name, pool.submit(run_test, arguments, folder, path, words)) for path in tests
        ]
        for name, future in futures:
            status, text = future.result()
            outcome.take(name, status, text)
            if status == "fail":
                (logs / name).write_text(text)
                if arguments.tests:
                    print(text)
            if sys.stdout.isatty():
                print(f"\r{name} {status}\033[K", end="", flush=True)
    return outcome, logs


def report(words, outcome, logs):
    failed = [name for name, _ in outcome.failed]
    differs = [name for name in failed if name not in LACKING]
    ran = len(outcome.passed) + len(differs)
    print(f"\n== {' '.join(words)}")
    print("passed: " + " ".join(outcome.passed))
    print("not run: " + " ".join(name for name, _ in outcome.not_run))
    print("failed for what is missing: " + " ".join(name for name in failed if name in LACKING))
    print("failed: " + " ".join(differs))
    endless = [name for name, text in outcome.failed if f"\n{NO_END} after " in text]
    if endless:
        print("of these, without an end: " + " ".join(endless))
    if outcome.failed:
        print(f"what the failed ones said is in {logs.relative_to(ROOT)}")
    print(f"{' '.join(words)}: {len(outcome.passed)} of {ran} passed", flush=True)
    return len(outcome.passed), ran


def parse():
    parser = argparse.ArgumentParser(prog="./dev iotests", description=__doc__)
    formats = parser.add_mutually_exclusive_group()
    for name in ("qcow2", "qed", "raw"):
        formats.add_argument(f"-{name}", dest="format", action="store_const", const=name)
    parser.add_argument("-o", dest="imgopts", help="options that images are made with")
    parser.add_argument("-c", dest="cache", help="the cache mode of qemu-io")
    parser.add_argument("--all", action="store_true", help="the five configurations of the page")
    parser.add_argument("--suite", choices=SUITES, default="10.0", help="of which QEMU")
    parser.add_argument("--stock", action="store_true", help="run the installed QEMU's tools")
    parser.add_argument("--tools", type=Path, help="run the tools of this folder")
    parser.add_argument("--list", action="store_true", help="list the tests that are selected")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the tests")
    parser.add_argument("--scratch", default="/tmp", help="where these are made")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that a test may take")
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    parser.add_argument("tests", nargs="*", metavar="TEST")
    return parser.parse_args()


def main():
    arguments = parse()
    WORK.mkdir(parents=True, exist_ok=True)
    arguments.build = arguments.build.resolve()
    if arguments.list:
        for path in select(suite_folder(arguments.suite), arguments.tests):
            print(path.name)
        return 0
    arguments.folder = make_tools(arguments)
    words = [f"-{arguments.format or 'qcow2'}"]
    words += ["-o", arguments.imgopts] if arguments.imgopts else []
    words += ["-c", arguments.cache] if arguments.cache else []
    try:
        return run_all(arguments, words)
    finally:
        if not arguments.tools:
            shutil.rmtree(arguments.folder, ignore_errors=True)


def run_all(arguments, words):
    passed = ran = 0
    for configuration in CONFIGURATIONS if arguments.all else [words]:
        more = report(configuration, *run_configuration(arguments, list(configuration)))
        passed, ran = passed + more[0], ran + more[1]
    if arguments.all:
        print(f"all: {passed} of {ran} passed")
    return 0 if passed == ran else 1


if __name__ == "__main__":
    sys.exit(main())
