#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
--auto-read-only: the image is open for writing, and locked for it, only while a client is there
that may write. Seen from outside: its descriptors, its lock bytes, what clients are told, and what
other programs may do meanwhile. Not part of the wire protocol, hence no S-number but for S26 (INFO
and GO tell the same).
"""

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time

from harness import MIB, Server, Skip, check, content_of, main, program, until
from nbdraw import EPERM, Export

SETLK, GETLK = 37, 36  # F_OFD_SETLK, F_OFD_GETLK
BYTES = (100, 101, 102, 103, 200, 201, 202, 203)
FLOCK = "hhqqi4x"
READ_ONLY = 2
REST, READ, WRITE = [100], [100, 201, 203], [100, 101, 201, 203]
WRITE_QCOW2 = [100, 101, 103, 201, 203]
AUTO = ("-t", "-e", "0", "--auto-read-only", "-f", "raw")
AUTO_QCOW2 = ("-t", "-e", "0", "--auto-read-only", "-f", "qcow2")


def held(path):
    """The bytes on which anybody else holds a lock."""
    with open(path, "rb") as image:
        answer = []
        for byte in BYTES:
            query = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            if struct.unpack(FLOCK, fcntl.fcntl(image, GETLK, query))[0] != fcntl.F_UNLCK:
                answer.append(byte)
        return answer


class Holder:
    """Somebody else with lock bytes on the image."""

    def __init__(self, path, *numbers):
        self.file = open(path, "rb")  # pylint: disable=consider-using-with
        for byte in numbers:
            fcntl.fcntl(self.file, SETLK,
                        struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def modes(server):
    """How the server has the image open: a set of r and w."""
    answer, fds = set(), f"/proc/{server.process.pid}/fd"
    for name in os.listdir(fds):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(f"{fds}/{name}", server.image):
                with open(f"/proc/{server.process.pid}/fdinfo/{name}", encoding="ascii") as info:
                    flags = int(info.read().split("flags:")[1].split()[0], 8)
                answer.add("w" if flags & os.O_ACCMODE else "r")
    return answer


def settles(server, locks):
    """The image gets to that state, and is open accordingly."""
    wanted = {"w"} if 101 in locks else {"r"}
    until(lambda: held(server.image) == locks, f"locks {locks}, not {held(server.image)}")
    until(lambda: modes(server) == wanted, f"open for {wanted}, not {modes(server)}")


def writable(client):
    return not client.export.flags & READ_ONLY


def writer(server, **how):
    client = server.client(**how)
    check(writable(client), "the client may write")
    return client


def said(server, text):
    return server.stderr().count(text)


def make_qcow2(path, *options, size="8M"):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img is not installed")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)


@contextlib.contextmanager
def qcow2(*options, size="8M", extra=()):
    """A server for a qcow2 image."""
    with Server(size=0) as scratch:
        scratch.stop()
        scratch.check_end()
        os.unlink(scratch.image)
        make_qcow2(scratch.image, *options, size=size)
        with Server(*extra, image=scratch.image, defaults=AUTO_QCOW2) as server:
            yield server


def qemu_io(path, *commands, form="raw", status=0):
    if not shutil.which("qemu-io"):
        raise Skip("qemu-io is not installed")
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", form, *words, path], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    check((done.returncode == 0) == (status == 0), f"{commands}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


# ---- Up and down ----

def test_rests_without_clients():
    """Nobody is there: open for reading, and others may do anything."""
    with Server(defaults=AUTO) as server:
        check(held(server.image) == REST, f"{held(server.image)}")
        check(modes(server) == {"r"}, f"{modes(server)}")
        qemu_io(server.image, "write -P 0x11 0 4k")


def test_up_and_down():
    """A client comes: writable; the last one leaves: at rest again. Many times."""
    with Server(defaults=AUTO) as server:
        for turn in range(5):
            first = writer(server)
            settles(server, WRITE)
            second = writer(server)
            check(not second.write(turn * 4096, b"%d" % turn * 4096).error, "a write")
            second.disc()
            check(first.data(turn * 4096, 1) == b"%d" % turn, "the other one sees it")
            check(held(server.image) == WRITE, "one writer is still there")
            first.disc()
            settles(server, REST)
        with open(server.image, "rb") as image:
            check(image.read(5 * 4096) == b"".join(b"%d" % n * 4096 for n in range(5)), "bytes")


def test_partition():
    """S84: one partition (-P) of an image that rests: the way up and down, and its limits."""
    entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + struct.pack("<II", 2048, 4096)
    content = content_of(8 * MIB)[:446] + entry + bytes(48) + b"\x55\xaa"
    content += content_of(8 * MIB)[512:]
    with Server("-P", "1", content=content, size=8 * MIB, defaults=AUTO) as server:
        settles(server, REST)
        client = server.client()
        settles(server, WRITE)
        check(client.export.size == 2 * MIB, f"{client.export.size} bytes")
        check(not client.write(2 * MIB - 512, b"p" * 512).error, "write")
        check(client.write(2 * MIB, b"p" * 512).error, "a write behind the partition")
        client.disc()
        settles(server, REST)
        check(server.bytes() == content[:3 * MIB - 512] + b"p" * 512 + content[3 * MIB:], "bytes")


def test_every_way_in():
    """EXPORT_NAME makes it writable as GO does."""
    with Server(defaults=AUTO) as server:
        client = server.greeted()
        client.export_name()
        check(writable(client), "flags of EXPORT_NAME")
        check(held(server.image) == WRITE, f"{held(server.image)}")
        client.close()
        settles(server, REST)


def test_list_does_not_open():
    """Who only lists changes nothing; nor does one who says nothing."""
    with Server(defaults=AUTO) as server:
        server.connect()
        client = server.greeted()
        client.list()
        check(held(server.image) == REST, f"{held(server.image)}")


def test_info_and_go_tell_the_same():
    """S26: what INFO said holds until the connection ends, whatever others do."""
    with Server(defaults=AUTO) as server:
        client = server.greeted()
        told = client.info()
        check(isinstance(told, Export) and not told.flags & READ_ONLY, "INFO: writable")
        check(held(server.image) == WRITE, "INFO keeps the image for this client")
        check(client.info().flags == told.flags and client.go().flags == told.flags, "the same")
        client.disc()
        settles(server, REST)

        with Holder(server.image, 201):
            client = server.greeted()
            told = client.info()
            check(told.flags & READ_ONLY, "INFO: read-only")
        check(client.go().flags == told.flags, "GO as INFO, though it would be possible now")
        check(client.write(0, b"x").error == EPERM, "and it is so")
        client.disc()
        settles(server, REST)

        client = server.greeted()
        client.info()
        client.close()
        settles(server, REST)


def test_ends_with_the_last_client():
    """Without -t: all is on the disk and unlocked when the server has ended."""
    with Server(defaults=("--auto-read-only", "-f", "raw"), ends=True) as server:
        client = writer(server)
        check(not client.write(0, b"last").error, "a write")
        client.disc()
        check(server.wait() == 0, "status")
        with open(server.image, "rb") as image:
            check(image.read(4) == b"last", "what was written")
        check(held(server.image) == [], "no locks")


def test_stop_with_a_writer():
    """SIGTERM while a client may write, and while nobody is there."""
    with Server(defaults=AUTO) as server:
        client = writer(server)
        check(not client.write(0, b"here").error, "a write")
    with Server(defaults=AUTO) as server:
        pass


def test_drain_syncs():
    """The writer's data is synced before the image is closed for writing."""
    with Server(defaults=AUTO, fault=True) as server:
        client = writer(server)
        check(not client.write(0, b"x" * 4096).error, "a write")
        client.disc()
        settles(server, REST)
        names = [row[0] for row in server.faults.operations()]
        check("sync" in names[names.index("write"):], f"{names}")


