"""From a cut to the next event: ours against the bare client that reconnects at once by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from typing import Any

from benchmarks import shared, wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample
from benchmarks.wire import Order

TITLE = "From a drop to the next event"
NOTE = (
    "Wall time on loopback from the server's cut to the first event behind it: medians, and the 95th percentile beside "
    "them. By hand is the least that a caller could write: catch the error, open the stream again behind the last one."
)
IMPORTS = ("httpx", "httpx_sse", "openai", "openai.resources.responses", "resumable_llm")

_CUTS = 100


class _Clock:
    """Counts events for the server, and notes how long each first event behind a cut has taken."""

    def __init__(self, bench: Bench) -> None:
        self._memory = bench.memory
        self._waits: list[float] = []
        self.seen = 0

    def tick(self) -> None:
        """An event has come."""
        now = time.monotonic_ns()
        if self.seen and self.seen % wire.EVENTS_PER_CUT == 0:
            self._waits.append((now - self._memory[shared.CUT]) / 1e6)
        self.seen += 1
        self._memory[shared.READ] = self.seen

    def sample(self) -> Sample:
        """Milliseconds; the first tenth of the cuts is left out."""
        waits = self._waits[len(self._waits) // 10 :]
        return Sample(median(waits), {"p95 ms": quantiles(waits, n=20)[-1], "cuts": len(self._waits)})


def _order(bench: Bench, kind: str) -> Order:
    return Order(wire.CUT, kind, int(_CUTS * max(bench.scale, 0.3)) * wire.EVENTS_PER_CUT)


def _by_hand(bench: Bench) -> Sample:
    import httpx
    import httpx_sse

    order, clock, last = _order(bench, wire.IDS), _Clock(bench), ""
    with httpx.Client(verify=False) as client:
        while clock.seen < order.events:
            try:
                headers = {"Last-Event-ID": last}
                with httpx_sse.connect_sse(client, "GET", f"{bench.url(order)}/events", headers=headers) as source:
                    for event in source.iter_sse():
                        if clock.seen == order.events:
                            break  # the terminal event
                        last = event.id
                        clock.tick()
            except httpx.TransportError:
                pass
    return clock.sample()


def _ours(bench: Bench) -> Sample:
    import httpx

    import resumable_llm as rl

    order, clock = _order(bench, wire.IDS), _Clock(bench)
    with httpx.Client(verify=False) as client, rl.connect_sse(client, "GET", f"{bench.url(order)}/events") as stream:
        for _ in stream:
            if clock.seen == order.events:
                break
            clock.tick()
    return clock.sample()


async def _by_hand_async(bench: Bench) -> Sample:
    import httpx
    import httpx_sse

    order, clock, last = _order(bench, wire.IDS), _Clock(bench), ""
    async with httpx.AsyncClient(verify=False) as client:
        while clock.seen < order.events:
            try:
                headers = {"Last-Event-ID": last}
                async with httpx_sse.aconnect_sse(
                    client, "GET", f"{bench.url(order)}/events", headers=headers
                ) as source:
                    async for event in source.aiter_sse():
                        if clock.seen == order.events:
                            break  # the terminal event
                        last = event.id
                        clock.tick()
            except httpx.TransportError:
                pass
    return clock.sample()


async def _ours_async(bench: Bench) -> Sample:
    import httpx

    import resumable_llm as rl

    order, clock = _order(bench, wire.IDS), _Clock(bench)
    async with (
        httpx.AsyncClient(verify=False) as client,
        rl.aconnect_sse(client, "GET", f"{bench.url(order)}/events") as stream,
    ):
        async for _ in stream:
            if clock.seen == order.events:
                break
            clock.tick()
    return clock.sample()


def _openai(name: str, bench: Bench, order: Order) -> Any:
    import openai

    return getattr(openai, name)(api_key="none", base_url=f"{bench.url(order)}/v1", max_retries=0)


_ASKED = {"model": "gpt-5.1-mini", "input": "Hello", "stream": True, "background": True}


def _sdk_by_hand(bench: Bench) -> Sample:
    order, clock = _order(bench, wire.RESPONSES), _Clock(bench)
    client = _openai("OpenAI", bench, order)
    stream: Any = client.responses.create(**_ASKED)
    last, name = 0, ""
    while clock.seen < order.events:
        try:
            with stream:
                for event in stream:
                    if clock.seen == order.events:
                        break  # the terminal event
                    name = name or event.response.id
                    last = event.sequence_number
                    clock.tick()
        except _broken():
            stream = client.responses.retrieve(name, stream=True, starting_after=last)
    return clock.sample()


def _sdk_wrapped(bench: Bench) -> Sample:
    import resumable_llm as rl

    order, clock = _order(bench, wire.RESPONSES), _Clock(bench)
    client = rl.wrap(_openai("OpenAI", bench, order))
    with client.responses.create(**_ASKED) as stream:
        for _ in stream:
            if clock.seen == order.events:
                break
            clock.tick()
    return clock.sample()


async def _sdk_by_hand_async(bench: Bench) -> Sample:
    order, clock = _order(bench, wire.RESPONSES), _Clock(bench)
    client = _openai("AsyncOpenAI", bench, order)
    stream: Any = await client.responses.create(**_ASKED)
    last, name = 0, ""
    while clock.seen < order.events:
        try:
            async with stream:
                async for event in stream:
                    if clock.seen == order.events:
                        break  # the terminal event
                    name = name or event.response.id
                    last = event.sequence_number
                    clock.tick()
        except _broken():
            stream = await client.responses.retrieve(name, stream=True, starting_after=last)
    return clock.sample()


async def _sdk_wrapped_async(bench: Bench) -> Sample:
    import resumable_llm as rl

    order, clock = _order(bench, wire.RESPONSES), _Clock(bench)
    client = rl.wrap(_openai("AsyncOpenAI", bench, order))
    async with await client.responses.create(**_ASKED) as stream:
        async for _ in stream:
            if clock.seen == order.events:
                break
            clock.tick()
    return clock.sample()


def _broken() -> tuple[type[Exception], ...]:
    """What a broken stream raises: the HTTP family's error or the SDK's own, by version."""
    import httpx
    import openai

    try:
        import httpx2
    except ImportError:
        return httpx.TransportError, openai.APIConnectionError
    return httpx.TransportError, httpx2.TransportError, openai.APIConnectionError


def _cases() -> Iterator[Case]:
    pairs: list[tuple[str, Callable[[Bench], Any], str, Callable[[Bench], Any]]] = [
        ("httpx-sse by hand", _by_hand, "connect_sse", _ours),
        ("openai by hand", _sdk_by_hand, "openai wrapped", _sdk_wrapped),
    ]
    for theirs, by_hand, ours, resumed in pairs:
        yield Case(f"{ours}, sync", (Variant(theirs, by_hand), Variant(ours, resumed)), aim=1.5, unit="ms")
    async_pairs = [
        ("httpx-sse by hand", _by_hand_async, "aconnect_sse", _ours_async),
        ("openai by hand", _sdk_by_hand_async, "openai wrapped", _sdk_wrapped_async),
    ]
    for theirs, by_hand, ours, resumed in async_pairs:
        variants = (Variant(theirs, _run(by_hand)), Variant(ours, _run(resumed)))
        yield Case(f"{ours}, async", variants, aim=1.5, unit="ms")


def _run(measure: Callable[[Bench], Any]) -> Callable[[Bench], Sample]:
    def run(bench: Bench) -> Sample:
        sample: Sample = asyncio.run(measure(bench))
        return sample

    return run


CASES = tuple(_cases())
