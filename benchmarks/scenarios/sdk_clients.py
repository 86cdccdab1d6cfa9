"""The official OpenAI client wrapped against the same client bare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample, adrain, drain
from benchmarks.wire import Order

TITLE = "Wrapped OpenAI client against bare"
NOTE = "What `rl.wrap` costs a reader of the SDK, which itself spends most of the time on making its objects."
IMPORTS = ("openai", "openai.resources.chat", "openai.resources.responses", "resumable_llm")

_EVENTS = 800
_MODES = ((wire.CHUNKS, "one event a chunk"), (wire.BULK, "64 KiB chunks"))


def _client(name: str, bench: Bench, order: Order, *, wrapped: bool) -> Any:
    import openai

    import resumable_llm as rl

    client = getattr(openai, name)(api_key="none", base_url=f"{bench.url(order)}/v1", max_retries=0)
    return rl.wrap(client) if wrapped else client


def _create(client: Any, kind: str) -> Any:
    if kind == wire.CHAT:
        return client.chat.completions.create(
            model="gpt-5.1-mini", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
    return client.responses.create(model="gpt-5.1-mini", input="Hello", stream=True)


def _sync(mode: str, kind: str, *, wrapped: bool) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        order = Order(mode, kind, bench.many(_EVENTS))
        client = _client("OpenAI", bench, order, wrapped=wrapped)
        return drain(_create(client, kind), bench, order)

    return measure


def _async(mode: str, kind: str, *, wrapped: bool) -> Callable[[Bench], Sample]:
    async def measure(bench: Bench) -> Sample:
        order = Order(mode, kind, bench.many(_EVENTS))
        client = _client("AsyncOpenAI", bench, order, wrapped=wrapped)
        return await adrain(await _create(client, kind), bench, order)

    return lambda bench: asyncio.run(measure(bench))


def _cases() -> Iterator[Case]:
    for kind in (wire.CHAT, wire.RESPONSES):
        for mode, how in _MODES:
            for flavour, read in (("sync", _sync), ("async", _async)):
                bare = Variant("bare", read(mode, kind, wrapped=False))
                ours = Variant("wrapped", read(mode, kind, wrapped=True))
                yield Case(f"{kind} {flavour}, {how}", (bare, ours), aim=1.01)


CASES = tuple(_cases())
