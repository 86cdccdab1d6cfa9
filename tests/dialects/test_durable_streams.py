"""Durable Streams: offsets in control events, bursts that have one of them, and streams on which nothing happens."""

from __future__ import annotations

import json
from itertools import cycle, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.events import Fields, parse_block
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import NOTHING, Checkpoint, Position, Progress, Reading, RequestPlan
from resumable_llm.dialects import ANY_EVENT_STREAM, named, recognise
from resumable_llm.dialects.durable_streams import DurableStreams
from tests.conversation import Case, Played, World, play, told

STREAMS = named("durable_streams")
URL = "https://streams.example/v1/stream/answer"


def asked(query: str = "offset=-1&live=sse", method: str = "GET") -> RequestPlan:
    headers = (("Accept", "text/event-stream"), ("Authorization", "Bearer x"))
    return RequestPlan(method, f"{URL}?{query}", headers)


def data(payload: Any) -> str:
    return f"event: data\ndata:{json.dumps(payload, separators=(',', ':'))}\n\n"


def control(offset: int, *, cursor: int = 7, closed: bool = False, up_to_date: bool = True) -> str:
    says: dict[str, Any] = {"streamNextOffset": f"0000_{offset:04d}"}
    if closed:
        says["streamClosed"] = True
    else:
        says |= {"streamCursor": str(cursor), **({"upToDate": True} if up_to_date else {})}
    return f"event: control\ndata:{json.dumps(says, separators=(',', ':'))}\n\n"


def case(wire: str, *answers: dict[str, Any], query: str = "offset=-1&live=sse") -> Case:
    request = {"method": "GET", "url": f"{URL}?{query}", "headers": {"Accept": "text/event-stream"}}
    return Case("burst", {"dialect": "durable_streams", "request": request, "answers": [*answers]}, wire.encode())


def played(case: Case, size: int = 65536, *, one_by_one: bool = True, **first: Any) -> Played:
    return play(case.converse(one_by_one=one_by_one), World(case, **first), size, slices=not one_by_one)


def offsets(log: Played) -> list[str]:
    return [plan.query["offset"] for plan in log.requests]


class TestRecognise:
    @pytest.mark.parametrize(
        "query",
        ["offset=-1&live=sse", "live=sse&offset=now", "cursor=7&live=sse&offset=0_1", "tenant=t&offset=0%2F1&live=sse"],
    )
    def test_by_the_query(self, query: str) -> None:
        assert recognise(asked(query)) is STREAMS

    @pytest.mark.parametrize(
        "request_",
        [
            asked("offset=-1"),
            asked("live=sse"),
            asked("live=sse&offset="),
            asked("offset=-1&live=long-poll"),
            asked("offset=-1&live=true"),
            asked(method="POST"),
            asked(method="HEAD"),
        ],
        ids=lambda request: f"{request.method} {request.url}",
    )
    def test_near_misses(self, request_: RequestPlan) -> None:
        assert recognise(request_) is ANY_EVENT_STREAM


@pytest.mark.parametrize(
    ("event", "reading"),
    [
        (
            Fields("control", '{"streamNextOffset":"0_1","streamCursor":"7","upToDate":true}', None, None),
            Reading(cursor="0_1", resting=True),
        ),
        (Fields("control", '{"streamNextOffset":"0_1","streamCursor":"7"}', None, None), Reading(cursor="0_1")),
        (
            Fields("control", '{"streamNextOffset":"0_1","streamClosed":true}', None, None),
            Reading(cursor="0_1", terminal=True),
        ),
        (
            Fields("control", '{"streamNextOffset":"0_1","upToDate":true,"streamClosed":true}', None, None),
            Reading(cursor="0_1", terminal=True, resting=True),
        ),
        (Fields("control", '{"streamClosed": true}', None, None), Reading(terminal=True)),
        (
            Fields("control", '{"streamNextOffset":7,"streamClosed":"true","upToDate":1}', None, None),
            NOTHING,
        ),
        (Fields("control", '{"streamNextOffset":""}', None, None), NOTHING),
        (Fields("control", "{bad json", None, None), NOTHING),
        (Fields("control", None, None, None), NOTHING),
        (Fields("data", '{"streamNextOffset":"0_1","streamClosed":true}', None, None), NOTHING),
        (Fields("unknown", "{}", None, None), NOTHING),
        (Fields(None, '{"streamNextOffset":"0_1"}', None, None), NOTHING),
    ],
)
def test_read(event: Fields, reading: Reading) -> None:
    assert STREAMS.read(event) == reading


