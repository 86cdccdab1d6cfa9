"""The least that forwards: raw ASGI in front of aiohttp. Keeps nothing."""

from __future__ import annotations

import os
from typing import Any

import aiohttp

_UPSTREAM = os.environ["UPSTREAM"]
_session: aiohttp.ClientSession | None = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Pass a request on, and its answer back."""
    global _session  # noqa: PLW0603 - it needs the running loop
    if _session is None:
        _session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {
        name.decode(): value.decode() for name, value in scope["headers"] if name not in (b"host", b"content-length")
    }
    async with _session.request(scope["method"], _UPSTREAM + scope["path"], data=body, headers=headers) as response:
        content_type = response.headers["content-type"].encode()
        await send(
            {"type": "http.response.start", "status": response.status, "headers": [(b"content-type", content_type)]}
        )
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
