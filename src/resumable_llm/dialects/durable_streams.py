"""Durable Streams: a log behind a URL, read live as an event stream.

``event: data`` holds what was appended and ``event: control`` the offset behind it, from which the stream goes on after
a drop. Several data events may have one control event behind them, so a resume tells those again of which no control
event has come. The server closes the connection every minute or so, and sends control events that only repeat the
offset while nothing is appended; the one with ``streamClosed`` is the last of all.

``offset=now`` means the tail at the moment when the server tells the first offset. So such a request may be sent again
as long as nothing has come of it; once data has come but no offset, nothing says where to go on. ``streamCursor`` is
no place but a key for caches, and is not sent back. Nothing is polled: whoever can read what was appended as JSON can
stream it as well, for as long as there is a stream.
Sources: https://github.com/durable-streams/durable-streams, PROTOCOL.md (sections 5.7, 6, 8); its reference server
    (@durable-streams/server 0.3.7); read and run 2026-11-22.
"""

from __future__ import annotations

import re

from resumable_llm.core.dialect import Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.dialects.event_stream import EventStream, json_object


class DurableStreams(EventStream):
    """``GET …?offset=O&live=sse``."""

    name = "durable_streams"
    facts = Facts(
        systems="servers of the Durable Streams protocol",
        resume="the same URL with the last `streamNextOffset` as its `offset`",
        end='`event: control` with `"streamClosed": true`',
        closing="nothing: reading has no effect on a stream",
        kept="the whole stream, until it is deleted or its time to live has passed",
        sources=(
            "https://github.com/durable-streams/durable-streams, PROTOCOL.md, 2026-11-22",
            "@durable-streams/server 0.3.7, run 2026-11-22",
        ),
    )
    proves_end = True
    honours_ids = False
    is_log = True
    ordinary = re.compile(rb"(?:event: data\n(?:data:.*\n)+\n)+")
    keeps = (
        "a durable stream can be read until it is deleted or its time to live has passed; "
        "one that was joined at offset=now, only from its first control event on"
    )

    def recognises(self, request: RequestPlan) -> bool:
        """By the query."""
        return request.method == "GET" and request.query.get("live") == "sse" and "offset" in request.query

    def read(self, event: Fields) -> Reading:
        """Control events: the offset, whether that is all for now, and whether it is all for good."""
        if event.event != "control":
            return NOTHING
        control = json_object(event.data)
        offset = control.get("streamNextOffset")
        return Reading(
            cursor=offset if isinstance(offset, str) and offset else None,
            terminal=control.get("streamClosed") is True,
            resting=control.get("upToDate") is True,
        )

    def resume(self, progress: Progress) -> RequestPlan | None:
        """From the last offset; before there is one, from where the caller began."""
        request = progress.request
        offset = progress.position.cursor or request.query.get("offset", "-1")
        return None if offset == "now" else request.get(request.url, live="sse", offset=offset)

    def text(self, event: Fields) -> str:
        """The data as it was appended, which is an array where the stream is one of JSON; no control events."""
        return event.data or "" if event.event == "data" else ""
