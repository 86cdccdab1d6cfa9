"""From bytes to judged events: what is new, what was seen before, what must not be there.

Keeps the place in the answer behind the last block judged. Decides nothing about connections; the conversation does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from resumable_llm.core.actions import Deliver
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import BOM, Fields
from resumable_llm.core.model import NOTHING, Checkpoint, Position, Reading
from resumable_llm.core.replay import Counter, Ledger, Seam, Verdict
from resumable_llm.core.splice import Splice, encode
from resumable_llm.core.transcript import Transcript

SETTLE_EVENTS = 256
"""How many chunks may pass plainly before they are counted and the transcript's bound is looked at."""

_ID_LINE = re.compile(rb"id: ([^\n\0]+)\n").match

_new = tuple.__new__  # a named tuple's own constructor costs twice as much


class Intake:
    """The receiving end of one answer, over all its connections.

    Args:
        dialect: Reads the events.
        start: Where the answer stands at first.
        last_event_id: The cursor at first.
        transcript: What was delivered.
        max_event_bytes: Bound on one event.
    """

    # There may be very many, and a dictionary of so many attributes has 1,600 bytes.
    __slots__ = (
        "_at_start",
        "_behind",
        "_behind_error",
        "_boundary",
        "_cursor",
        "_due",
        "_in_runs",
        "_last_blocks",
        "_match",
        "_max_event_bytes",
        "_plain_before",
        "_read",
        "_resumed",
        "_seam",
        "_sequence_key",
        "_splice",
        "_splitter",
        "_takes_errors",
        "_transcript",
        "counter",
        "dialect",
        "error_came",
        "error_held",
        "handle",
        "ids_tell",
        "last_event_id",
        "ledger",
        "must_repeat",
        "numbered",
        "objection",
        "one_by_one",
        "passes_ids",
        "plain",
        "replayed",
        "resting",
        "retry_floor",
        "saw_data",
        "terminal",
        "upstream_error",
    )

    def __init__(
        self, dialect: Dialect, start: Checkpoint, last_event_id: str, transcript: Transcript, max_event_bytes: int
    ) -> None:
        self.take_dialect(dialect)
        self.one_by_one = False
        """Keep events apart, each with its own position."""
        self.passes_ids = False
        """Give out ids that come without an event, too."""
        self.last_event_id = last_event_id
        self._read = start.offset
        self.handle = start.handle
        self.counter = Counter(start.sequence)
        self.ledger = Ledger(
            start.first_id,
            start.events,
            start.checksum,
            self._identify,
            behind=start.behind if start.events else 0,  # otherwise they are in the transcript
            behind_checksum=start.behind_checksum,
        )
        self.numbered = bool(last_event_id)
        """The server has shown ids on this stream."""
        self.ids_tell = True
        """No two events in a row have had the same id."""
        self.replayed = 0
        """Events that came again."""
        self.retry_floor: float | None = None
        """The server's last ``retry:``, in seconds."""
        self.terminal = False
        """The terminal event was accepted."""
        self.upstream_error: str | None = None
        """Why the answer failed, if an event said that it did."""
        self.objection: tuple[Verdict, str] | None = None
        """Why the last bytes cannot belong to this answer: a gap, or another answer."""
        self.saw_data = False
        """The last bytes held an event, new or not."""
        self._transcript = transcript
        self._max_event_bytes = max_event_bytes
        self.error_held: tuple[Reading, bytes] | None = None
        """A failure that may pass, kept from the caller until it is known that it does not."""
        self.error_came = False
        """The last bytes held that failure."""
        self.resting = False
        """The server has told all that there is by now."""
        self.must_repeat = False
        """The last event has been asked for again and has not come."""
        self._splitter = dialect.framing.splitter(max_event_bytes)
        self._takes_errors = self._resumed = False
        self._behind_error: Sequence[bytes] = ()
        self._seam: Seam | None = None
        self._splice: Splice | None = None
        self._at_start = True
        self._cursor = start.cursor
        self._behind = start.behind
        self._last_blocks = b""
        self._plain_before = 0
        self._due: list[bytes] = []
        self.plain = False
        """The next bytes may pass unread if they are ordinary."""
        self._in_runs = False

    def take_dialect(self, dialect: Dialect) -> None:
        """Read events by this dialect from here on."""
        self.dialect = dialect
        self._match: Callable[..., object | None] = dialect.ordinary.fullmatch if dialect.ordinary else _never
        self._sequence_key = dialect.sequence_key
        self._boundary = dialect.framing.boundary

    def begin(self, *, resumed: bool) -> None:
        """A connection's body begins; half an event of the one before is forgotten."""
        self._splitter = self.dialect.framing.splitter(self._max_event_bytes)
        self._at_start = True
        self.resting = self.must_repeat = False
        self.plain = False  # until something new has come of this connection, every chunk is looked at
        self._due = []
        self._resumed = resumed
        if not resumed:
            self._read = -self._transcript.plain_size
            self._last_blocks = b""
        else:
            self._due = self._splitter.split(self.overlap)
            self.counter.resumed()
            strict = self.dialect.is_log or (bool(self._cursor) and not self.dialect.repeats_last)
            self.ledger.resumed(self._transcript, self._behind, strict=strict)
            self.must_repeat = self.dialect.repeats_last and self._behind > 0
            self._seam = self.ledger.seam() if self.dialect.repeats_last else None

    def begin_missing(self) -> None:
        """What comes now is what a poll has found to be missing: it repeats nothing, and no failure in it passes."""
        self.begin(resumed=True)
        self._due, self._seam, self.must_repeat = [], None, False
        self.ledger.replaying = False
        self._takes_errors = True

    def begin_splice(self, splice: Splice) -> None:
        """What comes now is of another generation, and only what fits to the old one is new."""
        self.begin_missing()
        self._takes_errors = False
        self._splice = splice

    def settle(self) -> None:
        """See whether the next bytes may pass plainly: half an event must wait for its other half."""
        self.plain = not (self.terminal or self._splitter.pending) and self._may_skim
        self._in_runs = not (self.one_by_one or self.is_placed or self._sequence_key is not None)

    @property
    def is_placed(self) -> bool:
        """Whether ids or cursors are about, so that events behind the last of them have to be counted."""
        return self.numbered or bool(self._cursor) or self.dialect.is_log

    @property
    def _may_skim(self) -> bool:
        """Whether ordinary events need not be read: the first ones of a resumed stream must."""
        ordinary = self.dialect.ordinary is not None and not self.dialect.repeats_last and self._splice is None
        return ordinary and not self.ledger.replaying and not self._due

    def pass_plain(self, chunk: bytes) -> bool:
        """Take a chunk that passes as it is. The hot path.

        Returns:
            True if the chunk holds only whole events that need no reading: it may go to the caller at once, and
            counts as delivered. False: nothing was done, `feed` must have it.
        """
        if not self.plain or 13 in chunk:
            return False
        if self._match(chunk) is None if self._in_runs else not self._skim(chunk):
            return False
        fresh = self._transcript.fresh
        fresh.append(chunk)
        if len(fresh) >= SETTLE_EVENTS:
            self._transcript.settle()
        return True

    def _skim(self, data: bytes) -> bool:
        """Whether these are ordinary events, which only have to be counted: then they are."""
        start, last_event_id = 0, None
        if self.one_by_one or self.is_placed or self._sequence_key is not None:  # then one at a time
            if data.find(self._boundary) != len(data) - len(self._boundary):
                return False
            if self.numbered:
                named = _ID_LINE(data)
                if named is not None:
                    start, last_event_id = named.end(), named[1]
        if self._match(data, start) is None:
            return False
        if self._sequence_key is not None and not self.counter.follows(_number_behind(self._sequence_key, data)):
            return False
        if last_event_id is not None:
            name = last_event_id.decode("utf-8", "replace")
            self.ids_tell = self.ids_tell and name != self.last_event_id
            self.last_event_id = name
            self._behind = self._behind + 1 if self._cursor else 0
        elif self.is_placed:
            self._behind += 1
            self.resting = False
        return True

    @property
    def overlap(self) -> bytes:
        """The last whole blocks that count, if the dialect wants them again at a resume."""
        transcript = self._transcript
        transcript.settle()
        if not self.dialect.overlaps:
            return b""
        return self._last_blocks if transcript.plain_size == self._plain_before else transcript.last_plain

    @property
    def head(self) -> Position:
        """The place behind the last block judged."""
        transcript = self._transcript
        if transcript.fresh:
            transcript.settle()
        read = self._read + transcript.plain_size
        return _new(Position, (self.last_event_id, self.counter.last, read, self._cursor, self._behind))

    @property
    def is_torn(self) -> bool:
        """Half an event has come."""
        return self._splitter.is_torn

    def rest(self) -> bytes:
        """A last event that the end of the body has made whole; empty if there is none."""
        return self._splitter.rest()

    def release_error(self, before: Position, *, alone: bool = False) -> list[Deliver]:
        """Give out the failure that was held back, for it has turned out to stay; and what came behind it.

        Args:
            before: The place that the caller has reached.
            alone: Without what came behind it, of which a connection that is gone may have had any part.
        """
        assert self.error_held is not None
        reading, block = self.error_held
        self.error_held, self.error_came, self._takes_errors = None, False, True
        self._count(block)
        self._take_id(self.dialect.framing.parse(block))
        if reading.sequence is not None:
            self.counter.judge(reading.sequence)
        self.terminal, self.upstream_error = reading.terminal, self.upstream_error or reading.error
        found = [_new(Deliver, (block, 1, self.head))]
        behind, self._behind_error = self._behind_error, ()
        return found if self.terminal or alone else found + self.judge(behind, before)

    def feed(self, chunk: bytes, before: Position) -> list[Deliver]:
        """Take bytes and return what is new in them; set `terminal`, `objection` and `saw_data`.

        Args:
            chunk: The bytes.
            before: The place that the caller has reached.

        Raises:
            EventTooLarge: An event has grown beyond the bound.
        """
        whole = self._splitter.cut(chunk)
        if len(whole) > self._splitter.max_bytes or self.one_by_one or not self._may_skim or 13 in whole:
            return self.judge(self._splitter.split(whole), before)
        if whole and self._skim(whole):
            self._at_start, self.saw_data, self.error_came, self.error_held = False, True, False, None
            self._count(whole)
            return [Deliver(whole, whole.count(self._boundary), self.head)]
        return self.judge(self._splitter.split(whole), before)

    def judge(self, blocks: Sequence[bytes], before: Position) -> list[Deliver]:
        """The same for blocks."""
        if self._splice is not None:
            return self._fit(blocks, self._splice)
        self.saw_data = self.error_came = False
        skim = self._may_skim
        found: list[Deliver] = []
        behind = False  # something without an event came behind the last event, and counts with it
        for number, block in enumerate(blocks):
            if skim and 13 not in block and self._skim(block):
                self._at_start, self.saw_data, self.error_held = False, True, None
                self._count(block)
                events: int | None = 1
            else:
                events = self._judge(block)
            behind = not events
            if events is not None:
                if self._resumed and block.startswith(BOM):
                    block = block.removeprefix(BOM)  # of a connection that the caller knows nothing of
                if self.numbered and (block[0] in b"\r\n" or block.endswith(b"\n\n\n")):
                    # With ids about, a stray blank line is another of the things that some decoders make an event of.
                    block = block.strip(b"\r\n") + b"\n\n"
                found.append(_new(Deliver, (block, events, self.head if self.one_by_one else before)))
            if self.error_came:
                self._behind_error = blocks[number + 1 :]
            if self.terminal or self.objection or self.error_came:
                break
        if not found or (self.one_by_one and not behind):
            return found
        if len(found) > 1 and not self.one_by_one:
            events = sum([each.events for each in found])
            return [Deliver(b"".join([each.data for each in found]), events, self.head)]
        found[-1] = found[-1]._replace(position=self.head)
        return found

    def _fit(self, blocks: Sequence[bytes], splice: Splice) -> list[Deliver]:
        """The same for blocks of another generation: what of them fits, and is new."""
        self.saw_data = self.error_came = False
        found: list[Deliver] = []
        for number, block in enumerate(blocks):
            fields = self.dialect.framing.parse(block.removeprefix(BOM) if self._at_start else block)
            self._at_start = False
            if fields.retry is not None:
                self.retry_floor = fields.retry / 1000
            reading = NOTHING if fields.data is None and fields.event is None else self.dialect.read(fields)
            if reading.hollow or (fields.data is None and fields.event is None):
                continue
            self.saw_data = self.saw_data or not reading.keepalive
            if reading.transient and not self._takes_errors:
                self.error_held, self.error_came = (reading, block), True
                self._behind_error = blocks[number + 1 :]
                break
            if reading.error is not None and reading.terminal:
                made = [encode(self.dialect.framing, fields, None)]
            else:
                made = splice.take(fields, terminal=reading.terminal)
            if splice.objection:
                self.objection = Verdict.MISFIT, splice.objection
                break
            if made:
                self.error_held = None
            else:
                self.replayed += 1
            for each in made:
                self._count(each)
                found.append(_new(Deliver, (each, 1, self.head)))
            self.handle = reading.handle or self.handle
            self.upstream_error = self.upstream_error or reading.error
            self.terminal = reading.terminal or splice.finished
            if self.terminal:
                break
        return found

    def _judge(self, block: bytes) -> int | None:
        """The number of events in a block that goes to the caller; None if it does not."""
        fields = self.dialect.framing.parse(block.removeprefix(BOM) if self._at_start else block)
        self._at_start = False
        event, data, _, retry = fields
        if retry is not None:
            self.retry_floor = retry / 1000
        has_event = data is not None or event is not None
        reading = self.dialect.read(fields) if has_event else NOTHING
        if reading.hollow:
            return None
        if reading.transient and not self._takes_errors:
            self.error_held, self.error_came = (reading, block), True
            return None
        if has_event or self.dialect.counts(block):
            if self._due:
                self._expect_again(block)
                return None
            self._count(block)
        if has_event:
            return 1 if self._is_new(fields, reading) else None
        return 0 if self._pass_control(fields) else None

    def _count(self, blocks: bytes) -> None:
        self._read += len(blocks)
        self._last_blocks, self._plain_before = blocks, self._transcript.plain_size

    def _expect_again(self, block: bytes) -> None:
        """A block that was delivered has been asked for again."""
        self.saw_data = True
        if block == self._due.pop(0):
            self.replayed += 1
        else:
            self.objection = Verdict.OTHER, "the server's record of the answer is not what was received of it"

    def _pass_control(self, fields: Fields) -> bool:
        """Whether a block without event goes to the caller.

        It dispatches nothing, yet some SDKs' decoders make an empty event of it once they have seen an id, or if it
        has a retry field (facts measured with openai 3.54, anthropic 2.12 and httpx-sse 0.4.3). A lone comment is
        harmless there, and raw readers are used to it.
        """
        self._take_id(fields)
        if self.passes_ids and fields.id is not None:
            return True
        return not (self.one_by_one or self.numbered or fields.id is not None or fields.retry is not None)

    def _is_new(self, fields: Fields, reading: Reading) -> bool:
        self.resting = reading.resting
        self.saw_data = self.saw_data or not reading.keepalive
        verdict, why = self._verdict(fields, reading)
        if verdict is Verdict.SEEN:
            self.replayed += 1
        elif verdict is not Verdict.NEW:
            self.objection = verdict, why
        if verdict is not Verdict.NEW:
            return False
        self.error_held = None  # that there is more says that it has passed
        self.handle = self.handle or reading.handle
        # A server that says nothing but where it is may be further on than what it has told: of use only at the start.
        says_nothing = reading.keepalive and not fields.data and self.last_event_id
        self._take_id(fields._replace(id=None) if says_nothing else fields)
        if reading.cursor is not None:
            self._cursor, self._behind = reading.cursor, 0
        self.terminal = reading.terminal
        self.upstream_error = self.upstream_error or reading.error
        return True

    def _verdict(self, fields: Fields, reading: Reading) -> tuple[Verdict, str]:
        verdict, why = self._compare(fields, reading)
        if self.must_repeat and verdict is Verdict.NEW and not fields.id and not reading.terminal:
            return verdict, why  # it may be a sign of life, and says nothing of what the server has
        if self.must_repeat and verdict is Verdict.NEW:
            return Verdict.GONE, "the server did not repeat the last event, so it no longer has this answer"
        self.must_repeat = False
        return verdict, why

    def _compare(self, fields: Fields, reading: Reading) -> tuple[Verdict, str]:
        if reading.handle and self.handle and reading.handle != self.handle:
            return Verdict.OTHER, "the server began another answer instead of going on with this one"
        if self.dialect.is_log and reading.cursor:
            verdict = self._judge_offset(reading.cursor, reading)
            if verdict is not None:
                return verdict, "the server has gone back behind the place that was asked for: it lost what it had"
        if reading.sequence is not None:
            last = self.counter.last
            verdict = self.counter.judge(reading.sequence)
            if verdict is Verdict.NEW:
                self.ledger.replaying = False
            return verdict, f"event {reading.sequence} came after event {last}: what was between them is lost"
        if self.ledger.replaying and (fields.id or reading.cursor or self.is_placed):
            verdict = self.ledger.judge(
                fields,
                self.last_event_id,
                opens=reading.handle is not None,
                unplaced=bool(self._cursor) and reading.cursor is None and not self.dialect.repeats_last,
            )
            if verdict is not Verdict.NEW:
                return verdict, "the server started over with another answer under the ids of this one"
        if self._seam is not None and fields.id and not self.must_repeat:
            return self._seam.judge(fields, self.last_event_id), "the server may have told the last event twice"
        return Verdict.NEW, ""

    def _judge_offset(self, offset: str, reading: Reading) -> Verdict | None:
        """The verdict on an offset of a log, if it is not for the ledger to judge."""
        if offset < self._cursor:
            return Verdict.GONE
        if offset > self._cursor or self._behind or not self.ledger.replaying:
            return None
        return Verdict.NEW if reading.terminal else Verdict.SEEN  # no more than that it is still there

    def _take_id(self, fields: Fields) -> None:
        before = self.last_event_id
        if fields.id is not None:
            self.ids_tell = self.ids_tell and (fields.id != before or not fields.id)
            self.last_event_id = fields.id
            self.numbered = self.numbered or bool(fields.id)
        if self.dialect.repeats_last:
            # The cursor stays behind the last event that has another id than this one: several can share one.
            if fields.id and fields.id != before:
                self._cursor, self._behind = before, 0
        elif fields.id is not None and not self._cursor:
            self._behind = 0
            return
        self._behind += fields.data is not None or fields.event is not None

    def _identify(self, event: Fields) -> str:
        return event.id or self.dialect.read(event).cursor or ""


def _never(_chunk: bytes, _start: int = 0) -> None:
    return None


def _number_behind(key: bytes, event: bytes) -> int:
    """The number behind a key of an event's JSON; -1 if it is not plainly there."""
    before, _, behind = event.partition(key)
    if not behind or before.endswith(b"\\"):  # not there, or its quotes are escaped: inside a string
        return -1
    number = behind.partition(b",")[0].strip(b" }\n")
    return int(number) if number.isdigit() and len(number) < 16 else -1
