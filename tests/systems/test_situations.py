"""What is no row of the table: runs that fail or are cancelled while nobody listens, servers that go and come back."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from tests.sockets.clients import FOREIGN_GENERATORS, client
from tests.systems import clients, servers
from tests.systems.absent import needs_python
from tests.systems.clients import POLICY, TEXT, Reader, Seen, ours, read
from tests.systems.test_systems import wait_until

pytestmark = FOREIGN_GENERATORS

CUT = FaultPlan(Fault.rst(at_event=10))
MESSAGES = clients.run(["messages-tuple"])


def after_the_drop(act: Callable[[], None]) -> Seen:
    """A reader that is held up at its first drop until something has been done."""
    seen = Seen(watched=True)
    seen.on_drop = act
    return seen


# LangGraph


def runs(proxy: FaultProxy, server: str) -> tuple[str, list[dict[str, Any]]]:
    """The URL of the thread's runs, and those that there are."""
    url = server + proxy.requests[0].path.removesuffix("/stream")
    found: list[dict[str, Any]] = httpx.get(url, timeout=30).json()
    return url, found


def await_status(proxy: FaultProxy, server: str, status: str) -> None:
    wait_until(lambda: [run["status"] for run in runs(proxy, server)[1]] == [status])


@pytest.mark.parametrize("reader", [clients.langgraph, clients.langgraph_async], ids=["sync", "async"])
def test_a_langgraph_run_that_fails_while_nobody_listens(langgraph_server: str, reader: Reader) -> None:
    """The server does not keep why, but what came before it, and that it has failed."""
    asked = functools.partial(reader, **clients.run(["messages-tuple"], fail_at=30))
    whole = read(asked, langgraph_server)
    with FaultProxy(langgraph_server, CUT) as proxy:
        seen = read(asked, proxy.url, after_the_drop(lambda: await_status(proxy, langgraph_server, "error")))
    assert seen.text == whole.text == TEXT[:30]
    assert [event for event, *_ in seen.events] == [event for event, *_ in whole.events]
    assert seen.error is None
    assert seen.events[-1][1]["error"] == "RunFailed"
    assert not seen.count("give_up")


def test_a_langgraph_run_that_fails_while_somebody_listens(langgraph_server: str) -> None:
    asked = functools.partial(clients.langgraph, **clients.run(["messages-tuple"], fail_at=5))
    whole = read(asked, langgraph_server)
    seen = read(asked, langgraph_server, Seen(watched=True))
    assert seen.events[-1][:2] == whole.events[-1][:2]
    assert seen.events[-1][0] == "error"
    assert not seen.count("drop")


@pytest.mark.parametrize("plan", [FaultPlan(), CUT], ids=["uncut", "cut"])
def test_a_langgraph_run_that_is_cancelled_from_outside(langgraph_server: str, plan: FaultPlan) -> None:
    """Its stream ends like any other; it is no drop."""
    with FaultProxy(langgraph_server, plan) as proxy:
        done = threading.Event()

        def cancel() -> None:
            url, (run,) = runs(proxy, langgraph_server)
            httpx.post(f"{url}/{run['run_id']}/cancel", timeout=30).raise_for_status()
            await_status(proxy, langgraph_server, "interrupted")
            done.set()

        seen = after_the_drop(cancel)
        if not plan.faults:
            seen.on_event = lambda: cancel() if len(seen.events) == 10 else None
        asked = clients.run(["messages-tuple"], seconds=0.1)
        read(functools.partial(clients.langgraph, **asked), proxy.url, seen)
        assert done.is_set()
    assert seen.error is None
    assert TEXT.startswith(seen.text)
    assert len(seen.events) < len(TEXT)
    assert seen.count("drop") == len(plan.faults)
    assert seen.notices[-1].kind == "end"


def test_cancel_stops_a_langgraph_run(langgraph_server: str) -> None:
    body = {"assistant_id": "speaker", **clients.run(["messages-tuple"], seconds=0.1)}
    with FaultProxy(langgraph_server) as proxy, client("httpx", timeout=60) as http:
        url = f"{proxy.url}/threads/{uuid.uuid4()}/runs/stream"
        with rl.connect_sse(http, "POST", url, json=body, policy=POLICY) as stream:
            next(stream.text_deltas())
            stream.cancel()
        await_status(proxy, langgraph_server, "interrupted")
        assert stream.report.events < len(TEXT)


