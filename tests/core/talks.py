"""Conversations for the tests of the core, and the oracle that says how they must go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resumable_llm.core.actions import Action, Deliver, Notify
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Fallback, Limits, RequestPlan
from resumable_llm.core.recovery import Purpose
from resumable_llm.dialects import recognise
from tests.conversation import Case, Played, World, load, patient, play
from tests.core import artificial
from tests.oracle import Ask, Give, Pause, oracle

CASES = load()
BY_NAME = {case.name: case for case in CASES}
REQUEST = RequestPlan("GET", "https://events.example/feed", (("accept", "text/event-stream"),))
STREAM = {"content-type": "text/event-stream"}
TICK = b"id: 1\ndata: x\n\n"


def drain(talk: Conversation) -> Action:
    """Perform what needs nobody else: hand over and notify; return what is asked for then."""
    while isinstance(action := talk.next_action(), Deliver | Notify):
        pass
    return action


def conversation(dialect: Dialect | None = None, **more: Any) -> Conversation:
    """One about `REQUEST`, which is of no provider; limits can be given by name."""
    found = dialect or recognise(REQUEST)
    assert found is not None
    limits = Limits(**{name: more.pop(name) for name in list(more) if name in Limits.__dataclass_fields__})
    return Conversation(REQUEST, found, patient, limits, **more)


def streaming(dialect: Dialect | None = None, **more: Any) -> Conversation:
    """The same, when its stream has begun."""
    talk = conversation(dialect, **more)
    talk.start(0.0)
    talk.receive_response(200, STREAM, 0.0)
    return talk


def foretell(case: Case, world: World) -> Played:
    """What the oracle says must happen."""
    log = Played(requests=world.requests, framing=case.framing)
    rules = oracle(case.prepared, case.dialect, patient)
    step = next(rules)
    while True:
        if isinstance(step, Ask):
            step = rules.send(world.answer(step.plan))
            continue
        if isinstance(step, Give):
            log.slices.append(step.block)
        elif isinstance(step, Pause):
            log.waits.append(step.seconds)
        else:
            log.outcome, log.proved = step.outcome, step.proved
            return log
        step = next(rules)


def differences(got: Played, expected: Played) -> dict[str, Any]:
    """What the oracle did not foretell."""
    pairs = {
        name: (getattr(got, name), getattr(expected, name)) for name in ("asked", "waits", "outcome", "proved", "told")
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def made_up(
    dialect: Dialect,
    *answers: dict[str, Any],
    wire: str = "",
    status: list[dict[str, Any]] | None = None,
    get: bool = True,
) -> Case:
    """A case in a dialect that nobody speaks."""
    request = artificial.GET if get else artificial.POST
    asked: dict[str, Any] = {"method": request.method, "url": request.url}
    data = {
        "request": asked if get else {**asked, "body": {}},
        "answers": list(answers),
        "elsewhere": {"/runs/r": status or []},
        "ids": "sorted" if dialect.repeats_last else "exact",
    }
    return Case("made up", data, wire.encode(), dialect)


def played(case: Case, size: int = 65536) -> tuple[Conversation, Played]:
    """What comes of it, as the oracle says as well."""
    talk = case.converse(one_by_one=True)
    log = play(talk, World(case), size, slices=False)
    assert not differences(log, foretell(case, World(case)))
    return talk, log


def events(dialect: Dialect, *said: Mapping[str, Any]) -> str:
    """A stream in a dialect that nobody speaks."""
    return "".join(artificial.block(dialect, **each) for each in said)


def joined(name: str, fallback: Fallback, *answers: dict[str, Any], size: int = 65536) -> Played:
    """A case with other answers, and a model of which nobody knows whether it goes on, where a fallback is allowed."""
    case = BY_NAME[name]
    asked = case.data["request"]
    asked = {**asked, "body": {**asked["body"], "model": "m"}}
    case = replace(case, data={**case.data, "request": asked, "answers": answers})
    talk = Conversation(case.prepared, case.dialect, patient, Limits(), fallback=(fallback,))
    return play(talk, World(case), size, slices=True)


def ways(log: Played) -> list[str]:
    """Why each request was made but the first."""
    return [notice.kind for notice in log.notices if notice.kind in _WAYS]


_WAYS = [purpose.value for purpose in Purpose]
HALF = {"cut": "lo", "ends": "reset"}
CURSOR, LOG, LINES, POLLED = artificial.Cursor(), artificial.Log(), artificial.Lines(), artificial.Polled()
A, B, BUSY, END = {"event_id": "a"}, {"event_id": "b"}, {"error": "busy", "passes": 5.0}, {"end": True}
WHOLE = events(CURSOR, A, {"n": 1}, B, END)
MARKS = artificial.Marks()
RUN = "".join(artificial.block(MARKS, name, said=at) for at, name in enumerate(("1", "2", "2", "3")))
NOTHING_NEW = {"sse": artificial.block(MARKS, "3", said=3)}
DONE, RUNNING = {"json": {"state": "done"}}, {"json": {"state": "running", "seconds": 5.0}}
REFUSED, UNKNOWN = {"status": 404, "text": "no"}, {"json": {"state": "what?"}}
FAILED = {"json": {"state": "done", "missing": [artificial.block(MARKS, event="error", error="x")]}}
