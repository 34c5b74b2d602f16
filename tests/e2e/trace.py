#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
hawserd --trace: under load every request leaves its stages in the file, in order and whole lines;
the option's forms; full disks.
"""

import collections
import concurrent.futures
import os
import random
import re
import resource
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import ALLOCATION, MIB, Server, Skip, check, main, program  # noqa: E402
from nbdraw import (BLOCK_STATUS, CACHE, FLUSH, FUA, READ, TRIM, WRITE,  # noqa: E402
                    WRITE_ZEROES, until)
from qcow2disk import SCRATCH, tool  # noqa: E402

NAMES = {READ: "READ", WRITE: "WRITE", FLUSH: "FLUSH", TRIM: "TRIM", CACHE: "CACHE",
         WRITE_ZEROES: "WRITE_ZEROES", BLOCK_STATUS: "BLOCK_STATUS"}
LINE = re.compile(r"(\d+)\.(\d{6}) (\d+) ([a-z0-9_]+) (.*)")

Event = collections.namedtuple("Event", "time thread name values")


def values_of(text):
    return dict(word.split("=", 1) for word in text.split(" "))


def events_of(path):
    """The lines of a trace file; each must be whole."""
    events = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            match = LINE.fullmatch(line.rstrip("\n"))
            check(match and line.endswith("\n"), f"torn line: {line!r}")
            time = int(match[1]) * 1000000 + int(match[2])
            events.append(Event(time, int(match[3]), match[4], values_of(match[5])))
    return events


def load(client, number, size, count):
    """Requests of all kinds, pipelined, whose cookies tell them apart: those that were sent."""
    chance = random.Random(number)
    sent = []
    for first in range(0, count, 40):
        blobs = []
        for index in range(first, min(first + 40, count)):
            command = chance.choice(list(NAMES))
            length = 0 if command == FLUSH else chance.choice((512, 4096, 70000, 300000))
            offset = 0 if command == FLUSH else chance.randrange(0, size - length) // 512 * 512
            flags = FUA if command == WRITE and index % 5 == 0 else 0
            payload = bytes(length) if command == WRITE else b""
            request, data = client.prepare(command, offset, length, flags, payload,
                                           number << 32 | index)
            sent.append(request)
            blobs.append(data)
        client.pipeline(blobs)
    return sent


class Story:
    """What the file says of one request."""

    def __init__(self, request):
        self.request = request
        self.events = []

    def names(self):
        return [event.name for event in self.events]

    def check(self):
        names = self.names()
        title = f"{self.request}: {names}"
        check(names[0] == "request_received" and names[-1] == "reply_queued", title)
        check(names.count("request_received") == names.count("reply_queued") == 1, title)
        first, last = self.events[0].values, self.events[-1].values
        check(first["command"] == last["command"] == NAMES[self.request.command], title)
        check((int(first["offset"]), int(first["length"])) ==
              (self.request.offset, self.request.length), title)
        check(last["error"] == "0", f"{title} error {last['error']}")
        for name in ("job_started", "job_ended"):
            check(names.count(name) == names.count("job_queued"), title)
        check((self.request.command == WRITE) == ("payload_received" in names), title)
        if self.request.command in (FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS):
            check(names == ["request_received", "job_queued", "job_started", "job_ended",
                            "reply_queued"], title)
        self.check_jobs(title)

    def check_jobs(self, title):
        open_jobs = collections.Counter()
        for event in self.events:
            step = {"job_queued": 1, "job_started": 100, "job_ended": 10000}.get(event.name)
            if step:
                at = event.values["offset"]
                before = {1: 0, 100: 1, 10000: 101}[step]
                check(open_jobs[at] == before, f"{title}: {event.name} of {at}")
                open_jobs[at] = 0 if step == 10000 else open_jobs[at] + step


def stories_of(events, requests):
    """Sorted by the client and the cookie."""
    stories = {request.cookie: Story(request) for request in requests}
    for event in events:
        story = stories.get(int(event.values.get("cookie", "-1"), 0))
        if story:
            story.events.append(event)
    for cookie, story in stories.items():
        check(story.events, f"nothing about the request {cookie:#x}")
    return stories


def check_replies_leave(events):
    """Behind each reply that was made there is a send of the same client, but for the last."""
    waiting = collections.Counter()
    for event in events:
        if event.name == "reply_queued":
            waiting[event.values["client"]] += 1
        elif event.name == "replies_sent":
            waiting[event.values["client"]] = 0
    check(not any(waiting.values()), f"replies that never left: {waiting}")


def check_pairs(events):
    """What a thread begins on a file it ends before it begins anything else there."""
    begun = {}
    for event in events:
        name, _, edge = event.name.rpartition("_")
        if edge == "begin" and name.startswith("host_"):
            check(event.thread not in begun, f"{event} inside {begun.get(event.thread)}")
            begun[event.thread] = (name, event.values.get("offset"))
        elif edge == "end" and name.startswith("host_"):
            check(begun.pop(event.thread, None) == (name, event.values.get("offset")),
                  f"{event} was not begun")
    check(not begun, f"never ended: {begun}")


def jobs_touch_the_host(events, commands, stories):
    """
    The host's work of a job is told between its start and its end, on the same thread. With FUA
    there may be none: a write that was made inline, and a flush that another job's covers.
    """
    running, touched = {}, set()
    for event in events:
        if event.name == "job_started":
            running[event.thread] = int(event.values["cookie"], 0)
        elif event.name == "job_ended":
            check(running.pop(event.thread) == int(event.values["cookie"], 0), f"{event}")
        elif event.name.startswith("host_") and event.thread in running:
            touched.add(running[event.thread])
    for cookie, story in stories.items():
        works = story.request.command in commands and not story.request.flags & FUA
        if works and "job_started" in story.names():
            check(cookie in touched, f"{story.request}: no work on the host")


def run_load(server, clients=3, count=400):
    connections = [server.client("structured", [ALLOCATION]) for _ in range(clients)]
    size = connections[0].export.size
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        loads = [pool.submit(load, client, number + 1, size, count)
                 for number, client in enumerate(connections)]
    requests = [request for one in loads for request in one.result()]
    for client in connections:
        client.disc()
    return requests


def trace_file(directory):
    return os.path.join(directory, "trace")


def whole_life(image, form, commands):
    with tempfile.TemporaryDirectory(prefix="hawser-trace-", dir=SCRATCH) as directory:
        path = trace_file(directory)
        with Server("-T", f"*,file={path}", "--discard=unmap", image=image(directory),
                    defaults=("-t", "-e", "0", "-f", form)) as server:
            requests = run_load(server)
            server.stop()
        events = events_of(path)
        stories = stories_of(events, requests)
        for story in stories.values():
            story.check()
        check_replies_leave(events)
        check_pairs(events)
        jobs_touch_the_host(events, commands, stories)
        check_connections(events)
        return {event.name for event in events}


def check_connections(events):
    """Each client's own events lie between its coming and its going, the handshake first."""
    for client in ("1", "2", "3"):
        names = [event.name for event in events if event.values.get("client") == client]
        check(names[0] == "connection_accepted" and names[-1] == "connection_closed", f"{names}")
        order = [names.index(name) for name in ("handshake_option", "handshake_reply",
                                                "handshake_done", "connection_served",
                                                "request_received")]
        check(order == sorted(order), f"{order}")


