#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
-P against tables that sfdisk and sgdisk made: every partition is where partx finds it, writes stay
in it, a damaged GPT is served from its backup, and tables that lie are refused.
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import MIB, Server, Skip, check, main, program  # noqa: E402
from nbdraw import EINVAL, ENOSPC  # noqa: E402

os.environ["PATH"] += ":/usr/sbin:/sbin"
SIZE = 64 * MIB

LOGICAL = "start=2048,size=4096,type=83\nstart=8192,size=100000,type=5\n" + "".join(
    f"start={8192 + 2048 * (n + 1) + 4096 * n},size=4096,type=83\n" for n in range(12))
TABLES = {  # name: (sector, script for sfdisk, or for fdisk where it begins with a command)
    "mbr": (512, "label: dos\n,4M,\n,3M,7\n,1M,c\n,,\n"),
    "mbr-holes": (512, "label: dos\n2: start=4096,size=2048\n4: start=40960,size=99\n"),
    "mbr-logical": (512, "label: dos\n" + LOGICAL),
    "mbr-large-sectors": (4096, "o\nn\np\n1\n256\n+1023\nn\ne\n2\n2048\n+8191\n"
                                "n\nl\n2304\n+511\nn\nl\n4096\n+599\nw\n"),
    "gpt": (512, "label: gpt\n" + "".join(f"size=1M,name=p{n}\n" for n in range(1, 21))),
    "gpt-holes": (512, "label: gpt\n3: start=2048,size=33,name=three\n128: start=9999,size=1\n"),
    "gpt-large-sectors": (4096, "g\nn\n1\n\n+1M\nn\n2\n\n+8M\nw\n"),
}


def tool(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120,
                          check=False)
    check(done.returncode == 0, f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


class Disk:
    """An image with a table; self.parts is {number: (offset, length)} as partx sees it."""

    def __init__(self, name=None, script=None, sector=512, size=SIZE):
        if not all(map(shutil.which, ("sfdisk", "fdisk", "sgdisk", "partx"))):
            raise Skip("needs sfdisk, fdisk, sgdisk and partx")
        if name:
            sector, script = TABLES[name]
        self.directory = tempfile.TemporaryDirectory(prefix="hawser-partitions-")
        self.path = os.path.join(self.directory.name, "disk.img")
        self.sector = sector
        with open(self.path, "wb") as out:
            out.truncate(size)
        if script and script.startswith("label:"):
            self.sfdisk(script)
        elif script:
            tool("fdisk", "-b", str(sector), self.path, text=script)
        self.look()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.directory.cleanup()

    def sfdisk(self, script, *options):
        tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never",
             *options, self.path, text=script)

    def look(self):
        rows = subprocess.run(
            ("partx", "--raw", "--noheadings", "--output", "NR,START,SECTORS,TYPE",
             f"--sector-size={self.sector}", self.path), capture_output=True, text=True,
            check=False, timeout=60).stdout
        self.parts = {}
        for row in rows.splitlines():
            number, start, sectors, kind = row.split()
            if kind not in ("0x5", "0xf", "0x85"):  # 1 KiB of each, for the kernel's sake
                # partx counts in 512 whatever the sector is.
                self.parts[int(number)] = (int(start) * 512, int(sectors) * 512)

    def mark(self):
        """The first and the last bytes of each partition tell its number."""
        with open(self.path, "r+b") as disk:
            for number, (offset, length) in self.parts.items():
                for at in (offset, offset + length - 16):
                    disk.seek(at)
                    disk.write(f"<{number:^14}>".encode())

    def bytes(self, offset=0, length=-1):
        with open(self.path, "rb") as disk:
            disk.seek(offset)
            return disk.read(length)

    def put(self, offset, data):
        with open(self.path, "r+b") as disk:
            disk.seek(offset)
            disk.write(data)


def see(path, choice, *options, image_format="raw"):
    """(size, first 16 bytes, last 16 bytes, what was said) of -P choice."""
    with Server("-r", "-P", str(choice), *options, image=path,
                defaults=("-t", "-f", image_format)) as server:
        client = server.client()
        size = client.export.size
        answer = (size, client.data(0, 16), client.data(size - 16, 16), server.stderr())
        check(client.read(size - 8, 16).error == EINVAL, "a read leaves the window")
        client.disc()
    return answer


