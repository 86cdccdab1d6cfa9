"""Small things that every protocol's speech needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resumable_llm.core.events import Fields
from resumable_llm.core.speech import Payload


def event_of(name: str | None, data: str | None = None) -> Fields:
    """The fields of an event that is to be written."""
    return Fields(name, data, None, None)


def objects_in(payload: Payload, key: str) -> list[Payload]:
    """The JSON objects in the list under a key; none if there is something else."""
    found = payload.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def number_of(holder: Payload, otherwise: int) -> int:
    """The index of something; ``otherwise`` if it has none that could be one."""
    found = holder.get("index")
    return found if isinstance(found, int) else otherwise


def strings_in(value: object) -> list[str]:
    """A text, or the texts in a list; empty ones are left out."""
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [each for each in found if isinstance(each, str) and each]


def count(payload: Payload, *names: str) -> int | None:
    """The sum of the numbers under these names; None if the first is no number."""
    numbers = [payload.get(name) for name in names]
    if not isinstance(numbers[0], int):
        return None
    return sum(number for number in numbers if isinstance(number, int))


def reduced(body: Payload, names: Iterable[str], tokens: int) -> dict[str, Any]:
    """A request's body, with its limits on tokens less what was said already; never less than one."""
    limits = {name: max(body[name] - tokens, 1) for name in names if isinstance(body.get(name), int) and body[name] > 0}
    return {**body, **limits}
