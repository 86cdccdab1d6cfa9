from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import resumable_llm as rl
from resumable_llm.core.actions import Send, Surface
from resumable_llm.core.model import Notice
from resumable_llm.core.states import State
from resumable_llm.dialects import ANY_EVENT_STREAM
from resumable_llm.drivers import async_driver
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.exchange import CANCEL_SECONDS, AsyncExchange
from tests.drivers.wires import (
    CHAT,
    DONE,
    END,
    EVENTS,
    HELLO,
    LEFT_OFF,
    LLAMA,
    NAMED,
    ONE,
    SSE,
    TWO,
    Asked,
    Broken,
    FamilyError,
    RoundInCircles,
    an_hour,
    conversation,
)


class Wire:
    """Opens the exchanges of a script, in order; knows what was sent."""

    def __init__(self, *script: AsyncExchange | Exception) -> None:
        self._script = deque(script)
        self.sent: list[Send] = []

    async def __call__(self, send: Send) -> AsyncExchange:
        await anyio.lowlevel.checkpoint()
        self.sent.append(send)
        said = self._script.popleft()
        if isinstance(said, Exception):
            raise said
        return said


class Answer(AsyncExchange):
    """A response; its pieces arrive, are raised or, where they are callable, are awaited."""

    def __init__(
        self,
        *pieces: bytes | Exception | Callable[[], Awaitable[object]],
        status: int = 200,
        headers: dict[str, str] = SSE,
    ) -> None:
        self.pieces = deque(pieces)
        self.closed = 0
        super().__init__(status, headers, self, self._close)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        while self.pieces:
            piece = self.pieces.popleft()
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                return piece
            await piece()
        raise StopAsyncIteration

    async def _close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1


class Driver(AsyncDriver):
    conversation: Asked


def driver(talk: Asked, wire: Wire, on_event: Callable[[Notice], object] | None = None) -> Driver:
    return Driver(talk, wire, (Broken,), FamilyError, on_event=on_event, clock=lambda: 0.0)


async def everything(driving: AsyncDriver) -> None:
    async for _ in driving.slices():
        pass


async def test_events_over_two_connections() -> None:
    first, second = Answer(ONE, TWO[:5], Broken("cut")), Answer(ONE + TWO, END)
    wire = Wire(first, second)
    notices: list[str] = []
    driving = driver(conversation(one_by_one=True), wire, lambda notice: notices.append(notice.kind))
    assert await driving.begin()
    assert [part async for part in driving.slices()] == [ONE, TWO, END]
    assert [dict(send.plan.headers).get("Last-Event-ID") for send in wire.sent] == [None, "1"]
    assert notices == ["drop", "resume", "end"]
    assert (first.closed, second.closed) == (1, 1)
    assert driving.exchange is None


async def test_slices_over_two_connections() -> None:
    wire = Wire(Answer(ONE, TWO[:5]), Answer(TWO, END))
    driving = driver(conversation(), wire)
    assert await driving.begin()
    assert [part async for part in driving.slices()] == [ONE, TWO, END]
    assert len(wire.sent) == 2


async def test_plain_slices_pass_as_they_are() -> None:
    driving = driver(conversation(CHAT), Wire(Answer(HELLO, HELLO + HELLO, DONE)))
    assert await driving.begin()
    slices = [part async for part in driving.slices()]
    assert slices == [HELLO, HELLO + HELLO, DONE]
    assert slices[0] is HELLO


async def test_a_connection_that_breaks_among_plain_slices() -> None:
    driving = driver(conversation(CHAT), Wire(Answer(HELLO, Broken("cut"))))
    assert await driving.begin()
    slices = driving.slices()
    assert await anext(slices) is HELLO
    with pytest.raises(rl.CannotResume) as caught:
        await anext(slices)
    assert isinstance(caught.value, FamilyError)
    assert isinstance(caught.value.__cause__, Broken)
    assert caught.value.partial_text == "hello"


async def test_the_first_request_may_be_somebody_elses() -> None:
    driving = driver(conversation(), Wire())
    assert driving.first() == Send(EVENTS, None)
    driving.adopt(Answer(ONE, END))
    assert [part async for part in driving.slices()] == [ONE, END]


