# SPDX-License-Identifier: MIT
"""The table of works: what is measured, how, and what it should reach.

One entry per row; nothing here knows how to measure. A target is a ratio of the subject to a peer
(throughput: at least; CPU: at most). None: measured without a target.
"""

from dataclasses import dataclass, field
from typing import Optional

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Targets:
    nbdkit: Optional[float] = None  # throughput against nbdkit file
    qemu: Optional[float] = None  # throughput against qemu-nbd with its best aio
    cpu: Optional[float] = None  # server CPU for the same work against nbdkit
    best: Optional[float] = None  # throughput against the best of all peers
    raw: Optional[float] = None  # server CPU of a qcow2 image against the same work on a raw one
    cores: Optional[float] = None  # seconds of server CPU in a second: at least


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    kind: str  # a method of measure.Measurement
    targets: Targets = Targets()
    load: dict = field(default_factory=dict)  # options of bench-load
    transport: str = "unix"
    place: str = "disk"
    writes: bool = False
    cold: bool = False
    short: bool = True  # is part of the short mode
    rounds: Optional[int] = None  # no race: so many will do
    format: str = "raw"


def _load(op, size, depth, connections=1):
    return {"op": op, "block-size": size, "depth": depth, "connections": connections}


# key, title, what bench-load does, targets on a Unix socket, also in the short mode
_WORKS = [
    ("read-4k-d1", "4k randread depth 1", _load("read", 4 * KIB, 1), Targets(1.2, 1.5, 0.8), True),
    ("read-4k-d16", "4k randread depth 16", _load("read", 4 * KIB, 16), Targets(), False),
    ("read-4k-d64", "4k randread depth 64", _load("read", 4 * KIB, 64),
     Targets(2.5, 3.5, 0.5), True),
    ("read-4k-d1-c4", "4k randread depth 1, 4 connections", _load("read", 4 * KIB, 1, 4),
     Targets(), False),
    ("read-4k-d64-c4", "4k randread depth 64, 4 connections", _load("read", 4 * KIB, 64, 4),
     Targets(3, 10, 0.4), True),
    ("write-4k-d64", "4k randwrite depth 64", _load("write", 4 * KIB, 64),
     Targets(1.2, 1.2, 0.9), True),
    ("mixed-4k-d16", "4k half reads, half writes, depth 16", _load("mixed", 4 * KIB, 16),
     Targets(), False),
    ("read-64k-d16", "64k read depth 16", _load("read", 64 * KIB, 16), Targets(1.5, 1.8, 0.4),
     True),
    ("read-1m-d8", "1M read depth 8", _load("read", MIB, 8), Targets(1.8, 3, 0.2), True),
    ("write-1m-d8", "1M write depth 8", _load("write", MIB, 8), Targets(1.3, 1.8, 0.7), True),
    ("connect", "connect + GO + disconnect", {"op": "connect", "simple": True},
     Targets(5, 1.3), True),
    ("connect-c4", "connect + GO + disconnect, 4 at once",
     {"op": "connect", "simple": True, "connections": 4}, Targets(), False),
]
_TCP = Targets(1.3, 2.5, 0.6)

# The same against qemu-nbd, and against raw; every cluster is allocated.
_QCOW2_WORKS = [
    ("read-4k-d1", "4k randread depth 1", _load("read", 4 * KIB, 1), Targets(qemu=1.5, raw=1.1)),
    ("read-4k-d16", "4k randread depth 16", _load("read", 4 * KIB, 16), Targets(raw=1.1)),
    ("read-4k-d64", "4k randread depth 64", _load("read", 4 * KIB, 64),
     Targets(qemu=3.5, raw=1.1)),
    ("read-1m-d8", "1M read depth 8", _load("read", MIB, 8), Targets(qemu=3, raw=1.1)),
    ("write-4k-d64", "4k randwrite in place, depth 64", _load("write", 4 * KIB, 64),
     Targets(qemu=1.2, raw=1.1)),
]
_QCOW2_SHORT = ("read-4k-d64", "new-4k-d64")


def _is_write(load):
    return load["op"] in ("write", "mixed")


