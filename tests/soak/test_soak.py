#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 65
import soak
from watchdog import where_is

from harness import *

SECONDS = 60


def test_a_lone_client_is_always_answered():
    for name, count, error in soak.soak(SECONDS):
        if error:
            raise Failure(f"{name}: {error}")
        if count == 0:
            raise Failure(f"{name}: nothing was asked, so nothing was tested")


def test_the_watchdog_says_where_a_process_is():
    asleep = subprocess.Popen(["sleep", "1000"])
    on_exit(asleep.wait)
    on_exit(asleep.kill)
    time.sleep(0.1)
    where = where_is(asleep.pid)
    check_in("sleep 1000", where, "command")
    check_in("wchan", where, "state")


run_tests(globals())
