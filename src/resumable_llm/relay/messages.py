"""HTTP as the relay needs it, on ASGI's own terms: a request and its body, who asked and whether they are still there.

Raw ASGI: a framework's streaming response costs a quarter more per event, and twice the memory of a reader.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Pairs = Sequence[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_NOT_UPWARD = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"forwarded",
    b"relay-upstream",
    b"x-real-ip",
    b"via",
}
# What is true of the upstream's own origin, or of the moment; a cookie would be somebody's, and answers are kept.
_NOT_DOWNWARD = _HOP_BY_HOP | {b"alt-svc", b"date", b"server", b"set-cookie", b"strict-transport-security"}
_NOT_DOWNWARD_DECODED = _NOT_DOWNWARD | {b"content-encoding", b"content-length"}
_TARGET = re.compile(rb"/[!-\"$->@-~]*")
_QUERY = re.compile(rb"[!-\"$-~]*")


class Refused(Exception):
    """A request that the relay answers itself.

    Args:
        status: HTTP status.
        code: Why, in a word.
        message: Why, for people.
    """

    def __init__(self, status: int, code: str, message: str, headers: Pairs = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


class Inbound:
    """A request.

    Args:
        scope: ASGI's.

    Attributes:
        root: What the path of a mounted relay begins with.
        path: The path behind it, as it came, escaped.
        query: As it came.
        headers: As they came; names in lower case.
    """

    __slots__ = ("headers", "method", "path", "query", "root")

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.root: str = scope.get("root_path", "").rstrip("/")
        self.query: bytes = scope.get("query_string", b"")
        self.headers = _in_lower_case(scope["headers"])
        raw: bytes = scope.get("raw_path") or quote(scope["path"], safe="/%:@!$&'()*+,;=~").encode()
        if _TARGET.fullmatch(raw) is None or _QUERY.fullmatch(self.query) is None:
            raise Refused(400, "bad_target", "the target of the request must be a path, and ASCII")
        for root in (self.root.encode(), quote(self.root).encode()) if self.root else ():
            if raw.startswith(root + b"/"):
                raw = raw[len(root) :]
                break
        self.path = raw
        # A server may take away what stands before two dots, and with it what the upstream's URL begins with.
        if (b".." in raw or b"%" in raw) and ".." in re.split(r"[/\\]", unquote(raw.decode("ascii"))):
            raise Refused(400, "bad_target", "the path must not lead upward")

    def header(self, name: bytes) -> str | None:
        """The value of a header, each byte a character; None if there is none."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def accepts(self, media_type: str) -> bool:
        """Whether the Accept header names a type."""
        return media_type in (self.header(b"accept") or "").lower()

    @property
    def forbids_store(self) -> bool:
        """Whether the caller wants nothing to be kept."""
        named = [value for key, value in self.headers if key == b"cache-control"]
        return b"no-store" in [each.strip().lower() for each in b",".join(named).split(b",")]

    def upward(self) -> tuple[tuple[str, str], ...]:
        """The headers that go to the upstream; where the caller is, is not its affair."""
        gone = _without(_NOT_UPWARD, self.headers)
        return tuple(
            [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in self.headers
                if name not in gone and not name.startswith(b"x-forwarded-")
            ]
        )


def downward(pairs: Sequence[tuple[str, str]], *, decoded: bool) -> list[tuple[bytes, bytes]]:
    """The headers of a response that stay true of what is passed on.

    Args:
        pairs: As the upstream sent them.
        decoded: The body is passed on decoded.
    """
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    gone = _without(_NOT_DOWNWARD_DECODED if decoded else _NOT_DOWNWARD, raw)
    return [pair for pair in raw if pair[0] not in gone]


