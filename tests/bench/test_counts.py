#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a state costs a request, counted (D10): at most 3 % more instructions, and no write or sync more."""
import counts
from harness import *

REQUESTS = 1024


def test_a_state_costs_few_instructions_and_no_write_or_sync():
    if "asan" in oxbow_path():
        print("# valgrind does not bear sanitizers")
        return
    for kind, load in (("qcow2", "alloc"), ("qed", "alloc"), ("qcow2", "write")):
        without, held = counts.compare(tmpdir(), kind, load, 1, REQUESTS)
        print(f"# {kind} {load}: {without[0]:.0f} instructions, with a state {held[0]:.0f}")
        # Where a refill falls is a matter of time, and there are five for 1000 requests.
        if any(more > before + 0.004 for before, more in zip(without[1:], held[1:])):
            raise Failure(f"writes and syncs a request of {kind} {load}: {without[1:]}, now {held[1:]}")
        if held[0] > 1.03 * without[0]:
            raise Failure(f"a request of {kind} {load} takes {held[0]:.0f} instructions with a state, "
                          f"{without[0]:.0f} without")
        if load == "alloc" and held[0] <= without[0]:
            raise Failure("no note costs anything: nothing was tested")


run_tests(globals())
