#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""BLOCK_STATUS with base:allocation: form, truth, and edges (S95 to S99)."""

import os

from harness import ALLOCATION, MIB, Server, check, content_of, main
from nbdraw import EINVAL, HOLE, REQ_ONE, ZERO

PLACES = [None] + ["/dev/shm"] * os.access("/dev/shm", os.W_OK)


def each_status(server):
    """A client of each form that has the context."""
    for mode in server.modes()[1:]:
        client = server.client(mode, [ALLOCATION])
        client.mode = mode
        yield client
        client.disc()
        client.close()


def walk(client, start=0, end=None, step=0xFFFFFFFF):
    """[(start, end, status)] over a range, as a client that copies would ask."""
    end = client.export.size if end is None else end
    spans = []
    while start < end:
        request = client.status(start, min(step, end - start))
        check(not request.error, f"status fails at {start}: {request}")
        for length, status in request.extents[ALLOCATION]:
            if spans and spans[-1][2] == status and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], start + length, status)
            else:
                spans.append((start, start + length, status))
            start += length
    return spans


def make_pieces(path, pieces):
    with open(path, "r+b") as out:
        for offset, length in pieces:
            out.seek(offset)
            out.write(content_of(length, offset))


def check_truth(client, pieces, size, spans):
    """Data never told as zero or hole, and the middles of large holes told as such."""
    for low, high in pieces:
        for start, end, status in spans:
            check(not status & (HOLE | ZERO) or end <= low or start >= low + high,
                  f"data at {low}+{high} told as status {status} ({start} to {end})")
    edges = [(0, 0)] + sorted(pieces) + [(size, 0)]
    for (at, length), (following, _) in zip(edges, edges[1:]):
        if following - at - length < 256 * 1024:
            continue
        middle = (at + length + following) // 2
        status = next(status for start, end, status in spans if start <= middle < end)
        check(status == HOLE | ZERO, f"hole at {middle} told as {status}")


def test_past_end():
    """S95: past the end EINVAL; of nothing, no drop."""
    with Server(size=1000) as server:
        for client in each_status(server):
            for offset, length in ((1000, 1), (999, 2), (0, 1001), (1 << 40, 512),
                                   (0, 0xFFFFFFFF)):
                for flags in (0, REQ_ONE):
                    check(client.status(offset, length, flags).error == EINVAL,
                          f"{length}@{offset}")
            for offset in (0, 1, 1000):
                client.status(offset, 0)
            client.in_sync()


def test_sparse():
    """S96 S97 S98 S99: the map of a sparse file is true, at every way of asking."""
    pieces = [(n * MIB, 4096 + 65536 * (n % 3)) for n in range(0, 40, 2)]
    for place in PLACES:
        with Server(size=41 * MIB + 513, content="", directory=place) as server:
            make_pieces(server.image, pieces)
            for client in each_status(server):
                for step in (0xFFFFFFFF, 3 * MIB + 12345, 512 * 1024):
                    check_truth(client, pieces, server.size, walk(client, step=step))
                check_truth(client, [(max(0, at - 77), length) for at, length in pieces
                                     if at >= 77], server.size, [
                                         (low - 77, high - 77, status)
                                         for low, high, status in walk(client, 77)])


def test_full_and_empty():
    """S99: a full file is data, an empty one a hole, to the last byte."""
    for place in PLACES:
        for content, expected in ((None, 0), ("", HOLE | ZERO)):
            with Server(size=3 * MIB + 5, content=content, directory=place) as server:
                if content is None:
                    os.sync()
                for client in each_status(server):
                    spans = walk(client)
                    check(spans[-1][1] == 3 * MIB + 5, f"map ends at {spans[-1][1]}")
                    check({status for _, _, status in spans} == {expected}, f"{spans}")


def test_req_one():
    """S97: with REQ_ONE one extent, within the request, the same status as without."""
    with Server(size=4 * MIB, content="") as server:
        make_pieces(server.image, [(MIB, MIB)])
        for client in each_status(server):
            for offset, length in ((0, 4 * MIB), (0, 512), (MIB - 512, 1024), (MIB, 5), (1, 1),
                                   (4 * MIB - 1, 1), (2 * MIB + 77, MIB)):
                one = client.status(offset, length, REQ_ONE).extents[ALLOCATION]
                many = client.status(offset, length).extents[ALLOCATION]
                check(one[0][1] == many[0][1], f"{one} and {many}")


