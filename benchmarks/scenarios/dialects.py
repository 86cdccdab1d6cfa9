"""What watching over an event costs in each protocol, in memory: no sockets, no HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.cases import Case, Variant
from benchmarks.dialect_wires import WIRES, Wire
from benchmarks.measure import Bench, Sample

TITLE = "Each dialect by itself, in memory"
NOTE = """\
Our part of an ordinary event, one a chunk, held against one `json.loads` of its data, which every SDK must do as well.
Where a server numbers its events or gives them ids, each has to be looked at; others pass in runs."""

IMPORTS = ("resumable_llm",)

_EVENTS = 20_000


def _json(wire: Wire) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        count = bench.many(_EVENTS)
        payloads = [wire.data(number) for number in range(count)]
        start = time.process_time()
        for payload in payloads:
            json.loads(payload)
        return Sample((time.process_time() - start) / count * 1e6)

    return measure


def _ours(wire: Wire) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        count = bench.many(_EVENTS)
        chunks = [wire.event(number) for number in range(count)]
        start, passed = _watch(wire, chunks)
        seconds = time.process_time() - start
        if passed != count:
            raise RuntimeError(f"{passed} events came through of {count}")
        return Sample(seconds / count * 1e6)

    return measure


def _watch(wire: Wire, chunks: Sequence[bytes]) -> tuple[float, int]:
    """Do what a driver does with a body; returns when it began and how many events came through."""
    from resumable_llm.core.actions import Deliver, Read, Send
    from resumable_llm.core.machine import Conversation
    from resumable_llm.core.model import Limits
    from resumable_llm.dialects import named, recognise

    dialect = recognise(wire.request)
    assert dialect is not None
    assert dialect.name == wire.dialect, dialect.name
    if wire.behind is not None:
        dialect = named(wire.behind)
    prepared = dialect.prepare(wire.request, "key")
    talk = Conversation(prepared, dialect, lambda *_: None, Limits())
    talk.start(0.0)
    assert isinstance(talk.next_action(), Send)
    talk.receive_response(200, {"content-type": dialect.framing.media_types[0], **wire.headers}, 0.0)
    body = iter([wire.opening, *chunks])
    passed = -wire.opening_events
    passes = talk.receive_plain
    start = time.process_time()
    while True:
        action = talk.next_action()
        if isinstance(action, Deliver):
            passed += action.events
        elif isinstance(action, Read):
            for chunk in body:
                if passes(chunk):
                    passed += 1
                else:
                    talk.receive_data(chunk, 0.0)
                    break
            else:
                return start, passed


def _cases() -> Iterator[Case]:
    for wire in WIRES:
        yield Case(wire.behind or wire.dialect, (Variant("json.loads", _json(wire)), Variant("dialect", _ours(wire))))


CASES = tuple(_cases())
