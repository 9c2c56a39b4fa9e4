#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The pictures of oxbow map: what they show, where they can be drawn, what they leave alone."""
import pty
import random
import struct
import xml.etree.ElementTree as ElementTree

from peers import *

CLUSTER = 65536
SVG = "{http://www.w3.org/2000/svg}"


def picture_json(disk):
    return json.loads(oxbow("map", "--picture", "--output=json", disk).stdout)


def draw(disk):
    oxbow("map", "--image=out.svg", disk)
    return ElementTree.parse("out.svg").getroot()


def texts(svg):
    return ["".join(node.itertext()) for node in svg.iter(SVG + "text")]


def make_disk():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "16M")
    qemu_io("-f", "qcow2", "-c", "write -q 0 4M", "disk")


def entries_of(disk):
    """Offset in the file, and value, of each entry of the first L2 table."""
    with open(disk, "rb") as file:
        file.seek(40)
        l1 = struct.unpack(">Q", file.read(8))[0]
        file.seek(l1)
        table = struct.unpack(">Q", file.read(8))[0] & 0xfffffffffffe00
        file.seek(table)
        return [(table + 8 * i, entry)
                for i, entry in enumerate(struct.unpack(">8192Q", file.read(CLUSTER)))]


def set_entry(disk, index, value):
    poke(disk, entries_of(disk)[index][0], struct.pack(">Q", value))


def check_adds_up(shown, disk):
    length = pathlib.Path(disk).stat().st_size
    check_equal(shown["file-length"], length, "the file's length")
    check_equal(sum(sum(part["bytes"].values()) for part in shown["bins"]), length, "sum of bins")
    check_equal(sum(shown["bytes"].values()), length, "sum of kinds")
    for number, part in enumerate(shown["bins"]):
        check_equal(part["offset"], number * shown["bin-length"], "offset of a bin")


def test_bins_add_up_to_the_files_length():
    for options in ("cluster_size=512", "cluster_size=4k,compat=0.10", "preallocation=full",
                    "cluster_size=2M,preallocation=metadata"):
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, "disk", "20M")
        qemu_io("-f", "qcow2", "-c", "write -q 1M 3M", "-c", "discard -q 2M 1M", "disk")
        shown = picture_json("disk")
        check_adds_up(shown, "disk")
        check_equal((shown["corruptions"], shown["leaks"]), (0, 0), options)


def test_every_structure_is_shown_by_name():
    make_disk()
    qemu_img("snapshot", "-c", "s", "disk")
    qemu_io("-f", "qcow2", "-c", "write -q 1M 128k", "disk")
    qemu_img("bitmap", "--add", "disk", "b")
    shown = picture_json("disk")
    check_equal(sorted(shown["bytes"]), sorted(["header", "l1", "l2", "refcounts", "snapshot-tables",
                                                "bitmaps", "data", "snapshot-data"]), "kinds")
    check_equal(shown["bytes"]["data"], 128 << 10, "data of the disk alone")
    check_equal(shown["bytes"]["snapshot-data"], 4 << 20, "data that the snapshot holds")


def test_compressed_data_is_shown():
    make_disk()
    qemu_img("convert", "-q", "-c", "-O", "qcow2", "disk", "small")
    shown = picture_json("small")
    check_adds_up(shown, "small")
    check_equal(sum(part["compressed"] for part in shown["guest-bins"]), 4 << 20, "compressed")
    check_equal("compressed" in shown["bytes"], True, "compressed kind")


def test_fresh_and_aged_images_differ_in_pieces():
    make_disk()
    check_equal(picture_json("disk")["pieces"], 1, "pieces of a fresh disk")
    qemu_img("create", "-q", "-f", "qcow2", "aged", "16M")
    places = list(range(64))
    random.Random(1).shuffle(places)
    for place in places:
        qemu_io("-f", "qcow2", "-c", f"write -q {place * CLUSTER} 64k", "aged")
    if picture_json("aged")["pieces"] < 50:
        raise Failure("an aged disk is shown as if it were in order")


def test_damage_and_leaks_are_shown_and_counted_as_check_does():
    make_disk()
    entries = entries_of("disk")
    set_entry("disk", 3, 0)
    set_entry("disk", 5, entries[6][1])
    set_entry("disk", 8, entries[8][1] | 0x10)
    shown = picture_json("disk")
    checked = json.loads(oxbow("check", "--output=json", "disk", check=False).stdout)
    check_adds_up(shown, "disk")
    check_equal(shown["corruptions"], checked["corruptions"], "corruptions")
    check_equal(shown["leaks"], checked["leaks"], "leaks")
    leaked = (entries[3][1] & 0xfffffffffffe00) // shown["bin-length"]
    check_equal("leaked" in shown["bins"][leaked]["bytes"], True, "the leak in its place")
    shared = (entries[6][1] & 0xfffffffffffe00) // shown["bin-length"]
    check_equal("damaged" in shown["bins"][shared]["bytes"], True, "the damage in its place")
    table = entries[0][0] // shown["bin-length"]
    check_equal(shown["bins"][table].get("findings", 0) > 0, True, "the table with a bad entry")
    said = " ".join(texts(draw("disk")))
    check_in("DAMAGED", said, "picture")
    check_in("leaked", said, "picture")
    text = oxbow("map", "--picture", "disk").stdout
    check_in("X", text.split("a cell")[1].split("\n\n")[0], "cells")
    check_in("!", text.split("a cell")[1].split("\n\n")[0], "cells")


