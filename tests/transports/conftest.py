"""What the tests of journals share."""

from __future__ import annotations

import pytest

from resumable_llm.log import MemoryStore
from tests.transports.journaled import Caller


@pytest.fixture(params=["sync", "asyncio", "trio"])
def colour(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def caller(colour: str, store: MemoryStore) -> Caller:
    return Caller("httpx", colour, store)
