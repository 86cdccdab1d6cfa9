"""A real llama.cpp server with a real model. If either cannot be had, the tests fail: they never pass by absence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resumable_llm.cli.llama import LlamaServer
from resumable_llm.cli.model import ensure_model


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    with LlamaServer(ensure_model()) as server:
        yield server.url