def test_direct():
    """The same around the page cache, with writes that are not aligned."""
    with Server("--cache=none", defaults=AUTO, size=MIB + 100) as server:
        for turn in range(3):
            client = writer(server)
            check(not client.write(MIB + 90 - turn, b"%d" % turn).error, "the last block")
            check(not client.write(1000 * turn + 3, b"abc").error, "inside a block")
            client.disc()
            settles(server, REST)
        client = writer(server)
        check(client.data(MIB + 88, 3) == b"210" and client.data(2003, 3) == b"abc", "bytes")


# ---- Others ----

def test_a_reader_stands_in_the_way():
    """Somebody reads and wants no writer (201): read-only, said once; later ones may write."""
    with Server(defaults=AUTO) as server:
        with Holder(server.image, 100, 201):
            first = server.client()
            check(not writable(first), "told READ_ONLY")
            check(not first.export.flags & (1 << 5 | 1 << 6), "no TRIM, no WRITE_ZEROES")
            second = server.client()
            check(not writable(second), "the second, too")
            for client in (first, second):
                check(client.write(0, b"x").error == EPERM, "EPERM")
                check(client.data(0, 4096) == content_of(4096), "reading works")
            check(modes(server) == {"r"}, f"{modes(server)}")
            until(lambda: said(server, "exporting read-only") == 1, server.stderr())
            check('Failed to get "write" lock' in server.stderr(), server.stderr())
        third = writer(server)
        check(held(server.image) == WRITE, f"{held(server.image)}")
        check(not third.write(0, b"third").error, "the third writes")
        check(first.write(0, b"x").error == EPERM, "what was told stays")
        check(first.data(0, 5) == b"third", "and it reads what is there")
        third.disc()
        settles(server, READ)
        first.disc()
        second.disc()
        settles(server, REST)
        with Holder(server.image, 201):
            server.client().disc()
            until(lambda: said(server, "exporting read-only") == 2, "after success it is said anew")


