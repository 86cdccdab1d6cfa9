"""Where answers are kept on the client's side: what a call is found by, and what there is of its answer.

A call is the same as an earlier one if it has the same idempotency key, given by its caller, the same request and the
same credentials. Of these the store gets keyed hashes, but for the key.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakValueDictionary, finalize

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.errors import JournalRefused
from resumable_llm.core.model import Checkpoint, Past
from resumable_llm.core.notes import read_note
from resumable_llm.log.errors import LogEnded, LogError, StoreUnusable
from resumable_llm.log.model import Head, Log, State, Store
from resumable_llm.log.scope import fingerprint_of, scope_of, secret_beside
from resumable_llm.log.sqlite import SqliteStore
from resumable_llm.transports.call import Call, dialect_of, plan_of
from resumable_llm.transports.recording import LET_GO, AnyRecording, AsyncRecording, Recording, read_tape

KEPT_SECONDS = 7 * 24 * 3600.0
"""How long an answer is kept behind its end."""

PATIENCE = 15.0
"""How long to wait, in seconds, for an answer that another process asks for or receives to turn out to be nobody's."""

_PAUSE_SECONDS = 0.1
_SWEEP_SECONDS = 3600.0
_FOR_EVER = 1e9
_NOT_KEPT = ("set-cookie",)
_IN_PROGRESS = "nothing was sent, for an answer to this idempotency key is being received"

_logger = logging.getLogger("resumable_llm")

Pairs = Sequence[tuple[bytes, bytes]]
AnyJournal = str | PathLike[str] | Store | None
"""What callers give as their journal."""


@dataclass(frozen=True)
class Entry:
    """What an answer is found by."""

    scope: str
    key: str
    fingerprint: str
    dialect: Dialect = field(compare=False)
    """Its protocol, as far as the request tells."""


class Kept(NamedTuple):
    """What there is of an answer.

    Attributes:
        entry: What it was found by.
        log: Where it is kept.
        start: Where it goes on.
        past: All that there is of it, unless somebody receives it.
        recording: Who receives it at this moment; None if nobody does.
        may_go_on: Whether more of it may have to be asked for.
    """

    entry: Entry
    log: Log
    start: Checkpoint
    past: Past
    recording: Recording | AsyncRecording | None
    may_go_on: bool

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the response, as the caller got them the first time, but for cookies."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.log.head.headers]


