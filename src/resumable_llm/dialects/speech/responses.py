"""OpenAI Responses: what an event says, and how another generation is told under the names of the first.

Every generation has its own ids, of the response, of its items and calls, its own times, and numbers its events from 0.
The caller keeps those of the first: accumulators refuse a response whose id changes, or an item that ends as another
than it began as. So the response that a repeat completes goes by an id under which a server may know nothing to chain
another response to. There is no prefill: an assistant's message at the end of the input is followed by a new turn.
Sources: openai 3.54.0 (`types/responses/`, `lib/streaming/responses/_responses.py`), read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as counter
from typing import Any, NamedTuple

from resumable_llm.core.events import Fields
from resumable_llm.core.speech import MESSAGE, Answer, Kind, Payload, Says, Slot, Usage
from resumable_llm.dialects.event_stream import object_in
from resumable_llm.dialects.speech.common import count, objects_in
from resumable_llm.dialects.speech.repeat_only import RepeatOnly, index_in, learn, rename, says_more, text_in

_FIRSTS = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDS = frozenset({"response.completed", "response.failed", "response.incomplete"})
_COMPARED = frozenset({"delta", "done", "added"})
"""How the names of events end of which there is the same number in every generation; others tell of progress."""

_FIELDS: dict[str, tuple[str, str, Kind]] = {
    "response.output_text": ("content", "text", "text"),
    "response.refusal": ("content", "refusal", "refusal"),
    "response.reasoning_text": ("content", "text", "thinking"),
    "response.reasoning_summary_text": ("summary", "text", "thinking"),
    "response.function_call_arguments": ("arguments", "arguments", "tool"),
    "response.custom_tool_call_input": ("input", "input", "tool"),
    "response.mcp_call_arguments": ("arguments", "arguments", "tool"),
    "response.code_interpreter_call_code": ("code", "code", "tool"),
}
"""Where in an item the text of an event stands: in a list, or under a name; its own name there; what it is."""

_PARTS: dict[str, tuple[str, Kind]] = {
    "response.content_part": ("content", "text"),
    "response.reasoning_summary_part": ("summary", "thinking"),
}
_LISTS = ("content", "summary")
_DIRECT = ("arguments", "input", "code")
_BEGUN = ("type", "name", *_DIRECT)
_WHOLE = ("type", "name", "action", "queries", "operation", "output", "result")
"""What of an item is the same in every generation of the same answer, and not told of it elsewhere."""

_BY_THE_CALLER = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls that are whole as soon as what stands under this name is; others are the server's, and have a result."""


class _Part(NamedTuple):
    """A part of text. A group of its own, for it is complete before its item is."""

    item: int | None
    """The index of the item that it is part of."""
    place: str
    """A list in the item, or the name in it under which the text stands; otherwise what events call it."""
    numbers: tuple[int, ...] = ()
    """Where in the list."""


