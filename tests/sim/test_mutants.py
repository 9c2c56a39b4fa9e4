#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The mutants are changes of the sources' text: one that no longer applies would prove nothing."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import *
import mutants


def test_every_mutant_applies_to_the_sources():
    for name, _, path, edits, _, _ in mutants.MUTANTS:
        text = (ROOT / "src" / path).read_text()
        try:
            changed = mutants.mutate(text, edits, name)
        except SystemExit as error:
            raise Failure(str(error)) from None
        if changed == text:
            raise Failure(f"mutant {name} changes nothing")


def test_every_mutant_has_a_name_of_its_own_and_a_test_that_is_there():
    names = [name for name, *_ in mutants.MUTANTS]
    check_equal(sorted(names), sorted(set(names)), "names")
    for name, *_, test in mutants.MUTANTS:
        if test and not (ROOT / "tests" / "unit" / f"test_{test}.c").exists():
            raise Failure(f"mutant {name} names the unit test {test}, which is not there")


def test_every_rule_and_hazard_has_a_mutant():
    rules = {f"D{n}" for n in range(1, 10)} | {f"H{n}" for n in range(1, 12)} | {"S1"}
    check_equal(rules - {rule for _, rule, *_ in mutants.MUTANTS}, set(), "those without")


run_tests(globals())
