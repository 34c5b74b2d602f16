#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""WRITE, FLUSH, FUA and DISC, and that "stable" is true (S84 to S88)."""

import random
import struct
import time

from harness import MIB, Server, check, content_of, main
from nbdraw import (DISC, ENOSPC, EPERM, EINVAL, FLUSH, FUA, READ, REQUEST, TRIM, WRITE, WRITE_ZEROES)


def test_write_then_read():
    """S84: what was replied to is read back, at any alignment."""
    rng = random.Random(84)
    with Server() as server:
        image = bytearray(content_of(MIB))
        for client in server.each():
            for _ in range(200):
                length = rng.choice((1, 2, 511, 512, 513, 4096, 70000))
                offset = rng.randrange(MIB - length + 1)
                payload = content_of(length, rng.randrange(1000))
                check(not client.write(offset, payload).error, "write")
                image[offset:offset + length] = payload
                low, high = max(0, offset - 600), min(MIB, offset + length + 600)
                check(client.data(low, high - low) == image[low:high], f"{length}@{offset}")
        check(server.bytes() == image, "the file")


def test_past_end():
    """S84: a write that leaves the export gets ENOSPC and changes nothing, not even in part."""
    with Server() as server:
        for client in server.each():
            for offset, length in ((MIB, 1), (MIB - 1, 2), (MIB - 4096, 8192), (MIB + 1, 512),
                                   (1 << 40, 4096), (0, MIB + 1)):
                for flags in (0, FUA):
                    request = client.write(offset, b"y" * length, flags)
                    check(request.error == ENOSPC, f"{request}")
            client.in_sync()
        check(server.bytes() == content_of(MIB), "the file changed")


def test_zero_length():
    """S85: writes of nothing leave the stream in sync and the file alone."""
    with Server() as server:
        for client in server.each():
            for offset in (0, 1, MIB, MIB + 1, (1 << 64) - 1):
                client.write(offset, b"")
                client.write(offset, b"", FUA)
            client.in_sync()
        check(server.bytes() == content_of(MIB), "the file changed")


def test_overlapping_writes():
    """S84: overlapping writes on their way leave one of their data per sector, never a mix."""
    with Server() as server:
        clients = [server.client() for _ in range(3)]
        payloads = [bytes([n + 1]) * 4096 for n in range(60)]
        for n, payload in enumerate(payloads):
            clients[n % 3].request(WRITE, 8192, 4096, payload=payload)
        for client in clients:
            client.wait_all()
        data = clients[0].data(8192, 4096)
        check(data in payloads, f"a mix: {sorted(set(data))}")
        check(clients[1].data(8192, 4096) == data, "two clients see different data")


def syncs_after(operations, what):
    """Is there a successful sync after the last operation of that kind (or is it durable)?"""
    last = max((n for n, op in enumerate(operations) if op[0] in what), default=None)
    if last is None:
        raise AssertionError(f"none of {what} in the log: the server bypasses the shim")
    if operations[last][0] == "dsync":
        return True
    return any(op[0] == "sync" and op[4] == 0 for op in operations[last:])


CHANGES = ("write", "dsync", "allocate")


def test_fua_is_stable():
    """S86: the reply to WRITE, TRIM or WRITE_ZEROES with FUA comes after a sync of the file."""
    with Server(fault=True) as server:
        for client in server.each():
            for command in (WRITE, TRIM, WRITE_ZEROES):
                for length in (512, 4096, 65536, MIB):
                    server.faults.forget()
                    payload = b"f" * length if command == WRITE else b""
                    request = client.wait(client.request(command, 0, length, FUA, payload))
                    check(not request.error, f"{request}")
                    done = server.faults.operations()
                    if command == TRIM and not any(op[0] in CHANGES for op in done):
                        continue  # rounded to nothing, or ignored
                    check(syncs_after(done, CHANGES), f"{request}: {done}")


def test_flush_is_stable():
    """S87: the reply to FLUSH comes after a sync that began after the replied writes."""
    with Server(fault=True) as server:
        for client in server.each():
            for command in (WRITE, WRITE_ZEROES):
                server.faults.forget()
                payload = b"g" * 8192 if command == WRITE else b""
                check(not client.wait(client.request(command, 0, 8192, 0, payload)).error, "write")
                check(not client.flush().error, "flush")
                check(syncs_after(server.faults.operations(), CHANGES), "no sync")


def test_flush_covers_other_connections():
    """S61 S87: FLUSH on one connection makes stable what was replied to on another."""
    with Server(fault=True) as server:
        a, b = server.client("simple"), server.client("structured")
        for n in range(5):
            server.faults.forget()
            check(not a.write(n * 4096, content_of(4096, n)).error, "write")
            check(not b.flush().error, "flush")
            check(syncs_after(server.faults.operations(), CHANGES), "no sync for the other's write")