def _data_rows():
    for key, title, load, targets, short in _WORKS:
        yield Row(key, title, "load", targets, load, writes=_is_write(load), short=short)
    for key, title, load, targets, short in _WORKS:
        if short:
            tcp = Targets(_TCP.nbdkit, _TCP.qemu, _TCP.cpu if targets.cpu else None)
            yield Row("tcp-" + key, "TCP " + title, "load", tcp, load, transport="tcp",
                      writes=_is_write(load))


# key, title, kind, what is done, transport, targets. Certificates of both sides over TCP on the
# loopback address, unless said.
_TLS_WORKS = [
    ("read-4k-d1", "4k randread depth 1", "load", _load("read", 4 * KIB, 1), "x509",
     Targets(1.2, 1000)),
    ("read-4k-d64", "4k randread depth 64", "load", _load("read", 4 * KIB, 64), "x509",
     Targets(1.8, 4, 0.6)),
    ("read-1m-d8", "1M read depth 8", "load", _load("read", MIB, 8), "x509",
     Targets(1.3, 2, 0.8)),
    ("write-1m-d8", "1M write depth 8", "load", _load("write", MIB, 8), "x509", Targets()),
    ("read-1m-d8-c4", "1M read depth 8, 4 connections", "load",
     {**_load("read", MIB, 8, 4), "threads": 2}, "x509", Targets()),
    ("nbdcopy-out", "nbdcopy out", "copy_out", {}, "x509", Targets()),
    ("psk-nbdcopy-out", "nbdcopy out, pre-shared key", "copy_out", {}, "psk", Targets(4, 4, 0.3)),
    ("connect", "connect + TLS + GO", "load", {"op": "connect", "simple": True}, "x509",
     Targets(6, 50)),
    ("connect-c4", "connect + TLS + GO, 4 at once", "load",
     {"op": "connect", "simple": True, "connections": 4}, "x509", Targets()),
    ("connect-trust", "connect + TLS + GO, no client certificate", "load",
     {"op": "connect", "simple": True}, "x509-trust", Targets(6, 50)),
    ("unix-read-4k-d1", "Unix 4k randread depth 1", "load", _load("read", 4 * KIB, 1),
     "x509-unix", Targets(1.2)),
    ("unix-read-4k-d64", "Unix 4k randread depth 64", "load", _load("read", 4 * KIB, 64),
     "x509-unix", Targets(1.8, 4, 0.6)),
    ("unix-read-1m-d8", "Unix 1M read depth 8", "load", _load("read", MIB, 8), "x509-unix",
     Targets(1.3, 2, 0.8)),
    ("unix-write-1m-d8", "Unix 1M write depth 8", "load", _load("write", MIB, 8), "x509-unix",
     Targets()),
    ("unix-nbdcopy-out", "Unix nbdcopy out", "copy_out", {}, "x509-unix", Targets()),
]


def _tls_rows():
    for key, title, kind, load, transport, targets in _TLS_WORKS:
        yield Row("tls-" + key, "TLS " + title, kind, targets, load, transport=transport,
                  writes=bool(load) and _is_write(load), short=False)


def _qcow2_rows():
    for key, title, load, targets in _QCOW2_WORKS:
        yield _qcow2_row(key, title, load, targets, "qcow2")
    # Few enough that nearly each finds a cluster of its own in an image that large.
    yield _qcow2_row("new-4k-d64", "4k randwrite, allocating, depth 64",
                     {**_load("write", 4 * KIB, 64), "count": 8192}, Targets(qemu=2), "fresh")
    yield _qcow2_row("new-1m-d8", "1M sequential write, allocating, depth 8",
                     {**_load("write", MIB, 8), "sequential": True, "count": 1024},
                     Targets(qemu=2), "fresh")
    yield _qcow2_row("zlib-1m-d8", "1M sequential read, zlib, depth 8",
                     {**_load("read", MIB, 8), "sequential": True}, Targets(cores=1.5), "zlib")
    yield Row("qcow2-startup", "qcow2 of 1 TiB: start to first accept", "startup", rounds=7,
              place="tebi", format="qcow2", short=False)


