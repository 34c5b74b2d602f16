#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Extended headers (S101 to S107). Skipped, but for S107, where the server answers UNSUP."""

import struct

from harness import ALLOCATION, MIB, Server, Skip, check, content_of, dropped, main
from nbdraw import (BLOCK_STATUS, BLOCK_STATUS_PAYLOAD, CACHE, EINVAL, ERR_EXT_HEADER_REQD,
                    ERR_INVALID, ERR_UNSUP, EXT_REQUEST, FLUSH, OPT_EXPORT_NAME,
                    OPT_EXTENDED_HEADERS, OPT_STRUCTURED_REPLY, PAYLOAD_LEN, READ, REQUEST, TRIM,
                    WRITE, WRITE_ZEROES, Export)

COOKIES = (0, 1, 0xFFFFFFFFFFFFFFFF, 0x21E41C716E8A278C)


def extended(server, contexts=()):
    return server.client("extended", contexts)


def raw(client, command, flags, offset, length, payload=b""):
    """A request as it is, without what the library would set right."""
    request, _ = client.prepare(READ if command == READ else command, offset, length, flags)
    request.flags = flags
    client.send(struct.pack(">IHHQQQ", EXT_REQUEST, flags, command, request.cookie, offset, length)
                + payload)
    return request


def test_answered_either_way():
    """S107: EXTENDED_HEADERS gets ACK or UNSUP, and the old protocol still works."""
    with Server() as server:
        client = server.greeted()
        reply = client.option(OPT_EXTENDED_HEADERS)
        check(reply.ok or reply.kind == ERR_UNSUP, f"{reply}")
        if not reply.ok:
            check(client.structured_reply().ok, "STRUCTURED_REPLY after UNSUP")
            check(client.set_meta(), "SET_META")
            check(isinstance(client.go(), Export), "GO")
            check(not client.status(0, 4096).error, "STATUS")
            client.in_sync()
            client.disc()


def test_with_data():
    """S37: EXTENDED_HEADERS with data gets INVALID (UNSUP without support), switches nothing."""
    with Server() as server:
        client = server.greeted()
        reply = client.option(OPT_EXTENDED_HEADERS, b"data")
        check(reply.kind in (ERR_INVALID, ERR_UNSUP), f"{reply}")
        client.go()
        client.in_sync()
        client.disc()


def test_all_replies_extended():
    """S101 S102: every reply has the 32-byte form, the cookie and the request's offset."""
    with Server() as server:
        client = extended(server, [ALLOCATION])
        for cookie in COOKIES:
            for command in (READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, 77):
                length = 0 if command == FLUSH else 4096
                client.wait(client.request(command, 0 if command == FLUSH else 8192, length,
                                           cookie=cookie))
            client.wait(client.request(WRITE, 512, 512, payload=b"e" * 512, cookie=cookie))
            client.wait(client.request(READ, MIB, 1, cookie=cookie))
        client.disc()


def test_old_header_refused():
    """S101: a 28-byte request after the ACK is a bad magic."""
    with Server() as server:
        client = extended(server)
        client.send(struct.pack(">IHHQQI", REQUEST, 0, READ, 1, 0, 512) + bytes(4))
        client.expect_drop("S101")
        server.good()


def test_export_name_forbidden():
    """S101: EXPORT_NAME after EXTENDED_HEADERS is refused or ends the connection."""
    with Server() as server:
        client = server.greeted()
        if not client.extended_headers().ok:
            raise Skip("server answers EXTENDED_HEADERS with UNSUP")
        client.send_option(OPT_EXPORT_NAME)
        if not dropped(lambda: client.receive(1)):
            raise AssertionError("EXPORT_NAME was answered")
        server.good()


def test_write_needs_payload_flag():
    """S103: WRITE without PAYLOAD_LEN has no payload and is refused."""
    with Server() as server:
        client = extended(server)
        request = raw(client, WRITE, 0, 0, 512)
        check(client.wait(request).error == EINVAL, f"{request}")
        client.in_sync()
        check(server.bytes(0, 512) == content_of(512), "the file changed")


