# SPDX-License-Identifier: MIT
"""
An NBD client on a raw socket, for tests of a server: it can say everything, right or wrong, and
checks every byte that comes back against the server rules (S1 to S107) of the protocol. It shares
nothing with the programs under test, not even their constants.

Violation: the server broke a rule. Dropped: the server closed the connection, which a test may
want. One thread uses a Client; only pipeline() starts a second one, which sends.
"""

import socket
import struct
import threading
import time

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
REPLYMAGIC = 0x0003E889045565A9
REQUEST = 0x25609513
SIMPLE = 0x67446698
CHUNK = 0x668E33EF
EXT_REQUEST = 0x21E41C71
EXT_REPLY = 0x6E8A278C

FIXED_NEWSTYLE, NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO = 1, 2, 3, 5, 6, 7
OPT_STRUCTURED_REPLY, OPT_LIST_META, OPT_SET_META, OPT_EXTENDED_HEADERS = 8, 9, 10, 11

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
ERR = 1 << 31
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD = (ERR + n for n in range(1, 6))
ERR_UNKNOWN, ERR_SHUTDOWN, ERR_BLOCK_SIZE_REQD, ERR_TOO_BIG, ERR_EXT_HEADER_REQD = (
    ERR + n for n in range(6, 11))

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA = 1, 2, 4, 8
ROTATIONAL, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF = 16, 32, 64, 128
CAN_MULTI_CONN, SEND_RESIZE, SEND_CACHE, SEND_FAST_ZERO = 256, 512, 1024, 2048
BLOCK_STATUS_PAYLOAD = 4096

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

DONE = 1
NONE, OFFSET_DATA, OFFSET_HOLE, STATUS, STATUS_EXT = 0, 1, 2, 5, 6
ERROR, ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
ERRNOS = (EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN)

HOLE, ZERO = 1, 2
ALLOCATION = "base:allocation"
STRING_MAX = 4096
MIB = 1 << 20
PAYLOAD_DEFAULT = 32 * MIB
ALL_INFOS = (INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE)

# Long enough for a loaded machine and a sanitizer build; reached only by a broken server.
PATIENCE = 60


class Violation(Exception):
    """The server broke a rule of the protocol."""


class Dropped(Exception):
    """The server closed the connection."""


def check(condition, text):
    if not condition:
        raise Violation(text)


