#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A server that demands TLS, byte by byte: before, around and behind STARTTLS."""

import os
import shutil
import signal
import socket
import ssl
import struct
import time
import warnings

from harness import MIB, Server, check, content_of, main, negotiate, until
from nbdraw import (ERR_INVALID, ERR_TLS_REQD, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO,
                    OPT_LIST, OPT_STARTTLS, OPT_STRUCTURED_REPLY, Dropped, Export, info_data,
                    meta_data)
from pki import SUBJECT, Pieces, option_bytes, pki, secure, starttls

OPT_EXTENDED_HEADERS, OPT_LIST_META, OPT_SET_META, OPT_UNKNOWN = 11, 9, 10, 77


def tls_server(*options, folder=None, properties=(), **how):
    return Server(*pki().x509(folder, *properties), *options, **how)


def in_clear(server):
    client = server.greeted()
    client.demands_tls = True
    return client


def in_transmission(server, mode="structured", **how):
    client = negotiate(secure(server.greeted(), **how), mode)
    check(isinstance(client.go(), Export), "GO")
    return client


def refused(server, context=None, host="localhost"):
    """Does the handshake, or the first option over it, fail? (A TLS 1.3 client is done before the
    server has seen its certificate.)"""
    client = server.greeted()
    try:
        secure(client, context, host)
        client.list()
    except (ssl.SSLError, Dropped, ConnectionError):
        return True
    finally:
        client.close()
    return False


# ---- Before TLS ----


def test_everything_demands_tls():
    """S49: in clear all but STARTTLS and ABORT get TLS_REQD, and no information before it."""
    asked = [(OPT_LIST, b""), (OPT_INFO, info_data("")), (OPT_GO, info_data("")),
             (OPT_GO, info_data("no such export")), (OPT_STRUCTURED_REPLY, b""),
             (OPT_EXTENDED_HEADERS, b""), (OPT_LIST_META, meta_data("", [])),
             (OPT_SET_META, meta_data("", ["base:allocation"])), (OPT_UNKNOWN, b"x" * 100),
             (OPT_LIST, b"data"), (OPT_GO, b""), (OPT_UNKNOWN, bytes(100000))]
    with tls_server() as server:
        client = in_clear(server)
        for option, data in asked:
            reply = client.option(option, data)
            check(reply.kind == ERR_TLS_REQD, f"option {option}: {reply}")
            check(not reply.before, f"option {option}: information in clear")
        secure(client)
        check(client.list() == [("", "")], "LIST over TLS")
        check(server.greeted().option(OPT_ABORT).ok, "ABORT in clear")


def test_export_name_in_clear():
    """S50: EXPORT_NAME in clear ends the connection without a byte."""
    with tls_server() as server:
        for name in (b"", b"no such export"):
            client = server.greeted()
            client.send_option(OPT_EXPORT_NAME, name)
            client.expect_drop("S50")


def test_starttls_with_data():
    """S48: STARTTLS with data is INVALID, and starts nothing."""
    with tls_server() as server:
        client = in_clear(server)
        for size in (1, 517, 16384):
            check(client.option(OPT_STARTTLS, b"\x16" * size).kind == ERR_INVALID, "with data")
        check(client.option(OPT_LIST).kind == ERR_TLS_REQD, "still in clear")
        check(secure(client).list() == [("", "")], "without data")


def test_limits_before_tls():
    """S7: lengths at the edges before TLS are swallowed or end the connection; the server lives
    (CVE-2017-15119)."""
    with tls_server() as server:
        for length in (MIB + 1, 32 * MIB + 1, 0xffffffff):
            client = server.greeted()
            client.send_option(OPT_STARTTLS, b"", length=length)
            client.expect_drop("S7")
        check(secure(server.greeted()).list() == [("", "")], "afterwards")


def test_no_fixed_newstyle():
    """S5: a client without fixed newstyle cannot come to TLS, and gets nothing else."""
    with tls_server() as server:
        client = server.greeted(flags=0)
        client.send_option(OPT_STARTTLS)
        client.expect_drop("S5")


# ---- Around STARTTLS ----


