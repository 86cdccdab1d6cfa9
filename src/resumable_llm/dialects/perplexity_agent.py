"""Perplexity's Agent API: OpenAI Responses but for the path that they are created with.

Sources: https://docs.perplexity.ai/docs/agent-api/background-mode and https://docs.perplexity.ai/api-reference (Agent
    API), read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar
from urllib.parse import urlsplit

from resumable_llm.core.model import RequestPlan
from resumable_llm.dialects.event_stream import wants_stream
from resumable_llm.dialects.openai_responses import OpenAIResponses


class PerplexityAgent(OpenAIResponses):
    """``POST …/v1/agent``; what it has created is found under ``…/v1/responses``."""

    name = "perplexity_agent"
    facts = replace(
        OpenAIResponses.facts,
        systems="Perplexity's Agent API",
        end="`response.completed` or `response.failed`; or an `error` event",
        upgrade="`background: true`: the response is kept on the server, and closing no longer cancels it",
        kept="a background response, for a time that Perplexity does not tell; nothing of others",
        sources=(
            "https://docs.perplexity.ai/docs/agent-api/background-mode, 2026-11-22",
            "https://docs.perplexity.ai/api-reference (Agent API), 2026-11-22",
        ),
    )
    _upgraded: ClassVar[Mapping[str, bool]] = {"background": True}
    keeps = "a background response is kept for some time; one without background=True is not kept at all"

    def recognises(self, request: RequestPlan) -> bool:
        """By path, host and ``"stream": true``."""
        if not request.path.endswith("/agent"):
            return False
        host = urlsplit(request.url).hostname or ""
        return f".{host}".endswith(".perplexity.ai") and wants_stream(request)

    def _collection(self, path: str) -> str:
        return path.removesuffix("agent") + "responses"
