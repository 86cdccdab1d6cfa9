"""The cohere SDK. Its clients keep functions that are bound to themselves, so they are built anew, not copied.

Read in cohere 5.0 to 7.3, 2026-11-22.
"""

from __future__ import annotations

import inspect as introspection
from typing import Any

from resumable_llm.wrapping.common import Around, base_of, prove, rebuilt

_CLASSES = ("ClientV2", "AsyncClientV2", "Client", "AsyncClient")


def wraps(client: object) -> bool:
    """Whether it is such a client."""
    return base_of(client, "cohere", *_CLASSES) is not None


def copied(client: Any, around: Around) -> Any:
    """The same client, built around a copy of its HTTP client."""
    base = base_of(client, "cohere", *_CLASSES)
    assert base is not None
    settings = client._client_wrapper
    http_client = around(settings.httpx_client.httpx_client)
    options = {
        "api_key": settings._token,
        "base_url": settings._base_url,
        "client_name": settings._client_name,
        "timeout": settings._timeout,
        "max_retries": getattr(settings, "_max_retries", None),
        "httpx_client": http_client,
        "thread_pool_executor": client._executor,
        # It wraps the method in a warning, or does not.
        "log_warning_experimental_features": "chat_stream" in vars(client),
    }
    known = introspection.signature(base).parameters
    made = rebuilt(client, base, **{name: value for name, value in options.items() if name in known})
    prove(made, "_client_wrapper.httpx_client.httpx_client", http_client)
    prove(made, "with_raw_response._client_wrapper.httpx_client.httpx_client", http_client)
    return made
