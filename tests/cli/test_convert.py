#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow convert against qemu-img convert: what it says, what it makes, and what it leaves behind."""
import random
import shutil
from peers import *


def make_source(name="source.qcow2", fmt="qcow2", size="24M", seed=1):
    """An image with data and holes of all sizes."""
    chance = random.Random(seed)
    qemu_img("create", "-q", "-f", fmt, name, size)
    writes = []
    for _ in range(40):
        at = chance.randrange(0, 23 << 20) // 512 * 512
        length = min(chance.choice((512, 4096, 5120, 65536, 300000)), (24 << 20) - at) // 512 * 512
        writes += ["-c", f"write -q -P {chance.randrange(0, 250)} {at} {length}"]
    qemu_io("-f", fmt, *writes, name)
    return name


def same(one, other, *args):
    qemu_img("compare", *args, one, other)


def test_every_pair_of_formats_reads_alike_and_is_no_larger():
    source = make_source()
    for fmt in ("raw", "qcow2", "qed"):
        oxbow("convert", "-O", fmt, source, f"ours.{fmt}")
        qemu_img("convert", "-O", fmt, source, f"theirs.{fmt}")
        same(source, f"ours.{fmt}", "-F", fmt)
        if fmt != "raw":
            qemu_img("check", "-q", f"ours.{fmt}")
        ours, theirs = (os.stat(f"{who}.{fmt}") for who in ("ours", "theirs"))
        if ours.st_size > theirs.st_size or ours.st_blocks > theirs.st_blocks + 64:
            raise Failure(f"{fmt}: {ours.st_size} bytes, {ours.st_blocks} blocks; of qemu-img "
                          f"{theirs.st_size}, {theirs.st_blocks}")
        for back in ("raw", "qcow2"):
            oxbow("convert", "-f", fmt, "-O", back, f"ours.{fmt}", "again")
            same(source, "again", "-F", back)
            os.unlink("again")


def test_options_give_what_qemu_img_gives():
    source = make_source()
    for options in (("-S", "0"), ("-S", "64k"), ("-W", "-m", "16"), ("-m", "1"), ("-t", "none", "-T", "none"),
                    ("-o", "cluster_size=512"), ("-o", "cluster_size=2M,compat=0.10"), ("-c",),
                    ("-o", "lazy_refcounts=on,refcount_bits=1"), ("-C",), ("-r", "1G"),
                    ("-o", "preallocation=metadata"), ("--verify",), ("--resume",), ("--memory", "1M")):
        oxbow("convert", *options, "-O", "qcow2", source, "ours")
        same(source, "ours")
        qemu_img("check", "-q", "ours")
    check_equal(sorted(os.listdir()), ["ours", source], "files that are left")


def test_wrong_command_lines_are_answered_as_by_qemu_img():
    make_source("a.qcow2")
    qemu_img("create", "-q", "small", "512k")
    for args in ((), ("a.qcow2",), ("-O", "bogus", "a.qcow2", "b"), ("-f", "bogus", "a.qcow2", "b"),
                 ("missing", "b"), ("-S", "3", "a.qcow2", "b"), ("-S", "1000x", "a.qcow2", "b"),
                 ("-m", "17", "a.qcow2", "b"), ("-m", "0", "a.qcow2", "b"), ("-c", "a.qcow2", "b"),
                 ("-c", "-C", "a.qcow2", "b"), ("-C", "-S", "4k", "a.qcow2", "b"),
                 ("-n", "a.qcow2", "missing"), ("-n", "-o", "size=1M", "a.qcow2", "b"),
                 ("--target-is-zero", "a.qcow2", "b"), ("-t", "bogus", "a.qcow2", "b"),
                 ("-T", "bogus", "a.qcow2", "b"), ("-r", "x", "a.qcow2", "b"),
                 ("-B", "nob", "-O", "qcow2", "a.qcow2", "b"), ("--bitmaps", "a.qcow2", "b"),
                 ("-B", "a.qcow2", "-O", "qcow2", "a.qcow2", "a.qcow2", "b"),
                 ("-n", "-B", "a.qcow2", "-F", "qcow2", "-O", "qcow2", "a.qcow2", "a.qcow2", "small"),
                 ("-c", "-o", "preallocation=full", "-O", "qcow2", "a.qcow2", "b"),
                 ("-o", ",a", "-O", "qcow2", "a.qcow2", "b"), ("-s", "1", "a.qcow2", "b"), ("--bogus", "a", "b"),
                 ("--image-opts", "-f", "raw", "a", "b"), ("-l", "x", "a.qcow2", "a.qcow2", "b"),
                 ("--target-image-opts", "-O", "raw", "a.qcow2", "driver=raw,file.filename=b"),
                 ("--skip-broken-bitmaps", "a.qcow2", "b"), ("-n", "a.qcow2", "small"),
                 ("a.qcow2", "a:b"), ("a:b", "b")):
        same_as_qemu_img("convert", *args)


