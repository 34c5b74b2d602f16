#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The examples of hawserd(8): every option is in one, and every one works. They are run as they stand
in a folder with the images that they speak of; only paths outside it, and ports that may be taken,
are replaced. Those that need a kernel device must at least be understood.
"""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import MIB, Skip, check, free_port, main, program, qemu_creates, until  # noqa: E402
from pki import pki  # noqa: E402
from words import help_options, man_text, run  # noqa: E402

os.environ["PATH"] += ":/usr/sbin:/sbin"


def examples():
    """The command lines of the manual that begin with hawserd, or have it in brackets."""
    page = man_text("hawserd.8").replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
    lines = re.findall(r"^\.(?:Dl|Ql) (.*)$", page, re.M)
    for block in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", page, re.M | re.S):
        lines += block.replace("\\\n", "").splitlines()  # continued lines are one
    return [line for line in lines if re.match(r"hawserd \S{2}|nbd\w+ .*\[ hawserd ", line)]


class Place:
    """The folder in which the examples run."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hawser-examples-")
        self.path = self.folder.name
        os.mkdir(self.at("bin"))
        os.symlink(program(), self.at("bin", "hawserd"))
        self.environment = {**os.environ, "TMPDIR": self.path,
                            "PATH": self.at("bin") + ":" + os.environ["PATH"]}
        for name in ("disk.img", "disk", "guest"):
            with open(self.at(name), "wb") as out:
                out.truncate(80 * MIB)
        self.tool("sgdisk", "-n", "1:2048:+1M", "-n", "2:0:+1M", "-c", "2:data", "disk.img")
        for name in ("disk", "upload", "recorded"):
            self.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "4M")
        self.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2",
                  "overlay.qcow2")
        self.tool("qemu-img", "snapshot", "-c", "before-upgrade", "disk.qcow2")
        self.tool("qemu-img", "bitmap", "--add", "--disable", "disk.qcow2", "monday")
        self.tool("qemu-img", "bitmap", "--add", "recorded.qcow2", "monday")
        with open(self.at("vm.ova"), "wb") as ova, open(self.at("upload.qcow2"), "rb") as inside:
            ova.write(bytes(1536) + inside.read())
        with open(self.at("disk.key"), "w", encoding="ascii") as key:
            key.write("words")
        qemu_creates("-f", "luks", "--object", "secret,id=k,data=words", "-o",
                     "key-secret=k,iter-time=10", "disk.luks", "4M", cwd=self.path)

    def at(self, *names):
        return os.path.join(self.path, *names)

    def tool(self, *command):
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=120,
                              check=False)
        check(done.returncode == 0, f"{command}: {done.stdout}{done.stderr}")

    def put(self, line):
        """The line with the paths of this folder."""
        return (line.replace("/etc/hawser/tls", pki().good).replace("/run/", self.path + "/")
                .replace("/tmp/t", self.at("trace")).replace("/dev/vg0/guest", self.at("guest")))

    def popen(self, line, **more):
        return subprocess.Popen(["bash", "-c", "exec " + line], cwd=self.path, text=True,
                                env=self.environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **more)


@contextlib.contextmanager
def started(place, line, **more):
    with place.popen(line, **more) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)


def greets(address):
    """Does a server greet there?"""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(20)
        try:
            sock.connect(address)
        except OSError:
            return False
        return sock.recv(8) == b"NBDMAGIC"


def serves(place, line, words):
    """It listens where it says, greets, and ends well when it is told to."""
    if "-k" in words:
        address = words[words.index("-k") + 1]
    else:
        port = free_port()
        address = ("127.0.0.1", port)
        line = re.sub(r" -p \d+| -b \S+", "", line) + f" -b 127.0.0.1 -p {port}"
    if "--fork" in words:
        line += f" --pid-file {place.at('pid')}"
    with started(place, line) as process:
        until(lambda: process.poll() is not None and "--fork" not in words or greets(address),
              f"'{line}' greets")
        if "--fork" in words:
            check(process.wait(60) == 0, f"{line}: {process.stderr.read()}")
            with open(place.at("pid"), encoding="ascii") as text:
                os.kill(int(text.read()), 15)
            until(lambda: not os.path.exists(address), "it ends")
            return
        said = process.stderr.read() if process.poll() is not None else ""
        if "directly" in said:
            print(f"# no direct I/O here: {line}")
            return
        check(process.poll() is None, f"{line}: {said}")
        process.terminate()
        check(process.wait(60) == 0, f"{line}: status {process.returncode}")


def answers(place, line):
    with started(place, line, stdin=subprocess.DEVNULL) as process:
        out, said = process.communicate(timeout=60)
        check(process.returncode == 0 and out, f"{line}: {process.returncode} {said}")


def takes_stdin(place, line):
    """As inetd would start it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, started(place, line, stdin=theirs) as process:
        theirs.close()
        ours.settimeout(20)
        check(ours.recv(8) == b"NBDMAGIC", f"{line}: no greeting")
        ours.close()
        check(process.wait(60) == 0, f"{line}: status {process.returncode}")


def lists(place, line, words):
    """-L, of a server that is started for it; with TLS where the line speaks it."""
    port = free_port()
    tls = (f"--object tls-creds-x509,id=t,endpoint=server,dir={pki().good} --tls-creds=t"
           if "--tls-creds=t" in words else "")
    with started(place, f"hawserd -t -b 127.0.0.1 -p {port} {tls} -f raw disk.img"):
        until(lambda: greets(("127.0.0.1", port)), "a server to list")
        answers(place, re.sub(r" -p \d+", "", line) + f" -p {port}")


def is_understood(place, line):
    """Without the device it fails, but not for its words."""
    with started(place, line.replace("/dev/nbd", "/dev/nbd77")) as process:
        said = process.communicate(timeout=60)[1]
        check(process.returncode == 1 and "nbd77" in said and "--help" not in said,
              f"{line}: {process.returncode} {said}")


def try_one(place, line):
    line = place.put(line)
    words = shlex.split(line)
    if words[0] != "hawserd" or any(word.startswith("--run") for word in words) or \
            words[-1] in ("help", "--help", "--version"):
        answers(place, line) if words[0] != "nbdcopy" else place.tool(
            "env", f"PATH={place.environment['PATH']}", *words)
    elif "--stdio" in words:
        takes_stdin(place, line)
    elif "-L" in words:
        lists(place, line, words)
    elif "-c" in words or "-d" in words:
        is_understood(place, line)
    else:
        serves(place, line, words)


def test_examples_work():
    """Each example, as it stands."""
    lines = examples()
    check(len(lines) > 25, f"only {len(lines)} examples: is the test blind?")
    place = Place()
    faults = []
    for line in lines:
        try:
            try_one(place, line)
        except Skip:
            raise
        except Exception as error:  # pylint: disable=broad-except
            faults.append(f"{line}: {error}")
    place.folder.cleanup()
    check(not faults, "\n# ".join(faults))


def test_every_option_has_an_example():
    """By its letter or by its name."""
    used = set()
    for line in examples():
        for word in shlex.split(line):
            used.add(word.split("=")[0])
    text = run(program(), "--help").stdout
    lacking = [row for row in (list(help_options(line)) for line in text.splitlines())
               if row and not used.intersection(row)]
    check(not lacking, f"options without an example: {lacking}")


main(globals())
