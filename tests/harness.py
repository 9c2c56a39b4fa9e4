# SPDX-License-Identifier: MIT
"""What the Python tests share.

A test file is a program:

    #!/usr/bin/python3
    from harness import *

    def test_an_image_that_oxbow_makes_is_clean_to_qemu():
        disk = tmpdir() / "disk.qcow2"
        oxbow("create", "-f", "qcow2", disk, "1G")
        qemu_img("check", disk)

    run_tests(globals())

Tests run in the order in which they are written, each in a fresh temporary directory that is also
its working directory. A line `ok NAME` or `not ok NAME: REASON` goes out for each, and a line
`N passed, N failed` at the end; the exit code is 1 when one failed. Names given as arguments
select tests by a part of their name. OXBOW names the command that is tested.
"""
import inspect
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

__all__ = [
    "Failure", "ROOT", "Server", "check_equal", "check_in", "children_of", "expect_failure", "json",
    "on_exit", "os", "output", "oxbow", "oxbow_path", "parent_of", "pathlib", "pattern", "qemu_img",
    "qemu_io", "run", "run_tests", "signal", "subprocess", "sys", "time", "tmpdir",
]

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND_TIMEOUT_SECONDS = 300
SERVER_START_SECONDS = 60

_tmpdir = None
_cleanups = []


class Failure(AssertionError):
    """A check of a test did not hold."""


def oxbow_path():
    """The command that is tested, absolute."""
    return str(pathlib.Path(os.environ.get("OXBOW", ROOT / "build" / "oxbow")).absolute())


def tmpdir():
    """The running test's own directory; it is removed after the test."""
    if _tmpdir is None:
        raise RuntimeError("tmpdir() is for use inside a test")
    return _tmpdir


def on_exit(function):
    """Calls function after the running test, whatever comes of it; last in, first out."""
    _cleanups.append(function)


def check_equal(actual, expected, what="value"):
    if actual != expected:
        raise Failure(f"{what} is {actual!r}, expected {expected!r}")


def check_in(part, whole, what="text"):
    if part not in whole:
        raise Failure(f"{part!r} is not in the {what}: {repr(whole)[:4000]}")


def pattern(seed, length):
    """length bytes that tell from which seed and place they are (not compressible)."""
    import random

    return random.Random(seed).randbytes(length)


def run(*args, check=True, timeout=COMMAND_TIMEOUT_SECONDS, **kwargs):
    """Runs a command; the result has .stdout and .stderr as text and .returncode.

    check=True makes any exit code but 0 a failure, which shows what the command said. A death
    by signal or a sanitizer's report is a failure in any case."""
    argv = [str(arg) for arg in args]
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kwargs:
        del kwargs["stdin"]
    kwargs.setdefault("text", True)
    if kwargs["text"]:
        kwargs.setdefault("errors", "replace")
    result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            timeout=timeout, check=False, **kwargs)
    said = _as_text(result.stdout) + _as_text(result.stderr)
    if result.returncode < 0 or _is_sanitizer_report(said):
        raise Failure(f"{' '.join(argv)} crashed ({result.returncode}): {said[-6000:]}")
    if check and result.returncode != 0:
        raise Failure(f"{' '.join(argv)} exited with {result.returncode}: {said[-6000:]}")
    return result


def _as_text(data):
    return data if isinstance(data, str) else data.decode(errors="replace")


def _is_sanitizer_report(text):
    return re.search(r"ERROR: (Address|Leak|Thread)Sanitizer|:\d+: runtime error: ", text) is not None


def output(*args, **kwargs):
    """What a command writes to its standard output."""
    return run(*args, **kwargs).stdout


def expect_failure(*args, code=1, message=None, **kwargs):
    """Runs a command that must exit with code, and say message on its stderr."""
    result = run(*args, check=False, **kwargs)
    command = " ".join(str(arg) for arg in args)
    check_equal(result.returncode, code, f"exit code of {command} (stderr {result.stderr!r})")
    if message is not None:
        check_in(message, result.stderr, f"stderr of {command}")
    return result


def oxbow(*args, **kwargs):
    return run(oxbow_path(), *args, **kwargs)


def qemu_img(*args, **kwargs):
    return run("qemu-img", *args, **kwargs)


def qemu_io(*args, **kwargs):
    return run("qemu-io", *args, **kwargs)


