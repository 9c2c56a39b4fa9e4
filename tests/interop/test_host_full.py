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
}
HOST_BYTES = 12 * MIB
BLOCK = 32 * KIB


def image_on(kind, options, leave=6 * MIB):
    """An empty image on a file system that has `leave` bytes of room, and the file that takes the rest."""
    where = mounted(kind, HOST_BYTES)
    image = where / "disk.qcow2"
    oxbow("create", "-q", "-f", "qcow2", "-o", options, image, "64M")
    filler = where / "filler"
    free = os.statvfs(where)
    with open(filler, "wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return image, filler


def check_leaks_at_most(image, what):
    """An image that is not lazy may leak after a crash or a failure, and no more."""
    for command in (oxbow_path(), "qemu-img"):
        result = run(command, "check", "-f", "qcow2", image, check=False)
        if result.returncode not in (0, 3):
            raise Failure(f"{command} check exits with {result.returncode} {what}: "
                          f"{(result.stdout + result.stderr)[-2000:]}")
    if result.returncode == 3:
        oxbow("check", "-q", "-r", "leaks", "-f", "qcow2", image)
        check_clean(image, what)


def cache_modes_of(kind):
    """tmpfs of this kernel may have no O_DIRECT."""
    return ("writeback", "none") if kind == "ext4" else ("writeback", "writethrough")


def full_and_room_again(kind, cache, options):
    what = f"on {kind}, {cache} {options}"
    image, filler = image_on(kind, options)
    with Server("-f", "qcow2", "-t", cache, image) as server:
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
    check_equal(Qcow2(image).is_dirty, False, f"dirty bit {what}")
    check_leaks_at_most(image, what)
    with Server("-f", "qcow2", "-r", image) as server:
        handle = nbd_connect(server.uri)
        check_blocks(handle, written + more + [60 * MIB], BLOCK, f"a block, opened again {what}")
        handle.shutdown()


def killed_while_full(kind, cache, options):
    what = f"on {kind}, {cache} {options}, killed"
    image, filler = image_on(kind, options)
    with Server("-f", "qcow2", "-t", cache, image) as server:
        handle = nbd_connect(server.uri)
        written = write_until_full(handle, 0, 64 * MIB, BLOCK, nbd.CMD_FLAG_FUA)
        server.kill9()
    wait_until_unlocked(image)
    # Recovery may need room for counts; it may be refused, and then nothing is harmed.
    refused = run(oxbow_path(), "io", "-f", "qcow2", "-c", "length", image, check=False)
    if refused.returncode != 0:
        check_in("No space left", refused.stderr, f"refusal {what}")
    os.unlink(filler)
    with Server("-f", "qcow2", "-t", cache, image) as server:
        handle = nbd_connect(server.uri)
        check_blocks(handle, written, BLOCK, f"a durable block {what}")
        handle.pwrite(block_at(60 * MIB, BLOCK), 60 * MIB, nbd.CMD_FLAG_FUA)
        handle.shutdown()
    check_equal(Qcow2(image).is_dirty, False, f"dirty bit {what}")
    check_leaks_at_most(image, what)


def make_test(scenario, kind, options):
    def test():
        for cache in cache_modes_of(kind):
            where = pathlib.Path(cache)
            where.mkdir()
            os.chdir(where)
            scenario(kind, cache, options)
            os.chdir(tmpdir())
    return test


for _kind in FILE_SYSTEMS:
    for _name, _options in KINDS.items():
        globals()[f"test_a_full_{_kind}_costs_a_{_name}_image_nothing_that_was_acknowledged"] = (
            make_test(full_and_room_again, _kind, _options))
        globals()[f"test_a_{_name}_image_on_a_full_{_kind}_survives_kill_9"] = (
            make_test(killed_while_full, _kind, _options))

needs_root()
run_tests(globals())
