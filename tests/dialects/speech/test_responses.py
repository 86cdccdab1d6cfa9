"""Responses: what events say, a repeat at every cut under the old names, what does not fit; what was said so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.partial import partial_of
from resumable_llm.core.speech import MESSAGE, Answer, Usage, listen
from resumable_llm.dialects import named
from resumable_llm.dialects.speech.responses import ResponsesSpeech
from tests.core.generations import Joined, fallbacks, join, transcript_of

Json = dict[str, Any]

DIALECT = named("openai_responses")
SPEECH = ResponsesSpeech()
REQUEST = RequestPlan("POST", "https://api.openai.com/v1/responses", (), b'{"model":"m","stream":true,"input":"hi"}')
SUMMARY, TEXT, ARGUMENTS = "**Greeting** them", "Hello there, 🧵 user", '{"city":"Ljubljana"}'
USAGE = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 0}}


def fields(payload: Json, number: int | None = None) -> Fields:
    told = payload if number is None else {**payload, "sequence_number": number}
    return Fields(payload["type"], json.dumps(told), None, None)


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def generation(salt: str, size: int = 5, texts: Sequence[str] = (SUMMARY, TEXT, ARGUMENTS)) -> list[Fields]:
    """A whole answer: thoughts, text, a call of the server's, and a call of the caller's."""
    return [fields(each, number) for number, each in enumerate(said(salt, size, *texts))]


def said(salt: str, size: int, summary: str, text: str, arguments: str) -> Iterator[Json]:
    created = 1795000000.0 if salt == "a" else 1795000999.0
    base = {"id": f"resp_{salt}", "object": "response", "created_at": created, "model": "m", "tools": []}
    begun = {**base, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}

    thought = {"id": f"rs_{salt}", "type": "reasoning", "summary": []}
    thought_whole = {**thought, "summary": [{"type": "summary_text", "text": summary}]}
    place: Json = {"output_index": 0, "item_id": thought["id"], "summary_index": 0}
    yield {"type": "response.output_item.added", "output_index": 0, "item": thought}
    kind = "response.reasoning_summary"
    yield {"type": f"{kind}_part.added", **place, "part": {"type": "summary_text", "text": ""}}
    for piece in pieces(summary, size):
        yield {"type": f"{kind}_text.delta", **place, "delta": piece, "obfuscation": salt * 3}
    yield {"type": f"{kind}_text.done", **place, "text": summary}
    yield {"type": f"{kind}_part.done", **place, "part": thought_whole["summary"][0]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": thought_whole}

    search = {"id": f"ws_{salt}", "type": "web_search_call", "status": "in_progress"}
    searched = {**search, "status": "completed", "action": {"type": "search", "query": "q"}}
    place = {"output_index": 1, "item_id": search["id"]}
    yield {"type": "response.output_item.added", "output_index": 1, "item": search}
    yield {"type": "response.web_search_call.searching", **place}
    yield {"type": "response.web_search_call.completed", **place}
    yield {"type": "response.output_item.done", "output_index": 1, "item": searched}

    message = {"id": f"msg_{salt}", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    note = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 5}
    part = {"type": "output_text", "text": text, "annotations": [note]}
    message_whole = {**message, "status": "completed", "content": [part]}
    place = {"output_index": 2, "item_id": message["id"], "content_index": 0}
    yield {"type": "response.output_item.added", "output_index": 2, "item": message}
    empty = {"type": "output_text", "text": "", "annotations": []}
    yield {"type": "response.content_part.added", **place, "part": empty}
    for piece in pieces(text, size):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": [], "obfuscation": salt}
    yield {"type": "response.output_text.annotation.added", **place, "annotation_index": 0, "annotation": note}
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": 2, "item": message_whole}

    call = {"id": f"fc_{salt}", "type": "function_call", "call_id": f"call_{salt}", "name": "weather"}
    begun_call = {**call, "arguments": "", "status": "in_progress"}
    whole_call = {**call, "arguments": arguments, "status": "completed"}
    place = {"output_index": 3, "item_id": call["id"]}
    yield {"type": "response.output_item.added", "output_index": 3, "item": begun_call}
    for piece in pieces(arguments, size):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
    yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments}
    yield {"type": "response.output_item.done", "output_index": 3, "item": whole_call}
    output = [thought_whole, searched, message_whole, whole_call]
    yield {"type": "response.completed", "response": {**base, "status": "completed", "output": output, "usage": USAGE}}


WHOLE = generation("a")
EVERY_CUT = range(1, len(WHOLE))


def payloads(events: Iterable[Fields]) -> list[Json]:
    return [json.loads(event.data or "") for event in events]


def accumulated(events: Iterable[Fields]) -> Json:
    """What the SDK's accumulator ends with."""
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=omit, text_format=omit)
    for payload in payloads(events):
        found = state.handle_event(construct_type(type_=ResponseStreamEvent, value=payload))  # type: ignore[arg-type]
    assert found[-1].type == "response.completed"
    return found[-1].response.to_dict()


