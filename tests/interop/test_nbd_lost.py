#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""NBD servers that die under oxbow, their client, and forget what they answered since the last flush."""
import random

from harness import *
from nbd_servers import *

SIZE = 16 << 20


def empty_disk():
    path = tmpdir() / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


def io_words(uri, *commands, options=("-f", "raw", "-t", "writeback")):
    return ["io", *options, *(word for command in commands for word in ("-c", command)), uri]


def io(uri, *commands, **kwargs):
    return oxbow(*io_words(uri, *commands, **kwargs))


def io_fails(uri, *commands, message, **kwargs):
    result = run(oxbow_path(), *io_words(uri, *commands, **kwargs), check=False)
    check_equal(result.returncode, 1, f"exit code (stderr {result.stderr!r})")
    check_in(message, result.stdout + result.stderr)


def check_bytes(disk, at, value, count):
    check_equal(disk.read_bytes()[at:at + count], bytes([value]) * count, f"the bytes at {at}")


def test_what_a_dead_server_had_answered_is_there_after_the_flush():
    disk = empty_disk()
    with Forgetful(disk, {"die_after": 3}, {}) as server:
        io(server.uri(), "write -P 1 0 64k", "write -P 2 1M 64k", "write -P 3 2M 64k",
           "read -P 1 0 64k", "read -P 2 1M 64k", "write -P 4 3M 64k", "flush")
        check_equal(server.started, 2, "lives")
    for i in range(4):
        check_bytes(disk, i << 20, i + 1, 65536)


def test_an_unanswered_write_is_sent_again_after_what_was_answered():
    disk = empty_disk()
    with Forgetful(disk, {"die_before": 4}, {}) as server:
        io(server.uri(), "write -P 1 0 64k", "write -P 2 0 32k", "write -P 3 16k 16k",
           "write -P 4 24k 64k", "read -P 2 0 16k", "flush")
    data = disk.read_bytes()
    check_equal(data[:88 << 10],
                b"\2" * (16 << 10) + b"\3" * (8 << 10) + b"\4" * (64 << 10), "bytes")


def test_a_flush_that_was_not_answered_is_made_up_for():
    disk = empty_disk()
    with Forgetful(disk, {"die_at_flush": 1}, {"die_at_flush": 1}, {}) as server:
        io(server.uri(), "write -P 1 0 1M", "flush")
        check_equal(server.started, 3, "lives")
    check_bytes(disk, 0, 1, 1 << 20)


def test_zeroes_and_trims_are_sent_again_in_their_order():
    disk = empty_disk()
    with Forgetful(disk, {"die_after": 5}, {}) as server:
        io(server.uri(), "write -P 1 0 1M", "write -z 0 512k", "write -P 2 256k 64k",
           "discard 512k 64k", "write -P 3 600k 4k", "read -P 0 0 256k", "flush")
    check_bytes(disk, 0, 0, 256 << 10)
    check_bytes(disk, 256 << 10, 2, 64 << 10)
    check_bytes(disk, 600 << 10, 3, 4096)


def test_what_was_flushed_is_not_sent_again():
    disk, log = empty_disk(), tmpdir() / "log"
    with Forgetful(disk, {"die_after": 3}, {"log": log}) as server:
        io(server.uri(), "write -P 1 0 64k", "write -P 2 1M 64k", "flush", "write -P 3 2M 64k",
           "read -P 3 2M 4k")
    writes = [line for line in log.read_text().splitlines() if line.startswith("write")]
    check_equal(writes, ["write 2097152 65536"], "writes")


def test_a_durable_write_is_not_undone_by_an_older_one():
    disk = empty_disk()
    with Forgetful(disk, {"die_after": 2}, {}) as server:
        io(server.uri(), "write -P 1 0 64k", "write -f -P 2 16k 16k", "read -P 2 16k 16k", "flush")
    check_bytes(disk, 16 << 10, 2, 16 << 10)


def test_more_than_is_kept_is_flushed_on_the_way():
    disk, log = empty_disk(), tmpdir() / "log"
    with Forgetful(disk, {"log": log}) as server:
        io(server.uri(), *(f"write -P {i + 1} {i % 2 * 8}M 8M" for i in range(10)))
    lines = [line.split()[0] for line in log.read_text().splitlines()]
    if lines.count("flush") < 3:
        raise Failure(f"80 MiB were flushed {lines.count('flush')} times: {lines}")


