#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Maps of random images and chains, with holes of the files under their clusters: what oxbow and
qemu-img say of each range."""
import random

from peers import *

MIB = 1 << 20


def sizes(rng):
    return rng.choice((1, 3, 16, 40)) * MIB + rng.choice((0, 0, 512, 65536))


def place(rng, size):
    """A range of the disk, often of whole clusters."""
    unit = rng.choice((512, 4096, 65536))
    at = rng.randrange(size // unit) * unit
    length = min(rng.choice((1, 1, 2, 7, 30)) * unit, size - at)
    return at, length


def write_some(rng, fmt, disk, size):
    """Requests of a guest, by either program."""
    commands = []
    for _ in range(rng.randrange(12)):
        at, length = place(rng, size)
        word = rng.choice(("write -q -P 7", "write -q -P 0", "write -q -z", "write -q -z -u", "discard -q"))
        commands += ["-c", f"{word} {at} {length}"]
    if not commands:
        return
    if rng.random() < 0.5:
        qemu_io("-t", "unsafe", "-f", fmt, *commands, disk)
    else:
        oxbow("io", "-t", "unsafe", "-f", fmt, *commands, disk)


def compress_some(rng, fmt, disk, size, cluster):
    if fmt != "qcow2":
        return
    for _ in range(rng.randrange(4)):
        at = rng.randrange(max(size // cluster, 1)) * cluster
        if at + cluster <= size:
            qemu_io("-t", "unsafe", "-f", fmt, "-c", f"write -q -c -P 3 {at} {cluster}", disk, check=False)


def settle(name, sparse):
    """Space that was taken and not written to is a hole to a file system only while the page cache
    has nothing of it, so that two looks at it may differ. A copy has none."""
    run("cp", f"--sparse={sparse}", name, f"{name}.copy")
    os.replace(f"{name}.copy", name)


def make_layer(rng, name, backing):
    """An image over another one, or over nothing: its format."""
    fmt = rng.choice(("raw", "qed", "qcow2", "qcow2", "qcow2", "qcow2")) if backing is None else \
        rng.choice(("qed", "qcow2", "qcow2", "qcow2"))
    size = sizes(rng)
    cluster = 65536
    options = []
    if fmt == "qcow2":
        cluster = rng.choice((512, 4096, 65536, 65536, 262144))
        options = ["-o", f"cluster_size={cluster}"]
        if backing is None:
            options += ["-o", f"preallocation={rng.choice(('off', 'metadata', 'metadata', 'falloc'))}"]
        if rng.random() < 0.2:
            options += ["-o", "lazy_refcounts=on"]
    if backing is not None:
        options += ["-b", backing[0], "-F", backing[1]]
    qemu_img("create", "-q", "-f", fmt, *options, name, size)
    compress_some(rng, fmt, name, size, cluster)
    for _ in range(rng.randrange(1, 3)):
        write_some(rng, fmt, name, size)
    settle(name, rng.choice(("auto", "auto", "always")))
    return fmt


def compare_maps(name, fmt):
    theirs = qemu_img("map", "-f", fmt, "--output=json", name)
    ours = oxbow("map", "-f", fmt, "--output=json", name)
    check_same_map(theirs, ours, f"the map of {name}")
    return json.loads(ours.stdout)


def random_chain(seed):
    """The maps of a chain's images."""
    rng = random.Random(seed)
    backing = None
    maps = []
    for depth in range(rng.randrange(1, 4)):
        name = f"{seed}-{depth}"
        fmt = make_layer(rng, name, backing)
        maps.append(compare_maps(name, fmt))
        backing = name, fmt
    return maps


def test_random_images_are_mapped_as_qemu_img_does():
    holes = 0
    for seed in range(int(os.environ.get("OXBOW_TEST_MAPS", "25"))):
        for extents in random_chain(seed):
            holes += any(e["data"] and e["zero"] for e in extents)
    check_equal(holes > 5, True, f"{holes} images with holes under their clusters")


run_tests(globals())
