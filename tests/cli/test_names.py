#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Names that an image bears are somebody else's words: none of them reaches a terminal as it is."""
import re
import struct

from peers import *

# An escape sequence; C1 alone and in UTF-8; DEL; a line's end; bytes that are no UTF-8: stray, cut short,
# too long a form, half of a surrogate pair, behind the last character.
EVIL = b"a\x1b[31mb\x9bc\xc2\x9bd\x7fe\nf\xffg\xe2\x82h\xc0\xafi\xed\xa0\x80j\xf4\x90\x80\x80k"
SHOWN = r"a\x1b[31mb\x9bc\xc2\x9bd\x7fe\x0af\xffg\xe2\x82h\xc0\xafi\xed\xa0\x80j\xf4\x90\x80\x80k"
GOOD = "über \u20ac \U0001f4be \u00a0"


def said(*args, codes=(0,)):
    """What a command prints and says, once it is sure that no terminal minds. (JSON leaves DEL as it is.)"""
    result = run(oxbow_path(), *args, check=False, text=False)
    check_equal(result.returncode in codes, True, f"exit code {result.returncode} of {args}: {result.stderr}")
    text = (result.stdout + result.stderr).decode()  # which is UTF-8
    for found in re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text):
        if found == "\x7f" and "--output=json" in args:
            continue
        raise Failure(f"{found!r} is in what {args} says: {text!r}")
    return text


def make(backing, snapshot, bitmap):
    """Names as bytes: the command line of QEMU's tools takes them, as it is the system's."""
    pathlib.Path(os.fsdecode(backing)).write_bytes(b"x" * (1 << 20))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", os.fsdecode(backing), "-F", "raw", "disk", "1M")
    run("qemu-img", "snapshot", "-c", os.fsdecode(snapshot), "disk")
    run("qemu-img", "bitmap", "--add", "disk", os.fsdecode(bitmap))


def test_info_shows_no_name_as_it_is_that_could_harm():
    make(EVIL, EVIL, EVIL)
    text = said("info", "disk")
    check_in(f"backing file: {SHOWN}\n", text)
    check_in(f" {SHOWN}", text[text.index("Snapshot list"):], "list")
    check_in(f"name: {SHOWN}\n", text)
    chain = said("info", "--backing-chain", "disk")
    check_in(f"image: {SHOWN}\nfile format: raw\n", chain)
    said("info", "--output=json", "--backing-chain", "disk")


def test_names_in_any_script_are_shown_as_they_are():
    make(GOOD.encode(), GOOD.encode(), GOOD.encode())
    text = said("info", "disk")
    check_in(f"backing file: {GOOD}\n", text)
    check_in(f"1       {GOOD}", text)
    check_in(f"name: {GOOD}\n", text)


def test_messages_show_no_name_as_it_is_that_could_harm():
    make(EVIL, b"s", b"b")
    os.unlink(os.fsdecode(EVIL))
    check_in(SHOWN, said("map", "disk", codes=(1,)), "message")
    check_in(SHOWN, said("info", "--backing-chain", "disk", codes=(1,)), "message")
    check_in(SHOWN, said("io", "-c", "read 0 512", "disk", codes=(1,)), "message")
    check_in(SHOWN, said("info", os.fsdecode(EVIL), codes=(1,)), "message")


def test_a_map_shows_no_name_as_it_is_that_could_harm():
    make(EVIL, b"s", b"b")
    check_in(f"{SHOWN}\n", said("map", "disk"), "map")


def test_findings_show_no_name_that_could_harm():
    run("qemu-img", "create", "-q", "-f", "qcow2", "disk", "1M")
    qemu_io("-c", "write -q 0 64k", "disk")
    run("qemu-img", "snapshot", "-c", os.fsdecode(EVIL), "disk")
    qemu_io("-c", "write -q 0 64k", "disk")  # the snapshot has tables of its own
    # Its L1 entry leads behind the end of the file.
    with open("disk", "r+b") as file:
        file.seek(64)
        table, = struct.unpack(">Q", file.read(8))
        file.seek(table)
        l1, = struct.unpack(">Q", file.read(8))
        file.seek(l1)
        file.write(struct.pack(">Q", 1 << 63 | 1 << 40))
    check_in("of a snapshot", said("check", "--salvage", "disk", codes=(2,)), "finding")
    said("check", "--salvage", "--output=json", "disk", codes=(2,))


def test_unknown_features_are_shown_without_harm():
    run("qemu-img", "create", "-q", "-f", "qcow2", "disk", "1M")
    content = bytearray(pathlib.Path("disk").read_bytes())
    at = content.index(struct.pack(">I", 0x6803f857)) + 8
    struct.pack_into(">BB46s", content, at, 0, 50, EVIL[:46])
    struct.pack_into(">Q", content, 72, 1 << 50)
    pathlib.Path("disk").write_bytes(content)
    for words in (("info", "disk"), ("check", "disk"), ("map", "disk")):
        said(*words, codes=(0, 1, 2))


run_tests(globals())