def test_clear_bytes_behind_starttls():
    """S54: whatever comes in clear behind STARTTLS, in one piece with it or after its answer, is
    never answered and ends the connection."""
    options = (option_bytes(OPT_LIST), option_bytes(OPT_GO, info_data("")), b"x", bytes(70000),
               option_bytes(OPT_STARTTLS))
    with tls_server() as server:
        for behind in options:
            client = server.greeted()
            client.send(option_bytes(OPT_STARTTLS) + behind)
            check(client.option_reply(OPT_STARTTLS).ok, "STARTTLS")
            try:  # whoever goes on with TLS must not find that it was listened to
                client.sock = pki().context().wrap_socket(client.sock, server_hostname="localhost")
                check(False, "S54: TLS begins with clear bytes in hand")
            except (ssl.SSLError, ConnectionError):
                pass
            client = starttls(server.greeted())
            client.send(behind + bytes(8))
            rest = b""
            try:
                while part := client.sock.recv(4096):
                    rest += part
            except ConnectionResetError:
                pass
            # An alert is all that may come.
            check(len(rest) <= 32 and rest[:1] in (b"", b"\x15"), f"S54: {rest!r}")
        check(secure(server.greeted()).list() == [("", "")], "afterwards")


def test_clear_bytes_within_tls():
    """S54: an option in clear between records of a living session ends it."""
    with tls_server() as server:
        client = secure(server.greeted())
        check(client.list() == [("", "")], "LIST")
        raw = socket.socket(fileno=os.dup(client.sock.fileno()))
        raw.sendall(option_bytes(OPT_LIST))
        try:
            data = client.sock.recv(64)
        except (ssl.SSLError, ConnectionError):
            data = b""
        raw.close()
        check(not data, f"S54: {data!r}")


def test_terms_are_forgotten():
    """S55: nothing that was asked for in clear holds under TLS (CVE-2021-3716 of nbdkit)."""
    with tls_server() as server:
        client = in_clear(server)
        for option, data in ((OPT_STRUCTURED_REPLY, b""), (OPT_EXTENDED_HEADERS, b""),
                             (OPT_SET_META, meta_data("", ["base:allocation"]))):
            client.option(option, data)
        secure(client)
        reply = client.option(OPT_SET_META, meta_data("", ["base:allocation"]))
        check(reply.kind == ERR_INVALID, f"SET_META before structured replies: {reply}")
        check(isinstance(client.go(), Export), "GO")
        client.in_sync()  # simple replies: the library would not take others


def test_no_zeroes_holds():
    """S12: the flags of the greeting, which no option changes, hold under TLS."""
    with tls_server() as server:
        check(secure(server.greeted()).export_name().size == server.size, "EXPORT_NAME")


def test_second_starttls():
    """S53: under TLS STARTTLS is INVALID, and TLS_REQD does not come."""
    with tls_server() as server:
        client = secure(server.greeted())
        for _ in range(3):
            check(client.option(OPT_STARTTLS).kind == ERR_INVALID, "STARTTLS under TLS")
        reply = client.option(OPT_UNKNOWN)
        check(reply.kind not in (ERR_TLS_REQD,) and not reply.ok, f"{reply}")
        check(isinstance(client.go(), Export), "GO")
        client.in_sync()
        client.disc()


def test_versions():
    """S56: TLS 1.2 and 1.3 are spoken, 1.1 and 1.0 are not."""
    with tls_server() as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = in_transmission(server, context=pki().context(version=version))
            check(client.sock.version() == version.name.replace("_", "."), client.sock.version())
            client.in_sync()
            client.disc()
        context = pki().context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        check(refused(server, context), "TLS 1.1 is spoken")


def test_goodbye():
    """S57: close_notify comes before the end, after ABORT and after DISC."""
    with tls_server() as server:
        client = secure(server.greeted())
        check(client.option(OPT_ABORT).ok, "ABORT")
        check(client.sock.recv(1) == b"", "ABORT: no close_notify")
        client = in_transmission(server)
        client.disc()
        check(client.sock.recv(1) == b"", "DISC: no close_notify")


# ---- Who may come in ----


def test_client_certificates():
    """Of client certificates only a good one is taken; without verify-peer none is needed."""
    with tls_server(folder=pki().revoking) as server:
        check(not refused(server), "the good one")
        for client in (None, "client-other", "client-expired", "client-revoked",
                       "client-purpose"):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                check(refused(server, pki().context(client, version)), f"{client} {version}")
        check(not refused(server), "the good one afterwards")
    with tls_server(properties=("verify-peer=off",)) as server:
        check(not refused(server, pki().context(None)), "verify-peer=off")


