#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measures how soon a dirty image can be used, oxbow beside QEMU, in turns in one run.

    ./dev bench open [--rounds N] [--sizes 100G,1T,10T] [--dir DIR] [--json FILE]

Each sample is what a guest meets: a server is started on an image with lazy refcounts, all its
tables allocated and the dirty bit set, and one NBD client, a few lines of Python, connects as soon as
the socket answers. The times run from the start of the server to the answer to the first read, to
that to a write in place after it, and to that to a write that needs a new cluster after that. Then
the client goes on with reads and writes of 4 KiB in place, one after another, for as long as the
server recovers the image; one that recovers before it serves has none of these. Peak memory is the
server's.

Warm: the image's tables are in the page cache. Cold: the image's pages were dropped, and the
kernel's caches of names and extents (drop_caches), which slows whatever else runs on the machine.

The images are written here and not by a contender: header, refcount table and blocks, L1, and each L2
table before the data it names, which is a hole. The last cluster of the disk is not allocated, for the
write that allocates. Between samples every byte that a contender may have changed is put back.
"""
import argparse
import array
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "interop")]

import harness
import interop

CLUSTER = 65536
ENTRIES = CLUSTER // 8
COUNTS = CLUSTER // 2
UNITS = {"M": 20, "G": 30, "T": 40}
CONTENDERS = ("oxbow", "qemu")
FIRSTS = ("read", "write", "alloc")
START_SECONDS = 300
BESIDE_SECONDS = 60
READ, WRITE, DISCONNECT = 0, 1, 2


# ---- the image ----

class DirtyImage:
    """A dirty image of a size, and what it takes to make it so again."""

    def __init__(self, path, size):
        self.path, self.size = path, size
        guest = size // CLUSTER
        tables = -(-guest // ENTRIES)
        l1_clusters = -(-tables * 8 // CLUSTER)
        data = guest + tables
        blocks = (data + l1_clusters) // COUNTS + 2
        blocks += -(-blocks // COUNTS)
        table_clusters = -(-blocks * 8 // CLUSTER)
        self.l1_at = 1 + table_clusters + blocks
        self.first = self.l1_at + l1_clusters
        # All but the disk's last cluster.
        self.end = self.first + data - 1
        with open(path, "wb") as file:
            self._write_head(file, guest, tables, table_clusters, blocks)
            self._write_tables(file, guest, tables)
            file.truncate(self.end * CLUSTER)
            file.flush()
            os.fsync(file.fileno())
        self._keep(table_clusters, tables)

    def _write_head(self, file, guest, tables, table_clusters, blocks):
        file.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, guest * CLUSTER, 0,
                               tables, self.l1_at * CLUSTER, CLUSTER, table_clusters, 0, 0,
                               1, 1, 0, 4, 104))
        file.seek(CLUSTER)
        entries = array.array("Q", range((1 + table_clusters) * CLUSTER,
                                         self.l1_at * CLUSTER, CLUSTER))
        entries.byteswap()
        file.write(entries.tobytes())
        ones = b"\0\1" * COUNTS
        for block in range(blocks):
            file.seek((1 + table_clusters + block) * CLUSTER)
            file.write(ones[:2 * max(0, min(COUNTS, self.end - block * COUNTS))])
        table_step = (ENTRIES + 1) * CLUSTER
        first = 1 << 63 | self.first * CLUSTER
        entries = array.array("Q", (first + i * table_step for i in range(tables)))
        entries.byteswap()
        file.seek(self.l1_at * CLUSTER)
        file.write(entries.tobytes())

    def _write_tables(self, file, guest, tables):
        for i in range(tables):
            at = self.first + i * (ENTRIES + 1)
            count = min(ENTRIES, guest - i * ENTRIES)
            if i == tables - 1:
                count -= 1
            first = 1 << 63 | (at + 1) * CLUSTER
            entries = array.array("Q", range(first, first + count * CLUSTER, CLUSTER))
            entries.byteswap()
            file.seek(at * CLUSTER)
            file.write(entries.tobytes())

    def _keep(self, table_clusters, tables):
        """What a write that allocates, and a recovery, may change."""
        last_table = self.first + (tables - 1) * (ENTRIES + 1)
        last_block = 1 + table_clusters + self.end // COUNTS
        self.kept = {}
        with open(self.path, "rb") as file:
            for cluster in (0, *range(1, 1 + table_clusters), last_block - 1, last_block,
                            last_block + 1, self.l1_at, last_table):
                file.seek(cluster * CLUSTER)
                self.kept[cluster * CLUSTER] = file.read(CLUSTER)

    def restore(self):
        with open(self.path, "r+b") as file:
            file.truncate(self.end * CLUSTER)
            for offset, data in self.kept.items():
                file.seek(offset)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def drop(self):
        fd = os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")

    def warm(self):
        """Reads every table."""
        with open(self.path, "rb", buffering=0) as file:
            file.read(self.first * CLUSTER)
            for at in range(self.first, self.end, ENTRIES + 1):
                file.seek(at * CLUSTER)
                file.read(CLUSTER)


# ---- the guest ----

class Client:
    """One connection, one request at a time."""

    def __init__(self, path, alive):
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                if not alive() or time.monotonic() > deadline:
                    sys.exit("bench: the server did not start")
                time.sleep(0.0005)
        if self._take(16) != b"NBDMAGICIHAVEOPT":
            sys.exit("bench: no NBD server")
        self._take(2)
        self.socket.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
        self._take(10)
        self.handle = 0

    def _take(self, count):
        got = b""
        while len(got) < count:
            part = self.socket.recv(count - len(got))
            if not part:
                sys.exit("bench: the server hung up")
            got += part
        return got

    def request(self, kind, offset, length=4096):
        self.handle += 1
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, self.handle, offset, length)
                            + (b"\x5a" * length if kind == WRITE else b""))
        magic, error, handle = struct.unpack(">IIQ", self._take(16))
        if magic != 0x67446698 or error or handle != self.handle:
            sys.exit(f"bench: request {kind} at {offset} failed: {error}")
        if kind == READ:
            self._take(length)


class Recovery(threading.Thread):
    """Reads what a server says, for the end of a recovery beside the guest."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream = stream
        self.beside = self.ended = False
        self.start()

    def run(self):
        for line in self.stream:
            if "usable while" in line:
                self.beside = True
            elif "refcounts were rebuilt" in line or "cannot be recovered" in line:
                self.ended = True


