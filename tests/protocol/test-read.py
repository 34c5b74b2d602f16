#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""READ: ranges, chunks, holes, DF, and the window of -o (S74 to S83)."""

import os
import random

from harness import MIB, Server, check, content_of, main
from nbdraw import DF, EINVAL, EOVERFLOW, OFFSET_HOLE, FUA


def test_past_end():
    """S74: a read that leaves the export gets EINVAL, without a payload."""
    for size in (MIB, 1000):
        with Server(size=size) as server:
            for client in server.each():
                for offset, length in ((size, 1), (size - 1, 2), (0, size + 1), (size + 1, 1),
                                       (size * 2, 512), (1, size), (size, 32 * MIB)):
                    request = client.read(offset, length)
                    check(request.error == EINVAL, f"{request}")
                    check(not request.covered, "content with an error")
                client.in_sync()


def test_zero_length():
    """S75: reads of nothing, inside, at and past the end, leave the stream in sync."""
    with Server() as server:
        for client in server.each():
            for offset in (0, 1, MIB - 1, MIB, MIB + 1, (1 << 64) - 1):
                client.read(offset, 0)
            client.in_sync()


def test_unaligned():
    """S77: reads at any offset and length deliver exactly those bytes."""
    rng = random.Random(77)
    with Server() as server:
        whole = content_of(MIB)
        for client in server.each():
            for _ in range(300):
                length = rng.choice((1, 2, 511, 512, 513, 4095, 4097, 70000))
                offset = rng.randrange(MIB - length + 1)
                check(client.data(offset, length) == whole[offset:offset + length],
                      f"{length}@{offset}")


def sparse(path, pieces, size):
    """A file with data only at (offset, length) of pieces; returns its content."""
    image = bytearray(size)
    with open(path, "wb") as out:
        for offset, length in pieces:
            out.seek(offset)
            data = content_of(length, offset)
            out.write(data)
            image[offset:offset + length] = data
        out.truncate(size)
    return bytes(image)


def test_sparse():
    """S77 S79: sparse images read right, at every edge between hole and data."""
    pieces = [(n * 65536, 4096 * (n % 5)) for n in range(64)] + [(5 * MIB + 100, 3)]
    with Server(size=6 * MIB, content="") as server:
        image = sparse(server.image, pieces, 6 * MIB)
        for client in server.each():
            check(client.data(0, 6 * MIB) == image, "whole image")
            for offset, _ in pieces:
                for start in (offset, max(0, offset - 1), max(0, offset - 4096), offset + 5):
                    length = min(70000, 6 * MIB - start)
                    check(client.data(start, length) == image[start:start + length], f"@{start}")
            for start, length in ((5 * MIB + 4096, 1), (5 * MIB + 5000, 70000), (5 * MIB + 8192, 512)):
                check(client.data(start, length) == bytes(length), f"hole @{start}")
            client.in_sync()


def test_holes_sent():
    """S79: a hole of megabytes travels as a hole, in few chunks, not as zeroes."""
    with Server(size=32 * MIB, content="") as server:
        client = server.client()
        request = client.read(0, 32 * MIB)
        check(request.data == bytes(32 * MIB), "content")
        check(any(kind == OFFSET_HOLE for kind, _, _ in request.chunks),
              f"no hole among {len(request.chunks)} chunks")
        check(len(request.chunks) <= 64, f"{len(request.chunks)} chunks")
        client.disc()


def test_chunks_few():
    """S78 S80: a read of 32 MiB of data comes in chunks within the maximum payload, and few."""
    with Server(size=32 * MIB) as server:
        client = server.client()
        request = client.read(0, 32 * MIB)
        check(request.data == content_of(32 * MIB), "content")
        check(len(request.chunks) <= 1024, f"{len(request.chunks)} chunks")
        client.disc()


def test_df():
    """S83: with DF one content chunk, up to 64 KiB always, above it data or EOVERFLOW."""
    pieces = [(n * 16384, 4096) for n in range(0, 512, 2)]
    with Server(size=8 * MIB, content="") as server:
        image = sparse(server.image, pieces, 8 * MIB)
        for mode in server.modes()[1:]:
            client = server.client(mode)
            for offset, length in ((0, 1), (0, 65536), (12288, 65536), (1, 65535), (4096, 4096),
                                   (7 * MIB, 65536)):
                check(client.data(offset, length, DF) == image[offset:offset + length],
                      f"DF {length}@{offset}")
            for length in (65537, MIB, 8 * MIB):
                request = client.read(0, length, DF)
                check(request.error in (0, EOVERFLOW), f"{request}")
                check(request.error or request.data == image[:length], "content")
                check(not (request.error and request.covered), "content before EOVERFLOW")
            check(client.read(8 * MIB, 1, DF).error == EINVAL, "DF past the end")
            client.in_sync()
            client.disc()


