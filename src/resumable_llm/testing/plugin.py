"""Pytest fixtures: `fault_proxy` breaks connections, and `instant_retries` does not wait after that.

Pytest loads this module wherever the package is installed, so it must not know the rest before a fixture is used.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import resumable_llm as rl
    from resumable_llm.testing import Fault, FaultProxy


class FaultProxyFactory(Protocol):
    """What the fixture `fault_proxy` gives to a test."""

    def __call__(self, upstream: str | tuple[str, int], *faults: Fault | None) -> FaultProxy:
        """Return a running proxy in front of `upstream` whose n-th streamed response suffers the n-th fault."""
        ...


@pytest.fixture
def fault_proxy() -> Iterator[FaultProxyFactory]:
    """Return a function that starts fault proxies: `fault_proxy(upstream, *faults)`; all are closed after the test."""
    from resumable_llm.testing import FaultPlan, FaultProxy

    with contextlib.ExitStack() as proxies:

        def start(upstream: str | tuple[str, int], *faults: Fault | None) -> FaultProxy:
            return proxies.enter_context(FaultProxy(upstream, FaultPlan(*faults)))

        yield start


@pytest.fixture
def instant_retries() -> rl.RetryPolicy:
    """Return a retry policy whose backoff is zero; only what a server asks for with `retry:` is still waited for."""
    import tenacity

    import resumable_llm as rl

    return rl.RetryPolicy(wait=tenacity.wait_none())
