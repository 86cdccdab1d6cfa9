"""Events as logs have them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.events import BOM, BlockSplitter, EventDecoder
from resumable_llm.relay.frames import error_frame, frames_of, is_frame, without_ids


@pytest.mark.parametrize(
    ("block", "frame"),
    [
        (b"data: a\n\n", b"data: a\n\n"),
        (b"event: e\ndata: a\n\n", b"event: e\ndata: a\n\n"),
        (b"id: 7\nevent: e\nretry: 3\ndata: a\n: c\ndata: b\n\n", b"event: e\ndata: a\ndata: b\n\n"),
        (b"data: a\nid: 7\n\n", b"data: a\n\n"),
        (b"data: a\r\nid: 7\r\n\r\n", b"data: a\n\n"),
        (b"data: a\rdata: b\r\r", b"data: a\ndata: b\n\n"),
        (b"\n\ndata: a\n\n", b"data: a\n\n"),
        (BOM + b"data: a\n\n", b"data: a\n\n"),
        (b"data\n\n", b"data\n\n"),
        (b"data:id: 3\n\n", b"data:id: 3\n\n"),
        (b"ID: 7\nodd: x\ndata: a\n\n", b"data: a\n\n"),
    ],
)
def test_events_keep_event_and_data(block: bytes, frame: bytes) -> None:
    assert frames_of([block]) == [frame]
    kept = [event[:2] for event in EventDecoder().feed(block)]
    assert [event[:2] for event in EventDecoder().feed(frame)] == kept


@pytest.mark.parametrize("block", [b": ping\n\n", b"event: e\n\n", b"id: 7\n\n", b"retry: 1\n\n", b"\n\n"])
def test_what_has_no_data_is_no_event(block: bytes) -> None:
    assert frames_of([block]) == []


@pytest.mark.parametrize(
    "data",
    [b"data: a\n\n", b"data: \n\n", b"event: e\ndata: a\n\n", b"event: \ndata: id: 7\n\n"],
)
def test_usual_event_is_a_frame_already(data: bytes) -> None:
    assert is_frame(data)
    assert frames_of([data]) == [data]
    assert len(EventDecoder().feed(data)) == 1


@given(st.lists(st.sampled_from([b"data: ", b"event: ", b"id: ", b"\n", b"\n\n", b"\r", b"a", b":", BOM]), max_size=8))
def test_what_is_a_frame_is_one_event_and_nothing_else(parts: list[bytes]) -> None:
    data = b"".join(parts)
    if is_frame(data):
        (block,) = BlockSplitter().feed(data)
        assert block == data
        (event,) = EventDecoder().feed(data)
        assert b"data: %b\n\n" % event.data.encode() == data[data.index(b"data: ") :]
        assert set(re.findall(rb"^[a-z]+", data, re.MULTILINE)) <= {b"event", b"data"}


def test_ids_are_taken_out_and_nothing_else() -> None:
    frames = [b"data: id: 3\n\n", b"event: id\ndata: a\ndata:id: 4\n\n"]
    numbered = b"".join(b"id: 1.%d\n" % number + frame for number, frame in enumerate(frames, 1))
    assert without_ids(numbered) == b"".join(frames)


@pytest.mark.parametrize("google", [False, True])
def test_errors_are_events(google: bool) -> None:
    frame = error_frame("cannot_resume", 'no "more"\n', google=google)
    assert frames_of(BlockSplitter().feed(frame)) == [frame]
    (event,) = EventDecoder().feed(frame)
    assert event.event == ("message" if google else "error")
    assert 'no "more"\n' in json.loads(event.data)["error"]["message"]
    assert frame.startswith(b"data: ") is google
