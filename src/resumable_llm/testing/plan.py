"""Faults as plain data: what goes wrong with a streamed response, and where.

It knows no socket, no HTTP and no clock. A plan can be printed, compared and kept as JSON; others carry it out.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self, Unpack

FaultKind = Literal["rst", "fin", "end", "stall", "stall_pings", "delay", "duplicate", "drop", "corrupt"]
CutKind = Literal["rst", "fin", "end"]

# What each kind takes besides its position: (must be given, may be given).
_PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "rst": (frozenset(), frozenset()),
    "fin": (frozenset(), frozenset()),
    "end": (frozenset(), frozenset()),
    "stall": (frozenset(), frozenset({"seconds"})),
    "stall_pings": (frozenset({"interval"}), frozenset({"seconds"})),
    "delay": (frozenset({"seconds"}), frozenset()),
    "duplicate": (frozenset({"events"}), frozenset()),
    "drop": (frozenset({"events"}), frozenset()),
    "corrupt": (frozenset(), frozenset({"garbage"})),
}
_POSITIONS = ("at_byte", "at_event", "at_seconds")


class Where(TypedDict, total=False):
    """The position of a fault in a response body: exactly one of the three.

    at_byte: body bytes passed on before the fault (chunked framing not counted); may lie inside an event.
    at_event: whole events passed on before the fault. Blocks that hold only comments are not events.
    at_seconds: seconds since the first byte of the response, whether or not anything is being sent then.
    """

    at_byte: int
    at_event: int
    at_seconds: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Fault:
    """One thing that goes wrong with one streamed response; to be made with its constructors: `Fault.rst(at_event=5)`.

    Each takes exactly one position, `at_byte`, `at_event` or `at_seconds` (see `Where`). A response that ends before it
    passes unharmed. `stall_pings`, `duplicate` and `drop` deal in whole events: a position inside one means its end.

    Raises:
        ValueError: a position or parameter is missing, superfluous, of the wrong type or out of range.
    """

    kind: FaultKind
    at_byte: int | None = None
    at_event: int | None = None
    at_seconds: float | None = None
    seconds: float | None = None
    interval: float | None = None
    events: int | None = None
    garbage: bytes | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"unknown kind of fault {self.kind!r}: use one of {', '.join(get_args(FaultKind))}")
        given = set(_given(self))
        if len(given.intersection(_POSITIONS)) != 1:
            raise ValueError(f"a {self.kind} fault takes exactly one of {', '.join(_POSITIONS)}")
        required, optional = _PARAMETERS[self.kind]
        if missing := required - given:
            raise ValueError(f"a {self.kind} fault needs {', '.join(sorted(missing))}")
        if surplus := given.difference(required, optional, _POSITIONS, ("kind",)):
            raise ValueError(f"a {self.kind} fault does not take {', '.join(sorted(surplus))}")
        _check_whole("at_byte", self.at_byte, least=0)
        _check_whole("at_event", self.at_event, least=0)
        _check_whole("events", self.events, least=1)
        _check_seconds("at_seconds", self.at_seconds, zero=True)
        _check_seconds("seconds", self.seconds, zero=False)
        _check_seconds("interval", self.interval, zero=False)
        if self.garbage is not None and (not isinstance(self.garbage, bytes) or not self.garbage):
            raise ValueError(f"garbage must be bytes and not empty: {self.garbage!r}")
        if self.kind == "duplicate" and self.at_event is not None and self.at_event < (self.events or 0):
            raise ValueError(f"cannot repeat {self.events} events after {self.at_event}")

    @classmethod
    def rst(cls, **where: Unpack[Where]) -> Self:
        """Abort the connection with a TCP reset."""
        return cls(kind="rst", **where)

    @classmethod
    def fin(cls, **where: Unpack[Where]) -> Self:
        """Close the connection in the middle of the chunked body, without its last chunk."""
        return cls(kind="fin", **where)

    @classmethod
    def end(cls, **where: Unpack[Where]) -> Self:
        """End the chunked body properly but too early: it looks like success, and the connection stays usable."""
        return cls(kind="end", **where)

    @classmethod
    def stall(cls, *, seconds: float | None = None, **where: Unpack[Where]) -> Self:
        """Fall silent for `seconds` and then close as `fin` does; without `seconds`, until the client goes."""
        return cls(kind="stall", seconds=seconds, **where)

    @classmethod
    def stall_pings(cls, *, interval: float, seconds: float | None = None, **where: Unpack[Where]) -> Self:
        """Stall as `stall` does, but send a comment block (NDJSON: an empty line) every `interval` seconds."""
        return cls(kind="stall_pings", interval=interval, seconds=seconds, **where)

    @classmethod
    def delay(cls, *, seconds: float, **where: Unpack[Where]) -> Self:
        """Hold everything back once, for `seconds`, then go on."""
        return cls(kind="delay", seconds=seconds, **where)

    @classmethod
    def duplicate(cls, *, events: int, **where: Unpack[Where]) -> Self:
        """Send the last `events` events once more, then go on; waits until that many have been passed on."""
        return cls(kind="duplicate", events=events, **where)

    @classmethod
    def drop(cls, *, events: int, **where: Unpack[Where]) -> Self:
        """Swallow the next `events` events, then go on."""
        return cls(kind="drop", events=events, **where)

    @classmethod
    def corrupt(cls, *, garbage: bytes | None = None, **where: Unpack[Where]) -> Self:
        """Insert `garbage` at the position; without it, flip all bits of the next byte."""
        return cls(kind="corrupt", garbage=garbage, **where)

    def to_json(self) -> str:
        """Return the fault as a JSON object; `garbage` becomes hexadecimal text."""
        return json.dumps(_to_object(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the fault that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON or does not describe a valid fault.
        """
        return cls(**_from_object(json.loads(text)))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in _given(self).items() if name != "kind")
        return f"Fault.{self.kind}({arguments})"


