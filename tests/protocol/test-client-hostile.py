#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
hawser list and hawser info against servers that break the rules, are old, are mute, or say things
to the terminal: the client rules of the handshake (C1 to C16, C30, C37). HAWSER names the program
(build/hawser).
"""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time

from harness import SANITIZER, TOP, check, main
from listening import Listening, reply
from nbdraw import (BLOCK_STATUS, CHUNK, DONE, ERR_INVALID, ERR_POLICY, ERR_SHUTDOWN,
                    ERR_TLS_REQD, ERR_UNKNOWN, ERR_UNSUP, HAS_FLAGS, IHAVEOPT,
                    NBDMAGIC, OPT_ABORT, OPT_GO, OPT_INFO, OPT_LIST,
                    OPT_LIST_META, OPT_SET_META, OPT_STRUCTURED_REPLY,
                    REP_ACK, REP_INFO, REP_META_CONTEXT, REP_SERVER,
                    REPLYMAGIC, SEND_FLUSH, STATUS)

HAWSER = os.environ.get("HAWSER") or os.path.join(TOP, "build", "hawser")
OK, FAILED, USAGE, REFUSED, UNREACHABLE, PROTOCOL = 0, 1, 2, 5, 6, 8
OLDSTYLE = 0x0000420281861253
TIMEOUT = 3  # what hawser is given; a run that needs more than twice that is a fault
GREETING = struct.pack(">QQH", NBDMAGIC, IHAVEOPT, 3)
MEMORY = 256 << 20  # address space of hawser; sanitizers need all of it


def server_entry(name, description=b""):
    return reply(OPT_LIST, REP_SERVER, struct.pack(">I", len(name)) + name + description)


def export_info(option, size=1 << 20, flags=HAS_FLAGS | SEND_FLUSH):
    return reply(option, REP_INFO, struct.pack(">HQH", 0, size, flags))


def block_sizes(option, minimum, preferred, maximum):
    return reply(option, REP_INFO, struct.pack(">HIII", 3, minimum, preferred, maximum))


class Peer(Listening):
    """A server that answers each option with the bytes in answers, UNSUP where it has none, and
    remembers what it was asked. answers[option] may be a list: one element a time."""

    def __init__(self, answers=None, greeting=GREETING, linger=False):
        super().__init__()
        self.answers = dict(answers or {})
        self.greeting, self.linger = greeting, linger
        self.asked = []     # (option, data)
        self.flags = []     # client flags, one a connection
        self.rest = b""     # what came after the last whole option
        self.uri = f"nbd+unix:///?socket={self.path}"

    def answer(self, option):
        answer = self.answers.get(option, reply(option, ERR_UNSUP))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    def talk(self, client):
        client.sendall(self.greeting)
        self.flags.append(struct.unpack(">I", self.take(client, 4))[0])
        while True:
            magic, option, length = struct.unpack(">QII", self.take(client, 16))
            if magic != IHAVEOPT:
                return
            self.asked.append((option, self.take(client, length)))
            answer = self.answer(option)
            if answer is None:
                return
            client.sendall(answer)
            if self.linger:
                time.sleep(60)

    def options(self):
        return [option for option, _ in self.asked]


def limit_memory():
    if os.environ.get("SANITIZER", "plain") == "plain":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def hawser(*words, timeout=TIMEOUT):
    """Runs the program; checks what holds whatever the server does."""
    started = time.monotonic()
    run = subprocess.run([HAWSER, words[0], f"--timeout={timeout}", *words[1:]],
                         stdin=subprocess.DEVNULL, capture_output=True, check=False,
                         preexec_fn=limit_memory, timeout=60)
    took = time.monotonic() - started
    errors = run.stderr.decode("utf-8")
    output = run.stdout.decode("utf-8")
    check(run.returncode >= 0, f"killed by signal {-run.returncode}: {errors}")
    check(not SANITIZER.search(errors), errors)
    check(took < 2 * timeout + 2, f"took {took:.1f} s")
    check(run.returncode == 0 or errors.startswith("hawser: "), f"silent failure: {errors!r}")
    check(run.returncode == 0 or not output, f"output of a failed run: {output!r}")
    for text in (output, errors):
        bad = [c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160
               or 0x202a <= ord(c) <= 0x202e]
        check(not bad, f"C11: {bad!r} on the terminal in {text!r}")
    return run.returncode, output, errors


def expect(status, words, *command):
    code, _, errors = hawser(*command)
    check(code == status, f"status {code}, not {status}: {errors}")
    check(words in errors, f"{words!r} is not in: {errors}")


# ---- Greeting ----

def test_foreign_greetings():
    """C1: something else than NBD is named as what it says; a short one ends at once."""
    for greeting, words in ((b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-"),
                            (b"220 \x1b[2J\x07mail\r\n", "no NBD server"),
                            (b"HTTP/1.1", "HTTP/1.1"),
                            (b"\0" * 18, "no NBD server"),
                            (struct.pack(">QQH", NBDMAGIC, 1, 3), "neither newstyle nor oldstyle")):
        with Peer(greeting=greeting) as peer:
            expect(PROTOCOL, words, "list", peer.uri)
            check(not peer.flags, "C1: it answered a greeting that was none")


def test_oldstyle():
    """C1: an oldstyle server gets a clear message, and nothing is sent to it."""
    with Peer(greeting=struct.pack(">QQQI", NBDMAGIC, OLDSTYLE, 1 << 20, 0) + bytes(124)) as peer:
        expect(PROTOCOL, "speaks the oldstyle", "info", peer.uri)
        check(not peer.flags, "it answered")


def test_mute_and_gone():
    """A peer that says nothing, or only a part, costs the time-out and no more."""
    for greeting in (b"", GREETING[:5], GREETING[:17]):
        with Peer(greeting=greeting) as peer:
            expect(UNREACHABLE, "did not answer in time", "list", "--timeout=1", peer.uri)
    with Peer() as peer:
        peer.talk = lambda client: None
        expect(UNREACHABLE, "closed the connection", "list", peer.uri)
    with Peer(linger=True) as peer:
        expect(UNREACHABLE, "did not answer in time", "info", "--timeout=1", peer.uri)


def test_slow_drip():
    """The deadline is for the whole conversation: a byte now and then does not extend it."""
    def drip(client):
        for byte in GREETING * 10:
            client.sendall(bytes((byte,)))
            time.sleep(0.3)

    with Peer() as peer:
        peer.talk = drip
        expect(UNREACHABLE, "in time", "list", "--timeout=1", peer.uri)


def test_client_flags():
    """C2: unknown handshake flags are ignored; only offered flags are answered."""
    for offered in (0xffff, 3, 1, 0xfffd):
        with Peer({OPT_LIST: reply(OPT_LIST, REP_ACK)},
                  greeting=struct.pack(">QQH", NBDMAGIC, IHAVEOPT, offered)) as peer:
            check(hawser("list", peer.uri)[0] == OK, f"flags {offered:#x}")
            check(peer.flags == [offered & 3], f"C2: offered {offered:#x}, sent {peer.flags}")


def test_no_fixed_newstyle():
    """C3: without fixed newstyle there are no options, and the message says why."""
    with Peer(greeting=struct.pack(">QQH", NBDMAGIC, IHAVEOPT, 0)) as peer:
        expect(REFUSED, "too old", "info", peer.uri)
        check(not peer.asked, f"C3: options were sent: {peer.options()}")


# ---- Options and replies ----

def test_no_slot_used():
    """C6, C7, C9: list and info ask by INFO, never by GO, send no data where none belongs, ask for
    no information twice, and leave by ABORT."""
    for command in ("list", "info"):
        with Peer({OPT_LIST: server_entry(b"a") + reply(OPT_LIST, REP_ACK),
                   OPT_STRUCTURED_REPLY: reply(OPT_STRUCTURED_REPLY, REP_ACK),
                   OPT_LIST_META: reply(OPT_LIST_META, REP_META_CONTEXT, bytes(4) + b"x:y") +
                   reply(OPT_LIST_META, REP_ACK),
                   OPT_INFO: export_info(OPT_INFO) + reply(OPT_INFO, REP_ACK),
                   OPT_ABORT: reply(OPT_ABORT, REP_ACK)}) as peer:
            check(hawser(command, peer.uri)[0] == OK, command)
            check(OPT_GO not in peer.options(), "it sent GO")
            check(peer.options()[-1] == OPT_ABORT, f"C6: {peer.options()}")
            for option, data in peer.asked:
                if option in (OPT_LIST, OPT_STRUCTURED_REPLY, OPT_ABORT):
                    check(data == b"", f"C7: data {data!r} with option {option}")
                if option == OPT_INFO:
                    length = struct.unpack(">I", data[:4])[0]
                    count, = struct.unpack_from(">H", data, 4 + length)
                    types = struct.unpack_from(f">{count}H", data, 6 + length)
                    check(len(data) == 6 + length + 2 * count, f"length of {data!r}")
                    check(len(set(types)) == count, f"C9: {types}")


def test_close_instead_of_abort_ack():
    """C6, D1: a server may hang up on ABORT; the result stands."""
    with Peer({OPT_LIST: reply(OPT_LIST, REP_ACK), OPT_ABORT: None}) as peer:
        check(hawser("list", peer.uri)[0] == OK, "it failed")


def test_bad_reply_headers():
    """C8: magic, echoed option, type and length of each reply are checked."""
    # But for the one fault each of these would be a whole good answer.
    size, end = export_info(OPT_INFO), reply(OPT_INFO, REP_ACK)
    for bad in (size + struct.pack(">QIII", REPLYMAGIC ^ 1, OPT_INFO, REP_ACK, 0),
                size + reply(OPT_GO, REP_ACK),
                export_info(OPT_GO) + end,
                size + reply(OPT_INFO, 99) + end,
                size + reply(OPT_INFO, REP_SERVER, bytes(4)) + end,
                end,
                size + reply(OPT_INFO, REP_ACK, b"surplus")):
        with Peer({OPT_INFO: bad}) as peer:
            expect(PROTOCOL, "server", "info", peer.uri)
            check(peer.options()[-1] == OPT_INFO, f"C6: went on after a fault: {peer.options()}")


def test_bad_payloads():
    """C8: lengths inside of replies; nothing of them is shown."""
    for bad in (b"", b"\0", b"\0\0", struct.pack(">HQ", 0, 5), struct.pack(">HQHB", 0, 5, 1, 0),
                struct.pack(">HII", 3, 1, 4096), struct.pack(">HIIIB", 3, 1, 4096, 4096, 0),
                struct.pack(">H", 2) + b"d" * 4097, struct.pack(">H", 1) + b"a\0b"):
        with Peer({OPT_INFO: export_info(OPT_INFO) + reply(OPT_INFO, REP_INFO, bad) +
                   reply(OPT_INFO, REP_ACK)}) as peer:
            expect(PROTOCOL, "server", "info", peer.uri)
    for bad in (b"", b"\0\0\0", struct.pack(">I", 1), struct.pack(">I", 0xffffffff) + b"x",
                struct.pack(">I", 4097) + b"x" * 4097, struct.pack(">I", 3) + b"a\0b"):
        with Peer({OPT_LIST: reply(OPT_LIST, REP_SERVER, bad) + reply(OPT_LIST, REP_ACK)}) as peer:
            expect(PROTOCOL, "server", "list", peer.uri)
    for bad in (struct.pack(">I", 1), struct.pack(">I", 4), struct.pack(">I", 6) + b"nam"):
        with Peer({OPT_LIST: reply(OPT_LIST, REP_SERVER, bad) + reply(OPT_LIST, REP_ACK)}) as peer:
            expect(PROTOCOL, "an entry of the wrong length", "list", peer.uri)


def test_any_length():
    """C8: replies of any legal length are taken, longer ones cleanly refused without being read."""
    name, description = b"n" * 4096, b"d" * 4096
    with Peer({OPT_LIST: server_entry(name, description) + reply(OPT_LIST, REP_ACK),
               OPT_INFO: reply(OPT_INFO, REP_INFO, b"\x55\x55" + b"?" * 60000) +
               export_info(OPT_INFO) + reply(OPT_INFO, REP_ACK)}) as peer:
        code, output, errors = hawser("list", "--json", peer.uri)
        check(code == OK, errors)
        export, = json.loads(output)["exports"]
        check(export["export-name"] == "n" * 4096 and export["description"] == "d" * 4096, output)
        check(export["export-size"] == 1 << 20, output)
    for length in (65537, 1 << 24, 0xffffffff):
        with Peer({OPT_INFO: struct.pack(">QIII", REPLYMAGIC, OPT_INFO, REP_INFO, length)}) as peer:
            expect(REFUSED, "bytes", "info", peer.uri)


def test_endless_answers():
    """C8: neither the number nor the sum of replies can grow for ever; memory is bounded."""
    with Peer({OPT_LIST: server_entry(b"a", b"d" * 4096) * 5000}) as peer:
        expect(REFUSED, "MiB", "list", peer.uri)
    with Peer({OPT_LIST: server_entry(b"a") * 70000}) as peer:
        expect(REFUSED, "more than", "list", "--timeout=10", peer.uri)
    with Peer({OPT_INFO: export_info(OPT_INFO) * 1000}) as peer:
        expect(REFUSED, "more than", "info", peer.uri)


def test_unknown_information():
    """C8: unknown information in any order and number is passed over, also when it comes twice."""
    with Peer({OPT_INFO: reply(OPT_INFO, REP_INFO, b"\x12\x34surprise") +
               block_sizes(OPT_INFO, 4096, 8192, 0xffffffff) + export_info(OPT_INFO) +
               reply(OPT_INFO, REP_INFO, b"\x12\x34") + export_info(OPT_INFO, 4096, 0x7fff) +
               reply(OPT_INFO, REP_ACK)}) as peer:
        code, output, errors = hawser("info", "--json", peer.uri)
        check(code == OK, errors)
        export, = json.loads(output)["exports"]
        check(export["block_size_minimum"] == 4096 and export["flags"] == 0x7fff, output)


def test_refusals_are_told():
    """C10, C21: each refusal has its exit code, and the server's words are shown, made harmless."""
    for kind, words in ((ERR_UNKNOWN, "does not have"), (ERR_POLICY, "rules forbid"),
                        (ERR_TLS_REQD, "demands TLS"), (ERR_INVALID, "invalid"),
                        (ERR_SHUTDOWN, "shutting down"), (ERR_UNSUP, "does not know"),
                        ((1 << 31) + 4711, "4711")):
        with Peer({OPT_INFO: reply(OPT_INFO, kind, b"go \x1b[31maway\xe2\x80\xae\n\xff")}) as peer:
            expect(REFUSED, words, "info", peer.uri)
            expect(REFUSED, "go \\x1b[31maway\\xe2\\x80\\xae\\x0a\\xff", "info", peer.uri)
            check(peer.options()[-1] == OPT_ABORT, f"C6: {peer.options()}")
    with Peer({OPT_LIST: reply(OPT_LIST, ERR_POLICY)}) as peer:
        expect(REFUSED, "hawser info", "list", peer.uri)


