#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 70
"""The server dies by kill -9 at a random moment under writers, and every promise is kept (D3, D6, D7)."""
import random

from interop import *
from killed_writer import Writer, write_until_killed
from promises import Promises, Slot
from recovery_images import recover

DISK_BYTES = 4 * MIB


def read_disk(server):
    handle = nbd_connect(server.uri)
    data = nbd_read_all(handle)
    handle.shutdown()
    return data


def crash_rounds(seed, cache, kind, *create_args, data=bytes(DISK_BYTES), slot_bytes=4096,
                 stride=4096, rounds=3, serve_args=(), alive_seconds=(0.02, 0.25)):
    """Serve, write, kill; then open again, see that promises were kept, and go on."""
    rng = random.Random(seed)
    qemu_img("create", "-q", *kind_args(kind), *create_args, "disk", str(len(data)))
    promises = Promises(data, slot_bytes, stride)
    arguments = ("-f", split_kind(kind)[0], "--cache", cache, "--allow-backing", *serve_args, "disk")
    acknowledged = 0
    for turn in range(rounds):
        where = f"(seed {seed}, round {turn})"
        with Server(*arguments) as server:
            writer = Writer(server.uri, promises, cache, rng.random())
            try:
                write_until_killed(server, writer, rng.uniform(*alive_seconds))
            except Failure as error:
                raise Failure(f"{error} {where}") from None
            acknowledged += writer.acknowledged
        wait_until_unlocked("disk")
        check_structure_after_crash(kind, where)
        with Server(*arguments) as server:
            data = read_disk(server)
        try:
            promises.check(data)
        except Failure as error:
            raise Failure(f"{error} {where}") from None
        promises.settle(data)
        check_recovered(kind, where)
        check_bytes(guest_bytes_by_qemu("disk"), data, f"as QEMU reads it {where}")
    if acknowledged < rounds:
        raise Failure(f"only {acknowledged} requests were acknowledged: nothing was tested")


def check_structure_after_crash(kind, where):
    """On the bytes that the crash left: an image that is not lazy leaks at most (D3); a lazy one is
    dirty, or its counts are right. A QED image may be marked, and leaks at most all the same."""
    if image_file("disk").is_dirty:
        if "lazy_refcounts=on" in kind:
            return
        if not kind.startswith("qed:"):
            raise Failure(f"an image that is not lazy is marked dirty {where}")
    check_codes("disk", (0, 3), f"after the crash {where}")


def check_recovered(kind, where):
    """Served again and closed: clean, or (where the image is not lazy) leaking at most."""
    recover("disk")
    check_equal(image_file("disk").is_dirty, False, f"mark after recovery {where}")
    if "lazy_refcounts=on" in kind:
        check_clean("disk", f"after recovery {where}")
    else:
        check_leaks_at_most("disk", f"after recovery {where}")


def with_backing():
    data = pattern("backing", DISK_BYTES)
    with open("base.raw", "wb") as file:
        file.write(data)
    return ("-b", "base.raw", "-F", "raw"), data


KINDS = {
    "version_2": "compat=0.10,cluster_size=64k",
    "version_3": "compat=1.1,cluster_size=64k",
    "lazy": "compat=1.1,lazy_refcounts=on,cluster_size=64k",
    "qed": "qed:cluster_size=64k",
}


def make_test(cache, kind, backed):
    image_kind = KINDS[kind]

    def test():
        seed = f"{cache} {kind} {backed}"
        if backed:
            args, data = with_backing()
            crash_rounds(seed, cache, image_kind, *args, data=data, rounds=2)
        else:
            crash_rounds(seed, cache, image_kind, rounds=2)
    return test


for _cache in CACHE_MODES:
    for _kind in KINDS:
        for _backed in (False, True):
            _suffix = "_over_a_backing_file" if _backed else ""
            globals()[f"test_{_cache}_keeps_its_promises_in_a_{_kind}_image{_suffix}"] = (
                make_test(_cache, _kind, _backed))


def test_small_clusters_with_tiny_caches_keep_their_promises():
    tiny = ("--l2-cache-size", "4k", "--refcount-cache-size", "4k")
    for cache, kind in (("directsync", "cluster_size=512"),
                        ("writeback", "cluster_size=512,lazy_refcounts=on"),
                        ("writeback", "cluster_size=512,compat=0.10"),
                        ("directsync", "qed:cluster_size=4k,table_size=2"),
                        ("writeback", "qed:cluster_size=4k,table_size=16")):
        crash_rounds(f"tiny {cache} {kind}", cache, kind, data=bytes(2 * MIB),
                     slot_bytes=1536, stride=1536, rounds=2, serve_args=tiny,
                     alive_seconds=(0.5, 1.0))
        os.unlink("disk")


def test_holes_smaller_than_a_page_do_not_disturb_direct_writes_beside_them():
    """The kernel zeroes part of a page through the page cache, which O_DIRECT writes then collide with."""
    for cache in DIRECT_MODES:
        for kind in ("cluster_size=512", "cluster_size=1k,lazy_refcounts=on",
                     "qed:cluster_size=4k,table_size=2"):
            crash_rounds(f"holes {cache} {kind}", cache, kind, data=bytes(2 * MIB),
                         slot_bytes=1536, stride=1536, rounds=3, alive_seconds=(0.6, 0.9))
            os.unlink("disk")