def test_closing_does_not_stop_a_langgraph_run(langgraph_server: str) -> None:
    body = {"assistant_id": "speaker", **MESSAGES}
    with FaultProxy(langgraph_server) as proxy, client("httpx", timeout=60) as http:
        url = f"{proxy.url}/threads/{uuid.uuid4()}/runs/stream"
        with rl.connect_sse(http, "POST", url, json=body, policy=POLICY) as stream:
            next(stream.text_deltas())
            checkpoint = stream.checkpoint
        await_status(proxy, langgraph_server, "success")
        with rl.resume_sse(http, checkpoint, policy=POLICY) as stream:
            assert "".join(stream.text_deltas()) == TEXT[1:]


@pytest.mark.parametrize("how", ["transport", "wrap"])
def test_upgrade_makes_a_langgraph_run_resumable(langgraph_server: str, how: str) -> None:
    """The SDK itself says `stream_resumable: false` where it is told nothing."""
    sdk = importlib.import_module("langgraph_sdk.client")
    with FaultProxy(langgraph_server, CUT) as proxy:
        if how == "transport":
            transport = rl.httpx.ResumableTransport(httpx.HTTPTransport(), policy=POLICY, upgrade=True)
            http = httpx.Client(base_url=proxy.url, transport=transport, timeout=60)
            api = sdk.SyncLangGraphClient(http)
        else:
            http = client("httpx", base_url=proxy.url, timeout=60)
            api = rl.wrap(sdk.SyncLangGraphClient(http), policy=POLICY, upgrade=True)
        asked = {name: value for name, value in MESSAGES.items() if name != "stream_resumable"}
        with http:
            parts = list(api.runs.stream(str(uuid.uuid4()), "speaker", **asked))
        assert proxy.requests[0].fault is not None
    assert "".join(part.data[0]["content"] for part in parts if part.event == "messages") == TEXT
    assert all(part.id for part in parts)


def test_a_clean_end_of_a_langgraph_run_that_is_over_but_was_not_kept(langgraph_server: str) -> None:
    """Without ids nobody can tell it from the real end."""
    body = {"assistant_id": "speaker", **clients.run(["messages-tuple"], resumable=False, seconds=0)}
    with FaultProxy(langgraph_server, FaultPlan(Fault.end(at_event=10))) as proxy, client("httpx") as http:
        url = f"{proxy.url}/threads/{uuid.uuid4()}/runs/stream"

        def hold(notice: rl.Notice) -> None:
            if notice.kind == "status":
                await_status(proxy, langgraph_server, "success")

        with rl.connect_sse(http, "POST", url, json=body, policy=POLICY, on_event=hold) as stream:
            assert len(list(stream)) == 10
        assert not stream.report.end_proved


# fastresponses


def test_cancel_stops_a_background_response(fastresponses_server: str) -> None:
    slow = json.dumps({"say": TEXT, "seconds": 0.3})
    with client("httpx2", timeout=60) as http:
        api = rl.wrap(clients._openai(fastresponses_server, http), policy=POLICY)
        stream = api.responses.create(model="any", input=slow, stream=True, background=True)
        number = next(iter(stream)).response.id
        rl.inspect(stream).cancel()
        stream.close()
        assert api.responses.retrieve(number).status == "cancelled"


def test_a_background_response_that_is_cancelled_from_outside(fastresponses_server: str) -> None:
    """Its stream ends with `[DONE]` and without a final event: that is not the end of an answer."""
    slow = functools.partial(
        clients.openai_responses_events, prompt=json.dumps({"say": TEXT, "seconds": 0.1}), background=True
    )
    seen = Seen(watched=True)

    def cancel() -> None:
        if len(seen.events) == 6:
            number = seen.events[0]["response"]["id"]
            httpx.post(f"{fastresponses_server}/v1/responses/{number}/cancel").raise_for_status()

    seen.on_event = cancel
    read(slow, fastresponses_server, seen)
    assert len(seen.events) < 12
    error = ours(seen.error)
    assert isinstance(error, rl.StreamInterrupted)
    assert error.partial_text == seen.text


