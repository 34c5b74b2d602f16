# SPDX-License-Identifier: MIT
"""Measures one row on one server, once. Every kind of row is a method; each starts the server
afresh, so that no server pays for what another, or an earlier row, did to it.
"""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

from servers import KEYS, SECRET, Running

MIB = 1 << 20
TOOL_TIMEOUT = 120
SPARSE_STRIDE, SPARSE_DATA = 16 * MIB, MIB
FRESH_SIZE, TEBI = 64 << 30, 1 << 40
# The images of qcow2 rows, and the raw ones that have the same content.
RAW_TWINS = {"qcow2": "disk", "luks": "disk", "qcow2-luks": "disk",
             "zlib": "zlib-raw", "fresh": "fresh-raw", "tebi": "tebi-raw"}


class Images:
    """The images: whole ones (on disk, on tmpfs), a sparse one, a source for copies in, and qcow2:
    a whole one, a compressed one, an empty one for each measurement, a very large one."""

    def __init__(self, directory, memory, size, load):
        self.size = size
        # Absolute: a server that goes to the background changes its folder.
        directory, memory = Path(directory).resolve(), Path(memory).resolve()
        self.paths = {"disk": directory / "disk.img", "sparse": directory / "sparse.img",
                      "tmpfs": memory / "tmpfs.img", "source": memory / "source.img"}
        for place, twin in RAW_TWINS.items():
            self.paths[place] = directory / f"{place}.qcow2"
            self.paths.setdefault(twin, directory / f"{twin}.img")
        self.load = load

    def make(self, places):
        for place in places:
            if place == "sparse":
                self._make_sparse()
            elif place == "zlib":
                self._make_zlib()
            elif place in KEYS:
                self._make_encrypted(place)
            elif place == "qcow2":
                self._convert(place)
            elif place in RAW_TWINS:
                self.renew(place)
            else:
                subprocess.run([self.load, "--op", "image", "--image", self.paths[place],
                                "--size", str(self.size)], check=True, stdout=subprocess.DEVNULL)

    def _make_sparse(self):
        with open(self.paths["sparse"], "wb") as image:
            image.truncate(self.size)
            for offset in range(0, self.size, SPARSE_STRIDE):
                image.seek(offset)
                image.write(os.urandom(SPARSE_DATA))
            image.flush()
            os.fsync(image.fileno())

    def _qemu_img(self, *words):
        subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def _convert(self, place, *options):
        self._qemu_img("convert", *options, "-f", "raw", "-O", "qcow2",
                       self.paths[RAW_TWINS[place]], self.paths[place])
        self.clean(place)

    def _make_encrypted(self, place):
        made, path, driver = False, self.paths[place], place.split("-", 1)[0]
        options = {"luks": "key-secret=s,iter-time=10",
                   "qcow2": "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"}
        for _ in range(8):  # it measures its own speed, which fails at times
            made = made or not subprocess.run(
                ["qemu-img", "create", "-q", "-f", driver, *SECRET, "-o", options[driver], path,
                 str(self.size)], check=False).returncode
        self._qemu_img("convert", *SECRET, "-n", "-f", "raw", "--target-image-opts",
                       self.paths["disk"], f"driver={driver},{KEYS[place]}=s,file.filename={path}")
        self.clean(place)

    def _make_zlib(self):
        with open(self.paths["zlib-raw"], "wb") as image:
            for _ in range(self.size // 4 // MIB):
                image.write(os.urandom(MIB // 2).hex().encode())
        self._convert("zlib", "-c")

    def renew(self, place):
        """Empty ones, raw and qcow2; the large one has the tables for all of its clusters."""
        fresh = place == "fresh"
        options = [] if fresh else ["-o", "preallocation=metadata"]
        self.paths[place].unlink(missing_ok=True)
        self._qemu_img("create", "-q", "-f", "qcow2", *options, self.paths[place],
                       FRESH_SIZE if fresh else TEBI)
        self.clean(place)
        with open(self.paths[RAW_TWINS[place]], "wb") as twin:
            twin.truncate(FRESH_SIZE if fresh else TEBI)

    def sparse_data(self):
        return self.size // SPARSE_STRIDE * SPARSE_DATA

    def clean(self, place):
        """Nothing dirty is left, so that no server pays for another's writes."""
        with open(self.paths[place], "rb") as image:
            os.fsync(image.fileno())

    def warm(self, place, length=None):
        left = length or self.paths[place].stat().st_size
        with open(self.paths[place], "rb", buffering=0) as image:
            while left > 0 and (chunk := image.read(min(4 * MIB, left))):
                left -= len(chunk)

    def drop(self, place):
        """Out of the page cache."""
        with open(self.paths[place], "rb") as image:
            os.fsync(image.fileno())
            os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def resident(self, place):
        out = subprocess.run(["fincore", "-b", "-n", "-o", "RES", self.paths[place]], check=True,
                             capture_output=True, text=True).stdout
        return int(out)

    def remove(self):
        for path in self.paths.values():
            path.unlink(missing_ok=True)


class Failed(Exception):
    """The measurement did not come to an end; the sentence says why."""


class Measurement:
    def __init__(self, load, images, directory, seconds):
        self.load, self.images, self.directory = load, images, directory
        self.seconds = seconds

    def run(self, row, server, round_number):
        """A dictionary of numbers: "rate" (more is better) and "cpu" (seconds per unit of rate)."""
        return getattr(self, "_" + row.kind)(row, server, round_number)

    # ---- tools ----

    def _tool(self, command, running=None):
        try:
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                                  timeout=TOOL_TIMEOUT, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"{command[0]} took longer than {TOOL_TIMEOUT} s") from late
        if done.returncode:
            told = f"; the server: {running.told()}" if running else ""
            raise Failed(f"{command[0]}: {(done.stderr or done.stdout).strip()[-400:]}{told}")
        return done.stdout

    def _bench_load(self, running, options, seconds, seed=0):
        words = []
        for name, value in {**options, "seconds": seconds, "seed": seed}.items():
            words += [f"--{name}"] if value is True else [f"--{name}", value]
        if running.server.export:
            words += ["--export", running.server.export]
        return json.loads(self._tool([self.load, *running.place.load_options(), *words], running))

    def _serve(self, row, server):
        place, image_format = row.place, row.format
        if server.serves_raw:
            place, image_format = RAW_TWINS[place], "raw"
        return Running(server, row.transport, self.images.paths[place], self.directory,
                       image_format)

    # ---- kinds of rows ----

    def _load(self, row, server, round_number):
        if row.cold:
            self.images.drop(row.place)
        if row.place == "fresh":
            self.images.renew(row.place)
        with self._serve(row, server) as running:
            if not row.cold and row.place != "fresh":
                self._bench_load(running, row.load, min(0.1, self.seconds / 4), round_number + 100)
            result = self._timed(running, row.load, round_number)
        if row.writes and row.place != "tmpfs":
            self.images.clean(RAW_TWINS[row.place] if server.serves_raw else row.place)
        return result

    def _timed(self, running, options, round_number):
        before = running.cpu()
        told = self._bench_load(running, options, self.seconds, round_number)
        time.sleep(0.02)
        used = running.cpu() - before
        return {"rate": told["ops"] / told["seconds"], "cpu": used / told["ops"],
                "cores": used / told["seconds"],
                "mib_per_second": told["bytes"] / MIB / told["seconds"],
                "p50_us": told["p50_us"], "p99_us": told["p99_us"], "max_us": told["max_us"],
                "client_cpu": told["client_cpu_seconds"] / told["ops"], "ops": told["ops"]}

    def _mix(self, row, server, round_number):
        """Does a hit wait behind misses? Then the middle latency is that of the disk."""
        self.images.drop(row.place)
        hot = self.images.size // 8
        self.images.warm(row.place, hot)
        with self._serve(row, server) as running:
            return self._timed(running, {**row.load, "hot-bytes": hot}, round_number)

    def _fio(self, row, server, round_number):
        with self._serve(row, server) as running:
            words = [f"--{name}={value}" for name, value in row.load.items()]
            before = running.cpu()
            out = self._tool(["fio", "--name=bench", "--ioengine=nbd", "--time_based",
                              f"--uri={running.place.uri(server.export)}",
                              f"--runtime={int(self.seconds * 1000)}ms", "--output-format=json",
                              f"--randseed={round_number + 1}", "--norandommap", *words], running)
            used = running.cpu() - before
        job = json.loads(out[out.index("{"):])["jobs"][0]
        side = job["write" if row.writes else "read"]
        if row.writes:
            self.images.clean(row.place)
        return {"rate": side["iops"], "cpu": used / side["total_ios"],
                "p50_us": side["clat_ns"]["percentile"]["50.000000"] / 1000,
                "p99_us": side["clat_ns"]["percentile"]["99.000000"] / 1000}

    def _copy(self, row, server, words):
        with self._serve(row, server) as running:
            uri = running.place.uri(server.export)
            before, began = running.cpu(), time.monotonic()
            self._tool(["nbdcopy", *(uri if word is None else word for word in words)], running)
            seconds = time.monotonic() - began
            used = running.cpu() - before
        if row.writes:
            self.images.clean(row.place)
        rate = self.images.size / MIB / seconds
        return {"rate": rate, "mib_per_second": rate, "cpu": used / (self.images.size / MIB)}

    def _copy_out(self, row, server, _round):
        return self._copy(row, server, [None, "null:"])

    def _copy_in(self, row, server, _round):
        return self._copy(row, server, [str(self.images.paths["source"]), None])

    def _holes(self, row, server, _round):
        """Reads all of the sparse image; data on the wire and in the page cache tell the holes."""
        self.images.drop(row.place)
        options = {"op": "read", "block-size": MIB, "depth": 8, "sequential": True,
                   "count": self.images.size // MIB}
        with self._serve(row, server) as running:
            told = self._bench_load(running, options, 0)
        data = self.images.sparse_data()
        return {"sent": told["wire_bytes"] / data, "read": self.images.resident(row.place) / data}

    def _memory(self, row, server, _round):
        with self._serve(row, server) as running:
            time.sleep(0.05)
            idle, threads = running.memory(), running.threads()
            self._bench_load(running, {"op": "read", "block-size": MIB, "depth": 8}, self.seconds)
            time.sleep(0.05)
            after = running.memory()
        peak = {}
        for op in ("read", "write"):
            with self._serve(row, server) as running:
                peak[op] = self._peak(running, op)
        self.images.clean(row.place)
        return {"idle": idle, "after": after, "busy_read": peak["read"],
                "busy_write": peak["write"], "threads_idle": threads}

    def _peak(self, running, op):
        options = {"op": op, "block-size": 32 * MIB, "depth": 1, "connections": 16}
        peak, ended = {"rss_mib": 0, "anon_mib": 0}, threading.Event()

        def watch():
            while not ended.wait(0.01):
                for name, value in running.memory().items():
                    peak[name] = max(peak[name], value)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self._bench_load(running, options, self.seconds)
        finally:
            ended.set()
            watcher.join()
        return peak

    def _startup(self, row, server, _round):
        running = self._serve(row, server)
        told = json.loads(self._tool([self.load, *running.place.load_options(), "--op", "startup",
                                      "--", *running.command]))
        return {"milliseconds": told["seconds"] * 1000}

    def verify(self, row, server):
        """Before anything is measured: are the bytes right, and are writes read back?"""
        with self._serve(row, server) as running:
            for options in ({"op": "read", "block-size": 4096, "depth": 16},
                            {"op": "mixed", "block-size": MIB, "depth": 4},
                            {"op": "mixed", "block-size": 4096, "depth": 16, "connections": 2}):
                self._bench_load(running, {**options, "verify": True}, 0.05)
