"""How the demo looks: two panels side by side in a terminal, plain lines elsewhere.

Knows the demo's readers and what came of them, but not how they read.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from resumable_llm.cli.demo import Drop, Outcome, Reader

_DROPS_SHOWN = 8
_PICTURE_WIDTH = 112


class TerminalAudience:
    """Shows both readers live, side by side.

    Args:
        out: Console on stdout, a terminal.
        err: Console on stderr.
        recorded: Say on the picture that it shows a recording.
    """

    def __init__(self, out: Console, err: Console, *, recorded: bool = False) -> None:
        self._console = out
        self._err = err
        self._recorded = recorded

    def say(self, line: str) -> None:
        """Comment on what is being done."""
        self._err.print(line, style="dim", markup=False)

    @contextlib.contextmanager
    def show(self, plain: Reader, wrapped: Reader) -> Iterator[Callable[[], None]]:
        """Show both readers while the block runs."""

        def frame() -> RenderableType:
            lines = max(6, self._console.height - _DROPS_SHOWN - 5)
            return _frame(plain, wrapped, width=self._console.width, lines=lines, recorded=self._recorded)

        with Live(get_renderable=frame, console=self._console, refresh_per_second=15, transient=True):
            yield lambda: None

    def conclude(self, plain: Reader, wrapped: Reader, outcome: Outcome) -> None:
        """Show the whole of both answers and what came of it."""
        self._console.print(_conclusion(plain, wrapped, outcome, width=self._console.width, recorded=self._recorded))


class PlainAudience:
    """Writes the wrapped client's answer to stdout as it arrives, and everything else to stderr.

    Args:
        out: Console on stdout.
        err: Console on stderr.
    """

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err

    def say(self, line: str) -> None:
        """Comment on what is being done."""
        self._err.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def show(self, plain: Reader, wrapped: Reader) -> Iterator[Callable[[], None]]:
        """Show both readers while the block runs."""
        shown = 0
        told = {"plain": 0, "wrapped": 0}

        def refresh() -> None:
            nonlocal shown
            text = wrapped.text
            self._out.file.write(text[shown:])
            self._out.file.flush()
            shown = len(text)
            for name, reader in (("plain", plain), ("wrapped", wrapped)):
                lines = [line for line in _history(reader) if line]
                for line in lines[told[name] :]:
                    self.say(f"[{name}] {line}")
                told[name] = len(lines)

        yield refresh
        self._out.file.write("\n\n")

    def conclude(self, plain: Reader, wrapped: Reader, outcome: Outcome) -> None:
        """Show what came of it."""
        del plain, wrapped  # their texts were shown as they came
        self._out.print(_table(outcome, box.ASCII2))
        self._out.print(outcome.summary, markup=False, highlight=False)


def _history(reader: Reader) -> Iterator[str]:
    for number, drop in enumerate(reader.drops, start=1):
        yield f"drop {number}: {drop.what}"
        yield f"drop {number}: {_came_back(drop)}" if drop.gap is not None else ""
    yield reader.ended


def _came_back(drop: Drop) -> str:
    return drop.back if drop.gap is None else f"{drop.back}, {drop.gap:.2f} s lost"


def save_picture(path: Path, plain: Reader, wrapped: Reader, outcome: Outcome, *, recorded: bool) -> None:
    """Save the demo's last frame as an SVG picture.

    Args:
        path: Where to.
        plain: The reader without our help.
        wrapped: The reader with it.
        outcome: What came of it.
        recorded: Say on the picture that it shows a recording.
    """
    console = Console(
        record=True, width=_PICTURE_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(_conclusion(plain, wrapped, outcome, width=_PICTURE_WIDTH, recorded=recorded))
    picture = console.export_svg(title="resumable-llm demo")
    # rich has the viewer fetch a font from another site; any monospaced font does.
    path.write_text(re.sub(r"@font-face \{[^}]*\}\s*", "", picture), encoding="utf-8")


def _conclusion(plain: Reader, wrapped: Reader, outcome: Outcome, *, width: int, recorded: bool) -> RenderableType:
    verdict = Text(outcome.summary, style="bold green" if outcome.identical else "bold red")
    frame = _frame(plain, wrapped, width=width, lines=None, recorded=recorded)
    return Group(frame, _table(outcome, box.SIMPLE_HEAD), verdict)


def _frame(plain: Reader, wrapped: Reader, *, width: int, lines: int | None, recorded: bool) -> RenderableType:
    sides = Table.grid(expand=True, padding=0)
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    room = width // 2 - 4  # a panel's border and padding
    label = " · RECORDING" if recorded else ""
    sides.add_row(
        _panel(f"OpenAI(){label}", plain, room, lines), _panel(f"rl.wrap(OpenAI()){label}", wrapped, room, lines)
    )
    return Group(sides, _drops(wrapped, limit=_DROPS_SHOWN if lines else None))


def _panel(title: str, reader: Reader, room: int, lines: int | None) -> Panel:
    if not reader.ended:
        status, style = "reading" if reader.text else "waiting", "blue"
    else:
        status, style = reader.ended, "green" if reader.complete else "red"
    text = _text_with_marks(reader)
    if lines is not None:
        wrapped = text.wrap(Console(width=room), room)
        text = Text("\n").join(wrapped[-(lines - 2) :])
    if reader.ended:
        text = Text.assemble(text, ("\n\n" if reader.text else "") + status, style="")
        text.stylize(f"bold {style}", len(text) - len(status))
    return Panel(text, title=title, border_style=style, height=lines, box=box.ROUNDED)


def _text_with_marks(reader: Reader) -> Text:
    text, shown = Text(), 0
    for number, drop in enumerate(reader.drops, start=1):
        text.append(reader.text[shown : drop.place])
        text.append(f" ╳{number} ", style="bold red")
        shown = drop.place
    return text.append(reader.text[shown:])


def _drops(reader: Reader, limit: int | None) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for number, drop in list(enumerate(reader.drops, start=1))[-(limit or 0) :]:
        came_back = Text(_came_back(drop), style="green" if drop.gap is not None else "yellow")
        table.add_row(Text(f"╳{number}", style="bold red"), drop.what, came_back)
    return table


def _table(outcome: Outcome, style: box.Box) -> Table:
    table = Table(box=style)
    table.add_column("")
    table.add_column("OpenAI()")
    table.add_column("rl.wrap(OpenAI())")
    for row in outcome.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
