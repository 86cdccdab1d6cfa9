"""LangChain's chat models, wrapped, on the SDKs of OpenAI, Anthropic and Google."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import Watched, acheck, check, cut_in_the_middle, some_cuts
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Request, Scripted

openai = pytest.importorskip("langchain_openai", reason="LangChain's models need Python 3.11, and openai 3")
anthropic = pytest.importorskip("langchain_anthropic", reason="LangChain's models need Python 3.11")

pytestmark = [
    pytest.mark.slow,
    FOREIGN_GENERATORS,
    # They stop reading at the sentinel and leave their own generators there, wrapped or not.
    pytest.mark.filterwarnings("ignore:Async generator 'langchain_:ResourceWarning"),
]

CHAT, MESSAGES, RESPONSES = wire.numbered(wire.chat()), wire.numbered(wire.messages()), wire.responses()


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx2") as made:
        yield made


def chat_openai(url: str, http: Any, async_http: Any, **options: Any) -> Any:
    return openai.ChatOpenAI(
        model="m", base_url=url, api_key="s3cret", http_client=http, http_async_client=async_http, **options
    )


def responses(url: str, http: Any, async_http: Any) -> Any:
    return chat_openai(url, http, async_http, use_responses_api=True, model_kwargs={"background": True})


def azure(url: str, http: Any, async_http: Any) -> Any:
    return openai.AzureChatOpenAI(
        azure_endpoint=url,
        azure_deployment="d",
        api_version="2026-01-01",
        api_key="s3cret",
        http_client=http,
        http_async_client=async_http,
    )


def chat_anthropic(url: str) -> Any:
    return anthropic.ChatAnthropic(model="claude-m", base_url=url, api_key="s3cret")


def stream(model: Any) -> Any:
    # A run's id is made up anew each time where the provider has none.
    return [chunk.model_dump(exclude={"id"}) for chunk in model.stream("?")]


async def astream(model: Any) -> Any:
    return [chunk.model_dump(exclude={"id"}) async for chunk in model.astream("?")]


Kind = tuple[Callable[..., Any], list[wire.Event], Callable[[Request], Answer]]
KINDS: list[Kind] = [
    (chat_openai, CHAT, cuts.honour(CHAT)),
    (responses, RESPONSES, cuts.starting_after(RESPONSES)),
    (azure, CHAT, cuts.honour(CHAT)),
]
only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # LangChain itself is bound to it
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0].__name__)


@kinds
def test_cut_anywhere(http: Any, kind: Kind) -> None:
    make, events, rest = kind
    other = async_client("httpx2")
    check(lambda url: make(url, http, other), stream, events, http, rest=rest)


@only_asyncio
@kinds
async def test_cut_anywhere_async(anyio_backend: str, kind: Kind, http: Any) -> None:
    make, events, rest = kind
    async with async_client("httpx2") as async_http:
        await acheck(lambda url: make(url, http, async_http), astream, events, async_http, rest=rest)


def test_anthropic_cut() -> None:
    # This model makes its HTTP clients itself, which takes long.
    check(chat_anthropic, stream, MESSAGES, None, cut=some_cuts(MESSAGES))


@only_asyncio
async def test_anthropic_cut_async(anyio_backend: str) -> None:
    opened = []

    def made(url: str) -> Any:
        opened.append(chat_anthropic(url))
        return opened[-1]

    await acheck(made, astream, MESSAGES, None, cut=some_cuts(MESSAGES))
    for model in opened:
        assert not busy(model._async_client._client)
        await model._async_client.close()


def test_the_shared_http_client_is_not_touched() -> None:
    """All models with the same settings have one HTTP client, which LangChain keeps."""
    with cuts.server(cut_in_the_middle(MESSAGES), cuts.honour(MESSAGES)) as server:
        first, second = chat_anthropic(server.url), chat_anthropic(server.url)
        shared = first._client._client
        assert second._client._client is shared
        inner = shared._transport
        watched = Watched(first)
        stream(watched.client)
        count = len(watched.notices)
        stream(second)
        assert len(watched.notices) == count
        assert shared._transport is inner


def test_what_is_bound_to_a_wrapped_model_is_wrapped(http: Any) -> None:
    with cuts.server(cut_in_the_middle(CHAT), cuts.honour(CHAT)) as server:
        bound = rl.wrap(chat_openai(server.url, http, async_client("httpx2")), policy=policy()).bind(stop=["x"])
        assert "".join(chunk.content for chunk in bound.stream("?")) == wire.TEXT
        assert len(server.requests) == 2


def test_a_model_without_a_key_for_blocking_calls() -> None:
    async def key() -> str:
        return "s3cret"

    model = openai.ChatOpenAI(model="m", base_url="http://127.0.0.1:9", api_key=key)
    wrapped = rl.wrap(model)
    assert wrapped.root_client is None
    assert wrapped.root_async_client is not model.root_async_client


def test_without_ids_the_error_is_inside_langchains(http: Any) -> None:
    with Scripted(Answer(wire.blocks(wire.chat()[:5]), End.FIN)) as server:
        model = rl.wrap(chat_openai(server.url, http, async_client("httpx2")), policy=policy())
        with pytest.raises(Exception, match="Connection error") as caught:
            stream(model)
        causes = [caught.value]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
        (found,) = [cause for cause in causes if isinstance(cause, rl.CannotResume)]
        assert found.partial_text == "".join(wire.WORDS[:4])


# Google


def gemini(url: str) -> Any:
    google = pytest.importorskip("langchain_google_genai", reason="it demands an older google-genai")
    return google.ChatGoogleGenerativeAI(model="gemini-m", api_key="s3cret", base_url=url)


UNBEGUN = [Answer([], End.FIN)]
"""What comes later cannot be resumed: see test_google.py."""


def test_google_cut() -> None:
    check(gemini, stream, formats.gemini(), None, cut=UNBEGUN)


@only_asyncio
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # inside that SDK
async def test_google_cut_async(anyio_backend: str) -> None:
    opened = []

    def made(url: str) -> Any:
        opened.append(gemini(url))
        return opened[-1]

    await acheck(made, astream, formats.gemini(), None, cut=UNBEGUN)
    for model in opened:
        await model.client.aio.aclose()
