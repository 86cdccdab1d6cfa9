"""Gemini Interactions: what one event says, how to resume, poll, cancel and upgrade."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.dialect import Finished, StillRunning, Unusable
from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.events import Fields, encode_event, parse_block
from resumable_llm.core.model import NOTHING, Checkpoint, Position, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import recognise
from resumable_llm.dialects.gemini_interactions import GeminiInteractions
from tests.conversation import Case, Played, World, load, play

INTERACTIONS = GeminiInteractions()
URL = "https://generativelanguage.googleapis.com/v1beta/interactions"
VERTEX = "https://us-central1-aiplatform.googleapis.com/v1beta1/projects/p/locations/us-central1/interactions"
KNOWN = Position(cursor="e7", behind=2)


def create(url: str = URL, **body: Any) -> RequestPlan:
    said = {"model": "m", "input": "?", "stream": True, **body}
    return RequestPlan("POST", url, (("x-goog-api-key", "x"), ("Content-Type", "application/json")), to_bytes(said))


def to_bytes(body: object) -> bytes:
    return json.dumps(body).encode()


def event(kind: str, name: str | None = "", **payload: Any) -> Fields:
    return Fields(kind if name == "" else name, json.dumps({"event_type": kind, **payload}), None, None)


def told(*events: Fields) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for each in events:
        transcript.keep(encode_event(each.data or "", event=each.event), 1)
    return transcript


BACKGROUND = create(background=True)
FOREGROUND = create()
NOT_STORED = create(store=False)
RETRIEVE = RequestPlan("GET", f"{URL}/v1_a?key=k&stream=true&last_event_id=e1", (("x-goog-api-key", "x"),))
LATER = RequestPlan("POST", URL, (), None)
"""In another process, where the body is not at hand."""


class TestRecognises:
    @pytest.mark.parametrize("request_", [create(), create(VERTEX), create(f"{URL}?key=k"), RETRIEVE])
    def test_yes(self, request_: RequestPlan) -> None:
        found = recognise(request_)
        assert isinstance(found, GeminiInteractions)

    @pytest.mark.parametrize(
        "request_",
        [
            create(stream=False),
            create(f"{URL}/v1_a/cancel"),
            create("https://chat.example/interactions"),
            create(f"{URL}/v1_a"),
            RequestPlan("GET", f"{URL}/v1_a"),
            RequestPlan("GET", f"{URL}/v1_a?stream=false"),
            RequestPlan("GET", f"{URL}?stream=true"),
            RequestPlan("GET", f"{URL}/v1_a/events?stream=true"),
            RequestPlan("DELETE", f"{URL}/v1_a?stream=true"),
        ],
    )
    def test_no(self, request_: RequestPlan) -> None:
        assert recognise(request_) is None


class TestRead:
    @pytest.mark.parametrize("name", ["", None])
    @pytest.mark.parametrize(
        ("kind", "payload", "reading"),
        [
            ("interaction.created", {"interaction": {"id": "a"}}, Reading(handle="a", cursor="interaction.created")),
            ("interaction.created", {"interaction": {"id": "a"}, "event_id": "e"}, Reading(handle="a", cursor="e")),
            ("interaction.start", {"interaction": {"id": "a"}, "event_id": "e"}, Reading(handle="a", cursor="e")),
            ("interaction.created", {"interaction": {"id": ""}}, Reading(cursor="interaction.created")),
            ("interaction.created", {"interaction": None}, Reading(cursor="interaction.created")),
            ("interaction.status_update", {"interaction_id": "a", "status": "failed"}, NOTHING),
            ("step.start", {"index": 0, "step": {"type": "thought"}, "event_id": "e"}, Reading(cursor="e")),
            ("step.start", {"index": 0, "step": {"type": "thought"}, "event_id": ""}, NOTHING),
            ("step.delta", {"index": 0, "delta": {"type": "text", "text": "a"}}, NOTHING),
            ("step.delta", {"index": 0, "delta": {"type": "text", "text": '"event_id":"e"'}}, NOTHING),
            ("step.delta", {"index": 0, "delta": {"arguments": {"event_id": "of a calendar"}}}, NOTHING),
            ("step.delta", {"delta": {"type": "text", "text": "a"}, "event_id": "e"}, Reading(cursor="e")),
            ("content.delta", {"delta": {"type": "text", "text": "a"}, "event_id": "e"}, Reading(cursor="e")),
            ("step.delta", {"delta": {}, "event_id": 7}, NOTHING),
            ("step.stop", {"index": 0}, NOTHING),
            ("interaction.completed", {"interaction": {"status": "completed"}}, Reading(cursor="[DONE]")),
            ("interaction.complete", {"interaction": {"status": "completed"}}, Reading(cursor="[DONE]")),
            ("interaction.completed", {"event_id": "e"}, Reading(cursor="[DONE]")),
            ("interaction.completed", {"interaction": {"status": "incomplete"}}, Reading(cursor="[DONE]")),
            ("interaction.completed", {"interaction": {"status": "budget_exceeded"}}, Reading(cursor="[DONE]")),
            ("interaction.completed", {"interaction": {"status": "requires_action"}}, Reading(cursor="[DONE]")),
            ("interaction.completed", {"interaction": {"status": "requires_continuation"}}, Reading(cursor="[DONE]")),
            (
                "interaction.completed",
                {"interaction": {"status": "failed"}},
                Reading(cursor="[DONE]", error="failed"),
            ),
            (
                "interaction.completed",
                {"interaction": {"status": "failed", "errors": [{"code": "internal"}]}},
                Reading(cursor="[DONE]", error="internal"),
            ),
            (
                "interaction.completed",
                {"interaction": {"status": "cancelled", "errors": []}},
                Reading(cursor="[DONE]", error="cancelled"),
            ),
            ("error", {"error": {"code": "invalid_argument"}}, Reading(terminal=True, error="invalid_argument")),
            (
                "error",
                {"error": {"code": "service_unavailable"}},
                Reading(terminal=True, error="service_unavailable", transient=True),
            ),
            ("error", {}, Reading(terminal=True, error="unnamed error")),
            ("strange", {"error": {"code": "c"}}, Reading(terminal=True, error="c")),
        ],
    )
    def test_read(self, name: str | None, kind: str, payload: dict[str, Any], reading: Reading) -> None:
        assert INTERACTIONS.read(event(kind, name, **payload)) == reading

    def test_an_id_of_a_relay_names_the_first_event(self) -> None:
        first = event("interaction.created", interaction={"id": "a"})
        assert INTERACTIONS.read(first._replace(id="1")) == Reading(handle="a")

    def test_the_sentinel(self) -> None:
        assert INTERACTIONS.read(Fields("done", "[DONE]", None, None)) == Reading(terminal=True)
        assert INTERACTIONS.read(Fields(None, "[DONE]", None, None)) == Reading(terminal=True)

    def test_an_event_with_nothing_but_a_name(self) -> None:
        assert INTERACTIONS.read(Fields("ping", None, None, None)) == NOTHING
        assert INTERACTIONS.read(Fields("error", "not json", None, None)) == Reading(
            terminal=True, error="unnamed error"
        )

    def test_a_timeout_passes(self) -> None:
        reading = INTERACTIONS.read(event("error", error={"message": "Deadline expired", "code": "gateway_timeout"}))
        assert reading.transient

    @pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
    @pytest.mark.parametrize("text", ["a", '"event_id":"e"', '\n\ndata: {"event_type":"error"}', "\\"])
    def test_deltas_without_an_id_pass_unread(self, text: str, separators: tuple[str, str]) -> None:
        payload = {"index": 0, "delta": {"text": text, "type": "text"}, "event_type": "step.delta"}
        block = encode_event(json.dumps(payload, separators=separators), event="step.delta")
        assert INTERACTIONS.ordinary.fullmatch(block + block)
        assert not INTERACTIONS.ordinary.fullmatch(b"id: 1\n" + block)

    def test_deltas_without_names_pass_unread(self) -> None:
        block = b'data: {"event_type":"step.delta","index":0,"delta":{"type":"text","text":"a"}}\n\n'
        assert INTERACTIONS.ordinary.fullmatch(block + block)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        name=st.sampled_from([None, "step.delta", "step.stop", "error", "interaction.completed", "done"]),
        payload=st.dictionaries(
            st.sampled_from(["event_type", "event_id", "index", "delta", "error", "interaction"]),
            st.sampled_from(
                ["step.delta", "step.start", "content.delta", "interaction.completed", "error", "e", {"id": "a"}]
            )
            | st.dictionaries(st.sampled_from(["event_id", "event_type", "text"]), st.text(max_size=3)),
        ),
    )
    def test_what_passes_unread_says_nothing(self, name: str | None, payload: dict[str, Any]) -> None:
        block = encode_event(json.dumps(payload, separators=(",", ":")), event=name)
        if INTERACTIONS.ordinary.fullmatch(block):
            assert INTERACTIONS.read(parse_block(block)) == NOTHING

    def test_ended(self) -> None:
        quoted = event("step.delta", delta={"type": "text", "text": "interaction.completed"})
        assert not INTERACTIONS.ended(FOREGROUND, told(quoted))
        for name in ("", None):
            end = event("interaction.completed", name, interaction={"status": "completed"})
            assert INTERACTIONS.ended(FOREGROUND, told(quoted, end))

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            (event("step.delta", delta={"type": "text", "text": "a"}), "a"),
            (event("step.delta", None, delta={"text": "a"}), "a"),
            (event("content.delta", delta={"type": "text", "text": "a"}), "a"),
            (event("step.delta", delta={"type": "thought_summary", "content": {"text": "a"}}), ""),
            (event("step.delta", delta={"type": "text", "text": None}), ""),
            (event("step.start", step={"text": "a"}), ""),
            (Fields("done", "[DONE]", None, None), ""),
        ],
    )
    def test_text(self, fields: Fields, text: str) -> None:
        assert INTERACTIONS.text(fields) == text


class TestWaysBack:
    @pytest.mark.parametrize("request_", [BACKGROUND, FOREGROUND, LATER])
    def test_resume_behind_the_last_id(self, request_: RequestPlan) -> None:
        plan = INTERACTIONS.resume(Progress(request_, KNOWN, "v1_a"))
        assert plan is not None
        assert (plan.method, plan.url) == ("GET", f"{URL}/v1_a?stream=true&last_event_id=e7")
        assert plan.header("x-goog-api-key") == request_.header("x-goog-api-key")
        assert plan.header("content-type") is None

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(NOT_STORED, KNOWN, "v1_a"),
            Progress(BACKGROUND, KNOWN),
            Progress(BACKGROUND, Position(), "v1_a"),
            Progress(BACKGROUND, Position(cursor="[DONE]"), "v1_a"),
        ],
    )
    def test_no_resume(self, progress: Progress) -> None:
        assert INTERACTIONS.resume(progress) is None

    def test_resume_from_the_start(self) -> None:
        plan = INTERACTIONS.resume(Progress(BACKGROUND, Position(cursor="interaction.created"), "v1_a"))
        assert plan is not None
        assert plan.url == f"{URL}/v1_a?stream=true"

    def test_resume_of_a_retrieve(self) -> None:
        assert INTERACTIONS.handle(RETRIEVE, {}) == "v1_a"
        assert INTERACTIONS.handle(BACKGROUND, {}) is None
        plan = INTERACTIONS.resume(Progress(RETRIEVE, KNOWN, "v1_a"))
        assert plan is not None
        assert plan.url == f"{URL}/v1_a?key=k&stream=true&last_event_id=e7"

    def test_resume_of_a_retrieve_that_goes_on_from_nowhere(self) -> None:
        assert INTERACTIONS.resume(Progress(RETRIEVE, Position(), "v1_a")) is None

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            (f"{URL}?key=k&alt=x", f"{URL}/v1_a?key=k&alt=x&stream=true&last_event_id=e7"),
            (VERTEX, f"{VERTEX}/v1_a?stream=true&last_event_id=e7"),
            (
                "https://gate.example/g/v1/interactions",
                "https://gate.example/g/v1/interactions/v1_a?stream=true&last_event_id=e7",
            ),
        ],
    )
    def test_where_to_resume(self, url: str, expected: str) -> None:
        plan = INTERACTIONS.resume(Progress(create(url, background=True), KNOWN, "v1_a"))
        assert plan is not None
        assert plan.url == expected

    def test_a_background_interaction_is_not_started_twice(self) -> None:
        assert not INTERACTIONS.may_repeat(Progress(BACKGROUND))
        assert INTERACTIONS.may_repeat(Progress(FOREGROUND))
        assert INTERACTIONS.may_repeat(Progress(RETRIEVE))

    def test_poll(self) -> None:
        plan = INTERACTIONS.poll(Progress(BACKGROUND, KNOWN, "v1_a"))
        assert plan is not None
        assert (plan.method, plan.url, plan.header("accept")) == ("GET", f"{URL}/v1_a", "application/json")
        plan = INTERACTIONS.poll(Progress(RETRIEVE, KNOWN, "v1_a"))
        assert plan is not None
        assert plan.url == f"{URL}/v1_a?key=k"
        assert INTERACTIONS.poll(Progress(BACKGROUND)) is None
        assert INTERACTIONS.poll(Progress(NOT_STORED, KNOWN, "v1_a")) is None

    def test_cancel(self) -> None:
        plan = INTERACTIONS.cancel(Progress(create(f"{URL}?key=k", background=True), KNOWN, "v1_a"))
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == ("POST", f"{URL}/v1_a/cancel?key=k", b"")
        assert plan.header("x-goog-api-key") == "x"
        for request in (RETRIEVE, LATER):
            assert INTERACTIONS.cancel(Progress(request, KNOWN, "v1_a")) is not None
        assert INTERACTIONS.cancel(Progress(FOREGROUND, KNOWN, "v1_a")) is None
        assert INTERACTIONS.cancel(Progress(BACKGROUND)) is None


class TestReadPoll:
    STEPS = ({"type": "model_output", "content": [{"type": "text", "text": "ab"}]},)

    def read(
        self,
        interaction: object,
        *events: Fields,
        headers: dict[str, str] | None = None,
        request: RequestPlan = BACKGROUND,
        cursor: str = "e7",
        whole: bool = True,
    ) -> StillRunning | Finished | Unusable:
        transcript = told(*events)
        transcript.whole = whole
        progress = Progress(request, Position(cursor=cursor), "v1_a")
        return INTERACTIONS.read_poll(headers or {}, to_bytes(interaction), progress, transcript)

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_too_early(self, status: str) -> None:
        assert self.read({"id": "v1_a", "status": status}) == StillRunning(2.0)
        assert self.read({"id": "v1_a", "status": status}, headers={"retry-after": "7"}) == StillRunning(7.0)
        assert self.read({"id": "v1_a", "status": status}, headers={"retry-after": "7000"}) == StillRunning(60.0)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ([], "not this interaction"),
            ({"id": "v1_b", "status": "completed", "steps": []}, "not this interaction"),
            ({"id": "v1_a"}, "not this interaction"),
            ({"id": "v1_a", "status": "paused"}, "the interaction is paused"),
            ({"id": "v1_a", "status": "completed", "outputs": []}, "does not begin with"),
        ],
    )
    def test_unusable(self, answer: object, reason: str) -> None:
        result = self.read(answer)
        assert isinstance(result, Unusable)
        assert reason in result.reason

    @pytest.mark.parametrize(
        "status", ["completed", "incomplete", "budget_exceeded", "requires_action", "requires_continuation"]
    )
    def test_finished(self, status: str) -> None:
        result = self.read({"id": "v1_a", "status": status, "steps": self.STEPS})
        assert isinstance(result, Finished)
        fields = [parse_block(block) for block in result.blocks]
        assert "".join(map(INTERACTIONS.text, fields)) == "ab"
        assert [INTERACTIONS.read(each) for each in fields[-2:]] == [Reading(cursor="[DONE]"), Reading(terminal=True)]

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_without_an_answer_only_the_end_is_told(self, status: str) -> None:
        result = self.read({"id": "v1_a", "status": status, "steps": self.STEPS})
        assert isinstance(result, Finished)
        first, last = (INTERACTIONS.read(parse_block(block)) for block in result.blocks)
        assert (first.error, last.terminal) == (status, True)

    def test_behind_the_end_nothing_is_missing(self) -> None:
        answer = {"id": "v1_a", "status": "completed", "steps": self.STEPS}
        assert self.read(answer, cursor="[DONE]", whole=False) == Finished([])

    @pytest.mark.parametrize(("request_", "whole"), [(BACKGROUND, False), (RETRIEVE, True)])
    def test_what_is_missing_cannot_be_told(self, request_: RequestPlan, whole: bool) -> None:
        """In another process, or where the caller's own GET began in the middle."""
        answer = {"id": "v1_a", "status": "completed", "steps": self.STEPS}
        result = self.read(answer, request=request_, whole=whole)
        assert isinstance(result, Unusable)
        assert "interactions.get()" in result.reason


