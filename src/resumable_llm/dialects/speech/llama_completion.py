"""llama.cpp's native completion: what an event says, and how it is gone on from: with the text behind the prompt.

Sources: ggml-org/llama.cpp `tools/server/README.md`, `tools/server/server-task.cpp`; read 2026-11-22.
"""

from __future__ import annotations

import json
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import Answer, Ask, Key, Payload, Says, Slot, Usage
from resumable_llm.dialects.event_stream import json_object
from resumable_llm.dialects.speech.common import count, event_of, reduced, strings_in
from resumable_llm.dialects.speech.prefill import why_not

_LIMITS = ("n_predict", "max_tokens")
_PIECES = {"content", "tokens", "completion_probabilities"}


class LlamaCompletionSpeech:
    """``POST …/completion``."""

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """Content and stop, per prompt."""
        index, found = _index(payload), []
        if isinstance(payload.get("content"), str):
            found.append(Slot((index, "text"), "text", payload, "content"))
        if payload.get("stop") is True:
            found.append(Slot((index, "stop"), "text", payload, "stop", Says.SETTLES, closes=True))
        return found

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """What was told last, for each prompt."""
        about = answer.names.setdefault("about", {}).setdefault(_index(payload), {})
        about.update({name: value for name, value in payload.items() if name not in _PIECES})

    def usage(self, payload: Payload) -> Usage | None:
        """A running total, in each event."""
        found = Usage(count(payload, "tokens_evaluated"), count(payload, "tokens_predicted"))
        return None if found == Usage() else found

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With the total."""
        for name, tokens in (("tokens_evaluated", usage.input), ("tokens_predicted", usage.output)):
            if tokens is not None and name in payload:
                payload[name] = tokens

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """In the old slot, and without the answer at the end of the prompt."""
        about = answer.names.get("about", {}).get(_index(payload), {})
        if "id_slot" in payload and "id_slot" in about:
            payload["id_slot"] = about["id_slot"]
        if isinstance(payload.get("prompt"), str):
            payload["prompt"] = payload["prompt"].removesuffix(answer.names.get("sent", ""))
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """An event that says nothing new is left out."""
        for slot in spent:
            slot.holder[slot.name] = False if slot.name == "stop" else ""
        return bool(payload.get("content")) or payload.get("stop") is True

    def open_part(self, answer: Answer) -> Key:
        """The first prompt's content."""
        return (0, "text")

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """The text behind the prompt."""
        body = json_object(request.body)
        reason = _constraint(body) or why_not(str(body.get("model") or ""), (), can_continue)
        if reason:
            return Ask(None, reason)
        if not text:
            return Ask(request)
        answer.names["sent"] = text
        said = answer.text_events if answer.usage.output is None else answer.usage.output
        changed = reduced({**body, "prompt": body["prompt"] + text}, _LIMITS, said)
        return Ask(request.with_body(json.dumps(changed).encode()), echoes=False)

    def stops(self, request: RequestPlan) -> list[str]:
        """``stop``, one or several."""
        return strings_in(json_object(request.body).get("stop"))

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """An event with more of the content."""
        return event_of(None), {"index": 0, "content": text, "tokens": [], "stop": False}

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """``"stop": true``."""
        last = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "word", "stopping_word": stop}
        return [(event_of(None), last)]

    def partial(self, answer: Answer) -> Any:
        """The object that ends an answer, with all of its content; a list of them for several prompts."""
        about = answer.names.get("about") or {0: {"index": 0, "stop": False}}
        found = [{**about[index], "content": answer.text((index, "text"))} for index in sorted(about)]
        return found if len(found) > 1 else found[0]


def _index(payload: Payload) -> int:
    index = payload.get("index", 0)
    return index if isinstance(index, int) else 0


def _constraint(body: Payload) -> str:
    """What of a request makes a continuation impossible."""
    form = next((name for name in ("json_schema", "grammar") if body.get(name)), None)
    if form:
        return f"the request constrains the form of the answer ({form})"
    if not isinstance(body.get("prompt"), str):
        return "only a single prompt of text can be gone on from"
    if any((body.get(name) or 1) != 1 for name in ("n", "n_cmpl")):
        return "the request asks for more than one answer"
    return ""
