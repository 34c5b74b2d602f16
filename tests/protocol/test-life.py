#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The server's life as its clients see it: slots, the last client, signals, sockets (S10, S71)."""

import os
import signal
import socket
import subprocess
import time

from harness import MIB, Server, check, content_of, dropped, main, program, until
from nbdraw import (DISC, ERR, ERR_SHUTDOWN, ESHUTDOWN, FUA, OPT_ABORT, OPT_LIST, READ, WRITE,
                    Client, Dropped, Export, Violation)

ONE = ("-f", "raw")  # -e 1, ends with the last client
MANY = ("-f", "raw", "-e", "0")


def ended(server):
    return server.process.poll() is not None


def check_ended(server):
    check(server.wait() == 0, f"ended with {server.process.returncode}")
    check(not os.path.exists(server.path), "socket left behind")


def test_ends_with_the_client():
    """S88: without -t the server exits 0 when its client says DISC, and removes its socket."""
    for mode in ("simple", "structured"):
        with Server(defaults=ONE, ends=True) as server:
            client = server.client(mode)
            client.in_sync()
            client.disc()
            check_ended(server)


def test_ends_with_a_client_that_dies():
    """S72: the same when the client just goes, or came by EXPORT_NAME."""
    with Server(defaults=ONE, ends=True) as server:
        server.client().close()
        check_ended(server)
    with Server(defaults=ONE, ends=True, tcp=True) as server:
        server.client().reset()
        check_ended(server)
    with Server(defaults=ONE, ends=True) as server:
        client = server.greeted()
        client.export_name()
        client.disc()
        check_ended(server)


def test_probes_do_not_count():
    """S11 S24: connects, LIST, INFO, failed GO, ABORT and bad EXPORT_NAME do not end a server
    that waits for one client."""
    with Server(defaults=ONE, ends=True) as server:
        server.connect().close()
        server.connect().sock.shutdown(socket.SHUT_WR)
        server.greeted().close()
        client = server.greeted()
        client.list()
        client.info()
        client.go("no such export")
        check(client.option(OPT_ABORT).ok, "ABORT")
        client = server.greeted()
        client.send_option(1, b"no such export")
        client.expect_drop("S13")
        client = server.greeted()
        client.list()
        client.close()
        time.sleep(0.3)
        check(not ended(server), "a probe ended the server")
        good = server.client()
        good.in_sync()
        good.disc()
        check_ended(server)


def test_ends_with_the_last_client():
    """S88: with -e 0 and without -t, the last of three clients ends it."""
    with Server(defaults=MANY, ends=True) as server:
        clients = [server.client() for _ in range(3)]
        for client in clients[:2]:
            client.disc()
        time.sleep(0.3)
        check(not ended(server), "ended with a client left")
        clients[2].in_sync()
        clients[2].disc()
        check_ended(server)


def test_persistent():
    """S88: with -t it serves one client after the other."""
    with Server() as server:
        for _ in range(5):
            server.good()
        check(not ended(server), "ended in spite of -t")


def test_excess_clients_notice():
    """S7: with -e 1 the second client learns within seconds that there is no room, the third
    gets it when the first leaves."""
    with Server("-e", "1", defaults=("-t", "-f", "raw")) as server:
        first = server.client()
        began = time.monotonic()

        def second():
            client = server.greeted()
            result = client.go()
            if isinstance(result, Export):
                raise AssertionError("two clients in spite of -e 1")
            check(result.kind & ERR, f"{result}")

        dropped(second)
        check(time.monotonic() - began < 30, "the second client waits")
        first.in_sync()
        first.disc()
        until(lambda: not dropped(server.good), "the slot is free again")


def test_slots():
    """S7: -e 3 serves three at a time, again and again, and never four."""
    with Server("-e", "3", defaults=("-t", "-f", "raw")) as server:
        clients, fourth = [], []

        def three():
            try:
                clients.append(server.client())
            except (Dropped, Violation):
                pass  # the last round's are still leaving
            return len(clients) == 3

        for _ in range(5):
            clients.clear()
            until(three, "three clients are served")
            for client in clients:
                client.in_sync()
            if not fourth:
                fourth.append(server.greeted().go())
                check(not isinstance(fourth[0], Export), "a fourth client is served")
            for client in clients:
                client.disc()