async def test_a_refusal_is_the_callers() -> None:
    refusal = Answer(status=401)
    driving = driver(conversation(), Wire(refusal))
    assert not await driving.begin()
    assert driving.exchange is refusal
    assert not refusal.closed


async def test_a_complete_answer_is_not_asked_for() -> None:
    driving = driver(conversation(checkpoint=replace(LEFT_OFF, complete=True)), Wire())
    assert await driving.begin()


async def test_a_request_that_cannot_be_sent_is_sent_again() -> None:
    wire = Wire(Broken("refused"), Answer(status=503), Answer(END))
    driving = driver(conversation(), wire)
    assert await driving.begin()
    assert [part async for part in driving.slices()] == [END]
    assert len(wire.sent) == 3


async def test_a_refused_repeat_is_the_callers_too() -> None:
    busy, refusal = Answer(status=503), Answer(b"no", status=401)
    driving = driver(conversation(CHAT), Wire(busy, refusal))
    assert not await driving.begin()
    assert driving.exchange is refusal
    assert (busy.closed, refusal.closed) == (1, 0)


async def test_a_refused_return_is_read_for_its_reason() -> None:
    refusal = Answer(b"no", b"such thing", status=404)
    driving = driver(conversation(checkpoint=LEFT_OFF), Wire(refusal))
    with pytest.raises(rl.ResumeExpired):
        await driving.begin()
    assert not refusal.pieces
    assert refusal.closed == 1


async def test_a_refused_return_that_breaks_is_a_drop() -> None:
    driving = driver(conversation(checkpoint=LEFT_OFF), Wire(Answer(Broken("cut"), status=404), Answer(TWO, END)))
    assert await driving.begin()
    assert [part async for part in driving.slices()] == [TWO, END]


async def test_giving_up_before_the_answer() -> None:
    cause = Broken("refused")
    driving = driver(conversation(), Wire(Broken("refused"), Broken("refused"), cause))
    with pytest.raises(rl.RetriesExhausted) as caught:
        await driving.begin()
    assert isinstance(caught.value, FamilyError)
    assert caught.value.__cause__ is cause
    assert caught.value.report is not None
    assert caught.value.report.attempts == 3


async def test_other_errors_pass_untouched_and_let_go() -> None:
    mine = ZeroDivisionError()
    answer = Answer(ONE, mine)
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    slices = driving.slices()
    await anext(slices)
    with pytest.raises(ZeroDivisionError) as caught:
        await anext(slices)
    assert caught.value is mine
    assert answer.closed == 1


async def test_a_refused_resume_is_read() -> None:
    refusal = Answer(b"gone", b"", status=404)
    driving = driver(conversation(), Wire(Answer(ONE, Broken("cut")), refusal))
    await driving.begin()
    slices = driving.slices()
    assert await anext(slices) == ONE
    with pytest.raises(rl.ResumeExpired):
        await anext(slices)
    assert refusal.closed == 1


async def test_a_refused_resume_that_breaks_is_a_drop() -> None:
    wire = Wire(Answer(ONE, Broken("cut")), Answer(Broken("cut again"), status=404), Answer(TWO, END))
    driving = driver(conversation(), wire)
    await driving.begin()
    assert [part async for part in driving.slices()] == [ONE, TWO, END]


async def test_a_backoff_passes_and_holds_no_connection() -> None:
    first = Answer(ONE, Broken("cut"))
    wire = Wire(first, Answer(TWO, END))
    held: list[object] = []
    driving = driver(
        conversation(backoff=lambda *_: 0.001),
        wire,
        lambda notice: held.append(driving.exchange) if notice.kind == "wait" else None,
    )
    await driving.begin()
    assert [part async for part in driving.slices()] == [ONE, TWO, END]
    assert held == [None]
    assert first.closed == 1


async def test_closing_wakes_a_backoff() -> None:
    waiting = anyio.Event()
    driving = driver(
        conversation(backoff=an_hour),
        Wire(Answer(ONE, Broken("cut"))),
        lambda notice: waiting.set() if notice.kind == "wait" else None,
    )
    await driving.begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(everything, driving)
        await waiting.wait()
        await anyio.wait_all_tasks_blocked()
        await driving.aclose()


