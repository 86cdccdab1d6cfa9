"""What follows: the next request on the way to the rest of an answer, or its end. Every change of state is here.

`machine` says what has happened; this decides what is asked for then. After a drop: which way back, how long to wait,
and when to give up. After a clean end that nothing proves: whether to ask. After a refusal: whether another generation
may be asked for.
"""

from __future__ import annotations

from resumable_llm.core import errors
from resumable_llm.core.actions import Action, Finish, Read, Send, Surface, Wait
from resumable_llm.core.bearings import Bearings
from resumable_llm.core.judgement import Response, redirected
from resumable_llm.core.model import Backoff, Failure, Notice, RequestPlan, origin
from resumable_llm.core.recovery import NEVER_ACROSS, Purpose, by_last_event_id, way_back
from resumable_llm.core.replay import Verdict
from resumable_llm.core.states import TRANSITIONS, Input, State
from resumable_llm.core.times import Times

SPLICES = (Purpose.REPLAY, Purpose.CONTINUE)
"""Why a request is made whose answer is to be joined to this one."""

MAX_POLL_SECONDS = 3600.0
"""How long to believe a server that an answer is in progress while nothing comes of it; a deadline may be shorter."""

MAX_CONFIRM_WAIT = 30.0
"""The longest wait, in seconds, before asking whether there is more, if the server's ``retry:`` asks for one."""

NOTHING_LEFT = "the server has nothing of this answer any more"

_LACKING = (errors.CannotResume, errors.ResumeExpired, errors.RetriesExhausted)


