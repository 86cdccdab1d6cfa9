"""Which scenario measures whom, and how its table is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.relay import scenarios, transports
from benchmarks.relay.scenarios import Numbers
from benchmarks.relay.subjects import Start

_RAW = "raw ASGI, aiohttp"
_LOOPS = ("the same on asyncio", "relay, memory, on asyncio", "relay, SQLite, on asyncio")
_TIMES = ("first", "p50")


@dataclass(frozen=True)
class Group:
    """Something to measure.

    Attributes:
        title: Of its table.
        note: What its numbers are.
        subjects: Who is measured.
        measure: Measures one, given its start and the upstream's port.
        anchors: Whom each is held against; those who are not named, against the first that stands here alone.
        nothing: Whose times are taken from those of all others: what the client and the upstream take by themselves.
        times: The names of those times.
        plain: The names of those numbers that are told without a ratio.
        rounds: How often each is measured, so that all groups together take less than half an hour.
    """

    title: str
    note: str
    subjects: tuple[str, ...]
    measure: Callable[[Start, int], Numbers]
    anchor: str
    anchors: tuple[tuple[str, str], ...] = ()
    nothing: str | None = None
    times: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    rounds: int = 3

    def anchor_of(self, subject: str) -> str:
        """Whom this one is held against."""
        return dict(self.anchors).get(subject, self.anchor)


_PLAIN = (
    ("the same on asyncio", "the same on asyncio"),
    ("relay, memory, on asyncio", "the same on asyncio"),
    ("relay, SQLite, on asyncio", "the same on asyncio"),
    ("relay, memory, on asyncio, h11", "the same on asyncio, h11"),
    ("the same on asyncio, h11", "the same on asyncio, h11"),
)
_NOTE = (
    "First and p50: microseconds that are added to what the same takes without anything between, until the first "
    "token, from the request on a connection that is open, 100 requests a second; and for each token. p99 is the "
    "whole, for the last hundredth takes as long without anything between as what is added. CPU is the process's, an "
    "event. All but the first are medians of the seconds."
)
_ALL = ("nothing", "nginx", _RAW, "relay, memory", "relay, SQLite", *_LOOPS)


def _tokens(title: str, count: int, rate: int, subjects: tuple[str, ...], rounds: int = 3) -> Group:
    measure = partial(scenarios.tokens, count=count, rate=rate)
    return Group(title, _NOTE, subjects, measure, _RAW, _PLAIN, "nothing", _TIMES, rounds=rounds)


GROUPS: dict[str, Group] = {
    "100x50": _tokens("100 streams of 50 events a second", 100, 50, (*_ALL, "Starlette, httpx")),
    "500x10": _tokens("500 streams of 10 events a second", 500, 10, (*_ALL, "Starlette, httpx")),
    "h11": _tokens(
        "Without httptools and uvloop: 100 streams of 50 events a second",
        100,
        50,
        ("nothing", "the same on asyncio, h11", "relay, memory, on asyncio, h11"),
        rounds=2,
    ),
    "10x50": _tokens(
        "A tenth of that: 10 streams of 50 events a second",
        10,
        50,
        ("nothing", _RAW, "relay, memory", "relay, SQLite", "LiteLLM"),
        rounds=2,
    ),
    "50x10": _tokens(
        "A tenth of that: 50 streams of 10 events a second",
        50,
        10,
        ("nothing", _RAW, "relay, memory", "relay, SQLite", "LiteLLM"),
        rounds=2,
    ),
    "memory": Group(
        "Memory of a stream and its reader",
        "What 500 streams that say an event a second add to the process.",
        ("nginx", _RAW, "relay, memory", "relay, SQLite", "Starlette, httpx"),
        scenarios.memory,
        _RAW,
        rounds=2,
    ),
    "readers": Group(
        "Memory of a reader",
        "What 500 readers of one stream add to the process.",
        ("sse-starlette", "relay, memory", "relay, SQLite"),
        scenarios.readers,
        "sse-starlette",
        rounds=2,
    ),
    "fan-out": Group(
        "100 readers of a stream of 50 events a second",
        "CPU is the process's, a delivery.",
        ("sse-starlette", "relay, memory", "relay, SQLite"),
        partial(scenarios.fan_out, events=250, rate=50),
        "sse-starlette",
        rounds=2,
    ),
    "flood": Group(
        "100 readers of a stream that comes as fast as it goes",
        "2,000 events. CPU is the process's, a delivery.",
        ("sse-starlette", "relay, memory", "relay, SQLite"),
        partial(scenarios.fan_out, events=2000, rate=0),
        "sse-starlette",
        rounds=2,
    ),
    "storm": Group(
        "1,000 readers come back at once, for 200 events each",
        "From the first one's request until the last one has all. nginx has the same bytes in a file. CPU is the "
        "process's, a reader.",
        ("nginx", "relay, memory", "relay, SQLite", "sse-starlette"),
        scenarios.storm,
        "nginx",
    ),
    "transports": Group(
        "The ways in which tokens travel",
        "p50, p99 and cpu: 50 streams of 20 events a second; microseconds that are added for each token, and the CPU "
        "of all processes that serve, for each. Bytes: what TCP carries to the reader for an event, the same with "
        "headers, and what Redis takes in and gives out besides. Shared: 100 readers of one stream, a delivery. "
        "Catch-up: 500 readers come back at once to a complete answer of 200 events; replayed, an event. Lost: of 100 "
        "events, 50 a second, by a reader who is cut off in the middle and is back half a second later. *Resumed*, "
        "and WebSocket: on a second connection, behind the first events. *Deflated*: by uvicorn's default. Redis: a "
        "worker asks the provider and tells Redis each event, and a gateway has a connection to Redis for each "
        "reader: as one writes them first, with redis-py's asyncio on uvloop.",
        (
            *("nothing", "relay: SSE", "relay: SSE, resumed", "relay: WebSocket", "relay: WebSocket, deflated"),
            *("relay on Redis: SSE", "Redis Streams, gateway: SSE", "Redis pub/sub, gateway: SSE"),
            "Redis pub/sub, no gateway",
        ),
        transports.carried,
        "relay: SSE",
        nothing="nothing",
        times=("p50", "p99"),
        plain=("p99", "bytes", "+ TCP/IP", "in Redis", "cpu, replayed", "lost of 100"),
    ),
}
