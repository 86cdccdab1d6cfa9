"""OpenAI chat completions, and the many servers that speak the same.

Ends with a ``finish_reason`` for each choice and then ``data: [DONE]``; some servers leave out the one or the other,
and some send ``[DONE]`` behind an error. Nothing is kept on the server.
Sources: openai 3.54.0 (`types/chat/chat_completion_chunk.py`, `_streaming.py`), vLLM `serving_chat`; read 2026-11-22.
"""

from __future__ import annotations

import re
from typing import Any

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Headers, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import llama_cpp
from resumable_llm.dialects.event_stream import EventStream, error_text, json_object, object_in, wants_stream


class OpenAIChat(EventStream):
    """``POST …/chat/completions`` and the older ``POST …/completions``."""

    name = "openai_chat"
    proves_end = True
    # A chunk that says that a choice is not finished is no error: those have a finish_reason, or no choices. The first
    # alternative is llama.cpp's order of fields, and spares the search.
    ordinary = re.compile(rb'(?:data: \{(?:"choices":\[\{"finish_reason":null,.*|.*"finish_reason": ?null.*)\n\n)+')
    keeps = "chat completions are not kept on the server"

    def recognises(self, request: RequestPlan) -> bool:
        """By path and ``"stream": true``."""
        return request.path.endswith("/completions") and wants_stream(request)

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """A name for the conversation too, in case the server is llama.cpp."""
        return llama_cpp.name_conversation(super().prepare(request, key), key)

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """llama.cpp keeps what it says."""
        return llama_cpp.over(self, request, headers)

    def read(self, event: Fields) -> Reading:
        """``[DONE]``, or a chunk with a top-level ``error``."""
        data = event.data or ""
        if data.startswith("[DONE]"):
            return Reading(terminal=True)
        if '"error"' in data:
            error = json_object(data).get("error")
            if error:
                return Reading(terminal=True, error=error_text(error))
        return NOTHING

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether every choice has its finish_reason: then only usage and ``[DONE]`` can be missing, and no text."""
        begun: set[int] = set()
        finished: set[int] = set()
        for event in transcript:
            for choice in _choices(event):
                begun.add(_index(choice))
                if choice.get("finish_reason"):
                    finished.add(_index(choice))
        asked = json_object(request.body).get("n")
        return len(finished) >= (asked if isinstance(asked, int) else 1) and bool(begun) and begun == finished

    def text(self, event: Fields) -> str:
        """The first choice's text."""
        for choice in _choices(event):
            if _index(choice) == 0:
                return str(object_in(choice, "delta").get("content") or choice.get("text") or "")
        return ""


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _choices(event: Fields) -> list[dict[str, Any]]:
    choices = json_object(event.data).get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
