"""What the logs of a file and those of Redis have in common. What they differ in is tested with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from resumable_llm.log import Missing, State, StoreFailed
from resumable_llm.log.written import WrittenLog
from tests.log.conftest import Clock, head

FRAME = b"data: a\n\n"


class Store:
    """Remembers what it was told."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict, self.max_log_bytes, self.refuses = strict, 1000, False
        self.clock: Callable[[], float] = Clock()
        self.told: list[str] = []
        self.waited: list[float | None] = []

    def refuse(self) -> NoReturn:
        raise StoreFailed("refused")

    def mark(self, log: object) -> None:
        self.told.append("mark")

    def let_go(self, log: object) -> None:
        self.told.append("let go")

    def wait(self, reached: Callable[[], bool], seconds: float | None) -> None:
        self.waited.append(seconds)
        if not reached():
            raise TimeoutError


def made(*, strict: bool = False) -> tuple[WrittenLog[Store], Store]:
    store = Store(strict=strict)
    return WrittenLog(store, head(), durable=0), store


def test_the_store_is_told_once_that_there_is_something_to_write() -> None:
    log, store = made()
    log.append([FRAME])
    log.append([FRAME, FRAME], note="n")
    log.end(State.COMPLETE)
    assert store.told == ["mark"]
    assert (log.last, log.state, log.upstream, log.durable) == (3, State.COMPLETE, "n", 0)


def test_a_strict_one_shows_nothing_by_itself() -> None:
    log, store = made(strict=True)
    woken: list[object] = []
    log.subscribe(lambda: woken.append(1))
    assert log.append([FRAME], wait=False) == 1
    log.end(State.COMPLETE)
    assert (log.last, log.state, woken, store.told) == (0, State.RUNNING, [], ["mark"])


def test_a_strict_appender_waits_unless_it_says_otherwise() -> None:
    log, store = made(strict=True)
    with pytest.raises(TimeoutError):
        log.append([FRAME])
    log.append([FRAME], wait=False)
    assert store.waited == [None]


def test_what_the_store_refuses_is_not_appended() -> None:
    log, store = made()
    store.refuses = True
    with pytest.raises(StoreFailed, match="refused"):
        log.append([FRAME])
    assert (log.last, store.told) == (0, [])


def test_whoever_waits_is_told_that_the_log_is_gone() -> None:
    log, store = made()
    log.append([FRAME])
    with pytest.raises(TimeoutError):
        log.wait_durable(1, 2.0)
    log.drop()
    assert store.told == ["mark", "let go"]
    with pytest.raises(Missing):
        log.wait_durable(1)


def test_it_has_no_dictionary() -> None:
    assert not hasattr(made()[0], "__dict__")