def test_progress_is_as_of_qemu_img():
    make_source("a.qcow2")
    said = oxbow("convert", "-p", "a.qcow2", "b").stdout
    check_in("    (0.00/100%)", said[:16])
    check_in("    (100.00/100%)", said)
    check_equal(said[-1], "\n", "the last character")
    check_equal(oxbow("convert", "-p", "-q", "a.qcow2", "c").stdout, "", "what -q leaves of -p")
    lines = [json.loads(line) for line in output(oxbow_path(), "convert", "--progress=json", "a.qcow2", "d").split("\n") if line]
    check_equal(lines[-1]["done"], lines[-1]["total"], "what is done at the end")


def test_progress_counts_what_is_copied():
    qemu_img("create", "-q", "-f", "qcow2", "a.qcow2", "128M")
    for at in (0, 2, 4, 32):
        qemu_io("-f", "qcow2", "-c", f"write -q {at}M 1M", "a.qcow2")
    theirs = qemu_img("convert", "-p", "-O", "qcow2", "a.qcow2", "theirs").stdout
    check_equal(oxbow("convert", "-p", "-O", "qcow2", "a.qcow2", "ours").stdout, theirs, "progress")
    last = json.loads(oxbow("convert", "--progress=json", "a.qcow2", "b").stdout.splitlines()[-1])
    check_equal((last["done"], last["total"]), (4 << 20, 4 << 20), "what is done, and in all")
    # Zeroes that are written as bytes are work as well.
    last = json.loads(oxbow("convert", "--progress=json", "-S", "0", "a.qcow2", "b").stdout.splitlines()[-1])
    check_equal((last["done"], last["total"]), (128 << 20, 128 << 20), "what is done, and in all, with -S 0")


def map_of(name):
    return [(row["start"], row["length"], row["data"], row.get("compressed"))
            for row in json.loads(output("qemu-img", "map", "--output=json", name))]


def test_zeroes_over_a_backing_file_are_kept_however_that_was_named():
    oxbow("create", "-q", "-f", "qcow2", "base", "4M")
    oxbow("io", "-c", "write -q -P 1 0 4M", "base")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    oxbow("io", "-c", "write -q -z 1M 1M", "-c", "write -q -P 2 2M 64k", "top")
    oxbow("convert", "-f", "qcow2", "-O", "raw", "top", "flat")
    for fmt in ("qcow2", "qed"):
        for more in ([], ["-c"], ["-W"]):
            if fmt == "qed" and more == ["-c"]:
                continue
            for source in ("top", "flat"):
                for words in (["-B", "base", "-F", "qcow2"], ["-o", "backing_file=base,backing_fmt=qcow2"]):
                    oxbow("convert", "-O", fmt, *more, *words, source, "out")
                    oxbow("compare", "-q", "top", "out")


