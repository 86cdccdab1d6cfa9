"""Answers while they come in and are kept: a tape for the log, and any number of readers.

Each slice that goes out is one entry of a log, as it is and with its length before it, so that it comes back byte for
byte in whatever framing; and with it goes a note of where the conversation then stands. The two colours of what reads
are twins; a test holds them equal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio

from resumable_llm.core.errors import CannotResume, ResumableError, as_family
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Notice
from resumable_llm.core.notes import Notes
from resumable_llm.core.states import State as Talk
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.exchange import OnEvent, tell
from resumable_llm.drivers.sync_driver import SyncDriver
from resumable_llm.log.errors import LogError
from resumable_llm.log.model import Log, State
from resumable_llm.transports.call import end_generator

LET_GO = "whoever received it has let go of it"

_BROKEN_OFF = {
    State.CANCELLED: "the answer was cancelled by its caller: for a new one give another idempotency key",
    State.ABANDONED: "the answer was given up: for a new one give another idempotency key",
}

_logger = logging.getLogger("resumable_llm")
_counting = threading.Lock()

AnyRecording = TypeVar("AnyRecording", "Recording", "AsyncRecording")


class Tape:
    """Keeps what is given out of an answer, for its log and for other readers.

    Args:
        log: Where it goes.
        talk: The conversation.
        past: What there was of the answer before.
        on_event: Told if no more can be kept.
    """

    def __init__(self, log: Log, talk: Conversation, past: bytes, on_event: OnEvent | None) -> None:
        self.log = log
        self.talk = talk
        self.count = 1 if past else 0
        """Slices that were given out, kept or not."""
        self.readers = 0
        self._slices = [past] if past else []
        self._notes = Notes(talk, summed=False)
        self._on_event = on_event
        self._keeps = log.state is State.RUNNING  # and from then on only we end it

    def keep(self, data: bytes) -> None:
        """Keep a slice. Where that fails, the answer goes on all the same."""
        self.count += 1
        if not self._keeps:
            return
        try:
            self.log.append([b":%d\n%b\n\n" % (len(data), data)], note=self._notes.now(), wait=False)
        except LogError as error:
            self.end(State.INTERRUPTED, "the rest of it could not be kept")
            not_kept(self._on_event, self.talk, error)
            return
        self._slices.append(data)
        if self._notes.complete:  # its reader may know that too, and read no further
            self.end()

    def end(self, state: State | None = None, reason: str = "") -> None:
        """Keep no more.

        Args:
            state: How the answer ends; None: as the conversation stands, whose receiver has let go of it.
            reason: Why.
        """
        if not self._keeps:
            return  # the log is somebody else's by now
        self._keeps = False
        if state is None and self.talk.state is not Talk.ENDED:
            state, reason = State.INTERRUPTED, LET_GO
        elif state is None and self.talk.upstream_error is not None:
            state, reason = State.FAILED, self.talk.upstream_error
        self.log.end(state or State.COMPLETE, reason)

    def at(self, number: int) -> bytes:
        """A slice that was given out, by its number from 0.

        Raises:
            CannotResume: It was not kept.
        """
        if number >= len(self._slices):
            raise self.broken_off("the journal could keep no more of the answer")
        return self._slices[number]

    def broken_off(self, why: str = "") -> CannotResume:
        """The error for a reader who gets no more, though the answer has not ended."""
        why = why or _BROKEN_OFF.get(self.log.state, f"{LET_GO}: make the same call again to go on with it")
        talk = self.talk
        return CannotResume(
            f"{why} ({talk.report.summary()})",
            partial_text=talk.partial_text(),
            partial=talk.partial(),
            checkpoint=talk.checkpoint,
            report=talk.report,
        )


def read_tape(log: Log) -> bytes:
    """All that a tape has put into a log."""
    parts: list[bytes] = []
    last = 0
    while last < log.last:
        data, last = log.read(last)
        at = 0
        while at < len(data):
            begin = data.index(b"\n:", at) + 2  # behind the log's id, which has no colon in it but its own
            end = data.index(b"\n", begin)
            at = end + 1 + int(data[begin:end]) + 2
            parts.append(data[end + 1 : at - 2])
    return b"".join(parts)


def not_kept(on_event: OnEvent | None, talk: Conversation, error: LogError) -> None:
    """Say that an answer is not kept, or no more of it. That costs nobody the answer."""
    why = f"the journal keeps no more of an answer: {error}"
    _logger.warning("%s", why)
    report = talk.report
    tell(on_event, Notice("journal", report.attempts, why, events=report.events))


class _Reader:
    """What the readers of both colours have in common."""

    def __init__(self, tape: Tape, family_error: type[Exception]) -> None:
        self._tape = tape
        self._family_error = family_error
        self._closed = False
        with _counting:
            tape.readers += 1

    @property
    def conversation(self) -> Conversation:
        """The conversation about the answer. Several readers have the same."""
        return self._tape.talk

    def _leave(self) -> bool:
        """Close; whether nobody else reads the recording."""
        with _counting:
            if self._closed:
                return False
            self._closed = True
            self._tape.readers -= 1
            return self._tape.readers == 0

    def _check_end(self) -> None:
        if not self._closed and self.conversation.state is not Talk.ENDED:
            raise self._tape.broken_off()


class Recording:
    """An answer that is being received, for any number of readers: whoever wants more of it fetches it for all.

    Args:
        driver: Receives it.
        tape: Keeps it.
        place: Where alone it can be read: an event loop, or None for threads.
    """

    def __init__(self, driver: SyncDriver, tape: Tape, place: object = None) -> None:
        self.driver = driver
        self.tape = tape
        self.place = place
        self._lock = threading.Lock()
        self._source = _recorded(driver.slices(), tape)

    def at(self, number: int) -> bytes | None:
        """A slice, by its number from 0; None if nothing more comes."""
        if number >= self.tape.count:
            with self._lock:
                if number >= self.tape.count:
                    return next(self._source, None)
        return self.tape.at(number)

    def close(self) -> None:
        """Let go of it. It may be gone on with."""
        self.tape.end()
        self.driver.abandon()


def _recorded(slices: Iterator[bytes], tape: Tape) -> Iterator[bytes]:
    # No method of the recording: that would make a circle, and a stream that is dropped would stay open for a while.
    try:
        for data in slices:
            tape.keep(data)
            yield data
    finally:
        tape.end()


class Reader(_Reader):
    """One reader of a recording: to a response's body and its handle, what the driver is to them otherwise.

    Args:
        recording: What to read.
        family_error: The HTTP family's error class that ours are raised as, too.
    """

    def __init__(self, recording: Recording, family_error: type[Exception]) -> None:
        super().__init__(recording.tape, family_error)
        self._recording = recording

    def slices(self) -> Iterator[bytes]:
        """As `SyncDriver.slices`; first what there is already."""
        number = 0
        with raising_as(self._family_error):
            while not self._closed:
                data = self._recording.at(number)
                if data is None:
                    self._check_end()
                    return
                number += 1
                yield data

    def abandon(self) -> None:
        """Let go of the stream as its reader closes it. If it was the last, nobody receives the answer any more."""
        if self._leave():
            self._recording.close()

    def cancel(self) -> None:
        """As `SyncDriver.cancel`. The answer ends with that, whoever else asks for it."""
        self._tape.end(State.CANCELLED)
        last = self._leave()
        self._recording.driver.cancel()
        if last:
            self._recording.close()


class AsyncRecording:
    """The same for asynchronous code; see `Recording`."""

    def __init__(self, driver: AsyncDriver, tape: Tape, place: object = None) -> None:
        self.driver = driver
        self.tape = tape
        self.place = place
        self._lock = anyio.Lock()
        self._source = _async_recorded(driver.slices(), tape)

    async def at(self, number: int) -> bytes | None:
        """A slice, by its number from 0; None if nothing more comes."""
        if number >= self.tape.count:
            async with self._lock:
                if number >= self.tape.count:
                    return await anext(self._source, None)
        return self.tape.at(number)

    async def aclose(self) -> None:
        """Let go of it. It may be gone on with."""
        self.tape.end()
        await self.driver.abandon()
        await end_generator(self._source)


async def _async_recorded(slices: AsyncIterator[bytes], tape: Tape) -> AsyncIterator[bytes]:
    try:
        async for data in slices:
            tape.keep(data)
            yield data
    finally:
        tape.end()
        await end_generator(slices)


class AsyncReader(_Reader):
    """The same for asynchronous code; see `Reader`."""

    def __init__(self, recording: AsyncRecording, family_error: type[Exception]) -> None:
        super().__init__(recording.tape, family_error)
        self._recording = recording

    async def slices(self) -> AsyncIterator[bytes]:
        """As `AsyncDriver.slices`; first what there is already."""
        number = 0
        with raising_as(self._family_error):
            while not self._closed:
                data = await self._recording.at(number)
                if data is None:
                    self._check_end()
                    return
                number += 1
                yield data

    async def abandon(self) -> None:
        """Let go of the stream as its reader closes it. If it was the last, nobody receives the answer any more."""
        if self._leave():
            await self._recording.aclose()

    async def cancel(self) -> None:
        """As `AsyncDriver.cancel`. The answer ends with that, whoever else asks for it."""
        self._tape.end(State.CANCELLED)
        last = self._leave()
        await self._recording.driver.cancel()
        if last:
            await self._recording.aclose()


@contextmanager
def raising_as(family_error: type[Exception]) -> Iterator[None]:
    """Raise our own errors as members of an HTTP family's class, too; see `as_family`."""
    try:
        yield
    except ResumableError as error:
        if isinstance(error, family_error):
            raise
        raise as_family(error, family_error) from error.__cause__
