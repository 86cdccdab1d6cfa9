from __future__ import annotations

import gc
import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import httpx_sse
import pytest

import resumable_llm as rl
from resumable_llm.core.events import Fields
from resumable_llm.dialects import LastEventId
from resumable_llm.log import MemoryStore
from tests.core import artificial
from tests.in_memory import (
    ACCEPT,
    CHAT,
    CHAT_URL,
    EVENTS_URL,
    FAMILIES,
    LLAMA,
    SSE,
    Said,
    chat,
    numbered,
    policy,
    transport,
)
from tests.sockets.clients import FOREIGN_GENERATORS

pytestmark = FOREIGN_GENERATORS


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def client(family: str, *script: Said, **options: Any) -> Any:
    """A client whose answers are at hand; its transport knows the requests."""
    inner = transport(family, *script)
    return importlib.import_module(family).Client(transport=inner, trust_env=False, **options)


def async_client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).AsyncClient(transport=inner, trust_env=False, **options)


def requests(http: Any) -> list[Any]:
    seen: list[Any] = http._transport.requests
    return seen


def data(stream: Any) -> list[str]:
    return [event.data for event in stream]


PLAIN = b"".join(
    [
        b"\xef\xbb\xbf: welcome\n\n",
        b"data: one\n\n",
        b"event: named\r\nid: 7\r\ndata: two\r\ndata:lines\r\n\r\n",
        b"data\n\n",
        b"retry: 10\ndata: \xc3\xa9\xe2\x80\xa8\n\n",
        b'id: 8\ndata: {"a": 1}\n\n',
    ]
)


def as_httpx_sse_reads(body: bytes) -> list[str]:
    response = httpx.Response(200, headers=SSE, content=body.removeprefix(b"\xef\xbb\xbf"))
    return [repr(event) for event in httpx_sse.EventSource(response).iter_sse()]


# Events


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_events_are_those_of_httpx_sse(family: str, size: int) -> None:
    chunks = [PLAIN[at : at + size] for at in range(0, len(PLAIN), size)]
    with rl.connect_sse(client(family, Said(chunks), Said()), "GET", EVENTS_URL, policy=policy()) as stream:
        ours = list(stream)
    assert [repr(event) for event in ours] == as_httpx_sse_reads(PLAIN)
    assert all(type(event) is httpx_sse.ServerSentEvent for event in ours)
    assert ours[-1].json() == {"a": 1}


async def test_the_events_are_those_of_httpx_sse_async(family: str) -> None:
    async with rl.aconnect_sse(async_client(family, Said([PLAIN]), Said()), "GET", EVENTS_URL) as stream:
        assert [repr(event) async for event in stream] == as_httpx_sse_reads(PLAIN)


MCP_REQUEST: dict[str, Any] = {
    "headers": {"accept": "application/json, text/event-stream", "mcp-session-id": "s"},
    "json": {"jsonrpc": "2.0", "id": 1, "method": "tools/call"},
}
MCP_STREAM = [b"id: 3\ndata: \n\n", b"id: 4\ndata: {}\n\n", b"id: 7\ndata: \n\n", b'id: 8\ndata: {"result":{}}\n\n']


async def test_an_events_id_is_its_own_where_the_place_to_go_on_from_is_another(family: str) -> None:
    script = Said(MCP_STREAM[:3], ends="ReadError"), Said(MCP_STREAM[3:])
    http, other = client(family, *script), async_client(family, *script)
    with rl.connect_sse(http, "POST", EVENTS_URL, **MCP_REQUEST, policy=policy()) as stream:
        assert [repr(event) for event in stream] == as_httpx_sse_reads(b"".join(MCP_STREAM))
    async with rl.aconnect_sse(other, "POST", EVENTS_URL, **MCP_REQUEST, policy=policy()) as same:
        assert [repr(event) async for event in same] == as_httpx_sse_reads(b"".join(MCP_STREAM))
    assert requests(http)[1].headers["last-event-id"] == requests(other)[1].headers["last-event-id"] == "4"


def test_what_dispatches_no_event_is_none(family: str) -> None:
    script = Said([b"event: named\n\n", b": ping\n\n", b"id: 5\n\n", b"data: one\n\n"]), Said()
    with rl.connect_sse(client(family, *script), "GET", EVENTS_URL) as stream:
        assert [(event.data, event.id) for event in stream] == [("one", "5")]


async def test_what_dispatches_no_event_is_none_async(family: str) -> None:
    script = Said([b"event: named\n\n", b": ping\n\n", b"id: 5\n\n", b"data: one\n\n"]), Said()
    async with rl.aconnect_sse(async_client(family, *script), "GET", EVENTS_URL) as stream:
        assert [(event.data, event.id) async for event in stream.aiter_sse()] == [("one", "5")]


def test_events_over_several_connections(family: str) -> None:
    notices: list[str] = []
    http = client(
        family,
        Said(numbered(1, 2), ends="RemoteProtocolError"),
        Said(down="ConnectError"),
        Said(numbered(2, 3), ends="ReadTimeout"),
        Said(numbered(4)),
        Said(),
    )
    told = notices.append
    with rl.connect_sse(http, "GET", EVENTS_URL, policy=policy(), on_event=lambda n: told(n.kind)) as stream:
        assert stream.iter_sse() is iter(stream)
        assert data(stream) == [f"part {number}" for number in range(1, 5)]
        assert (stream.report.attempts, stream.report.replayed, stream.report.end_proved) == (5, 1, True)
        assert "<table>" in stream._repr_html_()
    assert [seen.headers.get("last-event-id") for seen in requests(http)] == [None, "2", "2", "3", "4"]
    assert notices == ["drop", "resume", "drop", "resume", "drop", "resume", "confirm", "end"]


async def test_events_over_several_connections_async(family: str) -> None:
    http = async_client(
        family, Said(numbered(1), ends="ReadError"), Said(down="ConnectError"), Said(numbered(2)), Said()
    )
    async with rl.aconnect_sse(http, "GET", EVENTS_URL, policy=policy()) as stream:
        assert [event.id async for event in stream] == ["1", "2"]
        assert stream.report.attempts == 4


