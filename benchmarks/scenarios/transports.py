"""Our transports against bare httpx and httpx2, read as bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks import wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample, adrain_bytes, drain_bytes
from benchmarks.wire import Order

TITLE = "Transports against bare clients, iter_bytes"
NOTE = "What watching over a stream costs somebody who reads its bytes. One event a segment is what a server that generates token by token sends."

_FAMILIES = ("httpx", "httpx2") if sys.version_info >= (3, 11) else ("httpx",)
IMPORTS = (*_FAMILIES, *(f"resumable_llm.transports.{name}" for name in _FAMILIES))

_EVENTS = {wire.EACH: 12_000, wire.BULK: 250_000}
_BODY = {"model": "gpt-5.1-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def _order(bench: Bench, mode: str, kind: str) -> Order:
    return Order(mode, kind, bench.many(_EVENTS[mode]), len(wire.event(kind, 1)))


def _sync(family: str, mode: str, kind: str, *, ours: bool) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        http: Any = import_module(family)
        transport = import_module(f"resumable_llm.transports.{family}").ResumableTransport() if ours else None
        order = _order(bench, mode, kind)
        with (
            http.Client(transport=transport) as client,
            client.stream("POST", f"{bench.url(order)}/v1/chat/completions", json=_BODY) as response,
        ):
            return drain_bytes(response.iter_bytes(), bench, order)

    return measure


def _async(family: str, mode: str, kind: str, *, ours: bool) -> Callable[[Bench], Sample]:
    async def measure(bench: Bench) -> Sample:
        http: Any = import_module(family)
        transport = import_module(f"resumable_llm.transports.{family}").AsyncResumableTransport() if ours else None
        order = _order(bench, mode, kind)
        async with (
            http.AsyncClient(transport=transport) as client,
            client.stream("POST", f"{bench.url(order)}/v1/chat/completions", json=_BODY) as response,
        ):
            return await adrain_bytes(response.aiter_bytes(), bench, order)

    return lambda bench: asyncio.run(measure(bench))


def _cases() -> list[Case]:
    made = []
    for family, kind in [(family, wire.CHAT) for family in _FAMILIES] + [("httpx", wire.IDS)]:
        for mode, segments in ((wire.EACH, "one event a segment"), (wire.BULK, "64 KiB")):
            for flavour, read in (("sync", _sync), ("async", _async)):
                bare = Variant(family, read(family, mode, kind, ours=False))
                ours = Variant("transport", read(family, mode, kind, ours=True))
                numbered = ", events with ids" if kind == wire.IDS else ""
                aim = 1.05 if mode == wire.EACH and kind == wire.CHAT else None
                made.append(Case(f"{family} {flavour}, {segments}{numbered}", (bare, ours), aim))
    return made


CASES = tuple(_cases())
