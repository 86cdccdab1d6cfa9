"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each asynchronous test on both event loops."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What SDKs leave open is collected in the module that left it: a warning would hit another one's tests."""
    yield
    gc.collect()
