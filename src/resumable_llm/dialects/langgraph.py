"""LangGraph's servers: a run goes on by itself, and its stream can be joined again where its ``Location`` says.

Only of a run that was started with ``stream_resumable`` are the events kept, and have ids. An id is the millisecond of
its event, so several events may share one; the server compares it as a text and answers any text at all with a 200. So
a resume goes back to the last id that differs and expects what was received since then to come again: if it does not,
the server has forgotten. It reads the kept events and the live ones by two ways, and some come by both.

Nothing need stand at the end of a stream: a run that is done, or was cancelled from outside, closes it, and so does a
server that restarts. What proves the end is the run's status. A run that fails ends with an ``error`` event, which is
not kept: if it failed while nobody listened, only the status tells.

The answer to a run without a thread names a ``Location`` as well, which the development server does not know.
Sources: langgraph-sdk 0.4.14 (`_async/http.py`, `_async/runs.py`), langgraph-api 0.16.7 (`api/runs.py`, `sse.py`),
langgraph-runtime-inmem 0.36.7 (`ops.py`, `inmem_stream.py`); read, and the development server run, 2026-11-22.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from resumable_llm.core.dialect import Facts, Finished, PollResult, StillRunning, Unusable
from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.model import NOTHING, Headers, Progress, Reading, RequestPlan, resolve, to_header
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream, error_text, json_object
from resumable_llm.dialects.failures import failure

_ENDPOINT = re.compile(r"(?:/threads/[^/]+)?/runs(?:/[^/]+)?/stream$")
_CREATE = re.compile(r"(?:/threads/[^/]+)?/runs/stream$")
_JOIN = re.compile(r"/threads/[^/]+/runs/(?P<id>[^/]+)/stream$")
_STREAM = re.compile(r"(?P<run>(?:/threads/[^/]+)?/runs/(?P<id>[^/]+))/stream$")
_THREAD = re.compile(r"/threads/[^/]+/stream$")
_OF_A_THREAD = re.compile(r"/threads/[^/]+/runs/[^/]+$")
_STATUS = re.compile(r"(\d{3}): ")
_POLL_SECONDS = 1.0
_BEFORE_ALL = "0"
_AI = frozenset({"ai", "AIMessageChunk"})
_TOLD_TO_NOBODY = encode_event(
    json.dumps({"error": "RunFailed", "message": "the run failed while the connection was down"}), event="error"
)


class LangGraph(EventStream):
    """``POST …/runs/stream`` and ``GET …/threads/{t}/runs/{r}/stream``."""

    name = "langgraph"
    facts = Facts(
        systems="LangGraph's servers (langgraph dev, LangGraph Platform), LangGraph's SDK",
        resume="GET of the `Location` with `Last-Event-ID`: the last id but one, for events share ids",
        end="`event: end` or `event: error`; without either, the run's status",
        closing='nothing: the run goes on, unless it has `on_disconnect: "cancel"`',
        cancel="`POST …/threads/{t}/runs/{r}/cancel`; a run without a thread cannot be cancelled",
        upgrade='`stream_resumable: true`, `on_disconnect: "continue"`: the server keeps the events for a while',
        kept="events of runs with `stream_resumable: true`, for 2 minutes; by `langgraph dev` until it is restarted",
        sources=(
            "langgraph-sdk 0.4.14, _async/http.py and _async/runs.py, 2026-11-22",
            "langgraph-api 0.16.7 and langgraph-runtime-inmem 0.36.7, run 2026-11-22",
        ),
    )
    honours_ids = False  # by themselves they lose what shares an id, and a POST would start another run
    repeats_last = True
    confirms_by_poll = True
    withheld = frozenset({"location"})  # with it the SDK resumes by itself, and takes an empty stream for the end
    keeps = (
        "LangGraph keeps the events of a run for about 2 minutes, and only if the run has a thread, was started with "
        'stream_resumable=True and goes on when its connection drops (not on_disconnect="cancel")'
    )

    def recognises(self, request: RequestPlan) -> bool:
        """By path."""
        found = {"POST": _CREATE, "GET": _JOIN}.get(request.method)
        return found is not None and found.search(request.path) is not None

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The run's id."""
        found = _STREAM.search(headers.get("location", "")) or _STREAM.search(request.path)
        return found["id"] if found else None

    def read(self, event: Fields) -> Reading:
        """The run's id, at first; its end."""
        if event.event == "metadata":
            run = json_object(event.data).get("run_id")
            return Reading(handle=run if isinstance(run, str) else None)
        if event.event == "error":
            return _failure(event)
        return Reading(terminal=True) if event.event == "end" else NOTHING

    def resume(self, progress: Progress) -> RequestPlan | None:
        """From the last id but one; from the start if there is none, or nothing has come of a run that keeps all."""
        request, at, run = progress.request, progress.position, _run(progress)
        if run is None or _stops_when_left(request):
            return None
        if not (at.cursor or at.last_event_id if progress.delivered else _body(request).get("stream_resumable")):
            return None
        query = request.query if request.method == "GET" else {}
        return request.get(f"{run}/stream", **query).with_headers(
            ("Accept", "text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Last-Event-ID", to_header(at.cursor or _BEFORE_ALL)),
        )

    def may_repeat(self, progress: Progress) -> bool:
        """Not a POST: it has started a run. Whoever joins one hears it from then on, be that a moment later."""
        return progress.request.method == "GET"

    def poll(self, progress: Progress) -> RequestPlan | None:
        """The run, for its status."""
        run = _run(progress)
        if run is None:
            return None
        return progress.request.get(run).with_headers(("Accept", "application/json"), without=("last-event-id",))

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        """Whether the run is over. Why it failed is not kept."""
        status = json_object(body).get("status")
        if status in ("pending", "running"):
            return StillRunning(_POLL_SECONDS)
        if status == "error":
            return Finished([_TOLD_TO_NOBODY])
        if status == "interrupted" and _stops_when_left(progress.request):
            return Unusable("the run was interrupted, perhaps because the connection closed")
        if status in ("success", "interrupted", "timeout"):
            return Finished([])
        return Unusable("the server does not say whether the run is over")

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """Interrupt the run; None for one without a thread, or before the server has named it."""
        run = _run(progress)
        if run is None or not _OF_A_THREAD.search(run):
            return None
        return progress.request.post(f"{run}/cancel?wait=false&action=interrupt")

    def upgrade(self, request: RequestPlan) -> RequestPlan:
        """``stream_resumable``, which the SDK sends as false unless it is told otherwise; and ``on_disconnect``."""
        body = _body(request)
        if request.method != "POST" or not body:
            return request
        if _stops_when_left(request):
            raise UpgradeRefused(
                'the request says on_disconnect="cancel": a run that ends with its connection cannot be resumed'
            )
        wanted = {**body, "stream_resumable": True, "on_disconnect": "continue"}
        return request if wanted == body else request.with_body(json.dumps(wanted).encode())

    def text(self, event: Fields) -> str:
        """What a model said, in the mode ``messages-tuple``; in the others every event tells all that there is."""
        if (event.event or "").partition("|")[0] != "messages":  # a subgraph's name may follow
            return ""
        said = json_object(f'{{"said":{event.data}}}').get("said")
        message = said[0] if isinstance(said, list) and said else None
        if not isinstance(message, dict) or message.get("type") not in _AI:
            return ""
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
        return "".join(text for text in texts if isinstance(text, str))


