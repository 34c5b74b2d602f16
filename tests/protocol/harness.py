# SPDX-License-Identifier: MIT
"""
The server under test on a private address with a private image, and the loop that runs the test
functions of a file. HAWSERD names the program (build/hawserd); FAULT_LIB the shim that fails its
file operations (tests/libfault.so beside it).

A test file defines test_*() functions whose docstrings cite the rules they test, and ends with
main(globals()). Words on the command line choose tests by a part of the name. Exit status: 0, 1
when a test failed, 77 when none could run.
"""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from nbdraw import (ALLOCATION, Client, Dropped, Export, Violation, check, until)

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HAWSERD = os.environ.get("HAWSERD") or os.path.join(TOP, "build", "hawserd")
SANITIZER = re.compile(
    r"ERROR: \w*Sanitizer|WARNING: ThreadSanitizer|runtime error:|Assertion .*failed")
STDERR_MAX = 64 * 1024  # a server that can be made to log more than this can fill a disk
MIB = 1 << 20
TEST_SECONDS = 300  # ends a hang, nothing else


class Skip(Exception):
    """This test cannot run here; the text says why."""


def program():
    found = shutil.which(HAWSERD)
    if not found:
        sys.exit(f"{HAWSERD}: no such program (set HAWSERD, or run make)")
    return os.path.abspath(found)


def fault_library():
    path = os.environ.get("FAULT_LIB") or os.path.join(os.path.dirname(program()), "tests",
                                                       "libfault.so")
    check(os.path.exists(path), f"{path} is missing: make {os.path.relpath(path, TOP)}")
    return os.path.abspath(path)


def hasty():
    """The environment in which qemu-img makes a LUKS image at once, with few rounds; it takes
    seconds else."""
    path = os.path.join(os.path.dirname(program()), "tests", "libhasty.so")
    check(os.path.exists(path), f"{path} is missing: make {os.path.relpath(path, TOP)}")
    return dict(os.environ, LD_PRELOAD=os.path.abspath(path))


def qemu_creates(*command, **how):
    """qemu-img measures its own speed when it makes a key slot, and may fail at that."""
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img is not installed")
    for _ in range(8):
        done = subprocess.run(["qemu-img", "create", "-q", *command], env=hasty(),
                              capture_output=True, text=True, check=False, **how)
        if not done.returncode:
            return
    raise Skip(f"qemu-img create {command}: {done.stderr}")


def pattern(length, seed=1):
    """Bytes without a zero among them, so that a hole or a lost write shows."""
    return bytes(random.Random(seed).choices(range(1, 256), k=4099)) * (length // 4099 + 1)


def content_of(length, seed=1):
    return pattern(length, seed)[:length]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens_on_path(path):
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        for line in table:
            fields = line.split()
            if fields[-1] == path and int(fields[3], 16) & 0x10000:
                return True
    return False


def listens_on_port(port):
    with open("/proc/net/tcp", encoding="ascii") as table:
        lines = [line.split() for line in table][1:]
    return any(fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port for fields in lines)


class Faults:
    """Rules for the shim in the server, and the log of what the server did to the image."""

    def __init__(self, directory, image):
        self.rules = os.path.join(directory, "rules")
        self.log = os.path.join(directory, "log")
        self.environment = {"LD_PRELOAD": fault_library(), "FAULT_TARGET": image,
                            "FAULT_RULES": self.rules, "FAULT_LOG": self.log}

    def set(self, *rules):
        """Each rule: 'OPERATION ACTION [LOW HIGH]', see fault.c."""
        with open(self.rules + ".new", "w", encoding="ascii") as out:
            out.writelines(rule + "\n" for rule in rules)
        os.rename(self.rules + ".new", self.rules)

    def clear(self):
        self.set()

    def operations(self):
        """[(name, offset, length, flags, result)] in the order of their ends."""
        try:
            with open(self.log, encoding="ascii") as log:
                rows = [line.split() for line in log]
        except FileNotFoundError:
            return []
        return [(row[0], *map(int, row[1:5])) for row in rows]

    def forget(self):
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.log, 0)


