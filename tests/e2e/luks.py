#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
LUKS images of QEMU and of cryptsetup, read and written through the server and by QEMU in turns;
passphrases in all forms; headers and files that are broken.
"""

import base64
import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import (MIB, Server, Skip, check, content_of, main, program,  # noqa: E402
                     qemu_creates)
from nbdraw import Dropped, ENOTSUP, FAST_ZERO, NO_HOLE, Violation, WRITE  # noqa: E402
from qcow2disk import SCRATCH, tool  # noqa: E402

PASSPHRASE = "correct horse, battery"
SECRET = ("--object", "secret,id=s,data=" + PASSPHRASE.replace(",", ",,"))
KEEPING = ("-t", "-e", "0", *SECRET, "--key-secret=s")
SIZE = 4 * MIB
AT_VERSION, AT_PAYLOAD, AT_SLOTS, SLOT = 6, 104, 208, 48

# Of what qemu-img create can make with AES, each mode, vector and key length (AES-192 in other
# modes than XTS ends in an assertion of QEMU 7.2).
MODES = [("aes-256", "xts", "plain64"), ("aes-128", "xts", "plain"), ("aes-192", "xts", "plain64"),
         ("aes-256", "xts", "essiv"), ("aes-256", "cbc", "essiv"), ("aes-128", "cbc", "plain64"),
         ("aes-256", "cbc", "plain"), ("aes-128", "ctr", "plain64"), ("aes-256", "ctr", "essiv"),
         ("aes-256", "ecb", "plain64")]
HASHES = ("sha256", "sha1", "sha512", "md5", "sha224", "sha384", "ripemd160")


class Folder:
    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="hawser-luks-", dir=SCRATCH)
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def create(path, options="", size=SIZE):
    qemu_creates("-f", "luks", *SECRET, "-o", "key-secret=s,iter-time=10" + options, path,
                 str(size))
    return path


def node(path):
    return "driver=luks,key-secret=s,file.filename=" + path


def qemu_io(path, *commands):
    out = tool("qemu-io", *SECRET, "--image-opts", *(word for line in commands
                                                    for word in ("-c", line)), node(path))
    check("failed" not in out and "rror" not in out, out)


def content(path, folder):
    """What QEMU reads."""
    raw = os.path.join(folder, "content")
    tool("qemu-img", "convert", *SECRET, "--image-opts", "-O", "raw", node(path), raw)
    with open(raw, "rb") as file:
        return file.read()


def in_turns(path, folder, seed, size=SIZE):
    """QEMU fills it, the server changes it, QEMU reads it, and the other way round."""
    chance = random.Random(seed)
    qemu_io(path, f"write -P 0x11 0 {size}", "write -P 0x5a 1M 300k", "write -P 0x77 3M 5k")
    model = bytearray(b"\x11" * size)
    model[MIB:MIB + 307200] = b"\x5a" * 307200
    model[3 * MIB:3 * MIB + 5120] = b"\x77" * 5120
    with Server(image=path, defaults=KEEPING) as server:
        with server.client() as client:
            check(client.data(0, size) == model, "what QEMU wrote")
            for _ in range(40):
                length = chance.choice((1, 511, 512, 4096, 65536, chance.randrange(1, 400000)))
                offset = chance.randrange(0, size - length)
                if chance.random() < 0.5:
                    offset = offset // 512 * 512
                data = chance.randbytes(length) if chance.random() < 0.8 else bytes(length)
                done = client.write(offset, data) if any(data) else client.zero(offset, length)
                check(not done.error, f"{done}")
                model[offset:offset + length] = data
                check(client.data(offset, length) == data, "read back")
            check(client.data(0, size) == model, "all of it")
            client.disc()
    check(content(path, folder) == model, "what QEMU reads")


def modes(part, parts):
    for number, (cipher, mode, vector) in enumerate(MODES):
        if number % parts != part:
            continue
        hashed = HASHES[number % len(HASHES)]
        options = f",cipher-alg={cipher},cipher-mode={mode},ivgen-alg={vector},hash-alg={hashed}"
        if vector == "essiv":
            options += ",ivgen-hash-alg=sha256"
        with Folder() as folder:
            in_turns(create(folder + "/image", options), folder, number)


def test_modes_of_qemu_1():
    """All that qemu-img can make with AES, first part."""
    modes(0, 2)


def test_modes_of_qemu_2():
    """All that qemu-img can make with AES, second part."""
    modes(1, 2)


def cryptsetup(path, *options, size=SIZE + 2 * MIB):
    if not shutil.which("cryptsetup"):
        raise Skip("cryptsetup is not installed")
    with open(path, "wb") as file:
        file.truncate(size)
    done = subprocess.run(["cryptsetup", "luksFormat", "--batch-mode", "--key-file", "-",
                           "--pbkdf-force-iterations", "1000", *options, path],
                          input=PASSPHRASE, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"cryptsetup {options}: {done.stderr}")
    return path


def add_slot(path, file):
    """One more key slot, for the passphrase "other", which is left in the file."""
    with open(file, "w", encoding="utf-8") as other:
        other.write("other")
    subprocess.run(["cryptsetup", "luksAddKey", "--batch-mode", "--key-file", "-",
                    "--pbkdf-force-iterations", "1000", path, file], input=PASSPHRASE, text=True,
                   check=True)


def test_cryptsetup():
    """Images of cryptsetup, with two key slots, of which the second fits."""
    for options in (("-c", "aes-xts-plain64", "-s", "512", "-h", "sha256"),
                    ("-c", "aes-xts-plain64", "-s", "256", "-h", "sha512"),
                    ("-c", "aes-cbc-essiv:sha256", "-s", "256", "-h", "sha1"),
                    ("-c", "aes-cbc-plain", "-s", "128", "-h", "ripemd160")):
        with Folder() as folder:
            path = cryptsetup(folder + "/image", "--type", "luks1", *options)
            with open(path, "rb") as image:
                image.seek(AT_PAYLOAD)
                size = os.path.getsize(path) - 512 * int.from_bytes(image.read(4), "big")
            in_turns(path, folder, str(options), size)
            add_slot(path, folder + "/other")
            with Server(image=path, defaults=("-t", "--object", "secret,id=o,data=other",
                                              "--key-secret=o")) as server:
                with server.client() as client:
                    check(len(client.data(0, MIB)) == MIB, "read by the other key")
                    client.disc()


def test_ecb_without_vector():
    """aes-ecb, which QEMU does not read: written and read back, nothing is in the clear."""
    with Folder() as folder:
        path = cryptsetup(folder + "/image", "--type", "luks1", "-c", "aes-ecb", "-s", "256")
        for _ in range(2):
            with Server(image=path, defaults=KEEPING) as server:
                with server.client() as client:
                    check(not client.write(4096, b"in the clear" * 512).error, "write")
                    check(client.data(4096, 6144) == b"in the clear" * 512, "read")
                    client.disc()
        with open(path, "rb") as image:
            check(b"in the clear" not in image.read(), "the file")


# ---- Passphrases ----


def start(*options, status=1):
    done = subprocess.run([program(), "--run", 'nbdinfo --size "$uri"', *options],
                          capture_output=True, text=True, timeout=120, check=False)
    check(done.returncode == status, f"{options}: status {done.returncode}: {done.stderr}")
    return done.stdout.strip() if status == 0 else done.stderr


def qemu_refuses(*options):
    """The sentence of qemu-nbd, behind what it and its warnings put before it."""
    done = subprocess.run(["qemu-nbd", *options], capture_output=True, text=True, timeout=60,
                          check=False)
    check(done.returncode == 1, f"qemu-nbd {options}: {done.returncode}")
    said = done.stderr.strip().splitlines()[-1]
    return said.split("': ", 1)[-1].removeprefix("qemu-nbd: ")


def seal(key, vector):
    """The passphrase, encrypted by another secret; base64."""
    return subprocess.run(["openssl", "enc", "-aes-256-cbc", "-a", "-A", "-K", key.hex(), "-iv",
                           vector.hex()], input=PASSPHRASE, capture_output=True, text=True,
                          check=True).stdout


def test_secrets():
    """The passphrase as text, file, base64, encrypted by another secret; as qemu-nbd takes it."""
    with Folder() as folder:
        path = create(folder + "/image")
        coded = base64.b64encode(PASSPHRASE.encode()).decode()
        key, vector = os.urandom(32), os.urandom(16)
        for name, data in (("plain", PASSPHRASE.encode()), ("coded", coded.encode()), ("key", key)):
            with open(f"{folder}/{name}", "wb") as file:
                file.write(data)
        sealed = seal(key, vector)
        iv = base64.b64encode(vector).decode()
        for objects in ((f"secret,id=s,file={folder}/plain",),
                        (f"secret,id=s,format=base64,data={coded}",),
                        (f"secret,id=s,format=base64,file={folder}/coded",),
                        (f"secret,id=m,file={folder}/key",
                         f"secret,id=s,keyid=m,iv={iv},format=base64,data={sealed}")):
            words = [word for text in objects for word in ("--object", text)]
            check(start(*words, "--key-secret=s", path, status=0) == str(SIZE), f"{words}")
            tool("qemu-img", "info", *words, "--image-opts", node(path))


ADD_KEY = {"x86_64": 248, "aarch64": 217}.get(os.uname().machine)
KEYCTL = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
KEYCTL_REVOKE, THEIR_SESSION = 3, -3


def add_key(name, data):
    """A key in the keyring of this session, which programs that we start see, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    serial = libc.syscall(ADD_KEY or -1, b"user", name.encode(), data, len(data), THEIR_SESSION)
    if serial < 0:
        raise Skip(f"no key can be added: {os.strerror(ctypes.get_errno())}")
    return serial


