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
    loop, here = asyncio.get_running_loop(), threading.get_ident()
    news = loop.create_future()

    def tell() -> None:
        if not news.done():
            news.set_result(None)

    def wake() -> None:
        if threading.get_ident() == here:
            tell()
        else:  # a store that writes in a thread
            loop.call_soon_threadsafe(tell)

    client.watch(tell)
    unsubscribe = log.subscribe(wake)
    try:
        await client.start(status, headers)
        last = b""
        while not client.gone:
            if news.done():
                news = loop.create_future()
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
                await news
            elif state is State.INTERRUPTED and await go_on():
                if log.state is State.INTERRUPTED:  # it takes a moment until readers may know
                    await news
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
