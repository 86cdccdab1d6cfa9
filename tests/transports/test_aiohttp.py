"""The opener over aiohttp: what goes out, what comes in, and what a failure is."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.actions import Send
from resumable_llm.core.model import RequestPlan
from resumable_llm.transports.aiohttp import ERRORS, FAMILY_ERROR, _Tap, new_session, open_exchange
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = pytest.mark.slow


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # aiohttp knows no other


@asynccontextmanager
async def session_of() -> AsyncIterator[aiohttp.ClientSession]:
    async with new_session("http://127.0.0.1") as session:
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
                exchange = await open_exchange(session, Send(RequestPlan("GET", f"{server.url}/here")))
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


@pytest.mark.parametrize("encoding", ["", "identity", "GZip", "x-gzip", "gzip, gzip"])
async def test_it_says_whether_the_body_was_decoded(encoding: str) -> None:
    packed = gzip.compress(b"data: a\n\n")
    headers = {"content-encoding": encoding} if encoding else {}
    with Scripted(Answer([packed], headers=headers)) as server:
        async with new_session(server.url) as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            body = b"".join([piece async for piece in exchange.body])
            await exchange.aclose()
    assert exchange.decoded is (encoding == "GZip")
    assert body == (b"data: a\n\n" if exchange.decoded else packed)


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


def into(got: list[bytes]) -> Callable[[bytes], bool]:
    """Takes all."""

    def take(data: bytes) -> bool:
        got.append(data)
        return True

    return take


def noting(begun: asyncio.Event) -> Callable[[bytes], bool]:
    """Takes all, and says when it begins."""

    def take(_: bytes) -> bool:
        begun.set()
        return True

    return take


async def test_event_loop_pours_without_a_task() -> None:
    with Scripted(Answer([b"a"], End.PINGS)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            tasks: list[object] = []

            def take(_: bytes) -> bool:
                tasks.append(asyncio.current_task())
                return len(tasks) < 4

            assert not await exchange.pour(take)
            assert tasks[1:] == [None] * 3  # the first may have been there before
            await exchange.aclose()


async def test_connection_that_was_poured_can_be_used_and_poured_again() -> None:
    body = b"x" * 50_000
    with Scripted(*[Answer([body, b"y"])] * 3) as server:
        async with session_of() as session:
            for _ in range(3):
                exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)), 5.0)
                got: list[bytes] = []
                assert await exchange.pour(into(got))
                assert b"".join(got) == body + b"y"
            assert len(server.requests) == 3
            assert len(server._connections) == 1


async def test_pouring_stops_where_no_more_is_wanted_and_the_rest_can_be_read() -> None:
    with Scripted(Answer([b"a" * 100_000, b"b" * 100_000])) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            got: list[bytes] = []
            assert not await exchange.pour(lambda data: not into(got)(data))
            assert len(got) == 1
            rest = [chunk async for chunk in exchange.body]
            assert b"".join(got + rest) == b"a" * 100_000 + b"b" * 100_000


async def test_what_was_encoded_is_poured_decoded() -> None:
    plain = b"data: a\n\n" * 100_000  # more than aiohttp decodes ahead
    with Scripted(Answer([gzip.compress(plain)], headers={"content-encoding": "gzip"})) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            got: list[bytes] = []
            assert await exchange.pour(into(got))
            assert b"".join(got) == plain


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\n"


class Wire(asyncio.Transport):
    """A connection of aiohttp's whose bytes come from a test, and what is poured of its response."""

    def __init__(self, head: bytes = HEAD % b"") -> None:
        super().__init__()
        self.inner = ResponseHandler(asyncio.get_running_loop())
        self.protocol: asyncio.Protocol = self.inner
        self.inner.connection_made(self)
        self.inner.set_response_params(read_until_eof=True)
        self.inner.data_received(head)
        message, self.content = self.inner._buffer.popleft()[0]
        self.headers, self.connection, self.transport = message.headers, self, self
        self.got: list[bytes] = []
        self.fed: list[bytes] = []
        self.tap = _Tap(self, None, into(self.got))  # type: ignore[arg-type]
        self.read = self.inner.data_received
        self.inner.data_received = self._count  # type: ignore[method-assign]

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(lambda: self.protocol.connection_lost(None))

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def feed(self, *pieces: bytes) -> None:
        for piece in filter(None, pieces):
            self.protocol.data_received(piece)

    def _count(self, data: bytes) -> None:
        self.fed += [data] if data else []
        self.read(data)


def chunks(*data: bytes, form: bytes = b"%x") -> list[bytes]:
    return [form % len(each) + b"\r\n" + each + b"\r\n" for each in data]


EVENTS = [b"data: a\n\n", b"a" * 10, b"5\r\nhello\r\n", b"\r\n", b"1\r\nx\r\n1\r\ny\r\n", b"0\r\n\r\n", b"z"]


