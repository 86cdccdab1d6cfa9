"""Many readers in one process that does little else: sends requests, reads answers, and says how late each event came.

No HTTP library and no event loop, so that what is measured is the relay. What was read is checked: nothing may be
missing.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.relay.upstream import STAMP, order

PATH = "/v1/chat/completions"
KEY = "sk-8f14e45fceea167a5a36dedd4bea2543"
"""Of no value, but LiteLLM wants to be told one that is not easily guessed."""
_LAST = b"[DONE]"
_READ = 256 * 1024
_PATIENCE = 60.0
_TCP_INFO = struct.Struct("@128xQ16xI")
"""Of Linux' ``struct tcp_info``, the bytes received and the segments that brought them."""


class Incomplete(Exception):
    """Not all that was asked for has come."""


@dataclass
class Reader:
    """One connection, and what came of it.

    Attributes:
        request: What is sent.
        start: When to send it, in seconds from the beginning of all.
        head: What is told before the first event; to be set where nothing is.
        place: Where what is read is kept, if that was known before.
        whole: The last events that have come, as they came.
        stamps: When the events were made, to tell them apart; None where nobody wants to know.
    """

    request: bytes
    start: float = 0.0
    asked: int = 0
    first: int = 0
    events: int = 0
    done: bool = False
    head: bytes = b""
    tail: bytes = b""
    place: str = ""
    whole: bytes = b""
    stamps: set[bytes] | None = None
    late: list[int] = field(default_factory=list)
    connection: socket.socket | None = None

    def take(self, data: bytes, now: int, *, measuring: bool) -> None:
        """Read what has come."""
        if not self.head and b"\r\n\r\n" not in self.tail + data:
            self.tail += data
            return
        data = self.tail + data
        if not self.head:
            self.head, _, data = data.partition(b"\r\n\r\n")
            if b" 20" not in self.head[:16]:
                raise Incomplete(f"{self.head!r} {data!r}")
        end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        whole, self.tail = data[:end], data[end:]
        self.count(whole, now, measuring=measuring)

    def count(self, whole: bytes, now: int, *, measuring: bool) -> None:
        """Count these events, of which none is cut."""
        stamps = STAMP.findall(whole)
        if stamps:
            self.events += len(stamps)
            self.first, self.whole = self.first or now, whole
            if self.stamps is not None:
                self.stamps.update(stamps)
            if measuring:
                self.late += [now - int(stamp) for stamp in stamps]
        if _LAST in whole:
            self.done = True


def body(prompt: str) -> str:
    """What an answer is asked for with."""
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps(asked, separators=(",", ":"))


def post(prompt: str) -> bytes:
    """A request for an answer."""
    text = body(prompt)
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}"
    ).encode()


def get(path: str, after: int | str = "") -> bytes:
    """A request for what is kept."""
    cursor = f"last-event-id: {after}\r\n" if after else ""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n{cursor}\r\n".encode()


class Crowd:
    """Readers that are served side by side.

    Args:
        port: Whose.
        readers: They.
    """

    def __init__(self, port: int, readers: Iterable[Reader]) -> None:
        self.readers = list(readers)
        self.events = 0
        self.measuring = False
        self._address = ("127.0.0.1", port)
        self._selector = selectors.EpollSelector()
        self._left = len(self.readers)

    def add(self, readers: Iterable[Reader]) -> None:
        """More of them come."""
        more = list(readers)
        self.readers += more
        self._left += len(more)

    def connect(self) -> None:
        """Open the connections, as a client of some SDK mostly has one open."""
        for reader in self.readers:
            reader.connection = socket.create_connection(self._address)
            reader.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader.connection.setblocking(False)

    def run(self, until: Callable[[], bool] | None = None, *, begun: float | None = None) -> None:
        """Send the requests when they are due, and read until all answers have ended, or for as long as is said.

        Args:
            until: Asked now and then whether it is enough.
            begun: When all began, if not now.
        """
        begun = time.monotonic() if begun is None else begun
        waiting = sorted((each for each in self.readers if not each.asked), key=lambda each: -each.start)
        heard = time.monotonic()
        while self._left and not (until is not None and until()):
            now = time.monotonic()
            while waiting and waiting[-1].start <= now - begun:
                self._ask(waiting.pop())
            pause = 0.05 if not waiting else max(0.0, min(waiting[-1].start - (now - begun), 0.05))
            for key, _ in self._selector.select(pause):
                self._read(key.data)
                heard = now
            if not waiting and now - heard > _PATIENCE:
                raise Incomplete(f"{self._left} of {len(self.readers)} answers have no end")

    def received(self) -> tuple[int, int]:
        """The bytes that have come over all connections, and in how many segments, as the system counts them."""
        told = [
            _TCP_INFO.unpack(each.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
            for each in self.readers
            if each.connection is not None
        ]
        return sum(size for size, _ in told), sum(segments for _, segments in told)

    def close(self) -> None:
        """Hang up."""
        for reader in self.readers:
            if reader.connection is not None:
                reader.connection.close()
        self._selector.close()

    def _ask(self, reader: Reader) -> None:
        if reader.connection is None:
            reader.connection = socket.create_connection(self._address)
            reader.connection.setblocking(False)
        self._selector.register(reader.connection, selectors.EVENT_READ, reader)
        reader.asked = time.monotonic_ns()
        reader.connection.send(reader.request)

    def _read(self, reader: Reader) -> None:
        assert reader.connection is not None
        try:
            data = reader.connection.recv(_READ)
        except BlockingIOError:
            return
        before = reader.events
        reader.take(data, time.monotonic_ns(), measuring=self.measuring)
        self.events += reader.events - before
        if reader.done or not data:
            if not reader.done:
                raise Incomplete(
                    f"an answer ended behind {reader.events} events: {reader.head!r} {reader.tail[-300:]!r}"
                )
            self._selector.unregister(reader.connection)
            self._left -= 1


def streams(count: int, events: int, rate: int, over: float) -> list[Reader]:
    """Readers of an answer each, who begin one after the other within so many seconds."""
    request = post(order(events, rate))
    return [Reader(request, start=over * number / count) for number in range(count)]
