"""Gemini streamGenerateContent: what one chunk says, what ends an answer, and the one way on that there is."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.events import Fields, encode_event, parse_block
from resumable_llm.core.model import NOTHING, Position, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import recognise
from resumable_llm.dialects.gemini_generate import GeminiGenerate
from tests.conversation import Case, Played, World, load, play

GENERATE = GeminiGenerate()
MODEL = "https://generativelanguage.googleapis.com/v1beta/models/m:streamGenerateContent"
URL = f"{MODEL}?alt=sse"
BODY = {"contents": [{"parts": [{"text": "?"}]}]}
OVERLOADED = {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}


def ask(url: str = URL, method: str = "POST", **body: Any) -> RequestPlan:
    return RequestPlan(method, url, (("x-goog-api-key", "x"),), json.dumps({**BODY, **body}).encode())


def event(**payload: Any) -> Fields:
    return Fields(None, json.dumps(payload), None, None)


def candidate(text: str | None = None, **more: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": {"role": "model", "parts": [{"text": text}]}}
    return {**content, **more}


def chunk(*candidates: dict[str, Any], **more: Any) -> Fields:
    return event(candidates=list(candidates), **more)


def told(*events: Fields) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for each in events:
        transcript.keep(encode_event(each.data or ""), 1)
    return transcript


class TestRecognises:
    @pytest.mark.parametrize(
        "url",
        [
            URL,
            f"{MODEL}?key=k&alt=sse",
            f"{MODEL}?$alt=sse",
            f"{MODEL}?alt=sse?foo=bar",
            "https://aiplatform.googleapis.com/v1/publishers/google/models/m:streamGenerateContent?alt=sse",
            "https://gate.example/g/v1/tunedModels/t:streamGenerateContent?alt=sse",
        ],
    )
    def test_yes(self, url: str) -> None:
        assert isinstance(recognise(ask(url)), GeminiGenerate)

    @pytest.mark.parametrize(
        ("url", "method"),
        [
            (MODEL, "POST"),
            (f"{MODEL}?alt=json", "POST"),
            (URL.replace("streamG", "g"), "POST"),
            (URL.replace(":", "/").replace("https/", "https:"), "POST"),
            (URL, "GET"),
        ],
    )
    def test_no(self, url: str, method: str) -> None:
        assert recognise(ask(url, method)) is None

    def test_there_is_nothing_to_upgrade(self) -> None:
        assert not GENERATE.facts.upgrade
        assert GENERATE.upgrade(ask()) == ask()


class TestRead:
    @pytest.mark.parametrize(
        ("fields", "reading"),
        [
            (chunk(candidate("a")), NOTHING),
            (chunk(candidate("a", finishReason="STOP")), NOTHING),
            (chunk(candidate("a", continuationToken="dG9r")), Reading(cursor="dG9r")),
            (chunk(candidate("a", continuationToken="dG9r", finishReason="CONTINUATION")), Reading(cursor="")),
            (chunk(candidate("a", continuationToken="dG9r", finishReason="STOP")), Reading(cursor="")),
            (chunk(candidate("a"), candidate("b", index=1, continuationToken="dG9r")), NOTHING),
            (chunk(candidate("a", continuationToken=None)), NOTHING),
            (chunk(candidate('"error": "continuationToken"')), NOTHING),
            (chunk(candidate(args={"error": 1, "continuationToken": "x"})), NOTHING),
            (event(promptFeedback={"blockReason": "SAFETY"}), NOTHING),
            (event(candidates=None, continuationToken="x"), NOTHING),
            (event(error=OVERLOADED), Reading(terminal=True, error="503", transient=True)),
            (
                event(error={"code": 400, "status": "INVALID_ARGUMENT"}),
                Reading(terminal=True, error="400"),
            ),
            (event(error=None), NOTHING),
            (Fields(None, '"error"', None, None), NOTHING),
            (Fields("ping", None, None, None), NOTHING),
        ],
    )
    def test_read(self, fields: Fields, reading: Reading) -> None:
        assert GENERATE.read(fields) == reading

    def test_how_long_to_wait(self) -> None:
        info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}
        assert GENERATE.read(event(error={**OVERLOADED, "details": [info]})).retry_after == 17.0

    @pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
    @pytest.mark.parametrize("text", ["a", '"error": {}', '\n\ndata: {"error":{}}', "\\"])
    def test_chunks_pass_unread(self, text: str, separators: tuple[str, str]) -> None:
        payload = {"candidates": [candidate(text, finishReason="STOP")], "usageMetadata": {}}
        block = encode_event(json.dumps(payload, separators=separators))
        assert GENERATE.ordinary.fullmatch(block + block)
        assert not GENERATE.ordinary.fullmatch(b"id: 1\n" + block)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        payload=st.dictionaries(
            st.sampled_from(["candidates", "error", "promptFeedback", "continuationToken"]),
            st.lists(
                st.dictionaries(
                    st.sampled_from(["continuationToken", "error", "finishReason", "text"]), st.text(max_size=9)
                ),
                max_size=2,
            )
            | st.fixed_dictionaries({"code": st.integers(400, 599)}),
        )
    )
    def test_what_passes_unread_says_nothing(self, payload: dict[str, Any]) -> None:
        block = encode_event(json.dumps(payload, separators=(",", ":"), ensure_ascii=False))
        if GENERATE.ordinary.fullmatch(block):
            assert GENERATE.read(parse_block(block)) == NOTHING

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            (chunk(candidate("a")), "a"),
            (chunk(candidate("b", index=1), candidate("a", index=0)), "a"),
            (chunk(candidate("b", index=1)), ""),
            (chunk({"content": {"parts": [{"text": "no", "thought": True}, {"text": "a"}, {"text": "b"}, 7]}}), "ab"),
            (chunk({"content": {"parts": [{"functionCall": {}}]}}), ""),
            (chunk(candidate(finishReason="STOP")), ""),
            (event(candidates=["a"]), ""),
            (event(usageMetadata={}), ""),
        ],
    )
    def test_text(self, fields: Fields, text: str) -> None:
        assert GENERATE.text(fields) == text


class TestEnded:
    @pytest.mark.parametrize(
        ("events", "ended"),
        [
            ([], False),
            ([event(usageMetadata={})], False),
            ([chunk(candidate("a"))], False),
            ([chunk(candidate("a")), chunk(candidate("b", finishReason="STOP"))], True),
            ([chunk(candidate("a", finishReason="MAX_TOKENS")), event(usageMetadata={})], True),
            ([chunk(candidate("a", finishReason="CONTINUATION", continuationToken="x"))], True),
            ([chunk(candidate("a", continuationToken="x"))], False),
            ([chunk(candidate("a", index=0, finishReason="STOP"), candidate("b", index=1))], False),
            ([chunk(candidate("a", index="?", finishReason="STOP"))], True),
            ([event(promptFeedback={"blockReason": "SAFETY"})], True),
            ([chunk(candidate("a"), promptFeedback={"safetyRatings": []})], False),
        ],
    )
    def test_ended(self, events: list[Fields], ended: bool) -> None:
        assert GENERATE.ended(ask(), told(*events)) is ended

    @pytest.mark.parametrize(("count", "ended"), [(1, True), (2, False), ("2", True)])
    def test_as_many_candidates_as_were_asked_for(self, count: object, ended: bool) -> None:
        request = ask(generationConfig={"candidateCount": count})
        assert GENERATE.ended(request, told(chunk(candidate("a", finishReason="STOP")))) is ended


class TestResume:
    def test_from_the_token(self) -> None:
        plan = GENERATE.resume(Progress(ask(f"{MODEL}?key=k&alt=sse"), Position(cursor="dG9r"), delivered=True))
        assert plan is not None
        assert (plan.method, plan.url) == ("POST", f"{MODEL}?key=k&alt=sse")
        assert json.loads(plan.body or b"") == {**BODY, "continuationToken": "dG9r"}
        assert plan.header("content-length") == str(len(plan.body or b""))
        assert plan.header("x-goog-api-key") == "x"

    def test_from_a_later_token(self) -> None:
        """The caller's own request went on from a token already."""
        plan = GENERATE.resume(Progress(ask(continuationToken="b2xk"), Position(cursor="bmV3"), delivered=True))
        assert plan is not None
        assert json.loads(plan.body or b"")["continuationToken"] == "bmV3"

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(ask(), Position(), delivered=True),
            Progress(ask(), Position(cursor="dG9r", behind=1), delivered=True),
            Progress(RequestPlan("POST", URL, (), None), Position(cursor="dG9r"), delivered=True),
        ],
    )
    def test_no_way(self, progress: Progress) -> None:
        assert GENERATE.resume(progress) is None


