"""Logs in Redis, for several processes that serve the same ones: any of them begins, reads, stops and goes on.

**One writes.** Whoever begins a log owns it: its events are in the owner's memory, readers there wait for nobody, and
what all logs have appended within the flush window goes to Redis in one call. Everywhere else a log is a copy that
follows, a window behind; all copies of a process share one connection. Only the owner can append, but each can end it
with `State.CANCELLED`, which the owner hears of within milliseconds.

**One asks.** Two processes that are given the same request at once would both ask the provider, and pay. So whoever
wants to begin a log may claim its key first; a claim lapses with its holder, as a lease does, and the other goes on.

**Owners die.** Each has a lease, by Redis' own clock, and renews it several times before it lapses. What was running
of an owner whose lease has lapsed becomes `State.INTERRUPTED`, and another may reopen it. Each write says where its
owner believes the log to end and is refused unless it is right: a process that was stopped for too long can write
nothing when it goes on.

**What is lost.** ``kill -9`` of a process loses what is younger than the flush window and a round trip. ``kill -9``
of Redis loses what Redis says: with ``appendonly yes`` about a second, with ``appendfsync always`` nothing; and what
a log's owner still has, it writes again. Readers may have seen what is lost, unless the store is strict: then they
are shown what Redis has acknowledged, and with ``appendfsync always`` nothing that anybody has seen is lost. Without
``appendonly``, a restart of Redis loses everything, and logs are missing then. While Redis cannot be reached, owners
go on in memory until the lease must have lapsed; then their logs are interrupted, and Redis is told when it is back.

Redis forgets by itself: an ended log a minute behind its time, and in the end also one whose owners have all died.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import time
import uuid
from collections.abc import Callable
from typing import Any

from resumable_llm.log.errors import Expired, Missing, StoreFailed
from resumable_llm.log.memory import MAX_LOG_BYTES, require_same_request
from resumable_llm.log.model import Head
from resumable_llm.log.redis_catalog import Catalog
from resumable_llm.log.redis_link import TROUBLE, Link
from resumable_llm.log.redis_log import RedisLog, head_of_json, head_to_json
from resumable_llm.log.redis_scripts import BEGIN, CLAIM, DELETE, FIND, FIRST_ENTRIES, RELEASE, SWEEP
from resumable_llm.log.redis_writer import SAFETY_MILLISECONDS, RedisClaim, Writer


class RedisStore:
    """Keeps logs in Redis, 5 or newer.

    Args:
        url: Where it is, as redis-py takes it: ``redis://host:6379/0``, ``rediss://...`` for TLS.
        strict: Show readers nothing that Redis has not acknowledged.
        flush_seconds: The window. Everything that is appended within it is sent in one call: a longer one costs less,
            and other processes read so much later. A strict store does not wait for it.
        lease_seconds: How soon the logs of a process that has died are interrupted.
        max_log_bytes: How large each log may become.
        prefix: What all keys begin with; stores of other prefixes know nothing of each other.
        clock: Seconds since the epoch.

    Raises:
        ValueError: The URL cannot be understood.
        StoreFailed: Redis does not answer as it should.
    """

    survives = True
    remote = True

    def __init__(
        self,
        url: str,
        *,
        strict: bool = False,
        flush_seconds: float = 0.05,
        lease_seconds: float = 10.0,
        max_log_bytes: int = MAX_LOG_BYTES,
        prefix: str = "resumable-llm",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._me = uuid.uuid4().hex
        root = f"{{{prefix}}}:1:"
        self._catalog = Catalog(root)
        self._link = Link(url, root)
        self._writer = Writer(
            self._link,
            self._catalog,
            self._me,
            strict=strict,
            flush_seconds=flush_seconds,
            lease_seconds=lease_seconds,
            max_log_bytes=max_log_bytes,
            clock=clock,
        )
        self._claims = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        try:
            self._link.ask(self._open)
        except StoreFailed:
            self._link.close()
            raise
        # The thread is a daemon, so that a program without close() can end; but then too it shall not lose what it has.
        atexit.register(self.close)

    @property
    def interrupted(self) -> int:
        """How many logs were found whose owner had died."""
        return self._writer.interrupted

    def must_take(self) -> None:
        """See `Store.must_take`. Whether Redis answers is found out every second, and not now."""
        self._writer.must_take()

    def claim(self, scope: str, key: str) -> RedisClaim | None:
        """See `Store.claim`."""
        return self._link.ask(self._claim, self._catalog.key_name(scope, key), self._catalog.claim_name(scope, key))

    def begin(self, head: Head) -> tuple[RedisLog, bool]:
        """See `Store.begin`."""
        return self._link.ask(self._begin, head)

    def find(self, scope: str, id: str) -> RedisLog:
        """See `Store.find`."""
        self._link.must_be_open()
        # One that somebody holds is up to date: it is ours, or it is followed.
        log = self._catalog.by_id(scope, id) or self._link.ask(self._find, self._catalog.id_name(scope, id))
        if log is None:
            raise Missing("there is no such log")
        if log.expired(self._clock()):
            raise Expired("the log has expired")
        return log

    def by_key(self, scope: str, key: str) -> RedisLog | None:
        """See `Store.by_key`."""
        self._link.must_be_open()
        if not key:
            return None
        log = self._catalog.by_key(scope, key) or self._link.ask(self._find, self._catalog.key_name(scope, key))
        return None if log is None or log.expired(self._clock()) else log

    def delete(self, scope: str, id: str) -> None:
        """See `Store.delete`."""
        self._link.ask(self._delete, self._catalog.id_name(scope, id))

    def sweep(self, now: float) -> int:
        """See `Store.sweep`. What other processes have ended is swept too."""
        return self._link.ask(self._sweep, now)

    def close(self) -> None:
        """See `Store.close`. What runs here is interrupted, so that another process may go on with it."""
        atexit.unregister(self.close)
        failure = self._link.close(self._writer.leave)
        if failure is not None:
            raise StoreFailed("not all that was appended could be written") from failure

    # In the link's thread.

    async def _open(self) -> None:
        await self._writer.tick()
        self._tasks = [
            asyncio.create_task(work()) for work in (self._writer.run, self._writer.renew, self._writer.follower.run)
        ]

    async def _begin(self, head: Head) -> tuple[RedisLog, bool]:
        known = self._catalog.by_key(head.scope, head.key) or self._catalog.by_id(head.scope, head.id)
        if known is not None and known.expired(self._clock()):
            await self._writer.flush()  # Redis may not know that it has ended
        stream, claim = uuid.uuid4().hex, self._catalog.claim_name(head.scope, head.key)
        with self._writer.coming(stream):
            gone, *found = await self._link.run(
                BEGIN,
                self._me,
                stream,
                self._catalog.id_name(head.scope, head.id),
                self._catalog.key_name(head.scope, head.key),
                claim,
                repr(self._clock()),
                head_to_json(head),
                repr(head.ttl),
                head.upstream,
                SAFETY_MILLISECONDS,
            )
            self._writer.claims.pop(claim, None)
            self._drop(gone)
            if not found:
                log = RedisLog(self._writer, stream, head, owned=True)
                self._writer.own(log)
                self._catalog.enter(log)
                return log, True
        log = await self._copy(found[0])
        require_same_request(log.head, head)
        return log, False

    async def _claim(self, key: str, name: str) -> RedisClaim | None:
        claim = RedisClaim(name, f"{self._me}:{next(self._claims)}", self._give_back)
        lease = self._writer.lease_milliseconds
        if not await self._link.run(CLAIM, claim.value, key, name, repr(self._clock()), lease):
            return None
        self._writer.claims[name] = claim
        return claim

    def _give_back(self, claim: RedisClaim) -> None:
        if self._writer.claims.get(claim.name) is claim:  # it was not used
            self._link.start(self._release, claim)

    async def _release(self, claim: RedisClaim) -> None:
        if self._writer.claims.get(claim.name) is claim:
            del self._writer.claims[claim.name]  # so it lapses, should Redis not hear of it
        with contextlib.suppress(*TROUBLE):
            await self._link.run(RELEASE, claim.value, claim.name)

    async def _find(self, name: str) -> RedisLog | None:
        found = await self._link.run(FIND, name)
        return None if found is None else await self._copy(found)

    async def _copy(self, found: list[Any]) -> RedisLog:
        """The log that Redis has found; a copy, unless there is one here."""
        name, head, note, entries = found
        stream = name.decode()
        await self._writer.decided(stream)  # of two logs of one stream, only the one that was entered last is followed
        known = self._catalog.find(stream)
        if known is not None:
            return known
        log = RedisLog(self._writer, stream, head_of_json(head), owned=False, note=note.decode())
        whole = log.follow([(at, dict(zip(flat[::2], flat[1::2], strict=True))) for at, flat in entries])
        if whole and len(entries) == FIRST_ENTRIES:
            whole = await self._writer.follower.catch_up(log)
        if not whole:
            raise Missing("the log was deleted")
        known = self._catalog.find(stream)  # somebody else may have looked for it meanwhile
        if known is not None:
            return known
        self._catalog.enter(log)
        await self._writer.follower.nudge()
        return log

    async def _delete(self, name: str) -> None:
        stream = await self._link.run(DELETE, self._me, name)
        if stream is None:
            raise Missing("there is no such log")
        self._drop([stream])

    async def _sweep(self, now: float) -> int:
        await self._writer.flush()  # Redis may not know what has ended
        count = 0
        while True:
            looked_at, gone = await self._link.run(SWEEP, self._me, repr(now))
            self._drop(gone)
            count += len(gone)
            if looked_at == 0:
                return count

    def _drop(self, streams: list[bytes]) -> None:
        for stream in streams:
            self._catalog.drop(stream.decode())
