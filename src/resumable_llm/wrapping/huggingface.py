"""The inference clients of huggingface_hub: the asynchronous one has an HTTP client, the other uses the process's.

Read in huggingface_hub 1.0 to 2.4, 2026-11-22.
"""

from __future__ import annotations

import copy
import importlib
from contextlib import AsyncExitStack
from typing import Any

from resumable_llm.wrapping.common import Around, base_of, prove


def wraps(client: object) -> bool:
    """Whether it is such a client, of either colour."""
    return base_of(client, "huggingface_hub", "AsyncInferenceClient", "InferenceClient") is not None


def copied(client: Any, around: Around) -> Any:
    """A copy around a copy of its HTTP client, or around a new one if it has none yet.

    Raises:
        TypeError: It is the blocking client, which has no HTTP client to itself.
    """
    if base_of(client, "huggingface_hub", "AsyncInferenceClient") is None:
        raise TypeError(
            "cannot wrap huggingface_hub.InferenceClient: it has no HTTP client of its own, but uses the one of the "
            "process. Give the process one that is watched over: "
            "huggingface_hub.set_client_factory(lambda: rl.wrap(httpx2.Client(follow_redirects=True, timeout=None))) "
            "(httpx.Client before huggingface_hub 2), or wrap an AsyncInferenceClient"
        )
    made = copy.copy(client)
    http_client = around(client._async_client or importlib.import_module("huggingface_hub").get_async_session())
    made._async_client = http_client
    made.exit_stack = AsyncExitStack()  # the original's closes the original's streams
    made.exit_stack.push_async_callback(http_client.aclose)
    prove(made, "_async_client", http_client)
    return made
