#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The same command line given to qemu-nbd and to hawserd under the name qemu-nbd: exit status, text,
what is listed and what is served must be the same. Where they differ on purpose the case names its
entry of DIFFERENCES FROM QEMU-NBD in hawserd(8), says what is expected of us, and fails when both
say the same after all. An entry of the manual without a case fails, too.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import MIB, TOP, Skip, check, content_of, free_port, main, program, until  # noqa: E402

QEMU = shutil.which("qemu-nbd")
LATER = "is not available in this version"
MANUAL = os.path.join(TOP, "man", "hawserd.8")
seen = set()  # entries of the manual that some case needs


def listed():
    """The tags of the manual's list: a comment in front of each entry."""
    with open(MANUAL, encoding="utf-8") as manual:
        return re.findall(r'^\.\\" differs: (\S+)$', manual.read(), re.M)


class Bench:
    """A folder with images and, for each program, a place of its own for what it makes."""

    def __init__(self):
        if not QEMU:
            raise Skip("needs qemu-nbd")
        self.folder = tempfile.TemporaryDirectory(prefix="hawser-compat-")
        self.path = self.folder.name
        os.chmod(self.path, 0o755)
        self.programs = {"theirs": QEMU, "ours": program()}
        with open(self.at("raw"), "wb") as out:
            out.write(content_of(MIB))
        self.tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", "qcow2")
        self.tool("qemu-img", "snapshot", "-c", "snap", "qcow2")
        self.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "qcow2", "-F", "qcow2",
                  "overlay")
        shutil.copy(self.at("qcow2"), self.at("bits"))
        self.tool("qemu-img", "bitmap", "--add", "bits", "bits")
        with open(self.at("odd"), "wb") as out:
            out.write(content_of(1000))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def at(self, *names):
        return os.path.join(self.path, *names)

    def tool(self, *command):
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=120,
                              check=False)
        check(done.returncode == 0, f"{command}: {done.stderr}")
        return done.stdout

    def run(self, who, line):
        """(status, stdout, stderr) of a start that ends by itself."""
        words = [word.replace("@", self.path) for word in line.split()]
        # Not into pipes: a server in the background may keep them.
        with open(self.at("out"), "w+", encoding="utf-8") as out, \
                open(self.at("err"), "w+", encoding="utf-8") as said:
            try:
                done = subprocess.run(["qemu-nbd", *words], executable=self.programs[who],
                                      cwd=self.path, stdin=subprocess.DEVNULL, stdout=out,
                                      stderr=said, timeout=60, check=False)
            except subprocess.TimeoutExpired:
                return f"{who} serves", "", ""
            out.seek(0)
            said.seek(0)
            return done.returncode, out.read(), said.read()

    def serve(self, who, line, name="sock"):
        """Starts it with --fork; its number."""
        where = f" -k {self.at(who)}-{name} --pid-file {self.at(who)}-{name}.pid --fork -t "
        status, _, said = self.run(who, line + where)
        check(status == 0, f"{who} {line}: {said}")
        with open(self.at(f"{who}-{name}.pid"), encoding="ascii") as text:
            return int(text.read())


def stop(pid, number=signal.SIGTERM):
    def gone():
        try:
            os.kill(pid, number)  # qemu-nbd may forget one that comes during its start
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                ended = stat.read().rsplit(")", 1)[1].split()[0] == "Z"
            # Its other threads may keep its files and locks for longer.
            return ended and len(os.listdir(f"/proc/{pid}/task")) == 1
        except (FileNotFoundError, ProcessLookupError):
            return True
    until(gone, f"{pid} is gone")


def plain(said):
    """Without the warning of a probed image, which both print in words of their own."""
    return "".join(line for line in said.splitlines(True)
                   if not re.match(r"WARNING: Image|qemu-nbd: warning: Image|         ", line))


def judge(what, theirs, ours, differs=None, expected=None):
    """Are two results the same, or as different as the manual says?"""
    if not differs:
        check(theirs == ours, f"{what}:\n#  qemu-nbd: {theirs}\n#  hawserd:  {ours}")
        return
    seen.add(differs)
    check(differs in listed(), f"{what}: the manual has no entry '{differs}'")
    check(theirs != ours, f"{what}: no difference any more ({differs}): {ours}")
    check(re.search(expected, str(ours), re.S), f"{what}: {ours} is not {expected}")


