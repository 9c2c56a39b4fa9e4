#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 120
"""The file system of a real Debian tree, converted by qemu-img, reads back bit for bit through oxbow."""
import filecmp

from interop import *

IMAGE_MIB = 256
TREE_MIB = 150
# In this order, until TREE_MIB are there: small files, texts, programs, libraries, compressed pages.
TREES = ("/usr/share/doc", "/usr/share/man", "/usr/bin", "/usr/lib/python3", "/usr/lib/x86_64-linux-gnu",
         "/usr/share/locale", "/usr/lib")
CACHE = ROOT / "build" / "debian-tree"
RAW = CACHE / f"tree-{TREE_MIB}.raw"


def copy_trees(target):
    """Copies files of the running system, TREE_MIB of them, with links as links."""
    left = TREE_MIB * MIB
    for tree in TREES:
        for directory, names, files in os.walk(tree):
            names.sort()
            for name in sorted(files):
                source = os.path.join(directory, name)
                if not os.path.isfile(source) or os.path.getsize(source) > left:
                    continue
                copy = target / source.lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                if os.path.islink(source):
                    copy.symlink_to(os.readlink(source))
                    continue
                # A hard link is enough for mke2fs, where it is possible.
                try:
                    os.link(source, copy)
                except OSError:
                    copy.write_bytes(pathlib.Path(source).read_bytes())
                left -= os.path.getsize(source)
            if left < 64 * KIB:
                return


def debian_tree():
    """A raw ext4 image of a Debian tree, made once and kept."""
    if not RAW.exists():
        tree = tmpdir() / "tree"
        tree.mkdir()
        copy_trees(tree)
        CACHE.mkdir(parents=True, exist_ok=True)
        part = RAW.with_suffix(f".{os.getpid()}")
        run("/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, part, f"{IMAGE_MIB}M")
        part.rename(RAW)
    if host_bytes(RAW) < TREE_MIB * MIB // 2:
        raise Failure(f"{RAW} holds too little to be a test")
    return RAW


def converted(name, *convert_args):
    """A copy of the tree as qcow2, made by qemu-img once; the copy is the test's own."""
    raw = debian_tree()
    image = CACHE / f"tree-{TREE_MIB}-{name}.qcow2"
    if not image.exists():
        part = image.with_suffix(f".{os.getpid()}")
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *convert_args, raw, part)
        part.rename(image)
    run("cp", "--reflink=auto", "--sparse=always", image, "disk.qcow2")
    return raw


def check_reads_back(name, *convert_args):
    raw = converted(name, *convert_args)
    before = fingerprint("disk.qcow2")
    check_clean("disk.qcow2")
    with Server("-f", "qcow2", "-r", "disk.qcow2") as server:
        run("nbdcopy", server.uri, "copy.raw")
    if not filecmp.cmp(raw, "copy.raw", shallow=False):
        run("cmp", raw, "copy.raw")
    run("/usr/sbin/e2fsck", "-f", "-n", "copy.raw")
    check_equal(fingerprint("disk.qcow2"), before, "the file after it was read")


def test_a_debian_tree_reads_back_bit_for_bit():
    check_reads_back("plain")


def test_a_debian_tree_compressed_by_zlib_reads_back_bit_for_bit():
    check_reads_back("zlib", "-c")


def test_a_debian_tree_compressed_by_zstd_reads_back_bit_for_bit():
    check_reads_back("zstd", "-c", "-o", "compression_type=zstd")


def test_pieces_of_a_compressed_tree_read_right_through_io():
    """At odd places, across clusters, where the data is one byte repeated: zeroes."""
    raw = converted("zlib", "-c")
    extents = json.loads(qemu_img("map", "--output=json", "-f", "raw", raw).stdout)
    holes = [e for e in extents if e["zero"] and e["length"] > 200 * KIB][:20]
    commands = [f"read -P 0 {e['start'] + 100} {e['length'] - 200}" for e in holes
                if e["length"] < 64 * MIB]
    oxbow("io", "-r", "-f", "qcow2", *io_args(commands), "disk.qcow2")
    data = next(e for e in extents if e["data"])
    result = oxbow("io", "-r", "-f", "qcow2", "-c", f"read -v {data['start'] + 1024} 512",
                   "disk.qcow2")
    hexadecimal = "".join("".join(line.split()[1:17]) for line in result.stdout.splitlines()
                          if line[:8].strip(":0123456789abcdef") == "" and ":" in line)
    check_equal(hexadecimal, read_at(raw, data["start"] + 1024, 512).hex(), "read -v")


def test_a_compressed_tree_is_right_after_being_written_into():
    """Copied out of its compressed clusters by small writes, all over."""
    raw = converted("zlib", "-c")
    run("cp", "--reflink=auto", "--sparse=always", raw, "model.raw")
    commands = []
    with open("model.raw", "r+b") as model:
        for at in range(77_777, IMAGE_MIB * MIB - 5000, 3 * MIB + 12_345):
            os.pwrite(model.fileno(), b"\x3c" * 3001, at)
            commands.append(f"write -q -P 0x3c {at} 3001")
    oxbow("io", "-f", "qcow2", *io_args(commands), "disk.qcow2")
    check_clean("disk.qcow2")
    qemu_img("compare", "-f", "qcow2", "-F", "raw", "disk.qcow2", "model.raw")


run_tests(globals())
