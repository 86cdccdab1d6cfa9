"""One answer, from the request to the end of its log, apart from anybody's connection.

A generation is a task of its own. Readers come and go; what their going means is told by the settings. It knows the
upstream and the log, and nothing of HTTP servers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.errors import ResumableError
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Headers, Notice, Report, RequestPlan
from resumable_llm.core.notes import Notes
from resumable_llm.dialects import ANY_EVENT_STREAM
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.log.errors import LogError
from resumable_llm.log.model import Log, State
from resumable_llm.relay.frames import error_frame, frames_of, is_frame
from resumable_llm.relay.settings import RelaySettings
from resumable_llm.transports.aiohttp import ERRORS, FAMILY_ERROR, AiohttpExchange

_logger = logging.getLogger("resumable_llm.relay")

Open = Callable[..., Awaitable[AiohttpExchange]]
BeginLog = Callable[[AiohttpExchange, str], Awaitable["tuple[Log, bool]"]]
"""Begins the log of an answer, given the response and the dialect's name; as `Store.begin`."""
Right = AbstractAsyncContextManager["Log | None"]
"""The right to ask for an answer; instead of it, its log, if another relay was faster."""
FREE: Right = nullcontext()
"""Where nobody else could ask."""

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
_NOBODY = "nobody has read the answer, so it was stopped"
STOPPED = "the answer was stopped, as its owner asked"

_TOLD: Headers = {}  # the log has them
_BEGUN = asyncio.Event()  # for all that have: an event that nobody waits for any more is 700 bytes of each stream
_BEGUN.set()


