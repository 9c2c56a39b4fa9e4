#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow dd against qemu-img dd: the part that is copied, and what is said."""
from peers import *

SIZE = 100 * 1024 + 300


def make_source():
    pathlib.Path("in").write_bytes(bytes((i // 512 * 7 + i) & 0xff for i in range(SIZE)))


def same(one, other, fmt):
    qemu_img("compare", "-f", "raw", "-F", fmt, one, other)


def both(*args):
    """The same words, the same exit status, the same target."""
    theirs_at, ours_at = apart_as_qemu_img("dd", *args, files=["in"])
    made = [at / "out" for at in (theirs_at, ours_at)]
    check_equal(made[1].exists(), made[0].exists(), f"a target of {args}")
    return made


def test_the_part_is_the_one_that_qemu_img_takes():
    make_source()
    for operands in ((), ("bs=1M",), ("bs=1000",), ("bs=1000", "count=3"), ("bs=1000", "count=0"),
                     ("bs=1000", "count=3", "skip=2"), ("count=1M",), ("skip=100",), ("bs=1k", "skip=5"),
                     ("bs=1.5k", "skip=7", "count=20"), ("bs=0x200", "skip=3"), ("bs=1000", "skip=1"),
                     ("count=3", "skip=5"), ("bs=1M", "skip=2"), ("bs=1k", "skip=8191P"),
                     ("bs=1", "skip=77", "count=5000"), ("count=9E", "skip=1")):
        theirs, ours = both("-f", "raw", *operands, "if=in", "of=out")
        if theirs.exists():
            check_equal(ours.read_bytes(), theirs.read_bytes(), f"what {operands} copy")


def test_every_format_gets_and_gives_the_same_part():
    make_source()
    qemu_img("create", "-q", "-f", "qcow2", "base", "8M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 3 1M 3M", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    qemu_io("-f", "qcow2", "-c", "write -q -P 4 2M 100000", "-c", "write -q -z 3M 64k", "top")
    for operands in (("bs=1M", "skip=1"), ("bs=1000", "skip=2000", "count=5000"), ("bs=64k", "count=33")):
        qemu_img("dd", *operands, "if=top", "of=theirs")
        for fmt in ("raw", "qcow2", "qed"):
            oxbow("dd", "-O", fmt, *operands, "if=top", f"of=ours.{fmt}")
            check_equal(json.loads(qemu_img("info", "--output=json", f"ours.{fmt}").stdout)["virtual-size"],
                        os.stat("theirs").st_size, f"size of {fmt}")
            same("theirs", f"ours.{fmt}", fmt)
    oxbow("dd", "-U", "--image-opts", "bs=1M", "count=3", "if=driver=qcow2,file.filename=top", "of=again")
    qemu_img("dd", "bs=1M", "count=3", "if=top", "of=theirs")
    same("theirs", "again", "raw")


def test_wrong_command_lines_are_answered_as_by_qemu_img():
    make_source()
    for args in ((), ("if=in",), ("of=out",), ("if=in", "of=a:b")):
        both(*args)
    for args in (("bs=0",), ("bs=-1",), ("bs=abc",), ("bs=",), ("bs=2G",), ("bs=4G",), ("count=-1",),
                 ("count=abc",), ("count=9000P", "count=x"), ("skip=zz",), ("seek=1",), ("conv=notrunc",),
                 ("foo",), ("=3",), ("--bad",), ("-O", "bogus"), ("-f", "raw", "--image-opts"),
                 ("--object", "foo")):
        both(*args, "if=in", "of=out")
    for args in (("if=nowhere", "of=out"), ("if=a:b", "of=out"), ("-f", "bogus", "if=in", "of=out"),
                 ("if=json:{}", "of=out")):
        expect_failure(oxbow_path(), "dd", *args, message="Could not open ")
    check_equal(os.path.exists("out"), False, "a target")
    expect_failure(oxbow_path(), "dd", "-f", "raw", "if=in", "of=nowhere/out",
                   message="nowhere/out: error while creating output image: ")


def test_an_image_is_not_copied_to_itself():
    make_source()
    before = pathlib.Path("in").read_bytes()
    expect_failure(oxbow_path(), "dd", "-f", "raw", "if=in", "of=in", message="error while creating output image")
    check_equal(pathlib.Path("in").read_bytes(), before, "the source")


def test_what_was_there_goes():
    make_source()
    pathlib.Path("out").write_bytes(b"x" * 300000)
    oxbow("dd", "-f", "raw", "bs=1000", "count=2", "if=in", "of=out")
    check_equal(pathlib.Path("out").read_bytes(), pathlib.Path("in").read_bytes()[:2000] + bytes(48), "the target")


run_tests(globals())
