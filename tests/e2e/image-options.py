#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
--image-opts and json: file names: the same strings for qemu-nbd and for the server must give the
same bytes, or the same refusal. Where the server takes more, or says more, the table says so.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import MIB, Server, check, content_of, main, program  # noqa: E402
from qcow2disk import SCRATCH, check_same, tool  # noqa: E402

SIZE = 2 * MIB


@contextlib.contextmanager
def images():
    """A directory with a chain, raw files, and a qcow2 image inside an archive; it is the cwd."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="hawser-test-", dir=SCRATCH) as folder:
        os.chdir(folder)
        try:
            with open("raw", "wb") as file:
                file.write(content_of(SIZE, 1))
            with open("other", "wb") as file:
                file.write(content_of(SIZE, 2))
            tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "over")
            tool("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 64k 256k", "over")
            tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on",
                 "split", str(SIZE))
            tool("qemu-io", "-f", "qcow2", "-c", "write -P 0x77 1M 64k", "split")
            with open("archive", "wb") as file, open("over", "rb") as inner:
                file.write(b"H" * 1536 + inner.read())
            yield folder
        finally:
            os.chdir(before)


def file_of(name, **more):
    return {"driver": "file", "filename": name, **more}


SERVED = (
    "driver=raw,file.filename=raw",
    "driver=file,filename=over",
    "driver=raw,offset=4k,size=512k,file.driver=file,file.filename=raw",
    "driver=raw,offset=1k,file.driver=raw,file.offset=3k,file.size=1M,file.file.filename=raw",
    "driver=qcow2,file.driver=file,file.filename=over",
    "file.filename=over",
    "driver=qcow2,file.filename=over,backing.driver=raw,backing.file.filename=other",
    "driver=qcow2,file.filename=over,backing.driver=raw,backing.offset=512k,"
    "backing.file.filename=other",
    "driver=qcow2,file.filename=over,backing.node-name=base,backing.read-only=on",
    "driver=raw,offset=32k,size=128k,file.driver=qcow2,file.file.filename=over",
    "driver=raw,file.driver=raw,file.file.driver=qcow2,file.file.file.filename=over",
    "driver=qcow2,file.driver=raw,file.offset=1536,file.file.filename=archive",
    "driver=qcow2,file.filename=split",
    "driver=qcow2,file.filename=split,data-file.filename=other",
    "driver=qcow2,file.filename=over,l2-cache-size=1M,refcount-cache-size=256k,lazy-refcounts=on,"
    "overlap-check=all,pass-discard-request=on,cache-clean-interval=60",
    "driver=raw,file.filename=raw,cache.no-flush=on,discard=unmap,detect-zeroes=unmap,"
    "node-name=a,file.node-name=b,auto-read-only=on,file.aio=threads,file.locking=on",
    "json:" + json.dumps({"driver": "raw", "file": file_of("raw"), "offset": 1024, "size": 4096}),
    "json:" + json.dumps({"driver": "qcow2", "file": file_of("over"), "backing": None}),
    "json:" + json.dumps({"driver": "qcow2", "file.driver": "file", "file.filename": "over",
                          "backing": {"driver": "raw", "file": file_of("other")}}),
    "file:raw",
)

# What is refused, and whether by the same words.
REFUSED = (
    ("foo=bar", True), ("", True), ("filename=raw", True), ("driver=qcow2", True),
    ("driver=nope,file.filename=raw", True), ("driver=file", True),
    ("driver=raw,file.filename=raw,foo=1", False),  # "Invalid parameter", with the nearest key
    ("driver=raw,file.filename=raw,file.foo=1", False),
    ("driver=raw,file.filename=raw,read-only=maybe", False),  # repeats the wrong word
    ("driver=raw,file.filename=raw,discard=x", True),
    ("driver=raw,file.filename=raw,detect-zeroes=x", True),
    ("driver=raw,file.filename=raw,file.locking=x", True),
    ("driver=raw,file.filename=raw,file.aio=x", True),
    ("driver=raw,file.filename=raw,file.aio=native", True),
    ("driver=raw,file.filename=raw,offset=3M", True),
    ("driver=raw,file.filename=raw,offset=1M,size=1536k", True),
    ("driver=raw,file.filename=raw,size=1000", True),
    ("driver=qcow2,file.filename=raw", True),
    ("driver=raw,file.driver=host_device,file.filename=raw", True),
    ("driver=qcow2,file.filename=over,overlap-check=x", True),
    ("driver=throttle,file.filename=raw", True),
    ("driver=throttle,throttle-group=x,file.filename=raw", True),
    ("driver=raw,file.filename=missing", True),
    ("driver=qcow2,file.filename=over,backing.file.filename=missing", False),  # says which
    ("driver=qcow2,file.filename=over,data-file.filename=raw", True),
    ("json:", False), ("json:{", False), ("json:[1]", True),
    ("json:" + json.dumps({"driver": "raw"}), True),
    ("json:" + json.dumps({"driver": "raw", "file": file_of("missing")}), True),
)


def options_for(text):
    return [] if text.startswith(("json:", "file:")) else ["--image-opts"]


def server_bytes(server, *options, text):
    """What that server serves, or None and what it says."""
    copy = "out-" + os.path.basename(server)
    if os.path.exists(copy):
        os.unlink(copy)
    done = subprocess.run(["nbdcopy", "--", "[", server, "-r", *options, text, "]", copy],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    if done.returncode:
        return None, done.stderr
    with open(copy, "rb") as file:
        return file.read(), done.stderr


def test_served():
    """The same bytes for the same description."""
    tool("nbdcopy", "--version")
    with images():
        for text in SERVED:
            theirs, said = server_bytes("qemu-nbd", *options_for(text), text=text)
            check(theirs, f"qemu-nbd does not serve {text}: {said}")
            ours, said = server_bytes(program(), *options_for(text), text=text)
            check(ours is not None, f"not served: {text}: {said}")
            check_same(ours, theirs, text)


def words(command, text):
    done = subprocess.run([*command, *options_for(text), text], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    check(done.returncode == 1, f"{command[0]} serves {text}")
    name, _, said = done.stderr.splitlines()[0].partition(": ")
    check(name in command[0], f"{text}: {done.stderr}")
    return said


def test_refused():
    """The same refusal for the same description."""
    with images():
        for text, same in REFUSED:
            theirs = words(["qemu-nbd", "-r", "-k", os.path.abspath("socket")], text)
            ours = words([program(), "-r", "-k", os.path.abspath("ours")], text)
            check((ours == theirs) == same, f"{text}\n theirs: {theirs}\n ours:   {ours}")


def test_plain_names():
    """A name where QEMU wants that of another node is one of a file."""
    with images():
        for text in ("raw", "driver=raw,file=raw", "driver=qcow2,file=over,backing=raw"):
            with Server("--image-opts", image=text, defaults=("-r", "-t")) as server:
                check(server.client().export.size == SIZE, text)


def test_excludes():
    """What cannot be meant together, in qemu-nbd's words."""
    with images():
        for options, said in (
                (("--image-opts", "-f", "raw", "raw"), "--image-opts and -f are mutually exclusive"),
                (("--aio=x", "raw"), "Invalid aio mode 'x'"),
                (("--aio=native", "--aio=native", "-n", "raw"), "--aio can only be specified once"),
                (("--aio=native", "-f", "raw", "raw"),
                 "Failed to blk_new_open 'raw': aio=native was specified, but it requires "
                 "cache.direct=on, which was not specified.")):
            for server in ("qemu-nbd", program()):
                done = subprocess.run([server, *options], stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, timeout=60, check=False)
                check(done.returncode == 1 and said in done.stderr, f"{server}: {done.stderr}")


