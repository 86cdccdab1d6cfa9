"""MCP: which POSTs are its requests, what ends their streams, how to go on and how to cancel."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from resumable_llm.core.actions import Deliver, Read
from resumable_llm.core.events import Fields
from resumable_llm.core.model import Checkpoint, Limits, Position, Progress, Reading, RequestPlan
from resumable_llm.dialects import named, recognise
from resumable_llm.dialects.mcp import Mcp, McpStateless
from tests.conversation import World, load, play

MCP, STATELESS = Mcp(), McpStateless()
URL = "https://tools.example/mcp?tenant=blue"
ACCEPT = ("Accept", "application/json, text/event-stream")
SESSION = (("Authorization", "Bearer s3cret"), ("Mcp-Session-Id", "session-7"), ("MCP-Protocol-Version", "2025-11-25"))
CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "count"}}


def post(body: Any = CALL, *headers: tuple[str, str], accept: str = ACCEPT[1]) -> RequestPlan:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RequestPlan("POST", URL, (("Accept", accept), ("Content-Type", "application/json"), *headers), content)


def call(**more: Any) -> RequestPlan:
    return post({**CALL, **more}, *SESSION)


def version(number: str) -> RequestPlan:
    return post(CALL, ("MCP-Protocol-Version", number))


def event(**message: Any) -> Fields:
    return Fields("message", json.dumps({"jsonrpc": "2.0", **message}), "5", None)


class TestRecognition:
    @pytest.mark.parametrize(
        ("request_", "name"),
        [
            (call(), "mcp"),
            (version("2024-11-05"), "mcp"),
            (version("2025-11-25"), "mcp"),
            (version("2026-07-28"), "mcp_stateless"),
            (version("2027-01-01"), "mcp_stateless"),
            (replace(call(), body=None), "mcp"),
            (post({**CALL, "method": "anything"}, *SESSION), "mcp"),
            (post(CALL), "mcp"),
            (post(CALL, accept="text/event-stream"), "mcp"),
            (post({"method": "initialize", "params": {}, "jsonrpc": "2.0", "id": 0}), "mcp"),
            (post({**CALL, "method": "resources/read"}), "mcp"),
            # others who accept event streams
            (post({"model": "m", "messages": [], "stream": True}), "last_event_id"),
            (post({**CALL, "method": "message/stream"}), "last_event_id"),  # A2A: many responses to one request
            (post({**CALL, "method": "SendStreamingMessage"}), "last_event_id"),
            (post({**CALL, "method": "initialized"}), "last_event_id"),
            (post({"arguments": CALL, "tools": ["tools/call"]}), "last_event_id"),
            (post({"input": json.dumps(CALL)}), "last_event_id"),
            (post(b'{"jsonrpc"'), "last_event_id"),
            (post(b'{"jsonrpc":"2.0","method":"tools/call"'), "last_event_id"),
            (replace(post(), body=None), "last_event_id"),
            (post([CALL, CALL], *SESSION), "last_event_id"),
            (RequestPlan("GET", URL, (ACCEPT, *SESSION)), "last_event_id"),
            (RequestPlan("GET", URL, (ACCEPT, *SESSION, ("Last-Event-ID", "5"))), "last_event_id"),
        ],
    )
    def test_by_whom(self, request_: RequestPlan, name: str) -> None:
        found = recognise(request_)
        assert found is not None
        assert found.name == name

    @pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
    def test_not_without_event_streams(self, accept: str) -> None:
        assert not MCP.recognises(post(CALL, *SESSION, accept=accept))

    def test_a_checkpoint_finds_its_dialect(self) -> None:
        assert {type(named(each.name)) for each in (MCP, STATELESS)} == {Mcp, McpStateless}

    @pytest.mark.parametrize(("number", "handle"), [(7, "7"), ("7", '"7"'), (0, "0"), (None, None)])
    def test_the_requests_id_is_the_handle(self, number: Any, handle: str | None) -> None:
        assert MCP.handle(call(id=number), {}) == handle
        assert MCP.handle(replace(call(), body=None), {}) is None


class TestRead:
    @pytest.mark.parametrize(
        ("fields", "reading"),
        [
            (Fields(None, "", "3", 100), Reading(keepalive=True, resting=True)),
            (Fields("message", None, "3", None), Reading(keepalive=True, resting=True)),
            (event(method="notifications/progress", params={"result": 1, "error": 2}), Reading()),
            (event(id=7, method="sampling/createMessage", params={}), Reading()),
            (event(id=7, method="ping", result=None), Reading()),
            (event(id=7, result={}), Reading(terminal=True)),
            (event(id=7, result={"isError": True}), Reading(terminal=True)),
            (event(id=7, result=None), Reading(terminal=True)),
            (event(id="other", result={}), Reading(terminal=True)),
            (event(id=7, error={"code": -32601, "message": "no"}), Reading(terminal=True, error="-32601")),
            (event(id=None, error="no"), Reading(terminal=True, error="unnamed error")),
            (event(id=7), Reading()),
            (Fields("message", "no JSON", "5", None), Reading()),
            (Fields("message", "[1]", "5", None), Reading()),
        ],
    )
    def test_read(self, fields: Fields, reading: Reading) -> None:
        assert MCP.read(fields) == STATELESS.read(fields) == reading

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            (event(id=7, result={"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]}), "ab"),
            (event(id=7, result={"content": ["a", {"text": None}]}), ""),
            (event(id=7, result={"content": "a"}), ""),
            (event(id=7, result={"tools": []}), ""),
            (event(id=7, error={"code": 1}), ""),
            (event(method="notifications/progress", params={"message": "a"}), ""),
            (Fields(None, "", "3", None), ""),
        ],
    )
    def test_text(self, fields: Fields, text: str) -> None:
        assert MCP.text(fields) == text


class TestWaysBack:
    def test_resume_is_a_get_in_the_same_session(self) -> None:
        plan = MCP.resume(Progress(call(), Position("é"), "7", delivered=True))
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == ("GET", URL, b"")
        assert plan.headers == (
            *SESSION,
            ("Accept", "text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Last-Event-ID", "é".encode().decode("latin-1")),
        )

    def test_resume_needs_no_body(self) -> None:
        assert MCP.resume(Progress(replace(call(), body=None), Position("5"))) is not None

    @pytest.mark.parametrize(
        ("request_", "position"),
        [(call(), Position()), (call(method="initialize"), Position("5"))],
    )
    def test_no_resume(self, request_: RequestPlan, position: Position) -> None:
        assert MCP.resume(Progress(request_, position, delivered=True)) is None

    def test_nothing_is_asked_twice(self) -> None:
        for dialect in (MCP, STATELESS):
            assert not dialect.may_repeat(Progress(call()))
            assert not dialect.honours_ids

    def test_without_sessions_there_is_none(self) -> None:
        progress = Progress(version("2026-07-28"), Position("5"), "7", delivered=True)
        assert STATELESS.resume(progress) is None
        assert STATELESS.cancel(progress) is None
        assert "2026-07-28" in STATELESS.keeps


class TestCancel:
    @pytest.mark.parametrize(("handle", "number"), [("7", 7), ('"7"', "7")])
    def test_is_a_notification(self, handle: str, number: Any) -> None:
        plan = MCP.cancel(Progress(call(), handle=handle))
        assert plan is not None
        assert (plan.method, plan.url) == ("POST", URL)
        assert {**dict(plan.headers), "Content-Length": "n"} == {
            "Accept": ACCEPT[1],
            **dict(SESSION),
            "Content-Type": "application/json",
            "Content-Length": "n",
        }
        said = json.loads(plan.body or b"")
        assert (said["jsonrpc"], said["method"], said["params"]["requestId"]) == (
            "2.0",
            "notifications/cancelled",
            number,
        )
        assert "id" not in said

    def test_the_handshake_must_not_be_cancelled(self) -> None:
        assert MCP.cancel(Progress(call(method="initialize"), handle="0")) is None

    def test_without_an_id_there_is_nothing_to_name(self) -> None:
        assert MCP.cancel(Progress(call())) is None


def test_priming_events_do_not_hide_that_nothing_comes() -> None:
    case = load("mcp/whole")[0]
    talk = case.converse(one_by_one=True, limits=Limits(event_timeout=60.0))
    talk.start(0.0)
    talk.next_action()
    talk.receive_response(200, {"content-type": "text/event-stream"}, 0.0)
    for now in (1.0, 31.0, 59.0):
        talk.receive_data(case.blocks[0], now)
        assert isinstance(talk.next_action(), Deliver)
        assert isinstance(talk.next_action(), Read)
    talk.receive_data(case.blocks[0], 61.0)
    assert [drop.way for drop in talk.report.drops] == ["resume"]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_what_happened_before_a_connection_began_to_listen_is_not_lost(one_by_one: bool) -> None:
    """It has told what was kept, and where it is now; what happened in between is told when it is asked again."""
    case = load("mcp/whole")[0]
    first = sum(map(len, case.blocks[:2]))
    late = "id: 99\r\ndata: \r\n\r\n"
    answers = [{"cut": first, "ends": "reset"}, {"sse": late}, {}]
    case = replace(case, data={**case.data, "answers": answers})
    log = play(case.converse(one_by_one=one_by_one), World(case), 7, slices=not one_by_one)
    assert [asked["last_event_id"] for asked in log.asked] == [None, "4", "4"]
    assert (log.outcome, log.proved) == ("end", True)
    assert log.told == [*case.whole[:2], ("message", ""), *case.whole[2:]]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_head_and_tail_are_the_whole(one_by_one: bool) -> None:
    case = load("mcp/whole")[0]
    case = replace(case, data={**case.data, "answers": [{}, {}]})
    for events in range(1, len(case.whole)):
        first = case.converse(one_by_one=one_by_one)
        head = play(first, World(case), 7, slices=not one_by_one, stop_after=events)
        checkpoint = Checkpoint.from_json(first.checkpoint.to_json())
        assert "made-up" not in checkpoint.to_json()
        tail = play(
            case.converse(one_by_one=one_by_one, checkpoint=checkpoint),
            World(case, body="rest"),
            7,
            slices=not one_by_one,
        )
        assert tail.outcome == "end"
        assert head.told[: checkpoint.events] + tail.told == case.whole
