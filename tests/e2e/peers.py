#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Clients that we did not write, against the server: QEMU's tools, libnbd's, fio, nbd-client, nbdkit.
Bytes are compared, not only exit codes. A program that is not installed is a skipped test.
"""

import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import (MIB, Server, Skip, check, content_of, free_port, main,  # noqa: E402
                     program, until)

SECONDS = 240  # ends a hang, nothing else


def run(*command, status=0, **how):
    """Runs a peer, which must end with this status; returns its output."""
    if not shutil.which(command[0]):
        raise Skip(f"{command[0]} is not installed")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=SECONDS, check=False, **how)
    check(done.returncode == status,
          f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def uri(server, name=""):
    if server.port:
        return f"nbd://127.0.0.1:{server.port}/{name}"
    return f"nbd+unix:///{name}?socket={server.path}"


def sparse_image(path, size=24 * MIB):
    """Data, holes, zeroes that are written, and an odd place."""
    with open(path, "wb") as out:
        for offset, data in ((0, content_of(MIB)), (3 * MIB, bytes(65536)),
                             (5 * MIB + 4096, content_of(8192, 2)),
                             (9 * MIB + 100, content_of(77, 3)),
                             (size - 4096, content_of(4096, 4))):
            out.seek(offset)
            out.write(data)
        out.truncate(size)
    return path


def sparse_server(*options, **how):
    server = Server(*options, size=24 * MIB, content="", **how)
    sparse_image(server.image)
    return server


def content(path):
    with open(path, "rb") as file:
        return file.read()


def same(server, path):
    check(content(path) == server.bytes(), f"{path} is not the image")


# ---- QEMU ----


def test_qemu_img_convert_out():
    """qemu-img convert reads the export, over Unix and TCP, into raw and qcow2."""
    for tcp in (False, True):
        with sparse_server("-r", tcp=tcp) as server:
            raw, qcow2 = server.directory + "/raw", server.directory + "/qcow2"
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(server), raw)
            same(server, raw)
            check(os.stat(raw).st_blocks * 512 < 8 * MIB, "the copy is not sparse")
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri(server), qcow2)
            run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", uri(server), qcow2)


def test_qemu_img_convert_in():
    """qemu-img convert -n writes the export, zeroes and all."""
    with Server(size=24 * MIB) as server:  # full of data that must go
        source = sparse_image(server.directory + "/source")
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri(server))
        same(server, source)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri(server))


def test_qemu_img_compare_tells():
    """qemu-img compare sees one changed byte through the export."""
    with sparse_server("-r") as server:
        other = sparse_image(server.directory + "/other")
        with open(other, "r+b") as out:
            out.seek(10 * MIB)
            out.write(b"x")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(server), other, status=1)


def test_qemu_img_info_and_map():
    """qemu-img info and map see size and holes."""
    with sparse_server("-r") as server:
        info = json.loads(run("qemu-img", "info", "-f", "raw", "--output=json", uri(server)))
        check(info["virtual-size"] == 24 * MIB, f"{info}")
        spans = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", uri(server)))
        check(sum(span["length"] for span in spans) == 24 * MIB, f"{spans}")
        local = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", server.image))
        check([(span["start"], span["length"], span["zero"]) for span in spans]
              == [(span["start"], span["length"], span["zero"]) for span in local],
              f"map of the export {spans}, of the file {local}")


def test_qemu_img_commit_over_nbd():
    """An overlay over the export is written and committed into it."""
    with Server(size=8 * MIB) as server:
        overlay = server.directory + "/overlay"
        run("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", uri(server), overlay)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 1M", "-c", "write -z 3M 64k", overlay)
        run("qemu-img", "commit", overlay)
        data = server.bytes()
        check(data[MIB:2 * MIB] == b"\x5a" * MIB, "pattern")
        check(data[3 * MIB:3 * MIB + 65536] == bytes(65536), "zeroes")
        check(data[:MIB] == content_of(MIB), "the rest")


def qemu_io(server, *commands, status=0, options=()):
    arguments = [word for command in commands for word in ("-c", command)]
    return run("qemu-io", "-f", "raw", *options, *arguments, uri(server), status=status)


def test_qemu_io():
    """qemu-io: write, read back, zero with and without unmap, discard, flush, FUA."""
    for tcp in (False, True):
        with Server(size=8 * MIB, tcp=tcp) as server:
            out = qemu_io(server, "write -P 0xa1 0 64k", "write -f -P 0xa2 1M 1M",
                          "write -P 0xa3 3145733 777", "flush", "read -P 0xa1 0 64k",
                          "read -P 0xa2 1M 1M", "read -P 0xa3 3145733 777", "write -z 4M 1M",
                          "write -z -u 5M 1M", "write -z -n 6M 512", "read -P 0 4M 2M",
                          "discard 7M 64k", "flush", "aio_write -P 0xa4 2M 64k", "aio_read -P 0xa1 0 64k",
                          "aio_flush", "read -P 0xa4 2M 64k")
            check("verification failed" not in out and "failed" not in out, out)
            data = server.bytes()
            check(data[:65536] == b"\xa1" * 65536 and data[MIB:2 * MIB] == b"\xa2" * MIB
                  and data[3145733:3145733 + 777] == b"\xa3" * 777
                  and data[4 * MIB:6 * MIB] == bytes(2 * MIB), "the file")
            check(data[65536:MIB] == content_of(MIB)[65536:], "what was not written")


def test_qemu_io_read_only():
    """qemu-io cannot write a read-only export, and reads it."""
    with Server("-r") as server:
        qemu_io(server, "read 0 64k", options=("-r",))
        qemu_io(server, "write 0 512", status=1)
        check(server.bytes() == content_of(MIB), "the file changed")


def test_qemu_nbd_list():
    """qemu-nbd -L shows name, description, size, flags, sizes and context."""
    with Server("-r", "-x", "name", "-D", "some text", size=8 * MIB) as server:
        out = run("qemu-nbd", "-L", "-k", server.path)
        for line in ("exports available: 1", " export: 'name'", "  description: some text",
                     "  size:  8388608", "  flags: 0x58f ( readonly flush fua df multi cache )",
                     "  min block: 1", "  opt block: 4096", "  max block: 33554432",
                     "  available meta contexts: 1", "   base:allocation"):
            check(line in out.splitlines(), f"no line {line!r} in\n{out}")


def test_qemu_nbd_relay():
    """qemu-nbd relays our export: two servers in a row."""
    with sparse_server("-r") as server:
        path = server.directory + "/relay"
        command = ["qemu-nbd", "-r", "-f", "raw", "-k", path, uri(server)]
        if not shutil.which(command[0]):
            raise Skip("qemu-nbd is not installed")
        with subprocess.Popen(command) as relay:
            until(lambda: os.path.exists(path), "the relay listens")
            copy = server.directory + "/copy"
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///?socket={path}",
                copy)
            same(server, copy)
            relay.terminate()


# ---- libnbd ----


def test_nbdinfo_json():
    """nbdinfo --json: everything it asks is answered as configured."""
    with Server("-x", "n", "-D", "d", size=8 * MIB) as server:
        told = json.loads(run("nbdinfo", "--json", uri(server, "n")))
        check(told["protocol"] == "newstyle-fixed" and told["structured"], f"{told}")
        export = told["exports"][0]
        wanted = {"export-name": "n", "description": "d", "export-size": 8 * MIB,
                  "is_read_only": False, "can_flush": True, "can_fua": True, "can_trim": True,
                  "can_zero": True, "can_fast_zero": True, "can_cache": True, "can_df": True,
                  "can_multi_conn": True, "contexts": ["base:allocation"],
                  "block_size_minimum": 1, "block_size_preferred": 4096,
                  "block_size_maximum": 32 * MIB}
        for key, value in wanted.items():
            check(export.get(key) == value, f"{key} is {export.get(key)!r}, expected {value!r}")


def test_nbdinfo_questions():
    """nbdinfo --size, --can, --is and --list."""
    with Server("-r", "-x", "n", size=12345) as server:
        check(run("nbdinfo", "--size", uri(server, "n")) == "12345\n", "--size")
        run("nbdinfo", "--is", "read-only", uri(server, "n"))
        run("nbdinfo", "--can", "trim", uri(server, "n"), status=2)
        run("nbdinfo", "--can", "fua", uri(server, "n"))
        listed = json.loads(run("nbdinfo", "--list", "--json", uri(server)))
        check([export["export-name"] for export in listed["exports"]] == ["n"], f"{listed}")
        run("nbdinfo", uri(server, "wrong"), status=1)


def test_nbdinfo_map():
    """nbdinfo --map: the holes of the file, covering all of it."""
    with sparse_server("-r") as server:
        spans = json.loads(run("nbdinfo", "--map", "--json", uri(server)))
        check(sum(span["length"] for span in spans) == 24 * MIB, f"{spans}")
        data = server.bytes()
        for span in spans:
            part = data[span["offset"]:span["offset"] + span["length"]]
            check(not span["type"] & 2 or part.count(0) == len(part), f"{span} is not zero")
        check(any(span["type"] == 3 for span in spans), f"no hole in {spans}")


def test_nbdinfo_starts_server():
    """nbdinfo [ hawserd ... ]: socket activation by libnbd."""
    with Server("-r") as scratch:
        size = run("nbdinfo", "--size", "--", "[", program(), "-r", "-f", "raw",
                   scratch.image, "]")
        check(size == f"{MIB}\n", size)


def test_nbdcopy_out():
    """nbdcopy [ hawserd ... ] FILE, and from running servers over Unix and TCP: the same bytes,
    sparse."""
    with sparse_server("-r") as server:
        copy = server.directory + "/copy"
        run("nbdcopy", "--", "[", program(), "-r", "-f", "raw", server.image, "]", copy)
        same(server, copy)
        check(os.stat(copy).st_blocks * 512 < 8 * MIB, "the copy is not sparse")
        os.unlink(copy)
        run("nbdcopy", uri(server), copy)
        same(server, copy)
    with sparse_server("-r", tcp=True) as server:
        copy = server.directory + "/copy"
        run("nbdcopy", "--connections=4", uri(server), copy)
        same(server, copy)


def test_nbdcopy_from_single_slot():
    """nbdcopy from a server with -e 1: it opens as many connections as it is told it may."""
    with Server("-e", "1", size=8 * MIB, defaults=("-t", "-f", "raw")) as server:
        copy = server.directory + "/copy"
        run("nbdcopy", uri(server), copy)
        same(server, copy)


def test_nbdcopy_in():
    """nbdcopy FILE to the export: data, and zeroes over old data; synchronous and not."""
    for options in ((), ("--synchronous",), ("--allocated",), ("--connections=1", "--requests=1"),
                    ("--flush",), ("--destination-is-zero",)):
        old = "" if "--destination-is-zero" in options else None
        with Server(size=24 * MIB, content=old) as server:
            source = sparse_image(server.directory + "/source")
            run("nbdcopy", *options, source, uri(server))
            same(server, source)


def test_nbdcopy_between_servers():
    """nbdcopy from one server to another."""
    with sparse_server("-r") as source, Server(size=24 * MIB) as target:
        run("nbdcopy", uri(source), uri(target))
        check(source.bytes() == target.bytes(), "the images differ")


def test_nbdcopy_odd_size():
    """nbdcopy of an image whose size is no multiple of 512, to the byte."""
    with Server("-r", size=MIB + 123) as server:
        copy = server.directory + "/copy"
        run("nbdcopy", uri(server), copy)
        same(server, copy)


def test_nbdsh():
    """libnbd for Python: requests that its checks would hold back (strict mode off)."""
    script = """
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
h.set_strict_mode(0)
size = h.get_size()
for call, number in ((lambda: h.pread(1, size), 22), (lambda: h.pwrite(b"x", size), 28),
                     (lambda: h.zero(1, size), 28), (lambda: h.trim(1, size), 22),
                     (lambda: h.pwrite(b"x" * 512, 0, 1 << 14), 22),
                     (lambda: h.block_status(1, size, lambda *a: 0), 22)):
    try:
        call()
        sys.exit("a wrong request succeeds")
    except nbd.Error as error:
        assert error.errnum == number, (error.errnum, number)
