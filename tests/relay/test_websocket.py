"""Streams over WebSocket: real sockets and a plain client; and servers that can do less, by hand."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Head, Log, State
from resumable_llm.relay import Relay
from resumable_llm.relay.frames import error_frame
from resumable_llm.relay.messages import Message
from resumable_llm.relay.websocket import PROTOCOL, Socket
from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Gate, Served, events_in
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Scripted

WHOLE = wire.blocks(wire.chat())
DATA = [event.data for event in wire.chat()]
COUNT = len(DATA)
ALICE = "authorization." + quote("Bearer alice")


@contextmanager
def opened(served: Served, target: str, headers: Any = AUTH, **options: Any) -> Iterator[ClientConnection]:
    url = f"ws://{served.url.removeprefix('http://')}{target}"
    with connect(url, additional_headers=headers, proxy=None, **options) as socket:
        yield socket


def read(served: Served, target: str, **options: Any) -> tuple[list[dict[str, str]], int, str]:
    """All that is sent, and the close."""
    events: list[dict[str, str]] = []
    with opened(served, target, **options) as socket:
        with suppress(ConnectionClosedError):
            for message in socket:
                events.append(json.loads(message))  # noqa: PERF401 - those before the close count
        assert socket.close_code is not None
        assert socket.close_reason is not None
        return events, socket.close_code, socket.close_reason


def refusal(served: Served, target: str, **options: Any) -> tuple[int, str]:
    """The status that a handshake is refused with, and the code in its body."""
    with pytest.raises(InvalidStatus) as caught, opened(served, target, **options):
        pass
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"")["error"]["code"]


def begun(client: httpx.Client) -> str:
    """Have an answer begun, and read it as far as it comes; its WebSocket."""
    with client.stream("POST", CHAT_PATH, json=CHAT) as running:
        next(running.iter_raw())
        return f"{running.headers['location']}/ws"


# Over real sockets


@pytest.mark.slow
def test_events_are_messages_from_anywhere_on() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        events, *end = read(served, f"{place}/ws")
        assert end == [1000, "complete"]
        assert events == [{"id": str(number), "event": "message", "data": data} for number, data in enumerate(DATA, 1)]
        assert read(served, f"{place}/ws?after=4")[0] == events[4:]
        assert read(served, f"{place}/ws", headers={**AUTH, "last-event-id": "4"})[0] == events[4:]
        assert read(served, f"{place}/ws?after={COUNT}") == ([], 1000, "complete")


@pytest.mark.slow
def test_events_come_as_they_are_generated() -> None:
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:2], WHOLE[2:])) as upstream,
        Served(upstream) as served,
        served.client() as client,
        opened(served, begun(client)) as socket,
    ):
        assert [json.loads(socket.recv(timeout=20))["data"] for _ in range(2)] == DATA[:2]
        assert served.readers == 1
        socket.send("nobody listens")
        gate.open()
        assert [json.loads(message)["data"] for message in socket] == DATA[2:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "events"),
    [("/v1/messages", wire.messages()), (CHAT_PATH, wire.chat(("na\u00efve\u2028", "\x7f")))],
    ids=["named", "odd"],
)
def test_events_are_as_over_http(path: str, events: list[wire.Event]) -> None:
    with Scripted(Answer(wire.blocks(events))) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(path, json=CHAT).headers["location"]
        found = [(each["event"], each["data"]) for each in read(served, f"{place}/ws")[0]]
        assert found == [(event.event, event.data) for event in events_in(client.get(place).content)]
        assert [data for _, data in found] == [event.data for event in events]


@pytest.mark.slow
def test_reader_who_goes_is_missed_by_nobody() -> None:
    with (
        Scripted(Answer(WHOLE[:2], End.SILENT)) as upstream,
        Served(upstream, on_disconnect="cancel") as served,
        served.client() as client,
        client.stream("POST", CHAT_PATH, json=CHAT) as running,
    ):
        with opened(served, f"{running.headers['location']}/ws") as socket:
            socket.recv(timeout=20)
            assert served.readers == 2
        served.until(lambda: served.readers == 1 and served.reading == 1)


@pytest.mark.slow
def test_answer_that_failed_ends_with_its_error() -> None:
    with Scripted(Answer(WHOLE[:3], End.RST)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        events, *end = read(served, f"{place}/ws")
        assert end == [1000, "failed"]
        assert (events[-1]["event"], json.loads(events[-1]["data"])["code"]) == ("error", "cannot_resume")
        assert events[-1]["id"] == "4"


@pytest.mark.slow
def test_interruption_asks_to_come_again() -> None:
    with Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream, Served(upstream) as served, served.client() as client:
        place = begun(client)
        served.until(lambda: served.logs[0].last == 3)
        served.run(served.relay.drain())
        events, *end = read(served, f"{place}?after=2")
        assert end == [1012, "interrupted"]
        assert [each["id"] for each in events] == ["3", "3"]  # the relay's own word has none
        assert json.loads(events[-1]["data"])["code"] == "interrupted"


@pytest.mark.slow
def test_stream_that_is_forgotten_while_it_is_read() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream) as served,
        served.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        place = begun(client)
        reader = pool.submit(read, served, place)
        served.until(lambda: served.relay._metrics.sockets == 1)
        head = served.logs[0].head
        served.relay._store.delete(head.scope, head.id)
        events, *end = reader.result()
        assert json.loads(events[-1]["data"])["code"] == "gone"
        assert end == [1012, "gone"]
        assert refusal(served, place) == (410, "expired")


@pytest.mark.slow
def test_what_is_not_there_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        assert refusal(served, "/_streams/never/ws") == (404, "not_found")
        assert refusal(served, f"{place}/ws", headers={"authorization": "Bearer bob"}) == (404, "not_found")
        assert refusal(served, f"{place}/ws", headers={}) == (404, "not_found")
        assert refusal(served, f"{place}/ws?after=x") == (400, "bad_cursor")
        assert refusal(served, f"{place}/ws?after=99") == (416, "no_such_event")
        assert refusal(served, "/v1/realtime") == refusal(served, place) == (404, "not_found")
        plain = client.get(f"{place}/ws")
        assert (plain.status_code, plain.headers["upgrade"]) == (426, "websocket")
    assert upstream.methods == ["POST"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]  # uvicorn has no complaints


@pytest.mark.slow
def test_browser_is_told_with_the_code_of_the_close() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        same = {"origin": served.url, "headers": {}}
        assert read(served, "/_streams/never/ws", **same) == ([], 4404, "not_found")
        assert read(served, f"{place}/ws", **same) == ([], 4404, "not_found")
        offered = [PROTOCOL, ALICE]
        assert read(served, f"{place}/ws?after=99", subprotocols=offered, **same) == ([], 4416, "no_such_event")
        assert len(read(served, f"{place}/ws", subprotocols=offered, **same)[0]) == COUNT
        with opened(served, f"{place}/ws", subprotocols=offered, **same) as socket:
            assert socket.subprotocol == PROTOCOL
        with opened(served, f"{place}/ws") as socket:
            assert socket.subprotocol is None


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "http://127.0.0.1:1"])
def test_page_of_another_site_cannot_use_a_cookie(origin: str) -> None:
    cookie = {"cookie": "session=alice"}
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served:
        with httpx.Client(base_url=served.url, headers=cookie) as client:
            place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        assert read(served, f"{place}/ws", headers=cookie, origin=origin) == ([], 4403, "foreign_origin")
        assert len(read(served, f"{place}/ws", headers=cookie, origin=served.url)[0]) == COUNT
        assert len(read(served, f"{place}/ws", headers=cookie)[0]) == COUNT


@pytest.mark.slow
def test_page_of_another_site_may_bring_its_own_credential() -> None:
    elsewhere = {"origin": "https://app.example", "headers": {}}
    with Scripted(Answer(WHOLE), Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        assert len(read(served, f"{place}/ws", subprotocols=[PROTOCOL, ALICE], **elsewhere)[0]) == COUNT
        with httpx.Client(base_url=served.url) as google:
            place = google.post(f"{CHAT_PATH}?key=s3cret", json=CHAT).headers["location"]
        assert len(read(served, f"{place}/ws?key=s3cret", **elsewhere)[0]) == COUNT


@pytest.mark.slow
def test_bounds() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT), Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream, max_sockets=1, max_readers=1) as served,
        served.client() as client,
    ):
        with client.stream("POST", CHAT_PATH, json=CHAT) as running:
            assert refusal(served, f"{running.headers['location']}/ws") == (429, "too_many_readers")
        place = begun(client)
        with opened(served, place) as socket:
            socket.recv(timeout=20)
            with pytest.raises(InvalidStatus) as caught, opened(served, place):
                pass
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["retry-after"] == "5"
        served.until(lambda: not served.reading)
        assert served.relay._metrics.sockets == 0


@pytest.mark.slow
def test_slow_reader_is_let_go() -> None:
    words = ("x" * 10_000,) * 1000
    with (
        Scripted(Answer(wire.blocks(wire.chat(words)))) as upstream,
        Served(upstream, send_seconds=1.0) as served,
        served.client() as client,
        sockets.create_connection(served.address) as raw,
    ):
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        head = f"GET {place}/ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer alice\r\nconnection: upgrade\r\n"
        more = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        raw.sendall((head + more).encode())
        assert b" 101 " in raw.recv(100)
        served.until(lambda: not served.reading)


@pytest.mark.slow
def test_mounted_in_another_application() -> None:
    def app(inner: Relay) -> Starlette:
        return Starlette(routes=[Mount("/llm", inner)])

    with Scripted(Answer(WHOLE)) as upstream, Served(upstream, app=app) as served, served.client() as client:
        place = client.post(f"/llm{CHAT_PATH}", json=CHAT).headers["location"]
        assert len(read(served, f"{place}/ws")[0]) == COUNT
        assert refusal(served, "/llm/_streams/never/ws") == (404, "not_found")
        served.run(served.relay.aclose())


# Servers that can do less


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def log() -> Log:
    return MemoryStore().begin(Head("id", "scope", "", "", 200, (), 0.0, 60.0))[0]


class Wire:
    """What a server does with a socket.

    Args:
        gone: The reader has gone, of which it tells as ASGI's servers do.
    """

    def __init__(self, *, gone: bool = False) -> None:
        self.said: list[Message] = []
        self._gone = gone

    async def receive(self) -> Message:
        return {"type": "websocket.disconnect"}

    async def send(self, message: Message) -> None:
        if self._gone:
            raise OSError
        self.said.append(message)

    def socket(self, **scope: Any) -> Socket:
        return Socket({"type": "websocket", "path": "/", "headers": [], **scope}, self.receive, self.send)


async def test_server_that_cannot_refuse_a_handshake_with_a_status() -> None:
    wire = Wire()
    socket = wire.socket(extensions=None)
    await socket.send({"type": "http.response.start", "status": 404, "headers": []})
    await socket.send({"type": "http.response.body", "body": b'{"code":"not_found"}'})
    assert wire.said[1] == {"type": "websocket.close", "code": 4404, "reason": "not_found"}


async def test_reader_who_has_gone_is_no_failure(log: Log) -> None:
    socket = Wire(gone=True).socket()
    socket.reads(log, "")
    await socket.send({"type": "http.response.start", "status": 200, "headers": []})
    await socket.send({"type": "http.response.body", "body": b"id: 1\ndata: x\n\n", "more_body": True})
    assert await socket.receive() == {"type": "http.disconnect"}


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.ABANDONED])
async def test_every_end_is_told(log: Log, state: State) -> None:
    wire = Wire()
    socket = wire.socket()
    socket.reads(log, "")
    log.end(state)
    await socket.send({"type": "http.response.start", "status": 200, "headers": []})
    await socket.send({"type": "http.response.body", "body": b""})
    assert wire.said[-1] == {"type": "websocket.close", "code": 1000, "reason": state.value}


@pytest.mark.parametrize(("reason", "code"), [("cancelled", 1000), ("gone", 1012), ("interrupted", 1012)])
async def test_last_words_of_the_relay_are_the_reason(log: Log, reason: str, code: int) -> None:
    wire = Wire()
    socket = wire.socket()
    socket.reads(log, "3")
    log.end(State.COMPLETE)
    await socket.send({"type": "http.response.start", "status": 200, "headers": []})
    await socket.send({"type": "http.response.body", "body": error_frame(reason, "why")})
    assert json.loads(wire.said[-2]["text"])["id"] == "3"
    assert (wire.said[-1]["code"], wire.said[-1]["reason"]) == (code, reason)


async def test_others_have_their_turn_while_much_is_sent(log: Log) -> None:
    wire = Wire()
    socket = wire.socket()
    socket.reads(log, "")
    log.append([b"data: x\n\n"] * 1000)
    await socket.send({"type": "http.response.start", "status": 200, "headers": []})
    sending = asyncio.ensure_future(
        socket.send({"type": "http.response.body", "body": log.read(0).data, "more_body": True})
    )
    await asyncio.sleep(0)
    assert 0 < len(wire.said) < 100
    await sending
    assert len(wire.said) == 1001


def test_only_credentials_are_taken_from_subprotocols() -> None:
    offered = [PROTOCOL, "cookie.a%3Db", "host.evil", "x-api-key.a%0db", "authorization"]
    socket = Wire().socket(subprotocols=offered, headers=[(b"Host", b"x")])
    assert socket.request["headers"] == [(b"host", b"x"), (b"x-api-key", b"a\rb"), (b"authorization", b"")]
