"""The relay, behind each of the formats that it passes on. What comes of it is in tests/vectors/relay."""

from __future__ import annotations

import pytest

from resumable_llm.core.dialect import Dialect, Unusable
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import NOTHING, Position, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import DIALECTS, named
from resumable_llm.dialects.gemini_generate import GeminiGenerate
from resumable_llm.dialects.gemini_interactions import GeminiInteractions
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_responses import OpenAIResponses
from resumable_llm.dialects.relayed import Relayed

CHAT = Relayed(OpenAIChat())
RESPONSES = Relayed(OpenAIResponses())
GEMINI = Relayed(GeminiGenerate())
LOCATION = "/_streams/6a2f-b_1"
KEPT = {"location": LOCATION}


def asked(query: str = "") -> RequestPlan:
    own = (("Authorization", "Bearer x"), ("Content-Type", "application/json"), ("Last-Event-ID", "own"))
    return RequestPlan("POST", f"http://127.0.0.1:8787/v1/chat/completions{query}", own, b'{"stream":true}')


def progress(request: RequestPlan | None = None, location: str | None = LOCATION, cursor: str = "7") -> Progress:
    return Progress(request or asked(), Position(last_event_id=cursor), None, location, bool(cursor))


def event(data: str, name: str | None = None) -> Fields:
    return Fields(name, data, None, None)


@pytest.mark.parametrize("format", DIALECTS, ids=lambda each: each.name)
def test_is_what_the_format_is(format: Dialect) -> None:
    relayed = Relayed(format)
    assert relayed.name == f"relay/{format.name}"
    assert named(relayed.name).name == relayed.name
    for name in ("framing", "speech", "ordinary", "sequence_key", "withheld"):
        assert getattr(relayed, name) is getattr(format, name), name
    assert relayed.proves_end is (format.proves_end and format.name != "gemini_generate")
    assert (relayed.honours_ids, relayed.detached, relayed.overlaps, relayed.repeats_last) == (
        True,
        False,
        False,
        False,
    )
    assert relayed.recognises(asked()) is format.recognises(asked())
    assert relayed.text(event("x")) == format.text(event("x"))


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        (KEPT, True),
        ({"location": "/llm/_streams/7"}, True),
        ({"location": "http://127.0.0.1:8787/_streams/7?x=1"}, True),
        ({}, False),
        ({"x-relay-store": "none"}, False),
        ({"location": "/v1/runs/7/stream"}, False),
        ({"location": "/_streams/7/v1/x"}, False),
        ({"location": "/_streams/"}, False),
    ],
)
def test_answers_that_the_relay_keeps(headers: dict[str, str], kept: bool) -> None:
    found = CHAT.answered_by(asked(), headers)
    assert (found is CHAT) is kept
    assert kept or found.name == "openai_chat"


def test_llama_cpp_behind_a_relay() -> None:
    """Its offsets are of its own body, which is not what the relay passes on."""
    request = CHAT.prepare(asked(), "k")
    assert request.header("x-conversation-id") == "k"
    assert CHAT.answered_by(request, {**KEPT, "server": "llama.cpp"}) is CHAT
    assert isinstance(CHAT.answered_by(request, {"server": "llama.cpp"}), LlamaCpp)


