"""What was seen before: by number, by fingerprint."""

from __future__ import annotations

import pytest

from resumable_llm.core import replay
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.replay import Counter, Ledger, Verdict
from resumable_llm.core.transcript import Transcript

NEW, SEEN, GAP, OTHER = Verdict.NEW, Verdict.SEEN, Verdict.GAP, Verdict.OTHER


def judged(counter: Counter, *numbers: int) -> list[Verdict]:
    return [counter.judge(number) for number in numbers]


class TestCounter:
    def test_one_after_the_other(self) -> None:
        counter = Counter(None)
        assert judged(counter, 0, 1, 2) == [NEW] * 3
        assert counter.last == 2

    def test_seen_and_gap(self) -> None:
        counter = Counter(None)
        assert judged(counter, 4, 5, 4, 5, 6, 8) == [NEW, NEW, SEEN, SEEN, NEW, GAP]

    @pytest.mark.parametrize("numbers", [[0, 0, 0, 0], [3, 7, 8, 9], [5, 1, 2, 3]])
    def test_loose_numbers_are_never_asked_again(self, numbers: list[int]) -> None:
        counter = Counter(None)
        assert judged(counter, *numbers) == [NEW] * 4
        assert counter.last is None
        counter.resumed()
        assert judged(counter, *numbers) == [NEW] * 4
        assert not counter.follows(1)

    def test_a_checkpoints_number_is_believed(self) -> None:
        assert judged(Counter(7), 3, 8, 10) == [SEEN, NEW, GAP]

    def test_behind_a_resume_it_is_believed(self) -> None:
        counter = Counter(None)
        assert judged(counter, 0) == [NEW]
        counter.resumed()
        assert judged(counter, 0, 2) == [SEEN, GAP]

    def test_what_plainly_follows(self) -> None:
        counter = Counter(None)
        assert not counter.follows(0)  # nothing to follow
        assert judged(counter, 0) == [NEW]
        assert not counter.follows(1)  # not believed yet
        assert judged(counter, 1) == [NEW]
        assert counter.follows(2)
        assert not counter.follows(4)
        assert not counter.follows(2)
        assert counter.last == 2


def event(id: str | None, data: str, name: str | None = None) -> Fields:
    return Fields(name, data, id, None)


class Stream:
    """A ledger and the transcript it reads."""

    def __init__(self, first_id: str = "", events: int = 0, checksum: int = 0) -> None:
        self.transcript = Transcript(10**6, lambda: self.ledger.catch_up(self.transcript))
        self.ledger = Ledger(first_id, events, checksum, lambda event: event.id or "")

    def tell(self, *events: Fields) -> None:
        for each in events:
            self.transcript.keep(encode_event(each.data or "", event=each.event, id=each.id), 1)

    def judge(self, *events: Fields, cursor: str = "", behind: int = 0) -> list[Verdict]:
        self.ledger.resumed(self.transcript, behind)
        found = []
        for each in events:
            verdict = self.ledger.judge(each, cursor) if self.ledger.replaying else NEW
            if verdict is NEW:
                self.tell(each)
            found.append(verdict)
        return found


ONE, TWO, THREE = (event(str(number), f"data {number}") for number in (1, 2, 3))


class TestLedger:
    def test_a_replay_in_full_and_in_part(self) -> None:
        stream = Stream()
        stream.tell(ONE, TWO)
        assert stream.judge(ONE, TWO, THREE) == [SEEN, SEEN, NEW]
        assert stream.judge(TWO, THREE, event("4", "x")) == [SEEN, SEEN, NEW]

    def test_the_first_new_event_ends_the_replay(self) -> None:
        stream = Stream()
        stream.tell(ONE, TWO)
        assert stream.judge(THREE, ONE) == [NEW, NEW]

    @pytest.mark.parametrize("other", [event("2", "other"), event("2", "data 2", "name")])
    def test_another_event_under_a_known_id(self, other: Fields) -> None:
        stream = Stream()
        stream.tell(ONE, TWO)
        assert stream.judge(ONE, other) == [SEEN, OTHER]

    def test_events_without_ids(self) -> None:
        stream = Stream()
        stream.tell(ONE, event(None, "tail"), event("", "cleared"))
        tail = event(None, "tail"), event("", "cleared")
        assert stream.judge(*tail, event(None, "more"), behind=2) == [SEEN, SEEN, NEW]
        assert stream.judge(ONE, *tail, event(None, "more"), event(None, "new")) == [SEEN, SEEN, SEEN, SEEN, NEW]

    def test_events_that_are_alike_without_ids(self) -> None:
        stream = Stream()
        ha = event(None, "ha")
        stream.tell(ONE, ha, TWO)
        assert stream.judge(ha, THREE) == [NEW, NEW]
        stream = Stream()
        stream.tell(ONE, ha)
        assert stream.judge(ha, ha, behind=1) == [SEEN, NEW]

    def test_checksum_and_first_id_are_for_the_checkpoint(self) -> None:
        first, second = Stream(), Stream()
        first.tell(ONE, TWO)
        first.ledger.catch_up(first.transcript)
        second.tell(ONE)
        second.ledger.catch_up(second.transcript)
        partly = second.ledger.checksum
        second.tell(TWO)
        second.ledger.catch_up(second.transcript)
        assert first.ledger.checksum == second.ledger.checksum != partly
        assert first.ledger.first_id == "1"

    def test_what_dispatches_nothing_is_no_event(self) -> None:
        stream = Stream()
        stream.transcript.keep(b"id: 0\n\n: comment\n\n", 0)
        stream.tell(ONE)
        stream.ledger.catch_up(stream.transcript)
        assert stream.ledger.first_id == "1"

    def later(self, *events: Fields) -> Stream:
        before = Stream()
        before.tell(*events)
        before.ledger.catch_up(before.transcript)
        return Stream(before.ledger.first_id, len(events), before.ledger.checksum)

    def test_another_process_is_told_everything_again(self) -> None:
        stream = self.later(ONE, TWO)
        assert stream.judge(ONE, TWO, THREE, cursor="2") == [SEEN, SEEN, NEW]

    def test_another_process_is_told_something_else(self) -> None:
        stream = self.later(ONE, TWO)
        assert stream.judge(ONE, event("2", "other"), cursor="2") == [SEEN, OTHER]

    def test_another_process_is_told_the_rest(self) -> None:
        stream = self.later(ONE, TWO)
        assert stream.judge(THREE, cursor="2") == [NEW]
        assert stream.ledger.first_id == "1"

    def test_another_process_is_told_the_event_that_was_named(self) -> None:
        assert self.later(ONE).judge(ONE, TWO, cursor="1") == [SEEN, NEW]
        assert self.later(ONE, TWO).judge(TWO, THREE, cursor="2") == [SEEN, NEW]

    def test_a_retelling_that_breaks_off_begins_anew(self) -> None:
        stream = self.later(ONE, TWO, THREE)
        assert stream.judge(ONE, TWO, cursor="3") == [SEEN, SEEN]
        assert stream.judge(ONE, TWO, THREE, event("4", "x"), cursor="3") == [SEEN, SEEN, SEEN, NEW]

    def test_only_so_many_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "MAX_REMEMBERED", 4)
        stream = Stream()
        stream.tell(*(event(str(number), "x") for number in range(6)))
        assert stream.judge(event("5", "x"), event("0", "x")) == [SEEN, NEW]
