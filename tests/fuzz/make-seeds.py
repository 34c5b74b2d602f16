#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the seeds of the fuzz targets: small inputs that each reach another corner.

tests/fuzz/make-seeds.py [DIRECTORY]    writes DIRECTORY/TARGET/NAME; default: beside this file
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import luks_seeds

OPT_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = bytes.fromhex("0003e889045565a9")
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = \
    1, 2, 3, 5, 6, 7, 8, 9, 10, 11
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD = 1, 2, 4, 8, 16, 32
ERR = 1 << 31
HOLE_AT, EXPORT = 80 << 10, 262157  # as in target-connection.c


def u16(value):
    return struct.pack(">H", value)


def u32(value):
    return struct.pack(">I", value)


def u64(value):
    return struct.pack(">Q", value)


# ---- What clients say ----

def flags(value=3):
    return u32(value)


def option(number, data=b""):
    return OPT_MAGIC + u32(number) + u32(len(data)) + data


def info(number, name=b"", *types):
    return option(number, u32(len(name)) + name + u16(len(types)) + b"".join(map(u16, types)))


def meta(number, name=b"", *queries):
    return option(number, u32(len(name)) + name + u32(len(queries)) +
                  b"".join(u32(len(q)) + q for q in queries))


def request(kind, offset=0, length=0, flag=0, data=b"", cookie=7):
    return struct.pack(">IHHQQI", 0x25609513, flag, kind, cookie, offset, length) + data


def extended(kind, offset=0, length=0, flag=0, data=b"", cookie=7):
    return struct.pack(">IHHQQQ", 0x21e41c71, flag, kind, cookie, offset, length) + data


# ---- What servers say ----

def greeting(value=3):
    return b"NBDMAGIC" + OPT_MAGIC + u16(value)


def reply(number, kind, data=b""):
    return REPLY_MAGIC + u32(number) + u32(kind) + u32(len(data)) + data


def says_export(number, size=1 << 20, tflags=1):
    return reply(number, 3, u16(0) + u64(size) + u16(tflags))


def server_seeds():
    """Handshakes that both server targets can use, without their plan."""
    yield "go", flags() + info(GO)
    yield "go-infos", flags() + info(GO, b"", 0, 1, 2, 3, 9, 3)
    yield "info-go", flags() + info(INFO, b"", 3) + info(GO, b"", 3)
    yield "export-name", flags() + option(EXPORT_NAME)
    yield "export-name-zeroes", flags(1) + option(EXPORT_NAME)
    yield "export-name-old", flags(0) + option(EXPORT_NAME)
    yield "old-with-list", flags(0) + option(LIST)
    yield "export-name-unknown", flags() + option(EXPORT_NAME, b"nobody")
    yield "flags-unknown", flags(7) + option(LIST)
    yield "list-abort", flags() + option(LIST) + option(ABORT)
    yield "list-data", flags() + option(LIST, b"x") + option(ABORT, b"bye")
    yield "starttls", flags() + option(STARTTLS) + option(STARTTLS, b"x") + option(LIST)
    yield "unknown-options", flags() + option(99, b"data") + option(4) + option(LIST)
    yield "structured-twice", flags() + 2 * option(STRUCTURED) + option(STRUCTURED, b"x")
    yield "extended-twice", flags() + 2 * option(EXTENDED) + option(STRUCTURED) + info(GO)
    yield "extended-export-name", flags() + option(EXTENDED) + option(EXPORT_NAME)
    yield "meta-early", flags() + meta(SET_META, b"", b"base:allocation") + meta(LIST_META, b"")
    yield "meta", (flags() + option(STRUCTURED) + meta(LIST_META, b"", b"base:", b"x:y") +
                   meta(SET_META, b"", b"base:allocation") + info(GO))
    yield "meta-other", (flags() + option(STRUCTURED) + meta(SET_META, b"", b"base:allocation") +
                         info(INFO, "zwei é".encode()) + info(GO, "zwei é".encode(), 1, 2))
    yield "meta-unknown", flags() + option(STRUCTURED) + meta(SET_META, b"no", b"base:") + info(GO)
    yield "meta-nothing", flags() + option(EXTENDED) + meta(SET_META) + meta(LIST_META) + info(GO)
    yield "meta-bad", flags() + option(STRUCTURED) + option(SET_META, u32(0) + u32(9)) + info(GO)
    yield "info-bad", flags() + option(INFO, u32(99)) + option(GO, b"") + info(INFO, b"\xff")
    yield "info-unknown", flags() + info(GO, b"n" * 90) + info(GO)
    yield "too-long", flags() + OPT_MAGIC + u32(GO) + u32(16385) + b"x" * 40
    yield "too-long-passes", (flags() + OPT_MAGIC + u32(GO) + u32(16400) + b"x" * 16400 +
                              option(LIST))
    yield "too-long-abort", flags() + OPT_MAGIC + u32(ABORT) + u32(16400) + b"x" * 16400
    yield "far-too-long", flags() + OPT_MAGIC + u32(LIST) + u32(1048577)
    yield "bad-magic", flags() + b"IHAVEOPS" + u32(LIST) + u32(0)
    yield "cut", flags() + info(GO)[:-3]
    yield "many", flags() + 20 * option(LIST) + info(GO)


