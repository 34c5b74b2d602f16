#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Transmission flags, and that each tells the truth (S58 to S62)."""

from harness import ALLOCATION, MIB, Server, check, content_of, main
from nbdraw import (CAN_MULTI_CONN, EPERM, FUA, HAS_FLAGS, READ_ONLY, SEND_CACHE, SEND_DF,
                    SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES,
                    BLOCK_STATUS_PAYLOAD)

ALWAYS = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE
WRITABLE = ALWAYS | SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO


def flags_of(server, mode):
    client = server.client(mode)
    flags = client.export.flags
    client.disc()
    return flags


def test_flag_sets():
    """S58 S60: the sets of flags, writable and read-only, one client and many."""
    for count, multi in (("1", 0), ("2", CAN_MULTI_CONN), ("0", CAN_MULTI_CONN)):
        for options, base in (((), WRITABLE), (("-r",), ALWAYS | READ_ONLY)):
            with Server("-e", count, *options, defaults=("-t", "-f", "raw")) as server:
                for mode, extra in (("simple", 0), ("structured", SEND_DF)):
                    flags = flags_of(server, mode)
                    wanted = base | multi | extra
                    check(flags == wanted, f"-e {count} {options} {mode}: "
                          f"flags {flags:#x}, expected {wanted:#x}")


def test_flags_by_export_name():
    """S58 S60: EXPORT_NAME tells the same flags as GO."""
    with Server() as server:
        for structured in (False, True):
            client = server.greeted()
            if structured:
                client.structured_reply()
            told = client.info().flags
            check(client.export_name().flags == told, "EXPORT_NAME and INFO differ")


def test_read_only():
    """S59: on a read-only export WRITE, TRIM and WRITE_ZEROES fail with EPERM; nothing changes."""
    with Server("-r") as server:
        for client in server.each([ALLOCATION]):
            for flags in (0, FUA):
                check(client.write(0, b"x" * 4096, flags).error == EPERM, "WRITE")
                check(client.write(MIB - 1, b"x", flags).error == EPERM, "WRITE of one byte")
                check(client.trim(0, 4096, flags).error == EPERM, "TRIM")
                check(client.zero(0, 4096, flags).error == EPERM, "WRITE_ZEROES")
            check(client.write(0, b"x" * (8 * MIB)).error, "WRITE of 8 MiB")
            check(not client.flush().error, "FLUSH")
            check(not client.cache(0, 4096).error, "CACHE")
            if client.contexts:
                check(not client.status(0, MIB).error, "STATUS")
            check(client.data(0, MIB) == content_of(MIB), "content")
        check(server.bytes() == content_of(MIB), "the file changed")


def test_read_only_file():
    """S59: a read-only server opens a file without write permission."""
    with Server("-r", size=4096) as server:
        server.good()


def test_status_payload_flag():
    """S62: BLOCK_STATUS_PAYLOAD is never told without extended headers."""
    with Server() as server:
        for mode in ("simple", "structured"):
            check(not flags_of(server, mode) & BLOCK_STATUS_PAYLOAD, mode)
        client = server.client("structured", [ALLOCATION])
        check(not client.export.flags & BLOCK_STATUS_PAYLOAD, "with a context")
        client.disc()


def test_two_connections_share():
    """S61: what one connection wrote, another reads at once, in every pair of forms."""
    with Server() as server:
        for first in server.modes():
            for second in server.modes():
                a, b = server.client(first), server.client(second)
                if not a.export.flags & CAN_MULTI_CONN:
                    raise AssertionError("-e 0 without CAN_MULTI_CONN")
                for step in range(40):
                    payload = content_of(4096, step)
                    check(not a.write(step * 4096, payload).error, "write")
                    check(b.data(step * 4096, 4096) == payload, "other connection sees old data")
                    check(not b.zero(step * 4096, 4096).error, "zero")
                    check(a.data(step * 4096, 4096) == bytes(4096), "zeroes not seen")
                check(not b.flush().error, "flush")
                a.disc()
                b.disc()


main(globals())
