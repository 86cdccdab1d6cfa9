"""Ollama's own API: what a line says, and how the model is asked to go on.

A partial answer goes back as the last message, of the assistant; whether the model goes on with it is its template's
affair, and of one that begins a new turn nothing is told but the text. A prompt that no template is put around
(``raw``) can be gone on from as it is. Tool calls come whole, and are compared as lines of JSON in their order.
Sources: ollama 0.6.3 (`_types.py`), ollama/ollama `server/routes.go`, `model/renderers`; read 2026-11-22.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import Answer, Ask, Key, Payload, Says, Slot, Trial, Usage
from resumable_llm.dialects.event_stream import json_object, object_in
from resumable_llm.dialects.speech.common import count, event_of, objects_in, reduced, strings_in
from resumable_llm.dialects.speech.prefill import BEGUN, QUESTION, TRIAL_TOKENS, went_on, why_not

_SAID = {"error", "message", "response", "thinking", "image", "logprobs"}


class OllamaSpeech:
    """``POST …/api/chat`` and ``POST …/api/generate``."""

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """Content, thoughts, tool calls, images, done."""
        return list(_slots(payload))

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The first line's names, the last one's figures, and the tool calls with their ids."""
        for name in ("model", "created_at"):
            if name in payload:
                answer.names.setdefault(name, payload[name])
        answer.names["is_chat"] = "response" not in payload and answer.names.get("is_chat", True)
        answer.names.setdefault("tool_calls", []).extend(objects_in(object_in(payload, "message"), "tool_calls"))
        line = answer.names.setdefault("line", {})
        line.update({name: value for name, value in payload.items() if name not in _SAID})

    def usage(self, payload: Payload) -> Usage | None:
        """In the last line."""
        found = Usage(count(payload, "prompt_eval_count"), count(payload, "eval_count"))
        return None if found == Usage() else found

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With the total."""
        for name, tokens in (("prompt_eval_count", usage.input), ("eval_count", usage.output)):
            if tokens is not None and name in payload:
                payload[name] = tokens

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """As it is: a line has no names but the model's, and the time of its own writing."""
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """A line that says nothing new is left out."""
        for slot in spent:
            if slot.name == "line":
                slot.holder["calls"].remove(slot.holder["call"])
            else:
                slot.holder[slot.name] = False if slot.name == "done" else ""
        return any(slot.value for slot in _slots(payload))

    def open_part(self, answer: Answer) -> Key:
        """The content."""
        return (0, "text")

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """The text as the last message, or behind a raw prompt."""
        body = json_object(request.body)
        is_chat = isinstance(body.get("messages"), list)
        reason = _constraint(body, is_chat=is_chat) or why_not(str(body.get("model") or ""), (), can_continue)
        if reason:
            return Ask(None, reason)
        if not text:
            return Ask(request)
        if is_chat:
            changed = {**body, "messages": _with_last(body["messages"], text)}
        else:
            changed = {**body, "prompt": body["prompt"] + text}
        options = object_in(body, "options")
        if options:
            changed["options"] = reduced(options, ("num_predict",), answer.text_events)
        plan = request.with_body(json.dumps(changed).encode())
        known = not is_chat or can_continue is not None
        return Ask(plan, echoes=None if is_chat else False, trial=None if known else _trial(plan, body))

    def stops(self, request: RequestPlan) -> list[str]:
        """``options.stop``."""
        return strings_in(object_in(json_object(request.body), "options").get("stop"))

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """A line with more of the content."""
        return event_of(None), {**_line(answer, text), "done": False}

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """``"done": true``."""
        return [(event_of(None), {**_line(answer, ""), "done": True, "done_reason": "stop"})]

    def partial(self, answer: Answer) -> Any:
        """A ``ChatResponse``, or a ``GenerateResponse``."""
        names = answer.names
        thoughts = {"thinking": answer.text((0, "thinking"))} if answer.has("thinking") else {}
        text, line = answer.text((0, "text")), names.get("line", {})
        if not names.get("is_chat", True):
            image = {"image": answer.marks[0, "image"]} if (0, "image") in answer.marks else {}
            return {**line, "response": text, **thoughts, **image}
        calls = {"tool_calls": names["tool_calls"]} if names.get("tool_calls") else {}
        return {**line, "message": {"role": "assistant", "content": text, **thoughts, **calls}}


def _slots(line: Payload) -> Iterator[Slot]:
    message = object_in(line, "message")
    for holder in (message, line):
        if isinstance(holder.get("thinking"), str):
            yield Slot((0, "thinking"), "thinking", holder, "thinking")
    for holder, name in ((message, "content"), (line, "response")):
        if isinstance(holder.get(name), str):
            yield Slot((0, "text"), "text", holder, name)
    for call in objects_in(message, "tool_calls"):
        said = json.dumps({name: value for name, value in call.items() if name != "id"}, sort_keys=True)
        holder = {"line": said + "\n", "call": call, "calls": message["tool_calls"]}  # no line begins another
        yield Slot((0, "tool"), "tool", holder, "line")
    if line.get("image"):
        yield Slot((0, "image"), "image", line, "image", Says.SETTLES)
    if line.get("done") is True:
        yield Slot((0, "done"), "text", line, "done", Says.SETTLES, closes=True)


def _constraint(body: Payload, *, is_chat: bool) -> str:
    """What of a request makes a continuation impossible, whatever the model."""
    if body.get("format"):
        return "the request constrains the form of the answer (format)"
    if body.get("think"):
        return "the request asks the model to think first"
    if is_chat:
        return ""
    if body.get("raw") is not True or not isinstance(body.get("prompt"), str) or body.get("suffix"):
        return "of prompts only raw ones without suffix can be gone on from: a template would begin a new turn"
    return ""


def _trial(plan: RequestPlan, body: Payload) -> Trial:
    messages = _with_last([{"role": "user", "content": QUESTION}], BEGUN)
    options = {"num_predict": TRIAL_TOKENS, "temperature": 0}
    asked = {"model": body.get("model"), "messages": messages, "stream": False, "options": options}
    return Trial(plan.with_body(json.dumps(asked).encode()), _passed)


def _passed(body: bytes) -> bool:
    return went_on(object_in(json_object(body), "message").get("content"))


def _with_last(messages: list[Any], text: str) -> list[Any]:
    """The messages with the partial answer as the last one, behind what the caller had put there of it."""
    last = messages[-1] if messages else None
    if isinstance(last, dict) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return [*messages[:-1], {**last, "content": last["content"] + text}]
    return [*messages, {"role": "assistant", "content": text}]


def _line(answer: Answer, text: str) -> Payload:
    names: Payload = {name: answer.names[name] for name in ("model", "created_at") if name in answer.names}
    if answer.names.get("is_chat", True):
        return {**names, "message": {"role": "assistant", "content": text}}
    return {**names, "response": text}
