#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
soak.py SECONDS: a server under mixed load, good and hostile, on storage that is slow and fails,
ended by signals and by force, and started again. Verified data must be right all the time. What
the server holds must not grow: at rest (no client) descriptors and threads are what they were at
the start; its memory, at rest and under load, is in later laps what it was in earlier ones.

HAWSERD names the program; SEED=N repeats the choices. Status 1 where anything went wrong.
"""

import collections
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time

import clients
from clients import ALLOCATION, CROWD_AT, FAULTY_AT, FAULTY_SIZE, MIB, SIZE

from harness import SANITIZER, Server, content_of, until
from nbdraw import Dropped, Violation
from player import SPAN, Crowd, Player

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
PLAIN = os.environ.get("SANITIZER", "plain") == "plain"
PLAYERS = 4
LAPS = 4  # of a life, unless the run is short
CROWD_AREA = 8 * 1024
SAMPLE_EVERY = 0.1
SETTLE_SECONDS = 2
REST_SECONDS = 40  # for idle threads to end; only a deadline
# What the second half of the laps may have more than the first, beside half as much again. The
# allocator keeps some of what many threads used at once.
GROWTH = {"memory": 24 * 1024, "descriptors": 48, "threads": 24}

# What each life of the server is like; in turn.
LIVES = (
    {"options": (), "tcp": False, "fault": False, "end": "kill"},
    {"options": ("--cache=none",), "tcp": True, "fault": True, "end": "drain"},
    {"options": (), "tcp": True, "fault": False, "end": "drain"},
    {"options": (), "tcp": False, "fault": True, "end": "kill"},
    {"options": ("--cache=writethrough",), "tcp": False, "fault": False, "end": "drain"},
)
RULES = (
    (),
    ("write 28 {low} {high}", "read delay:1 0 4000000", "sync delay:3"),
    ("write 5 {low} {high}", "read short", "write short", "nowait 11"),
    ("allocate 95", "nowait short", "write delay:1 0 2000000"),
)

Sample = collections.namedtuple("Sample", "memory descriptors threads")


class Soak:
    """The server of the day, its clients, and what went wrong."""

    def __init__(self, folder):
        self.folder = folder
        self.rng = random.Random(SEED)
        self.image = os.path.join(folder, "image")
        with open(self.image, "wb") as out:
            out.write(content_of(SIZE))
        self.server = None
        self.stop = threading.Event()
        self.ending = threading.Event()
        self.failures = []
        self.counts = collections.Counter()
        self.lock = threading.Lock()
        build = os.path.dirname(os.environ.get("HAWSERD", "")) or "build"
        self.bench_load = os.path.abspath(os.path.join(build, "tests", "bench-load"))
        self.players = [Player(None, n * SPAN, content_of(SIZE)[n * SPAN:(n + 1) * SPAN], SEED + n)
                        for n in range(PLAYERS)]
        self.group = Crowd([], CROWD_AT, bytes(CROWD_AREA), SEED, True)

    def fail(self, text):
        with self.lock:
            if len(self.failures) < 20:
                self.failures.append(text)
        self.stop.set()

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def client(self, mode, contexts=()):
        """As Server.client(), but not kept by the server object: there are too many."""
        try:
            client = self.server.client(mode, contexts)
        except Violation as error:
            if self.ending.is_set():  # a server that drains refuses options
                raise Dropped(str(error)) from error
            raise
        with self.lock:
            with contextlib.suppress(ValueError):
                self.server.clients.remove(client)
        return client

    def uri(self):
        server = self.server
        return (f"nbd://127.0.0.1:{server.port}" if server.port
                else f"nbd+unix:///?socket={server.path}")

    # ---- Measuring ----

    def sample(self):
        pid = self.server.process.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            fields = dict(line.split(":", 1) for line in status)
        return Sample(int(fields["RssAnon"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")),
                      int(fields["Threads"]))

    def settle(self):
        """What a new server holds when all of it is up: its control socket comes last."""
        now, same_since = self.sample(), time.monotonic()
        while time.monotonic() < same_since + SETTLE_SECONDS:
            time.sleep(SAMPLE_EVERY)
            before, now = now, self.sample()
            if (now.descriptors, now.threads) != (before.descriptors, before.threads):
                same_since = time.monotonic()
        return now

    def rest(self, start):
        """Without clients: descriptors and threads as at the start."""
        def back():
            now = self.sample()
            return now.descriptors <= start.descriptors and now.threads <= start.threads and now
        try:
            return until(back, "rest", REST_SECONDS)
        except Exception:  # told with what is left
            self.fail(f"at rest: {self.sample()}, at the start: {start}")
            return self.sample()

    def lap(self, seconds):
        """Everybody works for so long; the medians of what the server held."""
        threads = self.start_clients()
        samples = []
        until_when = time.monotonic() + seconds
        while time.monotonic() < until_when and not self.stop.wait(SAMPLE_EVERY):
            samples.append(self.sample())
        self.finish(threads)
        return Sample(*(statistics.median(column) for column in zip(*samples)))

    # ---- Load ----

    def start_clients(self):
        self.stop.clear()
        modes = ("simple", "structured", "extended")
        work = [(clients.raw_player, player, modes[n % 3]) for n, player in enumerate(self.players)]
        work += [(clients.crowd, self.group), (clients.nbdcopy,), (clients.nbdinfo,),
                 (clients.fio,), (clients.qemu_io,), (clients.hostile,), (clients.hostile,)]
        if os.path.exists(self.bench_load):
            work.append((clients.bench_load,))
        if self.server.faults:
            work.append((clients.faulty,))
        threads = [threading.Thread(target=self.guarded, args=(function, *rest), daemon=True)
                   for function, *rest in work]
        for thread in threads:
            thread.start()
        return threads

    def guarded(self, function, *rest):
        try:
            function(self, *rest)
        except Exception as error:  # a client must not end unseen
            self.fail(f"{function.__name__}: {error!r}")

    def finish(self, threads):
        self.stop.set()
        for thread in threads:
            thread.join(clients.PEER_SECONDS)
            if thread.is_alive():
                self.fail("a client hangs")

    # ---- The server's lives ----

    def set_faults(self):
        if self.server.faults:
            high = FAULTY_AT + FAULTY_SIZE
            rules = self.rng.choice(RULES)
            # The system never cuts direct I/O inside of a block, and refuses what is cut so.
            if "--cache=none" in self.server.command:
                rules = [rule for rule in rules if "short" not in rule]
            self.server.faults.set(*(rule.format(low=FAULTY_AT, high=high) for rule in rules))
            self.server.faults.forget()

    def end_under_load(self, how):
        """Ends the server while everybody works."""
        threads = self.start_clients()
        self.stop.wait(0.7)
        self.ending.set()
        server = self.server
        if how == "kill":
            server.process.send_signal(signal.SIGKILL)
        else:
            server.process.send_signal(signal.SIGTERM)
        code = server.wait(60)
        self.finish(threads)
        self.ending.clear()
        if code != (-signal.SIGKILL if how == "kill" else 0):
            self.fail(f"the server ended with {code}: {server.stderr()[-2000:]}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(server.path)

    def compare_file(self):
        """After the end the file has what the players may expect."""
        with open(self.image, "rb") as image:
            for player in self.players:
                image.seek(player.start)
                try:
                    player.compare(image.read(SPAN))
                except Violation as error:
                    self.fail(f"after the end: {error}")

    def live(self, life, laps, seconds):
        with Server(*life["options"], image=self.image, tcp=life["tcp"], fault=life["fault"],
                    ends=True) as self.server:
            start = self.settle()
            busy, rests = [], []
            for _ in range(laps):
                if not self.failures:
                    self.set_faults()
                    busy.append(self.lap(seconds))
                    rests.append(self.rest(start))
            if not self.failures:
                self.judge_growth(life, busy, rests)
                self.set_faults()
                self.end_under_load(life["end"])
                self.compare_file()
            else:
                self.server.stop()
            if SANITIZER.search(self.server.stderr()):
                self.fail(f"sanitizer report: {self.server.stderr()[-4000:]}")

    def judge_growth(self, life, busy, rests):
        for name, rows in (("load", busy), ("rest", rests)):
            for row in rows:
                print(f"# {' '.join(life['options']) or '-'} {name}: {row.memory / 1024:.1f} MiB, "
                      f"{row.descriptors:g} descriptors, {row.threads:g} threads", flush=True)
        # What is at work in so short a lap depends on the machine, what is left at rest does not.
        judged = (("load", busy), ("rest", rests)) if len(busy) >= LAPS else (("rest", rests),)
        for name, rows in judged:
            for column, more in GROWTH.items():
                values = [getattr(row, column) for row in rows]
                half = (len(values) + 1) // 2
                first, second = values[:half], values[half:] or values
                if column == "memory" and not PLAIN:
                    continue  # a sanitizer keeps what was freed
                if statistics.median(second) > 1.5 * statistics.median(first) + more:
                    self.fail(f"{column} at {name} grow: {values}")


def main():
    seconds = float(sys.argv[1])
    laps, lap = (1, seconds / 10) if seconds < 60 else (LAPS, min(20.0, seconds / 12))
    started = time.monotonic()
    print(f"# seed {SEED}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hawser-soak-") as folder:
        soak = Soak(folder)
        for number in range(1 << 30):
            life = LIVES[number % len(LIVES)]
            # A short run sees one life with and one without faults, and growth in the first.
            soak.live(life, 2 if laps == 1 and number == 0 else laps, lap)
            if soak.failures or time.monotonic() - started > seconds * 0.8 and number:
                break
    print(f"# {number + 1} lives, {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items())))
    for failure in soak.failures:
        print(f"not ok: {failure}")
    if not soak.failures:
        print("ok")
    sys.exit(1 if soak.failures else 0)


if __name__ == "__main__":
    main()
