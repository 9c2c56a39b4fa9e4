#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 60
"""The control socket of `oxbow serve`: what operators ask by `oxbow ctl`, by lines of JSON and over HTTP, and
what strangers send (docs/control.md)."""
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


# ---- as an operator ----

def test_status_tells_how_the_disk_is():
    with controlled_disk("--limit", "iops=5000,bandwidth=100M") as server:
        handle = nbd_connect(server.uri)
        eventually("the client", lambda: server.status()[0]["clients"]["nbd"] == 1)
        disk, = server.status()
        check_equal(disk["state"], "serving", "state")
        check_equal(disk["pid"], server.worker(), "pid")
        check_equal(disk["image"], "disk", "image")
        check_equal(disk["size"], DISK_BYTES, "size")
        check_equal(disk["deaths"], 0, "deaths")
        check_equal(disk["limits"]["iops"], 5000, "limit")
        text = server.ctl("status")
        for part in ("disk: serving by process", "8 MiB", "1 connected", "5000 requests/s  100 MiB/s"):
            check_in(part, text)
        handle.shutdown()


def test_what_clients_ask_for_is_counted():
    with controlled_disk("-t", "none") as server:
        handle = nbd_connect(server.uri)
        for number in range(10):
            handle.pwrite(b"\x11" * 4096, number * 4096)
        handle.pread(8192, 0)
        handle.flush()
        handle.trim(MIB, 0)
        handle.zero(4096, MIB)
        try:
            handle.pread(512, DISK_BYTES)
        except nbd.Error:
            pass
        requests = server.stats()["requests"]["nbd"]
        check_equal((requests["write"]["requests"], requests["write"]["bytes"]), (10, 40960), "writes")
        check_equal((requests["read"]["requests"], requests["read"]["bytes"]), (1, 8192), "reads")
        check_equal(requests["flush"]["requests"], 1, "flushes")
        check_equal(requests["discard"]["bytes"], MIB, "discarded")
        check_equal(requests["zero"]["bytes"], 4096, "zeroed")
        latency = server.stats()["latency"]
        check_equal(sum(latency["write"]["buckets"]), 10, "latencies of writes")
        check_equal(latency["write"]["sum-ns"] > 0, True, "time of writes")
        eventually("the host's writes", lambda: server.stats()["host"]["writes"] > 0)
        check_in("write              10", server.ctl("stats"))
        handle.shutdown()


def test_a_dirty_image_is_named():
    oxbow("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk", "8M")
    with Controlled("--lazy-idle", "never", "disk") as server:
        check_equal(server.status()[0]["dirty"], False, "dirty")
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x12" * 65536, 0)
        handle.shutdown()
        eventually("the dirty bit", lambda: server.status()[0]["dirty"])
        check_in("8 MiB, dirty", server.ctl("status"))


def test_a_flush_makes_durable_what_was_written():
    with controlled_disk() as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x22" * 4096, 0)
        before = server.stats()["host"]["syncs"]
        server.ctl("flush")
        check_equal(server.stats()["host"]["syncs"] > before, True, "syncs")
        handle.shutdown()


def test_a_disk_grows_and_shrinks_only_if_that_is_said():
    with controlled_disk() as server:
        handle = nbd_connect(server.uri)
        server.ctl("resize", "16M")
        server.ctl("resize", "+1M")
        check_equal(server.status()[0]["size"], 17 * MIB, "size")
        handle.shutdown()
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x33" * 512, 17 * MIB - 512)
        expect_failure(oxbow_path(), "ctl", server.control, "resize", "1M", message="would become smaller")
        expect_failure(oxbow_path(), "ctl", server.control, "resize", "8191P", message="The server says")
        check_equal(server.status()[0]["size"], 17 * MIB, "size")
        server.ctl("resize", "1M", "--shrink")
        handle.shutdown()
        handle = nbd_connect(server.uri)
        check_equal(handle.get_size(), MIB, "what a client is told")
        handle.shutdown()
    check_in("1 MiB (1048576 bytes)", output(oxbow_path(), "info", "disk"))


def test_a_disk_that_is_read_only_keeps_its_size():
    oxbow("create", "-q", "-f", "qcow2", "disk", "8M")
    with Controlled("-r", "disk") as server:
        expect_failure(oxbow_path(), "ctl", server.control, "resize", "16M", message="read-only")
        server.ctl("flush")