class LangGraphThread(LangGraph):
    """``GET …/threads/{t}/stream``: what all runs of a thread tell, without an end."""

    name = "langgraph_thread"
    facts = replace(
        LangGraph.facts,
        systems="LangGraph's servers, for the stream of a whole thread",
        resume="the same request with `Last-Event-ID`: the last id but one, for events share ids",
        end="it has none",
        closing="nothing: the runs go on",
        cancel="",
        upgrade="",
    )
    confirms_by_poll = False

    def recognises(self, request: RequestPlan) -> bool:
        """By path."""
        return request.method == "GET" and _THREAD.search(request.path) is not None

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """None: there are many runs."""
        return None

    def read(self, event: Fields) -> Reading:
        """Nothing: what ends or fails is one run of many."""
        return NOTHING

    def resume(self, progress: Progress) -> RequestPlan | None:
        """Behind the last id but one."""
        if not progress.position.last_event_id:
            return None
        cursor = to_header(progress.position.cursor or _BEFORE_ALL)
        asked = progress.request.get(progress.request.url)
        return asked.with_headers(("Accept-Encoding", "identity"), ("Last-Event-ID", cursor))

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """None."""
        return None


def _run(progress: Progress) -> str | None:
    """The run's URL, if it is known and on the origin that was asked."""
    request = progress.request
    location = progress.location or (request.url if request.method == "GET" else None)
    target = urlsplit((location and resolve(request.url, location)) or "")
    found = _STREAM.search(target.path)
    if found is None:
        return None
    # A proxy may strip a prefix from the paths that the server sees, and leave the Location as the server wrote it.
    prefix = target.path[: found.start()] or _ENDPOINT.sub("", request.path)
    return urlunsplit(target._replace(path=prefix + found["run"], query="", fragment=""))


def _body(request: RequestPlan) -> dict[str, object]:
    return json_object(request.body)


def _stops_when_left(request: RequestPlan) -> bool:
    """Whether the request asks for a run that ends when its connection does."""
    leaving = request.query.get("cancel_on_disconnect", "").lower()
    return leaving in ("true", "yes", "1") or _body(request).get("on_disconnect") == "cancel"


def _failure(event: Fields) -> Reading:
    """A run that has failed has failed, whatever its exception is called. What passes is the server's own trouble."""
    payload = json_object(event.data)
    kind, status = payload.get("error"), _STATUS.match(str(payload.get("message")))
    if kind == "HTTPException" and status is not None:
        return failure({"code": status[1]})
    return Reading(terminal=True, error=error_text({"type": kind}))