class TestResume:
    @pytest.mark.parametrize(
        ("query", "cursor", "expected"),
        [
            ("offset=-1&live=sse", "0_7", "live=sse&offset=0_7"),
            ("offset=-1&live=sse", "", "live=sse&offset=-1"),
            ("offset=0_3&live=sse", "", "live=sse&offset=0_3"),
            ("offset=now&live=sse", "0_7", "live=sse&offset=0_7"),
            ("cursor=9&tenant=a+b&offset=-1&live=sse", "0_7", "cursor=9&tenant=a+b&live=sse&offset=0_7"),
            ("offset=-1&live=sse", "a&b=c", "live=sse&offset=a%26b%3Dc"),
        ],
    )
    def test_request(self, query: str, cursor: str, expected: str) -> None:
        plan = STREAMS.resume(Progress(asked(query), Position(cursor=cursor), delivered=True))
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == ("GET", f"{URL}?{expected}", b"")
        assert plan.header("authorization") == "Bearer x"
        assert plan.header("last-event-id") is None

    def test_nothing_says_where_now_was(self) -> None:
        assert STREAMS.resume(Progress(asked("offset=now&live=sse"))) is None
        assert STREAMS.may_repeat(Progress(asked("offset=now&live=sse")))

    def test_for_somebody_who_names_the_dialect_and_no_offset(self) -> None:
        plan = DurableStreams().resume(Progress(asked("live=sse")))
        assert plan is not None
        assert plan.url == f"{URL}?live=sse&offset=-1"

    def test_reading_has_no_effect_so_there_is_nothing_to_cancel(self) -> None:
        progress = Progress(asked(), Position(cursor="0_7"), delivered=True)
        assert STREAMS.cancel(progress) is None
        assert STREAMS.poll(progress) is None
        assert STREAMS.prepare(asked(), "key").header("idempotency-key") is None


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Fields("data", '[{"delta":"a"}]', None, None), '[{"delta":"a"}]'),
        (Fields("data", " one\ntwo", None, None), " one\ntwo"),
        (Fields("data", None, None, None), ""),
        (Fields("control", '{"streamNextOffset":"0_1"}', None, None), ""),
        (Fields(None, "x", None, None), ""),
    ],
)
def test_text(event: Fields, text: str) -> None:
    assert STREAMS.text(event) == text


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *([data([1]), data("one"), "event: data\ndata:one\ndata: two\n\n", "event: data\ndata:\n\n"] * 3),
            *("event: data\n", "event: control\n", "event:data\n", "event: data \n", "id: 1\n", "retry: 1\n", ": x\n"),
            *("data:", "data: ", 'data:{"streamNextOffset":"0_1","streamClosed":true}\n', "[1]", "\n", "\n\n", "\r\n"),
        ]
    ),
    max_size=10,
).map(lambda parts: "".join(parts).encode())


@given(FRAGMENTS)
def test_what_is_ordinary_says_nothing(stream: bytes) -> None:
    assert STREAMS.ordinary is not None
    if STREAMS.ordinary.fullmatch(stream):
        blocks = EVENT_STREAM.splitter(1000).feed(stream)
        assert b"".join(blocks) == stream
        for block in blocks:
            fields = parse_block(block)
            assert (fields.event, fields.id, fields.retry) == ("data", None, None)
            assert STREAMS.read(fields) == NOTHING


def test_data_is_ordinary_and_control_events_are_not() -> None:
    assert STREAMS.ordinary is not None
    assert STREAMS.ordinary.fullmatch((data(["event: control"]) * 3).encode())
    assert not STREAMS.ordinary.fullmatch((data([1]) + control(7)).encode())


# Many events with one control event behind them

BURST = data(["a"]) + data(["b"]) + data(["a"]) + data(["a"]) + data(["a", "b"]) + data(["c"])
LATER = control(1) + BURST + control(9, up_to_date=False) + data(["d"]) + control(10, closed=True)
AT_ONCE = BURST + control(9) + data(["d"]) + control(10, closed=True)
WIRES = [pytest.param(AT_ONCE, id="from the start"), pytest.param(LATER, id="behind a cursor")]


@pytest.mark.parametrize("wire", WIRES)
class TestBursts:
    """Each says what must come by itself: no oracle, no other rules than that nobody can tell."""

    @pytest.mark.parametrize("ends", ["reset", "eof"])
    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_cut_at_every_byte(self, wire: str, one_by_one: bool, ends: str) -> None:
        burst = case(wire, {})
        for at, size in zip(range(len(wire)), cycle((65536, 1, 65536, 7))):
            log = played(burst, size, one_by_one=one_by_one, cut=at, ends=ends)
            assert (log.outcome, log.proved) == ("end", True)
            assert log.told == burst.whole, f"cut at {at}, chunks of {size}"

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_cut_again_in_what_comes_again(self, wire: str, one_by_one: bool) -> None:
        burst = case(wire, {}, {}, {})
        places = range(0, len(wire), 13)
        for first, second in product(places, places):
            burst.data["answers"][:2] = [{"cut": first, "ends": "reset"}, {"cut": second, "ends": "reset"}]
            log = played(burst, one_by_one=one_by_one)
            assert log.outcome == "end"
            assert log.told == burst.whole, f"cut at {first}, then at {second} of the rest"

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_across_processes(self, wire: str, one_by_one: bool) -> None:
        burst = case(wire, {})
        for size, first, second in product((100, 65536), range(1, len(burst.whole)), (1, 3)):
            heard, checkpoint = [], None
            for stop in (first, second, None):
                talk = burst.converse(one_by_one=one_by_one, checkpoint=checkpoint)
                body = "whole" if checkpoint is None else "rest"
                log = play(talk, World(burst, body=body), size, slices=not one_by_one, stop_after=stop)
                before = 0 if checkpoint is None else checkpoint.events
                checkpoint = Checkpoint.from_json(talk.checkpoint.to_json())
                # A slice of several events counts when the caller comes back for more.
                heard += log.told[: checkpoint.events - before]
                if log.outcome:
                    break
            assert log.outcome == "end"
            assert heard == burst.whole, f"chunks of {size}, {first} events, then {second}"


