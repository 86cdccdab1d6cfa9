"""The cohere SDK, wrapped: both APIs, whose clients keep functions bound to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import Watched, acheck, check, cut_in_the_middle
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

cohere = pytest.importorskip("cohere", reason="the environment for openai 2 has no cohere")

pytestmark = [
    pytest.mark.slow,
    FOREIGN_GENERATORS,
    # It stops reading at the sentinel and leaves its own generators there, wrapped or not.
    pytest.mark.filterwarnings(r"ignore:Async generator 'cohere\.:ResourceWarning"),
]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
V1 = Answer(formats.cohere_v1(), headers={"content-type": "application/stream+json"})
V2 = wire.numbered(formats.cohere_v2())


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx") as made:
        yield made


def v2(api: Any) -> Any:
    return [event.model_dump() for event in api.chat_stream(**CHAT)]


def v2_inside_v1(api: Any) -> Any:
    return [event.model_dump() for event in api.v2.chat_stream(**CHAT)]


def v1(api: Any) -> Any:
    return [event.model_dump() for event in api.chat_stream(message="?")]


async def av2(api: Any) -> Any:
    return [event.model_dump() async for event in api.chat_stream(**CHAT)]


async def av2_inside_v1(api: Any) -> Any:
    return [event.model_dump() async for event in api.v2.chat_stream(**CHAT)]


async def av1(api: Any) -> Any:
    return [event.model_dump() async for event in api.chat_stream(message="?")]


def made(kind: str, url: str, http: Any, **options: Any) -> Any:
    return getattr(cohere, kind)(api_key="s3cret", base_url=url, httpx_client=http, **options)


@pytest.mark.parametrize(("kind", "run"), [("ClientV2", v2), ("Client", v2_inside_v1)])
def test_cut_anywhere(http: Any, kind: str, run: Any) -> None:
    check(lambda url: made(kind, url, http), run, V2, http)


@pytest.mark.parametrize(("kind", "run"), [("AsyncClientV2", av2), ("AsyncClient", av2_inside_v1)])
async def test_cut_anywhere_async(anyio_backend: str, kind: str, run: Any) -> None:
    async with async_client("httpx") as http:
        await acheck(lambda url: made(kind, url, http), run, V2, http)


def test_the_first_api_is_the_same(http: Any) -> None:
    """Its streams are lines of JSON, not events: nothing about them may change."""
    with Scripted(rest=lambda request: V1) as server:
        watched = Watched(made("Client", server.url, http))
        assert isinstance(
            watched.client._client_wrapper.httpx_client.httpx_client._transport, rl.httpx.ResumableTransport
        )
        said = v1(watched.original)
        assert v1(watched.client) == said
        assert said[-1]["response"]["text"] == wire.TEXT
        assert watched.notices == []
        first, second = server.requests
        assert (first.raw_head, first.body) == (second.raw_head, second.body)


async def test_the_first_api_is_the_same_async(anyio_backend: str) -> None:
    with Scripted(rest=lambda request: V1) as server:
        async with async_client("httpx") as http:
            watched = Watched(made("AsyncClient", server.url, http))
            said = await av1(watched.original)
            assert await av1(watched.client) == said
            assert said[-1]["response"]["text"] == wire.TEXT


def test_what_the_client_was_told_stays(http: Any) -> None:
    with Scripted(rest=cuts.honour(V2)) as server:
        told = {"client_name": "mine", "timeout": 9, "max_retries": 7, "log_warning_experimental_features": False}
        api = rl.wrap(made("ClientV2", server.url, http, **told))
        v2(api)
        wrapper = api._client_wrapper
        assert (wrapper._client_name, wrapper._timeout, wrapper._max_retries) == ("mine", 9, 7)
        assert server.requests[0].headers["x-client-name"] == "mine"
        assert server.requests[0].headers["authorization"] == "Bearer s3cret"
        assert "chat_stream" not in vars(api)


class TeamClient(cohere.ClientV2):  # type: ignore[misc, name-defined]
    """As users write them: with a constructor of its own."""

    def __init__(self, team: str, url: str, http: Any) -> None:
        super().__init__(api_key="s3cret", base_url=url, httpx_client=http)
        self.team = team


def test_a_subclass_with_a_constructor_of_its_own(http: Any) -> None:
    with cuts.server(cut_in_the_middle(V2), cuts.honour(V2)) as server:
        watched = Watched(TeamClient("blue", server.url, http))
        assert watched.client.team == "blue"
        v2(watched.client)
        assert len(server.requests) > 1


def test_without_ids_an_error_carries_what_was_said(http: Any) -> None:
    with Scripted(Answer(wire.blocks(formats.cohere_v2()[:5]), End.FIN)) as server:
        with pytest.raises(rl.StreamInterrupted) as caught:
            v2(rl.wrap(made("ClientV2", server.url, http), policy=policy()))
        assert caught.value.partial_text == "".join(wire.WORDS[:3])
        assert not busy(http)


def test_inspect_finds_the_handle(http: Any) -> None:
    with Scripted(rest=cuts.honour(V2)) as server:
        api = rl.wrap(made("ClientV2", server.url, http))
        with api.with_raw_response.chat_stream(**CHAT) as response:
            assert isinstance(rl.inspect(response), rl.Handle)
