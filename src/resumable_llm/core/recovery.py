"""Ways back to the rest of an answer, in the order in which they are tried.

Pure functions of what is known; nothing here remembers or sends anything.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from enum import Enum
from math import isfinite

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.model import Headers, Progress, RequestPlan, resolve, to_header

_FIT = re.compile(r"|[^\s\0-\x1f\x7f](?:[^\0-\x08\x0a-\x1f\x7f]*[^\s\0-\x1f\x7f])?")
"""What a header's value can be: no control characters, and no blank at either end."""

NEVER_ACROSS = "what was meant for one origin is never sent to another"


class Purpose(Enum):
    """Why a request is made."""

    FIRST = "first"
    REPEAT = "repeat"
    RESUME = "resume"
    CONFIRM = "confirm"
    STATUS = "status"
    POLL = "poll"
    REPLAY = "replay"
    CONTINUE = "continue"
    TRIAL = "trial"


def way_back(
    dialect: Dialect, progress: Progress, *, prefer_poll: bool, stream_gone: bool
) -> tuple[Purpose, RequestPlan] | str:
    """The best way to the rest of the answer, or why there is none.

    Args:
        dialect: Knows its own ways.
        progress: How far the answer has come.
        prefer_poll: Streaming has just proved fruitless.
        stream_gone: The server has said that it cannot be streamed any more.
    """
    poll = None if dialect.confirms_by_poll else dialect.poll(progress)
    if poll is not None and (prefer_poll or stream_gone):
        return Purpose.POLL, poll
    if stream_gone:
        return f"the server no longer has it: {dialect.keeps}"
    plan = dialect.resume(progress)
    if plan is not None:
        return Purpose.RESUME, plan
    by_id = by_last_event_id(dialect, progress)
    if isinstance(by_id, RequestPlan):
        return Purpose.RESUME, by_id
    if not progress.delivered and progress.request.body is not None and dialect.may_repeat(progress):
        return Purpose.REPEAT, progress.request
    return (Purpose.POLL, poll) if poll is not None else by_id


def by_last_event_id(dialect: Dialect, progress: Progress) -> RequestPlan | str:
    """The request that any server with ids understands, or why it cannot be made."""
    request, cursor = progress.request, progress.position.last_event_id
    if not dialect.honours_ids:
        return dialect.keeps
    if progress.location is not None:
        target = resolve(request.url, progress.location)
        if target is None:
            return f"the server's Location points to another origin, and {NEVER_ACROSS}"
        plan = request.get(target)
        missing = not cursor and progress.delivered
        why_not = "the server named a Location but no event id to go on from" if missing else ""
    else:
        plan, why_not = request, ""
        if not cursor or not progress.ids_tell:
            why_not = dialect.keeps
        elif request.body is None:
            why_not = (
                "the request's body is not at hand and cannot be sent again (resume_sse takes it as json= or content=)"
            )
    if not _FIT.fullmatch(cursor):
        why_not = "the server's event ids cannot be sent back in a header"
    if why_not:
        return why_not
    asked = plan.with_headers(
        ("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), without=("last-event-id",)
    )
    return asked.with_headers(("Last-Event-ID", to_header(cursor))) if cursor else asked


def retry_after(headers: Headers) -> float | None:
    """Seconds that a response asks to wait: ``retry-after-ms``, or ``retry-after`` as seconds or as a date.

    A date is held against the response's own ``date``, for the two clocks need not agree.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return max(seconds, 0.0) if isfinite(seconds) else None
    try:
        until = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return max(until.total_seconds(), 0.0)
