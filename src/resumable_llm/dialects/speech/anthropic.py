"""Anthropic messages: what an event says of a content block, and how Claude is asked to go on.

A partial answer goes back as the last message, of the assistant, whose last block must not end in white space. Claude
up to 4.5 goes on with it, and so does llama.cpp; Claude from 4.6 on refuses. The answer has only what is new, in blocks
that are counted from 0 again.
Sources: anthropic 2.12.0 (`types/raw_*_event.py`, `lib/streaming/_messages.py`), https://platform.claude.com/docs
    (streaming, error recovery); read 2026-11-22.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import MESSAGE, Answer, Ask, Key, Kind, Payload, Says, Slot, Trial, Usage
from resumable_llm.dialects.event_stream import json_object, object_in
from resumable_llm.dialects.speech.common import count, event_of, objects_in, reduced, strings_in
from resumable_llm.dialects.speech.prefill import BEGUN, CLAUDE, QUESTION, TRIAL_TOKENS, is_known, went_on, why_not

_CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")
_DELTAS: dict[str, tuple[Kind, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool", "partial_json"),
}
_TYPES: dict[Hashable, str] = {"text": "text", "thinking": "thinking", "partial_json": "tool_use"}
"""What kind of block it is that grows by this name."""
_APART = ("text", "thinking", "signature", "data")
"""What of a block's start is not compared with it: what grows, and what is signed or encrypted anew every time."""


class AnthropicSpeech:
    """``POST …/messages``. A content block's index is the group."""

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """What an event says: one thing at most, once `adopt` has seen to it."""
        kind, index = payload.get("type"), payload.get("index")
        if kind == "message_start":
            return [Slot(("start",), "text", payload, "type", Says.NAMES)]
        if kind == "message_delta" and _has_ended(payload):
            delta = object_in(payload, "delta")
            return [Slot((MESSAGE, "stop_reason"), "text", delta, "stop_reason", Says.SETTLES, closes=True)]
        return _of_block(index, payload) if isinstance(index, int) else []

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The message and its blocks as they began, with what came of them that is not text."""
        kind, index = payload.get("type"), payload.get("index")
        blocks = answer.names.setdefault("blocks", {})
        if kind == "message_start":
            answer.names.setdefault("message", object_in(payload, "message"))
        elif kind == "message_delta":
            for name, said in (("end", "delta"), ("usage", "usage")):
                answer.names.setdefault(name, {}).update(_told(object_in(payload, said)))
        elif not isinstance(index, int):
            return
        elif kind == "content_block_start":
            blocks.setdefault(index, dict(object_in(payload, "content_block")))
        elif kind == "content_block_delta" and index in blocks:
            _note_delta(blocks[index], object_in(payload, "delta"))

    def usage(self, payload: Payload) -> Usage | None:
        """At the start and at the end; the prompt with what was read from a cache, or written to it."""
        found = _usage(payload)
        if not found:
            return None
        # A server that says 0 does not know yet; what is said at the start of the output is no count.
        output = None if payload.get("type") == "message_start" else count(found, "output_tokens")
        return Usage(count(found, "input_tokens", *_CACHED) or None, output)

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """At the end, the prompt's tokens too: an accumulator takes them over those of the start."""
        found = _usage(payload)
        if usage.output is not None and "output_tokens" in found:
            found["output_tokens"] = usage.output
        if usage.input is not None:
            found["input_tokens"] = max(usage.input - sum(_cached(found).values()), 0)

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """Behind a seam, the blocks are counted on, and the open one is closed if the model does not go on with it.

        What a block says in its start is said behind it, for the start may be one that the caller has.
        """
        told = _wait_for_text(event, payload, answer.names["seam"]) if "seam" in answer.names else [(event, payload)]
        found = []
        for named, renamed in told:
            found += _move(renamed, answer) if "seam" in answer.names else []
            block, index = object_in(renamed, "content_block"), renamed.get("index")
            found.append((named, renamed))
            for name in _said_at_once(block):
                found.append(_written("content_block_delta", index, delta={"type": f"{name}_delta", name: block[name]}))
                block[name] = ""
        return found

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """Nothing is left of an event whose one slot is spent."""
        return not spent

    def open_part(self, answer: Answer) -> Key:
        """The last block, if it is of text and open; otherwise the one behind it."""
        return (_open_index(answer), "text")

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """What was said as the last message, block by block."""
        at = _open_index(answer)
        answer.names["seam"] = {"index": at, "open": at in answer.names.get("blocks", {}), "shift": None, "held": None}
        said = [answer.text((index, "text")) for index in range(at)] + [text]
        while said and not said[-1].strip():
            said.pop()
        if not said:
            return Ask(request)
        body = json_object(request.body)
        model = str(body.get("model") or "")
        reason = _constraint(body) or why_not(model, CLAUDE, can_continue)
        if reason:
            return Ask(None, reason)
        said[-1] = said[-1].rstrip()
        changed = {**body, "messages": _with_last(body["messages"], [each for each in said if each])}
        plan = request.with_body(json.dumps(reduced(changed, ("max_tokens",), answer.text_events)).encode())
        trial = None if is_known(model, CLAUDE, can_continue) else _trial(plan, model)
        return Ask(plan, echoes=False if "claude" in model.lower() else None, trial=trial)

    def stops(self, request: RequestPlan) -> list[str]:
        """``stop_sequences``."""
        return strings_in(json_object(request.body).get("stop_sequences"))

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """A delta of the open block."""
        delta = {"type": "text_delta", "text": text}
        return _written("content_block_delta", _open_index(answer), delta=delta)

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """The open block's end, the stop sequence, and ``message_stop``."""
        output = max(answer.usage.output or 0, answer.text_events)
        return [
            _written("content_block_stop", _open_index(answer)),
            _written(
                "message_delta",
                delta={"stop_reason": "stop_sequence", "stop_sequence": stop},
                usage={"output_tokens": output},
            ),
            _written("message_stop"),
        ]

    def partial(self, answer: Answer) -> Any:
        """A ``Message``."""
        message, end = answer.names.get("message", {}), answer.names.get("end", {})
        content, incomplete = [], []
        for index, block in sorted(_blocks(answer).items()):
            if _is_torn(answer, index, block):
                torn = {name: value for name, value in block.items() if name != "input"}
                at_once = json.dumps(block["input"]) if block.get("input") else ""
                incomplete.append({**torn, "partial_json": answer.text((index, "partial_json")) or at_once})
            else:
                content.append(_so_far(answer, index, block))
        found: Payload = {"type": "message", "role": "assistant", "stop_reason": None, "stop_sequence": None}
        found |= {**message, "content": content, **end}
        if "usage" in answer.names:
            found["usage"] = {**object_in(message, "usage"), **answer.names["usage"]}
        return {**found, "incomplete_tool_calls": incomplete} if incomplete else found


