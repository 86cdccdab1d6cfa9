"""Clients of httpx and httpx2: a copy of one, with our transport around each of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from resumable_llm.families import family_of
from resumable_llm.transports.call import Owner
from resumable_llm.transports.relayed import is_loopback
from resumable_llm.wrapping.common import kind_of


def wraps(client: object) -> bool:
    """Whether it is a client of one of the families."""
    return family_of(client) is not None


def copied(client: Any, options: Mapping[str, Any], owner: Owner | None = None) -> Any:
    """A copy that watches over its streams.

    Copied, not built anew: a constructor that is given a transport forgets proxies from the environment, limits and
    certificates.

    Args:
        client: A client of httpx or httpx2.
        options: For our transport's constructor.
        owner: Who shares the connections; default: the client alone.

    Raises:
        TypeError: It is no such client.
    """
    family = family_of(client)
    if family is None:
        raise TypeError(
            f"cannot wrap what uses {kind_of(client)}: only clients of httpx and httpx2 can be watched over"
        )
    transports = family.transports
    sync = family.is_sync_client(client)
    transport_class = transports.ResumableTransport if sync else transports.AsyncResumableTransport
    if owner is None:
        owner = Owner(client, getattr(client._transport, "owner", None))

    def within(transport: Any) -> Any:
        # Wrapped twice: the later options count.
        return transport.wrapped if isinstance(transport, transport_class) else transport

    relay = options.get("relay")
    # The transport for the provider may be a proxy's, which the relay's URL need not be for.
    direct = relay is None or is_loopback(relay)
    towards_relay = within(client._transport if direct else client._transport_for_url(family.http.URL(relay)))

    def around(transport: Any) -> Any:
        resumable = transport_class(within(transport), **options)
        resumable.towards_relay = towards_relay
        resumable.owner = owner
        return resumable

    made = copy.copy(client)
    made._transport = around(client._transport)
    # None in a mount means: no proxy for this, use the transport.
    made._mounts = {pattern: transport and around(transport) for pattern, transport in client._mounts.items()}
    made._headers = client._headers.copy()
    made._event_hooks = {name: list(hooks) for name, hooks in client._event_hooks.items()}
    if not client.is_closed:
        made._state = type(client._state).UNOPENED  # so that ``with`` works on the copy of a client in use
    return made