def test_keyring():
    """The passphrase in the kernel's keyring, as it is, as base64 and encrypted; as qemu-nbd takes
    it. One that has been revoked is told from one that never was."""
    with Folder() as folder:
        path = create(folder + "/image")
        key, vector = os.urandom(32), os.urandom(16)
        keys = {name: add_key(f"hawser-{os.getpid()}-{name}", data) for name, data in (
            ("plain", PASSPHRASE.encode()), ("key", key), ("sealed", seal(key, vector).encode()),
            ("coded", base64.b64encode(PASSPHRASE.encode())))}
        iv = base64.b64encode(vector).decode()
        for objects in ((f"secret_keyring,id=s,serial={keys['plain']}",),
                        (f"secret_keyring,id=s,serial={keys['plain']:#x}",),
                        (f"secret_keyring,id=s,format=base64,serial={keys['coded']}",),
                        (f"secret_keyring,id=m,serial={keys['key']}",
                         f"secret_keyring,id=s,keyid=m,iv={iv},format=base64,"
                         f"serial={keys['sealed']}")):
            words = [word for text in objects for word in ("--object", text)]
            check(start(*words, "--key-secret=s", path, status=0) == str(SIZE), f"{words}")
            tool("qemu-img", "info", *words, "--image-opts", node(path))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(KEYCTL, KEYCTL_REVOKE, keys["plain"])
        said = start("--object", f"secret_keyring,id=s,serial={keys['plain']}", path)
        check("Key has been revoked" in said, said)


