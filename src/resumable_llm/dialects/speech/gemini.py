"""Gemini's generateContent: what a response says, and how the model is asked to go on.

A partial answer goes back as the last turn, of the model; which models take that is a matter of `prefill`. What is no
text comes whole, and nothing numbers it, so it is compared as lines of JSON in the order in which it came.
Sources: google-genai 3.4.0 (`types.py`, `models.py`), https://ai.google.dev/api/generate-content; read 2026-11-22.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import MESSAGE, Answer, Ask, Key, Kind, Payload, Says, Slot, Usage
from resumable_llm.core.units import joined
from resumable_llm.dialects.event_stream import json_object, object_in
from resumable_llm.dialects.speech.common import count, event_of, objects_in, reduced, strings_in
from resumable_llm.dialects.speech.prefill import GEMINI, why_not

_NAMES = ("responseId", "modelVersion", "createTime")
_SIGNATURE = "thoughtSignature"
_ABOUT = {"thought", _SIGNATURE, "partMetadata", "videoMetadata"}
_FORMS = ("responseSchema", "responseJsonSchema", "_responseJsonSchema", "responseFormat")
_UPPER = re.compile("[A-Z]")


class GeminiSpeech:
    """``POST …/{model}:streamGenerateContent?alt=sse``."""

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """Per candidate: text, thoughts, whole parts, signatures, finishReason."""
        found = [slot for candidate in objects_in(payload, "candidates") for slot in _slots(candidate)]
        feedback = object_in(payload, "promptFeedback")
        if feedback.get("blockReason"):
            found.append(Slot((MESSAGE, "blocked"), "text", feedback, "blockReason", Says.SETTLES, closes=True))
        return found

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The first names, the last of what is told again and again, and every part as it came."""
        for name in _NAMES:
            if payload.get(name) is not None:
                answer.names.setdefault(name, payload[name])
        for name in ("promptFeedback", "usageMetadata"):
            if object_in(payload, name):
                answer.names[name] = payload[name]
        candidates = answer.names.setdefault("candidates", {})
        for candidate in objects_in(payload, "candidates"):
            about, parts = candidates.setdefault(_index(candidate), ({}, []))
            about.update({name: value for name, value in candidate.items() if name != "content"})
            parts += [dict(part) for part in _parts(candidate)]

    def usage(self, payload: Payload) -> Usage | None:
        """A running total, in most events."""
        found = object_in(payload, "usageMetadata")
        return Usage(count(found, "promptTokenCount"), _output(found)) if found else None

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With what is added put to the tokens of the prompt, those of the candidates, and the total."""
        found = object_in(payload, "usageMetadata")
        for name, told, tokens in (
            ("promptTokenCount", count(found, "promptTokenCount"), usage.input),
            ("candidatesTokenCount", _output(found), usage.output),
        ):
            if told is not None and tokens is not None:
                found[name] = (count(found, name) or 0) + tokens - told
                if "totalTokenCount" in found:
                    found["totalTokenCount"] += tokens - told

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """One id and one time for all."""
        for name in ("responseId", "createTime"):
            if name in answer.names and name in payload:
                payload[name] = answer.names[name]
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """Parts and candidates of which nothing is left are taken out."""
        keys = {slot.key for slot in spent}
        touched = [slot.holder.get("part", slot.holder) for slot in spent]
        for slot in spent:
            if slot.name == "line":
                slot.holder["part"].clear()
            elif slot.name == "text":
                slot.holder["text"] = ""
        candidates = []
        for candidate in objects_in(payload, "candidates"):
            if (_index(candidate), "finish") in keys:
                del candidate["finishReason"]
            parts = [
                part
                for part in _parts(candidate)
                if not any(part is each for each in touched) or _is_left(part, _index(candidate), keys)
            ]
            if parts:
                candidate["content"]["parts"] = parts
            else:
                object_in(candidate, "content").pop("parts", None)
            if parts or candidate.get("finishReason"):
                candidates.append(candidate)
        if "candidates" in payload:
            payload["candidates"] = candidates
        blocked = object_in(payload, "promptFeedback").get("blockReason") and (MESSAGE, "blocked") not in keys
        return bool(candidates or blocked)

    def open_part(self, answer: Answer) -> Key:
        """The first candidate's text."""
        return (0, "text")

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """The text as the last turn, of the model."""
        body = json_object(request.body)
        config = object_in(body, _name(body, "generationConfig"))
        model = request.path.rpartition("/")[2].partition(":")[0]
        reason = _constraint(body, config) or why_not(model, GEMINI, can_continue)
        if reason:
            return Ask(None, reason)
        if not text:
            return Ask(request)
        changed: Payload = {**body, "contents": _with_last(body["contents"], text)}
        if config:
            said = answer.text_events if answer.usage.output is None else answer.usage.output
            limit = _name(config, "maxOutputTokens")
            changed[_name(body, "generationConfig")] = reduced(config, (limit,), said)
        return Ask(request.with_body(json.dumps(changed).encode()))

    def stops(self, request: RequestPlan) -> list[str]:
        """``generationConfig.stopSequences``."""
        body = json_object(request.body)
        config = object_in(body, _name(body, "generationConfig"))
        return strings_in(config.get(_name(config, "stopSequences")))

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """A response with more of the first candidate's text."""
        return event_of(None), _response(answer, {"content": {"parts": [{"text": text}], "role": "model"}})

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """``finishReason: STOP``."""
        return [(event_of(None), _response(answer, {"content": {"role": "model"}, "finishReason": "STOP"}))]

    def partial(self, answer: Answer) -> Any:
        """A ``GenerateContentResponse``, as JSON writes it."""
        candidates, incomplete = [], []
        for index, (about, parts) in sorted(answer.names.get("candidates", {}).items()):
            whole, torn = _merged(parts)
            candidates.append({"content": {"parts": whole, "role": "model"}, "index": index, **about})
            incomplete += torn
        names = (*_NAMES, "promptFeedback", "usageMetadata")
        found = {"candidates": candidates, **{name: answer.names[name] for name in names if name in answer.names}}
        return {**found, "incomplete_tool_calls": incomplete} if incomplete else found


