#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the table of docs/findings.md from src/check/journal/findings.def; the rest of the page stays.

    findings_doc.py            rewrites the page
    findings_doc.py --check    exits with 1 where it is not what would be written
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "findings.md"
TABLE = ROOT / "src" / "check" / "journal" / "findings.def"
BEGIN = "<!-- from src/check/journal/findings.def: tools/findings/findings_doc.py writes this part -->\n"
END = "<!-- end of that part -->\n"
TOKEN = re.compile(r'/\*.*?\*/|OX_FINDING\(|"((?:[^"\\]|\\.)*)"|[A-Za-z_0-9]+|[,)]', re.S)


def rows(text):
    """Yields ("section", title) and ("row", the eight columns)."""
    columns = None
    for token in TOKEN.finditer(text):
        word = token.group(0)
        if word.startswith("/*"):
            title = " ".join(word[2:-2].replace("\n *", " ").split())
            if columns is None and "SPDX" not in title and "OX_FINDING" not in title:
                yield "section", title
        elif word == "OX_FINDING(":
            columns = [""]
        elif columns is None:
            raise SystemExit(f"{TABLE}: {word!r} stands outside a row")
        elif word == ",":
            columns.append("")
        elif word == ")":
            if len(columns) != 8:
                raise SystemExit(f"{TABLE}: {columns[0]} has {len(columns)} columns")
            yield "row", columns
            columns = None
        else:
            columns[-1] += word if token.group(1) is None else token.group(1)


def cell(text):
    return text.replace('\\"', '"').replace("|", "\\|")


def table():
    out = []
    for kind, value in rows(TABLE.read_text()):
        if kind == "section":
            out.append(f"\n### {value.split('.')[0].split(',')[0]}\n\n"
                       "| name | severity | what it means | what `check -r all` does |\n"
                       "|---|---|---|---|\n")
        else:
            _, name, severity, _, _, _, meaning, fix = value
            out.append(f"| `{name}` | {severity.lower()} | {cell(meaning)} | {cell(fix)} |\n")
    return "".join(out) + "\n"


def page():
    old = PAGE.read_text()
    begin = old.index(BEGIN) + len(BEGIN)
    return old[:begin] + table() + old[old.index(END):]


def main():
    if sys.argv[1:] == ["--check"]:
        if page() != PAGE.read_text():
            print(f"{PAGE} is not made from the present {TABLE.name}: run {sys.argv[0]}")
            return 1
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 1
    PAGE.write_text(page())
    return 0


sys.exit(main())
