"""The logs that this process writes: what they have appended goes to Redis, and the lease that lets it is renewed.

One thing at a time is written, so that what Redis has answered is never older than what we believe. Where an answer is
lost or a write is refused, Redis is asked how far it has got, and what it does not have is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn
from weakref import WeakValueDictionary

from resumable_llm.log.errors import LogEnded, Missing, StoreFailed
from resumable_llm.log.model import State
from resumable_llm.log.redis_catalog import Catalog
from resumable_llm.log.redis_follower import Follower
from resumable_llm.log.redis_link import TROUBLE, Link
from resumable_llm.log.redis_log import RedisLog
from resumable_llm.log.redis_scripts import DISOWN, GONE, LEAVE, LOOK, REOPEN, TICK, WISH, WRITE

_logger = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""How much is kept in memory for a Redis that does not answer."""

SAFETY_MILLISECONDS = 3_600_000
"""How long what runs is kept, should nobody be left to end it."""

_TICK_SECONDS = 1.0
_DOUBTS = 3
"""More than one, for what was sent before a connection broke may be done after it."""

_RETRY_SECONDS = 0.05
_MAX_RETRY_SECONDS = 1.0

_BATCH = 500
"""How many logs are written in one call, for Redis does nothing else meanwhile."""

_BATCH_BYTES = 1 << 20

_DIED = "the process that wrote it has died"
_AWAY = "Redis could not be reached in time"
_TAKEN = "the right to write it was lost"
_UNKNOWN = "nobody knows how it ended"
_CLOSED = "the process that wrote it was stopped"


class RedisClaim:
    """The right to begin a log. It is renewed for as long as somebody holds it.

    Args:
        name: Where Redis has it.
        value: What is there: who has it, and the how many-eth of his it is.
        give_back: Called to release it.
    """

    __slots__ = ("__weakref__", "_give_back", "name", "value")

    def __init__(self, name: str, value: str, give_back: Callable[[RedisClaim], object]) -> None:
        self.name = name
        self.value = value
        self._give_back = give_back

    def release(self) -> None:
        """See `Claim.release`."""
        self._give_back(self)


