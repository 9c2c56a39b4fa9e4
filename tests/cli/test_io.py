#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 25
"""oxbow io against qemu-io: what it says, its exit code, and the disk afterwards."""
from peers import *


FORMATS = ("qcow2", "qed")


def make_disk(fmt="qcow2"):
    qemu_img("create", "-q", "-f", "qcow2", "base", "64M")
    qemu_io("-f", "qcow2", "-c", "write -q -P 6 3M 1M", "base")
    qemu_img("create", "-q", "-f", fmt, "-b", "base", "-F", "qcow2", "disk")
    qemu_io("-f", fmt, "-c", "write -q -P 7 0 64k", "-c", "write -q -P 8 1M 100k", "disk")


def sessions_alike(*sessions, options=(), formats=FORMATS):
    for fmt in formats:
        make_disk(fmt)
        stated = () if "-f" in options else ("-f", fmt)
        for session in sessions:
            commands = [session] if isinstance(session, str) else session
            io_as_qemu_io(*commands, options=[*stated, *options], files=["base", "disk"])


def test_reads_are_told_verified_and_dumped_alike():
    sessions_alike("read 0 64k", "read -P 7 0 64k", "read -P 1 0 64k", "read -q 0 512",
                   "read -C 0 64", "read -v 0 40", "read -v -P 0 2M 16", "read 0 1.5k",
                   "read 0 1048577", "read 0 10000000", "read 0 0", "read -p 0 1",
                   "read -P 8 -s 512 -l 512 1M 64k", "read -P 7 -l 64k 0 128k",
                   "read -P 0 -l 10k 0 512", "read -P 6 3M 1M", "r 0 512")


def test_writes_are_told_and_done_alike():
    sessions_alike("write 0 64k", "write -P 0x5a 1000 3000", "write -P 010 0 1", "write -f 0 512",
                   "write -C 0 512", "write -q 3M 64k", "write 3 1025", "write 0 0",
                   "write 30M 3M", "w 3000000 5", ["write -P 1 3M 512", "read -v 3M 20"])


def test_a_write_can_be_filled_from_a_file():
    make_disk()
    pathlib.Path("source").write_bytes(b"abcdefg")
    io_as_qemu_io("write -s source 3M 100000", "read -v 3M 16", "write -s missing 0 1",
                  options=["-f", "qcow2"], files=["base", "disk", "source"])


def test_zeroes_and_discards_are_told_and_done_alike():
    sessions_alike("write -z 0 64k", "write -z -u 0 1M", "write -z 1k 1k", "write -z 3M 64k",
                   "write -z 0 0", "discard 0 100", "discard 0 0")
    # QEMU knows no discard of a QED image: it says the same, and does nothing.
    sessions_alike("discard 1M 64k", "discard -q 0 64k", "discard -C 1M 64k", "d 0 64k",
                   formats=("qcow2",))
    make_disk("qed")
    oxbow("io", "-f", "qed", "-c", "discard 1M 64k", "-c", "read -P 0 1M 64k", "-c",
          "read -P 8 1088k 36k", "disk")
    qemu_io("-r", "-f", "qed", "-c", "read -P 0 1M 64k", "-c", "read -P 8 1088k 36k", "disk")


def test_a_part_of_a_cluster_that_reads_as_zeroes_becomes_a_zero_cluster():
    for zeroes in ("0 4k", "10k 2k", "60k 8k", "3M 4k", "3080k 4k", "3076k 4k", "516k 8k", "520k 4k", "4090k 6k"):
        maps = []
        for tool in ("oxbow", "qemu-io"):
            qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "base", "4096k")
            qemu_io("-f", "qcow2", "-c", "write -q -P 6 3076k 4k", "-c", "write -q -P 6 512k 8k", "base")
            qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk", "4100k")
            run(*([oxbow_path(), "io"] if tool == "oxbow" else [tool]), "-f", "qcow2", "-c", f"write -q -z {zeroes}",
                "disk")
            qemu_img("convert", "-O", "raw", "disk", f"{tool}.raw")
            maps.append([{key: value for key, value in row.items() if key != "offset"}
                         for row in json.loads(output("qemu-img", "map", "--output=json", "disk"))])
            qemu_img("check", "-q", "disk")
        check_equal(maps[0], maps[1], f"map after write -z {zeroes}")
        qemu_img("compare", "-f", "raw", "-F", "raw", "oxbow.raw", "qemu-io.raw")
    # A data cluster of the image's own stays one, and a version 2 has no other.
    for options, own in (((), True), (("-o", "compat=0.10"), False)):
        qemu_img("create", "-q", "-f", "qcow2", *options, "-b", "base", "-F", "qcow2", "disk")
        if own:
            qemu_io("-f", "qcow2", "-c", "write -q -P 5 0 64k", "disk")
        oxbow("io", "-f", "qcow2", "-c", "write -q -z 0 4k", "disk")
        check_equal(json.loads(output("qemu-img", "map", "--output=json", "disk"))[0]["data"], True, "data at 0")