async def test_whole_chunks_are_kept_from_aiohttp_which_sees_the_end() -> None:
    for form in (b"%x", b"%X"):
        wire = Wire()
        wire.feed(*chunks(*[b"x" * 171] * 9, form=form), b"0\r\n\r\n")
        assert wire.got == [b"x" * 171] * 9
        assert len(wire.fed) == 3  # the first in two parts, and the end
        assert wire.tap.over.result() is True
        assert not wire.inner.should_close
        assert wire.protocol is wire.inner


@pytest.mark.parametrize("odd", [b"0%x", b"%x;a=b", b" %x", b"%x ", b"+%x", b"0x%x"])
async def test_a_chunk_that_is_written_otherwise_is_aiohttps_affair(odd: bytes) -> None:
    plain, wire = Wire(), Wire()
    pieces = [*chunks(b"a", b"b"), *chunks(b"c", form=odd), *chunks(b"d"), b"0\r\n\r\n"]
    plain.tap.remove()
    for each in (plain, wire):
        each.feed(*pieces)
        await asyncio.sleep(0)
    assert b"".join(wire.got) == plain.content.read_nowait()
    if plain.content.at_eof():
        assert wire.tap.over.result() is True
        assert len(b"".join(wire.got)) == 4
    else:
        assert isinstance(wire.tap.over.exception(), ERRORS)


@pytest.mark.parametrize("before", [0, 1, 3])
async def test_chunks_cut_anywhere_are_poured_as_they_are(before: int) -> None:
    """However they are cut and joined: some of what is in them looks like chunks, too."""
    wire = b"".join(chunks(*EVENTS)) + b"0\r\n\r\n"
    whole = chunks(b"first", b"second", b"third")[:before]
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1):
            poured = Wire()
            poured.feed(*whole, wire[:first], wire[first:second], wire[second:])
            assert b"".join(poured.got) == b"".join([b"first", b"second", b"third"][:before] + EVENTS)
            assert poured.tap.over.result() is True
            assert not poured.inner.should_close


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(EVENTS) | st.binary(min_size=1, max_size=40), max_size=12), st.lists(st.integers(0, 600))
)
async def test_chunks_in_any_pieces(bodies: list[bytes], wanted: list[int]) -> None:
    wire, ends = b"".join(chunks(*bodies)) + b"0\r\n\r\n", [0, *itertools.accumulate(map(len, chunks(*bodies)))]
    # An even number is where a chunk ends, if there are so many; an odd one is anywhere.
    cuts = {number // 2 if number % 2 else ends[number // 2 % len(ends)] for number in wanted}
    poured = Wire()
    poured.feed(*[wire[start:end] for start, end in itertools.pairwise(sorted({0, *cuts, 600}))])
    assert b"".join(poured.got) == b"".join(bodies)
    assert poured.tap.over.result() is True
    assert not poured.inner.should_close


async def test_what_is_encoded_is_never_kept_from_aiohttp() -> None:
    wire = Wire(HEAD % b"Content-Encoding: gzip\r\n")
    packed = gzip.compress(b"data: a\n\n")
    wire.feed(*chunks(*[packed[number : number + 1] for number in range(len(packed))]), b"0\r\n\r\n")
    assert b"".join(wire.got) == b"data: a\n\n"


async def test_a_body_without_chunks_may_look_like_some() -> None:
    wire = Wire(b"HTTP/1.1 200 OK\r\n\r\n")
    wire.feed(*chunks(*EVENTS))
    assert b"".join(wire.got) == b"".join(chunks(*EVENTS))


@pytest.mark.parametrize("end", [b"\n", b"\n\n", b"xx", b"\rx", b""])
async def test_a_chunk_that_does_not_end_as_it_should_is_aiohttps_affair(end: bytes) -> None:
    odd = b"5\r\nhello" + end
    for cut in range(3, len(odd)):
        plain, wire = Wire(), Wire()
        plain.tap.remove()
        for each in (plain, wire):
            each.feed(*chunks(b"a", b"b"), odd[:cut], odd[cut:], *chunks(b"c", b"d"), b"0\r\n\r\n")
            await asyncio.sleep(0)
        assert b"".join(wire.got) == plain.content.read_nowait()
        assert (wire.tap.over.exception() is None) == plain.content.at_eof()


async def test_what_the_taker_of_a_chunk_raises_is_raised() -> None:
    def take(_: bytes) -> bool:
        raise EOFError

    wire = Wire()
    wire.feed(*chunks(b"a", b"b"))
    wire.tap._take = take
    wire.feed(*chunks(b"c"))
    assert isinstance(wire.tap.over.exception(), EOFError)
    assert wire.protocol is wire.inner


async def test_the_rest_stays_in_order_where_no_more_is_wanted() -> None:
    wire = Wire()
    wire.feed(*chunks(b"a", b"b"))
    wire.tap._take = lambda data: bool(wire.got.append(data))  # type: ignore[func-returns-value]
    wire.feed(*chunks(b"c", b"d"), b"0\r\n\r\n")
    assert wire.got == [b"a", b"b", b"c"]
    assert wire.tap.over.result() is False
    assert wire.content.read_nowait() == b"d"
    assert wire.content.at_eof()
    assert not wire.inner.should_close


async def test_answer_that_has_come_whole_is_poured() -> None:
    with Scripted(Answer([b"a"], chunked=False)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)), 5.0)
            whole = asyncio.Event()
            exchange._response.content.on_eof(whole.set)  # type: ignore[attr-defined]
            await whole.wait()
            got: list[bytes] = []
            assert await exchange.pour(into(got))
            assert got == [b"a"]


