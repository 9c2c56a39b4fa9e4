#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a server tells of holes of the image's file that lie under clusters with a place."""
import re

from nbdwire import *


def preallocated(size, *writes):
    """A disk whose clusters have places, all of them holes but what the writes fill."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "disk", size)
    for at, length in writes:
        qemu_io("-f", "qcow2", "-c", f"write -q -P 5 {at} {length}", "disk")


def extents_of(client, size):
    return client.ok(STATUS, 0, size).extents


def map_by(uri):
    return json.loads(qemu_img("map", "--output=json", "-f", "raw", uri).stdout)


def test_block_status_is_that_of_qemu_nbd():
    preallocated(8 * MIB, (MIB, 64 * KIB), (3 * MIB, 4 * KIB), (5 * MIB, 2 * MIB))
    sock = tmpdir() / "qemu.sock"
    peer = subprocess.Popen(["qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", sock, "disk"])
    on_exit(lambda: (peer.kill(), peer.wait()))
    while not sock.exists():
        time.sleep(0.01)
    theirs = map_by(f"nbd+unix://?socket={sock}")
    check_equal(any(one["zero"] for one in theirs), True, f"zeroes in {theirs}")
    with Server("-f", "qcow2", "-r", "disk") as server:
        check_equal(map_by(server.uri), theirs, "map")


def test_what_is_written_into_a_hole_is_told_at_once():
    preallocated(4 * MIB)
    with Server("-f", "qcow2", "disk") as server:
        client = Client(server, "structured", meta=True)
        other = Client(server, "extended", meta=True)
        check_equal(extents_of(client, 4 * MIB), [(4 * MIB, ZERO)], "extents")
        for at in (MIB, 2 * MIB + 4096, 0):
            other.write(at, b"\x11" * 4096)
            check_equal(client.ok(STATUS, at, 4096).extents, [(4096, 0)], f"extents at {at}")
        check_equal(extents_of(client, 4 * MIB),
                    [(4096, 0), (MIB - 4096, ZERO), (4096, 0), (MIB, ZERO), (4096, 0),
                     (2 * MIB - 8192, ZERO)], "extents")
        other.ok(TRIM, MIB, 64 * KIB)
        check_equal(client.ok(STATUS, MIB, 64 * KIB).extents, [(64 * KIB, HOLE | ZERO)], "extents")


def test_reads_beside_block_status_see_no_hole_where_data_is():
    """A hole that was told must be one when it is told."""
    preallocated(16 * MIB)
    with Server("-f", "qcow2", "disk") as server:
        writer = Client(server, "structured", meta=True)
        looker = Client(server, "structured", meta=True)
        for at in range(0, 16 * MIB, 64 * KIB):
            writer.request(WRITE, at, 4096, 0, b"\x22" * 4096)
            looker.ok(STATUS, 0, 16 * MIB)
            writer.reply()
            check_equal(looker.ok(STATUS, at, 4096).extents, [(4096, 0)], f"extents at {at}")


def seeks_during(server, work):
    trace = tmpdir() / "trace"
    tracer = subprocess.Popen(["strace", "-f", "-p", str(server.server_pid()), "-o", trace, "-e",
                               "trace=lseek"], stderr=subprocess.PIPE)
    on_exit(lambda: tracer.poll() is None and tracer.kill())
    os.read(tracer.stderr.fileno(), 100)  # "attached"
    time.sleep(0.2)  # to all threads
    work()
    tracer.send_signal(signal.SIGINT)
    tracer.wait(30)
    tracer.stderr.close()
    return len(re.findall(r"\blseek\(", trace.read_text()))


def test_an_image_that_does_not_look_preallocated_is_not_searched_for_holes():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "64M")
    qemu_io("-f", "qcow2", *[word for at in range(0, 64, 2) for word in
                             ("-c", f"write -q -P 9 {at}M 64k")], "disk")
    with Server("-f", "qcow2", "disk") as server:
        client = Client(server, "structured", meta=True)
        looks = seeks_during(server, lambda: [extents_of(client, 64 * MIB) for _ in range(20)])
        check_equal(looks, 0, "lseek calls")


def test_a_dense_stretch_of_a_preallocated_file_is_asked_for_once():
    preallocated(256 * MIB)
    clusters = list(range(128))
    qemu_io("-f", "qcow2", "-c", "write -q -P 9 0 8M", "disk")
    with Server("-f", "qcow2", "disk") as server:
        client = Client(server, "structured", meta=True)
        looks = seeks_during(server, lambda: [client.ok(STATUS, at * 65536, 65536) for at in clusters])
        check_equal(looks < 16, True, f"{looks} lseek calls for {len(clusters)} extents")


run_tests(globals())