def test_hangs_up():
    """A server that hangs up in the middle of an answer is told of, with the option."""
    with Peer({OPT_INFO: None}) as peer:
        expect(UNREACHABLE, "NBD_OPT_INFO", "info", peer.uri)

    def half(client):
        client.sendall(GREETING)
        Peer.take(client, 20)
        client.sendall(struct.pack(">QII", REPLYMAGIC, OPT_STRUCTURED_REPLY, ERR_UNSUP))

    with Peer() as peer:
        peer.talk = half
        expect(UNREACHABLE, "closed the connection", "info", peer.uri)


def test_terminal_is_safe():
    """C11: names, descriptions and contexts cannot write control characters, in text or JSON."""
    evil = "\x1b]0;owned\x07\x9b31m\u202e\r\n\x7f".encode() + b"\xff\x9b"
    with Peer({OPT_STRUCTURED_REPLY: reply(OPT_STRUCTURED_REPLY, REP_ACK),
               OPT_LIST: server_entry(b"x" + evil, evil) + reply(OPT_LIST, REP_ACK),
               OPT_LIST_META: reply(OPT_LIST_META, REP_META_CONTEXT, bytes(4) + evil) +
               reply(OPT_LIST_META, REP_ACK),
               OPT_INFO: export_info(OPT_INFO) + reply(OPT_INFO, REP_INFO, b"\0\1" + evil) +
               reply(OPT_INFO, REP_INFO, b"\0\2" + evil) + reply(OPT_INFO, REP_ACK)}) as peer:
        for command in ("list", "info"):
            code, output, errors = hawser(command, peer.uri)
            check(code == OK and "\\x1b]0;owned" in output, errors + output)
            run = subprocess.run([HAWSER, command, "--json", peer.uri], capture_output=True,
                                 check=True)
            check(not any(byte < 32 and byte != 10 for byte in run.stdout), repr(run.stdout))
            json.loads(run.stdout)


