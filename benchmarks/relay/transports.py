"""The ways in which tokens travel, each measured alike: live, to many at once, to who comes back, and cut off.

A subject says which way its readers read; see `ways`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import quantiles

from benchmarks.relay.load import Crowd, Incomplete, Reader
from benchmarks.relay.scenarios import Numbers
from benchmarks.relay.subjects import Start, Subject
from benchmarks.relay.upstream import order
from benchmarks.relay.ways import last_of, place_of

REPLAYED, SHARED, CUT = 200, 150, 100
"""So many events has an answer that readers come back to, one that many read, and one whose reader is cut off."""
MISSED = 25
"""So many events of that one are sent while the reader is away."""

_RAMP, _SETTLE, _SPARE = 0.5, 0.5, 0.5
_HEADERS = 20 + 20 + 12
"""Bytes of IPv4, of TCP, and of the option that Linux adds, before what a segment carries."""


def carried(
    start: Start,
    upstream: int,
    *,
    count: int = 50,
    rate: int = 20,
    seconds: float = 3.0,
    shared: int = 100,
    back: int = 500,
    cut: int = 10,
    pace: int = 50,
) -> Numbers:
    """Everything about a way.

    Args:
        start: Starts what carries.
        upstream: The provider's port.
        count: How many streams are live.
        rate: How many events a second each of them has.
        seconds: How long they are measured.
        shared: How many readers read one stream.
        back: How many readers come back at once to an answer that is complete.
        cut: How many readers are cut off, each from a stream of its own.
        pace: How many events a second a stream has that is shared or cut.

    Returns:
        The numbers; without those of what this way cannot do.
    """
    with start(upstream) as subject:
        warm = _begun(subject, 5, 20, 100)
        warm.run()
        warm.close()
        numbers = _live(subject, count, rate, seconds)
        if subject.way.again is not None:
            numbers |= _shared(subject, shared, pace)
            if subject.way.keeps:
                numbers |= _replayed(subject, back)
            numbers |= _lost(subject, cut, pace)
        return numbers


def _live(subject: Subject, count: int, rate: int, seconds: float) -> Numbers:
    """Many streams, and a reader of each."""
    events = int(rate * (2 * _RAMP + _SETTLE + seconds + _SPARE))
    crowd = _begun(subject, count, events, rate, _RAMP)
    if subject.way.is_joined:
        crowd = _back(subject, crowd)
    crowd.run(_after(_SETTLE))
    crowd.measuring, before, came = True, crowd.events, crowd.received()
    cpu, behind = subject.cpu(), _behind(subject)
    crowd.run(_after(seconds))
    cpu, behind = subject.cpu() - cpu, _behind(subject) - behind
    crowd.measuring, told = False, crowd.events - before
    size, segments = (now - then for now, then in zip(crowd.received(), came, strict=True))
    crowd.run()
    crowd.close()
    if _read(crowd) != count * events:
        raise Incomplete(f"{_read(crowd)} events of {count} times {events}")
    percentiles = quantiles([late / 1000 for reader in crowd.readers for late in reader.late], n=100)
    if subject.redis == subject.port:
        behind -= size
    return {
        "p50": percentiles[49],
        "p99": percentiles[98],
        "cpu": cpu / told * 1e6,
        "bytes": size / told,
        "+ TCP/IP": (size + segments * _HEADERS) / told,
        "in Redis": behind / told,
    }


def _shared(subject: Subject, count: int, rate: int) -> Numbers:
    """Many readers of one stream."""
    crowd = _begun(subject, 1, SHARED, rate)
    place = place_of(crowd.readers[0])
    if subject.way.is_joined:
        crowd.close()
        crowd = Crowd(subject.port, [])
    crowd.add([_again(subject, place) for _ in range(count - len(crowd.readers))])
    crowd.run(lambda: all(reader.events for reader in crowd.readers))
    seen, cpu = crowd.events, subject.cpu()
    crowd.run()
    seen, cpu = crowd.events - seen, subject.cpu() - cpu
    crowd.close()
    return {"cpu, shared": cpu / seen * 1e6}


def _replayed(subject: Subject, count: int) -> Numbers:
    """Many readers who come back at once to an answer that is complete."""
    first = _begun(subject, 1, REPLAYED, 0)
    first.run()
    first.close()
    place = place_of(first.readers[0])
    taken = cpu = 0.0
    for readers in (20, count):
        back = Crowd(subject.port, [_again(subject, place) for _ in range(readers)])
        begun, before = time.monotonic(), subject.cpu()
        back.run()
        taken, cpu = time.monotonic() - begun, subject.cpu() - before
        back.close()
        if {reader.events for reader in back.readers} != {REPLAYED}:
            raise Incomplete("not all events of a complete answer have come")
    return {"catch-up, ms": taken * 1000, "cpu, replayed": cpu / count / REPLAYED * 1e6}


def _lost(subject: Subject, count: int, rate: int) -> Numbers:
    """Readers who are cut off in the middle, and come back."""
    crowd = _begun(subject, count, CUT, rate)
    if subject.way.is_joined:
        crowd = _back(subject, crowd)
    crowd.run(lambda: all(reader.events >= CUT // 4 for reader in crowd.readers))
    back = _back(subject, crowd, MISSED / rate)
    back.run(None if subject.way.keeps else _after(CUT / rate))  # who has missed the end waits for ever
    back.close()
    lost = count * CUT - _read(back)
    if lost and subject.way.keeps:
        raise Incomplete(f"{lost} events, while {count} readers were away")
    return {"lost of 100": lost / count}


def _begun(subject: Subject, count: int, events: int, rate: int, over: float = 0.0) -> Crowd:
    """Streams that have begun, one after the other within so many seconds."""
    readers = [subject.way.begin(order(events, rate)) for _ in range(count)]
    for number, reader in enumerate(readers):
        reader.start, reader.stamps = over * number / count, set()
    crowd = Crowd(subject.port, readers)
    crowd.connect()
    crowd.run(lambda: all(reader.events for reader in readers))
    return crowd


def _back(subject: Subject, crowd: Crowd, away: float = 0.0) -> Crowd:
    """The same readers on connections that are new, behind what they have read."""
    crowd.close()
    time.sleep(away)
    back = Crowd(subject.port, [_again(subject, place_of(reader), last_of(reader)) for reader in crowd.readers])
    for reader, old in zip(back.readers, crowd.readers, strict=True):
        reader.events, reader.stamps = old.events, old.stamps
    back.run(lambda: all(reader.head for reader in back.readers))
    return back


def _read(crowd: Crowd) -> int:
    """How many events the readers have read, on all their connections, none of them twice."""
    found = sum(len(reader.stamps or ()) for reader in crowd.readers)
    if found != sum(reader.events for reader in crowd.readers):
        raise Incomplete("some events were read twice")
    return found


def _again(subject: Subject, place: str, last: str = "") -> Reader:
    assert subject.way.again is not None
    return subject.way.again(place, last)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _behind(subject: Subject) -> int:
    """Bytes that Redis has taken and given so far."""
    if subject.redis is None:
        return 0
    from redis import Redis

    with Redis(port=subject.redis) as redis:
        told = redis.info("stats")
    assert isinstance(told, dict)
    return int(told["total_net_input_bytes"]) + int(told["total_net_output_bytes"])
