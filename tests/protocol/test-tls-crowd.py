#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many TLS handshakes at once, at all of their stages: threads take them a step further while the
main loop goes on. Clients leave, fall silent, or are there when the server reloads or ends."""

import os
import shutil
import signal
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

from harness import MIB, Server, background, check, content_of, main, negotiate, until
from nbdraw import OPT_GO, OPT_LIST, READ, WRITE, Dropped, Export, info_data
from pki import Pieces, option_bytes, pki, secure, starttls

CROWD = 128
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def tls_server(*options, folder=None, **how):
    return Server(*pki().x509(folder), *options, **how)


def in_transmission(server, **how):
    client = negotiate(secure(server.greeted(), **how), "structured")
    check(isinstance(client.go(), Export), "GO")
    return client


def serves(server):
    """A client comes, is served, and goes."""
    client = in_transmission(server)
    client.in_sync()
    client.disc()
    client.close()


# ---- Stages: each leaves a client in the middle of its handshake ----


def version_of(number, client="client"):
    """Both versions take turns."""
    return pki().context(client, VERSIONS[number % 2])


def answered(server, context=None):
    """The client has the server's first flight."""
    pieces = Pieces(server.greeted(), context)
    pieces.client.send(pieces.flight())
    pieces.receive()
    return pieces


def cut(data, part):
    return data[:int(len(data) * part)]


def acknowledged(server, number):
    return starttls(server.greeted())


def hello_begun(server, number):
    pieces = Pieces(server.greeted())
    pieces.client.send(cut(pieces.flight(), number % 97 / 97))
    return pieces.client


def hello_sent(server, number):
    """A thread is at work for it, or soon will be."""
    pieces = Pieces(server.greeted(), version_of(number))
    pieces.client.send(pieces.flight())
    return pieces.client


def hello_wrong(server, number):
    pieces = Pieces(server.greeted())
    hello = bytearray(pieces.flight())
    hello[number % len(hello)] ^= 0xff
    pieces.client.send(bytes(hello))
    return pieces.client


def flight_begun(server, number):
    pieces = answered(server, version_of(number))
    pieces.client.send(cut(pieces.flight(), number % 89 / 89))
    return pieces.client


def flight_sent(server, number):
    pieces = answered(server, version_of(number))
    pieces.client.send(pieces.flight())
    return pieces.client


def stranger(server, number):
    """Its certificate is of another authority."""
    pieces = answered(server, version_of(number, "client-other"))
    pieces.client.send(pieces.flight())
    return pieces.client


def option_begun(server, number):
    pieces = Pieces(server.greeted())
    pieces.shake(pieces.client.send)
    pieces.tls.write(option_bytes(OPT_GO, info_data("")))
    pieces.client.send(cut(pieces.outgoing.read(), number % 7 / 7))
    return pieces.client


STAGES = [acknowledged, hello_begun, hello_sent, hello_wrong, flight_begun, flight_sent, stranger,
          option_begun]


def crowd(server, count=CROWD, stages=None):
    stages = stages or STAGES
    return [stages[n % len(stages)](server, n) for n in range(count)]


def leave(clients):
    for number, client in enumerate(clients):
        if number % 2:
            client.reset()
        client.close()


# ---- Tests ----


def test_dropped_at_each_stage():
    """S7: clients that leave in the middle, all together or one by one, cost nothing but
    themselves; a client in transmission and those who come are served meanwhile."""
    for tcp in (False, True):
        with tls_server(tcp=tcp) as server:
            old = in_transmission(server)
            for _ in range(3):
                clients = crowd(server)
                old.in_sync()
                serves(server)
                leave(clients)
                old.in_sync()
            for stage in STAGES:
                for number in range(8):
                    leave([stage(server, number)])
            serves(server)


