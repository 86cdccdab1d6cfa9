"""When to try again: tenacity's strategies, asked as pure functions.

tenacity decides how long to wait and when to stop; it never runs anything here, and nothing here sleeps or knows what
is being retried.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import tenacity

MAX_FLOOR = 120.0
"""The longest wait, in seconds, that a server can ask for with ``retry:`` or ``Retry-After``."""

HERD_SIZE = 64
HERD_WINDOW = 0.1
"""More drops than this within so many seconds are a herd: no single stream drops as often as that."""

Strategy = Callable[[tenacity.RetryCallState], "float | int"]
Stop = Callable[[tenacity.RetryCallState], bool]


class _Herd:
    """Notices when many streams drop at once, so that they do not all come back at once."""

    def __init__(self) -> None:
        self._drops: deque[float] = deque(maxlen=2048)
        self._lock = threading.Lock()

    def jitter(self, now: float) -> float:
        """Seconds to wait before an attempt that would otherwise be immediate."""
        with self._lock:
            self._drops.append(now)
            while self._drops[0] < now - HERD_WINDOW:
                self._drops.popleft()
            together = len(self._drops)
        # A hundred streams at once come back over half a second, four hundred and more over two.
        return 0.0 if together <= HERD_SIZE else random.uniform(0.0, min(together / 200, 2.0))


_herd = _Herd()


@dataclass(frozen=True)
class RetryPolicy:
    """How patiently to hold on to an answer. All times are in seconds.

    The first attempt after a connection that had brought something new is made at once; `wait` and `stop` speak of
    the attempts after that, and start anew whenever an event arrives.

    Args:
        wait: Backoff: any tenacity wait strategy. Default: exponential from 0.5 with full jitter, at most 20.
        stop: When to give up: any tenacity stop strategy; its attempts are those in a row that brought nothing.
            Default: after 8.
        first_event_timeout: Longest time to wait for the first event. Comments and pings do not count.
        event_timeout: Longest time between two events. Comments and pings do not count.
        read_timeout: Longest silence on the connection; None: as the HTTP client has it. Where both are set, the
            shorter one.
        deadline: Longest time for the whole answer, over all attempts; None: none.

    Silence without a single byte is noticed at the shortest of the times that apply when a connection is opened; on
    the first connection that is the longer of ``first_event_timeout`` and ``event_timeout``, unless ``read_timeout``
    is shorter.

    Raises:
        ValueError: A time is not positive.
    """

    wait: Strategy = field(default_factory=lambda: tenacity.wait_random_exponential(multiplier=0.5, max=20))
    stop: Stop = field(default_factory=lambda: tenacity.stop_after_attempt(8))
    first_event_timeout: float | None = 600.0
    event_timeout: float | None = 300.0
    read_timeout: float | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        for name in ("first_event_timeout", "event_timeout", "read_timeout", "deadline"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be a positive number of seconds or None, not {value!r}")

    def backoff(self, failures: int, elapsed: float, floor: float | None) -> float | None:
        """How long to wait before the next attempt.

        Args:
            failures: Attempts in a row that brought nothing; 0 after one that did.
            elapsed: Seconds since the first of them.
            floor: Least wait that the server asked for, in seconds.

        Returns:
            Seconds, or None to give up.
        """
        if failures == 0:
            seconds = _herd.jitter(time.monotonic())
        else:
            state = tenacity.RetryCallState(retry_object=tenacity.Retrying(), fn=None, args=(), kwargs={})
            state.attempt_number = failures
            state.start_time, state.outcome_timestamp = 0.0, elapsed
            # As tenacity itself does it: a strategy that stops before a deadline must know the wait.
            state.upcoming_sleep = seconds = float(self.wait(state))
            if self.stop(state):
                return None
        return max(seconds, min(floor or 0.0, MAX_FLOOR))


def policy_or_default(policy: RetryPolicy | None) -> RetryPolicy:
    """What ``policy=`` means.

    Raises:
        TypeError: It is no `RetryPolicy`.
    """
    if policy is None:
        return RetryPolicy()
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"policy must be a RetryPolicy, such as rl.RetryPolicy(deadline=60), not {policy!r}")
    return policy