@dataclass(frozen=True, init=False, repr=False)
class FaultPlan:
    """What happens to the streamed responses that pass a proxy: the first suffers the first fault, and so on.

    Args:
        faults: one per streamed response; None lets that response pass clean. After the last fault all pass clean.
    """

    faults: tuple[Fault | None, ...]

    def __init__(self, *faults: Fault | None) -> None:
        for fault in faults:
            if fault is not None and not isinstance(fault, Fault):
                raise ValueError(f"a plan is made of faults and None, not {fault!r}")
        object.__setattr__(self, "faults", faults)

    @classmethod
    def random(
        cls, seed: int, *, cuts: int = 5, within: int = 2048, kinds: Sequence[CutKind] = get_args(CutKind)
    ) -> Self:
        """Return a plan of cuts at random bytes, always the same for the same arguments.

        Args:
            seed: chooses the plan.
            cuts: number of faults.
            within: greatest position of a cut, in body bytes.
            kinds: ways of cutting to choose from.
        """
        chance = random.Random(seed)
        return cls(*(Fault(kind=chance.choice(kinds), at_byte=chance.randint(0, within)) for _ in range(cuts)))

    def to_json(self) -> str:
        """Return the plan as a JSON array of faults, null standing for a clean response."""
        return json.dumps([None if fault is None else _to_object(fault) for fault in self.faults])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON or does not describe a valid plan.
        """
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError(f"a plan is a JSON array, not {values!r}")
        return cls(*(None if value is None else Fault(**_from_object(value)) for value in values))

    def __repr__(self) -> str:
        return f"FaultPlan({', '.join(map(repr, self.faults))})"


def _given(fault: Fault) -> dict[str, Any]:
    values = {field.name: getattr(fault, field.name) for field in fields(fault)}
    return {name: value for name, value in values.items() if value is not None}


def _to_object(fault: Fault) -> dict[str, Any]:
    given = _given(fault)
    if fault.garbage is not None:
        given["garbage"] = fault.garbage.hex()
    return given


def _from_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a fault is a JSON object, not {value!r}")
    if unknown := value.keys() - {field.name for field in fields(Fault)}:
        raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
    if "kind" not in value:
        raise ValueError("a fault needs a kind")
    if isinstance(garbage := value.get("garbage"), str):
        return {**value, "garbage": bytes.fromhex(garbage)}
    return value


def _check_whole(name: str, value: object, *, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}: {value!r}")


def _check_seconds(name: str, value: object, *, zero: bool) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):  # type: ignore[operator]
        raise ValueError(f"{name} must be a {'non-negative' if zero else 'positive'} number of seconds: {value!r}")