def test_a_second_iteration_goes_on(family: str) -> None:
    with rl.connect_sse(client(family, Said(numbered(1, 2)), Said()), "GET", EVENTS_URL) as stream:
        assert next(iter(stream)).id == "1"
        assert [event.id for event in stream] == ["2"]


def test_leaving_early_lets_go(family: str) -> None:
    http = client(family, Said(numbered(1, 2)))
    with rl.connect_sse(http, "GET", EVENTS_URL) as stream:
        next(iter(stream))
    assert http._transport.bodies[0].closed
    assert data(stream) == []


async def test_leaving_early_lets_go_async(family: str) -> None:
    http = async_client(family, Said(numbered(1, 2)))
    async with rl.aconnect_sse(http, "GET", EVENTS_URL) as stream:
        await anext(aiter(stream))
    assert http._transport.bodies[0].closed
    assert [event async for event in stream] == []


def test_the_checkpoint_is_exact_at_each_event(family: str) -> None:
    with rl.connect_sse(client(family, Said([b"".join(numbered(1, 2, 3))]), Said()), "GET", EVENTS_URL) as stream:
        places = [(stream.checkpoint.events, stream.checkpoint.last_event_id, event.id) for event in stream]
        assert places == [(1, "1", "1"), (2, "2", "2"), (3, "3", "3")]
        assert stream.checkpoint.complete


def test_text_deltas(family: str) -> None:
    http = client(family, Said(chat("a", "", "b", done=True)))
    with rl.connect_sse(http, "POST", CHAT_URL, json=CHAT) as stream:
        assert list(stream.text_deltas()) == ["a", "b"]


async def test_text_deltas_async(family: str) -> None:
    http = async_client(family, Said(chat("a", "", "b", done=True)))
    async with rl.aconnect_sse(http, "POST", CHAT_URL, json=CHAT) as stream:
        assert [text async for text in stream.text_deltas()] == ["a", "b"]


def test_an_answer_that_cannot_be_completed(family: str) -> None:
    http = client(family, Said(chat("a"), ends="ReadError"))
    with (
        rl.connect_sse(http, "POST", CHAT_URL, json=CHAT) as stream,
        pytest.raises(rl.CannotResume) as caught,
    ):
        list(stream)
    assert isinstance(caught.value, importlib.import_module(family).RemoteProtocolError)
    assert caught.value.partial_text == "a"
    assert caught.value.checkpoint == stream.checkpoint
    assert caught.value.__cause__ is not None


FAILED = [*chat("a"), b'data: {"error": {"code": "overloaded", "message": "secret"}}\n\n']


def test_an_answer_that_failed_upstream(family: str) -> None:
    with rl.connect_sse(client(family, Said(FAILED)), "POST", CHAT_URL, json=CHAT) as stream:
        assert next(iter(stream)).data.startswith("{")
        next(iter(stream))
        with pytest.raises(rl.UpstreamFailed, match="overloaded") as caught:
            next(iter(stream))
    assert isinstance(caught.value, importlib.import_module(family).RemoteProtocolError)
    assert caught.value.partial_text == "a"
    assert "secret" not in str(caught.value)


async def test_an_answer_that_failed_upstream_async(family: str) -> None:
    async with rl.aconnect_sse(async_client(family, Said(FAILED)), "POST", CHAT_URL, json=CHAT) as stream:
        with pytest.raises(rl.UpstreamFailed, match="overloaded"):
            [event async for event in stream]


# Before the answer


def test_a_refusal_is_an_http_status_error(family: str) -> None:
    http = client(family, Said([b'{"error": "no"}'], status=401, headers={"content-type": "application/json"}))
    with (
        pytest.raises(importlib.import_module(family).HTTPStatusError) as caught,
        rl.connect_sse(http, "GET", EVENTS_URL, policy=policy()),
    ):
        raise AssertionError("it must not be entered")
    assert caught.value.response.json() == {"error": "no"}
    assert len(requests(http)) == 1


async def test_a_refusal_is_an_http_status_error_async(family: str) -> None:
    http = async_client(family, Said([b"no"], status=401))
    with pytest.raises(importlib.import_module(family).HTTPStatusError) as caught:
        async with rl.aconnect_sse(http, "GET", EVENTS_URL, policy=policy()):
            raise AssertionError("it must not be entered")
    assert caught.value.response.text == "no"
    assert len(requests(http)) == 1


def test_an_answer_that_is_no_stream_is_an_sse_error(family: str) -> None:
    http = client(family, Said([b"{}"], headers={"content-type": "application/json"}))
    with pytest.raises(httpx_sse.SSEError, match="application/json"), rl.connect_sse(http, "GET", EVENTS_URL):
        raise AssertionError("it must not be entered")
    assert http._transport.bodies[0].closed
    with (
        pytest.raises(httpx_sse.SSEError, match="no content type"),
        rl.connect_sse(client(family, Said(headers={})), "GET", EVENTS_URL),
    ):
        raise AssertionError("it must not be entered")


def test_a_server_that_is_busy_is_asked_again(family: str) -> None:
    http = client(family, Said(status=503), Said(down="ConnectError"), Said(chat("a", done=True)))
    with rl.connect_sse(http, "POST", CHAT_URL, json=CHAT, policy=policy()) as stream:
        assert list(stream.text_deltas()) == ["a"]
    assert len({seen.headers["idempotency-key"] for seen in requests(http)}) == 1
    assert [seen.body for seen in requests(http)] == [requests(http)[0].body] * 3


def test_a_server_that_stays_busy_is_an_http_status_error(family: str) -> None:
    http = client(family, *[Said([b"busy"], status=503)] * 3)
    with (
        pytest.raises(importlib.import_module(family).HTTPStatusError) as caught,
        rl.connect_sse(http, "POST", CHAT_URL, json=CHAT, policy=policy()),
    ):
        raise AssertionError("it must not be entered")
    assert caught.value.response.text == "busy"
    assert len(requests(http)) == 3


def test_a_refusal_of_the_second_request_is_an_http_status_error(family: str) -> None:
    http = client(family, Said(status=503), Said(status=401))
    with (
        pytest.raises(importlib.import_module(family).HTTPStatusError) as caught,
        rl.connect_sse(http, "POST", CHAT_URL, json=CHAT, policy=policy()),
    ):
        raise AssertionError("it must not be entered")
    assert caught.value.response.status_code == 401
    assert all(body.closed for body in http._transport.bodies)


