#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A storage that fails: errors of read, write, allocate and sync, short transfers, and an image that
shrinks under the server. The shim (fault.c) sits between the server and the file.
"""

import os
import resource
import time

from harness import ALLOCATION, MIB, Server, check, content_of, main
from nbdraw import EINVAL, EIO, ENOSPC, FLUSH, FUA, NO_HOLE, OFFSET_DATA, READ, Dropped

HOST_EIO, HOST_EAGAIN, HOST_EFBIG, HOST_ENOSPC, HOST_EOPNOTSUPP, HOST_EDQUOT = (
    5, 11, 27, 28, 95, 122)
# Simple replies up to here are complete before they begin; a larger one that finds its data in
# memory may begin, and then can only drop when the file fails (S76).
BEGUN = 16 * 1024


def test_shim_is_seen():
    """S86: the shim sees the server's reads, writes and syncs (else these tests mean nothing)."""
    with Server(fault=True) as server:
        client = server.client()
        client.data(0, 4096)
        client.write(0, b"x" * 4096)
        client.flush()
        seen = {op[0] for op in server.faults.operations()}
        check(seen & {"read", "nowait"}, f"no read in the log: {seen}")
        check("write" in seen and "sync" in seen, f"no write or sync in the log: {seen}")
        client.disc()


def test_read_error():
    """S69 S74 S76 S81: a read that fails is EIO, in every form, and the connection lives (a large
    simple reply that has begun can only drop); what can be read is read."""
    with Server(fault=True) as server:
        server.faults.set(f"read {HOST_EIO} 65536 69632", f"nowait {HOST_EIO} 65536 69632")
        for mode in server.modes():
            client = server.client(mode)
            for offset, length in ((65536, 4096), (65536, 512), (0, MIB), (61440, 8192),
                                   (69631, 1), (65000, 600)):
                try:
                    request = client.read(offset, length)
                except Dropped:
                    check(mode == "simple" and length > BEGUN, f"dropped by {length}@{offset}")
                    client = server.client(mode)
                    continue
                check(request.error == EIO, f"{request}")
                check(all(code == EIO for _, code, _, _ in request.error_chunks), "other errors")
                for kind, start, size in request.chunks:
                    if kind == OFFSET_DATA and (start + size <= 65536 or start >= 69632):
                        at = start - offset
                        check(request.data[at:at + size] == content_of(start + size)[start:],
                              "wrong data before the error")
            check(client.data(0, 65536) == content_of(65536), "before the bad range")
            check(client.data(69632, 4096) == content_of(73728)[69632:], "behind the bad range")
            client.in_sync()
            client.disc()
        server.faults.clear()
        server.good()


def test_read_error_is_forgotten():
    """S76: a read error is not sticky: when the storage recovers, so do reads."""
    with Server(fault=True) as server:
        client = server.client()
        server.faults.set(f"read {HOST_EIO}", f"nowait {HOST_EIO}")
        check(client.read(0, 4096).error == EIO, "read")
        server.faults.clear()
        check(client.data(0, 4096) == content_of(4096), "read after recovery")
        client.disc()


def test_read_errors_pipelined():
    """S64 S82: hundreds of reads on their way, every other one bad: each its own answer."""
    with Server(fault=True, size=4 * MIB) as server:
        rules = []
        for n in range(0, 20, 2):
            low, high = n * BEGUN, n * BEGUN + BEGUN
            rules += [f"read {HOST_EIO} {low} {high}", f"nowait {HOST_EIO} {low} {high}"]
        server.faults.set(*rules)
        for client in server.each():
            prepared = [client.prepare(READ, n % 40 * BEGUN, BEGUN) for n in range(300)]
            client.pipeline([data for _, data in prepared])
            for n, (request, _) in enumerate(prepared):
                bad = n % 40 < 20 and n % 2 == 0
                check(request.error == (EIO if bad else 0), f"number {n}: {request}")


