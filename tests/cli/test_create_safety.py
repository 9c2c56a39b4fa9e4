#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What create leaves of a file that was there, and of one that it could not finish."""
import resource

from peers import *

QCOW2 = ("-f", "qcow2")
WRONG = [
    ((*QCOW2, "-o", "cluster_size=3k"), "1M", "Cluster size"),
    ((*QCOW2, "-o", "refcount_bits=3"), "1M", "Refcount width"),
    ((*QCOW2, "-o", "compat=0.10,refcount_bits=8"), "1M", "16 bits"),
    ((*QCOW2, "-o", "compat=0.10,lazy_refcounts=on"), "1M", "Lazy refcounts"),
    ((*QCOW2, "-o", "compat=0.10,compression_type=zstd"), "1M", "compression type"),
    ((*QCOW2, "-o", "compression_type=none"), "1M", "compression"),
    ((*QCOW2, "-o", "preallocation=some"), "1M", "preallocation"),
    ((*QCOW2, "-o", "data_file=x"), "1M", "not supported"),
    ((*QCOW2, "-o", "cluster_size=512"), "1P", "too large"),
    (QCOW2, "7E", "too large"),
    (QCOW2, "1Q", "Invalid image size"),
    (QCOW2, None, "needs a size"),
    ((*QCOW2, "-b", "missing", "-F", "raw"), "1M", "missing"),
    ((*QCOW2, "-b", "base"), "1M", "without backing format"),
    ((*QCOW2, "-F", "raw"), "1M", "without backing file"),
    ((*QCOW2, "-b", "base", "-F", "qcow2"), "1M", "not in qcow2 format"),
    ((*QCOW2, "-b", "base", "-F", "vmdk"), "1M", "vmdk"),
    ((*QCOW2, "-b", "base", "-F", "raw", "-o", "preallocation=full"), "1M", "preallocation"),
    ((*QCOW2, "-u", "-b", "b" * 500, "-F", "raw", "-o", "cluster_size=512"), "1M", "do not fit"),
    ((*QCOW2, "-u", "-b", "b" * 1100, "-F", "raw"), "1M", "too long"),
    (("-f", "raw", "-b", "base", "-F", "raw"), "1M", "not supported"),
    (("-f", "raw", "-o", "preallocation=metadata"), "1M", "metadata"),
    (("-f", "vdi",), "1M", "vdi"),
    (("-f", "qed", "-o", "cluster_size=3k"), "1M", "cluster size"),
    (("-f", "qed", "-o", "table_size=3"), "1M", "table size"),
    (("-f", "qed", "-o", "cluster_size=4k,table_size=1"), "2G", "less than 1073741824 bytes"),
    (("-f", "qed", "-o", "cluster_size=64M"), "1M", "QEMU does not open"),
    (("-f", "qed", "-o", "lazy_refcounts=on"), "1M", "lazy_refcounts"),
    (("-f", "qed"), None, "size"),
    (("-f", "qed", "-b", "missing", "-F", "raw"), "1M", "missing"),
    (("-f", "qed", "-b", "base", "-F", "qcow2"), "1M", "not in qcow2 format"),
]


def create(*args, **kwargs):
    return oxbow("create", "-q", *args, check=False, **kwargs)


def make_disk(path="disk", fmt="qcow2"):
    qemu_img("create", "-q", "-f", fmt, path, "4M")
    qemu_io("-f", fmt, "-c", "write -q -P 3 0 4M", path)
    return pathlib.Path(path).read_bytes()


def test_an_image_is_as_before_where_an_option_is_wrong():
    qemu_img("create", "-q", "base", "1M")
    before = make_disk()
    for args, size, text in WRONG:
        for target in ("disk", "new"):
            result = create(*args, target, *([size] if size else []))
            check_equal(result.returncode, 1, f"exit code of {args}")
            check_in(text, result.stderr)
        check_equal(pathlib.Path("disk").read_bytes() == before, True, f"the disk after {args}")
        check_equal(os.path.exists("new"), False, f"a new file after {args}")


