# SPDX-License-Identifier: MIT
"""A server that a test makes up: a Unix socket in a folder of its own, and a thread that accepts.
What is said on a connection is the business of who derives from it (talk)."""

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading

from nbdraw import REPLYMAGIC


def reply(option, kind, data=b""):
    """One reply of the option haggling."""
    return struct.pack(">QIII", REPLYMAGIC, option, kind, len(data)) + data


class Listening:
    """Serves one connection after the other, each with a time-out of `patience` seconds (None: as
    long as it takes); connections: how many there were."""

    def __init__(self, patience=None):
        self.patience, self.connections = patience, 0
        self.directory = tempfile.mkdtemp(prefix="hawser-peer.")
        self.path = os.path.join(self.directory, "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                client.settimeout(self.patience)
                self.connections += 1
                self.accepted(client)

    def accepted(self, client):
        with client, contextlib.suppress(OSError, EOFError):
            self.talk(client)

    def talk(self, client):
        raise NotImplementedError

    @staticmethod
    def take(client, count):
        """So many bytes, or EOFError."""
        data = b""
        while len(data) < count:
            part = client.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data
