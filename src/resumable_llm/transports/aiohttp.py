"""An opener for the asynchronous driver over aiohttp: the relay's way to its upstream.

httpx's pool looks at every connection for every request: a hundred streams at once then wait 80 ms for a first token,
where aiohttp takes less than one (measured 2026-11-22). There is no transport here that an aiohttp client could use.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from resumable_llm.core.actions import Send
from resumable_llm.drivers.exchange import AsyncExchange

ERRORS: tuple[type[Exception], ...] = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
"""What another attempt may mend."""

FAMILY_ERROR = aiohttp.ClientConnectionError

CONNECT_SECONDS = 30.0

_NEVER_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_OWN = frozenset({"host", "content-length", "transfer-encoding", "connection"})


@dataclass
class AiohttpExchange(AsyncExchange):
    """A response, with its headers as they came.

    Attributes:
        pairs: Name and value of each header, in order; each character of a value is a byte on the wire.
        decoded: Whether the body was to be decoded, so that ``content-encoding`` is no longer true.
        close: Lets go of the connection; at the end of the body, somebody else may have it already.
    """

    pairs: tuple[tuple[str, str], ...]
    decoded: bool
    close: Callable[[], object]


def new_session() -> aiohttp.ClientSession:
    """A session for the requests of many callers: it keeps no cookies and has no bound on connections."""
    return aiohttp.ClientSession(
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
        decode: Whether to decode a body that has a ``Content-Encoding``.
    """
    plan = send.plan
    silence = min((seconds for seconds in (read_timeout, send.read_timeout) if seconds is not None), default=None)
    response = await session.request(
        plan.method,
        URL(plan.url, encoded=True),  # as it is: what the caller has escaped stays escaped
        headers=[(name, _text(value)) for name, value in plan.headers if name.lower() not in _OWN],
        data=aiohttp.BytesIOPayload(io.BytesIO(plan.body)) if plan.body else None,
        allow_redirects=False,
        auto_decompress=decode,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence),
    )

    async def aclose() -> None:
        response.close()

    pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers)
    headers = {name.lower(): value for name, value in pairs}
    return AiohttpExchange(response.status, headers, response.content.iter_any(), aclose, pairs, decode, response.close)


def opener(
    session: aiohttp.ClientSession, read_timeout: float | None = None
) -> Callable[[Send], Awaitable[AiohttpExchange]]:
    """An `AsyncOpener` that sends with this session; see `open_exchange`."""

    def opens(send: Send) -> Awaitable[AiohttpExchange]:
        return open_exchange(session, send, read_timeout)

    return opens


def _text(value: str) -> str:
    """A header's value for aiohttp, which writes in UTF-8: bytes that are UTF-8 stay as they are."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
