"""Cohere's chat, version 2.

Ends with ``message-end``, which also says why; ``[DONE]`` may follow or not. Nothing is kept on the server. Version 1
streams lines of JSON under a content type of its own, and is not recognised.
Sources: cohere 7.3.1 (`v2/raw_client.py`, `v2/types/v2chat_stream_response.py`, `types/chat_finish_reason.py`,
    `oci_client.py`); read 2026-11-22.
"""

from __future__ import annotations

import re

from resumable_llm.core.dialect import Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Reading, RequestPlan
from resumable_llm.dialects.event_stream import EventStream, json_object, object_in, wants_stream
from resumable_llm.dialects.speech.cohere import CohereSpeech

_FAILURES = ("ERROR", "TIMEOUT")


class CohereChat(EventStream):
    """``POST …/v2/chat``."""

    name = "cohere_chat"
    facts = Facts(
        systems="Cohere's chat API, version 2",
        resume="it cannot be",
        end="`message-end`",
        closing="generation stops, says OpenRouter's list of its providers",
        sources=("cohere 7.3.1, v2/raw_client.py, 2026-11-22", "https://openrouter.ai/docs (streaming), 2026-11-22"),
    )
    proves_end = True
    speech = CohereSpeech()
    # By what the data says, as the SDK reads it, whatever the event's name.
    ordinary = re.compile(rb'(?:(?:event: .*\n)?data: \{"type": ?"[a-z-]+-delta",.*\n\n)+')
    keeps = "Cohere's chats are not kept on the server"

    def recognises(self, request: RequestPlan) -> bool:
        """By path and ``"stream": true``."""
        return request.path.endswith("/v2/chat") and wants_stream(request)

    def read(self, event: Fields) -> Reading:
        """``message-start``, which has the answer's id, or ``message-end``.

        An end that is a failure is none that passes: a part of the answer always came before it.
        """
        data = event.data or ""
        if '"message-' not in data:  # inside a JSON string the quotes would be escaped
            return NOTHING
        payload = json_object(data)
        if payload.get("type") == "message-start":
            handle = payload.get("id")
            return Reading(handle=handle if isinstance(handle, str) else None)
        if payload.get("type") != "message-end":
            return NOTHING
        reason = object_in(payload, "delta").get("finish_reason")
        return Reading(terminal=True, error=reason if reason in _FAILURES else None)

    def text(self, event: Fields) -> str:
        """The text of a content delta; no thinking."""
        payload = json_object(event.data)
        if payload.get("type") != "content-delta":
            return ""
        message = object_in(object_in(payload, "delta"), "message")
        return str(object_in(message, "content").get("text") or "")
