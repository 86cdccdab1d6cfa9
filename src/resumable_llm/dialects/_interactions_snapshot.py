"""From a finished Gemini interaction back to the events that somebody who saw only the first of them is missing.

The events follow the order in which the API sends them, so that whoever puts steps together from deltas ends with the
same steps. Pure; used by `gemini_interactions` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from resumable_llm.core.events import encode_event
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import json_object, object_in

Json = dict[str, Any]

_RESOURCE = frozenset(
    {
        *("id", "status", "object", "model", "agent", "created", "updated", "service_tier"),
        *("usage", "continuation_token", "errors"),
    }
)
"""What the last event tells of an interaction: not its steps, which came before, nor what it was asked."""

_IDENTITY = ("type", "id", "call_id", "name", "server_name")
"""What the start of a step tells of it; the rest comes in deltas."""


class _Differs(Exception):
    """The finished interaction does not begin with what was delivered."""


class _Seen:
    """What was delivered of each step."""

    def __init__(self, transcript: Transcript) -> None:
        self.created = False
        self.named = True
        """The events have names outside their JSON."""
        self.types: dict[int, str] = {}
        self.deltas: dict[int, list[Json]] = {}
        self.stopped: set[int] = set()
        for number, event in enumerate(transcript):
            payload = json_object(event.data)
            kind, index = str(payload.get("event_type")), payload.get("index")
            if kind == "interaction.start" or kind.startswith("content."):
                raise _Differs  # the protocol before steps, whose interactions look different too
            self.created = self.created or kind == "interaction.created"
            self.named = event.event is not None if number == 0 else self.named
            if not isinstance(index, int):
                continue
            if kind == "step.start":
                self.types[index] = str(object_in(payload, "step").get("type"))
            elif kind == "step.delta":
                self.deltas.setdefault(index, []).append(object_in(payload, "delta"))
            elif kind == "step.stop":
                self.stopped.add(index)


def missing_events(interaction: Json, transcript: Transcript, *, only_end: bool = False) -> list[bytes] | None:
    """Write the missing events.

    Args:
        interaction: The finished interaction.
        transcript: What was delivered.
        only_end: No more than that it has ended.

    Returns:
        The events, ``[DONE]`` last; None if what was delivered is not of this interaction.
    """
    try:
        seen = _Seen(transcript)
        events = [*([] if only_end else _missing(interaction, seen)), _completed(interaction)]
    except (_Differs, AttributeError, KeyError, TypeError):  # or not of the shape of an interaction at all
        return None
    blocks = [_block(payload["event_type"], _json(payload), seen) for payload in events]
    return [*blocks, _block("done", "[DONE]", seen)]


def _missing(interaction: Json, seen: _Seen) -> Iterator[Json]:
    if not seen.created:
        begun = {**_resource(interaction), "status": "in_progress"}
        begun.pop("usage", None)
        yield {"event_type": "interaction.created", "interaction": begun}
    steps = list(interaction["steps"])
    while steps and steps[0]["type"] == "user_input" and seen.types.get(0) != "user_input":
        del steps[0]  # the question is no part of the stream
    if any(index >= len(steps) for index in (*seen.types, *seen.deltas)):
        raise _Differs
    for index, step in enumerate(steps):
        deltas = list(_deltas(step, seen.deltas.get(index, [])))
        if seen.types.get(index, step["type"]) != step["type"]:
            raise _Differs
        if index in seen.stopped:
            if any(_is_answer(delta, step) for delta in deltas):
                raise _Differs
            continue
        if index not in seen.types:
            yield {"event_type": "step.start", "step": _begun(step), "index": index}
        for delta in deltas:
            yield {"event_type": "step.delta", "delta": delta, "index": index}
        yield {"event_type": "step.stop", "index": index}


def _is_answer(delta: Json, step: Json) -> bool:
    """Whether a step cannot have been whole without this, which a stream may leave out otherwise."""
    beside = ("thought_signature", "text_annotation_delta", step["type"])
    return delta["type"] not in beside and delta.get("arguments") != "{}"


def _begun(step: Json) -> Json:
    begun = {name: step[name] for name in _IDENTITY if name in step}
    return {**begun, "arguments": {}} if step["type"] == "function_call" else begun


def _completed(interaction: Json) -> Json:
    return {"event_type": "interaction.completed", "interaction": _resource(interaction)}


def _resource(interaction: Json) -> Json:
    return {name: value for name, value in interaction.items() if name in _RESOURCE}


# What is missing of one step, by its type


def _deltas(step: Json, seen: list[Json]) -> Iterator[Json]:
    if step["type"] == "model_output":
        yield from _rest_of_content(_pieces(step.get("content") or []), _pieces(seen))
    elif step["type"] == "thought":
        summaries = [delta["content"] for delta in seen if delta.get("type") == "thought_summary"]
        for piece in _rest_of_content(_pieces(step.get("summary") or []), _pieces(summaries)):
            yield {"type": "thought_summary", "content": piece}
        if step.get("signature") and not any(delta.get("type") == "thought_signature" for delta in seen):
            yield {"type": "thought_signature", "signature": step["signature"]}
    elif step["type"] == "function_call":
        rest = _rest_of_arguments(step["arguments"], "".join(delta["arguments"] for delta in seen))
        if rest:
            yield {"type": "arguments_delta", "arguments": rest}
    else:
        yield from _rest_of_fields(step, seen)


def _pieces(contents: Iterable[Json]) -> list[Json]:
    """Contents as they come in deltas: text, what annotates it, and everything else whole.

    Texts in a row are one, for where one delta ends and the next begins says nothing.
    """
    pieces: list[Json] = []
    for content in contents:
        if content.get("type", "text") == "text":
            if pieces and pieces[-1]["type"] == "text":
                pieces[-1] = {**pieces[-1], "text": pieces[-1]["text"] + content["text"]}
            else:
                pieces.append({"type": "text", "text": content["text"]})
            if content.get("annotations"):
                pieces.append({"type": "text_annotation_delta", "annotations": content["annotations"]})
        else:
            pieces.append(content)
    return pieces


def _rest_of_content(whole: list[Json], seen: list[Json]) -> list[Json]:
    if not seen:
        return whole
    *before, last = seen
    at = len(before)
    if before != whole[:at] or at >= len(whole):
        raise _Differs
    if last["type"] == whole[at]["type"] == "text" and whole[at]["text"].startswith(last["text"]):
        rest = whole[at]["text"][len(last["text"]) :]
        return [*([{"type": "text", "text": rest}] if rest else []), *whole[at + 1 :]]
    if last != whole[at]:
        raise _Differs
    return whole[at + 1 :]


def _rest_of_arguments(arguments: Json, seen: str) -> str:
    if json_object(seen or None) == arguments and seen.rstrip().endswith("}"):
        return ""
    for separators in ((",", ":"), (", ", ": ")):
        for ensure_ascii in (False, True):
            whole = json.dumps(arguments, separators=separators, ensure_ascii=ensure_ascii)
            if whole.startswith(seen):
                return whole[len(seen) :]
    raise _Differs


def _rest_of_fields(step: Json, seen: list[Json]) -> Iterator[Json]:
    """For the tools of the server: a delta has the name of the step, and fields of the step, each of them whole."""
    told = {name: value for delta in seen for name, value in delta.items()}
    whole = {name: value for name, value in step.items() if name not in _IDENTITY[1:]}
    if any(name in whole and whole[name] != value for name, value in told.items()):
        raise _Differs
    rest = {name: value for name, value in whole.items() if name not in told}
    if set(rest) - {"type"}:
        yield {**rest, "type": step["type"]}


def _block(name: str, data: str, seen: _Seen) -> bytes:
    return encode_event(data, event=name if seen.named else None)


def _json(payload: Json) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
