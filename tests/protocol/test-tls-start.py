#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Credentials that cannot be used end the start with the reason; options that cannot be meant."""

import os
import pty
import select
import shutil
import subprocess
import time

from harness import MIB, SANITIZER, Server, check, main, program
from pki import openssl, pki, secure


def fails(*options, words, environment=None, image="/dev/null"):
    done = subprocess.run([program(), "-f", "raw", "-k", pki().path("no-socket"), *options, image],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False, env=dict(os.environ, **(environment or {})))
    check(done.returncode == 1 and not SANITIZER.search(done.stderr), f"{options}: {done}")
    for word in words if isinstance(words, (list, tuple)) else [words]:
        check(word in done.stderr, f"'{word}' is not in: {done.stderr}")
    check(not os.path.exists(pki().path("no-socket")), "the socket was made")


def test_certificates():
    """What is missing, does not belong together or would be refused by every peer is named."""
    fails(*pki().x509(pki().path("nowhere")), words="Unable to access credentials")
    for part in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
        folder = pki().folder("without-" + part, "server")
        os.unlink(f"{folder}/{part}")
        fails(*pki().x509(folder), words=[part, "No such file"])
        with open(f"{folder}/{part}", "w", encoding="ascii") as out:
            out.write("garbage")
        fails(*pki().x509(folder), words=[part, "it holds no whole"])
        with open(f"{folder}/{part}", "w", encoding="ascii") as out:
            out.write(pki().text("server-key.pem" if "key" in part else "server-cert.pem")[:150])
        fails(*pki().x509(folder), words=[part, "it holds no whole"])
    folder = pki().folder("mixed", "server")
    with open(pki().path("server-new-key.pem"), "rb") as key:
        with open(f"{folder}/server-key.pem", "wb") as out:
            out.write(key.read())
    fails(*pki().x509(folder), words="does not belong to")
    for name, word in (("expired", "expired; renew it"),
                       ("other", "add its authority to " + pki().path("own-other/ca-cert.pem"))):
        folder = pki().folder("own-" + name, "server-" + name)
        fails(*pki().x509(folder), words=["of no use", word, f"own-{name}/server-cert.pem"])
    fails(*pki().x509(pki().folder("own-purpose", "client")), words=["purpose", "serverAuth"])
    fails(*pki().x509(pki().folder("own-revoked", "server-revoked", crl=True)), words="revoked")
    folder = pki().folder("dangling-crl", "server")
    os.symlink("nowhere", folder + "/ca-crl.pem")
    fails(*pki().x509(folder), words=["dangling-crl/ca-crl.pem", "No such file"])


def test_old_revocations():
    """A list of revoked certificates that is no longer good is named, not the certificate."""
    folder = pki().folder("old-crl", "server")
    openssl("ca", "-config", pki().path("ca.conf"), "-gencrl", "-crl_lastupdate", "20200101000000Z",
            "-crl_nextupdate", "20200102000000Z", "-out", f"{folder}/ca-crl.pem")
    fails(*pki().x509(folder), words=["old-crl/ca-crl.pem has expired", "renew it"])


def test_strength():
    """A key that is too small for a priority says whose wish that was."""
    folder = pki().folder("small", "server")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout",
            f"{folder}/server-key.pem", "-out", f"{folder}/server-cert.pem")
    fails(*pki().x509(folder, "priority=SECURE256"),
          words=["small/server-cert.pem", "too small for the TLS priority 'SECURE256'"])


def test_keys():
    """A file without a good key is refused; lines that are none are skipped beside others, with a
    warning, and comments without. No message shows a key."""
    os.makedirs(pki().path("bad-keys"), exist_ok=True)
    bad = ("alice", "alice:", "alice:0", "alice:xx", ":00", "a" * 129 + ":00",
           "alice:" + "00" * 513, "#ee:")
    for text in (*bad, "", "# alice:00"):
        pki().write("bad-keys/keys.psk", text)
        fails(*pki().psk(pki().path("bad-keys")), words="keys.psk holds not one key")
    for text in bad:
        pki().write("bad-keys/keys.psk", f"# comment\nbob:beef\n\n{text}\ncarol\n")
        with Server(*pki().psk(pki().path("bad-keys"))) as server:
            said = server.stderr()
            check("keys.psk are keys; 2 lines are skipped, the first is line 4" in said, said)
            check("beef" not in said and text not in said, said)
    pki().write("bad-keys/keys.psk", "# comment\n#comment\nbob:beef\n")
    with Server(*pki().psk(pki().path("bad-keys"))) as server:
        check("skipped" not in server.stderr(), server.stderr())
    fails(*pki().psk(pki().path("nowhere")), words="Unable to access credentials")
    fails(*pki().psk(pki().keys, "username=x"), words="username should not be set")


