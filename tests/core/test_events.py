"""Bytes to events: the standard's rules as vectors, in every cut; and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.errors import EventTooLarge
from resumable_llm.core.events import BOM, BlockSplitter, Event, EventDecoder, Fields, encode_event, parse_block

VECTORS = Path(__file__).parent.parent / "vectors" / "sse"


@dataclass(frozen=True)
class Vector:
    name: str
    stream: bytes
    events: list[tuple[str, str, str]]
    last_event_id: str
    retry: int | str | None


def load() -> Iterator[Vector]:
    for path in sorted(VECTORS.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            stream = bytes.fromhex(case["hex"]) if "hex" in case else case["stream"].encode()
            expected = [(each["event"], each["data"], each["id"]) for each in case["events"]]
            yield Vector(f"{path.stem}: {case['name']}", stream, expected, case["last_event_id"], case["retry"])


ALL = list(load())


def decode(chunks: list[bytes]) -> tuple[list[Event], EventDecoder]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)], decoder


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("vector", ALL, ids=lambda vector: vector.name)
class TestVectors:
    def check(self, vector: Vector, chunks: list[bytes]) -> None:
        found, decoder = decode(chunks)
        assert [(each.event, each.data, each.id) for each in found] == vector.events
        assert decoder.last_event_id == vector.last_event_id
        if vector.retry == "huge":
            assert decoder.retry is not None
            assert decoder.retry > 10**15
        else:
            assert decoder.retry == vector.retry

    def test_whole(self, vector: Vector) -> None:
        self.check(vector, [vector.stream])

    @pytest.mark.parametrize("size", [1, 7, 65536])
    def test_in_chunks(self, vector: Vector, size: int) -> None:
        self.check(vector, pieces(vector.stream, size))

    def test_cut_in_two_everywhere(self, vector: Vector) -> None:
        for at in range(len(vector.stream) + 1):
            self.check(vector, [vector.stream[:at], vector.stream[at:]])

    def test_cut_in_three_everywhere_near_a_line_end(self, vector: Vector) -> None:
        ends = [at for at, byte in enumerate(vector.stream) if byte in b"\r\n"][:40]
        for first in ends:
            for length in (1, 2, 3):
                last = first + length
                self.check(vector, [vector.stream[:first], vector.stream[first:last], vector.stream[last:]])

    @pytest.mark.parametrize("size", [1, 7, 65536])
    def test_blocks_and_rest_are_the_input(self, vector: Vector, size: int) -> None:
        splitter = BlockSplitter()
        blocks = [block for chunk in pieces(vector.stream, size) for block in splitter.feed(chunk)]
        put_together = b"".join(blocks)
        assert vector.stream.startswith(put_together)
        assert splitter.pending == len(vector.stream) - len(put_together)


STREAMS = st.lists(
    st.sampled_from(
        [b"data", b"id", b"event", b"retry", b":", b": ", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"x", b"7", b"\0", BOM]
    ),
    max_size=40,
).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 200), max_size=6))
def test_cuts_change_nothing(stream: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    found, decoder = decode(chunks)
    whole, other = decode([stream])
    assert found == whole
    assert (decoder.last_event_id, decoder.retry) == (other.last_event_id, other.retry)


@given(STREAMS)
def test_a_literal_reading_of_the_standard_agrees(stream: bytes) -> None:
    """The standard's own steps, line by line on the whole stream: nothing clever, nothing shared."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")[:-1]  # what follows the last line end is no line
    expected, data, name, last_event_id = [], "", "", ""
    for line in lines:
        if line == "":
            if data:
                expected.append((name or "message", data.removesuffix("\n"), last_event_id))
            data = name = ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_event_id = value
    found, _ = decode([stream])
    assert [each[:3] for each in found] == expected


