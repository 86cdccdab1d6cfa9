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


class _Answer:
    """What is said, and who waits for it."""

    def __init__(self, events: int, rate: int) -> None:
        self._data: list[str] = []
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._make(events, rate))

    async def _make(self, events: int, rate: int) -> None:
        for number in range(events):
            await self._say(event())
            if rate:
                await asyncio.sleep(1 / rate)
            elif number == 0:
                await asyncio.sleep(HOLD_SECONDS)
            elif number % 100 == 0:
                await asyncio.sleep(0)
        await self._say(DONE)

    async def _say(self, block: bytes) -> None:
        self._data.append(block.decode().removeprefix("data: ").strip())
        async with self._news:
            self._news.notify_all()

    async def behind(self, number: int) -> AsyncIterator[ServerSentEvent]:
        """The events behind this one."""
        while True:
            async with self._news:
                while len(self._data) <= number:
                    await self._news.wait()
            while number < len(self._data):
                data, number = self._data[number], number + 1
                yield ServerSentEvent(data, id=str(number), sep="\n")
                if data == "[DONE]":
                    return


_answers: list[_Answer] = []


async def _begin(request: Request) -> EventSourceResponse:
    answer = _Answer(*ordered(await request.body()))
    _answers.append(answer)
    return EventSourceResponse(answer.behind(0), headers={"location": f"/{len(_answers) - 1}"})


async def _read(request: Request) -> EventSourceResponse:
    answer = _answers[request.path_params["number"]]
    return EventSourceResponse(answer.behind(int(request.headers.get("last-event-id", 0))))


app = Starlette(
    routes=[Route("/v1/chat/completions", _begin, methods=["POST"]), Route("/{number:int}", _read, methods=["GET"])]
)
