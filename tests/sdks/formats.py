"""What more providers say, as data: whole answers in the wire formats of SDKs that `tests.sockets.wire` has not.

Shapes: mistralai 3.7.0, google-genai 3.4.0, cohere 7.3.1, langgraph-sdk 0.4.14 and ollama 0.6.3, types and decoders,
read 2026-11-22. No I/O.
"""

from __future__ import annotations

import json

from tests.sockets.wire import TEXT, WORDS, Event, Json, chat


def _event(payload: Json | list[Json], name: str | None = None) -> Event:
    return Event(json.dumps(payload, separators=(",", ":"), ensure_ascii=False), name)


def _line(payload: Json) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode() + b"\n"


def mistral_chat() -> list[Event]:
    """As chat completions, with the usage in the last chunk."""
    *chunks, last, done = chat()
    usage = {"prompt_tokens": 3, "completion_tokens": len(WORDS), "total_tokens": 3 + len(WORDS)}
    return [*chunks, _event({**last.json, "usage": usage}), done]


def gemini() -> list[Event]:
    """`models.generate_content_stream`: no event says that it is the last but by its finish reason."""

    def chunk(text: str, **candidate: str) -> Event:
        content = {"role": "model", "parts": [{"text": text}]}
        base = {"modelVersion": "m", "responseId": "gen-7"}
        usage = {"promptTokenCount": 3, "totalTokenCount": 3 + len(WORDS)}
        return _event({"candidates": [{"index": 0, "content": content, **candidate}], "usageMetadata": usage, **base})

    return [*(chunk(word) for word in WORDS[:-1]), chunk(WORDS[-1], finishReason="STOP")]


def interactions() -> list[Event]:
    """`interactions.create(stream=True)` of Gemini."""
    interaction = {"id": "int_7", "object": "interaction", "status": "in_progress", "model": "m"}
    said: list[Json] = [
        {"event_type": "interaction.created", "interaction": interaction},
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output", "content": []}},
        *({"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": word}} for word in WORDS),
        {"event_type": "step.stop", "index": 0},
        {"event_type": "interaction.completed", "interaction": {**interaction, "status": "completed"}},
    ]
    return [*(_event(payload, payload["event_type"]) for payload in said), Event("[DONE]", "done")]


def cohere_v2() -> list[Event]:
    usage = {"tokens": {"input_tokens": 3, "output_tokens": len(WORDS)}}
    said: list[Json] = [
        {"type": "message-start", "id": "gen-7", "delta": {"message": {"role": "assistant", "content": []}}},
        {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        *({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": word}}}} for word in WORDS),
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}},
    ]
    return [*(_event(payload, payload["type"]) for payload in said), Event("[DONE]")]


def cohere_v1() -> list[bytes]:
    """Not events but lines of JSON."""
    response = {"response_id": "gen-7", "text": TEXT, "generation_id": "gen-7", "finish_reason": "COMPLETE"}
    said: list[Json] = [
        {"is_finished": False, "event_type": "stream-start", "generation_id": "gen-7"},
        *({"is_finished": False, "event_type": "text-generation", "text": word} for word in WORDS),
        {"is_finished": True, "event_type": "stream-end", "finish_reason": "COMPLETE", "response": response},
    ]
    return [_line(payload) for payload in said]


def langgraph() -> list[Event]:
    """A run with ``stream_mode="messages-tuple"``."""
    said = [_event([{"type": "AIMessageChunk", "content": word}, {}], "messages") for word in WORDS]
    return [_event({"run_id": "run-7", "attempt": 1}, "metadata"), *said, Event("null", "end")]


def ollama_chat() -> list[bytes]:
    """Not events but lines of JSON."""
    said: list[Json] = [{"message": {"role": "assistant", "content": word}, "done": False} for word in WORDS]
    counts = {"total_duration": 7, "prompt_eval_count": 3, "eval_count": len(WORDS)}
    said.append({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **counts})
    base = {"model": "m", "created_at": "2026-11-22T12:00:00Z"}
    return [_line({**base, **payload}) for payload in said]
