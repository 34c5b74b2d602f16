#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The first bytes of a connection: greeting, client flags, strings, who may end it (S1 to S7)."""

import socket
import struct

from harness import Server, check, dropped, main
from nbdraw import (ERR, ERR_INVALID, ERR_UNKNOWN, IHAVEOPT, NO_ZEROES, OPT_ABORT,
                    OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META, OPT_SET_META,
                    OPT_STRUCTURED_REPLY, Export, info_data, meta_data)


def test_greeting():
    """S1 S2: the greeting comes unasked, on Unix and TCP sockets, both known flags set."""
    for tcp in (False, True):
        with Server(tcp=tcp) as server:
            client = server.greeted()
            check(client.handshake_flags == 3, f"handshake flags {client.handshake_flags:#x}")
            client.go()
            client.disc()


def test_no_oldstyle():
    """S4: the second magic is IHAVEOPT, never that of oldstyle, whatever the client does."""
    with Server() as server:
        magic = struct.unpack(">QQH", server.connect().receive(18))[1]
        check(magic == IHAVEOPT, f"second magic {magic:#x}")


def test_unknown_client_flags():
    """S3: each unknown client flag drops the connection."""
    with Server() as server:
        for bit in range(2, 32):
            client = server.greeted(flags=1 | 1 << bit)
            client.expect_drop("S3")
        server.good()


def test_client_without_fixed_newstyle():
    """S5: such a client may be dropped or served; when it is served, EXPORT_NAME works."""
    for flags in (0, NO_ZEROES):
        with Server(size=4096) as server:
            client = server.greeted(flags=flags)
            if not dropped(client.export_name):
                check(client.export.size == 4096, f"size {client.export.size}")
                client.in_sync()
            server.good()


def test_long_names_stay_in_sync():
    """S6: names up to and beyond 4096 bytes are refused, and the next option is understood."""
    with Server() as server:
        client = server.greeted()
        client.structured_reply()
        for length in (1, 255, 256, 257, 3000, 4095, 4096, 4097, 5000, 16384, 70000, 1000000):
            for option in (OPT_INFO, OPT_GO):
                reply = client.option(option, info_data("x" * length))
                check(reply.kind & ERR, f"option {option}, name of {length}: {reply}")
            for option in (OPT_LIST_META, OPT_SET_META):
                reply = client.option(option, meta_data("x" * length, ["base:allocation"]))
                check(reply.kind & ERR, f"option {option}, name of {length}: {reply}")
            check(client.list() == [("", "")], "LIST after a long name")
        check(isinstance(client.go(), Export), "GO after long names")
        client.disc()


def test_names_not_text():
    """S6: a name with NUL, with broken UTF-8 or with escapes is refused; messages stay text."""
    with Server() as server:
        client = server.greeted()
        for name in (b"\0", b"a\0b", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
                     b"%s%n%s%n", b"\x1b[2J", "ü" * 100, "\U0001F6A2" * 1000):
            for option in (OPT_INFO, OPT_GO):
                reply = client.option(option, info_data(name))
                check(reply.kind in (ERR_UNKNOWN, ERR_INVALID), f"name {name!r}: {reply}")
        client.go()
        client.disc()


def test_only_errors_end_haggling():
    """S7: refusals of every kind leave the connection open."""
    with Server() as server:
        client = server.greeted()
        for option, data in ((OPT_LIST, b"x"), (OPT_GO, b""), (OPT_INFO, b"\0" * 5), (99, b"data"),
                             (OPT_STRUCTURED_REPLY, b"1"), (OPT_LIST_META, b""),
                             (OPT_SET_META, b"\xff" * 8), (0, b""), (4, b""), (0xFFFFFFFF, b"")):
            for _ in range(2):
                reply = client.option(option, data)
                check(reply.kind & ERR, f"option {option} with {data!r}: {reply}")
        check(isinstance(client.go(), Export), "GO after ten refusals")
        client.disc()


def test_name_of_export_name_limits():
    """S6 S13: EXPORT_NAME with unknown names of all lengths: the connection ends, no reply."""
    with Server() as server:
        for length in (1, 255, 256, 257, 4095, 4096, 4097):
            client = server.greeted()
            client.send_option(OPT_EXPORT_NAME, b"x" * length)
            client.expect_drop("S13")
        server.good()


def test_bad_option_magic():
    """S7: a wrong option magic is a violation that may end the connection, and only that one."""
    with Server() as server:
        other = server.greeted()
        client = server.greeted()
        client.send_option(OPT_LIST, magic=IHAVEOPT ^ 1)
        client.expect_drop("S7")
        check(other.list() == [("", "")], "LIST on the other connection")
        other.option(OPT_ABORT)
        server.good()


def test_byte_by_byte():
    """S1 S8: a client that sends single bytes is understood."""
    with Server() as server:
        client = server.connect()
        client.receive(18)
        client.no_zeroes = True
        message = struct.pack(">IQII", 3, IHAVEOPT, OPT_STRUCTURED_REPLY, 0)
        data = info_data("")
        message += struct.pack(">QII", IHAVEOPT, OPT_GO, len(data)) + data
        for at in range(len(message)):
            client.send(message[at:at + 1])
        check(client.option_reply(OPT_STRUCTURED_REPLY).ok, "STRUCTURED_REPLY")
        client.structured = True
        reply = client.option_reply(OPT_GO)
        check(reply.ok, f"GO: {reply}")
        client.export = client.export_from(reply.before)
        client.in_sync()
        client.disc()


def test_no_delay():
    """S4: small replies over TCP do not wait for acknowledgements (hundreds of round trips)."""
    with Server(tcp=True) as server:
        client = server.client()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(300):
            client.data(0, 4096)
        client.disc()


main(globals())
