# SPDX-License-Identifier: MIT
"""
Small LUKS images that the passphrase "abc" opens: few stripes, few rounds, some sectors of data.
OpenSSL's command line has AES in ECB; the modes are put together here.
"""

import hashlib
import struct
import subprocess

SECTOR, HEADER, STRIPES, ROUNDS = 512, 592, 3, 2
PASSPHRASE = b"abc"


def aes(key, data):
    return subprocess.run(["openssl", "enc", f"-aes-{len(key) * 8}-ecb", "-nopad", "-K", key.hex()],
                          input=data, capture_output=True, check=True).stdout


def exclusive_or(one, other):
    return bytes(a ^ b for a, b in zip(one, other))


def vector(spec, key, sector):
    if spec == "plain":
        sector &= 0xffffffff
    plain = struct.pack("<QQ", sector, 0)
    if spec.startswith("essiv:"):
        return aes(hashlib.new(spec[6:], key).digest(), plain)
    return plain


def xts(key, tweak, data):
    half = len(key) // 2
    value, tweaks = int.from_bytes(aes(key[half:], tweak), "little"), b""
    for _ in range(0, len(data), 16):
        tweaks += value.to_bytes(16, "little")
        value = value << 1 ^ (0x87 if value >> 127 else 0)
        value &= (1 << 128) - 1
    return exclusive_or(aes(key[:half], exclusive_or(data, tweaks)), tweaks)


def cbc(key, before, data):
    out = b""
    for at in range(0, len(data), 16):
        before = aes(key, exclusive_or(data[at:at + 16], before))
        out += before
    return out


def ctr(key, counter, data):
    first = int.from_bytes(counter, "big")
    counters = b"".join(((first + i) % (1 << 128)).to_bytes(16, "big")
                        for i in range(len(data) // 16))
    return exclusive_or(data, aes(key, counters))


MODES = {"xts": xts, "cbc": cbc, "ctr": ctr, "ecb": lambda key, _vector, data: aes(key, data)}


def encrypt(mode, key, data):
    name, _, spec = mode.partition("-")
    return b"".join(MODES[name](key, vector(spec, key, at // SECTOR), data[at:at + SECTOR])
                    for at in range(0, len(data), SECTOR))


def diffuse(digest, data):
    size = hashlib.new(digest).digest_size
    return b"".join(hashlib.new(digest, struct.pack(">I", i) + data[i * size:(i + 1) * size])
                    .digest()[:len(data) - i * size] for i in range((len(data) + size - 1) // size))


def split(digest, key):
    last, out = bytes(len(key)), b""
    for number in range(STRIPES - 1):
        stripe = hashlib.shake_128(bytes([number])).digest(len(key))
        out += stripe
        last = diffuse(digest, exclusive_or(last, stripe))
    return out + exclusive_or(last, key)


def image(mode, key_length, digest, slot=0):
    key = hashlib.shake_128(mode.encode()).digest(key_length)
    salt = hashlib.shake_128(b"salt").digest(32)
    material = split(digest, key)
    material += bytes(-len(material) % SECTOR)
    room = len(material) // SECTOR
    payload = 2 + 8 * room
    header = b"LUKS\xba\xbe" + struct.pack(
        ">H32s32s32sII20s32sI40s", 1, b"aes", mode.encode(), digest.encode(), payload, key_length,
        hashlib.pbkdf2_hmac(digest, key, salt, ROUNDS, 20), salt, ROUNDS, b"")
    slots = [struct.pack(">II32sII", 0x00ac71f3 if n == slot else 0xdead, ROUNDS, salt, 2 + n * room,
                         STRIPES) for n in range(8)]
    header += b"".join(slots)
    opening = hashlib.pbkdf2_hmac(digest, PASSPHRASE, salt, ROUNDS, key_length)
    return header.ljust((2 + slot * room) * SECTOR, b"\0") + encrypt(mode, opening, material) + \
        bytes((7 - slot) * len(material)) + encrypt(mode, key, b"some data of a guest".ljust(4 * SECTOR, b"."))


def seeds():
    for mode, key_length, digest in (
            ("xts-plain64", 64, "sha256"), ("xts-plain64", 32, "sha1"), ("xts-plain", 48, "sha512"),
            ("xts-essiv:sha256", 64, "sha224"), ("cbc-essiv:sha256", 32, "sha256"),
            ("cbc-plain64", 16, "md5"), ("cbc-plain", 24, "sha384"), ("ctr-plain64", 32, "sha256"),
            ("ecb", 16, "sha1"), ("ecb-plain64", 32, "sha256")):
        yield f"{mode.replace(':', '-')}-{key_length * 8}", image(mode, key_length, digest)
    yield "last-slot", image("xts-plain64", 64, "sha256", slot=7)
    whole = image("cbc-plain64", 16, "sha256")
    yield "no-data", whole[:-4 * SECTOR]
    yield "cut-in-a-sector", whole[:-100]
    yield "cut-in-a-slot", whole[:2 * SECTOR + 10]
    yield "header", whole[:HEADER]
    yield "detached", whole[:104] + bytes(4) + whole[108:]
    yield "version-2", whole[:7] + b"\2" + whole[8:]
    yield "payload-on-a-slot", whole[:104] + struct.pack(">I", 4) + whole[108:]
    yield "slot-on-a-slot", whole[:208 + 48 + 40] + struct.pack(">I", 2) + whole[208 + 48 + 44:]
    yield "serpent", whole[:8] + b"serpent\0" + whole[16:]
