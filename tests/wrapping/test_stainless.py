"""Wrapping a client that Stainless generated."""

from __future__ import annotations

import importlib
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import stainless
from tests.in_memory import ACCEPT, EVENTS_URL, FAMILIES, Said, numbered, policy, transport


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).Client(transport=inner, trust_env=False, **options)


CUT = (Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
WHOLE = b"".join(numbered(1, 2))


class Sdk:
    """What Stainless generates, in short."""

    def __init__(self, *, http_client: Any, strict: bool = False) -> None:
        self._client = http_client
        self._strict_response_validation = strict

    def copy(self, *, http_client: Any) -> Any:
        return type(self)(http_client=http_client)

    @cached_property
    def answers(self) -> Answers:
        return Answers(self)

    def ask(self) -> bytes:
        found: bytes = self._client.get(EVENTS_URL, headers=ACCEPT).content
        return found


class Answers:
    """A resource, bound to the client that made it."""

    def __init__(self, sdk: Sdk) -> None:
        self.ask = sdk.ask


def test_an_sdks_client_is_copied_by_its_own_means(family: str) -> None:
    http = client(family, *CUT)
    sdk = Sdk(http_client=http, strict=True)
    wrapped = rl.wrap(sdk, policy=policy())
    assert type(wrapped) is Sdk
    assert wrapped.answers.ask() == WHOLE
    assert wrapped._strict_response_validation
    assert sdk._client is http


def test_an_sdk_without_strictness(family: str) -> None:
    class Lenient(Sdk):
        def __init__(self, *, http_client: Any) -> None:
            self._client = http_client

    assert rl.wrap(Lenient(http_client=client(family, *CUT)), policy=policy()).ask() == WHOLE


def test_an_sdk_that_warms_its_connection_up_is_kept_from_it(family: str) -> None:
    class Warming(Sdk):
        warmed = 0

        def __init__(self, *, http_client: Any, warm_tcp_connection: bool = True) -> None:
            super().__init__(http_client=http_client)
            Warming.warmed += warm_tcp_connection

        def copy(self, *, http_client: Any, **options: Any) -> Any:
            return type(self)(http_client=http_client, **options)

    assert rl.wrap(Warming(http_client=client(family, *CUT)), policy=policy()).ask() == WHOLE
    assert Warming.warmed == 1


class OwnConstructor(Sdk):
    """A user's subclass, which its SDK's copy() cannot make."""

    def __init__(self, tenant: str, http_client: Any) -> None:
        super().__init__(http_client=http_client)
        self.tenant = tenant


def test_a_subclass_of_an_sdks_client_is_copied_by_hand(family: str) -> None:
    sdk = OwnConstructor("mine", client(family, *CUT))
    bound = sdk.answers
    wrapped = rl.wrap(sdk, policy=policy())
    assert wrapped.tenant == "mine"
    assert wrapped.answers is not bound
    assert wrapped.answers.ask() == WHOLE
    assert sdk.answers is bound


@pytest.mark.parametrize("middleware", [(), ("mine",)])
def test_middleware_cannot_be_copied_by_hand(family: str, middleware: tuple[str, ...]) -> None:
    sdk: Any = OwnConstructor("mine", client(family, *CUT))
    sdk._middleware_chain = object()
    sdk.middleware = middleware
    if middleware:
        with pytest.raises(TypeError, match=r"cannot copy OwnConstructor: .* has middleware"):
            rl.wrap(sdk)
    else:
        assert rl.wrap(sdk, policy=policy()).ask() == WHOLE


def test_a_copy_that_is_not_watched_over_is_refused(family: str) -> None:
    class Stubborn(Sdk):
        def copy(self, *, http_client: Any) -> Any:
            return Sdk(http_client=self._client)

    with pytest.raises(TypeError, match=r"Sdk did not take the HTTP client \(_client\), so nothing"):
        rl.wrap(Stubborn(http_client=client(family)))


def test_what_looks_like_one(family: str) -> None:
    http = client(family)
    assert stainless.wraps(Sdk(http_client=http))
    for other in (None, http, SimpleNamespace(_client=http), SimpleNamespace(_client=object(), copy=print)):
        assert not stainless.wraps(other)