class TestUpgrade:
    def test_background_and_store_are_added(self) -> None:
        assert INTERACTIONS.facts.upgrade
        upgraded = INTERACTIONS.upgrade(FOREGROUND)
        assert json.loads(upgraded.body or b"") == {
            "model": "m",
            "input": "?",
            "stream": True,
            "background": True,
            "store": True,
        }
        assert upgraded.header("content-length") == str(len(upgraded.body or b""))
        assert not INTERACTIONS.may_repeat(Progress(upgraded))

    @pytest.mark.parametrize("request_", [BACKGROUND, create(background=True, store=True), RETRIEVE])
    def test_nothing_to_add(self, request_: RequestPlan) -> None:
        assert INTERACTIONS.upgrade(request_) is request_

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (create(store=False), "says store=False"),
            (create(background=False), "says background=False"),
            (create(background=True, store=False), "says store=False"),
            (LATER, "not at hand"),
        ],
    )
    def test_refused(self, request_: RequestPlan, message: str) -> None:
        with pytest.raises(UpgradeRefused, match=message):
            INTERACTIONS.upgrade(request_)


# Whole conversations with servers that no vector can play


def conversation(name: str, *answers: dict[str, Any], wire: bytes | None = None) -> Case:
    (base,) = load(f"gemini_interactions/{name}")
    return Case(name, {**base.data, "answers": list(answers)}, wire or base.wire)


