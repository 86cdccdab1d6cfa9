"""Gemini ``streamGenerateContent``.

Ends with a ``finishReason`` for each candidate, or with the reason why the prompt was blocked; what may follow, such as
usage, and the end of the stream have no mark. Nothing is kept on the server. But in a long answer the first candidate
may have a ``continuationToken``, and the same request with that token goes on from there, as a new response that is
charged for its input again. With ``finishReason`` CONTINUATION it is the end of what one request may generate, so the
stream is complete, and to go on is the caller's affair (the SDK does it unasked). Without a ``finishReason`` it names
the place behind its own chunk, which is of use as long as nothing has come behind it.
Sources: google-genai 3.4.0 (`models.py`, `_extra_utils.py`, `_api_client.py`, `types.py`), https://ai.google.dev/api
    (models.streamGenerateContent), aimock 1.43.0; read 2026-11-22.
"""

from __future__ import annotations

import json
import re
from typing import Any

from resumable_llm.core.dialect import Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream, json_object, object_in
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.speech.gemini import GeminiSpeech


class GeminiGenerate(EventStream):
    """``POST …/{model}:streamGenerateContent?alt=sse``."""

    name = "gemini_generate"
    facts = Facts(
        systems="Gemini API and Vertex AI: `streamGenerateContent`",
        resume="the same request with the `continuationToken`, if the last event told one; otherwise nothing is kept",
        end="a `finishReason` for each candidate, or `promptFeedback.blockReason`",
        closing="not documented; OpenRouter lists Google among those that go on and charge",
        kept="nothing",
        sources=(
            "google-genai 3.4.0, 2026-11-22",
            "https://ai.google.dev/api/generate-content, 2026-11-22",
            "https://openrouter.ai/docs (streaming, cancellation), 2026-11-22",
        ),
    )
    proves_end = True
    speech = GeminiSpeech()
    # In JSON a quoted "error" has its quotes escaped, so this finds every key of these names, and at worst too many.
    ordinary = re.compile(rb'(?:data: \{"candidates"(?!.*"(?:error|continuationToken)").*\n\n)+')
    keeps = "generateContent keeps nothing, and the last event told no continuation token to go on from"

    def recognises(self, request: RequestPlan) -> bool:
        """By path and ``alt=sse``; without that the answer is one array of JSON."""
        # The SDK puts a second question mark before further fields.
        alt = request.query.get("alt") or request.query.get("$alt") or ""
        return (
            request.method == "POST"
            and request.path.endswith(":streamGenerateContent")
            and alt.partition("?")[0] == "sse"
        )

    def read(self, event: Fields) -> Reading:
        """An error, or a token to go on from."""
        data = event.data or ""
        if '"error"' not in data and '"continuationToken"' not in data:
            return NOTHING
        payload = json_object(data)
        if payload.get("error"):
            return failure(payload["error"])
        first = next(iter(_candidates(payload)), {})
        token = first.get("continuationToken")
        if not isinstance(token, str):
            return NOTHING
        # At the end of a hop the token is the caller's, and one that was told before is of no more use.
        return Reading(cursor="" if first.get("finishReason") else token)

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether every candidate has its finishReason: then only usage can be missing, and no text."""
        begun: set[int] = set()
        finished: set[int] = set()
        for event in transcript:
            payload = json_object(event.data)
            if object_in(payload, "promptFeedback").get("blockReason"):
                return True
            for candidate in _candidates(payload):
                begun.add(_index(candidate))
                if candidate.get("finishReason"):
                    finished.add(_index(candidate))
        asked = object_in(json_object(request.body), "generationConfig").get("candidateCount")
        return (
            transcript.whole
            and bool(begun)
            and begun == finished
            and len(begun) >= (asked if isinstance(asked, int) else 1)
        )

    def resume(self, progress: Progress) -> RequestPlan | None:
        """The same request with the token, unless something came behind it: that would come again in other words."""
        body = json_object(progress.request.body)
        if not progress.position.cursor or progress.position.behind or not body:
            return None
        continued = {**body, "continuationToken": progress.position.cursor}
        return progress.request.with_body(json.dumps(continued).encode())

    def text(self, event: Fields) -> str:
        """The first candidate's text, without its thoughts."""
        for candidate in _candidates(json_object(event.data)):
            if _index(candidate) == 0:
                parts = object_in(candidate, "content").get("parts")
                return "".join(_text_of(part) for part in parts) if isinstance(parts, list) else ""
        return ""


def _candidates(payload: dict[str, Any]) -> list[dict[str, Any]]:
    candidates = payload.get("candidates")
    return [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []


def _index(candidate: dict[str, Any]) -> int:
    index = candidate.get("index", 0)
    return index if isinstance(index, int) else 0


def _text_of(part: object) -> str:
    if not isinstance(part, dict) or part.get("thought"):
        return ""
    return str(part.get("text", ""))
