"""`connect_sse`, `resume_sse` and their twins: event streams for people who hold an HTTP client themselves.

httpx-sse's signatures and event type first. Knows HTTP families through `families` only; parses and retries nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from httpx_sse import ServerSentEvent, SSEError
from typing_extensions import Self

from resumable_llm.core.actions import Send
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.errors import UpgradeRefused, UpstreamFailed, as_family
from resumable_llm.core.events import BOM, Fields
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Fallback, Report, RequestPlan, to_header
from resumable_llm.core.states import State
from resumable_llm.dialects import ANY_EVENT_STREAM, LastEventId, named, recognise
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.exchange import AsyncExchange, Exchange, OnEvent
from resumable_llm.drivers.handle import AsyncSource, Source
from resumable_llm.drivers.sync_driver import SyncDriver
from resumable_llm.families import Family, family_of
from resumable_llm.policy import RetryPolicy, policy_or_default
from resumable_llm.transports.call import (
    BYPASS,
    Call,
    converse,
    end_generator,
    limits_of,
    new_key,
    passed_headers,
    plan_of,
    ways_of,
)
from resumable_llm.transports.journal import AsyncJournal, Journal
from resumable_llm.transports.shelf import AnyJournal, Entry, Kept

Terminal = str | Callable[[Fields], bool]

Converse = Callable[..., Conversation]
"""Makes the conversation about a call: from its start, or from a ``checkpoint`` with the ``past`` up to there."""


class _Asked(NamedTuple):
    """What a stream is made of."""

    client: Any
    request: Any
    """As the caller made it."""
    converse: Converse
    policy: RetryPolicy
    on_event: OnEvent | None
    journal: AnyJournal = None
    call: Call | None = None
    """What the journal finds it by."""


class _Stream:
    """What the two streams have in common: everything but I/O."""

    _entry: Entry | None

    def __init__(self, asked: _Asked) -> None:
        self.response: Any = None
        self._client = asked.client
        self._family = _family(asked.client)
        self._first = asked.request
        self._converse = asked.converse
        self._policy = asked.policy
        self._on_event = asked.on_event
        self._conversation = asked.converse()
        self._conversation.pass_ids()
        self._last_event_id = self._conversation.last_event_id

    @property
    def checkpoint(self) -> Checkpoint:
        """The place behind the last event that iteration gave out; with a journal, where that stands."""
        return self._conversation.checkpoint

    @property
    def report(self) -> Report:
        """What it took so far."""
        return self._conversation.report

    def _request(self, send: Send) -> Any:
        request = self._family.transports.outgoing(send, self._first, self._policy)
        request.extensions = {**request.extensions, BYPASS: True}
        return request

    def _follow_redirects(self) -> dict[str, bool]:
        # Until the answer has begun that is the client's affair; then ours, who must not leave the origin.
        return {"follow_redirects": False} if self._conversation.answered else {}

    def _find_again(self, kept: Kept) -> None:
        self._conversation = self._converse(checkpoint=kept.start, past=kept.past)
        self._conversation.pass_ids()
        library = self._family.http
        self.response = library.Response(kept.log.head.status, headers=kept.headers, request=self._first)

    def _blocks(self, data: bytes) -> Sequence[bytes]:
        if self._entry is None:
            return (data,)  # the conversation gives them out one by one
        return self._conversation.dialect.framing.splitter(sys.maxsize).feed(data)

    def _event(self, block: bytes) -> ServerSentEvent | None:
        event, data, name, retry = self._conversation.dialect.framing.parse(block.removeprefix(BOM))
        if name is not None:
            self._last_event_id = name
        return None if data is None else ServerSentEvent(event, data, self._last_event_id, retry)

    def _check_end(self) -> None:
        talk = self._conversation
        if talk.upstream_error is not None and talk.state is State.ENDED:
            error = UpstreamFailed(
                f"the server reported in the stream that the answer failed: {talk.upstream_error}",
                partial_text=talk.partial_text(),
                partial=talk.partial(),
                checkpoint=talk.checkpoint,
                report=talk.report,
            )
            raise as_family(error, self._family.transports.FAMILY_ERROR)

    def _refuse(self, response: Any) -> NoReturn:
        response.raise_for_status()
        kind = response.headers.get("content-type", "no content type")
        raise SSEError(
            f"expected an answer of type text/event-stream, but it has {kind} (status {response.status_code})"
        )

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


class ResumableStream(_Stream):
    """An event stream over any number of connections; a context manager and an iterator of events.

    Attributes:
        response: The response that streams first, or the one that refuses to.
    """

    def __init__(self, asked: _Asked) -> None:
        super().__init__(asked)
        self._journal = Journal(asked.journal, self._family.transports.FAMILY_ERROR, asked.on_event)
        self._entry = _entry(asked, self._journal)
        self._exchange: Callable[[Any], Exchange] = self._family.transports.exchange
        self._driver = self._drive()
        self._source: Source = self._driver
        self._slices = self._driver.slices()
        self._events = self._iterate()
        self._texts = self._iterate_texts()

    def __enter__(self) -> Self:
        try:
            kept = self._journal.find(self._entry)
            self._source = self._begin() if kept is None else self._again(kept)
        except BaseException:
            self._driver.close()
            raise
        self._conversation, self._slices = self._source.conversation, self._source.slices()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[ServerSentEvent]:
        return self._events

    def iter_sse(self) -> Iterator[ServerSentEvent]:
        """The events; the name that httpx-sse gives it."""
        return self._events

    def text_deltas(self) -> Iterator[str]:
        """The text of the answer, piece by piece; the data of each event, where the dialect knows no text."""
        return self._texts

    def _iterate_texts(self) -> Iterator[str]:
        for event in self._events:
            text = self._conversation.dialect.text(Fields(event.event, event.data, None, None))
            if text:
                yield text

    def close(self) -> None:
        """Let go of the connection. A server that keeps the answer goes on with it, and `checkpoint` leads back."""
        self._source.abandon()

    def cancel(self) -> None:
        """Tell the server to stop generating, in its dialect's way, and close."""
        self._source.cancel()

    def _iterate(self) -> Iterator[ServerSentEvent]:
        for data in self._slices:
            for block in self._blocks(data):
                event = self._event(block)
                if event is not None:
                    yield event
        self._check_end()

    def _drive(self) -> SyncDriver:
        ours = self._family.transports
        return SyncDriver(self._conversation, self._open, ours.ERRORS, ours.FAMILY_ERROR, on_event=self._on_event)

    def _begin(self) -> Source:
        begun = self._driver.begin()
        if not begun:
            self.response.read()
            self._refuse(self.response)
        if self._entry is None:
            return self._driver
        headers = passed_headers(self.response, self._conversation.dialect)
        return self._journal.record(self._entry, self._driver, self.response.status_code, headers)

    def _again(self, kept: Kept) -> Source:
        """The answer that the journal has, and then the rest of it."""
        self._find_again(kept)
        self._driver = self._drive()
        return self._journal.go_on(kept, self._driver)

    def _open(self, send: Send) -> Exchange:
        beginning = not self._conversation.answered
        response = self._client.send(self._request(send), stream=True, **self._follow_redirects())
        if beginning:
            self.response = response
        return self._exchange(response)


