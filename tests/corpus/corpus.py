# SPDX-License-Identifier: MIT
"""The corpus: a folder for each finding of findings.def, or <finding>-<variant>.

A folder's `recipe` is made of lines:

    base NAME            begin with the image of bases/NAME (lines of commands)
    oxbow|qemu-img|qemu-io|rm ...    run that, in the image's folder; the image is disk.qcow2
    corrupt LINE         a line for oxbow-corrupt
    options OPTION...    more options for `oxbow check`
    qemu REASON          why qemu-img cannot check the repaired image
    elsewhere FILE TEST  what shows the finding instead, where no image can
"""
import atexit
import re
import shlex
import shutil
import sys as _sys
import tempfile
import pathlib as _pathlib

_sys.path.insert(0, str(_pathlib.Path(__file__).resolve().parent.parent))
from harness import *  # noqa: E402

CORPUS = ROOT / "tests" / "corpus"
DISK = "disk.qcow2"
ROW = re.compile(r'OX_FINDING\(((?:[^()"]|"(?:[^"\\]|\\.)*")*)\)')

# Thousands of small images, each written with syncs: in memory where that can be.
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"

_bases = None


def findings():
    """The rows of findings.def: name -> (severity, class, lead, text)."""
    rows = {}
    text = (ROOT / "src" / "check" / "journal" / "findings.def").read_text()
    for row in ROW.findall(text[text.index("*/\n\n"):]):
        strings = [""]
        for part in re.finditer(r'"((?:[^"\\]|\\.)*)"|(,)', row):
            if part.group(2):
                strings.append("")
            else:
                strings[-1] += part.group(1).replace('\\"', '"')
        words = [word.strip() for word in re.sub(r'"(?:[^"\\]|\\.)*"', "", row).split(",")]
        rows[strings[1]] = (words[2], words[3], strings[4], strings[5])
    return rows


def finding_pattern(row):
    """What the messages of a finding look like, whether it is mended or not."""
    text = re.escape(row[3]).replace("%w", ".+?")
    text = re.sub(r"%[abc]", "[0-9]+", text)
    text = re.sub(r"%[ABC]", "[0-9a-f]+", text)
    if row[3].startswith("cluster %a "):
        text = text.replace("cluster", "clusters?", 1).replace("[0-9]+", "[0-9]+(?:-[0-9]+)?", 1)
    fate = "(?:; guest offset 0x[0-9a-f]+ length 0x[0-9a-f]+ is lost)?"
    return re.compile(f"^(Repairing|{re.escape(row[2])}) {text}{fate}$", re.M)


class Recipe:
    def __init__(self, folder):
        self.folder = folder
        self.base = None
        self.commands = []
        self.corrupt = []
        self.options = []
        self.qemu_cannot = None
        self.elsewhere = None
        for line in (folder / "recipe").read_text().splitlines():
            word, _, rest = line.partition(" ")
            if word == "base":
                self.base = rest
            elif word == "corrupt":
                self.corrupt.append(rest)
            elif word == "options":
                self.options = rest.split()
            elif word == "qemu":
                self.qemu_cannot = rest
            elif word == "elsewhere":
                self.elsewhere = rest.split()
            elif line and not line.startswith("#"):
                self.commands.append(line)

    @property
    def name(self):
        return self.folder.name

    def finding(self, names):
        """The finding it shows: the longest name that its own begins with."""
        fit = [name for name in names if self.name == name or self.name.startswith(name + "-")]
        return max(fit, key=len) if fit else None


def recipes():
    return [Recipe(path.parent) for path in sorted(CORPUS.glob("*/recipe"))]


def run_line(line, cwd):
    words = shlex.split(line)
    if words[0] == "oxbow":
        words[0] = oxbow_path()
    if words[0] not in ("qemu-img", "qemu-io", "rm", oxbow_path()):
        raise Failure(f"a recipe may not run {words[0]}")
    return run(*words, cwd=cwd)


def corrupt(image, lines):
    path = _pathlib.Path(oxbow_path()).with_name("oxbow-corrupt")
    return run(path, image, input="".join(line + "\n" for line in lines))


def base_folder(name):
    """A folder with the files of a base; made once a run."""
    global _bases
    if _bases is None:
        _bases = _pathlib.Path(tempfile.mkdtemp(prefix="oxbow-corpus-"))
        atexit.register(shutil.rmtree, _bases, ignore_errors=True)
    folder = _bases / name
    if not folder.exists():
        folder.mkdir()
        for line in (CORPUS / "bases" / name).read_text().splitlines():
            word, _, rest = line.partition(" ")
            if word == "corrupt":
                corrupt(folder / DISK, [rest])
            elif line and not line.startswith("#"):
                run_line(line, folder)
    return folder


def make(recipe, folder):
    """The recipe's image, as folder/disk.qcow2."""
    shutil.rmtree(folder, ignore_errors=True)
    if recipe.base:
        shutil.copytree(base_folder(recipe.base), folder)
    else:
        folder.mkdir()
    for line in recipe.commands:
        run_line(line, folder)
    corrupt(folder / DISK, recipe.corrupt)


def check(folder, *options):
    """Exit code and both texts of one check."""
    result = oxbow("check", *options, DISK, check=False, cwd=folder)
    command = " ".join(("oxbow check",) + options)
    return result, f"== {command}: exit {result.returncode}\n{result.stderr}{result.stdout}"
