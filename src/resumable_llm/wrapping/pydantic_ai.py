"""Models of Pydantic AI, on whichever SDK: copies of the models, around copies of their providers' clients.

Read in pydantic-ai-slim 2.68, 2026-11-22.
"""

from __future__ import annotations

import copy
from typing import Any

from resumable_llm.wrapping import clients
from resumable_llm.wrapping.common import Around, base_of, kind_of, prove


def wraps(client: object) -> bool:
    """Whether it is a model."""
    return base_of(client, "pydantic_ai", "Model") is not None


def copied(client: Any, around: Around) -> Any:
    """A copy of the model that watches over its streams.

    Raises:
        TypeError: It has no client itself, as those that stand in front of other models.
    """
    provider = getattr(client, "_provider", None)
    if provider is None:
        raise TypeError(f"cannot wrap {kind_of(client)}: it has no client itself. Wrap the model that it is made of")
    made = copy.copy(client)
    made._provider = _provider_copied(provider, around)
    prove(made, "client", made._provider.client)
    return made


def _provider_copied(provider: Any, around: Around) -> Any:
    made = copy.copy(provider)
    vars(made).pop("_enter_lock", None)  # a cached property, bound to the event loop that it was first used on
    made._entered_count = 0
    made._client = sdk = clients.copied(provider.client, around)
    own, factory = getattr(provider, "_own_http_client", None), getattr(provider, "_http_client_factory", None)
    if own is not None:
        # A provider closes the HTTP client that it made, and makes another one for the next run.
        made._own_http_client = around(own)
        made._http_client_factory = factory and (lambda: around(factory()))
        made._set_http_client(made._own_http_client)
    prove(made, "client", sdk)
    return made