def test_compressed_writes_are_told_and_done_alike():
    sessions_alike("write -c 2M 64k", "write -q -c -P 3 4M 1M", "write -C -c 5M 64k", "write -c 4k 64k",
                   "write -c 2M 4k", "write -c -f 2M 64k", "write -c -z 2M 64k", "write -c 0 0",
                   ["write -c -P 9 2M 128k", "read -P 9 2M 128k", "alloc 2M 64k"],
                   "write -c 63M 2M", formats=("qcow2",))
    sessions_alike("write -c 2M 64k", formats=("qed",))


def test_a_compressed_write_goes_over_what_is_there():
    """QEMU fails with an input/output error, which helps nobody."""
    make_disk()
    oxbow("io", "-f", "qcow2", "-c", "write -q -c -P 1 0 128k", "-c", "write -q -c -P 2 64k 64k",
          "-c", "read -P 1 0 64k", "-c", "read -P 2 64k 64k", "disk")
    qemu_img("check", "-q", "disk")
    qemu_io("-r", "-c", "read -P 1 0 64k", "-c", "read -P 2 64k 64k", "disk")


def test_vectors_are_told_and_done_alike():
    sessions_alike("writev 0 1k 2k", "writev -P 5 1000 100 200 300", "writev -q -f 0 1",
                   "writev -C 0 16 16", "readv 0 1k 2k", "readv -v 0 16 16", "readv -P 1 0 1k 1k",
                   "readv -P 7 0 1k 512", "readv 0 512 513", "readv -C 0 1")


def test_asynchronous_requests_are_told_and_done_alike():
    sessions_alike("aio_write -P 1 0 1M", "aio_write -z -u 0 1M", "aio_write -q 0 512",
                   "aio_write 5M 1M 1M", "aio_write -i 0 1", "aio_read -P 7 0 64k",
                   "aio_read -P 1 0 512", "aio_read -v 0 16", "aio_read -C 0 64",
                   "aio_read -i 0 512", "aio_write 65M 1k", "aio_read 65M 1k",
                   ["aio_write -q -P 1 8M 64k", "aio_flush", "read -P 1 8M 64k"])


def test_asynchronous_requests_are_waited_for_at_the_end():
    for fmt in FORMATS:
        waited_for(fmt)


def waited_for(fmt):
    make_disk(fmt)
    writes = []
    for i in range(32):
        writes += ["-c", f"aio_write -q -P {i + 1} {i * 70}k 70k"]
    reads = []
    for i in range(32):
        reads += ["-c", f"read -q -P {i + 1} {i * 70}k 70k"]
    for last in ((), ("-c", "close"), ("-c", "quit"), ("-c", "aio_flush"), ("-c", "sleep 10")):
        oxbow("io", "-f", fmt, *writes, *last, "disk")
        qemu_io("-f", fmt, *reads, "disk")
    qemu_img("check", "disk")


def test_facts_are_told_alike():
    sessions_alike("length", "l", "info", "i", "map", "alloc 0", "alloc 0 64M", "alloc 1 511",
                   "alloc 1M 200k", "alloc 63M 2M", "alloc 65M 1", "flush", "f", "sleep 1",
                   ["truncate 80M", "length"], "truncate -m off 65M")
    # QEMU makes no QED image smaller.
    sessions_alike(["truncate 1M", "length"], "truncate 0", "t 10M", formats=("qcow2",))


def test_a_qed_disk_is_made_smaller_as_a_qcow2_one_is():
    for size in ("1M", "1100k", "0", "10M"):
        told = []
        for fmt in FORMATS:
            make_disk(fmt)
            ours = oxbow("io", "-f", fmt, "-c", f"truncate {size}", "-c", "length", "disk")
            told.append((ours.stdout, ours.stderr))
            qemu_img("convert", "-f", fmt, "-O", "raw", "disk", f"{fmt}.raw")
            qemu_img("check", "-q", "-f", fmt, "disk", check=False)
        check_equal(told[1], told[0], f"what is said of {size}")
        check_equal(pathlib.Path("qed.raw").read_bytes() == pathlib.Path("qcow2.raw").read_bytes(),
                    True, f"the disk of {size}")