def test_df_cold():
    """S83: with DF one content chunk also where nothing is in the page cache."""
    pieces = [(n * 65536, 20000) for n in range(0, 128, 2)]
    with Server("--cache=none", size=8 * MIB, content="") as server:
        image = sparse(server.image, pieces, 8 * MIB)
        for mode in server.modes()[1:]:
            client = server.client(mode)
            for offset, length in ((0, 65536), (511, 65536), (1, 300001), (65536, 4 * MIB)):
                request = client.read(offset, length, DF)
                check(not request.error, f"{request}")
                check(request.data == image[offset:offset + length], f"DF {length}@{offset}")
            client.in_sync()
            client.disc()


def test_df_without_structured():
    """S67 S83: DF without structured replies is an unknown flag."""
    with Server() as server:
        client = server.client("simple")
        check(client.read(0, 512, DF).error == EINVAL, "DF")
        client.in_sync()


def test_window():
    """S74: with -o the export is the file from there on; its bounds are the window's."""
    for offset in (1, 256, 512, 4096, 1000, MIB - 1):
        with Server("-o", str(offset)) as server:
            whole = content_of(MIB)[offset:]
            for client in server.each():
                check(client.export.size == len(whole), f"size {client.export.size}")
                check(client.data(0, len(whole)) == whole, f"content at offset {offset}")
                check(client.read(len(whole), 1).error == EINVAL, "read past the window")
                check(client.write(len(whole), b"x").error, "write past the window")
                last = whole[-1:]
                check(not client.write(len(whole) - 1, b"\x01").error, "write of the last byte")
                check(not client.zero(0, 1).error, "zero of the first byte")
                check(not client.write(0, whole[:1]).error, "and back")
                check(not client.write(len(whole) - 1, last).error, "and back")
            check(server.bytes() == content_of(MIB), "the file changed outside the window")
            check(os.path.getsize(server.image) == MIB, "the file grew")


def test_fua_read():
    """S68: READ with FUA delivers the same data."""
    with Server() as server:
        for client in server.each():
            check(client.data(100, 5000, FUA) == content_of(MIB)[100:5100], "data")


def test_holes_sent_after_trim():
    """S79: what was data when it was read first, and was trimmed then, travels as a hole."""
    with Server(size=8 * MIB) as server:
        client = server.client("structured")
        check(client.data(0, 4 * MIB) == content_of(4 * MIB), "before")
        for act in (client.trim, client.zero):
            check(not act(MIB, 2 * MIB).error, "trim")
            request = client.read(MIB, 2 * MIB)
            holes = sum(size for kind, _, size in request.chunks if kind == OFFSET_HOLE)
            check(holes == 2 * MIB, f"{holes} bytes of holes in {request}")
            check(not any(request.data), "content of the hole")
            check(not client.write(MIB, content_of(2 * MIB)).error, "write")
        client.disc()


def test_large_in_memory():
    """S77: large reads from the page cache, at any offset, over each kind of socket."""
    size = 9 * MIB + 333
    whole = content_of(size, 5)
    for tcp in (False, True):
        with Server(size=size, content=whole, tcp=tcp) as server:
            for client in server.each():
                for offset, length in ((0, 33000), (0, 8 * MIB), (1, 5 * MIB), (4095, 40000),
                                       (MIB - 1, 2 * MIB + 2), (5, size - 5), (size - 70000, 70000)):
                    check(client.data(offset, length) == whole[offset:offset + length],
                          f"{length}@{offset}, TCP {tcp}")


def test_unwritten_extents():
    """S77: preallocated blocks read as zeroes, and written ones among them as data."""
    with Server(size=4 * MIB, content="") as server:
        with open(server.image, "r+b") as image:
            os.posix_fallocate(image.fileno(), 0, 4 * MIB)
            image.seek(MIB)
            image.write(content_of(4096))
        for client in server.each():
            data = client.data(0, 4 * MIB)
            check(data[MIB:MIB + 4096] == content_of(4096), "written block")
            check(data.count(0) == 4 * MIB - 4096, "zeroes")


def test_changed_behind_the_server():
    """S77: data that appears in a hole behind the server's back is served, not a stale hole."""
    with Server(size=4 * MIB, content="") as server:
        for client in server.each():
            client.data(0, 4 * MIB)
            payload = content_of(8192, len(client.mode))
            with open(server.image, "r+b") as image:
                image.seek(2 * MIB)
                image.write(payload)
            check(client.data(2 * MIB, 8192) == payload, "stale hole")


main(globals())
