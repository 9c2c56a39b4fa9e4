#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The runner reports as failed whatever did not plainly pass."""
from harness import *


def run_samples(samples, *args):
    """What the runner makes of the test files {name: text}."""
    tests = tmpdir() / "tree" / "tests"
    tests.mkdir(parents=True)
    for name, text in samples.items():
        (tests / f"test_{name}.py").write_text(text)
    return run("/usr/bin/python3", ROOT / "tools" / "runtests.py", "--tree", tmpdir() / "tree",
               "--build", tmpdir() / "build", *args, check=False)


def run_sample(text, *args):
    return run_samples({"sample": text}, *args)


def check_run(result, last_line, code):
    check_equal(result.stdout.splitlines()[-1], last_line, "last line")
    check_equal(result.returncode, code, "exit code")


def test_single_tests_are_counted():
    check_run(run_sample("print('1..2\\nok 1 - a\\nok 2 - b')"), "2 passed, 0 failed", 0)


def test_what_a_program_wants_shown_stands_once_behind_its_time():
    result = run_sample("print('# shown: under tcg\\nok a\\n# shown: under tcg\\nok b')")
    check_in(" s, under tcg)\n", result.stdout)


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
    result = run_sample("print('ok a', flush=True); import time; time.sleep(60)", "--slower", "0.002")
    check_run(result, "1 passed, 1 failed", 1)


def test_a_program_may_take_as_long_as_it_states():
    sleeps = "print('ok a', flush=True); import time; time.sleep(3)"
    result = run_samples({"short": sleeps, "long": "# runtests: timeout 60000\n" + sleeps},
                         "--slower", "0.001")
    check_in("failed: tests/test_short: (did not end in time)", result.stdout)
    check_run(result, "2 passed, 1 failed", 1)


def test_what_takes_longest_starts_first():
    sample = "# runtests: priority {}, timeout 700\nprint('ok a')"
    result = run_samples({"a": "print('ok a')", "b": sample.format(5), "c": sample.format(60)},
                         "--jobs", "1")
    check_equal([line.split()[1] for line in result.stdout.splitlines()[:-1]],
                ["tests/test_c:", "tests/test_b:", "tests/test_a:"], "order of programs")


def test_the_programs_that_took_longest_are_named_at_the_end():
    slow = {"slow": "import time; time.sleep(2); print('ok a')"}
    result = run_samples({**{f"n{number}": "print('ok a')" for number in range(10)}, **slow})
    longest = [line for line in result.stdout.splitlines() if line.startswith("longest: ")]
    check_equal(len(longest), 1, "lines of the longest")
    check_in("longest: tests/test_slow ", longest[0])
    check_equal(longest[0].count("tests/test_"), 10, "programs named")


def test_the_long_simulation_starts_first_and_has_a_limit_of_its_own():
    sys.path.insert(0, str(ROOT / "tools"))
    import runtests

    build = pathlib.Path(os.environ.get("OXBOW_BUILD", ROOT / "build"))
    first = runtests.all_programs(runtests.parse_arguments(["--build", str(build)]))[0]
    check_equal((first.name, first.timeout > runtests.TIMEOUT_SECONDS), ("sim", True), "first program")


def test_a_file_that_states_what_nobody_knows_ends_the_run():
    expect = run_sample("# runtests: limit 5\nprint('ok a')")
    check_equal(expect.returncode, 1, "exit code")
    check_in("limit 5", expect.stderr)


def test_a_skip_is_no_pass():
    result = run_sample("print('ok a\\nok b # SKIP no such thing here')")
    check_in("skipped: tests/test_sample: b # SKIP", result.stdout)
    check_run(result, "1 passed, 0 failed", 0)


def test_a_name_that_selects_nothing_is_a_failure():
    check_run(run_sample("print('ok a')", "other"), "0 passed, 0 failed", 1)


run_tests(globals())