assert len(h.pread(4096, 0)) == 4096
h.shutdown()
"""
    # The binding belongs to the system's interpreter, which may not be ours.
    for python in (sys.executable, "/usr/bin/python3"):
        if shutil.which(python) and not subprocess.run(
                [python, "-c", "import nbd"], capture_output=True, check=False).returncode:
            break
    else:
        raise Skip("python3-libnbd is not installed")
    with Server() as server:
        run(python, "-c", script, uri(server))


# ---- others ----


def test_fio():
    """fio's nbd engine: random writes of mixed sizes, verified by checksum."""
    if shutil.which("fio") and "nbd" not in run("fio", "--enghelp").split():
        raise Skip("fio has no nbd engine")
    for mode in ("randwrite", "write"):
        with Server(size=32 * MIB, content="") as server:
            run("fio", "--name=peer", "--ioengine=nbd", f"--uri={uri(server)}", f"--rw={mode}",
                "--bsrange=4k-128k", "--iodepth=32", "--size=32m", "--verify=crc32c",
                "--do_verify=1", "--verify_fatal=1", "--randseed=7", "--fsync=64",
                cwd=server.directory)


def test_fio_trim_mix():
    """fio: reads, writes and trims at once, with several jobs (connections)."""
    if shutil.which("fio") and "nbd" not in run("fio", "--enghelp").split():
        raise Skip("fio has no nbd engine")
    with Server(size=32 * MIB) as server:
        run("fio", "--ioengine=nbd", f"--uri={uri(server)}", "--size=8m", "--iodepth=16",
            "--bs=4k", "--thread", "--group_reporting", "--name=w", "--rw=randwrite", "--name=r",
            "--rw=randread", "--offset=8m", "--name=t", "--rw=randtrim", "--offset=16m",
            cwd=server.directory)
        check(server.bytes(24 * MIB) == content_of(32 * MIB)[24 * MIB:], "outside the jobs")