class Generation:
    """One answer.

    Args:
        plan: The request, as it goes to the upstream.
        dialect: Its wire protocol; None if it does not ask for a stream, which the answer may be all the same.
        fingerprint: Of the request, if it has a key of its caller's.
        key: The idempotency key that it carries.
        settings: The relay's.
        open_: Sends a request; see `open_exchange`.
        begin_log: Called once the answer has begun; None where there is a log.
        right: Held while the answer begins.
        log: The log of an answer that was interrupted and reopened; then the first request is a resume.
        checkpoint: Where that log ends.
        noted: The log outlives this process, so it is noted in it where to go on.
        shared: Another relay may end the log.
    """

    __slots__ = (
        "_begin_log",
        "_dialect",
        "_disowned",
        "_driver",
        "_ending",
        "_notes",
        "_open",
        "_resumes",
        "_right",
        "_settings",
        "_shared",
        "_slices",
        "_stopped",
        "_timer",
        "_told_begun",
        "_worth_noting",
        "begun",
        "failure",
        "fingerprint",
        "log",
        "outcome",
        "readers",
        "response",
        "task",
    )

    def __init__(
        self,
        plan: RequestPlan,
        dialect: Dialect | None,
        *,
        fingerprint: str,
        key: str,
        settings: RelaySettings,
        open_: Open,
        begin_log: BeginLog | None,
        right: Right = FREE,
        log: Log | None = None,
        checkpoint: Checkpoint | None = None,
        noted: bool = False,
        shared: bool = False,
    ) -> None:
        self.fingerprint = fingerprint
        self.readers = 0
        self.begun = asyncio.Event()
        """Set once there is a log, a response that is no stream, or a failure."""
        self.log = log
        self.response: AiohttpExchange | None = None
        """The upstream's answer, if it is no event stream; for whoever asked first."""
        self.failure: Exception | None = None
        """Why there is no answer, or why it could not be kept any more."""
        self.outcome: State | None = None
        """How it has ended, if it was this that ended it."""
        self._dialect = dialect
        self._settings = settings
        self._open = open_
        self._begin_log = begin_log
        self._right = right
        self._shared = shared
        self._resumes = checkpoint is not None
        self._stopped = False
        self._told_begun = False
        self._disowned = False
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        talk = Conversation(
            plan,
            dialect or ANY_EVENT_STREAM,
            settings.policy.backoff,
            settings.limits,
            key=key,
            checkpoint=checkpoint,
        )
        self._notes = Notes(talk) if noted else None
        self._slices = 0
        self._worth_noting = False
        self._driver = AsyncDriver(talk, open_, ERRORS, FAMILY_ERROR, on_event=self._note)
        self.task = asyncio.create_task(self._run())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Be a reader, or wait to become one."""
        self.add_reader()
        try:
            yield
        finally:
            self.remove_reader()

    def add_reader(self) -> None:
        """There is one more."""
        self.readers += 1
        self._cancel_timer()

    def remove_reader(self) -> None:
        """There is one less."""
        self.readers -= 1
        if self.readers == 0 and self._settings.patience is not None and not self.task.done():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.patience, self._abandon)

    def disown(self) -> None:
        """Whoever asked has gone. An answer that is no stream is for nobody then, and a request for none is dropped."""
        self._disowned = True
        if self.response is not None:
            self.response.close()
        elif self._dialect is None and not self.begun.is_set():
            self._abandon()

    async def stop(self, state: State, code: str, message: str) -> None:
        """End the log, if there is one, and have the upstream stop."""
        await self._let_go(state, code, message, self._driver.cancel)

    async def interrupt(self, message: str) -> None:
        """Let go of an answer that cannot go on in this process, without telling the upstream."""
        await self._let_go(State.INTERRUPTED, "", message, self._driver.aclose)

    async def _let_go(self, state: State, code: str, message: str, close: Callable[[], Awaitable[None]]) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._cancel_timer()
        self._end(state, code, message)
        try:
            await close()
        except ERRORS as error:
            _logger.warning("relay.not_told id=%s error=%s", self._id, type(error).__name__)
        if not self.begun.is_set():
            self.task.cancel()
        if asyncio.current_task() is not self.task:
            await asyncio.wait({self.task})

    async def _run(self) -> None:
        try:
            if self.log is None:
                async with self._right as begun:
                    if begun is None:
                        await self._begin()
                    else:
                        self.log, self._stopped = begun, True
        except asyncio.CancelledError:
            self.failure = ConnectionAbortedError("the request was given up before it was answered")
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer is told
            self.failure = error
        finally:
            self.begun.set()
            self.begun = _BEGUN
            self._begin_log = None
            self._right = FREE
        if self.log is not None and not self._stopped:
            asyncio.get_running_loop().call_soon(self._tell_begun)  # behind the first event, which it would delay
            unsubscribe = self._watch(self.log) if self._shared else None
            try:
                await self._fill(self.log)
            finally:
                if unsubscribe is not None:
                    unsubscribe()
        self._cancel_timer()

    async def _begin(self) -> None:
        # The first request is not tried again: a failure before the answer begins is the caller's affair, as ever.
        exchange = await self._open(self._driver.first(), decode=self._dialect is not None)
        encoded = not exchange.decoded and exchange.headers.get("content-encoding", "identity") != "identity"
        streams = EVENT_STREAM.announced_by(exchange.headers.get("content-type", ""))
        if exchange.status not in (200, 201) or not streams or encoded:
            self.response = exchange
            if self._disowned:
                exchange.close()
            return
        self._driver.adopt(exchange)
        assert self._begin_log is not None
        try:
            self.log, new = await self._begin_log(exchange, self._driver.conversation.dialect.name)
        except LogError:
            await self._driver.cancel()
            raise
        exchange.pairs, exchange.headers = (), _TOLD
        if not new:  # the same request has been answered meanwhile
            self._stopped = True
            await self._driver.cancel()

    async def _fill(self, log: Log) -> None:
        split = EVENT_STREAM.splitter(sys.maxsize).split
        talk = self._driver.conversation
        noted = self._notes is not None

        def keep(data: bytes) -> None:
            if frames := [data] if is_frame(data) else frames_of(split(data)):
                log.append(frames, note=self._note_now() if noted else None, wait=False)

        try:
            if self._resumes and not await self._driver.begin():
                self._end(State.FAILED, "cannot_resume", "the upstream has refused to go on")
                return
            await self._driver.pour(keep)
        except ResumableError as error:
            self._end(State.FAILED, _WORD.sub("_", type(error).__name__).lower(), str(error))
        except LogError as error:
            self.failure = error
            await self._lose(log, str(error))
        except Exception:  # a bug of ours must not leave readers waiting for ever
            _logger.exception("relay.bug id=%s", self._id)
            self._end(State.FAILED, "internal_error", "the relay failed; its log says why")
        else:
            if not self._stopped and talk.upstream_error is not None:
                self._end(State.FAILED, "", talk.upstream_error)  # what the upstream said of it is in the log
            elif not self._stopped:
                proved = "" if talk.report.end_proved else "nothing proves that the answer is complete"
                self._end(State.COMPLETE, "", proved)

    def _note_now(self) -> str | None:
        """Where the answer stands, if that would be of use to anybody who goes on with it."""
        if self._notes is None:
            return None
        self._slices += 1
        # Some have a way back from the first event on, and some never: asked at the 1st, 2nd, 4th, 8th slice and so on.
        if not self._worth_noting and not self._slices & (self._slices - 1):
            talk = self._driver.conversation
            talk.settle()
            self._worth_noting = talk.is_resumable
        return self._notes.now() if self._worth_noting else None

    def _watch(self, log: Log) -> Callable[[], None]:
        """Notice when another relay has ended the log, or has it now."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            ours = self._stopped or self.outcome is not None or self._ending is not None
            if log.state is not State.RUNNING and not ours:
                self._ending = asyncio.create_task(self._lose(log, "another relay has it"))

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended, and the generation with it
                loop.call_soon_threadsafe(look)

        return log.subscribe(wake)

    async def _lose(self, log: Log, why: str) -> None:
        """Nothing more can be written."""
        if self._stopped:
            return
        if log.state is State.INTERRUPTED:  # another relay has it now, and goes on with the upstream's work
            await self.interrupt(why)
        else:
            await self.stop(State.FAILED, "not_kept", why)

    def _end(self, state: State, code: str, reason: str) -> None:
        if self.log is None:
            return
        if code:
            try:
                self.log.append([error_frame(code, reason, google=self.is_google)], wait=False)
            except LogError:
                state = State.INTERRUPTED  # whose readers are told by the relay itself
        if self.log.end(state, reason):
            self.outcome = state
            self._tell_begun()
            _logger.info("relay.ended id=%s state=%s events=%d", self._id, state.value, self.log.last)

    def _tell_begun(self) -> None:
        if not self._told_begun:
            self._told_begun = True
            _logger.info("relay.begun id=%s dialect=%s", self._id, self._driver.conversation.dialect.name)

    def _abandon(self) -> None:
        self._ending = asyncio.create_task(self.stop(State.ABANDONED, "abandoned", _NOBODY))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def report(self) -> Report:
        """What it took so far."""
        return self._driver.conversation.report

    @property
    def is_google(self) -> bool:
        """Whether google-genai is to read it, whose decoder knows only data lines."""
        return self._driver.conversation.dialect.name == "gemini_generate"

    @property
    def _id(self) -> str:
        return self.log.head.id if self.log is not None else "-"

    def _note(self, notice: Notice) -> None:
        self._tell_begun()
        _logger.info(
            "relay.upstream id=%s kind=%s attempt=%d events=%d seconds=%.1f",
            self._id,
            notice.kind,
            notice.attempt,
            notice.events,
            notice.seconds,
        )
