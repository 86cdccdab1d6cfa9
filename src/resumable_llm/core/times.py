"""What the clock says of an answer: how long it may take, be silent, and how long a connection has lasted.

Reads no clock, for each time is told; and decides nothing.
"""

from __future__ import annotations

from math import inf

from resumable_llm.core.model import Limits

RESTED_SECONDS = 5.0
"""How long a connection must have lasted, in seconds, for its end to be no failure where the server was resting."""

MIN_RETRY_SECONDS = 0.1
"""The least ``retry:``, in seconds, with which a server at rest may close as often as it likes."""


class Times:
    """The times of one answer, in seconds of a clock that never goes back.

    Args:
        limits: What they are held against.
    """

    __slots__ = ("_connected_at", "_deadline_at", "_limits", "heard_at")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._deadline_at = inf
        self._connected_at = 0.0
        self.heard_at = 0.0
        """When the last event came, or the connection's body began."""

    def start(self, now: float) -> None:
        """The answer is asked for."""
        if self._limits.deadline is not None:
            self._deadline_at = now + self._limits.deadline

    def connect(self, now: float) -> None:
        """A connection's body begins."""
        self._connected_at = self.heard_at = now

    @property
    def has_deadline(self) -> bool:
        """Whether there is a deadline."""
        return self._deadline_at < inf

    def is_late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return now >= self._deadline_at

    def may_rest(self, now: float, retry: float | None) -> bool:
        """Whether a server that rests may close the connection now, as often as it likes; ``retry:`` in seconds."""
        return now - self._connected_at >= RESTED_SECONDS or (retry or 0.0) >= MIN_RETRY_SECONDS

    def missed(self, now: float, *, begun: bool) -> float | None:
        """The limit that has passed without an event, if one has; ``begun`` once something of the answer has come."""
        limit = self._limits.event_timeout if begun else self._limits.first_event_timeout
        return limit if limit is not None and now - self.heard_at > limit else None

    def silence(self, now: float, *, begun: bool) -> float | None:
        """The longest silence to accept of a connection that is made now; None for no limit.

        It has one for its whole life, so this is the longer of those that may apply; `missed` sees the shorter.
        """
        limits = self._limits
        waits = [limits.event_timeout] if begun else [limits.first_event_timeout, limits.event_timeout]
        longest = None if None in waits else max(filter(None, waits))
        return min(self._deadline_at - now, longest or inf) if self.has_deadline else longest
