"""Rows to Markdown, and in what surroundings they were measured.

Knows no clients but the names of their distributions.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from benchmarks.cases import Group
from benchmarks.harness import Row

_PACKAGES = ("httpx", "httpx2", "httpcore", "h11", "openai", "httpx-sse", "launchdarkly-eventsource", "urllib3", "aiohttp")

_HOW = """\
Written by `make bench`. Every variant is measured in a client process of its own, against a server in another, on loopback; variants take turns, and
their order changes from round to round. CPU is user and system time of the client alone, per event, without connecting, the first 15 % of the
events, and the end. Events are of about 215 bytes, as OpenAI's chat chunks are.

*ratio* is the median over the rounds of a variant's value to that of the first variant of its case in the same round, with least and most;
*best* is the ratio of their least values. Absolute numbers move with the machine: quote ratios, and only those of one run."""


def describe(rounds: int, scale: float, loads: tuple[float, float]) -> list[str]:
    """When, where and with what it was measured."""
    now = datetime.now(tz=timezone.utc)
    scaled = "" if scale == 1 else f", scaled to {scale:g} of the usual length"
    return [
        "# Benchmarks",
        "",
        _HOW,
        "",
        f"- {now:%Y-%m-%d %H:%M} UTC, {rounds} rounds{scaled}",
        f"- {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, {platform.python_implementation()} {platform.python_version()}; "
        f"load average {loads[0]:.1f} before and {loads[1]:.1f} after (a quiet machine begins near 0 and ends near {_BUSY})",
        f"- {', '.join(_versions())}",
    ]


_BUSY = 1.5


def _versions() -> Iterable[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} not installed"


def table(group: Group, rows: Sequence[Row]) -> list[str]:
    """A group's rows."""
    lines = [
        "",
        f"## {group.TITLE}",
        "",
        group.NOTE,
        "",
        "| case | | value | ratio | best | aim | also |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        first = row.ratios is None
        case = row.case.name if first else ""
        ratio = "1" if row.ratios is None else f"**{row.ratios.median:.3f}** ({row.ratios.least:.2f} to {row.ratios.most:.2f})"
        best = "1" if first else f"{row.best:.3f}"
        aim = f"{row.case.aim:g}" if row.case.aim and row.variant is row.case.variants[-1] else ""
        value = f"{row.values.median:.3g} {row.case.unit}"
        lines.append(f"| {case} | {row.variant.name} | {value} | {ratio} | {best} | {aim} | {_also(row)} |")
    return lines


def _also(row: Row) -> str:
    return ", ".join(f"{name} {number:.3g}" for name, number in row.details.items())