def check_parts(disk, path=None, image_format="raw", options=(), numbers=None):
    for number in numbers or disk.parts:
        length = disk.parts[number][1]
        mark = f"<{number:^14}>".encode()
        size, first, last, _ = see(path or disk.path, number, *options, image_format=image_format)
        check(size == length, f"-P {number}: {size} bytes instead of {length}")
        check(first == mark and last == mark, f"-P {number}: {first} ... {last}")


def refused(disk, choice, *words, options=()):
    done = subprocess.run([program(), "-f", "raw", "-k", disk.path + ".socket", *options, "-P",
                           str(choice), disk.path], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, check=False)
    check(done.returncode == 1, f"-P {choice}: {done}")
    for word in words:
        check(word in done.stderr, f"-P {choice}: '{done.stderr}' without '{word}'")
    check(not os.path.exists(disk.path + ".socket"), "a socket is left")


NO_ENTRY = "No such file or directory"


def test_every_partition():
    """Each table, each partition: place and size are partx's."""
    for name in TABLES:
        with Disk(name) as disk:
            check(len(disk.parts) >= 2, f"{name}: partx sees {disk.parts}")
            disk.mark()
            if name == "mbr-large-sectors":
                continue  # below: an MBR does not tell
            check_parts(disk, numbers=[min(disk.parts), max(disk.parts)])
            refused(disk, 129, f"Could not find partition 129: {NO_ENTRY}")


def test_all_numbers():
    """No number between is mistaken for its neighbour."""
    for name in ("mbr-logical", "gpt"):
        with Disk(name) as disk:
            disk.mark()
            check_parts(disk)
            for number in set(range(1, max(disk.parts) + 3)) - set(disk.parts):
                refused(disk, number, f"partition {number}: ")


def test_logical_out_of_order():
    """The chain need not be in the order of the disk: numbers follow the chain."""
    with Disk("mbr-logical") as disk:
        tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--delete", disk.path, "6")
        disk.sfdisk("start=18432,size=1024,type=83\n", "--append")
        disk.look()
        offsets = [disk.parts[n][0] for n in sorted(disk.parts) if n > 4]
        check(offsets != sorted(offsets), f"in order: {offsets}")
        disk.mark()
        check_parts(disk)


def test_sgdisk():
    """Tables of sgdisk: larger ones, names, UUIDs, hybrid and without any entry."""
    with Disk(size=SIZE) as disk:
        uuid = "01234567-89AB-cdef-0123-456789abcdef"
        tool("sgdisk", "--resize-table=512", "--new=300:2048:+1M", "--change-name=300:wörld 🙂",
             f"--partition-guid=300:{uuid}", "--new=2:8192:+2M", "--new=511:20480:+1M",
             "--change-name=2:same", "--change-name=511:same", disk.path)
        disk.look()
        check(set(disk.parts) == {2, 300, 511}, f"{disk.parts}")
        disk.mark()
        check_parts(disk)
        for choice in ("label=wörld 🙂", f"uuid={uuid}", f"sector=512,uuid={uuid.upper()}"):
            check(see(disk.path, choice)[1] == f"<{300:^14}>".encode(), choice)
        refused(disk, "label=same", "partitions 2 and 511 are both called so")
        refused(disk, "label=wörld", NO_ENTRY)
        refused(disk, "uuid=" + uuid.replace("0", "1"), NO_ENTRY)
        refused(disk, "sector=4096,2", "the GPT is damaged")
        tool("sgdisk", "--hybrid=2", disk.path)
        check_parts(disk)
    with Disk(script="label: gpt\n") as disk:
        refused(disk, 1, f"Could not find partition 1: {NO_ENTRY}")


def test_mbr_uuid():
    """The kernel's PARTUUID of an MBR: signature and number; an MBR has no labels."""
    with Disk(script="label: dos\nlabel-id: 0x1234abcd\nsize=4M\nstart=10240,size=8M,type=5\n"
              "start=12288,size=2M\n") as disk:
        disk.mark()
        check(see(disk.path, "uuid=1234ABCD-01")[1] == f"<{1:^14}>".encode(), "first")
        check(see(disk.path, "uuid=1234abcd-05")[1] == f"<{5:^14}>".encode(), "fifth")
        for uuid in ("1234abcd-03", "1234abcd-", "1234abcd", "1234abce-01", "1234abcd-1x", "-01",
                     "1234abcd-+1", "1234abcd-00", "1234abcd-10005"):
            refused(disk, f"uuid={uuid}", NO_ENTRY)
        refused(disk, "label=x", "in a GPT only")
        refused(disk, 2, "extended partition, which only holds others")