def test_one_bad_export_of_many():
    """One export that cannot be described does not hide the others."""
    good = export_info(OPT_INFO) + reply(OPT_INFO, REP_ACK)
    with Peer({OPT_LIST: b"".join(server_entry(n) for n in (b"a", b"b", b"c", b"d")) +
               reply(OPT_LIST, REP_ACK),
               OPT_INFO: [good, export_info(OPT_INFO, 1 << 63) + reply(OPT_INFO, REP_ACK),
                          reply(OPT_INFO, ERR_TLS_REQD), good]}) as peer:
        code, output, errors = hawser("list", "--json", peer.uri)
        check(code == OK, errors)
        sizes = [export.get("export-size") for export in json.loads(output)["exports"]]
        check(sizes == [1 << 20, None, None, 1 << 20], f"{sizes}")
        check("2^63" in errors and "TLS" in errors, errors)


def test_limited_options():
    """A server that ends a connection after some options is asked on a new one; one that ends each
    at the first question is not asked for ever."""
    with Peer({OPT_LIST: server_entry(b"a") * 9 + reply(OPT_LIST, REP_ACK),
               OPT_INFO: export_info(OPT_INFO) + reply(OPT_INFO, REP_ACK)}) as peer:
        def limited(client):
            client.sendall(GREETING)
            Peer.take(client, 4)
            for _ in range(5):
                _, option, length = struct.unpack(">QII", Peer.take(client, 16))
                Peer.take(client, length)
                client.sendall(peer.answer(option))

        peer.talk = limited
        code, output, errors = hawser("list", "--json", peer.uri)
        check(code == OK and output.count("export-size\"") == 9, errors + output)
        check(not errors, errors)
    with Peer({OPT_LIST: server_entry(b"a") * 9 + reply(OPT_LIST, REP_ACK),
               OPT_INFO: None}) as peer:
        code, output, errors = hawser("list", "--json", peer.uri)
        check(code == OK and "export-size" not in output, errors + output)
        check(peer.connections <= 3, f"{peer.connections} connections")


