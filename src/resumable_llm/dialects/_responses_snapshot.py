"""From a finished OpenAI response back to the events that somebody who saw only the first of them is missing.

The events follow the order in which the API sends them, so that an SDK's accumulator ends with the same object. Pure;
used by `openai_responses` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from resumable_llm.core.events import encode_event
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import json_object

Json = dict[str, Any]


class _Seen:
    """What was delivered of each item and part."""

    def __init__(self, transcript: Transcript) -> None:
        self.done: set[tuple[str, Any, Any]] = set()
        self.texts: dict[tuple[str, Any, Any], str] = {}
        for event in transcript:
            payload = json_object(event.data)
            kind = str(payload.get("type") or event.event)
            part = payload.get("content_index", payload.get("summary_index"))
            place = payload.get("output_index"), part
            if kind.endswith(".delta"):
                base = kind.removesuffix(".delta")
                key = (base, *place)
                self.texts[key] = self.texts.get(key, "") + str(payload.get("delta", ""))
            else:
                self.done.add((kind, *place))


class _Differs(Exception):
    """The finished answer does not begin with what was delivered."""


def missing_events(response: Json, transcript: Transcript, last_sequence: int | None) -> list[bytes] | None:
    """Write the missing events.

    Args:
        response: The finished response.
        transcript: What was delivered.
        last_sequence: The last event's number.

    Returns:
        The events, numbered on from the last, the terminal event last; None if what was delivered is not of this
        response.
    """
    number = -1 if last_sequence is None else last_sequence
    blocks = []
    try:
        for payload in _missing(response, _Seen(transcript)):
            number += 1
            text = json.dumps({**payload, "sequence_number": number}, separators=(",", ":"), ensure_ascii=False)
            blocks.append(encode_event(text, event=payload["type"]))
    except (_Differs, AttributeError, IndexError, KeyError, TypeError):  # or not of the shape of a response at all
        return None
    return blocks


_NAMES = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.function_call_arguments": "arguments",
}


def _verify(response: Json, seen: _Seen) -> None:
    """See that every text that was delivered is the beginning of one in the finished answer."""
    output = response.get("output") or []
    if response["status"] == "failed" and not output:
        return  # some servers keep nothing of what was said before the failure
    for (base, index, part), before in seen.texts.items():
        name = _NAMES.get(base)
        if name is None:
            continue
        if not isinstance(index, int) or index >= len(output):
            raise _Differs
        found = output[index] if part is None else output[index]["content"][part]
        text = str(found.get(name) or "")
        done = (f"{base}.done", index, part) in seen.done
        if not text.startswith(before) or (done and before and text != before):
            raise _Differs


def _missing(response: Json, seen: _Seen) -> Iterator[Json]:
    _verify(response, seen)
    if not seen.done:
        yield {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}}
    for index, item in enumerate(response.get("output") or []):
        place = {"output_index": index, "item_id": item.get("id")}
        if ("response.output_item.done", index, None) in seen.done:
            continue
        if ("response.output_item.added", index, None) not in seen.done:
            yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
        if item.get("type") == "message":
            for number, part in enumerate(item.get("content") or []):
                yield from _part(seen, part, {**place, "content_index": number})
        elif item.get("type") == "function_call":
            yield from _text(seen, "response.function_call_arguments", "arguments", item.get("arguments"), place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def _part(seen: _Seen, part: Json, place: Json) -> Iterator[Json]:
    key = place["output_index"], place["content_index"]
    if ("response.content_part.done", *key) in seen.done:
        return
    name, base = ("refusal", "response.refusal") if part.get("type") == "refusal" else ("text", "response.output_text")
    if ("response.content_part.added", *key) not in seen.done:
        yield {"type": "response.content_part.added", **place, "part": {**part, name: ""}}
    yield from _text(seen, base, name, part.get(name), place)
    yield {"type": "response.content_part.done", **place, "part": part}


def _text(seen: _Seen, base: str, name: str, whole: object, place: Json) -> Iterator[Json]:
    key = base, place["output_index"], place.get("content_index")
    text, before = str(whole or ""), seen.texts.get(key, "")
    if (f"{base}.done", *key[1:]) in seen.done:
        return
    logprobs: Json = {"logprobs": []} if base == "response.output_text" else {}
    if len(text) > len(before):
        yield {"type": f"{base}.delta", **place, **logprobs, "delta": text[len(before) :]}
    yield {"type": f"{base}.done", **place, **logprobs, name: text}


def _begun(item: Json) -> Json:
    begun = dict(item)
    if item.get("type") == "message":
        begun["content"] = []
    elif item.get("type") == "function_call":
        begun["arguments"] = ""
    if "status" in item:
        begun["status"] = "in_progress"
    return begun
