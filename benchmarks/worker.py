"""A client process: does a group's imports, then runs each job in a fork of itself, one after the other.

So a measurement has a process, a heap and connections of its own, and no SDK's imports to wait for. Knows no clients.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks import cases
from benchmarks.measure import Bench


def main() -> None:
    """Read a group's name and its jobs as one line of JSON; print each job's sample as one line of JSON."""
    order = json.loads(sys.stdin.readline())
    group = cases.load(order["group"])
    for name in group.IMPORTS:
        import_module(name)
    memory = Path(order["memory"])
    for case_number, variant_number in order["jobs"]:
        child = os.fork()
        if child == 0:
            _measure(group.CASES[case_number].variants[variant_number], order["port"], memory, order["scale"])
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"a measurement of {group.CASES[case_number].name!r} failed")


def _measure(variant: cases.Variant, port: int, memory: Path, scale: float) -> None:
    try:
        sample = variant.measure(Bench.connect(port, memory, scale))
        print(json.dumps(asdict(sample)), flush=True)
    except BaseException:  # noqa: BLE001 - the fork must never go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # what the parent would do at its end is the parent's


if __name__ == "__main__":
    main()
