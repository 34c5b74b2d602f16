#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Statistics: what the server counts is what clients did, to the request and the byte; the control
socket stands hostile readers; hawser top finds the server that is meant, and says so when it
cannot.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

import nbdraw  # noqa: E402
from harness import ALLOCATION, MIB, Server, Skip, check, main, program, until  # noqa: E402

HAWSER = os.path.join(os.path.dirname(program()), "hawser")
USAGE, UNREACHABLE, NOT_POSSIBLE, PROTOCOL = 2, 6, 7, 8
COMMANDS = ("read", "write", "flush", "trim", "cache", "zero", "status", "unknown")
KIND = dict.fromkeys(COMMANDS, "other") | {"read": "read", "write": "write", "flush": "flush"}
SECONDS = 60


def answers(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def wait_for(path):
    """A server makes its control socket after the one for clients."""
    until(lambda: answers(path), f"{path} answers")
    return path


@contextlib.contextmanager
def served(*options, **how):
    """A server with a control socket in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hawser-test-") as folder:
        control = folder + "/control"
        with Server("--control", control, *options, **how) as server:
            server.control = wait_for(control)
            yield server


def top(*words, status=0, **how):
    done = subprocess.run([HAWSER, "top", *words], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=SECONDS, check=False, **how)
    # Where servers of others run, the one that is meant may be among them.
    allowed = (status, NOT_POSSIBLE) if status == UNREACHABLE and os.geteuid() else (status,)
    check(done.returncode in allowed,
          f"hawser top {' '.join(words)}: status {done.returncode}, not {status}\n"
          f"{done.stdout}{done.stderr}")
    check(status == 0 or not done.stdout, f"failed, and says {done.stdout}")
    return done.stdout if status == 0 else done.stderr


def told(server):
    """The only export of a server, as hawser top tells it."""
    return json.loads(top("--json", server.control))["exports"][0]


def timed(numbers, kind):
    return sum(count for _bound, count in numbers["latency"][kind]["buckets"])


class Talk:
    """A raw conversation with a control socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(path)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def line(self):
        while b"\n" not in self.rest:
            got = self.sock.recv(65536)
            check(got, "the control socket was closed")
            self.rest += got
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def ask(self, request):
        self.send(request + b"\n")
        return json.loads(self.line())

    def closed(self):
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


class Tally:
    """What a client did, by its own account."""

    def __init__(self):
        self.rows = {name: {"requests": 0, "bytes": 0, "errors": 0} for name in COMMANDS}

    def note(self, name, length, request):
        row = self.rows[name]
        row["requests"] += 1
        row["errors"] += bool(request.error)
        row["bytes"] += 0 if request.error else length

    def add(self, other):
        for name, row in other.rows.items():
            for key, value in row.items():
                self.rows[name][key] += value


def session(client, size):
    """Everything that a client can say, right and wrong; returns what it amounts to."""
    tally = Tally()
    for offset, length in ((0, 1), (0, 4096), (1, 511), (4096, 300000), (0, size), (size - 1, 1)):
        tally.note("read", length, client.read(offset, length))
    for offset, length in ((0, 1), (4096, 4096), (8192, 65536), (100, 200000)):
        tally.note("write", length, client.write(offset, b"x" * length))
    tally.note("write", 4096, client.write(0, b"y" * 4096, nbdraw.FUA))
    tally.note("write", 10, client.write(5, b"z" * 10, nbdraw.FUA))
    for _ in range(3):
        tally.note("flush", 0, client.flush())
    for offset, length in ((65536, 65536), (0, 4096)):
        tally.note("trim", length, client.trim(offset, length))
        tally.note("zero", length, client.zero(offset, length))
    tally.note("zero", 4096, client.zero(8192, 4096, nbdraw.FUA | nbdraw.NO_HOLE))
    tally.note("cache", size, client.cache(0, size))
    tally.note("read", 5, client.read(size, 5))  # behind the end: errors
    tally.note("write", 5, client.write(size, b"12345"))
    tally.note("write", 70000, client.write(size - 1, b"7" * 70000))
    tally.note("zero", 5, client.zero(size, 5))
    tally.note("trim", 5, client.trim(size, 5))
    tally.note("cache", 5, client.cache(size, 5))
    tally.note("flush", 0, client.flush(nbdraw.NO_HOLE))  # a flag that it does not take
    tally.note("unknown", 0, client.wait(client.request(77)))
    if client.contexts:
        tally.note("status", size, client.status(0, size))
        tally.note("status", 5, client.status(size, 5))
    return tally


def check_rows(numbers, tally, what):
    check(numbers["commands"] == tally.rows,
          f"{what}: told {numbers['commands']}, done {tally.rows}")


def test_counts_are_exact():
    """Requests, bytes and errors by command, of each client and of the export, in each form."""
    with served() as server:
        everything = Tally()
        for number, client in enumerate(server.each(contexts=(ALLOCATION,))):
            mine = session(client, server.size)
            everything.add(mine)
            export = told(server)
            check_rows(export, everything, f"export, {client.mode}")
            check(len(export["clients"]) == 1 and export["connections"] == 1, "one client is here")
            check_rows(export["clients"][0], mine, f"client, {client.mode}")
            check(export["clients"][0]["pid"] == os.getpid(), f"pid of {export['clients'][0]}")
            check(export["connections_total"] == number + 1, "clients since the start")
            check(mine.rows["write"]["errors"] == 2 and mine.rows["unknown"]["errors"] == 1,
                  "the script makes errors")
        until(lambda: not told(server)["clients"], "the last client is gone")
        check_rows(told(server), everything, "export, when all have left")
        export = told(server)
        check(export["jobs"] == 0 and export["buffer_bytes"] == 0, "nothing is in hand")


def test_latencies_count_each_request():
    """Each answered request is in one histogram; sums and quantiles fit together."""
    with served() as server:
        client = server.client()
        tally = session(client, server.size)
        wanted = {}
        for name, row in tally.rows.items():
            wanted[KIND[name]] = wanted.get(KIND[name], 0) + row["requests"]
        until(lambda: all(timed(told(server), kind) == count for kind, count in wanted.items()),
              "all latencies are noted")
        for numbers in (told(server), told(server)["clients"][0]):
            for kind in wanted:
                latency = numbers["latency"][kind]
                check(0 < latency["p50_ns"] <= latency["p99_ns"] <= latency["max_ns"]
                      <= latency["sum_ns"], f"{kind}: {latency}")
                bounds = [bound for bound, _count in latency["buckets"]]
                check(bounds == sorted(bounds) and bounds[-1] > latency["max_ns"], f"{bounds}")
        client.disc()


def test_slow_disk_shows():
    """A slow flush is slow by its latency, a job while it lasts, and not afterwards."""
    with served(fault=True) as server:
        client = server.client()
        server.faults.set("sync delay:400")
        request = client.request(nbdraw.FLUSH)
        until(lambda: told(server)["clients"][0]["jobs"] == 1, "the flush is with the workers")
        check(told(server)["commands"]["flush"]["requests"] == 0, "not answered, not counted")
        client.wait(request)
        until(lambda: told(server)["jobs"] == 0, "the flush is back")
        latency = told(server)["latency"]["flush"]
        check(latency["max_ns"] >= 400e6 and latency["p50_ns"] >= 300e6, f"{latency}")
        for _ in range(200):
            client.read(0, 512)
        check(told(server)["latency"]["read"]["p50_ns"] < 100e6, "reads are not slow")
        client.disc()


def test_errors_of_the_disk():
    """EIO is an error of its command, and its bytes do not count."""
    with served(fault=True, status=1) as server:  # a flush that failed is told at the end, too
        client = server.client()
        server.faults.set("sync 5", "read 5 65536 131072", "nowait 11 65536 131072")
        check(client.read(65536, 4096).error == nbdraw.EIO, "the disk fails")
        client.read(0, 4096)
        check(client.flush().error == nbdraw.EIO, "the disk fails")
        numbers = told(server)
        check(numbers["commands"]["read"] == {"requests": 2, "bytes": 4096, "errors": 1},
              f"{numbers['commands']}")
        check(numbers["commands"]["flush"] == {"requests": 1, "bytes": 0, "errors": 1},
              f"{numbers['commands']}")
        check(numbers["cache_misses"] == 1, f"{numbers['cache_misses']} misses")
        server.faults.clear()
        client.disc()


def test_misses():
    """A read that is not in memory is a miss, one that is is not."""
    with served(fault=True) as server:
        client = server.client()
        for _ in range(5):
            client.read(0, 4096)
        check(told(server)["cache_misses"] == 0, "nothing was missing")
        server.faults.set("nowait 11")
        for _ in range(7):
            client.read(8192, 4096)
        check(told(server)["cache_misses"] == 7, f"{told(server)['cache_misses']} misses, not 7")
        client.disc()


def test_many_in_flight():
    """Two clients with many requests on their way at once: nothing is lost, nothing counted twice."""
    with served() as server:
        clients = [server.client() for _ in range(2)]
        blobs = [[client.prepare(nbdraw.READ, 4096 * (n % 200), 4096)[1] if n % 3 else
                  client.prepare(nbdraw.WRITE, 4096 * (n % 200), 512, payload=b"w" * 512)[1]
                  for n in range(3000)] for client in clients]
        for client, mine in zip(clients, blobs):
            client.pipeline(mine)
        numbers = told(server)
        check(numbers["commands"]["read"] == {"requests": 4000, "bytes": 4000 * 4096, "errors": 0}
              and numbers["commands"]["write"] == {"requests": 2000, "bytes": 2000 * 512,
                                                   "errors": 0}, f"{numbers['commands']}")
        until(lambda: timed(told(server), "read") == 4000 and timed(told(server), "write") == 2000,
              "all latencies are noted")
        for client in clients:
            client.disc()


def test_read_only():
    """What a read-only export refuses is counted as errors, payload and all."""
    with served("-r") as server:
        client = server.client()
        for _ in range(3):
            client.write(0, b"x" * 5000)
        client.trim(0, 4096)
        rows = told(server)["commands"]
        check(rows["write"] == {"requests": 3, "bytes": 0, "errors": 3}
              and rows["trim"] == {"requests": 1, "bytes": 0, "errors": 1}, f"{rows}")
        client.disc()


# ---- Clients that we did not write ----


def peer(*command):
    if not shutil.which(command[0]):
        raise Skip(f"{command[0]} is not installed")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=240, check=False)
    check(done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def test_fio():
    """fio's own count of requests and bytes is the server's."""
    with served(size=16 * MIB) as server:
        uri = f"nbd+unix:///?socket={server.path}"
        out = peer("fio", "--name=j", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw",
                   "--bs=4k", "--iodepth=16", "--size=16m", "--io_size=32m", "--output-format=json",
                   "--allow_file_create=0")
        job = json.loads(out[out.index("{"):])["jobs"][0]
        rows = told(server)["commands"]
        for name in ("read", "write"):
            check((rows[name]["requests"], rows[name]["bytes"], rows[name]["errors"])
                  == (job[name]["total_ios"], job[name]["io_bytes"], 0),
                  f"{name}: told {rows[name]}, fio has {job[name]['total_ios']} of "
                  f"{job[name]['io_bytes']} bytes")


def test_nbdcopy():
    """nbdcopy reads and writes each byte once."""
    with served(size=24 * MIB) as server, tempfile.TemporaryDirectory() as folder:
        uri = f"nbd+unix:///?socket={server.path}"
        peer("nbdcopy", "--flush", uri, folder + "/copy")
        rows = told(server)["commands"]
        check(rows["read"]["bytes"] == 24 * MIB, f"{rows}")
        peer("nbdcopy", "--flush", folder + "/copy", uri)
        rows = told(server)["commands"]
        check(rows["write"]["bytes"] + rows["zero"]["bytes"] == 24 * MIB, f"{rows}")
        check(rows["flush"]["requests"] >= 1, f"{rows}")
        check(all(row["errors"] == 0 for row in rows.values()), f"{rows}")


# ---- OpenMetrics ----

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "info": ("_info",),
            "histogram": ("_bucket", "_count", "_sum")}


