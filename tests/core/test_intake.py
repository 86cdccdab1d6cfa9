"""From bytes to judged events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from resumable_llm.core.actions import Deliver
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import BOM
from resumable_llm.core.intake import SETTLE_EVENTS, Intake, _number_behind
from resumable_llm.core.model import Checkpoint, Position
from resumable_llm.core.replay import Verdict
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import ANY_EVENT_STREAM, LastEventId
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.mcp import Mcp
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_responses import OpenAIResponses
from tests.core import artificial
from tests.core.artificial import block

BEFORE = Position("before", None, 3)
CHUNK = b'data: {"choices":[{"finish_reason":null,"index":0}]}\n\n'


class Receiver:
    """An intake and somebody who takes what it finds."""

    def __init__(self, dialect: Dialect = ANY_EVENT_STREAM, *, one_by_one: bool = False) -> None:
        self.transcript = Transcript(10**6, lambda: None, dialect.framing)
        self.intake = Intake(dialect, Checkpoint(dialect.name, "GET", "https://x.example/"), "", self.transcript, 1000)
        self.intake.one_by_one = one_by_one
        self.intake.begin(resumed=False)

    def feed(self, stream: bytes) -> list[Deliver]:
        found = self.intake.feed(stream, BEFORE)
        for each in found:
            self.transcript.keep(each.data, each.events)
        return found

    def again(self) -> None:
        self.intake.begin(resumed=True)


class TestFeed:
    def test_events_apart_each_with_its_place(self) -> None:
        found = Receiver(one_by_one=True).feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nda")
        assert [(each.events, each.position) for each in found] == [
            (1, Position("1", None, 15)),
            (1, Position("2", None, 30)),
        ]
        assert [each.data for each in found] == [b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\n"]

    def test_a_chunks_events_as_one_slice(self) -> None:
        (found,) = Receiver().feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nda")
        assert found == Deliver(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n", 2, Position("2", None, 30))

    def test_one_event_alone(self) -> None:
        (found,) = Receiver().feed(b"id: 1\ndata: a\n\nda")
        assert (found.events, found.position) == (1, Position("1", None, 15))

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_what_comes_behind_an_event_counts_with_it(self, one_by_one: bool) -> None:
        receiver = Receiver(one_by_one=one_by_one)
        (found,) = receiver.feed(b"id: 1\ndata: a\n\nid: 2\n\n: ping\n\n")
        assert found.position == Position("2", None, 30)
        assert found.data == b"id: 1\ndata: a\n\n"
        assert receiver.intake.head == found.position

    def test_an_event_of_a_name_alone_is_one(self) -> None:
        (found,) = Receiver(one_by_one=True).feed(b"event: end\n\n")
        assert found.events == 1

    def test_nothing_yet(self) -> None:
        receiver = Receiver()
        assert receiver.feed(b"data: a\n") == []
        assert not receiver.intake.saw_data
        assert receiver.intake.is_torn
        receiver.feed(b"\n\r")
        assert not receiver.intake.is_torn

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_nothing_behind_the_terminal_event(self, one_by_one: bool) -> None:
        receiver = Receiver(LastEventId("end"), one_by_one=one_by_one)
        found = receiver.feed(b"data: a\n\nevent: end\ndata: b\n\ndata: c\n\n")
        assert b"".join(each.data for each in found) == b"data: a\n\nevent: end\ndata: b\n\n"
        assert receiver.intake.terminal

    def test_each_connection_may_have_a_byte_order_mark(self) -> None:
        receiver = Receiver(one_by_one=True)
        receiver.feed(BOM + b"id: 1\ndata: a\n\n")
        receiver.again()
        found = receiver.feed(BOM + b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n")
        assert [each.data for each in found] == [b"id: 2\ndata: b\n\n"]
        assert receiver.intake.replayed == 1


class TestControl:
    """Blocks without an event, in front of decoders that make one of them."""

    @pytest.mark.parametrize("block", [b": ping\n\n", b"\n\n", b"foo: bar\n\n"])
    def test_harmless_ones_pass(self, block: bytes) -> None:
        (found,) = Receiver().feed(block)
        assert (found.data, found.events) == (block, 0)

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_with_ids_stray_blank_lines_around_an_event_do_not_pass(self, one_by_one: bool) -> None:
        receiver = Receiver(one_by_one=one_by_one)
        stray = b"id: 1\ndata: a\n\n\n", b"\n\ndata: b\n\n", b"\ndata: c\n\n", b"\r\ndata: d\n\n\n\n"
        found = [each.data for chunk in stray for each in receiver.feed(chunk)]
        assert found == [b"id: 1\ndata: a\n\n", b"data: b\n\n", b"data: c\n\n", b"data: d\n\n"]
        assert receiver.intake.head.offset == len(b"".join(stray))

    def test_without_ids_they_do(self) -> None:
        (found,) = Receiver().feed(b"data: a\n\n\n")
        assert found.data == b"data: a\n\n\n"

    @pytest.mark.parametrize("block", [b"id: 1\n\n", b"retry: 5\n\n"])
    def test_others_do_not(self, block: bytes) -> None:
        assert Receiver().feed(block) == []

    def test_none_pass_once_ids_were_seen(self) -> None:
        receiver = Receiver()
        receiver.feed(b"id: 1\ndata: a\n\n")
        assert receiver.feed(b": ping\n\n") == []

    def test_none_pass_to_readers_of_events(self) -> None:
        assert Receiver(one_by_one=True).feed(b": ping\n\n") == []

    def test_ids_pass_to_those_who_read_them_off_the_bytes(self) -> None:
        receiver = Receiver(one_by_one=True)
        receiver.intake.passes_ids = True
        found = receiver.feed(b"data: a\n\nid: 5\n\n: ping\n\nretry: 9\n\ndata: b\n\nid\n\n")
        assert [(each.data, each.events, each.position.last_event_id) for each in found] == [
            (b"data: a\n\n", 1, ""),
            (b"id: 5\n\n", 0, "5"),
            (b"data: b\n\n", 1, "5"),
            (b"id\n\n", 0, ""),
        ]

    def test_their_fields_count(self) -> None:
        receiver = Receiver()
        receiver.feed(b"id: 7\nretry: 1500\n\n")
        assert receiver.intake.last_event_id == "7"
        assert receiver.intake.numbered
        assert receiver.intake.retry_floor == 1.5


class TestVerdicts:
    def test_a_gap(self) -> None:
        receiver = Receiver(OpenAIResponses())
        blocks = [f'event: x.delta\ndata: {{"sequence_number":{n}}}\n\n'.encode() for n in (0, 1, 3, 4)]
        (found,) = receiver.feed(b"".join(blocks))
        assert found.events == 2
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.GAP
        assert "event 3 came after event 1" in receiver.intake.objection[1]

    def test_another_answer_by_its_handle(self) -> None:
        receiver = Receiver(OpenAIResponses())
        created = '{"type":"response.created","sequence_number":0,"response":{"id":"%s"}}'
        receiver.feed(f"event: response.created\ndata: {created % 'a'}\n\n".encode())
        receiver.again()
        assert receiver.feed(f"event: response.created\ndata: {created % 'b'}\n\n".encode()) == []
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.OTHER
        assert receiver.intake.handle == "a"

    def test_another_answer_by_its_ids(self) -> None:
        receiver = Receiver(one_by_one=True)
        receiver.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n")
        receiver.again()
        assert receiver.feed(b"id: 1\ndata: a\n\nid: 2\ndata: other\n\n") == []
        assert receiver.intake.saw_data
        assert receiver.intake.replayed == 1
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.OTHER

    def test_the_servers_own_error(self) -> None:
        receiver = Receiver(OpenAIChat())
        receiver.feed(b'data: {"error":{"code":"invalid_prompt"}}\n\n')
        assert receiver.intake.upstream_error == "invalid_prompt"
        assert receiver.intake.terminal


class TestOverlap:
    """llama.cpp is asked for the last event again, which must be the same."""

    LLAMA = LlamaCpp(OpenAIChat())

    def resumed(self, *, one_by_one: bool) -> Receiver:
        receiver = Receiver(self.LLAMA, one_by_one=one_by_one)
        receiver.feed(CHUNK)
        assert receiver.intake.overlap == CHUNK
        receiver.again()
        return receiver

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_the_same(self, one_by_one: bool) -> None:
        receiver = self.resumed(one_by_one=one_by_one)
        (found,) = receiver.feed(CHUNK * 2)
        assert (found.data, found.position.offset) == (CHUNK, len(CHUNK) * 2)
        assert (receiver.intake.replayed, receiver.intake.objection) == (1, None)

    @pytest.mark.parametrize("one_by_one", [True, False])
    @pytest.mark.parametrize("other", [CHUNK.replace(b"0", b"1"), b"data: [DONE]\n\n", b":\n\n"])
    def test_another(self, one_by_one: bool, other: bytes) -> None:
        receiver = self.resumed(one_by_one=one_by_one)
        assert receiver.feed(other + CHUNK) == []
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.OTHER
        assert "not what was received" in receiver.intake.objection[1]
        assert not receiver.intake.terminal

    def test_what_a_proxy_puts_in_is_no_part_of_it(self) -> None:
        receiver = self.resumed(one_by_one=True)
        (found,) = receiver.feed(b": ping\n\n" + CHUNK * 2)
        assert found.position.offset == len(CHUNK) * 2

    def test_what_passed_plainly_is_asked_for_too(self) -> None:
        receiver = Receiver(self.LLAMA)
        receiver.feed(CHUNK)
        receiver.intake.settle()
        assert receiver.intake.pass_plain(CHUNK * 2)
        assert receiver.intake.head.offset == len(CHUNK * 3)
        assert receiver.intake.overlap == CHUNK * 2


@pytest.mark.parametrize(
    ("event", "number"),
    [
        (b'data: {"n":7}', 7),
        (b'data: {"n": 7,"m":8}', 7),
        (b'data: {"n":0}', 0),
        (b'data: {"n":%s}' % (b"9" * 15), 10**15 - 1),
        (b'data: {"n":%s}' % (b"9" * 16), -1),
        (b'data: {"n":  7}', 7),
        (b'data: {"n":"7"}', -1),
        (b'data: {"n":-7}', -1),
        (b'data: {"n":null}', -1),
        (b'data: {"n":', -1),
        (b'data: {"delta":"{\\"n":7}"}', -1),
        (b"data: {}", -1),
        (b'"n":7', 7),
        (b"", -1),
    ],
)
def test_a_number_that_is_plainly_there(event: bytes, number: int) -> None:
    assert _number_behind(b'"n":', event) == number


class TestPlain:
    """When bytes may pass unread."""

    def test_ordinary_chunks_of_a_dialect_that_knows_them(self) -> None:
        receiver = Receiver(OpenAIChat())
        intake = receiver.intake
        assert not intake.plain  # until something has come
        receiver.feed(CHUNK)
        intake.settle()
        assert intake.plain
        assert intake.pass_plain(CHUNK * 2)
        assert intake.head.offset == len(CHUNK * 3)
        assert not intake.pass_plain(b"data: [DONE]\n\n")
        assert not intake.pass_plain(CHUNK.replace(b"\n", b"\r\n"))

    def test_not_where_every_event_must_be_read(self) -> None:
        assert not Receiver().intake.plain

    def test_one_at_a_time_to_readers_of_events(self) -> None:
        receiver = Receiver(OpenAIChat(), one_by_one=True)
        receiver.feed(CHUNK)
        receiver.intake.settle()
        assert not receiver.intake.pass_plain(CHUNK * 2)
        assert receiver.intake.pass_plain(CHUNK)

    def test_numbers_must_follow(self) -> None:
        receiver = Receiver(OpenAIResponses())
        blocks = [f'event: x.delta\ndata: {{"sequence_number":{n}}}\n\n'.encode() for n in range(5)]
        receiver.feed(blocks[0] + blocks[1])
        receiver.intake.settle()
        assert receiver.intake.pass_plain(blocks[2])
        assert not receiver.intake.pass_plain(blocks[4])
        assert receiver.intake.pass_plain(blocks[3])

    def test_numbers_must_be_plainly_there(self) -> None:
        receiver = Receiver(OpenAIResponses())
        one, two, three = (f'event: x.delta\ndata: {{"sequence_number":{n}}}\n\n'.encode() for n in range(3))
        receiver.feed(one + two)
        receiver.intake.settle()
        assert not receiver.intake.pass_plain(b"event: x.delta\ndata: {}\n\n")
        assert not receiver.intake.pass_plain(three.replace(b'"', b'\\"'))
        assert not receiver.intake.pass_plain(three * 2)
        assert not receiver.intake.pass_plain(two)
        assert receiver.intake.pass_plain(three)
        assert receiver.intake.head.sequence == 2

    def test_ids_and_numbers_together(self) -> None:
        receiver = Receiver(OpenAIResponses())
        blocks = [f'id: {n}\nevent: x.delta\ndata: {{"sequence_number":{n}}}\n\n'.encode() for n in range(5)]
        receiver.feed(blocks[0] + blocks[1])
        receiver.intake.settle()
        assert receiver.intake.pass_plain(blocks[2])
        assert not receiver.intake.pass_plain(blocks[4])
        place = Position("2", 2, len(b"".join(blocks[:3])))
        assert receiver.intake.head == place

    def test_not_in_a_dialect_that_knows_no_ordinary_ones(self) -> None:
        receiver = Receiver(OpenAIChat())
        receiver.feed(CHUNK)
        receiver.intake.settle()
        receiver.intake.take_dialect(LastEventId("end"))
        assert not receiver.intake.pass_plain(CHUNK)

    def test_what_passed_is_counted_now_and_then(self) -> None:
        receiver = Receiver(OpenAIChat())
        receiver.feed(CHUNK)
        receiver.intake.settle()
        for _ in range(SETTLE_EVENTS):
            assert receiver.intake.pass_plain(CHUNK)
        assert not receiver.transcript.fresh
        assert receiver.transcript.events == SETTLE_EVENTS + 1

    def test_not_behind_half_an_event(self) -> None:
        receiver = Receiver(OpenAIChat())
        receiver.feed(CHUNK[:7])
        receiver.intake.settle()
        assert not receiver.intake.plain
        receiver.feed(CHUNK[7:])
        receiver.intake.settle()
        assert receiver.intake.plain

    def test_not_behind_the_end(self) -> None:
        receiver = Receiver(OpenAIChat())
        receiver.feed(b"data: [DONE]\n\n")
        receiver.intake.settle()
        assert not receiver.intake.plain

    def test_ids_are_followed(self) -> None:
        receiver = Receiver(OpenAIChat())
        receiver.feed(b"id: 1\n" + CHUNK)
        receiver.intake.settle()
        assert receiver.intake.pass_plain(b"id: 2\n" + CHUNK)
        assert receiver.intake.last_event_id == "2"
        assert receiver.intake.pass_plain(CHUNK)
        assert receiver.intake.last_event_id == "2"
        assert not receiver.intake.pass_plain((b"id: 3\n" + CHUNK) * 2)
        assert not receiver.intake.pass_plain(b"id\n" + CHUNK)


CURSOR, LOG, MARKS, LINES = artificial.Cursor(), artificial.Log(), artificial.Marks(), artificial.CursorLines()


def told(dialect: Dialect, *said: Mapping[str, Any]) -> bytes:
    return "".join(block(dialect, **each) for each in said).encode()


def place(receiver: Receiver) -> tuple[str, int]:
    return receiver.intake.head.cursor, receiver.intake.head.behind


class TestCursors:
    """Places that stand in the data."""

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_events_behind_the_last_one_are_counted(self, one_by_one: bool) -> None:
        receiver = Receiver(CURSOR, one_by_one=one_by_one)
        places = []
        for said in ({"x": 0}, {"event_id": "a"}, {"x": 1}, {"n": 2}, {"event_id": "b"}, {"event_id": ""}):
            receiver.feed(told(CURSOR, said))
            places.append(place(receiver))
        assert places == [("", 1), ("a", 0), ("a", 1), ("a", 2), ("b", 0), ("", 0)]

    def test_also_those_that_pass_plainly(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}))
        receiver.intake.settle()
        assert receiver.intake.pass_plain(told(CURSOR, {"n": 1}))
        assert not receiver.intake.pass_plain(told(CURSOR, {"n": 2}, {"n": 3}))  # they are counted one at a time
        assert place(receiver) == ("a", 1)

    def test_also_those_before_the_first_offset_of_a_log(self) -> None:
        receiver = Receiver(LOG)
        receiver.feed(told(LOG, {"n": 0}))
        receiver.intake.settle()
        assert receiver.intake.pass_plain(told(LOG, {"n": 1}))
        assert place(receiver) == ("", 2)

    def test_comments_are_no_events_behind_it(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}) + b": ping\n\n")
        assert place(receiver) == ("a", 0)

    def test_what_stands_behind_it_comes_again(self) -> None:
        receiver = Receiver(CURSOR)
        same = [{"same": 1}, {"same": 1}]
        receiver.feed(told(CURSOR, {"event_id": "a"}, *same))
        receiver.again()
        (found,) = receiver.feed(told(CURSOR, *same, *same))
        assert (found.events, place(receiver), receiver.intake.replayed) == (2, ("a", 4), 2)

    @pytest.mark.parametrize("other", [{"same": 2}, {"event_id": "b"}])
    def test_nothing_else_may_come_before_it(self, other: Mapping[str, Any]) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}, {"same": 1}))
        receiver.again()
        assert receiver.feed(told(CURSOR, other)) == []
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.OTHER

    def test_a_log_is_read_again_from_its_start(self) -> None:
        receiver = Receiver(LOG)
        receiver.feed(told(LOG, {"n": 0}, {"n": 1}))
        receiver.again()
        (found,) = receiver.feed(told(LOG, {"n": 0}, {"n": 1}, {"n": 2}))
        assert found.data == told(LOG, {"n": 2})

    def test_an_offset_that_goes_back(self) -> None:
        receiver = Receiver(LOG)
        receiver.feed(told(LOG, {"event_id": "b"}))
        assert receiver.feed(told(LOG, {"event_id": "a"})) == []
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.GONE
        assert place(receiver) == ("b", 0)

    def test_the_offset_that_was_asked_for_is_no_news(self) -> None:
        receiver = Receiver(LOG)
        receiver.feed(told(LOG, {"event_id": "a"}))
        receiver.again()
        again = {"event_id": "a", "idle": 1}
        assert receiver.feed(told(LOG, again, again)) == []
        (found,) = receiver.feed(told(LOG, {"event_id": "a", "end": 1}))
        assert found.events == 1
        assert receiver.intake.terminal

    def test_an_offset_that_is_told_again_and_again_is_an_event_all_the_same(self) -> None:
        receiver = Receiver(LOG, one_by_one=True)
        assert len(receiver.feed(told(LOG, {"event_id": "a"}, {"event_id": "a"}))) == 2

    def test_resting(self) -> None:
        receiver = Receiver(LOG)
        assert not receiver.intake.resting
        receiver.feed(told(LOG, {"event_id": "a", "idle": 1}))
        assert receiver.intake.resting
        receiver.feed(told(LOG, {"same": 1}))
        assert not receiver.intake.resting
        receiver.feed(told(LOG, {"event_id": "a", "idle": 1}))
        receiver.again()
        assert not receiver.intake.resting

    def test_whoever_tells_ordinary_events_does_not_rest(self) -> None:
        receiver = Receiver(LOG)
        receiver.feed(told(LOG, {"event_id": "a", "idle": 1}))
        receiver.feed(told(LOG, {"n": 1}))
        assert not receiver.intake.resting

    def test_ids_about_cursors(self) -> None:
        """A relay in front."""
        receiver = Receiver(CURSOR)
        receiver.feed(b"id: 1\n" + told(CURSOR, {"event_id": "a"}) + b"id: 2\n" + told(CURSOR, {"same": 1}))
        assert receiver.intake.last_event_id == "2"
        assert receiver.intake.head.cursor == "a"


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("silent", [b"id: 7\ndata: \n\n", b"event: message\nid: 7\n\n"])
def test_where_a_server_is_that_says_nothing_counts_only_at_the_start(one_by_one: bool, silent: bytes) -> None:
    receiver = Receiver(Mcp(), one_by_one=one_by_one)

    def place(stream: bytes) -> tuple[str, int]:
        (found,) = receiver.feed(stream)
        assert (found.data, found.events) == (stream, 1)
        return found.position.last_event_id, found.position.behind

    assert place(silent.replace(b"7", b"3")) == ("3", 0)
    assert place(silent.replace(b"7", b"4")) == ("3", 1)
    assert place(b"id: 5\ndata: {}\n\n") == ("5", 0)
    assert place(silent) == ("5", 1)
    receiver.again()
    assert receiver.feed(silent) == []  # it may come again
    assert place(silent.replace(b"7", b"9")) == ("5", 2)
    assert place(b"id: 10\ndata: {}\n\n") == ("10", 0)


class TestMarks:
    """Ids that several events share."""

    def marks(self, *ids: str | None) -> bytes:
        return "".join(block(MARKS, name, said=at) for at, name in enumerate(ids)).encode()

    @pytest.mark.parametrize(
        ("ids", "place"),
        [
            (["1"], ("", 1)),
            (["1", "1"], ("", 2)),
            (["1", "2"], ("1", 1)),
            (["1", "2", "2", None], ("1", 3)),
            (["1", "2", "2", "3"], ("2", 1)),
        ],
    )
    def test_the_place_is_the_last_id_but_one(self, ids: list[str | None], place: tuple[str, int]) -> None:
        receiver = Receiver(MARKS)
        receiver.feed(self.marks(*ids))
        assert (receiver.intake.head.cursor, receiver.intake.head.behind) == place

    def test_the_last_id_comes_again(self) -> None:
        receiver = Receiver(MARKS)
        first, second, third, fourth = (self.marks("1", "2", "2", "2").split(b"\n\n")[at] + b"\n\n" for at in range(4))
        receiver.feed(first + second + third)
        receiver.again()
        assert receiver.intake.must_repeat
        assert receiver.feed(second) == []
        assert not receiver.intake.must_repeat
        (found,) = receiver.feed(third + fourth)
        assert (found.data, receiver.intake.replayed) == (fourth, 2)

    def test_it_must_come(self) -> None:
        receiver = Receiver(MARKS)
        receiver.feed(self.marks("1"))
        receiver.again()
        assert receiver.feed(block(MARKS, "2", said="new").encode()) == []
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.GONE

    def test_not_if_nothing_has_come(self) -> None:
        receiver = Receiver(MARKS)
        receiver.again()
        assert not receiver.intake.must_repeat
        assert len(receiver.feed(self.marks("1"))) == 1

    def test_what_comes_twice_behind_it(self) -> None:
        receiver = Receiver(MARKS)
        receiver.feed(self.marks("1"))
        receiver.again()
        (found,) = receiver.feed(self.marks("1", "2", "3") + self.marks("1", "2", "3").partition(b"\n\n")[2])
        assert (found.events, receiver.intake.replayed) == (2, 3)
        assert receiver.intake.objection is None

    def test_what_cannot_be_told(self) -> None:
        receiver = Receiver(MARKS)
        receiver.feed(self.marks("1"))
        receiver.again()
        twice = block(MARKS, "2", said="x").encode()
        (found,) = receiver.feed(self.marks("1") + twice + twice)
        assert found.data == twice
        assert receiver.intake.objection is not None
        assert receiver.intake.objection[0] is Verdict.UNCLEAR

    def test_also_where_events_pass_without_being_read(self) -> None:
        class Known(artificial.Marks):
            ordinary = CURSOR.ordinary

        receiver = Receiver(Known())
        receiver.feed(b"id: 1\n" + told(CURSOR, {"n": 1}))
        receiver.feed(b"id: 2\n" + told(CURSOR, {"n": 2}))
        assert place(receiver) == ("1", 1)


BUSY = {"error": "busy", "passes": 2}


@pytest.mark.parametrize("one_by_one", [True, False])
def test_hollow_events_are_kept_from_the_caller(one_by_one: bool) -> None:
    receiver = Receiver(CURSOR, one_by_one=one_by_one)
    found = receiver.feed(told(CURSOR, {"hollow": 1}, {"event_id": "a"}, {"hollow": 1}))
    assert [each.data for each in found] == [told(CURSOR, {"event_id": "a"})]
    assert place(receiver) == ("a", 0)
    assert receiver.feed(told(CURSOR, {"hollow": 1})) == []
    assert not receiver.intake.saw_data


class TestPassing:
    """Failures that pass."""

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_what_came_before_is_delivered(self, one_by_one: bool) -> None:
        receiver = Receiver(CURSOR, one_by_one=one_by_one)
        found = receiver.feed(told(CURSOR, {"event_id": "a"}, BUSY, {"event_id": "b"}))
        assert [each.data for each in found] == [told(CURSOR, {"event_id": "a"})]
        assert place(receiver) == ("a", 0)
        assert receiver.intake.error_held is not None
        reading, kept = receiver.intake.error_held
        assert (reading.retry_after, kept) == (2, told(CURSOR, BUSY))
        assert (receiver.intake.terminal, receiver.intake.upstream_error) == (False, None)
        assert receiver.intake.head.offset == len(told(CURSOR, {"event_id": "a"}))

    def test_it_has_passed_if_more_comes(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, BUSY))
        receiver.again()
        receiver.feed(told(CURSOR, {"event_id": "a"}))
        assert receiver.intake.error_held is None

    def test_it_has_passed_if_ordinary_events_come(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, BUSY))
        receiver.intake.begin(resumed=False)
        receiver.feed(told(CURSOR, {"n": 1}))
        assert receiver.intake.error_held is None

    def test_repeats_are_no_more(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}, {"same": 1}, BUSY))
        receiver.again()
        assert receiver.feed(told(CURSOR, {"same": 1})) == []
        assert receiver.intake.error_held is not None

    def test_it_stays(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}, BUSY))
        (found,) = receiver.intake.release_error(BEFORE)
        assert (found.data, found.events) == (told(CURSOR, BUSY), 1)
        assert found.position.offset == len(told(CURSOR, {"event_id": "a"}, BUSY))
        assert receiver.intake.upstream_error == "busy"

    def test_it_stays_although_something_else_was_due(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}, {"same": 1}))
        receiver.again()
        receiver.feed(told(CURSOR, BUSY))
        (found,) = receiver.intake.release_error(BEFORE)
        assert found.data == told(CURSOR, BUSY)
        assert receiver.intake.objection is None

    def test_it_has_a_number_like_any_other(self) -> None:
        receiver = Receiver(OpenAIResponses())
        busy = 'event: error\ndata: {"type":"error","code":"server_error","sequence_number":%d}\n\n'
        receiver.feed(b'event: x.delta\ndata: {"sequence_number":0}\n\n' + (busy % 1).encode())
        assert receiver.intake.head.sequence == 0
        (found,) = receiver.intake.release_error(BEFORE)
        assert found.position.sequence == 1

    def test_a_failure_that_does_not_pass(self) -> None:
        receiver = Receiver(CURSOR)
        (found,) = receiver.feed(told(CURSOR, {"error": "broken"}))
        assert found.events == 1
        assert (receiver.intake.error_held, receiver.intake.upstream_error) == (None, "broken")


class TestLines:
    """An object a line."""

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_lines_are_events(self, one_by_one: bool) -> None:
        receiver = Receiver(LINES, one_by_one=one_by_one)
        body = told(LINES, {"event_id": "a"}, {"n": 1}, {"same": 1})
        found = receiver.feed(body + b'{"sa')
        assert b"".join(each.data for each in found) == body
        assert sum(each.events for each in found) == 3
        assert receiver.intake.is_torn

    def test_several_that_are_ordinary_pass_at_once(self) -> None:
        receiver = Receiver(artificial.Lines())
        receiver.feed(told(LINES, {"n": 0}))
        receiver.intake.settle()
        assert receiver.intake.pass_plain(told(LINES, {"n": 1}, {"n": 2}))
        assert receiver.transcript.events == 3

    @pytest.mark.parametrize("end", [b"\r\n", b"\n\n"])
    def test_other_line_ends(self, end: bytes) -> None:
        receiver = Receiver(LINES)
        (found,) = receiver.feed(b'{"same":1}' + end + b'{"event_id":"a"}' + end)
        assert found.events == 2
        assert place(receiver) == ("a", 0)

    def test_the_last_line_may_lack_its_line_feed(self) -> None:
        receiver = Receiver(LINES)
        receiver.feed(b'{"same":1}\n{"end":true}')
        rest = receiver.intake.rest()
        (found,) = receiver.intake.judge([rest], BEFORE)
        assert (found.data, found.events) == (b'{"end":true}\n', 1)
        assert receiver.intake.terminal
        assert not receiver.intake.is_torn

    def test_half_a_line_is_half_an_event(self) -> None:
        receiver = Receiver(LINES)
        receiver.feed(b'{"same":1}\n{"end":t')
        assert receiver.intake.rest() == b""
        assert receiver.intake.is_torn

    def test_of_an_event_stream_nothing_is_whole_at_its_end(self) -> None:
        receiver = Receiver()
        receiver.feed(b'data: {"end":true}\n')
        assert receiver.intake.rest() == b""


class TestMissing:
    """What a poll has found."""

    def test_it_is_no_replay(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.feed(told(CURSOR, {"event_id": "a"}, {"same": 1}))
        receiver.intake.begin_missing()
        (found,) = receiver.intake.judge([told(CURSOR, {"same": 1}), told(CURSOR, {"end": 1})], BEFORE)
        assert found.events == 2

    def test_its_failures_do_not_pass(self) -> None:
        receiver = Receiver(CURSOR)
        receiver.intake.begin_missing()
        (found,) = receiver.intake.judge([told(CURSOR, BUSY)], BEFORE)
        assert found.events == 1
        assert receiver.intake.upstream_error == "busy"


def test_behind_a_resume_ordinary_events_pass_again() -> None:
    receiver = Receiver(OpenAIResponses())
    blocks = [f'event: x.delta\ndata: {{"sequence_number":{n}}}\n\n'.encode() for n in range(4)]
    receiver.feed(blocks[0] + blocks[1])
    receiver.again()
    receiver.feed(blocks[2])
    receiver.intake.settle()
    assert receiver.intake.pass_plain(blocks[3])