def test_damage_wins_its_cell_however_large_the_image():
    oxbow("create", "-f", "qcow2", "-o", "preallocation=metadata", "disk", "20G")
    set_entry("disk", 5, entries_of("disk")[6][1])
    cells = oxbow("map", "--picture", "disk").stdout.split("a cell")[1].split("\n\n")[0]
    check_in("X", cells, "cells")


def test_a_dirty_image_is_shown_and_left_as_it_is():
    make_disk()
    cluster = (entries_of("disk")[2][1] & 0xfffffffffffe00) // CLUSTER
    poke("disk", refcount_offset("disk", cluster), b"\0\0")
    poke("disk", 79, b"\1")
    before = pathlib.Path("disk").read_bytes()
    shown = picture_json("disk")
    check_equal(shown["dirty"], True, "dirty")
    check_equal(shown["corruptions"], 0, "corruptions")
    check_equal("damaged" in shown["bytes"], False, "damage")
    check_equal(shown["uncounted-clusters"], 1, "clusters to be counted")
    check_in("dirty", " ".join(texts(draw("disk"))), "picture")
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "image unchanged")


def test_no_backing_file_is_needed():
    qemu_img("create", "-q", "-f", "raw", "base", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "disk")
    pathlib.Path("base").unlink()
    check_in("Sound", oxbow("map", "--picture", "disk").stdout, "picture")


def test_damaged_images_are_drawn_or_refused_but_never_crash():
    rng = random.Random(5)
    for number in range(25):
        qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=1k", "disk", "1M")
        qemu_io("-f", "qcow2", "-c", "write -q 0 64k", "disk")
        with open("disk", "r+b") as file:
            for _ in range(rng.randrange(1, 20)):
                file.seek(rng.randrange(8 << 10))
                file.write(bytes([rng.randrange(256)]))
            if number % 3 == 0:
                file.truncate(rng.randrange(1000, 60000))
        for output in ("human", "json"):
            result = oxbow("map", "--picture", "--output", output, "disk", check=False)
            check_in(result.returncode, (0, 1), f"exit codes of image {number}")
        if result.returncode == 0:
            check_adds_up(json.loads(result.stdout), "disk")
            draw("disk")


def test_the_svg_is_well_formed_whatever_the_images_name_is():
    for name in ("<a & \"b\">.qcow2", "line\nfeed", "\x1b[31mred", os.fsdecode(b"\xff\xfe.img")):
        oxbow("create", "-f", "qcow2", name, "1M")
        check_equal(draw(name).tag, SVG + "svg", "root")
        check_equal("\x1b" in oxbow("map", "--picture", name).stdout, False, "escapes in text")


def test_the_svg_keeps_its_size_when_the_image_grows():
    for size in ("1M", "10G", "10T"):
        oxbow("create", "-f", "qcow2", "disk", size)
        svg = draw("disk")
        check_equal(svg.get("width"), "1000", "width")
        if pathlib.Path("out.svg").stat().st_size > 1 << 20:
            raise Failure("an SVG of more than a MiB")


def test_a_picture_fits_a_pipe_of_eighty_columns_without_colours():
    make_disk()
    for line in oxbow("map", "--picture", "disk").stdout.splitlines()[3:]:
        if len(line) > 80:
            raise Failure(f"a line of {len(line)} characters: {line}")
        check_equal("\x1b" in line, False, "escapes in a pipe")


def on_terminal(*args, **env):
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([oxbow_path(), *args], stdout=theirs, stdin=subprocess.DEVNULL,
                          env={**os.environ, "TERM": "xterm-256color", **env}) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 65536):
                text += part
        except OSError:
            pass
        os.close(ours)
    check_equal(process.returncode, 0, "exit code")
    return text.decode()


def test_a_terminal_has_colours_unless_no_color_is_set():
    make_disk()
    plain = {key: "" for key in ("NO_COLOR", "LC_ALL", "LC_CTYPE")}
    shown = on_terminal("map", "--picture", "disk", **plain, LANG="C.UTF-8")
    check_in("\x1b[38;5;", shown, "terminal")
    check_in("█", shown, "terminal")
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = on_terminal("map", "--picture", "disk", **{**plain, "LANG": "C", **env})
        check_equal("\x1b" in shown, False, f"escapes with {env}")
        check_equal(shown.isascii(), True, "ASCII where the locale has no more")


def test_wrong_uses_are_refused_and_write_nothing():
    make_disk()
    before = pathlib.Path("disk").read_bytes()
    for args in (("--image=disk",), ("--image=out.png",), ("--picture", "-s", "1M"),
                 ("--picture", "--image=out.svg"), ("--picture", "-f", "raw")):
        expect_failure(oxbow_path(), "map", *args, "disk")
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "image unchanged")
    pathlib.Path("plain").write_bytes(bytes(CLUSTER))
    expect_failure(oxbow_path(), "map", "--picture", "plain")


run_tests(globals())
