from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from resumable_llm.testing.plan import Fault
from resumable_llm.testing.proxy import FaultProxy
from tests.testing.upstream import (
    BODY,
    EVENTS,
    LAST_CHUNK,
    STREAM_HEAD,
    Call,
    ask,
    chunk,
    connect,
    dechunk,
    ending,
    receive_body,
    receive_start,
    receive_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.conftest import Between

SIZES = [1, 7, 1000]
CUT = len(EVENTS[0]) + 5  # inside the second event


def stream_in(size: int) -> Callable[[Call], None]:
    return lambda call: call.stream(size=size)


def get(url: str) -> tuple[bytes, str]:
    """Return the raw response and how the connection ended."""
    with connect(url) as connection:
        ask(connection, more="Connection: close\r\n")
        return ending(connection)


@pytest.mark.parametrize("size", SIZES)
def test_a_clean_stream_passes_whole(between: Between, size: int) -> None:
    upstream, proxy = between(stream_in(size))
    response, how = get(proxy.url)
    assert (dechunk(response), how) == ((BODY, True), "fin")
    [record] = proxy.requests
    assert (record.status, record.streamed, record.fault) == (200, True, None)
    assert (record.bytes_sent, record.events_sent) == (len(BODY), len(EVENTS))
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fault", "sent"), [(Fault.rst(at_event=3), b"".join(EVENTS[:3])), (Fault.rst(at_byte=CUT), BODY[:CUT])], ids=repr
)
def test_rst_resets_the_connection_after_what_was_sent(between: Between, size: int, fault: Fault, sent: bytes) -> None:
    _, proxy = between(stream_in(size), fault)
    response, how = get(proxy.url)
    assert (dechunk(response), how) == ((sent, False), "rst")
    assert (proxy.requests[0].fault, proxy.requests[0].bytes_sent) == (fault, len(sent))
    assert proxy.requests[0].events_sent == sent.count(b"\n\n")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fault", "sent"), [(Fault.fin(at_event=3), b"".join(EVENTS[:3])), (Fault.fin(at_byte=CUT), BODY[:CUT])], ids=repr
)
def test_fin_leaves_the_body_incomplete(between: Between, size: int, fault: Fault, sent: bytes) -> None:
    _, proxy = between(stream_in(size), fault)
    response, how = get(proxy.url)
    assert (dechunk(response), how) == ((sent, False), "fin")
    assert proxy.requests[0].fault == fault


@pytest.mark.parametrize("fault", [Fault.rst(at_byte=CUT), Fault.fin(at_byte=CUT)], ids=repr)
def test_a_cut_inside_a_chunk_leaves_the_chunk_incomplete(between: Between, fault: Fault) -> None:
    _, proxy = between(stream_in(1000), fault)
    response, _ = get(proxy.url)
    assert response.partition(b"\r\n\r\n")[2] == chunk(BODY)[: -len(BODY) - 2 + CUT]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fault", "sent"), [(Fault.end(at_event=3), b"".join(EVENTS[:3])), (Fault.end(at_byte=CUT), BODY[:CUT])], ids=repr
)
def test_end_looks_like_success_and_keeps_the_connection(
    between: Between, size: int, fault: Fault, sent: bytes
) -> None:
    _, proxy = between(stream_in(size), fault)
    with connect(proxy.url) as connection:
        ask(connection)
        assert receive_body(connection) == sent
        ask(connection)
        assert receive_body(connection) == BODY
    assert proxy.connections == 1
    assert [record.fault for record in proxy.requests] == [fault, None]


@pytest.mark.parametrize("size", SIZES)
def test_stall_says_nothing_until_the_client_goes(between: Between, size: int) -> None:
    fault = Fault.stall(at_event=2)
    left = threading.Event()

    def answer(call: Call) -> None:
        call.stream(size=size)
        call.until_gone()
        left.set()

    _, proxy = between(answer, fault)
    with connect(proxy.url) as connection:
        ask(connection)
        receive_start(connection, EVENTS[0] + EVENTS[1])
        assert receive_until(connection, b"\r\n") == b"\r\n"  # the end of the chunk
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert not left.is_set()
    assert left.wait(5)
    assert (proxy.requests[0].fault, proxy.requests[0].events_sent) == (fault, 2)


