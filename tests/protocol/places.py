# SPDX-License-Identifier: MIT
"""
Where an image may lie: a loop device, a file system with hardly any room. Each is a context
manager that yields a path and takes away what it made; Skip where it needs root and there is none.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile

from harness import MIB, Skip, content_of, qemu_creates

SHM = "/dev/shm"


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise Skip(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def need_root(*programs):
    if os.geteuid() or not all(map(shutil.which, programs)):
        raise Skip(f"needs root and {' '.join(programs)}")


@contextlib.contextmanager
def folder(parent=None):
    path = tempfile.mkdtemp(prefix="hawser-place-", dir=parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def make_file(path, size, content=None):
    """content: None for a pattern, "" for a sparse file."""
    with open(path, "wb") as out:
        out.write(content_of(size) if content is None else content or b"")
        out.truncate(size)
    return path


@contextlib.contextmanager
def file_on_disk(size, content=None):
    with folder() as path:
        yield make_file(os.path.join(path, "image"), size, content)


@contextlib.contextmanager
def file_in_memory(size, content=None):
    if not os.access(SHM, os.W_OK):
        raise Skip(f"no {SHM}")
    with folder(SHM) as path:
        yield make_file(os.path.join(path, "image"), size, content)


@contextlib.contextmanager
def loop_device(size, content=None, options=()):
    """A loop device over a new file."""
    need_root("losetup")
    with file_on_disk(size, content) as path:
        device = run("losetup", "-f", "--show", *options, path)
        try:
            yield device
        finally:
            subprocess.run(["losetup", "-d", device], check=True)


@contextlib.contextmanager
def mounted(*what):
    need_root("mount", "umount")
    with folder() as path:
        run("mount", *what, path)
        try:
            yield path
        finally:
            subprocess.run(["umount", path], check=True)


def leave_room(path, room):
    """Fills the file system of the folder path until only about so many bytes are free."""
    with open(os.path.join(path, "ballast"), "wb") as out:
        step = MIB
        while step >= 4096:
            free = os.statvfs(path)
            if free.f_bavail * free.f_frsize <= room + step:
                step //= 2
                continue
            try:
                out.write(b"b" * step)
                out.flush()
                os.fsync(out.fileno())
            except OSError:
                step //= 2


@contextlib.contextmanager
def full_tmpfs(size, content="", room=700 * 1024):
    with mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs") as path:
        image = make_file(os.path.join(path, "image"), size, content)
        leave_room(path, room)
        yield image


@contextlib.contextmanager
def full_ext4(size, content="", room=700 * 1024):
    need_root("mkfs.ext4", "losetup")
    with file_on_disk(24 * MIB, "") as disk:
        run("mkfs.ext4", "-q", "-F", "-m", "0", disk)
        with mounted("-o", "loop", disk) as path:
            image = make_file(os.path.join(path, "image"), size, content)
            leave_room(path, room)
            yield image


# ---- Encrypted images, made and read by QEMU ----

KEY = ("--object", "secret,id=k,data=words")


@functools.lru_cache(maxsize=None)
def encrypted_bytes(kind, node, options, size, content):
    """Made once."""
    with folder() as path:
        image = os.path.join(path, "image")
        qemu_creates("-f", kind, *KEY, "-o", options, image, str(size))
        plain = make_file(os.path.join(path, "plain"), size, content)
        run("qemu-img", "convert", *KEY, "-n", "-f", "raw", "--target-image-opts", plain,
            node + image)
        with open(image, "rb") as made:
            return made.read()


@contextlib.contextmanager
def encrypted(*how):
    with folder() as path:
        image = os.path.join(path, "image")
        with open(image, "wb") as copy:
            copy.write(encrypted_bytes(*how))
        yield image


LUKS = "driver=luks,key-secret=k,file.filename="
QCOW2 = "driver=qcow2,encrypt.key-secret=k,file.filename="


def luks_image(size, content=None):
    return encrypted("luks", LUKS, "key-secret=k,iter-time=10", size, content)


def luks_in_qcow2(size, content=None):
    return encrypted("qcow2", QCOW2, "encrypt.format=luks,encrypt.key-secret=k,"
                     "encrypt.iter-time=10,cluster_size=4096", size, content)


def decrypted(node, server, offset, length):
    with folder() as path:
        plain = os.path.join(path, "plain")
        # -U: the server still has it open; what it has flushed is in the file.
        run("qemu-img", "convert", "-U", *KEY, "--image-opts", "-O", "raw", node + server.image,
            plain)
        with open(plain, "rb") as file:
            file.seek(offset)
            return file.read(length)


def luks_content(server, offset, length):
    return decrypted(LUKS, server, offset, length)


def luks_in_qcow2_content(server, offset, length):
    return decrypted(QCOW2, server, offset, length)
