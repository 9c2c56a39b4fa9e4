# SPDX-License-Identifier: MIT
"""What the command says of itself: verbs, options, formats and the keys of -o, read from its help.

The help is written for people in one shape. Two blanks and a dash begin an option, the text of -h
shows the column at which summaries begin, and an argument is in capitals or a choice a|b. Nothing is
listed here that the command does not say, but for the words that may be values (WORDS), and which
names of arguments stand for files.
"""
import re
import subprocess
from dataclasses import dataclass, field

# Words that are values wherever the summary of an option with a MODE, a CACHE or an output format
# names them.
WORDS = ("auto directsync falloc full human ignore io_uring json metadata native never none off on "
         "prometheus report-only threads unmap unsafe wait writeback writethrough zlib zstd v2 v3 "
         "0.10 1.1").split()
CACHES = ["none", "writeback", "writethrough", "directsync", "unsafe"]
FILES = re.compile(r"(FILE|FILENAME|PATH|IMAGE|UNDO|SOCKET|ADDRESS|BASE|BACKING|TARGET|SOURCE)$|\.svg$")
SUMMARY_WIDTH = 60


@dataclass
class Option:
    spellings: list
    takes: str = "no"  # an argument: "no", "needs" or "may"
    name: str = ""     # of the argument
    kind: str = "text"  # words, file, directory, user, group, keys, or text that nobody can guess
    values: list = field(default_factory=list)
    says: str = ""


@dataclass
class Verb:
    name: str
    says: str
    options: list = field(default_factory=list)
    commands: list = field(default_factory=list)  # pairs: what ctl can be told, and what it does


@dataclass
class Key:
    name: str
    says: str
    kind: str
    values: list


@dataclass
class Command:
    verbs: list
    formats: list
    keys: dict  # by format


def words_of(text):
    return [word for word in re.findall(r"[a-z0-9][-_.a-z0-9]*", text) if word in WORDS]


def unique(items):
    return list(dict.fromkeys(items))


def short(text):
    """The first clause of a summary, on one line."""
    text = re.sub(r" \((the )?default[^)]*\)", "", " ".join(text.split()))
    text = re.split(r"[;.] ", text)[0].rstrip(";:. ")
    clause = text.split(": ")[0]
    if len(text) > SUMMARY_WIDTH and len(clause) > 12:
        text = clause
    return text if len(text) <= SUMMARY_WIDTH else text[:SUMMARY_WIDTH].rsplit(" ", 1)[0] + " ..."


class Reader:
    def __init__(self, program):
        self.program = program

    def ask(self, *arguments):
        done = subprocess.run([self.program, *arguments], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        return done.stdout if done.returncode == 0 else ""

    def overview(self):
        """Pairs of a verb and its summary."""
        listed = self.ask("help").split("\nVerbs:\n")[1].split("\n\n")[0]
        return [tuple(line.split(None, 1)) for line in listed.splitlines()]

    def formats(self):
        """The words of create's -f that the command takes for a format."""
        help_of_f = re.search(r"^  -f, --format FMT(.*\n(?: {6,}.*\n)*)", self.ask("help", "create"), re.M).group(1)
        return sorted(word for word in set(re.findall(r"[a-z][a-z0-9]+", help_of_f))
                      if self.ask("create", "-f", word, "-o", "help"))

    def keys(self, fmt, formats):
        keys = []
        for name, kind, says in re.findall(r"^  (\w[-.\w]*)=<([^>]*)>\s+- (.*)$",
                                           self.ask("create", "-f", fmt, "-o", "help"), re.M):
            values = ["on", "off"] if kind.startswith("bool") else unique(words_of(says))
            if name.endswith("_fmt"):
                values = formats
            keys.append(Key(name, short(says), "file" if name.endswith("_file") else
                            "words" if values else "text", values))
        return keys

    def verb(self, name, says, formats):
        verb = Verb(name, says)
        if name in ("help", "version"):
            return verb
        text = self.ask("help", name)
        column = re.search(r"^  -h, --help +(?=print)", text, re.M)
        for spec, summary in entries(text, len(column.group())):
            if spec.startswith("-"):
                verb.options.append(option(spec, summary, formats))
            else:
                verb.commands.append((spec.split()[0], short(summary)))
        verb.options = merged(verb.options)
        return verb

    def command(self):
        formats = self.formats()
        verbs = [self.verb(name, says, formats) for name, says in self.overview()]
        for verb in verbs:
            other = re.search(r"All other options are those of 'oxbow (\S+)'", self.ask("help", verb.name))
            if other:
                known = {spelling for option in verb.options for spelling in option.spellings}
                more = next(v for v in verbs if v.name == other.group(1)).options
                verb.options += [o for o in more if not known & set(o.spellings)]
        return Command(verbs, formats, {fmt: self.keys(fmt, formats) for fmt in formats})


def entries(text, column):
    """The indented lists of a help text: pairs of what is described, and its summary."""
    found = []
    for line in text.partition("\n\n")[2].splitlines():
        if re.match(r"  \S", line):
            fits = line[column - 1:column] in ("", " ")
            found.append([line[:column].strip() if fits else line.strip(), line[column:] if fits else ""])
        elif found and re.match(r"  +\S", line):
            found[-1][1] += " " + line.strip()
    return [pair for pair in found if pair[0].startswith("-") or re.match(r"[a-z]", pair[0])]


def option(spec, summary, formats):
    spelled = re.match(r"(-[-\w]+)(?:, (-[-\w]+))*", spec)
    result = Option(re.findall(r"-[-\w]+", spelled.group()), says=short(summary))
    argument = spec[spelled.end():].strip()
    if not argument:
        return result
    result.takes = "may" if argument.startswith("[=") else "needs"
    result.name = argument = re.sub(r"\[.*", "", argument.strip("[]=")).strip("[]=")
    last = re.split(r"[_|=: ]", argument)[-1]
    result.values = [word for word in argument.split("|") if re.fullmatch(r"[a-z][-_a-z0-9]*", word)]
    if result.values or (last in ("MODE", "CACHE") and words_of(summary)):
        result.values = unique(result.values or words_of(summary))
    elif last == "FMT" and "--output" in result.spellings:
        result.values = unique(words_of(summary))
    elif last == "FMT":
        result.values = [fmt for fmt in formats if re.search(rf"\b{fmt}\b", summary)] or formats
    elif last == "CACHE":
        result.values = CACHES
    result.kind = kind_of(result, last)
    return result


def kind_of(opt, last):
    if opt.values:
        return "words"
    if "-o" in opt.spellings and last == "OPTIONS":
        return "keys"
    if FILES.search(last):
        return "file"
    return {"DIR": "directory", "USER": "user", "GROUP": "group"}.get(last, "text")


def merged(options):
    """One of each: an option that is described in several lines takes what any of them says."""
    by_name = {}
    for opt in options:
        there = by_name.setdefault(opt.spellings[-1], opt)
        if there is not opt:
            there.takes = "may" if "no" in (there.takes, opt.takes) else there.takes
            there.values = unique(there.values + opt.values)
            there.kind = "words" if there.values else there.kind
            there.name = there.name or opt.name
    return list(by_name.values())