# ---- Size constraints ----

def test_impossible_sizes():
    """C12, C14: block sizes that no rule allows are refused, and sizes from 2^63 on."""
    for sizes in ((0, 4096, 4096), (3, 4096, 4096), (131072, 131072, 131072), (1, 256, 4096),
                  (1, 4096, 1024), (8192, 4096, 65536), (1, 5000, 65536), (1, 0, 0)):
        with Peer({OPT_INFO: export_info(OPT_INFO) + block_sizes(OPT_INFO, *sizes) +
                   reply(OPT_INFO, REP_ACK)}) as peer:
            expect(PROTOCOL, "block sizes make no sense", "info", peer.uri)
    for size in (1 << 63, (1 << 64) - 1):
        with Peer({OPT_INFO: export_info(OPT_INFO, size) + reply(OPT_INFO, REP_ACK)}) as peer:
            expect(FAILED, "2^63", "info", peer.uri)
            check(peer.options()[-1] == OPT_ABORT, f"C6: {peer.options()}")


def test_flags_without_has_flags():
    """C23, C30: flags count only with HAS_FLAGS, and unknown ones are no fault."""
    with Peer({OPT_INFO: export_info(OPT_INFO, 512, 0xfffe) + reply(OPT_INFO, REP_ACK)}) as peer:
        code, output, errors = hawser("info", "--json", peer.uri)
        check(code == OK and json.loads(output)["exports"][0]["flags"] == 0, errors + output)


