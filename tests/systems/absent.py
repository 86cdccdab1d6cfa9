"""What happens to tests whose server cannot be run: they are skipped, and nobody can overlook it.

The run's summary ends with the names and the reasons. Where CI=true the run fails, for there a test that never ran must
not look like one that passed. A conftest.py imports the hooks, for pytest looks for hooks there; the uppermost, for
a process that only hands out tests to others (pytest-xdist) reads no other.

Tests of what needs a newer Python are skipped with that reason, and nothing is amiss.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

_REASONS = pytest.StashKey[dict[str, str]]()
_TOLD = "servers that could not be run"


@contextlib.contextmanager
def skip_and_tell(
    config: pytest.Config, server: str, *unavailable: type[Exception], python: tuple[int, int] = (3, 10)
) -> Iterator[None]:
    """Skip the tests that need a server if starting it raises one of these exceptions, and have the summary say so.

    Args:
        config: Of the run.
        server: Its name in the summary.
        unavailable: Exceptions that mean that it cannot be run here.
        python: The oldest Python it runs on. On an older one its tests are skipped and nothing is amiss.
    """
    if sys.version_info < python:
        pytest.skip(_too_old(server, python))
    try:
        yield
    except unavailable as error:
        config.stash.setdefault(_REASONS, {})[server] = str(error)
        pytest.skip(f"{server} could not be run; the summary says why")


def needs_python(sdk: str, python: tuple[int, int]) -> pytest.MarkDecorator:
    """Mark a test to be skipped where Python is too old for an SDK.

    On any other the SDK must be there: a test that finds it missing fails.

    Args:
        sdk: Its name in the reason.
        python: The oldest Python for which pyproject.toml demands it.
    """
    return pytest.mark.skipif(sys.version_info < python, reason=_too_old(sdk, python))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reasons = config.stash.get(_REASONS, {})
    if reasons:
        terminalreporter.section("SERVERS THAT COULD NOT BE RUN", red=True, bold=True)
        for server, reason in reasons.items():
            terminalreporter.line(f"{server}: {reason}", red=True)
        terminalreporter.line("Tests that need them were skipped." + (" So this run fails." if _must_run() else ""))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process that was handed tests by this one has ended."""
    node.config.stash.setdefault(_REASONS, {}).update(getattr(node, "workeroutput", {}).get(_TOLD, {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_TOLD] = session.config.stash.get(_REASONS, {})
    elif _must_run() and session.config.stash.get(_REASONS, {}) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _too_old(name: str, python: tuple[int, int]) -> str:
    return f"{name} needs Python {python[0]}.{python[1]}"


def _must_run() -> bool:
    return os.environ.get("CI") == "true"
