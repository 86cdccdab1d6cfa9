"""The command line: measures in turn and several times, prints the tables, and writes them to RELAY.md.

All of it takes less than half an hour. What RELAY.md has between ``<!-- by hand -->`` and ``<!-- end -->`` stays there.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.relay.groups import GROUPS, Group
from benchmarks.relay.load import Incomplete
from benchmarks.relay.scenarios import Numbers
from benchmarks.relay.subjects import SUBJECTS, upstream
from tests.log.redis_server import programs

RESULTS = Path(__file__).with_name("RELAY.md")
_PACKAGES = ("uvicorn", "uvloop", "httptools", "h11", "aiohttp", "starlette", "httpx", "sse-starlette", "websockets")
_WITH_REDIS = ("redis", "hiredis")
_ROUNDS = {1: "One round", 2: "Two rounds", 3: "Three rounds"}
BY_HAND = re.compile(r"<!-- by hand -->.*?<!-- end -->\n", re.DOTALL)

_HOW = """\
Written by `python -m benchmarks.relay`. Upstream, relay and reader are a process each, on loopback. Every round
measures all in turn, every other round backwards; numbers are medians over the rounds. A *ratio* is the median, with
least and most, of the ratios within a round: to the plain pass-through on the same event loop, where the table does not
begin with somebody else. CPU is user and system time of the relay's process with its threads, as Linux counts it; that
of a process which wakes for each event is mostly the waking's. An event has 218 bytes, and streams are out of step:
their intervals vary by half. Whatever loses an event that it could have fails the run. uvicorn uses uvloop and
httptools where they are installed; *on asyncio* is without uvloop.

Absolute numbers move with the machine and with what else it does: quote ratios, and only those of one run. What stores
write is measured by `python -m benchmarks.log_stores`."""


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this (may be given more than once)")
    parser.add_argument("--subject", action="append", help="measure only these, by a part of their names")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default: twice or three times)")
    parser.add_argument("--output", type=Path, help="where to write the tables (default: RELAY.md, if all is measured)")
    options = parser.parse_args()

    before, groups = os.getloadavg()[0], {name: GROUPS[name] for name in options.only or GROUPS}
    wanted = {
        name: [each for each in group.subjects if _is_here(each) and _is_wanted(each, options.subject)]
        for name, group in groups.items()
    }
    progress = _Progress(sum(len(wanted[name]) * (options.rounds or groups[name].rounds) for name in groups))
    tables: list[str] = []
    for name, group in groups.items():
        if wanted[name]:
            found = _measure(name, group, wanted[name], options.rounds or group.rounds, progress)
            table = report(group, found)
            print("\n".join(table), flush=True)
            tables += table
    output = options.output or (None if options.only or options.subject else RESULTS)
    if output is not None:
        by_hand = BY_HAND.findall(output.read_text(encoding="utf-8")) if output.exists() else []
        output.write_text("\n".join(page(_describe(before), tables, by_hand)) + "\n", encoding="utf-8")


class _Progress:
    """Says on stderr how far it is."""

    def __init__(self, measurements: int) -> None:
        self._all = measurements
        self._begun = 0
        self._since = time.monotonic()

    def begin(self, what: str) -> None:
        self._begun += 1
        minutes, seconds = divmod(int(time.monotonic() - self._since), 60)
        print(f"{minutes:02}:{seconds:02} {self._begun}/{self._all} {what}", file=sys.stderr, flush=True)


def _is_here(subject: str) -> bool:
    """Whether a program can be had that is no package of ours: others are measured without it."""
    if subject == "nginx":
        return shutil.which("nginx") is not None
    if "Redis" in subject:
        return bool(programs()) and find_spec("redis") is not None
    return subject != "LiteLLM" or "LITELLM" in os.environ


def _is_wanted(subject: str, parts: list[str] | None) -> bool:
    return parts is None or any(part in subject for part in parts)


def _measure(
    name: str, group: Group, subjects: list[str], rounds: int, progress: _Progress
) -> dict[str, list[Numbers]]:
    found: dict[str, list[Numbers]] = {subject: [] for subject in subjects}
    with upstream() as port:
        for number in range(rounds):
            for subject in subjects if number % 2 == 0 else subjects[::-1]:
                progress.begin(f"{name}: round {number + 1} of {rounds}: {subject}")
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
    columns = max((list(told[0]) for told in found.values()), key=len)
    head = [part for column in columns for part in ([column] if column in group.plain else [column, "ratio"])]
    rounds = len(next(iter(found.values())))
    lines = ["", f"## {group.title}", "", f"{group.note} {_ROUNDS.get(rounds, f'{rounds} rounds')}.", ""]
    lines += [f"| | {' | '.join(head)} |", f"|---|{'--:|' * len(head)}"]
    for subject in found:
        cells = [cell for column in columns for cell in _cells(group, found, subject, column)]
        lines.append(f"| {subject} | {' | '.join(cells)} |")
    return lines


def _without(nothing: list[Numbers], times: tuple[str, ...], told: list[Numbers]) -> list[Numbers]:
    return [
        {**numbers, **{time: numbers[time] - own[time] for time in times}}
        for numbers, own in zip(told, nothing, strict=True)
    ]


def _cells(group: Group, found: dict[str, list[Numbers]], subject: str, column: str) -> list[str]:
    if column not in found[subject][0]:
        return ["-"] if column in group.plain else ["-", ""]
    own = [numbers[column] for numbers in found[subject]]
    anchor = group.anchor_of(subject)
    value = f"{statistics.median(own):.3g}" if statistics.median(own) < 1000 else f"{statistics.median(own):,.0f}"
    if column in group.plain:
        return [value]
    if anchor not in found or anchor == subject:
        return [value, "1" if anchor == subject else ""]
    pairs = zip(own, [numbers[column] for numbers in found[anchor]], strict=True)
    ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
    if not ratios:  # the anchor is lost in the noise of what takes as long without it
        return [value, ""]
    return [value, f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"]


def page(described: list[str], tables: list[str], by_hand: list[str]) -> list[str]:
    """What RELAY.md says.

    Args:
        described: When and on what it was measured.
        tables: What was measured.
        by_hand: What somebody has written; the first goes before the tables and the others behind them.
    """
    first, *others = by_hand or [""]
    return [
        "# The relay measured",
        "",
        _HOW,
        "",
        first,
        *described,
        *tables,
        *(f"\n{each}".rstrip() for each in others),
    ]


def _describe(before: float) -> list[str]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    load = f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after (about 1.5 is our own)"
    packages = [*_PACKAGES, *(name for name in _WITH_REDIS if find_spec(name) is not None)]
    return [
        f"- {datetime.now(tz=timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"- {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, {python}; {load}",
        f"- {', '.join([*(f'{name} {version(name)}' for name in packages), *_redis_server()])}",
    ]


def _redis_server() -> list[str]:
    if not programs():
        return []
    told = subprocess.run([programs()[0], "--version"], capture_output=True, text=True, check=True).stdout
    return [f"redis-server {told.partition('v=')[2].partition(' ')[0]}"]


if __name__ == "__main__":
    main()