# (command line, entry of the manual, what is then expected); @: the folder
FAILURES = [
    ("",), ("raw raw",), ("--zzz",), ("-Z raw",), ("-p",), ("--port",), ("--fork=3 raw",),
    ("-k relative raw",), ("-k /" + "a" * 110 + " raw",), ("-p nosuchservice raw",),
    ("-b host.invalid raw",),
    ("-o 1k raw",), ("-o x raw",), ("-o -1 raw", "numbers", "Invalid offset '-1'"),
    ("-o 99999999999999999999999 raw",),
    ("-o 1048577 -f raw raw", "offset", "Invalid offset '1048577': the image"),
    ("-e x raw",), ("-e -1 raw",), ("-e 99999999999 raw",), ("-e 1k raw",),
    ("-x " + "n" * 4097 + " raw", "names", r"export name 'n{200}\.\.\.' too long"),
    ("-D " + "d" * 4097 + " raw", "names", r"export description 'd{200}\.\.\.' too long"),
    ("--handshake-limit x raw", "newer", "Invalid handshake limit 'x'"),
    ("--cache=fast raw", "hints", "Invalid cache mode `fast'; it is none"),
    ("-n --cache=none raw",), ("--cache=none -n raw",), ("-n -n raw",),
    ("--cache=none --cache=none raw",),
    ("--aio=fast raw", "hints", "Invalid aio mode 'fast'; it is threads"),
    ("--aio=threads --aio=threads raw",), ("--aio=native -f raw raw",),
    ("--aio=native --cache=writeback -f raw raw",), ("--aio=native --cache=unsafe raw -f raw",),
    ("--discard=x raw", "hints", "Invalid discard mode `x'; it is ignore"),
    ("--discard=on --discard=on raw",),
    ("--detect-zeroes=x raw", "hints", "invalid parameter value: x; it is off"),
    ("--detect-zeroes=unmap raw -f raw",), ("--detect-zeroes=unmap --discard=ignore raw -f raw",),
    ("--image-opts -f raw driver=raw",), ("--image-opts foo=bar",),
    ("--image-opts driver=raw,file.driver=file,file.filename=none",),
    ("--image-opts driver=x,file.filename=raw",),
    ("-f xx raw", "hints", "Unknown driver 'xx'; there are"), ("none",), ("-f raw none",),
    ("-f qcow2 raw",), ("@",), ("-r none",),
    ("-l none qcow2", "hints", "Can't find snapshot 'none'"), ("-l none -f raw raw",),
    ("-l snapshot.foo=1 qcow2", "hints", "Invalid parameter .{1,2}snapshot.foo"),
    ("-l snapshot.name=none qcow2", "hints", "Can't find snapshot 'snapshot.name=none'"),
    ("-f qcow2 -l snapshot.id=77 qcow2", "hints", "Can't find snapshot"),
    ("-L raw",), ("-L -x a",), ("-L -D a",), ("-L -o 1",),
    ("-L -o 0 -k @/nobody", "list", "No such file or directory"),
    ("-L -c /dev/nbd0",), ("-L -d",),
    ("-L -f raw",), ("-L -l 1",), ("-L -B a",), ("-L -A",), ("-L --cache=none",), ("-L -n",),
    ("-L --aio=threads",), ("-L --discard=on",),
    ("-L --detect-zeroes=on -k @/nobody", "list", "No such file"),
    ("-L --fork",),
    ("-L -k @/nobody", "list", "No such file or directory"),
    ("-L -r -s -t -e 3 -k relative",),
    ("-B none qcow2 -f qcow2",), ("-B none raw -f raw",),
    ("--tls-authz=x raw",), ("--tls-hostname=x raw",), ("--tls-creds=x raw -f raw",),
    ("--tls-creds=x -c /dev/nbd0 raw",), ("--object secret,id=x,data=a --tls-creds=x raw -f raw",),
    ("--tls-hostname=x -L",), ("--tls-hostname=x --tls-creds=y raw",),
    ("--tls-authz=x --tls-creds=y -L",), ("--object nonsense,id=x raw", "hints", "'nonsense'"),
    ("--object secret raw",),
    ("--object secret,id=x,data=a --object secret,id=x,data=a raw",),
    ("--selinux-label=x raw",), ("--selinux-label=x -p 1 raw",),
    ("-d /dev/nothing",), ("-d raw", "detach", "raw"),
    ("--pid-file @/nonexistent/pid -k @/s raw -f raw",), ("--pid-file @ -k @/s raw -f raw",),
    ("--image-opts driver=raw,file.filename=raw,foo=1", "hints", "Invalid parameter 'foo'"),
    ("--image-opts driver=raw,file.filename=raw,read-only=maybe", "hints", "not 'maybe'"),
    ("--image-opts driver=raw,file.filename=raw,offset=2M",),
    ("--image-opts driver=raw,file.filename=raw,offset=0,size=3",),
    ("--image-opts driver=raw,file.filename=raw,offset=512,size=1M",),
    ("--image-opts driver=qcow2,file.filename=raw",), ("--image-opts driver=raw",),
    ("--image-opts driver=raw,file.driver=file",), ("--image-opts",),
    ("--image-opts driver=throttle,file.driver=raw,file.file.filename=raw",),
    ("--image-opts driver=throttle,throttle-group=x,file.driver=raw,file.file.filename=raw",),
    ("--image-opts driver=raw,file.filename=raw,force-share=on",),
    ("--image-opts driver=raw,file.filename=raw,discard=perhaps",),
    ("--image-opts driver=raw,file.filename=raw,detect-zeroes=unmap",),
    ("--image-opts driver=raw,file.filename=raw,detect-zeroes=x",),
    ("--image-opts driver=raw,file.filename=raw,file.locking=x",),
    ("--image-opts driver=raw,file.filename=raw,file.aio=x",),
    ("--image-opts driver=raw,file.filename=raw,file.aio=native",),
    ("--image-opts driver=qcow2,file.filename=overlay,backing.file.filename=none", "hints",
     "Could not open backing file 'none'"),
    ("json:", "hints", "Could not parse the JSON options"),
    ("json:{", "hints", "Could not parse the JSON options"), ("json:[1]",),
    ('json:{"driver":"raw"}',),
    ('json:{"driver":"raw","file":{"driver":"file","filename":"none"}}',),
    ('json:{"driver":"x","file":{"driver":"file","filename":"raw"}}',),
    ("--image-opts json:{}", "node", "Must specify either driver or file"),
    ("--object throttle-group",), ("--object iothread raw",),
    ("--object throttle-group,id=1 raw", "hints", "expects an identifier"),
    ("--object throttle-group,id=a,x-bps-totl=1 raw", "hints", "did you mean 'x-bps-total'"),
    ("--object throttle-group,id=a,x-bps-total=1,x-bps-read=1 raw", "hints", "at the same time"),
    ("--object throttle-group,id=a,x-bps-total-max=1 raw", "hints", "require corresponding"),
    ("--object secret,id=x raw", "hints", "object 'x' .secret.: Either 'file' or 'data' must be"),
    ('--object {"qom-type":"secret","id":"x"} raw', "hints", "Either 'file' or 'data' must be"),
    ('--object {"id":"x"} raw',), ('--object {"qom-type":"secret"} raw',),
    ('--object {"id":"x","id":"y"} raw', "hints", "JSON parse error, duplicate key 'id'"),
    ('--object {"qom-type":"x","id":"x"} raw', "hints", "'x'; --object help lists"),
    ("--object secret,id=x,file=@/none raw", "hints", "Unable to read @?.*/none: No such file"),
    ("--object tls-creds-x509,id=t raw -f raw", "hints", "Missing 'dir' property value"),
    ("--object authz-simple,id=a raw", "hints", "Parameter 'identity' is missing"),
    ("--tls-creds",), ("--tls-creds=x --tls-authz=y raw -f raw",), ("-T",), ("--pid-file",),
    ("-T file=@/none/x raw -f raw", "hints", "Could not open trace file"),
    ("-T foo=1 raw -f raw", "hints", "--trace: Invalid parameter 'foo'"),
    ("-k @/none/s raw -f raw",), ("-b 999.1.1.1 raw -f raw",), ("-p -5 raw -f raw",),
    ("-b 192.0.2.1 raw -f raw", "hints", "Cannot assign requested address .192.0.2.1 port"),
    ("-o 0x raw",), ("-o 09 raw",), ("-o 1.5 raw",), ("-e 0x raw",), ("-e 4294967296 raw",),
    ("-f luks raw", "luks", "Volume is not in LUKS format"), ("-s none -f raw",), ("-s -f raw @",),
    ("-l snap overlay", "hints", "find snapshot 'snap'"),
    ("-B a -B b qcow2 -f qcow2",), ("-A -B none -r qcow2",), ("-rf raw none",), ("-tfraw none",),
    ("-- none",), ("-- -r none",), ("-c",), ("-d",), ("-d raw raw",), ("-d none",),
    ("-d @", "detach", "is not an nbd device"),
    ("-c none raw -f raw", "hints", "'none' is not an nbd device"), ("--selinux-label",),
    ("--fork -f raw none",), ("--fork",), ("-L -p 1 -b 127.0.0.1", "list", "Connection refused"),
    ("-L -b host.invalid", "list", "Name or service not known"), ("-L raw raw",),
    ("-P 1 raw", "partition", "Could not find partition 1"),
    ("-P x raw", "partition", "Invalid partition `x'"),
]


