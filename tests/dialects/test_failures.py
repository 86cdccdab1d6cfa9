"""In-stream failures: which of them pass, and how long they ask to wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.model import Reading
from resumable_llm.dialects.failures import MAX_WAIT, failure


class TestWhichPass:
    @pytest.mark.parametrize(
        "error",
        [
            {"code": "server_error", "message": "x"},
            {"type": "server_error", "code": None, "message": "x"},
            {"type": "error", "code": "rate_limit_exceeded", "message": "x", "sequence_number": 3},
            {"type": "service_unavailable_error", "code": "server_is_overloaded"},
            {"code": "slow_down"},
            {"type": "overloaded_error", "message": "Overloaded"},
            {"type": "rate_limit_error", "details": {"error_code": "ramp_limit_exceeded"}},
            {"type": "rate_limit_error", "details": None},
            {"code": 503, "message": "x", "status": "UNAVAILABLE"},
            {"code": 8, "status": "RESOURCE_EXHAUSTED"},
            {"code": 502, "message": "Provider returned error", "metadata": {"provider_name": "P"}},
            {"code": "429"},
            {"type": "InternalServerError", "code": 500},
        ],
    )
    def test_what_passes(self, error: dict[str, Any]) -> None:
        reading = failure(error)
        assert reading.terminal
        assert reading.transient
        assert reading.error

    @pytest.mark.parametrize(
        "error",
        [
            {"type": "insufficient_quota", "code": "insufficient_quota"},
            {"type": "insufficient_quota", "code": 429, "message": "try again in 1s"},
            {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}},
            {"type": "rate_limit_error", "details": {"error_code": "contract_spend_limit_reached"}},
            {"type": "billing_error", "code": 429},
            {"code": "invalid_prompt"},
            {"code": 400},
            {"code": 402, "message": "Insufficient credits"},
            {"type": "invalid_request_error", "message": "server_error"},
            {"code": ["429"], "type": {"a": 1}},
            {},
        ],
    )
    def test_what_stays(self, error: dict[str, Any]) -> None:
        reading = failure(error)
        assert reading.terminal
        assert not reading.transient
        assert reading.retry_after is None

    @pytest.mark.parametrize("error", ["overloaded", None, True, 503, ["server_error"]])
    def test_something_else_in_its_place(self, error: object) -> None:
        assert failure(error) == Reading(terminal=True, error="unnamed error")

    def test_its_message_is_not_told(self) -> None:
        """It may quote the prompt."""
        assert failure({"code": "server_error", "message": "secret"}).error == "server_error"


class TestHowLong:
    @pytest.mark.parametrize(
        ("more", "seconds"),
        [
            ({}, None),
            ({"retry_after": 3}, 3.0),
            ({"retry_after": "2.5"}, 2.5),
            ({"retry_after": -1}, 0.0),
            ({"retry_after": "soon"}, None),
            ({"retry_after": True}, None),
            ({"retry_after": "inf"}, None),
            ({"retry_after": "nan"}, None),
            ({"headers": {"retry-after-ms": "750"}}, 0.75),
            ({"headers": {"Retry-After": 4}}, 4.0),
            ({"metadata": {"headers": {"Retry-After": "5"}}}, 5.0),
            ({"metadata": {"headers": {"X-RateLimit-Reset": "1795000000000"}}}, None),
            ({"metadata": {"headers": "x"}}, None),
            (
                {
                    "metadata": {
                        "headers": {
                            "Date": "Sun, 22 Nov 2026 12:00:00 GMT",
                            "Retry-After": "Sun, 22 Nov 2026 12:00:09 GMT",
                        }
                    }
                },
                9.0,
            ),
            ({"details": [{"@type": "…/RetryInfo", "retryDelay": "17s"}]}, 17.0),
            ({"details": [7, {"retryDelay": "0.5s"}]}, 0.5),
            ({"details": [{"@type": "…/Help"}, {"retryDelay": "17s"}]}, 17.0),
            ({"details": [{"retryDelay": {}}]}, None),
            ({"message": "Rate limit reached for m on tokens per min. Please try again in 20ms."}, 0.02),
            ({"message": "Please try again in 1.5s. Visit https://…"}, 1.5),
            ({"message": "Please try again in 1m0s."}, 60.0),
            ({"message": "Please try again in 1m26.4s."}, 86.4),
            ({"message": "Please retry after 20 seconds."}, 20.0),
            ({"message": "Please retry in 26.9s."}, 26.9),
            ({"message": "Try again in 86 seconds"}, 86.0),
            ({"message": "try again in 1 minute 3 sec"}, 63.0),
            ({"message": "try again in 250 milliseconds"}, 0.25),
            ({"message": "try again in 5 models"}, None),
            ({"message": "try again in a moment, 5s"}, None),
            ({"message": "try again later"}, None),
            ({"message": None}, None),
            ({"message": "try again in 9s", "retry_after": 3}, 3.0),
        ],
    )
    def test_in_each_spelling(self, more: dict[str, Any], seconds: float | None) -> None:
        reading = failure({"code": 429, **more})
        assert reading.transient
        assert reading.retry_after == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "more",
        [
            {"retry_after": MAX_WAIT + 1},
            {"headers": {"retry-after": "3600"}},
            {"message": "Please try again in 7h12m0s."},
            {"message": "Please try again in 2 days"},
            {"details": [{"retryDelay": "40000s"}]},
        ],
    )
    def test_what_asks_for_too_long_does_not_pass(self, more: dict[str, Any]) -> None:
        reading = failure({"code": "rate_limit_exceeded", **more})
        assert not reading.transient
        assert reading.retry_after is None

    def test_the_longest_that_passes(self) -> None:
        assert failure({"code": 429, "retry_after": MAX_WAIT}).retry_after == MAX_WAIT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("rate_limit_exceeded"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["code", "type", "status", "message", "details", "metadata", "headers", "retry_after"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(NAMES, JSON | st.dictionaries(st.just("headers"), JSON), max_size=6) | JSON)
def test_whatever_a_server_says_is_read(error: object) -> None:
    reading = failure(error)
    assert reading.terminal
    assert reading.error
    assert reading.retry_after is None or 0 <= reading.retry_after <= MAX_WAIT


def test_a_long_message_is_read_in_no_time() -> None:
    assert not failure({"code": 400, "message": "try again in " + "1" * 100_000}).transient
    assert not failure({"code": 400, "message": "try again in " * 20_000 + "1s " * 20_000}).transient
