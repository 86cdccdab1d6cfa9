"""Where the events of one log lie in a file: its blocks, in order, each with the number of its last event."""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator


class Extents:
    """The blocks of one log. Grows at its end only."""

    __slots__ = ("_lasts", "_places")

    def __init__(self) -> None:
        self._places = array("q")
        self._lasts = array("q")

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def add(self, place: int, last: int) -> None:
        """A block was written.

        Args:
            place: Its row; higher than those before.
            last: The number of its last event. A block of a note alone has the number of the block before.
        """
        self._places.append(place)
        self._lasts.append(last)

    def behind(self, after: int, last: int) -> Iterator[tuple[int, int]]:
        """The blocks that hold the events behind a number, up to another.

        What is added meanwhile does no harm.

        Returns:
            For each its row, and how many events there are before it.
        """
        index = bisect_right(self._lasts, after)
        before = self._lasts[index - 1] if index else 0
        while before < last:
            end = self._lasts[index]
            if end > before:
                yield self._places[index], before
                before = end
            index += 1

    def pop(self) -> None:
        """Take back what was added last."""
        self._places.pop()
        self._lasts.pop()

    def pack(self) -> bytes:
        """As few bytes as it takes: neighbours differ by little, and mostly by the same."""
        steps = [*_steps(self._places), *_steps(self._lasts)]
        return zlib.compress(struct.pack(f"<{len(steps)}q", *steps), 1)

    @classmethod
    def unpack(cls, packed: bytes) -> Extents:
        """Read what `pack` has written."""
        data = zlib.decompress(packed)
        steps = struct.unpack(f"<{len(data) // 8}q", data)
        self = cls()
        place = last = 0
        middle = len(steps) // 2
        for step, events in zip(steps[:middle], steps[middle:], strict=True):
            place += step
            last += events
            self.add(place, last)
        return self


def _steps(numbers: array[int]) -> Iterator[int]:
    before = 0
    for number in numbers:
        yield number - before
        before = number
