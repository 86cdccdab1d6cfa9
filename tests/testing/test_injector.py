from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from resumable_llm.testing.injector import Blocks, Injector, JSONLines, SSEBlocks
from resumable_llm.testing.plan import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = [1, 2, 3, 7, 10_000]
EVENTS = (b"data: a\n\n", b"id: 2\r\ndata: b\r\n\r\n", b"data: c\rdata: d\r\r", b"data: e\r\n\n", b"data: f\n\r\n")
BODY = b"".join(EVENTS)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def carry(fault: Fault | None, body: bytes, size: int, blocks: Blocks | None = None) -> tuple[bytes, bytes | None]:
    """Return what is sent, and what comes upstream after the happening (None if nothing happens)."""
    injector = Injector(fault, blocks or SSEBlocks())
    sent = b""
    rest: bytes | None = None
    passages = [injector.receive_data(b""), *(injector.receive_data(piece) for piece in cut(body, size))]
    for passage in [*passages, injector.receive_eof()]:
        if rest is not None:
            assert passage.happening is None
            rest += passage.before
            continue
        sent += passage.before
        if passage.happening is not None:
            assert passage.happening is fault
            rest = passage.after
    assert injector.applied == (rest is not None or sent != body)
    return sent, rest


def blocks_of(body: bytes, size: int, blocks: Blocks) -> list[tuple[bytes, bool]]:
    ends: list[tuple[int, bool]] = []
    passed = 0
    for piece in cut(body, size):
        ends += [(passed + offset, is_event) for offset, is_event in blocks.feed(piece)]
        passed += len(piece)
    ends += [(passed + offset, is_event) for offset, is_event in blocks.finish()]
    starts = [0, *(offset for offset, _ in ends)]
    return [(body[start:offset], is_event) for start, (offset, is_event) in zip(starts, ends, strict=False)]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_end_at_blank_lines_of_every_kind(size: int) -> None:
    assert blocks_of(BODY, size, SSEBlocks()) == [(event, True) for event in EVENTS]


@pytest.mark.parametrize("size", SIZES)
def test_comments_and_stray_blank_lines_are_no_events(size: int) -> None:
    parts = [
        (b": ping\n\n", False),
        (b"\n", False),
        (b": one\n: two\r\n\r\n", False),
        (b": note\ndata: a\n\n", True),
        (b"data: b\n: note\n\n", True),
        (b"id: 7\n\n", True),
        (b"\r", False),
    ]
    body = b"".join(part for part, _ in parts)
    assert blocks_of(body + b"data: unfinished\n", size, SSEBlocks()) == parts


@pytest.mark.parametrize("size", SIZES)
def test_lines_of_json_are_events_unless_blank(size: int) -> None:
    parts = [(b'{"a":1}\n', True), (b"\n", False), (b'{"b":2}\r\n', True), (b" \r\n", False)]
    body = b"".join(part for part, _ in parts)
    assert blocks_of(body + b'{"c"', size, JSONLines()) == parts


@pytest.mark.parametrize("size", SIZES)
def test_without_a_fault_everything_passes(size: int) -> None:
    assert carry(None, BODY, size) == (BODY, None)


@pytest.mark.parametrize("size", SIZES)
def test_a_fault_strikes_at_its_byte(size: int) -> None:
    for at_byte in range(len(BODY) + 1):
        assert carry(Fault.rst(at_byte=at_byte), BODY, size) == (BODY[:at_byte], BODY[at_byte:])
    assert carry(Fault.rst(at_byte=len(BODY) + 1), BODY, size) == (BODY, None)


@pytest.mark.parametrize("size", SIZES)
def test_a_fault_strikes_at_its_event(size: int) -> None:
    for at_event in range(len(EVENTS) + 1):
        before, after = b"".join(EVENTS[:at_event]), b"".join(EVENTS[at_event:])
        assert carry(Fault.fin(at_event=at_event), BODY, size) == (before, after)
    assert carry(Fault.fin(at_event=len(EVENTS) + 1), BODY, size) == (BODY, None)


def test_a_fault_strikes_as_soon_as_its_position_is_reached() -> None:
    injector = Injector(Fault.end(at_event=1), SSEBlocks())
    assert injector.receive_data(b"").happening is None
    assert injector.receive_data(b"data: a\n\n").happening == Fault.end(at_event=1)
    assert Injector(Fault.end(at_byte=0), SSEBlocks()).receive_data(b"").happening is not None


def test_after_a_lone_cr_the_end_of_the_body_decides() -> None:
    injector = Injector(Fault.end(at_event=1), SSEBlocks())
    assert injector.receive_data(b"data: a\r\r").happening is None
    assert injector.receive_eof().happening == Fault.end(at_event=1)