def _slots(candidate: Payload) -> Iterator[Slot]:
    index = _index(candidate)
    for part in _parts(candidate):
        what: str = "thinking" if part.get("thought") else "text"
        if isinstance(part.get("text"), str):
            yield Slot((index, what), "thinking" if part.get("thought") else "text", part, "text")
        elif part.keys() - _ABOUT:
            what = _line(part)
            kind = _kind(part)
            yield Slot((index, kind), kind, {"line": what, "part": part}, "line")
        if part.get(_SIGNATURE):
            yield Slot((index, "signature", what), "text", part, _SIGNATURE, Says.NAMES)
    reason = candidate.get("finishReason")
    if reason:  # behind CONTINUATION the answer goes on, in another response
        yield Slot((index, "finish"), "text", candidate, "finishReason", Says.SETTLES, closes=reason != "CONTINUATION")


def _line(part: Payload) -> str:
    """What a part says, less its ids: equal for equal parts, and the beginning of no other's."""
    said = {
        name: {key: each for key, each in value.items() if key != "id"} if isinstance(value, dict) else value
        for name, value in part.items()
        if name not in _ABOUT
    }
    return json.dumps(said, sort_keys=True) + "\n"


def _kind(part: Payload) -> Kind:
    if "functionCall" in part:
        return "tool"
    media = str((object_in(part, "inlineData") or object_in(part, "fileData")).get("mimeType") or "")
    return "audio" if media.startswith("audio/") else "image" if media.startswith("image/") else "other"


def _is_left(part: Payload, index: int, spent: set[Key]) -> bool:
    """Whether a part of which something was told before has something new, if only a signature."""
    if part.get("text") or (part.keys() - _ABOUT - {"text"}):
        return True
    what = "thinking" if part.get("thought") else "text"
    return bool(part.get(_SIGNATURE)) and (index, "signature", what) not in spent


def _index(candidate: Payload) -> int:
    index = candidate.get("index", 0)
    return index if isinstance(index, int) else 0


