"""A thousand concurrent streams in one asynchronous process, a few events a second each."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import shared, wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample
from benchmarks.wire import Order

TITLE = "A thousand concurrent streams"
NOTE = (
    "Asynchronous, 5 events a second each, over 5 seconds. Memory is what the process grew by, a stream, and ours "
    "grows with the answer, which is kept. Differences of CPU under 25 % mean nothing here."
)
IMPORTS = ("httpx", "resumable_llm.transports.httpx")

_STREAMS = 1_000
_STREAMS_PER_CLIENT = 50  # httpcore looks through the whole pool for each request, which is not what is measured here
_SECONDS = 5.0
_BODY = {"model": "gpt-5.1-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def _measure(*, ours: bool) -> Callable[[Bench], Sample]:
    async def measure(bench: Bench) -> Sample:
        import httpx

        from resumable_llm.transports.httpx import AsyncResumableTransport

        streams = max(int(_STREAMS * bench.scale), 50)
        # More events than anybody will read, so that no stream ends while they are measured.
        order = Order(wire.PACED, wire.CHAT, 600)

        def transport() -> httpx.AsyncBaseTransport:
            inner = httpx.AsyncHTTPTransport(verify=False)
            return AsyncResumableTransport(inner) if ours else inner

        seen = 0

        async def read(client: Any) -> None:
            nonlocal seen
            async with client.stream("POST", f"{bench.url(order)}/v1/chat/completions", json=_BODY) as response:
                async for _ in response.aiter_bytes():
                    seen += 1

        before = _resident()
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for number in range(streams):
                if number % _STREAMS_PER_CLIENT == 0:
                    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport(), timeout=60))
                tasks.append(asyncio.create_task(read(client)))
                await asyncio.sleep(0.001)
            bench.memory[shared.READ] = 1
            await asyncio.sleep(1)
            first, cpu = seen, time.process_time()
            await asyncio.sleep(_SECONDS)
            events, cpu = seen - first, time.process_time() - cpu
            grown = _resident() - before
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        details = {"KiB per stream": grown / streams / 1024, "events per second": events / _SECONDS}
        return Sample(cpu / events * 1e6, details)

    return lambda bench: asyncio.run(measure(bench))


def _resident() -> int:
    """Bytes of memory in use; where the system does not tell, the most that were ever in use."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


CASES = (Case("httpx async", (Variant("httpx", _measure(ours=False)), Variant("transport", _measure(ours=True)))),)
