# SPDX-License-Identifier: MIT
"""A server that listens to operators (--control), and those who ask it."""
import json
import re
import resource
import socket
import stat
import threading

import nbd

from hostfs import leave_room, mounted
from kept import *


class Controlled(Kept):
    def __init__(self, *args, **kwargs):
        self.control = str(tmpdir() / "control.sock")
        super().__init__("--control", self.control, *args, **kwargs)

    def ctl(self, *args, **kwargs):
        return output(oxbow_path(), "ctl", self.control, *args, **kwargs)

    def status(self, *args):
        return json.loads(self.ctl("status", "--output=json", *args))["disks"]

    def stats(self):
        return json.loads(self.ctl("stats", "--output=json"))["disks"][0]

    def control_pid(self):
        return eventually("the control process", lambda: next(
            (pid for pid in self.children()
             if any(word.startswith("--kept-as=control") for word in harness.command_of(pid))), None))

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self.control)
        on_exit(connection.close)
        return connection

    def ask(self, request, connection=None):
        connection = connection or self.connect()
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        connection.sendall(line + b"\n")
        return json.loads(read_line(connection))


def read_line(connection):
    data = b""
    while not data.endswith(b"\n"):
        more = connection.recv(65536)
        if not more:
            raise Failure(f"the connection ends after {data!r}")
        data += more
    return data


def read_all(connection):
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


def controlled_disk(*args, size=DISK_BYTES, **kwargs):
    oxbow("create", "-q", "-f", "qcow2", "disk", str(size))
    return Controlled("-f", "qcow2", *args, "disk", **kwargs)


def ended(connection):
    """Whether the other side has closed it, without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def listens(path):
    """The name of a socket is there a moment before it can be connected to."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


class Empty(Controlled):
    """A server that begins without a disk."""

    def __init__(self):
        pathlib.Path("disks.conf").write_text("")
        super().__init__("--config", "disks.conf")
        self.argv = [oxbow_path(), "serve", "--config", "disks.conf", "--control", self.control]

    def _wait_for_uri(self):
        eventually("the control socket", lambda: listens(self.control))

    def add(self, name, *args, **kwargs):
        return self.ctl("add", name, "--nbd", f"./{name}.sock", *args, **kwargs).split()[0]

    def fails_to_add(self, *args, message, **kwargs):
        expect_failure(oxbow_path(), "ctl", self.control, "add", *args, message=message, **kwargs)

    def disk(self, name):
        disk, = self.status(name)
        return disk


def make(*names):
    for name in names:
        oxbow("create", "-q", "-f", "qcow2", name, "8M")


def put(uri, value):
    handle = nbd_connect(uri)
    handle.pwrite(bytes([value]) * 4096, 0)
    handle.shutdown()


def first_byte(uri):
    handle = nbd_connect(uri)
    value = handle.pread(1, 0)[0]
    handle.shutdown()
    return value
