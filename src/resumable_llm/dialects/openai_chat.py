"""OpenAI chat completions, and the many servers that speak the same.

Ends with a ``finish_reason`` for each choice and then ``data: [DONE]``; some servers leave out the one or the other,
and some send ``[DONE]`` behind an error. Nothing is kept on the server.
Sources: openai 3.54.0 (`types/chat/chat_completion_chunk.py`, `_streaming.py`), groq 1.7.0, mistralai 3.7.0, vLLM and
    SGLang `serving_chat`, https://openrouter.ai/docs/api/reference/streaming,
    https://api-docs.deepseek.com/api/create-chat-completion; read 2026-11-22.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from resumable_llm.core.dialect import Dialect, Facts, Ordinary
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Headers, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import llama_cpp
from resumable_llm.dialects.event_stream import EventStream, json_object, object_in, wants_stream
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.openai_services import Service
from resumable_llm.dialects.speech.chat import ChatSpeech

# OpenRouter, Mistral and vLLM; vLLM and SGLang; DeepSeek.
_FAILED = ("error", "abort", "insufficient_system_resource")
_SUSPICIOUS = re.compile(rf'"(?:{"|".join(_FAILED)})"').search

_FINISH = b'"finish_reason":'
# A chunk that says that a choice is not finished is no error: those have a finish_reason, or no choices. The first
# alternative is llama.cpp's order of fields, and spares the search. Looked ahead, for there is no way back into that:
# otherwise a long event with many such fields would take time by the square of its length.
_RUNS = re.compile(
    rb'(?:data: \{(?!.*_reason": ?")'
    rb'(?:"choices":\[\{"finish_reason":null,|(?=.*"finish_reason": ?null)).*\n\n)+'
).fullmatch


class _Chunks:
    """Chunks none of which finishes a choice."""

    @staticmethod
    def fullmatch(data: bytes, start: int = 0) -> object | None:
        """What `_RUNS` says: at 12,000 instructions for an event of 218 bytes, so a single one is looked at by hand."""
        parts = data.split(_FINISH)
        alone = len(parts) == 2 and parts[1][:4] == b"null" and parts[0][:7] == b"data: {" and not start
        if alone and 10 not in data[:-2] and data[-1] == 10 == data[-2]:
            return True
        return _RUNS(data, start)


class OpenAIChat(EventStream):
    """``POST …/chat/completions`` and the older ``POST …/completions``.

    Args:
        service: Whose dialect it is; None: anybody's.
    """

    name = "openai_chat"
    facts = Facts(
        systems="OpenAI; vLLM, SGLang, Ollama's `/v1`, LM Studio and whoever else speaks the same",
        resume="not possible: nothing is kept, and nothing is numbered",
        end="a `finish_reason` for each choice, or `data: [DONE]`; neither counts behind an error",
        closing="OpenAI stops work and billing, as OpenRouter lists it; vLLM, SGLang and Ollama stop",
        sources=(
            "openai 3.54.0, types/chat and _streaming.py, 2026-11-22",
            "https://openrouter.ai/docs/api/reference/streaming, stream cancellation, 2026-11-22",
            "vllm-project/vllm and sgl-project/sglang, serving_chat, 2026-11-22",
        ),
    )
    proves_end = True
    speech = ChatSpeech()
    ordinary: Ordinary | None = _Chunks()
    keeps = "chat completions are not kept on the server"

    def __init__(self, service: Service | None = None) -> None:
        self._service = service
        if service is not None:
            self.name = f"{service.name}_chat"
            self.facts = replace(
                self.facts,
                systems=service.systems,
                end=service.end,
                closing=service.closing,
                sources=service.sources,
            )
            self.ordinary = service.ordinary or self.ordinary

    def recognises(self, request: RequestPlan) -> bool:
        """By host, if it is a service's dialect, path and ``"stream": true``."""
        if self._service is not None and not self._service.has(request.url):
            return False
        return request.path.endswith("/completions") and wants_stream(request)

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """A name for the conversation too, in case the server is llama.cpp."""
        return llama_cpp.name_conversation(super().prepare(request, key), key)

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """llama.cpp keeps what it says."""
        return llama_cpp.over(self, request, headers)

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The id that the service tells in a header, if it does."""
        return headers.get(self._service.handle) if self._service and self._service.handle else None

    def read(self, event: Fields) -> Reading:
        """``[DONE]``, an error in one of its shapes, or a ``finish_reason`` that is none."""
        data = event.data or ""
        if data.startswith("[DONE]"):
            return Reading(terminal=True)
        if event.event == "error" or _SUSPICIOUS(data):
            return _trouble(event, json_object(data))
        return NOTHING

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """Whether every choice has its finish_reason: then only usage and ``[DONE]`` can be missing, and no text."""
        begun: set[int] = set()
        finished: set[int] = set()
        for event in transcript:
            for choice in _choices(json_object(event.data)):
                begun.add(_index(choice))
                if choice.get("finish_reason") and choice["finish_reason"] not in _FAILED:
                    finished.add(_index(choice))
        if not transcript.whole:  # a choice that never ended may be among what was let go
            return False
        body = json_object(request.body)
        asked, prompts = body.get("n"), body.get("prompt")
        choices = asked if isinstance(asked, int) else 1
        if isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts):
            choices *= len(prompts)
        return len(finished) >= choices and bool(begun) and begun == finished

    def text(self, event: Fields) -> str:
        """The first choice's text."""
        for choice in _choices(json_object(event.data)):
            if _index(choice) == 0:
                return _plain(object_in(choice, "delta").get("content") or choice.get("text"))
        return ""


def _trouble(event: Fields, payload: dict[str, Any]) -> Reading:
    error = payload.get("error") or object_in(payload, "x_groq").get("error")
    if error:
        return failure(error)
    if event.event == "error" or payload.get("object") == "error":
        return failure(payload)
    reasons = [choice.get("finish_reason") for choice in _choices(payload)]
    failed = next((reason for reason in reasons if reason in _FAILED), None)
    return Reading(error=f"finish_reason {failed}") if failed else NOTHING


def _plain(content: object) -> str:
    if isinstance(content, list):  # Mistral, when it thinks aloud
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text") or "") for part in parts)
    return str(content or "")


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _choices(payload: dict[str, Any]) -> list[dict[str, Any]]:
    choices = payload.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
