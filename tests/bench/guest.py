#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measures a guest's disk over vhost-user: oxbow beside qemu-storage-daemon, in turns, in one run.

    ./dev bench guest [--quick] [--rounds N] [--seconds N] [--dir DIR] [--json FILE] [ROW...]

ROW selects rows by a part of their name ("read", "alloc", "depth-1"). The client is tests/bench/vhost_load.c:
one thread that is front end and driver, with random requests of 4 KiB. Each row is run once a round for each
contender, one after the other. What is printed are medians of the rounds, and for oxbow over the others the
median of the ratios within a round, with the least and the greatest of them.

The contenders:
  oxbow      oxbow serve -f qcow2, as it is without further options: with a keeper, in a sandbox
  qsd        qemu-storage-daemon, its vhost-user-blk export of a qcow2 image, on an iothread (--no-iothread:
             in its main loop, which does not poll), with aio=native (--qemu-aio)
  qsd-raw    the same, of a raw file
  oxbow-raw  oxbow serve -f raw

inplace: an image all of whose clusters are allocated, cache none (O_DIRECT); oxbow and qsd have the same file.
alloc: an empty image, each write to a cluster of its own, and durable before it is answered: oxbow with cache
directsync, qsd with writethrough=on. lazy: the same with lazy refcounts.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CONTENDERS = ("oxbow", "qsd", "qsd-raw", "oxbow-raw")
PREFILLED_BYTES = 512 << 20
EMPTY_BYTES = 16 << 30
QUEUES = 2
START_SECONDS = 60
END_SECONDS = 20
TICK = os.sysconf("SC_CLK_TCK")


class Row:
    """What is asked of a server."""

    def __init__(self, load, queues, depth, lazy=False):
        self.load, self.queues, self.depth, self.lazy = load, queues, depth, lazy
        self.allocates = load == "alloc"
        kind = "alloc-sync" + ("-lazy" if lazy else "") if self.allocates else f"inplace-{load}"
        flight = f"depth-{depth}" if queues == 1 else f"{queues}x{depth}"
        self.name = f"{kind}-{flight}"


def all_rows():
    rows = [Row(load, queues, depth) for load in ("read", "write")
            for queues, depth in ((1, 1), (1, 32), (QUEUES, 64))]
    return rows + [Row("alloc", 1, depth, lazy) for lazy in (False, True) for depth in (1, 32)]


def command(*argv):
    """Runs a command, and ends the benchmark if it fails."""
    result = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        sys.exit(f"bench: {argv} exited with {result.returncode}: {result.stdout}")
    return result.stdout


# ---- images ----

def is_raw(contender):
    return contender.endswith("raw")


def prefilled_image(bench, contender):
    """Made once for all rows; those who serve one format share it."""
    image = bench.dir / ("full.raw" if is_raw(contender) else "full.qcow2")
    if image.exists():
        return image
    plain = bench.dir / "full.raw"
    if not plain.exists():
        with open(plain, "wb") as file:
            for _ in range(PREFILLED_BYTES >> 20):
                file.write(os.urandom(1 << 20))
    if image != plain:
        command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, image)
    return image


def empty_image(bench, contender, lazy):
    image = bench.dir / "empty.img"
    image.unlink(missing_ok=True)
    if is_raw(contender):
        with open(image, "wb") as file:
            file.truncate(EMPTY_BYTES)
    else:
        command("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                f"lazy_refcounts={'on' if lazy else 'off'}", image, EMPTY_BYTES)
    return image


# ---- servers ----

def oxbow_argv(bench, contender, image, row):
    cache = "directsync" if row.allocates else "none"
    return [bench.oxbow, "serve", "-f", "raw" if is_raw(contender) else "qcow2", "--cache", cache,
            *bench.oxbow_options.split(), "--vhost-user-blk", bench.dir / "disk.vhost", image]


def qsd_argv(bench, contender, image, row):
    node = f"driver=file,node-name=file,filename={image},cache.direct=on,aio={bench.qemu_aio},discard=unmap"
    export = (f"type=vhost-user-blk,id=export,node-name={'file' if is_raw(contender) else 'disk'},"
              f"addr.type=unix,addr.path={bench.dir / 'disk.vhost'},writable=on,num-queues={QUEUES}")
    if row.allocates:
        export += ",writethrough=on"
    argv = ["qemu-storage-daemon", "--blockdev", node]
    if not is_raw(contender):
        argv += ["--blockdev", "driver=qcow2,node-name=disk,file=file"]
    if bench.iothread:
        argv += ["--object", "iothread,id=io"]
        export += ",iothread=io"
    return argv + ["--export", export]


def children_of(pid):
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


class Served:
    """An image behind one contender's server, for the length of a with statement."""

    def __init__(self, bench, contender, image, row):
        self.socket = bench.dir / "disk.vhost"
        make = oxbow_argv if contender.startswith("oxbow") else qsd_argv
        self.argv = [str(word) for word in make(bench, contender, image, row)]

    def __enter__(self):
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"bench: {self.argv} did not start")
            time.sleep(0.01)
        time.sleep(0.1)
        return self

    def _processes(self):
        found = [self.process.pid]
        for pid in found:
            found += children_of(pid)
        return found

    def cpu_seconds(self):
        """Of all of its processes, user and system."""
        total = 0
        for pid in self._processes():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory_kib(self):
        """What its processes take (Pss), but for the guest's memory."""
        total, counts = 0, True
        for pid in self._processes():
            for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
                if not line.split()[0].endswith(":"):  # a mapping begins
                    counts = "/memfd:guest" not in line
                elif line.startswith("Pss:") and counts:
                    total += int(line.split()[1])
        return total

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            # QEMU 7.2 does that now and then; its sample is taken by then.
            print(f"bench: {self.argv[0]} did not end, and was killed", file=sys.stderr)
            self.process.kill()
            self.process.wait()


