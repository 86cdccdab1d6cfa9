"""The ollama SDK. Its clients have a ``copy`` too, but that copies a model on the server.

Read in ollama 0.1 to 0.6, 2026-11-22.
"""

from __future__ import annotations

import copy
from typing import Any

from resumable_llm.wrapping.common import Around, base_of, prove


def wraps(client: object) -> bool:
    """Whether it is such a client."""
    return base_of(client, "ollama", "Client", "AsyncClient") is not None


def copied(client: Any, around: Around) -> Any:
    """A copy around a copy of its HTTP client."""
    made = copy.copy(client)
    made._client = http_client = around(client._client)
    prove(made, "_client", http_client)
    return made
