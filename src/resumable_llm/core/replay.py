"""Recognising what was delivered before: two ways to keep a repeat from reaching the caller.

By sequence where the dialect counts its events, by fingerprint where events carry opaque ids. Nothing here knows
which server repeats itself, or why.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from enum import Enum
from zlib import crc32

from resumable_llm.core.events import Fields
from resumable_llm.core.transcript import Transcript

MAX_REMEMBERED = 262_144
"""Events remembered by fingerprint: 2 MiB a stream at most; a server that goes back further than that is not
recognised.
"""


MAX_OVERLAP = 4096
"""Events behind a replay that are watched for being told twice: what happens while a request is answered."""


class Verdict(Enum):
    """What an event is, in the light of those before it."""

    NEW = "new"
    SEEN = "seen"
    GAP = "gap"
    OTHER = "other"
    """It claims the place of an event that was delivered, but is another."""
    GONE = "gone"
    """It stands where an event should have come again."""
    UNCLEAR = "unclear"
    """Whether it is new cannot be told on this connection, but on another."""
    MISFIT = "misfit"
    """It is of another generation, which does not fit to what was delivered."""


class Counter:
    """Judges events by a sequence that goes up by one.

    Some servers number loosely: all zero, or with holes. So a sequence is believed once it has gone up by one, or
    after a resume, which only a server that counts can answer; a sequence that breaks before that is never asked
    again.
    """

    __slots__ = ("_believed", "_refuted", "last")

    def __init__(self, last: int | None) -> None:
        self.last = last
        self._believed = last is not None
        self._refuted = False

    def resumed(self) -> None:
        """From here on the server answers a request that named the sequence."""
        self._believed = not self._refuted

    def follows(self, sequence: int) -> bool:
        """Count the next event if it is plainly the next one; otherwise leave it to `judge`."""
        if not self._believed or self.last is None or sequence != self.last + 1:
            return False
        self.last = sequence
        return True

    def judge(self, sequence: int) -> Verdict:
        """Judge the next event and count it."""
        last = self.last
        if self._refuted:
            return Verdict.NEW
        if last is None or sequence == last + 1:
            self._believed = self._believed or last is not None
            self.last = sequence
            return Verdict.NEW
        if not self._believed:
            self._refuted = True
            self.last = None
            return Verdict.NEW
        return Verdict.SEEN if sequence <= last else Verdict.GAP


class Ledger:
    """Judges events by fingerprint, in the first moments of a resumed stream.

    Fingerprints are taken from the transcript when they are needed, at a drop or for a checkpoint: an event that comes
    in the ordinary course of things costs nothing here.

    Args:
        first_id: SSE id of the first event ever delivered.
        events: Events delivered by an earlier process, of which no fingerprints are left.
        checksum: CRC-32 over those.
        identify: Tells what an event is known by: its SSE id, or the cursor that stands in its data; empty if neither.
        behind: How many of those stand behind the cursor.
        behind_checksum: CRC-32 over these.
    """

    __slots__ = (
        "_before",
        "_began",
        "_behind",
        "_contents",
        "_count",
        "_expected",
        "_forgotten",
        "_forgotten_checksum",
        "_heads",
        "_identify",
        "_ids",
        "_inherited",
        "_known",
        "_places",
        "_read_to",
        "_repeats",
        "_retold",
        "_retold_checksum",
        "_seen_ids",
        "_strict",
        "checksum",
        "first_id",
        "replaying",
    )

    def __init__(
        self,
        first_id: str,
        events: int,
        checksum: int,
        identify: Callable[[Fields], str],
        *,
        behind: int = 0,
        behind_checksum: int = 0,
    ) -> None:
        self.first_id = first_id
        self.checksum = checksum
        self.replaying = False
        """Whether the stream may still be repeating what was delivered."""
        self._before = (events, checksum)
        self._began = events > 0
        self._read_to = 0
        self._ids = array("I")
        self._contents = array("I")
        self._places: dict[tuple[int, int], int] = {}
        self._identify = identify
        self._expected = 0
        self._strict = False
        self._repeats = False
        self._seen_ids: AbstractSet[int] = frozenset()
        # Of what an earlier process delivered, only what stands behind the cursor comes again, as a rule.
        self._inherited = behind, behind_checksum
        self._forgotten = self._forgotten_checksum = 0
        self._heads = self._known = 0
        # The events behind the cursor: the first and the end of them, counted from the first inherited, and the sum.
        self._behind = 0, behind, behind_checksum
        self._count = behind
        self._retold: int | None = None
        self._retold_checksum = 0

    def catch_up(self, transcript: Transcript) -> None:
        """Take the fingerprints of what has been delivered since the last time."""
        self._read_to, events = transcript.since(self._read_to)
        for event in events:
            if event.data is None and event.event is None:
                continue
            if not self._began:
                self._began, self.first_id = True, event.id or ""
            identity, content = _fingerprint(event, self._identify(event))
            self.checksum = _chain(content, self.checksum)
            if len(self._ids) >= MAX_REMEMBERED:
                del self._ids[: MAX_REMEMBERED // 2], self._contents[: MAX_REMEMBERED // 2]
                self.replaying = False  # the places are others now
            self._ids.append(identity)
            self._contents.append(content)
            self._count += 1

    def behind_checksum(self, behind: int) -> int:
        """CRC-32 over the last so many events, all of them caught up with."""
        first = self._count - behind
        begin, end, checksum = self._behind
        if first != begin:
            end, checksum = first, 0
        for content in self._contents[len(self._contents) - (self._count - end) :]:
            checksum = _chain(content, checksum)
        self._behind = first, self._count, checksum
        return checksum

    def resumed(self, transcript: Transcript, behind: int, *, strict: bool = False) -> None:
        """A stream begins that may repeat what was delivered.

        Args:
            transcript: What was delivered.
            behind: How many of the last events stand behind the cursor, so that they will come again.
            strict: They must come again, just as they were, before anything new does.
        """
        self.catch_up(transcript)
        self.replaying = True
        self._retold = None
        self._repeats = False
        self._places = {}
        for place, pair in enumerate(zip(self._ids, self._contents, strict=True)):
            self._places.setdefault(pair, place)
        self._seen_ids = set(self._ids)
        self._known = len(self._ids)  # what is told from here on is not what may come again
        self._expected = max(self._known - behind, 0)
        self._forgotten = min(max(behind - len(self._ids), 0), self._inherited[0])
        self._forgotten_checksum = 0
        self._strict = strict
        # With so many events that have no id the answer began: a server that starts over tells them first.
        self._heads = 0 if self._before[0] else next((at for at, identity in enumerate(self._ids) if identity), 0)

    def seam(self) -> Seam:
        """What judges the events behind the replay that has just been begun."""
        return Seam(self._seen_ids)

    def judge(self, event: Fields, cursor: str, *, opens: bool = False, unplaced: bool = False) -> Verdict:
        """Judge the next event of a stream that may be repeating.

        Args:
            event: The event.
            cursor: SSE id of the last event delivered.
            opens: It is of the kind that begins an answer.
            unplaced: Cursors stand in the data of events, whatever their ids are, and not in this one.
        """
        name = self._identify(event)
        identity, content = _fingerprint(event, name)
        retold = self._is_retold(event, cursor, opens=opens)
        if retold:
            return self._judge_retold(content)
        if self._forgotten and (unplaced or name in ("", cursor)):  # an earlier process had it, and left no more of it
            return self._judge_forgotten(content)
        if self._is_due(identity, content):
            return Verdict.SEEN
        verdict = self._judge_out_of_turn(identity, content)
        if verdict is Verdict.NEW and event.id and event.id == cursor and self._before[0] and not self._repeats:
            verdict = Verdict.SEEN  # the server begins with the event that was named, which an earlier process had
        if verdict is Verdict.NEW and not self._may_precede_repeats(identity):
            self.replaying = False
            self._places, self._seen_ids = {}, frozenset()
        return verdict

    def _judge_out_of_turn(self, identity: int, content: int) -> Verdict:
        """An event that is not the one due: the server does not go on from where it was asked to, or it is new."""
        # Once the last event has come again, all that follows is new: some servers give several events one id, and
        # events can be alike.
        if identity and not (self._repeats and self._expected == self._known):
            place = self._place_of((identity, content))
            if place is not None:
                self._expected, self._repeats = place + 1, True
                return Verdict.SEEN
            if identity in self._seen_ids:
                return Verdict.OTHER
        if self._forgotten_checksum and self._forgotten:
            return Verdict.OTHER  # what was taken for repeats can have been none
        if self._strict and (self._forgotten or self._expected < self._known):
            return self._judge_from_the_start(identity, content)
        return Verdict.NEW

    def _place_of(self, pair: tuple[int, int]) -> int | None:
        """Where an event was delivered: at the first place from the one that is due on, or else at the first of all."""
        first = self._places.get(pair)
        if first is not None and first < self._expected:
            for place in range(self._expected, min(self._expected + MAX_OVERLAP, self._known)):
                if (self._ids[place], self._contents[place]) == pair:
                    return place
        return first

    def _is_due(self, identity: int, content: int) -> bool:
        """Whether this very event comes again, if the server goes on from where it was asked to."""
        due = self._expected
        if due >= self._known or (self._ids[due], self._contents[due]) != (identity, content):
            return False
        self._expected += 1
        self._repeats = True
        return True

    def _may_precede_repeats(self, identity: int) -> bool:
        """Whether repeats may follow a new event: it has no id, and so says nothing of where the server is."""
        if identity:
            return False
        if self._expected < self._known:
            return self._ids[self._expected] != 0  # so it was not this one that was due
        self._heads -= 1
        return self._heads >= 0

    def _judge_forgotten(self, content: int) -> Verdict:
        if self._inherited[0] == 1 and not self._strict and _chain(content, 0) != self._inherited[1]:
            self._forgotten = 0
            self.replaying = False
            return Verdict.NEW  # it need not come again, and has not
        self._repeats = True
        self._forgotten -= 1
        self._forgotten_checksum = _chain(content, self._forgotten_checksum)
        same = self._forgotten > 0 or self._forgotten_checksum == self._inherited[1]
        return Verdict.SEEN if same else Verdict.OTHER

    def _judge_from_the_start(self, identity: int, content: int) -> Verdict:
        """Something else than what is due: right only if the server begins with the first event of all."""
        if self._before[0] or not self._ids or (self._ids[0], self._contents[0]) != (identity, content):
            return Verdict.OTHER
        self._expected = 1
        return Verdict.SEEN

    def _is_retold(self, event: Fields, cursor: str, *, opens: bool) -> bool:
        """Whether an earlier process delivered it: such events can only be told by counting from the first."""
        starts = event.id == self.first_id != cursor if event.id else opens and self._strict
        if self._retold is None and starts:
            self._retold, self._retold_checksum, self._forgotten = 0, 0, 0
        return self._retold is not None and self._retold < self._before[0]

    def _judge_retold(self, content: int) -> Verdict:
        assert self._retold is not None
        self._retold += 1
        self._retold_checksum = _chain(content, self._retold_checksum)
        events, checksum = self._before
        return Verdict.OTHER if self._retold == events and self._retold_checksum != checksum else Verdict.SEEN


class Seam:
    """Judges events behind a replay, of a server that joins the replay to the live stream with some of them told twice.

    Such a server listens for new events before it reads the kept ones, so what happens in between comes by both ways.
    What was kept before this connection cannot be among it. And where several events share an id, two of them may be
    alike: then one connection cannot tell a new event from one told twice, but the next one can, for it finds both
    among what was kept.

    Args:
        known: Fingerprints of the ids that were seen on earlier connections.
    """

    def __init__(self, known: AbstractSet[int]) -> None:
        self._known = known
        self._told: list[tuple[int, int]] = []
        self._places: dict[tuple[int, int], int] = {}
        self._due = 0

    def judge(self, event: Fields, last_event_id: str) -> Verdict:
        """Judge the next event that is not of the replay.

        Args:
            event: The event; it has an id.
            last_event_id: The id before it.
        """
        if len(self._told) >= MAX_OVERLAP:
            return Verdict.NEW
        pair = _fingerprint(event, event.id or "")
        place = self._due if self._due < len(self._told) and self._told[self._due] == pair else self._places.get(pair)
        if place is None or pair[0] in self._known:
            self._places[pair] = len(self._told)
            self._told.append(pair)
            self._due = len(self._told)
            return Verdict.NEW
        if place != self._due and event.id == last_event_id:
            return Verdict.UNCLEAR
        self._due = place + 1
        return Verdict.SEEN


def _fingerprint(event: Fields, name: str) -> tuple[int, int]:
    identity = crc32(name.encode()) if name else 0
    return identity, crc32(f"{event.event or ''}\0{event.data or ''}".encode())


def _chain(content: int, before: int) -> int:
    return crc32(content.to_bytes(4, "big"), before)
