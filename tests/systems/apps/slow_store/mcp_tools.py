"""The MCP server beside, with a store that is not in memory, so that a replay takes its time. It prints its address."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http import EventCallback, EventId, EventStore, StreamId
from mcp_types import JSONRPCMessage

SECONDS = 0.1


class Slow(EventStore):
    """Another store, behind a network.

    Args:
        store: That one.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        return await self._store.store_event(stream_id, message)

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        stream = await self._store.replay_events_after(last_event_id, send_callback)
        await anyio.sleep(SECONDS)
        return stream


usual = MCPServer.streamable_http_app


def slowly(self: MCPServer, *, event_store: EventStore, **options: Any) -> Any:
    return usual(self, event_store=Slow(event_store), **options)


MCPServer.streamable_http_app = slowly  # type: ignore[method-assign, assignment]
runpy.run_path(str(Path(__file__).parents[1] / "mcp_tools.py"), run_name="__main__")
