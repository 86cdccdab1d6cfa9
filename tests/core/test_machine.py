"""The state machine: every case cut at every byte and held against the oracle; every input in every state; times and bounds."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable_llm.core import errors
from resumable_llm.core.actions import Action, Deliver, Fail, Finish, Notify, Read, Send, Surface, Wait
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import parse_block
from resumable_llm.core.machine import TRANSITIONS, Conversation, Input, State
from resumable_llm.core.model import Checkpoint, Failure, Limits, Notice, RequestPlan
from resumable_llm.dialects import LastEventId, recognise
from tests.conversation import KEY, Case, Played, World, load, patient, play, told
from tests.oracle import BLOCK, Ask, Give, Pause, oracle

CASES = load()
BY_NAME = {case.name: case for case in CASES}
RUNS = list(product((1, 7, 65536), (True, False), ("reset", "eof")))
"""Bytes a chunk, one by one or as slices, how the first connection ends."""

IN_TURN = list(product((65536, 7, 1, 65536, 7), (True, False), ("reset", "eof")))
EXHAUSTIVE = os.environ.get("EXHAUSTIVE") == "1"
"""Make all runs at each cut, which takes ten minutes. By default they take turns: each byte is cut once."""


def foretell(case: Case, world: World) -> Played:
    """What the oracle says must happen."""
    log = Played(requests=world.requests)
    rules = oracle(case.prepared, case.dialect, patient)
    step = next(rules)
    while True:
        if isinstance(step, Ask):
            step = rules.send(world.answer(step.plan))
            continue
        if isinstance(step, Give):
            log.slices.append(step.block)
        elif isinstance(step, Pause):
            log.waits.append(step.seconds)
        else:
            log.outcome, log.proved = step.outcome, step.proved
            return log
        step = next(rules)


def differences(got: Played, expected: Played) -> dict[str, Any]:
    pairs = {name: (getattr(got, name), getattr(expected, name)) for name in ("asked", "waits", "outcome", "proved", "told")}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def known_bugs(names: dict[str, str]) -> list[Any]:
    marks = {name: pytest.mark.xfail(strict=True, reason=reason) for name, reason in names.items()}
    return [pytest.param(case, marks=marks.get(case.name, ()), id=case.name) for case in CASES]


RESUME_FIRST = "an answer proved complete by a finish_reason is ended although the server has the rest of it"
BOM_AGAIN = "a byte order mark at the start of a resumed connection is taken for a part of the first field"
COMMENTS = "a comment passed to the caller counts as something delivered of the answer"
CONFIRM_NEWS = "a confirmation that fails is taken for a drop after progress, and repeated at once"


class TestCases:
    @pytest.mark.parametrize(
        "case",
        known_bugs(
            {
                "last_event_id/byte_order_mark_on_each_connection": BOM_AGAIN,
                "llama_cpp/cut_behind_the_finish_reason": RESUME_FIRST,
                "openai_chat/cut_behind_a_comment": COMMENTS,
            }
        ),
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


EVERYWHERE = {
    **dict.fromkeys(
        (
            "anthropic_messages/numbered_by_a_relay",
            "openai_chat/numbered_by_a_relay",
            *(
                f"llama_cpp/{name}"
                for name in (
                    "before_the_first_event",
                    "clean_end",
                    "cut_behind_the_finish_reason",
                    "empty_200",
                    "gone_404",
                    "offset_lost_400",
                    "messages",
                    "named_by_the_caller",
                    "offset",
                    "pings",
                )
            ),
        ),
        RESUME_FIRST,
    ),
    "last_event_id/byte_order_mark_on_each_connection": BOM_AGAIN,
    "last_event_id/priming_event": COMMENTS,
    "last_event_id/resume_meets_a_busy_server": CONFIRM_NEWS,
    "openai_chat/cut_behind_a_comment": COMMENTS,
    "openai_chat/keep_alive_comments": COMMENTS,
}


class TestCutEverywhere:
    @pytest.mark.parametrize("case", known_bugs(EVERYWHERE))
    def test_the_caller_cannot_tell(self, case: Case) -> None:
        if case.data.get("anywhere") is False:
            assert play(case.converse(one_by_one=True), World(case), 7, slices=False).outcome
            return
        foretold: dict[tuple[int, str], Played] = {}
        for at in range(len(case.wire) + 1):
            # Half an event is nothing: the oracle need not be asked again before the next is whole.
            whole = len(BLOCK.findall(case.wire[:at]))
            for size, one_by_one, ends in RUNS if EXHAUSTIVE else [IN_TURN[at % len(IN_TURN)]]:
                if (whole, ends) not in foretold:
                    foretold[whole, ends] = foretell(case, World(case, cut=at, ends=ends))
                log = play(case.converse(one_by_one=one_by_one), World(case, cut=at, ends=ends), size, slices=not one_by_one)
                different = differences(log, foretold[whole, ends])
                assert not different, f"cut at {at} by {ends}, chunks of {size}, one by one: {one_by_one}: {different}"
                self.check_the_promise(case, log)

    def check_the_promise(self, case: Case, log: Played) -> None:
        """Exactly once, in order, or a typed error; by itself, without the oracle."""
        assert (log.error is not None) == (log.outcome not in ("end", "surface"))
        later = case.data["answers"][1:]
        if any("json" in said or "sse" in said or said.get("status") == 204 for said in later[:1]):
            return  # this server has something else to tell, or nothing
        assert log.told == case.whole[: len(log.told)]
        if log.proved and log.told != case.whole:
            # A finish_reason or stop_reason without what follows it is the one end that leaves something out, but no text.
            assert case.dialect.ended(case.prepared, [parse_block(block) for block in case.blocks[: len(log.told)]])  # type: ignore[arg-type]

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
        case = replace(case, data={**case.data, "answers": [{**case.data["answers"][0], "cut": len(case.wire), "ends": "eof"}, {}]})
        for size, events in product((1, 7, 100, 65536), range(1, len(case.whole))):
            first = case.converse(one_by_one=one_by_one)
            head = play(first, World(case), size, slices=not one_by_one, stop_after=events)
            checkpoint = Checkpoint.from_json(first.checkpoint.to_json())
            second = case.converse(one_by_one=one_by_one, checkpoint=checkpoint)
            tail = play(second, World(case, body="rest"), size, slices=not one_by_one)
            assert tail.outcome == "end"
            # A slice of several events counts when the caller comes back for more: nothing is lost, and one by one nothing is repeated.
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
                st.sampled_from(["retry-after", "location", "server"]), st.sampled_from(["3", "/elsewhere", "llama.cpp"]), max_size=2
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
        opening, *deltas, _ = BY_NAME["openai_responses/background_cut"].blocks
        text = [f'{{"type":"response.output_text.delta","sequence_number":{n},"delta":"{n}"}}' for n in range(1, count + 1)]
        done = f'{{"type":"response.completed","sequence_number":{count + 1},"response":{{"id":"x"}}}}'
        blocks = [opening.decode(), *(f"event: response.output_text.delta\ndata: {each}\n\n" for each in text)]
        blocks.append(f"event: response.completed\ndata: {done}\n\n")
    else:
        data = BY_NAME["llama_cpp/offset"].data
        blocks = [f'data: {{"choices":[{{"index":0,"delta":{{"content":"{n}"}}}}]}}\n\n' for n in range(count)] + ["data: [DONE]\n\n"]
    script = [{"body": "whole"}, *answers] if draw(st.booleans()) else [*answers, {}]
    script = [clean(each, location=kind in ("get", "post", "terminal")) for each in script]
    script[0] = {**script[0], "body": "whole"}
    script = [each if "location" not in each["headers"] or each.get("status", 200) in (200, 201, 303, 307) else each for each in script]
    return Case(f"generated/{kind}", {**data, "answers": [*script, {"headers": {}}]}, "".join(blocks).encode())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("get", marks=pytest.mark.xfail(strict=True, reason=CONFIRM_NEWS)),
        pytest.param("post", marks=pytest.mark.xfail(strict=True, reason=CONFIRM_NEWS)),
        "terminal",
        "responses",
        "llama_cpp",
    ],
)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_machine_and_oracle_agree(kind: str, one_by_one: bool) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(conversations(kind), st.sampled_from([1, 7, 64, 65536]))
    def check(case: Case, size: int) -> None:
        log = play(case.converse(one_by_one=one_by_one), World(case), size, slices=not one_by_one)
        assert not differences(log, foretell(case, World(case)))

    check()