def test_an_image_in_use_is_left_alone():
    for fmt in ("qcow2", "qed"):
        make_disk(fmt=fmt)
        with Server("-f", fmt, "disk"):
            before = pathlib.Path("disk").read_bytes()
            for args in (("-f", "qcow2"), ("-f", "qed"), ("-f", "raw")):
                check_in('Failed to get "write" lock', create(*args, "disk", "1M").stderr)
            check_equal(pathlib.Path("disk").read_bytes() == before, True, "the disk is as before")


def test_an_image_is_not_made_over_what_it_is_based_on():
    before = make_disk()
    os.symlink("disk", "link")
    os.link("disk", "other")
    for name in ("./disk", "link", "other", f"{os.getcwd()}/disk"):
        for more in ((), ("-u",)):
            result = create("-f", "qcow2", *more, "-b", name, "-F", "qcow2", "disk", "1M")
            check_equal(result.returncode, 1, f"exit code for {name}")
            check_in("same filename as the backing file", result.stderr)
    create("-f", "qcow2", "-b", "disk", "-F", "qcow2", "middle")
    create("-f", "qcow2", "-b", "middle", "-F", "qcow2", "top")
    result = create("-f", "qcow2", "-b", "top", "-F", "qcow2", "disk")
    check_equal(result.returncode, 1, "exit code")
    check_in("'middle' is based on it", result.stderr)
    check_equal(pathlib.Path("disk").read_bytes() == before, True, "the disk is as before")


def test_a_file_that_was_there_stays_the_file_that_it_was():
    make_disk()
    os.chmod("disk", 0o600)
    os.link("disk", "other")
    os.symlink("disk", "link")
    for args in (("-f", "qcow2"), ("-f", "raw"), ("-f", "qcow2", "-o", "preallocation=full"),
                 ("-f", "qed")):
        check_equal(create(*args, "link", "1M").returncode, 0, "exit code")
        check_equal(os.path.islink("link"), True, "a link")
        check_equal(os.path.samefile("disk", "other"), True, "one file")
        check_equal(os.stat("disk").st_mode & 0o777, 0o600, "mode")
        check_in("virtual size: 1 MiB", oxbow("info", "-f", args[1], "other").stdout)


def interrupt(number, *args):
    """Sends a signal to a create as soon as it has written something."""
    # Whoever runs the tests in the background may have them ignore signals, as do their children.
    process = subprocess.Popen([oxbow_path(), "create", "-q", "-o", "preallocation=full", *args,
                                "disk", "20G"], stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    on_exit(lambda: process.poll() is None and process.kill())
    while process.poll() is None and not (os.path.exists("disk") and
                                          os.stat("disk").st_blocks > 40000):
        time.sleep(0.01)
    process.send_signal(number)
    check_equal(process.wait(300), -number, "exit code")


def test_an_interrupted_create_leaves_no_half():
    for args in (("-f", "raw"), ("-f", "qcow2")):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            interrupt(number, *args)
            check_equal(os.path.exists("disk"), False, f"a file after {number!r}")
        pathlib.Path("disk").touch()
        os.link("disk", "other")
        interrupt(signal.SIGTERM, *args)
        check_equal(os.path.samefile("disk", "other"), True, "the file that was there")
        check_equal(os.stat("disk").st_size, 0, "length")
        os.unlink("disk")
        os.unlink("other")


def test_a_create_that_finds_no_room_leaves_no_half():
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    for args in (("-f", "raw"), ("-f", "qcow2")):
        for existed in (False, True):
            if existed:
                make_disk()
                os.truncate("disk", 1 << 20)
            result = create("-o", "preallocation=full", *args, "disk", "9M", preexec_fn=limited)
            check_equal(result.returncode, 1, "exit code")
            check_equal(os.path.exists("disk"), existed, "that there is a file")
            if existed:
                check_equal(os.stat("disk").st_size, 0, "length")
                os.unlink("disk")


run_tests(globals())
