"""An answer as a log: events numbered from 1, read after any of them and then live, ended, and kept for a while.

Whoever generates appends; whoever has a connection reads. Nothing here knows HTTP or an event loop: calls are
synchronous and may come from any thread, and waiting is by callback. `model` is the contract, every store keeps it.
"""

from resumable_llm.log.errors import (
    Ahead,
    BadCursor,
    Expired,
    KeyReused,
    LogEnded,
    LogError,
    LogFull,
    Missing,
    StoreFailed,
    StoreFull,
    StoreInUse,
    StoreUnusable,
)
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Cursor, Head, Log, Slice, State, Store
from resumable_llm.log.sqlite import SqliteStore

__all__ = [
    "Ahead",
    "BadCursor",
    "Cursor",
    "Expired",
    "Head",
    "KeyReused",
    "Log",
    "LogEnded",
    "LogError",
    "LogFull",
    "MemoryStore",
    "Missing",
    "Slice",
    "SqliteStore",
    "State",
    "Store",
    "StoreFailed",
    "StoreFull",
    "StoreInUse",
    "StoreUnusable",
]