def test_many_extents():
    """S96 S98: a file of thousands of extents: bounded answers that cover all when repeated."""
    count = 6000
    with Server(size=count * 8192, content="") as server:
        pieces = [(n * 8192, 4096) for n in range(count)]
        make_pieces(server.image, pieces)
        for client in each_status(server):
            spans = walk(client)
            check(spans[-1][1] == server.size, f"map ends at {spans[-1][1]}")
            data = [(low, high) for low, high, status in spans if not status]
            at = 0
            for low, length in pieces:
                while data[at][1] <= low:
                    at += 1
                check(data[at][0] <= low and data[at][1] >= low + length, f"data at {low} lost")


def test_many_queries():
    """S96: hundreds of pipelined queries get one chunk each."""
    with Server(size=64 * MIB, content="") as server:
        make_pieces(server.image, [(n * MIB, 4096) for n in range(64)])
        for client in each_status(server):
            prepared = [client.prepare(7, n % 64 * MIB, MIB) for n in range(600)]
            client.pipeline([data for _, data in prepared])
            for request, _ in prepared:
                check(not request.error and len(request.extents) == 1, f"{request}")


def test_unaligned():
    """S96 S98: at any offset and length the extents start at the offset and are true."""
    with Server(size=MIB, content="") as server:
        pieces = [(65536, 65536), (300000, 1)]
        make_pieces(server.image, pieces)
        for client in each_status(server):
            for offset in (0, 1, 511, 65535, 65536, 65537, 131071, 131072, 299999, 300000, 300001):
                for length in (1, 2, 512, 4095, 70000):
                    for flags in (0, REQ_ONE):
                        at = offset
                        for size, status in client.status(offset, length, flags).extents[
                                ALLOCATION]:
                            for low, span in pieces:
                                check(not status or at + size <= low or at >= low + span,
                                      f"{length}@{offset}: data told as {status}")
                            at += size


def test_window():
    """S97 S98 S99: with -o, aligned or not, the map is that of the window."""
    for start in (MIB, 4096, 256, 1):
        with Server("-o", str(start), size=8 * MIB, content="") as server:
            pieces = [(3 * MIB, 65536)]
            make_pieces(server.image, pieces)
            for client in each_status(server):
                shifted = [(low - start, length) for low, length in pieces]
                check_truth(client, shifted, 8 * MIB - start, walk(client))
                image = server.bytes()[start:]
                check(client.data(0, len(image)) == image, "content")


def test_status_follows_writes():
    """S99: a write into a hole is data at once, on this connection and others."""
    with Server(size=8 * MIB, content="") as server:
        for client in each_status(server):
            writer = server.client()
            check(not writer.trim(0, 8 * MIB).error, "trim")
            walk(client)
            for who, at in ((client, MIB), (writer, 3 * MIB + 512)):
                check(not who.write(at, b"d" * 512).error, "write")
                for start, end, status in walk(client):
                    check(not status or end <= at or start >= at + 512, f"written, but {status}")
            writer.disc()


def test_status_follows_others():
    """S99: data that another program wrote into a hole is never told as a hole."""
    with Server(size=8 * MIB, content="") as server:
        for client in each_status(server):
            walk(client)
            make_pieces(server.image, [(5 * MIB + len(client.mode) * 65536, 65536)])
            at = 5 * MIB + len(client.mode) * 65536
            for start, end, status in walk(client):
                check(not status or end <= at or start >= at + 65536, "stale hole")


def test_status_after_zero():
    """S99: zeroed and trimmed ranges are never told as data with HOLE alone, and stay zeroes."""
    for place in PLACES:
        with Server(size=4 * MIB, directory=place) as server:
            for client in each_status(server):
                for command in (client.zero, client.trim):
                    check(not command(MIB, MIB).error, "command")
                    for start, end, status in walk(client):
                        check(status in (0, ZERO, HOLE | ZERO), f"status {status}")
                        if status & ZERO:
                            data = client.data(start, end - start)
                            check(data == bytes(end - start), "told as zeroes, but are not")


def test_extents_at_integer_edges():
    """S96 S98: extents that end near 2^32, in a sparse export of 9 GiB (32-bit overflows)."""
    size = 9 << 30
    pieces = [((1 << 32) - 4096, 4096), (1 << 32, 4096), ((1 << 33) + 8192, 4096)]
    with Server(size=size, content="") as server:
        make_pieces(server.image, pieces)
        for client in each_status(server):
            for start in (0, 1, 512, 4096, (1 << 32) - 8192, (1 << 32) - 1, (1 << 32) + 4096):
                spans = walk(client, start)
                check(spans[-1][1] == size, f"from {start}: map ends at {spans[-1][1]}")
                check_truth(client, [(low, length) for low, length in pieces if low >= start],
                            size, [(0, start, 3)] + spans)
            for length in (0xFFFFFFFF, 0xFFFFFE00, 0x80000000, 0x7FFFFFFF):
                client.status(0, length)
                client.status(size - length, length)


main(globals())
