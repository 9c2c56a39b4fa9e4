#!/usr/bin/python3
# SPDX-License-Identifier: MIT
from nbdwire import *

TCP = ("--nbd", "127.0.0.1:0")


def accepted_replies(client):
    """Cookies that were answered without an error before the end of the stream."""
    done = set()
    while True:
        try:
            cookie, reply = client.reply()
        except Closed:
            return done
        check_equal(reply.error, 0, "error")
        done.add(cookie)


def stop_in_flight(*args):
    with serve(64 * MIB, *args) as server:
        disk = server.argv[-1]
        clients = [Client(server, style) for style in STYLES]
        written = [{}, {}, {}]
        for number in range(20):
            for index, client in enumerate(clients):
                offset = (index * 20 + number) * MIB
                data = pattern(offset, 16 * KIB)
                flag = PAYLOAD if client.style == "extended" else 0
                written[index][client.request(WRITE, offset, len(data), flag, data)] = (offset, data)
        server.process.terminate()
        answered = [accepted_replies(client) for client in clients]
        check_equal(server.wait(), 0, "exit code")
        check_equal(server.stderr(), "", "stderr")
    if FORMAT == "qcow2":
        qemu_img("check", disk)
    with Server("-f", FORMAT, disk) as server:
        client = Client(server)
        for index in range(3):
            for cookie in answered[index]:
                offset, data = written[index][cookie]
                check_equal(client.read(offset, len(data)) == data, True, "answered write is there")


def test_sigterm_finishes_requests_in_flight_on_a_unix_socket():
    stop_in_flight()


def test_sigterm_finishes_requests_in_flight_on_tcp():
    stop_in_flight(*TCP)


def test_sigterm_answers_all_that_was_accepted():
    for args in ((), TCP):
        with serve(64 * MIB, *args) as server:
            client = Client(server)
            first = client.request(WRITE, 0, MIB, FUA, b"\x11" * MIB)
            others = {client.request(READ, 0, MIB) for _ in range(30)}
            check_equal(client.reply()[1].error, 0, "error")  # so the rest is being served
            client.reply()
            server.process.terminate()
            answered = accepted_replies(client)
            # replies come whole or not at all: reply() would have failed otherwise
            check_equal(answered <= others | {first}, True, "answers belong to requests")
            check_equal(server.wait(), 0, "exit code")


def test_idle_clients_do_not_hold_up_the_end():
    for args in ((), TCP):
        with serve(MIB, *args) as server:
            clients = [Client(server, style) for style in STYLES]
            handshaking = Client(server, None)
            handshaking.greet()
            check_equal(server.terminate(), 0, "exit code")
            for client in clients + [handshaking]:
                client.check_closed()


def test_a_client_that_does_not_read_holds_up_the_end_for_a_bounded_time():
    for args in ((), TCP):
        with serve(256 * MIB, *args) as server:
            client = Client(server)
            client.write(0, b"\x22" * (32 * MIB))
            for _ in range(30):
                client.request(READ, 0, 32 * MIB)
            check_equal(server.terminate(60), 0, "exit code")


def test_a_second_sigterm_does_not_break_the_end():
    with serve(256 * MIB) as server:
        client = Client(server)
        client.write(0, b"\x33" * (32 * MIB))
        for _ in range(30):
            client.request(READ, 0, 32 * MIB)
        server.process.terminate()
        server.process.terminate()
        check_equal(server.terminate(60), 0, "exit code")
        disk = server.argv[-1]
    if FORMAT == "qcow2":
        qemu_img("check", disk)


def test_sigint_and_sighup_end_it_as_well():
    for number in (signal.SIGINT, signal.SIGHUP):
        with serve(MIB) as server:
            Client(server).write(0, b"x")
            server.process.send_signal(number)
            check_equal(server.wait(), 0, "exit code")


def test_nobody_can_connect_any_more_once_it_ends():
    with serve(256 * MIB) as server:
        client = Client(server)
        client.write(0, b"\x44" * (32 * MIB))
        for _ in range(30):
            client.request(READ, 0, 32 * MIB)
        server.process.terminate()
        while os.path.exists(server.socket):
            time.sleep(0.01)
        try:
            Client(server)
            raise Failure("a client could connect to a server that ends")
        except OSError:
            pass
        client.close()
        check_equal(server.wait(), 0, "exit code")


def test_the_socket_is_removed_at_the_end():
    with serve(MIB) as server:
        check_equal(os.path.exists(server.socket), True, "socket exists")
        server.terminate()
        check_equal(os.path.exists(server.socket), False, "socket exists")


def test_a_stale_socket_is_replaced():
    with serve(MIB) as server:
        server.kill9()
        check_equal(os.path.exists(server.socket), True, "socket exists")
        server.start()
        Client(server).write(0, b"x")


def test_a_socket_that_is_listened_on_is_left_alone():
    with serve(MIB) as server:
        other = make_disk(MIB, "other")
        expect_failure(oxbow_path(), "serve", "-f", FORMAT, "--nbd", server.socket, other,
                       message="Another server listens")
        Client(server).write(0, b"x")


def test_a_file_that_is_no_socket_is_left_alone():
    disk = make_disk(MIB)
    path = tmpdir() / "precious"
    path.write_text("text")
    expect_failure(oxbow_path(), "serve", "-f", FORMAT, "--nbd", path, disk, message="not a socket")
    check_equal(path.read_text(), "text", "file")


def disk_with_much_to_zero():
    """1 TiB of small clusters over a backing file: zeroes over all of it take 2 GiB of tables."""
    with open("base.raw", "wb") as file:
        file.truncate(1024 * GIB)
    oxbow("create", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "base.raw", "-F", "raw", "disk.qcow2")
    return "disk.qcow2"


def test_sigterm_does_not_wait_for_long_requests():
    disk = disk_with_much_to_zero()
    with Server("-f", "qcow2", "--allow-backing", disk) as server:
        client = Client(server, "extended")
        other = Client(server)
        for _ in range(64):
            client.request(ZEROES, 0, 1024 * GIB)
        for number in range(20):  # which are answered although none of the others is
            other.write(number * 50 * GIB, pattern(number, 4096))
            other.read(number * 50 * GIB, 4096)
        server.process.terminate()
        for _ in range(64):
            check_equal(client.reply()[1].error, ESHUTDOWN, "error")
        client.check_closed()
        check_equal(server.wait(), 0, "exit code")
    qemu_img("check", disk)
    if os.stat(disk).st_size > GIB:
        raise Failure("the zeroes were not given up")


def test_a_client_that_leaves_takes_its_long_requests_along():
    disk = disk_with_much_to_zero()
    with Server("-f", "qcow2", "--allow-backing", disk) as server:
        client = Client(server, "extended")
        for _ in range(63):
            client.request(ZEROES, 0, 1024 * GIB)
        client.request(READ, 0, 512)
        client.reply()  # all of them have been taken
        client.close()
        Client(server).write(0, b"all is well")
        server.process.terminate()
        check_equal(server.wait(), 0, "exit code")
    qemu_img("check", disk)
    if os.stat(disk).st_size > GIB:
        raise Failure("the zeroes were not given up")


run_tests(globals())
