#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The dirty bit of lazy refcounts: set in time, cleared when that is right, never otherwise (D5, D6)."""
import shutil
import time

from interop import *


def lazy_image(size="64M", options=""):
    oxbow("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on" + options, "disk.qcow2", size)
    return "disk.qcow2"


def crashed_image(cache="writeback"):
    """A lazy image whose server was killed after allocating writes: (path, bytes the guest wrote)."""
    import nbd

    image = lazy_image("8M")
    data = pattern("crashed", 640 * KIB)
    with Server("-f", "qcow2", "--cache", cache, image) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(data, 300 * KIB, nbd.CMD_FLAG_FUA)
        if handle.can_flush():
            handle.flush()
        server.kill9()
        wait_until_unlocked("disk.qcow2")
    check_equal(Qcow2(image).is_dirty, True, "dirty bit after the kill")
    return image, bytes(300 * KIB) + data + bytes(8 * MIB - 940 * KIB)


def wrongly_counted_image():
    """A dirty image of known wrong counts: two live clusters have none, one free cluster has one."""
    image = lazy_image("8M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 0x61 0 512k", image)
    file = Qcow2(image)
    file.put("incompatible_features", DIRTY)
    for guest in (0, 65536):
        file.put_refcount(file.l2_entry(guest) & OFFSET_MASK, 0)
    size = os.path.getsize(image)
    os.truncate(image, (size + 65535) // 65536 * 65536 + 65536)
    file.put_refcount((size + 65535) // 65536 * 65536, 1)
    return image


def test_the_dirty_bit_is_on_disk_before_an_allocating_write_is_acknowledged():
    import nbd

    for cache in ("writethrough", "directsync", "writeback", "none", "unsafe"):
        image = lazy_image()
        with Server("-f", "qcow2", "--cache", cache, image) as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
            server.kill9()
            wait_until_unlocked("disk.qcow2")
        file = Qcow2(image)
        entry = file.l2_entry(0)
        if entry & OFFSET_MASK == 0:
            raise Failure(f"{cache}: a write with FUA was acknowledged, and no entry is on disk")
        if file.refcount(entry & OFFSET_MASK) == 0 and not file.is_dirty:
            raise Failure(f"{cache}: the entry is on disk without a count, and the image not dirty")
        check_equal(file.is_dirty, True, f"dirty bit under {cache}")


def test_an_image_that_was_only_read_is_never_marked():
    import nbd

    image = lazy_image()
    before = fingerprint(image)
    with Server("-f", "qcow2", image) as server:
        handle = nbd_connect(server.uri)
        handle.pread(MIB, 0)
        if handle.can_flush():
            handle.flush()
        check_equal(Qcow2(image).is_dirty, False, "dirty bit while it is read")
        server.kill9()
        wait_until_unlocked("disk.qcow2")
    check_equal(fingerprint(image), before, "the file")


def test_a_clean_close_clears_the_dirty_bit():
    image = lazy_image()
    with Server("-f", "qcow2", image) as server:
        handle = nbd_connect(server.uri)
        for at in range(0, 64 * MIB, 4 * MIB):
            handle.pwrite(b"y" * 1000, at)
        handle.shutdown()
        check_equal(server.terminate(), 0, "exit code on SIGTERM")
    check_equal(Qcow2(image).is_dirty, False, "dirty bit")
    check_clean(image)
    oxbow("io", "-f", "qcow2", "-c", "write 1M 70k", image)
    check_equal(Qcow2(image).is_dirty, False, "dirty bit after oxbow io")
    check_clean(image)
    check_equal(Qcow2(image).get("compatible_features") & LAZY, LAZY, "lazy bit")


def test_an_image_that_is_not_lazy_is_never_dirty():
    oxbow("create", "-q", "-f", "qcow2", "disk.qcow2", "64M")
    with Server("-f", "qcow2", "disk.qcow2") as server:
        handle = nbd_connect(server.uri)
        for at in range(0, 64 * MIB, 4 * MIB):
            handle.pwrite(b"y" * 1000, at)
            check_equal(Qcow2("disk.qcow2").is_dirty, False, "dirty bit")
        if handle.can_flush():
            handle.flush()
        server.kill9()
        wait_until_unlocked("disk.qcow2")
    check_equal(Qcow2("disk.qcow2").is_dirty, False, "dirty bit")


def test_a_dirty_image_opened_read_only_stays_as_it_is():
    image, guest = crashed_image()
    before = fingerprint(image)
    check_bytes(guest_bytes_by_oxbow(image), guest, "read from a dirty image")
    check_equal(fingerprint(image), before, "the file after serve -r")
    for args in (("io", "-r", "-f", "qcow2", "-c", "read 0 8M"), ("info",), ("map",),
                 ("io", "-r", "-U", "-f", "qcow2", "-c", "read 0 8M")):
        oxbow(*args, image)
        check_equal(fingerprint(image), before, f"the file after {args}")
    result = oxbow("check", image, check=False)
    check_in(result.returncode, (0, 2, 3), "exit codes of check")
    check_equal(fingerprint(image), before, "the file after check")


def test_a_dirty_image_opened_for_writing_is_recovered_before_it_is_served():
    for cache in ("writeback", "directsync"):
        image, guest = crashed_image(cache)
        with Server("-f", "qcow2", "--cache", cache, image) as server:
            handle = nbd_connect(server.uri)
            check_bytes(nbd_read_all(handle), guest, "served")
            handle.pwrite(b"z" * 65536, 4 * MIB)
            handle.shutdown()
        check_clean(image)
        expected = bytearray(guest)
        expected[4 * MIB:4 * MIB + 65536] = b"z" * 65536
        check_bytes(guest_bytes_by_qemu(image), bytes(expected), "after recovery and a write")


def test_a_new_cluster_never_takes_a_live_one_after_a_crash():
    """The loss that a cleared bit over wrong counts leads to."""
    image = wrongly_counted_image()
    oxbow("io", "-f", "qcow2", *io_args(f"write -q -P 0x62 {at}k 64k" for at in range(1024, 2048, 64)),
          image)
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", "-c", "read -P 0x62 1M 1M", image)
    check_clean(image)


def test_qemu_recovers_what_oxbow_left_dirty_and_the_reverse():
    image, guest = crashed_image()
    qemu_io("-f", "qcow2", "-c", "write -q -P 1 7M 64k", image)
    check_clean(image)
    check_bytes(guest_bytes_by_oxbow(image)[:7 * MIB], guest[:7 * MIB], "recovered by QEMU")
    run("sh", "-c", "qemu-io -f qcow2 -c 'write -q -P 5 2M 1M' -c flush -c abort disk.qcow2; true",
        timeout=60)
    check_equal(Qcow2(image).is_dirty, True, "dirty bit after qemu-io aborted")
    oxbow("io", "-f", "qcow2", "-c", "read -P 5 2M 1M", "-c", "write -P 6 4M 1M", image)
    check_clean(image)


def test_a_read_only_image_that_becomes_writable_is_recovered_first():
    image = wrongly_counted_image()
    result = oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", "-c", "reopen -w",
                   "-c", "write -q -P 0x63 1M 1M", "-c", "read -P 0x61 0 512k", image)
    check_in("read 524288/524288", result.stdout, "stdout")
    check_clean(image)
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", "-c", "read -P 0x63 1M 1M", image)


def test_closing_and_opening_within_one_io_run_recovers():
    image = wrongly_counted_image()
    oxbow("io", "-r", "-f", "qcow2", "-c", "close", "-c", f"open -o driver=qcow2 {image}",
          "-c", "write -q -P 0x63 1M 1M", "-c", "read -P 0x61 0 512k", image)
    check_clean(image)


def test_a_repair_of_leaks_alone_leaves_a_wrong_image_dirty():
    """What is left wrong keeps its mark: the next writer recovers it, and no live cluster is taken."""
    image = wrongly_counted_image()
    result = oxbow("check", "-r", "leaks", image, check=False)
    file = Qcow2(image)
    counts_are_right = file.refcount(file.l2_entry(0) & OFFSET_MASK) == 1
    if not counts_are_right:
        check_equal(file.is_dirty, True, "dirty bit over wrong counts")
        check_in(result.returncode, (1, 2), "exit codes of a partial repair")
    oxbow("io", "-f", "qcow2", "-c", "write -q -P 0x63 1M 1M", image)
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", image)
    check_clean(image)


def test_a_full_repair_clears_the_dirty_bit():
    image = wrongly_counted_image()
    result = oxbow("check", "-r", "all", image)
    check_equal(Qcow2(image).is_dirty, False, "dirty bit")
    check_in("Double checking the fixed image now", result.stdout, "stdout")
    check_clean(image)
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", image)


def aliased_dirty_image():
    """Dirty, and with a fault that no count can mend: an entry on the L1 table."""
    image = wrongly_counted_image()
    file = Qcow2(image)
    file.put_be64(file.l2_entry_at(256 * KIB), COPIED | file.get("l1_table_offset"))
    return image


def test_a_dirty_image_that_cannot_be_repaired_is_not_opened_for_writing():
    image = aliased_dirty_image()
    before = fingerprint(image)
    result = oxbow("io", "-f", "qcow2", "-c", "write 1M 64k", image, check=False)
    check_equal(result.returncode, 1, "exit code")
    check_equal(Qcow2(image).is_dirty, True, "dirty bit")
    check_equal(Qcow2(image).l2_entry(MIB), 0, "entry that a refused write would have made")
    check_equal(before == fingerprint(image) or Qcow2(image).is_dirty, True, "unchanged or dirty")
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 256k", image)


def test_a_repair_that_fails_leaves_the_image_dirty():
    image = aliased_dirty_image()
    for how in ("leaks", "all"):
        shutil.copy(image, "copy.qcow2")
        result = oxbow("check", "-r", how, "copy.qcow2", check=False)
        again = oxbow("check", "copy.qcow2", check=False)
        if again.returncode != 0:
            check_equal(Qcow2("copy.qcow2").is_dirty, True, f"dirty bit after -r {how} that failed")
            if result.returncode == 0:
                raise Failure(f"-r {how} says 0, and a check says {again.returncode}")


def test_clearing_the_dirty_bit_keeps_the_rest_of_the_header():
    """One sector is written, with everything unknown in it (H9)."""
    image = lazy_image()
    file = Qcow2(image)
    end = [e for e in file.extensions()][-1]
    at = end[1] + (end[2] + 7) // 8 * 8
    write_at(image, at, bytes.fromhex("7a7a7a7a00000005") + b"hello\0\0\0" + bytes(8))
    header = read_at(image, 0, 4096)
    with Server("-f", "qcow2", image) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"y" * 4096, 0)
        if handle.can_flush():
            handle.flush()
        check_equal(file.is_dirty, True, "dirty bit while serving")
        handle.shutdown()
    check_equal(read_at(image, 0, 4096), header, "header after set and clear")


