#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An NBD server that dies in the midst of its answers, at each of them. What a verb prints is whole, or
its exit status says that it is not."""
import itertools

from interop import *
from nbd_servers import *
from oldnames import *

SIZE = 2 * MIB
MOST = 200  # messages; no verb takes so many


def make_disks():
    """A raw disk, and a qcow2 image with a snapshot and a backing file, each as the bytes of an export."""
    base = tmpdir() / "base.raw"
    base.write_bytes(pattern(1, SIZE))
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "image")
    qemu_io("-c", "write -q -P 7 64k 128k", "-c", "write -q -z 512k 64k", "image")
    qemu_img("snapshot", "-c", "before", "image")
    qemu_io("-c", "write -q -P 9 1M 64k", "image")
    qemu_img("bitmap", "--add", "image", "changes")
    oxbow("create", "-q", "-f", "qed", "-b", base, "-F", "raw", "qed", str(SIZE))
    with open("raw", "wb") as raw:
        raw.truncate(SIZE)
        raw.write(pattern(2, 100 * KIB))
    for name in ("raw", "image"):
        qemu_img("convert", "-O", "raw", *(("-f", "raw") if name == "raw" else ()), name, f"{name}.flat")


def run_beside(name, how, verb):
    """The verb's exit status, with what it has printed and made; and what it says."""
    program = oxbow_path()
    if verb[0].startswith("qemu-"):
        program, verb = called(verb[0]), verb[1:]
    with Forgetful(tmpdir() / name, {"multi": 0, **how}) as server:
        words = [server.uri(reconnect_delay=0, connections=1) if word == "URI" else
                 server.socket if word == "SOCKET" else word for word in verb]
        made = tmpdir() / "made"
        made.unlink(missing_ok=True)
        result = run(program, *words, check=False)
        printed = result.stdout, made.read_bytes() if made.exists() else None
    return result.returncode, printed, result.stderr


def holds_at_every_cut(name, verb, failures, **how):
    code, whole, said = run_beside(name, how, verb)
    check_equal((code, said), (0, ""), f"what {verb} of the whole {name} says")
    for kind in ("cut", "tear"):
        for at in itertools.count(1):
            code, printed, said = run_beside(name, {kind: at, **how}, verb)
            if code == 0:
                check_equal(printed == whole, True, f"{verb} of {name}, {kind}={at}: status 0, and all of it")
                break
            check_equal((code in failures, bool(said)), (True, True), f"{verb} of {name}, {kind}={at}: {code} {said!r}")
            check_equal(at < MOST, True, f"{verb} ends well in the end")
        check_equal(at > 4, True, f"{verb} was cut more than four times")


def test_what_is_told_of_an_export_is_whole_or_fails():
    make_disks()
    for name in ("raw", "image"):
        for words in (("info",), ("info", "--output=json"), ("info", "--limits", "--backing-chain"),
                      ("measure", "-O", "qcow2"), ("map", "--output=json"), ("checksum",)):
            holds_at_every_cut(name, (*words, "URI"), {1})
    holds_at_every_cut("raw", ("map", "-f", "raw", "URI"), {1}, extents=0)
    holds_at_every_cut("qed", ("info", "URI"), {1})
    holds_at_every_cut("image", ("qemu-img", "info", "--backing-chain", "URI"), {1})


def test_a_list_of_exports_is_whole_or_fails():
    make_disks()
    for exports in (1, 3):
        holds_at_every_cut("raw", ("qemu-nbd", "-L", "-k", "SOCKET"), {1}, exports=exports)


def test_a_copy_of_an_export_is_whole_or_fails():
    make_disks()
    for name in ("raw", "image"):
        holds_at_every_cut(name, ("convert", "-q", "-O", "raw", "URI", "made"), {1})


def test_an_export_that_was_not_read_to_its_end_is_neither_the_same_nor_another():
    make_disks()
    for name in ("raw", "image"):
        holds_at_every_cut(name, ("compare", "-q", "URI", f"{name}.flat"), {2, 3, 4})
        holds_at_every_cut(name, ("compare", "-q", f"{name}.flat", "URI"), {2, 3, 4})


def test_a_check_of_an_export_that_was_cut_is_no_finding():
    make_disks()
    holds_at_every_cut("image", ("check", "URI"), {1})


run_tests(globals())