class TestSplitter:
    def test_the_end_of_the_body_closes_no_event(self) -> None:
        splitter = BlockSplitter()
        splitter.feed(b"data: a\n")
        assert splitter.rest() == b""
        assert splitter.is_torn

    def test_an_event_beyond_the_bound(self) -> None:
        splitter = BlockSplitter(max_bytes=20)
        assert splitter.feed(b"data: 123456789\n\n") == [b"data: 123456789\n\n"]
        with pytest.raises(EventTooLarge, match=r"more than 20 bytes, .* ask it for smaller ones"):
            splitter.feed(b"data: 1234567890123\n\n")

    @pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
    def test_the_bound_holds_for_what_is_kept_back(self, line_end: bytes) -> None:
        splitter = BlockSplitter(max_bytes=100)
        for _ in range(100 // len(b"x" + line_end)):
            assert splitter.feed(b"x" + line_end) == []
        with pytest.raises(EventTooLarge):
            splitter.feed(b"x" + line_end)

    def test_the_bound_holds_at_once_for_one_chunk(self) -> None:
        with pytest.raises(EventTooLarge):
            BlockSplitter(max_bytes=10).feed(b"data: endless line")

    def test_many_small_events_in_one_chunk_are_within_it(self) -> None:
        assert len(BlockSplitter(max_bytes=10).feed(b"data: 1\n\n" * 50)) == 50

    @pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
    def test_a_giant_event_costs_no_more_than_its_bytes(self, line_end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counts the bytes that are searched for a blank line, not the time."""
        searched = 0
        search = BlockSplitter._end_of_last_block

        def counting(data: bytes) -> int:
            nonlocal searched
            searched += len(data)
            return search(data)

        monkeypatch.setattr(BlockSplitter, "_end_of_last_block", staticmethod(counting))
        lines = (b"data: " + b"x" * 90 + line_end) * 52_000  # 5 MB, with line ends in every chunk
        stream = lines + line_end
        splitter = BlockSplitter()
        blocks = [block for chunk in pieces(stream, 1400) for block in splitter.feed(chunk)]
        assert blocks == [stream]
        assert len(stream) <= searched <= len(stream) * 1.1

    @pytest.mark.parametrize("size", [1, 65536])
    def test_line_ends_behind_a_blank_line(self, size: int) -> None:
        splitter = BlockSplitter()
        chunks = pieces(b"data: x\n\n\n\n\ndata: y\n\n", size)
        blocks = [block for chunk in chunks for block in splitter.feed(chunk)]
        assert [parse_block(block).data for block in blocks if block.strip(b"\n")] == ["x", "y"]
        assert (b"".join(blocks), splitter.pending) == (b"".join(chunks), 0)

    def test_the_odd_line_end_of_a_run_goes_with_the_block_before_it(self) -> None:
        assert BlockSplitter().feed(b"data: x\n\n\n") == [b"data: x\n\n\n"]
        assert BlockSplitter().feed(b"data: x\n\n\n\n") == [b"data: x\n\n", b"\n\n"]

    @pytest.mark.parametrize(
        ("stream", "torn"),
        [
            (b"", False),
            (b"data: x\n\n", False),
            (b"data: x\r\n\r\n\r", False),
            (b"\r\n", False),
            (b"d", True),
            (b"data: x\n", True),
            (b"data: x\n\n: ping", True),
            (b"\ndata: x", True),
        ],
    )
    def test_torn_is_more_than_line_ends(self, stream: bytes, torn: bool) -> None:
        for chunks in ([stream], pieces(stream, 1)):
            splitter = BlockSplitter()
            for chunk in chunks:
                splitter.feed(chunk)
            assert splitter.is_torn is torn

    def test_no_byte_is_lost_in_any_short_stream(self) -> None:
        for letters in product((b"x", b"\n", b"\r"), repeat=7):
            stream = b"".join(letters)
            for at in range(len(stream)):
                splitter = BlockSplitter()
                blocks = splitter.feed(stream[:at]) + splitter.feed(stream[at:])
                assert b"".join(blocks) == stream[: len(stream) - splitter.pending], (stream, at)


class TestParse:
    def test_fields_that_are_not_there_are_none(self) -> None:
        assert parse_block(b": comment\n\n") == Fields(None, None, None, None)
        assert parse_block(b"data: x\n\n") == Fields(None, "x", None, None)
        assert parse_block(b"id\nevent\ndata\nretry: 5\n\n") == Fields("", "", "", 5)

    @pytest.mark.parametrize("block", [b"data: x\n\n", b"data: x\r\n\r\n", b"data:x\n\n", b"data: x\r\r"])
    def test_the_quick_way_and_the_long_way_agree(self, block: bytes) -> None:
        assert parse_block(block) == Fields(None, "x", None, None)

    def test_a_carriage_return_inside_a_line_ends_it(self) -> None:
        assert parse_block(b"data: x\rid: 4\n\n") == Fields(None, "x", "4", None)


LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))


class TestEncode:
    @given(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.none() | LINE,
        st.none() | LINE,
        st.none() | st.integers(0, 10**15),
    )
    def test_round_trip(self, data: str, event: str | None, id: str | None, retry: int | None) -> None:
        encoded = encode_event(data, event=event, id=id, retry=retry)
        one_line_ends = data.replace("\r\n", "\n").replace("\r", "\n")
        assert parse_block(encoded) == Fields(event, one_line_ends, id, retry)
        assert BlockSplitter().feed(encoded) == [encoded]
        assert EventDecoder().feed(encoded) == [Event(event or "message", one_line_ends, id or "", retry)]

    @pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
    @pytest.mark.parametrize("field", ["event", "id"])
    def test_what_a_line_cannot_carry_is_refused(self, field: str, value: str) -> None:
        with pytest.raises(ValueError, match=field):
            encode_event("x", **{field: value})  # type: ignore[arg-type]
