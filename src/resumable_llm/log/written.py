"""A log in memory that its store writes down: what the logs of a file and those of Redis have in common.

Knows that there is something to write, and how far the store has got; not where it is written, nor how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from resumable_llm.log.live import LiveLog
from resumable_llm.log.model import Head


class Keeper(Protocol):
    """What a log asks of its store."""

    strict: bool
    max_log_bytes: int
    clock: Callable[[], float]

    refuses: bool
    """Whether nothing more is taken."""

    def refuse(self) -> NoReturn:
        """Raise, and say why."""
        ...

    def mark(self, log: Any, /) -> None:
        """There is something to write."""
        ...

    def let_go(self, log: Any, /) -> None:
        """All of it is written, or it is forgotten, or another's now."""
        ...

    def wait(self, reached: Callable[[], bool], seconds: float | None) -> None:
        """Block until something is written."""
        ...


K = TypeVar("K", bound=Keeper)


class WrittenLog(LiveLog, Generic[K]):
    """A log that is written down a moment later.

    Args:
        store: Its store.
        head: What is known of the answer.
        durable: How far it is written.
    """

    __slots__ = ("_dirty", "_durable", "_noted", "_store")

    def __init__(self, store: K, head: Head, durable: int) -> None:
        super().__init__(head, store.max_log_bytes, store.clock)
        self._store = store
        self._durable = durable
        self._noted: str | None = None
        """A note that is not written."""
        self._dirty = False
        """Whether the store knows that there is something to write."""

    def append(self, frames: Sequence[bytes], *, note: str | None = None, wait: bool = True) -> int:
        """See `Log.append`."""
        store = self._store
        if store.refuses:
            store.refuse()
        number = LiveLog.append(self, frames, note=note)  # not super(), which is slow before Python 3.12
        if wait and store.strict:
            self.wait_durable(number)
        return number

    @property
    def durable(self) -> int:
        """See `Log.durable`."""
        return self._durable

    def wait_durable(self, number: int, seconds: float | None = None) -> None:
        """See `Log.wait_durable`."""
        self._store.wait(lambda: self._gone or self._durable >= number, seconds)
        with self._lock:
            self._must_exist()

    def drop(self) -> None:
        """The store has forgotten the log."""
        super().drop()
        self._store.let_go(self)

    def _note(self, note: str) -> None:
        super()._note(note)
        self._noted = note

    def _appended(self) -> bool:
        if not self._dirty:
            self._mark()
        if self._store.strict:
            return False
        self.last = self._base + len(self._frames)
        return True

    def _changed(self) -> bool:
        self._mark()
        return not self._store.strict and super()._changed()

    def _mark(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._store.mark(self)
