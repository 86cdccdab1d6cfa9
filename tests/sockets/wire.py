"""What providers say, as data: whole answers in their wire formats, cut and numbered by the tests that use them.

Shapes: openai 3.54.0 and anthropic 2.12.0, types and recorded streams, read 2026-11-22. No I/O.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]

WORDS = ("An", " answer", " is", " a", " log;", " naïve", " 🙂", " readers", ".")
TEXT = "".join(WORDS)


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    data: str
    name: str | None = None
    id: str | None = None

    @property
    def block(self) -> bytes:
        lines = [f"id: {self.id}"] if self.id is not None else []
        lines += [f"event: {self.name}"] if self.name is not None else []
        return ("\n".join([*lines, f"data: {self.data}", "", ""])).encode()

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.data)
        return found


def numbered(events: list[Event]) -> list[Event]:
    """The same events as a server sends them that can resume by Last-Event-ID."""
    return [replace(event, id=f"gen-7:{number}") for number, event in enumerate(events, 1)]


def blocks(events: list[Event]) -> list[bytes]:
    return [event.block for event in events]


def plain() -> list[Event]:
    """A stream of no provider in particular."""
    return [Event(f'{{"word":"{word}"}}', "word") for word in WORDS] + [Event("{}", "done")]


def _dump(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# OpenAI chat completions


def chat(words: tuple[str, ...] = WORDS) -> list[Event]:
    def chunk(delta: Json, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        base = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1795000000, "model": "m"}
        return Event(_dump({**base, "choices": [choice]}))

    middle = [chunk({"content": word}) for word in words]
    return [chunk({"role": "assistant", "content": ""}), *middle, chunk({}, "stop"), Event("[DONE]")]


# OpenAI Responses


def response(status: str = "completed", *, background: bool = True) -> Json:
    """The response object that a poll reads."""
    done = status == "completed"
    usage = {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(WORDS),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 3 + len(WORDS),
    }
    return {
        "id": "resp_7",
        "object": "response",
        "created_at": 1795000000.0,
        "status": status,
        "background": background,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "m",
        "output": [_item("completed", [_part(TEXT)])] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if done else None,
    }


def _item(status: str, content: list[Json]) -> Json:
    return {"id": "msg_7", "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}


def responses(*, background: bool = True) -> list[Event]:
    item: Json = {"output_index": 0}
    part: Json = {"item_id": "msg_7", "output_index": 0, "content_index": 0}
    begun = response("in_progress", background=background)
    said: list[tuple[str, Json]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {**item, "item": _item("in_progress", [])}),
        ("response.content_part.added", {**part, "part": _part("")}),
        *(("response.output_text.delta", {**part, "delta": word, "logprobs": []}) for word in WORDS),
        ("response.output_text.done", {**part, "text": TEXT, "logprobs": []}),
        ("response.content_part.done", {**part, "part": _part(TEXT)}),
        ("response.output_item.done", {**item, "item": _item("completed", [_part(TEXT)])}),
        ("response.completed", {"response": response(background=background)}),
    ]
    return [
        Event(_dump({"type": kind, "sequence_number": number, **payload}), kind)
        for number, (kind, payload) in enumerate(said)
    ]


# Anthropic messages


def messages() -> list[Event]:
    usage = {"input_tokens": 3, "output_tokens": 1}
    message: Json = {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    said: list[Json] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": len(WORDS)},
        },
        {"type": "message_stop"},
    ]
    return [Event(_dump(payload), payload["type"]) for payload in said]
