"""Logs in memory: gone with the process. The shortest store, and the measure for the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from resumable_llm.log.errors import Expired, KeyReused, Missing, StoreFailed, StoreFull
from resumable_llm.log.live import LiveLog
from resumable_llm.log.model import Claim, Head

MAX_LOG_BYTES = 16 * 1024 * 1024
"""How large a log may become by default."""


class _Free:
    """The right to begin a log, where there is no other process that could."""

    def release(self) -> None:
        """See `Claim.release`."""


FREE = _Free()


class MemoryStore:
    """Keeps logs in memory.

    Args:
        max_logs: How many to keep at once. What has expired makes room; what has not is never thrown out.
        max_log_bytes: How large each may become.
        clock: Seconds since the epoch.
    """

    survives = False
    remote = False

    def __init__(
        self,
        *,
        max_logs: int = 10_000,
        max_log_bytes: int = MAX_LOG_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_logs = max_logs
        self._max_log_bytes = max_log_bytes
        self._clock = clock
        self._logs: dict[tuple[str, str], LiveLog] = {}
        self._keys: dict[tuple[str, str], LiveLog] = {}
        self._closed = False
        self._lock = threading.Lock()

    def must_take(self) -> None:
        """See `Store.must_take`."""
        self._must_be_open()

    def claim(self, scope: str, key: str) -> Claim | None:
        """See `Store.claim`."""
        return FREE if self.by_key(scope, key) is None else None

    def begin(self, head: Head) -> tuple[LiveLog, bool]:
        """See `Store.begin`."""
        with self._lock:
            self._must_be_open()
            now = self._clock()
            known = self._fresh(self._keys.get((head.scope, head.key)), now)
            known = known or self._fresh(self._logs.get((head.scope, head.id)), now)
            if known is not None:
                require_same_request(known.head, head)
                return known, False
            if len(self._logs) >= self._max_logs and not self._sweep(now):
                raise StoreFull(f"there are {self._max_logs} logs already")
            log = LiveLog(head, self._max_log_bytes, self._clock)
            self._logs[head.scope, head.id] = log
            if head.key:
                self._keys[head.scope, head.key] = log
            return log, True

    def find(self, scope: str, id: str) -> LiveLog:
        """See `Store.find`."""
        with self._lock:
            log = self._known(scope, id)
            if log.expired(self._clock()):
                raise Expired("the log has expired")
            return log

    def by_key(self, scope: str, key: str) -> LiveLog | None:
        """See `Store.by_key`."""
        with self._lock:
            self._must_be_open()
            log = self._keys.get((scope, key))
            return None if log is None or log.expired(self._clock()) else log

    def delete(self, scope: str, id: str) -> None:
        """See `Store.delete`."""
        with self._lock:
            self._forget(self._known(scope, id))

    def sweep(self, now: float) -> int:
        """See `Store.sweep`."""
        with self._lock:
            self._must_be_open()
            return self._sweep(now)

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            self._closed = True
            self._logs.clear()
            self._keys.clear()

    def _must_be_open(self) -> None:
        if self._closed:
            raise StoreFailed("the store is closed")

    def _known(self, scope: str, id: str) -> LiveLog:
        self._must_be_open()
        try:
            return self._logs[scope, id]
        except KeyError:
            raise Missing("there is no such log") from None

    def _fresh(self, log: LiveLog | None, now: float) -> LiveLog | None:
        """The log, unless it has expired; then it is forgotten, for its name is wanted."""
        if log is not None and log.expired(now):
            self._forget(log)
            return None
        return log

    def _forget(self, log: LiveLog) -> None:
        del self._logs[log.head.scope, log.head.id]
        self._keys.pop((log.head.scope, log.head.key), None)
        log.drop()

    def _sweep(self, now: float) -> int:
        expired = [log for log in self._logs.values() if log.expired(now)]
        for log in expired:
            self._forget(log)
        return len(expired)


def require_same_request(known: Head, head: Head) -> None:
    """Raise KeyReused where a log that has the request's key or id was begun by another request."""
    if known.key != head.key or known.fingerprint != head.fingerprint:
        raise KeyReused("the idempotency key or the id already names another request")
