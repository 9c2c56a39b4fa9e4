#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""oxbow convert to a pipe: the bytes of the guest, in order, and nothing else."""
from peers import *


def make(name="source", size="5M"):
    qemu_img("create", "-q", "-f", "qcow2", name, size)
    qemu_io("-f", "qcow2", "-c", "write -q -P 3 1M 70000", "-c", "write -q -P 4 3000000 1000", name)
    qemu_img("convert", "-O", "raw", name, f"{name}.raw")
    return pathlib.Path(f"{name}.raw").read_bytes()


def piped(*args, **kwargs):
    return run(oxbow_path(), "convert", *args, text=False, **kwargs)


def test_a_pipe_gets_the_bytes_of_the_guest():
    expected = make()
    for target in ("-", "/dev/stdout"):
        for options in ((), ("-r", "1G", "-S", "0", "-m", "4")):
            if piped(*options, "source", target).stdout != expected:
                raise Failure(f"other bytes come out with {options} to {target}")
    check_equal(sorted(os.listdir()), ["source", "source.raw"], "files")


def test_sources_follow_one_another():
    expected = make("a") + make("b", "4M")
    check_equal(piped("a", "b", "-").stdout == expected, True, "whether both come out")


def test_progress_goes_to_standard_error():
    expected = make()
    for option in ("-p", "--progress=json"):
        result = piped(option, "source", "-")
        check_equal(result.stdout == expected, True, "whether the bytes alone come out")
        check_in(b"100", result.stderr.replace(b'"done": 5242880', b"100"))


def test_a_reader_that_goes_away_is_an_error():
    make()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as end:
        result = subprocess.run([oxbow_path(), "convert", "source", "-"], stdout=end,
                                stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    check_equal(result.returncode, 1, "exit code")
    check_equal(result.stderr, "oxbow: Could not write to standard output: Broken pipe\n", "stderr")


def test_a_full_device_is_an_error():
    make()
    with open("/dev/full", "wb") as end:
        result = subprocess.run([oxbow_path(), "convert", "source", "-"], stdout=end,
                                stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    check_equal(result.returncode, 1, "exit code")
    check_in("No space left on device", result.stderr)


def test_a_closed_descriptor_is_an_error_whatever_is_opened_next():
    """Threads were woken by what had taken the place of standard output: the bytes went there."""
    make()
    for engine in ("threads", "uring"):
        for words, closed, message in (("source -", "<&- >&-", "Could not write to standard output"),
                                       ("-f raw - target", "<&-", "Could not read standard input")):
            result = run("sh", "-c", f'"$0" convert {words} {closed}', oxbow_path(), check=False, timeout=60,
                         env={**os.environ, "OXBOW_IO": engine})
            check_equal(result.returncode, 1, f"exit code of {words}, {engine}")
            check_equal(result.stderr, f"oxbow: {message}: Bad file descriptor\n", f"stderr of {words}, {engine}")
    check_equal(sorted(os.listdir()), ["source", "source.raw"], "files")


def test_what_does_not_go_with_a_pipe_is_refused():
    make()
    for options in (("-O", "qcow2"), ("-n",), ("--resume",), ("--verify",), ("-W",),
                    ("-o", "preallocation=full")):
        result = expect_failure(oxbow_path(), "convert", *options, "source", "-",
                                message="Standard output")
        check_equal(result.stdout, "", f"stdout with {options}")


def test_a_file_of_that_name_is_reached_by_its_folder():
    expected = make()
    oxbow("convert", "-O", "raw", "source", "./-")
    check_equal(pathlib.Path("-").read_bytes() == expected, True, "whether the file has the bytes")


def test_standard_output_that_is_a_file_gets_the_same():
    expected = make()
    with open("file", "wb") as end:
        subprocess.run([oxbow_path(), "convert", "source", "-"], stdout=end, timeout=60, check=True)
    check_equal(pathlib.Path("file").read_bytes() == expected, True, "whether the file has the bytes")


def test_standard_input_becomes_an_image_as_long_as_it_is():
    expected = make(size="5M")
    for data in (expected, expected[:1 << 20], expected + expected[:4096], expected[:1000], b"",
                 bytes(70 << 20) + b"end"):
        whole = data + bytes(-len(data) % 512)
        for options in (("-O", "raw"), ("-O", "qcow2"), ("-S", "0", "-O", "qcow2", "-o", "cluster_size=4k")):
            if "-S" in options and len(data) > len(expected) + 4096:
                continue
            run(oxbow_path(), "convert", "-f", "raw", *options, "-", "new", input=data, text=False)
            if "qcow2" in options:
                qemu_img("check", "-q", "new")
            same = piped("new", "-").stdout == whole if whole else os.path.getsize("new") < 1 << 20
            check_equal(same, True, f"whether {len(data)} bytes come back with {options}")
            os.unlink("new")


def test_what_does_not_go_with_standard_input_is_refused():
    for options in ((), ("-f", "qcow2"), ("-f", "raw", "-c", "-O", "qcow2"), ("-f", "raw", "--verify"),
                    ("-f", "raw", "-O", "qed"), ("-f", "raw", "-n")):
        expect_failure(oxbow_path(), "convert", *options, "-", "new", message="Standard input")
    expect_failure(oxbow_path(), "convert", "-f", "raw", "-", "-", message="Standard input")
    check_equal(os.listdir(), [], "files")


run_tests(globals())
