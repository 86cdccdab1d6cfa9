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
