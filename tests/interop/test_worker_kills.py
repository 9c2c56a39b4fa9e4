#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 90
"""More than a hundred kills of the process that serves: nothing that it answered is lost (D10)."""
import nbd

from recovery_images import *
from worker_kills import *


def test_a_hundred_kills_lose_no_answered_request():
    tally = Tally()
    for case in cases():
        run_case(case, 0, tally)
        for name in ("disk", "base.raw"):
            pathlib.Path(name).unlink(missing_ok=True)
    print(f"# {tally}")
    # A death between two notes of one cluster leaks it; that is a few instructions.
    if tally.kills < 100 or tally.leaking > 1:
        raise Failure(str(tally))


# ---- while the image is recovered ----

PLACES = 60


def overwrite_until_killed(server, rng, places, written):
    """Each place over and over. Nothing is flushed."""
    handle = nbd_connect(server.uri)
    for number in range(rng.randrange(PLACES, 2 * PLACES)):
        at = places[number % PLACES]
        data = rng.randbytes(4096)
        handle.pwrite(data, at)
        written[at] = data
    server.kill_worker()


def check_written(server, written, when):
    handle = nbd_connect(server.uri)
    for at, data in written.items():
        check_bytes(bytes(handle.pread(4096, at)), data, f"{at:#x} {when}")
    handle.shutdown()


def test_kills_amid_a_recovery_have_no_table_copied_again():
    use_memory()
    image = emptied_image(4 * KIB, tables=131072)
    before = os.stat(image).st_size
    places = [n * table_span(4 * KIB) + 64 * KIB for n in range(PLACES)]
    rng = random.Random("recovery")
    written = {}
    with Kept("-f", "qcow2", "--table-age", "never", image) as server:
        for _ in range(8):
            overwrite_until_killed(server, rng, places, written)
        check_written(server, written, "after the kills")
        interrupted = server.stderr().count(BEGAN["qcow2"]) - 1
        wait_for_line(server, ENDED["qcow2"])
        longer = (os.stat(image).st_size - before) // (4 * KIB)
        check_written(server, written, "in the end")
    print(f"# {longer} clusters more, {interrupted} recoveries were interrupted")
    if interrupted < 4:
        raise Failure("hardly a recovery was interrupted: nothing was tested")
    # Each place has taken a cluster and a copy of its table; the reserve is as large as that, about.
    if longer > 2 * 2 * PLACES + 8:
        raise Failure(f"the file has {longer} clusters more")
    check_equal(fence_of(image), None, "fence")
    check_closed(image)


run_tests(globals())