def test_properties():
    """Properties with a value that means nothing, and unknown ones, are refused by name."""
    fails(*pki().x509(pki().good, "priority=NORMAL:+ROT13"), words="ROT13")
    fails(*pki().x509(pki().good, "priority=NORMAL:+VERS-TLS1.0"), words="not safe")
    fails(*pki().x509(pki().good, "priority=NORMAL:-VERS-ALL"), words="leaves no cipher")
    fails(*pki().x509(pki().good, "verify-pear=on"), words="verify-peer")
    fails("--object", "tls-creds-x509,id=tls,endpoint=servant,dir=/", words="endpoint")
    fails("--object", "tls-creds-x509,id=tls,endpoint=server", words="Missing 'dir'")
    fails(*pki().x509(pki().good, "passwordid=nobody"), words="nobody")


def test_ids():
    """What --tls-creds and --tls-authz name must be there, and be of the right kind and side."""
    fails("--tls-creds", "x", words="Failed to get TLS creds: No TLS credentials with id 'x'")
    fails("--object", "iothread,id=x", "--tls-creds", "x",
          words="Failed to get TLS creds: Object with id 'x' is not TLS credentials")
    fails(*pki().x509(endpoint="client"), words="server endpoint")
    fails(*pki().x509(), "--tls-authz", "y", words="'y' not found")
    fails(*pki().x509(), "--tls-authz", "tls", words="no rules")
    fails(*pki().x509(), "--object", "authz-list,id=a,rules.0.match=x", "--tls-authz", "a",
          words="needs 'match' and 'policy'")
    fails(*pki().x509(), "--object", "authz-list-file,id=a,filename=/nonexistent", "--tls-authz",
          "a", words="/nonexistent")


def test_nobody_has_a_name():
    """Rules about names, with credentials that ask for none: the server starts, as qemu-nbd does,
    and says what that means."""
    rules = ("--object", "authz-list,id=a,policy=allow", "--tls-authz", "a")
    for creds, warns in ((pki().anon(), True), (pki().x509(pki().good, "verify-peer=off"), True),
                         (pki().x509(), False), (pki().psk(), False),
                         (pki().psk(pki().keys, "verify-peer=off"), False)):
        with Server(*creds, *rules) as server:
            check(("--tls-authz=a lets nobody in" in server.stderr()) == warns, f"{creds}")


def test_password():
    """A private key with a password is opened by a secret, and by the right one only."""
    folder = pki().folder("locked", "server", "client")
    subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:sesame", "-in",
                    pki().path("server-key.pem"), "-out", f"{folder}/server-key.pem"],
                   check=True, capture_output=True, timeout=60)
    fails(*pki().x509(folder), words=["server-key.pem", "is encrypted", "passwordid="])

    def secret(data):
        return ["--object", f"secret,id=s,data={data}"]

    fails(*secret("wrong"), *pki().x509(folder, "passwordid=s"), words=["server-key.pem", "the password is wrong"])
    with Server(*secret("sesame"), *pki().x509(folder, "passwordid=s")) as server:
        check(secure(server.greeted()).list() == [("", "")], "LIST")


def on_a_terminal(*options):
    """What the server says to one, before it ends."""
    child, terminal = pty.fork()
    if not child:
        os.execv(program(), [program(), "-f", "raw", "-k", pki().path("no-socket"), *options,
                             "/dev/null"])
    said, ends = b"", time.monotonic() + 30
    try:
        while time.monotonic() < ends and b"pass phrase" not in said:
            if select.select([terminal], [], [], 0.1)[0]:
                said += os.read(terminal, 4096)
    except OSError:  # it has ended
        pass
    os.close(terminal)
    os.waitpid(child, 0)
    return said.decode()


def test_nobody_is_asked():
    """A certificate, or a key, with a password that was not given asks nobody on the terminal."""
    folder = pki().folder("locked-certificate", "server")
    subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:sesame", "-in",
                    pki().path("server-key.pem"), "-out", pki().path("locked.pem")],
                   check=True, capture_output=True, timeout=60)
    locked = pki().text("locked.pem")
    for name, text in (("server-cert.pem", locked.replace("EC PRIVATE KEY", "CERTIFICATE")),
                       ("server-key.pem", locked)):
        pki().write(f"locked-certificate/{name}", text)
        said = on_a_terminal(*pki().x509(folder))
        check("phrase" not in said and name in said, said)
        shutil.copy(pki().path(name), f"{folder}/{name}")


def test_credentials_directory():
    """A relative folder, or none, is that of the service manager's credentials."""
    top = {"CREDENTIALS_DIRECTORY": pki().top}
    inside = {"CREDENTIALS_DIRECTORY": pki().good}
    base = "tls-creds-x509,id=tls,endpoint=server"
    for text, environment in ((base + ",dir=good", top), (base, inside), (base + ",dir=.", inside)):
        with Server("--object", text, "--tls-creds", "tls", size=MIB,
                    environment=environment) as server:
            check(secure(server.greeted()).list() == [("", "")], text)
    fails("--object", base + ",dir=nowhere", "--tls-creds", "tls", environment=top,
          words="nowhere")
    fails("--object", base, "--tls-creds", "tls", environment={"CREDENTIALS_DIRECTORY": "/none"},
          words="Unable to access credentials /none: No such file or directory; set 'dir'")


main(globals())
