#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What is shared is copied, what is freed goes back to the host, what is unknown survives."""
import struct

from interop import *

BITMAPS_EXTENSION = 0x23852875


def new_image(kind="cluster_size=64k", size="16M", *args):
    oxbow("create", "-q", *kind_args(kind), *args, "disk", size)
    return "disk"


def over_backing(kind, size="4M"):
    """A disk over a backing file whose bytes are all 0xbb."""
    with open("base.raw", "wb") as file:
        file.write(b"\xbb" * 4 * MIB)
    return new_image(kind, size, "-b", "base.raw", "-F", "raw")


def io(image, *commands):
    return oxbow("io", "-f", format_of(image), *io_args(commands), image)


def test_a_discard_returns_space_to_the_host():
    for kind in ("cluster_size=64k", "compat=0.10", "cluster_size=4k,lazy_refcounts=on",
                 "cluster_size=2M", "qed:", "qed:cluster_size=4k", "qed:cluster_size=2M,table_size=2"):
        image = new_image(kind)
        empty = host_bytes(image)
        io(image, "write -q -P 1 0 16M", "flush")
        full = host_bytes(image)
        if full < empty + 15 * MIB:
            raise Failure(f"{kind}: 16 MiB written take {full - empty} bytes on the host")
        io(image, "discard 0 16M", "flush")
        left = host_bytes(image)
        if left > empty + 3 * MIB:
            raise Failure(f"{kind}: {left - empty} of {full - empty} bytes left after a discard")
        io(image, "read -P 0 0 16M")
        check_closed(image, kind, freed=True)


def wait_for_space(image, at_most):
    """Holes may be punched in the background of a server."""
    deadline = time.monotonic() + 30
    while host_bytes(image) > at_most:
        if time.monotonic() > deadline:
            raise Failure(f"{image} still takes {host_bytes(image)} bytes, not {at_most}")
        time.sleep(0.01)


def test_a_trim_over_nbd_returns_space_to_the_host():
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        image = new_image(kind)
        for cache in ("writeback", "directsync"):
            with Server("-f", format_of(image), "--cache", cache, image) as server:
                handle = nbd_connect(server.uri)
                handle.pwrite(b"x" * 16 * MIB, 0)
                handle.flush() if handle.can_flush() else None
                full = host_bytes(image)
                handle.trim(16 * MIB, 0)
                handle.flush() if handle.can_flush() else None
                wait_for_space(image, full - 12 * MIB)
                handle.shutdown()
            check_closed(image, f"{kind}, {cache}", freed=True)


def test_zeroes_that_may_unmap_return_space_to_the_host():
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        image = new_image(kind)
        io(image, "write -q -P 1 0 16M", "flush")
        full = host_bytes(image)
        io(image, "write -z -u 0 16M", "flush")
        if host_bytes(image) > full - 12 * MIB:
            raise Failure(f"{kind}: {full} bytes before, {host_bytes(image)} after")
        io(image, "read -P 0 0 16M")
        check_closed(image, kind, freed=True)


def test_zeroes_that_may_not_unmap_take_no_new_space():
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        image = new_image(kind, "64M")
        before = host_bytes(image)
        io(image, "write -z 0 64M", "flush")
        if host_bytes(image) > before + MIB:
            raise Failure(f"{kind}: {host_bytes(image) - before} bytes for zeroes over nothing")
        check_clean(image)


def test_freed_clusters_are_used_again():
    """By the next process as well, but for QED's, which knows only what it freed itself."""
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        image = new_image(kind)
        session = []
        for turn in range(8):
            session += [f"write -q -P {turn + 1} 0 8M", "flush", f"read -P {turn + 1} 0 8M",
                        "discard 0 8M", "flush"]
        for part in [session] if kind.startswith("qed:") else [session[n:n + 5]
                                                                for n in range(0, 40, 5)]:
            io(image, *part, "write -q -P 1 15M 64k")
        if os.path.getsize(image) > 30 * MIB:
            raise Failure(f"{kind}: the file has grown to {os.path.getsize(image)} bytes")
        check_closed(image, kind, freed=True)


