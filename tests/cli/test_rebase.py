#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow rebase against qemu-img rebase."""
from peers import *


def make_chain(options=()):
    qemu_img("create", "-q", "-f", "qcow2", "base", "1M")
    qemu_io("-c", "write -P 1 0 512k", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "mid", "1M")
    qemu_io("-c", "write -P 2 128k 128k", "-c", "write -z 256k 64k", "mid")
    qemu_img("create", "-q", "-f", "qcow2", *options, "-b", "mid", "-F", "qcow2", "top", "2000k")
    qemu_io("-c", "write -P 3 64k 128k", "-c", "write -P 4 1536k 64k", "top")
    qemu_img("create", "-q", "-f", "raw", "other", "3M")
    qemu_io("-f", "raw", "-c", "write -P 1 0 700k", "-c", "write -P 9 1M 2M", "other")


FILES = "base", "mid", "top", "other"


def bytes_of(path, fmt="qcow2"):
    raw = tmpdir() / "flat"
    qemu_img("convert", "-f", fmt, "-O", "raw", path, raw)
    return raw.read_bytes()


def names_of(path):
    info = json.loads(output("qemu-img", "info", "--output=json", path))
    return info.get("backing-filename"), info.get("backing-filename-format")


def rebased_alike(*args, readable=True):
    theirs_at, ours_at = in_two_places(*FILES)
    theirs = qemu_img("rebase", *args, check=False, cwd=theirs_at)
    ours = oxbow("rebase", *args, check=False, cwd=ours_at)
    check_same(theirs, ours, f"rebase {args}")
    check_equal(names_of(ours_at / "top"), names_of(theirs_at / "top"), f"names after rebase {args}")
    if readable:
        check_equal(bytes_of(ours_at / "top") == bytes_of(theirs_at / "top"), True, f"bytes after rebase {args}")
        qemu_img("check", "-q", ours_at / "top")
        taken = [(at / "top").stat().st_blocks // 2 for at in (ours_at, theirs_at)]
        check_equal(taken[0] <= taken[1] + 128, True, f"no more space after rebase {args} (KiB, {taken})")
    return ours_at


def test_an_image_reads_the_same_over_another_backing_file():
    for options in ((), ("-o", "cluster_size=512"), ("-o", "cluster_size=2M"), ("-o", "lazy_refcounts=on"),
                    ("-o", "compat=0.10")):
        make_chain(options)
        before = bytes_of("top")
        for args in (("-b", "base", "-F", "qcow2"), ("-b", "other", "-F", "raw"), ("-b", "",),
                     ("-b", "mid", "-F", "qcow2"), ("-t", "none", "-T", "none", "-b", "other", "-F", "raw")):
            at = rebased_alike(*args, "top")
            check_equal(bytes_of(at / "top") == before, True, f"rebase {args} of {options} keeps the bytes")


def test_names_of_a_file_with_no_format_over_it_are_raw():
    qemu_img("create", "-q", "-f", "raw", "base", "1M")
    qemu_io("-f", "raw", "-c", "write -q -P 6 0 64k", "base")
    for fmt in ("qcow2", "qed"):
        oxbow("create", "-q", "-f", fmt, "-b", "base", "-F", "file", "top")
        oxbow("io", "-f", fmt, "-c", "read -q -P 6 0 64k", "top")
        qemu_io("-r", "-f", fmt, "-c", "read -q -P 6 0 64k", "top")
        for name in ("host_device", "file"):
            oxbow("rebase", "-u", "-f", fmt, "-b", "base", "-F", name, "top")
            oxbow("io", "-f", fmt, "-c", "read -q -P 6 0 64k", "top")
            check_equal(names_of("top"), ("base", name if fmt == "qcow2" else "raw"), "what the image states")
            output(oxbow_path(), "info", "--backing-chain", "-f", fmt, "top")
    expect_failure(oxbow_path(), "rebase", "-u", "-b", "base", "-F", "host_cdrom", "top", message="Invalid format name")


def test_from_no_backing_file_to_one():
    make_chain()
    qemu_img("create", "-q", "-f", "qcow2", "top", "2000k")
    qemu_io("-c", "write -P 5 192k 64k", "top")
    before = bytes_of("top")
    at = rebased_alike("-b", "other", "-F", "raw", "top")
    check_equal(bytes_of(at / "top") == before, True, "zeroes stay zeroes")


LAYER = ("write -q -z 0 256k", "write -q -z -u 256k 256k", "write -q -z 517k 5k", "write -q -P 5 640k 256k",
         "write -q -z 640k 64k", "write -q -z -u 704k 64k", "discard -q 832k 64k", "write -q -z -u 1920k 80k")


def kinds_of(path):
    """Where in the disk QEMU's map tells of another kind, without the places in the file."""
    changes = []
    for run in json.loads(output("qemu-img", "map", "--output=json", path)):
        kind = run["present"], run["zero"], run["data"]
        if not changes or changes[-1][1] != kind:
            changes.append((run["start"], kind))
    return changes


def test_zeroes_of_a_layer_hide_a_backing_file_that_it_gets_later():
    (tmpdir() / "below").write_bytes(b"\x08" * (2 << 20))
    for fmt, options in (("qcow2", "cluster_size=512"), ("qcow2", "cluster_size=64k"),
                         ("qcow2", "cluster_size=2M"), ("qcow2", "lazy_refcounts=on"), ("qed", "cluster_size=64k")):
        for name, writer in (("theirs", qemu_io), ("ours", lambda *args: oxbow("io", *args))):
            qemu_img("create", "-q", "-f", fmt, "-o", options, name, "2000k")
            writer("-f", fmt, *[word for command in LAYER for word in ("-c", command)], name)
        if fmt == "qcow2" and options != "cluster_size=2M":
            check_equal(kinds_of("ours"), kinds_of("theirs"), f"the map with {options}")
        for name in ("theirs", "ours"):
            oxbow("rebase", "-u", "-f", fmt, "-b", "below", "-F", "raw", name)
            qemu_io("-r", "-f", fmt, "-c", "read -q -P 0 0 512k", "-c", "read -q -P 0 517k 5k",
                    "-c", "read -q -P 0 640k 128k", "-c", "read -q -P 5 768k 64k", "-c", "read -q -P 0 1920k 80k",
                    name)
            oxbow("check", "-q", "-f", fmt, name)
        if options != "cluster_size=2M":  # all of it is one cluster, whose rest reads as zeroes too
            qemu_io("-r", "-f", fmt, "-c", "read -q -P 8 1M 768k", "ours")


def test_past_the_old_end_there_are_zero_clusters():
    make_chain()
    oxbow("rebase", "-b", "other", "-F", "raw", "top")
    extents = json.loads(output("qemu-img", "map", "--output=json", "top"))
    past = [e for e in extents if e["start"] >= 1 << 20 and e["depth"] == 0 and e["data"]]
    check_equal(sum(e["length"] for e in past), 64 << 10, "data past the old end")


def test_unsafe_changes_the_name_alone():
    make_chain()
    for args in (("-b", "base", "-F", "qcow2"), ("-b", "other", "-F", "raw"), ("-b", ""), ()):
        rebased_alike("-u", *args, "top")
    rebased_alike("-u", "-b", "nowhere", "-F", "qcow2", "top", readable=False)
    before = pathlib.Path("top").read_bytes()
    oxbow("rebase", "-u", "-b", "base", "-F", "qcow2", "top")
    after = pathlib.Path("top").read_bytes()
    check_equal(after[65536:] == before[65536:], True, "nothing but the header changes")


def test_a_format_is_needed():
    make_chain()
    for args in (("-b", "base", "top"), ("-u", "-b", "base", "top"), ("-b", "base", "-F", "blah", "top")):
        rebased_alike(*args)


def test_a_chain_that_contains_itself_is_refused_when_it_is_made():
    make_chain()
    for name in ("top", "./top", str(tmpdir() / "top")):
        for how in ((), ("-u",)):
            expect_failure(oxbow_path(), "rebase", *how, "-b", name, "-F", "qcow2", "top",
                           message=f"Backing file '{name}' creates an infinite loop.")
    for how in ((), ("-u",)):
        expect_failure(oxbow_path(), "rebase", *how, "-b", "top", "-F", "qcow2", "base", message="infinite loop")
        expect_failure(oxbow_path(), "rebase", *how, "-b", "top", "-F", "qcow2", "mid", message="infinite loop")
    check_equal(names_of("top"), ("mid", "qcow2"))
    check_equal(names_of("base"), (None, None))


def test_a_chain_that_contains_itself_is_refused_when_it_is_opened():
    make_chain()
    qemu_img("rebase", "-u", "-b", "top", "-F", "qcow2", "base")
    for verb in (("map",), ("rebase", "-b", "", ), ("commit",), ("resize", "--dry-run")):
        more = ("1G",) if verb[0] == "resize" else ()
        expect_failure(oxbow_path(), *verb, "top", *more, message="endless loop")
    theirs = qemu_img("info", "--backing-chain", "top", check=False)
    ours = oxbow("info", "--backing-chain", "top", check=False)
    check_same(theirs, ours, "info --backing-chain of a loop")
    oxbow("rebase", "-u", "-b", "", "base")
    check_equal(names_of("base"), (None, None), "the way out")


def test_a_name_that_does_not_fit_is_refused_before_anything_is_written():
    make_chain()
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "small", "1M")
    qemu_img("create", "-q", "-f", "qed", "other.qed", "1M")
    for file, length, why in (("top", 1024, "name too long"), ("small", 450, "No space left in the file header"),
                              ("other.qed", 1024, "name too long")):
        before = pathlib.Path(file).read_bytes()
        expect_failure(oxbow_path(), "rebase", "-u", "-b", "x" * length, "-F", "qcow2", file, message=why)
        check_equal(pathlib.Path(file).read_bytes() == before, True, f"{file} is untouched")