def test_list_takes_no_slot():
    """S15: LIST and INFO work at once while the only slot is taken."""
    with Server("-e", "1", defaults=("-t", "-f", "raw")) as server:
        first = server.client()
        started = time.monotonic()
        for _ in range(3):
            with server.greeted() as client:
                check(client.list() == [("", "")], "LIST")
                check(isinstance(client.info(), Export), "INFO")
                client.option(OPT_ABORT)
        check(time.monotonic() < started + 1.5, "somebody waited for a slot")
        first.in_sync()
        first.disc()


def test_signals():
    """S71: SIGTERM, SIGINT and SIGHUP end it with status 0, socket removed, clients closed."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Server(ends=True) as server:
            client = server.client()
            client.in_sync()
            server.process.send_signal(number)
            client.expect_drop("S71")
            check_ended(server)


def test_drain():
    """S71: requests received before SIGTERM are finished (or refused with ESHUTDOWN), then the
    connection ends; nothing is half done."""
    with Server(fault=True, ends=True) as server:
        server.faults.set("write delay:100", "read delay:100", "nowait 11")
        clients = [server.client(mode) for mode in server.modes()]
        writes = []
        for client in clients:
            for n in range(8):
                writes.append((client, n, client.request(
                    WRITE, n * 4096, 4096, payload=content_of(4096, n))))
            client.request(READ, 0, 4096)
        until(lambda: server.faults.operations(), "the first request is done")
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            try:
                client.wait_all()
                client.expect_drop("S71")
            except Dropped:
                check(not client.pending, f"no answer to {client.pending}")
        check_ended(server)
        for client, n, request in writes:
            check(request.error in (0, ESHUTDOWN), f"{request}")
            if not request.error:
                check(server.bytes(n * 4096, 4096) == content_of(4096, n), "lost write")


def test_drain_syncs():
    """S71 S87: what was written is synced before a clean exit."""
    with Server(fault=True, ends=True) as server:
        client = server.client()
        check(not client.write(0, b"x" * 4096).error, "write")
        server.process.send_signal(signal.SIGTERM)
        check_ended(server)
        names = [op[0] for op in server.faults.operations()]
        check("write" in names and "sync" in names[names.index("write"):], f"{names}")


def test_drain_serves_what_was_sent():
    """S71: a client that was idle and had sent a request when the signal came is answered."""
    with Server(ends=True) as server:
        clients = [server.client(mode) for mode in server.modes()]
        for client in clients:
            client.in_sync()
        time.sleep(0.3)  # idle ones are parked
        server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        requests = [client.request(WRITE, n * 4096, 4096, payload=content_of(4096, n))
                    for n, client in enumerate(clients)]
        server.process.send_signal(signal.SIGCONT)
        for n, (client, request) in enumerate(zip(clients, requests)):
            check(not client.wait(request).error, f"{request}")
            check(server.bytes(n * 4096, 4096) == content_of(4096, n), "lost write")
            client.expect_drop("S71")
        check_ended(server)


def test_drain_ends_the_busy():
    """S71: a client that never stops asking does not keep the server from ending."""
    with Server(ends=True) as server:
        client = server.client()
        client.in_sync()
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

        def ask():
            while time.monotonic() < started + 60:
                client.data(0, 4096)
        check(dropped(ask), "the client is served for a minute")
        check(time.monotonic() < started + 8, "it took until the limit")
        check_ended(server)


def slow_reader(server):
    """A client on TCP that takes little at a time, so that replies stand at the server."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.connect(("127.0.0.1", server.port))
    client = Client(sock)
    client.greet()
    client.export_name()
    return client


def test_last_replies_arrive():
    """S71 S72: bytes that the server does not read any more do not cost the peer the replies before
    them: a socket that is closed with input unread resets the connection under those."""
    for goodbye in ("DISC", "magic", "payload"):
        with Server(tcp=True, size=4 * MIB) as server:
            client = slow_reader(server)
            reads = [client.request(READ, n * 256 * 1024, 256 * 1024) for n in range(16)]
            if goodbye == "DISC":
                client.request(DISC)
            if goodbye == "payload":
                client.send(client.prepare(WRITE, 0, 1 << 30)[1])
            client.send(b"nonsense" * 20000)
            for read in reads:
                check(not client.wait(read).error, f"{goodbye}: {read}")
            check(client.sock.recv(64) == b"", f"{goodbye}: bytes instead of the end")
            client.close()
            server.good()


def test_options_during_shutdown():
    """S10: while it shuts down, options get ERR_SHUTDOWN; GO never succeeds."""
    with Server(fault=True, ends=True) as server:
        server.faults.set("write delay:2000")
        haggling = server.greeted()
        busy = server.client()
        busy.request(WRITE, 0, 4096, payload=b"d" * 4096)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)

        while True:
            reply = haggling.option(OPT_LIST)
            check(reply.ok or reply.kind == ERR_SHUTDOWN, f"{reply}")
            if not reply.ok:
                break
            time.sleep(0.05)
        check(not isinstance(haggling.go(), Export), "GO during the shutdown")
        check_ended(server)
        check(server.bytes(0, 4096) == b"d" * 4096, "the write before the signal is lost")


