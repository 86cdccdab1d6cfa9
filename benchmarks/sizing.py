"""What answers take in memory, on disk and in Redis, event by event: the figures that a relay is sized with.

Run it with ``python -m benchmarks.sizing``; ``--redis redis://host:6379/0`` adds a Redis, which nobody else should use
meanwhile. 100 streams run at once, of 50 events a second each, as many tokens of a chat.

- **In the relay** is what the process grows by while the streams run. Of SQLite and Redis it is let go of once an
  answer has ended; in memory it stays until the answer expires.
- **Kept** is what the file, Redis' memory and its append-only file have grown by when all streams have ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import wire
from resumable_llm.log import Head, MemoryStore, SqliteStore, State, Store

STREAMS = 100
RATE = 50
STORES = ("memory", "sqlite", "redis")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _redis_holds(url: str) -> Callable[[], dict[str, int]]:
    import redis

    client = redis.Redis.from_url(url)

    def holds() -> dict[str, int]:
        told: Any = client.info()
        return {"memory": told["used_memory"], "append-only file": told.get("aof_current_size", 0)}

    return holds


def _file_holds(folder: Path) -> Callable[[], dict[str, int]]:
    return lambda: {"file": sum(each.stat().st_size for each in folder.iterdir())}


def measure(name: str, url: str, seconds: float) -> dict[str, float]:
    """Run the streams on one store.

    Returns:
        Bytes for each event: of an event itself, in this process, and wherever else the store has it.
    """
    frame = wire.event(wire.CHAT, 1)
    events = int(STREAMS * RATE * seconds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        holds: Callable[[], dict[str, int]] = dict
        store: Store = MemoryStore()
        if name == "sqlite":
            store, holds = SqliteStore(folder / "log.db"), _file_holds(folder)
        elif name == "redis":
            from resumable_llm.log.redis import RedisStore

            store, holds = RedisStore(url, prefix=f"sizing-{os.getpid()}"), _redis_holds(url)
        heads = [
            Head(f"{stream:032x}", "s" * 32, f"key {stream}", "f" * 32, 200, (), time.time(), 60.0)
            for stream in range(STREAMS)
        ]
        logs = [store.begin(head)[0] for head in heads]
        for log in logs:
            log.wait_durable(0)
        before, resident, started = holds(), _resident(), time.monotonic()
        for count in range(events):
            logs[count % STREAMS].append([bytes(bytearray(frame))], wait=False)  # each is an object of its own
            if count % 10 == 9 and (early := started + count / (STREAMS * RATE) - time.monotonic()) > 0:
                time.sleep(early)
        here = _resident() - resident
        for log in logs:
            log.end(State.COMPLETE)
            log.wait_durable(log.last)
        if name == "sqlite":
            store.close()  # what is in the write-ahead log goes to the file
        after = holds()
        for head in heads:
            if name == "redis":
                store.delete(head.scope, head.id)
        store.close()
    return {
        "event": len(frame),
        "in the relay": here / events,
        **{f"kept: {where}": (size - before[where]) / events for where, size in after.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--redis", default="", metavar="URL")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--one", choices=STORES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one, options.redis, options.seconds)))
        return
    print("| store | where | bytes an event | of the event itself |")
    print("|---|---|--:|--:|")
    for name in STORES if options.redis else STORES[:2]:
        command = [sys.executable, "-m", __spec__.name, "--one", name, "--seconds", str(options.seconds)]
        run = subprocess.run([*command, "--redis", options.redis], check=True, capture_output=True)
        told: dict[str, float] = json.loads(run.stdout)
        size = told.pop("event")
        for where, found in told.items():
            print(f"| {name} | {where} | {found:.0f} | {found / size:.2f} |")


if __name__ == "__main__":
    main()
