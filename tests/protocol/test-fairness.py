#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What one client can take from the others: threads, turns at the disk, and memory; it must be
nothing. Numbers of operations are compared where that is possible, not times.
"""

import os
import select
import time

from harness import ALLOCATION, MIB, Server, Skip, background, check, content_of, main, until
from nbdraw import BLOCK_STATUS, READ, WRITE

# More than the server has threads for busy clients.
CROWD = 72
HOST_EAGAIN = 11


def resident(server):
    """Bytes of memory."""
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def frugal():
    """Freed memory is not kept from being used again, so that resident() means what it says."""
    kept = os.environ.get("ASAN_OPTIONS", "detect_leaks=1")
    return {"ASAN_OPTIONS": kept + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"}


def shadow():
    """How many times the memory that a reserve of buffers may take: the thread sanitizer keeps up to
    four bytes for each that was ever touched, of payloads that are held, too."""
    return 2 if os.environ.get("SANITIZER") == "thread" else 1


def processor_seconds(server):
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as text:
        fields = text.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rest(server, seconds=30):
    """Waits until the server has nothing to do; the deadline is no fault."""
    deadline = time.monotonic() + seconds
    used, before = processor_seconds(server), -1.0
    while used - before > 0.02 and time.monotonic() < deadline:
        time.sleep(0.5)
        used, before = processor_seconds(server), used


def reads(client, count, length):
    return b"".join(client.prepare(READ, 0, length)[1] for _ in range(count))


# ---- Threads ----

def test_crowd_that_takes_nothing():
    """S72 S7: 72 clients ask for 64 MiB out of the page cache and take only the first bytes: none
    holds a thread that others need (splice must not block in the socket)."""
    with Server(size=8 * MIB) as server:
        server.good()
        crowd = [server.client("simple") for _ in range(CROWD)]
        for client in crowd:
            client.send(reads(client, 8, 8 * MIB))
        for client in crowd:
            client.receive(16)
        server.good()
        for client in crowd:
            client.close()


def test_crowd_of_slow_readers():
    """S72 S7: 72 clients with answers of 1 GiB each, which they take a MiB now and then: none is so
    slow that it is dropped, and none holds a thread that others need."""
    with Server(size=32 * MIB) as server:
        crowd = [server.client("simple") for _ in range(CROWD)]
        for client in crowd:
            client.send(reads(client, 32, 32 * MIB))
            client.sock.setblocking(False)
        sockets = [client.sock for client in crowd]
        served = set()

        def sip(stop):
            while not stop.wait(0.7):
                for sock in select.select(sockets, [], [], 0)[0]:
                    sock.recv(MIB)
                    served.add(sock)

        with background(sip):
            server.good()
            until(lambda: len(served) == CROWD, "all of the crowd are served")
            server.good()
        for client in crowd:
            client.close()


# ---- Turns at the disk ----

FLOOD, FLOOD_FROM, SLOW = 256, MIB, 250


def flood_reads(server):
    """How many of the flood's reads have come to their end."""
    return sum(op[0] == "read" and op[1] >= FLOOD_FROM for op in server.faults.operations())


def flood(client, count):
    client.send(b"".join(client.prepare(READ, FLOOD_FROM + n * 4096, 512)[1]
                         for n in range(count)))


