"""Failures that a server reports inside a stream, told apart by what they say: the status was 200 and says nothing.

Which of them pass is each provider's own word for it, put together here, for gateways hand on the words of others.
Sources: openai 3.54.0 (`types/responses/response_error.py`, `_base_client.py`), anthropic 2.12.0 (`types/shared/`,
`_error_classes.py`), google-genai 3.4.0 and https://cloud.google.com/apis/design/errors,
https://openrouter.ai/docs/api/reference/errors-and-debugging, vLLM `serving_chat`; read 2026-11-22.
"""

from __future__ import annotations

import re
from math import isfinite

from resumable_llm.core.model import Reading
from resumable_llm.core.recovery import retry_after
from resumable_llm.dialects.event_stream import error_text, object_in

MAX_WAIT = 120.0
"""A failure that asks for a longer wait, in seconds, is not one that passes; openai 3.54 waits no longer either."""

_PASSING = frozenset(
    {
        *(
            "server_error",
            "rate_limit_exceeded",
            "too_many_requests",
            "service_unavailable",
            "gateway_timeout",
        ),  # OpenAI, Azure
        *("service_unavailable_error", "server_is_overloaded", "slow_down"),  # OpenAI, when it has no room
        *("overloaded_error", "api_error", "rate_limit_error", "timeout_error"),  # Anthropic
        *("unavailable", "resource_exhausted", "internal", "deadline_exceeded", "aborted"),  # Google, in lower case
        *("internal_server_error", "internalservererror", "overloaded", "engine_overloaded"),  # vLLM and gateways
        *("408", "409", "429", "500", "502", "503", "504", "529"),  # OpenRouter, vLLM: a status as the code
    }
)
_LASTING = frozenset(
    {"insufficient_quota", "enforced_spend_limit_reached", "contract_spend_limit_reached", "billing_error"}
)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|milliseconds?|s|sec(?:onds?)?|m|min(?:utes?)?|h|hours?|d|days?)(?![a-z])\s*"
)
_ASKS = re.compile(r"(?:try again|retry)\s+(?:in|after)\s+")


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
    wait = _wait(error)
    transient = bool(words & _PASSING) and not words & _LASTING and (wait is None or wait <= MAX_WAIT)
    return Reading(
        terminal=True,
        error=error_text(error),
        transient=transient,
        retry_after=wait if transient else None,
    )


def _wait(error: dict[str, object]) -> float | None:
    """Seconds that the error asks to wait, in whichever way it says so."""
    for holder in (error, object_in(error, "metadata")):
        headers = {str(name).lower(): str(value) for name, value in object_in(holder, "headers").items()}
        seconds = retry_after(headers)
        if seconds is not None:
            return seconds
    stated = [error.get("retry_after")]
    details = error.get("details")
    if isinstance(details, list):  # Google's RetryInfo: "17s"
        stated += [str(each.get("retryDelay")).removesuffix("s") for each in details if isinstance(each, dict)]
    for value in stated:
        try:
            seconds = float(str(value))
        except ValueError:
            continue
        if isfinite(seconds):
            return max(seconds, 0.0)
    return _told(str(error.get("message")).lower())


def _told(message: str) -> float | None:
    """Seconds that a message speaks of: "try again in 6m0s", "retry after 20 seconds"."""
    asks = _ASKS.search(message)
    seconds, place = None, asks.end() if asks else 0
    while asks and (amount := _AMOUNT.match(message, place)):
        unit = amount[2] if amount[2] in _UNITS else "ms" if amount[2].startswith("mil") else amount[2][0]
        seconds, place = (seconds or 0.0) + float(amount[1]) * _UNITS[unit], amount.end()
    return seconds
