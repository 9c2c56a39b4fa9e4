#!/usr/bin/python3
# SPDX-License-Identifier: MIT
from nbdwire import *


def clients(server, **kwargs):
    return [Client(server, style, **kwargs) for style in STYLES]


def test_what_one_client_writes_all_read():
    with serve(4 * MIB) as server:
        for number, client in enumerate(clients(server)):
            for offset, length in ((0, 1), (511, 2), (4096, 4096), (65530, 70000), (MIB, MIB)):
                data = pattern(number * 100 + offset, length)
                client.write(offset, data)
                for other in clients(server):
                    check_equal(other.read(offset, length), data, f"data at {offset}")


def test_requests_of_32_mib_are_served():
    with serve(40 * MIB) as server:
        data = pattern(1, 32 * MIB)
        for client in clients(server):
            client.write(MIB + 1, data)
            check_equal(client.read(MIB + 1, 32 * MIB) == data, True, "data as written")


def test_longer_writes_are_skipped_and_refused():
    with serve(80 * MIB) as server:
        client = Client(server, "structured")
        client.fails(EINVAL, WRITE, 0, 32 * MIB + 1, 0, bytes(32 * MIB + 1))
        client.fails(EINVAL, WRITE, 0, 64 * MIB, 0, bytes(64 * MIB))
        client.write(0, b"still in step")


def test_absurdly_long_writes_end_the_connection():
    with serve(MIB) as server:
        for style in STYLES:
            client = Client(server, style)
            client.request(WRITE, 0, 0xFFFFFFFF, PAYLOAD if style == "extended" else 0)
            client.check_closed()


def test_longer_reads_are_refused():
    with serve(80 * MIB) as server:
        for client in clients(server):
            client.fails(EINVAL, READ, 0, 32 * MIB + 1)
            if client.style != "simple":
                client.fails(EOVERFLOW, READ, 0, 32 * MIB + 1, DF)
            client.read(0, 1)


def test_requests_past_the_end_are_refused():
    with serve(MIB) as server:
        for client in clients(server, meta=False):
            flag = PAYLOAD if client.style == "extended" else 0
            for offset in (MIB - 1, MIB, MIB + 1, 1 << 63, (1 << 64) - 1):
                client.fails(EINVAL, READ, offset, 2)
                client.fails(EINVAL, TRIM, offset, 2)
                client.fails(EINVAL, CACHE, offset, 2)
                client.fails(ENOSPC, WRITE, offset, 2, flag, b"xx")
                client.fails(ENOSPC, ZEROES, offset, 2)
            client.ok(READ, MIB - 1, 1)
        client = Client(server, "structured", meta=True)
        client.fails(EINVAL, STATUS, MIB - 1, 2)


def test_empty_requests_succeed():
    with serve(MIB) as server:
        for client in clients(server):
            for kind in (READ, WRITE, TRIM, CACHE, ZEROES, FLUSH):
                client.ok(kind, 0, 0)
                client.ok(kind, MIB, 0)


def test_unknown_commands_are_refused():
    with serve(MIB) as server:
        for client in clients(server):
            for kind in (8, 9, 255, 65535):
                client.fails(EINVAL, kind, 0, 512)
            client.read(0, 1)


def test_unknown_and_misplaced_flags_are_refused():
    with serve(MIB) as server:
        for client in clients(server, meta=False):
            payload = PAYLOAD if client.style == "extended" else 0
            allowed = {READ: FUA | (DF if client.style != "simple" else 0), WRITE: FUA,
                       FLUSH: FUA, TRIM: FUA, CACHE: FUA, ZEROES: FUA | NO_HOLE | FAST_ZERO}
            for kind, good in allowed.items():
                for bit in range(16):
                    flag = 1 << bit
                    if flag & good or flag == PAYLOAD and client.style == "extended":
                        continue
                    if kind == WRITE:
                        client.fails(EINVAL, WRITE, 0, 3, flag | payload, b"bad")
                    else:
                        client.fails(EINVAL, kind, 0, 0 if kind == FLUSH else 512, flag)
            check_equal(client.read(0, 3), bytes(3), "data")


def test_fua_is_taken_with_every_command():
    with serve(MIB) as server:
        for client in clients(server):
            client.write(0, b"durable", FUA)
            client.ok(TRIM, 65536, 65536, FUA)
            client.ok(ZEROES, 131072, 65536, FUA)
            client.ok(ZEROES, 131072, 65536, FUA | NO_HOLE)
            client.ok(FLUSH, 0, 0, FUA)
            client.ok(CACHE, 0, 512, FUA)
            check_equal(client.read(0, 7), b"durable", "data")