def test_new_connections_during_shutdown():
    """S71: a connection that comes during the shutdown is refused or closed."""
    with Server(fault=True, ends=True) as server:
        server.faults.set("write delay:1500")
        busy = server.client()
        busy.request(WRITE, 0, 4096, payload=b"d" * 4096)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        try:
            with Client(server.address) as late:
                late.greet()
                check(not isinstance(late.go(), Export), "a late client is served")
        except (Dropped, OSError):
            pass
        check_ended(server)


def test_second_signal():
    """S71: further signals do no harm, close together or not: all is flushed and closed."""
    with Server(fault=True, ends=True) as server:
        server.faults.set("sync delay:50")
        client = server.client()
        client.request(WRITE, 0, 4096, payload=b"d" * 4096, flags=FUA)
        for _ in range(50):
            if not ended(server):
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.002)
        check(server.wait() in (0, -signal.SIGTERM), f"status {server.process.returncode}")


def test_stop_with_deaf_client():
    """S71: a client that takes no replies cannot hold up the end for ever."""
    with Server(size=4 * MIB, ends=True) as server:
        client = server.client()
        client.sock.settimeout(1)
        try:
            for _ in range(64):
                client.request(READ, 0, MIB)
        except Violation:
            pass  # back-pressure
        server.process.send_signal(signal.SIGTERM)
        check_ended(server)


def run_second(server):
    return subprocess.run([program(), "-t", "-r", "-f", "raw", "-k", server.path, server.image],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)


def test_live_socket_is_refused():
    """A socket on which a server answers is not taken over, and stays."""
    with Server("-r") as server:
        done = run_second(server)
        check(done.returncode == 1 and server.path in done.stderr, f"{done}")
        check(os.path.exists(server.path), "the live socket is gone")
        server.good()


def test_stale_socket_is_replaced():
    """A socket that a killed server left is replaced."""
    with Server(ends=True) as server:
        server.process.kill()
        server.process.wait()
        check(os.path.exists(server.path), "the kill removed the socket")
        server.spawn()
        until(server.listening, "server listens")
        server.good()
        server.stop()
        check_ended(server)


def test_other_file_at_socket_path():
    """What is no socket is not removed."""
    with Server("-r", ends=True) as server:
        server.stop()
        with open(server.path, "w", encoding="ascii") as out:
            out.write("precious")
        done = run_second(server)
        check(done.returncode == 1, f"{done}")
        with open(server.path, encoding="ascii") as kept:
            check(kept.read() == "precious", "the file was changed")


def test_bind_needs_image():
    """The image is opened before the socket is bound: no image, no socket."""
    with Server("-r") as server:
        path = server.path + "2"
        for image in (server.directory, server.directory + "/missing"):
            done = subprocess.run([program(), "-f", "raw", "-k", path, image],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=60, check=False)
            check(done.returncode == 1 and image in done.stderr, f"{done}")
            check(not os.path.exists(path), "a failed start leaves its socket")


def test_offset_beyond_image():
    """-o beyond the end is refused at start, at the end is an empty export or refused."""
    with Server("-r") as server:
        for offset in (MIB + 1, 1 << 63, (1 << 64) - 1):
            done = subprocess.run([program(), "-f", "raw", "-o", str(offset), "-k",
                                   server.path + "2", server.image], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=60, check=False)
            check(done.returncode == 1, f"-o {offset}: {done}")


def test_socket_activation():
    """LISTEN_FDS: the server takes a listening socket and serves it."""
    with Server(ends=True) as scratch:
        scratch.stop()
        with socket.socket(socket.AF_UNIX) as listener:
            path = scratch.path + "-activation"
            listener.bind(path)
            listener.listen(10)
            os.set_inheritable(listener.fileno(), True)
            script = f'exec 3<&{listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            with subprocess.Popen(["bash", "-c", script, "bash", program(), "-f", "raw",
                                   scratch.image], pass_fds=[listener.fileno()],
                                  stdin=subprocess.DEVNULL) as process:
                with Client(path) as client:
                    client.greet()
                    client.go()
                    client.in_sync()
                    client.disc()
                check(process.wait(60) == 0, f"status {process.returncode}")


main(globals())
