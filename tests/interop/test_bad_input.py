#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 90
"""Bytes of an image are an attacker's. Whatever they are, every command answers or refuses: with an exit
code of its own and words, in time, in little memory, and where it refuses it has written nothing."""
import random
import shutil
import socket
import struct

from interop import *

EXIT_CODES = (0, 1, 2, 3, 63)
TIMEOUT_SECONDS = 20
MEMORY_LIMIT_KIB = 256 * KIB
DISK_BYTES = 2 * MIB


def is_sanitized():
    """Whether the command is built with a sanitizer, which takes memory of its own."""
    with open(oxbow_path(), "rb") as file:
        return b"__asan_init" in file.read()


SANITIZED = None


def run_bounded(*argv, timeout=TIMEOUT_SECONDS, terminate_when=None):
    """Runs a command under the rules of this file. Returns (exit code, what it said).

    terminate_when(text) is asked about its stdout, and ends it with SIGTERM when true."""
    global SANITIZED
    if SANITIZED is None:
        SANITIZED = is_sanitized()
    argv = [str(word) for word in argv]
    with open("stdout", "w+b") as out, open("stderr", "w+b") as err:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        deadline = time.monotonic() + timeout
        told = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if terminate_when and not told and terminate_when(os.pread(out.fileno(), 4096, 0)):
                told = True
                os.kill(process.pid, signal.SIGTERM)  # Popen's own would reap it
            if time.monotonic() > deadline:
                process.kill()
                os.wait4(process.pid, 0)
                process.returncode = -9
                raise Failure(f"{' '.join(argv)} hangs")
            time.sleep(0.001)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        said = os.pread(out.fileno(), 1 << 16, 0).decode(errors="replace")
        complained = os.pread(err.fileno(), 1 << 16, 0).decode(errors="replace")
    if code not in EXIT_CODES or "Sanitizer" in complained or "runtime error:" in complained:
        raise Failure(f"{' '.join(argv)} exits with {code}: {complained[-3000:]}")
    if code == 1 and not (said + complained).strip():
        raise Failure(f"{' '.join(argv)} fails without a word")
    if usage.ru_maxrss > MEMORY_LIMIT_KIB and not SANITIZED:
        raise Failure(f"{' '.join(argv)} takes {usage.ru_maxrss} KiB of memory")
    return code, said + complained


def serve_bounded(image, *args):
    path = tmpdir() / "bad.sock"

    def is_greeted(text):
        if b"nbd" not in text or b"\n" not in text:
            return False
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_SECONDS)
            client.connect(str(path))
            check_equal(client.recv(8), b"NBDMAGIC", "greeting")
        return True
    result = run_bounded(oxbow_path(), "serve", *args, "-f", stated, "--nbd", path, image,
                         terminate_when=is_greeted)
    path.unlink(missing_ok=True)
    return result


# The format that commands are told, whatever a damaged header says: that of the last good image.
stated = "qcow2"
READING = {
    "info": lambda image: run_bounded(oxbow_path(), "info", "--output=json", "-f", stated, image),
    "check": lambda image: run_bounded(oxbow_path(), "check", "-f", stated, image),
    "map": lambda image: run_bounded(oxbow_path(), "map", "-f", stated, "--output=json", image),
    "read": lambda image: run_bounded(oxbow_path(), "io", "-r", "-f", stated, "-c",
                                      f"read -q 0 {DISK_BYTES}", "-c", "read -q 64k 4k", image),
    "serve": lambda image: serve_bounded(image, "-r"),
}
SERVE_EVERY = 4  # images; it opens as the others do, and takes longest
tried = 0


def write_to(image):
    return run_bounded(oxbow_path(), "io", "-f", stated, *io_args((
        "write -q 1000 3000", f"write -q {DISK_BYTES - 66000} 66000", "write -q -z 70000 70000",
        "discard -q 128k 128k", "flush")), image)