def test_a_discard_never_exposes_the_backing_file():
    for kind in ("compat=0.10", "compat=1.1", "compat=1.1,lazy_refcounts=on", "qed:"):
        image = over_backing(kind)
        io(image, "write -q -P 0xaa 0 2M")
        io(image, "discard 0 1M", "discard 3M 512k")
        data = guest_bytes_by_qemu(image)
        for start, end in ((0, MIB), (3 * MIB, 3 * MIB + 512 * KIB)):
            old = b"\xaa" if start == 0 else b"\xbb"
            for at in range(start, end, 65536):
                cluster = data[at:at + 65536]
                if cluster not in (bytes(65536), old * 65536):
                    raise Failure(f"{kind}: {cluster[:4].hex()} at {at:#x} after a discard")
        check_equal(data[MIB:2 * MIB] == b"\xaa" * MIB, True, "bytes beside the discard")
        check_equal(data[2 * MIB:3 * MIB] == b"\xbb" * MIB, True, "bytes of the backing file")
        if kind != "compat=0.10":
            check_equal(data[:MIB] == bytes(MIB), True, "discarded clusters read as zeroes")
        check_closed(image, kind, freed=True)


def test_zeroes_hide_the_backing_file():
    for kind in ("compat=0.10", "compat=1.1", "compat=1.1,cluster_size=2M",
                 "compat=1.1,cluster_size=512", "qed:", "qed:cluster_size=4k",
                 "qed:cluster_size=2M,table_size=2"):
        for flag in ("-z", "-z -u"):
            image = over_backing(kind)
            io(image, f"write {flag} 0 1M", f"write {flag} 1500000 100001")
            expected = bytearray(b"\xbb" * 4 * MIB)
            expected[:MIB] = bytes(MIB)
            expected[1500000:1600001] = bytes(100001)
            check_bytes(guest_bytes_by_qemu(image), bytes(expected), f"{kind} {flag}, by QEMU")
            check_bytes(guest_bytes_by_oxbow(image), bytes(expected), f"{kind} {flag}, by oxbow")
            check_closed(image, kind, freed=True)


def test_zeroes_over_a_backing_file_take_no_data_clusters():
    for kind in ("compat=1.1", "qed:"):
        image = over_backing(kind)
        before = host_bytes(image)
        io(image, "write -z 0 4M")
        if host_bytes(image) > before + 512 * KIB:
            raise Failure(f"{kind}: {host_bytes(image) - before} bytes for 4 MiB of zeroes")


def test_a_small_write_copies_the_rest_of_its_cluster_and_leaves_the_backing_file_alone():
    for kind in ("compat=0.10", "cluster_size=512", "cluster_size=64k", "cluster_size=2M",
                 "qed:cluster_size=4k", "qed:", "qed:cluster_size=4M,table_size=2"):
        image = over_backing(kind)
        before = fingerprint("base.raw")
        io(image, "write -P 0xcc 100001 3", "write -P 0xcd 4194303 1", "write -P 0xce 0 1")
        expected = bytearray(b"\xbb" * 4 * MIB)
        expected[100001:100004] = b"\xcc" * 3
        expected[-1] = 0xCD
        expected[0] = 0xCE
        check_bytes(guest_bytes_by_qemu(image), bytes(expected), kind)
        check_equal(fingerprint("base.raw"), before, "the backing file")
        check_clean(image)


