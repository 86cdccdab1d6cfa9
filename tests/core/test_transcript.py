"""What was said so far, within its bound."""

from __future__ import annotations

import pytest

from resumable_llm.core.events import BOM, Fields
from resumable_llm.core.framing import JSON_LINES
from resumable_llm.core.transcript import Transcript


def block(text: str) -> bytes:
    return f"data: {text}\n\n".encode()


def texts(transcript: Transcript) -> list[str | None]:
    return [event.data for event in transcript]


def transcript(max_bytes: int = 10**6, calls: list[int] | None = None) -> Transcript:
    seen = [] if calls is None else calls
    return Transcript(max_bytes, lambda: seen.append(1))


def test_events_in_order_however_they_came() -> None:
    told = transcript()
    told.keep(block("a"), 1)
    told.fresh.append(block("b") + block("c"))
    told.fresh.append(block("d"))
    told.keep(block("e") + b": comment\n\n" + block("f"), 2)
    told.keep(b": comment\n\n", 0)
    assert [text for text in texts(told) if text is not None] == list("abcdef")
    assert (told.events, told.size, told.whole) == (6, 6 * 9 + 2 * 11, True)


def test_fields_are_read_as_they_are() -> None:
    told = transcript()
    told.keep(b"id: 1\r\nevent: x\r\ndata: a\r\n\r\n", 1)
    assert list(told) == [Fields("x", "a", "1", None)]


def test_the_byte_order_mark_of_the_first_is_no_part_of_it() -> None:
    told = transcript()
    told.keep(BOM + block("a"), 1)
    told.keep(block("b"), 1)
    assert texts(told) == ["a", "b"]


def test_nothing_yet() -> None:
    told = transcript()
    assert (told.events, told.size, texts(told)) == (0, 0, [])


@pytest.mark.parametrize("plain", [True, False])
def test_the_oldest_half_is_let_go(plain: bool) -> None:
    calls: list[int] = []
    told = transcript(100, calls)
    for number in range(10, 99):
        if plain:
            told.fresh.append(block(str(number)))
            told.settle()
        else:
            told.keep(block(str(number)), 1)
    assert (told.events, told.size, told.whole) == (89, 890, False)
    kept = texts(told)
    assert kept == [str(number) for number in range(99 - len(kept), 99)]
    assert 3 <= len(kept) <= 10
    assert calls  # who has not read it yet is told before it goes


def test_one_part_beyond_the_bound() -> None:
    told = transcript(100)
    told.keep(block("x" * 200), 1)
    assert (told.events, told.whole, texts(told)) == (1, False, [])


class TestLines:
    """An object a line."""

    def test_events_in_order_however_they_came(self) -> None:
        told = Transcript(10**6, lambda: None, JSON_LINES)
        told.keep(b'{"n":1}\n', 1)
        told.fresh.append(b'{"n":2}\n{"n":3}\n')
        told.keep(b'\n{"n":4}\r\n', 1)
        assert [text for text in texts(told) if text is not None] == [f'{{"n":{n}}}' for n in (1, 2, 3, 4)]
        assert (told.events, told.framing) == (4, JSON_LINES)

    def test_one_that_lacks_its_line_feed(self) -> None:
        told = Transcript(10**6, lambda: None, JSON_LINES)
        told.keep(b'{"n":1}\n', 1)
        told.keep(b'{"n":2}', 1)
        assert texts(told) == ['{"n":1}', '{"n":2}']
        assert [event.data for event in told.since(1)[1]] == ['{"n":2}']


class TestSince:
    def test_what_is_new(self) -> None:
        told = transcript()
        told.keep(block("a"), 1)
        told.fresh.append(block("b"))
        at, events = told.since(0)
        assert [event.data for event in events] == ["a", "b"]
        told.keep(block("c"), 1)
        at, events = told.since(at)
        assert [event.data for event in events] == ["c"]
        assert list(told.since(at)[1]) == []

    def test_what_was_let_go_is_not_read_again_nor_counted_twice(self) -> None:
        told = transcript(100)
        for number in range(10, 14):
            told.keep(block(str(number)), 1)
        at, _ = told.since(0)
        for number in range(14, 40):
            told.keep(block(str(number)), 1)
        at, events = told.since(at)
        found = [event.data for event in events]
        assert found == [str(number) for number in range(40 - len(found), 40)]
        told.keep(block("40"), 1)
        assert [event.data for event in told.since(at)[1]] == ["40"]