def try_all(image, what, with_server=False):
    """Every command on an image. Returns {command: exit code}."""
    global tried
    tried += 1
    before = fingerprint(image)
    codes = {}
    try:
        for name, command in READING.items():
            if name == "serve" and not with_server and tried % SERVE_EVERY != 0:
                continue
            codes[name], said = command(image)
            if fingerprint(image) != before:
                raise Failure(f"{name} changed the file")
        shutil.copyfile(image, "written")
        codes["write"], said = write_to("written")
        is_refused = codes["write"] != 0 and "failed: " not in said  # as a command that ran says
        if is_refused and fingerprint("written") != before:
            raise Failure(f"a refused write changed the file: {said}")
        shutil.copyfile(image, "repaired")
        codes["repair"], _ = run_bounded(oxbow_path(), "check", "-q", "-r", "all", "-f", stated,
                                         "repaired")
    except (Failure, OSError) as error:
        raise Failure(f"with {what}: {error}") from None
    return codes


def check_refused_by_all(image, what):
    codes = try_all(image, what, with_server=True)
    for name in ("read", "write", "serve"):
        check_equal(codes[name], 1, f"exit code of {name} with {what}")


def set_stated(fmt):
    global stated
    stated = fmt


def good_image(kind="cluster_size=64k", *args):
    """An image with data, zeroes, (in qcow2) a compressed cluster, and free room."""
    set_stated(split_kind(kind)[0])
    on_exit(lambda: set_stated("qcow2"))
    qemu_img("create", "-q", *kind_args(kind), *args, "good", str(DISK_BYTES))
    commands = ["write -q -P 1 0 100k", "write -q -P 2 512k 64k", "write -q -P 3 1M 200k"]
    if "0.10" not in kind:
        commands.append("write -q -z 192k 64k")
    if stated == "qcow2":
        commands.append("write -q -c -P 7 1536k 64k")
    qemu_io("-f", stated, *io_args(commands), "good")
    return "good"


def damaged(change):
    """A copy of the good image with change(its reader) done to it."""
    shutil.copyfile("good", "bad")
    change(Qcow2("bad") if stated == "qcow2" else Qed("bad"))
    return "bad"


def extremes(size):
    top = (1 << 8 * size) - 1
    values = [0, 1, 2, top, top - 1, top >> 1, (top >> 1) + 1, 512, 513, 65536, 1 << 8 * size - 2]
    if size == 8:
        values += [1 << 62, 1 << 56, 1 << 32, 0xFFFFFFFF, 0x00FFFFFFFFFF0000, DISK_BYTES,
                   0x7FFFFFFFFFFF0000, 1 << 41]
    if size == 4:
        values += [0x7FFFFF, 0x1000000, 0x10000000, 31, 32, 63, 64, 9, 21, 22, 1023, 1024]
    return sorted({value for value in values if 0 <= value <= top})


def extremes_test(field):
    def test():
        good_image()
        _, size = HEADER_FIELDS[field]
        for value in extremes(size):
            try_all(damaged(lambda image: image.put(field, value)), f"{field} = {value:#x}")
    return test


for _field in HEADER_FIELDS:
    globals()[f"test_{_field}_at_its_extremes_is_survived"] = extremes_test(_field)


def test_version_2_headers_at_their_extremes_are_survived():
    good_image("compat=0.10,cluster_size=64k")
    for field, (offset, size) in HEADER_FIELDS.items():
        if offset < V2_HEADER_BYTES and field not in ("magic", "version"):
            for value in extremes(size)[::3]:
                try_all(damaged(lambda image: image.put(field, value)),
                        f"version 2 and {field} = {value:#x}")


MUST_REFUSE = {
    "magic": (0, 0x514649FA), "version": (0, 1, 4, 0xFFFFFFFF), "cluster_bits": (0, 8, 22, 64, 255),
    "crypt_method": (1, 2, 3), "l1_table_offset": (1, 0x1000001, 1 << 62, (1 << 63) + 65536),
    "refcount_table_offset": (0, 1, 1 << 62), "refcount_order": (7, 8, 63, 64, 0xFFFFFFFF),
    "header_length": (0, 8, 96, 103, 0xFFFFFFF8), "refcount_table_clusters": (0, 0x7FFFFFFF),
    "l1_size": (0, 0x7FFFFFFF, 0xFFFFFFFF), "nb_snapshots": (65537, 0xFFFFFFFF),
    "incompatible_features": (2, 4, 16, 32, 1 << 63), "size": (1 << 62, (1 << 64) - 512),
    "backing_file_size": (),
}


