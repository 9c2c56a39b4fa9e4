#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 30
"""QED images cross between oxbow and QEMU: what one makes the other makes byte for byte, and what either
writes the other reads and goes on with, over all cluster and table sizes and over backing files of each
format. (test_matrix.py crosses them as it does qcow2 images.)

QEMU opens no image with tables of one cluster, nor one whose tables could map 2^64 bytes. Such images
are made by the small writer in here, from the format's description, and read by oxbow alone.
"""
from interop import *

CLUSTERS = tuple(1 << bits for bits in range(12, 27))
TABLES = (1, 2, 4, 8, 16)
BACKINGS = ("none", "raw", "short-raw", "qcow2", "qed")


def disk_bytes(cluster):
    return max(2 * MIB, 6 * cluster) + 512


def pieces(cluster):
    """What a guest writes: offset, length, byte (None: zeroes)."""
    size = disk_bytes(cluster)
    few = min(cluster, 64 * KIB) // 2
    return [
        (0, 512, 0x11),
        (cluster - 512, 1024, 0x22),
        (2 * cluster + 512, few, 0x33),
        (3 * cluster, cluster, None),
        (5 * cluster, few, 0x44),
        (size - 1024, 1024, 0x55),
    ]


def more_pieces(cluster):
    """What the other writes after it: beside, over and between."""
    size = disk_bytes(cluster)
    return [
        (1024, 512, 0x81),
        (cluster, cluster, 0x82),
        (3 * cluster, cluster, 0x83),
        (4 * cluster, cluster, None),
        (5 * cluster, 512, 0x84),
        (size - 512, 512, 0x85),
    ]


def write_pieces(name, written, by="qemu"):
    commands = [f"write -z {at} {count}" if byte is None else f"write -P {byte:#x} {at} {count}"
                for at, count, byte in written]
    if by == "qemu":
        qemu_io("-f", "qed", *io_args(commands), name)
    else:
        oxbow("io", "-f", "qed", *io_args(commands), name)