def _of_block(index: int, payload: Payload) -> list[Slot]:
    kind = payload.get("type")
    if kind == "content_block_start":
        return _begun(index, object_in(payload, "content_block"))
    if kind == "content_block_delta":
        return [_grown(index, object_in(payload, "delta"))]
    if kind == "content_block_stop":
        return [Slot((index, "stop"), "text", payload, "type", Says.SETTLES, closes=True)]
    return []


def _begun(index: int, block: Payload) -> list[Slot]:
    kind = _kind(block.get("type"))
    begun = {"start": _comparable({name: each for name, each in block.items() if name not in _APART})}
    slots = [Slot((index, "start"), kind, begun, "start", Says.SETTLES)]
    return slots + [Slot((index, name), kind, block, name) for name in _said_at_once(block)]


def _said_at_once(block: Payload) -> list[str]:
    """What a block says in its start of what grows behind it, as a rule."""
    kind = block.get("type")
    return [kind] if kind in ("text", "thinking") and isinstance(block.get(kind), str) and block[kind] else []


def _grown(index: int, delta: Payload) -> Slot:
    kind = str(delta.get("type"))
    known, name = _DELTAS.get(kind, ("other", ""))
    if isinstance(delta.get(name), str):
        return Slot((index, name), known, delta, name)
    if kind == "signature_delta":
        return Slot((index, "signature"), "thinking", delta, "type", Says.NAMES)
    # Citations, and what nobody knows yet: a list that grows. No line begins with another one.
    said = json.dumps(_comparable(delta), sort_keys=True) + "\n"
    return Slot((index, kind), "other", {"said": said}, "said")


def _kind(block: object) -> Kind:
    name = str(block)
    if name in ("text", "image"):
        return "text" if name == "text" else "image"
    if name.endswith("thinking"):
        return "thinking"
    return "tool" if name.endswith(("tool_use", "tool_result")) else "other"


def _comparable(value: Any) -> Any:
    """A value less the ids and what is encrypted in it, which are others in every generation."""
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: each if name == "input" else _comparable(each)
        for name, each in value.items()
        if each and name != "id" and not name.endswith("_id") and not name.startswith("encrypted_")
    }


def _note_delta(block: Payload, delta: Payload) -> None:
    if delta.get("type") == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
    elif delta.get("type") not in _DELTAS:
        block.update({name: value for name, value in delta.items() if name != "type"})


def _told(values: Payload) -> Payload:
    return {name: value for name, value in values.items() if value is not None}


def _usage(payload: Payload) -> Payload:
    return object_in(object_in(payload, "message"), "usage") or object_in(payload, "usage")


def _cached(usage: Payload) -> dict[str, int]:
    return {name: usage[name] for name in _CACHED if isinstance(usage.get(name), int)}


def _has_ended(payload: Payload) -> bool:
    return bool(object_in(payload, "delta").get("stop_reason"))


def _open_index(answer: Answer) -> int:
    blocks = answer.names.get("blocks", {})
    last = max(blocks, default=-1)
    is_open = last in blocks and blocks[last].get("type") == "text" and not answer.is_closed(last)
    return last if is_open else last + 1


