from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from resumable_llm.testing import Fault, FaultPlan, FaultProxy, RequestRecord
from resumable_llm.testing.exchange import Exchange
from tests.testing.upstream import BODY, EVENTS, STREAM_HEAD, Call, Upstream, ask, chunk, connect, ending, receive_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.testing.conftest import Between

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert "FaultProxy" not in {thread.name for thread in threading.enumerate()}


def stream(call: Call) -> None:
    call.stream(size=7)


def test_the_url_is_the_upstreams_with_another_address(between: Between, client: httpx.Client) -> None:
    upstream, _ = between(stream)
    with FaultProxy(f"{upstream.url}/v1") as proxy:
        assert proxy.url.startswith("http://127.0.0.1:")
        assert proxy.url.endswith("/v1")
        assert proxy.url != f"{upstream.url}/v1"
        assert client.get(f"{proxy.url}/models?a=b").content == BODY
    assert upstream.calls[0].head.startswith(b"GET /v1/models?a=b HTTP/1.1\r\n")


def test_host_and_port_will_do(between: Between, client: httpx.Client) -> None:
    upstream, _ = between(stream)
    with FaultProxy(("127.0.0.1", upstream.server_address[1])) as proxy:
        assert client.get(proxy.url).content == BODY


@pytest.mark.parametrize("url", ["https://example.test", "example.test:80", "http://", "ws://example.test"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the upstream must be an http:// URL with a host"):
        FaultProxy(url)


def test_without_a_port_it_is_80() -> None:
    assert FaultProxy("http://example.test")._port == 80


def test_the_nth_stream_suffers_the_nth_fault(between: Between, client: httpx.Client) -> None:
    faults = (Fault.end(at_event=1), None, Fault.end(at_event=2))
    _, proxy = between(stream, *faults)
    lengths = [len(client.get(proxy.url).content) for _ in range(4)]
    assert lengths == [len(b"".join(EVENTS[:1])), len(BODY), len(b"".join(EVENTS[:2])), len(BODY)]
    assert [record.fault for record in proxy.requests] == [*faults, None]
    assert proxy.plan == FaultPlan(*faults)


def test_only_streams_count(between: Between, client: httpx.Client) -> None:
    def answer(call: Call) -> None:
        if b"/stream" in call.head:
            call.stream()
        else:
            call.send(OK)

    _, proxy = between(answer, Fault.end(at_event=1))
    assert client.get(f"{proxy.url}/models").text == "ok"
    assert client.get(f"{proxy.url}/stream").content == EVENTS[0]
    assert [(record.path, record.streamed) for record in proxy.requests] == [("/models", False), ("/stream", True)]


def test_a_new_plan_starts_from_its_first_fault(between: Between, client: httpx.Client) -> None:
    _, proxy = between(stream, Fault.end(at_event=1), Fault.end(at_event=2))
    assert client.get(proxy.url).content == EVENTS[0]
    proxy.plan = FaultPlan(Fault.end(at_event=3))
    assert client.get(proxy.url).content == b"".join(EVENTS[:3])
    assert client.get(proxy.url).content == BODY


def test_connections_and_requests_are_counted(between: Between, client: httpx.Client) -> None:
    upstream, proxy = between(stream)
    client.get(proxy.url)
    client.post(proxy.url, content=b"hello", headers={"X-Name": "Value"})
    client.get(proxy.url, headers={"Connection": "close"})
    client.get(proxy.url)
    assert proxy.connections == 2
    assert [record.method for record in proxy.requests] == ["GET", "POST", "GET", "GET"]
    record = proxy.requests[1]
    assert record == RequestRecord("POST", "/", record.headers, 5, 200, True, None, len(BODY), len(EVENTS))
    assert record.headers["x-name"] == "Value"
    assert len(upstream.calls) == 4
    proxy.requests.clear()
    assert len(proxy.requests) == 4


def test_many_streams_at_once(between: Between, client: httpx.Client) -> None:
    everybody = threading.Barrier(20)

    def answer(call: Call) -> None:
        everybody.wait(10)
        call.stream(size=7)

    _, proxy = between(answer, *[Fault.end(at_event=n % 8) for n in range(20)])
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(client.get(proxy.url).content)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bodies) == sorted(b"".join(EVENTS[: n % 8]) for n in range(20))


def test_a_client_that_wants_no_further_request_is_let_go(between: Between) -> None:
    _, proxy = between(stream)
    with connect(proxy.url) as connection:
        ask(connection, more="Connection: close\r\n")
        assert ending(connection)[1] == "fin"


def test_an_upstream_that_is_not_there_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    with FaultProxy(nobody) as proxy, connect(proxy.url) as connection:
        ask(connection)
        assert ending(connection) == (b"", "rst")
        assert proxy.requests[0].status is None


def test_a_tunnel_is_refused(between: Between) -> None:
    upstream, proxy = between(stream)
    with connect(proxy.url) as connection:
        ask(connection, method="CONNECT")
        assert ending(connection)[0] == b""
    assert upstream.calls == []


@pytest.mark.parametrize(
    "fault",
    [None, Fault.stall(at_event=1), Fault.stall_pings(interval=60, at_event=1), Fault.delay(seconds=60, at_event=1)],
    ids=repr,
)
def test_closing_waits_for_nobody(between: Between, fault: Fault | None) -> None:
    def answer(call: Call) -> None:
        call.send(STREAM_HEAD + chunk(EVENTS[0]))
        call.until_gone()

    _, proxy = between(answer, fault)
    with connect(proxy.url) as idle, connect(proxy.url) as busy:
        ask(busy)
        receive_until(busy, EVENTS[0])
        before = time.monotonic()
        proxy.close()
        assert time.monotonic() - before < 10
        assert ending(idle) == (b"", "fin")
        ending(busy)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy.url)
    proxy.close()


