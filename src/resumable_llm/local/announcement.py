"""How a relay on loopback is found again: a file that says where it listens, and how to tell it from another program.

Whoever can read the file knows a token. The token is never sent; both sides show that they know it by what they make
of the other's words. So a program that has been given the port of a relay that is gone cannot pass for it, and is told
no key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
LOOPBACK = frozenset({HOST, "::1", "localhost"})
"""The names of this machine, for itself."""

CHALLENGE = "Relay-Challenge"
"""The header in which a client asks for a proof."""

PROOF = "Relay-Proof"
"""The header in which it is given."""

_MAX_HEAD = 16 * 1024


class Announcement(NamedTuple):
    """What the file says.

    Attributes:
        port: Where the relay listens, on loopback.
        pid: Its process, for people.
        token: What it and its clients know.
    """

    port: int
    pid: int
    token: str

    @property
    def url(self) -> str:
        """Where the relay is."""
        return f"http://{HOST}:{self.port}"

    def proof(self, challenge: str) -> str:
        """What shows that somebody knows the token. The port is part of it: nobody can have another relay answer."""
        return hmac.new(self.token.encode(), f"{self.port} {challenge}".encode(), hashlib.sha256).hexdigest()

    def holds(self, seconds: float) -> bool:
        """Whether the relay is there: whoever listens at the port knows the token.

        Args:
            seconds: How long to wait for its answer.
        """
        challenge = secrets.token_hex(16)
        lines = ["GET /_health HTTP/1.1", f"Host: {HOST}:{self.port}", f"{CHALLENGE}: {challenge}", "Connection: close"]
        try:
            head = _head(self.port, "\r\n".join([*lines, "", ""]).encode(), time.monotonic() + seconds)
        except OSError:
            return False
        name, proof = f"{PROOF.lower()}:".encode(), self.proof(challenge).encode()
        told = [line[len(name) :].strip() for line in head.split(b"\r\n") if line.lower().startswith(name)]
        return len(told) == 1 and hmac.compare_digest(told[0], proof)


def announce(path: Path, port: int) -> Announcement:
    """Write the file, in one step, for this user alone.

    Args:
        path: Where.
        port: Where this process listens.
    """
    made = Announcement(port, os.getpid(), secrets.token_hex(32))
    fresh = path.with_name(f"{path.name}.{made.pid}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        json.dump(made._asdict(), file)
    fresh.replace(path)
    return made


def read(path: Path) -> Announcement | None:
    """What the file says; None if there is none, or nothing that could be understood."""
    try:
        found = json.loads(path.read_text(encoding="ascii"))
        made = Announcement(**found)
    except (OSError, ValueError, TypeError):
        return None
    right = isinstance(made.port, int) and 0 < made.port < 65536 and isinstance(made.token, str) and len(made.token) > 0
    return made if right else None


def _head(port: int, asked: bytes, until: float) -> bytes:
    """The head of the answer; whoever is at the port, it does not take longer, and is not larger."""
    head = b""
    with socket.create_connection((HOST, port), _left(until)) as connection:
        connection.sendall(asked)
        while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
            connection.settimeout(_left(until))
            received = connection.recv(_MAX_HEAD)
            if not received:
                break
            head += received
    return head.partition(b"\r\n\r\n")[0]


def _left(until: float) -> float:
    """The time left, in seconds; never 0, which would mean: do not wait at all."""
    return max(until - time.monotonic(), 0.001)
