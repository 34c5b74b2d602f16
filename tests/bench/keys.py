# SPDX-License-Identifier: MIT
"""Keys for the rows with TLS: one folder with certificates of both sides and a pre-shared key; in
it "trust", for a client that has no certificate."""

import subprocess
from pathlib import Path

USER = "bench"


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


def _certificate(folder, role, purpose):
    key, request = folder / f"{role}-key.pem", folder / f"{role}.csr"
    extensions = folder / f"{role}.ext"
    extensions.write_text(f"extendedKeyUsage={purpose}\n"
                          "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key,
             "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", folder / "ca-cert.pem", "-CAkey",
             folder / "ca-key.pem", "-CAcreateserial", "-days", "30", "-extfile", extensions,
             "-out", folder / f"{role}-cert.pem")


def make(directory):
    """Its path, absolute. RSA, because that is what most people have."""
    folder = Path(directory).resolve() / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj",
             "/CN=Benchmark", "-keyout", folder / "ca-key.pem", "-out", folder / "ca-cert.pem")
    _certificate(folder, "server", "serverAuth")
    _certificate(folder, "client", "clientAuth")
    (folder / "trust").mkdir(exist_ok=True)
    (folder / "trust" / "ca-cert.pem").write_bytes((folder / "ca-cert.pem").read_bytes())
    (folder / "keys.psk").write_text(f"{USER}:{'5a' * 32}\n")
    return folder