def handshake_seeds():
    for name, data in server_seeds():
        yield name, bytes([0xff, 0, 0, 1]) + data
    yield "no-slot", bytes([0, 0, 0, 3]) + flags() + info(GO) + option(LIST)
    yield "late-slot", (bytes([0xfe, 0, 1, 3]) + flags() + option(STRUCTURED) +
                        meta(SET_META, b"", b"base:allocation") + info(GO, b"", 3))
    yield "no-slot-export-name", bytes([0, 0, 0, 3]) + flags() + option(EXPORT_NAME)
    yield "late-slot-export-name", bytes([2, 0, 0, 3]) + flags() + option(EXPORT_NAME)
    yield "shutdown", (bytes([0xff, 0x85, 0, 9]) + flags() + option(LIST) + option(LIST) +
                       info(GO) + option(ABORT))


SIMPLE = flags() + info(GO)
CHUNKS = (flags() + option(STRUCTURED) + meta(SET_META, b"", b"base:allocation") + info(GO))
LONG = (flags() + option(EXTENDED) + meta(SET_META, b"", b"base:allocation") + info(GO))


def all_commands(make, payload=0):
    return (make(READ, 0, 512) + make(WRITE, 512, 16, payload, b"0123456789abcdef") +
            make(WRITE, 4096, 4, payload | FUA, b"fua!") +
            make(FLUSH) + make(TRIM, 8192, 8192) + make(CACHE, 0, 65536) +
            make(ZEROES, 100, 5000, NO_HOLE) + make(ZEROES, 20000, 50000) +
            make(ZEROES, 0, 4096, FAST_ZERO | FUA) + make(STATUS, 0, EXPORT) +
            make(STATUS, 100, 100000, REQ_ONE) + make(DISC))


def reads(make):
    return (make(READ, HOLE_AT - 1000, 40000) + make(READ, 0, EXPORT) + make(READ, 5, 1) +
            make(READ, 0, 200000, FUA) + make(READ, HOLE_AT, 4096) + make(CACHE, 0, EXPORT) +
            make(READ, 100, 0) + make(FLUSH))


def bad(make, payload=0):
    return (make(READ, EXPORT, 1) + make(READ, 1 << 63, 1 << 31) + make(READ, 0, EXPORT + 1) +
            make(READ, (1 << 64) - 1, 2) + make(READ, 0, 512, 0x8000) + make(99, 0, 0) +
            make(WRITE, EXPORT - 1, 2, payload, b"ab") + make(TRIM, EXPORT, 1) +
            make(WRITE, 0, 2, payload | NO_HOLE, b"ab") + make(ZEROES, EXPORT, 4096) +
            make(STATUS, EXPORT, 1) + make(STATUS, 0, 0) + make(CACHE, 1 << 62, 9) +
            make(TRIM, 0, 0) + make(ZEROES, 0, 0) + make(WRITE, 0, 0, payload) +
            make(READ, 0, 512) + make(DISC, 0, 0, 0x100) + make(FLUSH))


