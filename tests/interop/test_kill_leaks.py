#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What servers that are killed again and again leave behind: few clusters that nothing names, none in
the end where the image is recovered, and nothing that a later owner could mistake for its own."""
import json
import time

import nbd
from interop import *

CLUSTER = 64 * 1024
KILLS = 12
WRITES = 3  # of each life


def check_of(path, *args):
    result = run(oxbow_path(), "check", "-f", "qcow2", "--output", "json", *args, path, check=False)
    return json.loads(result.stdout)


def leaks_of(path, *args):
    return check_of(path, *args).get("leaks", 0)


def live_and_die(path, life, writes=WRITES):
    """Writes into clusters that have no place yet, each durably, and is killed."""
    with Server("-f", "qcow2", path) as server:
        handle = nbd_connect(server.uri)
        for number in range(writes):
            handle.pwrite(pattern(life * 1000 + number, 4096), (life * writes + number) * CLUSTER,
                          nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(path)


def check_lives(path, lives, writes=WRITES):
    with Server("-f", "qcow2", path) as server:
        handle = nbd_connect(server.uri)
        for life in range(lives):
            for number in range(writes):
                check_bytes(handle.pread(4096, (life * writes + number) * CLUSTER),
                            pattern(life * 1000 + number, 4096), f"life {life}, write {number}")
        handle.shutdown()


def make(options):
    path = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "256M")
    return path


def test_kills_of_a_server_that_writes_little_leak_little():
    path = make("lazy_refcounts=off")
    for life in range(KILLS):
        live_and_die(path, life)
        leaks = leaks_of(path)
        print(f"# after {life + 1} kills: {leaks} clusters")
        if leaks > (life + 1) * (WRITES + 5):
            raise Failure(f"{leaks} clusters have leaked after {life + 1} kills")
    check_lives(path, KILLS)


def test_a_lazy_image_has_leaked_nothing_once_it_is_recovered():
    path = make("lazy_refcounts=on")
    for life in range(KILLS):
        live_and_die(path, life)
    check_lives(path, KILLS)
    check_clean(path, "after the recovery")
    most = KILLS * (WRITES + 5) + 8  # what a life takes lies behind the last one's reserve
    if os.stat(path).st_size > most * CLUSTER:
        raise Failure(f"the file has {os.stat(path).st_size // CLUSTER} clusters")
    with Server("-f", "qcow2", path) as server:
        handle = nbd_connect(server.uri)
        for number in range(most - KILLS * WRITES - 8):
            handle.pwrite(bytes([1]) * CLUSTER, (2000 + number) * CLUSTER)
        handle.shutdown()
    if os.stat(path).st_size > (most + 5) * CLUSTER:
        raise Failure("what was free in the file is not used")
    check_clean(path, "in the end")


def test_an_idle_guest_leaks_nothing():
    path = make("lazy_refcounts=off")
    with Server("-f", "qcow2", "--lazy-idle", "1", path) as server:
        handle = nbd_connect(server.uri)
        for number in range(100):
            handle.pwrite(pattern(number, 4096), number * CLUSTER)
        handle.flush()
        deadline = time.monotonic() + 100
        while leaks_of(path, "-U") > 0:
            if time.monotonic() > deadline:
                raise Failure("the reserve of an idle guest is not given back")
            time.sleep(0.1)
        server.kill9()
    wait_until_unlocked(path)
    check_clean(path, "after the kill of an idle server")


def test_leaks_that_another_program_frees_and_uses_have_one_owner():
    path = make("lazy_refcounts=off")
    for life in range(4):
        live_and_die(path, life)
        qemu_img("check", "-q", "-r", "leaks", "-f", "qcow2", path)
        place = (2000 + life) * CLUSTER
        qemu_io("-f", "qcow2", "-c", f"write -P {life + 1} {place} 64k", path)
        check_clean(path, f"after life {life}")
    check_lives(path, 4)
    check_clean(path, "in the end")
    for life in range(4):
        qemu_io("-f", "qcow2", "-c", f"read -P {life + 1} {(2000 + life) * CLUSTER} 64k", path)


run_tests(globals())
