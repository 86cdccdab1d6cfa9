"""Performs a conversation's actions with blocking I/O.

Twin of `async_driver`; a test holds the two equal. Decides nothing, knows no HTTP library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from resumable_llm.core.actions import Action, Deliver, Fail, Finish, Notify, Read, Send, Wait
from resumable_llm.core.errors import as_family
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Failure
from resumable_llm.core.states import State
from resumable_llm.drivers.exchange import (
    CANCEL_SECONDS,
    DRAIN_BYTES,
    DRAIN_SECONDS,
    Exchange,
    OnEvent,
    Opener,
    log,
    tell,
)


class SyncDriver:
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
        opener: Opener,
        errors: tuple[type[Exception], ...],
        family_error: type[Exception],
        *,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conversation = conversation
        self.exchange: Exchange | None = None
        self._open = opener
        self._errors = errors
        self._family_error = family_error
        self._on_event = on_event
        self._clock = clock
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, where the answer has begun already: `slices` then sends the first request, if one is needed."""
        self.conversation.start(self._clock())

    def first(self) -> Send:
        """Begin; the request that this returns is sent by somebody else, whose affair its failure is."""
        self.start()
        action = self.conversation.next_action()
        assert isinstance(action, Send)
        return action

    def adopt(self, exchange: Exchange) -> None:
        """Take the response to the first request."""
        self._take(exchange)

    def begin(self) -> bool:
        """Send the first request and go on until the answer begins.

        Returns:
            False if the response is no stream and is the caller's affair; it is then `exchange`.

        Raises:
            ResumableError: There will be no answer.
        """
        conversation = self.conversation
        conversation.start(self._clock())
        while conversation.state not in (State.STREAMING, State.ENDED) and not self._closed.is_set():
            self._perform(conversation.next_action())
        return not conversation.surfaced

    def slices(self) -> Iterator[bytes]:
        """The answer as slices of bytes, each of them whole events; one each, if the conversation says so.

        Raises:
            ResumableError: It cannot be completed.
        """
        conversation, passes = self.conversation, self.conversation.receive_plain
        try:
            while not self._closed.is_set():
                action = conversation.next_action()
                if isinstance(action, Deliver):
                    yield action.data
                elif isinstance(action, Read):
                    try:
                        for chunk in self._body():
                            if passes(chunk):
                                yield chunk
                            else:
                                conversation.receive_data(chunk, self._clock())
                                break
                        else:
                            self._end_of_body()
                    except self._errors as error:
                        self._failed(error)
                elif isinstance(action, Finish):
                    return self._drain()
                else:
                    self._perform(action)
        finally:
            self._let_go()

    def close(self) -> None:
        """Let go of the connection, also from another thread while a read or a backoff is blocked.

        A reconnect that waits for the head of its response cannot be woken; it ends with its read timeout.
        """
        self._closed.set()
        exchange = self.exchange  # the reader may let go of it at any moment
        if exchange is not None:
            exchange.abort()
            self._let_go()

    def abandon(self) -> None:
        """Let go of the stream as its reader closes it.

        A server that would go on, and only because it was asked to keep the answer, is told to stop.
        """
        kept_alive = self.conversation.is_kept_alive_by_us and not self._closed.is_set()
        if not kept_alive:
            self.close()
            for notice in self.conversation.last_notices():
                tell(self._on_event, notice)
            return
        try:
            self.cancel()
        except self._errors as error:
            log.warning("the server could not be told to stop: %s", type(error).__name__)

    def cancel(self) -> None:
        """Tell the server to stop generating, where it would not notice by itself, and let go of the connection."""
        plan = self.conversation.cancel_plan()
        self.close()
        if plan is not None:
            exchange = self._open(Send(plan, CANCEL_SECONDS))
            exchange.close()
            if exchange.status >= 400:
                log.warning("the server answered %d when told to stop", exchange.status)

    def _perform(self, action: Action) -> None:
        if isinstance(action, Read):
            self._read()
        elif isinstance(action, Send):
            self._send(action)
        elif isinstance(action, Wait):
            self._let_go()
            if not self._closed.wait(action.seconds):
                self.conversation.receive_wakeup(self._clock())
        elif isinstance(action, Notify):
            tell(self._on_event, action.notice)
        elif isinstance(action, Fail):
            self._let_go()
            raise as_family(action.error, self._family_error) from action.error.__cause__
        else:
            raise AssertionError(f"nobody can perform {action!r} here")

    def _send(self, action: Send) -> None:
        self._let_go()
        try:
            exchange = self._open(action)
        except self._errors as error:
            self._failed(error)
        else:
            self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.conversation.receive_response(exchange.status, exchange.headers, self._clock())

    def _read(self) -> None:
        try:
            chunk = next(self._body(), None)
        except self._errors as error:
            self._failed(error)
        else:
            if chunk is None:
                self._end_of_body()
            else:
                self.conversation.receive_data(chunk, self._clock())

    def _body(self) -> Iterator[bytes]:
        exchange = self.exchange
        return iter(()) if exchange is None else exchange.body  # closed by somebody else, a moment ago

    def _end_of_body(self) -> None:
        self._let_go()
        if not self._closed.is_set():
            self.conversation.receive_eof(self._clock())

    def _failed(self, error: Exception) -> None:
        self._let_go()
        if not self._closed.is_set():
            self.conversation.receive_failure(Failure(f"{type(error).__name__}: {error}", error), self._clock())

    def _drain(self) -> None:
        # The end of the body mostly follows the terminal event at once, and then the connection can be used again. A
        # server that holds it open, or breaks it now, has nothing to say that anybody needs.
        exchange = self.exchange
        if exchange is None or exchange.socket is None:
            return
        timer = threading.Timer(DRAIN_SECONDS, exchange.abort)
        timer.daemon = True
        timer.start()
        try:
            size = 0
            for chunk in exchange.body:
                size += len(chunk)
                if size > DRAIN_BYTES:
                    break
        except self._errors:
            pass
        finally:
            timer.cancel()

    def _let_go(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.close()