class Server:
    """
    with Server("-r", size=4096) as server: ...

    options:    added to the defaults -t -e 0 -f raw --discard=unmap; defaults=() leaves those out
    size:       of a new image; content: its bytes (None: a pattern, "": sparse)
    image:      an existing file instead
    tcp:        listen on 127.0.0.1 instead of a Unix socket
    fault:      preload the shim; self.faults holds its rules and log
    directory:  where the image goes (a file system of interest)
    limits:     {resource.RLIMIT_X: value}
    ends:       the exit is the test's business, not checked here
    status:     with which it must end on SIGTERM
    """

    def __init__(self, *options, size=MIB, content=None, image=None, tcp=False, fault=False,
                 defaults=("-t", "-e", "0", "-f", "raw", "--discard=unmap"), directory=None, limits=None,
                 environment=None, ends=False, status=0):
        self.directory = tempfile.mkdtemp(prefix="hawser-test-", dir=directory)
        self.image = image or self.make_image(size, content)
        self.size = size if image is None or not os.path.exists(image) else os.path.getsize(image)
        self.path = os.path.join(self.directory, "socket")
        self.port = free_port() if tcp else None
        self.address = ("127.0.0.1", self.port) if tcp else self.path
        self.stderr_path = os.path.join(self.directory, "stderr")
        self.faults = Faults(self.directory, self.image) if fault else None
        self.ends = ends
        self.status = status
        self.limits = limits or {}
        self.environment = dict(os.environ, **(environment or {}))
        if fault:
            self.environment.update(self.faults.environment)
            asan = self.environment.get("ASAN_OPTIONS", "detect_leaks=1")
            self.environment["ASAN_OPTIONS"] = asan + ":verify_asan_link_order=0"
        where = (["-b", "127.0.0.1", "-p", str(self.port)] if tcp else ["-k", self.path])
        self.command = [program(), *defaults, *options, *where, self.image]
        self.process = None
        self.clients = []

    def make_image(self, size, content):
        path = os.path.join(self.directory, "image")
        with open(path, "wb") as out:
            if content is None:
                content = content_of(size)
            out.write(content or b"")
            out.truncate(size)
        return path

    # ---- life ----

    def spawn(self):
        def limit():
            for name, value in self.limits.items():
                resource.setrlimit(name, (value, value))

        # Closed at once: the child has its own descriptor.
        with open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                env=self.environment, preexec_fn=limit if self.limits else None)

    def listening(self):
        code = self.process.poll()
        check(code is None, f"server ended with {code} at start: {self.stderr()}")
        return listens_on_port(self.port) if self.port else listens_on_path(self.path)

    def __enter__(self):
        try:
            self.spawn()
            until(self.listening, "server listens")
        except BaseException:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self):
        """SIGTERM, and its status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds=90):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            check(False, f"server does not end within {seconds} s")

    def stderr(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.stderr_path, encoding="utf-8", errors="replace") as text:
                return text.read()
        return ""

    def check_end(self):
        code = self.stop()
        for client in self.clients:
            client.close()
        said = self.stderr()
        check(not SANITIZER.search(said), "sanitizer or assertion report on stderr")
        check(code == self.status, f"server ended with {code}")
        check(not os.path.exists(self.path), "socket left behind")
        check(len(said) <= STDERR_MAX, f"{len(said)} bytes of log")

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and not self.ends:
                self.check_end()
            elif kind is None:
                self.wait()
                check(not SANITIZER.search(self.stderr()), "sanitizer report on stderr")
        except Violation:
            self.show()
            raise
        finally:
            if kind is not None and not issubclass(kind, Skip):
                self.show()
            for client in self.clients:
                client.close()
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def show(self):
        state = self.process.poll()
        print(f"# server: {' '.join(self.command)}")
        print(f"# state: {'running' if state is None else f'ended with {state}'}")
        for line in self.stderr().splitlines()[-60:]:
            print(f"# stderr: {line}")

    def alive(self):
        code = self.process.poll()
        check(code is None, f"server died with {code}")

    # ---- clients ----

    def connect(self):
        """A connection that has not read a byte yet."""
        client = Client(self.address)
        self.clients.append(client)
        return client

    def greeted(self, **how):
        return self.connect().greet(**how)

    def client(self, mode="structured", contexts=(), name=""):
        """A client in transmission: mode is simple, structured or extended."""
        client = self.greeted()
        negotiate(client, mode)
        if contexts:
            selected = client.set_meta(name, contexts)
            check(not hasattr(selected, "kind"), f"SET_META fails: {selected}")
        export = client.go(name)
        check(isinstance(export, Export), f"GO fails: {export}")
        return client

    def modes(self):
        """The header forms that the server speaks."""
        client = self.greeted()
        extended = client.extended_headers().ok
        client.send_option(2)
        client.close()
        return ("simple", "structured", "extended") if extended else ("simple", "structured")

    def each(self, contexts=()):
        """A client of each form in turn."""
        for mode in self.modes():
            client = self.client(mode, contexts if mode != "simple" else ())
            client.mode = mode
            yield client
            client.disc()
            client.close()

    def good(self):
        """Proves that a well-behaved client is served: the export can be read."""
        self.alive()
        with self.client() as client:
            client.in_sync()
            client.disc()

    def bytes(self, offset=0, length=None):
        """What the image file holds now."""
        with open(self.image, "rb") as image:
            image.seek(offset)
            return image.read(length)

    def blocks(self):
        return os.stat(self.image).st_blocks * 512


def negotiate(client, mode):
    if mode == "structured":
        check(client.structured_reply().ok, "STRUCTURED_REPLY refused")
    if mode == "extended":
        reply = client.extended_headers()
        if not reply.ok:
            raise Skip(f"server answers EXTENDED_HEADERS with {reply.kind:#x}")
    return client


def dropped(action):
    """Runs the action; true when the server closed the connection during it."""
    try:
        action()
    except Dropped:
        return True
    return False


@contextlib.contextmanager
def background(function):
    """Runs function(stop_event) in a thread for the length of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=function, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


def expired(_signal, _frame):
    raise Violation(f"test takes more than {TEST_SECONDS} s")


def run_one(name, function):
    """'ok', 'not ok' or 'skip'."""
    started = time.monotonic()
    signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_SECONDS)
    try:
        function()
        verdict, remark = "ok", ""
    except Skip as reason:
        verdict, remark = "skip", f" # SKIP {reason}"
    except Exception:  # every fault of a test is reported, and the next test runs
        verdict, remark = "not ok", ""
        for line in traceback.format_exc().splitlines():
            print(f"# {line}")
    finally:
        signal.alarm(0)
    seconds = time.monotonic() - started
    print(f"{'ok' if verdict == 'skip' else verdict} {name}{remark} ({seconds:.2f} s)", flush=True)
    return verdict


def main(namespace):
    program()
    words = sys.argv[1:]
    verdicts = [run_one(name, function) for name, function in list(namespace.items())
                if name.startswith("test_") and (not words or any(w in name for w in words))]
    if "not ok" in verdicts:
        sys.exit(1)
    sys.exit(0 if "ok" in verdicts else 77)


__all__ = ["ALLOCATION", "MIB", "Server", "Skip", "background", "check", "content_of", "dropped",
           "hasty", "main", "negotiate", "pattern", "until"]