class Course:
    """The course of one answer.

    Args:
        bearings: How far it has come.
        times: Its times.
        backoff: Decides how long to wait before an attempt.
        answered: An earlier conversation had a part of it.
    """

    __slots__ = (
        "_account",
        "_backoff",
        "_bearings",
        "_fallbacks",
        "_intake",
        "_plan",
        "_redirects",
        "_stream_gone",
        "_times",
        "_torn",
        "answered",
        "broken",
        "end_is_confirmed",
        "failing",
        "next",
        "purpose",
        "state",
    )

    def __init__(self, bearings: Bearings, times: Times, backoff: Backoff, *, answered: bool) -> None:
        self.state = State.READY
        self.next: Action | None = None
        """What to ask for, once all that is new has been given out; None before the start, and where it has failed."""
        self.failing: tuple[type[errors.ResumableError], str, BaseException | None] | None = None
        """What it has failed for."""
        self.purpose = Purpose.FIRST
        """Why the request at hand is made."""
        self.answered = answered
        """A stream has begun, on some connection."""
        self.broken = False
        """Since the last event the answer did not end but broke off."""
        self.end_is_confirmed = False
        """By the server's having nothing more, before the state of the work was asked."""
        self._bearings = bearings
        self._intake = bearings.intake
        self._account = bearings.account
        self._fallbacks = bearings.fallbacks
        self._times = times
        self._backoff = backoff
        self._plan = bearings.request
        self._redirects = 0
        self._stream_gone = False
        self._torn = False  # it broke off in the middle of an event

    # Moves

    def expect(self, event: Input) -> None:
        """Refuse an input that the table does not have."""
        if event not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a driver reported {event.value} to a conversation that is {self.state.value}")

    def move(self, event: Input, state: State, action: Action | None) -> None:
        """Change the state, as the table allows; from then on this action is asked for."""
        if state not in TRANSITIONS[self.state].get(event, ()):
            raise RuntimeError(f"{event.value} must not lead from {self.state.value} to {state.value}")
        self.state = state
        self.next = action

    def notify(self, kind: str, reason: str = "", seconds: float = 0.0) -> None:
        """Tell whoever listens."""
        self._bearings.outbox.tell(Notice(kind, self._account.attempts, reason, seconds, self._account.events))

    def stream(self) -> None:
        """The response is a stream, and begins."""
        self.move(Input.RESPONSE, State.STREAMING, Read())
        self._account.news = False
        self._redirects = 0
        self.answered = True

    def note_news(self, now: float) -> None:
        """The connection has brought something new."""
        self._account.note_news(now)
        self.broken = self._torn = False

    # Ends

    def end(self, event: Input, *, proved: bool) -> None:
        """The answer is complete."""
        self.move(event, State.ENDED, Finish())
        self._account.end_proved = proved
        self.notify("end", "" if proved else "nothing proves that the answer is complete")

    def surface(self) -> None:
        """The response is the caller's affair."""
        self.move(Input.RESPONSE, State.ENDED, Surface())

    def surface_error(self, event: Input) -> None:
        """The failure does not pass: the caller gets what the server said."""
        outbox = self._bearings.outbox
        outbox.put(self._intake.release_error(outbox.position, alone=True))
        self.end(event, proved=True)

    def fail(
        self, event: Input, error: type[errors.ResumableError], why: str, cause: BaseException | None = None
    ) -> None:
        """The rest cannot be had, unless it is not needed."""
        if error in _LACKING and self._bearings.is_complete:
            self.end(event, proved=True)  # what could not be had was not needed
            return
        if error in _LACKING and self._intake.error_held is not None:
            self.surface_error(event)
            return
        self.move(event, State.FAILED, None)
        self.notify("give_up", why)
        self.failing = (error, why, cause)

    # Requests

    def ask(self, event: Input, purpose: Purpose, plan: RequestPlan, now: float, redirects: int = 0) -> None:
        """Send a request now."""
        request = self._bearings.request
        if self._times.is_late(now):
            self.fail(event, errors.RetriesExhausted, "the deadline has passed")
            return
        if plan.url != request.url and origin(plan.url) != origin(request.url):
            self.fail(event, errors.CannotResume, f"the way back leads to another origin, and {NEVER_ACROSS}")
            return
        self._redirects = redirects
        self._intake.plain = False  # what comes next need not be a stream
        self.purpose, self._plan = purpose, plan
        self._account.attempts += 1
        self.move(event, State.ASKING, Send(plan, self._times.silence(now, begun=self._bearings.begun)))
        if purpose is not Purpose.FIRST:
            self.notify(purpose.value)

    def ask_now(self, now: float) -> None:
        """The wait is over: send the request that it was for."""
        self.ask(Input.WAKEUP, self.purpose, self._plan, now)

    def ask_later(self, event: Input, way: tuple[Purpose, RequestPlan], seconds: float, now: float) -> None:
        """Send a request after so many seconds."""
        if self._times.is_late(now + seconds):
            self.fail(event, errors.RetriesExhausted, "the deadline leaves no time for another attempt")
        elif seconds > 0:
            self.purpose, self._plan = way
            self.move(event, State.WAITING, Wait(seconds))
            self.notify("wait", "backoff", seconds)
        else:
            self.ask(event, *way, now)

    def ask_again(self, event: Input, now: float) -> None:
        """Ask for the rest, where nothing has dropped."""
        way = self.way_back()
        if isinstance(way, str):
            kind, why = self._fallbacks.refusal or (errors.CannotResume, way)
            self.fail(event, kind, why)
        else:
            self.ask(event, *way, now)

    def follow(self, response: Response, now: float) -> None:
        """Go where a redirect leads."""
        redirects = self._redirects + 1
        plan = redirected(self._plan, response, redirects)
        if isinstance(plan, str):
            self.refuse(Input.RESPONSE, errors.CannotResume, plan, now)
        else:
            self.ask(Input.RESPONSE, self.purpose, plan, now, redirects)

    # Ways back

    def way_back(self) -> tuple[Purpose, RequestPlan] | str:
        """The best way to the rest of the answer, or why there is none."""
        joined = self._fallbacks.chosen is not None or self._fallbacks.seams
        found = "only another generation can follow this one" if joined else self.own_way_back()
        return (self._other_generation() or found) if isinstance(found, str) else found

    def own_way_back(self) -> tuple[Purpose, RequestPlan] | str:
        """The best of those that lead to this very generation."""
        fruitless = self.purpose is Purpose.RESUME and self.state is State.STREAMING and self._account.failures > 0
        polling = self.purpose is Purpose.POLL
        bearings = self._bearings
        return way_back(
            self._intake.dialect, bearings.progress, prefer_poll=fruitless or polling, stream_gone=self._stream_gone
        )

    def _other_generation(self) -> tuple[Purpose, RequestPlan] | None:
        bearings = self._bearings
        if bearings.is_complete:
            return None  # nothing is missing that would be worth one
        way = self._fallbacks.way(self._intake.dialect, bearings.request, bearings.transcript)
        if way is not None and way.trial is not None:
            return Purpose.TRIAL, way.trial.plan
        return None if way is None else (way.purpose, way.plan)

    # After a connection that has brought less than all

    def drop(self, event: Input, failure: Failure, now: float) -> None:
        """The connection has broken, or is of no use any more."""
        patience = self._account.note_end_of_connection(now)
        if self.state is State.STREAMING:
            self.broken, self._torn = True, self._torn or self._intake.is_torn
        self.notify("drop", failure.reason)
        way = self.way_back()
        unheard = self.purpose is Purpose.STATUS and event in (Input.RESPONSE, Input.FAILURE)
        if isinstance(way, str) and unheard:
            way = Purpose.STATUS, self._plan  # the stream had ended cleanly, so the question is all that there is
        if isinstance(way, str) and event is Input.RESPONSE and not self.answered:
            self.surface()  # nothing was started, and the status says so better than we could
            return
        if isinstance(way, str):
            self._account.note_drop(failure, "", 0.0)
            kind: type[errors.ResumableError] = errors.ResumeExpired if self._stream_gone else errors.CannotResume
            if self._fallbacks.refusal is not None:
                kind, way = self._fallbacks.refusal
            why = way if way == failure.reason else f"{failure.reason}; {way}"
            self.fail(event, kind, why, failure.cause)
            return
        floors = [floor for floor in (failure.floor, self._intake.retry_floor) if floor is not None]
        seconds = self._backoff(self._account.failures, patience, max(floors, default=None))
        if seconds is None:
            self._account.note_drop(failure, "", 0.0)
            if event is Input.RESPONSE and not self.answered:
                self.surface()
            elif way[0] is Purpose.STATUS:
                self.end(event, proved=self.end_is_confirmed)
            else:
                why = f"no attempt is left; the last came to this: {failure.reason}"
                self.fail(event, errors.RetriesExhausted, why, failure.cause)
            return
        self._account.note_drop(failure, way[0].value, seconds)
        self.ask_later(event, way, seconds, now)

    def excuse_rest(self, now: float) -> None:
        """That nothing came of a connection is no failure if the server had said that there was nothing."""
        resting = self.state is State.STREAMING and self._intake.resting
        if resting and self._times.may_rest(now, self._intake.retry_floor):
            self._account.news = True

    def refuse(self, event: Input, error: type[errors.ResumableError], why: str, now: float) -> None:
        """The server will not hand out the rest: another generation is all that is left, where the caller allows it."""
        if self.purpose in (*SPLICES, Purpose.TRIAL):
            self.misfit(event, why, now)
            return
        # Where nothing was delivered, another generation would be the request that was just refused, once more.
        way = None if self.purpose is Purpose.REPEAT else self._other_generation()
        if way is None:
            kind, reason = self._fallbacks.refusal or (error, "")
            self.fail(event, kind, f"{why}; {reason}" if reason else why)
        else:
            self._account.note_drop(Failure(why), way[0].value, 0.0)
            self.ask(event, *way, now)

    def misfit(self, event: Input, why: str, now: float) -> None:
        """Another generation does not fit to this one, or is not to be had."""
        self._intake.objection = None
        self._fallbacks.rule_out(why, diverged=self.state is State.STREAMING)
        self.drop(event, Failure(why), now)

    def reject(self, event: Input, verdict: Verdict, why: str, now: float) -> None:
        """What has come cannot belong to this answer."""
        if verdict is Verdict.MISFIT:
            self.misfit(event, why, now)
            return
        if verdict in (Verdict.UNCLEAR, Verdict.GONE):
            self._intake.objection = None
            if verdict is Verdict.UNCLEAR or not self.note_gone(event, now):
                self.drop(event, Failure(why), now)
            return
        error = errors.GapDetected if verdict is Verdict.GAP else errors.ReplayDiverged
        if self.purpose is Purpose.CONFIRM and self._plan.method != "GET" and error is errors.ReplayDiverged:
            # The end was clean, and this server's ids turn out to be no cursors: asked again, it generates anew. So
            # there was nothing to ask, and what was received is all that can be known.
            self.end(event, proved=False)
        else:
            self.fail(event, error, why)

    # After a clean end

    @property
    def is_over(self) -> bool:
        """The answer is complete, and whatever else the server may have to say cannot be had."""
        if not self._bearings.is_complete:
            return False
        way = self.way_back()
        return isinstance(way, str) or way[0] is not Purpose.RESUME

    @property
    def has_been_told_all(self) -> bool:
        """The answer is complete, and the server, asked for the rest, has ended a stream of nothing."""
        asked = self.purpose is Purpose.RESUME and not self._account.news
        return asked and self._bearings.is_complete

    def confirm(self, now: float) -> None:
        """Ask whether there is more behind an end that nothing proves."""
        dialect, progress = self._intake.dialect, self._bearings.progress
        plan = dialect.resume(progress) or by_last_event_id(dialect, progress)
        if isinstance(plan, str):
            self.end_or_ask(Input.EOF, now, proved=False)
        else:
            self._account.news = False
            seconds = min(self._intake.retry_floor or 0.0, MAX_CONFIRM_WAIT)
            self.ask_later(Input.EOF, (Purpose.CONFIRM, plan), seconds, now)

    def end_or_ask(self, event: Input, now: float, *, proved: bool) -> None:
        """A clean end that the stream does not prove; where the state of the work can be asked for, that decides."""
        dialect = self._intake.dialect
        plan = dialect.poll(self._bearings.progress) if dialect.confirms_by_poll else None
        if plan is None:
            self.end(event, proved=proved)
        else:
            self.end_is_confirmed = proved
            self.ask_later(event, (Purpose.STATUS, plan), 0.0, now)

    def nothing_more(self, now: float) -> None:
        """Asked for the rest, the server says that there is none."""
        if self._intake.error_held is not None:
            self.surface_error(Input.RESPONSE)
        elif self._intake.dialect.repeats_last and self._bearings.begun:
            self.reject(Input.RESPONSE, Verdict.GONE, NOTHING_LEFT, now)
        elif self._intake.dialect.proves_end or self._torn:
            self._stream_gone = True
            failure = Failure("the server has nothing more, but what was received is not whole")
            self.drop(Input.RESPONSE, failure, now)
        else:
            self.end(Input.RESPONSE, proved=True)

    def note_gone(self, event: Input, now: float) -> bool:
        """The stream can be had no longer. If that was asked after a clean end, the state of the work may decide.

        Returns:
            Whether it does.
        """
        self._stream_gone = True
        decides = self.purpose is Purpose.CONFIRM and self._intake.dialect.confirms_by_poll
        if decides:
            self.end_or_ask(event, now, proved=False)
        return decides

    def let_run(self, event: Input, seconds: float, now: float) -> None:
        """The server says that the answer is in progress, and for how long it may be believed."""
        if self._account.note_running(now) > MAX_POLL_SECONDS:
            why = f"for {MAX_POLL_SECONDS / 60:g} minutes the server has said that the answer is in progress"
            self.fail(event, errors.RetriesExhausted, why)
        elif self.purpose is Purpose.STATUS:
            self.drop(event, Failure("the connection ended although the work goes on", floor=seconds), now)
        else:
            dialect, progress = self._intake.dialect, self._bearings.progress
            plan = None if self._stream_gone else dialect.resume(progress)
            way = (Purpose.POLL, dialect.poll(progress)) if plan is None else (Purpose.RESUME, plan)
            assert way[1] is not None
            self.ask_later(event, (way[0], way[1]), seconds, now)
