"""The wire protocols that are known, one provider a file; and the names that somebody needs who writes another.

Adding one: a file, and a line in `DIALECTS`. May import the core and nothing else of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from resumable_llm.core.dialect import Dialect, Facts, Finished, Ordinary, PollResult, StillRunning, Unusable
from resumable_llm.core.events import Fields, encode_event
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES, Framing
from resumable_llm.core.model import Position, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.anthropic_messages import AnthropicMessages
from resumable_llm.dialects.cohere import CohereChat
from resumable_llm.dialects.durable_streams import DurableStreams
from resumable_llm.dialects.event_stream import AnyEventStream, EventStream, LastEventId
from resumable_llm.dialects.gemini_generate import GeminiGenerate
from resumable_llm.dialects.gemini_interactions import GeminiInteractions
from resumable_llm.dialects.langgraph import LangGraph, LangGraphThread
from resumable_llm.dialects.llama_cpp import LlamaCompletion, LlamaCpp
from resumable_llm.dialects.mcp import Mcp, McpStateless
from resumable_llm.dialects.ollama import Ollama
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_responses import OpenAIResponses
from resumable_llm.dialects.openai_services import SERVICES
from resumable_llm.dialects.perplexity_agent import PerplexityAgent
from resumable_llm.dialects.relayed import Relayed

__all__ = [
    "ANY_EVENT_STREAM",
    "DIALECTS",
    "EVENT_STREAM",
    "JSON_LINES",
    "Dialect",
    "EventStream",
    "Facts",
    "Fields",
    "Finished",
    "Framing",
    "LastEventId",
    "Ordinary",
    "PollResult",
    "Position",
    "Progress",
    "Reading",
    "RequestPlan",
    "StillRunning",
    "Transcript",
    "Unusable",
    "encode_event",
    "named",
    "recognise",
]

ANY_EVENT_STREAM: Dialect = AnyEventStream()

_CHAT: Dialect = OpenAIChat()
_CHATS: tuple[Dialect, ...] = tuple(map(OpenAIChat, SERVICES))

DIALECTS: tuple[Dialect, ...] = (
    OpenAIResponses(),
    PerplexityAgent(),
    *_CHATS,
    _CHAT,
    AnthropicMessages(),
    LlamaCompletion(),
    Ollama(),
    CohereChat(),
    DurableStreams(),
    LangGraph(),
    LangGraphThread(),
    Mcp(),
    McpStateless(),
    GeminiInteractions(),
    GeminiGenerate(),
    ANY_EVENT_STREAM,
)
"""In the order in which they are asked whether they recognise a request."""

_ASKED = tuple(dialect for dialect in DIALECTS if dialect not in _CHATS)
"""Without the services' chats: whose chat completions they are is asked once for each host, not nine times for each
request.
"""

_OVER: dict[str, Callable[[Dialect], Dialect]] = {"llama_cpp": LlamaCpp, "relay": Relayed}
"""Servers that keep what they say in the format of any other dialect."""


def recognise(request: RequestPlan) -> Dialect | None:
    """The dialect that a request will be answered in as a stream, or None if it asks for no stream."""
    for dialect in _ASKED:
        if dialect.recognises(request):
            return dialect if dialect is not _CHAT else _chat_at(request.url.partition("://")[2].partition("/")[0])
    return None


@lru_cache(maxsize=256)
def _chat_at(host: str) -> Dialect:
    return next((chat for chat, each in zip(_CHATS, SERVICES, strict=True) if each.has(f"https://{host}")), _CHAT)


def named(name: str) -> Dialect:
    """The dialect of a checkpoint.

    Raises:
        ValueError: There is none of that name here.
    """
    outer, _, inner = name.partition("/")
    for dialect in DIALECTS:
        if inner and outer in _OVER and dialect.name == inner:
            return _OVER[outer](dialect)
        if dialect.name == name:
            return dialect
    raise ValueError(f"unknown dialect {name!r}; known: {', '.join(sorted(each.name for each in DIALECTS))}")
