#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""./dev guest: boots a small Debian from a disk that oxbow serves. The console is this terminal; or one
command runs in the guest, and its exit code is the guest's."""
import argparse
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile

from debian import CACHE, Failure
from disk import make_image, served
from machine import Machine, accelerator, pc, vhost_user_disk

DAY_SECONDS = 86400


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="./dev guest")
    parser.add_argument("--disk", default=str(CACHE / "disk.qcow2"),
                        help="the image; made where there is none")
    parser.add_argument("--fresh", action="store_true", help="make the image again")
    parser.add_argument("--size", default="2G", help="of an image that is made (2G)")
    parser.add_argument("--cache", default="none", help="cache mode of oxbow serve (none)")
    parser.add_argument("command", nargs="*",
                        help="what to run in the guest, instead of a shell; after --")
    return parser.parse_args(argv)


def with_console(hardware):
    command = [*pc(), "-display", "none", "-serial", "mon:stdio", *hardware]
    return subprocess.run(command, check=False).returncode


def with_command(hardware, words):
    """One word is a line for the guest's shell; several are a command with its arguments."""
    machine = Machine(*hardware)
    try:
        machine.await_start()
        _, code = machine.run(words[0] if len(words) == 1 else shlex.join(words), DAY_SECONDS, check=False,
                              show=lambda text: print(text, end="", flush=True))
        machine.power_off()
        return code
    finally:
        machine.kill()


def main(argv):
    options = parse_arguments(argv)
    disk = pathlib.Path(options.disk)
    if options.fresh or not disk.exists():
        make_image(disk, options.size)
    with tempfile.TemporaryDirectory(prefix="oxbow-guest-") as folder:
        socket = f"{folder}/disk.vhost"
        with served(disk, folder, "--cache", options.cache, "--vhost-user-blk", socket):
            if options.command:
                return with_command(vhost_user_disk(socket), options.command)
            print(f"booting {disk} under {accelerator()}; Ctrl-A X switches it off at once", flush=True)
            return with_console(vhost_user_disk(socket))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing stays behind
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"./dev guest: {failure}")
