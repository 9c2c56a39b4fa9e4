#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The harness itself: a harness that cannot fail proves nothing."""
from harness import *


def run_sample(text):
    sample = tmpdir() / "sample.py"
    sample.write_text("from harness import *\n" + text + "\nrun_tests(globals())\n")
    env = dict(os.environ, PYTHONPATH=str(ROOT / "tests"))
    return subprocess.run([sys.executable, sample], env=env, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_passing_tests_are_counted_and_exit_0():
    result = run_sample("def test_a(): pass\ndef test_b(): pass")
    check_equal(result.stdout, "ok test_a\nok test_b\n2 passed, 0 failed\n")
    check_equal(result.returncode, 0, "exit code")


def test_a_failing_test_is_named_with_its_reason_and_exits_1():
    result = run_sample("def test_a(): check_equal(1, 2, 'sum')\ndef test_b(): pass")
    check_in("not ok test_a: Failure: sum is 1, expected 2\n", result.stdout)
    check_in("\n1 passed, 1 failed\n", result.stdout)
    check_equal(result.returncode, 1, "exit code")


def test_sys_exit_in_a_test_is_a_failure():
    result = run_sample("def test_a(): sys.exit(0)")
    check_in("not ok test_a", result.stdout)
    check_equal(result.returncode, 1, "exit code")


def test_a_file_without_tests_fails():
    check_equal(run_sample("").returncode, 1, "exit code")


def test_each_test_has_a_fresh_directory_that_is_removed():
    result = run_sample("""
def test_a():
    pathlib.Path('left').write_text('x')
    print(tmpdir())
def test_b():
    check_equal(list(tmpdir().iterdir()), [])
""")
    check_equal(result.returncode, 0, "exit code")
    check_equal(os.path.exists(result.stdout.splitlines()[0]), False, "directory exists")


def test_cleanups_run_after_a_failure_last_in_first_out():
    result = run_sample("""
def test_a():
    on_exit(lambda: print('first'))
    on_exit(lambda: print('second'))
    raise Failure('x')
""")
    check_in("second\nfirst\n", result.stdout)


def test_a_command_that_dies_by_a_signal_fails_even_unchecked():
    result = run_sample("def test_a(): run('sh', '-c', 'kill -SEGV $$', check=False)")
    check_in("not ok test_a", result.stdout)


def test_a_sanitizer_report_fails_even_unchecked():
    result = run_sample("def test_a(): run('echo', 'x.c:1:2: runtime error: y', check=False)")
    check_in("not ok test_a", result.stdout)


def fake_server(text):
    program = tmpdir() / "fake"
    program.write_text("#!/bin/sh\n" + text + "\n")
    program.chmod(0o755)
    before = os.environ.get("OXBOW")
    os.environ["OXBOW"] = str(program)
    on_exit(lambda: os.environ.pop("OXBOW") if before is None
            else os.environ.__setitem__("OXBOW", before))


def test_a_server_is_waited_for_until_its_uri():
    fake_server("sleep 0.1; echo 'try: x'; echo nbd+unix:///?socket=/s; exec sleep 60")
    with Server("disk") as server:
        check_equal(server.uri, "nbd+unix:///?socket=/s")
        server.kill9()


def test_a_server_that_exits_at_its_start_is_a_failure_with_its_stderr():
    fake_server("echo no such image >&2; exit 1")
    try:
        with Server("disk"):
            pass
    except Failure as error:
        check_in("no such image", str(error))
        return
    raise Failure("not noticed")


def test_a_server_that_dies_unasked_is_a_failure():
    fake_server("echo nbd://127.0.0.1:1/x; exit 3")
    try:
        with Server("--nbd", "127.0.0.1:1", "disk") as server:
            server.process.wait()
    except Failure as error:
        check_in("died with 3", str(error))
        return
    raise Failure("not noticed")


run_tests(globals())
