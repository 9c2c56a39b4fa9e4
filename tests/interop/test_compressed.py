#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Compressed clusters: QEMU reads and checks what oxbow wrote, and the reverse."""
import random

from hostfs import *
from interop import *

KINDS = ("cluster_size=512", "cluster_size=64k", "cluster_size=2M",
         "cluster_size=64k,lazy_refcounts=on", "cluster_size=4k,refcount_bits=1",
         "cluster_size=4k,compat=0.10", "cluster_size=4k,refcount_bits=64,compression_type=zstd",
         "cluster_size=2M,compression_type=zstd,lazy_refcounts=on")
SIZE = 3 * MIB + 1536


def cluster_of(kind):
    text = kind.split(",")[0].split("=")[1]
    return int(text.rstrip("kM")) * {"k": KIB, "M": MIB}.get(text[-1], 1)


def mixed_bytes(seed, length):
    """Text, noise, and words that come again, in stretches."""
    draw = random.Random(seed)
    out = bytearray()
    while len(out) < length:
        n = draw.choice((100, 5000, 70000))
        kind = draw.randrange(3)
        if kind == 0:
            out += draw.randbytes(n)
        elif kind == 1:
            out += (b"the %d quick foxes " % draw.randrange(1000)) * (n // 20)
        else:
            out += b" ".join(b"%x" % draw.randrange(5000) for _ in range(n // 4))
    return bytes(out[:length])


def same_to_both(image, expected, what):
    check_bytes(guest_bytes_by_oxbow(image), expected, f"{what}, read by oxbow")
    check_bytes(guest_bytes_by_qemu(image), expected, f"{what}, read by QEMU")
    qemu_img("check", "-q", "-f", "qcow2", image)
    oxbow("check", "-q", "--data", image)


def test_qemu_reads_and_checks_what_oxbow_compressed():
    for kind in KINDS:
        data = mixed_bytes(kind, SIZE)
        pathlib.Path("source").write_bytes(data)
        oxbow("create", "-q", "-f", "qcow2", "-o", kind, "disk", str(SIZE))
        oxbow("io", "-f", "qcow2", "-t", "writeback", "-c", f"write -q -c -s source 0 {SIZE}", "disk")
        same_to_both("disk", data, kind)
        check_in("compressed clusters", qemu_img("check", "disk").stdout, "what QEMU says")


def test_a_level_is_a_trade_of_time_for_size():
    data = (ROOT / "docs" / "durability.md").read_bytes() + (ROOT / "CHANGELOG.md").read_bytes()
    data = (data * 40)[:4 * MIB].ljust(4 * MIB, b".")
    pathlib.Path("source").write_bytes(data)
    for compression, highest in (("zstd", 19), ("zlib", 9)):
        lengths = []
        for level in (1, highest):
            oxbow("convert", "-c", f"--compression-level={level}", "-f", "raw", "-O", "qcow2",
                  "-o", f"compression_type={compression}", "source", f"disk{level}")
            same_to_both(f"disk{level}", data, f"{compression}, level {level}")
            lengths.append(os.path.getsize(f"disk{level}"))
        check_equal(lengths[0] > lengths[1], True, f"{compression}: {lengths}")
        expect_failure(oxbow_path(), "convert", "-c", f"--compression-level={highest + 1}", "-O", "qcow2",
                       "-o", f"compression_type={compression}", "source", "none",
                       message=f"{compression} has no compression level {highest + 1}: 1 to {highest}")
    oxbow("create", "-q", "-f", "qcow2", "disk", str(4 * MIB))
    oxbow("io", "--compression-level", "9", "-c", f"write -q -c -s source 0 {4 * MIB}", "disk")
    check_equal(os.path.getsize("disk") < os.path.getsize("disk1"), True, "of level 9")
    for text in ("0", "-1", "fast", "3x", ""):
        expect_failure(oxbow_path(), "convert", "-c", "--compression-level", text, "source", "none",
                       message=f"Invalid compression level '{text}'")
    expect_failure(oxbow_path(), "convert", "--compression-level=3", "-O", "qcow2", "source", "none",
                   message="--compression-level requires use of -c flag")


def test_oxbow_reads_what_qemu_compressed():
    for kind in KINDS:
        data = mixed_bytes(kind, SIZE)
        pathlib.Path("source").write_bytes(data)
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", kind, "source", "disk")
        same_to_both("disk", data, kind)


def test_requests_of_all_kinds_over_compressed_clusters_keep_the_guests_bytes():
    for kind in ("cluster_size=4k", "cluster_size=64k,lazy_refcounts=on", "cluster_size=512",
                 "cluster_size=4k,refcount_bits=2", "cluster_size=16k,compression_type=zstd"):
        draw = random.Random(kind)
        cluster = cluster_of(kind)
        disk = bytearray(SIZE)
        oxbow("create", "-q", "-f", "qcow2", "-o", kind, "disk", str(SIZE))
        for _ in range(3):
            commands = []
            for _ in range(40):
                at = draw.randrange(min(SIZE // cluster, 200)) * cluster
                length = min(draw.randrange(1, 12) * cluster, SIZE - at)
                byte = draw.randrange(1, 256)
                op = draw.randrange(8)
                if op < 4:
                    commands.append(f"write -q -c -P {byte} {at} {length}")
                elif op < 6:
                    at, length = at + draw.randrange(cluster), draw.randrange(1, 3 * cluster)
                    commands.append(f"write -q -P {byte} {at} {length}")
                else:
                    byte = 0
                    commands.append(f"{'write -q -z' if op == 6 else 'discard -q'} {at} {length}")
                disk[at:at + length] = bytes([byte]) * length
            oxbow("io", "-f", "qcow2", "-t", "writeback", *io_args(commands), "disk")
            same_to_both("disk", bytes(disk), kind)


def test_a_snapshot_keeps_its_streams():
    oxbow("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "disk", "1M")
    oxbow("io", "-f", "qcow2", "-c", "write -q -c -P 1 0 256k", "disk")
    qemu_img("snapshot", "-c", "one", "disk")
    oxbow("io", "-f", "qcow2", "-c", "write -q -c -P 2 64k 256k", "-c", "write -q -P 3 16k 5000", "disk")
    same_to_both("disk", b"\1" * 16 * KIB + b"\3" * 5000 + b"\1" * (48 * KIB - 5000)
                 + b"\2" * 256 * KIB + bytes(MIB - 320 * KIB), "after the snapshot")
    qemu_img("convert", "-l", "one", "-O", "raw", "disk", "was")
    check_bytes(pathlib.Path("was").read_bytes(), b"\1" * 256 * KIB + bytes(MIB - 256 * KIB),
                "the snapshot")


def test_a_full_disk_fails_a_compressed_write_and_loses_nothing():
    needs_root()
    device = loop_device(3 * MIB)
    words = [random.Random(i).randbytes(400) + bytes(100) for i in range(4 * MIB // 500)]
    pathlib.Path("source").write_bytes(b"".join(words))
    oxbow("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", device, "8M")
    oxbow("io", "-f", "qcow2", "-c", "write -q -c -P 5 0 64k", device)
    r = oxbow("io", "-f", "qcow2", "-c", "write -q -c -s source 1M 4M", "-c", "discard -q 1M 4M",
              "-c", "flush", "-c", "write -q -c -P 6 6M 64k", device, check=False)
    check_in("No space left on device", r.stdout + r.stderr, "what is said")
    oxbow("io", "-f", "qcow2", "-c", "read -q -P 5 0 64k", "-c", "read -q -P 6 6M 64k", device)
    oxbow("check", "-q", "--data", device)


if __name__ == "__main__":
    run_tests(globals())
