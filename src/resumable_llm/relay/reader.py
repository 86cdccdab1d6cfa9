"""One reader of one log: what is there, then what comes, until the end or until the reader goes.

A reader that is slow holds back nobody else: what it has not been sent is in the log, and only one piece of it in hand.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from resumable_llm.log.errors import LogError
from resumable_llm.log.model import Log, State
from resumable_llm.relay.frames import error_frame, without_ids
from resumable_llm.relay.messages import Client, Pairs
from resumable_llm.relay.stepping import Busy, Rest, Stepper

INTERRUPTED = "the relay was stopped while the answer was generated, and the rest of it is not here"
STOPPED_ELSEWHERE = "the answer was stopped by way of another relay, as its owner asked"

_RUNNING = State.RUNNING  # a member of an enumeration is slow to look up


async def _never() -> bool:
    return False


class _News:
    """What is new in a log for a reader who waits for it: mostly an event, and then it is sent where it is heard of.

    The task that reads is woken if that cannot be: it is not waiting, another task is running, what is sent has to
    wait, or there is something else to be said than events. So no reader has more than one piece in hand, as ever.

    Args:
        log: The log.
        after: The number of the last event that has been sent.
        client: The reader.
        google: As in `read_log`.
    """

    __slots__ = ("_client", "_google", "_log", "_loop", "_rest", "_stepper", "_thread", "_told", "_waiting", "after")

    def __init__(self, log: Log, after: int, client: Client, *, google: bool) -> None:
        self.after = after
        self._log = log
        self._client = client
        self._google = google
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._stepper = Stepper()
        self._told = False
        self._waiting: asyncio.Future[None] | None = None
        self._rest: Rest | None = None

    async def come(self) -> None:
        """Wait for what the task has to see to."""
        if self._told:
            return
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        except BaseException:
            if self._rest is not None:
                self._rest.close()
            raise
        finally:
            self._waiting = None
        if self._rest is not None:
            rest, self._rest = self._rest, None
            await self._client.finish(rest)

    def forget(self) -> None:
        """What has come by now is known."""
        self._told = False

    def tell(self) -> None:
        """There is something for the task, says the event loop."""
        if self._waiting is None:
            self._told = True
        elif not self._waiting.done():
            self._waiting.set_result(None)

    def wake(self) -> None:
        """There is something new, says anybody: a store may write in a thread."""
        if threading.get_ident() == self._thread:
            self._send()
        else:
            self._loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        """Send what is new, or have the task do it."""
        waiting, log = self._waiting, self._log
        if waiting is not None and not waiting.done() and not self._client.gone and log.state is _RUNNING:
            try:
                data, after = log.read(self.after)
                if data:
                    self._rest = self._stepper.run(self._client.writing, without_ids(data) if self._google else data)
                    self.after = after
                    if self._rest is None and after == log.last:
                        return
            except (LogError, Busy):
                pass  # the task will find out
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as if the task had sent it
                if not waiting.done():
                    waiting.set_exception(error)
        self.tell()


async def read_log(
    log: Log,
    after: int,
    client: Client,
    status: int,
    headers: Pairs,
    *,
    google: bool = False,
    go_on: Callable[[], Awaitable[bool]] = _never,
) -> None:
    """Send a log's events behind a number, and go on as it grows.

    Args:
        log: The log.
        after: The number.
        client: The reader.
        status: Of the response.
        headers: Of the response.
        google: Leave out the ids, which google-genai cannot read.
        go_on: Asked when the answer is found interrupted: whether it goes on, so that there will be more to read.
    """
    news = _News(log, after, client, google=google)
    client.watch(news.tell)
    unsubscribe = log.subscribe(news.wake)
    try:
        await client.start(status, headers)
        last = b""
        while not client.gone:
            news.forget()
            state = log.state  # before the events are read: none comes behind an end that was seen
            try:
                data, news.after = log.read(news.after)
            except LogError:
                last = error_frame("gone", "the relay does not keep the answer any more", google=google)
                break
            if data:
                await client.write(without_ids(data) if google else data)
                if news.after < log.last:
                    continue
            if state is State.RUNNING:
                await news.come()
            elif state is State.INTERRUPTED and await go_on():
                if log.state is State.INTERRUPTED:  # it takes a moment until readers may know
                    await news.come()
            else:
                last = _last_words(log, state, google=google)
                break
        if not client.gone:
            await client.write(last, more=False)
    finally:
        unsubscribe()


def _last_words(log: Log, state: State, *, google: bool) -> bytes:
    """What nobody could write into the log of how it ended."""
    if state is State.INTERRUPTED:
        return error_frame("interrupted", INTERRUPTED, google=google)
    if log.reason == STOPPED_ELSEWHERE:
        return error_frame("cancelled", STOPPED_ELSEWHERE, google=google)
    return b""
