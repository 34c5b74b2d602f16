#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
hawser with nbds:// against servers that will not encrypt, are somebody else, or send what nobody
should believe (C17 to C22). HAWSER names the program (build/hawser).
"""

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.parse
import warnings

from harness import SANITIZER, TOP, Server, check, main, until
from listening import Listening, reply
from nbdraw import (ERR_INVALID, ERR_POLICY, ERR_UNSUP, IHAVEOPT, NBDMAGIC, OPT_ABORT, OPT_LIST,
                    OPT_STARTTLS, REP_ACK, REP_SERVER)
from pki import USER, pki

HAWSER = os.environ.get("HAWSER") or os.path.join(TOP, "build", "hawser")
OK, FAILED, USAGE, REFUSED, UNREACHABLE, PROTOCOL = 0, 1, 2, 5, 6, 8
ERR_PLATFORM = 0x80000004


class Peer(Listening):
    """A server that answers STARTTLS with `answer`; with a context it then speaks TLS and lists
    one export. `asked` is every option that came in clear, `clear` every byte behind STARTTLS."""

    def __init__(self, answer=None, context=None, flags=3, close=False):
        super().__init__(patience=20)
        self.answer = reply(OPT_STARTTLS, REP_ACK) if answer is None else answer
        self.context, self.flags, self.close = context, flags, close
        self.asked, self.inside, self.clear = [], [], b""

    def option(self, client):
        _, option, length = struct.unpack(">QII", self.take(client, 16))
        return option, self.take(client, length)

    def talk(self, client):
        client.sendall(struct.pack(">QQH", NBDMAGIC, IHAVEOPT, self.flags))
        self.take(client, 4)
        option, _ = self.option(client)
        self.asked.append(option)
        client.sendall(self.answer)
        if self.close:
            return
        if not self.context:
            self.clear += client.recv(65536)
            return
        with self.context.wrap_socket(client, server_side=True) as secure:
            while True:
                option, _ = self.option(secure)
                self.inside.append(option)
                if option == OPT_LIST:
                    secure.sendall(reply(option, REP_SERVER, struct.pack(">I", 4) + b"disk"))
                kind = REP_ACK if option in (OPT_LIST, OPT_ABORT) else ERR_UNSUP
                secure.sendall(reply(option, kind))


class Middle(Listening):
    """Somebody between a client and a server, who may change what the client says behind
    STARTTLS, once, and may cut what the server says after so many bytes; said: how many it said on
    each connection."""

    def __init__(self, server, change=None, cut=None):
        super().__init__()
        self.server, self.change, self.cut, self.said = server, change, cut, []

    def accepted(self, client):
        threading.Thread(target=super().accepted, args=(client,), daemon=True).start()

    def talk(self, client):
        with self.server.greeted().sock as server:
            client.sendall(struct.pack(">QQH", NBDMAGIC, IHAVEOPT, 3))
            self.take(client, 4)
            server.sendall(self.take(client, 16))
            client.sendall(self.take(server, 20))
            back = threading.Thread(target=self.pump_back, args=(server, client), daemon=True)
            back.start()
            first = client.recv(65536)
            server.sendall(self.change(first) if self.change else first)
            while part := client.recv(65536):
                server.sendall(part)

    def pump_back(self, server, client):
        with contextlib.suppress(OSError):
            said, number = 0, len(self.said)
            self.said.append(0)
            while part := server.recv(65536):
                said += len(part)
                self.said[number] = said
                if self.cut is not None and said > self.cut:
                    client.sendall(part[:len(part) - (said - self.cut)])
                    break
                client.sendall(part)
            client.shutdown(socket.SHUT_RDWR)


def server_context(name="server", version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki().path(name + "-cert.pem"), pki().path(name + "-key.pem"))
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def uri(path, **parameters):
    more = "".join(f"&tls-{key.replace('_', '-')}={value}" for key, value in parameters.items())
    return f"nbds+unix://{USER}@/?socket={path}{more}"


def hawser(address, status, *words, environment=None, timeout=10):
    done = subprocess.run([HAWSER, "list", "--timeout", str(timeout), address], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False,
                          env=dict(os.environ, **(environment or {})))
    check(not SANITIZER.search(done.stderr), done.stderr)
    expected = status if isinstance(status, tuple) else (status,)
    check(done.returncode in expected, f"{address}: status {done.returncode}, not {status}\n"
          f"{done.stdout}{done.stderr}")
    for word in words:
        check(word in done.stdout + done.stderr, f"'{word}' is not in: {done.stderr}")
    return done.stdout


class Chatterbox(Peer):
    """Begins TLS by asking for it, without an end."""

    def talk(self, client):
        super().talk(client)
        while True:
            client.sendall(bytes.fromhex("160303000400000000") * 4000)


def test_endless_handshake():
    """A server that fills the handshake with what means nothing does not hold hawser beyond its
    time-out."""
    with Chatterbox() as peer:
        began = time.monotonic()
        hawser(uri(peer.path, certificates=pki().good), UNREACHABLE, "in time", timeout=2)
        check(time.monotonic() - began < 8, f"{time.monotonic() - began} s")


def test_no_way_back():
    """C17: whatever a server answers to STARTTLS, nothing else is sent in clear (CVE-2019-14842)."""
    for kind in (ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, 0x80000000 + 99):
        with Peer(reply(OPT_STARTTLS, kind)) as peer:
            hawser(uri(peer.path, certificates=pki().good), REFUSED, "nothing is sent without")
            # A goodbye says nothing.
            check(peer.clear in (b"", struct.pack(">QII", IHAVEOPT, OPT_ABORT, 0)),
                  f"{peer.clear!r}")
    with Peer(flags=0) as peer:
        hawser(uri(peer.path, certificates=pki().good), REFUSED, "fixed newstyle")
        check(OPT_LIST not in peer.asked, f"asked in clear: {peer.asked}")
    with Peer(b"", close=True) as peer:
        hawser(uri(peer.path, certificates=pki().good), UNREACHABLE)
    with Peer(reply(OPT_LIST, REP_ACK)) as peer:
        hawser(uri(peer.path, certificates=pki().good), PROTOCOL)


def test_clear_behind_the_answer():
    """C18: what comes in clear behind the ACK is not believed."""
    lies = reply(OPT_LIST, REP_SERVER, struct.pack(">I", 4) + b"evil") + reply(OPT_LIST, REP_ACK)
    for context in (None, server_context()):
        with Peer(reply(OPT_STARTTLS, REP_ACK) + lies, context=context) as peer:
            shown = hawser(uri(peer.path, certificates=pki().good), REFUSED, "TLS")
            check("evil" not in shown, shown)
            check(not peer.inside, f"went on: {peer.inside}")


def test_first_of_all():
    """C17 C19: STARTTLS is the first option, comes once, and the rest is asked for under TLS."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with Peer(context=server_context(version=version)) as peer:
            shown = hawser(uri(peer.path, certificates=pki().good), OK)
            check("disk" in shown, shown)
            check(peer.asked == [OPT_STARTTLS], f"in clear: {peer.asked}")
            check(OPT_STARTTLS not in peer.inside and OPT_LIST in peer.inside, f"{peer.inside}")


