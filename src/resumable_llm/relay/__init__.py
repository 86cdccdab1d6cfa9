"""The relay: an ASGI application that stands in front of a provider and keeps its answers, so that readers can resume.

Needs the extra ``relay``. Nothing of it is imported by the rest of the package.
"""

from __future__ import annotations

from typing import Any

from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Store
from resumable_llm.relay.app import Relay
from resumable_llm.relay.settings import RelaySettings

__all__ = ["Relay", "RelaySettings", "relay"]


def relay(settings: RelaySettings | None = None, *, store: Store | None = None, **options: Any) -> Relay:
    """An ASGI application, to be served or mounted.

        app.mount("/llm", relay(upstream="https://api.openai.com"))

    Args:
        settings: What it is told; or give its fields as keywords.
        store: Where answers are kept; default: in memory.
        **options: The fields of `RelaySettings`.

    Returns:
        The application. Served by itself, it is closed with the server; where it is mounted, call its ``aclose``.

    Raises:
        ValueError: A setting cannot be meant.
        TypeError: Settings and fields are both given, or neither.
    """
    if (settings is None) == (not options):
        raise TypeError("give settings, or their fields as keywords: relay(upstream='https://api.openai.com')")
    return Relay(settings or RelaySettings(**options), store or MemoryStore())
