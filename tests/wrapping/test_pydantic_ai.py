from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import pydantic_ai
from tests.wrapping.fakes import async_http_client, is_watched, of


class Sdk:
    """What Stainless generates, in short."""

    def __init__(self, *, http_client: Any) -> None:
        self._client = http_client

    def copy(self, *, http_client: Any) -> Sdk:
        return Sdk(http_client=http_client)


class Provider:
    def __init__(self, http: Any) -> None:
        self._client = Sdk(http_client=http)
        self._entered_count = 0

    @property
    def client(self) -> Any:
        return self._client

    @cached_property
    def _enter_lock(self) -> object:
        return object()


class OwningProvider(Provider):
    """One that made its HTTP client itself."""

    def __init__(self) -> None:
        super().__init__(async_http_client())
        self._own_http_client = self._client._client
        self._http_client_factory: Any = async_http_client

    def _set_http_client(self, http: Any) -> None:
        self._client._client = http


def construct(self: Any, provider: Any) -> None:
    self._provider = provider


Model = of("pydantic_ai.models", "Model")
OpenAIChatModel = of(
    "pydantic_ai.models.openai",
    "OpenAIChatModel",
    Model,
    __init__=construct,
    client=property(lambda self: self._provider.client),
)


def test_it_is_known_by_name() -> None:
    assert pydantic_ai.wraps(OpenAIChatModel(None))
    assert not pydantic_ai.wraps(of("pydantic_ai.agent", "Agent")())


def test_a_copy_with_a_copy_of_its_provider() -> None:
    provider = Provider(async_http_client())
    lock = provider._enter_lock
    provider._entered_count = 3
    original = OpenAIChatModel(provider)
    before = copy.copy(vars(provider))
    made = rl.wrap(original)
    assert type(made) is OpenAIChatModel
    assert is_watched(made.client._client)
    assert made._provider._entered_count == 0
    assert made._provider._enter_lock is not lock
    assert original._provider is provider
    assert vars(provider) == before


def test_http_clients_that_it_makes_later_are_watched_too() -> None:
    original = OpenAIChatModel(OwningProvider())
    provider = rl.wrap(original)._provider
    assert provider._own_http_client is provider._client._client
    assert is_watched(provider._own_http_client)
    assert is_watched(provider._http_client_factory())
    assert not is_watched(original._provider._http_client_factory())
    assert not is_watched(original._provider._own_http_client)


def test_without_a_factory_it_makes_none() -> None:
    provider = OwningProvider()
    provider._http_client_factory = None
    assert rl.wrap(OpenAIChatModel(provider))._provider._http_client_factory is None


def test_a_model_in_front_of_others_is_refused() -> None:
    wrapper = of("pydantic_ai.models.wrapper", "WrapperModel", Model)()
    with pytest.raises(TypeError, match=r"WrapperModel: it has no client itself\. Wrap the model that it is made of"):
        rl.wrap(wrapper)


def test_a_provider_whose_client_is_not_known() -> None:
    provider = Provider(async_http_client())
    provider._client = object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"cannot wrap builtins\.object: pass a client"):
        rl.wrap(OpenAIChatModel(provider))


def test_a_bypass_is_refused() -> None:
    class Stubborn(Provider):
        client = Sdk(http_client=async_http_client())

    with pytest.raises(TypeError, match=r"Stubborn did not take the HTTP client \(client\)"):
        rl.wrap(OpenAIChatModel(Stubborn(None)))