def test_a_read_only_export_refuses_changes():
    with serve(MIB, "-r") as server:
        for client in clients(server):
            check_equal(client.flags & (READ_ONLY | SEND_TRIM | SEND_ZEROES), READ_ONLY, "flags")
            client.fails(EPERM, WRITE, 0, 3, PAYLOAD if client.style == "extended" else 0, b"abc")
            client.fails(EPERM, TRIM, 0, 512)
            client.fails(EPERM, ZEROES, 0, 512)
            client.ok(FLUSH)
            client.ok(CACHE, 0, 512)
            check_equal(client.read(0, 3), bytes(3), "data")


def test_zeroes_are_written_with_and_without_a_hole():
    with serve(4 * MIB) as server:
        for client in clients(server):
            for flags in (0, NO_HOLE, FUA, NO_HOLE | FUA):
                data = pattern(flags, MIB)
                client.write(MIB, data)
                client.ok(ZEROES, MIB + 1000, 300000, flags)
                check_equal(client.read(MIB, MIB), data[:1000] + bytes(300000) + data[301000:], "data")


def test_fast_zero_succeeds_or_says_not_supported():
    with serve(4 * MIB) as server:
        for client in clients(server):
            for flags, offset, length in ((0, 0, MIB), (NO_HOLE, 0, MIB), (0, 1, 3)):
                client.write(0, b"\x11" * MIB)
                reply = client.call(ZEROES, offset, length, FAST_ZERO | flags)
                check_in(reply.error, (0, ENOTSUP), "errors")
                kept = b"\x11" if reply.error else b"\0"
                check_equal(client.read(offset, length), kept * length, "data")


def test_trimmed_ranges_read_as_zeroes_or_as_before():
    with serve(4 * MIB) as server:
        for client in clients(server):
            data = pattern(5, MIB)
            client.write(MIB, data)
            client.ok(TRIM, MIB + 65536, 131072)
            got = client.read(MIB, MIB)
            check_equal(got[:65536] == data[:65536], True, "data before is kept")
            check_equal(got[196608:] == data[196608:], True, "data behind is kept")
            check_in(got[65536:196608], (bytes(131072), data[65536:196608]), "trimmed data")


def test_cache_is_answered_whatever_its_length():
    with serve(80 * MIB) as server:
        for client in clients(server):
            for offset, length in ((0, 1), (0, 32 * MIB), (1, 80 * MIB - 1)):
                client.ok(CACHE, offset, length)


def test_reads_of_holes_send_no_zeroes():
    with serve(32 * MIB) as server:
        for style in ("structured", "extended"):
            client = Client(server, style)
            client.write(4 * MIB, b"\x22" * MIB)
            client.write(8 * MIB, b"\x33" * MIB)
            reply = client.ok(READ, 0, 32 * MIB)
            check_equal(reply.chunks, [
                (CHUNK_HOLE, 0, 4 * MIB), (CHUNK_DATA, 4 * MIB, MIB),
                (CHUNK_HOLE, 5 * MIB, 3 * MIB), (CHUNK_DATA, 8 * MIB, MIB),
                (CHUNK_HOLE, 9 * MIB, 23 * MIB)], "chunks")
            check_equal(bytes(reply.data) == bytes(4 * MIB) + b"\x22" * MIB + bytes(3 * MIB) +
                        b"\x33" * MIB + bytes(23 * MIB), True, "data as written")
            check_equal(client.ok(READ, 16 * MIB, 16 * MIB).chunks,
                        [(CHUNK_HOLE, 16 * MIB, 16 * MIB)], "chunks")
            check_equal(client.ok(READ, 16 * MIB, 512).chunks, [(CHUNK_HOLE, 16 * MIB, 512)], "chunks")


def test_many_holes_in_one_read_are_right():
    with serve(32 * MIB) as server:
        for style in ("structured", "extended"):
            client = Client(server, style)
            whole = bytearray(32 * MIB)
            for number in range(100):
                data = pattern(number, 65536)
                whole[number * 262144:number * 262144 + 65536] = data
                client.write(number * 262144, data)
            for offset, length in ((0, 32 * MIB), (65535, 20 * MIB + 3), (262143, 65537)):
                check_equal(client.read(offset, length) == whole[offset:offset + length], True, "data")


def test_df_reads_come_in_one_chunk():
    with serve(8 * MIB) as server:
        for style in ("structured", "extended"):
            client = Client(server, style)
            client.write(2 * MIB, b"\x44" * MIB)
            reply = client.ok(READ, 0, 8 * MIB, DF)
            check_equal(reply.chunks, [(CHUNK_DATA, 0, 8 * MIB)], "chunks")
            check_equal(bytes(reply.data) == bytes(2 * MIB) + b"\x44" * MIB + bytes(5 * MIB), True, "data")
            check_equal(client.ok(READ, 4 * MIB, MIB, DF).chunks, [(CHUNK_HOLE, 4 * MIB, MIB)], "chunks")


