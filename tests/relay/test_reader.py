"""One reader of one log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal

import anyio
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware

from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import MAX_READ, Head, Log, State
from resumable_llm.relay import Relay
from resumable_llm.relay.messages import Message
from resumable_llm.relay.reader import read_log
from tests.relay.serve import CHAT, CHAT_PATH, Served
from tests.relay.test_messages import Caller
from tests.sockets.scripted import Answer, Scripted

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


# What is new is sent where it is heard of


async def reading(log: Log, caller: Caller, **how: Any) -> asyncio.Task[None]:
    """A reader who waits for news."""
    task = asyncio.create_task(read_log(log, log.last, caller.client(), 200, [], **how))
    await ticks()
    return task


async def in_a_callback(call: Callable[[], object]) -> None:
    """Have the event loop call something, and see the turn of the loop end."""
    asyncio.get_running_loop().call_soon(call)
    await asyncio.sleep(0)


@pytest.mark.parametrize("google", [False, True])
async def test_an_event_is_sent_without_the_task(log: Log, google: bool) -> None:
    caller = Caller()
    task = await reading(log, caller, google=google)
    for number, frame in enumerate(FRAMES, 1):

        def call(number: int = number, frame: bytes = frame) -> None:
            log.append([frame])
            assert caller.heard[-1]["body"] == (frame if google else b"id: %d\n%b" % (number, frame))

        await in_a_callback(call)
    await in_a_callback(lambda: log.append(FRAMES))
    assert caller.heard[-1]["body"].count(b"data: ") == 3
    log.end(State.COMPLETE)
    await task
    assert len(caller.heard) == 6


async def test_a_piece_of_what_is_large_is_sent_and_the_task_sends_the_rest(log: Log) -> None:
    caller = Caller()
    task = await reading(log, caller)
    await in_a_callback(lambda: log.append([b"data: %b\n\n" % (b"x" * MAX_READ)] * 3))
    await ticks()
    assert [message["body"][:6] for message in caller.heard[1:]] == [b"id: 1\n", b"id: 2\n", b"id: 3\n"]
    log.end(State.COMPLETE)
    await task


async def test_while_a_send_waits_nothing_else_is_sent(log: Log) -> None:
    caller = Slow()
    caller.ready.set()
    task = await reading(log, caller)
    caller.ready.clear()
    for frame in FRAMES:
        await in_a_callback(lambda frame=frame: log.append([frame]))  # type: ignore[misc]
    await ticks()
    assert len(caller.heard) == 1
    caller.ready.set()
    await ticks()
    assert [message["body"] for message in caller.heard[1:]] == [
        b"id: 1\ndata: 0\n\n",
        b"id: 2\ndata: 1\n\nid: 3\ndata: 2\n\n",
    ]
    log.end(State.COMPLETE)
    await task


async def test_news_while_the_task_sends_are_read_by_it(log: Log) -> None:
    caller = Slow()
    log.append(FRAMES[:1])
    caller.ready.set()
    task = asyncio.create_task(read_log(log, 0, caller.client(), 200, []))

    class Impatient(asyncio.Event):
        async def wait(self) -> Literal[True]:  # one event comes with each of the first two that are sent
            if 1 <= len(caller.heard) <= 2:
                log.append(FRAMES[len(caller.heard) : len(caller.heard) + 1])
            return await super().wait()

    caller.ready = Impatient()
    caller.ready.set()
    await ticks()
    assert said(caller) == b"id: 1\ndata: 0\n\nid: 2\ndata: 1\n\nid: 3\ndata: 2\n\n"
    log.end(State.COMPLETE)
    await task


async def test_a_reader_who_takes_nothing_is_given_up(log: Log) -> None:
    caller = Slow()
    caller.ready.set()

    async def read() -> None:
        await read_log(log, 0, caller.client(0.01), 200, [])  # the client is of this task

    task = asyncio.create_task(read())
    await ticks()
    caller.ready.clear()
    await in_a_callback(lambda: log.append(FRAMES))
    with pytest.raises(TimeoutError):
        await task


async def test_a_reader_who_is_cancelled_leaves_nothing_behind(log: Log) -> None:
    caller = Slow()
    caller.ready.set()
    task = await reading(log, caller)
    caller.ready.clear()

    def call() -> None:
        log.append(FRAMES)
        task.cancel()  # before it knows that something waits

    await in_a_callback(call)
    await ticks()
    assert task.cancelled()
    caller.ready.set()
    await ticks()
    assert len(caller.heard) == 1


class Broken(Caller):
    """Cannot be sent to any more."""

    error: BaseException | None = None

    async def send(self, message: Message) -> None:
        if self.error is not None:
            raise self.error
        await super().send(message)


@pytest.mark.parametrize("error", [OSError("gone"), asyncio.CancelledError()])
async def test_what_a_send_raises_the_reader_raises(log: Log, error: BaseException) -> None:
    caller = Broken()
    task = await reading(log, caller)
    caller.error = error
    await in_a_callback(lambda: log.append(FRAMES))
    with pytest.raises(type(error)):
        await task
    log.append(FRAMES)  # and nobody is woken any more


async def test_a_log_that_is_forgotten_and_one_that_has_ended_are_the_tasks_affair(
    store: MemoryStore, log: Log
) -> None:
    caller = Caller()
    task = await reading(log, caller)

    def call() -> None:
        log.append(FRAMES[:1])
        log.end(State.COMPLETE)

    await in_a_callback(call)
    await task
    assert said(caller) == b"id: 1\ndata: 0\n\n"
    other = store.begin(Head("other", "scope", "", "", 200, (), time.time(), 60.0))[0]
    task = await reading(other, caller)
    await in_a_callback(lambda: store.delete("scope", "other"))
    await task
    assert b'"gone"' in said(caller)


async def test_a_send_that_makes_news_itself(log: Log) -> None:
    class Echo(Caller):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if b"data: 0" in message.get("body", b""):
                log.append(FRAMES[1:])

    caller = Echo()
    task = await reading(log, caller)
    await in_a_callback(lambda: log.append(FRAMES[:1]))
    await ticks()
    log.end(State.COMPLETE)
    await task
    assert said(caller) == b"id: 1\ndata: 0\n\nid: 2\ndata: 1\n\nid: 3\ndata: 2\n\n"


async def test_a_send_that_makes_news_and_fails(log: Log) -> None:
    class Echo(Caller):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if b"data: 0" in message.get("body", b""):
                log.append(FRAMES[1:])
                raise OSError("gone")
            if b"data: 1" in message.get("body", b""):
                raise EOFError

    task = await reading(log, Echo())
    await in_a_callback(lambda: log.append(FRAMES[:1]))
    with pytest.raises((OSError, EOFError)):
        await task


# Between the relay and the server there may be others

SEEN: ContextVar[str] = ContextVar("SEEN", default="")


class Between:
    """An ASGI middleware that wraps `send`."""

    def __init__(self, app: Any, around: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self.app, self.around = app, around

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        SEEN.set("of the request")

        async def wrapped(message: Message) -> None:
            assert SEEN.get() == "of the request"
            assert asyncio.current_task() is not None
            async with self.around():
                await send(message)

        await self.app(scope, receive, wrapped)


@asynccontextmanager
async def pausing() -> AsyncIterator[None]:
    await asyncio.sleep(0)
    yield
    await asyncio.sleep(0)


@asynccontextmanager
async def marking() -> AsyncIterator[None]:
    token = SEEN.set("while it is sent")
    await asyncio.sleep(0)
    yield
    SEEN.reset(token)


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    with anyio.fail_after(5):
        yield


def with_a_lock() -> Callable[[Relay], Any]:
    lock = asyncio.Lock()  # that all readers share

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        async with lock:
            await asyncio.sleep(0)
            yield

    return lambda relay: Between(relay, locked)


def framework(relay: Relay) -> Any:
    async def passing(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return BaseHTTPMiddleware(BaseHTTPMiddleware(relay, passing), passing)


def mounted(relay: Relay) -> Any:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await relay.aclose()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    app.mount("/", relay)
    return app


@pytest.mark.parametrize(
    "app",
    [
        lambda relay: relay,
        lambda relay: Between(relay, pausing),
        lambda relay: Between(relay, marking),
        lambda relay: Between(relay, in_time),
        with_a_lock(),
        framework,
        mounted,
    ],
    ids=["nobody", "pauses", "marks", "has a timeout", "has a lock", "is a framework", "is FastAPI"],
)
def test_through_others(app: Callable[[Relay], Any]) -> None:
    pieces = [b"data: %d\n\n" % number for number in range(50)] + [b"data: [DONE]\n\n"]
    expected = b"".join(b"id: %d\n%b" % (number, piece) for number, piece in enumerate(pieces, 1))
    with (
        Scripted(*[Answer(pieces)] * 4) as upstream,
        Served(upstream, app=app) as served,
        ThreadPoolExecutor(4) as pool,
    ):

        def ask(_: int) -> bytes:
            with served.client() as client:
                return client.post(CHAT_PATH, json=CHAT).content

        assert list(pool.map(ask, range(4))) == [expected] * 4
