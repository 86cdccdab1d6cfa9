"""A provider that says tokens at a steady rate, in a process of its own: what all relays stand in front of.

Run as ``python -m benchmarks.relay.upstream``; prints its port, and ends with its input. One thread reads requests, one
keeps the time: an event loop's timers have milliseconds, and would have the events of all streams come in bursts.
Every event says when it was sent, on the clock that all processes of a machine share.
"""

from __future__ import annotations

import heapq
import random
import re
import selectors
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.wire import CHUNK_BYTES, END, HEAD, chunked, pieces

_DATA = (
    'data: {"id":"chatcmpl-BenchMark012","object":"chat.completion.chunk","created":1763800000,'
    '"model":"gpt-5.1-mini","choices":[{"index":0,"delta":{"content":" t=%016d"},"logprobs":null,'
    '"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"
STAMP = re.compile(rb"t=(\d{16})")
_ORDER = re.compile(rb"events=(\d+) rate=(\d+)")
_NAP = 0.0005

HOLD_SECONDS = 1.0
"""How long an answer that comes as fast as it goes waits behind its first event, for readers to gather."""


def order(events: int, rate: int) -> str:
    """What a prompt says to be answered with so many events, so many a second; as fast as it goes for 0."""
    return f"events={events} rate={rate}"


def ordered(request: bytes) -> tuple[int, int]:
    """What `order` has said."""
    found = _ORDER.search(request)
    assert found is not None
    return int(found[1]), int(found[2])


def event() -> bytes:
    """An event of 218 bytes that says when it was made."""
    return (_DATA % time.monotonic_ns()).encode()


@dataclass(order=True)
class _Stream:
    due: float
    number: int
    connection: socket.socket = field(compare=False)
    left: int = field(compare=False)
    pause: float = field(compare=False)
    chance: random.Random = field(compare=False)


class _Pace:
    """Sends the next event of whichever stream it is due for."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, stream: _Stream) -> None:
        with self._lock:
            heapq.heappush(self._streams, stream)

    def _run(self) -> None:
        while True:
            with self._lock:
                wait = self._streams[0].due - time.monotonic() if self._streams else _NAP
                stream = heapq.heappop(self._streams) if wait <= 0 else None
            if stream is None:
                time.sleep(min(wait, _NAP))
            elif _step(stream):
                self.add(stream)


def _step(stream: _Stream) -> bool:
    """Send an event; whether there are more."""
    try:
        if stream.left == 0:
            stream.connection.send(chunked(DONE) + END)
            return False
        stream.connection.send(chunked(event()))
    except BlockingIOError:
        stream.due = time.monotonic() + stream.pause
        return True  # its reader is behind, which is no reason to let the others wait
    except OSError:
        return False
    stream.left -= 1
    # Nothing in the world has tokens at equal distances, and streams would be in step.
    stream.due += stream.pause * stream.chance.uniform(0.5, 1.5)
    return True


def _pour(connection: socket.socket, events: int) -> None:
    with suppress(OSError):
        connection.send(chunked(event()))
        time.sleep(HOLD_SECONDS)
        connection.setblocking(True)
        data = b"".join(chunked(event()) for _ in range(events - 1)) + chunked(DONE) + END
        for piece in pieces(data, CHUNK_BYTES):
            connection.sendall(piece)
        connection.setblocking(False)


def main() -> None:
    """Serve until the input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    sys.stdin.read()


def _serve(listener: socket.socket) -> None:
    pace, number = _Pace(), 0
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    caller, _ = listener.accept()
                    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    caller.setblocking(False)
                    selector.register(caller, selectors.EVENT_READ, bytearray())
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                try:
                    data = connection.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(connection)
                    connection.close()
                    continue
                key.data.extend(data)
                found = _ORDER.search(key.data)
                if found is not None:
                    number += 1
                    _answer(connection, number, int(found[1]), int(found[2]), pace)
                    key.data.clear()


def _answer(connection: socket.socket, number: int, events: int, rate: int, pace: _Pace) -> None:
    connection.send(HEAD)
    if rate == 0:
        threading.Thread(target=_pour, args=(connection, events), daemon=True).start()
        return
    stream = _Stream(time.monotonic(), number, connection, events, 1 / rate, random.Random(number))
    if _step(stream):
        pace.add(stream)


if __name__ == "__main__":
    main()
