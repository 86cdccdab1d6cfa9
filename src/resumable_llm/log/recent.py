"""What was read lately of logs that are not in memory, for the readers who come back together and want the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeAlias

from resumable_llm.log.live import LiveLog
from resumable_llm.log.model import Slice

_OVERHEAD = 512
"""What a slice takes besides its data, about; so there cannot be too many that are short."""

Range: TypeAlias = tuple[int, int]
"""What was asked for: events behind a number, and how many bytes of them."""


class Recent:
    """Slices, and with them their logs, which would have to be found anew otherwise. May be used from any thread.

    Of a log that is on disk no event changes, so what was read once is right until the log is deleted.

    Args:
        max_bytes: How much to keep. The logs that nobody has asked for the longest go first, each as a whole.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._logs: OrderedDict[LiveLog, dict[Range, Slice]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def find(self, log: LiveLog, asked: Range) -> Slice | None:
        """What a log has answered to the same question."""
        with self._lock:
            slices = self._logs.get(log)
            if slices is None:
                return None
            self._logs.move_to_end(log)
            return slices.get(asked)

    def keep(self, log: LiveLog, asked: Range, found: Slice) -> None:
        """A log has answered."""
        with self._lock:
            slices = self._logs.setdefault(log, {})
            self._logs.move_to_end(log)
            if asked not in slices:
                slices[asked] = found
                self._size += _weight(found)
            while self._size > self._max_bytes:
                self._let_go(self._logs.popitem(last=False)[1])

    def forget(self, log: LiveLog) -> None:
        """A log is not to be read any more."""
        with self._lock:
            self._let_go(self._logs.pop(log, {}))

    def clear(self) -> None:
        """None is."""
        with self._lock:
            self._logs.clear()
            self._size = 0

    def _let_go(self, slices: dict[Range, Slice]) -> None:
        self._size -= sum(map(_weight, slices.values()))


def _weight(found: Slice) -> int:
    return len(found.data) + _OVERHEAD
