"""Coroutines that are run in a callback, and finished by their task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import Any

import pytest

from resumable_llm.relay.stepping import Busy, Rest, Stepper

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def in_a_callback(begin: Callable[[str], Awaitable[None]]) -> Rest | None:
    """What `Stepper.run` returns or raises where the event loop calls it, while this task waits."""
    stepper = Stepper()
    found: asyncio.Future[Rest | None] = asyncio.get_running_loop().create_future()

    def call() -> None:
        assert asyncio.current_task() is None
        try:
            found.set_result(stepper.run(begin, "x"))
        except OSError as error:
            found.set_exception(error)
        assert asyncio.current_task() is None

    asyncio.get_running_loop().call_soon(call)
    return await found


async def test_what_needs_no_waiting_is_done_at_once() -> None:
    said: list[str] = []

    async def begin(text: str) -> None:
        said.append(text)

    assert await in_a_callback(begin) is None
    assert said == ["x"]


@pytest.mark.parametrize("turns", [1, 3])
async def test_what_waits_is_finished_by_the_task(turns: int) -> None:
    said: list[str] = []

    async def begin(text: str) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        said.append(text)

    rest = await in_a_callback(begin)
    assert rest is not None
    assert said == []
    await rest
    assert said == ["x"]


async def test_it_finds_its_task_and_its_context() -> None:
    VARIABLE.set("of the task")
    here, seen = asyncio.current_task(), []

    async def begin(_: str) -> None:
        for _turn in range(2):
            seen.append((asyncio.current_task(), VARIABLE.get()))
            await asyncio.sleep(0)

    rest = await in_a_callback(begin)
    assert rest is not None
    await rest
    assert seen == [(here, "of the task")] * 2


async def test_a_variable_may_be_set_before_it_waits_and_reset_behind() -> None:
    async def begin(text: str) -> None:
        token = VARIABLE.set(text)
        await asyncio.sleep(0)
        VARIABLE.reset(token)

    rest = await in_a_callback(begin)
    assert rest is not None
    await rest


async def test_locks_and_timeouts_work() -> None:
    lock = asyncio.Lock()
    await lock.acquire()

    async def begin(_: str) -> None:
        async with lock:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    rest = await in_a_callback(begin)
    assert rest is not None
    asyncio.get_running_loop().call_later(0.01, lock.release)
    with pytest.raises(asyncio.TimeoutError):
        await rest
    assert not lock.locked()


async def test_any_awaitable_will_do() -> None:
    class Odd:
        def __await__(self) -> Generator[Any, Any, None]:
            yield from asyncio.sleep(0).__await__()

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.001, future.set_result, None)
    for awaitable in (Odd(), future):
        rest = await in_a_callback(lambda _, it=awaitable: it)  # type: ignore[misc]
        assert rest is not None
        await rest


@pytest.mark.parametrize("waits", [False, True])
async def test_what_it_raises_is_raised(waits: bool) -> None:
    async def begin(_: str) -> None:
        if waits:
            await asyncio.sleep(0)
        raise OSError("gone")

    async def run() -> None:
        rest = await in_a_callback(begin)
        assert rest is not None
        await rest

    with pytest.raises(OSError, match="gone"):
        await run()


async def test_cancelling_the_task_reaches_it() -> None:
    told: list[type[BaseException]] = []

    async def begin(_: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            told.append(type(error))
            await asyncio.sleep(0)  # it may still have something to do
            raise

    rest = await in_a_callback(begin)
    assert rest is not None
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
    with pytest.raises(asyncio.CancelledError):
        await rest
    assert told == [asyncio.CancelledError]
    if hasattr(asyncio.Task, "uncancel"):
        asyncio.current_task().uncancel()  # type: ignore[union-attr]


async def test_what_nobody_awaits_is_closed() -> None:
    told: list[type[BaseException]] = []

    async def begin(_: str) -> None:
        try:
            await asyncio.Event().wait()
        except GeneratorExit as error:
            told.append(type(error))
            raise

    rest = await in_a_callback(begin)
    assert rest is not None
    rest.close()
    assert told == [GeneratorExit]


async def test_nothing_is_begun_within_another_task() -> None:
    begun: list[str] = []

    async def begin(text: str) -> None:
        begun.append(text)

    stepper = Stepper()
    with pytest.raises(Busy):
        stepper.run(begin, "x")
    assert begun == []