def check_string(data, rule):
    check(len(data) <= STRING_MAX, f"{rule}: string of {len(data)} bytes")
    check(b"\0" not in data, f"{rule}: NUL in string {data!r}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Violation(f"{rule}: not UTF-8: {data!r}") from error


def encode(text):
    return text if isinstance(text, bytes) else text.encode()


def info_data(name, infos=ALL_INFOS):
    name = encode(name)
    return struct.pack(f">I{len(name)}sH{len(infos)}H", len(name), name, len(infos), *infos)


def meta_data(name, queries):
    name = encode(name)
    data = struct.pack(f">I{len(name)}sI", len(name), name, len(queries))
    for query in map(encode, queries):
        data += struct.pack(">I", len(query)) + query
    return data


class OptionReply:
    """All replies to one option: kind and data of the final one, and those before it."""

    def __init__(self, kind, data, before):
        self.kind = kind
        self.data = data
        self.before = before
        self.message = check_string(data, "S28") if kind & ERR else ""

    @property
    def ok(self):
        return self.kind == REP_ACK

    def __repr__(self):
        return f"<reply {self.kind:#x} {self.message!r} after {len(self.before)} others>"


class Export:
    """What INFO, GO or EXPORT_NAME told about an export."""

    def __init__(self, size, flags):
        self.size = size
        self.flags = flags
        self.name = None
        self.description = None
        self.block = None  # (minimum, preferred, maximum)


class Request:
    """A request on its way, and what has come back for it."""

    def __init__(self, command, flags, cookie, offset, length):
        self.command = command
        self.flags = flags
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.done = False
        self.error = 0
        self.error_chunks = []  # (type, code, message, offset)
        self.data = None
        self.covered = []  # (start, end) of content, absolute
        self.chunks = []  # (type, offset, length) of content
        self.extents = {}  # context name -> [(length, status)]
        self.simple = False

    def __repr__(self):
        return (f"<request {self.command} flags {self.flags:#x} {self.length}@{self.offset} "
                f"error {self.error}>")


class Client:
    def __init__(self, address, patience=PATIENCE):
        """address: a path, a (host, port) pair, or a connected socket."""
        if isinstance(address, socket.socket):
            self.sock = address
        elif isinstance(address, tuple):
            self.sock = socket.create_connection(address, patience)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(patience)
            self.sock.connect(address)
        self.sock.settimeout(patience)
        self.handshake_flags = None
        self.demands_tls = False  # set by tests of such servers, until TLS is on
        self.no_zeroes = False
        self.structured = False
        self.extended = False
        self.contexts = {}
        self.export = None
        self.payload_max = PAYLOAD_DEFAULT
        self.pending = {}
        self.next_cookie = 0x1122334455660000

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Leaves as a crashed host does: RST on TCP, plain close elsewhere."""
        if self.sock.family != socket.AF_UNIX and self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- bytes ----

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Dropped("while sending") from error
        except socket.timeout as error:
            raise Violation("server does not read") from error

    def receive(self, count):
        if not count:
            return b""
        data = bytearray(count)
        view = memoryview(data)
        got = 0
        while got < count:
            try:
                part = self.sock.recv_into(view[got:])
            except ConnectionResetError as error:
                raise Dropped("reset") from error
            except socket.timeout as error:
                raise Violation(f"no answer ({got} of {count} bytes came)") from error
            if not part:
                raise Dropped(f"{got} of {count} bytes came")
            got += part
        return bytes(data)

    def expect_drop(self, rule):
        """The server must close, and must send nothing before it does."""
        try:
            data = self.sock.recv(64)
        except ConnectionResetError:
            return
        except socket.timeout as error:
            raise Violation(f"{rule}: connection stays open") from error
        check(not data, f"{rule}: bytes instead of a close: {data!r}")

    def expect_silence(self, seconds=0.2):
        """Nothing more may come (the stream is where we think it is)."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(64)
        except socket.timeout:
            return
        finally:
            self.sock.settimeout(PATIENCE)
        check(False, f"S64: unexpected bytes or close: {data!r}")

    # ---- handshake ----

    def greet(self, flags=FIXED_NEWSTYLE | NO_ZEROES):
        magic, option, self.handshake_flags = struct.unpack(">QQH", self.receive(18))
        check(magic == NBDMAGIC and option == IHAVEOPT, f"S1: greeting {magic:#x} {option:#x}")
        check(self.handshake_flags & FIXED_NEWSTYLE, "S2: no FIXED_NEWSTYLE")
        check(not self.handshake_flags & ~3, f"S2: handshake flags {self.handshake_flags:#x}")
        if flags is not None:
            self.no_zeroes = bool(flags & self.handshake_flags & NO_ZEROES)
            self.send(struct.pack(">I", flags))
        return self

    def send_option(self, option, data=b"", length=None, magic=IHAVEOPT):
        length = len(data) if length is None else length
        self.send(struct.pack(">QII", magic, option, length) + data)

    def option(self, option, data=b""):
        self.send_option(option, data)
        return self.option_reply(option)

    def option_reply(self, option):
        """Reads the replies to one option up to the final one, and judges them."""
        before = []
        while True:
            magic, echoed, kind, length = struct.unpack(">QIII", self.receive(20))
            check(magic == REPLYMAGIC, f"S9: reply magic {magic:#x}")
            check(echoed == option, f"S9: option {option} answered as {echoed}")
            check(length <= 2 * STRING_MAX + 64, f"S6: option reply of {length} bytes")
            data = self.receive(length)
            if kind == REP_ACK:
                check(not data, f"S9: ACK with data {data!r}")
            if kind == REP_ACK or kind & ERR:
                break
            check(kind in (REP_SERVER, REP_INFO, REP_META_CONTEXT), f"S9: reply type {kind:#x}")
            allowed = {REP_SERVER: (OPT_LIST,), REP_INFO: (OPT_INFO, OPT_GO),
                       REP_META_CONTEXT: (OPT_LIST_META, OPT_SET_META)}[kind]
            check(option in allowed, f"S9: reply type {kind} to option {option}")
            before.append((kind, data))
        known = range(ERR_UNSUP, ERR_EXT_HEADER_REQD + 1)
        check(kind == REP_ACK or kind in known, f"S9: unknown error {kind:#x}")
        check(kind != ERR_TLS_REQD or self.demands_tls,
              "S47 S53: TLS_REQD from a server without TLS, or under TLS")
        return OptionReply(kind, data, before)

    def list(self):
        """(name, description) of each export."""
        reply = self.option(OPT_LIST)
        check(reply.ok, f"S15: LIST: {reply}")
        exports = []
        for _, data in reply.before:
            check(len(data) >= 4, "S17: REP_SERVER without a length")
            length = struct.unpack_from(">I", data)[0]
            check(length <= len(data) - 4, "S17: name runs past the reply")
            exports.append((check_string(data[4:4 + length], "S6"),
                            check_string(data[4 + length:], "S6")))
        return exports

    def check_transmission_flags(self, flags):
        check(flags & HAS_FLAGS, f"S58: flags {flags:#x} without HAS_FLAGS")
        check(not flags & ~0x1FFF, f"S58: reserved flags {flags:#x}")
        check(not flags & SEND_RESIZE, "S58: RESIZE is not implemented")
        check(not flags & SEND_FAST_ZERO or flags & SEND_WRITE_ZEROES,
              "S60: FAST_ZERO without WRITE_ZEROES")
        check(not flags & SEND_DF or self.structured or self.extended,
              "S38 S60: DF without structured replies")
        check(not flags & BLOCK_STATUS_PAYLOAD or self.extended,
              "S62: BLOCK_STATUS_PAYLOAD without extended headers")

    def export_from(self, replies):
        """Judges the REP_INFOs of a successful INFO or GO."""
        export, seen = None, {}
        for _, data in replies:
            check(len(data) >= 2, "S22: REP_INFO without a type")
            kind = struct.unpack_from(">H", data)[0]
            check(kind not in seen, f"S22: info {kind} twice")
            seen[kind] = data[2:]
        check(INFO_EXPORT in seen, "S21: no INFO_EXPORT")
        check(len(seen[INFO_EXPORT]) == 10, "S21: INFO_EXPORT is not 12 bytes")
        export = Export(*struct.unpack(">QH", seen[INFO_EXPORT]))
        check(export.size < 1 << 63, "size above 2^63")
        self.check_transmission_flags(export.flags)
        if INFO_NAME in seen:
            export.name = check_string(seen[INFO_NAME], "S22")
        if INFO_DESCRIPTION in seen:
            export.description = check_string(seen[INFO_DESCRIPTION], "S22")
        if INFO_BLOCK_SIZE in seen:
            check(len(seen[INFO_BLOCK_SIZE]) == 12, "S29: INFO_BLOCK_SIZE is not 14 bytes")
            export.block = struct.unpack(">III", seen[INFO_BLOCK_SIZE])
            self.check_block_sizes(export)
        return export

    @staticmethod
    def check_block_sizes(export):
        low, preferred, high = export.block
        for value in (low, preferred):
            check(value and not value & (value - 1), f"S30: {value} is no power of two")
        check(low <= 65536, f"S30: minimum {low}")
        check(preferred >= max(low, 512), f"S30: preferred {preferred}, minimum {low}")
        check(high >= preferred, f"S30: maximum {high} below preferred {preferred}")
        check(high >= min(MIB, export.size), f"S30: maximum payload {high}")
        check(export.size % low == 0, f"S31: size {export.size}, minimum {low}")

    def info(self, name="", infos=ALL_INFOS, option=OPT_INFO):
        """INFO or GO; returns the Export, or the OptionReply of a refusal."""
        reply = self.option(option, info_data(name, infos))
        if not reply.ok:
            if reply.kind == ERR_UNKNOWN:
                check(not reply.before, "S23: REP_INFO before ERR_UNKNOWN")
            return reply
        return self.export_from(reply.before)

    def go(self, name="", infos=(INFO_BLOCK_SIZE,)):
        result = self.info(name, infos, OPT_GO)
        if isinstance(result, Export):
            self.export = result
            if result.block and INFO_BLOCK_SIZE in infos:
                self.payload_max = result.block[2]
        return result

    def export_name(self, name=""):
        self.send_option(OPT_EXPORT_NAME, encode(name))
        size, flags = struct.unpack(">QH", self.receive(10))
        if not self.no_zeroes:
            check(self.receive(124) == bytes(124), "S12: padding is not zero")
        self.check_transmission_flags(flags)
        self.export = Export(size, flags)
        return self.export

    def structured_reply(self):
        reply = self.option(OPT_STRUCTURED_REPLY)
        if reply.ok:
            self.structured = True
        return reply

    def extended_headers(self):
        reply = self.option(OPT_EXTENDED_HEADERS)
        if reply.ok:
            self.structured = self.extended = True
        return reply

    def list_meta(self, name="", queries=()):
        """Names of the contexts that match, or the OptionReply of a refusal."""
        reply = self.option(OPT_LIST_META, meta_data(name, queries))
        if not reply.ok:
            return reply
        names = []
        for _, data in reply.before:
            check(len(data) > 4, "S41: REP_META_CONTEXT without a name")
            check(struct.unpack_from(">I", data)[0] == 0, "S43: context id in LIST is not 0")
            names.append(check_string(data[4:], "S6"))
        return names

    def set_meta(self, name="", queries=(ALLOCATION,)):
        """Selects contexts: {id: name}, or the OptionReply of a refusal."""
        self.contexts = {}
        reply = self.option(OPT_SET_META, meta_data(name, queries))
        if not reply.ok:
            return reply
        for _, data in reply.before:
            check(len(data) > 4, "S41: REP_META_CONTEXT without a name")
            number = struct.unpack_from(">I", data)[0]
            check(number not in self.contexts, f"S43: context id {number} twice")
            self.contexts[number] = check_string(data[4:], "S6")
        return self.contexts

    # ---- transmission ----

    def cookie(self):
        self.next_cookie += 1
        return self.next_cookie

    def pack(self, request, magic=None):
        if self.extended:
            return struct.pack(">IHHQQQ", magic or EXT_REQUEST, request.flags, request.command,
                               request.cookie, request.offset, request.length)
        return struct.pack(">IHHQQI", magic or REQUEST, request.flags, request.command,
                           request.cookie, request.offset, request.length)

    def prepare(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None):
        """A request as bytes, remembered as on its way: (request, bytes)."""
        cookie = self.cookie() if cookie is None else cookie
        if command == WRITE and self.extended:
            flags |= PAYLOAD_LEN
        request = Request(command, flags, cookie, offset, length)
        if command != DISC:
            self.pending.setdefault(cookie, []).append(request)
        return request, self.pack(request) + payload

    def request(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None):
        request, data = self.prepare(command, offset, length, flags, payload, cookie)
        self.send(data)
        return request

    def wait(self, request):
        while not request.done:
            self.step()
        return request

    def wait_all(self):
        while self.pending:
            self.step()

    def step(self):
        """Reads one simple reply or one chunk; returns its request."""
        magic = struct.unpack(">I", self.receive(4))[0]
        if self.extended:
            check(magic == EXT_REPLY, f"S101: reply magic {magic:#x}")
            return self.step_chunk(*struct.unpack(">HHQQQ", self.receive(28)))
        if magic == SIMPLE:
            return self.step_simple(*struct.unpack(">IQ", self.receive(12)))
        check(magic == CHUNK, f"S64: reply magic {magic:#x}")
        check(self.structured, "S65: structured reply without negotiation")
        flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
        return self.step_chunk(flags, kind, cookie, None, length)

    def find(self, cookie):
        check(cookie in self.pending, f"S63: reply to unknown cookie {cookie:#x}")
        return self.pending[cookie][0]

    def finish(self, request):
        request.done = True
        queue = self.pending[request.cookie]
        queue.remove(request)
        if not queue:
            del self.pending[request.cookie]
        return request

    def check_error(self, request, code):
        check(code in ERRNOS, f"S69: error {code} to {request}")
        large = request.length > self.payload_max or request.length > PAYLOAD_DEFAULT
        check(code != EOVERFLOW or request.flags & DF or large, f"S70: EOVERFLOW to {request}")
        check(code != ENOTSUP or request.flags & FAST_ZERO, f"S70 S94: ENOTSUP to {request}")

    def step_simple(self, error, cookie):
        request = self.find(cookie)
        check(not self.structured or request.command != READ,
              f"S66: simple reply (error {error}) to a structured {request}")
        check(not request.chunks and not request.error_chunks, "S64: two answers to a request")
        request.simple = True
        if error:
            self.check_error(request, error)
            request.error = error
        elif request.command == READ:
            request.data = self.receive(request.length)
        else:
            check(request.command != BLOCK_STATUS, "S96: simple success to BLOCK_STATUS")
        return self.finish(request)

    def step_chunk(self, flags, kind, cookie, offset, length):
        request = self.find(cookie)
        check(not flags & ~DONE, f"S78: chunk flags {flags:#x}")
        check(offset is None or offset == request.offset, "S102: offset is not the request's")
        check(length <= self.payload_max + 16 or kind in (STATUS, STATUS_EXT),
              f"S80: chunk of {length} bytes")
        check(length <= 64 * MIB, f"S80: chunk of {length} bytes")
        handler = {NONE: self.chunk_none, OFFSET_DATA: self.chunk_data,
                   OFFSET_HOLE: self.chunk_hole, STATUS: self.chunk_status,
                   STATUS_EXT: self.chunk_status_ext, ERROR: self.chunk_error,
                   ERROR_OFFSET: self.chunk_error_offset}.get(kind)
        check(handler, f"S78: chunk type {kind:#x}")
        handler(request, length, flags)
        if not flags & DONE:
            return request
        self.check_complete(request)
        return self.finish(request)

    def chunk_none(self, request, length, flags):
        check(not length and flags & DONE, "S78: NONE with data or without DONE")

    def check_content(self, request, start, length):
        check(request.command == READ, f"S77: content in a reply to {request}")
        end = start + length
        check(start >= request.offset and end <= request.offset + request.length,
              f"S77: content {start}+{length} outside {request}")
        check(all(end <= low or start >= high for low, high in request.covered),
              f"S77: content {start}+{length} overlaps")
        for edge in (start, end):
            check(edge % 512 == 0 or edge in (request.offset, request.offset + request.length),
                  f"S79: chunk edge {edge} inside {request}")
        if request.flags & DF:
            check(not request.covered, "S83: two content chunks with DF")
        if request.data is None:
            request.data = bytearray(request.length)
        request.covered.append((start, end))

    def chunk_data(self, request, length, _):
        check(length >= 9, f"S79: OFFSET_DATA of {length} bytes")
        start = struct.unpack(">Q", self.receive(8))[0]
        length -= 8
        check(length <= self.payload_max, f"S80: {length} bytes of data in a chunk")
        self.check_content(request, start, length)
        at = start - request.offset
        request.data[at:at + length] = self.receive(length)
        request.chunks.append((OFFSET_DATA, start, length))

    def chunk_hole(self, request, length, _):
        check(length == 12, f"S79: OFFSET_HOLE of {length} bytes")
        start, size = struct.unpack(">QI", self.receive(12))
        check(size, "S79: empty hole")
        check(not request.flags & DF, "S83: hole in a DF reply")
        self.check_content(request, start, size)
        request.chunks.append((OFFSET_HOLE, start, size))

    def chunk_status(self, request, length, _):
        check(not self.extended, "S104: BLOCK_STATUS chunk with extended headers")
        check(length >= 12 and length % 8 == 4, f"S96: BLOCK_STATUS chunk of {length} bytes")
        data = self.receive(length)
        number = struct.unpack_from(">I", data)[0]
        self.extents(request, number, list(struct.iter_unpack(">II", data[4:])))

    def chunk_status_ext(self, request, length, _):
        check(self.extended, "S104: BLOCK_STATUS_EXT chunk without extended headers")
        check(length >= 24 and length % 16 == 8, f"S104: BLOCK_STATUS_EXT of {length} bytes")
        data = self.receive(length)
        number, count = struct.unpack_from(">II", data)
        extents = list(struct.iter_unpack(">QQ", data[8:]))
        check(count == len(extents), f"S104: count {count}, {len(extents)} extents")
        self.extents(request, number, extents)

    def extents(self, request, number, extents):
        check(request.command == BLOCK_STATUS, f"S96: status in a reply to {request}")
        check(number in self.contexts, f"S96: context id {number} was not selected")
        name = self.contexts[number]
        check(name not in request.extents, f"S96: two chunks for {name}")
        check(len(extents) <= 1 << 20, f"S98: {len(extents)} extents")
        lengths = [length for length, _ in extents]
        check(all(lengths), "S96: empty extent")
        end = request.offset + sum(lengths)
        if self.export.size:
            check(end <= self.export.size, f"S97: extents end at {end}")
        if request.flags & REQ_ONE:
            check(len(extents) == 1 and lengths[0] <= request.length, f"S97: REQ_ONE: {extents}")
        check(not request.length or sum(lengths[:-1]) < request.length,
              f"S97: extents {extents} for {request}")
        at = request.offset
        for index, (length, status) in enumerate(extents):
            at += length
            check(at % 512 == 0 or at in (request.offset + request.length, self.export.size),
                  f"S98: extent ends at {at}")
            check(not index or extents[index - 1][1] != status, f"S98: neighbours alike at {at}")
            if name == ALLOCATION:
                check(not status & ~3, f"S99 S104: status {status:#x}")
        request.extents[name] = extents

    def chunk_error(self, request, length, flags):
        self.take_error(request, length, ERROR)

    def chunk_error_offset(self, request, length, flags):
        self.take_error(request, length, ERROR_OFFSET)

    def take_error(self, request, length, kind):
        least = 6 if kind == ERROR else 14
        check(length >= least, f"S82: error chunk of {length} bytes")
        code, size = struct.unpack(">IH", self.receive(6))
        check(least + size == length, f"S82: message of {size} in a chunk of {length}")
        message = check_string(self.receive(size), "S82")
        at = struct.unpack(">Q", self.receive(8))[0] if kind == ERROR_OFFSET else None
        check(code, "S82: error chunk without an error")
        self.check_error(request, code)
        kinds = {other[0] for other in request.error_chunks}
        check(not kinds or kind == ERROR_OFFSET, "S82: second ERROR chunk")
        check(kinds <= {kind}, "S82: ERROR mixed with ERROR_OFFSET")
        if at is not None:
            check(request.offset <= at < request.offset + request.length,
                  f"S82: error offset {at} outside {request}")
            check(at not in [other[3] for other in request.error_chunks], "S82: same offset twice")
        request.error_chunks.append((kind, code, message, at))
        request.error = request.error or code

    def check_complete(self, request):
        if request.error:
            return
        if request.command == READ and request.length:
            total = sum(end - start for start, end in request.covered)
            check(total == request.length, f"S77: {total} bytes for {request}")
        if request.command == READ and request.data is None:
            request.data = b""
        if request.command == BLOCK_STATUS:
            check(set(request.extents) == set(self.contexts.values()),
                  f"S96: status for {list(request.extents)}")

    # ---- one command, one answer ----

    def read(self, offset, length, flags=0):
        return self.wait(self.request(READ, offset, length, flags))

    def write(self, offset, payload, flags=0):
        return self.wait(self.request(WRITE, offset, len(payload), flags, payload))

    def flush(self, flags=0):
        return self.wait(self.request(FLUSH, 0, 0, flags))

    def trim(self, offset, length, flags=0):
        return self.wait(self.request(TRIM, offset, length, flags))

    def cache(self, offset, length, flags=0):
        return self.wait(self.request(CACHE, offset, length, flags))

    def zero(self, offset, length, flags=0):
        return self.wait(self.request(WRITE_ZEROES, offset, length, flags))

    def status(self, offset, length, flags=0):
        return self.wait(self.request(BLOCK_STATUS, offset, length, flags))

    def data(self, offset, length, flags=0):
        """The bytes of a read that must succeed."""
        request = self.read(offset, length, flags)
        check(not request.error, f"read fails: {request}")
        return bytes(request.data)

    def disc(self):
        self.request(DISC)
        self.expect_drop("S88")

    def in_sync(self):
        """Proves that the stream is still parseable: a flush and a read, answered in full."""
        check(not self.pending, f"S64: no answer to {self.pending}")
        check(not self.flush().error, "in sync: flush fails")
        if self.export.size:
            self.data(0, 1)

    def pipeline(self, blobs):
        """Sends the prepared requests from a thread while replies are read here."""
        failure = []

        def sender():
            try:
                for blob in blobs:
                    self.sock.sendall(blob)
            except OSError as error:
                failure.append(error)

        thread = threading.Thread(target=sender, daemon=True)
        thread.start()
        try:
            self.wait_all()
        finally:
            thread.join(PATIENCE)
        check(not failure, f"sending failed: {failure}")


def until(condition, what, seconds=PATIENCE):
    """Waits for a condition; the deadline only ends a hang."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        check(time.monotonic() < deadline, f"not in {seconds} s: {what}")
        time.sleep(0.02)
