#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The runner reports as failed whatever did not plainly pass."""
from harness import *


def run_sample(text, *args):
    tests = tmpdir() / "tree" / "tests"
    tests.mkdir(parents=True)
    (tests / "test_sample.py").write_text(text)
    return run("/usr/bin/python3", ROOT / "tools" / "runtests.py", "--tree", tmpdir() / "tree",
               "--build", tmpdir() / "build", *args, check=False)


def check_run(result, last_line, code):
    check_equal(result.stdout.splitlines()[-1], last_line, "last line")
    check_equal(result.returncode, code, "exit code")


def test_single_tests_are_counted():
    check_run(run_sample("print('1..2\\nok 1 - a\\nok 2 - b')"), "2 passed, 0 failed", 0)


def test_a_failed_test_is_named_and_its_output_shown():
    result = run_sample("print('why\\nok a\\nnot ok b: x'); raise SystemExit(1)")
    check_in("    why\n", result.stdout)
    check_in("failed: tests/test_sample: b: x\n", result.stdout)
    check_run(result, "1 passed, 1 failed", 1)


def test_a_death_before_the_end_of_the_plan_is_a_failure():
    check_run(run_sample("print('1..2\\nok 1 - a')"), "1 passed, 1 failed", 1)


def test_an_exit_code_without_a_failed_line_is_a_failure():
    check_run(run_sample("print('ok a'); raise SystemExit(1)"), "1 passed, 1 failed", 1)


def test_a_program_that_tests_nothing_is_a_failure():
    check_run(run_sample("pass"), "0 passed, 1 failed", 1)


def test_a_program_that_does_not_end_is_a_failure():
    result = run_sample("print('ok a', flush=True); import time; time.sleep(60)", "--timeout", "1")
    check_run(result, "1 passed, 1 failed", 1)


def test_a_skip_is_no_pass():
    result = run_sample("print('ok a\\nok b # SKIP no such thing here')")
    check_in("skipped: tests/test_sample: b # SKIP", result.stdout)
    check_run(result, "1 passed, 0 failed", 0)


def test_a_name_that_selects_nothing_is_a_failure():
    check_run(run_sample("print('ok a')", "other"), "0 passed, 0 failed", 1)


run_tests(globals())
