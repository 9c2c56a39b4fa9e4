#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Disks that operators add to a server that runs, and remove from it."""
import json
import re
import resource
import socket
import stat
import threading

import nbd

from hostfs import leave_room, mounted
from kept import *
from controlled import *


def test_disks_are_added_and_removed():
    make("one.qcow2", "two.qcow2")
    with Empty() as server:
        check_equal(server.status(), [], "disks")
        uris = {name: server.add(name, f"{name}.qcow2") for name in ("one", "two")}
        for number, uri in enumerate(uris.values()):
            put(uri, number + 1)
        check_equal([disk["name"] for disk in server.status()], ["one", "two"], "disks")
        expect_failure(oxbow_path(), "ctl", server.control, "flush", message="there are 2 disks: say which")
        server.ctl("flush", "two")
        server.ctl("remove", "one")
        check_equal(os.path.exists("one.sock"), False, "the socket of a disk that was removed")
        check_equal([disk["name"] for disk in server.status()], ["two"], "disks")
        check_in("No errors", output(oxbow_path(), "check", "one.qcow2"))
        check_equal(first_byte(uris["two"]), 2, "the other one")
        check_equal(first_byte(server.add("one", "one.qcow2")), 1, "the same again")
        check_equal(server.terminate(), 0, "exit code")


def test_a_disk_that_was_added_outlives_the_deaths_of_its_process():
    make("base")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    with Empty() as server:
        uri = server.add("vm", "--allow-backing", "-t", "none", "--limit", "iops=9999", "top")
        for turn in range(1, 4):
            put(uri, turn)
            old = server.disk("vm")["pid"]
            os.kill(old, signal.SIGKILL)
            eventually("another process", lambda: server.disk("vm")["pid"] not in (None, old))
            check_equal(first_byte(uri), turn, "what was written last")
        check_equal(server.disk("vm")["deaths"], 3, "deaths")
        check_equal(server.disk("vm")["limits"]["iops"], 9999, "limit")
        check_equal(server.disk("vm")["added"], True, "added")


def test_a_long_chain_is_handed_over():
    make("0")
    for number in range(1, 240):  # more than a message has room for
        oxbow("create", "-q", "-u", "-f", "qcow2", "-b", str(number - 1), "-F", "qcow2", str(number), "8M")
    with Empty() as server:
        put(server.add("vm", "--allow-backing", "239"), 7)


def test_it_is_opened_with_the_rights_of_the_caller():
    if os.getuid() != 0:
        return
    os.chmod(tmpdir(), 0o755)
    make("disk")
    os.chmod("disk", 0o600)
    with Empty() as server:
        os.chmod(server.control, 0o666)
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        os.mkdir("run")
        os.chmod("run", 0o777)
        server.fails_to_add("vm", "--nbd", "run/vm.sock", "disk", message="Permission denied", **nobody)
        check_equal(os.listdir("run"), [], "sockets that were made")
        server.ctl("add", "vm", "--nbd", f"{tmpdir()}/run/vm.sock", "disk")
        check_equal(os.stat("run/vm.sock").st_uid, 0, "owner of the socket")


def test_what_cannot_be_added_leaves_nothing():
    make("disk", "other")
    oxbow("create", "-q", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "top")
    with Empty() as server:
        server.add("vm", "disk")
        sock = ("--nbd", "./x.sock")
        for args, message in (((*sock, "disk"), "lock"),
                              ((*sock, "none"), "No such file"),
                              ((*sock, "top"), "the backing policy allows none"),
                              ((*sock, "--allow-backing", "top"), "lock"),
                              (("other",), "No address"),
                              ((*sock, "--user", "root", "other"), "--user is not said of"),
                              ((*sock, "--no-sandbox", "other"), "--no-sandbox is not said of"),
                              ((*sock, "--state", "x", "other"), "--state is not said of"),
                              ((*sock, "--pid-file=x", "other"), "--pid-file is not said of"),
                              ((*sock, "--export=\udcff", "other"), "it is no UTF-8"),
                              ((*sock, "--cache=warm", "other"), "--cache 'warm' is not valid"),
                              ((*sock, "--tls-creds", "x", "other"), "--tls-creds is not said of"),
                              ((*sock, "--tls-authz", "x", "other"), "--tls-authz is not said of"),
                              (("--nbd", "*:0", "other"), "Other hosts can reach '*:0'"),
                              (("--nbd", "systemd:x", "other"), "HOST:PORT, or a path with a slash"),
                              (("--nbd", "./vm.sock", "other"), "Another server listens on"),
                              (("--nbd", "./" + "y" * 200, "other"), "must have 1 to")):
            server.fails_to_add("vm2", *args, message=message)
        server.fails_to_add("vm", *sock, "other", message="a disk of that name already")
        server.fails_to_add("-vm", *sock, "other", message="is no name of a disk")
        check_equal(os.path.exists("x.sock"), False, "a socket")
        check_equal([disk["name"] for disk in server.status()], ["vm"], "disks")
        server.add("vm2", "other")
        check_equal(server.terminate(), 0, "exit code")


