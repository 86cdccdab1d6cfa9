"""The file in which `SqliteStore` keeps its logs: who owns it, what is in it, and every statement of SQL.

**Blocks** are rows that are only ever appended, those of all streams one behind the other: a commit fills pages from
the first byte to the last. Sorted by stream, each of a hundred streams would have a page of its own rewritten for each
event, fourteen times the bytes; an index on them would do the same on a smaller scale. Instead a stream's row lists its
blocks (`Extents`), written when it ends. Of a stream whose writer died they are found by reading the blocks since its
beginning.

**Space**: SQLite uses the pages of deleted blocks again, so the file grows to what is kept at once, and no further. It
never shrinks; giving pages back would cost a page more in each commit.

Knows no thread but the locks that its two connections need: one writes, the other reads at the same time.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

from resumable_llm.log.errors import StoreInUse, StoreUnusable
from resumable_llm.log.extents import Extents
from resumable_llm.log.model import Head, State

_APPLICATION = 0x726C6C67
_VERSION = 1
_BUSY_SECONDS = 5.0

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE streams (
    stream INTEGER PRIMARY KEY,
    scope TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL, headers TEXT NOT NULL, created_at REAL NOT NULL, ttl REAL NOT NULL,
    upstream TEXT NOT NULL, note TEXT NOT NULL, -- the first and the latest
    state TEXT NOT NULL, reason TEXT NOT NULL, ended_at REAL, expires REAL,
    last INTEGER NOT NULL, size INTEGER NOT NULL, reopened TEXT NOT NULL,
    since INTEGER NOT NULL, -- blocks before this row are in extents
    extents BLOB NOT NULL
);
CREATE UNIQUE INDEX streams_by_id ON streams (scope, id);
CREATE UNIQUE INDEX streams_by_key ON streams (scope, key) WHERE key != '';
CREATE INDEX streams_by_expiry ON streams (expires);
CREATE TABLE blocks (
    place INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    last INTEGER NOT NULL, -- number of its last event
    note TEXT,
    sizes BLOB, -- of its events; empty if there is but one
    data BLOB NOT NULL
);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""

_COLUMNS, _MAX_ROWS = 6, 160  # of a statement; it may have 999 parameters
_STEP = 8
"""Statements insert a multiple of this, so that there are few of them: each takes some hundred KiB once it is known."""
_EMPTY = bytearray()
_NO_ROW = (0, 0, 0, 0, _EMPTY, _EMPTY)
"""Is left out, to make up such a multiple."""
_ALONE = contextlib.nullcontext()

_RECORD = """
SELECT stream, scope, id, key, fingerprint, status, headers, created_at, ttl, upstream,
       note, state, reason, ended_at, last, size, reopened, extents
