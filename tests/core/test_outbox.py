"""What is on its way, and the place that the caller has reached."""

from __future__ import annotations

from resumable_llm.core.actions import Deliver, Notify
from resumable_llm.core.model import Notice, Position
from resumable_llm.core.outbox import Outbox
from resumable_llm.core.transcript import Transcript

BLOCK = b"data: x\n\n"
START, ONE, TWO = (Position(str(number), None, number * len(BLOCK)) for number in range(3))
NOTICE = Notice("drop", 1)


def outbox() -> tuple[Outbox, Transcript]:
    transcript = Transcript(10**6, lambda: None)
    return Outbox(transcript, START), transcript


def test_a_single_event_counts_when_it_is_given_out() -> None:
    box, transcript = outbox()
    box.put([Deliver(BLOCK, 1, ONE), Deliver(BLOCK, 1, TWO)])
    assert (box.is_holding, box.where(TWO), transcript.events) == (True, (START, 0), 0)
    assert box.take() == Deliver(BLOCK, 1, ONE)
    assert (box.is_holding, box.where(TWO), transcript.events) == (True, (ONE, 0), 1)
    assert box.take() == Deliver(BLOCK, 1, TWO)
    assert (box.is_holding, box.where(TWO), transcript.events) == (False, (TWO, 0), 2)
    assert box.take() is None


def test_a_slice_counts_when_the_caller_comes_back() -> None:
    box, transcript = outbox()
    box.put([Deliver(BLOCK * 2, 2, TWO)])
    assert box.take() == Deliver(BLOCK * 2, 2, TWO)
    assert (box.is_holding, box.where(TWO), transcript.events) == (True, (START, 0), 0)
    assert box.take() is None
    assert (box.is_holding, box.where(TWO), transcript.events) == (False, (TWO, 0), 2)
    assert box.position == TWO


def test_what_passed_plainly_counts_alike() -> None:
    box, transcript = outbox()
    transcript.fresh.append(BLOCK)
    assert box.where(ONE) == (ONE, 0)
    transcript.fresh.append(BLOCK * 2)
    head = Position("", None, 3 * len(BLOCK))
    assert box.where(head) == (head._replace(offset=len(BLOCK)), 2)
    assert box.take() is None
    assert box.where(head) == (head, 0)
    assert transcript.events == 3


def test_notices_keep_their_place_among_events() -> None:
    box, _ = outbox()
    box.put([Deliver(BLOCK, 1, ONE)])
    box.tell(NOTICE)
    assert [box.take(), box.take(), box.take()] == [Deliver(BLOCK, 1, ONE), Notify(NOTICE), None]


def test_last_notices_only_behind_the_last_event() -> None:
    box, _ = outbox()
    box.put([Deliver(BLOCK, 1, ONE)])
    box.tell(NOTICE)
    assert box.last_notices() == []
    box.take()
    assert box.last_notices() == [NOTICE]
    assert box.take() is None


def test_what_was_given_out_is_reached_though_it_may_not_count() -> None:
    box, _ = outbox()
    assert (box.reached(TWO), box.has_more, box.events_in_hand) == (TWO, False, 0)
    box.put([Deliver(BLOCK * 2, 2, ONE), Deliver(BLOCK, 1, TWO)])
    assert (box.reached(TWO), box.has_more) == (START, True)
    box.take()
    assert (box.reached(TWO), box.has_more, box.events_in_hand) == (ONE, True, 2)
    box.take()
    assert (box.reached(TWO), box.has_more, box.events_in_hand) == (TWO, False, 0)
