#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a file is taken for where no format is stated, and what happens to it then."""
import struct

from peers import *

# Those that oxbow cannot open, and how qemu-img makes one.
MADE = {
    "qcow": (), "vmdk": (), "vdi": (), "vhdx": (), "vpc": (), "parallels": (),
}
MIB = 1 << 20


def make_all():
    """A file of each format: its name, and its size where that is told."""
    files = {}
    for name, options in MADE.items():
        qemu_img("create", "-q", "-f", name, *options, f"disk.{name}", "10M")
        files[name] = f"disk.{name}"
    # Making one would measure how fast the machine is, and fail on a busy one.
    write("disk.luks", b"LUKS\xba\xbe" + struct.pack(">H32s32s32sI", 1, b"aes", b"xts-plain64", b"sha256",
                                                     4096).ljust(12 * MIB, b"\0"))
    write("disk.cowd", b"COWD" + struct.pack("<III", 1, 3, 20480) + bytes(1 << 16))
    write("disk.descriptor", b"# Disk DescriptorFile\nversion=1\n" + bytes(600))
    write("disk.bochs", struct.pack("<32s16s16sIIIIIIQ", b"Bochs Virtual HD Image", b"Redolog",
                                    b"Growing", 0x20000, 512, 16, 256, MIB, 0, 10 * MIB) +
          bytes(4096))
    script = (b"#!/bin/sh\n#V2.0 Format\n"
              b"modprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n")
    write("disk.cloop", script.ljust(128, b"\0") + struct.pack(">II", 65536, 160) + bytes(4096))
    trailer = bytearray(512)
    trailer[:12] = struct.pack(">4sII", b"koly", 4, 512)
    trailer[492:500] = struct.pack(">Q", 10 * MIB // 512)
    write("disk.dmg", bytes(4096) + trailer)
    with open("disk.vpc", "rb") as f:
        footer = f.read(512)
    write("disk.vhd", bytes(2 * MIB) + footer)
    write("disk.vhd511", bytes(2 * MIB) + footer[:511])
    files.update({name: f"disk.{name}" for name in ("bochs", "cloop", "dmg", "luks")})
    return list(files.items()) + [("vmdk", "disk.cowd"), ("vmdk", "disk.descriptor"),
                                  ("vpc", "disk.vhd"), ("vpc", "disk.vhd511")]


def write(path, data):
    pathlib.Path(path).write_bytes(data)


def refused(result, name):
    if result.returncode == 0:
        raise Failure(f"{result.args} succeeded")
    check_in(f"is an image in {name} format, which cannot be opened", result.stderr)
    check_in("-f raw", result.stderr)


def test_each_format_has_its_name_and_its_size():
    for name, file in make_all():
        said_text = output("info", file)
        check_in(f"file format: {name}\n", said_text)
        check_in("supported: no", said_text)
        facts = json.loads(output("info", "--output=json", file))
        check_equal((facts["format"], facts["supported"]), (name, False), file)
        if name == "vhdx" or file == "disk.descriptor":
            check_in("virtual size: unknown\n", said_text)
            check_equal("virtual-size" in facts, False, "a size is told")
        else:
            check_equal(facts["virtual-size"] // MIB, 10, f"size of {file}")


def output(*args):
    return oxbow(*args).stdout


def test_names_and_sizes_are_those_of_qemu_img():
    make_all()
    for name in MADE:
        theirs = json.loads(qemu_img("info", "--output=json", f"disk.{name}").stdout)
        ours = json.loads(output("info", "--output=json", f"disk.{name}"))
        keys = ["format", "actual-size"] + ["virtual-size"] * (name != "vhdx")
        check_equal({k: ours[k] for k in keys}, {k: theirs[k] for k in keys}, name)
        check_equal(json.loads(output("info", "-f", name, "--output=json", f"disk.{name}")), ours,
                    "facts with the format stated")
    same = qemu_img("info", "disk.bochs").stdout
    check_equal(output("info", "disk.bochs"), same + "supported: no (it is recognised, not opened)\n",
                "what is said of a Bochs disk")


def test_a_qed_image_is_described_as_by_qemu_img():
    qemu_img("create", "-q", "base", "1M")
    qemu_img("create", "-q", "-f", "qed", "-F", "raw", "-b", "base", "over")
    theirs = json.loads(qemu_img("info", "--output=json", "over").stdout)
    ours = json.loads(output("info", "--output=json", "over"))
    check_equal(list(ours.items()), list(theirs.items()), "the facts")
    poke("over", 16, bytes([1 | 2 | 4]))
    check_in("cleanly shut down: no\n", output("info", "over"))


def test_a_stated_format_that_the_file_has_not_is_refused():
    qemu_img("create", "-q", "-f", "vdi", "disk", "1M")
    refusal = oxbow("info", "-f", "vmdk", "disk", check=False)
    check_equal((refusal.returncode, "not in vmdk format" in refusal.stderr), (1, True), "refusal")
    check_in("Unknown driver 'vhd'", oxbow("info", "-f", "vhd", "disk", check=False).stderr)


def test_what_is_recognised_is_neither_read_nor_written():
    for name, file in make_all():
        before = pathlib.Path(file).read_bytes()
        for args in (("io", "-c", "write 0 512", file), ("io", "-r", "-c", "read 0 512", file),
                     ("io", "-f", name, "-c", "write 0 512", file), ("map", file),
                     ("map", "-f", name, file),
                     ("create", "-q", "-f", "qcow2", "-b", file, "-F", name, "over"),
                     ("create", "-q", "-f", "qcow2", "-b", file, "over")):
            refused(oxbow(*args, check=False), name)
        check_equal(pathlib.Path(file).read_bytes() == before, True, f"{file} is as before")
        check_equal(os.path.exists("over"), False, "an image over it")
        picture = oxbow("map", "--picture", file, check=False)
        check_equal((picture.returncode, f"{name} format" in picture.stderr), (1, True), "picture")


def test_raw_that_is_stated_is_believed():
    for name, file in make_all():
        oxbow("io", "-f", "raw", "-c", "write -q -P 7 0 512", "-c", "read -q -P 7 0 512", file)
        check_in("file format: raw\n", output("info", "-f", "raw", file))


def test_formats_without_checks_have_qemu_imgs_exit_code():
    for name, file in make_all():
        for args in ((file,), ("-f", name, file)):
            result = oxbow("check", *args, check=False)
            check_equal(result.returncode, 63, f"exit code for {file}")
            check_in("This image format does not support checks", result.stderr)
    for name in ("qcow", "vpc"):
        same_as_qemu_img("check", f"disk.{name}")


def test_a_chain_stops_at_what_cannot_be_opened():
    qemu_img("create", "-q", "-f", "vdi", "base", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "vdi", "over")
    refused(oxbow("io", "-r", "-c", "read 0 512", "over", check=False), "vdi")
    check_in("file format: vdi\n", output("info", "--backing-chain", "over"))


def test_a_server_never_guesses():
    for made in ("vmdk", "raw"):
        qemu_img("create", "-q", "-f", made, "disk", "1M")
        for args, text in ((("disk",), "not in qcow2 format"),
                           (("-f", "vmdk", "disk"), "cannot be opened")):
            result = oxbow("serve", "--nbd", "sock", *args, check=False)
            check_equal(result.returncode, 1, "exit code")
            check_in(text, result.stderr)
            check_equal(os.path.exists("sock"), False, "a socket")


# ---- disks that were guessed to be raw ----

SIGNATURES = [
    (0, b"QFI\xfb\0\0\0\3"), (0, b"QFI\xfb\0\0\0\1"), (0, b"QED\0"), (0, b"KDMV"), (0, b"COWD"),
    (64, b"\x7f\x10\xda\xbe"), (0, b"vhdxfile"), (0, b"conectix"), (0, b"WithoutFreeSpace"),
    (0, b"LUKS\xba\xbe\0\1"), (0, b"Bochs Virtual HD Image"), (0, b"# Disk DescriptorFile\n"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"), (0, b"#\nversion=1\n"),
    (MIB - 512, b"conectix"), (MIB - 511, b"conectix"), (MIB - 512, b"koly"),
]


def session(*commands, options=(), disk="disk"):
    args = [part for command in commands for part in ("-c", command)]
    return oxbow("io", *options, *args, disk, check=False)


def denied(result, what):
    check_equal(result.returncode, 1, f"exit code of {what}")
    check_in("Operation not permitted", result.stdout + result.stderr)


def is_raw():
    """Damaged headers of other formats may be an error."""
    return "file format: raw\n" in oxbow("info", "disk", check=False).stdout


def stays_raw():
    check_equal(is_raw(), True, "that it is raw")


def test_a_guessed_disk_takes_no_signature():
    for offset, data in SIGNATURES:
        write("disk", bytes(MIB))
        write("data", data)
        command = f"write -q -s data {offset} {len(data)}"
        denied(session(command), data)
        check_equal(pathlib.Path("disk").read_bytes() == bytes(MIB), True, "the disk is as before")
        result = session(command, options=("-f", "raw"))
        check_equal((result.returncode, result.stderr), (0, ""), "a stated raw disk takes it")
        check_equal(is_raw(), False, f"that it is raw with {data} at {offset}")


def test_a_guessed_disk_takes_no_part_that_completes_a_signature():
    for offset, data in SIGNATURES:
        for cut in {1, len(data) // 2, len(data) - 1}:
            write("disk", bytes(MIB))
            poke("disk", offset, data[:cut])
            write("data", data[cut:])
            if not is_raw():
                continue  # the first part is enough
            if data[cut:].strip(b"\0"):
                denied(session(f"write -q -s data {offset + cut} {len(data) - cut}"), data)
            stays_raw()


def test_two_writes_at_once_do_not_do_what_neither_may():
    write("disk", bytes(MIB))
    result = session(*[f"aio_write -P {b} {i} 1" for i, b in enumerate(b"KDMV")], "aio_flush")
    check_in("Operation not permitted", result.stdout + result.stderr)
    stays_raw()


def test_zeroes_and_lengths_uncover_no_signature():
    for change in ("write -q -z 3 1", "discard 3 1"):
        write("disk", b"QEDx" + bytes(MIB - 4))
        denied(session(change), change)
    # A footer that a file of odd length has at the wrong place.
    write("disk", bytes(MIB - 512) + b"conectix" + bytes(100))
    stays_raw()
    denied(session(f"write -q -z {MIB - 200} 200"), "zeroes that move the end")
    denied(session(f"write -q {MIB - 200} 200"), "a write that moves the end")
    stays_raw()
    write("disk", bytes(MIB) + b"conectix" + bytes(MIB - 8))
    denied(session(f"truncate {MIB + 512}"), "a cut")
    check_equal(os.path.getsize("disk"), 2 * MIB, "length")
    check_equal(session(f"truncate {MIB}").returncode, 0, "a cut elsewhere")


def test_everything_else_may_be_written_to_a_guessed_disk():
    write("disk", pattern(1, MIB + 77))
    commands = ["write -q -P 1 0 512", "write -q -P 2 1048064 1024", "write -q -z 0 4096",
                "discard 0 4096", "write -q -P 3 8192 65536", f"write -q -P 4 0 {MIB}",
                "truncate 2M", "write -q -P 5 2096640 512", "read -q -P 5 2096640 512",
                f"read -q -P 4 0 {MIB}"]
    result = session(*commands)
    check_equal(result.returncode, 0, f"exit code ({result.stdout}{result.stderr})")
    check_in("warning: the format of 'disk' was not stated and is taken for raw", result.stderr)
    check_equal(session("read -q 0 512", options=("-r",)).stderr, "", "a warning to a reader")


run_tests(globals())
