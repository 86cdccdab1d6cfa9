from __future__ import annotations

from resumable_llm.log.live import LiveLog
from tests.log.conftest import Clock, head


def test_nothing_is_waited_for() -> None:
    log = LiveLog(head(), 1000, Clock())
    assert log.durable == 0
    log.append([b"data: a\n\n"])
    assert log.durable == 1
    log.wait_durable(1)


def test_a_dropped_log_holds_no_events() -> None:
    log = LiveLog(head(), 1000, Clock())
    log.append([b"data: a\n\n"])
    log.drop()
    assert log._frames == []


def test_it_has_no_dictionary() -> None:
    assert not hasattr(LiveLog(head(), 1000, Clock()), "__dict__")


def test_readers_who_want_the_same_have_the_same_object() -> None:
    log, other = LiveLog(head(), 1000, Clock()), LiveLog(head("two"), 1000, Clock())
    for each in (log, other):
        each.append([b"data: a\n\n", b"data: b\n\n", b"data: c\n\n"])
    first = log.read(0)
    assert log.read(0).data is first.data
    assert other.read(0) == first
    assert log.read(1).data == b"id: 2\ndata: b\n\nid: 3\ndata: c\n\n"
    assert log.read(0) == first
    log.append([b"data: d\n\n"])
    assert log.read(0).data == first.data + b"id: 4\ndata: d\n\n"
    assert log.read(3).data == b"id: 4\ndata: d\n\n"
    assert log.read(4).data == b""
