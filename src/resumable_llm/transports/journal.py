"""The journal of a transport: whether a call is kept there, and what becomes of it then.

What was received of an answer comes first when the same call is made again, and then the rest: from the call that is
still receiving it, or else from where it broke off, as after any drop. An answer that has ended is told again without
a request. The two colours are twins; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from anyio import to_thread
from anyio.lowlevel import RunVar

from resumable_llm.core.errors import JournalRefused
from resumable_llm.core.model import Notice
from resumable_llm.core.notes import Notes
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.exchange import OnEvent, tell
from resumable_llm.drivers.handle import AsyncSource, Source
from resumable_llm.drivers.sync_driver import SyncDriver
from resumable_llm.log.errors import LogError
from resumable_llm.log.model import Log
from resumable_llm.transports.call import Call
from resumable_llm.transports.recording import (
    AsyncReader,
    AsyncRecording,
    Reader,
    Recording,
    Tape,
    not_kept,
    raising_as,
)
from resumable_llm.transports.shelf import AnyJournal, Entry, Kept, Pairs, shelf_of

ResultT = TypeVar("ResultT")

_HERE: RunVar[object] = RunVar("resumable_llm_event_loop")


class _Journal:
    """What both colours have in common.

    Args:
        journal: A path or a store; None: there is none, and no call is kept.
        family_error: The HTTP family's error class that ours are raised as, too.
        on_event: Told when an answer comes from the journal, and when one cannot be kept.

    Raises:
        LogError: It cannot be opened.
        TypeError: It is neither a path nor a store.
    """

    def __init__(self, journal: AnyJournal, family_error: type[Exception], on_event: OnEvent | None) -> None:
        self._shelf = shelf_of(journal)
        self._family_error = family_error
        self._on_event = on_event

    def entry(self, call: Call | None, request: Any) -> Entry | None:
        """What a call is kept under; None if it is not to be kept.

        Args:
            call: The call, if the request is one.
            request: The request as the caller made it.
        """
        return None if self._shelf is None or call is None else self._shelf.entry(call, request)

    def _tell(self, kept: Kept) -> None:
        events = kept.past.events
        if kept.recording is None:
            tell(self._on_event, Notice("journal", 0, f"{events} events were in the journal", events=events))


class Journal(_Journal):
    """The journal of a blocking transport."""

    def find(self, entry: Entry | None) -> Kept | None:
        """What there is of an answer, if there is any.

        Raises:
            JournalRefused: The call must not be made.
        """
        if entry is None:
            return None
        assert self._shelf is not None
        with raising_as(self._family_error):
            kept = self._do(self._shelf.find, entry)
            _check_place(kept, self._place())
        return kept

    def record(self, entry: Entry | None, driver: SyncDriver, status: int, headers: Pairs) -> Source:
        """Keep an answer that has just begun.

        Args:
            entry: What to keep it under; None: it is not kept.
            driver: Receives it.
            status: Of the response.
            headers: Of the response, as the caller gets them.

        Returns:
            What the caller reads.
        """
        if entry is None:
            return driver
        assert self._shelf is not None
        talk, place = driver.conversation, self._place()

        def make(log: Log) -> Recording:
            return Recording(driver, Tape(log, talk, b"", self._on_event), place)

        try:
            recording = self._do(self._shelf.begin, entry, status, headers, Notes(talk, summed=False).now(), make)
        except LogError as error:
            not_kept(self._on_event, talk, error)
            return driver
        except BaseException:
            driver.close()
            raise
        return Reader(recording, self._family_error)

    def go_on(self, kept: Kept, driver: SyncDriver) -> Source:
        """Read an answer from the journal, and then the rest of it.

        Args:
            kept: What there is of it.
            driver: Receives the rest, unless somebody does already.

        Raises:
            JournalRefused: Another call was quicker.
        """
        self._tell(kept)
        if isinstance(kept.recording, Recording):
            return Reader(kept.recording, self._family_error)
        assert self._shelf is not None
        place = self._place()

        def make() -> Recording:
            return Recording(driver, Tape(kept.log, driver.conversation, kept.past.data, self._on_event), place)

        if kept.may_go_on or kept.start.complete:
            driver.start()
        else:
            driver.close()
        with raising_as(self._family_error):
            recording = self._do(self._shelf.go_on, kept, make)
        return Reader(recording, self._family_error)

    def _place(self) -> object:
        return None

    def _do(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        return function(*args)


class AsyncJournal(_Journal):
    """The same for asynchronous transports; see `Journal`."""

    async def find(self, entry: Entry | None) -> Kept | None:
        """See `Journal.find`."""
        if entry is None:
            return None
        assert self._shelf is not None
        with raising_as(self._family_error):
            kept = await self._do(self._shelf.find, entry)
            _check_place(kept, self._place())
        return kept

    async def record(self, entry: Entry | None, driver: AsyncDriver, status: int, headers: Pairs) -> AsyncSource:
        """See `Journal.record`."""
        if entry is None:
            return driver
        assert self._shelf is not None
        talk, place = driver.conversation, self._place()

        def make(log: Log) -> AsyncRecording:
            return AsyncRecording(driver, Tape(log, talk, b"", self._on_event), place)

        try:
            recording = await self._do(self._shelf.begin, entry, status, headers, Notes(talk, summed=False).now(), make)
        except LogError as error:
            not_kept(self._on_event, talk, error)
            return driver
        except BaseException:
            await driver.aclose()
            raise
        return AsyncReader(recording, self._family_error)

    async def go_on(self, kept: Kept, driver: AsyncDriver) -> AsyncSource:
        """See `Journal.go_on`."""
        self._tell(kept)
        if isinstance(kept.recording, AsyncRecording):
            return AsyncReader(kept.recording, self._family_error)
        assert self._shelf is not None
        place = self._place()

        def make() -> AsyncRecording:
            return AsyncRecording(driver, Tape(kept.log, driver.conversation, kept.past.data, self._on_event), place)

        if kept.may_go_on or kept.start.complete:
            driver.start()
        else:
            await driver.aclose()
        with raising_as(self._family_error):
            recording = await self._do(self._shelf.go_on, kept, make)
        return AsyncReader(recording, self._family_error)

    def _place(self) -> object:
        try:
            return _HERE.get()
        except LookupError:
            _HERE.set(here := object())
            return here

    async def _do(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        assert self._shelf is not None
        if self._shelf.store.remote:
            return await to_thread.run_sync(function, *args, abandon_on_cancel=True)
        return function(*args)


def _check_place(kept: Kept | None, place: object) -> None:
    if kept is not None and kept.recording is not None and kept.recording.place is not place:
        raise JournalRefused(
            "nothing was sent, for an answer to this idempotency key is being received in another event loop"
        )
