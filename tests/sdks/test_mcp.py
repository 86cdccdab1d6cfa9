"""The mcp SDK's client over streamable HTTP, on a wrapped httpx2 client: a tool's result and all that led to it, once.

The server is a script that says what the SDK's own server was heard to say. The SDK reconnects by itself, after a
second and twice at most; it must never have to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle, product
from typing import Any

import anyio
import pytest

from tests.sockets.scripted import EVENT_STREAM, Answer, End, Request, Scripted

if sys.version_info < (3, 11):
    pytest.skip("the SDK's HTTP client is httpx2, which needs Python 3.11", allow_module_level=True)
pytest.importorskip("mcp", reason="the environment for openai 2 has no mcp")

import mcp
from mcp.client.streamable_http import streamable_http_client

import resumable_llm as rl
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, policy

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

SESSION = "session-7"
STEPS = 4
HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": False}},
    "serverInfo": {"name": "counter", "version": "1"},
}
TOOL = {"name": "count", "inputSchema": {"type": "object"}}
PROGRESS = [(float(step), float(STEPS), f"step {step}") for step in range(1, STEPS + 1)]


def block(number: int, message: dict[str, Any] | None) -> bytes:
    if message is None:
        return f"id: {number}\r\ndata: \r\nretry: 10\r\n\r\n".encode()
    data = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))
    return f"id: {number}\r\nevent: message\r\ndata: {data}\r\n\r\n".encode()


class Server:
    """An MCP server with one tool, whose stream breaks off as it is told to.

    Args:
        breaks: For each connection that tells of the tool: how many events it tells, half of one more, how it ends.
        primed: Tell an event without data first, on each connection.
    """

    def __init__(self, *breaks: tuple[int, bool, End], primed: bool = True) -> None:
        self._breaks = list(breaks)
        self._primed = primed
        self._told = 0
        self._events: list[tuple[int, dict[str, Any]]] = []
        self.calls = 0

    def __call__(self, request: Request) -> Answer:
        session = {"mcp-session-id": SESSION}
        if request.method == "GET":
            assert request.headers["mcp-session-id"] == SESSION
            assert request.headers["mcp-protocol-version"] == "2025-11-25"
            cursor = request.headers.get("last-event-id")
            return Answer(status=405, headers={}) if cursor is None else self._tell(int(cursor))
        if request.method == "DELETE":
            return Answer(headers=session)
        message = json.loads(request.body)
        match message["method"]:
            case "initialize":
                return self._result(message, HANDSHAKE, session)
            case "tools/list":
                return self._result(message, {"tools": [TOOL]}, session)
            case "tools/call":
                return self._call(message)
        assert "id" not in message
        return Answer(status=202, headers=session)

    def _result(self, message: dict[str, Any], result: Any, headers: dict[str, str]) -> Answer:
        return Answer.json(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), headers=headers)

    def _call(self, message: dict[str, Any]) -> Answer:
        self.calls += 1
        token = message["params"]["_meta"]["progressToken"]
        steps = [
            {"progressToken": token, "progress": step, "total": total, "message": text}
            for step, total, text in PROGRESS
        ]
        said = [{"method": "notifications/progress", "params": step} for step in steps]
        result = {"content": [{"type": "text", "text": f"counted to {STEPS}"}], "isError": False}
        self._events = [(10 * at, each) for at, each in enumerate([*said, {"id": message["id"], "result": result}], 1)]
        return self._tell(0)

    def _tell(self, cursor: int) -> Answer:
        rest = [block(number, message) for number, message in self._events if number > cursor]
        if self._primed:
            rest = [block(cursor + 1, None), *rest]
        if not self._breaks:  # behind the response a resumed stream stays open
            return Answer(rest, End.SILENT if cursor else End.CLEAN, headers=EVENT_STREAM)
        count, half, end = self._breaks.pop(0)
        told = [*rest[:count], *([rest[count][: len(rest[count]) // 2]] if half else [])]
        return Answer(told, end, headers=EVENT_STREAM)


@pytest.fixture(autouse=True)
def nobody_else_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*args: Any, **options: Any) -> None:
        raise AssertionError("the SDK saw the drop")

    transport = "mcp.client.streamable_http.StreamableHTTPTransport"
    monkeypatch.setattr(f"{transport}._handle_reconnection", never)


@asynccontextmanager
async def session(url: str, wrap: Callable[[Any], Any]) -> AsyncIterator[Any]:
    async with (
        async_client("httpx2") as http,
        streamable_http_client(f"{url}/mcp", http_client=wrap(http)) as (read, write),
        mcp.ClientSession(read, write) as made,
    ):
        await made.initialize()
        yield made
        with anyio.fail_after(5):  # the client's own tasks may still be letting go
            while busy(http):  # noqa: ASYNC110 - nobody tells when
                await anyio.sleep(0.01)


async def count(url: str, wrap: Callable[[Any], Any]) -> tuple[str, list[tuple[float, float | None, str | None]]]:
    """Call the tool; return what it says in the end, and on the way."""
    progress: list[tuple[float, float | None, str | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total, message))

    async with session(url, wrap) as api:
        result = await api.call_tool("count", {"steps": STEPS}, progress_callback=note)
    assert not result.is_error
    return result.content[0].text, progress


def watched(notices: list[str]) -> Callable[[Any], Any]:
    return lambda http: rl.wrap(http, policy=policy(), on_event=lambda notice: notices.append(notice.kind))


WHOLE = (f"counted to {STEPS}", PROGRESS)
EVENTS = STEPS + 1


@pytest.mark.parametrize("wrap", [lambda http: http, rl.wrap], ids=["plain", "wrapped"])
async def test_unbroken(anyio_backend: str, wrap: Callable[[Any], Any]) -> None:
    with Scripted(rest=Server()) as server:
        assert await count(server.url, wrap) == WHOLE


@pytest.mark.parametrize("primed", [True, False])
async def test_cut_anywhere(anyio_backend: str, primed: bool) -> None:
    cuts = zip(product(range(1, EVENTS + primed), (False, True)), cycle([End.FIN, End.RST, End.CLEAN]), strict=False)
    for (told, half), end in cuts:
        tool = Server((told, half, end), primed=primed)
        notices: list[str] = []
        with Scripted(rest=tool) as server:
            assert await count(server.url, watched(notices)) == WHOLE, (told, half, end)
        assert tool.calls == 1
        assert notices.count("resume") == 1


async def test_cut_again_and_again(anyio_backend: str) -> None:
    """A server may close each connection after one event, or none: that is how it wants to be polled."""
    breaks = [(1, False, End.CLEAN), (2, False, End.CLEAN), (2, True, End.RST), (0, False, End.CLEAN)]
    tool = Server(*breaks, (2, False, End.FIN), (2, False, End.CLEAN))
    notices: list[str] = []
    with Scripted(rest=tool) as server:
        assert await count(server.url, watched(notices)) == WHOLE
    assert (tool.calls, notices.count("resume")) == (1, 6)


async def test_a_server_that_keeps_nothing(anyio_backend: str) -> None:
    """No ids, no way back: the SDK hears of it, and the tool is not called a second time."""

    class Forgetful(Server):
        def _tell(self, cursor: int) -> Answer:
            blocks = [block(number, message).partition(b"\r\n")[2] for number, message in self._events]
            return Answer(blocks[:2], End.RST, headers=EVENT_STREAM)

    async def note(*_: object) -> None: ...

    tool = Forgetful()
    notices: list[str] = []
    with Scripted(rest=tool) as server:
        async with session(server.url, watched(notices)) as api:
            with pytest.raises(mcp.MCPError, match="ended without a response"):
                await api.call_tool("count", {"steps": STEPS}, progress_callback=note)
    assert tool.calls == 1
    assert "give_up" in notices
