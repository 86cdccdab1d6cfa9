"""The mistralai SDK, wrapped: one client with an HTTP client of each colour."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import Watched, acheck, check, cut_in_the_middle
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

mistral = pytest.importorskip("mistralai.client", reason="mistralai needs Python 3.11, and the first environment")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
EVENTS = wire.numbered(formats.mistral_chat())


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx2") as made:
        yield made


def sdk(url: str, http: Any = None, async_http: Any = None) -> Any:
    # What is not given would be made, and read all certificates of the machine.
    return mistral.Mistral(
        api_key="s3cret",
        server_url=url,
        client=http or client("httpx2"),
        async_client=async_http or async_client("httpx2"),
    )


def stream(api: Any) -> Any:
    with api.chat.stream(**CHAT) as events:
        return [event.model_dump() for event in events]


async def astream(api: Any) -> Any:
    async with await api.chat.stream_async(**CHAT) as events:
        return [event.model_dump() async for event in events]


def test_cut_anywhere(http: Any) -> None:
    check(lambda url: sdk(url, http), stream, EVENTS, http)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the SDK itself is bound to it
async def test_cut_anywhere_async(anyio_backend: str) -> None:
    async with async_client("httpx2") as http:
        await acheck(lambda url: sdk(url, async_http=http), astream, EVENTS, http)


def test_agents_and_nested_resources_are_watched_too(http: Any) -> None:
    with cuts.server(cut_in_the_middle(EVENTS), cuts.honour(EVENTS)) as server:
        watched = Watched(sdk(server.url, http))
        assert watched.client.chat is not watched.original.chat
        assert watched.client.beta.conversations.sdk_configuration is watched.client.sdk_configuration
        with watched.client.agents.stream(messages=CHAT["messages"], agent_id="a") as events:
            assert [event.data.choices[0].delta.content for event in events][1:-1] == list(wire.WORDS)
        assert "resume" in watched.notices


def test_mistral_on_azure(http: Any) -> None:
    azure = pytest.importorskip("mistralai.azure.client", reason="a part of mistralai since 2.0")
    with cuts.server(cut_in_the_middle(EVENTS), cuts.honour(EVENTS)) as server:
        original = azure.MistralAzure(
            api_key="s3cret", server_url=server.url, client=http, async_client=async_client("httpx2")
        )
        watched = Watched(original)
        with watched.client.chat.stream(**CHAT) as events:
            assert [event.data.choices[0].delta.content for event in events][1:-1] == list(wire.WORDS)
        assert "resume" in watched.notices


def test_a_resource_that_was_used_before_stays_the_originals(http: Any) -> None:
    with Scripted(rest=cuts.honour(EVENTS)) as server:
        api = sdk(server.url, http)
        whole = stream(api)
        watched = Watched(api)
        assert stream(watched.client) == whole
        assert watched.notices == ["end"]
        assert stream(api) == whole
        assert watched.notices == ["end"]


def test_without_ids_an_error_carries_what_was_said(http: Any) -> None:
    events = formats.mistral_chat()
    with Scripted(Answer(wire.blocks(events[:5]), End.FIN)) as server:
        with pytest.raises(rl.CannotResume) as caught:
            stream(rl.wrap(sdk(server.url, http), policy=policy()))
        assert caught.value.partial_text == "".join(wire.WORDS[:4])
        assert not busy(http)


def test_the_original_may_go_while_its_copy_streams() -> None:
    """Its finalizer would close the connections that the copy shares."""
    with Scripted(Answer(wire.blocks(EVENTS[:5]), End.FIN), rest=cuts.honour(EVENTS)) as server:
        original = mistral.Mistral(api_key="s3cret", server_url=server.url)
        inner = original.sdk_configuration.client
        api = rl.wrap(original, policy=policy())
        with api.chat.stream(**CHAT) as events:
            first = next(events)
            del original
            gc.collect()
            assert not inner.is_closed
            assert [first, *events][-1].data.choices[0].finish_reason == "stop"
        del api, events
        gc.collect()
        assert inner.is_closed, "nobody has to close what the SDK has made"


def test_inspect_finds_the_handle(http: Any) -> None:
    with Scripted(rest=cuts.honour(EVENTS)) as server, rl.wrap(sdk(server.url, http)).chat.stream(**CHAT) as events:
        assert rl.inspect(events).checkpoint.dialect == "openai_chat"


def test_calls_that_do_not_stream_are_untouched(http: Any) -> None:
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    said = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    with Scripted(rest=lambda request: Answer.json(json.dumps(said))) as server:
        api = sdk(server.url, http)
        assert rl.wrap(api).chat.complete(**CHAT) == api.chat.complete(**CHAT)
        first, second = server.requests
        assert (first.raw_head, first.body) == (second.raw_head, second.body)
