"""Cohere's chat: what ends it, and how."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.events import Fields, parse_block
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import named, recognise

COHERE = named("cohere_chat")


def asked(path: str = "/v2/chat", *, stream: bool = True, method: str = "POST") -> RequestPlan:
    return RequestPlan(method, f"https://api.cohere.example{path}", (), json.dumps({"stream": stream}).encode())


def event(kind: str, **more: Any) -> Fields:
    return Fields(kind, json.dumps({"type": kind, **more}), None, None)


def end(reason: Any, **more: Any) -> Fields:
    return event("message-end", delta={"finish_reason": reason, **more})


def content(**content: Any) -> dict[str, Any]:
    return {"message": {"content": content}}


class TestRecognise:
    @pytest.mark.parametrize("path", ["/v2/chat", "/gateway/cohere/v2/chat?tenant=t"])
    def test_by_path(self, path: str) -> None:
        assert recognise(asked(path)) is COHERE

    @pytest.mark.parametrize(
        "request_",
        [
            asked(stream=False),
            asked(method="GET"),
            # The first version streams lines of JSON under a content type of its own.
            *map(asked, ("/v1/chat", "/chat", "/v2/chats", "/v2/chat/", "/v2/generate")),
        ],
        ids=lambda request: f"{request.method} {request.path} {request.body.decode()}",
    )
    def test_near_misses(self, request_: RequestPlan) -> None:
        assert recognise(request_) is None


@pytest.mark.parametrize(
    ("fields", "reading"),
    [
        (event("message-start", id="gen-7", delta={}), Reading(handle="gen-7")),
        (event("message-start", delta={}), NOTHING),
        (event("message-start", id=7), NOTHING),
        (event("content-start", index=0), NOTHING),
        (event("content-delta", delta=content(text='"message-end"')), NOTHING),
        (event("content-delta", delta={"kind": "message-end"}), NOTHING),
        *((end(reason), Reading(terminal=True)) for reason in ("COMPLETE", "STOP_SEQUENCE", "MAX_TOKENS", "TOOL_CALL")),
        (end("ERROR", error="it quotes the prompt"), Reading(terminal=True, error="ERROR")),
        (end("TIMEOUT"), Reading(terminal=True, error="TIMEOUT")),
        (end({"new": "kind"}), Reading(terminal=True)),
        (end(None), Reading(terminal=True)),
        (event("message-end"), Reading(terminal=True)),
        (Fields(None, '{"type": "message-end", "delta": {}}', None, None), Reading(terminal=True)),
        (Fields("content-delta", '{"delta":{},"type":"message-end"}', None, None), Reading(terminal=True)),
        (Fields("message-end", "not json", None, None), NOTHING),
        (Fields("message-end", '"message-end"', None, None), NOTHING),
        (Fields(None, "[DONE]", None, None), NOTHING),  # it proves nothing
        (Fields("message-end", None, None, None), NOTHING),
    ],
)
def test_read(fields: Fields, reading: Reading) -> None:
    assert COHERE.read(fields) == reading


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (event("content-delta", index=0, delta=content(text="a")), "a"),
        (event("content-delta", index=0, delta=content(thinking="a")), ""),
        (event("content-delta", index=0, delta=content(text=None)), ""),
        (event("content-delta", delta={"message": "x"}), ""),
        (event("content-start", delta=content(type="text", text="")), ""),
        (event("tool-plan-delta", delta={"message": {"tool_plan": "a"}}), ""),
        (Fields(None, "[DONE]", None, None), ""),
    ],
)
def test_text(fields: Fields, text: str) -> None:
    assert COHERE.text(fields) == text


def test_nothing_is_kept() -> None:
    progress = Progress(asked(), delivered=True)
    assert (COHERE.resume(progress), COHERE.poll(progress), COHERE.cancel(progress)) == (None, None, None)
    assert not COHERE.ended(asked(), Transcript(1000, lambda: None))
    assert COHERE.honours_ids  # a relay in front may number the events


DELTA = (
    'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"a"}}}}\n\n'
)
PARTS = st.lists(
    st.sampled_from(
        [
            *([DELTA] * 8),
            *(
                "event: content-delta\n",
                "event: message-end\n",
                "event: x\n",
                "id: 1\n",
                "data: ",
                "\n",
                "\n\n",
                "\r\n",
            ),
            *('data: {"type":"content-delta",', 'data: {"type": "tool-call-delta",', 'data: {"type":"message-end",'),
            *('"delta":{}}\n\n', '"a":"\\"type\\":\\"message-end\\""}\n\n', '"delta":{"type":"message-end"}}\n\n'),
            *('data: {"type":"message-start","id":"x"}\n\n', "data: [DONE]\n\n"),
        ]
    ),
    max_size=8,
).map(lambda parts: "".join(parts).encode())


@given(PARTS)
def test_what_is_ordinary_says_nothing(stream: bytes) -> None:
    assert COHERE.ordinary is not None
    if COHERE.ordinary.fullmatch(stream):
        blocks = EVENT_STREAM.splitter(10_000).feed(stream)
        assert b"".join(blocks) == stream
        for block in blocks:
            fields = parse_block(block)
            assert (fields.id, fields.retry) == (None, None)
            assert COHERE.read(fields) == NOTHING


def test_deltas_are_ordinary() -> None:
    assert COHERE.ordinary is not None
    named = DELTA.encode()
    nameless = named.removeprefix(b"event: content-delta\n")
    assert COHERE.ordinary.fullmatch(named + nameless + named)
    assert not COHERE.ordinary.fullmatch(named + b'data: {"type":"message-end","delta":{}}\n\n')
