"""Transports for httpx.

The file for httpx2 differs in the import alone; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any

import httpx as http
from typing_extensions import Self

from resumable_llm.core.actions import Send
from resumable_llm.core.fallback import Habits
from resumable_llm.core.model import Checkpoint, Fallback, Past
from resumable_llm.dialects import ANY_EVENT_STREAM
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.exchange import AsyncExchange, Exchange, OnEvent
from resumable_llm.drivers.handle import AsyncHandle, AsyncSource, Handle, Source
from resumable_llm.drivers.sync_driver import SyncDriver
from resumable_llm.policy import RetryPolicy, policy_or_default
from resumable_llm.transports import call as calls
from resumable_llm.transports import relayed
from resumable_llm.transports.journal import AsyncJournal, Journal
from resumable_llm.transports.shelf import AnyJournal, Kept, Pairs

ERRORS = (http.TimeoutException, http.NetworkError, http.RemoteProtocolError, http.ProxyError, http.DecodingError)
"""What another attempt may mend. A URL or a request that is wrong in itself is not among them."""

FAMILY_ERROR = http.RemoteProtocolError

NOT_CONNECTED = (http.ConnectError, http.ConnectTimeout)


class ResumableTransport(http.BaseTransport):
    """Makes the event streams of any transport survive dropped connections.

    Requests that ask for no stream, and answers that are none, pass untouched, and so do errors before an answer
    begins. An answer that cannot be completed raises a `ResumableError` that is a ``RemoteProtocolError`` too.

    Args:
        transport: The transport to put this around; default: a new ``HTTPTransport``.
        policy: When to try again; default: `RetryPolicy()`.
        fallback: What to do where the server kept nothing: ``"replay"``, ``"continue"``, or both in order; see `wrap`.
        can_continue: Whether models go on from a partial answer; see `wrap`.
        upgrade: Make requests resumable before they are sent, where their protocol knows how; see `wrap`.
        relay: Where calls for streams are sent in place of their provider; see `wrap`.
        journal: Where answers are kept on this side, as a path or a store; see `wrap`.
        on_event: Called with a `Notice` when something happens to a stream.
    """

    def __init__(
        self,
        transport: http.BaseTransport | None = None,
        *,
        policy: RetryPolicy | None = None,
        fallback: Fallback | Sequence[Fallback] | None = None,
        can_continue: bool | None = None,
        upgrade: bool = False,
        relay: str | None = None,
        journal: AnyJournal = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.wrapped = transport or http.HTTPTransport()
        self.towards_relay = self.wrapped  # `wrap` may know a better one: without the provider's proxy
        self._policy = policy_or_default(policy)
        self._on_event = on_event
        self._fallback, self._can_continue = calls.ways_of(fallback), can_continue
        self._habits: Habits = {}
        self.owner: calls.Owner | None = None  # `wrap` says who else uses the transport within
        self._calls = calls.Calls(upgrade=upgrade)
        self._way = relayed.Way(relay, NOT_CONNECTED)
        self._journal = Journal(journal, FAMILY_ERROR, on_event)

    def handle_request(self, request: http.Request) -> http.Response:
        """Send a request; watch over its answer if it is an event stream."""
        if request.extensions.get(calls.BYPASS):
            self._way.allow_direct(str(request.url))
            return self.wrapped.handle_request(request)
        call = self._calls.prepare(request)
        entry = self._journal.entry(call, request)
        if call is not None:
            kept = self._journal.find(entry)
            if kept is not None:
                return self._again(call, request, kept)
            begun = False
            try:
                call = self._way.take(call)
                driver = self._watch(call, request)
                response = self._send(call, driver.first(), request)
                begun = calls.is_answer(response, call)
            finally:
                if not begun:
                    self._calls.refused(call)
            if not begun:
                return response
        else:
            response = self.wrapped.handle_request(request)
            if not calls.is_stream(response):
                return response
            driver = self._watch(calls.Call(calls.plan_of(request), ANY_EVENT_STREAM, None), request)
            driver.first()
        driver.adopt(exchange(response))
        headers = calls.passed_headers(response, driver.conversation.dialect)
        source = self._journal.record(entry, driver, response.status_code, headers)
        return _response(response.status_code, headers, source, response.extensions)

    def __enter__(self) -> Self:
        self.wrapped.__enter__()
        return self

    def close(self) -> None:
        """Close the transport within, unless somebody else uses it."""
        if self.owner is None or self.owner.is_alone():
            self.wrapped.close()

    def _again(self, call: calls.Call, request: http.Request, kept: Kept) -> http.Response:
        """The answer that the journal has, and then the rest of it."""
        if kept.may_go_on:
            call = self._way.take(call)
        source = self._journal.go_on(kept, self._watch(call, request, kept.start, kept.past))
        return _response(kept.log.head.status, kept.headers, source, {})

    def _watch(
        self, call: calls.Call, request: http.Request, checkpoint: Checkpoint | None = None, past: Past | None = None
    ) -> SyncDriver:
        def opener(send: Send) -> Exchange:
            self._way.check(call)
            return exchange(self._send(call, send, request))

        talk = calls.converse(
            call, self._policy, self._fallback, self._can_continue, self._habits, checkpoint=checkpoint, past=past
        )
        return SyncDriver(talk, opener, ERRORS, FAMILY_ERROR, on_event=self._on_event)

    def _send(self, call: calls.Call, send: Send, request: http.Request) -> http.Response:
        with self._way.sending(call):
            transport = self.towards_relay if call.upstream else self.wrapped
            return transport.handle_request(outgoing(send, request, self._policy))


def outgoing(send: Send, first: http.Request, policy: RetryPolicy) -> http.Request:
    """The request that a conversation wants to be sent.

    Args:
        send: What it wants.
        first: The request that the caller made: its extensions, and its body if that streams from somewhere.
        policy: Bounds the read timeout.
    """
    plan = send.plan
    return http.Request(
        plan.method,
        plan.url,
        headers=calls.raw_headers(plan),
        stream=first.stream if plan.body is None else http.ByteStream(plan.body),
        extensions=calls.with_timeout(first.extensions, policy, send),
    )


def _response(status: int, headers: Pairs, source: Source, extensions: dict[str, Any]) -> http.Response:
    """The response whose body is what a source gives."""
    told = {**extensions, calls.HANDLE: Handle(source)}
    return http.Response(status, headers=list(headers), stream=_Body(source), extensions=told)


class _Body(http.SyncByteStream):
    def __init__(self, source: Source) -> None:
        self._source = source
        self._slices = source.slices()

    def __iter__(self) -> Iterator[bytes]:
        return self._slices  # always the same: a second iteration goes on where the first stopped

    def close(self) -> None:
        self._source.abandon()


def exchange(response: http.Response) -> Exchange:
    """A response as the driver needs it."""
    assert isinstance(response.stream, http.SyncByteStream)
    body = response.iter_bytes() if calls.is_encoded(response) else iter(response.stream)
    headers = calls.headers_of(response)
    return Exchange(response.status_code, headers, body, response.stream.close, calls.socket_of(response))


class AsyncResumableTransport(http.AsyncBaseTransport):
    """The same for asynchronous clients, on asyncio or trio; see `ResumableTransport`."""

    def __init__(
        self,
        transport: http.AsyncBaseTransport | None = None,
        *,
        policy: RetryPolicy | None = None,
        fallback: Fallback | Sequence[Fallback] | None = None,
        can_continue: bool | None = None,
        upgrade: bool = False,
        relay: str | None = None,
        journal: AnyJournal = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.wrapped = transport or http.AsyncHTTPTransport()
        self.towards_relay = self.wrapped  # `wrap` may know a better one: without the provider's proxy
        self._policy = policy_or_default(policy)
        self._on_event = on_event
        self._fallback, self._can_continue = calls.ways_of(fallback), can_continue
        self._habits: Habits = {}
        self.owner: calls.Owner | None = None  # `wrap` says who else uses the transport within
        self._calls = calls.Calls(upgrade=upgrade)
        self._way = relayed.AsyncWay(relay, NOT_CONNECTED)
        self._journal = AsyncJournal(journal, FAMILY_ERROR, on_event)

    async def handle_async_request(self, request: http.Request) -> http.Response:
        """Send a request; watch over its answer if it is an event stream."""
        if request.extensions.get(calls.BYPASS):
            self._way.allow_direct(str(request.url))
            return await self.wrapped.handle_async_request(request)
        call = self._calls.prepare(request)
        entry = self._journal.entry(call, request)
        if call is not None:
            kept = await self._journal.find(entry)
            if kept is not None:
                return await self._again(call, request, kept)
            begun = False
            try:
                call = await self._way.take(call)
                driver = self._watch(call, request)
                response = await self._send(call, driver.first(), request)
                begun = calls.is_answer(response, call)
            finally:
                if not begun:
                    self._calls.refused(call)
            if not begun:
                return response
        else:
            response = await self.wrapped.handle_async_request(request)
            if not calls.is_stream(response):
                return response
            driver = self._watch(calls.Call(calls.plan_of(request), ANY_EVENT_STREAM, None), request)
            driver.first()
        driver.adopt(async_exchange(response))
        headers = calls.passed_headers(response, driver.conversation.dialect)
        source = await self._journal.record(entry, driver, response.status_code, headers)
        return _async_response(response.status_code, headers, source, response.extensions)

    async def __aenter__(self) -> Self:
        await self.wrapped.__aenter__()
        return self

    async def aclose(self) -> None:
        """Close the transport within, unless somebody else uses it."""
        if self.owner is None or self.owner.is_alone():
            await self.wrapped.aclose()

    async def _again(self, call: calls.Call, request: http.Request, kept: Kept) -> http.Response:
        """The answer that the journal has, and then the rest of it."""
        if kept.may_go_on:
            call = await self._way.take(call)
        source = await self._journal.go_on(kept, self._watch(call, request, kept.start, kept.past))
        return _async_response(kept.log.head.status, kept.headers, source, {})

    def _watch(
        self, call: calls.Call, request: http.Request, checkpoint: Checkpoint | None = None, past: Past | None = None
    ) -> AsyncDriver:
        async def opener(send: Send) -> AsyncExchange:
            await self._way.check(call)
            return async_exchange(await self._send(call, send, request))

        talk = calls.converse(
            call, self._policy, self._fallback, self._can_continue, self._habits, checkpoint=checkpoint, past=past
        )
        return AsyncDriver(talk, opener, ERRORS, FAMILY_ERROR, on_event=self._on_event)

    async def _send(self, call: calls.Call, send: Send, request: http.Request) -> http.Response:
        with self._way.sending(call):
            transport = self.towards_relay if call.upstream else self.wrapped
            return await transport.handle_async_request(outgoing(send, request, self._policy))


def _async_response(status: int, headers: Pairs, source: AsyncSource, extensions: dict[str, Any]) -> http.Response:
    """The response whose body is what a source gives."""
    told = {**extensions, calls.HANDLE: AsyncHandle(source)}
    return http.Response(status, headers=list(headers), stream=_AsyncBody(source), extensions=told)


class _AsyncBody(http.AsyncByteStream):
    def __init__(self, source: AsyncSource) -> None:
        self._source = source
        self._slices = source.slices()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self  # always the same: a second iteration goes on where the first stopped

    def __anext__(self) -> Awaitable[bytes]:
        # Not the generator itself: who abandons an iteration would end it, and a second iteration with it.
        return self._slices.__anext__()

    async def aclose(self) -> None:
        await self._source.abandon()
        await calls.end_generator(self._slices)


def async_exchange(response: http.Response) -> AsyncExchange:
    """A response as the driver needs it."""
    assert isinstance(response.stream, http.AsyncByteStream)
    body = response.aiter_bytes() if calls.is_encoded(response) else aiter(response.stream)
    return AsyncExchange(response.status_code, calls.headers_of(response), body, response.stream.aclose)
