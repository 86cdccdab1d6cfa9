"""An opener for the asynchronous driver over aiohttp: the relay's way to its upstream.

httpx's pool looks at every connection for every request: a hundred streams at once then wait 80 ms for a first token,
where aiohttp takes less than one (measured 2026-11-22). There is no transport here that an aiohttp client could use.
"""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from resumable_llm.core.actions import Send
from resumable_llm.drivers.exchange import AsyncExchange
from resumable_llm.local.announcement import LOOPBACK

ERRORS: tuple[type[Exception], ...] = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
"""What another attempt may mend."""

FAMILY_ERROR = aiohttp.ClientConnectionError

CONNECT_SECONDS = 30.0

_now = time.monotonic
_SIZE = re.compile(rb"[1-9A-Fa-f][0-9A-Fa-f]{0,14}").fullmatch

_NEVER_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_DECODED = frozenset({"gzip", "deflate", "br", "zstd"})
"""What aiohttp decodes, or else refuses. Everything else it hands over as it is."""
_OWN = frozenset({"host", "content-length", "transfer-encoding", "connection"})


@dataclass
class AiohttpExchange(AsyncExchange):
    """A response, with its headers as they came.

    Attributes:
        pairs: Name and value of each header, in order; each character of a value is a byte on the wire.
        decoded: Whether the body was encoded and is no more, so that ``content-encoding`` is no longer true.
        close: Lets go of the connection; at the end of the body, somebody else may have it already.
    """

    pairs: tuple[tuple[str, str], ...]
    decoded: bool
    close: Callable[[], object]


