"""The relay's benchmarks can be run: the smallest of each, whose numbers mean nothing; what they lose fails them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest

from benchmarks.relay import groups, scenarios
from benchmarks.relay.__main__ import report
from benchmarks.relay.groups import GROUPS
from benchmarks.relay.load import Crowd, Incomplete, Reader, post
from benchmarks.relay.scenarios import Numbers
from benchmarks.relay.subjects import SUBJECTS, Start, upstream
from benchmarks.relay.upstream import DONE, event, order, ordered

linux = pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")

SMALL: dict[str, Callable[[Start, int], Numbers]] = {
    "tokens": partial(scenarios.tokens, count=3, rate=50, seconds=0.2),
    "fan-out": partial(scenarios.fan_out, count=3, events=5, rate=50),
    "storm": partial(scenarios.storm, count=5, events=20),
}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_scenario_is_measured(name: str) -> None:
    with upstream() as port:
        numbers = SMALL[name](SUBJECTS["relay, memory"], port)
    assert all(number > 0 for number in numbers.values())


@linux
@pytest.mark.slow
def test_direct_way_takes_no_cpu_and_no_event_is_lost() -> None:
    with upstream() as port:
        assert SMALL["tokens"](SUBJECTS["nothing"], port)["cpu"] == 0
        crowd = Crowd(port, [Reader(post(order(7, 1000)))])
        crowd.run()
        crowd.close()
    assert crowd.events == 7


@linux
def test_lost_events_and_refusals_fail() -> None:
    reader = Reader(b"")
    with pytest.raises(Incomplete):
        reader.take(b"HTTP/1.1 503 Busy\r\n\r\n", 1, measuring=False)


def test_events_are_read_however_they_are_cut() -> None:
    told = b"HTTP/1.1 200 OK\r\n\r\n" + event() + event() + DONE
    for size in (1, 7, 1000):
        reader = Reader(b"")
        for start in range(0, len(told), size):
            reader.take(told[start : start + size], 2**62, measuring=True)
        assert (reader.events, reader.done, len(reader.late)) == (2, True, 2)


def test_events_have_one_size_and_orders_are_understood() -> None:
    assert len(event()) == 218
    assert ordered(post(order(3, 50))) == (3, 50)


@pytest.mark.parametrize("name", GROUPS)
def test_every_group_names_whom_there_is(name: str) -> None:
    group = GROUPS[name]
    assert {*group.subjects, group.anchor} <= {*SUBJECTS}
    assert all(group.anchor_of(subject) in SUBJECTS for subject in group.subjects)


def test_ratios_are_of_one_round_and_without_what_nothing_takes() -> None:
    group = groups.GROUPS["100x50"]
    raw = [{"first": 3.0, "p50": 5.0, "p99": 9.0, "cpu": 10.0}, {"first": 5.0, "p50": 9.0, "p99": 9.0, "cpu": 40.0}]
    ours = [{"first": 2.0, "p50": 3.0, "p99": 5.0, "cpu": 10.0}, {"first": 2.0, "p50": 9.0, "p99": 5.0, "cpu": 20.0}]
    nothing = [{"first": 1.0, "p50": 1.0, "p99": 1.0, "cpu": 0.0}] * 2
    found = {"nothing": nothing, "raw ASGI, aiohttp": raw, "relay, memory": ours}
    lines = report(group, found)
    (row,) = (line for line in lines if line.startswith("| relay, memory |"))
    assert row == (
        "| relay, memory | 1 | **0.38** (0.25 to 0.50) | 5 | **0.75** (0.50 to 1.00) "
        "| 4 | **0.50** (0.50 to 0.50) | 15 | **0.75** (0.50 to 1.00) |"
    )