def test_failures():
    """What fails with qemu-nbd fails here, with the same words and nothing left behind."""
    with Bench() as bench:
        faults = []
        for line, *difference in FAILURES:
            results = []
            for who in ("theirs", "ours"):
                status, out, said = bench.run(who, line)
                results.append((status, out, plain(said)))
                for leaf in ("s", "sock"):
                    if os.path.exists(bench.at(leaf)):
                        check(who == "theirs", f"{line}: a socket is left")
                        os.unlink(bench.at(leaf))
            try:
                judge(line, *results, *difference)
            except Exception as error:  # pylint: disable=broad-except
                faults.append(str(error))
        check(not faults, "\n# ".join(faults))


def test_every_abbreviation():
    """Each way to shorten each long option of qemu-nbd: taken, refused, ambiguous as there."""
    with Bench() as bench:
        text = bench.run("theirs", "--help")[1]
        names = sorted(set(re.findall(r"--([a-z][a-z-]+)", text)) - {"help", "version"})
        check(len(names) > 25, f"{names}")
        ours = bench.run("ours", "--help")[1]
        check(not [name for name in names if f"--{name}" not in ours], "--help lacks options")
        for shortened in sorted({name[:end] for name in names for end in range(1, len(name) + 1)}):
            if shortened in ("v", "ve", "ver", "h", "he", "hel", "help"):
                continue  # -v or -V; help or the newer --handshake-limit
            results = []
            for who in ("theirs", "ours"):
                # Without a FILE; a value where none belongs tells which option was meant.
                status, _, said = bench.run(who, f"--{shortened}=1 --no-such")
                if "ambiguous" in said:
                    said = "ambiguous"
                elif "doesn't allow" not in said:
                    said = "taken"
                results.append((status, said))
            check(results[0] == results[1], f"--{shortened}: {results}")


