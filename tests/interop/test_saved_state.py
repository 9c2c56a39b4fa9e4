#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 40
"""A state that no worker could adopt: the keeper saves it, and `oxbow serve --state` goes on (docs/processes.md)."""
import resource
import stat

from interop import *
from kept import *

UNFLUSHED = ("-t", "writeback", "--table-age", "never", "--lazy-idle", "never")
GIVEN_UP = "in a row died before they could serve 'disk'"


def states(place="."):
    return sorted(str(path) for path in pathlib.Path(place).glob("*.state"))


def fill(server, seed):
    data = pattern(seed, DISK_BYTES)
    handle = nbd_connect(server.uri)
    for at in range(0, DISK_BYTES, MIB):
        handle.pwrite(data[at:at + MIB], at)
    handle.shutdown()
    return data


def give_up(server):
    """Three workers die before they serve: what the keeper starts has no room for its libraries."""
    if "asan" in oxbow_path():  # a sanitizer's keeper has no room for itself then
        while server.process.poll() is None:
            for pid in children_of(server.keeper):
                os.kill(pid, signal.SIGKILL)
    else:
        resource.prlimit(server.keeper, resource.RLIMIT_AS, (MIB, MIB))
        server.kill_worker()
    check_equal(server.wait(20), 1, "exit code")
    check_in(GIVEN_UP, server.stderr())


def given_up(*args, seed="saved", **kwargs):
    """A disk whose answered writes are in the saved state alone; their bytes."""
    with kept_disk(*UNFLUSHED, *args, **kwargs) as server:
        data = fill(server, seed)
        give_up(server)
        told = server.stderr()
    (path,) = states(kwargs.get("place", "."))
    check_in("--state", told)
    check_in(os.path.basename(path), told)
    return data, path


def serve_on(path, data, kind="qcow2"):
    with Kept(*UNFLUSHED, "--state", path, "-f", kind, "disk") as server:
        check_bytes(read_disk(server), data, "what was answered")
        check_equal(states(), [path], "the state, while it is served")
        check_equal("not closed cleanly" in server.stderr(), False, "a recovery")
    check_equal(states(), [], "states after the clean end")
    check_in(oxbow("check", "-f", kind, "disk", check=False).returncode, (0, 3), "the check")
    check_bytes(guest_bytes_by_oxbow("disk"), data, "the disk afterwards")


def test_what_no_worker_could_adopt_is_saved_and_served_on():
    for kind in ("", "qed:", "lazy_refcounts=on"):
        data, path = given_up(kind=kind)
        check_equal(stat.S_IMODE(os.stat(path).st_mode), 0o600, "its mode")
        if kind == "qed:":
            serve_on(path, data, "qed")
        else:
            serve_on(path, data)
        os.unlink("disk")


def test_nobody_serves_without_it():
    data, path = given_up()
    os.rename("disk", "renamed")
    for args in (["--keeper"], ["--no-keeper"], ["--keeper", "-r"], ["--no-keeper", "-r"]):
        expect_failure(oxbow_path(), "serve", *args, "--nbd", "x", "renamed", message=path,
                       env=dict(os.environ, RUNTIME_DIRECTORY="."))
    os.rename("renamed", "disk")
    serve_on(path, data)


def test_it_lies_beside_the_pid_file():
    os.mkdir("run")
    with kept_disk(*UNFLUSHED, "--pid-file", "run/pid") as server:
        data = fill(server, "pid")
        give_up(server)
    (path,) = states("run")
    check_equal(states(), [], "states elsewhere")
    expect_failure(oxbow_path(), "serve", "--no-keeper", "--pid-file", "run/pid", "--nbd", "x", "disk", message=path)
    with Kept(*UNFLUSHED, "--pid-file", "run/pid", "--state", path, "disk") as server:
        check_bytes(read_disk(server), data, "what was answered")
    check_equal(states("run"), [], "states after the clean end")


def test_who_removes_it_gives_it_up():
    data, path = given_up()
    os.unlink(path)
    with Kept(*UNFLUSHED, "disk") as server:
        check_equal(read_disk(server) == data, False, "whether all is there")


def test_it_is_of_no_use_to_an_image_that_was_changed():
    data, path = given_up()
    before = pathlib.Path(path).read_bytes()
    with open("disk", "r+b") as image:
        byte = image.read(1)
        image.seek(0)
        image.write(byte)
    expect_failure(oxbow_path(), "serve", "--keeper", "--nbd", "x", "--state", path, "disk", message="was changed since")
    oxbow("create", "-q", "-f", "qcow2", "other", "8M")
    expect_failure(oxbow_path(), "serve", "--keeper", "--nbd", "x", "--state", path, "other", message="another image")
    check_equal(pathlib.Path(path).read_bytes() == before, True, "the state is left as it was")
    check_equal(states(), [path], "states")