FROM streams
"""


@dataclass
class Record:
    """A stream as its row tells it.

    Attributes:
        stream: Its number in this file.
        head: What was known when it began.
        note: The latest; what the head has of it, if there was none.
        state: What has become of it.
        reason: What was said of the end.
        ended_at: When, or None.
        last: The number of the last event.
        size: Bytes of all events.
        reopened: How many events there were at each reopening.
        extents: Where its events are.
    """

    stream: int
    head: Head
    note: str
    state: State
    reason: str
    ended_at: float | None
    last: int
    size: int
    reopened: tuple[int, ...]
    extents: Extents


class Change(NamedTuple):
    """What is to be written of a stream in one transaction.

    Attributes:
        stream: Its number.
        extents: Where its events are; gets the new block.
        last: The number of the last event, with the new ones.
        frames: New events.
        note: A new note, or None.
        row: What its row has to say, where that has changed. Ordinary events change nothing.
        begins: It has no row yet.
    """

    stream: int
    extents: Extents
    last: int
    frames: Sequence[bytes]
    note: str | None
    row: Record | None
    begins: bool


Block: TypeAlias = tuple[bytes, tuple[int, ...]]
"""Events, and the size of each."""


class Database:
    """The file.

    Args:
        path: Where it is. It is made if there is none, for this user alone; SQLite puts two more beside it, and we one
            that shows that it is in use.

    Raises:
        StoreInUse: Another one has it open.
        StoreUnusable: It is not ours, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._reading = threading.Lock()
        with contextlib.ExitStack() as stack:
            try:
                # SQLite gives its own files the mode of this one.
                path.touch(mode=0o600)
                self._owner = stack.enter_context(contextlib.closing(_own(path)))
                self._writer = stack.enter_context(contextlib.closing(_connect(path)))
                _prepare(self._writer)
                self._reader = stack.enter_context(contextlib.closing(_connect(path)))
                self._place = _one(self._writer, "SELECT coalesce(max(place), 0) FROM blocks")
                self.streams = _one(self._writer, "SELECT coalesce(max(stream), 0) FROM streams")
                """The highest number of a stream so far."""
            except (sqlite3.Error, OSError) as error:
                raise StoreUnusable(f"{path} cannot be used: {error}") from error
            self._files = stack.pop_all()

    def close(self) -> None:
        """Let go of the file. Whoever reads it now gets an error."""
        with self._reading:
            self._files.close()

    def recover(self, now: float) -> int:
        """Mark the streams whose writer is gone as interrupted.

        Args:
            now: Seconds since the epoch; taken for the time of their end.

        Returns:
            How many there are.
        """
        lost = {record.stream: record for record in self._records(self._writer, f"{_RECORD} WHERE expires IS NULL")}
        if not lost:
            return 0
        since = dict(self._writer.execute("SELECT stream, since FROM streams WHERE expires IS NULL"))
        blocks = self._writer.execute(
            "SELECT place, stream, last, note, length(data) FROM blocks WHERE place >= ? ORDER BY place",
            [min(since.values())],
        )
        for place, stream, last, note, size in blocks:
            if place >= since.get(stream, place + 1):
                record = lost[stream]
                record.extents.add(place, last)
                record.last = last
                record.size += size
                if note is not None:
                    record.note = note
        with _transaction(self._writer):
            for record in lost.values():
                record.state = State.INTERRUPTED
                record.reason = "the process that wrote it has died"
                record.ended_at = now
                self._update(record, self._place + 1)
        return len(lost)

    def write(self, changes: Iterable[Change], doomed: Sequence[tuple[int, Extents | None]]) -> None:
        """Make these changes and forget those streams, all or nothing.

        Args:
            changes: No two of one stream.
            doomed: Numbers of streams and, where known, what they have.
        """
        grown: list[Extents] = []
        place = self._place
        blocks: list[object] = []
        begun: list[Record] = []
        turned: list[Record] = []
        for stream, extents, last, frames, note, row, begins in changes:
            if begins and row is not None:
                begun.append(row)
            if frames or note is not None:
                place += 1
                # Neither bytes nor None: for them the module looks for an adapter, and swallows the error that says
                # that there is none. That would be two fifths of what it costs to insert a block.
                count = len(frames)
                sizes = _EMPTY if count == 1 else bytearray(struct.pack(f"<{count}I", *map(len, frames)))
                blocks += (place, stream, last, 0 if note is None else note, sizes, bytearray().join(frames))
                extents.add(place, last)
                grown.append(extents)
            if row is not None:
                turned.append(row)
        # A statement is a transaction of its own, where there is but one.
        together = _transaction(self._writer) if doomed or begun or turned or len(grown) > _MAX_ROWS else _ALONE
        try:
            with together:
                for stream, known in doomed:
                    self._delete(stream, known)
                for record in begun:
                    self._insert(record)
                self._insert_blocks(blocks)
                for record in turned:
                    self._update(record, place + 1)
        except BaseException:
            for extents in grown:
                extents.pop()
            raise
        self._place = place

    def find(self, scope: str, id: str) -> Record | None:
        """The stream of this name."""
        return self._find(f"{_RECORD} WHERE scope = ? AND id = ?", scope, id)

    def by_key(self, scope: str, key: str) -> Record | None:
        """The stream that was begun with this idempotency key."""
        return self._find(f"{_RECORD} WHERE scope = ? AND key = ? AND key != ''", scope, key)

    def expired(self, now: float) -> list[tuple[int, str, str]]:
        """Number, scope and id of the streams whose time is over."""
        with self._reading:
            return self._reader.execute("SELECT stream, scope, id FROM streams WHERE expires <= ?", [now]).fetchall()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], Block | None]]:
        """Read blocks by their rows, None for one that was deleted. All of them as the file is now."""

        def block(place: int) -> Block | None:
            row = self._reader.execute("SELECT data, sizes FROM blocks WHERE place = ?", [place]).fetchone()
            if row is None:
                return None
            data, sizes = row
            return data, struct.unpack(f"<{len(sizes) // 4}I", sizes) if sizes else (len(data),)

        with self._reading, _transaction(self._reader, "BEGIN"):
            yield block

    def _find(self, query: str, *values: object) -> Record | None:
        with self._reading:
            return next(self._records(self._reader, query, *values), None)

    @staticmethod
    def _records(connection: sqlite3.Connection, query: str, *values: object) -> Iterator[Record]:
        for row in connection.execute(query, values).fetchall():
            stream, scope, name, key, fingerprint, status, headers, created_at, ttl, upstream = row[:10]
            note, state, reason, ended_at, last, size, reopened, extents = row[10:]
            pairs = tuple((name, value) for name, value in json.loads(headers))
            head = Head(name, scope, key, fingerprint, status, pairs, created_at, ttl, upstream)
            yield Record(
                stream=stream,
                head=head,
                note=note,
                state=State(state),
                reason=reason,
                ended_at=ended_at,
                last=last,
                size=size,
                reopened=tuple(json.loads(reopened)),
                extents=Extents.unpack(extents),
            )

    def _insert_blocks(self, values: list[object]) -> None:
        """Insert blocks, whose values lie one behind the other.

        With each step of a statement the GIL is let go several times and asked for again, and an event loop that wants
        it too is woken in vain. So the blocks of a commit are one statement, or as few as can be.
        """
        for start in range(0, len(values), _MAX_ROWS * _COLUMNS):
            part = values[start : start + _MAX_ROWS * _COLUMNS]
            rows = len(part) // _COLUMNS
            part += _NO_ROW * (-rows % _STEP)
            self._writer.execute(_insert(rows + -rows % _STEP), part)

    def _insert(self, record: Record) -> None:
        head = record.head
        self._writer.execute(
            "INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', NULL, NULL, 0, 0, '[]', ?, ?)",
            [
                record.stream,
                head.scope,
                head.id,
                head.key,
                head.fingerprint,
                head.status,
                json.dumps(head.headers),
                head.created_at,
                head.ttl,
                head.upstream,
                head.upstream,
                State.RUNNING.value,
                self._place + 1,
                Extents().pack(),
            ],
        )

    def _update(self, record: Record, since: int) -> None:
        self._writer.execute(
            "UPDATE streams SET note = ?, state = ?, reason = ?, ended_at = ?, expires = ?, last = ?, size = ?, "
            "reopened = ?, since = ?, extents = ? WHERE stream = ?",
            [
                record.note,
                record.state.value,
                record.reason,
                record.ended_at,
                None if record.ended_at is None else record.ended_at + record.head.ttl,
                record.last,
                record.size,
                json.dumps(record.reopened),
                since,
                record.extents.pack(),
                record.stream,
            ],
        )

    def _delete(self, stream: int, extents: Extents | None) -> None:
        if extents is None:
            row = self._writer.execute("SELECT extents FROM streams WHERE stream = ?", [stream]).fetchone()
            extents = Extents() if row is None else Extents.unpack(row[0])
        self._writer.executemany("DELETE FROM blocks WHERE place = ?", [(place,) for place in extents])
        self._writer.execute("DELETE FROM streams WHERE stream = ?", [stream])


@cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, nullif(?, 0), ?, ?)"] * rows)
    given = f"WITH given(place, stream, last, note, sizes, data) AS (VALUES {values})"
    return f"{given} INSERT INTO blocks SELECT * FROM given WHERE place"  # noqa: S608 - all ours


def _connect(path: Path, busy_seconds: float = _BUSY_SECONDS) -> sqlite3.Connection:
    # Transactions are begun and committed by us. Locks see to it that threads take turns.
    return sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)


def _own(path: Path) -> sqlite3.Connection:
    """Take possession: a lock of SQLite's own, on a file beside ours, which ends with the process however that dies."""
    beside = path.with_name(f"{path.name}-owner")
    beside.touch(mode=0o600)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(_connect(beside, busy_seconds=0)))
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written, so no file is needed for it
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise StoreInUse(f"{path} is in use by another process, or twice by this one: {error}") from error
        stack.pop_all()
        return connection


def _prepare(connection: sqlite3.Connection) -> None:
    application = _one(connection, "PRAGMA application_id")
    if not application and not _one(connection, "SELECT count(*) FROM sqlite_master"):
        # Each commit rewrites the last page, its parent and the first one, however little is new: small pages cost
        # less.
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
    elif application != _APPLICATION:
        raise StoreUnusable("the file belongs to another application")
    version = _one(connection, "PRAGMA user_version")
    if version != _VERSION:
        raise StoreUnusable(f"the file is of version {version}, and this is version {_VERSION}")
    connection.execute("PRAGMA synchronous = FULL")


def _one(connection: sqlite3.Connection, query: str) -> int:
    (value,) = connection.execute(query).fetchone()
    return int(value)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some failures, a full disk for one, have rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