# AES-256-XTS; how far from raw is told by the processor time of each.
_LUKS_WORKS = [
    ("read-4k-d1", "4k randread depth 1", _load("read", 4 * KIB, 1), Targets(qemu=1.2)),
    ("read-4k-d64", "4k randread depth 64", _load("read", 4 * KIB, 64), Targets(qemu=1.2)),
    ("read-1m-d8", "1M sequential read, depth 8",
     {**_load("read", MIB, 8), "sequential": True}, Targets(qemu=1.2)),
    ("write-4k-d64", "4k randwrite in place, depth 64", _load("write", 4 * KIB, 64),
     Targets(qemu=1.2)),
    ("write-1m-d8", "1M sequential write in place, depth 8",
     {**_load("write", MIB, 8), "sequential": True}, Targets(qemu=1.2)),
    ("read-4k-d64-c4", "4k randread depth 64, 4 connections", _load("read", 4 * KIB, 64, 4),
     Targets(qemu=1.2)),
    ("read-1m-d8-c4", "1M read, depth 8, 4 connections", _load("read", MIB, 8, 4),
     Targets(qemu=1.2)),
]


def _luks_rows():
    for place in ("luks", "qcow2-luks"):
        for key, title, load, targets in _LUKS_WORKS:
            yield Row(f"{place}-{key}", f"{place} {title}", "load", targets, load, place=place,
                      writes=_is_write(load), format=place, short=False)


def _qcow2_row(key, title, load, targets, place):
    return Row("qcow2-" + key, "qcow2 " + title, "load", targets, load, place=place,
               writes=_is_write(load), format="qcow2", short=key in _QCOW2_SHORT)


ROWS = [
    *_data_rows(),
    Row("tmpfs-read-4k-d64", "tmpfs 4k randread depth 64", "load", Targets(),
        _load("read", 4 * KIB, 64), place="tmpfs", short=False),
    Row("tmpfs-write-4k-d64", "tmpfs 4k randwrite depth 64", "load", Targets(2, 5, 0.5),
        _load("write", 4 * KIB, 64), place="tmpfs", writes=True),
    Row("cold-read-4k-d64", "4k randread depth 64, cold", "load", Targets(best=1),
        _load("read", 4 * KIB, 64), cold=True),
    Row("cold-mix-4k-d64", "4k hits beside one miss in ten, depth 64", "mix", Targets(best=1),
        {**_load("read", 4 * KIB, 64), "hot-percent": 90}, cold=True),
    Row("fio-read-4k-d1", "fio nbd engine: 4k randread depth 1", "fio",
        load={"rw": "randread", "bs": "4k", "iodepth": 1}),
    Row("fio-read-4k-d64", "fio nbd engine: 4k randread depth 64", "fio",
        load={"rw": "randread", "bs": "4k", "iodepth": 64}, short=False),
    Row("fio-write-4k-d64", "fio nbd engine: 4k randwrite depth 64", "fio",
        load={"rw": "randwrite", "bs": "4k", "iodepth": 64}, writes=True, short=False),
    Row("nbdcopy-out", "nbdcopy out", "copy_out"),
    Row("tcp-nbdcopy-out", "TCP nbdcopy out", "copy_out", transport="tcp", short=False),
    Row("nbdcopy-in", "nbdcopy in", "copy_in", writes=True),
    Row("nbdcopy-sparse", "nbdcopy out, sparse image", "copy_out", place="sparse"),
    Row("holes", "holes read or sent", "holes", place="sparse", rounds=1),
    Row("memory", "memory: idle, after 1M reads, 16 x 32 MiB reads, writes", "memory",
        rounds=1),
    Row("startup", "start to first accept", "startup", rounds=7),
    *_tls_rows(),
    *_qcow2_rows(),
    *_luks_rows(),
]

# Absolute targets of the rows that are no race.
STARTUP_MS = 4
MEMORY_IDLE_MIB = 8
# What hawserd(8) states for requests in progress of all clients, and the idle process beside it.
MEMORY_BUSY_MIB = 128 + MEMORY_IDLE_MIB
# Blocks at the edges of data come with the kernel's read-ahead.
HOLE_READ_TOLERANCE = 1.5
# A hit that waits for misses has the latency of the slow requests.
WAITING_MAX = 0.5

def select(names, short):
    """The rows that names (a list, or None for all of the mode) stand for."""
    if not names:
        return [row for row in ROWS if row.short or not short]
    chosen = [row for row in ROWS if any(_matches(row.key, name) for name in names)]
    for name in names:
        if not any(_matches(row.key, name) for row in ROWS):
            raise ValueError(f"no row is called '{name}'; --list shows them")
    return chosen


def _matches(key, name):
    return key == name or (name.endswith("*") and key.startswith(name[:-1]))
