#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The examples of docs/repair.md are what the commands print, and those of the manual are theirs.

test_repair_page.py --accept rewrites the page's: look at the difference before it is committed.

A comment "<!-- example ... -->" begins with a new disk.qcow2, and damages it as its lines say; the
console blocks up to the next such comment then run on it, one after the other."""
import difflib
import shlex

from peers import *

PAGE = ROOT / "docs" / "repair.md"
PART = re.compile(r"<!-- example\n(.*?)-->|(?<=```console\n)(.*?)(?=```\n)", re.S)
COMMANDS = {"oxbow": oxbow_path(), "cp": "cp", "cmp": "cmp"}


def new_disk(lines):
    """A disk with three runs of data, damaged. QEMU makes it: its layout stays as it is."""
    for path in pathlib.Path(".").iterdir():
        path.unlink()
    qemu_img("create", "-q", "-f", "qcow2", "disk.qcow2", "20G")
    qemu_io("-c", "write -q -P 1 0 1M", "-c", "write -q -P 2 600M 1M", "-c", "write -q -P 3 5G 512k",
            "disk.qcow2")
    for line in lines.splitlines():
        program, image, what = line.split(" ", 2)
        if program == "qemu-io":
            qemu_io("-c", what, image)
        else:
            run(pathlib.Path(oxbow_path()).with_name("oxbow-corrupt"), "-e", what, image)


def shown(block):
    """The block with what its commands print, in one stream."""
    text, status = "", 0
    for line in block.splitlines():
        if line == "$ echo $?":
            text += f"{line}\n{status}\n"
        elif line.startswith("$ "):
            program, *arguments = shlex.split(line[2:])
            done = subprocess.run([COMMANDS[program], *arguments], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=60, check=False)
            status = done.returncode
            text += line + "\n" + done.stdout
    return text


def run_part(part):
    if part.group(1) is not None:
        new_disk(part.group(1))
        return part.group(0)
    return shown(part.group(2))


def the_page_as_it_should_be():
    return PART.sub(run_part, PAGE.read_text())


def test_the_examples_of_the_page_are_what_is_printed():
    changes = difflib.unified_diff(PAGE.read_text().splitlines(),
                                   the_page_as_it_should_be().splitlines(), n=0, lineterm="")
    check_equal("\n".join(changes), "", "what docs/repair.md says and what is printed (--accept)")


def examples_of_each_disk():
    disks = []
    for part in PART.finditer(PAGE.read_text()):
        if part.group(1) is not None:
            disks.append("")
        else:
            disks[-1] += part.group(2)
    return disks


def test_the_manual_shows_examples_of_the_page():
    examples = examples_of_each_disk()
    manual = "".join((ROOT / "man" / f"oxbow-{verb}.1").read_text() for verb in ("check", "undo"))
    shown_there = re.findall(r"^\.Bd -literal\n((?:\$ .*\n)(?:.*\n)*?)\.Ed$", manual, re.M)
    for option in ("-r leaks", "-r all", "--dry-run", "--undo", "oxbow undo", "--data", "--header",
                   "--salvage ", "--salvage=1:", "--salvage=none"):
        check_equal(any(option in text.split("\n")[0] for text in shown_there), True,
                    f"an example of {option}")
    for text in shown_there:
        lines = text.replace("\\&", "").splitlines()
        if not any(is_part(lines, example.splitlines()) for example in examples):
            raise Failure(f"docs/repair.md has no such example:\n{text}")


def is_part(lines, example):
    """Whether the lines are in the example, in this order; "..." stands for some."""
    rest = iter(example)
    return all(line in rest for line in lines if line != "...")


if sys.argv[1:] == ["--accept"]:
    def test_accept():
        PAGE.write_text(the_page_as_it_should_be())

    run_tests({"test_accept": test_accept}, argv=[])
else:
    run_tests(globals())