async def test_closing_while_the_connection_is_let_go_for_a_backoff() -> None:
    class Closing(Answer):
        async def _close(self) -> None:
            await super()._close()
            await driving.aclose()

    busy = Closing(status=503)
    driving = driver(
        conversation(backoff=lambda failures, *_: 3600.0 if failures else 0.0),
        Wire(Answer(ONE, Broken("cut")), busy),
    )
    await driving.begin()
    assert [part async for part in driving.slices()] == [ONE]
    assert busy.closed == 1


async def test_closing_wakes_a_blocked_read() -> None:
    reading, gone = anyio.Event(), anyio.Event()

    async def blocked() -> None:
        reading.set()
        await gone.wait()
        raise Broken("the connection is gone")

    class Shut(Answer):
        async def _close(self) -> None:
            await super()._close()
            gone.set()

    answer = Shut(ONE, blocked)
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(everything, driving)
        await reading.wait()
        await driving.aclose()
    assert answer.closed == 1
    assert driving.conversation.report.events == 1
    assert driving.conversation.report.drops == ()


async def test_a_cancelled_reader_lets_go() -> None:
    answer = Answer(ONE, anyio.sleep_forever)
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(everything, driving)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert answer.closed == 1


async def test_a_callback_that_fails_does_not_cost_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def fail(notice: Notice) -> None:
        raise ZeroDivisionError

    driving = driver(conversation(), Wire(Answer(ONE, Broken("cut")), Answer(TWO, END)), fail)
    await driving.begin()
    assert [part async for part in driving.slices()] == [ONE, TWO, END]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3


async def test_what_follows_the_end_is_drained() -> None:
    answer = Answer(END, b"late\n", b"later\n")
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    assert len([part async for part in driving.slices()]) == 1
    assert not answer.pieces
    assert answer.closed == 1


async def test_draining_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_driver, "DRAIN_BYTES", 10)
    answer = Answer(END, b"12345", b"67890", b"1", b"2")
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    assert [part async for part in driving.slices()] == [END]
    assert list(answer.pieces) == [b"2"]


async def test_draining_is_bounded_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_driver, "DRAIN_SECONDS", 0.01)
    answer = Answer(END, anyio.sleep_forever)
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    assert [part async for part in driving.slices()] == [END]
    assert not answer.pieces
    assert answer.closed == 1


async def test_an_error_behind_the_end_is_nobodys_affair() -> None:
    answer = Answer(END, Broken("cut"))
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    assert [part async for part in driving.slices()] == [END]
    assert not answer.pieces


async def test_an_end_that_only_the_end_of_the_body_shows() -> None:
    driving = driver(conversation(dialect=ANY_EVENT_STREAM), Wire(Answer(b"data: a\n\n")))
    await driving.begin()
    assert [part async for part in driving.slices()] == [b"data: a\n\n"]
    assert not driving.conversation.report.end_proved


async def test_cancel_tells_the_server() -> None:
    talked, told = Answer(HELLO, HELLO, headers=LLAMA), Answer(status=204)
    wire = Wire(talked, told)
    driving = driver(conversation(NAMED), wire)
    await driving.begin()
    slices: Any = driving.slices()
    async with aclosing(slices):
        assert await anext(slices) == HELLO
        await driving.cancel()
    assert wire.sent[1].plan.method == "DELETE"
    assert wire.sent[1].plan.query == {"conv_id": "key"}
    assert wire.sent[1].read_timeout == CANCEL_SECONDS
    assert (talked.closed, told.closed) == (1, 1)


async def test_cancel_where_closing_is_all_that_can_be_done() -> None:
    answer = Answer(ONE)
    wire = Wire(answer)
    driving = driver(conversation(), wire)
    await driving.begin()
    await driving.cancel()
    assert len(wire.sent) == 1
    assert answer.closed == 1


async def test_a_server_that_will_not_stop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    driving = driver(conversation(NAMED), Wire(Answer(HELLO, headers=LLAMA), Answer(status=500)))
    await driving.begin()
    await driving.cancel()
    assert "500" in caplog.text


async def test_cancel_that_cannot_be_sent_raises() -> None:
    driving = driver(conversation(NAMED), Wire(Answer(HELLO, headers=LLAMA), Broken("refused")))
    await driving.begin()
    with pytest.raises(Broken):
        await driving.cancel()


