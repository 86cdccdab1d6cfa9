from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import mistral
from tests.wrapping.fakes import async_http_client, http_client, is_watched, of


class Resource:
    """A part of the SDK: eager, as in its first version, and with others within."""

    def __init__(self, configuration: Any, root: Any) -> None:
        self.sdk_configuration = configuration
        self.parent_ref = root


class OldResource:
    """Without the reference that keeps the client alive."""

    def __init__(self, configuration: Any) -> None:
        self.sdk_configuration = configuration


def construct(self: Any, **configuration: Any) -> None:
    self.sdk_configuration = SimpleNamespace(
        **{"client": http_client(), "async_client": async_http_client(), **configuration}
    )
    self.parent_ref = self
    self.api_version = "v1"
    chat: Any = Resource(self.sdk_configuration, self)
    chat.completions = OldResource(self.sdk_configuration)
    self.chat = chat


Mistral = of("mistralai.sdk", "Mistral", __init__=construct)


def test_it_is_known_by_name() -> None:
    assert mistral.wraps(Mistral())
    assert mistral.wraps(of("mine", "Mine", Mistral)())
    assert mistral.wraps(of("mistralai.azure.client.sdk", "MistralAzure")())
    assert not mistral.wraps(of("another_mistralai.sdk", "Mistral")())
    assert not mistral.wraps(None)


def test_everything_within_is_bound_to_the_copy() -> None:
    client = Mistral(client_supplied=True, async_client_supplied=True)
    before = copy.copy(vars(client)), copy.copy(vars(client.sdk_configuration)), copy.copy(vars(client.chat))
    made = rl.wrap(client)
    assert type(made) is Mistral
    assert made.parent_ref is made
    assert made.chat.parent_ref is made
    assert made.api_version == "v1"
    for each in (made, made.chat, made.chat.completions):
        assert each.sdk_configuration is made.sdk_configuration
    assert is_watched(made.sdk_configuration.client)
    assert is_watched(made.sdk_configuration.async_client)
    assert (vars(client), vars(client.sdk_configuration), vars(client.chat)) == before
    assert not is_watched(client.sdk_configuration.client)


@pytest.mark.parametrize("closed", ["client", "async_client"])
def test_what_is_closed_already_is_left_out(closed: str) -> None:
    made = rl.wrap(Mistral(**{closed: None}))
    assert getattr(made.sdk_configuration, closed) is None


@pytest.mark.parametrize("supplied", [True, False])
def test_the_original_is_held_where_its_finalizer_closes_the_connections(supplied: bool) -> None:
    client = Mistral(client_supplied=supplied, async_client_supplied=supplied)
    made = rl.wrap(client)
    owners = [made.sdk_configuration.client._transport.owner, made.sdk_configuration.async_client._transport.owner]
    assert [owner._client is client for owner in owners] == [not supplied] * 2


def test_a_bypass_is_refused() -> None:
    stubborn = Resource(SimpleNamespace(client=http_client(), async_client=async_http_client()), None)
    kind = of("mistralai.sdk", "Mistral", Mistral, chat=property(lambda self: stubborn, lambda self, value: None))
    with pytest.raises(TypeError, match=r"Mistral did not take the HTTP client \(chat\.sdk_configuration\.client\)"):
        rl.wrap(kind())
