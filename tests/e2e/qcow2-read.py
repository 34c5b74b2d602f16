#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
qcow2 images that QEMU made, read through the server: every pair of features, compared with what
QEMU reads from the same file; and images that must be refused, or served with care.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import MIB, Server, check, content_of, main, program  # noqa: E402
from nbdraw import READ  # noqa: E402
from qcow2disk import SCRATCH, check_same, parts_of, title, tool  # noqa: E402

READ_ONLY = ("-t", "-e", "0", "-f", "qcow2", "-r")


def served_bytes(server):
    out = os.path.join(server.directory, "copy")
    tool("nbdcopy", f"nbd+unix:///?socket={server.path}", out)
    with open(out, "rb") as file:
        return file.read()


def check_odd_reads(server, expected, seed):
    """Pieces that begin and end anywhere, cross clusters and tables."""
    chance = random.Random(seed)
    client = server.client()
    for _ in range(60):
        length = chance.choice((1, 511, 4096, 65537, chance.randrange(1, 300000)))
        offset = chance.randrange(0, len(expected) - length)
        got = client.data(offset, length)
        check_same(got, expected[offset:offset + length], f"{length} bytes at {offset}")
    client.disc()


def reads_the_same(disk):
    """One row of the matrix, whole and in odd pieces."""
    expected = disk.content()
    with Server(image=disk.path, defaults=READ_ONLY) as server:
        got = served_bytes(server)
        check_same(got, expected, title(disk.row))
        check_odd_reads(server, expected, disk.size)


globals().update(parts_of(reads_the_same))


