# SPDX-License-Identifier: MIT
"""
Clients that play random operations and know what every byte may be afterwards.

A Player has a part of the image for itself, in slots; operations on their way at the same time
are in slots of their own, so their order does not matter. A Crowd is several clients on one small
area, all over each other: any order of the operations is allowed, and nothing else.
"""

import random

from harness import ALLOCATION, check
from nbdraw import (BLOCK_STATUS, CACHE, FAST_ZERO, FLUSH, FUA, NO_HOLE, READ, TRIM, WRITE,
                    WRITE_ZEROES)

SPAN = 512 * 1024  # of each player's own part of the image
SLOT = 16384
CHANGING = (WRITE, WRITE_ZEROES, TRIM)
SECTOR = 512


class Operation:
    """One request on its way, and what it may do: bytes at low of its slot."""

    def __init__(self, request, slot, low, payload):
        self.request = request
        self.slot = slot
        self.low = low
        self.payload = payload

    def effect(self, version):
        """The slot's content after it, if it was version before."""
        new = self.payload if self.request.command == WRITE else bytes(self.request.length)
        return version[:self.low] + new + version[self.low + len(new):]


def fits(data, versions):
    """Is each byte that of one of the versions?"""
    return data in versions or all(byte in choice for byte, *choice in zip(data, *versions))


