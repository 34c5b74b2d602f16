#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What QEMU's own contexts tell, dirty bitmaps and the depth of allocation: the same as qemu-nbd tells
of the same image, for bitmaps that QEMU made and filled; and bitmaps that must be refused.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import MIB, Server, check, main, program  # noqa: E402
from nbdraw import (BLOCK_STATUS, EINVAL, OPT_LIST_META, PAYLOAD_LEN, REQ_ONE,  # noqa: E402
                    until)
from qcow2disk import SCRATCH, tool  # noqa: E402

DEPTH = "qemu:allocation-depth"
SHOWN = ("-t", "-e", "0", "-f", "qcow2", "-r")


def bitmap(name):
    return f"qemu:dirty-bitmap:{name}"


def scratch():
    return tempfile.TemporaryDirectory(prefix="hawser-bitmaps-", dir=SCRATCH)


def create(directory, name, *options, size=64 * MIB):
    path = os.path.join(directory, name)
    tool("qemu-img", "create", "-q", "-f", "qcow2", *options, path, str(size))
    return path


def add(path, name, granularity=None):
    grain = ["-g", str(granularity)] if granularity else []
    tool("qemu-img", "bitmap", "--add", *grain, path, name)


def write(path, *spans, what="write"):
    tool("qemu-io", "-f", "qcow2", *(f"-c{what} {at} {length}" for at, length in spans), path)