def test_a_target_that_its_backing_file_needs_keeps_its_bytes():
    oxbow("create", "-q", "-f", "qcow2", "base", "1M")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "mid")
    oxbow("create", "-q", "-f", "qcow2", "source", "1M")
    before = pathlib.Path("base").read_bytes()
    os.link("base", "other")
    for target, backing, message in (("base", "base", "same filename as the backing file"),
                                     ("other", "base", "same filename as the backing file"),
                                     ("base", "mid", "'mid' is based on it")):
        for words in (["-B", backing, "-F", "qcow2"], ["-o", f"backing_file={backing},backing_fmt=qcow2"]):
            expect_failure(oxbow_path(), "convert", "-O", "qcow2", *words, "source", target, message=message)
            check_equal(pathlib.Path("base").read_bytes() == before, True, "the file")


def test_a_target_that_cannot_be_made_is_named_as_it_was_given():
    pathlib.Path("source").write_bytes(bytes(4096))
    said = expect_failure(oxbow_path(), "convert", "-f", "raw", "-O", "raw", "source", "none/x")
    check_in("Could not create 'none/x': No such file or directory", said.stderr, "the message")


def test_no_zeroes_are_left_out_of_a_compressed_target_where_none_are_to_be():
    source = make_source()
    qemu_io("-f", "qcow2", "-c", "write -q -P 0 1M 1M", source)
    for options in ((), ("-o", "cluster_size=512"), ("-o", "cluster_size=2M")):
        oxbow("convert", "-c", "-S", "0", *options, "-O", "qcow2", source, "ours")
        same(source, "ours")
        qemu_img("check", "-q", "ours")
        check_equal([row for row in map_of("ours") if not row[2]], [], f"what is not allocated with {options}")


def test_small_compressed_clusters_of_zeroes_are_left_out_each():
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=1k", "a.qcow2", "4M")
    for command in ("write -P 0 0 64k", "write 0 1k", "write 8k 1k", "write 17k 1k"):
        qemu_io("-f", "qcow2", "-c", command, "a.qcow2")
    for sparse in ("4k", "8k"):
        for who in (oxbow, qemu_img):
            who("convert", "-c", "-S", sparse, "-o", "cluster_size=1k", "-O", "qcow2", "a.qcow2", who.__name__)
        check_equal(map_of("oxbow"), map_of("qemu_img"), f"the map with -S {sparse}")


def test_a_disk_that_holds_nothing_is_read_and_written():
    description = "json:{'driver': 'null-co', 'size': 1048576, 'read-zeroes': true}"
    for options, taken in ((("-S", "512"), False), (("-S", "0"), True)):
        oxbow("convert", "-O", "qcow2", *options, description, "new")
        check_equal([row[2] for row in map_of("new")], [taken], f"what is data with {options}")
    info = json.loads(output(oxbow_path(), "info", "--output=json", "null-co://"))
    check_equal(info["virtual-size"], 1 << 30, "size without a word")
    oxbow("io", "-c", "write -P 7 0 64k", "-c", "read -P 0 0 64k", "--image-opts", "driver=raw,file.driver=null-co,file.size=64k")
    oxbow("convert", "-n", "-O", "raw", make_source(), "null-co://")
    oxbow("compare", "null-co://?size=1048576", "new")
    for bad, why in (("null-co://x", "is not of the form"), ("null-co://?size=1x", "is not of the form"),
                     ("driver=null-co,size=x", "expects a size"), ("driver=qcow2,file.filename=new,size=1", "Invalid parameter 'size'"),
                     ("driver=null-co,host=x", "Invalid parameter 'host'")):
        expect_failure(oxbow_path(), "info", *(["--image-opts"] if "=" in bad[:7] else []), bad, message=why)
    for words in (("create", "-f", "qcow2", "null-co://", "1M"), ("convert", "-O", "qcow2", "new", "null-co://")):
        expect_failure(oxbow_path(), *words, message="'null-co' does not support image creation")
    # What an image names is a file's path always.
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "null-co://", "-F", "raw", "over", "1M")
    expect_failure(oxbow_path(), "io", "-r", "-c", "read 0 512", "over", message="No such file")


