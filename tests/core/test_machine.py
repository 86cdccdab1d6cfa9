"""The state machine: every case cut at every byte, held against the oracle; every input in every state; bounds."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable_llm.core import errors
from resumable_llm.core.actions import Deliver, Fail, Finish, Read, Send, Surface, Wait
from resumable_llm.core.dialect import Dialect, Finished, PollResult
from resumable_llm.core.framing import JSON_LINES
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Failure, Limits, Progress, RequestPlan
from resumable_llm.core.states import TRANSITIONS, Input
from resumable_llm.dialects import LastEventId
from tests.conversation import KEY, Case, Played, World, play, told
from tests.core import artificial
from tests.core.talks import (
    BUSY,
    BY_NAME,
    CASES,
    CURSOR,
    END,
    HALF,
    LINES,
    REQUEST,
    STREAM,
    TICK,
    WHOLE,
    A,
    B,
    conversation,
    differences,
    drain,
    events,
    foretell,
    joined,
    made_up,
    played,
    streaming,
    ways,
)
from tests.oracle import Told, cut

RUNS = list(product((1, 7, 65536), (True, False), ("reset", "eof")))
"""Bytes a chunk, one by one or as slices, how the first connection ends."""

IN_TURN = list(product((65536, 7, 65536, 65536) * 8 + (1,), (True, False), ("reset", "eof")))
EXHAUSTIVE = os.environ.get("EXHAUSTIVE") == "1"
"""Make all runs at each cut, which takes ten minutes. By default they take turns: each byte is cut once."""


class TestCases:
    @pytest.mark.parametrize(
        "case",
        CASES,
        ids=lambda case: case.name,
    )
    def test_goes_as_the_case_says(self, case: Case) -> None:
        for size, one_by_one in product((1, 7, 65536), (True, False)):
            talk = case.converse(one_by_one=one_by_one)
            log = play(talk, World(case), size, slices=not one_by_one)
            self.check(case, log)
            self.check_what_is_told_about_it(case, talk, log)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_the_oracle_agrees(self, case: Case) -> None:
        self.check(case, foretell(case, World(case)))

    def check(self, case: Case, log: Played) -> None:
        expected = case.data["expect"]
        assert log.asked == expected["requests"]
        assert log.waits == pytest.approx(expected["waits"])
        assert log.outcome == expected["outcome"]
        assert log.proved == expected["proved"]
        start = expected.get("delivered_from", 0)
        if expected["delivered"] == "all":
            assert log.told == case.whole[start:]
        elif expected["delivered"] != "text":  # made from a poll: other events, the same text
            assert log.told == case.whole[start : expected["delivered"]]

    def check_what_is_told_about_it(self, case: Case, talk: Conversation, log: Played) -> None:
        expected = case.data["expect"]
        report, checkpoint = talk.report, talk.checkpoint
        assert report.attempts == len(log.requests)
        assert report.events == len(log.told) == checkpoint.events
        assert report.bytes == sum(map(len, log.slices))
        assert report.fidelity == "exact"
        if "text" in expected:
            assert talk.partial_text() == expected["text"]
        if log.outcome != "surface":
            assert talk.upstream_error == expected.get("upstream_error")
            assert log.notices[-1].kind == ("end" if log.outcome == "end" else "give_up")
            assert checkpoint.complete == (log.outcome == "end")
            drops = [notice for notice in log.notices if notice.kind == "drop"]
            assert len(report.drops) == len(drops)
        if log.error is not None:
            assert isinstance(log.error, errors.StreamInterrupted)
            assert log.error.partial_text == talk.partial_text()
            assert log.error.checkpoint == checkpoint
            assert log.error.report == report
        for secret in ("made-up", "Bearer", "Say hello", "why"):
            assert secret not in checkpoint.to_json()


class TestCutEverywhere:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_the_caller_cannot_tell(self, case: Case) -> None:
        if case.data.get("anywhere") is False:
            assert play(case.converse(one_by_one=True), World(case), 7, slices=False).outcome
            return
        foretold: dict[tuple[int, bool, str], Played] = {}
        for at in range(len(case.wire) + 1):
            # Half an event is half an event: the oracle need not be asked again before it is whole.
            for size, one_by_one, ends in RUNS if EXHAUSTIVE else [IN_TURN[at % len(IN_TURN)]]:
                blocks, half = cut(case.wire[:at], case.framing, ended=ends == "eof")
                now = (len(blocks), half, ends)
                if now not in foretold:
                    foretold[now] = foretell(case, World(case, cut=at, ends=ends))
                log = play(
                    case.converse(one_by_one=one_by_one), World(case, cut=at, ends=ends), size, slices=not one_by_one
                )
                different = differences(log, foretold[now])
                assert not different, f"cut at {at} by {ends}, chunks of {size}, one by one: {one_by_one}: {different}"
                self.check_the_promise(case, log)

    def check_the_promise(self, case: Case, log: Played) -> None:
        """Exactly once, in order, or a typed error; by itself, without the oracle."""
        assert (log.error is not None) == (log.outcome not in ("end", "surface"))
        later = case.data["answers"][1:]
        if any("json" in said or "sse" in said or said.get("status") == 204 for said in later[:1]):
            return  # this server has something else to tell, or nothing
        assert log.told == case.whole[: len(log.told)]
        if log.proved and log.told != case.whole and "upstream_error" not in case.data["expect"]:
            # A finish_reason or stop_reason without what follows is the one end that leaves something out: no text.
            assert case.dialect.ended(case.prepared, Told(map(case.framing.parse, case.blocks[: len(log.told)])))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "name",
        [
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
        ],
    )
    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_head_and_tail_are_the_whole(self, name: str, one_by_one: bool) -> None:
        """A checkpoint taken anywhere, as JSON, in another process: the server need not be told more than it says."""
        case = BY_NAME[name]
        case = replace(
            case, data={**case.data, "answers": [{**case.data["answers"][0], "cut": len(case.wire), "ends": "eof"}, {}]}
        )
        for size, count in product((1, 7, 100, 65536), range(1, len(case.whole))):
            first = case.converse(one_by_one=one_by_one)
            head = play(first, World(case), size, slices=not one_by_one, stop_after=count)
            checkpoint = Checkpoint.from_json(first.checkpoint.to_json())
            second = case.converse(one_by_one=one_by_one, checkpoint=checkpoint)
            tail = play(second, World(case, body="rest"), size, slices=not one_by_one)
            assert tail.outcome == "end"
            # A slice of several events counts when the caller comes back for more; one by one nothing is repeated.
            kept = head.told[: checkpoint.events]
            assert kept + tail.told == case.whole
            assert not one_by_one or len(head.told) == checkpoint.events
            assert second.checkpoint.events == len(case.whole)
            assert second.report.events == len(tail.told)


# Conversations nobody thought of

EVENTS = st.integers(1, 6)
ANSWERS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "status": st.sampled_from([200, 200, 200, 200, 201, 204, 303, 307, 400, 401, 404, 410, 416, 429, 500, 503]),
            "ends": st.sampled_from(["reset", "eof"]),
            "cut": st.integers(0, 700),
            "body": st.sampled_from(["rest", "rest", "whole"]),
            "overlap": st.integers(0, 3),
            "down": st.sampled_from([False, False, True]),
            "headers": st.dictionaries(
                st.sampled_from(["retry-after", "location", "server"]),
                st.sampled_from(["3", "/elsewhere", "llama.cpp"]),
                max_size=2,
            ),
        },
    ),
    max_size=6,
)


def clean(answer: dict[str, Any], *, location: bool) -> dict[str, Any]:
    """An answer without headers that no server would send."""
    right = {"retry-after": "3", "server": "llama.cpp", **({"location": "/elsewhere"} if location else {})}
    headers = {name: right[name] for name in answer.get("headers", {}) if name in right}
    if answer.get("status", 200) not in (200, 201):
        answer = {**answer, "text": "no"}
    return {**answer, "headers": headers}


@st.composite
def conversations(draw: st.DrawFn, kind: str) -> Case:
    count = draw(EVENTS)
    answers = draw(ANSWERS)
    base = {"post": "post_same_request_with_last_event_id"}.get(kind, "get_cut_inside_an_event")
    if kind in ("get", "post", "terminal"):
        data = BY_NAME[f"last_event_id/{base}"].data
        some = [draw(st.booleans()) for _ in range(count)]
        blocks = [f"id: {n}\ndata: {n}\n\n" if some[n] or n == 0 else f"data: {n}\n\n" for n in range(count)]
        if kind == "terminal":
            data = {**data, "terminal": "end"}
            blocks.append("event: end\ndata: x\n\n")
    elif kind == "responses":
        data = BY_NAME["openai_responses/background_cut"].data
        opening, *_ = BY_NAME["openai_responses/background_cut"].blocks
        text = [
            f'{{"type":"response.output_text.delta","sequence_number":{n},"delta":"{n}"}}' for n in range(1, count + 1)
        ]
        done = f'{{"type":"response.completed","sequence_number":{count + 1},"response":{{"id":"x"}}}}'
        blocks = [opening.decode(), *(f"event: response.output_text.delta\ndata: {each}\n\n" for each in text)]
        blocks.append(f"event: response.completed\ndata: {done}\n\n")
    else:
        data = BY_NAME["llama_cpp/offset"].data
        blocks = [f'data: {{"choices":[{{"index":0,"delta":{{"content":"{n}"}}}}]}}\n\n' for n in range(count)] + [
            "data: [DONE]\n\n"
        ]
    script: list[dict[str, Any]] = [{"body": "whole"}, *answers] if draw(st.booleans()) else [*answers, {}]
    script = [clean(each, location=kind in ("get", "post", "terminal")) for each in script]
    script[0] = {**script[0], "body": "whole"}
    return Case(f"generated/{kind}", {**data, "answers": [*script, {"headers": {}}]}, "".join(blocks).encode())


@pytest.mark.parametrize(
    "kind",
    [
        "get",
        "post",
        "terminal",
        "responses",
        "llama_cpp",
    ],
)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_machine_and_oracle_agree(kind: str, one_by_one: bool) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(conversations(kind), st.sampled_from([1, 7, 64, 65536]))
    def check(case: Case, size: int) -> None:
        log = play(case.converse(one_by_one=one_by_one), World(case), size, slices=not one_by_one)
        assert not differences(log, foretell(case, World(case)))

    check()


# The same in dialects that nobody speaks, each with one of the core's abilities

KINDS: dict[str, tuple[Dialect, RequestPlan]] = {
    "cursor": (artificial.Cursor(), artificial.GET),
    "cursor by post": (artificial.Cursor(), artificial.POST),
    "cursor in lines": (artificial.CursorLines(), artificial.GET),
    "log": (artificial.Log(), artificial.GET),
    "lines": (artificial.Lines(), artificial.POST),
    "polled": (artificial.Polled(), artificial.POST),
    "marks": (artificial.Marks(), artificial.POST),
    "marks alone": (artificial.MarksAlone(), artificial.POST),
    "marks kept": (artificial.MarksKept(), artificial.POST),
    "marks unkept": (artificial.MarksUnkept(), artificial.POST),
}


@st.composite
def artificial_conversations(draw: st.DrawFn, kind: str) -> Case:
    dialect, request = KINDS[kind]
    marks = isinstance(dialect, artificial.Marks)
    count = draw(EVENTS)
    blocks, now = [], 0
    for number in range(count):
        said: dict[str, Any] = draw(st.sampled_from([{"n": number}, {"n": number}, {"same": 1}, {"hollow": 1}]))
        if marks:
            now += draw(st.integers(0, 1)) if number else 1
            blocks.append(artificial.block(dialect, str(now), **said))
        else:
            if draw(st.booleans()):
                said = {**said, "event_id": f"e{number}", **({"idle": True} if draw(st.booleans()) else {})}
            blocks.append(artificial.block(dialect, **said))
    if not marks:
        blocks.append(artificial.block(dialect, end=True))
    errors_told: list[dict[str, Any]] = [
        {"error": "broken"},
        {"error": "busy", "passes": 0},
        {"error": "busy", "passes": 3.0},
    ]
    failures = [artificial.block(dialect, event="error" if marks else None, **each) for each in errors_told]
    missing = [artificial.block(dialect, n=99), artificial.block(dialect, end=True)]
    states = st.sampled_from(
        [
            {"json": {"state": "done"}},
            {"json": {"state": "done", "missing": missing}},
            {"json": {"state": "done", "missing": [artificial.block(dialect, same=1), *missing]}},
            {"json": {"state": "done", "missing": [failures[0]]}},
            {"json": {"state": "done", "missing": [failures[1]]}},
            {"json": {"state": "running", "seconds": 2.0}},
            {"json": {"state": "unheard of"}},
            {"text": "no", "status": 404},
            {"text": "no", "status": 503},
            {"down": True},
            {"text": "no", "status": 204},
        ]
    )

    def changed(said: dict[str, Any]) -> dict[str, Any]:
        """An answer, perhaps with something else to say than what the server knows."""
        literal = "ndjson" if dialect.framing is JSON_LINES else "sse"
        what = draw(st.sampled_from(["", "", "", "fails", "fails behind", "other"]))
        behind = draw(st.integers(0, len(blocks)))
        if what == "fails":
            said = {**said, literal: draw(st.sampled_from(failures))}
        elif what == "fails behind":
            said = {**said, literal: "".join([*blocks[:behind], draw(st.sampled_from(failures)), *blocks[behind:]])}
        elif what == "other":
            said = {**said, literal: "".join(blocks).replace('"n":1', '"n":77')}
        twice = draw(st.integers(0, 3)) if marks else 0
        return {"lasts": draw(st.sampled_from([0.0, 6.0])), "twice": twice, "live": behind, **said}

    answers = [clean(changed(said), location=False) for said in draw(ANSWERS)]
    script = [{"body": "whole"}, *answers] if draw(st.booleans()) else [*answers, {}]
    script[0] = {**script[0], "body": "whole"}
    data: dict[str, Any] = {
        "answers": [*script, {}],
        "elsewhere": {"/runs/r": [*draw(st.lists(states, min_size=1, max_size=4)), {"json": {"state": "done"}}]},
        "ids": "sorted" if marks else "exact",
        "request": {"method": request.method, "url": request.url},
    }
    if request.body:
        data["request"]["body"] = {}
    return Case(f"generated/{kind}", data, "".join(blocks).encode(), dialect)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("one_by_one", [True, False])
def test_machine_and_oracle_agree_on_what_nobody_speaks(kind: str, one_by_one: bool) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(artificial_conversations(kind), st.sampled_from([1, 7, 64, 65536]))
    def check(case: Case, size: int) -> None:
        log = play(case.converse(one_by_one=one_by_one), World(case), size, slices=not one_by_one)
        assert not differences(log, foretell(case, World(case)))

    check()


# Every input in every state

RESPONSES = BY_NAME["openai_responses/background_cut"]


INPUTS = {
    Input.START: lambda talk, draw: talk.start(0.0),
    Input.RESPONSE: lambda talk, draw: talk.receive_response(
        draw(st.sampled_from([200, 200, 201, 204, 301, 303, 307, 400, 401, 404, 410, 429, 500])),
        {
            "content-type": draw(
                st.sampled_from(["text/event-stream; charset=utf-8", "application/json", "text/html"])
            ),
            "location": draw(st.sampled_from(["/else", "https://other.example/", ""])),
        },
        1.0,
    ),
    Input.DATA: lambda talk, draw: talk.receive_data(
        draw(
            st.binary(max_size=30)
            | st.sampled_from(
                [*RESPONSES.blocks, RESPONSES.wire, b"id: 1\ndata: x\n\n", b"data: y\n\n", b'{"status": "in_progress"}']
            )
        ),
        2.0,
    ),
    Input.EOF: lambda talk, draw: talk.receive_eof(3.0),
    Input.FAILURE: lambda talk, draw: talk.receive_failure(Failure("broke"), 4.0),
    Input.WAKEUP: lambda talk, draw: talk.receive_wakeup(5.0),
}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_every_input_in_every_state(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(CASES), label="case")
    talk = case.converse(one_by_one=data.draw(st.booleans()))
    for _ in range(12):
        before = talk.state
        event = data.draw(st.sampled_from([*TRANSITIONS[before], *TRANSITIONS[before], *Input]), label="input")
        legal = event in TRANSITIONS[before]
        if event is Input.START and not legal:
            continue  # test_a_second_start_is_a_bug_of_the_driver
        if legal:
            INPUTS[event](talk, data.draw)
            stayed = event is Input.DATA and talk.state is before
            assert stayed or talk.state in TRANSITIONS[before][event]
            drain(talk)
        else:
            with pytest.raises(RuntimeError, match=before.value):
                INPUTS[event](talk, data.draw)
            assert talk.state is before


def test_a_second_start_is_a_bug_of_the_driver() -> None:
    talk = streaming()
    with pytest.raises(RuntimeError):
        talk.start(1.0)


# Times and bounds


class TestTimes:
    def test_silence_allowed_is_the_longer_of_the_two_at_first(self) -> None:
        talk = conversation(first_event_timeout=60.0, event_timeout=10.0)
        talk.start(0.0)
        action = talk.next_action()
        assert isinstance(action, Send)
        assert action.read_timeout == 60.0

    def test_later_it_is_the_time_between_events(self) -> None:
        talk = streaming(first_event_timeout=60.0, event_timeout=10.0, one_by_one=True)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        action = drain(talk)
        assert isinstance(action, Send)
        assert action.read_timeout == 10.0

    @pytest.mark.parametrize(
        ("times", "expected"),
        [
            ({}, None),
            ({"deadline": 30.0}, 30.0),
            ({"deadline": 30.0, "first_event_timeout": 5.0, "event_timeout": 6.0}, 6.0),
            ({"deadline": 3.0, "first_event_timeout": 5.0, "event_timeout": 6.0}, 3.0),
            ({"first_event_timeout": 5.0}, None),
        ],
    )
    def test_silence_and_deadline(self, times: dict[str, Any], expected: float | None) -> None:
        talk = conversation(**times)
        talk.start(100.0)
        action = talk.next_action()
        assert isinstance(action, Send)
        assert action.read_timeout == expected

    def test_silence_under_comments_is_a_drop(self) -> None:
        talk = streaming(event_timeout=10.0, first_event_timeout=10.0, one_by_one=True)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        for now in range(2, 12):
            talk.receive_data(b": ping\n\n", float(now))
            assert isinstance(drain(talk), Read)
        talk.receive_data(b": ping\n\n", 12.0)
        assert isinstance(drain(talk), Send)
        assert "no event for 10 s" in talk.report.drops[0].reason

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_comments_are_not_the_first_event(self, one_by_one: bool) -> None:
        talk = streaming(first_event_timeout=5.0, event_timeout=60.0, one_by_one=one_by_one)
        talk.receive_data(b": ping\n\n", 1.0)
        drain(talk)
        talk.receive_data(b": ping\n\n", 7.0)
        drain(talk)
        assert len(talk.report.drops) == 1

    def test_silence_under_pings_of_the_provider_is_a_drop(self) -> None:
        case = BY_NAME["anthropic_messages/whole"]
        talk = case.converse(one_by_one=True, limits=Limits(event_timeout=10.0))
        talk.start(0.0)
        talk.receive_response(200, STREAM, 0.0)
        talk.receive_data(case.blocks[0], 1.0)
        for now in range(2, 12):
            assert isinstance(drain(talk), Read)
            talk.receive_data(b'event: ping\ndata: {"type": "ping"}\n\n', float(now))
        talk.receive_data(b'event: ping\ndata: {"type": "ping"}\n\n', 12.0)
        assert isinstance(drain(talk), Fail)

    def test_events_of_a_replay_are_signs_of_life(self) -> None:
        talk = streaming(event_timeout=10.0, one_by_one=True)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        drain(talk)
        talk.receive_response(200, STREAM, 2.0)
        talk.receive_data(TICK, 11.0)
        drain(talk)
        talk.receive_data(b": ping\n\n", 20.0)
        assert isinstance(drain(talk), Read)
        assert talk.report.replayed == 1

    @pytest.mark.parametrize("event", ["data", "plain", "collecting"])
    def test_one_deadline_over_all(self, event: str) -> None:
        case = BY_NAME["openai_chat/whole" if event == "plain" else "openai_chat/numbered_by_a_relay"]
        talk = case.converse(one_by_one=False, limits=Limits(deadline=10.0))
        talk.start(0.0)
        talk.receive_response(200, STREAM, 0.0)
        if event == "collecting":
            talk.receive_data(case.blocks[0], 1.0)
            drain(talk)
            talk.receive_failure(Failure("broke"), 2.0)
            drain(talk)
            talk.receive_response(404, {}, 6.0)
            assert isinstance(drain(talk), Read)
            talk.receive_data(b"not found", 10.0)
        else:
            for now, block in zip((1.0, 11.0), case.blocks, strict=False):
                if not talk.receive_plain(block):
                    talk.receive_data(block, now)
                drain(talk) if now < 10 else None
        action = drain(talk)
        assert isinstance(action, Fail)
        assert isinstance(action.error, errors.RetriesExhausted)
        assert "deadline" in str(action.error)

    def test_progress_refills_the_budget(self) -> None:
        waits = []

        def backoff(failures: int, elapsed: float, floor: float | None) -> float:
            waits.append((failures, elapsed, floor))
            return 1.0

        dialect = LastEventId("end")
        talk = Conversation(REQUEST, dialect, backoff, Limits(), one_by_one=True)
        talk.start(0.0)
        now = 0.0
        for news in (b"id: 1\ndata: a\n\n", b"", b"", b"id: 2\ndata: b\n\n", b""):
            talk.receive_response(200, STREAM, now)
            if news:
                talk.receive_data(b"retry: 7000\n\n" + news, now)
            drain(talk)
            now += 1.0
            talk.receive_failure(Failure("broke"), now)
            assert isinstance(drain(talk), Wait)
            now += 1.0
            talk.receive_wakeup(now)
        assert waits == [(0, ANY, 7.0), (1, 0.0, 7.0), (2, 2.0, 7.0), (0, ANY, 7.0), (1, 0.0, 7.0)]

    def test_seconds_lost_and_tokens_not_paid_twice(self) -> None:
        case = BY_NAME["openai_responses/background_cut"]
        talk = case.converse(one_by_one=True)
        assert talk.report.tokens_not_paid_twice == 0
        talk.start(0.0)
        talk.receive_response(200, STREAM, 0.0)
        talk.receive_data(b"".join(case.blocks[:3]), 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        drain(talk)
        talk.receive_response(200, STREAM, 3.0)
        talk.receive_data(case.blocks[3], 4.5)
        drain(talk)
        talk.receive_failure(Failure("broke"), 5.0)
        drain(talk)
        talk.receive_response(200, STREAM, 5.0)
        talk.receive_data(case.blocks[4], 5.25)
        assert isinstance(drain(talk), Finish)
        report = talk.report
        assert report.seconds_lost == pytest.approx(2.75)
        assert report.tokens_not_paid_twice == 3
        assert [drop.events for drop in report.drops] == [3, 4]
        assert [drop.way for drop in report.drops] == ["resume", "resume"]


class TestBounds:
    def test_an_event_beyond_the_bound(self) -> None:
        talk = streaming(max_event_bytes=20)
        talk.receive_data(b"data: " + b"x" * 30, 1.0)
        action = drain(talk)
        assert isinstance(action, Fail)
        assert isinstance(action.error, errors.EventTooLarge)

    def test_a_refusal_without_end_is_not_read_to_its_end(self) -> None:
        talk = streaming(one_by_one=True)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        drain(talk)
        talk.receive_response(404, {}, 3.0)
        for _ in range(64):
            assert isinstance(drain(talk), Read)
            talk.receive_data(b"x" * 1024, 3.0)
        assert isinstance(drain(talk), Read)
        talk.receive_data(b"x", 3.0)
        action = drain(talk)
        assert isinstance(action, Fail)
        assert isinstance(action.error, errors.ResumeExpired)

    def test_a_poll_may_be_as_long_as_an_answer(self) -> None:
        case = BY_NAME["openai_responses/background_too_old_then_poll"]
        talk = case.converse(one_by_one=True, limits=Limits(max_transcript_bytes=100_000))
        talk.start(0.0)
        talk.receive_response(200, STREAM, 0.0)
        talk.receive_data(case.blocks[0], 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        drain(talk)
        talk.receive_response(200, {"content-type": "application/json"}, 3.0)
        talk.receive_data(b" " * 100_000, 3.0)
        assert isinstance(drain(talk), Read)
        talk.receive_data(b" ", 3.0)
        action = drain(talk)
        assert isinstance(action, Fail)
        assert isinstance(action.error, errors.CannotResume)

    def test_a_connection_that_breaks_under_a_poll(self) -> None:
        case = BY_NAME["openai_responses/background_too_old_then_poll"]
        data = {
            **case.data,
            "answers": [
                *case.data["answers"][:2],
                {"json": {"id": "x"}, "ends": "reset", "cut": 3},
                case.data["answers"][2],
            ],
        }
        log = play(case.converse(one_by_one=True), World(replace(case, data=data)), 64, slices=False)
        assert (log.outcome, log.waits) == ("end", [1.0])
        assert [plan.method for plan in log.requests] == ["POST", "GET", "GET", "GET"]

    def test_a_poll_that_finds_nothing_missing(self) -> None:
        class Keeps(LastEventId):
            def poll(self, progress: Progress) -> RequestPlan | None:
                return replace(progress.request, url="https://events.example/done")

            def read_poll(self, *_: object) -> PollResult:
                return Finished([])

        talk = streaming(Keeps("end"), one_by_one=True)
        talk.receive_data(b"data: x\n\n", 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        drain(talk)
        talk.receive_response(200, {"content-type": "application/json"}, 3.0)
        talk.receive_data(b"{}", 3.0)
        talk.receive_eof(3.0)
        assert isinstance(drain(talk), Finish)
        assert (talk.report.end_proved, talk.report.events) == (True, 1)


class TestPlaces:
    """The checkpoint at each moment: never ahead of the caller, and consistent in itself."""

    LLAMA = BY_NAME["llama_cpp/offset"]

    def begun(self) -> tuple[Conversation, list[bytes]]:
        """Behind the first event; the next may pass plainly."""
        talk, blocks = self.LLAMA.converse(one_by_one=False), self.LLAMA.blocks
        talk.start(0.0)
        talk.receive_response(200, {**STREAM, "server": "llama.cpp"}, 0.0)
        talk.receive_data(blocks[0], 1.0)
        drain(talk)
        self.check(talk, 1)
        return talk, blocks

    def check(self, talk: Conversation, events: int) -> None:
        checkpoint = talk.checkpoint
        assert (checkpoint.events, checkpoint.offset) == (events, sum(map(len, self.LLAMA.blocks[:events])))

    def test_a_slice_behind_a_plain_chunk(self) -> None:
        talk, blocks = self.begun()
        assert talk.receive_plain(blocks[1])
        self.check(talk, 2)
        assert not talk.receive_plain(blocks[2] + blocks[3] + b"data")
        talk.receive_data(blocks[2] + blocks[3] + b"data", 2.0)
        self.check(talk, 2)
        slice_ = talk.next_action()
        assert isinstance(slice_, Deliver)
        assert slice_.events == 2
        self.check(talk, 2)
        assert isinstance(talk.next_action(), Read)
        self.check(talk, 4)

    def test_a_plain_chunk_of_several_events_counts_when_the_caller_comes_back(self) -> None:
        talk, blocks = self.begun()
        assert talk.receive_plain(blocks[1] + blocks[2])
        self.check(talk, 1)
        assert isinstance(talk.next_action(), Read)
        self.check(talk, 3)

    def test_one_by_one_from_the_middle_on(self) -> None:
        talk, blocks = self.begun()
        assert talk.is_kept_alive_by_us
        assert talk.receive_plain(blocks[1])
        talk.deliver_one_by_one()
        assert not talk.is_kept_alive_by_us
        assert not talk.receive_plain(blocks[2] + blocks[3])
        talk.receive_data(blocks[2] + blocks[3], 2.0)
        for count in (3, 4):
            assert isinstance(talk.next_action(), Deliver)
            self.check(talk, count)
        assert isinstance(talk.next_action(), Read)

    def test_a_conversation_that_the_caller_named_is_the_callers(self) -> None:
        talk = BY_NAME["llama_cpp/named_by_the_caller"].converse(one_by_one=False)
        talk.start(0.0)
        talk.receive_response(200, {**STREAM, "server": "llama.cpp"}, 0.0)
        assert not talk.is_kept_alive_by_us

    def test_an_answer_that_is_over_stays_over(self) -> None:
        case = BY_NAME["last_event_id/terminal_known"]
        first = case.converse(one_by_one=True)
        play(first, World(case), 65536, slices=False)
        second = case.converse(one_by_one=True, checkpoint=first.checkpoint)
        world = World(case)
        log = play(second, world, 65536, slices=False)
        assert (log.outcome, log.told, world.requests) == ("end", [], [])

    def test_what_follows_the_terminal_event_is_not_wanted(self) -> None:
        talk = streaming(LastEventId("end"), one_by_one=True)
        talk.receive_data(b"event: end\ndata: x\n\ndata: more\n\n", 1.0)
        assert isinstance(drain(talk), Finish)
        assert talk.report.events == 1

    def test_a_server_that_begins_with_the_event_that_was_named(self) -> None:
        case = BY_NAME["last_event_id/get_cut_inside_an_event"]
        first = case.converse(one_by_one=True)
        play(first, World(case), 65536, slices=False, stop_after=2)
        case = replace(
            case, data={**case.data, "answers": [{"body": "rest", "overlap": 1}, {"status": 204, "text": ""}]}
        )
        tail = play(case.converse(one_by_one=True, checkpoint=first.checkpoint), World(case), 65536, slices=False)
        assert tail.told == case.whole[2:]

    def test_a_server_that_tells_an_earlier_process_everything_again(self) -> None:
        case = BY_NAME["last_event_id/full_replay"]
        first = case.converse(one_by_one=True)
        play(first, World(case), 65536, slices=False, stop_after=3)
        case = replace(case, data={**case.data, "answers": [{"body": "whole"}, {"status": 204, "text": ""}]})
        second = case.converse(one_by_one=True, checkpoint=Checkpoint.from_json(first.checkpoint.to_json()))
        tail = play(second, World(case), 65536, slices=False)
        assert (tail.told, second.report.replayed) == (case.whole[3:], 3)

    def test_a_server_that_tells_another_process_something_else(self) -> None:
        case = BY_NAME["last_event_id/start_over_with_another_answer"]
        first = case.converse(one_by_one=True)
        play(first, World(case, cut=10**6, ends="eof"), 65536, slices=False, stop_after=3)
        other = replace(case, data={**case.data, "answers": [case.data["answers"][1]]})
        tail = play(case.converse(one_by_one=True, checkpoint=first.checkpoint), World(other), 65536, slices=False)
        assert (tail.outcome, tail.told) == ("ReplayDiverged", [])


@pytest.mark.parametrize(
    ("stream", "cut"),
    [
        # the second of two equal deltas without ids, behind the last id
        (["id: 1\ndata: a\n\n", "data: ha\n\n", "data: ha\n\n", "id: 2\ndata: b\n\n"], 2),
        # a delta equal to one before the cursor
        (["id: 1\ndata: a\n\n", "data: ha\n\n", "id: 2\ndata: b\n\n", "data: ha\n\n", "id: 3\ndata: c\n\n"], 3),
    ],
    ids=["behind the cursor", "before the cursor"],
)
def test_equal_events_are_not_the_same_event(stream: list[str], cut: int) -> None:
    base = BY_NAME["last_event_id/get_cut_inside_an_event"]
    answers = [{"cut": len("".join(stream[:cut])), "ends": "reset"}, {}, {"status": 204, "text": ""}]
    case = Case("alike", {**base.data, "answers": answers}, "".join(stream).encode())
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert log.outcome == "end"
    assert log.told == case.whole


def test_last_notices_are_those_of_a_complete_answer() -> None:
    talk = streaming(LastEventId("end"), one_by_one=True)
    assert talk.last_notices() == []
    talk.receive_data(b"event: end\ndata: x\n\n", 1.0)
    assert talk.last_notices() == []  # first the event
    assert isinstance(talk.next_action(), Deliver)
    assert [notice.kind for notice in talk.last_notices()] == ["end"]
    assert talk.last_notices() == []
    assert isinstance(talk.next_action(), Finish)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_last_event_id_is_that_of_what_was_given_out(one_by_one: bool) -> None:
    talk = streaming(one_by_one=one_by_one)
    talk.receive_data(b"id: 1\ndata: x\n\n", 1.0)
    assert talk.last_event_id == ""
    drain(talk)
    assert talk.last_event_id == "1"
    talk.receive_data(b"data: y\n\nid: 2\ndata: z\n\n", 2.0)
    assert talk.last_event_id == "1"
    drain(talk)
    assert talk.last_event_id == "2"


def test_answered_is_a_stream_that_has_begun() -> None:
    talk = conversation()
    talk.start(0.0)
    assert not talk.answered
    talk.receive_response(200, STREAM, 0.0)
    assert talk.answered


def test_a_record_that_is_not_what_was_received() -> None:
    case = BY_NAME["llama_cpp/offset"]
    other = {"headers": {"server": "llama.cpp"}, "sse": case.wire.decode().replace("Hel", "Bye")}
    case = replace(case, data={**case.data, "answers": [case.data["answers"][0], other]})
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert (log.outcome, log.told) == ("ReplayDiverged", case.whole[:2])


def test_what_is_no_stream_does_not_choose_the_dialect() -> None:
    case = BY_NAME["openai_chat/whole"]
    busy = 'data: {"error":{"code":"server_error"}}\n\n'
    refused = {"headers": {"server": "llama.cpp"}, "text": "a page", "ends": "reset"}
    case = replace(case, data={**case.data, "answers": [{"sse": busy}, refused, {"body": "whole"}]})
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert (log.outcome, log.told) == ("end", case.whole)


def test_surfaced_is_the_callers() -> None:
    talk = conversation()
    talk.start(0.0)
    talk.receive_response(401, {}, 0.0)
    assert isinstance(talk.next_action(), Surface)
    assert talk.surfaced
    assert not streaming().surfaced


def test_a_surfaced_response_is_no_complete_answer() -> None:
    talk = conversation()
    talk.start(0.0)
    talk.receive_response(401, {}, 0.0)
    assert not talk.checkpoint.complete


def test_nothing_can_be_asked_before_the_start() -> None:
    with pytest.raises(AssertionError, match="started"):
        conversation().next_action()


def test_the_cause_is_kept() -> None:
    cause = OSError("cable")
    talk = streaming()
    talk.receive_data(b"data: x\n\n", 1.0)
    drain(talk)
    talk.receive_failure(Failure("broke", cause), 2.0)
    action = drain(talk)
    assert isinstance(action, Fail)
    assert action.error.__cause__ is cause
    assert action.error.args[0].startswith("broke; the server sent no event ids")


def test_keys_of_cases_are_the_calls() -> None:
    assert BY_NAME["llama_cpp/offset"].prepared.header("x-conversation-id") == KEY
    assert told(b"data: x\n\n") == [("message", "x")]


class TestHollow:
    """Events that whoever were handed them would take for the end, which they are not."""

    @pytest.mark.parametrize("size", [7, 65536])
    def test_they_are_kept_from_the_caller(self, size: int) -> None:
        hollow = {"hollow": True}
        first = {"sse": events(CURSOR, A, hollow)}
        talk, log = played(made_up(CURSOR, first, {"sse": events(CURSOR, hollow, B, END, hollow)}), size)
        assert (log.outcome, log.told) == ("end", told(events(CURSOR, A, B, END).encode()))
        assert talk.checkpoint.events == 3


class TestSplices:
    """Another generation is joined to what was delivered; what comes of it is in `test_other_generation`."""

    @pytest.mark.parametrize("size", [7, 65536])
    def test_it_fits(self, size: int) -> None:
        log = joined("openai_chat/whole", "replay", HALF, {"body": "whole"}, size=size)
        assert (log.outcome, log.told) == ("end", BY_NAME["openai_chat/whole"].whole)
        assert [notice.reason for notice in log.notices if notice.kind == "seam"] == ["replay behind 3 characters"]

    def test_it_does_not(self) -> None:
        other = BY_NAME["openai_chat/whole"].wire.decode().replace("Hel", "Bye")
        log = joined("openai_chat/whole", "replay", HALF, {"sse": other})
        assert (log.outcome, len(log.told)) == ("ReplayDiverged", 1)

    def test_it_is_refused(self) -> None:
        log = joined("openai_chat/whole", "replay", HALF, {"status": 400, "text": "no"})
        assert log.outcome == "CannotResume"
        assert "the server answered 400 when asked to replay" in str(log.error)

    @pytest.mark.parametrize(("said", "purposes"), [(" 47, 48", ["trial", "continue"]), ("Sure!", ["trial"])])
    def test_a_model_is_tried_first(self, said: str, purposes: list[str]) -> None:
        tried = {"json": {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}}
        end = BY_NAME["openai_chat/whole"].blocks[1:]
        log = joined("openai_chat/whole", "continue", HALF, tried, {"sse": b"".join(end).decode()})
        assert ways(log) == purposes
        assert log.outcome == ("end" if len(purposes) > 1 else "ContinuationRefused")


class TestQuestions:
    """What anybody may ask, and nothing changes by it."""

    def test_whether_there_is_a_way_back(self) -> None:
        for said, expected in ((b"data: x\n\n", False), (TICK, True)):
            talk = streaming()
            talk.receive_data(said, 1.0)
            drain(talk)
            assert talk.is_resumable == expected

    def test_what_would_stop_the_server(self) -> None:
        class Stoppable(LastEventId):
            def cancel(self, progress: Progress) -> RequestPlan | None:
                return replace(progress.request, method="DELETE", url=progress.location or "")

        talk = conversation(Stoppable("end"))
        talk.start(0.0)
        talk.receive_response(200, {**STREAM, "location": "https://other.example/"}, 0.0)
        assert talk.cancel_plan() is None, "it is the server's word, and leads to another origin"
        talk = conversation(Stoppable("end"))
        talk.start(0.0)
        talk.receive_response(200, {**STREAM, "location": "https://events.example/runs/r"}, 0.0)
        plan = talk.cancel_plan()
        assert plan is not None
        assert (plan.method, plan.path) == ("DELETE", "/runs/r")
        talk.receive_data(b"event: end\ndata: x\n\n", 1.0)
        assert isinstance(drain(talk), Finish)
        assert talk.cancel_plan() is None

    def test_how_far_it_has_come(self) -> None:
        talk = streaming(LastEventId("end"))
        talk.receive_data(TICK, 1.0)
        assert isinstance(talk.next_action(), Deliver)
        talk.settle()
        assert (talk.standing(summed=False).events, talk.standing(summed=False).complete) == (1, False)
        talk.receive_data(b"event: end\ndata: x\n\n", 1.0)
        drain(talk)
        assert talk.standing(summed=True).complete

    @pytest.mark.parametrize("passes", [True, False])
    def test_ids_by_themselves(self, passes: bool) -> None:
        talk = streaming()
        if passes:
            talk.pass_ids()
        talk.receive_data(b"id: 1\n\n", 1.0)
        assert isinstance(talk.next_action(), Deliver if passes else Read)


class TestLines:
    """An object a line."""

    @pytest.mark.parametrize("size", [1, 7, 65536])
    def test_the_last_line_may_lack_its_line_feed(self, size: int) -> None:
        wire = events(LINES, A, {"n": 1}, END)
        talk, log = played(made_up(LINES, {}, wire=wire[:-1], get=False), size)
        assert (log.outcome, log.proved, len(log.told)) == ("end", True, 3)
        assert b"".join(log.slices) == wire.encode()
        assert talk.checkpoint.offset == len(wire)

    @pytest.mark.parametrize(("ends", "events_told"), [("eof", 2), ("reset", 1)])
    def test_only_at_a_clean_end(self, ends: str, events_told: int) -> None:
        _, log = played(made_up(LINES, {"ends": ends}, wire=events(LINES, A, {"n": 1})[:-1], get=False))
        assert (log.outcome, len(log.told)) == ("CannotResume", events_told)

    def test_the_last_line_may_be_a_failure_that_passes(self) -> None:
        first = {"ndjson": events(LINES, BUSY)[:-1]}
        _, log = played(made_up(LINES, first, {"body": "whole"}, wire=events(LINES, A, END), get=False))
        assert (log.outcome, log.waits, len(log.told)) == ("end", [5.0], 2)

    def test_half_a_line_is_a_drop(self) -> None:
        lines = artificial.CursorLines()
        wire = events(lines, A, B, END)
        _, log = played(made_up(lines, {"cut": len(wire) - 5}, {}, wire=wire))
        assert (log.outcome, log.told) == ("end", told(wire.encode(), lines.framing))
        assert [plan.query.get("last_event_id") for plan in log.requests] == [None, "b"]

    def test_an_event_stream_is_no_answer_in_lines(self) -> None:
        _, log = played(made_up(LINES, {"sse": WHOLE}, {}, get=False))
        assert log.outcome == "surface"

    def test_its_text_is_part_of_the_answer(self) -> None:
        talk, _ = played(made_up(LINES, {}, wire=events(LINES, A, {"n": 1})[:-1], get=False))
        assert talk.partial_text() == '{"event_id":"a"}{"n":1}'
