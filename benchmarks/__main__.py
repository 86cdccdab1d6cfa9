"""The command line: measures, prints the tables, and writes them to RESULTS.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import cases, harness, report

_RESULTS = Path(__file__).parent / "RESULTS.md"
_ROUNDS, _QUICK_ROUNDS = 7, 1
_QUICK_SCALE = 0.2
_SLOW = {"many_streams"}
_SLOW_ROUNDS = 2


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a first look, in less than a minute; writes no file")
    parser.add_argument("--full", action="store_true", help="the thousand streams too, which take half a minute more")
    parser.add_argument(
        "--only", choices=cases.GROUPS, action="append", help="measure this group (may be given more than once)"
    )
    parser.add_argument("--case", default="", help="measure only the cases with this in their names")
    parser.add_argument("--rounds", type=int, help=f"how often each variant is measured (default: {_ROUNDS})")
    parser.add_argument(
        "--output", type=Path, help="where to write the tables (default: RESULTS.md, if everything is measured)"
    )
    options = parser.parse_args()

    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    scale = _QUICK_SCALE if options.quick else 1.0
    groups = options.only or [name for name in cases.GROUPS if options.full or name not in _SLOW]
    before = os.getloadavg()[0]
    tables: list[str] = []
    with harness.serving() as server:
        for name in groups:
            group = cases.load(name)
            chosen = [case for case in group.CASES if options.case in case.name]
            if chosen:
                enough = min(rounds, _SLOW_ROUNDS) if name in _SLOW else rounds
                rows = harness.run(name, chosen, server, rounds=enough, scale=scale, tell=_tell)
                tables += report.table(group, rows)
    lines = report.describe(rounds, scale, (before, os.getloadavg()[0])) + tables
    text = "\n".join(lines) + "\n"
    print(text)
    everything = not (options.quick or options.only or options.case)
    output = options.output or (_RESULTS if everything else None)
    if output is not None:
        output.write_text(text, encoding="utf-8")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
