"""The same call again: first what was received, then the rest, byte for byte, and never a second generation."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.log import MemoryStore, State
from resumable_llm.transports.shelf import Shelf
from tests.in_memory import (
    FAMILIES,
    LLAMA,
    SSE,
    Said,
    chat,
    numbered,
    transport,
)
from tests.transports.journaled import KEY, WHOLE, Caller, Remote, log_of, open_async, open_sync

# Finished answers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_answer_is_told_again_without_a_request(family: str, colour: str, store: MemoryStore) -> None:
    caller = Caller(family, colour, store)
    said = Said(chat("a", "b", done=True), headers={**SSE, "x-request-id": "r-1", "set-cookie": "secret=1"})
    first = caller.call(said)
    assert (first.error, first.data, first.report.journaled) == (None, b"".join(said.chunks), 0)  # type: ignore[arg-type]
    second = caller.call()
    assert (second.error, second.status, second.data) == (None, 200, first.data)
    assert second.headers == [pair for pair in first.headers if pair[0].lower() != b"set-cookie"]
    assert second.requests == []
    assert (second.report.events, second.report.journaled, second.report.attempts) == (3, 3, 0)
    assert second.report.end_proved
    assert second.kinds == ["journal", "end"]


@pytest.mark.parametrize(
    "wire",
    [
        [b"\xef\xbb\xbf: hello\n\n", b"data: 1\r\n\r\n", b"event: x\rdata: 2\r\r", b"\n\n\n", b"data: id: 9\n\n"],
        [b"id: 1\ndata: x\n\nid: 2\ndata: y\n\n", b"data: :5\ndata\n\n"],
        [b"data: half", b" of it\n\ndata: 2\n", b"\n"],
    ],
)
def test_whatever_it_is_made_of(caller: Caller, wire: list[bytes]) -> None:
    first = caller.call(Said(wire), Said(status=204), request=caller.events())
    again = caller.call(request=caller.events())
    assert (first.error, again.error) == (None, None)
    assert again.data == first.data
    assert again.requests == []


def test_an_answer_of_lines(caller: Caller) -> None:
    lines = [b'{"message":{"role":"assistant","content":"a"},"done":false}\n', b'{"message":{},"done":true}\n']
    asked = {"url": "http://localhost:11434/api/chat", "json": {"model": "m", "messages": []}, "headers": KEY}
    first = caller.call(Said(lines, headers={"content-type": "application/x-ndjson"}), request=caller.chat(**asked))
    again = caller.call(request=caller.chat(**asked))
    assert first.data == again.data == b"".join(lines)
    assert (again.error, again.report.dialect, again.requests) == (None, "ollama", [])


def test_an_answer_that_failed_has_failed(caller: Caller) -> None:
    wire = [*chat("a"), b'data: {"error":{"code":"bad_thing","message":"no"}}\n\n']
    first = caller.call(Said(wire))
    again = caller.call()
    assert first.data == again.data == b"".join(wire)
    assert again.requests == []
    assert log_of(caller.journal).state is State.FAILED


def test_whoever_stops_reading_at_the_last_event_has_it_all(caller: Caller) -> None:
    caller.call(Said(chat("a", done=True)), take=2)
    again = caller.call()
    assert (again.error, len(again.pieces), again.requests) == (None, 1, [])


# Interrupted ones


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("taken", [1, 2, 3])
def test_head_and_tail_are_the_whole(family: str, colour: str, store: MemoryStore, taken: int) -> None:
    caller = Caller(family, colour, store)
    first = caller.call(Said(numbered(1, 2, 3, 4)), request=caller.events(), take=taken)
    assert log_of(store).state is State.INTERRUPTED
    second = caller.call(Said(numbered(*range(taken + 1, 5))), Said(status=204), request=caller.events(), headers=KEY)
    assert second.error is None
    assert second.pieces[0] == first.data
    assert second.data == b"".join(numbered(1, 2, 3, 4))
    assert second.requests[0].headers["last-event-id"] == str(taken)
    assert (second.report.events, second.report.journaled) == (4, taken)
    assert second.kinds[:2] == ["journal", "resume"]
    third = caller.call(request=caller.events())
    assert (third.data, third.requests) == (second.data, [])


def test_again_and_again(caller: Caller) -> None:
    told = b""
    for number in range(1, 5):
        heard = caller.call(Said(numbered(number, number + 1)), request=caller.events(), take=1 + (number > 1))
        assert heard.data == told + numbered(number)[0]
        told = heard.data
    assert [heard.requests[0].headers["last-event-id"]] == ["3"]


def test_an_answer_that_ran_out_of_attempts(caller: Caller) -> None:
    """The network was away for too long; the same call, once it is back, goes on."""
    down = Said(down="ConnectError")
    first = caller.call(Said(numbered(1, 2), ends="ReadError"), down, down, down, request=caller.events())
    assert isinstance(first.error, rl.RetriesExhausted)
    second = caller.call(Said(numbered(3)), Said(status=204), request=caller.events())
    assert (second.error, second.data) == (None, b"".join(numbered(1, 2, 3)))


def test_what_is_kept_nowhere_else_is_told_and_then_the_error(caller: Caller) -> None:
    first = caller.call(Said(chat("Hel", "lo", "!")), take=2)
    again = caller.call()
    assert again.data == first.data
    assert isinstance(again.error, rl.CannotResume)
    assert isinstance(again.error, caller.http.TransportError)
    assert (again.error.partial_text, again.requests) == ("Hello", [])
    assert again.error.partial["choices"][0]["message"]["content"] == "Hello"


def test_what_is_kept_nowhere_else_can_be_gone_on_from(caller: Caller) -> None:
    caller.call(Said(chat("Hel", "lo", "!")), take=2)
    options: dict[str, Any] = {"fallback": "continue", "can_continue": True}
    again = caller.call(Said(chat(" there", done=True)), **options)
    assert again.error is None
    assert again.report.fidelity == "continued"
    assert again.requests[0].headers["idempotency-key"] == "cell-7-2"
    assert b"Hello" in again.requests[0].body
    third = caller.call()
    assert (third.data, third.requests, third.report.fidelity) == (again.data, [], "continued")


def test_nothing_had_come_yet(caller: Caller) -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caller.call(Said([leave]), request=caller.events())
    again = caller.call(Said(numbered(1)), Said(status=204), request=caller.events())
    assert (again.error, again.data, again.report.journaled) == (None, numbered(1)[0], 0)


def test_closing_does_not_stop_what_somebody_may_come_back_for(caller: Caller) -> None:
    pieces = chat("a", "b", done=True)
    first = caller.call(Said(pieces, headers=LLAMA), take=1)
    assert [seen.method for seen in first.requests] == ["POST"]
    again = caller.call(Said(pieces[1:]))
    assert (again.error, again.data) == (None, b"".join(pieces))
    assert [seen.method for seen in again.requests] == ["GET"]


def test_a_cancelled_answer_is_not_gone_on_with(caller: Caller) -> None:
    first = caller.call(Said(chat("a", "b", done=True)), take=1, cancel=True)
    again = caller.call()
    assert (again.data, again.requests) == (first.data, [])
    assert isinstance(again.error, rl.CannotResume)
    assert "cancelled by its caller" in str(again.error)
    assert again.error.partial_text == "a"


# What is not kept, and who else is at it


def test_calls_without_a_name_are_not_kept(caller: Caller) -> None:
    unnamed = {"Authorization": "Bearer mine"}
    for _ in range(2):
        heard = caller.call(Said(chat("a", done=True)), headers=unnamed)
        assert len(heard.requests) == 1
    assert len(caller.journal._logs) == 1  # the secret


def test_no_room_for_another_answer(colour: str) -> None:
    caller = Caller("httpx", colour, MemoryStore(max_logs=1))
    first = caller.call(Said(chat("a", done=True)))
    assert (first.error, first.data, first.kinds[0]) == (None, b"".join(chat("a", done=True)), "journal")
    assert len(caller.call(Said(chat("a", done=True))).requests) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_that_is_given_up_while_it_is_put_down(
    family: str, colour: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any) -> None:
        raise KeyboardInterrupt

    caller = Caller(family, colour, store)
    inner = transport(family, Said(chat("a")))
    monkeypatch.setattr(Shelf, "begin", begin)
    monkeypatch.setattr("tests.transports.journaled.transport", lambda *_: inner)
    with pytest.raises(KeyboardInterrupt):
        caller.call()
    assert inner.bodies[0].closed


def test_an_event_loop_does_not_wait_for_another_machine(colour: str) -> None:
    store = Remote()
    caller = Caller("httpx", colour, store)
    with closing(store):
        caller.call(Said(numbered(1, 2)), request=caller.events(), take=1)
        store.threads.clear()
        again = caller.call(Said(numbered(2)), Said(status=204), request=caller.events())
        assert (again.error, again.data) == (None, b"".join(numbered(1, 2)))
        assert (store.threads == {threading.main_thread()}) is (colour == "sync")


def test_a_call_that_is_in_progress(store: MemoryStore) -> None:
    caller = Caller("httpx", "sync", store)
    inner = transport("httpx", Said(WHOLE))
    first = open_sync(caller, inner)
    second = open_sync(caller, inner)
    assert list(first.stream) == list(second.stream) == WHOLE


async def test_a_call_that_is_in_progress_async(store: MemoryStore) -> None:
    caller = Caller("httpx", "async", store)
    inner = transport("httpx", Said(WHOLE))
    for response in (await open_async(caller, inner), await open_async(caller, inner)):
        assert [piece async for piece in response.stream] == WHOLE
        await response.aclose()


def test_what_one_event_loop_receives_is_not_for_another(store: MemoryStore) -> None:
    inner = transport("httpx", Said(WHOLE))
    sync = Caller("httpx", "sync", store)
    response = open_sync(sync, inner)
    heard = Caller("httpx", "asyncio", store).call()
    assert isinstance(heard.error, rl.JournalRefused)
    assert "another event loop" in str(heard.error)
    assert heard.requests == []
    response.close()


def test_with_a_relay_in_front(caller: Caller) -> None:
    """The journal comes first: what it has, no relay need be there for."""
    relay = "http://127.0.0.1:8787"
    numbered_by_the_relay = [b"id: %d\n" % number + block for number, block in enumerate(WHOLE, 1)]
    kept = {**SSE, "location": "/_streams/s-1"}
    caller.call(Said(numbered_by_the_relay, headers=kept), relay=relay, take=2)
    again = caller.call(Said(numbered_by_the_relay[2:], headers=kept), relay=relay)
    assert (again.error, again.data) == (None, b"".join(numbered_by_the_relay))
    (asked,) = again.requests
    assert (asked.method, asked.url) == ("GET", f"{relay}/_streams/s-1")
    assert asked.headers["last-event-id"] == "2"
    assert caller.call(relay=relay).requests == []
