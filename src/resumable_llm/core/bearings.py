"""How far an answer has come: the parts that know it, and what they tell its caller, its keeper and its dialect.

Only looks. What an input means is decided in `machine`, and what follows upon it in `course`.
"""

from __future__ import annotations

from dataclasses import replace

from resumable_llm.core.account import Account
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.fallback import Fallbacks
from resumable_llm.core.intake import Intake
from resumable_llm.core.model import (
    Checkpoint,
    Limits,
    Past,
    Position,
    Progress,
    RequestPlan,
    Standing,
    from_header,
    resolve,
    without_credentials,
)
from resumable_llm.core.outbox import Outbox
from resumable_llm.core.transcript import Transcript

_BEGINNING = Checkpoint("", "", "")

_new = tuple.__new__  # a named tuple's own constructor costs twice as much


class Bearings:
    """One answer, as far as it is known.

    Args:
        request: The request that starts it.
        dialect: Its wire protocol.
        limits: Its bounds.
        fallbacks: What has come of other generations.
        key: The idempotency key that the request carries.
        checkpoint: Where an earlier process left off.
        past: What was delivered up to there, where it is at hand.
    """

    __slots__ = ("account", "fallbacks", "intake", "key", "location", "outbox", "request", "transcript")

    def __init__(
        self,
        request: RequestPlan,
        dialect: Dialect,
        limits: Limits,
        fallbacks: Fallbacks,
        *,
        key: str | None,
        checkpoint: Checkpoint | None,
        past: Past | None,
    ) -> None:
        start = checkpoint or _BEGINNING
        if past is not None:
            start = replace(start, events=0, checksum=0, first_id="")
        cursor = start.last_event_id or from_header(request.header("last-event-id") or "")
        self.request = request
        self.key = key
        self.location = start.location
        """Where the server said the answer can be had."""
        self.fallbacks = fallbacks
        self.transcript = Transcript(limits.max_transcript_bytes, self._catch_up, dialect.framing)
        """What was delivered."""
        self.transcript.whole = start.events == 0
        self.intake = Intake(dialect, start, cursor, self.transcript, limits.max_event_bytes)
        """What comes in."""
        self.outbox = Outbox(self.transcript, self.intake.head)
        """What goes out."""
        self.account = Account(self.transcript, start.events)
        """What it takes."""
        if past is not None:
            self.transcript.keep(past.data, past.events)
            self.account.journaled = past.events
            self.intake.upstream_error = past.error

    @property
    def begun(self) -> bool:
        """Something of the answer has reached the caller."""
        return self.account.events > 0

    @property
    def is_complete(self) -> bool:
        """What was said proves the answer complete, although no terminal event came."""
        return self.intake.dialect.ended(self.request, self.transcript)

    @property
    def progress(self) -> Progress:
        """For the dialect's questions."""
        intake = self.intake
        position, _ = self.outbox.where(intake.head)
        overlap = len(intake.overlap)
        return Progress(
            self.request,
            position,
            intake.handle,
            self.location,
            self.begun,
            overlap=overlap,
            ids_tell=intake.ids_tell,
        )

    def checkpoint(self, *, ended: bool) -> Checkpoint:
        """Where the caller stands; never beyond what the caller has. ``ended`` if nothing more will come."""
        intake, request = self.intake, self.request
        position, in_hand = self.outbox.where(intake.head)
        if intake.is_placed:
            self._catch_up()
        anew = self.fallbacks.chosen is not None
        if anew:  # what the server knows by these names is another generation
            position = Position(offset=position.offset)
        return Checkpoint(
            dialect=intake.dialect.name,
            method=request.method,
            url=without_credentials(request.url),
            last_event_id=position.last_event_id,
            sequence=position.sequence,
            offset=position.offset,
            cursor=position.cursor,
            behind=position.behind,
            behind_checksum=intake.ledger.behind_checksum(position.behind),
            events=self.account.events - in_hand,
            checksum=intake.ledger.checksum,
            first_id=intake.ledger.first_id,
            handle=None if anew else intake.handle,
            location=self.location and resolve(request.url, self.location) and without_credentials(self.location),
            idempotency_key=self.key,
            complete=ended and not self.outbox.is_holding,
        )

    def standing(self, *, ended: bool, summed: bool) -> Standing:
        """How far the answer has come, behind all that was given out; see `Conversation.standing`."""
        intake = self.intake
        position, handle, seams = self.outbox.reached(intake.head), intake.handle, self.fallbacks.seams
        if seams:  # what the server knows by these names is another generation
            position, handle = Position(offset=position.offset), None
        events = self.account.events + self.outbox.events_in_hand
        complete = ended and not self.outbox.has_more
        checksum, first_id, behind_checksum = 0, "", 0
        if summed and intake.is_placed:
            self._catch_up()
            ledger = intake.ledger
            checksum, first_id = ledger.checksum, ledger.first_id
            behind_checksum = ledger.behind_checksum(position.behind)
        told = (position, events, handle, self.location, complete, seams, checksum, first_id, behind_checksum)
        return _new(Standing, told)

    def _catch_up(self) -> None:
        self.intake.ledger.catch_up(self.transcript)
