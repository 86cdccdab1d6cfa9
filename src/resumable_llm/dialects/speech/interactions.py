"""Gemini Interactions: what an event says, and how another interaction is told under the names of the first.

Text, thoughts and arguments come in deltas; all else comes whole, and is compared as a whole. Of two things of one kind
in one step only the first is known, so that an answer with several pictures in a step is not recognised when it is told
again.
Sources: google-genai 3.4.0 (`_gaos/types/interactions/`), read 2026-11-22.
"""

from __future__ import annotations

import json
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.speech import MESSAGE, Answer, Kind, Payload, Says, Slot, Usage
from resumable_llm.dialects.event_stream import object_in
from resumable_llm.dialects.speech.common import count, objects_in
from resumable_llm.dialects.speech.repeat_only import RepeatOnly, index_in, learn, rename, says_more, text_in

# The names up to May 2026 were interaction.start, interaction.complete and content.*.
_FIRSTS = frozenset({"interaction.created", "interaction.start"})
_ENDS = frozenset({"interaction.completed", "interaction.complete"})
_PARTS = {"step": "steps", "content": "outputs"}
"""What the events of a part of the interaction are called, and the list that it stands in."""

_NAMES = ("id", "call_id", "signature")
_KINDS: dict[str, Kind] = {
    "model_output": "text",
    "text": "text",
    "thought": "thinking",
    "audio": "audio",
    "image": "image",
    "text_annotation_delta": "text",
}


class InteractionsSpeech(RepeatOnly):
    """``POST …/interactions``."""

    refusal = (
        "the Interactions API has no form of request in which a model goes on from a partial answer, whatever the "
        "model; background=True, or upgrade=True, makes Google keep the interaction"
    )

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """One: an event says one thing."""
        kind, index = _type(event, payload), index_in(payload, "index")
        noun, _, step = kind.rpartition(".")
        if kind in _ENDS:
            return [Slot((MESSAGE, "end"), "text", {"type": kind}, "type", Says.NAMES, closes=True)]
        if noun not in _PARTS:
            status = str(payload.get("status", ""))
            return [Slot((noun, kind, status), "text", {"type": kind}, "type", Says.NAMES)]
        if step == "delta":
            return [_delta_slot(index, object_in(payload, "delta"))]
        begun = object_in(payload, noun)
        said = {"said": [kind, _without_names(begun)]}
        return [Slot((index, step), _kind_of(begun), said, "said", Says.SETTLES, step == "stop" and index is not None)]

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The interaction, and its steps as they were told."""
        names, kind, index = answer.names, _type(event, payload), index_in(payload, "index")
        noun, _, step = kind.rpartition(".")
        if kind in _FIRSTS or kind in _ENDS:
            names["interaction"] = {**names.get("interaction", {}), **object_in(payload, "interaction")}
            names["has_ended"] = kind in _ENDS
        if noun in _PARTS and index is not None:
            names["list"] = _PARTS[noun]
            begun, deltas = names.setdefault("steps", {}).setdefault(index, ({}, []))
            if step == "delta":
                deltas.append(object_in(payload, "delta"))
            else:
                begun.update(object_in(payload, noun))

    def usage(self, payload: Payload) -> Usage | None:
        """With the thoughts, which are billed as what is said."""
        found = object_in(object_in(payload, "interaction"), "usage")
        if not found:
            return None
        return Usage(count(found, "total_input_tokens"), count(found, "total_output_tokens", "total_thought_tokens"))

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With the total."""
        found = object_in(object_in(payload, "interaction"), "usage")
        told = self.usage(payload)
        if told is None:
            return
        read = 0 if usage.input is None else usage.input - (told.input or 0)
        said = 0 if usage.output is None else usage.output - (told.output or 0)
        more = {"total_input_tokens": read, "total_output_tokens": said, "total_tokens": read + said}
        for name, tokens in more.items():
            if count(found, name) is not None:
                found[name] += tokens

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """The ids that the caller knows. An ``event_id`` is of no use with those: there is nothing behind it."""
        names, interaction = answer.names, object_in(payload, "interaction")
        old = names.get("interaction", {})
        renamed: dict[str, str] = names.setdefault("renamed", {})
        learn(renamed, interaction.get("id"), old.get("id"))
        learn(renamed, payload.get("interaction_id"), old.get("id"))
        begun, deltas = names.get("steps", {}).get(index_in(payload, "index"), ({}, []))
        for part in (object_in(payload, "step"), object_in(payload, "content"), object_in(payload, "delta")):
            for name in ("id", "call_id"):
                known = next((each[name] for each in (begun, *deltas) if name in each), None)
                learn(renamed, part.get(name), known)
        if _type(event, payload) in _FIRSTS and old:
            return []
        rename(payload, renamed)
        payload.pop("event_id", None)
        if "created" in interaction and "created" in old:
            interaction["created"] = old["created"]
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """All of an event or nothing."""
        return says_more(self.slots(event, payload), spent)

    def partial(self, answer: Answer) -> Any:
        """An ``Interaction``."""
        names = answer.names
        told: Payload = names.get("interaction", {})
        place = names.get("list", "steps")
        parts: list[Payload] = []
        incomplete: list[Payload] = []
        for index, (begun, deltas) in sorted(names.get("steps", {}).items()):
            part = _put_together(begun, deltas)
            is_torn = str(part.get("type")).endswith("_call") and index not in answer.closed
            (incomplete if is_torn else parts).append(part)
        status = told.get("status") if names.get("has_ended") else None
        found = {**told, "status": status or "incomplete", place: objects_in(told, place) or parts}
        return {**found, "incomplete_tool_calls": incomplete} if incomplete else found


