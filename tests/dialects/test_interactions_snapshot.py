"""A finished interaction as events: whoever puts steps together from them, begun anywhere, ends with the same steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resumable_llm.core.events import encode_event, parse_block
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects._interactions_snapshot import missing_events

Json = dict[str, Any]

ANNOTATIONS = [{"type": "url_citation", "url": "https://example.com", "start_index": 0, "end_index": 2}]
IMAGE = {"type": "image", "mime_type": "image/png", "data": "aWE="}
USER = {"type": "user_input", "content": [{"type": "text", "text": "?"}]}
STEPS: list[Json] = [
    {"type": "google_search_call", "id": "s1", "arguments": {"queries": ["q"]}, "signature": "sig"},
    {"type": "google_search_result", "call_id": "s1", "signature": "gis", "is_error": False},
    {"type": "thought", "summary": [{"type": "text", "text": "Hm. Well."}], "signature": "c2ln"},
    {
        "type": "model_output",
        "content": [
            {"type": "text", "text": "Zürich is hot.", "annotations": ANNOTATIONS},
            IMAGE,
            {"type": "text", "text": "There."},
        ],
    },
    {"type": "function_call", "id": "f1", "name": "weather", "arguments": {"city": "Zürich", "unit": "celsius"}},
]
FINAL: Json = {
    "id": "v1_a",
    "status": "requires_action",
    "model": "m",
    "usage": {"total_tokens": 7},
    "input": "?",
    "tools": [],
    "steps": [USER, *STEPS],
}
RESOURCE = {name: FINAL[name] for name in ("id", "status", "model", "usage")}


def start(index: int, **step: Any) -> Json:
    return {"index": index, "step": step, "event_type": "step.start"}


def delta(index: int, **data: Any) -> Json:
    return {"index": index, "delta": data, "event_type": "step.delta"}


def stop(index: int) -> Json:
    return {"index": index, "event_type": "step.stop"}


STREAM: list[Json] = [
    {"interaction": {"id": "v1_a", "status": "in_progress", "model": "m"}, "event_type": "interaction.created"},
    {"interaction_id": "v1_a", "status": "in_progress", "event_type": "interaction.status_update"},
    start(0, id="s1", signature="", type="google_search_call"),
    delta(0, signature="sig", type="google_search_call", arguments={"queries": ["q"]}),
    stop(0),
    start(1, call_id="s1", signature="", type="google_search_result"),
    delta(1, signature="gis", type="google_search_result"),
    delta(1, is_error=False, type="google_search_result"),
    stop(1),
    start(2, type="thought"),
    delta(2, content={"type": "text", "text": "Hm. "}, type="thought_summary"),
    delta(2, content={"text": "Well.", "type": "text"}, type="thought_summary"),
    delta(2, signature="c2ln", type="thought_signature"),
    stop(2),
    start(3, type="model_output"),
    delta(3, text="Zür", type="text"),
    delta(3, text="ich is"),
    delta(3, text=" hot.", type="text"),
    delta(3, annotations=ANNOTATIONS, type="text_annotation_delta"),
    delta(3, **IMAGE),
    delta(3, text="There", type="text"),
    delta(3, text=".", type="text"),
    stop(3),
    start(4, id="f1", type="function_call", name="weather", arguments={}),
    delta(4, arguments='{"city":"Zür', type="arguments_delta"),
    delta(4, arguments='ich","unit"', type="arguments_delta"),
    delta(4, arguments=':"celsius"}', type="arguments_delta"),
    stop(4),
    {"interaction": RESOURCE, "event_type": "interaction.completed"},
]


def transcript(events: list[Json], *, named: bool = True) -> Transcript:
    made = Transcript(10**6, lambda: None)
    for event in events:
        made.keep(encode_event(json.dumps(event), event=event["event_type"] if named else None), 1)
    return made


def missing(interaction: Json, events: list[Json], **options: bool) -> list[Json] | None:
    blocks = missing_events(interaction, transcript(events), **options)
    if blocks is None:
        return None
    *fields, last = map(parse_block, blocks)
    assert (last.event, last.data) == ("done", "[DONE]")
    made: list[Json] = [json.loads(each.data or "") for each in fields]
    assert [each.event for each in fields] == [event["event_type"] for event in made]
    return made


def put_together(events: list[Json]) -> list[Json]:
    """The steps, as the documentation says to put them together."""
    steps: list[Json] = []
    arguments = ""
    for event in events:
        if event["event_type"] == "step.start":
            assert event["index"] == len(steps)
            steps.append(dict(event["step"]))
            arguments = ""
        elif event["event_type"] == "step.delta":
            assert event["index"] == len(steps) - 1
            step, data = steps[-1], event["delta"]
            kind = data.get("type", "text")
            if kind == "text":
                _append(step.setdefault("content", []), {"type": "text", "text": data["text"]})
            elif kind == "text_annotation_delta":
                step["content"][-1]["annotations"] = data["annotations"]
            elif kind == "thought_summary":
                _append(step.setdefault("summary", []), dict(data["content"]))
            elif kind == "thought_signature":
                step["signature"] = data["signature"]
            elif kind == "arguments_delta":
                arguments += data["arguments"]
            elif kind == step["type"]:
                step.update(data)
            else:
                step.setdefault("content", []).append(data)
        elif event["event_type"] == "step.stop" and arguments:
            steps[-1]["arguments"] = json.loads(arguments)
    return steps


def _append(contents: list[Json], content: Json) -> None:
    if content["type"] == "text" and contents and contents[-1]["type"] == "text":
        contents[-1]["text"] += content["text"]
    else:
        contents.append(content)


def test_the_stream_says_what_the_interaction_says() -> None:
    assert put_together(STREAM) == STEPS


@pytest.mark.parametrize("count", range(len(STREAM)))
def test_cut_anywhere(count: int) -> None:
    rest = missing(FINAL, STREAM[:count])
    assert rest is not None
    assert put_together([*STREAM[:count], *rest]) == STEPS
    assert rest[-1] == {"event_type": "interaction.completed", "interaction": RESOURCE}
    assert [event["event_type"] for event in rest].count("interaction.created") == (count == 0)
    stops = [event["index"] for event in [*STREAM[:count], *rest] if event["event_type"] == "step.stop"]
    assert stops == [0, 1, 2, 3, 4]


def test_the_first_event_is_as_it_was() -> None:
    rest = missing(FINAL, [])
    assert rest is not None
    assert rest[0] == {"event_type": "interaction.created", "interaction": STREAM[0]["interaction"]}


def test_as_the_events_before_without_names() -> None:
    blocks = missing_events(FINAL, transcript(STREAM[:3], named=False))
    assert blocks is not None
    assert all(parse_block(block).event is None for block in blocks)


def test_strange_events_are_passed_over() -> None:
    strange = {"index": 0, "event_type": "step.progress"}
    assert missing(FINAL, [*STREAM[:4], strange]) == missing(FINAL, STREAM[:4])


def test_only_the_end() -> None:
    rest = missing({"id": "v1_a", "status": "failed", "errors": [{"code": "c"}]}, STREAM[:5], only_end=True)
    assert rest is not None
    assert [event["interaction"] for event in rest] == [{"id": "v1_a", "status": "failed", "errors": [{"code": "c"}]}]


def test_a_question_that_was_streamed_stays() -> None:
    rest = missing({**FINAL, "steps": [USER, STEPS[3]]}, [STREAM[0], start(0, **USER)])
    assert rest is not None
    assert [event["step"]["type"] for event in rest if event["event_type"] == "step.start"] == ["model_output"]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"a": [1, 2], "b": "é"}, '{"a": [1, '),
        ({"a": [1, 2], "b": "é"}, '{"a":[1,2],"b":"\\u00'),
        ({"a": [1, 2], "b": "é"}, '{ "a": [1, 2],\n "b": "é" }'),
        ({}, ""),
        ({}, "{"),
    ],
)
def test_arguments_go_on_as_they_were_written(arguments: Json, seen: str) -> None:
    step = {**STEPS[4], "arguments": arguments}
    head = [STREAM[0], start(0, type="function_call"), delta(0, arguments=seen, type="arguments_delta")]
    rest = missing({**FINAL, "steps": [step]}, head)
    assert rest is not None
    added = "".join(event["delta"]["arguments"] for event in rest if event["event_type"] == "step.delta")
    assert json.loads(seen + added) == arguments


@pytest.mark.parametrize(
    "head",
    [
        [start(0, type="google_search_call"), stop(0)],
        [*STREAM[9:12], stop(2)],
        [start(5, type="function_call"), stop(5)],
    ],
)
def test_what_a_stream_may_leave_out(head: list[Json]) -> None:
    steps = [*STEPS, {"type": "function_call", "id": "f2", "name": "now", "arguments": {}}]
    rest = missing({**FINAL, "steps": steps}, [STREAM[0], *head])
    assert rest is not None
    assert head[0]["index"] not in [event.get("index") for event in rest]


@pytest.mark.parametrize(
    "head",
    [
        [delta(0, text="Other", type="text")],
        [start(3, type="model_output"), delta(3, text="Other", type="text")],
        [start(3, type="model_output"), delta(3, text="Zürich is hot. Very.", type="text")],
        [start(3, type="model_output"), delta(3, text="Zür", type="text"), stop(3)],
        [start(3, type="model_output"), delta(3, text="Zür", type="text"), delta(3, **IMAGE)],
        [start(3, type="model_output"), delta(3, **IMAGE)],
        [start(3, type="thought")],
        [*STREAM[14:22], delta(3, **IMAGE)],
        [*STREAM[14:20], delta(3, **{**IMAGE, "data": "b3RoZXI="})],
        [*STREAM[14:18], delta(3, annotations=[], type="text_annotation_delta")],
        [start(9, type="model_output")],
        [delta(9, text="a", type="text")],
        [start(4, type="function_call"), delta(4, arguments='{"town"', type="arguments_delta")],
        [start(4, type="function_call"), delta(4, arguments={"city": "Zürich"}, type="arguments_delta")],
        [start(0, type="google_search_call"), delta(0, arguments={"queries": []}, type="google_search_call")],
        [start(4, type="function_call"), stop(4)],
        [start(2, type="thought"), delta(2, content={"type": "text", "text": "Oh"}, type="thought_summary")],
        [start(3, type="model_output"), delta(3, type="text")],
    ],
)
def test_what_was_delivered_is_of_another_interaction(head: list[Json]) -> None:
    assert missing(FINAL, [STREAM[0], *head]) is None


@pytest.mark.parametrize(
    "interaction",
    [
        {"id": "v1_a", "status": "completed"},
        {"id": "v1_a", "status": "completed", "outputs": [{"type": "text", "text": "a"}]},
        {**FINAL, "steps": None},
        {**FINAL, "steps": [{}]},
        {**FINAL, "steps": ["a"]},
        {**FINAL, "steps": [{"type": "model_output", "content": [{"type": "text"}]}]},
        {**FINAL, "steps": [{"type": "function_call"}]},
    ],
)
def test_no_interaction_of_this_kind(interaction: Json) -> None:
    assert missing(interaction, STREAM[:2]) is None


@pytest.mark.parametrize("kind", ["interaction.start", "content.start", "content.delta", "content.stop"])
def test_what_was_begun_before_there_were_steps(kind: str) -> None:
    assert missing(FINAL, [{"event_type": kind, "index": 0}]) is None
