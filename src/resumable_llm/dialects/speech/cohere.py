"""Cohere's chat, version 2: what an event says, and how a model might be asked to go on.

Nothing is known of what its models make of a partial answer. A caller who knows better has it sent as the last
message, of the assistant.
Sources: cohere 7.3.1 (`v2/types/v2chat_stream_response.py`, `v2/types/v2chat_response.py`); read 2026-11-22.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import MESSAGE, Answer, Ask, Key, Kind, Payload, Says, Slot, Usage
from resumable_llm.dialects.event_stream import json_object, object_in
from resumable_llm.dialects.speech.common import event_of, number_of, objects_in, reduced, strings_in
from resumable_llm.dialects.speech.prefill import OVERRIDE, why_not

_BLOCKS: dict[str, Kind] = {"content": "text", "tool-call": "tool", "citation": "other"}
_CONTENT: tuple[tuple[str, Kind], ...] = (("thinking", "thinking"), ("text", "text"))
_PLAN: Key = ("plan", "plan")


class CohereSpeech:
    """``POST …/v2/chat``."""

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """Blocks of content, the plan, tool calls, citations, the end."""
        return list(_slots(payload))

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The id, whether events have names here, and the usage as it was told."""
        answer.names.setdefault("is_named", event.event is not None)
        if payload.get("type") == "message-start":
            answer.names.setdefault("id", payload.get("id"))
        usage = object_in(object_in(payload, "delta"), "usage")
        if usage:
            answer.names["usage"] = usage

    def usage(self, payload: Payload) -> Usage | None:
        """In the last event."""
        found = object_in(object_in(object_in(payload, "delta"), "usage"), "tokens")
        return Usage(_tokens(found, "input_tokens"), _tokens(found, "output_tokens")) if found else None

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With what is added put to the tokens, and to those that are billed."""
        found = object_in(object_in(payload, "delta"), "usage")
        tokens, billed = object_in(found, "tokens"), object_in(found, "billed_units")
        for name, total in (("input_tokens", usage.input), ("output_tokens", usage.output)):
            told = _tokens(tokens, name)
            if told is None or total is None:
                continue
            tokens[name] = total
            if _tokens(billed, name) is not None:
                billed[name] += total - told

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """One start, and so one id; and in a continuation the index of the open block."""
        what = str(payload.get("type"))
        if what == "message-start" and "id" in answer.names:
            return []
        if what.startswith("content-") and isinstance(payload.get("index"), int):
            payload["index"] += answer.names.get("shift", 0)
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """An event says one thing, so it is left out or left as it is."""
        return len(spent) < len(self.slots(event, payload))

    def open_part(self, answer: Answer) -> Key:
        """The last block of text."""
        blocks = [key for key in answer.texts if key[1:] == ("text",)]
        return blocks[-1] if blocks else (("content", 0), "text")

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """Refused, unless the caller knows better: then the text as the last message."""
        body = json_object(request.body)
        reason = _constraint(body, answer, self.open_part(answer)[0]) or why_not(
            str(body.get("model") or ""), (), can_continue
        )
        if can_continue is None:
            reason = reason or f"nothing is known of how Cohere's models go on from a partial answer; {OVERRIDE}"
        if reason:
            return Ask(None, reason)
        if not text:
            return Ask(request)
        answer.names["shift"] = self._open_index(answer)
        changed = reduced({**body, "messages": _with_last(body["messages"], text)}, ("max_tokens",), answer.text_events)
        return Ask(request.with_body(json.dumps(changed).encode()))

    def stops(self, request: RequestPlan) -> list[str]:
        """``stop_sequences``."""
        return strings_in(json_object(request.body).get("stop_sequences"))

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """A delta of the open block."""
        index = self._open_index(answer)
        return _event(answer, "content-delta", index=index, delta={"message": {"content": {"text": text}}})

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """The ends of the open block and of the message."""
        return [
            _event(answer, "content-end", index=self._open_index(answer)),
            _event(answer, "message-end", delta={"finish_reason": "STOP_SEQUENCE"}),
        ]

    def partial(self, answer: Answer) -> Any:
        """A ``V2ChatResponse``."""
        message: Payload = {"role": "assistant"}
        content = [_content(answer, group) for group in _groups(answer, "content")]
        if content:
            message["content"] = content
        if answer.text(_PLAN):
            message["tool_plan"] = answer.text(_PLAN)
        calls = [(answer.is_closed(group), _call(answer, group)) for group in _groups(answer, "tool-call")]
        whole = [call for is_whole, call in calls if is_whole]
        if whole:
            message["tool_calls"] = whole
        citations = [answer.marks[group, "citation"] for group in _groups(answer, "citation")]
        if citations:
            message["citations"] = citations
        found = {
            "id": answer.names.get("id"),
            "finish_reason": answer.marks.get((MESSAGE, "finish")),
            "message": message,
        }
        if "usage" in answer.names:
            found["usage"] = answer.names["usage"]
        torn = [call for is_whole, call in calls if not is_whole]
        return {**found, "incomplete_tool_calls": torn} if torn else found

    def _open_index(self, answer: Answer) -> int:
        group = self.open_part(answer)[0]
        assert isinstance(group, tuple)
        return int(group[1])


def _slots(payload: Payload) -> Iterator[Slot]:
    what = str(payload.get("type"))
    block, _, stage = what.rpartition("-")
    group = (block, number_of(payload, 0))
    delta = object_in(payload, "delta")
    message = object_in(delta, "message")
    if stage == "end" and block in _BLOCKS:
        yield Slot((group, "end"), _BLOCKS[block], payload, "type", Says.SETTLES, closes=True)
    elif block == "content":
        yield from _content_slots(group, object_in(message, "content"))
    elif block == "tool-call":
        yield from _call_slots(group, object_in(message, "tool_calls"))
    elif what == "tool-plan-delta" and isinstance(message.get("tool_plan"), str):
        yield Slot(_PLAN, "thinking", message, "tool_plan")
    elif what == "citation-start" and message.get("citations"):
        yield Slot((group, "citation"), "other", message, "citations", Says.SETTLES)
    elif what == "message-start" and payload.get("id"):
        yield Slot((MESSAGE, "id"), "text", payload, "id", Says.NAMES)
    elif what == "message-end" and delta.get("finish_reason"):
        yield Slot((MESSAGE, "finish"), "text", delta, "finish_reason", Says.SETTLES, closes=True)


def _content_slots(group: Hashable, content: Payload) -> Iterator[Slot]:
    if content.get("type"):
        yield Slot((group, "type"), dict(_CONTENT).get(str(content["type"]), "other"), content, "type", Says.SETTLES)
    for name, kind in _CONTENT:
        if isinstance(content.get(name), str):
            yield Slot((group, name), kind, content, name)


def _call_slots(group: Hashable, call: Payload) -> Iterator[Slot]:
    for name in ("id", "type"):
        if call.get(name):
            yield Slot((group, name), "tool", call, name, Says.NAMES)
    function = object_in(call, "function")
    if function.get("name"):
        yield Slot((group, "name"), "tool", function, "name", Says.SETTLES)
    if isinstance(function.get("arguments"), str):
        yield Slot((group, "arguments"), "tool", function, "arguments")


def _tokens(holder: Payload, name: str) -> int | None:
    """Cohere's numbers may be written as fractions."""
    found = holder.get(name)
    return int(found) if isinstance(found, (int, float)) else None


