"""Where a fault strikes in a streamed body, and what it does to the bytes.

Pure: bytes in, bytes out, no socket, no clock. What a fault does to the connection (reset, silence, early end) is only
named here, others perform it. It shares no code with the package's own event parser, which it helps to test.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from resumable_llm.testing.plan import Fault

_LINE_END = re.compile(rb"\r\n|\n|\r")
_COLON = ord(":")
_FLIP = 0xFF

# These would tear an event apart if they struck inside one.
_WHOLE_EVENTS = frozenset({"stall_pings", "duplicate", "drop"})


class Blocks(Protocol):
    """Finds the ends of blocks in a body that arrives in pieces, keeping nothing of the body."""

    ping: bytes
    """A block that is alive but says nothing."""

    def feed(self, data: bytes) -> list[tuple[int, bool]]:
        """Return, for each block that ends in `data`, the offset after it and whether it is an event."""
        ...

    def finish(self) -> list[tuple[int, bool]]:
        """Return the same for blocks of which only the end of the body shows that they have ended; the offset is 0."""
        ...


class SSEBlocks:
    """Blocks of text/event-stream: they end with a blank line; one that has only comments, or nothing, is no event."""

    ping = b": ping\n\n"

    def __init__(self) -> None:
        self._first: int | None = None  # first byte of the unfinished line, None while it is empty
        self._fields = False  # the unfinished block has a line that is not a comment
        self._after_cr = False  # an LF that follows a CR belongs to it
        self._held: bool | None = None  # a block ended with that CR: was it an event?

    def feed(self, data: bytes) -> list[tuple[int, bool]]:
        """Return the ends of blocks in `data`; a CR at its very end is decided by what follows."""
        if not data:
            return []
        start = 1 if self._after_cr and data.startswith(b"\n") else 0
        ends = self._release(start)
        for line_end in _LINE_END.finditer(data, start):
            if self._first is None and line_end.start() > start:
                self._first = data[start]
            start = line_end.end()
            if self._first is not None:
                self._fields = self._fields or self._first != _COLON
                self._first = None
                continue
            if line_end.group() == b"\r" and start == len(data):
                self._held = self._fields
            else:
                ends.append((start, self._fields))
            self._fields = False
        if self._first is None and start < len(data):
            self._first = data[start]
        self._after_cr = data.endswith(b"\r")
        return ends

    def finish(self) -> list[tuple[int, bool]]:
        """Return the block that the last CR ended, if it did."""
        return self._release(0)

    def _release(self, offset: int) -> list[tuple[int, bool]]:
        held, self._held = self._held, None
        return [] if held is None else [(offset, held)]


class JSONLines:
    """Lines of application/x-ndjson: each that is not blank is an event."""

    ping = b"\n"

    def __init__(self) -> None:
        self._content = False

    def feed(self, data: bytes) -> list[tuple[int, bool]]:
        """Return the ends of lines in `data`."""
        ends: list[tuple[int, bool]] = []
        start = 0
        while (stop := data.find(b"\n", start)) >= 0:
            ends.append((stop + 1, self._content or bool(data[start:stop].strip())))
            self._content = False
            start = stop + 1
        self._content = self._content or bool(data[start:].strip())
        return ends

    def finish(self) -> list[tuple[int, bool]]:
        """Return nothing: a line without its end is not whole."""
        return []


@dataclass(frozen=True)
class Passage:
    """What to do now: send `before`, let `happening` (if any) befall the connection, and send `after` if it goes on."""

    before: bytes
    happening: Fault | None = None
    after: bytes = b""


class Injector:
    """Carries one fault into one streamed body.

    Args:
        fault: what shall happen, None for nothing.
        blocks: finds the events of the body.
    """

    applied: bool
    """Whether the fault has struck."""

    def __init__(self, fault: Fault | None, blocks: Blocks) -> None:
        self.applied = False
        self._fault = fault
        self._blocks = blocks
        self._bytes = 0
        self._events = 0
        self._at_boundary = True
        self._time_up = False
        self._to_drop = 0
        self._block = bytearray()  # these two only for `duplicate`: they hold the last events themselves
        self._recent: deque[bytes] = deque(maxlen=(fault and fault.events) or 0)

    def receive_data(self, data: bytes) -> Passage:
        """Take a piece of the body; the empty piece at its start lets faults at position 0 strike."""
        return self._pass(data, self._blocks.feed(data))

    def receive_wakeup(self) -> Passage:
        """Take note that the fault's `at_seconds` have passed."""
        self._time_up = True
        return self._pass(b"", [])

    def receive_eof(self) -> Passage:
        """Take note that the body is complete."""
        return self._pass(b"", self._blocks.finish())

    def _pass(self, data: bytes, ends: list[tuple[int, bool]]) -> Passage:
        fault = self._fault
        if fault is None:
            return Passage(data)
        if self.applied:
            return Passage(self._after_dropping(data, -1, ends) if self._to_drop else data)
        position = self._position(fault, data, ends)
        if fault.kind == "duplicate":
            self._remember(data, len(data) if position is None else position, ends)
        self._bytes += len(data)
        self._events += sum(is_event for _, is_event in ends)
        if data or ends:
            self._at_boundary = bool(ends) and ends[-1][0] == len(data)
        if position is None:
            return Passage(data)
        return self._strike(fault, data, position, ends)

    def _position(self, fault: Fault, data: bytes, ends: list[tuple[int, bool]]) -> int | None:
        """Return the offset in `data` at which the fault strikes, None if not there."""
        if fault.at_byte is not None:
            position = max(fault.at_byte - self._bytes, 0)
            if position > len(data):
                return None
        elif fault.at_event is not None:
            missing = fault.at_event - self._events
            reached = [offset for offset, is_event in ends if is_event]
            if missing > len(reached):
                return None
            position = reached[missing - 1] if missing > 0 else 0
        elif self._time_up:
            position = 0
        else:
            return None
        if fault.kind in _WHOLE_EVENTS:
            return self._boundary(position, fault.events if fault.kind == "duplicate" else 0, ends)
        if fault.kind == "corrupt" and fault.garbage is None and position == len(data):
            return None  # the byte to flip is yet to come
        return position

    def _boundary(self, position: int, events: int | None, ends: list[tuple[int, bool]]) -> int | None:
        """Return the first end of a block from `position` on that has at least `events` events before it."""
        before = self._events
        for offset, is_event in [(0, False), *ends] if self._at_boundary else ends:
            before += is_event
            if offset >= position and before >= (events or 0):
                return offset
        return None

    def _strike(self, fault: Fault, data: bytes, position: int, ends: list[tuple[int, bool]]) -> Passage:
        self.applied = True
        before, after = data[:position], data[position:]
        if fault.kind == "duplicate":
            return Passage(before + b"".join(self._recent) + after)
        if fault.kind == "drop":
            self._to_drop = fault.events or 0
            return Passage(before + self._after_dropping(data, position, ends))
        if fault.kind == "corrupt":
            broken = bytes([after[0] ^ _FLIP]) + after[1:] if fault.garbage is None else fault.garbage + after
            return Passage(before + broken)
        return Passage(before, fault, after)

    def _after_dropping(self, data: bytes, position: int, ends: list[tuple[int, bool]]) -> bytes:
        """Return what is left of `data` after the events that are still to be swallowed beyond `position`."""
        for offset, is_event in ends:
            if is_event and offset > position:
                self._to_drop -= 1
                if not self._to_drop:
                    return data[offset:]
        return b""

    def _remember(self, data: bytes, stop: int, ends: list[tuple[int, bool]]) -> None:
        start = 0
        for offset, is_event in ends:
            if offset > stop:
                break
            self._block += data[start:offset]
            if is_event:
                self._recent.append(bytes(self._block))
            self._block.clear()
            start = offset
        self._block += data[start:stop]