def test_closing_waits_for_no_reader() -> None:
    event = b"data: " + b"x" * 100_000 + b"\n\n"
    passed = threading.Event()

    def answer(call: Call) -> None:
        call.stream(event * 100)
        passed.set()

    with Upstream(answer) as upstream:
        with FaultProxy(upstream.url, FaultPlan(Fault.rst(at_event=99))) as proxy, connect(proxy.url, 4096) as reader:
            ask(reader)
            receive_until(reader, b"\r\n\r\n")
            assert not passed.is_set()
        assert passed.wait(5)


def test_it_starts_only_once(between: Between) -> None:
    _, proxy = between(stream)
    with pytest.raises(RuntimeError, match="a proxy starts only once"):
        proxy.start()


def test_before_the_start_there_is_no_url_and_nothing_to_close() -> None:
    proxy = FaultProxy("http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = proxy.url
    proxy.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_async_clients_use_it_too(between: Between) -> None:
    upstream, _ = between(stream)
    async with FaultProxy(upstream.url, FaultPlan(Fault.fin(at_byte=30))) as proxy, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(proxy.url)
        assert (await client.get(proxy.url)).content == BODY
    assert [record.bytes_sent for record in proxy.requests] == [30, len(BODY)]


def test_a_bug_in_the_proxy_does_not_stay_hidden(between: Between, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise LookupError("a bug")

    _, proxy = between(stream)
    monkeypatch.setattr(Exchange, "run", broken)
    with connect(proxy.url) as connection:
        ask(connection)
        assert ending(connection)[0] == b""
    with pytest.raises(RuntimeError, match="the fault proxy failed") as caught:
        proxy.close()
    assert isinstance(caught.value.__cause__, LookupError)


def test_asyncio_has_nothing_to_complain_about(
    between: Between, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    _, proxy = between(stream, Fault.rst(at_event=1), Fault.fin(at_byte=3), Fault.stall(at_event=1))
    for error, seconds in ((httpx.ReadError, 20), (httpx.RemoteProtocolError, 20), (httpx.ReadTimeout, 0.2)):
        with pytest.raises(error):
            client.get(proxy.url, timeout=seconds)
    proxy.close()
    assert caplog.records == []


def test_plain_answers_of_an_old_server_pass() -> None:
    class Old(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"nothing here")

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Old) as old:
        thread = threading.Thread(target=old.handle_request)
        thread.start()
        with FaultProxy(("127.0.0.1", old.server_address[1]), FaultPlan()) as proxy:
            answer = httpx.get(proxy.url + "/x")
        thread.join()
    assert (answer.status_code, answer.content) == (404, b"nothing here")
