"""What was said so far: the events delivered, kept raw within a bound and read only when somebody needs to know.

Keeping costs a reference per delivery, for the bytes exist anyway. Nothing here knows how a provider writes its
events; a dialect reads them.
"""

from __future__ import annotations

from collections.abc import Iterator

from resumable_llm.core.events import BOM, BlockSplitter, Fields, parse_block


class Transcript:
    """The events delivered, in order.

    Args:
        max_bytes: Bound on what is kept, in bytes; beyond it the oldest half is let go.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._uncounted: list[bytes] = []
        self._events = 0
        self._kept_bytes = 0
        self.bytes = 0
        """Bytes delivered, kept or not."""
        self.whole = True
        """False once something had to be let go."""

    @property
    def events(self) -> int:
        """Events delivered, kept or not."""
        if self._uncounted:
            self._events += sum(part.count(b"\n\n") for part in self._uncounted)
            self._uncounted.clear()
        return self._events

    def add_uncounted(self, part: bytes) -> None:
        """Keep events that each end in two line feeds; they are counted when somebody asks."""
        # The hot path: no call that can be spared.
        size = len(part)
        self._uncounted.append(part)
        self._parts.append(part)
        self.bytes += size
        self._kept_bytes += size
        if self._kept_bytes > self._max_bytes:
            self._let_go()

    def add(self, part: bytes, events: int) -> None:
        """Keep so many events."""
        self._events += events
        self._parts.append(part)
        self.bytes += len(part)
        self._kept_bytes += len(part)
        if self._kept_bytes > self._max_bytes:
            self._let_go()

    def _let_go(self) -> None:
        _ = self.events  # counted while they are still here
        self.whole = False
        while self._kept_bytes > self._max_bytes // 2 and self._parts:
            half = len(self._parts) // 2 + 1
            self._kept_bytes -= sum(map(len, self._parts[:half]))
            del self._parts[:half]

    def __iter__(self) -> Iterator[Fields]:
        splitter = BlockSplitter(self._max_bytes + 1)
        for number, part in enumerate(self._parts):
            for block in splitter.feed(part.removeprefix(BOM) if number == 0 else part):
                yield parse_block(block)