def _constraint(body: Payload, answer: Answer, open_group: Hashable) -> str:
    """What makes a continuation impossible, whatever the model."""
    if answer.is_closed(open_group):
        return "its text was whole, and only the end of the message is missing"
    messages = body.get("messages")
    if not isinstance(messages, list):
        return "the request has no list of messages"
    if body.get("documents") or any(message.get("role") == "tool" for message in objects_in(body, "messages")):
        return "the request has sources to be cited, and citations would count from the wrong place"
    kind = object_in(body, "response_format").get("type", "text")
    if kind != "text":
        return f"the request constrains the form of the answer (response_format {kind})"
    return "the request forces the model to call a tool" if body.get("tool_choice") == "REQUIRED" else ""


def _with_last(messages: list[Any], text: str) -> list[Any]:
    """The messages with the partial answer as the last one, behind what the caller had put there of it."""
    last = messages[-1] if messages else None
    if isinstance(last, dict) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return [*messages[:-1], {**last, "content": last["content"] + text}]
    return [*messages, {"role": "assistant", "content": text}]


def _event(answer: Answer, kind: str, **more: Any) -> tuple[Fields, Payload]:
    return event_of(kind if answer.names.get("is_named") else None), {"type": kind, **more}


def _groups(answer: Answer, block: str) -> list[Hashable]:
    """The blocks of a kind, in the order in which they began."""
    groups = dict.fromkeys(key[0] for key in (*answer.marks, *answer.texts))
    return [group for group in groups if isinstance(group, tuple) and group[0] == block]


def _content(answer: Answer, group: Hashable) -> Payload:
    name = "thinking" if (group, "thinking") in answer.texts else "text"
    return {"type": answer.marks.get((group, "type"), name), name: answer.text((group, name))}


def _call(answer: Answer, group: Hashable) -> Payload:
    return {
        "id": answer.marks.get((group, "id")),
        "type": answer.marks.get((group, "type"), "function"),
        "function": {"name": answer.marks.get((group, "name")), "arguments": answer.text((group, "arguments"))},
    }
