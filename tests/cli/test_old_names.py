#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Called as qemu-img or qemu-io, oxbow answers as they do (docs/old-names.md)."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from harness import *
from oldnames import *

HINT = "Try 'qemu-img --help' for more information\n"


def make(name="disk.qcow2", size="16M", *args):
    path = tmpdir() / name
    qemu_img("create", "-q", "-f", "qcow2", *args, path, size)
    return path


# ---- the program ----


def test_wrong_command_lines_of_qemu_img_are_answered_alike():
    make()
    for line in ("", "foo", "--foo", "-x", "create", "create -x", "create -f", "info", "info a b",
                 "info -f", "info --foo disk.qcow2", "map", "check", "check -r foo disk.qcow2",
                 "info nosuch", "info -f nosuch disk.qcow2 --output=xml"):
        check_alike("qemu-img", *line.split())


def test_messages_begin_with_the_called_name():
    said = expect_failure(called("qemu-img"), "info", "nosuch").stderr
    check_equal(said, "qemu-img: Could not open 'nosuch': Could not open 'nosuch': "
                      "No such file or directory\n", "qemu-img's message")
    said = expect_failure(called("qemu-io"), "-c", "quit", "nosuch").stderr
    check_in("qemu-io: can't open device nosuch: ", said, "qemu-io's message")
    said = expect_failure(oxbow_path(), "info", "nosuch").stderr
    check_in("oxbow: Could not open", said, "oxbow's own message")


def test_a_verb_of_oxbow_alone_is_no_verb_of_qemu_img():
    for verb in ("serve", "io", "undo", "help-me", "version"):
        said = expect_failure(called("qemu-img"), verb).stderr
        check_equal(said, f"qemu-img: Command not found: {verb}\n" + HINT, f"of {verb}")


def test_the_help_names_verbs_and_u_and_ends_with_the_formats():
    for words in (["--help"], ["-h"]):
        text = img(*words).stdout
        check_in("  create ", text, "help")
        check_in("-U", text, "help")
        last = text.rstrip("\n").splitlines()[-1]
        check_equal(last, "Supported formats: qcow2 qed raw", "last line of the help")


def test_the_help_of_a_verb_speaks_of_the_called_name():
    for verb in ("create", "info", "map", "check", "measure", "compare", "bench"):
        text = img(verb, "--help").stdout
        check_in(f"usage: qemu-img {verb} ", text, "help")
        if "oxbow create" in text or "oxbow info" in text:
            raise Failure(f"the help of {verb} speaks of oxbow")
    check_in("usage: qemu-io [", io("--help").stdout, "help")


def test_the_version_begins_as_scripts_expect():
    for words, begin in ((["--version"], "qemu-img version 10."), (["-V"], "qemu-img version 10.")):
        check_equal(img(*words).stdout.startswith(begin), True, "qemu-img's version")
    check_equal(io("-V").stdout.startswith("qemu-io version 10."), True, "qemu-io's version")
    check_equal(nbd("-V").stdout.startswith("qemu-nbd 10."), True, "qemu-nbd's version")


def test_tracing_is_accepted_before_the_verb():
    disk = make()
    for words in (["-T", "qcow2_*"], ["--trace", "enable=qcow2_*,file=x"]):
        check_in("file format: qcow2", img(*words, "info", disk).stdout, "info")
    check_alike("qemu-img", "-T")


def test_the_links_are_installed_where_that_is_asked_for():
    build = tmpdir() / "build"
    run("meson", "setup", build, ROOT, "-Dcompat_links=true", "-Dtests=false")
    plan = json.loads(output("meson", "introspect", "--install-plan", build))
    for target in plan["targets"]:
        path = pathlib.Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or not path.exists():
            path.write_text("")
    run("meson", "install", "-C", build, "--no-rebuild", "--destdir", tmpdir() / "root")
    binaries = next((tmpdir() / "root").rglob("qemu-img")).parent
    for name in ("qemu-img", "qemu-io", "qemu-nbd"):
        check_equal(os.readlink(binaries / name), "oxbow", f"the link {name}")
    options = json.loads(output("meson", "introspect", "--buildoptions", ROOT / "meson.build"))
    default = next(option["value"] for option in options if option["name"] == "compat_links")
    check_equal(default, False, "the option where nothing is said")


