#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 40
"""Random operations, run in oxbow and in qemu-io on copies of one image, and on a model in Python.

All three must hold the same guest bytes after each group of operations, and both checkers must call both
images clean. Seeds are fixed; a failure names its seed, group and scenario.
"""
import random
import shutil

from interop import *

OPS_PER_GROUP = 24


class Model:
    """A disk as its bytes, with qcow2's meaning of a discard: the clusters it covers wholly read
    as zeroes, the rest is as before."""

    def __init__(self, data, cluster):
        self.bytes = bytearray(data)
        self.cluster = cluster

    def apply(self, op):
        kind, at, length, byte = op
        if kind == "discard":
            first = -(-at // self.cluster) * self.cluster
            last = at + length
            if last != len(self.bytes):
                last = last // self.cluster * self.cluster
            self._fill(first, max(0, last - first), 0)
        elif kind != "flush":
            self._fill(at, length, byte or 0)

    def _fill(self, at, length, byte):
        self.bytes[at:at + length] = bytes([byte]) * length


def random_op(rng, size, cluster, kinds):
    kind = rng.choice(kinds)
    if kind == "flush":
        return (kind, 0, 0, None)
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
    }[kind]


ALL_KINDS = ["write"] * 5 + ["zero", "unmap", "discard", "flush"]
NO_DISCARD = [kind for kind in ALL_KINDS if kind != "discard"]


def run_scenario(seed, image, data, kinds=ALL_KINDS, groups=3, snapshots=False):
    """Image is the start; data its guest bytes."""
    rng = random.Random(seed)
    cluster = Qcow2(image).cluster_bytes
    model = Model(data, cluster)
    copies = {"oxbow": "by-oxbow.qcow2", "qemu": "by-qemu.qcow2"}
    for name in copies.values():
        shutil.copy(image, name)
    taken = {}
    for group in range(groups):
        where = f"(seed {seed}, group {group})"
        ops = [random_op(rng, len(data), cluster, kinds) for _ in range(OPS_PER_GROUP)]
        for op in ops:
            model.apply(op)
        commands = io_args(as_command(op) for op in ops)
        cache = rng.choice(CACHE_MODES)
        oxbow("io", "-f", "qcow2", "-t", cache, *commands, copies["oxbow"])
        qemu_io("-f", "qcow2", *commands, copies["qemu"])
        for by, name in copies.items():
            check_clean(name, where)
            check_bytes(guest_bytes_by_qemu(name),
                        bytes(model.bytes), f"written by {by} {where}")
        if snapshots:
            for name in copies.values():
                qemu_img("snapshot", "-c", f"s{group}", name)
            taken[f"s{group}"] = bytes(model.bytes)
    for by, name in copies.items():
        check_bytes(guest_bytes_by_oxbow(name), bytes(model.bytes),
                    f"written by {by}, read by oxbow (seed {seed})")
        for snapshot, then in taken.items():
            check_bytes(guest_bytes_by_qemu(name, "-l", snapshot), then,
                        f"snapshot {snapshot} in the image of {by} (seed {seed})")
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", *copies.values())


def empty_image(size, options, *args):
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, *args, "start.qcow2", str(size))
    return "start.qcow2", bytes(size)


def image_over_backing(size, options, backing_bytes, backing_format="qcow2"):
    data = pattern("backing", backing_bytes)
    with open("base.raw", "wb") as file:
        file.write(data)
    backing = "base.raw"
    if backing_format == "qcow2":
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "base.raw", "base.qcow2")
        backing = "base.qcow2"
    image, _ = empty_image(size, options, "-b", backing, "-F", backing_format)
    return image, (data + bytes(size))[:size]


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
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "data.raw", "start.qcow2")
    return "start.qcow2", data


def test_operations_on_an_empty_image_agree():
    for seed in range(3):
        run_scenario(seed, *empty_image(8 * MIB + 512, "compat=1.1"))


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
    model = Model(data, Qcow2(image).cluster_bytes)
    for cache in ("writeback", "directsync"):
        with Server("-f", "qcow2", "--cache", cache, "--allow-backing", *serve_args,
                    image) as server:
            handle = nbd_connect(server.uri)
            batch = Batch(handle, model, rng)
            for _ in range(12):
                batch.run(24)
                check_bytes(nbd_read_all(handle), bytes(model.bytes), f"seed {seed}, {cache}")
            handle.shutdown()
        check_clean(image, f"(seed {seed}, {cache})")
        check_bytes(guest_bytes_by_qemu(image), bytes(model.bytes), f"seed {seed}, after {cache}")


def test_concurrent_requests_leave_the_model_bytes():
    run_concurrently(200, *empty_image(6 * MIB, "cluster_size=64k"))


def test_concurrent_requests_with_tiny_caches_leave_the_model_bytes():
    for seed, options in ((210, "cluster_size=512"), (211, "cluster_size=4k,lazy_refcounts=on"),
                          (212, "cluster_size=512,compat=0.10")):
        run_concurrently(seed, *empty_image(3 * MIB, options), "--l2-cache-size", "8k",
                         "--refcount-cache-size", "8k")


def test_concurrent_requests_over_a_backing_file_leave_the_model_bytes():
    run_concurrently(220, *image_over_backing(6 * MIB, "cluster_size=64k", 5 * MIB))


def test_concurrent_requests_over_compressed_clusters_leave_the_model_bytes():
    run_concurrently(230, *compressed_image(4 * MIB, "cluster_size=16k"))


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