# Whole conversations

TOKEN = {"candidates": [candidate("Hel", continuationToken="dG9r")]}
REST = {"candidates": [candidate("lo", finishReason="STOP")]}


def sse(*payloads: dict[str, Any]) -> str:
    return b"".join(encode_event(json.dumps(payload)) for payload in payloads).decode()


def conversation(*answers: dict[str, Any], name: str = "token") -> Case:
    (base,) = load(f"gemini_generate/{name}")
    return Case(name, {**base.data, "answers": list(answers)}, base.wire)


def played(case: Case, size: int = 65536, *, one_by_one: bool = False) -> Played:
    return play(case.converse(one_by_one=one_by_one), World(case), size, slices=not one_by_one)


@pytest.mark.parametrize("ends", ["eof", "reset"])
def test_the_token_is_sent(ends: str) -> None:
    log = played(conversation({"sse": sse(TOKEN), "ends": ends}, {"sse": sse(REST)}))
    assert b"".join(log.slices).decode() == sse(TOKEN, REST)
    first, second = log.requests
    assert first.body is not None
    assert json.loads(second.body or b"") == {**json.loads(first.body), "continuationToken": "dG9r"}


def test_a_token_at_the_end_of_a_hop_is_the_callers() -> None:
    end = {"candidates": [candidate("lo", continuationToken="bmV3", finishReason="CONTINUATION")]}
    log = played(conversation({"sse": sse(TOKEN, end), "ends": "reset"}, {"down": True}))
    assert (log.outcome, log.proved, len(log.requests)) == ("end", True, 1)


ERROR = {"error": {**OVERLOADED, "details": [{"retryDelay": "17s"}]}}


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize(("one_by_one", "begun"), list(product((True, False), (True, False))))
def test_a_failure_that_passes(size: int, one_by_one: bool, begun: bool) -> None:
    """Before anything, or behind a token, another attempt costs nothing."""
    head, rest = ([TOKEN], [REST]) if begun else ([], [TOKEN, REST])
    log = played(
        conversation({"sse": sse(*head, ERROR)}, {"sse": sse(*rest)}, {"down": True}), size, one_by_one=one_by_one
    )
    assert b"".join(log.slices).decode() == sse(TOKEN, REST)
    assert (log.outcome, log.waits) == ("end", [17.0])


def test_a_relay_that_has_no_more_is_asked_once() -> None:
    case = conversation({"ends": "reset", "cut": "6},"}, {}, {"sse": ""}, name="numbered_by_a_relay")
    log = played(case)
    assert (log.told, log.outcome, log.proved) == (case.whole, "end", True)
    assert len(log.requests) == 3