class Writer:
    """Writes the logs of one process.

    Args:
        link: The way to Redis.
        catalog: The logs.
        me: Who we are.
        strict: See `RedisStore`.
        flush_seconds: See `RedisStore`.
        lease_seconds: See `RedisStore`.
        max_log_bytes: See `RedisStore`.
        clock: See `RedisStore`.
    """

    def __init__(
        self,
        link: Link,
        catalog: Catalog,
        me: str,
        *,
        strict: bool,
        flush_seconds: float,
        lease_seconds: float,
        max_log_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.strict = strict
        self.max_log_bytes = max_log_bytes
        self.clock = clock
        self.interrupted = 0
        self.claims: WeakValueDictionary[str, RedisClaim] = WeakValueDictionary()
        """Rights to begin a log, by where Redis has them."""
        self.refuses = False
        self.follower = Follower(link, catalog, me, self.look, self.trouble)
        self._link = link
        self._catalog = catalog
        self._me = me
        self._window = 0.0 if strict else flush_seconds
        self._lease = lease_seconds
        # A log's lock is taken before this one.
        self._queue = threading.Lock()
        self._done = threading.Condition(self._queue)
        self._live: set[RedisLog] = set()
        """Those that are ours."""
        self._dirty: list[RedisLog] = []
        self._wishes: list[tuple[str, str, str]] = []
        self._idle = False
        """Whether nobody writes before there is something to write."""
        self._coming: dict[str, asyncio.Event] = {}
        """Streams that may be ours in Redis already, and are not among the live; set once that is decided."""
        self._let_go = False
        """Whether there is a log to follow that was ours."""
        self._failure: Exception | None = None
        self._doubt = 0
        """How often to make sure that Redis thinks as we do of what is ours."""
        self._renewed = self._kept = time.monotonic()
        self._work = asyncio.Event()
        self._writing = asyncio.Lock()

    # For its logs, from any thread.

    @property
    def closed(self) -> bool:
        """Whether nothing is written any more."""
        return self._link.closing

    @property
    def lease_milliseconds(self) -> int:
        """How soon what is ours lapses when we have died."""
        return int(self._lease * 1000)

    def must_take(self) -> None:
        """Raise where Redis did not answer as it should when it was asked last."""
        if self._failure is not None or self.closed:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raise, and say why."""
        self._link.must_be_open()
        failure = self._failure
        raise StoreFailed(f"Redis does not answer as it should: {failure}") from failure

    def mark(self, log: RedisLog) -> None:
        """There is something to write."""
        with self._queue:
            self._dirty.append(log)
            idle, self._idle = self._idle, False
        if idle:
            self._link.post(self._work.set)

    def wish(self, log: RedisLog, state: State, reason: str) -> None:
        """Another's log shall end."""
        with self._queue:
            self._wishes.append((log.stream, state.value, reason))
        self._link.post(self._work.set)

    def let_go(self, log: RedisLog) -> None:
        """It is not ours any more."""
        self._let_go = True
        with self._queue:
            self._live.discard(log)
            self._done.notify_all()

    def reopen(self, log: RedisLog) -> None:
        """Take a log over."""
        self._link.ask(self._reopen, log)

    def wait(self, reached: Callable[[], bool], seconds: float | None) -> None:
        """Block until Redis has something."""
        with self._done:
            if not self._done.wait_for(lambda: reached() or self._failure or self._link.closing, seconds):
                raise TimeoutError
            if reached():
                return
        self.refuse()

    # In the link's thread.

    @contextlib.contextmanager
    def coming(self, stream: str) -> Iterator[None]:
        """While Redis is asked for a log that will be ours."""
        decided = self._coming[stream] = asyncio.Event()
        try:
            yield
        except TROUBLE:
            self._doubt = _DOUBTS
            raise
        finally:
            del self._coming[stream]
            decided.set()

    async def decided(self, stream: str) -> None:
        """Wait while Redis is asked for this one: others, on another connection, may hear of it before we do."""
        decided = self._coming.get(stream)
        if decided is not None:
            await decided.wait()

    def own(self, log: RedisLog) -> None:
        """A log is ours."""
        with self._queue:
            self._live.add(log)

    async def run(self) -> None:
        """Write what there is to write, until cancelled."""
        failures = 0
        while True:
            with self._queue:
                idle = self._idle = not (self._dirty or self._wishes)
                self._work.clear()
            if idle:
                await self._work.wait()
            await asyncio.sleep(self._window if failures == 0 else _backoff(failures))
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - whatever it is, appenders must hear of it, and nothing be lost
                failures += 1
                self.trouble(error)
            else:
                failures = 0

    async def flush(self) -> None:
        """Write what there is now."""
        async with self._writing:
            with self._queue:
                logs, self._dirty = self._dirty, []
                wishes, self._wishes = self._wishes, []
            try:
                while logs:
                    await self._write(logs)
                while wishes:
                    await self._link.run(WISH, *wishes[0])
                    del wishes[0]
            finally:
                # What was not written, or perhaps was, is for the next time.
                with self._queue:
                    self._dirty += logs
                    self._wishes[:0] = wishes
            self._well()
        await self._follow_on()

    async def look(self, log: RedisLog) -> None:
        """Somebody else has done something to a log of ours."""
        async with self._writing:
            await self._compare(log)
        await self._follow_on()

    async def renew(self) -> None:
        """Renew the lease, and interrupt the logs of those whose leases have lapsed, until cancelled."""
        while True:
            begun = time.monotonic()
            left = self._renewed + self._lease - begun
            try:
                await asyncio.wait_for(self.tick(), left if left > 0 else None)
            except Exception as error:  # noqa: BLE001 - as above
                self.trouble(error)
                if time.monotonic() >= self._renewed + self._lease:
                    self._give_up()
                await asyncio.sleep(_backoff(1))
            else:
                self._renewed = begun
                self._well()
                await asyncio.sleep(min(_TICK_SECONDS, self._lease / 4))

    async def tick(self) -> None:
        """Do so once."""
        now = time.monotonic()
        keep = now >= self._kept + SAFETY_MILLISECONDS / 3000
        added, interrupted = await self._link.run(
            TICK,
            self._me,
            self.lease_milliseconds,
            repr(self.clock()),
            _DIED,
            SAFETY_MILLISECONDS,
            int(keep),
            *[part for claim in self.claims.values() for part in (claim.name, claim.value)],
        )
        if keep:
            self._kept = now
        if interrupted:
            self.interrupted += interrupted
            _logger.warning("redis.interrupted logs=%d", interrupted)
        if added:
            self._doubt = _DOUBTS
        if self._doubt:
            await self._reconcile()
            self._doubt -= 1

    async def leave(self) -> Exception | None:
        """Interrupt what runs, write what is left, and have no lease any more; returns why not all could be written."""
        self.refuses = True
        for log in self._ours():
            log.conclude(State.INTERRUPTED, _CLOSED)
        try:
            await self.flush()
            await self._link.run(LEAVE, self._me)
        except TROUBLE as error:
            return error if self._live else None
        finally:
            with self._queue:
                self._done.notify_all()
        return None

    def trouble(self, error: Exception) -> None:
        """Redis did not answer as it should."""
        with self._queue:
            news = self._failure is None
            self._failure = error
            self._doubt = _DOUBTS
            self._done.notify_all()
        self.refuses = self.closed or sum(log.unsent for log in self._ours()) > MAX_UNSENT_BYTES
        if news:
            _logger.warning("redis.away error=%s", error)

    def _well(self) -> None:
        with self._queue:
            news, self._failure = self._failure is not None, None
            self.refuses = self.closed
            self._done.notify_all()
        if news:
            _logger.warning("redis.back")

    def _give_up(self) -> None:
        """Our lease must have lapsed, and somebody else may have our logs."""
        for log in self._ours():
            if self.strict:
                log.surrender(_AWAY)
            else:  # readers have seen more than Redis has: it shall be told, if it has not given the log to another
                log.conclude(State.INTERRUPTED, _AWAY)

    async def _follow_on(self) -> None:
        if self._let_go:
            self._let_go = False
            await self.follower.nudge()

    def _ours(self) -> list[RedisLog]:
        with self._queue:
            return list(self._live)

    async def _reopen(self, log: RedisLog) -> None:
        await self.flush()  # it may have been ours until now, and Redis not know its end
        with self.coming(log.stream):
            found = await self._link.run(REOPEN, self._me, log.stream, SAFETY_MILLISECONDS)
            if not found:
                self._catalog.drop(log.stream)
                raise Missing("the log was deleted")
            if len(found) == 1:
                raise LogEnded(f"the log is {found[0].decode()}, not interrupted")
            if not await self.follower.catch_up(log):
                self._catalog.drop(log.stream)
                raise Missing("the log was deleted")
            log.own(found[1].decode())
            self.own(log)

    async def _write(self, logs: list[RedisLog]) -> None:
        """Write what some of the logs have to tell, and strike them off."""
        batch: list[RedisLog] = []
        parts: list[bytes] = []
        size = 0
        while logs and len(batch) < _BATCH and size < _BATCH_BYTES:
            log = logs.pop()
            if taken := log.take(parts):
                batch.append(log)
                size += taken
        try:
            # In one piece, for redis-py is slow with many arguments.
            refused = set(await self._link.run(WRITE, self._me, b"".join(parts)))
        except BaseException:
            for log in batch:
                log.give_back()
            raise
        for log in batch:
            if log.name in refused:
                log.give_back()
            else:
                log.settle()
        for log in batch:
            if log.name in refused:
                await self._compare(log)

    async def _compare(self, log: RedisLog) -> None:
        """See what Redis thinks of a log of ours."""
        found = await self._link.run(LOOK, self._me, log.stream)
        if found is None:
            self._catalog.drop(log.stream)
        else:
            pen, state, wish, why = (part.decode() for part in found)
            if not log.compare(pen, state):
                log.surrender(_TAKEN)
            elif wish:
                log.conclude(State(wish), why)

    async def _reconcile(self) -> None:
        async with self._writing:
            ours = {name.decode() for name in await self._link.do("SMEMBERS", self._link.name(f"running:{self._me}"))}
            live = self._ours()
            for stream in ours - {log.stream for log in live} - self._coming.keys():
                await self._link.run(DISOWN, self._me, stream, _UNKNOWN, repr(self.clock()))
            for log in live:
                await self._compare(log)
        copies = [log.stream for log in self._catalog.copies()]
        for stream in await self._link.run(GONE, *copies):
            self._catalog.drop(stream.decode())


def _backoff(failures: int) -> float:
    return min(_RETRY_SECONDS * 2.0 ** (failures - 1), _MAX_RETRY_SECONDS) * random.uniform(0.5, 1.0)
