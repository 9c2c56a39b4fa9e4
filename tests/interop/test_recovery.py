#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 70
"""Images that were not closed, used at once and recovered meanwhile, between oxbow and QEMU
(docs/recovery.md, and docs/qed.md)."""
import errno

from recovery_images import *

HEAD = (f"read -P {PATTERN} 0 1M", "read -P 0x22 1M 1M")
NEW = ("write -q -f -P 0x33 3M 66000",)
NEW_READS = ("read -P 0x33 3M 66000",)


def with_base(data_format="raw"):
    """A backing file of 8 MiB of 0x77, and the arguments that name it."""
    base = f"base.{data_format}"
    qemu_img("create", "-q", "-f", data_format, base, "8M")
    qemu_io("-f", data_format, "-c", "write -q -P 0x77 0 8M", base)
    return ("-b", base, "-F", data_format)


def check_all_reads(image, *reads):
    """Both read the same, and neither changes anything."""
    before = stamp(image)
    for program in (oxbow_path(), "qemu-io"):
        run(program, *(("io",) if program != "qemu-io" else ()), "-r", "-f", format_of(image),
            *io_args(reads), image)
        check_equal(stamp(image), before, f"the file after {program} -r")


def check_snapshot(image):
    """The snapshot still reads as it was taken (a copy is turned back to it)."""
    shutil.copy(image, "turned-back.qcow2")
    qemu_img("snapshot", "-a", "before", "turned-back.qcow2")
    qemu_io("-r", "-f", "qcow2", "-c", f"read -P {PATTERN ^ 1} 0 1536k", "turned-back.qcow2")
    os.unlink("turned-back.qcow2")


def check_recovered(image, *reads, chain=None, snapshot=False):
    check_equal(fence_of(image), None, "fence")
    check_closed(image, freed=True)
    check_all_reads(image, *reads)
    if chain is not None:
        check_equal(chain_of(image), chain, "the backing chain as QEMU tells it")
    if snapshot:
        check_snapshot(image)


# ---- what QEMU left ----

def recovered_beside_writes(cluster, backed=False, snapshot=False, tables=None, recover="auto",
                            fmt="qcow2"):
    args = with_base() if backed else ()
    image = left_dirty_by_qemu("disk", cluster, *args, snapshot=snapshot, tables=tables, fmt=fmt)
    chain = chain_of(image)
    below = "0x77" if backed else "0"
    check_all_reads(image, *HEAD, f"read -P {below} 2M 6M")
    oxbow("io", "-f", fmt, f"--recover={recover}", *io_args(HEAD + NEW + NEW_READS + (
        "write -q -P 0x44 512k 4k", "discard -q 1536k 512k", "flush")), image)
    check_recovered(image, "read -P 0x44 512k 4k", f"read -P {PATTERN} 516k 508k",
                    f"read -P {below} 2M 1M", f"read -P {below} 6M 2M", *NEW_READS,
                    chain=chain, snapshot=snapshot)


def test_what_qemu_left_dirty_is_recovered_beside_writes():
    use_memory()
    for cluster in (512, 64 * KIB):
        recovered_beside_writes(cluster)


def test_what_qemu_left_of_a_qed_image_is_recovered_beside_writes():
    use_memory()
    for cluster in TABLES["qed"]:
        for backed in (False, True):
            recovered_beside_writes(cluster, backed, fmt="qed")


def test_what_qemu_left_dirty_over_a_backing_file_is_recovered_beside_writes():
    use_memory()
    for cluster in (512, 4 * KIB, 2 * MIB):
        recovered_beside_writes(cluster, backed=True)


def test_what_qemu_left_dirty_with_a_snapshot_is_recovered_beside_writes():
    use_memory()
    recovered_beside_writes(4 * KIB, backed=True, snapshot=True)
    recovered_beside_writes(64 * KIB, snapshot=True)


def test_small_images_are_recovered_whoever_is_first():
    for fmt, clusters in TABLES.items():
        for cluster in clusters:
            for recover in ("auto", "wait"):
                recovered_beside_writes(cluster, backed=True, snapshot=fmt == "qcow2", tables=0,
                                        recover=recover, fmt=fmt)


