"""Gemini Interactions: some events have an ``event_id``, and a stored interaction can be asked for again behind one.

Ends with ``interaction.completed``, whatever came of it, and then mostly ``[DONE]``; or with an ``error`` event. What
the stream says of itself stands in the JSON (``event_type``, ``event_id``); the ``event:`` line may be missing. ``GET
…/interactions/{id}?stream=true&last_event_id=E`` goes on behind E; the events behind E that have no id come again.
Without ``last_event_id`` all of them come again.
Sources: google-genai 3.4.0 (`_gaos/types/interactions/`, `_gaos/models/getinteractionbyid.py`, `_gaos/interactions.py`,
    `_gaos/utils/eventstreaming.py`, `_interactions_continuation.py`), https://ai.google.dev/gemini-api/docs/streaming
    and …/background-execution, https://discuss.ai.google.dev/t/143098 and /143099 (streams cut at ten minutes, replays
    that hang), aimock 1.43.0; read 2026-11-22.
"""

from __future__ import annotations

import json
import re
from typing import Any

from resumable_llm.core.dialect import Facts, Finished, PollResult, StillRunning, Unusable
from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Headers, Progress, Reading, RequestPlan
from resumable_llm.core.recovery import retry_after
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects._interactions_snapshot import missing_events
from resumable_llm.dialects.event_stream import EventStream, error_text, json_object, object_in, wants_stream
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.speech.interactions import InteractionsSpeech

# The names up to May 2026 were interaction.start, interaction.complete and content.*.
_FIRSTS = frozenset({"interaction.created", "interaction.start"})
_ENDS = frozenset({"interaction.completed", "interaction.complete"})
_DELTAS = frozenset({"step.delta", "content.delta"})
_BARE_DELTA = ('{"event_type":"step.delta",', '{"event_type":"content.delta",')
_RUNNING = frozenset({"queued", "in_progress"})
_FAILED = frozenset({"failed", "cancelled"})
_ENDED = _FAILED | {"completed", "incomplete", "budget_exceeded", "requires_action", "requires_continuation"}
_CREATE = re.compile(r".*/v\d\w*/(?:projects/[^/]+/locations/[^/]+/)?interactions$")
_RETRIEVE = re.compile(r"(?P<base>.*/v\d\w*/(?:projects/[^/]+/locations/[^/]+/)?interactions)/(?P<id>[^/]+)$")
_BEGUN = "interaction.created"
"""The cursor at the first event if the server gave none. It names that event, so that it is known when told again."""

_DONE = "[DONE]"
_POLL_SECONDS = 2.0


