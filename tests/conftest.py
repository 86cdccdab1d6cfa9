"""What all tests share."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.systems.absent import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary", "pytest_testnodedown"]

# How long an example takes says how busy the machine is. EXHAUSTIVE=1 looks at other examples in each run.
settings.register_profile(
    "resumable_llm",
    deadline=None,
    derandomize=os.environ.get("EXHAUSTIVE") != "1",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("resumable_llm")

_FAILED = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """Let Ctrl-C mean what it does: a shell's background job ignores it, and so do all processes that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test fail alone: what it left open is held by its traceback, and would be told in another test."""
    done = yield
    if item.stash.get(_FAILED, False):
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            with contextlib.suppress(AttributeError):
                delattr(sys, name)
        told, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            gc.collect()
        finally:
            sys.unraisablehook = told
    return done


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each asynchronous test on both event loops."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What SDKs leave open is collected in the module that left it: a warning would hit another one's tests.

    What is alive then stays: it is frozen, or else each collection would look at all modules of all SDKs again.
    """
    yield
    gc.collect()
    gc.freeze()
