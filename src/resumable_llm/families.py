"""Which HTTP family an object belongs to: httpx or httpx2, and its transports.

The family is read off the object, never off the SDK that holds it: openai 3 takes clients of either. Nothing is
imported that is not in use already.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

FAMILIES = ("httpx", "httpx2")


@dataclass(frozen=True)
class Family:
    """An HTTP library and our transports for it."""

    http: ModuleType
    transports: ModuleType

    def is_sync_client(self, thing: object) -> bool:
        """Whether it is a blocking client of this family."""
        return isinstance(thing, self.http.Client)

    def is_async_client(self, thing: object) -> bool:
        """Whether it is an asynchronous client of this family."""
        return isinstance(thing, self.http.AsyncClient)


def family_of(client: Any) -> Family | None:
    """The family of an HTTP client; None if it is no such client."""
    roots = [base.__module__.partition(".")[0] for base in type(client).__mro__]
    for name in FAMILIES:
        if name in roots and name in sys.modules:
            family = Family(sys.modules[name], importlib.import_module(f"resumable_llm.transports.{name}"))
            if family.is_sync_client(client) or family.is_async_client(client):
                return family
    return None