def test_headers_that_cannot_be_right_are_refused():
    good_image()
    for field, values in MUST_REFUSE.items():
        for value in values:
            if (field, value) == ("incompatible_features", 2):
                # Marked corrupt: may be read, never written.
                codes = try_all(damaged(lambda image: image.put(field, value)), "the corrupt bit")
                check_equal(codes["write"], 1, "exit code of a write to an image marked corrupt")
                continue
            if field == "refcount_table_clusters" or field == "refcount_table_offset":
                codes = try_all(damaged(lambda image: image.put(field, value)),
                                f"{field} = {value:#x}")
                check_equal(codes["write"], 1, f"exit code of write with {field} = {value:#x}")
                continue
            check_refused_by_all(damaged(lambda image: image.put(field, value)),
                                 f"{field} = {value:#x}")


def test_an_unknown_incompatible_feature_is_named_from_the_images_table():
    good_image()
    image = Qcow2(damaged(lambda image: image.put("incompatible_features", 1 << 40)))
    at = next(offset for kind, offset, _ in image.extensions() if kind == 0x6803F857)
    write_at(image.path, at, bytes((0, 40)) + b"levitation".ljust(46, b"\0"))
    result = expect_failure(oxbow_path(), "io", "-f", "qcow2", "-c", "read 0 512", image.path)
    check_in("levitation", result.stderr, "refusal")


def make_luks_image():
    """The corpus has one made by hand: keys take their time, and fail where the machine is busy."""
    for line in (ROOT / "tests" / "corpus" / "bases" / "luks").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "corrupt":
            run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "-e", rest, "luks.qcow2")
        elif word == "qemu-img":
            run(*line.replace("disk.qcow2", "luks.qcow2").split())


def test_the_features_that_are_not_there_yet_are_named():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "extended.qcow2", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "data.qcow2", "1M")
    make_luks_image()
    for image, words in (("extended.qcow2", ("extended L2", "subcluster")),
                         ("data.qcow2", ("data file",)), ("luks.qcow2", ("encrypt", "LUKS"))):
        before = fingerprint(image)
        for command in (("io", "-f", "qcow2", "-c", "write 0 512"), ("io", "-r", "-f", "qcow2", "-c",
                                                                    "read 0 512")):
            result = expect_failure(oxbow_path(), *command, image)
            if not any(word.lower() in result.stderr.lower() for word in words):
                raise Failure(f"{image} is refused with {result.stderr!r}, without {words}")
        check_equal(fingerprint(image), before, image)
        oxbow("info", image)


def test_files_cut_short_anywhere_are_survived():
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        good_image(kind)
        size = os.path.getsize("good")
        for length in [0, 1, 3, 4, 8, 63, 64, 71, 72, 103, 104, 111, 112, 500, 512, 4096, 65535, 65536,
                       65537, 131072, 196608 + 8, 262144, 262145, 327680 + 100, size - 65536,
                       size - 512, size - 1]:
            shutil.copyfile("good", "bad")
            os.truncate("bad", length)
            codes = try_all("bad", f"the {stated} file cut to {length} bytes")
            if length < (104 if stated == "qcow2" else 64):
                check_equal(codes["read"], 1, f"exit code of read at {length} bytes")


def test_headers_of_noise_are_survived():
    for kind in ("cluster_size=64k", "qed:cluster_size=64k"):
        good_image(kind)
        rng = random.Random(7)
        length = 600 if stated == "qcow2" else 64
        for number in range(30):
            def change(image):
                for _ in range(rng.randrange(1, 12)):
                    write_at(image.path, rng.randrange(4, length), rng.randbytes(rng.randrange(1, 9)))
            try_all(damaged(change), f"noise {number} in the header")