def test_limits_change_while_it_runs():
    with controlled_disk("--limit", "iops=1,iops-burst=1") as server:
        handle = nbd_connect(server.uri)
        done = threading.Event()

        def write():
            for number in range(100):
                handle.pwrite(b"\x44" * 512, number * 512)
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        server.ctl("limit", "none")
        thread.join()
        check_equal(done.is_set(), True, "all is written")
        check_equal(server.status()[0]["limits"]["iops"], 0, "limit")
        server.ctl("limit", "bandwidth=1M,bandwidth-burst=2M")
        check_equal(server.status()[0]["limits"]["bandwidth-burst"], 2 * MIB, "burst")
        expect_failure(oxbow_path(), "ctl", server.control, "limit", "iops=x", message="is not valid")
        reply = server.ask({"command": "limit", "iops-burst": 5})
        check_equal(reply["error"]["code"], "EINVAL", "a burst without its rate")
        handle.shutdown()
        old = server.server_pid()
        os.kill(old, signal.SIGKILL)
        eventually("the next process", lambda: server.server_pid() not in (old, server.process.pid)
                   and server.status()[0]["state"] == "serving")
        eventually("the limits of before", lambda: server.status()[0]["limits"]["bandwidth-burst"] == 2 * MIB)
        check_equal(server.status()[0]["limits"]["iops"], 0, "limit after a death")


def test_a_pause_is_shown_and_ended():
    where = mounted("ext4", 16 * MIB)
    oxbow("create", "-q", "-f", "qcow2", where / "disk", "256M")
    leave_room(where / "filler", 3 * MIB)
    with Controlled("--on-full=pause", "--low-space=8M", where / "disk") as server:
        eventually("low space", lambda: server.status()[0]["room"]["low"])
        handle = nbd_connect(server.uri)
        writer = threading.Thread(target=lambda: [handle.pwrite(b"\x99" * 65536, n * 65536) for n in range(60)])
        writer.start()
        eventually("the pause", lambda: server.status()[0]["room"]["waiting"] > 0)
        text = server.ctl("status")
        check_in("requests wait for room on the host", text)
        check_in("low on the image's file system", text)
        server.ctl("resume")  # in vain
        os.unlink(where / "filler")
        run("sync", "-f", where)
        server.ctl("resume")
        writer.join()
        eventually("the end of the pause", lambda: server.status()[0]["room"]["waiting"] == 0)
        handle.shutdown()


def test_stop_ends_the_server_and_waits_for_it():
    with controlled_disk() as server:
        server.ctl("stop")
        check_equal(os.path.exists(server.control), False, "the socket is there")
        check_equal(server.wait(), 0, "exit code")
    expect_failure(oxbow_path(), "ctl", server.control, "status", message="Cannot connect to")


def test_the_only_disk_that_is_removed_ends_a_server_of_a_command_line():
    with controlled_disk() as server:
        check_equal(server.ask({"command": "remove"}), {"return": {}}, "the answer")
        check_equal(server.wait(), 0, "exit code")


def test_what_is_wrong_is_told():
    with controlled_disk() as server:
        for args, message in ((("flush", "vm9"), "there is no disk 'vm9'"),
                              (("remove",), "needs another argument"),
                              (("stop", "x"), "takes no further argument"),
                              (("levitate",), "There is no command 'levitate'"),
                              (("resize", "much"), "'much' is no size"),
                              (("flush", "--shrink"), "--shrink goes with resize alone"),
                              (("flush", "--output=json"), "does not take this --output"),
                              (("status", "--output=prometheus"), "does not take this --output"),
                              (("status", "--output=xml"), "it takes human, json or prometheus"),
                              ((), "No command is given")):
            expect_failure(oxbow_path(), "ctl", server.control, *args, message=message)
    expect_failure(oxbow_path(), "ctl", message="No socket is given")
    expect_failure(oxbow_path(), "ctl", "x" * 200, "status", message="must have 1 to")
    expect_failure(oxbow_path(), "serve", "--no-keeper", "--control=c", "--nbd=n", "disk",
                   message="--control and --no-keeper exclude each other")


def test_the_socket_is_its_owners():
    with controlled_disk() as server:
        check_equal(stat.S_IMODE(os.stat(server.control).st_mode), 0o600, "mode")
        server.ctl("status")
    check_equal(os.path.exists(server.control), False, "the socket is there")