def test_turns_at_the_disk():
    """S72: beside a client with hundreds of slow reads in the queue, another's single read gets its
    turn before the queue is done. Best of some tries: this process may sleep in between."""
    with Server(size=16 * MIB, fault=True) as server:
        server.faults.set(f"nowait {HOST_EAGAIN}", f"read delay:{SLOW}")
        greedy, modest = server.client("simple"), server.client("simple")
        flood(greedy, 6 * FLOOD)
        until(lambda: flood_reads(server), "the flood is at the disk")
        waits = []
        for n in range(3):
            before = flood_reads(server)
            check(modest.data(n * 4096, 512) == content_of(MIB)[n * 4096:n * 4096 + 512], "data")
            waits.append(flood_reads(server) - before)
            if waits[-1] < FLOOD // 2:
                break
        check(min(waits) < FLOOD // 2, f"so many reads of the other came first: {waits}")
        server.faults.clear()
        greedy.reset()


def test_reads_of_the_dead():
    """S72: of hundreds of slow reads that a client left behind, most are not done any more."""
    for mode in ("simple", "structured"):
        with Server("-v", size=16 * MIB, fault=True) as server:
            server.faults.set(f"nowait {HOST_EAGAIN}", f"read delay:{SLOW}")
            client = server.client(mode)
            flood(client, FLOOD)
            until(lambda: flood_reads(server), "the flood is at the disk")
            client.reset()
            until(lambda: "gone" in server.stderr(), "the server lets go of the client")
            done = flood_reads(server)
            check(done < FLOOD // 2, f"{done} of {FLOOD} reads were done for nobody")
            server.good()


# ---- Memory ----

ANNOUNCED, SENT = 32 * MIB, 1000 * 1000


def test_memory_of_the_stalled():
    """S84 S72: 400 clients that announce 32 MiB at an odd offset and stop after 1 MB hold no
    buffers; one of them goes on later, and every byte arrives."""
    with Server(size=64 * MIB, content="", environment=frugal()) as server:
        payload = content_of(ANNOUNCED, 84)
        server.good()
        before = resident(server)
        crowd = [server.client("simple") for _ in range(400)]
        requests = [client.prepare(WRITE, 1, ANNOUNCED) for client in crowd]
        for client, (_, header) in zip(crowd, requests):
            client.send(header + payload[:SENT])
        rest(server, 10)  # the server waits for half a minute for the rest of a request
        grown = resident(server) - before
        check(grown < 160 * MIB * shadow(), f"{grown >> 20} MiB for {len(crowd)} stalled clients")
        crowd[-1].send(payload[SENT:])
        check(not crowd[-1].wait(requests[-1][0]).error, "the write that went on")
        check(server.bytes(1, ANNOUNCED) == payload, "what was written")
        for client in crowd:
            client.close()


def test_memory_of_the_gone():
    """S84 S72: 400 clients that leave in the middle of a payload leave nothing behind."""
    with Server(size=64 * MIB, content="", environment=frugal()) as server:
        server.good()
        before = resident(server)
        for _ in range(400):
            with server.client("simple") as client:
                client.send(client.prepare(WRITE, 1, ANNOUNCED)[1] + content_of(SENT))
            server.clients.clear()
        rest(server)
        grown = resident(server) - before
        check(grown < 160 * MIB, f"{grown >> 20} MiB for clients that left")


EXTENTS = 32768
# Thousands of single pages would take a busy disk long to sync.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def comb(path):
    """Every other page is a hole; false where the file system keeps none."""
    with open(path, "r+b") as image:
        for n in range(0, EXTENTS, 2):
            os.pwrite(image.fileno(), b"tooth", n * 4096)
    return os.stat(path).st_blocks * 512 < EXTENTS * 4096 * 3 // 4


def test_memory_of_status_answers():
    """S98 S72: two clients with 256 questions in flight for the status of 32768 extents each take
    none of the answers, which would be 256 MiB: the server does not make them all."""
    with Server(size=EXTENTS * 4096, content="", directory=MEMORY, environment=frugal()) as server:
        if not comb(server.image):
            raise Skip("no holes on this file system")
        server.good()
        before = resident(server)
        crowd = [server.client(server.modes()[-1], [ALLOCATION]) for _ in range(2)]
        for client in crowd:
            client.send(b"".join(client.prepare(BLOCK_STATUS, 0, EXTENTS * 4096)[1]
                                 for _ in range(256)))
        rest(server)
        grown = resident(server) - before
        check(grown < 100 * MIB, f"{grown >> 20} MiB of answers that nobody takes")
        server.good()
        for client in crowd:
            client.close()


main(globals())
