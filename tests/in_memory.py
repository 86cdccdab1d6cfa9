"""HTTP servers that live in memory: transports of either family whose answers come in chunks, and then end or break.

No sockets and no clock, so that whatever a test cuts is cut exactly there, and at once.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import anyio.lowlevel
import pytest
import tenacity

import resumable_llm as rl

# httpx2 needs Python 3.11, and from there on it must be there.
FAMILIES = (
    "httpx",
    pytest.param("httpx2", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 needs Python 3.11")),
)

SSE = {"content-type": "text/event-stream"}


@dataclass
class Said:
    """One answer.

    Attributes:
        chunks: The body, in pieces; something callable is called when its turn comes, and sends nothing.
        ends: Name of the family's error that breaks the body behind its last chunk; empty for a clean end.
        status: HTTP status.
        headers: Response headers.
        down: Name of the family's error that comes instead of an answer.
        extensions: Response extensions.
    """

    chunks: Iterable[bytes | Callable[[], object]] = ()
    ends: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: SSE)
    down: str = ""
    extensions: dict[str, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """One request as it reached the server."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    extensions: dict[str, Any]


class _Body:
    """A body being sent. Once it is closed it cannot be read, as it is with a socket."""

    http: ModuleType

    def __init__(self, said: Said) -> None:
        self._chunks = deque(said.chunks)
        self._ends = said.ends
        self.closed = 0

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        while True:
            if self.closed:
                raise self.http.ReadError("the connection has been closed")
            if not self._chunks:
                break
            chunk = self._chunks.popleft()
            if isinstance(chunk, bytes):
                return chunk
            chunk()
        if self._ends:
            raise getattr(self.http, self._ends)("cut")
        raise StopIteration

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()


class _Transport:
    """Both colours in one."""

    http: ModuleType
    body: type[_Body]

    def __init__(self, script: Iterable[Said]) -> None:
        self.script = deque(script)
        self.requests: list[Seen] = []
        self.responses: list[Any] = []
        self.bodies: list[_Body] = []
        self.closed = 0

    def handle_request(self, request: Any) -> Any:
        return self._answer(request, b"".join(request.stream))

    async def handle_async_request(self, request: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return self._answer(request, b"".join([part async for part in request.stream]))

    def _answer(self, request: Any, body: bytes) -> Any:
        headers = {name.decode().lower(): value.decode() for name, value in request.headers.raw}
        self.requests.append(Seen(request.method, str(request.url), headers, body, dict(request.extensions)))
        assert self.script, "one request more than the test has answers for"
        said = self.script.popleft()
        if said.down:
            raise getattr(self.http, said.down)("down")
        self.bodies.append(self.body(said))
        response = self.http.Response(
            said.status, headers=dict(said.headers), stream=self.bodies[-1], extensions=said.extensions
        )
        self.responses.append(response)
        return response

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


def transport(family: str, *script: Said) -> Any:
    """A transport of the family, for clients of both colours; it says what the script says, in order.

    It has ``requests``, what it was asked; ``responses`` and their ``bodies``, what it gave out; ``closed``, how
    often it was closed.
    """
    http = importlib.import_module(family)
    body = type("Body", (_Body, http.SyncByteStream, http.AsyncByteStream), {"http": http})
    made = type("Transport", (_Transport, http.BaseTransport, http.AsyncBaseTransport), {"http": http, "body": body})
    return made(script)


def policy(**options: Any) -> rl.RetryPolicy:
    """No backoff, and three attempts in a row."""
    return rl.RetryPolicy(**{"wait": tenacity.wait_none(), "stop": tenacity.stop_after_attempt(3), **options})


def numbered(*numbers: int) -> list[bytes]:
    """Events with ids."""
    return [b"id: %d\ndata: part %d\n\n" % (number, number) for number in numbers]


def chat(*texts: str, done: bool = False) -> list[bytes]:
    """Events of a chat completion."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
    events = [event % text.encode() for text in texts]
    return [*events, b"data: [DONE]\n\n"] if done else events


CHAT_URL = "https://api.example/v1/chat/completions"
CHAT = {"model": "m", "stream": True, "messages": []}
EVENTS_URL = "https://api.example/events"
ACCEPT = {"accept": "text/event-stream"}
LLAMA = {**SSE, "server": "llama.cpp"}
