#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Pages on their way to a client that does not read. Large replies are pages of the image file; when
their clusters are freed and get other bytes, the client must not see those.
"""

import fcntl
import os
import select
import socket
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "protocol"))
sys.dont_write_bytecode = True

from harness import MIB, Server, check, content_of, main  # noqa: E402
from nbdraw import DISC, READ, until  # noqa: E402
from qcow2disk import tool  # noqa: E402

SCRATCH = os.environ.get("TMPDIR", "/var/tmp")
WRITABLE = ("-t", "-e", "0", "-f", "qcow2", "--discard=unmap")
HOST_EOPNOTSUPP = 95
DATA = 4 * MIB  # so much of the disk is there at the start
HELD = MIB  # so much of it waits for a client


def make_image(directory, cluster="64k", data=DATA):
    raw, image = os.path.join(directory, "raw"), os.path.join(directory, "image")
    with open(raw, "wb") as out:
        out.write(content_of(data))
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster}", raw,
         image)
    tool("qemu-img", "resize", "-q", image, str(4 * data))
    os.unlink(raw)
    return image


def waiting(client):
    """Bytes that the client could read."""
    return struct.unpack("i", fcntl.ioctl(client.sock.fileno(), termios.FIONREAD, bytes(4)))[0]


def stands_still(client):
    before = waiting(client)
    time.sleep(0.1)
    return waiting(client) == before


def hung_up(client):
    poll = select.poll()
    poll.register(client.sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def ask(server, mode):
    """A client whose answer is in its socket and stays there."""
    client = server.client(mode)
    client.data(0, HELD)  # it is in the page cache now, and the metadata in memory
    request = client.request(READ, 0, HELD)
    until(lambda: waiting(client) >= HELD, "the answer is in the socket")
    return client, request


def free_and_reuse(client, data=DATA):
    """Frees what the image has, and fills places anew; the old ones come first."""
    check(client.trim(0, data).error == 0, "TRIM fails")
    for _ in range(2):
        check(client.flush().error == 0, "FLUSH fails")
    for at in range(data, 2 * data, HELD):
        check(client.write(at, b"\xee" * HELD).error == 0, "WRITE fails")
    check(client.flush().error == 0, "FLUSH fails")


def check_old(data, what):
    """Bytes from before, or zeroes."""
    old = content_of(len(data))
    for at in range(0, len(data), 512):
        got, was = data[at:at + 512], old[at:at + 512]
        check(got == was or all(byte in (0, other) for byte, other in zip(got, was)),
              f"{what}: other bytes at {at}: {got[:16].hex()}")


def reuse(directory, mode, punch):
    image = make_image(directory)
    with Server(image=image, defaults=WRITABLE, fault=True) as server:
        if not punch:
            server.faults.set(f"allocate {HOST_EOPNOTSUPP}")
        slow, request = ask(server, mode)
        size = os.path.getsize(image)
        busy = server.client()
        free_and_reuse(busy)
        slow.wait(request)
        check_old(request.data, f"{mode}, {'punched' if punch else 'kept'}")
        # What the slow client held comes into use once it has been read.
        check(busy.trim(DATA, DATA).error == 0, "TRIM fails")
        for _ in range(2):
            check(busy.flush().error == 0, "FLUSH fails")
        for at in range(2 * DATA, 3 * DATA, HELD):
            check(busy.write(at, b"\xdd" * HELD).error == 0, "WRITE fails")
        grown = os.path.getsize(image) - size
        check(grown <= HELD + 4 * 65536, f"the file grew by {grown} bytes")
        check(busy.data(2 * DATA, DATA) == b"\xdd" * DATA, "what was written last")
        check(not any(busy.data(0, 2 * DATA)), "what was discarded")
    tool("qemu-img", "check", image)
    os.unlink(image)


def test_clusters_of_a_slow_client():
    """S77: a cluster is freed and used anew while its pages wait for a client: the client gets the old
    bytes, whether the host can punch holes or not, and the cluster is not lost."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for mode in ("simple", "structured"):
            for punch in (False, True):
                reuse(directory, mode, punch)


def test_clusters_of_a_client_that_left():
    """S77: the same where the connection is over, but its last answer was never read."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        image = make_image(directory)
        with Server(image=image, defaults=WRITABLE, fault=True) as server:
            server.faults.set(f"allocate {HOST_EOPNOTSUPP}")
            gone, request = ask(server, "structured")
            gone.send(gone.prepare(DISC)[1])
            until(lambda: hung_up(gone), "the server has hung up")
            free_and_reuse(server.client())
            gone.wait(request)
            check_old(request.data, "after DISC")
            gone.expect_drop("S88")
        tool("qemu-img", "check", image)


def test_many_slow_clients():
    """S77: many clients that do not read, and runs of several clusters in an answer."""
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        image = make_image(directory, "4k")
        with Server(image=image, defaults=WRITABLE, fault=True) as server:
            server.faults.set(f"allocate {HOST_EOPNOTSUPP}")
            slow = [ask(server, "simple") for _ in range(20)]
            busy = server.client()
            free_and_reuse(busy)
            for client, request in slow:
                client.wait(request)
                check_old(request.data, "among many")
        tool("qemu-img", "check", image)


def test_places_change_under_a_reader():
    """S77: most of an answer is not yet in the socket when its clusters are freed and used anew:
    that part is looked up again."""
    length = 16 * MIB
    with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
        for tcp in (False, True):
            for mode in ("simple", "structured"):
                image = make_image(directory, "1M", length)
                with Server(image=image, defaults=WRITABLE, fault=True, tcp=tcp) as server:
                    server.faults.set(f"allocate {HOST_EOPNOTSUPP}")
                    slow = server.client(mode)
                    slow.data(0, length)
                    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                    server.faults.forget()
                    request = slow.request(READ, 0, length)
                    until(lambda s=slow: waiting(s) > 0, "the answer begins")
                    until(lambda s=slow: stands_still(s), "the socket is full")
                    free_and_reuse(server.client(), length)
                    slow.wait(request)
                    check_old(request.data, f"{mode}, {'TCP' if tcp else 'Unix'}")
                    # What had left the page cache was fetched as it was, before all that.
                    fetched = any(op[0] == "read" and op[2] >= HELD
                                  for op in server.faults.operations())
                    check(fetched or not any(request.data[-MIB:]),
                          f"{mode}, {'TCP' if tcp else 'Unix'}: the end was not looked up again")
                tool("qemu-img", "check", image)
                os.unlink(image)


if __name__ == "__main__":
    main(globals())
