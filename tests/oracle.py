"""The rules once more, shorter: what a conversation must ask for and hand out, as one generator.

Written from the design, not from the machine, so that one can be held against the other. It sees each connection as a
whole (status, headers, the bytes that came, how it ended) and remembers every event, so it needs neither a table, nor a
queue, nor checksums. What it shares with the machine are the dialects (tested by themselves) and the reading of one
block (tested by the vectors in tests/vectors/sse).
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from resumable_llm.core.dialect import Dialect, Finished, StillRunning
from resumable_llm.core.events import BOM, Fields, parse_block
from resumable_llm.core.model import Backoff, Position, Progress, RequestPlan, origin

if TYPE_CHECKING:
    from tests.conversation import Answer

TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 529}
BLOCK = re.compile(rb"(?s).*?(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n)|\r$)")


@dataclass
class Ask:
    """Send this and say what came."""

    plan: RequestPlan


@dataclass
class Give:
    """Hand this event to the caller."""

    block: bytes
    fields: Fields


@dataclass
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass
class Done:
    """It is over: "end", "surface", or the name of an error."""

    outcome: str
    proved: bool = False


Step = Ask | Give | Pause | Done


class Told(list[Fields]):
    """All events of the answer so far, as dialects want to see them."""

    whole = True


def oracle(request: RequestPlan, dialect: Dialect, backoff: Backoff) -> Generator[Step, Answer, None]:  # noqa: C901
    told = Told()
    cursor = request.header("last-event-id") or ""
    numbered, sequence, believed, offset = bool(cursor), None, False, 0
    handle = location = None
    failures, floor_of_stream, gone, answered, redirects = 0, None, False, False, 0
    broken, torn = False, False  # since the last event: it broke off; inside an event
    last = b""  # the last block, where the dialect wants it again at a resume
    why, plan = "first", request

    def progress() -> Progress:
        return Progress(request, Position(cursor, sequence, offset), handle, location, bool(told), len(last))

    def by_id() -> RequestPlan | None:
        target = request.get(location) if location is not None else request
        if origin(target.url) != origin(request.url) or not (cursor or (location is not None and not told)):
            return None
        target = target.with_headers(
            ("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), without=("last-event-id",)
        )
        return target.with_headers(("Last-Event-ID", cursor)) if cursor else target

    def lost(error: str) -> Done:
        # What was said may prove that no text is missing: then the rest was worth asking for, but not an error.
        return Done("end", proved=True) if dialect.ended(request, told) else Done(error)  # type: ignore[arg-type]

    while True:
        answer = yield Ask(plan)
        news, floor, broke, streamed = False, None, True, False
        kind = answer.headers.get("content-type", "")
        again = why not in ("first", "repeat")

        if answer.down:
            pass
        elif answer.status in (200, 201) and kind == "text/event-stream" and why != "poll":
            streamed = answered = True
            redirects = 0
            location = answer.headers.get("location", location)
            if not again:
                dialect = dialect.answered_by(request, answer.headers)
                handle = dialect.handle(request, answer.headers)
            believed = believed or (again and sequence is not None)
            due = last if again else b""
            retold = again  # it may begin with what was told before
            for number, block in enumerate(BLOCK.findall(answer.body)):
                fields = parse_block(block.removeprefix(BOM) if number == 0 else block)
                floor_of_stream = floor_of_stream if fields.retry is None else fields.retry / 1000
                event = fields.data is not None or fields.event is not None
                if event or dialect.counts(block):
                    if due:
                        if block != due:
                            yield Done("ReplayDiverged")
                            return
                        due = b""
                        continue
                    offset += len(block)
                    last = block if dialect.overlaps else b""
                reading = dialect.read(fields) if event else None
                if reading is not None:
                    if handle and reading.handle and handle != reading.handle:
                        yield Done("ReplayDiverged")
                        return
                    if reading.sequence is not None:
                        if believed and sequence is not None and reading.sequence <= sequence:
                            continue
                        if believed and sequence is not None and reading.sequence > sequence + 1:
                            yield Done("GapDetected")
                            return
                        believed = believed or (sequence is not None and reading.sequence == sequence + 1)
                        sequence = reading.sequence
                    elif retold and (numbered or fields.id):
                        if any((fields.id, fields.event, fields.data) == (old.id, old.event, old.data) for old in told):
                            continue
                        if fields.id and any(fields.id == old.id for old in told):
                            # Asked whether there is more, a server that generates anew has answered: none can be had.
                            anew = why == "confirm" and plan.method != "GET"
                            yield Done("end" if anew else "ReplayDiverged")
                            return
                        retold = False
                if fields.id is not None:
                    cursor, numbered = fields.id, numbered or bool(fields.id)
                if reading is None:
                    continue
                handle = handle or reading.handle
                news, failures, broken, torn = True, 0, False, False
                told.append(fields)
                yield Give(block, fields)
                if reading.terminal:
                    yield Done("end", proved=True)
                    return
            half = answer.body[sum(map(len, BLOCK.findall(answer.body))) :].strip(b"\r\n")
            if answer.ends == "eof" and not dialect.proves_end and not half and (news or not broken):
                asking = by_id()
                if not numbered or asking is None or (why == "confirm" and not news):
                    yield Done("end", proved=numbered and why == "confirm" and not news)
                    return
                if floor_of_stream:
                    yield Pause(min(floor_of_stream, 30.0))
                why, plan = "confirm", asking
                continue
            broken, torn = True, torn or bool(half)
        elif not again and not answered and answer.status not in TRANSIENT:
            yield Done("surface")
            return
        elif answer.status == 204 and again and why != "poll":
            if not dialect.proves_end and not torn:
                yield Done("end", proved=True)
                return
            gone = True
        elif answer.status in (301, 302, 303, 307, 308):  # at first it was the caller's, as above
            target = urljoin(plan.url, answer.headers.get("location", ""))
            redirects += 1
            if redirects > 5 or origin(target) != origin(plan.url):
                yield lost("CannotResume")
                return
            same = answer.status > 303 or plan.method == "GET"
            plan = RequestPlan(plan.method, target, plan.headers, plan.body) if same else plan.get(target)
            continue
        elif answer.status in TRANSIENT:
            wait = {"retry-after": 1.0, "retry-after-ms": 0.001}
            floor = next((float(value) * wait[name] for name, value in answer.headers.items() if name in wait), None)
        elif answer.ends == "eof":
            broke = False
            polls = dialect.poll(progress()) is not None
            if answer.status == 200 and polls and again:
                result = dialect.read_poll(answer.headers, answer.body, progress(), told)  # type: ignore[arg-type]
                if isinstance(result, Finished):
                    for block in result.blocks:
                        told.append(parse_block(block))
                        yield Give(block, told[-1])
                    yield Done("end", proved=True)
                    return
                if not isinstance(result, StillRunning):
                    yield lost("CannotResume")
                    return
                failures = 0
                yield Pause(result.seconds)
                more = None if gone else dialect.resume(progress())
                why, plan = ("poll", dialect.poll(progress()) or plan) if more is None else ("resume", more)
            elif (
                again
                and (answer.status in (404, 410, 416) or dialect.gone(answer.status, answer.body))
                and answer.status != 200
            ):
                if why == "poll" or not polls:
                    yield lost("ResumeExpired")
                    return
                gone, why, plan = True, "poll", dialect.poll(progress()) or plan
            else:
                yield lost("CannotResume")
                return
        if not broke:
            continue

        # It broke. The ways back, in the order of the design.
        failures += not news
        poll, own, other = dialect.poll(progress()), dialect.resume(progress()), by_id()
        fruitless = why == "resume" and streamed and failures > 0
        if poll is not None and (gone or why == "poll" or fruitless):
            why, plan = "poll", poll
        elif gone:
            yield lost("ResumeExpired")
            return
        elif own is not None or other is not None:
            why, plan = "resume", own or other or plan
        elif not told and dialect.may_repeat(progress()):
            why, plan = "repeat", request
        elif poll is not None:
            why, plan = "poll", poll
        elif answer.status in TRANSIENT and not answered and not answer.down:
            yield Done("surface")  # nothing was begun, so the response is the caller's
            return
        else:
            yield lost("CannotResume")
            return
        floors = [each for each in (floor, floor_of_stream) if each is not None]
        seconds = backoff(failures, 0.0, max(floors, default=None))
        if seconds is None:
            refused = answer.status in TRANSIENT and not answered and not answer.down
            yield Done("surface") if refused else lost("RetriesExhausted")
            return
        if seconds:
            yield Pause(seconds)