def test_an_overlay_longer_than_its_backing_file_reads_zeroes_beyond():
    with open("base.raw", "wb") as file:
        file.write(b"\xbb" * 100_000)
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        image = new_image(kind, "1M", "-b", "base.raw", "-F", "raw")
        io(image, "read -P 0xbb 0 100000", "read -P 0 100352 900k", "write -P 1 99000 3000",
           "write -P 2 600k 1")
        expected = bytearray(MIB)
        expected[:100_000] = b"\xbb" * 100_000
        expected[99_000:102_000] = b"\x01" * 3000
        expected[600 * KIB] = 2
        check_bytes(guest_bytes_by_qemu(image), bytes(expected), f"{kind} by QEMU")
        check_bytes(guest_bytes_by_oxbow(image), bytes(expected), f"{kind} by oxbow")


def test_a_part_of_a_cluster_of_zeroes_hides_the_backing_file_beside_it():
    """QEMU reads the backing file's bytes there in a QED image that it wrote itself."""
    for kind in ("compat=1.1", "qed:", "qed:cluster_size=4k"):
        for zeroes in ("write -z", "discard"):
            image = over_backing(kind)
            expected = bytearray(b"\xbb" * 4 * MIB)
            expected[:MIB] = bytes(MIB)
            expected[70_000:70_100] = b"\x07" * 100
            expected[200 * KIB:201 * KIB] = b"\x08" * KIB
            # A discard of what was written leaves zeroes, as of what was not.
            io(image, "write -q -P 1 0 1M", f"{zeroes} 0 1M", "write -q -P 7 70000 100",
               "write -q -P 8 200k 1k")
            check_bytes(guest_bytes_by_qemu(image), bytes(expected), f"{kind} {zeroes}, by QEMU")
            check_bytes(guest_bytes_by_oxbow(image), bytes(expected), f"{kind} {zeroes}, by oxbow")
            check_closed(image, kind, freed=True)


def test_backing_names_are_relative_to_the_image_that_bears_them():
    for fmt in FORMATS:
        os.makedirs(f"{fmt}/below")
        with open(f"{fmt}/below/base.raw", "wb") as file:
            file.write(b"\xbb" * 65536)
        oxbow("create", "-q", "-f", fmt, "-b", "base.raw", "-F", "raw", f"{fmt}/below/mid")
        oxbow("create", "-q", "-f", fmt, "-b", "below/mid", "-F", fmt, f"{fmt}/top")
        io(f"{fmt}/top", "read -P 0xbb 0 64k", "write -q -P 0xbb 0 512")
        qemu_io("-r", "-f", fmt, "-c", "read -P 0xbb 0 64k", f"{fmt}/top")
        os.chdir(f"{fmt}/below")
        io("../top", "read -P 0xbb 0 64k")
        os.chdir("../..")


def test_clusters_shared_with_a_snapshot_are_copied_and_never_overwritten():
    for options in ("cluster_size=64k", "compat=0.10", "cluster_size=512,refcount_bits=8",
                    "lazy_refcounts=on"):
        image = new_image(options, "2M")
        io(image, "write -q -P 0x11 0 2M")
        qemu_img("snapshot", "-c", "then", image)
        file = Qcow2(image)
        shared = file.l2_entry(MIB) & OFFSET_MASK
        before = read_at(image, shared, 512)
        io(image, "write -P 0x22 1M 300", "write -z 0 64k", "discard 128k 128k", "write -P 3 300k 1k")
        entry = file.l2_entry(MIB)
        if entry & OFFSET_MASK == shared:
            raise Failure(f"{options}: the shared cluster was written in place")
        check_equal(entry & COPIED, COPIED, "COPIED of the new entry")
        check_equal(file.refcount(shared), 1, "refcount of the cluster that the snapshot keeps")
        check_equal(read_at(image, shared, 512), before, "bytes of the snapshot's cluster")
        check_bytes(guest_bytes_by_qemu(image, "-l", "then"), b"\x11" * 2 * MIB, "the snapshot")
        check_clean(image)
        io(image, "write -P 0x23 1M 300")
        check_equal(file.l2_entry(MIB), entry, "entry after a second write, which needs no copy")
        qemu_img("snapshot", "-d", "then", image)
        check_clean(image)