def connection_seeds():
    for name, data in server_seeds():
        if len(data) < 8000:
            yield name, bytes([0, 0]) + data
    page = bytes(range(256)) * 16
    for name, hello, make, payload in (("simple", SIMPLE, request, 0),
                                       ("chunks", CHUNKS, request, 0),
                                       ("long", LONG, extended, PAYLOAD)):
        yield name, bytes([0, 0]) + hello + all_commands(make, payload)
        yield name + "-pieces", bytes([0, 5]) + hello + all_commands(make, payload)
        yield name + "-read-only", bytes([1, 0]) + hello + all_commands(make, payload)
        yield name + "-reads", bytes([1, 0]) + hello + reads(make)
        yield name + "-bad", bytes([0, 0]) + hello + bad(make, payload)
        yield name + "-page", bytes([0, 3]) + hello + make(WRITE, 4096, 4096, payload, page)
        yield name + "-cut", bytes([0, 0]) + hello + make(WRITE, 0, 5000, payload, page[:900])
        yield name + "-huge", bytes([0, 0]) + hello + make(WRITE, 0, 1 << 31, payload, b"x")
        yield name + "-magic", bytes([0, 0]) + hello + make(FLUSH) + b"\0" * 32
        yield name + "-overlap", (bytes([0, 0]) + hello + make(WRITE, 10, 6, payload, b"sixsix") +
                                  make(ZEROES, 12, 4000) + make(READ, 0, 64) + make(TRIM, 8, 8))
    yield "df", bytes([0, 0]) + CHUNKS + (request(READ, HOLE_AT - 9, 70000, DF) +
                                          request(READ, 0, EXPORT, DF))
    yield "df-simple", bytes([0, 0]) + SIMPLE + request(READ, 0, 512, DF) + request(FLUSH)
    yield "status-payload", bytes([0, 0]) + LONG + (
        extended(STATUS, 0, 12, PAYLOAD, u64(EXPORT) + u32(0)) +
        extended(STATUS, 4096, 16, PAYLOAD, u64(99) + u32(0) + u32(0)) +
        extended(STATUS, 0, 12, PAYLOAD, u64(1 << 63) + u32(0)) +
        extended(STATUS, 0, 7, PAYLOAD, b"seven..") +
        extended(STATUS, 0, 72, PAYLOAD, b"x" * 72) +
        extended(FLUSH, 0, 4, PAYLOAD, b"what") + extended(WRITE, 0, 4))
    yield "no-context", bytes([0, 0]) + flags() + option(STRUCTURED) + info(GO) + (
        request(STATUS, 0, 512) + request(READ, HOLE_AT, 9))
    yield "same-cookies", bytes([1, 0]) + SIMPLE + 8 * request(READ, 9, 99, cookie=0)