def test_a_file_that_is_no_state_is_refused():
    oxbow("create", "-q", "-f", "qcow2", "disk", "8M")
    fingerprint_before = fingerprint("disk")
    os.mkdir("dir")
    os.mkfifo("fifo")
    pathlib.Path("short").write_bytes(b"oxbowsv\0")
    pathlib.Path("text").write_bytes(b"state" * 10000)
    with open("huge", "wb") as huge:
        huge.write(b"oxbowsv\0")
        huge.truncate(1 << 40)
    for path in ("dir", "fifo", "short", "text", "huge", "/dev/zero"):
        expect_failure(oxbow_path(), "serve", "--keeper", "--nbd", "x", "--state", path, "disk",
                       message="is no state that a server has saved")
    expect_failure(oxbow_path(), "serve", "--keeper", "--nbd", "x", "--state", "none", "disk", message="No such file")
    expect_failure(oxbow_path(), "serve", "--no-keeper", "--nbd", "x", "--state", "x", "disk", message="--no-keeper")
    check_equal(fingerprint("disk"), fingerprint_before, "the image")


def spoil(path):
    """Makes the state one that no library adopts; what is at that place is the caller's to restore."""
    with open(path, "r+b") as state:
        state.seek(4096)
        kept = state.read(8)
        state.seek(4096)
        state.write(b"spoiled\0")
    return kept


def test_a_state_that_the_library_refuses_stays():
    data, path = given_up()
    kept = spoil(path)
    changed = os.stat("disk").st_mtime_ns
    result = expect_failure(oxbow_path(), "serve", "--keeper", *UNFLUSHED, "--nbd", "x", "--state", path, "disk",
                            message="The state cannot be used", env=dict(os.environ, RUNTIME_DIRECTORY="."))
    check_equal(os.stat("disk").st_mtime_ns, changed, "when the image was changed")
    (second,) = states()  # of a name that was free; the old one has nothing more
    check_in(second, result.stderr)
    with open(second, "r+b") as state:
        state.seek(4096)
        state.write(kept)
    serve_on(second, data)


def test_a_worker_that_cannot_adopt_what_the_dead_one_left_costs_nothing():
    with kept_disk(*UNFLUSHED) as server:
        data = fill(server, "hostile")
        with open(memory_of(server, "state"), "r+b") as state:
            magic = state.read(8)
            state.seek(0)
            state.write(b"spoiled\0")
        server.kill_worker()
        check_equal(server.wait(20), 1, "exit code")
        check_in("The state cannot be used", server.stderr())
    (path,) = states()
    with open(path, "r+b") as state:
        state.seek(4096)
        state.write(magic)
    serve_on(path, data)


def test_nothing_is_ever_written_over():
    data, path = given_up()
    other = pathlib.Path(path).read_bytes()
    os.rename(path, "aside")
    pathlib.Path(path).write_bytes(b"somebody else's")
    with Kept(*UNFLUSHED, "--state", "aside", "disk") as server:
        check_bytes(read_disk(server), data, "what was answered")
        data = fill(server, "again")
        give_up(server)
    check_equal(pathlib.Path(path).read_bytes(), b"somebody else's", "what lay there")
    os.unlink(path)
    check_equal(os.path.exists("aside"), False, "whether the old one is left")
    (second,) = states()
    serve_on(second, data)


def test_what_is_saved_is_lost_with_no_second_death():
    """The server that adopted it dies and is followed like any other."""
    data, path = given_up()
    with Kept(*UNFLUSHED, "--state", path, "disk") as server:
        for _ in range(2):
            server.next_worker(server.kill_worker())
            check_bytes(read_disk(server), data, "what was answered")
    check_equal(states(), [], "states after the clean end")


def test_nothing_is_saved_where_nothing_was_served():
    oxbow("create", "-q", "-f", "qcow2", "disk", "8M")
    pathlib.Path("disk").write_bytes(b"no image" * 100)
    expect_failure(oxbow_path(), "serve", "--keeper", "--nbd", "x", "disk", env=dict(os.environ, RUNTIME_DIRECTORY="."))
    check_equal(states(), [], "states")


def test_a_sync_that_fails_makes_the_state_worth_nothing():
    inject = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO")
    with kept_disk(*UNFLUSHED, wrapper=inject, env={"ASAN_OPTIONS": "detect_leaks=0"}) as server:
        fill(server, "unsynced")
        give_up(server)
        check_in("a sync of 'disk' failed", server.stderr())
    check_equal(states(), [], "states")


run_tests(globals())
