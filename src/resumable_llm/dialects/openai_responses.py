"""OpenAI Responses: every event has a ``sequence_number``, and a background response can be asked for again behind one.

Ends with ``response.completed``, ``response.failed`` or ``response.incomplete``; an ``error`` event is mostly followed
by ``response.failed``, and otherwise by nothing. ``keepalive`` events are numbered as all others are. A response
created with ``background`` and ``stream`` is streamed again by ``GET /responses/{id}?stream=true&starting_after=N`` (N
excluded) for about five minutes; after that a 400 says that it is too old, and the finished answer is still to be had
by a plain GET. A foreground response is cancelled when its connection drops, and gives a 404. fastresponses streams
again at ``/responses/{id}/events`` alone, sends ``[DONE]`` behind the end, and nothing but that where a response was
cancelled.
Sources: openai 3.54.0 (`types/responses/`, `resources/responses/responses.py`),
    https://developers.openai.com/docs/guides/background, openai-python issue 2828, openai-node issue 1964 (keepalive),
    vercel/ai pull request 13480 (error, then response.failed), vllm pull request 49721, fastresponses 0.1.0, run; read
    2026-11-22.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isnan
from typing import ClassVar

from resumable_llm.core.dialect import Dialect, Facts, Finished, PollResult, StillRunning, Unusable
from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.events import Fields
from resumable_llm.core.model import Headers, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import llama_cpp
from resumable_llm.dialects._responses_snapshot import missing_events
from resumable_llm.dialects.event_stream import EventStream, error_text, json_object, object_in, wants_stream
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.speech.responses import ResponsesSpeech

_ENDS = frozenset({"response.completed", "response.failed", "response.incomplete"})
_FIRSTS = frozenset({"response.created", "response.queued", "response.in_progress"})
# Inside a JSON string the quotes would be escaped; an object nested in the payload could have a field of this name,
# hence findall.
_SEQUENCE = re.compile(r'(?<!\\)"sequence_number"\s*:\s*(\d{1,15})(?!\d)')
_BACKGROUND = re.compile(rb'"background"\s*:\s*true')
_RETRIEVE = re.compile(r"(?P<base>.*/responses)/(?P<id>[^/]+)(?P<events>/events)?$")
_POLL_SECONDS = 2.0


class OpenAIResponses(EventStream):
    """``POST …/responses`` and ``GET …/responses/{id}?stream=true``, or ``GET …/responses/{id}/events``."""

    name = "openai_responses"
    facts = Facts(
        systems="OpenAI, Azure OpenAI, Oracle's Generative AI, vLLM, SGLang, fastresponses",
        resume="background responses: `GET /responses/{id}?stream=true&starting_after=N` behind the last sequence "
        "number, then a poll of `GET /responses/{id}`; others: not possible",
        end="`response.completed`, `response.failed` or `response.incomplete`; or an `error` event",
        closing="a background response goes on; another one is cancelled",
        cancel="`POST /responses/{id}/cancel` for a background response",
        upgrade="`background: true` and `store: true`: the response is kept on the server (not for zero data "
        "retention), its first token comes later, closing no longer cancels it. Azure knows of slowness with both "
        "background and stream; servers that cannot do it refuse",
        kept="a background response can be streamed again for about 5 minutes and read for about 10, or for 30 days "
        "with `store: true`; vLLM keeps it until it is restarted",
        sources=(
            "openai 3.54.0, types/responses and resources/responses, 2026-11-22",
            "https://developers.openai.com/docs/guides/background, 2026-11-22",
            "openai/openai-python issue 2828 (5 minutes), 2026-11-22",
            "https://learn.microsoft.com/azure/ai-foundry/openai/how-to/responses (Azure), 2026-11-22",
            "https://docs.oracle.com/iaas/releasenotes/generative-ai/responses-api-background-mode.htm, 2026-11-22",
            "vllm-project/vllm, entrypoints/openai/responses, 2026-11-22",
            "fastresponses 0.1.0, run, 2026-11-22",
        ),
    )
    proves_end = True
    speech = ResponsesSpeech()
    # Deltas are flat: no field of theirs can hold another "sequence_number" with its quotes unescaped.
    ordinary = re.compile(rb"(?:event: [\w.]+\.delta\ndata: \{.*\n\n)+")
    sequence_key = b'"sequence_number":'
    _upgraded: ClassVar[Mapping[str, bool]] = {"background": True, "store": True}
    keeps = (
        "a background response can be streamed again for about 5 minutes and read for about 10; "
        "one without background=True and store=True is not kept at all"
    )

    def recognises(self, request: RequestPlan) -> bool:
        """By path, and ``stream``."""
        if request.path.endswith("/responses"):
            return wants_stream(request)
        found = _retrieved(request)
        return found is not None and (bool(found["events"]) or request.query.get("stream") == "true")

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """A name for the conversation too, in case the server is llama.cpp."""
        prepared = super().prepare(request, key)
        return llama_cpp.name_conversation(prepared, key) if request.method == "POST" else prepared

    def upgrade(self, request: RequestPlan) -> RequestPlan:
        """``background`` and ``store``, unless it is a background response already, or no new one."""
        body = json_object(request.body) if request.method == "POST" else {}
        if not body or body.get("background") is True:
            return request
        for name in self._upgraded:
            if body.get(name) is False:
                raise UpgradeRefused(f"the request says {name}: false, and upgrade=True the opposite: leave one out")
        window = object_in(body, "background_options").get("completion_window")
        if window not in (None, "soonest"):
            raise UpgradeRefused(f"a completion window of {window} excludes streams, so there is nothing to upgrade")
        return request.with_body(json.dumps({**body, **self._upgraded}, separators=(",", ":")).encode())

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """llama.cpp keeps what it says."""
        return llama_cpp.over(self, request, headers)

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The id in the path, for a GET; otherwise the first event tells it."""
        found = _retrieved(request)
        return found["id"] if found else None

    def read(self, event: Fields) -> Reading:
        """Sequence number, id, end, error."""
        data = event.data or ""
        numbers = _SEQUENCE.findall(data)
        kind = event.event or ""
        if len(numbers) == 1 and kind.endswith(".delta"):  # a delta is neither an end nor an error
            return Reading(int(numbers[0]))
        if data.startswith("[DONE]"):  # not behind a final event, or it would not be read: not all has been told
            return Reading(hollow=True)
        payload = json_object(data)
        kind = str(payload.get("type") or kind)
        sequence = payload.get("sequence_number")
        number = sequence if type(sequence) is int else None
        response = object_in(payload, "response")
        if kind == "keepalive":
            return Reading(number, keepalive=True)
        if kind == "error" or payload.get("error"):
            return failure(payload.get("error") or payload)._replace(sequence=number, terminal=False)
        error = error_text(response.get("error")) if kind == "response.failed" else None
        handle = response.get("id") if kind in _FIRSTS else None
        return Reading(number, handle, kind in _ENDS, error)

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether an ``error`` event has come: nothing needs to follow it, though ``response.failed`` may."""
        return any(self.read(event).error for event in transcript)

    def resume(self, progress: Progress) -> RequestPlan | None:
        """``starting_after`` the last sequence number."""
        after = progress.position.sequence
        if not _is_background(progress) or progress.handle is None or after is None:
            return None
        found = _retrieved(progress.request)
        if found and found["events"]:
            return self._retrieve(progress, "/events", starting_after=after)
        return self._retrieve(progress, stream="true", starting_after=after)

    def may_repeat(self, progress: Progress) -> bool:
        """Not where a background response was started: it runs on, unseen."""
        return progress.request.method == "GET" or not _is_background(progress)

    def gone(self, status: int, body: bytes) -> bool:
        """Older than about five minutes."""
        return status == 400 and b"no longer be streamed" in body

    def poll(self, progress: Progress) -> RequestPlan | None:
        """The plain GET."""
        if not _is_background(progress) or progress.handle is None:
            return None
        return self._retrieve(progress).with_headers(("Accept", "application/json"))

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        """The finished response as the events that are missing of it."""
        response = json_object(body)
        status = response.get("status")
        if response.get("id") != progress.handle or not isinstance(status, str):
            return Unusable("the server answered with something that is not this response")
        if status in ("queued", "in_progress"):
            return StillRunning(_poll_after(headers))
        if status not in ("completed", "failed", "incomplete"):
            return Unusable(f"the response was {status}")
        if not transcript.whole or "starting_after" in progress.request.query:
            return Unusable(
                "the answer is complete and responses.retrieve() reads it, but it is streamed no more, and what was "
                "delivered of it before is not known here, so the missing events cannot be told"
            )
        blocks = missing_events(response, transcript, progress.position.sequence)
        return Unusable("the finished answer is not the one that was begun") if blocks is None else Finished(blocks)

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """``POST …/cancel``, for background responses; closing the connection cancels the others."""
        if not _is_background(progress) or progress.handle is None:
            return None
        plan = self._retrieve(progress, "/cancel")
        return RequestPlan("POST", plan.url, plan.headers)

    def text(self, event: Fields) -> str:
        """The text of an output text delta."""
        if event.event not in ("response.output_text.delta", None):
            return ""
        payload = json_object(event.data)
        return str(payload.get("delta", "")) if payload.get("type") == "response.output_text.delta" else ""

    def _retrieve(self, progress: Progress, action: str = "", **query: str | int) -> RequestPlan:
        request = progress.request
        found = _retrieved(request)
        base = found["base"] if found else self._collection(request.path)
        return request.get(f"{base}/{progress.handle}{action}", **_kept(request), **query)

    def _collection(self, path: str) -> str:
        """The path that responses are found under, from the one that they are created with."""
        return path


def _retrieved(request: RequestPlan) -> re.Match[str] | None:
    """The id, and where it stands, in the path of a request for a response that exists."""
    return _RETRIEVE.match(request.path) if request.method == "GET" else None


def _kept(request: RequestPlan) -> dict[str, str | int]:
    # An Azure api-version must stay; what shaped the stream must not.
    return {name: value for name, value in request.query.items() if name not in ("stream", "starting_after")}


def _is_background(progress: Progress) -> bool:
    # A checkpoint holds no body. If it came from a foreground response, the server says that it knows none of this id.
    request = progress.request
    return request.method == "GET" or request.body is None or _BACKGROUND.search(request.body) is not None


def _poll_after(headers: Headers) -> float:
    try:
        seconds = float(headers["openai-poll-after-ms"]) / 1000
    except (KeyError, ValueError):
        return _POLL_SECONDS
    return _POLL_SECONDS if isnan(seconds) else min(max(seconds, 0.1), 60.0)