def test_other_hosts_reach_a_disk_only_where_that_is_said():
    make("disk")
    with Empty() as server:
        server.ctl("add", "vm", "--nbd", "*:0", "--insecure", "disk")
        check_equal([(disk["name"], disk["state"]) for disk in server.status()], [("vm", "serving")], "disks")
        check_equal(server.terminate(), 0, "exit code")


def test_an_image_that_the_server_cannot_serve_is_given_back():
    make("disk")
    with Empty() as server:
        # What the keeper starts from now on has no room for threads.
        pages = int(pathlib.Path(f"/proc/{server.keeper}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MIB
        resource.prlimit(server.keeper, resource.RLIMIT_AS, (limit, limit))
        server.fails_to_add("vm", "--nbd", "./vm.sock", "disk", message="the server's log says why")
        check_equal(os.path.exists("vm.sock"), False, "a socket")
        check_equal(server.status(), [], "disks")
        output("qemu-io", "-f", "qcow2", "-c", "write 0 512", "disk")  # its locks are free
        check_equal(server.terminate(), 0, "exit code")


def test_a_reload_leaves_what_was_added_and_takes_up_what_was_removed():
    make("kept", "more")
    with Empty() as server:
        pathlib.Path("disks.conf").write_text(f"[disk kept]\nimage = kept\nnbd = {tmpdir()}/kept.sock\n")
        server.process.send_signal(signal.SIGHUP)
        eventually("the disk", lambda: [disk["state"] for disk in server.status()] == ["serving"])
        server.add("more", "more")
        pid = server.disk("more")["pid"]
        server.ctl("remove", "kept")
        server.process.send_signal(signal.SIGHUP)
        eventually("both", lambda: [disk["state"] for disk in server.status()] == ["serving", "serving"])
        check_equal(server.disk("more")["pid"], pid, "the one that was added")
        check_equal(server.disk("kept")["added"], False, "added")


def has_pending(pid, number):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE).group(1), 16) & 1 << (number - 1))


def test_a_reload_takes_up_what_is_being_removed():
    make("kept")
    with Empty() as server:
        pathlib.Path("disks.conf").write_text(f"[disk kept]\nimage = kept\nnbd = {tmpdir()}/kept.sock\n")
        server.process.send_signal(signal.SIGHUP)
        eventually("the disk", lambda: [disk["state"] for disk in server.status()] == ["serving"])
        before = server.disk("kept")["pid"]
        os.kill(before, signal.SIGSTOP)
        removal = server.connect()
        removal.sendall(b'{"command": "remove", "disk": "kept"}\n')
        eventually("its end has begun", lambda: server.disk("kept")["state"] == "ending")
        server.process.send_signal(signal.SIGHUP)
        eventually("the signal is taken", lambda: not has_pending(server.process.pid, signal.SIGHUP))
        os.kill(before, signal.SIGCONT)
        check_equal("return" in json.loads(read_line(removal)), True, "the removal")
        eventually("the next one", lambda: [disk["state"] for disk in server.status()] == ["serving"])
        check_equal(server.disk("kept")["pid"] == before, False, "the same process")


def test_a_server_of_a_command_line_takes_on_others():
    make("other")
    with controlled_disk() as server:
        server.ctl("add", "vm2", "--nbd", "./vm2.sock", "other")
        check_equal([disk["name"] for disk in server.status()], ["", "vm2"], "disks")
        expect_failure(oxbow_path(), "ctl", server.control, "add", "x", "--nbd", "./x", "none")
        server.ctl("remove", "vm2")


run_tests(globals())
