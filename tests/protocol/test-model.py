#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Random operations, pipelined on several connections, against a model in memory. The storage is
quick, cold, slow or stingy in turn. The seed is printed with a failure; SEED=N repeats it.
"""

import os
import random

from harness import ALLOCATION, MIB, Server, check, main
from nbdraw import (BLOCK_STATUS, CACHE, FAST_ZERO, FLUSH, FUA, NO_HOLE, READ, TRIM, WRITE,
                    WRITE_ZEROES)

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
SPAN = 512 * 1024  # of each connection's own part of the image
SLOT = 16384  # operations of one batch each have a slot, so that their order does not matter


class Player:
    """One connection, its part of the image, and what must be there."""

    def __init__(self, client, start, content, seed):
        self.client = client
        self.start = start
        self.model = bytearray(content)
        self.rng = random.Random(seed)
        self.trimmed = set()  # slots of which each byte may be old or zero

    def prepare(self, slot):
        """One operation inside a slot: (request, bytes, what to do when it is answered)."""
        rng = self.rng
        low = rng.randrange(SLOT)
        length = rng.randrange(1, SLOT - low + 1)
        if rng.random() < 0.5:
            low, length = 0, rng.choice((512, 4096, SLOT))
        at = slot * SLOT + low
        choices = [READ, READ, WRITE, WRITE, WRITE_ZEROES, TRIM, CACHE, FLUSH]
        choices += [BLOCK_STATUS] * bool(self.client.contexts)
        command = rng.choice(choices)
        flags = FUA if rng.random() < 0.1 else 0
        payload = b""
        if command == WRITE:
            payload = rng.randbytes(length)
        if command == WRITE_ZEROES:
            flags |= rng.choice((0, NO_HOLE, FAST_ZERO))
        offset = self.start + at
        if command == FLUSH:
            offset = length = 0
        request, blob = self.client.prepare(command, offset, length, flags, payload)
        return request, blob, (slot, at, length, payload)

    def batch(self):
        """Prepares operations for half of the slots; returns the bytes to send."""
        slots = self.rng.sample(range(SPAN // SLOT), SPAN // SLOT // 2)
        self.sent = [self.prepare(slot) for slot in slots]
        return [blob for _, blob, _ in self.sent]

    def judge(self):
        for request, _, (slot, at, length, payload) in self.sent:
            what = f"seed {SEED}: {request}"
            check(not request.error or request.flags & FAST_ZERO, f"{what} fails")
            if request.error:
                continue
            if request.command == READ:
                expected = self.model[at:at + length]
                if slot in self.trimmed:
                    check(all(got in (0, old) for got, old in zip(request.data, expected)), what)
                else:
                    check(request.data == expected, f"{what}: wrong data")
            elif request.command == WRITE:
                self.model[at:at + length] = payload
            elif request.command == WRITE_ZEROES:
                self.model[at:at + length] = bytes(length)
            elif request.command == TRIM:
                self.trimmed.add(slot)
            elif request.command == BLOCK_STATUS:
                self.judge_status(request, at, slot)

    def judge_status(self, request, at, slot):
        for size, status in request.extents[ALLOCATION]:
            size = min(size, SPAN - at)
            if status & 2 and slot not in self.trimmed:
                end = min(at + size, (slot + 1) * SLOT)
                check(not any(self.model[at:end]), f"seed {SEED}: {request}: data told as zeroes")
            at += size

    def verify(self):
        """Reads all of it; trimmed slots take over what they hold."""
        data = self.client.data(self.start, SPAN)
        for slot in range(SPAN // SLOT):
            low, high = slot * SLOT, (slot + 1) * SLOT
            if slot in self.trimmed:
                check(all(got in (0, old) for got, old in zip(data[low:high],
                                                              self.model[low:high])),
                      f"seed {SEED}: slot {slot} holds neither old data nor zeroes")
                self.model[low:high] = data[low:high]
            else:
                check(data[low:high] == self.model[low:high], f"seed {SEED}: slot {slot}")
        self.trimmed.clear()


def play(server, rounds):
    modes = server.modes()
    players = []
    for n in range(4):
        mode = modes[n % len(modes)]
        client = server.client(mode, [ALLOCATION] if mode != "simple" else ())
        start = n * SPAN
        players.append(Player(client, start, server.bytes(start, SPAN), SEED + n))
    for _ in range(rounds):
        blobs = [player.batch() for player in players]
        for player, blob in zip(players, blobs):
            player.client.send(b"".join(blob))
        for player in players:
            player.client.wait_all()
            player.judge()
            player.verify()
    for player in players:
        check(not player.client.flush().error, "flush")
        check(server.bytes(player.start, SPAN) == player.model, f"seed {SEED}: the file")
        player.client.disc()


def test_quick_storage():
    """S64 S77 S84 S91: everything in the page cache."""
    with Server(size=2 * MIB) as server:
        play(server, 30)


def test_sparse_image():
    """S64 S77 S84 S99: on a sparse image."""
    with Server(size=2 * MIB, content="") as server:
        play(server, 20)


def test_unaligned_window():
    """S64 S77 S84: behind an offset that is aligned to nothing."""
    with Server("-o", "12289", size=2 * MIB + 12289) as server:
        inner = server.bytes
        server.bytes = lambda offset=0, length=None: inner(offset + 12289, length)
        play(server, 20)


def test_cold_storage():
    """S64 S77 S84: nothing is in memory, all goes to workers."""
    with Server(size=2 * MIB, fault=True) as server:
        server.faults.set("nowait 11")
        play(server, 15)


def test_slow_storage():
    """S64 S77 S84: some operations take their time, so that others overtake."""
    with Server(size=2 * MIB, fault=True) as server:
        server.faults.set("nowait 11", "read delay:3 0 200000", "write delay:2 700000 900000",
                          "allocate delay:2", "sync delay:5")
        play(server, 8)


def test_stingy_storage():
    """S64 S77 S84: every transfer is cut in half, and nothing can be allocated or punched."""
    with Server(size=2 * MIB, fault=True) as server:
        server.faults.set("read short", "nowait short", "write short", "allocate 95")
        play(server, 8)


main(globals())
