"""Services that speak OpenAI's chat completions, and what is different with each of them.

A table and nothing else; `openai_chat` makes a dialect of each row. Servers that people run themselves (vLLM, SGLang,
Ollama, LM Studio) have no host to be known by, and need no rule that the others do not need too.

What closing does is told by OpenRouter, which lists the upstreams where an abort stops work and billing, unless a
service says so itself: https://openrouter.ai/docs/api/reference/streaming (stream cancellation), read 2026-11-22.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import Pattern
from urllib.parse import urlsplit

_ABORTS = "https://openrouter.ai/docs/api/reference/streaming, stream cancellation, 2026-11-22"
_STOPS = "it stops work and billing, as OpenRouter lists it"
_GOES_ON = "work and billing go on, as OpenRouter lists it"
_END = "a `finish_reason` for each choice; then `data: [DONE]`"


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        name: Of the service; its dialect is named after it.
        systems: The name as people know it.
        hosts: The hosts it has; those below them count.
        closing: What it does when the connection is closed.
        end: What ends an answer.
        sources: Where that was read, with the date.
        ordinary: As in `Dialect.ordinary`, where it differs.
        handle: The response header that tells the id of the generation.
    """

    name: str
    systems: str
    hosts: tuple[str, ...]
    closing: str
    end: str = _END
    sources: tuple[str, ...] = ()
    ordinary: Pattern[bytes] | None = None
    handle: str | None = None

    def has(self, url: str) -> bool:
        """Whether a URL is one of the service's."""
        host = urlsplit(url).hostname or ""
        return any(host == known or host.endswith(f".{known}") for known in self.hosts)


SERVICES = (
    Service(
        "mistral",
        "Mistral",
        ("mistral.ai",),
        _GOES_ON,
        end=f"{_END}; `finish_reason: error` is a failure",
        sources=("mistralai 3.7.0, models/completionresponsestreamchoice.py, 2026-11-22", _ABORTS),
    ),
    Service(
        "deepseek",
        "DeepSeek",
        ("deepseek.com",),
        _STOPS,
        end=f"{_END}; `finish_reason: insufficient_system_resource` is a failure; `: keep-alive` while queued, for "
        "10 minutes at most",
        sources=("https://api-docs.deepseek.com/quick_start/rate_limit, 2026-11-22", _ABORTS),
    ),
    Service(
        "groq",
        "Groq",
        ("groq.com",),
        _GOES_ON,
        end=f"{_END}; `event: error`, and `x_groq.error` where a stream was stopped early, are failures",
        sources=("groq 1.7.0, types/chat/chat_completion_chunk.py and _streaming.py, 2026-11-22", _ABORTS),
        # A chunk with `x_groq` may hold an error behind a choice that is not finished, so it has to be read.
        ordinary=re.compile(rb'(?:data: \{.*"finish_reason": ?null\}\]\}\n\n)+'),
    ),
    Service("together", "Together AI", ("together.xyz", "together.ai"), _STOPS, sources=(_ABORTS,)),
    Service(
        "fireworks",
        "Fireworks",
        ("fireworks.ai",),
        _STOPS,
        sources=("fireworks-ai 1.2.30, training/sdk/_sse.py, 2026-11-22", _ABORTS),
    ),
    Service(
        "openrouter",
        "OpenRouter",
        ("openrouter.ai",),
        "it stops work and billing with some upstreams (OpenAI, Azure, Anthropic, Fireworks, Together, DeepInfra, "
        "Cohere, xAI, Cloudflare, DeepSeek); not with others (Bedrock, Groq, Google, Mistral, Hugging Face, Replicate, "
        "Perplexity)",
        end=f"{_END}; an error comes as a chunk with `error` and `finish_reason: error`; `: OPENROUTER PROCESSING` "
        "while it waits",
        sources=(_ABORTS, "https://openrouter.ai/docs/api/reference/errors-and-debugging, 2026-11-22"),
        handle="x-generation-id",
    ),
    Service(
        "xai",
        "xAI",
        ("x.ai",),
        _STOPS,
        sources=("https://docs.x.ai, 2026-11-22", _ABORTS),
    ),
    Service(
        "perplexity",
        "Perplexity, Sonar",
        ("perplexity.ai",),
        _GOES_ON,
        sources=("https://docs.perplexity.ai/guides/streaming-responses, 2026-11-22", _ABORTS),
    ),
    Service(
        "azure",
        "Azure OpenAI",
        ("openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com"),
        _STOPS,
        end=f"{_END}; the first chunk has no choices but the prompt's filter results",
        sources=("https://learn.microsoft.com/azure/ai-foundry/openai, 2026-11-22", _ABORTS),
    ),
)
