"""Two generations of one answer, joined as at a drop: what was delivered, and what another connection brings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import Fields
from resumable_llm.core.fallback import Fallbacks, Way
from resumable_llm.core.framing import Framing
from resumable_llm.core.model import Fallback, RequestPlan
from resumable_llm.core.transcript import Transcript

MAX_HELD = 1_000_000


@dataclass(frozen=True)
class Joined:
    """What came of it.

    Attributes:
        head: The events that were delivered before the drop.
        tail: Those that were delivered after it.
        objection: Why the new generation does not fit; empty if it does.
        way: The request, and what joined the generations.
    """

    head: Sequence[Fields]
    tail: Sequence[Fields]
    objection: str
    way: Way

    @property
    def events(self) -> list[Fields]:
        """What the caller has had."""
        return [*self.head, *self.tail]


def transcript_of(framing: Framing, events: Iterable[Fields]) -> Transcript:
    """A transcript of these events."""
    transcript = Transcript(MAX_HELD, lambda: None, framing)
    for event in events:
        transcript.keep(framing.encode(event.event, event.data or ""), 1)
    return transcript


def fields_of(framing: Framing, blocks: Iterable[bytes]) -> list[Fields]:
    """The events that were written."""
    splitter = framing.splitter(MAX_HELD)
    return [framing.parse(block) for each in blocks for block in splitter.feed(each)]


def fallbacks(way: Fallback, *, can_continue: bool | None = None, max_held: int = MAX_HELD) -> Fallbacks:
    """One way, and nothing else."""
    return Fallbacks([way], can_continue, max_held)


def join(
    allowed: Fallbacks, dialect: Dialect, request: RequestPlan, head: Sequence[Fields], tail: Iterable[Fields]
) -> Joined | str:
    """Deliver ``head``, drop, and take what fits of ``tail``; or why it cannot even be asked for."""
    found = allowed.way(dialect, request, transcript_of(dialect.framing, head))
    if found is None:
        assert allowed.refusal is not None
        return allowed.refusal[1]
    allowed.take()
    written: list[bytes] = []
    for event in tail:
        written += found.splice.take(event, terminal=dialect.read(event).terminal)
        if found.splice.objection or found.splice.finished:
            break
    return Joined(head, fields_of(dialect.framing, written), found.splice.objection, found)
