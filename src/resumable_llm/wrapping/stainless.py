"""SDKs that Stainless generated, which is said by none of their names: openai, anthropic, groq, together, cerebras.

Seen in openai 1.0 to 3.54, anthropic 1.0 to 2.12, groq, together, cerebras and fireworks, 2026-11-22.
"""

from __future__ import annotations

import copy
import inspect as introspection
from functools import cached_property
from typing import Any

from resumable_llm.families import family_of
from resumable_llm.wrapping.common import Around, prove


def wraps(client: object) -> bool:
    """Whether it looks like one: an HTTP client in a certain place, and a way to copy it with another one."""
    return family_of(getattr(client, "_client", None)) is not None and callable(getattr(client, "copy", None))


def copied(client: Any, around: Around) -> Any:
    """A copy around a copy of its HTTP client."""
    http_client = around(client._client)
    options: dict[str, Any] = {"http_client": http_client}
    if "warm_tcp_connection" in introspection.signature(type(client)).parameters:
        options["warm_tcp_connection"] = False  # cerebras: a copy would send a request
    try:
        made = client.copy(**options)
    except TypeError:
        made = _copied_by_hand(client, http_client)
    if hasattr(client, "_strict_response_validation"):
        made._strict_response_validation = client._strict_response_validation  # copy() forgets it
    prove(made, "_client", http_client)
    return made


def _copied_by_hand(client: Any, http_client: Any) -> Any:
    """For a subclass whose constructor takes other arguments than its SDK's."""
    if getattr(client, "_middleware_chain", None) is not None and getattr(client, "middleware", None):
        raise TypeError(
            f"cannot copy {type(client).__name__}: its constructor differs from its SDK's and it has middleware"
        )
    made = copy.copy(client)
    for name in list(vars(made)):
        if isinstance(introspection.getattr_static(type(made), name, None), cached_property):
            del vars(made)[name]  # resources that are bound to the original
    made._client = http_client
    return made
