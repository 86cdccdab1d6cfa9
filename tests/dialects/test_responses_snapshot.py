"""The missing events of a finished response: added up, they are the same answer, wherever the stream broke off."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from resumable_llm.core.events import EventDecoder, encode_event, parse_block
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects._responses_snapshot import missing_events

Json = dict[str, Any]

REASONING: Json = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
TEXT: Json = {"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}
REFUSAL: Json = {"type": "refusal", "refusal": "No more"}
MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [TEXT, REFUSAL],
}
CALL: Json = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "c",
    "name": "f",
    "arguments": '{"a": 1}',
    "status": "completed",
}
RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1.0,
    "model": "m",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "status": "completed",
    "output": [REASONING, MESSAGE, CALL],
}


def stream() -> list[Json]:
    """The same response as the API streams it."""
    begun = {**RESPONSE, "status": "in_progress", "output": []}
    message = {"item_id": "msg_1", "output_index": 1}
    call = {"item_id": "fc_1", "output_index": 2}
    text, refusal = {**message, "content_index": 0}, {**message, "content_index": 1}
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**REASONING, "summary": []}},
        {"type": "response.output_item.done", "output_index": 0, "item": REASONING},
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": {**MESSAGE, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **text, "part": {**TEXT, "text": ""}},
        *(
            {"type": "response.output_text.delta", **text, "logprobs": [], "delta": each}
            for each in ("Hel", "lo", " there")
        ),
        {"type": "response.output_text.done", **text, "logprobs": [], "text": "Hello there"},
        {"type": "response.content_part.done", **text, "part": TEXT},
        {"type": "response.content_part.added", **refusal, "part": {**REFUSAL, "refusal": ""}},
        *({"type": "response.refusal.delta", **refusal, "delta": each} for each in ("No ", "more")),
        {"type": "response.refusal.done", **refusal, "refusal": "No more"},
        {"type": "response.content_part.done", **refusal, "part": REFUSAL},
        {"type": "response.output_item.done", "output_index": 1, "item": MESSAGE},
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {**CALL, "arguments": "", "status": "in_progress"},
        },
        *({"type": "response.function_call_arguments.delta", **call, "delta": each} for each in ('{"a"', ": 1}")),
        {"type": "response.function_call_arguments.done", **call, "name": "f", "arguments": '{"a": 1}'},
        {"type": "response.output_item.done", "output_index": 2, "item": CALL},
        {"type": "response.completed", "response": RESPONSE},
    ]
    return [{**each, "sequence_number": number} for number, each in enumerate(events)]


STREAM = stream()


def told(payloads: list[Json]) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for each in payloads:
        transcript.keep(encode_event(json.dumps(each), event=each["type"]), 1)
    return transcript


def completed(after: int, response: Json = RESPONSE) -> list[Json]:
    """The first events, and what is missing behind them."""
    blocks = missing_events(response, told(STREAM[:after]), after - 1 if after else None)
    assert blocks is not None
    events = EventDecoder().feed(b"".join(blocks))
    assert [each.event for each in events] == [json.loads(each.data)["type"] for each in events]
    return STREAM[:after] + [json.loads(each.data) for each in events]


CUTS = range(len(STREAM))


@pytest.mark.parametrize("after", CUTS)
class TestCutAtEveryEvent:
    def test_numbers_go_on(self, after: int) -> None:
        assert [each["sequence_number"] for each in completed(after)] == list(range(len(completed(after))))

    def test_texts_add_up(self, after: int) -> None:
        texts: dict[tuple[str, int, int | None], str] = defaultdict(str)
        for each in completed(after):
            if each["type"].endswith(".delta"):
                texts[each["type"], each["output_index"], each.get("content_index")] += each["delta"]
        assert texts == {
            ("response.output_text.delta", 1, 0): "Hello there",
            ("response.refusal.delta", 1, 1): "No more",
            ("response.function_call_arguments.delta", 2, None): '{"a": 1}',
        }

    def test_whatever_opens_is_closed_once(self, after: int) -> None:
        def places(kind: str) -> list[tuple[int, int | None]]:
            return [
                (each["output_index"], each.get("content_index")) for each in completed(after) if each["type"] == kind
            ]

        for kind, expected in (("output_item", [(0, None), (1, None), (2, None)]), ("content_part", [(1, 0), (1, 1)])):
            assert places(f"response.{kind}.added") == places(f"response.{kind}.done") == expected

    @pytest.mark.openai
    def test_the_sdks_own_accumulator_ends_with_the_same_object(self, after: int) -> None:
        pytest.importorskip("openai", reason="the openai SDK is not installed")
        assert accumulate(completed(after)) == accumulate(STREAM)


def accumulate(payloads: list[Json]) -> Any:
    from openai import omit
    from openai._models import construct_type
    from openai.lib.streaming.responses._responses import ResponseStreamState
    from openai.types.responses import ResponseStreamEvent

    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    snapshots: dict[str, str] = {}
    for payload in payloads:
        for event in state.handle_event(construct_type(type_=ResponseStreamEvent, value=payload)):  # type: ignore[arg-type]
            if event.type == "response.output_text.delta":
                snapshots["text"] = event.snapshot
            elif event.type == "response.function_call_arguments.delta":
                snapshots["arguments"] = event.snapshot
            last = event
    assert last.type == "response.completed"
    return snapshots, last.response.to_dict()


def test_of_what_nobody_saw() -> None:
    kinds = [each["type"] for each in completed(0)]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    (created,) = (each["response"] for each in completed(0) if each["type"] == "response.created")
    assert (created["status"], created["output"]) == ("in_progress", [])


@pytest.mark.parametrize("status", ["failed", "incomplete"])
def test_ends_as_the_response_did(status: str) -> None:
    assert completed(5, {**RESPONSE, "status": status})[-1]["type"] == f"response.{status}"


@pytest.mark.parametrize("output", [None, []])
def test_without_output(output: object) -> None:
    assert [each["type"] for each in completed(2, {**RESPONSE, "output": output})[2:]] == ["response.completed"]


@pytest.mark.parametrize(
    "output",
    [
        [REASONING, {**MESSAGE, "content": [{**TEXT, "text": "Good day"}]}, CALL],
        [REASONING, {**MESSAGE, "content": [{**TEXT, "text": "Hel"}]}, CALL],
    ],
)
def test_another_answer(output: list[Json]) -> None:
    assert missing_events({**RESPONSE, "output": output}, told(STREAM[:8]), 7) is None


def test_another_text_of_a_part_that_is_done() -> None:
    other = {**MESSAGE, "content": [{**TEXT, "text": "Good day"}, REFUSAL]}
    assert missing_events({**RESPONSE, "output": [REASONING, other, CALL]}, told(STREAM[:11]), 10) is None


def test_an_item_without_status_or_of_another_kind() -> None:
    other = {"id": "x", "type": "web_search_call"}
    blocks = missing_events({**RESPONSE, "output": [other, {**MESSAGE, "content": None}]}, told(STREAM[:2]), 1)
    assert blocks is not None
    added = json.loads(parse_block(blocks[0]).data or "")
    assert added["item"] == other


def test_fields_behind_names_only() -> None:
    """A server that leaves `type` out of the payload names the event."""
    transcript = Transcript(10**6, lambda: None)
    for each in STREAM[:8]:
        transcript.keep(encode_event(json.dumps({k: v for k, v in each.items() if k != "type"}), event=each["type"]), 1)
    blocks = missing_events(RESPONSE, transcript, 7)
    assert blocks is not None
    assert json.loads(parse_block(blocks[0]).data or "")["delta"] == " there"


@pytest.mark.parametrize("output", [7, ["x"], [{"type": "message", "content": ["x"]}]])
def test_a_response_of_another_shape_is_not_the_one(output: object) -> None:
    assert missing_events({**RESPONSE, "output": output}, told(STREAM[:2]), 1) is None


@pytest.mark.parametrize(
    "event",
    [
        {"type": "x.done", "output_index": []},
        {"type": "response.output_text.delta", "output_index": None, "content_index": 0, "delta": "H"},
        {"type": "response.output_text.delta", "output_index": 3, "content_index": 0, "delta": "H"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 2, "delta": "H"},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "H"},
    ],
    ids=["no place", "no item", "an item too many", "a part too many", "an item without parts"],
)
def test_events_that_have_no_place_in_the_response(event: Json) -> None:
    assert missing_events(RESPONSE, told([event]), 1) is None


def test_deltas_of_kinds_that_are_not_known_are_not_compared() -> None:
    delta = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Other"}
    blocks = missing_events(RESPONSE, told([*STREAM[:3], delta]), 3)
    assert blocks is not None
    assert parse_block(blocks[-1]).event == "response.completed"


def test_a_part_that_is_done_is_the_whole_of_it() -> None:
    place = {"output_index": 1, "content_index": 0}
    delta = {"type": "response.output_text.delta", **place, "delta": "Hello"}
    assert missing_events(RESPONSE, told([delta]), 1) is not None
    assert missing_events(RESPONSE, told([delta, {"type": "response.output_text.done", **place}]), 1) is None


def test_a_failed_response_may_have_forgotten_what_it_said() -> None:
    """vLLM keeps no output of those: what was delivered stays, and the failure is told."""
    failed = {**RESPONSE, "status": "failed", "output": [], "error": {"code": "server_error", "message": "x"}}
    transcript = Transcript(10**6, lambda: None)
    for number, payload in enumerate(stream()[:8]):
        transcript.keep(encode_event(json.dumps({**payload, "sequence_number": number}), event=payload["type"]), 1)
    (block,) = missing_events(failed, transcript, 7) or []
    assert json.loads(parse_block(block).data or "") == {
        "type": "response.failed",
        "response": failed,
        "sequence_number": 8,
    }
    assert missing_events({**failed, "status": "incomplete"}, transcript, 7) is None
