#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The five cache modes mean what the table says: page cache or not, write cache or not, synced or not."""
import re

from interop import *

SYNC_CALLS = "fsync,fdatasync,sync_file_range,syncfs,sync,msync"


def new_image(kind="cluster_size=64k"):
    oxbow("create", "-q", *kind_args(kind), "disk", "64M")
    return "disk"


KINDS = ("cluster_size=64k", "qed:cluster_size=64k")


def open_flags(pid, image):
    """The flags of each descriptor of a process that names the image."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if os.path.basename(target) == image:
            text = pathlib.Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
            found.append(int(re.search(r"flags:\s*(\d+)", text).group(1), 8))
    return found


def test_every_mode_is_taken_and_leaves_the_same_bytes():
    for kind in KINDS:
        for cache in CACHE_MODES:
            image = new_image(kind)
            fmt = format_of(image)
            oxbow("io", "-f", fmt, "-t", cache, "-c", "write -P 0x5a 1000 100000", "-c", "flush",
                  "-c", "read -P 0x5a 1000 100000", "-c", "write -z 50k 10k", "-c", "discard 1M 1M",
                  image)
            qemu_io("-r", "-f", fmt, "-c", "read -P 0x5a 1000 50200", "-c", "read -P 0 50k 10k",
                    image)
            check_closed(image, f"{kind}, {cache}")


def test_an_unknown_mode_is_refused():
    image = new_image()
    expect_failure(oxbow_path(), "io", "-f", "qcow2", "-t", "writearound", "-c", "length", image,
                   message="writearound")
    result = run(oxbow_path(), "serve", "-f", "qcow2", "--cache", "writearound", "--nbd",
                 tmpdir() / "s.sock", image, check=False)
    check_equal(result.returncode, 1, "exit code")
    check_in("writearound", result.stderr, "stderr")


def test_none_and_directsync_bypass_the_page_cache_and_the_others_use_it():
    image = new_image()
    for cache in CACHE_MODES:
        with Server("-f", "qcow2", "--cache", cache, image) as server:
            flags = open_flags(server.server_pid(), image)
            if not flags:
                raise Failure("the server has no descriptor of the image")
            direct = [bool(flag & os.O_DIRECT) for flag in flags]
            if cache in DIRECT_MODES:
                check_in(True, direct, f"O_DIRECT of the descriptors under {cache}")
            else:
                check_equal(any(direct), False, f"O_DIRECT under {cache}")


def test_every_mode_offers_flush_and_fua():
    for kind in KINDS:
        image = new_image(kind)
        for cache in CACHE_MODES:
            with Server("-f", format_of(image), "--cache", cache, image) as server:
                handle = nbd_connect(server.uri)
                check_equal(handle.can_flush(), True, f"whether {cache} offers flush")
                check_equal(handle.can_fua(), True, f"whether {cache} offers FUA")
                handle.pwrite(b"x" * 512, 0)
                handle.flush()
                handle.shutdown()


def test_acknowledged_writes_outlive_a_kill_without_any_flush_in_synchronous_modes():
    for cache in SYNCHRONOUS_MODES:
        for kind in ("compat=0.10", "compat=1.1", "lazy_refcounts=on", "qed:"):
            image = new_image(kind)
            fmt = format_of(image)
            with Server("-f", fmt, "--cache", cache, image) as server:
                handle = nbd_connect(server.uri)
                for at in range(0, 64 * MIB, 7 * MIB + 512):
                    handle.pwrite(b"\x5c" * 3000, at)
                server.kill9()
                wait_until_unlocked("disk")
            commands = [f"read -P 0x5c {at} 3000" for at in range(0, 64 * MIB, 7 * MIB + 512)]
            oxbow("io", "-r", "-f", fmt, *io_args(commands), image)
            oxbow("io", "-f", fmt, "-c", "read 0 512", image)
            qemu_io("-r", "-f", fmt, *io_args(commands), image)


def syncs_during(server, work):
    """How many sync calls, or writes with RWF_DSYNC, the server makes while work() runs."""
    trace = tmpdir() / "trace"
    tracer = subprocess.Popen(["strace", "-f", "-p", str(server.server_pid()), "-o", trace, "-e",
                               f"trace={SYNC_CALLS},pwritev2"], stderr=subprocess.PIPE)
    on_exit(lambda: tracer.poll() is None and tracer.kill())
    os.read(tracer.stderr.fileno(), 100)  # "attached"
    time.sleep(0.2)  # to all threads
    work()
    tracer.send_signal(signal.SIGINT)
    tracer.wait(30)
    tracer.stderr.close()
    text = trace.read_text()
    calls = "|".join(SYNC_CALLS.split(","))
    return len(re.findall(rf"\b(?:{calls})\(", text)) + len(re.findall("RWF_D?SYNC", text))


def syncs_of(cache, work, kind):
    image = new_image(kind)
    with Server("-f", format_of(image), "--cache", cache, image,
                env={"OXBOW_IO": "threads"}) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"w" * 4096, 0)
        count = syncs_during(server, lambda: work(handle))
        handle.shutdown()
    return count


def check_syncs(modes, work, what):
    for kind in KINDS:
        for cache in modes:
            if syncs_of(cache, work, kind) == 0:
                raise Failure(f"{kind}, {cache}: {what} was acknowledged without a sync")


def test_a_write_is_synced_before_it_is_acknowledged_in_synchronous_modes():
    check_syncs(SYNCHRONOUS_MODES, lambda handle: handle.pwrite(b"x" * 4096, MIB), "a write")


def test_a_flush_syncs_in_modes_with_a_write_cache():
    def write_and_flush(handle):
        handle.pwrite(b"x" * 4096, MIB)
        handle.flush()
    check_syncs(("writeback", "none"), write_and_flush, "a flush")


def test_fua_syncs_in_modes_with_a_write_cache():
    import nbd

    check_syncs(("writeback", "none"),
                lambda handle: handle.pwrite(b"x" * 4096, MIB, nbd.CMD_FLAG_FUA), "a FUA write")


def test_unsafe_never_syncs():
    import nbd

    def work(handle):
        for at in range(0, 8 * MIB, MIB):
            handle.pwrite(b"x" * 4096, at, nbd.CMD_FLAG_FUA)
            handle.flush()
    for kind in KINDS:
        check_equal(syncs_of("unsafe", work, kind), 0, f"syncs under unsafe ({kind})")


def test_flushed_writes_are_seen_by_the_next_process_after_a_kill_under_unsafe():
    """No sync is asked for, but the metadata has left the process."""
    for kind in KINDS:
        image = new_image(kind)
        with Server("-f", format_of(image), "--cache", "unsafe", image) as server:
            handle = nbd_connect(server.uri)
            handle.pwrite(b"\x33" * MIB, MIB)
            handle.flush()
            server.kill9()
            wait_until_unlocked("disk")
        oxbow("io", "-r", "-f", format_of(image), "-c", "read -P 0x33 1M 1M", image)


def test_odd_requests_work_without_the_page_cache():
    """O_DIRECT wants aligned I/O; a guest need not know."""
    for cache in DIRECT_MODES:
        commands = [f"write -q -P {7 + n} {n * 70001} {n * 333 + 1}" for n in range(1, 30)]
        reads = [f"read -P {7 + n} {n * 70001} {n * 333 + 1}" for n in range(1, 30)]
        for kind in KINDS:
            image = new_image(kind)
            oxbow("io", "-f", format_of(image), "-t", cache, *io_args(commands + reads), image)
            qemu_io("-r", "-f", format_of(image), *io_args(reads), image)
        with open("disk.raw", "wb") as file:
            file.truncate(4 * MIB)
        oxbow("io", "-f", "raw", "-t", cache, *io_args(commands + reads), "disk.raw")
        check_equal(os.path.getsize("disk.raw"), 4 * MIB, "length of the raw file")


run_tests(globals())