def test_stall_ends_with_a_lost_connection(between: Between) -> None:
    _, proxy = between(stream_in(7), Fault.stall(seconds=0.05, at_byte=CUT))
    before = time.monotonic()
    response, how = get(proxy.url)
    assert (dechunk(response), how) == ((BODY[:CUT], False), "fin")
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize("size", SIZES)
def test_stall_pings_sends_nothing_but_pings(between: Between, size: int) -> None:
    fault = Fault.stall_pings(interval=0.02, at_byte=CUT)
    _, proxy = between(stream_in(size), fault)
    sent = b"".join(EVENTS[:2])
    with connect(proxy.url) as connection:
        ask(connection)
        response = receive_until(connection, chunk(b": ping\n\n") * 3)
    assert dechunk(response) == (sent + b": ping\n\n" * 3, False)
    assert proxy.requests[0].events_sent == 2


def test_stall_pings_ends_with_a_lost_connection(between: Between) -> None:
    _, proxy = between(stream_in(7), Fault.stall_pings(interval=0.02, seconds=0.07, at_event=1))
    response, how = get(proxy.url)
    (body, complete) = dechunk(response)
    assert body.removeprefix(EVENTS[0]).startswith(b": ping\n\n")
    assert body.removeprefix(EVENTS[0]).strip(b": ping\n") == b""
    assert (complete, how) == (False, "fin")


@pytest.mark.parametrize("size", SIZES)
def test_delay_holds_once_and_goes_on(between: Between, size: int) -> None:
    _, proxy = between(stream_in(size), Fault.delay(seconds=0.05, at_byte=CUT))
    with connect(proxy.url) as connection:
        ask(connection, more="Connection: close\r\n")
        before = time.monotonic()
        start = receive_start(connection, BODY[:CUT])
        assert proxy.requests[0].fault is not None
        response, how = ending(connection, start)
    assert (dechunk(response), how) == ((BODY, True), "fin")
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (Fault.duplicate(events=2, at_event=3), b"".join([*EVENTS[:3], *EVENTS[1:3], *EVENTS[3:]])),
        (Fault.drop(events=2, at_event=3), b"".join([*EVENTS[:3], *EVENTS[5:]])),
        (Fault.corrupt(at_byte=CUT), BODY[:CUT] + bytes([BODY[CUT] ^ 0xFF]) + BODY[CUT + 1 :]),
        (Fault.corrupt(garbage=b"\x00\n\n", at_byte=CUT), BODY[:CUT] + b"\x00\n\n" + BODY[CUT:]),
    ],
    ids=repr,
)
def test_changed_bytes_are_exact(between: Between, size: int, fault: Fault, sent: bytes) -> None:
    _, proxy = between(stream_in(size), fault)
    response, _ = get(proxy.url)
    assert dechunk(response) == (sent, True)
    assert proxy.requests[0].fault == fault
    assert proxy.requests[0].bytes_sent == len(sent)
    assert proxy.requests[0].events_sent == sent.count(b"\n\n")


@pytest.mark.parametrize("at_seconds", [0, 0.03])
def test_a_fault_can_come_by_the_clock_while_nothing_is_sent(between: Between, at_seconds: float) -> None:
    def answer(call: Call) -> None:
        call.send(STREAM_HEAD)
        if at_seconds:
            call.send(chunk(EVENTS[0]))
        call.until_gone()

    _, proxy = between(answer, Fault.rst(at_seconds=at_seconds))
    response, how = get(proxy.url)
    assert (dechunk(response), how) == ((EVENTS[0] if at_seconds else b"", False), "rst")


def test_at_zero_seconds_nothing_passes_even_if_it_is_there(between: Between) -> None:
    def answer(call: Call) -> None:
        call.send(STREAM_HEAD + chunk(EVENTS[0]))
        call.until_gone()

    _, proxy = between(answer, Fault.fin(at_seconds=0))
    assert dechunk(get(proxy.url)[0]) == (b"", False)