def test_wrong_passphrases():
    """No key, a wrong one, no such object: the words of qemu-nbd, the way out, no secret."""
    with Folder() as folder:
        path = create(folder + "/image")
        wrong = ("--object", "secret,id=s,data=other words")
        for ours, theirs in (((path,), ("-f", "luks", path)),
                             ((*SECRET, path), (*SECRET, "-f", "luks", path)),
                             ((*wrong, "--key-secret=s", path),
                              (*wrong, "--image-opts", node(path))),
                             ((*SECRET, "--key-secret=t", path),
                              (*SECRET, "--image-opts", node(path).replace("=s", "=t"))),
                             (("--object", "iothread,id=s", "--key-secret=s", path),
                              ("--object", "iothread,id=s", "--image-opts", node(path)))):
            said, known = start(*ours), qemu_refuses(*theirs)
            check(known in said, f"{known!r} is not in {said!r}")
            check("other words" not in said and PASSPHRASE not in said, said)
        check("--key-secret=ID" in start(path), "says what to do")


def test_secret_refusals():
    """Secrets that cannot be: the sentences of qemu-nbd."""
    master = "secret,id=m,format=base64,data=" + base64.b64encode(bytes(32)).decode()
    iv = base64.b64encode(bytes(16)).decode()
    for objects in (("secret,id=s",), ("secret,id=s,data=a,file=b",),
                    ("secret,id=s,data=!,format=base64",), ("secret,id=s,data=a,keyid=x",),
                    ("secret,id=m,data=a", "secret,id=s,data=a,keyid=m"),
                    (master, "secret,id=s,data=a,keyid=m"),
                    (master, "secret,id=s,data=a,keyid=m,iv=AAAA"),
                    (master, f"secret,id=s,data=a,keyid=m,iv={iv}"),
                    (master, f"secret,id=s,format=base64,keyid=m,iv={iv},data={iv}"),
                    ("iothread,id=i", "secret,id=s,data=a,keyid=i"),
                    ("secret_keyring,id=k",), ("secret_keyring,id=k,serial=x",),
                    ("secret_keyring,id=k,serial=77",)):
        words = [word for text in objects for word in ("--object", text)]
        known, said = qemu_refuses(*words, "/nowhere"), start(*words, "/nowhere")
        check(known in said, f"{known!r} is not in {said!r}")


# ---- What is refused ----


def test_other_ciphers():
    """Serpent, Twofish, CAST5, LUKS 2: refused by name."""
    with Folder() as folder:
        for name, mode in (("serpent-256", "xts"), ("twofish-256", "cbc"), ("cast5-128", "cbc")):
            path = create(folder + "/" + name, f",cipher-alg={name},cipher-mode={mode}")
            said = start(*SECRET, "--key-secret=s", path)
            check(f"the cipher '{name.split('-')[0]}' is not supported" in said, said)
        path = cryptsetup(folder + "/two", "--type", "luks2", "--pbkdf", "pbkdf2", size=24 * MIB)
        said = start(*SECRET, "--key-secret=s", path)
        check("LUKS version 2" in said and "cryptsetup convert --type luks1" in said, said)
        path = cryptsetup(folder + "/null", "--type", "luks1", "-c", "aes-cbc-null", "-s", "256")
        check("'aes-cbc-null' is not supported" in start(*SECRET, "--key-secret=s", path), "null")