def test_the_response_is_the_one_that_streams(family: str) -> None:
    http = client(family, Said(status=503), Said(chat(done=True)))
    with rl.connect_sse(http, "POST", CHAT_URL, json=CHAT, policy=policy()) as stream:
        assert stream.response.status_code == 200


async def test_the_response_is_the_one_that_streams_async(family: str) -> None:
    http = async_client(family, Said(status=503), Said(chat("a"), ends="ReadError"))
    async with rl.aconnect_sse(http, "POST", CHAT_URL, json=CHAT, policy=policy()) as stream:
        assert stream.response.status_code == 200


def test_the_response_stays_the_one_that_streamed_first(family: str) -> None:
    again = Said(numbered(2), headers={**SSE, "x-request-id": "second"})
    http = client(family, Said(numbered(1), ends="ReadError"), again, Said())
    with rl.connect_sse(http, "GET", EVENTS_URL, policy=policy()) as stream:
        assert data(stream) == ["part 1", "part 2"]
        assert "x-request-id" not in stream.response.headers


def test_no_server_at_all(family: str) -> None:
    http = client(family, *[Said(down="ConnectError")] * 3)
    with pytest.raises(rl.RetriesExhausted) as caught, rl.connect_sse(http, "GET", EVENTS_URL, policy=policy()):
        raise AssertionError("it must not be entered")
    library = importlib.import_module(family)
    assert isinstance(caught.value, library.TransportError)
    assert isinstance(caught.value.__cause__, library.ConnectError)
    assert len(requests(http)) == 3


def test_what_the_request_holds(family: str) -> None:
    http = client(
        family,
        Said(numbered(1), ends="ReadError"),
        Said(numbered(2)),
        Said(),
        base_url="https://api.example/v1",
        auth=("me", "s3cret"),
        cookies={"kept": "yes"},
        params={"version": "7"},
        headers={"x-mine": "1"},
        timeout=9,
    )
    with rl.connect_sse(http, "POST", "things", json={"a": 1}, headers={"x-this": "2"}, policy=policy()) as stream:
        assert len(data(stream)) == 2
    for seen in requests(http):
        assert (seen.method, seen.url) == ("POST", "https://api.example/v1/things?version=7")
        assert seen.body.replace(b" ", b"") == b'{"a":1}'
        assert seen.headers["authorization"].startswith("Basic ")
        assert seen.headers["cookie"] == "kept=yes"
        assert (seen.headers["x-mine"], seen.headers["x-this"]) == ("1", "2")
        assert (seen.headers["accept"], seen.headers["accept-encoding"]) == ("text/event-stream", "identity")
        assert seen.extensions["timeout"]["read"] == 9


def test_an_accept_of_the_callers_own(family: str) -> None:
    http = client(family, Said())
    with rl.connect_sse(http, "GET", EVENTS_URL, headers={"accept": "text/event-stream;v=2"}) as stream:
        assert data(stream) == []
    assert requests(http)[0].headers["accept"] == "text/event-stream;v=2"


LINES = {"content-type": "application/x-ndjson"}
OLLAMA = "https://api.example/api/chat"


@pytest.mark.parametrize("accept", [{}, {"accept": "*/*"}])
def test_what_is_accepted_depends_on_the_dialect(family: str, accept: dict[str, str]) -> None:
    script = Said([b'{"done":true}\n'], headers=LINES)
    chosen: list[dict[str, Any]] = [{"dialect": artificial.Lines()}, {}]
    for options in chosen:
        http = client(family, script)
        body = {"model": "m"}
        with rl.connect_sse(http, "POST", OLLAMA, json=body, headers=accept, **options) as stream:
            assert stream.report.dialect == ("lines" if options else "ollama")
        assert requests(http)[0].headers["accept"] == "application/x-ndjson"


def test_an_accept_of_the_callers_own_is_that_of_lines_too(family: str) -> None:
    http = client(family, Said([b'{"done":true}\n'], headers=LINES))
    with rl.connect_sse(http, "POST", OLLAMA, json={"model": "m"}, headers={"accept": "application/json"}) as stream:
        assert data(stream) == ['{"done":true}']
    assert requests(http)[0].headers["accept"] == "application/json"


def test_events_of_lines(family: str) -> None:
    """Each line is an event; the last one may lack its line feed."""
    lines = [b'{"event_id":"a"}\n{"n"', b":1}\n", b'{"same":"\xc3\xa9"}\r\n', b"\n"]
    script = Said(lines, ends="ReadError", headers=LINES), Said([b'{"n":1}\n', lines[2], b'{"end":1}'], headers=LINES)
    http = client(family, *script)
    with rl.connect_sse(http, "GET", EVENTS_URL, dialect=artificial.CursorLines(), policy=policy()) as stream:
        events = list(stream)
        assert stream.report.replayed == 2
    assert [event.json() for event in events] == [{"event_id": "a"}, {"n": 1}, {"same": "é"}, {"end": 1}]
    assert {(event.event, event.id, event.retry) for event in events} == {("message", "", None)}
    assert [httpx.URL(seen.url).params.get("last_event_id") for seen in requests(http)] == [None, "a"]


RESPONSES_URL = "https://api.example/v1/responses"
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","sequence_number":0,"response":{}}\n\n'


def test_a_request_is_upgraded(family: str) -> None:
    http = client(family, Said([COMPLETED]), Said([COMPLETED]))
    for upgrade, kept in ((True, True), (False, None)):
        body = {"model": "m", "stream": True}
        with rl.connect_sse(http, "POST", RESPONSES_URL, json=body, upgrade=upgrade) as stream:
            assert len(data(stream)) == 1
        seen = requests(http)[-1]
        said = json.loads(seen.body)
        assert (said.get("background"), said.get("store")) == (kept, kept)
        assert seen.headers["content-length"] == str(len(seen.body))


