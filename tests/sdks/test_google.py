"""The google-genai SDK, wrapped: models, chats and interactions, with every HTTP client that it may use."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import Watched, acheck, check, some_cuts
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

genai = pytest.importorskip("google.genai", reason="google-genai needs Python 3.11, and the first environment")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

ASKED: dict[str, Any] = {"model": "m", "contents": "?"}
EVENTS = formats.gemini()
"""Without ids: its decoder takes whatever line is no data for JSON of an error. So there is no way to resume."""
UNBEGUN = [Answer([], End.FIN), Answer([], End.RST), Answer([EVENTS[0].block[:20]], End.FIN)]
"""What is asked for again all the same, because nothing of it was delivered."""
INTERACTIONS = wire.numbered(formats.interactions())

only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the SDK itself is bound to it


@pytest.fixture(scope="module", params=["httpx2", "httpx"])
def http(request: pytest.FixtureRequest) -> Iterator[Any]:
    with client(request.param) as made:
        yield made


def sdk(url: str, http: Any, async_http: Any = None) -> Any:
    async_http = async_http or async_client(type(http).__module__.partition(".")[0])
    options = {"base_url": url, "httpx_client": http, "httpx_async_client": async_http}
    return genai.Client(api_key="s3cret", http_options=options)


def own(url: str) -> Any:
    """A client that makes its HTTP clients itself."""
    return genai.Client(api_key="s3cret", http_options={"base_url": url})


def _said(chunk: Any) -> Any:
    # The headers of the response are in it; they say when.
    return chunk.model_dump(exclude={"sdk_http_response"})


def models(api: Any) -> Any:
    return [_said(chunk) for chunk in api.models.generate_content_stream(**ASKED)]


def chats(api: Any) -> Any:
    chat = api.chats.create(model="m")
    return [_said(chunk) for chunk in chat.send_message_stream("?")], chat.get_history()


def interactions(api: Any) -> Any:
    return [event.model_dump() for event in api.interactions.create(model="m", input="?", stream=True)]


async def amodels(api: Any) -> Any:
    return [_said(chunk) async for chunk in await api.aio.models.generate_content_stream(**ASKED)]


async def achats(api: Any) -> Any:
    chat = api.aio.chats.create(model="m")
    return [_said(chunk) async for chunk in await chat.send_message_stream("?")], chat.get_history()


async def ainteractions(api: Any) -> Any:
    stream = await api.aio.interactions.create(model="m", input="?", stream=True)
    return [event.model_dump() async for event in stream]


def test_cut_anywhere(http: Any) -> None:
    check(lambda url: sdk(url, http), interactions, INTERACTIONS, http, cut=some_cuts(INTERACTIONS))


@pytest.mark.parametrize("run", [models, chats], ids=["models", "chats"])
def test_cut_before_it_began(http: Any, run: Any) -> None:
    check(lambda url: sdk(url, http), run, EVENTS, http, cut=UNBEGUN)


@only_asyncio
@pytest.mark.parametrize("family", ["httpx2", "httpx"])
async def test_cut_anywhere_async(anyio_backend: str, family: str) -> None:
    async with async_client(family) as http:
        with client(family) as other:
            await acheck(
                lambda url: sdk(url, other, http), ainteractions, INTERACTIONS, http, cut=some_cuts(INTERACTIONS)
            )


@only_asyncio
@pytest.mark.parametrize("family", ["httpx2", "httpx"])
@pytest.mark.parametrize("run", [amodels, achats], ids=["models", "chats"])
async def test_cut_before_it_began_async(anyio_backend: str, family: str, run: Any) -> None:
    async with async_client(family) as http:
        with client(family) as other:
            await acheck(lambda url: sdk(url, other, http), run, EVENTS, http, cut=UNBEGUN)


@only_asyncio
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # inside the SDK
async def test_a_client_of_its_own_making(anyio_backend: str) -> None:
    """It prefers aiohttp where that is installed, and has one HTTP client per event loop."""
    pytest.importorskip("aiohttp")
    with cuts.server(UNBEGUN[0], cuts.honour(EVENTS)) as server:
        watched = Watched(own(server.url))
        assert watched.original._api_client._use_aiohttp()
        said = await amodels(watched.client)
        assert watched.notices[0] == "drop"
        count = len(watched.notices)
        assert await amodels(watched.original) == said
        assert models(watched.original) == said
        assert len(watched.notices) == count
        assert models(watched.client) == said
        assert len(watched.notices) > count
        await watched.client.aio.aclose()
        await watched.original.aio.aclose()


def test_each_event_loop_has_connections_of_its_own() -> None:
    """As in the client that was wrapped: a connection is bound to the loop that opened it."""
    with Scripted(rest=cuts.honour(EVENTS)) as server:
        watched = Watched(own(server.url))
        shared = watched.original._api_client._async_httpx_client

        async def read() -> Any:
            try:
                return await amodels(watched.client)
            finally:
                await shared._client_for_running_loop().aclose()  # or the loop would end with open connections

        assert asyncio.run(read()) == asyncio.run(read())
        assert watched.notices == ["end", "end"]
        assert len(server.requests) == server.accepted == 2


def test_wrapping_twice_is_wrapping_once(http: Any) -> None:
    with cuts.server(UNBEGUN[0], cuts.honour(EVENTS)) as server:
        once = Watched(sdk(server.url, http))
        twice = Watched(once.client)
        models(twice.client)
        assert "drop" in twice.notices
        assert once.notices == []


@only_asyncio
async def test_wrapping_twice_is_wrapping_once_async(anyio_backend: str) -> None:
    with cuts.server(UNBEGUN[0], cuts.honour(EVENTS)) as server:
        once = Watched(own(server.url))
        twice = Watched(once.client)
        await amodels(twice.client)
        assert "drop" in twice.notices
        assert once.notices == []
        await once.original.aio.aclose()


def test_the_original_may_go_while_its_copy_streams() -> None:
    """Its finalizer would close the connections that the copy shares."""
    with Scripted(Answer(wire.blocks(INTERACTIONS[:5]), End.FIN), rest=cuts.honour(INTERACTIONS)) as server:
        original = own(server.url)
        inner = original._api_client._httpx_client
        api = rl.wrap(original, policy=policy())
        stream = api.interactions.create(model="m", input="?", stream=True)
        first = next(stream)
        del original
        gc.collect()
        assert not inner.is_closed
        assert [first, *stream][-1].event_type == "interaction.completed"
        api.close()
        assert not inner._transport._pool.connections, "the last client closes the connections"


def test_inspect_finds_the_handle(http: Any) -> None:
    with Scripted(rest=cuts.honour(INTERACTIONS)) as server:
        api = rl.wrap(sdk(server.url, http))
        with api.interactions.create(model="m", input="?", stream=True) as stream:
            assert isinstance(rl.inspect(stream), rl.Handle)


def test_without_ids_what_was_said_is_in_the_error(http: Any) -> None:
    with Scripted(Answer(wire.blocks(EVENTS[:3]), End.FIN)) as server:
        api = rl.wrap(sdk(server.url, http), policy=policy())
        with pytest.raises(rl.StreamInterrupted):
            models(api)
        assert len(server.requests) == 1
        assert not busy(http)


def test_an_interaction_that_is_not_kept_ends_in_our_error_inside_the_sdks(http: Any) -> None:
    with Scripted(
        Answer(wire.blocks(formats.interactions()[:4]), End.FIN), rest=lambda request: Answer.json("{}", 404)
    ) as server:
        with pytest.raises(Exception, match="asked for the rest") as caught:
            interactions(rl.wrap(sdk(server.url, http), policy=policy()))
        assert type(caught.value).__name__ == "APIConnectionError"
        assert isinstance(caught.value.__cause__, rl.StreamInterrupted)
        assert not busy(http)


def test_calls_that_do_not_stream_are_untouched(http: Any) -> None:
    said = json.dumps(formats.gemini()[-1].json)
    with Scripted(rest=lambda request: Answer.json(said)) as server:
        api = sdk(server.url, http)
        assert _said(rl.wrap(api).models.generate_content(**ASKED)) == _said(api.models.generate_content(**ASKED))
        first, second = server.requests
        assert (first.raw_head, first.body) == (second.raw_head, second.body)


def test_an_aiohttp_session_is_refused() -> None:
    api = own("http://127.0.0.1:9")
    api._api_client._http_options.aiohttp_client = object()
    with pytest.raises(TypeError, match=r"given an aiohttp session.*httpx_async_client instead"):
        rl.wrap(api)


def test_mtls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    api = own("http://127.0.0.1:9")
    monkeypatch.setattr(type(api._api_client), "_use_google_auth_sync", lambda self: True)
    with pytest.raises(TypeError, match=r"with mTLS its requests are sent by google-auth"):
        rl.wrap(api)
