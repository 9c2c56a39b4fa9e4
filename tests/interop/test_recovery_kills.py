#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Servers that are killed within moments of their start, over and over, while they recover (D7, D9)."""
import random

import nbd
from hostfs import loop_device
from killed_writer import Writer, write_until_killed
from promises import slots_in_spans
from recovery_images import *


def live_and_die(image, promises, cache, seed, seconds, env=None, check=True):
    """One life of a server: it is written to until it is killed, and where check says so, what it has is
    looked at first. Returns whether it was killed before its recovery had ended, and how much was
    acknowledged."""
    with Server("-f", format_of(image), "--cache", cache, "--allow-backing", image, env=env) as server:
        if check:
            promises.check_and_settle(nbd_connect(server.uri))
        promises.lose_what_was_in_flight()
        writer = Writer(server.uri, promises, cache, seed)
        write_until_killed(server, writer, seconds)
        said = server.stderr()
    fmt = format_of(image)
    return BEGAN[fmt] in said and ENDED[fmt] not in said, writer.acknowledged


def check_last_life(image, promises):
    """Recovers to the end, keeps every promise, and is clean."""
    with Server("-f", format_of(image), "--allow-backing", image) as server:
        handle = nbd_connect(server.uri)
        promises.check_and_settle(handle)
        handle.shutdown()
    recover(image)
    check_equal(fence_of(image), None, "fence after the last life")
    check_closed(image, "after the last life", freed=True)
    with Server("-f", format_of(image), "-r", "--allow-backing", image) as server:
        handle = nbd_connect(server.uri)
        promises.check_and_settle(handle)
        handle.shutdown()


def die_at_once(image, env):
    """A life that no client sees. Whether its recovery had begun and not ended."""
    fmt = format_of(image)
    with Server("-f", fmt, "--allow-backing", image, env=env) as server:
        server.kill9()
        said = server.stderr()
    return BEGAN[fmt] in said and ENDED[fmt] not in said


def lives(seed, image, promises, cache, rounds, env=None, longest=0.04):
    """Most of them too short to look at anything, so that each is killed while it recovers. How fast the
    host is decides what comes of them: where no recovery was interrupted the next ones are shorter,
    and where nothing was answered they are longer."""
    rng = random.Random(seed)
    interrupted = acknowledged = turn = 0
    while turn < rounds or (turn < 4 * rounds and (interrupted == 0 or acknowledged == 0)):
        if turn >= rounds and interrupted == 0:
            interrupted += die_at_once(image, env)
        elif turn >= rounds:
            longest *= 2
        try:
            early, count = live_and_die(image, promises, cache, rng.random(),
                                        rng.uniform(0, longest), env, turn % 4 == 3)
        except Failure as error:
            raise Failure(f"{error} (seed {seed}, round {turn})") from None
        interrupted += early
        acknowledged += count
        turn += 1
    check_last_life(image, promises)
    if interrupted == 0 or acknowledged == 0:
        raise Failure(f"{interrupted} recoveries were interrupted, {acknowledged} requests "
                      "acknowledged: nothing was tested")


def test_promises_hold_where_every_life_ends_within_moments():
    use_memory()
    image = emptied_image(4 * KIB)
    lives("moments", image, slots_in_spans(16, 24, table_span(4 * KIB)), "writeback", 12)


def test_promises_hold_where_every_life_of_a_qed_image_ends_within_moments():
    use_memory()
    for cluster, spans, tables, cache in ((4 * KIB, 16, 1024, "writeback"),
                                          (64 * KIB, 4, 2048, "writethrough")):
        image = emptied_image(cluster, tables=tables, fmt="qed")
        lives(f"qed {cluster}", image, slots_in_spans(spans, 24, table_span(cluster, "qed")), cache,
              12)
        os.unlink(image)


def test_promises_hold_where_slots_are_smaller_than_clusters():
    use_memory()
    image = emptied_image(64 * KIB, tables=2048)
    lives("smaller", image, slots_in_spans(4, 64, table_span(64 * KIB)), "writethrough", 8)


def test_promises_hold_on_threads_over_a_backing_file():
    use_memory()
    for fmt, tables in (("qcow2", 32768), ("qed", 1024)):
        span = table_span(4 * KIB, fmt)
        qemu_img("create", "-q", "-f", "raw", "base.raw", str(tables * span))
        image = emptied_image(4 * KIB, "-b", "base.raw", "-F", "raw", tables=tables, fmt=fmt)
        lives(f"threads {fmt}", image, slots_in_spans(8, 24, span), "writeback", 8,
              env={"OXBOW_IO": "threads"})


def test_promises_hold_where_the_header_has_no_room_for_the_fence():
    use_memory()
    qemu_img("create", "-q", "-f", "raw", "base.raw", "256M")
    image = emptied_image(512, "-b", "base.raw", "-F", "raw", tables=131072)
    lives("no room", image, slots_in_spans(256, 1, 4 * table_span(512), 1536), "writeback", 8,
          longest=0.2)


def test_promises_hold_on_a_block_device():
    if os.geteuid() != 0:
        print("# a loop device needs root")
        return
    device = loop_device(96 * MIB)
    oxbow("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k,lazy_refcounts=on", device, "16G")
    promises = slots_in_spans(16, 24, table_span(4 * KIB))
    rng = random.Random("device")
    acknowledged = 0
    for _ in range(6):
        acknowledged += live_and_die(device, promises, "none", rng.random(),
                                     rng.uniform(0.05, 0.2))[1]
    if acknowledged == 0:
        raise Failure("nothing was acknowledged: nothing was tested")
    check_last_life(device, promises)


# ---- as an operator meets it ----

def reconnect(server):
    """Starts the server again and gives its client a connection."""
    server.start()
    return nbd_connect(server.uri)


def test_a_writer_goes_on_through_ten_kills_on_100_gib_with_all_metadata():
    oxbow("create", "-q", "-f", "qcow2", "-o",
          "lazy_refcounts=on,preallocation=metadata,cluster_size=256k", "disk", "100G")
    rng = random.Random("operator")
    written = {}
    with Server("-f", "qcow2", "--cache", "none", "disk") as server:
        handle = nbd_connect(server.uri)
        for turn in range(10):
            for n in range(12):
                at = rng.randrange(100 * 4096) * 256 * KIB
                if n % 3 == 0:  # gives the place back; what is written there then is allocated
                    handle.trim(256 * KIB, at)
                data = pattern(f"{turn} {n}", 8192)
                handle.pwrite(data, at)
                written[at] = data
                handle.flush()
            at = rng.choice(list(written))
            handle.pwrite(b"not promised", at + 8192)
            server.kill9()
            handle = reconnect(server)
            for at, data in written.items():
                check_bytes(bytes(handle.pread(8192, at)), data, f"{at:#x} after kill {turn}")
        handle.shutdown()
        check_in(BEGAN["qcow2"], server.stderr(), "stderr of all lives")
    recover("disk")
    check_equal(Qcow2("disk").is_dirty, False, "dirty bit")
    check_clean("disk")


run_tests(globals())