def test_sources_are_joined_at_sectors():
    for name, length, byte in (("x", 1000, b"x"), ("y", 70000, b"y")):
        pathlib.Path(name).write_bytes(byte * length)
    oxbow("convert", "-f", "raw", "-O", "qcow2", "x", "y", "x", "ours")
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "x", "y", "x", "theirs")
    same("ours", "theirs")


def test_an_empty_target_of_8_tib_stays_empty():
    for name in ("a", "b"):
        qemu_img("create", "-q", "-f", "qcow2", name, "8T")
    before = os.stat("b").st_blocks
    oxbow("convert", "-n", "-O", "qcow2", "a", "b")
    check_equal(os.stat("b").st_blocks <= before, True, "whether it has not grown")


def test_old_bytes_go_but_for_those_behind_the_end():
    source = make_source()
    for fmt in ("raw", "qcow2"):
        for flag in ((), ("--target-is-zero",)):
            qemu_img("create", "-q", "-f", fmt, "old", "30M")
            qemu_io("-f", fmt, "-c", "write -q -P 170 0 30M", "old")
            oxbow("convert", "-n", *flag, "-O", fmt, source, "old")
            qemu_io("-f", fmt, "-r", "-c", "read -P 170 24M 6M", "old")
            oxbow("convert", "-O", "raw", "-f", fmt, "old", "flat")
            os.truncate("flat", 24 << 20)
            same(source, "flat", "-F", "raw")


def test_a_target_with_a_backing_file_gets_the_top_alone():
    base = make_source("base.qcow2")
    os.mkdir("sub")
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, "top")
    qemu_io("-f", "qcow2", "-c", "write -q -P 7 1M 100k", "-c", "write -q -z 5M 1M", "top")
    oxbow("convert", "-O", "qcow2", "-B", "../base.qcow2", "-F", "qcow2", "top", "sub/ours")
    same("top", "sub/ours")
    if os.stat("sub/ours").st_size > 1 << 20:
        raise Failure("more than the top was copied")


def test_a_failed_target_leaves_no_image():
    source = make_source(size="24M")
    script = 'ulimit -f 4000; trap "" XFSZ; exec "$@"'
    for fmt in ("raw", "qcow2", "qed"):
        expect_failure("bash", "-c", script, "bash", oxbow_path(), "convert", "-S", "0", "-O", fmt, source, "new",
                       message="File too large")
        check_equal(sorted(os.listdir()), [source], f"files that are left, {fmt}")


