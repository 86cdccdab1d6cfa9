"""The mistralai SDK, whose one client holds an HTTP client of each colour.

Read in mistralai 1.0 to 3.7, 2026-11-22.
"""

from __future__ import annotations

import copy
from typing import Any

from resumable_llm.wrapping.common import Around, base_of, owner_of, prove

_HTTP_CLIENTS = {"client": "client_supplied", "async_client": "async_client_supplied"}
"""Where they are in the configuration, and what says that they are the user's."""


def wraps(client: object) -> bool:
    """Whether it is such a client, of Mistral's own service or of another one that has its models."""
    return base_of(client, "mistralai", "Mistral", "MistralAzure", "MistralGCP") is not None


def copied(client: Any, around: Around) -> Any:
    """A copy with a configuration of its own, around copies of both HTTP clients."""
    configuration = copy.copy(client.sdk_configuration)  # dataclasses.replace would lose the hooks in its __dict__
    made = _bound(client, configuration)
    for name, supplied in _HTTP_CLIENTS.items():
        http_client = getattr(configuration, name)
        if http_client is None:
            continue  # closed already
        # Unless they are the user's, the original closes them when it is finalized. As it refers to itself, nobody can
        # tell whether it is still used: closing the copy leaves the connections to that finalizer.
        owner = None if getattr(configuration, supplied, True) else owner_of(client, http_client)
        setattr(configuration, name, around(http_client, owner))
        prove(made, f"sdk_configuration.{name}", getattr(configuration, name))
        prove(made, f"chat.sdk_configuration.{name}", getattr(configuration, name))
    return made


def _bound(sdk: Any, configuration: Any, root: Any = None) -> Any:
    """A copy of a client or of a resource in it, and of the resources within, with another configuration."""
    made = copy.copy(sdk)
    for name, value in vars(sdk).items():
        if name != "parent_ref" and hasattr(value, "sdk_configuration"):
            setattr(made, name, _bound(value, configuration, root or made))
    made.sdk_configuration = configuration
    if hasattr(sdk, "parent_ref"):
        made.parent_ref = root or made  # a stream keeps its client alive by this
    return made