def test_a_writer_stands_in_the_way():
    """Somebody else writes: no client is served, the server lives on."""
    with Server(defaults=AUTO) as server:
        with Holder(server.image, 100, 101, 203):
            client = server.greeted()
            for _ in range(2):
                reply = client.go()
                check(not isinstance(reply, Export), "refused")
                check(b'"write" lock' in reply.data, f"{reply.data}")
            name = server.greeted()
            name.send_option(1, b"")
            name.expect_drop("EXPORT_NAME cannot be refused")
        check(isinstance(client.go(), Export) and writable(client), "it may try again")
        client.disc()
        settles(server, REST)


def test_readers_keep_writers_out():
    """While a read-only client reads, nobody else may write."""
    with Server(defaults=AUTO) as server:
        with Holder(server.image, 201):
            client = server.client()
            check(held(server.image) == READ, f"{held(server.image)}")
        qemu_io(server.image, "write 0 4k", status=1)
        client.disc()
        settles(server, REST)
        qemu_io(server.image, "write 0 4k")


def test_passing_locks():
    """Who looks at the image only for a moment does not make a client read-only."""
    with Server(defaults=AUTO) as server:
        stop = threading.Event()

        def look():
            while not stop.is_set():
                with Holder(server.image, 100, 201, 203):
                    time.sleep(0.004)
                time.sleep(0.02)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(5):
                client = writer(server)
                client.disc()
                settles_without_others(server)
        finally:
            stop.set()
            thread.join()


def settles_without_others(server):
    until(lambda: modes(server) == {"r"}, f"{modes(server)}")


def test_taking_turns():
    """Two servers of one image: whoever has a client has it."""
    for defaults in (AUTO, AUTO_QCOW2):
        with contextlib.ExitStack() as stack:
            if defaults is AUTO:
                one = stack.enter_context(Server(defaults=AUTO))
            else:
                one = stack.enter_context(qcow2())
            other = stack.enter_context(Server(image=one.image, defaults=defaults))
            for turn in range(3):
                a, b = (one, other) if turn % 2 else (other, one)
                client = writer(a)
                check(not client.write(65536 * turn, b"%d" % turn * 65536).error, "a write")
                reply = b.greeted().go()
                check(not isinstance(reply, Export) or reply.flags & READ_ONLY,
                      "the other has it")
                client.disc()
                settles(a, REST)
                client = writer(b)
                check(client.data(65536 * turn, 65536) == b"%d" % turn * 65536,
                      "the other one's bytes")
                client.disc()
                settles(b, REST)
            sized = one.image
        if defaults is not AUTO:
            check(sized, "qcow2 was tried")