@pytest.mark.parametrize("end", [End.FIN, End.RST])
async def test_broken_connection_ends_a_pouring(end: End) -> None:
    with Scripted(Answer([b"a"], end)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            with pytest.raises(ERRORS):
                await exchange.pour(lambda _: True)
            await exchange.aclose()


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"a", b"b", b"c"]])
async def test_silence_ends_a_pouring(pieces: list[bytes]) -> None:
    with Scripted(Answer(pieces, End.SILENT)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)), 0.05)
            with pytest.raises(aiohttp.SocketTimeoutError):
                await exchange.pour(lambda _: True)
            await exchange.aclose()


async def test_bytes_are_no_silence_for_a_pouring() -> None:
    with Scripted(Answer([b"a"], End.PINGS)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)), 1.0)
            started, heard = asyncio.get_running_loop().time(), bytearray()

            def take(data: bytes) -> bool:
                heard.extend(data)
                return asyncio.get_running_loop().time() - started < 1.5

            assert not await exchange.pour(take)
            await exchange.aclose()


@pytest.mark.parametrize("close", ["close", "aclose"])
async def test_closing_ends_a_pouring_and_the_connection(close: str) -> None:
    with Scripted(Answer([b"a"], End.SILENT)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)), 9.0)
            begun = asyncio.Event()
            pouring = asyncio.ensure_future(exchange.pour(noting(begun)))
            await begun.wait()
            if close == "close":
                exchange.close()
            else:
                await exchange.aclose()
            with pytest.raises(ERRORS):
                await pouring
            assert server.gone.acquire(timeout=10)


async def test_cancelling_a_pouring_gives_the_connection_back() -> None:
    with Scripted(Answer([b"a"], End.PINGS)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)), 9.0)
            begun = asyncio.Event()
            pouring = asyncio.ensure_future(exchange.pour(noting(begun)))
            await begun.wait()
            pouring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pouring
            assert await anext(exchange.body)
            await exchange.aclose()


async def test_what_the_taker_raises_is_raised() -> None:
    def refuse(_: bytes) -> bool:
        raise ZeroDivisionError

    with Scripted(Answer([b"a"], End.PINGS)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            with pytest.raises(ZeroDivisionError):
                await exchange.pour(refuse)
            await exchange.aclose()


@pytest.mark.parametrize("then", [True, False, ZeroDivisionError()])
async def test_taker_may_close_what_is_poured(then: bool | Exception) -> None:
    with Scripted(Answer([b"a"], End.PINGS)) as server:
        async with session_of() as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", server.url)))
            got: list[bytes] = []

            def take(data: bytes) -> bool:
                got.append(data)
                if len(got) == 2:  # not the first, which may come before there is anything to close
                    exchange.close()
                    if isinstance(then, Exception):
                        raise then
                    return then
                return True

            with pytest.raises(ERRORS):
                await exchange.pour(take)
            assert len(got) == 2


async def test_request_may_still_go_out_while_its_answer_is_poured() -> None:
    body = b"x" * 8_000_000
    received = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await begun.wait()
        received.extend(await reader.readexactly(len(body)))
        writer.write(b"1\r\nb\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    begun = asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)  # or the system would take it all
    server = await asyncio.start_server(answer, sock=listener)
    async with server, session_of() as session:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        exchange = await open_exchange(session, Send(RequestPlan("POST", url, (), body)), 5.0)
        got: list[bytes] = []
        assert await exchange.pour(lambda data: into(got)(data) and noting(begun)(data))
    assert b"".join(got) == b"ab"
    assert received == body


def test_family_error_takes_a_message() -> None:
    assert isinstance(FAMILY_ERROR("x"), ERRORS)


async def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Scripted(Answer((b"data: 1\n\n",))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with new_session("http://provider.test") as session:
            exchange = await open_exchange(session, Send(RequestPlan("GET", "http://provider.test/x")))
            assert exchange.status == 200
            await exchange.aclose()
        assert proxy.requests[0].target == "http://provider.test/x"
        async with new_session(proxy.url) as session:  # on this machine, where no proxy leads to
            assert session._default_proxy is None
        monkeypatch.setenv("no_proxy", "provider.test")
        async with new_session("http://provider.test") as session:
            assert session._default_proxy is None
