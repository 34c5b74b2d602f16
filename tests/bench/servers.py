# SPDX-License-Identifier: MIT
"""The servers of the benchmark: how each is started by its users, what it costs, how it ends.

A Server is a recipe; Running is one life of it, a context manager that leaves no process and no
socket behind, whatever happens in between.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

# Transports with keys: kind, over TCP or a Unix socket; "trust": the client shows no certificate.
TLS = ("x509", "x509-unix", "x509-trust", "psk")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_daemons():
    """What a server leaves behind when it goes to the background becomes a child of ours."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Place:
    """Where a server listens: a Unix socket, or a port on the loopback address."""

    keys = None  # the folder of keys.py, when a row needs it

    def __init__(self, transport, directory):
        self.path = self.port = None
        self.tls, _, variant = transport.partition("-") if transport in TLS else (None, "", "")
        self.verify = variant != "trust"
        if "unix" in (transport, variant):
            self.path = str(Path(directory) / "socket")
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]

    def load_options(self):
        tls = {"x509": ["--tls-certificates", self.client_keys()],
               "psk": ["--tls-psk", f"{self.keys}/keys.psk"]}.get(self.tls, [])
        where = ["--unix", self.path] if self.path else ["--tcp", f"127.0.0.1:{self.port}"]
        return [*where, *tls]

    def client_keys(self):
        return str(self.keys if self.verify else self.keys / "trust")

    def objects(self):
        """Options of hawserd and qemu-nbd for TLS."""
        if not self.tls:
            return []
        verify = "on" if self.verify else "off"
        return ["--object", f"tls-creds-{self.tls},id=tls,endpoint=server,dir={self.keys},"
                f"verify-peer={verify}", "--tls-creds", "tls"]

    def uri(self, export):
        if self.tls:
            words = (f"tls-psk-file={self.keys}/keys.psk" if self.tls == "psk"
                     else f"tls-certificates={self.client_keys()}")
            if self.path:
                return (f"nbds+unix://bench@/{export}?socket={self.path}&{words}"
                        "&tls-hostname=localhost")
            return f"nbds://bench@localhost:{self.port}/{export}?{words}"
        if self.path:
            return f"nbd+unix:///{export}?socket={self.path}"
        return f"nbd://127.0.0.1:{self.port}/{export}"

    def connect(self):
        if self.path:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)
                return client.recv(8)
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            return client.recv(8)


# Of the images that are encrypted: formats, and QEMU's property for the key.
SECRET = ["--object", "secret,id=s,data=words"]
KEYS = {"luks": "key-secret", "qcow2-luks": "encrypt.key-secret"}


class Server:
    export = ""
    transports = ("unix", "tcp", *TLS)
    package = None
    formats = ("raw",)
    serves_raw = False  # takes the raw image that stands beside each qcow2 image

    def __init__(self, name, program, options=()):
        self.name, self.program, self.options = name, program, list(options)

    def available(self):
        return shutil.which(self.program) is not None

    def command(self, place, image, directory, image_format):
        raise NotImplementedError


class Hawserd(Server):
    formats = ("raw", "qcow2", *KEYS)

    def command(self, place, image, directory, image_format):
        where = ["-k", place.path] if place.path else ["-p", str(place.port), "-b", "127.0.0.1"]
        key = [*SECRET, "--key-secret=s"] if image_format in KEYS else []
        return [self.program, "-t", "-e", "0", "-f", image_format.split("-", 1)[0], *key,
                *place.objects(), *where, image]


class HawserdRaw(Hawserd):
    """What hawserd costs without the format: a peer of its own in the rows of formats."""

    formats = ("qcow2", *KEYS)
    serves_raw = True


class QemuNbd(Server):
    package = "qemu-utils"
    formats = ("raw", "qcow2", *KEYS)

    def command(self, place, image, directory, image_format):
        where = ["-k", place.path] if place.path else ["-p", str(place.port), "-b", "127.0.0.1"]
        what = ["-f", image_format, image]
        if image_format in KEYS:
            what = [*SECRET, "--image-opts", f"driver={image_format.split('-', 1)[0]},"
                    f"{KEYS[image_format]}=s,file.filename={image}"]
        return [self.program, *self.options, "-t", "-e", "0", "--cache=writeback",
                *place.objects(), *where, *what]