def test_authorization():
    """The subject, as GnuTLS writes it, decides: one name, a list, a file that changes."""
    name = SUBJECT.replace(",", ",,")

    def allowed(*options):
        with tls_server(*options, "--tls-authz", "a") as server:
            return not refused(server)

    simple = "authz-simple,id=a,identity="
    check(allowed("--object", simple + name), "the name")
    check(not allowed("--object", simple + "CN=laptop"), "another name")
    check(not allowed("--object", simple + name + "x"), "a longer name")
    rules = "authz-list,id=a,rules.0.match=*O=Home*,rules.0.format=glob,rules.0.policy="
    check(allowed("--object", rules + "allow"), "a pattern")
    check(not allowed("--object", rules + "deny,policy=allow"), "a pattern that denies")
    odd = "authz-list,id=a,policy=allow,rules.0.policy=deny,rules.0.format=glob,rules.0.match="
    check(allowed("--object", odd + "*CN=[l]aptop*"), "brackets are not special")
    check(not allowed("--object", odd + "*CN=l?ptop*"), "a question mark")
    check(not allowed("--object", "authz-list,id=a"), "an empty list")
    check(allowed("--object", "authz-list,id=a,policy=allow"), "an empty list that allows")
    path = pki().write("rules.json", '{"policy":"deny","rules":[]}')
    with tls_server("--object", f"authz-list-file,id=a,filename={path}", "--tls-authz",
                    "a") as server:
        check(refused(server), "a file that denies")
        pki().write("rules.json", '{"policy":"deny","rules":[{"match":"' + SUBJECT
                    + '","policy":"allow"}]}')
        check(not refused(server), "the file when it has changed")
        pki().write("rules.json", '{"policy":"allow"')
        check(refused(server), "a file that is broken")


def test_reload():
    """SIGHUP loads the certificates again for those who come; who is there stays, and what does
    not load changes nothing."""
    folder = pki().folder("reload", "server", "client")
    with tls_server(folder=folder) as server:
        old = in_transmission(server)
        first = old.sock.getpeercert(True)
        for part in ("cert", "key"):
            shutil.copy(pki().path(f"server-new-{part}.pem"), f"{folder}/server-{part}.pem")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: in_transmission(server).sock.getpeercert(True) != first, "new certificate")
        old.in_sync()
        os.unlink(folder + "/server-key.pem")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "server-key.pem" in server.stderr(), "the warning")
        in_transmission(server).in_sync()
        old.in_sync()


def test_reload_behind_a_link():
    """SIGHUP loads what a link to the folder leads to then."""
    link = pki().path("current")
    os.symlink(pki().good, link)
    with tls_server(folder=link) as server:
        first = in_transmission(server).sock.getpeercert(True)
        os.symlink(pki().folder("renewed", "server-new", "client"), link + ".new")
        os.rename(link + ".new", link)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: in_transmission(server).sock.getpeercert(True) != first, "new certificate")


def test_reload_of_revocations():
    """SIGHUP is how somebody is shut out of a server that runs: by a list of revoked certificates
    that was not there before. Who is in stays in."""
    folder = pki().folder("revoking-later", "server", "client")
    thief = pki().context("client-revoked")
    with tls_server(folder=folder) as server:
        inside = in_transmission(server, context=thief)
        shutil.copy(pki().path("crl.pem"), folder + "/ca-crl.pem")
        check(not refused(server, pki().context("client-revoked")), "the list is read too early")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: refused(server, pki().context("client-revoked")), "the list is used")
        inside.in_sync()
        in_transmission(server).in_sync()


def test_reload_without_the_revocations():
    """A list of revoked certificates that is gone, or cannot be read, at a reload lets nobody in
    again: the old credentials stay, and a warning says so."""
    folder = pki().folder("revoking-no-more", "server", "client", crl=True)
    path = folder + "/ca-crl.pem"

    def missing():
        os.unlink(path)

    def dangling():
        os.symlink("nowhere", path)

    def empty():
        os.unlink(path)
        open(path, "wb").close()

    with tls_server(folder=folder) as server:
        for change, words in ((missing, "is gone"), (dangling, "Unable to access credentials"),
                              (empty, "Unable to import the revocation list")):
            check(refused(server, pki().context("client-revoked")), "before")
            change()
            server.process.send_signal(signal.SIGHUP)
            until(lambda words=words: words in server.stderr(), words)
            check(path in server.stderr(), server.stderr())
            check(refused(server, pki().context("client-revoked")), f"{words}: let in again")
            in_transmission(server).in_sync()