def test_comments_do_not_count() -> None:
    assert carry(Fault.rst(at_event=1), b": ping\n\ndata: a\n\ndata: b\n\n", 4) == (
        b": ping\n\ndata: a\n\n",
        b"data: b\n\n",
    )


def test_time_comes_when_it_comes() -> None:
    injector = Injector(Fault.rst(at_seconds=1), SSEBlocks())
    assert injector.receive_data(b"data: a\n\ndata").happening is None
    assert injector.receive_wakeup().happening == Fault.rst(at_seconds=1)


def test_pings_wait_for_the_end_of_the_event() -> None:
    for fault in (Fault.stall_pings(interval=1, at_byte=10), Fault.stall_pings(interval=1, at_seconds=1)):
        injector = Injector(fault, SSEBlocks())
        injector.receive_data(b"data: a\n\n" + b"da")
        assert injector.receive_wakeup().happening is None
        passage = injector.receive_data(b"ta: b\n\ndata: c\n\n")
        assert (passage.before, passage.happening, passage.after) == (b"ta: b\n\n", fault, b"data: c\n\n")


def test_pings_start_at_once_between_two_events() -> None:
    fault = Fault.stall_pings(interval=1, at_seconds=1)
    injector = Injector(fault, SSEBlocks())
    assert injector.receive_data(b"data: a\n\n").happening is None
    assert injector.receive_wakeup().happening is fault


@pytest.mark.parametrize("size", SIZES)
def test_duplicates_are_exact_and_come_once(size: int) -> None:
    for events in (1, 2, 3):
        for at_event in range(events, len(EVENTS) + 1):
            sent, _ = carry(Fault.duplicate(events=events, at_event=at_event), BODY, size)
            assert sent == b"".join([*EVENTS[:at_event], *EVENTS[at_event - events : at_event], *EVENTS[at_event:]])


@pytest.mark.parametrize("size", SIZES)
def test_duplicates_wait_for_whole_events_and_for_enough_of_them(size: int) -> None:
    expected = b"".join([*EVENTS[:2], *EVENTS[:2], *EVENTS[2:]])
    assert carry(Fault.duplicate(events=2, at_byte=0), BODY, size)[0] == expected
    assert carry(Fault.duplicate(events=2, at_byte=len(EVENTS[0]) + 1), BODY, size)[0] == expected


@pytest.mark.parametrize("size", SIZES)
def test_duplicates_leave_comments_out(size: int) -> None:
    body = b"data: a\n\n: ping\n\ndata: b\n\n"
    assert carry(Fault.duplicate(events=2, at_event=2), body, size)[0] == body + b"data: a\n\ndata: b\n\n"


@pytest.mark.parametrize("size", SIZES)
def test_dropped_events_are_exact(size: int) -> None:
    for events in (1, 2, 3):
        for at_event in range(len(EVENTS)):
            sent, _ = carry(Fault.drop(events=events, at_event=at_event), BODY, size)
            assert sent == b"".join([*EVENTS[:at_event], *EVENTS[at_event + events :]])


@pytest.mark.parametrize("size", SIZES)
def test_dropping_starts_between_events(size: int) -> None:
    assert carry(Fault.drop(events=1, at_byte=3), BODY, size)[0] == b"".join([EVENTS[0], *EVENTS[2:]])


def test_dropping_takes_comments_along() -> None:
    body = b"data: a\n\n: ping\n\ndata: b\n\n: pong\n\n"
    assert carry(Fault.drop(events=1, at_event=1), body, 5)[0] == b"data: a\n\n: pong\n\n"


@pytest.mark.parametrize("size", SIZES)
def test_a_byte_is_flipped_at_its_place(size: int) -> None:
    for at_byte in range(len(BODY)):
        flipped = bytes([BODY[at_byte] ^ 0xFF])
        sent, _ = carry(Fault.corrupt(at_byte=at_byte), BODY, size)
        assert sent == BODY[:at_byte] + flipped + BODY[at_byte + 1 :]
    assert carry(Fault.corrupt(at_byte=len(BODY)), BODY, size) == (BODY, None)


@pytest.mark.parametrize("size", SIZES)
def test_garbage_is_inserted_at_its_place(size: int) -> None:
    for at_byte in range(len(BODY) + 1):
        sent, _ = carry(Fault.corrupt(garbage=b"\x00~", at_byte=at_byte), BODY, size)
        assert sent == BODY[:at_byte] + b"\x00~" + BODY[at_byte:]


@pytest.mark.parametrize("size", SIZES)
def test_lines_of_json_suffer_too(size: int) -> None:
    lines = [b'{"n":1}\n', b'{"n":2}\n', b'{"n":3}\n']
    body = b"".join(lines)
    assert carry(Fault.drop(events=1, at_event=1), body, size, JSONLines())[0] == lines[0] + lines[2]
    assert carry(Fault.rst(at_event=2), body, size, JSONLines()) == (lines[0] + lines[1], lines[2])
