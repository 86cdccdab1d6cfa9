"""The google-genai SDK: a client of both colours, with a client for the API inside that everything else is bound to.

Read in google-genai 2.34 and 3.4, 2026-11-22.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from resumable_llm.transports.call import Owner
from resumable_llm.wrapping.common import Around, base_of, owner_of, prove


def wraps(client: object) -> bool:
    """Whether it is such a client."""
    return base_of(client, "google.genai", "Client") is not None


def copied(client: Any, around: Around, owner: Owner | None = None) -> Any:
    """A copy with an API client of its own, around copies of both HTTP clients.

    Args:
        client: A ``google.genai.Client``.
        around: Makes the copies of its HTTP clients.
        owner: Who shares the connections, if the client itself is held by something that closes it.

    Raises:
        TypeError: Its requests go out by something else than an httpx or httpx2 client.
    """
    api = _api_copied(client._api_client, around, owner or owner_of(client, client._api_client._httpx_client))
    made = copy.copy(client)
    for name, value in vars(client).items():
        if value is client._api_client:
            setattr(made, name, api)
        elif hasattr(value, "_api_client"):
            setattr(made, name, type(value)(api))
        elif type(value).__module__.startswith("google.genai._gaos"):
            setattr(made, name, None)  # made anew from the API client when it is asked for
    for path in ("_api_client", "models._api_client", "aio._api_client", "aio.models._api_client"):
        prove(made, f"{path}._httpx_client", api._httpx_client)
        prove(made, f"{path}._async_httpx_client", api._async_httpx_client)
    return made


def _api_copied(api: Any, around: Around, owner: Owner) -> Any:
    if api._use_google_auth_sync() or api._use_google_auth_async():
        raise TypeError(
            "cannot wrap this google.genai.Client: with mTLS its requests are sent by google-auth, not by an HTTP "
            "client that could be watched over. Give it http_options with an httpx_client and an httpx_async_client"
        )
    options = api._http_options
    if getattr(options, "aiohttp_client", None) is not None:
        raise TypeError(
            "cannot wrap this google.genai.Client: it was given an aiohttp session, and only httpx and httpx2 clients "
            "can be watched over. Give it http_options with an httpx_async_client instead of the aiohttp_client"
        )
    made = copy.copy(api)
    made._httpx_client = around(api._httpx_client, owner)
    made._async_httpx_client = _async_copied(api._async_httpx_client, around, owner)
    made._http_options = options.model_copy(
        update={
            "httpx_client": options.httpx_client and made._httpx_client,
            "httpx_async_client": options.httpx_async_client and made._async_httpx_client,
            # A transport of its own is what keeps it from aiohttp, which it prefers where that is installed.
            "async_client_args": {
                **(options.async_client_args or {}),
                "transport": made._async_httpx_client._transport,
            },
        }
    )
    made._aiohttp_sessions = {}  # they are the original's to close
    if made._use_aiohttp():
        raise TypeError(
            "google.genai.Client did not take the HTTP client: it still uses aiohttp, so nothing would be watched over"
        )
    return made


def _async_copied(http_client: Any, around: Around, owner: Owner) -> Any:
    """A copy of the asynchronous HTTP client; since 3.1 it may be a shell around one client per event loop."""
    made = around(http_client, owner)
    if getattr(http_client, "_per_loop", False):
        made._loop_clients = {}
        made._loop_clients_lock = threading.Lock()
        made._inner_client_cls = lambda **_: around(http_client._client_for_running_loop(), owner)
    return made
