"""A log of a Redis store: one that this process writes, or a copy of one that another writes.

Either may turn into the other. Whoever writes has all of it in memory and tells Redis what is new; a copy is told by
Redis, entry by entry. This module knows what entries mean, and nothing of connections.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from resumable_llm.log.errors import LogEnded
from resumable_llm.log.model import Head, State
from resumable_llm.log.redis_link import Entry
from resumable_llm.log.redis_scripts import HIGHEST
from resumable_llm.log.written import Keeper, WrittenLog

_NUMBERS = struct.Struct("<7I")
_OVERHEAD = 32 + _NUMBERS.size

Position = tuple[int, int]
"""The id of an entry: its epoch, counted from 1, and its number."""


class Owner(Keeper, Protocol):
    """What a log asks of its store."""

    @property
    def closed(self) -> bool:
        """Whether nothing is written any more."""
        ...

    def wish(self, log: RedisLog, state: State, reason: str) -> None:
        """Another's log shall end."""
        ...

    def reopen(self, log: RedisLog) -> None:
        """Take it over."""
        ...


class RedisLog(WrittenLog[Owner]):
    """A log of a `RedisStore`, made by it alone.

    Args:
        store: The store.
        stream: The log's name in Redis, of 32 letters.
        head: What is known of the answer.
        owned: Whether this process writes it.
        note: The latest, as far as Redis has told.
    """

    __slots__ = ("_taken", "_wished", "name", "owned", "position", "stream")

    def __init__(self, store: Owner, stream: str, head: Head, *, owned: bool, note: str | None = None) -> None:
        super().__init__(store, head, durable=0)
        if note is not None:
            self.upstream = note
        self.stream = stream
        self.name = stream.encode()
        self.owned = owned
        """Whether this process has the right to write it, as far as it knows."""
        self.position: Position = (1, 0) if owned else (0, 0)
        """The last entry that a copy has been told."""
        self._taken: tuple[int, str | None, State] = (0, None, State.RUNNING)
        """What is being written: the number of the last event, the note, and the state."""
        self._wished = False
        if not owned:
            self._fate = State.INTERRUPTED  # for whoever would append

    def end(self, state: State, reason: str = "") -> bool:
        """See `Log.end`. Of another's log this is a wish, and `State.CANCELLED` the only one.

        Its owner hears of it with its next write, or when it looks for news, within milliseconds as a rule. Then the
        log ends, here too. Where the owner has died meanwhile, it ends with its lease.
        """
        if self._store.closed:
            return False  # all that ran was interrupted
        if self.conclude(state, reason):
            return True
        with self._lock:
            running = self.state is State.RUNNING and not (self.owned or self._gone or self._wished)
            if not running or state is not State.CANCELLED:
                return False
            self._wished = True
        self._store.wish(self, state, reason)
        return True

    def reopen(self) -> None:
        """See `Log.reopen`."""
        if self._store.refuses:
            self._store.refuse()
        self._store.reopen(self)

    # For the one that writes, in the store's thread.

    def conclude(self, state: State, reason: str) -> bool:
        """End it, if it is ours; returns whether this call has."""
        return super().end(state, reason)

    def take(self, into: list[bytes]) -> int:
        """Add what is to be written, as the script takes it: the name, three numbers and four lengths, what is so long.

        Returns:
            How many bytes it is; 0 if there is nothing to write.
        """
        with self._lock:
            self._dirty = False
            if self._gone or not self.owned:
                return 0
            before, last = self._durable, len(self._frames)
            if last - before == 1:
                data, sizes = self._frames[before], b""
            else:
                frames = self._frames[before:]
                data, sizes = b"".join(frames), b",".join([b"%d" % len(frame) for frame in frames])
            note = end = b""
            if self._noted is not None:
                note = b"=" + self._noted.encode()
            if self._fate is not State.RUNNING:
                end = json.dumps([self._fate.value, self.reason, repr(self.ended_at)]).encode()
            self._taken = last, self._noted, self._fate
            self._noted = None
            lengths = len(data), len(sizes), len(note), len(end)
        into += (self.name, _NUMBERS.pack(self._epoch, before, last, *lengths), data, sizes, note, end)
        return _OVERHEAD + sum(lengths)

    def give_back(self) -> None:
        """What was taken could not be written, or nobody knows whether it was."""
        with self._lock:
            if self._noted is None:
                self._noted = self._taken[1]
            self._mark()

    def settle(self) -> None:
        """What was taken is in Redis."""
        last, _, fate = self._taken
        with self._lock:
            settled = self._settle(last, fate)
        if settled:
            self._settled()

    def compare(self, pen: str, state: str) -> bool:
        """See how far Redis has got with a log that is ours; whether it still is."""
        mine, _, at = pen.rpartition(":")
        epoch, last = map(int, at.split("-"))
        fate = State.RUNNING
        with self._lock:
            if not self.owned or epoch != self._epoch or last > len(self._frames):
                return False
            if not mine:
                fate = self._fate
                if state != fate.value or last < len(self._frames):
                    return False
            if last < self._durable:  # Redis was restarted, and has lost what it had
                self._noted = self.upstream
                self._mark()
            settled = self._settle(last, fate)
        if settled:
            self._settled()
        return True

    def surrender(self, reason: str) -> None:
        """The right to write is lost. What Redis never had is lost with it; what it has, we shall be told."""
        with self._lock:
            if self._gone or not self.owned:
                return
            self.position = (self._epoch, self._durable)
            self.owned = False
            self._cut(self._durable)
            self._turn(State.INTERRUPTED, reason, self._clock())
        self._store.let_go(self)
        self._wake()

    @property
    def unsent(self) -> int:
        """How many bytes Redis has not."""
        with self._lock:
            return sum(map(len, self._frames[self._durable :]))

    # For a copy, in the store's thread.

    def follow(self, entries: Sequence[Entry]) -> bool:
        """Hear what Redis tells. What was told before does no harm.

        Returns:
            False where the log cannot be kept: it was deleted, or something is missing.
        """
        if not entries:
            return True
        with self._lock:
            if self._gone:
                return False
            if self.owned:
                return True
            for name, fields in entries:
                epoch, _, number = name.decode().partition("-")
                position = int(epoch), int(number)
                if position > self.position:
                    if not self._hear(position, fields):
                        return False
                    self.position = position
        self._wake()
        return True

    def own(self, note: str) -> None:
        """It was reopened for us; the copy has heard so."""
        with self._lock:
            self.owned = True
            self._fate = State.RUNNING
            self.upstream = note

    def _hear(self, position: Position, fields: dict[bytes, bytes]) -> bool:
        count = len(self._frames)
        if (data := fields.get(b"d")) is not None:
            sizes = list(map(int, fields[b"s"].split(b","))) if b"s" in fields else [len(data)]
            known = count - (position[1] - len(sizes))
            frames, start = [], 0
            for size in sizes:
                frames.append(data[start : start + size])
                start += size
            self._frames += frames[known:] if known > 0 else frames
            self._size += sum(map(len, self._frames[count:]))
            self.last = self._durable = len(self._frames)
            return known >= 0
        if (state := fields.get(b"e")) is not None:
            self.upstream = fields[b"n"].decode()
            self._turn(State(state.decode()), fields[b"r"].decode(), float(fields[b"t"]))
            return self._cut(int(fields[b"l"]))
        if (kept := fields.get(b"o")) is not None:
            whole = self._cut(int(kept))
            if position[0] > 1:
                self._reopened += (int(kept),)
            self._wished = False
            self._turn(State.RUNNING, "", None)
            return whole
        return False

    def _cut(self, number: int) -> bool:
        """Forget what is behind a number, where Redis never had it; returns whether all before it is here."""
        self._size -= sum(map(len, self._frames[number:]))
        del self._frames[number:]
        self.last = self._durable = len(self._frames)
        return len(self._frames) == number

    def _turn(self, state: State, reason: str, ended_at: float | None) -> None:
        self._fate = State.INTERRUPTED
        self.state, self.reason, self.ended_at = state, reason, ended_at

    def _settle(self, last: int, fate: State) -> bool:
        """Redis has so many events, and knows the end if there is one; whether that is news for anybody."""
        if self._gone or not self.owned:
            return False
        self._durable = last
        if fate is not State.RUNNING:
            self.position = (self._epoch, HIGHEST)
            self.owned = False
        if self._store.strict:
            self.last, self.state = max(self.last, last), fate
            return True
        return not self.owned

    def _settled(self) -> None:
        if not self.owned:
            self._store.let_go(self)
        if self._store.strict:
            self._wake()

    def _must_run(self) -> None:
        self._must_exist()
        if not self.owned and self.state is State.RUNNING:
            raise LogEnded("another process writes the log")
        super()._must_run()

    @property
    def _epoch(self) -> int:
        return len(self._reopened) + 1


def head_to_json(head: Head) -> str:
    """The head, as Redis keeps it."""
    return json.dumps(asdict(head))


def head_of_json(text: bytes) -> Head:
    """What `head_to_json` has written."""
    fields = json.loads(text)
    return Head(**{**fields, "headers": tuple((name, value) for name, value in fields["headers"])})
