#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Random operations, pipelined on several connections, against a model in memory, on each kind of
storage: quick, cold, slow, stingy, full. The seed is printed with a failure; SEED=N repeats it.
"""

import contextlib
import dataclasses
import os
import random

from harness import ALLOCATION, MIB, Server, check, content_of, main
from nbdraw import ENOSPC
from places import (KEY, file_in_memory, file_on_disk, full_ext4, full_tmpfs, loop_device,
                    luks_content, luks_image, luks_in_qcow2, luks_in_qcow2_content)
from player import SPAN, Crowd, Player

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
PLAYERS = 4
SIZE = PLAYERS * SPAN
AREA = 12 * 1024
SLOW = ("nowait 11", "read delay:3 0 200000", "write delay:2 700000 900000", "allocate delay:2",
        "sync delay:5")
STINGY = ("read short", "nowait short", "write short", "allocate 95")


@dataclasses.dataclass
class Variant:
    """A kind of storage, and how long to play on it."""
    rounds: int = 15
    options: tuple = ()
    content: object = None  # "" for a sparse image
    offset: int = 0  # of the window in the image
    place: object = file_on_disk
    rules: tuple = ()  # for the shim
    errors: tuple = ()  # that the storage makes
    defaults: tuple = ("-t", "-e", "0", "-f", "raw", "--discard=unmap")
    read: object = Server.bytes  # what the disk holds: (server, offset, length)


# What is discarded on a LUKS disk reads as noise: no model can tell.
LUKS = {"options": (*KEY, "--key-secret=k"), "place": luks_image, "read": luks_content,
        "defaults": ("-t", "-e", "0", "-f", "luks")}
QCOW2 = {"options": (*KEY, "--key-secret=k"), "place": luks_in_qcow2,
         "read": luks_in_qcow2_content,
         "defaults": ("-t", "-e", "0", "-f", "qcow2", "--discard=unmap")}
VARIANTS = {
    "quick": Variant(30),
    "sparse": Variant(20, content=""),
    "window": Variant(20, options=("-o", "12289"), offset=12289),
    "cold": Variant(15, rules=("nowait 11",)),
    "slow": Variant(8, rules=SLOW),
    "stingy": Variant(8, rules=STINGY),
    "memory": Variant(15, place=file_in_memory, content=""),
    "device": Variant(15, place=loop_device),
    "through": Variant(6, options=("--cache=writethrough",)),
    "direct": Variant(10, options=("--cache=none",)),
    "direct_window": Variant(8, options=("--cache=none", "-o", "777"), offset=777),
    "direct_device": Variant(8, options=("--cache=none",), place=loop_device),
    "direct_slow": Variant(4, options=("--cache=none",), content="", rules=SLOW),
    "direct_late": Variant(4, options=("--cache=none",), rules=("write delay:4",)),
    "luks": Variant(10, **LUKS),
    "luks_slow": Variant(4, rules=SLOW, **LUKS),
    "luks_stingy": Variant(4, rules=STINGY, **LUKS),
    "luks_qcow2": Variant(10, **QCOW2),
    "luks_qcow2_slow": Variant(4, rules=SLOW, **QCOW2),
    "full_ext4": Variant(20, place=full_ext4, content="", errors=(ENOSPC,)),
    "full_tmpfs": Variant(20, place=full_tmpfs, content="", errors=(ENOSPC,)),
}


@contextlib.contextmanager
def serve(variant):
    size = SIZE + variant.offset
    with variant.place(size, variant.content) as image:
        with Server(*variant.options, image=image, fault=bool(variant.rules),
                    defaults=variant.defaults) as server:
            if variant.rules:
                server.faults.set(*variant.rules)
            yield server


def clients_of(server):
    modes = server.modes()
    for n in range(PLAYERS):
        mode = modes[n % len(modes)]
        yield server.client(mode, [ALLOCATION] if mode != "simple" else ())


def play(name):
    """Each client in its own part."""
    variant = VARIANTS[name]
    whole = bytes(SIZE) if variant.content == "" else content_of(SIZE + variant.offset)
    with serve(variant) as server:
        players = []
        for n, client in enumerate(clients_of(server)):
            start = n * SPAN
            at = start + (variant.offset if variant.content is None else 0)
            players.append(Player(client, start, whole[at:at + SPAN], SEED + n, variant.errors))
        for _ in range(variant.rounds):
            blobs = [player.batch() for player in players]
            for player, blob in zip(players, blobs):
                player.client.send(blob)
            for player in players:
                player.client.wait_all()
                player.judge()
                player.verify()
        for player in players:
            check(not player.client.flush().error, "flush")
            player.compare(variant.read(server, variant.offset + player.start, SPAN))
            player.client.disc()
        if variant.errors:
            check(any(player.failed for player in players), "the disk was never full")


def crowd(name, rounds=8):
    """All clients in one small area, over each other."""
    variant = VARIANTS[name]
    with serve(variant) as server:
        clients = list(clients_of(server))
        for aligned in (False,) if variant.offset % 512 else (True, False):
            players = Crowd(clients, MIB, clients[0].data(MIB, AREA), SEED, aligned)
            for _ in range(rounds):
                players.round(5)
            check(variant.read(server, variant.offset + MIB, AREA) == players.known, "the file")
        for client in clients:
            client.disc()


def test_quick_storage():
    """S64 S77 S84 S91: everything in the page cache."""
    play("quick")


def test_sparse_image():
    """S64 S77 S84 S99: on a sparse image."""
    play("sparse")


def test_unaligned_window():
    """S64 S77 S84: behind an offset that is aligned to nothing."""
    play("window")


def test_cold_storage():
    """S64 S77 S84: nothing is in memory, all goes to workers."""
    play("cold")


def test_slow_storage():
    """S64 S77 S84: some operations take their time, so that others overtake."""
    play("slow")


def test_stingy_storage():
    """S64 S77 S84: every transfer is cut in half, and nothing can be allocated or punched."""
    play("stingy")


def test_memory_file_system():
    """S64 S77 S84 S91 S99: on tmpfs, which knows other tricks than a disk's file system."""
    play("memory")


