"""A fake world: plays the cases of tests/vectors/<dialect>/<case>/ into a conversation. No I/O, no clock, no chance.

A case is `wire.sse`, or `wire.ndjson` where the dialect's events are lines: the whole answer as the server knows it;
and `case.json`:

- ``about``: the case in a sentence.
- ``dialect``: name of the dialect that must recognise the request, or ``terminal``: the event that ends the answer.
- ``relayed``: true if the request goes to a relay.
- ``request``: method, url, headers, body (JSON).
- ``answers``: what the server says to the first request, the second, …; the last one is said to all later ones. Each
  has ``status`` (200), ``headers``, and one of ``body``: "whole" (default for the first), "rest" (what the request's
  cursor asks for; default for others), ``sse`` or ``ndjson`` (literal stream), ``json``, ``text`` (literal bodies); or
  ``down``: true (no connection at all). ``overlap``: start the rest so many events early. ``twice``: the server joins
  the kept events to the live ones with the last so many of the kept ones told twice; ``live``: the index of the first
  live event of the wire (none: all are kept). ``cut``: stop behind so many bytes, or behind a text. ``ends``: "eof",
  "reset", "silence" (nothing more comes, until the read timeout). ``lasts``: so many seconds pass before that.
- ``elsewhere``: for each URL path named here, what the server says to requests for it, in turn, apart from ``answers``;
  for polls, so that they are answered as such wherever the stream is cut.
- ``ids``: how the server finds the place that ``Last-Event-ID`` names: "exact" (default): behind the last event with
  that id, which there must be; "sorted": it tells the events whose ids are greater, as texts, so that several may share
  one and "0" means from the start; without a cursor a GET is told nothing.
- ``expect``: ``requests`` (method, url, last_event_id), ``waits`` in seconds, ``delivered`` (number of the wire's
  events, "all", or "text" if other events tell the same text), ``delivered_from`` (an event's index), ``text`` (what a
  person has read), ``outcome``: "end", "surface" or the error's class, ``proved``, ``upstream_error``.
- ``anywhere``: false if it makes no sense to cut the first answer somewhere else.

The rest is found by whichever cursor the request has; all but the first are exclusive:

- ``from=N`` in the query: bytes.
- ``starting_after=N``: behind the event with that ``sequence_number``.
- ``last_event_id=E``: behind the event with ``"event_id": "E"`` in its data.
- ``offset=O``: behind the control event with ``"streamNextOffset": "O"`` (if several have it, the last that does not
  close the stream); "-1": from the start.
- ``Last-Event-ID``: see ``ids``.
- None: from the start.

The drivers' tests can serve the same answers with `World`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from typing_extensions import assert_never

from resumable_llm.core.actions import Deliver, Fail, Finish, Notify, Read, Send, Surface, Wait
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.errors import ResumableError
from resumable_llm.core.events import EventDecoder
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES, Framing
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Failure, Limits, Notice, RequestPlan
from resumable_llm.dialects import LastEventId, named, recognise
from resumable_llm.dialects.relayed import Relayed

VECTORS = Path(__file__).parent / "vectors"
KEY = "key-of-the-call"
_END = 10**9
Told = list[tuple[str, str]]
"""Events as a caller sees them: name and data."""


class Reset(Exception):
    """The connection broke."""


def patient(failures: int, elapsed: float, floor: float | None) -> float | None:
    """The backoff of all cases: at once after progress, then 1, 2, 4 seconds, then enough."""
    if failures > 3:
        return None
    return max(2.0 ** (failures - 1) if failures else 0.0, floor or 0.0)


@dataclass(frozen=True)
class Answer:
    """What the server says to one request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ends: str = "eof"
    down: bool = False
    lasts: float = 0.0

    def chunks(self, size: int) -> Iterator[bytes]:
        return (self.body[at : at + size] for at in range(0, len(self.body), size))