async def test_whoever_abandons_what_only_we_keep_alive_cancels_it() -> None:
    wire = Wire(Answer(HELLO, headers=LLAMA), Answer(status=204))
    driving = driver(conversation(NAMED), wire)
    await driving.begin()
    await driving.abandon()
    await driving.abandon()
    assert [send.plan.method for send in wire.sent] == ["POST", "DELETE"]


async def test_a_cancel_that_fails_while_abandoning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer = Answer(HELLO, headers=LLAMA)
    driving = driver(conversation(NAMED), Wire(answer, Broken("refused")))
    await driving.begin()
    await driving.abandon()
    assert "could not be told to stop: Broken" in caplog.text
    assert answer.closed == 1


async def test_abandoning_cancels_nothing_that_somebody_may_come_back_to() -> None:
    wire = Wire(Answer(HELLO, headers=LLAMA))
    driving = driver(conversation(NAMED), wire)
    await driving.begin()
    driving.conversation.deliver_one_by_one()
    await driving.abandon()
    assert len(wire.sent) == 1


async def test_abandoning_at_the_terminal_event_tells_of_the_end() -> None:
    notices: list[str] = []
    driving = driver(conversation(), Wire(Answer(END)), lambda notice: notices.append(notice.kind))
    await driving.begin()
    slices: Any = driving.slices()
    async with aclosing(slices):
        assert await anext(slices) == END
        await driving.abandon()
    assert notices == ["end"]


async def test_a_reader_that_stops_lets_go() -> None:
    answer = Answer(ONE, TWO)
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    slices: Any = driving.slices()
    assert await anext(slices) == ONE
    await slices.aclose()
    assert answer.closed == 1


async def test_a_reader_after_the_first_goes_on() -> None:
    wire = Wire(Answer(ONE, TWO), Answer(TWO, END))
    driving = driver(conversation(), wire)
    await driving.begin()
    slices: Any = driving.slices()
    assert await anext(slices) == ONE
    await slices.aclose()
    assert [part async for part in driving.slices()] == [TWO, END]
    assert wire.sent[1].plan.header("last-event-id") == "1"


async def test_closing_twice_is_closing_once() -> None:
    answer = Answer(ONE)
    driving = driver(conversation(), Wire(answer))
    await driving.begin()
    await driving.aclose()
    await driving.aclose()
    assert answer.closed == 1
    assert [part async for part in driving.slices()] == []


async def test_closing_before_the_start() -> None:
    wire = Wire()
    driving = driver(conversation(), wire)
    await driving.aclose()
    assert [part async for part in driving.slices()] == []
    assert wire.sent == []


async def test_what_is_none_of_our_business_is_not_performed() -> None:
    with pytest.raises(AssertionError, match="Surface"):
        await driver(conversation(), Wire())._perform(Surface())


async def test_closing_before_the_answer_ends_the_beginning() -> None:
    waiting = anyio.Event()
    rounds: list[RoundInCircles] = []
    driving = driver(
        conversation(backoff=an_hour),
        Wire(Answer(status=503)),
        lambda notice: waiting.set() if notice.kind == "wait" else None,
    )

    async def begin() -> None:
        try:
            await driving.begin()
        except RoundInCircles as error:
            rounds.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin)
        await waiting.wait()
        await anyio.wait_all_tasks_blocked()
        driving.conversation.times = 100  # there is nothing more to be asked
        await driving.aclose()
    assert not rounds
    assert [part async for part in driving.slices()] == []


async def test_a_cancelled_reader_has_the_server_stop_too() -> None:
    wire = Wire(Answer(HELLO, headers=LLAMA), Answer(status=204))
    driving = driver(conversation(NAMED), wire)
    await driving.begin()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await driving.abandon()
    assert [send.plan.method for send in wire.sent] == ["POST", "DELETE"]


async def test_a_server_that_does_not_answer_holds_up_a_cancel_for_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(async_driver, "CANCEL_SECONDS", 0.01)

    class Deaf(Wire):
        async def __call__(self, send: Send) -> AsyncExchange:
            exchange = await super().__call__(send)
            if send.plan.method == "DELETE":
                await anyio.sleep_forever()
            return exchange

    answer = Answer(HELLO, headers=LLAMA)
    wire = Deaf(answer, Answer(status=204))
    driving = driver(conversation(NAMED), wire)
    await driving.begin()
    await driving.cancel()
    assert [send.plan.method for send in wire.sent] == ["POST", "DELETE"]
    assert answer.closed == 1


