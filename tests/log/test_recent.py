from __future__ import annotations

import gc
from weakref import ref

from resumable_llm.log.live import LiveLog
from resumable_llm.log.model import Slice
from resumable_llm.log.recent import _OVERHEAD, Recent
from tests.log.conftest import Clock, head

ALL, REST = (0, 100), (3, 100)


def log(name: str = "one") -> LiveLog:
    return LiveLog(head(name), 1000, Clock())


def of(size: int, last: int = 9) -> Slice:
    return Slice(bytes(size), last)


def test_the_same_question_has_the_same_answer() -> None:
    recent, one, two = Recent(10_000), log(), log("two")
    answer = of(10)
    assert recent.find(one, ALL) is None
    recent.keep(one, ALL, answer)
    assert recent.find(one, ALL) is answer
    assert recent.find(one, REST) is None
    assert recent.find(two, ALL) is None


def test_a_log_is_held_while_its_answers_are() -> None:
    recent, one = Recent(10_000), log()
    recent.keep(one, ALL, of(10))
    seen = ref(one)
    del one
    gc.collect()
    found = seen()
    assert found is not None
    recent.forget(found)
    del found
    gc.collect()
    assert seen() is None


def test_what_was_asked_for_the_longest_ago_goes_first() -> None:
    recent, logs = Recent(3 * (1000 + _OVERHEAD)), [log(str(number)) for number in range(4)]
    for each in logs[:3]:
        recent.keep(each, ALL, of(1000))
    assert recent.find(logs[0], ALL) is not None
    recent.keep(logs[3], ALL, of(1000))
    assert [recent.find(each, ALL) is not None for each in logs] == [True, False, True, True]


def test_two_who_have_read_the_same_at_once_count_once() -> None:
    recent, one = Recent(2 * (1000 + _OVERHEAD)), log()
    answer = of(1000)
    recent.keep(one, ALL, answer)
    recent.keep(one, ALL, of(1000))
    recent.keep(one, REST, of(1000))
    assert recent.find(one, ALL) is answer
    assert recent.find(one, REST) is not None


def test_what_has_no_room_is_not_kept_and_takes_none() -> None:
    recent, one, two = Recent(1000 + _OVERHEAD), log(), log("two")
    recent.keep(one, ALL, of(1001))
    assert recent.find(one, ALL) is None
    recent.keep(two, ALL, of(1000))
    assert recent.find(two, ALL) is not None


def test_many_that_are_empty_are_bounded_too() -> None:
    recent, one = Recent(10 * _OVERHEAD), log()
    for number in range(1000):
        recent.keep(one, (number, 100), of(0))
        assert len(recent._logs.get(one, {})) <= 10


def test_what_was_forgotten_gives_its_room_back() -> None:
    recent, one, two = Recent(2 * (1000 + _OVERHEAD)), log(), log("two")
    recent.forget(one)
    for _ in range(5):
        recent.keep(one, ALL, of(1000))
        recent.keep(one, REST, of(1000))
        recent.forget(one)
    recent.keep(two, ALL, of(1000))
    recent.clear()
    recent.keep(one, ALL, of(1000))
    recent.keep(one, REST, of(1000))
    assert recent.find(one, ALL) is not None
    assert recent.find(two, ALL) is None
