"""An ordinary event of each protocol, as its servers write it. The shapes were read from recordings, 2026-11-22.

Knows neither sockets nor clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from resumable_llm.core.model import RequestPlan

_JSON = ("Content-Type", "application/json")
_ASKED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def _post(url: str, body: dict[str, object] | None = None, *headers: tuple[str, str]) -> RequestPlan:
    return RequestPlan("POST", url, (_JSON, *headers), json.dumps(body or _ASKED).encode())


@dataclass(frozen=True)
class Wire:
    """One protocol's stream.

    Attributes:
        dialect: The dialect that must recognise the request.
        request: The request.
        data: The data of an ordinary event, by its number.
        form: The event around the data: ``{number}`` and ``{data}``.
        opening: What stands before the ordinary events.
        opening_events: How many events that is.
        headers: Response headers besides the content type.
        behind: The dialect that the response shows to stand behind it.
    """

    dialect: str
    request: RequestPlan
    data: Callable[[int], str]
    form: str = "data: {data}\n\n"
    opening: bytes = b": begun\n\n"
    opening_events: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    behind: str | None = None

    def event(self, number: int) -> bytes:
        """An ordinary event."""
        return self.form.format(number=f"{number:08d}", data=self.data(number)).encode()


def _always(payload: object) -> Callable[[int], str]:
    text = json.dumps(payload, separators=(",", ":"))
    return lambda _number: text


_CHUNK = {
    "id": "chatcmpl-BenchMark0123456789",
    "object": "chat.completion.chunk",
    "created": 1763800000,
    "model": "gpt-5.1-mini",
    "choices": [{"index": 0, "delta": {"content": " reconnect"}, "logprobs": None, "finish_reason": None}],
}
_LLAMA_CHUNK = {"choices": [{"finish_reason": None, "index": 0, "delta": {"content": " reconnect"}}], **_CHUNK}
_LLAMA_CHUNK["choices"] = [{"finish_reason": None, "index": 0, "delta": {"content": " reconnect"}}]


def _responses_delta(number: int) -> str:
    return (
        f'{{"type":"response.output_text.delta","sequence_number":{number + 1},"item_id":"msg_benchmark0123456789",'
        f'"output_index":0,"content_index":0,"delta":" reconnect","logprobs":[]}}'
    )


_CREATED = json.dumps({"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1"}})
_INTERACTION = json.dumps({"event_type": "interaction.created", "interaction": {"id": "int_1"}, "event_id": "e0"})

WIRES = (
    Wire("openai_chat", _post("https://api.openai.com/v1/chat/completions"), _always(_CHUNK)),
    Wire(
        "openai_chat",
        _post("http://127.0.0.1:8080/v1/chat/completions", None, ("X-Conversation-Id", "c")),
        _always(_LLAMA_CHUNK),
        behind="llama_cpp/openai_chat",
    ),
    Wire(
        "openai_responses",
        _post("https://api.openai.com/v1/responses", {**_ASKED, "background": True, "store": True}),
        _responses_delta,
        "event: response.output_text.delta\ndata: {data}\n\n",
        f"event: response.created\ndata: {_CREATED}\n\n".encode(),
        1,
    ),
    Wire(
        "anthropic_messages",
        _post("https://api.anthropic.com/v1/messages"),
        _always(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " reconnect, they say"}}
        ),
        "event: content_block_delta\ndata: {data}\n\n",
    ),
    Wire(
        "gemini_generate",
        _post("https://generativelanguage.googleapis.com/v1beta/models/m:streamGenerateContent?alt=sse"),
        _always(
            {
                "candidates": [{"content": {"parts": [{"text": " reconnect"}], "role": "model"}, "index": 0}],
                "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 9},
                "modelVersion": "gemini-3-flash",
            }
        ),
    ),
    Wire(
        "gemini_interactions",
        _post("https://generativelanguage.googleapis.com/v1beta/interactions", {**_ASKED, "background": True}),
        _always({"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": " reconnect, they say"}}),
        "event: step.delta\ndata: {data}\n\n",
        f"event: interaction.created\ndata: {_INTERACTION}\n\n".encode(),
        1,
    ),
    Wire(
        "langgraph",
        _post("http://127.0.0.1:2024/threads/t/runs/stream"),
        _always(
            [
                {"content": " reconnect", "type": "AIMessageChunk", "id": "run-0123456789", "tool_calls": []},
                {"thread_id": "t", "run_id": "r", "langgraph_step": 1, "langgraph_node": "model"},
            ]
        ),
        "event: messages\r\ndata: {data}\r\nid: 17638{number}-0\r\n\r\n",
        headers={"location": "/threads/t/runs/r/stream"},
    ),
    Wire(
        "durable_streams",
        RequestPlan("GET", "http://127.0.0.1:4437/streams/s?offset=-1&live=sse"),
        _always([{"type": "token", "text": " reconnect"}]),
        "event: data\ndata:{data}\n\n",
    ),
    Wire(
        "mcp",
        _post(
            "http://127.0.0.1:8000/mcp",
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "count"}},
            ("Accept", "application/json, text/event-stream"),
            ("Mcp-Protocol-Version", "2025-11-25"),
            ("Mcp-Session-Id", "s"),
        ),
        _always(
            {
                "jsonrpc": "2.0",
                "method": "notifications/progress",
                "params": {"progressToken": 1, "progress": 3, "total": 9, "message": "three of nine"},
            }
        ),
        "event: message\r\nid: {number}\r\ndata: {data}\r\n\r\n",
    ),
    Wire(
        "cohere_chat",
        _post("https://api.cohere.com/v2/chat"),
        _always(
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": " reconnect, they say"}}}}
        ),
        "event: content-delta\ndata: {data}\n\n",
    ),
    Wire(
        "ollama",
        _post("http://127.0.0.1:11434/api/chat"),
        _always(
            {
                "model": "m",
                "created_at": "2026-11-22T10:00:00.000000Z",
                "message": {"role": "assistant", "content": " reconnect"},
                "done": False,
            }
        ),
        "{data}\n",
        b"\n",
    ),
    Wire(
        "last_event_id",
        RequestPlan("GET", "https://events.example/feed", (("Accept", "text/event-stream"),)),
        _always(_CHUNK),
        "id: {number}\ndata: {data}\n\n",
    ),
)
