from __future__ import annotations

from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import ollama
from tests.wrapping.fakes import async_http_client, http_client, is_watched, of


def construct(self: Any, http: Any) -> None:
    self._client = http


def copy(self: Any, source: str, destination: str) -> None:
    raise AssertionError("this copies a model on the server")


Client = of("ollama._client", "Client", __init__=construct, copy=copy)
AsyncClient = of("ollama._client", "AsyncClient", __init__=construct, copy=copy)


@pytest.mark.parametrize(("kind", "http"), [(Client, http_client), (AsyncClient, async_http_client)])
def test_a_copy_around_a_copy(kind: Any, http: Any) -> None:
    original = kind(http())
    assert ollama.wraps(original)
    inner = original._client
    made = rl.wrap(original)
    assert type(made) is kind
    assert is_watched(made._client)
    assert original._client is inner
    assert not is_watched(inner)


def test_it_is_known_by_name() -> None:
    assert ollama.wraps(of("mine", "Mine", Client)(None))
    assert not ollama.wraps(of("ollama._types", "Options")())


def test_a_bypass_is_refused() -> None:
    stubborn = of("ollama._client", "Client", _client=property(lambda self: http, lambda self, value: None))
    http = http_client()
    with pytest.raises(TypeError, match=r"Client did not take the HTTP client \(_client\)"):
        rl.wrap(stubborn())
