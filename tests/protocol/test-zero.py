#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""TRIM, CACHE and WRITE_ZEROES on the file systems at hand (S89 to S94)."""

import os
import random

from harness import MIB, Server, check, content_of, main
from nbdraw import EINVAL, ENOSPC, ENOTSUP, FAST_ZERO, FUA, NO_HOLE

# The disk's file system, and one that cannot zero a range without freeing it.
PLACES = [None] + ["/dev/shm"] * os.access("/dev/shm", os.W_OK)


def each_place(**how):
    for place in PLACES:
        with Server(directory=place, **how) as server:
            for client in server.each():
                yield server, client


def test_trim_keeps_outside():
    """S89: TRIM touches no byte outside its range, whatever its alignment."""
    rng = random.Random(89)
    whole = content_of(MIB)
    for server, client in each_place():
        client.write(0, whole)
        for _ in range(60):
            length = rng.choice((1, 511, 512, 4095, 4096, 4097, 10000, 65536))
            offset = rng.randrange(MIB - length + 1)
            check(not client.trim(offset, length, rng.choice((0, FUA))).error, "trim")
            data = client.data(0, MIB)
            end = offset + length
            check(data[:offset] == whole[:offset] and data[end:] == whole[end:],
                  f"trim {length}@{offset} changed bytes outside")
            inside = data[offset:end]
            check(all(got in (0, old) for got, old in zip(inside, whole[offset:end])),
                  "trim left neither old data nor zeroes")
            check(not client.write(offset, whole[offset:end]).error, "and back")
        check(server.bytes() == whole, "the file")


def test_trim_errors():
    """S89: TRIM past the end gets EINVAL; of nothing, no drop."""
    for server, client in each_place():
        for offset, length in ((MIB, 1), (MIB - 1, 2), (0, MIB + 1), (1 << 40, 4096)):
            check(client.trim(offset, length).error == EINVAL, f"{length}@{offset}")
        for offset in (0, 1, MIB):
            client.trim(offset, 0)
        client.in_sync()


def test_trim_frees():
    """S89: TRIM of an aligned range gives blocks back to the file system, or keeps the data."""
    for server, client in each_place(size=8 * MIB):
        client.write(0, content_of(8 * MIB))
        client.flush()
        before = server.blocks()
        check(not client.trim(MIB, 4 * MIB).error, "trim")
        data = client.data(MIB, 4 * MIB)
        check(data in (bytes(4 * MIB), content_of(5 * MIB)[MIB:]), "half trimmed")
        check(server.blocks() <= before, "TRIM allocates")


def test_discard_ignored():
    """S89 S91 S92: without --discard=unmap what is allocated stays so, holes stay holes, and TRIM
    leaves the data."""
    for mode in ((), ("--discard=ignore",), ("--discard=off",)):
        for place in PLACES:
            with Server(*mode, size=8 * MIB, directory=place,
                        defaults=("-t", "-e", "0", "-f", "raw"), content="") as server:
                for client in server.each():
                    check(not client.write(0, content_of(3 * MIB)).error, "write")
                    check(not client.flush().error, "flush")
                    before = server.blocks()
                    check(not client.trim(0, 8 * MIB, FUA).error, "trim")
                    check(client.data(0, 3 * MIB) == content_of(3 * MIB), "TRIM changed data")
                    check(not client.zero(MIB - 1, 6 * MIB + 1).error, "zero")
                    check(client.data(0, 8 * MIB) == content_of(MIB - 1) + bytes(7 * MIB + 1),
                          "zeroes")
                    check(not client.flush().error, "flush")
                    check(before <= server.blocks() < before + MIB,
                          f"{before} bytes allocated before, {server.blocks()} after")
                    check(client.zero(0, 4096, FAST_ZERO).error in (0, ENOTSUP), "fast zero")


def test_cache():
    """S90: CACHE changes no data, anywhere, and the stream stays in sync."""
    for server, client in each_place():
        content = client.data(0, MIB)
        for offset, length in ((0, MIB), (1, 511), (4096, 65536), (MIB - 1, 1), (0, 0)):
            client.cache(offset, length)
        for offset, length in ((MIB, 1), (0, MIB + 1), (0, 0xFFFFFFFF)):
            check(client.cache(offset, length).error, f"{length}@{offset}")
        check(client.data(0, MIB) == content, "content")


def test_zero_any_range():
    """S91: the range reads back as zeroes, and nothing beside it, at any alignment."""
    rng = random.Random(91)
    whole = content_of(MIB)
    for server, client in each_place():
        client.write(0, whole)
        for _ in range(100):
            length = rng.choice((1, 511, 512, 513, 4095, 4096, 4097, 10000, 65536, 300000))
            offset = rng.randrange(MIB - length + 1)
            flags = rng.choice((0, NO_HOLE)) | rng.choice((0, FUA))
            end = offset + length
            check(not client.zero(offset, length, flags).error, "zero")
            low, high = max(0, offset - 5000), min(MIB, end + 5000)
            check(client.data(low, high - low) == whole[low:offset] + bytes(length)
                  + whole[end:high], f"zero {length}@{offset} flags {flags}")
            check(not client.write(offset, whole[offset:end]).error, "and back")
        check(server.bytes() == whole, "the file")


