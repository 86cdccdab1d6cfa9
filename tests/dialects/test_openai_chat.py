"""OpenAI chat completions: what one chunk says, and when an answer is complete without [DONE]."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_services import Service

CHAT = OpenAIChat()
assert CHAT.ordinary is not None
ORDINARY = CHAT.ordinary.fullmatch
PLAINLY = re.compile(rb'(?:data: \{(?!.*"finish_reason": ?")(?=.*"finish_reason": ?null).*\n\n)+')
PIECES = [
    *(b'"finish_reason":', b'"finish_reason": ', b"finish_reason", b'"', b"\\", b"null", b'"stop"', b'"stop_reason":'),
    *(b",", b"x", b"}", b"\n", b"\n\n", b"data: {", b'"finish_reason":null', b'"native_finish_reason":"stop"'),
]


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
            Reading(terminal=True, error="server_error", transient=True),
        ),
        (
            chunk(choice("", "error"), error={"code": 502, "message": "x"}),
            Reading(terminal=True, error="502", transient=True),
        ),
        (
            '{"error": {"code": 429, "message": "Please try again in 2s."}}',
            Reading(terminal=True, error="429", transient=True, retry_after=2.0),
        ),
        ('{"error": {"code": 402, "message": "x"}}', Reading(terminal=True, error="402")),
        ('{"object": "error", "message": "x", "code": 400}', Reading(terminal=True, error="400")),
        (chunk(choice("", "error")), Reading(error="finish_reason error")),
        (chunk(choice("", "abort")), Reading(error="finish_reason abort")),
        (
            chunk(choice("", "insufficient_system_resource")),
            Reading(error="finish_reason insufficient_system_resource"),
        ),
        (chunk(choice("a"), choice("", "abort", index=1)), Reading(error="finish_reason abort")),
        (chunk(choice("", "stop"), note="abort"), NOTHING),
        (chunk({"index": 0, "finish_reason": ["error"]}), NOTHING),
        ('{"error": "x"}', Reading(terminal=True, error="unnamed error")),
        ('{"error": null, "choices": []}', NOTHING),
        (chunk(choice('he said "error"')), NOTHING),
        (chunk(choice("a", x_groq={"error": "y"})), NOTHING),
        (chunk(choice("a"), x_groq={"error": "y"}), Reading(terminal=True, error="unnamed error")),
        (chunk(choice("a"), x_groq={"error": None}), NOTHING),
        (chunk(choice("a"), x_groq="error"), NOTHING),
    ],
)
def test_read(data: str | None, reading: Reading) -> None:
    assert CHAT.read(event(data)) == reading


@pytest.mark.parametrize(
    ("data", "reading"),
    [
        (
            '{"error": {"type": "internal_server_error"}}',
            Reading(terminal=True, error="internal_server_error", transient=True),
        ),
        ('{"code": "tool_use_failed"}', Reading(terminal=True, error="tool_use_failed")),
        ("not json", Reading(terminal=True, error="unnamed error")),
        (None, Reading(terminal=True, error="unnamed error")),
        ("[DONE]", Reading(terminal=True)),
    ],
)
def test_read_an_event_named_error(data: str | None, reading: Reading) -> None:
    """Groq's way to tell it."""
    assert CHAT.read(Fields("error", data, None, None)) == reading


@pytest.mark.parametrize(
    ("body", "chunks", "ended"),
    [
        ({}, [], False),
        ({}, [chunk(choice("a"))], False),
        ({}, [chunk(choice("a")), chunk(choice(finish="stop"))], True),
        ({}, [chunk(choice("a", "tool_calls"))], True),
        ({}, [chunk(choice("a")), chunk(choice("", "error"))], False),
        ({}, [chunk(choice("a", "abort"))], False),
        ({}, [chunk(choice("a", "insufficient_system_resource"))], False),
        ({}, [chunk(choice("a", ["error"]))], True),  # type: ignore[arg-type]
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
        (chunk(choice([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])), "ab"),  # type: ignore[arg-type]
        (chunk(choice([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])), ""),  # type: ignore[arg-type]
        (chunk(choice(["a", {"type": "text"}, {"type": "text", "text": None}])), ""),  # type: ignore[arg-type]
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
        assert ORDINARY(encode_event(data))
        assert ORDINARY(encode_event(data) * 3)
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
        assert not ORDINARY(stream)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(
        st.text(max_size=40)
        | st.sampled_from(['"error"', '{"error": {"code": 1}}', "data: [DONE]", "\n\ndata: [DONE]"])
    )
    def test_a_text_that_quotes_such_words_is_text(self, text: str) -> None:
        """Read or passed unread, it comes to the same."""
        for data in (chunk(choice(text)), json.dumps(json.loads(chunk(choice(text))), ensure_ascii=False)):
            assert CHAT.read(event(data)) == NOTHING
            assert CHAT.text(event(data)) == text

    @settings(max_examples=500, deadline=None, derandomize=True)
    @given(st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join))
    def test_only_events_of_a_line_that_say_no_more_than_that_nothing_is_finished(self, middle: bytes) -> None:
        for block in (b"data: {" + middle + b"}\n\n", b"data: {" + middle, middle):
            for stream in (block, block * 2, b"data: {" + middle + b"\n\n" + block):
                assert not ORDINARY(stream) or PLAINLY.fullmatch(stream)
                assert not ORDINARY(b"id: 1\n" + stream, 6) or PLAINLY.fullmatch(stream)

    def test_one_alone_and_several(self) -> None:
        for data in (chunk(choice("a")), json.dumps(json.loads(chunk(choice("a"))), separators=(",", ":"))):
            assert ORDINARY(b"id: 1\n" + encode_event(data), 6)
            for times in range(1, 4):
                assert ORDINARY(encode_event(data) * times)

    def test_an_error_behind_other_fields(self) -> None:
        assert not ORDINARY(encode_event(chunk(error={"code": 502})))
        assert not ORDINARY(encode_event(chunk(choice("", "error"), error={"code": 502})))


def test_a_services_own() -> None:
    service = Service("x", "X", ("x.example",), "it stops", handle="x-id", sources=("somewhere",))
    dialect = OpenAIChat(service)
    assert (dialect.name, dialect.facts.systems, dialect.facts.closing) == ("x_chat", "X", "it stops")
    assert dialect.ordinary is CHAT.ordinary
    own = OpenAIChat(replace(service, ordinary=re.compile(b"x"))).ordinary
    assert own is not None
    assert own.fullmatch(b"x")
    assert dialect.recognises(asked())
    assert not dialect.recognises(replace(asked(), url="https://y.example/v1/chat/completions"))
    assert dialect.handle(asked(), {"x-id": "7"}) == "7"
    assert dialect.handle(asked(), {}) is None


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
    assert CHAT.handle(asked(), {"x-generation-id": "gen-1"}) is None
    assert CHAT.facts.sources
