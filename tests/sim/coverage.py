#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Which lines and branches of the engine the simulator takes, by gcov.

    tests/sim/coverage.py --build DIR [--missed] [OPTION OF sim...]

DIR is built with coverage. Prints a table; --missed adds each line whose branch was never taken.
Branches of assertions are left out: one side of theirs is for mistakes."""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SOURCES = ("meta/*.c", "img/mapped/*.c", "img/qcow2/*.c", "img/qed/*.c", "check/mend/counts.c",
           "check/mend/rebuild.c", "check/judge/copied.c", "check/qed/census.c", "check/recovery.c")


def measure(build, source):
    """Returns {line: (times, [times of each branch])}."""
    library = source.relative_to(ROOT / "src").parts[0]
    folder = build / f"src/{library}/libox_{library}.a.p"
    name = "_".join(source.relative_to(ROOT / "src" / library).parts)
    result = subprocess.run(["gcov", "-b", "--json-format", "--stdout", str(folder / f"{name}.gcda")],
                            cwd=build, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    lines = {}
    for file in json.loads(result.stdout)["files"]:
        if (build / file["file"]).resolve() != source:
            continue
        for line in file["lines"]:
            count, branches = lines.get(line["line_number"], (0, []))
            more = [branch["count"] for branch in line["branches"]]
            lines[line["line_number"]] = (max(count, line["count"]), branches + more)
    return lines


def percent(part, whole):
    return f"{part:5}/{whole:<5} {100 * part / whole if whole else 100:5.1f} %"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("--missed", action="store_true", help="list branches that were not taken")
    arguments, options = parser.parse_known_args()
    build = arguments.build.resolve()
    for old in build.rglob("*.gcda"):
        old.unlink()
    subprocess.run([str(build / "tests/sim/sim"), *(options or ["--cuts", "6000"])], check=True)
    missed = []
    print(f"{'source':32} {'lines':>20} {'branches':>20}")
    for source in sorted(path for pattern in SOURCES for path in (ROOT / "src").glob(pattern)):
        name = str(source.relative_to(ROOT / "src"))
        text = source.read_text().splitlines()
        lines = measure(build, source)
        branches = {number: taken for number, (_, taken) in lines.items()
                    if "ox_assert" not in text[number - 1]}
        print(f"{name:32} {percent(sum(n > 0 for n, _ in lines.values()), len(lines)):>20} "
              f"{percent(sum(n > 0 for b in branches.values() for n in b), sum(map(len, branches.values()))):>20}")
        missed += [f"{name}:{number}: {sum(n == 0 for n in taken)} of {len(taken)} not taken: "
                   f"{text[number - 1].strip()}" for number, taken in sorted(branches.items())
                   if 0 in taken]
    if arguments.missed:
        print(*missed, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
