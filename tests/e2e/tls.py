#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
TLS between our programs and those of others, both ways: QEMU, libnbd, nbdkit, nbd-server, GnuTLS's
and OpenSSL's own clients. Version by version, cipher by cipher, kind of credentials by kind. A
program that is not installed is a skipped test.
"""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "protocol"))

from harness import (MIB, SANITIZER, TOP, Server, Skip, check, content_of, free_port,  # noqa: E402
                     listens_on_path, listens_on_port, main, until)
from nbdraw import (OPT_GO, OPT_LIST, OPT_STARTTLS, REP_ACK, REPLYMAGIC,  # noqa: E402
                    info_data)
from pki import KEY, USER, option_bytes, pki  # noqa: E402

HAWSER = os.environ.get("HAWSER") or os.path.join(TOP, "build", "hawser")
HAWSERD = os.environ.get("HAWSERD") or os.path.join(TOP, "build", "hawserd")
SIZE = 8 * MIB
ALL_PSK = "+ECDHE-PSK:+DHE-PSK:+PSK"
VERSIONS = {"1.2": "-VERS-ALL:+VERS-TLS1.2", "1.3": "-VERS-ALL:+VERS-TLS1.3"}
CIPHERS = ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305")


def need(name):
    if not shutil.which(name):
        raise Skip(f"{name} is not installed")


def attempt(*command, **how):
    """Status and all that a program said."""
    need(command[0])
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
                          check=False, **how)
    said = (done.stdout + done.stderr).decode(errors="replace")
    check(not SANITIZER.search(said), said)
    return done.returncode, said


def run(*command, **how):
    status, said = attempt(*command, **how)
    check(status == 0, f"{' '.join(command)}: status {status}\n{said}")
    return said


def refused(*command, **how):
    status, said = attempt(*command, **how)
    check(status != 0, f"{' '.join(command)}: is served\n{said}")
    return said


def agreed(server):
    """The version and cipher of the last client, from the server's log."""
    found = re.findall(r"client \d+: (TLSv1\.\d) (\S+?)(?:,|$)", server.stderr(), re.M)
    check(found, f"no TLS in the log: {server.stderr()}")
    return found[-1]


def priority(version, cipher=None, more=""):
    text = f"NORMAL:{VERSIONS[version]}" + (f":{more}" if more else "")
    if cipher:
        text += ":-CIPHER-ALL:+" + cipher
    return "priority=" + text


def same_cipher(name, cipher):
    return cipher.replace("-", "").replace("POLY1305", "") in re.sub("[-_]", "", name)


def compare(server, uri, *image_opts):
    """qemu-img reads all of the export and finds the image."""
    run("qemu-img", "compare", *image_opts, "--image-opts",
        f"driver=raw,file.driver=file,file.filename={server.image}", uri)


def qemu_nbd(server, objects, *more):
    """qemu-img's description of our export, over TLS."""
    where = (f"file.server.type=inet,file.server.host=localhost,file.server.port={server.port}"
             if server.port else f"file.server.type=unix,file.server.path={server.path}")
    compare(server, ",".join(["driver=raw", "file.driver=nbd", where, "file.tls-creds=tls", *more]),
            *objects[:2])


# ---- Others' clients, our server ----


def test_qemu_client():
    """QEMU with certificates, keys and nobody's name: each version, each cipher."""
    need("qemu-img")
    kinds = {"x509": (pki().x509, pki().good, ""), "psk": (pki().psk, pki().keys, ALL_PSK)}
    for kind, (make, folder, more) in kinds.items():
        with Server(*make(), "-v", "-r", size=SIZE, tcp=True) as server:
            for version in VERSIONS:
                for cipher in CIPHERS:
                    if kind == "psk" and version == "1.3" and cipher == "AES-256-GCM":
                        continue  # keys from a file go with SHA-256 in TLS 1.3
                    words = priority(version, cipher, more)
                    qemu_nbd(server, make(folder, words, endpoint="client"))
                    got = agreed(server)
                    check(got[0] == "TLSv" + version and same_cipher(got[1], cipher),
                          f"{kind} {version} {cipher}: {got}")
    with Server(*pki().anon(), "-v", "-r", size=SIZE) as server:
        qemu_nbd(server, pki().anon(endpoint="client"))
        check(agreed(server)[0] == "TLSv1.2", "anonymous TLS 1.3 does not exist")