def start_slow(*args):
    return subprocess.Popen([oxbow_path(), "convert", "-r", "8M", *map(str, args)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def await_file(name):
    for _ in range(600):
        if any(name in found and os.stat(found).st_size > 1 << 20 for found in os.listdir()):
            return
        time.sleep(0.02)
    raise Failure(f"{name} did not grow")


def test_a_killed_target_is_no_image():
    source = make_source()
    for fmt in ("qcow2", "qed", "raw"):
        process = start_slow("-S", "0", "-O", fmt, source, "new")
        await_file("new")
        process.kill()
        process.communicate()
        if fmt == "raw":
            check_equal(os.path.exists("new"), False, "whether the name is there")
            os.unlink(next(name for name in os.listdir() if name.startswith(".new.oxbow-")))
        else:
            expect_failure("qemu-img", "check", "-f", fmt, "new", message="Could not open")
            check_equal(pathlib.Path("new").read_bytes()[:4096], bytes(4096), "its first bytes")
            os.unlink("new")


def test_a_signal_removes_what_was_begun_and_usr1_prints_a_line():
    source = make_source()
    process = start_slow("-S", "0", "-O", "qcow2", source, "new")
    await_file("new")
    process.send_signal(signal.SIGUSR1)
    line = process.stderr.readline()
    check_in("/100%)\n", line)
    process.terminate()
    process.communicate()
    check_equal(process.returncode, -signal.SIGTERM, "exit code")
    check_equal(os.listdir(), [source], "files that are left")


def test_a_conversion_that_is_killed_goes_on_where_it_was():
    source = make_source()
    chance = random.Random(7)
    for fmt, options in (("qcow2", ()), ("qcow2", ("-o", "lazy_refcounts=on")), ("qed", ()), ("raw", ())):
        oxbow("convert", "-S", "0", "-O", fmt, *options, source, "clean")
        for _ in range(3):
            process = start_slow("--resume", "-S", "0", "-O", fmt, *options, source, "new")
            try:
                process.wait(0.2 + chance.random())
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
        oxbow("convert", "--resume", "--verify", "-S", "0", "-O", fmt, *options, source, "new")
        same(source, "new", "-F", fmt)
        if fmt != "raw":
            qemu_img("check", "-q", "new")
        if os.stat("new").st_size > os.stat("clean").st_size:
            raise Failure(f"{fmt}: {os.stat('new').st_size} bytes, undisturbed {os.stat('clean').st_size}")
        check_equal(sorted(os.listdir()), ["clean", "new", source], "files that are left")
        os.unlink("new")


def test_a_source_that_has_changed_is_not_gone_on_with():
    source = make_source()
    process = start_slow("--resume", "-S", "0", "-O", "qcow2", source, "new")
    await_file("new")
    process.kill()
    process.communicate()
    qemu_io("-f", "qcow2", "-c", "write -q -P 3 0 64k", source)
    expect_failure(oxbow_path(), "convert", "--resume", "-S", "0", "-O", "qcow2", source, "new", message="have changed since")


def test_a_target_that_was_there_keeps_its_inode_and_its_links():
    source = make_source()
    for fmt in ("raw", "qcow2"):
        pathlib.Path("old").write_bytes(b"old" * 100000)
        os.link("old", "hard")
        os.symlink("old", "soft")
        inode = os.stat("old").st_ino
        oxbow("convert", "-O", fmt, source, "soft")
        check_equal(os.stat("old").st_ino, inode, "inode")
        check_equal(os.path.islink("soft"), True, "whether the link is one")
        same(source, "hard", "-F", fmt)
        for name in ("soft", "hard", "old"):
            os.unlink(name)


def test_what_cannot_be_read_is_salvaged():
    qemu_img("create", "-q", "-f", "qcow2", "bad", "2M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 5 0 2M", "bad")
    found = json.loads(output("qemu-img", "map", "--output=json", "bad"))
    entry = found[0]["offset"] - 65536  # the L2 table lies before the first cluster
    with open("bad", "r+b") as file:
        file.seek(entry + 8 * 3)
        file.write((1 << 63 | 0x7ff000000).to_bytes(8, "big"))
    expect_failure(oxbow_path(), "convert", "-O", "raw", "bad", "new", message="error while reading")
    result = oxbow("convert", "--salvage", "-O", "raw", "bad", "new")
    check_in("warning: error while reading offset 196608: ", result.stderr)
    check_equal(pathlib.Path("new").read_bytes(),
                b"\5" * 196608 + bytes(65536) + b"\5" * ((2 << 20) - 262144), "what was saved")


def make_snapshots():
    """a has grown since its snapshot s1, b has shrunk."""
    for name, before, after in (("a", 1, 2), ("b", 2, 1)):
        qemu_img("create", "-q", "-f", "qcow2", name, f"{before}M")
        qemu_io("-f", "qcow2", "-c", f"write -q -P 0x11 64k {before * 1024 - 128}k", name)
        qemu_img("snapshot", "-c", "s1", name)
        qemu_img("resize", "-q", "-f", "qcow2", "--shrink", name, f"{after}M")
        qemu_io("-f", "qcow2", "-c", f"write -q -P 0x22 0 {after}M", name)


def test_a_snapshot_is_copied_in_the_size_that_its_image_has():
    make_snapshots()
    for name in ("a", "b"):
        for words in ("s1", "1", "snapshot.name=s1", "snapshot.id=1,snapshot.name=s1"):
            qemu_img("convert", "-l", words, name, "theirs")
            said_of = oxbow("convert", "--verify", "-l", words, name, "ours").stderr
            check_equal(pathlib.Path("ours").read_bytes(), pathlib.Path("theirs").read_bytes(),
                        f"bytes of {name} at {words}")
            check_equal("the last 1048576 bytes of that are left out" in said_of, name == "b", "a warning")
        oxbow("convert", "-l", "s1", "-O", "qcow2", name, "ours.qcow2")
        same("theirs", "ours.qcow2", "-f", "raw", "-F", "qcow2")


def test_a_snapshot_that_is_not_there_is_told_as_by_qemu_img():
    make_snapshots()
    for words in ("nope", "snapshot.id=7", "snapshot.name=1", "snapshot.bad=7",
                  "snapshot.id=1,snapshot.name=nope"):
        same_as_qemu_img("convert", "-l", words, "a", "new")
    same_as_qemu_img("convert", "-l", "s1", "a", "b", "new")
    qemu_img("create", "-q", "raw", "1M")
    expect_failure(oxbow_path(), "convert", "-f", "raw", "-l", "s1", "raw", "new",
                   message="Failed to load snapshot: ")
    check_equal(os.path.exists("new"), False, "a target")


def test_a_target_that_was_there_reads_zeroes_behind_a_smaller_snapshot():
    make_snapshots()
    for who, run in (("theirs", qemu_img), ("ours", oxbow)):
        pathlib.Path(who).write_bytes(b"x" * (2 << 20))
        run("convert", "-n", "-l", "s1", "-O", "raw", "a", who)
    check_equal(pathlib.Path("ours").read_bytes(), pathlib.Path("theirs").read_bytes(), "what was written")
    qemu_img("create", "-q", "small", "1M")
    same_as_qemu_img("convert", "-n", "-l", "s1", "-O", "raw", "a", "small")


def test_a_target_that_is_there_gets_the_top_alone_with_a_backing_file():
    qemu_img("create", "-q", "-f", "qcow2", "base", "1M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 1 0 1M", "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    qemu_io("-f", "qcow2", "-c", "write -q -P 2 64k 64k", "top")
    for options in (("-B", "base"), ("-B", "base", "-F", "qcow2"), ("-B", "nowhere")):
        qemu_img("create", "-q", "-f", "qcow2", "new", "1M")
        oxbow("convert", "-n", *options, "-O", "qcow2", "top", "new")
        maps = json.loads(qemu_img("map", "--output=json", "new").stdout)
        check_equal([(e["start"], e["length"]) for e in maps if e["data"]], [(65536, 65536)], "data")
    same_as_qemu_img("convert", "-n", "-B", "base", "-O", "qcow2", "top", "top", "new")


def test_sources_are_named_as_for_every_verb():
    make_source()
    description = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": "source.qcow2"}})
    secret = ("--object", "secret,id=s0,data=x")
    oxbow("convert", *secret, "json:" + description, "ours")
    same("source.qcow2", "ours", "-f", "qcow2", "-F", "raw")
    for source in ("a:b", "json:{}"):
        expect_failure(oxbow_path(), "convert", source, "new", message="")
    same_as_qemu_img("convert", "a:b", "new")
    for verb in (("resize", "source.qcow2", "24M"), ("rebase", "-u", "-b", "", "source.qcow2"),
                 ("checksum", "source.qcow2"), ("measure", "source.qcow2")):
        oxbow(verb[0], *secret, *verb[1:])
        expect_failure(oxbow_path(), verb[0], "--object", "foo", *verb[1:],
                       message="Parameter 'qom-type' does not accept value 'foo'")
    expect_failure(oxbow_path(), "commit", "--object", "foo", "source.qcow2",
                   message="Parameter 'qom-type' does not accept value 'foo'")


run_tests(globals())
