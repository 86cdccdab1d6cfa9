"""The ollama SDK, wrapped. Its streams are lines of JSON, not events: nothing about them may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from tests.sdks import formats
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, busy, policy
from tests.sockets.scripted import Answer, End, Scripted

ollama = pytest.importorskip("ollama", reason="the environment for openai 2 has no ollama")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}
ANSWER = Answer(formats.ollama_chat(), headers={"content-type": "application/x-ndjson"})


class Counting(httpx.HTTPTransport):
    """Counts what goes through."""

    requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return super().handle_request(request)


class AsyncCounting(httpx.AsyncHTTPTransport):
    requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return await super().handle_async_request(request)


def test_a_stream_is_the_same() -> None:
    inner = Counting()
    with Scripted(rest=lambda request: ANSWER) as server, ollama.Client(host=server.url, transport=inner) as api:
        wrapped = rl.wrap(api, policy=policy())
        assert type(wrapped) is ollama.Client
        ours = wrapped._client._transport
        assert isinstance(ours, rl.httpx.ResumableTransport)
        assert ours.wrapped is inner
        assert api._client._transport is inner
        plain = [part.model_dump() for part in api.chat(**CHAT)]
        assert [part.model_dump() for part in wrapped.chat(**CHAT)] == plain
        assert plain[-1]["done"]
        assert inner.requests == len(server.requests) == 2
        assert server.requests[0].body == server.requests[1].body
        assert not busy(api._client)


async def test_a_stream_is_the_same_async(anyio_backend: str) -> None:
    inner = AsyncCounting()
    with Scripted(rest=lambda request: ANSWER) as server:
        async with ollama.AsyncClient(host=server.url, transport=inner) as api:
            wrapped = rl.wrap(api, policy=policy())
            assert type(wrapped) is ollama.AsyncClient
            ours = wrapped._client._transport
            assert isinstance(ours, rl.httpx.AsyncResumableTransport)
            assert ours.wrapped is inner
            plain = [part.model_dump() async for part in await api.chat(**CHAT)]
            assert [part.model_dump() async for part in await wrapped.chat(**CHAT)] == plain
            assert inner.requests == len(server.requests) == 2
            assert not busy(api._client)


def test_a_drop_is_ours_and_carries_what_was_said() -> None:
    cut = replace(ANSWER, pieces=ANSWER.pieces[:3], end=End.FIN)
    with Scripted(cut) as server, ollama.Client(host=server.url) as api:
        with pytest.raises(rl.CannotResume) as caught:
            list(rl.wrap(api, policy=policy()).chat(**CHAT))
        assert caught.value.partial_text == "".join(wire.WORDS[:3])
        assert not busy(api._client)


def test_copying_a_model_is_not_copying_a_client() -> None:
    """The client has a method ``copy``, which asks the server to copy a model."""
    done = Answer(headers={}, chunked=False)
    with Scripted(rest=lambda request: done) as server, ollama.Client(host=server.url) as api:
        wrapped = rl.wrap(api)
        assert server.requests == []
        wrapped.copy("a", "b")
        assert [request.path for request in server.requests] == ["/api/copy"]