def test_block_device():
    """S64 S77 S84 S91: on a loop device."""
    play("device")


def test_write_through():
    """S64 S77 S84 S86: every write is synced."""
    play("through")


def test_direct():
    """S64 S77 S84 S91: around the page cache, at any alignment."""
    play("direct")


def test_direct_window():
    """S64 S77 S84 S91: the same behind an offset that is aligned to nothing."""
    play("direct_window")


def test_direct_device():
    """S64 S77 S84 S91: the same on a loop device."""
    play("direct_device")


def test_direct_slow():
    """S64 S77 S84 S91: the same on a sparse image, slow in places."""
    play("direct_slow")


def test_luks():
    """S64 S77 S84 S91: encrypted, from memory, slow, in pieces."""
    for name in ("luks", "luks_slow", "luks_stingy"):
        play(name)


def test_luks_in_qcow2():
    """S64 S77 S84 S91: the same inside qcow2."""
    for name in ("luks_qcow2", "luks_qcow2_slow"):
        play(name)


def test_crowd_luks():
    """S61 S64 S84: clients over each other on encrypted disks: sectors change as a whole."""
    for name in ("luks", "luks_slow", "luks_qcow2"):
        crowd(name)


def test_full_ext4():
    """S69 S84 S91: a disk that is full: ENOSPC to whom it concerns, all else goes on."""
    play("full_ext4")


def test_full_tmpfs():
    """S69 S84 S91: the same on tmpfs."""
    play("full_tmpfs")


def test_crowd():
    """S61 S64 S84: clients over each other: what is there is explained by some order of writes."""
    for name in ("quick", "sparse", "window"):
        crowd(name)


def test_crowd_slow():
    """S61 S64 S84: the same with a disk that lets some overtake others."""
    crowd("slow", 6)


def test_crowd_elsewhere():
    """S61 S64 S84: the same on tmpfs and on a loop device."""
    for name in ("memory", "device"):
        crowd(name)


def test_crowd_direct():
    """S61 S64 S84: the same around the page cache, on a file, behind an offset, on a device."""
    for name in ("direct", "direct_window", "direct_device", "direct_late"):
        crowd(name)


main(globals())