def test_short_transfers():
    """S77 S84: short reads and writes are continued, not taken for the whole."""
    with Server(fault=True) as server:
        whole = content_of(MIB, 5)
        server.faults.set("read short", "nowait short", "write short")
        for client in server.each():
            check(not client.write(0, whole).error, "write")
            check(server.bytes() == whole, "written file")
            check(client.data(0, MIB) == whole, "read")
            check(not client.write(100, whole[:5000]).error, "write")
            # Buffers that are used again must not hold the right bytes by chance.
            check(not client.write(MIB - 5001, b"j" * 5000).error, "junk")
            check(client.data(100, 5000) == whole[:5000], "read")
            check(not client.write(0, whole).error, "and back")


def test_cold_cache():
    """S77: nothing is in the page cache (RWF_NOWAIT always says EAGAIN): the slow way is right."""
    for error in (HOST_EAGAIN, HOST_EOPNOTSUPP):
        with Server(fault=True) as server:
            server.faults.set(f"nowait {error}")
            for client in server.each([ALLOCATION]):
                prepared = [client.prepare(READ, n * 4096, 4096) for n in range(256)]
                client.pipeline([data for _, data in prepared])
                whole = content_of(MIB)
                for n, (request, _) in enumerate(prepared):
                    check(request.data == whole[n * 4096:n * 4096 + 4096], f"read {n}")
                check(client.data(1, MIB - 1) == whole[1:], "large read")


def test_cold_pieces():
    """S77 S79: reads of many pieces that all come from workers, and simple ones that are too
    large for a buffer."""
    size = 12 * MIB + 100
    whole = content_of(size, 3)
    with Server("--cache=none", size=size, content=whole) as server:
        for client in server.each():
            for offset, length in ((0, 2 * MIB), (1, 3 * MIB), (777, 5 * MIB), (0, 9 * MIB),
                                   (MIB + 1, 11 * MIB), (size - 4200000, 4200000)):
                check(client.data(offset, length) == whole[offset:offset + length],
                      f"{length}@{offset}, {client.mode}")


def test_read_error_large_cold():
    """S76 S82: an error far inside a large cold read is told as an error in every form: the reply
    to a simple one has not begun before all of it was read."""
    low, high = 6 * MIB, 6 * MIB + 4096
    with Server("--cache=none", size=12 * MIB, fault=True) as server:
        server.faults.set(f"read {HOST_EIO} {low} {high}")
        for client in server.each():
            for offset, length in ((0, 9 * MIB), (5 * MIB, 3 * MIB), (low + 1, 5 * MIB)):
                request = client.read(offset, length)
                check(request.error == EIO, f"{request}")
                check(all(low - MIB < at < high for _, _, _, at in request.error_chunks
                          if at is not None), f"offset of {request.error_chunks}")
            client.in_sync()


def test_write_errors():
    """S69: errors of write: EIO stays EIO; ENOSPC, EFBIG and EDQUOT are ENOSPC."""
    with Server(fault=True) as server:
        for client in server.each():
            for host, wire in ((HOST_EIO, EIO), (HOST_ENOSPC, ENOSPC), (HOST_EFBIG, ENOSPC),
                               (HOST_EDQUOT, ENOSPC)):
                server.faults.set(*(f"{name} {host}" for name in ("write", "dsync")))
                for size in (512, MIB):
                    for flags in (0, FUA):
                        request = client.write(0, b"e" * size, flags)
                        check(request.error == wire, f"host errno {host}: {request}")
                server.faults.clear()
                check(not client.write(0, content_of(4096)).error, "write after recovery")
            client.in_sync()


def test_write_error_in_the_middle():
    """S84: a write of which only a part fails is an error."""
    with Server(fault=True) as server:
        server.faults.set(f"write {HOST_ENOSPC} {MIB // 2} {MIB // 2 + 1}", "write short")
        for client in server.each():
            check(client.write(0, b"x" * MIB).error == ENOSPC, "write")
            client.in_sync()
    # Written by workers, in pieces: the error is in the first one, in another, in the last one.
    with Server(size=8 * MIB, fault=True) as server:
        for at in (1, 3 * MIB, 5 * MIB):
            server.faults.set(f"write {HOST_ENOSPC} {at} {at + 1}")
            for client in server.each():
                check(client.write(1, b"x" * (5 * MIB + 10)).error == ENOSPC, "write in pieces")
                client.in_sync()