def test_payload_where_none_belongs():
    """S103: a payload of another command is swallowed and refused with EINVAL."""
    with Server() as server:
        client = extended(server)
        for command in (READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, 99):
            for size in (1, 8, 512, 4096):
                request = raw(client, command, PAYLOAD_LEN, 0, size, b"p" * size)
                client.wait(request)
                check(request.error == EINVAL, f"{request}")
        client.in_sync()
        client.disc()


def test_oversize_payload():
    """S103: a payload above the maximum is refused or dropped; nobody else is hurt."""
    with Server() as server:
        for command in (WRITE, READ, BLOCK_STATUS):
            for size in (1 << 32, 1 << 62, (1 << 64) - 1):
                client = extended(server)
                request = raw(client, command, PAYLOAD_LEN, 0, size, b"p" * 1000)
                client.sock.shutdown(1)
                if not dropped(lambda client=client, request=request: client.wait(request)):
                    check(request.error, f"{request}")
                client.close()
        server.good()


def test_status_is_extended():
    """S104: BLOCK_STATUS is answered in the 64-bit form, base:allocation without high bits."""
    with Server(size=3 << 32, content="") as server:
        client = extended(server, [ALLOCATION])
        request = client.status(0, 3 << 32)
        check(not request.error, f"{request}")
        check(request.extents[ALLOCATION][0][0] > 1 << 32, f"{request.extents}")
        client.disc()


def test_status_payload():
    """S105: the payload form selects contexts; wrong ids and sizes get EINVAL."""
    with Server() as server:
        client = extended(server, [ALLOCATION])
        offered = client.export.flags & BLOCK_STATUS_PAYLOAD
        chosen = list(client.contexts)
        for ids, size, good in ((chosen, MIB, True), (chosen * 2, MIB, False),
                                ([4711], MIB, False), (chosen + [4711], MIB, False),
                                (chosen, 1 << 40, False)):
            payload = struct.pack(f">Q{len(ids)}I", size, *ids)
            request = raw(client, BLOCK_STATUS, PAYLOAD_LEN, 0, len(payload), payload)
            request.length = size
            client.wait(request)
            check((request.error == 0) == bool(good and offered), f"{ids} {size}: {request}")
            check(request.error in (0, EINVAL), f"{request}")
        for size in (1, 7, 9, 11, 4095):
            request = raw(client, BLOCK_STATUS, PAYLOAD_LEN, 0, size, bytes(size))
            client.wait(request)
            check(request.error == EINVAL, f"payload of {size}: {request}")
        client.in_sync()
        client.disc()


def test_structured_after_extended():
    """S106: STRUCTURED_REPLY after EXTENDED_HEADERS gets EXT_HEADER_REQD; the other order works."""
    with Server() as server:
        client = server.greeted()
        if not client.extended_headers().ok:
            raise Skip("server answers EXTENDED_HEADERS with UNSUP")
        reply = client.option(OPT_STRUCTURED_REPLY)
        check(reply.kind == ERR_EXT_HEADER_REQD, f"{reply}")
        client.go()
        client.in_sync()
        client.disc()
        client = server.greeted()
        client.structured_reply()
        check(client.extended_headers().ok, "EXTENDED_HEADERS after STRUCTURED_REPLY")
        reply = client.option(OPT_EXTENDED_HEADERS)
        check(reply.ok or reply.kind == ERR_INVALID, f"twice: {reply}")
        check(client.set_meta(), "SET_META")
        client.go()
        client.in_sync()
        check(not client.status(0, 4096).error, "STATUS")
        client.disc()


def test_effects_above_4_gib():
    """S106: TRIM, ZEROES, CACHE and STATUS above 2^32 in one request; base: needs no headers."""
    size = 9 << 30
    with Server(size=size, content="") as server:
        client = extended(server, [ALLOCATION])
        marks = (0, (1 << 32) - 300, (1 << 33) + 5, size - 600)
        for command in (client.zero, client.trim):
            for at in marks:
                check(not client.write(at, b"m" * 600).error, "write")
            check(not command(0, size).error, "command")
            if command == client.zero:
                check(all(client.data(at, 600) == bytes(600) for at in marks), "content")
        client.cache(0, size)
        check(not client.status(0, size).error, "status")
        for length in (size + 1, 1 << 62, (1 << 64) - 1):
            for command in (client.trim, client.zero, client.cache, client.status, client.read):
                check(command(0, length).error, "past the end")
        client.in_sync()
        client.disc()


main(globals())
