#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Long backing chains, chains that never end, and what is read through a chain."""
import random
import resource

from peers import *

LENGTH = 300  # QEMU opens as many
LONGEST = 1000


def make_chain(length):
    """Images 0000 to length - 1, each over the one before; the first holds the data."""
    qemu_img("create", "-q", "-f", "qcow2", "0000", "1M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 9 0 1M", "0000")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "0000", "-F", "qcow2", "0001", "1M")
    image = pathlib.Path("0001").read_bytes()
    at = image.index(b"0000")
    for i in range(2, length):
        pathlib.Path(f"{i:04}").write_bytes(image[:at] + f"{i - 1:04}".encode() + image[at + 4:])
    return f"{length - 1:04}"


def refused(result, *texts):
    check_equal(result.returncode, 1, f"exit code of {result.args}")
    for text in texts:
        check_in(text, result.stderr)


def test_a_chain_of_300_is_read_and_written_as_by_qemu():
    top = make_chain(LENGTH)
    for args in (("map", top), ("info", "--backing-chain", top)):
        same_as_qemu_img(*args)
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -q -P 9 0 1M", top)
    # A part of a cluster is written: the rest comes from the lowest image.
    oxbow("io", "-f", "qcow2", "-c", "write -q -P 5 4k 8k", "-c", "read -q -P 9 0 4k", "-c",
          "read -q -P 5 4k 8k", "-c", "read -q -P 9 12k 1012k", top)
    qemu_io("-r", "-f", "qcow2", "-c", "read -q -P 9 0 4k", "-c", "read -q -P 5 4k 8k", "-c",
            "read -q -P 9 12k 1012k", top)
    oxbow("check", top)


def test_the_longest_chain_is_opened_and_a_longer_one_is_refused():
    make_chain(LONGEST + 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * LONGEST)), hard))
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -q -P 9 0 1M", f"{LONGEST - 1:04}")
    longer = f"{LONGEST:04}"
    refused(oxbow("io", "-r", "-f", "qcow2", "-c", "read 0 1M", longer, check=False),
            "longer than 1000 images")
    refused(oxbow("info", "--backing-chain", longer, check=False), "longer than 1000 files")


def make_loop(length):
    """Each names the one before, and the first the last."""
    for i in range(length):
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", f"./loop{(i - 1) % length}", "-F", "qcow2",
                 f"loop{i}", "1M")
    return "loop0"


def test_an_endless_chain_is_refused():
    for length in (1, 2, 5):
        top = make_loop(length)
        os.symlink(top, "link")
        for name in (top, "link"):
            for args in (("io", "-r", "-f", "qcow2", "-c", "read 0 1M", name), ("map", name),
                         ("io", "-f", "qcow2", "-c", "write 0 1M", name)):
                refused(oxbow(*args, check=False), "The backing chain is an endless loop", "loop0'")
        refused(oxbow("info", "--backing-chain", top, check=False), "infinite loop")
        os.unlink("link")


def test_what_is_read_through_a_chain_is_what_qemu_reads():
    for seed in range(6):
        chance = random.Random(seed)
        pathlib.Path("layer0").write_bytes(pattern(seed, chance.randrange(1, 1 << 20)))
        form = "raw"
        for i in range(1, 6):
            size = chance.randrange(1, 2048) * 512
            cluster = 512 << chance.randrange(8)
            qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "-b",
                     f"layer{i - 1}", "-F", form, f"layer{i}", size)
            form = "qcow2"
            commands = []
            for _ in range(12):
                start = chance.randrange(size)
                length = min(size - start, chance.randrange(1, 40000))
                how = chance.choice((f"write -q -P {chance.randrange(256)}", "write -q -z",
                                     "write -q -z -u", "discard -q"))
                commands += ["-c", f"{how} {start} {length}"]
            qemu_io("-f", "qcow2", *commands, f"layer{i}")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", "layer5", "flat")
        flat = pathlib.Path("flat").read_bytes()
        for step in (len(flat), 70001, 4097):
            check_equal(read_all("layer5", len(flat), step) == flat, True, f"seed {seed}, {step}")


def read_all(image, size, step):
    """All bytes, as `io` shows them, in pieces of step bytes."""
    commands = []
    for start in range(0, size, step):
        commands += ["-c", f"read -v {start} {min(step, size - start)}"]
    data = bytearray()
    for line in oxbow("io", "-r", "-f", "qcow2", *commands, image).stdout.splitlines():
        found = re.match(r"[0-9a-f]{8}:  ((?:[0-9a-f]{2} ?){1,16}) ", line)
        if found:
            data += bytes.fromhex(found[1])
    return bytes(data)


run_tests(globals())