def test_block_status_tells_data_from_holes():
    with serve(16 * MIB) as server:
        for style in ("structured", "extended"):
            client = Client(server, style, meta=True)
            client.write(4 * MIB, b"\x55" * MIB)
            check_equal(client.ok(STATUS, 0, 16 * MIB).extents,
                        [(4 * MIB, HOLE | ZERO), (MIB, 0), (11 * MIB, HOLE | ZERO)], "extents")
            check_equal(client.ok(STATUS, 4 * MIB + 1, 16).extents, [(16, 0)], "extents")
            check_equal(client.ok(STATUS, 4 * MIB - 512, 1024).extents,
                        [(512, HOLE | ZERO), (512, 0)], "extents")
            client.fails(EINVAL, STATUS, 0, 0)


def test_block_status_req_one_tells_one_extent_as_far_as_it_goes():
    with serve(16 * MIB) as server:
        for style in ("structured", "extended"):
            client = Client(server, style, meta=True)
            client.write(4 * MIB, b"\x66" * MIB)
            for offset, length, extent in ((0, 16 * MIB, (4 * MIB, HOLE | ZERO)),
                                           (4 * MIB, 16 * KIB, (16 * KIB, 0)),
                                           (4 * MIB, 12 * MIB, (MIB, 0)),
                                           (5 * MIB, 11 * MIB, (11 * MIB, HOLE | ZERO))):
                check_equal(client.ok(STATUS, offset, length, REQ_ONE).extents, [extent], "extents")


def test_block_status_of_many_extents_adds_up():
    with serve(64 * MIB) as server:
        client = Client(server, "structured", meta=True)
        for number in range(200):
            client.write(number * 262144, b"\x77" * 65536)
        extents = client.ok(STATUS, 0, 64 * MIB).extents
        check_equal(sum(length for length, _ in extents), 64 * MIB, "sum")
        check_equal(extents[:4], [(65536, 0), (196608, HOLE | ZERO)] * 2, "extents")


def test_block_status_needs_a_negotiated_context():
    with serve(MIB) as server:
        for client in clients(server):
            client.fails(EINVAL, STATUS, 0, 512)


def test_errors_come_with_words():
    with serve(MIB) as server:
        for style in ("structured", "extended"):
            check_in("past the end", Client(server, style).fails(EINVAL, READ, MIB, 1).message)


def test_cookies_come_back_as_they_were():
    with serve(MIB) as server:
        for client in clients(server):
            for cookie in (0, 1, (1 << 64) - 1, 0x0123456789ABCDEF):
                client.ok(READ, 0, 1, cookie=cookie)


def test_many_requests_in_flight_are_all_answered():
    with serve(16 * MIB) as server:
        for client in clients(server):
            expected = {}
            for number in range(500):
                offset = number % 50 * 65536
                client.write(offset, bytes([number % 251]) * 4096)
            for number in range(500):
                offset = number % 50 * 65536
                expected[client.request(READ, offset, 4096)] = bytes([(450 + number % 50) % 251]) * 4096
            while expected:
                cookie, reply = client.reply()
                check_equal(bytes(reply.data), expected.pop(cookie), "data")


def test_a_wrong_magic_ends_the_connection():
    with serve(MIB) as server:
        for client in clients(server):
            client.request(READ, 0, 1, magic=0x12345678)
            client.check_closed()


def test_disconnect_finishes_what_was_asked():
    with serve(4 * MIB) as server:
        for client in clients(server):
            flag = PAYLOAD if client.style == "extended" else 0
            wanted = {client.request(WRITE, number * 4096, 4096, flag, b"\x88" * 4096)
                      for number in range(40)}
            client.request(DISC)
            while wanted:
                cookie, reply = client.reply()
                check_equal(reply.error, 0, "error")
                wanted.remove(cookie)
            client.check_closed()


def test_a_half_closed_client_gets_its_replies():
    with serve(4 * MIB) as server:
        client = Client(server)
        for number in range(40):
            client.request(READ, number * 4096, 4096)
        client.link.shutdown(1)
        for number in range(40):
            check_equal(client.reply()[1].error, 0, "error")
        client.check_closed()


def test_flush_is_answered_by_every_connection():
    with serve(MIB) as server:
        first, second = Client(server), Client(server, "structured")
        check_equal(first.flags & MULTI_CONN, MULTI_CONN, "flag")
        first.write(0, b"written here")
        second.ok(FLUSH)
        check_equal(second.read(0, 12), b"written here", "data")


run_tests(globals())