def _type(event: Fields, payload: Payload) -> str:
    return str(payload.get("event_type") or event.event or "")


def _kind_of(part: Payload) -> Kind:
    kind = str(part.get("type", "text"))
    return _KINDS.get(kind) or ("tool" if kind.endswith(("_call", "_result")) else "other")


def _without_names(part: Payload) -> Payload:
    return {name: value for name, value in part.items() if name not in _NAMES}


def _delta_slot(index: int | None, delta: Payload) -> Slot:
    kind = _delta_type(delta)
    content = object_in(delta, "content")
    if kind == "text" and isinstance(delta.get("text"), str):
        return Slot((index, "text"), "text", delta, "text")
    if kind == "thought_summary" and isinstance(content.get("text"), str):
        return Slot((index, "thought"), "thinking", content, "text")
    if kind == "arguments_delta" and isinstance(delta.get("arguments"), str):
        return Slot((index, "arguments"), "tool", delta, "arguments")
    if kind == "thought_signature":
        return Slot((index, kind), "thinking", {"type": kind}, "type", Says.NAMES)
    return Slot((index, "whole", kind), _kind_of(delta), {"delta": _without_names(delta)}, "delta", Says.SETTLES)


def _delta_type(delta: Payload) -> str:
    return str(delta.get("type", "text"))


# What was said so far


def _put_together(begun: Payload, deltas: list[Payload]) -> Payload:
    """A step, or what was a content of its own before there were steps."""
    kind = str(begun.get("type") or _guess(deltas))
    if kind == "model_output":
        return {**begun, "type": kind, "content": _contents(objects_in(begun, "content"), deltas)}
    if kind == "thought":
        return {**begun, "type": kind, **_thought(begun, deltas)}
    found = {**begun, "type": kind}
    for delta in deltas:
        name = {"text": "text", "arguments_delta": "arguments"}.get(_delta_type(delta), "")
        if name and isinstance(delta.get(name), str):
            found[name] = text_in(found, name) + delta[name]
        else:
            found.update({key: value for key, value in delta.items() if key != "type"})
    if kind == "function_call":
        found["arguments"] = _read(found.get("arguments"))
    return found


def _read(arguments: object) -> object:
    """The arguments of a call as JSON; as they are while they are not that yet."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments


def _guess(deltas: list[Payload]) -> str:
    """What a step is of which nobody told that it began."""
    first = _delta_type(deltas[0]) if deltas else "text"
    known = {"arguments_delta": "function_call", "thought_summary": "thought", "thought_signature": "thought"}
    return known.get(first) or (first if first.endswith(("_call", "_result")) else "model_output")


def _thought(begun: Payload, deltas: list[Payload]) -> Payload:
    summaries = [object_in(delta, "content") for delta in deltas if _delta_type(delta) == "thought_summary"]
    found: Payload = {"summary": _contents(objects_in(begun, "summary"), summaries)}
    signatures = [delta["signature"] for delta in deltas if "signature" in delta]
    return {**found, "signature": signatures[-1]} if signatures else found


def _contents(begun: list[Payload], deltas: list[Payload]) -> list[Payload]:
    """Texts in a row are one; what annotates a text stands in it."""
    found = [dict(content) for content in begun]
    for delta in deltas:
        kind = _delta_type(delta)
        last = found[-1] if found and _delta_type(found[-1]) == "text" else None
        if kind == "text_annotation_delta" and last is not None:
            last["annotations"] = [*objects_in(last, "annotations"), *objects_in(delta, "annotations")]
        elif kind == "text" and last is not None:
            last["text"] = text_in(last, "text") + text_in(delta, "text")
        else:
            found.append(dict(delta))
    return found