# ---- The map ----

class MapPeer(Peer):
    """Lets the client in and answers BLOCK_STATUS by what status(offset, length) returns: extents,
    bytes as they are, or None to hang up."""

    def __init__(self, status, size=1 << 20):
        ack = {option: reply(option, REP_ACK) for option in (OPT_STRUCTURED_REPLY, OPT_ABORT)}
        super().__init__({
            **ack,
            OPT_INFO: export_info(OPT_INFO, size) + reply(OPT_INFO, REP_ACK),
            OPT_GO: export_info(OPT_GO, size) + reply(OPT_GO, REP_ACK),
            OPT_SET_META: reply(OPT_SET_META, REP_META_CONTEXT, struct.pack(">I", 7) +
                                b"base:allocation") + reply(OPT_SET_META, REP_ACK)})
        self.status = status

    def talk(self, client):
        client.sendall(self.greeting)
        self.take(client, 4)
        option = 0
        while option != OPT_GO:
            _, option, length = struct.unpack(">QII", self.take(client, 16))
            self.take(client, length)
            client.sendall(self.answer(option))
        while True:
            _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(client, 28))
            answer = self.status(offset, length) if kind == BLOCK_STATUS else None
            if answer is None:
                return
            if not isinstance(answer, bytes):
                data = struct.pack(">I", 7) + b"".join(struct.pack(">II", *e) for e in answer)
                answer = struct.pack(">IHHQI", CHUNK, DONE, STATUS, cookie, len(data)) + data
            client.sendall(answer)


