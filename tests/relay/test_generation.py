"""One generation, with an upstream made of what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import pytest

from resumable_llm.core.actions import Send
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.model import RequestPlan
from resumable_llm.dialects import named
from resumable_llm.log.errors import LogEnded, StoreFailed
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Head, Log, State
from resumable_llm.relay.generation import Generation
from resumable_llm.relay.settings import RelaySettings
from resumable_llm.transports.aiohttp import AiohttpExchange
from tests.relay.serve import FAST, datas
from tests.sockets import wire

CHAT = wire.blocks(wire.chat())
EVENTS = {"content-type": "text/event-stream"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Upstream:
    """Answers every request with the next of its answers; a stream that has no more pieces stays open.

    Args:
        answers: The pieces of each, an error that breaks it, or one in place of the answer.
        headers: Of each.
    """

    def __init__(
        self, *answers: Sequence[bytes | Exception] | Exception, headers: dict[str, str] | None = None
    ) -> None:
        self.answers = list(answers)
        self.headers = EVENTS if headers is None else headers
        self.asked: list[RequestPlan] = []
        self.closed = asyncio.Event()

    async def open(self, send: Send, *, decode: bool = True) -> AiohttpExchange:
        self.asked.append(send.plan)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return AiohttpExchange(200, self.headers, self.body(answer), self.aclose, (), decode, self.closed.set)

    async def body(self, pieces: Sequence[bytes | Exception]) -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        await self.closed.wait()
        raise aiohttp.ClientConnectionError("closed")

    async def aclose(self) -> None:
        self.closed.set()


class Made:
    """A generation and its log."""

    def __init__(
        self,
        upstream: Upstream,
        dialect: Dialect | None = None,
        *,
        begin: Callable[[Head], tuple[Log, bool]] | None = None,
        path: str = "/v1/chat/completions",
        body: bytes = b'{"stream": true}',
        **settings: Any,
    ) -> None:
        async def begin_log(_exchange: AiohttpExchange, _name: str) -> tuple[Log, bool]:
            return (begin or self.store.begin)(head)

        head = Head("id", "scope", "key", "", 200, (), time.time(), 60.0)
        self.store = MemoryStore()
        self.it = Generation(
            RequestPlan("POST", f"http://up{path}", (), body),
            dialect,
            fingerprint="",
            key="key",
            settings=RelaySettings(upstream="http://up", policy=FAST, **settings),
            open_=upstream.open,
            begin_log=begin_log,
        )

    @property
    def log(self) -> Log:
        assert self.it.log is not None
        return self.it.log


CHATS = named("openai_chat")


async def test_events_become_a_log() -> None:
    made = Made(Upstream(CHAT), CHATS)
    await made.it.task
    assert datas(made.log.read(0).data) == [event.data for event in wire.chat()]
    assert made.log.state is State.COMPLETE


async def test_chunks_of_comments_are_nothing() -> None:
    made = Made(Upstream([b": ping\n\n", *CHAT]), CHATS)
    await made.it.task
    assert made.log.last == len(CHAT)


async def test_encoded_stream_that_is_passed_on_undecoded_is_not_kept() -> None:
    made = Made(Upstream(CHAT, headers={**EVENTS, "content-encoding": "gzip"}))
    await made.it.begun.wait()
    assert (made.it.log, made.it.failure) == (None, None)
    assert made.it.response is not None


async def test_failure_before_the_answer_is_for_the_caller() -> None:
    error = aiohttp.ClientConnectionError("no")
    upstream = Upstream(error)
    made = Made(upstream, CHATS)
    await made.it.task
    assert made.it.failure is error
    assert len(upstream.asked) == 1


async def test_store_that_refuses_has_the_upstream_stopped() -> None:
    def begin(head: Head) -> tuple[Log, bool]:
        raise StoreFailed("no")

    upstream = Upstream(CHAT[:2])
    made = Made(upstream, CHATS, begin=begin)
    await made.it.task
    assert isinstance(made.it.failure, StoreFailed)
    assert upstream.closed.is_set()


async def test_answer_that_is_there_already_is_not_made_twice() -> None:
    made = Made(Upstream(CHAT), CHATS)
    await made.it.task
    upstream = Upstream(CHAT[:2])
    other = Made(upstream, CHATS, begin=lambda head: (made.log, False))
    await other.it.task
    assert other.it.log is made.log
    assert upstream.closed.is_set()
    assert made.log.state is State.COMPLETE


async def test_store_that_fails_ends_it() -> None:
    upstream = Upstream(CHAT[:2])
    made = Made(upstream, CHATS)
    made.store._max_log_bytes = 10
    await made.it.task
    assert made.log.state is State.INTERRUPTED  # for the error cannot be kept either
    assert upstream.closed.is_set()


async def test_bug_leaves_no_reader_waiting(caplog: pytest.LogCaptureFixture) -> None:
    made = Made(Upstream([*CHAT[:2], ZeroDivisionError("bug")]), CHATS)
    await made.it.task
    assert made.log.state is State.FAILED
    assert "internal_error" in datas(made.log.read(0).data)[-1]
    assert "relay.bug" in caplog.text


async def test_stop_is_said_once() -> None:
    upstream = Upstream(CHAT[:2])
    made = Made(upstream, CHATS)
    await made.it.begun.wait()
    await asyncio.gather(made.it.stop(State.CANCELLED, "cancelled", "why"), made.it.interrupt("too late"))
    assert (made.log.state, made.log.reason) == (State.CANCELLED, "why")
    assert made.it.task.done()
    await made.it.stop(State.ABANDONED, "abandoned", "later still")
    assert made.log.state is State.CANCELLED


async def test_append_that_meets_the_stop_is_no_failure() -> None:
    class Ended:
        head, last = Head("id", "scope", "key", "", 200, (), 0.0, 60.0), 0

        def append(self, *_: Any, **__: Any) -> int:
            made.it._stopped = True
            raise LogEnded("cancelled")

    ended: Any = Ended()
    made = Made(Upstream(CHAT[:2]), CHATS, begin=lambda head: (ended, True))
    await made.it.task  # and nobody ends it again


async def test_upstream_that_cannot_be_told_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    events = wire.blocks(wire.responses())
    upstream = Upstream(events[:4], aiohttp.ClientConnectionError("no"))
    body = b'{"stream":true,"background":true}'
    made = Made(upstream, named("openai_responses"), path="/v1/responses", body=body)
    await made.it.begun.wait()
    while made.log.last < 4:  # noqa: ASYNC110 - a log sets no event
        await asyncio.sleep(0)
    await made.it.stop(State.CANCELLED, "cancelled", "why")
    assert upstream.asked[-1].url == "http://up/v1/responses/resp_7/cancel"
    assert "relay.not_told" in caplog.text


async def test_readers_are_waited_for_no_longer_than_said() -> None:
    made = Made(Upstream(CHAT[:2]), CHATS, abandon_after=0.01)
    await made.it.begun.wait()
    with made.it.reading(), made.it.reading():
        assert made.it.readers == 2
    await made.it.task
    assert made.log.state is State.ABANDONED
    with made.it.reading():
        pass
    assert made.it._timer is None


async def test_what_was_not_answered_can_be_given_up() -> None:
    waiting = asyncio.Event()

    class Slow(Upstream):
        async def open(self, send: Send, *, decode: bool = True) -> AiohttpExchange:
            waiting.set()
            await asyncio.Event().wait()
            raise AssertionError

    made = Made(Slow(), CHATS)
    await waiting.wait()
    await made.it.interrupt("shut down")
    assert isinstance(made.it.failure, ConnectionAbortedError)


@pytest.mark.parametrize("early", [True, False])
async def test_response_that_nobody_is_there_for_is_let_go(early: bool) -> None:
    upstream = Upstream([b"{}"], headers={"content-type": "application/json"})
    made = Made(upstream, CHATS)
    if early:
        made.it.disown()
        await made.it.task
    else:
        await made.it.task
        assert not upstream.closed.is_set()
        made.it.disown()
    assert upstream.closed.is_set()


async def test_stream_is_made_although_whoever_asked_has_gone() -> None:
    made = Made(Upstream(CHAT), CHATS)
    made.it.disown()
    await made.it.task
    made.it.disown()
    assert made.log.state is State.COMPLETE
