#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
qcow2 images written through the server and by QEMU in turns: after each turn both read the same
bytes as a model, and qemu-img check finds neither corruption nor a leak.
"""

import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import ALLOCATION, MIB, Server, check, main, program  # noqa: E402
from nbdraw import ENOTSUP, FAST_ZERO, FUA, NO_HOLE, REQ_ONE  # noqa: E402
from qcow2disk import SCRATCH, Disk, check_same, parts_of, plain_row, title, tool  # noqa: E402

KEEPING = ("-t", "-e", "0", "-f", "qcow2")
WRITABLE = KEEPING + ("--discard=unmap",)
DETECTING = (WRITABLE + ("--detect-zeroes=unmap",), KEEPING + ("--detect-zeroes=on",), KEEPING)


class Model:
    """What the disk must read as."""

    def __init__(self, disk):
        self.disk = disk
        self.bytes = bytearray(disk.content())
        self.chance = random.Random(disk.row["cluster_size"] + title(disk.row))

    def range(self):
        cluster, size = self.disk.cluster, self.disk.size
        length = self.chance.choice((1, 512, 4096, 65536, cluster // 2, cluster, 3 * cluster,
                                     self.chance.randrange(1, 600000)))
        length = max(1, min(length, size // 3))
        offset = self.chance.randrange(0, size - length + 1)
        if self.chance.random() < 0.6:
            offset = offset // cluster * cluster
        if self.chance.random() < 0.1:
            offset = size - length
        return offset, length

    def step(self, client):
        """One request, performed on both."""
        offset, length = self.range()
        kind = self.chance.choice(("write", "write", "write", "zero", "no hole", "fast", "trim",
                                   "flush"))
        flags = FUA if self.chance.random() < 0.1 else 0
        if kind == "write":
            data = self.chance.randbytes(min(length, 4096)) * (length // 4096 + 1)
            if self.chance.random() < 0.4:
                data = bytes(length)
            elif self.chance.random() < 0.3:
                data = data[:length // 4] + bytes(length // 2) + data
            request = client.write(offset, data[:length], flags)
            self.bytes[offset:offset + length] = data[:length]
        elif kind == "trim":
            request = client.trim(offset, length, flags)
            self.learn(client, offset, length)
        elif kind == "flush":
            request = client.flush()
        else:
            flags |= {"zero": 0, "no hole": NO_HOLE, "fast": FAST_ZERO}[kind]
            request = client.zero(offset, length, flags)
            if request.error == ENOTSUP and kind == "fast":
                return
            self.bytes[offset:offset + length] = bytes(length)
        check(not request.error, f"{title(self.disk.row)}: {kind} {length}@{offset}: {request}")

    def learn(self, client, offset, length):
        """After a discard each byte is what it was, or zero."""
        for start in range(offset, offset + length, MIB):
            end = min(start + MIB, offset + length)
            got = client.data(start, end - start)
            old = self.bytes[start:end]
            if got != old:
                bad = next((i for i, (a, b) in enumerate(zip(got, old)) if a not in (0, b)), None)
                check(bad is None, f"{title(self.disk.row)}: old data at {start + (bad or 0)}")
                self.bytes[start:end] = got

    def check_status(self, client):
        """The map of the disk covers all of it, and zeroes are where it says so."""
        at = 0
        while at < self.disk.size:
            length = min(self.disk.size - at, self.chance.choice((MIB, 8 * MIB, 100 * MIB)))
            request = client.status(at, length, self.chance.choice((0, 0, 0, REQ_ONE)))
            check(not request.error and request.extents[ALLOCATION], f"status: {request}")
            for size, status in request.extents[ALLOCATION]:
                if status & 2:
                    check(not any(self.bytes[at:at + size]),
                          f"{title(self.disk.row)}: {size} bytes at {at} are told as zeroes")
                at += size
        check(at == self.disk.size, f"the map ends at {at}")

    def check_by_qemu_io(self):
        """qemu-io reads runs of one byte where the model has them."""
        commands = []
        while len(commands) < 50:
            at = self.chance.randrange(0, self.disk.size // 512) * 512
            byte, end = self.bytes[at], at + 512
            while end < self.disk.size and end - at < 65536 and self.bytes[end] == byte:
                end += 1
            run = self.bytes[at:end]
            run = run[:len(run) - len(run.lstrip(bytes((byte,))))]
            commands += ["-c", f"read -P {byte} {at} {len(run)}"]
        out = tool("qemu-io", "-r", "-f", "qcow2", *commands, self.disk.path)
        check("failed" not in out, f"{title(self.disk.row)}: {out}")

    def compare(self, got, who):
        check_same(got, self.bytes, f"{title(self.disk.row)}: {who}")


def turn(disk, model, steps, options=WRITABLE):
    """Ours: requests, then what QEMU finds in the file."""
    with Server(image=disk.path, defaults=options) as server:
        clients = [server.client(mode, [ALLOCATION] if mode != "simple" else ())
                   for mode in server.modes()]
        for _ in range(steps):
            model.step(model.chance.choice(clients))
        model.compare(b"".join(clients[0].data(at, min(MIB, disk.size - at))
                               for at in range(0, disk.size, MIB)), "the server")
        for client in clients[1:]:
            model.check_status(client)
        for client in clients:
            client.disc()
    disk.check()
    model.compare(disk.content(), "QEMU")
    model.check_by_qemu_io()


def qemu_turn(disk, model):
    disk.perform(disk.path, disk.random_writes(6, disk.size, disk.cluster,
                                               disk.row["base"] == "compressed"))
    model.bytes = bytearray(disk.content())


def in_turns(disk):
    """One row of the matrix."""
    row = disk.row
    before = disk.content("before") if row["snapshot"] else None
    model = Model(disk)
    turn(disk, model, 60)
    qemu_turn(disk, model)
    turn(disk, model, 40, model.chance.choice(DETECTING))
    if before is not None:
        check(disk.content("before") == before, f"{title(row)}: the snapshot changed")
    if row["data_file"] == "raw":
        with open(disk.path + ".data", "rb") as data:
            model.compare(data.read(disk.size), "the raw data file")


globals().update(parts_of(in_turns))


def test_every_cluster_size():
    """Sizes between those of the matrix, with all widths of refcounts."""
    widths = itertools.cycle(("2", "4", "8", "16", "32", "64"))
    for bits in (10, 11, 13, 14, 15, 17, 18, 19, 20):
        with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
            in_turns(Disk(directory, plain_row(cluster_size=str(1 << bits), snapshot="yes",
                                               refcount_bits=next(widths), backing="short",
                                               extended_l2="on" if bits > 13 else "off"),
                          seed=bits))


def test_raw_data_file():
    """A data file that is called raw holds the disk by itself, with subclusters and without: after
    each turn, and after zeroes and discards alone."""
    for changes in ({}, {"cluster_size": "4096"}, {"extended_l2": "on"}):
        with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
            disk = Disk(directory, plain_row(data_file="raw", **changes))
            in_turns(disk)
            with Server(image=disk.path, defaults=WRITABLE) as server:
                client = server.client()
                check(not client.write(0, b"d" * 2 * MIB).error, "write")
                check(not client.zero(0, MIB // 2).error, "zero")
                check(not client.zero(MIB // 2, MIB // 2, NO_HOLE).error, "zero")
                check(not client.trim(MIB, MIB).error and not client.flush().error, "trim")
                with open(disk.path + ".data", "rb") as data:
                    check(not any(data.read(MIB)), "zeroes are not in the raw data file")
                    check_same(data.read(MIB), client.data(MIB, MIB), "the raw data file")


def worker(server, number, turns, contents, failed):
    """Writes its own quarter of each cluster; all of them write the same clusters."""
    chance = random.Random(number)
    client = server.client()
    piece = 16384
    for _ in range(turns):
        cluster = chance.randrange(0, 64)
        offset = cluster * 65536 + number * piece
        kind = chance.choice(("write", "write", "write", "zero", "flush", "read"))
        if kind == "write":
            contents[offset] = chance.randbytes(piece)
            request = client.write(offset, contents[offset])
        elif kind == "zero":
            contents[offset] = bytes(piece)
            request = client.zero(offset, piece)
        elif kind == "flush":
            request = client.flush()
        else:
            request = client.read(offset, piece)
            if request.data != contents.get(offset, request.data):
                failed.append(f"client {number} reads others' bytes at {offset}")
        if request.error:
            failed.append(f"{kind} at {offset}: {request}")
    client.disc()
    contents["done"] = True


def test_many_clients_in_one_cluster():
    """Four clients allocate the same clusters at once; nobody loses a byte."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(backing="qcow2", snapshot="yes"))
        base = disk.content()
        contents = [{} for _ in range(4)]
        failed = []
        with Server(image=disk.path, defaults=WRITABLE) as server:
            threads = [threading.Thread(target=worker,
                                        args=(server, n, 250, contents[n], failed))
                       for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            check(not failed, f"{failed[:3]}")
            check(all(own.pop("done", False) for own in contents), "a client has failed")
        disk.check()
        expected = bytearray(base)
        for own in contents:
            for offset, data in own.items():
                expected[offset:offset + len(data)] = data
        got = disk.content()
        check_same(got, expected, "QEMU")


def test_killed_while_writing():
    """SIGKILL in the middle: what was flushed is there, at worst clusters leak."""
    for round_ in range(6):
        with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
            disk = Disk(directory, plain_row(cluster_size="4096", backing="long"), seed=round_)
            expected = bytearray(disk.content())
            with Server(image=disk.path, defaults=WRITABLE, ends=True) as server:
                client = server.client()
                for i in range(40):
                    client.write(i * 65536 % disk.size // 4096 * 4096, bytes((i + 1,)) * 4096)
                    at = i * 65536 % disk.size // 4096 * 4096
                    expected[at:at + 4096] = bytes((i + 1,)) * 4096
                check(not client.flush().error, "flush")
                for i in range(20 * round_):
                    client.write(disk.size - 4096 * (i + 2), b"x" * 4096)
                server.kill()
            done = subprocess.run(("qemu-img", "check", "-q", "-f", "qcow2", disk.path),
                                  capture_output=True, text=True, check=False)
            check(done.returncode in (0, 3), f"qemu-img check: {done.returncode} {done.stderr}")
            got = disk.content()
            end = disk.size - 4096 * 102
            check_same(got[:end], expected[:end], "what was flushed")


def test_dirty_image_is_repaired():
    """Lazy refcounts and a writer that was killed: refcounts are made anew before the first write,
    and nothing is written before it."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = os.path.join(directory, "disk.qcow2")
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-o",
             "lazy_refcounts=on,cluster_size=4096", path, "64M")
        tool("qemu-io", "-f", "qcow2", "-t", "writeback", "-c", "write -P 7 1M 20M", "-c", "flush",
             "-c", "abort", path, status=None)
        with open(path, "rb") as file:
            before = file.read()
        check(before[79] & 1, "QEMU did not leave a dirty image")
        with Server(image=path, defaults=WRITABLE) as server:
            client = server.client()
            check(client.data(MIB, 4096) == b"\7" * 4096, "content")
            client.flush()
            with open(path, "rb") as file:
                check(file.read() == before, "a dirty image was written before the first write")
            check(not client.write(40 * MIB, b"z" * 65536).error, "write")
        tool("qemu-img", "check", "-q", "-f", "qcow2", path)
        out = tool("qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 20M", "-c",
                   "read -P 122 40M 64k", path)
        check("failed" not in out, out)


def test_discard_ignored():
    """Without --discard=unmap clusters are kept; zeroes take none where there are none, and leave
    what a backing file has unseen."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(backing="raw"))
        with Server(image=disk.path, defaults=KEEPING) as server:
            client = server.client()
            check(not client.write(0, b"w" * MIB).error, "write")
            check(not client.flush().error, "flush")
            before = os.stat(disk.path).st_blocks
            check(not client.trim(0, disk.size).error, "trim")
            check(client.data(0, MIB) == b"w" * MIB, "TRIM changed data")
            check(not client.zero(0, disk.size).error and not client.flush().error, "zero")
            check(not any(client.data(0, MIB)) and not any(client.data(disk.size - MIB, MIB)),
                  "zeroes")
            after = os.stat(disk.path).st_blocks
            check(before <= after <= before + 512, f"{before} blocks before, {after} after")
            check(not client.write(0, b"x" * MIB).error and not client.flush().error, "and again")
            check(os.stat(disk.path).st_blocks <= after + 512, "its clusters were not kept")
        disk.check()


def test_detect_zeroes():
    """Zeroes that are written take no clusters, and with `unmap' they free those that are there."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for options, frees in zip(DETECTING, (True, False)):
            disk = Disk(directory, plain_row(backing="raw"))
            with Server(image=disk.path, defaults=options) as server:
                client = server.client()
                before = os.stat(disk.path).st_blocks
                for length in (4096, 65536, disk.size):
                    check(not client.write(0, bytes(length)).error, "zeroes")
                check(not client.flush().error, "flush")
                check(os.stat(disk.path).st_blocks <= before + 512, "zeroes took room")
                check(not client.write(0, b"w" * 2 * MIB).error and not client.flush().error, "data")
                full = os.stat(disk.path).st_blocks
                check(not client.write(0, bytes(2 * MIB)).error, "zeroes")
                for _ in range(2):  # what is free is punched after it has left the disk
                    check(not client.flush().error, "flush")
                now = os.stat(disk.path).st_blocks
                check(now < full - 2048 if frees else now >= full, f"{options}: {full}, then {now}")
                check(not any(client.data(0, disk.size)), "content")
            disk.check()


def test_large_clusters_of_zeroes():
    """Clusters that are larger than the pieces of a write are freed, and no byte beside them."""
    writes = ((0, 2 * MIB, True), (MIB, 4 * MIB, True), (512 * 1024, 3 * MIB, True),
              (3 * MIB, 4 * MIB - 512, True), (0, 4 * MIB, False))
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for cluster, window in itertools.product((MIB, 2 * MIB), (0, 512 * 1024)):
            for offset, length, pure in writes:
                path = os.path.join(directory, "disk")
                tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}",
                     path, "8M")
                tool("qemu-io", "-c", "write -P 7 0 8M", path)
                data = bytes(length) if pure else bytes(MIB + 1) + b"x" + bytes(length - MIB - 2)
                with Server("-o", str(window), "--detect-zeroes=unmap", image=path,
                            defaults=WRITABLE) as server:
                    client = server.client()
                    check(not client.write(offset, data, FUA).error, "zeroes")
                    whole = client.data(0, 8 * MIB - window)
                    check(whole == b"\7" * offset + data +
                          b"\7" * (8 * MIB - window - offset - length), "content")
                first = -(-(window + offset) // cluster) * cluster
                end = (window + offset + length) // cluster * cluster
                holes = sum(row["length"] for row in json.loads(
                    tool("qemu-img", "map", "--output=json", path)) if row["zero"])
                wanted = max(end - first, 0) if pure else 0
                check(holes == wanted if pure else holes < length,
                      f"{cluster} {window} {offset} {length}: {holes}, not {wanted}")
                tool("qemu-img", "check", path)


def test_limited():
    """Under a limit less is received at once; payloads of any cluster size still pass."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for cluster in ("64k", "128k", "256k", "2M"):
            path = os.path.join(directory, cluster)
            tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", path,
                 "16M")
            with Server("--limit=bps=1G", image=path, defaults=WRITABLE) as server:
                client = server.client()
                for offset in (3072, 4 * MIB, 8 * MIB):
                    check(not client.write(offset, b"w" * 2 * MIB).error, f"{cluster}: {offset}")
                    check(client.data(offset, 2 * MIB) == b"w" * 2 * MIB, f"{cluster}: content")
                client.disc()


def test_autoclear_bits():
    """Unknown autoclear bits go away with the first write, and not before."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row())
        # The first write could be done in place.
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", disk.path)
        with open(disk.path, "r+b") as file:
            file.seek(88)
            file.write(struct.pack(">Q", 1 << 40))
        for writes, left in ((False, 1 << 40), (True, 0)):
            with Server(image=disk.path, defaults=WRITABLE) as server:
                client = server.client()
                client.data(0, 4096)
                if writes:
                    client.write(0, b"a" * 512)
            with open(disk.path, "rb") as file:
                file.seek(88)
                check(struct.unpack(">Q", file.read(8))[0] == left, f"writes {writes}")


def test_bitmaps_guard():
    """An image whose dirty bitmaps record is not written; disabled ones are kept as they are."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row())
        tool("qemu-img", "bitmap", "--add", disk.path, "b")
        done = subprocess.run((program(), "-f", "qcow2", "--run", "true", disk.path),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        check(done.returncode == 1 and "dirty bitmaps" in done.stderr, done.stderr)
        done = subprocess.run((program(), "-f", "qcow2", "--auto-read-only", "--run", "true",
                               disk.path), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
        check(done.returncode == 0 and "exporting read-only" in done.stderr, done.stderr)
        tool("qemu-img", "bitmap", "--disable", disk.path, "b")
        model = Model(disk)
        turn(disk, model, 40)
        check('"bitmaps"' in tool("qemu-img", "info", "--output=json", disk.path), "bitmap is lost")


def test_metadata_is_guarded():
    """An entry that points guest data into metadata: EIO, the corrupt bit, no damage."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = os.path.join(directory, "disk.qcow2")
        tool("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
        tool("qemu-img", "snapshot", "-c", "before", path)
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 128k", path)
        with open(path, "rb") as file:
            head = file.read()
        l1 = struct.unpack_from(">Q", head, 40)[0]
        l2 = struct.unpack_from(">Q", head, l1)[0] & 0xfffffffffffe00
        snapshots = struct.unpack_from(">Q", head, 64)[0]
        l1_before = struct.unpack_from(">Q", head, snapshots)[0]
        for target in (l1, l2, 0x10000, 0x20000, snapshots, l1_before):
            with open(path, "wb") as file:
                file.write(head)
                file.seek(l2 + 8)
                file.write(struct.pack(">Q", target | 1 << 63))
            with Server(image=path, defaults=WRITABLE) as server:
                client = server.client()
                check(not client.write(0, b"a" * 4096).error, "the good cluster")
                check(client.write(65536, b"b" * 4096).error == 5, f"{target:x} was overwritten")
                check(client.write(0, b"c" * 4096).error == 5, "a corrupt image is written")
                check(client.data(0, 4096) == b"a" * 4096, "reading goes on")
                server.status = 1  # the last flush fails
            with open(path, "rb") as file:
                check(file.read(80)[79] == 2, "the corrupt bit")


def test_reading_finds_corruption():
    """A reserved bit in an L1 or L2 entry that a read meets: EIO, the corrupt bit where the image is
    open for writing, and no change where it is not; a plain I/O error marks nothing."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = os.path.join(directory, "disk.qcow2")
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 128k", path)
        with open(path, "rb") as file:
            head = file.read()
        l1 = struct.unpack_from(">Q", head, 40)[0]
        l2 = struct.unpack_from(">Q", head, l1 + 8)[0] & 0xfffffffffffe00
        for at in (l2 + 8, l1 + 8):
            for options, bits in ((("-r",), 0), ((), 2)):
                with open(path, "wb") as file:
                    file.write(head)
                    file.seek(at)
                    file.write(bytes([head[at] | 1]))
                with Server(*options, image=path, defaults=WRITABLE) as server:
                    for mode in server.modes():
                        client = server.client(mode)
                        check(client.data(0, 4096) == bytes([5]) * 4096, "what is whole is read")
                        check(client.read(32768 + 512, 512).error == 5, f"{at:x} was read")
                    wanted = 5 if bits else 1
                    check(client.write(0, b"a" * 512).error == wanted, "it is written on")
                    server.status = 1 if bits else 0
                with open(path, "rb") as file:
                    check(file.read(80)[79] == bits, f"{options}: the corrupt bit")
        with open(path, "wb") as file:
            file.write(head)
        with Server(image=path, defaults=WRITABLE, fault=True) as server:
            server.faults.set(f"read 5 {l2} {l2 + 512}", f"nowait 5 {l2} {l2 + 512}")
            client = server.client()
            check(client.read(32768 + 512, 512).error == 5, "a table was read that cannot be")
            check(client.write(0, b"a" * 512).error == 0, "a bad sector stops all writing")
        with open(path, "rb") as file:
            check(file.read(80)[79] == 0, "a bad sector is no corruption")


def test_zeroes_with_room():
    """WRITE_ZEROES with NO_HOLE: the room is there, and zeroes are not written for it."""
    size, room = 64 << 20, 48 << 20
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = os.path.join(directory, "disk.qcow2")
        for options in ("cluster_size=64k", "cluster_size=64k,extended_l2=on", "cluster_size=512"):
            tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, str(size))
            with Server(image=path, defaults=WRITABLE, fault=True) as server:
                client = server.client()
                check(client.write(5000, b"x" * 70000).error == 0, "WRITE fails")
                check(client.zero(4096, room, NO_HOLE).error == 0, "WRITE_ZEROES fails")
                check(client.write(room // 2 + 700, b"y" * 3000).error == 0, "WRITE fails")
                check(server.blocks() >= room, f"{options}: {server.blocks()} bytes of room")
                zeroes = sum(op[2] for op in server.faults.operations() if op[0] == "write")
                check(zeroes < room // 2, f"{options}: {zeroes} bytes were written")
                wanted = bytearray(size)
                wanted[room // 2 + 700:room // 2 + 3700] = b"y" * 3000
                check_same(client.data(0, size // 2), bytes(wanted[:size // 2]), options)
                check_same(client.data(size // 2, size // 2), bytes(wanted[size // 2:]), options)
            tool("qemu-img", "check", path)


def test_fast_zeroes_or_nothing():
    """S94: FAST_ZERO that cannot be fast at the end of its range leaves the beginning alone."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = os.path.join(directory, "disk.qcow2")
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "4M")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path)
        tool("qemu-img", "snapshot", "-c", "before", path)
        with Server(image=path, defaults=WRITABLE) as server:
            client = server.client()
            # Half of the last cluster has to be copied, since a snapshot has it, too.
            for flags in (FAST_ZERO, FAST_ZERO | NO_HOLE):
                check(client.zero(0, 5 * 65536 + 32768, flags).error == ENOTSUP, "it is fast")
                check(client.data(0, MIB) == b"\7" * MIB, "zeroes in spite of ENOTSUP")
            check(client.zero(0, 5 * 65536, FAST_ZERO).error == 0, "it is not fast")
            check(client.data(0, MIB) == bytes(5 * 65536) + b"\7" * (MIB - 5 * 65536), "content")
        tool("qemu-img", "check", path)


def direct_files(server):
    """{name: is it O_DIRECT} of the regular files that the server has open for its image."""
    found = {}
    for number in os.listdir(f"/proc/{server.process.pid}/fd"):
        name = os.path.basename(os.readlink(f"/proc/{server.process.pid}/fd/{number}"))
        with open(f"/proc/{server.process.pid}/fdinfo/{number}", encoding="ascii") as file:
            flags = int(file.read().split("flags:")[1].split()[0], 8)
        found[name] = found.get(name, False) or bool(flags & os.O_DIRECT)
    return found


def test_cache_none_is_for_all_files():
    """--cache=none goes around the page cache for the image, its backing files and its data file;
    with -s for the image below the temporary file."""
    names = ("base", "data", "middle", "top")
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        base, data, middle, top = (os.path.join(directory, name) for name in names)
        with open(base, "wb") as file:
            file.write(b"B" * (1 << 20))
        try:
            os.close(os.open(base, os.O_RDONLY | os.O_DIRECT))
        except OSError:
            return  # not on this file system
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "-o",
             f"data_file={data}", middle)
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 0x4d 64k 100k", middle)
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", top)
        for options in (("--cache=none",), ("--cache=none", "-s"), ("--cache=writeback",)):
            with Server(*options, image=top, defaults=WRITABLE) as server:
                wanted = options[0] == "--cache=none"
                for name, direct in direct_files(server).items():
                    check(name not in names or direct == wanted, f"{options}: {name}")
                client = server.client()
                check(client.write(5000, b"T" * 70000).error == 0, "WRITE fails")
                check(client.flush().error == 0, "FLUSH fails")
                check_same(client.data(0, 1 << 20), b"B" * 5000 + b"T" * 70000 +
                           b"M" * (65536 + 102400 - 75000) + b"B" * ((1 << 20) - 167936),
                           f"{options}")
        tool("qemu-img", "check", top)


def test_locks():
    """A writer keeps QEMU out, and QEMU us; a backing file may be shared by readers."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(backing="qcow2"))
        with Server(image=disk.path, defaults=WRITABLE):
            for command in ("read 0 512", "write 0 512"):
                tool("qemu-io", "-f", "qcow2", "-c", command, disk.path, status=1)
            tool("qemu-io", "-f", "qcow2", "-c", "write 0 512", disk.base, status=1)
            tool("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", disk.base)
        with Server("-r", image=disk.path, defaults=WRITABLE):
            tool("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", disk.path)
            tool("qemu-io", "-f", "qcow2", "-c", "write 0 512", disk.path, status=1)
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(backing="raw"))
        with Server(image=disk.path, defaults=WRITABLE):
            done = subprocess.run((program(), "-f", "raw", "--run", "true", disk.base),
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  check=False)
            check(done.returncode == 1 and "lock" in done.stderr, f"base: {done.stderr}")
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(data_file="plain"))
        with Server(image=disk.path, defaults=WRITABLE):
            tool("qemu-io", "-f", "raw", "-c", "write 0 512", disk.path + ".data", status=1)
        with Server("-r", image=disk.path, defaults=WRITABLE):
            tool("qemu-io", "-f", "raw", "-c", "write 0 512", disk.path + ".data", status=1)
            tool("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", disk.path + ".data")


def test_temporary_overlay():
    """-s: writes are read back, gone at the end, and the image stays as it is; raw and qcow2."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(backing="raw"))
        raw = os.path.join(directory, "raw")
        with open(raw, "wb") as out:
            out.write(b"r" * 100001)
        for path, form, size in ((disk.path, "qcow2", disk.size), (raw, "raw", 100001)):
            with open(path, "rb") as file:
                before = file.read()
            with Server("-s", "-f", form, image=path, defaults=("-t", "-e", "0"),
                        environment={"TMPDIR": directory}) as server:
                client = server.client()
                check(client.export.size == size, f"size {client.export.size}")
                old = client.data(0, size)
                check(not client.write(1000, b"new" * 1000).error, "write")
                check(not client.write(size - 5, b"12345").error, "the end")
                check(not client.zero(70000, 20000).error and not client.flush().error, "zero")
                new = old[:1000] + b"new" * 1000 + old[4000:70000] + bytes(20000) + old[90000:-5]
                check_same(client.data(0, size), new + b"12345", "the overlay")
                tool("qemu-io", "-f", form, "-c", "write 0 512", path, status=1)
            with open(path, "rb") as file:
                check(file.read() == before, "the image was changed")
        check(len(os.listdir(directory)) <= 4, f"left behind: {os.listdir(directory)}")


def test_internal_snapshots():
    """-l in all its forms: content and size of the snapshot, read-only."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        disk = Disk(directory, plain_row(snapshot="yes", backing="qcow2"))
        before = disk.content("before")
        tool("qemu-img", "snapshot", "-c", "1,x=y", disk.path)
        now = disk.content()
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 3 0 1M", disk.path)
        tool("qemu-img", "snapshot", "-c", "larger", disk.path)
        tool("qemu-img", "resize", "-q", disk.path, "+1M")
        for wanted, content in (("before", before), ("1", before), ("snapshot.id=1", before),
                                ("snapshot.name=before", before), ("2", now),
                                ("snapshot.name=1,,x=y", now),
                                ("snapshot.id=2,snapshot.name=1,,x=y", now)):
            with Server("-l", wanted, image=disk.path, defaults=WRITABLE) as server:
                client = server.client()
                check(client.export.size == disk.size, f"{wanted}: size {client.export.size}")
                check_same(client.data(0, disk.size), content, wanted)
                check(client.write(0, b"x" * 512).error == 1, "it was written")
        for wanted, words in (("none", "Failed to load snapshot: Can't find snapshot"),
                              ("snapshot.id=2,snapshot.name=before", "Can't find snapshot"),
                              ("snapshot.id", "Failed in parsing snapshot param `snapshot.id'")):
            done = subprocess.run((program(), "-l", wanted, "--run", "true", disk.path),
                                  capture_output=True, text=True, check=False)
            check(done.returncode == 1 and words in done.stderr, done.stderr)


if __name__ == "__main__":
    main(globals())
