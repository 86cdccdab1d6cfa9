"""Anthropic messages: what one event says, and when an answer is complete without message_stop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.anthropic_messages import AnthropicMessages
from resumable_llm.dialects.llama_cpp import LlamaCpp

MESSAGES = AnthropicMessages()
REQUEST = RequestPlan("POST", "https://api.anthropic.com/v1/messages", (), b'{"stream": true}')


def event(name: str | None, **payload: Any) -> Fields:
    return Fields(name, json.dumps({"type": name, **payload}), None, None)


def delta(kind: str, **payload: Any) -> Fields:
    return event("content_block_delta", index=0, delta={"type": kind, **payload})


def told(*events: Fields) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for each in events:
        transcript.keep(encode_event(each.data or "", event=each.event), 1)
    return transcript


@pytest.mark.parametrize(
    ("fields", "terminal", "error"),
    [
        (event("message_stop"), True, None),
        (event("error", error={"type": "overloaded_error", "message": "x"}), True, "overloaded_error"),
        (Fields("error", "not json", None, None), True, "unnamed error"),
        (event("message_start", message={}), False, None),
        (event("message_delta", delta={"stop_reason": "end_turn"}), False, None),
        (event("ping"), False, None),
        (delta("text_delta", text="message_stop"), False, None),
        (Fields(None, '{"type": "message_stop"}', None, None), False, None),
    ],
)
def test_read(fields: Fields, terminal: bool, error: str | None) -> None:
    reading = MESSAGES.read(fields)
    assert (reading.terminal, reading.error) == (terminal, error)
    assert (reading.sequence, reading.handle) == (None, None)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, True),
        ({"type": "api_error"}, True),
        ({"type": "rate_limit_error"}, True),
        ({"type": "timeout_error"}, True),
        ({"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}, False),
        ({"type": "invalid_request_error"}, False),
        ({"type": "billing_error"}, False),
    ],
)
def test_which_failures_pass(error: dict[str, Any], transient: bool) -> None:
    assert MESSAGES.read(event("error", error=error)).transient is transient


def test_pings_are_signs_of_life_only() -> None:
    assert MESSAGES.read(event("ping")) == Reading(keepalive=True)
    assert MESSAGES.read(delta("text_delta", text="a")) == NOTHING


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ([], False),
        ([delta("text_delta", text="a")], False),
        ([event("message_delta", delta={"stop_reason": None})], False),
        ([event("message_delta")], False),
        ([event("message_delta", delta={"stop_reason": "end_turn"})], True),
        ([event("message_delta", delta={"stop_reason": "pause_turn"}), event("ping")], True),
        ([Fields("message_delta", "not json", None, None)], False),
        ([event("other", delta={"stop_reason": "end_turn"})], False),
    ],
)
def test_ended(events: list[Fields], ended: bool) -> None:
    assert MESSAGES.ended(REQUEST, told(*events)) is ended


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (delta("text_delta", text="a"), "a"),
        (delta("thinking_delta", thinking="hm"), ""),
        (delta("input_json_delta", partial_json="{"), ""),
        (event("content_block_delta"), ""),
        (event("message_start", delta={"type": "text_delta", "text": "a"}), ""),
        (Fields(None, None, None, None), ""),
    ],
)
def test_text(fields: Fields, text: str) -> None:
    assert MESSAGES.text(fields) == text


def test_events_of_another_shape_say_nothing() -> None:
    assert MESSAGES.text(event("content_block_delta", delta="a")) == ""
    assert not MESSAGES.ended(REQUEST, told(event("message_delta", delta="a")))


def test_ordinary_runs_pass_unread() -> None:
    block = encode_event('{"delta": {}}', event="content_block_delta")
    assert MESSAGES.ordinary.fullmatch(block * 2)
    for other in ("message_stop", "error", "ping", "message_delta"):
        assert not MESSAGES.ordinary.fullmatch(block + encode_event("{}", event=other))
    assert not MESSAGES.ordinary.fullmatch(encode_event("{}", event="content_block_delta", id="1"))


def test_prepare_and_answered_by() -> None:
    prepared = MESSAGES.prepare(REQUEST, "k")
    assert prepared.header("x-conversation-id") == "k"
    assert MESSAGES.answered_by(prepared, {}) is MESSAGES
    assert isinstance(MESSAGES.answered_by(prepared, {"server": "llama.cpp"}), LlamaCpp)


def test_nothing_is_kept() -> None:
    progress = Progress(REQUEST, delivered=True)
    assert MESSAGES.resume(progress) is MESSAGES.poll(progress) is MESSAGES.cancel(progress) is None
    assert MESSAGES.recognises(REQUEST)
