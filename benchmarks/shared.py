"""Two numbers in memory that server and client both see, so that they can keep in step at the cost of a store.

Knows nothing of what they mean to each other beyond their names.
"""

from __future__ import annotations

import mmap
from pathlib import Path

READ = 0
"""What the client has read of the answer, in the unit of its order."""

CUT = 1
"""When the server last cut a connection, in nanoseconds of the monotonic clock, which all processes share."""

_BYTES = 16


def create(path: Path) -> None:
    """Make the file behind the numbers."""
    path.write_bytes(bytes(_BYTES))


def attach(path: Path) -> memoryview:
    """The numbers; writing one is a single store."""
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("Q")
