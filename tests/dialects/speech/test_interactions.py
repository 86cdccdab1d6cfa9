"""Interactions: what events say, a repeat at every cut under the old names, what does not fit; what was said so far."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.partial import partial_of
from resumable_llm.core.speech import MESSAGE, Usage, listen
from resumable_llm.dialects import named
from resumable_llm.dialects.speech.interactions import InteractionsSpeech
from tests.core.generations import Joined, fallbacks, join, transcript_of

Json = dict[str, Any]

DIALECT = named("gemini_interactions")
SPEECH = InteractionsSpeech()
URL = "https://generativelanguage.googleapis.com/v1beta/interactions"
REQUEST = RequestPlan("POST", URL, (), b'{"model":"m","stream":true,"input":"hi"}')
THOUGHT, TEXT, ARGUMENTS = "Greet them.", "Hello there, 🧵 user", '{"city":"Ljubljana"}'
USAGE = {"total_tokens": 24, "total_input_tokens": 4, "total_output_tokens": 8, "total_thought_tokens": 12}


def fields(payload: Json) -> Fields:
    return Fields(payload["event_type"], json.dumps(payload), None, None)


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def generation(salt: str, size: int = 4, texts: Sequence[str] = (THOUGHT, TEXT, ARGUMENTS)) -> list[Fields]:
    """A whole answer: thoughts, text with a picture, and a call; and the end, which is no JSON."""
    events = [fields(each) for each in said(salt, size, *texts)]
    return [*events, Fields("done", "[DONE]", None, None)]


def said(salt: str, size: int, thought: str, text: str, arguments: str) -> Iterator[Json]:
    def delta(index: int, **said: Any) -> Json:
        return {"index": index, "delta": said, "event_id": f"e_{salt}", "event_type": "step.delta"}

    base = {
        "id": f"v1_{salt}",
        "object": "interaction",
        "model": "m",
        "created": f"2026-11-22T12:00:0{ord(salt) % 10}Z",
    }
    yield {"interaction": {**base, "status": "in_progress"}, "event_type": "interaction.created"}
    status = {"interaction_id": base["id"], "status": "in_progress"}
    yield {**status, "event_type": "interaction.status_update"}
    yield {"index": 0, "step": {"type": "thought"}, "event_type": "step.start"}
    for piece in pieces(thought, size):
        yield delta(0, type="thought_summary", content={"type": "text", "text": piece})
    yield delta(0, type="thought_signature", signature=f"signature_{salt}")
    yield {"index": 0, "event_type": "step.stop"}
    yield {"index": 1, "step": {"type": "model_output"}, "event_type": "step.start"}
    for piece in pieces(text, size):
        yield delta(1, type="text", text=piece)
    yield delta(1, type="text_annotation_delta", annotations=[{"type": "url_citation", "url": "u"}])
    yield delta(1, type="image", mime_type="image/png", data="QUJD")
    yield {"index": 1, "event_type": "step.stop"}
    call = {"id": f"call_{salt}", "type": "function_call", "name": "weather", "arguments": {}}
    yield {"index": 2, "step": call, "event_type": "step.start"}
    for piece in pieces(arguments, size):
        yield delta(2, type="arguments_delta", arguments=piece)
    yield {"index": 2, "event_type": "step.stop"}
    end = {**base, "status": "requires_action", "usage": USAGE}
    yield {"interaction": end, "event_id": f"e_{salt}", "event_type": "interaction.completed"}


WHOLE = generation("a")
EVERY_CUT = range(1, len(WHOLE))
PLACES = (("thought_summary", "content"), ("text", "text"), ("arguments_delta", "arguments"))


def payloads(events: Iterable[Fields]) -> list[Json]:
    return [json.loads(event.data or "") for event in events if event.data != "[DONE]"]


def deltas(events: Iterable[Fields]) -> dict[str, str]:
    found = dict.fromkeys((kind for kind, _ in PLACES), "")
    for payload in payloads(events):
        for kind, name in PLACES:
            delta = payload.get("delta", {})
            if delta.get("type") == kind:
                found[kind] += delta[name]["text"] if name == "content" else delta[name]
    return found


def repeated(head: Sequence[Fields], tail: Iterable[Fields]) -> Joined:
    found = join(fallbacks("replay"), DIALECT, REQUEST, head, tail)
    assert isinstance(found, Joined)
    return found


def partial(events: Iterable[Fields]) -> Any:
    return partial_of(DIALECT, transcript_of(DIALECT.framing, events))


def put_together(events: Iterable[Fields], salt: str = "b") -> Any:
    """The interaction, with the names of what begins behind the cut as in the whole."""
    text = json.dumps(partial(events))
    return json.loads(text.replace(f"call_{salt}", "call_a").replace(f"signature_{salt}", "signature_a"))


def test_the_whole() -> None:
    assert isinstance(DIALECT.speech, InteractionsSpeech)
    answer = listen(SPEECH, WHOLE)
    assert [answer.text(key) for key in answer.texts] == [THOUGHT, TEXT, ARGUMENTS]
    assert [answer.kinds[key] for key in answer.texts] == ["thinking", "text", "tool"]
    assert answer.has("image")
    assert answer.is_closed(MESSAGE)
    assert answer.usage == Usage(4, 20)
    assert answer.text(SPEECH.open_part(answer)) == TEXT


@pytest.mark.parametrize("size", [1, 3, 4, 100])
@pytest.mark.parametrize("cut", EVERY_CUT)
def test_repeat_at_every_cut(cut: int, size: int) -> None:
    found = repeated(WHOLE[:cut], generation("b", size))
    assert not found.objection
    assert deltas(found.events) == deltas(WHOLE)
    assert put_together(found.events) == partial(WHOLE)
    told = "".join(event.data or "" for event in found.tail)
    assert "v1_b" not in told
    assert "event_id" not in told
    assert "call_b" not in told or "call_a" not in "".join(event.data or "" for event in found.head)
    kinds = [event.event for event in found.events if event.event != "step.delta"]
    assert kinds == [event.event for event in WHOLE if event.event != "step.delta"]


@pytest.mark.parametrize("cut", EVERY_CUT)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_another_answer_is_none(cut: int, at: int) -> None:
    head = WHOLE[:cut]
    told = deltas(head)[PLACES[at][0]]
    for position in range(len((THOUGHT, TEXT, ARGUMENTS)[at])):
        texts = [THOUGHT, TEXT, ARGUMENTS]
        texts[at] = texts[at][:position] + "#" + texts[at][position + 1 :]
        found = repeated(head, generation("b", 3, texts))
        assert bool(found.objection) == (len(told) > position)
        assert not (found.objection and found.tail)


def test_another_step_or_another_picture_does_not_fit() -> None:
    for old, new in (('"weather"', '"time"'), ('"QUJD"', '"WFla"'), ('"model_output"', '"google_search_call"')):
        tail = [event._replace(data=(event.data or "").replace(old, new)) for event in generation("b")]
        found = repeated(WHOLE[:-2], tail)
        assert found.objection
        assert not found.tail


def test_what_ends_too_early_does_not_fit() -> None:
    tail = generation("b")
    found = repeated(WHOLE[:-2], [tail[0], *tail[-2:]])
    assert found.objection
    assert not found.tail


def test_an_error_is_told() -> None:
    error = fields({"event_type": "error", "error": {"code": "x"}})
    assert payloads(repeated(WHOLE[:5], [*generation("b")[:7], error]).tail)[-1] == payloads([error])[0]


def test_usage() -> None:
    payload = payloads(WHOLE)[-1]
    SPEECH.set_usage(payload, Usage(8, 40))
    told = payload["interaction"]["usage"]
    assert told == {"total_tokens": 48, "total_input_tokens": 8, "total_output_tokens": 28, "total_thought_tokens": 12}
    assert SPEECH.usage(payload) == Usage(8, 40)
    SPEECH.set_usage(payload, Usage(None, None))
    assert SPEECH.usage(payload) == Usage(8, 40)
    bare: Json = {"interaction": {"usage": {"total_output_tokens": 3}}}
    SPEECH.set_usage(bare, Usage(2, 5))
    assert bare["interaction"]["usage"] == {"total_output_tokens": 5}
    SPEECH.set_usage({}, Usage(1, 2))
    assert SPEECH.usage({}) is None


@pytest.mark.parametrize("can_continue", [None, True, False])
def test_there_is_no_way_to_go_on(can_continue: bool | None) -> None:
    head = [event for event in WHOLE if '"text", "text"' in (event.data or "")][-3:]
    head = [event for event in head if '"index": 1' in (event.data or "")]
    refusal = join(fallbacks("continue", can_continue=can_continue), DIALECT, REQUEST, head, [])
    assert isinstance(refusal, str)
    assert "background=True, or upgrade=True" in refusal


# What was said so far


@pytest.mark.parametrize("cut", EVERY_CUT)
def test_what_was_said_at_every_cut(cut: int) -> None:
    head = WHOLE[:cut]
    found, told = partial(head), deltas(head)
    module = "google.genai._gaos.types.interactions.interaction"
    types = pytest.importorskip(module, reason="google-genai needs Python 3.11")
    types.Interaction.model_validate({**found, "updated": found["created"]})
    has_ended = cut == len(WHOLE) - 1
    assert (found["id"], found["status"]) == ("v1_a", "requires_action" if has_ended else "incomplete")
    steps = {step["type"]: step for step in found["steps"]}
    texts = [part["text"] for part in steps.get("model_output", {}).get("content", []) if part["type"] == "text"]
    assert "".join(texts) == told["text"]
    assert "".join(part["text"] for part in steps.get("thought", {}).get("summary", [])) == told["thought_summary"]
    is_whole = any('"index": 2, "event_type": "step.stop"' in (event.data or "") for event in head)
    begun = any("call_a" in (event.data or "") for event in head)
    if is_whole:
        assert steps["function_call"]["arguments"] == json.loads(ARGUMENTS)
    else:
        assert "function_call" not in steps
    torn = found.get("incomplete_tool_calls", [])
    assert [call["name"] for call in torn] == (["weather"] if begun and not is_whole else [])
    if torn and told["arguments_delta"] not in ("", ARGUMENTS):
        assert torn[0]["arguments"] == told["arguments_delta"]


def test_the_whole_interaction() -> None:
    found = partial(WHOLE)
    thought, output, call = found["steps"]
    assert thought == {
        "type": "thought",
        "summary": [{"type": "text", "text": THOUGHT}],
        "signature": "signature_a",
    }
    assert output["content"] == [
        {"type": "text", "text": TEXT, "annotations": [{"type": "url_citation", "url": "u"}]},
        {"type": "image", "mime_type": "image/png", "data": "QUJD"},
    ]
    assert call == {"type": "function_call", "id": "call_a", "name": "weather", "arguments": json.loads(ARGUMENTS)}
    assert found["usage"] == USAGE
    assert partial([]) is None


def test_the_steps_of_an_end_that_has_them() -> None:
    end: Json = {"id": "v1_a", "status": "completed", "steps": [{"type": "model_output", "content": []}]}
    assert partial([fields({"event_type": "interaction.completed", "interaction": end})]) == end


def test_the_protocol_before_steps() -> None:
    def part(kind: str, index: int, **more: Any) -> Fields:
        return fields({"index": index, **more, "event_type": f"content.{kind}"})

    head = [
        fields({"interaction": {"id": "v1_a"}, "event_type": "interaction.start"}),
        part("start", 0, content={"type": "text"}),
        part("delta", 0, delta={"type": "text", "text": "Hel"}),
    ]
    tail = [
        fields({"interaction": {"id": "v1_b"}, "event_type": "interaction.start"}),
        part("start", 0, content={"type": "text"}),
        part("delta", 0, delta={"type": "text", "text": "Hello"}),
        part("delta", 0, delta={"text": " there"}),
        part("stop", 0),
        part("start", 1, content={"type": "function_call", "id": "c_b"}),
        part("delta", 1, delta={"type": "function_call", "id": "c_b", "name": "f", "arguments": {"a": 1}}),
    ]
    found = repeated(head, tail)
    assert partial(found.events) == {
        "id": "v1_a",
        "status": "incomplete",
        "outputs": [{"type": "text", "text": "Hello there"}],
        "incomplete_tool_calls": [{"type": "function_call", "id": "c_b", "name": "f", "arguments": {"a": 1}}],
    }


def test_steps_of_which_nobody_told_that_they_began() -> None:
    def delta(index: int, **said: Any) -> Fields:
        return fields({"index": index, "delta": said, "event_type": "step.delta"})

    found = partial(
        [
            delta(0, type="thought_summary", content={"type": "image", "data": "AA"}),
            delta(1, type="text_annotation_delta", annotations=[]),
            delta(2, type="arguments_delta", arguments='{"a"'),
            delta(3, type="google_search_call", id="s", arguments={"queries": ["q"]}),
            delta(4, type="google_search_result", call_id="s", result=[]),
            fields({"index": 5, "event_type": "step.stop"}),
            delta(6, text="x"),
        ]
    )
    assert [step["type"] for step in found["steps"]] == [
        *("thought", "model_output", "google_search_result", "model_output", "model_output")
    ]
    assert found["steps"][0]["summary"] == [{"type": "image", "data": "AA"}]
    assert [call["arguments"] for call in found["incomplete_tool_calls"]] == ['{"a"', {"queries": ["q"]}]
