"""What others write: copies of their logs, kept up by one connection; and what they have done to ours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from resumable_llm.log.redis_catalog import Catalog
from resumable_llm.log.redis_link import Link
from resumable_llm.log.redis_log import Position, RedisLog
from resumable_llm.log.redis_scripts import NUDGE

ENTRIES = 200
"""How many entries of a log are taken at once."""

_PACE_SECONDS = 20e-6
"""How long news are collected, for each log that is followed: to ask costs about as much as to be told."""

_MAX_PACE_SECONDS = 0.02
_RETRY_SECONDS = 0.25


class Follower:
    """Follows all logs that somebody holds and another writes.

    Args:
        link: The way to Redis.
        catalog: The logs.
        me: Who we are.
        look: Called with a log of ours to which somebody else has done something.
        on_trouble: Called where Redis could not be asked.
    """

    def __init__(
        self,
        link: Link,
        catalog: Catalog,
        me: str,
        look: Callable[[RedisLog], Awaitable[None]],
        on_trouble: Callable[[Exception], None],
    ) -> None:
        self._link = link
        self._catalog = catalog
        self._me = me
        self._control = link.name(f"control:{me}")
        self._heard = "0"
        """The last message that was read."""
        self._look = look
        self._on_trouble = on_trouble
        self._asked = False
        """Whether Redis has been asked for news, of the logs that were known then."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                pause = min(await self.step() * _PACE_SECONDS, _MAX_PACE_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever it is, copies must not be left behind
                self._on_trouble(error)
                pause = _RETRY_SECONDS * random.uniform(0.5, 1.0)
            await asyncio.sleep(pause)

    async def step(self) -> int:
        """Wait for news, and tell the logs; returns how many are followed."""
        # Only names are kept while we wait: what nobody holds any more shall go.
        positions = {self._catalog.events_name(log.stream): _text(log.position) for log in self._catalog.copies()}
        positions[self._control] = self._heard
        self._asked = True
        try:
            news = await self._link.read(list(positions), list(positions.values()), ENTRIES)
        finally:
            self._asked = False
        for place, entries in news:
            if place == self._control:
                self._heard = entries[-1][0].decode()
                for stream in {fields[b"s"].decode() for _, fields in entries}:
                    log = self._catalog.find(stream)
                    if log is not None and log.owned:
                        await self._look(log)
            else:
                log = self._catalog.find(self._catalog.stream_of(place))
                if log is not None and not log.follow(entries):
                    self._catalog.drop(log.stream)
        return len(positions)

    async def nudge(self) -> None:
        """There is another log to follow: have the question asked anew."""
        if self._asked:
            self._asked = False
            await self._link.run(NUDGE, self._me)

    async def catch_up(self, log: RedisLog) -> bool:
        """Have a copy told all that Redis knows now; returns False where it cannot be kept."""
        place = self._catalog.events_name(log.stream)
        before = None
        while log.position != before:
            before = log.position
            if not log.follow(await self._link.read_one(place, _text(before), ENTRIES)):
                return False
        return True


def _text(position: Position) -> str:
    return f"{position[0]}-{position[1]}"
