"""One reader of one log."""

from __future__ import annotations

import asyncio
import time

import pytest

from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import MAX_READ, Head, Log, State
from resumable_llm.relay.messages import Message
from resumable_llm.relay.reader import read_log
from tests.relay.test_messages import Caller

FRAMES = [b"data: %d\n\n" % number for number in range(3)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def log(store: MemoryStore) -> Log:
    return store.begin(Head("id", "scope", "", "", 200, (), time.time(), 60.0))[0]


def said(caller: Caller) -> bytes:
    return b"".join(message.get("body", b"") for message in caller.heard)


async def ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_there_is_joined_and_what_comes_follows(log: Log) -> None:
    caller = Caller()
    log.append(FRAMES)
    reading = asyncio.ensure_future(read_log(log, 1, caller.client(), 200, []))
    await ticks()
    assert [message["type"] for message in caller.heard] == ["http.response.start", "http.response.body"]
    assert said(caller) == b"id: 2\ndata: 1\n\nid: 3\ndata: 2\n\n"
    log.append([b"data: 3\n\n"])
    await ticks()
    log.end(State.COMPLETE)
    await reading
    assert said(caller).endswith(b"id: 4\ndata: 3\n\n")
    assert caller.heard[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_news_from_another_thread_arrive(log: Log) -> None:
    caller = Caller()
    reading = asyncio.ensure_future(read_log(log, 0, caller.client(), 200, []))
    await ticks()
    await asyncio.to_thread(log.append, FRAMES)
    await asyncio.to_thread(log.end, State.COMPLETE)
    await reading
    assert said(caller).count(b"id: ") == 3


class Slow(Caller):
    """Takes nothing before it is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = asyncio.Event()

    async def send(self, message: Message) -> None:
        await self.ready.wait()
        await super().send(message)


async def test_news_while_a_reader_is_slow_are_joined(log: Log) -> None:
    caller = Slow()
    reading = asyncio.ensure_future(read_log(log, 0, caller.client(), 200, []))
    await ticks()
    for frame in FRAMES:
        log.append([frame])
    caller.ready.set()
    await ticks()
    log.end(State.COMPLETE)
    await reading
    assert [message.get("body") for message in caller.heard[1:]] == [
        b"id: 1\ndata: 0\n\nid: 2\ndata: 1\n\nid: 3\ndata: 2\n\n",
        b"",
    ]


async def test_large_log_goes_out_piece_by_piece(log: Log) -> None:
    caller = Caller()
    log.append([b"data: %b\n\n" % (b"x" * MAX_READ)] * 3)
    log.end(State.COMPLETE)
    await read_log(log, 0, caller.client(), 200, [])
    assert [message.get("body", b"")[:6] for message in caller.heard[1:]] == [b"id: 1\n", b"id: 2\n", b"id: 3\n", b""]


async def test_google_gets_no_ids(log: Log) -> None:
    caller = Caller()
    log.append(FRAMES)
    log.end(State.COMPLETE)
    await read_log(log, 0, caller.client(), 200, [], google=True)
    assert said(caller) == b"".join(FRAMES)


@pytest.mark.parametrize("google", [False, True])
async def test_interruption_is_told_by_the_relay(log: Log, google: bool) -> None:
    caller = Caller()
    log.append(FRAMES)
    log.end(State.INTERRUPTED)
    await read_log(log, 0, caller.client(), 200, [], google=google)
    last = said(caller).split(b"\n\n")[-2]
    assert last.startswith(b"data: " if google else b"event: error\n")
    assert b"interrupted" in last


async def test_log_that_is_forgotten_ends_in_an_error(store: MemoryStore, log: Log) -> None:
    caller = Caller()
    reading = asyncio.ensure_future(read_log(log, 0, caller.client(), 200, []))
    await ticks()
    store.delete("scope", "id")
    await reading
    assert b'"gone"' in said(caller)


async def test_reader_who_goes_is_not_written_to(log: Log) -> None:
    caller = Caller()
    reading = asyncio.ensure_future(read_log(log, 0, caller.client(), 200, []))
    await ticks()
    caller.leave.set()
    await reading
    assert len(caller.heard) == 1
    log.append(FRAMES)  # and nobody is woken any more
