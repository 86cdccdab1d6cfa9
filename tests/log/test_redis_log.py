"""What entries mean, and how a log of ours and a copy turn into each other. Without Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn

import pytest

from resumable_llm.log import Ahead, Cursor, LogEnded, Missing, State, StoreFailed
from resumable_llm.log.redis_link import Entry
from resumable_llm.log.redis_log import RedisLog, head_of_json, head_to_json
from resumable_llm.log.redis_scripts import HIGHEST
from tests.log.conftest import Clock, head

A, B, C = b"data: a\n\n", b"data: bb\n\n", b"data: ccc\n\n"
NAME = b"5" * 32
ID_A, ID_B, ID_C = b"id: 1\n" + A, b"id: 2\n" + B, b"id: 3\n" + C


class Store:
    """Says yes to everything, and remembers what it was told."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict, self.max_log_bytes, self.closed, self.refuses = strict, 1000, False, False
        self.clock: Callable[[], float] = Clock()
        self.told: list[str] = []

    def refuse(self) -> NoReturn:
        raise StoreFailed("refused")

    def mark(self, log: RedisLog) -> None:
        self.told.append("mark")

    def wish(self, log: RedisLog, state: State, reason: str) -> None:
        self.told.append(f"wish {state.value} {reason}")

    def let_go(self, log: RedisLog) -> None:
        self.told.append("let go")

    def reopen(self, log: RedisLog) -> None:
        self.told.append("reopen")

    def wait(self, reached: Callable[[], bool], seconds: float | None) -> None:
        assert reached()


def ours(*frames: bytes, strict: bool = False) -> RedisLog:
    log = RedisLog(Store(strict=strict), NAME.decode(), head(), owned=True)
    if frames:
        log.append(frames, wait=False)
    return log


def copy(*entries: Entry) -> RedisLog:
    log = RedisLog(Store(), NAME.decode(), head(), owned=False)
    assert log.follow(entries)
    return log


def entry(epoch: int, number: int, **fields: str | bytes) -> Entry:
    coded = {name: value.encode() if isinstance(value, str) else value for name, value in fields.items()}
    return b"%d-%d" % (epoch, number), {name.encode(): value for name, value in coded.items()}


BEGUN = entry(1, 0, o="0")
TWO = entry(1, 2, d=ID_A + ID_B, s=f"{len(ID_A)},{len(ID_B)}")


def over(epoch: int, kept: int, state: str = "complete") -> Entry:
    return entry(epoch, HIGHEST, e=state, r="why", t="7.5", l=str(kept), n="noted")


def test_a_head_survives() -> None:
    assert head_of_json(head_to_json(head(key="ключ")).encode()) == head(key="ключ")


def taken(log: RedisLog) -> bytes:
    """What is to be written; what is between the name and the first data is numbers."""
    parts: list[bytes] = []
    size = log.take(parts)
    assert size == len(b"".join(parts))
    return b"".join(parts)


def numbers(*each: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in each)


# Ours.


def test_what_is_new_is_taken_once() -> None:
    log = ours(A, B)
    assert taken(log) == NAME + numbers(1, 0, 2, 31, 5, 0, 0) + ID_A + ID_B + b"15,16"
    log.settle()
    assert log.durable == 2
    log.append([C], note="n")
    log.end(State.FAILED, "why")
    told = b'["failed", "why", "1000.0"]'
    assert taken(log) == NAME + numbers(1, 2, 3, 17, 0, 2, len(told)) + ID_C + b"=n" + told
    log.settle()
    assert not log.owned
    assert log.durable == 3
    assert taken(log) == b""
    log.settle()
    assert log.follow([entry(2, 0, o="3")]), "it has heard all of its own epoch"


def test_what_could_not_be_written_is_taken_again_and_the_newest_note_stands() -> None:
    log = ours()
    log.append([A], note="old")
    first = taken(log)
    log.give_back()
    assert taken(log) == first
    log.append([B], note="new")
    log.give_back()
    assert b"=new" in taken(log)
    log.append([C])
    log.settle()
    assert log.durable == 2, "what was taken, and no more"


def test_a_store_that_refuses_takes_nothing() -> None:
    log = ours()
    log._store.refuses = True
    for use in (lambda: log.append([A]), log.reopen):
        with pytest.raises(StoreFailed, match="refused"):
            use()
    assert log.last == 0


def test_strict_shows_what_is_settled() -> None:
    log = ours(A, strict=True)
    woken = threading.Event()
    log.subscribe(woken.set)
    log.end(State.COMPLETE)
    assert (log.last, log.state, woken.is_set()) == (0, State.RUNNING, False)
    taken(log)
    log.settle()
    assert (log.last, log.state, woken.is_set()) == (1, State.COMPLETE, True)


def test_strict_never_takes_back_what_it_has_shown() -> None:
    log = ours(A, B, strict=True)
    taken(log)
    log.settle()
    assert log.compare("me:1-1", "running")
    assert (log.last, log.durable) == (2, 1)


def test_strict_appenders_wait() -> None:
    log = ours(strict=True)
    with pytest.raises(AssertionError):
        log.append([A])


def test_what_redis_has_lost_is_sent_again_with_its_note() -> None:
    log = ours()
    log.append([A, B], note="n")
    taken(log)
    log.settle()
    assert log.unsent == 0
    assert log.compare("me:1-1", "running")
    assert log.unsent == len(ID_B)
    assert taken(log) == NAME + numbers(1, 1, 2, 16, 0, 2, 0) + ID_B + b"=n"


def test_an_end_whose_answer_was_lost_is_recognised() -> None:
    log = ours(A)
    log.end(State.COMPLETE)
    taken(log)
    assert log.compare(":1-1", "complete")
    assert not log.owned
    assert log.state is State.COMPLETE


