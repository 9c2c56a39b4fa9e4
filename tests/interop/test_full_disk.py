#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""S1: on a full host a write that finds no room fails alone; all else works, and goes on when there is
room again (docs/durability.md, "Space")."""
from hostfs import *
from recovery_images import recover

HOST_BYTES = 16 * MIB
ROOM = 7 * MIB
BLOCK = 64 * KIB
DISK_BYTES = 4096 * MIB
# Where the host overwrites in place, and where it does not.
PROMISED = ("ext4", "ext4_with_large_blocks", "tmpfs", "xfs", "btrfs_without_cow")
# What is freed there is room only once an extent is freed as a whole, and after the next commit.
LATE = ("btrfs", "btrfs_without_cow")
KINDS = {"strict": "lazy_refcounts=off", "lazy": "lazy_refcounts=on", "qed": "qed:"}


def with_option(kind, option):
    return f"{kind}{'' if kind.endswith(':') else ','}{option}"


def plain(where, kind):
    image = where / "disk"
    oxbow("create", "-q", *kind_args(kind), image, str(DISK_BYTES))
    return image


def chain(where, kind):
    """Data is written before its entry, with what surrounds it."""
    base = where.parent / "base.qcow2"
    if not base.exists():
        oxbow("create", "-q", "-f", "qcow2", base, str(DISK_BYTES))
        oxbow("io", "-f", "qcow2", *io_args((f"write -P 0xbb 0 {12 * MIB}", "write -P 0xbb 3G 1M")),
              base)
    image = where / "disk"
    oxbow("create", "-q", *kind_args(kind), "-b", base, "-F", "qcow2", image)
    return image


def sparse_copy(where, kind):
    """Tables that exist and lie in holes."""
    image = where / "disk"
    whole = where.parent / "whole"
    qemu_img("create", "-q", *kind_args(kind), whole, str(DISK_BYTES))
    qemu_io("-f", format_of(whole), "-c", "write -q -P 5 600M 64k", "-c",
            "write -q -P 5 3500M 64k", whole)
    run("cp", "--sparse=always", whole, image)
    whole.unlink()
    return image


def small_clusters(where, kind):
    image = where / "disk"
    small = "cluster_size=4k" if kind.startswith("qed:") else "cluster_size=2k"
    oxbow("create", "-q", *kind_args(with_option(kind, small)), image, "256M")
    return image


def serve(image, cache, *args, **kwargs):
    fmt = format_of(image)
    stated = ("--backing-format", "qcow2") if fmt == "qed" else ()
    return Server("-f", fmt, "-t", cache, "--allow-backing", *stated, *args, image, **kwargs)


def fill(handle, offset, flags=0):
    """Blocks from offset on until one is refused, and then some more at other tables' places."""
    written = write_until_full(handle, offset, handle.get_size(), BLOCK, flags)
    for n in range(24):
        at = (handle.get_size() // 24 * n + 40 * MIB) // BLOCK * BLOCK % handle.get_size()
        try:
            handle.pwrite(block_at(at, BLOCK), at, flags)
            written.append(at)
        except nbd.Error as error:
            check_equal(error.errnum, errno.ENOSPC, f"error of the write at {at:#x}")
    return written


def let_room_come(path):
    run("sync", "-f", path)


def check_all(handle, written, what):
    check_blocks(handle, written, BLOCK, f"a block that fitted {what}")


def check_state(image, what):
    """Clean to both, and without a leak: but what a QED image freed, or could not use, is lost."""
    check_closed(image, what, freed=True)


def full_disk(kind, image, filler, cache, engine, what):
    with serve(image, cache, env={"OXBOW_IO": engine}) as server:
        handle = nbd_connect(server.uri)
        written = fill(handle, 0)
        if len(written) < 40:
            raise Failure(f"full after {len(written)} blocks {what}")
        handle.flush()
        for at in written[::3]:
            handle.pwrite(block_at(at, BLOCK), at)
        handle.flush()
        check_all(handle, written, what)
        handle.shutdown()
    check_state(image, f"closed on a full disk {what}")
    with serve(image, cache, env={"OXBOW_IO": engine}) as server:
        handle = nbd_connect(server.uri)
        check_all(handle, written, f"opened again {what}")
        trimmed, written = written[:16], written[16:]
        for at in trimmed:
            handle.trim(BLOCK, at)
        handle.flush()
        let_room_come(image)
        again = write_until_full(handle, handle.get_size() // 2 + 8 * MIB, handle.get_size(), BLOCK,
                                 nbd.CMD_FLAG_FUA)
        if len(again) < 8 and kind not in LATE:
            raise Failure(f"a trim of 16 blocks made room for {len(again)} {what}")
        written += again
        if kind not in LATE:
            handle.trim(BLOCK * 4, again[0])  # and no flush follows
            written = [at for at in written if not again[0] <= at < again[0] + 4 * BLOCK]
            handle.pwrite(block_at(trimmed[0], BLOCK), trimmed[0])
            written.append(trimmed[0])
        os.unlink(filler)
        let_room_come(image)
        more = list(range(20 * MIB, 21 * MIB, BLOCK)) + [handle.get_size() - MIB]
        for at in more:
            handle.pwrite(block_at(at, BLOCK), at)
        handle.flush()
        written = sorted(set(written + more))
        check_all(handle, written, f"with room again {what}")
        handle.shutdown()
    check_state(image, f"closed with room again {what}")
    with serve(image, "writeback", "-r") as server:
        handle = nbd_connect(server.uri)
        check_all(handle, written, f"in the end {what}")
        handle.shutdown()


def make_test(kind, make_image, refcounts):
    def test():
        where = mounted(kind, HOST_BYTES)
        for n, cache in enumerate(("writeback", "none") if kind in LATE else CACHE_MODES):
            engine = ("uring", "threads")[n % 2]
            what = f"on {kind}, {cache} {refcounts} {engine}"
            image = make_image(where, KINDS[refcounts])
            leave_room(where / "filler", ROOM)
            full_disk(kind, image, where / "filler", cache, engine, what)
            os.unlink(image)
            let_room_come(where)
    return test


for _kind in PROMISED:
    for _make in (plain, chain, sparse_copy, small_clusters):
        for _refcounts in KINDS:
            if _kind in ("ext4", "tmpfs") or (_make in (plain, sparse_copy) and _refcounts == "lazy"):
                globals()[f"test_a_full_{_kind}_costs_a_{_refcounts}_{_make.__name__}_nothing"] = (
                    make_test(_kind, _make, _refcounts))


def killed(image, cache, what):
    """The next server finds the disk as full: counts that a lazy image lacks have their space."""
    with serve(image, cache) as server:
        handle = nbd_connect(server.uri)
        written = fill(handle, 0, nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(image)
    with serve(image, cache) as server:
        handle = nbd_connect(server.uri)
        for at in written[::5]:
            handle.pwrite(block_at(at, BLOCK), at)
        handle.flush()
        check_all(handle, written, f"after a kill {what}")
        handle.shutdown()
    recover(image)
    check_equal(image_file(image).is_dirty, False, f"mark after a kill {what}")
    check_leaks_at_most(image, f"after a kill {what}")


def test_a_server_killed_on_a_full_disk_is_followed_by_one_that_needs_no_room():
    where = mounted("ext4", HOST_BYTES)
    for make_image in (plain, chain, small_clusters):
        for refcounts, options in KINDS.items():
            for cache in ("writeback", "directsync"):
                image = make_image(where, options)
                leave_room(where / "filler", ROOM)
                killed(image, cache, f"{make_image.__name__} {refcounts} {cache}")
                os.unlink(image)
                os.unlink(where / "filler")


def wait_until(holds, what):
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"in vain: {what}")
        time.sleep(0.05)


def dirty_copy(where):
    """A lazy image of a server that was killed, whose refcount block lies in a hole; what is on it."""
    whole = plain(tmpdir(), KINDS["lazy"])
    with Server("-f", "qcow2", whole) as server:
        handle = nbd_connect(server.uri)
        written = list(range(0, 2 * MIB, BLOCK))
        for at in written:
            handle.pwrite(block_at(at, BLOCK), at, nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(whole)
    run("cp", "--sparse=always", whole, where / "disk")
    return where / "disk", written


def test_a_recovery_that_finds_no_room_waits_for_it():
    where = mounted("ext4", HOST_BYTES)
    image, written = dirty_copy(where)
    leave_room(where / "filler", 0)
    with Server("-f", "qcow2", image) as server:
        handle = nbd_connect(server.uri)
        check_all(handle, written, "before the recovery")
        wait_until(lambda: "waits for room" in server.stderr(), "the server says that it waits")
        handle.pwrite(block_at(written[3], BLOCK), written[3], nbd.CMD_FLAG_FUA)
        check_equal(Qcow2(image).is_dirty, True, "dirty bit without room")
        os.unlink(where / "filler")
        wait_until(lambda: not Qcow2(image).is_dirty, "the recovery ends")
        handle.pwrite(block_at(40 * MIB, BLOCK), 40 * MIB, nbd.CMD_FLAG_FUA)
        check_all(handle, written, "after the recovery")
        handle.shutdown()
    check_state(image, "after a recovery that waited")


def test_a_recovery_that_waits_for_room_does_not_keep_a_server_from_ending():
    where = mounted("ext4", HOST_BYTES)
    image, written = dirty_copy(where)
    leave_room(where / "filler", 0)
    with Server("-f", "qcow2", image) as server:
        wait_until(lambda: "waits for room" in server.stderr(), "the server says that it waits")
    check_equal(Qcow2(image).is_dirty, True, "dirty bit without room")
    os.unlink(where / "filler")
    oxbow("io", "-f", "qcow2", "-c", "length", image)
    check_state(image, "recovered when there was room")


def test_where_overwrites_need_room_no_acknowledged_flush_is_lost_and_reads_go_on():
    where = mounted("btrfs", HOST_BYTES)
    for kind, cache in (("lazy", "writeback"), ("lazy", "none"), ("lazy", "unsafe"),
                        ("qed", "writeback"), ("qed", "none")):
        what = f"on btrfs, {kind} {cache}"
        image = plain(where, KINDS[kind])
        leave_room(where / "filler", ROOM)
        flushed = []
        server = serve(image, cache)
        with server:
            handle = nbd_connect(server.uri)
            pending = []
            for at in range(0, DISK_BYTES, BLOCK):
                try:
                    handle.pwrite(block_at(at, BLOCK), at)
                    pending.append(at)
                    if len(pending) % 8 == 0:
                        handle.flush()
                        flushed, pending = flushed + pending, []
                except nbd.Error:
                    break
            check_all(handle, flushed + pending, what)
            os.unlink(where / "filler")
            let_room_come(where)
            try:
                handle.flush()
                flushed += pending
            except nbd.Error:
                pass  # a failed sync poisons: what was not flushed has been told to be lost
            check_all(handle, flushed, f"with room again {what}")
            handle.shutdown()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait()
            server._expected_dead = True
        with serve(image, "writeback") as server:
            handle = nbd_connect(server.uri)
            check_all(handle, flushed, f"opened again {what}")
            handle.pwrite(block_at(2048 * MIB, BLOCK), 2048 * MIB, nbd.CMD_FLAG_FUA)
            handle.shutdown()
        recover(image)
        check_closed(image, what, freed=True)
        os.unlink(image)
        let_room_come(where)


def test_the_command_io_tells_one_write_of_many_that_there_is_no_room():
    where = mounted("ext4", HOST_BYTES)
    for kind in ("strict", "qed"):
        image = plain(where, KINDS[kind])
        fmt = format_of(image)
        commands = [f"write -P {n % 255 + 1} {n * BLOCK} {BLOCK}" for n in range(300)]
        refused = run(oxbow_path(), "io", "-f", fmt, *io_args(commands + ["flush"]), image,
                      check=False)
        lines = (refused.stdout + refused.stderr).splitlines()
        failed = [line for line in lines if "No space left" in line]
        fitted = [line for line in lines if line.startswith("wrote ")]
        check_equal(len(failed) + len(fitted), 300, f"commands answered ({kind})")
        if len(fitted) < 180:
            raise Failure(f"only {len(fitted)} of 224 blocks fitted ({kind})")
        check_closed(image, kind, freed=True)
        reads = [f"read -P {n % 255 + 1} {n * BLOCK} {BLOCK}" for n in range(len(fitted) - 8)]
        oxbow("io", "-r", "-f", fmt, *io_args(reads), image)
        os.unlink(image)


def test_a_marked_qed_image_is_recovered_where_there_is_no_room_at_all():
    """A recovery changes nothing that needs room: there are no counts."""
    where = mounted("ext4", HOST_BYTES)
    image = plain(where, KINDS["qed"])
    with serve(image, "writeback") as server:
        handle = nbd_connect(server.uri)
        written = list(range(0, 2 * MIB, BLOCK))
        for at in written:
            handle.pwrite(block_at(at, BLOCK), at, nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(image)
    check_equal(Qed(image).is_dirty, True, "mark after the kill")
    leave_room(where / "filler", 0)
    with serve(image, "writeback", "--lazy-idle", "0.3") as server:
        handle = nbd_connect(server.uri)
        check_all(handle, written, "during the recovery")
        handle.pwrite(block_at(written[3], BLOCK), written[3], nbd.CMD_FLAG_FUA)
        wait_until(lambda: not Qed(image).is_dirty, "the recovery ends")
        check_all(handle, written, "after the recovery")
        handle.shutdown()
    check_state(image, "recovered without room")


needs_root()
run_tests(globals())
