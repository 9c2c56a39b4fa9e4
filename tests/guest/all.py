#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""./dev guest --all: a guest's life in every cache mode, lazy and not, as the rows of a table in Markdown."""
import argparse
import datetime

from life import *

HEAD = "| cache | lazy refcounts | accelerator | day | kills | files fsynced | minutes | result |"


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="./dev guest --all")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"in each life ({KILLS})")
    parser.add_argument("--cache", choices=CACHE_MODES, action="append", help="only this mode; may be repeated")
    parser.add_argument("--lazy", choices=("on", "off"), help="only with lazy refcounts, or without")
    return parser.parse_args(argv)


def live(cache, lazy, kills):
    """A row of the table, and whether all was well."""
    files = "-"
    began = time.monotonic()

    def life():
        nonlocal files
        files = Life(cache, lazy, kills).go_through()

    reason = harness.run_apart(life)
    minutes = (time.monotonic() - began) / 60
    cells = (f"`{cache}`", "on" if lazy else "off", accelerator(), datetime.date.today().isoformat(), kills,
             files, f"{minutes:.1f}", reason or "all as it should be")
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    return reason is None


def main(argv):
    options = parse_arguments(argv)
    print(HEAD)
    print("|" + "---|" * (HEAD.count("|") - 1), flush=True)
    kinds = {"on": (True,), "off": (False,)}.get(options.lazy, (True, False))
    results = [live(cache, lazy, options.kills) for cache in options.cache or CACHE_MODES for lazy in kinds]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
