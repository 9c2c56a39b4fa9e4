#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 45
"""`oxbow serve --no-keeper`, one process: what matters most of a server holds for it as well. The
claims are those of the other files here, which are run with that option."""
from interop import *

HERE = pathlib.Path(__file__).resolve().parent


def alone(name, *claims):
    env = dict(os.environ, OXBOW_TEST_SERVE="--no-keeper")
    result = run("/usr/bin/python3", HERE / f"{name}.py", *claims, check=False, env=env)
    if result.returncode != 0:
        raise Failure(f"{name}: {result.stdout[-3000:]}{result.stderr[-1000:]}")


def test_requests():
    alone("test_nbd_requests")
    alone("test_nbd_order")


def test_the_verb():
    alone("test_nbd_verb")
    alone("test_nbd_handshake")
    alone("test_serve_fd")


def test_the_end():
    alone("test_nbd_shutdown")


def test_syncs_by_cache_mode():
    alone("test_cache_modes")


def test_locks():
    alone("test_locks")


def test_messages():
    alone("test_nbd_log")
    alone("test_nbd_notices")


def test_promises_through_kills():
    alone("test_kill9", "test_neighbours_in_one_cluster")
    alone("test_table_age")


def test_one_process_serves():
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    with Server("--no-keeper", "disk") as server:
        check_equal(server.children(), [], "children")
    with Server("--keeper", "--no-keeper", "--keeper", "disk") as server:
        check_equal(len(server.children()), 1, "children")


run_tests(globals())
