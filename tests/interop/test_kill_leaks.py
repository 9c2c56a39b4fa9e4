#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What servers that are killed again and again leave behind: few clusters that nothing names, none in
the end where the image is recovered, and nothing that a later owner could mistake for its own."""
import json
import time

import nbd
from interop import *
from recovery_images import recover

CLUSTER = 64 * 1024
KILLS = 12
WRITES = 3  # of each life
# What a life may leave beside what it wrote: the reserve, and of QED the rest of a table's place.
RESERVE = {"qcow2": 5, "qed": 9}


def leaks_of(path, *args):
    result = run(oxbow_path(), "check", "-f", format_of(path), "--output", "json", *args, path,
                 check=False)
    return json.loads(result.stdout).get("leaks", 0)


def live_and_die(path, life, writes=WRITES):
    """Writes into clusters that have no place yet, each durably, and is killed."""
    with Server("-f", format_of(path), path) as server:
        handle = nbd_connect(server.uri)
        for number in range(writes):
            handle.pwrite(pattern(life * 1000 + number, 4096), (life * writes + number) * CLUSTER,
                          nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(path)


def check_lives(path, lives, writes=WRITES):
    with Server("-f", format_of(path), path) as server:
        handle = nbd_connect(server.uri)
        for life in range(lives):
            for number in range(writes):
                check_bytes(handle.pread(4096, (life * writes + number) * CLUSTER),
                            pattern(life * 1000 + number, 4096), f"life {life}, write {number}")
        handle.shutdown()
    recover(path)


def make(kind):
    path = tmpdir() / "disk"
    qemu_img("create", "-q", *kind_args(kind), path, "256M")
    return path


def test_kills_of_a_server_that_writes_little_leak_little():
    for kind in ("lazy_refcounts=off", "qed:"):
        path = make(kind)
        for life in range(KILLS):
            live_and_die(path, life)
            leaks = leaks_of(path)
            print(f"# {kind} after {life + 1} kills: {leaks} clusters")
            if leaks > (life + 1) * (WRITES + RESERVE[format_of(path)]):
                raise Failure(f"{leaks} clusters of {kind} have leaked after {life + 1} kills")
        check_lives(path, KILLS)


def wait_until_recovered(path):
    """While it is served."""
    deadline = time.monotonic() + 100
    while image_file(path).is_dirty:
        if time.monotonic() > deadline:
            raise Failure(f"{path} stays marked")
        time.sleep(0.05)


def test_a_marked_image_has_lost_nothing_once_it_is_recovered():
    for kind in ("lazy_refcounts=on", "qed:"):
        path = make(kind)
        for life in range(KILLS):
            live_and_die(path, life)
        # What a life takes lies behind the last one's reserve.
        most = KILLS * (WRITES + RESERVE[format_of(path)]) + 8
        with Server("-f", format_of(path), "--lazy-idle", "0.3", path) as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(pattern(0, 4096), 0, nbd.CMD_FLAG_FUA)
            wait_until_recovered(path)
            if os.stat(path).st_size > most * CLUSTER:
                raise Failure(f"the file has {os.stat(path).st_size // CLUSTER} clusters")
            for number in range(most - KILLS * WRITES - 8):
                handle.pwrite(bytes([1]) * CLUSTER, (2000 + number) * CLUSTER)
            handle.shutdown()
        if os.stat(path).st_size > (most + 5) * CLUSTER:
            raise Failure(f"what was free in the file is not used ({kind})")
        check_closed(path, f"in the end ({kind})", freed=True)
        check_lives(path, KILLS)


def test_an_idle_guest_leaks_nothing():
    for kind in ("lazy_refcounts=off", "lazy_refcounts=on", "qed:"):
        path = make(kind)
        with Server("-f", format_of(path), "--lazy-idle", "1", path) as server:
            handle = nbd_connect(server.uri)
            for number in range(100):
                handle.pwrite(pattern(number, 4096), number * CLUSTER)
            handle.flush()
            wait_until_recovered(path)
            deadline = time.monotonic() + 100
            while leaks_of(path, "-U") > 0:
                if time.monotonic() > deadline:
                    raise Failure(f"the reserve of an idle guest is not given back ({kind})")
                time.sleep(0.1)
            server.kill9()
        wait_until_unlocked(path)
        check_clean(path, f"after the kill of an idle server ({kind})")


def test_leaks_that_another_program_frees_and_uses_have_one_owner():
    for kind in ("lazy_refcounts=off", "qed:"):
        path = make(kind)
        fmt = format_of(path)
        for life in range(4):
            live_and_die(path, life)
            qemu_img("check", "-q", "-r", "leaks", "-f", fmt, path, check=False)
            place = (2000 + life) * CLUSTER
            qemu_io("-f", fmt, "-c", f"write -P {life + 1} {place} 64k", path)
            check_closed(path, f"after life {life} ({kind})", freed=True)
        check_lives(path, 4)
        check_closed(path, f"in the end ({kind})", freed=True)
        for life in range(4):
            qemu_io("-f", fmt, "-c", f"read -P {life + 1} {(2000 + life) * CLUSTER} 64k", path)


def test_a_guest_that_trims_and_writes_again_does_not_make_the_file_longer():
    """Ten times the whole disk, in one life and from one life to the next."""
    size = 32 * MIB
    for kind in ("lazy_refcounts=off", "lazy_refcounts=on", "qed:", "qed:cluster_size=4k,table_size=4"):
        oxbow("create", "-q", *kind_args(kind), "disk", str(size))
        for cache in ("writeback", "directsync"):
            longest = 0
            with Server("-f", format_of("disk"), "--cache", cache, "disk") as server:
                handle = nbd_connect(server.uri)
                for turn in range(10):
                    for at in range(0, size, 2 * MIB):
                        handle.pwrite(bytes([turn + 1]) * 2 * MIB, at)
                    check_bytes(bytes(handle.pread(MIB, 7 * MIB)), bytes([turn + 1]) * MIB, "disk")
                    longest = max(longest, os.stat("disk").st_size)
                    for at in range(0, size, 4 * MIB):
                        handle.trim(4 * MIB, at)
                    handle.flush()
                handle.shutdown()
            print(f"# {kind} {cache}: {longest >> 20} MiB, {os.stat('disk').st_size >> 20} in the end")
            # Twice the disk, as what is freed waits for a commit, and the largest reserve. And once
            # more for QED's second life, which does not know what the first one freed.
            lives = 1 + (cache == "directsync" and kind.startswith("qed:"))
            if longest > lives * 2 * size + 72 * MIB:
                raise Failure(f"the file has grown to {longest} bytes ({kind})")
            check_closed("disk", f"{kind}, {cache}", freed=True)
            qemu_io("-r", "-f", format_of("disk"), "-c", f"read -P 0 0 {size}", "disk")


run_tests(globals())
