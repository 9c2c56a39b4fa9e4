#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow checksum, against the definition in docs/checksum.md."""
import hashlib
import random
import re
import struct

from peers import *

MIB = 1 << 20
BLOCK = 65536


def blkhash(data):
    outer = hashlib.sha256()
    for at in range(0, len(data), BLOCK):
        outer.update(hashlib.sha256(data[at:at + BLOCK]).digest())
    outer.update(struct.pack("<Q", len(data)))
    return outer.hexdigest()


def digest_of(*args):
    said = oxbow("checksum", *args).stdout
    check_equal(re.fullmatch(r"[0-9a-f]{64}  .+\n", said) is not None, True, f"form of {said!r}")
    return said.split()[0]


def random_bytes(rng, size):
    data = bytearray(size)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(size)
        length = min(rng.choice((1, 512, 65536, 300000)), size - at)
        data[at:at + length] = rng.randbytes(length)
    return bytes(data)


def check_both(data, *args):
    check_equal(digest_of(*args), blkhash(data), "checksum")
    check_equal(digest_of("--algorithm", "sha256", *args), hashlib.sha256(data).hexdigest(), "flat checksum")


def test_sums_are_as_they_are_defined():
    for seed, size in enumerate((0, 512, BLOCK - 512, BLOCK, BLOCK + 512, MIB, 3 * MIB + 1024, 9 * MIB - 512)):
        data = random_bytes(random.Random(seed), size) if size else b""
        pathlib.Path("disk").write_bytes(data)
        check_both(data, "-f", "raw", "disk")


def test_the_sum_is_the_same_for_every_format_and_layout():
    data = random_bytes(random.Random(7), 5 * MIB + 512)
    pathlib.Path("raw").write_bytes(data)
    want = blkhash(data)
    for fmt, options in (("qcow2", ()), ("qcow2", ("-o", "cluster_size=512")), ("qcow2", ("-c",)), ("qed", ()),
                         ("qcow2", ("-W",)), ("qcow2", ("-S", "0")), ("raw", ("-S", "0"))):
        qemu_img("convert", "-f", "raw", "-O", fmt, *options, "raw", "disk")
        check_equal(digest_of("-f", fmt, "disk"), want, f"checksum of {fmt} {options}")
        check_equal(digest_of("-f", fmt, "--algorithm=sha256", "disk"), hashlib.sha256(data).hexdigest(), "flat one")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "top")
    check_both(data, "top")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "thin", len(data))
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "thin")
    check_both(data, "thin")


def test_any_change_changes_the_sum():
    sums = set()
    for at in (None, 0, 70000, 3 * MIB - 1):
        qemu_img("create", "-q", "-f", "qcow2", "disk", "3M")
        if at is not None:
            qemu_io("-f", "qcow2", "-c", f"write -q -P 1 {at} 1", "disk")
        sums.add(digest_of("disk"))
    qemu_img("create", "-q", "-f", "qcow2", "disk", 3 * MIB + 512)
    sums.add(digest_of("disk"))
    check_equal(len(sums), 5, "different sums")


def test_the_vectors_of_the_page_hold():
    page = (ROOT / "docs" / "checksum.md").read_text()
    vectors = re.findall(r"^\| (\d+) bytes of (0x[0-9a-f]{2}) \| `([0-9a-f]{64})` \|", page, re.M)
    check_equal(len(vectors) > 3, True, f"vectors {vectors}")
    for size, byte, want in vectors:
        qemu_img("create", "-q", "-f", "qcow2", "disk", size)
        if int(byte, 16) and int(size):
            qemu_io("-f", "qcow2", "-c", f"write -q -P {byte} 0 {size}", "disk")
        check_equal(digest_of("disk"), want, f"{size} bytes of {byte}")


def test_programs_read_it_as_json():
    pathlib.Path("disk").write_bytes(bytes(MIB))
    said = json.loads(oxbow("checksum", "--output=json", "-f", "raw", "disk").stdout)
    check_equal(said, {"filename": "disk", "algorithm": "blkhash", "checksum": blkhash(bytes(MIB)),
                       "virtual-size": MIB}, "object")


def test_sha256sum_takes_its_line():
    data = pattern(3, MIB)
    pathlib.Path("disk").write_bytes(data)
    pathlib.Path("sums").write_text(oxbow("checksum", "--algorithm", "sha256", "-f", "raw", "disk").stdout)
    run("sha256sum", "--check", "sums")


def test_what_cannot_be_read_has_no_sum():
    expect_failure(oxbow_path(), "checksum", "missing", message="Could not open 'missing'")
    for args in ((), ("a", "b"), ("--algorithm=md5", "a"), ("--output=xml", "a")):
        check_equal(oxbow("checksum", *args, check=False).returncode, 1, "exit code")


run_tests(globals())
