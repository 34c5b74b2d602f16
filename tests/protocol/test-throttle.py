#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Limits (--limit, --object throttle-group): requests wait for their place, and nobody else does.
What the bucket does is tested with a clock of its own; here bounds are generous, because the
machine may be busy: it can be slower than a limit, never faster.
"""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time

from harness import MIB, Server, check, content_of, main, program
from nbdraw import DISC, FUA, READ, TRIM, WRITE, WRITE_ZEROES

DEFAULTS = ("-t", "-e", "0", "-f", "raw", "--discard=unmap")


@contextlib.contextmanager
def limited(*limits, **how):
    with Server(*(f"--limit={one}" for one in limits), defaults=DEFAULTS, **how) as server:
        yield server


def seconds_of(action):
    began = time.monotonic()
    action()
    return time.monotonic() - began


def at_least(seconds, wanted, what):
    """A timer may be a little early against another clock."""
    check(seconds >= wanted * 0.95, f"{what}: {seconds:.2f} s, not {wanted} s")


def answered(client, requests):
    client.wait_all()
    check(all(request.done and not request.error for request in requests), "an answer is wrong")


def pipeline(client, count, command=READ, length=512, at=0):
    answered(client, [client.request(command, at + n * length, length,
                                     payload=content_of(length, n) if command == WRITE else b"")
                      for n in range(count)])


def test_operations():
    """S64: so many operations a second and no more, however they come, and all are answered."""
    # A tenth of a second's worth at once, the others one each 20 ms.
    for tcp in (False, True):
        with limited("iops=50", tcp=tcp) as server:
            for command in (READ, WRITE):
                client = server.client()
                took = seconds_of(lambda: pipeline(client, 40, command))
                at_least(took, 33 / 50, "40 operations")
                time.sleep(0.3)
                client.disc()


def test_group():
    """S64: a group of QEMU's names, to which the description of the image refers."""
    for names in ("x-iops-total=50", "limits.iops-read=50,limits.bps-write=1M"):
        server = Server("--object", f"throttle-group,id=slow,{names}", "--image-opts",
                        defaults=("-t", "-e", "0"))
        server.command[-1] = ("driver=throttle,throttle-group=slow,file.driver=raw,"
                              f"file.file.filename={server.image}")
        with server:
            client = server.client()
            took = seconds_of(lambda: pipeline(client, 40))
            at_least(took, 33 / 50, "40 operations")


def test_bytes():
    """S64: bytes a second, of reads and of writes; zeroes and TRIM count as operations alone."""
    with limited("bps=4M", size=8 * MIB) as server:
        client = server.client()
        for command in (READ, WRITE):
            took = seconds_of(lambda: pipeline(client, 16, command, 256 * 1024))
            at_least(took, (4 - 0.65) / 4, "4 MiB")
        check(server.bytes(0, 512) == content_of(512, 0), "what was written")
    with limited("bps=1k", size=8 * MIB) as server:
        client = server.client()
        for command in (TRIM, WRITE_ZEROES):
            check(not client.wait(client.request(command, 0, 8 * MIB)).error, "no bytes move")


def test_directions():
    """S64: a limit on writes does not hold up the reads of another client."""
    with limited("iops-write=1") as server:
        writer, reader = server.client(), server.client()
        writes = [writer.request(WRITE, n * 512, 512, payload=b"w" * 512) for n in range(5)]
        took = seconds_of(lambda: pipeline(reader, 500))
        check(took < 3, f"reads took {took:.1f} s")
        answered(writer, writes)


def test_bursts():
    """S64: a burst passes, then the rate holds."""
    with limited("iops=20,iops-max=200") as server:
        client = server.client()
        quick = seconds_of(lambda: pipeline(client, 190))
        slow = seconds_of(lambda: pipeline(client, 30))
        at_least(quick + slow, 0.9, "the burst and what followed")
        check(quick < 8, f"the burst took {quick:.1f} s, at the rate it would be 9.5")


def test_long_request():
    """S64: a request of many seconds' worth passes at once; the next one waits for what it took."""
    with limited("bps=8M", size=32 * MIB) as server:
        client = server.client()
        began = time.monotonic()
        data = client.data(0, 16 * MIB)
        client.data(0, 512)
        at_least(time.monotonic() - began, 1.85, "both")
        check(data == content_of(32 * MIB)[:16 * MIB], "content")


