"""What was said so far: the events delivered, kept raw within a bound and read only when somebody needs to know.

Keeping costs a reference per delivery, for the bytes exist anyway. Nothing here knows how a provider writes its events;
a dialect reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from resumable_llm.core.events import BOM, Fields
from resumable_llm.core.framing import EVENT_STREAM, Framing


class Transcript:
    """The events delivered, in order.

    Args:
        max_bytes: Bound on what is kept, in bytes; beyond it the oldest half is let go.
        before_letting_go: Called before something is let go, for those who have not read it yet.
        framing: How the body is cut into events.
    """

    __slots__ = (
        "_before_letting_go",
        "_bytes",
        "_events",
        "_gone",
        "_kept_bytes",
        "_max_bytes",
        "_parts",
        "framing",
        "fresh",
        "in_hand",
        "last_plain",
        "plain_size",
        "whole",
    )

    def __init__(self, max_bytes: int, before_letting_go: Callable[[], None], framing: Framing = EVENT_STREAM) -> None:
        self.framing = framing
        self.whole = True
        """False once something had to be let go, or if the answer began in another process."""
        self._max_bytes = max_bytes
        self._before_letting_go = before_letting_go
        self.fresh: list[bytes] = []
        """What has passed plainly since the last `settle`: events that each end in the boundary, not counted yet."""
        self.plain_size = 0
        """Bytes that have passed plainly, as of the last `settle`."""
        self.last_plain = b""
        """The last of it, as of the last `settle`."""
        self.in_hand = b""
        """The last of what has passed plainly, until the caller comes back for more."""
        self._parts: list[bytes] = []
        self._gone = 0
        self._events = 0
        self._bytes = 0
        self._kept_bytes = 0

    @property
    def events(self) -> int:
        """Events delivered, kept or not."""
        self.settle()
        return self._events

    @property
    def size(self) -> int:
        """Bytes delivered, kept or not."""
        self.settle()
        return self._bytes

    def keep(self, part: bytes, events: int) -> None:
        """Keep so many events."""
        if self.fresh:
            self.settle()
        self._events += events
        self._bytes += len(part)
        self._kept_bytes += len(part)
        self._parts.append(part)
        if self._kept_bytes > self._max_bytes:
            self._let_go()

    def settle(self) -> None:
        """Count what has passed plainly."""
        if self.fresh:
            joined = b"".join(self.fresh)
            self.in_hand = self.last_plain = self.fresh[-1]
            self.fresh.clear()
            self.plain_size += len(joined)
            self.keep(joined, joined.count(self.framing.boundary))

    def since(self, part: int) -> tuple[int, Iterator[Fields]]:
        """The events kept since an earlier call.

        Args:
            part: What that call returned first; 0 at first.

        Returns:
            What to give next time, and the fields of the events.
        """
        self.settle()
        first = max(part - self._gone, 0)
        return self._gone + len(self._parts), self._fields(first)

    def __iter__(self) -> Iterator[Fields]:
        return self.since(0)[1]

    def _fields(self, first: int) -> Iterator[Fields]:
        splitter = self.framing.splitter(sys.maxsize)
        for number in range(first, len(self._parts)):
            part = self._parts[number]
            for block in splitter.feed(part.removeprefix(BOM) if number + self._gone == 0 else part):
                yield self.framing.parse(block)
        last = splitter.rest()
        if last:
            yield self.framing.parse(last)

    def _let_go(self) -> None:
        self._before_letting_go()
        self.whole = False
        while self._kept_bytes > self._max_bytes // 2 and self._parts:
            half = len(self._parts) // 2 + 1
            self._kept_bytes -= sum(map(len, self._parts[:half]))
            self._gone += half
            del self._parts[:half]
