from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import cohere
from tests.wrapping.fakes import http_client, is_watched, of


class Wrapper:
    def __init__(self, token: Any, base_url: str, client_name: str | None, timeout: float | None, http: Any) -> None:
        self._token = token
        self._base_url = base_url
        self._client_name = client_name
        self._timeout = timeout
        self.httpx_client = SimpleNamespace(httpx_client=http)


def construct(
    self: Any,
    api_key: str,
    *,
    base_url: str = "https://api.example",
    client_name: str | None = None,
    timeout: float | None = None,
    httpx_client: Any = None,
    thread_pool_executor: object = None,
    log_warning_experimental_features: bool = True,
) -> None:
    """As in cohere 5, which did not count retries."""
    self._client_wrapper = Wrapper(api_key, base_url, client_name, timeout, httpx_client or http_client())
    self._executor = thread_pool_executor
    self.with_raw_response = SimpleNamespace(_client_wrapper=self._client_wrapper)
    if log_warning_experimental_features:
        self.chat_stream = print


Client = of("cohere.client", "Client", __init__=construct)


def test_it_is_known_by_name() -> None:
    for name in ("Client", "AsyncClient", "ClientV2", "AsyncClientV2"):
        assert cohere.wraps(of("cohere.client_v2", name)())
    assert cohere.wraps(of("mine", "Mine", Client)("key"))
    assert not cohere.wraps(of("cohere.client", "Embeddings")())


@pytest.mark.parametrize("warned", [True, False])
def test_it_is_built_anew_with_what_it_was_told(warned: bool) -> None:
    pool = object()
    original = Client(
        "key",
        base_url="https://mine.example",
        client_name="me",
        timeout=9,
        thread_pool_executor=pool,
        log_warning_experimental_features=warned,
    )
    made = rl.wrap(original)
    assert type(made) is Client
    inside = made._client_wrapper
    assert (inside._token, inside._base_url, inside._client_name) == ("key", "https://mine.example", "me")
    assert (inside._timeout, made._executor) == (9, pool)
    assert ("chat_stream" in vars(made)) is warned
    assert is_watched(inside.httpx_client.httpx_client)
    assert not is_watched(original._client_wrapper.httpx_client.httpx_client)


def test_a_bypass_is_refused() -> None:
    def stubborn(self: Any, api_key: str, **options: Any) -> None:
        construct(self, api_key)

    with pytest.raises(TypeError, match=r"Client did not take the HTTP client \(_client_wrapper\.httpx_client"):
        rl.wrap(of("cohere.client", "Client", __init__=stubborn)("key"))
