# SPDX-License-Identifier: MIT
"""
The clients of the soak. Each is a function(soak) that runs in a thread of its own and works until
soak.stop is set; what goes wrong it tells by soak.fail(). The server may be ended under it: then
soak.ending is set, and losing the connection is no fault.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))
from harness import ALLOCATION, MIB, content_of  # noqa: E402
from nbdraw import (ENOSPC, EIO, OPT_LIST, READ, WRITE, Client, Dropped, Violation,  # noqa: E402
                    info_data)

# Who works where in the image.
CROWD_AT = 4 * MIB
FIO_AT, FIO_SIZE = 8 * MIB, 4 * MIB
QEMU_AT, QEMU_SIZE = 12 * MIB, 4 * MIB
FAULTY_AT, FAULTY_SIZE = 16 * MIB, 2 * MIB  # where faults of the storage are errors
SIZE = 24 * MIB
PEER_SECONDS = 120


def patient(soak, work):
    """Runs work() again and again; a lost connection ends it only where it is expected."""
    while not soak.stop.is_set():
        try:
            work()
        except (Dropped, OSError) as error:
            if not soak.ending.is_set():
                soak.fail(f"{work.__name__}: lost the server: {error!r}")
                return
            time.sleep(0.05)
        except Violation as error:
            soak.fail(f"{work.__name__}: {error}")
            return


def raw_player(soak, player, mode):
    """Random operations, each byte verified; what was on its way at a crash may be or not be."""
    def play():
        client = soak.client(mode, [ALLOCATION] if mode != "simple" else ())
        player.client = client
        try:
            player.verify()
            for _ in range(player.rng.randrange(5, 60)):
                if soak.stop.is_set():
                    break
                client.send(player.batch())
                client.wait_all()
                player.judge()
                player.verify()
            if player.rng.random() < 0.5:
                client.disc()
        except (Dropped, OSError):
            player.judge()
            raise
        finally:
            client.close()
            soak.count("batches")
    patient(soak, play)


def crowd(soak, group):
    """Several connections over each other; begins anew when the server was ended."""
    def jostle():
        group.clients = [soak.client("structured"), soak.client("simple"), soak.client("extended")]
        try:
            group.known = group.clients[0].data(group.start, len(group.known))
            for _ in range(10):
                if soak.stop.is_set():
                    break
                group.round(5)
                soak.count("rounds")
        finally:
            for client in group.clients:
                client.close()
    patient(soak, jostle)


def faulty(soak):
    """Writes where the storage fails: errors are told as what they are, the connection lives."""
    def write():
        with soak.client("structured") as client:
            for n in range(50):
                if soak.stop.is_set():
                    break
                request = client.write(FAULTY_AT + n * 4099 % MIB, content_of(70000, n))
                if request.error not in (0, EIO, ENOSPC):
                    raise Violation(f"{request}")
                soak.count("faulty writes")
            client.in_sync()
    patient(soak, write)


# ---- Programs ----

def run_peer(soak, name, command, strict=True):
    """One run of a program; its failure counts unless the server is being ended."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace",
                               cwd=soak.folder, start_new_session=True)
    deadline = time.monotonic() + PEER_SECONDS
    while True:
        try:
            said, _ = process.communicate(timeout=0.1)
            break
        except subprocess.TimeoutExpired:
            if soak.stop.is_set() or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                if not soak.stop.is_set():
                    soak.fail(f"{name}: does not end in {PEER_SECONDS} s")
                return
    if process.returncode and strict and not soak.ending.is_set():
        soak.fail(f"{name}: status {process.returncode}: {said[-600:]}")
    soak.count(name)


def program(name):
    """A loop that runs a program, or nothing where it is not installed."""
    def decorate(make_command):
        def loop(soak):
            found = shutil.which(name) or (os.path.exists(name) and name)
            while found and not soak.stop.is_set():
                run_peer(soak, os.path.basename(name), make_command(soak))
        loop.__name__ = make_command.__name__
        return loop
    return decorate


