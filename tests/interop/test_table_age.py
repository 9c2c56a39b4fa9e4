#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A server that is killed loses no write that was answered long enough ago, flushed or not: the host
lives on, and has the data; the tables that name it have reached the host as well (--table-age)."""
import time

from interop import *

CLUSTER = 64 * KIB
CLUSTERS = 64
WAIT_SECONDS = 60


def is_written(path, fmt, expected):
    """What a reader beside the server finds in the file."""
    reading = run(oxbow_path(), "io", "-r", "-U", "-f", fmt, "-c", f"read -P 7 0 {len(expected)}", path,
                  check=False)
    return reading.returncode == 0


def killed_after_its_age(fmt, options, cache, *create):
    expected = b"\7" * (CLUSTER * CLUSTERS)
    qemu_img("create", "-q", "-f", fmt, "-o", options, *create, "disk", "64M")
    with Server("-f", fmt, "--cache", cache, "--table-age", "0.2", "--allow-backing", "disk") as server:
        client = nbd_connect(server.uri)
        for i in range(CLUSTERS):
            client.pwrite(expected[:CLUSTER], i * CLUSTER)
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_written("disk", fmt, expected) and time.monotonic() < deadline:
            time.sleep(0.05)
        server.kill9()
    wait_until_unlocked("disk")
    with Server("-f", fmt, "--allow-backing", "disk") as server:
        client = nbd_connect(server.uri)
        check_bytes(bytes(client.pread(len(expected), 0)), expected, "what was never flushed")
        client.shutdown()
    for check in (oxbow("check", "-f", fmt, "disk", check=False),
                  qemu_img("check", "-f", fmt, "disk", check=False)):
        check_in(check.returncode, (0, 3), "clean, or leaks alone: the code")


def test_qcow2_with_counts_kept():
    killed_after_its_age("qcow2", "lazy_refcounts=off", "writeback")


def test_qcow2_with_lazy_counts():
    killed_after_its_age("qcow2", "lazy_refcounts=on", "none")


def test_qed():
    killed_after_its_age("qed", "cluster_size=65536", "writeback")


def test_over_backing_bytes_whose_tables_owe_a_barrier():
    write_at_new("base.raw", 64 * MIB)
    killed_after_its_age("qcow2", "lazy_refcounts=off", "writeback", "-b", "base.raw", "-F", "raw")


def test_never_leaves_it_to_the_flush():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "64M")
    with Server("-f", "qcow2", "--table-age", "never", "disk") as server:
        client = nbd_connect(server.uri)
        client.pwrite(b"\7" * CLUSTER, 0)
        client.flush()
        check_equal(is_written("disk", "qcow2", b"\7" * CLUSTER), True, "what was flushed")
        client.shutdown()
    refused = run(oxbow_path(), "serve", "--table-age", "soon", "disk", check=False)
    check_equal(refused.returncode, 1, "exit code")
    check_in("--table-age", refused.stdout + refused.stderr)


def write_at_new(path, length):
    with open(path, "wb") as file:
        file.truncate(length)
        file.write(b"\1" * MIB)


if __name__ == "__main__":
    run_tests(globals())
