"""Generates what is asked for in Redis, and tells it there: each event published, or added to a stream.

Run as ``python -m benchmarks.relay.anchors.redis_worker publish`` (or ``add``). A round trip for each event, as one
writes it: the next one waits for the answer, other answers do not.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from redis.asyncio import Redis

from benchmarks.relay.load import PATH
from benchmarks.relay.ways import JOBS


async def main(kind: str) -> None:
    """Work until a signal comes."""
    redis: Any = Redis.from_url(os.environ["REDIS"], max_connections=10_000, socket_timeout=None)
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))

    async def publish(name: bytes, event: bytes) -> None:
        await redis.publish(name, event)

    async def add(name: bytes, event: bytes) -> None:
        await redis.xadd(name, {b"event": event})

    tell = {"publish": publish, "add": add}[kind]
    running = set[asyncio.Task[None]]()
    while True:
        _, job = await redis.blpop([JOBS])
        name, _, body = job.partition(b" ")
        task = asyncio.create_task(_generate(session, name, body, tell))
        running.add(task)
        task.add_done_callback(running.discard)


async def _generate(
    session: aiohttp.ClientSession, name: bytes, body: bytes, tell: Callable[[bytes, bytes], Awaitable[None]]
) -> None:
    rest = b""
    async with session.post(os.environ["UPSTREAM"] + PATH, data=body) as response:
        async for chunk in response.content.iter_any():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                await tell(name, event + b"\n\n")


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(sys.argv[1]))
    else:
        uvloop.run(main(sys.argv[1]))
