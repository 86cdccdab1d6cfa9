"""How the demo looks, on a terminal and elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from resumable_llm.cli.demo import Drop, Outcome, Reader
from resumable_llm.cli.display import PlainAudience, TerminalAudience, save_picture

WORDS = "The robot's name was Kira. She repairs lines."
CUT = WORDS.index(" She")


def plain() -> Reader:
    return Reader(text=WORDS[:CUT], ended="ended in the middle of the answer, with no error")


def wrapped() -> Reader:
    drops = [
        Drop(place=9, what="reset after event 3", back="resumed at byte 700", gap=0.25),
        Drop(place=CUT, what="silence after event 7"),
    ]
    return Reader(text=WORDS, drops=drops)


OUTCOME = Outcome([("bytes identical", "", "yes [really]")], "2 drops, and the application saw none.", identical=True)


class Screen:
    """Consoles on stdout and stderr, and what was written to them."""

    def __init__(self, *, terminal: bool, width: int = 90, height: int = 24) -> None:
        self.out, self.err = (
            Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height, highlight=False)
            for _ in range(2)
        )

    @staticmethod
    def _text(console: Console) -> str:
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    @property
    def written(self) -> str:
        return self._text(self.out)

    @property
    def told(self) -> str:
        return self._text(self.err)


def test_elsewhere_the_answer_goes_to_stdout_and_the_rest_to_stderr() -> None:
    screen = Screen(terminal=False)
    audience = PlainAudience(screen.out, screen.err)
    audience.say("starting [it]")
    dead, alive = plain(), Reader()
    whole = wrapped()
    with audience.show(dead, alive) as refresh:
        alive.text = WORDS[:9]
        refresh()
        assert screen.written == WORDS[:9]
        alive.drops = whole.drops[:1]
        refresh()
        alive.text = WORDS
        alive.drops = whole.drops
        alive.ended = "the answer is complete"
        refresh()
        refresh()
    assert screen.written == f"{WORDS}\n\n"
    assert screen.told.splitlines() == [
        "starting [it]",
        "[plain] ended in the middle of the answer, with no error",
        "[wrapped] drop 1: reset after event 3",
        "[wrapped] drop 1: resumed at byte 700, 0.25 s lost",
        "[wrapped] drop 2: silence after event 7",
        "[wrapped] the answer is complete",
    ]
    audience.conclude(dead, alive, OUTCOME)
    assert "| bytes identical |" in screen.written
    assert "yes [really]" in screen.written
    assert screen.written.endswith(f"{OUTCOME.summary}\n")
    assert "\x1b" not in screen.written + screen.told
    assert screen.written.isascii()


def test_in_a_terminal_both_are_seen_side_by_side() -> None:
    screen = Screen(terminal=True)
    audience = TerminalAudience(screen.out, screen.err)
    audience.say("starting")
    assert "starting" in screen.told
    with audience.show(plain(), wrapped()) as refresh:
        refresh()
    live = screen.written
    assert "OpenAI()" in live
    assert "rl.wrap(OpenAI())" in live
    assert "RECORDING" not in live
    assert "silence after event 7" in live
    audience.conclude(plain(), wrapped(), OUTCOME)
    end = screen.written[len(live) :]
    assert "╳1" in end
    assert "╳2" in end
    assert "resumed at byte 700, 0.25 s lost" in end
    assert "bytes identical" in end
    assert OUTCOME.summary in end


def test_a_recording_is_labelled_on_every_picture(tmp_path: Path) -> None:
    screen = Screen(terminal=True, width=100)
    audience = TerminalAudience(screen.out, screen.err, recorded=True)
    with audience.show(plain(), wrapped()):
        pass
    assert screen.written.count("RECORDING") >= 2
    save_picture(tmp_path / "demo.svg", plain(), wrapped(), OUTCOME, recorded=True)
    assert "RECORDING" in (tmp_path / "demo.svg").read_text()


@pytest.mark.parametrize(("width", "height"), [(40, 8), (80, 24), (200, 60)])
def test_a_long_answer_keeps_to_the_screen_while_it_comes(width: int, height: int) -> None:
    screen = Screen(terminal=True, width=width, height=height)
    long = Reader(text="".join(f"word{number} " for number in range(2000)), last_event_at=0)
    long.drops = [Drop(place=5 * number, what="reset") for number in range(30)]
    with TerminalAudience(screen.out, screen.err).show(plain(), long):
        pass
    assert "word1999" in screen.written
    assert "word0 " not in screen.written


def test_the_picture_shows_the_last_frame(tmp_path: Path) -> None:
    path = tmp_path / "demo.svg"
    save_picture(path, plain(), wrapped(), OUTCOME, recorded=False)
    picture = path.read_text()
    for each in ("resumable-llm&#160;demo", "Kira", "╳2", "bytes&#160;identical", "saw&#160;none"):
        assert each in picture
    assert "url(http" not in picture.replace('"', "")
