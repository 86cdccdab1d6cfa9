"""What `wrap` and `inspect` take and refuse; how each SDK is wrapped is tested in the modules beside."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from tests.in_memory import CHAT, CHAT_URL, FAMILIES, Said, chat, transport


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).Client(transport=inner, trust_env=False, **options)


def async_client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).AsyncClient(transport=inner, trust_env=False, **options)


class Sdk:
    """What cannot be told from an SDK's client by its class."""

    def __init__(self, http: object) -> None:
        self._client = http

    def copy(self, *, http_client: object) -> Sdk:
        return Sdk(http_client)


@pytest.mark.parametrize("thing", [None, "client", object(), SimpleNamespace(_client=object(), copy=print)])
def test_what_cannot_be_wrapped(thing: object) -> None:
    with pytest.raises(TypeError, match=r"cannot wrap \w+\.\w+: pass a client of openai.*rl\.wrap\("):
        rl.wrap(thing)


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_a_class_is_no_client(family: str, name: str) -> None:
    for kind in (getattr(importlib.import_module(family), name), Sdk):
        with pytest.raises(TypeError, match=f"cannot wrap the class {kind.__name__}: pass an instance of it"):
            rl.wrap(kind)


@pytest.mark.parametrize("patience", [{}, {"deadline": 60}, rl.RetryPolicy])
def test_what_is_no_policy(family: str, patience: Any) -> None:
    http = client(family)
    for thing in (http, Sdk(http)):
        rl.wrap(thing)
        with pytest.raises(TypeError, match="policy must be a RetryPolicy"):
            rl.wrap(thing, policy=patience)


def test_what_cannot_be_copied_cannot_be_wrapped(family: str) -> None:
    with pytest.raises(TypeError, match="cannot wrap"):
        rl.wrap(SimpleNamespace(_client=client(family)))


def test_requests_are_upgraded_if_that_is_wanted(family: str) -> None:
    asked = {"model": "m", "input": "?", "stream": True}
    for wanted in (False, True):
        http = client(family, Said())
        with rl.wrap(http, upgrade=wanted).stream("POST", "https://api.example/v1/responses", json=asked):
            (request,) = http._transport.requests
        added = {"background": True, "store": True} if wanted else {}
        assert json.loads(request.body) == {**asked, **added}


def test_no_sdk_is_imported() -> None:
    """Whoever has none pays for none."""
    code = "import sys, json, resumable_llm; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    roots = {name.partition(".")[0] for name in modules}
    assert not roots & {"openai", "mistralai", "google", "cohere", "ollama", "langgraph_sdk", "huggingface_hub"}
    assert not roots & {"langchain_core", "langchain_openai", "langchain_anthropic", "pydantic_ai", "httpx2"}


# Inside an SDK's stream


@pytest.mark.parametrize(
    "around",
    [
        lambda response: response,
        lambda response: SimpleNamespace(response=response),
        lambda response: SimpleNamespace(_response=response),
        lambda response: SimpleNamespace(_raw_stream=SimpleNamespace(response=response)),
        lambda response: SimpleNamespace(http_response=response),
    ],
    ids=["response", "stream", "hidden", "raw", "http"],
)
def test_the_handle_is_found(family: str, around: Any) -> None:
    wrapped = rl.wrap(client(family, Said(chat("a", done=True))))
    with wrapped.stream("POST", CHAT_URL, json=CHAT) as response:
        handle = rl.inspect(around(response))
        assert isinstance(handle, rl.Handle)
        response.read()
        assert handle.report.events == 2
        assert handle.checkpoint.complete


async def test_the_handle_is_found_async(family: str) -> None:
    wrapped = rl.wrap(async_client(family, Said(chat("a", done=True))))
    async with wrapped.stream("POST", CHAT_URL, json=CHAT) as response:
        assert isinstance(rl.inspect(response), rl.AsyncHandle)
        await response.aread()


def test_there_is_no_handle_where_nobody_watches(family: str) -> None:
    with (
        client(family, Said(chat("a", done=True))).stream("POST", CHAT_URL, json=CHAT) as response,
        pytest.raises(TypeError, match="nothing watches over this Response"),
    ):
        rl.inspect(response)
    with pytest.raises(TypeError, match="nothing watches over this NoneType"):
        rl.inspect(None)
