#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The verbs under valgrind: nothing is read that was never written, nothing is used once it is freed."""
from peers import *


def watched(*args, status=0):
    result = run("valgrind", "-q", "--error-exitcode=99", oxbow_path(), *args, check=False)
    check_equal(result.returncode, status, f"exit status of {args}: {result.stderr}")


def test_verbs_that_copy_read_nothing_that_was_not_written():
    oxbow("create", "-q", "-f", "qcow2", "base", "2M")
    oxbow("io", "-c", "write -q -P 1 0 1M", "base")
    oxbow("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    oxbow("io", "-c", "write -q -P 2 512k 300k", "-c", "write -q -z 64k 64k", "top")
    watched("convert", "-O", "raw", "top", "flat")
    watched("convert", "-O", "qcow2", "-n", "top", "base", status=1)
    watched("convert", "-c", "-O", "qcow2", "top", "packed")
    watched("convert", "-O", "qcow2", "--resume", "packed", "resumed")
    watched("convert", "-O", "qed", "-B", "base", "-F", "qcow2", "top", "overlay")
    watched("compare", "packed", "flat")
    watched("measure", "-O", "qcow2", "top")
    watched("checksum", "packed")
    watched("dd", "-O", "raw", "bs=64k", "count=3", "if=packed", "of=part")
    watched("map", "--output=json", "top")
    watched("info", "--output=json", "--backing-chain", "top")
    watched("check", "--data", "packed")
    watched("resize", "-q", "resumed", "3M")
    watched("rebase", "-b", "", "overlay")
    watched("commit", "-q", "top")


run_tests(globals())
