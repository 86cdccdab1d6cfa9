"""Ways to cut a body into blocks: lines against a reference splitter, in every cut; the last line; bounds."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.errors import EventTooLarge
from resumable_llm.core.events import BlockSplitter, Fields, parse_block
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES, LineSplitter, parse_line

BODIES = st.lists(
    st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r", b" ", b"{}", b'{"a":"', b'"}', b"7", b"\xc3", b"\xa9", b"\0"]),
    max_size=40,
).map(b"".join)


def pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    return [body[start:end] for start, end in pairwise(edges)]


def by_hand(body: bytes) -> tuple[list[bytes], bytes]:
    """Byte by byte, nothing clever: the lines, and what no line feed has ended."""
    lines, line = [], b""
    for byte in body:
        line += bytes([byte])
        if byte == 10:
            lines.append(line)
            line = b""
    return lines, line


class TestLines:
    @given(BODIES, st.lists(st.integers(0, 120), max_size=8))
    def test_cut_anywhere(self, body: bytes, cuts: list[int]) -> None:
        splitter = LineSplitter()
        found = [line for piece in pieces(body, cuts) for line in splitter.feed(piece)]
        lines, rest = by_hand(body)
        assert found == lines
        assert splitter.pending == len(rest)
        assert splitter.is_torn == bool(rest.strip(b"\r\n"))

    @given(BODIES, st.integers(1, 9))
    def test_in_one_piece(self, body: bytes, size: int) -> None:
        """`cut` and `split` apart, as the hot path uses them."""
        splitter = LineSplitter()
        wholes = [splitter.cut(body[at : at + size]) for at in range(0, len(body), size)]
        lines, _ = by_hand(body)
        assert b"".join(wholes) == b"".join(lines)
        assert [line for whole in wholes for line in splitter.split(whole)] == lines

    @given(BODIES, st.lists(st.integers(0, 120), max_size=8))
    def test_the_rest(self, body: bytes, cuts: list[int]) -> None:
        splitter = LineSplitter()
        for piece in pieces(body, cuts):
            splitter.feed(piece)
        _, rest = by_hand(body)
        try:
            json.loads(rest)
        except ValueError:
            assert splitter.rest() == b""
            assert splitter.pending == len(rest)
        else:
            assert splitter.rest() == rest + b"\n"
            assert (splitter.pending, splitter.is_torn) == (0, False)
            assert splitter.rest() == b""
            assert splitter.feed(b"{}\n") == [b"{}\n"]

    def test_a_rest_that_is_nested_too_deeply_is_none(self) -> None:
        splitter = LineSplitter()
        splitter.feed(b"[" * 100_000)
        assert splitter.rest() == b""

    def test_a_line_beyond_the_bound(self) -> None:
        splitter = LineSplitter(max_bytes=10)
        assert splitter.feed(b"123456789\n" * 3) == [b"123456789\n"] * 3
        with pytest.raises(EventTooLarge, match=r"more than 10 bytes, .* ask it for smaller ones"):
            splitter.feed(b"1\n1234567890\n2\n")

    @pytest.mark.parametrize("size", [1, 7])
    def test_the_bound_holds_for_what_is_kept_back(self, size: int) -> None:
        splitter = LineSplitter(max_bytes=20)
        assert splitter.feed(b"x" * 20) == []
        with pytest.raises(EventTooLarge):
            splitter.feed(b"x" * size)

    def test_a_line_that_comes_in_many_pieces_is_put_together_once(self) -> None:
        splitter = LineSplitter()
        for _ in range(20_000):
            assert splitter.feed(b"x" * 50) == []
        assert splitter.feed(b"\n") == [b"x" * 1_000_000 + b"\n"]


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (b'{"a":1}\n', '{"a":1}'),
        (b'{"a":1}\r\n', '{"a":1}'),
        (b' {"a":1} \n', '{"a":1}'),
        (b'{"a":1}', '{"a":1}'),
        (b"\xc3\xa9\n", "é"),
        (b"\xc3\n", "\ufffd"),
        (b"\n", None),
        (b" \r\n", None),
    ],
)
def test_parse_line(line: bytes, data: str | None) -> None:
    assert parse_line(line) == Fields(None, data, None, None)


@pytest.mark.parametrize(
    ("content_type", "events", "lines"),
    [
        ("text/event-stream", True, False),
        ("Text/Event-Stream; charset=utf-8", True, False),
        ("application/x-ndjson", False, True),
        ("application/x-ndjson; charset=utf-8", False, True),
        (" application/ndjson ", False, True),
        ("application/jsonl", False, True),
        ("application/json", False, False),
        ("application/stream+json", False, False),
        ("", False, False),
    ],
)
def test_what_announces_them(content_type: str, events: bool, lines: bool) -> None:
    assert EVENT_STREAM.announced_by(content_type) is events
    assert JSON_LINES.announced_by(content_type) is lines


def test_event_streams_have_no_rest() -> None:
    splitter = EVENT_STREAM.splitter(100)
    assert type(splitter) is BlockSplitter
    assert splitter.feed(b"data: {}\n") == []
    assert splitter.rest() == b""
    assert splitter.pending == 9
    assert EVENT_STREAM.parse is parse_block
    assert (EVENT_STREAM.boundary, JSON_LINES.boundary) == (b"\n\n", b"\n")