@dataclass(frozen=True)
class Case:
    name: str
    data: dict[str, Any]
    wire: bytes
    spoken: Dialect | None = None
    """A dialect that is made up, so that nobody would recognise the request."""

    @cached_property
    def plan(self) -> RequestPlan:
        asked = self.data["request"]
        headers = tuple(asked.get("headers", {}).items())
        body = asked.get("body")
        content = b"" if body is None else json.dumps(body).encode()
        return RequestPlan(asked["method"], asked["url"], headers, content)

    @cached_property
    def dialect(self) -> Dialect:
        if self.spoken is not None:
            return self.spoken
        if "terminal" in self.data:
            return LastEventId(self.data["terminal"])
        found = recognise(self.plan)
        assert found is not None
        assert found.name == self.data["dialect"]
        return Relayed(found) if self.data.get("relayed") else found

    @cached_property
    def prepared(self) -> RequestPlan:
        return self.dialect.prepare(self.plan, KEY)

    @property
    def framing(self) -> Framing:
        return self.dialect.framing

    @cached_property
    def blocks(self) -> list[bytes]:
        if self.framing is JSON_LINES:
            return self.wire.splitlines(keepends=True)
        return [found.group() for found in re.finditer(rb"(?s).+?(?:\r\n\r\n|\n\n|\r\r)", self.wire)]

    @cached_property
    def whole(self) -> Told:
        return told(self.wire, self.framing)

    def converse(
        self, *, one_by_one: bool, checkpoint: Checkpoint | None = None, limits: Limits | None = None
    ) -> Conversation:
        known = checkpoint is not None and "terminal" not in self.data and self.spoken is None
        return Conversation(
            self.prepared,
            named(checkpoint.dialect) if known and checkpoint else self.dialect,
            patient,
            limits or Limits(),
            key=self.prepared.header("idempotency-key"),
            checkpoint=checkpoint,
            one_by_one=one_by_one,
        )


def load(pattern: str = "*/*") -> list[Case]:
    """The cases on disk."""
    folders = sorted(path.parent for path in VECTORS.glob(f"{pattern}/case.json"))
    return [
        Case(
            f"{folder.parent.name}/{folder.name}",
            json.loads((folder / "case.json").read_text(encoding="utf-8")),
            next(folder.glob("wire.*")).read_bytes(),
        )
        for folder in folders
    ]


def told(stream: bytes, framing: Framing = EVENT_STREAM) -> Told:
    """The events of a stream. The decoder has vectors of its own."""
    if framing is EVENT_STREAM:
        return [(event.event, event.data) for event in EventDecoder().feed(stream)]
    return [("message", line.strip().decode()) for line in stream.split(b"\n") if line.strip()]


class World:
    """The server of a case, and the network in front of it.

    Args:
        case: The case.
        first: What to change in the first answer, such as its cut.
    """

    def __init__(self, case: Case, **first: Any) -> None:
        self._case = case
        start, *later = case.data["answers"]
        self._script = [{**start, **first}, *(later or [{**start, "cut": _END}])]
        self._elsewhere = {path: list(said) for path, said in case.data.get("elsewhere", {}).items()}
        self.requests: list[RequestPlan] = []

    def answer(self, plan: RequestPlan) -> Answer:
        number = len(self.requests)
        assert number < 50, f"{self._case.name}: this goes on for ever"
        self.requests.append(plan)
        said = self._next(plan)
        if said.get("down"):
            return Answer(down=True)
        body, kind = self._body(said, plan, first=number == 0)
        headers = {"content-type": kind, **said.get("headers", {})}
        body = body[: self._end(said, body)]
        return Answer(said.get("status", 200), headers, body, said.get("ends", "eof"), lasts=said.get("lasts", 0.0))

    def _next(self, plan: RequestPlan) -> dict[str, Any]:
        script: list[dict[str, Any]] = self._elsewhere.get(plan.path, self._script)
        return script.pop(0) if len(script) > 1 else script[0]

    def _end(self, said: dict[str, Any], body: bytes) -> int:
        behind = said.get("cut", _END)
        if isinstance(behind, int):
            return behind
        assert body.count(behind.encode()) == 1, f"{self._case.name}: {behind!r} does not name one place"
        return body.index(behind.encode()) + len(behind.encode())

    def _body(self, said: dict[str, Any], plan: RequestPlan, *, first: bool) -> tuple[bytes, str]:
        if "json" in said:
            return json.dumps(said["json"]).encode(), "application/json"
        if "text" in said:
            return said["text"].encode(), "text/plain"
        for literal, framing in (("sse", EVENT_STREAM), ("ndjson", JSON_LINES)):
            if literal in said:
                return said[literal].encode(), framing.media_types[0]
        whole = said.get("body", "whole" if first else "rest") == "whole"
        return (self._case.wire if whole else self.rest(plan, said)), self._case.framing.media_types[0]

    def rest(self, plan: RequestPlan, said: dict[str, Any] | None = None) -> bytes:
        """What the request's cursor asks for, as a server of this kind understands it."""
        said, blocks = said or {}, self._case.blocks
        if "from" in plan.query:
            start = int(plan.query["from"])
            assert start in {0, *accumulate(map(len, blocks))}, "the offset is not that of an event"
            return self._case.wire[start:]
        wanted = self._wanted(plan, said.get("overlap", 0))
        kept = [at for at in wanted if at < said.get("live", _END)]
        twice = kept[max(len(kept) - said.get("twice", 0), 0) :]
        return b"".join(blocks[at] for at in [*kept, *twice, *wanted[len(kept) :]])

    def _wanted(self, plan: RequestPlan, overlap: int) -> list[int]:
        """The places of the events that the cursor asks for."""
        cursor, blocks = plan.header("last-event-id"), self._case.blocks
        if self._case.data.get("ids") == "sorted":
            start = ("" if plan.method == "POST" else "~") if cursor is None else cursor
            ids = list(map(_id, blocks))
            first = next((at for at, name in enumerate(ids) if name is not None and name > start), len(ids))
            return [at for at in range(max(first - overlap, 0), len(ids)) if ids[at] is not None]
        behind = 0
        if "starting_after" in plan.query:
            behind = self._behind(rb'"sequence_number": ?%s\b', plan.query["starting_after"])
        elif "last_event_id" in plan.query:
            behind = self._behind(rb'"event_id": ?"%s"', plan.query["last_event_id"])
        elif plan.query.get("offset", "-1") != "-1":
            behind = self._behind(rb'"streamNextOffset": ?"%s"(?!.*streamClosed": ?true)', plan.query["offset"])
        elif cursor is not None:
            behind = max(at for at, block in enumerate(blocks) if _id(block) == cursor) + 1
        return list(range(max(behind - overlap, 0), len(blocks)))

    def _behind(self, mark: bytes, value: str) -> int:
        """Behind the last event that has this in its data."""
        sought = re.compile(mark % re.escape(value).encode())
        return max(at for at, block in enumerate(self._case.blocks) if sought.search(block)) + 1