def test_compressed_clusters_are_recovered_beside_writes():
    use_memory()
    with open("guest.raw", "wb") as file:
        file.write(b"compressible" * (4 * MIB // 12))
        file.truncate(8 * MIB)
    for kind in ("zlib", "zstd"):
        qemu_img("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o",
                 f"lazy_refcounts=on,cluster_size=4k,compression_type={kind}", "guest.raw",
                 "disk")
        file = Qcow2("disk")
        for host in range(0, os.path.getsize("disk"), 4 * KIB):
            file.put_refcount(host, 0)
        file.put("incompatible_features", file.get("incompatible_features") | DIRTY)
        expected = bytearray(guest_bytes_by_qemu("disk"))
        oxbow("io", "-f", "qcow2", "--recover=auto", *io_args(
            ("write -q -P 1 100k 50k", "write -q -P 2 5M 1M", "discard -q 2M 512k")), "disk")
        check_clean("disk", kind)
        expected[100 * KIB:150 * KIB] = b"\1" * 50 * KIB
        expected[5 * MIB:6 * MIB] = b"\2" * MIB
        expected[2 * MIB:2 * MIB + 512 * KIB] = bytes(512 * KIB)
        check_bytes(guest_bytes_by_qemu("disk"), bytes(expected), f"{kind} after recovery")


# ---- interrupted recoveries ----

def interrupted(cluster, backed=False, snapshot=False, fmt="qcow2"):
    """A recovery that died after it had allocated: (image, reads that hold, chain, had a fence)."""
    args = with_base() if backed else ()
    image = left_dirty_by_qemu("disk", cluster, *args, snapshot=snapshot, fmt=fmt)
    chain = chain_of(image)
    end = os.path.getsize(image)
    interrupt_recovery(image, *NEW)
    fence = fence_of(image)
    if fence is not None:
        check_equal(fence, end, "old end in the fence")
        if os.path.getsize(image) <= end:
            raise Failure("an allocation did not make the file longer")
    below = "0x77" if backed else "0"
    reads = HEAD + NEW_READS + (f"read -P {below} 2M 1M", f"read -P {below} 6M 2M")
    return image, reads, chain, fence is not None


def ends_by_others(image, reads, chain, snapshot):
    """Each way an interrupted recovery may be met, on a copy."""
    fmt = format_of(image)
    check_all_reads(image, *reads)
    check_equal(chain_of(image), chain, "the backing chain while it is marked")
    if fmt != "qed" or image_file(image).cluster_bytes < 2 * MIB:
        output("qemu-img", "map", "--output=json", image)  # aborts on QED disks of terabytes
    ways = {
        "qemu-img check": lambda: check_in(qemu_img(
            "check", "-q", "-r", "all", "copy", check=False).returncode,
            (0, 3) if fmt == "qed" else (0,), "exit codes"),
        "qemu-io": lambda: qemu_io("-f", fmt, *io_args(
            reads + ("write -q -P 0x55 7M 64k", "read -P 0x55 7M 64k")), "copy"),
        "oxbow check": lambda: check_in(oxbow(
            "check", "-q", "-r", "all", "copy", check=False).returncode,
            (0, 3) if fmt == "qed" else (0,), "exit codes"),
        "oxbow wait": lambda: oxbow("io", "-f", fmt, "--recover=wait", "-c",
                                    "write -q -P 0x55 7M 64k", "copy"),
        "oxbow auto": lambda: oxbow("io", "-f", fmt, "--recover=auto", *io_args(reads + (
            "write -q -P 0x55 7M 64k", "read -P 0x55 7M 64k")), "copy"),
    }
    for name, way in ways.items():
        copy_sparse(image, "copy")
        try:
            way()
            # Of reads the last is of the range that some of the ways write.
            check_recovered("copy", *reads[:-1], chain=chain, snapshot=snapshot)
        except Failure as error:
            raise Failure(f"{name}: {error}") from None
        os.unlink("copy")


def interrupted_and_met(cluster, backed=False, snapshot=False, fmt="qcow2"):
    use_memory()
    image, reads, chain, has_fence = interrupted(cluster, backed, snapshot, fmt)
    if cluster >= 4 * KIB and fmt == "qcow2":
        check_equal(has_fence, True, "whether an interrupted recovery left a fence")
    ends_by_others(image, reads, chain, snapshot)


def test_an_interrupted_recovery_of_512_byte_clusters_destroys_nothing():
    interrupted_and_met(512)


def test_an_interrupted_recovery_without_room_for_the_fence_destroys_nothing():
    interrupted_and_met(512, backed=True)


def test_an_interrupted_recovery_of_4k_clusters_destroys_nothing():
    interrupted_and_met(4 * KIB, backed=True, snapshot=True)


def test_an_interrupted_recovery_of_64k_clusters_destroys_nothing():
    interrupted_and_met(64 * KIB, backed=True)


def test_an_interrupted_recovery_of_2m_clusters_destroys_nothing():
    interrupted_and_met(2 * MIB, snapshot=True)


def test_an_interrupted_recovery_of_a_qed_image_destroys_nothing():
    for cluster in TABLES["qed"]:
        interrupted_and_met(cluster, backed=cluster < 2 * MIB, fmt="qed")


def test_a_backing_name_in_the_fences_way_is_moved():
    use_memory()
    args = with_base("qcow2")
    image = left_dirty_by_qemu("disk", 4 * KIB, *args)
    file = Qcow2(image)
    kind, data, length = file.extensions()[-1]
    behind = data + (length + 7) // 8 * 8 + 8
    before = file.get("backing_file_offset")
    if before - behind >= FENCE_BYTES:
        raise Failure("QEMU lays the name out elsewhere: nothing is tested")
    extensions = [(kind, read_at(image, at, length)) for kind, at, length in file.extensions()]
    chain = chain_of(image)
    interrupt_recovery(image, *NEW)
    check_equal(fence_of(image) is not None, True, "fence")
    name = read_at(image, file.get("backing_file_offset"), file.get("backing_file_size"))
    check_equal(name, b"base.qcow2", "the name where the header says")
    if file.get("backing_file_offset") < behind + FENCE_BYTES:
        raise Failure("the name lies in the fence")
    if file.get("backing_file_offset") + len(name) > 4 * KIB:
        raise Failure("the name leaves the header's cluster")
    check_equal(chain_of(image), chain, "the chain")
    check_equal([(kind, read_at(image, at, length)) for kind, at, length in file.extensions()],
                extensions, "the other extensions")
    oxbow("io", "-f", "qcow2", "-c", "read -P 0x77 6M 2M", image)
    check_recovered(image, *HEAD, "read -P 0x77 6M 2M", *NEW_READS, chain=chain)


def interrupted_again_and_again(fmt):
    use_memory()
    args = with_base()
    image = left_dirty_by_qemu("disk", 4 * KIB, *args, snapshot=fmt == "qcow2", fmt=fmt)
    end = os.path.getsize(image)
    reads = list(HEAD)
    for turn in range(6):
        at = 2 * MIB + turn * 300 * KIB
        interrupt_recovery(image, f"write -q -f -P {turn + 1} {at} 70000",
                           *((f"discard -q {turn * 4 * KIB} 4k", "flush") if turn % 3 == 2 else ()))
        reads.append(f"read -P {turn + 1} {at} 70000")
        if turn % 3 == 2:
            reads[0] = f"read -P {PATTERN} 256k 768k"
        check_equal(fence_of(image), end if fmt == "qcow2" else None, f"the fence of turn {turn}")
        check_all_reads(image, *reads, "read -P 0x77 7M 1M")
    oxbow("io", "-f", fmt, "--recover=auto", *io_args(reads), image)
    check_recovered(image, *reads, "read -P 0x77 7M 1M", snapshot=fmt == "qcow2")


def test_a_recovery_is_interrupted_again_and_again():
    for fmt in FORMATS:
        interrupted_again_and_again(fmt)


def test_a_fence_does_not_outlive_qemus_recovery():
    """What QEMU then writes past the old end is no stale entry to oxbow."""
    use_memory()
    image, reads, _, _ = interrupted(4 * KIB)
    qemu_img("check", "-q", "-r", "all", image)
    crash("qemu-io", "-f", "qcow2", *io_args(("write -q -P 0x66 16M 2M", "write -q -P 0x67 2M 64k",
                                             "flush", "abort")), image)
    check_equal(Qcow2(image).is_dirty, True, "dirty bit after QEMU died")
    mine = reads[:2] + NEW_READS + ("read -P 0x66 16M 2M", "read -P 0x67 2M 64k")
    oxbow("io", "-f", "qcow2", "--recover=auto", *io_args(mine), image)
    check_recovered(image, *mine)


def test_a_fence_that_does_not_check_out_is_none():
    use_memory()
    image, reads, _, _ = interrupted(4 * KIB)
    at = end_of_extensions(image) + 8
    for place in (0, 15, 23):
        copy_sparse(image, "copy")
        byte = read_at("copy", at + place, 1)[0]
        write_at("copy", at + place, bytes([byte ^ 0x40]))
        oxbow("io", "-f", "qcow2", "--recover=auto", *io_args(reads), "-c", "write -q 7M 64k",
              "copy")
        check_recovered("copy", *reads[:-1])


# ---- stale entries ----

def stale_image(cluster, fmt, *args):
    """Entries of writes that were cut: in the file, and past its end. Returns where they stand."""
    image = left_dirty_by_qemu("disk", cluster, *args, fmt=fmt)
    file = image_file(image)
    end = (os.path.getsize(image) + cluster - 1) // cluster * cluster
    places = (2 * MIB, 2 * MIB + cluster, 6 * MIB)
    for n, guest in enumerate(places):
        if fmt == "qed":
            file.put_le64(file.l2_entry_at(guest), end + n * 3 * cluster)
        else:
            file.put_be64(file.l2_entry_at(guest), COPIED | end + n * 3 * cluster)
    return image, places


def test_stale_entries_read_as_what_was_there_before():
    use_memory()
    for fmt, cluster in (("qcow2", 512), ("qcow2", 4 * KIB), ("qcow2", 64 * KIB), ("qed", 4 * KIB),
                         ("qed", 64 * KIB)):
        args = with_base()
        image, places = stale_image(cluster, fmt, *args)
        reads = tuple(f"read -P 0x77 {guest} {cluster}" for guest in places)
        interrupt_recovery(image, *reads, *NEW, *reads)
        if fence_of(image) is not None:
            oxbow("io", "-r", "-f", fmt, *io_args(HEAD + reads + NEW_READS), image)
        interrupt_recovery(image, *reads, "write -q -f -P 9 9M 200k", *reads)
        oxbow("io", "-f", fmt, "--recover=auto", *io_args(
            HEAD + reads + NEW_READS + (f"write -q -P 8 {places[0]} {cluster}",)), image)
        for guest in places[1:]:
            check_equal(image_file(image).l2_entry(guest), 0, "a stale entry of a clean image")
        check_recovered(image, *HEAD, *NEW_READS, *reads[1:], f"read -P 8 {places[0]} {cluster}",
                        "read -P 9 9M 200k")


# ---- what the command says ----

def test_a_server_tells_of_the_beginning_and_the_end():
    for fmt in FORMATS:
        image = left_dirty_by_qemu("disk", 64 * KIB, fmt=fmt)
        with Server("-f", fmt, image) as server:
            wait_for_line(server, BEGAN[fmt])
            handle = nbd_connect(server.uri)
            check_equal(bytes(handle.pread(4096, 0)), bytes([PATTERN]) * 4096, "served meanwhile")
            wait_for_line(server, ENDED[fmt])
            handle.shutdown()
            said = server.stderr()
            if said.index(BEGAN[fmt]) > said.index(ENDED[fmt]):
                raise Failure(f"the end is told of before the beginning: {said}")
        check_recovered(image, *HEAD)


def check_answers_eio(request, what):
    import nbd

    try:
        request()
    except nbd.Error as error:
        check_equal(error.errnum, errno.EIO, f"error of {what}")
        return
    raise Failure(f"{what} succeeded")


def cross_linked_image():
    """A marked QED image, with an entry that names the place of another and one that is no place."""
    image = left_dirty_by_qemu("disk", 64 * KIB, fmt="qed")
    file = Qed(image)
    file.alias(192 * KIB, MIB + 64 * KIB)
    file.put_le64(file.l2_entry_at(512 * KIB), 12345)
    return image


def test_a_cross_linked_qed_image_is_served_but_for_what_cannot_be_right():
    """A write to a place that two entries name changes the one and not the other."""
    image = cross_linked_image()
    file = Qed(image)
    for turn in range(2):
        with Server("-f", "qed", "--lazy-idle", "0.3", image) as server:
            handle = nbd_connect(server.uri)
            wait_for_line(server, "the image stays")
            for n, at in enumerate((192 * KIB, MIB + 64 * KIB)):
                handle.pwrite(bytes([0x40 + n]) * 4096, at)
            for n, at in enumerate((192 * KIB, MIB + 64 * KIB)):
                check_bytes(bytes(handle.pread(4096, at)), bytes([0x40 + n]) * 4096, f"{at:#x}")
                check_bytes(bytes(handle.pread(4096, at + 4096)), b"\x22" * 4096, "the rest of it")
            check_answers_eio(lambda: handle.pread(4096, 512 * KIB), "a read through no place")
            check_answers_eio(lambda: handle.pwrite(b"n" * 4096, 512 * KIB), "a write to no place")
            handle.pwrite(bytes([turn + 1]) * 4096, 100 * MIB)
            handle.pwrite(bytes([turn + 1]) * 4096, 128 * KIB)
            handle.trim(64 * KIB, 320 * KIB)
            handle.flush()
            check_equal(bytes(handle.pread(4096, 100 * MIB)), bytes([turn + 1]) * 4096, "new")
            check_equal(bytes(handle.pread(4096, 128 * KIB)), bytes([turn + 1]) * 4096, "in place")
            check_equal(bytes(handle.pread(4096, MIB)), b"\x22" * 4096, "an old cluster")
            time.sleep(1)
            check_equal(file.is_dirty, True, "mark while it idles")
            handle.shutdown()
        check_equal(file.is_dirty, True, "mark after the close")
        check_equal(file.l2_entry(512 * KIB), 12345, "the entry that is no place")
        check_equal(oxbow("check", image, check=False).returncode, 2, "exit code of check")
    expect_failure(oxbow_path(), "serve", "-f", "qed", "--nbd", "refused.sock", "--recover=wait",
                   image)
    check_equal(file.is_dirty, True, "mark after a refusal")
    check_in(oxbow("check", "-q", "-r", "all", image, check=False).returncode, (0, 3), "repair")
    check_equal(file.is_dirty, False, "mark after the repair")
    with Server("-f", "qed", image) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"m" * 4096, 512 * KIB)
        check_equal(bytes(handle.pread(4096, 100 * MIB)), b"\2" * 4096, "what was written before")
        handle.shutdown()
    check_closed(image, freed=True)


def test_a_qed_image_that_is_cross_linked_alone_stays_marked_until_it_is_repaired():
    image = left_dirty_by_qemu("disk", 64 * KIB, fmt="qed")
    file = Qed(image)
    file.alias(192 * KIB, MIB + 64 * KIB)
    with Server("-f", "qed", "--lazy-idle", "0.3", image) as server:
        handle = nbd_connect(server.uri)
        wait_for_line(server, "the image stays")
        handle.pwrite(b"n" * 4096, 100 * MIB)
        for at in (192 * KIB, MIB + 64 * KIB):
            check_bytes(bytes(handle.pread(4096, at)), b"\x22" * 4096, f"{at:#x}")
        handle.trim(64 * KIB, 192 * KIB)  # what it names is another's as well
        handle.flush()
        check_bytes(bytes(handle.pread(64 * KIB, MIB + 64 * KIB)), b"\x22" * 64 * KIB, "the other")
        for n in range(100):  # nor is it used again
            handle.pwrite(b"o" * 64 * KIB, (200 + n) * MIB)
        handle.flush()
        check_bytes(bytes(handle.pread(64 * KIB, MIB + 64 * KIB)), b"\x22" * 64 * KIB, "the other")
        handle.shutdown()
    check_equal(file.is_dirty, True, "mark after the close")
    with Server("-f", "qed", image) as server:  # where nothing is named twice any more
        wait_for_line(server, ENDED["qed"])
    check_recovered(image, f"read -P {PATTERN} 0 192k", "read -P 0 192k 64k", "read -P 0x22 1M 1M")


def test_a_server_tells_the_finding_and_serves():
    image = left_dirty_by_qemu("disk", 64 * KIB)
    file = Qcow2(image)
    file.put_be64(file.l2_entry_at(MIB), file.l2_entry(MIB) | 1 << 57)
    entry = file.l2_entry(MIB)
    for _ in range(2):
        with Server("-f", "qcow2", image) as server:
            handle = nbd_connect(server.uri)
            wait_for_line(server, "the image stays dirty")
            check_in(f"reserved bits set: {entry:x}", server.stderr(), "stderr")
            handle.pwrite(b"n" * 4096, 100 * MIB)
            handle.flush()
            check_equal(bytes(handle.pread(4096, 100 * MIB)), b"n" * 4096, "a new cluster")
            check_equal(bytes(handle.pread(4096, 0)), bytes([PATTERN]) * 4096, "an old cluster")
            handle.shutdown()
        check_equal(file.is_dirty, True, "dirty bit")
    expect_failure(oxbow_path(), "serve", "--nbd", "refused.sock", "--recover=wait", image,
                   message=f"reserved bits set: {entry:x}")
    check_equal(file.is_dirty, True, "dirty bit")


def test_a_server_of_an_image_with_counts_too_narrow_names_the_repair():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "refcount_bits=1,lazy_refcounts=on", "disk",
             "1G")
    qemu_io(*io_args(["write -q -c -P 7 0 64k", "write -q -c -P 8 64k 64k"]), "disk")
    file = Qcow2("disk")
    # Two guest clusters share a stream.
    file.put_be64(file.l2_entry_at(64 * KIB), file.l2_entry(0))
    file.put("incompatible_features", 1)
    with Server("-f", "qcow2", "disk") as server:
        handle = nbd_connect(server.uri)
        wait_for_line(server, "the image stays dirty")
        check_in("'oxbow check -r all'", server.stderr(), "stderr")
        check_equal(bytes(handle.pread(4096, 64 * KIB)), b"\7" * 4096, "a compressed cluster")
        handle.shutdown()
    check_equal(file.is_dirty, True, "dirty bit")
    expect_failure(oxbow_path(), "serve", "--nbd", "refused.sock", "--recover=wait", "disk",
                   message="'oxbow check -r all'")
    oxbow("check", "-r", "all", "disk")
    check_clean("disk")
    with Server("-f", "qcow2", "disk") as server:
        handle = nbd_connect(server.uri)
        for at in (0, 64 * KIB):
            check_equal(bytes(handle.pread(4096, at)), b"\7" * 4096, "a compressed cluster")
            handle.pwrite(b"n" * 4096, at)
            check_equal(bytes(handle.pread(4096, at + 4096)), b"\7" * 4096, "the rest of it")
        handle.shutdown()
    check_clean("disk")