def threads_of(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def test_mute_beside_live():
    """S7: a mute client costs no thread, whatever it has said before, and hinders nobody. More of
    them than may negotiate push each other out, not those who go on."""
    with tls_server("--handshake-limit=60") as server:
        mute = crowd(server, stages=[acknowledged, hello_begun, flight_begun, option_begun])
        until(lambda: threads_of(server) <= 4, "no thread is held")
        serves(server)
        mute += crowd(server, 400, [acknowledged, flight_begun])
        serves(server)
        mute[0].expect_drop("S7")
        mute[-1].sock.setblocking(False)
        with_end = False
        try:
            with_end = mute[-1].sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            pass
        check(not with_end, "the last one was pushed out")


def test_silent_to_the_limit():
    """S7: at any stage the limit counts from the beginning, threads or not."""
    with tls_server("--handshake-limit=2") as server:
        stages = [acknowledged, hello_begun, flight_begun, hello_sent]
        for client in crowd(server, 32, stages):
            until(lambda sock=client.sock: ended(sock), "the limit")
        serves(server)


def ended(sock):
    sock.setblocking(False)
    try:
        while True:
            if not sock.recv(65536):
                return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def in_parallel(count, work):
    """Runs work(number) in threads; the first failure of any of them."""
    faults = []

    def run(number):
        try:
            work(number)
        except Exception as error:  # told by the caller's thread
            faults.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if faults:
        raise faults[0]


def test_many_at_once():
    """S47 S59: handshakes that run side by side do not mix: each client reads its own bytes; traces
    of each are in order."""
    with tls_server(size=4 * MIB) as server:
        path = f"{server.directory}/trace"
        server.command[1:1] = ["-T", f"*,file={path}"]
        server.stop()
        server.spawn()
        until(server.listening, "server listens")

        def work(number):
            for turn in range(4):
                client = in_transmission(server, context=version_of(turn))
                offset = number * 4096 + turn
                data = client.data(offset, 70000)
                check(data == server.bytes(offset, 70000), f"client {number}, turn {turn}")
                client.disc()
                client.close()

        in_parallel(8, work)
        wanted = ["connection_accepted", "handshake_option", "tls_begin", "tls_end",
                  "handshake_option", "handshake_done", "connection_closed"]
        until(lambda: Path(path).read_text().count("connection_closed") == 32, "all have gone")
        orders = {}
        for line in Path(path).read_text().splitlines():
            if " client=" not in line:
                continue
            name = line.split(" client=")[0].split(":")[-1].split(" ")[-1]
            who = line.split(" client=")[1].split()[0]
            orders.setdefault(who, []).append(name)
        check(len(orders) == 32, f"{len(orders)} clients")
        for who, names in orders.items():
            at = iter(names)
            check(all(name in at for name in wanted), f"client {who}: {names}")


def test_reload_in_the_middle():
    """SIGHUP while 128 clients shake hands: who has begun goes on with the certificate that it was
    shown, who begins gets the new one."""
    folder = pki().folder("reload-crowd", "server", "client")
    with tls_server(folder=folder) as server:
        begun = [answered(server, version_of(n)) for n in range(32)]
        mute = crowd(server)
        for part in ("cert", "key"):
            shutil.copy(pki().path(f"server-new-{part}.pem"), f"{folder}/server-{part}.pem")

        def arrive(stop):
            while not stop.is_set():
                leave([flight_sent(server, 0)])

        with background(arrive), background(arrive):
            for _ in range(20):
                server.process.send_signal(signal.SIGHUP)
                time.sleep(0.01)
        until(lambda: in_transmission(server).sock.getpeercert(True)
              == pki().der("server-new-cert.pem"), "new certificate")
        for pieces in begun:
            pieces.shake(pieces.client.send)
            check(pieces.tls.getpeercert(True) == pki().der("server-cert.pem"), "another one")
            answer = pieces.option(OPT_LIST, pieces.client.send)
            check(struct.unpack(">I", answer[8:12])[0] == OPT_LIST, f"{answer!r}")
        leave(mute)
        serves(server)


def test_end_in_the_middle():
    """S71: SIGTERM among 128 handshakes: it ends with status 0 and waits for none of them."""
    for storm in (False, True):
        with tls_server(ends=True) as server:
            crowd(server)

            def arrive(stop):
                try:
                    while not stop.is_set():
                        flight_sent(server, 0)
                        hello_sent(server, 1)
                except (Dropped, ConnectionError, OSError, ssl.SSLError):
                    pass

            with background(arrive if storm else lambda stop: stop.wait()):
                time.sleep(0.1 * storm)
                check(server.stop() == 0, f"status {server.process.returncode}")


def test_drain_in_the_middle():
    """S71: what a client has sent before SIGTERM is answered although others shake hands, and
    those who shake hands do not hold up the end."""
    with tls_server(fault=True, ends=True) as server:
        server.faults.set("write delay:100", "nowait 11")
        client = in_transmission(server)
        clients = crowd(server, 64)
        requests = [client.request(WRITE, n * 4096, 4096, payload=content_of(4096, n))
                    for n in range(8)]
        until(lambda: server.faults.operations(), "the first request is done")
        late = [answered(server) for _ in range(8)]
        server.process.send_signal(signal.SIGTERM)
        for pieces in late:
            try:
                pieces.shake(pieces.client.send)
            except (Dropped, ConnectionError, ssl.SSLError):
                pass
        for number, request in enumerate(requests):
            check(not client.wait(request).error, f"{request}")
            check(server.bytes(number * 4096, 4096) == content_of(4096, number), "lost write")
        check(server.wait() == 0, f"status {server.process.returncode}")
        leave(clients)


if __name__ == "__main__":
    main(globals())