def test_both_at_once():
    """Two servers that are asked at the same moment: never both, and the images stay good."""
    with qcow2() as one, Server(image=one.image, defaults=AUTO_QCOW2) as other:
        for turn in range(10):
            clients = []

            def come(server):
                client = server.greeted()
                if isinstance(client.go(), Export):
                    clients.append(client)

            threads = [threading.Thread(target=come, args=(s,)) for s in (one, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            writers = [client for client in clients if writable(client)]
            check(len(writers) <= 1, "two writers")
            for client in writers:
                check(not client.write(turn * 65536, b"%d" % turn * 65536).error, "a write")
            for client in clients:
                client.disc()
            settles(one, REST)
            settles(other, REST)
        subprocess.run(["qemu-img", "check", "-q", one.image], check=True)


def test_what_others_wrote():
    """At rest others write, and let the image grow: the next client sees all of it."""
    with Server(defaults=AUTO) as server:
        writer(server).disc()
        settles(server, REST)
        qemu_io(server.image, "write -P 0x33 64k 64k")
        os.truncate(server.image, 2 * MIB)
        client = writer(server)
        check(client.export.size == 2 * MIB, f"size {client.export.size}")
        check(client.data(65536, 65536) == b"\x33" * 65536, "bytes of others")
    with qcow2() as server:
        client = writer(server)
        check(not client.write(0, b"1" * 65536).error, "a write")
        client.disc()
        settles(server, REST)
        qemu_io(server.image, "write -P 0x44 0 64k", "write -P 0x55 4M 1M", form="qcow2")
        subprocess.run(["qemu-img", "resize", "-q", server.image, "16M"], check=True)
        client = writer(server)
        check(client.export.size == 16 * MIB, f"size {client.export.size}")
        check(client.data(0, 65536) == b"\x44" * 65536, "an overwritten cluster")
        check(client.data(4 * MIB, MIB) == b"\x55" * MIB, "new clusters")
        check(not client.write(15 * MIB, b"2" * 65536).error, "the new end")
        client.disc()
        settles(server, REST)
        subprocess.run(["qemu-img", "check", "-q", server.image], check=True)
        check("read 65536" in qemu_io(server.image, "read -P 0x32 15M 64k", form="qcow2"), "there")


def test_snapshots_and_backing_of_others():
    """At rest the image gets a snapshot, and another backing file; the chain is not locked."""
    with qcow2() as server:
        base = server.image + ".base"
        writer(server).disc()
        settles(server, REST)
        subprocess.run(["qemu-img", "snapshot", "-c", "s", server.image], check=True)
        with open(base, "wb") as file:
            file.write(b"B" * (8 << 20))
        subprocess.run(["qemu-img", "rebase", "-u", "-b", base, "-F", "raw", server.image],
                       check=True)
        client = writer(server)
        check(client.data(MIB, 4096) == b"B" * 4096, "the new backing file")
        check(held(base) == READ, f"{held(base)}")
        check(not client.write(0, b"mine").error, "a write")
        client.disc()
        settles(server, REST)
        until(lambda: held(base) == REST, f"{held(base)}")
        subprocess.run(["qemu-img", "check", "-q", server.image], check=True)


def test_replaced_by_name():
    """The name leads to another file by now: the one that was opened is served."""
    with Server(defaults=AUTO) as server:
        os.rename(server.image, server.image + ".old")
        with open(server.image, "wb") as file:
            file.write(b"\0" * MIB)
        client = writer(server)
        check(not client.write(0, b"mine").error, "a write")
        client.disc()
        with open(server.image + ".old", "rb") as file:
            check(file.read(4) == b"mine", "to the file that was opened")


def test_nonsense_of_others():
    """At rest the image becomes something else: clients are refused until it is good again."""
    with qcow2() as server:
        with open(server.image, "r+b") as file:
            good = file.read()
            file.seek(0)
            file.write(b"\0" * 4096)
        reply = server.greeted().go()
        check(not isinstance(reply, Export), "refused")
        with open(server.image, "r+b") as file:
            file.write(good)
        client = writer(server)
        check(not client.write(0, b"x" * 4096).error, "served again")


# ---- Nothing is written before a client writes ----

def state(path):
    status = os.stat(path)
    with open(path, "rb") as image:
        return hashlib.sha256(image.read()).digest(), status.st_mtime_ns, status.st_size


def test_nothing_before_the_first_write():
    """Coming, reading, flushing and leaving changes no byte, not even of a dirty image."""
    with qcow2("-o", "lazy_refcounts=on") as server:
        with open(server.image, "r+b") as image:  # as after a crash, with an unknown autoclear bit
            image.seek(72)
            image.write(struct.pack(">Q", 1))
            image.seek(88)
            image.write(struct.pack(">Q", 1 << 40))
        before = state(server.image)
        for _ in range(2):
            client = writer(server)
            check(client.data(0, 65536) == bytes(65536), "reads")
            check(not client.flush().error, "flush")
            client.disc()
            settles(server, REST)
        check(state(server.image) == before, "something was written")
        client = writer(server)
        check(not client.write(0, b"x" * 512).error, "the first write")
        client.disc()
        settles(server, REST)
        subprocess.run(["qemu-img", "check", "-q", server.image], check=True)


def test_metadata_is_there_at_rest():
    """When the last writer has left without a flush, others find a clean image."""
    with qcow2() as server:
        for turn in range(4):
            client = writer(server)
            for place in range(0, 8 * MIB, MIB):
                check(not client.write(place + turn * 4096, b"%d" % turn * 4096).error, "a write")
            check(not client.trim(turn * 2 * MIB, 65536).error, "trim")
            client.close()
            settles(server, REST)
            subprocess.run(["qemu-img", "check", "-q", server.image], check=True)
            qemu_io(server.image, f"read -P {0x30 + turn} {5 * MIB + turn * 4096} 4k",
                    form="qcow2") if turn != 2 else None


def test_killed():
    """kill -9 with a writer there: the next start takes over, nothing acknowledged and flushed is
    lost."""
    with qcow2() as scratch:
        scratch.stop()
        for turn in range(3):
            with Server(image=scratch.image, defaults=AUTO_QCOW2, ends=True) as server:
                client = writer(server)
                check(not client.write(turn * MIB, b"%d" % turn * MIB).error, "a write")
                check(not client.flush().error, "flush")
                check(not client.write(turn * MIB + 5 * MIB, b"lost?" * 1000).error, "a write")
                server.process.send_signal(signal.SIGKILL)
                server.wait()
                check(held(scratch.image) == [], "locks stay behind")
        with Server(image=scratch.image, defaults=AUTO_QCOW2) as server:
            client = writer(server)
            for turn in range(3):
                check(client.data(turn * MIB, MIB) == b"%d" % turn * MIB, "what was flushed")


# ---- What cannot be written at all ----

def immutable(path, on):
    done = subprocess.run(["chattr", "+i" if on else "-i", path], capture_output=True, check=False)
    if done.returncode:
        raise Skip("no immutable files here")


def test_immutable():
    """A file that nobody may write: said at the start, and not again; writable when that ends."""
    with Server(size=MIB) as scratch:
        scratch.stop()
        scratch.check_end()
        immutable(scratch.image, True)
        try:
            with Server(image=scratch.image, defaults=AUTO) as server:
                check(said(server, "exporting read-only: Could not open") == 1, server.stderr())
                first = server.client()
                check(not writable(first), "told READ_ONLY")
                server.client().disc()
                check(said(server, "exporting read-only") == 1, server.stderr())
                immutable(scratch.image, False)
                client = writer(server)
                check(not client.write(0, b"now").error, "a write")
                immutable(scratch.image, True)
                client.disc()
                first.disc()
                settles(server, REST)
                check(not writable(server.client()), "told READ_ONLY")
                until(lambda: said(server, "exporting read-only") == 2, server.stderr())
        finally:
            immutable(scratch.image, False)


def test_read_only_mount():
    """A read-only bind mount: read-only, whatever the file's own mode."""
    if os.geteuid() or not shutil.which("unshare"):
        raise Skip("only root can mount")
    with Server(size=MIB) as scratch:
        scratch.stop()
        scratch.check_end()
        folder = os.path.dirname(scratch.image)
        socket = os.path.join(folder, "inner")
        script = (f"mount --bind {scratch.image} {scratch.image} && "
                  f"mount -o remount,ro,bind {scratch.image} && "
                  f"exec {program()} {' '.join(AUTO)} --run 'nbdinfo --json \"$uri\"' "
                  f"{scratch.image}")
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True,
                              text=True, timeout=60, check=False)
        if "mount" in done.stderr or "unshare" in done.stderr:
            raise Skip(done.stderr)
        check('"is_read_only": true' in done.stdout, done.stdout + done.stderr)
        check(done.stderr.count("Read-only file system") == 1, done.stderr)
        check(not os.path.exists(socket), "nothing stays")


def test_other_user():
    """A file that only its owner may write, and a server of somebody else."""
    if os.geteuid() or not shutil.which("setpriv"):
        raise Skip("only root can become somebody else")
    with Server(size=MIB) as scratch:
        scratch.stop()
        scratch.check_end()
        os.chmod(os.path.dirname(scratch.image), 0o755)
        os.chmod(scratch.image, 0o644)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program(), *AUTO,
             "--run", 'nbdinfo --json "$uri"', scratch.image],
            capture_output=True, text=True, timeout=60, check=False)
        if "setpriv" in done.stderr:
            raise Skip(done.stderr)
        check('"is_read_only": true' in done.stdout, done.stdout + done.stderr)
        check(done.stderr.count("Permission denied") == 1, done.stderr)


