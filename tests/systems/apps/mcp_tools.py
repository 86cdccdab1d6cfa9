"""An MCP server over streamable HTTP with one tool, which reports progress and then answers.

It prints its address first.
"""

from __future__ import annotations

import socket
import sys
from collections import Counter

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCResponse

RETRY_MILLISECONDS = 100

server = MCPServer("counter")


class Events(EventStore):
    """Every event of every stream in one list; an event's id is its place in that list, counted from 1.

    The SDK names a stream after its request, so two sessions use the same names. An answer ends a stream: what comes
    under the same name afterwards is another one.
    """

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, int, JSONRPCMessage | None]] = []
        self._ended: Counter[StreamId] = Counter()

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, self._ended[stream_id], message))
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._ended[stream_id] += 1
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        known = {str(number): event for number, event in enumerate(self._events, start=1)}
        if last_event_id not in known:
            return None
        stream = known[last_event_id][:2]
        for number, (*other, message) in enumerate(self._events, start=1):
            if tuple(other) == stream and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream[0]


@server.tool()
async def count(steps: int, seconds: float, context: Context, close_after: int | None = None) -> str:
    """Report progress so many times, each after a pause; drop the client's connection after that step if asked to."""
    for step in range(1, steps + 1):
        await anyio.sleep(seconds)
        await context.report_progress(step, steps, f"step {step}")
        if step == close_after:
            await context.close_sse_stream()
    return f"counted to {steps}"


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        app = server.streamable_http_app(event_store=Events(), retry_interval=RETRY_MILLISECONDS)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
