#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Conversions by oxbow, qemu-img at its best options, and nbdcopy, in turns.

usage: convert.py [--quick] [ROW...]

Prints the median of each and how many times as long the others take. A program that leaves its bytes
in the page cache is measured with a sync of the file behind it as well, as that is what oxbow's time
holds. oxbow drops the source from the page cache when it is done, so that each turn reads the source
once before the clock starts.

QEMU_IMG names another qemu-img than that of PATH.
"""
import errno
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OXBOW = os.environ.get("OXBOW", str(ROOT / "build" / "oxbow"))
QEMU_IMG = os.environ.get("QEMU_IMG", "qemu-img")
MIB = 1 << 20


def run(*args, **kwargs):
    subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL, **kwargs)


def make_full(size):
    block = os.urandom(MIB)
    with open("full.raw", "wb") as file:
        for i in range(size):
            file.write(block[i % MIB:] + block[:i % MIB])
    run("qemu-img", "convert", "-W", "-O", "qcow2", "full.raw", "full.qcow2")


def make_fragmented(size):
    chance = random.Random(1)
    clusters = size * 16
    writes = "".join(f"write -q -P {i % 250 + 1} {chance.randrange(clusters) * 64}k 64k\n"
                     for i in range(clusters // 4))
    run("qemu-img", "create", "-q", "-f", "qcow2", "fragmented.qcow2", f"{size}M")
    run("qemu-io", "-f", "qcow2", "--cache=unsafe", "fragmented.qcow2", input=writes.encode())
    run("qemu-img", "convert", "-O", "raw", "fragmented.qcow2", "sparse.raw")


def make_scattered(size):
    """4 KiB of data every 16 MiB."""
    with open("scattered.raw", "wb") as file:
        file.truncate(size << 28)
        for offset in range(0, size << 28, 16 * MIB):
            file.seek(offset)
            file.write(b"x" * 4096)
    run("qemu-img", "convert", "-O", "qcow2", "scattered.raw", "scattered.qcow2")


def make_compressed(size):
    """What a system disk holds: programs, libraries, documents, headers, in the order of their names."""
    left = size * MIB
    with open("files.raw", "wb") as out:
        for folder in ("/usr/bin", "/usr/lib", "/usr/include", "/usr/share"):
            share = left // 2 if folder != "/usr/share" else left
            for path in sorted(pathlib.Path(folder).rglob("*")):
                if share <= 0:
                    break
                if path.is_file() and not path.is_symlink():
                    taken = path.read_bytes()[:share]
                    out.write(taken.ljust(-len(taken) // 4096 * -4096, b"\0"))
                    share -= len(taken)
                    left -= len(taken)
        out.truncate(size * MIB)
    run("qemu-img", "convert", "-c", "-W", "-O", "qcow2", "files.raw", "files.qcow2")


NBD = "nbd+unix:///?socket=full.sock"
NOWHERE = "null-co"
NBD_SPARSE = "nbd+unix:///?socket=sparse.sock"


def serve(image, socket):
    """The same server for all."""
    return subprocess.Popen(["nbdkit", "--foreground", "--exit-with-parent", "-U", socket, "file",
                             image])


# Name, options of both, format and name of the source, format of the target.
ROWS = (
    ("raw-qcow2", (), "raw", "full.raw", "qcow2"),
    ("qcow2-raw", (), "qcow2", "full.qcow2", "raw"),
    ("qcow2-qcow2", (), "qcow2", "full.qcow2", "qcow2"),
    ("sparse", (), "raw", "sparse.raw", "qcow2"),
    ("fragmented", (), "qcow2", "fragmented.qcow2", "qcow2"),
    ("scattered", (), "raw", "scattered.raw", "qcow2"),
    ("scattered-q", (), "qcow2", "scattered.qcow2", "qcow2"),
    ("empty-8T", ("-n",), "qcow2", "empty.qcow2", "qcow2"),
    ("raw-raw", (), "raw", "full.raw", "raw"),
    ("nbd-qcow2", (), "raw", NBD, "qcow2"),
    ("nbd-sparse", (), "raw", NBD_SPARSE, "qcow2"),
    ("zlib", ("-c",), "raw", "files.raw", "qcow2"),
    ("zstd", ("-c", "-o", "compression_type=zstd"), "raw", "files.raw", "qcow2"),
    ("read-zlib", (), "qcow2", "files.qcow2", "raw"),
    ("read-alone", ("-n",), "qcow2", "files.qcow2", NOWHERE),
)


def read_data(path):
    """Into the page cache, without the holes."""
    fd = os.open(path, os.O_RDONLY)
    at, end = 0, os.fstat(fd).st_size
    try:
        while at < end:
            at = os.lseek(fd, at, os.SEEK_DATA)
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            while at < hole:
                at += len(os.pread(fd, min(MIB, hole - at), at))
    except OSError as error:
        if error.errno != errno.ENXIO:  # there is no more data
            raise
    finally:
        os.close(fd)


def prepare(row):
    pathlib.Path("out").unlink(missing_ok=True)
    if row[0] == "empty-8T":
        run("qemu-img", "create", "-q", "-f", "qcow2", "out", "8T")
    source = {NBD: "full.raw", NBD_SPARSE: "sparse.raw"}.get(row[3], row[3])
    read_data(source)
    os.sync()


def timed(row, command, sync):
    prepare(row)
    start = time.monotonic()
    run(*command)
    if sync:
        fd = os.open("out", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return time.monotonic() - start


def programs(row):
    """Name, command, whether a sync follows."""
    _, options, source_format, source, fmt = row
    if fmt == NOWHERE:
        size = os.path.getsize("files.raw")
        tail = (*options, "-f", source_format, "--target-image-opts", source,
                f"driver=null-co,size={size}")
        return [("oxbow", (OXBOW, "convert", *tail), False),
                ("qemu-img", (QEMU_IMG, "convert", "-W", "-m", "16", *tail), False)]
    tail = (*options, "-f", source_format, "-O", fmt, source, "out")
    best = (QEMU_IMG, "convert", "-W", "-m", "16", *tail)
    found = [("oxbow", (OXBOW, "convert", *tail), False),
             ("oxbow -t unsafe", (OXBOW, "convert", "-t", "unsafe", *tail), False),
             ("qemu-img", best, False), ("qemu-img, synced", best, True)]
    if source_format == "raw" and not options and not row[0].startswith("scattered"):
        # It knows no qcow2: what it makes is the raw file.
        found.append(("nbdcopy --flush", ("nbdcopy", "--flush", source, "out"), False))
    return found


def main():
    quick = "--quick" in sys.argv[1:]
    wanted = [a for a in sys.argv[1:] if not a.startswith("--")]
    size, turns = (128, 3) if quick else (768, 5)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        os.chdir(folder)
        make_full(size)
        make_fragmented(size)
        make_scattered(size)
        make_compressed(size // 2)
        run("qemu-img", "create", "-q", "-f", "qcow2", "empty.qcow2", "8T")
        servers = [serve("full.raw", "full.sock"), serve("sparse.raw", "sparse.sock")]
        for row in ROWS:
            if wanted and row[0] not in wanted:
                continue
            times = {}
            for _ in range(1 if row[0].startswith("empty") else turns):
                for name, command, sync in programs(row):
                    times.setdefault(name, []).append(timed(row, command, sync))
            ours = statistics.median(times["oxbow"])
            print(f"{row[0]:12}  " + "  ".join(
                f"{name} {statistics.median(t):.2f} s ({statistics.median(t) / ours:.2f})"
                for name, t in times.items()), flush=True)
        for server in servers:
            server.terminate()
            server.wait()
        os.chdir("/")


if __name__ == "__main__":
    main()
