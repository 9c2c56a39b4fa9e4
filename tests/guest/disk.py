# SPDX-License-Identifier: MIT
"""The guest's disk as an image of oxbow's, and what the tests bring along beside it."""
import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import guest
from debian import CACHE, Failure, debian_disk, file_system_of
from harness import oxbow, oxbow_path, run

TOOLS = ("/usr/bin/fio", "/usr/sbin/mkfs.xfs")
TOOLS_BYTES = 160 << 20


@contextlib.contextmanager
def served(image, folder, *options):
    """An `oxbow serve` of a qcow2 image, outside of a test too; folder is for its sockets. Gives the URI
    for NBD."""
    command = [oxbow_path(), "serve", "-f", "qcow2", "--nbd", f"{folder}/nbd", *options, image]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        found = re.search(r"nbd\+unix://\S+", said)
        if not found:
            raise Failure(f"oxbow does not serve {image}: it says {said!r} and ends with {process.wait()}")
        yield found.group()
    finally:
        process.terminate()
        code = process.wait()
    if code != 0:
        raise Failure(f"the server of {image} ended with {code}")


def make_image(path, size, options="lazy_refcounts=on"):
    """A qcow2 image with the small Debian on it. It is there whole or not at all."""
    scratch = f"{path}.new"
    oxbow("create", "-q", "-f", "qcow2", "-o", options, scratch, size)
    with tempfile.TemporaryDirectory() as folder, served(scratch, folder, "--cache", "writeback") as uri:
        run("nbdcopy", debian_disk(), uri)
    os.rename(scratch, path)


def _copy_with_libraries(tree, program):
    """Beside libraries of its own, so that it never meets the guest's."""
    for library in guest.libraries_of(program):
        shutil.copy(library, tree / "lib")
    shutil.copy(program, tree / "lib")
    script = tree / pathlib.Path(program).name
    script.write_text(f"#!/bin/sh\nexec /mnt/tools/lib/ld-linux-x86-64.so.2 --library-path "
                      f'/mnt/tools/lib /mnt/tools/lib/{script.name} "$@"\n')
    script.chmod(0o755)


def tools_disk():
    """A raw disk with programs of this host's, for the guest to mount at /mnt/tools."""
    goal = CACHE / "tools.raw"
    newest = max(os.stat(path).st_ctime for path in (*TOOLS, __file__))
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not goal.exists() or goal.stat().st_ctime < newest:
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                tree = pathlib.Path(scratch) / "tree"
                (tree / "lib").mkdir(parents=True)
                for program in TOOLS:
                    _copy_with_libraries(tree, program)
                file_system_of(tree, f"{scratch}/disk", TOOLS_BYTES)
                os.rename(f"{scratch}/disk", goal)
    return goal


def tools_hardware():
    return ["-blockdev", f"driver=file,node-name=tools,read-only=on,filename={tools_disk()}",
            "-device", "virtio-blk-pci,drive=tools"]