def bits_of_prime(server, cipher, hint):
    """Of the Diffie-Hellman group that the server offers to a TLS 1.2 client of one cipher."""
    hello = b"\x03\x03" + bytes(32) + b"\0" + struct.pack(">HH", 2, cipher) + b"\x01\0"
    hello = b"\x01" + struct.pack(">I", len(hello))[1:] + hello
    client = starttls(server.greeted())
    client.send(b"\x16\x03\x01" + struct.pack(">H", len(hello)) + hello)
    messages = b""
    while b"\x0e\0\0\0" not in messages[-4:]:
        kind, _, length = struct.unpack(">BHH", client.receive(5))
        record = client.receive(length)
        check(kind == 22, f"a record of kind {kind}: {record!r}")
        messages += record
    client.close()
    at = 0
    while messages[at] != 12:
        at += 4 + int.from_bytes(messages[at + 1:at + 4], "big")
    at += 4
    if hint:
        at += 2 + int.from_bytes(messages[at:at + 2], "big")
    return 8 * int.from_bytes(messages[at:at + 2], "big")


def test_finite_groups():
    """Where no certificate says how much is wanted, Diffie-Hellman has 2048 bits at least, however
    low the level is that was set."""
    config = pki().write("low.cnf", "openssl_conf = a\n[a]\nssl_conf = b\n[b]\n"
                         "system_default = c\n[c]\nCipherString = DEFAULT:@SECLEVEL=0\n")
    low = {"OPENSSL_CONF": config}
    dhe_psk, dh_anon = 0xaa, 0xa6
    for words, environment, least in (((), None, 2048), (("priority=NORMAL:%PROFILE_LOW",), None,
                                      2048), ((), low, 2048),
                                      (("priority=NORMAL:%PROFILE_HIGH",), None, 3072)):
        with Server(*pki().psk(None, *words), environment=environment) as server:
            bits = bits_of_prime(server, dhe_psk, True)
            check(bits >= least, f"PSK with {words}, {environment}: {bits} bits")
    with Server(*pki().anon()) as server:
        bits = bits_of_prime(server, dh_anon, False)
        check(bits >= 2048, f"anonymous: {bits} bits")


def test_minimum_of_the_system():
    """A minimum in openssl.cnf holds where the priority names no version."""
    config = pki().write("new.cnf", "openssl_conf = a\n[a]\nssl_conf = b\n[b]\n"
                         "system_default = c\n[c]\nMinProtocol = TLSv1.3\n")
    old = pki().context(version=ssl.TLSVersion.TLSv1_2)
    for words, refuses in (((), True), (("priority=@SYSTEM",), True),
                           (("priority=NORMAL:+VERS-TLS1.2",), False)):
        with tls_server(properties=words, environment={"OPENSSL_CONF": config}) as server:
            check(refused(server, old) == refuses, f"{words}: TLS 1.2")
            in_transmission(server).in_sync()


# ---- Transmission ----