def _parts(candidate: Payload) -> list[Payload]:
    return objects_in(object_in(candidate, "content"), "parts")


def _output(usage: Payload) -> int | None:
    """Thoughts are charged as what was said, and told apart from it."""
    said = count(usage, "candidatesTokenCount", "thoughtsTokenCount")
    return count(usage, "thoughtsTokenCount") if said is None else said


def _name(holder: Payload, name: str) -> str:
    """The name under which a field stands: the API takes ``camelCase`` and ``snake_case`` alike."""
    snake = _UPPER.sub(lambda upper: f"_{upper[0].lower()}", name)
    return snake if snake in holder and name not in holder else name


def _constraint(body: Payload, config: Payload) -> str:
    """What of a request makes a continuation impossible, whatever the model."""
    tools = object_in(body, _name(body, "toolConfig"))
    if not isinstance(body.get("contents"), list):
        return "the request has no list of contents"
    if body.get(_name(body, "continuationToken")):
        return "the request itself goes on from a continuation token"
    if object_in(tools, _name(tools, "functionCallingConfig")).get("mode") == "ANY":
        return "the request forces the model to call a tool"
    return _form(config)


def _form(config: Payload) -> str:
    """Why an answer of the form that a request asks for cannot be put together from two."""
    if (config.get(_name(config, "candidateCount")) or 1) != 1:
        return "the request asks for more than one candidate"
    form = next((name for name in _FORMS if config.get(_name(config, name))), None)
    media = config.get(_name(config, "responseMimeType")) or "text/plain"
    if form or media != "text/plain":
        return f"the request constrains the form of the answer ({form or f'responseMimeType {media}'})"
    if any(each != "TEXT" for each in strings_in(config.get(_name(config, "responseModalities")))):
        return "the request asks for more than text"
    return ""


def _with_last(contents: list[Any], text: str) -> list[Any]:
    """The contents with the partial answer as the last turn, behind what the caller had put there of it."""
    last = contents[-1] if contents else None
    if not isinstance(last, dict) or last.get("role") != "model" or not objects_in(last, "parts"):
        return [*contents, {"role": "model", "parts": [{"text": text}]}]
    parts = last["parts"]
    if isinstance(parts[-1], dict) and parts[-1].keys() == {"text"}:
        return [*contents[:-1], {**last, "parts": [*parts[:-1], {"text": parts[-1]["text"] + text}]}]
    return [*contents[:-1], {**last, "parts": [*parts, {"text": text}]}]


def _response(answer: Answer, candidate: Payload) -> Payload:
    names = {name: answer.names[name] for name in _NAMES if name in answer.names}
    return {"candidates": [{**candidate, "index": 0}], **names}


def _merged(parts: list[Payload]) -> tuple[list[Payload], list[Payload]]:
    """The parts, text put together that came in pieces, and the tool calls that came in pieces and are not whole."""
    found: list[Payload] = []
    for part in parts:
        last = found[-1] if found else {}
        call, begun = part.get("functionCall"), last.get("functionCall")
        if isinstance(begun, dict) and isinstance(call, dict) and begun.get("willContinue"):
            pieces = [*objects_in(begun, "partialArgs"), *objects_in(call, "partialArgs")]
            whole = {name: value for name, value in begun.items() if name != "willContinue"}
            found[-1] = {**last, **part, "functionCall": {**whole, **call, "partialArgs": pieces}}
        elif isinstance(part.get("text"), str) and _is_more(part, last):
            found[-1] = {**last, **part, "text": last["text"] + part["text"]}
        else:
            found.append(dict(part))
    for part in found:
        if isinstance(part.get("text"), str):
            part["text"] = joined(part["text"])
    torn = [part for part in found if object_in(part, "functionCall").get("willContinue")]
    return [part for part in found if part not in torn], [part["functionCall"] for part in torn]


def _is_more(part: Payload, last: Payload) -> bool:
    """Whether a text goes on with the part before it."""
    return isinstance(last.get("text"), str) and last.get("thought") == part.get("thought") and _SIGNATURE not in last
