"""The relay as an ASGI application: any path goes to the upstream, and an answer that is an event stream is kept.

    POST   /any/path                     passed on; an event stream gets ids, a Location and an Idempotency-Key
    PUT    /_streams/{uuid}/{any path}   the same as a resource: 201 the first time, 200 after
    GET    /_streams/{id}                the events behind Last-Event-ID or ?after=, then live; as JSON: its state
    DELETE /_streams/{id}                stops the generation
    GET    /_health, /_ready             for whoever runs it

What a caller may see is decided in `_find` and `_call` alone: every look into the store is made in the caller's scope.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import sys
import time
import uuid
from collections import OrderedDict
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import aiohttp

from resumable_llm.core.actions import Send
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.partial import partial_of
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import EVENT_STREAM, named, recognise
from resumable_llm.log.errors import Ahead, BadCursor, Expired, KeyReused, LogError, Missing, StoreFull
from resumable_llm.log.model import Cursor, Head, Log, State, Store
from resumable_llm.log.scope import fingerprint_of, scope_of
from resumable_llm.relay.frames import error_object
from resumable_llm.relay.generation import Generation
from resumable_llm.relay.messages import Client, Inbound, Pairs, Receive, Refused, Scope, downward
from resumable_llm.relay.messages import Send as SendMessage
from resumable_llm.relay.reader import read_log
from resumable_llm.relay.settings import RelaySettings
from resumable_llm.transports.aiohttp import ERRORS, AiohttpExchange, new_session, open_exchange
from resumable_llm.transports.call import new_key

_logger = logging.getLogger("resumable_llm.relay")

_OURS = re.compile(rb"/_streams/([A-Za-z0-9_-]{1,64})(/.*)?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_AFTER = re.compile(rb"(?:^|&)after=([^&]*)")
_NOT_STORED = (b"x-relay-store", b"none")
_SWEEP_SECONDS = 30.0
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True)
class _Ask:
    """A request for the upstream, and whose it is."""

    plan: RequestPlan
    caller: str
    key: str | None
    fingerprint: str


class Relay:
    """An ASGI application that keeps the answers of one upstream.

    Serve it by itself, or mount it: then call `aclose` when your application ends, for nobody tells a mounted
    application.

    Args:
        settings: What it is told.
        store: Where answers are kept. Closed with the relay.
    """

    def __init__(self, settings: RelaySettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._secret = settings.secret or secrets.token_bytes(32)
        self._session: aiohttp.ClientSession | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._asked: dict[tuple[str, str], Generation] = {}
        """Requests that have a key of the caller's and no log yet, by scope and key."""
        self._running: set[Generation] = set()
        self._by_log: dict[tuple[str, str], Generation] = {}
        self._remembered: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Logs that were here, so that one that has gone is told from one that never was."""
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
        else:
            client = Client(receive, send, self._settings.send_seconds)
            try:
                await self._serve(scope, client)
            except Refused as error:
                body = error_object("relay_refused", error.code, str(error))
                await client.answer(error.status, body, error.headers)
            except LogError as error:
                refused = _refusal(error)
                await client.answer(refused.status, error_object("relay_refused", refused.code, str(refused)))
            except TimeoutError:
                _logger.warning("relay.slow_reader")  # the server closes a connection whose answer was not finished
            finally:
                client.close()

    async def drain(self) -> None:
        """Take no new requests, and let answers go on for as long as the settings say; then interrupt them."""
        self._closing = True
        tasks = {generation.task for generation in self._running}
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.shutdown_seconds)
        await asyncio.gather(*(each.interrupt("the relay was shut down") for each in list(self._running)))

    async def aclose(self) -> None:
        """Drain, and let go of everything. May be called twice."""
        await self.drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._store.close()

    async def _lifespan(self, receive: Receive, send: SendMessage) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _start(self) -> None:
        """Make what needs a running loop. A mounted application hears of none before its first request."""
        if self._session is None and not self._closing:
            self._session = new_session()
            self._sweeper = asyncio.create_task(self._sweep())

    def _must_be_open(self) -> None:
        if self._closing:
            raise Refused(503, "closing", "the relay is shutting down", [(b"retry-after", b"5")])

    async def _serve(self, scope: Scope, client: Client) -> None:
        self._start()
        inbound = Inbound(scope)
        if inbound.path == b"/_health":
            await client.answer(200, {"status": "ok"})
            return
        if inbound.path == b"/_ready":
            await client.answer(503 if self._closing else 200, {"running": len(self._running)})
            return
        caller = scope_of(self._secret, inbound.headers, inbound.query)
        if not inbound.path.startswith(b"/_"):
            await self._call(inbound, client, caller, inbound.path)
            return
        found = _OURS.fullmatch(inbound.path)
        if found is None:
            raise Refused(404, "not_found", "there is nothing here")
        name, rest = found[1].decode(), found[2]
        if rest is not None:
            if inbound.method != "PUT" or _UUID.fullmatch(name) is None:
                raise Refused(405, "not_allowed", "PUT /_streams/{uuid}/{path} is all there is", [(b"allow", b"PUT")])
            await self._call(inbound, client, caller, rest, name.lower())
        elif inbound.method == "GET":
            await self._show(inbound, client, caller, name)
        elif inbound.method == "DELETE":
            await self._stop(client, caller, name)
        else:
            raise Refused(405, "not_allowed", "GET or DELETE", [(b"allow", b"GET, DELETE")])

    # Requests for the upstream

    async def _call(self, inbound: Inbound, client: Client, caller: str, path: bytes, name: str | None = None) -> None:
        settings = self._settings
        body = await client.body(settings.max_request_bytes, settings.request_seconds)
        method = inbound.method if name is None else "POST"
        query = b"?" + inbound.query if inbound.query else b""
        plan = RequestPlan(method, f"{settings.upstream}{(path + query).decode('ascii')}", inbound.upward(), body)
        if inbound.forbids_store:
            if name is not None:
                raise Refused(400, "contradiction", "what must not be stored cannot be a resource")
            await self._pass(plan, client)
            return
        key = name or inbound.header(b"idempotency-key")
        if key is not None and _KEY.fullmatch(key) is None:
            raise Refused(400, "bad_key", "an Idempotency-Key has 1 to 255 characters, ASCII without blanks")
        ask = _Ask(plan, caller, key, fingerprint_of(self._secret, method, path, inbound.query, body))
        if key is not None and await self._join(ask, key, inbound, client):
            return
        if inbound.header(b"last-event-id"):
            raise Refused(404, "not_found", "there is no stream here that this Last-Event-ID is of")
        generation = self._generate(ask)
        with generation.reading():
            there = await client.wait_for(generation.begun)
        if generation.log is not None and there:
            await self._tell(generation.log, inbound, client, 200 if name is None else 201)
        elif not there:
            generation.disown()
        elif generation.response is not None:
            await self._forward(generation.response, client)
        else:
            raise _refusal(generation.failure)

    async def _join(self, ask: _Ask, key: str, inbound: Inbound, client: Client) -> bool:
        """Serve a request that has been made before, or is being made; False if there is none such."""
        while True:
            log = self._store.by_key(ask.caller, key)
            asked = self._asked.get((ask.caller, key))
            known = log.head.fingerprint if log is not None else asked.fingerprint if asked is not None else None
            if known is None:
                return False
            if known != ask.fingerprint:
                raise _refusal(KeyReused())
            if log is not None:
                await self._tell(log, inbound, client, 200)
                return True
            assert asked is not None
            with asked.reading():
                if not await client.wait_for(asked.begun):
                    return True
            # Refused was somebody else's request, and theirs alone: then this one is made.
            self._forget(asked, ask)

    def _generate(self, ask: _Ask) -> Generation:
        self._must_be_open()
        if len(self._running) >= self._settings.max_streams:
            raise Refused(503, "busy", "the relay generates as many answers as it may", [(b"retry-after", b"1")])
        plan, key = ask.plan, ask.key
        dialect = recognise(plan)
        if dialect is not None and dialect.framing is not EVENT_STREAM:
            dialect = None  # JSON, an object a line, has no room for ids: passed on as it is
        own = key or new_key()
        if key is not None:
            plan = plan.with_headers(("Idempotency-Key", key))
        if dialect is not None:
            plan = dialect.prepare(plan, own)

        def begin_log(exchange: AiohttpExchange, dialect_name: str) -> tuple[Log, bool]:
            head = Head(
                id=str(uuid.uuid4()) if key is None or _UUID.fullmatch(key) is None else key,
                scope=ask.caller,
                key=own,
                fingerprint=ask.fingerprint,
                status=exchange.status,
                headers=tuple(
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in downward(exchange.pairs, decoded=True)
                    if name not in (b"location", b"cache-control", b"idempotency-key")
                ),
                created_at=time.time(),
                ttl=self._settings.ttl,
                upstream=json.dumps({"dialect": dialect_name}),
            )
            log, new = self._store.begin(head)
            if new:
                self._by_log[ask.caller, log.head.id] = generation
                self._remember((ask.caller, log.head.id))
            return log, new

        generation = Generation(
            plan,
            dialect,
            fingerprint=ask.fingerprint,
            key=own,
            settings=self._settings,
            open_=self._open,
            begin_log=begin_log,
        )
        self._running.add(generation)
        if key is not None and dialect is not None:
            self._asked[ask.caller, key] = generation
        generation.task.add_done_callback(lambda _: self._ended(generation, ask))
        return generation

    def _ended(self, generation: Generation, ask: _Ask) -> None:
        self._running.discard(generation)
        self._forget(generation, ask)
        found = (ask.caller, generation.log.head.id if generation.log is not None else "")
        if self._by_log.get(found) is generation:
            del self._by_log[found]

    def _forget(self, generation: Generation, ask: _Ask) -> None:
        found = (ask.caller, ask.key or "")
        if self._asked.get(found) is generation:
            del self._asked[found]

    async def _open(self, send: Send, *, decode: bool = True) -> AiohttpExchange:
        assert self._session is not None
        return await open_exchange(self._session, send, self._settings.policy.read_timeout, decode=decode)

    async def _pass(self, plan: RequestPlan, client: Client) -> None:
        """Pass a request on, and its answer back, keeping nothing."""
        self._must_be_open()
        opening = asyncio.create_task(self._open(Send(plan), decode=False))
        client.watch(opening.cancel)
        await asyncio.wait({opening})
        if opening.cancelled():
            return
        if isinstance(failure := opening.exception(), Exception):
            raise _refusal(failure)
        exchange = opening.result()
        await self._forward(exchange, client, [_NOT_STORED])

    async def _forward(self, exchange: AiohttpExchange, client: Client, added: Pairs = ()) -> None:
        """Hand on a response as it comes, until its end or until the caller goes."""
        client.watch(exchange.close)
        try:
            await client.start(exchange.status, [*downward(exchange.pairs, decoded=exchange.decoded), *added])
            async for chunk in exchange.body:
                await client.write(chunk)
            await client.write(b"", more=False)
        except ERRORS as error:
            if not client.gone:  # the answer stays unfinished, so the server closes the connection, as this one was
                _logger.warning("relay.broken error=%s", type(error).__name__)
        finally:
            exchange.close()

    # What is kept

    async def _tell(self, log: Log, inbound: Inbound, client: Client, status: int, *, is_call: bool = True) -> None:
        """Send a log from where the caller wants it."""
        head = log.head
        after = _after(log, inbound)
        if after and not is_call and after == log.last and log.state not in (State.RUNNING, State.INTERRUPTED):
            await client.answer(204)
            return
        generation = self._by_log.get((head.scope, head.id))
        if generation is not None and generation.readers >= self._settings.max_readers:
            raise Refused(429, "too_many_readers", "the stream has as many readers as it may", [(b"retry-after", b"5")])
        headers = [
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers),
            (b"location", f"{inbound.root}/_streams/{head.id}".encode()),
            (b"idempotency-key", head.key.encode()),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        google = is_call and _dialect_of(log) == "gemini_generate"
        with nullcontext() if generation is None else generation.reading():
            await read_log(log, after, client, status, headers, google=google)

    async def _show(self, inbound: Inbound, client: Client, caller: str, name: str) -> None:
        log = self._find(caller, name)
        asked_for = _cursor_in(inbound)
        if asked_for or not inbound.accepts("application/json") or inbound.accepts("text/event-stream"):
            await self._tell(log, inbound, client, 200, is_call=False)
            return
        generation = self._by_log.get((caller, name))
        await client.answer(
            200,
            {
                "id": name,
                "state": log.state.value,
                "reason": log.reason,
                "events": log.last,
                "readers": 0 if generation is None else generation.readers,
                "created_at": log.head.created_at,
                "ended_at": log.ended_at,
                "expires_at": None if log.ended_at is None else log.ended_at + log.head.ttl,
                "dialect": _dialect_of(log),
                "partial": await asyncio.to_thread(_partial, log),
            },
        )

    async def _stop(self, client: Client, caller: str, name: str) -> None:
        self._find(caller, name)
        generation = self._by_log.get((caller, name))
        if generation is not None:
            await generation.stop(State.CANCELLED, "cancelled", "the answer was stopped, as its owner asked")
        await client.answer(204)

    def _find(self, caller: str, name: str) -> Log:
        try:
            return self._store.find(caller, name)
        except Expired:
            raise Refused(410, "expired", "the stream was kept long enough") from None
        except Missing:
            if (caller, name) in self._remembered:
                raise Refused(410, "expired", "the stream is not kept any more") from None
            raise Refused(404, "not_found", "there is no such stream") from None

    def _remember(self, log: tuple[str, str]) -> None:
        self._remembered[log] = None
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self._store.sweep(time.time())
            except LogError:
                _logger.exception("relay.sweep")


def _cursor_in(inbound: Inbound) -> str:
    """The cursor that a request names; the header's, for a reader that comes back to ``?after=`` has read on since."""
    found = _AFTER.search(inbound.query)
    return inbound.header(b"last-event-id") or (unquote(found[1].decode("latin-1")) if found else "")