def test_names_of_every_length_are_read_back():
    make_chain()
    for file, longest in (("top", 1023), ("old", 1023), ("small", 300), ("qed", 1023)):
        fmt = "qed" if file == "qed" else "qcow2"
        options = {"old": ("-o", "compat=0.10"), "small": ("-o", "cluster_size=512")}.get(file, ())
        if file != "top":
            qemu_img("create", "-q", "-f", fmt, *options, file, "1M")
        for i, length in enumerate((1, 20, 300, 61, 1023, 900, 1, 1022, 500)):
            if length > longest:
                continue
            name = "./" + "n" * (length - 2) if length > 2 else "n"
            backing_format = ("qcow2", "raw")[i % 2]
            oxbow("rebase", "-u", "-b", name, "-F", backing_format, file)
            info = json.loads(output("qemu-img", "info", "-f", fmt, "--output=json", file))
            check_equal(info["backing-filename"], name, f"name of {length} in {file}")
            ours = json.loads(output(oxbow_path(), "info", "--output=json", file))
            check_equal(ours["backing-filename"], name, f"name of {length} in {file}")
            if fmt == "qcow2":
                check_equal(info["backing-filename-format"], backing_format)
            else:
                check_equal(info.get("backing-filename-format"), "raw" if backing_format == "raw" else None)
        oxbow("rebase", "-u", "-b", "", file)
        check_equal(names_of(file), (None, None), file)
        qemu_img("check", "-q", "-f", fmt, file)