def edited(path, offset, data):
    copy = path + ".edited"
    shutil.copyfile(path, copy)
    with open(copy, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return copy


def test_broken_headers():
    """A header that lies: refused with what is wrong, at once."""
    largest = b"\xff\xff\xff\xff"
    with Folder() as folder:
        path = create(folder + "/image")
        for offset, data, text in (
                (AT_VERSION, b"\0\x03", "LUKS version 3"),
                (8, b"a" * 32, "its cipher is no name"), (40, b"\x1b[31m", "its cipher mode is"),
                (72, b"sha9\0", "the hash 'sha9'"), (108, largest, "does not go with a key"),
                (108, bytes(4), "does not go with a key"), (164, bytes(4), "has no rounds"),
                (164, largest, "rounds of PBKDF2"), (AT_SLOTS, largest, "neither in use nor free"),
                (AT_SLOTS + 4, largest, "rounds of PBKDF2"), (AT_SLOTS + 4, bytes(4), "no rounds"),
                (AT_SLOTS + 40, bytes(4), "lies in the header"),
                (AT_SLOTS + 40, largest, "Keyslot 0 is overlapping with the encrypted payload"),
                (AT_SLOTS + 44, largest, "stripes"), (AT_SLOTS + 44, bytes(4), "stripes"),
                (AT_PAYLOAD, largest, "truncated"), (AT_PAYLOAD, bytes(4), "detached headers"),
                (112, bytes(20), "Invalid password"), (AT_SLOTS + 8, bytes(32), "Invalid password"),
                (4096, bytes(512), "Invalid password")):
            said = start(*SECRET, "--key-secret=s", edited(path, offset, data))
            check(text in said, f"{data!r} at {offset}: {said}")


def test_costly_slots():
    """A key slot that would take very long keeps nobody from another one; the bound is each one's."""
    with Folder() as folder:
        path = cryptsetup(folder + "/image", "--type", "luks1")
        add_slot(path, folder + "/other")
        copy = edited(path, AT_SLOTS + 4, b"\x7f\xff\xff\xff")
        other = ("--object", "secret,id=o,data=other", "--key-secret=o")
        start(*other, copy, status=0)
        said = start(*SECRET, "--key-secret=s", copy)
        check("key slot 0 asks for more than" in said, said)


def test_overlaps():
    """Data that lie on the header or on key slots, in use or free, and key slots that lie on each
    other, whose first writer would destroy the keys: refused in the words of qemu-nbd."""
    sector = lambda number: number.to_bytes(4, "big")  # noqa: E731
    with Folder() as folder:
        path = create(folder + "/image")
        with open(path, "rb") as image:
            head = image.read(592)
        slots = [int.from_bytes(head[AT_SLOTS + n * SLOT + 40:][:4], "big") for n in range(8)]
        for offset, data, text in (
                (AT_PAYLOAD, sector(1), "LUKS payload is overlapping with the header"),
                (AT_PAYLOAD, sector(slots[0] + 8), "Keyslot 0 is overlapping"),
                (AT_PAYLOAD, sector(slots[7] + 8), "Keyslot 7 is overlapping"),
                (AT_SLOTS + 40, sector(slots[1] + 8), "Keyslots 0 and 1 are overlapping"),
                (AT_SLOTS + 7 * SLOT + 40, sector(slots[3]), "Keyslots 3 and 7 are overlapping")):
            copy = edited(path, offset, data)
            said, known = start(*SECRET, "--key-secret=s", copy), qemu_refuses(
                *SECRET, "--image-opts", node(copy))
            check(known in said and text in said, f"{known!r} is not in {said!r}")
        for offset, data in ((AT_SLOTS + 5 * SLOT + 40, sector(1)),
                             (AT_SLOTS + 5 * SLOT + 44, bytes(4))):
            check("key slot 5" in start(*SECRET, "--key-secret=s", edited(path, offset, data)),
                  "a free slot")
        path = create_qcow2(folder + "/qcow2")
        with open(path, "rb") as image:
            at = image.read(MIB).index(b"LUKS\xba\xbe")
        start(*SECRET, "--key-secret=s", edited(path, at + AT_PAYLOAD, sector(9)), status=0)
        said = start(*SECRET, "--key-secret=s", edited(path, at + AT_SLOTS + 40, sector(slots[1])))
        check("Keyslots 0 and 1 are overlapping" in said, said)


def test_honest_layouts():
    """Data that begin at once behind the key slots, or far from them; keys of all lengths; slots
    that were filled and emptied."""
    with Folder() as folder:
        for bits in ("128", "192", "256"):
            for align in ("1", "8", "63", "2048", "8192"):
                path = cryptsetup(folder + "/image", "--type", "luks1", "-c", "aes-cbc-plain64",
                                  "-s", bits, "--align-payload", align, size=12 * MIB)
                start(*SECRET, "--key-secret=s", path, status=0)
        add_slot(path, folder + "/other")
        start(*SECRET, "--key-secret=s", path, status=0)
        subprocess.run(["cryptsetup", "luksRemoveKey", "--batch-mode", path, folder + "/other"],
                       check=True)
        start(*SECRET, "--key-secret=s", path, status=0)


def test_truncated():
    """A file that ends in the header, in the key slots, before the data, in a sector."""
    with Folder() as folder:
        path = create(folder + "/image")
        payload = os.path.getsize(path) - SIZE
        for size, text in ((100, "ends inside the LUKS header"), (5000, "truncated"),
                           (payload - 1, "truncated")):
            copy = edited(path, 0, b"LUKS")
            os.truncate(copy, size)
            said = start(*SECRET, "--key-secret=s", "-f", "luks", copy)
            check(text in said, f"{size}: {said}")
        os.truncate(copy := edited(path, 0, b"LUKS"), payload + 3 * MIB + 700)
        check(start(*SECRET, "--key-secret=s", copy, status=0) == str(3 * MIB + 512), "cut")


def test_not_a_luks_image():
    """-f luks on other bytes."""
    with Folder() as folder:
        with open(folder + "/raw", "wb") as file:
            file.write(content_of(MIB))
        said = start(*SECRET, "--key-secret=s", "-f", "luks", folder + "/raw")
        check("Volume is not in LUKS format" in said, said)


# ---- Zeroes, TRIM, other ways to open ----


def test_zeroes_and_trim():
    """Zeroes are encrypted, never fast; TRIM does nothing unless asked for, and then leaves the
    rest alone."""
    with Folder() as folder:
        path = create(folder + "/image")
        with Server(image=path, defaults=KEEPING) as server:
            with server.client() as client:
                client.write(0, content_of(2 * MIB))
                check(client.zero(4096, 65536, FAST_ZERO).error == ENOTSUP, "fast zero")
                check(not client.zero(4097, 65536).error, "zero")
                check(not client.trim(MIB, 4096).error, "trim")
                want = bytearray(content_of(2 * MIB))
                want[4097:4097 + 65536] = bytes(65536)
                check(client.data(0, 2 * MIB) == want, "ignored TRIM")
                client.disc()
        check(content(path, folder)[:2 * MIB] == want, "what QEMU reads")
        with Server(image=path, defaults=KEEPING + ("--discard=unmap",)) as server:
            with server.client() as client:
                check(not client.trim(MIB + 100, 300000).error, "trim")
                got = client.data(0, 2 * MIB)
                client.disc()
        check(got[:MIB + 100] == want[:MIB + 100] and got[MIB + 300100:] == want[MIB + 300100:],
              "TRIM changed its neighbours")


def test_parts_of_one_sector():
    """Writers of parts of one sector, all at once: none of them takes back what another wrote."""
    with Folder() as folder, Server(image=create(folder + "/image"), defaults=KEEPING) as server:
        with server.client() as client:
            for number in range(60):
                data = content_of(512, number)
                sent = [client.request(WRITE, MIB + at, 8, payload=data[at:at + 8])
                        for at in range(0, 512, 8)]
                check(not any(client.wait(cookie).error for cookie in sent), "write")
                check(client.data(MIB, 512) == data, f"round {number}")
            client.disc()


def test_partition_and_auto_read_only():
    """A partition inside, of an image that is open for writing only while somebody writes."""
    entry = bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") * 2
    table = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    with Folder() as folder:
        path = create(folder + "/image")
        for options, offset, data in ((("--auto-read-only",), 0, table),
                                      (("--auto-read-only", "-P", "1"), 700, content_of(5000))):
            with Server(*options, image=path, defaults=KEEPING) as server:
                for _ in range(2):
                    with server.client() as client:
                        check(not client.write(offset, data).error, "write")
                        client.disc()
        got = content(path, folder)  # what nobody has written decrypts to noise
        check(got[:512] == table, "the table, as QEMU reads it")
        check(got[MIB + 700:MIB + 5700] == content_of(5000), "the partition, as QEMU reads it")


def processor_time(pid):
    """Seconds that all threads of a process have computed."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def come_and_go(server, size, rounds=4):
    """Clients, each of which has the image opened for writing and leaves it to the next."""
    for number in range(rounds):
        with server.client() as client:
            client.write(700, content_of(size, number))
            check(client.data(700, size) == content_of(size, number), "read back")
            client.disc()
        time.sleep(0.1)


def costly(path, make):
    """An image of which each unlocking takes about a second: the rounds of one that takes less, more
    often. Makes it, and tells how long it takes."""
    rounds = 1000000
    while True:
        make(path, rounds)
        with Server("-r", image=path, defaults=KEEPING) as server:
            spent = processor_time(server.process.pid)
        if spent > 0.6:
            return spent
        rounds = int(rounds * max(1.2, min(10, 0.9 / max(spent, 0.05))))


def make_luks(path, rounds):
    cryptsetup(path, "--type", "luks1", "-s", "512", "--pbkdf-force-iterations", str(rounds))


def make_chain(path, rounds):
    """qcow2 over qcow2, with headers and key slots of cryptsetup, which lie as QEMU's do."""
    make_luks(path + ".luks", rounds)
    with open(path + ".luks", "rb") as image:
        head = image.read(4040 * 512)
    for name, backing in ((path + ".base", ()), (path, ("-u", "-b", path + ".base", "-F", "qcow2"))):
        create_qcow2(name, backing=backing)
        with open(name, "r+b") as image:
            at = image.read(2 * MIB).index(b"LUKS\xba\xbe")
            image.seek(at)
            image.write(head)


def test_unlocked_once():
    """An image that is opened anew as clients come and go is not unlocked anew: neither at the
    start, where a look tells whether it could be written, nor later, nor are its backing files.
    A busy machine may count too much, but not three times."""
    for make in (make_luks, make_chain):
        with Folder() as folder:
            path = folder + "/image"
            once = costly(path, make)
            for _ in range(3):
                with Server("--auto-read-only", image=path, defaults=KEEPING) as server:
                    starting = processor_time(server.process.pid)
                    come_and_go(server, 5000)
                    serving = processor_time(server.process.pid) - starting
                if starting < 1.6 * once and serving < 0.5 * once:
                    break
            check(starting < 1.6 * once, f"{make.__name__}: {starting} s at the start, not {once}")
            check(serving < 0.5 * once, f"{make.__name__}: {serving} s for clients, {once} s once")


def test_new_keys_while_resting():
    """Keys that others change while nobody is there: a slot of its own more, whose passphrase is
    not ours, and then ours is gone."""
    with Folder() as folder:
        path = cryptsetup(folder + "/image", "--type", "luks1")
        with Server("--auto-read-only", image=path, defaults=KEEPING) as server:
            come_and_go(server, 5000)
            add_slot(path, folder + "/other")
            come_and_go(server, 5000)
            subprocess.run(["cryptsetup", "luksKillSlot", "--batch-mode", "--key-file",
                            folder + "/other", path, "0"], check=True)
            try:
                come_and_go(server, 5000)
            except (Violation, Dropped):
                return
            check(False, "the image is served although the passphrase opens no slot")


def test_direct_and_snapshot():
    """Around the page cache; and -s, after which the image is what it was."""
    with Folder() as folder:
        path = create(folder + "/image")
        with Server("--cache=none", image=path, defaults=KEEPING) as server:
            with server.client() as client:
                for offset, length in ((0, MIB), (777, 12345), (MIB + 512, 70000)):
                    check(not client.write(offset, content_of(length, offset)).error, "write")
                    check(client.data(offset, length) == content_of(length, offset), "read")
                client.disc()
        with open(path, "rb") as image:
            before = image.read()
        with Server("-s", image=path, defaults=KEEPING) as server:
            with server.client() as client:
                client.write(100, b"in the clear" * 1000)
                check(client.data(100, 12000) == b"in the clear" * 1000, "read")
                client.disc()
        with open(path, "rb") as image:
            check(image.read() == before, "-s changed the image")


# ---- qcow2 with LUKS ----


def create_qcow2(path, options="", size=SIZE, backing=(), words=SECRET):
    qemu_creates("-f", "qcow2", *words, *backing, "-o",
                 "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10" + options, path,
                 str(size))
    return path


def node_qcow2(path, more=""):
    return "driver=qcow2,encrypt.key-secret=s,file.filename=" + path + more


def content_qcow2(path, folder, more="", words=SECRET):
    raw = os.path.join(folder, "content")
    tool("qemu-img", "convert", *words, "--image-opts", "-O", "raw", node_qcow2(path, more), raw)
    with open(raw, "rb") as file:
        return file.read()


def check_qcow2(path, more=""):
    tool("qemu-img", "check", "-q", *SECRET, "--image-opts", node_qcow2(path, more))


def play(client, model, chance, rounds=60):
    """Random requests, on both."""
    size = len(model)
    for _ in range(rounds):
        length = chance.choice((1, 511, 512, 4096, 65536, chance.randrange(1, 400000)))
        offset = chance.randrange(0, size - length)
        if chance.random() < 0.5:
            offset = offset // 512 * 512
        data = chance.randbytes(length) if chance.random() < 0.7 else bytes(length)
        done = client.write(offset, data) if any(data) else client.zero(offset, length)
        check(not done.error, f"{done}")
        model[offset:offset + length] = data
        check(client.data(offset, length) == data, f"{length} at {offset}")
    check(client.data(0, size) == model, "all of it")


def qcow2_in_turns(path, folder, seed, before=None):
    """Ours and QEMU's writes in turns; both read the same, and the tables are sound."""
    chance = random.Random(seed)
    model = bytearray(before or bytes(SIZE))
    for discard in ("--discard=unmap", "--discard=ignore"):
        with Server(discard, image=path, defaults=KEEPING) as server:
            with server.client() as client:
                check(client.data(0, SIZE) == model, "at the start")
                play(client, model, chance)
                client.disc()
        check_qcow2(path)
        check(content_qcow2(path, folder) == model, "what QEMU reads")
        lines = []
        for _ in range(5):
            offset, byte = chance.randrange(0, SIZE - 300000) // 512 * 512, chance.randrange(1, 255)
            length = chance.choice((512, 65536, 262144))
            lines += ["-c", f"write -P {byte} {offset} {length}"]
            model[offset:offset + length] = bytes([byte]) * length
        tool("qemu-io", *SECRET, "--image-opts", *lines, node_qcow2(path))


def test_qcow2():
    """qcow2 with LUKS, of several cluster sizes, with subclusters, version 2."""
    for number, options in enumerate(("", ",cluster_size=512", ",cluster_size=2M",
                                      ",extended_l2=on", ",compat=0.10",
                                      ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,"
                                      "encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256")):
        with Folder() as folder:
            path = create_qcow2(folder + "/image", options)
            qcow2_in_turns(path, folder, number)


def test_qcow2_data_file():
    """The same with its data in another file."""
    with Folder() as folder:
        path = create_qcow2(folder + "/image", f",data_file={folder}/data")
        qcow2_in_turns(path, folder, 7)


def test_qcow2_data_file_room():
    """Room that reads as zeroes holds encrypted zeroes in a data file: until the next flush the
    tables on the disk call it data."""
    with Folder() as folder:
        path = create_qcow2(folder + "/image", f",data_file={folder}/data")
        with Server("--discard=unmap", image=path, defaults=KEEPING) as server:
            with server.client() as client:
                check(not client.write(0, content_of(65536)).error, "write")
                check(not client.flush().error, "flush")
                check(not client.trim(0, 65536).error, "trim")
                check(not client.zero(0, 65536, NO_HOLE).error, "zero")
                with open(folder + "/data", "rb") as data:
                    check(any(data.read(65536)), "zeroes of the file decrypt to noise")
                client.disc()
        check(content_qcow2(path, folder) == bytes(SIZE), "what QEMU reads")


def test_qcow2_chain():
    """An encrypted image over another with the same key, over a plain one, under a plain one."""
    with Folder() as folder:
        for number, below in enumerate(("luks", "qcow2", "raw", "qcow2+luks")):
            base = f"{folder}/base-{number}"
            with open(folder + "/content", "wb") as file:
                file.write(content_of(SIZE))
            if below == "luks":
                create(base)
                tool("qemu-img", "convert", *SECRET, "-n", "--target-image-opts", "-f", "raw",
                     folder + "/content", node(base))
            elif below == "qcow2+luks":
                create_qcow2(base)
                tool("qemu-img", "convert", *SECRET, "-n", "--target-image-opts", "-f", "raw",
                     folder + "/content", node_qcow2(base))
            else:
                tool("qemu-img", "convert", "-O", below, folder + "/content", base)
            path = f"{folder}/top-{number}"
            create_qcow2(path, backing=("-u", "-b", base, "-F", below.split("+", 1)[0]))
            more = {"luks": ",backing.key-secret=s",
                    "qcow2+luks": ",backing.encrypt.key-secret=s"}.get(below, "")
            chance, model = random.Random(number), bytearray(content_of(SIZE))
            with Server(image=path, defaults=KEEPING) as server:
                with server.client() as client:
                    play(client, model, chance)
                    client.disc()
            check_qcow2(path, more)
            check(content_qcow2(path, folder, more) == model, f"over {below}: what QEMU reads")


def test_qcow2_two_keys():
    """A chain whose images have keys of their own, as --image-opts says."""
    words = ("--object", "secret,id=s,data=one", "--object", "secret,id=t,data=two")
    with Folder() as folder:
        base = create_qcow2(folder + "/base", words=("--object", "secret,id=s,data=two"))
        tool("qemu-io", *words, "--image-opts", "-c", "write -P 0x42 1M 1M",
             node_qcow2(base).replace("=s,", "=t,"))
        path = create_qcow2(folder + "/top", backing=("-u", "-b", base, "-F", "qcow2"), words=words)
        said = node_qcow2(path, ",backing.encrypt.key-secret=t")
        size = start(*words, "--image-opts", said, status=0)
        check(size == str(SIZE), size)
        done = subprocess.run([program(), "--run", "qemu-io -f raw -c 'read -P 0x42 1M 1M' -c "
                               "'read -P 0 2M 1M' -c 'write -P 7 1048676 300' \"$uri\"",
                               *words, "--image-opts", said], capture_output=True, text=True,
                              timeout=120, check=False)
        check(done.returncode == 0 and "failed" not in done.stdout, f"{done}")
        model = bytearray(SIZE)
        model[MIB:2 * MIB] = b"\x42" * MIB
        model[1048676:1048976] = b"\x07" * 300
        check(content_qcow2(path, folder, ",backing.encrypt.key-secret=t", words) == model,
              "what QEMU reads")
        check("Invalid password" in start(*words, "--key-secret=s", path), "one key for both")


def test_qcow2_snapshot():
    """A snapshot inside stays what it was, and can be served; -s leaves the image alone and
    nothing in the clear."""
    with Folder() as folder:
        path = create_qcow2(folder + "/image")
        tool("qemu-io", *SECRET, "--image-opts", "-c", "write -P 0x21 0 2M", node_qcow2(path))
        tool("qemu-img", "snapshot", *SECRET, "--image-opts", "-c", "then", node_qcow2(path))
        model = bytearray(b"\x21" * 2 * MIB + bytes(2 * MIB))
        with Server(image=path, defaults=KEEPING) as server:
            with server.client() as client:
                play(client, model, random.Random(3))
                client.disc()
        check_qcow2(path)
        check(content_qcow2(path, folder) == model, "what QEMU reads")
        with Server("-l", "then", image=path, defaults=KEEPING) as server:
            with server.client() as client:
                check(client.data(0, SIZE) == b"\x21" * 2 * MIB + bytes(2 * MIB), "the snapshot")
                client.disc()
        with open(path, "rb") as image:
            before = image.read()
        with Server("-s", image=path, defaults=KEEPING) as server:
            with server.client() as client:
                play(client, model, random.Random(4))
                client.write(MIB, b"in the clear" * 1000)
                check(client.data(MIB, 12000) == b"in the clear" * 1000, "read")
                client.flush()
                check(b"in the clear" not in nameless(server.process.pid), "the temporary file")
                client.disc()
        with open(path, "rb") as image:
            check(image.read() == before, "-s changed the image")


def nameless(pid):
    """What the deleted files of a process hold."""
    found = b""
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if "(deleted)" in os.readlink(path):
            with open(path, "rb") as file:
                found += file.read()
    check(len(found) > MIB, "no temporary file was found")
    return found


def test_qcow2_dirty():
    """References are counted anew where an image was not closed: its keys are in use."""
    with Folder() as folder:
        path = create_qcow2(folder + "/image")
        tool("qemu-io", *SECRET, "--image-opts", "-c", "write -P 9 0 1M", node_qcow2(path))
        with open(path, "r+b") as image:
            image.seek(79)
            image.write(b"\1")
        with Server(image=path, defaults=KEEPING) as server:
            with server.client() as client:
                for at in range(2 * MIB, 4 * MIB, 65536):
                    check(not client.write(at, content_of(4096)).error, "write")
                client.disc()
        check_qcow2(path)
        check(content_qcow2(path, folder)[:MIB] == b"\x09" * MIB, "what QEMU reads")


def test_qcow2_refused():
    """No key, a wrong one, a header that lies about its keys, the old encryption."""
    with Folder() as folder:
        path = create_qcow2(folder + "/image")
        check("--key-secret=ID" in start(path), "no key")
        check("Invalid password" in start("--object", "secret,id=s,data=x", "--key-secret=s", path),
              "a wrong key")
        with open(path, "rb") as image:
            head = image.read(65536)
        at = head.index(b"\x05\x37\xbe\x77") + 8
        for offset, data, text in ((at, bytes(8), "encryption header offset"),
                                   (at, b"\x7f" * 7 + b"\0", "encryption header offset"),
                                   (at + 8, b"\0\0\0\1" * 2, "encryption header offset"),
                                   (at + 8, bytes(8), "behind the end"),
                                   (at - 8, bytes(4), "says nothing of its keys"),
                                   (32, b"\0\0\0\1", "encrypted (AES)")):
            said = start(*SECRET, "--key-secret=s", edited(path, offset, data))
            check(text in said, f"{data!r} at {offset}: {said}")


def test_qcow2_without_encryption():
    """A description that speaks of an encryption that the image does not have, or of another one,
    in the image or its backing file: the sentences of qemu-nbd. A key alone is no claim."""
    with Folder() as folder:
        plain, top, blank = (f"{folder}/{name}" for name in ("plain", "top", "blank"))
        tool("qemu-img", "create", "-q", "-f", "qcow2", plain, "4M")
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", plain, "-F", "qcow2", top)
        tool("qemu-img", "create", "-q", "-f", "raw", blank, "4M")
        locked, luks = create_qcow2(folder + "/locked"), create(folder + "/luks")
        aes = folder + "/aes"
        qemu_creates("-f", "qcow2", *SECRET, "-o", "encrypt.format=aes,encrypt.key-secret=s", aes,
                     "4M")
        for said in (node_qcow2(plain, ",encrypt.format=luks"),
                     f"driver=qcow2,encrypt.format=aes,file.filename={plain}",
                     node_qcow2(locked, ",encrypt.format=aes"),
                     node_qcow2(aes, ",encrypt.format=luks"),
                     f"driver=qcow2,file.filename={locked}",
                     f"driver=qcow2,encrypt.format=luks,file.filename={locked}",
                     f"driver=luks,file.filename={luks}", f"file.filename={luks}",
                     f"key-secret=s,file.filename={blank}", f"key-secret=s,file.filename={plain}",
                     f"encrypt.format=luks,file.filename={blank}"):
            ours = start(*SECRET, "--image-opts", said)
            known = qemu_refuses(*SECRET, "--image-opts", said)
            check(known in ours, f"{said}: {known!r} is not in {ours!r}")
        for more, known in (("encrypt.format=luks", "No encryption in image header"),
                            ("key-secret=s", "'qcow2' does not support the option 'key-secret'")):
            said = start(*SECRET, "--image-opts", f"driver=qcow2,file.filename={top},backing.{more}")
            check(known in said, said)
        said = start("--image-opts", f"driver=qcow2,file.filename={locked}")
        check("say encrypt.key-secret=ID" in said and "--key-secret" not in said, said)
        for said in (node_qcow2(plain), node_qcow2(top, ",backing.encrypt.key-secret=s"),
                     node_qcow2(locked, ",encrypt.format=luks")):
            start(*SECRET, "--image-opts", said, status=0)


def test_unused_key():
    """--key-secret for an image that is not encrypted: no start, whether it never was or its header
    is damaged, and the file stays as it is. One encrypted image of a chain is enough."""
    with Folder() as folder:
        plain, blank, top = (f"{folder}/{name}" for name in ("plain", "blank", "top"))
        tool("qemu-img", "create", "-q", "-f", "qcow2", plain, "4M")
        tool("qemu-img", "create", "-q", "-f", "raw", blank, "4M")
        damaged = edited(create(folder + "/luks"), 0, b"\0")
        for path in (blank, plain, damaged):
            with open(path, "rb") as image:
                before = image.read()
            for options in ((), ("-r",), ("-s",), ("--auto-read-only",)):
                said = start(*SECRET, "--key-secret=s", *options, path)
                check(path in said and "the image is not encrypted" in said, f"{options}: {said}")
            with open(path, "rb") as image:
                check(image.read() == before, f"{path} was changed")
        said = start(*SECRET, "--key-secret=s", "--image-opts", f"driver=raw,offset=512,file.driver="
                     f"qcow2,file.file.filename={plain}")
        check("the image is not encrypted" in said, said)
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", create(folder + "/base"), "-F",
             "luks", top, "4M")
        start(*SECRET, "--key-secret=s", top, status=0)


main(globals())