def tables_of(image):
    """Where the tables are that are in use, and how much of each."""
    if stated == "qed":
        l1 = image.get("l1_table_offset")
        return [(l1, 8), (image.le64(l1), 400)]
    l2 = image.be64(image.get("l1_table_offset")) & OFFSET_MASK
    return [(image.get("l1_table_offset"), 8), (l2, 400), (image.get("refcount_table_offset"), 64),
            (image.refcount_block_at(0), 200)]


def test_metadata_of_noise_is_survived():
    for kind in ("cluster_size=64k", "qed:cluster_size=64k", "qed:cluster_size=4k,table_size=2"):
        good_image(kind)
        tables = tables_of(image_file("good"))
        rng = random.Random(8)
        for number in range(30):
            def change(image):
                for _ in range(rng.randrange(1, 10)):
                    table, length = rng.choice(tables)
                    write_at(image.path, table + rng.randrange(length),
                             rng.randbytes(rng.randrange(1, 9)))
                if number % 2 and stated == "qed":
                    image.mark()
            try_all(damaged(change), f"noise {number} in the metadata of {kind}")


ENTRY_EXTREMES = (
    0, 1, 511, 512, 65536, COPIED, COPIED | 1, COPIED | 65536, (1 << 64) - 1, OFFSET_MASK,
    COPIED | OFFSET_MASK, 0x00FFFFFFFFFF0000, COPIED | 0x00FFFFFFFFFF0000, 1 << 40, COPIED | 1 << 40,
    COMPRESSED, COMPRESSED | COPIED, COMPRESSED | (1 << 62) - 1, COMPRESSED | 0x3FFF << 48,
    COMPRESSED | 1 << 47, COMPRESSED | 65536, 1 << 56, 1 << 61, 2 | COPIED | 327680,
)


def entry_test(place):
    def test():
        good_image()
        for value in ENTRY_EXTREMES:
            try_all(damaged(lambda image: image.put_be64(place(image), value)),
                    f"the entry {value:#018x}")
    return test


def qed_extremes_test(place):
    """Of images that were closed, and of such that were not."""
    def test():
        good_image("qed:")
        end = os.path.getsize("good")
        for value in (0, 1, 2, 511, 512, 4096, 65535, 65536, 65537, 131072, 327680, end - 65536, end,
                      end + 65536, end + (1 << 30), 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 65536,
                      (1 << 64) - 1):
            for marked in (False, True):
                def change(image):
                    image.put_le64(place(image), value)
                    image.mark(marked)
                try_all(damaged(change), f"{value:#x}, marked: {marked}")
    return test


for _field, (_at, _size) in QED_FIELDS.items():
    if _size == 8:
        globals()[f"test_qed_headers_with_{_field}_at_its_extremes_are_survived"] = (
            qed_extremes_test(lambda image, at=_at: at))
test_qed_l1_entries_at_their_extremes_are_survived = qed_extremes_test(
    lambda image: image.l1_entry_at(0))
test_qed_l2_entries_at_their_extremes_are_survived = qed_extremes_test(
    lambda image: image.l2_entry_at(64 * KIB))


def test_qed_headers_of_other_shapes_are_survived():
    """The clusters, tables and the name that a header claims are not those of the file."""
    good_image("qed:cluster_size=64k")
    for field in ("cluster_size", "table_size", "header_size", "backing_offset", "backing_size"):
        for value in extremes(4) + [4096, 1 << 26, 1 << 27, 3, 4, 16]:
            def change(image):
                image.put(field, value)
                if field.startswith("backing"):
                    image.put("features", 1)
            try_all(damaged(change), f"{field} = {value:#x}")


def test_qed_entries_that_name_metadata_never_let_the_guest_write_into_it():
    good_image("qed:")
    good = Qed("good")
    for name, host in (("L1", good.get("l1_table_offset")),
                       ("L1's second cluster", good.get("l1_table_offset") + 65536),
                       ("L2", good.le64(good.l1_entry_at(0)))):
        for marked in (False, True):
            def change(image):
                image.put_le64(image.l2_entry_at(0), host)
                image.mark(marked)
            image = damaged(change)
            try_all(image, f"data on {name}")
            code, said = run_bounded(oxbow_path(), "io", "-f", "qed", "--recover=auto", "-c",
                                     "write -q -P 0xee 0 64k", image)
            if b"\xee" * 4096 in read_at(image, host, 65536):
                raise Failure(f"the guest wrote into {name}: {code} {said}")
            check_equal(run(oxbow_path(), "check", "-f", "qed", image, check=False).returncode, 2,
                        f"exit code of check with data on {name}")


