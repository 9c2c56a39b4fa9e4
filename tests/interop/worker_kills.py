# SPDX-License-Identifier: MIT
"""Kills of the worker under load, over engines, cache modes, formats and shapes of images (D10).

Each *case* is one image and one server with its keeper. Its clients write, zero and trim, and never flush;
the process that serves is killed, now and then its successor as well before anyone could look, and all
that was answered must be read from the next one."""
import itertools
import random
import threading
import typing

from interop import *
from kept import *
from killed_writer import Writer
from promises import Promises

ENGINES = ("uring", "threads")
KINDS = {
    "strict": ("cluster_size=4k", "cluster_size=64k", "cluster_size=1M"),
    "lazy": tuple(f"compat=1.1,lazy_refcounts=on,cluster_size={size}" for size in ("4k", "64k", "1M")),
    "qed": ("qed:cluster_size=4k,table_size=2", "qed:cluster_size=64k", "qed:cluster_size=1M,table_size=2"),
}
KILLS_EACH = 5  # more in a row would be waited for (docs/processes.md)


class Case(typing.NamedTuple):
    engine: str
    cache: str
    kind: str
    backed: bool

    def __str__(self):
        return f"{self.engine} {self.cache} {self.kind}{' over a backing file' if self.backed else ''}"


def cases(turn=0):
    """Every engine, cache mode and format; their shapes change from one to the next, and with the turn."""
    shapes = itertools.cycle(itertools.product(range(3), (False, True)))
    shapes = itertools.islice(shapes, turn % 6, None)
    for kinds in KINDS.values():
        for engine, cache in itertools.product(ENGINES, CACHE_MODES):
            size, backed = next(shapes)
            yield Case(engine, cache, kinds[size], backed)


class Tally:
    """What all cases together have come to."""

    def __init__(self):
        self.kills = self.answered = self.leaks = self.leaking = 0

    def __str__(self):
        return (f"{self.kills} kills, {self.answered} answers, {self.leaks} clusters leaked in "
                f"{self.leaking} qcow2 images")


def make_disk(case):
    data = bytes(DISK_BYTES)
    args = ()
    if case.backed:
        data = pattern("backing", DISK_BYTES)
        pathlib.Path("base.raw").write_bytes(data)
        args = ("-b", "base.raw", "-F", "raw")
    oxbow("create", "-q", *kind_args(case.kind), *args, "disk", str(DISK_BYTES))
    return data


def kill_again_at_once(server, old, rng):
    """Before the next one has served, or hardly; a third that died so would be the keeper's end. Returns
    how often."""
    kills = rng.choice((0, 0, 0, 1, 2))
    for _ in range(kills):
        old = server.worker_after(old)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(old, signal.SIGKILL)
    return kills


def live_and_die(server, case, promises, rng):
    """Returns how many died, and how many requests were answered."""
    writer = Writer(server.uri, promises, case.cache, rng.random(), flushes=False)
    worker = server.worker()
    killer = threading.Timer(rng.uniform(0.02, 0.2), os.kill, (worker, signal.SIGKILL))
    killer.start()
    try:
        writer.run()
    finally:
        killer.join()
    return 1 + kill_again_at_once(server, worker, rng), writer.acknowledged


def options_of(case, rng):
    """Tables that are written at a flush alone, which never comes, or all the time; the same of idleness."""
    return ("-f", split_kind(case.kind)[0], "--cache", case.cache, "--allow-backing",
            "--table-age", rng.choice(("never", "0.05")), "--lazy-idle", rng.choice(("never", "0.1")))


def run_case(case, seed, tally, kills=KILLS_EACH):
    """In the current directory. It makes a "disk" there."""
    rng = random.Random(f"{seed} {case}")
    promises = Promises(make_disk(case), *rng.choice(((4096, 4096), (16 * KIB, 16 * KIB), (1536, 2048))))
    died = answered = 0
    with Kept(*options_of(case, rng), "disk", env={"OXBOW_IO": case.engine}) as server:
        while died < kills:
            deaths, answers = live_and_die(server, case, promises, rng)
            died += deaths
            answered += answers
            data = read_disk(server)
            try:
                promises.check(data)
            except Failure as error:
                raise Failure(f"{error} (after kill {died} of {case}, seed {seed})") from None
            promises.settle(data)
        told = server.stderr()
        check_length(case, "while it is served")
        check_equal(server.terminate(), 0, f"exit code of {case}")
    check_equal(told.count("died of signal 9"), died, f"deaths that were told of {case}")
    check_equal("not closed cleanly" in told, False, f"a recovery of {case}")
    check_closed_disk(case, data, tally)
    tally.kills += died
    tally.answered += answered


def check_length(case, when):
    """What the disk takes, as much again that was freed and waits for a commit, which nobody asks for, the
    largest reserve, and one that was adopted; tables. However many have died."""
    cluster = image_file("disk").cluster_bytes
    reserve = max(min(64 * MIB // cluster, 4096), 8) * cluster
    if os.stat("disk").st_size > 2 * (DISK_BYTES + reserve) + 16 * cluster + MIB:
        raise Failure(f"the file has {os.stat('disk').st_size} bytes {when} ({case})")


def leaks_of(path):
    said = run(oxbow_path(), "check", "-f", format_of(path), "--output", "json", path, check=False)
    return json.loads(said.stdout).get("leaks", 0)


def check_closed_disk(case, data, tally):
    check_equal(image_file("disk").is_dirty, False, f"mark after the close of {case}")
    check_codes("disk", (0, 3), f"after the close of {case}")
    check_length(case, "in the end")
    # QED keeps no record of what is free amid the file: any close may lose what was freed.
    leaks = 0 if case.kind.startswith("qed:") else leaks_of("disk")
    tally.leaks += leaks
    tally.leaking += leaks > 0
    check_bytes(guest_bytes_by_qemu("disk"), data, f"{case}, as QEMU reads it")
