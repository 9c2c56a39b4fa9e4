#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The mutants are changes of the sources' text: one that no longer applies would prove nothing."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import *
import mutants


def test_every_mutant_applies_to_the_sources():
    for mutant in mutants.MUTANTS:
        text = mutants.source_of(mutant).read_text()
        try:
            changed = mutants.mutate(text, mutant.edits, mutant.name)
        except SystemExit as error:
            raise Failure(str(error)) from None
        if changed == text:
            raise Failure(f"mutant {mutant.name} changes nothing")


def test_every_mutant_has_a_name_of_its_own_and_a_test_that_is_there():
    names = [mutant.name for mutant in mutants.MUTANTS]
    check_equal(sorted(names), sorted(set(names)), "names")
    for mutant in mutants.MUTANTS:
        if mutant.test and not (ROOT / "tests" / "unit" / f"test_{mutant.test}.c").exists():
            raise Failure(f"mutant {mutant.name} names the unit test {mutant.test}, which is not there")
        if not mutant.test and not set(mutant.formats) <= set(mutants.FORMATS):
            raise Failure(f"mutant {mutant.name} names formats that there are not: {mutant.formats}")


def test_every_rule_and_hazard_has_a_mutant():
    rules = {f"D{n}" for n in range(1, 11)} | {f"H{n}" for n in range(1, 12)} | {"S1"}
    check_equal(rules - {mutant.rule for mutant in mutants.MUTANTS}, set(), "those without")


run_tests(globals())