def played(case: Case, size: int = 65536, *, one_by_one: bool = False) -> Played:
    return play(case.converse(one_by_one=one_by_one), World(case), size, slices=not one_by_one)


def sse(*payloads: dict[str, Any]) -> str:
    return b"".join(
        encode_event(json.dumps(payload, separators=(",", ":")), event=payload["event_type"]) for payload in payloads
    ).decode()


CREATED = {"event_type": "interaction.created", "interaction": {"id": "v1_a", "status": "in_progress"}}
START = {"event_type": "step.start", "step": {"type": "model_output"}, "index": 0}
COMPLETED = {"event_type": "interaction.completed", "interaction": {"id": "v1_a", "status": "completed"}}


def delta(text: str, **more: str) -> dict[str, Any]:
    return {"event_type": "step.delta", "delta": {"type": "text", "text": text}, "index": 0, **more}


@pytest.mark.parametrize("events", range(1, 14))
def test_a_server_that_starts_over_in_another_process(events: int) -> None:
    case = conversation("replay", {}, {})
    first = case.converse(one_by_one=True)
    head = play(first, World(case), 65536, slices=False, stop_after=events)
    second = case.converse(one_by_one=True, checkpoint=Checkpoint.from_json(first.checkpoint.to_json()))
    tail = play(second, World(case, body="whole"), 65536, slices=False)
    assert head.told + tail.told == case.whole


