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

INTERRUPTED = "the relay was stopped while the answer was generated, and the rest of it is not here"
STOPPED_ELSEWHERE = "the answer was stopped by way of another relay, as its owner asked"


async def _never() -> bool:
    return False


class _News:
    """Whether there is something new: a future that is made again, which costs half as much as an asyncio.Event."""

    def __init__(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._come: asyncio.Future[None] = self._loop.create_future()

    def come(self) -> asyncio.Future[None]:
        """Done once there is."""
        return self._come

    def forget(self) -> None:
        """What has come by now is known."""
        if self._come.done():
            self._come = self._loop.create_future()

    def tell(self) -> None:
        """There is, says the event loop."""
        if not self._come.done():
            self._come.set_result(None)

    def wake(self) -> None:
        """There is, says anybody: a store may write in a thread."""
        if threading.get_ident() == self._thread:
            self.tell()
        else:
            self._loop.call_soon_threadsafe(self.tell)


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
    news = _News()
    client.watch(news.tell)
    unsubscribe = log.subscribe(news.wake)
    try:
        await client.start(status, headers)
        last = b""
        while not client.gone:
            news.forget()
            state = log.state  # before the events are read: none comes behind an end that was seen
            try:
                data, after = log.read(after)
            except LogError:
                last = error_frame("gone", "the relay does not keep the answer any more", google=google)
                break
            if data:
                await client.write(without_ids(data) if google else data)
                if after < log.last:
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
