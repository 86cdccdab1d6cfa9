"""Our transports against bare httpx and httpx2, read as bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from benchmarks import wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample, adrain_bytes, drain_bytes
from benchmarks.wire import Order

TITLE = "Transports against bare clients, iter_bytes"
NOTE = """\
What watching over a stream costs a reader of its bytes. A server that generates token by token sends one event a chunk.
A client that keeps up has one event in a read, and most of its time goes into reading; one that lags has many, and what
we add weighs most. A chunk of 64 KiB holds some 300 events and cuts the last in two."""

_FAMILIES = ("httpx", "httpx2") if sys.version_info >= (3, 11) else ("httpx",)
IMPORTS = (*_FAMILIES, *(f"resumable_llm.transports.{name}" for name in _FAMILIES))

_EVENTS = {wire.READS: 1_000, wire.CHUNKS: 8_000, wire.BULK: 60_000}
_BODY = {"model": "gpt-5.1-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def _order(bench: Bench, mode: str, kind: str) -> Order:
    return Order(mode, kind, bench.many(_EVENTS[mode]), len(wire.event(kind, 1)))


def _ours(family: str) -> Any:
    return import_module(f"resumable_llm.transports.{family}")


def _sync(family: str, mode: str, kind: str, *, ours: bool) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        http: Any = import_module(family)
        inner = http.HTTPTransport(verify=False)
        transport = _ours(family).ResumableTransport(inner) if ours else inner
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
        inner = http.AsyncHTTPTransport(verify=False)
        transport = _ours(family).AsyncResumableTransport(inner) if ours else inner
        order = _order(bench, mode, kind)
        async with (
            http.AsyncClient(transport=transport) as client,
            client.stream("POST", f"{bench.url(order)}/v1/chat/completions", json=_BODY) as response,
        ):
            return await adrain_bytes(response.aiter_bytes(), bench, order)

    return lambda bench: asyncio.run(measure(bench))


_MODES = ((wire.CHUNKS, "one event a chunk"), (wire.BULK, "64 KiB chunks"))
_STREAMS = (
    *((family, wire.CHAT, mode, how) for family in _FAMILIES for mode, how in _MODES),
    *(("httpx", wire.IDS, mode, f"{how}, events with ids") for mode, how in _MODES),
    ("httpx", wire.CHAT, wire.READS, "one event a read"),
)


def _cases() -> Iterator[Case]:
    for family, kind, mode, how in _STREAMS:
        for flavour, read in (("sync", _sync), ("async", _async)):
            bare = Variant(family, read(family, mode, kind, ours=False))
            ours = Variant("transport", read(family, mode, kind, ours=True))
            aim = 1.05 if mode != wire.BULK and kind == wire.CHAT else None
            yield Case(f"{family} {flavour}, {how}", (bare, ours), aim)


CASES = tuple(_cases())
