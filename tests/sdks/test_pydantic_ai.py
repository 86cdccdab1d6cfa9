"""Models of Pydantic AI, wrapped, on the SDKs of OpenAI, Anthropic and Google."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import Watched, acheck, cut_in_the_middle
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, policy
from tests.sockets.scripted import Answer, End, Request, Scripted

pydantic_ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai needs Python 3.11, and openai 3")

pytestmark = [
    pytest.mark.slow,
    FOREIGN_GENERATORS,
    # It stops reading at the sentinel and leaves its own generators there, wrapped or not.
    pytest.mark.filterwarnings("ignore:Async generator 'pydantic_ai:ResourceWarning"),
]

CHAT, MESSAGES, RESPONSES = wire.numbered(wire.chat()), wire.numbered(wire.messages()), wire.responses()


def of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"pydantic_ai.{module}"), name)


def openai_chat(url: str, http: Any = None) -> Any:
    provider = of("providers.openai", "OpenAIProvider")(base_url=url, api_key="s3cret", http_client=http)
    return of("models.openai", "OpenAIChatModel")("m", provider=provider)


def openai_responses(url: str, http: Any = None) -> Any:
    provider = of("providers.openai", "OpenAIProvider")(base_url=url, api_key="s3cret", http_client=http)
    settings = {"extra_body": {"background": True}}
    return of("models.openai", "OpenAIResponsesModel")("m", provider=provider, settings=settings)


def anthropic(url: str, http: Any = None) -> Any:
    sdk = importlib.import_module("anthropic").AsyncAnthropic(base_url=url, api_key="s3cret", http_client=http)
    provider = of("providers.anthropic", "AnthropicProvider")(anthropic_client=sdk)
    return of("models.anthropic", "AnthropicModel")("claude-m", provider=provider)


def google(url: str, http: Any = None) -> Any:
    provider = of("providers.google", "GoogleProvider")(base_url=url, api_key="s3cret", http_client=http)
    return of("models.google", "GoogleModel")("gemini-m", provider=provider)


async def stream(model: Any) -> Any:
    """The events and the answer, without the times at which they came."""
    prompt = of("messages", "ModelRequest").user_text_prompt("?")
    async with of("direct", "model_request_stream")(model, [prompt]) as events:
        said = [repr(event) async for event in events]
        answer = events.get()
        return said, [part.content for part in answer.parts], answer.usage, answer.finish_reason


Kind = tuple[Callable[..., Any], list[wire.Event], Callable[[Request], Answer]]
KINDS: list[Kind] = [
    (openai_chat, CHAT, cuts.honour(CHAT)),
    (openai_responses, RESPONSES, cuts.starting_after(RESPONSES)),
    (anthropic, MESSAGES, cuts.honour(MESSAGES)),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0].__name__)
async def test_cut_anywhere(anyio_backend: str, kind: Kind) -> None:
    make, events, rest = kind
    async with async_client("httpx2", timeout=9) as http:
        await acheck(lambda url: make(url, http), stream, events, http, rest=rest)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the SDK below is bound to it
async def test_google_cut_before_it_began(anyio_backend: str) -> None:
    """What comes later cannot be resumed: see test_google.py."""
    async with async_client("httpx2", timeout=9) as http:
        await acheck(lambda url: google(url, http), stream, formats.gemini(), http, cut=[Answer([], End.FIN)])


@pytest.mark.parametrize("make", [openai_chat, google], ids=["openai", "google"])
def test_a_provider_that_makes_its_own_http_client(make: Any) -> None:
    """It closes it when the model is left, and has a new one for the next run, which is watched over too."""
    events = CHAT if make is openai_chat else formats.gemini()
    cut = Answer([], End.FIN)
    with Scripted(cut, Answer(wire.blocks(events)), cut, rest=cuts.honour(events)) as server:
        watched = Watched(make(server.url))
        clients = []

        async def read() -> Any:
            async with watched.client:
                clients.append(watched.client._provider._own_http_client)
                return await stream(watched.client)

        async def close() -> None:
            # The first one is shared with the original, which is still there to close it.
            await watched.original._provider._own_http_client.aclose()

        async def first() -> Any:
            said = await read()
            await close()
            return said

        said = asyncio.run(first())
        assert watched.notices.count("drop") == 1
        assert asyncio.run(read()) == said
        assert watched.notices.count("drop") == 2
        assert clients[0] is not clients[1]
        assert all(client.is_closed for client in clients)
        assert len(server.requests) == 4


def test_an_agent() -> None:
    with cuts.server(cut_in_the_middle(CHAT), cuts.honour(CHAT)) as server:

        async def ask() -> str:
            async with async_client("httpx2", timeout=9) as http:
                model = rl.wrap(openai_chat(server.url, http), policy=policy())
                async with pydantic_ai.Agent(model).run_stream("?") as result:
                    text: str = await result.get_output()
                    return text

        assert asyncio.run(ask()) == wire.TEXT
        assert len(server.requests) == 2


async def test_without_ids_the_error_is_inside_theirs(anyio_backend: str) -> None:
    with Scripted(Answer(wire.blocks(wire.chat()[:5]), End.FIN)) as server:
        async with async_client("httpx2", timeout=9) as http:
            model = rl.wrap(openai_chat(server.url, http), policy=policy())
            with pytest.raises(of("exceptions", "ModelAPIError")) as caught:
                await stream(model)
    found: BaseException | None = caught.value
    while found is not None and not isinstance(found, rl.CannotResume):
        found = found.__cause__
    assert found is not None
    assert found.partial_text == "".join(wire.WORDS[:4])


def test_a_model_without_a_client_of_its_own() -> None:
    model = of("models.test", "TestModel")()
    with pytest.raises(TypeError, match=r"cannot wrap pydantic_ai\.models\.test\.TestModel: it has no client itself"):
        rl.wrap(model)
