# SPDX-License-Identifier: MIT
"""As much of C as the checks need: tokens, function bodies, includes."""
import re

_TOKEN = re.compile(r"""
    (?P<comment>/\*.*?\*/|//[^\n]*)
  | (?P<string>(?:u8|[LuU])?"(?:\\.|[^"\\\n])*")
  | (?P<char>[LuU]?'(?:\\.|[^'\\\n])*')
  | (?P<word>[A-Za-z_]\w*)
  | (?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
  | (?P<newline>\n)
  | (?P<continued>\\\n)
  | (?P<blank>[ \t\f\v\r]+)
  | (?P<mark>->|\+\+|--|.)
""", re.VERBOSE | re.DOTALL)

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]', re.MULTILINE)


class Function:
    """A function's definition (or a macro's): its name, lines, and the tokens of its body."""

    def __init__(self, name, first_line, last_line, body):
        self.name = name
        self.first_line = first_line
        self.last_line = last_line
        self.body = body

    def calls(self):
        """(name, line) of each identifier in the body that is applied to arguments."""
        for (text, line), (following, _) in zip(self.body, self.body[1:]):
            if following == "(" and (text[0].isalpha() or text[0] == "_"):
                yield text, line


def _scan(text):
    """Splits text into tokens (text, line) outside directives, and the directives' own tokens."""
    tokens, directives = [], []
    line = 1
    current = tokens
    at_line_start = True
    for match in _TOKEN.finditer(text):
        kind, value = match.lastgroup, match.group()
        if kind == "newline":
            current = tokens
            at_line_start = True
        elif kind not in ("blank", "comment", "continued"):
            if value == "#" and at_line_start:
                current = []
                directives.append(current)
            current.append((value, line))
            at_line_start = False
        line += value.count("\n")
    return tokens, directives


def _opening(tokens, closing):
    """The place of the parenthesis that the one at closing closes, or None."""
    depth = 0
    for place in range(closing, -1, -1):
        depth += {")": 1, "(": -1}.get(tokens[place][0], 0)
        if depth == 0:
            return place
    return None


def _name_place(tokens, brace):
    """The place of the name of the function whose body opens at brace; None if it is no body."""
    place = brace - 1
    while place >= 0 and tokens[place][0] == ")":
        opening = _opening(tokens, place)
        if opening is None or opening == 0:
            return None
        if tokens[opening - 1][0] != "__attribute__":
            return opening - 1 if re.match(r"[A-Za-z_]", tokens[opening - 1][0]) else None
        place = opening - 2
    return None


def _start_line(tokens, name):
    """The line on which the declaration that holds the name begins."""
    place = name
    while place > 0 and tokens[place - 1][0] not in (";", "}", "{"):
        place -= 1
    return tokens[place][1]


def functions(text):
    """The functions that are defined in text, and the macros that have a body."""
    tokens, directives = _scan(text)
    found = []
    depth = outer = 0  # outer: braces of extern "C", inside which functions still stand
    body_start = name = None
    for place, (token, line) in enumerate(tokens):
        if token == "{":
            if depth == outer:
                if place >= 2 and tokens[place - 2][0] == "extern":
                    outer += 1
                else:
                    name = _name_place(tokens, place)
                    body_start = place
            depth += 1
        elif token == "}":
            depth -= 1
            if depth < outer:
                outer = depth
            elif depth == outer and name is not None:
                found.append(Function(tokens[name][0], _start_line(tokens, name), line,
                                      tokens[body_start:place + 1]))
                name = None
    for directive in directives:
        words = [token for token, _ in directive]
        if words[1:2] == ["define"] and len(words) > 2:
            found.append(Function(words[2], directive[0][1], directive[-1][1], directive[3:]))
    return found


def includes(text):
    """(file, line) of each include."""
    return [(match.group(2), text.count("\n", 0, match.start()) + 1)
            for match in _INCLUDE.finditer(text)]
