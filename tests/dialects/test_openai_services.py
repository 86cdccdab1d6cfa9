"""The services that speak chat completions: which host is whose, and what is different with some of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.actions import Deliver, Notify
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import NOTHING, Limits, RequestPlan
from resumable_llm.core.states import State
from resumable_llm.dialects import DIALECTS, named, openai_chat, recognise
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_services import SERVICES
from tests.conversation import patient

BODY = b'{"model": "m", "stream": true}'


def asked(url: str, body: bytes = BODY) -> RequestPlan:
    return RequestPlan("POST", url, (("Content-Type", "application/json"),), body)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.mistral.ai/v1/chat/completions", "mistral_chat"),
        ("https://codestral.mistral.ai/v1/fim/completions", "mistral_chat"),
        ("https://api.deepseek.com/beta/chat/completions", "deepseek_chat"),
        ("https://api.groq.com/openai/v1/chat/completions", "groq_chat"),
        ("https://API.Groq.com:443/openai/v1/chat/completions", "groq_chat"),
        ("https://api.together.xyz/v1/completions", "together_chat"),
        ("https://api.together.ai/v1/chat/completions", "together_chat"),
        ("https://api.fireworks.ai/inference/v1/chat/completions", "fireworks_chat"),
        ("https://openrouter.ai/api/v1/chat/completions", "openrouter_chat"),
        ("https://api.x.ai/v1/chat/completions", "xai_chat"),
        ("https://us-east-1.api.x.ai/v1/chat/completions", "xai_chat"),
        ("https://api.perplexity.ai/chat/completions", "perplexity_chat"),
        ("https://me.openai.azure.com/openai/deployments/d/chat/completions?api-version=1", "azure_chat"),
        ("https://me.services.ai.azure.com/openai/v1/chat/completions", "azure_chat"),
        ("https://api.openai.com/v1/chat/completions", "openai_chat"),
        ("https://notgroq.com/v1/chat/completions", "openai_chat"),
        ("https://groq.com.example/v1/chat/completions", "openai_chat"),
        ("https://max.ai/v1/chat/completions", "openai_chat"),
        ("https://me.example/groq.com/chat/completions", "openai_chat"),
        ("https://azure.com/v1/chat/completions", "openai_chat"),
        ("http://127.0.0.1:8000/v1/chat/completions", "openai_chat"),
        ("https://api.groq.com/openai/v1/responses", "openai_responses"),
        ("https://openrouter.ai/api/v1/messages", "anthropic_messages"),
    ],
)
def test_recognised_by_host(url: str, name: str) -> None:
    found = recognise(asked(url))
    assert found is not None
    assert found.name == name
    assert recognise(asked(url, b"{}")) is None


def test_a_large_body_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def wants_stream(request: RequestPlan) -> bool:
        searched.append(request)
        return True

    monkeypatch.setattr(openai_chat, "wants_stream", wants_stream)
    for url in ("https://api.x.ai/v1/chat/completions", "https://api.openai.com/v1/chat/completions"):
        searched.clear()
        assert recognise(asked(url)) is not None
        assert len(searched) == 1


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_each_is_known_by_name(service: Any) -> None:
    dialect = named(f"{service.name}_chat")
    assert isinstance(dialect, OpenAIChat)
    assert dialect in DIALECTS
    assert isinstance(named(f"llama_cpp/{service.name}_chat"), LlamaCpp)
    assert dialect.proves_end
    facts = dialect.facts
    assert facts.systems == service.systems
    assert facts.closing
    assert facts.end
    assert all(source[-10:] == "2026-11-22" for source in facts.sources)
    assert facts.sources
    assert facts.resume == OpenAIChat().facts.resume


def test_names_are_told_once() -> None:
    names = [dialect.name for dialect in DIALECTS]
    assert len(names) == len(set(names))


def test_openrouter_tells_the_generations_id() -> None:
    request = asked("https://openrouter.ai/api/v1/chat/completions")
    openrouter, groq = named("openrouter_chat"), named("groq_chat")
    assert openrouter.handle(request, {"x-generation-id": "gen-1"}) == "gen-1"
    assert openrouter.handle(request, {}) is None
    assert groq.handle(request, {"x-generation-id": "gen-1"}) is None


def chunk(content: str, finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish}
    return json.dumps({"id": "c", "choices": [choice], **more}, separators=(",", ":"))


class TestGroq:
    GROQ = named("groq_chat")

    def passes(self, *data: str) -> bool:
        assert self.GROQ.ordinary is not None
        return self.GROQ.ordinary.fullmatch(b"".join(map(encode_event, data))) is not None

    def test_chunks_pass(self) -> None:
        assert self.passes(chunk("a"))
        assert self.passes(chunk("a"), chunk("b"))
        assert self.passes(json.dumps({"choices": [{"finish_reason": None}]}))

    @pytest.mark.parametrize(
        "data",
        [
            chunk("a", x_groq={"id": "r"}),
            chunk("a", x_groq={"id": "r", "error": "over capacity"}),
            chunk("a", "stop"),
            "[DONE]",
            json.dumps({"error": {"code": 500}}),
        ],
    )
    def test_what_may_hold_an_error_does_not(self, data: str) -> None:
        assert not self.passes(data)
        assert not self.passes(chunk("a"), data)
        assert not self.passes(data, chunk("a"))

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.text(max_size=30), st.sampled_from([None, "stop", "error"]), st.sampled_from([None, "x"]), st.booleans())
    def test_what_passes_says_nothing(self, text: str, finish: str | None, error: str | None, named: bool) -> None:
        data = chunk(text, finish, **({"x_groq": {"error": error}} if named else {}))
        if self.passes(data):
            assert self.GROQ.read(Fields(None, data, None, None)) == NOTHING


@pytest.mark.parametrize(
    ("url", "comment"),
    [
        ("https://api.deepseek.com/chat/completions", b": keep-alive\n\n"),
        ("https://openrouter.ai/api/v1/chat/completions", b": OPENROUTER PROCESSING\n\n"),
    ],
)
@pytest.mark.parametrize("behind_text", [False, True])
def test_comments_do_not_hide_that_nothing_comes(url: str, comment: bytes, behind_text: bool) -> None:
    """Bytes come, and yet nothing happens: the connection is given up when the time for an event is over."""
    request = asked(url)
    dialect = recognise(request)
    assert dialect is not None
    limits = Limits(first_event_timeout=30.0, event_timeout=30.0)
    talk = Conversation(dialect.prepare(request, "k"), dialect, patient, limits)
    talk.start(0.0)
    talk.receive_response(200, {"content-type": "text/event-stream"}, 0.0)
    if behind_text:
        talk.receive_data(encode_event(chunk("a")), 0.0)
    notices = []
    for second in range(1, 60):
        while isinstance(action := talk.next_action(), Deliver | Notify):
            if isinstance(action, Notify):
                notices.append(action.notice)
        if talk.state is not State.STREAMING:
            break
        talk.receive_data(comment, float(second))
    assert notices[0].kind == "drop"
    assert "no event for 30 s" in notices[0].reason
    assert second == 32
    assert talk.state is (State.FAILED if behind_text else State.WAITING)