@pytest.mark.parametrize("at_event", [3, 6])
def test_a_background_response_that_fails_while_nobody_listens(fastresponses_server: str, at_event: int) -> None:
    """It is told, or cannot be told; in no case does it look whole."""
    broken = json.dumps({"say": TEXT, "fail_at": 4})
    asked = functools.partial(clients.openai_responses_events, prompt=broken, background=True)
    with FaultProxy(fastresponses_server, FaultPlan(Fault.rst(at_event=at_event))) as proxy:
        seen = read(asked, proxy.url, Seen(watched=True))
    assert (seen.events[-1]["type"] == "response.failed") != isinstance(ours(seen.error), rl.StreamInterrupted)
    assert TEXT.startswith(seen.text)


# MCP


@pytest.mark.parametrize("plan", [FaultPlan(), FaultPlan(None, None, Fault.rst(at_event=1))], ids=["uncut", "cut"])
def test_an_mcp_server_that_closes_early(mcp_server: str, plan: FaultPlan) -> None:
    """It may, to be asked again; what is reported meanwhile comes afterwards, once."""
    asked = functools.partial(clients.mcp_tool, steps=6, seconds=0.02, close_after=2)
    with FaultProxy(mcp_server, plan) as proxy:
        seen = read(asked, proxy.url, Seen(watched=True))
        posts = [request for request in proxy.requests if request.method == "POST"]
    assert seen.error is None
    assert seen.final["content"][0]["text"] == "counted to 6"
    assert [message for *_, message in seen.events] == [f"step {number}" for number in range(1, 7)]
    assert len(posts) == 4, "initialize, initialized, the call, and the list of tools; so the tool ran once"


