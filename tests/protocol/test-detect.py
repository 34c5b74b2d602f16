#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""--detect-zeroes: the bytes are those that were written, and what is zeroes costs no room."""

import os
import random

from harness import MIB, Server, check, content_of, main
from nbdraw import EIO, FUA, WRITE
from places import loop_device

KIB = 1024
UNMAP = ("--discard=unmap", "--detect-zeroes=unmap")
KEEP = ("--detect-zeroes=on",)
DEFAULTS = ("-t", "-e", "0", "-f", "raw")
SIZE = 16 * MIB + 777
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)


def patchwork(rng, length):
    """Stretches of zeroes and of others, of lengths around those that matter."""
    parts, left = [], length
    while left:
        step = min(left, rng.choice((1, 511, 4096, 8192, 30 * KIB, 32 * KIB, 64 * KIB, 100 * KIB,
                                     rng.randrange(1, 300 * KIB))))
        parts.append(rng.choice((bytes, content_of))(step))
        left -= step
    return b"".join(parts)


def scribble(server, rng):
    """Each of four connections writes pieces of its own quarter, some at a time."""
    model = bytearray(server.bytes())
    part = len(model) // 4
    clients = [server.client(mode) for mode in ("simple", "structured", "extended", "simple")]
    for _ in range(6):
        for n, client in enumerate(clients):
            at, end = n * part, (n + 1) * part
            while at < end and rng.random() < 0.9:
                at += rng.choice((0, 0, 1, 512, 4096, rng.randrange(200 * KIB)))
                length = rng.choice((rng.randrange(1, 9000), 4096, 64 * KIB, MIB,
                                     rng.randrange(1, 2 * MIB)))
                data = patchwork(rng, min(length, max(0, end - at)))
                if data:
                    client.request(WRITE, at, len(data), rng.choice((0, 0, 0, FUA)), payload=data)
                    model[at:at + len(data)] = data
                at += len(data)
        for n, client in enumerate(clients):
            client.wait_all()
            check(client.data(n * part, part) == model[n * part:(n + 1) * part],
                  f"seed {SEED}: part {n}")
    check(not clients[0].flush().error, "flush")
    check(server.bytes() == model, f"seed {SEED}: the file")


def test_content():
    """S84: every byte is what was written, on each kind of storage."""
    rng = random.Random(SEED)
    for mode in (KEEP, UNMAP):
        for more, where in (((), {}), ((), {"tcp": True}), (("--cache=none",), {}),
                            (("--cache=writethrough",), {}), ((), {"directory": "/dev/shm"})):
            with Server(*mode, *more, size=SIZE, content=rng.choice((None, "")),
                        defaults=DEFAULTS, **where) as server:
                scribble(server, rng)


def test_content_of_window():
    """S84: the same behind an offset that is aligned to nothing."""
    rng = random.Random(SEED)
    for mode in (KEEP, UNMAP):
        with Server(*mode, "-o", "777", size=SIZE, defaults=DEFAULTS) as server:
            client = server.client()
            for _ in range(20):
                data = patchwork(rng, 2 * MIB)
                at = rng.randrange(SIZE - 777 - len(data))
                check(not client.write(at, data).error, "write")
                check(client.data(at, len(data)) == data, f"seed {SEED}: at {at}")
            check(server.bytes(0, 777) == content_of(777), "before the window")


def test_content_of_device():
    """S84: the same on a block device."""
    rng = random.Random(SEED)
    for mode in (KEEP, UNMAP, KEEP + ("--cache=none",)):
        with loop_device(16 * MIB) as device:
            with Server(*mode, image=device, defaults=DEFAULTS) as server:
                scribble(server, rng)


# What a file system may take for its own map of a file that is cut into pieces.
MAP_ROOM = 16 * KIB


