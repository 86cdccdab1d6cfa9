"""A stream over WebSocket: a socket stands in for a GET, so that the rest of the relay need not know of it.

Each event is one text message, ``{"id": "17", "event": "message", "data": "..."}``, with the fields as an
``EventSource`` has them. Closed with 1000, the stream has ended and the reason says how; with 1012, read on behind the
last id. A browser shows nobody the status of a handshake that was refused, so it gets the status as a code: 4404.

Nor can a page of a browser add headers, and nothing but the server looks where a page is from. So a page offers its
credential as a subprotocol, as it would to OpenAI or to Kubernetes, and `PROTOCOL` beside it: that one is accepted, and
no credential is sent back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote_to_bytes, urlsplit

from resumable_llm.core.events import Event, EventDecoder
from resumable_llm.log.model import Log, State
from resumable_llm.log.scope import credentials_in
from resumable_llm.relay.messages import Message, Pairs, Receive, Scope, Send

PROTOCOL = "resumable-llm"
"""The subprotocol."""

ENDED, COME_AGAIN, REFUSED = 1000, 1012, 4000
"""Codes of a close; the last with the status of the refusal added to it."""

# A cookie is not among them: browsers send it by themselves.
_CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})

_ENDS = frozenset(state.value for state in State) - {State.RUNNING.value, State.INTERRUPTED.value}

_AT_ONCE = 64

_json = json.JSONEncoder(ensure_ascii=False).encode


class Socket:
    """A WebSocket's handshake, and what is sent over it.

    Args:
        scope: ASGI's.
        receive: ASGI's.
        send: ASGI's.

    Attributes:
        request: The handshake as a GET; a credential that was offered as a subprotocol is a header of it.
        is_hijacked: A page of another site makes it, and has nothing to show but what the browser adds by itself.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = [(name.lower(), value) for name, value in scope["headers"]]
        self._offered: list[str] = scope.get("subprotocols", [])
        brought = list(_headers_in(self._offered))
        self.request = {**scope, "method": "GET", "headers": headers + brought}
        self.log: Log | None = None
        self._receive = receive
        self._send = send
        self._events = EventDecoder()
        self._status = 0
        self._headers: Pairs = ()
        found = dict(headers)
        origin = found.get(b"origin")
        is_foreign = origin is not None and _host_of(origin) != found.get(b"host", b"").lower()
        self.is_hijacked = is_foreign and not (brought or credentials_in(scope.get("query_string", b"")))
        self._shows_status = origin is None and "websocket.http.response" in (scope.get("extensions") or {})

    async def open(self) -> None:
        """Take the handshake; to be called before anything else."""
        await self._receive()

    def reads(self, log: Log, cursor: str) -> None:
        """What will be sent is this log, behind this cursor."""
        self.log = log
        self._events.last_event_id = cursor

    async def receive(self) -> Message:
        """ASGI's, for a request without a body. What a reader says is for nobody."""
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's, for a response: a stream is accepted and told as messages, all else refuses the handshake."""
        with suppress(OSError):  # the reader has gone; `receive` will say so
            if message["type"] == "http.response.start":
                self._status, self._headers = message["status"], message["headers"]
                if self._status < 300:
                    await self._accept()
                return
            body: bytes = message.get("body", b"")
            if self._status >= 300:
                await self._refuse(body)
                return
            events = self._events.feed(body)
            for number, event in enumerate(events, 1):
                text = f'{{"id": {_json(event.id)}, "event": {_json(event.event)}, "data": {_json(event.data)}}}'
                await self._send({"type": "websocket.send", "text": text})
                if not number % _AT_ONCE:
                    await asyncio.sleep(0)  # a server may take thousands without a pause, and others wait
            if not message.get("more_body", False):
                await self._close(events)

    async def _accept(self) -> None:
        chosen = PROTOCOL if PROTOCOL in self._offered else None
        await self._send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})

    async def _close(self, last_words: list[Event]) -> None:
        """Say how it ended: as the relay's last words have it, where the log itself could not tell."""
        assert self.log is not None
        reason: str = self.log.state.value
        if last_words:
            reason = json.loads(last_words[-1].data).get("code", reason)
        code = ENDED if reason in _ENDS else COME_AGAIN
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, body: bytes) -> None:
        if self._shows_status:
            headers = list(self._headers)
            await self._send({"type": "websocket.http.response.start", "status": self._status, "headers": headers})
            await self._send({"type": "websocket.http.response.body", "body": body})
            await asyncio.sleep(0)  # uvicorn logs an error where an application returns before the connection is closed
        else:
            await self._accept()
            code = REFUSED + self._status
            await self._send({"type": "websocket.close", "code": code, "reason": json.loads(body)["code"]})


def _headers_in(offered: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """The headers among some subprotocols: ``authorization.Bearer%20sk-1``."""
    for each in offered:
        name, _, value = each.partition(".")
        if name in _CREDENTIALS:
            yield name.encode(), unquote_to_bytes(value)


def _host_of(origin: bytes) -> bytes:
    """Host and port; empty where there is none, as with ``null``."""
    with suppress(ValueError):
        return urlsplit(origin.decode("latin-1")).netloc.lower().encode("latin-1")
    return b""
