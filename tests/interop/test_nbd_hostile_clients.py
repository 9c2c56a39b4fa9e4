#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 60
"""Clients that break off, lie, flood or do not read harm nobody but themselves."""
import random
import resource
import threading

from nbdwire import *


def conversation(style):
    """All that a client sends from its first byte on; each style does the same."""
    parts = [struct.pack(">I", C_FIXED | C_NO_ZEROES)]
    if style == "structured":
        parts.append(option_bytes(OPT_STRUCTURED))
    if style == "extended":
        parts.append(option_bytes(OPT_EXTENDED))
    if style != "simple":
        parts.append(option_bytes(OPT_SET_META, meta_bytes("", "base:allocation")))
    parts.append(option_bytes(OPT_GO, info_bytes("", INFO_NAME)))
    extended = style == "extended"

    def request(kind, offset, length, flags=0, data=b""):
        layout, magic = (">IHHQQQ", 0x21E41C71) if extended else (">IHHQQI", 0x25609513)
        parts.append(struct.pack(layout, magic, flags, kind, 1, offset, length) + data)

    request(WRITE, 4096, 50, PAYLOAD if extended else 0, b"w" * 50)
    request(READ, 0, 100000)
    request(STATUS, 0, MIB)
    request(ZEROES, 65536, 65536)
    request(FLUSH, 0, 0)
    request(READ, 0, 4 * MIB)
    return b"".join(parts)


def check_alive(server):
    client = Client(server, "structured")
    client.write(MIB, b"alive")
    check_equal(client.read(MIB, 5), b"alive", "data")
    client.close()


def test_a_client_may_break_off_at_any_byte():
    with serve(4 * MIB) as server:
        neighbour = Client(server)
        for style in STYLES:
            whole = conversation(style)
            for cut in range(len(whole) + 1):
                link = connect(server)
                link.sendall(whole[:cut])
                if cut % 3 == 0:
                    link.recv(10)
                link.close()
                if cut % 25 == 0:
                    neighbour.write(2 * MIB, bytes([cut % 251]) * 4096)
                    check_equal(neighbour.read(2 * MIB, 4096), bytes([cut % 251]) * 4096, "data")
        check_alive(server)


def test_a_client_may_send_byte_by_byte():
    with serve(4 * MIB) as server:
        client = Client(server, None)
        for byte in conversation("structured"):
            client.send(bytes([byte]))
        check_alive(server)


def test_a_write_that_is_not_completed_changes_nothing():
    with serve(4 * MIB) as server:
        checker = Client(server)
        for sent in (0, 1, 4095, 4096, 65535, 100000, MIB - 1):
            client = Client(server)
            client.request(WRITE, 0, MIB, 0, b"\xff" * sent)
            client.close()
            check_equal(checker.read(0, MIB) == bytes(MIB), True, f"disk unchanged after {sent}")


def test_clients_that_vanish_with_requests_in_flight_leave_the_server_well():
    with serve(64 * MIB) as server:
        for number in range(60):
            style = STYLES[number % 3]
            client = Client(server, style)
            flag = PAYLOAD if style == "extended" else 0
            for at in range(40):
                client.request(WRITE, at * MIB, 65536, flag | FUA, b"\x99" * 65536)
                client.request(READ, at * MIB, 65536)
            client.close()
        check_alive(server)


def test_random_bytes_end_the_connection():
    with serve(4 * MIB) as server:
        rng = random.Random(20)
        for number in range(150):
            client = Client(server, None if number % 2 else STYLES[number % 3])
            try:
                client.send(rng.randbytes(rng.randrange(1, 3000)))
                client.link.shutdown(1)
                while client.link.recv(65536):
                    pass
            except OSError:
                pass
            client.close()
        check_alive(server)


def test_damaged_conversations_are_survived():
    with serve(4 * MIB) as server:
        rng = random.Random(21)
        for number in range(400):
            data = bytearray(conversation(STYLES[number % 3]))
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            link = connect(server)
            try:
                link.sendall(data)
                link.shutdown(1)
                while link.recv(1 << 20):
                    pass
            except OSError:
                pass
            link.close()
        check_alive(server)


