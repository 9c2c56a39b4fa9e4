#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Checks the tree against the rules of the house and the formatter.

    tools/tidy/tidy.py [--tree DIR]

One line `ok RULE` or `not ok RULE` each, with the breaches before it; exit code 1 for any."""
import argparse
import os
import pathlib
import subprocess
import sys

import rules

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDERS = ("src", "include", "tests", "examples", "tools", "docs", "man")
SUFFIXES = (".c", ".h", ".py", ".sh", ".md", ".build", ".map", ".def", ".1", ".3", ".txt")
TOP = ("dev", ".ci/run")


def read_tree(root):
    """{path: text} of every source and page of the project."""
    paths = [root / name for name in TOP] + [path for path in root.iterdir()
                                             if path.name.endswith(SUFFIXES)]
    for folder in FOLDERS:
        for place, folders, names in os.walk(root / folder):
            folders[:] = [name for name in folders if name not in ("corpus", "__pycache__")]
            paths += [pathlib.Path(place) / name for name in names if name.endswith(SUFFIXES)]
    return {str(path.relative_to(root)): path.read_text() for path in paths if path.is_file()}


def sources_are_formatted(root, tree):
    """clang-format 14 has nothing to change."""
    paths = [path for path, _ in rules.c_files(tree)]
    if not paths:
        return []
    result = subprocess.run(["clang-format-14", "--dry-run", "-Werror", *paths], cwd=root,
                            stderr=subprocess.PIPE, text=True, check=False)
    places = [line.split(":")[0] for line in result.stderr.splitlines() if "error:" in line]
    lines = [f"{path}: {places.count(path)} places" for path in sorted(set(places))]
    return lines or ([result.stderr] if result.returncode else [])


def man_pages_are_well_formed(root, tree):
    """mandoc has nothing to warn of."""
    pages = [path for path in sorted(tree) if path.endswith((".1", ".3"))]
    if not pages:
        return []
    result = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *pages], cwd=root, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result.stdout.splitlines() or ([f"mandoc: {result.returncode}"] * (result.returncode > 0))


def scripts_parse(root, tree):
    """bash and Python can read their scripts."""
    for path, text in sorted(tree.items()):
        if path.endswith(".py"):
            try:
                compile(text, path, "exec")
            except SyntaxError as error:
                yield f"{path}:{error.lineno}: {error.msg}"
        elif text.startswith("#!/bin/bash") or text.startswith("#!/bin/sh"):
            result = subprocess.run(["bash", "-n", path], cwd=root, stderr=subprocess.PIPE,
                                    text=True, check=False)
            if result.returncode:
                yield result.stderr.strip()


def run_checks(root):
    """Returns [(rule, breaches)]."""
    tree = read_tree(root)
    found = [(rule.__name__, list(rule(tree))) for rule in rules.ALL]
    for check in (sources_are_formatted, man_pages_are_well_formed, scripts_parse):
        found.append((check.__name__, list(check(root, tree))))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tree", default=ROOT, type=pathlib.Path)
    failed = 0
    for rule, breaches in run_checks(parser.parse_args().tree):
        for breach in breaches:
            print(breach)
        print(f"not ok {rule}: {len(breaches)} breaches" if breaches else f"ok {rule}")
        failed += bool(breaches)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