@program("nbdcopy")
def nbdcopy(soak):
    return ["nbdcopy", soak.uri(), "null:"]


@program("nbdinfo")
def nbdinfo(soak):
    return ["nbdinfo", "--map", soak.uri()]


@program("fio")
def fio(soak):
    size = random.choice(("4k", "64k", "4k-128k"))
    return ["fio", "--name=soak", "--ioengine=nbd", f"--uri={soak.uri()}", "--rw=randwrite",
            f"--bsrange={size}" if "-" in size else f"--bs={size}", f"--offset={FIO_AT}",
            f"--size={FIO_SIZE}", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1",
            "--do_verify=1", "--thread", "--group_reporting"]


@program("qemu-io")
def qemu_io(soak):
    commands = []
    for _ in range(20):
        length = random.randrange(1, 40) * 4096
        at = QEMU_AT + random.randrange((QEMU_SIZE - length) // 512) * 512
        byte = random.randrange(1, 256)
        commands += ["-c", f"write -P {byte} {at} {length}", "-c", f"read -P {byte} {at} {length}",
                     "-c", f"write -z {at} {length}", "-c", f"read -P 0 {at} {length}"]
    return ["qemu-io", "-f", "raw", *commands, "-c", "flush", soak.uri()]


def bench_load(soak):
    where = (["--tcp", "127.0.0.1:%d" % soak.server.port] if soak.server.port
             else ["--unix", soak.server.path])
    while not soak.stop.is_set():
        depth, connections = random.choice(((1, 1), (16, 4), (64, 2)))
        run_peer(soak, "bench-load", [soak.bench_load, *where, "--op", "read", "--depth",
                                      str(depth), "--connections", str(connections),
                                      "--block-size", random.choice(("4k", "64k", "1m")),
                                      "--seconds", "0.5"])


# ---- Those who mean harm ----

def greeted(soak):
    return Client(soak.server.address).greet()


def garbage_haggler(soak, rng):
    with greeted(soak) as client:
        client.send(rng.randbytes(rng.randrange(1, 5000)))


def endless_haggler(soak, rng):
    with greeted(soak) as client:
        for _ in range(rng.randrange(200)):
            client.send_option(OPT_LIST)
        client.send_option(7, info_data("x" * rng.randrange(5000)))


def garbage_sender(soak, rng):
    with soak.client(rng.choice(("simple", "structured", "extended"))) as client:
        client.send(rng.randbytes(rng.randrange(1, 5000)))


def vanisher(soak, rng):
    with soak.client("structured") as client:
        client.send(b"".join(client.prepare(READ, n % 16 * MIB, MIB // 2)[1] for n in range(64)))
        if rng.random() < 0.5:
            client.receive(rng.randrange(1, 100000))
        client.reset() if rng.random() < 0.5 else client.close()


def half_payload(soak, rng):
    with soak.client("simple") as client:
        length = rng.choice((4096, 100000, 3 * MIB))
        header = client.prepare(WRITE, FAULTY_AT + FAULTY_SIZE, length)[1]
        client.send(header + bytes(rng.randrange(length)))
        time.sleep(rng.choice((0, 0, 0.2)))
        client.reset()


def slow_reader(soak, _rng):
    with soak.client("structured") as client:
        client.send(b"".join(client.prepare(READ, 0, 8 * MIB)[1] for _ in range(8)))
        for _ in range(20):
            client.receive(1000)
            if soak.stop.wait(0.02):
                break


HARM = (garbage_haggler, endless_haggler, garbage_sender, vanisher, half_payload, slow_reader)


def hostile(soak):
    rng = random.Random()
    while not soak.stop.is_set():
        try:
            rng.choice(HARM)(soak, rng)
        except (Dropped, Violation, OSError):
            pass  # what becomes of them is not the question
        soak.count("hostile")
        soak.stop.wait(0.01)
