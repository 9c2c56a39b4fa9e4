# SPDX-License-Identifier: MIT
"""The rules of the house. Each takes a tree {path: text} and yields one line a breach."""
import re

import csource
import prose

MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 850

# Lower first. A folder may include itself and whatever has a lower rank.
RANKS = {"base": 0, "rt": 1, "fmt": 1, "codec": 1, "io": 2, "meta": 3, "img": 4, "check": 5,
         "lib": 6, "serve": 7, "cli": 8}
# Those that may include their own headers and these, and no others.
RESTRICTED = {"fmt": {"base"}, "codec": {"base"}, "serve": {"include"},
              "cli": {"include", "serve"}}
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")


def c_files(tree):
    return [(path, text) for path, text in sorted(tree.items()) if path.endswith((".c", ".h"))]


def dependencies_point_down(tree):
    """An include under src points to a lower layer; serve and cli see only the public header."""
    for path, text in c_files(tree):
        parts = path.split("/")
        if parts[0] != "src":
            continue
        folder = parts[1]
        if folder not in RANKS:
            yield f"{path}: src/{folder} is no layer of ARCHITECTURE.md"
            continue
        for included, line in csource.includes(text):
            target = _layer_of(included, tree)
            if ".." in included.split("/"):
                yield f"{path}:{line}: includes {included}: name it from src or include"
            elif target not in (None, folder) and not _may_include(folder, target):
                yield f"{path}:{line}: {folder} includes {included} of {target}"


def _layer_of(included, tree):
    """The layer an include belongs to; None for the system's and for a neighbour's."""
    if "include/" + included in tree:
        return "include"
    first = included.split("/")[0]
    return first if "/" in included and first in RANKS and "src/" + included in tree else None


def _may_include(folder, target):
    if folder in RESTRICTED:
        return target in RESTRICTED[folder]
    return target == "include" or RANKS[target] < RANKS[folder]


def only_suspending_functions_suspend(tree):
    """Only a function named ..._co calls one that is named so."""
    for path, text in c_files(tree):
        for function in csource.functions(text):
            if function.name.lower().endswith("_co"):
                continue
            for callee, line in function.calls():
                if callee.endswith("_co"):
                    yield f"{path}:{line}: {function.name} calls {callee} and does not end in _co"


def functions_fit_a_screen(tree):
    """A function has at most 70 lines."""
    for path, text in c_files(tree):
        for function in csource.functions(text):
            lines = function.last_line - function.first_line + 1
            if lines > MAX_FUNCTION_LINES:
                yield (f"{path}:{function.first_line}: {function.name} has {lines} lines, more "
                       f"than {MAX_FUNCTION_LINES}")


def files_have_one_purpose(tree):
    """A source file has at most 850 lines."""
    for path, text in sorted(tree.items()):
        lines = text.count("\n")
        if path.endswith((".c", ".h", ".py")) and lines > MAX_FILE_LINES:
            yield f"{path}: {lines} lines, more than {MAX_FILE_LINES}"


def sources_state_their_licence(tree):
    """C sources begin with the SPDX line; scripts have it in the first two lines."""
    for path, text in sorted(tree.items()):
        if path.endswith((".c", ".h")):
            if not text.startswith("/* SPDX-License-Identifier: MIT */\n"):
                yield f"{path}:1: does not begin with /* SPDX-License-Identifier: MIT */"
        elif path.endswith((".py", ".sh")) or text.startswith("#!"):
            if "# SPDX-License-Identifier: MIT" not in text.split("\n")[:2]:
                yield f"{path}:1: lacks # SPDX-License-Identifier: MIT in its first lines"


def nothing_is_marked_unfinished(tree):
    """No reminders of work undone."""
    for path, text in sorted(tree.items()):
        for match in UNFINISHED.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path}:{line}: {match.group()}"


def lines_end_cleanly(tree):
    """No blanks before a line's end, no carriage returns, and a newline at the end of a file."""
    for path, text in sorted(tree.items()):
        for number, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip():
                yield f"{path}:{number}: blanks at the end of the line"
        if text and not text.endswith("\n"):
            yield f"{path}: no newline at the end"
        elif text.endswith("\n\n"):
            yield f"{path}: empty lines at the end"


def changes_are_told_once(tree):
    """No two entries of the changes begin with the same line: a merge doubles them easily."""
    entries = set()
    for number, line in enumerate(tree.get("CHANGELOG.md", "").split("\n"), 1):
        if line.startswith("- ") and line in entries:
            yield f"CHANGELOG.md:{number}: told above already"
        entries.add(line)


def prose_keeps_to_its_columns(tree):
    """Prose in Markdown and in manual pages has at most 100 columns; `./dev format` wraps it."""
    for path, text in sorted(tree.items()):
        if not prose.is_prose_page(path):
            continue
        numbers = prose.long_lines(path, text)
        if path not in prose.UNWRAPPED:
            yield from (f"{path}:{number}: more than {prose.COLUMNS} columns" for number in numbers)
        elif not numbers:
            yield f"{path}: is wrapped, and need not be named as UNWRAPPED"


ALL = [dependencies_point_down, only_suspending_functions_suspend, functions_fit_a_screen,
       files_have_one_purpose, sources_state_their_licence, nothing_is_marked_unfinished,
       lines_end_cleanly, prose_keeps_to_its_columns, changes_are_told_once]
