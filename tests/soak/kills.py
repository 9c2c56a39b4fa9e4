#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Kills of the worker under load, as many as one likes (tests/interop/worker_kills.py).

    tests/soak/kills.py [--kills N] [--seed N]

N (1000 by default) is how often a process that serves is killed, over engines, cache modes, formats, and
shapes of images. Each turn over all of them has a seed of its own, one more than the last; what went
wrong is told with the seed that repeats the turn, and ends the run."""
import argparse
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "interop")]

import harness
import worker_kills


def run_turn(seed, kills, tally):
    """Whether all went well."""
    for case in worker_kills.cases(seed):
        if tally.kills >= kills:
            break
        reason = harness.run_apart(lambda: worker_kills.run_case(case, seed, tally))
        print(f"{'not ok' if reason else 'ok'} {case}, seed {seed}: {reason or tally}", flush=True)
        if reason:
            return False
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    tally = worker_kills.Tally()
    seed = options.seed
    while tally.kills < options.kills:
        if not run_turn(seed, options.kills, tally):
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
