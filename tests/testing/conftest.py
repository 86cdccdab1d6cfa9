from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import httpx
import pytest

from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from tests.testing.upstream import Call, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Between(Protocol):
    def __call__(self, answer: Callable[[Call], None], *faults: Fault | None) -> tuple[Upstream, FaultProxy]: ...


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    """Give all tests one client, for making one is slow."""
    with httpx.Client() as client:
        yield client


@pytest.fixture
def between() -> Iterator[Between]:
    """Start an upstream that answers as given and a proxy before it."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[Call], None], *faults: Fault | None) -> tuple[Upstream, FaultProxy]:
            upstream = stack.enter_context(Upstream(answer))
            return upstream, stack.enter_context(FaultProxy(upstream.url, FaultPlan(*faults)))

        yield start
