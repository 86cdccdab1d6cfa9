"""Notes: what is kept with each slice leads on from there, with the events at hand or without, in every protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from resumable_llm.core.actions import Action, Deliver
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Limits, Past, RequestPlan
from resumable_llm.core.notes import Notes, read_note
from resumable_llm.dialects import named
from tests.conversation import KEY, Case, World, load, patient, play, told
from tests.core.test_other_generation import WHOLE, Act, Server
from tests.models import TEXT, Chat

BY_NAME = {case.name: case for case in load()}
RESUMED = [
    "last_event_id/get_cut_inside_an_event",
    "last_event_id/post_same_request_with_last_event_id",
    "last_event_id/id_behind_the_data",
    "last_event_id/terminal_known",
    "last_event_id/crlf_and_byte_order_mark",
    "openai_responses/background_cut",
    "openai_responses/numbered_by_a_relay",
    "openai_chat/numbered_by_a_relay",
    "llama_cpp/offset",
    "llama_cpp/pings",
    "llama_cpp/native_completion",
]


class Kept:
    """All that a conversation gives out, each slice with the note that was made when it was."""

    def __init__(self, talk: Conversation, *, summed: bool) -> None:
        self.slices: list[bytes] = []
        self.notes: list[str] = []
        notes, take, passes = Notes(talk, summed=summed), talk.next_action, talk.receive_plain

        def keep(data: bytes) -> None:
            self.slices.append(data)
            self.notes.append(notes.now())

        def next_action() -> Action:
            action = take()
            if isinstance(action, Deliver):
                keep(action.data)
            return action

        def receive_plain(chunk: bytes) -> bool:
            passed = passes(chunk)
            if passed:
                keep(chunk)
            return passed

        talk.next_action, talk.receive_plain = next_action, receive_plain  # type: ignore[method-assign]


def restored(case: Case, note: str, data: bytes | None, **more: Any) -> Conversation:
    checkpoint, seams = read_note(note)
    known = "terminal" not in case.data and case.spoken is None
    return Conversation(
        case.prepared,
        named(checkpoint.dialect) if known else case.dialect,
        patient,
        Limits(),
        key=checkpoint.idempotency_key,
        checkpoint=checkpoint,
        past=None if data is None else Past(data, checkpoint.events, seams),
        **more,
    )


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("at_hand", [True, False])
def test_head_and_tail_are_the_whole(name: str, at_hand: bool) -> None:
    case = BY_NAME[name]
    answers = [{**case.data["answers"][0], "cut": len(case.wire), "ends": "eof"}, {}]
    case = replace(case, data={**case.data, "answers": answers})
    for size in (1, 7, 100, 333, 65536):
        talk = case.converse(one_by_one=False)
        kept = Kept(talk, summed=not at_hand)
        whole = play(talk, World(case), size, slices=True)
        for count, note in enumerate(kept.notes, 1):
            head = b"".join(kept.slices[:count])
            second = restored(case, note, head if at_hand else None)
            tail = play(second, World(case, body="rest"), size, slices=True)
            assert tail.outcome == "end"
            joined = head + b"".join(tail.slices)
            assert told(joined, case.framing) == case.whole
            assert joined == b"".join(whole.slices) or b"\r" in case.wire  # where a line end may be cut in two
            assert second.checkpoint.events == len(case.whole)
            assert second.report.events == len(case.whole if at_hand else tail.told)
            assert second.report.journaled == (read_note(note).checkpoint.events if at_hand else 0)


def test_it_says_what_a_checkpoint_says() -> None:
    for name, size in product(RESUMED, (7, 65536)):
        talk = BY_NAME[name].converse(one_by_one=True)
        notes, take = Notes(talk), talk.next_action

        def next_action(take: Callable[[], Action] = take, talk: Conversation = talk, notes: Notes = notes) -> Action:
            action = take()
            if isinstance(action, Deliver):
                note = read_note(notes.now())
                expected = talk.checkpoint
                if not expected.last_event_id:  # nothing comes again, so sums are of no use
                    expected = replace(expected, checksum=0, behind_checksum=0)
                assert note == (expected, ())
            return action

        talk.next_action = next_action  # type: ignore[method-assign]
        play(talk, World(BY_NAME[name]), size, slices=False)


def test_what_is_waiting_is_not_told() -> None:
    case = BY_NAME["openai_responses/background_cut"]
    talk = case.converse(one_by_one=True)
    notes = Notes(talk, summed=False)
    talk.start(0)
    talk.next_action()
    talk.receive_response(200, {"content-type": "text/event-stream"}, 0)
    talk.receive_data(case.wire, 0)
    told = []
    for _ in case.whole:
        assert isinstance(talk.next_action(), Deliver)
        told.append(read_note(notes.now()).checkpoint)
    assert [checkpoint.sequence for checkpoint in told] == list(range(len(case.whole)))
    assert [checkpoint.complete for checkpoint in told] == [False] * (len(told) - 1) + [True]


@pytest.mark.parametrize("location", ["/elsewhere?api_key=x&v=1", "https://other.example/x", None])
def test_no_secret_and_no_prompt(location: str | None) -> None:
    plan = RequestPlan(
        "POST", "https://me:pw@made-up.example/run?key=sesame&v=2", (("Authorization", "Bearer sesame"),), b'"sesame"'
    )
    talk = Conversation(plan, BY_NAME["last_event_id/terminal_known"].dialect, patient, Limits(), key=KEY)
    talk.start(0)
    talk.next_action()
    headers = {"content-type": "text/event-stream"} | ({"location": location} if location else {})
    talk.receive_response(200, headers, 0)
    talk.receive_data(b'id: \xc3\xa9"\ndata: 1\n\n', 0)
    talk.next_action()
    note = Notes(talk).now()
    assert not any(secret in note for secret in ("sesame", "pw", "api_key"))
    checkpoint = read_note(note).checkpoint
    assert checkpoint == talk.checkpoint
    assert (checkpoint.last_event_id, checkpoint.url) == ('é"', "https://made-up.example/run?v=2")
    assert checkpoint.location == (None if location is None or "other" in location else "/elsewhere?v=1")


def test_an_answer_that_is_complete_is_asked_for_no_more() -> None:
    case = BY_NAME["openai_responses/background_cut"]
    talk = case.converse(one_by_one=False)
    kept = Kept(talk, summed=False)
    play(talk, World(case), 65536, slices=True)
    log = play(restored(case, kept.notes[-1], b"".join(kept.slices)), World(case), 65536, slices=True)
    assert (log.outcome, log.requests, log.slices) == ("end", [], [])


def test_an_answer_that_failed_has_failed() -> None:
    case = BY_NAME["openai_responses/background_cut"]
    checkpoint = Checkpoint("openai_responses", "POST", case.plan.url, complete=True)
    talk = Conversation(
        case.prepared,
        case.dialect,
        patient,
        Limits(),
        checkpoint=checkpoint,
        past=Past(case.wire, len(case.whole), error="overloaded"),
    )
    assert play(talk, World(case), 65536, slices=True).outcome == "end"
    assert talk.upstream_error == "overloaded"
    assert talk.partial_text() != ""


def test_what_is_at_hand_can_be_gone_on_from() -> None:
    """Another generation, though an earlier process had the first part of the answer; then another one, behind that."""
    provider, head, note = Chat(), b"", ""
    requests = []
    for count, script in enumerate([[Act(pieces=6)], [Act(pieces=2), Act(down=True)], [WHOLE]]):
        server = Server(provider, *script)
        content = json.dumps(provider.body).encode()
        request = RequestPlan("POST", provider.url, (("Idempotency-Key", KEY),), content)
        checkpoint, seams = read_note(note) if note else (None, ())
        talk = server.talk = Conversation(
            request,
            named("openai_chat"),
            patient,
            Limits(),
            key=KEY,
            checkpoint=checkpoint,
            past=None if checkpoint is None else Past(head, checkpoint.events, seams),
            fallback=("continue",) if count else (),
            can_continue=True,
        )
        kept = Kept(talk, summed=False)
        log = play(talk, server, 65536, slices=True)
        head += b"".join(kept.slices)
        note = kept.notes[-1]
        requests.append(log.requests[0])
    assert log.outcome == "end"
    assert "".join(map(named("openai_chat").text, talk.transcript)) == TEXT
    keys = [request.header("idempotency-key") for request in requests]
    assert keys == [KEY, f"{KEY}-2", f"{KEY}-3"]  # the last as where nothing came of it, for it is the same request
    assert talk.report.fidelity == "continued"
    assert [seam.way for seam in talk.report.seams] == ["continue", "continue"]


def test_a_refused_way_is_told() -> None:
    case = BY_NAME["openai_chat/numbered_by_a_relay"]
    note = json.dumps(
        [1, "openai_chat", "POST", case.plan.url, KEY, None, None, "", None, 9, "", 0, 0, 1, 0, "", False, []]
    )
    talk = restored(case, note, b"data: {}\n\n", fallback=("continue",), can_continue=False)
    log = play(talk, World(case), 65536, slices=True)
    assert (log.outcome, log.requests) == ("ContinuationRefused", [])


def test_refusals_of_an_answer_that_has_begun_are_errors() -> None:
    case = BY_NAME["llama_cpp/offset"]
    talk = case.converse(one_by_one=False)
    kept = Kept(talk, summed=False)
    play(talk, World(case, cut=len(case.blocks[0])), 65536, slices=True, stop_after=1)
    for status in (404, 503):
        second = restored(case, kept.notes[0], kept.slices[0])
        assert play(
            second, World(replace(case, data={**case.data, "answers": [{"status": status}]})), 7, slices=True
        ).error


def test_whoever_keeps_notes_may_come_back() -> None:
    """So the server is not told to stop when the stream is closed, as it would be otherwise."""
    case = BY_NAME["llama_cpp/offset"]
    plan = case.plan.with_headers(("Idempotency-Key", KEY))
    talk = Conversation(case.dialect.prepare(plan, KEY), case.dialect, patient, Limits(), key=KEY)
    play(talk, World(case), 7, slices=True, stop_after=1)
    assert talk.is_kept_alive_by_us
    Notes(talk).now()
    assert not talk.is_kept_alive_by_us


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", "null", "[2" + ",0" * 17 + "]", "[1" + ",0" * 18 + "]"])
def test_what_is_no_note(text: str) -> None:
    with pytest.raises(ValueError, match="not a note of this version"):
        read_note(text)
