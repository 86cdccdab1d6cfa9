"""Each server starts, answers one uncut stream to a plain client as it should, and is gone afterwards."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from tests.systems import servers

TEXT = "The quick brown fox jumps over the lazy dog.\nŽluťoučký kůň, 日本語 🦊, twice."
AIMOCK_TEXT = "The quick brown fox jumps over the lazy dog.\nŽluťoučký kůň, 日本語, twice."


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as client:
        yield client


def stream(
    client: httpx.Client, method: str, url: str, *, headers: dict[str, str] | None = None, json: object = None
) -> list[ServerSentEvent]:
    headers = {"Accept": "application/json, text/event-stream", **(headers or {})}
    with client.stream(method, url, headers=headers, json=json) as response:
        assert response.status_code == 200
        return list(EventSource(response).iter_sse())


def test_langgraph(langgraph_server: str, client: httpx.Client) -> None:
    thread = client.post(f"{langgraph_server}/threads", json={}).json()["thread_id"]
    run = {
        "assistant_id": "speaker",
        "input": {"messages": [{"role": "user", "content": TEXT}], "seconds": 0.001},
        "stream_mode": ["messages-tuple", "values", "updates"],
        "stream_resumable": True,
    }
    events = stream(client, "POST", f"{langgraph_server}/threads/{thread}/runs/stream", json=run)
    assert events[0].event == "metadata"
    assert "".join(event.json()[0]["content"] for event in events if event.event == "messages") == TEXT
    assert [event.json()["speak"]["messages"][0]["content"] for event in events if event.event == "updates"] == [TEXT]
    assert [event.json()["messages"][-1]["content"] for event in events if event.event == "values"] == [TEXT, TEXT]
    assert all(event.id for event in events)


def test_langgraph_fails_when_told_to(langgraph_server: str, client: httpx.Client) -> None:
    run = {
        "assistant_id": "speaker",
        "input": {"messages": [{"role": "user", "content": TEXT}], "fail_at": 3},
        "stream_mode": ["messages-tuple"],
    }
    events = stream(client, "POST", f"{langgraph_server}/runs/stream", json=run)
    assert [event.event for event in events] == ["metadata", "messages", "messages", "messages", "error"]


def test_fastresponses(fastresponses_server: str, client: httpx.Client) -> None:
    request = {"model": "any", "input": json.dumps({"say": TEXT}), "stream": True, "background": True}
    *events, end = stream(client, "POST", f"{fastresponses_server}/v1/responses", json=request)
    assert end.data == "[DONE]"
    assert [event.json()["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(event.json()["delta"] for event in events if event.event == "response.output_text.delta") == TEXT
    assert events[-1].event == "response.completed"


def test_fastresponses_fails_when_told_to(fastresponses_server: str, client: httpx.Client) -> None:
    request = {"model": "any", "input": json.dumps({"say": TEXT, "fail_at": 2}), "stream": True}
    events = stream(client, "POST", f"{fastresponses_server}/v1/responses", json=request)
    assert [event.event for event in events[-3:]] == ["error", "response.failed", "message"]


def call_tool(client: httpx.Client, url: str, **arguments: Any) -> tuple[list[ServerSentEvent], dict[str, str]]:
    version = "2025-11-25"
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    answer = client.post(
        f"{url}/mcp",
        headers={"Accept": "application/json, text/event-stream"},
        json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello},
    )
    session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"], "MCP-Protocol-Version": version}
    call = {"name": "count", "arguments": {"seconds": 0.01, **arguments}, "_meta": {"progressToken": "p"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return stream(client, "POST", f"{url}/mcp", headers=session, json=request), session


def test_mcp(mcp_server: str, client: httpx.Client) -> None:
    (priming, *progress, result), _ = call_tool(client, mcp_server, steps=3)
    assert (priming.data, priming.retry) == ("", 100)
    assert priming.id
    assert [event.json()["params"]["message"] for event in progress] == ["step 1", "step 2", "step 3"]
    assert result.json()["result"]["content"][0]["text"] == "counted to 3"


def test_mcp_drops_the_connection_when_told_to_and_keeps_the_rest(mcp_server: str, client: httpx.Client) -> None:
    before, session = call_tool(client, mcp_server, steps=4, close_after=2)
    assert 1 <= len(before) <= 3
    headers = {**session, "Last-Event-ID": before[-1].id, "Accept": "text/event-stream"}
    messages = [event.json() for event in before if event.data]
    with client.stream("GET", f"{mcp_server}/mcp", headers=headers) as response:
        for event in EventSource(response).iter_sse():
            messages += [event.json()] if event.data else []
            if "result" in (messages or [{}])[-1]:
                break
    assert [message["params"]["progress"] for message in messages[:-1]] == [1, 2, 3, 4]


def test_durable_streams(durable_streams_server: str, client: httpx.Client) -> None:
    url = f"{durable_streams_server}/v1/stream/whole"
    assert client.put(url, headers={"Content-Type": "application/json"}).status_code == 201
    appended = [{"delta": word} for word in TEXT.split(" ")]

    def write() -> None:
        for number, message in enumerate(appended, start=1):
            last = {"Stream-Closed": "true"} if number == len(appended) else {}
            httpx.post(url, headers=last, json=message).raise_for_status()

    writer = threading.Thread(target=write)
    writer.start()
    events = stream(client, "GET", f"{url}?offset=-1&live=sse")
    writer.join()
    assert [item for event in events if event.event == "data" for item in event.json()] == appended
    assert events[-1].event == "control"
    assert events[-1].json()["streamClosed"] is True


AIMOCK: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", lambda prompt: {"messages": [{"role": "user", "content": prompt}]}),
    "responses": ("/v1/responses", lambda prompt: {"input": prompt}),
    "anthropic": (
        "/v1/messages",
        lambda prompt: {"max_tokens": 100, "messages": [{"role": "user", "content": prompt}]},
    ),
    "gemini": (
        "/v1beta/models/any:streamGenerateContent?alt=sse",
        lambda prompt: {"contents": [{"role": "user", "parts": [{"text": prompt}]}]},
    ),
    "interactions": ("/v1beta/interactions", lambda prompt: {"input": prompt}),
}
TERMINAL = {
    "chat": "[DONE]",
    "responses": '{"type":"response.completed"',
    "anthropic": '{"type":"message_stop"}',
    "gemini": '"finishReason":"STOP"',
    "interactions": '{"event_type":"interaction.completed"',
}


def said(event: ServerSentEvent) -> str:
    match json.loads(event.data) if event.data != "[DONE]" else None:
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
        case {"delta": {"type": "text_delta" | "text", "text": str(text)}}:
            return text
        case {"candidates": [{"content": {"parts": [{"text": str(text)}]}}]}:
            return text
    return ""


@pytest.mark.parametrize("provider", AIMOCK)
def test_aimock(aimock: str, client: httpx.Client, provider: str) -> None:
    path, body = AIMOCK[provider]
    events = stream(client, "POST", aimock + path, json={"model": "any", "stream": True, **body("whole")})
    assert "".join(said(event) for event in events) == AIMOCK_TEXT
    assert TERMINAL[provider] in events[-1].data


@pytest.mark.parametrize("provider", AIMOCK)
@pytest.mark.parametrize("fault", ["truncated", "disconnected"])
def test_aimock_cuts_when_told_to(aimock: str, client: httpx.Client, provider: str, fault: str) -> None:
    path, body = AIMOCK[provider]
    with pytest.raises(httpx.RemoteProtocolError):
        stream(client, "POST", aimock + path, json={"model": "any", "stream": True, **body(fault)})


def test_llama(llama: str, client: httpx.Client) -> None:
    request = {"messages": [{"role": "user", "content": "Count to 5."}], "stream": True, "max_tokens": 8}
    events = stream(client, "POST", f"{llama}/v1/chat/completions", json=request)
    assert any(said(event) for event in events)
    assert events[-1].data == "[DONE]"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
@pytest.mark.parametrize(
    ("fixture", "start"),
    [
        ("langgraph_server", servers.langgraph),
        ("fastresponses_server", servers.fastresponses),
        ("mcp_server", servers.mcp),
        ("durable_streams_server", servers.durable_streams),
        ("aimock", servers.aimock),
    ],
)
def test_a_server_is_gone_after_the_block(
    fixture: str, start: Callable[[], AbstractContextManager[servers.Server]], request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(fixture)  # skips this where the server cannot be run
    with start() as server:
        os.killpg(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "mcp_tools.py").write_text("raise SystemExit('no luck today')")
    monkeypatch.setattr(servers, "APPS", tmp_path)
    with (
        pytest.raises(servers.ServerUnavailable, match=r"the server ended before it was ready[\s\S]*no luck today"),
        servers.mcp(),
    ):
        raise AssertionError


def test_a_server_that_is_never_ready_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "mcp_tools.py").write_text(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); print('hello'); time.sleep(600)"
    )
    monkeypatch.setattr(servers, "APPS", tmp_path)
    monkeypatch.setattr(servers, "_STARTUP_SECONDS", 1.0)
    with pytest.raises(servers.ServerUnavailable, match=r"did not become ready[\s\S]*hello"), servers.mcp():
        raise AssertionError
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