def test_zero_errors():
    """S69 S91: WRITE_ZEROES where allocation fails for want of room or by I/O error."""
    with Server(fault=True) as server:
        for client in server.each():
            for host, wire in ((HOST_ENOSPC, ENOSPC), (HOST_EIO, EIO)):
                server.faults.set(f"allocate {host}", f"write {host}")
                for flags in (0, NO_HOLE, FUA):
                    request = client.zero(0, 65536, flags)
                    check(request.error == wire, f"{request}")
                server.faults.clear()
                client.in_sync()


def test_trim_error():
    """S89: TRIM that the storage cannot do is no fault of the client; EIO may be told."""
    with Server(fault=True) as server:
        client = server.client()
        for host, allowed in ((HOST_EOPNOTSUPP, (0,)), (HOST_EIO, (0, EIO))):
            server.faults.set(f"allocate {host}")
            request = client.trim(0, 65536)
            check(request.error in allowed, f"host errno {host}: {request}")
            check(client.data(0, 4096) in (content_of(4096), bytes(4096)), "data")
        client.disc()


def test_failed_sync_is_never_forgotten():
    """S87: after a failed fsync every FLUSH and FUA fails, on all connections, old and new, until
    the export is opened again; reads go on; the exit status tells of it."""
    with Server(fault=True, status=1) as server:
        old = server.client("structured")
        check(not old.write(0, b"a" * 4096).error, "write")
        check(not old.flush().error, "flush while all is well")
        server.faults.set(f"sync {HOST_EIO}")
        check(not old.write(4096, b"a" * 4096).error, "write that is lost")
        other = server.client("simple")
        check(other.flush().error == EIO, "flush that fails")
        server.faults.clear()
        for client in (old, other, server.client("simple")):
            check(client.flush().error == EIO, "flush after recovery")
            check(client.write(0, b"b" * 512, FUA).error == EIO, "FUA write")
            check(client.zero(0, 512, FUA).error == EIO, "FUA zero")
            check(client.flush().error == EIO, "flush")
            check(not client.read(0, 4096).error, "read")
        check(server.stop() == 1, "exit status after lost data")
        with Server(image=server.image) as again:
            again.good()


def test_failed_fua_is_never_forgotten():
    """S86 S87: the same when the first sync that fails is that of a FUA write."""
    with Server(fault=True, status=1) as server:
        client = server.client()
        server.faults.set(f"sync {HOST_EIO}", f"dsync {HOST_EIO}")
        check(client.write(0, b"a" * 4096, FUA).error == EIO, "FUA write")
        server.faults.clear()
        check(client.flush().error == EIO, "flush")
        check(server.client("simple").flush().error == EIO, "flush of a new client")
        check(client.write(0, b"a" * 4096, FUA).error == EIO, "FUA write again")


def test_flush_beside_a_failing_one():
    """S87: a FLUSH whose own sync succeeds is an error when another's fails meanwhile: the kernel
    tells of a lost page once, and it may have been a page that this FLUSH is about."""
    with Server(fault=True, status=1) as server:
        failing, other = server.client(), server.client()
        check(not other.write(0, b"a" * 4096).error, "write")
        server.faults.set("sync delay:1000", f"sync {HOST_EIO}")
        first = failing.request(FLUSH)
        time.sleep(0.3)
        server.faults.set("sync delay:2000")
        second = other.request(FLUSH)
        time.sleep(0.3)
        server.faults.clear()
        check(failing.wait(first).error == EIO, "the flush that fails")
        check(not second.done, "the test was too slow")
        check(other.wait(second).error == EIO, "the flush beside it")


def test_failed_sync_without_room():
    """S87: ENOSPC and EDQUOT from fsync (delayed allocation) lose pages just as EIO does."""
    for host in (HOST_ENOSPC, HOST_EDQUOT):
        with Server(fault=True, status=1) as server:
            client = server.client()
            server.faults.set(f"sync {host}")
            check(not client.write(0, b"a" * 4096).error, "write that is lost")
            check(client.flush().error in (EIO, ENOSPC), "flush")
            server.faults.clear()
            check(client.flush().error in (EIO, ENOSPC), "flush after recovery")


