"""What all tests share."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """Let Ctrl-C mean what it does: a shell's background job ignores it, and so do all processes that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