class AsyncResumableStream(_Stream):
    """The same for asynchronous clients, on asyncio or trio; see `ResumableStream`."""

    def __init__(self, asked: _Asked) -> None:
        super().__init__(asked)
        self._journal = AsyncJournal(asked.journal, self._family.transports.FAMILY_ERROR, asked.on_event)
        self._entry = _entry(asked, self._journal)
        self._exchange: Callable[[Any], AsyncExchange] = self._family.transports.async_exchange
        self._driver = self._drive()
        self._source: AsyncSource = self._driver
        self._slices = self._driver.slices()
        self._events = self._iterate()
        self._texts = self._iterate_texts()

    async def __aenter__(self) -> Self:
        try:
            kept = await self._journal.find(self._entry)
            self._source = await self._begin() if kept is None else await self._again(kept)
        except BaseException:
            await self._driver.aclose()
            raise
        self._conversation, self._slices = self._source.conversation, self._source.slices()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        return self._events

    def aiter_sse(self) -> AsyncIterator[ServerSentEvent]:
        """The events; the name that httpx-sse gives it."""
        return self._events

    def text_deltas(self) -> AsyncIterator[str]:
        """The text of the answer, piece by piece; the data of each event, where the dialect knows no text."""
        return self._texts

    async def _iterate_texts(self) -> AsyncIterator[str]:
        async for event in self._events:
            text = self._conversation.dialect.text(Fields(event.event, event.data, None, None))
            if text:
                yield text

    async def aclose(self) -> None:
        """Let go of the connection. A server that keeps the answer goes on with it, and `checkpoint` leads back."""
        await self._source.abandon()
        await end_generator(self._texts)
        await end_generator(self._events)
        await end_generator(self._slices)

    async def cancel(self) -> None:
        """Tell the server to stop generating, in its dialect's way, and close."""
        await self._source.cancel()

    async def _iterate(self) -> AsyncIterator[ServerSentEvent]:
        async for data in self._slices:
            for block in self._blocks(data):
                event = self._event(block)
                if event is not None:
                    yield event
        self._check_end()

    def _drive(self) -> AsyncDriver:
        ours = self._family.transports
        return AsyncDriver(self._conversation, self._open, ours.ERRORS, ours.FAMILY_ERROR, on_event=self._on_event)

    async def _begin(self) -> AsyncSource:
        begun = await self._driver.begin()
        if not begun:
            await self.response.aread()
            self._refuse(self.response)
        if self._entry is None:
            return self._driver
        headers = passed_headers(self.response, self._conversation.dialect)
        return await self._journal.record(self._entry, self._driver, self.response.status_code, headers)

    async def _again(self, kept: Kept) -> AsyncSource:
        """The answer that the journal has, and then the rest of it."""
        self._find_again(kept)
        self._driver = self._drive()
        return await self._journal.go_on(kept, self._driver)

    async def _open(self, send: Send) -> AsyncExchange:
        beginning = not self._conversation.answered
        response = await self._client.send(self._request(send), stream=True, **self._follow_redirects())
        if beginning:
            self.response = response
        return self._exchange(response)


