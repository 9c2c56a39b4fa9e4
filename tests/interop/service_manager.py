# SPDX-License-Identifier: MIT
"""What systemd does for a service of Type=notify: its socket for notices, and its store of descriptors.

It keeps to sd_notify(3), sd_listen_fds(3) and what systemd.service(5) says of FileDescriptorStoreMax=:
a descriptor that has hung up is dropped unless it came with FDPOLL=0, one that is stored already is not
stored again, and what goes beyond the most is dropped."""
import array
import ctypes
import itertools
import os
import select
import socket
import struct
import threading

from interop import *
from kept import eventually

# Makes the descriptors of the command line 3, 4, ... and becomes the rest of it.
HAND_OVER = """
import os, sys
count = int(sys.argv[1])
numbers = [int(word) for word in sys.argv[2:2 + count]]
high = [os.dup2(fd, 1000 + i) for i, fd in enumerate(numbers)]
for fd in numbers:
    os.close(fd)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2 + count], sys.argv[2 + count:])
"""

_libc = ctypes.CDLL(None, use_errno=True)
SYS_KCMP = 312
KCMP_FILE = 0


def is_same_description(a, b):
    return _libc.syscall(SYS_KCMP, os.getpid(), os.getpid(), KCMP_FILE, a, b) == 0


class Manager:
    """In a with statement. Its process is called systemd then, as those who look for locks see it."""

    def __init__(self, most=4096):
        self.most = most
        self.path = str(tmpdir() / "notify")
        self.store = []  # of name, descriptor, whether it is dropped when it has hung up
        self.opened = []  # name and descriptor of what a unit has opened (OpenFile=)
        self.notices = []  # of dict
        self.problems = []
        self._lock = threading.Lock()
        self._barriers = itertools.count()
        self._passed = None
        self._end = os.pipe()

    def __enter__(self):
        self.name = pathlib.Path("/proc/self/comm").read_text().strip()
        pathlib.Path("/proc/self/comm").write_text("systemd")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(self.path)
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        return self

    def __exit__(self, kind, value, trace):
        os.write(self._end[1], b"x")
        self.thread.join()
        self.socket.close()
        os.unlink(self.path)
        pathlib.Path("/proc/self/comm").write_text(self.name)
        self.drop_all()
        for fd in self._end:
            os.close(fd)
        if kind is None:
            check_equal(self.problems, [], "what the service manager was told and must not be")

    # ---- what it is told ----

    def _work(self):
        while True:
            polled = select.poll()
            polled.register(self.socket, select.POLLIN)
            polled.register(self._end[0], select.POLLIN)
            with self._lock:
                watched = [fd for _, fd, poll in self.store if poll]
            for fd in watched:
                polled.register(fd, 0)
            for fd, events in polled.poll(20):
                if fd == self._end[0]:
                    return
                if fd == self.socket.fileno():
                    self._take()
                elif events & (select.POLLHUP | select.POLLERR):
                    with self._lock:
                        self._drop(lambda entry: entry[1] == fd)

    def _take(self):
        data, control, flags, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(4 * 253) + 64,
                                                      socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        sender = None
        for level, kind, payload in control:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(payload)
            elif kind == socket.SCM_CREDENTIALS:
                sender = struct.unpack("iii", payload)[0]
        text = data.decode()
        if text.startswith("BARRIER="):
            self._passed = text
            return
        with self._lock:
            self._heed(text, list(fds), sender)

    def _heed(self, text, fds, sender):
        words = {}
        for line in text.split("\n"):
            name, equals, value = line.partition("=")
            if not equals or name in words:
                self.problems.append(text)
            words[name] = value
        self.notices.append(dict(words, sender=sender))
        if "FDSTORE" in words:
            name = words.get("FDNAME", "stored")
            for fd in fds:
                if any(is_same_description(fd, stored) for _, stored, _ in self.store):
                    self.problems.append(f"{name} is stored already")
                    os.close(fd)
                elif len(self.store) >= self.most:
                    os.close(fd)
                else:
                    self.store.append((name, fd, words.get("FDPOLL") != "0"))
        else:
            for fd in fds:
                os.close(fd)
        if "FDSTOREREMOVE" in words:
            self._drop(lambda entry: entry[0] == words["FDNAME"])

    def _drop(self, is_meant):
        for entry in [entry for entry in self.store if is_meant(entry)]:
            self.store.remove(entry)
            os.close(entry[1])

    # ---- what a test does with it ----

    def drop(self, *names):
        with self._lock:
            self._drop(lambda entry: any(entry[0].startswith(name) for name in names))

    def drop_all(self):
        self.drop("")

    def put(self, name, fd):
        with self._lock:
            self.store.append((name, fd, False))

    def fd(self, name):
        return next(fd for stored, fd, _ in self.store if stored.startswith(name))

    def names(self):
        with self._lock:
            return sorted(name for name, _, _ in self.store)

    def told(self, name):
        """All values of that word, in their order."""
        with self._lock:
            return [words[name] for words in self.notices if name in words]

    def environment(self):
        return {"NOTIFY_SOCKET": self.path}

    def heed_all(self):
        """Returns once all that was sent so far has been heeded: a manager takes a dead service's last
        notices before it starts the next one."""
        barrier = f"BARRIER={next(self._barriers)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(barrier.encode(), self.path)
        eventually("what the service manager was told", lambda: self._passed == barrier)

    def handing_over(self):
        """The wrapper, descriptors and environment of a process that is handed the store. The
        descriptors are the caller's: what is stored may be dropped at any time."""
        self.heed_all()
        with self._lock:
            entries = [(name, os.dup(fd)) for name, fd, _ in self.store]
            entries += [(name, os.dup(fd)) for name, fd in self.opened]
        if not entries:
            return (), (), self.environment()
        fds = tuple(fd for _, fd in entries)
        wrapper = ("/usr/bin/python3", "-c", HAND_OVER, len(fds), *fds)
        return wrapper, fds, dict(self.environment(), LISTEN_FDS=str(len(fds)),
                                  LISTEN_FDNAMES=":".join(name for name, _ in entries))


class Managed(Server):
    """A server that a service manager starts, each time with what it has in its store."""

    def __init__(self, manager, *args, env=None):
        super().__init__(*args)
        self.manager = manager
        self.own_argv = self.argv
        self.own_env = dict(self.env, **(env or {}))

    def _spawn(self):
        wrapper, self.pass_fds, env = self.manager.handing_over()
        self.argv = [str(word) for word in wrapper] + self.own_argv
        self.env = dict(self.own_env, **env)
        try:
            super()._spawn()
        finally:
            for fd in self.pass_fds:
                os.close(fd)

    def start_again(self):
        """What was told by the one that was killed is forgotten."""
        os.ftruncate(self._stderr.fileno(), 0)
        os.lseek(self._stderr.fileno(), 0, os.SEEK_SET)
        self.start()
