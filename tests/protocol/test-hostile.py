#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Peers that mean harm, or die at bad moments. After each of them a good client is served, and
memory, threads and descriptors are back where they were. CVE numbers name the fault in another
server that a test would have found.
"""

import os
import random
import socket
import struct
import threading
import time

from harness import (ALLOCATION, MIB, Server, Skip, background, check, content_of, dropped, main,
                     until)
from nbdraw import (CACHE, ERR, IHAVEOPT, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
                    OPT_LIST_META, OPT_SET_META, OPT_STARTTLS, OPT_STRUCTURED_REPLY, READ, WRITE,
                    Client, Dropped, Violation, info_data, meta_data)

# Far above what a server needs, far below what a leak per connection or byte would take.
RESIDENT_KIB = 700 * 1024
SLACK = 70


def status_of(server, field):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def descriptors(server):
    """How many are open. Idle threads may keep a few for seconds, so compare with SLACK."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def plain():
    """Not a sanitizer's build, whose memory says nothing."""
    return os.environ.get("SANITIZER", "plain") == "plain"


def options(*pairs):
    return b"".join(struct.pack(">QII", IHAVEOPT, option, len(data)) + data
                    for option, data in pairs)


CONVERSATION = struct.pack(">I", 3) + options(
    (OPT_STRUCTURED_REPLY, b""), (OPT_LIST, b""), (OPT_SET_META, meta_data("", [ALLOCATION])),
    (OPT_INFO, info_data("")), (OPT_GO, info_data(""))) + b"".join(
        struct.pack(">IHHQQI", 0x25609513, 0, command, 1, 0, 16) + bytes(16) * (command == 1)
        for command in (0, 1, 6, 7, 3))


def test_close_at_every_byte():
    """S1 S7 S72: the client leaves after each byte of a whole conversation (CVE-2017-9524)."""
    with Server() as server:
        before = descriptors(server)
        for cut in range(len(CONVERSATION) + 1):
            client = server.connect()
            client.send(CONVERSATION[:cut])
            if cut % 3:
                client.sock.shutdown(socket.SHUT_RDWR)
            client.close()
        server.clients.clear()
        server.good()
        until(lambda: descriptors(server) <= before + SLACK, "descriptors are closed")


def test_reset_at_every_byte():
    """S72: the same with RST over TCP, after reading nothing (CVE-2017-10664, SIGPIPE)."""
    with Server(tcp=True) as server:
        before = descriptors(server)
        for cut in range(0, len(CONVERSATION) + 1, 3):
            client = server.connect()
            client.send(CONVERSATION[:cut])
            client.reset()
        server.clients.clear()
        server.good()
        until(lambda: descriptors(server) <= before + SLACK, "descriptors are closed")


def test_port_probes():
    """S72: 300 connections that close at once."""
    for tcp in (False, True):
        with Server(tcp=tcp) as server:
            for n in range(300):
                client = Client(server.address)
                client.reset() if n % 2 else client.close()
            server.good()


def test_garbage_in_negotiation():
    """S7: random bytes, with and without good client flags before them (CVE-2017-7539)."""
    rng = random.Random(7539)
    with Server() as server:
        for n in range(150):
            client = server.connect()
            client.sock.settimeout(0.01)
            start = b"" if n % 3 == 0 else struct.pack(">I", 3)
            if n % 3 == 2:
                start += struct.pack(">QI", IHAVEOPT, rng.randrange(12))
            dropped(lambda c=client, s=start: c.send(s + rng.randbytes(rng.randrange(3000))))
            client.close()
        server.clients.clear()
        server.good()


def test_garbage_in_transmission():
    """S72: random bytes and random requests behind a good GO."""
    rng = random.Random(72)
    with Server(size=65536) as server:
        for n in range(150):
            client = server.client(rng.choice(server.modes()), [] if n % 2 else [])
            blob = b""
            for _ in range(rng.randrange(1, 20)):
                if n % 3:
                    blob += struct.pack(">IHHQQI", 0x25609513, rng.choice((0, 0, rng.getrandbits(
                        16))), rng.randrange(10), rng.getrandbits(64), rng.choice((0, 4096,
                            rng.getrandbits(64))), rng.choice((0, 512, rng.getrandbits(32))))
                else:
                    blob += rng.randbytes(rng.randrange(100))
            client.sock.settimeout(0.05)
            try:
                client.send(blob)
            except (Dropped, Violation):
                pass  # the server may leave, or wait for a payload that never comes
            client.close()
        server.clients.clear()
        server.good()


