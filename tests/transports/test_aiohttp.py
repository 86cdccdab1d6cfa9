"""The opener over aiohttp: what goes out, what comes in, and what a failure is."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from resumable_llm.core.actions import Send
from resumable_llm.core.model import RequestPlan
from resumable_llm.transports.aiohttp import ERRORS, FAMILY_ERROR, new_session, open_exchange, opener
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = pytest.mark.slow


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # aiohttp knows no other


@asynccontextmanager
async def session_of() -> AsyncIterator[aiohttp.ClientSession]:
    async with new_session() as session:
        yield session


async def read(server: Scripted, plan: RequestPlan, *, decode: bool = True) -> tuple[int, bytes]:
    async with session_of() as session:
        exchange = await open_exchange(session, Send(plan), decode=decode)
        try:
            return exchange.status, b"".join([chunk async for chunk in exchange.body])
        finally:
            await exchange.aclose()


async def test_request_goes_out_as_planned() -> None:
    headers = (("X-Mine", "na\xc3\xafve"), ("X-Odd", "caf\xe9"), ("Content-Length", "99"), ("Host", "elsewhere"))
    body = b"x" * 3_000_000  # so large that aiohttp would warn of it, were it given as it is
    with Scripted(Answer([b"ok"])) as server:
        plan = RequestPlan("POST", f"{server.url}/a%2Fb%20c?x=%5B+%20", headers, body)
        assert await read(server, plan) == (200, b"ok")
        (request,) = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/a%2Fb%20c?x=%5B+%20", body)
    head = request.raw_head
    assert b"X-Mine: na\xc3\xafve" in head
    assert "X-Odd: café".encode() in head  # aiohttp writes nothing but UTF-8
    assert request.headers["host"] == server.url.removeprefix("http://")
    assert not {"user-agent", "accept", "accept-encoding", "content-type"} & set(request.headers)


async def test_post_without_a_body_says_so() -> None:
    with Scripted(Answer()) as server:
        await read(server, RequestPlan("POST", server.url))
        assert server.requests[0].headers["content-length"] == "0"


async def test_headers_come_as_they_are() -> None:
    with Scripted(Answer(headers={"X-Odd": "caf\xe9", "Set-Cookie": "a=b"})) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            assert exchange.headers["x-odd"] == "caf\xe9"
            assert ("X-Odd", "caf\xe9") in exchange.pairs
            await exchange.aclose()


async def test_no_cookie_is_ever_sent_back_and_no_redirect_followed() -> None:
    headers = {"set-cookie": "a=b; Path=/", "location": "/elsewhere"}
    with Scripted(Answer(status=302, headers=headers, chunked=False), Answer()) as server:
        async with session_of() as session:
            for status in (302, 200):
                exchange = await opener(session)(Send(RequestPlan("GET", f"{server.url}/here")))
                assert exchange.status == status
                await exchange.aclose()
        assert [request.target for request in server.requests] == ["/here", "/here"]
        assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("decode", [True, False])
async def test_encoded_body_is_decoded_where_that_is_wanted(decode: bool) -> None:
    packed = gzip.compress(b"data: a\n\n")
    with Scripted(Answer([packed], headers={"content-encoding": "gzip"})) as server:
        status_and_body = await read(server, RequestPlan("GET", server.url), decode=decode)
    assert status_and_body == (200, b"data: a\n\n" if decode else packed)


@pytest.mark.parametrize("end", [End.FIN, End.RST])
async def test_broken_connection_is_one_of_the_errors(end: End) -> None:
    with Scripted(Answer([b"a"], end)) as server, pytest.raises(ERRORS):
        await read(server, RequestPlan("GET", server.url))


async def test_refused_connection_is_one_of_the_errors() -> None:
    with Scripted() as server:
        url = server.url
    with pytest.raises(ERRORS):
        await read(server, RequestPlan("GET", url))


@pytest.mark.parametrize(("own", "asked"), [(0.02, None), (None, 0.02), (9.0, 0.02)])
async def test_silence_is_one_of_the_errors(own: float | None, asked: float | None) -> None:
    with Scripted(Answer([b"a"], End.SILENT)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url), asked), own)
            with pytest.raises(ERRORS):
                async for _ in exchange.body:
                    pass
            await exchange.aclose()


async def test_closing_ends_a_read_and_the_connection() -> None:
    with Scripted(Answer([b"a"], End.SILENT)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            assert await anext(exchange.body) == b"a"
            reading = asyncio.ensure_future(anext(exchange.body))
            await asyncio.sleep(0)
            await exchange.aclose()
            with pytest.raises(ERRORS):
                await reading
            assert server.gone.acquire(timeout=10)


def test_family_error_takes_a_message() -> None:
    assert isinstance(FAMILY_ERROR("x"), ERRORS)
