"""What a scenario module is made of.

Knows nothing of how cases are run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from benchmarks.measure import Bench, Sample

GROUPS = ("sdk_clients", "transports", "event_streams", "decoders", "dialects", "drops", "many_streams")
"""The scenario modules, in the order in which they are reported."""


@dataclass(frozen=True)
class Variant:
    """One of the things that a case compares.

    Attributes:
        name: As in the report.
        measure: Measures it, in a process of its own.
    """

    name: str
    measure: Callable[[Bench], Sample]


@dataclass(frozen=True)
class Case:
    """Things that do the same work.

    Attributes:
        name: As in the report.
        variants: The first is what the others are held against; the last is ours.
        aim: The ratio that the last should not exceed; None if none was set.
        unit: Of the samples' values.
    """

    name: str
    variants: tuple[Variant, ...]
    aim: float | None = None
    unit: str = "µs"


class Group(Protocol):
    """A scenario module."""

    TITLE: str
    NOTE: str
    IMPORTS: tuple[str, ...]
    CASES: tuple[Case, ...]


def load(name: str) -> Group:
    """A group by its name."""
    return cast(Group, import_module(f"benchmarks.scenarios.{name}"))
