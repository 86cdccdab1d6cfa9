"""The relay as an ASGI application: any path goes to the upstream, and an answer that is an event stream is kept.

    POST   /any/path                     passed on; an event stream gets ids, a Location and an Idempotency-Key
    PUT    /_streams/{uuid}/{any path}   the same as a resource: 201 the first time, 200 after
    GET    /_streams/{id}                the events behind Last-Event-ID or ?after=, then live; as JSON: its state
    GET    /_streams/{id}/ws             the same over WebSocket
    DELETE /_streams/{id}                stops the generation; forgets what has ended
    GET    /_health, /_ready, /metrics   for whoever runs it

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
from collections import OrderedDict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import aiohttp

from resumable_llm.core.actions import Send
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.partial import partial_of
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import named
from resumable_llm.log.errors import Ahead, BadCursor, Expired, KeyReused, LogError, Missing, StoreFull
from resumable_llm.log.model import Cursor, Head, Log, State, Store
from resumable_llm.log.scope import fingerprint_of, scope_of
from resumable_llm.relay.frames import error_object
from resumable_llm.relay.generation import STOPPED, Generation
from resumable_llm.relay.generations import UUID, Ask, Generations, Moved, ask_store
from resumable_llm.relay.messages import Client, Inbound, Pairs, Receive, Refused, Scope, downward
from resumable_llm.relay.messages import Send as SendMessage
from resumable_llm.relay.metrics import Metrics
from resumable_llm.relay.reader import STOPPED_ELSEWHERE, read_log
from resumable_llm.relay.settings import RelaySettings
from resumable_llm.relay.websocket import Socket
from resumable_llm.transports.aiohttp import ERRORS, AiohttpExchange, new_session, open_exchange

_logger = logging.getLogger("resumable_llm.relay")

_FOR_OPERATORS = (b"/_health", b"/_ready", b"/metrics")
_OURS = re.compile(rb"/_streams/([A-Za-z0-9_-]{1,64})(/.*)?")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_AFTER = re.compile(rb"(?:^|&)after=([^&]*)")
_NOT_STORED = (b"x-relay-store", b"none")
_BODILESS = (204, 304)
_SWEEP_SECONDS = 30.0
_MAX_REMEMBERED = 10_000

Telling = Coroutine[Any, Any, None]
"""Sends a log to whoever has asked for it."""


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
        self._remembered: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Logs that were here, so that one that has gone is told from one that never was."""
        self._reading: dict[Client, Log] = {}
        self._passing: dict[Client, asyncio.Task[Any]] = {}
        """Who is served what is not kept."""
        running: set[Generation] = set()
        self._metrics = Metrics(running, self._reading)
        self._generations = Generations(
            settings, store, open_=self._open, metrics=self._metrics, running=running, on_log=self._remember
        )

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        socket = Socket(scope, receive, send) if scope["type"] == "websocket" else None
        if socket is not None:
            receive, send = socket.receive, socket.send
        client = Client(receive, send, self._settings.send_seconds)
        try:
            telling = await (self._serve(scope, client) if socket is None else self._serve_socket(socket, client))
            if telling is not None:
                await telling
        except (Refused, LogError) as error:
            self._metrics.note_failure(error)
            refused = error if isinstance(error, Refused) else _refusal(error)
            self._metrics.note_refusal(refused.code)
            body = error_object("relay_refused", refused.code, str(refused))
            await client.answer(refused.status, body, refused.headers)
        # The server closes a connection whose answer was not finished.
        except TimeoutError:
            _logger.warning("relay.slow_reader")
        except Moved:
            _logger.info("relay.moved")
            if socket is not None:
                await client.write(b"", more=False)
        finally:
            client.close()

    @property
    def running(self) -> int:
        """How many answers are being generated."""
        return len(self._generations.running)

    async def drain(self) -> None:
        """Take no new requests, and let answers go on for as long as the settings say; then interrupt them.

        Whoever reads what another relay generates is sent away at once, to read on there.
        """
        generations = self._generations
        generations.closing = True
        for client, log in self._reading.items():
            if generations.is_elsewhere(log):
                client.leave()
        deadline = time.monotonic() + self._settings.shutdown_seconds
        await generations.drain()
        if self._passing:
            await asyncio.wait(self._passing.values(), timeout=max(deadline - time.monotonic(), 0.0))
        for client in list(self._passing):
            client.leave()

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
        try:
            await asyncio.to_thread(self._store.close)  # which may wait for a disk, or for another machine
        except LogError as error:
            self._metrics.note_failure(error)
            _logger.error("relay.not_kept error=%s", type(error).__name__)  # noqa: TRY400 - a trace says nothing more

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
        if self._session is None and not self._generations.closing:
            self._session = new_session(self._settings.upstream)
            self._sweeper = asyncio.create_task(self._sweep())

    # Where a log is the answer, `_serve` and what it calls hand back what is left to be awaited: to tell it. While it
    # is read, the frames that have found it are gone with all that they hold, which is a kilobyte of each reader.

    async def _serve(self, scope: Scope, client: Client) -> Telling | None:
        self._start()
        inbound = Inbound(scope)
        if inbound.path in _FOR_OPERATORS:
            await self._serve_operator(inbound, client)
            return None
        if not inbound.path.startswith(b"/_"):
            return await self._call(inbound, client, inbound.path)
        found = _OURS.fullmatch(inbound.path)
        if found is None:
            raise Refused(404, "not_found", "there is nothing here")
        name, rest = _name_in(found), found[2]
        if rest == b"/ws" and inbound.method == "GET":
            raise Refused(426, "upgrade_required", "this is for WebSocket", [(b"upgrade", b"websocket")])
        if rest is not None:
            if inbound.method != "PUT" or UUID.fullmatch(name) is None:
                raise Refused(405, "not_allowed", "PUT /_streams/{uuid}/{path} is all there is", [(b"allow", b"PUT")])
            return await self._call(inbound, client, rest, name)
        if inbound.method == "GET":
            return await self._show(inbound, client, self._scope_of(inbound), name)
        if inbound.method == "DELETE":
            await self._stop(client, self._scope_of(inbound), name)
            return None
        raise Refused(405, "not_allowed", "GET or DELETE", [(b"allow", b"GET, DELETE")])

    async def _serve_operator(self, inbound: Inbound, client: Client) -> None:
        if inbound.path == b"/_health":
            await client.answer(200, {"status": "ok"})
        elif inbound.path == b"/_ready":
            await client.answer(503 if self._generations.closing else 200, {"running": self.running})
        else:
            body, content_type = self._metrics.exposition(inbound.header(b"accept") or "")
            await client.start(200, [(b"content-type", content_type), (b"content-length", b"%d" % len(body))])
            await client.write(body, more=False)

    async def _serve_socket(self, socket: Socket, client: Client) -> Telling | None:
        self._start()
        await socket.open()
        inbound = Inbound(socket.request)
        found = _OURS.fullmatch(inbound.path)
        if found is None or found[2] != b"/ws":
            raise Refused(404, "not_found", "what speaks WebSocket is /_streams/{id}/ws")
        if socket.is_hijacked:
            raise Refused(403, "foreign_origin", "a page of another origin must offer its credential as a subprotocol")
        if self._metrics.sockets >= self._settings.max_sockets:
            raise Refused(503, "busy", "there are as many WebSockets as there may be", [(b"retry-after", b"5")])
        self._metrics.sockets += 1
        try:
            log = await self._find(self._scope_of(inbound), _name_in(found))
            socket.reads(log, _cursor_in(inbound))
            await self._tell(log, inbound, client, 200)
        finally:
            self._metrics.sockets -= 1
        return None

    # Requests for the upstream

    async def _call(self, inbound: Inbound, client: Client, path: bytes, name: str | None = None) -> Telling | None:
        settings = self._settings
        body = await client.body(settings.max_request_bytes, settings.request_seconds)
        method = inbound.method if name is None else "POST"
        query = b"?" + inbound.query if inbound.query else b""
        path = self._behind_upstream(inbound, path)
        plan = RequestPlan(method, f"{settings.upstream}{(path + query).decode('ascii')}", inbound.upward(), body)
        if inbound.forbids_store:
            if name is not None:
                raise Refused(400, "contradiction", "what must not be stored cannot be a resource")
            with self._passes(client):
                await self._pass(plan, client)
            return None
        key = name or inbound.header(b"idempotency-key")
        if key is not None and _KEY.fullmatch(key) is None:
            raise Refused(400, "bad_key", "an Idempotency-Key has 1 to 255 characters, ASCII without blanks")

        def whose() -> tuple[str, str]:
            return self._scope_of(inbound), fingerprint_of(self._secret, method, path, inbound.query, body)

        ask = Ask(plan, key, whose)
        if key is not None:
            known, telling = await self._join(ask, key, inbound, client)
            if known:
                return telling
        if inbound.header(b"last-event-id"):
            raise Refused(404, "not_found", "there is no stream here that this Last-Event-ID is of")
        generation = self._generations.begin(ask)
        with generation.reading():
            there = await client.wait_for(generation.begun)
        if generation.log is not None and there:
            return self._tell(generation.log, inbound, client, 200 if name is None else 201, plan)
        if not there:
            generation.disown()
        elif generation.response is not None:
            with self._passes(client):
                await self._forward(generation.response, client)
        else:
            raise _refusal(generation.failure)
        return None

    def _behind_upstream(self, inbound: Inbound, path: bytes) -> bytes:
        meant_for = inbound.header(b"relay-upstream")
        if meant_for is None:
            return path
        try:
            return self._settings.behind_upstream(meant_for, path.decode("ascii")).encode("ascii")
        except ValueError as error:
            raise Refused(421, "wrong_upstream", str(error)) from None

    async def _join(self, ask: Ask, key: str, inbound: Inbound, client: Client) -> tuple[bool, Telling | None]:
        """Whether a request has been made before, or is being made; if so it is served by what this hands back."""
        while True:
            log = await ask_store(self._store, self._store.by_key, ask.caller, key)
            asked = self._generations.asked(ask.caller, key)  # only now: somebody may have asked meanwhile
            known = log.head.fingerprint if log is not None else asked.fingerprint if asked is not None else None
            if known is None:
                return False, None
            if known != ask.fingerprint:
                raise _refusal(KeyReused())
            if log is not None:
                return True, self._tell(log, inbound, client, 200, ask.plan)
            assert asked is not None
            with asked.reading():
                if not await client.wait_for(asked.begun):
                    return True, None
            # Refused was somebody else's request, and theirs alone: then this one is made.
            self._generations.forget(asked, ask)

    @contextmanager
    def _passes(self, client: Client) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._passing[client] = task
        try:
            yield
        finally:
            del self._passing[client]

    async def _open(self, send: Send, *, decode: bool = True) -> AiohttpExchange:
        assert self._session is not None
        return await open_exchange(self._session, send, self._settings.policy.read_timeout, decode=decode)

    async def _pass(self, plan: RequestPlan, client: Client) -> None:
        """Pass a request on, and its answer back, keeping nothing."""
        self._generations.must_be_open()
        opening = asyncio.create_task(self._open(Send(plan), decode=False))
        client.watch(opening.cancel)
        await asyncio.wait({opening})
        if opening.cancelled():
            if client.left:
                raise _refusal(ConnectionAbortedError())
            return
        if isinstance(failure := opening.exception(), Exception):
            raise _refusal(failure)
        exchange = opening.result()
        await self._forward(exchange, client, [_NOT_STORED])

    async def _forward(self, exchange: AiohttpExchange, client: Client, added: Pairs = ()) -> None:
        """Hand on a response as it comes, until its end or until the caller goes."""
        client.watch(exchange.close)
        # These have no body whatever their head says, and a server wants as many bytes as that says.
        changed = exchange.decoded or exchange.status in _BODILESS
        try:
            await client.start(exchange.status, [*downward(exchange.pairs, decoded=changed), *added])
            async for chunk in exchange.body:
                await client.write(chunk)
            await client.write(b"", more=False)
        except ERRORS as error:
            if not client.gone:  # the answer stays unfinished, so the server closes the connection, as this one was
                _logger.warning("relay.broken error=%s", type(error).__name__)
        finally:
            exchange.close()

    # What is kept

    async def _tell(
        self, log: Log, inbound: Inbound, client: Client, status: int, again: RequestPlan | None = None
    ) -> None:
        """Send a log from where the caller wants it.

        Args:
            log: The log.
            inbound: The caller's request.
            client: The caller.
            status: Of the response.
            again: The request for the upstream, where the caller asks for the answer by making it.
        """
        is_call = again is not None
        head = log.head
        after = _after(log, inbound)
        if after and not is_call and after == log.last and log.state not in (State.RUNNING, State.INTERRUPTED):
            await client.answer(204)
            return
        generation = self._generations.of(log)
        if self._generations.is_elsewhere(log):
            self._generations.must_be_open()
        if generation is not None and generation.readers >= self._settings.max_readers:
            raise Refused(429, "too_many_readers", "the stream has as many readers as it may", [(b"retry-after", b"5")])
        google = (is_call or b"ids=none" in inbound.query) and _is_google(log)
        of = [] if generation is None else [generation]

        async def go_on() -> bool:
            goes_on = await self._generations.go_on(log, inbound, again)
            revived = self._generations.of(log)
            if revived is not None:
                revived.add_reader()
                of.append(revived)
            return goes_on

        for each in of:
            each.add_reader()
        self._reading[client] = log
        try:
            await read_log(log, after, client, status, _headers_of(head, inbound.root), google=google, go_on=go_on)
        finally:
            del self._reading[client]
            for each in of:
                each.remove_reader()
        if client.left:
            raise Moved

    async def _show(self, inbound: Inbound, client: Client, caller: str, name: str) -> Telling | None:
        log = await self._find(caller, name)
        asked_for = _cursor_in(inbound)
        if asked_for or not inbound.accepts("application/json") or inbound.accepts("text/event-stream"):
            return self._tell(log, inbound, client, 200)
        generation = self._generations.of(log)
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
        return None

    async def _stop(self, client: Client, caller: str, name: str) -> None:
        log = await self._find(caller, name)
        generation = self._generations.of(log)
        if generation is not None:
            await generation.stop(State.CANCELLED, "cancelled", STOPPED)
        elif log.state is State.RUNNING:  # another relay generates it, and will notice
            await ask_store(self._store, log.end, State.CANCELLED, STOPPED_ELSEWHERE)
        else:
            with suppress(Missing):  # somebody else was faster
                await ask_store(self._store, self._store.delete, caller, name)
        await client.answer(204)

    def _scope_of(self, inbound: Inbound) -> str:
        return scope_of(self._secret, inbound.headers, inbound.query)

    async def _find(self, caller: str, name: str) -> Log:
        try:
            return await ask_store(self._store, self._store.find, caller, name)
        except Expired:
            raise Refused(410, "expired", "the stream was kept long enough") from None
        except Missing:
            if (caller, name) in self._remembered:
                raise Refused(410, "expired", "the stream is not kept any more") from None
            raise Refused(404, "not_found", "there is no such stream") from None

    def _remember(self, log: Log) -> None:
        self._remembered[log.head.scope, log.head.id] = None
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await ask_store(self._store, self._store.sweep, time.time())
            except LogError as error:
                self._metrics.note_failure(error)
                _logger.exception("relay.sweep")


def _name_in(found: re.Match[bytes]) -> str:
    """The stream that a path names; a UUID is the same in either case, and some write it in capitals."""
    name = found[1].decode()
    return name.lower() if UUID.fullmatch(name) else name


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


def _headers_of(head: Head, root: str) -> Pairs:
    return [
        *[(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers],
        (b"location", f"{root}/_streams/{head.id}".encode()),
        (b"idempotency-key", head.key.encode()),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]


def _is_google(log: Log) -> bool:
    return "gemini_generate" in log.head.upstream and _dialect_of(log) == "gemini_generate"


def _dialect_of(log: Log) -> str:
    found = json.loads(log.head.upstream)["dialect"]
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
            return Refused(status, code, message, [(b"retry-after", b"5")] if status == 503 else ())
    _logger.error("relay.bug", exc_info=failure)
    return Refused(500, "internal_error", "the relay failed; its log says why")