def read_map(peer):
    code, output, errors = hawser("info", "--map", "--json", peer.uri)
    check(code == OK, errors)
    return [(row["offset"], row["length"], row["type"]) for row in json.loads(output)]


def test_map_short_and_long_answers():
    """C32: answers shorter than asked are asked on, an extent that runs past the end is cut,
    neighbours of one type become one, and unknown status bits have no meaning."""
    def status(offset, _):
        kind = 3 if offset < 8192 else 0xf0
        return [(4096, kind)] if offset < 16384 else [(4096, 0), (0xfffff000, 0)]

    with MapPeer(status) as peer:
        rows = read_map(peer)
        check(rows == [(0, 8192, 3), (8192, (1 << 20) - 8192, 0)], f"{rows}")
    with MapPeer(lambda offset, length: [(0xfffffe00, 3)], size=(1 << 40) + 1) as peer:
        rows = read_map(peer)
        check(rows == [(0, (1 << 40) + 1, 3)], f"{rows}")
    with MapPeer(None, size=0) as peer:
        check(read_map(peer) == [], "rows of an empty export")


def test_map_memory():
    """C32: as many extents as one answer may have are shown in bounded memory."""
    count = 1 << 17
    extents = [(512, index & 1) for index in range(count)]
    with MapPeer(lambda offset, length: extents, size=count * 512) as peer:
        check(len(read_map(peer)) == count, "rows are missing")


def test_map_faults():
    """C31, C32: no progress, an error, a mute or lost server end the map with a message."""
    for status, words in ((lambda *_: [(0, 0)], "map"), (lambda *_: [], "map"),
                          (lambda *_: None, "map"),
                          (lambda *_: bytes(20), "map"), (lambda *_: b"", "in time")):
        with MapPeer(status) as peer:
            code, _, errors = hawser("info", "--map", "--timeout=1", peer.uri)
            check(code not in (OK, USAGE) and words in errors, f"status {code}: {errors}")


def test_no_map():
    """C32: without base:allocation there is no map, and the message says so."""
    with MapPeer(None) as peer:
        peer.answers[OPT_SET_META] = reply(OPT_SET_META, REP_ACK)
        expect(REFUSED, "base:allocation", "info", "--map", peer.uri)


# ---- Command line ----

def test_uri_faults():
    """C36, C37: forms that are wrong say which is right; unknown parameters are warned of."""
    for uri, words in (("nbd+unix:///tmp/x.sock", "nbd+unix:///?socket=/tmp/x.sock"),
                       ("http://host/", "nbd://HOST"), ("nbd://host:0/", "1 to 65535"),
                       ("2001:db8::1", "brackets"), ("nbd+vsock://2/", "vsock")):
        expect(USAGE, words, "info", uri)
    with Peer({OPT_LIST: reply(OPT_LIST, REP_ACK)}) as peer:
        code, _, errors = hawser("list", peer.uri + "&colour=red&x-test=1")
        check(code == OK and "colour" in errors and "x-test" not in errors, errors)
    expect(UNREACHABLE, "no server", "info", "nbd://127.0.0.1:1/")
    expect(UNREACHABLE, "is the server running", "info", "/nonexistent/socket")


if __name__ == "__main__":
    if not shutil.which(HAWSER):
        sys.exit(f"{HAWSER}: no such program (set HAWSER, or run make)")
    main(globals())
