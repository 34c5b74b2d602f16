#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Block sizes, large requests, and exports of any size (S29 to S36)."""

import os

from harness import MIB, Server, check, content_of, main
from nbdraw import (CACHE, EINVAL, EOVERFLOW, BLOCK_STATUS, Dropped, Export,
                    INFO_BLOCK_SIZE, READ, TRIM, WRITE, WRITE_ZEROES, ALLOCATION)

ODD_SIZES = (0, 1, 511, 512, 513, 1000, 4095, 4097, 65537, MIB - 1)


def test_block_sizes():
    """S29 S30: on request the three sizes come, sane, the same in INFO and GO."""
    with Server() as server:
        client = server.greeted()
        told = client.info("", (INFO_BLOCK_SIZE,)).block
        check(told, "no INFO_BLOCK_SIZE")
        check(client.go().block == told, "INFO and GO differ")
        check(told[2] >= 32 * MIB, f"maximum {told[2]}")
        client.disc()


def test_size_multiple_of_minimum():
    """S31: whatever the size of the file, it is a multiple of the minimum block size."""
    for size in ODD_SIZES:
        with Server(size=size) as server:
            export = server.greeted().info()
            check(export.size == size, f"file of {size}, export of {export.size}")
            check(size % export.block[0] == 0, f"minimum {export.block[0]} for {size}")


def test_odd_sizes_byte_exact():
    """S31 S34: sizes that are no multiple of 512 are served to the last byte, and not beyond."""
    for size in ODD_SIZES:
        with Server(size=size) as server:
            for client in server.each():
                check(client.export.size == size, f"size {client.export.size}")
                if size:
                    check(client.data(0, size) == content_of(size), "content")
                    check(client.data(size - 1, 1) == content_of(size)[-1:], "last byte")
                    check(not client.write(size - 1, b"\xfe").error, "write of the last byte")
                    check(not client.write(size - 1, content_of(size)[-1:]).error, "and back")
                check(client.read(size, 1).error == EINVAL, "read at the end")
                check(client.write(size, b"x").error, "write at the end")
                check(client.zero(size, 1).error, "zero at the end")
                client.in_sync()
            check(os.path.getsize(server.image) == size, "the file changed its size")
            check(server.bytes() == content_of(size), "the file changed")


def test_size_without_negotiation():
    """S32: without a word about block sizes, every byte range up to 32 MiB works."""
    with Server(size=33 * MIB + 7, content="") as server:
        client = server.greeted()
        check(isinstance(client.go("", ()), Export), "GO without BLOCK_SIZE")
        payload = content_of(32 * MIB)
        check(not client.write(5, payload).error, "write of 32 MiB")
        check(client.data(5, 32 * MIB) == payload, "read of 32 MiB")
        for offset, length in ((1, 1), (511, 2), (4095, 4098), (33 * MIB, 7)):
            part = content_of(length, offset)
            check(not client.write(offset, part).error, f"write {length}@{offset}")
            check(client.data(offset, length) == part, f"read {length}@{offset}")
        client.disc()


def test_maximum_on_small_export():
    """S32: a small export does not lower the limit: 32 MiB past its end is an error, no drop."""
    with Server(size=1000) as server:
        for client in server.each():
            check(client.read(0, 32 * MIB).error == EINVAL, "read")
            check(client.write(0, bytes(32 * MIB)).error, "write")
            client.in_sync()


def test_no_block_size_required():
    """S33: a client that does not ask for block sizes is served, by GO and by EXPORT_NAME."""
    with Server() as server:
        client = server.greeted()
        check(isinstance(client.info("", ()), Export), "INFO")
        check(isinstance(client.go("", ()), Export), "GO")
        client.in_sync()
        client = server.greeted()
        client.export_name()
        client.in_sync()


def test_32_mib():
    """S35: 32 MiB requests are served in every form, from sparse and full images."""
    for content in ("", None):
        with Server(size=40 * MIB, content=content) as server:
            for client in server.each():
                before = server.bytes(MIB, 32 * MIB)
                check(client.data(MIB, 32 * MIB) == before, "read")
                check(not client.write(2 * MIB, before).error, "write")
                check(client.data(2 * MIB, 32 * MIB) == before, "read again")


def test_oversize_read():
    """S35 S80: reads above 32 MiB are served or refused, never by dropping the connection."""
    with Server(size=100 * MIB, content="") as server:
        for client in server.each():
            for length in (32 * MIB + 1, 33 * MIB, 64 * MIB, 64 * MIB + 1, 100 * MIB):
                request = client.read(0, length)
                check(request.error in (0, EINVAL, EOVERFLOW), f"{request}")
            check(client.read(0, 0xFFFFFFFF).error in (EINVAL, EOVERFLOW), "4 GiB - 1")
            client.in_sync()


def test_oversize_read_of_data():
    """S80: a read of twice the maximum that was told, of data in memory, comes in chunks that are
    not above it (the client's library checks each)."""
    with Server(size=64 * MIB) as server:
        whole = server.bytes()
        for client in server.each():
            check(client.data(0, 64 * MIB) == whole, "data")
            check(client.data(1, 64 * MIB - 1) == whole[1:], "data from an odd offset")


def test_oversize_write():
    """S34 S35: a write above 32 MiB is served, refused in sync, or dropped; nobody else hurts."""
    with Server(size=100 * MIB, content="") as server:
        other = server.client()
        for mode in server.modes():
            for length in (32 * MIB + 1, 64 * MIB):
                client = server.client(mode)
                try:
                    request = client.write(0, b"\1" * length)
                    check(request.error in (0, EINVAL, EOVERFLOW), f"{request}")
                    client.in_sync()
                except Dropped:
                    pass
                client.close()
        other.in_sync()
        server.good()


def test_write_of_4_gib():
    """S35: a write header of 4 GiB - 1 that is followed by little must not cost memory."""
    with Server() as server:
        client = server.client()
        try:
            client.send(client.prepare(WRITE, 0, 0xFFFFFFFF)[1] + b"x" * 100000)
        except Dropped:
            pass
        with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
            resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        check(resident < 1 << 20, f"{resident} KiB resident")
        client.close()
        server.good()


def test_payloadless_oversize():
    """S36: TRIM, CACHE, STATUS and ZEROES longer than the maximum payload: no drop."""
    with Server(size=200 * MIB, content="") as server:
        for client in server.each([ALLOCATION]):
            for length in (64 * MIB, 128 * MIB, 200 * MIB, 0xFFFFFFFF):
                for command in (TRIM, CACHE, WRITE_ZEROES) + (BLOCK_STATUS,) * bool(
                        client.contexts):
                    request = client.wait(client.request(command, 0, length))
                    check(length <= 200 * MIB or request.error, f"{request}")
            client.in_sync()


def test_lengths_at_integer_edges():
    """S36 S73: lengths and offsets around 2^31, 2^32, 2^63 are refused without a drop."""
    edges = [edge + delta for edge in (1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64)
             for delta in (-513, -512, -2, -1, 0, 1) if edge + delta < 1 << 64]
    with Server() as server:
        for client in server.each([ALLOCATION]):
            for offset in edges:
                for length in (1, 512, MIB, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
                    for command in (READ, TRIM, CACHE, WRITE_ZEROES) + (BLOCK_STATUS,) * bool(
                            client.contexts):
                        request = client.wait(client.request(command, offset, length))
                        check(request.error, f"{request} succeeds")
                check(client.write(offset, b"x" * 512).error, f"write at {offset:#x}")
            client.in_sync()


main(globals())
