"""What a client process measures of itself: CPU per event while it reads a stream.

Knows no client and no server. Connecting, the first events and the end are left out of the count.
"""

from __future__ import annotations

import resource
import time
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import shared
from benchmarks.wire import Order

_WARM_UP = 0.15
"""The share of a stream that is read before the measurement begins."""


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Attributes:
        value: What is compared, in the unit of its case.
        details: What else was counted, by name.
    """

    value: float
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What a measurement is given.

    Attributes:
        port: The server's, on loopback.
        memory: The numbers that the server sees too.
        scale: 1 for a full run, less for a quick one: how much of the usual number of events to read.
    """

    port: int
    memory: memoryview
    scale: float

    @classmethod
    def connect(cls, port: int, memory: Path, scale: float) -> Bench:
        """Attach to a server's memory. Before the first request, for the server waits for what is counted there."""
        bench = cls(port, shared.attach(memory), scale)
        bench.memory[shared.READ] = 0
        return bench

    def many(self, events: int) -> int:
        """So many events, scaled."""
        return max(int(events * self.scale), 100)

    def url(self, order: Order) -> str:
        """The base URL that asks the server for this."""
        return f"http://127.0.0.1:{self.port}{order.path}"


class _Meter:
    """Takes the times of a stream whose progress is counted in the units of an order."""

    def __init__(self, order: Order) -> None:
        self._marks = [int(order.events * _WARM_UP) * order.unit, order.events * order.unit]
        self._order = order
        self._seen: list[tuple[int, int, float, int]] = []

    @property
    def first(self) -> int:
        """Where `reached` is to be called first."""
        return self._marks[0]

    def reached(self, read: int, items: int) -> float:
        """Note the time; the result says where to call next."""
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._seen.append((read, items, time.process_time(), switches))
        return self._marks[1] if len(self._seen) == 1 else float("inf")

    def sample(self) -> Sample:
        """Microseconds of CPU per event, user and system."""
        (read, items, cpu, switches), end = self._seen
        events = (end[0] - read) / self._order.unit
        details = {"items per event": (end[1] - items) / events, "waits per event": (end[3] - switches) / events}
        return Sample((end[2] - cpu) / events * 1e6, details)


def drain(items: Iterable[object], bench: Bench, order: Order) -> Sample:
    """Read a stream of events."""
    meter, memory = _Meter(order), bench.memory
    mark: float = meter.first
    for read, _ in enumerate(items, 1):
        memory[0] = read
        if read >= mark:
            mark = meter.reached(read, read)
    return meter.sample()


def drain_bytes(chunks: Iterable[bytes], bench: Bench, order: Order) -> Sample:
    """Read a stream of bytes."""
    meter, memory = _Meter(order), bench.memory
    mark: float = meter.first
    read = 0
    for items, chunk in enumerate(chunks, 1):
        read += len(chunk)
        memory[0] = read
        if read >= mark:
            mark = meter.reached(read, items)
    return meter.sample()


async def adrain(items: AsyncIterable[object], bench: Bench, order: Order) -> Sample:
    """Read a stream of events."""
    meter, memory = _Meter(order), bench.memory
    mark: float = meter.first
    read = 0
    async for _ in items:
        read += 1
        memory[0] = read
        if read >= mark:
            mark = meter.reached(read, read)
    return meter.sample()


async def adrain_bytes(chunks: AsyncIterable[bytes], bench: Bench, order: Order) -> Sample:
    """Read a stream of bytes."""
    meter, memory = _Meter(order), bench.memory
    mark: float = meter.first
    read = items = 0
    async for chunk in chunks:
        read += len(chunk)
        items += 1
        memory[0] = read
        if read >= mark:
            mark = meter.reached(read, items)
    return meter.sample()


Measure = Callable[[Bench], Sample]
