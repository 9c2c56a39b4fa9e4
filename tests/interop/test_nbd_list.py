#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""qemu-nbd --list: what servers export, told as QEMU's tool tells it (docs/old-names.md)."""
from nbd_servers import *
from oldnames import *


def listed(*words, **kwargs):
    return output(called("qemu-nbd"), "--list", *words, **kwargs)


def without_transaction_size(text):
    """QEMU 7.2 does not tell it."""
    return "".join(line for line in text.splitlines(True) if "transaction size" not in line)


def check_like_qemus(socket):
    """Beside QEMU's tool, which asks the server itself."""
    ours = listed("-k", socket)
    check_equal(without_transaction_size(ours), output("qemu-nbd", "--list", "-k", socket), "the list")
    return ours


def test_exports_of_every_server_are_listed_as_qemu_lists_them():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "4M")
    for words in ([], ["-x", "a name", "-D", "what it is"], ["-r", "-e", "4"]):
        with qemu_nbd("-f", "qcow2", *words, "disk") as server:
            said = check_like_qemus(server.socket)
    check_in("exports available: 1\n export: ''\n  size:  4194304\n  flags: 0x", said, "the list")
    check_in("readonly flush fua df multi cache )", said, "its flags")
    check_in("transaction size: ", said, "the list")
    check_in("  available meta contexts: 1\n   base:allocation\n", said, "the list")
    with nbdkit("memory", "1M") as server:
        check_like_qemus(server.socket)
    oxbow("create", "-q", "-f", "raw", "plain", "1M")
    with Server("-f", "raw", "-x", "e", "-D", "d", "--allocation-depth", "plain") as server:
        said = listed("-k", server.socket)
    check_in(" export: 'e'\n  description: d\n", said, "the list")
    check_in("   base:allocation\n   qemu:allocation-depth\n", said, "the list")


def test_many_exports_are_listed_each_with_what_it_is():
    for number, size in (("one", 512), ("two", 1 << 20), ("three", 0)):
        (tmpdir() / "exports").mkdir(exist_ok=True)
        with open(tmpdir() / "exports" / number, "wb") as file:
            file.truncate(size)
    with nbdkit("file", f"dir={tmpdir()}/exports") as server:
        said = check_like_qemus(server.socket)
    for number, size in (("one", 512), ("two", 1 << 20)):
        check_in(f" export: '{number}'\n  size:  {size}\n", said, "the list")


def test_a_list_that_cannot_be_had_is_told():
    program = called("qemu-nbd")
    expect_failure(program, "-L", "-k", tmpdir() / "none", message="Failed to connect to")
    for words, said in ((["disk"], "List mode is incompatible with a file name"),
                        (["-x", "a"], "List mode is incompatible with per-device settings"),
                        (["-f", "raw"], "List mode is incompatible with per-device settings"),
                        (["--fork"], "List mode is incompatible with forking"),
                        (["-k", "/s", "-b", "h"], "path and host may not be used at the same time"),
                        (["--tls-creds=x"], "No TLS credentials with id 'x'")):
        expect_failure(program, "--list", *words, message=f"qemu-nbd: {said}")
    expect_failure(program, "--tls-hostname=h", "disk", message="--tls-hostname is not permitted without --tls-creds")
    with nbdkit("--oldstyle", "memory", "1M") as server:
        expect_failure(program, "-L", "-k", server.socket, message="the server knows no list of exports")


def test_a_list_is_had_by_tls():
    keys = tmpdir() / "keys"
    keys.mkdir()
    run("psktool", "-u", "alice", "-p", keys / "keys.psk")
    creds = f"tls-creds-psk,id=t,dir={keys}"
    with nbdkit("--tls=require", f"--tls-psk={keys}/keys.psk", "memory", "1M") as server:
        said = listed("-k", server.socket, "--object", f"{creds},endpoint=client,username=alice", "--tls-creds=t")
        check_in("size:  1048576\n", said, "the list")
        expect_failure(called("qemu-nbd"), "-L", "-k", server.socket,
                       message="Could not list the exports: ")


def test_what_a_server_calls_its_exports_cannot_harm_a_terminal():
    oxbow("create", "-q", "-f", "raw", "disk", "1M")
    name, shown = os.fsdecode(b"a\x1b[31m\x9b\xc2\x9b\x7f\xff"), r"a\x1b[31m\x9b\xc2\x9b\x7f\xff"
    with qemu_nbd("-f", "raw", "-x", name, "-D", f"{name}\r\nexport: 'b'", "disk") as server:
        said = listed("-k", server.socket)
        address = uri(server.socket, export="".join(f"%{byte:02x}" for byte in os.fsencode(name)))
        check_in("image: nbd", output(oxbow_path(), "info", address), "what info says")
    check_equal(said.splitlines()[:3],
                ["exports available: 1", f" export: '{shown}'", fr"  description: {shown}\x0d\x0aexport: 'b'"],
                "the list")


run_tests(globals())
