"""What an answer has taken so far."""

from __future__ import annotations

from resumable_llm.core.account import Account
from resumable_llm.core.events import encode_event
from resumable_llm.core.fallback import Fallbacks
from resumable_llm.core.model import Drop, Failure
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import ANY_EVENT_STREAM


def account(events_before: int = 0) -> tuple[Account, Transcript]:
    transcript = Transcript(10**6, lambda: None)
    return Account(transcript, events_before), transcript


def test_events_of_an_earlier_process_count() -> None:
    told, transcript = account(7)
    transcript.keep(encode_event("a"), 1)
    assert told.events == 8
    assert told.report(ANY_EVENT_STREAM, 0, Fallbacks((), None, 0)).events == 1


def test_failures_in_a_row_and_since_when() -> None:
    told, _ = account()
    told.note_news(1.0)
    told.note_end_of_connection(2.0)
    assert told.failures == 0
    assert told.note_end_of_connection(3.0) == 0.0
    assert told.note_end_of_connection(5.0) == 2.0
    assert told.failures == 2
    told.note_news(6.0)
    assert (told.failures, told.news) == (0, True)


def test_work_that_goes_on_is_no_failure_and_is_timed_until_there_is_news() -> None:
    told, _ = account()
    told.note_end_of_connection(1.0)
    assert told.note_running(2.0) == 0.0
    assert told.failures == 0
    assert told.note_running(5.0) == 3.0
    told.note_news(6.0)
    assert told.note_running(9.0) == 0.0


def test_seconds_lost_are_those_between_a_drop_and_the_next_event() -> None:
    told, _ = account()
    told.note_news(1.0)
    for dropped, back in ((2.0, 4.0), (5.0, 5.5)):
        told.note_end_of_connection(dropped)
        told.note_end_of_connection(dropped + 0.25)
        told.note_news(back)
    told.note_end_of_connection(9.0)
    assert told.report(ANY_EVENT_STREAM, 0, Fallbacks((), None, 0)).seconds_lost == 2.5


def test_the_report() -> None:
    told, transcript = account()
    told.attempts, told.end_proved = 3, True
    for text in ("a", "", "b"):
        transcript.keep(encode_event(text), 1)
    assert told.report(ANY_EVENT_STREAM, 4, Fallbacks((), None, 0)).tokens_not_paid_twice == 0
    told.note_drop(Failure("broke"), "resume", 0.5)
    transcript.keep(encode_event("c"), 1)
    report = told.report(ANY_EVENT_STREAM, 4, Fallbacks((), None, 0))
    assert (report.attempts, report.replayed, report.end_proved) == (3, 4, True)
    assert report.drops == (Drop("broke", "resume", 3, 0.5),)
    assert (report.events, report.bytes) == (4, transcript.size)
    assert report.tokens_not_paid_twice == 2
    assert told.report(ANY_EVENT_STREAM, 4, Fallbacks((), None, 0)) == report
    assert report.dialect == "last_event_id"
