#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""STARTTLS at a server without TLS (S47, S48, S54). Servers with TLS have their own tests."""

import struct

from harness import Server, check, main
from nbdraw import (ERR, ERR_INVALID, ERR_PLATFORM, ERR_POLICY, ERR_UNSUP, IHAVEOPT, OPT_ABORT,
                    OPT_LIST, OPT_STARTTLS, Export)

REFUSALS = (ERR_POLICY, ERR_UNSUP, ERR_PLATFORM)


def test_starttls_refused():
    """S47: STARTTLS gets POLICY, UNSUP or PLATFORM, again and again; plain use goes on."""
    with Server() as server:
        client = server.greeted()
        for _ in range(3):
            reply = client.option(OPT_STARTTLS)
            check(reply.kind in REFUSALS, f"{reply}")
        client.structured_reply()
        check(client.option(OPT_STARTTLS).kind in REFUSALS, "after STRUCTURED_REPLY")
        check(client.list() == [("", "")], "LIST")
        check(isinstance(client.go(), Export), "GO")
        client.in_sync()
        client.disc()


def test_starttls_with_data():
    """S48: STARTTLS with data is refused, the data swallowed."""
    with Server() as server:
        client = server.greeted()
        for size in (1, 100, 4096):
            reply = client.option(OPT_STARTTLS, b"\x16" * size)
            check(reply.kind == ERR_INVALID or reply.kind in REFUSALS, f"{reply}")
        check(client.list() == [("", "")], "LIST")


def test_pipelined_behind_starttls():
    """S54: options in clear behind a refused STARTTLS are answered in clear, one for one."""
    with Server() as server:
        client = server.greeted()
        client.send(b"".join(struct.pack(">QII", IHAVEOPT, option, 0)
                             for option in (OPT_STARTTLS, OPT_LIST, OPT_ABORT)))
        check(client.option_reply(OPT_STARTTLS).kind & ERR, "STARTTLS")
        check(client.option_reply(OPT_LIST).ok, "LIST")
        check(client.option_reply(OPT_ABORT).ok, "ABORT")
        client.expect_drop("S11")


def test_client_hello_without_starttls():
    """S7: a TLS ClientHello as first bytes is a violation, not a crash."""
    with Server() as server:
        client = server.connect()
        client.send(bytes.fromhex("16030102000100 01fc0303".replace(" ", "")) + bytes(512))
        client.receive(18)
        client.expect_drop("S3")
        server.good()


main(globals())
