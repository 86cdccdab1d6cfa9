from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import huggingface
from tests.wrapping.fakes import async_http_client, is_watched, of


def construct(self: Any, http: Any = None) -> None:
    self._async_client = http
    self.exit_stack = AsyncExitStack()


MODULE = "huggingface_hub.inference._client"
AsyncInferenceClient = of(MODULE, "AsyncInferenceClient", __init__=construct)
InferenceClient = of(MODULE, "InferenceClient")


def test_it_is_known_by_name() -> None:
    assert huggingface.wraps(AsyncInferenceClient())
    assert huggingface.wraps(InferenceClient())
    assert huggingface.wraps(of("mine", "Mine", AsyncInferenceClient)())
    assert not huggingface.wraps(of(MODULE, "HfApi")())


async def test_a_copy_around_a_copy() -> None:
    http = async_http_client()
    original = AsyncInferenceClient(http)
    made = rl.wrap(original)
    assert type(made) is AsyncInferenceClient
    assert is_watched(made._async_client)
    assert made.exit_stack is not original.exit_stack
    await made.exit_stack.aclose()
    assert made._async_client.is_closed
    assert not http.is_closed
    assert original._async_client is http


async def test_it_gets_an_http_client_if_it_has_none_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("huggingface_hub")
    package.get_async_session = async_http_client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    original = AsyncInferenceClient()
    assert is_watched(rl.wrap(original)._async_client)
    assert original._async_client is None


def test_the_blocking_client_is_refused() -> None:
    with pytest.raises(TypeError, match=r"but uses the one of the process\..*set_client_factory\(lambda: rl\.wrap\("):
        rl.wrap(InferenceClient())


def test_a_bypass_is_refused() -> None:
    http = async_http_client()
    stubborn = of(MODULE, "AsyncInferenceClient", _async_client=property(lambda self: http, lambda self, value: None))
    with pytest.raises(TypeError, match=r"AsyncInferenceClient did not take the HTTP client \(_async_client\)"):
        rl.wrap(stubborn())
