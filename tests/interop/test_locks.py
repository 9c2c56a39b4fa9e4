#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""QEMU and oxbow refuse each other: writers alone, readers together, -U beside everyone."""
from interop import *

REFUSED_WRITE = 'Failed to get "write" lock'
REFUSED_READ = 'Failed to get shared "write" lock'
QUESTION = "Is another process using the image [{}]?"


def new_image(name="disk", *args, fmt="qcow2"):
    qemu_img("create", "-q", "-f", fmt, *args, name, "1M")
    return name


def of_each_format(test):
    """The test is run with an image of each format."""
    def run_all():
        for fmt in FORMATS:
            test(new_image(fmt=fmt), fmt)
    return run_all


class Holder:
    """A process that has the image open until the with statement ends."""

    def __init__(self, by, *args):
        self.argv = [oxbow_path(), "io"] if by == "oxbow" else ["qemu-io"]
        self.argv += ["-f", format_of(args[-1]), *args]

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        on_exit(lambda: self.process.poll() is None and self.process.kill())
        self.process.stdin.write("length\n")
        self.process.stdin.flush()
        said = ""
        while "1 MiB" not in said:
            part = os.read(self.process.stdout.fileno(), 4096).decode()
            if not part:
                raise Failure(f"the holder {self.argv} ended: {said}")
            said += part
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(60)
        self.process.stdout.close()


READERS = (
    ("info",), ("map",), ("check",), ("io", "-r", "-c", "length"),
)
WRITERS = (
    ("io", "-c", "length"), ("check", "-r", "all"), ("check", "-r", "leaks"),
)


def qemu_command(verb):
    return ["qemu-io", *verb[1:]] if verb[0] == "io" else ["qemu-img", *verb]


def commands_of(by, verbs):
    return [qemu_command(verb) if by == "qemu" else [oxbow_path(), *verb] for verb in verbs]


def check_refused(command, image, message):
    before = fingerprint(image)
    result = expect_failure(*command, image, message=message)
    check_in(QUESTION.format(image), result.stderr, f"stderr of {command}")
    check_equal(fingerprint(image), before, "the image after a refusal")
    return result


@of_each_format
def test_a_writer_in_qemu_keeps_out_every_oxbow(image, fmt):
    with Holder("qemu", image):
        for command in commands_of("oxbow", READERS):
            check_refused(command, image, REFUSED_READ)
        for command in commands_of("oxbow", WRITERS):
            check_refused(command, image, REFUSED_WRITE)
    oxbow("io", "-f", fmt, "-c", "write 0 64k", image)


@of_each_format
def test_a_writer_in_oxbow_keeps_out_every_qemu(image, fmt):
    with Holder("oxbow", image):
        for command in commands_of("qemu", READERS):
            check_refused(command, image, REFUSED_READ)
        for command in commands_of("qemu", WRITERS):
            check_refused(command, image, REFUSED_WRITE)
    qemu_io("-f", fmt, "-c", "write 0 64k", image)


@of_each_format
def test_a_refusal_says_in_lines_of_their_own_who_has_the_image(image, fmt):
    with Holder("oxbow", image) as holder:
        result = expect_failure(oxbow_path(), "check", image, message=REFUSED_READ)
        check_equal(result.stderr, f"oxbow: Could not open '{image}': {REFUSED_READ}\n{QUESTION.format(image)}\n"
                    f"(held by oxbow, process {holder.process.pid})\n", "message")
    result = expect_failure(oxbow_path(), "convert", "-f", fmt, "-O", fmt, image, image, message=REFUSED_WRITE)
    check_equal(result.stderr.splitlines()[1:], [QUESTION.format(image), "(held by this process itself)"], "message")


@of_each_format
def test_a_writer_in_oxbow_keeps_out_every_oxbow(image, fmt):
    with Holder("oxbow", image):
        for command in commands_of("oxbow", READERS):
            check_refused(command, image, REFUSED_READ)
        for command in commands_of("oxbow", WRITERS):
            check_refused(command, image, REFUSED_WRITE)


@of_each_format
def test_readers_share_and_keep_writers_out(image, fmt):
    for holder, other in (("oxbow", "qemu"), ("qemu", "oxbow"), ("oxbow", "oxbow")):
        with Holder(holder, "-r", image):
            for command in commands_of(other, READERS):
                run(*command, image)
            for command in commands_of(other, WRITERS):
                check_refused(command, image, REFUSED_WRITE)


@of_each_format
def test_the_bytes_locked_are_those_that_qemu_locks(image, fmt):
    for args in ((), ("-r",)):
        with Holder("qemu", *args, image):
            expected = locked_bytes(image)
        check_equal(locked_bytes(image), [], "bytes locked by nobody")
        with Holder("oxbow", *args, image):
            check_equal(locked_bytes(image), expected, f"bytes locked with {args}")
        check_equal(locked_bytes(image), [], "bytes locked after the close")


@of_each_format
def test_force_share_reads_beside_a_writer_and_takes_no_lock(image, fmt):
    for holder in ("qemu", "oxbow"):
        with Holder(holder, image):
            for verb in (("info", "-U"), ("map", "-U"), ("check", "-U"),
                         ("io", "-U", "-r", "-f", fmt, "-c", "length")):
                oxbow(*verb, image)
    with Holder("oxbow", "-U", "-r", image):
        qemu_io("-f", fmt, "-c", "write 0 512", image)


