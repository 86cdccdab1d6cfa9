"""Going on with an answer whose relay was stopped or killed, where the provider has the rest of it.

A log holds neither credentials nor the request, so no relay can go on by itself. Whoever asks for the answer brings
credentials along, and they are those that it was begun with, for otherwise the log would not have been found.
"""

from __future__ import annotations

from dataclasses import dataclass

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.model import Checkpoint, RequestPlan, origin
from resumable_llm.core.notes import read_note
from resumable_llm.dialects import named
from resumable_llm.log.model import Log
from resumable_llm.log.scope import credentials_in
from resumable_llm.relay.messages import Inbound

# What a reader says of its own request, which is not the one that is sent.
_OF_THE_READER = ("accept", "accept-encoding", "cache-control", "content-type", "last-event-id", "range")


@dataclass(frozen=True)
class Revival:
    """What a generation needs that goes on with another's work.

    Attributes:
        plan: The request that began the answer, with the reader's credentials; without its body, if that is not known.
        dialect: Of the answer.
        checkpoint: Where the log ends.
    """

    plan: RequestPlan
    dialect: Dialect
    checkpoint: Checkpoint


def revival_of(log: Log, inbound: Inbound, again: RequestPlan | None, upstream: str) -> Revival | None:
    """How to go on with an interrupted answer; None if its writer has left no note of a way.

    Args:
        log: The log.
        inbound: The request of a reader.
        again: The request for the upstream, where the reader makes the same one again.
        upstream: Where the relay's requests go.
    """
    try:
        checkpoint = read_note(log.upstream).checkpoint
        dialect = named(checkpoint.dialect)
    except ValueError:
        return None
    if origin(checkpoint.url) != origin(upstream):
        return None  # it was begun in front of another provider
    if again is None:
        fields = credentials_in(inbound.query).decode("ascii")
        url = f"{checkpoint.url}{'&' if '?' in checkpoint.url else '?'}{fields}" if fields else checkpoint.url
        again = RequestPlan(checkpoint.method, url, inbound.upward(), b"" if checkpoint.method == "GET" else None)
        again = again.with_headers(without=_OF_THE_READER)
    plan = again.with_headers(("Accept", dialect.framing.media_types[0]), ("Idempotency-Key", log.head.key))
    return Revival(dialect.prepare(plan, log.head.key), dialect, checkpoint)
