"""Clients as cheap as they can be made, and whether they hold on to a connection.

A client's usual construction reads all certificates of the machine; on loopback that is most of the time a test takes.
"""

from __future__ import annotations

import importlib
import ssl
import sys
from typing import Any

import pytest
import tenacity

import resumable_llm as rl

# httpx2 needs Python 3.11, and from there on it must be there.
FAMILIES = ("httpx", "httpx2") if sys.version_info >= (3, 11) else ("httpx",)
LOOPS = ("asyncio", "trio")

FOREIGN_GENERATORS = pytest.mark.filterwarnings(
    r"ignore:Async generator '(openai|anthropic|groq|httpx2?|httpcore2?)\.:ResourceWarning"
)
"""On trio, whoever stops reading before the end leaves generators of these libraries to the garbage, wrapped or not.

Our own must not be left there."""

SECRETS = {"authorization": "Bearer s3cret", "x-api-key": "s3cret", "x-custom-credential": "s3cret"}
_CONTEXT = ssl.create_default_context()


def client(family: str, **options: Any) -> Any:
    """A blocking client of a family."""
    return importlib.import_module(family).Client(verify=_CONTEXT, trust_env=False, **options)


def async_client(family: str, **options: Any) -> Any:
    """An asynchronous client of a family."""
    return importlib.import_module(family).AsyncClient(verify=_CONTEXT, trust_env=False, **options)


def busy(client: Any) -> list[object]:
    """The connections of a client's pool that somebody still holds."""
    return [each for each in client._transport._pool.connections if not each.is_idle() and not each.is_closed()]


def policy(**options: Any) -> rl.RetryPolicy:
    """No backoff, three attempts in a row, and no wait longer than a test may take."""
    options = {
        "wait": tenacity.wait_none(),
        "stop": tenacity.stop_after_attempt(3),
        "first_event_timeout": 10,
        "event_timeout": 10,
        **options,
    }
    return rl.RetryPolicy(**options)
