"""Logs in a file of SQLite: appended in memory, written down a moment later by one thread.

Readers follow a running log in memory, so that nobody waits for the disk. The thread writes what all logs have appended
within the flush window in one transaction. ``kill -9`` loses at most that: what is younger than the window and the time
a commit takes. A strict store shows readers only what is committed, begins a commit as soon as the last one is done,
and so loses nothing that anybody has seen; all that is appended during a commit shares the next one. Once a log has
ended and is on disk, memory lets go of its events, and readers in the middle of it go on in the file; those who come
back together share what the first of them has read.

A file has one owner, for a running log is in its owner's memory. Several processes that serve the same logs need
another store.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import NoReturn, Protocol
from weakref import WeakValueDictionary

from resumable_llm.log.database import Block, Change, Database, Record
from resumable_llm.log.errors import Expired, Missing, StoreFailed
from resumable_llm.log.extents import Extents
from resumable_llm.log.live import LiveLog
from resumable_llm.log.memory import FREE, MAX_LOG_BYTES, require_same_request
from resumable_llm.log.model import MAX_READ, Claim, Head, Slice, State
from resumable_llm.log.recent import Recent
from resumable_llm.log.written import Keeper, WrittenLog

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
"""How long to wait before what could not be written is tried again."""

_MAX_RECENT_BYTES = 8 * 1024 * 1024
"""How much is kept of what was read in the file. Without it, each of a thousand readers who come back at once for the
same events has the log found, unpacked and cut anew, which is half of the CPU that it takes to serve one."""

_new = tuple.__new__  # a named tuple's own constructor costs twice as much
_RUNNING = State.RUNNING  # a member of an enumeration is slow to look up

_ON_DISK = Slice(b"", -1)
"""What a log in memory says of events that are not there any more."""


class Filer(Keeper, Protocol):
    """What a log asks of its store."""

    recent: Recent
    """What logs were asked for lately that is not in memory."""

    def reading(self) -> AbstractContextManager[Callable[[int], Block | None]]:
        """See `Database.reading`."""
        ...


class SqliteLog(WrittenLog[Filer]):
    """A log of a `SqliteStore`, made by it alone."""

    __slots__ = ("_extents", "_turned", "stream")

    def __init__(self, store: Filer, stream: int, head: Head, record: Record | None = None) -> None:
        super().__init__(store, head, durable=-1)
        self.stream = stream
        self._extents = Extents()
        self._turned = record is None
        """Whether its row says something else of it: that there is none yet, how it has ended, that it goes on."""
        if record is not None:
            self._extents = record.extents
            self._reopened = record.reopened
            self._base = self.last = self._durable = record.last
            self._size = record.size
            self._fate = self.state = record.state
            self.reason = record.reason
            self.ended_at = record.ended_at
            self.upstream = record.note
        else:
            self._mark()

    def end(self, state: State, reason: str = "") -> bool:
        """See `Log.end`."""
        try:
            return super().end(state, reason)
        except StoreFailed:
            return False  # closed: whoever opens the file next finds the log interrupted

    def reopen(self) -> None:
        """See `Log.reopen`."""
        if self._store.refuses:
            self._store.refuse()
        super().reopen()

    def read(self, after: int, max_bytes: int = MAX_READ) -> Slice:
        """See `Log.read`."""
        found = LiveLog.read(self, after, max_bytes)  # not super(), which is slow before Python 3.12
        return self._read_behind(after, max_bytes) if found is _ON_DISK else found

    @property
    def extents(self) -> Extents:
        """Where the events are, for the writer."""
        return self._extents

    def take(self) -> Change | None:
        """What is to be written, for the writer; None if nothing."""
        self._lock.acquire()  # by hand, as in `LiveLog.append`: this is done for nearly every event
        try:
            self._dirty = False
            if self._gone:
                return None
            frames, durable = self._frames, self._durable
            last = self._base + len(frames)
            new = frames[durable - self._base :] if durable > 0 else frames[:]
            note, self._noted = self._noted, None
            if not self._turned:
                return _new(Change, (self.stream, self._extents, last, new, note, None, False))
            self._turned = False
            return _new(Change, (self.stream, self._extents, last, new, note, self._record(last), durable < 0))
        finally:
            self._lock.release()

    def give_back(self, change: Change) -> None:
        """The writer could not write it."""
        with self._lock:
            if change.row is not None:
                self._turned = True
            if self._noted is None:
                self._noted = change.note
            # Readers of a strict store would wait for as long as the disk is full. They are told what they would find
            # if the process died now; should it be written after all, they find how it has ended.
            lets_go = self._fate is not _RUNNING and self.state is _RUNNING
            if lets_go:
                self.state = State.INTERRUPTED
            self._mark()
        if lets_go:
            self._wake()

    def settle(self, change: Change) -> None:
        """The writer has written it."""
        if self._fate is _RUNNING and not self._store.strict:
            self._durable = change.last  # without the lock: should it end just now, there is more to write and settle
            return
        with self._lock:
            if self._gone:
                return
            self._durable = change.last
            if self._store.strict:
                self.last = change.last
                if change.row is not None:
                    self.state = change.row.state
            if self._fate is not State.RUNNING and not self._dirty:
                self._base, self._frames = change.last, []
                self._store.let_go(self)
        if self._store.strict:
            self._wake()

    def _read(self, after: int, max_bytes: int) -> Slice:
        return super()._read(after, max_bytes) if after >= self._base else _ON_DISK

    def _changed(self) -> bool:
        self._turned = True
        return super()._changed()

    def _record(self, last: int) -> Record:
        return Record(
            stream=self.stream,
            head=self.head,
            note=self.upstream,
            state=self._fate,
            reason=self.reason,
            ended_at=self.ended_at,
            last=last,
            size=self._size,
            reopened=self._reopened,
            extents=self._extents,
        )

    def _read_behind(self, after: int, max_bytes: int) -> Slice:
        """What is not in memory. Without the lock, for files take their time."""
        recent, asked = self._store.recent, (after, max_bytes)
        found = recent.find(self, asked)
        if found is None:
            found = self._read_file(after, self._base, max_bytes)
            with self._lock:
                self._must_exist()
                recent.keep(self, asked, found)
        return found

    def _read_file(self, after: int, base: int, max_bytes: int) -> Slice:
        parts: list[bytes] = []
        room = max_bytes
        number = after
        with self._store.reading() as block:
            for place, before in self._extents.behind(after, base):
                found = block(place)
                if found is None:
                    raise Missing("the log was deleted")
                data, sizes = found
                start = sum(sizes[: number - before])
                stop = start
                for size in sizes[number - before :]:
                    if size > room and number > after:
                        break
                    room -= size
                    stop += size
                    number += 1
                parts.append(data[start:stop])
                if stop < len(data):
                    break
        return Slice(b"".join(parts), number)


class SqliteStore:
    """Keeps logs in a file.

    Args:
        path: Where the file is, or shall be. Its directory must exist. What is kept there are people's answers: the
            file is made for this user alone.
        strict: Show readers nothing that is not on disk.
        flush_seconds: The window. Everything that is appended within it shares a transaction; a strict store does not
            wait for it.
        max_log_bytes: How large each log may become.
        clock: Seconds since the epoch.

    Attributes:
        interrupted: How many logs were found whose writer had died.
        refuses: Whether nothing more is taken, for the store is closed or cannot write.

    Raises:
        StoreInUse: Another process, or another store in this one, owns the file.
        StoreUnusable: The file is not ours or of another version, or cannot be opened.
    """

    survives = True
    remote = False

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        strict: bool = False,
        flush_seconds: float = 0.02,
        max_log_bytes: int = MAX_LOG_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.strict = strict
        self.max_log_bytes = max_log_bytes
        self.clock = clock
        self.refuses = False
        self.recent = Recent(_MAX_RECENT_BYTES)
        self._window = 0.0 if strict else flush_seconds
        self._database = Database(Path(path))
        self.interrupted = self._database.recover(clock())
        # Locks are taken in this order: _naming, a log's, _queue.
        self._naming = threading.Lock()
        self._known: WeakValueDictionary[tuple[str, str], SqliteLog] = WeakValueDictionary()
        self._keys: WeakValueDictionary[tuple[str, str], SqliteLog] = WeakValueDictionary()
        self._queue = threading.Lock()
        self._work = threading.Condition(self._queue)
        self._done = threading.Condition(self._queue)
        self._live: set[SqliteLog] = set()
        """Those whose events are in memory alone, or may be."""
        self._dirty: list[SqliteLog] = []
        self._doomed: dict[int, SqliteLog | None] = {}
        """Streams that are forgotten, though the file may not know yet."""
        self._due = 0.0
        """When the writer shall begin, in its own time."""
        self._failure: Exception | None = None
        self._closing = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="resumable-llm log writer", daemon=True)
        self._thread.start()
        # A daemon, so that a program without close() can end; but then too it shall not lose what it has appended.
        atexit.register(self.close)

    def must_take(self) -> None:
        """See `Store.must_take`."""
        if self.refuses:
            self.refuse()

    def claim(self, scope: str, key: str) -> Claim | None:
        """See `Store.claim`."""
        self.must_take()
        return FREE if self.by_key(scope, key) is None else None

    def begin(self, head: Head) -> tuple[SqliteLog, bool]:
        """See `Store.begin`."""
        self.must_take()
        with self._naming:
            now = self.clock()
            known = self._fresh(self._by_key(head.scope, head.key), now)
            known = known or self._fresh(self._named(head.scope, head.id), now)
            if known is not None:
                require_same_request(known.head, head)
                return known, False
            self._database.streams += 1
            log = SqliteLog(self, self._database.streams, head)
            self._known[head.scope, head.id] = log
            if head.key:
                self._keys[head.scope, head.key] = log
            return log, True

    def find(self, scope: str, id: str) -> SqliteLog:
        """See `Store.find`."""
        with self._naming:
            log = self._by_id(scope, id)
        if log.expired(self.clock()):
            raise Expired("the log has expired")
        return log

    def by_key(self, scope: str, key: str) -> SqliteLog | None:
        """See `Store.by_key`."""
        with self._naming:
            log = self._by_key(scope, key)
        return None if log is None or log.expired(self.clock()) else log

    def delete(self, scope: str, id: str) -> None:
        """See `Store.delete`."""
        with self._naming:
            self._forget(self._by_id(scope, id))

    def sweep(self, now: float) -> int:
        """See `Store.sweep`."""
        with self._naming:
            expired = [log for log in self._known.values() if log.expired(now)]
            for log in expired:
                self._forget(log)
            count = len(expired)
            doomed = self._forgotten()
            with self._readable():
                rows = self._database.expired(now)
            for stream, scope, name in rows:
                # One that is in use was looked at above; it may have been reopened.
                if stream not in doomed and (scope, name) not in self._known:
                    self._doom(stream, None)
                    count += 1
            return count

    def close(self) -> None:
        """See `Store.close`."""
        with self._queue:
            if self._closing:
                return
            self._closing = self.refuses = True
            self._failure = None  # one more attempt
            self._work.notify()
        self._thread.join()
        self._database.close()
        self.recent.clear()
        atexit.unregister(self.close)
        if self._failure is not None:
            raise StoreFailed("not all that was appended could be written") from self._failure

    # For its logs.

    def refuse(self) -> NoReturn:
        """Raise, and say why."""
        if self._closing:
            raise StoreFailed("the store is closed")
        failure = self._failure
        raise StoreFailed(f"the store cannot write: {failure}") from failure

    def mark(self, log: SqliteLog) -> None:
        """There is something to write."""
        with self._queue:
            if self._stopped:
                raise StoreFailed("the store is closed")
            if not self._dirty:
                self._hurry()
            self._dirty.append(log)
            self._live.add(log)

    def let_go(self, log: SqliteLog) -> None:
        """All of it is on disk, or it is forgotten."""
        self.recent.forget(log)
        with self._queue:
            self._live.discard(log)

    def wait(self, reached: Callable[[], bool], seconds: float | None) -> None:
        """Block until a commit has reached something."""
        with self._done:
            if not self._done.wait_for(lambda: reached() or self._stopped or self._failure, seconds):
                raise TimeoutError
            if not reached():
                self.refuse()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], Block | None]]:
        """See `Database.reading`."""
        with self._readable(), self._database.reading() as block:
            yield block

    # By name; whoever calls these holds _naming.

    def _by_id(self, scope: str, id: str) -> SqliteLog:
        log = self._named(scope, id)
        if log is None:
            raise Missing("there is no such log")
        return log

    def _named(self, scope: str, id: str) -> SqliteLog | None:
        return self._known.get((scope, id)) or self._from_file(lambda: self._database.find(scope, id))

    def _by_key(self, scope: str, key: str) -> SqliteLog | None:
        return self._keys.get((scope, key)) or self._from_file(lambda: self._database.by_key(scope, key))

    def _from_file(self, look: Callable[[], Record | None]) -> SqliteLog | None:
        doomed = self._forgotten()  # before the look: what the file has forgotten since is still among them
        with self._readable():
            record = look()
        if record is None or record.stream in doomed:
            return None
        head = record.head
        log = self._known[head.scope, head.id] = SqliteLog(self, record.stream, head, record)
        if head.key:
            self._keys[head.scope, head.key] = log
        return log

    def _fresh(self, log: SqliteLog | None, now: float) -> SqliteLog | None:
        """The log, unless it has expired; then it is forgotten, for its name is wanted."""
        if log is not None and log.expired(now):
            self._forget(log)
            return None
        return log

    def _forget(self, log: SqliteLog) -> None:
        head = log.head
        del self._known[head.scope, head.id]
        self._keys.pop((head.scope, head.key), None)
        log.drop()  # first, so that the writer never takes anything of a stream that it deletes in the same breath
        self._doom(log.stream, log)

    def _doom(self, stream: int, log: SqliteLog | None) -> None:
        with self._queue:
            self._hurry()
            self._doomed[stream] = log
            self._done.notify_all()

    def _forgotten(self) -> frozenset[int]:
        with self._queue:
            return frozenset(self._doomed)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        if self._closing:
            raise StoreFailed("the store is closed")
        try:
            yield
        except sqlite3.Error as error:
            raise StoreFailed(f"the store cannot be read: {error}") from error

    # The writer.

    def _hurry(self) -> None:
        """Something comes to the queue, whose lock is held. The first thing decides when the writer begins."""
        if not self._dirty and not self._doomed:
            self._due = time.monotonic() + self._window
            self._work.notify()

    def _run(self) -> None:
        while self._has_work():
            self._flush()

    def _has_work(self) -> bool:
        with self._work:
            self._work.wait_for(lambda: self._dirty or self._doomed or self._closing)
            while not self._closing and (left := self._due - time.monotonic()) > 0:
                self._work.wait(left)
            if self._closing and (self._failure is not None or not (self._dirty or self._doomed)):
                self._stopped = True
                self._done.notify_all()
                return False
            return True

    def _flush(self) -> None:
        with self._queue:
            logs, self._dirty = self._dirty, []
            doomed = dict(self._doomed)
        taken = [(log, change) for log in logs if (change := log.take()) is not None]
        try:
            self._database.write(
                [change for _, change in taken],
                [(stream, None if log is None else log.extents) for stream, log in doomed.items()],
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the appenders must hear of it, and nothing be lost
            for log, change in taken:
                log.give_back(change)
            if self._failure is None:  # not with each new attempt
                _logger.warning("sqlite.away error=%s", error)
            with self._queue:
                self._failure, self.refuses = error, True
                self._due = time.monotonic() + _RETRY_SECONDS
                self._done.notify_all()
            return
        for log, change in taken:
            log.settle(change)
        if self._failure is not None:
            _logger.warning("sqlite.back")
        with self._queue:
            for stream in doomed:
                del self._doomed[stream]
            self._failure, self.refuses = None, self._closing
            self._done.notify_all()
