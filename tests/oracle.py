"""The rules once more, shorter: what a conversation must ask for and hand out, as one generator.

Written from the design, not from the machine, so that one can be held against the other. It sees each connection as a
whole (status, headers, the bytes that came, how it ended) and remembers every event, so it needs neither a table, nor a
queue, nor checksums. What it shares with the machine are the dialects (tested by themselves) and the reading of one
block (tested by the vectors in tests/vectors/sse and by tests/core/test_framing.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from resumable_llm.core.dialect import Dialect, Finished, StillRunning
from resumable_llm.core.events import BOM, Fields
from resumable_llm.core.framing import JSON_LINES, Framing
from resumable_llm.core.model import NOTHING, Backoff, Position, Progress, RequestPlan, origin

if TYPE_CHECKING:
    from tests.conversation import Answer

TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 529}
BLOCK = re.compile(rb"(?s).*?(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n)|\r$)")
LINE = re.compile(rb".*?\n")


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


def cut(body: bytes, framing: Framing, *, ended: bool = False) -> tuple[list[bytes], bool]:
    """The whole blocks of a body, and whether half an event is behind them."""
    blocks: list[bytes] = (LINE if framing is JSON_LINES else BLOCK).findall(body)
    rest = body[sum(map(len, blocks)) :]
    if ended and framing is JSON_LINES and _is_json(rest):
        return [*blocks, rest + b"\n"], False
    return blocks, bool(rest.strip(b"\r\n"))


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def oracle(request: RequestPlan, dialect: Dialect, backoff: Backoff) -> Generator[Step, Answer, None]:  # noqa: C901
    told = Told()
    names: list[str] = []  # of each: its id, or the cursor in its data
    cursor = request.header("last-event-id") or ""
    place, since = "", 0  # the dialect's own cursor, and how many had been told at it, or else at the last id
    numbered, sequence, believed, offset = bool(cursor), None, False, 0
    handle = location = None
    failures, floor_of_stream, gone, answered, redirects = 0, None, False, False, 0
    broken, torn = False, False  # since the last event: it broke off; inside an event
    confirmed, held, news = False, None, False
    last = b""  # the last block, where the dialect wants it again at a resume
    why, plan = "first", request

    def progress() -> Progress:
        position = Position(cursor, sequence, offset, place, len(told) - since)
        return Progress(request, position, handle, location, bool(told), len(last))

    def by_id() -> RequestPlan | None:
        target = request.get(location) if location is not None else request
        if not dialect.honours_ids or origin(target.url) != origin(request.url):
            return None
        if not (cursor or (location is not None and not told)):
            return None
        target = target.with_headers(
            ("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), without=("last-event-id",)
        )
        return target.with_headers(("Last-Event-ID", cursor)) if cursor else target

    def way() -> tuple[str, RequestPlan] | None:
        """The way back, in the order of the design."""
        poll = None if dialect.confirms_by_poll else dialect.poll(progress())
        resumed = dialect.resume(progress()) or by_id()
        fruitless = why == "resume" and streamed and failures > 0
        if poll is not None and (gone or why == "poll" or fruitless):
            return "poll", poll
        if gone:
            return None
        if resumed is not None:
            return "resume", resumed
        if not told and dialect.may_repeat(progress()):
            return "repeat", request
        return None if poll is None else ("poll", poll)

    def lost(error: str) -> Generator[Step, Any, None]:
        # What was said may prove that no text is missing: then the rest was worth asking for, but not an error. And a
        # failure that might have passed, and did not, is the server's last word.
        over = dialect.ended(request, told)  # type: ignore[arg-type]
        if held is not None and not over:
            yield Give(*held)
        yield Done("end", proved=True) if over or held is not None else Done(error)

    def finished(result: Finished) -> Generator[Step, Any, None]:
        for block in result.blocks:
            told.append(dialect.framing.parse(block))
            yield Give(block, told[-1])
            if dialect.read(told[-1]).terminal:
                yield Done("end", proved=True)
                return
        # That the work is done does not by itself prove that all of it has come.
        yield Done("end", proved=confirmed or why != "status")

    while True:
        answer = yield Ask(plan)
        news, floor, broke, streamed = news and why == "status", None, True, False
        kind = answer.headers.get("content-type", "")
        again = why not in ("first", "repeat")
        asks_status = False
        spoken = dialect if again or answer.down else dialect.answered_by(request, answer.headers)

        if answer.down:
            pass
        elif answer.status in (200, 201) and kind in spoken.framing.media_types and why not in ("poll", "status"):
            dialect = spoken
            streamed = answered = True
            redirects = 0
            location = answer.headers.get("location", location)
            if not again:
                handle = dialect.handle(request, answer.headers)
            believed = believed or (again and sequence is not None)
            due = last if again else b""
            retold = again  # it may begin with what was told before
            expected, retelling = since, False  # what comes again if it goes on from where it was asked to
            strict = dialect.is_log or (bool(place) and not dialect.repeats_last)  # all of it comes, or all there is
            owed = again and dialect.repeats_last and len(told) > since  # an event that must come again
            earlier = set(names)
            known = len(told)  # what is told from here on is nothing that comes again
            heads = next((at for at, name in enumerate(names) if name), 0)  # events without a name, at the beginning
            joined: list[tuple[str, str | None, str | None]] = []  # told behind the replay, where that may overlap
            run = 0  # among those: the next that comes twice, if they do
            resting, forgotten, stays = False, False, False
            left = False  # by us, for what came cannot be, or may pass
            blocks, half = cut(answer.body, dialect.framing, ended=answer.ends == "eof")
            for number, block in enumerate(blocks):
                fields = dialect.framing.parse(block.removeprefix(BOM) if number == 0 else block)
                floor_of_stream = floor_of_stream if fields.retry is None else fields.retry / 1000
                event = fields.data is not None or fields.event is not None
                reading = dialect.read(fields) if event else NOTHING
                if reading.hollow:
                    continue
                chance = way() if reading.transient and not stays else None
                if chance is not None and chance[0] != "poll":
                    held, left, floor = (block, fields), True, reading.retry_after
                    break
                if reading.transient and not stays:  # another attempt would cost something
                    stays = True
                    told.append(fields)
                    names.append("")
                    yield Give(block, fields)
                    if reading.terminal:
                        yield Done("end", proved=True)
                        return
                    continue
                if event or dialect.counts(block):
                    if due:
                        if block != due:
                            yield Done("ReplayDiverged")
                            return
                        due = b""
                        continue
                    offset += len(block)
                    last = block if dialect.overlaps else b""
                name = fields.id or reading.cursor or ""
                this = (name, fields.event, fields.data)
                if event:
                    resting = reading.resting
                    other = bool(handle and reading.handle and handle != reading.handle)
                    back = bool(reading.cursor and dialect.is_log and reading.cursor < place)
                    if reading.sequence is not None and not other and not back:
                        if believed and sequence is not None and reading.sequence <= sequence:
                            continue
                        if believed and sequence is not None and reading.sequence > sequence + 1:
                            yield Done("GapDetected")
                            return
                        believed = believed or (sequence is not None and reading.sequence == sequence + 1)
                        sequence = reading.sequence
                    elif retold and (numbered or place or name or dialect.is_log) and not other and not back:
                        still = dialect.is_log and reading.cursor == place and len(told) == since
                        if still and not reading.terminal:
                            continue  # no more than that it is still there
                        before = [
                            (known_as, old.event, old.data) for known_as, old in zip(names[:known], told, strict=False)
                        ]
                        if before[expected : expected + 1] == [this]:
                            expected, retelling, owed = expected + 1, True, False
                            continue
                        if name and not (retelling and expected == known):
                            if this in before:
                                ahead = expected if this in before[expected:] else 0
                                expected, retelling, owed = before.index(this, ahead) + 1, True, False
                                continue
                            other = name in earlier and not still  # it is closed where it stood
                        if strict and expected < known and not other:
                            if before[0] == this:
                                expected = 1
                                continue
                            other = True
                        # What has no name says nothing of where the server is, unless it stands where one was due.
                        if expected < known:
                            retold = other or (not name and names[expected] != "")
                        else:
                            heads -= not name
                            retold = other or (not name and heads >= 0)
                    if other:
                        # Asked whether there is more, a server that generates anew has answered: none can be had.
                        anew = why == "confirm" and plan.method != "GET"
                        yield Done("end" if anew else "ReplayDiverged")
                        return
                    if back or owed:
                        forgotten = left = True
                        break
                    if again and dialect.repeats_last and fields.id and reading.sequence is None:
                        if fields.id not in earlier and joined[run : run + 1] == [this]:
                            run += 1
                            continue
                        if fields.id not in earlier and this in joined:
                            if fields.id == cursor:
                                left = True
                                break
                            run = len(joined) - joined[::-1].index(this)
                            continue
                        joined.append(this)
                        run = len(joined)
                says_nothing = reading.keepalive and not fields.data and cursor
                if fields.id is not None and not says_nothing:
                    if dialect.repeats_last and fields.id and fields.id != cursor:
                        place, since = cursor, len(told)
                    elif not dialect.repeats_last and not place:
                        since = len(told) + event
                    cursor, numbered = fields.id, numbered or bool(fields.id)
                if not event:
                    continue
                handle = handle or reading.handle
                news, failures, broken, torn, held = True, 0, False, False, None
                told.append(fields)
                names.append(name)
                if reading.cursor is not None:
                    place, since = reading.cursor, len(told)
                yield Give(block, fields)
                if reading.terminal:
                    yield Done("end", proved=True)
                    return
            clean = answer.ends == "eof" and not left
            chance = way()
            over = not left and dialect.ended(request, told)  # type: ignore[arg-type]
            if over and (chance is None or chance[0] != "resume" or (clean and why == "resume" and not news)):
                yield Done("end", proved=True)
                return
            if forgotten or (owed and clean and not half):
                asks_status, confirmed, gone = why == "confirm" and dialect.confirms_by_poll, False, True
            elif not clean or dialect.proves_end or half:
                pass
            elif news or not broken or dialect.confirms_by_poll:
                asking = dialect.resume(progress()) or by_id()
                known = numbered or dialect.resume(progress()) is not None
                nothing_more = why == "confirm" or (why == "resume" and dialect.confirms_by_poll)
                confirmed = known and not news and nothing_more
                asks_status = not known or asking is None or confirmed
                if not asks_status and asking is not None:
                    if floor_of_stream:
                        yield Pause(min(floor_of_stream, 30.0))
                    why, plan, news = "confirm", asking, False
                    continue
            if not left and resting and answer.lasts >= 5.0 and (dialect.proves_end or answer.ends != "eof"):
                news = True  # that nothing came is no failure if the server had said that there is nothing
            if not asks_status:
                broken, torn = True, torn or (half and not left)
        elif not again and not answered and answer.status not in TRANSIENT:
            yield Done("surface")
            return
        elif answer.status == 204 and again and why not in ("poll", "status"):
            forgotten = dialect.repeats_last and bool(told)
            if held is not None:
                yield from lost("CannotResume")
                return
            if forgotten and why == "confirm" and dialect.confirms_by_poll:
                asks_status, confirmed = True, False
            elif not dialect.proves_end and not torn and not forgotten:
                yield Done("end", proved=True)
                return
            gone = True
        elif answer.status in (301, 302, 303, 307, 308):  # at first it was the caller's, as above
            target = urljoin(plan.url, answer.headers.get("location", ""))
            redirects += 1
            if redirects > 5 or "location" not in answer.headers or origin(target) != origin(plan.url):
                yield from lost("CannotResume")
                return
            same = answer.status > 303 or plan.method == "GET"
            plan = RequestPlan(plan.method, target, plan.headers, plan.body) if same else plan.get(target)
            continue
        elif answer.status in TRANSIENT:
            wait = {"retry-after": 1.0, "retry-after-ms": 0.001}
            floor = next((float(value) * wait[name] for name, value in answer.headers.items() if name in wait), None)
        elif answer.ends == "eof":
            broke = False
            polls = not dialect.confirms_by_poll and dialect.poll(progress()) is not None
            expired = answer.status in (404, 410, 416) or dialect.gone(answer.status, answer.body)
            if why == "status":
                result = dialect.read_poll(answer.headers, answer.body, progress(), told)  # type: ignore[arg-type]
                if answer.status == 200 and isinstance(result, Finished):
                    yield from finished(result)
                    return
                if answer.status != 200 or not isinstance(result, StillRunning):
                    yield Done("end", proved=confirmed)
                    return
                failures, floor, broke = 0, result.seconds, True
            elif answer.status == 200 and polls and again:
                result = dialect.read_poll(answer.headers, answer.body, progress(), told)  # type: ignore[arg-type]
                if isinstance(result, Finished):
                    yield from finished(result)
                    return
                if not isinstance(result, StillRunning):
                    yield from lost("CannotResume")
                    return
                failures = 0
                yield Pause(result.seconds)
                more = None if gone else dialect.resume(progress())
                why, plan = ("poll", dialect.poll(progress()) or plan) if more is None else ("resume", more)
            elif again and answer.status != 200 and expired:
                if why == "confirm" and dialect.confirms_by_poll:
                    asks_status, confirmed, gone = True, False, True
                elif why == "poll" or not polls:
                    yield from lost("ResumeExpired")
                    return
                else:
                    gone, why, plan = True, "poll", dialect.poll(progress()) or plan
            else:
                yield from lost("CannotResume")
                return
        if asks_status:
            # A clean end that the stream does not prove: the state of the work decides, if it can be asked for.
            status = dialect.poll(progress()) if dialect.confirms_by_poll else None
            if status is None:
                yield Done("end", proved=confirmed)
                return
            why, plan = "status", status
            continue
        if not broke:
            continue

        # It broke.
        failures, news = failures + (not news), False  # progress makes one failure good, not the next
        back_again = way()
        if back_again is None and why == "status" and (answer.down or answer.status != 200 or answer.ends != "eof"):
            back_again = "status", plan  # the stream had ended cleanly: only the question is asked again
        if back_again is None:
            # If nothing was begun, the response is the caller's.
            if answer.status in {204, *TRANSIENT} and not answered and not answer.down:
                yield Done("surface")
            else:
                yield from lost("ResumeExpired" if gone else "CannotResume")
            return
        why, plan = back_again
        floors = [each for each in (floor, floor_of_stream) if each is not None]
        seconds = backoff(failures, 0.0, max(floors, default=None))
        if seconds is None:
            if answer.status in TRANSIENT and not answered and not answer.down:
                yield Done("surface")
            elif why == "status":
                yield Done("end", proved=confirmed)
            else:
                yield from lost("RetriesExhausted")
            return
        if seconds:
            yield Pause(seconds)
