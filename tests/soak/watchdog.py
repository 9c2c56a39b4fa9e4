# SPDX-License-Identifier: MIT
"""Waits for a process to answer, and says where it is when that takes long.

After SLOW_SECONDS it says what the kernel and gdb tell of the threads: a busy host may be that slow.
After STALL_SECONDS the answer is taken for one that never comes.
"""
import pathlib
import select
import shutil
import subprocess
import sys

SLOW_SECONDS = 5
STALL_SECONDS = 60


class Stall(AssertionError):
    """A request was not answered."""


def wait_readable(file, what, pid):
    """Until file can be read: the answer of process pid to what."""
    if select.select([file], [], [], SLOW_SECONDS)[0]:
        return
    where = f"{what}: no answer for {SLOW_SECONDS} s\n{where_is(pid)}"
    print("# " + where.replace("\n", "\n# "), file=sys.stderr, flush=True)
    if not select.select([file], [], [], STALL_SECONDS - SLOW_SECONDS)[0]:
        raise Stall(f"{where}\nand none for {STALL_SECONDS} s")


def _read(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError as error:
        return f"({error.strerror})"


def _processor_ticks(task):
    fields = _read(task / "stat").rpartition(")")[2].split()
    return " ".join(fields[11:13])


def where_is(pid):
    """Text of many lines: state, system call and stack of each thread."""
    lines = [f"process {pid}: {_read(f'/proc/{pid}/cmdline').replace(chr(0), ' ')}"]
    for task in sorted(pathlib.Path(f"/proc/{pid}/task").glob("*")):
        lines.append(f"thread {task.name}: state {_read(task / 'stat').rpartition(')')[2][:2].strip()}, "
                     f"wchan {_read(task / 'wchan')}, system call {_read(task / 'syscall')}, "
                     f"ticks of user and system {_processor_ticks(task)}")
    if shutil.which("gdb"):
        shown = subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-ex",
                                "thread apply all backtrace 24"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               errors="replace", timeout=120, check=False).stdout
        lines += [line for line in shown.splitlines() if line.startswith(("#", "Thread"))]
    return "\n".join(lines)
