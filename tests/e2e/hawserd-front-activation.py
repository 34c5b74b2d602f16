#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
hawserd as its starters see it: the service manager (LISTEN_FDS, NOTIFY_SOCKET), libnbd's tools,
inetd (--stdio), and a shell that closed the standard streams. HAWSERD names the program.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))
import nbdraw  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HAWSERD = os.path.realpath(os.environ.get("HAWSERD") or os.path.join(
    TOP, os.environ.get("BUILD", "build"), "hawserd"))
GREETING = b"NBDMAGICIHAVEOPT"
SECONDS = 20  # ends a hang, nothing else
ABORT = b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\2" + b"\0\0\0\0"


def start(*options, listeners=(), pid=None, count=None, stdin=subprocess.DEVNULL, environment=None):
    """The server with these sockets from descriptor 3 on, as a service manager starts it."""
    variables = {k: v for k, v in os.environ.items()
                 if k not in ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET")}
    variables.update(environment or {})
    fds = [listener.fileno() for listener in listeners]

    # The shell knows its number, and exec keeps it; python cannot know it before the fork.
    moves = "".join(f" {3 + i}<&{fd}" for i, fd in enumerate(sorted(fds)))
    script = 'exec "$@"' + moves
    if listeners or pid or count:
        script = (f'export LISTEN_PID={pid or "$$"} LISTEN_FDS={count or len(fds)}; '
                  f'exec "$@"{moves}')
    return subprocess.Popen(["/bin/bash", "-c", script, "bash", HAWSERD, *options],
                            pass_fds=fds, env=variables, stdin=stdin, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(server, status, said=""):
    """The server must end by itself, with this status and these words."""
    output, errors = server.communicate(timeout=SECONDS)
    assert server.returncode == status, (server.returncode, output, errors)
    assert said in errors, errors


def listen(folder, name="socket"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, name))
    listener.listen(5)
    return listener


def greets(address):
    """Connects, reads the greeting and leaves politely."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(SECONDS)
        client.connect(address)
        got = client.recv(18, socket.MSG_WAITALL)
        client.sendall(ABORT)
    return got.startswith(GREETING)


def test_unix_activation(folder, image):
    with listen(folder) as listener:
        server = start("-t", image, listeners=[listener])
    assert greets(os.path.join(folder, "socket"))
    server.terminate()
    finish(server, 0)
    assert os.path.exists(os.path.join(folder, "socket")), "it removed the manager's socket"


def test_tcp_activation(_folder, image):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        server = start("-t", image, listeners=[listener])
    assert greets(address)
    server.terminate()
    finish(server, 0)


def test_activation_and_fork(folder, image):
    """LISTEN_PID names the process that was started, not the one that serves."""
    pid_file = os.path.join(folder, "pid")
    with listen(folder) as listener:
        finish(start("-t", "--fork", "--pid-file", pid_file, image, listeners=[listener]), 0)
    assert greets(os.path.join(folder, "socket"))
    with open(pid_file, encoding="ascii") as file:
        os.kill(int(file.read()), 15)


def test_activation_of_another(folder, image):
    """Meant for another process: ignored, not taken."""
    path = os.path.join(folder, "own")
    with listen(folder) as listener:
        server = start("-t", "-k", path, image, listeners=[listener], pid=os.getpid())
        wait_for_path(path)
        assert greets(path)
        listener.settimeout(0.2)
        server.terminate()
        finish(server, 0)


def test_bad_activation(folder, image):
    path = os.path.join(folder, "own")
    finish(start(image, pid="$$", count=1), 1, "invalid file descriptor fd = 3: Bad file descriptor")
    with open("/dev/null", "rb") as null:
        finish(start(image, listeners=[null]), 1, "Failed to use socket activation")
    with socket.socket(socket.AF_UNIX) as unconnected:
        finish(start(image, listeners=[unconnected]), 1, "not a listening stream socket")
    with listen(folder) as one:
        finish(start("-k", path, image, listeners=[one]), 1,
               "Unix socket can't be set when using socket activation")
        with listen(folder, "two") as two:
            finish(start(image, listeners=[one, two]), 1,
                   "does not support socket activation with LISTEN_FDS > 1")
    assert not os.path.exists(path)


def wait_for_path(path):
    deadline = time.monotonic() + SECONDS
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


def notified(folder, image, address, *options):
    """Messages of one life, the first taken when the socket must already answer."""
    path = os.path.join(folder, "notified")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if address[0] == "@" else address)
        manager.settimeout(SECONDS)
        server = start("-t", "-k", path, *options, image,
                       environment={"NOTIFY_SOCKET": address})
        ready = manager.recv(4096).decode()
        assert greets(path)
        numbers = [line[8:] for line in ready.splitlines() if line.startswith("MAINPID=")]
        os.kill(int(numbers[0]), 15)
        stopping = manager.recv(4096).decode()
        finish(server, 0)
    return server.pid, int(numbers[0]), ready, stopping


def test_notify(folder, image):
    started, main, ready, stopping = notified(folder, image, os.path.join(folder, "notify"))
    assert "READY=1" in ready.splitlines() and "STOPPING=1" in stopping.splitlines()
    assert started == main


def test_notify_abstract(folder, image):
    notified(folder, image, f"@hawserd-test-{os.getpid()}")


def test_notify_forked(folder, image):
    started, main, ready, _ = notified(folder, image, os.path.join(folder, "notify"), "--fork")
    assert "READY=1" in ready.splitlines()
    assert started != main


def test_notify_before_the_drain(folder, image):
    """The manager hears of the stop while a client that did not read can still have it all."""
    path, address = os.path.join(folder, "socket"), os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(SECONDS)
        server = start("-t", "-k", path, image, environment={"NOTIFY_SOCKET": address})
        assert "READY=1" in manager.recv(4096).decode()
        client = nbdraw.Client(path)
        client.greet()
        export = client.go()
        for _ in range(64):
            client.request(nbdraw.READ, 0, export.size)
        server.terminate()
        assert "STOPPING=1" in manager.recv(4096).decode()
        client.wait_all()
        client.close()
        finish(server, 0)


def test_notify_nobody(folder, image):
    """A manager that went away does not keep the service from starting."""
    path = os.path.join(folder, "socket")
    server = start("-t", "-k", path, image,
                   environment={"NOTIFY_SOCKET": os.path.join(folder, "nobody")})
    wait_for_path(path)
    assert greets(path)
    server.terminate()
    finish(server, 0)


def test_stdio(_folder, image):
    ours, theirs = socket.socketpair()
    with ours:
        server = start("--stdio", image, stdin=theirs)
        theirs.close()
        ours.settimeout(SECONDS)
        assert ours.recv(18, socket.MSG_WAITALL).startswith(GREETING)
    finish(server, 0)


def test_stdio_is_no_socket(_folder, image):
    finish(start("--stdio", image), 1, "standard input is not a connected socket")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        finish(start("--stdio", image, stdin=listener), 1, "not a connected socket")


def test_closed_streams(folder, image):
    """A start without standard streams: no image or socket may take their numbers."""
    path, pid_file = os.path.join(folder, "socket"), os.path.join(folder, "pid")
    script = f'exec "$0" --fork -v -v -t -k {path} --pid-file {pid_file} {image} <&- >&- 2>&-'
    subprocess.run(["/bin/bash", "-c", script, HAWSERD], check=True, timeout=SECONDS)
    with open(pid_file, encoding="ascii") as file:
        pid = int(file.read())
    try:
        assert greets(path)
        names = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)}
        assert set(names.values()) == {"/dev/null"}, names
    finally:
        os.kill(pid, 15)
    with open(image, "rb") as file:
        assert not any(file.read()), "messages went into the image"


def test_libnbd_tools(_folder, image):
    if not shutil.which("nbdcopy"):
        return
    with open(image, "r+b") as file:
        file.write(b"moored")
    copied = subprocess.run(["nbdcopy", "--", "[", HAWSERD, "-r", image, "]", "-"],
                            capture_output=True, check=True, timeout=SECONDS).stdout
    with open(image, "rb") as file:
        assert copied == file.read()
    size = subprocess.run(["nbdinfo", "--size", "--", "[", HAWSERD, "-r", "-x", "", image, "]"],
                          capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    assert int(size) == len(copied)


def main():
    failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        with tempfile.TemporaryDirectory(prefix="hawserd-front.") as folder:
            image = os.path.join(folder, "disk.img")
            with open(image, "wb") as file:
                file.truncate(1000 * 1000)
            try:
                test(folder, image)
                print(f"ok: {name}")
            except (AssertionError, OSError, subprocess.SubprocessError) as fault:
                failed += 1
                print(f"FAIL: {name}: {fault!r}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
