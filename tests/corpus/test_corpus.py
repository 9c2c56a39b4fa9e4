#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every finding has an image that shows it, and what the check says of it is as expected.

test_corpus.py --accept [NAME...] rewrites what is expected (of the folders with NAME in their
name): look at the difference before it is committed."""
from corpus import *
import itertools
from multiprocessing.pool import ThreadPool

from corpus import DISK

TASKS = 6


def shape(line):
    return re.sub(r"\b(0x)?[0-9a-f]*[0-9][0-9a-f]*\b", "N", line)


def shortened(text):
    """Of many lines alike in a row the first two and the last."""
    out = []
    for _, group in itertools.groupby(text.splitlines(), shape):
        lines = list(group)
        if len(lines) > 5:
            lines[2:-1] = [f"[{len(lines) - 3} more of these]"]
        out += lines
    return "".join(line + "\n" for line in out)


def json_as_text(text):
    """A line for each member and each finding; what the text says anyway is left out."""
    report = json.loads(text)
    listed = report.pop("findings", [])
    lines = [json.dumps({key: value})[1:-1] for key, value in report.items()]
    for finding in listed:
        for key in ("message", "fix", "severity"):
            finding.pop(key, None)
        lines.append(json.dumps(finding))
    return "".join(line + "\n" for line in lines)


def said_of(recipe):
    """What a check, a repair, and a check after it say."""
    folder = tmpdir() / recipe.name
    make(recipe, folder)
    _, before = check(folder, *recipe.options)
    result = oxbow("check", "--output=json", *recipe.options, DISK, check=False, cwd=folder)
    as_json = f"== oxbow check --output=json: exit {result.returncode}\n{json_as_text(result.stdout)}"
    _, repair = check(folder, "-r", "all", *recipe.options)
    again, after = check(folder, *recipe.options)
    is_qed = (recipe.base or "").startswith("qed")
    if again.returncode in ((0, 3) if is_qed else (0,)) and not recipe.qemu_cannot:
        theirs = qemu_img("check", DISK, check=False, cwd=folder)
        # Holes of a QED image that nothing names are leaks to qemu-img, and none to oxbow.
        holes = is_qed and "take no space" in after
        if theirs.returncode != (3 if holes else again.returncode):
            raise Failure(f"{recipe.name}: qemu-img does not call clean what oxbow does: "
                          f"{theirs.stdout}{theirs.stderr}")
    return shortened("\n".join((before, as_json, repair, after)))


def all_said(wanted):
    """Pairs of recipe and what is said of it. Most of the time goes into syncs: several at once."""
    for base in {recipe.base for recipe in wanted if recipe.base}:
        base_folder(base)
    with ThreadPool(TASKS) as pool:
        yield from zip(wanted, pool.map(said_of, wanted))


def accept(names):
    wanted = [recipe for recipe in recipes() if not recipe.elsewhere and
              (not names or any(name in recipe.name for name in names))]
    for recipe, said in all_said(wanted):
        (recipe.folder / "expected").write_text(said)


def test_every_finding_has_an_image_and_every_image_a_finding():
    rows = findings()
    shown = {recipe.finding(rows) for recipe in recipes()}
    check_equal(sorted(set(rows) - shown), [], "findings without a folder")
    for recipe in recipes():
        if recipe.finding(rows) is None:
            raise Failure(f"{recipe.name} shows no finding of findings.def")


def test_the_page_of_findings_is_made_from_the_table():
    run(ROOT / "tools" / "findings" / "findings_doc.py", "--check")


def test_what_is_shown_elsewhere_is_there():
    for recipe in recipes():
        if recipe.elsewhere:
            check_in(recipe.elsewhere[1], (ROOT / recipe.elsewhere[0]).read_text())


def test_each_image_shows_its_finding():
    rows = findings()
    for recipe in recipes():
        if recipe.elsewhere:
            continue
        expected = (recipe.folder / "expected").read_text()
        if not finding_pattern(rows[recipe.finding(rows)]).search(expected):
            raise Failure(f"{recipe.name} does not show its finding")


def test_what_is_said_of_each_image_is_as_expected():
    different = []
    for recipe, said in all_said([recipe for recipe in recipes() if not recipe.elsewhere]):
        if said != (recipe.folder / "expected").read_text():
            different.append(recipe.name)
            print(f"# {recipe.name}:\n" + "".join(f"# {line}\n" for line in said.splitlines()))
    check_equal(different, [], "folders of which something else is said")


if sys.argv[1:2] == ["--accept"]:
    accepted = sys.argv[2:]

    def test_accept():
        accept(accepted)

    run_tests({"test_accept": test_accept}, argv=[])
run_tests(globals())
