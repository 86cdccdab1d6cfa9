"""Whose stream it is, and which request it answers: keyed hashes of what must not be stored itself.

Two callers see the same streams only if all their credentials are equal. What cannot be told apart by credentials, such
as users behind one key, is not told apart here.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

Pairs = Iterable[tuple[bytes, bytes]]

_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"})
_FIELDS = frozenset({b"key", b"api_key", b"api-key", b"access_token"})


def scope_of(secret: bytes, headers: Pairs, query: bytes) -> str:
    """The scope of a caller: the same for the same credentials, and of no use to find them out.

    Args:
        secret: What the hash is keyed with.
        headers: Of the request; names in lower case.
        query: The raw query.
    """
    found = [pair for pair in headers if pair[0] in _HEADERS]
    found += [(b"?" + name, value) for name, value, _ in _fields(query) if name in _FIELDS]
    return _digest(secret, b"scope", *(part for pair in sorted(found) for part in pair))


def fingerprint_of(secret: bytes, method: str, path: bytes, query: bytes, body: bytes) -> str:
    """What a request asks for, whoever asks. Keyed, for a prompt may be short enough to be guessed."""
    kept = b"&".join([raw for name, _, raw in _fields(query) if name not in _FIELDS])
    return _digest(secret, b"request", method.encode(), path, kept, body)


def credentials_in(query: bytes) -> bytes:
    """The fields of a query that are credentials, as they are."""
    return b"&".join(raw for name, _, raw in _fields(query) if name in _FIELDS)


def secret_beside(path: Path) -> bytes:
    """The secret that belongs to a file, in another one beside it, so that every process hashes alike.

    Raises:
        OSError: It cannot be read, or made.
    """
    file = Path(f"{path}.key")
    with suppress(FileExistsError):
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(made, "wb") as empty:
                empty.write(secrets.token_bytes(32))
        except OSError:
            file.unlink()  # where the disk is full: an empty one would be everybody's secret from now on
            raise
    return file.read_bytes()


def _fields(query: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Name, value and raw text of each field."""
    fields: list[tuple[bytes, bytes, bytes]] = []
    for raw in query.split(b"&") if query else ():
        name, _, value = raw.partition(b"=")
        fields.append((unquote_to_bytes(name).lower(), value, raw))
    return fields


def _digest(secret: bytes, *parts: bytes) -> str:
    # With their lengths, so that no two lists of parts look alike. At once: an object to update takes twice as long.
    told = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    return hmac.digest(secret, told, "sha256").hex()
