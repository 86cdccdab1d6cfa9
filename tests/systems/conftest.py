"""Real servers for the tests in this folder, each started once. A fixture yields the server's address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from resumable_llm.cli.llama import LlamaServer, LlamaUnavailable
from resumable_llm.cli.model import ModelUnavailable, ensure_model
from tests.systems import servers
from tests.systems.absent import skip_and_tell

_HERE = Path(__file__).parent
_SECONDS = 300  # the first test that needs a server also waits for its installation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.slow)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture(scope="session")
def langgraph_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """LangGraph's development server with the graph "speaker"."""
    yield from _address(pytestconfig, "langgraph", servers.langgraph(), python=(3, 11))


@pytest.fixture(scope="session")
def fastresponses_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """An agent behind OpenAI's Responses API."""
    yield from _address(pytestconfig, "fastresponses", servers.fastresponses(), python=(3, 11))


@pytest.fixture(scope="session")
def mcp_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """An MCP server; its endpoint is `/mcp`."""
    yield from _address(pytestconfig, "mcp", servers.mcp(), python=(3, 11))


@pytest.fixture(scope="session")
def durable_streams_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """The Durable Streams reference server."""
    yield from _address(pytestconfig, "durable-streams", servers.durable_streams())


@pytest.fixture(scope="session")
def aimock(pytestconfig: pytest.Config) -> Iterator[str]:
    """Five providers' formats with fixed answers, some of them cut."""
    yield from _address(pytestconfig, "aimock", servers.aimock())


@pytest.fixture(scope="session")
def llama(pytestconfig: pytest.Config) -> Iterator[str]:
    """llama.cpp with a real model."""
    with ExitStack() as stack:
        with skip_and_tell(pytestconfig, "llama.cpp", LlamaUnavailable, ModelUnavailable):
            server = stack.enter_context(LlamaServer(ensure_model()))
        yield server.url


def _address(
    config: pytest.Config,
    name: str,
    manager: AbstractContextManager[servers.Server],
    *,
    python: tuple[int, int] = (3, 10),
) -> Iterator[str]:
    with ExitStack() as stack:
        with skip_and_tell(config, name, servers.ServerUnavailable, python=python):
            server = stack.enter_context(manager)
        yield server.url
