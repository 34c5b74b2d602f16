#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Structured replies and meta contexts in the handshake (S37 to S46)."""

import struct

from harness import ALLOCATION, Server, check, main
from nbdraw import (BLOCK_STATUS, EINVAL, ERR, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN,
                    OPT_LIST_META, OPT_SET_META, OPT_STRUCTURED_REPLY, SEND_DF, Export,
                    OptionReply, meta_data)


def structured(server):
    client = server.greeted()
    check(client.structured_reply().ok, "STRUCTURED_REPLY")
    return client


def test_structured_reply_with_data():
    """S37: STRUCTURED_REPLY with data gets INVALID and switches nothing."""
    with Server() as server:
        client = server.greeted()
        for size in (1, 8, 4096):
            reply = client.option(OPT_STRUCTURED_REPLY, b"x" * size)
            check(reply.kind == ERR_INVALID, f"{reply}")
        client.go()
        check(client.read(0, 512).simple, "structured reply after a refusal")
        client.disc()


def test_structured_reply_switches():
    """S37 S66: after the ACK reads are answered in chunks."""
    with Server() as server:
        client = structured(server)
        client.go()
        check(not client.read(0, 512).simple, "simple reply")
        client.disc()


def test_df_after_structured_only():
    """S38: DF is offered after STRUCTURED_REPLY and not before, in INFO and GO."""
    with Server() as server:
        client = server.greeted()
        check(not client.info().flags & SEND_DF, "before")
        check(client.structured_reply().ok, "STRUCTURED_REPLY")
        check(client.info().flags & SEND_DF, "after")
        check(client.go().flags & SEND_DF, "GO")
        client.disc()


def broken_queries():
    good = meta_data("name", ["base:allocation", "base:"])
    yield from (good[:cut] for cut in range(len(good)))
    yield good + b"\0"
    yield good + good
    for value in (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 4097, len(good)):
        number = struct.pack(">I", value)
        yield number + good[4:]
        yield good[:8] + number + good[12:]
        yield good[:12] + number + good[16:]


def test_meta_lengths():
    """S39: lengths that run past the data get INVALID, and the stream stays in sync."""
    with Server("-x", "name") as server:
        client = structured(server)
        for data in broken_queries():
            for option in (OPT_LIST_META, OPT_SET_META):
                reply = client.option(option, data)
                check(reply.kind == ERR_INVALID, f"option {option}, {data!r}: {reply}")
                check(not reply.before, "contexts before the refusal")
        check(client.list_meta("name") == [ALLOCATION], "LIST_META")
        check(isinstance(client.go("name"), Export), "GO")
        client.disc()


def test_unknown_namespaces():
    """S40 S42: unknown namespaces and leaves are ignored, beside known ones and alone."""
    with Server() as server:
        client = structured(server)
        for query in ("x:", "x:y", "qemu:nothing", "base:nothing", ":", "x:" + "y" * 4000,
                      "base:allocation:", "base:allocations", "BASE:allocation"):
            check(client.list_meta("", [query]) == [], f"LIST {query!r}")
            check(client.set_meta("", [query]) == {}, f"SET {query!r}")
            chosen = client.set_meta("", [query, ALLOCATION])
            check(list(chosen.values()) == [ALLOCATION], f"SET with {query!r}: {chosen}")


def test_query_without_colon():
    """S40: a query without a colon matches nothing, or is INVALID."""
    with Server() as server:
        client = structured(server)
        for query in ("base", "", "allocation"):
            for ask in (client.list_meta, client.set_meta):
                result = ask("", [query])
                check(not result if not isinstance(result, OptionReply)
                      else result.kind == ERR_INVALID, f"{query!r}: {result}")
        check(client.list_meta() == [ALLOCATION], "LIST_META")


def test_list_meta():
    """S41 S43: no query lists all, a query lists what matches, each once."""
    with Server() as server:
        client = structured(server)
        for queries, result in (([], [ALLOCATION]), (["base:"], [ALLOCATION]),
                                ([ALLOCATION], [ALLOCATION]), (["base:x"], []),
                                (["x:", "base:"], [ALLOCATION])):
            check(client.list_meta("", queries) == result, f"LIST {queries}")
        doubled = client.list_meta("", ["base:", ALLOCATION, ALLOCATION])
        check(set(doubled) == {ALLOCATION}, f"{doubled}")


