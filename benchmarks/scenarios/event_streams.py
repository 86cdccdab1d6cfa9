"""connect_sse and aconnect_sse against httpx-sse, httpx2's own `sse()` and launchdarkly-eventsource."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from benchmarks import wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample, adrain, drain
from benchmarks.wire import Order

TITLE = "connect_sse against other readers of event streams"
NOTE = (
    "Events parsed and read one by one. launchdarkly-eventsource stands on urllib3 and aiohttp, which read faster; the "
    "others stand on httpx or httpx2, as named."
)

_HAS_HTTPX2 = sys.version_info >= (3, 11)
IMPORTS = ("httpx", "httpx_sse", "resumable_llm", "ld_eventsource", "aiohttp", *(("httpx2",) if _HAS_HTTPX2 else ()))

_EVENTS = {wire.CHUNKS: 6_000, wire.BULK: 20_000}
_BODY = {"model": "gpt-5.1-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}

Measure = Callable[[Bench], Sample]


def _place(bench: Bench, mode: str, kind: str) -> tuple[str, Order]:
    order = Order(mode, kind, bench.many(_EVENTS[mode]))
    return f"{bench.url(order)}/v1/chat/completions", order


def _httpx_sse(mode: str, kind: str) -> Measure:
    def measure(bench: Bench) -> Sample:
        import httpx
        import httpx_sse

        url, order = _place(bench, mode, kind)
        with httpx.Client(verify=False) as client, httpx_sse.connect_sse(client, "POST", url, json=_BODY) as source:
            return drain(source.iter_sse(), bench, order)

    return measure


def _httpx_sse_async(mode: str, kind: str) -> Measure:
    async def measure(bench: Bench) -> Sample:
        import httpx
        import httpx_sse

        url, order = _place(bench, mode, kind)
        async with (
            httpx.AsyncClient(verify=False) as client,
            httpx_sse.aconnect_sse(client, "POST", url, json=_BODY) as source,
        ):
            return await adrain(source.aiter_sse(), bench, order)

    return lambda bench: asyncio.run(measure(bench))


def _httpx2_sse(mode: str, kind: str) -> Measure:
    def measure(bench: Bench) -> Sample:
        http: Any = import_module("httpx2")
        url, order = _place(bench, mode, kind)
        with http.Client(verify=False) as client, client.sse(url, method="POST", json=_BODY) as source:
            return drain(source, bench, order)

    return measure


def _httpx2_sse_async(mode: str, kind: str) -> Measure:
    async def measure(bench: Bench) -> Sample:
        http: Any = import_module("httpx2")
        url, order = _place(bench, mode, kind)
        async with http.AsyncClient(verify=False) as client, client.sse(url, method="POST", json=_BODY) as source:
            return await adrain(source, bench, order)

    return lambda bench: asyncio.run(measure(bench))


def _launchdarkly(mode: str, kind: str) -> Measure:
    def measure(bench: Bench) -> Sample:
        launchdarkly: Any = import_module("ld_eventsource")  # ships no types
        url, order = _place(bench, mode, kind)
        return drain(launchdarkly.SSEClient(url).events, bench, order)

    return measure


def _launchdarkly_async(mode: str, kind: str) -> Measure:
    async def measure(bench: Bench) -> Sample:
        launchdarkly: Any = import_module("ld_eventsource.async_client")
        url, order = _place(bench, mode, kind)
        async with launchdarkly.AsyncSSEClient(url) as client:
            return await adrain(client.events, bench, order)

    return lambda bench: asyncio.run(measure(bench))


def _ours(family: str, mode: str, kind: str) -> Measure:
    def measure(bench: Bench) -> Sample:
        import resumable_llm as rl

        http: Any = import_module(family)
        url, order = _place(bench, mode, kind)
        with http.Client(verify=False) as client, rl.connect_sse(client, "POST", url, json=_BODY) as stream:
            return drain(stream, bench, order)

    return measure


def _ours_async(family: str, mode: str, kind: str) -> Measure:
    async def measure(bench: Bench) -> Sample:
        import resumable_llm as rl

        http: Any = import_module(family)
        url, order = _place(bench, mode, kind)
        async with http.AsyncClient(verify=False) as client, rl.aconnect_sse(client, "POST", url, json=_BODY) as stream:
            return await adrain(stream, bench, order)

    return lambda bench: asyncio.run(measure(bench))


def _cases() -> Iterator[Case]:
    modes = ((wire.CHUNKS, "one event a chunk"), (wire.BULK, "64 KiB chunks"))
    for kind, numbered in ((wire.CHAT, ""), (wire.IDS, ", events with ids")):
        for mode, how in modes:
            peers = [Variant("httpx-sse", _httpx_sse(mode, kind)), Variant("launchdarkly", _launchdarkly(mode, kind))]
            yield Case(f"httpx sync, {how}{numbered}", (*peers, Variant("connect_sse", _ours("httpx", mode, kind))))
            peers = [
                Variant("httpx-sse", _httpx_sse_async(mode, kind)),
                Variant("launchdarkly", _launchdarkly_async(mode, kind)),
            ]
            yield Case(
                f"httpx async, {how}{numbered}", (*peers, Variant("aconnect_sse", _ours_async("httpx", mode, kind)))
            )
    for mode, how in modes if _HAS_HTTPX2 else ():
        peer = Variant("httpx2 sse()", _httpx2_sse(mode, wire.CHAT))
        yield Case(f"httpx2 sync, {how}", (peer, Variant("connect_sse", _ours("httpx2", mode, wire.CHAT))))
        peer = Variant("httpx2 sse()", _httpx2_sse_async(mode, wire.CHAT))
        yield Case(f"httpx2 async, {how}", (peer, Variant("aconnect_sse", _ours_async("httpx2", mode, wire.CHAT))))


CASES = tuple(_cases())