def test_neighbours_in_one_cluster_keep_their_promises():
    args, data = with_backing()
    for cache, kind in (("none", "cluster_size=2M"),
                        ("directsync", "cluster_size=16k,lazy_refcounts=on"),
                        ("none", "qed:cluster_size=1M,table_size=2"),
                        ("directsync", "qed:cluster_size=16k")):
        crash_rounds(f"neighbours {cache} {kind}", cache, kind, *args, data=data, slot_bytes=512,
                     stride=1024, rounds=2, alive_seconds=(0.4, 0.8))
        os.unlink("disk")


def test_whole_clusters_freed_and_taken_again_keep_their_promises():
    for cache in ("directsync", "writeback"):
        for kind in ("cluster_size=4k", "cluster_size=4k,lazy_refcounts=on",
                     "qed:cluster_size=4k,table_size=2"):
            crash_rounds(f"whole {cache} {kind}", cache, kind, data=bytes(MIB),
                         slot_bytes=8192, stride=8192, rounds=3)
            os.unlink("disk")


def test_oxbow_opens_an_image_at_once_after_its_writer_was_killed():
    """The kernel may hold a dead process's locks until its I/O is done; that is no refusal."""
    for fmt in FORMATS:
        for cache in ("writeback", "directsync"):
            qemu_img("create", "-q", "-f", fmt, "disk", str(DISK_BYTES))
            data = bytes(DISK_BYTES)
            for turn in range(5):
                with Server("-f", fmt, "--cache", cache, "disk") as server:
                    writer = Writer(server.uri, Promises(data, 4096, 4096), cache, turn)
                    write_until_killed(server, writer, 0.05 + turn / 50)
                oxbow("io", "-f", fmt, "-c", "length", "disk")


def test_a_session_that_is_killed_keeps_what_it_said_was_written():
    """`oxbow io` writes through if nothing else is asked for."""
    for kind in KINDS.values():
        fmt = split_kind(kind)[0]
        qemu_img("create", "-q", *kind_args(kind), "disk", "64M")
        places = [(n * 7919 % 1000) * 64 * KIB + n % 5 * 512 for n in range(400)]
        session = subprocess.Popen([oxbow_path(), "io", "-f", fmt, "disk"], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        session.stdin.write("".join(f"write -P {n % 255 + 1} {at} 4k\n"
                                    for n, at in enumerate(places)))
        session.stdin.flush()
        said = ""
        while said.count("wrote ") < 60:
            part = os.read(session.stdout.fileno(), 4096).decode()
            if not part:
                raise Failure(f"the session ended: {said}")
            said += part
        session.kill()
        said += session.communicate()[0]
        wait_until_unlocked("disk")
        check_structure_after_crash(kind, f"({kind})")
        done = said.count("wrote ")
        print(f"# {kind}: {done} writes were acknowledged")
        reads = [f"read -P {n % 255 + 1} {at} 4k" for n, at in enumerate(places[:done])]
        oxbow("io", "-r", "-f", fmt, *io_args(reads), "disk")
        oxbow("io", "-f", fmt, *io_args(reads + ["write -q -P 9 63M 64k"]), "disk")
        check_recovered(kind, f"({kind})")
        qemu_io("-r", "-f", fmt, *io_args(reads), "disk")


def test_snapshots_survive_kills():
    qemu_img("create", "-q", "-f", "qcow2", "disk", str(DISK_BYTES))
    qemu_io("-f", "qcow2", "-c", f"write -q -P 0x77 0 {DISK_BYTES}", "disk")
    qemu_img("snapshot", "-c", "before", "disk")
    then = b"\x77" * DISK_BYTES
    promises = Promises(then, 4096, 4096)
    for turn in range(3):
        with Server("-f", "qcow2", "--cache", "writeback", "disk") as server:
            writer = Writer(server.uri, promises, "writeback", turn)
            write_until_killed(server, writer, 0.1)
        wait_until_unlocked("disk")
        with Server("-f", "qcow2", "disk") as server:
            data = read_disk(server)
        promises.check(data)
        promises.settle(data)
        check_bytes(guest_bytes_by_qemu("disk", "-l", "before"), then, "the snapshot")
        check_recovered("", f"(round {turn})")


def noticed(slot, data):
    try:
        slot.check(data)
    except Failure:
        return True
    return False


def test_the_model_notices_a_lost_write():
    slot = Slot(3, 0, 4096, bytes(4096))
    first = slot.issue("write")
    slot.acknowledge(False)
    check_equal(noticed(slot, bytes(4096)), False, "an unflushed write that is gone")
    check_equal(noticed(slot, first), False, "an unflushed write that is there")
    slot.acknowledge(True)
    check_equal(noticed(slot, bytes(4096)), True, "a durable write that is gone")
    torn = first[:1024] + bytes(512) + first[1536:]
    check_equal(noticed(slot, torn), True, "a durable write with a lost sector")
    second = slot.issue("write")
    check_equal(noticed(slot, first[:512] + second[512:]), False, "a write in flight, half done")
    slot.issue("trim")
    check_equal(noticed(slot, bytes(4096)), False, "zeroes of a trim in flight")
    check_equal(noticed(slot, b"\x01" * 4096), True, "foreign bytes")


def test_the_model_notices_a_lie_about_a_flush():
    promises = Promises(bytes(8192), 4096, 4096)
    data = promises.slots[1].issue("write")
    promises.slots[1].acknowledge(False)
    promises.check(bytes(8192))
    covered = promises.flush_starts()
    promises.flush_done(covered)
    promises.check(bytes(4096) + data)
    try:
        promises.check(bytes(8192))
    except Failure:
        return
    raise Failure("not noticed")


run_tests(globals())
