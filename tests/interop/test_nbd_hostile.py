#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""NBD servers that lie to oxbow, their client: nothing crashes, nothing hangs, errors are told."""
import signal

from harness import *
from nbd_servers import *

SIZE = 8 << 20


def disk():
    path = tmpdir() / "disk.raw"
    path.write_bytes(b"a" * 65536 + bytes(SIZE - 65536))
    return path


def lies(*names):
    for name in names:
        with Forgetful(disk(), {"lie": name}) as server:
            yield name, server.uri(reconnect_delay=0, open_timeout=1)


def test_a_server_that_is_none_is_refused():
    for name, uri in lies("greeting", "silent", "size"):
        expect_failure(oxbow_path(), "info", uri, message="Failed to connect to")


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_is_said():
    for _, uri in lies("silent"):
        expect_failure(oxbow_path(), "info", uri, message="the server does not answer")


def test_block_sizes_that_none_has_are_refused_or_disregarded():
    for sizes in ({"min_block": 3}, {"min_block": 1 << 20}, {"max_block": 16},
                  {"min_block": 4096, "size": SIZE - 512}, {"min_block": 4096, "max_block": 512}):
        with Forgetful(disk(), sizes) as server:
            result = run(oxbow_path(), "io", "-r", "-f", "raw", "-c", "read -P 97 512 60k",
                         server.uri(open_timeout=1), check=False)
            if result.returncode != 0:
                check_in("Failed to connect to", result.stderr)


def test_a_garbling_server_is_given_up_in_the_end():
    with Forgetful(disk(), {"lie": "garbage"}) as server:
        expect_failure(oxbow_path(), "info", server.uri(reconnect_delay=1),
                       message="Input/output error")


def test_answers_to_reads_that_make_no_sense_fail_the_read():
    for name, uri in lies("garbage", "cookie", "beyond", "huge", "hang up", "error"):
        result = run(oxbow_path(), "io", "-r", "-f", "raw", "-c", "read 0 4k", uri, check=False)
        check_in("read failed", result.stdout + result.stderr, f"answer of {name}")
        expect_failure(oxbow_path(), "info", uri)


def test_a_read_that_is_answered_with_less_shows_nothing_of_our_memory():
    env = dict(os.environ, MALLOC_PERTURB_="77")
    for name, uri in lies("nothing", "short"):
        result = run(oxbow_path(), "io", "-r", "-f", "raw", "-c", "read -v 0 4k", uri, check=False, env=env)
        check_in("read failed: Input/output error", result.stdout + result.stderr, f"answer of {name}")
    for _, uri in lies("half twice"):
        shown = output(oxbow_path(), "io", "-r", "-f", "raw", "-c", "read -v 0 4k", uri, env=env)
        check_in("00000800:  00 00 00 00", shown, "the half that did not come")


def test_parts_of_an_answer_come_in_any_order():
    for _, uri in lies("backwards"):
        oxbow("io", "-r", "-f", "raw", "-c", "read -P 97 0 64k", "-c", "read -P 0 64k 64k", uri)


def test_a_server_that_answers_no_request_keeps_nobody_from_ending():
    near = tmpdir() / "near.sock"
    for _, uri in lies("mute"):
        for words in (("convert", "-f", "raw", "-O", "raw", uri, "out"), ("checksum", "-f", "raw", uri),
                      ("create", "-f", "qcow2", uri, "1M"), ("dd", f"if={uri}", "of=out"),
                      ("io", "-f", "raw", "-c", "read 0 4k", uri), ("info", uri)):
            process = subprocess.Popen([oxbow_path(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None:  # the second one ends what waits for the first
                process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            check_equal(process.returncode, -signal.SIGINT, f"exit code of {words[0]}")
        server = subprocess.Popen([oxbow_path(), "serve", "-f", "raw", "--drain", "1", "--nbd", near, uri],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        check_in("near.sock", server.stdout.readline().decode())
        client = subprocess.Popen(["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", f"nbd+unix:///?socket={near}"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        server.terminate()
        said = server.communicate(timeout=60)[1].decode()
        check_equal(server.returncode, 1, f"exit code ({said})")
        client.kill()
        client.wait()


def test_extents_that_make_no_sense_lose_no_data():
    for name, uri in lies("no extents", "empty extents", "long extents", "many extents",
                          "odd extents"):
        result = run(oxbow_path(), "map", "--output=json", "-f", "raw", uri, check=False)
        if result.returncode == 0:
            extents = json.loads(result.stdout)
            check_equal(sum(e["length"] for e in extents), SIZE, f"the length with {name}")
            if name in ("no extents", "empty extents", "odd extents"):
                check_equal([e["data"] for e in extents if not e["data"]], [], f"map with {name}")


def test_an_image_in_a_lying_export_is_only_a_damaged_image():
    oxbow("create", "-f", "qcow2", "x.qcow2", "64M")
    for name in ("short", "long extents"):
        with Forgetful(tmpdir() / "x.qcow2", {"lie": name}) as server:
            for verb in ("info", "check", "map"):
                run(oxbow_path(), verb, server.uri(reconnect_delay=0), check=False)


run_tests(globals())