def wait_until_clean(image, seconds=20):
    deadline = time.monotonic() + seconds
    while Qcow2(image).is_dirty:
        if time.monotonic() > deadline:
            raise Failure(f"still dirty after {seconds} s without an allocation")
        time.sleep(0.05)


def test_an_idle_image_becomes_clean_while_it_is_served():
    import nbd

    for cache in ("writeback", "directsync", "unsafe"):
        image = lazy_image("32M")
        with Server("-f", "qcow2", "--cache", cache, "--lazy-idle", "0.3", image) as server:
            handle = nbd_connect(server.uri)
            for turn in range(3):
                handle.pwrite(bytes([65 + turn]) * 70000, turn * MIB, nbd.CMD_FLAG_FUA)
                check_equal(Qcow2(image).is_dirty, True, f"dirty bit after an allocation ({cache})")
                wait_until_clean(image)
                check_equal(handle.pread(70000, turn * MIB), bytes([65 + turn]) * 70000, "data")
            server.kill9()
            wait_until_unlocked(image)
        qemu_img("check", "-q", image)
        oxbow("check", "-q", image)


def test_an_image_stays_dirty_where_idling_must_never_commit():
    import nbd

    image = lazy_image("32M")
    with Server("-f", "qcow2", "--lazy-idle", "never", image) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
        time.sleep(1)
        check_equal(Qcow2(image).is_dirty, True, "dirty bit")
    check_equal(Qcow2(image).is_dirty, False, "dirty bit after the close")


def test_the_dirty_bit_survives_a_second_crash_during_the_life_after_the_first():
    import nbd

    image, guest = crashed_image()
    expected = bytearray(guest)
    for turn in range(3):
        with Server("-f", "qcow2", image) as server:
            handle = nbd_connect(server.uri)
            check_bytes(nbd_read_all(handle), bytes(expected), f"turn {turn}")
            at = (2 + turn) * MIB
            handle.pwrite(bytes([turn + 1]) * 200000, at, nbd.CMD_FLAG_FUA)
            expected[at:at + 200000] = bytes([turn + 1]) * 200000
            server.kill9()
            wait_until_unlocked("disk.qcow2")
        check_equal(Qcow2(image).is_dirty, True, "dirty bit")
    oxbow("check", "-r", "all", image)
    check_clean(image)
    check_bytes(guest_bytes_by_qemu(image), bytes(expected), "at the end")


run_tests(globals())