# ---- measuring ----

def measure(bench, contender, row, seed):
    """One sample: what the client saw, and what it cost the server."""
    image = empty_image(bench, contender, row.lazy) if row.allocates else prefilled_image(bench, contender)
    os.sync()
    with Served(bench, contender, image, row) as server:
        before = server.cpu_seconds()
        load = subprocess.Popen(
            [bench.client, server.socket, row.load, str(row.queues), str(row.depth),
             str(int(bench.seconds * 1000)), str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = load.stdout.readline()
        if not line:
            sys.exit(f"bench: the client of {contender} failed in {row.name}")
        sample = {"cpu_seconds": server.cpu_seconds() - before, "memory_kib": server.memory_kib()}
        load.stdin.close()
        if load.wait(30) != 0:
            sys.exit(f"bench: the client of {contender} failed at the end of {row.name}")
    requests, seconds, p50, p99, kicks, wakes = (float(word) for word in line.split())
    warm = 1.0 if row.allocates else 1.1  # the client's warming up is the server's work too
    return sample | {"iops": requests / seconds, "p50_us": p50, "p99_us": p99,
                     "cpu_us": sample["cpu_seconds"] * 1e6 / warm / max(requests, 1),
                     "kicks": kicks / max(requests, 1), "wakes": wakes / max(requests, 1)}


def median(samples, name):
    return statistics.median(sample[name] for sample in samples)


def ratios(samples, other, name):
    """Of oxbow over another within each round: median, least, greatest."""
    found = [ours[name] / max(theirs[name], 1e-9) for ours, theirs in zip(samples["oxbow"], samples[other])]
    return [statistics.median(found), min(found), max(found)]


def run_row(bench, row):
    samples = {contender: [] for contender in bench.contenders}
    for number in range(bench.rounds):
        turns = bench.contenders[number % len(bench.contenders):] + \
            bench.contenders[:number % len(bench.contenders)]
        for contender in turns:
            if not (row.lazy and is_raw(contender)):
                samples[contender].append(measure(bench, contender, row, number + 1))
    samples = {contender: found for contender, found in samples.items() if found}
    done = {"row": row.name, "load": os.getloadavg()[0], "samples": samples, "ratios": {}}
    for other in samples:
        if "oxbow" in samples and other != "oxbow":
            done["ratios"][other] = {name: ratios(samples, other, name)
                                     for name in ("iops", "p99_us", "cpu_us", "memory_kib")}
    return done


def print_row(done):
    print(f"\n{done['row']:28}{'IOPS':>10}{'p50 us':>9}{'p99 us':>9}{'CPU us':>8}{'MiB':>7}"
          f"{'kicks':>7}{'wakes':>7}   oxbow's IOPS over it")
    for contender, samples in done["samples"].items():
        line = (f"  {contender:26}{median(samples, 'iops'):>10,.0f}{median(samples, 'p50_us'):>9,.0f}"
                f"{median(samples, 'p99_us'):>9,.0f}{median(samples, 'cpu_us'):>8.1f}"
                f"{median(samples, 'memory_kib') / 1024:>7.1f}{median(samples, 'kicks'):>7.2f}"
                f"{median(samples, 'wakes'):>7.2f}")
        if contender in done["ratios"]:
            line += "   {:.2f} ({:.2f}-{:.2f})".format(*done["ratios"][contender]["iops"])
        print(line, flush=True)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, usage="./dev bench guest [OPTION...] [ROW...]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a second a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of a row")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build",
                        help="in whose subfolder the images lie; a file system that knows O_DIRECT")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench-guest.json")
    parser.add_argument("--qemu-aio", default="native", choices=("native", "threads", "io_uring"))
    parser.add_argument("--iothread", action=argparse.BooleanOptionalAction, default=True,
                        help="give qemu-storage-daemon's export a thread of its own, which polls")
    parser.add_argument("--oxbow-options", default="", help="more options for oxbow serve")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which of %(default)s to run")
    parser.add_argument("rows", nargs="*", metavar="ROW")
    bench = parser.parse_args(argv)
    bench.oxbow = os.environ.get("OXBOW", str(ROOT / "build" / "oxbow"))
    bench.client = ROOT / "build" / "tests" / "bench" / "vhost_load"
    bench.contenders = [name for name in CONTENDERS if name in bench.contenders.split(",")]
    if bench.quick:
        bench.rounds = bench.seconds = 1
    return bench


def main(argv):
    bench = parse_arguments(argv)
    rows = [row for row in all_rows() if not bench.rows or any(part in row.name for part in bench.rows)]
    if not rows:
        sys.exit("bench: no row is named like that: " + " ".join(row.name for row in all_rows()))
    bench.dir.mkdir(parents=True, exist_ok=True)
    bench.dir = pathlib.Path(tempfile.mkdtemp(dir=bench.dir))
    bench.dir.chmod(0o755)
    table = []
    try:
        for row in rows:
            table.append(run_row(bench, row))
            print_row(table[-1])
    finally:
        shutil.rmtree(bench.dir)
        bench.json.write_text(json.dumps({
            "rounds": bench.rounds, "seconds": bench.seconds, "kernel": os.uname().release,
            "qemu": command("qemu-storage-daemon", "--version").split("\n")[0],
            "qemu_aio": bench.qemu_aio, "iothread": bench.iothread, "cpus": os.cpu_count(),
            "rows": table}, indent=1) + "\n")
    print(f"\n{bench.json} holds every sample. Load of the machine: "
          f"{min(row['load'] for row in table):.1f} to {max(row['load'] for row in table):.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
