#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow commit against qemu-img commit."""
from peers import *

NOTE = re.compile(r"^(oxbow: )?note: .*\n?", re.M)


def make_chain(top="qcow2", base="qcow2", base_size="1M"):
    """base <- mid <- top, each with something of its own."""
    qemu_img("create", "-q", "-f", base, "base", base_size)
    qemu_io("-f", base, "-c", "write -P 1 0 512k", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", base, "mid", "1M")
    qemu_io("-c", "write -P 2 128k 128k", "-c", "write -z 256k 64k", "mid")
    qemu_img("create", "-q", "-f", top, "-b", "mid", "-F", "qcow2", "top", "2M")
    qemu_io("-f", top, "-c", "write -P 3 64k 128k", "-c", "write -P 4 1536k 64k", "top")
    if top == "qcow2":
        qemu_io("-c", "write -z 320k 64k", "top")


FILES = "base", "mid", "top"


def bytes_of(path, fmt):
    raw = tmpdir() / "flat"
    qemu_img("convert", "-f", fmt, "-O", "raw", path, raw)
    return raw.read_bytes()


def committed_alike(*args, top="qcow2", base="qcow2"):
    theirs_at, ours_at = in_two_places(*FILES)
    before = bytes_of(ours_at / "top", top)
    theirs = qemu_img("commit", *args, check=False, cwd=theirs_at)
    ours = oxbow("commit", *args, check=False, cwd=ours_at)
    ours.stderr = NOTE.sub("", ours.stderr)
    check_same(theirs, ours, f"commit {args}")
    for name, fmt in (("base", base), ("mid", "qcow2"), ("top", top)):
        check_equal(bytes_of(ours_at / name, fmt) == bytes_of(theirs_at / name, fmt), True,
                    f"bytes of {name} after commit {args}")
        if fmt != "raw":
            checked(ours_at / name, fmt)
        check_equal((ours_at / name).stat().st_blocks <= (theirs_at / name).stat().st_blocks + 512, True,
                    f"{name} takes no more space")
    check_equal(bytes_of(ours_at / "top", top) == before, True, "the image reads the same")
    return ours_at


def checked(path, fmt):
    """QED has no list of free clusters: what is freed may leak."""
    result = qemu_img("check", "-f", fmt, path, check=False)
    check_equal(result.returncode in ((0, 3) if fmt == "qed" else (0,)), True, f"check of {path}: {result.stdout}")


def own_data(path, fmt="qcow2"):
    extents = json.loads(output("qemu-img", "map", "-f", fmt, "--output=json", path))
    return sum(e["length"] for e in extents if e["depth"] == 0 and e["present"])


def test_an_image_goes_into_its_backing_file_and_is_empty_after():
    make_chain()
    at = committed_alike("top")
    check_equal(own_data(at / "top"), 0)
    committed_alike("-f", "qcow2", "top")
    committed_alike("-t", "none", "top")
    committed_alike("-q", "top")


def test_a_dropped_image_keeps_what_it_has():
    make_chain()
    check_equal(own_data(committed_alike("-d", "top") / "top") > 0, True, "it keeps it")


def test_a_base_further_down_takes_what_lies_between():
    make_chain()
    for name in ("base", "./base", "mid", "nowhere", "", "top"):
        committed_alike("-b", name, "top")
    for name in ("base", "mid"):
        check_equal(own_data(committed_alike("-b", name, "top") / "top") > 0, True, "nothing is emptied")


def test_what_a_short_file_in_between_hides_is_zeroes_in_the_base():
    make_chain(base_size="4M")
    qemu_io("-c", "write -P 9 1M 2M", "base")
    committed_alike("-b", "base", "top")


def test_formats_are_mixed():
    for top, base in (("qcow2", "raw"), ("qcow2", "qed")):
        make_chain(top, base)
        committed_alike("-b", "base", "top", top=top, base=base)
        committed_alike("top", top=top, base=base)


def test_a_qed_image_is_emptied_too():
    make_chain("qed")
    at = in_two_places(*FILES)[1]
    before = bytes_of(at / "top", "qed")
    oxbow("commit", "top", cwd=at)
    check_equal(bytes_of(at / "top", "qed") == before, True, "the image reads the same")
    check_equal(bytes_of(at / "mid", "qcow2") == before, True, "and so does the base")
    check_equal(own_data(at / "top", "qed"), 0)
    checked(at / "top", "qed")


def test_small_clusters_and_snapshots_are_emptied():
    for options in ("cluster_size=512", "compat=0.10", "lazy_refcounts=on,cluster_size=4k", "cluster_size=2M"):
        qemu_img("create", "-q", "-f", "qcow2", "base", "3M")
        qemu_io("-c", "write -P 1 0 3M", "base")
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", "qcow2", "top")
        qemu_io("-c", "write -P 2 1M 1M", "-c", "write -P 3 100k 5k", "top")
        qemu_img("snapshot", "-c", "one", "top")
        qemu_io("-c", "write -P 4 1536k 1M", "top")
        before = bytes_of("top", "qcow2")
        result = oxbow("commit", "top")
        check_in("1 internal snapshots of 'top'", result.stderr)
        check_equal(bytes_of("top", "qcow2") == before, True, f"{options} reads the same")
        check_equal(own_data("top"), 0)
        qemu_img("check", "top")
        qemu_img("snapshot", "-a", "one", "top")
        said = output("qemu-io", "-c", "read -P 2 1M 1M", "-c", "read -P 3 100k 5k", "top")
        check_equal("failed" in said, False, f"the snapshot of {options}: {said}")


def test_an_empty_image_is_small_again():
    qemu_img("create", "-q", "-f", "qcow2", "base", "64M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    fresh = pathlib.Path("top").stat().st_size
    qemu_io("-c", "write 0 32M", "top")
    oxbow("commit", "-q", "top")
    check_equal(pathlib.Path("top").stat().st_size <= fresh + 65536, True, "length of the file")


def test_a_dry_run_says_what_would_be_copied_and_changes_nothing():
    make_chain()
    before = [pathlib.Path(name).read_bytes() for name in FILES]
    result = oxbow("commit", "--dry-run", "top")
    check_in("192 KiB (196608 bytes) of data and 64 KiB (65536 bytes) of zeroes would go into 'mid'", result.stdout)
    check_in("from 1048576 to 2097152 bytes", result.stdout)
    check_equal([pathlib.Path(name).read_bytes() for name in FILES] == before, True, "untouched")


def test_others_over_the_base_are_spoken_of():
    make_chain()
    check_in("any other image whose backing file is 'mid' now reads differently", oxbow("commit", "top").stderr)
    make_chain()
    check_equal(oxbow("commit", "-q", "top").stderr, "")


def test_wrong_command_lines_are_told_as_qemu_img_tells_them():
    make_chain()
    for args in ((), ("nofile",), ("-t", "foo", "top"), ("top", "x"), ("base",), ("-r", "x", "top"),
                 ("-f", "raw", "top"), ("--bogus", "top"), ("--image-opts", "driver=qcow2,file.filename=top")):
        committed_alike(*args)


def test_a_rate_bounds_it():
    make_chain()
    committed_alike("-r", "1G", "top")


def test_a_base_in_use_is_left_alone():
    make_chain()
    held = subprocess.Popen(["qemu-io", "-r", "mid"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        held.stdin.write(b"read 0 512\n")
        held.stdin.flush()
        held.stdout.readline()
        before = pathlib.Path("mid").read_bytes()
        expect_failure(oxbow_path(), "commit", "top", message="lock")
        check_equal(pathlib.Path("mid").read_bytes() == before, True, "untouched")
    finally:
        held.stdin.close()
        held.wait()


run_tests(globals())
