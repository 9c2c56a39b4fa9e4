#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 40
"""./dev guest: a newcomer's first guest."""
import pty
import select

from debian import *
from guest import accelerator
from harness import *

SECONDS = 240
DEV_GUEST = ("/usr/bin/python3", ROOT / "tests/guest/run.py", "--disk", "disk.qcow2")


def test_a_command_runs_in_the_guest_and_what_it_wrote_is_there_for_a_person():
    print(f"# shown: under {accelerator()}")
    said = run(*DEV_GUEST, "--size", "1G", "--", "findmnt -no SOURCE /; echo what stays >note; exit 7",
               check=False, timeout=SECONDS)
    check_equal((said.stdout, said.returncode), ("/dev/vda1\n", 7), f"what came out ({said.stderr})")
    oxbow("check", "-q", "disk.qcow2")

    ours, theirs = pty.openpty()
    process = subprocess.Popen(DEV_GUEST, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    on_exit(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
    seen = read_terminal(ours, "exit switches it off")
    os.write(ours, b"cat note; exit\n")
    seen += read_terminal(ours, None)
    check_in("\nwhat stays", seen)
    check_equal(process.wait(SECONDS), 0, f"exit code of ./dev guest, which showed {seen[-2000:]}")
    oxbow("check", "-q", "disk.qcow2")


def read_terminal(terminal, until):
    """What is shown up to a text, or up to the end."""
    deadline, seen = time.monotonic() + SECONDS, ""
    while until is None or until not in seen:
        if time.monotonic() > deadline or not select.select([terminal], [], [], SECONDS)[0]:
            raise Failure(f"{until!r} does not come; the terminal shows {seen[-2000:]}")
        try:
            data = os.read(terminal, 65536)
        except OSError:  # nobody has it open any more
            data = b""
        if not data:
            break
        seen += data.decode(errors="replace")
    return seen


run_tests(globals())