def client_seeds():
    go = says_export(GO) + reply(GO, 3, u16(3) + u32(1) + u32(4096) + u32(33554432)) + reply(GO, 1)
    inform = says_export(INFO) + reply(INFO, 3, u16(1) + b"disk") + reply(INFO, 1)
    yield "go", bytes([4, 0]) + greeting() + go + b"\x67\x44\x66\x98 the kernel's"
    yield "go-pieces", bytes([4, 77]) + greeting() + go
    yield "go-no-size", bytes([4, 0]) + greeting() + reply(GO, 1)
    yield "go-unsup", bytes([4, 0]) + greeting() + reply(GO, ERR + 1) + u64(4096) + u16(3)
    yield "go-unsup-zeroes", (bytes([4, 0]) + greeting(1) + reply(GO, ERR + 1) + u64(4096) +
                              u16(3) + b"\0" * 124)
    yield "not-fixed", bytes([4, 0]) + greeting(0) + u64(4096) + u16(3) + b"\0" * 124
    yield "oldstyle", bytes([4, 0]) + b"NBDMAGIC" + bytes.fromhex("0000420281861253") + b"\0" * 140
    yield "ssh", bytes([4, 0]) + b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"
    yield "info", bytes([0, 0]) + greeting() + inform
    for number in range(1, 12):
        yield f"refused-{number}", (bytes([4, 0]) + greeting() +
                                    reply(GO, ERR + number, b"no, \x1b[31m and no"))
    servers = (reply(LIST, 2, u32(4) + b"disk" + b"a disk") + reply(LIST, 2, u32(0)) +
               reply(LIST, 1))
    yield "list", bytes([2, 0]) + greeting() + servers + inform
    yield "list-policy", bytes([2, 0]) + greeting() + reply(LIST, ERR + 2, b"hidden") + inform
    yield "list-bad", bytes([2, 0]) + greeting() + reply(LIST, 2, u32(99) + b"disk")
    contexts = (reply(STRUCTURED, 1) + reply(LIST_META, 4, u32(0) + b"base:allocation") +
                reply(LIST_META, 4, u32(0) + b"qemu:allocation-depth") + reply(LIST_META, 1))
    yield "contexts", bytes([9, 0]) + greeting() + contexts + inform
    yield "set-contexts", (bytes([13, 0]) + greeting() + reply(STRUCTURED, 1) +
                           reply(SET_META, 4, u32(5) + b"base:allocation") + reply(SET_META, 1) +
                           go)
    yield "no-structured", bytes([9, 0]) + greeting() + reply(STRUCTURED, ERR + 1) + inform
    yield "everything", bytes([11, 9]) + greeting() + reply(STRUCTURED, 1) + servers + \
        contexts[20:] + inform
    yield "infos", bytes([4, 0]) + greeting() + (
        reply(GO, 3, u16(2) + "text é".encode()) + reply(GO, 3, u16(77) + b"?") + go)
    yield "too-big", bytes([4, 0]) + greeting() + says_export(GO, 1 << 63) + reply(GO, 1)
    yield "huge", bytes([4, 0]) + greeting() + REPLY_MAGIC + u32(GO) + u32(3) + u32(0xffffffff)
    yield "other-option", bytes([4, 0]) + greeting() + reply(INFO, 1)
    yield "block-sizes", bytes([4, 0]) + greeting() + says_export(GO) + \
        reply(GO, 3, u16(3) + u32(3) + u32(4096) + u32(512)) + reply(GO, 1)


def uri_seeds():
    texts = ["nbd://host", "nbd://host:2000/a/b", "NBD:///disk", "nbds://alice@host/x",
             "nbd://[2001:db8::1]:65535/x", "nbd://[fe80::1%25eth0]:1/", "nbd://host/a%20b%2Fc%3F",
             "nbd+unix:///disk?socket=/run/x", "nbds+unix:////d?socket=%2Frun%2fx&x-y=1&u",
             "/run/x.sock", "./x?y#z", "host", "host:1234", "[::1]:1234", "nbd://host/%00",
             "nbd://me:secret@host/", "2001:db8::1", "nbd://host:0/", "nbd+vsock://2:10809/",
             "nbds://h/x?tls-certificates=/etc/pki&tls-type=psk&tls-hostname=o&tls-verify-peer=no",
             "nbd:unix:/tmp/x", "nbd:localhost:10809:exportname=x", "http://host/", "",
             "nbd+unix:///tmp/sock", "nbd://host/%c3%a4", "nbd://host/%ff", "nbd://host/disk#1",
             "nbd+unix:///?socket=/a&socket=/b", "nbd://ho%20st/", "nbd://host/%4"]
    for number, text in enumerate(texts):
        yield f"{number:02}", text.encode()