test_l1_entries_at_their_extremes_are_survived = entry_test(lambda image: image.l1_entry_at(0))
test_l2_entries_at_their_extremes_are_survived = entry_test(lambda image: image.l2_entry_at(0))
test_refcount_table_entries_at_their_extremes_are_survived = entry_test(
    lambda image: image.get("refcount_table_offset"))


def metadata_places(image):
    """Host offsets of metadata that no guest data may lie on."""
    l2 = image.be64(image.get("l1_table_offset")) & OFFSET_MASK
    return {"the header": 0, "L1": image.get("l1_table_offset"), "L2": l2,
            "the refcount table": image.get("refcount_table_offset"),
            "a refcount block": image.refcount_block_at(0)}


def test_entries_that_name_metadata_never_let_the_guest_write_into_it():
    good_image()
    places = metadata_places(Qcow2("good"))
    for name, host in places.items():
        image = damaged(lambda image: image.put_be64(image.l2_entry_at(0), COPIED | host))
        before = read_at(image, host, 65536)
        try_all(image, f"data on {name}")
        code, said = run_bounded(oxbow_path(), "io", "-f", "qcow2", "-c", "write -q -P 0xee 0 64k",
                                 image)
        if b"\xee" * 4096 in read_at(image, host, 65536):
            raise Failure(f"the guest wrote into {name} ({before[:8].hex()}): {code} {said}")
        result = run(oxbow_path(), "check", "-f", "qcow2", image, check=False)
        if name != "the header":
            check_equal(result.returncode, 2, f"exit code of check with data on {name}")


def test_metadata_without_a_refcount_is_never_handed_out_to_the_guest():
    """The allocator may not believe a count that says that the header, or a table in use, is free."""
    good_image()
    places = metadata_places(Qcow2("good"))
    for name in [*places, "everything"]:
        chosen = places.values() if name == "everything" else [places[name]]

        def change(image):
            for host in chosen:
                image.put_refcount(host, 0)
        image = damaged(change)
        try_all(image, f"refcount 0 of {name}")
        code, said = run_bounded(oxbow_path(), "io", "-f", "qcow2", "-c", "write -q -P 0xee 256k 256k",
                                 "-c", "write -q -P 0xee 1280k 256k", image)
        for place, host in places.items():
            if b"\xee" * 512 in read_at(image, host, 65536):
                raise Failure(f"refcount 0 of {name}: guest bytes in {place} ({code}: {said})")


def test_tables_that_lie_on_each_other_never_corrupt_silently():
    good_image()
    good = Qcow2("good")
    places = metadata_places(good)
    l2 = places["L2"]
    for name, host in places.items():
        if name != "L2":
            try_all(damaged(lambda image: image.put_be64(image.get("l1_table_offset"),
                                                         COPIED | host)), f"L2 on {name}")
        if name != "a refcount block":
            try_all(damaged(lambda image: image.put_be64(image.get("refcount_table_offset"), host)),
                    f"a refcount block on {name}")
        if name not in ("the header", "L1"):
            try_all(damaged(lambda image: image.put("l1_table_offset", host)), f"L1 on {name}")
        if name not in ("the header", "the refcount table"):
            try_all(damaged(lambda image: image.put("refcount_table_offset", host)),
                    f"the refcount table on {name}")
    # A table that names itself as its data.
    try_all(damaged(lambda image: image.put_be64(l2, COPIED | l2)), "an L2 table that names itself")


def test_two_entries_on_one_cluster_are_corruption_and_do_not_alias_in_silence():
    good_image()
    image = damaged(lambda image: image.put_be64(image.l2_entry_at(512 * KIB), image.l2_entry(0)))
    try_all(image, "two entries on one cluster")
    check_equal(run(oxbow_path(), "check", "-f", "qcow2", image, check=False).returncode, 2,
                "exit code of check")