def test_no_sync_without_need():
    """S86: a write without FUA is not synced by itself (the default is writeback)."""
    with Server(fault=True) as server:
        client = server.client()
        for n in range(20):
            client.write(n * 4096, content_of(4096, n))
        done = server.faults.operations()
        check(any(op[0] in CHANGES for op in done), "no write in the log")
        check(not any(op[0] in ("sync", "dsync") for op in done), "sync without FUA or FLUSH")


def test_probed_header_is_guarded():
    """Where the format was guessed, no client can write the magic number of another format, not
    even byte by byte; all else is written, and with -f raw that, too."""
    with Server(defaults=("-t", "-e", "0"), size=MIB, content="") as server:
        for client in server.each():
            check(client.write(0, b"QFI\xfb" + bytes(508)).error == EPERM, "magic")
            check(client.write(0, b"QFI\xfb" + bytes(MIB - 4)).error == EPERM, "magic at its start")
            check(not client.write(1, b"FI").error, "a part")
            check(not client.write(3, b"\xfb").error, "another part")
            check(client.write(0, b"Q").error == EPERM, "the last part")
            check(not client.write(0, b"q").error, "another byte")
            check(not client.write(512, content_of(4096)).error, "behind the header")
            check(client.data(0, 4) == b"qFI\xfb", "header")
            check(not client.zero(0, MIB).error, "zeroes")
    with Server(size=MIB, content="") as server:
        client = server.client()
        check(not client.write(0, b"QFI\xfb").error, "magic with -f raw")
        client.disc()


def test_flush_begins_anew():
    """S87: a FLUSH does not share a sync that had begun before the write that it is about."""
    with Server(fault=True) as server:
        one, other = server.client(), server.client()
        server.faults.set("sync delay:800")
        first = one.request(FLUSH)
        time.sleep(0.2)
        check(not other.write(0, b"n" * 4096).error, "write")
        second = other.request(FLUSH)
        check(not one.wait(first).error and not other.wait(second).error, "flush")
        operations = [op[0] for op in server.faults.operations()]
        behind = operations[operations.index("write"):]
        check(behind.count("sync") == 2, f"the write is covered by no sync of its own: {behind}")


def test_flush_with_range():
    """S87: FLUSH with offset and length does not harm (a client fault, answered in sync)."""
    with Server() as server:
        for client in server.each():
            for offset, length in ((1, 0), (0, 1), (MIB, 4096), ((1 << 64) - 1, 0xFFFFFFFF)):
                request = client.wait(client.request(FLUSH, offset, length))
                check(request.error in (0, EINVAL), f"{request}")
            client.in_sync()


def test_disc():
    """S88: DISC closes without a reply, also with flags and junk in its fields."""
    with Server() as server:
        for mode in server.modes():
            for offset, length, flags in ((0, 0, 0), (1, 1, 0), (0, 0, 0xFFDF)):
                client = server.client(mode)
                client.request(DISC, offset, length, flags)
                client.expect_drop("S88")
        server.good()


def test_disc_finishes_requests():
    """S88: writes before DISC are done, even if their replies are never read."""
    with Server(size=8 * MIB, fault=True) as server:
        server.faults.set("write delay:20")
        for mode in server.modes():
            client = server.client(mode)
            blobs = [client.prepare(WRITE, n * 65536, 65536,
                                    payload=content_of(65536, n + len(mode)))[1]
                     for n in range(32)]
            client.send(b"".join(blobs) + client.prepare(DISC)[1])
            replies = 0
            while client.pending:
                client.step()
                replies += 1
            client.expect_drop("S88")
            check(replies == 32, f"{replies} replies")
            for n in range(32):
                check(server.bytes(n * 65536, 65536) == content_of(65536, n + len(mode)),
                      f"write {n} is lost")


def test_ten_discs():
    """S88: nothing after DISC is executed."""
    with Server() as server:
        client = server.client("simple")
        header = struct.pack(">IHHQQI", REQUEST, 0, DISC, 1, 0, 0)
        write = struct.pack(">IHHQQI", REQUEST, 0, WRITE, 2, 0, 512) + b"N" * 512
        client.send(header * 10 + write)
        client.expect_drop("S88")
        server.good()
        check(server.bytes(0, 512) == content_of(512), "a write after DISC was executed")


def test_overtaking():
    """S64: a slow read does not hold up the others for ever, and all are answered."""
    with Server(fault=True) as server:
        server.faults.set("read delay:300 0 4096", "nowait 11 0 4096")
        for client in server.each():
            slow = client.request(READ, 0, 4096)
            fast = [client.request(READ, 65536, 4096) for _ in range(10)]
            client.wait_all()
            check(slow.data == content_of(4096), "slow read")
            check(all(request.data == content_of(MIB)[65536:69632] for request in fast), "reads")




main(globals())
