"""Dialects of nobody's, each with one or two of the abilities that the core has for real ones; and their events."""

from __future__ import annotations

import json
import re
from typing import Any

from resumable_llm.core.dialect import Dialect, Finished, PollResult, StillRunning, Unusable
from resumable_llm.core.events import Fields
from resumable_llm.core.framing import JSON_LINES
from resumable_llm.core.model import NOTHING, Headers, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream, json_object

GET = RequestPlan("GET", "https://made-up.example/runs/r/stream", (("Accept", "text/event-stream"),))
POST = RequestPlan("POST", "https://made-up.example/runs/r/stream", (), b"{}")


class Telling(EventStream):
    """Events tell all there is in their JSON: ``event_id``, ``end``, ``idle``, ``hollow``, ``error``, ``passes``."""

    name = "telling"
    proves_end = True
    honours_ids = False
    keeps = "nothing is kept"
    ordinary = re.compile(rb'(?:data: \{"n":\d+\}\n\n)+')

    def read(self, event: Fields) -> Reading:
        said = json_object(event.data)
        if "error" in said:
            wait = said.get("passes")
            return Reading(terminal=True, error=said["error"], transient=wait is not None, retry_after=wait or None)
        return Reading(
            cursor=said.get("event_id"), terminal="end" in said, resting="idle" in said, hollow="hollow" in said
        )


class Cursor(Telling):
    """Resumes behind the ``event_id`` in an event's data, and only there."""

    name = "cursor"

    def resume(self, progress: Progress) -> RequestPlan | None:
        cursor = progress.position.cursor
        return progress.request.get("", last_event_id=cursor) if cursor else None


class CursorLines(Cursor):
    """The same with an object a line."""

    name = "cursor_lines"
    framing = JSON_LINES
    ordinary = re.compile(rb'(?:\{"n":\d+\}\n)+')


class Log(Cursor):
    """The same where the cursors are offsets of a log, which is read from its start as long as none was told."""

    name = "log"
    is_log = True

    def resume(self, progress: Progress) -> RequestPlan | None:
        return super().resume(progress) or progress.request


class Lines(Telling):
    """An object a line, and no way back but the same request."""

    name = "lines"
    framing = JSON_LINES
    ordinary = re.compile(rb'(?:\{"n":\d+\}\n)+')


class Polled(Cursor):
    """With a poll for the finished answer."""

    name = "polled"

    def poll(self, progress: Progress) -> RequestPlan | None:
        return progress.request.get("/runs/r")

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        return _state(body)


class Marks(EventStream):
    """Several events may share an id, which is a time; a status says whether the work is done."""

    name = "marks"
    honours_ids = False
    repeats_last = True
    confirms_by_poll = True
    keeps = "runs are kept for two minutes"

    def read(self, event: Fields) -> Reading:
        said = json_object(event.data)
        if "passes" in said:
            return Reading(terminal=True, error="busy", transient=True, retry_after=said["passes"] or None)
        return Reading(terminal=True, error="failed") if event.event == "error" else NOTHING

    def resume(self, progress: Progress) -> RequestPlan | None:
        if not progress.position.last_event_id:
            return None
        return progress.request.get("").with_headers(("Last-Event-ID", progress.position.cursor or "0"))

    def poll(self, progress: Progress) -> RequestPlan | None:
        return progress.request.get("/runs/r")

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        return _state(body)


class MarksAlone(Marks):
    """The same without a status to ask for."""

    name = "marks_alone"
    confirms_by_poll = False

    def poll(self, progress: Progress) -> RequestPlan | None:
        return None


class MarksKept(Marks):
    """The same where the finished answer can be read."""

    name = "marks_kept"
    confirms_by_poll = False


class MarksUnkept(Marks):
    """The same where nothing is kept but the status."""

    name = "marks_unkept"

    def resume(self, progress: Progress) -> RequestPlan | None:
        return None


def _state(body: bytes) -> PollResult:
    """``{"state": "done", "missing": [blocks]}`` or ``{"state": "running", "seconds": 2}``."""
    said = json_object(body)
    if said.get("state") == "done":
        return Finished([block.encode() for block in said.get("missing", [])])
    return StillRunning(said.get("seconds", 1.0)) if said.get("state") == "running" else Unusable("neither")


def block(dialect: Dialect, name: str | None = None, *, event: str | None = None, **said: Any) -> str:
    """An event."""
    data = json.dumps(said, separators=(",", ":"))
    if dialect.framing is JSON_LINES:
        return f"{data}\n"
    lines = [f"event: {event}"] * (event is not None) + [f"data: {data}"] + [f"id: {name}"] * (name is not None)
    return "\n".join(lines) + "\n\n"
