#!/usr/bin/python3
# SPDX-License-Identifier: MIT
from nbdwire import *


def test_the_greeting_offers_fixed_newstyle_and_no_zeroes():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.handshake_flags, C_FIXED | C_NO_ZEROES, "handshake flags")


def test_go_tells_size_and_flags_and_starts_the_transmission():
    with serve(3 * MIB) as server:
        client = Client(server)
        check_equal(client.size, 3 * MIB, "size")
        check_equal(client.flags, HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_ZEROES |
                    MULTI_CONN | SEND_CACHE | SEND_FAST_ZERO, "flags")
        client.write(0, b"abc")


def test_flags_grow_with_what_is_negotiated():
    with serve(MIB) as server:
        check_equal(Client(server, "structured").flags & (SEND_DF | STATUS_PAYLOAD), SEND_DF, "flags")
        check_equal(Client(server, "extended").flags & (SEND_DF | STATUS_PAYLOAD), SEND_DF, "flags")
        check_equal(Client(server, "extended", meta=True).flags & (SEND_DF | STATUS_PAYLOAD),
                    SEND_DF | STATUS_PAYLOAD, "flags")
        check_equal(Client(server, "structured", meta=True).flags & STATUS_PAYLOAD, 0, "flags")


def test_export_name_serves_old_newstyle_clients():
    with serve(MIB) as server:
        for flags, zeroes in ((0, 124), (C_FIXED, 124), (C_FIXED | C_NO_ZEROES, 0), (2, 0)):
            client = Client(server, None)
            client.style = "simple"
            client.greet(flags)
            client.send(option_bytes(OPT_EXPORT_NAME))
            size, _ = struct.unpack(">QH", client.receive(10))
            check_equal(size, MIB, "size")
            check_equal(client.receive(zeroes), bytes(zeroes), "zeroes")
            client.write(5, b"x")
            check_equal(client.read(4, 3), b"\0x\0", "data")


def test_export_name_of_another_export_ends_the_connection():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        client.send(option_bytes(OPT_EXPORT_NAME, b"other"))
        client.check_closed()


def test_unknown_client_flags_end_the_connection():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet(4)
        client.check_closed()


def test_a_client_of_the_old_handshake_may_send_no_other_option():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet(0)
        client.send(option_bytes(OPT_LIST))
        client.check_closed()


def test_list_names_the_export_and_describes_it():
    with serve(MIB, "--export", "my disk", "-D", "for a test") as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.option(OPT_LIST),
                    [(REP_SERVER, name_bytes("my disk") + b"for a test"), (REP_ACK, b"")], "answer")
        check_equal(client.option(OPT_LIST, b"x")[0][0], ERR_INVALID, "answer")


def test_info_tells_what_is_asked_for():
    with serve(MIB, "--export=e", "-D", "text") as server:
        client = Client(server, None)
        client.greet()
        found = client.go("e", INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 77, number=OPT_INFO)
        check_equal(found[INFO_NAME], b"e", "name")
        check_equal(found[INFO_DESCRIPTION], b"text", "description")
        check_equal(struct.unpack(">III", found[INFO_BLOCK_SIZE]), (1, 4096, 32 * MIB), "sizes")
        check_equal(INFO_NAME in client.go("e", number=OPT_INFO), False, "name told unasked")
        client.style = "simple"
        client.go("e")
        client.write(0, b"served after the information")


def test_an_unknown_export_is_refused_and_the_client_may_try_again():
    with serve(MIB, "-x", "right") as server:
        client = Client(server, None)
        client.greet()
        for wrong in ("", "righ", "right ", "right\0", "x" * 4096):
            for option in (OPT_INFO, OPT_GO):
                check_equal(client.option(option, info_bytes(wrong))[0][0], ERR_UNKNOWN, wrong)
        client.go("right")


def test_options_with_malformed_data_are_refused():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        client.option(OPT_STRUCTURED)
        whole_info = info_bytes("", 1, 2)
        whole_meta = meta_bytes("", "base:allocation")
        bad = [(OPT_INFO, whole_info[:cut]) for cut in range(len(whole_info))]
        bad += [(OPT_INFO, whole_info + b"x"), (OPT_GO, struct.pack(">I", 0xFFFFFFFF))]
        bad += [(OPT_GO, name_bytes("y" * 4097) + b"\0\0")]
        bad += [(OPT_SET_META, whole_meta[:cut]) for cut in range(len(whole_meta))]
        bad += [(OPT_LIST_META, whole_meta + b"x"), (OPT_SET_META, meta_bytes("", "z" * 4097))]
        bad += [(OPT_LIST_META, name_bytes("") + b"\xff\xff\xff\xff")]
        bad += [(OPT_STRUCTURED, b"x"), (OPT_EXTENDED, b"x")]
        for option, data in bad:
            check_equal(client.option(option, data)[0][0], ERR_INVALID, f"answer to {option} {data!r}")
        client.style = "structured"
        client.go()
        client.read(0, 10)


