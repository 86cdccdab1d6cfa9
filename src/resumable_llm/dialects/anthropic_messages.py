"""Anthropic messages.

Ends with ``message_stop``, which follows the ``message_delta`` that has the stop reason. Errors come as ``event:
error`` after a status of 200. Nothing is kept on the server.
Sources: anthropic 2.12.0 (`types/raw_*_event.py`, `_streaming.py`), https://platform.claude.com/docs (streaming);
    read 2026-11-22.
"""

from __future__ import annotations

import re

from resumable_llm.core.dialect import Dialect, Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Headers, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import llama_cpp
from resumable_llm.dialects.event_stream import EventStream, json_object, object_in, wants_stream
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.speech.anthropic import AnthropicSpeech


class AnthropicMessages(EventStream):
    """``POST …/messages``."""

    name = "anthropic_messages"
    facts = Facts(
        systems="Anthropic; vLLM's, llama.cpp's and OpenRouter's `/v1/messages`",
        resume="not possible: nothing is kept, and nothing is numbered",
        end="`message_stop`; the `stop_reason` of the `message_delta` before it will do",
        closing="it stops work and billing, as OpenRouter lists it",
        sources=(
            "anthropic 2.12.0, types and _streaming.py, 2026-11-22",
            "https://platform.claude.com/docs/en/build-with-claude/streaming, 2026-11-22",
            "https://openrouter.ai/docs/api/reference/streaming, stream cancellation, 2026-11-22",
        ),
    )
    proves_end = True
    speech = AnthropicSpeech()
    ordinary = re.compile(rb"(?:event: content_block_delta\ndata: \{.*\n\n)+")
    keeps = "messages are not kept on the server"

    def recognises(self, request: RequestPlan) -> bool:
        """By path and ``"stream": true``."""
        return request.path.endswith("/messages") and wants_stream(request)

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """A name for the conversation too, in case the server is llama.cpp."""
        return llama_cpp.name_conversation(super().prepare(request, key), key)

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """llama.cpp keeps what it says."""
        return llama_cpp.over(self, request, headers)

    def read(self, event: Fields) -> Reading:
        """``message_stop``, ``error`` or ``ping``."""
        if event.event == "message_stop":
            return Reading(terminal=True)
        if event.event == "ping":
            return Reading(keepalive=True)
        if event.event == "error":
            return failure(json_object(event.data).get("error"))
        return NOTHING

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether the stop reason has come: all content blocks are closed by then."""
        return any(
            object_in(json_object(event.data), "delta").get("stop_reason")
            for event in transcript
            if event.event == "message_delta"
        )

    def text(self, event: Fields) -> str:
        """The text of a text delta."""
        if event.event != "content_block_delta":
            return ""
        delta = object_in(json_object(event.data), "delta")
        return str(delta.get("text", "")) if delta.get("type") == "text_delta" else ""