def test_a_discard_of_a_cluster_shared_with_a_snapshot_keeps_its_bytes():
    image = new_image("cluster_size=64k", "4M")
    io(image, "write -q -P 0x11 0 4M")
    qemu_img("snapshot", "-c", "then", image)
    io(image, "discard 0 4M", "read -P 0 0 4M", "flush", "write -q -P 0x44 0 2M")
    check_bytes(guest_bytes_by_qemu(image, "-l", "then"), b"\x11" * 4 * MIB, "the snapshot")
    check_clean(image)


def test_a_snapshot_can_be_gone_back_to_after_oxbow_wrote():
    image = new_image("cluster_size=64k", "4M")
    io(image, "write -q -P 0x11 0 4M")
    qemu_img("snapshot", "-c", "then", image)
    io(image, "write -q -P 0x44 0 2M", "write -z 3M 64k")
    qemu_img("snapshot", "-a", "then", image)
    io(image, "read -P 0x11 0 4M", "write -P 0x55 0 64k", "read -P 0x55 0 64k")
    check_clean(image)
    info = json.loads(oxbow("info", "--output=json", image).stdout)
    check_equal([s["name"] for s in info["snapshots"]], ["then"], "snapshots that info lists")


def add_extension(image, kind, data):
    """Appends a header extension to those of an image."""
    file = Qcow2(image)
    last = file.extensions()
    at = file.get("header_length") if file.get("version") >= 3 else V2_HEADER_BYTES
    if last:
        at = last[-1][1] + (last[-1][2] + 7) // 8 * 8
    padded = data + bytes(-len(data) % 8)
    write_at(image, at, struct.pack(">II", kind, len(data)) + padded + bytes(8))


def test_unknown_extensions_survive_writing_growing_and_repairing():
    image = new_image("lazy_refcounts=on", "16M")
    add_extension(image, 0x6F780001, b"first unknown")
    add_extension(image, 0x6F780002, bytes(range(200)))
    Qcow2(image).put("compatible_features", LAZY | 1 << 50)
    before = Qcow2(image).extensions()
    header = read_at(image, 0, 2048)
    io(image, "write -q -P 1 0 16M", "discard 0 8M", "flush")
    oxbow("check", "-r", "all", image)
    check_equal(Qcow2(image).extensions(), before, "extensions")
    check_equal(read_at(image, 104, 1944), header[104:], "the header's end and its extensions")
    check_equal(Qcow2(image).get("compatible_features"), LAZY | 1 << 50, "compatible features")
    io(image, "truncate 32G", "write -P 7 31G 64k")
    kinds = [kind for kind, _, _ in Qcow2(image).extensions()]
    check_in(0x6F780001, kinds, "extensions after growth")
    check_in(0x6F780002, kinds, "extensions after growth")
    check_clean(image)


def test_unknown_header_fields_survive():
    image = new_image("cluster_size=64k", "16M")
    file = Qcow2(image)
    # A longer header: 16 bytes between the known fields and the extensions.
    old_length = file.get("header_length")
    tail = read_at(image, old_length, 1024)
    write_at(image, old_length, b"unknown fields!!" + tail)
    file.put("header_length", old_length + 16)
    io(image, "write -q -P 1 0 4M", "truncate 32G", "write -P 7 31G 64k")
    check_equal(read_at(image, old_length, 16), b"unknown fields!!", "unknown fields")
    check_equal(file.get("header_length"), old_length + 16, "header length")
    check_clean(image)


def test_an_unknown_autoclear_bit_goes_with_a_write_and_not_with_a_read():
    image = new_image()
    file = Qcow2(image)
    file.put("autoclear_features", 1 << 33)
    io_read_only = ("io", "-r", "-f", "qcow2", "-c", "read 0 64k", image)
    oxbow(*io_read_only)
    oxbow("info", image)
    oxbow("check", image)
    check_equal(file.get("autoclear_features"), 1 << 33, "autoclear features after reading")
    io(image, "write 0 64k")
    check_equal(file.get("autoclear_features"), 0, "autoclear features after a write")