def test_mute_client():
    """S7: who says nothing, or stops in an option, is dropped at the handshake deadline."""
    with Server("--handshake-limit", "1") as server:
        mute = [server.connect() for _ in range(4)]
        for client in mute:
            client.receive(18)
        mute[1].send(struct.pack(">I", 3))
        mute[2].send(struct.pack(">IQ", 3, IHAVEOPT))
        mute[3].send(struct.pack(">IQII", 3, IHAVEOPT, OPT_GO, 100) + b"half")
        for client in mute:
            client.expect_drop("handshake deadline")
        server.good()


def test_dripping_client():
    """S7: a byte now and then does not move the deadline."""
    with Server("--handshake-limit", "1") as server:
        client = server.connect()
        client.receive(18)

        def drip():
            client.send(struct.pack(">IQII", 3, IHAVEOPT, OPT_GO, 4000))
            for _ in range(600):
                client.send(b"x")
                time.sleep(0.1)

        check(dropped(drip), "a dripping client is served for a minute")
        server.good()


def test_busy_haggler():
    """S7: endless options do not move the deadline either (or are cut by a limit)."""
    with Server("--handshake-limit", "1") as server:
        client = server.greeted()
        deadline = time.monotonic() + 60

        def haggle():
            while time.monotonic() < deadline:
                client.list()

        check(dropped(haggle), "a client haggles for a minute")
        server.good()


def test_no_deadline_after_go():
    """S72: a negotiated client may be silent for longer than the handshake limit."""
    with Server("--handshake-limit", "1") as server:
        clients = [server.client(mode) for mode in server.modes()]
        time.sleep(2.5)
        for client in clients:
            client.in_sync()
            client.disc()


def test_half_open_clients():
    """S7: 200 half-open clients, and a good one is served beside them (CVE-2024-7409)."""
    for tcp in (False, True):
        with Server(tcp=tcp) as server:
            before = descriptors(server)
            for n in range(200):
                client = server.connect()
                if n % 2:
                    client.send(struct.pack(">IQ", 3, IHAVEOPT))
            server.good()
            for client in server.clients:
                client.close()
            until(lambda: descriptors(server) <= before + SLACK, "descriptors are closed")
            server.good()


def test_thousand_half_open_clients():
    """S7: more half-open clients than any limit: the oldest go, a good one is still served."""
    with Server("--handshake-limit", "20") as server:
        for _ in range(600):
            try:
                server.connect()
            except OSError:
                break  # the backlog is full: also an answer

        def good():
            return not dropped(server.good)

        until(good, "a good client is served")
        check(descriptors(server) < 256 + SLACK, f"{descriptors(server)} descriptors")
        check(status_of(server, "VmRSS") < RESIDENT_KIB, "memory")


def test_stop_with_half_open_clients():
    """S71: SIGTERM ends a server with 100 half-open clients (CVE-2024-7409)."""
    with Server("--handshake-limit", "0") as server:
        for n in range(100):
            client = server.connect()
            if n % 2:
                client.send(CONVERSATION[:n])
        server.good()


def test_mute_client_takes_no_slot():
    """S7: with -e 1, mute clients do not keep a good one out."""
    with Server("-e", "1", "--handshake-limit", "0", defaults=("-t", "-f", "raw")) as server:
        for _ in range(5):
            server.connect().receive(18)
        server.good()
        server.good()