class Shelf:
    """A store, and who is receiving something that goes there. Where the store is far away, its methods block.

    Args:
        store: Where answers are kept.
        secret: What is hashed is hashed with this.
    """

    def __init__(self, store: Store, secret: bytes) -> None:
        self.store = store
        self._secret = secret
        self._lock = threading.Lock()
        self._recordings: WeakValueDictionary[Entry, Recording | AsyncRecording] = WeakValueDictionary()
        self._sweep_at = 0.0
        self._process = os.getpid()

    def entry(self, call: Call, request: Any) -> Entry | None:
        """What a call is found by; None where its caller has not named it, for nobody can make it again then.

        Args:
            call: The call.
            request: The request as the caller made it, to which nothing was added.
        """
        if not call.key or call.fingerprint or call.plan.body is None:
            return None
        plan = plan_of(request)
        parts = urlsplit(plan.url)
        query = parts.query.encode()
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in plan.headers]
        # Cookies are credentials where there are no others. Otherwise they are a balancer's, and come and go.
        scope = scope_of(self._secret, [pair for pair in headers if pair[0] != b"cookie"], query)
        if scope == scope_of(self._secret, (), b""):
            scope = scope_of(self._secret, headers, query)
        target = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        place = call.plan.header("last-event-id")
        if place is not None:  # what comes behind another event is another answer
            target = f"{target}#{place}"
        fingerprint = fingerprint_of(self._secret, plan.method, target.encode(), query, plan.body or b"")
        return Entry(scope, call.key, fingerprint, call.dialect)

    def find(self, entry: Entry) -> Kept | None:
        """What there is of an answer; None if there is nothing.

        Raises:
            JournalRefused: The key names another request, or another process receives the answer, or it cannot be read.
        """
        if os.getpid() != self._process:  # a fork has neither the thread that writes, nor a connection of its own
            raise JournalRefused(
                "nothing was sent, for the journal belongs to the process that this one was forked from"
            )
        try:
            log = self.store.by_key(entry.scope, entry.key)
            if log is None and self.store.remote:
                log = self._take_turn(entry)
            if log is None:
                return None
            if self.store.remote:
                self._wait_while_running(entry, log)
            with self._lock:
                return self._kept(entry, log)
        except LogError as error:
            raise JournalRefused(f"nothing was sent, for the journal cannot be read: {error}") from error

    def begin(
        self, entry: Entry, status: int, headers: Pairs, note: str, make: Callable[[Log], AnyRecording]
    ) -> AnyRecording:
        """Keep an answer that has just begun.

        Args:
            entry: What it is to be found by.
            status: Of the response.
            headers: Of the response.
            note: Where the conversation stands.
            make: Makes the recording.

        Raises:
            LogError: It cannot be kept.
        """
        now = time.time()
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        head = Head(
            id=uuid.uuid4().hex,
            scope=entry.scope,
            key=entry.key,
            fingerprint=entry.fingerprint,
            status=status,
            headers=tuple(pair for pair in pairs if pair[0].lower() not in _NOT_KEPT),
            created_at=now,
            ttl=KEPT_SECONDS,
            upstream=note,
        )
        with self._lock:
            if now >= self._sweep_at:
                self._sweep_at = now + _SWEEP_SECONDS
                self.store.sweep(now)
            log, new = self.store.begin(head)
            if not new:
                raise LogEnded("another call with its idempotency key was answered at the same time")
            return self._put(entry, make(log))

    def go_on(self, kept: Kept, make: Callable[[], AnyRecording]) -> AnyRecording:
        """Keep the rest of an answer.

        Raises:
            JournalRefused: Another call was quicker.
        """
        with self._lock:
            if kept.may_go_on:
                try:
                    kept.log.reopen()
                except LogEnded:
                    raise JournalRefused(f"{_IN_PROGRESS} by another call") from None
                except LogError as error:
                    _logger.warning("the journal does not keep the rest of an answer: %s", error)
            recording = make()
            return self._put(kept.entry, recording) if kept.may_go_on else recording

    def _put(self, entry: Entry, recording: AnyRecording) -> AnyRecording:
        self._recordings[entry] = recording
        finalize(recording, recording.tape.end)  # for one that nobody has ever read
        return recording

    def _take_turn(self, entry: Entry) -> Log | None:
        """Have the right to ask for an answer, unless another process asks for it: then wait for that one."""
        until = time.monotonic() + PATIENCE
        # Nobody holds on to the right. So it lapses some seconds later, whatever has become of the call.
        while self.store.claim(entry.scope, entry.key) is None:
            log = self.store.by_key(entry.scope, entry.key)
            if log is not None:
                return log
            if time.monotonic() >= until:
                raise JournalRefused(f"{_IN_PROGRESS} by another process")
            time.sleep(_PAUSE_SECONDS)
        return None

    def _wait_while_running(self, entry: Entry, log: Log) -> None:
        """Somebody's lease may have to lapse first, and a copy of the log may have to catch up."""
        changed = threading.Event()
        unsubscribe = log.subscribe(changed.set)
        until = time.monotonic() + PATIENCE
        while log.state is State.RUNNING and entry not in self._recordings and (left := until - time.monotonic()) > 0:
            changed.wait(left)
            changed.clear()
        unsubscribe()

    def _kept(self, entry: Entry, log: Log) -> Kept:
        if log.head.fingerprint != entry.fingerprint:
            raise JournalRefused(
                "nothing was sent, for the idempotency key names another request in the journal: give each its own"
            )
        recording = self._recordings.get(entry) if log.state is State.RUNNING else None
        if recording is None and log.state is State.RUNNING:
            if self.store.remote:
                raise JournalRefused(f"{_IN_PROGRESS} by another process")
            log.end(State.INTERRUPTED, LET_GO)
        try:
            start, seams = read_note(log.upstream)
            dialect_of(start, entry.dialect)
        except ValueError as error:
            raise JournalRefused(f"the answer was kept by another version of this library: {error}") from error
        done = start.complete or log.state in (State.COMPLETE, State.FAILED)
        data = read_tape(log) if recording is None else b""
        past = Past(data, start.events, seams, log.reason if log.state is State.FAILED else None)
        may_go_on = recording is None and log.state is State.INTERRUPTED and not done
        return Kept(entry, log, replace(start, complete=done), past, recording, may_go_on)


_opening = threading.Lock()
_files: dict[Path, Shelf] = {}
_shelves: WeakValueDictionary[int, Shelf] = WeakValueDictionary()


def shelf_of(journal: AnyJournal) -> Shelf | None:
    """The shelf that a journal is; the same one for the same journal.

    Args:
        journal: A path, whose file is opened once and then stays open until the process ends; or a store, which is its
            owner's to close; or None.

    Raises:
        LogError: It cannot be opened.
        TypeError: It is neither.
    """
    if journal is None:
        return None
    with _opening:
        if isinstance(journal, (str, PathLike)):
            path = Path(journal).expanduser().resolve()
            if path not in _files:
                _files[path] = _open(path)
            return _files[path]
        if not callable(getattr(journal, "by_key", None)):
            raise TypeError(f"journal must be a path or a store of resumable_llm.log, not {journal!r}")
        shelf = _shelves.get(id(journal))
        if shelf is None:
            shelf = _shelves[id(journal)] = Shelf(journal, _secret_in(journal))
        return shelf


def _open(path: Path) -> Shelf:
    store = SqliteStore(path)
    try:
        return Shelf(store, secret_beside(path))
    except OSError as error:
        store.close()  # or this process could not open it again
        raise StoreUnusable(f"{path}.key, which has the journal's secret, cannot be used: {error}") from error


def _secret_in(store: Store) -> bytes:
    """A secret that is in the store itself, for there is nothing beside it that every process finds."""
    secret = secrets.token_hex(32)
    head = Head("journal", "journal", "", "", 0, (), time.time(), _FOR_EVER, secret)
    log, new = store.begin(head)
    if new:
        log.end(State.COMPLETE)
    return bytes.fromhex(log.head.upstream)