# ---- Failures ----

def test_flush_failure_is_remembered():
    """Data was lost: nobody writes any more, every flush fails, and the exit tells."""
    with Server(defaults=AUTO, fault=True, status=1) as server:
        client = writer(server)
        check(not client.write(0, b"x" * 4096).error, "a write")
        server.faults.set("sync 5")
        client.disc()  # the flush on the way down fails
        settles(server, REST)
        server.faults.clear()
        client = server.client()
        check(not writable(client), "told READ_ONLY")
        check(client.flush().error, "a flush fails")
        check("a flush has failed" in server.stderr(), server.stderr())
        client.disc()


def test_slow_disk():
    """While the way down waits for the disk, others are answered; who wants to write waits."""
    with Server(defaults=AUTO, fault=True) as server:
        client = writer(server)
        check(not client.write(0, b"x" * 4096).error, "a write")
        server.faults.set("sync delay:1500")
        client.disc()
        began = time.monotonic()
        server.greeted().list()
        check(time.monotonic() - began < 1.4, "a list waits for the disk")
        second = writer(server)
        check(second.data(0, 4096) == b"x" * 4096, "it came after the flush")
        server.faults.clear()


def test_gone_while_waiting():
    """Clients that leave while the image is opened for them hold nothing."""
    with Server(defaults=AUTO, fault=True) as server:
        writer(server).disc()
        server.faults.set("sync delay:300")
        for _ in range(20):
            client = server.greeted()
            client.send_option(7, struct.pack(">IH", 0, 0))
            client.close()
        server.faults.clear()
        settles(server, REST)
        writer(server).disc()
        settles(server, REST)