def test_format_wins():
    """-f beside json: stands for its driver."""
    with images():
        text = "json:" + json.dumps({"driver": "qcow2", "file": file_of("over")})
        ours, said = server_bytes(program(), "-f", "raw", text=text)
        with open("over", "rb") as file:
            check_same(ours, file.read(), said)


def test_window_writes():
    """Writes stay in the part, whatever format is in it or below it."""
    with images():
        text = "driver=raw,offset=64k,size=64k,file.filename=raw,discard=unmap"
        with Server("--image-opts", image=text, defaults=("-t",)) as server:
            client = server.client()
            check(client.export.size == 65536, "the size of the part")
            check(not client.write(0, b"b" * 65536).error, "a write of all of it")
            check(client.write(65000, b"x" * 1000).error, "a write beyond it")
            check(not client.trim(0, 4096).error and not client.zero(4096, 4096).error, "zeroes")
            check(client.data(8192, 4096) == b"b" * 4096, "what was written is there")
            check(not client.flush().error, "flush")
        expected = bytearray(content_of(SIZE, 1))
        expected[65536:131072] = bytes(8192) + b"b" * (65536 - 8192)
        with open("raw", "rb") as file:
            check_same(file.read(), bytes(expected), "the file")

        text = "driver=qcow2,file.driver=raw,file.offset=1536,file.file.filename=archive,backing="
        with Server("--image-opts", image=text, defaults=("-t",)) as server:
            client = server.client()
            check(not client.write(MIB, content_of(300000, 9)).error, "an allocation")
            check(not client.flush().error, "flush")
        with open("archive", "rb") as file, open("inner", "wb") as inner:
            check(file.read(1536) == b"H" * 1536, "what is before the image stays")
            inner.write(file.read())
        tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", "inner")
        tool("qemu-img", "check", "-q", "inner")
        done = tool("qemu-io", "-f", "qcow2", "-r", "-c", "read -v 1M 16", "inner")
        check(content_of(300000, 9)[:2].hex() in done.replace(" ", ""), done)


