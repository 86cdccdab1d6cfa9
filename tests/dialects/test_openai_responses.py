"""OpenAI Responses: what one event says, how to resume, poll and cancel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resumable_llm.core.actions import Deliver, Notify
from resumable_llm.core.dialect import Finished, StillRunning, Unusable
from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Limits, Position, Progress, Reading, RequestPlan
from resumable_llm.core.states import State
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.openai_responses import OpenAIResponses
from tests.conversation import patient

RESPONSES = OpenAIResponses()
URL = "https://api.openai.com/v1/responses"
BACKGROUND = RequestPlan(
    "POST",
    URL,
    (("Authorization", "Bearer x"), ("Content-Type", "application/json")),
    b'{"stream":true,"background": true}',
)
FOREGROUND = RequestPlan("POST", URL, (), b'{"stream":true}')
RETRIEVE = RequestPlan("GET", f"{URL}/resp_1?stream=true&starting_after=3&api-version=preview")
KNOWN = Position(sequence=7)


def event(kind: str, number: Any = 3, *, name: str | None = "", **payload: Any) -> Fields:
    data = json.dumps({"type": kind, "sequence_number": number, **payload})
    return Fields(kind if name == "" else name, data, None, None)


def told(*events: Fields) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for each in events:
        transcript.keep(encode_event(each.data or "", event=each.event), 1)
    return transcript


class TestRead:
    @pytest.mark.parametrize(
        ("fields", "reading"),
        [
            (event("response.output_text.delta", delta="a"), Reading(3)),
            (event("response.output_text.delta", delta='"sequence_number": 9'), Reading(3)),
            (event("response.function_call_arguments.delta", delta='{"sequence_number": 9}'), Reading(3)),
            (event("response.mcp_call.done", output={"sequence_number": 9}), Reading(3)),
            (event("x.delta", item={"sequence_number": 9}), Reading(3)),
            (event("response.created", response={"id": "r", "status": "in_progress"}), Reading(3, "r")),
            (event("response.queued", response={"id": "r"}), Reading(3, "r")),
            (event("response.in_progress", response={"id": "r"}), Reading(3, "r")),
            (event("response.created", response=None), Reading(3)),
            (event("response.completed", response={"id": "r", "error": None}), Reading(3, terminal=True)),
            (event("response.incomplete", response={"id": "r"}), Reading(3, terminal=True)),
            (
                event("response.failed", response={"id": "r", "error": {"code": "server_error"}}),
                Reading(3, None, True, "server_error"),
            ),
            (event("response.failed", response={"id": "r"}), Reading(3, None, True, "unnamed error")),
            (
                event("error", code="rate_limit_exceeded", message="Please try again in 2s."),
                Reading(3, error="rate_limit_exceeded", transient=True, retry_after=2.0),
            ),
            (event("error", code="invalid_prompt", message="x"), Reading(3, error="invalid_prompt")),
            (event("error", error={"code": "c"}), Reading(3, error="c")),
            (event("x", error={"type": "t"}), Reading(3, error="t")),
            (event("keepalive"), Reading(3, keepalive=True)),
            (event("keepalive", name=None), Reading(3, keepalive=True)),
            (event("response.completed", name=None, response={}), Reading(3, terminal=True)),
            (event("response.output_text.delta", None, delta="a"), Reading()),
            (event("response.output_text.delta", True, delta="a"), Reading()),
            (event("response.output_text.delta", "3", delta="a"), Reading()),
            (
                Fields(None, "[DONE]", None, None),
                Reading(hollow=True),
            ),
            (Fields("error", "not json", None, None), Reading(error="unnamed error")),
            (Fields(None, None, None, None), Reading()),
        ],
    )
    def test_read(self, fields: Fields, reading: Reading) -> None:
        assert RESPONSES.read(fields) == reading

    @pytest.mark.parametrize("delta", ["a", '\\"sequence_number":9', '{"sequence_number": 9}', "\n\n"])
    def test_ordinary_chunks_are_deltas(self, delta: str) -> None:
        fields = event("response.output_text.delta", 12345, delta=delta)
        assert RESPONSES.ordinary.fullmatch(encode_event(fields.data or "", event=fields.event))
        assert not RESPONSES.ordinary.fullmatch(encode_event(fields.data or "", event=fields.event, id="1"))
        assert RESPONSES.read(fields) == Reading(12345)

    @pytest.mark.parametrize("kind", ["response.completed", "error", "response.created", "response.output_text.done"])
    def test_other_events_are_read(self, kind: str) -> None:
        assert not RESPONSES.ordinary.fullmatch(encode_event(event(kind).data or "", event=kind))

    def test_a_delta_is_neither_an_end_nor_an_error(self) -> None:
        """Read or passed unread, it comes to the same."""
        fields = event("x.delta", 4, error={"code": "c"})
        assert RESPONSES.ordinary.fullmatch(encode_event(fields.data or "", event=fields.event))
        assert RESPONSES.read(fields) == Reading(4)


class TestWaysBack:
    def test_resume_behind_the_last_number(self) -> None:
        plan = RESPONSES.resume(Progress(BACKGROUND, KNOWN, "resp_1"))
        assert plan is not None
        assert (plan.method, plan.url) == ("GET", f"{URL}/resp_1?stream=true&starting_after=7")
        assert plan.headers == (("Authorization", "Bearer x"),)

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(FOREGROUND, KNOWN, "resp_1"),
            Progress(BACKGROUND, Position(), "resp_1"),
            Progress(BACKGROUND, KNOWN),
        ],
    )
    def test_no_resume(self, progress: Progress) -> None:
        assert RESPONSES.resume(progress) is None

    def test_resume_of_a_retrieve(self) -> None:
        plan = RESPONSES.resume(Progress(RETRIEVE, KNOWN, "resp_1"))
        assert plan is not None
        assert plan.url == f"{URL}/resp_1?api-version=preview&stream=true&starting_after=7"

    def test_resume_under_events(self) -> None:
        """As fastresponses has it; polls and cancels go the usual way."""
        request = RequestPlan("GET", f"{URL}/resp_1/events?starting_after=-1&x=y")
        assert RESPONSES.recognises(request)
        assert RESPONSES.handle(request, {}) == "resp_1"
        progress = Progress(request, KNOWN, "resp_1")
        resumed, polled, cancelled = RESPONSES.resume(progress), RESPONSES.poll(progress), RESPONSES.cancel(progress)
        assert resumed is not None
        assert polled is not None
        assert cancelled is not None
        assert resumed.url == f"{URL}/resp_1/events?x=y&starting_after=7"
        assert polled.url == f"{URL}/resp_1?x=y"
        assert cancelled.url == f"{URL}/resp_1/cancel?x=y"

    def test_resume_on_azure_keeps_the_version(self) -> None:
        request = RequestPlan(
            "POST", "https://me.openai.azure.com/openai/responses?api-version=v1", (), BACKGROUND.body
        )
        plan = RESPONSES.resume(Progress(request, KNOWN, "resp_1"))
        assert plan is not None
        assert (
            plan.url
            == "https://me.openai.azure.com/openai/responses/resp_1?api-version=v1&stream=true&starting_after=7"
        )

    def test_poll(self) -> None:
        plan = RESPONSES.poll(Progress(BACKGROUND, KNOWN, "resp_1"))
        assert plan is not None
        assert (plan.method, plan.url, plan.header("accept")) == ("GET", f"{URL}/resp_1", "application/json")
        assert RESPONSES.poll(Progress(BACKGROUND, KNOWN)) is None
        assert RESPONSES.poll(Progress(FOREGROUND, KNOWN, "resp_1")) is None

    def test_cancel(self) -> None:
        plan = RESPONSES.cancel(Progress(BACKGROUND, KNOWN, "resp_1"))
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == ("POST", f"{URL}/resp_1/cancel", b"")
        assert plan.header("authorization") == "Bearer x"
        assert RESPONSES.cancel(Progress(FOREGROUND, KNOWN, "resp_1")) is None
        assert RESPONSES.cancel(Progress(BACKGROUND, KNOWN)) is None

    def test_cancel_where_the_id_is_also_elsewhere(self) -> None:
        request = RequestPlan("POST", "https://api.example/r/v1/responses", (), BACKGROUND.body)
        plan = RESPONSES.cancel(Progress(request, KNOWN, "r"))
        assert plan is not None
        assert plan.url == "https://api.example/r/v1/responses/r/cancel"

    def test_a_background_job_is_not_started_twice(self) -> None:
        assert not RESPONSES.may_repeat(Progress(BACKGROUND))
        assert RESPONSES.may_repeat(Progress(FOREGROUND))
        assert RESPONSES.may_repeat(Progress(RETRIEVE))

    @pytest.mark.parametrize(
        ("status", "body", "gone"),
        [
            (400, b"This response can no longer be streamed because it is more than 5 minutes old.", True),
            (400, b"bad", False),
            (403, b"can no longer be streamed", False),
        ],
    )
    def test_gone(self, status: int, body: bytes, gone: bool) -> None:
        assert RESPONSES.gone(status, body) is gone


class TestPoll:
    PROGRESS = Progress(BACKGROUND, Position(sequence=0), "resp_1")
    CREATED = event("response.created", 0, response={"id": "resp_1"})

    def read(self, body: Any, headers: dict[str, str] | None = None, transcript: Transcript | None = None) -> object:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return RESPONSES.read_poll(headers or {}, raw, self.PROGRESS, transcript or told(self.CREATED))

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_still_running(self, status: str) -> None:
        assert self.read({"id": "resp_1", "status": status}) == StillRunning(2.0)

    @pytest.mark.parametrize(
        ("hint", "seconds"),
        [
            ("750", 0.75),
            ("0", 0.1),
            ("-5", 0.1),
            ("9999999", 60.0),
            ("inf", 60.0),
            ("soon", 2.0),
            ("-inf", 0.1),
            ("nan", 2.0),
        ],
    )
    def test_the_servers_hint_within_bounds(self, hint: str, seconds: float) -> None:
        assert self.read({"id": "resp_1", "status": "queued"}, {"openai-poll-after-ms": hint}) == StillRunning(seconds)

    @pytest.mark.parametrize(
        "body",
        [
            {"id": "resp_2", "status": "completed"},
            {"id": "resp_1"},
            {"id": "resp_1", "status": 7},
            [],
            b"not json",
            b"",
        ],
    )
    def test_something_else(self, body: Any) -> None:
        assert self.read(body) == Unusable("the server answered with something that is not this response")

    def test_cancelled(self) -> None:
        assert self.read({"id": "resp_1", "status": "cancelled"}) == Unusable("the response was cancelled")

    def test_finished(self) -> None:
        found = self.read({"id": "resp_1", "status": "completed", "output": []})
        assert isinstance(found, Finished)
        (block,) = found.blocks
        assert block.startswith(b'event: response.completed\ndata: {"type":"response.completed"')

    def test_another_text(self) -> None:
        begun = told(self.CREATED, event("response.output_text.delta", 1, output_index=0, content_index=0, delta="Hel"))
        item = {"id": "m", "type": "message", "content": [{"type": "output_text", "text": "Good day"}]}
        found = self.read({"id": "resp_1", "status": "completed", "output": [item]}, transcript=begun)
        assert found == Unusable("the finished answer is not the one that was begun")

    def test_where_it_is_not_known_what_was_delivered(self) -> None:
        partly = told(self.CREATED)
        partly.whole = False
        found = self.read({"id": "resp_1", "status": "completed"}, transcript=partly)
        assert isinstance(found, Unusable)
        assert "responses.retrieve()" in found.reason


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (event("response.output_text.delta", delta="a"), "a"),
        (event("response.output_text.delta", name=None, delta="a"), "a"),
        (event("response.refusal.delta", delta="a"), ""),
        (event("response.refusal.delta", name=None, delta="a"), ""),
        (Fields("response.output_text.delta", "x", None, None), ""),
    ],
)
def test_text(fields: Fields, text: str) -> None:
    assert RESPONSES.text(fields) == text


def test_recognises() -> None:
    assert RESPONSES.recognises(BACKGROUND)
    assert RESPONSES.recognises(RETRIEVE)
    assert not RESPONSES.recognises(RequestPlan("GET", f"{URL}/resp_1"))
    assert RESPONSES.recognises(RequestPlan("GET", f"{URL}/resp_1/events"))
    assert not RESPONSES.recognises(RequestPlan("POST", f"{URL}/resp_1/events", (), b'{"stream":true}'))
    assert not RESPONSES.recognises(RequestPlan("GET", "https://x.example/v1/runs/r/events"))
    assert not RESPONSES.recognises(RequestPlan("GET", f"{URL}/resp_1/events/stream"))


def test_prepare() -> None:
    assert RESPONSES.prepare(BACKGROUND, "k").header("x-conversation-id") == "k"
    prepared = RESPONSES.prepare(RETRIEVE, "k")
    assert prepared.headers == (("Accept-Encoding", "identity"),)


def test_answered_by_and_handle() -> None:
    prepared = RESPONSES.prepare(BACKGROUND, "k")
    assert RESPONSES.answered_by(prepared, {}) is RESPONSES
    assert isinstance(RESPONSES.answered_by(prepared, {"server": "llama.cpp"}), LlamaCpp)
    assert RESPONSES.handle(BACKGROUND, {}) is None
    assert RESPONSES.handle(RETRIEVE, {}) == "resp_1"


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ([], False),
        ([event("response.output_text.delta", delta="error")], False),
        ([event("error", code="invalid_prompt")], True),
        ([event("error", code="invalid_prompt"), event("keepalive", 4)], True),
    ],
)
def test_ended(events: list[Fields], ended: bool) -> None:
    assert RESPONSES.ended(FOREGROUND, told(*events)) is ended


def asked(**body: Any) -> RequestPlan:
    headers = (("content-length", "7"), ("content-type", "application/json"))
    return RequestPlan(
        "POST", URL, headers, json.dumps({"model": "m", "input": "naïve", "stream": True, **body}).encode()
    )


class TestUpgrade:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"store": True},
            {"store": None, "background": None},
            {"background_options": None},
            {"background_options": {"completion_window": "soonest"}},
            {"stream_options": {"include_obfuscation": False}},
        ],
    )
    def test_background_and_store(self, more: dict[str, Any]) -> None:
        request = asked(**more)
        upgraded = RESPONSES.upgrade(request)
        assert json.loads(upgraded.body or b"") == {
            **json.loads(request.body or b""),
            "background": True,
            "store": True,
        }
        assert upgraded.header("content-length") == str(len(upgraded.body or b""))
        assert upgraded.header("content-type") == "application/json"
        assert RESPONSES.recognises(upgraded)
        assert not RESPONSES.may_repeat(Progress(upgraded))

    @pytest.mark.parametrize(
        "request_",
        [
            asked(background=True),
            asked(background=True, store=False),  # the server knows whether it can
            RETRIEVE,
            RequestPlan("GET", f"{URL}/resp_1/events"),
            RequestPlan("POST", URL, (), None),
            RequestPlan("POST", URL, (), b'not json, "stream": true'),
            RequestPlan("POST", URL, (), b'["stream", {"stream": true}]'),
        ],
    )
    def test_nothing_to_add(self, request_: RequestPlan) -> None:
        assert RESPONSES.upgrade(request_) is request_

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"background": False}, "background: false"),
            ({"store": False}, "store: false"),
            ({"background_options": {"completion_window": "2h"}}, "2h"),
        ],
    )
    def test_what_it_would_contradict(self, more: dict[str, Any], why: str) -> None:
        with pytest.raises(UpgradeRefused, match=why):
            RESPONSES.upgrade(asked(**more))

    def test_its_costs_are_told(self) -> None:
        for cost in ("kept", "later", "no longer cancels", "Azure"):
            assert cost in RESPONSES.facts.upgrade


def test_what_failed_first_is_what_is_told() -> None:
    """vLLM says [DONE] behind an error."""
    talk = Conversation(RESPONSES.prepare(FOREGROUND, "k"), RESPONSES, patient, Limits())
    talk.start(0.0)
    talk.receive_response(200, {"content-type": "text/event-stream"}, 0.0)
    failed = event("error", 0, code="invalid_prompt")
    talk.receive_data(encode_event(failed.data or "", event="error") + encode_event("[DONE]"), 0.0)
    while isinstance(talk.next_action(), Deliver | Notify):
        pass
    talk.receive_eof(0.0)
    assert talk.state is State.ENDED
    assert talk.upstream_error == "invalid_prompt"