class Client:
    """Whoever made a request, and whether they are still there.

    Args:
        receive: ASGI's.
        send: ASGI's.
        seconds: How long they may take for what is sent at once. What takes longer ends the task that made this.
    """

    def __init__(self, receive: Receive, send: Send, seconds: float) -> None:
        self.gone = False
        self.left = False
        self._send = send
        self._seconds = seconds
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._on_gone: list[Callable[[], object]] = []
        self._task = asyncio.current_task()
        self._writing_since: float | None = None
        self._stuck = False
        self._timer: asyncio.TimerHandle | None = None

    async def body(self, max_bytes: int, seconds: float) -> bytes:
        """The body of the request.

        Raises:
            Refused: It is too large or too slow, or the caller has gone.
        """
        # A timer, not a cancel scope, as in `write`: scopes would be a tenth of what is done for a request.
        body, timer = bytearray(), asyncio.get_running_loop().call_later(seconds, self._end_task)
        try:
            while True:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise Refused(400, "incomplete", "the request has ended before its body")
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise Refused(413, "too_large", f"the body may have {max_bytes:,} bytes at most")
                if not message.get("more_body", False):
                    return bytes(body)
        except asyncio.CancelledError:
            if self._stuck:
                raise Refused(408, "too_slow", f"the body did not come within {seconds:g} s") from None
            raise
        finally:
            timer.cancel()

    def watch(self, on_gone: Callable[[], object]) -> None:
        """Have something called when the caller goes; the body must have been read."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._until_gone())
        self._on_gone.append(on_gone)
        if self._watch.done():
            self._tell_gone()

    async def wait_for(self, event: asyncio.Event) -> bool:
        """Wait for an event. False if the caller has gone before."""
        if event.is_set() or self.gone:
            return not self.gone
        task = asyncio.current_task()
        assert task is not None
        stopped = False

        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        self.watch(stop)
        try:
            await event.wait()  # here: a task for it would wake this one two turns of the event loop later
        except asyncio.CancelledError:
            if not stopped:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
        finally:
            if stop in self._on_gone:
                self._on_gone.remove(stop)
        return event.is_set() and not self.gone

    def leave(self) -> None:
        """Serve the caller no more, as if they had gone."""
        self.gone = self.left = True
        self.close()

    def close(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.cancel()
            self._tell_gone()
        if self._timer is not None:
            self._timer.cancel()

    async def start(self, status: int, headers: Pairs) -> None:
        """Send the head of a response."""
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body. Raises TimeoutError where they take none of it for that long, or up to twice."""
        await self.finish(self._send({"type": "http.response.body", "body": data, "more_body": more}))

    def writing(self, data: bytes) -> Awaitable[None]:
        """Send a part of the body, and be awaited elsewhere; what has to wait, has to `finish`."""
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, sending: Awaitable[None]) -> None:
        """Await what is being sent. Raises TimeoutError as `write`."""
        # One timer for all: a cancel scope for each write would cost as much as all else that is done for an event.
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._check)
        self._writing_since = time.monotonic()
        try:
            await sending
        except asyncio.CancelledError:
            if self._stuck:
                raise TimeoutError from None
            raise
        finally:
            self._writing_since = None

    async def answer(self, status: int, body: object = None, headers: Pairs = ()) -> None:
        """Send a whole response, of JSON."""
        if body is None:
            await self.start(status, headers)
            await self.write(b"", more=False)
            return
        data = json.dumps(body).encode()
        own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await self.start(status, [*own, (b"cache-control", b"no-store"), *headers])
        await self.write(data, more=False)

    def _check(self) -> None:
        since = self._writing_since
        if since is not None and time.monotonic() - since >= self._seconds:
            self._end_task()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._check)

    def _end_task(self) -> None:
        assert self._task is not None
        self._stuck = True
        self._task.cancel()

    async def _until_gone(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
        finally:
            self._tell_gone()

    def _tell_gone(self) -> None:
        told, self._on_gone = self._on_gone, []
        for on_gone in told:
            on_gone()


def _in_lower_case(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers with their names in lower case, as ASGI says they are; so mostly the server's own list, and no copy."""
    names = b"".join([name for name, _ in headers])
    return headers if names == names.lower() else [(name.lower(), value) for name, value in headers]


def _without(gone: frozenset[bytes], headers: Pairs) -> frozenset[bytes]:
    """Those that do not go on, and those that ``Connection`` names."""
    named = [value for name, value in headers if name == b"connection"]
    return gone.union([each.strip().lower() for each in b",".join(named).split(b",")]) if named else gone