def make_backing(kind, cluster):
    """The name and the format of a backing file; None for none."""
    size = disk_bytes(cluster)
    if kind == "none":
        return None, None
    length = min(size, MIB)
    qemu_img("create", "-q", "-f", "raw", "base.raw",
             str(size // 2 // 512 * 512 if kind == "short-raw" else size))
    qemu_io("-f", "raw", "-c", f"write -q -P 0x66 512 {length - 1024}", "base.raw")
    if kind in ("raw", "short-raw"):
        return "base.raw", "raw"
    other = 128 * KIB
    qemu_img("create", "-q", "-f", kind, "-o", f"cluster_size={other}", "-b", "base.raw", "-F",
             "raw", f"base.{kind}", str(size))
    qemu_io("-f", kind, "-c", f"write -q -P 0x77 {other} 4096", "-c",
            f"write -q -z {2 * other} {other}", f"base.{kind}")
    return f"base.{kind}", kind


def create_args(cluster, table, backing, fmt):
    args = ["create", "-q", "-f", "qed", "-o", f"cluster_size={cluster},table_size={table}"]
    return args + (["-b", backing, "-F", fmt] if backing else [])


def same_files(a, b, what):
    check_equal(os.path.getsize(a), os.path.getsize(b), f"length of {what}")
    step = 8 * MIB
    for at in range(0, os.path.getsize(a), step):
        check_bytes(read_at(a, at, step), read_at(b, at, step), what)


def check_sound(name, what):
    for command in ((oxbow_path(),), ("qemu-img",)):
        result = run(*command, "check", "-f", "qed", name, check=False)
        if result.returncode != 0:
            raise Failure(f"{command[0]} check exits with {result.returncode} for {what}: "
                          f"{result.stdout + result.stderr}")


def map_of(command, name):
    """Without what older versions of qemu-img do not say."""
    extents = json.loads(command("map", "--output=json", name).stdout)
    return [{key: extent[key] for key in extent if key != "compressed"} for extent in extents]


def same_map(name):
    check_equal(map_of(oxbow, name), map_of(qemu_img, name), f"map of {name}")


def same_guest(name, fmt, *args):
    """QEMU's own client compares what it reads from the file with what an oxbow server gives out."""
    with Server("-f", fmt, "-r", "--allow-backing", *args, name) as server:
        qemu_img("compare", "-f", fmt, "-F", "raw", name, server.uri)


def reads_as_written(name, cluster):
    oxbow("io", "-r", "-f", "qed", *io_args(
        [f"read -P {byte or 0:#x} {at} {count}" for at, count, byte in
         [(0, 512, 0x11)] + pieces(cluster)[2:]]), name)


def test_what_is_made_is_what_qemu_img_makes():
    for cluster in CLUSTERS:
        for table in TABLES:
            if cluster * table > 32 * MIB or qed_maps_too_much(cluster, table):
                continue
            what = f"{cluster}, {table}"
            size = str(disk_bytes(cluster))
            qemu_img(*create_args(cluster, table, None, None), "theirs", size)
            oxbow(*create_args(cluster, table, None, None), "ours", size)
            same_files("ours", "theirs", what)
            check_equal(oxbow("check", "-f", "qed", "ours").returncode, 0, what)
            if qemu_opens_qed(cluster, table):
                check_sound("ours", what)


def test_what_qemu_writes_is_read_for_each_shape():
    turn = 0
    for cluster in CLUSTERS:
        for table in TABLES:
            if cluster * table > 32 * MIB or not qemu_opens_qed(cluster, table):
                continue
            kind = BACKINGS[turn % len(BACKINGS)]
            turn += 1
            backing, fmt = make_backing(kind, cluster)
            oxbow(*create_args(cluster, table, backing, fmt), "disk", str(disk_bytes(cluster)))
            write_pieces("disk", pieces(cluster))
            reads_as_written("disk", cluster)
            same_map("disk")
            stated = ["--backing-format", fmt] if fmt in ("qcow2", "qed") else []
            same_guest("disk", "qed", *stated)
            check_sound("disk", f"{cluster}, {table}, {kind}")


def test_each_goes_on_with_what_the_other_wrote_for_each_shape():
    turn = 0
    for cluster in CLUSTERS:
        for table in TABLES:
            if cluster * table > 32 * MIB or not qemu_opens_qed(cluster, table):
                continue
            kind = BACKINGS[turn % len(BACKINGS)]
            writers = (("qemu", "oxbow"), ("oxbow", "qemu"))[turn // len(BACKINGS) % 2]
            turn += 1
            what = f"{cluster}, {table}, {kind}, {writers}"
            backing, fmt = make_backing(kind, cluster)
            stated = ["--backing-format", fmt] if fmt in ("qcow2", "qed") else []
            oxbow(*create_args(cluster, table, backing, fmt), "disk", str(disk_bytes(cluster)))
            write_pieces("disk", pieces(cluster), writers[0])
            check_equal(Qed("disk").is_dirty, False, f"NEED_CHECK after the first of {what}")
            reads_as_written("disk", cluster)
            write_pieces("disk", more_pieces(cluster), writers[1])
            check_closed("disk", f"after both of {what}", freed=True)
            reads = [f"read -P {byte or 0:#x} {at} {count}" for at, count, byte in
                     more_pieces(cluster) + [(2 * cluster + 512, 512, 0x33), (0, 512, 0x11)]]
            oxbow("io", "-r", "-f", "qed", *io_args(reads), "disk")
            qemu_io("-r", "-f", "qed", *io_args(reads), "disk")
            same_map("disk")
            same_guest("disk", "qed", *stated)


def test_an_image_over_each_kind_of_backing_file_is_made_as_by_qemu_img():
    for kind in BACKINGS[1:]:
        backing, fmt = make_backing(kind, 64 * KIB)
        oxbow("create", "-q", "-f", "qed", "-b", backing, "-F", fmt, "ours")
        qemu_img("create", "-q", "-f", "qed", "-b", backing, "-F", fmt, "theirs")
        same_files("ours", "theirs", kind)
        same_map("ours")


def test_chains_mix_the_formats_in_any_order():
    size, cluster = 4 * MIB, 64 * KIB
    qemu_img("create", "-q", "-f", "raw", "0.raw", str(size - 512))
    qemu_io("-f", "raw", "-c", f"write -q -P 1 0 {MIB}", "0.raw")
    below, fmt = "0.raw", "raw"
    for level, kind in enumerate(("qed", "qcow2", "qed", "qed", "qcow2"), 1):
        name = f"{level}.{kind}"
        oxbow("create", "-q", "-f", kind, "-b", below, "-F", fmt, name, str(size))
        qemu_io("-f", kind, "-c", f"write -q -P {level + 1} {level * cluster} 3000",
                "-c", f"write -q -z {(level + 8) * cluster} {cluster}", name)
        below, fmt = name, kind
        same_map(name)
        commands = [f"read -P {i + 1} {i * cluster} 3000" for i in range(1, level + 1)]
        commands += [f"read -P 0 {(i + 8) * cluster} {cluster}" for i in range(1, level + 1)]
        oxbow("io", "-r", *io_args(commands + [f"read -P 1 0 {cluster}"]), name)
        raw = guest_bytes_by_qemu(name, fmt=kind)
        oxbow("io", "-r", "-f", kind, "-c", f"read -q 0 {size}", name)
        check_equal(len(raw), size, name)
    # The whole of it, where the one word that is missing below is the same each time.
    qemu_img("create", "-q", "-f", "qcow2", "a", str(size))
    qemu_io("-f", "qcow2", "-c", f"write -q -P 9 {MIB} 5000", "a")
    qemu_img("create", "-q", "-f", "qed", "-b", "a", "-F", "qcow2", "b")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "b", "-F", "qed", "c")
    same_guest("c", "qcow2", "--backing-format", "qcow2")


def test_a_server_is_told_what_the_format_cannot_say():
    qemu_img("create", "-q", "-f", "qcow2", "base", "1M")
    qemu_img("create", "-q", "-f", "qed", "-b", "base", "-F", "qcow2", "over")
    refusal = run(oxbow_path(), "serve", "-f", "qed", "-r", "--allow-backing", "--nbd",
                  "unix:./socket", "over", check=False)
    check_in("cannot state the format of its backing file", refusal.stderr)
    same_guest("over", "qed", "--backing-format", "qcow2")
    denied = run(oxbow_path(), "serve", "-f", "qed", "-r", "--backing-format", "qcow2", "--nbd",
                 "unix:./socket", "over", check=False)
    check_in("the backing policy allows none", denied.stderr)


def test_a_backing_file_is_never_guessed_to_be_raw():
    qemu_img("create", "-q", "-f", "qcow2", "base", "1M")
    qemu_img("create", "-q", "-f", "qed", "-b", "base", "-F", "qcow2", "over")
    with open("base", "wb") as file:
        file.truncate(MIB)
    refusal = oxbow("io", "-r", "-c", "read 0 512", "over", check=False)
    check_equal(refusal.returncode, 1, "exit code")
    check_in("cannot state the format of its backing file", refusal.stdout + refusal.stderr)
    oxbow("io", "-r", "--image-opts", "-c", "read -P 0 0 512",
          "driver=qed,file.filename=over,backing.driver=raw")


def test_an_image_that_was_not_closed_is_read_and_left_as_it_is():
    qemu_img("create", "-q", "-f", "qed", "disk", str(disk_bytes(64 * KIB)))
    write_pieces("disk", pieces(64 * KIB))
    features = read_at("disk", 16, 1)[0]
    write_at("disk", 16, bytes([features | NEED_CHECK]))
    before = fingerprint("disk")
    reads_as_written("disk", 64 * KIB)
    check_equal(json.loads(oxbow("info", "--output=json", "disk").stdout)["dirty-flag"], True,
                "dirty flag")
    check_equal(fingerprint("disk"), before, "the file")


def test_a_feature_that_is_unknown_keeps_writers_off_and_touches_nothing():
    qemu_img("create", "-q", "-f", "qed", "disk", "2M")
    Qed("disk").put("features", 1 << 5)
    before = fingerprint("disk")
    for args in (("io", "-f", "qed", "-c", "write 0 512", "disk"),
                 ("serve", "-f", "qed", "--nbd", "unix:./socket", "disk")):
        check_equal(run(oxbow_path(), *args, check=False).returncode, 1, f"exit code of {args}")
        check_equal(fingerprint("disk"), before, "the file")


def test_unknown_autoclear_bits_go_with_a_write_and_compatible_ones_stay():
    oxbow("create", "-q", "-f", "qed", "disk", "2M")
    file = Qed("disk")
    file.put("autoclear_features", 1 << 33)
    file.put("compat_features", 1 << 34)
    oxbow("io", "-r", "-f", "qed", "-c", "read 0 64k", "disk")
    check_equal(file.get("autoclear_features"), 1 << 33, "autoclear features after reading")
    oxbow("io", "-f", "qed", "-c", "write 0 64k", "disk")
    check_equal(file.get("autoclear_features"), 0, "autoclear features after a write")
    check_equal(file.get("compat_features"), 1 << 34, "compatible features after a write")
    check_clean("disk")


def test_a_reader_becomes_a_writer_within_a_session():
    oxbow("create", "-q", "-f", "qed", "disk", "2M")
    refused = oxbow("io", "-r", "-f", "qed", "-c", "write 0 512", "-c", "reopen -w", "-c",
                    "write -q -P 5 0 512", "-c", "reopen -r", "-c", "read -P 5 0 512", "disk",
                    check=False)
    check_equal(refused.returncode, 1, "exit code after a refused write")
    check_in("read 512/512", refused.stdout)
    check_closed("disk")
    qemu_io("-r", "-f", "qed", "-c", "read -P 5 0 512", "disk")


# ---- sizes ----

def test_a_disk_that_grows_reads_zeroes_beyond_its_old_end():
    """Also where the backing file is longer, and where another program left entries there."""
    qemu_img("create", "-q", "-f", "raw", "base", "8M")
    qemu_io("-f", "raw", "-c", "write -q -P 0x66 0 8M", "base")
    for cluster in (4 * KIB, 64 * KIB):
        oxbow("create", "-q", "-f", "qed", "-o", f"cluster_size={cluster}", "-b", "base", "-F", "raw",
              "disk", str(2 * MIB + 512))
        oxbow("io", "-f", "qed", "-c", "write -q -P 7 1M 64k", "-c", "truncate 6M", "-c", "length",
              "disk")
        for program in ((oxbow_path(), "io"), ("qemu-io",)):
            run(*program, "-r", "-f", "qed", "-c", "read -P 0x66 0 1M", "-c", "read -P 7 1M 64k",
                "-c", "read -P 0x66 1088k 960k", "-c", "read -P 0x66 2M 512", "-c",
                f"read -P 0 {2 * MIB + 512} {4 * MIB - 512}", "disk")
        check_clean("disk")
        # An entry past the end is nobody's: what it names is found by no reader of the longer disk.
        qemu_io("-f", "qed", "-c", "write -q -P 8 5M 64k", "disk")
        file = Qed("disk")
        file.put("size", 4 * MIB)
        oxbow("io", "-f", "qed", "-c", "truncate 6M", "-c", "read -P 0 4M 2M", "disk")
        check_closed("disk", freed=True)


def test_a_disk_that_shrinks_gives_up_what_lies_past_its_end():
    for kind in ("qed:cluster_size=4k,table_size=2", "qed:"):
        oxbow("create", "-q", *kind_args(kind), "disk", "16M")
        oxbow("io", "-f", "qed", "-c", "write -q -P 7 0 16M", "-c", f"truncate {MIB + 512}", "-c",
              f"read -P 7 0 {MIB + 512}", "disk")
        check_equal(Qed("disk").get("size"), MIB + 512, "size")
        check_closed("disk", freed=True)
        if host_bytes("disk") > 3 * MIB:
            raise Failure(f"{host_bytes('disk')} bytes for a disk of 1 MiB")
        oxbow("io", "-f", "qed", "-c", "truncate 16M", "-c", f"read -P 7 0 {MIB + 512}", "-c",
              f"read -P 0 {MIB + 512} {15 * MIB - 512}", "disk")
        check_closed("disk", freed=True)
        qemu_io("-r", "-f", "qed", "-c", f"read -P 0 {MIB + 512} {15 * MIB - 512}", "disk")


def test_a_disk_grows_no_further_than_its_tables_map():
    oxbow("create", "-q", "-f", "qed", "-o", "cluster_size=4k,table_size=2", "disk", "1M")
    most = (8192 // 8) ** 2 * 4096
    oxbow("io", "-f", "qed", "-c", f"truncate {most}", "-c", f"write -q -P 3 {most - 512} 512", "disk")
    before = fingerprint("disk")
    refused = oxbow("io", "-f", "qed", "-c", f"truncate {most + 512}", "disk", check=False)
    check_equal(refused.returncode, 1, "exit code")
    check_equal(fingerprint("disk"), before, "the file")
    check_clean("disk")
    qemu_io("-r", "-f", "qed", "-c", f"read -P 3 {most - 512} 512", "disk")


def test_a_reader_beside_a_growing_image_finds_what_is_new():
    qemu_img("create", "-q", "-f", "qed", "-o", "cluster_size=4096,table_size=2", "disk", "64M")
    with Server("-f", "qed", "-r", "-U", "disk") as server:
        qemu_io("-f", "qed", "-c", "write -q -P 7 1M 64k", "disk")
        client = nbd_connect(server.uri)
        check_bytes(bytes(client.pread(64 * KIB, MIB)), b"\7" * 64 * KIB, "after the first write")
        qemu_io("-f", "qed", "-c", "write -q -P 8 3M 64k", "disk")
        check_bytes(bytes(client.pread(64 * KIB, 3 * MIB)), b"\10" * 64 * KIB, "after the second")
        client.shutdown()


def test_refusals_are_qemu_imgs():
    for options in ("cluster_size=3000", "cluster_size=2k", "cluster_size=128M", "cluster_size=0",
                    "table_size=0", "table_size=3", "table_size=32"):
        texts = [command("create", "-q", "-f", "qed", "-o", options, "disk", "1M", check=False)
                 for command in (oxbow, qemu_img)]
        check_equal(texts[0].returncode, 1, f"exit code for {options}")
        check_equal(texts[0].stderr.replace("oxbow:", "qemu-img:"), texts[1].stderr, options)
    with open("disk", "wb") as file:
        file.write(b"kept")
    options = "cluster_size=4k,table_size=1"
    for size in ("2G", str(512 * 512 * 4096 + 512)):
        refusal = oxbow("create", "-q", "-f", "qed", "-o", options, "disk", size, check=False)
        check_in("less than 1073741824 bytes", refusal.stderr)
    refusal = oxbow("create", "-q", "-f", "qed", "-o", "cluster_size=64M", "disk", "1M",
                    check=False)
    check_in("QEMU does not open such an image", refusal.stderr)
    check_equal(read_at("disk", 0, 9), b"kept", "a file that was there")


# ---- shapes that QEMU does not open ----

def put(file, offset, *words):
    os.pwrite(file.fileno(), struct.pack(f"<{len(words)}Q", *words), offset)


def write_by_hand(name, cluster, table):
    """Four guest clusters: bytes, nothing, zeroes, bytes; and one under the second L2 table."""
    table_bytes = cluster * table
    span = table_bytes // 8 * cluster
    l1, first, second, data = (cluster + i * table_bytes for i in range(4))
    with open(name, "wb") as file:
        file.write(struct.pack("<4sIIIQQQQQII", b"QED\0", cluster, table, 1, 0, 0, 0, l1,
                               span + cluster, 0, 0))
        put(file, l1, first, second)
        put(file, first, data, 0, 1, data + cluster)
        put(file, second, data + 2 * cluster)
        for i in range(3):
            os.pwrite(file.fileno(), bytes([i + 1]) * 4096, data + i * cluster)
        file.truncate(data + 3 * cluster)
    return span, data


def test_shapes_that_qemu_does_not_open_are_read_and_written():
    for cluster in CLUSTERS:
        for table in TABLES:
            if qemu_opens_qed(cluster, table):
                continue
            span, data = write_by_hand("disk", cluster, table)
            reads = [(1, 0), (0, cluster), (0, 2 * cluster), (2, 3 * cluster), (3, span)]
            oxbow("io", "-r", "-f", "qed",
                  *io_args(f"read -P {byte} {at} 4096" for byte, at in reads), "disk")
            extents = json.loads(oxbow("map", "--output=json", "disk").stdout)
            check_equal([(e["start"], e["offset"]) for e in extents if e["data"]],
                        [(0, data), (3 * cluster, data + cluster), (span, data + 2 * cluster)],
                        f"where the bytes are: {cluster}, {table}")
            # In place, beside, into what has no place, and over zeroes.
            writes = [(4, 512), (5, cluster - 512), (6, 2 * cluster + 512), (7, span + 2048)]
            oxbow("io", "-f", "qed",
                  *io_args(f"write -q -P {byte} {at} 1k" for byte, at in writes), "disk")
            reads = [(1, 0, 512), (5, cluster - 512, 1024), (0, cluster + 512, 2048),
                     (0, 2 * cluster, 512), (6, 2 * cluster + 512, 1024),
                     (2, 3 * cluster, 4096), (3, span, 2048), (7, span + 2048, 1024),
                     (4, 512, 1024)]
            oxbow("io", "-r", "-f", "qed",
                  *io_args(f"read -P {byte} {at} {count}" for byte, at, count in reads), "disk")
            check_equal(Qed("disk").problems(), [], f"problems: {cluster}, {table}")
            check_equal(Qed("disk").is_dirty, False, f"NEED_CHECK: {cluster}, {table}")
            oxbow("check", "-q", "-f", "qed", "disk")


run_tests(globals())
