# SPDX-License-Identifier: MIT
"""Dirty images for the tests of recovery, and what docs/recovery.md says of their headers."""
import shutil
import struct
import tempfile
import time

from interop import *

# Tables that a recovery needs longer for than a request or two takes, by cluster size.
TABLES = {
    "qcow2": {512: 4096, 4 * KIB: 8192, 64 * KIB: 512, 2 * MIB: 16},
    "qed": {4 * KIB: 1024, 64 * KIB: 512, 2 * MIB: 2},
}
QED_TABLE_CLUSTERS = {4 * KIB: 2, 64 * KIB: 4, 2 * MIB: 2}
# What a server says of an image that was not closed, while it looks at it and when it is done.
BEGAN = {
    "qcow2": "image was not closed cleanly; it is usable while its refcounts are recovered",
    "qed": "image was not closed cleanly; it is usable while its tables are looked through",
}
ENDED = {
    "qcow2": "image was not closed cleanly; refcounts were rebuilt",
    "qed": "image was not closed cleanly; its tables were looked through",
}

FENCE_BYTES = 24
PATTERN = 0x11


def use_memory():
    """The test goes on in a directory in memory, where the host has one: syncs are then as fast as
    a recovery's reads, and the number of either decides what ends first."""
    if not os.access("/dev/shm", os.W_OK):
        return
    where = tempfile.mkdtemp(prefix="oxbow-test-", dir="/dev/shm")
    on_exit(lambda: shutil.rmtree(where, ignore_errors=True))
    os.chdir(where)


def crash(*command):
    """Runs a command that ends by aborting."""
    words = " ".join("'" + str(word) + "'" for word in command)
    result = run("sh", "-c", f"ulimit -c 0; {words}; true", timeout=60)
    check_in("Aborted", result.stderr, f"stderr of {words}")
    return result


def table_span(cluster, fmt="qcow2"):
    """How much of the disk an L2 table maps."""
    return cluster // 8 * cluster * (QED_TABLE_CLUSTERS[cluster] if fmt == "qed" else 1)


def add_empty_tables(image):
    """An empty L2 table for each L1 entry that the disk needs and that has none, past the file's end
    (and not counted)."""
    file = image_file(image)
    cluster = file.cluster_bytes
    if format_of(image) == "qed":
        step, order, copied = file.table_bytes, "<", 0
        entries = file.get("size") // (step // 8 * cluster)
    else:
        step, order, copied = cluster, ">", COPIED
        entries = file.get("l1_size")
    at = file.get("l1_table_offset")
    l1 = list(struct.unpack(f"{order}{entries}Q", read_at(image, at, entries * 8)))
    end = (os.path.getsize(image) + cluster - 1) // cluster * cluster
    for index in range(entries):
        if l1[index] == 0:
            l1[index] = copied | end
            end += step
    write_at(image, at, struct.pack(f"{order}{entries}Q", *l1))
    os.truncate(image, end)


def left_dirty_by_qemu(image, cluster, *create_args, snapshot=False, tables=None, fmt="qcow2"):
    """PATTERN in the first MiB, 0x22 in the one behind it, and QEMU died. tables: how many; 0 for no
    more than that takes."""
    tables = TABLES[fmt][cluster] if tables is None else tables
    size = tables * table_span(cluster, fmt) if tables else 8 * MIB
    options = "lazy_refcounts=on" if fmt == "qcow2" else f"table_size={QED_TABLE_CLUSTERS[cluster]}"
    qemu_img("create", "-q", "-f", fmt, "-o", f"cluster_size={cluster},{options}",
             *create_args, image, str(size))
    if snapshot:
        qemu_io("-f", fmt, "-c", f"write -q -P {PATTERN ^ 1} 0 1536k", image)
        qemu_img("snapshot", "-c", "before", image)
    crash("qemu-io", "-f", fmt, *io_args((f"write -q -P {PATTERN} 0 1M",
                                         "write -q -P 0x22 1M 1M", "flush", "abort")), image)
    if fmt == "qed" and create_args:
        image_file(image).mark()  # which QEMU leaves out where there is a backing file
    check_equal(image_file(image).is_dirty, True, "mark after QEMU died")
    if tables:
        add_empty_tables(image)
    return image


def emptied_image(cluster, *create_args, tables=32768, fmt="qcow2"):
    """As QEMU left it; what QEMU wrote is gone, as no promise names it."""
    image = left_dirty_by_qemu("disk", cluster, *create_args, tables=tables, fmt=fmt)
    crash(oxbow_path(), "io", "-f", fmt, "--recover=auto", "-c", "write -q -z -f 0 2M", "-c",
          "abort", image)
    image_file(image).mark()
    return image


def end_of_extensions(image):
    """Where the extension stands that ends the header's list."""
    file = Qcow2(image)
    at = file.get("header_length")
    for _, data, length in file.extensions():
        at = data + (length + 7) // 8 * 8
    return at


def fence_of(image):
    """The old end that the header's last extension bears; None for none. QED has no place for it."""
    if format_of(image) == "qed":
        return None
    at = end_of_extensions(image)
    if at + 8 + FENCE_BYTES > Qcow2(image).cluster_bytes:
        return None
    kind, length = struct.unpack(">II", read_at(image, at, 8))
    return Qcow2(image).be64(at + 16) if (kind, length) == (0, FENCE_BYTES) else None


def copy_sparse(source, target):
    run("cp", "--sparse=always", source, target)


def was_interrupted(image):
    """Whether the recovery had not ended. The dirty bit alone does not tell: with lazy refcounts the
    image bears it beyond that as well. What has room for a fence has one until the end."""
    if format_of(image) == "qcow2" and Qcow2(image).cluster_bytes >= 4 * KIB:
        return fence_of(image) is not None
    return image_file(image).is_dirty


def interrupt_recovery(image, *commands):
    """oxbow recovers, carries out the commands, of which one allocates, and dies before the recovery
    ends. Where the host lets the recovery run ahead, once more from the beginning."""
    for _ in range(10):
        copy_sparse(image, "attempt")
        crash(oxbow_path(), "io", "-f", format_of(image), "--recover=auto", *io_args(commands), "-c",
              "abort", "attempt")
        if was_interrupted("attempt"):
            os.rename("attempt", image)
            return
    raise Failure("no recovery was interrupted: nothing was tested")


def stamp(image):
    """Changes whenever the file is written to; large files need not be read for that."""
    status = os.stat(image)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def chain_of(image):
    """What QEMU says of an image and its backing files, without what may differ."""
    said = json.loads(output("qemu-img", "info", "-U", "--backing-chain", "--output=json", image))
    return [(layer["virtual-size"], layer["format"], layer.get("backing-filename"),
             layer.get("full-backing-filename"), layer.get("backing-filename-format"),
             [snapshot["name"] for snapshot in layer.get("snapshots", ())]) for layer in said]


def wait_for_line(server, part, seconds=60):
    deadline = time.monotonic() + seconds
    while part not in server.stderr():
        if time.monotonic() > deadline:
            raise Failure(f"{part!r} was never said; stderr is {server.stderr()!r}")
        time.sleep(0.01)


def recover(image):
    """What a server that was told to end has left to the next opening, which waits for it."""
    if image_file(image).is_dirty:
        oxbow("io", "-f", format_of(image), "-c", "flush", image)


__all__ = [name for name in dir() if not name.startswith("_")]