# Options with which both serve the same; then the entry and expectation where -L differs.
SERVED = [
    ("-f raw raw",), ("-f qcow2 qcow2",), ("qcow2",), ("-r -f raw raw",), ("-f qcow2 -r overlay",),
    ("-e 0 -f raw raw",), ("-e 5 -r -f raw raw",), ("-x name -D text -f raw raw",),
    ("-o 4096 -f raw raw",), ("-o 0x200 -f qcow2 -r qcow2",), ("-s -f raw raw",),
    ("-s -r -f raw raw",), ("-s qcow2 -f qcow2",), ("-l snap qcow2",), ("-l 1 -f qcow2 qcow2",),
    ("-l snapshot.name=snap qcow2",), ("-l snapshot.id=1,snapshot.name=snap qcow2",),
    ("--cache=none -f raw raw",), ("-n -f raw raw",), ("--cache=off -f raw raw",),
    ("--cache=writeback -f raw raw",), ("--cache=writethrough -f raw raw",),
    ("--cache=directsync -f raw raw",), ("--cache=unsafe -f raw raw",),
    ("--aio=threads -f raw raw",), ("--aio=native --cache=none -f raw raw",),
    ("--discard=ignore -f raw raw",), ("--discard=off -f raw raw",), ("--discard=on raw -f raw",),
    ("--discard=unmap -f qcow2 qcow2",), ("--detect-zeroes=on -f raw raw",),
    ("--detect-zeroes=off -f raw raw",), ("--discard=unmap --detect-zeroes=unmap -f raw raw",),
    ("--object secret,id=s,data=abc -f raw raw",),
    ('--object {"qom-type":"secret","id":"s","data":"abc"} -f raw raw',),
    ('--object {"qom-type":"authz-list","id":"s","rules":[{"match":"x","policy":"deny"}]} '
     '-f raw raw',),
    ('--object {"qom-type":"iothread","id":"s","poll-max-ns":32} -f raw raw',),
    ("--object iothread,id=i -f raw raw",),
    ("-A -f qcow2 -r overlay",), ("-B bits -r -f qcow2 bits",), ("-A -B bits -r -f qcow2 bits",),
    ("-T nbd_* -f raw raw",), ("--trace enable=nbd_co_* -f raw raw",), ("-v -f raw raw",),
    ("--image-opts driver=raw,file.driver=file,file.filename=raw",),
    ("--image-opts driver=qcow2,file.filename=qcow2",),
    ("--image-opts driver=raw,offset=512,size=1024,file.filename=raw",),
    ('json:{"driver":"raw","file":{"driver":"file","filename":"raw"}}',),
    ('-r json:{"driver":"qcow2","file":{"driver":"file","filename":"qcow2"}}',),
    ("-f raw odd", "size", r"size:  1000\b"),
    ("-B bits -B bits -r -f qcow2 bits", "bits-twice", "contexts: 2"),
]


