# SPDX-License-Identifier: MIT
"""A server with a keeper, and the processes that it consists of."""
import re

from interop import *

DISK_BYTES = 8 * MIB

# Of the notes of what is in flight (src/serve/flight.h).
SLOTS = 1024
ENTRY_BYTES = 32
SLOTS_OFFSET = 24


def eventually(what, look, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failure(f"{what} does not come")
        time.sleep(0.002)
    return found


class Kept(Server):
    """A server with a keeper, which is the process that was started."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    @property
    def keeper(self):
        return self.process.pid

    def _find_worker(self):
        found = self.server_pid()
        return None if found == self.keeper else found

    def worker(self):
        return eventually("a worker", self._find_worker)

    def kill_worker(self, number=signal.SIGKILL):
        pid = self.worker()
        check_equal(parent_of(pid), self.keeper, "parent of the process to kill")
        os.kill(pid, number)
        return pid

    def worker_after(self, old):
        """Which may not serve yet. The dead one may be there for a moment."""
        return eventually("another worker", lambda: (found := self._find_worker()) != old and found)

    def next_worker(self, old):
        """The one that serves after it."""
        pid = self.worker_after(old)
        handle = nbd_connect(self.uri)
        handle.shutdown()
        return pid


def kept_disk(*args, size=DISK_BYTES, kind="", **kwargs):
    oxbow("create", "-q", *kind_args(kind), "disk", str(size))
    return Kept("-f", split_kind(kind)[0], *args, "disk", **kwargs)


def read_disk(server):
    handle = nbd_connect(server.uri)
    data = nbd_read_all(handle)
    handle.shutdown()
    return data


def memory_of(server, name):
    """What the keeper holds in memory, as a path."""
    place = pathlib.Path(f"/proc/{server.keeper}/fd")
    return next(entry for entry in place.iterdir()
                if os.readlink(entry).startswith(f"/memfd:oxbow-{name}"))


def descriptors(pid):
    """What they are, sorted; standard ones left out, and those that are closed meanwhile."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if int(name) > 2:
            found.append(re.sub(r"(socket|pipe):.*", r"\1", os.path.basename(target.removesuffix(" (deleted)"))))
    return sorted(found)


def slow_syncs(seconds):
    """Every sync of the I/O threads takes so long: what it belongs to stays in flight."""
    return {"wrapper": ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,pwritev2", "-e",
                        f"inject=fdatasync,pwritev2:delay_enter={int(seconds * 1e6)}"),
            "env": {"OXBOW_IO": "threads", "ASAN_OPTIONS": "detect_leaks=0:handle_abort=0"}}


def in_flight(server):
    """(offset, length) of all that is noted."""
    data = memory_of(server, "flight").read_bytes()
    entries = (struct.unpack_from("<QQQ", data, SLOTS_OFFSET + ENTRY_BYTES * i) for i in range(SLOTS))
    return [(offset, length) for mark, offset, length in entries if mark]