def test_two_flushes_one_error():
    """S87: the kernel tells of a lost page once, to one of two fsyncs that run at a time, and this
    one may return late: neither flush may say that all is well."""
    with Server(fault=True, status=1) as server:
        for pair in (("simple", "structured"), ("structured", "simple")):
            clients = [server.client(mode) for mode in pair]
            for n, client in enumerate(clients):
                check(not client.write(n * 4096, b"a" * 4096).error, "write that is lost")
            server.faults.set(f"sync once:{HOST_EIO}:1500")
            requests = [client.request(FLUSH) for client in clients]
            for client, request in zip(clients, requests):
                check(client.wait(request).error == EIO, f"{request}")


def test_sync_failing_at_exit():
    """S87: a sync that fails at exit is told by the exit status."""
    with Server(fault=True, status=1) as server:
        client = server.client()
        client.write(0, b"x" * 4096)
        server.faults.set(f"sync {HOST_EIO}")
        check(server.stop() == 1 and "flush failed" in server.stderr(), server.stderr())


def test_pipelined_flush_and_writes():
    """S87: a FLUSH between hundreds of writes on their way, with a slow disk: all answered."""
    with Server(fault=True) as server:
        server.faults.set("write delay:1", "sync delay:20")
        for client in server.each():
            blobs = []
            for n in range(200):
                blobs.append(client.prepare(1, n * 4096, 4096, payload=content_of(4096, n))[1])
                if n % 20 == 0:
                    blobs.append(client.prepare(3)[1])
            client.pipeline(blobs)
            client.in_sync()


def test_truncated_image():
    """S74 S76: the file shrinks under the server: reads beyond fail with EIO (no made-up bytes),
    the rest works, the server lives."""
    with Server(size=4 * MIB) as server:
        for client in server.each([ALLOCATION]):
            with open(server.image, "r+b") as image:
                image.truncate(4 * MIB)
                image.write(content_of(4 * MIB))
                image.truncate(MIB + 5)
            check(client.data(0, MIB) == content_of(MIB), "what is left")
            for offset, length in ((2 * MIB, 4096), (3 * MIB, MIB), (0, 4 * MIB), (MIB, 4096)):
                try:
                    request = client.read(offset, length)
                except Dropped:
                    check(client.mode == "simple" and length > BEGUN, "dropped")
                    client = server.client(client.mode)
                    client.mode = "simple"
                    continue
                check(request.error == EIO, f"{request}")
            if client.contexts:
                request = client.status(0, 4 * MIB)
                check(request.error in (0, EIO, EINVAL), f"{request}")
            check(not client.write(3 * MIB, b"g" * 4096).error, "write beyond grows the file")
            check(client.data(3 * MIB, 4096) == b"g" * 4096, "read of it")
            client.in_sync()
        server.good()


def test_truncated_sparse_image():
    """S76: the same where the file had been a hole: what is beyond its end now is no hole, and
    reads as an error, not as zeroes."""
    with Server(size=8 * MIB, content="") as server:
        with open(server.image, "r+b") as image:
            image.write(content_of(4 * MIB))
        os.truncate(server.image, MIB)
        for client in server.each():
            for offset in (MIB, 2 * MIB, 6 * MIB, 8 * MIB - 4096):
                request = client.read(offset, 4096)
                check(request.error == EIO, f"{request}")
            check(client.data(0, MIB) == content_of(MIB), "what is left")
            client.in_sync()


def test_file_size_limit():
    """S69: RLIMIT_FSIZE: EFBIG (and SIGXFSZ) become ENOSPC, not a dead server."""
    with Server(size=8 * MIB, content="", limits={resource.RLIMIT_FSIZE: 4 * MIB}) as server:
        for client in server.each():
            check(not client.write(MIB, b"x" * 4096).error, "below the limit")
            request = client.write(6 * MIB, b"x" * 4096)
            check(request.error == ENOSPC, f"{request}")
            client.in_sync()
        server.good()


def test_image_removed():
    """S76: the file is unlinked: the open one is served on."""
    with Server() as server:
        client = server.client()
        os.unlink(server.image)
        check(client.data(0, MIB) == content_of(MIB), "data")
        check(not client.flush().error, "flush")
        client.disc()


main(globals())
