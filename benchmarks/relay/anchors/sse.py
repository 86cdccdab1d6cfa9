"""Many readers of one stream, by sse-starlette: a list of events, and a condition that all readers wait for.

It makes the events itself, so an upstream costs it nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from benchmarks.relay.upstream import DONE, HOLD_SECONDS, event, ordered

_data: list[str] = []
_news = asyncio.Condition()
_tasks: set[asyncio.Task[None]] = set()


async def _make(events: int, rate: int) -> None:
    for number in range(events):
        _data.append(_text(event()))
        async with _news:
            _news.notify_all()
        if rate:
            await asyncio.sleep(1 / rate)
        elif number == 0:
            await asyncio.sleep(HOLD_SECONDS)
        elif number % 100 == 0:
            await asyncio.sleep(0)
    _data.append(_text(DONE))
    async with _news:
        _news.notify_all()


def _text(block: bytes) -> str:
    return block.decode().removeprefix("data: ").strip()


async def _events(after: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        async with _news:
            await _news.wait_for(lambda: len(_data) > after)
        while after < len(_data):
            data, after = _data[after], after + 1
            yield ServerSentEvent(data, id=str(after))
            if data == "[DONE]":
                return


async def _begin(request: Request) -> EventSourceResponse:
    _data.clear()
    task = asyncio.create_task(_make(*ordered(await request.body())))
    _tasks.add(task)
    return EventSourceResponse(_events(0), headers={"location": "/stream"}, sep="\n")


async def _read(request: Request) -> EventSourceResponse:
    return EventSourceResponse(_events(int(request.headers.get("last-event-id", 0))), sep="\n")


app = Starlette(
    routes=[Route("/v1/chat/completions", _begin, methods=["POST"]), Route("/stream", _read, methods=["GET"])]
)
