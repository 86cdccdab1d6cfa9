"""What a provider's wire protocol must tell the conversation: the protocol to implement for another provider.

A dialect is pure and stateless: it reads requests, response heads and events, and writes requests. All state is in
the `Progress` it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from resumable_llm.core.events import Fields
from resumable_llm.core.framing import Framing
from resumable_llm.core.model import Headers, Progress, Reading, RequestPlan
from resumable_llm.core.speech import Speech
from resumable_llm.core.transcript import Transcript


@dataclass(frozen=True)
class StillRunning:
    """Polled too early: ask again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Finished:
    """The finished answer was read: these events are what is missing of it, the terminal event last."""

    blocks: Sequence[bytes]


@dataclass(frozen=True)
class Unusable:
    """The answer to a poll cannot serve, and why."""

    reason: str


PollResult = StillRunning | Finished | Unusable


@dataclass(frozen=True)
class Facts:
    """What people should know of a protocol, in phrases; the dialect table is made of these.

    Attributes:
        systems: Who speaks it.
        resume: How the rest of a stream is asked for, or why it cannot be.
        end: What proves that an answer is complete.
        closing: What the server does when the connection is closed.
        cancel: What `cancel` sends; empty if closing the connection is all that can be done.
        upgrade: What ``upgrade=True`` adds to a request, and what that costs; empty if there is nothing to add.
        kept: What is kept of an answer and for how long; empty where `Dialect.keeps` says it.
        sources: Where each of these was read, with the date.
    """

    systems: str
    resume: str
    end: str
    closing: str
    cancel: str = ""
    upgrade: str = ""
    kept: str = ""
    sources: tuple[str, ...] = ()


class Ordinary(Protocol):
    """What a `re.Pattern` of bytes can do, and all that `Dialect.ordinary` has to."""

    def fullmatch(self, data: bytes, start: int = 0, /) -> object | None:
        """Not None if all bytes behind the start match."""
        ...


class Dialect(Protocol):
    """One provider's wire protocol.

    Subclass `resumable_llm.dialects.EventStream`, which answers every question the way any SSE server would, and
    override what differs.
    """

    @property
    def name(self) -> str:
        """As in ``Checkpoint.dialect``."""
        ...

    @property
    def facts(self) -> Facts:
        """What people should know of it."""
        ...

    @property
    def framing(self) -> Framing:
        """How the body is cut into events."""
        ...

    @property
    def speech(self) -> Speech | None:
        """What its events say, for those who must compare or join generations; None if nobody knows."""
        ...

    @property
    def proves_end(self) -> bool:
        """Whether a terminal event ends every complete answer, so that an end without one is a drop."""
        ...

    @property
    def ordinary(self) -> Ordinary | None:
        """Matches, as a whole, runs of events that `read` would have nothing to say about; None: every one is read.

        Such runs pass without being read. They end in the framing's boundary and have no field but event and data.
        """
        ...

    @property
    def honours_ids(self) -> bool:
        """Whether a request with ``Last-Event-ID`` may be tried if the server sent ids and `resume` has nothing."""
        ...

    @property
    def repeats_last(self) -> bool:
        """Whether `resume` asks for the last event again; the server has forgotten the answer if it does not come.

        For servers that take any id for a cursor, give one id to several events, or tell some twice behind a replay.
        ``Position.cursor`` is then the last id but one, of those that differ, and empty if there was only one.
        """
        ...

    @property
    def is_log(self) -> bool:
        """Whether the stream is a log that is read from an offset, which the cursors are.

        Then what was delivered since the last offset, or since the one that was asked for, comes again at a resume.
        Offsets compare as texts: one that is smaller than the one before it shows that the server lost events.
        """
        ...

    @property
    def withheld(self) -> frozenset[str]:
        """Response headers, in lower case, that are kept from an SDK, for it would resume by itself and lose events."""
        ...

    @property
    def confirms_by_poll(self) -> bool:
        """Whether `poll` reads no answer but only whether the work is done, to be asked after an end without proof."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether `resume` asks for the last ``progress.overlap`` bytes again, to see that they are the same."""
        ...

    @property
    def sequence_key(self) -> bytes | None:
        """The key, in its quotes, that stands before the sequence number in ordinary events; None if there is none."""
        ...

    @property
    def keeps(self) -> str:
        """What the server keeps of an answer and for how long, in a sentence, for people who read an error."""
        ...

    @property
    def detached(self) -> bool:
        """Whether the server goes on when its connection closes, because of the name that `prepare` gave the call."""
        ...

    def recognises(self, request: RequestPlan) -> bool:
        """Whether this request asks for an answer in this protocol, as a stream."""
        ...

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """The request with harmless additions that help its answer to be resumed. ``key`` is new for each call."""
        ...

    def upgrade(self, request: RequestPlan) -> RequestPlan:
        """The request made resumable, at the cost that `facts` names; as it is if there is nothing to add.

        Raises:
            UpgradeRefused: It would contradict what the request asks for.
        """
        ...

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """The dialect to go on with, now that the server has shown itself in its response headers; mostly this one."""
        ...

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The provider's id of the generation, if request or response headers tell it."""
        ...

    def read(self, event: Fields) -> Reading:
        """What one event says. Called for each event that has data or a name."""
        ...

    def counts(self, block: bytes) -> bool:
        """Whether a block without an event is the server's own, which its offsets count; a proxy's ping is not."""
        ...

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether what was said proves the answer complete although no terminal event came."""
        ...

    def resume(self, progress: Progress) -> RequestPlan | None:
        """The dialect's own way to the rest of the stream; None if there is none from here."""
        ...

    def may_repeat(self, progress: Progress) -> bool:
        """Whether the request may be sent again when nothing at all was delivered of its answer."""
        ...

    def gone(self, status: int, body: bytes) -> bool:
        """Whether this refusal of a resume says that the server does not keep the stream any more."""
        ...

    def poll(self, progress: Progress) -> RequestPlan | None:
        """The request that reads the finished answer; None if there is none."""
        ...

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        """What the answer to a poll, or a JSON answer to a resume, says."""
        ...

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """The request that stops the generation; None where closing the connection is the way."""
        ...

    def text(self, event: Fields) -> str:
        """What a person would read of this event."""
        ...
