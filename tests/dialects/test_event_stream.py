"""Any server of event streams, and what all dialects lean on."""

from __future__ import annotations

import pytest

from resumable_llm.core.dialect import Unusable
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Progress, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import ANY_EVENT_STREAM, DIALECTS, LastEventId, named, recognise
from resumable_llm.dialects.event_stream import error_text, json_object, object_in, wants_stream
from resumable_llm.dialects.llama_cpp import LlamaCpp

GET = RequestPlan("GET", "https://x.example/feed", (("Accept", "text/event-stream"),))
JSON = (("Accept", "application/json"),)
EVENT = Fields("tick", "7", "1", None)


def post(path: str, body: bytes | None = b'{"stream": true}', accept: str = "application/json") -> RequestPlan:
    return RequestPlan("POST", f"https://x.example{path}", (("Accept", accept),), body)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (GET, "last_event_id"),
        (
            RequestPlan("GET", "https://x.example/", (("accept", "application/json, text/event-stream"),)),
            "last_event_id",
        ),
        (RequestPlan("GET", "https://x.example/", JSON), None),
        (RequestPlan("GET", "https://x.example/"), None),
        (post("/v1/responses"), "openai_responses"),
        (post("/openai/v1/responses?api-version=preview"), "openai_responses"),
        (post("/v1/responses", b'{"stream": false}'), None),
        (post("/v1/responses", b"{}"), None),
        (post("/v1/responses", None), None),
        (RequestPlan("GET", "https://x.example/v1/responses/resp_1?stream=true"), "openai_responses"),
        (RequestPlan("GET", "https://x.example/v1/responses/resp_1?stream=false"), None),
        (RequestPlan("GET", "https://x.example/v1/responses/resp_1"), None),
        (RequestPlan("GET", "https://x.example/v1/responses/resp_1/input_items?stream=true"), None),
        (post("/v1/chat/completions"), "openai_chat"),
        (post("/v1/chat/completions", b'{"stream":true}'), "openai_chat"),
        (post("/v1/chat/completions", b'{"stream" :\n true}'), "openai_chat"),
        (post("/v1/chat/completions", b'{"messages": "\\"stream\\": true"}'), None),
        (post("/v1/completions"), "openai_chat"),
        (post("/v1/messages"), "anthropic_messages"),
        (post("/v1/messages/batches"), None),
        (post("/completion"), "llama_completion"),
        (post("/v1/chat/completions", b"{}", "text/event-stream"), "last_event_id"),
        (post("/mcp", b"{}", "application/json, text/event-stream"), "last_event_id"),
    ],
)
def test_recognise(request_: RequestPlan, name: str | None) -> None:
    found = recognise(request_)
    assert (found and found.name) == name


@pytest.mark.parametrize(("found", "expected"), [({"b": 1}, {"b": 1}), ([], {}), ("x", {}), (None, {})])
def test_object_in(found: object, expected: object) -> None:
    assert object_in({"a": found}, "a") == expected
    assert object_in({"b": found}, "a") == {}


class TestNamed:
    @pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
    def test_by_the_name_in_a_checkpoint(self, dialect: object) -> None:
        assert named(dialect.name) is dialect  # type: ignore[attr-defined]

    def test_llama_cpp_behind_another_format(self) -> None:
        found = named("llama_cpp/openai_chat")
        assert isinstance(found, LlamaCpp)
        assert found.name == "llama_cpp/openai_chat"

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "gemini",
            "llama_cpp",
            "llama_cpp/",
            "llama_cpp/gemini",
            "gemini/openai_chat",
            "openai_chat/",
            "/openai_chat",
        ],
    )
    def test_unknown(self, name: str) -> None:
        with pytest.raises(ValueError, match="known: anthropic_messages, azure_chat, cohere_chat, "):
            named(name)


class TestAnyServer:
    def test_asks_for_a_body_that_is_not_compressed(self) -> None:
        prepared = ANY_EVENT_STREAM.prepare(GET.with_headers(("Accept-Encoding", "gzip")), "k")
        assert prepared.headers == (("Accept", "text/event-stream"), ("Accept-Encoding", "identity"))

    def test_names_a_post(self) -> None:
        assert ANY_EVENT_STREAM.prepare(post("/x"), "k").header("idempotency-key") == "k"
        own = post("/x").with_headers(("idempotency-key", "own"))
        assert ANY_EVENT_STREAM.prepare(own, "k").header("idempotency-key") == "own"

    def test_knows_nothing_else(self) -> None:
        progress, transcript = Progress(GET), Transcript(10, lambda: None)
        dialect = ANY_EVENT_STREAM
        assert (dialect.proves_end, dialect.detached) == (False, False)
        assert dialect.answered_by(GET, {"server": "llama.cpp"}) is dialect
        assert dialect.handle(GET, {}) is None
        assert dialect.read(EVENT) == NOTHING
        assert dialect.counts(b": ping\n\n")
        assert not dialect.ended(GET, transcript)
        assert dialect.resume(progress) is dialect.poll(progress) is dialect.cancel(progress) is None
        assert dialect.may_repeat(progress)
        assert not dialect.gone(400, b"")
        assert isinstance(dialect.read_poll({}, b"", progress, transcript), Unusable)
        assert dialect.text(EVENT) == "7"
        assert dialect.text(EVENT._replace(data=None)) == ""


class TestTerminal:
    @pytest.mark.parametrize("terminal", ["tick", "7", lambda event: event.id == "1"])
    def test_by_name_by_data_by_function(self, terminal: object) -> None:
        dialect = LastEventId(terminal)  # type: ignore[arg-type]
        assert dialect.read(EVENT).terminal
        assert not dialect.read(Fields("other", "77", "2", None)).terminal
        assert dialect.proves_end


def test_wants_stream_is_about_a_body() -> None:
    assert wants_stream(post("/x"))
    assert not wants_stream(RequestPlan("GET", "https://x.example/", (), b'{"stream": true}'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        ("[1]", {}),
        ("7", {}),
        ("", {}),
        (None, {}),
        ("{", {}),
        (b"\xff", {}),
    ],
)
def test_json_object(text: str | bytes | None, expected: dict[str, int]) -> None:
    assert json_object(text) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "c", "type": "t", "message": "the prompt"}, "c"),
        ({"code": None, "type": "t", "message": "the prompt"}, "t"),
        ({"code": 500}, "500"),
        ({"message": "the prompt"}, "unnamed error"),
        ("the prompt", "unnamed error"),
        (None, "unnamed error"),
        ({"type": "x" * 200}, "unnamed error"),
        ({"code": {"a": "the prompt"}, "type": "t"}, "t"),
        ({"code": "the prompt"}, "unnamed error"),
    ],
)
def test_error_text_quotes_no_message(error: object, expected: str) -> None:
    assert error_text(error) == expected