def nbdtab_seeds():
    table = (b"# devices\n\nnbd0 server disk port=2000,bs=4096,timeout=30,persist\n"
             b"nbd1 /run/sock - unix,name=here,readonly\r\n"
             b"/dev/nbd2 nbd://host/x name=there,conns=4,dead-timeout=9,_netdev,odd # end\n"
             b"nbd3 server disk cacertfile=/etc/pki,enable-tls,conns=99\n"
             b"- nbd+unix:///?socket=/s name=any\nnbd4\nnbd5 h e bs=12,readonly\n")
    for key in (b"nbd0", b"here", b"/dev/nbd2", b"there", b"nbd3", b"any", b"nbd4", b"nbd5",
                b"none", b""):
        yield (key.decode().replace("/", "-") or "empty"), key + b"\n" + table
    yield "no-end", b"x\nnbd0 h e name=x"
    yield "nul", b"x\nnbd0 h\0 e name=x\n"
    yield "blanks", b"nbd7\n \t nbd7\t  h   'a b'  ro , bs=512 ,, port=1\n"
    yield "ipv6", b"nbd0\nnbd0 ::1 disk port=0x10\nnbd0 [::1]:9 e\n"
    yield "escape", b"nbd0\nnbd0 host a;b%20c?d&e\xff\xc3\xa4 swap,sdp,nofork,block-size=1024\n"


def size_seeds():
    texts = ["0", "1", "512", "4k", "1M", "1.5M", "0x10", "010", "089", "16E", "15EiB", "1KB",
             "18446744073709551615", "18446744073709551616", "-1", " 1", "+1", "1 ", "0x", "", "K",
             "1Ki", "1KiBB", "9999999999999999999999999999999", "0xffffffffffffffff", "8P", "7tib"]
    for number, text in enumerate(texts):
        yield f"{number:02}", u64((1 << 64) - 1) + text.encode()
    yield "limit", u64(1024) + b"1k"
    yield "above", u64(1023) + b"1k"
    yield "zero", u64(0) + b"0"


def options_seeds():
    yield "info", info(GO, b"disk", 0, 3)[16:]
    yield "info-empty", info(INFO)[16:]
    yield "info-short", u32(5) + b"disk" + u16(0)
    yield "info-more", info(GO, b"disk", 1)[16:] + b"x"
    yield "info-name", info(GO, "é€𝄞\u07ff\uffff".encode(), 2)[16:]
    yield "meta", meta(SET_META, b"disk", b"base:allocation", b"", b"qemu:")[16:]
    yield "meta-none", meta(LIST_META, b"")[16:]
    yield "meta-lies", u32(0) + u32(0xffffffff) + u32(0)
    yield "meta-wraps", u32(0xfffffffc) + b"abcd" + u32(1) + u32(0xffffffff) + b"x"
    yield "request", request(WRITE, 1, 2, 3)
    yield "extended", extended(STATUS, 1 << 63, 1 << 40, PAYLOAD)
    yield "utf8-bad", b"\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80\xf8\xff\x80\xc3"
    yield "utf8-edges", b"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf"
    yield "errno", u32(108)
    yield "empty", b""


def json_seeds():
    texts = [b"plain", b"quote\" back\\slash", b"\n\t\x01\x1f\x7f", b"\xc2\x9b31m", b"\xff\xc3",
             "é€𝄞".encode(), b"\xe2\x80\xae reversed", b"", b"x" * 60, b"\xef\xbb\xbfbom"]
    for number, text in enumerate(texts):
        yield f"{number:02}", bytes([0xff]) + text
        yield f"{number:02}-small", bytes([number]) + text
    yield "shapes", bytes([0x02]) + b"a"
    yield "empty-shape", bytes([0x00]) + b"a"