def test_transmission():
    """S59: under both versions what is read and written is right, in records of any size, and a
    refusal leaves the session alive."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with tls_server(size=8 * MIB) as server:
            for mode in ("simple", "structured", "extended"):
                client = in_transmission(server, mode, context=pki().context(version=version))
                for offset, length in ((0, 1), (5, 16384), (1, 16385), (4096, MIB),
                                       (77, 3 * MIB + 1), (0, 8 * MIB)):
                    check(client.data(offset, length) == server.bytes(offset, length),
                          f"{mode}: {length} bytes at {offset}")
                for offset, length in ((3, 1), (4096, 65536), (99, 2 * MIB)):
                    data = content_of(length, offset)
                    check(not client.write(offset, data).error, f"{mode}: write")
                    check(server.bytes(offset, length) == data, f"{mode}: what was written")
                check(client.write(8 * MIB, b"x" * 4096).error, "a write past the end")
                client.in_sync()
                client.disc()
        with tls_server("-r") as server:
            client = in_transmission(server, context=pki().context(version=version))
            for _ in range(3):
                check(client.write(0, bytes(65536)).error == 1, "EPERM")  # nbdkit loses TLS here
            client.in_sync()


def test_pipelined_records():
    """S64: many requests in one piece, far more than a receive takes, are all answered."""
    with tls_server(size=4 * MIB) as server:
        client = in_transmission(server, "simple")
        count = 30000
        blob = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 0, n, n % 4096, 1)
                        for n in range(count))
        sent, answers = 0, bytearray()
        client.sock.setblocking(False)
        ends = time.monotonic() + 60
        while len(answers) < count * 17 and time.monotonic() < ends:
            try:
                if sent < len(blob):
                    sent += client.sock.send(blob[sent:sent + 100000])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            try:
                part = client.sock.recv(65536)
                check(part, "the server left")
                answers += part
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                time.sleep(0.001)
        cookies = {struct.unpack(">Q", answers[at + 8:at + 16])[0]
                   for at in range(0, count * 17, 17)}
        check(len(answers) == count * 17 and len(cookies) == count, f"{len(cookies)} answers")


def test_file_cut_short():
    """S69: a file that is cut short while it is read is an error of one request; nothing maps it
    into the process."""
    with tls_server("-r", size=4 * MIB) as server:
        client = in_transmission(server)
        check(client.data(0, MIB) == server.bytes(0, MIB), "before")
        os.truncate(server.image, 4096)
        client.read(2 * MIB, MIB)
        client.read(0, 4 * MIB)
        server.alive()
        in_transmission(server).disc()


# ---- Hostile peers ----


def test_partial_records():
    """S54: records that come byte by byte are as good as others."""
    with tls_server() as server:
        pieces = Pieces(server.greeted())

        def drip(data):
            for at in range(0, len(data), 3):
                pieces.client.send(data[at:at + 3])

        pieces.shake(drip)
        answer = pieces.option(OPT_LIST, drip)
        check(struct.unpack(">I", answer[8:12])[0] == OPT_LIST, f"{answer!r}")


def test_chain():
    """What a client needs to find its authority is sent, and no root: to decode one that it has
    costs it as much as a signature. A file with a chain of its own is sent as it is."""
    keys = pki()
    keys.certificate("middle", "/CN=Middle", "serverAuth", constraints="CA:TRUE")
    keys.certificate("server-middle", "/CN=localhost", "serverAuth", "subjectAltName=DNS:localhost",
                     ca="middle")
    middle = keys.folder("middle-known", "server-middle")
    keys.write("middle-known/ca-cert.pem", keys.text("ca-cert.pem", "middle-cert.pem"))
    whole = keys.folder("chain-in-file", "server-middle")
    keys.write("chain-in-file/server-cert.pem",
               keys.text("server-middle-cert.pem", "middle-cert.pem", "ca-cert.pem"))
    for folder, sent in ((keys.good, ["server"]), (middle, ["server-middle", "middle"]),
                         (whole, ["server-middle", "middle", "ca"])):
        with tls_server(folder=folder) as server:
            # The certificates of TLS 1.2 are in clear.
            pieces = Pieces(server.greeted(), pki().context(version=ssl.TLSVersion.TLSv1_2))
            pieces.shake(pieces.client.send)
            for name in ("server", "server-middle", "middle", "ca"):
                found = keys.der(name + "-cert.pem") in pieces.received
                check(found == (name in sent), f"{folder}: {name}: {found}")
            in_transmission(server).in_sync()


def test_close_in_handshake():
    """S7: a client that leaves at any byte of its handshake costs nothing but itself
    (CVE-2017-9524)."""
    with tls_server() as server:
        hello = Pieces(server.greeted()).flight()
        for cut in [*range(0, 64), *range(64, len(hello), 23)]:
            client = starttls(server.greeted())
            client.send(hello[:cut])
            client.reset()
        for at in range(0, min(len(hello), 120), 5):  # and bytes that are wrong
            client = starttls(server.greeted())
            client.send(hello[:at] + bytes([hello[at] ^ 0xff]) + hello[at + 1:])
            client.close()
        check(secure(server.greeted()).list() == [("", "")], "afterwards")


def test_truncated():
    """S54: a stream that ends without close_notify, in a record of the handshake's options, harms
    nobody."""
    with tls_server() as server:
        for cut in (1, 5, 20, 49):
            pieces = Pieces(server.greeted())
            pieces.shake(pieces.client.send)
            pieces.tls.write(option_bytes(OPT_GO, info_data("")))
            pieces.client.send(pieces.outgoing.read()[:cut])
            pieces.client.close()
        in_transmission(server).in_sync()


def cut_off(client):
    """Ends our half of the stream as somebody between us would, and sees the server leave."""
    raw = socket.socket(fileno=os.dup(client.sock.fileno()))
    raw.shutdown(socket.SHUT_WR)
    raw.close()
    data = b""
    try:
        while part := client.sock.recv(65536):
            data += part
    except (ssl.SSLError, ConnectionError):
        pass
    client.close()
    return data


def test_cut_in_transmission():
    """S54 S72: the stream ends without close_notify inside a request, inside a payload and behind
    a request: what was incomplete is not done, what was complete may be, and others go on."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for tcp in (False, True):
            with tls_server("-v", size=4 * MIB, tcp=tcp) as server:
                other = in_transmission(server)

                def fresh():
                    return in_transmission(server, "simple", context=pki().context(version=version))

                def request(command, offset, length):
                    return struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, length)

                for length in (1, 4, 27):
                    client = fresh()
                    client.send(request(0, 0, 4096)[:length])
                    check(cut_off(client) == b"", "an answer to a part of a request")
                for length in (0, 1, 70000):
                    client, before = fresh(), server.bytes()
                    client.send(request(1, 4096, MIB) + b"x" * length)
                    check(cut_off(client) == b"", "an answer to a part of a payload")
                    after = server.bytes()
                    check(after[:4096] == before[:4096] and after[4096 + length:] ==
                          before[4096 + length:], "what never came was written")
                client = fresh()
                client.send(request(0, 5, 100000))
                answer = cut_off(client)
                check(answer in (b"", struct.pack(">IIQ", 0x67446698, 0, 7)
                                 + server.bytes(5, 100000)[:len(answer) - 16]), "a wrong answer")
                other.in_sync()
                server.alive()