def connect_sse(
    client: Any,
    method: str,
    url: Any,
    *,
    dialect: Dialect | None = None,
    policy: RetryPolicy | None = None,
    fallback: Fallback | Sequence[Fallback] | None = None,
    can_continue: bool | None = None,
    upgrade: bool = False,
    idempotency_key: str | None = None,
    last_event_id: str | None = None,
    terminal: Terminal | None = None,
    journal: AnyJournal = None,
    on_event: OnEvent | None = None,
    **request: Any,
) -> ResumableStream:
    """Open an event stream that survives dropped connections.

    Args:
        client: An ``httpx.Client`` or ``httpx2.Client``.
        method: HTTP method.
        url: URL, absolute or relative to the client's base URL.
        dialect: The wire protocol; default: recognised by the request.
        policy: When to try again, and how long to wait for what; default: `RetryPolicy()`.
        fallback: What to do when the answer breaks off and the server did not keep it: ``"replay"``, ``"continue"``,
            or a tuple of both, in order; see `wrap`.
        can_continue: For ``"continue"``: whether the model goes on from a partial answer; None: go by a table.
        upgrade: Make the request resumable before it is sent, where its protocol knows how; the table of dialects
            says what is added and what it costs.
        idempotency_key: Names the call, so that a repeat of its request is no second one; default: a new one for each
            POST.
        last_event_id: Begin behind this event.
        terminal: For servers whose protocol is not known: the event that ends an answer, by its name, by its whole
            data, or by a function of its fields. With it, an end without that event is a drop.
        journal: A path, or a store of `resumable_llm.log`, where the answer is kept on this side. The same call again,
            with the same ``idempotency_key``, in this process or another, gives what was received, and then the rest.
        on_event: Called with a `Notice` when something happens to the stream.
        **request: What ``client.build_request`` takes: json, headers, content, params, timeout, …

    Returns:
        A context manager, which is also the iterator of events.

    Raises:
        ValueError: ``fallback`` names no way that there is.
        TypeError: The client is asynchronous, or no client of httpx or httpx2; or another argument is not what it must
            be; or there is a journal, and nothing by which the call would be found there again.
        LogError: The journal cannot be opened, or another process has it open; of `resumable_llm.log`.
        UpgradeRefused: The request cannot be upgraded: it asks for the opposite, or its protocol has nothing to add.
        ResumableError: On entering or iterating: the answer cannot be had, or not to its end. Also a
            ``TransportError`` of the family.
        HTTPStatusError: On entering: the server refused. Of the family.
        SSEError: On entering: the answer is no event stream.
    """
    _check_colour(client, sync=True)
    policy = policy_or_default(policy)
    first = client.build_request(method, url, **request)
    call = _call(
        first,
        dialect=dialect,
        upgrade=upgrade,
        key=idempotency_key,
        last_event_id=last_event_id,
        terminal=terminal,
    )
    begin = partial(converse, call, policy, ways_of(fallback), can_continue, one_by_one=True)
    return ResumableStream(_Asked(client, first, begin, policy, on_event, journal, call))


