"""The public types, as users meet them. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import httpx2
import tenacity
from httpx_sse import ServerSentEvent
from openai import AsyncOpenAI, OpenAI
from typing_extensions import assert_type

import resumable_llm as rl
from resumable_llm.dialects import EventStream
from resumable_llm.log import MemoryStore


def wrapping_keeps_the_type() -> None:
    assert_type(rl.wrap(OpenAI()), OpenAI)
    assert_type(rl.wrap(AsyncOpenAI(), policy=rl.RetryPolicy(deadline=60)), AsyncOpenAI)
    assert_type(rl.wrap(httpx.Client(), on_event=print), httpx.Client)
    assert_type(rl.wrap(httpx2.AsyncClient()), httpx2.AsyncClient)
    assert_type(rl.wrap(httpx.Client(), journal="answers.db"), httpx.Client)
    assert_type(rl.wrap(httpx.Client(), journal=Path("answers.db")), httpx.Client)
    assert_type(rl.wrap(httpx.Client(), journal=MemoryStore()), httpx.Client)


def reading(client: httpx.Client) -> Iterator[ServerSentEvent]:
    with rl.connect_sse(
        client, "POST", "https://example.com", json={}, headers={"a": "b"}, terminal="[DONE]"
    ) as stream:
        assert_type(stream, rl.ResumableStream)
        yield from stream
        yield from stream.iter_sse()
        for text in stream.text_deltas():
            assert_type(text, str)
        assert_type(stream.report, rl.Report)
        checkpoint = rl.Checkpoint.from_json(stream.checkpoint.to_json())
    with rl.resume_sse(client, checkpoint, headers={"authorization": "…"}) as stream:
        stream.cancel()


async def reading_asynchronously(client: httpx2.AsyncClient) -> AsyncIterator[ServerSentEvent]:
    async with rl.aconnect_sse(client, "GET", "https://example.com", last_event_id="7") as stream:
        async for event in stream:
            yield event
        async for text in stream.text_deltas():
            assert_type(text, str)
        await stream.cancel()


def errors(error: rl.StreamInterrupted) -> None:
    assert_type(error.partial_text, str)
    assert_type(error.checkpoint, rl.Checkpoint | None)
    assert_type(error.report, rl.Report | None)


def transports() -> None:
    httpx.Client(transport=rl.httpx.ResumableTransport(httpx.HTTPTransport(retries=2)))
    httpx2.AsyncClient(transport=rl.httpx2.AsyncResumableTransport(policy=rl.RetryPolicy()))


def policies() -> None:
    rl.RetryPolicy(
        wait=tenacity.wait_exponential(max=10) + tenacity.wait_random(0, 1),
        stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(60),
        first_event_timeout=30,
        event_timeout=None,
        read_timeout=10.5,
    )


def notices(notice: rl.Notice) -> None:
    assert_type(notice.kind, str)
    assert_type(notice.seconds, float)


class MyDialect(EventStream):
    """A third party's dialect."""

    name = "mine"
    proves_end = True


def a_dialect_is_a_dialect() -> rl.Dialect:
    return MyDialect()
