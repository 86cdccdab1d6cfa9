from __future__ import annotations

import copy
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import langchain
from tests.wrapping import test_google
from tests.wrapping.fakes import async_http_client, http_client, is_watched, of


class Sdk:
    """What Stainless generates, in short."""

    def __init__(self, *, http_client: Any) -> None:
        self._client = http_client
        self.chat = SimpleNamespace(completions=SimpleNamespace(_client=self))

    def copy(self, *, http_client: Any) -> Sdk:
        return Sdk(http_client=http_client)


class Model:
    """What pydantic gives a model, in short."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def model_copy(self, update: dict[str, Any] | None = None) -> Any:
        made = copy.copy(self)
        vars(made).update(update or {})
        return made


class Cached(Model):
    @cached_property
    def _client(self) -> Sdk:
        return Sdk(http_client=http_client())

    @cached_property
    def _async_client(self) -> Sdk:
        return Sdk(http_client=async_http_client())


BaseChatOpenAI = of("langchain_openai.chat_models.base", "BaseChatOpenAI", Model)
ChatAnthropic = of("langchain_anthropic.chat_models", "ChatAnthropic", Cached)
ChatGoogle = of("langchain_google_genai.chat_models", "ChatGoogleGenerativeAI", Model)


def chat_openai(kind: Any = BaseChatOpenAI) -> Any:
    sync, asynchronous = Sdk(http_client=http_client()), Sdk(http_client=async_http_client())
    return kind(
        root_client=sync,
        client=sync.chat.completions,
        root_async_client=asynchronous,
        async_client=asynchronous.chat.completions,
    )


def test_it_is_known_by_name() -> None:
    assert langchain.wraps(chat_openai(of("langchain_deepseek", "ChatDeepSeek", BaseChatOpenAI)))
    assert langchain.wraps(ChatAnthropic())
    assert langchain.wraps(ChatGoogle())
    assert not langchain.wraps(of("langchain_core.runnables", "RunnableBinding")())


def test_a_model_of_openai() -> None:
    original = chat_openai()
    before = copy.copy(vars(original))
    made = rl.wrap(original)
    assert type(made) is BaseChatOpenAI
    for root, completions in ((made.root_client, made.client), (made.root_async_client, made.async_client)):
        assert is_watched(root._client)
        assert completions._client is root
    assert vars(original) == before


def test_a_model_of_openai_that_was_given_its_completions_alone() -> None:
    sdk = Sdk(http_client=http_client())
    made = rl.wrap(
        BaseChatOpenAI(root_client=None, client=sdk.chat.completions, root_async_client=None, async_client=None)
    )
    assert is_watched(made.client._client._client)
    assert made.async_client is None


def test_a_model_of_anthropic() -> None:
    original = ChatAnthropic()
    made = rl.wrap(original)
    assert type(made) is ChatAnthropic
    assert is_watched(made._client._client)
    assert is_watched(made._async_client._client)
    assert not is_watched(original._client._client)
    assert not is_watched(original._async_client._client)


def test_a_model_of_google() -> None:
    original = ChatGoogle(client=test_google.client())
    made = rl.wrap(original)
    assert type(made) is ChatGoogle
    inside = made.client._api_client._httpx_client
    assert is_watched(inside)
    assert inside._transport.owner._client is original
    assert not hasattr(made, "_client_cleanup")


def test_what_closes_the_client_of_google_is_made_for_the_copy() -> None:
    class Cleanup:
        def __init__(self, client: Any) -> None:
            self.client = client

    sdk = test_google.client()
    original = ChatGoogle(client=sdk, _client_cleanup=Cleanup(sdk))
    made = rl.wrap(original)
    assert made._client_cleanup.client is made.client
    assert original._client_cleanup.client is sdk


@pytest.mark.parametrize("original", [chat_openai(), ChatAnthropic(), ChatGoogle(client=test_google.client())])
def test_a_bypass_is_refused(original: Any) -> None:
    def stubborn(name: str) -> property:
        return property(lambda self: getattr(original, name), lambda self, value: None)

    names = [name for name in ("client", "_client", "root_client") if hasattr(original, name)]
    model = of("mine", "Stubborn", type(original), **{name: stubborn(name) for name in names})()
    vars(model).update(vars(original))
    with pytest.raises(TypeError, match="Stubborn did not take the HTTP client"):
        rl.wrap(model)