def test_cut_record():
    """S54: a stream that is cut inside a record of a request is no request; and a record that was
    changed on its way ends the session, with its reason in the log."""
    with tls_server("-v") as server:
        for cut in (3, 30, -1):
            client = in_transmission(server, "simple")
            session = socket.socket(fileno=os.dup(client.sock.fileno()))
            session.settimeout(60)
            ours, theirs = socket.socketpair()
            # What Python encrypts from now on goes through our hands.
            os.dup2(theirs.fileno(), client.sock.fileno())
            client.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 8) + b"changed!")
            record = ours.recv(65536)
            if cut < 0:
                record = record[:-1] + bytes([record[-1] ^ 1])
            session.sendall(record[:cut] if cut > 0 else record)
            session.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := session.recv(4096):
                    answer += part
            except ConnectionResetError:
                pass
            check(len(answer) < 64, f"{len(answer)} bytes are no alert")
            for end in (session, ours, theirs):
                end.close()
            client.close()
        check(server.bytes(0, 8) == content_of(8), "it was written")
        check("bad record mac" in server.stderr(), server.stderr())
        in_transmission(server).in_sync()


def test_handshake_deadline():
    """S7: mute after STARTTLS, or dripping its ClientHello, a client is gone at the limit, and
    others are served meanwhile (CVE-2024-7409)."""
    with tls_server("--handshake-limit=2") as server:
        hello = Pieces(server.greeted()).flight()
        mute = [starttls(server.greeted()) for _ in range(20)]
        dripping = starttls(server.greeted())
        in_transmission(server).in_sync()
        ends = time.monotonic() + 30
        gone = False
        for byte in hello:
            try:
                dripping.sock.sendall(bytes([byte]))
                dripping.sock.setblocking(False)
                gone = dripping.sock.recv(64) == b""
            except BlockingIOError:
                time.sleep(0.05)
            except ConnectionError:
                gone = True
            if gone or time.monotonic() > ends:
                break
        check(gone, "the dripping client stays")
        for client in mute:
            client.expect_drop("S7")


def test_wire_garbage():
    """S54: garbage where a session was ends that session only."""
    with tls_server() as server:
        for junk in (b"\x17\x03\x03\x40\x00" + bytes(16384), b"\x15\x03\x03\x00\x02\x02\x00",
                     b"\x14\x03\x03\x00\x01\x01", b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
                     b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\xff" * 40000):
            client = in_transmission(server)
            raw = socket.socket(fileno=os.dup(client.sock.fileno()))
            try:
                raw.sendall(junk)
                client.sock.recv(64)
            except (ssl.SSLError, ConnectionError):
                pass
            raw.close()
            client.close()
        in_transmission(server).in_sync()


main(globals())
