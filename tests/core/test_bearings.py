"""How far an answer has come: checkpoints taken anywhere, and answers that an earlier process began."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Limits, Past, Position, Seam
from tests.conversation import World, patient, play, told
from tests.core import artificial
from tests.core.talks import (
    BY_NAME,
    CURSOR,
    DONE,
    END,
    LOG,
    MARKS,
    RUN,
    A,
    B,
    events,
    made_up,
)


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("dialect", [CURSOR, artificial.CursorLines(), LOG, MARKS], ids=lambda dialect: dialect.name)
def test_head_and_tail_are_the_whole_in_every_dialect(dialect: Dialect, one_by_one: bool) -> None:
    """A checkpoint taken anywhere, in another process: what stands behind the cursor comes again and is dropped."""
    wire = RUN
    if dialect is not MARKS:
        wire = events(dialect, A, {"n": 1}, {"same": 1}, {"same": 1}, {"n": 2}, B, {"same": 1}, {"n": 3}, END)
    case = made_up(dialect, {}, {}, wire=wire, status=[DONE])
    for size, count in product((1, 7, 65536), range(1, len(case.whole))):
        first = case.converse(one_by_one=one_by_one)
        head = play(first, World(case), size, slices=not one_by_one, stop_after=count)
        checkpoint = Checkpoint.from_json(first.checkpoint.to_json())
        if not (checkpoint.cursor or checkpoint.last_event_id or dialect is LOG):
            continue  # of a slice nothing counts yet
        second = case.converse(one_by_one=one_by_one, checkpoint=checkpoint)
        tail = play(second, World(case, body="rest"), size, slices=not one_by_one)
        assert tail.outcome == "end"
        assert head.told[: checkpoint.events] + tail.told == case.whole
        assert second.checkpoint.events == len(case.whole)


class TestPast:
    """What an earlier conversation has delivered is at hand, and this one goes on as if it had done it."""

    CASE = BY_NAME["last_event_id/terminal_known"]

    def goes_on(self, checkpoint: Checkpoint, past: Past) -> Conversation:
        case = self.CASE
        return Conversation(case.prepared, case.dialect, patient, Limits(), checkpoint=checkpoint, past=past)

    def test_it_counts_as_delivered(self) -> None:
        case = self.CASE
        first = case.converse(one_by_one=True)
        play(first, World(case), 65536, slices=False, stop_after=2)
        head = b"".join(case.blocks[:2])
        second = self.goes_on(first.checkpoint, Past(head, 2))
        log = play(second, World(case, body="rest"), 65536, slices=True)
        assert told(head) + log.told == case.whole
        assert (second.report.events, second.report.journaled) == (len(case.whole), 2)
        whole = case.converse(one_by_one=True)
        play(whole, World(case), 65536, slices=False)
        assert second.checkpoint == whole.checkpoint
        assert second.partial_text() == whole.partial_text()

    def test_only_another_generation_follows_another_generation(self) -> None:
        checkpoint = Checkpoint("last_event_id", "GET", self.CASE.plan.url, last_event_id="1", events=1)
        talk = self.goes_on(checkpoint, Past(self.CASE.blocks[0], 1, (Seam("continue", 1, 1, 0),)))
        log = play(talk, World(self.CASE), 65536, slices=True)
        assert (log.outcome, log.requests) == ("CannotResume", [])
        assert talk.report.fidelity == "continued"

    def test_how_far_it_has_come(self) -> None:
        case = BY_NAME["openai_responses/background_cut"]
        for talk in (self.CASE.converse(one_by_one=False), case.converse(one_by_one=False)):
            play(talk, World(self.CASE if talk.dialect.name == "last_event_id" else case), 7, slices=True, stop_after=2)
            talk.settle()
            plain, summed = talk.standing(summed=False), talk.standing(summed=True)
            assert plain == summed._replace(checksum=0, first_id="", behind_checksum=0)
            assert (plain.events, plain.position.offset) == (talk.checkpoint.events, talk.checkpoint.offset)
            assert (summed.checksum != 0) is (talk.dialect.name == "last_event_id")
        assert (talk.key, talk.request) == (case.prepared.header("idempotency-key"), case.prepared)

    def test_the_way_that_was_refused_is_told(self) -> None:
        checkpoint = Checkpoint("openai_chat", "POST", BY_NAME["openai_chat/whole"].plan.url, events=1)
        case = BY_NAME["openai_chat/whole"]
        talk = Conversation(
            case.prepared,
            case.dialect,
            patient,
            Limits(),
            checkpoint=checkpoint,
            past=Past(case.blocks[0], 1),
            fallback=("continue",),
            can_continue=False,
        )
        assert play(talk, World(case), 65536, slices=True).outcome == "ContinuationRefused"


@pytest.mark.parametrize("name", ["openai_chat/numbered_by_a_relay", "llama_cpp/offset"])
def test_behind_another_generation_there_are_no_names_to_go_on_from(name: str) -> None:
    case = BY_NAME[name]
    first = {**case.data["answers"][0], "cut": "lo", "ends": "reset"}
    case = replace(case, data={**case.data, "answers": [first, {"status": 404, "text": "no"}, {"body": "whole"}]})
    talk = Conversation(case.prepared, case.dialect, patient, Limits(), fallback=("replay",))
    play(talk, World(case), 7, slices=True, stop_after=2)
    checkpoint, standing = talk.checkpoint, talk.standing(summed=False)
    assert checkpoint.events == standing.events == 2
    assert [seam.way for seam in standing.seams] == ["replay"]
    assert (checkpoint.last_event_id, checkpoint.handle) == ("", None)
    assert (standing.position, standing.handle) == (Position(offset=checkpoint.offset), None)