class ResponsesSpeech(RepeatOnly):
    """``POST …/responses``."""

    refusal = (
        "the Responses API has no form of request in which a model goes on from a partial answer, whatever the model; "
        "background=True, or upgrade=True, makes the server keep the answer"
    )

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """One of the event's own, and those of the whole texts in it."""
        kind = _type(event, payload)
        base, _, step = kind.rpartition(".")
        if step == "delta" and isinstance(payload.get("delta"), str):
            part, name, said = _place(base, payload)
            return [Slot((part, name), said, payload, "delta")]
        own = _own_slot(kind, step, payload)
        return [own, *_wholes(base, payload)] if step == "done" else [own]

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The response, its items and their parts as they were told, and the next number."""
        names, kind, index = answer.names, _type(event, payload), index_in(payload, "output_index")
        number = index_in(payload, "sequence_number")
        if number is not None:
            names["numbers"] = counter(number + 1)
        if kind in _FIRSTS or kind in _ENDS:
            names.setdefault("response", object_in(payload, "response"))
        if kind in _ENDS:
            names["final"] = object_in(payload, "response")
        if index is None:
            return
        items: dict[int, Payload] = names.setdefault("items", {})
        if object_in(payload, "item"):
            items[index] = object_in(payload, "item")
        item = items.setdefault(index, {})
        if "item_id" in payload:
            item.setdefault("id", payload["item_id"])
        if "partial_image_b64" in payload:
            item["partial_image_b64"] = payload["partial_image_b64"]
        base = kind.rpartition(".")[0]
        if base in _PARTS:
            part = _Part(index, _PARTS[base][0], _numbers(payload))
            names.setdefault("parts", {})[part] = object_in(payload, "part")
        if kind == "response.output_text.annotation.added":
            part = _Part(index, "content", (index_in(payload, "content_index") or 0,))
            names.setdefault("annotations", {}).setdefault(part, []).append(payload.get("annotation"))

    def usage(self, payload: Payload) -> Usage | None:
        """In the response that ends it."""
        found = object_in(object_in(payload, "response"), "usage")
        return Usage(count(found, "input_tokens"), count(found, "output_tokens")) if found else None

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With the total."""
        found = object_in(object_in(payload, "response"), "usage")
        for name, tokens in (("input_tokens", usage.input), ("output_tokens", usage.output)):
            if tokens is not None and name in found:
                found[name] = tokens
        if "total_tokens" in found:
            found["total_tokens"] = (count(found, "input_tokens") or 0) + (count(found, "output_tokens") or 0)

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """The ids that the caller knows, found by the items' indexes. What came before the first item came once."""
        names, kind = answer.names, _type(event, payload)
        _learn_names(payload, names)
        if kind in _FIRSTS and "response" in names and (kind == "response.created" or names.get("items")):
            return []
        if kind.rpartition(".")[2] not in _COMPARED and index_in(payload, "output_index") in answer.closed:
            return []
        rename(payload, names.get("renamed", {}))
        response = object_in(payload, "response")
        if "created_at" in response and "created_at" in names.get("response", ()):
            response["created_at"] = names["response"]["created_at"]
        if "sequence_number" in payload and "numbers" in names:
            payload["sequence_number"] = names["numbers"]  # `tidy` draws the next one, if the event is delivered
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """All of an event or nothing, for it says one thing. What is delivered gets its number."""
        if not says_more(self.slots(event, payload), spent):
            return False
        if isinstance(payload.get("sequence_number"), counter):
            payload["sequence_number"] = next(payload["sequence_number"])
        return True

    def partial(self, answer: Answer) -> Any:
        """A ``Response``."""
        names = answer.names
        final: Payload = names.get("final", {})
        told = [(item, _is_whole(item)) for item in objects_in(final, "output")]
        items = told or [_partial_item(answer, index) for index in sorted(names.get("items", ()))]
        incomplete = [item for item, is_whole in items if not is_whole]
        return {
            **_beside_the_lists(_parts(answer, None)),
            "object": "response",
            **(final or names.get("response", {})),
            "status": final.get("status") or "incomplete",
            "output": [item for item, is_whole in items if is_whole],
            **({"incomplete_tool_calls": incomplete} if incomplete else {}),
        }


def _type(event: Fields, payload: Payload) -> str:
    return str(payload.get("type") or event.event or "")


def _numbers(payload: Payload) -> tuple[int, ...]:
    """The indexes of an event below that of its item."""
    names = sorted(name for name in payload if name.endswith("_index") and name != "output_index")
    return tuple(payload[name] for name in names if index_in(payload, name) is not None)


# What an event says


def _place(base: str, payload: Payload) -> tuple[_Part, str, Kind]:
    """The part that a text belongs to, its name there, and what it is."""
    place, name, kind = _FIELDS.get(base) or (base, "delta", _kind_by_name(base))
    return _Part(index_in(payload, "output_index"), place, _numbers(payload)), name, kind


def _kind_by_name(base: str) -> Kind:
    if "reasoning" in base:
        return "thinking"
    return "audio" if "audio" in base else "tool" if "_call" in base else "other"


def _own_slot(kind: str, step: str, payload: Payload) -> Slot:
    if kind in _ENDS:
        return Slot((MESSAGE, "end"), "text", {"type": kind}, "type", Says.NAMES, closes=True)
    index = index_in(payload, "output_index")
    key = (index, kind, *_numbers(payload))
    item, part = object_in(payload, "item"), object_in(payload, "part")
    if item:
        said = _only(item, _WHOLE if step == "done" else _BEGUN)
        closes = step == "done" and index is not None
        return Slot(key, _kind_of(item), {"item": said}, "item", Says.SETTLES, closes=closes)
    if part and step == "added":
        return Slot(key, "text", {"part": _only(part, ("type", "text", "refusal"))}, "part", Says.SETTLES)
    if "partial_image_b64" in payload:
        return Slot(key, "image", payload, "partial_image_b64", Says.SETTLES)
    return Slot(key, "text", {"type": kind}, "type", Says.NAMES)


def _only(payload: Payload, names: tuple[str, ...]) -> Payload:
    return {name: payload[name] for name in names if name in payload}


def _kind_of(item: Payload) -> Kind:
    kind = str(item.get("type"))
    kinds: dict[str, Kind] = {"message": "text", "reasoning": "thinking", "image_generation_call": "image"}
    return kinds.get(kind) or ("tool" if _is_call(item) else "other")


def _is_call(item: Payload) -> bool:
    return str(item.get("type")).endswith(("_call", "_request"))


