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
about which the dialect has nothing to say; they pass as they are.

This file says what each input means. What follows upon it, the next request or an end, is decided in `course`, which
alone changes the state, and only as the table in `states` allows. `bearings` knows how far the answer has come. Bytes
become judged events in `intake`, with `replay` for what comes again and `splice` for another generation, and wait in
`outbox`. What is only read lives elsewhere: a response that is no stream in `judgement`, the ways back in `recovery`
and `fallback`, the clock in `times`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from resumable_llm.core import errors
from resumable_llm.core.actions import Action, Deliver, Fail, Read, Surface
from resumable_llm.core.bearings import Bearings
from resumable_llm.core.course import NOTHING_LEFT, SPLICES, Course
from resumable_llm.core.dialect import Dialect, Finished, StillRunning
from resumable_llm.core.fallback import BEGINS_ANEW, Fallbacks, Habits, Way
from resumable_llm.core.judgement import REDIRECTS, TRANSIENT, Gone, Response, Unknown, judge
from resumable_llm.core.model import (
    Backoff,
    Checkpoint,
    Failure,
    Fallback,
    Headers,
    Limits,
    Notice,
    Past,
    Report,
    RequestPlan,
    Standing,
    origin,
)
from resumable_llm.core.partial import partial_of
from resumable_llm.core.recovery import Purpose, retry_after
from resumable_llm.core.replay import Verdict
from resumable_llm.core.states import Input, State
from resumable_llm.core.times import Times