def test_large_sectors():
    """4096: found by what stands where in an MBR, and told; the user has the last word."""
    with Disk("mbr-large-sectors") as disk:
        disk.mark()
        check_parts(disk)  # the chain of logical partitions tells
        said = see(disk.path, 5)[3]
        check("warning" in said and "sector=512" in said, f"{said}")
        for number in disk.parts:
            check(see(disk.path, f"sector=4096,{number}")[1] == f"<{number:^14}>".encode(),
                  f"{number}")
        refused(disk, "sector=512,5", NO_ENTRY)
        disk.put(446 + 16, mbr_entry(0x83, 0, 0))
        check(see(disk.path, 1)[0] == disk.parts[1][1] // 8, "nothing tells: 512")
        disk.put(disk.parts[1][0] + 1080, b"\x53\xef")  # as ext4 begins
        check_parts(disk, numbers=[1])
        check(see(disk.path, "sector=512,1")[0] == disk.parts[1][1] // 8, "the user's word")
        disk.put(disk.parts[1][0] // 8 + 510, b"\x55\xaa")
        check(see(disk.path, 1)[0] == disk.parts[1][1] // 8, "both tell: 512")


def test_writes_stay_inside():
    """Filling a partition, and more than it, changes nothing around it; in qcow2 as well."""
    for name, number in (("mbr-logical", 6), ("gpt", 7), ("mbr", 4)):
        with Disk(name) as disk:
            offset, length = disk.parts[number]
            before = disk.bytes()
            qcow2 = disk.path + ".qcow2"
            tool("qemu-img", "convert", "-O", "qcow2", disk.path, qcow2)
            for path, image_format in ((disk.path, "raw"), (qcow2, "qcow2")):
                with Server("-P", str(number), image=path,
                            defaults=("-t", "-f", image_format)) as server:
                    client = server.client()
                    check(client.export.size == length, f"{client.export.size}")
                    step = min(length, MIB)
                    for at in range(0, length, step):
                        data = b"w" * min(step, length - at)
                        check(not client.write(at, data).error, f"write at {at}")
                    for at, count in ((length - 8, 16), (length, 1), ((1 << 64) - offset, 16)):
                        check(client.write(at, b"X" * count).error in (ENOSPC, EINVAL), f"{at}")
                        check(client.trim(at, count).error, f"trim {at}")
                        check(client.zero(at, count).error, f"zero {at}")
                    client.flush()
                    client.disc()
            tool("qemu-img", "convert", "-O", "raw", qcow2, qcow2 + ".raw")
            for path in (disk.path, qcow2 + ".raw"):
                with open(path, "rb") as file:
                    after = file.read()
                check(after[:offset] == before[:offset], f"{path}: changed before")
                check(after[offset:offset + length] == b"w" * length, f"{path}: not written")
                check(after[offset + length:] == before[offset + length:], f"{path}: after")


def test_image_that_grows_and_shrinks():
    """The window does not follow an image that grows; new clients of one that shrank see less."""
    with Disk("gpt") as disk:
        offset, length = disk.parts[20]
        with Server("-P", "20", image=disk.path) as server:
            os.truncate(disk.path, 2 * SIZE)
            with server.client() as client:
                check(client.export.size == length, f"{client.export.size}")
            os.truncate(disk.path, offset + 4096)
            with server.client() as client:
                check(client.export.size in (length, 4096), f"{client.export.size}")
                check(client.read(8192, 16).error, "bytes behind the end")


def repaired(disk):
    """As sgdisk judges: nothing of ours went into the table."""
    return "No problems found" in subprocess.run(("sgdisk", "-v", disk.path), text=True,
                                                 capture_output=True, check=False).stdout


def test_damaged_gpt():
    """A byte of the primary table is wrong: the backup serves, with a warning; both: refused."""
    for name in ("gpt", "gpt-large-sectors"):
        for at in (0, 8, 16, 24, 40, 72, 80, 84, 88, "entries"):
            with Disk(name) as disk:
                disk.mark()
                place = disk.sector + at if at != "entries" else 2 * disk.sector + 40
                byte = disk.bytes(place, 1)[0]
                disk.put(place, bytes([byte ^ 0x20]))
                said = see(disk.path, 2)[3]
                check("the GPT is damaged" in said and "backup" in said, f"{at}: {said}")
                check_parts(disk, numbers=[1, 2])
                if name == "gpt":
                    check(not repaired(disk), "the damage is none")
                disk.put(SIZE - disk.sector + 16, b"\xff\xff\xff\xff")
                refused(disk, 2, "the GPT is damaged (primary: ", "backup: wrong checksum")


def test_backup_is_where_the_primary_says():
    """The disk was made larger, so the backup is in its middle; the primary's entries broke."""
    with Disk("gpt") as disk:
        disk.mark()
        os.truncate(disk.path, 2 * SIZE)
        check_parts(disk, numbers=[3])
        disk.put(2 * 512 + 40, b"\xee")
        check_parts(disk, numbers=[3])
        check("wrong checksum of entries" in see(disk.path, 3)[3], "warning")
        disk.put(SIZE - 512 + 20, b"\xee")  # the backup, too
        refused(disk, 3, "the GPT is damaged")


def sign(disk, header_at=512, **fields):
    """Changes fields of a GPT header and makes both checksums right: a table that lies."""
    header = bytearray(disk.bytes(header_at, 512))
    places = {"size": ("<I", 12), "at": ("<Q", 24), "alternate": ("<Q", 32), "first": ("<Q", 40),
              "last": ("<Q", 48), "entries": ("<Q", 72), "count": ("<I", 80), "each": ("<I", 84)}
    for name, value in fields.items():
        struct.pack_into(places[name][0], header, places[name][1], value)
    start, = struct.unpack_from("<Q", header, 72)
    count, each = struct.unpack_from("<II", header, 80)
    entries = disk.bytes(start * 512, count * each) if 0 < start * 512 + count * each <= SIZE else b""
    struct.pack_into("<I", header, 88, zlib.crc32(entries))
    size, = struct.unpack_from("<I", header, 12)
    struct.pack_into("<I", header, 16, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(bytes(header[:size])))
    disk.put(header_at, bytes(header))


def test_gpt_that_lies():
    """Headers with right checksums and wrong facts are as bad as damaged ones."""
    end = SIZE // 512
    for fields in ({"size": 91}, {"size": 513}, {"size": 0}, {"at": 2}, {"at": 0}, {"last": end},
                   {"last": (1 << 64) - 1}, {"first": end - 100, "last": 90}, {"first": 1},
                   {"first": 0}, {"first": 20}, {"entries": end - 1}, {"entries": end},
                   {"entries": (1 << 64) - 1}, {"entries": 1}, {"entries": 0}, {"entries": 4096},
                   {"entries": 1 << 55}, {"count": 0}, {"count": (1 << 32) - 1},
                   {"count": 32769}, {"each": 0}, {"each": 127}, {"each": 129}, {"each": 64},
                   {"each": 8192}, {"each": 1 << 31}, {"each": (1 << 32) - 1}):
        with Disk("gpt") as disk:
            disk.mark()
            sign(disk, **fields)
            check("the GPT is damaged" in see(disk.path, 2)[3], f"{fields}: no warning")


def set_entry(disk, number, first, last):
    disk.put(2 * 512 + 128 * (number - 1) + 32, struct.pack("<QQ", first, last))
    sign(disk)


def test_gpt_entries_that_lie():
    """Entries outside the disk or the table's own bounds, ends before beginnings, neighbours that
    share bytes: refused where they matter."""
    top = (1 << 64) - 1
    for first, last, words in (
            (100, 99, "ends before it begins"), (top, top, "behind all disks"),
            (0, top - 1, "behind all disks"), (1 << 55, (1 << 55) + 1, "behind all disks"),
            (2048, SIZE // 512, "exceeds file length"), (1, 2047, "outside the sectors"),
            (2048, SIZE // 512 - 1, "outside the sectors"), (0, 5, "outside the sectors")):
        with Disk("gpt") as disk:
            set_entry(disk, 1, first, last)
            refused(disk, 1, words)
            refused(disk, 1, words, options=["-r"])
            disk.mark()
            check(see(disk.path, 2)[0] == MIB, "another partition is harmed")
    with Disk("gpt") as disk:
        set_entry(disk, 1, 2048, 5000)  # reaches into the second
        for number, other in ((1, 2), (2, 1)):
            refused(disk, number, f"it shares bytes with partition {other}", "--read-only")
            check(see(disk.path, number)[0] > 0, "to be read only")
        with Server("-P", "3", image=disk.path) as server:
            server.good()
    with Disk("gpt") as disk:  # the copy of the table lies inside the partition
        os.truncate(disk.path, 2 * SIZE)
        sign(disk, last=2 * SIZE // 512 - 34)
        set_entry(disk, 20, SIZE // 512 - 100, SIZE // 512 + 100)
        refused(disk, 20, "shares bytes with a copy of the partition table")


def mbr_entry(kind, start, count):
    return struct.pack("<B3xB3xII", 0, kind, start, count)


def record(*entries):
    return b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def test_mbr_that_lies():
    """Partitions outside the disk, at the table itself, or over each other."""
    end = SIZE // 512
    with Disk() as disk:
        refused(disk, 1, "there is no partition table")
        disk.put(446, record(mbr_entry(0x83, 2048, end), mbr_entry(0x83, 0, 4000),
                             mbr_entry(0x83, 3000, 5000), mbr_entry(0x83, 0xffffffff, 0xffffffff)))
        for number in (1, 4):
            refused(disk, number, f"Discovered partition {number} at offset ",
                    f"exceeds file length {SIZE}")
        refused(disk, 2, "shares bytes with the partition table")
        refused(disk, 3, "shares bytes with partition 1")
        check(see(disk.path, 2)[0] == 4000 * 512, "a hybrid CD image, read")
        disk.put(446, b"\x01")
        refused(disk, 3, "there is no partition table")
    with Disk(size=100) as disk:
        refused(disk, 1, "there is no partition table")
    with Disk(size=512) as disk:
        disk.put(446, record(mbr_entry(0xee, 1, 1)))
        refused(disk, 1, "the GPT is damaged")
    for size in (513, 1024, 1536, 4096, 8192, 8193):
        with Disk(size=size) as disk:
            disk.put(446, record(mbr_entry(0xee, 1, 1)))
            disk.put(512, b"EFI PART"[:size - 512])
            refused(disk, 1, "the GPT is damaged")


def test_chain_that_lies():
    """Circles and exits in the chain of logical partitions; a partition that leaves it."""
    def chain(*records):
        """records: (place, data entry, link) in sectors of the extended partition at 2048."""
        disk = Disk()
        disk.put(446, record(mbr_entry(0x83, 64, 64), mbr_entry(5, 2048, 20000)))
        for place, data, link in records:
            disk.put((2048 + place) * 512 + 446, record(
                mbr_entry(0x83, *data) if data else mbr_entry(0, 0, 0),
                mbr_entry(5, link, 100) if link is not None else b""))
        return disk

    def first_is_served(disk):
        check(see(disk.path, 1)[0] == 64 * 512, "the first partition")

    data = (10, 20)
    for records, choice, words in (
            ([(0, data, 0)], 5, "runs in a circle"),
            ([(0, data, 0)], 6, "runs in a circle"),
            ([(0, data, 100), (100, data, 0)], 5, "runs in a circle"),
            ([(0, data, 100), (100, None, 200), (200, None, 100)], 5, "runs in a circle"),
            ([(0, data, 20000)], 5, "leaves its extended partition"),
            ([(0, data, 0xffffffff)], 5, "leaves its extended partition"),
            ([(0, (10, 20000), None)], 5, "reaches out of its extended partition"),
            ([(0, (0xffffffff, 1), None)], 5, "reaches out of its extended partition"),
            ([(0, data, 15), (15, data, None)], 5, "the table of the logical partitions"),
            ([(0, (10, 200), 100), (100, data, None)], 5, "shares bytes with"),
            ([(0, (0, 20), None)], 5, "the table of the logical partitions"),
            ([(0, data, 100)], 6, NO_ENTRY)):
        with chain(*records) as disk:
            refused(disk, choice, words)
            first_is_served(disk)
    with chain((0, data, None)) as disk:
        disk.put(462, mbr_entry(5, SIZE // 512, 20000))
        refused(disk, 5, "behind the end of the disk")
        first_is_served(disk)
    long = [(2 * n, (1, 1), 2 * n + 2) for n in range(2000)]
    with chain(*long) as disk:
        refused(disk, 5, "more than 1024 links")
        first_is_served(disk)


def test_words():
    """Words that are no choice, and choices that exclude each other."""
    with Disk("mbr") as disk:
        for choice in ("x", "", "1k", "-1", "1 ", "label=", "uuid=", "sector=512", "sector=1,1",
                       "sector=512,", "sector=4096,x", "4294967296"):
            refused(disk, choice, f"Invalid partition `{choice}'")
        refused(disk, 0, "Invalid partition 0")
        refused(disk, 1, "Cannot request partition and offset together", options=["-o", "512"])
        check(see(disk.path, "0x2")[0] == 3 * MIB, "0x2")


main(globals())