def test_snapshot_tables_at_their_extremes_are_survived():
    good_image()
    qemu_img("snapshot", "-c", "one", "good")
    qemu_img("snapshot", "-c", "two", "good")
    good = Qcow2("good")
    at = good.get("snapshots_offset")
    size = os.path.getsize("good")
    for value in (0, 1, 512, 65536, size, size + 65536, 1 << 62, (1 << 64) - 65536, size - 20):
        try_all(damaged(lambda image: image.put("snapshots_offset", value)),
                f"snapshots at {value:#x}")
    for value in (0, 1, 3, 1000, 65536, 65537):
        try_all(damaged(lambda image: image.put("nb_snapshots", value)), f"{value} snapshots")
    for offset, length in ((0, 8), (8, 4), (12, 2), (14, 2), (32, 4), (36, 4), (40, 8), (48, 8)):
        for value in (0, (1 << 8 * length) - 1, 1 << 8 * length - 1, 1 << 8 * length - 2):
            try_all(damaged(lambda image: write_at(image.path, at + offset,
                                                   value.to_bytes(length, "big"))),
                    f"{value:#x} at byte {offset} of a snapshot")


def test_bitmap_directories_at_their_extremes_are_survived():
    good_image()
    qemu_img("bitmap", "--add", "good", "b0")
    good = Qcow2("good")
    at = next(offset for kind, offset, _ in good.extensions() if kind == 0x23852875)
    directory = good.be64(at + 16)
    for offset, length in ((0, 4), (4, 4), (8, 8), (16, 8)):
        for value in (0, 1, (1 << 8 * length) - 1, 1 << 8 * length - 1, 65536):
            try_all(damaged(lambda image: write_at(image.path, at + offset,
                                                   value.to_bytes(length, "big"))),
                    f"{value:#x} at byte {offset} of the bitmaps extension")
    for offset, length in ((0, 8), (8, 4), (12, 4), (16, 1), (17, 1), (18, 2), (20, 4)):
        for value in (0, (1 << 8 * length) - 1, 1 << 8 * length - 1):
            try_all(damaged(lambda image: write_at(image.path, directory + offset,
                                                   value.to_bytes(length, "big"))),
                    f"{value:#x} at byte {offset} of the bitmap directory")


def test_header_extensions_past_their_cluster_are_survived():
    good_image()
    start = Qcow2("good").get("header_length")
    for kind in (0xE2792ACA, 0x6803F857, 0x23852875, 0x44415441, 0x12345678, 0xFFFFFFFF):
        for length in (0, 1, 47, 65536, 65536 - start - 8, 65536 - start - 7, 0x7FFFFFFF,
                       0xFFFFFFF8, 0xFFFFFFFF):
            try_all(damaged(lambda image: write_at(image.path, start,
                                                   struct.pack(">II", kind, length))),
                    f"extension {kind:#x} of {length:#x} bytes")


def test_compressed_garbage_is_an_error_and_not_more():
    for kind in ("zlib", "zstd"):
        with open("data.raw", "wb") as file:
            file.write(b"some text, many times over. " * (DISK_BYTES // 28 + 1))
            file.truncate(DISK_BYTES)
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}",
                 "data.raw", "good")
        rng = random.Random(kind)
        for number in range(12):
            def change(image):
                entry = image.l2_entry(rng.randrange(16) * 65536)
                host = entry & ((1 << 54) - 1)
                write_at(image.path, host + rng.randrange(60), rng.randbytes(rng.randrange(1, 30)))
            try_all(damaged(change), f"{kind} garbage {number}")
        image = damaged(lambda image: write_at(
            image.path, image.l2_entry(0) & ((1 << 54) - 1), b"\xff" * 64))
        code, _ = run_bounded(oxbow_path(), "io", "-r", "-f", "qcow2", "-c", "read -q 0 64k", image)
        check_equal(code, 1, f"exit code of reading {kind} garbage")