def test_qemu_lists():
    """qemu-nbd -L, with the outcomes of its certificates."""
    need("qemu-nbd")
    others = [pki().folder("q-" + name, client=f"client-{name}")
              for name in ("other", "expired", "revoked")]
    with Server(*pki().x509(pki().revoking), tcp=True) as server:
        at = ["qemu-nbd", "-L", "-b", "localhost", "-p", str(server.port)]
        check("exports available: 1" in run(*at, *pki().x509(endpoint="client")), "-L")
        for folder in others:
            refused(*at, *pki().x509(folder, "sanity-check=off", endpoint="client"))
        refused(*at)
        refused(*at, *pki().x509(endpoint="client"), "--tls-hostname", "elsewhere")
        check("exports available: 1" in run(*at, *pki().x509(endpoint="client")), "afterwards")


def test_libnbd_tools():
    """nbdinfo and nbdcopy over TLS, Unix and TCP, certificates and keys."""
    need("nbdcopy")
    for tcp in (False, True):
        for make, words in ((pki().x509, f"tls-certificates={pki().good}"),
                            (pki().psk, f"tls-psk-file={pki().keys}/keys.psk")):
            with Server(*make(), size=SIZE, tcp=tcp) as server:
                uri = (f"nbds://{USER}@localhost:{server.port}/?{words}" if tcp else
                       f"nbds+unix://{USER}@/?socket={server.path}&{words}")
                check("TLS" in run("nbdinfo", uri), "nbdinfo")
                copy = server.directory + "/copy"
                run("nbdcopy", uri, copy)
                with open(copy, "rb") as got:
                    check(got.read() == server.bytes(), "nbdcopy out")
                with open(copy, "wb") as out:
                    out.write(content_of(SIZE, 7))
                run("nbdcopy", copy, uri)
                check(server.bytes() == content_of(SIZE, 7), "nbdcopy in")
                refused("nbdinfo", uri.replace("nbds", "nbd"))


def test_identities():
    """QEMU and libnbd with several keys in a file: each user with its own key, and no other."""
    keys = {"alice": "a1" * 32, "bob": "b0" * 16}
    for name, lines in (("many", keys), ("swapped", {"alice": keys["bob"], "bob": keys["alice"]})):
        os.makedirs(pki().path(name), exist_ok=True)
        pki().write(name + "/keys.psk", "".join(f"{user}:{key}\n" for user, key in lines.items()))
    with Server(*pki().psk(pki().path("many")), "-v", size=SIZE, tcp=True) as server:
        for user in keys:
            for folder, ask in (("many", run), ("swapped", refused)):
                path = pki().path(folder)
                ask("nbdinfo", "--size",
                    f"nbds://{user}@localhost:{server.port}/?tls-psk-file={path}/keys.psk")
                ask("qemu-img", "info", "--object",
                    f"tls-creds-psk,id=tls,endpoint=client,dir={path},username={user},"
                    f"priority=NORMAL:{ALL_PSK}", "--image-opts",
                    "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=localhost,"
                    f"file.server.port={server.port},file.tls-creds=tls")
        for user in keys:
            check(re.search(rf"TLSv1\.\d \S+, {user}$", server.stderr(), re.M), server.stderr())


