"""The bytes that the server sends, and how a client's URL asks for them.

Knows neither sockets nor clients. Events are as long as OpenAI's chat chunks mostly are, about 215 bytes.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

CHAT, IDS, RESPONSES = "chat", "ids", "responses"
"""Chat chunks; the same with an ``id:`` line each; deltas of the Responses API, which have sequence numbers."""

READS, CHUNKS, BULK, CUT, PACED = "reads", "chunks", "bulk", "cut", "paced"
"""How the bytes come: each event when the client has read the one before; each event an HTTP chunk, but as many at a
time as there is room for; HTTP chunks of 64 KiB; a cut every few events; a few events a second."""

CHUNK_BYTES = 64 * 1024
EVENTS_PER_CUT = 5
EVENTS_PER_SECOND = 5

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

_CHAT_DATA = json.dumps(
    {
        "id": "chatcmpl-BenchMark0123456789",
        "object": "chat.completion.chunk",
        "created": 1763800000,
        "model": "gpt-5.1-mini",
        "choices": [{"index": 0, "delta": {"content": " reconnect"}, "logprobs": None, "finish_reason": None}],
    },
    separators=(",", ":"),
)
_DELTA_DATA = (
    '{{"type":"response.output_text.delta","sequence_number":{0},"item_id":"msg_benchmark0123456789012345","output_index":0,'
    '"content_index":0,"delta":" reconnect","logprobs":[]}}'
)
_RESPONSE = {
    "id": "resp_benchmark",
    "object": "response",
    "created_at": 1763800000,
    "model": "gpt-5.1-mini",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "background": True,
}


class Order(NamedTuple):
    """What a client asks the server for.

    Attributes:
        mode: How the bytes come.
        kind: Which events.
        events: How many, the terminal event not counted.
        unit: What the client adds to its count of what it has read, for each event: 1, or the event's size in bytes.
    """

    mode: str
    kind: str
    events: int
    unit: int = 1

    @property
    def path(self) -> str:
        """The beginning of a URL's path that asks for this; whatever the client puts behind it is of no account."""
        return f"/{self.mode}.{self.kind}.{self.events}.{self.unit}"

    @classmethod
    def parse(cls, path: str) -> Order:
        """Read what `path` wrote."""
        mode, kind, events, unit = path.split("/")[1].split(".")
        return cls(mode, kind, int(events), int(unit))


def event(kind: str, number: int) -> bytes:
    """One event, counted from 1. Chat chunks are all of one size, with ids or without."""
    if kind == CHAT:
        return f"data: {_CHAT_DATA}\n\n".encode()
    if kind == IDS:
        return f"id: {number:08d}\ndata: {_CHAT_DATA}\n\n".encode()
    if number == 1:
        return _responses_event("response.created", 0, "in_progress")
    return f"event: response.output_text.delta\ndata: {_DELTA_DATA.format(number - 1)}\n\n".encode()


def terminal(kind: str, events: int) -> bytes:
    """The event that ends the answer."""
    if kind == RESPONSES:
        return _responses_event("response.completed", events, "completed")
    return b"data: [DONE]\n\n" if kind == CHAT else f"id: {events + 1:08d}\ndata: [DONE]\n\n".encode()


def _responses_event(name: str, sequence: int, status: str) -> bytes:
    payload = {"type": name, "sequence_number": sequence, "response": {**_RESPONSE, "status": status}}
    return f"event: {name}\ndata: {json.dumps(payload)}\n\n".encode()


@lru_cache(maxsize=2)
def segments(order: Order) -> list[bytes]:
    """What is sent at a time, in HTTP's chunked coding, without the terminal event."""
    events = [event(order.kind, number) for number in range(1, order.events + 1)]
    if order.mode == BULK:
        return list(map(chunked, pieces(b"".join(events), CHUNK_BYTES)))
    chunks = list(map(chunked, events))
    return pieces(b"".join(chunks), CHUNK_BYTES) if order.mode == CHUNKS else chunks


def pieces(data: bytes, size: int) -> list[bytes]:
    """The data in pieces of so many bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def chunked(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