def test_wildcard():
    """S42: 'base:' lists base:allocation and selects nothing."""
    with Server() as server:
        client = structured(server)
        check(client.list_meta("", ["base:"]) == [ALLOCATION], "LIST base:")
        check(client.set_meta("", ["base:"]) == {}, "SET base:")


def test_ids_unique():
    """S43: the same context asked for twice is selected once."""
    with Server() as server:
        client = structured(server)
        chosen = client.set_meta("", [ALLOCATION, ALLOCATION, ALLOCATION])
        check(list(chosen.values()) == [ALLOCATION], f"{chosen}")
        client.go()
        check(list(client.status(0, 4096).extents) == [ALLOCATION], "one chunk")
        client.disc()


def test_before_structured():
    """S44: SET_META before STRUCTURED_REPLY gets INVALID; LIST_META may."""
    with Server() as server:
        client = server.greeted()
        reply = client.set_meta()
        check(isinstance(reply, OptionReply) and reply.kind == ERR_INVALID, f"SET: {reply}")
        reply = client.list_meta()
        check(reply == [ALLOCATION] or reply.kind == ERR_INVALID, f"LIST: {reply}")
        client.structured_reply()
        check(client.set_meta(), "SET after STRUCTURED_REPLY")
        client.go()
        check(not client.status(0, 512).error, "STATUS")
        client.disc()


def test_set_replaces():
    """S45 S95: a second SET_META replaces the first, also when it selects nothing."""
    for queries in ([], ["base:"], ["x:y"]):
        with Server() as server:
            client = structured(server)
            check(client.set_meta(), "first SET")
            check(client.set_meta("", queries) == {}, f"SET {queries}")
            client.go()
            check(client.status(0, 512).error == EINVAL, "STATUS without a context")
            client.in_sync()
            client.disc()


def test_failed_set_clears():
    """S45: a SET_META that fails clears the earlier selection."""
    for data in (b"", meta_data("", [ALLOCATION]) + b"x", meta_data("nosuch", [ALLOCATION]),
                 meta_data("", [ALLOCATION])[:-1]):
        with Server() as server:
            client = structured(server)
            check(client.set_meta(), "first SET")
            reply = client.option(OPT_SET_META, data)
            check(reply.kind & ERR, f"{reply}")
            client.contexts = {}
            client.go()
            check(client.status(0, 512).error == EINVAL, f"STATUS after {data!r}")
            client.disc()


def test_many_queries():
    """S41 S45: hundreds of queries are answered; SET may say TOO_BIG, LIST may not."""
    with Server() as server:
        client = structured(server)
        for count in (100, 300):
            queries = [f"x:{n}" for n in range(count - 1)] + [ALLOCATION]
            check(client.list_meta("", queries) == [ALLOCATION], f"LIST of {count}")
            chosen = client.set_meta("", queries)
            check(chosen.kind == ERR_TOO_BIG if isinstance(chosen, OptionReply)
                  else list(chosen.values()) == [ALLOCATION], f"SET of {count}: {chosen}")


def test_unknown_export():
    """S39 S46: LIST_META and SET_META for an unknown export: UNKNOWN, and nothing selected."""
    with Server("-x", "n") as server:
        client = structured(server)
        for ask in (client.list_meta, client.set_meta):
            for name in ("", "x", "n" * 4096):
                reply = ask(name)
                check(isinstance(reply, OptionReply) and reply.kind == ERR_UNKNOWN, f"{reply}")
        check(client.set_meta("n"), "SET for the right name")
        client.go("n")
        check(not client.status(0, 512).error, "STATUS")
        client.disc()


def test_selection_survives_other_options():
    """S46: LIST, INFO and LIST_META between SET_META and GO leave the selection alone."""
    with Server("-x", "n") as server:
        client = structured(server)
        check(client.set_meta("n"), "SET")
        client.list()
        client.info("n")
        client.info("other")
        client.list_meta("n")
        client.option(1000)
        client.go("n")
        check(not client.status(0, 512).error, "STATUS")
        client.disc()


def test_context_needs_set():
    """S95: BLOCK_STATUS without SET_META gets EINVAL, in every form."""
    with Server() as server:
        for client in server.each():
            check(client.wait(client.request(BLOCK_STATUS, 0, 512)).error == EINVAL, "STATUS")
            client.in_sync()


main(globals())
