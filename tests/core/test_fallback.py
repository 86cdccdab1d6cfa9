"""Which way back is taken, with what request, and why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resumable_llm.core import errors
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import Fields
from resumable_llm.core.fallback import BEGINS_ANEW, MAX_HABITS, WAYS, Fallbacks, Habits, Way
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import RequestPlan, Seam
from resumable_llm.core.recovery import Purpose
from resumable_llm.core.splice import Continuation, Repeat
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream
from resumable_llm.dialects.openai_chat import OpenAIChat
from tests.core.generations import MAX_HELD, transcript_of

CHAT = OpenAIChat()
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
REQUEST = RequestPlan("POST", "http://localhost/v1/chat/completions", (("Idempotency-Key", "key"),)).with_body(
    json.dumps(BODY).encode()
)
DONE = Fields(None, "[DONE]", None, None)


def chunk(finish: str | None = None, **delta: Any) -> Fields:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return Fields(None, json.dumps({"id": "c", "choices": choices}), None, None)


def said(*deltas: dict[str, Any]) -> Transcript:
    return transcript_of(EVENT_STREAM, [chunk(**delta) for delta in deltas])


HELLO = {"content": "Hello"}


PASSED = b'{"choices": [{"message": {"content": " 47, 48"}}]}'


def taken(
    *ways: Any,
    dialect: Dialect = CHAT,
    request: RequestPlan = REQUEST,
    transcript: Transcript | None = None,
    **more: Any,
) -> tuple[Fallbacks, Way | None]:
    allowed = Fallbacks(ways, more.get("can_continue"), MAX_HELD)
    return allowed, allowed.way(dialect, request, transcript or said(HELLO))


def test_nothing_was_allowed() -> None:
    allowed, way = taken()
    assert (way, allowed.refusal) == (None, None)
    assert (allowed.fidelity, allowed.seams, allowed.input_tokens) == ("exact", (), 0)


def test_to_repeat() -> None:
    allowed, way = taken("replay")
    assert way is not None
    assert (way.purpose, way.plan) == (Purpose.REPLAY, REQUEST)
    assert isinstance(way.splice, Repeat)
    assert (way.events, way.characters) == (1, 5)
    assert allowed.refusal is None


def test_to_go_on() -> None:
    _, way = taken("continue")
    assert way is not None
    assert way.purpose is Purpose.CONTINUE
    assert isinstance(way.splice, Continuation)
    body = json.loads(way.plan.body or b"")
    assert body["messages"][-1] == {"role": "assistant", "content": "Hello"}
    assert way.plan.header("content-length") == str(len(way.plan.body or b""))


def test_another_request_has_another_key_and_the_same_one_has_the_same() -> None:
    allowed, way = taken("continue")
    for number in (2, 3):
        assert way is not None
        assert way.plan.header("idempotency-key") == f"key-{number}"
        allowed.take()
        way = allowed.way(CHAT, REQUEST, said(HELLO))
    _, way = taken("continue", request=REQUEST.with_headers(without=("idempotency-key",)))
    assert way is not None
    assert way.plan.header("idempotency-key") is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"dialect": EventStream()}, "the events of last_event_id cannot be joined"),
        ({"request": RequestPlan("POST", "http://localhost/", body=None)}, "body is not at hand"),
        ({"transcript": Transcript(1, lambda: None)}, "no longer at hand"),
    ],
)
def test_neither(way: Any, changed: Any, why: str) -> None:
    if "transcript" in changed:
        changed["transcript"].keep(b"data: {}\n\n", 1)
    allowed, found = taken(way, **changed)
    assert found is None
    assert allowed.refusal is not None
    assert allowed.refusal[0] is (errors.CannotResume if way == "replay" else errors.ContinuationRefused)
    assert why in allowed.refusal[1]


@pytest.mark.parametrize(
    ("delta", "why"),
    [
        (
            {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
            "a tool call was begun",
        ),
        ({"function_call": {"name": "f"}}, "a tool call was begun"),
        ({"reasoning_content": "hm"}, "thought aloud"),
        ({"audio": {"id": "a"}}, "it has sound in it"),
        ({"refusal": "no"}, "the model refused"),
        ({"finish": "stop"}, "the model had ended it"),
    ],
)
def test_what_cannot_be_gone_on_from(delta: dict[str, Any], why: str) -> None:
    allowed, way = taken("continue", transcript=said(HELLO, delta), can_continue=True)
    assert way is None
    assert allowed.refusal is not None
    kind, reason = allowed.refusal
    assert kind is errors.ContinuationRefused
    assert reason.startswith("the answer cannot be continued: ")
    assert why in reason


def test_what_the_caller_knows() -> None:
    assert taken("continue", can_continue=False)[1] is None
    assert taken("continue", can_continue=True)[1] is not None


def test_the_first_that_can_be_taken() -> None:
    tool = said({"tool_calls": [{"index": 0, "id": "c"}]})
    allowed, way = taken("continue", "replay", transcript=tool)
    assert way is not None
    assert way.purpose is Purpose.REPLAY
    assert allowed.refusal is not None
    assert allowed.refusal[0] is errors.ContinuationRefused
    allowed.rule_out("another answer", diverged=True)
    assert allowed.refusal == (errors.ReplayDiverged, "another answer")
    assert allowed.way(CHAT, REQUEST, tool) is None


@pytest.mark.parametrize("diverged", [False, True])
def test_what_leads_nowhere(diverged: bool) -> None:
    allowed, _ = taken("replay", "continue")
    allowed.rule_out("refused", diverged=diverged)
    assert allowed.refusal == (errors.ReplayDiverged if diverged else errors.CannotResume, "refused")
    way = allowed.way(CHAT, REQUEST, said(HELLO))
    assert way is not None
    assert way.purpose is Purpose.CONTINUE
    allowed.rule_out("refused", diverged=diverged)
    kind, why = allowed.refusal
    assert (kind.__name__, why) == ("ContinuationRefused", "refused")


def test_what_has_come_of_it() -> None:
    allowed, way = taken("replay", "continue")
    assert way is not None
    allowed.take()
    assert (allowed.fidelity, allowed.seams) == ("exact", ())  # nothing new yet
    way.splice.take(chunk(content="Hello, and"), terminal=False)
    assert str(allowed.fidelity) == "verified"
    first = [Seam("replay", 1, 5, 5)]
    assert list(allowed.seams) == first
    allowed.rule_out("it broke off, and then there was none")
    way = allowed.way(CHAT, REQUEST, said({"content": "Hello, and"}))
    assert way is not None
    allowed.take()
    way.splice.take(chunk(content=" more"), terminal=False)
    assert str(allowed.fidelity) == "continued"
    assert list(allowed.seams) == [*first, Seam("continue", 1, 10, 0)]


def test_tokens_that_were_read_again() -> None:
    allowed, way = taken("continue")
    used = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 3}}
    for expected in (20, 40):
        assert way is not None
        allowed.take()
        assert allowed.input_tokens is None
        way.splice.take(Fields(None, json.dumps(used), None, None), terminal=False)
        assert allowed.input_tokens == expected
        way = allowed.way(CHAT, REQUEST, said(HELLO))


def test_a_model_that_nobody_knows_is_tried_once() -> None:
    habits: Habits = {}
    for body, goes_on in ((PASSED, True), (b"{}", False)):
        habits.clear()
        allowed = Fallbacks(["continue"], None, MAX_HELD, habits)
        way = allowed.way(CHAT, REQUEST, said(HELLO))
        assert way is not None
        assert way.trial is not None
        assert way.trial.plan.header("idempotency-key") is None  # it is neither the request nor what goes on from it
        assert allowed.judge(way.trial, body) == goes_on
        later = Fallbacks(["continue"], None, MAX_HELD, habits)
        way = later.way(CHAT, REQUEST, said(HELLO))
        if goes_on:
            assert way is not None
            assert way.trial is None
        else:
            assert way is None
            assert later.refusal == (errors.ContinuationRefused, BEGINS_ANEW)


def test_no_more_habits_are_kept_than_will_be_of_use() -> None:
    habits: Habits = {(str(number), b""): True for number in range(MAX_HABITS)}
    allowed = Fallbacks(["continue"], None, MAX_HELD, habits)
    way = allowed.way(CHAT, REQUEST, said(HELLO))
    assert way is not None
    assert way.trial is not None
    assert allowed.judge(way.trial, PASSED)
    assert len(habits) == 1


def test_what_was_joined_before_counts_on() -> None:
    before = (Seam("replay", 1, 5, 5), Seam("continue", 2, 9, 0))
    allowed = Fallbacks(("continue",), True, MAX_HELD, seams=before)
    assert (allowed.seams, allowed.fidelity) == (before, "continued")
    assert Fallbacks((), None, MAX_HELD, seams=before[:1]).fidelity == "verified"
    way = allowed.way(CHAT, REQUEST, said(HELLO))
    assert way is not None
    assert way.plan.header("idempotency-key") == "key-4"
    allowed.take()
    assert allowed.seams == before  # nothing has come of it yet
