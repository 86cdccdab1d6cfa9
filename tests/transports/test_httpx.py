from __future__ import annotations

import gzip
import importlib
import logging
import socket
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.log import MemoryStore
from resumable_llm.transports.call import BYPASS, Owner
from tests.in_memory import (
    ACCEPT,
    CHAT,
    CHAT_URL,
    EVENTS_URL,
    LLAMA,
    SSE,
    Said,
    Seen,
    chat,
    numbered,
    policy,
    transport,
)


class Client:
    """Whoever owns a transport."""


class Connection:
    """A network stream, as the transports of the family show it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def get_extra_info(self, name: str) -> object:
        return self._connection


class TransportTests:
    """What a family's transports do; one class of tests for each family inherits it."""

    family: str

    @property
    def http(self) -> Any:
        return importlib.import_module(self.family)

    def request(self, method: str = "GET", url: str = EVENTS_URL, **options: Any) -> Any:
        return self.http.Request(method, url, **options)

    def chat(self, **options: Any) -> Any:
        return self.request("POST", CHAT_URL, json=CHAT, **options)

    def around(self, inner: Any, **options: Any) -> Any:
        return getattr(rl, self.family).ResumableTransport(inner, **{"policy": policy(), **options})

    def async_around(self, inner: Any, **options: Any) -> Any:
        return getattr(rl, self.family).AsyncResumableTransport(inner, **{"policy": policy(), **options})

    @pytest.mark.parametrize("patience", [{}, {"deadline": 60}, rl.RetryPolicy])
    def test_what_is_no_policy(self, patience: Any) -> None:
        for around in (self.around, self.async_around):
            with pytest.raises(TypeError, match="policy must be a RetryPolicy"):
                around(transport(self.family), policy=patience)

    # What is none of our business

    @pytest.mark.parametrize("accept", [{}, ACCEPT])
    def test_an_answer_that_is_no_stream_passes(self, accept: dict[str, str]) -> None:
        inner = transport(self.family, Said([b"{}"], headers={"content-type": "application/json"}))
        response = self.around(inner).handle_request(self.request(headers=accept))
        assert response is inner.responses[0]
        assert response.read() == b"{}"

    @pytest.mark.parametrize("accept", [{}, ACCEPT])
    async def test_an_answer_that_is_no_stream_passes_async(self, accept: dict[str, str]) -> None:
        inner = transport(self.family, Said([b"{}"], headers={"content-type": "application/json"}))
        response = await self.async_around(inner).handle_async_request(self.request(headers=accept))
        assert response is inner.responses[0]
        assert await response.aread() == b"{}"

    @pytest.mark.parametrize("status", [307, 401, 429, 500, 503])
    def test_a_refusal_passes(self, status: int) -> None:
        inner = transport(self.family, Said([b"no"], status=status, headers={**SSE, "retry-after": "1"}))
        assert self.around(inner).handle_request(self.chat()) is inner.responses[0]
        assert len(inner.requests) == 1

    def test_an_error_before_the_answer_passes(self) -> None:
        inner = transport(self.family, Said(down="ConnectTimeout"))
        with pytest.raises(self.http.ConnectTimeout) as caught:
            self.around(inner).handle_request(self.chat())
        assert not isinstance(caught.value, rl.ResumableError)
        assert len(inner.requests) == 1

    async def test_an_error_before_the_answer_passes_async(self) -> None:
        inner = transport(self.family, Said(down="ConnectTimeout"))
        with pytest.raises(self.http.ConnectTimeout) as caught:
            await self.async_around(inner).handle_async_request(self.chat())
        assert not isinstance(caught.value, rl.ResumableError)

    def test_what_somebody_above_watches_over_passes(self) -> None:
        inner = transport(self.family, Said(numbered(1)))
        request = self.chat(extensions={BYPASS: True})
        assert self.around(inner).handle_request(request) is inner.responses[0]
        assert "idempotency-key" not in inner.requests[0].headers

    async def test_what_somebody_above_watches_over_passes_async(self) -> None:
        inner = transport(self.family, Said(numbered(1)))
        request = self.chat(extensions={BYPASS: True})
        assert await self.async_around(inner).handle_async_request(request) is inner.responses[0]

    # What is asked

    def test_what_is_added_to_a_request(self) -> None:
        inner = transport(self.family, Said(chat("a", done=True)))
        request = self.chat(headers={"accept-encoding": "gzip", "x-mine": "1"}, extensions={"trace": "mine"})
        before = request.headers.copy()
        self.around(inner).handle_request(request).read()
        (seen,) = inner.requests
        assert request.headers == before
        key = seen.headers["idempotency-key"]
        added = {"accept-encoding": "identity", "idempotency-key": key, "x-conversation-id": key}
        assert seen.headers == {**dict(before), **added}
        assert (seen.method, seen.url, seen.body) == ("POST", CHAT_URL, request.content)
        assert seen.extensions["trace"] == "mine"

    def test_the_callers_own_key_wins(self) -> None:
        inner = transport(self.family, Said(chat("a", done=True)))
        self.around(inner).handle_request(self.chat(headers={"Idempotency-Key": "mine"})).read()
        assert inner.requests[0].headers["idempotency-key"] == "mine"

    def test_the_same_call_again_comes_from_the_journal(self) -> None:
        inner = transport(self.family, Said(numbered(1, 2)), Said(numbered(2)), Said(status=204))
        outer, asked = self.around(inner, journal=MemoryStore()), {**ACCEPT, "Idempotency-Key": "mine"}
        first = outer.handle_request(self.request(headers=asked))
        assert next(first.iter_raw()) == numbered(1)[0]
        first.close()
        for _ in range(2):
            assert outer.handle_request(self.request(headers=asked)).read() == b"".join(numbered(1, 2))
        assert len(inner.requests) == 3

    async def test_the_same_call_again_comes_from_the_journal_async(self) -> None:
        inner = transport(self.family, Said(numbered(1, 2)), Said(numbered(2)), Said(status=204))
        outer, asked = self.async_around(inner, journal=MemoryStore()), {**ACCEPT, "Idempotency-Key": "mine"}
        first = await outer.handle_async_request(self.request(headers=asked))
        assert await anext(aiter(first.stream)) == numbered(1)[0]
        await first.aclose()
        for _ in range(2):
            response = await outer.handle_async_request(self.request(headers=asked))
            assert await response.aread() == b"".join(numbered(1, 2))
        assert len(inner.requests) == 3

    def test_an_sdks_own_retries_keep_the_key(self) -> None:
        inner = transport(self.family, Said(status=503), Said(down="ConnectError"), Said(chat("a", done=True)))
        outer = self.around(inner)
        assert outer.handle_request(self.chat(headers={"x-stainless-retry-count": "0"})).status_code == 503
        with pytest.raises(self.http.ConnectError):
            outer.handle_request(self.chat(headers={"x-stainless-retry-count": "1"}))
        assert outer.handle_request(self.chat(headers={"x-stainless-retry-count": "2"})).status_code == 200
        assert len({seen.headers["idempotency-key"] for seen in inner.requests}) == 1

    async def test_an_sdks_own_retries_keep_the_key_async(self) -> None:
        inner = transport(self.family, Said(status=503), Said(down="ConnectError"), Said(chat("a", done=True)))
        outer = self.async_around(inner)
        await outer.handle_async_request(self.chat(headers={"x-stainless-retry-count": "0"}))
        with pytest.raises(self.http.ConnectError):
            await outer.handle_async_request(self.chat(headers={"x-stainless-retry-count": "1"}))
        response = await outer.handle_async_request(self.chat(headers={"x-stainless-retry-count": "2"}))
        await response.aclose()
        assert len({seen.headers["idempotency-key"] for seen in inner.requests}) == 1

    def test_a_call_that_streams_gives_its_key_to_no_other(self) -> None:
        inner = transport(self.family, Said(chat("a", done=True)), Said(chat("a", done=True)))
        outer = self.around(inner)
        for number in range(2):
            outer.handle_request(self.chat(headers={"x-stainless-retry-count": str(number)})).read()
        assert len({seen.headers["idempotency-key"] for seen in inner.requests}) == 2

    def test_the_shortest_read_timeout_counts(self) -> None:
        inner = transport(self.family, Said(numbered(1), ends="ReadTimeout"), Said(numbered(2)), Said())
        timeouts = {"connect": 1.0, "read": 50.0, "write": 2.0, "pool": 3.0}
        patience = policy(first_event_timeout=80.0, event_timeout=40.0, read_timeout=60.0)
        request = self.request(headers=ACCEPT, extensions={"timeout": timeouts})
        assert self.around(inner, policy=patience).handle_request(request).read() == b"".join(numbered(1, 2))
        seen = [request.extensions["timeout"] for request in inner.requests]
        assert seen == [{**timeouts, "read": 50.0}, {**timeouts, "read": 40.0}, {**timeouts, "read": 40.0}]

    def test_a_header_that_is_not_ascii(self) -> None:
        inner = transport(self.family, Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
        request = self.request(headers={**ACCEPT, "x-title": "café".encode()})
        assert self.around(inner).handle_request(request).read() == b"".join(numbered(1, 2))
        assert [seen.headers["x-title"] for seen in inner.requests] == ["café"] * 3

    # The answer

    def test_slices_pass_to_the_byte(self) -> None:
        chunks = [b": hello\n\n", *chat("a", "b"), b"".join(chat("c", "d")), *chat(done=True)]
        inner = transport(self.family, Said(chunks, extensions={"http_version": b"HTTP/1.1"}))
        response = self.around(inner).handle_request(self.chat())
        assert response.status_code == 200
        assert response.headers == inner.responses[0].headers
        assert response.extensions["http_version"] == b"HTTP/1.1"
        assert list(response.iter_raw()) == chunks
        assert rl.inspect(response).report.attempts == 1

    def test_a_drop_is_not_seen(self) -> None:
        notices: list[str] = []
        inner = transport(
            self.family,
            Said([*numbered(1), numbered(2)[0][:9]], ends="ReadError"),
            Said(down="ConnectError"),
            Said(numbered(2, 3)),
            Said(),
        )
        outer = self.around(inner, on_event=lambda notice: notices.append(notice.kind))
        response = outer.handle_request(self.request(headers={**ACCEPT, "authorization": "Bearer mine"}))
        assert response.read() == b"".join(numbered(1, 2, 3))
        assert [seen.headers.get("last-event-id") for seen in inner.requests] == [None, "1", "1", "3"]
        assert {seen.headers["authorization"] for seen in inner.requests} == {"Bearer mine"}
        assert notices == ["drop", "resume", "drop", "resume", "confirm", "end"]
        assert all(body.closed for body in inner.bodies)

    async def test_a_drop_is_not_seen_async(self) -> None:
        notices: list[str] = []
        inner = transport(
            self.family,
            Said([*numbered(1), numbered(2)[0][:9]], ends="ReadError"),
            Said(down="ConnectError"),
            Said(numbered(2, 3)),
            Said(),
        )
        outer = self.async_around(inner, on_event=lambda notice: notices.append(notice.kind))
        response = await outer.handle_async_request(self.request(headers=ACCEPT))
        assert await response.aread() == b"".join(numbered(1, 2, 3))
        assert [seen.headers.get("last-event-id") for seen in inner.requests] == [None, "1", "1", "3"]
        assert notices == ["drop", "resume", "drop", "resume", "confirm", "end"]
        assert all(body.closed for body in inner.bodies)

    @pytest.mark.parametrize("error", ["ReadError", "RemoteProtocolError", "ReadTimeout", "DecodingError"])
    def test_an_answer_that_cannot_be_completed(self, error: str) -> None:
        inner = transport(self.family, Said(chat("a", "b"), ends=error))
        response = self.around(inner).handle_request(self.chat())
        with pytest.raises(rl.CannotResume) as caught:
            response.read()
        assert isinstance(caught.value, self.http.RemoteProtocolError)
        assert type(caught.value.__cause__) is getattr(self.http, error)
        assert caught.value.partial_text == "ab"

    async def test_an_answer_that_cannot_be_completed_async(self) -> None:
        inner = transport(self.family, Said(chat("a", "b"), ends="ReadError"))
        response = await self.async_around(inner).handle_async_request(self.chat())
        with pytest.raises(rl.CannotResume) as caught:
            await response.aread()
        assert isinstance(caught.value, self.http.RemoteProtocolError)
        assert type(caught.value.__cause__) is self.http.ReadError

    def test_an_event_stream_that_nobody_asked_for_is_watched_over(self) -> None:
        inner = transport(self.family, Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
        response = self.around(inner).handle_request(self.request("POST", content=b"body"))
        assert response.read() == b"".join(numbered(1, 2))
        assert [seen.body for seen in inner.requests] == [b"body"] * 3
        assert "idempotency-key" not in inner.requests[0].headers

    async def test_an_event_stream_that_nobody_asked_for_is_watched_over_async(self) -> None:
        inner = transport(self.family, Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
        response = await self.async_around(inner).handle_async_request(self.request("POST", content=b"body"))
        assert await response.aread() == b"".join(numbered(1, 2))

    def test_a_body_that_streams_from_somewhere_is_sent_once(self) -> None:
        inner = transport(self.family, Said(numbered(1), ends="ReadError"))
        request = self.request("POST", content=iter([b"bo", b"dy"]), headers=ACCEPT)
        response = self.around(inner).handle_request(request)
        with pytest.raises(rl.CannotResume, match="body"):
            response.read()
        assert [seen.body for seen in inner.requests] == [b"body"]

    async def test_a_body_that_streams_from_somewhere_is_sent_once_async(self) -> None:
        async def body() -> Any:
            yield b"bo"
            yield b"dy"

        inner = transport(self.family, Said(numbered(1), ends="ReadError"))
        request = self.request("POST", content=body(), headers=ACCEPT)
        response = await self.async_around(inner).handle_async_request(request)
        with pytest.raises(rl.CannotResume, match="body"):
            await response.aread()
        assert [seen.body for seen in inner.requests] == [b"body"]

    def test_a_compressed_answer_is_decoded(self) -> None:
        packed = gzip.compress(b"".join(numbered(1, 2)))
        headers = {**SSE, "content-encoding": "gzip", "content-length": str(len(packed)), "x-request-id": "7"}
        inner = transport(self.family, Said([packed[:20], packed[20:]], headers=headers), Said())
        response = self.around(inner).handle_request(self.request())
        assert dict(response.headers) == {**SSE, "x-request-id": "7"}
        assert response.read() == b"".join(numbered(1, 2))

    async def test_a_compressed_answer_is_decoded_async(self) -> None:
        packed = gzip.compress(b"".join(numbered(1, 2)))
        inner = transport(self.family, Said([packed], headers={**SSE, "content-encoding": "gzip"}), Said())
        response = await self.async_around(inner).handle_async_request(self.request())
        assert await response.aread() == b"".join(numbered(1, 2))

    def test_a_second_iteration_goes_on(self) -> None:
        inner = transport(self.family, Said(chat("a", "b", done=True)))
        stream = self.around(inner).handle_request(self.chat()).stream
        assert next(iter(stream)) == chat("a")[0]
        assert list(stream) == chat("b", done=True)

    async def test_a_second_iteration_goes_on_async(self) -> None:
        inner = transport(self.family, Said(chat("a", "b", done=True)))
        stream = (await self.async_around(inner).handle_async_request(self.chat())).stream
        assert await anext(aiter(stream)) == chat("a")[0]
        assert [part async for part in stream] == chat("b", done=True)
        await stream.aclose()

    # Closing

    def test_closing_early(self) -> None:
        inner = transport(self.family, Said(chat("a", "b", done=True)))
        response = self.around(inner).handle_request(self.chat())
        assert next(response.iter_raw()) == chat("a")[0]
        response.close()
        assert inner.bodies[0].closed == 1
        assert len(inner.requests) == 1

    async def test_closing_early_async(self) -> None:
        inner = transport(self.family, Said(chat("a", "b", done=True)))
        response = await self.async_around(inner).handle_async_request(self.chat())
        assert await anext(aiter(response.stream)) == chat("a")[0]
        await response.aclose()
        assert inner.bodies[0].closed == 1
        assert len(inner.requests) == 1

    def test_closing_shuts_the_socket_under_a_blocked_read(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            inner = transport(self.family, Said(chat("a"), extensions={"network_stream": Connection(ours)}))
            self.around(inner).handle_request(self.chat()).close()
            assert theirs.recv(1) == b""

    def test_the_end_is_told_even_if_nobody_reads_on(self) -> None:
        notices: list[str] = []
        inner = transport(self.family, Said(chat("a", done=True)))
        outer = self.around(inner, on_event=lambda notice: notices.append(notice.kind))
        response = outer.handle_request(self.chat())
        raw = response.iter_raw()
        assert [next(raw), next(raw)] == chat("a", done=True)
        response.close()
        assert notices == ["end"]

    def orphan(self, *more: Said) -> tuple[Any, Any]:
        inner = transport(self.family, Said(chat("a", "b"), headers=LLAMA), *more)
        return inner, self.around(inner)

    def test_an_orphan_of_llama_cpp_is_stopped(self) -> None:
        inner, outer = self.orphan(Said(status=204))
        outer.handle_request(self.chat(headers={"authorization": "Bearer mine"})).close()
        asked, told = inner.requests
        assert told.method == "DELETE"
        assert told.url == f"https://api.example/v1/stream?conv_id={asked.headers['x-conversation-id']}"
        assert told.headers["authorization"] == "Bearer mine"
        assert inner.bodies[1].closed == 1

    async def test_an_orphan_of_llama_cpp_is_stopped_async(self) -> None:
        inner, _ = self.orphan(Said(status=204))
        await (await self.async_around(inner).handle_async_request(self.chat())).aclose()
        assert [seen.method for seen in inner.requests] == ["POST", "DELETE"]

    def methods_after_closing(self, request: Any, *more: Said, look: bool = False) -> list[str]:
        inner, outer = self.orphan(*more)
        response = outer.handle_request(request)
        if look:
            assert rl.inspect(response).checkpoint.handle is not None
        response.close()
        seen: list[Seen] = inner.requests
        return [each.method for each in seen]

    def test_no_orphan_is_what_somebody_may_come_back_to(self) -> None:
        assert self.methods_after_closing(self.chat(), look=True) == ["POST"]

    def test_no_orphan_is_what_the_caller_named(self) -> None:
        assert self.methods_after_closing(self.chat(headers={"X-Conversation-Id": "mine"})) == ["POST"]

    @pytest.mark.parametrize("said", [Said(down="ConnectError"), Said(status=500)])
    def test_an_orphan_that_cannot_be_stopped_is_logged(self, said: Said, caplog: pytest.LogCaptureFixture) -> None:
        assert self.methods_after_closing(self.chat(), said) == ["POST", "DELETE"]
        assert [record.levelno for record in caplog.records] == [logging.WARNING]

    def test_whoever_brings_a_transport_closes_it_with_ours(self) -> None:
        inner = transport(self.family)
        with self.around(inner) as outer:
            assert outer.wrapped is inner
        assert inner.closed == 1

    async def test_whoever_brings_a_transport_closes_it_with_ours_async(self) -> None:
        inner = transport(self.family)
        async with self.async_around(inner) as outer:
            assert outer.wrapped is inner
        assert inner.closed == 1

    def test_the_last_owner_closes(self) -> None:
        inner, client = transport(self.family), Client()
        outer = self.around(inner)
        outer.owner = Owner(client)
        outer.close()
        assert inner.closed == 0
        del client
        outer.close()
        assert inner.closed == 1

    async def test_the_last_owner_closes_async(self) -> None:
        inner, client = transport(self.family), Client()
        outer = self.async_around(inner)
        outer.owner = Owner(client)
        await outer.aclose()
        assert inner.closed == 0
        del client
        await outer.aclose()
        assert inner.closed == 1

    async def test_without_a_transport_there_is_the_familys_own(self) -> None:
        ours = getattr(rl, self.family)
        with ours.ResumableTransport() as blocking:
            assert type(blocking.wrapped) is self.http.HTTPTransport
        async with ours.AsyncResumableTransport() as asynchronous:
            assert type(asynchronous.wrapped) is self.http.AsyncHTTPTransport


class TestHttpx(TransportTests):
    family = "httpx"
