"""What it costs to keep events: each store of the log beside plainer ways of writing the same events down.

Run it with ``python -m benchmarks.log_stores``. Each way runs in a process of its own, in turn and several times; the
medians are told. A process appends 5,000 events a second, one at a time to each of 100 streams, and ends the streams.

- **CPU** is the process's own, all of its threads, less what the same loop takes that keeps nothing.
- **Bytes** are those that the process hands to the system to write, over the bytes of the events. Linux only.
- **Memory** is what Python's allocator gives for a stream that has begun and has no event, and for a reader of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import wire
from resumable_llm.log import Head, Log, MemoryStore, SqliteStore, State, Store

STREAMS = 100
RATE = 5000

Append = Callable[[int, int, bytes], object]
"""Takes the number of a stream, the number of the event and the event."""
Way = Callable[[Path], tuple[Append, Callable[[], None]]]
"""Takes a directory; gives what appends an event, and what ends it all."""


def nothing(_directory: Path) -> tuple[Append, Callable[[], None]]:
    """The loop alone."""
    return lambda _stream, _number, _frame: None, lambda: None


def file_append(directory: Path) -> tuple[Append, Callable[[], None]]:
    """A file for each stream, written at once, and to the disk at the end."""
    files = [(directory / f"{stream}.sse").open("ab", buffering=0) for stream in range(STREAMS)]

    def append(stream: int, number: int, frame: bytes) -> None:
        files[stream].write(b"id: %d\n%b" % (number, frame))

    def close() -> None:
        for file in files:
            os.fsync(file.fileno())
            file.close()

    return append, close


def row_per_token(directory: Path) -> tuple[Append, Callable[[], None]]:
    """A row for each event, sorted by stream, which is the cheapest way to have them so; and a commit each."""
    connection = sqlite3.connect(directory / "rows.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE events (stream, number, data, PRIMARY KEY (stream, number)) WITHOUT ROWID")

    def append(stream: int, number: int, frame: bytes) -> None:
        connection.execute("INSERT INTO events VALUES (?, ?, ?)", (stream, number, frame))

    return append, connection.close


def memory(_directory: Path) -> tuple[Append, Callable[[], None]]:
    """`MemoryStore`."""
    return _store(MemoryStore())


def sqlite(directory: Path) -> tuple[Append, Callable[[], None]]:
    """`SqliteStore`."""
    return _store(SqliteStore(directory / "log.db"))


def sqlite_strict(directory: Path) -> tuple[Append, Callable[[], None]]:
    """`SqliteStore`, strict, as a relay uses it: readers wait for the disk, appenders do not."""
    return _store(SqliteStore(directory / "log.db", strict=True))


WAYS: dict[str, Way] = {
    way.__name__: way for way in (nothing, memory, file_append, sqlite, sqlite_strict, row_per_token)
}


def _head(stream: int) -> Head:
    return Head(f"{stream:032x}", "s" * 32, f"key {stream}", "f" * 32, 200, (), time.time(), 60.0)


def _store(store: Store) -> tuple[Append, Callable[[], None]]:
    logs: list[Log] = [store.begin(_head(stream))[0] for stream in range(STREAMS)]

    def append(stream: int, _number: int, frame: bytes) -> None:
        logs[stream].append([frame], wait=False)

    def close() -> None:
        for log in logs:
            log.end(State.COMPLETE)
        store.close()

    return append, close


def _written() -> int:
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["wchar"])


def measure(name: str, events: int) -> dict[str, float]:
    """Append so many events in one way.

    Returns:
        CPU microseconds and bytes written, for each event; and events per second as they came to be.
    """
    frame = wire.event(wire.CHAT, 1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("LOG_STORES_DIR")) as directory:
        append, close = WAYS[name](Path(directory))
        cpu, written, started = time.process_time(), _written(), time.monotonic()
        for count in range(events):
            append(count % STREAMS, count // STREAMS + 1, frame)
            # Ten at a time: streams are neither in step nor does each event find the process asleep.
            if count % 10 == 9 and (early := started + count / RATE - time.monotonic()) > 0:
                time.sleep(early)
        seconds = time.monotonic() - started
        close()
        return {
            "cpu": (time.process_time() - cpu) / events * 1e6,
            "bytes": (_written() - written) / events / len(frame),
            "rate": events / seconds,
        }


def memory_of(make: Callable[[Path], Store]) -> tuple[float, float]:
    """Bytes for each stream without events, and for each reader."""
    count = 1000
    with tempfile.TemporaryDirectory() as directory:
        store = make(Path(directory))
        store.begin(_head(count))
        gc.collect()
        tracemalloc.start()
        heads = [_head(stream) for stream in range(count)]
        before = tracemalloc.get_traced_memory()[0]
        logs = [store.begin(head)[0] for head in heads]
        for log in logs[:: count - 1]:
            log.wait_durable(0)
        gc.collect()
        streams = tracemalloc.get_traced_memory()[0]
        readers = [logs[0].subscribe(gc.isenabled) for _ in range(count)]
        both = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del readers
        store.close()
    return (streams - before) / count, (both - streams) / count


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all ways in turn and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log_stores", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    events = int(RATE * options.seconds)
    if options.one:
        print(json.dumps(measure(options.one, events)))
        return

    samples: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, told in samples.items():
            command = [sys.executable, "-m", __spec__.name, "--one", name, "--seconds", str(options.seconds)]
            told.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    median = {
        name: {what: statistics.median(each[what] for each in told) for what in told[0]}
        for name, told in samples.items()
    }
    row = median["row_per_token"]["bytes"]
    print("| way | CPU us/event | bytes written / payload | of a row per token | events/s |")
    print("|---|---|---|---|---|")
    for name, values in median.items():
        cpu = values["cpu"] - (median["nothing"]["cpu"] if name != "nothing" else 0)
        share = values["bytes"] / row if row else 0
        print(f"| {name} | {cpu:.2f} | {values['bytes']:.2f} | {share:.4f} | {values['rate']:.0f} |")
    print()
    print("| store | bytes a stream | bytes a reader |")
    print("|---|---|---|")
    stores: dict[str, Callable[[Path], Store]] = {
        "memory": lambda _directory: MemoryStore(),
        "sqlite": lambda directory: SqliteStore(directory / "log.db"),
    }
    for name, make in stores.items():
        stream, reader = memory_of(make)
        print(f"| {name} | {stream:.0f} | {reader:.0f} |")


if __name__ == "__main__":
    main()