def kernel_seeds():
    yield "mount", b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=x\n"
    yield "mount-octal", b"1 2 43:1 / /a\\040b\\134\\011\\8 rw - ext4 /dev/nbd0p1\\040 rw\n"
    yield "mount-short", b"36 35 98:0 / - ext3 x"
    yield "mount-nothing", b" - "
    yield "mount-number", b"1 2 99999999999:x / / rw - a b c"
    yield "backend", b"v1;disk;nbd://host/x%3B;n=4"
    yield "backend-other", b"other;label;uri"
    yield "backend-long", b"v1;" + b"l" * 80 + b";" + b"u" * 220 + b";n=70000;x=1;;"
    yield "label", b"disk;nbd://host/a;b"
    yield "label-long", b"d" * 64 + b";" + bytes(range(1, 256))
    yield "device", b"/dev/nbd15"
    yield "partition", b"nbd15p128"
    yield "device-number", b"0001048576"


def trace_seeds():
    for name, text in (("prefix", "host_*"), ("off", "-flush_end"), ("all", "*"), ("one", "-"),
                       ("stars", "*q*_b*n"), ("letter", "flush_?nd"), ("file", "file=x"),
                       ("comma", "enable=image_*,file=a,,b"), ("unknown", "*,fil=x"),
                       ("help", "help"), ("mixed", "**?*d")):
        yield name, text.encode()


