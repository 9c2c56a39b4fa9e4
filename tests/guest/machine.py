# SPDX-License-Identifier: MIT
"""A PC under QEMU whose disk is oxbow's: it starts from the disk, by its firmware, and takes commands."""
import base64
import json
import os
import select
import socket
import subprocess
import tempfile
import time

from debian import Failure
from guest import accelerator

BOOT_SECONDS = 180
COMMAND_SECONDS = 120
MEMORY = "256M"


# ---- its hardware ----

def pc(memory=None):
    """Two processors, for two queues of the disk; memory that another process can map. It is a file of
    its own, or the one that is named."""
    kind = f"memory-backend-file,mem-path={memory}" if memory else "memory-backend-memfd"
    return ["qemu-system-x86_64", "-accel", accelerator(), "-cpu", "max", "-smp", "2", "-m", MEMORY,
            "-nodefaults", "-object", f"{kind},id=memory,size={MEMORY},share=on",
            "-machine", "memory-backend=memory", "-no-reboot"]


def vhost_user_disk(path):
    return ["-chardev", f"socket,id=disk,path={path},reconnect=1",
            "-device", "vhost-user-blk-pci,chardev=disk,num-queues=2,bootindex=0"]


class Port:
    """A serial port of the machine, with this process at its other end."""

    def __init__(self, name):
        self.name = name
        self.ours, self.theirs = socket.socketpair()
        self.text = ""

    def arguments(self):
        return ["-chardev", f"socket,id={self.name},fd={self.theirs.fileno()}",
                "-serial", f"chardev:{self.name}"]

    def read(self, seconds):
        """False when the machine has ended; what came is in .text."""
        if not select.select([self.ours], [], [], seconds)[0]:
            return True
        data = self.ours.recv(65536)
        self.text += data.decode(errors="replace").replace("\r", "")
        return bool(data)


class Machine:
    """A running machine. run() gives it commands; what its background jobs report is in .reports."""

    def __init__(self, *hardware, memory=None):
        self.console, self.control, self.report = ports = [Port(n) for n in ("console", "control", "report")]
        arguments = [word for port in ports for word in port.arguments()]
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([*pc(memory), "-display", "none", *arguments, *hardware],
                                        pass_fds=[port.theirs.fileno() for port in ports],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self.errors)
        for port in ports:
            port.theirs.close()

    @property
    def reports(self):
        """Whole lines only."""
        while self.report.read(0) and select.select([self.report.ours], [], [], 0)[0]:
            pass
        return self.report.text.split("\n")[:-1]

    def said(self):
        """For whoever wants to know what went wrong."""
        self.console.read(0)
        said = os.pread(self.errors.fileno(), 2000, 0).decode(errors="replace")
        return f"console: {self.console.text[-2000:]!r}, control: {self.control.text[-1000:]!r}, QEMU: {said}"

    def _wait(self, port, look, what, seconds):
        """Until look(port's text) finds something. The console is emptied meanwhile."""
        deadline = time.monotonic() + seconds
        while (found := look(port.text)) is None:
            if time.monotonic() > deadline:
                raise Failure(f"{what} does not come in {seconds} s; {self.said()}")
            ready = select.select([other.ours for other in (self.console, self.control, self.report)],
                                  [], [], 1)[0]
            for other in (self.console, self.control, self.report):
                if other.ours in ready and not other.read(0):
                    raise Failure(f"the machine ended before {what}; {self.said()}")
        return found

    def await_start(self):
        self._wait(self.control, lambda text: True if "READY\n" in text else None, "a shell", BOOT_SECONDS)
        self.control.text = ""

    def await_reports(self, enough, what, seconds=COMMAND_SECONDS):
        """Until enough(the reported lines)."""
        self._wait(self.report, lambda text: enough(text.split("\n")[:-1]) or None, what, seconds)

    def run(self, command, seconds=COMMAND_SECONDS, check=True, show=None):
        """What a command of the guest's shell prints; check=False: and its exit code. show is called with
        what it prints, as it comes."""
        mark = f"@{os.urandom(8).hex()}@"
        text = base64.b64encode(command.encode()).decode()
        line = f'(eval "$(echo {text} | base64 -d)") </dev/null; echo "{mark}$?@"\n'
        self.control.ours.sendall(line.encode())
        shown = 0

        def look(text):
            nonlocal shown
            at = text.find(mark)
            end = text.find("@\n", at + len(mark)) if at >= 0 else -1
            if show:
                safe = at if at >= 0 else max(shown, len(text) - len(mark))
                show(text[shown:safe])
                shown = safe
            return None if end < 0 else (text[:at], int(text[at + len(mark):end]))

        printed, code = self._wait(self.control, look, f"the end of {command!r}", seconds)
        self.control.text = ""
        if not check:
            return printed, code
        if code != 0:
            raise Failure(f"{command!r} exited with {code} in the guest: {printed}; {self.said()}")
        return printed.strip()

    def power_off(self):
        """As a person would; returns when QEMU has ended."""
        self.control.ours.sendall(b"/sbin/poweroff &\n")
        self.await_end()

    def await_end(self, seconds=COMMAND_SECONDS):
        deadline = time.monotonic() + seconds
        while self.console.read(1):  # an end that nobody reads may hold it up
            if time.monotonic() > deadline:
                raise Failure(f"the machine does not end; {self.said()}")
        if self.process.wait(30) != 0:
            raise Failure(f"QEMU exited with {self.process.returncode}; {self.said()}")

    def kill(self):
        """The power cut."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Qmp:
    """QEMU's monitor, at a socket that it has been told to listen to."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(BOOT_SECONDS)
        deadline = time.monotonic() + BOOT_SECONDS
        while self.socket.connect_ex(path) != 0:
            if time.monotonic() > deadline:
                raise Failure(f"QEMU does not listen to {path}")
            time.sleep(0.02)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (answer := json.loads(self.lines.readline())):
            pass
        if "error" in answer:
            raise Failure(f"{command}: {answer}")
        return answer["return"]
