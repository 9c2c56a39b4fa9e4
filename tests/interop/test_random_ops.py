#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 40
"""Random operations, run in oxbow and in qemu-io on copies of one image, or in turns on one image, and on
a model in Python.

All must hold the same guest bytes after each group of operations, and both checkers must call the images
clean. Seeds are fixed; a failure names its seed, group and scenario.
"""
import random
import shutil

from interop import *

OPS_PER_GROUP = 24


class Model:
    """A disk as its bytes, with qcow2's meaning of a discard: the clusters it covers wholly read
    as zeroes, the rest is as before. QEMU knows no discard of a QED image: all is as before."""

    def __init__(self, data, cluster, fmt="qcow2", backed=False):
        self.bytes = bytearray(data)
        self.cluster = cluster
        self.fmt = fmt
        self.backed = backed
        self.freed = False  # whether something may have given clusters back

    def apply(self, op, by="oxbow"):
        kind, at, length, byte = op
        self.freed |= kind not in ("write", "flush", "grow", "reopen")
        if kind == "discard" and self.fmt == "qed" and by == "qemu":
            return
        if kind in ("grow", "shrink"):
            del self.bytes[at:]
            self.bytes.extend(bytes(at - len(self.bytes)))
        elif kind == "discard":
            first = -(-at // self.cluster) * self.cluster
            last = at + length
            if last != len(self.bytes):
                last = last // self.cluster * self.cluster
            self._fill(first, max(0, last - first), 0)
        elif kind not in ("flush", "reopen"):
            self._fill(at, length, byte or 0)

    def _fill(self, at, length, byte):
        self.bytes[at:at + length] = bytes([byte]) * length


def random_op(rng, size, cluster, kinds):
    kind = rng.choice(kinds)
    if kind in ("flush", "reopen"):
        return (kind, 0, 0, None)
    if kind in ("grow", "shrink"):
        step = rng.randrange(1, max(2, size // 2048)) * 512
        return (kind, size + step if kind == "grow" else max(512, size - step), 0, None)
    length = min(size, rng.choice([
        rng.randrange(1, 600), 512, 4096, cluster, rng.randrange(1, 3 * cluster + 2),
        rng.randrange(1, max(2, size // 6))]))
    at = rng.randrange(0, size - length + 1)
    snap = rng.random()
    if snap < 0.35:
        at = at // cluster * cluster
    elif snap < 0.5:
        at = at // 512 * 512
    elif snap < 0.6:
        at = size - length
    return (kind, at, length, rng.randrange(1, 256) if kind == "write" else None)


def as_command(op):
    kind, at, length, byte = op
    return {
        "write": f"write -q -P {byte} {at} {length}",
        "zero": f"write -q -z {at} {length}",
        "unmap": f"write -q -z -u {at} {length}",
        "discard": f"discard -q {at} {length}",
        "flush": "flush",
        "grow": f"truncate {at}",
        "shrink": f"truncate {at}",
        "reopen": "reopen -c writeback",
    }[kind]


ALL_KINDS = ["write"] * 5 + ["zero", "unmap", "discard", "flush"]
NO_DISCARD = [kind for kind in ALL_KINDS if kind != "discard"]
NO_ZEROES = ["write", "write", "write", "flush"]
WITH_SIZES = ALL_KINDS + ["grow", "shrink", "reopen"]


def within_clusters(op, model):
    """The same of whole clusters: where QEMU writes a part of a cluster of zeroes in a QED image, the
    backing file's bytes are found beside it."""
    kind, at, length, byte = op
    if length == 0:
        return op
    start = at // model.cluster * model.cluster
    end = min(-(-(at + length) // model.cluster) * model.cluster, len(model.bytes))
    return (kind, start, end - start, byte)


def random_ops(rng, model, kinds, count, by="oxbow", whole_ends=False):
    """Applied to the model; returns the commands. QEMU makes no QED image smaller, nor one longer whose
    backing file is longer. Where QEMU takes a part, disks end between clusters when they are made
    smaller: it shows what was in the rest of a last cluster when they become longer again."""
    limited = by == "qemu" and model.fmt == "qed"
    if limited:
        kinds = [kind for kind in kinds if kind != "shrink" and not (kind == "grow" and model.backed)]
    commands = []
    for _ in range(count):
        op = random_op(rng, len(model.bytes), model.cluster, kinds)
        if limited and model.backed:
            op = within_clusters(op, model)
        if op[0] == "shrink" and whole_ends:
            op = (op[0], -(-op[1] // model.cluster) * model.cluster, 0, None)
        model.apply(op, by)
        commands.append(as_command(op))
    return io_args(commands)


def check_sound(name, model, where):
    """Space is lost only where something was freed, and in QED alone."""
    if model.fmt == "qed" and model.freed:
        check_leaks_at_most(name, where)
    else:
        check_clean(name, where)


def run_scenario(seed, image, data, kinds=ALL_KINDS, groups=3, snapshots=False):
    """Image is the start; data its guest bytes."""
    rng = random.Random(seed)
    fmt, cluster = format_of(image), image_file(image).cluster_bytes
    models = {by: Model(data, cluster, fmt) for by in ("oxbow", "qemu")}
    copies = {"oxbow": "by-oxbow", "qemu": "by-qemu"}
    for name in copies.values():
        shutil.copy(image, name)
    taken = {}
    for group in range(groups):
        where = f"(seed {seed}, group {group})"
        ops = [random_op(rng, len(data), cluster, kinds) for _ in range(OPS_PER_GROUP)]
        commands = io_args(as_command(op) for op in ops)
        cache = rng.choice(CACHE_MODES)
        oxbow("io", "-f", fmt, "-t", cache, *commands, copies["oxbow"])
        qemu_io("-f", fmt, *commands, copies["qemu"])
        for by, name in copies.items():
            for op in ops:
                models[by].apply(op, by)
            check_sound(name, models[by], where)
            check_bytes(guest_bytes_by_qemu(name),
                        bytes(models[by].bytes), f"written by {by} {where}")
            if snapshots:
                qemu_img("snapshot", "-c", f"s{group}", name)
        taken[f"s{group}"] = bytes(models["oxbow"].bytes)
    for by, name in copies.items():
        check_bytes(guest_bytes_by_oxbow(name, *stated_backing(name)), bytes(models[by].bytes),
                    f"written by {by}, read by oxbow (seed {seed})")
        for snapshot, then in taken.items() if snapshots else ():
            check_bytes(guest_bytes_by_qemu(name, "-l", snapshot), then,
                        f"snapshot {snapshot} in the image of {by} (seed {seed})")
    if models["oxbow"].bytes == models["qemu"].bytes:
        qemu_img("compare", "-f", fmt, "-F", fmt, *copies.values())


def stated_backing(image):
    """What a server has to be told of the backing file of an image that cannot say it."""
    info = json.loads(output("qemu-img", "info", "--output=json", image))
    if "backing-filename" not in info or "backing-filename-format" in info:
        return ()
    return ("--backing-format", format_of(info["full-backing-filename"]))


def run_in_turns(seed, image, data, kinds=WITH_SIZES, turns=4, count=OPS_PER_GROUP, stated=None):
    """oxbow and qemu-io on the same image, one after the other. stated: what a server needs to read it."""
    stated = stated_backing(image) if stated is None else stated
    rng = random.Random(seed)
    fmt = format_of(image)
    model = Model(data, image_file(image).cluster_bytes, fmt, any(data))
    for turn in range(turns):
        by = ("oxbow", "qemu")[(turn + rng.randrange(2)) % 2 if turn else 0]
        where = f"(seed {seed}, turn {turn} by {by})"
        commands = random_ops(rng, model, kinds, count, by, True)
        if by == "oxbow":
            oxbow("io", "-f", fmt, "-t", rng.choice(CACHE_MODES), *commands, image)
        else:
            qemu_io("-f", fmt, *commands, image)
        check_equal(image_file(image).is_dirty, False, f"mark {where}")
        check_sound(image, model, where)
        check_bytes(guest_bytes_by_qemu(image), bytes(model.bytes), f"read by QEMU {where}")
    check_bytes(guest_bytes_by_oxbow(image, *stated), bytes(model.bytes),
                f"read by oxbow in the end (seed {seed})")


def run_alone(seed, image, size, kinds=WITH_SIZES, turns=3):
    """The same with oxbow alone, where QEMU does not open the image: what the file holds is read by the
    reader that is in here."""
    rng = random.Random(seed)
    model = Model(bytes(size), Qed(image).cluster_bytes, "qed")
    for turn in range(turns):
        where = f"(seed {seed}, turn {turn})"
        commands = random_ops(rng, model, kinds, OPS_PER_GROUP)
        oxbow("io", "-f", "qed", "-t", rng.choice(CACHE_MODES), *commands, image)
        check_equal(Qed(image).is_dirty, False, f"mark {where}")
        check_equal(Qed(image).problems(), [], f"problems {where}")
        check_in(oxbow("check", "-q", "-f", "qed", image, check=False).returncode,
                 (0, 3) if model.freed else (0,), f"exit codes of check {where}")
        check_bytes(Qed(image).guest_bytes(), bytes(model.bytes), f"in the file {where}")
    check_bytes(guest_bytes_by_oxbow(image), bytes(model.bytes), f"read by oxbow (seed {seed})")


def empty_image(size, kind, *args):
    qemu_img("create", "-q", *kind_args(kind), *args, "start", str(size))
    return "start", bytes(size)


def image_over_backing(size, kind, backing_bytes, backing_format="qcow2"):
    data = pattern("backing", backing_bytes)
    with open("base.raw", "wb") as file:
        file.write(data)
    backing = "base.raw"
    if backing_format != "raw":
        backing = f"base.{backing_format}"
        qemu_img("convert", "-f", "raw", "-O", backing_format, "base.raw", backing)
    image, _ = empty_image(size, kind, "-b", backing, "-F", backing_format)
    return image, (data + bytes(size))[:size]


def image_over_chain(size, kind, formats):
    """Layers of the formats, the lowest first, each of which has written something of its own."""
    data = bytearray(pattern("chain", size))
    with open("0.raw", "wb") as file:
        file.write(data)
    below, fmt = "0.raw", "raw"
    for level, layer in enumerate(formats, 1):
        name = f"{level}.{layer}"
        qemu_img("create", "-q", "-f", layer, "-o", f"cluster_size={8192 << level}", "-b", below,
                 "-F", fmt, name, str(size))
        at, length = level * size // 8, size // 5
        qemu_io("-f", layer, "-c", f"write -q -P {level} {at} {length}", name)
        data[at:at + length] = bytes([level]) * length
        below, fmt = name, layer
    image, _ = empty_image(size, kind, "-b", below, "-F", fmt)
    return image, bytes(data)


def compressible(seed, length):
    """Data that some clusters of compress well, some badly, and some are zeroes."""
    rng = random.Random(seed)
    parts = []
    while sum(map(len, parts)) < length:
        parts.append(rng.choice([
            bytes(rng.randrange(1, 200000)),
            rng.randbytes(rng.randrange(1, 100000)),
            b"%d lines of text\n" % rng.randrange(9999) * rng.randrange(1, 10000)]))
    return b"".join(parts)[:length]


def compressed_image(size, options):
    data = compressible("compressed", size)
    with open("data.raw", "wb") as file:
        file.write(data)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "data.raw", "start")
    return "start", data


def test_operations_on_an_empty_image_agree():
    for seed in range(3):
        run_scenario(seed, *empty_image(8 * MIB + 512, "compat=1.1"))


def test_operations_on_an_empty_qed_image_agree():
    for seed, kind in enumerate(("qed:", "qed:cluster_size=4k,table_size=2",
                                 "qed:cluster_size=2M,table_size=2"), 300):
        run_scenario(seed, *empty_image(9 * MIB + 512, kind))


def test_operations_on_a_version_2_image_agree():
    for seed in range(10, 12):
        run_scenario(seed, *empty_image(8 * MIB, "compat=0.10"))


def test_operations_on_a_lazy_image_agree():
    for seed in range(20, 22):
        run_scenario(seed, *empty_image(6 * MIB + 1024, "lazy_refcounts=on,cluster_size=4096"))


def test_operations_with_clusters_of_512_bytes_agree():
    for seed in range(30, 32):
        run_scenario(seed, *empty_image(MIB + 512, "cluster_size=512"))


def test_operations_with_clusters_of_2_mib_agree():
    run_scenario(40, *empty_image(21 * MIB + 512, "cluster_size=2M"))


def test_operations_with_refcounts_of_1_bit_agree():
    run_scenario(50, *empty_image(2 * MIB, "cluster_size=1k,refcount_bits=1"))


def test_operations_with_refcounts_of_64_bits_agree():
    run_scenario(51, *empty_image(2 * MIB, "cluster_size=1k,refcount_bits=64"))


def test_operations_on_preallocated_metadata_agree():
    run_scenario(55, *empty_image(4 * MIB, "cluster_size=16k,preallocation=metadata"))


def test_operations_over_a_qcow2_backing_file_agree():
    for seed in range(60, 63):
        run_scenario(seed, *image_over_backing(6 * MIB, "cluster_size=64k", 6 * MIB))


def test_operations_over_a_shorter_raw_backing_file_agree():
    for seed in range(70, 72):
        run_scenario(seed, *image_over_backing(5 * MIB, "cluster_size=32k", 3 * MIB - 700, "raw"))


def test_operations_on_a_qed_image_over_a_shorter_or_longer_backing_file_agree():
    for seed, fmt in enumerate(("raw", "qcow2", "qed"), 310):
        run_in_turns(seed, *image_over_backing(5 * MIB, "qed:cluster_size=32k", 3 * MIB - 512, fmt))
    run_in_turns(315, *image_over_backing(2 * MIB, "qed:cluster_size=4k,table_size=16", 3 * MIB))


def test_operations_over_a_longer_backing_file_agree():
    run_scenario(75, *image_over_backing(2 * MIB, "cluster_size=4k", 3 * MIB))


def test_writes_to_a_version_2_image_over_a_backing_file_agree():
    run_scenario(80, *image_over_backing(4 * MIB, "compat=0.10", 4 * MIB), kinds=NO_DISCARD)


def test_operations_leave_internal_snapshots_alone():
    for seed in range(90, 93):
        run_scenario(seed, *empty_image(4 * MIB, "cluster_size=16k"), snapshots=True)


def test_operations_leave_snapshots_alone_in_lazy_images_over_a_backing_file():
    run_scenario(95, *image_over_backing(3 * MIB, "cluster_size=8k,lazy_refcounts=on", 3 * MIB),
                 snapshots=True)


def test_operations_leave_snapshots_alone_in_version_2():
    run_scenario(97, *empty_image(3 * MIB, "cluster_size=512,compat=0.10"), snapshots=True)


def test_operations_on_zlib_compressed_clusters_agree():
    for seed in range(100, 102):
        run_scenario(seed, *compressed_image(5 * MIB + 512, "cluster_size=64k"))


def test_operations_on_zstd_compressed_clusters_agree():
    for seed in range(110, 112):
        run_scenario(seed, *compressed_image(5 * MIB, "cluster_size=64k,compression_type=zstd"))


def test_operations_on_compressed_clusters_under_snapshots_agree():
    run_scenario(120, *compressed_image(4 * MIB, "cluster_size=4k"), snapshots=True)


def test_operations_on_compressed_clusters_of_2_mib_agree():
    run_scenario(130, *compressed_image(9 * MIB, "cluster_size=2M"))


# ---- both on the same image, in turns ----

def test_turns_on_a_qcow2_image_agree():
    for seed, kind in enumerate(("", "cluster_size=4k,lazy_refcounts=on", "cluster_size=2M"), 400):
        run_in_turns(seed, *empty_image(6 * MIB + 512, kind))


def test_turns_over_a_backing_file_agree():
    for seed, kind in enumerate(("cluster_size=16k", "qed:cluster_size=16k", "qed:"), 410):
        for n, fmt in enumerate(("raw", "qcow2", "qed")):
            run_in_turns(seed * 10 + n, *image_over_backing(4 * MIB, kind, 4 * MIB, fmt))


def test_turns_over_chains_of_several_formats_agree():
    chains = (("qed:cluster_size=32k", ("qed", "qcow2"), "qcow2"), ("qed:", ("qed", "qed"), "qed"),
              ("qed:", ("qcow2", "qed", "qcow2"), "qcow2"),
              ("cluster_size=4k", ("qed", "qcow2", "qed"), "qcow2"))
    for seed, (kind, formats, stated) in enumerate(chains, 420):
        run_in_turns(seed, *image_over_chain(4 * MIB, kind, formats),
                     stated=("--backing-format", stated))


def test_turns_of_writes_alone_lose_no_space():
    for seed, kind in enumerate(("qed:cluster_size=4k,table_size=2", "qed:", "cluster_size=64k"), 430):
        run_in_turns(seed, *empty_image(5 * MIB, kind), kinds=NO_ZEROES)
        run_in_turns(seed + 10, *image_over_backing(5 * MIB, kind, 4 * MIB), kinds=NO_ZEROES)


def turns_on_qed_shapes(table):
    """Every size of cluster that QEMU opens with such tables."""
    def test():
        for bits in range(12, 23):
            if qemu_opens_qed(1 << bits, table):
                kind = f"qed:cluster_size={1 << bits},table_size={table}"
                run_in_turns(500 + 20 * table + bits,
                             *empty_image(max(2 * MIB, 5 << bits) + 512, kind), turns=3, count=16)
    return test


for _table in (2, 4, 8, 16):
    globals()[f"test_turns_on_qed_images_with_tables_of_{_table}_clusters_agree"] = (
        turns_on_qed_shapes(_table))


def test_shapes_that_qemu_does_not_open_hold_what_is_written():
    for bits, table in ((12, 1), (16, 1), (20, 1), (22, 4), (23, 2), (24, 1), (24, 16), (26, 1),
                        (26, 16)):
        check_equal(qemu_opens_qed(1 << bits, table), False, "whether QEMU opens it")
        size = max(2 * MIB, 3 << bits) + 512
        qed_by_hand("start", 1 << bits, table, size)
        run_alone(900 + bits + table, "start", size)


def test_turns_on_qed_images_laid_out_by_others_agree():
    """A header of several clusters, a gap behind it, a name far from the header's sector."""
    size = 2 * MIB + 512
    for n, (cluster, header, l1) in enumerate(((4 * KIB, 3, 3), (64 * KIB, 2, 9), (64 * KIB, 1, 7))):
        qed_by_hand("start", cluster, 2, size, header, l1)
        run_in_turns(440 + n, "start", bytes(size), turns=3)
    with open("base.raw", "wb") as file:
        file.write(b"\x66" * size)
    qed_by_hand("start", 64 * KIB, 2, size, raw_backing="base.raw", name_at=5000)
    before = bytearray(read_at("start", 0, 64 * KIB))
    run_in_turns(450, "start", b"\x66" * size)
    after = read_at("start", 0, 64 * KIB)
    before[48:56] = after[48:56]  # the size
    check_bytes(after, bytes(before), "the header")


# ---- requests in flight together ----

class Batch:
    """Requests in flight together over NBD, none overlapping another."""

    def __init__(self, handle, model, rng):
        self.handle = handle
        self.model = model
        self.rng = rng
        self.failed = []
        self.buffers = []  # alive until the requests are done

    def run(self, count):
        import nbd

        taken, ops, trims = [], [], []
        for _ in range(count):
            kind, at, length, byte = random_op(self.rng, len(self.model.bytes),
                                               self.model.cluster, NO_DISCARD + ["trim"])
            at, length = at // 512 * 512, max(512, min(length, 256 * KIB) // 512 * 512)
            at = min(at, len(self.model.bytes) - length)
            if kind != "flush" and any(at < end and start < at + length for start, end in taken):
                continue
            taken.append((at, at + length))
            ops.append((kind, at, length, byte))
        for kind, at, length, byte in ops:
            done = self._completion(f"{kind} {at:#x} {length}")
            if kind == "write":
                data = nbd.Buffer.from_bytearray(bytearray([byte]) * length)
                self.buffers.append(data)
                flags = nbd.CMD_FLAG_FUA if self.rng.random() < 0.2 else 0
                self.handle.aio_pwrite(data, at, done, flags)
            elif kind in ("zero", "unmap"):
                flags = nbd.CMD_FLAG_NO_HOLE if kind == "zero" else 0
                self.handle.aio_zero(length, at, done, flags)
            elif kind == "trim":
                trims.append((at, length))
                self.handle.aio_trim(length, at, done)
            else:
                self.handle.aio_flush(done)
        while self.handle.aio_in_flight() > 0:
            self.handle.poll(-1)
        self.buffers.clear()
        check_equal(self.failed, [], "failed requests")
        for kind, at, length, byte in ops:
            if kind in ("write", "zero", "unmap"):
                self.model.apply((kind, at, length, byte))
        for at, length in trims:
            self._adopt_trim(at, length)

    def _completion(self, what):
        def done(error):
            if error.value:
                self.failed.append((what, error.value))
            return 1
        return done

    def _adopt_trim(self, at, length):
        """A trimmed sector reads as zeroes or as before; which, is the server's choice."""
        now = bytes(self.handle.pread(length, at))
        for sector in range(0, length, 512):
            new = now[sector:sector + 512]
            old = self.model.bytes[at + sector:at + sector + 512]
            if new != bytes(512) and new != old:
                raise Failure(f"the trimmed sector at {at + sector:#x} holds other bytes")
        self.model.bytes[at:at + length] = now


def run_concurrently(seed, image, data, *serve_args):
    rng = random.Random(seed)
    fmt = format_of(image)
    model = Model(data, image_file(image).cluster_bytes, fmt)
    model.freed = True
    stated = stated_backing(image)
    for cache in ("writeback", "directsync"):
        with Server("-f", fmt, "--cache", cache, "--allow-backing", *stated, *serve_args,
                    image) as server:
            handle = nbd_connect(server.uri)
            batch = Batch(handle, model, rng)
            for _ in range(12):
                batch.run(24)
                check_bytes(nbd_read_all(handle), bytes(model.bytes), f"seed {seed}, {cache}")
            handle.shutdown()
        check_sound(image, model, f"(seed {seed}, {cache})")
        check_bytes(guest_bytes_by_qemu(image), bytes(model.bytes), f"seed {seed}, after {cache}")


def test_concurrent_requests_leave_the_model_bytes():
    run_concurrently(200, *empty_image(6 * MIB, "cluster_size=64k"))
    run_concurrently(201, *empty_image(6 * MIB, "qed:cluster_size=64k"))


def test_concurrent_requests_with_tiny_caches_leave_the_model_bytes():
    for seed, kind in ((210, "cluster_size=512"), (211, "cluster_size=4k,lazy_refcounts=on"),
                       (212, "cluster_size=512,compat=0.10"),
                       (213, "qed:cluster_size=4k,table_size=2")):
        run_concurrently(seed, *empty_image(3 * MIB, kind), "--l2-cache-size", "8k",
                         "--refcount-cache-size", "8k")


def test_concurrent_requests_over_a_backing_file_leave_the_model_bytes():
    run_concurrently(220, *image_over_backing(6 * MIB, "cluster_size=64k", 5 * MIB))
    for seed, fmt in enumerate(("raw", "qcow2", "qed"), 221):
        run_concurrently(seed, *image_over_backing(6 * MIB, "qed:cluster_size=64k", 5 * MIB, fmt))


def test_concurrent_requests_over_compressed_clusters_leave_the_model_bytes():
    run_concurrently(230, *compressed_image(4 * MIB, "cluster_size=16k"))


def test_a_disk_changes_its_size_beside_requests():
    for fmt in FORMATS:
        oxbow("create", "-q", "-f", fmt, "disk", "8M")
        commands = []
        for n in range(60):
            commands.append(f"aio_write -q -P {n + 1} {n * 64}k 64k")
            if n % 10 == 5:
                commands.append(f"truncate {8 + n}M")
        commands += ["aio_flush", "truncate 5M"]
        reads = [f"read -P {n + 1} {n * 64}k 64k" for n in range(60)]
        oxbow("io", "-f", fmt, *io_args(commands + reads), "disk")
        check_closed("disk", freed=True)
        qemu_io("-r", "-f", fmt, *io_args(reads), "disk")


def test_the_model_is_not_content_with_a_wrong_byte():
    image, data = empty_image(MIB, "cluster_size=4k")
    qemu_io("-f", "qcow2", "-c", "write -P 1 5000 1", image)
    model = Model(data, 4096)
    model.apply(("write", 5001, 1, 1))
    try:
        check_bytes(guest_bytes_by_qemu(image), bytes(model.bytes), "disk")
    except Failure:
        return
    raise Failure("not noticed")


run_tests(globals())