def test_names_in_images_are_paths_and_nothing_else():
    """Nothing is connected to or parsed; a file that bears the very name is found."""
    for number, name in enumerate((
            'json:{"driver":"file","filename":"secret.raw"}', "nbd://127.0.0.1:1/x",
            "http://127.0.0.1:1/x", "file:secret.raw", "nbd:unix:/nothing", "fat:/etc",
            "host_device:/dev/null", "driver=raw,file.filename=secret.raw")):
        with open("secret.raw", "wb") as file:
            file.write(b"SECRET!!" * 8192)
        image = f"top{number}.qcow2"
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", image, "64k")
        before = fingerprint(image)
        result = expect_failure(oxbow_path(), "io", "-r", "-f", "qcow2", "-c", "read 0 64k", image)
        check_in("No such file", result.stderr, f"refusal of {name}")
        if ":" in name:
            check_in("taken for a path", result.stderr, f"refusal of {name}")
        info = json.loads(oxbow("info", "--output=json", image).stdout)
        check_equal(info["backing-filename"], name, "backing-filename")
        run_bounded(oxbow_path(), "map", "-f", "qcow2", image)
        serve_bounded(image, "--allow-backing")
        check_equal(fingerprint(image), before, image)
        if "/" not in name:
            with open(name, "wb") as file:
                file.write(b"\x42" * 65536)
            oxbow("io", "-r", "-f", "qcow2", "-c", "read -P 0x42 0 64k", image)


def test_of_urls_on_the_command_line_those_of_nbd_alone_are_followed():
    for name, why in (("nbd://127.0.0.1:1/x", "Connection refused"),
                      ("http://127.0.0.1:1/", "Unknown protocol 'http'"),
                      ("ssh://nowhere/x", "Unknown protocol 'ssh'")):
        result = expect_failure(oxbow_path(), "info", "-f", "qcow2", name)
        check_in(why, result.stderr, f"refusal of {name}")


def test_a_backing_file_without_a_stated_format_is_not_probed():
    """A raw disk whose guest wrote a qcow2 header into it must not become a way to the host's files."""
    with open("secret", "wb") as file:
        file.write(b"SECRET!!" * 8192)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "secret", "-F", "raw", "base", "64k")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "raw", "top.qcow2", "64k")
    image = Qcow2("top.qcow2")
    kind, at, length = next(e for e in image.extensions() if e[0] == 0xE2792ACA)
    write_at("top.qcow2", at - 8, struct.pack(">I", 0x01020304))  # no format any more
    result = run(oxbow_path(), "io", "-r", "-f", "qcow2", "-c", "read -v 0 512", "top.qcow2",
                 check=False)
    if "53 45 43 52 45 54" in result.stdout:
        raise Failure("the backing file was probed, and the secret read")
    with Server("-f", "raw", "base") as server:
        handle = nbd_connect(server.uri)
        check_equal(bytes(handle.pread(4, 0)), b"QFI\xfb", "raw bytes")
        handle.shutdown()


def test_servers_do_not_follow_backing_names_unless_told():
    with open("base.raw", "wb") as file:
        file.truncate(65536)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", "64k")
    code, said = serve_bounded("top.qcow2")
    check_equal(code, 1, "exit code of serve")
    check_in("--allow-backing", said, "refusal")
    code, said = serve_bounded("top.qcow2", "--allow-backing")
    check_equal(code, 0, f"exit code of serve --allow-backing ({said})")


def overlay(name, backing, fmt="qcow2"):
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", fmt, name, "64k")


def check_chain_refused(image, *words):
    for command in (("io", "-r", "-f", "qcow2", "-c", "read 0 64k"),
                    ("io", "-f", "qcow2", "-c", "write 0 64k"), ("map", "-f", "qcow2")):
        before = fingerprint(image)
        code, said = run_bounded(oxbow_path(), *command, image)
        check_equal(code, 1, f"exit code of {command} ({said[-300:]})")
        check_equal(fingerprint(image), before, image)
    code, said = serve_bounded(image, "--allow-backing")
    check_equal(code, 1, "exit code of serve")
    if words and not any(word in said for word in words):
        raise Failure(f"{said!r} says none of {words}")
    check_equal(run_bounded(oxbow_path(), "info", image)[0], 0, "exit code of info")
    check_equal(run_bounded(oxbow_path(), "check", image)[0], 0, "exit code of check")
    run_bounded(oxbow_path(), "info", "--backing-chain", image)