def _wait_for_text(event: Fields, payload: Payload, seam: Payload) -> list[tuple[Fields, Payload]]:
    """What is told by now: the start of a block of text behind one that was closed waits for what is in it.

    A model that has nothing to add may say so in an empty block, which no answer has behind another.
    """
    kind, block, held = payload.get("type"), object_in(payload, "content_block"), seam["held"]
    if held is None:
        first = seam["shift"] is None and not seam["open"] and seam["index"] > 0
        if not (first and block.get("type") == "text" and not block.get("text")):
            return [(event, payload)]
        seam["held"] = event, payload
    elif kind == "content_block_stop":
        seam["held"] = None
    elif not isinstance(payload.get("index"), int):
        return [(event, payload)]
    elif object_in(payload, "delta").get("text") != "":
        seam["held"] = None
        return [held, (event, payload)]
    return []


def _move(payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
    """Count an event's block on from the seam, and return what has to come before it."""
    seam, kind, index = answer.names["seam"], payload.get("type"), payload.get("index")
    before = []
    if seam["shift"] is None:
        other = kind == "content_block_start" and object_in(payload, "content_block").get("type") != "text"
        if seam["open"] and (other or kind == "message_stop" or (kind == "message_delta" and _has_ended(payload))):
            before.append(_written("content_block_stop", seam["index"]))
            seam.update(index=seam["index"] + 1, open=False)
        if isinstance(index, int):
            seam["shift"] = seam["index"] - index
    if isinstance(index, int):
        payload["index"] = index + seam["shift"]
    if kind == "message_delta":
        _add_cached(object_in(payload, "usage"), object_in(answer.names.get("message", {}), "usage"))
    return before


def _add_cached(usage: Payload, first: Payload) -> None:
    """Tell the first generation's tokens of the cache as such; the sum of the prompt's stays what it is."""
    for name, tokens in _cached(first).items():
        if isinstance(usage.get("input_tokens"), int):
            usage["input_tokens"] = max(usage["input_tokens"] - tokens, 0)
        if isinstance(usage.get(name), int):
            usage[name] += tokens


def _constraint(body: Payload) -> str:
    """What of a request makes a continuation impossible, whoever is asked."""
    if not isinstance(body.get("messages"), list):
        return "the request has no list of messages"
    if object_in(body, "thinking").get("type", "disabled") != "disabled":
        return "the request lets the model think aloud"
    if object_in(body, "tool_choice").get("type") in ("any", "tool"):
        return "the request forces the model to call a tool"
    if body.get("output_format") or object_in(body, "output_config").get("format"):
        return "the request constrains the form of the answer (output_format)"
    return ""


def _trial(plan: RequestPlan, model: str) -> Trial:
    messages = _with_last([{"role": "user", "content": QUESTION}], [BEGUN])
    asked = {"model": model, "messages": messages, "max_tokens": TRIAL_TOKENS, "temperature": 0}
    return Trial(plan.with_body(json.dumps(asked).encode()), _passed)


def _passed(body: bytes) -> bool:
    return went_on(next(iter(objects_in(json_object(body), "content")), {}).get("text"))


def _with_last(messages: list[Any], said: list[str]) -> list[Any]:
    """The messages with what was said as the last one, behind what the caller had put there of it."""
    last = messages[-1] if messages else None
    content: Any = ""
    if isinstance(last, dict) and last.get("role") == "assistant":
        messages, content = messages[:-1], last.get("content")
    if isinstance(content, str) and len(said) == 1:
        return [*messages, {"role": "assistant", "content": content + said[0]}]
    blocks = list(content) if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    if blocks and isinstance(blocks[-1], dict) and isinstance(blocks[-1].get("text"), str):
        blocks[-1] = {**blocks[-1], "text": blocks[-1]["text"] + said[0]}
        said = said[1:]
    return [*messages, {"role": "assistant", "content": [*blocks, *({"type": "text", "text": each} for each in said)]}]


def _written(kind: str, index: int | None = None, **rest: Any) -> tuple[Fields, Payload]:
    return event_of(kind), {"type": kind, **({} if index is None else {"index": index}), **rest}


def _blocks(answer: Answer) -> dict[int, Payload]:
    """The blocks as they began, and those of whose beginning nothing is at hand any more."""
    loose = {key[0]: {"type": _TYPES[key[1]]} for key in answer.texts if isinstance(key[0], int) and key[1] in _TYPES}
    return {**loose, **answer.names.get("blocks", {})}


def _is_torn(answer: Answer, index: int, block: Payload) -> bool:
    """Whether it is a tool call that may not be whole."""
    if not str(block.get("type")).endswith("tool_use"):
        return False
    try:
        json.loads(answer.text((index, "partial_json")) or "{}")
    except (ValueError, RecursionError):  # cut short by max_tokens
        return True
    return "name" not in block or not answer.is_closed(index)


def _so_far(answer: Answer, index: int, block: Payload) -> Payload:
    kind = block.get("type")
    if kind == "text":
        return {**block, "text": answer.text((index, "text"))}
    if kind == "thinking":
        signature = block.get("signature", "") if answer.is_closed(index) else ""
        return {**block, "thinking": answer.text((index, "thinking")), "signature": signature}
    written = answer.text((index, "partial_json"))
    return {**block, "input": json.loads(written)} if written else block
