"""Every error that resumable-llm raises on its own account.

    ResumableError
    ├── StreamInterrupted        the answer broke off; carries what was received
    │   ├── RetriesExhausted     every attempt failed, or the deadline passed
    │   ├── CannotResume         nobody kept the rest, or nobody will hand it out
    │   ├── ResumeExpired        the server kept the rest, but no longer
    │   ├── GapDetected          events are missing and cannot be had
    │   ├── ReplayDiverged       the server told another answer than before
    │   ├── ContinuationRefused  the model cannot be asked to go on from here
    │   └── UpstreamFailed       the server reported, inside the stream, that the answer failed
    ├── UpgradeRefused           upgrade=True contradicts the request; nothing was sent
    ├── JournalRefused           the journal has something else under this idempotency key; nothing was sent
    └── ProtocolError            the server broke the wire format
        ├── MalformedEvent       an event that its dialect cannot read
        └── EventTooLarge        an event beyond the agreed bound

Nothing here knows an HTTP library. A transport raises the same errors as members of its family's ``TransportError``
as well, so that SDKs treat them as the connection errors they are; see `as_family`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from resumable_llm.core.model import Checkpoint, Report

ErrorT = TypeVar("ErrorT", bound="ResumableError")


class ResumableError(Exception):
    """Base of all errors of this library.

    Args:
        message: What went wrong and what to do about it. Never holds a secret or a prompt.
        partial_text: The text of the answer received so far.
        partial: The message received so far, as plain data in the shape of the SDK's own: a chat completion, a message,
            a response; a tool call that may not be whole stands apart, under ``incomplete_tool_calls``. The list of the
            events where the protocol has no message; None if nothing was received.
        checkpoint: Where the answer broke off; give it to `resume_sse` to try again later.
        report: What was tried.
    """

    def __init__(
        self,
        message: str,
        *,
        partial_text: str = "",
        partial: Any = None,
        checkpoint: Checkpoint | None = None,
        report: Report | None = None,
    ) -> None:
        # The message alone goes up: in a transport the next class in line is the HTTP family's, with its own signature.
        super().__init__(message)
        self.partial_text = partial_text
        self.partial = partial
        self.checkpoint = checkpoint
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        own = next(base for base in type(self).__mro__ if base.__module__ == __name__)
        return own, (str(self),), {name: getattr(self, name) for name in _CARRIED}


_CARRIED = ("partial_text", "partial", "checkpoint", "report")


class StreamInterrupted(ResumableError):
    """The answer broke off and could not be completed."""


class RetriesExhausted(StreamInterrupted):
    """Every attempt that the policy allows has failed, or its deadline has passed."""


class CannotResume(StreamInterrupted):
    """The server keeps nothing that the answer could be resumed from, or refuses to hand it out."""


class ResumeExpired(StreamInterrupted):
    """The server had kept the rest of the answer, but keeps it no longer."""


class GapDetected(StreamInterrupted):
    """The stream goes on behind events that were never received."""


class ReplayDiverged(StreamInterrupted):
    """A repeated stream tells another answer than the one already delivered."""


class ContinuationRefused(StreamInterrupted):
    """The model cannot be asked to go on from a partial answer of this kind."""


class UpstreamFailed(StreamInterrupted):
    """The server said, in the stream itself, that the answer failed."""


class UpgradeRefused(ResumableError):
    """``upgrade=True`` would contradict what the request asks for. Nothing was sent."""


class JournalRefused(ResumableError):
    """The journal has another request under the call's idempotency key, or cannot serve it. Nothing was sent."""


class ProtocolError(ResumableError):
    """The server broke the rules of the wire format."""


class MalformedEvent(ProtocolError):
    """An event that cannot be read as its dialect demands."""


class EventTooLarge(ProtocolError):
    """An event larger than the bound on bytes per event."""


def as_family(error: ErrorT, family_error: type[Exception]) -> ErrorT:
    """Return the error as a member of an HTTP family's error class too.

    Args:
        error: One of ours.
        family_error: The family's class, such as ``httpx.RemoteProtocolError``; constructed with a message only.

    Returns:
        An error caught by ``except`` clauses for either, with the same cause.
    """
    ours = type(error)
    # One class per pair: ours stands first, for its constructor must be the one that runs.
    both: Any = _CLASSES.get((ours, family_error))
    if both is None:
        both = type(
            ours.__name__, (ours, family_error), {"__doc__": ours.__doc__, "__module__": family_error.__module__}
        )
        _CLASSES[ours, family_error] = both
    made = both(
        str(error),
        partial_text=error.partial_text,
        partial=error.partial,
        checkpoint=error.checkpoint,
        report=error.report,
    )
    made.__cause__ = error.__cause__
    return cast(ErrorT, made)


_CLASSES: dict[tuple[type[Exception], type[Exception]], Any] = {}
