"""The wire protocols that are known, one provider a file.

Adding one: a file, and a line in `DIALECTS`. May import the core and nothing else of this package.
"""

from __future__ import annotations

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.model import RequestPlan
from resumable_llm.dialects.anthropic_messages import AnthropicMessages
from resumable_llm.dialects.event_stream import EventStream, LastEventId
from resumable_llm.dialects.llama_cpp import LlamaCompletion, LlamaCpp
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_responses import OpenAIResponses

__all__ = ["ANY_EVENT_STREAM", "DIALECTS", "EventStream", "LastEventId", "named", "recognise"]

ANY_EVENT_STREAM: Dialect = EventStream()

DIALECTS: tuple[Dialect, ...] = (
    OpenAIResponses(),
    OpenAIChat(),
    AnthropicMessages(),
    LlamaCompletion(),
    ANY_EVENT_STREAM,
)
"""In the order in which they are asked whether they recognise a request."""


def recognise(request: RequestPlan) -> Dialect | None:
    """The dialect that a request will be answered in as a stream, or None if it asks for no stream."""
    return next((dialect for dialect in DIALECTS if dialect.recognises(request)), None)


def named(name: str) -> Dialect:
    """The dialect of a checkpoint.

    Raises:
        ValueError: There is none of that name here.
    """
    outer, _, inner = name.partition("/")
    for dialect in DIALECTS:
        if inner and outer == "llama_cpp" and dialect.name == inner:
            return LlamaCpp(dialect)
        if dialect.name == name:
            return dialect
    raise ValueError(f"unknown dialect {name!r}; known: {', '.join(sorted(each.name for each in DIALECTS))}")