_POLLS = (Purpose.POLL, Purpose.STATUS)
_APART = (*_POLLS, Purpose.TRIAL)  # whose answers are no streams
_KEEPS_METHOD = (307, 308)
_NO_RESPONSE = Response(0, {})


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
        self.request = request
        """The request that has started the answer."""
        self.key = key
        """The idempotency key that it carries."""
        self._limits = limits
        self._checkpoint = checkpoint
        seams = past.seams if past is not None else ()
        self._fallbacks = Fallbacks(fallback, can_continue, limits.max_transcript_bytes, habits, seams)
        self._times = Times(limits)

        # What is known, and what is to come.
        bearings = Bearings(request, dialect, limits, self._fallbacks, key=key, checkpoint=checkpoint, past=past)
        self._bearings = bearings
        self._course = Course(bearings, self._times, backoff, answered=past is not None)

        # What comes in, what goes out, and what it takes.
        self.transcript = bearings.transcript
        self._intake = bearings.intake
        self._intake.one_by_one = one_by_one
        self.receive_plain = self._intake.pass_plain  # a chunk that passes as it is needs no more than this
        self._outbox = bearings.outbox
        self._account = bearings.account

        self._response = _NO_RESPONSE
        self._then: Callable[[], None] | None = None  # to be done when all that is new has been given out
        self._joining: Way | None = None  # another generation has begun, and nothing new has come of it yet
        self._is_noted = False

    # What a driver calls

    def start(self, now: float) -> None:
        """Begin. The first action will be to send the request."""
        self._times.start(now)
        if self._checkpoint is None:
            self._course.ask(Input.START, Purpose.FIRST, self.request, now)
        elif self._checkpoint.complete:
            self._course.end(Input.START, proved=True)
        else:
            self._course.ask_again(Input.START, now)

    def receive_response(self, status: int, headers: Headers, now: float) -> None:
        """The head of a response has come; header names in lower case."""
        course = self._course
        course.expect(Input.RESPONSE)
        self._response = Response(status, headers)
        purpose = course.purpose
        starting = purpose in (Purpose.FIRST, Purpose.REPEAT)
        begun = status in (200, 201)
        splicing = purpose in SPLICES or (purpose is Purpose.TRIAL and status != 200)
        dialect = self.dialect.answered_by(self.request, headers) if starting and begun else self.dialect
        streams = dialect.framing.announced_by(headers.get("content-type", ""))
        if begun and streams and purpose not in _APART:
            self._intake.take_dialect(dialect)
            self.transcript.framing = dialect.framing
            self._begin_stream(starting, now)
        elif splicing and status not in TRANSIENT and status not in _KEEPS_METHOD:
            course.misfit(Input.RESPONSE, f"the server answered {status} when asked to {purpose.value}", now)
        elif starting and not course.answered and (status not in TRANSIENT or self.request.body is None):
            course.surface()
        elif status == 204 and not starting and purpose not in _POLLS:
            course.nothing_more(now)
        elif status in REDIRECTS:
            course.follow(self._response, now)
        elif status in TRANSIENT:
            course.drop(Input.RESPONSE, Failure(f"the server answered {status}", floor=retry_after(headers)), now)
        else:
            course.move(Input.RESPONSE, State.COLLECTING, Read())

    def receive_data(self, chunk: bytes, now: float) -> None:
        """Bytes of the body have come."""
        course, outbox = self._course, self._outbox
        if course.state is not State.STREAMING:
            course.expect(Input.DATA)
            outbox.settle()
            self._collect(chunk, now)
            return
        passed = bool(self.transcript.fresh)
        outbox.settle()
        intake = self._intake
        if not intake.one_by_one:  # chunks that passed plainly have moved the head, not the position
            outbox.position = intake.head
        try:
            found = intake.feed(chunk, outbox.position)
        except errors.EventTooLarge as error:
            course.fail(Input.DATA, errors.EventTooLarge, str(error))
            return
        if passed:  # when exactly is not known, for a plain chunk asks no clock: some time since the last that did not
            self._times.heard_at = now
        self._take(Input.DATA, found, now)
        if course.state is not State.STREAMING or self._then is not None:
            return
        if self._account.news and not self._times.has_deadline:
            intake.settle()
        if self._times.is_late(now):
            course.fail(Input.DATA, errors.RetriesExhausted, "the deadline has passed")
        elif not intake.saw_data and (limit := self._times.missed(now, begun=self._bearings.begun)) is not None:
            course.drop(Input.DATA, Failure(f"no event for {limit:g} s although the connection was alive"), now)

    def receive_eof(self, now: float) -> None:
        """The body has ended as its framing says it should."""
        course, intake = self._course, self._intake
        course.expect(Input.EOF)
        self._outbox.settle()
        if course.state is State.COLLECTING:
            self._judge_body(Input.EOF, now)
            return
        rest = intake.rest()
        if rest:
            self._take(Input.EOF, intake.judge([rest], self._outbox.position), now)
            if course.state is State.STREAMING and self._then is None:
                self._then = lambda: self.receive_eof(now)
            return
        if course.is_over or course.has_been_told_all:
            course.end(Input.EOF, proved=True)
        elif intake.must_repeat and not intake.is_torn:
            course.reject(Input.EOF, Verdict.GONE, NOTHING_LEFT, now)
        elif self.dialect.proves_end:
            course.excuse_rest(now)
            course.drop(Input.EOF, Failure("the connection ended without the event that ends an answer"), now)
        elif intake.is_torn:
            course.drop(Input.EOF, Failure("the connection ended inside an event"), now)
        elif course.broken and not self._account.news and not self.dialect.confirms_by_poll:
            course.drop(Input.EOF, Failure("the server had nothing more, although the answer had broken off"), now)
        elif not intake.numbered and self.dialect.resume(self._bearings.progress) is None:
            course.end_or_ask(Input.EOF, now, proved=False)
        elif not self._account.news and (
            course.purpose is Purpose.CONFIRM or (course.purpose is Purpose.RESUME and self.dialect.confirms_by_poll)
        ):
            course.end_or_ask(Input.EOF, now, proved=True)
        else:
            course.confirm(now)

    def receive_failure(self, failure: Failure, now: float) -> None:
        """The request could not be sent, or the connection broke."""
        course = self._course
        course.expect(Input.FAILURE)
        self._outbox.settle()
        if course.state is State.STREAMING and course.is_over:
            course.end(Input.FAILURE, proved=True)
        else:
            course.excuse_rest(now)
            course.drop(Input.FAILURE, failure, now)

    def receive_wakeup(self, now: float) -> None:
        """The time asked for has passed."""
        self._course.expect(Input.WAKEUP)
        self._course.ask_now(now)

    def next_action(self) -> Action:
        """What to do now. Events given out here are delivered: they have moved the position."""
        action = self._outbox.take()
        if action is not None:
            return action
        if self._then is not None:
            then, self._then = self._then, None
            then()
            return self.next_action()
        return self._course.next or self._fail()

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
    def state(self) -> State:
        """Where the conversation stands."""
        return self._course.state

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
        return self._bearings.checkpoint(ended=self.state is State.ENDED and not self.surfaced)

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
        return self._bearings.standing(ended=self._course.state is State.ENDED, summed=summed)

    @property
    def report(self) -> Report:
        """What it took so far."""
        return self._account.report(self.dialect, self._intake.replayed, self._fallbacks)

    @property
    def answered(self) -> bool:
        """A stream has begun, on some connection."""
        return self._course.answered

    @property
    def is_resumable(self) -> bool:
        """Whether there is a way to the rest of this answer, as things are."""
        return not isinstance(self._course.own_way_back(), str)

    @property
    def surfaced(self) -> bool:
        """The first response is no answer that anybody here could read: it is the caller's."""
        return isinstance(self._course.next, Surface)

    @property
    def is_kept_alive_by_us(self) -> bool:
        """Closing the connection now would not stop the generation, and that only because of what `prepare` added.

        Not so once somebody has looked at the checkpoint, or has asked how far it has come: they may mean to come back.
        """
        going = self.state in (State.STREAMING, State.WAITING) and not (self._is_noted or self._intake.one_by_one)
        return going and self.dialect.detached and self._intake.handle == self.key

    def cancel_plan(self) -> RequestPlan | None:
        """The request that has the server stop, if there is one and it leads where the answer comes from."""
        if self.state is State.ENDED:
            return None  # it has nothing to stop, and might take it for a wish to forget the answer
        plan = self.dialect.cancel(self._bearings.progress)
        return plan if plan is not None and origin(plan.url) == origin(self.request.url) else None

    def partial_text(self) -> str:
        """The text of the answer delivered so far."""
        return "".join(map(self.dialect.text, self.transcript))

    def partial(self) -> Any:
        """The message delivered so far, as `ResumableError.partial` has it."""
        return partial_of(self.dialect, self.transcript)

    def _fail(self) -> Fail:
        # Made when it is asked for: by then all that was queued has been delivered.
        assert self._course.failing is not None, "the conversation has not been started"
        kind, why, cause = self._course.failing
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

    # A stream

    def _begin_stream(self, starting: bool, now: float) -> None:
        self._course.stream()
        self._times.connect(now)
        headers, self._response = self._response.headers, _NO_RESPONSE
        self._bearings.location = headers.get("location") or self._bearings.location
        if self._course.purpose in SPLICES:
            self._joining = self._fallbacks.take()
            self._intake.begin_splice(self._joining.splice)
            return
        if starting:
            self._intake.handle = self.dialect.handle(self.request, headers)
        self._intake.begin(resumed=not starting)

    def _take(self, event: Input, found: list[Deliver], now: float) -> None:
        """Hand over what is new, then see what else the bytes have said."""
        intake = self._intake
        if intake.saw_data:
            self._times.heard_at = now
        if found:
            self._outbox.put(found)
            if self._joining is not None and self._joining.splice.joined:
                way, self._joining = self._joining, None
                self._course.notify("seam", f"{way.purpose.value} behind {way.characters} characters")
            if not self._account.news and intake.saw_data and any(each.events for each in found):
                self._course.note_news(now)
        if intake.objection is not None:
            verdict, why = intake.objection
            if verdict in (Verdict.UNCLEAR, Verdict.GONE, Verdict.MISFIT):
                self._then = lambda: self._course.reject(Input.DATA, verdict, why, now)
            else:
                self._course.reject(event, verdict, why, now)
        elif intake.error_came:
            self._then = lambda: self._let_pass(now)
        elif intake.terminal:
            self._course.end(event, proved=True)

    def _let_pass(self, now: float) -> None:
        """Try again after a failure that the server reported in the stream, if that costs nothing."""
        assert self._intake.error_held is not None
        reading, _ = self._intake.error_held
        way = self._course.way_back()
        if isinstance(way, str) or way[0] not in (Purpose.REPEAT, Purpose.RESUME, *SPLICES, Purpose.TRIAL):
            # Nothing can be done about it: the caller gets what the server says, and what it says behind it.
            self._take(Input.DATA, self._intake.release_error(self._outbox.position), now)
        else:
            failure = Failure(f"the server reported in the stream: {reading.error}", floor=reading.retry_after)
            self._course.drop(Input.DATA, failure, now)

    # A body that is no stream

    def _collect(self, chunk: bytes, now: float) -> None:
        if self._times.is_late(now):
            self._course.fail(Input.DATA, errors.RetriesExhausted, "the deadline has passed")
            return
        self._response.body += chunk
        if self._response.is_enough(self._limits.max_transcript_bytes):
            self._judge_body(Input.DATA, now)

    def _judge_body(self, event: Input, now: float) -> None:
        course = self._course
        if course.purpose is Purpose.TRIAL:
            self._judge_trial(event, now)
            return
        found = judge(self._response, course.purpose, self.dialect, self._bearings.progress, self.transcript)
        if isinstance(found, Finished):
            self._take_finished(event, found, now)
        elif isinstance(found, StillRunning):
            course.let_run(event, found.seconds, now)
        elif isinstance(found, Unknown):
            course.end(event, proved=course.end_is_confirmed)
        elif not isinstance(found, Gone):
            course.refuse(event, found.error, found.why, now)
        elif not course.note_gone(event, now):
            course.ask_again(event, now)

    def _judge_trial(self, event: Input, now: float) -> None:
        way = self._fallbacks.chosen
        assert way is not None
        assert way.trial is not None
        if self._fallbacks.judge(way.trial, bytes(self._response.body)):
            self._course.ask(event, way.purpose, way.plan, now)
        else:
            self._course.misfit(event, BEGINS_ANEW, now)

    def _take_finished(self, event: Input, result: Finished, now: float) -> None:
        course = self._course
        course.move(event, State.STREAMING, Read())
        self._intake.begin_missing()
        self._outbox.position = self._intake.head
        self._take(Input.DATA, self._intake.judge(result.blocks, self._outbox.position), now)
        if course.state is State.STREAMING:
            # That the work is done does not by itself prove that all of it has come.
            course.end(Input.DATA, proved=course.purpose is Purpose.POLL or course.end_is_confirmed)