def test_a_socket_that_another_server_listens_on_is_refused():
    with controlled_disk() as server:
        expect_failure(oxbow_path(), "serve", "--control", server.control, "--nbd", "other", "disk",
                       message="Another server listens on")


# ---- HTTP ----

SAMPLE = re.compile(r'^([a-z_][a-z0-9_]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? ([0-9.e+-]+)$')


def http_get(server, path, version="1.1"):
    connection = server.connect()
    connection.sendall(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    check_equal(int(fields["Content-Length"]), len(body), "length of the body")
    return lines[0], fields, body.decode()


def parse_metrics(text):
    """By the grammar of the text format, 0.0.4. {(name, labels): value}"""
    types = {}
    samples = {}
    current = None
    check_equal(text.endswith("\n"), True, "the last line ends")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            check_equal(name, current, "TYPE follows HELP")
            check_equal(name in types, False, f"{name} comes twice")
            types[name] = kind
            continue
        match = SAMPLE.match(line)
        if not match:
            raise Failure(f"no line of the format: {line!r}")
        name, labels, value = match.groups()
        base = re.sub("_(bucket|sum|count)$", "", name) if types.get(current) == "histogram" else name
        check_equal(base, current, "samples stand with their metric")
        check_equal((name, labels) in samples, False, f"{line!r} comes twice")
        check_equal(name.endswith("_total"), types[current] == "counter", f"a counter's name: {name}")
        samples[name, labels] = float(value)
    return types, samples


def check_histograms(samples):
    by_series = {}
    for (name, labels), value in samples.items():
        if name.endswith("_bucket"):
            rest, le = re.fullmatch(r'(.*),le="([^"]*)"', labels).groups()
            by_series.setdefault((name[:-7], rest), []).append((float(le), value))
    check_equal(len(by_series) > 0, True, "there are histograms")
    for (name, labels), buckets in by_series.items():
        check_equal(buckets, sorted(buckets), "bounds and counts only rise")
        check_equal(buckets[-1], (float("inf"), samples[name + "_count", labels]), "the last bucket")
        check_equal((name + "_sum", labels) in samples, True, "there is a sum")


def test_metrics_keep_to_the_format():
    os.mkdir('a "b"\\c')
    path = 'a "b"\\c/new\nline \udcff'
    oxbow("create", "-q", "-f", "qcow2", path, "8M")
    with Controlled(path) as server:
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x55" * 4096, 0)
        status, fields, text = http_get(server, "/metrics")
        check_equal(status, "HTTP/1.1 200 OK", "status")
        check_in("text/plain; version=0.0.4", fields["Content-Type"])
        types, samples = parse_metrics(text)
        check_histograms(samples)
        check_equal(types["oxbow_request_duration_seconds"], "histogram", "type")
        check_equal(samples["oxbow_requests_total", 'disk="",protocol="nbd",kind="write"'], 1, "writes")
        check_equal(samples["oxbow_disk_up", 'disk=""'], 1, "up")
        image = next(labels for name, labels in samples if name == "oxbow_disk_info")
        check_in(r'image="a \"b\"\\c/new\nline', image)
        check_equal(parse_metrics(server.ctl("stats", "--output=prometheus"))[0], types, "by ctl")
        handle.shutdown()


def test_http_is_answered_once_and_for_one_path():
    with controlled_disk() as server:
        check_equal(http_get(server, "/metrics?x=1", "1.0")[0], "HTTP/1.1 200 OK", "with a query")
        for path in ("/", "/metrics/", "/metricsx", "*", "", "/metrics HTTP/2.0"):
            check_equal(http_get(server, path)[0], "HTTP/1.1 404 Not Found", path)
        connection = server.connect()
        connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        for part in (b"Host", b": x\r", b"\n", b"\r\n"):
            connection.sendall(part)
        check_equal(read_all(connection).startswith(b"HTTP/1.1 200 OK\r\n"), True, "in pieces")


def test_counters_only_rise_whatever_dies():
    with controlled_disk() as server:
        before = {}
        for turn in range(4):
            handle = nbd_connect(server.uri)
            for number in range(20):
                handle.pwrite(bytes([turn]) * 4096, (turn * 20 + number) * 4096)
            handle.flush()
            if turn == 2:
                os.kill(server.control_pid(), signal.SIGKILL)
            else:
                server.next_worker(server.kill_worker())
            eventually("the control socket", lambda: run(
                oxbow_path(), "ctl", server.control, "status", check=False).returncode == 0)
            types, now = parse_metrics(http_get(server, "/metrics")[2])
            for key, value in before.items():
                name = re.sub("_(bucket|sum|count)$", "", key[0])
                if types[name] in ("counter", "histogram") and now[key] < value:
                    raise Failure(f"{key} falls from {value} to {now[key]}")
            before = now
        check_equal(now["oxbow_requests_total", 'disk="",protocol="nbd",kind="write"'], 80, "writes")
        check_equal(now["oxbow_disk_deaths_total", 'disk=""'], 3, "deaths")
        check_equal(server.status()[0]["deaths"], 3, "deaths")


# ---- strangers ----

def test_lines_that_make_no_sense_are_answered():
    with controlled_disk() as server:
        connection = server.connect()
        for line in (b"{", b"{}", b"[]", b"null", b"\xff\xfe", b"{\"command\": 1}", b"GETX",
                     b'{"command": "status", "command": "stop"}', b'{"command": "fly"}',
                     b'{"command": "stop", "disk": "x"}', b'{"command": "flush", "size": 5}',
                     b'{"command": "resize"}', b'{"command": "resize", "size": -1}',
                     b'{"command": "resize", "size": 1.5}', b'{"command": "resize", "size": "1G"}',
                     b'{"command": "resize", "size": 1, "grow-by": 1}',
                     b'{"command": "resize", "size": 99999999999999999999}',
                     b'{"command": "resize", "size": 1, "shrink": 1}', b'{"command": "limit", "iops": -5}',
                     b'{"command": "flush", "disk": 7}', b'{"command": "flush", "disk": "a\\u0000b"}',
                     b'{"command": "flush", "disk": "' + b"x" * 65 + b'"}', b"[" * 5000):
            check_equal(server.ask(line, connection)["error"]["code"], "EINVAL", line)
        reply = server.ask({"command": "limit", "iops": 2 ** 62}, connection)
        check_equal(reply["error"]["code"], "EINVAL", "a limit")
        check_equal(server.ask({"command": "status"}, connection)["return"]["disks"][0]["size"], DISK_BYTES,
                    "the disk")


def test_lines_are_answered_in_their_order_however_they_are_cut():
    with controlled_disk() as server:
        connection = server.connect()
        connection.sendall(b'\n \n{"command":"status"}\n{"command":"flush"}\r\n{"command":"x"}\n{"comm')
        connection.sendall(b'and":"resize","grow-by":512}\n')
        data = b""
        while data.count(b"\n") < 4:
            data += connection.recv(65536)
        replies = [json.loads(line) for line in data.splitlines()]
        check_equal([sorted(reply) for reply in replies], [["return"], ["return"], ["error"], ["return"]],
                    "replies")
        check_equal(replies[3]["return"]["size"], DISK_BYTES + 512, "size")


def test_a_line_without_an_end_is_cut_off():
    with controlled_disk() as server:
        connection = server.connect()
        try:
            connection.sendall(b" " * (1 << 20))
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            data = read_all(connection)
            check_in("EMSGSIZE", data.decode())
        except ConnectionResetError:
            pass  # it was sent more than it had read
        server.ctl("status")


def test_nobody_who_is_silent_keeps_others_out():
    with controlled_disk() as server:
        silent = [server.connect() for _ in range(40)]
        for connection in silent[1::2]:
            try:
                connection.send(b'{"command": ')
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was let go already, for one that came later
        for _ in range(3):
            server.ctl("status")
        # One that is heard of is not let go before those that are silent.
        connection = server.connect()
        for _ in range(40):
            silent.append(server.connect())
            server.ask({"command": "flush"}, connection)


def test_one_who_does_not_read_stops_nobody():
    with controlled_disk() as server:
        deaf = server.connect()
        deaf.setblocking(False)
        sent = 0
        try:
            while sent < 8 * MIB:
                sent += deaf.send(b'{"command":"metrics"}\n' * 1000)
        except BlockingIOError:
            pass
        check_equal(sent < 8 * MIB, True, "it is not read from for ever")
        for _ in range(5):
            server.ctl("stats")


def test_many_ask_at_once():
    with controlled_disk() as server:
        failures = []

        def work(number):
            try:
                connection = server.connect()
                for turn in range(30):
                    command = ({"command": "flush"}, {"command": "status"}, {"command": "limit", "iops": 0},
                               {"command": "resize", "grow-by": 512})[(number + turn) % 4]
                    reply = server.ask(command, connection)
                    if "return" not in reply and reply["error"]["code"] != "EBUSY":
                        raise Failure(reply)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        handle = nbd_connect(server.uri)
        for number in range(100):
            handle.pwrite(b"\x66" * 512, number * 512)
        for thread in threads:
            thread.join()
        check_equal(failures, [], "failures")
        handle.shutdown()


def send_with_descriptors(connection, line, fds):
    socket.send_fds(connection, [line], fds)


ADD = {"command": "add", "name": "x", "image": "x", "lock": "write", "drain-ms": 1000, "hang-ms": 30000,
       "nbd": "unix:/x", "options": ["nbd=unix:/x"], "descriptors": {"chain": 1, "nbd": 1, "vhost-user-blk": 0}}


def test_a_disk_is_added_only_with_what_belongs_to_it():
    make("other")
    with controlled_disk() as server:
        keeper, control = server.keeper, server.control_pid()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmpdir() / "x.sock"))
        listening.listen()
        image = os.open("other", os.O_RDWR)
        plain = socket.socket(socket.AF_UNIX)
        for change, fds in (({}, []), ({}, [image]), ({}, [image, image]), ({}, [image, plain.fileno()]),
                            ({}, [listening.fileno(), listening.fileno()] * 2),
                            ({"options": ["no-sandbox"]}, [image, listening.fileno()]),
                            ({"options": ["user=root"]}, [image, listening.fileno()]),
                            ({"options": ["state=/etc/passwd"]}, [image, listening.fileno()]),
                            ({"options": ["-kept-as=worker:3"]}, [image, listening.fileno()]),
                            ({"options": [""]}, [image, listening.fileno()]),
                            ({"options": ["cache=none"] * 65}, [image, listening.fileno()]),
                            ({"options": ["export=" + "x" * 40000]}, [image, listening.fileno()]),
                            ({"name": "../x"}, [image, listening.fileno()]),
                            ({"name": ""}, [image, listening.fileno()]),
                            ({"name": "x" * 64 + "y"}, [image, listening.fileno()]),
                            ({"lock": "none"}, [image, listening.fileno()]),
                            ({"hang-ms": -1}, [image, listening.fileno()]),
                            ({"nbd": None}, [image, listening.fileno()]),
                            ({"descriptors": {"chain": 2000, "nbd": 1, "vhost-user-blk": 0}}, [image]),
                            ({"descriptors": {"chain": 0, "nbd": 2, "vhost-user-blk": 0}},
                             [listening.fileno()] * 2)):
            connection = server.connect()
            send_with_descriptors(connection, json.dumps({**ADD, **change}).encode() + b"\n", fds)
            check_equal(json.loads(read_line(connection))["error"]["code"], "EINVAL", (change, len(fds)))
        os.close(image)
        check_equal(server.control_pid(), control, "the control process lives")
        eventually("its descriptors are closed", lambda: len(os.listdir(f"/proc/{control}/fd")) < 40)
        check_equal(sum("other" in os.readlink(f"/proc/{pid}/fd/{name}") for pid in (keeper, control)
                        for name in os.listdir(f"/proc/{pid}/fd")
                        if os.path.islink(f"/proc/{pid}/fd/{name}")), 0, "the image's that stayed open")