def parse_openmetrics(text):
    """{(name, labels): value}, after a check of the form."""
    lines = text.split("\n")
    check(lines[-2:] == ["# EOF", ""], f"the end is {lines[-2:]}")
    kind, family, seen, samples = None, None, set(), {}
    for line in lines[:-2]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            check(family not in seen, f"family {family} comes twice")
            seen.add(family)
        elif line.startswith("# UNIT "):
            check(line.split(" ")[2] == family and family.endswith("_" + line.split(" ")[3]), line)
        elif line.startswith("# HELP "):
            check(line.split(" ")[2] == family, line)
        else:
            match = SAMPLE.fullmatch(line)
            check(match, f"no sample: {line}")
            check(match[1] in [family + suffix for suffix in SUFFIXES[kind]], line)
            labels = frozenset(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            check((match[1], labels) not in samples, f"twice: {line}")
            samples[match[1], labels] = float(match[3])
    return samples


def test_openmetrics():
    """The text is OpenMetrics, and says the same as the JSON; names are escaped."""
    name = 'q"uo\\te\nline \u00e9'
    with served("-x", name) as server:
        client = server.client(name=name)
        session(client, server.size)
        client.disc()
        until(lambda: not told(server)["clients"], "the client is gone")
        export = told(server)
        samples = parse_openmetrics(top("--openmetrics", server.control))
        label = ("export", 'q\\"uo\\\\te\\nline \u00e9')
        for command, row in export["commands"].items():
            key = frozenset((label, ("command", command)))
            check(samples["hawser_requests_total", key] == row["requests"]
                  and samples["hawser_request_bytes_total", key] == row["bytes"]
                  and samples["hawser_request_errors_total", key] == row["errors"], command)
        check(samples["hawser_cache_misses_total", frozenset([label])] == export["cache_misses"],
              "misses")
        check(samples["hawser_clients_total", frozenset([label])] == 1, "clients")
        for kind in ("read", "write", "flush", "other"):
            counts = [(float(dict(labels)["le"]), value) for (family, labels), value
                      in samples.items() if family == "hawser_request_seconds_bucket"
                      and dict(labels)["kind"] == kind]
            values = [value for _le, value in sorted(counts)]
            key = frozenset((label, ("kind", kind)))
            check(values == sorted(values) and max(counts)[0] == float("inf")
                  and values[-1] == samples["hawser_request_seconds_count", key]
                  == timed(export, kind), f"{kind}: {sorted(counts)}")


def test_openmetrics_by_their_own_parser():
    """The parser of the Prometheus project takes the text."""
    try:
        from prometheus_client.openmetrics import parser
    except ImportError as absent:
        raise Skip("python3-prometheus-client is not installed") from absent
    with served("-x", 'a"b') as server:
        client = server.client(name='a"b')
        session(client, server.size)
        client.disc()
        families = list(parser.text_string_to_metric_families(top("--openmetrics", server.control)))
        check(len(families) >= 10, f"{families}")


# ---- The socket ----


def test_owner_only():
    """Nobody else can open the socket, and it is gone at the end."""
    with served() as server:
        mode = os.lstat(server.control).st_mode
        check(stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600, f"mode {mode:o}")
        control = server.control
        server.stop()
        check(not os.path.exists(control), "the socket was left behind")


def test_requests():
    """hello, unknown requests, several in one packet, CRLF, pieces: each line has its answer."""
    with served("-x", "n") as server, Talk(server.control) as talk:
        hello = talk.ask(b"hello")
        check(hello["pid"] == server.process.pid and hello["listening"] == [server.path]
              and hello["exports"] == ["n"] and hello["format"] == 1, f"{hello}")
        check("error" in talk.ask(b"stats xml") and "error" in talk.ask(b""), "unknown requests")
        check("exports" in talk.ask(b"stats json\r"), "CRLF")
        talk.send(b"hello\nstats json\nhello\n")
        check([("clock_ns" in json.loads(talk.line())) for _ in range(3)] == [False, True, False],
              "three answers in order")
        for piece in (b"sta", b"ts js", b"on", b"\n"):
            talk.send(piece)
            time.sleep(0.02)
        check("clock_ns" in json.loads(talk.line()), "a line in pieces")


def test_hostile_readers():
    """Readers that do not read, say nothing, or too much, cost nothing and hold up nobody."""
    with served() as server, contextlib.ExitStack() as stack:
        deaf = stack.enter_context(Talk(server.control))
        deaf.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.sock.send(b"stats json\n" * 100)
        garbage = stack.enter_context(Talk(server.control))
        garbage.send(b"\0\xff" * 20 + b"\n")
        check("error" in json.loads(garbage.line()), "garbage")
        with Talk(server.control) as endless:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                endless.send(b"x" * 1000)
            check(endless.closed(), "a line without an end is the end")
        for _ in range(50):
            stack.enter_context(Talk(server.control))
        with Talk(server.control) as gone:
            gone.send(b"stats json\n")
        server.good()
        check(told(server)["commands"]["flush"]["requests"] == 1, "the last reader is answered")
        with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as memory:
            pages = int(memory.read().split()[1])
        check(pages * 4096 < 512 * MIB, f"{pages} pages")
        used = cpu_of(server)
        time.sleep(0.5)
        check(cpu_of(server) - used < 0.2, "the server spins")


def cpu_of(server):
    return time.clock_gettime((~server.process.pid << 3) | 2)


def test_readers_while_clients_come_and_go():
    """Numbers are asked for all the time while clients connect, work and leave."""
    with served() as server, Talk(server.control) as talk:
        last = 0
        for _ in range(40):
            clients = [server.client() for _ in range(3)]
            for client in clients:
                client.read(0, 4096)
                reads = talk.ask(b"stats json")["exports"][0]["commands"]["read"]["requests"]
                check(reads == last + 1, f"{reads} reads after {last}")
                last = reads
                client.close()


# ---- Where it is ----


def place():
    """The run directory of this user, and the environment for it."""
    if os.geteuid() == 0:
        return "/run/hawser", {}
    folder = tempfile.mkdtemp(prefix="hawser-test-")
    return folder + "/hawser", {"XDG_RUNTIME_DIR": folder}


def test_default_place():
    """Without an option the socket is in the run directory; a killed server's is cleaned up."""
    folder, environment = place()
    with Server(environment=environment, ends=True) as killed:
        dead = wait_for(f"{folder}/{killed.process.pid}.control")
        killed.kill()
        check(os.path.exists(dead), "it had no time to clean up")
        with Server(environment=environment) as server:
            path = wait_for(f"{folder}/{server.process.pid}.control")
            check(not os.path.exists(dead), "the dead one is gone")
            out = json.loads(top("--json", str(server.process.pid),
                                 env={**os.environ, **environment}))
            check(out["pid"] == server.process.pid, "found by its number")
        check(not os.path.exists(path), "the socket was left behind")


def test_other_files_stay():
    """What is no socket of a dead server is not touched."""
    folder, environment = place()
    os.makedirs(folder, exist_ok=True)
    kept = [f"{folder}/test-{os.getpid()}", f"{folder}/0{os.getpid()}.control",
            f"{folder}/2147483646.control"]
    try:
        for path in kept:
            with open(path, "w", encoding="ascii"):
                pass
        with Server(environment=environment) as server:
            wait_for(f"{folder}/{server.process.pid}.control")
            check(all(map(os.path.exists, kept)), "a file is gone")
    finally:
        for path in kept:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def test_none():
    """--control=none: no socket, and top says so."""
    folder, environment = place()
    with Server("--control", "none", environment=environment) as server:
        check(not os.path.exists(f"{folder}/{server.process.pid}.control"), "there is one")
        said = top("--once", server.path, status=UNREACHABLE)
        check("--control=none" in said or "try as root" in said, said)
        server.good()


def test_place_that_cannot_be():
    """A path that was asked for must work; the default need not."""
    with Server(ends=True) as server:
        for path, text in (("relative", "absolute"), ("/nonexistent/x", "No such file"),
                           (server.image, "not a socket"), (server.path, "already answers")):
            done = subprocess.run([program(), "-f", "raw", "-r", "-k", server.path + "2",
                                   "--control", path, server.image], capture_output=True,
                                  text=True, timeout=SECONDS, check=False)
            check(done.returncode == 1 and text in done.stderr and "--control" in done.stderr
                  and not os.path.exists(server.path + "2"), f"{path}: {done.stderr}")
        server.stop()
    if os.geteuid() == 0:
        environment, user = {"XDG_RUNTIME_DIR": "/nonexistent"}, {"user": 65534}
    else:
        environment, user = {"XDG_RUNTIME_DIR": "/nonexistent"}, {}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        image = folder + "/image"
        with open(image, "wb") as out:
            out.truncate(MIB)
        os.chmod(image, 0o666)
        if subprocess.run(["test", "-x", program()], check=False, **user).returncode:
            return  # the tree is closed to others: this half cannot be tried
        done = subprocess.run([program(), "-f", "raw", "--run", "true", image],
                              capture_output=True, text=True, timeout=SECONDS, check=False,
                              env={**os.environ, **environment}, **user)
        check(done.returncode == 0 and not done.stderr, f"{done.returncode} {done.stderr}")


# ---- Finding it ----


def test_found_by_what_clients_know():
    """URI, socket (also relative), control socket, host and port: each leads to its server."""
    folder, environment = place()
    env = {**os.environ, **environment}
    with Server("-x", "n", environment=environment) as one, \
            Server(tcp=True, environment=environment) as two:
        for server in (one, two):
            wait_for(f"{folder}/{server.process.pid}.control")
        for server, words in (
                (one, (one.path, f"nbd+unix:///n?socket={one.path}", str(one.process.pid),
                       f"{folder}/{one.process.pid}.control")),
                (two, (f"nbd://127.0.0.1:{two.port}", f"127.0.0.1:{two.port}",
                       f"localhost:{two.port}", str(two.process.pid)))):
            for word in words:
                out = json.loads(top("--json", word, env=env))
                check(out["pid"] == server.process.pid, f"{word} leads to {out['pid']}")
        out = json.loads(top("--json", "socket", env=env, cwd=one.directory))
        check(out["pid"] == one.process.pid, "a relative socket")
        os.symlink(one.path, one.directory + "/link")
        out = json.loads(top("--json", one.directory + "/link", env=env))
        check(out["pid"] == one.process.pid, "a link to the socket")
        said = top("--json", status=USAGE, env=env)
        check(str(one.process.pid) in said and str(two.process.pid) in said, said)


def test_only_one_needs_no_name():
    """One server, no operand."""
    if os.geteuid() == 0:
        raise Skip("root sees the servers of other tests")
    folder, environment = place()
    with Server(environment=environment) as server:
        wait_for(f"{folder}/{server.process.pid}.control")
        out = json.loads(top("--json", env={**os.environ, **environment}))
        check(out["pid"] == server.process.pid, f"{out['pid']}")


def test_not_found():
    """What cannot be found is named, with the exit code of its kind."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    for word, status, text in (
            ("999999999", UNREACHABLE, "process 999999999"),
            ("0", USAGE, "no process number"), ("99999999999", USAGE, "no process number"),
            ("/nonexistent", UNREACHABLE, "cannot connect to '/nonexistent'"),
            (f"127.0.0.1:{port.getsockname()[1]}", UNREACHABLE, "listens on 127.0.0.1"),
            ("nbd://192.0.2.1/x", UNREACHABLE, "192.0.2.1 is not this machine"),
            ("http://127.0.0.1/", USAGE, "http")):
        said = top("--json", word, status=status)
        check(text in said and said.count("\n") <= 2, f"{word}: {said}")
    port.close()
    for words in (("--json", "--openmetrics", "x"), ("--interval=0", "x"), ("x", "y")):
        top(*words, status=USAGE)


@contextlib.contextmanager
def impostor(*answers):
    """A socket that answers each line with the next of these; None: never."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(folder + "/s")
        listener.listen(8)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    for answer in answers:
                        sock.recv(100)
                        if answer is None:
                            time.sleep(SECONDS)
                        sock.sendall(answer)
                    sock.close()
            os._exit(0)
        try:
            yield folder + "/s"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


HELLO = b'{"pid": 1, "listening": []}\n'


def test_impostors():
    """What answers like no server of ours is an error within seconds, whatever it says."""
    for answers, status in (((None,), UNREACHABLE), ((b"junk\n",), UNREACHABLE),
                            ((b"NBDMAGICIHAVEOPT\0\3\n",), UNREACHABLE), ((b"{}\n",), UNREACHABLE),
                            ((b"[" * 100000 + b"\n",), UNREACHABLE),
                            ((b'{"pid": -1, "listening": 7}\n',), UNREACHABLE),
                            ((HELLO, b"{}\n"), PROTOCOL),
                            ((HELLO, b'{"clock_ns":1,"exports":[]}\n'), PROTOCOL),
                            ((HELLO, b'{"clock_ns":1,"exports":[7]}\nx\n'), PROTOCOL),
                            ((HELLO, b"\xff\xfe\n"), PROTOCOL), ((HELLO,), UNREACHABLE)):
        with impostor(*answers) as path:
            began = time.monotonic()
            top("--json", path, status=status)
            check(time.monotonic() - began < 20, f"{answers[-1]} takes too long")


def test_lies_are_drawn_harmlessly():
    """Numbers and names that make no sense, and terminal codes in them, reach no terminal."""
    huge = 2 ** 64 - 1
    numbers = {"commands": {"read": {"requests": huge, "bytes": huge, "errors": huge}},
               "cache_misses": huge, "jobs": huge, "buffer_bytes": huge,
               "latency": {"read": {"sum_ns": huge, "max_ns": 0, "buckets":
                                    [[0, huge], [5], 7, [None, 3], [huge, huge]]}}}
    sample = {"clock_ns": 5, "uptime_ns": huge, "pid": huge, "listening": ["\x1b[31m\u009b", 7],
              "exports": [{"name": "\x1b]0;x\x07", "file": "\u202e", "size": huge, **numbers,
                           "connections": huge, "clients": [
                               {"id": huge, "address": "\x1b[2J", **numbers}, {}, 5]}]}
    text = json.dumps(sample).encode() + b"\n"
    later = json.dumps({**sample, "clock_ns": 6}).encode() + b"\n"
    with impostor(HELLO, text, later) as path:
        out = top("--once", path)
        check("REQ/S" in out and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out),
              f"{out!r}")
        check(all(len(line) <= 120 for line in out.splitlines()), out)


# ---- For people ----


def test_once():
    """--once measures an interval, and shows rates of it."""
    with served("-x", "shown", size=4 * MIB) as server:
        client = server.client(name="shown")
        process = subprocess.Popen([HAWSER, "top", "--once", "--interval=2", server.control],
                                   stdout=subprocess.PIPE, text=True)
        until(lambda: "clients" in told(server), "it runs")
        time.sleep(0.5)
        for _ in range(1000):
            client.read(0, 4096)
        client.read(5 * MIB, 1)
        out = process.communicate(timeout=SECONDS)[0]
        check(process.returncode == 0, f"status {process.returncode}")
        row = re.search(r"(?m)^  read +(\d+) +([\d.]+) .* (\d+)(  #.*|  \S*)?$", out)
        check(row and 450 <= int(row[1]) <= 510 and 1.8 <= float(row[2]) <= 2.1 and row[3] == "1",
              out)
        check("shown" in out and "raw, 4 MiB, writable  " in out and "1 client," in out, out)
        check(f"({os.getpid()})" in out and "\x1b" not in out, out)
        client.disc()


if __name__ == "__main__":
    main(globals())
