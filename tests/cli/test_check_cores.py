#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow check tells the same on all cores as on one."""
import pathlib
import random

from peers import *

CLUSTER = 512
TABLE = CLUSTER // 8
SIZE = 5 << 20  # 160 tables: enough for every core to get some


def make(*options, snapshots=0, compressed=False):
    qemu_img("create", "-q", "-f", "qcow2", "-o", ",".join(("cluster_size=512",) + options),
             "disk", str(SIZE))
    writes = [f"write -q -P {i % 250 + 1} {i * 48 << 10} 40k" for i in range(SIZE // (48 << 10))]
    random.Random(7).shuffle(writes)
    for part in range(snapshots + 1):
        some = writes[part::snapshots + 1]
        qemu_io("-f", "qcow2", *(word for write in some for word in ("-c", write)), "disk")
        if part < snapshots:
            qemu_img("snapshot", "-c", f"s{part}", "disk")
            qemu_io("-f", "qcow2", "-c", f"write -q {part * 2}M 700k", "disk")
    if compressed:
        qemu_img("convert", "-c", "-O", "qcow2", "-o", "cluster_size=512", "disk", "packed")
        os.rename("packed", "disk")


KINDS = {
    "plain": lambda: make(),
    "version 2": lambda: make("compat=0.10"),
    "snapshots": lambda: make(snapshots=2),
    "compressed": lambda: make(compressed=True),
    "narrow counts": lambda: make("refcount_bits=1"),
    "lazy": lambda: make("lazy_refcounts=on"),
}


def tables_of(image):
    with open(image, "rb") as file:
        data = file.read()
    start = int.from_bytes(data[40:48], "big")
    entries = int.from_bytes(data[36:40], "big")
    l1 = (int.from_bytes(data[start + 8 * i:start + 8 * i + 8], "big") for i in range(entries))
    return [entry & 0x00fffffffffffe00 for entry in l1 if entry], len(data)


def damage(image, rng):
    """A few entries of a few tables: other clusters, places past the end, bits, nonsense."""
    tables, length = tables_of(image)
    with open(image, "r+b") as file:
        for _ in range(rng.randint(1, 12)):
            at = rng.choice(tables) + 8 * rng.randrange(TABLE)
            file.seek(at)
            entry = int.from_bytes(file.read(8), "big")
            entry = rng.choice((
                entry ^ 1 << rng.randrange(64),
                entry ^ 1 << 63,
                rng.choice(tables) + 100 | 1 << 62,
                rng.choice(tables) | 1 << 63,
                rng.randrange(length // CLUSTER) * CLUSTER | 1 << 63,
                length + rng.randrange(100) * CLUSTER,
                rng.randrange(1 << 64),
                0))
            file.seek(at)
            file.write(entry.to_bytes(8, "big"))


def told(cpus, *args):
    result = oxbow("check", *args, "disk", check=False,
                   preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    return result.returncode, result.stdout, result.stderr


def check_alike(what, *args):
    every = os.sched_getaffinity(0)
    check_equal(told(every, *args), told({min(every)}, *args), f"{what}: {args}")


def test_all_cores_tell_what_one_tells():
    for kind, build in KINDS.items():
        build()
        check_alike(kind, "--output=json")
        check_equal(told(os.sched_getaffinity(0))[0], 0, f"{kind}: exit code")
        sound = pathlib.Path("disk").read_bytes()
        for seed in range(6):
            pathlib.Path("disk").write_bytes(sound)
            damage("disk", random.Random(f"{kind} {seed}"))
            args = ("--output=json",) if seed % 2 else ("-r", "all", "--dry-run")
            check_alike(f"{kind}, damaged with seed {seed}", *args)


def test_a_file_that_ends_early_is_told_alike():
    make()
    sound = pathlib.Path("disk").read_bytes()
    for share in (0.5, 0.9, 0.99):
        pathlib.Path("disk").write_bytes(sound[:int(len(sound) * share)])
        check_alike(f"{share} of the file", "--output=json")


run_tests(globals())