def repeated(head: Sequence[Fields], tail: Iterable[Fields]) -> Joined:
    found = join(fallbacks("replay"), DIALECT, REQUEST, head, tail)
    assert isinstance(found, Joined)
    return found


def deltas(events: Iterable[Fields]) -> dict[tuple[str, Any], str]:
    found: dict[tuple[str, Any], str] = {}
    for payload in payloads(events):
        if payload["type"].endswith(".delta"):
            key = payload["type"], payload["output_index"]
            found[key] = found.get(key, "") + payload["delta"]
    return found


def test_the_dialects_have_it() -> None:
    assert isinstance(named("openai_responses").speech, ResponsesSpeech)
    assert isinstance(named("perplexity_agent").speech, ResponsesSpeech)


def test_the_whole() -> None:
    answer = listen(SPEECH, WHOLE)
    assert sorted(answer.text(key) for key in answer.texts) == sorted([SUMMARY, TEXT, ARGUMENTS])
    assert {answer.kinds[key] for key in answer.texts} == {"thinking", "text", "tool"}
    assert answer.is_closed(MESSAGE)
    assert answer.is_closed(2)
    assert answer.usage == Usage(3, 9)
    assert answer.text(SPEECH.open_part(answer)) == TEXT
    assert answer.text(SPEECH.open_part(Answer())) == ""


@pytest.mark.parametrize("size", [1, 3, 5, 100])
@pytest.mark.parametrize("cut", EVERY_CUT)
def test_repeat_at_every_cut(cut: int, size: int) -> None:
    head = WHOLE[:cut]
    found = repeated(head, generation("b", size))
    assert not found.objection
    assert found.way.splice.joined
    assert [payload["sequence_number"] for payload in payloads(found.events)] == list(range(len(found.events)))
    assert deltas(found.events) == deltas(WHOLE)
    kinds = Counter(event.event for event in found.events if not (event.event or "").endswith(".delta"))
    assert kinds == Counter(event.event for event in WHOLE if not (event.event or "").endswith(".delta"))
    # What had begun keeps its names; what had not has those of the new generation, and no others.
    told = "".join(event.data or "" for event in found.tail)
    begun = {payload["item"]["id"] for payload in payloads(head) if "item" in payload}
    for prefix in ("rs", "ws", "msg", "fc"):
        assert f'"{prefix}_b"' not in told or f"{prefix}_a" not in begun
        assert f'"{prefix}_a"' not in told or f"{prefix}_a" in begun
    assert '"resp_b"' not in told
    assert '"call_b"' not in told or "fc_a" not in begun
    assert json.loads(json.dumps(accumulated(found.events)).replace('_b"', '_a"')) == accumulated(WHOLE)


@pytest.mark.parametrize("cut", EVERY_CUT)
def test_a_repeat_of_a_repeat(cut: int) -> None:
    first = repeated(WHOLE[:cut], generation("b", 2)[: cut + 20])
    second = repeated(first.events, generation("c", 3))
    assert not second.objection
    assert [payload["sequence_number"] for payload in payloads(second.events)] == list(range(len(second.events)))
    assert deltas(second.events) == deltas(WHOLE)
    accumulated(second.events)