def test_requests_past_the_end_fail_alike():
    sessions_alike("read 63M 2M", "read 65M 512", "write 64M 512", "write 1E 1", "discard 65M 1k",
                   "read 0 2147483136", "read 0 3G", "read 0 9E", "read 20E 1", "readv 0 3G",
                   "writev 64M 1", "truncate 9E")


def test_what_cannot_be_understood_fails_alike():
    sessions_alike("foo", "help foo", "read 0", "read a b", "read 0 b", "read -P", "read -P foo 0 1",
                   "read -P 256 0 1", "read -- -1 1", "write -P 0x 0 1", "write -P -1 0 1",
                   "write -u 0 64k", "write -n 0 64k", "write -P 1 -z 0 64k", "aio_write -u 0 1",
                   "aio_write -z 0 1 2", "aio_read a 1", "aio_read 0 a", "writev 0 a",
                   "discard a 1", "alloc", "alloc foo", "truncate", "truncate foo",
                   "truncate -m xx 1M", "sleep", "sleep x", "sleep 1k", "sigraise foo", "flush 1",
                   "length 1", "map 1", "info 1", "close 1", "help a b", "aio_flush 1", "abort 1",
                   "o", "d", "t")


def test_one_failure_makes_the_session_fail_and_the_rest_is_done():
    sessions_alike(["read -P 1 0 512", "write -P 9 0 512", "length"],
                   ["foo", "quit", "write 0 512"])


def test_files_are_opened_and_closed_within_a_session():
    sessions_alike("close", ["close", "length", "read 0 1", "open disk", "length", "open disk"],
                   ["close", "open nope"],
                   ["close", "open -r disk", "write 0 512", "reopen -w", "write 0 512",
                    "reopen -r", "write 0 512"],
                   ["reopen -c none", "write -P 1 0 64k", "reopen -c writeback", "read -P 1 0 64k"],
                   "reopen -c foo", "reopen -r -w")
    sessions_alike(["close", "open -o driver=qcow2 disk", "length"], formats=("qcow2",))
    sessions_alike(["close", "open -o driver=qed disk", "length"], formats=("qed",))


def test_a_read_only_session_refuses_what_writes():
    sessions_alike("write 0 512", "discard 0 64k", "write -z 0 64k", "aio_write 0 1", "writev 0 1",
                   "truncate 1M", "flush", "read 0 512", options=("-r",))


def test_every_cache_mode_does_the_same():
    for options in (("-n",), ("-t", "none"), ("-t", "writeback"), ("-t", "writethrough"),
                    ("-t", "directsync"), ("-t", "unsafe"), ("-d", "unmap"), ("-d", "ignore"),
                    ("-m", "-n")):
        sessions_alike(["write -P 3 1000 70000", "read -P 3 1000 70000", "flush", "map"],
                       options=options)


def test_options_are_refused_in_the_known_words():
    sessions_alike("length", options=("-t", "foo"))
    sessions_alike("length", options=("-d", "foo"))
    sessions_alike("length", options=("-f", "foo"))
    sessions_alike("length", options=("-U",))
    sessions_alike("length", options=("-U", "-r"))
    expect_failure(oxbow_path(), "io", "-C", "-c", "length", "disk",
                   message="option '-C' is not supported")


def test_image_opts_name_the_image():
    for fmt in FORMATS:
        make_disk(fmt)
        io_as_qemu_io("length", options=["--image-opts"], files=["base", "disk"],
                      disk=f"driver={fmt},file.driver=file,file.filename=disk")
        io_as_qemu_io("length", options=["--image-opts", "-f", "raw"], files=["base", "disk"],
                      disk=f"driver={fmt},file.filename=disk")
        io_as_qemu_io("write 0 512", options=["--image-opts"], files=["base", "disk"],
                      disk=f"driver={fmt},file.filename=disk")
        io_as_qemu_io("write 0 512", options=["-r", "--image-opts"], files=["base", "disk"],
                      disk=f"driver={fmt},file.locking=off,file.filename=disk")


def test_a_file_that_is_only_read_makes_its_image_read_only():
    make_disk()
    description = "driver=qcow2,file.filename=disk,file.read-only"
    for stated, code in (("=off", 0), ("=on", 1), ("=off,read-only=on", 1),
                         ("=off,overlap-check.template=all,overlap-check.inactive-l2=off", 0)):
        result = run(oxbow_path(), "io", "--image-opts", "-c", "write 0 512", description + stated, check=False)
        check_equal(result.returncode, code, f"exit code with {stated}")
    expect_failure(oxbow_path(), "io", "--image-opts", "-c", "length", description + "=x",
                   message="Parameter 'file.read-only' expects 'on' or 'off'")