def _id(block: bytes) -> str | None:
    found = re.search(rb"^(?:\xef\xbb\xbf)?id: ?(.*)$", re.sub(rb"\r\n?", b"\n", block), re.MULTILINE)
    return found and found[1].decode()


@dataclass
class Played:
    """What came of a case."""

    requests: list[RequestPlan] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    slices: list[bytes] = field(default_factory=list)
    framing: Framing = EVENT_STREAM
    deliveries: list[Deliver] = field(default_factory=list)
    outcome: str = ""
    proved: bool = False
    error: ResumableError | None = None
    seconds: float = 0.0

    @cached_property
    def told(self) -> Told:
        """What the caller was told; to be asked for when it is over."""
        return told(b"".join(self.slices), self.framing)

    @property
    def asked(self) -> list[dict[str, str | None]]:
        return [asked(plan) for plan in self.requests]


def asked(plan: RequestPlan) -> dict[str, str | None]:
    """A request in the words of a case.

    How far back an offset goes depends on how the bytes came: what was received last must come again.
    """
    return {
        "method": plan.method,
        "url": re.sub(r"\bfrom=\d+", "from=N", plan.url),
        "last_event_id": plan.header("last-event-id"),
    }


def play(  # noqa: C901 - one branch for each action
    talk: Conversation, world: World, size: int, *, slices: bool, stop_after: int | None = None
) -> Played:
    """Perform a conversation's actions against a world, as the drivers do.

    Args:
        talk: The conversation.
        world: Answers.
        size: Bytes a chunk.
        slices: Pass chunks plainly where the conversation allows it, as the drivers do for transports.
        stop_after: Break off when so many events have been delivered.
    """
    log, now = Played(requests=world.requests, framing=talk.dialect.framing), 0.0
    chunks: Iterator[bytes] = iter(())
    answer = Answer()
    talk.start(now)
    while True:
        action = talk.next_action()
        now += 0.001
        if isinstance(action, Deliver):
            log.slices.append(action.data)
            log.deliveries.append(action)
            if stop_after is not None and talk.report.events >= stop_after:
                return log
        elif isinstance(action, Read):
            for chunk in chunks:
                if slices and talk.receive_plain(chunk):
                    log.slices.append(chunk)
                else:
                    talk.receive_data(chunk, now)
                    break
            else:
                now += answer.lasts
                if answer.ends == "eof":
                    talk.receive_eof(now)
                elif answer.ends == "silence":
                    talk.receive_failure(Failure("nothing came for too long", TimeoutError()), now)
                else:
                    talk.receive_failure(Failure("the connection broke", Reset()), now)
        elif isinstance(action, Send):
            answer = world.answer(action.plan)
            chunks = answer.chunks(size)
            if answer.down:
                talk.receive_failure(Failure("no connection", Reset()), now)
            else:
                talk.receive_response(answer.status, answer.headers, now)
        elif isinstance(action, Wait):
            log.waits.append(action.seconds)
            now += action.seconds
            talk.receive_wakeup(now)
        elif isinstance(action, Notify):
            log.notices.append(action.notice)
        else:
            log.seconds = now
            log.proved = talk.report.end_proved
            if isinstance(action, Finish):
                log.outcome = "end"
            elif isinstance(action, Surface):
                log.outcome = "surface"
            elif isinstance(action, Fail):
                log.outcome, log.error = type(action.error).__name__, action.error
            else:
                assert_never(action)
            return log