@pytest.mark.xfail(strict=True, reason="what is stored between a replay and what follows it is told to nobody")
def test_an_mcp_server_whose_store_takes_its_time(mcp_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses what happens between the end of a replay and the moment when it listens again; the store has it."""
    monkeypatch.setattr(servers, "APPS", servers.APPS / "slow_store")
    asked = functools.partial(clients.mcp_tool, steps=40, seconds=0.02)
    with servers.mcp() as slow, FaultProxy(slow.url) as proxy:
        seen = Seen(watched=True)

        def begin() -> None:
            wait_until(lambda: sum(request.streamed for request in proxy.requests) == 2)
            proxy.plan = FaultPlan(Fault.rst(at_event=4))

        seen.begin = begin
        read(asked, proxy.url, seen)
    steps = [message for *_, message in seen.events]
    assert steps == [f"step {number}" for number in range(1, len(steps) + 1)]
    assert len(steps) == 40 or seen.error is not None


# Durable Streams


def test_an_idle_durable_stream(durable_streams_server: str) -> None:
    """It says every few seconds that nothing is new; a drop meanwhile loses nothing."""
    place = f"/v1/stream/{uuid.uuid4()}"
    with client("httpx", timeout=30) as http, client("httpx", timeout=30) as other:
        other.put(durable_streams_server + place, headers={"Content-Type": "application/json"})
        other.post(durable_streams_server + place, json="first")
        plan = FaultPlan(Fault.rst(at_seconds=0.3), Fault.end(at_seconds=0.3))
        with FaultProxy(durable_streams_server, plan) as proxy:

            def go_on() -> None:
                wait_until(lambda: len(proxy.requests) == 3 and proxy.requests[2].events_sent >= 2)  # it is idle
                other.post(durable_streams_server + place, json="last", headers={"Stream-Closed": "true"})

            writer = threading.Thread(target=go_on)
            writer.start()
            query = {"offset": "-1", "live": "sse"}
            with rl.connect_sse(http, "GET", proxy.url + place, params=query, policy=POLICY) as stream:
                data = [item for event in stream if event.event == "data" for item in event.json()]
            writer.join()
    assert data == ["first", "last"]
    assert len(stream.report.drops) == 2
    assert stream.report.end_proved


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups")
def test_a_durable_streams_server_that_is_killed_and_started_again(durable_streams_server: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = functools.partial(servers._running_node, str(servers.APPS / "durable_kept.mjs"), str(port), str(tmp_path))
    data: list[Any] = []
    query = {"offset": "-1", "live": "sse"}
    with client("httpx", timeout=30) as http:
        with start() as server:
            url = f"{server.url}/v1/stream/{uuid.uuid4()}"
            httpx.put(url, headers={"Content-Type": "application/json"}).raise_for_status()
            httpx.post(url, json="first").raise_for_status()
            context = rl.connect_sse(http, "GET", url, params=query, policy=POLICY)
            stream = context.__enter__()
            events = iter(stream)
            while not data:
                event = next(events)
                data += event.json() if event.event == "data" else []
            os.killpg(server.pid, signal.SIGKILL)
        with start():
            httpx.post(url, json="last", headers={"Stream-Closed": "true"}).raise_for_status()
            data += [item for event in events if event.event == "data" for item in event.json()]
        context.__exit__(None, None, None)
    assert data == ["first", "last"]
    assert stream.report.drops


# aimock's own faults


GENAI = needs_python("google-genai", (3, 11))


@pytest.mark.parametrize("fault", ["truncated", "disconnected"])
@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        pytest.param(clients.openai_chat, "CannotResume", id="chat"),
        pytest.param(clients.openai_responses_events, "CannotResume", id="responses"),
        pytest.param(clients.anthropic_events, "CannotResume", id="anthropic"),
        pytest.param(clients.genai_chat, "CannotResume", id="gemini", marks=GENAI),
        pytest.param(clients.genai_interactions, "ResumeExpired", id="interactions", marks=GENAI),
    ],
)
def test_what_aimock_itself_cuts(aimock: str, reader: Any, expected: str, fault: str) -> None:
    whole = read(functools.partial(reader, prompt="whole"), aimock)
    assert whole.error is None
    with FaultProxy(aimock) as proxy:
        seen = read(functools.partial(reader, prompt=fault), proxy.url, Seen(watched=True))
        (sent,) = [request.events_sent for request in proxy.requests if request.streamed]
    error = ours(seen.error)
    assert type(error).__name__ == expected
    assert isinstance(error, rl.StreamInterrupted)
    assert error.partial_text == seen.text
    assert whole.text.startswith(seen.text)
    assert len(seen.events) == sent < len(whole.events) + 1


# A server that ignores a partial answer, and begins anew

CHAT = ("/v1/chat/completions", {"model": "m"})
CLAUDE = ("/v1/messages", {"model": "claude-3-5-sonnet-latest", "max_tokens": 99})


def cut_and_told(server: str, path: str, body: dict[str, Any], cut: int, **options: Any) -> tuple[str, rl.Report, bool]:
    """The text of an answer that is cut behind so many events, its report, and whether a continuation was refused."""
    asked = {**body, "messages": [{"role": "user", "content": "whole"}], "stream": True}
    headers = {"anthropic-version": "2023-06-01"}
    text: list[str] = []
    plan = FaultPlan(Fault.rst(at_event=cut) if cut else None)
    with FaultProxy(server, plan) as proxy, client("httpx") as http, contextlib.ExitStack() as stack:
        url = proxy.url + path
        told = stack.enter_context(
            rl.connect_sse(http, "POST", url, json=asked, headers=headers, policy=POLICY, **options)
        )
        with contextlib.suppress(rl.ContinuationRefused):
            text.extend(told.text_deltas())
            return "".join(text), told.report, False
        return "".join(text), told.report, True


@pytest.mark.parametrize("can_continue", [None, True], ids=["tried", "believed"])
@pytest.mark.parametrize(("path", "body"), [CHAT, CLAUDE], ids=["chat", "anthropic"])
def test_no_answer_is_spliced_by_a_server_that_begins_anew(
    aimock: str, path: str, body: dict[str, Any], can_continue: bool | None
) -> None:
    whole, plain, _ = cut_and_told(aimock, path, body, 0)
    refusals = 0
    for cut in range(3, plain.events - 2):
        text, report, refused = cut_and_told(aimock, path, body, cut, fallback="continue", can_continue=can_continue)
        assert whole.startswith(text)
        if not refused:  # all of it came again, which can be seen, and was taken off
            assert (text, report.fidelity) == (whole, "continued")
        refusals += refused
    assert refusals


@pytest.mark.parametrize(("path", "body"), [CHAT, CLAUDE], ids=["chat", "anthropic"])
def test_a_server_that_says_the_same_again(aimock: str, path: str, body: dict[str, Any]) -> None:
    whole, plain, _ = cut_and_told(aimock, path, body, 0)
    for cut in range(3, plain.events - 2):
        text, report, _ = cut_and_told(aimock, path, body, cut, fallback="replay")
        assert (text, report.fidelity, report.attempts) == (whole, "verified", 2)