def aconnect_sse(
    client: Any,
    method: str,
    url: Any,
    *,
    dialect: Dialect | None = None,
    policy: RetryPolicy | None = None,
    fallback: Fallback | Sequence[Fallback] | None = None,
    can_continue: bool | None = None,
    upgrade: bool = False,
    idempotency_key: str | None = None,
    last_event_id: str | None = None,
    terminal: Terminal | None = None,
    journal: AnyJournal = None,
    on_event: OnEvent | None = None,
    **request: Any,
) -> AsyncResumableStream:
    """The same for asynchronous clients; see `connect_sse`."""
    _check_colour(client, sync=False)
    policy = policy_or_default(policy)
    first = client.build_request(method, url, **request)
    call = _call(
        first,
        dialect=dialect,
        upgrade=upgrade,
        key=idempotency_key,
        last_event_id=last_event_id,
        terminal=terminal,
    )
    begin = partial(converse, call, policy, ways_of(fallback), can_continue, one_by_one=True)
    return AsyncResumableStream(_Asked(client, first, begin, policy, on_event, journal, call))


def resume_sse(
    client: Any,
    checkpoint: Checkpoint,
    *,
    dialect: Dialect | None = None,
    policy: RetryPolicy | None = None,
    terminal: Terminal | None = None,
    on_event: OnEvent | None = None,
    **request: Any,
) -> ResumableStream:
    """Go on with an answer from a checkpoint, in this process or another, today or as long as the server keeps it.

    Args:
        client: An ``httpx.Client`` or ``httpx2.Client``.
        checkpoint: From ``stream.checkpoint``, ``inspect(…).checkpoint`` or an error.
        dialect: As given to `connect_sse`, where it is none of ours.
        policy: When to try again; default: `RetryPolicy()`.
        terminal: As given to `connect_sse`.
        on_event: Called with a `Notice` when something happens to the stream.
        **request: What ``client.build_request`` takes. Credentials, as ``headers=`` or ``params=``, for a checkpoint
            holds none; the other fields of its query stay as they are, unless they are among yours. The body too, as
            ``json=`` or ``content=``, if the stream came from a POST that has no other way back than to be sent again
            with Last-Event-ID.

    Returns:
        As `connect_sse`: the events behind the checkpoint.

    Raises:
        TypeError: As `connect_sse`.
        ValueError: The checkpoint's dialect is not known here.
        ResumableError: On entering or iterating, as `connect_sse`.
    """
    _check_colour(client, sync=True)
    policy = policy_or_default(policy)
    first = _request_again(client, checkpoint, **request)
    begin = partial(_go_on, first, checkpoint, dialect, policy, terminal)
    return ResumableStream(_Asked(client, first, begin, policy, on_event))


def aresume_sse(
    client: Any,
    checkpoint: Checkpoint,
    *,
    dialect: Dialect | None = None,
    policy: RetryPolicy | None = None,
    terminal: Terminal | None = None,
    on_event: OnEvent | None = None,
    **request: Any,
) -> AsyncResumableStream:
    """The same for asynchronous clients; see `resume_sse`."""
    _check_colour(client, sync=False)
    policy = policy_or_default(policy)
    first = _request_again(client, checkpoint, **request)
    begin = partial(_go_on, first, checkpoint, dialect, policy, terminal)
    return AsyncResumableStream(_Asked(client, first, begin, policy, on_event))


def _family(client: Any) -> Family:
    family = family_of(client)
    if family is None:
        kind = type(client)
        raise TypeError(f"expected a client of httpx or httpx2, not {kind.__module__}.{kind.__qualname__}")
    return family


def _check_colour(client: Any, *, sync: bool) -> None:
    if _family(client).is_sync_client(client) is not sync:
        other = "aconnect_sse and aresume_sse" if sync else "connect_sse and resume_sse"
        raise TypeError(f"this is {'an asynchronous' if sync else 'a blocking'} client: use {other}")


