"""The langgraph SDK, whose clients are made around an HTTP client.

Read in langgraph-sdk 0.4, 2026-11-22.
"""

from __future__ import annotations

from typing import Any

from resumable_llm.wrapping.common import Around, base_of, prove, rebuilt

_CLASSES = ("LangGraphClient", "SyncLangGraphClient")


def wraps(client: object) -> bool:
    """Whether it is such a client."""
    return base_of(client, "langgraph_sdk", *_CLASSES) is not None


def copied(client: Any, around: Around) -> Any:
    """The same client, built around a copy of its HTTP client."""
    base = base_of(client, "langgraph_sdk", *_CLASSES)
    assert base is not None
    http_client = around(client.http.client)
    made = rebuilt(client, base, http_client)
    for path in ("http", "runs.http", "threads.http"):
        prove(made, f"{path}.client", http_client)
    return made
