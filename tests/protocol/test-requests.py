#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Requests and replies in general: cookies, sync, flags, errors, order (S63 to S73)."""

import random
import struct
import time

from harness import ALLOCATION, MIB, Server, check, content_of, dropped, main
from nbdraw import (BLOCK_STATUS, CACHE, DF, EINVAL, EPERM, FAST_ZERO, FLUSH, FUA, NO_HOLE,
                    PAYLOAD_LEN, READ, REQ_ONE, TRIM, WRITE, WRITE_ZEROES, Client)

COOKIES = (0, 1, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0x25609513,
           0x6744669800000000, 0x00000000FFFFFFFF, 0xFFFFFFFF00000000)


def test_cookies():
    """S63: every cookie comes back as it was, for every command."""
    with Server() as server:
        for client in server.each([ALLOCATION]):
            for cookie in COOKIES:
                for command in (READ, FLUSH, TRIM, CACHE, WRITE_ZEROES) + (BLOCK_STATUS,) * bool(
                        client.contexts):
                    length = 0 if command == FLUSH else 512
                    client.wait(client.request(command, 0, length, cookie=cookie))
                client.wait(client.request(WRITE, 0, 512, payload=b"x" * 512, cookie=cookie))


def test_duplicate_cookies():
    """S63: many requests on their way with one cookie are all answered."""
    with Server() as server:
        client = server.client("simple")
        prepared = [client.prepare(READ, 0, 4096, cookie=7) for _ in range(200)]
        client.pipeline([data for _, data in prepared])
        check(all(request.data == content_of(4096) for request, _ in prepared), "data")
        client.disc()


def test_one_answer_each():
    """S64: hundreds of pipelined requests of all kinds get exactly one answer each."""
    rng = random.Random(64)
    with Server(size=8 * MIB) as server:
        for client in server.each([ALLOCATION]):
            commands = [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES]
            commands += [BLOCK_STATUS] * bool(client.contexts)
            blobs = []
            for _ in range(800):
                command = rng.choice(commands)
                length = 0 if command == FLUSH else rng.choice((512, 4096, 65536, 1, 777))
                offset = 0 if command == FLUSH else rng.randrange(8 * MIB - 65536)
                payload = bytes(length) if command == WRITE else b""
                blobs.append(client.prepare(command, offset, length, payload=payload)[1])
            client.pipeline(blobs)
            client.expect_silence()
            client.in_sync()


def test_more_requests_than_jobs():
    """S69: many more slow requests than the server takes at once: the rest waits in the socket, none
    is refused."""
    with Server(fault=True) as server:
        server.faults.set("sync delay:5")
        for client in server.each():
            requests = [client.prepare(FLUSH) for _ in range(700)]
            client.pipeline([blob for _, blob in requests])
            for request, _ in requests:
                check(not request.error, f"{request}")
            client.in_sync()


def test_slow_reader_gets_all():
    """S64: replies that wait for a slow client, and leave in pieces of any size, are whole."""
    for tcp in (False, True):
        with Server(tcp=tcp) as server:
            whole = content_of(MIB)
            for client in server.each():
                requests = [client.prepare(READ, n * 512, 30000 + n) for n in range(300)]
                client.send(b"".join(blob for _, blob in requests))
                time.sleep(0.3)
                for request, _ in requests:
                    client.wait(request)
                    start = request.offset
                    check(request.data == whole[start:start + request.length], f"{request}")


def test_pipelined_data():
    """S64: 500 writes in one go, then 500 reads in one go: each its own data."""
    count, size = 500, 4096
    with Server(size=count * size, content="") as server:
        for client in server.each():
            blobs = []
            for n in range(count):
                payload = content_of(size, n + len(client.mode))
                blobs.append(client.prepare(WRITE, n * size, size, payload=payload)[1])
            client.pipeline(blobs)
            reads = [client.prepare(READ, n * size, size) for n in range(count)]
            client.pipeline([data for _, data in reads])
            for n, (request, _) in enumerate(reads):
                check(request.data == content_of(size, n + len(client.mode)), f"block {n}")


