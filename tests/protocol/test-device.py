#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A block device as the image: the same bytes, limits and truths as with a file."""

import subprocess

from harness import ALLOCATION, MIB, Server, check, content_of, main, program
from nbdraw import EINVAL, ENOSPC, ENOTSUP, EPERM, FAST_ZERO, FUA, NO_HOLE, READ_ONLY
from places import loop_device

SIZE = 16 * MIB


def test_read_and_write():
    """S74 S84: size, content, ends and errors of a device."""
    with loop_device(SIZE) as device:
        with Server(image=device) as server:
            for client in server.each():
                check(client.export.size == SIZE, f"size {client.export.size}")
                whole = content_of(SIZE)
                check(client.data(0, 4 * MIB) == whole[:4 * MIB], "content")
                for offset, length in ((0, 4096), (1, 1), (777, 5000), (SIZE - 1, 1),
                                       (SIZE - 70001, 70001)):
                    payload = content_of(length, 9)
                    check(not client.write(offset, payload, FUA).error, "write")
                    check(client.data(offset, length) == payload, f"{length}@{offset}")
                    check(not client.write(offset, whole[offset:offset + length]).error, "back")
                check(client.read(SIZE, 1).error == EINVAL, "read past the end")
                check(client.write(SIZE - 1, b"xx").error == ENOSPC, "write past the end")
                check(not client.flush().error, "flush")


def test_zero_and_trim():
    """S89 S91 S92 S94: zeroes of any alignment, and TRIM, on a device."""
    with loop_device(SIZE) as device:
        with Server(image=device) as server:
            for client in server.each():
                whole = content_of(SIZE)
                check(not client.write(0, whole).error, "write")
                for offset, length in ((MIB, MIB), (4096, 4096), (1, 511), (777, 70001),
                                       (SIZE - 513, 513)):
                    for flags in (0, NO_HOLE, FUA, FAST_ZERO):
                        low, high = max(0, offset - 5000), min(SIZE, offset + length + 5000)
                        request = client.zero(offset, length, flags)
                        check(request.error == 0 or flags == FAST_ZERO
                              and request.error == ENOTSUP, f"{request}")
                        expected = bytearray(whole[low:high])
                        if not request.error:
                            expected[offset - low:offset - low + length] = bytes(length)
                        check(client.data(low, high - low) == expected, f"{request}")
                        check(not client.write(offset, whole[offset:offset + length]).error, "back")
                    check(not client.trim(offset, length).error, "trim")
                    check(client.data(low, offset - low) == whole[low:offset], "before the trim")
                    after = client.data(offset + length, high - offset - length)
                    check(after == whole[offset + length:high], "behind the trim")
                    check(not client.write(offset, whole[offset:offset + length]).error, "back")


def test_status():
    """S99: the map of a device covers it and claims no zero that is none."""
    with loop_device(SIZE) as device:
        with Server("-r", image=device) as server:
            client = server.client("structured", [ALLOCATION])
            at = 0
            while at < SIZE:
                for length, status in client.status(at, SIZE - at).extents[ALLOCATION]:
                    check(not status, f"data at {at} told as {status}")
                    at += length
            client.disc()


def test_read_only_device():
    """S59: a read-only device: refused for writing, served with -r and --auto-read-only."""
    with loop_device(SIZE, options=("-r",)) as device:
        done = subprocess.run([program(), "-f", "raw", "-k", "/nonexistent/socket", device],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, check=False)
        check(done.returncode == 1 and device in done.stderr, f"{done}")
        for option in ("-r", "--auto-read-only"):
            with Server(option, image=device) as server:
                client = server.client()
                check(client.export.flags & READ_ONLY, f"{option}: flags {client.export.flags:#x}")
                check(client.write(0, b"x" * 512).error == EPERM, "write")
                check(client.data(0, 4096) == content_of(4096), "content")
                client.disc()
                check(option == "-r" or "read-only" in server.stderr(), server.stderr())


main(globals())
