#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The screen of hawser top, on a terminal of ours: it shows what it should, fits, and leaves the
terminal as it was, however it ends.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import Server, check, main, program, until  # noqa: E402

HAWSER = os.path.join(os.path.dirname(program()), "hawser")
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS = 30


@contextlib.contextmanager
def served(*options):
    with tempfile.TemporaryDirectory(prefix="hawser-test-") as folder:
        control = folder + "/control"
        with Server("--control", control, *options, ends=True) as server:
            server.control = control
            until(lambda: os.path.exists(control) and subprocess.run(
                [HAWSER, "top", "--json", control], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, check=False).returncode == 0, "it tells statistics")
            yield server
            server.stop()


class Screen:
    """hawser top on a pseudo terminal."""

    def __init__(self, *words, columns=100, rows=30, **environment):
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment}
        self.process = subprocess.Popen([HAWSER, "top", *words], stdin=self.slave,
                                        stdout=self.slave, stderr=subprocess.PIPE,
                                        env=environment, start_new_session=True,
                                        preexec_fn=self.control)

    def control(self):
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def pump(self, seconds=0.05):
        while select.select([self.master], [], [], seconds)[0]:
            self.output += os.read(self.master, 65536)

    def picture(self):
        """The lines of the last whole picture."""
        self.pump()
        shown = self.output.split(b"\x1b[H")[-1].decode()
        return ESCAPE.sub("", shown.replace("\x1b[J", "\r\n", 1)).split("\r\n")

    def wait_for(self, text):
        def there():
            self.pump()
            return re.search(text, self.output.decode(errors="replace"))
        until(there, f"the screen shows {text!r}")

    def press(self, keys):
        os.write(self.master, keys)

    def raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def end(self, status=0):
        """The end, with the terminal as it was; what stderr said."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            self.pump()
        check(self.process.poll() == status, f"status {self.process.poll()}, not {status}")
        self.pump()
        check(termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was")
        check(self.output.count(ENTER) == self.output.count(LEAVE) > 0
              and self.output.rindex(LEAVE) > self.output.rindex(ENTER), "the screen was not left")
        check(self.output.rindex(b"\x1b[?25h") > self.output.rindex(b"\x1b[?25l"),
              "the cursor is hidden")
        return self.process.stderr.read().decode()


def test_shows_and_quits():
    """Rates, clients, keys: a blank draws, q ends."""
    with served("-x", "shown") as server, Screen(server.control) as screen:
        screen.wait_for("q: quit")
        check(screen.raw(), "keys need Enter")
        check("(since the start)" in screen.picture()[0], f"{screen.picture()[0]}")
        client = server.client(name="shown")
        for _ in range(300):
            client.read(0, 65536)
        screen.wait_for(r"peak [\d.]+ MB/s")
        screen.wait_for(rf"\({os.getpid()}\)")
        before = len(screen.output)
        screen.press(b" ")
        until(lambda: screen.pump() or len(screen.output) > before, "a blank draws")
        screen.press(b"xyz\x1b[A")  # nothing
        client.disc()
        until(lambda: "CLIENT" not in "".join(screen.picture()), "the client is gone")
        screen.press(b"q")
        check(screen.end() == "", "nothing to say")


def test_signals():
    """Ctrl-C, SIGTERM, SIGHUP and SIGQUIT end it in order."""
    with served() as server:
        for number in (None, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            with Screen(server.control) as screen:
                screen.wait_for("q: quit")
                if number is None:
                    screen.press(b"\x03")
                else:
                    screen.process.send_signal(number)
                screen.end()


def stopped(screen):
    with open(f"/proc/{screen.process.pid}/stat", encoding="ascii") as state:
        return state.read().rsplit(")", 1)[1].split()[0] == "T"


def test_stop_and_continue():
    """Ctrl-Z gives the terminal back, continuing takes it again."""
    with served() as server, Screen(server.control) as screen:
        screen.wait_for("q: quit")
        screen.process.send_signal(signal.SIGTSTP)
        until(lambda: stopped(screen), "it is stopped")
        screen.pump()
        check(not screen.raw() and screen.output.endswith(LEAVE), "the terminal is given back")
        screen.process.send_signal(signal.SIGCONT)
        until(lambda: screen.pump() or (screen.raw() and screen.output.count(ENTER) == 2),
              "the screen is back")
        screen.wait_for("q: quit")
        screen.press(b"q")
        screen.end()


def test_server_ends():
    """The end of the server is the end of the screen, with a sentence."""
    with served() as server, Screen(server.control, "--interval=60") as screen:
        screen.wait_for("q: quit")
        server.stop()
        check("the server has ended" in screen.end(status=6), "says so")


def test_fits():
    """No line is wider, no picture higher than the window, whatever its size; colours or not."""
    with served("-x", "name" * 100) as server:
        clients = [server.client(name="name" * 100) for _ in range(30)]
        for client in clients:
            client.read(0, 65536)
        with Screen(server.control) as screen:
            screen.wait_for("since the start")
            for columns, rows in ((132, 50), (80, 24), (89, 20), (40, 10), (20, 5), (5, 2),
                                  (1, 1), (500, 100)):
                screen.output = ENTER
                screen.resize(columns, rows)
                screen.process.send_signal(signal.SIGWINCH)
                until(lambda: screen.pump() or b"\x1b[J" in screen.output, "it is drawn anew")
                lines = screen.picture()
                check(len([line for line in lines if line]) <= rows, f"{len(lines)} lines in {columns}x{rows}")
                check(all(len(line) <= columns for line in lines),
                      f"{columns}x{rows}: {lines}")
                if (columns, rows) == (80, 24):
                    check(any("more" in line for line in lines), f"{lines}")
            screen.output = ENTER + b"\x1b[?25l"
            screen.press(b"q")
            screen.end()
        for client in clients:
            client.disc()


def test_plain_terminals():
    """NO_COLOR has none; without UTF-8 bars are ASCII; a dumb terminal gets the table once."""
    with served() as server:
        with server.client() as client:
            client.read(0, 65536)
            with Screen(server.control, NO_COLOR="1", LC_ALL="C") as screen:
                screen.wait_for("q: quit")
                for _ in range(50):
                    client.read(0, 65536)
                screen.wait_for("#")
                check(not re.search(rb"\x1b\[[0-9;]*[1-9][0-9;]*m", screen.output)
                      and not re.search(rb"[\x80-\xff]", screen.output), f"{screen.output!r}")
                screen.press(b"q")
                screen.end()
            with Screen(server.control, TERM="dumb") as screen:
                until(lambda: screen.pump() or screen.process.poll() is not None, "it ends")
                screen.pump()
                check(screen.process.returncode == 0 and b"\x1b" not in screen.output
                      and b"REQ/S" in screen.output, f"{screen.output!r}")
            client.disc()


if __name__ == "__main__":
    main(globals())
