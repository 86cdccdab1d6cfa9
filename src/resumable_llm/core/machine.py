"""The state machine: what to do with each byte of an answer, and what to ask for when the answer breaks off.

Theory of operation
===================

One `Conversation` is one answer, over any number of connections. Whoever drives it reports what happens (`receive_*`,
each with the time ``now`` in seconds of a clock that never goes back) and performs what it asks (`next_action`); it
decides, they act.

    READY ──▶ ASKING ──▶ STREAMING ──▶ ENDED
                ▲  │         │
                │  ▼         ▼
                │ COLLECTING │           a body that is no stream: a poll's answer, a refusal's reason
                │  │         │
                └─ WAITING ◀─┴──▶ FAILED

Why a request is made is its *purpose*: FIRST; REPEAT of the first, before anything was delivered; RESUME behind the
last event; CONFIRM, a resume that asks whether there is more after an end that nothing proves; STATUS, whether the
work behind the answer is done; POLL for the finished answer; REPLAY and CONTINUE, which begin another generation to
be joined to this one, and only if the caller asked for it; TRIAL, whether a model goes on from a partial answer at all.

Bytes become blocks (events with their blank line), and each block is judged: seen before, a gap, another answer, or
new. New events wait in a queue. An event counts as delivered, and moves the position, when `next_action` gives it
out; only if several are given out as one slice do they count when the next action is asked for. Half an event stays
in the splitter and is forgotten at a drop.

A connection ends well if the dialect's terminal event was seen, or if what was said proves the answer complete.
Otherwise it is a drop if the dialect knows terminal events; if it knows none but ids were seen, the server is asked
once more; if there are neither, the end is taken and the report says that nothing proved it. Where the state of the
work can be asked for, it has the last word on such ends. A failure that the server reports in the stream, and that may
pass, is a drop as long as another attempt costs nothing; if none is left, the caller gets what the server said.

After a drop comes a way back, in the order of the design: the dialect's own resume, then Last-Event-ID, then the same
request if nothing was delivered, then a poll, then what the caller allows: a repeat that is verified, a continuation.
From then on the answer is nobody's but ours, and only these ways lead on. No way: `CannotResume`. The backoff is the
policy's.

Most bytes need none of this. `receive_plain` recognises, in a few instructions, chunks that hold only whole events
about which the dialect has nothing to say; they pass as they are. Everything that affects the state lives in this
file, and every change of state is in `TRANSITIONS`. What is only read lives elsewhere: a response that is no stream in
`judgement`, the ways back in `recovery`, the clock in `times`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from resumable_llm.core import errors
from resumable_llm.core.account import Account
from resumable_llm.core.actions import Action, Deliver, Fail, Finish, Read, Send, Surface, Wait
from resumable_llm.core.dialect import Dialect, Finished, StillRunning
from resumable_llm.core.fallback import BEGINS_ANEW, Fallbacks, Habits, Way
from resumable_llm.core.intake import Intake
from resumable_llm.core.judgement import REDIRECTS, TRANSIENT, Gone, Response, Unknown, judge, redirected
from resumable_llm.core.model import (
    Backoff,
    Checkpoint,
    Failure,
    Fallback,
    Headers,
    Limits,
    Notice,
    Past,
    Position,
    Progress,
    Report,
    RequestPlan,
    Standing,
    from_header,
    origin,
    resolve,
    without_credentials,
)
from resumable_llm.core.outbox import Outbox
from resumable_llm.core.partial import partial_of
from resumable_llm.core.recovery import NEVER_ACROSS, Purpose, by_last_event_id, retry_after, way_back
from resumable_llm.core.replay import Verdict
from resumable_llm.core.times import Times
from resumable_llm.core.transcript import Transcript


class State(Enum):
    """Where the conversation stands."""

    READY = "ready"
    ASKING = "asking"
    STREAMING = "streaming"
    COLLECTING = "collecting"
    WAITING = "waiting"
    ENDED = "ended"
    FAILED = "failed"


class Input(Enum):
    """What can happen to it."""

    START = "start"
    RESPONSE = "response"
    DATA = "data"
    EOF = "eof"
    FAILURE = "failure"
    WAKEUP = "wakeup"


_A, _S, _C, _W, _E, _F = State.ASKING, State.STREAMING, State.COLLECTING, State.WAITING, State.ENDED, State.FAILED
_OVER = {_W, _A, _E, _F}

TRANSITIONS: dict[State, dict[Input, set[State]]] = {
    State.READY: {Input.START: {_A, _E, _F}},
    State.ASKING: {Input.RESPONSE: {_S, _C} | _OVER, Input.FAILURE: _OVER},
    State.STREAMING: {Input.DATA: _OVER, Input.EOF: _OVER, Input.FAILURE: _OVER},
    State.COLLECTING: {Input.DATA: {_S} | _OVER, Input.EOF: {_S} | _OVER, Input.FAILURE: _OVER},
    State.WAITING: {Input.WAKEUP: {_A, _E, _F}},
    State.ENDED: {},
    State.FAILED: {},
}
"""Every legal input of every state, and the states it may move to; data may also leave the state as it is. Anything
else is a bug of the driver, or of this file.
"""

_POLLS = (Purpose.POLL, Purpose.STATUS)
_SPLICES = (Purpose.REPLAY, Purpose.CONTINUE)
_APART = (*_POLLS, Purpose.TRIAL)  # whose answers are no streams
_KEEPS_METHOD = (307, 308)
_LACKING = (errors.CannotResume, errors.ResumeExpired, errors.RetriesExhausted)
_BEGINNING = Checkpoint("", "", "")
_NO_RESPONSE = Response(0, {})
_NOTHING_LEFT = "the server has nothing of this answer any more"

MAX_POLL_SECONDS = 3600.0
"""How long to believe a server that an answer is in progress while nothing comes of it; a deadline may be shorter."""

MAX_CONFIRM_WAIT = 30.0
"""The longest wait, in seconds, before asking whether there is more, if the server's ``retry:`` asks for one."""


