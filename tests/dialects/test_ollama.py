"""Ollama's own API: lines of JSON, one of which says that it is the last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.events import Fields
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES, parse_line
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import named, recognise
from tests.conversation import Case, Played, World, play, told

OLLAMA = named("ollama")
CHAT = "http://127.0.0.1:11434/api/chat"
FAILURE = Reading(terminal=True, error="unnamed error")


def asked(body: Any = None, url: str = CHAT, method: str = "POST") -> RequestPlan:
    content = json.dumps({"model": "m"} if body is None else body).encode()
    return RequestPlan(method, url, (), content)


def line(data: Any) -> Fields:
    return Fields(None, data if isinstance(data, str) else json.dumps(data), None, None)


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": "now", "message": {"role": "assistant", "content": text}, "done": False, **more}


class TestRecognise:
    @pytest.mark.parametrize(
        "request_",
        [
            asked(),
            asked({"model": "m", "messages": [], "stream": True}),
            asked({"model": "m", "stream": None}),
            asked(url="http://127.0.0.1:11434/api/generate"),
            asked(url="https://chat.example/ollama/api/chat?tenant=t"),
            asked({"model": "m", "messages": [{"content": '"stream": false'}]}),
            asked({"model": "m", "messages": [{"tool_calls": [{"function": {"arguments": {"stream": False}}}]}]}),
        ],
        ids=lambda request: f"{request.url} {request.body.decode()}",
    )
    def test_streams_unless_it_is_told_not_to(self, request_: RequestPlan) -> None:
        assert recognise(request_) is OLLAMA

    @pytest.mark.parametrize(
        "request_",
        [
            asked({"model": "m", "stream": False}),
            RequestPlan("POST", CHAT, (), b'{"stream" :\nfalse, "model":"m"}'),
            asked(method="GET"),
            RequestPlan("POST", CHAT, (), None),
            RequestPlan("POST", CHAT),
            asked({"messages": [{"role": "user", "content": "?"}], "id": "a chat of another product"}),
            asked({"messages": [], "model": {"id": "of another product"}}),
            asked({"prompt": '"model": "m"'}),
            *(
                asked(url=f"http://h{path}")
                for path in (
                    "/api/chat/completions",
                    "/api/v1/generate",
                    "/generate",
                    "/api/embed",
                    "/api/pull",
                    "/chat",
                )
            ),
        ],
        ids=lambda request: f"{request.method} {request.url} {request.body}",
    )
    def test_near_misses(self, request_: RequestPlan) -> None:
        assert recognise(request_) is None

    def test_completions_that_ollama_speaks_too_are_somebody_elses(self) -> None:
        found = recognise(asked({"model": "m", "stream": True}, url="http://127.0.0.1:11434/v1/chat/completions"))
        assert found is not None
        assert found.name == "openai_chat"


@pytest.mark.parametrize(
    ("event", "reading"),
    [
        (line(said("a")), NOTHING),
        (line(said("", done=True, done_reason="stop")), Reading(terminal=True)),
        (line('{"done" : true}'), Reading(terminal=True)),
        (line({"response": "", "done": True, "context": [1, 2]}), Reading(terminal=True)),
        (line(said('"done":true')), NOTHING),
        (line(said('\\"done":true,"error":"x"')), NOTHING),
        (line(said("", message={"tool_calls": [{"function": {"arguments": {"done": True}}}]})), NOTHING),
        (line(said("", message={"tool_calls": [{"function": {"arguments": {"error": "x"}}}]})), NOTHING),
        (line({"done": "true"}), NOTHING),
        (line({"error": "model runner has unexpectedly stopped: Say hello"}), FAILURE),
        (line({"error": "x", "done": True}), FAILURE),
        (line({"error": None, "done": True}), Reading(terminal=True)),
        (line({"error": ""}), NOTHING),
        (line('{"error": "x"'), NOTHING),
        (line('[{"error": "x"}]'), NOTHING),
        (Fields(None, None, None, None), NOTHING),
    ],
)
def test_read(event: Fields, reading: Reading) -> None:
    assert OLLAMA.read(event) == reading


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (line(said("a")), "a"),
        (line({"response": "a", "done": False}), "a"),
        (line({"response": "", "thinking": "b", "done": False}), ""),
        (line(said("", message={"content": "", "thinking": "b"})), ""),
        (line(said("", message={"content": None, "tool_calls": []})), ""),
        (line(said("", message="x")), ""),
        (line("not json"), ""),
        (Fields(None, None, None, None), ""),
    ],
)
def test_text(event: Fields, text: str) -> None:
    assert OLLAMA.text(event) == text


def test_nothing_is_kept() -> None:
    progress = Progress(asked(), delivered=True)
    assert (OLLAMA.resume(progress), OLLAMA.poll(progress), OLLAMA.cancel(progress)) == (None, None, None)
    assert OLLAMA.framing is JSON_LINES
    assert not OLLAMA.ended(asked(), Transcript(1000, lambda: None, JSON_LINES))


LINE = '{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'
PARTS = st.lists(
    st.sampled_from(
        [
            *([LINE] * 8),
            *('{"model":"m"', ',"done":false}\n', ',"done":true}\n', ',"done":false}}\n', ',"a":[{"done":false}'),
            *(',"error":"x"', ',"error" : "x"', ',"done":true', ',"message":{"content":"\\"done\\":true"}', ',"x":{'),
            *("}", "\n", " ", "\r\n", '{"error":"x"', '{"done":true}', '{"a":"', '"'),
        ]
    ),
    max_size=10,
).map(lambda parts: "".join(parts).encode())


@given(PARTS)
def test_what_is_ordinary_says_nothing(body: bytes) -> None:
    assert OLLAMA.ordinary is not None
    if OLLAMA.ordinary.fullmatch(body):
        lines = JSON_LINES.splitter(10_000).feed(body)
        assert b"".join(lines) == body
        for each in lines:
            assert OLLAMA.read(parse_line(each)) == NOTHING


def test_what_the_server_writes_is_ordinary() -> None:
    assert OLLAMA.ordinary is not None
    chat = json.dumps(said('he said "error"\n'), separators=(",", ":")).encode() + b"\n"
    assert OLLAMA.ordinary.fullmatch(chat * 3)
    assert not OLLAMA.ordinary.fullmatch(chat + b'{"model":"m","done":true}\n')


# The end of the body makes a last line whole; if it is not the one that ends the answer, it is a drop behind it


def broken(wire: bytes, cut: int, *, one_by_one: bool) -> tuple[Played, str]:
    request = {"method": "POST", "url": CHAT, "body": {"model": "m"}}
    case = Case("broken", {"dialect": "ollama", "request": request, "answers": [{"cut": cut}, {"body": "whole"}]}, wire)
    talk = case.converse(one_by_one=one_by_one)
    return play(talk, World(case), 65536, slices=not one_by_one), talk.partial_text()


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_clean_end_before_the_line_feed(count: int, one_by_one: bool) -> None:
    lines = [json.dumps(said(text)).encode() + b"\n" for text in ("a", "b", "c", "d")]
    log, text = broken(b"".join(lines), len(b"".join(lines[:count])) - 1, one_by_one=one_by_one)
    assert log.outcome == "CannotResume"
    assert len(log.requests) == 1
    assert log.told == told(b"".join(lines[:count]), JSON_LINES)
    assert text == "abcd"[:count]
    assert log.error is not None
    assert log.error.partial_text == text


def test_another_product_with_such_a_path() -> None:
    request = RequestPlan("POST", CHAT, body=b'{"model": "m"}')
    dialect = recognise(request)
    assert dialect is not None
    assert dialect.answered_by(request, {"content-type": "application/x-ndjson"}) is dialect
    answered = dialect.answered_by(request, {"content-type": "text/event-stream; charset=utf-8"})
    assert answered.name == "last_event_id"
    assert answered.framing is EVENT_STREAM