def test_room():
    """S84: `unmap' gives room back, `on' takes none for zeroes in a hole and gives none back."""
    for mode, frees in ((KEEP, False), (UNMAP, True)):
        with Server(*mode, size=8 * MIB, content="", defaults=DEFAULTS) as server:
            for client in server.each():
                client.write(0, bytes(8 * MIB))
                check(server.blocks() <= 64 * KIB, f"{mode}: {server.blocks()} for zeroes")
            client = server.client()
            client.write(0, content_of(4 * MIB))
            client.flush()
            before = server.blocks()
            check(not client.write(MIB, bytes(2 * MIB), FUA).error, "zeroes")
            after = server.blocks()
            check(after <= before - 2 * MIB + MAP_ROOM if frees else after >= before,
                  f"{mode}: {before} bytes before, {after} after")
            check(not client.write(0, bytes(64 * KIB), FUA).error, "some pages of zeroes")
            check((server.blocks() <= after - 64 * KIB + MAP_ROOM) == frees, f"{mode}: some pages")
            check(server.bytes(0, 8 * MIB) == bytes(64 * KIB) + content_of(MIB)[64 * KIB:]
                  + bytes(2 * MIB) + content_of(4 * MIB)[3 * MIB:] + bytes(4 * MIB), "content")


def test_room_in_the_midst():
    """S84: a stretch of zeroes inside a large write, wherever the stream is cut."""
    data = content_of(MIB) + bytes(MIB) + content_of(MIB)
    for tcp in (False, True):
        with Server(*UNMAP, size=4 * MIB, content="", tcp=tcp, defaults=DEFAULTS) as server:
            for client in server.each():
                check(not client.write(4096, data, FUA).error, "write")
                check(server.bytes(4096, len(data)) == data, "content")
                check(server.blocks() <= 2 * MIB + 256 * KIB, f"{server.blocks()} allocated")


def test_splinters():
    """S84: short stretches of zeroes are written: nothing is punched into the file for them."""
    data = (content_of(28 * KIB) + bytes(28 * KIB)) * 30
    for mode in (KEEP, UNMAP):
        with Server(*mode, size=4 * MIB, fault=True, defaults=DEFAULTS) as server:
            client = server.client()
            check(not client.write(0, data).error, "write")
            done = server.faults.operations()
            check(any(op[0] == "write" for op in done), "no write in the log")
            check(not any(op[0] == "allocate" for op in done), f"{mode}: {done}")
            check(client.data(0, len(data)) == data, "content")


def test_fua():
    """S86: zeroes are stable before the reply to a write with FUA."""
    for mode in (KEEP, UNMAP):
        with Server(*mode, size=4 * MIB, fault=True, defaults=DEFAULTS) as server:
            for client in server.each():
                server.faults.forget()
                data = content_of(MIB) + bytes(2 * MIB)
                check(not client.write(0, data, FUA).error, "write")
                names = [op[0] for op in server.faults.operations()]
                check("allocate" in names, f"{mode}: nothing was zeroed: {names}")
                last = max(n for n, name in enumerate(names) if name in ("write", "allocate"))
                check("sync" in names[last:], f"{mode}: {names}")


def test_errors():
    """S69: a disk that fails to zero is told as one that fails to write, once, and life goes on."""
    for mode in (KEEP, UNMAP):
        with Server(*mode, size=8 * MIB, fault=True, defaults=DEFAULTS) as server:
            server.faults.set("allocate 5 2097152 4194304")
            for client in server.each():
                for _ in range(3):
                    request = client.write(MIB, content_of(MIB) + bytes(3 * MIB))
                    check(request.error == EIO, f"{request}")
                check(not client.write(5 * MIB, bytes(3 * MIB)).error, "elsewhere")
                check(client.data(MIB, MIB) == content_of(MIB), "what was no zeroes")
                client.in_sync()


def test_no_help():
    """S84: where the file system can neither zero nor punch, zeroes are written."""
    for mode in (KEEP, UNMAP):
        with Server(*mode, size=8 * MIB, fault=True, defaults=DEFAULTS) as server:
            server.faults.set("allocate 95")
            for client in server.each():
                check(not client.write(0, content_of(8 * MIB)).error, "data")
                check(not client.write(MIB, bytes(3 * MIB)).error, "zeroes")
                check(server.bytes(0, 8 * MIB) == content_of(MIB) + bytes(3 * MIB)
                      + content_of(8 * MIB)[4 * MIB:], "content")


def test_client_leaves():
    """S71: a client that vanishes in the middle of zeroes leaves no harm."""
    with Server(*UNMAP, size=8 * MIB, fault=True, defaults=DEFAULTS) as server:
        server.faults.set("allocate delay:20")
        for n in range(10):
            client = server.client()
            client.request(WRITE, 0, 4 * MIB, payload=bytes((n + 1) * 300 * KIB))
            client.close()
        client = server.client()
        check(not client.write(4 * MIB, bytes(MIB)).error, "the next one")
        client.in_sync()


main(globals())
