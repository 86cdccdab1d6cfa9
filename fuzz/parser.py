"""Fuzz the event decoder: whatever bytes come, however cut, it yields the same events or says that one is too large.

    python -m fuzz.parser [seconds]

`check` takes bytes only, so atheris can drive it too: ``atheris.Setup(sys.argv, check); atheris.Fuzz()``.
"""

from __future__ import annotations

import random
import sys
import time

from resumable_llm.core.errors import EventTooLarge
from resumable_llm.core.events import BlockSplitter, EventDecoder, encode_event, parse_block

MAX_BYTES = 64
WORDS = [
    b"data",
    b"id",
    b"event",
    b"retry",
    b":",
    b": ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\0",
    b"7",
    b"\xef\xbb\xbf",
    b"\xff",
]


def check(data: bytes) -> None:
    """The invariants. The first byte chooses the size of the chunks, the rest is the stream."""
    size, stream = (data[0] % 9 + 1, data[1:]) if data else (1, b"")
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    decoder, splitter = EventDecoder(), BlockSplitter()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    assert events == EventDecoder().feed(stream), "chunks make a difference"
    blocks = [block for chunk in chunks for block in splitter.feed(chunk)]
    assert b"".join(blocks) == stream[: len(stream) - splitter.pending], "bytes were lost"
    for event in events:
        again = parse_block(encode_event(event.data, event=event.event if event.event.isalnum() else None))
        assert again.data == event.data, "an event cannot be written as it was read"
    bounded = BlockSplitter(MAX_BYTES)
    try:
        found = [block for chunk in chunks for block in bounded.feed(chunk)]
    except EventTooLarge:
        return
    assert all(len(block) <= MAX_BYTES for block in found), "the bound does not hold"
    assert bounded.pending <= MAX_BYTES, "the bound does not hold for the rest"


def generate(chance: random.Random) -> bytes:
    """Bytes that look like an event stream, mostly."""
    words = [
        chance.choice(WORDS) if chance.random() < 0.9 else chance.randbytes(3) for _ in range(chance.randrange(40))
    ]
    return bytes([chance.randrange(256)]) + b"".join(words)


def run(seconds: float, seed: int) -> int:
    """Try until the time is over; return how many inputs were tried."""
    chance, until, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        check(generate(chance))
        count += 1
    return count


if __name__ == "__main__":
    tried = run(float(sys.argv[1]) if sys.argv[1:] else 60.0, seed=int(time.time()))
    sys.stdout.write(f"{tried} inputs, no complaint\n")
