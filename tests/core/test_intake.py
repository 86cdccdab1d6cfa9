"""From bytes to judged events."""

from __future__ import annotations

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
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_responses import OpenAIResponses

BEFORE = Position("before", None, 3)
CHUNK = b'data: {"choices":[{"finish_reason":null,"index":0}]}\n\n'


class Receiver:
    """An intake and somebody who takes what it finds."""

    def __init__(self, dialect: Dialect = ANY_EVENT_STREAM, *, one_by_one: bool = False) -> None:
        self.transcript = Transcript(10**6, lambda: None)
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
        receiver.feed(b'data: {"error":{"code":"overloaded"}}\n\n')
        assert receiver.intake.upstream_error == "overloaded"
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
        receiver.intake.take_dialect(ANY_EVENT_STREAM)
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