async def test_an_end_that_closing_causes_is_none() -> None:
    # A body that lasts until the connection closes ends cleanly when close() shuts the socket under the reader.
    answer = Answer(b"data: a\n\n")
    driving = driver(conversation(dialect=ANY_EVENT_STREAM), Wire(answer))
    answer.pieces.append(driving.aclose)
    await driving.begin()
    assert len([part async for part in driving.slices()]) == 1
    assert driving.conversation.state is State.STREAMING
    assert not driving.conversation.checkpoint.complete


async def pull(driving: AsyncDriver, got: list[bytes]) -> None:
    async for part in driving.slices():
        got.append(part)  # noqa: PERF401 - what came before a failure counts


async def pour(driving: AsyncDriver, got: list[bytes]) -> None:
    await driving.pour(got.append)


STORIES: dict[str, Callable[[], tuple[Asked, list[AsyncExchange | Exception]]]] = {
    "plain": lambda: (conversation(CHAT), [Answer(HELLO, HELLO + HELLO, HELLO[:9], HELLO[9:] + DONE)]),
    "behind the end": lambda: (conversation(CHAT), [Answer(HELLO, DONE, HELLO, Broken("late"))]),
    "broken": lambda: (conversation(CHAT), [Answer(HELLO, Broken("cut"))]),
    "two connections": lambda: (conversation(), [Answer(ONE, TWO[:5]), Answer(ONE + TWO, END)]),
    "unreachable": lambda: (conversation(), [Answer(ONE, Broken("cut")), Broken("away"), Answer(TWO, END)]),
    "one by one": lambda: (conversation(one_by_one=True), [Answer(ONE + TWO, Broken("cut")), Answer(END)]),
    "no end": lambda: (conversation(), [Answer(ONE), *[Broken("away")] * 5]),
}


@pytest.mark.parametrize("name", STORIES)
async def test_pouring_hands_over_what_slices_give(name: str) -> None:
    told: list[Any] = []
    for way in (pull, pour):
        talk, script = STORIES[name]()
        wire, notices, got = Wire(*script), list[str](), list[bytes]()
        driving = driver(talk, wire, lambda notice, to=notices: to.append(notice.kind))  # type: ignore[misc]
        assert await driving.begin()
        failure: Exception | None = None
        try:
            await way(driving, got)
        except rl.ResumableError as error:
            failure = error
        answers = [each for each in script if isinstance(each, Answer)]
        told.append((got, notices, wire.sent, str(failure), talk.checkpoint, [each.closed for each in answers]))
        assert driving.exchange is None
    assert told[0] == told[1]


async def test_what_the_taker_raises_comes_out_and_lets_go() -> None:
    def refuse(_: bytes) -> None:
        raise ZeroDivisionError

    for pieces in ([ONE, END], [HELLO, HELLO, DONE]):
        answer = Answer(*pieces)
        driving = driver(conversation(CHAT if HELLO in pieces else EVENTS), Wire(answer))
        assert await driving.begin()
        with pytest.raises(ZeroDivisionError):
            await driving.pour(refuse)
        assert answer.closed == 1


@pytest.mark.parametrize("pieces", [[HELLO, HELLO, HELLO, DONE], [HELLO, HELLO[:9], HELLO[9:], HELLO, DONE]])
async def test_closing_ends_a_pouring(pieces: list[bytes]) -> None:
    answer = Answer(*pieces)
    driving = driver(conversation(CHAT), Wire(answer))
    assert await driving.begin()
    got: list[bytes] = []

    def take(data: bytes) -> None:
        got.append(data)
        driving._closed = len(got) == 2

    await driving.pour(take)
    assert got == [HELLO, HELLO]
    assert answer.closed == 1


async def test_pouring_what_somebody_else_has_closed() -> None:
    driving = driver(conversation(), Wire(Answer(ONE)))
    assert await driving.begin()
    await driving.aclose()
    got: list[bytes] = []
    await driving.pour(got.append)
    assert got == []
