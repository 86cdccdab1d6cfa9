"""What stands between Redis and readers who have HTTP alone: subscribes, or reads on, and forwards as SSE.

Raw ASGI, for a framework would take more. A worker generates.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.asyncio import Redis

from benchmarks.relay.upstream import DONE
from benchmarks.relay.ways import JOBS

_redis: Any = Redis.from_url(os.environ["REDIS"], max_connections=10_000, socket_timeout=None)

Read = Callable[[str, str, bytes], AsyncIterator[bytes]]
"""Given a name, the last event that a reader has, and what to order or nothing: gives events as they come."""


async def pubsub(scope: Any, receive: Any, send: Any) -> None:
    """What is published goes to whoever listens at that moment."""
    await _forward(scope, receive, send, _published)


async def streams(scope: Any, receive: Any, send: Any) -> None:
    """What is added to a stream goes to whoever asks for what is behind an id."""
    await _forward(scope, receive, send, _added)


async def _published(name: str, _after: str, job: bytes) -> AsyncIterator[bytes]:
    async with _redis.pubsub() as channel:
        await channel.subscribe(name)
        async for message in channel.listen():
            if message["type"] == "message":
                yield message["data"]
            elif job:  # not before Redis has said that nothing will be missed
                await _redis.rpush(JOBS, job)


async def _added(name: str, after: str, job: bytes) -> AsyncIterator[bytes]:
    if job:
        await _redis.rpush(JOBS, job)
    while True:
        entries = await _redis.xread({name: after or "0"}, block=0)
        (told,) = entries.values() if isinstance(entries, dict) else (found for _, found in entries)
        after = told[-1][0]
        yield b"".join(b"id: %b\n%b" % (number, fields[b"event"]) for number, fields in told)


async def _forward(scope: Any, receive: Any, send: Any, read: Read) -> None:
    name, job = scope["path"][1:], b""
    if scope["method"] == "POST":
        name = secrets.token_hex(8)
        job = name.encode() + b" " + (await receive())["body"]
    headers = [(b"content-type", b"text/event-stream"), (b"location", b"/" + name.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    after = dict(scope["headers"]).get(b"last-event-id", b"").decode()
    async for events in read(name, after, job):
        last = events.endswith(DONE)
        await send({"type": "http.response.body", "body": events, "more_body": not last})
        if last:
            break