def test_a_fault_that_is_never_reached_is_not_recorded(between: Between) -> None:
    _, proxy = between(stream_in(7), Fault.rst(at_event=100))
    assert dechunk(get(proxy.url)[0]) == (BODY, True)
    assert proxy.requests[0].fault is None


@pytest.mark.parametrize("kind", ["rst", "fin", "stall", "stall_pings"])
def test_httpx_raises_its_own_errors(between: Between, client: httpx.Client, kind: str) -> None:
    fault, error = {
        "rst": (Fault.rst(at_byte=CUT), httpx.ReadError),
        "fin": (Fault.fin(at_byte=CUT), httpx.RemoteProtocolError),
        "stall": (Fault.stall(at_byte=CUT), httpx.ReadTimeout),
        "stall_pings": (Fault.stall_pings(interval=60, at_byte=CUT), httpx.ReadTimeout),
    }[kind]
    _, proxy = between(stream_in(7), fault)
    received: list[bytes] = []
    seconds = 0.5 if error is httpx.ReadTimeout else 20
    with client.stream("POST", proxy.url, timeout=httpx.Timeout(5, read=seconds)) as response, pytest.raises(error):
        received.extend(response.iter_raw())
    assert b"".join(received) == (b"".join(EVENTS[:2]) if kind == "stall_pings" else BODY[:CUT])


def test_httpx_takes_an_early_end_for_success(between: Between, client: httpx.Client) -> None:
    _, proxy = between(stream_in(7), Fault.end(at_byte=CUT))
    assert client.get(proxy.url).content == BODY[:CUT]
    assert client.get(proxy.url).content == BODY
    assert proxy.connections == 1


def test_events_are_not_held_back(between: Between) -> None:
    seen = threading.Semaphore(0)

    def answer(call: Call) -> None:
        call.send(STREAM_HEAD)
        for event in EVENTS:
            call.send(chunk(event[:3]))
            assert seen.acquire(timeout=5)
            call.send(chunk(event[3:]))
            assert seen.acquire(timeout=5)
        call.send(LAST_CHUNK)

    _, proxy = between(answer)
    with connect(proxy.url) as connection:
        ask(connection)
        receive_until(connection, b"\r\n\r\n")
        for event in EVENTS:
            receive_until(connection, chunk(event[:3]))
            seen.release()
            receive_until(connection, chunk(event[3:]))
            seen.release()
        receive_until(connection, LAST_CHUNK)


@pytest.mark.slow
def test_a_slow_reader_still_gets_all_that_was_sent_before_a_reset(between: Between) -> None:
    event = b"data: " + b"x" * 9_992 + b"\n\n"
    passed = threading.Event()

    def answer(call: Call) -> None:
        call.stream(event * 400, size=100_000)
        call.until_gone()
        passed.set()

    _, proxy = between(answer, Fault.rst(at_event=300))
    with connect(proxy.url, receive_buffer=100_000) as connection:
        ask(connection)
        response, how = ending(connection, pause=lambda: passed.wait(0.001))
    assert (dechunk(response), how) == ((event * 300, False), "rst")


@pytest.mark.slow
def test_a_slow_reader_slows_the_upstream(between: Between) -> None:
    sent = 0
    stuck = threading.Event()

    def answer(call: Call) -> None:
        nonlocal sent
        call.send(STREAM_HEAD)
        call.connection.settimeout(0.3)
        try:
            while sent < 100_000_000:
                call.send(chunk(b"x" * 100_000))
                sent += 100_000
        except TimeoutError:
            stuck.set()

    _, proxy = between(answer)
    with connect(proxy.url, receive_buffer=4096) as connection:
        ask(connection)
        assert stuck.wait(10)
    assert sent < 50_000_000


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "Application/X-NDJSON; charset=utf-8"])
def test_lines_of_json_are_streams_too(between: Between, content_type: str) -> None:
    head = STREAM_HEAD.replace(b"text/event-stream; charset=utf-8", content_type.encode())
    lines = b'{"n":1}\n{"n":2}\n{"n":3}\n'

    def answer(call: Call) -> None:
        call.stream(lines, 5, head)

    _, proxy = between(answer, Fault.fin(at_event=2), Fault.stall_pings(interval=0.01, seconds=0.05, at_event=1))
    assert dechunk(get(proxy.url)[0]) == (lines[:16], False)
    pinged, _ = dechunk(get(proxy.url)[0])
    assert pinged.startswith(lines[:8] + b"\n")
    assert pinged.rstrip(b"\n") == lines[:7]
    assert [record.events_sent for record in proxy.requests] == [2, 1]


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n" % len(BODY), b"Connection: close\r\n", b""])
@pytest.mark.parametrize("fault", [None, Fault.fin(at_byte=CUT), Fault.end(at_byte=CUT)], ids=repr)
def test_every_stream_goes_out_chunked(between: Between, framing: bytes, fault: Fault | None) -> None:
    def answer(call: Call) -> None:
        call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n" + BODY)

    _, proxy = between(answer, fault)
    response, _ = get(proxy.url)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in response
    assert b"content-length" not in response.lower()
    expected = {None: (BODY, True), "fin": (BODY[:CUT], False), "end": (BODY[:CUT], True)}
    assert dechunk(response) == expected[fault.kind if fault else None]


