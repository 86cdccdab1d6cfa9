"""The command line: measures in turn and several times, prints the tables, and writes them to RELAY.md."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from benchmarks.relay.groups import GROUPS, Group
from benchmarks.relay.load import Incomplete
from benchmarks.relay.scenarios import Numbers
from benchmarks.relay.subjects import SUBJECTS, upstream

_RESULTS = Path(__file__).with_name("RELAY.md")
_PACKAGES = ("uvicorn", "uvloop", "httptools", "h11", "aiohttp", "starlette", "httpx", "sse-starlette")

_HOW = """\
Written by `python -m benchmarks.relay`. Upstream, relay and reader are a process each, on loopback. Every round
measures all in turn, every other round backwards; numbers are medians over the rounds. A *ratio* is the median, with
least and most, of the ratios within a round: to the plain pass-through on the same event loop, where the table does not
begin with somebody else. CPU is user and system time of the relay's process with its threads, as Linux counts it; that
of a process which wakes for each event is mostly the waking's. An event has 218 bytes, and streams are out of step:
their intervals vary by half. Whatever loses an event fails the run. uvicorn uses uvloop and httptools where they are
installed; *on asyncio* is without uvloop.

Absolute numbers move with the machine and with what else it does: quote ratios, and only those of one run. What stores
write is measured by `python -m benchmarks.log_stores`."""


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this (may be given more than once)")
    parser.add_argument("--subject", action="append", help="measure only these, by a part of their names")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--output", type=Path, help="where to write the tables (default: RELAY.md, if all is measured)")
    options = parser.parse_args()

    before = os.getloadavg()[0]
    tables: list[str] = []
    for name in options.only or GROUPS:
        group = GROUPS[name]
        subjects = [each for each in group.subjects if _is_here(each) and _is_wanted(each, options.subject)]
        table = report(group, _measure(name, group, subjects, options.rounds))
        print("\n".join(table), flush=True)
        tables += table
    text = "\n".join([*_describe(options.rounds, before), *tables]) + "\n"
    output = options.output or (None if options.only or options.subject else _RESULTS)
    if output is not None:
        output.write_text(text, encoding="utf-8")


def _is_here(subject: str) -> bool:
    """Whether a program can be had that is no package of ours: others are measured without it."""
    if subject == "nginx":
        return shutil.which("nginx") is not None
    return subject != "LiteLLM" or "LITELLM" in os.environ


def _is_wanted(subject: str, parts: list[str] | None) -> bool:
    return parts is None or any(part in subject for part in parts)


def _measure(name: str, group: Group, subjects: list[str], rounds: int) -> dict[str, list[Numbers]]:
    found: dict[str, list[Numbers]] = {subject: [] for subject in subjects}
    with upstream() as port:
        for number in range(rounds):
            for subject in subjects if number % 2 == 0 else subjects[::-1]:
                print(f"{name}: round {number + 1} of {rounds}: {subject}", file=sys.stderr, flush=True)
                try:
                    found[subject].append(group.measure(SUBJECTS[subject], port))
                except Incomplete as error:
                    raise SystemExit(f"{subject} lost something: {error}") from error
    return found


def report(group: Group, found: dict[str, list[Numbers]]) -> list[str]:
    """A group's table, as Markdown.

    Args:
        group: It.
        found: Numbers, round by round, by subject.
    """
    nothing = found.get(group.nothing or "")
    if nothing is not None:
        found = {
            subject: _without(nothing, group.times, told) for subject, told in found.items() if told is not nothing
        }
    columns = list(next(iter(found.values()))[0])
    head = " | ".join(f"{column} | ratio" for column in columns)
    lines = ["", f"## {group.title}", "", group.note, "", f"| | {head} |", f"|---|{'--:|--:|' * len(columns)}"]
    for subject in found:
        cells = [cell for column in columns for cell in _cells(group, found, subject, column)]
        lines.append(f"| {subject} | {' | '.join(cells)} |")
    return lines


def _without(nothing: list[Numbers], times: tuple[str, ...], told: list[Numbers]) -> list[Numbers]:
    return [
        {**numbers, **{time: numbers[time] - own[time] for time in times}}
        for numbers, own in zip(told, nothing, strict=True)
    ]


def _cells(group: Group, found: dict[str, list[Numbers]], subject: str, column: str) -> tuple[str, str]:
    own = [numbers[column] for numbers in found[subject]]
    anchor = group.anchor_of(subject)
    value = f"{statistics.median(own):.3g}" if statistics.median(own) < 1000 else f"{statistics.median(own):,.0f}"
    if anchor not in found or anchor == subject:
        return value, "1" if anchor == subject else ""
    pairs = zip(own, [numbers[column] for numbers in found[anchor]], strict=True)
    ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
    return value, f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def _describe(rounds: int, before: float) -> list[str]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    load = f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after (about 1.5 is our own)"
    return [
        "# The relay measured",
        "",
        _HOW,
        "",
        f"- {datetime.now(tz=timezone.utc):%Y-%m-%d %H:%M} UTC, {rounds} rounds",
        f"- {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, {python}; {load}",
        f"- {', '.join(f'{name} {version(name)}' for name in _PACKAGES)}",
    ]


if __name__ == "__main__":
    main()