@pytest.mark.parametrize(
    ("url", "body", "why"),
    [
        (RESPONSES_URL, {"stream": True, "store": False}, "store: false"),
        (CHAT_URL, CHAT, "openai_chat has nothing that would make this request resumable"),
        (EVENTS_URL, {}, "last_event_id has nothing"),
    ],
)
async def test_an_upgrade_that_is_refused(family: str, url: str, body: dict[str, Any], why: str) -> None:
    """Before anything is sent."""
    http, other = client(family), async_client(family)
    with pytest.raises(rl.UpgradeRefused, match=why):
        rl.connect_sse(http, "POST", url, json=body, upgrade=True)
    with pytest.raises(rl.UpgradeRefused, match=why):
        rl.aconnect_sse(other, "POST", url, json=body, upgrade=True)
    assert requests(http) == requests(other) == []


def test_keys_and_cursors_of_the_callers_own(family: str) -> None:
    http = client(family, Said(numbered(5)), Said())
    with rl.connect_sse(http, "POST", EVENTS_URL, idempotency_key="mine", last_event_id="4") as stream:
        assert data(stream) == ["part 5"]
        assert stream.checkpoint.idempotency_key == "mine"
    assert [seen.headers["idempotency-key"] for seen in requests(http)] == ["mine", "mine"]
    assert [seen.headers["last-event-id"] for seen in requests(http)] == ["4", "5"]


def test_a_timeout_for_this_call(family: str) -> None:
    http = client(family, Said(), timeout=9)
    with rl.connect_sse(http, "GET", EVENTS_URL, timeout=3) as stream:
        assert data(stream) == []
    assert requests(http)[0].extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 3)


def test_extensions_for_this_call(family: str) -> None:
    http = client(family, Said())
    with rl.connect_sse(http, "GET", EVENTS_URL, extensions={"sni_hostname": "other.example"}) as stream:
        assert data(stream) == []
    assert requests(http)[0].extensions["sni_hostname"] == "other.example"


def test_params_for_this_call(family: str) -> None:
    http = client(family, Said(), params={"version": "7"})
    with rl.connect_sse(http, "GET", EVENTS_URL, params={"version": "8"}) as stream:
        assert data(stream) == []
    assert requests(http)[0].url == f"{EVENTS_URL}?version=8"


@pytest.mark.parametrize("body", [lambda: {"content": iter([b"body"])}, lambda: {"files": {"f": b"body"}}])
def test_a_body_that_streams_from_somewhere(family: str, body: Callable[[], dict[str, Any]]) -> None:
    http = client(family, Said())
    with rl.connect_sse(http, "POST", EVENTS_URL, **body()) as stream:
        assert data(stream) == []
    assert b"body" in requests(http)[0].body


def test_a_header_that_is_not_ascii(family: str) -> None:
    http = client(family, Said(numbered(1)), Said())
    with rl.connect_sse(http, "GET", EVENTS_URL, headers={"x-title": "café".encode()}) as stream:
        assert data(stream) == ["part 1"]
    assert [seen.headers["x-title"] for seen in requests(http)] == ["café", "café"]


def test_a_redirect_is_followed_if_the_client_follows(family: str) -> None:
    moved = Said(status=307, headers={"location": "/v2/events"})
    http = client(family, moved, Said(numbered(1)), Said(), follow_redirects=True)
    with rl.connect_sse(http, "GET", EVENTS_URL) as stream:
        assert data(stream) == ["part 1"]


def test_a_redirect_is_followed_again(family: str) -> None:
    moved = Said(status=307, headers={"location": "/v2/chat/completions"})
    http = client(family, moved, Said(ends="ReadError"), moved, Said(chat("a", done=True)), follow_redirects=True)
    with rl.connect_sse(http, "POST", CHAT_URL, json=CHAT, policy=policy()) as stream:
        assert list(stream.text_deltas()) == ["a"]


# What ends an answer


@pytest.mark.parametrize("terminal", ["done", "[END]", lambda event: event.data == "[END]"])
def test_an_end_that_the_caller_knows(family: str, terminal: str | Callable[[Fields], bool]) -> None:
    end = b"event: done\ndata: [END]\n\n"
    http = client(family, Said(numbered(1)), Said([*numbered(2), end, *numbered(3)]))
    with rl.connect_sse(http, "GET", EVENTS_URL, terminal=terminal, policy=policy()) as stream:
        assert data(stream) == ["part 1", "part 2", "[END]"]
        assert stream.report.end_proved


def test_a_dialect_that_the_caller_knows(family: str) -> None:
    http = client(family, Said([b"data: bye\n\n", b"data: more\n\n"]))
    with rl.connect_sse(http, "GET", EVENTS_URL, dialect=LastEventId("bye")) as stream:
        assert data(stream) == ["bye"]


def test_a_dialect_knows_its_own_end(family: str) -> None:
    with pytest.raises(TypeError, match="not both"):
        rl.connect_sse(client(family), "GET", EVENTS_URL, dialect=LastEventId("a"), terminal="b")


# Closing and cancelling


def test_close_lets_the_server_go_on(family: str) -> None:
    http = client(family, Said(chat("a", "b"), headers=LLAMA))
    with rl.connect_sse(http, "POST", CHAT_URL, json=CHAT) as stream:
        next(iter(stream))
        stream.close()
        assert data(stream) == []
    assert [seen.method for seen in requests(http)] == ["POST"]


def test_cancel_stops_the_server(family: str) -> None:
    http = client(family, Said(chat("a", "b"), headers=LLAMA), Said(status=204))
    with rl.connect_sse(http, "POST", CHAT_URL, json=CHAT) as stream:
        next(iter(stream))
        stream.cancel()
    assert [seen.method for seen in requests(http)] == ["POST", "DELETE"]


async def test_cancel_stops_the_server_async(family: str) -> None:
    http = async_client(family, Said(chat("a", "b"), headers=LLAMA), Said(status=204))
    async with rl.aconnect_sse(http, "POST", CHAT_URL, json=CHAT) as stream:
        await stream.cancel()
    assert [seen.method for seen in requests(http)] == ["POST", "DELETE"]


async def test_a_cancelled_task_lets_go(family: str) -> None:
    http = async_client(family, Said(numbered(1, 2)))
    with anyio.CancelScope() as scope:
        async with rl.aconnect_sse(http, "GET", EVENTS_URL) as stream:
            async for _ in stream:
                scope.cancel()
    assert scope.cancelled_caught
    assert http._transport.bodies[0].closed