def raw_image(directory):
    path = os.path.join(directory, "image")
    with open(path, "wb") as out:
        out.truncate(8 * MIB)
    return path


def qcow2_image(directory):
    path = os.path.join(directory, "image")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "8M")
    return path


def test_raw():
    """Each of 1200 requests of three clients on a raw file has its stages, in order."""
    seen = whole_life(raw_image, "raw", (TRIM, WRITE_ZEROES, CACHE))
    for name in ("image_opened", "image_closed", "map_answered", "host_write_begin", "flush_begin",
                 "host_sync_end", "socket_received", "server_draining", "host_zero_begin",
                 "host_discard_end", "host_extent", "host_prefetch", "image_locked"):
        check(name in seen, f"{name} is missing")


def test_qcow2():
    """The same on qcow2, with the changes of its metadata."""
    seen = whole_life(qcow2_image, "qcow2", (WRITE,))
    for name in ("qcow2_prepared", "qcow2_allocated", "qcow2_table_made", "qcow2_flush_begin",
                 "qcow2_words_written", "qcow2_flush_end", "qcow2_freed"):
        check(name in seen, f"{name} is missing")


def served(*options, image=None, **how):
    with tempfile.TemporaryDirectory(prefix="hawser-trace-", dir=SCRATCH) as directory:
        done = subprocess.run([program(), *options, "-f", "raw", "--run", "true",
                               image or raw_image(directory)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False,
                              cwd=directory, **how)
        return done


def test_standard_error():
    """Without a file the lines are on standard error, as those of QEMU's log."""
    done = served("-T", "image_*", "--trace", "enable=-image_locked", "-T", "flush_end")
    check(done.returncode == 0, done.stderr)
    lines = done.stderr.splitlines()
    check(all(re.fullmatch(r"\d+@\d+\.\d{6}:(image_opened|image_closed|flush_end) \S+=.*", line)
              for line in lines), done.stderr)
    check([line.split(":")[1].split(" ")[0] for line in lines]
          == ["image_opened", "flush_end", "image_closed"], done.stderr)


def test_help():
    """-T help lists the events and ends; an event that is not there is a warning."""
    names = tool(program(), "-T", "help").split()
    check(len(names) > 40 and "request_received" in names, f"{names}")
    check(tool(program(), "--trace", "enable=help").split() == names, "--trace enable=help")
    done = served("-T", "nosuch")
    check(done.returncode == 0 and "trace event 'nosuch' does not exist" in done.stderr,
          done.stderr)


def test_events_file():
    """events=FILE: a pattern on a line, comments, exceptions; a list that cannot be read."""
    with tempfile.TemporaryDirectory(prefix="hawser-trace-", dir=SCRATCH) as directory:
        rules, out = os.path.join(directory, "rules"), trace_file(directory)
        with open(rules, "w", encoding="utf-8") as file:
            file.write("# images\nimage_*\n-image_locked\n\nflush_begin\n")
        done = served("-T", f"events={rules},file={out}")
        check(done.returncode == 0 and not done.stderr, done.stderr)
        check([event.name for event in events_of(out)]
              == ["image_opened", "flush_begin", "image_closed"], "events")
        for option, text in ((f"events={directory}/none", "Could not open"),
                             ("events=/dev/zero", "no list of trace events"),
                             (f"*,file={directory}", "Could not open trace file"),
                             ("*,wrong=1", "Invalid parameter 'wrong'")):
            done = served("-T", option)
            check(done.returncode == 1 and text in done.stderr, f"{option}: {done.stderr}")


def test_full_disk():
    """A file that cannot take more ends the tracing with a message; all requests are served."""
    with tempfile.TemporaryDirectory(prefix="hawser-trace-", dir=SCRATCH) as directory:
        for path, limits in (("/dev/full", {}),
                             (trace_file(directory), {resource.RLIMIT_FSIZE: 9 * MIB})):
            with Server("-T", f"*,file={path}", image=raw_image(directory), limits=limits,
                        defaults=("-t", "-e", "0", "-f", "raw")) as server:
                for _ in range(200 if limits else 1):
                    requests = run_load(server, count=200)
                    check(not any(request.error for request in requests), "a request failed")
                    if "tracing ends" in server.stderr():
                        break
                check(server.stderr().count("tracing ends: cannot write to") == 1, server.stderr())


def test_tls():
    """The TLS handshake has a beginning and an end between the options; keys are nowhere."""
    with tempfile.TemporaryDirectory(prefix="hawser-trace-", dir=SCRATCH) as directory:
        path, key = trace_file(directory), "5ec2e7" * 8
        with open(os.path.join(directory, "keys.psk"), "w", encoding="utf-8") as out:
            out.write(f"user:{key}\n")
        os.chmod(out.name, 0o600)
        with Server("-T", f"*,file={path}", "--tls-creds=t",
                    "--object", f"tls-creds-psk,id=t,endpoint=server,dir={directory}",
                    image=raw_image(directory)) as server:
            tool("nbdinfo", "--size", f"nbds+unix://user@/?socket={server.path}&"
                                      f"tls-psk-file={out.name}")
            server.stop()
        events = [event for event in events_of(path) if event.values.get("client") == "1"]
        names = [event.name for event in events]
        order = [names.index(name) for name in ("handshake_option", "tls_begin", "tls_end",
                                                "handshake_done", "connection_closed")]
        check(order == sorted(order) and names.count("tls_end") == 1, f"{names}")
        check(events[order[2]].values["result"] == "0", f"{events[order[2]]}")
        with open(path, encoding="utf-8") as file:
            check(key not in file.read(), "the key was told")


def test_probes():
    """Where the build had sys/sdt.h, each event is a static probe in the program."""
    with open(program(), "rb") as file:
        if b".note.stapsdt" not in file.read():
            raise Skip("built without sys/sdt.h (systemtap-sdt-dev)")
    notes = tool("readelf", "--notes", "--wide", program())
    probes = set(re.findall(r"Provider: hawserd\s+Name: (\S+)", notes))
    names = set(tool(program(), "-T", "help").split())
    check(probes == names, f"events without a probe, or probes without an event: {probes ^ names}")


def test_background():
    """With --fork the file goes on behind the parent's back."""
    with tempfile.TemporaryDirectory(prefix="hawser-trace-", dir=SCRATCH) as directory:
        path, socket = trace_file(directory), os.path.join(directory, "socket")
        image = raw_image(directory)
        subprocess.run([program(), "--fork", "-f", "raw", "-k", socket, "-T",
                        "connection_*,file=trace", image], cwd=directory, check=True, timeout=60)
        tool("nbdcopy", f"nbd+unix:///?socket={socket}", "null:")
        until(lambda: not os.path.exists(socket), "the server ends")
        names = [event.name for event in events_of(path)]
        check(names[0] == "connection_accepted" and names[-1] == "connection_closed", f"{names}")


main(globals())
