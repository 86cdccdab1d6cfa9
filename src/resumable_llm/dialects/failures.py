"""Failures that a server reports inside a stream, told apart by what they say: the status was 200 and says nothing.

Which of them pass is each provider's own word for it, put together here, for gateways hand on the words of others.
Sources: openai 3.54.0 (`types/responses/response_error.py`), anthropic 2.12.0 (`types/shared/`, `_error_classes.py`),
google-genai 3.4.0 and https://cloud.google.com/apis/design/errors, https://openrouter.ai/docs (errors), vLLM
`serving_chat`; read 2026-11-22.
"""

from __future__ import annotations

import re
from math import isfinite

from resumable_llm.core.model import Reading
from resumable_llm.dialects.event_stream import error_text, object_in

_PASSING = frozenset(
    {
        *("server_error", "rate_limit_exceeded", "too_many_requests", "service_unavailable"),  # OpenAI, Azure
        *("overloaded_error", "api_error", "rate_limit_error", "timeout_error"),  # Anthropic
        *("unavailable", "resource_exhausted", "internal", "deadline_exceeded", "aborted"),  # Google, in lower case
        *("internal_server_error", "internalservererror", "overloaded", "engine_overloaded"),  # vLLM and gateways
        *("408", "409", "429", "500", "502", "503", "504", "529"),  # OpenRouter, vLLM: a status as the code
    }
)
_LASTING = frozenset(
    {"insufficient_quota", "enforced_spend_limit_reached", "contract_spend_limit_reached", "billing_error"}
)
_WAIT = re.compile(r"try again in (\d+(?:\.\d+)?)\s*(ms|s|m)\b", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def failure(error: object) -> Reading:
    """Read a failure.

    Args:
        error: The error object of the event's JSON, or whatever stands in its place.

    Returns:
        A terminal reading; transient if the failure is one that passes.
    """
    if not isinstance(error, dict):
        return Reading(terminal=True, error=error_text(error))
    words = {str(error.get(name)).lower() for name in ("code", "type", "status")}
    words.add(str(object_in(error, "details").get("error_code")).lower())
    transient = bool(words & _PASSING) and not words & _LASTING
    return Reading(
        terminal=True,
        error=error_text(error),
        transient=transient,
        retry_after=_wait(error) if transient else None,
    )


def _wait(error: dict[str, object]) -> float | None:
    """Seconds that the error asks to wait, in whichever way it says so."""
    headers = object_in(object_in(error, "metadata"), "headers")
    stated = [error.get("retry_after"), headers.get("Retry-After"), headers.get("retry-after")]
    details = error.get("details")
    if isinstance(details, list):  # Google's RetryInfo: "17s"
        delays = [detail.get("retryDelay") for detail in details if isinstance(detail, dict)]
        stated += [str(delay).removesuffix("s") for delay in delays if delay]
    for value in stated:
        try:
            seconds = float(str(value))
        except ValueError:
            continue
        if isfinite(seconds):
            return max(seconds, 0.0)
    told = _WAIT.search(str(error.get("message")))
    return float(told[1]) * _UNITS[told[2].lower()] if told else None
