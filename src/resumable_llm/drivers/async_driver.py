"""Performs a conversation's actions with asynchronous I/O, on asyncio or trio.

Twin of `sync_driver`; a test holds the two equal. Decides nothing, knows no HTTP library.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import anyio

from resumable_llm.core.actions import Action, Deliver, Fail, Finish, Notify, Read, Send, Wait
from resumable_llm.core.errors import as_family
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Failure
from resumable_llm.core.states import State
from resumable_llm.drivers.exchange import (
    CANCEL_SECONDS,
    DRAIN_BYTES,
    DRAIN_SECONDS,
    AsyncExchange,
    AsyncOpener,
    OnEvent,
    log,
    tell,
)


class AsyncDriver:
    """One conversation, performed.

    Args:
        conversation: Decides.
        opener: Sends a request and returns its response, or raises one of `errors`.
        errors: The HTTP family's errors; anything else passes through untouched.
        family_error: The family's error class that ours are raised as, too.
        on_event: Told of each notice.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        conversation: Conversation,
        opener: AsyncOpener,
        errors: tuple[type[Exception], ...],
        family_error: type[Exception],
        *,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conversation = conversation
        self.exchange: AsyncExchange | None = None
        self._open = opener
        self._errors = errors
        self._family_error = family_error
        self._on_event = on_event
        self._clock = clock
        self._closed = False
        self._wake: anyio.Event | None = None

    def start(self) -> None:
        """Begin, where the answer has begun already: `slices` then sends the first request, if one is needed."""
        self.conversation.start(self._clock())

    def first(self) -> Send:
        """Begin; the request that this returns is sent by somebody else, whose affair its failure is."""
        self.start()
        action = self.conversation.next_action()
        assert isinstance(action, Send)
        return action

    def adopt(self, exchange: AsyncExchange) -> None:
        """Take the response to the first request."""
        self._take(exchange)

    async def begin(self) -> bool:
        """Send the first request and go on until the answer begins.

        Returns:
            False if the response is no stream and is the caller's affair; it is then `exchange`.

        Raises:
            ResumableError: There will be no answer.
        """
        conversation = self.conversation
        conversation.start(self._clock())
        while conversation.state not in (State.STREAMING, State.ENDED) and not self._closed:
            await self._perform(conversation.next_action())
        return not conversation.surfaced

    async def slices(self) -> AsyncIterator[bytes]:
        """The answer as slices of bytes, each of them whole events; one each, if the conversation says so.

        Raises:
            ResumableError: It cannot be completed.
        """
        conversation, passes = self.conversation, self.conversation.receive_plain
        try:
            while not self._closed:
                action = conversation.next_action()
                if isinstance(action, Deliver):
                    yield action.data
                elif isinstance(action, Read):
                    try:
                        async for chunk in self._body():
                            if passes(chunk):
                                yield chunk
                            else:
                                conversation.receive_data(chunk, self._clock())
                                break
                        else:
                            await self._end_of_body()
                    except self._errors as error:
                        await self._failed(error)
                elif isinstance(action, Finish):
                    await self._drain()
                    return
                else:
                    await self._perform(action)
        finally:
            await self._let_go()

    async def pour(self, take: Callable[[bytes], object]) -> None:
        """Hand over what `slices` gives, each slice as soon as it is there.

        Where the exchange can do without a task between the socket and `take`, there is none: then it is the event loop
        that calls `take`.

        Args:
            take: Given each slice. What it raises is raised here.

        Raises:
            ResumableError: The answer cannot be completed.
        """
        conversation, passes = self.conversation, self.conversation.receive_plain

        def next_action() -> Action:
            while isinstance(action := conversation.next_action(), (Deliver, Notify)):
                if isinstance(action, Deliver):
                    take(action.data)
                else:
                    tell(self._on_event, action.notice)
            return action

        def receive(chunk: bytes) -> bool:
            if passes(chunk):
                take(chunk)
                return not self._closed
            conversation.receive_data(chunk, self._clock())
            return isinstance(next_action(), Read) and not self._closed

        try:
            while not self._closed:
                action = next_action()
                if isinstance(action, Finish):
                    await self._drain()
                    return
                if not isinstance(action, Read):
                    await self._perform(action)
                    continue
                assert self.exchange is not None
                try:
                    ended = await self.exchange.pour(receive)
                except self._errors as error:
                    await self._failed(error)
                else:
                    if ended:
                        await self._end_of_body()
        finally:
            await self._let_go()

    async def aclose(self) -> None:
        """Let go of the connection, also from another task while a read or a backoff is blocked."""
        self._closed = True
        if self._wake is not None:
            self._wake.set()
        await self._let_go()

    async def abandon(self) -> None:
        """Let go of the stream as its reader closes it.

        A server that would go on, and only because it was asked to keep the answer, is told to stop.
        """
        kept_alive = self.conversation.is_kept_alive_by_us and not self._closed
        if not kept_alive:
            await self.aclose()
            for notice in self.conversation.last_notices():
                tell(self._on_event, notice)
            return
        try:
            await self.cancel()
        except self._errors as error:
            log.warning("the server could not be told to stop: %s", type(error).__name__)

    async def cancel(self) -> None:
        """Tell the server to stop generating, where it would not notice by itself, and let go of the connection."""
        plan = self.conversation.cancel_plan()
        await self.aclose()
        if plan is not None:
            # A reader that is cancelled itself must still be able to tell the server.
            with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                exchange = await self._open(Send(plan, CANCEL_SECONDS))
                await exchange.aclose()
                if exchange.status >= 400:
                    log.warning("the server answered %d when told to stop", exchange.status)

    async def _perform(self, action: Action) -> None:
        if isinstance(action, Read):
            await self._read()
        elif isinstance(action, Send):
            await self._send(action)
        elif isinstance(action, Wait):
            await self._let_go()
            if not self._closed:
                self._wake = anyio.Event()
                with anyio.move_on_after(action.seconds):
                    await self._wake.wait()
            if not self._closed:
                self.conversation.receive_wakeup(self._clock())
        elif isinstance(action, Notify):
            tell(self._on_event, action.notice)
        elif isinstance(action, Fail):
            await self._let_go()
            raise as_family(action.error, self._family_error) from action.error.__cause__
        else:
            raise AssertionError(f"nobody can perform {action!r} here")

    async def _send(self, action: Send) -> None:
        await self._let_go()
        try:
            exchange = await self._open(action)
        except self._errors as error:
            await self._failed(error)
        else:
            self._take(exchange)

    def _take(self, exchange: AsyncExchange) -> None:
        self.exchange = exchange
        self.conversation.receive_response(exchange.status, exchange.headers, self._clock())

    async def _read(self) -> None:
        try:
            chunk = await anext(self._body(), None)
        except self._errors as error:
            await self._failed(error)
        else:
            if chunk is None:
                await self._end_of_body()
            else:
                self.conversation.receive_data(chunk, self._clock())

    def _body(self) -> AsyncIterator[bytes]:
        exchange = self.exchange
        return _nothing() if exchange is None else exchange.body  # closed by somebody else, a moment ago

    async def _end_of_body(self) -> None:
        await self._let_go()
        if not self._closed:
            self.conversation.receive_eof(self._clock())

    async def _failed(self, error: Exception) -> None:
        await self._let_go()
        if not self._closed:
            self.conversation.receive_failure(Failure(f"{type(error).__name__}: {error}", error), self._clock())

    async def _drain(self) -> None:
        # The end of the body mostly follows the terminal event at once, and then the connection can be used again. A
        # server that holds it open, or breaks it now, has nothing to say that anybody needs.
        exchange = self.exchange
        if exchange is None:
            return
        with anyio.move_on_after(DRAIN_SECONDS):
            try:
                size = 0
                async for chunk in exchange.body:
                    size += len(chunk)
                    if size > DRAIN_BYTES:
                        break
            except self._errors:
                pass

    async def _let_go(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            with anyio.CancelScope(shield=True):  # a cancelled reader must not leave its connection behind
                await exchange.aclose()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
