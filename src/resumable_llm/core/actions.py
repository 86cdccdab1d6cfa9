"""What the conversation asks of whoever drives it, one action at a time.

Plain values; performing them is the drivers' work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from resumable_llm.core.errors import ResumableError
from resumable_llm.core.model import Notice, Position, RequestPlan


@dataclass(frozen=True)
class Send:
    """Let go of the connection at hand, send this request, and report the head of its response or the failure.

    Attributes:
        plan: The request.
        read_timeout: Longest silence to accept while its response is read, in seconds; None: the client's own.
    """

    plan: RequestPlan
    read_timeout: float | None = None


@dataclass(frozen=True)
class Read:
    """Read on from the connection at hand and report the bytes, the end, or the failure."""


class Deliver(NamedTuple):
    """Hand this to the caller, who then has everything up to the position."""

    data: bytes
    """Whole events."""
    events: int
    position: Position


@dataclass(frozen=True)
class Notify:
    """Tell the caller's ``on_event``, if there is one."""

    notice: Notice


@dataclass(frozen=True)
class Wait:
    """Let go of the connection at hand and let this many seconds pass."""

    seconds: float


@dataclass(frozen=True)
class Surface:
    """Before the answer began: hand the response itself to the caller, as if nobody had looked at it."""


@dataclass(frozen=True)
class Finish:
    """The answer is complete."""


@dataclass(frozen=True)
class Fail:
    """Raise this. Its ``__cause__`` is set already."""

    error: ResumableError


Action = Send | Read | Deliver | Notify | Wait | Surface | Finish | Fail