class GeminiInteractions(EventStream):
    """``POST …/interactions`` and ``GET …/interactions/{id}?stream=true``."""

    name = "gemini_interactions"
    facts = Facts(
        systems="Gemini Interactions API: models and agents such as Deep Research",
        resume="`GET /interactions/{id}?stream=true&last_event_id=E`; if that hangs, the finished interaction",
        end="`interaction.completed`, or `error`",
        closing="background: it goes on; foreground: not documented",
        cancel="background: `POST /interactions/{id}/cancel`",
        upgrade="`background` and `store`: Google keeps the interaction, and closing the connection does not stop it",
        sources=(
            "google-genai 3.4.0, 2026-11-22",
            "https://ai.google.dev/gemini-api/docs/background-execution, 2026-11-22",
            "https://discuss.ai.google.dev/t/143098 and /143099, 2026-11-22",
        ),
    )
    proves_end = True
    speech = InteractionsSpeech()
    # In JSON a quoted "event_id" has its quotes escaped, so this finds every key of that name, and at worst too many.
    ordinary = re.compile(
        rb'(?:(?:event: (?:step|content)\.delta\ndata: \{|data: \{"event_type":"(?:step|content)\.delta",)'
        rb'(?!.*"event_id").*\n\n)+'
    )
    keeps = (
        "an interaction is kept for 1 day (free tier) or 55 days (paid), unless store is false; "
        "only one with background=True is sure to go on when its connection is lost"
    )

    def recognises(self, request: RequestPlan) -> bool:
        """By path, and ``stream``."""
        if request.method == "GET":
            return _RETRIEVE.match(request.path) is not None and request.query.get("stream") == "true"
        return _CREATE.match(request.path) is not None and wants_stream(request)

    def upgrade(self, request: RequestPlan) -> RequestPlan:
        """With ``background`` and ``store``."""
        body = json_object(request.body)
        if request.method == "GET" or (body.get("background") is True and body.get("store") is not False):
            return request
        for name in ("background", "store"):
            if body.get(name) is False:
                raise UpgradeRefused(
                    f"the request says {name}=False, but an interaction can only be resumed with background=True and "
                    f"store=True: leave {name} out, or upgrade"
                )
        if not body:
            raise UpgradeRefused("the request's body is not at hand, so that background and store cannot be added")
        return request.with_body(json.dumps({**body, "background": True, "store": True}).encode())

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The id in the path, for a GET; otherwise the first event tells it."""
        found = _RETRIEVE.match(request.path) if request.method == "GET" else None
        return found["id"] if found else None

    def read(self, event: Fields) -> Reading:
        """Event id, interaction id, end, error."""
        data = event.data or ""
        if data.startswith(_DONE):
            return Reading(terminal=True)
        is_delta = event.event in _DELTAS or data.startswith(_BARE_DELTA)
        if is_delta and '"event_id"' not in data:
            return NOTHING
        payload = json_object(data)
        cursor = _text(payload.get("event_id"))
        kind = "" if is_delta else _kind(event, payload)
        if kind and (kind == "error" or payload.get("error")):
            return failure(payload.get("error"))
        interaction = object_in(payload, "interaction")
        if kind in _ENDS:
            # Nothing but [DONE] is behind it, so that is the place to go on from: `resume` does not.
            return Reading(cursor=_DONE, error=_failure_of(interaction))
        if kind in _FIRSTS:
            return Reading(handle=_text(interaction.get("id")), cursor=cursor or (None if event.id else _BEGUN))
        return Reading(cursor=cursor)

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether the interaction has completed: then only ``[DONE]`` can be missing."""
        return any(
            "interaction.complete" in (event.data or "") and _kind(event, json_object(event.data)) in _ENDS
            for event in transcript
        )

    def resume(self, progress: Progress) -> RequestPlan | None:
        """Behind the last event id; before there was one, from the start."""
        cursor = progress.position.cursor
        if cursor in ("", _DONE) or progress.handle is None or not _is_stored(progress):
            return None
        behind = {} if cursor == _BEGUN else {"last_event_id": cursor}
        return self._retrieve(progress, stream="true", **behind)

    def may_repeat(self, progress: Progress) -> bool:
        """Not where a background interaction was started: it runs on, unseen."""
        return json_object(progress.request.body).get("background") is not True

    def poll(self, progress: Progress) -> RequestPlan | None:
        """The plain GET."""
        if progress.handle is None or not _is_stored(progress):
            return None
        return self._retrieve(progress).with_headers(("Accept", "application/json"))

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        """The finished interaction as the events that are missing of it."""
        interaction = json_object(body)
        status = interaction.get("status")
        if interaction.get("id") != progress.handle or not isinstance(status, str):
            return Unusable("the server answered with something that is not this interaction")
        if status in _RUNNING:
            return StillRunning(min(retry_after(headers) or _POLL_SECONDS, 60.0))
        if status not in _ENDED:
            return Unusable(f"the interaction is {status}")
        if progress.position.cursor == _DONE:
            return Finished([])
        return _what_is_missing(interaction, progress, transcript)

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """``POST …/cancel``, for background interactions; closing the connection is all that there is for others."""
        request = progress.request
        is_foreground = request.method == "POST" and request.body and self.may_repeat(progress)
        if progress.handle is None or is_foreground:
            return None
        plan = self._retrieve(progress, "/cancel")
        return RequestPlan("POST", plan.url, plan.headers)

    def text(self, event: Fields) -> str:
        """The text of a text delta."""
        payload = json_object(event.data)
        delta = object_in(payload, "delta")
        if _kind(event, payload) not in _DELTAS or delta.get("type", "text") != "text":
            return ""
        return _text(delta.get("text")) or ""

    def _retrieve(self, progress: Progress, action: str = "", **query: str) -> RequestPlan:
        request = progress.request
        found = _RETRIEVE.match(request.path) if request.method == "GET" else None
        base = found["base"] if found else request.path
        # An API key that stands there must stay; what shaped the stream must not.
        kept = {name: value for name, value in request.query.items() if name not in ("stream", "last_event_id")}
        return request.get(f"{base}/{progress.handle}{action}", **{**kept, **query})


def _what_is_missing(interaction: dict[str, Any], progress: Progress, transcript: Transcript) -> PollResult:
    if not transcript.whole or "last_event_id" in progress.request.query:
        return Unusable(
            "the interaction is complete and interactions.get() reads it, but it is streamed no more, and what was "
            "delivered of it before is not known here, so the missing events cannot be told"
        )
    blocks = missing_events(interaction, transcript, only_end=interaction["status"] in _FAILED)
    if blocks is None:
        return Unusable("the finished interaction does not begin with what was delivered of it")
    return Finished(blocks)


def _is_stored(progress: Progress) -> bool:
    # A checkpoint holds no body. If it came from one that is not stored, the server says that it knows none of this id.
    return json_object(progress.request.body).get("store") is not False


def _kind(event: Fields, payload: dict[str, Any]) -> str:
    return str(payload.get("event_type") or event.event)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _failure_of(interaction: dict[str, Any]) -> str | None:
    """Why an interaction that has ended is no answer; None if it is one, and be it one that a limit cut short."""
    status = interaction.get("status")
    if status not in _FAILED:
        return None
    errors = interaction.get("errors")
    return error_text(errors[0]) if isinstance(errors, list) and errors else str(status)
