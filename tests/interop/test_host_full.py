#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The host's file system runs full: an error to the guest, and no promise is broken."""
from hostfs import *

FILE_SYSTEMS = ("ext4", "tmpfs")
KINDS = {
    "version_2": "compat=0.10",
    "version_3": "compat=1.1",
    "lazy": "lazy_refcounts=on",
    "lazy_small_cluster": "lazy_refcounts=on,cluster_size=4k",
    "qed": "qed:",
    "qed_small_cluster": "qed:cluster_size=4k,table_size=2",
}
HOST_BYTES = 12 * MIB
BLOCK = 32 * KIB


def image_on(host, kind, leave=6 * MIB):
    """An empty image on a file system that has `leave` bytes of room, and the file that takes the rest."""
    where = mounted(host, HOST_BYTES)
    image = where / "disk"
    oxbow("create", "-q", *kind_args(kind), image, "64M")
    filler = where / "filler"
    free = os.statvfs(where)
    with open(filler, "wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return image, filler


def cache_modes_of(host):
    """tmpfs of this kernel may have no O_DIRECT."""
    return ("writeback", "none") if host == "ext4" else ("writeback", "writethrough")


def full_and_room_again(host, cache, kind):
    what = f"on {host}, {cache} {kind}"
    image, filler = image_on(host, kind)
    with Server("-f", format_of(image), "-t", cache, image) as server:
        handle = nbd_connect(server.uri)
        written = write_until_full(handle, 0, 64 * MIB, BLOCK)
        if len(written) < 20:
            raise Failure(f"full after {len(written)} blocks {what}")
        check_blocks(handle, written, BLOCK, f"a block that fitted {what}")
        os.unlink(filler)
        handle.pwrite(block_at(60 * MIB, BLOCK), 60 * MIB)
        handle.flush()
        more = list(range(40 * MIB, 41 * MIB, BLOCK))
        for at in more:
            handle.pwrite(block_at(at, BLOCK), at, nbd.CMD_FLAG_FUA)
        check_blocks(handle, written + more + [60 * MIB], BLOCK, f"a block {what}")
        handle.shutdown()
    check_equal(image_file(image).is_dirty, False, f"mark {what}")
    check_leaks_at_most(image, what)
    with Server("-f", format_of(image), "-r", image) as server:
        handle = nbd_connect(server.uri)
        check_blocks(handle, written + more + [60 * MIB], BLOCK, f"a block, opened again {what}")
        handle.shutdown()


def killed_while_full(host, cache, kind):
    what = f"on {host}, {cache} {kind}, killed"
    image, filler = image_on(host, kind)
    with Server("-f", format_of(image), "-t", cache, image) as server:
        handle = nbd_connect(server.uri)
        written = write_until_full(handle, 0, 64 * MIB, BLOCK, nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(image)
    # Recovery may need room for counts; it may be refused, and then nothing is harmed.
    refused = run(oxbow_path(), "io", "-f", format_of(image), "-c", "length", image, check=False)
    if refused.returncode != 0:
        check_in("No space left", refused.stderr, f"refusal {what}")
    os.unlink(filler)
    with Server("-f", format_of(image), "-t", cache, image) as server:
        handle = nbd_connect(server.uri)
        check_blocks(handle, written, BLOCK, f"a durable block {what}")
        handle.pwrite(block_at(60 * MIB, BLOCK), 60 * MIB, nbd.CMD_FLAG_FUA)
        handle.shutdown()
    check_equal(image_file(image).is_dirty, False, f"mark {what}")
    check_leaks_at_most(image, what)


def make_test(scenario, host, kind):
    def test():
        for cache in cache_modes_of(host):
            where = pathlib.Path(cache)
            where.mkdir()
            os.chdir(where)
            scenario(host, cache, kind)
            os.chdir(tmpdir())
    return test


for _host in FILE_SYSTEMS:
    for _name, _kind in KINDS.items():
        globals()[f"test_a_full_{_host}_costs_a_{_name}_image_nothing_that_was_acknowledged"] = (
            make_test(full_and_room_again, _host, _kind))
        globals()[f"test_a_{_name}_image_on_a_full_{_host}_survives_kill_9"] = (
            make_test(killed_while_full, _host, _kind))

needs_root()
run_tests(globals())