def test_split_anywhere():
    """S64: requests that arrive in pieces of any size are understood."""
    with Server() as server:
        client = server.client()
        client.sock.setsockopt(1, 7, 4096)  # SO_SNDBUF: many small sends
        blobs = b"".join(client.prepare(WRITE, n * 512, 512, payload=content_of(512, n))[1]
                         for n in range(40))
        rng = random.Random(4)
        pieces = []
        while blobs:
            cut = rng.choice((1, 2, 27, 28, 29, 100, 511, 512, 540, 2000))
            pieces.append(blobs[:cut])
            blobs = blobs[cut:]
        client.pipeline(pieces)
        for n in range(40):
            check(client.data(n * 512, 512) == content_of(512, n), f"block {n}")
        client.disc()


def test_simple_only():
    """S65: without STRUCTURED_REPLY every answer is a simple one, errors too."""
    with Server() as server:
        client = server.client("simple")
        for request in (client.read(0, 512), client.read(MIB, 1), client.write(0, b"x"),
                        client.flush(), client.trim(0, 512), client.cache(0, 512),
                        client.zero(0, 512), client.status(0, 512), client.read(0, 1, 1 << 9)):
            check(request.simple, f"{request} answered in chunks")
        client.disc()


def test_read_never_simple():
    """S66: with structured replies no READ gets a simple reply, however wrong it is."""
    with Server() as server:
        client = server.client()
        for offset, length, flags in ((MIB, 1, 0), (0, MIB + 1, 0), ((1 << 64) - 1, 1, 0),
                                      (0, 512, 1 << 15), (0, 512, NO_HOLE), (0, 512, FAST_ZERO),
                                      (MIB, 1, DF), (0, 0, 0), (0, 0xFFFFFFFF, DF)):
            request = client.read(offset, length, flags)  # the library refuses simple replies
            check(not length or request.error, f"{request}")
        client.in_sync()
        client.disc()


def test_unknown_commands():
    """S67: unknown commands get EINVAL and the stream stays in sync."""
    with Server() as server:
        for client in server.each():
            for command in (8, 9, 10, 42, 0x7FFF, 0x8000, 0xFFFF):
                for length in (0, 512, 0xFFFFFFFF):
                    for flags in (0, FUA):
                        request = client.wait(client.request(command, 0, length, flags))
                        check(request.error == EINVAL, f"{request}")
            client.in_sync()


ALLOWED = {READ: FUA | DF, WRITE: FUA, FLUSH: FUA, TRIM: FUA, CACHE: FUA,
           WRITE_ZEROES: FUA | NO_HOLE | FAST_ZERO, BLOCK_STATUS: FUA | REQ_ONE}


def test_unknown_flags():
    """S67 S90: each flag that a command does not know gets EINVAL; nothing is done."""
    with Server() as server:
        for client in server.each([ALLOCATION]):
            for command, allowed in ALLOWED.items():
                if command == BLOCK_STATUS and not client.contexts:
                    continue
                if not client.structured:
                    allowed &= ~DF
                for bit in range(16):
                    flag = 1 << bit
                    if flag & allowed or (flag == PAYLOAD_LEN and client.extended):
                        continue
                    payload = b"x" * 512 if command == WRITE else b""
                    length = 0 if command == FLUSH else 512
                    request = client.wait(client.request(command, 512, length, flag, payload))
                    check(request.error == EINVAL, f"{request}")
            check(client.data(0, 4096) == content_of(4096), "a refused command was executed")
            client.in_sync()


def test_write_payload_drained():
    """S67 S84: the payload of a refused write is consumed, whatever the reason."""
    with Server() as server:
        for client in server.each():
            for size in (1, 512, 65536, 3 * MIB):
                for offset, flags in ((0, 1 << 12), (MIB, 0), ((1 << 64) - 512, 0), (MIB - 1, 0)):
                    if offset + size <= MIB and not flags:
                        continue
                    first, one = client.prepare(WRITE, offset, size, flags, b"\x25" * size)
                    second, two = client.prepare(READ, 512, 512)
                    client.pipeline([one + two])
                    check(first.error, f"{first}")
                    check(second.data == content_of(1024)[512:], "the next request")
        check(server.bytes() == content_of(MIB), "a refused write was executed")


def test_fua_everywhere():
    """S68: FUA is accepted with every command."""
    with Server() as server:
        for client in server.each([ALLOCATION]):
            for command in ALLOWED:
                if command == BLOCK_STATUS and not client.contexts:
                    continue
                payload = b"x" * 512 if command == WRITE else b""
                request = client.wait(client.request(command, 0, 0 if command == FLUSH else 512,
                                                     FUA, payload))
                check(not request.error, f"{request}")