class TestResume:
    def test_behind_the_last_event(self) -> None:
        plan = CHAT.resume(progress())
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == ("GET", f"http://127.0.0.1:8787{LOCATION}", b"")
        assert dict(plan.headers) == {
            "Authorization": "Bearer x",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Last-Event-ID": "7",
        }

    def test_from_the_start_if_nothing_was_delivered(self) -> None:
        plan = CHAT.resume(progress(cursor=""))
        assert plan is not None
        assert plan.header("last-event-id") is None

    def test_without_ids_all_of_it(self) -> None:
        for found in (progress(cursor=""), Progress(asked(), Position(), None, LOCATION, delivered=True)):
            plan = GEMINI.resume(found)
            assert plan is not None
            assert plan.url == f"http://127.0.0.1:8787{LOCATION}?ids=none"
            assert plan.header("last-event-id") is None

    @pytest.mark.parametrize("dialect", [CHAT, GEMINI], ids=lambda each: each.name)
    @pytest.mark.parametrize(
        "location", [None, "https://elsewhere.example/_streams/7", "http://127.0.0.1:8788/_streams/7"]
    )
    def test_not_if_there_is_no_place_here(self, dialect: Relayed, location: str | None) -> None:
        assert dialect.resume(progress(location=location)) is None
        assert dialect.cancel(progress(location=location)) is None

    def test_not_behind_what_is_no_event_of_the_relays(self) -> None:
        assert CHAT.resume(progress(cursor="x\r\ny")) is None
        assert CHAT.resume(Progress(asked(), Position(), None, LOCATION, delivered=True)) is None

    @pytest.mark.parametrize("name", ["key", "api_key", "api-key", "access_token", "KEY"])
    def test_credentials_in_the_query_stay(self, name: str) -> None:
        request = asked(f"?{name}=s3cret&alt=sse&after=9")
        for plan in (CHAT.resume(progress(request)), CHAT.cancel(progress(request))):
            assert plan is not None
            assert plan.query == {name: "s3cret"}
        plan = GEMINI.resume(progress(request))
        assert plan is not None
        assert plan.query == {name: "s3cret", "ids": "none"}


def test_cancel() -> None:
    plan = CHAT.cancel(progress())
    assert plan is not None
    assert (plan.method, plan.url) == ("DELETE", f"http://127.0.0.1:8787{LOCATION}")
    assert plan.header("authorization") == "Bearer x"


def test_reads_as_the_format_but_for_cursors_and_what_may_pass() -> None:
    failed = event('{"error":{"code":503,"message":"Please try again in 2s."}}')
    assert OpenAIChat().read(failed) == Reading(terminal=True, error="503", transient=True, retry_after=2.0)
    assert CHAT.read(failed) == Reading(terminal=True, error="503")
    assert CHAT.read(event("[DONE]")) == Reading(terminal=True)
    assert CHAT.read(event('{"choices":[]}')) == NOTHING
    created = event('{"type":"response.created","sequence_number":0,"response":{"id":"r"}}', "response.created")
    assert RESPONSES.read(created) == Reading(0, "r")
    interactions = GeminiInteractions()
    cursor = event('{"event_type":"step.delta","event_id":"e7","delta":{"type":"text","text":"a"}}', "step.delta")
    assert interactions.read(cursor).cursor == "e7"
    assert Relayed(interactions).read(cursor).cursor is None


def test_ends_as_the_format() -> None:
    transcript = Transcript(1000, lambda: None)
    assert not CHAT.ended(asked(), transcript)
    transcript.keep(encode_event('{"choices":[{"finish_reason":"stop"}]}'), 1)
    assert CHAT.ended(asked(), transcript)


def test_what_the_provider_keeps_is_read_there() -> None:
    background = RequestPlan("POST", "http://h/llm/v1/responses", (), b'{"stream":true,"background":true,"store":true}')
    found = Progress(background, Position(sequence=3), "resp_7", "/llm/_streams/7", delivered=True)
    poll = RESPONSES.poll(found)
    assert poll is not None
    assert poll.url == "http://h/llm/v1/responses/resp_7"
    assert RESPONSES.handle(poll, {}) == "resp_7"
    assert isinstance(RESPONSES.read_poll({}, b"{}", found, Transcript(1, lambda: None)), Unusable)
    assert RESPONSES.may_repeat(found) is False
    assert CHAT.may_repeat(progress()) is True
    assert CHAT.poll(progress()) is None


def test_upgrade_is_the_formats() -> None:
    assert b'"background":true' in (
        RESPONSES.upgrade(RequestPlan("POST", "http://h/v1/responses", (), b'{"a":1}')).body or b""
    )
    assert CHAT.framing is EVENT_STREAM