def test_old_versions():
    """C20: TLS below 1.2 is not spoken."""
    context = server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~(ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
    with Peer(context=context) as peer:
        hawser(uri(peer.path, certificates=pki().good), REFUSED, "TLS")
        check(not peer.inside, f"{peer.inside}")


def test_downgrade():
    """C20: somebody in the middle who makes both sides believe that the other speaks TLS 1.2 only
    is found out, as is one who takes away all ciphers but one."""
    def without_13(hello):
        at = hello.index(b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03")  # supported_versions
        return hello[:at] + b"\x00\x2b\x00\x05\x04\x03\x03\x03\x03" + hello[at + 9:]

    def other_random(hello):
        return hello[:20] + bytes([hello[20] ^ 1]) + hello[21:]

    for creds, words in ((pki().x509(), {"certificates": pki().good}),
                         (pki().psk(), {"psk_file": f"{pki().keys}/keys.psk"})):
        with Server(*creds) as server:
            for change, status in ((None, OK), (without_13, REFUSED), (other_random, REFUSED)):
                with Middle(server, change=change) as middle:
                    hawser(uri(middle.path, **words), status)


def test_server_vanishes():
    """C6: a server that is cut off at any point of the handshake of TLS, or of the options under
    it, is an error and nothing worse (CVE-2021-20286, of libnbd)."""
    for version in ("1.2", "1.3"):
        words = f"priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
        with Server(*pki().x509(pki().good, words)) as server:
            with Middle(server) as middle:
                hawser(uri(middle.path, certificates=pki().good), OK)
                whole = middle.said[0]
            for cut in (0, 1, 5, 60, 100, 300, 600):
                with Middle(server, cut=cut) as middle:
                    hawser(uri(middle.path, certificates=pki().good), UNREACHABLE)
            for cut in range(whole // 2, whole, 71):  # details are asked for again
                with Middle(server, cut=cut) as middle:
                    hawser(uri(middle.path, certificates=pki().good), (OK, UNREACHABLE))


def test_certificates():
    """C20: a server is believed only when its certificate is good, and has the name that was
    expected (CVE-2024-7383, of libnbd)."""
    folders = {name: pki().folder("client-" + name, server=f"server-{name}", client="client",
                                  crl=name == "revoked")
               for name in ("expired", "other", "name", "revoked")}
    said = {"expired": "expired", "other": "certificate", "name": "mismatch",
            "revoked": "revoked"}
    for name, folder in folders.items():
        creds = pki().x509(folder, "sanity-check=off", "verify-peer=off")
        with Server(*creds, tcp=True) as server:
            at = f"localhost:{server.port}/?tls-certificates={folder}"
            hawser(f"nbds://{at}", REFUSED, "not accepted", said[name])
            hawser(f"nbds://{at}&tls-verify-peer=0", OK)
            if name == "name":
                hawser(f"nbds://{at}&tls-hostname=elsewhere", OK)
    with Server(*pki().x509(), tcp=True) as server:
        good = f"?tls-certificates={pki().good}"
        hawser(f"nbds://localhost:{server.port}/{good}", OK)
        hawser(f"nbds://127.0.0.1:{server.port}/{good}", OK)
        hawser(f"nbds://localhost:{server.port}/{good}&tls-hostname=elsewhere", REFUSED,
               "mismatch")
        # Without a folder the authorities are the system's, which do not know ours.
        hawser(f"nbds://localhost:{server.port}/", REFUSED, "not accepted",
               environment={"HOME": pki().top})
        # One that the server does not take is told as such.
        other = pki().folder("client-stranger", client="client-other")
        hawser(f"nbds://localhost:{server.port}/?tls-certificates={other}", REFUSED, "unknown ca")
        late = pki().folder("client-late", client="client-expired")
        hawser(f"nbds://localhost:{server.port}/?tls-certificates={late}", FAILED,
               "client-late/client-cert.pem is of no use", "expired; renew it")
        none = pki().folder("client-none")
        hawser(f"nbds://localhost:{server.port}/?tls-certificates={none}", REFUSED,
               "certificate required", f"the server wants a client certificate, and there is no "
               f"{none}/client-cert.pem")
        hawser(f"nbds://localhost:{server.port}/?x-tls-ca-file={pki().path('ca-cert.pem')}",
               REFUSED, "certificate required", "tls-certificates=FOLDER")
        hawser(f"nbds://localhost:{server.port}/?tls-certificates={none}"
               "&x-tls-priority=NORMAL:-VERS-TLS1.3", REFUSED, "perhaps the server wants a client",
               f"{none}/client-cert.pem")


def test_two_authorities():
    """C20: the authority of servers and that of clients may be two, and neither side need know
    its own."""
    ours, theirs = pki().folder("two-client", client="client-other"), pki().path("two-server")
    pki().folder("two-server", "server", ca="other-ca")
    with Server(*pki().x509(theirs, "sanity-check=off"), tcp=True) as server:
        hawser(f"nbds://localhost:{server.port}/?tls-certificates={ours}", OK)


def test_no_name():
    """C20: a Unix socket has no name that a certificate could have; with the authorities of the
    system alone everybody who has any certificate of theirs would be believed."""
    everybody = {"HOME": pki().top, "SSL_CERT_FILE": pki().path("ca-cert.pem")}
    with Server(*pki().x509(None, "verify-peer=off")) as server:
        hawser(uri(server.path), USAGE, "tls-hostname=NAME", environment=everybody)
        hawser(uri(server.path, hostname="localhost"), OK, environment=everybody)
        hawser(uri(server.path, hostname="elsewhere"), REFUSED, "mismatch", environment=everybody)
        hawser(uri(server.path, verify_peer="0"), OK, environment=everybody)
        hawser(uri(server.path) + f"&x-tls-ca-file={pki().path('ca-cert.pem')}", OK)


def test_names_of_many():
    """C20: a name that begins with a dot stands for all servers below it: it is refused, and so
    are names that nobody has. A Unix socket that was named by an address has that checked."""
    keys = pki()
    keys.certificate("server-deep", "/CN=deep", "serverAuth", "subjectAltName=DNS:a.example.com")
    folder = keys.folder("deep", "server-deep")
    with Server(*keys.x509(folder, "verify-peer=off")) as server:
        for name, words in ((".example.com", "begins with a dot"), (".com", "begins with a dot"),
                            (".", "begins with a dot"), ("", "is empty"), ("a" * 256, "too long")):
            hawser(uri(server.path, certificates=folder, hostname=name), USAGE, words)
        for name, status in (("a.example.com", OK), ("example.com", REFUSED),
                             ("127.0.0.1", REFUSED)):
            hawser(uri(server.path, certificates=folder, hostname=name), status)
    hawser(f"nbds://.com/?tls-certificates={folder}", USAGE, "begins with a dot")


def test_pre_shared_keys():
    """C20: a wrong key, an unknown user, and a server that shows a certificate instead of knowing
    the key, are all refused."""
    keys = f"{pki().keys}/keys.psk"
    with Server(*pki().psk()) as server:
        check("\"\"" in hawser(uri(server.path, psk_file=keys), OK), "the export")
        wrong = pki().path("wrong-keys/keys.psk")
        for words in ("", "&x-tls-priority=NORMAL:-VERS-TLS1.3"):
            hawser(uri(server.path, psk_file=wrong) + words, REFUSED, "TLS",
                   f"the user '{USER}' in {wrong}")
        hawser(uri(server.path, psk_file=keys).replace(USER, "nobody"), FAILED, "no key of")
        hawser(uri(server.path, certificates=pki().good), REFUSED, "TLS")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with Peer(context=server_context(version=version)) as peer:
            hawser(uri(peer.path, psk_file=keys), REFUSED)
            check(not peer.inside, f"{peer.inside}")


def test_identities():
    """C20: of several keys in a file each belongs to its user: the wrong key of a user who is
    there, and the right one of another, are refused. Of two lines of one user the first holds,
    on both sides; names may hold a colon or be written in hexadecimal digits."""
    keys = {"alice": "a1" * 32, "bob": "b0" * 16, "with:colon": "cc" * 20, "dora d": "dd" * 64}
    lines = [f"{user}:{key}" for user, key in keys.items() if user != "dora d"]
    lines += ["#" + b"dora d".hex() + ":" + keys["dora d"], "alice:" + "ee" * 32]
    os.makedirs(pki().path("many"), exist_ok=True)
    pki().write("many/keys.psk", "\n".join(lines) + "\n")

    def owner(user, key):
        return pki().write("own.psk", f"#{user.encode().hex()}:{key}\n")

    def at(server, user, file):
        quoted = urllib.parse.quote(user, safe="")
        return f"nbds+unix://{quoted}@/?socket={server.path}&tls-psk-file={file}"

    for version in ("1.2", "1.3"):
        words = f"priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
        with Server(*pki().psk(pki().path("many"), words)) as server:
            for user, key in keys.items():
                hawser(at(server, user, owner(user, key)), OK)
                hawser(at(server, user, pki().path("many/keys.psk")), OK)
                hawser(f"nbds+unix:///?socket={server.path}&tls-username="
                       f"{urllib.parse.quote(user)}&tls-psk-file={pki().path('many/keys.psk')}", OK)
                other = keys["bob" if user == "alice" else "alice"]
                hawser(at(server, user, owner(user, other)), REFUSED, "TLS")
                hawser(at(server, user, owner(user, key[:-2])), REFUSED, "TLS")
            hawser(at(server, "alice", owner("alice", "ee" * 32)), REFUSED, "TLS")
            for user in ("ALICE", "alic", "alicee", "nobody", "alice:" + keys["alice"]):
                hawser(at(server, user, owner(user, keys["alice"])), REFUSED, "TLS")
        rule = ["--object", "authz-simple,id=a,identity=bob", "--tls-authz", "a"]
        with Server(*pki().psk(pki().path("many"), words), *rule) as server:
            hawser(at(server, "bob", owner("bob", keys["bob"])), OK)
            hawser(at(server, "alice", owner("alice", keys["alice"])), UNREACHABLE)


def test_odd_files_of_keys():
    """Lines of a file of keys that are none matter only where they are our own; and keys are as
    long as they may be."""
    longest = "5a" * 512
    file = pki().write("odd.psk", f"# our keys\n\nfoo\n{'x' * 200}:00\nbob:0\n{USER}:{longest}\n")
    os.makedirs(pki().path("odd"), exist_ok=True)
    pki().write("odd/keys.psk", f"{USER}:{longest}\n")
    for version in ("1.2", "1.3"):
        words = f"priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
        with Server(*pki().psk(pki().path("odd"), words)) as server:
            hawser(uri(server.path, psk_file=file), OK, "odd.psk are keys; 3 lines are skipped", "line 3")
            hawser(uri(server.path, psk_file=file).replace(USER, "bob"), FAILED, "no key of",
                   "line 3")


def test_reload_of_keys():
    """SIGHUP reads the keys again: a user who was taken out stays out, one who was added comes
    in, and a file that is broken changes nothing."""
    folder = pki().path("changing")
    os.makedirs(folder, exist_ok=True)
    pki().write("changing/keys.psk", "alice:" + "a1" * 32 + "\n")
    pki().write("alice.psk", "alice:" + "a1" * 32 + "\n")
    pki().write("bob.psk", "bob:" + "b0" * 32 + "\n")

    def comes_in(server, user):
        address = uri(server.path, psk_file=pki().path(user + ".psk")).replace(USER, user)
        return "NAME" in hawser(address, (OK, REFUSED))

    with Server(*pki().psk(folder)) as server:
        check(comes_in(server, "alice") and not comes_in(server, "bob"), "before")
        pki().write("changing/keys.psk", "bob:" + "b0" * 32 + "\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: comes_in(server, "bob"), "the new keys")
        check(not comes_in(server, "alice"), "alice is still let in")
        pki().write("changing/keys.psk", "bob:no key\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "keys.psk" in server.stderr(), "the warning")
        check("no key" not in server.stderr(), "the warning shows a key")
        check(comes_in(server, "bob"), "the old keys")


def test_anonymous():
    """Anonymous TLS is for those who ask for it by name, on both sides."""
    with Server(*pki().anon()) as server:
        hawser(uri(server.path, type="anon"), OK)
        hawser(uri(server.path, certificates=pki().good), REFUSED, "TLS")
        hawser(uri(server.path, psk_file=f"{pki().keys}/keys.psk"), REFUSED, "TLS")
    with Server(*pki().x509()) as server:
        hawser(uri(server.path, type="anon"), REFUSED, "TLS")


def test_contradictions():
    """C37: a URI that speaks of keys and not of encryption, or of two kinds of keys, is refused
    before a server is asked."""
    keys = f"{pki().keys}/keys.psk"
    hawser(f"nbd+unix:///?socket=/x&tls-psk-file={keys}", USAGE, "write nbds+unix://")
    hawser(f"nbd://localhost/?tls-certificates={pki().good}", USAGE, "write nbds://")
    hawser(uri("/x", psk_file=keys, certificates=pki().good), USAGE, "both")
    hawser(uri("/x", type="psk"), USAGE, "needs tls-psk-file")
    hawser(uri("/x", type="rot13"), USAGE, "rot13")
    hawser(uri("/x", psk_file="/nonexistent"), FAILED, "/nonexistent")
    hawser(uri("/x", certificates="/nonexistent"), FAILED, "/nonexistent/ca-cert.pem")
    hawser(uri("/x", certificates=pki().good) + "&x-tls-priority=ROT13", FAILED, "ROT13")


def test_clear_server():
    """C21: a server that demands TLS is told as such, with its own code."""
    with Server(*pki().psk()) as server:
        hawser(f"nbd+unix:///?socket={server.path}", REFUSED, "demands TLS", "write nbds+unix://")


main(globals())