class Player:
    """
    One connection, its part of the image, and what must be there: versions[slot] lists contents
    of which each byte has one. errors: those that the storage is expected to make; then the
    operation may have been done in part.
    """

    def __init__(self, client, start, content, seed, errors=()):
        self.client = client
        self.start = start
        self.versions = [[bytes(content[at:at + SLOT])] for at in range(0, SPAN, SLOT)]
        self.seed = seed
        self.rng = random.Random(seed)
        self.errors = errors
        self.sent = []
        self.failed = 0

    def prepare(self, slot):
        """One operation inside a slot: (operation, bytes to send)."""
        rng = self.rng
        low = rng.randrange(SLOT)
        length = rng.randrange(1, SLOT - low + 1)
        if rng.random() < 0.5:
            low, length = 0, rng.choice((512, 4096, SLOT))
        choices = [READ, READ, WRITE, WRITE, WRITE_ZEROES, TRIM, CACHE, FLUSH]
        choices += [BLOCK_STATUS] * bool(self.client.contexts)
        command = rng.choice(choices)
        flags = FUA if rng.random() < 0.1 else 0
        payload = b""
        if command == WRITE:
            payload = rng.randbytes(length)
        if command == WRITE_ZEROES:
            flags |= rng.choice((0, NO_HOLE, FAST_ZERO))
        offset = self.start + slot * SLOT + low
        if command == FLUSH:
            offset = length = 0
        request, blob = self.client.prepare(command, offset, length, flags, payload)
        return Operation(request, slot, low, payload), blob

    def batch(self):
        """Prepares operations for half of the slots; returns the bytes to send."""
        slots = self.rng.sample(range(SPAN // SLOT), SPAN // SLOT // 2)
        pairs = [self.prepare(slot) for slot in slots]
        self.sent = [operation for operation, _ in pairs]
        return b"".join(blob for _, blob in pairs)

    def judge(self):
        """Looks at the answers to the batch. One without an answer may have been done or not."""
        for operation in self.sent:
            request = operation.request
            versions = self.versions[operation.slot]
            what = f"seed {self.seed}: {request}"
            if request.error or not request.done:
                allowed = (0,) + tuple(self.errors)
                check(request.error in allowed or request.flags & FAST_ZERO, f"{what} fails")
                self.failed += 1
                refused = request.done and request.flags & FAST_ZERO
                if request.command in CHANGING and not refused:
                    self.versions[operation.slot] = versions + list(map(operation.effect, versions))
                continue
            if request.command == READ:
                end = operation.low + request.length
                check(fits(bytes(request.data), [v[operation.low:end] for v in versions]),
                      f"{what}: wrong data")
            elif request.command == TRIM:
                self.versions[operation.slot] = versions + list(map(operation.effect, versions))
            elif request.command in CHANGING:
                self.versions[operation.slot] = list(map(operation.effect, versions))
            elif request.command == BLOCK_STATUS:
                self.judge_status(operation, versions)
        self.sent = []

    def judge_status(self, operation, versions):
        at = operation.low
        for size, status in operation.request.extents[ALLOCATION]:
            end = min(at + size, SLOT)
            if status & 2:
                check(fits(bytes(end - at), [v[at:end] for v in versions]),
                      f"seed {self.seed}: {operation.request}: data told as zeroes")
            at = end

    def compare(self, data):
        """The data of the whole part is one that may be; from now on it is what must be."""
        for slot, versions in enumerate(self.versions):
            have = bytes(data[slot * SLOT:(slot + 1) * SLOT])
            check(fits(have, versions), f"seed {self.seed}: slot {slot} at "
                                        f"{self.start + slot * SLOT} holds what nobody wrote")
            self.versions[slot] = [have]

    def verify(self):
        self.compare(self.client.data(self.start, SPAN))


class Crowd:
    """
    Clients over each other in [start, start + area). aligned: whole sectors, none of which may
    ever be a mix of two writes.
    """

    def __init__(self, clients, start, content, seed, aligned):
        self.clients = clients
        self.start = start
        self.known = bytes(content)
        self.seed = seed
        self.rng = random.Random(seed)
        self.unit = SECTOR if aligned else 1
        self.stamp = 0

    def prepare(self, client):
        """(request, start and payload of its change or None, bytes to send)."""
        rng = self.rng
        units = len(self.known) // self.unit
        low = rng.randrange(units)
        length = rng.randrange(1, min(units - low, 4096 // self.unit) + 1) * self.unit
        low *= self.unit
        command = rng.choice((READ, READ, WRITE, WRITE, WRITE, WRITE_ZEROES, TRIM, FLUSH))
        payload = b""
        if command == WRITE:
            self.stamp = self.stamp % 250 + 1
            payload = bytes([self.stamp]) * length
        flags = rng.choice((0, 0, 0, FUA))
        offset = self.start + low
        if command == FLUSH:
            offset = length = 0
        request, blob = client.prepare(command, offset, length, flags, payload)
        return request, low, payload or bytes(length), blob

    def choices(self, operations):
        """For each byte the set of what it may be while the operations are on their way, and
        after them: what was there before only where nothing surely overwrites it."""
        written = [set() for _ in self.known]
        kept = [True] * len(self.known)
        for request, low, new, _ in operations:
            if request.command not in CHANGING:
                continue
            for at, byte in enumerate(new, low):
                written[at].add(byte)
            if request.command != TRIM:
                kept[low:low + len(new)] = [False] * len(new)
        during = [choice | {old} for choice, old in zip(written, self.known)]
        after = [more if keep else less for more, less, keep in zip(during, written, kept)]
        return during, after

    def judge(self, after, data):
        check(all(byte in choice for byte, choice in zip(data, after)),
              f"seed {self.seed}: a byte that no order of the writes explains")
        if self.unit != SECTOR:
            return
        for low in range(0, len(data), SECTOR):
            sector = data[low:low + SECTOR]
            check(len(set(sector)) == 1 or sector == self.known[low:low + SECTOR],
                  f"seed {self.seed}: the sector at {self.start + low} is a mix of two writes")

    def round(self, depth):
        operations, blobs = [], []
        for client in self.clients:
            prepared = [self.prepare(client) for _ in range(depth)]
            operations += prepared
            blobs.append(b"".join(blob for *_, blob in prepared))
        for client, blob in zip(self.clients, blobs):
            client.send(blob)
        for client in self.clients:
            client.wait_all()
        during, after = self.choices(operations)
        for request, low, _, _ in operations:
            check(not request.error, f"seed {self.seed}: {request} fails")
            if request.command == READ:
                check(all(byte in choice for byte, choice in zip(request.data, during[low:])),
                      f"seed {self.seed}: {request} shows what nobody wrote")
        data = self.rng.choice(self.clients).data(self.start, len(self.known))
        self.judge(after, data)
        self.known = data