def _call(
    request: Any,
    *,
    dialect: Dialect | None,
    upgrade: bool,
    key: str | None,
    last_event_id: str | None,
    terminal: Terminal | None,
) -> Call:
    plan = plan_of(request)
    accepts_anything = plan.header("accept") in (None, "*/*")
    if accepts_anything:
        plan = plan.with_headers(("Accept", "text/event-stream"))
    dialect = _dialect(dialect, terminal) or recognise(plan) or ANY_EVENT_STREAM
    if accepts_anything:
        plan = plan.with_headers(("Accept", dialect.framing.media_types[0]))
    if upgrade:
        if not dialect.facts.upgrade:
            raise UpgradeRefused(f"{dialect.name} has nothing that would make this request resumable: {dialect.keeps}")
        plan = dialect.upgrade(plan)
    if key is not None:
        plan = plan.with_headers(("Idempotency-Key", to_header(key)))
    if last_event_id:
        plan = plan.with_headers(("Last-Event-ID", to_header(last_event_id)))
    named_by_caller = plan.header("idempotency-key") is not None
    plan = dialect.prepare(plan, key or new_key())
    key = plan.header("idempotency-key")
    return Call(plan, dialect, key, "" if named_by_caller else f"{key}")


def _signed(client: Any, request: Any) -> Any:
    """The request with the credentials that a client adds as it sends it: an answer is found with the same ones.

    Raises:
        TypeError: They cannot be known before.
    """
    library = _family(client).http
    url, auth = request.url, client.auth
    if auth is None and not url.userinfo:
        return request
    auth = auth or library.BasicAuth(url.username, url.password)
    signed = library.Request(request.method, url, headers=request.headers, content=plan_of(request).body)
    flow = auth.sync_auth_flow(signed)
    first = next(flow)
    flow.close()
    if first is not signed or signed.headers == request.headers:
        raise TypeError(
            f"with a journal, credentials must be in the first request, for they say whose the answer is; those of "
            f"{type(auth).__name__} are not: give them as headers"
        )
    return signed


def _entry(asked: _Asked, journal: Journal | AsyncJournal) -> Entry | None:
    """What the answer is found by, if there is a journal to keep it."""
    if asked.journal is None:
        return None
    entry = journal.entry(asked.call, _signed(asked.client, asked.request))
    if entry is None:
        raise TypeError(
            "with a journal, give an idempotency_key, by which the answer is found again, and a body that is at hand, "
            "not one that streams from somewhere"
        )
    return entry


def _request_again(client: Any, checkpoint: Checkpoint, *, params: Any = None, **request: Any) -> Any:
    query = urlsplit(checkpoint.url).query
    if query and (params or client.params):  # which would take the place of the whole query
        params = _family(client).http.QueryParams(query).merge(params)
    return client.build_request(checkpoint.method, checkpoint.url, params=params, **request)


def _go_on(
    request: Any, checkpoint: Checkpoint, dialect: Dialect | None, policy: RetryPolicy, terminal: Terminal | None
) -> Conversation:
    dialect = _dialect(dialect, terminal) or named(checkpoint.dialect)
    plan = plan_of(request).with_headers(("Accept", dialect.framing.media_types[0]))
    if checkpoint.method != "GET" and not plan.body:
        plan = RequestPlan(plan.method, plan.url, plan.headers, None)
    if checkpoint.idempotency_key is not None:
        plan = plan.with_headers(("Idempotency-Key", checkpoint.idempotency_key))
    return Conversation(
        dialect.prepare(plan, checkpoint.idempotency_key or ""),
        dialect,
        policy.backoff,
        limits_of(policy),
        key=checkpoint.idempotency_key,
        checkpoint=checkpoint,
        one_by_one=True,
    )


def _dialect(dialect: Dialect | None, terminal: Terminal | None) -> Dialect | None:
    if dialect is not None and terminal is not None:
        raise TypeError("give a dialect or a terminal event, not both: a dialect knows its terminal event")
    if isinstance(dialect, type) or not (dialect is None or hasattr(dialect, "recognises")):
        raise TypeError(
            f"dialect must be an instance of a class that implements rl.Dialect, not {dialect!r}; those of "
            "resumable-llm are recognised by the request, so that they need not be named"
        )
    return dialect if terminal is None else LastEventId(terminal)
