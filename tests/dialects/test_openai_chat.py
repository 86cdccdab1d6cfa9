"""OpenAI chat completions: what one chunk says, and when an answer is complete without [DONE]."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.openai_chat import OpenAIChat

CHAT = OpenAIChat()


def asked(**body: Any) -> RequestPlan:
    return RequestPlan(
        "POST", "https://x.example/v1/chat/completions", (), json.dumps({"stream": True, **body}).encode()
    )


def chunk(*choices: dict[str, Any], **more: Any) -> str:
    return json.dumps({"id": "c", "choices": list(choices), **more})


def choice(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish, **more}


def told(*data: str) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for each in data:
        transcript.keep(encode_event(each), 1)
    return transcript


def event(data: str | None) -> Fields:
    return Fields(None, data, None, None)


@pytest.mark.parametrize(
    ("data", "reading"),
    [
        ("[DONE]", Reading(terminal=True)),
        ("[DONE] ", Reading(terminal=True)),
        (chunk(choice("a")), NOTHING),
        (chunk(choice(finish="stop")), NOTHING),
        (None, NOTHING),
        ("not json", NOTHING),
        (
            '{"error": {"message": "secret prompt", "type": "server_error", "code": null}}',
            Reading(terminal=True, error="server_error"),
        ),
        (chunk(choice("", "error"), error={"code": 502, "message": "x"}), Reading(terminal=True, error="502")),
        ('{"error": "x"}', Reading(terminal=True, error="unnamed error")),
        ('{"error": null, "choices": []}', NOTHING),
        (chunk(choice('he said "error"')), NOTHING),
        (chunk(choice("a", x_groq={"error": "y"})), NOTHING),
    ],
)
def test_read(data: str | None, reading: Reading) -> None:
    assert CHAT.read(event(data)) == reading


@pytest.mark.parametrize(
    ("body", "chunks", "ended"),
    [
        ({}, [], False),
        ({}, [chunk(choice("a"))], False),
        ({}, [chunk(choice("a")), chunk(choice(finish="stop"))], True),
        ({}, [chunk(choice("a", "tool_calls"))], True),
        ({}, [chunk(choice("a")), chunk(choice(finish="stop")), chunk(usage={})], True),
        ({}, [chunk(choice("a")), "[DONE]"], False),
        ({"n": 2}, [chunk(choice("a", "stop"))], False),
        ({"n": 2}, [chunk(choice("a", "stop")), chunk(choice("b", index=1))], False),
        ({"n": 2}, [chunk(choice("a", "stop"), choice("b", "length", index=1))], True),
        ({"n": None}, [chunk(choice("a", "stop"))], True),
        ({}, [chunk(choice("a", "stop")), chunk(choice("b", index=1))], False),
        ({}, ["not json", '{"choices": null}', '{"choices": {}}', '{"choices": [7]}'], False),
    ],
)
def test_ended(body: dict[str, Any], chunks: list[str], ended: bool) -> None:
    assert CHAT.ended(asked(**body), told(*chunks)) is ended


def test_ended_of_a_body_that_is_not_at_hand() -> None:
    assert CHAT.ended(
        RequestPlan("POST", "https://x.example/v1/chat/completions", (), None), told(chunk(choice("a", "stop")))
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (chunk(choice("a")), "a"),
        (chunk(choice()), ""),
        (chunk(choice("b", index=1)), ""),
        (chunk(choice("b", index=1), choice("a")), "a"),
        (chunk({"index": 0, "text": "old"}), "old"),
        (chunk({"delta": {"content": "no index"}}), "no index"),
        (chunk({"index": 0, "delta": None}), ""),
        (chunk(), ""),
        ("[DONE]", ""),
        (None, ""),
    ],
)
def test_text(data: str | None, text: str) -> None:
    assert CHAT.text(event(data)) == text


ODD = [
    (chunk({"index": 0, "delta": "a"}), "", False),
    (chunk({"index": [], "delta": {}, "finish_reason": "stop"}), "", True),  # an index that is none is the first
    (chunk({"index": {}, "delta": {"content": 7}}), "7", False),
    ('{"choices": 7}', "", False),
    ('{"choices": [7]}', "", False),
]


def test_recognises() -> None:
    assert CHAT.recognises(asked())
    assert not CHAT.recognises(asked(stream=False))


@pytest.mark.parametrize(("data", "text", "ended"), ODD)
def test_chunks_of_another_shape(data: str, text: str, ended: bool) -> None:
    assert CHAT.text(event(data)) == text
    assert CHAT.ended(asked(), told(data)) is ended


class TestOrdinary:
    """Chunks that may pass unread: `read` must have nothing to say about them."""

    @pytest.mark.parametrize("data", [chunk(choice("a")), chunk(choice("b", index=1)), chunk(choice(), usage=None)])
    def test_what_passes(self, data: str) -> None:
        assert CHAT.ordinary.fullmatch(encode_event(data))
        assert CHAT.ordinary.fullmatch(encode_event(data) * 3)
        assert CHAT.read(event(data)) == NOTHING

    @pytest.mark.parametrize(
        "stream",
        [
            encode_event("[DONE]"),
            encode_event(chunk(choice("a"))) + encode_event("[DONE]"),
            encode_event(chunk(choice("a")), id="1"),
            encode_event(chunk(choice("a")), event="x"),
            encode_event(chunk(choice("a"))) + b": ping\n\n",
            encode_event(chunk(choice("a")))[:-1],
            b"\xef\xbb\xbf" + encode_event(chunk(choice("a"))),
            encode_event('{"error": {}}'),
            b'data: {"x": 1}\nid: 7\n\n',
            b"",
        ],
    )
    def test_what_does_not(self, stream: bytes) -> None:
        assert not CHAT.ordinary.fullmatch(stream)

    def test_an_error_behind_other_fields(self) -> None:
        assert not CHAT.ordinary.fullmatch(encode_event(chunk(error={"code": 502})))
        assert not CHAT.ordinary.fullmatch(encode_event(chunk(choice("", "error"), error={"code": 502})))


def test_prepare_names_the_conversation_too() -> None:
    prepared = CHAT.prepare(asked(), "k")
    assert prepared.header("x-conversation-id") == prepared.header("idempotency-key") == "k"
    assert prepared.header("accept-encoding") == "identity"


def test_answered_by() -> None:
    prepared = CHAT.prepare(asked(), "k")
    assert CHAT.answered_by(prepared, {"server": "uvicorn"}) is CHAT
    assert isinstance(CHAT.answered_by(prepared, {"server": "llama.cpp"}), LlamaCpp)
    assert CHAT.answered_by(asked(), {"server": "llama.cpp"}) is CHAT


def test_nothing_is_kept() -> None:
    progress = Progress(asked(), delivered=True)
    assert CHAT.resume(progress) is CHAT.poll(progress) is CHAT.cancel(progress) is None
    assert CHAT.proves_end
