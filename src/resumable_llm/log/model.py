"""What a log is, whichever store keeps it: states, the head, cursors, and the two protocols.

**Cursors.** Events are numbered from 1 without a gap, and the number is the id that clients see: ``id: 17``. Delivery
does not wait for the disk, so when a process is killed, clients may have seen a few events that were lost. The log is
then `State.INTERRUPTED` and may be reopened, to go on where it broke off; what follows gets the numbers of the lost
events a second time. So that nobody mistakes one for the other, each reopening begins a new epoch, and its number is
part of the id: ``id: 1.18`` is the 18th event, written after the first reopening. A cursor says how it was given out,
and `Log.locate` finds out whether that event is still the one that the log has. Refusing to append would be simpler,
but it would turn each restart of a relay into a lost answer, where the provider would have told the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from resumable_llm.log.errors import Ahead, BadCursor

MAX_READ = 256 * 1024
"""Bytes that a read gives by default."""

_CURSOR = re.compile(r"(?:([1-9][0-9]{0,8})\.)?(0|[1-9][0-9]{0,14})", re.ASCII)


class State(Enum):
    """What has become of an answer."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    """Nobody read it for too long."""
    INTERRUPTED = "interrupted"
    """The process that wrote it has died, or let go of it; it may be reopened."""


@dataclass(frozen=True)
class Head:
    """What is known of an answer when it begins. Holds neither credentials nor a prompt.

    Attributes:
        id: Names the log within its scope; cannot be guessed, unless the client chose it.
        scope: A keyed hash of the caller's credentials. Opaque here, and compared always.
        key: The idempotency key of the request, or "" if it has none.
        fingerprint: Of the request: the same key with another fingerprint is another request.
        status: Of the response.
        headers: Of the response, to be given again.
        created_at: Seconds since the epoch.
        ttl: Seconds that the log is kept, counted from its end.
        upstream: What the writer needs to go on after a crash, as it stands at the beginning; see `Log.upstream`.
    """

    id: str
    scope: str
    key: str
    fingerprint: str
    status: int
    headers: tuple[tuple[str, str], ...]
    created_at: float
    ttl: float
    upstream: str = ""


class Cursor(NamedTuple):
    """The id of an event, in parts.

    Attributes:
        epoch: How often the log had been reopened when the event was written.
        number: The event's. 0 is the place before the first.
    """

    epoch: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor that a client has sent.

        Raises:
            BadCursor: No log gives out such an id.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise BadCursor("the cursor is not of the form 17 or 1.17")
        return cls(int(match[1] or 0), int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}" if self.epoch else str(self.number)


class Slice(NamedTuple):
    """Events that were read.

    Attributes:
        data: The events as clients get them, one behind the other; b"" if there are none.
        last: The number of the last of them; where nothing was read, the one that was asked for.
    """

    data: bytes
    last: int


class Log(Protocol):
    """One answer. Every method may be called from any thread."""

    @property
    def head(self) -> Head:
        """What was known when it began."""
        ...

    @property
    def state(self) -> State:
        """What has become of it, as readers may know it. Once it is not RUNNING, `last` stays until a `reopen`.

        Where a strict store cannot write the end, it is INTERRUPTED for as long as that lasts.
        """
        ...

    @property
    def reason(self) -> str:
        """What was said of the end."""
        ...

    @property
    def ended_at(self) -> float | None:
        """Seconds since the epoch, or None while it runs."""
        ...

    @property
    def last(self) -> int:
        """The number of the last event that may be read; 0 if there is none."""
        ...

    @property
    def durable(self) -> int:
        """The number of the last event that survives the process; -1 while not even the head does."""
        ...

    @property
    def upstream(self) -> str:
        """The latest note of the writer; `Head.upstream` if it made none."""
        ...

    def append(self, frames: Sequence[bytes], *, note: str | None = None, wait: bool = True) -> int:
        r"""Add events.

        Args:
            frames: Each is a whole block of server-sent events with its blank line, and has no id. Readers get it as
                ``b"id: 17\n" + frame``.
            note: Replaces `upstream`. It reaches the disk with these events and never without them, so it may say where
                they end.
            wait: Where the store is strict: return only when the events are on disk. Without it, return at once;
                readers are still shown nothing that is not on disk. Other stores never wait.

        Returns:
            The number of the last event appended so far.

        Raises:
            LogEnded: The log does not run.
            LogFull: The log may not become so large. Nothing was appended.
            Missing: The log was deleted.
            StoreFailed: The store cannot write. Where it was found out while waiting, the events may still reach the
                disk later; otherwise nothing was appended.
        """
        ...

    def end(self, state: State, reason: str = "") -> bool:
        """End the log, unless it has ended. Never waits, and never fails because the store does.

        Args:
            state: Any but RUNNING. INTERRUPTED is for a writer that lets go of an answer which another may go on with.
            reason: For people; holds no secret.

        Returns:
            Whether this call has ended it; of two that race, the first.
        """
        ...

    def reopen(self) -> None:
        """Run again after an interruption, in a new epoch.

        Raises:
            LogEnded: It is not interrupted: it has ended otherwise, or runs already.
            Missing: The log was deleted.
            StoreFailed: The store cannot write.
        """
        ...

    def locate(self, cursor: Cursor) -> int:
        """The number behind which a reader with this cursor has to read on.

        Raises:
            Ahead: The event was lost in a crash, or is of the future.
            BadCursor: No event ever had this id.
        """
        ...

    def read(self, after: int, max_bytes: int = MAX_READ) -> Slice:
        """The next events behind a number: at least one if there is one, but not always all. Read on until none comes.

        Args:
            after: 0 for the first.
            max_bytes: Read no more than this, unless the first event is larger.

        Raises:
            Ahead: There is no event of that number.
            Missing: The log was deleted.
            StoreFailed: The store cannot be read, or is closed.
        """
        ...

    def subscribe(self, wake: Callable[[], object]) -> Callable[[], None]:
        """Be called when there is something new to read, when the log has ended, runs again or was deleted.

        First subscribe, then read: then nothing is missed.

        Args:
            wake: Called from whichever thread has brought the news. Must neither block nor raise, and may read the log,
                but not change it. Where it raises, it is not called again.

        Returns:
            What ends the subscription.
        """
        ...

    def wait_durable(self, number: int, seconds: float | None = None) -> None:
        """Block until an event survives the process; number 0 stands for the head.

        Raises:
            Missing: The log was deleted.
            StoreFailed: The store cannot write.
            TimeoutError: The seconds are over.
        """
        ...


class Claim(Protocol):
    """The right to begin a log. If nobody holds it any more, it lapses some seconds later, as with its process."""

    def release(self) -> None:
        """Give it back at once, unless the log was begun. Never waits, and never fails."""
        ...


class Store(Protocol):
    """Where logs are kept. Every method may be called from any thread."""

    @property
    def survives(self) -> bool:
        """Whether logs outlive the process that wrote them. Otherwise notes are for nobody."""
        ...

    @property
    def remote(self) -> bool:
        """Whether `begin`, `find`, `by_key`, `delete`, `sweep` and `Log.reopen` wait for another machine.

        So does `claim`. Whoever has an event loop calls them in a thread then. All else never waits for the network.
        """
        ...

    def must_take(self) -> None:
        """Raise where it is known that no log can begin now.

        Raises:
            StoreFailed: The store cannot write, or is closed.
        """
        ...

    def claim(self, scope: str, key: str) -> Claim | None:
        """Have the right to begin the log of a key, so that no other process does what is needed for it meanwhile.

        Within this process anybody may have it.

        Returns:
            The right, until the log begins; None if another process has it, or the log was begun.

        Raises:
            StoreFailed: The store cannot write, or is closed.
        """
        ...

    def begin(self, head: Head) -> tuple[Log, bool]:
        """The log of a request: a new one, or the one that the same request has begun before. Atomic.

        Returns:
            The log, and whether it is new.

        Raises:
            KeyReused: The key or the id names another request.
            StoreFull: There are too many logs.
            StoreFailed: The store cannot write, or is closed.
        """
        ...

    def find(self, scope: str, id: str) -> Log:
        """The log of this name.

        Raises:
            Missing: There is none in this scope.
            Expired: Its time is over.
            StoreFailed: The store is closed.
        """
        ...

    def by_key(self, scope: str, key: str) -> Log | None:
        """The log that was begun with this idempotency key, or None; an expired one counts as none."""
        ...

    def delete(self, scope: str, id: str) -> None:
        """Forget a log at once, whether or not it has ended.

        Raises:
            Missing: There is none in this scope.
            StoreFailed: The store is closed.
        """
        ...

    def sweep(self, now: float) -> int:
        """Forget what has expired, and say how many."""
        ...

    def close(self) -> None:
        """Write what is left and let go of everything. May be called twice.

        Raises:
            StoreFailed: Not all could be written.
        """
        ...


def locate(cursor: Cursor, reopened: Sequence[int], last: int) -> int:
    """What `Log.locate` says.

    Args:
        cursor: The reader's.
        reopened: How many events the log had at each reopening.
        last: The number of the last event.
    """
    epoch, number = cursor
    if epoch > len(reopened):
        raise Ahead("the log has not been reopened so often", last)
    if epoch and number <= reopened[epoch - 1]:
        raise BadCursor("the event was written before that epoch")
    kept = reopened[epoch] if epoch < len(reopened) else last
    if number > kept:
        raise Ahead(f"the log has no event {cursor}; it has those up to {kept} of that epoch", kept)
    return number