class Nbdkit(Server):
    package = "nbdkit"

    def command(self, place, image, directory, image_format):
        where = ["-U", place.path] if place.path else ["-p", str(place.port), "-i", "127.0.0.1"]
        tls = {"x509": ["--tls=require", f"--tls-certificates={place.keys}"],
               "psk": ["--tls=require", f"--tls-psk={place.keys}/keys.psk"]}.get(place.tls, [])
        if place.tls == "x509" and place.verify:
            tls.append("--tls-verify-peer")
        return [self.program, "-f", *tls, *where, "file", image]


class NbdServer(Server):
    """Goes to the background: its debug mode would serve a single client."""

    export = "bench"
    transports = ("unix", "tcp")  # its TLS needs certificates of each client, and is not raced
    package = "nbd-server"

    def command(self, place, image, directory, image_format):
        where = (f"unixsock = {place.path}" if place.path
                 else f"listenaddr = 127.0.0.1\nport = {place.port}")
        config = Path(directory) / "nbd-server.conf"
        config.write_text(f"[generic]\n{where}\n[{self.export}]\nexportname = {image}\n"
                          "flush = true\nfua = true\n")
        return [self.program, "-C", str(config), "-p", str(Path(directory) / "nbd-server.pid")]


def known(build):
    return [
        Hawserd("hawserd", str(Path(build) / "hawserd")),
        Nbdkit("nbdkit", "nbdkit"),
        QemuNbd("qemu-threads", "qemu-nbd", ["--aio=threads"]),
        QemuNbd("qemu-io_uring", "qemu-nbd", ["--aio=io_uring"]),
        NbdServer("nbd-server", "nbd-server"),
        HawserdRaw("hawserd-raw", str(Path(build) / "hawserd")),
    ]


def _children(pid):
    """Children of all threads of pid; fewer while it ends."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                found += [int(child) for child in children.read().split()]
    except OSError:
        pass
    return found


def stop_leftovers():
    """The last resort at the end: whatever is still a child of ours."""
    for pid in _children(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _status(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in lines if ":" in line)


class Running:
    """One server on one image."""

    def __init__(self, server, transport, image, directory, image_format="raw"):
        self.server = server
        self.directory = Path(directory) / "life"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        self.place = Place(transport, self.directory)
        self.command = server.command(self.place, str(image), self.directory, image_format)
        self.log = self.directory / "log"
        self.process = None
        self.roots = []

    def __enter__(self):
        before = set(_children(os.getpid()))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_die_with_parent)
        try:
            self._wait()
            self.roots = [pid for pid in _children(os.getpid()) if pid not in before]
        except BaseException:
            self.roots = [pid for pid in _children(os.getpid()) if pid not in before]
            self.stop()
            raise
        return self

    def _wait(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                if self.place.connect():
                    break
            except OSError:
                time.sleep(0.002)
            if self.process.poll():
                raise RuntimeError(f"{self.server.name} did not start: {self.told()}")
        else:
            raise RuntimeError(f"{self.server.name} does not accept: {self.told()}")
        if self.process.poll() is None and self.server.name == "nbd-server":
            self.process.wait(5)

    def told(self):
        return self.log.read_text(errors="replace").strip()[-500:] or "(it said nothing)"

    def __exit__(self, *_):
        self.stop()

    def pids(self):
        found, ahead = [], list(self.roots)
        while ahead:
            pid = ahead.pop()
            found.append(pid)
            ahead += _children(pid)
        return found

    def cpu(self):
        """Seconds of CPU, in user and kernel mode, of all threads and children, gone ones too.

        The clock of a process is exact; the children that it has waited for come in ticks.
        """
        total = 0.0
        for pid in self.pids():
            try:
                total += time.clock_gettime((~pid << 3) | 2)
                stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")
            except OSError:
                pass
        return total

    def memory(self):
        """Resident MiB: all, and the part that is the server's own (no file behind it)."""
        every, own = 0, 0
        for pid in self.pids():
            status = _status(pid)
            every += int(status.get("VmRSS", "0 kB").split()[0])
            own += int(status.get("RssAnon", "0 kB").split()[0])
        return {"rss_mib": every / 1024, "anon_mib": own / 1024}

    def threads(self):
        return sum(int(_status(pid).get("Threads", "0")) for pid in self.pids())

    def stop(self):
        pids = self.pids()
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    pass
            if self._gone(pids, 3):
                break
        shutil.rmtree(self.directory, ignore_errors=True)

    def _gone(self, pids, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.process.poll()
            for pid in pids:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
            if not any(Path(f"/proc/{pid}").exists() for pid in pids):
                return True
            time.sleep(0.002)
        return False
