#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A disk that is resized outside: new clients are told the new size, old ones keep theirs."""

import os
import subprocess

from harness import MIB, Server, Skip, check, main


def test_file_grows():
    """A grown file is served to its new end, also to its old clients; a cut one keeps its size."""
    with Server(size=MIB) as server:
        old = server.client()
        os.truncate(server.image, 3 * MIB)
        new = server.client()
        check(new.export.size == 3 * MIB, f"size {new.export.size} after the file grew")
        check(not new.write(3 * MIB - 512, b"e" * 512).error, "a write at the new end")
        check(old.data(0, 512) == server.bytes(0, 512), "the old client reads")
        os.truncate(server.image, MIB // 2)
        cut = server.client()
        check(cut.export.size == 3 * MIB, f"size {cut.export.size} after the file was cut")
        check(cut.read(MIB, 4096).error == 5, "what was cut off reads")
        check(not cut.read(0, 4096).error, "what is left does not read")


def test_block_device_resized():
    """A block device may grow and shrink."""
    if os.geteuid() or not os.path.exists("/dev/loop-control"):
        raise Skip("needs root and loop devices")
    with Server(size=4 * MIB) as server:
        file = server.image + ".disk"
        with open(file, "wb") as disk:
            disk.truncate(2 * MIB)
        made = subprocess.run(["losetup", "--show", "-f", file], stdout=subprocess.PIPE, text=True)
        if made.returncode:
            raise Skip("no loop device to be had")
        loop = made.stdout.strip()
        try:
            with Server(image=loop) as disk:
                check(disk.client().export.size == 2 * MIB, "size")
                for size in (5 * MIB, MIB):
                    os.truncate(file, size)
                    subprocess.run(["losetup", "-c", loop], check=True)
                    seen = disk.client().export.size
                    check(seen == size, f"{seen} bytes are told of {size}")
        finally:
            subprocess.run(["losetup", "-d", loop], check=True)


main(globals())