@pytest.mark.parametrize("cut", EVERY_CUT)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_another_answer_is_none(cut: int, at: int) -> None:
    head = WHOLE[:cut]
    heard = listen(SPEECH, head)
    told = deltas(head)
    kind = ("response.reasoning_summary_text", "response.output_text", "response.function_call_arguments")[at]
    said_of_it = told.get((f"{kind}.delta", (0, 2, 3)[at]), "")
    whole = (SUMMARY, TEXT, ARGUMENTS)[at]
    borders = {0, len(said_of_it) - 1, len(said_of_it), len(whole) - 1}
    for position in range(len(whole)) if cut == EVERY_CUT[-1] else borders & set(range(len(whole))):
        texts = [SUMMARY, TEXT, ARGUMENTS]
        texts[at] = texts[at][:position] + "#" + texts[at][position + 1 :]
        found = repeated(head, generation("b", 4, texts))
        was_told = len(said_of_it) > position
        assert bool(found.objection) == was_told
        assert not (was_told and found.tail)
    assert heard.text_events == sum(".delta" in str(event.event) for event in head)


@pytest.mark.parametrize("cut", EVERY_CUT)
@pytest.mark.parametrize("texts", [(SUMMARY, TEXT[:-3], ARGUMENTS), (SUMMARY, TEXT + "!", ARGUMENTS)])
def test_a_shorter_or_longer_text_does_not_fit_one_that_was_complete(cut: int, texts: Sequence[str]) -> None:
    found = repeated(WHOLE[:cut], generation("b", 4, texts))
    told = deltas(WHOLE[:cut]).get(("response.output_text.delta", 2), "")
    is_complete = any(event.event == "response.output_text.done" for event in WHOLE[:cut])
    assert bool(found.objection) == (is_complete or len(told) > len(texts[1]))
    assert not (found.objection and found.tail)


def test_what_ends_too_early_does_not_fit() -> None:
    tail = generation("b")
    for left_out in ("response.output_item.done", "response.output_text.delta"):
        found = repeated(WHOLE[:-1], [event for event in tail if event.event != left_out])
        assert found.objection
        assert not found.tail


def test_another_item_does_not_fit() -> None:
    for old, new in (
        ('"web_search_call"', '"file_search_call"'),
        ('"query": "q"', '"query": "p"'),
        ('"weather"', '"time"'),
    ):
        tail = [event._replace(data=(event.data or "").replace(old, new)) for event in generation("b")]
        found = repeated(WHOLE[:-1], tail)
        assert found.objection
        assert not found.tail


def test_progress_of_an_item_that_is_done_and_a_queue_behind_the_start_are_not_told() -> None:
    tail = generation("b")
    queued = fields({"type": "response.queued", "response": {"id": "resp_b", "created_at": 1.0}})
    more = fields({"type": "response.web_search_call.in_progress", "output_index": 1, "item_id": "ws_b"})
    at = next(number for number, event in enumerate(tail) if event.event == "response.web_search_call.searching")
    cut = next(number for number, event in enumerate(WHOLE) if event.event == "response.output_text.delta") + 1
    found = repeated(WHOLE[:cut], [tail[0], queued, *tail[1:at], more, *tail[at:]])
    assert not found.objection
    assert {event.event for event in found.tail}.isdisjoint({queued.event, more.event})


def test_a_queue_before_anything_began_is_told_with_the_old_names() -> None:
    queued = fields({"type": "response.queued", "sequence_number": 7, "response": {"id": "resp_b", "created_at": 1.0}})
    (told,) = payloads(repeated(WHOLE[:1], [queued]).tail)
    old = {"id": "resp_a", "created_at": 1795000000.0}
    assert told == {"type": "response.queued", "sequence_number": 1, "response": old}


def test_events_without_numbers_get_none() -> None:
    plain = [fields(payload) for payload in without_numbers(WHOLE)]
    found = repeated(plain[:9], [fields(payload) for payload in without_numbers(generation("b"))])
    assert all("sequence_number" not in payload for payload in payloads(found.tail))
    assert accumulated(found.events)


def without_numbers(events: Iterable[Fields]) -> list[Json]:
    return [{name: value for name, value in each.items() if name != "sequence_number"} for each in payloads(events)]


def test_unknown_events_are_told_once_and_text_is_never_renamed() -> None:
    keepalive = fields({"type": "keepalive", "sequence_number": 1})
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "b", "delta": "b"}
    done = fields({"type": "response.audio.done", "sequence_number": 3})
    found = repeated(
        [fields({**delta, "item_id": "a"}, 0), keepalive], [fields(delta, 0), keepalive, fields(delta, 9), done, done]
    )
    assert payloads(found.tail)[0] == {**delta, "item_id": "a", "sequence_number": 2}
    assert [payload["sequence_number"] for payload in payloads(found.tail)] == [2, 3, 4]


