#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: timeout 1500, priority 180
"""A Debian guest boots from a disk that oxbow serves over vhost-user, and uses it: partitions, ext4 and xfs,
discards, the write cache. The process that serves is killed 25 times under load, the guest moves to another
QEMU, and the power goes."""
from life import *


def test_a_guest_lives_on_a_lazy_disk_past_the_host_s_cache():
    live("none", lazy=True)


def test_a_guest_lives_on_a_strict_disk_that_writes_through():
    live("directsync", lazy=False)


def live(cache, lazy):
    print(f"# shown: under {accelerator()}", flush=True)
    files = Life(cache, lazy).go_through()
    print(f"# {files} files were fsynced")


run_tests(globals())