def test_a_replay_that_cuts_the_text_elsewhere() -> None:
    head = sse(CREATED, START, delta("a", event_id="e1"), delta("b"))
    rest = sse(delta("bc"), {"event_type": "step.stop", "index": 0}, COMPLETED)
    log = played(conversation("cut", {"sse": head, "ends": "reset"}, {"sse": rest}))
    assert log.outcome == "ReplayDiverged"


def test_a_missing_event_that_is_like_the_last() -> None:
    steps = [{"type": "model_output", "content": [{"type": "text", "text": "ahaha"}]}]
    case = conversation(
        "json_on_resume",
        {"sse": sse(CREATED, START, delta("a", event_id="e1"), delta("ha")), "ends": "reset"},
        {"json": {"id": "v1_a", "status": "completed", "steps": steps}},
    )
    talk = case.converse(one_by_one=True)
    play(talk, World(case), 65536, slices=False)
    assert talk.partial_text() == "ahaha"


PASSING = {"event_type": "error", "error": {"code": "service_unavailable", "message": "why"}}


@pytest.mark.parametrize(("size", "one_by_one"), [*product((1, 7), (True, False))])
def test_a_failure_that_passes_in_small_pieces(size: int, one_by_one: bool) -> None:
    case = conversation("foreground_cut", {"sse": sse(PASSING)}, {"body": "whole"})
    log = played(case, size, one_by_one=one_by_one)
    assert (log.told, log.waits) == (case.whole, [1.0])


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_failure_that_passes(one_by_one: bool) -> None:
    case = conversation("foreground_cut", {"sse": sse(PASSING)}, {"body": "whole"})
    log = played(case, one_by_one=one_by_one)
    assert (log.told, log.waits) == (case.whole, [1.0])
    head = case.wire[: case.wire.index(b" the") + 50].decode().rpartition("\n\n")[0] + "\n\n"
    case = conversation("cut", {"sse": head + sse(PASSING)}, {})
    log = played(case, one_by_one=one_by_one)
    assert log.told == case.whole
    assert log.asked[1]["url"] is not None
    assert "last_event_id=" in log.asked[1]["url"]
