"""Requests as ASGI servers hand them over, and callers who go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from resumable_llm.relay.messages import Client, Inbound, Message, Refused, downward


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def inbound(path: str = "/v1", raw: bytes | None = None, root: str = "", headers: Any = ()) -> Inbound:
    scope: dict[str, Any] = {"method": "GET", "path": path, "root_path": root, "headers": headers}
    return Inbound(scope if raw is None else {**scope, "raw_path": raw})


class Caller:
    """The other side of a `Client`: says what it is told to, then nothing more until it goes."""

    def __init__(self, *messages: Message, stays: bool = True) -> None:
        self.messages = list(messages)
        self.heard: list[Message] = []
        self.leave = asyncio.Event()
        if not stays:
            self.leave.set()

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.heard.append(message)

    def client(self, seconds: float = 10) -> Client:
        return Client(self.receive, self.send, seconds)


def body(*pieces: bytes) -> Iterable[Message]:
    for number, piece in enumerate(pieces, 1):
        yield {"type": "http.request", "body": piece, "more_body": number < len(pieces)}


@pytest.mark.parametrize(
    ("path", "raw", "root", "found"),
    [
        ("/a b", b"/a%20b", "", b"/a%20b"),
        ("/a b/ü", None, "", b"/a%20b/%C3%BC"),
        ("/llm/v1", b"/llm/v1", "/llm", b"/v1"),
        ("/llm/v1", b"/llm/v1", "/llm/", b"/v1"),
        ("/a b/v1", b"/a%20b/v1", "/a b", b"/v1"),
        ("/v1", b"/v1", "/llm", b"/v1"),
        ("/llmx/v1", b"/llmx/v1", "/llm", b"/llmx/v1"),
        ("/v1/a..b", b"/v1/a..b", "", b"/v1/a..b"),
        ("/", b"/", "", b"/"),
    ],
)
def test_path_stays_as_it_came(path: str, raw: bytes | None, root: str, found: bytes) -> None:
    assert inbound(path, raw, root).path == found


@pytest.mark.parametrize(
    "raw",
    [
        b"http://evil/",
        b"@evil/",
        b".evil/",
        b"*",
        b"/a#b",
        b"/a?b",
        b"/a b",
        b"/\xff",
        b"/a/../b",
        b"/%2E%2e",
        b"/..\\x",
    ],
)
def test_target_that_could_lead_elsewhere_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as caught:
        inbound(raw=raw)
    assert caught.value.status == 400


@pytest.mark.parametrize("query", [b"a=\xff", b"a b", b"a#b", b"a\n"])
def test_query_that_could_lead_elsewhere_is_refused(query: bytes) -> None:
    with pytest.raises(Refused):
        Inbound({"method": "GET", "path": "/", "query_string": query, "headers": []})


def test_headers_that_go_up() -> None:
    kept = [(b"Authorization", b"Bearer x"), (b"X-Odd", b"caf\xe9"), (b"accept", b"a")]
    gone = [
        *((b"Host", b"h"), (b"connection", b"x-hop, close"), (b"X-Hop", b"1"), (b"te", b"trailers")),
        *((b"x-forwarded-for", b"1.2.3.4"), (b"forwarded", b"for=x"), (b"content-length", b"1"), (b"expect", b"x")),
    ]
    found = inbound(headers=[*kept, *gone]).upward()
    assert found == (("authorization", "Bearer x"), ("x-odd", "caf\xe9"), ("accept", "a"))


@pytest.mark.parametrize("decoded", [True, False])
def test_headers_that_come_down(decoded: bool) -> None:
    body_headers = [("Content-Encoding", "gzip"), ("Content-Length", "1")]
    gone = [("Set-Cookie", "a"), ("Connection", "X-Hop"), ("x-hop", "1"), ("Date", "x"), ("Alt-Svc", "h3")]
    found = downward([("X-Id", "caf\xe9"), *gone, *body_headers], decoded=decoded)
    assert found[0] == (b"x-id", b"caf\xe9")
    assert len(found) == (1 if decoded else 3)


@pytest.mark.parametrize(
    ("value", "forbids"), [(b"no-store", True), (b"max-age=0,  NO-STORE", True), (b"no-cache", False)]
)
def test_no_store(value: bytes, forbids: bool) -> None:
    assert inbound(headers=[(b"cache-control", value)]).forbids_store is forbids
    assert not inbound().forbids_store


async def test_body_in_pieces() -> None:
    assert await Caller(*body(b"ab", b"", b"c")).client().body(3, 10) == b"abc"
    assert await Caller({"type": "http.request"}).client().body(3, 10) == b""


async def test_body_that_does_not_come() -> None:
    for caller, status in (
        (Caller(*body(b"ab", b"cd")), 413),
        (Caller(stays=False), 400),
        (Caller({"type": "http.request", "body": b"a", "more_body": True}), 408),
    ):
        with pytest.raises(Refused) as caught:
            await caller.client().body(3, 0.01)
        assert caught.value.status == status


async def test_waiting_ends_with_the_event_or_with_the_caller() -> None:
    caller = Caller({"type": "http.request"})
    client, event = caller.client(), asyncio.Event()
    waiting = asyncio.ensure_future(client.wait_for(event))
    await asyncio.sleep(0)
    event.set()
    assert await waiting
    assert not client.gone
    calls: list[str] = []
    client.watch(lambda: calls.append("gone"))
    waiting = asyncio.ensure_future(client.wait_for(asyncio.Event()))
    await asyncio.sleep(0)
    caller.leave.set()
    assert not await waiting
    assert (client.gone, calls) == (True, ["gone"])
    client.close()


async def test_waiting_can_be_cancelled_and_the_going_of_the_caller_is_no_cancellation() -> None:
    caller = Caller({"type": "http.request"})
    client = caller.client()
    waiting = asyncio.ensure_future(client.wait_for(asyncio.Event()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async def go_on() -> bool:
        there = await client.wait_for(asyncio.Event())
        await asyncio.sleep(0)
        return there

    waiting = asyncio.ensure_future(go_on())
    await asyncio.sleep(0)
    caller.leave.set()
    assert not await waiting


async def test_caller_may_be_left() -> None:
    client = Caller({"type": "http.request"}).client()
    waiting = asyncio.ensure_future(client.wait_for(asyncio.Event()))
    await asyncio.sleep(0)
    client.leave()
    assert not await waiting
    assert (client.gone, client.left) == (True, True)


async def test_caller_who_has_gone_is_waited_for_no_more() -> None:
    client, calls, come = Caller(stays=False).client(), list[str](), asyncio.Event()
    client.watch(lambda: calls.append("while there"))
    await asyncio.wait_for(client.wait_for(asyncio.Event()), 10)
    client.watch(lambda: calls.append("when gone"))
    assert calls == ["while there", "when gone"]
    come.set()
    assert not await client.wait_for(come)
    client.close()
    assert calls == ["while there", "when gone"]


async def test_answers() -> None:
    caller = Caller()
    await caller.client().answer(204)
    await caller.client().answer(503, {"a": 1}, [(b"retry-after", b"5")])
    start, end, start_json, end_json = caller.heard
    assert (start["status"], start["headers"], end["body"]) == (204, [], b"")
    assert (b"retry-after", b"5") in start_json["headers"]
    assert (b"content-length", b"8") in start_json["headers"]
    assert (end_json["body"], end_json["more_body"]) == (b'{"a": 1}', False)


async def test_caller_who_takes_nothing_is_not_waited_for() -> None:
    async def stuck(_: Message) -> None:
        await asyncio.Event().wait()

    async def serve(seconds: float) -> None:
        client = Client(Caller().receive, stuck, seconds)
        try:
            await client.write(b"x")
        finally:
            client.close()

    with pytest.raises(TimeoutError):
        await asyncio.create_task(serve(0.01))
    serving = asyncio.create_task(serve(60))
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_caller_who_takes_all_may_take_their_time() -> None:
    checks = 0

    class Counting(Client):
        def _check(self) -> None:
            nonlocal checks
            checks += 1
            super()._check()

    client = Counting(Caller().receive, Caller().send, 0.001)
    await client.write(b"x")
    while checks < 3:  # noqa: ASYNC110 - a timer sets no event
        await asyncio.sleep(0)
    client.close()
