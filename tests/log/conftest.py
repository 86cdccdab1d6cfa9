"""The stores that must pass the contract."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from resumable_llm.log import Head, MemoryStore, SqliteStore, Store
from resumable_llm.log.redis import RedisStore
from tests.log import redis_server

HEAD = Head(
    id="one",
    scope="alice",
    key="key",
    fingerprint="f1",
    status=200,
    headers=(("content-type", "text/event-stream"), ("x-request-id", "r1")),
    created_at=1000.0,
    ttl=60.0,
    upstream='{"at": 0}',
)


def head(id: str = "one", **changes: object) -> Head:
    """A head; each id has a key of its own unless it is told one."""
    return replace(HEAD, **{"id": id, "key": f"key of {id}", **changes})  # type: ignore[arg-type]


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def memory(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    return MemoryStore(clock=clock, max_log_bytes=max_log_bytes)


def sqlite(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    return SqliteStore(path / "log.db", flush_seconds=0.001, clock=clock, max_log_bytes=max_log_bytes)


def sqlite_lazy(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    """Writes nothing while a test lasts, so that everything is answered from what is not written."""
    return SqliteStore(path / "log.db", flush_seconds=3600, clock=clock, max_log_bytes=max_log_bytes)


def sqlite_strict(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    return SqliteStore(path / "log.db", strict=True, clock=clock, max_log_bytes=max_log_bytes)


def redis(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    url = redis_server.shared().url
    return RedisStore(url, flush_seconds=0.001, clock=clock, max_log_bytes=max_log_bytes, prefix=str(path))


def redis_lazy(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    """Writes nothing by itself while a test lasts."""
    url = redis_server.shared().url
    return RedisStore(url, flush_seconds=3600, clock=clock, max_log_bytes=max_log_bytes, prefix=str(path))


def redis_strict(path: Path, clock: Callable[[], float], max_log_bytes: int) -> Store:
    url = redis_server.shared().url
    return RedisStore(url, strict=True, clock=clock, max_log_bytes=max_log_bytes, prefix=str(path))


KEEPING = {each.__name__: each for each in (sqlite, sqlite_lazy, sqlite_strict, redis, redis_lazy, redis_strict)}
"""Those that outlive their process."""

STORES = {memory.__name__: memory, **KEEPING}


@dataclass
class Place:
    """Where stores of one kind are opened, one after the other."""

    kind: str
    path: Path
    clock: Clock = field(default_factory=Clock)
    max_log_bytes: int = 1 << 20
    opened: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        self.close()
        self.opened.append(STORES[self.kind](self.path, self.clock, self.max_log_bytes))
        return self.opened[-1]

    def close(self) -> None:
        for store in self.opened:
            store.close()


@contextlib.contextmanager
def place_of(kind: str, path: Path) -> Iterator[Place]:
    place = Place(kind, path)
    try:
        yield place
    finally:
        place.close()


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with place_of(request.param, tmp_path) as place:
        yield place


@pytest.fixture(params=KEEPING)
def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with place_of(request.param, tmp_path) as place:
        yield place


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


def wait_until(reached: Callable[[], bool], seconds: float = 10) -> None:
    """Look again and again: for what another thread does in its own time and tells nobody."""
    limit = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.001)