def test_extensions_stay_what_they_are():
    make_chain()
    qemu_img("bitmap", "--add", "base", "b0")
    before = json.loads(output("qemu-img", "info", "--output=json", "base"))["format-specific"]["data"]
    qemu_img("create", "-q", "-f", "qcow2", "below", "1M")
    oxbow("rebase", "-u", "-b", "./a-name-of-some-length-or-other-to-fill-the-sector", "-F", "raw", "base")
    after = json.loads(output("qemu-img", "info", "--output=json", "base"))["format-specific"]["data"]
    check_equal(after["compat"], before["compat"])
    check_equal(oxbow("check", "base").returncode, 0)


def test_a_dry_run_says_what_would_be_copied_and_changes_nothing():
    make_chain()
    before = pathlib.Path("top").read_bytes()
    said = oxbow("rebase", "--dry-run", "-b", "base", "-F", "qcow2", "top").stdout
    check_in("64 KiB (65536 bytes) of data and 64 KiB (65536 bytes) of zeroes would be written into 'top'", said)
    check_in("backing file would be 'base', of format qcow2", said)
    check_equal(pathlib.Path("top").read_bytes() == before, True, "untouched")
    check_in("would have no backing file", oxbow("rebase", "--dry-run", "-u", "-b", "", "top").stdout)


def test_wrong_command_lines_are_told_as_qemu_img_tells_them():
    make_chain()
    for args in ((), ("top",), ("-b", "base", "-F", "qcow2"), ("-t", "foo", "-b", "base", "-F", "qcow2", "top"),
                 ("-T", "foo", "-b", "base", "-F", "qcow2", "top"), ("-b", "nofile", "-F", "qcow2", "top"),
                 ("-b", "mid", "-F", "qcow2", "top", "x"), ("nofile", "-b", "x", "-F", "raw"),
                 ("-f", "raw", "-b", "mid", "-F", "qcow2", "other"), ("--bogus", "top"), ("-b", "base", "-F", "", "top"),
                 ("--image-opts", "-u", "-b", "base", "-F", "qcow2", "driver=qcow2,file.filename=top"),
                 ("-U", "-u", "-b", "base", "-F", "qcow2", "top"), ("-q", "-b", "base", "-F", "qcow2", "top")):
        rebased_alike(*args)

    refused = oxbow("rebase", "-c", "-f", "raw", "-b", "", "other", check=False)
    check_equal((refused.returncode, refused.stderr), (1, "oxbow: Compression not supported for this file format\n"))


run_tests(globals())