def test_zero_large():
    """S91: far more than 64 MiB in one request, with edges that are aligned to nothing."""
    size = 260 * MIB
    for place in PLACES:
        with Server(size=size, content="", directory=place) as server:
            client = server.client()
            for flags in (0, NO_HOLE):
                marks = (0, 12344, 70 * MIB, 130 * MIB, 199 * MIB, size - 1000)
                for at in marks:
                    check(not client.write(at, b"m" * 700).error, "write")
                start, end = 12345, size - 777
                check(not client.zero(start, end - start, flags).error, "zero")
                for at in marks:
                    expected = bytes(b"m"[0] if not start <= n < end else 0
                                     for n in range(at, at + 700))
                    check(client.data(at, 700) == expected, f"at {at}, flags {flags}")
                check(not client.trim(0, size).error, "trim")
            client.disc()


def test_zero_4_gib():
    """S91: a request of 2^32 - 1 bytes zeroes all of them and not one more."""
    size = 5 << 30
    with Server(size=size, content="") as server:
        client = server.client()
        marks = (0, MIB + 1, (1 << 31) - 300, (1 << 32) - 600, (1 << 32) + MIB)
        for at in marks:
            check(not client.write(at, b"m" * 600).error, "write")
        check(not client.zero(1, 0xFFFFFFFF).error, "zero")
        check(client.data(0, 600) == b"m" + bytes(599), "start")
        for at in marks[1:4]:
            check(client.data(at, 600) == bytes(600), f"at {at}")
        check(client.data(marks[4], 600) == b"m" * 600, "beyond")
        client.disc()


def test_no_hole():
    """S92: with NO_HOLE the range stays, or becomes, allocated."""
    for start in ("", None):
        for server, client in each_place(size=8 * MIB, content=start):
            if start == "":
                client.trim(0, 8 * MIB)
            before = server.blocks()
            check(not client.zero(MIB, 4 * MIB, NO_HOLE).error, "zero")
            check(not client.flush().error, "flush")
            check(client.data(MIB, 4 * MIB) == bytes(4 * MIB), "zeroes")
            check(server.blocks() >= max(before, 4 * MIB),
                  f"{before} bytes allocated before, {server.blocks()} after")


def test_zero_frees():
    """S91: without NO_HOLE nothing is allocated that was a hole."""
    for server, client in each_place(size=8 * MIB, content=""):
        check(not client.zero(0, 8 * MIB).error, "zero")
        check(server.blocks() <= MIB, f"{server.blocks()} bytes allocated")
        check(client.data(0, 8 * MIB) == bytes(8 * MIB), "zeroes")


def test_zero_errors():
    """S93: past the end ENOSPC and nothing done; of nothing, no drop."""
    for server, client in each_place():
        client.write(0, content_of(MIB))
        for offset, length in ((MIB, 1), (MIB - 1, 2), (0, MIB + 1), (1 << 40, 4096)):
            for flags in (0, NO_HOLE, FUA, FAST_ZERO):
                request = client.zero(offset, length, flags)
                check(request.error == ENOSPC, f"{request}")
        for offset in (0, 1, MIB):
            client.zero(offset, 0)
            client.zero(offset, 0, NO_HOLE | FUA)
        client.in_sync()
        check(server.bytes() == content_of(MIB), "the file changed")


def test_fast_zero():
    """S94: FAST_ZERO zeroes, or says ENOTSUP and leaves the data alone."""
    for server, client in each_place():
        whole = content_of(MIB)
        for offset, length in ((0, MIB), (4096, 65536), (1, 4095), (511, 70001)):
            for flags in (0, NO_HOLE, FUA):
                client.write(0, whole)
                request = client.zero(offset, length, FAST_ZERO | flags)
                check(request.error in (0, ENOTSUP), f"{request}")
                part = client.data(offset, length)
                check(part == (whole[offset:offset + length] if request.error
                               else bytes(length)), f"{request}: content")


def test_fast_zero_without_help():
    """S91 S92 S94: no fallocate: FAST_ZERO is ENOTSUP at once, WRITE_ZEROES writes, TRIM is
    harmless, and ENOTSUP (95) is never the answer to a request without FAST_ZERO."""
    with Server(size=4 * MIB, fault=True) as server:
        server.faults.set("allocate 95")
        for client in server.each():
            whole = content_of(4 * MIB)
            client.write(0, whole)
            request = client.zero(0, 3 * MIB, FAST_ZERO)
            check(request.error == ENOTSUP, f"{request}")
            check(client.data(0, 4 * MIB) == whole, "FAST_ZERO changed the data")
            check(not client.trim(0, MIB).error, "TRIM")
            check(client.data(0, MIB) in (whole[:MIB], bytes(MIB)), "data after TRIM")
            for flags in (0, NO_HOLE, FUA):
                client.write(0, whole)
                check(not client.zero(100, 3 * MIB, flags).error, "zero")
                check(client.data(0, 4 * MIB) == whole[:100] + bytes(3 * MIB)
                      + whole[3 * MIB + 100:], f"flags {flags}")


def test_fast_zero_without_zero_range():
    """S94: FAST_ZERO with NO_HOLE, where only holes can be made: no hole, no slow writing."""
    with Server(size=4 * MIB, directory=PLACES[-1]) as server:
        client = server.client()
        client.write(0, content_of(4 * MIB))
        before = server.blocks()
        request = client.zero(0, 4 * MIB, FAST_ZERO | NO_HOLE)
        check(request.error in (0, ENOTSUP), f"{request}")
        check(server.blocks() >= before, "a hole")
        client.disc()


main(globals())