def test_descriptors_that_nobody_asked_for_are_closed():
    with controlled_disk() as server:
        connection = server.connect()
        file = os.open("disk", os.O_RDONLY)
        try:
            for _ in range(20):
                send_with_descriptors(connection, b" ", [file] * 200)
            check_equal(ended(connection), True, "the connection")
        except (BrokenPipeError, ConnectionResetError):
            pass
        other = server.connect()
        send_with_descriptors(other, b'{"command": "status"}\n', [file] * 50)
        check_in(b"return", read_line(other))
        pid = server.control_pid()
        eventually("they are closed", lambda: not any(
            "disk" in os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")
            if os.path.islink(f"/proc/{pid}/fd/{name}")))


# ---- deaths ----

def test_the_control_process_dies_and_nobody_else_notices():
    with controlled_disk() as server:
        worker = server.worker()
        handle = nbd_connect(server.uri)
        for _ in range(3):
            old = server.control_pid()
            os.kill(old, signal.SIGKILL)
            eventually("another one", lambda: server.control_pid() != old)
            handle.pwrite(b"\x77" * 512, 0)
            server.ctl("flush")
            check_equal(server.status()[0]["pid"], worker, "the worker")
        check_in("which listens on", server.stderr())
        handle.shutdown()


def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    eventually("its stop", lambda: pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def test_a_command_ends_with_the_worker_that_was_told():
    with controlled_disk("--hang-timeout", "never") as server:
        worker = server.worker()
        stopped(worker)
        connection = server.connect()
        connection.sendall(b'{"command": "flush"}\n')
        server.status()
        os.kill(worker, signal.SIGKILL)
        # The keeper may hear of the death first.
        check_in(json.loads(read_line(connection))["error"]["code"], ("ECONNRESET", "EAGAIN"), "the answer")
        server.next_worker(worker)
        check_equal("return" in server.ask({"command": "flush"}, connection), True, "the next one")


def test_a_stopped_worker_holds_up_its_own_commands_alone():
    with controlled_disk("--hang-timeout", "never") as server:
        worker = server.worker()
        stopped(worker)
        waiting = server.connect()
        waiting.sendall(b'{"command": "flush"}\n')
        for _ in range(3):
            check_equal(server.status()[0]["pid"], worker, "status meanwhile")
        os.kill(worker, signal.SIGCONT)
        check_equal("return" in json.loads(read_line(waiting)), True, "the flush")


def test_a_stopped_worker_is_asked_no_more_than_there_is_room_for():
    with controlled_disk("--hang-timeout", "never") as server:
        worker = server.worker()
        stopped(worker)
        for _ in range(64):
            with server.connect() as impatient:
                impatient.sendall(b'{"command": "flush"}\n')
        refused = server.connect()
        check_equal(server.status()[0]["pid"], worker, "status, after all of them")
        refused.sendall(b'{"command": "flush"}\n')
        check_equal(json.loads(read_line(refused))["error"]["code"], "EBUSY", "one more")
        os.kill(worker, signal.SIGCONT)
        def is_taken():
            refused.sendall(b'{"command": "flush"}\n')
            return "return" in json.loads(read_line(refused))
        eventually("a flush", is_taken)


def test_an_answer_for_one_who_has_died_is_nobodys():
    with controlled_disk("--hang-timeout", "never") as server:
        worker = server.worker()
        stopped(worker)
        connection = server.connect()
        connection.sendall(b'{"command": "flush"}\n')
        server.status()
        old = server.control_pid()
        os.kill(old, signal.SIGKILL)
        check_equal(ended(connection), True, "the connection")
        eventually("another one", lambda: server.control_pid() != old)
        os.kill(worker, signal.SIGCONT)
        server.ctl("flush")
        check_equal(server.worker(), worker, "the worker lives")


def test_a_control_process_that_stands_still_stops_nobody():
    with controlled_disk() as server:
        stopped(server.control_pid())
        for turn in range(2):
            server.next_worker(server.kill_worker())
        handle = nbd_connect(server.uri)
        handle.pwrite(b"\x88" * 512, 0)
        handle.shutdown()
        check_equal(server.terminate(), 0, "exit code")


# ---- its rights ----

def test_it_has_what_it_needs_and_no_more():
    with controlled_disk() as server:
        pid = server.control_pid()
        server.status()

        def kinds():
            names = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd") if int(name) > 2]
            return [re.sub(r":.*", "", os.readlink(name)) for name in names if os.path.islink(name)]

        eventually("its descriptors alone", lambda: kinds() == ["socket", "socket"])
        facts = dict(line.split(":\t", 1) for line in
                     pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        check_equal(facts["NoNewPrivs"], "1", "new privileges")
        check_equal(facts["Seccomp"], "2", "system calls are filtered")
        check_equal(int(facts["CapEff"], 16), 0, "capabilities")
        if os.getuid() == 0:
            check_equal(facts["Uid"].split()[0], "65534", "user")
        maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
        for line in maps.splitlines():
            if "oxbow-stats" in line:
                check_equal(line.split()[1], "r--s", "how it maps what is counted")


run_tests(globals())
