"""llama.cpp's server, which keeps the bytes of every answer whose request named a conversation.

The answer's own format is that of the path that was asked: chat completions, Responses, messages or the native
completion. What is added here is the way back: ``GET /v1/stream?conv_id=C&from=OFFSET``, an offset into the body in
bytes. A ring of 4 MiB a conversation, kept for 300 s after the end; a POST with the same id replaces what was kept,
so the POST is never repeated. A conversation that was named goes on when its connection is closed; ``DELETE`` stops
it.
Sources: ggml-org/llama.cpp `tools/server/README-dev`, PR 23226 and 25047; the server itself (xllamacpp 2026.10); read
    and run 2026-11-22.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from resumable_llm.core.dialect import Dialect, Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Headers, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream, json_object, wants_stream
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.speech.chat import LLAMA_CPP, ChatSpeech
from resumable_llm.dialects.speech.llama_completion import LlamaCompletionSpeech

_CONVERSATION = "x-conversation-id"
_PING = b":\n\n"
_SOURCES = (
    "ggml-org/llama.cpp, tools/server/README-dev and pull requests 23226 and 25047, 2026-11-22",
    "llama.cpp's server (xllamacpp 2026.10), run, 2026-11-22",
)
_ENDPOINT = re.compile(r"(?:/v1)?/(?:chat/completions|completions|completion|responses|messages)$")


class LlamaCpp(EventStream):
    """A llama.cpp server behind another dialect's format.

    Args:
        format: The dialect of the path that was asked.
    """

    facts = Facts(
        systems="llama.cpp's server, behind the format of any path it has",
        resume="`GET /v1/stream?conv_id=C&from=N`, behind N bytes of the body; `X-Conversation-Id` must have named it",
        end="what ends it in the format",
        closing="a conversation that was named goes on; another one stops",
        cancel="`DELETE /v1/stream?conv_id=C`",
        kept="the last 4 MiB of a conversation, until 300 seconds after its end or the next request that names it",
        sources=_SOURCES,
    )
    proves_end = True
    detached = True
    overlaps = True
    keeps = "llama.cpp keeps an answer for 300 seconds after its end, and its last 4 MiB"

    def __init__(self, format: Dialect) -> None:
        self._format = format
        self.name = f"llama_cpp/{format.name}"
        self.ordinary = format.ordinary
        self.framing = format.framing
        self.speech = ChatSpeech(LLAMA_CPP) if isinstance(format.speech, ChatSpeech) else format.speech

    def recognises(self, request: RequestPlan) -> bool:
        """As the format does."""
        return self._format.recognises(request)

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The conversation's name."""
        return request.header(_CONVERSATION)

    def read(self, event: Fields) -> Reading:
        """What the format reads, but neither handle nor sequence: the way back has its own.

        No failure passes: what the server has said is kept, so asked again it would say the same.
        """
        return self._format.read(event)._replace(handle=None, sequence=None, transient=False, retry_after=None)

    def counts(self, block: bytes) -> bool:
        """llama.cpp's own ping, which it keeps and counts, is a lone colon; any other was put in by a proxy."""
        return block == _PING

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """As the format does."""
        return self._format.ended(request, transcript)

    def resume(self, progress: Progress) -> RequestPlan | None:
        """From the last whole event on, which must come again: an offset that is not the server's own would show."""
        assert progress.handle is not None
        start = progress.position.offset - progress.overlap
        return progress.request.get(_stream(progress), conv_id=progress.handle, **{"from": start})

    def may_repeat(self, progress: Progress) -> bool:
        """Never: a second POST would destroy what is kept."""
        return False

    def gone(self, status: int, body: bytes) -> bool:
        """The ring has run past the offset."""
        return status == 400 and b"offset lost" in body

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """``DELETE`` of the kept stream."""
        assert progress.handle is not None
        plan = progress.request.get(_stream(progress), conv_id=progress.handle)
        return RequestPlan("DELETE", plan.url, plan.headers)

    def text(self, event: Fields) -> str:
        """As the format does."""
        return self._format.text(event)


class LlamaCompletion(EventStream):
    """llama.cpp's own ``POST /completion``: ends with ``"stop": true``."""

    name = "llama_completion"
    facts = Facts(
        systems="whoever speaks llama.cpp's own format, but is not llama.cpp",
        resume="not possible: nothing is known to be kept",
        end='`"stop": true`',
        closing="the server's choice",
        sources=_SOURCES,
    )
    proves_end = True
    speech = LlamaCompletionSpeech()
    keeps = "the server is not llama.cpp, or one that keeps nothing"

    def recognises(self, request: RequestPlan) -> bool:
        """By path and ``"stream": true``."""
        return request.path.endswith("/completion") and wants_stream(request)

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """With a name for the conversation."""
        return name_conversation(super().prepare(request, key), key)

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """llama.cpp keeps what it says."""
        return over(self, request, headers)

    def read(self, event: Fields) -> Reading:
        """``"stop": true``, or an error."""
        data = event.data or ""
        if '"stop":true' in data and json_object(data).get("stop") is True:
            return Reading(terminal=True)
        if event.event == "error" or data.startswith('{"error"'):
            return failure(json_object(data).get("error"))
        return NOTHING

    def text(self, event: Fields) -> str:
        """The content."""
        return str(json_object(event.data).get("content", ""))


def name_conversation(request: RequestPlan, key: str) -> RequestPlan:
    """The request with a conversation's name, unless the caller gave one. Other servers ignore the header."""
    if request.header(_CONVERSATION) is not None:
        return request
    return request.with_headers(("X-Conversation-Id", request.header("idempotency-key") or key))


def over(format: Dialect, request: RequestPlan, headers: Headers) -> Dialect:
    """The format itself, or llama.cpp behind it if that is what answered."""
    known = headers.get("server") == "llama.cpp" and request.header(_CONVERSATION) is not None
    return LlamaCpp(format) if known else format


def _stream(progress: Progress) -> str:
    return _ENDPOINT.sub("", urlsplit(progress.request.url).path) + "/v1/stream"
