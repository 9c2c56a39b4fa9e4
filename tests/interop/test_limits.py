#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Limits of the process (ulimit -f) and readers that are gone are errors, and end nobody."""
import errno

from interop import *
from nbdwire import *

KINDS = ("lazy_refcounts=off", "lazy_refcounts=on", "qed:", "qed:cluster_size=4k,table_size=2")
LIMIT = 4 * MIB
LIMITED = ("prlimit", f"--fsize={LIMIT}")
ENGINES = ("io_uring", "threads")
MODES = ("none", "directsync", "writeback", "writethrough")


def limited_io(engine, mode, disk, *commands):
    words = [word for command in commands for word in ("-c", command)]
    os.environ["OXBOW_IO"] = "threads" if engine == "threads" else ""
    on_exit(lambda: os.environ.pop("OXBOW_IO", None))
    return run(*LIMITED, oxbow_path(), "io", "-f", "raw", "-t", mode, *words, disk, check=False)


def raw_disk(name):
    path = tmpdir() / name
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
    return path


def test_a_write_beyond_the_file_size_limit_is_an_error_of_that_write():
    for engine in ENGINES:
        for mode in MODES:
            disk = raw_disk(f"{engine}-{mode}")
            result = limited_io(engine, mode, disk, "write -P 1 0 64k", "write -P 2 8M 64k",
                                "write -P 3 64k 64k")
            said = result.stdout + result.stderr
            check_in(os.strerror(errno.EFBIG), said, f"output with {engine}, {mode}")
            check_equal(said.count("wrote 65536/65536"), 2, f"writes with {engine}, {mode}")


def test_a_server_answers_a_write_beyond_the_limit_and_serves_on():
    for engine in ENGINES:
        for mode in MODES:
            disk = raw_disk(f"{engine}-{mode}")
            env = {"OXBOW_IO": "threads"} if engine == "threads" else {}
            with Server("-f", "raw", "-t", mode, disk, env=env, wrapper=LIMITED) as server:
                client = Client(server)
                client.write(0, b"a" * 65536)
                error = client.call(WRITE, 8 * MIB, 65536, 0, b"b" * 65536).error
                check_equal(error, ENOSPC, f"error with {engine}, {mode}")
                client.write(65536, b"c" * 65536)
                client.ok(FLUSH)
            check_equal(disk.read_bytes()[:131072], b"a" * 65536 + b"c" * 65536, "data")


def test_an_image_that_may_not_become_longer_answers_and_stays_sound():
    """What has a place goes on to be written, and the close says that all is well."""
    for kind in KINDS:
        for engine in ENGINES:
            oxbow("create", "-q", *kind_args(kind), "disk", "64M")
            env = {"OXBOW_IO": "threads"} if engine == "threads" else {}
            with Server("-f", format_of("disk"), "disk", env=env, wrapper=LIMITED) as server:
                client = Client(server)
                done = 0
                while client.call(WRITE, done, 65536, 0, bytes([done >> 16 & 255]) * 65536).error == 0:
                    done += 65536
                    if done > 2 * LIMIT:
                        raise Failure(f"no write was refused ({kind}, {engine})")
                if done < LIMIT // 4:
                    raise Failure(f"refused after {done} bytes ({kind}, {engine})")
                client.ok(FLUSH)
                client.write(0, b"again" * 100)
                client.ok(FLUSH)
            check_closed("disk", f"{kind}, {engine}", freed=True)
            reads = [f"read -P {at >> 16 & 255} {at} 64k" for at in range(65536, done, 65536)]
            qemu_io("-r", "-f", format_of("disk"), *io_args(reads), "disk")


def test_a_reader_of_the_output_who_is_gone_does_not_end_a_writer():
    disk = raw_disk("disk")
    process = subprocess.Popen([oxbow_path(), "io", "-f", "raw", "-c", "read -v 0 256k", "-c",
                                "write -P 9 0 64k", disk], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.close()
    process.communicate()
    check_equal(process.returncode, 1, "exit code")
    check_equal(disk.read_bytes()[:65536], b"\x09" * 65536, "data")


def test_a_server_raises_its_limit_of_descriptors():
    disk = raw_disk("disk")
    for keeper in ("--keeper", "--no-keeper"):
        with Server(keeper, "-f", "raw", disk, wrapper=("prlimit", "--nofile=100:2000")) as server:
            limits = pathlib.Path(f"/proc/{server.server_pid()}/limits").read_text()
            check_in(["2000", "2000"], [line.split()[3:5] for line in limits.splitlines()
                                        if line.startswith("Max open files")], keeper)


run_tests(globals())
