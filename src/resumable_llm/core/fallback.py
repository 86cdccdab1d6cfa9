"""The ways back that a caller has to ask for, where the server kept nothing: to repeat, and to continue.

Decides whether one of them can be taken, and makes its request and what joins its answer to the old one; see `splice`.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

from resumable_llm.core import errors
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.model import Fallback, Fidelity, RequestPlan, Seam
from resumable_llm.core.recovery import Purpose
from resumable_llm.core.seam import TextSeam
from resumable_llm.core.speech import Answer, Kind, Speech, Trial, Usage, listen
from resumable_llm.core.splice import Continuation, Repeat, Splice
from resumable_llm.core.transcript import Transcript

WAYS: tuple[Fallback, ...] = ("replay", "continue")

Habits = MutableMapping[tuple[str, bytes], bool]
"""Whether those go on that were tried, by the trial's URL and body."""

MAX_HABITS = 256

BEGINS_ANEW = (
    "given a count that was begun, the model did not go on with it: it begins anew (can_continue=True says otherwise)"
)

_NOT_TEXT: dict[Kind, str] = {
    "tool": "a tool call was begun, and a call put together from two generations may be one that nobody made",
    "thinking": "the model has thought aloud, and its thoughts cannot be given back to it",
    "audio": "it has sound in it",
    "image": "it has images in it",
    "refusal": "the model refused",
    "other": "it has more in it than text",
}


class Way(NamedTuple):
    """A way back that can be taken."""

    purpose: Purpose
    plan: RequestPlan
    splice: Splice
    answer: Answer
    """What was delivered."""
    events: int
    """Events delivered."""
    characters: int
    """Characters delivered, of text and whatever else grows."""
    trial: Trial | None = None
    """What has to be asked first."""


class Fallbacks:
    """What the caller allows, and what has come of it so far.

    Args:
        ways: What is allowed, in the order in which it is to be tried.
        can_continue: What the caller knows about the model; None: go by the table of models.
        max_held: Bound on what may be held back, in bytes.
        habits: What earlier trials have shown, and where this one's result is kept.
        seams: Where generations were joined before, in what an earlier conversation delivered.
    """

    __slots__ = ("_can_continue", "_habits", "_max_held", "_seams", "_taken", "_ways", "chosen", "refusal")

    def __init__(
        self,
        ways: Sequence[Fallback],
        can_continue: bool | None,
        max_held: int,
        habits: Habits | None = None,
        seams: tuple[Seam, ...] = (),
    ) -> None:
        self.chosen: Way | None = None
        """Another generation, asked for or under way."""
        self.refusal: tuple[type[errors.ResumableError], str] | None = None
        """Why the last of them cannot be taken."""
        self._ways = list(ways)
        self._can_continue = can_continue
        self._max_held = max_held
        self._habits = {} if habits is None else habits
        self._seams = seams
        self._taken: list[Way] = []

    def way(self, dialect: Dialect, request: RequestPlan, transcript: Transcript) -> Way | None:
        """The first way that can be taken; None if there is none, or none was asked for."""
        while self._ways:
            found = self._try(dialect, request, transcript)
            if isinstance(found, Way):
                self.chosen = found
                return found
            self.rule_out(found)
        return None

    def rule_out(self, why: str, *, diverged: bool = False) -> None:
        """The way that was tried leads nowhere; ``diverged`` if its answer had begun."""
        replay = errors.ReplayDiverged if diverged else errors.CannotResume
        self.refusal = replay if self._ways.pop(0) == "replay" else errors.ContinuationRefused, why

    def judge(self, trial: Trial, body: bytes) -> bool:
        """Whether a model has passed its trial; it need not be tried again."""
        if len(self._habits) >= MAX_HABITS:
            self._habits.clear()
        found = self._habits[_named(trial)] = trial.passed(body)
        return found

    def take(self) -> Way:
        """The generation that was chosen has begun."""
        assert self.chosen is not None
        self._taken.append(self.chosen)
        return self.chosen

    @property
    def fidelity(self) -> Fidelity:
        """How faithful the answer is, by the ways that were taken."""
        joined = {seam.way for seam in self.seams}
        return "continued" if Purpose.CONTINUE.value in joined else "verified" if joined else "exact"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """Where generations were joined."""
        if not self._taken:
            return self._seams
        return self._seams + tuple(
            Seam(way.purpose.value, way.events, way.characters, way.splice.echoed)
            for way in self._taken
            if way.splice.joined
        )

    @property
    def input_tokens(self) -> int | None:
        """Tokens that the server read again, for all generations but the first; None if it did not tell of each."""
        told = [way.splice.usage.input for way in self._taken]
        known = [tokens for tokens in told if tokens is not None]
        return sum(known) if len(known) == len(told) else None

    def _spent(self, answer: Answer) -> list[tuple[Usage, int]]:
        first = self._taken[0].answer.usage if self._taken else answer.usage
        return [(first, 0), *((way.splice.usage, way.answer.text_events) for way in self._taken)]

    def _try(self, dialect: Dialect, request: RequestPlan, transcript: Transcript) -> Way | str:
        way, speech = self._ways[0], dialect.speech
        if speech is None:
            return f"the events of {dialect.name} cannot be joined to those of another generation"
        if request.body is None:
            return "the request's body is not at hand and cannot be sent again"
        if not transcript.whole:
            return "what was delivered is no longer at hand: another process had it, or it is too large to be kept"
        answer = listen(speech, transcript)
        if way == "replay":
            repeat = Repeat(speech, dialect.framing, answer, self._max_held)
            return Way(Purpose.REPLAY, request, repeat, answer, transcript.events, answer.characters)
        return self._continue(dialect, speech, request, answer, transcript)

    def _continue(
        self, dialect: Dialect, speech: Speech, request: RequestPlan, answer: Answer, transcript: Transcript
    ) -> Way | str:
        found = next((why for kind, why in _NOT_TEXT.items() if answer.has(kind)), None)
        if found is not None:
            return f"the answer cannot be continued: {found}"
        part = speech.open_part(answer)
        said, stops = answer.text(part), speech.stops(request)
        answer.let_go_blank(part)
        ask = speech.go_on(request, answer, TextSeam(said).sent, can_continue=self._can_continue)
        if ask.plan is None:
            return f"the answer cannot be continued: {ask.reason}"
        if said:
            seam = TextSeam(said, stops, echoes=ask.echoes)
        else:  # where the model goes on with another part, one that begins anew repeats those before it
            texts = [answer.text(key) for key in answer.texts if answer.kinds[key] == "text"]
            seam = TextSeam("".join(texts), echoes=ask.echoes)
        plan, key = ask.plan, request.header("idempotency-key")
        if key is not None:  # another request must have another
            plan = plan.with_headers(("Idempotency-Key", f"{key}-{len(self._seams) + len(self._taken) + 2}"))
        splice = Continuation(speech, dialect.framing, answer, seam, self._spent(answer))
        goes_on = None if ask.trial is None else self._habits.get(_named(ask.trial))
        if goes_on is False:
            return BEGINS_ANEW
        trial = None
        if ask.trial is not None and goes_on is None:
            trial = ask.trial._replace(plan=ask.trial.plan.with_headers(without=("idempotency-key",)))
        return Way(Purpose.CONTINUE, plan, splice, answer, transcript.events, answer.characters, trial)


def _named(trial: Trial) -> tuple[str, bytes]:
    return trial.plan.url, trial.plan.body or b""