def test_window_of_a_disk():
    """A part of a qcow2 image's disk: data, holes, compressed clusters; and writes."""
    with images():
        tool("qemu-img", "convert", "-c", "-O", "qcow2", "-f", "raw", "raw", "packed")
        text = "driver=raw,offset=96k,size=1M,file.driver=qcow2,file.file.filename=packed"
        with Server("--image-opts", image=text, defaults=("-t",)) as server:
            client = server.client()
            check_same(client.data(0, MIB), content_of(SIZE, 1)[98304:98304 + MIB], "reads")
            check(not client.write(5, b"new").error and not client.flush().error, "a write")
            check(client.data(5, 3) == b"new", "what was written")
        tool("qemu-img", "check", "-q", "packed")
        tool("qemu-img", "convert", "-O", "raw", "packed", "unpacked")
        expected = bytearray(content_of(SIZE, 1))
        expected[98309:98312] = b"new"
        with open("unpacked", "rb") as file:
            check_same(file.read(), bytes(expected), "the disk")


def writable_for(server):
    return not server.client().export.flags & 2


def test_read_only():
    """read-only=on of any node makes the export read-only; -r is never taken back."""
    with images():
        for options, text, writable in (
                ((), "driver=raw,file=raw", True),
                ((), "driver=raw,file=raw,read-only=on", False),
                ((), "driver=raw,file.filename=raw,file.read-only=on", False),
                (("-r",), "driver=raw,file=raw,read-only=off", False)):
            with Server("--image-opts", *options, image=text, defaults=("-t",)) as server:
                check(writable_for(server) == writable, f"{options} {text}")


def test_locking():
    """locking=off takes no lock, force-share=on only the one that readers share."""
    with images():
        with Server(image=os.path.abspath("raw")) as writer:
            check(writable_for(writer), "the first has the image")
            shared = "driver=raw,file=raw,force-share=on"
            for options, text, works in (
                    ((), "driver=raw,file=raw", False),
                    ((), "driver=raw,file.filename=raw,file.locking=off", True),
                    (("-r",), shared, True)):
                done = subprocess.run([program(), *options, "--image-opts", "--run", "true", text],
                                      capture_output=True, text=True, timeout=60, check=False)
                check((done.returncode == 0) == works, f"{text}: {done.stderr}")
            done = subprocess.run([program(), "--image-opts", "--run", "true", shared],
                                  capture_output=True, text=True, timeout=60, check=False)
            check("force-share=on can only be used with read-only images" in done.stderr,
                  done.stderr)


def test_names_in_images():
    """What an image says is a file name, whatever it looks like."""
    with images():
        for name in ("json:{\"driver\":\"file\",\"filename\":\"raw\"}", "nbd:localhost:1",
                     "file:raw"):
            tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "over")
            _, said = server_bytes(program(), "-f", "qcow2", text="over")
            check("protocols are not followed" in said, said)


def test_cache():
    """cache.direct=on of the file is O_DIRECT, and native is content with it."""
    with images():
        text = "driver=raw,file.filename=raw,cache.direct=on,file.aio=native"
        try:
            os.close(os.open("raw", os.O_RDONLY | os.O_DIRECT))
        except OSError:
            return
        with Server("--image-opts", image=text, defaults=("-t",)) as server:
            flags = []
            for name in os.listdir(f"/proc/{server.process.pid}/fdinfo"):
                with open(f"/proc/{server.process.pid}/fdinfo/{name}", encoding="ascii") as file:
                    flags.append(int(file.read().split()[3], 8))
            check(any(flag & os.O_DIRECT for flag in flags), "no descriptor is O_DIRECT")
            check_same(server.client().data(7, 1000), content_of(SIZE, 1)[7:1007], "odd reads")


if __name__ == "__main__":
    main(globals())
