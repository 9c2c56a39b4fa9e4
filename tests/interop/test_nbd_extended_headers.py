#!/usr/bin/python3
# SPDX-License-Identifier: MIT
from nbdwire import *

SIZE = 20 * GIB


def test_effect_lengths_beyond_32_bits_are_served():
    with serve(SIZE) as server:
        client = Client(server, "extended", meta=True)
        client.write(5 * GIB, b"\x11" * 65536)
        client.ok(CACHE, 0, SIZE)
        client.ok(ZEROES, GIB, 6 * GIB)
        check_equal(client.read(5 * GIB, 65536), bytes(65536), "data")
        client.write(5 * GIB, b"\x22" * 65536)
        client.ok(TRIM, 0, SIZE)
        check_in(client.read(5 * GIB, 65536), (bytes(65536), b"\x22" * 65536), "data")


def test_block_status_tells_of_extents_beyond_32_bits():
    with serve(SIZE) as server:
        client = Client(server, "extended", meta=True)
        client.write(10 * GIB, b"\x33" * 65536)
        position = 0
        extents = []
        while position < SIZE:
            for length, status in client.ok(STATUS, position, SIZE - position).extents:
                position += length
                if extents and extents[-1][1] == status:
                    length += extents.pop()[0]
                extents.append((length, status))
        check_equal(extents, [(10 * GIB, HOLE | ZERO), (65536, 0),
                              (10 * GIB - 65536, HOLE | ZERO)], "extents")


def test_lengths_past_the_end_do_not_wrap():
    with serve(SIZE) as server:
        client = Client(server, "extended", meta=True)
        for offset, length in ((1, (1 << 64) - 1), (0, (1 << 64) - 1), (SIZE - 1, 2),
                               ((1 << 64) - 1, 1), ((1 << 64) - 512, 1024)):
            client.fails(EINVAL, READ, offset, length)
            client.fails(EINVAL, TRIM, offset, length)
            client.fails(ENOSPC, ZEROES, offset, length)
            client.fails(EINVAL, STATUS, offset, length)
            client.fails(EINVAL, CACHE, offset, length)


def test_a_status_filter_selects_contexts_and_length():
    with serve(SIZE) as server:
        client = Client(server, "extended", meta=True)

        def filtered(length, *contexts):
            data = struct.pack(f">Q{len(contexts)}I", length, *contexts)
            return client.call(STATUS, 0, len(data), PAYLOAD, data)

        reply = filtered(65536, client.context)
        check_equal((reply.error, reply.extents), (0, [(65536, HOLE | ZERO)]), "reply")
        for contexts in ((), (client.context + 1,), (client.context, client.context),
                         tuple(range(1000))):
            check_equal(filtered(65536, *contexts).error, EINVAL, f"error of {len(contexts)} contexts")
        check_equal(filtered(0, client.context).error, EINVAL, "error")
        check_equal(filtered(SIZE + 1, client.context).error, EINVAL, "error")
        client.fails(EINVAL, STATUS, 0, 3, PAYLOAD, b"abc")
        client.fails(EINVAL, STATUS, SIZE, 12, PAYLOAD, struct.pack(">QI", 1, client.context))
        reply = client.ok(STATUS, 512, 12, PAYLOAD | REQ_ONE, struct.pack(">QI", 512, client.context))
        check_equal(reply.extents, [(512, HOLE | ZERO)], "extents")


def with_both_contexts(server, style):
    """A client that has chosen base:allocation and qemu:allocation-depth."""
    client = Client(server, None)
    client.greet()
    client.style = style
    client.option(OPT_EXTENDED if style == "extended" else OPT_STRUCTURED)
    answer = client.option(OPT_SET_META, meta_bytes("", "qemu:allocation-depth", "base:allocation"))
    check_equal([data[4:] for kind, data in answer if kind == REP_META],
                [b"base:allocation", b"qemu:allocation-depth"], "contexts")
    client.contexts = tuple(struct.unpack(">I", data[:4])[0] for kind, data in answer if kind == REP_META)
    client.go()
    return client


def test_several_contexts_are_told_each_in_a_chunk_of_its_own():
    make_disk(MIB, "base.qcow2")
    qemu_io("-f", "qcow2", "-c", "write 128k 64k", "base.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2")
    qemu_io("-f", "qcow2", "-c", "write 64k 64k", "-c", "write -z 192k 64k", "over.qcow2")
    states = [(65536, HOLE | ZERO), (131072, 0), (MIB - 196608, HOLE | ZERO)]
    depths = [(65536, 0), (65536, 1), (65536, 2), (65536, 1), (MIB - 262144, 0)]
    with Server("--allocation-depth", "--allow-backing", "over.qcow2") as server:
        for style in ("structured", "extended"):
            client = with_both_contexts(server, style)
            state, depth = client.contexts
            check_equal(client.ok(STATUS, 0, MIB).by_context, {state: states, depth: depths}, "status")
            one = client.ok(STATUS, 0, 65536 + 512, REQ_ONE).by_context
            check_equal(one, {state: [(65536, HOLE | ZERO)], depth: [(65536, 0)]}, "one extent each")
        for contexts in ((state,), (depth,), (depth, state)):
            data = struct.pack(f">Q{len(contexts)}I", MIB, *contexts)
            told = client.ok(STATUS, 0, len(data), PAYLOAD, data).by_context
            check_equal(told, {context: states if context == state else depths for context in contexts},
                        f"status of {contexts}")
        for contexts in ((), (state, state), (3,), (0,), (state, depth, state), (1 << 31,)):
            data = struct.pack(f">Q{len(contexts)}I", MIB, *contexts)
            client.fails(EINVAL, STATUS, 0, len(data), PAYLOAD, data)


def test_a_context_that_nobody_has_asked_for_is_none():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        client.option(OPT_STRUCTURED)
        for option in (OPT_LIST_META, OPT_SET_META):
            check_equal(client.option(option, meta_bytes("", "qemu:allocation-depth")), [(REP_ACK, b"")], "answer")


def test_payloads_that_a_command_does_not_take_are_skipped():
    with serve(MIB) as server:
        client = Client(server, "extended", meta=True)
        for kind in (READ, FLUSH, TRIM, CACHE, ZEROES, 99):
            for length in (1, 4096, 100000):
                client.fails(EINVAL, kind, 0, length, PAYLOAD, bytes(length))
        client.write(0, b"in step")


def test_a_write_without_the_payload_flag_has_no_payload():
    with serve(MIB) as server:
        client = Client(server, "extended")
        client.fails(EINVAL, WRITE, 0, 512)
        client.write(0, b"in step")


def test_a_compact_request_ends_the_connection():
    with serve(MIB) as server:
        client = Client(server, "extended")
        client.request(READ, 0, 512, magic=0x25609513)
        client.check_closed()


run_tests(globals())