def test_a_partial_image_is_compared() -> None:
    kind = "response.image_generation_call.partial_image"
    image: Json = {"type": kind, "output_index": 0, "item_id": "ig_a", "partial_image_index": 0}
    old = fields({**image, "partial_image_b64": "QUJD"})
    more = fields({**image, "partial_image_index": 1, "partial_image_b64": "REVG"})
    assert payloads(repeated([old], [old, more]).tail) == payloads([more])
    assert repeated([old], [fields({**image, "partial_image_b64": "WFla"}), more]).objection
    assert SPEECH.partial(listen(SPEECH, [old]))["output"][0]["partial_image_b64"] == "QUJD"


def test_usage() -> None:
    payload = payloads(WHOLE)[-1]
    assert SPEECH.usage(payload) == Usage(3, 9)
    SPEECH.set_usage(payload, Usage(6, None))
    told = payload["response"]["usage"]
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (6, 9, 15)
    SPEECH.set_usage({}, Usage(6, 9))
    assert SPEECH.usage({"response": {}}) is None


@pytest.mark.parametrize("can_continue", [None, True, False])
def test_there_is_no_way_to_go_on(can_continue: bool | None) -> None:
    head = [event for event in WHOLE if "output_text" in str(event.event)][:2]
    refusal = join(fallbacks("continue", can_continue=can_continue), DIALECT, REQUEST, head, [])
    assert isinstance(refusal, str)
    assert "background=True, or upgrade=True" in refusal
    with pytest.raises(NotImplementedError, match="no form of request"):
        SPEECH.say(Answer(), "x")
    with pytest.raises(NotImplementedError, match="no form of request"):
        SPEECH.finish(Answer(), "x")
    assert SPEECH.stops(REQUEST) == []


# What was said so far


def partial(events: Iterable[Fields]) -> Any:
    return partial_of(DIALECT, transcript_of(DIALECT.framing, events))


@pytest.mark.parametrize("cut", EVERY_CUT)
def test_what_was_said_at_every_cut(cut: int) -> None:
    head = WHOLE[:cut]
    found = partial(head)
    told = deltas(head)
    output = Response.construct(**found).output_text if found["output"] else ""
    assert output == told.get(("response.output_text.delta", 2), "")
    assert (found["id"], found["status"], found["created_at"]) == ("resp_a", "incomplete", 1795000000.0)
    calls = [item for item in found["output"] if item["type"] == "function_call"]
    arguments = told.get(("response.function_call_arguments.delta", 3))
    kinds = [event.event for event in head]
    if "response.function_call_arguments.done" in kinds:
        assert [(call["arguments"], call["status"]) for call in calls] == [(ARGUMENTS, "completed")]
        assert "incomplete_tool_calls" not in found
    else:
        assert not calls
        torn = [call for call in found.get("incomplete_tool_calls", []) if call["type"] == "function_call"]
        begun = payloads(head)[-1].get("output_index") == 3
        assert [call["arguments"] for call in torn] == ([arguments or ""] if begun else [])
    thoughts = "".join(part["text"] for item in found["output"] for part in item.get("summary", []))
    assert thoughts == told.get(("response.reasoning_summary_text.delta", 0), "")
    searching = [call["type"] for call in found.get("incomplete_tool_calls", [])].count("web_search_call")
    added = sum(payload.get("item", {}).get("type") == "web_search_call" for payload in payloads(head))
    assert searching == (added == 1)
    if "response.output_text.annotation.added" in kinds:
        message = next(item for item in found["output"] if item["type"] == "message")
        assert [len(part["annotations"]) for part in message["content"]] == [1]


def test_the_whole_is_what_was_told() -> None:
    assert partial(WHOLE) == payloads(WHOLE)[-1]["response"]
    assert partial([]) is None


def test_a_response_that_failed_keeps_what_was_said() -> None:
    end = fields({"type": "response.failed", "response": {"id": "resp_a", "status": "failed", "output": []}})
    cut = next(number for number, event in enumerate(WHOLE) if event.event == "response.output_text.done")
    found = partial([*WHOLE[:cut], end])
    assert found["status"] == "failed"
    assert found["output"][-1]["content"][0]["text"] == TEXT