class Conversation:
    """One answer, over any number of connections.

    Args:
        request: The request that starts the answer, as prepared by the dialect.
        dialect: Its wire protocol.
        backoff: Decides how long to wait before an attempt; see `Backoff`.
        limits: Bounds and times.
        key: The idempotency key that the request carries, for the checkpoint.
        checkpoint: Where an earlier process left off; the first request is then a resume.
        past: What was delivered up to there, where it is at hand: it is then as if this conversation had done it.
        one_by_one: Give out events one at a time, so that the position is exact at each of them.
        fallback: The ways back that begin another generation, in the order in which they may be tried.
        can_continue: Whether the model goes on from a partial answer; None: go by the table of models.
        habits: What is known of models that were tried.
    """

    def __init__(
        self,
        request: RequestPlan,
        dialect: Dialect,
        backoff: Backoff,
        limits: Limits,
        *,
        key: str | None = None,
        checkpoint: Checkpoint | None = None,
        past: Past | None = None,
        one_by_one: bool = False,
        fallback: Sequence[Fallback] = (),
        can_continue: bool | None = None,
        habits: Habits | None = None,
    ) -> None:
        self.state = State.READY
        self.transcript = Transcript(limits.max_transcript_bytes, self._catch_up, dialect.framing)
        self._request = request
        self._backoff = backoff
        self._limits = limits
        self._key = key
        self._checkpoint = checkpoint
        start = checkpoint or _BEGINNING
        if past is not None:
            start = replace(start, events=0, checksum=0, first_id="")
        self.transcript.whole = start.events == 0

        # What comes in, what goes out, and what it takes.
        cursor = start.last_event_id or from_header(request.header("last-event-id") or "")
        self._intake = Intake(dialect, start, cursor, self.transcript, limits.max_event_bytes)
        self._intake.one_by_one = one_by_one
        self.receive_plain = self._intake.pass_plain  # a chunk that passes as it is needs no more than this
        self._outbox = Outbox(self.transcript, self._intake.head)
        self._account = Account(self.transcript, start.events)
        self._answered = past is not None
        if past is not None:
            self.transcript.keep(past.data, past.events)
            self._account.journaled = past.events
            self._intake.upstream_error = past.error
        self._times = Times(limits)
        self._location = start.location

        seams = past.seams if past is not None else ()
        self._fallbacks = Fallbacks(fallback, can_continue, limits.max_transcript_bytes, habits, seams)
        self._way: Way | None = None  # another generation, asked for or under way
        self._seam_told = False

        # The request at hand.
        self._purpose = Purpose.FIRST
        self._plan = request
        self._response = _NO_RESPONSE
        self._redirects = 0

        # What to do next, and what is known.
        self._standing: Action | None = None
        self._failing: tuple[type[errors.ResumableError], str, BaseException | None] | None = None
        self._stream_gone = False
        self._is_noted = False
        self._end_is_confirmed = False  # by the server's having nothing more, before the state of the work was asked
        self._then: Callable[[], None] | None = None  # to be done when all that is new has been given out
        self._broken = False  # since the last event: the answer did not end but broke off
        self._torn = False  # and in the middle of an event

    # What a driver calls

    def start(self, now: float) -> None:
        """Begin. The first action will be to send the request."""
        self._times.start(now)
        if self._checkpoint is None:
            self._send(Input.START, Purpose.FIRST, self._request, now)
        elif self._checkpoint.complete:
            self._end(Input.START, proved=True)
        else:
            self._ask_again(Input.START, now)

    def receive_response(self, status: int, headers: Headers, now: float) -> None:
        """The head of a response has come; header names in lower case."""
        self._expect(Input.RESPONSE)
        self._response = Response(status, headers)
        starting = self._purpose in (Purpose.FIRST, Purpose.REPEAT)
        begun = status in (200, 201)
        splicing = self._purpose in _SPLICES or (self._purpose is Purpose.TRIAL and status != 200)
        dialect = self.dialect.answered_by(self._request, headers) if starting and begun else self.dialect
        streams = dialect.framing.announced_by(headers.get("content-type", ""))
        if begun and streams and self._purpose not in _APART:
            self._intake.take_dialect(dialect)
            self.transcript.framing = dialect.framing
            self._begin_stream(starting, now)
        elif splicing and status not in TRANSIENT and status not in _KEEPS_METHOD:
            self._misfit(Input.RESPONSE, f"the server answered {status} when asked to {self._purpose.value}", now)
        elif starting and not self._answered and (status not in TRANSIENT or self._request.body is None):
            self._surface()
        elif status == 204 and not starting and self._purpose not in _POLLS:
            self._nothing_more(now)
        elif status in REDIRECTS:
            self._follow(now)
        elif status in TRANSIENT:
            self._drop(Input.RESPONSE, Failure(f"the server answered {status}", floor=retry_after(headers)), now)
        else:
            self._move(Input.RESPONSE, State.COLLECTING)
            self._standing = Read()

    def receive_data(self, chunk: bytes, now: float) -> None:
        """Bytes of the body have come."""
        if self.state is not State.STREAMING:
            self._expect(Input.DATA)
        outbox = self._outbox
        passed = bool(self.transcript.fresh)
        outbox.settle()
        if self.state is State.COLLECTING:
            self._collect(chunk, now)
            return
        intake = self._intake
        if not intake.one_by_one:  # chunks that passed plainly have moved the head, not the position
            outbox.position = intake.head
        try:
            found = intake.feed(chunk, outbox.position)
        except errors.EventTooLarge as error:
            self._fail(Input.DATA, errors.EventTooLarge, str(error))
            return
        if passed:  # when exactly is not known, for a plain chunk asks no clock: some time since the last that did not
            self._times.heard_at = now
        self._take(Input.DATA, found, now)
        if self.state is not State.STREAMING or self._then is not None:
            return
        if self._account.news and not self._times.has_deadline:
            intake.settle()
        if self._times.is_late(now):
            self._fail(Input.DATA, errors.RetriesExhausted, "the deadline has passed")
        elif not intake.saw_data and (limit := self._times.missed(now, begun=self._delivered)) is not None:
            self._drop(Input.DATA, Failure(f"no event for {limit:g} s although the connection was alive"), now)

    def receive_eof(self, now: float) -> None:
        """The body has ended as its framing says it should."""
        self._expect(Input.EOF)
        self._outbox.settle()
        if self.state is State.COLLECTING:
            self._judge_body(Input.EOF, now)
            return
        rest = self._intake.rest()
        if rest:
            self._take(Input.EOF, self._intake.judge([rest], self._outbox.position), now)
            if self.state is State.STREAMING and self._then is None:
                self._then = lambda: self.receive_eof(now)
            return
        if self._is_over or self._has_been_told_all:
            self._end(Input.EOF, proved=True)
        elif self._intake.must_repeat and not self._intake.is_torn:
            self._object(Input.EOF, Verdict.GONE, _NOTHING_LEFT, now)
        elif self.dialect.proves_end:
            self._excuse_rest(now)
            self._drop(Input.EOF, Failure("the connection ended without the event that ends an answer"), now)
        elif self._intake.is_torn:
            self._drop(Input.EOF, Failure("the connection ended inside an event"), now)
        elif self._broken and not self._account.news and not self.dialect.confirms_by_poll:
            self._drop(Input.EOF, Failure("the server had nothing more, although the answer had broken off"), now)
        elif not self._intake.numbered and self.dialect.resume(self.progress) is None:
            self._end_or_ask(Input.EOF, now, proved=False)
        elif not self._account.news and (
            self._purpose is Purpose.CONFIRM or (self._purpose is Purpose.RESUME and self.dialect.confirms_by_poll)
        ):
            self._end_or_ask(Input.EOF, now, proved=True)
        else:
            self._confirm(now)

    def receive_failure(self, failure: Failure, now: float) -> None:
        """The request could not be sent, or the connection broke."""
        self._expect(Input.FAILURE)
        self._outbox.settle()
        if self.state is State.STREAMING and self._is_over:
            self._end(Input.FAILURE, proved=True)
        else:
            self._excuse_rest(now)
            self._drop(Input.FAILURE, failure, now)

    def receive_wakeup(self, now: float) -> None:
        """The time asked for has passed."""
        self._expect(Input.WAKEUP)
        self._send(Input.WAKEUP, self._purpose, self._plan, now)

    def next_action(self) -> Action:
        """What to do now. Events given out here are delivered: they have moved the position."""
        action = self._outbox.take()
        if action is not None:
            return action
        if self._then is not None:
            then, self._then = self._then, None
            then()
            return self.next_action()
        if self._failing is not None:
            return self._make_error(*self._failing)
        assert self._standing is not None, "the conversation has not been started"
        return self._standing

    def last_notices(self) -> list[Notice]:
        """What is still to be told of a complete answer whose reader needs no more than its last event."""
        if self.state is not State.ENDED:
            return []
        self._outbox.settle()
        return self._outbox.last_notices()

    def deliver_one_by_one(self) -> None:
        """From here on give out each event alone, so that the checkpoint is exact at each of them."""
        self._intake.one_by_one = True
        self._intake.plain = False

    def pass_ids(self) -> None:
        """Give out ids that come without an event, too: for whoever reads off the bytes which id an event has."""
        self._intake.passes_ids = True

    # What anybody may look at

    @property
    def dialect(self) -> Dialect:
        """The wire protocol, as far as it is known by now."""
        return self._intake.dialect

    @property
    def last_event_id(self) -> str:
        """SSE id of the last event given out, or of one before it if it has none."""
        return self._outbox.position.last_event_id if self._outbox.waiting else self._intake.last_event_id

    @property
    def upstream_error(self) -> str | None:
        """What the server said, in the stream, about why the answer failed."""
        return self._intake.upstream_error

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the caller stands; never beyond what the caller has."""
        position, in_hand = self._outbox.where(self._intake.head)
        if self._intake.is_placed:
            self._catch_up()
        if self._way is not None:  # what the server knows by these names is another generation
            position = Position(offset=position.offset)
        return Checkpoint(
            dialect=self.dialect.name,
            method=self._request.method,
            url=without_credentials(self._request.url),
            last_event_id=position.last_event_id,
            sequence=position.sequence,
            offset=position.offset,
            cursor=position.cursor,
            behind=position.behind,
            behind_checksum=self._intake.ledger.behind_checksum(position.behind),
            events=self._account.events - in_hand,
            checksum=self._intake.ledger.checksum,
            first_id=self._intake.ledger.first_id,
            handle=None if self._way is not None else self._intake.handle,
            location=self._location
            and resolve(self._request.url, self._location)
            and without_credentials(self._location),
            idempotency_key=self._key,
            complete=self.state is State.ENDED and not self.surfaced and not self._outbox.is_holding,
        )

    def settle(self) -> None:
        """What was given out counts as delivered, for a caller who keeps it at once."""
        self._outbox.settle()

    def standing(self, *, summed: bool) -> Standing:
        """How far the answer has come, behind all that was given out, whether or not the caller surely has it.

        Cheap enough to be asked for at each slice.

        Args:
            summed: With the sums over what was delivered, for those who will not have it at hand as it was. `settle`
                first, or they are short of what was given out last.
        """
        self._is_noted = True
        position, handle, seams = self._outbox.reached(self._intake.head), self._intake.handle, self._fallbacks.seams
        if seams:  # what the server knows by these names is another generation
            position, handle = Position(offset=position.offset), None
        standing = Standing(
            position,
            self._account.events + self._outbox.events_in_hand,
            handle,
            self._location,
            self.state is State.ENDED and not self._outbox.has_more,
            seams,
        )
        if not (summed and self._intake.is_placed):
            return standing
        self._catch_up()
        ledger = self._intake.ledger
        return standing._replace(
            checksum=ledger.checksum,
            first_id=ledger.first_id,
            behind_checksum=ledger.behind_checksum(position.behind),
        )

    @property
    def request(self) -> RequestPlan:
        """The request that has started the answer."""
        return self._request

    @property
    def key(self) -> str | None:
        """The idempotency key that it carries."""
        return self._key

    @property
    def report(self) -> Report:
        """What it took so far."""
        return self._account.report(self.dialect, self._intake.replayed, self._fallbacks)

    @property
    def answered(self) -> bool:
        """A stream has begun, on some connection."""
        return self._answered

    @property
    def is_resumable(self) -> bool:
        """Whether there is a way to the rest of this answer, as things are."""
        return not isinstance(self._own_way_back(), str)

    @property
    def surfaced(self) -> bool:
        """The first response is no answer that anybody here could read: it is the caller's."""
        return isinstance(self._standing, Surface)

    @property
    def is_kept_alive_by_us(self) -> bool:
        """Closing the connection now would not stop the generation, and that only because of what `prepare` added.

        Not so once somebody has looked at the checkpoint, or has asked how far it has come: they may mean to come back.
        """
        going = self.state in (State.STREAMING, State.WAITING) and not (self._is_noted or self._intake.one_by_one)
        return going and self.dialect.detached and self._intake.handle == self._key

    @property
    def progress(self) -> Progress:
        """How far the answer has come, for the dialect's questions."""
        position, _ = self._outbox.where(self._intake.head)
        overlap = len(self._intake.overlap)
        return Progress(
            self._request,
            position,
            self._intake.handle,
            self._location,
            self._delivered,
            overlap=overlap,
            ids_tell=self._intake.ids_tell,
        )

    def cancel_plan(self) -> RequestPlan | None:
        """The request that has the server stop, if there is one and it leads where the answer comes from."""
        if self.state is State.ENDED:
            return None  # it has nothing to stop, and might take it for a wish to forget the answer
        plan = self.dialect.cancel(self.progress)
        return plan if plan is not None and origin(plan.url) == origin(self._request.url) else None

    def partial_text(self) -> str:
        """The text of the answer delivered so far."""
        return "".join(map(self.dialect.text, self.transcript))

    def partial(self) -> Any:
        """The message delivered so far, as `ResumableError.partial` has it."""
        return partial_of(self.dialect, self.transcript)

    # Bytes to events

    def _begin_stream(self, starting: bool, now: float) -> None:
        self._move(Input.RESPONSE, State.STREAMING)
        self._standing = Read()
        self._account.news = False
        self._times.connect(now)
        self._redirects = 0
        self._answered = True
        headers, self._response = self._response.headers, _NO_RESPONSE
        self._location = headers.get("location") or self._location
        if self._purpose in _SPLICES:
            assert self._way is not None
            self._fallbacks.take(self._way)
            self._intake.begin_splice(self._way.splice)
            self._seam_told = False
            return
        if starting:
            self._intake.handle = self.dialect.handle(self._request, headers)
        self._intake.begin(resumed=not starting)

    def _take(self, event: Input, found: list[Deliver], now: float) -> None:
        """Hand over what is new, then see what else the bytes have said."""
        intake = self._intake
        if intake.saw_data:
            self._times.heard_at = now
        if found:
            self._outbox.put(found)
            if self._way is not None and not self._seam_told and self._way.splice.joined:
                self._seam_told = True
                self._notify("seam", f"{self._purpose.value} behind {self._way.characters} characters")
            if not self._account.news and intake.saw_data and any(each.events for each in found):
                self._account.note_news(now)
                self._broken = self._torn = False
        if intake.objection is not None:
            verdict, why = intake.objection
            if verdict in (Verdict.UNCLEAR, Verdict.GONE, Verdict.MISFIT):
                self._then = lambda: self._object(Input.DATA, verdict, why, now)
            else:
                self._object(event, verdict, why, now)
        elif intake.error_came:
            self._then = lambda: self._let_pass(now)
        elif intake.terminal:
            self._end(event, proved=True)

    def _let_pass(self, now: float) -> None:
        """Try again after a failure that the server reported in the stream, if that costs nothing."""
        assert self._intake.error_held is not None
        reading, _ = self._intake.error_held
        way = self._way_back()
        if isinstance(way, str) or way[0] not in (Purpose.REPEAT, Purpose.RESUME, *_SPLICES, Purpose.TRIAL):
            # Nothing can be done about it: the caller gets what the server says, and what it says behind it.
            self._take(Input.DATA, self._intake.release_error(self._outbox.position), now)
        else:
            failure = Failure(f"the server reported in the stream: {reading.error}", floor=reading.retry_after)
            self._drop(Input.DATA, failure, now)

    def _surface_error(self, event: Input) -> None:
        """The failure does not pass: the caller gets what the server said."""
        self._outbox.put(self._intake.release_error(self._outbox.position, alone=True))
        self._end(event, proved=True)

    def _misfit(self, event: Input, why: str, now: float) -> None:
        """Another generation does not fit to this one, or is not to be had."""
        self._intake.objection = None
        self._fallbacks.rule_out(why, diverged=self.state is State.STREAMING)
        self._drop(event, Failure(why), now)

    def _object(self, event: Input, verdict: Verdict, why: str, now: float) -> None:
        if verdict is Verdict.MISFIT:
            self._misfit(event, why, now)
            return
        if verdict in (Verdict.UNCLEAR, Verdict.GONE):
            self._intake.objection = None
            if verdict is Verdict.UNCLEAR or not self._note_gone(event, now):
                self._drop(event, Failure(why), now)
            return
        error = errors.GapDetected if verdict is Verdict.GAP else errors.ReplayDiverged
        if self._purpose is Purpose.CONFIRM and self._plan.method != "GET" and error is errors.ReplayDiverged:
            # The end was clean, and this server's ids turn out to be no cursors: asked again, it generates anew. So
            # there was nothing to ask, and what was received is all that can be known.
            self._end(event, proved=False)
        else:
            self._fail(event, error, why)

    def _catch_up(self) -> None:
        self._intake.ledger.catch_up(self.transcript)

    @property
    def _delivered(self) -> bool:
        return self._account.events > 0

    @property
    def _has_been_told_all(self) -> bool:
        """The answer is complete, and the server, asked for the rest, has ended a stream of nothing."""
        asked = self._purpose is Purpose.RESUME and not self._account.news
        return asked and self.dialect.ended(self._request, self.transcript)

    @property
    def _is_over(self) -> bool:
        """The answer is complete, and whatever else the server may have to say cannot be had."""
        if not self.dialect.ended(self._request, self.transcript):
            return False
        way = self._way_back()
        return isinstance(way, str) or way[0] is not Purpose.RESUME

    # Ways to end, and ways back

    def _end(self, event: Input, *, proved: bool) -> None:
        self._move(event, State.ENDED)
        self._account.end_proved = proved
        self._standing = Finish()
        self._notify("end", "" if proved else "nothing proves that the answer is complete")

    def _fail(
        self, event: Input, error: type[errors.ResumableError], why: str, cause: BaseException | None = None
    ) -> None:
        if error in _LACKING and self.dialect.ended(self._request, self.transcript):
            self._end(event, proved=True)  # what could not be had was not needed
            return
        if error in _LACKING and self._intake.error_held is not None:
            self._surface_error(event)
            return
        self._move(event, State.FAILED)
        self._notify("give_up", why)
        self._failing = (error, why, cause)

    def _make_error(self, kind: type[errors.ResumableError], why: str, cause: BaseException | None) -> Fail:
        # Made when it is asked for: by then all that was queued has been delivered.
        report = self.report
        error = kind(
            f"{why} ({report.summary()})",
            partial_text=self.partial_text(),
            partial=self.partial(),
            checkpoint=self.checkpoint,
            report=report,
        )
        error.__cause__ = cause
        return Fail(error)

    def _drop(self, event: Input, failure: Failure, now: float) -> None:
        patience = self._account.note_end_of_connection(now)
        if self.state is State.STREAMING:
            self._broken, self._torn = True, self._torn or self._intake.is_torn
        self._notify("drop", failure.reason)
        way = self._way_back()
        unheard = self._purpose is Purpose.STATUS and event in (Input.RESPONSE, Input.FAILURE)
        if isinstance(way, str) and unheard:
            way = Purpose.STATUS, self._plan  # the stream had ended cleanly, so the question is all that there is
        if isinstance(way, str) and event is Input.RESPONSE and not self._answered:
            self._surface()  # nothing was started, and the status says so better than we could
            return
        if isinstance(way, str):
            self._account.note_drop(failure, "", 0.0)
            kind: type[errors.ResumableError] = errors.ResumeExpired if self._stream_gone else errors.CannotResume
            if self._fallbacks.refusal is not None:
                kind, way = self._fallbacks.refusal
            why = way if way == failure.reason else f"{failure.reason}; {way}"
            self._fail(event, kind, why, failure.cause)
            return
        floors = [floor for floor in (failure.floor, self._intake.retry_floor) if floor is not None]
        seconds = self._backoff(self._account.failures, patience, max(floors, default=None))
        if seconds is None:
            self._account.note_drop(failure, "", 0.0)
            if event is Input.RESPONSE and not self._answered:
                self._surface()
            elif way[0] is Purpose.STATUS:
                self._end(event, proved=self._end_is_confirmed)
            else:
                why = f"no attempt is left; the last came to this: {failure.reason}"
                self._fail(event, errors.RetriesExhausted, why, failure.cause)
            return
        self._account.note_drop(failure, way[0].value, seconds)
        self._wait_and_send(event, way, seconds, now)

    def _wait_and_send(self, event: Input, way: tuple[Purpose, RequestPlan], seconds: float, now: float) -> None:
        if self._times.is_late(now + seconds):
            self._fail(event, errors.RetriesExhausted, "the deadline leaves no time for another attempt")
        elif seconds > 0:
            self._purpose, self._plan = way
            self._move(event, State.WAITING)
            self._standing = Wait(seconds)
            self._notify("wait", "backoff", seconds)
        else:
            self._send(event, *way, now)

    def _way_back(self) -> tuple[Purpose, RequestPlan] | str:
        joined = self._way is not None or self._fallbacks.seams
        found = "only another generation can follow this one" if joined else self._own_way_back()
        return (self._other_generation() or found) if isinstance(found, str) else found

    def _other_generation(self) -> tuple[Purpose, RequestPlan] | None:
        if self.dialect.ended(self._request, self.transcript):
            return None  # nothing is missing that would be worth one
        way = self._fallbacks.way(self.dialect, self._request, self.transcript)
        self._way = way or self._way
        if way is not None and way.trial is not None:
            return Purpose.TRIAL, way.trial.plan
        return None if way is None else (way.purpose, way.plan)

    def _refuse(self, event: Input, error: type[errors.ResumableError], why: str, now: float) -> None:
        """The server will not hand out the rest: another generation is all that is left, where the caller allows it."""
        if self._purpose in (*_SPLICES, Purpose.TRIAL):
            self._misfit(event, why, now)
            return
        # Where nothing was delivered, another generation would be the request that was just refused, once more.
        way = None if self._purpose is Purpose.REPEAT else self._other_generation()
        if way is None:
            kind, reason = self._fallbacks.refusal or (error, "")
            self._fail(event, kind, f"{why}; {reason}" if reason else why)
        else:
            self._account.note_drop(Failure(why), way[0].value, 0.0)
            self._send(event, *way, now)

    def _own_way_back(self) -> tuple[Purpose, RequestPlan] | str:
        fruitless = self._purpose is Purpose.RESUME and self.state is State.STREAMING and self._account.failures > 0
        polling = self._purpose is Purpose.POLL
        return way_back(self.dialect, self.progress, prefer_poll=fruitless or polling, stream_gone=self._stream_gone)

    def _end_or_ask(self, event: Input, now: float, *, proved: bool) -> None:
        """A clean end that the stream does not prove; where the state of the work can be asked for, that decides."""
        plan = self.dialect.poll(self.progress) if self.dialect.confirms_by_poll else None
        if plan is None:
            self._end(event, proved=proved)
        else:
            self._end_is_confirmed = proved
            self._wait_and_send(event, (Purpose.STATUS, plan), 0.0, now)

    def _note_gone(self, event: Input, now: float) -> bool:
        """The stream can be had no longer. If that was asked after a clean end, the state of the work may decide.

        Returns:
            Whether it does.
        """
        self._stream_gone = True
        decides = self._purpose is Purpose.CONFIRM and self.dialect.confirms_by_poll
        if decides:
            self._end_or_ask(event, now, proved=False)
        return decides

    def _excuse_rest(self, now: float) -> None:
        """That nothing came of a connection is no failure if the server had said that there was nothing."""
        if (
            self.state is State.STREAMING
            and self._intake.resting
            and self._times.may_rest(now, self._intake.retry_floor)
        ):
            self._account.news = True

    def _confirm(self, now: float) -> None:
        plan = self.dialect.resume(self.progress) or by_last_event_id(self.dialect, self.progress)
        if isinstance(plan, str):
            self._end_or_ask(Input.EOF, now, proved=False)
        else:
            self._account.news = False
            self._wait_and_send(
                Input.EOF, (Purpose.CONFIRM, plan), min(self._intake.retry_floor or 0.0, MAX_CONFIRM_WAIT), now
            )

    def _ask_again(self, event: Input, now: float) -> None:
        way = self._way_back()
        if isinstance(way, str):
            kind, why = self._fallbacks.refusal or (errors.CannotResume, way)
            self._fail(event, kind, why)
        else:
            self._send(event, *way, now)

    def _send(self, event: Input, purpose: Purpose, plan: RequestPlan, now: float, redirects: int = 0) -> None:
        if self._times.is_late(now):
            self._fail(event, errors.RetriesExhausted, "the deadline has passed")
            return
        if plan.url != self._request.url and origin(plan.url) != origin(self._request.url):
            self._fail(event, errors.CannotResume, f"the way back leads to another origin, and {NEVER_ACROSS}")
            return
        self._redirects = redirects
        self._intake.plain = False  # what comes next need not be a stream
        self._purpose, self._plan = purpose, plan
        self._account.attempts += 1
        self._move(event, State.ASKING)
        if purpose is not Purpose.FIRST:
            self._notify(purpose.value, "")
        self._standing = Send(plan, self._times.silence(now, begun=self._delivered))

    # Answers that are no streams

    def _surface(self) -> None:
        self._move(Input.RESPONSE, State.ENDED)
        self._standing = Surface()

    def _follow(self, now: float) -> None:
        redirects = self._redirects + 1
        plan = redirected(self._plan, self._response, redirects)
        if isinstance(plan, str):
            self._refuse(Input.RESPONSE, errors.CannotResume, plan, now)
        else:
            self._send(Input.RESPONSE, self._purpose, plan, now, redirects)

    def _nothing_more(self, now: float) -> None:
        if self._intake.error_held is not None:
            self._surface_error(Input.RESPONSE)
        elif self.dialect.repeats_last and self._delivered:
            self._object(Input.RESPONSE, Verdict.GONE, _NOTHING_LEFT, now)
        elif self.dialect.proves_end or self._torn:
            self._stream_gone = True
            failure = Failure("the server has nothing more, but what was received is not whole")
            self._drop(Input.RESPONSE, failure, now)
        else:
            self._end(Input.RESPONSE, proved=True)

    def _collect(self, chunk: bytes, now: float) -> None:
        if self._times.is_late(now):
            self._fail(Input.DATA, errors.RetriesExhausted, "the deadline has passed")
            return
        self._response.body += chunk
        if self._response.is_enough(self._limits.max_transcript_bytes):
            self._judge_body(Input.DATA, now)

    def _judge_body(self, event: Input, now: float) -> None:
        if self._purpose is Purpose.TRIAL:
            assert self._way is not None
            assert self._way.trial is not None
            if self._fallbacks.judge(self._way.trial, bytes(self._response.body)):
                self._send(event, self._way.purpose, self._way.plan, now)
            else:
                self._misfit(event, BEGINS_ANEW, now)
            return
        found = judge(self._response, self._purpose, self.dialect, self.progress, self.transcript)
        if isinstance(found, Finished):
            self._take_finished(event, found, now)
        elif isinstance(found, StillRunning):
            self._let_run(event, found.seconds, now)
        elif isinstance(found, Unknown):
            self._end(event, proved=self._end_is_confirmed)
        elif not isinstance(found, Gone):
            self._refuse(event, found.error, found.why, now)
        elif not self._note_gone(event, now):
            self._ask_again(event, now)

    def _let_run(self, event: Input, seconds: float, now: float) -> None:
        """The server says that the answer is in progress, and for how long it may be believed."""
        if self._account.note_running(now) > MAX_POLL_SECONDS:
            why = f"for {MAX_POLL_SECONDS / 60:g} minutes the server has said that the answer is in progress"
            self._fail(event, errors.RetriesExhausted, why)
        elif self._purpose is Purpose.STATUS:
            self._drop(event, Failure("the connection ended although the work goes on", floor=seconds), now)
        else:
            plan = None if self._stream_gone else self.dialect.resume(self.progress)
            way = (Purpose.POLL, self.dialect.poll(self.progress)) if plan is None else (Purpose.RESUME, plan)
            assert way[1] is not None
            self._wait_and_send(event, (way[0], way[1]), seconds, now)

    def _take_finished(self, event: Input, result: Finished, now: float) -> None:
        self._move(event, State.STREAMING)
        self._intake.begin_missing()
        self._outbox.position = self._intake.head
        self._take(Input.DATA, self._intake.judge(result.blocks, self._outbox.position), now)
        if self.state is State.STREAMING:
            # That the work is done does not by itself prove that all of it has come.
            self._end(Input.DATA, proved=self._purpose is Purpose.POLL or self._end_is_confirmed)

    # Housekeeping

    def _expect(self, event: Input) -> None:
        if event not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a driver reported {event.value} to a conversation that is {self.state.value}")

    def _move(self, event: Input, state: State) -> None:
        if state not in TRANSITIONS[self.state].get(event, ()):
            raise RuntimeError(f"{event.value} must not lead from {self.state.value} to {state.value}")
        self.state = state

    def _notify(self, kind: str, reason: str, seconds: float = 0.0) -> None:
        self._outbox.tell(Notice(kind, self._account.attempts, reason, seconds, self._account.events))