def test_fairness():
    """S64: connections of one group get the same, whatever they have in flight."""
    with limited("iops=200") as server:
        counts = [0] * 4
        stop = time.monotonic() + 2

        def play(n):
            client = server.client()
            while time.monotonic() < stop:
                pipeline(client, 32 if n == 0 else 1)
                counts[n] += 32 if n == 0 else 1
            client.disc()

        threads = [threading.Thread(target=play, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check(min(counts) * 4 >= max(counts) - 40, f"requests: {counts}")
        check(sum(counts) <= 200 * 2 + 20 + 40 + 4, f"more than the limit: {counts}")


def threads_of(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def test_no_thread_waits():
    """S64: a hundred clients wait for their place without a thread, and one that needs none is
    served."""
    with limited("iops-write=2") as server:
        clients = [server.client() for _ in range(100)]
        for n, client in enumerate(clients):
            for k in range(2):
                client.request(WRITE, (2 * n + k) * 512, 512, payload=b"w" * 512)
        time.sleep(0.5)
        reader = server.client()
        took = seconds_of(lambda: pipeline(reader, 200))
        check(took < 5, f"reads took {took:.1f} s")
        check(threads_of(server) <= 70, f"{threads_of(server)} threads")
        for client in clients:
            client.close()


def test_stop_does_not_wait():
    """S71: at SIGTERM what was received is answered at once, not at the limit's rate."""
    with limited("iops=1", size=MIB) as server:
        client = server.client()
        writes = [client.request(WRITE, n * 512, 512, payload=bytes([n + 1]) * 512)
                  for n in range(40)]
        time.sleep(0.3)
        took = seconds_of(server.stop)
        check(took < 9, f"the stop took {took:.1f} s")
        answered(client, writes)
        check(server.bytes(39 * 512, 512) == bytes([40]) * 512, "the last write")


def test_client_leaves():
    """S71: a client that has gone does not hold its slot until its place comes."""
    for tcp in (False, True):
        with Server("--limit=iops=1", "-e", "1", defaults=("-t", "-f", "raw"), tcp=tcp) as server:
            client = server.client()
            for n in range(30):
                client.request(WRITE, n * 512, 512, FUA, payload=bytes([n + 1]) * 512)
            client.request(DISC, 0, 0)
            client.close()
            began = time.monotonic()
            other = server.client()
            check(time.monotonic() - began < 5, "the slot was not free")
            other.disc()


def test_leaving_is_no_way_around():
    """S71: what a client asked for before it left is done at once, up to ten seconds' worth."""
    for tcp in (False, True):
        with Server("--limit=iops=1", defaults=("-t", "-f", "raw"), tcp=tcp, content="") as server:
            for turn in range(3):
                client = server.client()
                for n in range(40):
                    client.request(WRITE, (40 * turn + n) * 512, 512, payload=b"w" * 512)
                client.close()
            server.good()
            server.stop()
            written = [n for n in range(120) if server.bytes(n * 512, 1) == b"w"]
            check(2 <= len(written) <= 16, f"{len(written)} of 120 passed a limit of one a second")


def test_stream_in_pieces():
    """S64: requests cut anywhere, with payloads, behind one that waits."""
    with limited("iops=40", size=4 * MIB) as server:
        client = server.client()
        answered(client, [client.request(WRITE, n * 200000, 200000, payload=content_of(200000, n))
                          for n in range(12)])
        for n in range(12):
            check(server.bytes(n * 200000, 200000) == content_of(200000, n), f"write {n}")


def test_refused_requests_are_free():
    """S67: what is refused costs no budget."""
    with limited("iops=2") as server:
        client = server.client()
        took = seconds_of(lambda: [client.read(2 * MIB, 512) for _ in range(100)])
        check(took < 20, f"{took:.1f} s, at the rate it would be 50")


def test_statistics():
    """S64: statistics tell how many waited and how long; the wait is not latency."""
    hawser = os.path.join(os.path.dirname(program()), "hawser")
    with tempfile.TemporaryDirectory() as directory, Server(
            "--limit=iops=20", "--control", f"{directory}/control", defaults=DEFAULTS) as server:
        client = server.client()
        pipeline(client, 12)
        told = subprocess.run([hawser, "top", "--json", f"{directory}/control"],
                              capture_output=True, check=True).stdout
        numbers = json.loads(told)["exports"][0]
        check(3 <= numbers["throttled"] <= 10, f"{numbers['throttled']} throttled")
        check(numbers["throttled_ns"] >= 100_000_000, f"{numbers['throttled_ns']} ns")
        check(numbers["commands"]["read"]["requests"] == 12, "requests")
        client.disc()


main(globals())
