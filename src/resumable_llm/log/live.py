"""A log in memory: what appenders and readers share, whether or not a store writes it down behind their backs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from resumable_llm.log.errors import Ahead, LogEnded, LogFull, Missing
from resumable_llm.log.model import MAX_READ, Cursor, Head, Slice, State, locate

_logger = logging.getLogger(__name__)

_new = tuple.__new__  # a named tuple's own constructor costs twice as much
_RUNNING = State.RUNNING  # a member of an enumeration is slow to look up, and this one is asked for with every event

_last_join = (b"", b"", b"")
"""The first event that was joined last, of all logs, the last one, and all of it."""


class LiveLog:
    """A log whose events are in memory.

    Each event is an object of its own, found by its number; readers get them joined.

    Args:
        head: What is known of the answer.
        max_bytes: How large the log may become.
        clock: Seconds since the epoch.
    """

    # There may be very many.
    __slots__ = (
        "__weakref__",
        "_base",
        "_clock",
        "_fate",
        "_frames",
        "_gone",
        "_lock",
        "_max_bytes",
        "_reopened",
        "_size",
        "_wakes",
        "ended_at",
        "head",
        "last",
        "reason",
        "state",
        "upstream",
    )

    def __init__(self, head: Head, max_bytes: int, clock: Callable[[], float]) -> None:
        self.head = head
        self.state = State.RUNNING
        self.reason = ""
        self.ended_at: float | None = None
        self.last = 0
        self.upstream = head.upstream
        self._fate = State.RUNNING
        """The state as the appender knows it; readers may have to wait for the disk."""
        self._base = 0
        """So many events are not in memory any more."""
        self._frames: list[bytes] = []
        self._size = 0
        self._reopened: tuple[int, ...] = ()
        self._gone = False
        self._wakes: tuple[tuple[Callable[[], object]], ...] = ()
        """Replaced, never changed, so that it can be gone through without the lock."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def durable(self) -> int:
        """Nothing outlives the process; nothing in memory is safer than anything else."""
        return self.last

    def append(self, frames: Sequence[bytes], *, note: str | None = None, wait: bool = True) -> int:
        """See `Log.append`."""
        # Acquired by hand, here and in `read`, which spares two thirds of what a lock costs; and one event is not made
        # a list of, which spares as much again of the rest.
        self._lock.acquire()
        try:
            if self._gone or self._fate is not _RUNNING:
                self._must_run()
            number = self._base + len(self._frames)
            prefix = b"id: %d." % len(self._reopened) if self._reopened else b"id: "
            if len(frames) == 1:
                number += 1
                one = b"%b%d\n%b" % (prefix, number, frames[0])
                if self._size + len(one) > self._max_bytes:
                    self._refuse()
                self._frames.append(one)
                self._size += len(one)
            else:
                numbered = [b"%b%d\n%b" % (prefix, each, frame) for each, frame in enumerate(frames, number + 1)]
                number += len(numbered)
                size = self._size + sum(map(len, numbered))
                if size > self._max_bytes:
                    self._refuse()
                self._frames += numbered
                self._size = size
            if note is not None:
                self._note(note)
            shown = self._appended()
        finally:
            self._lock.release()
        if shown:
            self._wake()
        return number

    def end(self, state: State, reason: str = "") -> bool:
        """See `Log.end`."""
        if state is State.RUNNING:
            raise ValueError("a log cannot end by running")
        with self._lock:
            if self._gone or self._fate is not _RUNNING:
                return False
            self._fate = state
            self.reason = reason
            self.ended_at = self._clock()
            shown = self._changed()
        if shown:
            self._wake()
        return True

    def reopen(self) -> None:
        """See `Log.reopen`."""
        with self._lock:
            self._must_exist()
            if self._fate is not State.INTERRUPTED:
                raise LogEnded(f"the log is {self._fate.value}, not interrupted")
            self._fate = State.RUNNING
            self.reason = ""
            self.ended_at = None
            self._reopened += (self._base + len(self._frames),)
            shown = self._changed()
        if shown:
            self._wake()

    def locate(self, cursor: Cursor) -> int:
        """See `Log.locate`."""
        with self._lock:
            return locate(cursor, self._reopened, self.last)

    def read(self, after: int, max_bytes: int = MAX_READ) -> Slice:
        """See `Log.read`."""
        self._lock.acquire()
        try:
            if self._base <= after == self.last - 1:  # one event, as mostly; what is gone has none
                return _new(Slice, (self._frames[after - self._base], self.last))
            if self._gone or not 0 <= after <= self.last:
                self._must_exist()
                self._must_have(after)
            return self._read(after, max_bytes)
        finally:
            self._lock.release()

    def subscribe(self, wake: Callable[[], object]) -> Callable[[], None]:
        """See `Log.subscribe`."""
        token = (wake,)
        with self._lock:
            self._wakes += (token,)
        return lambda: self._forget(token)

    def wait_durable(self, number: int, seconds: float | None = None) -> None:
        """There is nothing to wait for."""

    def drop(self) -> None:
        """The store has forgotten the log."""
        with self._lock:
            self._gone = True
            self._base, self._frames = self.last, []
        self._wake()

    def expired(self, now: float) -> bool:
        """Whether its time is over."""
        ended_at = self.ended_at
        return ended_at is not None and now >= ended_at + self.head.ttl

    def _note(self, note: str) -> None:
        """Keep a note; the lock is held."""
        self.upstream = note

    def _appended(self) -> bool:
        """There are more events; as `_changed`, but for them alone, for it is the usual."""
        self.last = self._base + len(self._frames)
        return True

    def _changed(self) -> bool:
        """The state is another. The lock is held.

        Returns:
            Whether readers have been shown it.
        """
        self.last = self._base + len(self._frames)
        self.state = self._fate
        return True

    def _must_exist(self) -> None:
        if self._gone:
            raise Missing("the log was deleted")

    def _must_run(self) -> None:
        self._must_exist()
        if self._fate is not State.RUNNING:
            raise LogEnded(f"the log is {self._fate.value}")

    def _refuse(self) -> None:
        raise LogFull(f"the log may not exceed {self._max_bytes} bytes")

    def _must_have(self, number: int) -> None:
        if number < 0:
            raise ValueError("events are numbered from 1")
        if number > self.last:
            raise Ahead(f"the log has no event {number}; the last is {self.last}", self.last)

    def _read(self, after: int, max_bytes: int) -> Slice:
        """From memory; the lock is held."""
        frames = self._frames
        start = after - self._base
        stop = end = self.last - self._base
        if self._size > max_bytes:
            stop = start
            room = max_bytes
            while stop < end and (room := room - len(frames[stop])) >= 0:
                stop += 1
            stop = max(stop, min(start + 1, end))
        return _new(Slice, (_joined(frames, start, stop), self._base + stop))

    def _wake(self) -> None:
        for token in self._wakes:
            try:
                token[0]()
            except Exception:  # noqa: PERF203 - whatever it is, the other readers and the appender have nothing to do with it
                _logger.exception("a reader could not be woken and is forgotten")
                self._forget(token)

    def _forget(self, token: tuple[Callable[[], object]]) -> None:
        with self._lock:
            self._wakes = tuple([each for each in self._wakes if each is not token])


def _joined(frames: list[bytes], start: int, stop: int) -> bytes:
    """Some events as one. Readers who come back together mostly want the same ones, and have the same object.

    To join 200 anew for each was a tenth of what it costs to serve one. No event is in two logs, or at two places in
    one, so the ends tell what lies between.
    """
    global _last_join  # noqa: PLW0603 - one for all logs: one for each would double what they take
    if stop - start < 2:
        return b"".join(frames[start:stop])
    first, last, joined = _last_join
    if frames[start] is not first or frames[stop - 1] is not last:
        joined = b"".join(frames[start:stop])
        _last_join = frames[start], frames[stop - 1], joined
    return joined