def test_a_call_that_a_limit_cut_short_is_no_call() -> None:
    call = {"type": "function_call", "name": "f", "arguments": '{"a"', "status": "incomplete"}
    end = {"type": "response.incomplete", "response": {"id": "r", "status": "incomplete", "output": [call]}}
    found = partial([fields(end)])
    assert (found["output"], found["incomplete_tool_calls"]) == ([], [call])
    done = fields({"type": "response.output_item.done", "output_index": 0, "item": call})
    assert partial([done])["incomplete_tool_calls"] == [call]


def test_texts_of_which_nobody_told_that_they_began() -> None:
    def said_at(index: int | None, kind: str, **more: Any) -> Fields:
        place = {} if index is None else {"output_index": index}
        return fields({"type": f"response.{kind}", **place, **more})

    found = partial(
        [
            said_at(0, "output_text.delta", content_index=0, delta="Hi", item_id="msg_1"),
            said_at(0, "refusal.delta", content_index=1, delta="No"),
            said_at(1, "reasoning_text.delta", content_index=0, delta="Hm"),
            said_at(2, "reasoning_summary_text.done", summary_index=0, text="So"),
            said_at(3, "function_call_arguments.delta", delta="{"),
            said_at(4, "custom_tool_call_input.done", input="ls"),
            said_at(5, "code_interpreter_call_code.delta", delta="1+1"),
            said_at(6, "shell_call_command.delta", command_index=0, delta="l"),
            said_at(7, "reasoning.delta", delta="Aha"),
            said_at(8, "novelty"),
            said_at(None, "audio.delta", delta="AAAA"),
            said_at(None, "novelty.delta", delta="?"),
            said_at(None, "output_text.delta", delta=7),
            said_at(None, "output_item.done", item={"type": "novelty"}),
        ]
    )
    assert found["audio"] == "AAAA"
    assert found["novelty"] == "?"
    message, thoughts, summary, shell, more, novelty = found["output"]
    assert message["id"] == "msg_1"
    assert message["content"] == [
        {"type": "output_text", "annotations": [], "text": "Hi"},
        {"type": "refusal", "refusal": "No"},
    ]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert summary["summary"] == [{"type": "summary_text", "text": "So"}]
    assert summary["type"] == more["type"] == "reasoning"
    assert shell["shell_call_command.0"] == "l"
    assert more["reasoning"] == "Aha"
    assert novelty == {"type": "message", "role": "assistant", "content": [], "status": "incomplete"}
    calls = found["incomplete_tool_calls"]
    assert [(call["type"], call.get("arguments"), call.get("input"), call.get("code")) for call in calls] == [
        ("function_call", "{", None, None),
        ("custom_tool_call", None, "ls", None),  # of a call without a name nobody knows whether it is whole
        ("code_interpreter_call", None, None, "1+1"),
    ]


def test_what_stood_in_the_start_of_a_part_comes_first() -> None:
    item = {"id": "fc", "type": "function_call", "name": "f", "arguments": "{"}
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "}"},
        {"type": "response.content_part.added", "output_index": 1, "content_index": 0, "part": {"text": "He"}},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "llo"},
    ]
    found = partial(map(fields, events))
    assert found["incomplete_tool_calls"][0]["arguments"] == "{}"
    assert found["output"][0]["content"][0]["text"] == "Hello"


KINDS = sorted({str(event.event) for event in WHOLE} | {"error", "response.audio.delta", "response.failed", "x"})
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats() | st.sampled_from(["", "id", "function_call", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "type", "text", "x"]), inner),
    max_leaves=5,
)
NAMES = sorted({name for payload in payloads(WHOLE) for name in payload} - {"type"})


@given(
    events=st.lists(st.fixed_dictionaries({"type": st.sampled_from(KINDS) | JSON}, optional=dict.fromkeys(NAMES, JSON)))
)
def test_odd_events_are_heard_all_the_same(events: list[Json]) -> None:
    told = [Fields("x", json.dumps(payload), None, None) for payload in events]
    answer = listen(SPEECH, told)
    json.dumps(SPEECH.partial(answer))
    for event in told:
        payload = json.loads(event.data or "")
        for named_event, renamed in SPEECH.adopt(event, payload, answer):
            assert SPEECH.slots(named_event, renamed)
            if SPEECH.tidy(named_event, renamed, []):
                json.dumps(renamed)
