#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Option haggling: what each option answers, in any order, any number of times (S8 to S28)."""

import itertools
import socket
import struct

from harness import Server, check, main
from nbdraw import (ALL_INFOS, ERR, ERR_INVALID, ERR_UNKNOWN, ERR_UNSUP, HAS_FLAGS,
                    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_NAME, OPT_ABORT,
                    OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS, OPT_GO, OPT_INFO, OPT_LIST,
                    OPT_LIST_META, OPT_SET_META, OPT_STARTTLS, OPT_STRUCTURED_REPLY, Export,
                    OptionReply, info_data, meta_data)


def test_unknown_option():
    """S8: unknown options with and without data get UNSUP, and the next one is understood."""
    with Server() as server:
        client = server.greeted()
        for option in (0, 4, 12, 13, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            for data in (b"", b"x", b"y" * 511, b"z" * 4096):
                reply = client.option(option, data)
                check(reply.kind == ERR_UNSUP, f"option {option}: {reply}")
        check(client.list() == [("", "")], "LIST")
        client.go()
        client.in_sync()
        client.disc()


def test_one_final_reply():
    """S9: options sent in one write get one final reply each, in order."""
    options = [(OPT_STRUCTURED_REPLY, b""), (OPT_LIST, b""), (99, b"abc"),
               (OPT_INFO, info_data("")), (OPT_INFO, info_data("nothing")), (OPT_STARTTLS, b""),
               (OPT_SET_META, meta_data("", ["base:allocation"])), (OPT_GO, info_data(""))]
    with Server() as server:
        client = server.greeted()
        client.send(b"".join(struct.pack(">QII", 0x49484156454F5054, option, len(data)) + data
                             for option, data in options))
        kinds = []
        for option, _ in options:
            reply = client.option_reply(option)
            client.structured |= option == OPT_STRUCTURED_REPLY
            kinds.append(reply.ok)
        check(kinds == [True, True, False, True, False, False, True, True], f"replies {kinds}")
        client.expect_silence()


def test_abort():
    """S11: ABORT is acknowledged, also with data, and the connection ends."""
    with Server() as server:
        for data in (b"", b"ignored", b"x" * 4096):
            client = server.greeted()
            reply = client.option(OPT_ABORT, data)
            check(reply.ok, f"ABORT with {len(data)} bytes: {reply}")
            client.expect_drop("S11")
        server.good()


def test_abort_unread():
    """S11: a client that closes without reading the ACK of ABORT costs nothing."""
    for tcp in (False, True):
        with Server(tcp=tcp) as server:
            for _ in range(50):
                client = server.greeted()
                client.send_option(OPT_ABORT)
                client.reset()
            server.good()


def test_export_name():
    """S12: size, flags, and 124 zeroes exactly when NO_ZEROES was not agreed."""
    with Server(size=12345) as server:
        for flags in (1, 3):
            client = server.greeted(flags=flags)
            export = client.export_name()
            check(export.size == 12345, f"size {export.size}")
            check(export.flags & HAS_FLAGS, "flags")
            client.in_sync()
            client.disc()


def test_export_name_after_options():
    """S12: EXPORT_NAME after other options, with structured replies."""
    with Server() as server:
        client = server.greeted()
        client.structured_reply()
        client.list()
        client.info()
        client.option(99)
        client.export_name()
        client.in_sync()
        check(not client.data(0, 512) == bytes(512), "data")
        client.disc()


def test_export_name_unknown():
    """S13: an unknown name ends the connection without a byte."""
    with Server("-x", "disk") as server:
        for name in ("", "dis", "disks", "Disk", "disk\0", "/disk", b"\xff"):
            client = server.greeted()
            client.send_option(OPT_EXPORT_NAME, name if isinstance(name, bytes) else name.encode())
            client.expect_drop("S13")
        client = server.greeted()
        client.export_name("disk")
        client.in_sync()


def test_default_export():
    """S14: without -x the empty name is the export; with -x only that name is."""
    with Server() as server:
        client = server.greeted()
        check(isinstance(client.info("", ()), Export), "empty name")
        check(client.info("x").kind == ERR_UNKNOWN, "name x")
    with Server("-x", "name") as server:
        client = server.greeted()
        check(client.info("").kind == ERR_UNKNOWN, "empty name with -x")
        check(isinstance(client.info("name"), Export), "the name")
        check(isinstance(client.go("name"), Export), "GO")
        client.disc()


def test_odd_export_names():
    """S14 S15: names with blanks, slashes, 4096 bytes, and beyond ASCII are served as given."""
    for name in ("a b", "/", "ü€🚢", "%20", "n" * 4096):
        with Server("-x", name) as server:
            client = server.greeted()
            check(client.list() == [(name, "")], f"LIST of {name[:20]!r}")
            export = client.info(name)
            check(export.name == name, f"INFO_NAME {export.name!r}")
            client.go(name)
            client.disc()
            client = server.greeted()
            client.export_name(name)
            client.disc()


def test_list():
    """S15 S17: LIST tells name and description."""
    with Server() as server:
        check(server.greeted().list() == [("", "")], "default export")
    with Server("-x", "x", "-D", "the ü description") as server:
        client = server.greeted()
        for _ in range(3):
            check(client.list() == [("x", "the ü description")], "LIST")
        export = client.info("x")
        check(export.description == "the ü description", f"{export.description!r}")
        check(export.name == "x", f"{export.name!r}")


def test_list_with_data():
    """S16: LIST with data gets INVALID and no list; the data is swallowed."""
    with Server() as server:
        client = server.greeted()
        for size in (1, 4, 16, 100, 4096):
            reply = client.option(OPT_LIST, b"\x01" * size)
            check(reply.kind == ERR_INVALID and not reply.before, f"LIST with data: {reply}")
            check(len(client.list()) == 1, "LIST")


def broken_infos():
    good = info_data("name", (INFO_NAME, INFO_BLOCK_SIZE))
    yield from (good[:cut] for cut in range(len(good)))
    yield good + b"\0"
    yield good + b"\0\0"
    for length in (0, 1, 3, 5, len(good) - 5, len(good), 4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        yield struct.pack(">I", length) + good[4:]
    for count in (0, 1, 3, 0x7FFF, 0x8000, 0xFFFF):
        yield good[:8] + struct.pack(">H", count) + good[10:]


def test_info_lengths():
    """S19 S25: INFO and GO whose lengths do not fit get INVALID, and the stream stays in sync."""
    with Server("-x", "name") as server:
        client = server.greeted()
        for data in broken_infos():
            for option in (OPT_INFO, OPT_GO):
                reply = client.option(option, data)
                check(reply.kind & ERR, f"option {option} with {data!r}: {reply}")
                check(reply.kind == ERR_INVALID or reply.kind == ERR_UNKNOWN and len(data) >= 6,
                      f"option {option} with {data!r}: {reply}")
        check(isinstance(client.go("name"), Export), "GO")
        client.in_sync()
        client.disc()


def test_unknown_infos():
    """S20: unknown information requests are ignored, in any number."""
    with Server("-x", "n") as server:
        client = server.greeted()
        for infos in ((99,), (0xFFFF, INFO_NAME, 4), (INFO_BLOCK_SIZE,) + (77,) * 50, (0,)):
            export = client.info("n", infos)
            check(isinstance(export, Export), f"INFO {infos}: {export}")
            check(INFO_NAME not in infos or export.name == "n", "INFO_NAME")
            check(INFO_BLOCK_SIZE not in infos or export.block, "INFO_BLOCK_SIZE")
        client.go("n", (1000, 3))
        client.disc()


def test_many_infos():
    """S20 S22: requests for one information again and again get it once, or INVALID."""
    with Server() as server:
        client = server.greeted()
        for count in (2, 100, 2000):
            reply = client.info("", (INFO_BLOCK_SIZE,) * count)
            check(isinstance(reply, Export) or reply.kind & ERR, f"{count} requests: {reply}")
        client.go()
        client.disc()


def test_info_content():
    """S21 S22 S29: each information once, right size and name; block sizes when asked for."""
    with Server("-x", "n", "-D", "d", size=5 * 4096) as server:
        client = server.greeted()
        for infos in itertools.chain.from_iterable(
                itertools.permutations(ALL_INFOS, n) for n in range(4)):
            export = client.info("n", infos)
            check(export.size == 5 * 4096, f"size {export.size}")
            check(INFO_NAME not in infos or export.name == "n", "name")
            check(INFO_DESCRIPTION not in infos or export.description == "d", "description")
            check((INFO_BLOCK_SIZE in infos) == bool(export.block), "block sizes")


def test_unknown_export():
    """S23 S25 S28: ERR_UNKNOWN with a message that names the export; haggling goes on."""
    with Server("-x", "disk") as server:
        client = server.greeted()
        for option in (OPT_INFO, OPT_GO) * 2:
            reply = client.info("nosuch", ALL_INFOS, option)
            check(isinstance(reply, OptionReply) and reply.kind == ERR_UNKNOWN, f"{reply}")
            check("nosuch" in reply.message, f"message {reply.message!r}")
        check(client.list() == [("disk", "")], "LIST")
        check(isinstance(client.go("disk"), Export), "GO")
        client.disc()


def test_failed_go_then_abort():
    """S25: after a failed GO come LIST and ABORT."""
    with Server() as server:
        client = server.greeted()
        check(client.go("wrong").kind == ERR_UNKNOWN, "GO")
        client.list()
        check(client.option(OPT_ABORT).ok, "ABORT")
        client.expect_drop("S11")


def test_info_stays_in_haggling():
    """S24: INFO never enters transmission; GO does, without padding."""
    with Server(size=8192) as server:
        for flags in (1, 3):
            client = server.greeted(flags=flags)
            for _ in range(5):
                client.info()
            client.list()
            client.go()
            check(len(client.data(0, 8192)) == 8192, "data right after GO")
            client.disc()


def test_info_then_go():
    """S26: INFO and GO with the same parameters tell the same set."""
    with Server("-x", "n", "-D", "d") as server:
        for infos in ((), ALL_INFOS, (INFO_BLOCK_SIZE,)):
            client = server.greeted()
            client.structured_reply()
            told = [sorted(client.option(option, info_data("n", infos)).before)
                    for option in (OPT_INFO, OPT_GO)]
            check(told[0] == told[1], f"INFO {told[0]} and GO {told[1]}")


def test_second_structured_reply():
    """S27: the second STRUCTURED_REPLY gets INVALID or ACK; the first one stays valid."""
    with Server() as server:
        client = server.greeted()
        check(client.structured_reply().ok, "first")
        reply = client.option(OPT_STRUCTURED_REPLY)
        check(reply.ok or reply.kind == ERR_INVALID, f"second: {reply}")
        client.go()
        client.in_sync()
        client.disc()


OPTIONS = {
    "list": (OPT_LIST, b""),
    "starttls": (OPT_STARTTLS, b""),
    "info": (OPT_INFO, info_data("")),
    "info-unknown": (OPT_INFO, info_data("no")),
    "go-unknown": (OPT_GO, info_data("no")),
    "structured": (OPT_STRUCTURED_REPLY, b""),
    "list-meta": (OPT_LIST_META, meta_data("", [])),
    "set-meta": (OPT_SET_META, meta_data("", ["base:allocation"])),
    "unknown": (4711, b"junk"),
}


def send_in_order(client, order):
    for name in order:
        option, data = OPTIONS[name]
        reply = client.option(option, data)
        if option == OPT_STRUCTURED_REPLY and reply.ok:
            client.structured = True
        if option == OPT_SET_META and reply.ok:
            client.contexts = {struct.unpack_from(">I", data)[0]: data[4:].decode()
                               for _, data in reply.before}


def test_pairs_of_options():
    """S7 S9 S27: every ordered pair of options, each option twice, then GO and a request."""
    with Server() as server:
        for first, second in itertools.product(OPTIONS, OPTIONS):
            client = server.greeted()
            send_in_order(client, (first, second, first, second))
            check(isinstance(client.go(), Export), f"GO after {first}, {second}")
            client.in_sync()
            client.disc()
            client.close()


def test_extended_headers_in_any_place():
    """S107: EXTENDED_HEADERS is answered (ACK or UNSUP) first, last and twice."""
    with Server() as server:
        for before in ([], ["structured"], ["list", "info", "structured", "set-meta"]):
            client = server.greeted()
            send_in_order(client, before)
            for _ in range(2):
                reply = client.option(OPT_EXTENDED_HEADERS)
                check(reply.ok or reply.kind in (ERR_UNSUP, ERR_INVALID), f"{reply}")
            check(client.option(OPT_LIST).ok, "LIST")
            check(client.option(OPT_ABORT).ok, "ABORT")


def test_many_options():
    """S7: a client that asks a thousand times is answered a thousand times, or refused."""
    with Server() as server:
        client = server.greeted()
        for count in range(1000):
            check(client.list() == [("", "")], f"LIST number {count}")
        client.go()
        client.disc()


def test_half_close():
    """S11: a client that shuts down its sending side gets its answer, then the close."""
    with Server() as server:
        client = server.greeted()
        client.send_option(OPT_LIST)
        client.sock.shutdown(socket.SHUT_WR)
        check(client.option_reply(OPT_LIST).ok, "LIST")
        client.expect_drop("S7")
        server.good()


main(globals())
