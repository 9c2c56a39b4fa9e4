#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Lines of prose in Markdown and in manual pages: which are too long, and how to wrap them.

    tools/tidy/prose.py FILE...     wraps each file in place

Only paragraphs that hold a line of more than 100 columns are wrapped anew. Tables, headings, code and
a line that is long for a link's sake stay as they are; so do the macros and the displays of a manual
page."""
import pathlib
import re
import sys
import textwrap

COLUMNS = 100
ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
# A heading, a quotation, a row of a table, HTML: what ends a paragraph and is not wrapped.
OTHER = ("#", ">", "|", "<")
# What a line of a paragraph may not begin with, as Markdown would take it for something else.
MARK = re.compile(r" (?=(?:[-*+#>|]|\d+[.)])(?: |$))")
CODE = re.compile(r"`[^`]{,50}`")
SENTENCE_ENDS = (".", ":", ";", "?", "!")
LINK = re.compile(r"\]\([^)]*\)|<?https?://\S+")


def is_prose_page(path):
    return path.endswith((".md", ".1", ".3"))


def paragraphs(path, text):
    """Splits the text: (number of the first line, lines, whether they are a paragraph of prose)."""
    return _of_manual(text) if not path.endswith(".md") else _of_markdown(text)


def _of_markdown(text):
    lines = text.split("\n")
    number = 0
    fenced, after_blank = False, True
    while number < len(lines):
        first, line = number, lines[number]
        number += 1
        is_fence = line.lstrip().startswith("```")
        is_code = fenced or is_fence or (after_blank and line.startswith(("    ", "\t")))
        fenced ^= is_fence
        after_blank = not line.strip()
        if is_code or after_blank or line.lstrip().startswith(OTHER):
            yield first, [line], False
            continue
        while number < len(lines) and _goes_on(lines[number]):
            number += 1
        yield first, lines[first:number], True


def _goes_on(line):
    """Whether the line belongs to the paragraph or item of the one before it."""
    return line.strip() and not line.lstrip().startswith(("```", *OTHER)) and not ITEM.match(line)


def _of_manual(text):
    """In a manual page a sentence begins on a line of its own; it is what a paragraph is elsewhere."""
    lines = text.split("\n")
    displayed = False
    number = 0
    while number < len(lines):
        first = number
        number += 1
        if lines[first].startswith((".Bd", ".Ed")):
            displayed = lines[first].startswith(".Bd")
        is_prose = not displayed and _is_text(lines[first])
        while is_prose and number < len(lines) and _is_text(lines[number]) \
                and not lines[number - 1].endswith(SENTENCE_ENDS):
            number += 1
        yield first, lines[first:number], is_prose


def _is_text(line):
    return line and not line.startswith((".", "'"))


def long_lines(path, text):
    """The numbers of the lines of prose that are too long."""
    return [first + offset + 1 for first, lines, is_prose in paragraphs(path, text) if is_prose
            for offset, line in enumerate(lines) if _is_long(line)]


def _is_long(line):
    return len(LINK.sub("", line)) > COLUMNS


def wrap(path, text):
    wrapped = []
    for _, lines, is_prose in paragraphs(path, text):
        wrapped += _wrap_paragraph(lines) if is_prose and any(map(_is_long, lines)) else lines
    return "\n".join(wrapped)


def _wrap_paragraph(lines):
    item = ITEM.match(lines[0])
    start = item.group() if item else re.match(r"\s*", lines[0]).group()
    indent = re.match(r"\s*", lines[1]).group() if len(lines) > 1 else " " * len(start)
    words = " ".join([lines[0][len(start):]] + [line.strip() for line in lines[1:]])
    # A NUL holds a mark to the word before it, and the words of a piece of code together.
    words = CODE.sub(lambda code: code.group().replace(" ", "\0"), MARK.sub("\0", words))
    return [line.replace("\0", " ") for line in textwrap.wrap(
        words, COLUMNS, initial_indent=start, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False)]


def main(names):
    for name in names:
        path = pathlib.Path(name)
        text = path.read_text()
        wrapped = wrap(name, text)
        if wrapped != text:
            path.write_text(wrapped)


if __name__ == "__main__":
    main(sys.argv[1:])