def nbd_client():
    for path in ("nbd-client", "/usr/sbin/nbd-client", "/sbin/nbd-client"):
        if shutil.which(path):
            return path
    raise Skip("nbd-client is not installed")


def test_nbd_client_list():
    """nbd-client -l shows the export."""
    with Server("-r", "-x", "disk", tcp=True) as server:
        out = run(nbd_client(), "-l", "127.0.0.1", str(server.port))
        check("disk" in re.split(r"\s+", out), out)


def test_nbdkit_relay():
    """nbdkit's nbd plugin as our client: read and write through it."""
    if not shutil.which("nbdkit") or subprocess.run(
            ["nbdkit", "--dump-plugin", "nbd"], capture_output=True, check=False).returncode:
        raise Skip("nbdkit or its nbd plugin is not installed")
    with sparse_server() as server:
        path = server.directory + "/relay"
        command = ["nbdkit", "-f", "-U", path, "nbd", f"uri={uri(server)}", "shared=true"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as relay:
            try:
                until(lambda: os.path.exists(path), "the relay listens")
                relayed = f"nbd+unix:///?socket={path}"
                run("qemu-io", "-f", "raw", "-c", "write -P 0x77 2M 1M", "-c", "write -z 12M 1M",
                    "-c", "discard 14M 1M", "-c", "flush", relayed)
                copy = server.directory + "/copy"
                run("nbdcopy", relayed, copy)
                same(server, copy)
                check(server.bytes(2 * MIB, MIB) == b"\x77" * MIB, "what was written")
            finally:
                relay.terminate()


def test_many_peers_at_once():
    """Different clients on one server at the same time."""
    with sparse_server() as server:
        copies = [server.directory + f"/copy{n}" for n in range(4)]
        commands = [["nbdcopy", uri(server), copies[0]],
                    ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri(server), copies[1]],
                    ["nbdcopy", uri(server), copies[2]],
                    ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri(server), copies[3]]]
        for command in commands:
            if not shutil.which(command[0]):
                raise Skip(f"{command[0]} is not installed")
        running = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for command in commands]
        for process in running:
            check(process.wait(SECONDS) == 0, f"{process.args}: status {process.returncode}")
        for copy in copies:
            same(server, copy)


def test_port_in_use():
    """Two servers on one TCP port: the second says so and ends with 1."""
    with Server("-r", tcp=True) as server:
        done = subprocess.run([program(), "-r", "-f", "raw", "-b", "127.0.0.1", "-p",
                               str(server.port), server.image], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=SECONDS, check=False)
        check(done.returncode == 1 and "Address already in use" in done.stderr, f"{done}")
        check(free_port() != server.port, "the port is not in use")


main(globals())
