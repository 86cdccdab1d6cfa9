"""Decoders by themselves: bytes in memory to events, no HTTP."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from benchmarks import wire
from benchmarks.cases import Case, Variant
from benchmarks.measure import Bench, Sample

TITLE = "Decoders by themselves"
NOTE = "Bytes to events, each decoder as its own client uses it. An event of 5 MB is what an image in base64 comes as."

_HAS_HTTPX2 = sys.version_info >= (3, 11)
IMPORTS = ("httpx_sse", "openai", "resumable_llm", "ld_eventsource", *(("httpx2",) if _HAS_HTTPX2 else ()))

_EVENTS = 20_000
_LARGE_BYTES = 5_000_000
_SEGMENT_BYTES = 1_400

Decode = Callable[[Sequence[bytes]], Iterable[object]]


def _httpx_sse(chunks: Sequence[bytes]) -> Iterator[object]:
    from httpx_sse._decoders import SSEDecoder, SSELineDecoder

    text, lines, events = codecs.getincrementaldecoder("utf-8")(), SSELineDecoder(), SSEDecoder()
    for chunk in chunks:
        for line in lines.decode(text.decode(chunk)):
            event = events.decode(line)
            if event is not None:
                yield event


def _httpx2(chunks: Sequence[bytes]) -> Iterator[object]:
    from httpx2._sse import _SSEParser

    text, parser = codecs.getincrementaldecoder("utf-8")(), _SSEParser()
    for chunk in chunks:
        yield from parser.decode(text.decode(chunk))


def _launchdarkly(chunks: Sequence[bytes]) -> Iterable[object]:
    reader: Any = import_module("ld_eventsource.reader")  # ships no types
    events: Iterable[object] = reader._SSEReader(reader._BufferedLineReader.lines_from(chunks)).events_and_comments()  # noqa: SLF001
    return events


def _openai(chunks: Sequence[bytes]) -> Iterable[object]:
    from openai._streaming import SSEDecoder

    return SSEDecoder().iter_bytes(iter(chunks))


def _ours(chunks: Sequence[bytes]) -> Iterator[object]:
    from resumable_llm.core.events import EventDecoder

    decoder = EventDecoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)


def _many(decode: Decode, mode: str) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        events = bench.many(_EVENTS)
        rendered = [wire.event(wire.CHAT, number) for number in range(events)]
        chunks = rendered if mode == wire.CHUNKS else wire.pieces(b"".join(rendered), wire.CHUNK_BYTES)
        _count(decode(chunks[: len(chunks) // 5]))
        seconds, seen = _timed(decode, chunks)
        return _sample(seconds / events * 1e6, seen, events)

    return measure


def _large(decode: Decode, size: int) -> Callable[[Bench], Sample]:
    def measure(_bench: Bench) -> Sample:
        chunks = wire.pieces(b"data: " + b"A" * _LARGE_BYTES + b"\n\n", size)
        _count(decode(chunks))
        seconds, seen = _timed(decode, chunks)
        return _sample(seconds * 1e3, seen, 1)

    return measure


def _timed(decode: Decode, chunks: Sequence[bytes]) -> tuple[float, int]:
    start = time.process_time()
    seen = _count(decode(chunks))
    return time.process_time() - start, seen


def _count(events: Iterable[object]) -> int:
    return sum(1 for _ in events)


def _sample(value: float, seen: int, expected: int) -> Sample:
    if seen != expected:
        raise RuntimeError(f"{seen} events were decoded of {expected}")
    return Sample(value)


def _cases() -> Iterator[Case]:
    decoders: dict[str, Decode] = {"httpx-sse": _httpx_sse, "launchdarkly": _launchdarkly, "openai": _openai}
    if _HAS_HTTPX2:
        decoders["httpx2"] = _httpx2
    decoders["EventDecoder"] = _ours
    for mode, how in ((wire.CHUNKS, "one event a chunk"), (wire.BULK, "64 KiB chunks")):
        yield Case(how, tuple(Variant(name, _many(decode, mode)) for name, decode in decoders.items()))
    for size, how in ((wire.CHUNK_BYTES, "64 KiB"), (_SEGMENT_BYTES, "1,400 bytes")):
        variants = tuple(Variant(name, _large(decode, size)) for name, decode in decoders.items())
        yield Case(f"one event of 5 MB in pieces of {how}", variants, unit="ms")


CASES = tuple(_cases())