def test_what_closes_a_stream_has_the_offset_of_what_came_before_it() -> None:
    wire = control(1) + data(["a"]) + control(5) + control(5, closed=True)
    for at in range(len(wire)):
        log = played(case(wire, {"cut": at, "ends": "reset"}, {}))
        assert (log.outcome, log.told) == ("end", told(wire.encode())), f"cut at {at}"


@pytest.mark.parametrize(
    "told_again",
    [
        pytest.param(data(["a", "b"]), id="in one piece with what followed"),
        pytest.param(data(["x"]) + data(["b"]), id="another"),
        pytest.param(control(9), id="not at all"),
    ],
)
def test_what_does_not_come_again_as_it_was(told_again: str) -> None:
    """Servers may put what was appended since into the same event: then nothing can be told apart any more."""
    start = control(1) + data(["a"])
    rest = {"sse": told_again + control(9, closed=True)}
    log = played(case(start + control(5), {"cut": len(start), "ends": "reset"}, rest))
    assert log.told == told(start.encode())
    assert log.outcome == "ReplayDiverged"


def test_what_does_not_come_again_as_it_was_in_another_process() -> None:
    start = control(1) + data(["a"])
    burst = case(start + control(5), {})
    first = burst.converse(one_by_one=True)
    play(first, World(burst), 65536, slices=False, stop_after=2)
    second = burst.converse(one_by_one=True, checkpoint=first.checkpoint)
    log = play(second, World(burst, sse=data(["a", "b"]) + control(9, closed=True)), 65536, slices=False)
    assert (log.outcome, log.told) == ("ReplayDiverged", [])


# Streams on which nothing happens

IDLE = data(["a"]) + control(5)
REST = data(["b"]) + control(9, closed=True)


def minutes(count: int, ends: str) -> list[dict[str, Any]]:
    """Connections that the server closes after a minute in which it told only that it lives."""
    return [
        {"sse": control(5, cursor=8 + 3 * n) + control(5, cursor=9 + 3 * n), "lasts": 60, "ends": ends}
        for n in range(count)
    ]


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("ends", ["eof", "reset"])
def test_an_idle_stream_is_held_for_as_long_as_it_takes(one_by_one: bool, ends: str) -> None:
    idle = case(IDLE + REST, {"sse": IDLE, "lasts": 60, "ends": ends}, *minutes(40, ends), {"sse": REST})
    log = played(idle, one_by_one=one_by_one)
    assert log.outcome == "end"
    assert log.waits == []
    assert log.told == idle.whole  # what only repeats the offset says nothing, so it need not be told twice
    assert offsets(log) == ["-1"] + ["0000_0005"] * 41


def test_a_server_that_closes_at_once_is_not_asked_without_end() -> None:
    log = played(case(IDLE, {"sse": IDLE}, {"sse": control(5, cursor=8)}))
    assert (log.outcome, log.told) == ("RetriesExhausted", told(IDLE.encode()))
    assert log.waits == [1.0, 2.0, 4.0]


def test_what_only_repeats_the_offset_is_told_as_long_as_the_connection_lasts() -> None:
    stream = IDLE + control(5, cursor=8) + control(5, cursor=9) + REST
    log = played(case(stream, {}))
    assert log.told == told(stream.encode())


def test_silence_is_a_drop() -> None:
    """Some servers hang when a stream is deleted under a reader; asked again, they say so."""
    refusal = {"status": 404, "text": "Stream not found"}
    log = played(case(IDLE, {"sse": IDLE, "ends": "silence"}, refusal))
    assert log.outcome == "ResumeExpired"
    assert "until it is deleted" in str(log.error)


def test_joined_at_the_tail() -> None:
    """Where the tail was, the first control event says; before it, only a request of which nothing came is repeated."""
    log = played(case(IDLE + REST, {"cut": 9, "ends": "reset"}, {"body": "whole"}, query="offset=now&live=sse"))
    assert (log.outcome, offsets(log)) == ("end", ["now", "now"])
    log = played(case(IDLE, {"cut": data(["a"]), "ends": "reset"}, query="offset=now&live=sse"))
    assert log.outcome == "CannotResume"
    assert "offset=now" in str(log.error)
    log = played(case(IDLE + REST, {"sse": IDLE, "ends": "reset"}, {"sse": REST}, query="offset=now&live=sse"))
    assert (log.outcome, offsets(log)) == ("end", ["now", "0000_0005"])