def listing(bench, asks, serves):
    status, out, said = bench.run(asks, f"-L -k {bench.at(serves)}-sock")
    check(status == 0, f"-L: {said}")
    return "".join(line for line in out.splitlines(True) if "transaction size" not in line)


def digest(bench, who, name):
    uri = f"nbd+unix:///{name}?socket={bench.at(who)}-sock"
    bench.tool("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, f"{who}.out")
    with open(bench.at(f"{who}.out"), "rb") as out:
        return hashlib.sha256(out.read()).hexdigest()


def compare_service(bench, line, *difference):
    shown, bytes_served = {}, {}
    for who in ("theirs", "ours"):
        pid = bench.serve(who, line)
        try:
            shown[who] = listing(bench, "theirs", who)
            check(shown[who] == listing(bench, "ours", who), f"{line}: two lists of {who}")
            bytes_served[who] = digest(bench, who, "name" if "-x name" in line else "")
        finally:
            stop(pid)
    judge(line, shown["theirs"], shown["ours"], *difference)
    if not difference:
        check(bytes_served["theirs"] == bytes_served["ours"], f"{line}: other bytes")


def test_service():
    """Flags, sizes, contexts and bytes of every option; each client lists each server."""
    with Bench() as bench:
        faults = []
        for line, *difference in SERVED:
            try:
                compare_service(bench, line, *difference)
            except Exception as error:  # pylint: disable=broad-except
                faults.append(str(error))
        check(not faults, "\n# ".join(faults))


def test_words_that_answer():
    """-h and -V answer first and end with 0; -V in the form that programs cut apart."""
    with Bench() as bench:
        for line in ("-V", "--version", "-h", "--help", "-V raw raw", "-r -h"):
            for who in ("theirs", "ours"):
                status, out, said = bench.run(who, line)
                check((status, said) == (0, ""), f"{who} {line}: {status} {said}")
                check(re.match(r"qemu-nbd \d+\.\d+\.\d+ \(.*\)|Usage: qemu-nbd \[OPTIONS\] FILE",
                               out), f"{who} {line}: {out}")


FORMATS = ("qed", "vmdk", "vhdx", "vpc", "vdi", "parallels", "qcow")


def test_formats():
    """Images of every other format are recognized, named and not served as their bytes."""
    with Bench() as bench:
        for name in FORMATS:
            bench.tool("qemu-img", "create", "-q", "-f", name, f"disk.{name}", "4M")
            for line in (f"disk.{name}", f"-f {name} disk.{name}"):
                status, _, said = bench.run("ours", line + " -k @/none/s")
                check(status == 1 and f"'{name}'" in said and LATER in said, f"{line}: {said}")
            stop(bench.serve("theirs", f"disk.{name} -r", name))
        for name in ("bochs", "cloop", "dmg", "vvfat", "nbd", "ssh", "quorum", "null-co"):
            status, _, said = bench.run("ours", f"-f {name} raw")
            check(status == 1 and f"'{name}'" in said, f"-f {name}: {said}")
        seen.add("formats")


def test_access():
    """Outcomes of opening for writing what cannot be written; with -r it is served."""
    with Bench() as bench:
        if os.geteuid():
            raise Skip("needs root, to be somebody else")
        os.chmod(bench.at("raw"), 0o444)
        for who in ("theirs", "ours"):
            prefix = ["setpriv", "--reuid=65534", "--clear-groups", bench.programs[who]]
            done = subprocess.run([*prefix, "-f", "raw", "raw"], cwd=bench.path, timeout=60,
                                  capture_output=True, text=True, check=False)
            check(done.returncode == 1 and
                  "Could not open 'raw': Permission denied" in done.stderr, f"{who}: {done}")
        for line in ("-f raw @", "-f raw -r @"):
            results = [bench.run(who, line) for who in ("theirs", "ours")]
            judge(line, *results)


def test_life():
    """Pid files, sockets that are left, warnings and --fork, clients one too many."""
    with Bench() as bench:
        for who in ("theirs", "ours"):
            pid = bench.serve(who, "-f raw raw")
            with open(bench.at(f"{who}-sock.pid"), encoding="ascii") as text:
                check(text.read() == f"{pid}\n", "pid file")
            check(os.stat(bench.at(f"{who}-sock.pid")).st_mode & 0o777 == 0o600, "its mode")
            stop(pid)
            check(not os.path.exists(bench.at(f"{who}-sock")), f"{who} leaves its socket")
        judge("pid file", os.path.exists(bench.at("theirs-sock.pid")),
              os.path.exists(bench.at("ours-sock.pid")), "pid-file", "False")
        status = {}
        for who in ("theirs", "ours"):
            status[who] = bench.run(who, f"--fork -k @/{who}-warn --pid-file @/{who}-warn.pid raw")
            with open(bench.at(f"{who}-warn.pid"), encoding="ascii") as text:
                stop(int(text.read()))
        check("probing guessed raw" in status["ours"][2] and
              "probing guessed raw" in status["theirs"][2], f"{status}")
        judge("--fork with a warning", status["theirs"][0], status["ours"][0], "warning", "^0$")


def test_taken_socket():
    """A second start on a socket: theirs takes it away, ours is refused."""
    with Bench() as bench:
        result = {}
        for who in ("theirs", "ours"):
            pid = bench.serve(who, "-r -f raw raw")
            second, _, said = bench.run(who, f"-r --fork -t -k @/{who}-sock "
                                        f"--pid-file @/{who}-second.pid -f raw raw")
            result[who] = second
            if second == 0:
                with open(bench.at(f"{who}-second.pid"), encoding="ascii") as text:
                    stop(int(text.read()))
            else:
                check("a server already answers" in said, said)
            stop(pid)
        judge("a taken socket", result["theirs"], result["ours"], "socket", "^1$")


def test_busy_port():
    """A TCP address on which somebody listens already."""
    with Bench() as bench, socket.create_server(("127.0.0.1", 0)) as busy:
        line = f"-b 127.0.0.1 -p {busy.getsockname()[1]} -f raw raw"
        judge("a busy port", bench.run("theirs", line), bench.run("ours", line))


def test_zeroes_move_no_bytes():
    """Trimming under a limit on bytes: there it waits as if it were written."""
    with Bench() as bench:
        result = {}
        for who in ("theirs", "ours"):
            line = ("--discard=unmap --object throttle-group,id=g,x-bps-write=1000 --image-opts "
                    "driver=throttle,throttle-group=g,file.driver=raw,file.file.filename=raw")
            pid = bench.serve(who, line)
            try:
                uri = f"nbd+unix:///?socket={bench.at(who)}-sock"
                subprocess.run(["qemu-io", "-f", "raw", "-c", "discard 0 1M", "-c", "write 0 512",
                                uri], timeout=6 if who == "theirs" else 60, check=True,
                               stdout=subprocess.DEVNULL)
                result[who] = "at once"
            except subprocess.TimeoutExpired:
                result[who] = "late"
            finally:
                stop(pid, signal.SIGKILL)  # theirs would pay for the request first
        judge("a limit on bytes", result["theirs"], result["ours"], "zeroes", "at once")


def test_two_writers():
    """Two servers that write one raw image."""
    with Bench() as bench:
        result = {}
        for who in ("theirs", "ours"):
            pid = bench.serve(who, "-f raw raw")
            result[who] = bench.run(who, f"--fork -t -k @/{who}-b --pid-file @/{who}-b.pid "
                                    "-f raw raw")[0]
            if result[who] == 0:
                with open(bench.at(f"{who}-b.pid"), encoding="ascii") as text:
                    stop(int(text.read()))
            stop(pid)
        judge("two writers", result["theirs"], result["ours"], "writers", "^1$")


def test_starts():
    """What one of them serves and the other refuses."""
    with Bench() as bench:
        for line, *difference in (("-f qcow2 bits", "bitmaps", "^1$"),
                                  ("-o 512 -B bits -r -f qcow2 bits", "window", "^0$"),
                                  ("-l snap -B bits -r -f qcow2 bits", "bits-then", "^1$"),
                                  ("--image-opts driver=qcow2,file=qcow2", "node", "^0$"),
                                  ("--selinux-label=x -f raw raw", "selinux", "^0$")):
            if "selinux" in line and os.path.exists("/sys/fs/selinux/enforce"):
                seen.add("selinux")
                continue
            result = {}
            for who in ("theirs", "ours"):
                result[who] = bench.run(who, f"{line} --fork -t -k @/{who}-b "
                                             f"--pid-file @/{who}-b.pid")[0]
                if result[who] == 0:
                    with open(bench.at(f"{who}-b.pid"), encoding="ascii") as text:
                        stop(int(text.read()))
            judge(line, result["theirs"], result["ours"], *difference)


def test_port():
    """A port that no TCP port has."""
    with Bench() as bench:
        result = {}
        for who in ("theirs", "ours"):
            line = f"--fork -b 127.0.0.1 -p {65536 + free_port()} --pid-file @/{who}-p.pid"
            result[who] = bench.run(who, line + " -f raw raw")[0]
            if result[who] == 0:
                with open(bench.at(f"{who}-p.pid"), encoding="ascii") as text:
                    stop(int(text.read()))
        judge("port", result["theirs"], result["ours"], "port", "^1$")


def test_last_client():
    """Without -t both end with their last client, after a probe and a list."""
    with Bench() as bench:
        for who in ("theirs", "ours"):
            path = bench.at(f"{who}-last")
            with subprocess.Popen(["qemu-nbd", "-k", path, "-f", "raw", "raw"], cwd=bench.path,
                                  executable=bench.programs[who]) as server:
                until(lambda p=path: os.path.exists(p), "the socket is there")
                time.sleep(0.2)
                bench.run("theirs", f"-L -k {path}")
                check(server.poll() is None, f"{who}: a list ends it")
                bench.tool("qemu-img", "info", f"nbd+unix:///?socket={path}")
                check(server.wait(60) == 0, f"{who}: status {server.returncode}")
                check(not os.path.exists(path), f"{who} leaves its socket")


def activated(bench, who, line, count=1):
    script = ('exec 3<>/dev/null; LISTEN_PID=$$ LISTEN_FDS=$1; export LISTEN_PID LISTEN_FDS; '
              'shift; program=$1; shift; exec -a qemu-nbd "$program" "$@"')
    words = [word.replace("@", bench.path) for word in line.split()]
    done = subprocess.run(["bash", "-c", script, "bash", str(count), bench.programs[who], *words],
                          cwd=bench.path, capture_output=True, text=True, timeout=60, check=False,
                          stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, plain(done.stderr)


def test_activation():
    """What socket activation excludes."""
    with Bench() as bench:
        for line, count in (("-c /dev/nbd0 raw", 1), ("-k @/s raw", 1), ("-b ::1 raw", 1),
                            ("-p 1 raw", 1), ("-L", 1), ("raw -f raw", 2),
                            ("--selinux-label=x -k @/s raw", 1)):
            judge(f"{line} with {count} sockets", activated(bench, "theirs", line, count),
                  activated(bench, "ours", line, count))


def test_the_list():
    """Every entry of the manual's list is one that some test above has seen."""
    entries = listed()
    elsewhere = {"connect", "errors", "slots"}  # tests/vm, tests/protocol
    check(len(entries) == len(set(entries)), f"twice: {entries}")
    check(set(entries) == seen | elsewhere,
          f"in the manual only: {set(entries) - seen - elsewhere}; "
          f"here only: {(seen | elsewhere) - set(entries)}")


main(globals())