@pytest.mark.parametrize("fault", [Fault.fin(at_byte=CUT), Fault.end(at_byte=CUT), Fault.rst(at_byte=CUT)], ids=repr)
def test_an_http_1_0_client_gets_no_chunks(between: Between, fault: Fault) -> None:
    _, proxy = between(stream_in(1000), fault)
    with connect(proxy.url) as connection:
        ask(connection, version="1.0")
        response, how = ending(connection)
    assert response.partition(b"\r\n\r\n")[2] == BODY[:CUT]
    assert how == ("rst" if fault.kind == "rst" else "fin")


def test_identity_is_asked_for_and_compressed_streams_are_refused(between: Between, client: httpx.Client) -> None:
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    upstream, proxy = between(lambda call: call.stream(gzip.compress(BODY), head=head), Fault.rst(at_event=1))
    response = client.get(proxy.url, headers={"Accept-Encoding": "gzip"})
    assert response.status_code == 502
    assert "compresses its stream" in response.text
    [call] = upstream.calls
    assert call.header("Accept-Encoding") == "identity"
    [record] = proxy.requests
    assert record.headers["accept-encoding"] == "gzip"
    assert (record.status, record.streamed, record.fault) == (502, False, None)


def test_other_responses_pass_untouched(between: Between) -> None:
    plain = b"HTTP/1.1 404 Oh Dear\r\nX-Odd-Case: yes\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    upstream, proxy = between(lambda call: call.send(plain), Fault.rst(at_byte=0))
    with connect(proxy.url) as connection:
        ask(connection)
        assert receive_until(connection, b"{}") == plain
        ask(connection)
        assert receive_until(connection, b"{}") == plain
    assert [(record.streamed, record.fault, record.bytes_sent) for record in proxy.requests] == [(False, None, 2)] * 2
    assert len(upstream.calls) == 2


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", b"200 OK"), ("GET", b"204 No Content"), ("GET", b"304 Not Modified")]
)
def test_a_response_without_a_body_is_no_stream(between: Between, method: str, status: bytes) -> None:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: text/event-stream\r\nETag: 1\r\n\r\n"
    _, proxy = between(lambda call: call.send(head), Fault.rst(at_byte=0))
    with connect(proxy.url) as connection:
        for _ in range(2):
            ask(connection, method=method)
            assert b"ETag: 1" in receive_until(connection, b"\r\n\r\n")
    assert [record.streamed for record in proxy.requests] == [False, False]


def test_requests_pass_as_they_are(between: Between, client: httpx.Client) -> None:
    upstream, proxy = between(stream_in(1000))
    body = b"x" * 300_000
    url = f"{proxy.url}/v1/responses?q=1"
    client.post(url, content=body, headers=[("X-Twice", "a"), ("X-Twice", "b"), ("Upgrade", "h2c")])
    client.post(url, content=iter([b"abc", b"def"]))
    plain, chunked = upstream.calls
    assert (plain.body, chunked.body) == (body, b"abcdef")
    assert plain.head.startswith(b"POST /v1/responses?q=1 HTTP/1.1\r\n")
    assert plain.header("Host") == proxy.url.removeprefix("http://")
    assert plain.header("Upgrade") is None
    first, second = proxy.requests
    assert (first.method, first.path, first.body_bytes) == ("POST", "/v1/responses?q=1", 300_000)
    assert first.headers["x-twice"] == "a, b"
    assert second.body_bytes == 6


