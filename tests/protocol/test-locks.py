#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Image locks: the bytes that QEMU locks on its images (100 + permission in use, 200 + permission
not shared; 0 consistent read, 1 write, 3 resize), and that the server refuses what would destroy
a disk. Not part of the wire protocol, hence no S-number.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess

from harness import MIB, Server, Skip, check, content_of, main, program, until

SETLK, GETLK = 37, 36  # F_OFD_SETLK, F_OFD_GETLK
BYTES = (100, 101, 102, 103, 200, 201, 202, 203)
FLOCK = "hhqqi4x"


def lock(fd, byte, kind=fcntl.F_RDLCK):
    fcntl.fcntl(fd, SETLK, struct.pack(FLOCK, kind, os.SEEK_SET, byte, 1, 0))


def held(path):
    """The bytes on which anybody else holds a lock."""
    with open(path, "r+b") as image:
        answer = []
        for byte in BYTES:
            query = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            kind = struct.unpack(FLOCK, fcntl.fcntl(image, GETLK, query))[0]
            if kind != fcntl.F_UNLCK:
                answer.append(byte)
        return answer


@contextlib.contextmanager
def image_with_locks(*numbers, kind=fcntl.F_RDLCK, size=MIB):
    """An image on which somebody (a running QEMU) holds these bytes."""
    with Server(size=size) as scratch:  # for its directory and image
        scratch.stop()
        scratch.check_end()
        with open(scratch.image, "r+b") as image:
            for byte in numbers:
                lock(image, byte, kind)
            yield scratch.image


def start(image, *options):
    """Starts a server on the image; its status and stderr when it does not stay."""
    socket = image + ".socket"
    done = subprocess.run([program(), "-t", "-f", "raw", *options, "-k", socket, image],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    check(not os.path.exists(socket), "a failed start leaves its socket")
    return done.returncode, done.stderr


def refused(image, *options, word):
    status, text = start(image, *options)
    check(status == 1, f"status {status} ({text})")
    check(f'"{word}" lock' in text, f"message {text!r}")
    check("Is another process using" in text and image in text, f"message {text!r}")


VM = (100, 101, 201, 203)  # a disk of a running VM


def test_locks_held_writing():
    """A writer holds 100 101 203, and 201 against other writers; no resize, nothing else."""
    with Server() as server:
        check(held(server.image) == [100, 101, 201, 203], f"{held(server.image)}")
        server.good()
        check(held(server.image) == [100, 101, 201, 203], f"{held(server.image)}")


def test_locks_held_reading():
    """A reader holds 100 and 203, and shares writing."""
    with Server("-r") as server:
        check(held(server.image) == [100, 203], f"{held(server.image)}")


def test_locks_auto_read_only():
    """--auto-read-only: without a client nobody is kept from anything (see test-access.py)."""
    with Server("--auto-read-only") as server:
        check(held(server.image) == [100], f"{held(server.image)}")


def test_locks_released():
    """The locks are gone with the server, also when it is killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with Server(ends=True) as server:
            server.process.send_signal(how)
            server.wait()
            check(held(server.image) == [], f"{held(server.image)}")


def test_failed_start_leaves_no_lock():
    """A start that is refused leaves nobody's locks changed."""
    with image_with_locks(*VM) as image:
        refused(image, word="write")
        check(held(image) == list(VM), f"{held(image)}")


def test_two_writers():
    """The second writer is refused with a clear message; the first goes on."""
    with Server() as server:
        refused(server.image, word="write")
        server.good()
        check(held(server.image) == [100, 101, 201, 203], f"{held(server.image)}")


def test_reader_beside_writer():
    """Reading beside a writer, and writing beside a reader, are allowed on raw."""
    with Server() as writer:
        with Server("-r", image=writer.image) as reader:
            reader.good()
            with Server("-r", image=writer.image) as another:
                another.good()
        writer.good()
    with Server("-r") as reader:
        with Server(image=reader.image) as writer:
            writer.good()


def test_beside_a_vm():
    """Beside a VM: writing is refused, reading is not."""
    with image_with_locks(*VM) as image:
        refused(image, word="write")
        with Server("-r", image=image) as server:
            server.good()


def test_beside_a_vm_no_degrade():
    """A lock conflict is no reason for --auto-read-only to fall back to reading."""
    with image_with_locks(*VM) as image:
        refused(image, "--auto-read-only", word="write")


def test_beside_qemu_writer():
    """A raw writer of QEMU (100 101 203) does not forbid writing, but we do not share it."""
    with image_with_locks(100, 101, 203) as image:
        refused(image, word="write")
        with Server("-r", image=image) as server:
            server.good()


def test_beside_readers():
    """QEMU's read-only openers: 100 203 allow us to write; with 201 they do not."""
    with image_with_locks(100, 203) as image:
        with Server(image=image) as server:
            server.good()
    with image_with_locks(100, 201, 203) as image:
        refused(image, word="write")
        with Server("-r", image=image) as server:
            server.good()


def test_single_bytes():
    """Each byte alone: which it forbids to a writer and to a reader."""
    rules = {100: (None, None), 101: ("write", None), 102: (None, None),
             103: ("resize", "resize"), 200: ("consistent read", "consistent read"),
             201: ("write", None), 202: (None, None), 203: (None, None)}
    for byte, words in rules.items():
        with image_with_locks(byte) as image:
            for options, word in zip(((), ("-r",)), words):
                if word:
                    refused(image, *options, word=word)
                else:
                    with Server(*options, image=image) as server:
                        server.good()


def test_write_locks_of_tests():
    """A foreign write lock on a byte that we need is a conflict; byte 0 (libvirt) is not."""
    with image_with_locks(201, kind=fcntl.F_WRLCK) as image:
        status, text = start(image)
        check(status == 1 and "lock" in text, f"status {status}, {text!r}")
    with image_with_locks(0, kind=fcntl.F_WRLCK) as image:
        with Server(image=image) as server:
            server.good()


def need(tool):
    if not shutil.which(tool):
        raise Skip(f"{tool} is not installed")
    return tool


def qemu_io(image, *options):
    return subprocess.run([need("qemu-io"), "-f", "raw", *options, "-c", "read 0 512", image],
                          capture_output=True, text=True, timeout=60, check=False)


def test_real_qemu_beside_us():
    """qemu-io: no write open beside our writer, reading yes; beside our reader both."""
    with Server() as server:
        done = qemu_io(server.image)
        check('"write" lock' in done.stdout + done.stderr, f"qemu-io may write: {done}")
        check(qemu_io(server.image, "-r").returncode == 0, "qemu-io -r is kept out")
    with Server("-r") as server:
        check(qemu_io(server.image).returncode == 0, "qemu-io is kept out by a reader")


def test_us_beside_real_qemu():
    """qemu-nbd holds the image for writing: we may read it and not write it."""
    with image_with_locks() as image:
        path = image + ".qemu"
        with subprocess.Popen([need("qemu-nbd"), "-t", "-f", "raw", "-k", path, image]) as peer:
            try:
                until(lambda: held(image) == [100, 101, 203], "qemu-nbd holds its locks")
                refused(image, word="write")
                with Server("-r", image=image) as server:
                    server.good()
            finally:
                peer.terminate()


def test_lock_survives_others_close():
    """OFD locks: another program that opens and closes the image does not release ours."""
    with Server() as server:
        with open(server.image, "r+b") as image:
            image.read(10)
            with contextlib.suppress(OSError):
                fcntl.lockf(image, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
        check(held(server.image) == [100, 101, 201, 203], f"{held(server.image)}")
        check(server.bytes() == content_of(MIB), "content")


main(globals())
