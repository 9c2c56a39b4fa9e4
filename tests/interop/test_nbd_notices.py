#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The server says what goes wrong with the image that it serves."""
import re

from nbdwire import *

CLUSTER = 65536
COPIED = 1 << 63


def make_image(name="disk.qcow2", *options):
    """Data in the first two clusters; returns the path and the place of their L2 table."""
    path = tmpdir() / name
    qemu_img("create", "-q", "-f", "qcow2", *options, path, "64M")
    qemu_io("-c", "write -P 1 0 64k", "-c", "write -P 2 64k 64k", path)
    with open(path, "rb") as file:
        file.seek(40)
        file.seek(struct.unpack(">Q", file.read(8))[0])
        return path, struct.unpack(">Q", file.read(8))[0] & ~COPIED


def set_entry(path, at, value):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack(">Q", value))


def lines_of(server):
    return [line for line in server.stderr().splitlines() if line.startswith("oxbow: '")]


def test_damage_is_told_in_one_line_with_its_name_and_place():
    path, table = make_image()
    set_entry(path, table + 8, COPIED | 0x50002)
    with Server(path) as server:
        client = Client(server)
        check_equal(client.read(0, 1), b"\x01", "data")
        check_equal(client.call(READ, CLUSTER, 1).error, EIO, "error")
        check_equal(server.terminate(), 0, "exit code")
        check_equal(lines_of(server),
                    [f"oxbow: '{path}': damage (l2-entry-reserved-bits), host {hex(table + 8)}+0x8, "
                     "guest 0x10000+0x10000: what it concerns fails with an I/O error"], "lines")


def test_damage_of_a_backing_file_names_that_file():
    base, table = make_image("base.qcow2")
    disk = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)
    set_entry(base, table + 8, COPIED | 0x50200)
    with Server("--allow-backing", disk) as server:
        check_equal(Client(server).call(READ, CLUSTER, 1).error, EIO, "error")
        check_equal(server.terminate(), 0, "exit code")
        check_equal(len(lines_of(server)), 1, "number of lines")
        check_in(f"'{base}': damage (l2-entry-unaligned)", server.stderr())


def test_a_backing_file_that_names_its_table_does_not_mark_the_image_above():
    base, table = make_image("base.qcow2")
    disk = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)
    set_entry(base, table + 8, COPIED | table)
    with Server("--allow-backing", disk) as server:
        client = Client(server)
        # a part of a cluster: the rest would have to be copied
        check_equal(client.call(WRITE, CLUSTER, 512, 0, b"x" * 512).error, EIO, "error")
        client.write(0, b"y" * 512)
        check_equal(server.terminate(), 0, "exit code")
        check_in(f"'{base}': damage (metadata-overlap)", server.stderr())
    info = json.loads(output("qemu-img", "info", "--output=json", disk))
    check_equal(info["format-specific"]["data"]["corrupt"], False, "corrupt bit")


def test_many_lines_of_a_kind_are_counted_instead():
    path, table = make_image()
    set_entry(path, table + 8, COPIED | 0x50002)
    with Server(path) as server:
        client = Client(server)
        for _ in range(200):
            client.call(READ, CLUSTER, 1)
        check_equal(server.terminate(), 0, "exit code")
        told = len(lines_of(server))
        held = re.findall(r"(\d+) more (?:like this before|notices of damage)", server.stderr())
        check_equal(told + sum(int(count) for count in held), 200, "told and held back")
        check_equal(told < 20, True, "few lines")


def test_a_write_over_metadata_marks_the_image_as_corrupt():
    path, table = make_image()
    set_entry(path, table + 8, COPIED | table)
    with Server(path) as server:
        client = Client(server)
        client.write(128 * KIB, b"\x03" * CLUSTER)
        check_equal(client.call(WRITE, CLUSTER, 4096, 0, b"x" * 4096).error, EIO, "error")
        check_equal(client.call(WRITE, 0, 4096, 0, b"y" * 4096).error, EIO, "error afterwards")
        check_equal(client.read(0, 1), b"\x01", "data")
        check_equal(server.terminate(), 1, "exit code")
        check_in("marked as corrupt, and takes no more writes", server.stderr())
    info = json.loads(output("qemu-img", "info", "--output=json", path))
    check_equal(info["format-specific"]["data"]["corrupt"], True, "corrupt bit")
    expect_failure(oxbow_path(), "serve", "--nbd", "s.sock", path, message="corrupt")
    with Server("-r", path) as server:
        check_equal(Client(server).read(128 * KIB, CLUSTER), b"\x03" * CLUSTER, "accepted before")


def test_a_full_host_is_told():
    path, _ = make_image()
    with Server("--no-keeper", path, wrapper=("prlimit", f"--fsize={2 * MIB}")) as server:
        client = Client(server)
        check_equal(client.call(WRITE, 8 * MIB, 8 * MIB, 0, b"z" * (8 * MIB)).error, ENOSPC, "error")
        check_equal(client.read(0, 1), b"\x01", "data")
        server.terminate()
        check_in(f"'{path}': no space on the host for a write, guest 0x800000+0x800000: File too "
                 "large", server.stderr())


def test_a_healthy_image_gives_no_lines():
    path, _ = make_image()
    with Server(path) as server:
        client = Client(server)
        client.write(0, b"4" * MIB)
        client.ok(TRIM, 0, MIB)
        client.ok(FLUSH)
        check_equal(client.call(READ, 64 * MIB, 1).error, EINVAL, "error of a request past the end")
        check_equal(server.terminate(), 0, "exit code")
        check_equal(server.stderr(), "", "stderr")


run_tests(globals())