def peak_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def server_of(bench, contender, image, path):
    if contender == "qemu":
        return ["qemu-nbd", "-f", "qcow2", "--cache=writeback", "--discard=unmap", "-t", "-k", path,
                image]
    mode = ["--recover=auto"] if "--recover" in bench.help else []
    return [bench.oxbow, "serve", "-f", "qcow2", "--cache", "writeback", *mode, "--nbd", path, image]


def work_beside(client, size, recovery, began):
    """Reads and writes while a recovery runs: their latencies in ms, and when it ended."""
    latencies = {"read": [], "write": []}
    rng = random.Random(7)
    while recovery.beside and not recovery.ended and time.monotonic() < began + BESIDE_SECONDS:
        for name, kind in (("read", READ), ("write", WRITE)):
            at = rng.randrange(size // CLUSTER - 1) * CLUSTER
            start = time.monotonic()
            client.request(kind, at)
            latencies[name].append((time.monotonic() - start) * 1000)
    return latencies, time.monotonic() - began if recovery.beside else None


def sample(bench, contender, image, cold):
    image.restore()
    if cold:
        image.drop()
    else:
        image.warm()
    path = bench.dir / "nbd.sock"
    path.unlink(missing_ok=True)
    argv = [str(word) for word in server_of(bench, contender, image.path, path)]
    began = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        recovery = Recovery(process.stderr)
        client = Client(path, lambda: process.poll() is None)
        times = {}
        for name, kind, at in (("read", READ, image.size // 3 // CLUSTER * CLUSTER),
                               ("write", WRITE, image.size // 2 // CLUSTER * CLUSTER),
                               ("alloc", WRITE, image.size - CLUSTER)):
            client.request(kind, at)
            times[name] = time.monotonic() - began
        beside, ended = work_beside(client, image.size, recovery, began)
        peak = peak_mib(harness.serving_pid(process.pid))
        process.send_signal(signal.SIGKILL)
    interop.wait_until_unlocked(image.path)  # a keeper's child goes after it, and its ring after that
    return {"seconds": times, "peak_mib": peak, "recovered_after": ended, "beside_ms": beside}


# ---- the table ----

def cell(value, form="{:,.3f}"):
    return "-" if value is None else form.format(value)


def p99(values):
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def summary(samples):
    done = {name: statistics.median(s["seconds"][name] for s in samples) for name in FIRSTS}
    done["peak_mib"] = statistics.median(s["peak_mib"] for s in samples)
    ended = [s["recovered_after"] for s in samples if s["recovered_after"] is not None]
    done["recovered_after"] = statistics.median(ended) if ended else None
    for name in ("read", "write"):
        all_ms = [ms for s in samples for ms in s["beside_ms"][name]]
        done[f"{name}_ms"] = [statistics.median(all_ms), p99(all_ms), len(all_ms)] if all_ms else None
    return done


def print_row(name, contender, done):
    beside = [("{:.2f}/{:.2f}".format(*done[f"{kind}_ms"][:2]) if done[f"{kind}_ms"] else "-")
              for kind in ("read", "write")]
    print(f"{name:12}{contender:8}" + "".join(f"{cell(done[first]):>10}" for first in FIRSTS)
          + f"{cell(done['recovered_after'], '{:,.2f}'):>11}{cell(done['peak_mib'], '{:,.0f}'):>9}"
          + "".join(f"{text:>14}" for text in beside), flush=True)


def size_of(text):
    match = re.fullmatch(r"(\d+)([MGT])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no size such as 100G")
    return int(match[1]) << UNITS[match[2]]


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, usage="./dev bench open [OPTION...]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="100G,1T,10T")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench-open.json")
    bench = parser.parse_args(argv)
    bench.sizes = [(text, size_of(text)) for text in bench.sizes.split(",")]
    bench.oxbow = os.environ.get("OXBOW", str(ROOT / "build" / "oxbow"))
    bench.help = subprocess.run([bench.oxbow, "help", "serve"], stdout=subprocess.PIPE, text=True,
                                check=True).stdout
    return bench


def measure(bench, image, name):
    rows = []
    for cold in (False, True):
        samples = {contender: [] for contender in CONTENDERS}
        for _ in range(bench.rounds):
            for contender in CONTENDERS:
                samples[contender].append(sample(bench, contender, image, cold))
        for contender in CONTENDERS:
            done = summary(samples[contender])
            row = f"{name} {'cold' if cold else 'warm'}"
            print_row(row, contender, done)
            rows.append({"row": row, "contender": contender, **done, "samples": [
                {key: s[key] for key in ("seconds", "peak_mib", "recovered_after")}
                for s in samples[contender]]})
    return rows


def main(argv):
    bench = parse_arguments(argv)
    bench.dir.mkdir(parents=True, exist_ok=True)
    bench.dir = pathlib.Path(tempfile.mkdtemp(dir=bench.dir))
    table = []
    print("seconds from the server's start to the first answer, to the recovery's end; MiB; ms beside")
    print(f"{'':20}{'read':>10}{'write':>10}{'allocate':>10}{'recovered':>11}{'peak':>9}"
          f"{'read p50/99':>14}{'write p50/99':>14}", flush=True)
    try:
        for name, size in bench.sizes:
            image = DirtyImage(bench.dir / "dirty.qcow2", size)
            table += measure(bench, image, name)
            image.path.unlink()
    finally:
        shutil.rmtree(bench.dir)
        bench.json.write_text(json.dumps({
            "rounds": bench.rounds, "oxbow": bench.oxbow, "kernel": os.uname().release,
            "cpus": os.cpu_count(), "rows": table}, indent=1) + "\n")
    print(f"\n{bench.json} holds every sample")


if __name__ == "__main__":
    main(sys.argv[1:])
