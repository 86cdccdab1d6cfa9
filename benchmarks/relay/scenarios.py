"""What is measured of a relay. Each function starts one, measures it once, and ends it.

Times are in microseconds, where their names do not say otherwise, and CPU is the relay's alone.
"""

from __future__ import annotations

import re
import time
from statistics import median, quantiles

from benchmarks.relay import processes
from benchmarks.relay.load import Crowd, Incomplete, Reader, get, post, streams
from benchmarks.relay.subjects import Start, Subject
from benchmarks.relay.upstream import DONE, event, order

Numbers = dict[str, float]

_SETTLE, _SPARE = 0.5, 0.5
_A_SECOND = 100
"""So many streams begin in a second."""


def tokens(start: Start, upstream: int, *, count: int, rate: int, seconds: int = 5) -> Numbers:
    """Many streams at once.

    Each second is measured by itself, and the median of them told: of a machine that has something else to do for the
    twentieth part of a second, three seconds as a whole would tell little but that.

    Args:
        start: Starts the relay.
        upstream: Its upstream's port.
        count: How many streams.
        rate: How many events a second each has.
        seconds: How long to measure, once all streams have begun.
    """
    ramp = count / _A_SECOND
    events = int(rate * (ramp + _SETTLE + seconds + _SPARE))
    with start(upstream) as subject:
        _warm_up(subject)
        crowd = Crowd(subject.port, streams(count, events, rate, ramp))
        crowd.connect()
        begun = time.monotonic()
        crowd.run(lambda: time.monotonic() - begun > ramp + _SETTLE, begun=begun)
        each = [_second(crowd, subject, begun) for _ in range(seconds)]
        crowd.run(begun=begun)
        crowd.close()
    if crowd.events != count * events:
        raise Incomplete(f"{crowd.events} events of {count} times {events}")
    firsts = [(reader.first - reader.asked) / 1000 for reader in crowd.readers]
    return {"first": median(firsts), **{name: median(second[name] for second in each) for name in each[0]}}


def _second(crowd: Crowd, subject: Subject, begun: float) -> Numbers:
    until = time.monotonic() + 1
    crowd.measuring, seen, cpu = True, crowd.events, subject.cpu()
    crowd.run(lambda: time.monotonic() > until, begun=begun)
    crowd.measuring, seen, cpu = False, crowd.events - seen, subject.cpu() - cpu
    percentiles = quantiles([late / 1000 for reader in crowd.readers for late in reader.late], n=100)
    for reader in crowd.readers:
        reader.late.clear()
    return {"p50": percentiles[49], "p99": percentiles[98], "cpu": cpu / seen * 1e6}


def memory(start: Start, upstream: int, *, count: int = 500) -> Numbers:
    """Many streams that hardly say anything."""
    with start(upstream) as subject:
        _warm_up(subject)
        crowd = Crowd(subject.port, streams(count, 8, 1, 2.0))
        crowd.connect()
        time.sleep(0.5)
        before, begun = _resident(subject), time.monotonic()
        crowd.run(lambda: time.monotonic() - begun > 4.0, begun=begun)
        grown = _resident(subject) - before
        crowd.close()
    return {"KiB": grown / count / 1024}


def readers(start: Start, upstream: int, *, count: int = 500) -> Numbers:
    """Many readers of one stream that hardly says anything."""
    with start(upstream) as subject:
        _warm_up(subject)
        crowd = _gathered(subject, count=5, events=8, rate=1)
        before = _resident(subject)
        _join(crowd, count)
        grown = _resident(subject) - before
        crowd.close()
    return {"KiB": grown / count / 1024}


def fan_out(start: Start, upstream: int, *, count: int = 100, events: int, rate: int) -> Numbers:
    """One stream with many readers."""
    with start(upstream) as subject:
        _warm_up(subject)
        crowd = _gathered(subject, count=count, events=events, rate=rate)
        seen, cpu, begun = crowd.events, subject.cpu(), time.monotonic()
        crowd.run()
        seen, cpu, taken = crowd.events - seen, subject.cpu() - cpu, time.monotonic() - begun
        crowd.close()
    return {"cpu": cpu / seen * 1e6, "deliveries per second and core": seen / cpu, "per second": seen / taken}


def storm(start: Start, upstream: int, *, count: int = 1000, events: int = 200) -> Numbers:
    """Many readers who come back at once, for the end of an answer that is complete."""
    with start(upstream) as subject:
        if subject.folder is None:
            crowd = _gathered(subject, count=1, events=events + 50, rate=0)
            crowd.run()
            crowd.close()
            request = get(_location(crowd.readers[0]), after=51)
        else:
            (subject.folder / "answer").write_bytes(_answer(events))
            request = get("/answer")
        back = Crowd(subject.port, [Reader(request) for _ in range(20)])
        back.run()
        back.close()
        back, cpu = Crowd(subject.port, [Reader(request) for _ in range(count)]), subject.cpu()
        begun = time.monotonic()
        back.run()
        taken, cpu = time.monotonic() - begun, subject.cpu() - cpu
        back.close()
    assert {reader.events for reader in back.readers} == {events - 1}
    return {"ms": taken * 1000, "cpu": cpu / count * 1e6}


def _answer(events: int) -> bytes:
    told = [event() for _ in range(events - 1)] + [DONE]
    return b"".join(b"id: %d\n%b" % (number, block) for number, block in enumerate(told, 52))


def _warm_up(subject: Subject) -> None:
    crowd = Crowd(subject.port, streams(5, 10, 100, 0.1))
    crowd.run()
    crowd.close()
    time.sleep(0.2)


def _gathered(subject: Subject, *, count: int, events: int, rate: int) -> Crowd:
    """A stream that has begun, and its readers, who have all read something."""
    crowd = Crowd(subject.port, [Reader(post(order(events, rate)))])
    crowd.run(lambda: crowd.events > 0)
    _join(crowd, count - 1)
    return crowd


def _join(crowd: Crowd, count: int) -> None:
    path = _location(crowd.readers[0])
    crowd.add([Reader(get(path)) for _ in range(count)])
    crowd.run(lambda: all(reader.events for reader in crowd.readers))


def _location(reader: Reader) -> str:
    found = re.search(rb"(?i)\r\nlocation: (\S+)", reader.head)
    assert found is not None, reader.head
    return found[1].decode()


def _resident(subject: Subject) -> int:
    return 0 if subject.pid is None else processes.resident(subject.pid)