def resident_bytes(server):
    with open(f"/proc/{server.server_pid()}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_a_client_that_reads_no_replies_is_bounded_and_slows_nobody():
    with serve(256 * MIB) as server:
        filler = Client(server)
        for at in range(0, 128, 8):
            filler.write(at * MIB, b"\xaa" * (8 * MIB))
        before = resident_bytes(server)
        floods = [Client(server, style) for style in STYLES]
        for client in floods:
            client.link.setblocking(False)
            try:
                for number in range(100000):
                    client.request(READ, number % 4 * 32 * MIB, 32 * MIB)
            except BlockingIOError:
                pass
        check_alive(server)
        filler.ok(READ, 0, 32 * MIB)
        grown = resident_bytes(server) - before
        # 64 MiB for each flooding client, and as much again for what is kept for reuse
        if grown > 400 * MIB:
            raise Failure(f"the server has grown by {grown >> 20} MiB")
        for client in floods:
            client.close()
        check_alive(server)


def pipelined(server, style, requests):
    """Sends all requests at once, and only then reads; how many were answered rightly."""
    client = Client(server, style)
    cookies = {client.request(*request) for request in requests}
    for _ in requests:
        cookie, reply = client.reply()
        check_equal(reply.error, 0, "error")
        cookies.remove(cookie)
    client.close()


def check_bound(server, before, limit):
    # beside the budget: the heap's own, tasks' stacks that are kept, metadata
    grown = resident_bytes(server) - before
    if grown > limit + 40 * MIB:
        raise Failure(f"the server has grown by {grown >> 20} MiB")


def test_many_clients_that_read_no_answer_are_bounded_together():
    with serve(64 * MIB, "--memory", "128M") as server:
        before = resident_bytes(server)
        Client(server).write(0, b"\xaa" * (32 * MIB))
        floods = [Client(server, STYLES[number % 3]) for number in range(60)]
        for client in floods:
            client.request(READ, 0, 32 * MIB)
        for style in STYLES:
            pipelined(server, style, [(READ, 4096 * at, 4096) for at in range(32)])
        check_alive(server)
        check_bound(server, before, 128 * MIB)


def test_many_clients_that_send_half_a_write_are_bounded_together():
    with serve(64 * MIB, "--memory", "128M", "--shared", "200") as server:
        before = resident_bytes(server)
        for number in range(150):
            client = Client(server, STYLES[number % 3])
            client.link.setblocking(False)
            flag = PAYLOAD if client.style == "extended" else 0
            try:
                client.request(WRITE, 0, 32 * MIB, flag, b"\xbb" * (16 * MIB))
            except BlockingIOError:
                pass
        for style in STYLES:
            pipelined(server, style, [(READ, 4096 * at, 4096) for at in range(32)])
        check_alive(server)
        check_bound(server, before, 128 * MIB)


def test_clients_that_wait_for_memory_get_it_in_the_end():
    with serve(64 * MIB, "--memory", "64M") as server:
        data = pattern(10, 32 * MIB)
        Client(server).write(0, data)
        clients = [Client(server, STYLES[number % 3]) for number in range(12)]
        for client in clients:
            client.request(READ, 0, 32 * MIB)
        for client in clients[6:]:
            client.close()  # perhaps before it is their turn
        wrong = []

        def read(client):
            if bytes(client.reply()[1].data) != data:
                wrong.append(client)

        threads = [threading.Thread(target=read, args=(client,)) for client in clients[:6]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_equal(wrong, [], "clients with other data than were written")


def test_a_client_that_reads_slowly_gets_everything():
    with serve(64 * MIB) as server:
        client = Client(server, "structured")
        data = pattern(9, 32 * MIB)
        client.write(0, data)
        for number in range(4):
            client.request(READ, 0, 32 * MIB)
        time.sleep(0.5)
        for number in range(4):
            check_equal(bytes(client.reply()[1].data) == data, True, "data as written")


def test_a_flood_of_options_is_answered_only_as_it_is_read():
    with serve(4 * MIB) as server:
        before = resident_bytes(server)
        client = Client(server, None)
        client.greet()
        client.link.setblocking(False)
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += client.link.send(option_bytes(OPT_LIST) * 4096)
        except BlockingIOError:
            pass
        check_alive(server)
        grown = resident_bytes(server) - before
        if sent >= 64 * MIB or grown > 16 * MIB:
            raise Failure(f"{sent} bytes of options were taken, and the server grew by {grown}")


def test_a_claimed_length_takes_no_memory():
    os.environ.pop("MALLOC_PERTURB_", None)  # it touches every byte that is only claimed
    with serve(4 * GIB) as server:
        before = resident_bytes(server)
        for _ in range(30):
            Client(server).request(WRITE, 0, 32 * MIB)
        check_alive(server)
        grown = resident_bytes(server) - before
        if grown > 64 * MIB:
            raise Failure(f"the server has grown by {grown >> 20} MiB")


def test_more_clients_than_allowed_wait_their_turn():
    with serve(MIB, "--shared", "2") as server:
        first, second = Client(server), Client(server)
        third = Client(server, None)
        third.link.settimeout(0.5)
        try:
            raise Failure(f"the third client was told {third.link.recv(18)!r}")
        except TimeoutError:
            pass
        third.link.settimeout(100)
        first.read(0, 1)
        second.close()
        third.greet()
        third.style = "simple"
        third.go()
        third.read(0, 1)


def test_a_client_that_does_not_finish_the_handshake_loses_its_place():
    with serve(MIB, "--shared", "1") as server:
        silent = Client(server, None)
        silent.greet()
        patient = Client(server)  # is greeted once the other is gone
        silent.check_closed()
        patient.read(0, 1)


def test_a_client_in_transmission_may_be_idle_for_long():
    with serve(MIB, "--shared", "2") as server:
        idle = Client(server)
        silent = Client(server, None)
        silent.greet()
        silent.check_closed()  # that took as long as a handshake may
        idle.write(0, b"still here")


run_tests(globals())