def scattered(seed, size, count):
    chance = random.Random(seed)
    spans = []
    for _ in range(count):
        at = chance.randrange(0, size // 512) * 512
        spans.append((at, min(chance.choice((512, 4096, 65536, 300 * 1024)), size - at)))
    return spans


class Theirs:
    """qemu-nbd serving an image."""

    def __init__(self, path, *options):
        self.socket = os.path.join(os.path.dirname(path), "theirs")
        self.command = ["qemu-nbd", "-t", "-r", "-f", "qcow2", "-k", self.socket, *options, path]

    def __enter__(self):
        tool("qemu-nbd", "--version")
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        until(lambda: os.path.exists(self.socket) or self.process.poll() is not None, "qemu-nbd")
        return f"nbd+unix:///?socket={self.socket}"

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()


def map_of(uri, context):
    return tool("nbdinfo", f"--map={context}", uri)


def same_as_qemu(path, *options, contexts):
    """The maps that both servers tell, compared as text; and they say something."""
    with Theirs(path, *options) as uri:
        theirs = [map_of(uri, context) for context in contexts]
        theirs.append(tool("qemu-nbd", "-L", "-k", uri.split("=")[1]))
    with Server(*options, image=path, defaults=SHOWN) as server:
        uri = f"nbd+unix:///?socket={server.path}"
        ours = [map_of(uri, context) for context in contexts]
        ours.append(tool("qemu-nbd", "-L", "-k", server.path))
    for context, one, other in zip(contexts, ours, theirs):
        check(one == other, f"{path} {context}:\n{one}qemu-nbd:\n{other}")
    names = [[line for line in text.splitlines() if line.startswith("   ")]
             for text in (ours[-1], theirs[-1])]
    check(names[0] == names[1], f"{names}")
    return ours[:-1]


def directory_of(path):
    """Offset of the bitmap directory in the file."""
    with open(path, "rb") as file:
        head = file.read(65536)
    at = struct.unpack(">I", head[100:104])[0]
    while True:
        kind, length = struct.unpack(">II", head[at:at + 8])
        if kind == 0x23852875:
            return struct.unpack(">Q", head[at + 24:at + 32])[0]
        check(kind, "no bitmaps in the image")
        at += 8 + (length + 7) // 8 * 8


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def first_table(path):
    """Offset of the first bitmap's table."""
    with open(path, "rb") as file:
        file.seek(directory_of(path))
        return struct.unpack(">Q", file.read(8))[0]


def test_bitmaps_of_every_shape():
    """Clusters of 512 bytes to 2 MiB, granularities of 512 bytes to 64 MiB: as qemu-nbd tells."""
    for cluster, grain, size in (("512", 512, 3 * MIB + 512), ("512", 65536, 20 * MIB),
                                 ("4096", 512, 40 * MIB + 1536), ("65536", None, 64 * MIB),
                                 ("65536", 4096, 64 * MIB + 512), ("2097152", 512, 300 * MIB),
                                 ("2097152", 64 * MIB, 300 * MIB), ("65536", 1 << 31, 5 << 30)):
        with scratch() as directory:
            path = create(directory, "disk", "-o", f"cluster_size={cluster}", size=size)
            add(path, "fine", grain)
            write(path, *scattered(1, size, 12))
            add(path, "empty", grain)
            add(path, "later")
            write(path, *scattered(2, size, 4), (size - 512, 512))
            tool("qemu-img", "bitmap", "--disable", path, "later")
            out = same_as_qemu(path, "-B", "fine", "-B", "empty", "-B", "later",
                               contexts=[bitmap(name) for name in ("fine", "empty", "later")])
            check(all("dirty" in text for text in out), f"{out}")


def test_whole_clusters_of_bits():
    """Bits that are all set or all clear in a cluster of bits, and pieces that cross clusters."""
    with scratch() as directory:
        # A cluster of 512 bytes has the bits of 2 MiB.
        path = create(directory, "disk", "-o", "cluster_size=512", size=32 * MIB)
        add(path, "b", 512)
        write(path, (2 * MIB, 4 * MIB), (8 * MIB - 512, 1024), (10 * MIB, 2 * MIB - 512))
        before = same_as_qemu(path, "-B", "b", contexts=[bitmap("b")])
        # QEMU writes ones as bits; a word of the table may say them, too.
        table = first_table(path)
        patch(path, table, struct.pack(">4Q", 1, 1, 1, 0))
        after = same_as_qemu(path, "-B", "b", contexts=[bitmap("b")])
        check(before != after and after[0].split()[:4] == ["0", str(6 * MIB), "1", "dirty"],
              f"{after}")


def test_large_disk():
    """A bitmap of 8 TiB: the far end is found, and nothing of it is kept in memory."""
    size = 8 << 40
    with scratch() as directory:
        path = create(directory, "disk", "-o", "cluster_size=2M", size=size)
        add(path, "b")
        write(path, (0, 65536), (5 << 40, 512), (size - 512, 512))
        with Server("-B", "b", image=path, defaults=SHOWN) as server:
            out = map_of(f"nbd+unix:///?socket={server.path}", bitmap("b"))
        dirty = [line.split()[:2] for line in out.splitlines() if "dirty" in line]
        check(dirty == [["0", "65536"], [str(5 << 40), "65536"], [str(size - 65536), "65536"]],
              f"{dirty}")


def chain(directory):
    """raw <- low (short) <- middle <- top, with data, zeroes and bitmaps in each."""
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as out:
        out.write(b"r" * MIB)
        out.truncate(3 * MIB + 1024)
    low = create(directory, "low", "-b", raw, "-F", "raw", size=6 * MIB)
    add(low, "deep")
    add(low, "both", 4096)
    write(low, (MIB, 65536), (5 * MIB, 512))
    middle = create(directory, "middle", "-b", low, "-F", "qcow2", size=16 * MIB)
    write(middle, (2 * MIB, MIB), (9 * MIB, 65536))
    top = create(directory, "top", "-b", middle, "-F", "qcow2", "-o", "cluster_size=4096",
                 size=16 * MIB + 512)
    add(top, "both", 512)
    write(top, (65536, 4096), (16 * MIB, 512))
    write(top, (2 * MIB + 4096, 65536), what="write -z")
    tool("qemu-img", "bitmap", "--add", top, "recent")
    write(top, (12 * MIB, 8192))
    return top


def test_chain():
    """Bitmaps of a backing file, the nearest first; depths 0 to 4, short images included."""
    with scratch() as directory:
        top = chain(directory)
        depth, deep, both, _ = same_as_qemu(
            top, "-A", "-B", "deep", "-B", "both", "-B", "recent",
            contexts=[DEPTH, bitmap("deep"), bitmap("both"), bitmap("recent")])
        check("backing depth 4" in depth and "local" in depth and "absent" not in depth, depth)
        check(deep.count("dirty") == 2, deep)
        check(any(line.split()[:2] == ["65536", "4096"] for line in both.splitlines()), both)
        overlay = map_with("-s", top, DEPTH)
        check("backing depth 5" in overlay and "local" not in overlay, overlay)


def map_with(option, path, context):
    with Server(option, "-A", image=path, defaults=("-t", "-f", "qcow2")) as server:
        return map_of(f"nbd+unix:///?socket={server.path}", context)


def test_depth_of_raw():
    """A raw image is allocated everywhere, holes included, as qemu-nbd says."""
    with Server("-A", size=8 * MIB, content="") as server:
        client = server.client("structured", [DEPTH])
        check(client.status(0, 8 * MIB).extents[DEPTH] == [(8 * MIB, 1)], "depth")
        client.disc()


def test_window():
    """S96: with --offset the bits are those of the window."""
    with scratch() as directory:
        path = create(directory, "disk")
        add(path, "b")
        write(path, (MIB, 65536), (8 * MIB, 512))
        with Server("-B", "b", "-o", str(MIB + 1024), image=path, defaults=SHOWN) as server:
            client = server.client("structured", [bitmap("b")])
            got = client.status(0, client.export.size).extents[bitmap("b")]
            check(got[:4] == [(64512, 1), (7 * MIB - 65536, 0), (65536, 1),
                              (client.export.size - 7 * MIB - 64512, 0)], f"{got}")
            client.disc()


def filled(directory):
    path = create(directory, "disk")
    add(path, "one")
    write(path, (0, MIB))
    add(path, "two:three", 4096)
    write(path, (5 * MIB, 8192))
    return path


ALL = ["base:allocation", DEPTH, bitmap("one"), bitmap("two:three")]


def test_negotiation():
    """S42 S43: what LIST and SET answer to each kind of query, with ids as QEMU gives them."""
    with scratch() as directory:
        path = filled(directory)
        with Server("-A", "-B", "two:three", "-B", "one", image=path, defaults=SHOWN) as server:
            client = server.greeted()
            check(client.structured_reply().ok, "STRUCTURED_REPLY")
            for queries, found in (([], ALL), (["qemu:"], ALL[1:]), (["base:"], ALL[:1]),
                                   (["qemu:dirty-bitmap:"], ALL[2:]), ([ALL[3]], ALL[3:]),
                                   ([DEPTH, "qemu:dirty-bitmap:none"], [DEPTH]),
                                   (["qemu:dirty-bitmap:two:"], []), (["qemu:dirty-bitmap"], []),
                                   (["qemu:allocation-depth:"], []), (["qemu", "QEMU:"], [])):
                check(client.list_meta("", queries) == found, f"LIST {queries}")
            for queries in (["qemu:"], ["qemu:dirty-bitmap:"], ["base:", "qemu:nothing"]):
                check(client.set_meta("", queries) == {}, f"SET {queries}")
            check(client.set_meta("", list(reversed(ALL))) == dict(enumerate(ALL)), "ids")
            check(client.set_meta("", [ALL[3], ALL[3]]) == {3: ALL[3]}, "one of them")
            client.go()
            check(list(client.status(0, MIB).extents) == [ALL[3]], "status")
            client.disc()
        with Server("-B", "two:three", image=path, defaults=SHOWN) as server:
            client = server.greeted()
            check(client.structured_reply().ok, "STRUCTURED_REPLY")
            check(client.list_meta() == [ALL[0], ALL[3]], "without -A")
            check(client.set_meta("", ALL) == {0: ALL[0], 2: ALL[3]}, "id of the first bitmap")
            client.go()
            client.disc()


def test_contexts_in_one_reply():
    """S96 S97 S105: one chunk a context, each true on its own, in all forms of asking."""
    with scratch() as directory:
        path = filled(directory)
        with Server("-A", "-B", "two:three", "-B", "one", image=path, defaults=SHOWN) as server:
            for mode in server.modes()[1:]:
                client = server.client(mode, ALL)
                request = client.status(0, 64 * MIB)
                check(list(request.extents) == ALL, f"{list(request.extents)}")
                check(request.extents[ALL[2]][0] == (MIB, 1), f"{request.extents}")
                check(request.extents[ALL[3]][:3] == [(5 * MIB, 0), (8192, 1),
                                                      (59 * MIB - 8192, 0)], f"{request.extents}")
                one = client.status(MIB - 512, 64 * MIB - MIB + 512, REQ_ONE).extents
                check(one[ALL[2]] == [(512, 1)], f"{one}")
                check(one[ALL[3]] == [(4 * MIB + 512, 0)], f"{one}")
                if mode == "extended":
                    payload_form(client)
                client.disc()


def payload_form(client):
    for ids, wanted in (([3], [ALL[3]]), ([2, 1], [ALL[1], ALL[2]]), ([0, 1, 2, 3], ALL)):
        payload = struct.pack(f">Q{len(ids)}I", 6 * MIB, *ids)
        request = client.request(BLOCK_STATUS, 0, len(payload), PAYLOAD_LEN, payload)
        request.length = 6 * MIB  # the effect's, which the payload names
        every, client.contexts = client.contexts, {number: ALL[number] for number in ids}
        client.wait(request)
        client.contexts = every
        check(not request.error and list(request.extents) == wanted, f"{ids}: {request}")
    for ids in ([4], [3, 3], [63], [64], [0xFFFFFFFF]):
        payload = struct.pack(f">Q{len(ids)}I", 6 * MIB, *ids)
        request = client.request(BLOCK_STATUS, 0, len(payload), PAYLOAD_LEN, payload)
        request.length = 6 * MIB  # the effect's, which the payload names
        client.wait(request)
        check(request.error == EINVAL, f"{ids}: {request}")


def test_many_extents():
    """S98: a bitmap of tens of thousands of runs comes in bounded answers, and all of it."""
    with scratch() as directory:
        path = create(directory, "disk", "-o", "cluster_size=4096", size=64 * MIB)
        add(path, "b", 512)
        spans = [(at, 512) for at in range(0, 48 * MIB, 1024)]
        for at in range(0, len(spans), 1000):
            write(path, *spans[at:at + 1000])
        with Server("-B", "b", image=path, defaults=SHOWN) as server:
            for mode in server.modes()[1:]:
                client = server.client(mode, [bitmap("b")])
                at = count = 0
                while at < 64 * MIB:
                    for length, status in client.status(at, 64 * MIB - at).extents[bitmap("b")]:
                        check(status == (at < 48 * MIB and not at % 1024), f"{status} at {at}")
                        at += length
                        count += 1
                check(count == 2 * len(spans), f"{count} runs")
                client.disc()


# ---- Refusals ----

def refused(path, *options, where=""):
    done = subprocess.run([program(), *options, "-f", "qcow2", "--run", "true", path],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    check(done.returncode == 1, f"{where}{options}: status {done.returncode} {done.stderr}")
    return done.stderr


def served(path, *options):
    done = subprocess.run([program(), *options, "-f", "qcow2", "--run", "true", path],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    check(done.returncode == 0, f"{options}: status {done.returncode} {done.stderr}")


def test_not_found():
    """Names that no image of the chain has, as QEMU says it; version 2 and raw have none."""
    with scratch() as directory:
        path = filled(directory)
        for name in ("zzz", "", "on", "onee", "x" * 1023, "y" * 5000):
            check(f"Bitmap '{name[:100]}" in refused(path, "-r", "-B", name), name)
        check("Bitmap 'zzz' is not found" in refused(path, "-r", "-B", "one", "-B", "zzz"), "text")
        old = create(directory, "old", "-o", "compat=0.10")
        check("Bitmap 'one' is not found" in refused(old, "-r", "-B", "one"), "version 2")
        done = subprocess.run([program(), "-f", "raw", "-B", "one", "--run", "true", old],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              check=False)
        check(done.returncode == 1 and "Bitmap 'one' is not found" in done.stderr, done.stderr)


def test_writable():
    """A bitmap that records is served read-only; one that does not, beside writing, unchanged."""
    with scratch() as directory:
        path = filled(directory)
        check("incremental backups" in refused(path, "-B", "one"), "records")
        check("records writes" in refused(path, "--drop-bitmaps", "-B", "one"), "becomes void")
        served(path, "-r", "-B", "one")
        for name in ("one", "two:three"):
            tool("qemu-img", "bitmap", "--disable", path, name)
        with Server("-B", "one", image=path, defaults=("-t", "-f", "qcow2")) as server:
            client = server.client("structured", [bitmap("one")])
            before = client.status(0, 64 * MIB).extents
            check(not client.write(20 * MIB, b"x" * MIB).error, "write")
            check(not client.flush().error, "flush")
            check(client.status(0, 64 * MIB).extents == before, "the bitmap has changed")
            client.disc()
        tool("qemu-img", "check", path)
        out = same_as_qemu(path, "-B", "one", contexts=[bitmap("one")])
        check(out[0].count("dirty") == 2, out[0])


def test_inconsistent():
    """A bitmap that was in use when its writer was killed is refused by name, the others served."""
    with scratch() as directory:
        path = filled(directory)
        process = subprocess.Popen(["qemu-nbd", "-t", "-f", "qcow2", "-k",
                                    os.path.join(directory, "s"), path])
        until(lambda: os.path.exists(os.path.join(directory, "s")), "qemu-nbd")
        until(lambda: '"in-use"' in tool("qemu-img", "info", "-U", "--output=json", path), "in use")
        process.kill()
        process.wait()
        add(path, "new")
        text = refused(path, "-r", "-B", "new", "-B", "two:three")
        check("Bitmap 'two:three' is inconsistent and cannot be used" in text, text)
        served(path, "-r", "-B", "new")


def test_lies():
    """Directories and tables that lie: refused by name at the start, or answered with an error."""
    rows = (
        (16, b"\x02", "not known"),                           # type
        (15, b"\x0a", "not known"),                           # flags
        (17, b"\x08", "granularity"),
        (17, b"\x20", "granularity"),
        (8, b"\0\0\0\x07", "does not fit"),
        (8, b"\0\0\x20\0", "does not fit"),
        (8, b"\0\1\0\0", "too large"),
        (8, b"\x08\0\0\1", "directory is broken"),
        (0, b"\0\0\0\0\0\0\0\0", "does not fit"),
        (0, b"\0\0\0\0\0\0\2\1", "directory is broken"),
        (0, b"\x7f\xff\xff\xff\xff\xff\0\0", "is broken"),
        (0, b"\0\0\0\7\0\0\0\0", "is broken"),                # behind the end of the file
        (18, b"\xff\xff", "directory is broken"),             # name length
        (20, b"\xff\xff\xff\xff", "directory is broken"),     # extra data
    )
    with scratch() as directory:
        path = filled(directory)
        at = directory_of(path)
        with open(path, "rb") as file:
            whole = file.read()
        table = first_table(path)
        words = tuple((table - at, struct.pack(">Q", word), "is broken") for word in
                      (2, 1 << 56, 1 << 63, 513, 0x10001, 1 << 40, 0x00FFFFFFFFFF0000))
        for place, data, text in rows + words:
            patch(path, at + place, data)
            said = refused(path, "-r", "-B", "one", where=f"{place} {data}: ")
            check(text in said, f"{place} {data}: {said}")
            patch(path, 0, whole)


def test_bad_data():
    """Bits that cannot be read fail the request, not the connection."""
    with scratch() as directory:
        path = filled(directory)
        table = first_table(path)
        with Server("-B", "one", image=path, defaults=SHOWN) as server:
            client = server.client("structured", [bitmap("one")])
            check(not client.status(0, MIB).error, "before")
            patch(path, table, struct.pack(">Q", 0x10001))
            check(client.status(0, MIB).error, "a broken word was believed")
            client.in_sync()
            client.disc()


def test_hawser_shows():
    """hawser list, info and info --context; -L."""
    with scratch() as directory:
        path = filled(directory)
        build = os.path.dirname(program())
        with Server("-A", "-B", "one", image=path, defaults=SHOWN) as server:
            uri = f"nbd+unix:///?socket={server.path}"
            hawser = os.path.join(build, "hawser")
            for command in ((hawser, "info", uri), (hawser, "list", "--json", uri),
                            (program(), "-L", "-k", server.path)):
                out = tool(*command)
                check(DEPTH in out and bitmap("one") in out, f"{command}: {out}")
            for context in (DEPTH, bitmap("one"), "base:allocation"):
                ours = json.loads(tool(hawser, "info", "--json", "--context", context, uri))
                theirs = json.loads(tool("nbdinfo", "--json", f"--map={context}", uri))
                check(ours == theirs, f"{context}: {ours} {theirs}")
            done = subprocess.run([hawser, "info", "--context=qemu:dirty-bitmap:no", uri],
                                  capture_output=True, text=True, timeout=60, check=False)
            check(done.returncode and "has no context" in done.stderr, done.stderr)


main(globals())
