#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measures oxbow, QEMU and a raw file side by side, in turns, in one run.

    ./dev bench [--quick] [--rounds N] [--dir DIR] [--json FILE] [--qemu-aio AIO] [ROW...]

ROW selects rows by a part of their name ("alloc", "inplace", "seq", "check"; "qed" for the same over
QED images). Each row is run once a
round for each contender, one after the other, and the table shows the medians: operations a second
(MB/s for seq, seconds for check), and how many times as fast oxbow is as QEMU and as the raw file.
Below it are the requests that reached the disk for each 1000 of the guest's, counted by the
kernel for the whole device: they mean something on a machine that is quiet otherwise.

The contenders, all served over an NBD unix socket to fio's NBD client:
  oxbow    oxbow serve -f qcow2, or -f qed
  qemu     qemu-nbd -f qcow2, or -f qed (--qemu-aio: native by default, what VM managers choose for
           O_DIRECT; threads and io_uring are the others)
  raw      qemu-nbd -f raw on a sparse file
  nbdkit   nbdkit file on a sparse file, through the page cache; in the directsync rows its fua
           filter makes it sync each write
"""
import argparse
import array
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ALLOC_WRITES = 8192
CLUSTER_BYTES = 65536
PER_TABLE = CLUSTER_BYTES // 8
PREFILLED_BYTES = 512 << 20
OFFSET_MASK = 0x00fffffffffffe00
LEAKED_BYTES = 8 << 30
CONTENDERS = ("oxbow", "qemu", "raw", "nbdkit")


class Row:
    """One line of the table: what is measured, and how."""

    def __init__(self, name, unit, measure, **how):
        self.name = name
        self.unit = unit
        self.measure = measure
        self.how = how


def command(*argv):
    """Runs a command, and ends the benchmark if it fails."""
    result = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        sys.exit(f"bench: {argv} exited with {result.returncode}: {result.stdout}")
    return result.stdout


class Served:
    """An image behind one contender's server, for the length of a with statement."""

    def __init__(self, bench, contender, image, cache, fmt):
        self.socket = bench.dir / "nbd.sock"
        self.argv = self._argv(bench, contender, str(image), cache, fmt)
        self.process = None

    def _argv(self, bench, contender, image, cache, fmt):
        if contender == "oxbow":
            return [bench.oxbow, "serve", "-f", fmt, "--cache", cache, "--nbd", self.socket,
                    image]
        if contender == "nbdkit":
            synced = cache in ("directsync", "writethrough")
            return ["nbdkit", "-f", "-U", self.socket, *(["--filter=fua"] if synced else []),
                    "file", image, *(["fuamode=force"] if synced else [])]
        aio = bench.qemu_aio if cache in ("none", "directsync") else "threads"
        return ["qemu-nbd", "-f", "raw" if contender == "raw" else fmt, f"--cache={cache}",
                f"--aio={aio}", "--discard=unmap", "-e", "8", "-t", "-k", self.socket, image]

    def __enter__(self):
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen([str(word) for word in self.argv], text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"bench: {self.argv} did not start")
            time.sleep(0.01)
        time.sleep(0.05)
        return f"nbd+unix:///?socket={self.socket}"

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            sys.exit(f"bench: {self.argv} did not end")


def device_counts(path):
    """(writes, flushes) that the disk below path has done, or None where that is not to be had."""
    device = os.stat(path).st_dev
    try:
        fields = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat") \
            .read_text().split()
    except OSError:
        return None
    return (int(fields[4]), int(fields[15])) if len(fields) > 15 else None


def fio(uri, *options):
    """Runs one job; returns fio's dictionary of it."""
    said = command("fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--thread",
                   "--output-format=json", *options)
    return json.loads(said[said.index("{"):])["jobs"][0]