@pytest.mark.parametrize(
    "read",
    [
        aiter,
        pytest.param(lambda stream: stream.text_deltas()),
    ],
    ids=["events", "texts"],
)
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_leaving_early_leaves_trio_nothing_to_complain_of(family: str, read: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with rl.aconnect_sse(async_client(family, Said(numbered(1, 2))), "GET", EVENTS_URL) as stream:
            async for _ in read(stream):
                break
        del stream
        gc.collect()
    assert [str(each.message) for each in caught if "resumable_llm." in str(each.message)] == []


# Another day


def broken_off(family: str) -> rl.Checkpoint:
    http = client(family, Said(numbered(1, 2), ends="ReadError"))
    with rl.connect_sse(http, "POST", EVENTS_URL, json={"a": 1}, idempotency_key="mine") as stream:
        next(iter(stream))
        return rl.Checkpoint.from_json(stream.checkpoint.to_json())


def test_going_on_with_the_body(family: str) -> None:
    http = client(family, Said(numbered(1, 2)), Said())
    with rl.resume_sse(http, broken_off(family), json={"a": 1}, headers={"authorization": "Bearer mine"}) as stream:
        assert data(stream) == ["part 2"]
    (seen, _) = requests(http)
    assert (seen.method, seen.headers["last-event-id"], seen.headers["idempotency-key"]) == ("POST", "1", "mine")
    assert seen.headers["authorization"] == "Bearer mine"


def test_going_on_without_the_body(family: str) -> None:
    http = client(family)
    with pytest.raises(rl.CannotResume, match="json= or content="), rl.resume_sse(http, broken_off(family)):
        raise AssertionError("it must not be entered")


async def test_going_on_async(family: str) -> None:
    http = async_client(family, Said(numbered(2)), Said())
    async with rl.aresume_sse(http, broken_off(family), json={"a": 1}) as stream:
        assert [event.id async for event in stream] == ["2"]


async def test_going_on_without_the_body_async(family: str) -> None:
    with pytest.raises(rl.CannotResume):
        async with rl.aresume_sse(async_client(family), broken_off(family)):
            raise AssertionError("it must not be entered")


def test_going_on_with_a_get(family: str) -> None:
    http = client(family, Said([b"data: end\n\n"]))
    checkpoint = rl.Checkpoint("last_event_id", "GET", EVENTS_URL, last_event_id="1", events=1)
    with rl.resume_sse(http, checkpoint, terminal="end", policy=policy()) as stream:
        assert data(stream) == ["end"]
        assert stream.report.end_proved
    assert "idempotency-key" not in requests(http)[0].headers


def cursor_told(at: str, **more: str) -> bytes:
    return artificial.block(artificial.Cursor(), event_id=at, **more).encode()


async def test_going_on_in_a_dialect_of_the_callers_own(family: str) -> None:
    dialect = artificial.Cursor()
    http = client(family, Said([cursor_told("a"), b"data: x\n\n"], ends="ReadError"))
    with rl.connect_sse(http, "GET", EVENTS_URL, dialect=dialect, policy=policy()) as stream:
        assert [next(iter(stream)).data for _ in range(2)] == ['{"event_id":"a"}', "x"]
        checkpoint = stream.checkpoint
    assert (checkpoint.dialect, checkpoint.cursor, checkpoint.behind) == ("cursor", "a", 1)
    with pytest.raises(ValueError, match="unknown dialect 'cursor'"):
        rl.resume_sse(client(family), checkpoint)
    script = Said([b"data: x\n\n", cursor_told("b", end="yes")])
    http = client(family, script)
    with rl.resume_sse(http, checkpoint, dialect=dialect) as stream:
        assert data(stream) == ['{"event_id":"b","end":"yes"}']
    other = async_client(family, script)
    async with rl.aresume_sse(other, checkpoint, dialect=dialect) as resumed:
        assert [event.data async for event in resumed] == ['{"event_id":"b","end":"yes"}']
    assert {seen.url for seen in requests(http) + requests(other)} == {f"{EVENTS_URL}?last_event_id=a"}
    with pytest.raises(TypeError, match="not both"):
        rl.resume_sse(http, checkpoint, dialect=dialect, terminal="end")


@pytest.mark.parametrize(
    ("of_the_client", "of_the_call", "query"),
    [
        ({}, None, "b=2&a=1&a=%20x"),
        ({}, {"key": "k"}, "b=2&a=1&a=+x&key=k"),
        ({}, [("a", "3"), ("key", "k")], "b=2&a=3&key=k"),
        ({}, "b=&key=k", "b=&a=1&a=+x&key=k"),
        ({"key": "k", "b": "9"}, None, "key=k&b=2&a=1&a=+x"),
        ({"key": "k"}, {"key": "other"}, "key=other&b=2&a=1&a=+x"),
    ],
)
async def test_going_on_with_fields_in_the_query(
    family: str, of_the_client: dict[str, str], of_the_call: Any, query: str
) -> None:
    """Those of the checkpoint stay, but for those that are given anew: mostly credentials, of which it has none."""
    library = importlib.import_module(family)
    checkpoint = rl.Checkpoint("last_event_id", "GET", f"{EVENTS_URL}?b=2&a=1&a=%20x", last_event_id="1", events=1)
    http = client(family, Said(numbered(2)), Said(), params=of_the_client)
    other = async_client(family, Said(numbered(2)), Said(), params=of_the_client)
    with rl.resume_sse(http, checkpoint, params=of_the_call) as stream:
        assert data(stream) == ["part 2"]
    async with rl.aresume_sse(other, checkpoint, params=of_the_call) as resumed:
        assert [event.data async for event in resumed] == ["part 2"]
    for seen in requests(http) + requests(other):
        assert library.QueryParams(library.URL(seen.url).query) == library.QueryParams(query)


def test_a_query_of_its_own_where_the_checkpoint_has_none(family: str) -> None:
    http = client(family, Said(numbered(2)), Said())
    checkpoint = rl.Checkpoint("last_event_id", "GET", EVENTS_URL, last_event_id="1", events=1)
    with rl.resume_sse(http, checkpoint, params={"key": "k"}) as stream:
        assert data(stream) == ["part 2"]
    assert {seen.url for seen in requests(http)} == {f"{EVENTS_URL}?key=k"}


def test_nothing_is_left_of_a_complete_answer(family: str) -> None:
    http = client(family)
    checkpoint = rl.Checkpoint("last_event_id", "GET", EVENTS_URL, complete=True)
    with rl.resume_sse(http, checkpoint) as stream:
        assert data(stream) == []
    assert requests(http) == []


def test_a_checkpoint_of_a_dialect_that_is_not_known(family: str) -> None:
    with pytest.raises(ValueError, match="unknown dialect 'nonsense'"):
        rl.resume_sse(client(family), rl.Checkpoint("nonsense", "GET", EVENTS_URL))


# With a journal


@dataclass
class Told:
    """What came of one call with a journal."""

    events: list[str]
    requests: list[Any]
    notices: list[str]
    status: int = 0
    report: rl.Report = field(default_factory=rl.Report)
    error: Exception | None = None


class Caller:
    """Makes the same call again and again, each time as another process would: with a client of its own."""

    def __init__(self, family: str, colour: str, journal: Any) -> None:
        self.family = family
        self.colour = colour
        self.journal = journal

    def call(
        self,
        *script: Said,
        method: str = "POST",
        url: str = EVENTS_URL,
        take: int | None = None,
        cancel: bool = False,
        client_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Told:
        """Make the call and read ``take`` of its events, or all."""
        http = (client if self.colour == "sync" else async_client)(self.family, *script, **(client_options or {}))
        told = Told([], requests(http), [])
        options = {"idempotency_key": "cell-7", "policy": policy(), "journal": self.journal, **options}
        if method == "POST":
            options = {"json": {"a": 1}, **options}
        options["on_event"] = lambda notice: told.notices.append(notice.kind)
        try:
            if self.colour == "sync":
                self._read(rl.connect_sse(http, method, url, **options), told, take, cancel)
            else:
                anyio.run(
                    self._aread, rl.aconnect_sse(http, method, url, **options), told, take, cancel, backend=self.colour
                )
        except rl.ResumableError as error:
            told.error = error
        return told

    def _read(self, opened: Any, told: Told, take: int | None, cancel: bool) -> None:
        with opened as stream:
            told.status = stream.response.status_code
            try:
                for event in stream:
                    told.events.append(repr(event))
                    if len(told.events) == take:
                        if cancel:
                            stream.cancel()
                        break
            finally:
                told.report = stream.report

    async def _aread(self, opened: Any, told: Told, take: int | None, cancel: bool) -> None:
        async with opened as stream:
            told.status = stream.response.status_code
            try:
                async for event in stream:
                    told.events.append(repr(event))
                    if len(told.events) == take:
                        if cancel:
                            await stream.cancel()
                        break
            finally:
                told.report = stream.report


@pytest.fixture(params=["sync", "asyncio", "trio"])
def caller(request: pytest.FixtureRequest, family: str) -> Caller:
    return Caller(family, request.param, MemoryStore())


def read_by_httpx_sse(*blocks: bytes) -> list[str]:
    return as_httpx_sse_reads(b"".join(blocks))


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_what_was_received_and_then_the_rest(caller: Caller, taken: int) -> None:
    whole = numbered(1, 2, 3, 4)
    first = caller.call(Said(whole, status=201), take=taken)
    assert (first.events, first.status, first.notices) == (read_by_httpx_sse(*whole[:taken]), 201, [])
    second = caller.call(Said(whole[taken:]), Said(status=204))
    assert (second.events, second.status) == (read_by_httpx_sse(*whole), 201)
    assert second.requests[0].headers["last-event-id"] == str(taken)
    assert second.requests[0].headers["idempotency-key"] == "cell-7"
    assert (second.report.events, second.report.journaled) == (4, taken)
    assert second.notices[:2] == ["journal", "resume"]
    third = caller.call()
    assert (third.events, third.requests, third.status) == (second.events, [], 201)
    assert (third.report.attempts, third.report.journaled, third.notices) == (0, 4, ["journal", "end"])


def test_events_of_a_journal_are_those_of_httpx_sse(caller: Caller) -> None:
    """With comments, a byte order mark, odd line ends, ids that come without an event, and events without an id."""
    pieces = [
        PLAIN,
        b"id: 5\n\n",
        b"data: a\n\nid: 6\n\n",
        b"data: b\n\n: ping\n\n",
        b"id: 7\ndata: c\n\n",
        b"id\n\ndata: d\n\n",
    ]
    first = caller.call(Said(pieces), Said(status=204))
    odd = [("a", "5"), ("b", "6"), ("c", "7"), ("d", "")]
    assert first.events == as_httpx_sse_reads(PLAIN) + [repr(httpx_sse.ServerSentEvent(None, *each)) for each in odd]
    again = caller.call()
    assert (again.events, again.requests) == (first.events, [])


def test_an_id_without_an_event_is_that_of_the_events_behind_it_alone(caller: Caller) -> None:
    pieces = [b"data: a\n\nid: 5\n\n", b"data: b\n\n", b"data: c\n\n"]
    first = caller.call(Said(pieces), take=2)
    assert first.events == [repr(httpx_sse.ServerSentEvent(None, *each)) for each in (("a", ""), ("b", "5"))]
    again = caller.call(Said(pieces[1:]), Said(status=204))
    assert again.events == [*first.events, repr(httpx_sse.ServerSentEvent(None, "c", "5"))]
    assert caller.call().events == again.events


def test_an_answer_that_nobody_keeps_elsewhere(caller: Caller) -> None:
    first = caller.call(Said(chat("Hel", "lo", "!")), url=CHAT_URL, json=CHAT, take=2)
    again = caller.call(url=CHAT_URL, json=CHAT)
    assert (again.events, again.requests) == (first.events, [])
    assert isinstance(again.error, rl.CannotResume)
    assert isinstance(again.error, importlib.import_module(caller.family).TransportError)
    assert again.error.partial_text == "Hello"
    options: dict[str, Any] = {"url": CHAT_URL, "json": CHAT, "fallback": "continue", "can_continue": True}
    more = caller.call(Said(chat(" there", done=True)), **options)
    assert (more.error, more.report.fidelity, len(more.requests)) == (None, "continued", 1)
    assert caller.call(**options).events == more.events


def test_an_answer_that_failed_fails_again(caller: Caller) -> None:
    first = caller.call(Said(FAILED), url=CHAT_URL, json=CHAT)
    again = caller.call(url=CHAT_URL, json=CHAT)
    assert first.events == again.events
    assert again.requests == []
    for told in (first, again):
        assert isinstance(told.error, rl.UpstreamFailed)
        assert told.error.partial_text == "a"


def test_a_call_that_was_refused_was_none(caller: Caller) -> None:
    library = importlib.import_module(caller.family)
    with pytest.raises(library.HTTPStatusError):
        caller.call(Said([b"no"], status=401))
    assert caller.call(Said(numbered(1)), Said(status=204)).error is None


def test_closing_lets_the_server_go_on_and_cancel_does_not(caller: Caller) -> None:
    pieces = chat("a", "b", done=True)
    options: dict[str, Any] = {"url": CHAT_URL, "json": CHAT}
    first = caller.call(Said(pieces, headers=LLAMA), take=1, **options)
    assert [seen.method for seen in first.requests] == ["POST"]
    again = caller.call(Said(pieces[1:], headers=LLAMA), Said(status=204), take=2, cancel=True, **options)
    assert [seen.method for seen in again.requests] == ["GET", "DELETE"]
    third = caller.call(**options)
    assert (third.events, third.requests) == (again.events, [])
    assert isinstance(third.error, rl.CannotResume)


def test_lines_of_json_in_a_journal(caller: Caller) -> None:
    lines = [b'{"message":{"content":"a"},"done":false}\n', b'{"message":{"content":"b"},"done":true}']
    options: dict[str, Any] = {"url": OLLAMA, "json": {"model": "m", "stream": True, "messages": []}}
    first = caller.call(Said([b"".join(lines)], headers=LINES), **options)
    again = caller.call(**options)
    assert (len(first.events), again.events, again.requests) == (2, first.events, [])


def test_where_a_call_begins_is_a_part_of_it(caller: Caller) -> None:
    first = caller.call(Said([b"data: x\n\n", *numbered(5)]), Said(status=204), method="GET", last_event_id="4")
    again = caller.call(method="GET", last_event_id="4")
    assert first.events == again.events
    assert "id='4'" in first.events[0]
    assert again.requests == []
    other = caller.call(method="GET", last_event_id="5")
    assert isinstance(other.error, rl.JournalRefused)
    assert other.requests == []


def test_the_callers_own_dialect_reads_its_answer_again(caller: Caller) -> None:
    dialect = artificial.Cursor()
    first = caller.call(Said([cursor_told("a"), b"data: x\n\n", b"data: y\n\n"]), dialect=dialect, take=2)
    rest = Said([b"data: x\n\n", b"data: y\n\n", cursor_told("b", end="yes")])
    again = caller.call(rest, dialect=dialect)
    assert (again.error, again.events[:2], len(again.events)) == (None, first.events, 4)
    assert again.requests[0].url == f"{EVENTS_URL}?last_event_id=a"
    unknown = caller.call()
    assert isinstance(unknown.error, rl.JournalRefused)


def test_the_callers_own_end_is_known_again(caller: Caller) -> None:
    end = b"id: 3\ndata: [END]\n\n"
    caller.call(Said(numbered(1, 2)), terminal="[END]", take=1)
    again = caller.call(Said([*numbered(2), end]), terminal="[END]")
    assert (again.error, len(again.events), again.report.end_proved) == (None, 3, True)


def test_a_wrapped_client_and_a_stream_have_the_same_answer(family: str) -> None:
    """The one has whole slices, the other the events in them."""
    store = MemoryStore()
    wrapped = rl.wrap(client(family, Said([b"".join(numbered(1, 2)), *numbered(3)])), journal=store, policy=policy())
    headers = {"accept": "text/event-stream", "idempotency-key": "cell-7"}
    with wrapped.stream("POST", EVENTS_URL, json={"a": 1}, headers=headers) as response:
        next(response.iter_raw())
    heard = Caller(family, "sync", store).call(Said(numbered(3)), Said(status=204))
    assert heard.events == as_httpx_sse_reads(b"".join(numbered(1, 2, 3)))


def test_two_streams_of_one_call_read_one_connection(family: str) -> None:
    store = MemoryStore()
    http = client(family, Said(numbered(1, 2, 3)), Said(status=204))
    options: dict[str, Any] = {"idempotency_key": "k", "journal": store, "policy": policy()}
    with rl.connect_sse(http, "GET", EVENTS_URL, **options) as one:
        assert next(iter(one)).id == "1"
        with rl.connect_sse(http, "GET", EVENTS_URL, **options) as two:
            assert [event.id for event in two] == ["1", "2", "3"]
        assert [event.id for event in one] == ["2", "3"]
        assert one.report == two.report
    assert [seen.headers.get("last-event-id") for seen in requests(http)] == [None, "3"]


async def test_two_streams_of_one_call_read_one_connection_async(family: str) -> None:
    store = MemoryStore()
    http = async_client(family, Said(numbered(1, 2, 3)), Said(status=204))
    options: dict[str, Any] = {"idempotency_key": "k", "journal": store, "policy": policy()}
    async with rl.aconnect_sse(http, "GET", EVENTS_URL, **options) as one:
        assert (await anext(aiter(one))).id == "1"
        async with rl.aconnect_sse(http, "GET", EVENTS_URL, **options) as two:
            assert [event.id async for event in two] == ["1", "2", "3"]
        assert [event.id async for event in one] == ["2", "3"]
    assert len(requests(http)) == 2


@pytest.mark.parametrize(
    "own",
    [
        {"auth": ("me", "secret")},
        {"headers": {"authorization": "Bearer mine"}},
        {"headers": {"x-api-key": "mine"}},
        {"cookies": {"session": "mine"}},
        {"base_url": "https://me:secret@api.example"},
    ],
)
def test_others_do_not_see_the_answer(family: str, own: dict[str, Any]) -> None:
    """Whatever way a client has to say who asks."""
    caller = Caller(family, "sync", MemoryStore())
    first = caller.call(Said(numbered(1)), Said(status=204), url="/events", client_options={**BASE, **own})
    again = caller.call(url="/events", client_options={**BASE, **own})
    assert (again.events, again.requests) == (first.events, [])
    other = {name: OTHERS[name] for name in own}
    answer = Said(numbered(9)), Said(status=204)
    assert caller.call(*answer, url="/events", client_options={**BASE, **other}).events != first.events
    answer = Said(numbered(9)), Said(status=204)
    assert caller.call(*answer, url="/events", client_options=BASE).events != first.events


BASE = {"base_url": "https://api.example"}
OTHERS: dict[str, Any] = {
    "auth": ("you", "secret"),
    "headers": {"authorization": "Bearer yours"},
    "cookies": {"session": "yours"},
    "base_url": "https://you:secret@api.example",
}


def test_credentials_that_show_too_late(family: str) -> None:
    """Whose answer it is must be known before anything is sent."""
    library = importlib.import_module(family)

    class Fetched(library.Auth):  # type: ignore[name-defined, misc]
        def auth_flow(self, request: Any) -> Any:
            yield library.Request("POST", "https://login.example/token")

    for auth in (library.DigestAuth("me", "secret"), Fetched()):
        http = client(family, auth=auth)
        with pytest.raises(TypeError, match=f"those of {type(auth).__name__} are not"):
            rl.connect_sse(http, "GET", EVENTS_URL, idempotency_key="k", journal=MemoryStore())
        assert requests(http) == []


def test_what_could_not_be_found_again(family: str) -> None:
    http, other = client(family), async_client(family)
    nameless: dict[str, Any] = {}
    for options in (nameless, {"idempotency_key": ""}, {"content": iter([b"body"]), "idempotency_key": "k"}):
        with pytest.raises(TypeError, match="give an idempotency_key, by which"):
            rl.connect_sse(http, "POST", EVENTS_URL, journal=MemoryStore(), **options)
        with pytest.raises(TypeError, match="give an idempotency_key, by which"):
            rl.aconnect_sse(other, "POST", EVENTS_URL, journal=MemoryStore(), **options)
    with pytest.raises(TypeError, match="journal must be a path or a store"):
        rl.connect_sse(http, "GET", EVENTS_URL, idempotency_key="k", journal=5)  # type: ignore[arg-type]
    assert requests(http) == requests(other) == []


def test_a_key_in_the_headers_is_a_key(caller: Caller) -> None:
    options: dict[str, Any] = {"idempotency_key": None, "headers": {"Idempotency-Key": "mine"}}
    first = caller.call(Said(numbered(1)), Said(status=204), **options)
    again = caller.call(**options)
    assert (again.events, again.requests) == (first.events, [])


def test_a_journal_that_can_keep_no_more(family: str) -> None:
    caller = Caller(family, "sync", MemoryStore(max_logs=1))
    for _ in range(2):
        told = caller.call(Said([b"".join(numbered(1, 2))]), Said(status=204))
        assert (told.error, len(told.events), told.notices[0], len(told.requests)) == (None, 2, "journal", 2)


async def test_leaving_a_journal_early_leaves_nobody_anything_to_complain_of(family: str) -> None:
    options: dict[str, Any] = {"idempotency_key": "k", "journal": MemoryStore()}
    http = async_client(family, Said(numbered(1, 2)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with rl.aconnect_sse(http, "GET", EVENTS_URL, **options) as stream:
            async for _ in stream:
                break
        del stream
        gc.collect()
    assert [str(each.message) for each in caught if "resumable_llm." in str(each.message)] == []
    assert http._transport.bodies[0].closed


# Clients


def test_a_wrapped_client_is_not_wrapped_again(family: str) -> None:
    http = client(family, Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
    notices: list[str] = []
    wrapped = rl.wrap(http, on_event=lambda notice: notices.append(notice.kind))
    with rl.connect_sse(wrapped, "GET", EVENTS_URL, policy=policy()) as stream:
        assert data(stream) == ["part 1", "part 2"]
        assert stream.report.attempts == len(requests(http)) == 3
    assert notices == []


# What is no argument


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dialect": "openai_chat"}, "an instance of a class that implements rl.Dialect, not 'openai_chat'"),
        ({"dialect": artificial.Cursor}, "an instance of a class that implements rl.Dialect, not <class"),
        ({"policy": {"deadline": 60}}, r"a RetryPolicy, such as .*, not \{'deadline': 60\}"),
        ({"policy": {}}, r"a RetryPolicy, such as .*, not \{\}"),
        ({"policy": rl.RetryPolicy}, "a RetryPolicy, such as .*, not <class"),
    ],
)
def test_what_is_no_dialect_and_no_policy(family: str, options: dict[str, Any], why: str) -> None:
    checkpoint = rl.Checkpoint("last_event_id", "GET", EVENTS_URL, last_event_id="1")
    for connect in (rl.connect_sse, rl.aconnect_sse):
        http = client(family) if connect is rl.connect_sse else async_client(family)
        with pytest.raises(TypeError, match=f"must be {why}"):
            connect(http, "GET", EVENTS_URL, **options)
        assert requests(http) == []
    for resume in (rl.resume_sse, rl.aresume_sse):
        http = client(family) if resume is rl.resume_sse else async_client(family)
        with pytest.raises(TypeError, match=f"must be {why}"):
            resume(http, checkpoint, **options)
        assert requests(http) == []


async def test_clients_of_the_other_colour(family: str) -> None:
    checkpoint = rl.Checkpoint("last_event_id", "GET", EVENTS_URL)
    with pytest.raises(TypeError, match="use aconnect_sse and aresume_sse"):
        rl.connect_sse(async_client(family), "GET", EVENTS_URL)
    with pytest.raises(TypeError, match="use aconnect_sse and aresume_sse"):
        rl.resume_sse(async_client(family), checkpoint)
    with pytest.raises(TypeError, match="use connect_sse and resume_sse"):
        rl.aconnect_sse(client(family), "GET", EVENTS_URL)
    with pytest.raises(TypeError, match="use connect_sse and resume_sse"):
        rl.aresume_sse(client(family), checkpoint)


def test_what_is_no_client() -> None:
    with pytest.raises(TypeError, match=r"httpx or httpx2, not builtins\.str"):
        rl.connect_sse("client", "GET", EVENTS_URL, headers=ACCEPT)