# ---- names ----


def test_a_json_name_is_a_description_in_either_kind_of_quotes():
    disk = make()
    for name in ('json:{"driver":"qcow2","file":{"driver":"file","filename":"disk.qcow2"}}',
                 "json:{'driver':'qcow2','file':{'driver':'file','filename':'disk.qcow2'}}",
                 "json:{'driver':'qcow2', 'file.filename':'disk.qcow2', 'read-only': true}",
                 'json:{"file":{"filename":"disk.qcow2"}, "driver":"qcow2", "l2-cache-size":65536}'):
        for verb in (["info"], ["check"], ["map"]):
            img(*verb, name)
        io("-r", "-c", "read 0 512", name)
    expected = img("map", "--output=json", disk).stdout
    check_equal(img("map", "--output=json", name).stdout, expected, "the map")


def test_a_wrong_json_name_is_told():
    make()
    expect_failure(called("qemu-img"), "info", "json:{}", message="Must specify either driver or file")
    expect_failure(called("qemu-img"), "info", "json:[1]", message="Invalid JSON object given")
    expect_failure(called("qemu-img"), "info", "json:{x", message="Could not parse the JSON options")
    expect_failure(called("qemu-img"), "info", "json:{'driver':'qcow2','foo':'disk.qcow2'}",
                   message="Invalid parameter 'foo'")
    expect_failure(called("qemu-img"), "info", "json:" + "{'a':" * 40 + "1" + "}" * 40,
                   message="Could not open")
    for cut in range(6, 40):
        name = "json:{'driver':'qcow2','file.filename':'x\\'"[:cut]
        expect_failure(called("qemu-img"), "info", name)


def test_a_json_name_within_an_image_is_not_followed():
    make("base.qcow2")
    name = 'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'
    disk = tmpdir() / "overlay.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", disk, "16M")
    expect_failure(called("qemu-io"), "-r", "-c", "read 0 512", disk)
    check_in("backing file: json:", img("info", disk).stdout, "what info shows")


# ---- objects ----


def test_objects_are_looked_at():
    disk = make()
    for text in ("foo,id=x", "secret", "secret,id=a"):
        check_alike("qemu-img", "info", "--object", text, disk)
    for verb in ("info", "map", "check"):
        img(verb, "--object", "secret,id=a,data=x", disk)
    img("compare", "--object", "secret,id=a,data=x", disk, disk)
    img("measure", "--object", "secret,id=a,data=x", disk)
    io("--object", "secret,id=a,data=x", "-c", "quit", disk)
    img("create", "-q", "--object", "qom-type=secret,id=a,file=x", "-f", "raw", "new.raw", "1M")


# ---- create and info ----


def test_the_long_options_of_qemu_img_10_are_known():
    img("create", "--quiet", "--format", "qcow2", "--options", "cluster_size=4k", "base", "1M")
    img("create", "-q", "--format=qcow2", "--backing", "base", "--backing-format", "qcow2", "top")
    info = json.loads(img("info", "-b", "--output=json", "top").stdout)
    check_equal([layer["cluster-size"] for layer in info], [65536, 4096], "clusters of the chain")
    img("create", "-q", "-f", "qcow2", "--backing-unsafe", "-b", "nosuch", "-F", "raw", "far", "1M")
    check_equal(img("check", "--cache", "none", "--quiet", "top").stdout, "", "what a quiet check prints")
    img("rebase", "--backing-cache", "none", "-b", "", "top")
    img("convert", "--oob-writes", "--output-format", "qed", "top", "new")
    check_in("file format: qed\n", img("info", "new").stdout, "info")


