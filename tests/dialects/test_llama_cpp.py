"""llama.cpp: the way back by an offset, behind each of the formats that it speaks."""

from __future__ import annotations

import re

import pytest

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.model import NOTHING, Position, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.llama_cpp import LlamaCompletion, LlamaCpp, name_conversation, over
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_responses import OpenAIResponses

CHAT = OpenAIChat()
LLAMA = LlamaCpp(CHAT)
NATIVE = LlamaCompletion()


def asked(url: str = "http://127.0.0.1:8080/v1/chat/completions") -> RequestPlan:
    headers = (("Authorization", "Bearer x"), ("Content-Type", "application/json"), ("X-Conversation-Id", "mine"))
    return RequestPlan("POST", url, headers, b'{"stream": true}')


def event(data: str | None, name: str | None = None) -> Fields:
    return Fields(name, data, None, None)


@pytest.mark.parametrize(
    ("url", "stream"),
    [
        ("http://h:8080/v1/chat/completions", "http://h:8080/v1/stream"),
        ("http://h:8080/chat/completions", "http://h:8080/v1/stream"),
        ("http://h:8080/v1/completions", "http://h:8080/v1/stream"),
        ("http://h:8080/completion", "http://h:8080/v1/stream"),
        ("http://h:8080/v1/responses", "http://h:8080/v1/stream"),
        ("http://h:8080/v1/messages?beta=true", "http://h:8080/v1/stream"),
        ("https://h/llm/v1/chat/completions", "https://h/llm/v1/stream"),
        ("https://h/llm/completion", "https://h/llm/v1/stream"),
    ],
)
def test_resume_and_cancel(url: str, stream: str) -> None:
    progress = Progress(asked(url), Position(offset=42), handle="a b&c")
    resumed = LLAMA.resume(progress)
    assert resumed is not None
    assert (resumed.method, resumed.url, resumed.body) == ("GET", f"{stream}?conv_id=a+b%26c&from=42", b"")
    assert resumed.header("authorization") == "Bearer x"
    cancelled = LLAMA.cancel(progress)
    assert cancelled is not None
    assert (cancelled.method, cancelled.url) == ("DELETE", f"{stream}?conv_id=a+b%26c")
    assert cancelled.header("authorization") == "Bearer x"


class TestBehindAFormat:
    def test_its_name_and_nature(self) -> None:
        assert LLAMA.name == "llama_cpp/openai_chat"
        assert (LLAMA.proves_end, LLAMA.detached) == (True, True)
        assert LLAMA.ordinary is CHAT.ordinary
        assert LLAMA.recognises(asked())

    def test_its_own_ping_counts_and_a_proxys_does_not(self) -> None:
        assert LLAMA.counts(b":\n\n")
        assert not LLAMA.counts(b": ping\n\n")

    def test_a_second_post_would_destroy_what_is_kept(self) -> None:
        assert not LLAMA.may_repeat(Progress(asked()))

    def test_the_conversations_name_is_the_handle(self) -> None:
        assert LLAMA.handle(asked(), {}) == "mine"

    def test_reads_as_the_format_but_neither_handle_nor_sequence(self) -> None:
        responses = LlamaCpp(OpenAIResponses())
        created = event('{"type":"response.created","sequence_number":0,"response":{"id":"r"}}', "response.created")
        assert responses.read(created) == NOTHING
        assert LLAMA.read(event("[DONE]")) == Reading(terminal=True)
        assert LLAMA.read(event('{"error":{"code":400}}')) == Reading(terminal=True, error="400")
        assert LLAMA.text(event('{"choices":[{"delta":{"content":"a"}}]}')) == "a"

    @pytest.mark.parametrize("format", [CHAT, NATIVE], ids=lambda each: each.name)
    def test_no_failure_passes(self, format: Dialect) -> None:
        """What was said is kept: asked again, the server would say the same."""
        failed = event('{"error":{"code":503,"message":"Please try again in 2s."}}')
        assert format.read(failed) == Reading(terminal=True, error="503", transient=True, retry_after=2.0)
        assert LlamaCpp(format).read(failed) == Reading(terminal=True, error="503")

    def test_ends_as_the_format(self) -> None:
        transcript = Transcript(1000, lambda: None)
        assert not LLAMA.ended(asked(), transcript)
        transcript.keep(encode_event('{"choices":[{"finish_reason":"stop"}]}'), 1)
        assert LLAMA.ended(asked(), transcript)

    @pytest.mark.parametrize(
        ("status", "body", "gone"),
        [
            (400, b"Stream offset lost, please restart", True),
            (400, b"bad request", False),
            (500, b"offset lost", False),
        ],
    )
    def test_gone(self, status: int, body: bytes, gone: bool) -> None:
        assert LLAMA.gone(status, body) is gone

    def test_numbers_are_not_waited_for(self) -> None:
        ordinary = LlamaCpp(OpenAIResponses()).ordinary
        assert not isinstance(ordinary, re.Pattern) or not ordinary.groups


class TestNative:
    @pytest.mark.parametrize(
        ("fields", "reading"),
        [
            (event('{"content":"a","stop":false}'), NOTHING),
            (event('{"content":"","stop":true}'), Reading(terminal=True)),
            (event('{"content":"\\"stop\\":true"}'), NOTHING),
            (event('{"error":{"code":503,"message":"x"}}'), Reading(terminal=True, error="503", transient=True)),
            (event("x", "error"), Reading(terminal=True, error="unnamed error")),
            (event(None), NOTHING),
        ],
    )
    def test_read(self, fields: Fields, reading: Reading) -> None:
        assert NATIVE.read(fields) == reading

    def test_an_end_with_spaces(self) -> None:
        assert NATIVE.read(event('{"content": "", "stop":true, "x": 1}')).terminal

    def test_text(self) -> None:
        assert NATIVE.text(event('{"content":"a"}')) == "a"
        assert NATIVE.text(event(None)) == ""

    def test_recognises_prepares_and_hands_over(self) -> None:
        request = RequestPlan("POST", "http://h:8080/completion", (), b'{"stream": true}')
        assert NATIVE.recognises(request)
        assert not NATIVE.recognises(RequestPlan("POST", "http://h:8080/completion", (), b"{}"))
        prepared = NATIVE.prepare(request, "k")
        assert prepared.header("x-conversation-id") == "k"
        assert NATIVE.answered_by(prepared, {"server": "llama.cpp"}).name == "llama_cpp/llama_completion"
        assert NATIVE.answered_by(prepared, {}) is NATIVE


class TestNames:
    def test_the_callers_stays(self) -> None:
        assert name_conversation(asked(), "k").header("x-conversation-id") == "mine"

    def test_the_idempotency_key_is_the_name(self) -> None:
        request = RequestPlan("POST", "http://h/v1/completions", (("Idempotency-Key", "own"),))
        assert name_conversation(request, "k").header("x-conversation-id") == "own"
        assert name_conversation(RequestPlan("POST", "http://h/"), "k").header("x-conversation-id") == "k"

    def test_over_needs_the_server_and_the_name(self) -> None:
        assert over(CHAT, asked(), {"server": "llama.cpp"}).name == "llama_cpp/openai_chat"
        assert over(CHAT, asked(), {"server": "nginx"}) is CHAT
        assert over(CHAT, asked(), {}) is CHAT
        assert over(CHAT, RequestPlan("POST", "http://h/"), {"server": "llama.cpp"}) is CHAT
