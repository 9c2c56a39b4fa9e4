#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Images on block devices: sectors of 512 and 4096 bytes, a length that never changes, no holes."""
from hostfs import *
from recovery_images import recover

SECTOR_SIZES = (512, 4096)
DEVICE_BYTES = 32 * MIB


def device_with_image(sector, options="", size="64M", device_bytes=DEVICE_BYTES):
    device = loop_device(device_bytes, sector)
    check_equal(sector_bytes(device), sector, "sector size")
    with open(device, "wb") as file:  # what was there before is nobody's business
        file.write(b"\xa5" * device_bytes)
    args = ("-o", options) if options else ()
    oxbow("create", "-q", "-f", "qcow2", *args, device, size)
    return device


def test_what_oxbow_writes_on_a_device_qemu_reads():
    for sector in SECTOR_SIZES:
        for options in ("", "compat=0.10", "lazy_refcounts=on", "cluster_size=4k"):
            device = device_with_image(sector, options)
            for n, cache in enumerate(CACHE_MODES):
                at = n * 3 * MIB
                oxbow("io", "-f", "qcow2", "-t", cache, "-c", f"write -P {n + 1} {at + 1000} 200001",
                      "-c", f"write -z {at + 70000} 5000", device)
                reads = (f"read -P 0 {at} 1000", f"read -P {n + 1} {at + 1000} 69000",
                         f"read -P 0 {at + 70000} 5000", f"read -P {n + 1} {at + 75000} 126001",
                         f"read -P 0 {at + 201001} 10000")
                oxbow("io", "-r", "-f", "qcow2", "-t", cache, *io_args(reads), device)
                qemu_io("-r", "-f", "qcow2", *io_args(reads), device)
            check_clean(device, f"with {options} on sectors of {sector}")


def test_what_qemu_writes_on_a_device_oxbow_reads():
    for sector in SECTOR_SIZES:
        device = loop_device(DEVICE_BYTES, sector)
        qemu_img("create", "-q", "-f", "qcow2", device, "64M")
        qemu_io("-f", "qcow2", "-c", "write -P 7 100k 300001", device)
        oxbow("io", "-f", "qcow2", "-t", "none", "-c", "read -P 7 100k 300001", "-c",
              "write -P 8 50M 1M", device)
        qemu_io("-r", "-f", "qcow2", "-c", "read -P 8 50M 1M", "-c", "read -P 7 100k 300001", device)
        check_clean(device)


def test_single_sectors_beside_each_other_are_all_kept():
    """H5: a device's block is larger than the guest's."""
    for cache in ("none", "directsync"):
        device = device_with_image(4096)
        with Server("-f", "qcow2", "-t", cache, device) as server:
            handle = nbd_connect(server.uri)
            buffers = [nbd.Buffer.from_bytearray(bytearray(block_at(at, 512)))
                       for at in range(0, 128 * KIB, 512)]
            errors = []
            for n, buffer in enumerate(buffers):
                handle.aio_pwrite(buffer, n * 512, lambda error: errors.append(error.value) or 1)
            while handle.aio_in_flight() > 0:
                handle.poll(-1)
            check_equal(set(errors), {0}, "results")
            check_blocks(handle, range(0, 128 * KIB, 512), 512, f"a sector under {cache}")
            handle.shutdown()
        check_clean(device)


def test_discarded_clusters_read_as_zeroes_and_are_used_again():
    for sector in SECTOR_SIZES:
        device = device_with_image(sector, device_bytes=8 * MIB)
        for turn in range(1, 6):
            commands = (f"write -P {turn} 0 6M", f"read -P {turn} 0 6M", "discard 0 6M",
                        "read -P 0 0 6M")
            oxbow("io", "-f", "qcow2", "-t", "none", *io_args(commands), device)
        check_clean(device)


def test_a_full_device_is_an_error_to_the_guest_and_the_image_stays_clean():
    for sector in SECTOR_SIZES:
        for options in ("", "lazy_refcounts=on", "compat=0.10"):
            device = device_with_image(sector, options, device_bytes=8 * MIB)
            with Server("-f", "qcow2", "-t", "none", device) as server:
                handle = nbd_connect(server.uri)
                written = write_until_full(handle, 0, 64 * MIB, 64 * KIB)
                if len(written) < 100:
                    raise Failure(f"full after {len(written)} clusters of 128")
                check_blocks(handle, written, 64 * KIB, "a block that fitted")
                handle.pwrite(b"\x33" * 4096, written[5], nbd.CMD_FLAG_FUA)  # takes no space
                handle.flush()
                handle.trim(10 * 64 * KIB, written[20])
                handle.flush()
                handle.pwrite(b"\x44" * 5 * 64 * KIB, 50 * MIB, nbd.CMD_FLAG_FUA)
                handle.shutdown()
            check_clean(device, f"after it was full, {options}")
            oxbow("io", "-r", "-f", "qcow2", "-c", f"read -P 0x44 50M {5 * 64}k", "-c",
                  f"read -P 0x33 {written[5]} 4096", device)
            run("losetup", "-d", device)


