"""The inference clients of huggingface_hub: the asynchronous one wrapped, and the blocking one as it can be had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts
from tests.sdks.wrapped import acheck, cut_in_the_middle
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

hub = pytest.importorskip("huggingface_hub", reason="the environment for openai 2 has no huggingface_hub")

pytestmark = [
    pytest.mark.slow,
    FOREIGN_GENERATORS,
    # It stops reading at the sentinel and leaves its own generators there, wrapped or not.
    pytest.mark.filterwarnings("ignore:Async generator 'huggingface_hub:ResourceWarning"),
]

EVENTS = wire.numbered(wire.chat())
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "stream": True}


@pytest.fixture
def restored() -> Iterator[None]:
    """The process's HTTP clients are as they were afterwards."""
    from huggingface_hub.utils import _http

    factories = _http._GLOBAL_CLIENT_FACTORY, _http._GLOBAL_ASYNC_CLIENT_FACTORY
    yield
    hub.set_client_factory(factories[0])
    hub.set_async_client_factory(factories[1])


async def stream(api: Any) -> Any:
    return [dict(chunk) async for chunk in await api.chat_completion(**ASKED)]


def said(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks)


async def test_cut_anywhere_async(anyio_backend: str, restored: None) -> None:
    async with async_client("httpx2") as http:

        def made(url: str) -> Any:
            api = hub.AsyncInferenceClient(base_url=url, api_key="s3cret")
            api._async_client = http  # as after its first request
            return api

        async def run(api: Any) -> Any:
            chunks = await stream(api)
            await api.close()
            return chunks

        await acheck(made, run, EVENTS, http)


async def test_a_client_that_has_asked_nothing_yet(anyio_backend: str, restored: None) -> None:
    made = []

    def factory() -> Any:
        made.append(async_client("httpx2"))
        return made[-1]

    hub.set_async_client_factory(factory)
    with cuts.server(cut_in_the_middle(EVENTS), cuts.honour(EVENTS)) as server:
        original = hub.AsyncInferenceClient(base_url=server.url, api_key="s3cret")
        async with rl.wrap(original, policy=policy()) as api:
            assert said(await stream(api)) == wire.TEXT
            assert len(server.requests) == 2
        assert original._async_client is None
        (http,) = made
        assert not http._transport._pool.connections, "who made the connections closes them"


def test_the_blocking_client_is_refused_and_what_the_refusal_advises_works(restored: None) -> None:
    with cuts.server(cut_in_the_middle(EVENTS), cuts.honour(EVENTS)) as server:
        api = hub.InferenceClient(base_url=server.url, api_key="s3cret")
        with pytest.raises(TypeError, match=r"set_client_factory\(lambda: rl.wrap\(httpx2.Client\("):
            rl.wrap(api)
        http = client("httpx2", follow_redirects=True, timeout=None)
        hub.set_client_factory(lambda: rl.wrap(http, policy=policy()))
        assert said([dict(chunk) for chunk in api.chat_completion(**ASKED)]) == wire.TEXT
        assert len(server.requests) == 2
        api.close()
        assert not busy(http)


async def test_without_ids_an_error_carries_what_was_said(anyio_backend: str, restored: None) -> None:
    hub.set_async_client_factory(lambda: async_client("httpx2"))
    with Scripted(Answer(wire.blocks(wire.chat()[:5]), End.FIN)) as server:
        async with rl.wrap(hub.AsyncInferenceClient(base_url=server.url, api_key="s3cret"), policy=policy()) as api:
            with pytest.raises(rl.CannotResume) as caught:
                await stream(api)
            assert caught.value.partial_text == "".join(wire.WORDS[:4])