def test_option_lengths():
    """S7 S8: declared option lengths up to 2^32 - 1 cost no memory and no time
    (CVE-2017-15119)."""
    chunk = b"\0" * MIB
    with Server() as server:
        for option in (OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO,
                       OPT_SET_META, OPT_STRUCTURED_REPLY, 99):
            for length in (65536, MIB, 32 * MIB, 32 * MIB + 1, 64 * MIB, 0x7FFFFFFF, 0x80000000,
                           0xFFFFFFFF):
                client = server.greeted()

                def flood(client=client, length=length, option=option):
                    client.send_option(option, b"", length)
                    for _ in range(min(length // MIB + 1, 40)):
                        client.send(chunk)
                    client.receive(1)

                if length > 64 * MIB:
                    check(dropped(flood), f"option {option}: 40 MiB of {length} are swallowed")
                else:
                    client.send_option(option, b"", length)
                client.close()
        check(status_of(server, "VmRSS") < RESIDENT_KIB, "memory")
        server.good()


def test_length_edges_inside_options():
    """S19 S39: name lengths of every edge in every option (CVE-2017-15118, 2022-26495/6)."""
    edges = (0, 1, 255, 256, 257, 3000, 4095, 4096, 4097, 65535, 0x7FFFFFFF, 0x80000000,
             0xFFFFFFF9, 0xFFFFFFFA, 0xFFFFFFFE, 0xFFFFFFFF)
    with Server() as server:
        client = server.greeted()
        client.structured_reply()
        for length in edges:
            for body in (b"", b"x" * 100, b"x" * 5000):
                data = struct.pack(">I", length) + body
                for option in (OPT_INFO, OPT_GO, OPT_LIST_META, OPT_SET_META):
                    reply = client.option(option, data)
                    check(reply.kind & ERR, f"option {option}, length {length}: {reply}")
        for count in edges:
            for option in (OPT_LIST_META, OPT_SET_META):
                reply = client.option(option, struct.pack(">II", 0, count) + b"\0" * 64)
                check(reply.kind & ERR or count in (0, 1), f"{count} queries: {reply}")
        client.go()
        client.in_sync()
        client.disc()


def test_long_names_echoed():
    """S6 S28: unknown names of 4096 bytes in all options that echo a name (CVE-2020-10761)."""
    with Server() as server:
        client = server.greeted()
        client.structured_reply()
        for name in (b"n" * 4096, "ü".encode() * 2048, "🚢".encode() * 1024):
            for option, data in ((OPT_INFO, info_data(name)), (OPT_GO, info_data(name)),
                                 (OPT_SET_META, meta_data(name, [ALLOCATION])),
                                 (OPT_LIST_META, meta_data(name, []))):
                check(client.option(option, data).kind & ERR, f"option {option}")
            long = meta_data("", [name])
            for option in (OPT_SET_META, OPT_LIST_META):
                client.option(option, long)
        client.go()
        client.in_sync()
        client.disc()


def test_reader_that_stops():
    """S72: a client that queues 256 reads of 1 MiB and takes none costs bounded memory; others
    are served; the server stops with it connected."""
    for tcp in (False, True):
        with Server(tcp=tcp, size=4 * MIB) as server:
            for mode in server.modes():
                client = server.client(mode)
                client.sock.settimeout(1)
                try:
                    for _ in range(256):
                        client.request(READ, 0, MIB)
                except Violation:
                    pass  # the server stopped to take requests: back-pressure
            for _ in range(5):
                server.good()
            check(status_of(server, "VmRSS") < RESIDENT_KIB, "memory")
            for client in server.clients:
                client.reset()
            server.clients.clear()
            server.good()


def test_haggler_that_stops_reading():
    """S7: thousands of LIST whose answers nobody reads."""
    with Server("-D", "d" * 4000, "-x", "x") as server:
        client = server.greeted()
        client.sock.settimeout(1)
        before = status_of(server, "RssAnon")
        try:
            client.send(options((OPT_LIST, b"")) * 200000)
        except (Dropped, Violation):
            pass
        grown = status_of(server, "RssAnon") - before
        check(not plain() or grown < 6 * 1024, f"{grown} KiB more for answers that nobody takes")
        check(status_of(server, "VmRSS") < RESIDENT_KIB, "memory")
        with server.greeted() as other:
            check(other.list() == [("x", "d" * 4000)], "LIST")


def test_stop_in_payload():
    """S84: a client that stops in the middle of a payload holds up nobody, and leaves no half
    write when it goes; the server stops with one of them connected."""
    with Server(size=4 * MIB) as server:
        for mode in server.modes():
            for size in (4096, 2 * MIB):
                client = server.client(mode)
                header = client.prepare(WRITE, 0, size)[1]
                client.send(header + b"\xee" * (size // 2))
                server.good()
                client.reset()
        last = server.client()
        last.send(last.prepare(WRITE, 0, 2 * MIB)[1] + b"\xee" * MIB)
        server.good()


def test_stalled_payload_ends():
    """S84: clients that stop in the middle of a request or its payload are dropped after half a
    minute, and idle ones are not."""
    if not plain():
        raise Skip("nothing but waiting: once is enough")
    with Server(size=4 * MIB) as server:
        idle = server.client()
        stalled = []
        for sent in (1, 27, 28, 29, 28 + MIB):
            client = server.client()
            header = client.prepare(WRITE, 0, 2 * MIB)[1]
            client.send((header + bytes(2 * MIB))[:sent])
            stalled.append(client)
        started = time.monotonic()
        for client in stalled:
            client.sock.settimeout(60)
            client.expect_drop("S84")
        check(time.monotonic() > started + 20, "dropped too early")
        idle.in_sync()


def test_slow_disk_bounds_memory():
    """S72: clients that send far more than a slow disk takes wait; memory does not grow."""
    limit = 200 if plain() else 900
    payload = content_of(4 * MIB)
    with Server(size=32 * MIB, fault=True) as server:
        server.faults.set("write delay:100")
        clients = [server.client() for _ in range(4)]
        most = 0

        def push(client):
            client.pipeline([client.prepare(WRITE, 1 + n % 7 * 4 * MIB, 4 * MIB, 0, payload)[1]
                             for n in range(24)])
        threads = [threading.Thread(target=push, args=(client,), daemon=True)
                   for client in clients]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, status_of(server, "RssAnon"))
            time.sleep(0.02)
        check(most < limit * 1024, f"{most} KiB")
        for client in clients:
            client.in_sync()


def test_bytes_of_the_dead():
    """S72: clients that go in the middle of a large reply leave nothing in what the next client
    gets."""
    with Server(size=8 * MIB) as server:
        whole = content_of(8 * MIB)
        for n in range(20):
            client = server.client("simple")
            client.request(READ, n * 4096, 6 * MIB)
            client.receive(16 + n)
            client.close()
            with server.client("simple" if n % 2 else "structured") as other:
                check(other.data(MIB, 2 * MIB) == whole[MIB:3 * MIB], "bytes of another reply")


def test_gone_with_requests_in_flight():
    """S72: clients that vanish with 128 requests on their way, slow ones among them."""
    for tcp in (False, True):
        with Server(tcp=tcp, size=8 * MIB, fault=True) as server:
            server.faults.set("read delay:5", "nowait 11", "write delay:5")
            before = descriptors(server)
            for n in range(6):
                for mode in server.modes():
                    client = server.client(mode)
                    blobs = [client.prepare(READ, k * 65536, 65536)[1] if (k + n) % 2 else
                             client.prepare(WRITE, k * 65536, 4096, payload=b"w" * 4096)[1]
                             for k in range(128)]
                    client.sock.settimeout(1)
                    try:
                        client.send(b"".join(blobs))
                        if n % 3 == 1:
                            client.receive(100)
                    except Violation:
                        pass  # back-pressure: it need not take them all
                    client.reset()
            server.clients.clear()
            server.faults.clear()
            server.good()
            until(lambda: descriptors(server) <= before + SLACK, "descriptors are closed")


def test_many_connections():
    """S72: 150 clients at once, each busy, each served; idle ones cost little."""
    with Server(size=MIB) as server:
        clients = [server.client() for _ in range(150)]
        for _ in range(3):
            requests = [client.request(READ, 4096 * (n % 200), 4096)
                        for n, client in enumerate(clients)]
            for client, request in zip(clients, requests):
                client.wait(request)
        check(status_of(server, "VmRSS") < RESIDENT_KIB, "memory")
        for client in clients:
            client.disc()
        until(lambda: status_of(server, "Threads") < 100, "threads end")


def test_coming_and_going():
    """S72: 400 clients one after the other leave no descriptor and no thread."""
    with Server() as server:
        server.good()
        before = descriptors(server)
        for n in range(400):
            client = server.client("simple" if n % 2 else "structured")
            client.in_sync()
            if n % 3:
                client.disc()
            client.close()
            server.clients.clear()
        until(lambda: descriptors(server) <= before + SLACK, "descriptors are closed")
        until(lambda: status_of(server, "Threads") < 40, "threads end")


def test_storm_beside_good_client():
    """S72: a good client's data is right while others come, die and talk junk."""
    with Server(size=4 * MIB) as server:
        def storm(stop):
            rng = random.Random(1)
            while not stop.is_set():
                try:
                    with Client(server.address) as client:
                        client.send(CONVERSATION[:rng.randrange(len(CONVERSATION) + 1)])
                except (OSError, Dropped):
                    pass

        with background(storm), background(storm):
            client = server.client()
            for n in range(300):
                payload = content_of(8192, n)
                check(not client.write(MIB + n * 4096, payload).error, "write")
                check(client.data(MIB + n * 4096, 8192) == payload, "read")
            client.disc()


def test_cache_flood():
    """S90: CACHE of a huge sparse export, hundreds of times, does not block others."""
    with Server(size=64 << 30, content="") as server:
        client = server.client("simple")
        for _ in range(50):
            client.request(CACHE, 0, 0xFFFFFFFF)
        server.good()
        client.wait_all()
        client.disc()


def test_descriptor_limit():
    """S7: at the limit of descriptors the server does not spin, and recovers."""
    import resource
    with Server("--handshake-limit", "0", limits={resource.RLIMIT_NOFILE: 64}) as server:
        for _ in range(100):
            try:
                server.connect()
            except OSError:
                break
        ticks = cpu_ticks(server)
        time.sleep(1)
        used = (cpu_ticks(server) - ticks) / os.sysconf("SC_CLK_TCK")
        check(used < 0.3, f"{used} s of processor time in one idle second")
        for client in server.clients:
            client.close()
        server.clients.clear()
        until(lambda: not dropped(server.good), "recovery")


def cpu_ticks(server):
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_idle_costs_nothing():
    """S72: 50 idle clients, negotiated, cost no processor time."""
    with Server() as server:
        clients = [server.client() for _ in range(50)]
        time.sleep(0.5)
        ticks = cpu_ticks(server)
        time.sleep(1)
        used = (cpu_ticks(server) - ticks) / os.sysconf("SC_CLK_TCK")
        check(used < 0.3, f"{used} s of processor time in one idle second")
        for client in clients:
            client.disc()


main(globals())
