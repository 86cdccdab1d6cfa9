"""What stands before the drivers under test: requests, dialects and a backoff, without any HTTP library."""

from __future__ import annotations

from resumable_llm.core.actions import Action
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Backoff, Checkpoint, Limits, RequestPlan
from resumable_llm.dialects import LastEventId, recognise

SSE = {"content-type": "text/event-stream"}
LLAMA = {**SSE, "server": "llama.cpp"}
EVENTS = RequestPlan("GET", "https://api.example/events", (("accept", "text/event-stream"),))
CHAT = RequestPlan("POST", "https://api.example/v1/chat/completions", (), b'{"stream": true}')
NAMED = CHAT.with_headers(("X-Conversation-Id", "key"), ("Idempotency-Key", "key"))
ENDS = LastEventId("end")
LEFT_OFF = Checkpoint("last_event_id", "GET", EVENTS.url, last_event_id="1", events=1)
ONE, TWO, END = b"id: 1\ndata: one\n\n", b"id: 2\ndata: two\n\n", b"event: end\ndata:\n\n"
HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Broken(Exception):
    """What this family raises when a connection breaks."""


class FamilyError(Exception):
    """What this family's users know to catch."""


class RoundInCircles(Exception):
    """A driver asked and asked without anything having happened."""


class Asked(Conversation):
    """A conversation that does not let itself be asked for ever."""

    times = 0

    def next_action(self) -> Action:
        self.times += 1
        if self.times > 100:
            raise RoundInCircles
        return super().next_action()


def at_once(failures: int, elapsed: float, floor: float | None) -> float | None:
    """Try again at once, twice in a row."""
    return 0.0 if failures < 3 else None


def an_hour(failures: int, elapsed: float, floor: float | None) -> float | None:
    """Wait longer than any test may take."""
    return 3600.0


def conversation(
    plan: RequestPlan = EVENTS,
    dialect: Dialect | None = None,
    *,
    backoff: Backoff = at_once,
    one_by_one: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Asked:
    """A conversation; in a dialect that ends with "end" if no other is given and the request shows none."""
    dialect = dialect or (ENDS if plan is EVENTS else recognise(plan))
    assert dialect is not None
    return Asked(
        plan,
        dialect,
        backoff,
        Limits(),
        key=plan.header("idempotency-key"),
        one_by_one=one_by_one,
        checkpoint=checkpoint,
    )
