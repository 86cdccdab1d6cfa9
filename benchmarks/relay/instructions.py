"""Instructions for each event, counted by valgrind: the same however busy the machine is.

Run it with ``python -m benchmarks.relay.instructions``. Few streams, so that each event finds the relay asleep; a store
that writes behind would have a transaction for each, so only the one in memory is counted. What the system does for a
process is not counted, and that a processor's caches are cold is not seen.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.relay.load import Crowd, streams
from benchmarks.relay.subjects import SUBJECTS, WRAPPER, upstream

_STREAMS, _RATE, _RAMP, _SETTLE, _SECONDS = 8, 4, 2.0, 4.0, 12.0
_USUAL = (
    *("raw ASGI, aiohttp", "relay, memory"),
    *("the same on asyncio", "relay, memory, on asyncio"),
    *("the same on asyncio, h11", "relay, memory, on asyncio, h11"),
)


def count(subject: str) -> float:
    """Instructions of a relay for an event, in thousands."""
    with tempfile.TemporaryDirectory() as folder, upstream() as port:
        os.environ[WRAPPER] = f"valgrind --tool=callgrind --instr-atstart=no -q --callgrind-out-file={folder}/told"
        with SUBJECTS[subject](port) as running:
            del os.environ[WRAPPER]
            warm = Crowd(running.port, streams(2, 4, 2, 0.1))
            warm.run()
            warm.close()
            crowd = Crowd(running.port, streams(_STREAMS, int(_RATE * (_RAMP + _SETTLE + _SECONDS + 4)), _RATE, _RAMP))
            crowd.connect()
            begun = time.monotonic()
            crowd.run(lambda: time.monotonic() - begun > _RAMP + _SETTLE, begun=begun)
            _control("--instr=on", running.pid)
            seen = crowd.events
            crowd.run(lambda: time.monotonic() - begun > _RAMP + _SETTLE + _SECONDS, begun=begun)
            seen = crowd.events - seen
            _control("--instr=off", running.pid)
            _control("--dump", running.pid)
            crowd.run(begun=begun)
            crowd.close()
        totals = [
            int(total)
            for told in Path(folder).iterdir()
            for total in re.findall(r"^totals: (\d+)", told.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        ]
    return sum(totals) / seen / 1000


def _control(order: str, pid: int | None) -> None:
    subprocess.run(["callgrind_control", order, str(pid)], check=True, stdout=subprocess.DEVNULL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay.instructions", description=__doc__)
    parser.add_argument("subjects", nargs="*", default=_USUAL, metavar="SUBJECT", help=f"any of {', '.join(SUBJECTS)}")
    print("| | thousand instructions an event |\n|---|--:|")
    for subject in parser.parse_args(arguments).subjects:
        print(f"| {subject} | {count(subject):.1f} |", flush=True)


if __name__ == "__main__":
    main()
