# SPDX-License-Identifier: MIT
"""
qcow2 images for tests, made and read by QEMU's tools: the table of features that are combined, and
random operations that QEMU performs.
"""

import itertools
import os
import random
import shutil
import subprocess
import tempfile

from harness import MIB, Skip, check

SECONDS = 240  # ends a hang, nothing else
PARTS = 8  # the matrix is tested in so many parts
# What is tested is not the disk; syncs are quick there.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# Each row is one axis of the matrix: what qemu-img create's -o takes, and what it means here.
AXES = {
    "cluster_size": ("512", "4096", "65536", "2097152"),
    "compat": ("0.10", "1.1"),
    "refcount_bits": ("16", "1", "2", "4", "8", "32", "64"),
    "backing": ("", "raw", "qcow2", "short", "long"),
    "extended_l2": ("off", "on"),
    "compression_type": ("zlib", "zstd"),
    "snapshot": ("", "yes"),
    "data_file": ("", "plain", "raw"),
    "base": ("plain", "compressed"),
}


def tool(*command, status=0):
    if not shutil.which(command[0]):
        raise Skip(f"{command[0]} is not installed")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=SECONDS, check=False)
    check(status is None or done.returncode == status, f"{' '.join(command)[:2000]}: status {done.returncode}\n"
          f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def possible(row):
    """Does the format allow this combination?"""
    old = row["compat"] == "0.10"
    if old and (row["refcount_bits"] != "16" or row["extended_l2"] == "on"
                or row["compression_type"] != "zlib" or row["data_file"]):
        return False
    if row["extended_l2"] == "on" and int(row["cluster_size"]) < 16384:
        return False
    if row["data_file"] and (row["snapshot"] or row["base"] == "compressed"):
        return False
    if row["data_file"] == "raw" and row["backing"]:
        return False
    if row["refcount_bits"] == "1" and (row["snapshot"] or row["base"] == "compressed"):
        return False  # nothing can be shared, not even a sector
    if row["refcount_bits"] in ("2", "4") and row["snapshot"] and row["base"] == "compressed":
        return False  # many clusters in one, and all of them twice
    return True


def pairwise(seed=1):
    """Rows in which every possible pair of values occurs."""
    names = list(AXES)
    chance = random.Random(seed)
    missing = {(a, x, b, y) for a, b in itertools.combinations(names, 2)
               for x in AXES[a] for y in AXES[b]}
    rows = []
    for _ in range(4000):
        row = {name: chance.choice(AXES[name]) for name in names}
        if not possible(row):
            continue
        covered = {(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)} & missing
        if len(covered) >= (4 if len(rows) < 20 else 1):
            rows.append(row)
            missing -= covered
    return rows


def parts_of(test):
    """The test of a row as functions over the rows of a part: {name: function}."""
    def part_test(part):
        def run():
            for number, row in list(enumerate(pairwise()))[part::PARTS]:
                with tempfile.TemporaryDirectory(prefix="hawser-qcow2-", dir=SCRATCH) as directory:
                    test(Disk(directory, row, seed=number))
        return run
    return {f"test_features_{part}": part_test(part) for part in range(PARTS)}


def title(row):
    return " ".join(f"{name}={value}" for name, value in row.items() if value)


def plain_row(**changes):
    row = {"cluster_size": "65536", "compat": "1.1", "refcount_bits": "16", "backing": "",
           "extended_l2": "off", "compression_type": "zlib", "snapshot": "", "data_file": "",
           "base": "plain"}
    return dict(row, **changes)


def check_same(got, expected, what):
    if got != expected:
        at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), None)
        check(False, f"{what}: differs at {at}; {len(got)} and {len(expected)} bytes")


class Disk:
    """One image with its chain in a directory."""

    def __init__(self, directory, row, seed=1):
        self.row = row
        self.chance = random.Random(seed)
        self.cluster = int(row["cluster_size"])
        # A few L2 tables of small clusters, a few clusters of large ones; a ragged end.
        self.size = 24 * MIB + 37 * 512 if self.cluster > MIB else 4 * MIB + 37 * 512
        self.path = os.path.join(directory, "disk.qcow2")
        self.base = os.path.join(directory, "base")
        if row["backing"]:
            self.make_base()
        self.make()

    def make_base(self):
        kind = self.row["backing"]
        size = {"short": self.size // 2 + 1024, "long": self.size + 3 * MIB}.get(kind, self.size)
        if kind in ("raw", "short"):
            with open(self.base, "wb") as out:
                out.write(self.chance.randbytes(size // 2))
                out.truncate(size)
            return
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=65536", self.base,
             str(size))
        self.perform(self.base, self.random_writes(12, size, 65536, compressed=True))

    def base_format(self):
        return "raw" if self.row["backing"] in ("raw", "short") else "qcow2"

    def make(self):
        row, options = self.row, []
        for name in ("cluster_size", "compat", "refcount_bits"):
            options.append(f"{name}={row[name]}")
        if row["extended_l2"] == "on":
            options.append("extended_l2=on")
        if row["compat"] != "0.10":
            options.append(f"compression_type={row['compression_type']}")
        if row["data_file"]:
            options.append(f"data_file={self.path}.data")
        if row["data_file"] == "raw":
            options.append("data_file_raw=on")
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options)]
        if row["backing"]:
            command += ["-b", "base", "-F", self.base_format()]
        tool(*command, self.path, str(self.size))
        compressed = row["base"] == "compressed"
        self.perform(self.path, self.random_writes(20, self.size, self.cluster, compressed))
        if row["snapshot"]:
            tool("qemu-img", "snapshot", "-c", "before", self.path)
            self.perform(self.path, self.random_writes(6, self.size, self.cluster, compressed))

    def random_writes(self, count, size, cluster, compressed=False):
        """Commands of qemu-io."""
        out = []
        for _ in range(count):
            length = self.chance.choice((512, 4096, cluster // 2, cluster, 3 * cluster,
                                         self.chance.randrange(1, 300) * 512))
            length = max(512, min(length, size // 4) // 512 * 512)
            offset = self.chance.randrange(0, (size - length) // 512 + 1) * 512
            byte = self.chance.randrange(1, 256)
            kind = self.chance.choice(("write", "write", "zero", "unmap", "discard", "compress"))
            if kind == "compress" and compressed:
                start = offset // cluster * cluster
                if start + cluster <= size:
                    out.append(f"write -c -P {byte} {start} {cluster}")
            elif kind == "zero":
                out.append(f"write -z {offset} {length}")
            elif kind == "unmap":
                out.append(f"write -z -u {offset} {length}")
            elif kind == "discard":
                out.append(f"discard {offset} {length}")
            else:
                out.append(f"write -P {byte} {offset} {length}")
        return out

    def perform(self, path, commands):
        arguments = [word for command in commands for word in ("-c", command)]
        # A cluster that is there already cannot be compressed.
        refused = sum(command.startswith("write -c") for command in commands)
        out = tool("qemu-io", "-t", "unsafe", "-f", "qcow2", "-d", "unmap", *arguments, path,
                   status=None if refused else 0)
        check(out.count("failed") <= refused, out)

    def content(self, snapshot=None):
        """What QEMU reads."""
        raw = self.path + ".raw"
        extra = ("-l", f"snapshot.name={snapshot}") if snapshot else ()
        tool("qemu-img", "convert", "-f", "qcow2", *extra, "-O", "raw", self.path, raw)
        with open(raw, "rb") as file:
            data = file.read()
        os.unlink(raw)
        return data

    def check(self):
        """qemu-img check finds neither corruption nor leaks."""
        tool("qemu-img", "check", "-q", "-f", "qcow2", self.path)