def _after(log: Log, inbound: Inbound) -> int:
    cursor = _cursor_in(inbound)
    if not cursor:
        return 0
    try:
        return log.locate(Cursor.parse(cursor))
    except BadCursor as error:
        raise Refused(400, "bad_cursor", str(error)) from None
    except Ahead as error:  # 416 is what our own readers take for the end of all hope, as 404 and 410
        raise Refused(416, "no_such_event", str(error)) from None


def _dialect_of(log: Log) -> str:
    found = json.loads(log.upstream)["dialect"]
    assert isinstance(found, str)
    return found


def _partial(log: Log) -> Any:
    """The message so far, in the shape of the SDK's own."""
    transcript = Transcript(sys.maxsize, lambda: None)
    after = 0
    while (piece := log.read(after)).data:
        transcript.keep(piece.data, piece.last - after)
        after = piece.last
    return partial_of(named(_dialect_of(log)), transcript)


_REFUSALS: tuple[tuple[tuple[type[Exception], ...], int, str, str], ...] = (
    ((KeyReused,), 422, "key_reused", "this Idempotency-Key was used for another request"),
    ((StoreFull,), 503, "store_full", "the relay keeps as many streams as it may"),
    ((LogError,), 503, "store_failed", "the relay cannot keep the answer"),
    ((ConnectionAbortedError,), 503, "stopped", "the request was given up before it was answered"),
    ((asyncio.TimeoutError,), 504, "upstream_timeout", "the upstream did not answer in time"),
    (ERRORS, 502, "upstream_unreachable", "the upstream did not answer"),
)


def _refusal(failure: Exception | None) -> Refused:
    """What to answer where there is no answer."""
    for kinds, status, code, message in _REFUSALS:
        if isinstance(failure, kinds):
            return Refused(status, code, message)
    _logger.error("relay.bug", exc_info=failure)
    return Refused(500, "internal_error", "the relay failed; its log says why")
