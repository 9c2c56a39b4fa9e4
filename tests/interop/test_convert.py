#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Random chains converted to and fro, compared by qemu-img; and targets that are full, or devices."""
import itertools
import random
import resource

from hostfs import *

ROUNDS = 6
CREATE_OPTIONS = ("cluster_size=64k", "cluster_size=512", "cluster_size=4k,lazy_refcounts=on", "compat=0.10",
                  "cluster_size=1M", "cluster_size=32k,refcount_bits=64")
TARGET_OPTIONS = ("cluster_size=64k", "cluster_size=512", "cluster_size=4k,lazy_refcounts=on", "compat=0.10",
                  "cluster_size=2M", "refcount_bits=1", "preallocation=metadata")
OPTIONS = ((), ("-S", "0"), ("-S", "64k"), ("-W", "-m", "8"), ("-m", "1"), ("-t", "none"), ("-t", "unsafe"),
           ("-T", "none"), ("--resume",), ("--verify",), ("--memory", "1M"), ("--resume", "--verify", "-t", "none"))


def scribble(rng, name, fmt, size):
    commands = []
    for _ in range(rng.randrange(1, 14)):
        start = rng.randrange(size // 512) * 512
        length = min(rng.choice((512, 4096, 65536, 300 * KIB)) * rng.randrange(1, 4), size - start)
        zeroes = fmt != "raw" and rng.random() < 0.3
        what = "-z" if zeroes else f"-P {rng.choice((0, 1, 77, 255))}"
        commands += ["-c", f"write -q {what} {start} {length}"]
    qemu_io("-f", fmt, *commands, name)


def make_chain(rng):
    """The name and the format of the top of one to three images."""
    name = fmt = None
    for n in range(rng.randrange(1, 4)):
        below, below_fmt = name, fmt
        fmt = rng.choice(("qcow2", "qcow2", "qed")) if n else rng.choice(("raw", "qcow2", "qed"))
        size = rng.randrange(1, 6 << 11) * 512
        options = ("-o", rng.choice(CREATE_OPTIONS)) if fmt == "qcow2" else ()
        backing = ("-b", below, "-F", below_fmt) if below else ()
        name = f"i{n}"
        qemu_img("create", "-q", "-f", fmt, *options, *backing, name, size)
        scribble(rng, name, fmt, size)
    return name, fmt


def check_clean(name, fmt):
    if fmt != "raw":
        qemu_img("check", "-q", "-f", fmt, name)


def test_random_chains_read_alike_whoever_converts_them():
    rng = random.Random(14)
    mixes = itertools.cycle(rng.sample(OPTIONS, len(OPTIONS)))
    for turn in range(ROUNDS):
        name, fmt = make_chain(rng)
        for target in ("qcow2", "qed", "raw"):
            options = list(next(mixes))
            if target == "qcow2":
                options += rng.choice(([], ["-c"] if "-S" not in options else [],
                                       ["-o", rng.choice(TARGET_OPTIONS)]))
            what = f"round {turn}: {fmt} to {target}, {' '.join(options)}"
            print("#", what)
            oxbow("convert", "-f", fmt, "-O", target, *options, name, "ours")
            qemu_img("compare", "-f", fmt, "-F", target, name, "ours")
            check_clean("ours", target)
            qemu_img("convert", "-f", fmt, "-O", target, name, "theirs")
            oxbow("convert", "-f", target, "-O", fmt, "theirs", "back")
            qemu_img("compare", "-f", fmt, "-F", fmt, name, "back")
            check_clean("back", fmt)
            for made in ("ours", "theirs", "back"):
                os.unlink(made)


def looks_like_an_image(path):
    return pathlib.Path(path).read_bytes()[:4] in (b"QFI\xfb", b"QED\0")


def make_full_source():
    pathlib.Path("source").write_bytes(pattern(5, 3 * MIB))
    return pathlib.Path("source").absolute()


def test_a_full_disk_leaves_nothing_that_looks_like_an_image():
    source = make_full_source()
    where = mounted("tmpfs", 2 * MIB)
    for fmt, options in itertools.product(("qcow2", "qed", "raw"), ((), ("--resume",))):
        expect_failure(oxbow_path(), "convert", "-O", fmt, *options, source, where / "new",
                       message="No space left")
        for left in where.iterdir():
            check_equal(looks_like_an_image(left), False, f"whether {left.name} looks like an image ({fmt})")
        if not options:
            check_equal(sorted(path.name for path in where.iterdir()), [], f"files that {fmt} leaves")
        check_equal((where / "new").exists() and fmt == "raw", False, "whether the raw name was given")
        for left in where.iterdir():
            left.unlink()


def test_a_disk_that_was_full_is_gone_on_with_once_it_has_room():
    source = make_full_source()
    where = mounted("tmpfs", 2 * MIB)
    for fmt in ("qcow2", "qed", "raw"):
        expect_failure(oxbow_path(), "convert", "--resume", "-O", fmt, source, where / "new",
                       message="No space left")
        run("mount", "-o", f"remount,size={8 * MIB}", where)
        oxbow("convert", "--resume", "-O", fmt, source, where / "new")
        qemu_img("compare", "-f", "raw", "-F", fmt, source, where / "new")
        check_clean(where / "new", fmt)
        check_equal([path.name for path in where.iterdir()], ["new"], "files that are left")
        (where / "new").unlink()
        run("mount", "-o", f"remount,size={2 * MIB}", where)


def test_a_conversion_of_one_part_is_not_gone_on_with_by_another_part():
    (tmpdir() / "parts").write_bytes(random.Random(3).randbytes(8 * MIB))
    where = mounted("tmpfs", 2 * MIB)
    first, second = (f"driver=raw,offset={at}M,size=4M,file.filename=parts" for at in (0, 4))
    expect_failure(oxbow_path(), "convert", "--resume", "--image-opts", "-O", "raw", first, where / "new",
                   message="No space left")
    run("mount", "-o", f"remount,size={8 * MIB}", where)
    expect_failure(oxbow_path(), "convert", "--resume", "--image-opts", "-O", "raw", second, where / "new",
                   message="The source or the options have changed")
    oxbow("convert", "--resume", "--image-opts", "-O", "raw", first, where / "new")
    check_equal((where / "new").read_bytes() == (tmpdir() / "parts").read_bytes()[:4 * MIB], True, "the first part")


def test_a_file_that_may_not_grow_leaves_an_old_target_empty():
    source = make_full_source()
    for fmt in ("qcow2", "qed"):
        qemu_img("create", "-q", "-f", fmt, "old", "1M")
        expect_failure(oxbow_path(), "convert", "-O", fmt, source, "old", message="File too large",
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)))
        check_equal(os.path.getsize("old"), 0, f"length of the {fmt} target")


def test_a_device_is_filled():
    source = make_full_source()
    for sector in (512, 4096):
        device = loop_device(8 * MIB, sector, f"device{sector}")
        for fmt in ("qcow2", "raw", "qcow2"):  # QED has no place on a device, for QEMU either
            oxbow("convert", "-O", fmt, source, device)
            run("cmp", "-n", str(3 * MIB), source, device) if fmt == "raw" else qemu_img(
                "compare", "-f", "raw", "-F", fmt, source, device)
            check_clean(device, fmt)


def test_a_device_that_is_too_small_is_no_image_afterwards():
    source = make_full_source()
    device = loop_device(2 * MIB)
    for fmt in ("qcow2", "qed"):
        qemu_img("create", "-q", "-f", "qcow2", device, "1M")
        expect_failure(oxbow_path(), "convert", "-O", fmt, source, device)
        check_equal(looks_like_an_image(device), False, f"whether it looks like an image ({fmt})")


needs_root()
run_tests(globals())