def lengthen(device, bytes, name="device.img"):
    os.truncate(name, bytes)
    run("losetup", "-c", device)


def test_a_device_that_became_longer_has_room_at_once():
    for options in ("", "lazy_refcounts=on", "cluster_size=4k"):
        device = device_with_image(512, options, device_bytes=8 * MIB)
        with Server("-f", "qcow2", "-t", "none", device) as server:
            handle = nbd_connect(server.uri)
            written = write_until_full(handle, 0, 64 * MIB, 64 * KIB)
            lengthen(device, 16 * MIB)
            more = write_until_full(handle, 20 * MIB, 64 * MIB, 64 * KIB, nbd.CMD_FLAG_FUA)
            if len(more) < 100:
                raise Failure(f"8 MiB more took {len(more)} blocks, {options}")
            handle.flush()
            check_blocks(handle, written + more, 64 * KIB, f"a block, {options}")
            handle.shutdown()
        check_clean(device, f"after it became longer, {options}")
        run("losetup", "-d", device)


def test_a_larger_l1_table_finds_room_on_a_device_that_became_longer():
    device = device_with_image(512, "cluster_size=4k", "8M", 256 * KIB)
    with Server("-f", "qcow2", device) as server:
        handle = nbd_connect(server.uri)
        write_until_full(handle, 0, 8 * MIB, 4 * KIB)
        handle.shutdown()
    commands = io_args(("truncate 16G",))
    expect_failure(oxbow_path(), "io", "-f", "qcow2", *commands, device, message="No space left")
    with subprocess.Popen([oxbow_path(), "io", "-f", "qcow2", device], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        print("length", file=process.stdin, flush=True)
        process.stdout.readline()
        lengthen(device, MIB)
        process.communicate("truncate 16G\n")
    check_equal(Qcow2(device).get("size"), 16384 * MIB, "size")
    check_clean(device)


def test_a_killed_server_loses_nothing_that_was_durable():
    for sector, cache, options in ((512, "writeback", "lazy_refcounts=on"),
                                   (4096, "none", "lazy_refcounts=on"),
                                   (4096, "directsync", ""), (512, "writethrough", "compat=0.10")):
        device = device_with_image(sector, options)
        blocks = range(0, 20 * MIB, 512 * KIB)
        with Server("-f", "qcow2", "-t", cache, device) as server:
            handle = nbd_connect(server.uri)
            for at in blocks:
                handle.pwrite(block_at(at, 8192), at, nbd.CMD_FLAG_FUA)
            server.kill9()
        wait_until_unlocked(device)
        check_equal(Qcow2(device).is_dirty, "lazy" in options, f"dirty bit after a kill, {options}")
        with Server("-f", "qcow2", "-t", cache, device) as server:
            handle = nbd_connect(server.uri)
            check_blocks(handle, blocks, 8192, f"a durable block, {cache} {options}")
            handle.shutdown()
        recover(device)
        oxbow("check", "-q", "-r", "leaks", "-f", "qcow2", device)
        check_clean(device, f"after recovery, {cache} {options}")


def test_a_killed_server_of_a_full_device_is_recovered():
    device = device_with_image(4096, "lazy_refcounts=on", device_bytes=8 * MIB)
    with Server("-f", "qcow2", "-t", "none", device) as server:
        handle = nbd_connect(server.uri)
        written = write_until_full(handle, 0, 64 * MIB, 64 * KIB, nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(device)
    check_equal(Qcow2(device).is_dirty, True, "dirty bit after a kill")
    with Server("-f", "qcow2", "-t", "none", device) as server:
        handle = nbd_connect(server.uri)
        check_blocks(handle, written, 64 * KIB, "a durable block")
        handle.shutdown()
    recover(device)
    check_clean(device, "after recovery")


def test_counts_become_wider_on_a_device_that_has_room_and_stay_on_a_full_one():
    for sector in SECTOR_SIZES:
        for size, left in ((DEVICE_BYTES, 0), (12 * 4096, 2)):
            device = device_with_image(sector, "cluster_size=4k,refcount_bits=1", "1M", size)
            qemu_io("-f", "qcow2", *io_args(("write -q -c -P 7 0 4k", "write -q -P 8 8k 4k")), device)
            file = Qcow2(device)
            # Two guest clusters share a stream.
            file.put_be64(file.l2_entry_at(4096), file.l2_entry(0))
            if left:
                oxbow("io", "-f", "qcow2", "-c", f"write -P 9 16k {size - 8 * 4096}", device,
                      check=False)
            before = read_at(device, 0, size)
            result = oxbow("check", "-r", "all", "-f", "qcow2", device, check=False)
            check_equal(result.returncode, left, result.stderr)
            if left:
                check_equal(read_at(device, 0, size) == before, True, "nothing was written")
            else:
                check_clean(device)
            qemu_io("-r", "-f", "qcow2", *io_args(("read -P 7 0 8k", "read -P 8 8k 4k")), device)


def test_a_qed_image_on_a_device_is_written_in_place_and_does_not_grow():
    """Nothing says which clusters of a device are free."""
    for sector in SECTOR_SIZES:
        qemu_img("create", "-q", "-f", "qed", "file", "64M")
        qemu_io("-f", "qed", "-c", "write -q -P 7 0 2M", "file")
        device = loop_device(os.path.getsize("file"), sector)
        with open(device, "wb") as file:
            file.write(pathlib.Path("file").read_bytes())
        for cache in ("none", "writeback"):
            with Server("-f", "qed", "-t", cache, device) as server:
                handle = nbd_connect(server.uri)
                handle.pwrite(b"\x11" * 3000, 1000, nbd.CMD_FLAG_FUA)
                try:
                    handle.pwrite(b"\x22" * 4096, 40 * MIB)
                    raise Failure(f"a device of {sector} has become longer")
                except nbd.Error as error:
                    check_equal(error.errnum, errno.ENOSPC, "error of a write that needs a cluster")
                handle.pwrite(b"\x33" * 512, 0)
                handle.flush()
                check_equal(bytes(handle.pread(4096, 40 * MIB)), bytes(4096), "what was refused")
                handle.shutdown()
            check_closed(device, f"on sectors of {sector}, {cache}", freed=True)
        reads = ("read -P 0x33 0 512", "read -P 0x11 1000 3000", "read -P 7 4000 2093152")
        qemu_io("-r", "-f", "qed", *io_args(reads), device)
        oxbow("io", "-r", "-f", "qed", *io_args(reads), device)


def test_an_image_that_cannot_fit_is_not_made():
    device = loop_device(MIB, 4096)
    expect_failure(oxbow_path(), "create", "-q", "-f", "qcow2", "-o", "preallocation=full", device,
                   "8M", message="No space left")
    expect_failure(oxbow_path(), "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", device, "8M")


def test_a_raw_device_is_served_as_it_is():
    for sector in SECTOR_SIZES:
        device = loop_device(8 * MIB, sector)
        for cache in CACHE_MODES:
            with Server("-f", "raw", "-t", cache, device) as server:
                handle = nbd_connect(server.uri)
                check_equal(handle.get_size(), 8 * MIB, "size of the export")
                handle.pwrite(b"\x11" * 3000, 8 * MIB - 3000)
                handle.pwrite(b"\x22" * 1000, 999)
                handle.zero(70000, 100000)
                handle.trim(MIB, MIB)
                handle.flush()
                check_equal(bytes(handle.pread(3000, 8 * MIB - 3000)), b"\x11" * 3000, "the end")
                handle.shutdown()
            check_equal(read_at(device, 999, 1001), b"\x22" * 1000 + b"\0", "bytes of the device")


def test_a_raw_image_is_made_on_a_device_that_is_large_enough():
    device = loop_device(8 * MIB, 4096)
    for size in ("1M", "8M"):
        oxbow("create", "-q", "-f", "raw", device, size)
    expect_failure(oxbow_path(), "create", "-q", "-f", "raw", device, "9M", message=device)
    oxbow("create", "-q", "-f", "raw", "-o", "preallocation=full", device, "8M")


def test_a_device_as_a_backing_file_shows_its_bytes():
    for sector in SECTOR_SIZES:
        base = loop_device(8 * MIB, sector, "base.img")
        data = pattern("base", 8 * MIB)
        with open(base, "wb") as file:
            file.write(data)
        top = device_with_image(sector)
        oxbow("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
        qemu_img("compare", "-f", "qcow2", "-F", "raw", top, base)
        oxbow("io", "-f", "qcow2", "-t", "none", "-c", "write -P 9 1M 1000", top)
        check_bytes(guest_bytes_by_oxbow(top), data[:MIB] + b"\x09" * 1000 + data[MIB + 1000:],
                    "the overlay")
        check_bytes(read_at(base, 0, 8 * MIB), data, "the backing device")
        check_clean(top)
        run("losetup", "-d", base)


needs_root()
run_tests(globals())