def test_errors_known():
    """S69 S70: all errors of a storm of wrong requests are on the list of the protocol."""
    rng = random.Random(69)
    with Server() as server:
        for client in server.each([ALLOCATION]):
            for _ in range(500):
                command = rng.choice((0, 1, 3, 4, 5, 6, 7, 8, 77))
                offset = rng.choice((0, 1, MIB - 1, MIB, 1 << 40, (1 << 64) - 1))
                length = rng.choice((0, 1, 511, 4096, MIB, MIB + 1))
                flags = rng.choice((0, 0, 1, 2, 4, 8, 16, 64, 0x8000))
                payload = bytes(length) if command == WRITE else b""
                if client.extended and flags & PAYLOAD_LEN:
                    flags = 0
                client.wait(client.request(command, offset, length, flags, payload))
            client.in_sync()


def test_bad_magic():
    """S72: a bad request magic drops that connection; others go on."""
    with Server() as server:
        for client in server.each():
            bad = server.client(client.mode)
            request, _ = bad.prepare(READ, 0, 512)
            bad.send(bad.pack(request, magic=0x12560953))
            check(dropped(lambda bad=bad, request=request: bad.wait(request)), "it is answered")
            client.in_sync()


def test_bad_magic_after_requests():
    """S72: what was asked before a wrong magic number is answered, and no reply breaks off."""
    with Server() as server:
        for mode in server.modes():
            content = server.client(mode).data(0, 256 << 10)  # in memory from now on
            bad = server.client(mode)
            asked = [bad.prepare(READ, 4096 * i, 81920) for i in range(2)]
            wrong = bad.pack(asked[0][0], magic=0x12560953)
            bad.send(b"".join(data for _, data in asked) + wrong)
            for request, _ in asked:
                bad.wait(request)
                check(request.data == content[request.offset:][:81920], f"{request}")
            bad.expect_drop("S72")


def test_no_needless_drop():
    """S72: after a hundred faults of every kind that is no violation, the connection lives."""
    with Server("-r") as server:
        client = server.client("structured", [ALLOCATION])
        for _ in range(100):
            check(client.write(0, b"x" * 700).error == EPERM, "write")
            check(client.read(MIB, 5).error == EINVAL, "read")
            check(client.trim(MIB, 5).error, "trim")
            check(client.status(MIB, 5).error == EINVAL, "status")
            check(client.wait(client.request(99)).error == EINVAL, "unknown command")
        client.in_sync()
        client.disc()


def test_wrap_around():
    """S73: offset + length beyond 2^64 is out of range."""
    with Server() as server:
        for client in server.each([ALLOCATION]):
            for offset, length in (((1 << 64) - 1, 1), ((1 << 64) - 512, 512),
                                   ((1 << 64) - 512, 1024), ((1 << 64) - 4096, 8192),
                                   ((1 << 63), 512), ((1 << 64) - 1, 0xFFFFFFFF)):
                check(client.read(offset, length).error == EINVAL, "READ")
                check(client.trim(offset, length).error == EINVAL, "TRIM")
                check(client.zero(offset, length).error, "WRITE_ZEROES")
                check(client.cache(offset, length).error, "CACHE")
                if length < MIB:
                    check(client.write(offset, bytes(length)).error, "WRITE")
                if client.contexts:
                    check(client.status(offset, length).error == EINVAL, "STATUS")
            client.in_sync()
        check(server.bytes() == content_of(MIB), "the file changed")


def test_requests_with_go():
    """S24 S64: requests sent together with GO are answered after it."""
    with Server() as server:
        client = Client(server.address)
        server.clients.append(client)
        client.greet()
        client.export = None
        name = struct.pack(">QII", 0x49484156454F5054, 7, 6) + bytes(6)
        first, one = client.prepare(READ, 0, 4096)
        second, two = client.prepare(WRITE, 0, 512, payload=b"w" * 512)
        client.send(name + one + two)
        reply = client.option_reply(7)
        check(reply.ok, f"GO: {reply}")
        client.export = client.export_from(reply.before)
        client.wait_all()
        check(not first.error and not second.error, "requests")
        client.in_sync()
        client.disc()


main(globals())