class _Response(AiohttpExchange):
    """A response of aiohttp's.

    Args:
        response: It.
        silence: How long its body may be silent, in seconds.
        decoded: Whether aiohttp decodes the body, where it can.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None, *, decoded: bool) -> None:
        self._response = response
        self._silence = silence
        self._tap: _Tap | None = None
        pairs = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers])
        headers = {name.lower(): value for name, value in pairs}
        body = response.content.iter_any()
        decoded = decoded and headers.get("content-encoding", "").lower() in _DECODED
        super().__init__(response.status, headers, body, self._aclose, pairs, decoded, self._close)

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        self._tap = tap = _Tap(self._response, self._silence, take)
        try:
            return await tap.over
        finally:
            tap.remove()

    async def _aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        self._response.close()
        if self._tap is not None:
            self._tap.look()


class _Tap(asyncio.Protocol):
    """Stands between a connection and aiohttp, and hands over what has come in the very callback that has brought it.

    A task that waits for each piece would cost a future, a turn of the event loop and a system call for each: as much
    as all that the relay does about an event.

    Args:
        response: Whose body.
        silence: How long it may be silent, in seconds.
        take: Given each piece, says whether it wants more.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None, take: Callable[[bytes], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[bool] = self._loop.create_future()
        """Done when the body has ended (True), when no more is wanted (False), or with what went wrong."""
        self._content = response.content
        self._encoded = "content-encoding" in response.headers
        self._owed: int | None = None
        """So many bytes before aiohttp's parser stands between two chunks, if that is known."""
        self._take = take
        self._silence = silence
        self._heard = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        connection = response.connection  # None if all has come
        self._inner = connection.protocol if connection is not None else None
        self._transport = connection.transport if connection is not None else None
        if self._inner is not None and self._transport is not None:
            self._inner.read_timeout = None  # which would be set anew for each piece
            self._transport.set_protocol(self)
            if silence is not None:
                self._timer = self._loop.call_later(silence, self._check)
        self.look()

    def look(self) -> None:
        """Hand over what is there."""
        over, content = self.over, self._content
        try:
            more = True
            while more and not over.done():
                data = content.read_nowait()
                more = self._encoded and bool(data)  # to read makes room, in which more is decoded
                if data and not self._take(data):
                    self._end(False)
            if not over.done() and content.at_eof():
                self._end(True)
        except Exception as error:  # noqa: BLE001 - for whoever waits
            self._fail(error)

    def remove(self) -> None:
        """Give aiohttp its connection back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._inner is not None and self._transport is not None:
            self._inner.read_timeout = self._silence
            self._transport.set_protocol(self._inner)
            self._transport = None

    # Mostly one piece is one chunk and one event. Where aiohttp's parser stands between two chunks, whole ones are kept
    # from it: it never knows, stands where it stood, and sees to the end of the body as ever. That spares its parser,
    # its buffer and reading from it, a sixth of all that is done for an event.

    def data_received(self, data: bytes) -> None:
        self._heard = _now()
        if self._owed == 0:
            size, _, chunk = data.partition(b"\r\n")
            length = len(chunk) - 2
            if length > 0 and size.lower() == b"%x" % length and chunk[-2:] == b"\r\n" and not self.over.done():
                self._pass(chunk[:-2])
                return
        self._sort(data)

    def _sort(self, data: bytes) -> None:
        """Hand over the whole chunks, and have aiohttp read what is none."""
        if self._owed is None:
            self._find_place(data)
            return
        if self._owed:
            part, data = data[: self._owed], data[self._owed :]
            self._owed -= len(part)
            if self._owed == 1 or (self._owed == 0 and part[-2:] != b"\r\n"):
                self._owed = None  # how it ends, aiohttp has to see
            self._feed(part)
        if self._owed == 0 and not self.over.done():
            bodies, data, self._owed = _chunks_in(data)
            if bodies:
                self._pass(b"".join(bodies))
        if data:
            self._feed(data)

    def _find_place(self, data: bytes) -> None:
        """Feed what may be a whole chunk, and see from what becomes of it whether it was one."""
        bodies, rest, _ = _chunks_in(data)
        if len(bodies) != 1 or rest or self._encoded:
            self._feed(data)
            return
        start = data.index(b"\r\n") + 2
        self._feed(data[:start])
        content = self._content
        before = content.total_bytes
        self._feed(data[start:])
        # Of its bytes all but two were of the body, and with the last of those a chunk was over: so the two ended it.
        ends: Sequence[int] = getattr(content, "_http_chunk_splits", None) or (-1,)
        if content.total_bytes - before == len(bodies[0]) and ends[-1] == content.total_bytes:
            self._owed = 0

    def _pass(self, data: bytes) -> None:
        try:
            if not self._take(data):
                self._end(False)
        except Exception as error:  # noqa: BLE001 - for whoever waits
            self._fail(error)

    def _feed(self, data: bytes) -> None:
        assert self._inner is not None
        self._inner.data_received(data)
        self.look()

    def eof_received(self) -> bool | None:
        assert self._inner is not None
        self._inner.eof_received()
        self.look()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._inner is not None
        self._inner.connection_lost(exc)
        self.look()
        if not (self.over.done() or self._encoded):  # of chunks that are none, aiohttp says nothing to who reads them
            self._fail(aiohttp.ClientPayloadError("the connection was given up within the body"))

    def pause_writing(self) -> None:
        assert self._inner is not None
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        assert self._inner is not None
        self._inner.resume_writing()

    # At once, not when whoever waits wakes up: at its end another request may get the connection.

    def _end(self, result: bool) -> None:
        self.remove()
        if not self.over.done():
            self.over.set_result(result)

    def _fail(self, error: Exception) -> None:
        self.remove()
        if not self.over.done():
            self.over.set_exception(error)

    def _check(self) -> None:
        assert self._silence is not None
        left = self._heard + self._silence - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._fail(aiohttp.SocketTimeoutError("the connection is silent"))


def _chunks_in(data: bytes) -> tuple[list[bytes], bytes, int | None]:
    """What is in the whole chunks that bytes begin with, if they are written in the plainest way.

    Returns:
        Their bodies, the rest, and how many bytes are missing before it is a whole chunk; None if that is not known.
    """
    bodies: list[bytes] = []
    start = 0
    while start < len(data):
        end = data.find(b"\r\n", start)
        size = data[start : max(end, start)]
        if not _SIZE(size):
            return bodies, data[start:], None
        stop = end + int(size, 16) + 4
        if stop > len(data):
            return bodies, data[start:], stop - len(data) if stop - len(data) > 1 else None
        if data[stop - 2 : stop] != b"\r\n":
            return bodies, data[start:], None
        bodies.append(data[end + 2 : stop - 2])
        start = stop
    return bodies, b"", 0


def new_session(upstream: str) -> aiohttp.ClientSession:
    """A session for the requests of many callers: it keeps no cookies and has no bound on connections.

    Args:
        upstream: Where they go, by the proxy that the environment names for it. With aiohttp's own ``trust_env`` a
            request without credentials would be given those of a ``.netrc``.
    """
    return aiohttp.ClientSession(
        proxy=_proxy_for(upstream),
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),  # what one caller is given is nobody else's
        skip_auto_headers=_NEVER_ADDED,
    )


async def open_exchange(
    session: aiohttp.ClientSession, send: Send, read_timeout: float | None = None, *, decode: bool = True
) -> AiohttpExchange:
    """Send a request and wait for the head of its response.

    Args:
        session: As `new_session` makes it.
        send: The request; redirects are the conversation's affair.
        read_timeout: Longest silence, in seconds; where the request names one too, the shorter one.
        decode: Whether to decode a body that has a ``Content-Encoding``, if it is one that can be.
    """
    plan = send.plan
    silence = min([seconds for seconds in (read_timeout, send.read_timeout) if seconds is not None], default=None)
    try:
        response = await session.request(
            plan.method,
            URL(plan.url, encoded=True),  # as it is: what the caller has escaped stays escaped
            headers=[
                (name, value if value.isascii() else _text(value))
                for name, value in plan.headers
                if name.lower() not in _OWN
            ],
            data=aiohttp.BytesIOPayload(io.BytesIO(plan.body)) if plan.body else None,
            allow_redirects=False,
            auto_decompress=decode,
            timeout=_timeout(silence),
        )
    except aiohttp.ClientResponseError as error:  # whose text has the URL, and that may have a key
        raise FAMILY_ERROR(error.message) from None
    return _Response(response, silence, decoded=decode)


@lru_cache(maxsize=64)
def _timeout(silence: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)


def _proxy_for(upstream: str) -> str | None:
    parts = urlsplit(upstream)
    host = parts.hostname or ""
    if host in LOOPBACK or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _text(value: str) -> str:
    """A header's value for aiohttp, which writes in UTF-8: bytes that are UTF-8 stay as they are."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