@pytest.mark.parametrize(
    ("pen", "state"),
    [
        (":1-1", "interrupted"),  # somebody has ended it
        (":1-0", "complete"),  # ended otherwise than we did
        ("other:2-1", "running"),  # somebody writes it
        ("me:1-7", "running"),  # more than there ever was
    ],
)
def test_what_is_not_ours_any_more_is_recognised(pen: str, state: str) -> None:
    log = ours(A)
    log.end(State.COMPLETE)
    assert not log.compare(pen, state)
    running = ours(A)
    assert not running.compare(pen, state)
    running.surrender("lost")
    assert not running.compare(pen, state)


def test_what_redis_never_had_is_lost_with_the_right_to_write() -> None:
    log = ours(A)
    taken(log)
    log.settle()
    log.append([B])
    woken = threading.Event()
    log.subscribe(woken.set)
    log.surrender("lost")
    log.surrender("twice")
    assert (log.state, log.reason, log.last, woken.is_set()) == (State.INTERRUPTED, "lost", 1, True)
    with pytest.raises(LogEnded):
        log.append([B])
    with pytest.raises(Ahead):
        log.read(2)
    assert not log.end(State.COMPLETE)
    # What was on its way has arrived all the same, and somebody has gone on.
    assert log.follow([entry(1, 2, d=ID_B), over(1, 2, "interrupted"), entry(2, 0, o="2")])
    assert (log.last, log.state) == (2, State.RUNNING)
    with pytest.raises(LogEnded, match="another process"):
        log.append([C])


def test_a_log_that_was_dropped_takes_no_part() -> None:
    log = ours(A)
    taken(log)
    log.drop()
    log.settle()
    log.give_back()
    log.surrender("lost")
    assert taken(log) == b""
    assert not log.end(State.COMPLETE)
    with pytest.raises(Missing):
        log.wait_durable(1)


def test_of_a_closed_store_nothing_ends() -> None:
    log = ours()
    log._store.closed = True  # type: ignore[misc]
    assert not log.end(State.COMPLETE)
    assert log.state is State.RUNNING


# Copies.


def test_a_copy_has_what_it_is_told() -> None:
    log = copy(BEGUN, TWO, entry(1, 3, d=ID_C))
    assert log.read(0) == (ID_A + ID_B + ID_C, 3)
    assert log.read(1) == (ID_B + ID_C, 3)
    assert (log.state, log.last, log.durable) == (State.RUNNING, 3, 3)
    assert log.follow([over(1, 3)])
    assert (log.state, log.reason, log.ended_at, log.upstream) == (State.COMPLETE, "why", 7.5, "noted")


def test_a_copy_knows_the_note_that_was_told_with_the_head() -> None:
    assert RedisLog(Store(), NAME.decode(), head(), owned=False, note="n").upstream == "n"
    assert RedisLog(Store(), NAME.decode(), head(), owned=False).upstream == head().upstream


def test_what_was_told_before_does_no_harm() -> None:
    log = copy(BEGUN, TWO)
    assert log.follow([])
    assert log.follow([BEGUN, TWO])
    # After Redis was restarted the owner writes again what was lost, in other pieces.
    again = ID_B + ID_C
    assert log.follow([entry(1, 3, d=again, s=f"{len(ID_B)},{len(ID_C)}")])
    assert log.read(0) == (ID_A + ID_B + ID_C, 3)


def test_a_copy_loses_what_the_log_has_lost() -> None:
    log = copy(BEGUN, TWO)
    log.follow([over(1, 1, "interrupted")])
    assert (log.last, log.read(0).data) == (1, ID_A)
    log.follow([entry(2, 0, o="1"), entry(2, 2, d=b"id: 1.2\n" + C)])
    assert log.locate(Cursor(1, 2)) == 2
    with pytest.raises(Ahead):
        log.locate(Cursor(0, 2))
    log._size = 1 << 30  # so that the read has to count
    assert log.read(0, len(ID_A)).last == 1


@pytest.mark.parametrize(
    "bad",
    [
        entry(1, 4, d=ID_C),  # the third is missing
        over(1, 3),
        entry(2, 0, o="3"),
        entry(HIGHEST, HIGHEST, x=""),  # deleted
        entry(1, 3, q="?"),
    ],
)
def test_what_is_not_whole_is_not_kept(bad: Entry) -> None:
    log = copy(BEGUN, TWO)
    assert not log.follow([bad])


def test_a_copy_cannot_be_written_but_cancelled_once() -> None:
    log = copy(BEGUN)
    store = log._store
    assert isinstance(store, Store)
    with pytest.raises(LogEnded):
        log.append([A])
    assert not log.end(State.COMPLETE)
    assert log.end(State.CANCELLED, "enough")
    assert not log.end(State.CANCELLED, "enough")
    assert store.told == ["wish cancelled enough"]
    assert log.state is State.RUNNING, "until the owner has heard of it"
    log.follow([over(1, 0, "interrupted"), entry(2, 0, o="0")])
    assert log.end(State.CANCELLED, "enough"), "it is another's now"


def test_an_ended_copy_is_not_cancelled() -> None:
    assert not copy(BEGUN, over(1, 0)).end(State.CANCELLED)


def test_a_copy_becomes_ours() -> None:
    log = copy(BEGUN, TWO, over(1, 2, "interrupted"))
    log.reopen()
    log.follow([entry(2, 0, o="2")])
    log.own("the latest")
    assert (log.upstream, log.append([C])) == ("the latest", 3)
    assert log.follow([TWO]), "what is ours needs not be told"
    assert taken(log) == NAME + numbers(2, 2, 3, 19, 0, 0, 0) + b"id: 1.3\n" + C
    log.drop()
    assert not log.follow([TWO])