def test_zeroes_are_looked_for_where_that_is_asked_for():
    writes = ("write -P 0 1M 64k", "write -r -P 0 0 64k", "writev -P 0 1M 32k 32k", "aio_write -P 0 1M 32k 32k")
    for mode, options in (("off", ""), ("on", ""), ("unmap", ",discard=unmap")):
        for command in writes:
            make_disk()
            oxbow("io", "--image-opts", "-c", command, "-c", "aio_flush", f"driver=qcow2,file.filename=disk,detect-zeroes={mode}{options}")
            at = 0 if "-r" in command else 1 << 20
            row = next(row for row in json.loads(output("qemu-img", "map", "--output=json", "disk"))
                       if row["start"] <= at < row["start"] + row["length"])
            check_equal(row["zero"], mode != "off", f"zeroes by name with {mode} after {command}")
    expect_failure(oxbow_path(), "io", "-c", "length", "--image-opts", "driver=qcow2,file.filename=disk,detect-zeroes=x",
                   message="does not accept value 'x'")
    expect_failure(oxbow_path(), "io", "-d", "ignore", "-c", "length", "--image-opts",
                   "driver=qcow2,file.filename=disk,detect-zeroes=unmap", message="without setting discard operation to unmap")


def test_raw_files_are_told_and_done_alike():
    pathlib.Path("disk").write_bytes(pattern(1, 3 << 20))
    for command in ("write -P 1 1000 5000", "write -z 0 64k", "discard 0 1M", "map", "alloc 0 4k",
                    "info", "length", "read 3M 1", "truncate 5M", "aio_write 0 1M"):
        io_as_qemu_io(command, options=["-f", "raw"], files=["disk"])


def test_a_guess_at_raw_is_said_aloud_before_a_write():
    pathlib.Path("disk").write_bytes(bytes(4096))
    result = oxbow("io", "-c", "write -q 0 512", "disk")
    check_in("state it with -f raw", result.stderr)
    check_equal(oxbow("io", "-f", "raw", "-c", "length", "disk").stderr, "", "stderr")
    check_equal(oxbow("io", "-r", "-c", "length", "disk").stderr, "", "stderr")


def test_commands_are_read_from_stdin_at_a_prompt():
    make_disk()
    text = "length\nread -q 0 512\nfoo\n\n  alloc   0  \nquit\nlength\n"
    theirs = qemu_io("-f", "qcow2", "disk", input=text, check=False)
    ours = oxbow("io", "-f", "qcow2", "disk", input=text, check=False)
    check_equal(ours.stdout, theirs.stdout.replace("qemu-io> ", "oxbow io> "), "stdout")
    check_equal((ours.returncode, ours.stderr), (theirs.returncode, theirs.stderr))
    check_equal(oxbow("io", input="").stdout, "oxbow io> ", "stdout without a command")


def test_help_names_every_command():
    text = output(oxbow_path(), "io", "-c", "help")
    for name in ("abort", "aio_flush", "aio_read", "aio_write", "alloc", "close", "discard", "flush",
                 "help", "info", "length", "map", "open", "quit", "read", "readv", "reopen",
                 "sigraise", "sleep", "truncate", "write", "writev"):
        check_in(f"\n{name} ", "\n" + text)
        check_in(name, output(oxbow_path(), "io", "-c", f"help {name}"))


def test_abort_ends_the_process_as_a_crash_does():
    for fmt in FORMATS:
        make_disk(fmt)
        result = subprocess.run([oxbow_path(), "io", "-f", fmt, "-c", "abort", "disk"],
                                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        check_equal(result.returncode, -signal.SIGABRT, "exit code")


def test_both_engines_do_the_same():
    for fmt in FORMATS:
        make_disk(fmt)
        for engine in ("threads", "io_uring"):
            ours = oxbow("io", "-i", engine, "-f", fmt, "-c", "aio_write -q -P 4 0 1M", "-c",
                         "aio_flush", "-c", "read -q -P 4 0 1M", "disk", check=False)
            if "io_uring" in ours.stderr and engine == "io_uring":
                continue  # refused on this machine
            check_equal((ours.returncode, ours.stdout, ours.stderr), (0, "", ""), engine)


run_tests(globals())
