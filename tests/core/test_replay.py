"""What was seen before: by number, by fingerprint, and at the seam of kept and live events."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core import replay
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.replay import Counter, Ledger, Seam, Verdict
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import json_object
from tests.conversation import Answer, Case, World, play
from tests.core import artificial

NEW, SEEN, GAP, OTHER, UNCLEAR = Verdict.NEW, Verdict.SEEN, Verdict.GAP, Verdict.OTHER, Verdict.UNCLEAR


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


def name_of(event: Fields) -> str:
    """The id, or the cursor that stands in the data."""
    return event.id or str(json_object(event.data).get("at", ""))


class Stream:
    """A ledger and the transcript it reads."""

    def __init__(
        self, first_id: str = "", events: int = 0, checksum: int = 0, behind: int = 0, behind_checksum: int = 0
    ) -> None:
        self.transcript = Transcript(10**6, lambda: self.ledger.catch_up(self.transcript))
        self.ledger = Ledger(first_id, events, checksum, name_of, behind=behind, behind_checksum=behind_checksum)

    def tell(self, *events: Fields) -> None:
        for each in events:
            self.transcript.keep(encode_event(each.data or "", event=each.event, id=each.id), 1)

    def judge(
        self, *events: Fields, cursor: str = "", behind: int = 0, strict: bool = False, opener: Fields | None = None
    ) -> list[Verdict]:
        self.ledger.resumed(self.transcript, behind, strict=strict)
        found = []
        for each in events:
            opens = each is opener
            verdict = self.ledger.judge(each, cursor, opens=opens) if self.ledger.replaying else NEW
            if verdict is NEW:
                self.tell(each)
            found.append(verdict)
        return found


ONE, TWO, THREE = (event(str(number), f"data {number}") for number in (1, 2, 3))
PING = event(None, "ping")


class TestLedger:
    def test_what_has_no_id_may_precede_repeats(self) -> None:
        """As many such events as the answer began with; and any, before one with an id that is due."""
        stream = Stream()
        stream.tell(PING, event(None, "welcome"), ONE, TWO)
        assert stream.judge(event(None, "hello"), PING, ONE, TWO, THREE) == [NEW, NEW, SEEN, SEEN, NEW]
        assert stream.judge(PING, PING, PING, ONE) == [NEW] * 4
        stream = Stream()
        stream.tell(ONE, TWO)
        assert stream.judge(PING, ONE) == [NEW, NEW]
        stream = Stream()
        stream.tell(ONE, TWO)
        assert stream.judge(PING, PING, TWO, THREE, behind=1) == [NEW, NEW, SEEN, NEW]

    def test_what_was_told_since_the_resume_does_not_come_again(self) -> None:
        """Though the ledger has caught up with it, as it does for a checkpoint."""
        stream, hello = Stream(), event(None, "hello")
        stream.tell(PING, event(None, "welcome"), ONE)
        stream.ledger.resumed(stream.transcript, 0)
        for _ in range(2):
            assert stream.ledger.judge(hello, "1") is NEW
            stream.tell(hello)
            stream.ledger.catch_up(stream.transcript)
        assert stream.ledger.judge(ONE, "1") is SEEN

    def test_what_an_earlier_process_had_behind_a_cursor_in_the_data_may_have_ids(self) -> None:
        whole = Stream()
        whole.tell(ONE, TWO)
        whole.ledger.catch_up(whole.transcript)
        for unplaced, verdicts in ((True, [SEEN, SEEN, NEW]), (False, [NEW])):
            stream = Stream("0", 3, 7, 2, whole.ledger.behind_checksum(2))
            stream.ledger.resumed(stream.transcript, 2, strict=False)
            found = [stream.ledger.judge(each, "2", unplaced=unplaced) for each in (ONE, TWO, THREE)[: len(verdicts)]]
            assert found == verdicts

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

    def test_alike_events_behind_some_that_were_not_kept(self) -> None:
        stream = Stream()
        same = event("1", "same")
        stream.tell(ONE, event(None, "not kept"), same, same)
        assert stream.judge(ONE, same, same, TWO, behind=4) == [SEEN, SEEN, SEEN, NEW]

    def test_alike_events_in_turn(self) -> None:
        """The one from which the server goes on is the next of them, or else the first."""
        stream = Stream()
        same = event("1", "same")
        stream.tell(same, TWO, event(None, "not kept"), same, THREE)
        assert stream.judge(same, TWO, same, THREE, event("4", "x"), behind=5) == [SEEN, SEEN, SEEN, SEEN, NEW]
        assert stream.judge(same, TWO, same, THREE, event("4", "x"), behind=1) == [SEEN] * 5

    def test_only_so_many_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "MAX_REMEMBERED", 4)
        stream = Stream()
        stream.tell(*(event(str(number), "x") for number in range(6)))
        assert stream.judge(event("5", "x"), event("0", "x")) == [SEEN, NEW]


def at(cursor: str) -> Fields:
    return event(None, json.dumps({"at": cursor}))


A, B, TAIL, MORE, HA = at("a"), at("b"), event(None, "tail"), event(None, "more"), event(None, "ha")


class TestCursors:
    """Places that stand in the data: what was delivered behind the last of them comes again as it was."""

    def told(self, *events: Fields) -> Stream:
        stream = Stream()
        stream.tell(*events)
        return stream

    def test_what_stands_behind_the_cursor_comes_again(self) -> None:
        assert self.told(A, TAIL, HA).judge(TAIL, HA, B, behind=2, strict=True) == [SEEN, SEEN, NEW]

    def test_alike_events_behind_it(self) -> None:
        assert self.told(A, HA, HA).judge(HA, HA, HA, B, behind=2, strict=True) == [SEEN, SEEN, NEW, NEW]

    @pytest.mark.parametrize("other", [MORE, B, TAIL._replace(event="x")])
    def test_something_else_behind_it(self, other: Fields) -> None:
        assert self.told(A, TAIL).judge(other, behind=1, strict=True) == [OTHER]

    def test_something_else_where_it_need_not_be_the_same(self) -> None:
        assert self.told(A, TAIL).judge(MORE, behind=1) == [NEW]

    def test_a_server_that_starts_over(self) -> None:
        stream = self.told(TAIL, A, HA)
        assert stream.judge(TAIL, A, HA, B, behind=1, strict=True) == [SEEN, SEEN, SEEN, NEW]

    def test_a_server_that_starts_over_with_something_else(self) -> None:
        stream = self.told(TAIL, A, HA)
        assert stream.judge(TAIL, A, MORE, behind=1, strict=True) == [SEEN, SEEN, OTHER]

    def test_a_server_that_goes_back_to_an_earlier_cursor(self) -> None:
        stream = self.told(A, TAIL, B, HA)
        assert stream.judge(A, TAIL, B, HA, MORE, behind=1, strict=True) == [SEEN, SEEN, SEEN, SEEN, NEW]

    def test_another_event_with_a_known_cursor(self) -> None:
        other = A._replace(event="x")
        assert self.told(A, TAIL).judge(other, behind=1, strict=True) == [OTHER]

    def test_none_have_come(self) -> None:
        assert Stream().judge(A, behind=0, strict=True) == [NEW]


class TestAcrossProcesses:
    """Of what an earlier process delivered, there is no more than how many and a checksum."""

    def later(self, *events: Fields, behind: int) -> Stream:
        before = Stream()
        before.tell(*events)
        before.ledger.catch_up(before.transcript)
        ledger = before.ledger
        return Stream(ledger.first_id, len(events), ledger.checksum, behind, ledger.behind_checksum(behind))

    def test_what_it_had_behind_the_cursor_is_dropped(self) -> None:
        assert self.later(A, TAIL, HA, behind=2).judge(TAIL, HA, B, behind=2, strict=True) == [SEEN, SEEN, NEW]

    def test_it_must_be_the_same(self) -> None:
        assert self.later(A, TAIL, HA, behind=2).judge(TAIL, MORE, behind=2, strict=True) == [SEEN, OTHER]

    def test_no_less_of_it(self) -> None:
        assert self.later(A, TAIL, HA, behind=2).judge(TAIL, B, behind=2, strict=True) == [SEEN, OTHER]

    def test_together_with_what_came_since(self) -> None:
        stream = self.later(A, TAIL, behind=1)
        assert stream.judge(TAIL, HA, behind=1, strict=True) == [SEEN, NEW]
        assert stream.judge(TAIL, HA, B, behind=2, strict=True) == [SEEN, SEEN, NEW]

    def test_until_another_cursor_is_told(self) -> None:
        stream = self.later(A, TAIL, behind=1)
        assert stream.judge(TAIL, B, HA, behind=1, strict=True) == [SEEN, NEW, NEW]
        assert stream.judge(HA, MORE, behind=1, strict=True) == [SEEN, NEW]

    def test_a_server_that_starts_over(self) -> None:
        """What begins an answer shows it, where no id does; then all that was delivered comes again."""
        stream = self.later(TAIL, A, HA, behind=1)
        assert stream.judge(TAIL, A, HA, B, behind=1, strict=True, opener=TAIL) == [SEEN, SEEN, SEEN, NEW]
        stream = self.later(TAIL, A, HA, behind=1)
        assert stream.judge(TAIL, A, MORE, behind=1, strict=True, opener=TAIL) == [SEEN, SEEN, OTHER]
        assert self.later(TAIL, A, HA, behind=1).judge(TAIL, behind=1, strict=True) == [OTHER]

    def test_what_shares_the_last_id(self) -> None:
        """A server that is asked for the last id once more."""
        first, other = event("2", "x"), event("2", "y")
        stream = self.later(ONE, first, other, behind=2)
        more = event("2", "z")
        assert stream.judge(first, other, more, THREE, cursor="2", behind=2) == [SEEN, SEEN, NEW, NEW]

    def test_ids_that_nobody_has_seen_are_new(self) -> None:
        stream = self.later(ONE, TAIL, behind=1)
        assert stream.judge(TWO, THREE, cursor="1", behind=1) == [NEW, NEW]

    def test_the_sum_goes_on_from_call_to_call(self) -> None:
        """Whenever somebody looks, and however often."""
        events = [A, TAIL, HA, HA, MORE]
        often, once = self.later(behind=0), self.later(behind=0)
        for number, each in enumerate(events):
            often.tell(each)
            often.ledger.catch_up(often.transcript)
            often.ledger.behind_checksum(number)
        once.tell(*events)
        once.ledger.catch_up(once.transcript)
        assert often.ledger.behind_checksum(4) == once.ledger.behind_checksum(4) != 0
        assert often.ledger.behind_checksum(2) == once.ledger.behind_checksum(2)
        assert often.ledger.behind_checksum(0) == 0

    def test_the_sum_of_what_two_processes_had(self) -> None:
        stream, whole = self.later(A, TAIL, behind=1), self.later(A, TAIL, HA, behind=2)
        assert stream.judge(TAIL, HA, behind=1, strict=True) == [SEEN, NEW]
        stream.ledger.catch_up(stream.transcript)
        assert stream.ledger.behind_checksum(2) == whole.ledger.behind_checksum(2)


class TestSeam:
    """Events behind a replay, some of which come twice."""

    def judge(self, *events: Fields, seam: Seam | None = None) -> list[Verdict]:
        seam, last, found = seam or Seam(set()), "", []
        for each in events:
            verdict = seam.judge(each, last)
            if verdict is NEW:
                last = each.id or ""
            found.append(verdict)
        return found

    def test_the_last_events_told_twice(self) -> None:
        assert self.judge(ONE, TWO, THREE, TWO, THREE, event("4", "x")) == [NEW, NEW, NEW, SEEN, SEEN, NEW]

    def test_a_single_one(self) -> None:
        """The last of all has the id of the one before it, which is itself: only the next connection can tell."""
        assert self.judge(ONE, TWO, TWO) == [NEW, NEW, UNCLEAR]

    def test_alike_events_that_share_an_id(self) -> None:
        x = event("2", "x")
        assert self.judge(ONE, x, x) == [NEW, NEW, UNCLEAR]
        assert self.judge(x, event("2", "y"), x) == [NEW, NEW, UNCLEAR]

    def test_in_a_run_of_repeats_they_are_repeats(self) -> None:
        x, y = event("2", "x"), event("2", "y")
        assert self.judge(ONE, x, y, ONE, x, y, THREE) == [NEW, NEW, NEW, SEEN, SEEN, SEEN, NEW]

    def test_a_run_of_repeats_may_be_left(self) -> None:
        assert self.judge(ONE, TWO, THREE, ONE, event("4", "x"), event("5", "x")) == [NEW, NEW, NEW, SEEN, NEW, NEW]

    def test_another_event_with_a_known_id_is_new(self) -> None:
        assert self.judge(ONE, TWO, event("1", "other")) == [NEW, NEW, NEW]

    def test_an_id_of_an_earlier_connection_is_never_told_twice(self) -> None:
        stream = Stream()
        stream.tell(ONE)
        stream.ledger.resumed(stream.transcript, 1)
        assert self.judge(ONE, ONE, TWO, seam=stream.ledger.seam()) == [NEW, NEW, NEW]

    def test_what_an_earlier_connection_had_is_known_beyond_the_replay(self) -> None:
        stream = Stream()
        stream.tell(ONE)
        stream.ledger.resumed(stream.transcript, 1)
        seam = stream.ledger.seam()
        assert [stream.ledger.judge(each, "1") for each in (ONE, TWO)] == [SEEN, NEW]
        assert self.judge(ONE, ONE, seam=seam) == [NEW, NEW]

    def test_it_is_not_watched_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "MAX_OVERLAP", 2)
        assert self.judge(ONE, TWO, ONE, TWO) == [NEW, NEW, NEW, NEW]


class Joining(World):
    """A server that keeps events by the millisecond and joins whoever comes back to the live ones.

    It listens before it reads what is kept, so what happens in between comes by both ways. To come back takes a
    millisecond at least.

    Args:
        happening: Of each event: how many milliseconds after the one before it, and what it says.
        connections: Of each connection: how many events happen before it, how many while the kept ones are read, how
            many behind that, and how many it tells before it breaks; those beyond tell all.
    """

    def __init__(self, happening: list[tuple[int, str]], connections: list[tuple[int, int, int, int]]) -> None:
        self.requests: list[RequestPlan] = []
        self.log: list[tuple[int, str]] = []
        self._happening, self._now = iter(happening), 1000
        self._count = len(happening)
        self._connections = connections

    def blocks(self) -> list[str]:
        return [artificial.block(artificial.Marks(), str(at), said=said) for at, said in self.log]

    def _happen(self, count: int) -> int:
        for later, said in islice(self._happening, count):
            self._now += later
            self.log.append((self._now, said))
        return len(self.log)

    def answer(self, plan: RequestPlan) -> Answer:
        assert len(self.requests) < 200
        self.requests.append(plan)
        if plan.path.endswith("/r"):
            over = len(self.log) == self._count
            state = json.dumps({"state": "done" if over else "running", "seconds": 1.0})
            return Answer(200, {"content-type": "application/json"}, state.encode())
        whole = 10**6
        before, during, behind, told = self._connections.pop(0) if self._connections else (0, 0, whole, whole)
        self._now += 1
        if plan.method == "POST":
            told_twice, start = range(0), 0
            self._happen(before)
        else:
            cursor = int(plan.header("last-event-id") or 0)
            subscribed = self._happen(before)
            kept = self._happen(during)
            start = next((at for at, (name, _) in enumerate(self.log) if name > cursor), kept)
            told_twice = range(subscribed, kept)
            self._happen(behind)
        stream = [*range(start, self._kept_until(told_twice)), *told_twice]
        blocks = self.blocks()
        stream += range(stream[-1] + 1 if stream else start, len(blocks))
        body = "".join(blocks[at] for at in stream[:told]).encode()
        ends = "eof" if told >= len(stream) and len(self.log) == self._count else "reset"
        return Answer(200, {"content-type": "text/event-stream"}, body, ends)

    def _kept_until(self, told_twice: range) -> int:
        return told_twice.stop if told_twice else len(self.log)


NUMBERS = st.integers(0, 3)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("ab")), min_size=1, max_size=24),
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.integers(0, 12)), max_size=8),
    st.booleans(),
)
def test_a_server_that_joins_kept_and_live_events(
    happening: list[tuple[int, str]], connections: list[tuple[int, int, int, int]], one_by_one: bool
) -> None:
    """Never a loss, never a duplicate, whatever is alike and wherever it is cut."""
    request = {"method": "POST", "url": artificial.POST.url, "body": {}}
    case = Case("joining", {"request": request, "answers": []}, b"", artificial.Marks())
    world = Joining(happening, connections)
    log = play(case.converse(one_by_one=one_by_one), world, 65536, slices=not one_by_one)
    assert b"".join(log.slices).decode() == "".join(world.blocks()[: len(log.told)])
    assert log.outcome in ("end", "RetriesExhausted", "CannotResume")
    assert log.outcome != "end" or len(log.told) == len(happening)
