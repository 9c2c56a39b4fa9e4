#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The dirty bit of lazy refcounts, and QED's NEED_CHECK: set in time, cleared when that is right, never
otherwise (D5, D6)."""
import shutil
import time

from interop import *


# Kinds that are marked while they are written to.
MARKED = ("lazy_refcounts=on", "qed:", "qed:cluster_size=4k,table_size=2")


def lazy_image(size="64M", kind="lazy_refcounts=on"):
    oxbow("create", "-q", *kind_args(kind), "disk", size)
    return "disk"


def serve(image, *args):
    return Server("-f", format_of(image), *args, image)


def crashed_image(cache="writeback", kind="lazy_refcounts=on"):
    """An image whose server was killed after allocating writes: (path, bytes the guest wrote)."""
    import nbd

    image = lazy_image("8M", kind)
    data = pattern("crashed", 640 * KIB)
    with serve(image, "--cache", cache) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(data, 300 * KIB, nbd.CMD_FLAG_FUA)
        if handle.can_flush():
            handle.flush()
        server.kill9()
        wait_until_unlocked("disk")
    check_equal(image_file(image).is_dirty, True, "mark after the kill")
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


def test_the_mark_is_on_disk_before_an_allocating_write_is_acknowledged():
    import nbd

    for kind in MARKED:
        for cache in CACHE_MODES:
            image = lazy_image(kind=kind)
            with serve(image, "--cache", cache) as server:
                handle = nbd_connect(server.uri)
                handle.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
                check_equal(image_file(image).is_dirty, True, f"mark of {kind} under {cache}, served")
                server.kill9()
                wait_until_unlocked("disk")
            file = image_file(image)
            if file.place_of(0) == 0:
                raise Failure(f"{kind}, {cache}: a write with FUA was acknowledged, and no entry is "
                              "on disk")
            check_equal(read_at(image, file.place_of(0), 4096), b"x" * 4096, "what the entry names")
            check_equal(file.is_dirty, True, f"mark of {kind} under {cache}")


def test_the_mark_is_there_before_an_allocation_that_nobody_made_durable():
    for kind in MARKED:
        image = lazy_image(kind=kind)
        with serve(image) as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(b"x" * 4096, 0)
            check_equal(image_file(image).is_dirty, True, f"mark of {kind}")
            handle.shutdown()
        check_closed(image, kind)


def test_an_image_that_was_only_read_is_never_marked():
    for kind in MARKED:
        image = lazy_image(kind=kind)
        before = fingerprint(image)
        with serve(image) as server:
            handle = nbd_connect(server.uri)
            handle.pread(MIB, 0)
            if handle.can_flush():
                handle.flush()
            check_equal(image_file(image).is_dirty, False, "mark while it is read")
            server.kill9()
            wait_until_unlocked("disk")
        check_equal(fingerprint(image), before, f"the file ({kind})")


def test_writes_in_place_mark_nothing():
    import nbd

    for kind in MARKED:
        image = lazy_image(kind=kind)
        oxbow("io", "-f", format_of(image), "-c", "write -q 0 4M", image)
        with serve(image) as server:
            handle = nbd_connect(server.uri)
            for at in range(0, 4 * MIB, 256 * KIB):
                handle.pwrite(b"y" * 5000, at, nbd.CMD_FLAG_FUA)
            check_equal(image_file(image).is_dirty, False, f"mark of {kind}")
            handle.shutdown()
        check_clean(image)


def test_a_clean_close_clears_the_mark():
    for kind in MARKED:
        image = lazy_image(kind=kind)
        with serve(image) as server:
            handle = nbd_connect(server.uri)
            for at in range(0, 64 * MIB, 4 * MIB):
                handle.pwrite(b"y" * 1000, at)
            handle.shutdown()
            check_equal(server.terminate(), 0, "exit code on SIGTERM")
        check_closed(image, kind)
        oxbow("io", "-f", format_of(image), "-c", "write 1M 70k", image)
        check_closed(image, f"{kind} after oxbow io")
    image = lazy_image()
    oxbow("io", "-f", "qcow2", "-c", "write 1M 70k", image)
    check_equal(Qcow2(image).get("compatible_features") & LAZY, LAZY, "lazy bit")


def test_an_image_that_is_not_lazy_is_never_dirty():
    oxbow("create", "-q", "-f", "qcow2", "disk", "64M")
    with Server("-f", "qcow2", "disk") as server:
        handle = nbd_connect(server.uri)
        for at in range(0, 64 * MIB, 4 * MIB):
            handle.pwrite(b"y" * 1000, at)
            check_equal(Qcow2("disk").is_dirty, False, "dirty bit")
        if handle.can_flush():
            handle.flush()
        server.kill9()
        wait_until_unlocked("disk")
    check_equal(Qcow2("disk").is_dirty, False, "dirty bit")


def test_a_marked_image_opened_read_only_stays_as_it_is():
    for kind in MARKED:
        image, guest = crashed_image(kind=kind)
        fmt = format_of(image)
        before = fingerprint(image)
        check_bytes(guest_bytes_by_oxbow(image), guest, "read from a marked image")
        check_equal(fingerprint(image), before, "the file after serve -r")
        for args in (("io", "-r", "-f", fmt, "-c", "read 0 8M"), ("info",), ("map",),
                     ("io", "-r", "-U", "-f", fmt, "-c", "read 0 8M")):
            oxbow(*args, image)
            check_equal(fingerprint(image), before, f"the file after {args}")
        result = oxbow("check", image, check=False)
        check_in(result.returncode, (0, 2, 3), "exit codes of check")
        check_equal(fingerprint(image), before, "the file after check")


def test_a_marked_image_opened_for_writing_is_recovered():
    for kind in MARKED:
        for cache in ("writeback", "directsync"):
            image, guest = crashed_image(cache, kind)
            with serve(image, "--cache", cache) as server:
                handle = nbd_connect(server.uri)
                check_bytes(nbd_read_all(handle), guest, "served")
                handle.pwrite(b"z" * 65536, 4 * MIB)
                handle.shutdown()
            check_closed(image, f"{kind}, {cache}", freed=True)
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


def test_qemu_recovers_what_oxbow_left_marked_and_the_reverse():
    for kind in MARKED:
        image, guest = crashed_image(kind=kind)
        fmt = format_of(image)
        qemu_io("-f", fmt, "-c", "write -q -P 1 7M 64k", image)
        check_closed(image, f"{kind}, recovered by QEMU", freed=True)
        check_bytes(guest_bytes_by_oxbow(image)[:7 * MIB], guest[:7 * MIB], "recovered by QEMU")
        run("sh", "-c", f"qemu-io -f {fmt} -c 'write -q -P 5 2M 1M' -c flush -c abort disk; true",
            timeout=60)
        check_equal(image_file(image).is_dirty, True, "mark after qemu-io aborted")
        oxbow("io", "-f", fmt, "-c", "read -P 5 2M 1M", "-c", "write -P 6 4M 1M", image)
        check_closed(image, f"{kind}, recovered by oxbow", freed=True)


def test_a_read_only_image_that_becomes_writable_is_recovered_first():
    image = wrongly_counted_image()
    result = oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", "-c", "reopen -w",
                   "-c", "write -q -P 0x63 1M 1M", "-c", "read -P 0x61 0 512k", image)
    check_in("read 524288/524288", result.stdout, "stdout")
    check_clean(image)
    oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 512k", "-c", "read -P 0x63 1M 1M", image)


def test_a_marked_qed_image_that_becomes_writable_is_recovered():
    image, guest = crashed_image(kind="qed:")
    oxbow("io", "-r", "-f", "qed", "-c", "read 0 8M", "-c", "reopen -w", "-c",
          "write -q -P 0x63 1M 1M", "-c", "reopen -r", "-c", "read -P 0x63 1M 1M", image)
    check_closed(image, freed=True)
    expected = guest[:MIB] + b"\x63" * MIB + guest[2 * MIB:]
    check_bytes(guest_bytes_by_qemu(image), expected, "after the recovery")


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


def test_setting_and_clearing_need_check_keeps_the_rest_of_the_header():
    oxbow("create", "-q", "-f", "raw", "base", "8M")
    for args in ((), ("-b", "base", "-F", "raw")):
        oxbow("create", "-q", "-f", "qed", *args, "disk", "8M")
        file = Qed("disk")
        file.put("compat_features", 1 << 40)
        write_at("disk", 3000, b"what nobody knows")
        header = read_at("disk", 0, 4096)
        with serve("disk", "--allow-backing") as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(b"y" * 4096, 0)
            handle.flush()
            marked = bytearray(header)
            marked[16] |= NEED_CHECK
            check_equal(read_at("disk", 0, 4096), bytes(marked), "header while it is served")
            handle.shutdown()
        check_equal(read_at("disk", 0, 4096), header, "header after set and clear")


def wait_until_clean(image, seconds=20):
    deadline = time.monotonic() + seconds
    while image_file(image).is_dirty:
        if time.monotonic() > deadline:
            raise Failure(f"still marked after {seconds} s without an allocation")
        time.sleep(0.05)


def test_an_idle_image_becomes_clean_while_it_is_served():
    import nbd

    for kind in MARKED:
        for cache in ("writeback", "directsync", "unsafe"):
            image = lazy_image("32M", kind)
            with serve(image, "--cache", cache, "--lazy-idle", "0.3") as server:
                handle = nbd_connect(server.uri)
                for turn in range(3):
                    handle.pwrite(bytes([65 + turn]) * 70000, turn * MIB, nbd.CMD_FLAG_FUA)
                    check_equal(image_file(image).is_dirty, True,
                                f"mark of {kind} after an allocation ({cache})")
                    wait_until_clean(image)
                    check_equal(handle.pread(70000, turn * MIB), bytes([65 + turn]) * 70000, "data")
                server.kill9()
                wait_until_unlocked(image)
            check_clean(image, f"{kind}, {cache}")


def test_an_image_stays_marked_where_idling_must_never_commit():
    import nbd

    for kind in MARKED:
        image = lazy_image("32M", kind)
        with serve(image, "--lazy-idle", "never") as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
            time.sleep(1)
            check_equal(image_file(image).is_dirty, True, f"mark of {kind}")
        check_equal(image_file(image).is_dirty, False, f"mark of {kind} after the close")


def test_the_mark_survives_a_second_crash_during_the_life_after_the_first():
    import nbd

    for kind in MARKED:
        image, guest = crashed_image(kind=kind)
        expected = bytearray(guest)
        for turn in range(3):
            with serve(image) as server:
                handle = nbd_connect(server.uri)
                check_bytes(nbd_read_all(handle), bytes(expected), f"turn {turn}")
                at = (2 + turn) * MIB
                handle.pwrite(bytes([turn + 1]) * 200000, at, nbd.CMD_FLAG_FUA)
                expected[at:at + 200000] = bytes([turn + 1]) * 200000
                server.kill9()
                wait_until_unlocked("disk")
            check_equal(image_file(image).is_dirty, True, f"mark of {kind}")
        oxbow("check", "-r", "all", image, check=False)
        check_closed(image, kind, freed=True)
        check_bytes(guest_bytes_by_qemu(image), bytes(expected), "at the end")


run_tests(globals())