def test_unknown_options_are_answered_and_skipped():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        for number in (0, OPT_PEEK, 12, 0xFFFFFFFF):
            for data in (b"", b"some data", bytes(60000)):
                check_equal(client.option(number, data)[0][0], ERR_UNSUP, f"answer to {number}")
        client.go()


def test_starttls_is_refused_and_the_client_may_go_on():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.option(OPT_STARTTLS)[0][0], ERR_UNSUP, "answer")
        client.go()


def test_long_options_are_refused_and_absurd_ones_end_the_connection():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        for length in (65521, 1 * MIB):
            check_equal(client.option(OPT_INFO, bytes(length))[0][0], ERR_TOO_BIG, "answer")
        client.send(option_bytes(99, length=0xFFFFFFFF))
        client.check_closed()


def test_abort_is_acknowledged_and_ends_the_connection():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.option(OPT_ABORT), [(REP_ACK, b"")], "answer")
        client.check_closed()


def test_metadata_contexts_can_be_listed_by_name_and_wildcard():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        check_equal(client.option(OPT_LIST_META, meta_bytes(""))[0][0], ERR_INVALID, "answer")
        client.option(OPT_STRUCTURED)
        for queries, count in (((), 1), (("base:",), 1), (("base:allocation",), 1), (("x:y",), 0),
                               (("qemu:", "base:", "base:allocation"), 1), (("base",), 0)):
            answer = client.option(OPT_LIST_META, meta_bytes("", *queries))
            check_equal([data[4:] for kind, data in answer if kind == REP_META],
                        [b"base:allocation"] * count, f"contexts for {queries}")
        check_equal(client.option(OPT_LIST_META, meta_bytes("q"))[0][0], ERR_UNKNOWN, "answer")


def test_metadata_contexts_are_set_by_exact_name():
    with serve(MIB) as server:
        for queries, count in (((), 0), (("base:",), 0), (("base:allocation", "x:y"), 1)):
            client = Client(server, None)
            client.greet()
            client.style = "structured"
            check_equal(client.option(OPT_SET_META, meta_bytes("", *queries))[0][0], ERR_INVALID,
                        "answer before structured replies")
            client.option(OPT_STRUCTURED)
            answer = client.option(OPT_SET_META, meta_bytes("", *queries))
            check_equal([kind for kind, _ in answer], [REP_META] * count + [REP_ACK], "answers")
            client.go()
            if count:
                client.context = struct.unpack(">I", answer[0][1][:4])[0]
                client.ok(STATUS, 0, 512)
            else:
                client.fails(EINVAL, STATUS, 0, 512)


def test_the_last_choice_of_contexts_counts():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        client.style = "structured"
        client.option(OPT_STRUCTURED)
        client.option(OPT_SET_META, meta_bytes("", "base:allocation"))
        client.option(OPT_SET_META, meta_bytes("other", "base:allocation"))
        client.go()
        client.fails(EINVAL, STATUS, 0, 512)


def test_extended_headers_take_precedence():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        for option, answer in ((OPT_STRUCTURED, REP_ACK), (OPT_STRUCTURED, REP_ACK),
                               (OPT_EXTENDED, REP_ACK), (OPT_EXTENDED, REP_ACK),
                               (OPT_STRUCTURED, ERR_EXT_REQD)):
            check_equal(client.option(option)[0][0], answer, "answer")
        client.style = "extended"
        client.go()
        client.write(0, b"x")


def test_export_name_is_forbidden_with_extended_headers():
    with serve(MIB) as server:
        client = Client(server, None)
        client.greet()
        client.option(OPT_EXTENDED)
        client.send(option_bytes(OPT_EXPORT_NAME))
        client.check_closed()


def test_an_impatient_client_may_send_all_options_and_requests_at_once():
    with serve(MIB) as server:
        client = Client(server, None)
        client.style = "simple"
        client.send(struct.pack(">I", C_FIXED) + option_bytes(OPT_LIST) * 50 +
                    option_bytes(OPT_GO, info_bytes("")))
        cookie = client.request(WRITE, 0, 5, 0, b"early")
        client.receive(18)
        for _ in range(50):
            client.answers(OPT_LIST)
        client.answers(OPT_GO)
        check_equal(client.reply()[0], cookie, "cookie")
        check_equal(client.read(0, 5), b"early", "data")


run_tests(globals())
