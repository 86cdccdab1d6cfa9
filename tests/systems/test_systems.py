"""Every row of the table, on the real server: the answer uncut, and through a proxy that cuts it everywhere."""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from resumable_llm.cli.model import ModelUnavailable, ensure_model
from resumable_llm.testing import Fault, FaultPlan, FaultProxy, RequestRecord
from tests.sockets.clients import FOREIGN_GENERATORS
from tests.sockets.scripted import Answer, Request, Scripted
from tests.systems import servers
from tests.systems.absent import needs_python, skip_and_tell
from tests.systems.clients import Seen, ours, read
from tests.systems.table import AGAIN, HIDDEN, PAGE, POLLED, ROWS, Row, render

pytestmark = [
    FOREIGN_GENERATORS,
    # Whoever stops reading at the sentinel leaves generators of his own there, wrapped or not.
    pytest.mark.filterwarnings("ignore:Async generator '(pydantic_ai|langchain_openai):ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID:UserWarning"),  # langgraph-sdk
]

CUTS = (1,) * 2 + (2,) * 3 + (3,) * 4
"""Twenty cuts in nine streams; where the first is the last, in as many streams."""


def plans(row: Row, whole: RequestRecord) -> list[FaultPlan]:
    """Where the row's streams are cut: in the middle of events and between them, in every way, always the same."""
    counts = CUTS if row.outcome in (HIDDEN, POLLED) else (1,) * sum(CUTS)
    chance = random.Random(str(row))
    between = itertools.cycle((False, True))

    def fault(part: int) -> Fault:
        cut = chance.choice((Fault.rst, Fault.fin, Fault.end) if row.clean else (Fault.rst, Fault.fin))
        if next(between):
            return cut(at_event=chance.randrange(max(whole.events_sent // part, 1)))
        return cut(at_byte=chance.randrange(whole.bytes_sent // part))

    return [FaultPlan(*(fault(count) for _ in range(count))) for count in counts]


@dataclass
class Outcome:
    """What a reader saw, and what the proxy did.

    Attributes:
        seen: By the reader.
        requests: From the question on.
    """

    seen: Seen
    requests: list[RequestRecord]

    @property
    def struck(self) -> int:
        """How many requests suffered a fault."""
        return sum(request.fault is not None for request in self.requests)

    @property
    def questions(self) -> int:
        """How often the question was sent, so how often the answer was generated."""
        first = self.requests[0]
        return sum(
            (request.method, request.path, request.body_bytes) == (first.method, first.path, first.body_bytes)
            for request in self.requests
        )


def ask(row: Row, server: str, plan: FaultPlan | None = None, *, watched: bool = True) -> Outcome:
    """Read one answer through a proxy of its own."""
    with FaultProxy(server) as proxy:
        before = 0

        def begin() -> None:
            nonlocal before
            wait_until(lambda: sum(request.streamed for request in proxy.requests) >= (row.before or 0))
            proxy.plan, before = plan or FaultPlan(), len(proxy.requests)

        seen = Seen(watched=watched)
        if row.before is None:
            begin()
        else:
            seen.begin = begin
        read(row.reader, proxy.url, seen)
        counted = [request for request in proxy.requests[before:] if row.method in (None, request.method)]
        return Outcome(seen, counted)


def wait_until(condition: Callable[[], bool]) -> None:
    late = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < late, "it does not come"
        time.sleep(0.005)


def kept(row: Row, server: str, outcome: Outcome) -> bytes:
    """What the server itself has kept of the very answer that was read."""
    first = outcome.requests[0]
    headers = {}
    if "llama" in row.server:
        prefix = first.path.partition("/v1")[0]
        url = f"{server}{prefix}/v1/stream?from=0&conv_id={first.headers['x-conversation-id']}"
    elif row.server == "langgraph_server":
        runs = server + first.path.removesuffix("/stream")
        (run,) = httpx.get(runs, timeout=30).json()  # it has run once
        url, headers = f"{runs}/{run['run_id']}/stream", {"Last-Event-ID": "0"}
    else:
        url = f"{server}/v1/responses/{outcome.seen.final['id']}/events"
    answer = httpx.get(url, headers=headers, timeout=30)
    assert answer.status_code == 200
    return answer.content


def replayed(row: Row, outcome: Outcome, server: str) -> Seen:
    """What the SDK, unwrapped, makes of that."""
    record = kept(row, server, outcome)

    def answer(request: Request) -> Answer:
        return Answer([record]) if row.method in (None, request.method) else Answer.json('{"id": "kept"}')

    with Scripted(rest=answer) as replay:
        return read(row.reader, replay.url)


def normal(value: Any, row: Row) -> Any:
    """A value without times, and with what the server makes up for each answer numbered as it first comes."""
    numbers: dict[str, str] = {}

    def walk(value: Any, key: str | None = None) -> Any:
        if isinstance(value, dict):
            return {name: walk(inner, name) for name, inner in value.items() if name not in row.times}
        if isinstance(value, (list, tuple)):
            return [walk(inner) for inner in value]
        if key in row.fresh and isinstance(value, str):
            return numbers.setdefault(value, f"made up {len(numbers)}")
        return value

    return walk(value)


def check(row: Row, outcome: Outcome, whole: Outcome, server: str) -> None:
    """Hold one outcome to what the row promises."""
    unbegun = [request for request in outcome.requests if request.fault is not None and request.events_sent == 0]
    expected = row.unbegun if unbegun and unbegun[0] is outcome.requests[0] else row.outcome
    questions = 1 + len(unbegun) if row.unbegun == AGAIN else 1
    assert row.method == "GET" or outcome.questions == questions, "how often it was generated"
    if row.empty != HIDDEN and any(is_empty(request) for request in outcome.requests[1:]):
        check_empty(row, outcome, server)
        return
    if outcome.seen.error is not None:
        # What was asked again may be cut again.
        check_lost(row, outcome, whole, {row.outcome if expected == AGAIN else expected})
        return
    check_whole(row, outcome, whole, server)
    if row.outcome in (HIDDEN, POLLED):
        assert expected in (HIDDEN, POLLED)
        check_requests(row, outcome)
    else:  # nothing is kept, so only what came before everything, or behind it, can have been cut off
        lost = [request for request in outcome.requests if request.fault is not None and request not in unbegun]
        assert all(request.events_sent >= whole.requests[0].events_sent - row.tail for request in lost)


def check_whole(row: Row, outcome: Outcome, whole: Outcome, server: str) -> None:
    """It is the uncut answer, each event once."""
    seen = outcome.seen
    assert seen.text == whole.seen.text
    assert normal(seen.final, row) == normal(whole.seen.final, row)
    if row.record:
        expected = replayed(row, outcome, server)
        assert seen.final == expected.final
        assert row.outcome == POLLED or polled(row, outcome) or same(seen.events, expected.events, row, outcome)
    else:
        assert same(normal(seen.events, row), normal(whole.seen.events, row), row, outcome)
    assert seen.notices[-1].kind == "end"
    if seen.report is not None:
        assert seen.report.end_proved
        assert seen.report.fidelity == "exact"
        assert seen.report.attempts == len(outcome.requests) - row.own


def polled(row: Row, outcome: Outcome) -> bool:
    """Whether the rest was read from the finished answer: other events, the same text.

    That is asked for where a resumed stream was cut before its first event. Most often it is not finished then.
    """
    return row.server == "fastresponses_server" and not outcome.requests[-1].streamed


def same(events: list[Any], expected: list[Any], row: Row, outcome: Outcome) -> bool:
    if outcome.struck and row.untold and len(events) < len(expected):
        expected = expected[: -row.untold]
    return events == expected


def check_requests(row: Row, outcome: Outcome) -> None:
    """As many as the row says; a cut that strikes behind the end costs nothing."""
    more, struck = len(outcome.requests) - 1 - row.at_end - row.own, outcome.struck
    if row.requests is None:
        assert bool(struck) >= bool(more)
        assert more >= struck - 1
        return
    assert more in (row.requests * struck, row.requests * max(struck - 1, 0)), outcome.seen.notices


def is_empty(request: RequestRecord) -> bool:
    return request.fault is not None and request.fault.kind == "end" and request.bytes_sent == 0


def check_empty(row: Row, outcome: Outcome, server: str) -> None:
    """A server that has forgotten all answers like that, so it is an error: nothing is lost silently."""
    seen, error = outcome.seen, ours(outcome.seen.error)
    assert isinstance(error, rl.StreamInterrupted)
    assert type(error).__name__ == row.empty
    assert error.partial_text == seen.text
    assert seen.events == replayed(row, outcome, server).events[: len(seen.events)]


def check_lost(row: Row, outcome: Outcome, whole: Outcome, expected: set[str]) -> None:
    """The error is the one expected, and says exactly what was sent."""
    seen, answer = outcome.seen, [request for request in outcome.requests if request.streamed][-1]
    error = ours(seen.error) or seen.error
    assert {type(error).__name__} == expected, seen.notices
    if not isinstance(error, rl.StreamInterrupted):  # its SDK keeps ours to itself
        assert not seen.events
        return
    assert answer.fault is not None, "a false alarm"
    assert error.checkpoint is not None
    assert error.checkpoint.events == len(seen.events) == answer.events_sent
    assert error.partial_text == seen.text
    assert normal(seen.events, row) == normal(whole.seen.events[: len(seen.events)], row)
    assert len(outcome.requests) <= outcome.questions + (row.requests or 0) + row.at_end


@pytest.fixture(scope="session")
def llama_for_groq(pytestconfig: pytest.Config) -> Iterator[str]:
    """llama.cpp where groq's SDK looks for it."""
    with ExitStack() as stack:
        with skip_and_tell(pytestconfig, "llama.cpp", servers.ServerUnavailable, ModelUnavailable):
            program = [sys.executable, str(servers.APPS / "llama_prefixed.py")]
            server = stack.enter_context(servers._running([*program, str(ensure_model()), "/openai"]))
        yield server.url


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=str(row), marks=needs_python(row.client, row.python)) for row in ROWS]
)
def test_row(row: Row, request: pytest.FixtureRequest) -> None:
    server: str = request.getfixturevalue(row.server)
    whole = ask(row, server, watched=False)
    assert whole.seen.error is None
    assert whole.seen.events
    assert len(whole.requests) == 1 + row.own + row.unwrapped

    healthy = ask(row, server)
    check(row, healthy, whole, server)
    assert not healthy.seen.count("drop"), "a false alarm"
    assert len(healthy.requests) == 1 + row.at_end + row.own

    before, behind = Fault.rst(at_byte=0), Fault.rst(at_event=whole.requests[0].events_sent)
    cuts = [*plans(row, whole.requests[0]), FaultPlan(before), FaultPlan(behind)]
    with ThreadPoolExecutor(row.at_once) as pool:
        outcomes = list(pool.map(lambda plan: ask(row, server, plan), cuts))
    for outcome in outcomes:
        check(row, outcome, whole, server)
    assert sum(outcome.struck for outcome in outcomes) >= len(CUTS)
    assert sum(outcome.seen.count("drop") for outcome in outcomes) >= len(CUTS) // 2


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tests.systems.table"
