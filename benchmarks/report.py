"""Rows to Markdown, and in what surroundings they were measured.

Knows no clients but the names of their distributions.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from benchmarks.cases import Group
from benchmarks.harness import Row

_PACKAGES = (
    "httpx",
    "httpx2",
    "httpcore",
    "h11",
    "openai",
    "httpx-sse",
    "launchdarkly-eventsource",
    "urllib3",
    "aiohttp",
)

_HOW = """\
Written by `make bench`. Every variant is measured in a client process of its own, against a server in another, on
loopback; variants take turns, and their order changes from round to round. µs is CPU time, user and system, of the
client alone and per event, without connecting, the first 15 % of the events, and the end. Events have about 215 bytes,
as OpenAI's chat chunks do.

*ratio* is a variant's value to that of its case's first variant in the same round: the median over the rounds, with
least and most. *best* is the ratio of their least values. Where the range of a ratio is wide, the machine was busy.
Absolute numbers move with the machine: quote ratios, and only those of one run."""


def describe(rounds: int, scale: float, loads: tuple[float, float]) -> list[str]:
    """When, where and with what it was measured."""
    scaled = "" if scale == 1 else f", scaled to {scale:g} of the usual length"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    load = f"load average {loads[0]:.1f} before, {loads[1]:.1f} after (about 1.5 is our own)"
    return [
        "# Benchmarks",
        "",
        _HOW,
        "",
        f"- {datetime.now(tz=timezone.utc):%Y-%m-%d %H:%M} UTC, {rounds} rounds{scaled}",
        f"- {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, {python}; {load}",
        f"- {', '.join(map(_versioned, _PACKAGES))}",
    ]


def _versioned(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


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
        ratio = (
            "1"
            if row.ratios is None
            else f"**{row.ratios.median:.3f}** ({row.ratios.least:.2f} to {row.ratios.most:.2f})"
        )
        best = "1" if first else f"{row.best:.3f}"
        aim = f"{row.case.aim:g}" if row.case.aim and row.variant is row.case.variants[-1] else ""
        value = f"{row.values.median:.3g} {row.case.unit}"
        lines.append(f"| {case} | {row.variant.name} | {value} | {ratio} | {best} | {aim} | {_also(row)} |")
    return lines


def _also(row: Row) -> str:
    return ", ".join(f"{name} {number:.3g}" for name, number in row.details.items())
