# SPDX-License-Identifier: MIT
"""The command by the names of QEMU's tools."""
from harness import *


def called(name):
    """A path of that name that leads to the command."""
    folder = tmpdir() / "called"
    folder.mkdir(exist_ok=True)
    link = folder / name
    if not link.is_symlink():
        link.symlink_to(oxbow_path())
    return link


def img(*args, **kwargs):
    return run(called("qemu-img"), *args, **kwargs)


def io(*args, **kwargs):
    return run(called("qemu-io"), *args, **kwargs)


def nbd(*args, **kwargs):
    return run(called("qemu-nbd"), *args, **kwargs)


def check_alike(name, *args, stdout=True, **kwargs):
    """The command, called so, answers as the tool of that name does."""
    ours = run(called(name), *args, check=False, **kwargs)
    theirs = run(name, *args, check=False, **kwargs)
    line = f"{name} {' '.join(str(arg) for arg in args)}"
    check_equal(ours.stderr, theirs.stderr, f"stderr of {line}")
    check_equal(ours.returncode, theirs.returncode, f"exit code of {line}")
    if stdout:
        check_equal(ours.stdout, theirs.stdout, f"stdout of {line}")
    return ours