@of_each_format
def test_force_share_follows_an_image_that_grows(image, fmt):
    oxbow("create", "-q", "-f", fmt, image, "4G")
    with Server("-f", fmt, image) as server:
        writer = nbd_connect(server.uri)
        writer.pwrite(b"\x11" * 65536, 0)
        writer.flush()
        with Server("-r", "-U", "-f", fmt, image) as other:
            reader = nbd_connect(other.uri)
            for at in (100 * MIB, 2048 * MIB):  # in a table that is there, and in a new one
                writer.pwrite(b"\x22" * 16 * MIB, at)
            writer.flush()
            for at in (100 * MIB, 2048 * MIB):
                check_bytes(bytes(reader.pread(16 * MIB, at)), b"\x22" * 16 * MIB,
                            f"what was written at {at:#x}")
            reader.shutdown()
        writer.shutdown()


@of_each_format
def test_force_share_is_refused_for_writing(image, fmt):
    before = fingerprint(image)
    expect_failure(oxbow_path(), "io", "-U", "-f", fmt, "-c", "write 0 512", image,
                   message="force-share=on can only be used with read-only images")
    expect_failure(oxbow_path(), "check", "-U", "-r", "all", image)
    check_equal(fingerprint(image), before, "the image")


@of_each_format
def test_a_served_image_is_locked_until_the_server_is_killed(image, fmt):
    with Server("-f", fmt, image) as server:
        check_refused(["qemu-io", "-f", fmt, "-c", "length"], image, REFUSED_WRITE)
        check_refused([oxbow_path(), "io", "-f", fmt, "-c", "length"], image, REFUSED_WRITE)
        result = run(oxbow_path(), "serve", "-f", fmt, "--nbd", tmpdir() / "second.sock", image,
                     check=False, timeout=20)
        check_equal(result.returncode, 1, "exit code of a second server")
        check_in(REFUSED_WRITE, result.stderr, "stderr of a second server")
        server.kill9()
        wait_until_unlocked(image)
        qemu_io("-f", fmt, "-c", "length", image)


@of_each_format
def test_two_read_only_servers_share_an_image(image, fmt):
    with Server("-f", fmt, "-r", image):
        with Server("-f", fmt, "-r", image):
            qemu_io("-r", "-f", fmt, "-c", "length", image)
            check_refused(["qemu-io", "-f", fmt, "-c", "length"], image, REFUSED_WRITE)


@of_each_format
def test_create_leaves_an_image_in_use_alone(image, fmt):
    for holder in ("qemu", "oxbow"):
        for args in ((), ("-r",)):
            with Holder(holder, *args, image):
                before = fingerprint(image)
                expect_failure(oxbow_path(), "create", "-q", "-f", fmt, image, "2M",
                               message=REFUSED_WRITE)
                check_equal(fingerprint(image), before, "the image")


def test_a_backing_file_in_use_can_be_read_but_not_written():
    new_image("base.qcow2")
    for number in (1, 2):
        new_image(f"top{number}.qcow2", "-b", "base.qcow2", "-F", "qcow2")
    with Holder("oxbow", "top1.qcow2"):
        qemu_io("-r", "-f", "qcow2", "-c", "length", "base.qcow2")
        qemu_io("-f", "qcow2", "-c", "write 0 512", "top2.qcow2")
        oxbow("io", "-f", "qcow2", "-c", "write 0 512", "top2.qcow2")
        check_refused(["qemu-io", "-f", "qcow2", "-c", "length"], "base.qcow2", REFUSED_WRITE)
    with Holder("qemu", "top1.qcow2"):
        oxbow("io", "-r", "-f", "qcow2", "-c", "length", "base.qcow2")
        oxbow("io", "-f", "qcow2", "-c", "write 0 512", "top2.qcow2")
        check_refused([oxbow_path(), "io", "-f", "qcow2", "-c", "length"], "base.qcow2",
                      REFUSED_WRITE)


def test_an_overlay_cannot_be_opened_while_its_backing_file_is_written():
    new_image("base.qcow2")
    new_image("top.qcow2", "-b", "base.qcow2", "-F", "qcow2")
    with Holder("qemu", "base.qcow2"):
        expect_failure(oxbow_path(), "io", "-f", "qcow2", "-c", "length", "top.qcow2",
                       message=REFUSED_READ)


def test_raw_images_are_locked_as_well():
    with open("disk.raw", "wb") as file:
        file.truncate(MIB)
    with Server("-f", "raw", "disk.raw"):
        check_refused(["qemu-io", "-f", "raw", "-c", "length"], "disk.raw", REFUSED_WRITE)


@of_each_format
def test_the_message_names_the_process_that_holds_the_image(image, fmt):
    for holder in ("qemu", "oxbow"):
        with Holder(holder, image) as held:
            result = check_refused([oxbow_path(), "io", "-f", fmt, "-c", "length"], image,
                                   REFUSED_WRITE)
            check_in(str(held.process.pid), result.stderr, "refusal (the holder's process id)")


def test_what_is_said_of_a_lock_stands_in_lines():
    image = new_image()
    with Holder("oxbow", image) as holder:
        for command in ("info", "map", "check"):
            said = oxbow(command, image, check=False).stderr.splitlines()
            check_equal(said[0].endswith(REFUSED_READ), True, f"the first line of {said}")
            check_equal(said[1:], [QUESTION.format(image), f"(held by oxbow, process {holder.process.pid})"],
                        "those that follow")


run_tests(globals())