def test_a_server_that_may_not_recover_refuses_and_one_that_waits_says_nothing_later():
    for fmt in FORMATS:
        image = left_dirty_by_qemu("disk", 4 * KIB, tables=0, fmt=fmt)
        before = fingerprint(image)
        for command in (("serve", "-f", fmt, "--nbd", "refused.sock"),
                        ("io", "-f", fmt, "-c", "read 0 1M")):
            expect_failure(oxbow_path(), *command, "--recover=never", image, message="disk")
            check_equal(fingerprint(image), before, f"the file after {command[0]} --recover=never")
        expect_failure(oxbow_path(), "serve", "-f", fmt, "--nbd", "refused.sock", "--recover=soon",
                       image, message="soon")
        with Server("-f", fmt, "--recover", "wait", image) as server:
            check_equal(image_file(image).is_dirty, False, "mark once it is served")
            if BEGAN[fmt] in server.stderr():
                raise Failure(f"a recovery beside requests is told of: {server.stderr()}")
        check_recovered(image, *HEAD)
        with Server("-f", fmt, "--recover=never", image) as server:
            check_equal(server.stderr(), "", "stderr over a clean image")


def test_a_server_that_ends_meanwhile_leaves_the_rest_to_the_next_opening():
    use_memory()
    image = left_dirty_by_qemu("disk", 4 * KIB)
    with Server("-f", "qcow2", image) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x33" * 65536, 3 * MIB)
        handle.trim(65536, 0)
        check_equal(server.terminate(), 0, "exit code")
        check_in("its recovery is left to the next opening", server.stderr(), "stderr")
    check_equal(image_file(image).is_dirty, True, "the mark")
    oxbow("io", "-f", "qcow2", *io_args(["read -P 0x33 3M 64k"]), image)
    check_recovered(image, "read -P 0x33 3M 64k", f"read -P {PATTERN} 64k 960k")


run_tests(globals())