def refused(path, *options, access=("-r",)):
    """The server's words when it does not serve the image."""
    done = subprocess.run([program(), *access, *options, "--run", "true", path],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    check(done.returncode == 1, f"{path} was served: status {done.returncode} {done.stderr}")
    return done.stderr


def served(path, *options):
    done = subprocess.run([program(), *options, "--run", "true", path], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    check(done.returncode == 0, f"{path}: status {done.returncode} {done.stderr}")
    return done.stderr


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def fresh(directory, *options, name="disk.qcow2", size="8M"):
    path = os.path.join(directory, name)
    tool("qemu-img", "create", "-q", "-f", "qcow2", *options, path, size)
    return path


# (what, offset in the header, bytes, words of the message)
HEADERS = (
    ("magic", 0, b"QFI\xfa", "Image is not in qcow2 format"),
    ("version", 4, struct.pack(">I", 4), "Unsupported qcow2 version 4"),
    ("version 1", 4, struct.pack(">I", 1), "Unsupported qcow2 version 1"),
    ("cluster bits 8", 20, struct.pack(">I", 8), "Unsupported cluster size: 2^8"),
    ("cluster bits 22", 20, struct.pack(">I", 22), "Unsupported cluster size: 2^22"),
    ("short header", 100, struct.pack(">I", 72), "qcow2 header too short"),
    ("long header", 100, struct.pack(">I", 65544), "qcow2 header exceeds cluster size"),
    ("backing offset", 8, struct.pack(">QI", 65537, 5), "Invalid backing file offset"),
    ("backing length", 8, struct.pack(">QI", 1000, 1024), "Backing file name too long"),
    ("backing end", 8, struct.pack(">QI", 65530, 10), "Backing file name too long"),
    ("L1 size", 36, struct.pack(">I", 0), "L1 table is too small"),
    ("L1 huge", 36, struct.pack(">I", (32 << 20) // 8 + 1), "Active L1 table too large"),
    ("L1 offset", 40, struct.pack(">Q", 512), "Active L1 table offset invalid"),
    ("L1 wraps", 40, struct.pack(">Q", (1 << 64) - 65536), "Active L1 table offset invalid"),
    ("size", 24, struct.pack(">Q", 1 << 62), "L1 table is too small"),
    ("no refcounts", 56, struct.pack(">I", 0), "does not contain a reference count table"),
    ("many refcounts", 56, struct.pack(">I", 129), "Reference count table too large"),
    ("refcount order", 96, struct.pack(">I", 7), "Reference count entry width"),
    ("snapshots", 60, struct.pack(">I", 65537), "Too many snapshots"),
    ("snapshot table", 60, struct.pack(">IQ", 1, 3), "Snapshot table offset invalid"),
    ("features", 72, struct.pack(">Q", 1 << 40 | 1 << 63),
     "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000"),
    ("compression bit", 72, struct.pack(">Q", 8), "compression type"),
    ("AES", 32, struct.pack(">I", 1), "AES"),
    ("LUKS", 32, struct.pack(">I", 2), "LUKS"),
    ("encryption", 32, struct.pack(">I", 3), "Unsupported encryption method 3"),
    ("data file", 72, struct.pack(">Q", 4), "'data-file' is required"),
)


def test_bad_headers():
    """Each field of the header at its edge is refused in words; probing and -f alike."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for what, offset, data, words in HEADERS:
            path = fresh(directory)
            patch(path, offset, data)
            said = refused(path, "-f", "qcow2")
            check(words in said, f"{what}: {said}")


def test_named_feature():
    """An unknown feature is called by the name that the image gives it."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = fresh(directory)
        with open(path, "rb") as file:
            at = file.read(4096).index(b"dirty bit")
        patch(path, at - 1, bytes((42,)) + b"time travel".ljust(46, b"\0"))
        patch(path, 72, struct.pack(">Q", 1 << 42))
        check("Unsupported qcow2 feature(s): time travel" in refused(path), "name")


def test_chains_that_are_refused():
    """Protocols, loops, and an image that is only guessed to be one are not followed."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for name in ("json:{\"driver\":\"raw\",\"file.filename\":\"/etc/passwd\"}",
                     "nbd:localhost:10809", "fat:/etc", "nbd+unix:///x?socket=/y"):
            path = fresh(directory)
            tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name, path)
            check("protocols are not followed" in refused(path), name)
        path = fresh(directory)
        tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", path)
        check("its own backing file" in refused(path), "loop")
        tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "missing", path)
        said = refused(path)
        check("Could not open backing file" in said and "No such file" in said, said)
        check("--auto-read-only" not in said, said)


def test_backing_without_format():
    """A backing file of unknown format is probed, but leads to no further file."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        deepest = os.path.join(directory, "deepest")
        with open(deepest, "wb") as out:
            out.write(content_of(MIB))
        middle = fresh(directory, "-F", "raw", "-b", "deepest", name="middle", size="1M")
        top = fresh(directory, name="top", size="1M")
        for backing, works in (("deepest", True), ("middle", False)):
            tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, top)
            with open(top, "rb") as file:
                at = file.read(4096).index(struct.pack(">I", 0xe2792aca))
            patch(top, at, struct.pack(">I", 0x12345678))  # an extension that nobody knows
            if works:
                with Server(image=top, defaults=READ_ONLY) as server:
                    check(served_bytes(server) == content_of(MIB), "content")
            else:
                said = refused(top)
                check("qemu-img rebase" in said, said)
        check(middle, "made")


def test_chain_of_many():
    """A long chain with relative names in folders is served; one that is too long is refused."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        os.mkdir(os.path.join(directory, "sub"))
        base = fresh(directory, name="sub/0", size="1M")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", base)
        for i in range(1, 68):
            tool("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(i - 1),
                 os.path.join(directory, "sub", str(i)), "1M")
        with Server(image=os.path.join(directory, "sub", "64"), defaults=READ_ONLY) as server:
            check(served_bytes(server) == b"\7" * MIB, "content through 64 overlays")
        check("backing files in a chain" in refused(os.path.join(directory, "sub", "67")), "limit")


def test_probed_raw_is_guarded():
    """A raw disk that was probed: a warning, and its first sector cannot become another format."""
    with Server("-v", size=MIB, content="", defaults=("-t", "-e", "0")) as server:
        check("probing guessed raw" in server.stderr(), server.stderr())
        client = server.client()
        header = b"QFI\xfb" + bytes(508)
        check(client.write(0, header).error == 1, "a qcow2 header was written")
        check(client.write(0, header + bytes(65536 - 512)).error == 1, "within a large write")
        check(client.write(0, b"QFI").error == 0, "a part of a magic")
        check(client.write(3, b"\xfb").error == 1, "the rest of it")
        check(client.write(512, header).error == 0, "the second sector")
        check(client.data(0, 4) == b"QFI\0", "content")
    with Server(size=MIB, content="") as server:
        client = server.client()
        check(client.write(0, b"QFI\xfb" + bytes(508)).error == 0, "-f raw forces")


def test_corrupt_images():
    """A corrupt image is refused for writing, served read-only with the reason."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = fresh(directory)
        patch(path, 72, struct.pack(">Q", 2))
        said = refused(path, access=())
        check("Image is corrupt; cannot be opened read/write" in said, said)
        served(path, "-r")
        said = served(path, "--auto-read-only")
        check("exporting read-only" in said and "corrupt" in said, said)


def test_bad_entries():
    """Broken L1 and L2 entries are EIO for their own range, not for others."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        path = fresh(directory, size="1G")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 128k", "-c", "write -P 6 600M 64k", path)
        with open(path, "rb") as file:
            head = file.read(0x40000)
        l1 = struct.unpack_from(">Q", head, 40)[0]
        l2 = struct.unpack_from(">Q", head, l1)[0] & 0xfffffffffffe00
        for offset, value in ((l1 + 8, 0x2000000000050000), (l1 + 8, 0x50200), (l2 + 8, 0x50200),
                              (l2 + 8, 1 << 61), (l2 + 8, 0x50004)):
            with open(path, "rb") as file:
                file.seek(offset)
                kept = file.read(8)
            patch(path, offset, struct.pack(">Q", value))
            with Server(image=path, defaults=READ_ONLY) as server:
                client = server.client()
                check(client.data(0, 65536) == b"\5" * 65536, "the good cluster")
                bad = 600 * MIB if offset == l1 + 8 else 65536
                check(client.read(bad, 4096).error == 5, f"{offset:x}={value:x} did not fail")
                check(client.data(0, 65536) == b"\5" * 65536, "the good cluster, again")
            patch(path, offset, kept)


def check_pieces(server, expected, unit):
    """One large read, alone on its connection: shared by workers, and no unit is decoded twice."""
    client = server.client()
    for offset, length in ((0, len(expected)), (70001, 3 * MIB + 17), (65536, MIB), (1, 300000)):
        request = client.request(READ, offset, length)
        client.wait(request)
        check_same(bytes(request.data), expected[offset:offset + length], f"{length}@{offset}")
        inner = [start for _, start, _ in request.chunks if start != offset]
        check(len(inner) >= length // max(unit, 1 << 18) - 1, f"too few pieces: {request.chunks}")
        for edge in inner:
            check(edge % max(unit, 1 << 18) == 0, f"unit {unit}: {edge} in {request.chunks}")
    client.disc()


def test_compressed_pieces():
    """Clusters from the smallest to the largest piece that a request is shared in."""
    chance = random.Random(3)
    expected = b"".join(chance.randbytes(1024).hex().encode() for _ in range(2500))
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        raw = os.path.join(directory, "raw")
        with open(raw, "wb") as file:
            file.write(expected)
        for unit in (512, 65536, 1 << 18, 1 << 19, MIB):
            path = os.path.join(directory, f"compressed-{unit}")
            tool("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2",
                 "-o", f"cluster_size={unit}", raw, path)
            with Server(image=path, defaults=READ_ONLY) as server:
                check_pieces(server, expected, unit)


def test_large_compressed_clusters():
    """A cluster that is larger than a worker's piece is read and decoded once, though two workers
    want it at the same time."""
    size = 8 * MIB
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        raw, path = os.path.join(directory, "raw"), os.path.join(directory, "compressed")
        with open(raw, "wb") as file:
            file.write(b"".join(bytes((n,)) * 2048 for n in range(256)) * (size // MIB * 2))
        tool("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", raw,
             path)
        with open(raw, "rb") as file:
            expected = file.read()
        with Server(image=path, defaults=READ_ONLY, fault=True) as server:
            client = server.client()
            client.data(size - 1, 1)  # the tables are in memory
            for cluster in range(3):
                server.faults.forget()
                server.faults.set("read delay:200")
                check_same(client.data(cluster * 2 * MIB, 2 * MIB),
                           expected[cluster * 2 * MIB:(cluster + 1) * 2 * MIB], f"{cluster}")
                server.faults.clear()
                reads = [op for op in server.faults.operations() if op[0] == "read"]
                check(len(reads) == 1, f"cluster {cluster}: {reads}")


def test_block_status():
    """Data, zeroes and holes of a chain, in large extents."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        base = fresh(directory, name="base", size="4M")
        top = os.path.join(directory, "top")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "-c", "write -P 2 2M 1M", base)
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base", top, "1T")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 3 512k 1M", "-c", "write -z -u 2M 512k",
             "-c", "write -P 4 900G 64k", top)
        with Server(image=top, defaults=READ_ONLY) as server:
            out = tool("nbdinfo", "--map", "--json", f"nbd+unix:///?socket={server.path}")
            spans = [(span["offset"], span["length"], span["type"]) 
                     for span in json.loads(out)]
        check(spans == [(0, 3 * MIB // 2, 0), (3 * MIB // 2, MIB, 3), (5 * MIB // 2, MIB // 2, 0),
                        (3 * MIB, (900 << 30) - 3 * MIB, 3), (900 << 30, 65536, 0),
                        ((900 << 30) + 65536, (124 << 30) - 65536, 3)], f"{spans}")


if __name__ == "__main__":
    main(globals())
