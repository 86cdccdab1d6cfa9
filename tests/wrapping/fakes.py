"""SDKs in short: objects whose classes say that they are of a package which need not be installed.

What the real ones do is tested in tests/sdks; here are the corners that the installed versions do not have.
"""

from __future__ import annotations

from typing import Any

import httpx

import resumable_llm as rl

Class = type


def of(module: str, name: str, *bases: Class, **members: Any) -> Any:
    """A class that says it is of a module."""
    return type(name, bases or (object,), {"__module__": module, **members})


def http_client(**options: Any) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200)), **options)


def async_http_client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200)), **options)


def is_watched(client: Any) -> bool:
    """Whether our transport is in an HTTP client."""
    return isinstance(client._transport, (rl.httpx.ResumableTransport, rl.httpx.AsyncResumableTransport))
