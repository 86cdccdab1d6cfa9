"""Coroutines that are run where no task runs, in a callback of the event loop; what is left of one is for its task.

To wake a task for what mostly needs no waiting costs a future, a turn of the event loop and a switch: with a reader who
takes its events as they come, a third of all that is done for one. Only what asyncio offers to those who write tasks of
their own: https://docs.python.org/3/library/asyncio-extending.html, read 2026-11-23.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Any, TypeVar

T = TypeVar("T")


class Stepper:
    """Runs coroutines on behalf of the task that makes it, while that one waits.

    They are told that this is the current task, so that locks, timeouts and cancel scopes find it, and they have a copy
    of its context. What one of them needs to wait for, the task has to.
    """

    __slots__ = ("_context", "_loop", "_task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop = asyncio.get_running_loop()
        self._task = task
        self._context = copy_context()

    def run(self, begin: Callable[[T], Awaitable[None]], argument: T) -> Rest | None:
        """Run what a call returns, as far as it goes without waiting. It raises what that raises.

        Returns:
            What is left of it, and must be awaited by the task or closed; None if it has come to its end.

        Raises:
            Busy: Another task is running.
        """
        try:
            _enter_task(self._loop, self._task)
        except RuntimeError:
            raise Busy from None
        try:
            return self._context.run(self._step, begin, argument)
        finally:
            _leave_task(self._loop, self._task)

    def _step(self, begin: Callable[[T], Awaitable[None]], argument: T) -> Rest | None:
        awaitable = begin(argument)
        coroutine = awaitable if isinstance(awaitable, CoroutineType) else _awaited(awaitable)
        try:
            wanted = coroutine.send(None)
        except StopIteration:
            return None
        return Rest(self._context, coroutine, wanted)


class Busy(Exception):
    """It cannot be done here and now."""


class Rest:
    """What is left of a coroutine that waits for something.

    Args:
        context: What it is run in.
        coroutine: It.
        wanted: What it waits for, as it said to whoever ran it.
    """

    __slots__ = ("_context", "_coroutine", "_wanted")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, None], wanted: Any) -> None:
        self._context = context
        self._coroutine = coroutine
        self._wanted = wanted

    def __await__(self) -> Generator[Any, Any, None]:
        run, coroutine, wanted = self._context.run, self._coroutine, self._wanted
        while True:
            step: Callable[[Any], Any] = coroutine.send
            try:
                told = yield wanted
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the coroutine
                step, told = coroutine.throw, error
            try:
                wanted = run(step, told)
            except StopIteration:
                return

    def close(self) -> None:
        """Nobody will await it."""
        self._coroutine.close()


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable
