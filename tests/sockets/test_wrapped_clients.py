"""Wherever a client works, wrapping it changes nothing else: seen from the server's side, and from the client's."""

# ruff: noqa: SIM117 - a server, a client and a stream nest as they do in life

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any

import pytest

import resumable_llm as rl
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.matrix import BACKDROPS
from tests.sockets.scripted import Answer, End, Request, Scripted

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

GET = BACKDROPS["get"]
ACCEPT = {"accept": "text/event-stream"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def _cut() -> Answer:
    return Answer(GET.blocks[: GET.cut], End.FIN)


def _ok(request: Request) -> Answer:
    return Answer.json('{"ok":true}', headers={"set-cookie": "seen=1"})


def test_calls_that_do_not_stream_are_the_same_to_the_byte(family: str) -> None:
    with Scripted(rest=_ok) as server:
        for wrapped in (False, True):
            with client(family, headers={"x-mine": "1"}, base_url=server.url, params={"api-version": "7"}) as http:
                used = rl.wrap(http) if wrapped else http
                used.get("/a")
                used.post("/chat/completions", json={"model": "m", "messages": []})
                used.request("DELETE", "/b", headers={"authorization": "Bearer x"})
                used.post("/upload", content=(part for part in (b"1", b"2")), headers={"content-length": "2"})
        half = len(server.requests) // 2
        heads = [(request.raw_head, request.body) for request in server.requests]
        assert heads[:half] == heads[half:]


async def test_calls_that_do_not_stream_are_the_same_to_the_byte_async(family: str, anyio_backend: str) -> None:
    with Scripted(rest=_ok) as server:
        for wrapped in (False, True):
            async with async_client(family, base_url=server.url) as http:
                used = rl.wrap(http) if wrapped else http
                await used.get("/a")
                await used.post("/responses", json={"model": "m", "input": ""})
        plain, watched = server.requests[:2], server.requests[2:]
        assert [request.raw_head for request in plain] == [request.raw_head for request in watched]


def test_only_harmless_headers_are_added_to_a_stream(family: str) -> None:
    with Scripted(rest=lambda request: Answer(wire.blocks(wire.chat()))) as server:
        with client(family) as http:
            for used in (http, rl.wrap(http)):
                with used.stream("POST", f"{server.url}/chat/completions", json={"stream": True}) as response:
                    response.read()
        plain, watched = (request.headers for request in server.requests)
        changed = {name for name in watched if watched[name] != plain.get(name)}
        assert changed == {"accept-encoding", "idempotency-key", "x-conversation-id"}
        assert set(plain) <= set(watched)
        assert server.requests[0].body == server.requests[1].body


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_refusal_before_the_answer_is_the_callers(family: str, status: int) -> None:
    with Scripted(rest=lambda request: Answer.json('{"error":"no"}', status, headers={"retry-after": "0"})) as server:
        with client(family) as http:
            with rl.wrap(http).stream("GET", server.url, headers=ACCEPT) as response:
                assert (response.status_code, response.read()) == (status, b'{"error":"no"}')
            assert len(server.requests) == 1
            assert not busy(http)


def test_a_connection_that_cannot_be_made_is_the_callers(family: str) -> None:
    with Scripted() as server:
        url = server.url
    with client(family) as http, pytest.raises(importlib.import_module(family).ConnectError) as caught:
        rl.wrap(http).send(http.build_request("GET", url, headers=ACCEPT), stream=True)
    assert not isinstance(caught.value, rl.ResumableError)


def test_the_clients_settings_survive(family: str) -> None:
    library = importlib.import_module(family)
    seen: list[str] = []
    with Scripted(_cut(), rest=GET.honour) as server, Scripted(rest=_ok) as mounted:
        http = client(
            family,
            base_url=server.url,
            auth=("me", "s3cret"),
            cookies={"kept": "yes"},
            headers={"x-mine": "1"},
            timeout=7,
            event_hooks={"request": [lambda request: seen.append(request.method)], "response": []},
            mounts={"all://mounted.test": library.HTTPTransport(proxy=mounted.url)},
        )
        with http:
            wrapped = rl.wrap(http, policy=policy())
            assert type(wrapped) is type(http)
            assert wrapped.timeout == http.timeout
            assert wrapped.base_url == http.base_url
            with wrapped.stream("GET", "/events", headers=ACCEPT) as response:
                assert response.read() == b"".join(GET.blocks)
            for request in server.requests:  # the resume, too
                assert request.headers["authorization"].startswith("Basic ")
                assert request.headers["cookie"] == "kept=yes"
                assert request.headers["x-mine"] == "1"
            assert seen == ["GET"]  # a call is one request to the client's hooks, however often the connection drops
            assert wrapped.get("http://mounted.test/x").json() == {"ok": True}
            assert mounted.requests[0].target == "http://mounted.test/x"
            # Cookies are shared, as everything is that the two would have to agree about.
            wrapped.get("http://mounted.test/y")
            assert "seen" in http.cookies


def test_a_stream_through_a_mount_survives(family: str) -> None:
    library = importlib.import_module(family)
    with Scripted(_cut(), rest=GET.honour) as proxy:
        with client(family, mounts={"all://": library.HTTPTransport(proxy=proxy.url)}) as http:
            with rl.wrap(http, policy=policy()).stream("GET", "http://far.test/", headers=ACCEPT) as response:
                assert response.read() == b"".join(GET.blocks)
            assert len(proxy.requests) == 3


def test_the_original_stays_as_it_was(family: str) -> None:
    with Scripted(_cut(), rest=GET.honour) as server, client(family) as http:
        before = (http._transport, dict(http._mounts), http.headers.raw, http.event_hooks)
        wrapped = rl.wrap(http)
        wrapped.headers["x-new"] = "1"
        wrapped.event_hooks["request"].append(print)
        assert (http._transport, dict(http._mounts), http.headers.raw, http.event_hooks) == before
        with (
            pytest.raises(importlib.import_module(family).RemoteProtocolError) as caught,
            http.stream("GET", server.url, headers=ACCEPT) as response,
        ):
            response.read()
        assert not isinstance(caught.value, rl.ResumableError)
        assert len(server.requests) == 1


def test_wrapping_twice_is_wrapping_once(family: str) -> None:
    notices: list[str] = []
    with Scripted(_cut(), rest=GET.honour) as server, client(family) as http:
        twice = rl.wrap(
            rl.wrap(http, on_event=lambda notice: notices.append("first")),
            policy=policy(),
            on_event=lambda notice: notices.append(notice.kind),
        )
        with twice.stream("GET", server.url, headers=ACCEPT) as response:
            assert response.read() == b"".join(GET.blocks)
            assert rl.inspect(response).report.attempts == 3
        assert notices == ["drop", "resume", "confirm", "end"]


def test_connect_sse_over_a_wrapped_client_watches_once(family: str) -> None:
    with Scripted(_cut(), rest=GET.honour) as server, client(family) as http:
        with rl.connect_sse(rl.wrap(http), "GET", server.url, policy=policy()) as stream:
            assert [event.data for event in stream] == [event.data for event in GET.events]
            assert stream.report.attempts == len(server.requests) == 3


def test_the_original_may_go_while_the_stream_runs(family: str) -> None:
    with Scripted(_cut(), rest=GET.honour) as server:
        http = client(family)
        transport = http._transport
        wrapped = rl.wrap(http, policy=policy())
        with wrapped.stream("GET", server.url, headers=ACCEPT) as response:
            del http
            gc.collect()
            assert response.read() == b"".join(GET.blocks)
        transport.close()


def test_a_wrapped_client_is_a_context_manager(family: str) -> None:
    with Scripted(_ok, _cut(), rest=GET.honour) as server, client(family) as http:
        http.get(server.url)  # in use already
        with rl.wrap(http, policy=policy()) as wrapped:
            with wrapped.stream("GET", server.url, headers={**ACCEPT}) as response:
                response.read()
        assert wrapped.is_closed
        assert not http.is_closed
        assert http.get(server.url).status_code in (200, 204)


async def test_a_wrapped_client_is_a_context_manager_async(family: str, anyio_backend: str) -> None:
    with Scripted(_cut(), rest=GET.honour) as server:
        async with async_client(family) as http:
            async with rl.wrap(http, policy=policy()) as wrapped:
                async with wrapped.stream("GET", server.url, headers=ACCEPT) as response:
                    assert await response.aread() == b"".join(GET.blocks)
            assert not http.is_closed
            assert (await http.get(server.url)).status_code == 200


def test_a_transport_by_hand(family: str) -> None:
    library = importlib.import_module(family)
    ours = getattr(rl, family)
    with Scripted(_cut(), rest=GET.honour) as server:
        transport = ours.ResumableTransport(library.HTTPTransport(), policy=policy())
        with library.Client(transport=transport) as http, http.stream("GET", server.url, headers=ACCEPT) as response:
            assert response.read() == b"".join(GET.blocks)


def test_an_event_stream_that_nobody_asked_for_is_watched_over(family: str) -> None:
    with Scripted(_cut(), rest=GET.honour) as server, client(family) as http:
        with rl.wrap(http, policy=policy()).stream("GET", server.url) as response:
            assert response.read() == b"".join(GET.blocks)
        assert len(server.requests) == 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 needs Python 3.11")
def test_errors_are_of_the_clients_own_family() -> None:
    import httpx
    import httpx2

    chat = BACKDROPS["chat"]
    for library, other in ((httpx, httpx2), (httpx2, httpx)):
        with (
            Scripted(Answer(chat.blocks[: chat.cut], End.FIN)) as server,
            client(library.__name__) as http,
            pytest.raises(rl.CannotResume) as caught,
            rl.wrap(http).stream("POST", f"{server.url}/chat/completions", json=chat.body) as response,
        ):
            response.read()
        error: Any = caught.value
        assert isinstance(error, library.RemoteProtocolError)
        assert not isinstance(error, other.TransportError)
        assert isinstance(error.__cause__, library.RemoteProtocolError)
        assert error.request.url == f"{server.url}/chat/completions"


def test_a_redirected_post_can_be_resumed(family: str) -> None:
    backdrop = BACKDROPS["chat_ids"]
    moved = Answer(status=307, headers={"location": "/moved/chat/completions"})
    cut = Answer(backdrop.blocks[: backdrop.cut], End.FIN)
    with Scripted(moved, cut, rest=backdrop.honour) as server, client(family, follow_redirects=True) as http:
        wrapped = rl.wrap(http, policy=policy())
        with wrapped.stream("POST", f"{server.url}/chat/completions", json=backdrop.body) as response:
            assert response.read() == b"".join(backdrop.blocks)
