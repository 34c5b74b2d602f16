#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Command lines that are wrong, of hawser and hawserd: each ends at once with the status of the
manual, says one thing on standard error that names what is wrong, and leaves nothing behind.
"""

import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import check, main, program  # noqa: E402

# (words, status, what the message has to say).
CLIENT = [
    ("", 2, "which command"), ("moor", 2, "no command 'moor'"), ("--moor", 2, "'--moor'"),
    ("-x", 2, "'-x'"), ("attach", 2, "URI|NAME is missing"), ("attach a b", 2, "'b' is one"),
    ("attach --moor x", 2, "'--moor'"), ("attach --device=/dev/null nbd://x", 2, "'/dev/null'"),
    ("attach --device=sda nbd://x", 2, "'sda' is not an nbd device"),
    ("attach --timeout=0 nbd://x", 2, "--timeout is 1 to 86400 seconds, not 0"),
    ("attach --timeout=x nbd://x", 2, "--timeout: 'x' is not a number"),
    ("attach --timeout=99999999999 nbd://x", 2, "too big"),
    ("attach --dead-timeout=0 nbd://x", 2, "--dead-timeout is 1 to"),
    ("attach --connections=0 nbd://x", 2, "--connections is 1 to 64, not 0"),
    ("attach --connections=65 nbd://x", 2, "not 65"),
    ("attach --block-size=x nbd://x", 2, "--block-size: 'x' is not a size"),
    ("attach --name=nbd3 nbd://x", 2, "'nbd3' is no name"),
    ("attach --name=a/b nbd://x", 2, "'a/b' is no name"),
    ("attach -r --read-write nbd://x", 2, "exclude each other"),
    ("attach --netlink --ioctl nbd://x", 2, "exclude each other"),
    ("attach -j nbd://localhost:99999", 2, "99999"), ("attach -j http://x", 2, "http"),
    ("attach nbd+unix:///", 2, "socket"),
    ("attach nbd://x/%zz", 2, "%"), ("attach", 2, "missing"),
    ("detach", 2, "DEVICE|NAME is missing"), ("detach /dev/null", 2, "'/dev/null' is not an nbd"),
    ("detach -j no-such-name", 3, "'no-such-name'"), ("detach --timeout=0 nbd0", 2, "--timeout"),
    ("status -j no-such-name", 3, "'no-such-name'"), ("status a b", 2, "'b' is one"),
    ("list", 2, "URI is missing"), ("list -t x nbd://x", 2, "'x' is not a number"),
    ("list -j /nonexistent/socket", 6, "/nonexistent/socket"),
    ("list http://x", 2, "http"), ("info", 2, "URI is missing"), ("info -c", 2, "--context needs"),
    ("info -j /nonexistent/socket", 6, "/nonexistent/socket"),
    ("top --interval=0", 2, "--interval"), ("top --interval=x", 2, "'x' is not a number"),
    ("top --json --openmetrics", 2, "exclude each other"), ("top 99999999", 6, "99999999"),
    ("top /nonexistent/socket", 6, "/nonexistent/socket"), ("help moor", 2, "'moor'"),
    ("help attach a", 2, "'a' is one"), ("-c", 2, "-c needs a device"),
    ("-c /dev/nbd0", 2, "URI|NAME is missing"), ("-d", 2, "-d needs a device"),
    ("-d /dev/nbd0 a", 2, "'a' is one"),
]

# Those that qemu-nbd knows, too, are in qemu-compat.py.
SERVER = [
    ("-p 70000 raw", "Invalid port number '70000': it is 0 to 65535"),
    ("-b 192.0.2.1 -f raw raw", "192.0.2.1 port 10809"), ("-k @/raw -f raw raw", "is not a socket"),
    ("-k @ -f raw raw", "is not a socket"), ("-P 0 raw", "Invalid partition 0"),
    ("-P label= raw", "label="), ("-P uuid=zz -f raw raw", "uuid=zz"),
    ("-P 1,sector=1000 raw", "sector=1000"), ("-P 1 -o 5 raw", "partition and offset together"),
    ("--limit= raw", "--limit wants limits"),
    ("--limit=bps -f raw raw", "--limit: Parameter 'bps'"),
    ("--limit=bp=1 -f raw raw", "--limit: Invalid parameter 'bp'; did you mean 'bps'"),
    ("--limit=bps=1x -f raw raw", "'1x'"), ("--limit=bps=-1 -f raw raw", "'-1'"),
    ("--limit=bps=5,bps-read=3 -f raw raw", "--limit: bps"),
    ("--limit=bps=1 --limit=iops=1 raw", "--limit can only be specified once"),
    ("--handshake-limit=1h raw", "'1h'"), ("--pid-file=@ -f raw -k @/s raw", "Could not create"),
    ("--control=relative raw", "--control: socket path must be absolute"),
    ("--control=/nonexistent/c -k @/s -f raw raw", "--control: Failed to bind socket to /nonexis"),
    ("-T file= -f raw raw", "trace file ''"), ("-T colour=red raw", "--trace: Invalid parameter"),
    ("-T events=/nonexistent raw", "--trace: Could not open '/nonexistent'"),
    ("--run=true -k @/s raw", "--run and --socket"), ("--run=true --fork raw", "--run and --fork"),
    ("--stdio -f raw raw", "not a connected socket"),
    ("--stdio -k @/s raw", "--stdio and --socket"),
    ("--image-opts driver=raw,file.filename=raw,red-only=on", "did you mean 'read-only'"),
    ("--image-opts driver=raw,file.filename=raw,file.lokcing=on", "did you mean 'file.locking'"),
    ("nbd://localhost/", "behind a URL"), ("http://x/y", "behind a URL"), ("-f qcow raw", "'qcow'"),
    ("-f QCOW2 raw", "there are raw, qcow2 and luks"),
    ("--object nonsense,id=a raw", "--object help"),
    ("--object throttle-group,id=a,x-iops-totl=5 raw", "did you mean 'x-iops-total'"),
    ("--key-secret=none -f raw raw", "No secret with id 'none'"),
    ("-r --auto-read-only raw", "--read-only and --auto-read-only"),
    ("-c /dev/null -f raw raw", "'/dev/null' is not an nbd device"),
    ("-L -k /nonexistent/socket", "/nonexistent/socket"), ("-L -k @/raw", "no server listens"),
]


def run(folder, name, line):
    """(status, stdout, stderr); @ is the folder."""
    words = [word.replace("@", folder) for word in line.split()]
    done = subprocess.run([os.path.join(os.path.dirname(program()), name), *words], cwd=folder,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    return done.returncode, done.stdout, done.stderr


def judge(name, rows):
    with tempfile.TemporaryDirectory(prefix="hawser-wrong-") as folder:
        with open(os.path.join(folder, "raw"), "wb") as raw:
            raw.truncate(1 << 20)
        faults = []
        for line, status, wanted in rows:
            result, out, said = run(folder, name, line)
            if (result, out) != (status, "") or wanted not in said:
                faults.append(f"{name} {line}: {result} {out!r} {said!r}, not {status} {wanted!r}")
            if not re.match(rf"{name}: \S", said) or len(said.splitlines()) > 2:
                faults.append(f"{name} {line}: {said!r} is not one message")
            if os.listdir(folder) != ["raw"]:
                faults.append(f"{name} {line}: leaves {os.listdir(folder)}")
        check(not faults, "\n# ".join(faults))


def test_client():
    """What is wrong with the line is said before anything is asked of kernel or server."""
    judge("hawser", CLIENT)


def test_server():
    """Options that qemu-nbd does not have, and better words for some that it has."""
    judge("hawserd", [(line, 1, wanted) for line, wanted in SERVER])


main(globals())
