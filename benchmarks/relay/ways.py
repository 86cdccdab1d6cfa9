"""The ways in which tokens get to a reader: how one asks for an answer, and how one comes back to it."""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.relay.load import KEY, Incomplete, Reader, body, get, post

JOBS = "jobs"
"""The list in Redis from which a worker takes what is to be generated: a name, a blank, and the request's body."""

_LOCATION = re.compile(rb"(?i)\r\nlocation: (\S+)")
_ID = re.compile(rb'^id: (\S+)|"id": "([^"]+)"', re.MULTILINE)
_CLOSE, _DEFLATED = 8, 0x40


@dataclass(frozen=True)
class Way:
    """A way.

    Attributes:
        begin: Gives who asks for an answer, in these words.
        again: Gives who comes back, to this place and for what is behind this event; None where nobody can.
        is_joined: An answer is asked for by ``begin``, but read by ``again``.
        keeps: What was said while nobody read can be had.
    """

    begin: Callable[[str], Reader]
    again: Callable[[str, str], Reader] | None = None
    is_joined: bool = False
    keeps: bool = True


def place_of(reader: Reader) -> str:
    """Where what is read can be read again."""
    if reader.place:
        return reader.place
    found = _LOCATION.search(reader.head)
    assert found is not None, reader.head
    return found[1].decode()


def last_of(reader: Reader) -> str:
    """The id of the last event that was read; empty where there is none."""
    found = _ID.findall(reader.whole)
    return "".join(each.decode() for each in found[-1]) if found else ""


@dataclass
class WebSocketReader(Reader):
    """Reads messages. It answers no pings, for it is gone before anybody misses that."""

    inflate: Any = None

    def take(self, data: bytes, now: int, *, measuring: bool) -> None:
        """Read what has come."""
        data = self.tail + data
        if not self.head:
            if b"\r\n\r\n" not in data:
                self.tail = data
                return
            self.head, _, data = data.partition(b"\r\n\r\n")
            if b" 101" not in self.head[:16]:
                raise Incomplete(f"{self.head!r} {data!r}")
            if b"permessage-deflate" in self.head:
                self.inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        end, texts = 0, []
        for kind, payload, end in _messages(data):  # noqa: B007 - the last one's end is needed
            if kind & 15 == _CLOSE:
                continue
            texts.append(self.inflate.decompress(payload + b"\0\0\xff\xff") if kind & _DEFLATED else payload)
        self.tail = data[end:]
        self.count(b"\n".join(texts), now, measuring=measuring)


def _messages(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """First byte and payload of each message that is whole, and where it ends."""
    end = 0
    while len(data) - end >= 2:
        size, start = data[end + 1], end + 2
        if size > 125:
            length = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + length], "big"), start + length
        if len(data) < start + size:
            return
        kind, end = data[end], start + size
        yield kind, data[start:end], end


def _get(place: str, last: str) -> Reader:
    return Reader(get(place, last), place=place)


def _open(place: str, last: str, *, extensions: str = "") -> Reader:
    request = (
        f"GET {place}/ws?after={last} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        f"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extensions}\r\n"
    )
    return WebSocketReader(request.encode(), place=place)


def _open_deflated(place: str, last: str) -> Reader:
    return _open(place, last, extensions="sec-websocket-extensions: permessage-deflate\r\n")


def _order(prompt: str) -> Reader:
    """Who orders an answer and subscribes to it; in this order, for a subscriber may not order.

    Redis takes what one sends at once before it looks at anybody else, so nothing can be published in between.
    """
    name = secrets.token_hex(8)
    reader = _subscribe(name, "")
    return replace(reader, request=_command("RPUSH", JOBS, f"{name} {body(prompt)}") + reader.request)


def _subscribe(place: str, _last: str) -> Reader:
    return Reader(_command("SUBSCRIBE", place), head=b"none", place=place)


def _command(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def _post(prompt: str) -> Reader:
    return Reader(post(prompt))


DIRECT = Way(_post)
SSE = Way(_post, _get)
RESUMED = Way(_post, _get, is_joined=True)
WEBSOCKET = Way(_post, _open, is_joined=True)
DEFLATED = Way(_post, _open_deflated, is_joined=True)
CHANNEL = Way(_post, _get, keeps=False)
SUBSCRIBED = Way(_order, _subscribe, keeps=False)
