"""What a relay tells Prometheus: how much it does, how answers end, and what goes wrong. Nothing of whose they are.

What an answer counts anyway is asked for when somebody scrapes, so that an event costs nothing here. Labels are words
of this package, never anything that a request has brought.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from resumable_llm.core.model import Report
from resumable_llm.log.errors import LogFull, StoreFailed, StoreFull
from resumable_llm.log.model import Log
from resumable_llm.relay.generation import Generation

_PREFIX = "resumable_llm_relay_"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STORE_FAILURES = (StoreFailed, StoreFull, LogFull)


class Metrics(Collector):
    """The metrics of one relay, in a registry of their own.

    Args:
        running: What is generated now.
        reading: Who reads now, or waits for what comes next.
    """

    def __init__(self, running: Collection[Generation], reading: Collection[object]) -> None:
        self.sockets = 0
        """WebSockets that are open."""
        self._running = running
        self._reading = reading
        self._ended: Counter[tuple[str, str]] = Counter()
        self._events = 0
        self._bytes = 0
        self._drops: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._store_failures = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._first_event = Histogram(
            f"{_PREFIX}first_event_seconds",
            "Time from a request to the first event of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def exposition(self, accept: str) -> tuple[bytes, bytes]:
        """What a scrape gets.

        Args:
            accept: The formats that it can read.

        Returns:
            The metrics, and their content type.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type.encode()

    def note_refusal(self, code: str) -> None:
        """A request was refused."""
        self._refused[code] += 1

    def note_failure(self, failure: Exception | None) -> None:
        """Something could not be done; counted where the store is to blame."""
        if isinstance(failure, _STORE_FAILURES):
            self._store_failures += 1

    def note_end(self, generation: Generation) -> None:
        """An answer runs no more."""
        report = generation.report
        self._events += report.events
        self._bytes += report.bytes
        self._drops += _ways(report)
        if generation.outcome is not None:
            self._ended[report.dialect, generation.outcome.value] += 1
        self.note_failure(generation.failure)

    def await_first_event(self, log: Log, asked_at: float) -> None:
        """Note when a log that has just begun gets its first event.

        Args:
            log: The log.
            asked_at: When it was asked for, by the loop's clock.
        """
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        is_waiting = True

        def look() -> None:
            nonlocal is_waiting
            if is_waiting:
                is_waiting = False
                unsubscribe()
                if log.last:
                    self._first_event.observe(loop.time() - asked_at)

        def wake() -> None:
            if threading.get_ident() == thread:
                loop.call_soon(look)
                return
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(look)

        unsubscribe = log.subscribe(wake)

    def collect(self) -> Iterator[Metric]:
        """What is known at this moment."""
        reports = [each.report for each in self._running]
        yield _gauge("answers_running", "Answers that are being generated.", len(reports))
        yield _gauge("readers", "Who reads an answer, over HTTP or WebSocket.", len(self._reading))
        yield _gauge("websockets", "WebSockets that are open.", self.sockets)
        yield _counter(
            "answers", "Answers by dialect and by how they ended.", ("dialect", "state"), self._ended.items()
        )
        events, size = sum(each.events for each in reports), sum(each.bytes for each in reports)
        yield _counter("events", "Events that upstreams have sent.", (), [((), self._events + events)])
        yield _counter("bytes", "Bytes that these events have.", (), [((), self._bytes + size)])
        drops = sum(map(_ways, reports), self._drops)
        ways = [((way,), count) for way, count in drops.items()]
        yield _counter("upstream_drops", "Connections to upstreams that broke, by the way back.", ("way",), ways)
        codes = [((code,), count) for code, count in self._refused.items()]
        yield _counter("refusals", "Requests that the relay has refused, by the code that it told.", ("code",), codes)
        yield _counter("store_failures", "What the store could not keep.", (), [((), self._store_failures)])


def _ways(report: Report) -> Counter[str]:
    return Counter(drop.way or "none" for drop in report.drops)


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, told, value=value)


def _counter(name: str, told: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, told, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
