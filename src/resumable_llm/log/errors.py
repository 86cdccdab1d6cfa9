"""Every error that a log or its store raises.

LogError
├── Missing        no such log, or not for this caller
├── Expired        the log was kept long enough
├── KeyReused      the key or the id already names another request
├── BadCursor      not a cursor of ours
├── Ahead          the cursor is of an event that was lost, or never was
├── LogEnded       nothing can be appended any more
├── LogFull        the log has reached its bound
├── StoreFull      the store has as many logs as it may
├── StoreFailed    what was appended cannot be written, or the store is closed
├── StoreInUse     another process owns the store
└── StoreUnusable  the file is no store, or of another version
"""

from __future__ import annotations


class LogError(Exception):
    """Base of all errors of logs and stores. Messages hold no secret and no event."""


class Missing(LogError):
    """There is no such log. One that belongs to another scope is missing too."""


class Expired(LogError):
    """The log was here, but its time is over."""


class KeyReused(LogError):
    """The idempotency key, or the id, already names another request."""


class BadCursor(LogError):
    """The text is not a cursor that a log gives out."""


class Ahead(LogError):
    """The cursor is of an event that this log does not have.

    It was given out and lost when its writer died, or it was never given out. Whatever has that number now may be
    another event, so nothing is read.

    Args:
        message: What went wrong.
        last: The number of the last event that the reader and the log have in common at most.
    """

    def __init__(self, message: str, last: int) -> None:
        super().__init__(message, last)
        self.last = last

    def __str__(self) -> str:
        return str(self.args[0])


class LogEnded(LogError):
    """The log does not take what its state rules out."""


class LogFull(LogError):
    """The events would take the log beyond its bound; none of them was appended."""


class StoreFull(LogError):
    """The store has as many logs as it may."""


class StoreFailed(LogError):
    """The store cannot write, or is closed; ``__cause__`` says why. What was appended before is kept in memory."""


class StoreInUse(LogError):
    """Another process, or another store in this one, owns the file."""


class StoreUnusable(LogError):
    """The file belongs to another application or version, or is damaged."""
