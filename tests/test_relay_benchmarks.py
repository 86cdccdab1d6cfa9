"""The relay's benchmarks can be run: the smallest of each, whose numbers mean nothing; what they lose fails them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.relay import groups, scenarios, transports
from benchmarks.relay.__main__ import BY_HAND, RESULTS, page, report
from benchmarks.relay.groups import GROUPS
from benchmarks.relay.load import Crowd, Incomplete, Reader, post
from benchmarks.relay.scenarios import Numbers
from benchmarks.relay.subjects import SUBJECTS, Start, upstream
from benchmarks.relay.upstream import DONE, event, order, ordered
from benchmarks.relay.ways import WebSocketReader
from tests.log.redis_server import programs

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "sse-websocket-pubsub.md"
linux = pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")

SMALL: dict[str, Callable[[Start, int], Numbers]] = {
    "tokens": partial(scenarios.tokens, count=3, rate=50, seconds=1),
    "fan-out": partial(scenarios.fan_out, count=3, events=50, rate=50),
    "storm": partial(scenarios.storm, count=5, events=20),
}
WAYS = [
    *("relay: SSE, resumed", "relay: WebSocket, deflated", "relay on Redis: SSE"),
    *("Redis Streams, gateway: SSE", "Redis pub/sub, gateway: SSE", "Redis pub/sub, no gateway"),
]
redis = pytest.mark.skipif(not programs(), reason="no server is installed")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_scenario_is_measured(name: str) -> None:
    with upstream() as port:
        numbers = SMALL[name](SUBJECTS["relay, memory"], port)
    assert all(number > 0 for number in numbers.values())


@linux
@pytest.mark.slow
@pytest.mark.parametrize("subject", [pytest.param(way, marks=redis if "Redis" in way else ()) for way in WAYS])
def test_every_way_carries_tokens_and_only_pubsub_loses_some(subject: str) -> None:
    with upstream() as port:
        numbers = transports.carried(SUBJECTS[subject], port, count=3, rate=50, seconds=0.2, shared=3, back=3, cut=2)
    forgets = "pub/sub" in subject
    assert numbers.pop("lost of 100") > 0 if forgets else numbers.pop("lost of 100") == 0
    assert ("catch-up, ms" in numbers) is not forgets
    assert (numbers.pop("in Redis") > 0) is ("Redis" in subject)
    assert all(number > 0 for number in numbers.values())
    assert numbers["+ TCP/IP"] > numbers["bytes"]
    assert (numbers["bytes"] > 218) is ("deflated" not in subject)


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


def test_messages_are_read_however_they_are_cut() -> None:
    short = b"t=0000000000000001"
    sizes = {short: bytes([18]), event(): b"\x7e\x00\xda", short + b"x" * 69_982: b"\x7f" + (70_000).to_bytes(8, "big")}
    told = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    told += b"".join(b"\x81" + size + text for text, size in sizes.items())
    told += b"\x89\x00" + b"\x81\x06[DONE]" + b"\x88\x02\x03\xe8"
    for size in (1, 7, 1000, 100_000):
        reader = WebSocketReader(b"")
        for start in range(0, len(told), size):
            reader.take(told[start : start + size], 2**62, measuring=True)
        assert (reader.events, reader.done, reader.tail) == (3, True, b"")


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
        "| 5 | **0.56** (0.56 to 0.56) | 15 | **0.75** (0.50 to 1.00) |"
    )


def test_what_a_way_cannot_do_is_no_number_of_its_row() -> None:
    group = groups.GROUPS["transports"]
    all_of_it = {"p50": 1.0, "p99": 2.0, "catch-up, ms": 300.0, "lost of 100": 0.0}
    less = {"p50": 1.5, "p99": 4.0, "lost of 100": 25.0}
    lines = report(group, {"Redis pub/sub, no gateway": [less], "relay: SSE": [all_of_it]})
    assert lines[5:] == [
        "| | p50 | ratio | p99 | catch-up, ms | ratio | lost of 100 |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| Redis pub/sub, no gateway | 1.5 | **1.50** (1.50 to 1.50) | 4 | - |  | 25 |",
        "| relay: SSE | 1 | 1 | 2 | 300 | 1 | 0 |",
    ]


def test_what_is_written_by_hand_stays() -> None:
    by_hand = BY_HAND.findall(RESULTS.read_text(encoding="utf-8"))
    assert [each.splitlines()[1] for each in by_hand] == [
        "## In short",
        "## Instructions of the process for an event",
    ]
    text = "\n".join(page(["- today"], ["", "## A table"], by_hand)) + "\n"
    assert BY_HAND.findall(text) == by_hand
    assert text.index("## In short") < text.index("- today") < text.index("## A table") < text.index("## Instructions")


def test_figures_of_the_page_are_those_measured() -> None:
    title = f"## {GROUPS['transports'].title}\n"
    told = rows(RESULTS.read_text(encoding="utf-8").partition(title)[2].partition("\n## ")[0])
    page = rows(PAGE.read_text(encoding="utf-8").partition("<!-- figures")[2].partition("<!-- end of the figures")[0])
    columns = [
        0,
        *map(told[0].index, ("p50", "cpu", "bytes", "+ TCP/IP", "cpu, shared", "catch-up, ms", "lost of 100")),
    ]
    expected = [[row[column] for column in columns] for row in told[2:]]
    assert page[2:] == expected, "put in:\n" + "\n".join(f"| {' | '.join(row)} |" for row in expected)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