def test_a_qcow2_image_survives_a_server_that_dies_again_and_again():
    disk = empty_disk()
    lives = [{"die_after" if i % 3 else "die_before": 5 + 4 * i} for i in range(8)] + [{}]
    with Forgetful(disk, *lives) as server:
        oxbow("create", "-f", "qcow2", "-o", "cluster_size=4k", server.uri(), "64M")
        places = random.Random(7).sample(range(0, 512), 40)
        commands = []
        for n, place in enumerate(places):
            commands.append(f"write -P {n + 1} {place * 128}k 12k")
            if n % 7 == 6:
                commands.append("flush")
        io(server.uri(), *commands, "flush", options=("-f", "qcow2", "-t", "writeback"))
        check_equal(server.started, len(lives), "lives")
    for n, place in enumerate(places):
        io(disk, f"read -P {n + 1} {place * 128}k 12k", options=("-f", "qcow2"))
    oxbow("check", disk)
    qemu_img("check", disk)


def test_many_requests_in_flight_survive_a_server_killed_at_any_moment():
    disk = empty_disk()
    commands = []
    for n in range(150):
        commands.append(f"aio_write -P {n % 250 + 1} {n * 100}k 100k")
        if n % 40 == 39:
            commands.append("aio_flush")
    log = tmpdir() / "log"
    with Forgetful(disk, *[{"log": log}] * 50) as server:
        client = subprocess.Popen([oxbow_path(), *io_words(server.uri(), *commands, "flush")],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        rng = random.Random(3)
        wait_for(log.exists, "the first request")
        while client.poll() is None and server.started < 20:
            time.sleep(rng.random() * 0.05)
            with server._lock:
                server.process.kill()
        said = client.communicate()[0].decode()
        check_equal(client.returncode, 0, f"exit code ({said[-400:]})")
        check_equal("rror" in said, False, said)
    data = disk.read_bytes()
    for n in range(150):
        check_equal(data[n * 102400:(n + 1) * 102400], bytes([n % 250 + 1]) * 102400, f"write {n}")


def test_a_server_that_is_gone_for_good_fails_every_request():
    disk = empty_disk()
    with Forgetful(disk, {"die_after": 1}) as server:
        io_fails(server.uri(reconnect_delay=1), "write -P 1 0 64k", "write -P 2 1M 64k",
                 "read 0 512", "flush", message="Input/output error")
        wait_for(lambda: server.process.poll() is not None, "the server's end")
        expect_failure(oxbow_path(), "info", server.uri(), message="Connection refused")
    with Forgetful(disk, {"die_after": 1}, {}) as server:
        io_fails(server.uri(reconnect_delay=0), "write -P 1 0 64k", "flush",
                 message="Input/output error")


def test_what_cannot_be_sent_again_fails_the_flush():
    for life in ({"size": SIZE - 512}, {"read_only": 1}, {"write_error": 28}, {"flush": 0}):
        disk = empty_disk()
        with Forgetful(disk, {"die_after": 2}, life) as server:
            io_fails(server.uri(reconnect_delay=5), "write -P 1 0 64k", "write -P 2 1M 64k",
                     "flush", message="Input/output error")


def test_a_server_that_is_ending_is_left_for_the_next_one():
    disk = empty_disk()
    with Forgetful(disk, {"shut_after": 2}, {}) as server:
        client = subprocess.Popen([oxbow_path(), *io_words(server.uri(), "write -P 1 0 64k",
                                  "write -P 2 1M 64k", "write -P 3 2M 64k", "flush")],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        with server._lock:
            server.process.kill()
        check_equal(client.wait(), 0, "exit code")
    for i in range(3):
        check_bytes(disk, i << 20, i + 1, 65536)


def test_a_server_that_comes_back_with_smaller_requests_is_another_one():
    disk = tmpdir() / "disk.raw"
    disk.write_bytes(b"a" * SIZE)
    small = {"min_block": 512, "max_block": 4096}
    with Forgetful(disk, {"min_block": 65536, "max_block": 1 << 20, "die_after": 1}, small) as server:
        io_fails(server.uri(), "write -P 1 0 64k", "read -P 97 64k 64k", message="read failed: Input/output error")


def test_a_failed_flush_fails_all_that_follows():
    disk = empty_disk()
    with Forgetful(disk, {"flush_error": 28}) as server:
        io_fails(server.uri(), "write -P 1 0 64k", "flush", message="flush failed")
        result = run(oxbow_path(), *io_words(server.uri(), "write -P 1 0 64k", "flush",
                                             "write -P 1 0 64k", "flush"), check=False)
        check_equal(result.stdout.count("wrote"), 1, "writes that succeed")


def test_an_error_of_the_server_is_told_as_it_is():
    with Forgetful(empty_disk(), {"write_error": 28}) as server:
        io_fails(server.uri(), "write 0 512", message="No space left on device")
        io_fails(server.uri(), "write -z 0 512", message="No space left on device")
    with Forgetful(empty_disk(), {"write_error": 5}) as server:
        io_fails(server.uri(), "write 0 512", message="Input/output error")


run_tests(globals())
