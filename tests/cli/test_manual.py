#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The manual: a page for the command and one for each verb, whose options are those of the help."""
from peers import *

MAN = ROOT / "man"


def page_of(verb):
    path = MAN / f"oxbow-{verb}.1"
    if not path.exists():
        raise Failure(f"{verb} has no page {path.relative_to(ROOT)}")
    return path.read_text()


def section(page, name):
    return page.partition(f"\n.Sh {name}\n")[2].split("\n.Sh ")[0]


def flags(text):
    """The options that a manual page names; of -pqU, each letter."""
    words = re.findall(r"\bFl (-?[a-zA-Z0-9][-\w]*)", text)
    return {flag for word in words for flag in ([word] if word.startswith("-") else word)}


def check_spellings(named, options, where, but=()):
    """Each option is named in one spelling at least, and nothing is that is no option."""
    for spellings in options:
        if not spellings & named and not spellings & set(but):
            raise Failure(f"-{min(spellings)} is not in {where}")
    unknown = named - {spelling for spellings in options for spelling in spellings}
    if unknown:
        raise Failure(f"{where}: the help does not know {sorted(unknown)}")


def test_every_verb_has_a_page_that_begins_as_the_others_do():
    for verb in documented_verbs():
        page = page_of(verb)
        for line in (f".Dt OXBOW-{verb.upper()} 1", f".Nm oxbow-{verb}", f".Nm oxbow {verb}"):
            check_in(f"\n{line}\n", page, f"the page of {verb}")
        for name in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"):
            check_in(f"\n.Sh {name}\n", page, f"the page of {verb}")


def test_the_page_of_the_command_leads_to_every_verb():
    page = (MAN / "oxbow.1").read_text()
    led_to = re.findall(r"^\.It Xr oxbow-(\S+) 1$", section(page, "VERBS"), re.M)
    check_equal(sorted(led_to), sorted(documented_verbs()), "the verbs of oxbow.1")


def test_every_page_is_installed_and_every_reference_leads_to_one():
    pages = sorted(path.name for path in MAN.glob("*.[1-8]"))
    listed = re.findall(r"'([^']+)'", (MAN / "meson.build").read_text())
    check_equal(sorted(listed), pages, "the pages that man/meson.build installs")
    for path in MAN.glob("*.[1-8]"):
        for name, number in re.findall(r"\bXr (oxbow\S*) (\d)", path.read_text()):
            check_in(f"{name}.{number}", pages, f"the references of {path.name}")


def test_no_page_is_about_a_verb_that_is_not_there():
    verbs = {path.stem.partition("-")[2] for path in MAN.glob("oxbow-*.1")} - {"compat", "corrupt"}
    check_equal(sorted(verbs), sorted(documented_verbs()), "verbs with a page")


def test_the_synopsis_has_the_options_of_the_help_and_no_others():
    for verb in documented_verbs():
        check_spellings(flags(section(page_of(verb), "SYNOPSIS")), help_options(verb),
                        f"the synopsis of {verb}", but=("h", "V"))


def test_the_page_describes_the_options_of_the_help_and_no_others():
    for verb in documented_verbs():
        described = {flag for line in page_of(verb).splitlines() if line.startswith(".It Fl ")
                     for flag in flags(line)}
        known = {spelling for spellings in help_options(verb) for spelling in spellings}
        check_equal(sorted(described), sorted(known), f"the options of {verb}")


def test_the_usage_has_the_options_that_are_listed_below_it():
    for verb in documented_verbs():
        usage = re.match(r"(?:usage:| {2,}).*\n(?: {7,}.*\n)*",
                         output(oxbow_path(), verb, "--help")).group()
        if "[OPTION" not in usage:
            named = set(re.findall(r"(?<![\w-])-(-?[a-zA-Z][-a-z0-9]*)", usage))
            check_spellings(named, help_options(verb), f"the usage of {verb}", but=("h",))


def test_the_pages_are_well_formed():
    for path in MAN.glob("*.[1-8]"):
        result = run("mandoc", "-T", "lint", "-W", "warning", path)
        check_equal(result.stdout, "", f"complaints about {path.name}")


run_tests(globals())