def test_every_option_name_of_create_is_known():
    refused = ["encryption=on", "encrypt.format=luks", "encrypt.key-secret=a",
               "encrypt.cipher-alg=aes-256", "encrypt.iter-time=10", "extended_l2=on",
               "data_file=x", "data_file_raw=on"]
    for text in refused:
        said = expect_failure(called("qemu-img"), "create", "-f", "qcow2", "-o", text, "new", "1M")
        check_in("is not supported", said.stderr, f"what is said of {text}")
        check_equal(os.path.exists("new"), False, "an image was made")
    for fmt in ("qcow2", "qed", "raw"):
        img("create", "-q", "-f", fmt, "-o", "nocow=on", "-o", "extent_size_hint=1M", f"d.{fmt}", "1M")
    img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-o", "cluster_size=64k,compat=v2",
        "-o", "nocow", "last.qcow2", "1M")
    info = json.loads(qemu_img("info", "--output=json", "last.qcow2").stdout)
    check_equal(info["cluster-size"], 65536, "the last one's cluster size")


def test_sizes_that_are_wrong_are_answered_alike():
    expect_failure(called("qemu-img"), "create", "-f", "qcow2", "--", "d", "-1024",
                   message="Must be between 0 and 9223372036854775807.")  # as 10 says it
    for words in (["--", "d", "-1k"], ["d", "1kilobyte"], ["d", "1.5"],
                  ["d", "9E"], ["-o", "size=foo", "d"], ["-o", "a,", "d", "1M"],
                  ["-o", "bogus=1", "d", "1M"], ["-o", "size=1M", "d", "2M"]):
        ours = run(called("qemu-img"), "create", "-f", "qcow2", *words, check=False)
        theirs = run("qemu-img", "create", "-f", "qcow2", *words, check=False)
        # What QEMU 7 says of the bound is not what 10 says.
        check_equal(ours.stderr.replace("2^64", "2^63"), theirs.stderr.replace("2^64", "2^63"),
                    f"stderr of {words}")
        check_equal(ours.returncode, theirs.returncode, f"exit code of {words}")


def test_info_tells_the_limits_of_requests():
    disk = make()
    limits = json.loads(img("info", "--limits", "--output=json", disk).stdout)["limits"]
    check_equal(limits["request-alignment"], 1, "alignment of requests")
    check_equal(limits["discard-alignment"], 65536, "alignment of discards")
    check_in("Block limits:\n    request alignment: 1\n", img("info", "--limits", disk).stdout, "text")
    check_equal("limits" in img("info", "--output=json", disk).stdout, False, "limits unasked")


# ---- qemu-io ----


def without_times(text):
    import re
    text = re.sub(r"\d+ ops; [\d:.]+ sec \([^)]*\)", "N ops", text)
    return text


def test_a_session_of_qemu_io_looks_the_same():
    lines = "\n".join(["open ours.qcow2", "write -P 7 64k 4k", "read -P 7 64k 4k", "read -P 8 64k 4k",
                       "alloc 0 1M", "map", "length", "bogus", "read", "read x 4k", "close", "read 0 1",
                       "quit"]) + "\n"
    said = []
    for program in (called("qemu-io"), "qemu-io"):
        make("ours.qcow2")
        result = run(program, input=lines, check=False)
        said.append((without_times(result.stdout).replace(" -- ", "\0").split("\0")[0],
                     result.stderr, result.returncode))
    check_equal(said[0][1:], said[1][1:], "stderr and exit code")
    check_equal(said[0][0].split("read [")[0], said[1][0].split("read [")[0], "the session")


def test_a_temporary_snapshot_leaves_the_image_alone():
    disk = make()
    before = disk.read_bytes()
    folder = tmpdir() / "tmp"
    folder.mkdir()
    said = io("-s", "-f", "qcow2", "-c", "write -P 5 0 64k", "-c", "read -P 5 0 64k", disk,
              env=dict(os.environ, TMPDIR=str(folder))).stdout
    check_equal("verification failed" in said, False, "what was read back")
    check_equal(disk.read_bytes() == before, True, "the image is as it was")
    check_equal(list(folder.iterdir()), [], "what is left of the overlay")


run_tests(globals())
