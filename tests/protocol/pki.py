# SPDX-License-Identifier: MIT
"""
Certificates and keys for tests, made by openssl(1) once for each run: folders as QEMU, nbdkit and
libnbd have them. "good" is what works; the others are each wrong in one way.
"""

import atexit
import os
import shutil
import ssl
import struct
import subprocess
import tempfile

from harness import Skip, check
from nbdraw import OPT_STARTTLS, Dropped

USER = "alice"
KEY = "6f" * 32
SUBJECT = "C=GB,O=Home,CN=laptop"  # of the client, as GnuTLS writes it


def openssl(*arguments, stdin=None):
    if not shutil.which("openssl"):
        raise Skip("openssl is not installed")
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, text=True,
                          timeout=60, check=False)
    check(done.returncode == 0, f"openssl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


class Pki:
    """Files in self.top; folder(NAME, ...) puts some of them together."""

    def __init__(self):
        self.top = tempfile.mkdtemp(prefix="hawser-pki-")
        atexit.register(shutil.rmtree, self.top, True)
        self.authority("ca", "/CN=Test authority")
        self.authority("other-ca", "/CN=Another authority")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        self.certificate("server", "/CN=localhost", "serverAuth", names)
        self.certificate("server-new", "/CN=localhost", "serverAuth", names)
        self.certificate("server-name", "/CN=elsewhere", "serverAuth",
                         "subjectAltName=DNS:elsewhere")
        self.certificate("server-expired", "/CN=localhost", "serverAuth", names, days="-1")
        self.certificate("server-other", "/CN=localhost", "serverAuth", names, ca="other-ca")
        self.certificate("server-revoked", "/CN=localhost", "serverAuth", names)
        self.certificate("client", "/C=GB/O=Home/CN=laptop", "clientAuth")
        self.certificate("client-expired", "/CN=late", "clientAuth", days="-1")
        self.certificate("client-other", "/CN=laptop", "clientAuth", ca="other-ca")
        self.certificate("client-revoked", "/CN=thief", "clientAuth")
        self.certificate("client-purpose", "/CN=purpose", "serverAuth")
        self.revoke("client-revoked", "server-revoked")
        self.good = self.folder("good", "server", "client")
        self.revoking = self.folder("revoking", "server", "client", crl=True)
        self.keys = self.folder("keys")
        self.write("keys/keys.psk", f"bob:00112233\n{USER}:{KEY}\n")
        os.mkdir(self.path("wrong-keys"))
        self.write("wrong-keys/keys.psk", f"{USER}:{'70' * 32}\n")

    def path(self, name):
        return os.path.join(self.top, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as out:
            out.write(text)
        return self.path(name)

    def authority(self, name, subject):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", "30", "-subj", subject, "-keyout", self.path(name + "-key.pem"),
                "-out", self.path(name + "-cert.pem"))

    def certificate(self, name, subject, purpose, names="", days="30", ca="ca",
                    constraints="CA:FALSE"):
        request, text = self.path(name + ".csr"), self.path(name + ".ext")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-utf8", "-subj", subject, "-keyout", self.path(name + "-key.pem"), "-out", request)
        self.write(name + ".ext",
                   f"basicConstraints={constraints}\nextendedKeyUsage={purpose}\n{names}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.path(ca + "-cert.pem"), "-CAkey",
                self.path(ca + "-key.pem"), "-CAcreateserial", "-days", days, "-extfile", text,
                "-out", self.path(name + "-cert.pem"))

    def revoke(self, *names):
        """Makes crl.pem with these certificates."""
        self.write("index.txt", "")
        self.write("crlnumber", "01\n")
        config = self.write("ca.conf", "[ca]\ndefault_ca=it\n[it]\n"
                            f"database={self.path('index.txt')}\n"
                            f"crlnumber={self.path('crlnumber')}\n"
                            f"certificate={self.path('ca-cert.pem')}\n"
                            f"private_key={self.path('ca-key.pem')}\n"
                            "default_md=sha256\ndefault_crl_days=30\n")
        for name in names:
            openssl("ca", "-config", config, "-revoke", self.path(name + "-cert.pem"))
        openssl("ca", "-config", config, "-gencrl", "-out", self.path("crl.pem"))

    def text(self, *names):
        """Some certificates in one file."""
        return "".join(open(self.path(name), encoding="ascii").read() for name in names)

    def der(self, name):
        return ssl.PEM_cert_to_DER_cert(self.text(name))

    def folder(self, name, server=None, client=None, ca="ca", crl=False):
        """A folder with these certificates under the names that programs look for."""
        folder = self.path(name)
        os.makedirs(folder, exist_ok=True)
        parts = [("ca-cert.pem", ca + "-cert.pem")]
        for role, source in (("server", server), ("client", client)):
            if source:
                parts += [(f"{role}-{part}.pem", f"{source}-{part}.pem")
                          for part in ("cert", "key")]
        if crl:
            parts.append(("ca-crl.pem", "crl.pem"))
        for target, source in parts:
            shutil.copy(self.path(source), os.path.join(folder, target))
        return folder

    # ---- what programs are told ----

    def x509(self, folder=None, *more, endpoint="server"):
        """Options of hawserd and qemu-nbd for certificates."""
        text = ",".join(["tls-creds-x509", "id=tls", f"endpoint={endpoint}",
                         f"dir={folder or self.good}", *more])
        return ["--object", text, "--tls-creds", "tls"]

    def psk(self, folder=None, *more, endpoint="server"):
        user = [f"username={USER}"] if endpoint == "client" else []
        text = ",".join(["tls-creds-psk", "id=tls", f"endpoint={endpoint}",
                         f"dir={folder or self.keys}", *user, *more])
        return ["--object", text, "--tls-creds", "tls"]

    @staticmethod
    def anon(*more, endpoint="server"):
        text = ",".join(["tls-creds-anon", "id=tls", f"endpoint={endpoint}", *more])
        return ["--object", text, "--tls-creds", "tls"]

    # ---- Python's side ----

    def context(self, client="client", version=None):
        """A client's context; client None: without a certificate."""
        context = ssl.create_default_context(cafile=self.path("ca-cert.pem"))
        if client:
            context.load_cert_chain(self.path(client + "-cert.pem"),
                                    self.path(client + "-key.pem"))
        if version:
            context.minimum_version = context.maximum_version = version
        return context


_made = []


def pki():
    """Made when first asked for."""
    if not _made:
        _made.append(Pki())
    return _made[0]


def starttls(client):
    """STARTTLS up to its ACK; the socket is still in clear."""
    client.demands_tls = True
    reply = client.option(OPT_STARTTLS)
    check(reply.ok, f"STARTTLS: {reply}")
    return client


def secure(client, context=None, host="localhost"):
    """Takes a greeted client over into TLS. Fails with ssl.SSLError as Python does."""
    starttls(client)
    client.sock = (context or pki().context()).wrap_socket(
        client.sock, server_hostname=host, suppress_ragged_eofs=False)
    client.demands_tls = False
    return client


def option_bytes(option, data=b""):
    return struct.pack(">QII", 0x49484156454f5054, option, len(data)) + data


class Pieces:
    """A TLS client whose bytes we hold in our hands."""

    def __init__(self, client, context=None):
        self.client = starttls(client)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.received = b""
        self.tls = (context or pki().context()).wrap_bio(self.incoming, self.outgoing,
                                                         server_hostname="localhost")

    def flight(self):
        """What the client wants to send next, in the handshake; b'' when it is done."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def receive(self):
        data = self.client.sock.recv(65536)
        if not data:
            raise Dropped("handshake")
        self.received += data
        self.incoming.write(data)

    def shake(self, send):
        done = False
        while not done:
            bytes_ = self.flight()
            if bytes_:
                send(bytes_)
            try:
                self.tls.do_handshake()
                done = True
                rest = self.outgoing.read()
                if rest:
                    send(rest)
            except ssl.SSLWantReadError:
                self.receive()

    def option(self, option, send):
        self.tls.write(option_bytes(option))
        send(self.outgoing.read())
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.receive()