def _wholes(base: str, payload: Payload) -> Iterator[Slot]:
    """The texts in an event that tells them once more when they are complete."""
    index = index_in(payload, "output_index")
    if base in _FIELDS:
        part, name, kind = _place(base, payload)
        yield from _whole(part, kind, payload, name)
    elif base in _PARTS:
        place, kind = _PARTS[base]
        yield from _whole_part(_Part(index, place, _numbers(payload)), kind, object_in(payload, "part"))
    elif base == "response.output_item":
        item = object_in(payload, "item")
        for place in _LISTS:
            for number, part_of_it in enumerate(objects_in(item, place)):
                yield from _whole_part(_Part(index, place, (number,)), _kind_of(item), part_of_it)
        for name in _DIRECT:
            yield from _whole(_Part(index, name), "tool", item, name)


def _whole_part(part: _Part, kind: Kind, holder: Payload) -> Iterator[Slot]:
    yield from _whole(part, kind, holder, "text")
    yield from _whole(part, "refusal", holder, "refusal")


def _whole(part: _Part, kind: Kind, holder: Payload, name: str) -> Iterator[Slot]:
    if isinstance(holder.get(name), str):
        yield Slot((part, name, "whole"), kind, holder, name, Says.SETTLES, closes=True)


# Under what names


def _learn_names(payload: Payload, names: Payload) -> None:
    """What ids of another generation stand for those of this one."""
    renamed: dict[str, str] = names.setdefault("renamed", {})
    learn(renamed, object_in(payload, "response").get("id"), names.get("response", {}).get("id"))
    old = names.get("items", {}).get(index_in(payload, "output_index"), {})
    learn(renamed, payload.get("item_id"), old.get("id"))
    for name in ("id", "call_id"):
        learn(renamed, object_in(payload, "item").get(name), old.get(name))


# What was said so far


def _partial_item(answer: Answer, index: int) -> tuple[Payload, bool]:
    """An item, and whether it may stand as it is: a call must be whole."""
    item: Payload = answer.names["items"][index]
    if index in answer.closed:
        return item, _is_whole(item)
    parts = _parts(answer, index)
    found = {"type": _guess(answer, parts), **item, **_beside_the_lists(parts)}
    for place in _LISTS:
        in_place = [parts[part] for part in sorted(parts) if part.place == place]
        if in_place:
            found[place] = in_place
    name = _BY_THE_CALLER.get(str(found["type"]), "")
    if "name" in found and (_Part(index, name), name, "whole") in answer.marks:
        return {**found, "status": "completed"}, True
    if found["type"] == "message":
        found = {"role": "assistant", "content": [], **found}
    return {**found, "status": "incomplete"}, not _is_call(found)


def _is_whole(item: Payload) -> bool:
    return not _is_call(item) or item.get("status") not in ("incomplete", "in_progress")


def _guess(answer: Answer, parts: dict[_Part, Payload]) -> str:
    """What an item is of which nobody told that it began."""
    kinds = {"arguments": "function_call", "input": "custom_tool_call", "code": "code_interpreter_call"}
    found = next((kinds[part.place] for part in parts if part.place in kinds), None)
    thinks = any(kind == "thinking" for key, kind in answer.kinds.items() if key[0] in parts)
    return found or ("reasoning" if thinks else "message")


def _parts(answer: Answer, index: int | None) -> dict[_Part, Payload]:
    """The parts of an item, or of none, each with its text as far as it has come."""
    told: dict[_Part, Payload] = answer.names.get("parts", {})
    found = {part: dict(begun) for part, begun in told.items() if part.item == index}
    item = answer.names.get("items", {}).get(index, {})
    for key in (*answer.texts, *answer.marks):
        part = key[0]
        if isinstance(part, _Part) and part.item == index:
            name = str(key[1])
            begun = found.setdefault(part, _empty(part, name, answer.kinds[key]))
            if (part, name, "whole") in answer.marks:
                begun[name] = answer.marks[part, name, "whole"]
            else:
                before = text_in(item if part.place in _DIRECT else told.get(part, {}), name)
                begun[name] = before + answer.text((part, name))
    for part, notes in answer.names.get("annotations", {}).items():
        if part in found:
            found[part]["annotations"] = found[part].get("annotations") or notes
    return found


def _empty(part: _Part, name: str, kind: Kind) -> Payload:
    """A part of which nobody told that it began."""
    if part.place not in _LISTS:
        return {}
    if part.place == "summary":
        return {"type": "summary_text"}
    if kind == "thinking" or name == "refusal":
        return {"type": "reasoning_text" if kind == "thinking" else "refusal"}
    return {"type": "output_text", "annotations": []}


def _beside_the_lists(parts: dict[_Part, Payload]) -> Payload:
    """The texts that stand in an item itself, under their own names or, if nobody knows them, those of their events."""
    return {
        ".".join([part.place.removeprefix("response."), *map(str, part.numbers)]): text
        for part, texts in parts.items()
        if part.place not in _LISTS
        for text in texts.values()
    }
