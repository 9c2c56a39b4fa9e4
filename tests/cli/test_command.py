#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The command itself: verbs, help, version."""
from peers import *


def test_the_version_is_printed():
    for args in (("--version",), ("-V",), ("version",)):
        text = output(oxbow_path(), *args)
        if not re.fullmatch(r"oxbow version \d+\.\d+\.\d+\n", text):
            raise Failure(f"{args}: {text!r}")


def test_the_overview_names_every_verb():
    text = output(oxbow_path(), "help")
    table = re.findall(r'^\t\{"([a-z-]+)", ox_cli_\w+, "', (ROOT / "src/cli/main.c").read_text(), re.M)
    check_equal(the_verbs(), table, "the verbs of the overview, and those of the command's table")
    check_equal(output(oxbow_path(), "--help"), text, "--help")
    check_equal(output(oxbow_path(), "-h"), text, "-h")


def test_help_of_a_verb_is_the_same_however_it_is_asked_for():
    for verb in documented_verbs():
        text = output(oxbow_path(), "help", verb)
        check_in("usage: oxbow " + verb, text.lower())
        check_equal(output(oxbow_path(), verb, "--help"), text, f"{verb} --help")
        check_equal(output(oxbow_path(), verb, "-h"), text, f"{verb} -h")


def test_an_unknown_verb_is_refused():
    expect_failure(oxbow_path(), "frobnicate", message="oxbow: Command not found: frobnicate")
    expect_failure(oxbow_path(), "snapshot", "-l", "x", message="Command not found: snapshot: internal snapshots "
                   "are listed by 'info' and copied by 'convert -l'")
    expect_failure(oxbow_path(), "help", "frobnicate", message="Command not found: frobnicate")
    expect_failure(oxbow_path(), "--frobnicate", message="unrecognized option '--frobnicate'")
    expect_failure(oxbow_path(), message="Not enough arguments")


def test_an_unwritable_stdout_is_an_error():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    with open("/dev/full", "w") as full:
        for args in (("info", "disk"), ("info", "--output=json", "disk"), ("map", "disk"),
                     ("check", "disk"), ("help",), ("io", "-c", "length", "disk")):
            result = subprocess.run([oxbow_path(), *args], stdin=subprocess.DEVNULL, stdout=full,
                                    stderr=subprocess.PIPE, check=False)
            check_equal(result.returncode, 1, f"exit code of {args}")
            check_in(b"standard output", result.stderr)


run_tests(globals())
