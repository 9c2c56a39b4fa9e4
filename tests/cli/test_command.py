#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The command itself: verbs, help, version, its manual."""
from peers import *

VERBS = ("create", "info", "check", "undo", "map", "io", "serve", "help", "version")


def test_the_version_is_printed():
    for args in (("--version",), ("-V",), ("version",)):
        text = output(oxbow_path(), *args)
        if not re.fullmatch(r"oxbow version \d+\.\d+\.\d+\n", text):
            raise Failure(f"{args}: {text!r}")


def test_the_overview_names_every_verb():
    text = output(oxbow_path(), "help")
    for verb in VERBS:
        check_in(f"\n  {verb} ", text)
    check_equal(output(oxbow_path(), "--help"), text, "--help")
    check_equal(output(oxbow_path(), "-h"), text, "-h")


def test_help_of_a_verb_is_the_same_however_it_is_asked_for():
    for verb in VERBS[:-2]:
        text = output(oxbow_path(), "help", verb)
        check_in("usage: oxbow " + verb, text.lower())
        check_equal(output(oxbow_path(), verb, "--help"), text, f"{verb} --help")
        check_equal(output(oxbow_path(), verb, "-h"), text, f"{verb} -h")


def test_an_unknown_verb_is_refused():
    expect_failure(oxbow_path(), "frobnicate", message="oxbow: Command not found: frobnicate")
    expect_failure(oxbow_path(), "help", "frobnicate", message="Command not found: frobnicate")
    expect_failure(oxbow_path(), "--frobnicate", message="unrecognized option '--frobnicate'")
    expect_failure(oxbow_path(), message="Not enough arguments")


def help_options(verb):
    """The options that a verb's help lists: for each, all its spellings, without the first dash."""
    lines = output(oxbow_path(), verb, "--help").splitlines()
    options = [frozenset(re.findall(r"(?:^| )-(-?[a-zA-Z][-a-z0-9]*)", line[:28]))
               for line in lines if line.startswith("  -")]
    check_equal(frozenset(("h", "-help")) in options, True, f"-h in the help of {verb}")
    return options


def flags(text):
    """The options that a manual page names; of -pqU, each letter."""
    words = re.findall(r"\bFl (-?[a-zA-Z][-\w]*)", text)
    return {flag for word in words for flag in ([word] if word.startswith("-") else word)}


def manual_synopses():
    """For each verb, its lines of the synopsis."""
    page = (ROOT / "man" / "oxbow.1").read_text()
    synopses = {}
    for part in page.split("\n.Sh SYNOPSIS")[1].split("\n.Sh ")[0].split("\n.Nm oxbow ")[1:]:
        verb, _, text = part.partition("\n")
        synopses[verb] = synopses.get(verb, "") + text
    return synopses


def manual_sections():
    """For each verb, the section that describes it."""
    page = (ROOT / "man" / "oxbow.1").read_text()
    parts = [part.partition("\n") for part in page.split("\n.Ss oxbow ")[1:]]
    return {verb: text.split("\n.Sh ")[0] for verb, _, text in parts}


def check_spellings(named, options, where, but=()):
    """Each option is named in one spelling at least, and nothing is that is no option."""
    for spellings in options:
        if not spellings & named and not spellings & set(but):
            raise Failure(f"-{min(spellings)} is not in {where}")
    unknown = named - {spelling for spellings in options for spelling in spellings}
    if unknown:
        raise Failure(f"{where}: the help does not know {sorted(unknown)}")


def test_the_synopsis_has_the_options_of_the_help_and_no_others():
    synopses = manual_synopses()
    check_equal(tuple(synopses), VERBS, "the verbs of the synopsis")
    for verb in VERBS[:-2]:
        check_spellings(flags(synopses[verb]), help_options(verb), f"the synopsis of {verb}",
                        but=("h", "V"))


def test_the_manual_describes_the_options_of_the_help_and_no_others():
    sections = manual_sections()
    check_equal(tuple(sections), VERBS, "the verbs of the manual")
    for verb in VERBS[:-2]:
        described = {flag for line in sections[verb].splitlines() if line.startswith(".It Fl ")
                     for flag in flags(line)}
        known = {spelling for spellings in help_options(verb) for spelling in spellings}
        check_equal(sorted(described), sorted(known), f"the options of {verb}")


def test_the_usage_has_the_options_that_are_listed_below_it():
    for verb in VERBS[:-2]:
        usage = re.match(r"(?:usage:| {2,}).*\n(?: {7,}.*\n)*",
                         output(oxbow_path(), verb, "--help")).group()
        if "[OPTION" not in usage:
            named = set(re.findall(r"(?<![\w-])-(-?[a-zA-Z][-a-z0-9]*)", usage))
            check_spellings(named, help_options(verb), f"the usage of {verb}", but=("h",))


def test_the_manual_is_well_formed():
    result = run("mandoc", "-T", "lint", "-W", "warning", ROOT / "man" / "oxbow.1")
    check_equal(result.stdout, "", "complaints")


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
