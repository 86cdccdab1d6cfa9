"""A folder for caches of a test's own, in which local relays may be started; they are stopped when it is done."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from resumable_llm.local import announcement
from resumable_llm.local.announcement import Announcement


@contextmanager
def cache(path: Path) -> Iterator[Path]:
    """Have caches there, and yield the relays' folder."""
    folder = path / "resumable-llm" / "relay"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(path))
        try:
            yield folder
        finally:
            for relay in relays(folder):
                stop(relay)


def relays(folder: Path) -> list[Announcement]:
    """What is announced there and holds."""
    found = [announcement.read(path) for path in folder.glob("*.json")]
    return [each for each in found if each is not None and each.holds(1)]


def stop(relay: Announcement, number: int = signal.SIGTERM) -> None:
    """End it, and wait until nobody listens any more."""
    with suppress(ProcessLookupError):
        os.kill(relay.pid, number)
    for _ in range(1000):
        if not relay.holds(0.5):
            return
        time.sleep(0.01)
    raise AssertionError(f"the relay {relay.pid} does not end")
