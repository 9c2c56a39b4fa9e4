#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 20
"""Clients of others: libnbd's tools, QEMU's client, fio."""
import hashlib

from nbdwire import *

PLACES = {
    "unix": (),
    "tcp": ("--nbd", "127.0.0.1:0"),
    "tcp6": ("--nbd", "[::1]:0"),
    "any": ("--nbd", ":0"),
}


def reachable(server):
    """The server's URI for clients on a host that may have no /etc/hosts to look localhost up in."""
    return server.uri.replace("//localhost:", "//127.0.0.1:")


def test_nbdinfo_describes_the_export():
    for place in PLACES.values():
        with serve(3 * MIB, "--export", "a disk/of: mine?", "-D", "words", *place) as server:
            found = json.loads(output("nbdinfo", "--json", reachable(server)))
            check_equal(found["protocol"], "newstyle-fixed", "protocol")
            export = found["exports"][0]
            check_equal((export["export-name"], export["export-size"]), ("a disk/of: mine?", 3 * MIB),
                        "export")
            for key in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua",
                        "can_multi_conn", "can_trim", "can_zero"):
                check_equal(export[key], True, key)
            check_equal(export["contexts"], ["base:allocation"], "contexts")
            check_equal((export["block_size_minimum"], export["block_size_maximum"]), (1, 32 * MIB),
                        "block sizes")


def test_nbdinfo_lists_the_export():
    with serve(MIB, "-x", "name", "-D", "words") as server:
        root = f"nbd+unix:///?socket={server.socket}"
        export = json.loads(output("nbdinfo", "--json", "--list", root))["exports"][0]
        check_equal((export["export-name"], export["description"]), ("name", "words"), "export")


def test_nbdinfo_maps_data_and_holes():
    with serve(4 * MIB) as server:
        Client(server).write(MIB, b"\x11" * MIB)
        found = json.loads(output("nbdinfo", "--json", "--map", server.uri))
        check_equal([(one["offset"], one["length"], one["type"]) for one in found],
                    [(0, MIB, 3), (MIB, MIB, 0), (2 * MIB, 2 * MIB, 3)], "map")


def test_nbdcopy_copies_in_and_out_over_many_connections():
    data = b"".join(pattern(at, MIB) + bytes(MIB) for at in range(20))
    source = tmpdir() / "source"
    source.write_bytes(data)
    for place in PLACES.values():
        with serve(len(data), *place) as server:
            run("nbdcopy", "--connections=4", "--requests=64", source, reachable(server))
            run("nbdcopy", "--connections=4", "--flush", reachable(server), tmpdir() / "copy")
            check_equal((tmpdir() / "copy").read_bytes() == data, True, "copy is the same")
        (tmpdir() / f"disk.{FORMAT}").unlink()


def test_qemu_img_converts_in_and_out():
    data = b"".join(pattern(at, MIB) + bytes(3 * MIB) for at in range(8))
    source = tmpdir() / "source"
    source.write_bytes(data)
    with serve(len(data)) as server:
        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", source, server.uri)
        qemu_img("compare", "-f", "raw", "-F", "raw", source, server.uri)
        qemu_img("convert", "-f", "raw", "-O", "qcow2", server.uri, tmpdir() / "copy.qcow2")
        qemu_img("compare", "-f", "raw", "-F", "qcow2", source, tmpdir() / "copy.qcow2")


def test_qemu_io_reads_what_it_wrote():
    with serve(16 * MIB) as server:
        commands = ("write -P 0x5a 0 64k", "write -f -P 0x5b 64k 64k", "write -z 32k 16k",
                    "write -z -u 128k 1M", "discard 2M 1M", "flush", "read -P 0x5a 0 32k",
                    "read -P 0 32k 16k", "read -P 0x5a 48k 16k", "read -P 0x5b 64k 64k",
                    "read -P 0 128k 1M", "aio_write -P 7 4M 1M", "aio_flush", "read -P 7 4M 1M")
        said = qemu_io("-f", "raw", *[word for one in commands for word in ("-c", one)], server.uri)
        check_equal("failed" in said.stdout + said.stderr, False, f"failure in {said.stdout}")


def test_qemu_sees_the_same_map():
    with serve(16 * MIB) as server:
        client = Client(server)
        for at in (0, 3, 4, 9):
            client.write(at * MIB, b"\x22" * MIB)
        client.ok(FLUSH)
        found = json.loads(qemu_img("map", "--output=json", "-f", "raw", server.uri).stdout)
        check_equal([(one["start"] // MIB, one["length"] // MIB, one["data"]) for one in found],
                    [(0, 1, True), (1, 2, False), (3, 2, True), (5, 4, False), (9, 1, True),
                     (10, 6, False)], "map")


def fio(server, *args):
    said = run("fio", "--name=job", "--ioengine=nbd", f"--uri={server.uri}", "--group_reporting",
               "--output-format=json", *args)
    job = json.loads(said.stdout[said.stdout.index("{"):])["jobs"][0]
    check_equal(job["error"], 0, "fio's error")


def test_fio_verifies_at_depth_32():
    for place in ("unix", "tcp"):
        with serve(64 * MIB, *PLACES[place]) as server:
            fio(server, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=64M", "--io_size=32M",
                "--verify=crc32c", "--verify_fatal=1")
        (tmpdir() / f"disk.{FORMAT}").unlink()


def test_fio_verifies_mixed_sizes_and_trims():
    with serve(64 * MIB) as server:
        fio(server, "--rw=randrw", "--bsrange=512-256k", "--iodepth=32", "--size=64M",
            "--io_size=32M", "--verify=crc32c", "--verify_fatal=1", "--bs_unaligned=1", "--fsync=64")
        fio(server, "--rw=randtrim", "--bs=64k", "--iodepth=32", "--size=64M", "--io_size=16M")


def test_libnbd_is_content_in_strict_mode():
    import nbd

    with serve(16 * MIB) as server:
        handle = nbd.NBD()
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.connect_uri(server.uri)
        check_equal(handle.get_structured_replies_negotiated(), True, "structured replies")
        handle.pwrite(b"\x33" * 65536, MIB, nbd.CMD_FLAG_FUA)
        handle.zero(65536, 2 * MIB, nbd.CMD_FLAG_NO_HOLE)
        handle.trim(65536, 3 * MIB, nbd.CMD_FLAG_FUA)
        handle.cache(65536, MIB)
        handle.flush()
        chunks = []
        data = handle.pread_structured(65536, MIB, lambda data, offset, status, error:
                                       chunks.append((offset, status)) or 0, nbd.CMD_FLAG_DF)
        check_equal((bytes(data), chunks), (b"\x33" * 65536, [(MIB, nbd.READ_DATA)]), "data")
        found = []
        handle.block_status(16 * MIB, 0, lambda context, offset, extents, error:
                            found.append((context, offset, list(extents))) or 0)
        check_equal((found[0][0], found[0][1], found[0][2][:3]),
                    ("base:allocation", 0, [MIB, 3, 65536]), "extents")
        handle.shutdown()


def test_a_disk_travels_through_two_servers_unchanged():
    data = pattern(3, 10 * MIB)
    source = tmpdir() / "source"
    source.write_bytes(data)
    with serve(len(data)) as first:
        with Server("-f", FORMAT, make_disk(len(data), "second")) as second:
            run("nbdcopy", source, first.uri)
            run("nbdcopy", first.uri, second.uri)
            client = Client(second)
            check_equal(hashlib.sha256(client.read(0, len(data))).hexdigest(),
                        hashlib.sha256(data).hexdigest(), "digest")


run_tests(globals())
