from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.core.actions import Action, Send, Surface
from resumable_llm.core.model import Notice
from resumable_llm.core.states import State
from resumable_llm.dialects import ANY_EVENT_STREAM
from resumable_llm.drivers import sync_driver
from resumable_llm.drivers.exchange import CANCEL_SECONDS, Exchange
from resumable_llm.drivers.sync_driver import SyncDriver
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
    an_hour,
    conversation,
)


class Wire:
    """Opens the exchanges of a script, in order; knows what was sent and which exchanges are closed."""

    def __init__(self, *script: Exchange | Exception) -> None:
        self._script = deque(script)
        self.sent: list[Send] = []

    def __call__(self, send: Send) -> Exchange:
        self.sent.append(send)
        said = self._script.popleft()
        if isinstance(said, Exception):
            raise said
        return said


class Answer(Exchange):
    """A response; of its pieces bytes arrive, errors are raised, and what is callable is called when its turn comes."""

    def __init__(
        self,
        *pieces: bytes | Exception | Callable[[], object],
        status: int = 200,
        headers: dict[str, str] = SSE,
        socket: socket.socket | None = None,
    ) -> None:
        self.pieces = deque(pieces)
        self.closed = 0
        super().__init__(status, headers, self._read(), self._close, socket)

    def _read(self) -> Iterator[bytes]:
        while self.pieces:
            piece = self.pieces.popleft()
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                yield piece
            else:
                piece()

    def _close(self) -> None:
        self.closed += 1


