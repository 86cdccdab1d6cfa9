"""Runs cases, interleaved: each round measures every variant of every case in turn, every other round backwards.

Two variants are compared by the median of their ratios within a round, for a machine's speed changes from minute to
minute. Knows no clients.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import cases, shared
from benchmarks.cases import Case, Variant
from benchmarks.measure import Sample

_ROOT = Path(__file__).parent.parent
_MOST_SECONDS = 300.0
"""For one round of one group."""


class Spread(NamedTuple):
    """Numbers in short."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """The median and the range."""
        return cls(median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Row:
    """One variant of one case, measured once a round.

    Attributes:
        case: The case.
        variant: The variant.
        values: Its samples' values.
        ratios: To the case's first variant, round by round; None for that one itself.
        best: Its least value to the least of the case's first variant, which other programs disturb less.
        details: Medians of what else was counted.
    """

    case: Case
    variant: Variant
    values: Spread
    ratios: Spread | None
    best: float
    details: dict[str, float]


class Server(NamedTuple):
    """A running server."""

    port: int
    memory: Path


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server."""
    with tempfile.TemporaryDirectory() as folder:
        memory = Path(folder, "shared")
        shared.create(memory)
        command = [sys.executable, "-m", "benchmarks.server", str(memory)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            try:
                yield Server(int(server.stdout.readline()), memory)
            finally:
                server.stdin.close()


def run(
    group: str, chosen: Sequence[Case], server: Server, *, rounds: int, scale: float, tell: Callable[[str], object]
) -> list[Row]:
    """Measure some cases of a group.

    Args:
        group: Its name.
        chosen: Its cases.
        server: Where the streams come from.
        rounds: How often each variant is measured.
        scale: 1 for a full run, less for a quick one.
        tell: Called with a line of progress now and then.

    Returns:
        A row for each variant of each case.
    """
    all_cases = cases.load(group).CASES
    jobs = [(all_cases.index(case), number) for case in chosen for number in range(len(case.variants))]
    samples: dict[tuple[int, int], list[Sample]] = {job: [] for job in jobs}
    for number in range(rounds):
        tell(f"{group}: round {number + 1} of {rounds}")
        in_turn = jobs if number % 2 == 0 else jobs[::-1]
        for job, sample in zip(in_turn, _run_jobs(group, in_turn, server, scale), strict=True):
            samples[job].append(sample)
    return [
        _row(case, variant, samples, all_cases.index(case)) for case in chosen for variant in range(len(case.variants))
    ]


def _run_jobs(group: str, jobs: Sequence[tuple[int, int]], server: Server, scale: float) -> list[Sample]:
    order = {"group": group, "jobs": jobs, "port": server.port, "memory": str(server.memory), "scale": scale}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker"],
        input=json.dumps(order) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=_ROOT,
        timeout=_MOST_SECONDS,
    )
    return [Sample(**json.loads(line)) for line in done.stdout.splitlines()]


def _row(case: Case, variant: int, samples: dict[tuple[int, int], list[Sample]], number: int) -> Row:
    own, first = samples[number, variant], samples[number, 0]
    ratios = [sample.value / reference.value for sample, reference in zip(own, first, strict=True)]
    details = {name: median([sample.details[name] for sample in own]) for name in own[0].details}
    return Row(
        case,
        case.variants[variant],
        Spread.of([sample.value for sample in own]),
        Spread.of(ratios) if variant else None,
        min(sample.value for sample in own) / min(sample.value for sample in first),
        details,
    )
