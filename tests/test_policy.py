"""When to try again: tenacity's strategies asked as pure functions, floors, herds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from tenacity import (
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_chain,
    wait_combine,
    wait_exponential,
    wait_fixed,
    wait_none,
)

from resumable_llm import policy
from resumable_llm.policy import HERD_SIZE, HERD_WINDOW, MAX_FLOOR, RetryPolicy, policy_or_default


@pytest.fixture(autouse=True)
def no_herd(monkeypatch: pytest.MonkeyPatch) -> policy._Herd:
    """A herd of its own for each test."""
    herd = policy._Herd()
    monkeypatch.setattr(policy, "_herd", herd)
    return herd


def asked(chosen: RetryPolicy, *failures: int, elapsed: float = 1.0, floor: float | None = None) -> list[float | None]:
    return [chosen.backoff(each, elapsed, floor) for each in failures]


@pytest.mark.parametrize("thing", [{}, {"deadline": 60}, 7, "patient", RetryPolicy, tenacity.Retrying()])
def test_what_is_no_policy(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"policy must be a RetryPolicy, such as rl\.RetryPolicy\(deadline=60\), not "):
        policy_or_default(thing)


def test_a_policy_is_itself_and_none_is_the_default() -> None:
    class Mine(RetryPolicy):
        pass

    for mine in (RetryPolicy(deadline=7), Mine()):
        assert policy_or_default(mine) is mine
    made = policy_or_default(None)
    assert (made.first_event_timeout, made.event_timeout, made.read_timeout, made.deadline) == (600, 300, None, None)


class TestStrategies:
    @pytest.mark.parametrize(
        ("wait", "expected"),
        [
            (wait_none(), [0.0, 0.0, 0.0, 0.0]),
            (wait_fixed(3), [3.0, 3.0, 3.0, 3.0]),
            (wait_exponential(multiplier=0.5, max=3), [0.5, 1.0, 2.0, 3.0]),
            (wait_chain(wait_fixed(1), wait_fixed(2), wait_fixed(5)), [1.0, 2.0, 5.0, 5.0]),
            (wait_combine(wait_fixed(1), wait_fixed(2)), [3.0, 3.0, 3.0, 3.0]),
            (wait_fixed(1) + wait_exponential(), [2.0, 3.0, 5.0, 9.0]),
            (lambda state: state.attempt_number * 2, [2.0, 4.0, 6.0, 8.0]),
        ],
    )
    def test_wait(self, wait: Any, expected: list[float]) -> None:
        assert asked(RetryPolicy(wait=wait), 1, 2, 3, 4) == expected

    @pytest.mark.parametrize(
        ("stop", "expected"),
        [
            (stop_never, [0.0, 0.0, 0.0]),
            (stop_after_attempt(2), [0.0, None, None]),
            (stop_after_attempt(3) | stop_after_delay(10), [0.0, 0.0, None]),
            (stop_after_attempt(2) & stop_after_delay(10), [0.0, 0.0, 0.0]),
            (stop_after_delay(1), [None, None, None]),
            (stop_after_delay(2), [0.0, 0.0, 0.0]),
            (lambda state: state.seconds_since_start >= 1, [None, None, None]),
        ],
    )
    def test_stop(self, stop: Any, expected: list[float | None]) -> None:
        assert asked(RetryPolicy(wait=wait_none(), stop=stop), 1, 2, 3) == expected

    def test_a_strategy_sees_the_attempt_and_the_time(self) -> None:
        seen: list[tuple[int, float | None, float]] = []

        def see(state: tenacity.RetryCallState) -> None:
            seen.append((state.attempt_number, state.seconds_since_start, state.upcoming_sleep))

        def wait(state: tenacity.RetryCallState) -> float:
            see(state)
            return state.attempt_number + 0.5

        def stop(state: tenacity.RetryCallState) -> bool:
            see(state)
            return state.attempt_number > 1

        assert asked(RetryPolicy(wait=wait, stop=stop), 1, 2, elapsed=7.0) == [1.5, None]
        assert seen == [(1, 7.0, 0.0), (1, 7.0, 1.5), (2, 7.0, 0.0), (2, 7.0, 2.5)]

    @pytest.mark.skipif(not hasattr(tenacity, "stop_before_delay"), reason="came with tenacity 8.3")
    def test_stop_before_delay_knows_the_wait(self) -> None:
        chosen = RetryPolicy(wait=wait_fixed(8), stop=tenacity.stop_before_delay(10))
        assert chosen.backoff(1, 1.0, None) == 8.0
        assert chosen.backoff(2, 3.0, None) is None

    def test_the_default_is_exponential_with_full_jitter_and_an_end(self) -> None:
        chosen = RetryPolicy()
        for failures, most in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 20.0)):
            waits = [chosen.backoff(failures, 0.0, None) for _ in range(200)]
            assert all(wait is not None and 0 <= wait <= most for wait in waits)
            assert len(set(waits)) > 150
        assert chosen.backoff(8, 0.0, None) is None


class TestFloors:
    @given(st.integers(0, 5), st.none() | st.floats(0, 1e9))
    def test_never_less_than_the_server_asked_for_within_bounds(self, failures: int, floor: float | None) -> None:
        seconds = RetryPolicy(wait=wait_fixed(1)).backoff(failures, 0.0, floor)
        assert seconds is not None
        assert seconds == max(1.0 if failures else seconds, min(floor or 0.0, MAX_FLOOR))
        assert min(floor or 0.0, MAX_FLOOR) <= seconds <= MAX_FLOOR

    def test_our_own_wait_may_be_longer(self) -> None:
        assert RetryPolicy(wait=wait_fixed(500)).backoff(1, 0.0, 300.0) == 500.0

    def test_a_floor_does_not_prolong_the_budget(self) -> None:
        assert RetryPolicy(stop=stop_after_attempt(1)).backoff(1, 0.0, 5.0) is None


class TestFirstReconnect:
    def test_is_immediate_and_asks_no_strategy(self) -> None:
        def never(state: tenacity.RetryCallState) -> float:
            raise AssertionError

        assert RetryPolicy(wait=never, stop=never).backoff(0, 0.0, None) == 0.0  # type: ignore[arg-type]

    def test_waits_for_the_servers_floor(self) -> None:
        assert RetryPolicy().backoff(0, 0.0, 3.0) == 3.0


class TestHerd:
    def test_a_few_streams_are_no_herd(self, no_herd: policy._Herd) -> None:
        assert [no_herd.jitter(1.0) for _ in range(HERD_SIZE)] == [0.0] * HERD_SIZE

    def test_many_at_once_come_back_spread_out(self, no_herd: policy._Herd) -> None:
        waits = [no_herd.jitter(1.0) for _ in range(1000)]
        assert not any(waits[:HERD_SIZE])
        later = waits[HERD_SIZE:]
        assert all(0.0 <= wait <= 2.0 for wait in later)
        assert max(later) > 1.5
        assert len(set(later)) > 900

    def test_many_over_time_are_no_herd(self, no_herd: policy._Herd) -> None:
        assert not any(no_herd.jitter(number * HERD_WINDOW * 2) for number in range(500))

    def test_a_herd_passes(self, no_herd: policy._Herd) -> None:
        for _ in range(500):
            no_herd.jitter(1.0)
        assert no_herd.jitter(1.0 + HERD_WINDOW * 2) == 0.0

    def test_threads_may_drop_together(self, no_herd: policy._Herd) -> None:
        threads = [threading.Thread(target=lambda: [no_herd.jitter(1.0) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(no_herd._drops) == 200

    def test_the_policy_asks_it(self, no_herd: policy._Herd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(no_herd, "jitter", lambda now: 1.25)
        assert asked(RetryPolicy(), 0, 0) == [1.25, 1.25]


TIMES = ["first_event_timeout", "event_timeout", "read_timeout", "deadline"]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0, -1, 0.0, float("nan")])
def test_times_are_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive number"):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0.001, 5, None, float("inf")])
def test_times_that_are_fine(name: str, value: float | None) -> None:
    assert getattr(RetryPolicy(**{name: value}), name) == value  # type: ignore[arg-type]


def test_who_sets_nothing_never_hangs_for_ever() -> None:
    chosen = RetryPolicy()
    assert chosen.first_event_timeout is not None
    assert chosen.event_timeout is not None