def driver(talk: Asked, wire: Wire, on_event: Callable[[Notice], object] | None = None) -> SyncDriver:
    return SyncDriver(talk, wire, (Broken,), FamilyError, on_event=on_event, clock=lambda: 0.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_events_over_two_connections() -> None:
    first, second = Answer(ONE, TWO[:5], Broken("cut")), Answer(ONE + TWO, END)
    wire = Wire(first, second)
    notices: list[str] = []
    driving = driver(conversation(one_by_one=True), wire, lambda notice: notices.append(notice.kind))
    assert driving.begin()
    assert list(driving.slices()) == [ONE, TWO, END]
    assert [dict(send.plan.headers).get("Last-Event-ID") for send in wire.sent] == [None, "1"]
    assert notices == ["drop", "resume", "end"]
    assert (first.closed, second.closed) == (1, 1)
    assert driving.exchange is None


def test_slices_over_two_connections() -> None:
    wire = Wire(Answer(ONE, TWO[:5]), Answer(TWO, END))
    driving = driver(conversation(), wire)
    assert driving.begin()
    assert list(driving.slices()) == [ONE, TWO, END]
    assert len(wire.sent) == 2


def test_plain_slices_pass_as_they_are() -> None:
    driving = driver(conversation(CHAT), Wire(Answer(HELLO, HELLO + HELLO, DONE)))
    assert driving.begin()
    slices = list(driving.slices())
    assert slices == [HELLO, HELLO + HELLO, DONE]
    assert slices[0] is HELLO


def test_a_connection_that_breaks_among_plain_slices() -> None:
    driving = driver(conversation(CHAT), Wire(Answer(HELLO, Broken("cut"))))
    assert driving.begin()
    slices = driving.slices()
    assert next(slices) is HELLO
    with pytest.raises(rl.CannotResume) as caught:
        next(slices)
    assert isinstance(caught.value, FamilyError)
    assert isinstance(caught.value.__cause__, Broken)
    assert caught.value.partial_text == "hello"


def test_the_first_request_may_be_somebody_elses() -> None:
    driving = driver(conversation(), Wire())
    assert driving.first() == Send(EVENTS, None)
    driving.adopt(Answer(ONE, END))
    assert list(driving.slices()) == [ONE, END]


def test_a_refusal_is_the_callers() -> None:
    refusal = Answer(status=401)
    driving = driver(conversation(), Wire(refusal))
    assert not driving.begin()
    assert driving.exchange is refusal
    assert not refusal.closed


def test_a_complete_answer_is_not_asked_for() -> None:
    driving = driver(conversation(checkpoint=replace(LEFT_OFF, complete=True)), Wire())
    assert driving.begin()


def test_a_request_that_cannot_be_sent_is_sent_again() -> None:
    wire = Wire(Broken("refused"), Answer(status=503), Answer(END))
    driving = driver(conversation(), wire)
    assert driving.begin()
    assert list(driving.slices()) == [END]
    assert len(wire.sent) == 3


def test_a_refused_repeat_is_the_callers_too() -> None:
    busy, refusal = Answer(status=503), Answer(b"no", status=401)
    driving = driver(conversation(CHAT), Wire(busy, refusal))
    assert not driving.begin()
    assert driving.exchange is refusal
    assert (busy.closed, refusal.closed) == (1, 0)


def test_a_refused_return_is_read_for_its_reason() -> None:
    refusal = Answer(b"no", b"such thing", status=404)
    driving = driver(conversation(checkpoint=LEFT_OFF), Wire(refusal))
    with pytest.raises(rl.ResumeExpired):
        driving.begin()
    assert not refusal.pieces
    assert refusal.closed == 1


def test_a_refused_return_that_breaks_is_a_drop() -> None:
    driving = driver(conversation(checkpoint=LEFT_OFF), Wire(Answer(Broken("cut"), status=404), Answer(TWO, END)))
    assert driving.begin()
    assert list(driving.slices()) == [TWO, END]


def test_giving_up_before_the_answer() -> None:
    cause = Broken("refused")
    driving = driver(conversation(), Wire(Broken("refused"), Broken("refused"), cause))
    with pytest.raises(rl.RetriesExhausted) as caught:
        driving.begin()
    assert isinstance(caught.value, FamilyError)
    assert caught.value.__cause__ is cause
    assert caught.value.report is not None
    assert caught.value.report.attempts == 3


def test_other_errors_pass_untouched_and_let_go() -> None:
    mine = ZeroDivisionError()
    answer = Answer(ONE, mine)
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    slices = driving.slices()
    next(slices)
    with pytest.raises(ZeroDivisionError) as caught:
        next(slices)
    assert caught.value is mine
    assert answer.closed == 1


def test_a_refused_resume_is_read() -> None:
    refusal = Answer(b"gone", b"", status=404)
    driving = driver(conversation(), Wire(Answer(ONE, Broken("cut")), refusal))
    driving.begin()
    slices = driving.slices()
    assert next(slices) == ONE
    with pytest.raises(rl.ResumeExpired):
        next(slices)
    assert refusal.closed == 1


def test_a_refused_resume_that_breaks_is_a_drop() -> None:
    wire = Wire(Answer(ONE, Broken("cut")), Answer(Broken("cut again"), status=404), Answer(TWO, END))
    driving = driver(conversation(), wire)
    driving.begin()
    assert list(driving.slices()) == [ONE, TWO, END]


def test_a_backoff_passes_and_holds_no_connection() -> None:
    first = Answer(ONE, Broken("cut"))
    wire = Wire(first, Answer(TWO, END))
    held: list[object] = []
    driving = driver(
        conversation(backoff=lambda *_: 0.001),
        wire,
        lambda notice: held.append(driving.exchange) if notice.kind == "wait" else None,
    )
    driving.begin()
    assert list(driving.slices()) == [ONE, TWO, END]
    assert held == [None]
    assert first.closed == 1


def test_closing_wakes_a_backoff() -> None:
    waiting = threading.Event()
    driving = driver(
        conversation(backoff=an_hour),
        Wire(Answer(ONE, Broken("cut"))),
        lambda notice: waiting.set() if notice.kind == "wait" else None,
    )
    driving.begin()
    reader = threading.Thread(target=lambda: list(driving.slices()))
    reader.start()
    assert waiting.wait(10)
    driving.close()
    reader.join(10)
    assert not reader.is_alive()


def test_closing_wakes_a_blocked_read(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    reading = threading.Event()

    def blocked() -> None:
        reading.set()
        ours.recv(1)
        raise Broken("the connection is gone")

    answer = Answer(ONE, blocked, socket=ours)
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.extend(driving.slices()))
    reader.start()
    assert reading.wait(10)
    driving.close()
    reader.join(10)
    assert not reader.is_alive()
    assert len(got) == 1
    assert answer.closed == 1
    assert driving.conversation.report.drops == ()


def test_a_callback_that_fails_does_not_cost_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def fail(notice: Notice) -> None:
        raise ZeroDivisionError

    driving = driver(conversation(), Wire(Answer(ONE, Broken("cut")), Answer(TWO, END)), fail)
    driving.begin()
    assert list(driving.slices()) == [ONE, TWO, END]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3


def test_a_callback_may_close_the_stream() -> None:
    answer = Answer(ONE, Broken("cut"))
    driving = driver(conversation(), Wire(answer), lambda notice: driving.close())
    driving.begin()
    assert list(driving.slices()) == [ONE]
    assert answer.closed == 1


def test_what_follows_the_end_is_drained(pair: tuple[socket.socket, socket.socket]) -> None:
    answer = Answer(END, b"late\n", b"later\n", socket=pair[0])
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    assert len(list(driving.slices())) == 1
    assert not answer.pieces
    assert answer.closed == 1


def test_draining_is_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr(sync_driver, "DRAIN_BYTES", 10)
    answer = Answer(END, b"12345", b"67890", b"1", b"2", socket=pair[0])
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    assert list(driving.slices()) == [END]
    assert list(answer.pieces) == [b"2"]


def test_draining_is_bounded_in_seconds(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr(sync_driver, "DRAIN_SECONDS", 0.01)
    ours, _ = pair
    answer = Answer(END, lambda: ours.recv(1), Broken("gone"), socket=ours)
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    assert list(driving.slices()) == [END]
    assert not answer.pieces
    assert answer.closed == 1


def test_without_a_socket_nothing_could_end_the_draining() -> None:
    answer = Answer(END, b"late\n")
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    assert list(driving.slices()) == [END]
    assert list(answer.pieces) == [b"late\n"]


def test_an_end_that_only_the_end_of_the_body_shows() -> None:
    driving = driver(conversation(dialect=ANY_EVENT_STREAM), Wire(Answer(b"data: a\n\n")))
    driving.begin()
    assert list(driving.slices()) == [b"data: a\n\n"]
    assert not driving.conversation.report.end_proved


def test_cancel_tells_the_server() -> None:
    talked, told = Answer(HELLO, HELLO, headers=LLAMA), Answer(status=204)
    wire = Wire(talked, told)
    driving = driver(conversation(NAMED), wire)
    driving.begin()
    assert next(driving.slices()) == HELLO
    driving.cancel()
    assert wire.sent[1].plan.method == "DELETE"
    assert wire.sent[1].plan.query == {"conv_id": "key"}
    assert wire.sent[1].read_timeout == CANCEL_SECONDS
    assert (talked.closed, told.closed) == (1, 1)


def test_cancel_where_closing_is_all_that_can_be_done() -> None:
    answer = Answer(ONE)
    wire = Wire(answer)
    driving = driver(conversation(), wire)
    driving.begin()
    driving.cancel()
    assert len(wire.sent) == 1
    assert answer.closed == 1


def test_a_server_that_will_not_stop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    driving = driver(conversation(NAMED), Wire(Answer(HELLO, headers=LLAMA), Answer(status=500)))
    driving.begin()
    driving.cancel()
    assert "500" in caplog.text


def test_cancel_that_cannot_be_sent_raises() -> None:
    driving = driver(conversation(NAMED), Wire(Answer(HELLO, headers=LLAMA), Broken("refused")))
    driving.begin()
    with pytest.raises(Broken):
        driving.cancel()


def test_whoever_abandons_what_only_we_keep_alive_cancels_it() -> None:
    wire = Wire(Answer(HELLO, headers=LLAMA), Answer(status=204))
    driving = driver(conversation(NAMED), wire)
    driving.begin()
    driving.abandon()
    driving.abandon()
    assert [send.plan.method for send in wire.sent] == ["POST", "DELETE"]


def test_a_cancel_that_fails_while_abandoning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer = Answer(HELLO, headers=LLAMA)
    driving = driver(conversation(NAMED), Wire(answer, Broken("refused")))
    driving.begin()
    driving.abandon()
    assert "could not be told to stop: Broken" in caplog.text
    assert answer.closed == 1


def test_abandoning_cancels_nothing_that_somebody_may_come_back_to() -> None:
    wire = Wire(Answer(HELLO, headers=LLAMA))
    driving = driver(conversation(NAMED), wire)
    driving.begin()
    driving.conversation.deliver_one_by_one()
    driving.abandon()
    assert len(wire.sent) == 1


def test_abandoning_at_the_terminal_event_tells_of_the_end() -> None:
    notices: list[str] = []
    driving = driver(conversation(), Wire(Answer(END)), lambda notice: notices.append(notice.kind))
    driving.begin()
    assert next(driving.slices()) == END
    driving.abandon()
    assert notices == ["end"]


def test_a_reader_that_stops_lets_go() -> None:
    answer = Answer(ONE, TWO)
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    slices: Any = driving.slices()
    assert next(slices) == ONE
    slices.close()
    assert answer.closed == 1


def test_a_reader_after_the_first_goes_on() -> None:
    wire = Wire(Answer(ONE, TWO), Answer(TWO, END))
    driving = driver(conversation(), wire)
    driving.begin()
    slices: Any = driving.slices()
    assert next(slices) == ONE
    slices.close()
    assert list(driving.slices()) == [TWO, END]
    assert wire.sent[1].plan.header("last-event-id") == "1"


def test_closing_twice_is_closing_once(pair: tuple[socket.socket, socket.socket]) -> None:
    answer = Answer(ONE, socket=pair[0])
    driving = driver(conversation(), Wire(answer))
    driving.begin()
    driving.close()
    driving.close()
    assert answer.closed == 1
    assert list(driving.slices()) == []


def test_closing_before_the_start() -> None:
    wire = Wire()
    driving = driver(conversation(), wire)
    driving.close()
    assert list(driving.slices()) == []
    assert wire.sent == []


def test_what_is_none_of_our_business_is_not_performed() -> None:
    with pytest.raises(AssertionError, match="Surface"):
        driver(conversation(), Wire())._perform(Surface())


@pytest.mark.parametrize("first", [Answer(status=503), Broken("refused")])
def test_closing_before_the_answer_ends_the_beginning(first: Answer | Exception) -> None:
    wire = Wire(first)
    driving = driver(conversation(backoff=an_hour), wire, lambda notice: driving.close())
    driving.begin()
    assert len(wire.sent) == 1
    assert list(driving.slices()) == []


def test_an_end_that_closing_causes_is_none() -> None:
    # A body that lasts until the connection closes ends cleanly when close() shuts the socket under the reader.
    answer = Answer(b"data: a\n\n")
    driving = driver(conversation(dialect=ANY_EVENT_STREAM), Wire(answer))
    answer.pieces.append(driving.close)
    driving.begin()
    assert len(list(driving.slices())) == 1
    assert driving.conversation.state is State.STREAMING
    assert not driving.conversation.checkpoint.complete


def test_closing_just_before_a_read() -> None:
    # Another thread closes when the reader has just looked whether it is closed.
    class ClosedMeanwhile(Asked):
        def next_action(self) -> Action:
            action = super().next_action()
            driving.close()
            return action

    talk = ClosedMeanwhile(EVENTS, ANY_EVENT_STREAM, an_hour, conversation()._limits)
    driving = driver(talk, Wire())
    driving.conversation.start(0.0)
    driving.adopt(Answer(ONE))
    assert list(driving.slices()) == []


def test_closing_while_the_reader_lets_go() -> None:
    # The reader's thread lets go when another thread, which closes, has just looked what there is to be closed.
    class LetGoMeanwhile(SyncDriver):
        def __getattribute__(self, name: str) -> object:
            found = super().__getattribute__(name)
            if name == "exchange":
                self.exchange = None
            return found

    driving = LetGoMeanwhile(conversation(), Wire(), (Broken,), FamilyError)
    driving.first()
    driving.adopt(Answer(ONE))
    driving.close()