def make_image(bench, contender, size, fmt, lazy=False):
    """A new empty image, of the row's format but for those who serve raw files."""
    image = bench.dir / f"{contender}.img"
    image.unlink(missing_ok=True)
    if contender in ("raw", "nbdkit"):
        with open(image, "wb") as file:
            file.truncate(size)
    elif fmt == "qed":
        command("qemu-img", "create", "-q", "-f", "qed", image, size)
    else:
        command("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                f"lazy_refcounts={'on' if lazy else 'off'}", image, size)
    return image


def prefilled_image(bench, contender, fmt):
    """A fully written image, made once and kept for all the rows."""
    target = "raw" if contender in ("raw", "nbdkit") else fmt
    image = bench.dir / f"{contender}-full.{target}"
    if not image.exists():
        plain = bench.dir / "full.raw"
        if not plain.exists():
            with open(plain, "wb") as file:
                for _ in range(PREFILLED_BYTES >> 20):
                    file.write(os.urandom(1 << 20))
        command("qemu-img", "convert", "-f", "raw", "-O", target, plain, image)
    return image


def measure_alloc(bench, contender, how):
    """ALLOC_WRITES writes of 4 KiB, each to a cluster of its own of an empty image."""
    size = ALLOC_WRITES * CLUSTER_BYTES
    image = make_image(bench, contender, size, how["fmt"], how["lazy"])
    os.sync()
    with Served(bench, contender, image, how["cache"], how["fmt"]) as uri:
        before = device_counts(image)
        job = fio(uri, f"--rw=write:{(CLUSTER_BYTES - 4096) >> 10}k", "--bs=4k", f"--size={size}",
                  f"--io_size={ALLOC_WRITES * 4096}", f"--iodepth={how['depth']}")["write"]
        after = device_counts(image)
    if job["total_ios"] != ALLOC_WRITES:
        sys.exit(f"bench: fio did {job['total_ios']} writes")
    image.unlink()
    return job["iops"], per_thousand(before, after, ALLOC_WRITES)


def per_thousand(before, after, requests):
    if before is None:
        return None
    return [round((b - a) * 1000 / requests) for a, b in zip(before, after)]


def measure_timed(bench, contender, how):
    """Reads or writes of a full image for a fixed time; sequential ones count in MB/s."""
    image = prefilled_image(bench, contender, how["fmt"])
    os.sync()
    with Served(bench, contender, image, "none", how["fmt"]) as uri:
        before = device_counts(image)
        job = fio(uri, f"--rw={how['rw']}", f"--bs={how['bs']}", f"--size={PREFILLED_BYTES}",
                  f"--iodepth={how['depth']}", "--time_based", f"--runtime={bench.seconds}",
                  "--randseed=7", "--norandommap")
        job = job["read" if "read" in how["rw"] else "write"]
        after = device_counts(image)
    rate = job["bw_bytes"] / 1e6 if how["bs"] == "256k" else job["iops"]
    return rate, per_thousand(before, after, max(job["total_ios"], 1))


def measure_sequential_allocation(bench, contender, how):
    """An empty image written from its begin to its end."""
    image = make_image(bench, contender, PREFILLED_BYTES, how["fmt"])
    os.sync()
    with Served(bench, contender, image, "none", how["fmt"]) as uri:
        job = fio(uri, "--rw=write", "--bs=256k", f"--size={PREFILLED_BYTES}",
                  f"--iodepth={how['depth']}")["write"]
    image.unlink()
    return job["bw_bytes"] / 1e6, None


def forget_pages(image):
    """Takes a file's pages out of the page cache."""
    with open(image, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def leak_everything(image):
    """Clears the L1 table: all that it leads to is leaked."""
    with open(image, "r+b") as file:
        header = file.read(48)
        file.seek(int.from_bytes(header[40:48], "big"))
        file.write(bytes(8 * int.from_bytes(header[36:40], "big")))


def scatter(image):
    """Shuffles the L2 entries, as if the guest had come to each cluster in an order of its own."""
    with open(image, "r+b") as file:
        header = file.read(48)
        file.seek(int.from_bytes(header[40:48], "big"))
        tables = array.array("Q", file.read(8 * int.from_bytes(header[36:40], "big")))
        tables.byteswap()
        offsets = [entry & OFFSET_MASK for entry in tables]
        entries = array.array("Q")
        for at in offsets:
            file.seek(at)
            entries.frombytes(file.read(CLUSTER_BYTES))
        entries = entries.tolist()
        random.Random(1).shuffle(entries)
        for i, at in enumerate(offsets):
            file.seek(at)
            file.write(array.array("Q", entries[i * PER_TABLE:(i + 1) * PER_TABLE]).tobytes())


def measure_check(bench, contender, how):
    """Seconds to check an image with all its metadata; the cold rows read it from the disk."""
    if contender not in ("oxbow", "qemu"):
        return None, None
    image = bench.dir / f"checked-{how['size']}.qcow2"
    if not image.exists() or "repair" in how:
        image.unlink(missing_ok=True)
        command("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image,
                how["size"])
        if "scattered" in how:
            scatter(image)
    tool = [bench.oxbow, "check"] if contender == "oxbow" else ["qemu-img", "check"]
    if "repair" in how:
        leak_everything(image)
        tool += ["-r", how["repair"]]
        if contender == "oxbow":
            tool.append("--salvage=none")  # which would find the tables, and keep them
    if how["cold"]:
        forget_pages(image)
    elif "repair" not in how:
        command(*tool, "-f", "qcow2", image)
    began = time.monotonic()
    command(*tool, "-f", "qcow2", image)
    return time.monotonic() - began, None


def format_rows(fmt):
    """What is measured over images of each format."""
    rows = []
    name = "nbd" if fmt == "qcow2" else f"nbd-{fmt}"
    for cache in ("directsync", "none"):
        for depth in (1, 32):
            for lazy in (False, True) if fmt == "qcow2" else (False,):
                counts = f"-lazy-{'on' if lazy else 'off'}" if fmt == "qcow2" else ""
                rows.append(Row(f"{name}-alloc-4k-{cache}{counts}-depth-{depth}", "op/s",
                                measure_alloc, fmt=fmt, cache=cache, lazy=lazy, depth=depth))
    for verb in ("read", "write"):
        for depth in (1, 32):
            rows.append(Row(f"{name}-inplace-4k-{verb}-depth-{depth}", "op/s", measure_timed,
                            fmt=fmt, rw="rand" + verb, bs="4k", depth=depth))
    for verb in ("read", "write"):
        rows.append(Row(f"{name}-seq-256k-{verb}-depth-8", "MB/s", measure_timed, fmt=fmt, rw=verb,
                        bs="256k", depth=8))
    rows.append(Row(f"{name}-seq-256k-alloc-depth-8", "MB/s", measure_sequential_allocation,
                    fmt=fmt, depth=8))
    return rows


def all_rows():
    rows = format_rows("qcow2") + format_rows("qed")
    for size in (256, 1024):
        for cold in (False, True):
            rows.append(Row(f"check-{size}g-{'cold' if cold else 'warm'}", "s", measure_check,
                            size=size << 30, cold=cold))
    rows.append(Row("check-32g-scattered-warm", "s", measure_check, size=32 << 30, cold=False,
                    scattered=True))
    for repair in ("leaks", "all"):
        rows.append(Row(f"check-8g-all-leaked-r-{repair}", "s", measure_check, size=LEAKED_BYTES,
                        cold=False, repair=repair))
    return rows


def ratio(row, results, other):
    """How many times as fast as the other contender oxbow is."""
    ours, theirs = results.get("oxbow"), results.get(other)
    if not ours or not theirs:
        return None
    return theirs / ours if row.unit == "s" else ours / theirs


def cell(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def groups_of(rows):
    """Rows that differ in lazy refcounts only lie together: a raw file is the same to both."""
    groups = {}
    for row in rows:
        key = row.name.replace("-lazy-on", "").replace("-lazy-off", "")
        groups.setdefault(key, []).append(row)
    return groups.values()


def run_group(bench, rows):
    """Measures rows in turns; returns what bench.json holds of each."""
    samples = {row.name: {contender: [] for contender in bench.contenders} for row in rows}
    counted = {row.name: {} for row in rows}
    for _ in range(bench.rounds):
        for contender in bench.contenders:
            value = counts = None
            for row in rows:
                if row is rows[0] or contender in ("oxbow", "qemu"):
                    value, counts = row.measure(bench, contender, row.how)
                if value is not None:
                    samples[row.name][contender].append(value)
                    counted[row.name][contender] = counts
    return [summary(row, samples[row.name], counted[row.name]) for row in rows]


def summary(row, samples, counted):
    results = {contender: statistics.median(values)
               for contender, values in samples.items() if values}
    return {"row": row.name, "unit": row.unit, "median": results, "samples": samples,
            "oxbow_to_qemu": ratio(row, results, "qemu"),
            "oxbow_to_raw": ratio(row, results, "raw"),
            "device_writes_and_flushes_per_1000":
                {contender: counts for contender, counts in counted.items() if counts}}


def print_head():
    print(f"{'':44}" + "".join(f"{name:>10}" for name in CONTENDERS)
          + f"{'unit':>6}{'/qemu':>8}{'/raw':>8}", flush=True)


def print_row(done):
    digits = 2 if done["unit"] == "s" else 0
    print(f"{done['row']:44}"
          + "".join(f"{cell(done['median'].get(name), digits):>10}" for name in CONTENDERS)
          + f"{done['unit']:>6}{cell(done['oxbow_to_qemu'], 2):>8}"
          + f"{cell(done['oxbow_to_raw'], 2):>8}", flush=True)


def print_counts(table):
    counted = [done for done in table if done["device_writes_and_flushes_per_1000"]]
    if not counted:
        return
    print("\nwrites/flushes of the disk for each 1000 requests of the guest")
    for done in counted:
        counts = done["device_writes_and_flushes_per_1000"]
        print(f"{done['row']:44}" + "".join(
            f"{'/'.join(str(n) for n in counts[name]) if name in counts else '-':>13}"
            for name in CONTENDERS))


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, usage="./dev bench [OPTION...] [ROW...]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, one second a timed row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of a timed row")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build",
                        help="in whose subfolder the images lie; a file system that knows O_DIRECT")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--qemu-aio", default="native", choices=("native", "threads", "io_uring"))
    parser.add_argument("--contenders", default=",".join(CONTENDERS),
                        help="which of %(default)s to run")
    parser.add_argument("rows", nargs="*", metavar="ROW")
    bench = parser.parse_args(argv)
    bench.oxbow = os.environ.get("OXBOW", str(ROOT / "build" / "oxbow"))
    bench.contenders = [name for name in CONTENDERS if name in bench.contenders.split(",")]
    if bench.quick:
        bench.rounds = bench.seconds = 1
    return bench


def main(argv):
    bench = parse_arguments(argv)
    rows = [row for row in all_rows()
            if not bench.rows or any(part in row.name for part in bench.rows)]
    if not rows:
        sys.exit("bench: no row is named like that: "
                 + " ".join(row.name for row in all_rows()))
    bench.dir.mkdir(parents=True, exist_ok=True)
    bench.dir = pathlib.Path(tempfile.mkdtemp(dir=bench.dir))
    table = []
    try:
        print_head()
        for group in groups_of(rows):
            for done in run_group(bench, group):
                table.append(done)
                print_row(done)
        print_counts(table)
    finally:
        shutil.rmtree(bench.dir)
        bench.json.write_text(json.dumps({
            "rounds": bench.rounds, "qemu": command("qemu-nbd", "--version").split("\n")[0],
            "qemu_aio": bench.qemu_aio, "kernel": os.uname().release, "cpus": os.cpu_count(),
            "rows": table}, indent=1) + "\n")
    print(f"\n{bench.json} holds every sample")


if __name__ == "__main__":
    main(sys.argv[1:])