def top_sample(clock, scale, **more):
    latency = {"sum_ns": 9 * scale, "max_ns": 5 * scale, "p50_ns": 1,
               "buckets": [[1024, scale], [5120, 2], [None, 1]]}
    numbers = {"commands": {name: {"requests": scale, "bytes": scale * 512, "errors": scale // 9}
                            for name in ("read", "write", "flush", "trim", "unknown")},
               "cache_misses": scale // 2, "jobs": 2, "buffer_bytes": 8192,
               "latency": {name: latency for name in ("read", "write", "flush", "other")}}
    client = {"id": 3, "address": "[::1]:5", "pid": None, **numbers}
    export = {"name": "n\u00e9", "file": "/f", "image_format": "raw", "size": 1 << 30,
              "read_only": True, "connections": 2, "connections_total": 9, **numbers,
              "clients": [client, {**client, "id": 4, "address": None, "pid": 2147483647}]}
    return json.dumps({"pid": 7, "clock_ns": clock, "uptime_ns": 3 * clock, "listening": ["/s"],
                       "exports": [export], **more}).encode()


def top_seeds():
    two = top_sample(10 ** 9, 10) + b"\0" + top_sample(2 * 10 ** 9, 10 ** 6)
    for look in range(8):
        yield f"two-{look}", bytes([60 + 10 * look, look | 24 << 3 & 0xf8]) + two
    yield "one", b"\x78\xff" + top_sample(5, 0)
    yield "huge", b"\x50\xff" + top_sample(5, 0) + b"\0" + top_sample(6, 2 ** 60)
    yield "empty", b"\x50\x07{\"clock_ns\":1,\"exports\":[{}]}"
    yield "names", b"\x50\x07" + top_sample(
        5, 1, listening=["\x1b[2J", "\u202e", 7], exports=[{"name": "\x9b", "clients": [7, {}]}])


def description_seeds():
    texts = (
        "driver=raw,file.filename=a", "disk.img", "driver=qcow2,file=a,,b,backing=",
        "driver=qcow2,file.driver=raw,file.offset=1M,file.size=64k,file.file.filename=d,"
        "backing.driver=qcow2,backing.file.filename=b,backing.backing=",
        "driver=raw,offset=4k,size=512,file.driver=raw,file.size=8k,file.file.filename=a",
        "driver=throttle,throttle-group=t,file.driver=qcow2,file.file.filename=q",
        "driver=file,filename=x,locking=off,aio=native,cache.direct=on,force-share=on",
        "file.driver=host_device,file.filename=/dev/sda,discard=unmap,detect-zeroes=unmap",
        "driver=qcow2,file.filename=q,data-file.filename=d,overlap-check.template=all,"
        "l2-cache-size=1M,lazy-refcounts=on,encrypt.format=luks,encrypt.key-secret=s",
        "driver=qcow2,file.filename=q,reda-only=on", "driver=nbd,host=x", "backing.driver=raw",
        "file." * 30 + "filename=a", "driver=raw," + "file." * 12 + "filename=a",
    )
    objects = (
        {"driver": "raw", "file": {"driver": "file", "filename": "a"}, "offset": 512},
        {"driver": "qcow2", "file": "a", "backing": None, "read-only": True},
        {"driver": "raw", "file": {"driver": "raw", "offset": -1, "file": "a"}},
        {"driver": "quorum", "children": [{"file": "a"}, {"file": "b"}]}, [1], {"a.b": {"": 1}},
    )
    for index, text in enumerate(texts):
        yield f"list-{index}", text.encode()
    for index, value in enumerate(objects):
        yield f"json-{index}", b"json:" + json.dumps(value).encode()


# ---- Partition tables ----

def made_by(tool, size, *arguments, script=None):
    """The pieces of a disk on which a real tool made a table; None where it is not installed."""
    with tempfile.NamedTemporaryFile() as disk:
        disk.truncate(size)
        try:
            subprocess.run([tool, *arguments, disk.name], input=script, text=True, check=True,
                           capture_output=True, env={**os.environ, "PATH": os.environ["PATH"] +
                                                     ":/usr/sbin:/sbin"})
        except FileNotFoundError:
            return None
        content = disk.read()
    pieces = b""
    for sector in range(size // 512):
        data = content[sector * 512:][:512].rstrip(b"\0")
        if data:
            place = sector if sector < size // 1024 else 1 << 31 | size // 512 - sector
            pieces += u32(place) + u16(len(data)) + data
    return pieces


def partition_seeds():
    size = 8 << 20
    ids = "label: gpt\nlabel-id: 01234567-89AB-CDEF-0123-456789ABCDEF\n"
    uuid = "uuid=01234567-89AB-CDEF-0123-4567890000"
    logical = "".join(f"start={8192 + 3072 * n},size=1024,type=83\n" for n in range(3))
    disks = {
        "mbr": made_by("sfdisk", size, script="label: dos\nlabel-id: 0x12345678\n,1M\n,2M,7\n"),
        "logical": made_by("sfdisk", size, script="label: dos\nlabel-id: 0x12345678\n"
                           "start=2048,size=2048\nstart=6144,size=10000,type=5\n" + logical),
        "gpt": made_by("sfdisk", size, script=f"{ids}size=1M,name=data,{uuid}01\n"
                       f"size=2M,{uuid}02\n7: size=1M,{uuid}07\n"),
        "gpt-sgdisk": made_by("sgdisk", size, "-S", "16", "-U",
                              "01234567-89AB-CDEF-0123-456789ABCDEF", "-n", "3:2048:+1M", "-u",
                              "3:01234567-89AB-CDEF-0123-456789ABCDEF", "-c", "3:data"),
        "gpt-large": made_by("fdisk", size, "-b", "4096", script="g\nx\ni\n01234567-89AB-CDEF-"
                             "0123-456789ABCDEF\nr\nn\n1\n\n+1M\nx\nu\n01234567-89AB-CDEF-0123-"
                             "456789ABCDEF\nr\nw\n"),
    }
    for name, pieces in disks.items():
        if pieces is None:
            continue
        number = {"logical": 5, "gpt-sgdisk": 3}.get(name, 1)
        for flags in (0, 3, 4, 11):
            yield f"{name}-{flags}", bytes([flags, number - 1]) + u64(size * 2) + pieces
        yield f"{name}-backup", bytes([19, number - 1]) + u64(size * 2) + pieces
    for words in ("sector=4096,label=data", "sector=512,0x7", "uuid=12345678-01", "4294967296"):
        yield f"words-{len(words)}", words.encode()


# ---- TLS: keys, priorities, rules, objects; the first byte chooses ----

def tls_seeds():
    keys = {"plain": "alice:00ff\n\nbob:%s\n" % ("6f" * 32), "hex": "#616c:00\r\n",
            "colon": "a:b:1234", "long": "x" * 128 + ":" + "ab" * 256, "odd": "alice:123",
            "nobody": ":00", "words": "alice", "bad-hex": "#6:00"}
    priorities = ("NORMAL", "@SYSTEM", "@SYSTEM,NORMAL", "SECURE256:-VERS-TLS1.2", "PFS:%NO_TICKETS",
                  "NONE:+VERS-TLS1.2:+ECDHE-RSA:+AES-128-GCM:+AEAD:+GROUP-ALL",
                  "NORMAL:+ANON-ECDH:-CIPHER-ALL:+AES-128-CBC:-VERS-ALL:+VERS-TLS1.2",
                  "NORMAL:-GROUP-X25519:!CURVE-ALL:%PROFILE_HIGH", "NORMAL:+VERS-TLS1.0", "NORMAL:",
                  "NORMAL:+ECDHE-PSK:+DHE-PSK:+PSK:-GROUP-ALL:+GROUP-X448", "LEGACY", ":")
    rules = {"deny": '{"policy":"deny","rules":[]}',
             "glob": '{"rules":[{"match":"*,CN=l?ptop","policy":"allow","format":"glob"}]}',
             "exact": '{"policy":"allow","rules":[{"match":"CN=laptop","policy":"deny"}]}',
             "no-match": '{"rules":[{"policy":"allow"}]}', "list": "[]",
             "bad-policy": '{"policy":"maybe"}', "half": '{"policy":"allow"',
             "misspelt": '{"rules":[{"match":"CN=*","policy":"deny","fromat":"glob"}]}'}
    for name, text in keys.items():
        yield f"keys-{name}", b"\0" + text.encode()
    for number, text in enumerate(priorities):
        yield f"priority-{number}", b"\1" + text.encode()
    for name, text in rules.items():
        yield f"rules-{name}", b"\2" + text.encode()
    objects = ("tls-creds-anon,id=a,endpoint=server,priority=NORMAL:+ANON-DH,verify-peer=off",
               "tls-creds-anon,id=a,endpoint=client\nauthz-list,id=b,policy=allow",
               "tls-creds-x509,id=x,endpoint=client,dir=.,sanity-check=off,verify-peer=off,loaded=on",
               "tls-creds-x509,id=x,endpoint=server,dir=nowhere,passwordid=s",
               "tls-creds-psk,id=p,endpoint=client,dir=.,username=alice",
               "tls-creds-psk,id=p,endpoint=server,username=alice",
               "authz-simple,id=s,identity=C=GB,,O=Home\nauthz-simple,id=s,identity=x",
               "authz-list,id=l,rules.0.match=*x*,rules.0.policy=allow,rules.0.format=glob,"
               "rules.1.match=x,rules.1.policy=deny", "authz-list,id=l,rules.0.match=x",
               "authz-list,id=l,policy=maybe",
               '{"qom-type":"authz-list","id":"l","rules":[{"match":"?*","policy":"deny"}]}')
    for number, text in enumerate(objects):
        yield f"object-{number}", b"\3" + text.encode()


TARGETS = {
    "tls": tls_seeds,
    "description": description_seeds,
    "handshake": handshake_seeds, "connection": connection_seeds,
    "client-handshake": client_seeds, "uri": uri_seeds, "nbdtab": nbdtab_seeds,
    "size": size_seeds, "options": options_seeds, "json": json_seeds, "kernel": kernel_seeds,
    "top": top_seeds, "partition": partition_seeds, "trace": trace_seeds,
    "luks": luks_seeds.seeds,
}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "seeds")
    for target, make in TARGETS.items():
        folder = os.path.join(root, target)
        os.makedirs(folder, exist_ok=True)
        for name, data in make():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
