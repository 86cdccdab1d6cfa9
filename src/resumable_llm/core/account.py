"""What an answer has taken so far: attempts, drops, patience, time; and the report of it.

Counts and measures; decides nothing.
"""

from __future__ import annotations

from itertools import islice

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.fallback import Fallbacks
from resumable_llm.core.model import Drop, Failure, Report
from resumable_llm.core.transcript import Transcript


class Account:
    """The account of one answer.

    Args:
        transcript: What was delivered.
        events_before: Events that an earlier process delivered.
    """

    __slots__ = (
        "_dropped_at",
        "_drops",
        "_events_before",
        "_first_failure_at",
        "_news_at",
        "_running_since",
        "_seconds_lost",
        "_seconds_read",
        "_tokens_counted",
        "_transcript",
        "attempts",
        "end_proved",
        "failures",
        "journaled",
        "news",
    )

    def __init__(self, transcript: Transcript, events_before: int) -> None:
        self.attempts = 0
        """Requests made."""
        self.failures = 0
        """Connections in a row that brought nothing new."""
        self.news = False
        """Whether the connection at hand has brought something new."""
        self._dropped_at: float | None = None
        """When the answer was last interrupted, until it goes on."""
        self.end_proved = False
        self.journaled = 0
        """Events of the transcript that were not received but at hand."""
        self._transcript = transcript
        self._events_before = events_before
        self._drops: list[Drop] = []
        self._first_failure_at = 0.0
        self._running_since: float | None = None
        self._seconds_lost = 0.0
        self._news_at = 0.0
        self._seconds_read = 0.0
        self._tokens_counted = (0, 0)

    @property
    def events(self) -> int:
        """Events delivered, by an earlier process too."""
        return self._events_before + self._transcript.events

    def note_news(self, now: float) -> None:
        """Something new has come: patience begins anew."""
        self.news = True
        self.failures = 0
        self._news_at = now
        self._running_since = None
        if self._dropped_at is not None:
            self._seconds_lost += now - self._dropped_at
            self._dropped_at = None

    def note_running(self, now: float) -> float:
        """The server says that the answer is in progress, so it lives, and no connection has failed.

        Returns:
            Seconds since it first said so with nothing new in between.
        """
        self.failures = 0
        if self._running_since is None:
            self._running_since = now
        return now - self._running_since

    def note_end_of_connection(self, now: float) -> float:
        """A connection has dropped.

        Returns:
            Seconds since the first of those in a row that brought nothing.
        """
        if self._dropped_at is None:
            self._dropped_at = now
        if self.news:
            self._seconds_read += now - self._news_at
        else:
            self.failures += 1
            if self.failures == 1:
                self._first_failure_at = now
        self.news = False
        return now - self._first_failure_at

    def note_drop(self, failure: Failure, way: str, backoff: float) -> None:
        """What follows upon a drop."""
        self._drops.append(Drop(failure.reason, way, self.events, backoff))

    def report(self, dialect: Dialect, replayed: int, fallbacks: Fallbacks) -> Report:
        """The account as others see it."""
        return Report(
            attempts=self.attempts,
            drops=tuple(self._drops),
            events=self._transcript.events,
            bytes=self._transcript.size,
            replayed=replayed,
            fidelity=fallbacks.fidelity,
            seams=fallbacks.seams,
            seconds_lost=self._seconds_lost,
            seconds_saved=0.0 if self._began_anew else self._seconds_read,
            tokens_not_paid_twice=0 if self._began_anew else self._tokens_before_last_drop(dialect),
            input_tokens_sent_again=fallbacks.input_tokens,
            end_proved=self.end_proved,
            dialect=dialect.name,
            journaled=self.journaled,
        )

    @property
    def _began_anew(self) -> bool:
        """Nothing was dropped, or what followed had the server generate all of it a second time."""
        return not self._drops or self._drops[-1].way == "replay"

    def _tokens_before_last_drop(self, dialect: Dialect) -> int:
        before = self._drops[-1].events - self._events_before
        if self._tokens_counted[0] != before:
            texts = sum(1 for event in islice(self._transcript, before) if dialect.text(event))
            self._tokens_counted = (before, texts)
        return self._tokens_counted[1]
