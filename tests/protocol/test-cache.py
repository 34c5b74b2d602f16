#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
--cache: none and directsync go around the page cache with any offset and length, writethrough and
directsync answer a write when it is stable, unsafe does not flush at all.
"""

import random
import time

from harness import MIB, Server, check, main
from nbdraw import FUA, NO_HOLE, WRITE

ODD = 2 * MIB + 777  # the last block is not whole


def scribble(server, seed, count=200, largest=9000):
    """Random writes, zeroes and reads of any alignment by one client, against a model."""
    rng = random.Random(seed)
    model = bytearray(server.bytes())
    client = server.client()
    for _ in range(count):
        # The end is of interest: its last block is not whole.
        offset = rng.randrange(rng.choice((0, 0, 0, len(model) - 600)), len(model))
        length = rng.randrange(1, min(largest, len(model) - offset) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data = rng.randbytes(length)
            check(not client.write(offset, data).error, f"seed {seed}: write")
            model[offset:offset + length] = data
        elif kind == 1:
            check(not client.zero(offset, length).error, f"seed {seed}: zero")
            model[offset:offset + length] = bytes(length)
        else:
            check(client.data(offset, length) == model[offset:offset + length],
                  f"seed {seed}: read {length}@{offset}")
    check(not client.flush().error, "flush")
    check(server.bytes() == model, f"seed {seed}: the file")
    check(len(server.bytes()) == len(model), "the file grew")
    client.disc()


def each_mode(*modes):
    for mode in modes:
        with Server(f"--cache={mode}", size=ODD) as server:
            yield server


def test_any_alignment():
    """S84 S91: every mode reads and writes what was meant, up to the last odd byte."""
    seed = random.SystemRandom().randrange(1 << 30)
    for server in each_mode("none", "directsync", "writeback", "writethrough", "unsafe"):
        scribble(server, seed, 120)


def test_large_unaligned():
    """S84: requests of many pieces that begin and end inside blocks."""
    with Server("-n", size=40 * MIB + 5) as server:
        scribble(server, 7, 30, 9 * MIB)


def test_neighbours_in_a_block():
    """S84: writes to parts of one block, from several connections at once, keep each other."""
    parts, length = 32, 128
    with Server("--cache=none", size=MIB) as server:
        clients = [server.client() for _ in range(4)]
        for round_number in range(20):
            expected = b""
            for part in range(parts):
                data = bytes([round_number * 7 + part & 255]) * length
                clients[part % 4].request(1, 4096 + part * length, length, 0, data)
                expected += data
            # A write of whole blocks right beside them.
            clients[0].request(1, 0, 4096, 0, bytes([round_number]) * 4096)
            for client in clients:
                client.wait_all()
            check(clients[0].data(4096, parts * length) == expected, "a part was lost")
            check(clients[1].data(0, 4096) == bytes([round_number]) * 4096, "the block before")


def test_zeroes_beside_a_slow_write():
    """S91: what became zero while a write changed another part of the block stays zero: the write
    had read the block before."""
    for flags in (0, NO_HOLE):
        for offset, length in ((300, 100), (0, 8192), (100, 6000)):
            with Server("--cache=none", size=MIB, fault=True) as server:
                model = bytearray(server.bytes(0, 16384))
                writer, other = server.client(), server.client()
                server.faults.set("write delay:400 0 4096")
                write = writer.request(WRITE, 10, 50, 0, b"w" * 50)
                time.sleep(0.15)
                server.faults.clear()
                check(not other.zero(offset, length, flags).error, "zero")
                check(not writer.wait(write).error, "write")
                data = other.data(0, 16384)
                model[offset:offset + length] = bytes(length)
                model[10:60] = data[10:60] if offset < 60 else b"w" * 50
                check(data == model, f"zeroes at {length}@{offset}, flags {flags}")


def synced(*options, flags=0, flush=False):
    """How many syncs the host saw for three writes."""
    with Server(*options, size=MIB, fault=True) as server:
        client = server.client()
        server.faults.forget()
        for n in range(3):
            client.write(n * 4096, b"x" * 4096, flags)
        client.write(50001, b"y" * 100, flags)
        if flush:
            client.flush()
        count = sum("sync" in name for name, *_ in server.faults.operations())
        client.disc()
        return count


def test_write_through():
    """S86: writethrough and directsync treat each write as FUA; writeback does not."""
    check(synced("--cache=writethrough") >= 4, "writethrough does not sync each write")
    check(synced("--cache=directsync") >= 4, "directsync does not sync each write")
    check(synced("--cache=writeback") == 0, "writeback syncs without need")
    check(synced("--cache=writeback", flags=FUA) >= 4, "FUA does not sync")


def test_unsafe():
    """--cache=unsafe promises nothing: neither FLUSH nor FUA reaches the disk."""
    check(synced("--cache=unsafe", flags=FUA, flush=True) == 0, "unsafe syncs")


main(globals())