def test_a_client_that_waits_for_100_continue_gets_it(between: Between) -> None:
    upstream, proxy = between(stream_in(1000))
    with connect(proxy.url) as connection:
        ask(connection, method="POST", more="Content-Length: 5\r\nExpect: 100-continue\r\n")
        assert receive_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hello")
        assert receive_body(connection) == BODY
    assert upstream.calls[0].header("Expect") is None
    assert upstream.calls[0].body == b"hello"


def test_early_hints_pass(between: Between) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    _, proxy = between(lambda call: call.stream(head=hints + STREAM_HEAD))
    with connect(proxy.url) as connection:
        ask(connection)
        assert receive_until(connection, b"\r\n\r\n") == hints
        assert receive_body(connection) == BODY


@pytest.mark.slow
def test_an_answer_before_the_whole_request_counts(client: httpx.Client) -> None:
    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:  # what is unread when it closes makes this a reset
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, FaultProxy(listener.getsockname()) as proxy:
        thread = threading.Thread(target=refuse)
        thread.start()
        assert client.post(proxy.url, content=b"x" * 20_000_000).status_code == 413
        thread.join()
        assert proxy.requests[0].body_bytes == 20_000_000


def test_a_lost_upstream_connection_is_lost_in_the_same_way(between: Between) -> None:
    def reset(call: Call) -> None:
        call.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        call.connection.close()

    def answer(call: Call) -> None:
        part = STREAM_HEAD + chunk(EVENTS[0])
        if call.header("X-How") == "fin":
            call.send(part)
        elif call.header("X-How") == "rst":
            call.send(part)
            assert acknowledged.wait(5)
            reset(call)

    acknowledged = threading.Event()
    _, proxy = between(answer)
    for how in ("fin", "rst"):
        with connect(proxy.url) as connection:
            ask(connection, more=f"X-How: {how}\r\n")
            start = receive_until(connection, chunk(EVENTS[0]))
            acknowledged.set()
            response, seen = ending(connection, start)
            assert (dechunk(response), seen) == ((EVENTS[0], False), how)
    with connect(proxy.url) as connection:
        ask(connection, more="X-How: close without a word\r\n")
        assert ending(connection) == (b"", "fin")
    assert [record.status for record in proxy.requests] == [200, 200, None]


def test_the_upstream_learns_at_once_that_the_client_has_gone(between: Between) -> None:
    left = threading.Event()

    def answer(call: Call) -> None:
        call.send(STREAM_HEAD + chunk(EVENTS[0]))
        call.until_gone()
        left.set()

    _, proxy = between(answer)
    with connect(proxy.url) as connection:
        ask(connection)
        receive_until(connection, chunk(EVENTS[0]))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert left.wait(5)


def test_a_request_sent_ahead_is_answered_in_its_turn(between: Between) -> None:
    _, proxy = between(stream_in(7), Fault.delay(seconds=0.02, at_event=1))
    with connect(proxy.url) as connection:
        ask(connection)
        receive_until(connection, b"\r\n\r\n7")  # the first response is under way
        ask(connection, more="X-Ahead: yes\r\n")
        first = receive_until(connection, LAST_CHUNK)
        assert receive_body(connection) == BODY
    assert first
    assert [record.headers.get("x-ahead") for record in proxy.requests] == [None, "yes"]


def test_what_is_not_http_is_cut_off(between: Between) -> None:
    upstream, proxy = between(stream_in(7))
    with connect(proxy.url) as connection:
        connection.sendall(b"\x16\x03\x01\x02\r\n\r\n")
        assert ending(connection)[0] == b""
    with connect(proxy.url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        connection.shutdown(socket.SHUT_WR)
        assert ending(connection)[0] == b""
    assert upstream.calls == []
    assert proxy.connections == 2