# ---- Under load ----

def read_all_the_time(server, client, stop, faults, size):
    chance = random.Random(client.export.size)
    try:
        while not stop.is_set():
            length = chance.choice((512, 4096, 65536, 300000))
            offset = chance.randrange(0, size - length) & ~511
            got = client.data(offset, length)
            for at in range(0, length, 512):
                block = got[at:at + 512]
                # While a write is under way a sector may hold some of both, and no third value.
                if len(set(block)) > 2:
                    faults.append(f"torn at {offset + at}: {set(block)}")
    except Exception as error:  # pylint: disable=broad-except
        faults.append(repr(error))
    server.alive()


def check_under_load(server, size):
    """Readers that were told READ_ONLY go on while others come, write, and leave."""
    stop, faults, threads = threading.Event(), [], []
    with Holder(server.image, 201):
        readers = [server.client(mode=mode) for mode in ("simple", "structured", "structured")]
    for client in readers:
        check(not writable(client), "told READ_ONLY")
        threads.append(threading.Thread(target=read_all_the_time,
                                        args=(server, client, stop, faults, size)))
        threads[-1].start()
    try:
        for turn in range(25):
            client = writer(server)
            for place in range(0, size, 65536):
                if (place // 65536 + turn) % 7 == 0:
                    check(not client.write(place, bytes([turn + 1]) * 65536).error, "a write")
            if turn % 3 == 0:
                check(not client.trim(turn * 65536, 4 * 65536).error, "trim")
            if turn % 2:
                client.close()
            else:
                client.disc()
                until(lambda: 101 not in held(server.image), "down again")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    check(not faults, "\n".join(faults[:5]))
    for client in readers:
        client.disc()
    settles(server, REST)


def test_readers_under_load():
    """Raw: the image is exchanged under readers; each sees what is written, or was before."""
    with Server(defaults=AUTO, size=4 * MIB, content=b"\0" * 4 * MIB) as server:
        check_under_load(server, 4 * MIB)


def test_readers_under_load_tcp():
    """The same by TCP, where pages are sent from a mapping of the file that goes along."""
    with Server(defaults=AUTO, size=4 * MIB, content=b"\0" * 4 * MIB, tcp=True) as server:
        check_under_load(server, 4 * MIB)


def test_readers_under_load_qcow2():
    """The same on qcow2, with clusters that are freed and used again."""
    with qcow2(size="4M", extra=("--discard=unmap",)) as server:
        check_under_load(server, 4 * MIB)
        subprocess.run(["qemu-img", "check", "-q", server.image], check=True)


def test_many_come_and_go():
    """Many clients at once, each for a moment."""
    with Server(defaults=AUTO) as server:
        faults = []

        def visit(number):
            try:
                for _ in range(10):
                    client = writer(server)
                    data = bytes([number]) * 512
                    check(not client.write(number * 4096, data).error, "a write")
                    check(client.data(number * 4096, 512) == data, "and read")
                    client.disc()
            except Exception as error:  # pylint: disable=broad-except
                faults.append(repr(error))

        threads = [threading.Thread(target=visit, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check(not faults, f"{faults}")
        settles(server, REST)


if __name__ == "__main__":
    main(globals())
