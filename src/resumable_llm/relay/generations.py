"""All answers that a relay is generating: which there are, how one begins, and how one that was interrupted goes on."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import ParamSpec, TypeVar

from resumable_llm.core.model import RequestPlan
from resumable_llm.dialects import EVENT_STREAM, recognise
from resumable_llm.log.errors import KeyReused, LogEnded, LogError
from resumable_llm.log.model import Head, Log, State, Store
from resumable_llm.relay.generation import FREE, Generation, Open
from resumable_llm.relay.messages import Inbound, Refused, downward
from resumable_llm.relay.metrics import Metrics
from resumable_llm.relay.revival import revival_of
from resumable_llm.relay.settings import RelaySettings
from resumable_llm.transports.aiohttp import AiohttpExchange
from resumable_llm.transports.call import new_key

T = TypeVar("T")
P = ParamSpec("P")

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.05, 0.5
"""How often to look whether another relay has begun an answer: no reader waits for longer than its provider takes."""

_OWN = frozenset({b"location", b"cache-control", b"idempotency-key", b"x-accel-buffering"})


class Moved(Exception):
    """An answer can go on, but not here and now: its readers are to come back, to this relay or another."""


class Ask:
    """A request for the upstream, and whose it is.

    Args:
        plan: The request.
        key: The caller's idempotency key, if there is one.
        whose: Gives the scope of who makes it, and the fingerprint of the request. Unless there is a key, neither is
            of use before there is an answer: then they are found out while that is waited for.
    """

    __slots__ = ("_named", "_whose", "key", "plan")

    def __init__(self, plan: RequestPlan, key: str | None, whose: Callable[[], tuple[str, str]]) -> None:
        self.plan = plan
        self.key = key
        self._whose = whose
        self._named: tuple[str, str] | None = None

    def name(self) -> tuple[str, str]:
        """The scope, and the fingerprint."""
        if self._named is None:
            self._named = self._whose()
        return self._named

    @property
    def caller(self) -> str:
        """The scope of who makes it."""
        return self.name()[0]

    @property
    def fingerprint(self) -> str:
        """Of the request."""
        return self.name()[1]


class Generations:
    """The generations of one relay.

    Args:
        settings: The relay's.
        store: Where their logs are.
        open_: Sends a request to the upstream.
        metrics: Told of them.
        running: Where they are kept while they run.
        on_log: Called with each new log.
    """

    def __init__(
        self,
        settings: RelaySettings,
        store: Store,
        *,
        open_: Open,
        metrics: Metrics,
        running: set[Generation],
        on_log: Callable[[Log], None],
    ) -> None:
        self.running = running
        self.closing = False
        """Nothing new begins."""
        self._settings = settings
        self._store = store
        self._open = open_
        self._metrics = metrics
        self._on_log = on_log
        self._by_log: dict[tuple[str, str], Generation] = {}
        self._asked: dict[tuple[str, str], Generation] = {}
        """Requests that have a key of the caller's and no log yet, by scope and key."""

    def of(self, log: Log) -> Generation | None:
        """The one that writes a log, if it is of this relay."""
        return self._by_log.get((log.head.scope, log.head.id))

    def is_elsewhere(self, log: Log) -> bool:
        """Whether another relay generates it."""
        return self._store.remote and log.state is State.RUNNING and self.of(log) is None

    def asked(self, caller: str, key: str) -> Generation | None:
        """The one that a request with this key has begun, if it has no log yet."""
        return self._asked.get((caller, key))

    def forget(self, generation: Generation, ask: Ask) -> None:
        """Whoever makes this request again is to make it anew."""
        found = (ask.caller, ask.key or "")
        if self._asked.get(found) is generation:
            del self._asked[found]

    def must_be_open(self) -> None:
        """Raise Refused while the relay shuts down."""
        if self.closing:
            raise Refused(503, "closing", "the relay is shutting down", [(b"retry-after", b"5")])

    def begin(self, ask: Ask) -> Generation:
        """Make a request.

        Raises:
            Refused: There is no room for it.
            StoreFailed: Its answer could not be kept.
        """
        self.must_be_open()
        if self._is_full:
            raise Refused(503, "busy", "the relay generates as many answers as it may", [(b"retry-after", b"1")])
        plan, key = ask.plan, ask.key
        dialect = recognise(plan)
        if dialect is not None and dialect.framing is not EVENT_STREAM:
            dialect = None  # JSON, an object a line, has no room for ids: passed on as it is
        own, asked_at = key or new_key(), asyncio.get_running_loop().time()
        if key is not None:
            plan = plan.with_headers(("Idempotency-Key", key))
        if dialect is not None:
            plan = dialect.prepare(plan, own)

        async def begin_log(exchange: AiohttpExchange, dialect_name: str) -> tuple[Log, bool]:
            head = Head(
                id=str(uuid.uuid4()) if key is None or UUID.fullmatch(key) is None else key.lower(),
                scope=ask.caller,
                key=own,
                fingerprint=ask.fingerprint,
                status=exchange.status,
                headers=tuple(
                    [
                        (name.decode("latin-1"), value.decode("latin-1"))
                        for name, value in downward(exchange.pairs, decoded=True)
                        if name not in _OWN
                    ]
                ),
                created_at=time.time(),
                ttl=self._settings.ttl,
                upstream=_written_by(dialect_name),
            )
            log, new = await ask_store(self._store, self._store.begin, head)
            if new:
                self._by_log[ask.caller, log.head.id] = generation
                self._on_log(log)
                self._metrics.await_first_event(log, asked_at)
            return log, new

        if dialect is not None:
            self._store.must_take()
        generation = Generation(
            plan,
            dialect,
            fingerprint="" if key is None else ask.fingerprint,
            key=own,
            settings=self._settings,
            open_=self._open,
            begin_log=begin_log,
            right=self._right(ask, key) if self._store.remote and key is not None and dialect is not None else FREE,
            noted=self._store.survives,
            shared=self._store.remote,
        )
        if key is not None and dialect is not None:
            self._asked[ask.caller, key] = generation
            generation.task.add_done_callback(lambda _: self.forget(generation, ask))
        self._watch(generation)
        asyncio.get_running_loop().call_soon(ask.name)  # behind the task, which sends the request
        return generation

    async def go_on(self, log: Log, inbound: Inbound, again: RequestPlan | None) -> bool:
        """Have an interrupted answer go on, if it can.

        Args:
            log: The log.
            inbound: The request of a reader.
            again: The request for the upstream, where the reader makes the same one again.

        Returns:
            Whether it does, or has ended meanwhile.

        Raises:
            Moved: It can, but not here.
        """
        found = revival_of(log, inbound, again, self._settings.upstream)
        if found is None:
            return False
        if self.closing or self._is_full:
            raise Moved
        try:
            await ask_store(self._store, log.reopen)
        except LogEnded:
            return True  # somebody else was faster; the log's readers will hear of it
        except LogError:
            return False
        head = log.head
        generation = Generation(
            found.plan,
            found.dialect,
            fingerprint=head.fingerprint,
            key=head.key,
            settings=self._settings,
            open_=self._open,
            begin_log=None,
            log=log,
            checkpoint=found.checkpoint,
            noted=True,
            shared=self._store.remote,
        )
        self._by_log[head.scope, head.id] = generation
        self._watch(generation)
        return True

    async def drain(self) -> None:
        """Begin nothing new, and let answers go on for as long as the settings say; then interrupt them."""
        self.closing = True
        tasks = {generation.task for generation in self.running}
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.shutdown_seconds)
        await asyncio.gather(*(each.interrupt("the relay was shut down") for each in list(self.running)))

    @asynccontextmanager
    async def _right(self, ask: Ask, key: str) -> AsyncIterator[Log | None]:
        """Let no other relay ask for the same meanwhile, or wait for what one that was faster asks for."""
        pause = _PAUSE_SECONDS
        while (claim := await ask_store(self._store, self._store.claim, ask.caller, key)) is None:
            log = await ask_store(self._store, self._store.by_key, ask.caller, key)
            if log is not None:
                if log.head.fingerprint != ask.fingerprint:
                    raise KeyReused
                yield log
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _MAX_PAUSE_SECONDS)
        try:
            yield None
        finally:
            claim.release()

    @property
    def _is_full(self) -> bool:
        return len(self.running) >= self._settings.max_streams

    def _watch(self, generation: Generation) -> None:
        self.running.add(generation)
        generation.task.add_done_callback(partial(self._ended, generation))

    def _ended(self, generation: Generation, _task: object) -> None:
        self.running.discard(generation)
        self._metrics.note_end(generation)
        if generation.log is not None and self.of(generation.log) is generation:
            del self._by_log[generation.log.head.scope, generation.log.head.id]


async def ask_store(store: Store, question: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask a store; in a thread, if it is on another machine."""
    if store.remote:
        return await asyncio.to_thread(question, *args, **kwargs)
    return question(*args, **kwargs)


@lru_cache(maxsize=64)
def _written_by(dialect_name: str) -> str:
    """What a log says at its beginning of who writes it."""
    return json.dumps({"dialect": dialect_name})