def image_with_bitmap():
    image = new_image()
    qemu_img("bitmap", "--add", "--enable", image, "backup")
    check_equal(Qcow2(image).get("autoclear_features"), BITMAPS, "autoclear bits to begin with")
    return image


def test_bitmaps_are_declared_stale_at_the_first_write_with_a_warning():
    image = image_with_bitmap()
    result = io(image, "write -P 1 0 64k")
    check_in("bitmap", result.stderr.lower(), "stderr")
    file = Qcow2(image)
    check_equal(file.get("autoclear_features"), 0, "autoclear features")
    check_in(BITMAPS_EXTENSION, [kind for kind, _, _ in file.extensions()], "extensions")
    qemu_io("-r", "-f", "qcow2", "-c", "read -P 1 0 64k", image)
    result = qemu_img("check", image, check=False)
    check_in(result.returncode, (0, 3), "exit codes of qemu-img check")
    check_equal(oxbow("check", image, check=False).returncode, result.returncode,
                "exit code of oxbow check beside that of qemu-img check")


def test_bitmaps_go_stale_on_disk_before_the_write_is_acknowledged():
    import nbd

    for kind in ("write", "zero", "trim"):
        image = image_with_bitmap()
        qemu_io("-f", "qcow2", "-c", "write -q 0 1M", image)
        check_equal(Qcow2(image).get("autoclear_features"), BITMAPS, "autoclear bits before")
        with Server("-f", "qcow2", "--cache", "directsync", image) as server:
            handle = nbd_connect(server.uri)
            if kind == "write":
                handle.pwrite(b"x" * 65536, 0, nbd.CMD_FLAG_FUA)
            elif kind == "zero":
                handle.zero(65536, 0, nbd.CMD_FLAG_FUA)
            else:
                handle.trim(65536, 0)
            server.kill9()
            wait_until_unlocked("disk")
        check_equal(Qcow2(image).get("autoclear_features"), 0, f"autoclear bits after a {kind}")


def test_bitmaps_stay_valid_when_nothing_is_written():
    image = image_with_bitmap()
    before = fingerprint(image)
    for args in (("io", "-r", "-f", "qcow2", "-c", "read 0 1M"), ("io", "-f", "qcow2", "-c", "read 0 1M"),
                 ("io", "-f", "qcow2", "-c", "flush"), ("info",), ("check",), ("map",)):
        result = oxbow(*args, image)
        check_equal("stale" in result.stderr, False, f"whether {args} warns")
        check_equal(fingerprint(image), before, f"the file after {args}")
    with Server("-f", "qcow2", image) as server:
        handle = nbd_connect(server.uri)
        handle.pread(MIB, 0)
        handle.flush()
        handle.shutdown()
    check_equal(fingerprint(image), before, "the file after serve")
    check_clean(image)


def test_a_snapshot_and_a_bitmap_survive_check_and_repair():
    """Defect seen elsewhere: repairing leaks of such an image freed the snapshot."""
    image = image_with_bitmap()
    io_image = lambda *commands: qemu_io("-f", "qcow2", *io_args(commands), image)
    io_image("write -q -P 0x11 0 4M")
    qemu_img("snapshot", "-c", "then", image)
    io_image("write -q -P 0x22 0 2M")
    for how in ("leaks", "all"):
        check_equal(oxbow("check", "-r", how, image).returncode, 0, f"exit code of check -r {how}")
        check_clean(image, f"after -r {how}")
        check_bytes(guest_bytes_by_qemu(image, "-l", "then")[:4 * MIB], b"\x11" * 4 * MIB, "snapshot")


run_tests(globals())
