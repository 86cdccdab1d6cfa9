"""What the clock says of an answer."""

from __future__ import annotations

import pytest

from resumable_llm.core.model import Limits
from resumable_llm.core.times import MIN_RETRY_SECONDS, RESTED_SECONDS, Times


def test_a_deadline_counts_from_the_start() -> None:
    times = Times(Limits(deadline=10.0))
    times.start(5.0)
    assert times.has_deadline
    assert not times.is_late(14.9)
    assert times.is_late(15.0)


def test_without_a_deadline_nothing_is_late() -> None:
    times = Times(Limits())
    times.start(5.0)
    assert not times.has_deadline
    assert not times.is_late(1e12)


def test_the_first_event_may_take_another_time() -> None:
    times = Times(Limits(first_event_timeout=60.0, event_timeout=20.0))
    times.connect(100.0)
    assert times.missed(160.0, begun=False) is None
    assert times.missed(160.1, begun=False) == 60.0
    assert times.missed(120.0, begun=True) is None
    assert times.missed(120.1, begun=True) == 20.0
    times.heard_at = 110.0
    assert times.missed(130.0, begun=True) is None
    times.connect(200.0)
    assert times.missed(220.0, begun=True) is None


def test_without_a_limit_nothing_is_missed() -> None:
    times = Times(Limits())
    assert times.missed(1e12, begun=True) is None
    assert times.missed(1e12, begun=False) is None


@pytest.mark.parametrize(
    ("limits", "before", "begun"),
    [
        (Limits(), None, None),
        (Limits(event_timeout=20.0), None, 20.0),
        (Limits(first_event_timeout=60.0), None, None),
        (Limits(first_event_timeout=60.0, event_timeout=20.0), 60.0, 20.0),
        (Limits(first_event_timeout=5.0, event_timeout=20.0), 20.0, 20.0),
        (Limits(deadline=30.0), 29.0, 29.0),
        (Limits(first_event_timeout=60.0, event_timeout=20.0, deadline=30.0), 29.0, 20.0),
    ],
)
def test_the_longest_silence_of_a_connection(limits: Limits, before: float | None, begun: float | None) -> None:
    times = Times(limits)
    times.start(0.0)
    assert times.silence(1.0, begun=False) == before
    assert times.silence(1.0, begun=True) == begun


@pytest.mark.parametrize(
    ("lasted", "retry", "expected"),
    [
        (RESTED_SECONDS, None, True),
        (RESTED_SECONDS - 0.1, None, False),
        (0.0, MIN_RETRY_SECONDS, True),
        (0.0, MIN_RETRY_SECONDS / 2, False),
        (0.0, 0.0, False),
    ],
)
def test_a_server_that_rests_must_not_rest_in_a_hurry(lasted: float, retry: float | None, expected: bool) -> None:
    times = Times(Limits())
    times.connect(7.0)
    assert times.may_rest(7.0 + lasted, retry) is expected