def test_an_image_that_backs_itself_is_refused():
    overlay("other.qcow2", "self.qcow2")
    os.rename("other.qcow2", "self.qcow2")
    check_chain_refused("self.qcow2", "loop", "itself", "cycle")


def test_a_chain_that_loops_is_refused():
    for number in range(5):
        overlay(f"loop{number}.qcow2", f"loop{(number + 1) % 5}.qcow2")
    check_chain_refused("loop0.qcow2", "loop", "itself", "cycle")


def test_a_chain_that_loops_through_links_is_refused():
    os.mkdir("d")
    os.symlink("..", "d/up")
    overlay("loop.qcow2", "d/up/loop.qcow2")
    check_chain_refused("loop.qcow2")


def test_a_chain_of_1000_images_is_refused():
    overlay("0.qcow2", "00001.qcow2")
    image = pathlib.Path("0.qcow2").read_bytes()
    for number in range(1, 1001):
        pathlib.Path(f"{number:05}.qcow2").write_bytes(
            image.replace(b"00001.qcow2", b"%05d.qcow2" % (number + 1)))
    qemu_img("create", "-q", "-f", "qcow2", "01001.qcow2", "64k")
    check_chain_refused("0.qcow2", "chain", "deep", "long")


def test_backing_files_that_are_not_files_are_refused():
    os.mkdir("directory")
    os.mkfifo("pipe")
    for number, name in enumerate(("directory", "pipe", "/dev/zero", "/dev/null", "missing.raw", "")):
        image = f"top{number}.qcow2"
        if name:
            overlay(image, name, "raw")
        else:
            overlay(image, "x", "raw")
            Qcow2(image).put("backing_file_size", 0)
        for command in (("io", "-r", "-f", "qcow2", "-c", "read 0 64k"), ("map", "-f", "qcow2")):
            code, _ = run_bounded(oxbow_path(), *command, image)
            if name not in ("/dev/null", ""):
                check_equal(code, 1, f"exit code with the backing file {name!r}")


def test_files_that_are_no_images_are_refused():
    os.mkdir("directory")
    os.mkfifo("pipe")
    pathlib.Path("text").write_text("not an image at all\n" * 1000)
    pathlib.Path("empty").write_bytes(b"")
    for name in ("directory", "pipe", "text", "empty", "/dev/null", "/dev/zero", "missing"):
        for command in (("check", "-f", "qcow2"), ("map", "-f", "qcow2"),
                        ("info", "-f", "qcow2"), ("io", "-r", "-f", "qcow2", "-c", "read 0 1")):
            code, _ = run_bounded(oxbow_path(), *command, name)
            check_equal(code, 1, f"exit code of {command[0]} {name}")


def test_refcounts_that_a_small_file_claims_take_no_memory():
    """A table of 8 MiB whose entries all name one block: what it claims to count is far past the end."""
    good_image("cluster_size=512,refcount_bits=1")
    for cluster_bits, bits in ((9, 0), (16, 0), (21, 0), (21, 6)):
        def change(image):
            image.put("cluster_bits", cluster_bits)
            image.put("refcount_order", bits)
            image.put("refcount_table_offset", 4 * MIB)
            image.put("refcount_table_clusters", (8 * MIB) >> cluster_bits)
            with open(image.path, "r+b") as file:
                file.truncate(12 * MIB)
            write_at(image.path, 4 * MIB, struct.pack(">Q", 2 * MIB) * MIB)
        try_all(damaged(change), f"a full refcount table of clusters of 2^{cluster_bits}")


def test_an_l1_of_32_mib_past_the_end_takes_no_memory():
    good_image()
    for size, l1_size, at in ((1 << 51, 4 * MIB, 65536 * 1000), (1 << 51, 4 * MIB, 65536),
                              (1 << 55, 4 * MIB + 1, 65536)):
        def change(image):
            image.put("size", size)
            image.put("l1_size", l1_size)
            image.put("l1_table_offset", at)
        try_all(damaged(change), f"an L1 of {l1_size} entries at {at:#x}")


run_tests(globals())