def parent_of(pid):
    """None: there is no such process, or it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)


def children_of(pid):
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(name) == pid]


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def serving_pid(pid):
    """The process that serves, of a server that was started as pid: with a keeper its child."""
    return next((child for child in children_of(pid)
                 if any(word.startswith("--kept-as=worker") for word in command_of(child))), pid)


class Server:
    """An `oxbow serve` for the length of a with statement.

    Server(disk), or with more arguments for the command: Server("-f", "raw", disk). A unix socket
    in the test's directory is used unless the arguments state --nbd. On leaving, a server that
    still runs is told to end and must exit with 0."""

    _count = 0

    def __init__(self, *args, env=None, wrapper=(), pass_fds=()):
        argv = [str(arg) for arg in args]
        if not any(arg == "--nbd" or arg.startswith("--nbd=") for arg in argv):
            Server._count += 1
            self.socket = str(tmpdir() / f"nbd{Server._count}.sock")
            argv = ["--nbd", self.socket] + argv
        else:
            self.socket = None
        # OXBOW_TEST_SERVE=--no-keeper: every server of a test gets these options as well
        argv = os.environ.get("OXBOW_TEST_SERVE", "").split() + argv
        self.argv = [str(word) for word in wrapper] + [oxbow_path(), "serve"] + argv
        # where it may leave a state
        self.env = dict(os.environ, RUNTIME_DIRECTORY=str(tmpdir()), **(env or {}))
        self.pass_fds = pass_fds
        self.uri = None
        self.process = None
        self._expected_dead = False
        self._stderr = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        try:
            if self.process.poll() is None and kind is not None:
                self._end_after_failure()
            elif self.process.poll() is None:
                code = self.terminate()
                if code != 0:
                    raise Failure(f"the server exited with {code}: {self.stderr()}")
            elif not self._expected_dead and kind is None:
                raise Failure(f"the server died with {self.process.returncode}: {self.stderr()}")
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
            report = self.stderr()
            self._stderr.close()
        if kind is None and _is_sanitizer_report(report):
            raise Failure(f"the server's stderr: {report}")
        if kind is not None and report:
            print(f"# server's stderr: {report}")

    def start(self):
        """Starts it (again), and returns when it can be connected to."""
        if self.process is not None:
            self.process.stdout.close()
        if self._stderr is None:
            self._stderr = tempfile.TemporaryFile(mode="w+", errors="replace")
        self._expected_dead = False
        self._spawn()
        self.uri = self._wait_for_uri()

    def _spawn(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self._stderr,
                                        env=self.env, pass_fds=self.pass_fds)

    def _wait_for_uri(self):
        deadline = time.monotonic() + SERVER_START_SECONDS
        text = ""
        fd = self.process.stdout.fileno()
        while True:
            found = re.search(r"(nbds?(?:\+unix)?://\S+)\s", text)
            if found:
                return found.group(1)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                self.process.kill()
                self.process.wait()
                raise Failure(f"the server printed no URI in time; stdout {text!r}, "
                              f"stderr {self.stderr()!r}")
            data = os.read(fd, 4096)
            if not data:
                code = self.process.wait()
                raise Failure(f"the server exited with {code} at its start; stdout {text!r}, "
                              f"stderr {self.stderr()!r}")
            text += data.decode(errors="replace")

    def stderr(self):
        """What it has written to stderr so far."""
        if self._stderr is None:
            return ""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def children(self):
        """Process ids, of those that a keeper has started."""
        return children_of(self.process.pid)

    def server_pid(self):
        """Of the process that serves: with a keeper its child."""
        return serving_pid(self.process.pid)

    def kill9(self):
        """The power cut of the process: SIGKILL. A keeper's child goes with it."""
        self._expected_dead = True
        ends = [os.pidfd_open(pid) for pid in self.children()]
        self.process.kill()
        self.process.wait()
        for end in ends:
            if not select.select([end], [], [], COMMAND_TIMEOUT_SECONDS)[0]:
                raise Failure("a killed keeper's child lives on")
            os.close(end)

    def _end_after_failure(self):
        """What went wrong first is what counts; a server that hangs as well is only told of."""
        try:
            self.terminate(30)
        except Failure as error:
            print(f"# besides: {error}")

    def terminate(self, timeout=COMMAND_TIMEOUT_SECONDS):
        """SIGTERM; returns the exit code."""
        self._expected_dead = True
        self.process.terminate()
        return self.wait(timeout)

    def wait(self, timeout=COMMAND_TIMEOUT_SECONDS):
        """Waits for it to end by itself; returns the exit code."""
        self._expected_dead = True
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"the server did not end within {timeout} s: {self.stderr()}") from None


def _run_cleanups():
    while _cleanups:
        _cleanups.pop()()


def run_apart(function):
    """Runs a test in a directory of its own. Returns None, or what went wrong."""
    global _tmpdir
    before = os.getcwd()
    _tmpdir = pathlib.Path(tempfile.mkdtemp(prefix="oxbow-test-"))
    os.chdir(_tmpdir)
    try:
        try:
            function()
        finally:
            _run_cleanups()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a test that calls sys.exit has failed as well
        traceback.print_exc(file=sys.stdout)
        lines = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:300]}"
    finally:
        os.chdir(before)
        shutil.rmtree(_tmpdir, ignore_errors=True)
        _tmpdir = None
    return None


def run_tests(namespace, argv=None):
    """Runs the test_ functions of namespace and exits."""
    wanted = sys.argv[1:] if argv is None else argv
    tests = [(name, function) for name, function in namespace.items()
             if name.startswith("test_") and inspect.isfunction(function)]
    tests = [test for test in tests if not wanted or any(part in test[0] for part in wanted)]
    passed = failed = 0
    for name, function in tests:
        reason = run_apart(function)
        if reason is None:
            passed += 1
            print(f"ok {name}", flush=True)
        else:
            failed += 1
            print(f"not ok {name}: {reason}", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not tests else 0)