class StartTls:
    """A local port that does NBD's part of STARTTLS with the server, then passes bytes on: so that
    programs that know nothing of NBD can try their TLS."""

    def __init__(self, server):
        self.server = server
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                local = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.carry, args=(local,), daemon=True).start()

    def carry(self, local):
        remote = self.server.greeted()
        remote.send(option_bytes(OPT_STARTTLS))
        remote.receive(20)
        remote.sock.settimeout(None)
        back = threading.Thread(target=self.pump, args=(remote.sock, local), daemon=True)
        back.start()
        self.pump(local, remote.sock)
        back.join(20)

    @staticmethod
    def pump(source, target):
        try:
            while part := source.recv(65536):
                target.sendall(part)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def s_client(port, *options, keys=b"", wait=1.0):
    """openssl s_client; keys are typed one by one, after the handshake. All that it said."""
    need("openssl")
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as peer:
        for key in keys.split():
            time.sleep(wait)
            try:
                peer.stdin.write(key + b"\n")
                peer.stdin.flush()
            except BrokenPipeError:
                break
        time.sleep(wait)
        try:
            return peer.communicate(timeout=30)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            peer.kill()
            return peer.communicate()[0].decode(errors="replace")


class Typist:
    """openssl s_client, which sends what we write, and changes keys when we type K or k."""

    def __init__(self, port, *options):
        need("openssl")
        self.said = b""
        self.process = subprocess.Popen(
            ["openssl", "s_client", "-brief", "-connect", f"127.0.0.1:{port}", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.expect(b"CONNECTION ESTABLISHED")

    def expect(self, what):
        """Waits for these bytes, and forgets what came up to them."""
        def came():
            self.said += self.process.stdout.read() or b""
            return what in self.said
        until(came, f"{what[:40]!r} from s_client")
        self.said = self.said[self.said.index(what) + len(what):]

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def change_keys(self, letter):
        """K wants the other side's changed, too; k does not."""
        self.type(letter)
        self.expect(b"KEYUPDATE")

    def option(self, option, data=b""):
        self.type(option_bytes(option, data))
        self.expect(struct.pack(">QII", REPLYMAGIC, option, REP_ACK))

    def read(self, cookie, offset, length):
        """Sends a request, and waits for its simple reply with these bytes."""
        self.type(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, offset, length))
        return struct.pack(">IIQ", 0x67446698, 0, cookie)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def client_files(name="client"):
    return ["-cert", pki().path(name + "-cert.pem"), "-key", pki().path(name + "-key.pem"),
            "-CAfile", pki().path("ca-cert.pem")]


def test_openssl_client():
    """OpenSSL's own client: versions, ciphers, downgrade, renegotiation, key update, keys."""
    with Server(*pki().x509(), "-v") as server, StartTls(server) as door:
        for version, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
            said = s_client(door.port, version, *client_files(), wait=0.3)
            check("Verify return code: 0" in said and name in said, said)
            check("Secure Renegotiation IS" in said and "Compression: NONE" in said, said)
            check("TLS session ticket:" not in said, "a ticket")
        for options in (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
                        ["-tls1_2", "-cipher", "AES128-SHA"],
                        ["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"],
                        ["-tls1_2", "-fallback_scsv"],  # says that it could do better
                        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"]):
            said = s_client(door.port, *options, *client_files(), wait=0.3)
            check("Cipher is (NONE)" in said, f"{options}: {said}")
        said = s_client(door.port, "-tls1_2", *client_files(), keys=b"R")
        check("no renegotiation" in said, f"renegotiation: {said}")
        said = s_client(door.port, "-tls1_3", *client_files(), keys=b"K k K")
        check("KEYUPDATE" in said and "error" not in said.lower(), f"key update: {said}")
        server.alive()
    with Server(*pki().anon(), "-v") as server, StartTls(server) as door:
        for cipher in ("ADH-AES256-GCM-SHA384", "AECDH-AES128-SHA"):
            said = s_client(door.port, "-tls1_2", "-cipher", cipher + ":@SECLEVEL=0", wait=0.3)
            check(f"Cipher is {cipher}" in said, said)
        for options in (["-tls1_3"], ["-tls1_2"]):
            said = s_client(door.port, *options, *client_files(), wait=0.3)
            check("Cipher is (NONE)" in said, f"{options}: {said}")
    with Server(*pki().psk(), "-v") as server, StartTls(server) as door:
        for version, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
            said = s_client(door.port, version, "-psk_identity", USER, "-psk", KEY, wait=0.3)
            check("Cipher is (NONE)" not in said and name in said, said)
            for identity, key in ((USER, "00" * 32), ("nobody", KEY), ("", KEY)):
                before = server.stderr().count(" TLSv1.")
                s_client(door.port, version, "-psk_identity", identity, "-psk", key, wait=0.3)
                check(server.stderr().count(" TLSv1.") == before, f"{identity} is let in")


def test_key_update():
    """A peer that changes its keys in the middle, and one that wants ours changed, is served on;
    also where the kernel could have encrypted, which cannot change a key."""
    for tcp in (False, True):
        with Server(*pki().x509(), "-v", size=SIZE, tcp=tcp) as server, StartTls(server) as door:
            with Typist(door.port, "-tls1_3", *client_files()) as peer:
                for letter in (b"k", b"K", b"K"):
                    peer.change_keys(letter)
                    peer.option(OPT_LIST)
                peer.option(OPT_GO, info_data(""))
                for cookie, letter in enumerate((b"K", b"k", b"K")):
                    peer.change_keys(letter)
                    for offset, length in ((7, 20), (4096, 300000)):
                        head = peer.read(cookie + offset, offset, length)
                        peer.expect(head + server.bytes(offset, length))
            check("by the kernel" not in server.stderr(), server.stderr())


def test_nbd_client():
    """nbd-client lists over TLS with certificates, and gets nothing without or with others."""
    need("nbd-client")
    other = pki().folder("nbd-other", client="client-other")

    def ask(server, folder):
        files = ["-certfile", f"{folder}/client-cert.pem", "-keyfile", f"{folder}/client-key.pem",
                 "-cacertfile", f"{pki().good}/ca-cert.pem", "-tlshostname", "localhost"]
        return attempt("nbd-client", "-l", "localhost", str(server.port),
                       *(["-enable-tls", *files] if folder else []))[1]

    with Server(*pki().x509(), "-v", "-x", "the-disk", tcp=True) as server:
        check("the-disk" in ask(server, pki().good), "not listed")
        for folder in (other, None):
            check("the-disk" not in ask(server, folder), "listed")
        check("the-disk" in ask(server, pki().good), "not listed any more")


def test_gnutls_client():
    """GnuTLS's own client: both versions, a rehandshake, and what it is refused for."""
    need("gnutls-cli")
    base = ["gnutls-cli", "--x509cafile", pki().path("ca-cert.pem"), "--verify-hostname",
            "localhost", "127.0.0.1"]
    own = ["--x509certfile", pki().path("client-cert.pem"), "--x509keyfile",
           pki().path("client-key.pem")]
    with Server(*pki().x509(), "-v") as server, StartTls(server) as door:
        for version, words in VERSIONS.items():
            said = run(*base, *own, "-p", str(door.port), "--priority", f"NORMAL:{words}")
            check("Handshake was completed" in said and f"TLS{version}" in said, said)
        refused(*base, *own, "-p", str(door.port), "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1")
        attempt(*base, *own, "-p", str(door.port), "--rehandshake")
        server.alive()
    with Server(*pki().psk(), "-v") as server, StartTls(server) as door:
        for version, words in VERSIONS.items():
            psk = ["gnutls-cli", "127.0.0.1", "-p", str(door.port), "--pskusername", USER,
                   "--priority", f"NORMAL:{words}:-KX-ALL:{ALL_PSK}", "--pskkey"]
            # gnutls-cli 3.7.9 crashes when it shows a key exchange of TLS 1.2 with DHE-PSK.
            said = attempt(*psk, KEY)[1]
            until(lambda: "Handshake was completed" in said
                  or f"TLSv{version} " in server.stderr(), version)
            before = server.stderr().count(" TLSv1.")
            attempt(*psk, "00" * 32)
            check(server.stderr().count(" TLSv1.") == before, "a wrong key is let in")


# ---- Others' servers, our clients ----


class Foreign:
    """Somebody else's server on a socket (%s in its command) or a port."""

    def __init__(self, *command, tcp=False):
        need(command[0])
        self.directory = tempfile.mkdtemp(prefix="hawser-e2e-")
        self.image = os.path.join(self.directory, "image")
        with open(self.image, "wb") as out:
            out.write(content_of(SIZE))
        self.path = os.path.join(self.directory, "socket")
        self.port = free_port() if tcp else None
        self.command = [word.replace("%s", self.path).replace("%p", str(self.port))
                        .replace("%i", self.image) for word in command]
        self.process = None

    def __enter__(self):
        # A log for those who want to know; nobody reads a pipe.
        with open(self.directory + "/log", "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        until(lambda: listens_on_port(self.port) if self.port else listens_on_path(self.path),
              f"{self.command[0]} listens")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def uri(self, words, host="localhost"):
        if self.port:
            return f"nbds://{USER}@{host}:{self.port}/?{words}"
        return f"nbds+unix://{USER}@/?socket={self.path}&{words}"


def hawser(*words):
    return run(HAWSER, *words)


def try_server(server, words):
    """list, info and its map, over TLS."""
    uri = server.uri(words)
    check("8 MiB" in hawser("list", uri), "list")
    check("TLSv1." in hawser("info", uri), "info")
    check("8388608" in hawser("info", "--map", uri), "map")


def certificates(folder=None):
    return f"tls-certificates={folder or pki().good}"


def test_qemu_server():
    """hawser and hawserd -L at qemu-nbd: versions, kinds, and wrong ones."""
    at = ["qemu-nbd", "-t", "-e", "0", "-r", "-f", "raw"]
    for version in VERSIONS:
        with Foreign(*at, "-p", "%p", *pki().x509(pki().good, priority(version)), "%i",
                     tcp=True) as server:
            try_server(server, certificates())
            refused(HAWSER, "list", server.uri(certificates(), host="127.0.0.2"))
            said = run(HAWSERD, "-L", "-p", str(server.port), *pki().x509(endpoint="client"))
            check("exports available: 1" in said, said)
        with Foreign(*at, "-k", "%s", *pki().psk(pki().keys, priority(version, more=ALL_PSK)),
                     "%i") as server:
            try_server(server, f"tls-psk-file={pki().keys}/keys.psk")
            refused(HAWSER, "list", server.uri(f"tls-psk-file={pki().path('wrong-keys')}/keys.psk"))
    with Foreign(*at, "-k", "%s", *pki().anon(), "%i") as server:
        try_server(server, "tls-type=anon")


PATTERNS = (r"O=Foo\, [Inc],*", "O=Foo*[Inc],*", "O=Foo*[I]nc*", r"O=Foo[\\]*",
            "O=Foo?, ?Inc],CN=?", "O=Foo??, ?Inc],CN=?", "*CN=\u00e9", "*CN=?", "*CN=??",
            "O=Foo, *", "*")


def test_qemu_patterns():
    """Which patterns of authz-list let in a name with commas, brackets and a letter of two bytes:
    the same as with qemu-nbd."""
    pki().certificate("client-odd", "/O=Foo, [Inc]/CN=\u00e9", "clientAuth")
    words = certificates(pki().folder("odd", client="client-odd")) + "&tls-hostname=localhost"
    outcomes = set()
    for pattern in PATTERNS:
        rule = pattern.replace(",", ",,")
        objects = [*pki().x509(), "--object", "authz-list,id=a,rules.0.format=glob,"
                   f"rules.0.policy=allow,rules.0.match={rule}", "--tls-authz", "a"]
        with Foreign("qemu-nbd", "-t", "-r", "-f", "raw", "-k", "%s", *objects, "%i") as theirs:
            expected = attempt(HAWSER, "list", theirs.uri(words))[0] == 0
        outcomes.add(expected)
        with Server(*objects) as ours:
            uri = f"nbds+unix:///?socket={ours.path}&{words}"
            check((attempt(HAWSER, "list", uri)[0] == 0) == expected,
                  f"{pattern}: qemu-nbd lets in: {expected}")
    check(len(outcomes) == 2, "all patterns have the same outcome")


def test_qemu_server_ciphers():
    """hawser at qemu-nbd: each version with each cipher, certificates and keys."""
    at = ["qemu-nbd", "-t", "-e", "0", "-r", "-f", "raw", "-k", "%s"]
    kinds = {"x509": (pki().x509(), certificates() + "&tls-hostname=localhost"),
             "psk": (pki().psk(pki().keys, "priority=NORMAL:" + ALL_PSK),
                     f"tls-psk-file={pki().keys}/keys.psk")}
    for kind, (objects, words) in kinds.items():
        with Foreign(*at, *objects, "%i") as server:
            for version in VERSIONS:
                for cipher in CIPHERS:
                    if kind == "psk" and version == "1.3" and cipher == "AES-256-GCM":
                        continue  # keys from a file go with SHA-256 in TLS 1.3
                    wish = priority(version, cipher, ALL_PSK if kind == "psk" else "")
                    said = hawser("info", server.uri(f"{words}&x-tls-{wish}"))
                    found = re.search(rf"TLSv{version} (\S+)", said)
                    check(found and same_cipher(found[1], cipher),
                          f"{kind} {version} {cipher}: {said}")


def test_qemu_server_is_somebody_else():
    """hawser at qemu-nbd with certificates that are expired, revoked, another's or of another
    authority."""
    at = ["qemu-nbd", "-t", "-e", "0", "-r", "-f", "raw", "-p", "%p"]
    for name in ("expired", "other", "name", "revoked"):
        folder = pki().folder("s-" + name, server=f"server-{name}", client="client")
        ours = pki().folder("c-" + name, client="client", crl=name == "revoked")
        objects = pki().x509(folder, "sanity-check=off", "verify-peer=off")
        with Foreign(*at, *objects, "%i", tcp=True) as server:
            said = refused(HAWSER, "list", server.uri(certificates(ours)))
            check("not accepted" in said, said)
            hawser("list", server.uri(certificates(ours) + "&tls-verify-peer=0"))
            options = pki().x509(ours, endpoint="client")
            refused(HAWSERD, "-L", "-b", "localhost", "-p", str(server.port), *options)


def test_nbdkit_server():
    """hawser at nbdkit, whose TLS is optional here: nothing is asked for in clear."""
    at = ["nbdkit", "-f", "-r", "--tls=on"]
    with Foreign(*at, "-p", "%p", f"--tls-certificates={pki().good}", "--tls-verify-peer", "file",
                 "%i", tcp=True) as server:
        try_server(server, certificates())
        none = pki().folder("nobody")
        refused(HAWSER, "list", server.uri(certificates(none)))
    with Foreign(*at, "-U", "%s", f"--tls-psk={pki().keys}/keys.psk", "file", "%i") as server:
        try_server(server, f"tls-psk-file={pki().keys}/keys.psk")


def test_nbd_server():
    """hawser at the reference server with certificates."""
    server = Foreign("nbd-server", "-d", "-C", pki().path("nbd.conf"), tcp=True)
    pki().write("nbd.conf", "[generic]\nforce_tls = true\nallowlist = true\n"
                f"port = {server.port}\nlistenaddr = 127.0.0.1\n"
                f"cacertfile = {pki().good}/ca-cert.pem\n"
                f"certfile = {pki().good}/server-cert.pem\n"
                f"keyfile = {pki().good}/server-key.pem\n"
                f"[disk]\nexportname = {server.image}\nreadonly = true\n")
    with server:
        check("disk" in hawser("list", server.uri(certificates())), "list")
        refused(HAWSER, "list", server.uri(certificates()).replace("nbds", "nbd").split("?")[0])


def test_our_own():
    """Our client at our server: both versions, and the cipher that this processor does fastest."""
    with Server(*pki().x509(), "-v", size=SIZE, tcp=True) as server:
        for version, words in VERSIONS.items():
            uri = (f"nbds://localhost:{server.port}/?{certificates()}"
                   f"&x-tls-priority=NORMAL:{words}")
            check(f"TLSv{version}" in hawser("info", uri), version)
            with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
                if re.search(r"^(flags|Features).*\baes\b", info.read(), re.M):
                    check("AES" in agreed(server)[1] and "128" in agreed(server)[1],
                          agreed(server))


main(globals())
