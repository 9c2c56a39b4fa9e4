# SPDX-License-Identifier: MIT
"""The rules of the house. Each takes a tree {path: text} and yields one line a breach."""
import re

import csource
import prose

MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 850

# Lower first. A folder may include itself and whatever has a lower rank.
RANKS = {"base": 0, "rt": 1, "fmt": 1, "codec": 1, "io": 2, "meta": 3, "img": 4, "check": 5,
         "job": 6, "lib": 7, "serve": 8, "cli": 9}
# Those that may include their own headers and these, and no others.
RESTRICTED = {"fmt": {"base"}, "codec": {"base"}, "serve": {"include"},
              "cli": {"include", "serve"}}
# Folders within a layer, lower first; those in one tuple include nothing of each other. What lies
# in the layer's own folder is above them all, but for the header that says what the layer offers.
ROOMS = {"check": (("undo", "counts", "scan"), ("journal",), ("drive",), ("view",), ("ledger",),
                   ("claims",), ("walk",), ("judge",), ("mend",), ("salvage",), ("qed", "layout"))}
OFFERS = {"check/check.h"}
# By which name rooms above know a room's struct, and what of it is for others to set.
STRUCTS = {"check": {"j": "journal", "v": "view", "k": "ledger", "w": "walk", "g": "judge",
                     "m": "mend"}}
SET_BY_OTHERS = {"j", "w", "g", "m", "quiet", "mends_told", "progress", "opaque", "pause_co",
                 "pause_arg", "claimed", "claimed_arg", "lacks_entries", "is_last", "err"}
ASSIGNMENT = re.compile(r"\b[a-z_]+(?:(?:\.|->)[a-z_0-9]+(?:\[[^\]]*\])?)+\s*"
                        r"(?:[-+|&]?=(?!=)|\+\+|--)")
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


def _rank_of_room(layer, path):
    """The rank of the room that a file of a layer is in; what is in none is above them."""
    rooms = ROOMS[layer]
    parts = path.split("/")
    if path in OFFERS:
        return -1
    return next((i for i, names in enumerate(rooms) if len(parts) > 2 and parts[1] in names),
                len(rooms) if len(parts) == 2 else None)


def rooms_point_down(tree):
    """Within a layer that has rooms, an include points to its own room or to a lower one."""
    for path, text in c_files(tree):
        layer = path.split("/")[1] if path.startswith("src/") else None
        if layer not in ROOMS:
            continue
        own = path[len("src/"):]
        rank = _rank_of_room(layer, own)
        if rank is None:
            yield f"{path}: is in no room of src/{layer}"
            continue
        for included, line in csource.includes(text):
            if not included.startswith(layer + "/"):
                continue
            other = _rank_of_room(layer, included)
            same = included.split("/")[:-1] == own.split("/")[:-1]
            if not same and (other is None or other >= rank):
                yield f"{path}:{line}: includes {included} of a room that is not below"


def rooms_write_what_is_theirs(tree):
    """A struct that other rooms know is written by its own room alone."""
    for path, text in c_files(tree):
        layer = path.split("/")[1] if path.startswith("src/") else None
        if layer not in STRUCTS:
            continue
        rank = _rank_of_room(layer, path[len("src/"):])
        for match in ASSIGNMENT.finditer(text):
            names = re.findall(r"[a-z_][a-z_0-9]*", re.sub(r"\[[^\]]*\]", "", match.group()))
            known = [i for i, name in enumerate(names[:-1]) if name in STRUCTS[layer]]
            if not known or rank is None or names[known[-1] + 1] in SET_BY_OTHERS:
                continue
            owner = STRUCTS[layer][names[known[-1]]]
            if rank > _rank_of_room(layer, f"{layer}/{owner}/x"):
                line = text.count("\n", 0, match.start()) + 1
                yield f"{path}:{line}: writes {match.group().split()[0]} of {owner}"


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
        if prose.is_prose_page(path):
            yield from (f"{path}:{number}: more than {prose.COLUMNS} columns"
                        for number in prose.long_lines(path, text))


ALL = [dependencies_point_down, rooms_point_down, rooms_write_what_is_theirs,
       only_suspending_functions_suspend, functions_fit_a_screen, files_have_one_purpose,
       sources_state_their_licence, nothing_is_marked_unfinished, lines_end_cleanly,
       prose_keeps_to_its_columns, changes_are_told_once]
