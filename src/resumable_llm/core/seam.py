"""Where the text of one generation ends and that of another goes on with it.

A model that was asked to go on from a partial text may do so, may say that text again first where that is the server's
habit, may give back white space that was taken off the end of it, or may never have seen it and start over. What comes
is held back until it is known which; as a rule that is the first character.

Starting over is recognised by the head of the text, which a continuation has no reason to repeat, and by a sentence
that begins in the middle of another. A server that starts over in other words, where a sentence or a line had just
ended, cannot be told from one that goes on: whether a model goes on at all is for a table, a trial, or the caller, to
say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from resumable_llm.core.units import characters, common_prefix, joined, split

MIN_HEAD = 12
"""Characters, at least, that only the head of the text has and the new one begins with, to show a new start."""

MIN_ECHO = 40
"""Characters in a text, at least, of which the repetition by a server of unknown habits is one of the server's."""

MIN_WORD = 2
"""Letters or digits, at least, that a model says and ends with, to show a new start that was cut short."""

# A word with a capital, and the beginning of the next one; what may become of it; what it cannot follow in a sentence.
_NEW_SENTENCE = re.compile(r"([^\W\d_]+)(?:(?:[,.!:]\s+| +)[\w\"'\u201c(*]|['\u2019][^\W\d_])").match
_NEW_WORD = re.compile(r"([^\W\d_]+)(?:[,.!:]\s*| *|['\u2019])").fullmatch
# No letter but "a" and the t of "isn't" is a word by itself: "pH", "kWh" and the like go on with a capital.
_PROSE = re.compile(
    r"(?:^|[\s(\"'\u201c\u2019\u2013\u2014-])(a|[^\W\d_]{2,}|(?<=\w['\u2019])[dmst])(?:,|[ \t]+)?$"
).search
_CODE = re.compile(r"[{}()\[\];=<>_\\/`|@#$]").search
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE).findall
_LAST_LINE = 80
_ANEW = "the model began anew instead of going on from what it had said"


class StartedOver(Exception):
    """The other generation does not go on with the text."""


class _Stage(Enum):
    ECHO = "echo"
    BLANK = "blank"
    STOP = "stop"
    OPEN = "open"


class TextSeam:
    """Joins the text of another generation to one that broke off.

    Args:
        said: The text that was delivered.
        stops: The request's stop sequences; one may begin before the seam and end behind it.
        echoes: Whether the server says the text again first; None: not known.
    """

    def __init__(self, said: str, stops: Sequence[str] = (), *, echoes: bool | None = None) -> None:
        said = joined(said)
        stops = [split(stop) for stop in stops]
        whole = said[:-1] if "\ud800" <= said[-1:] <= "\udbff" else said
        self.sent = whole.rstrip()
        """What is to be sent: the text less the white space at its end, and less half a character."""
        self.echoed = 0
        """Characters that the other generation said again."""
        self.stopped: str | None = None
        """The stop sequence that was met across the seam: the answer is complete."""
        self._echoes = echoes
        self._units = split(self.sent)
        self._head = self._units.lstrip()
        self._blank = split(said[len(self.sent) :])
        longest = max(map(len, stops), default=0)
        self._tail = split(said)[-(longest - 1) :] if longest > 1 else ""
        self._stops = [stop for stop in stops if any(self._tail.endswith(stop[:cut]) for cut in range(1, len(stop)))]
        self._held = ""
        self._matched = 0  # so much of the head has come, while nothing else has
        self._noted = 0  # so much of that stands in what is held; to put it there at once is quadratic
        self._stage = _Stage.ECHO if self._units else _Stage.BLANK

    def feed(self, text: str) -> str:
        """Take more of the other generation's text.

        Returns:
            What of it is new and may be delivered by now.

        Raises:
            StartedOver: It is no continuation.
        """
        if self._stage is _Stage.OPEN:
            return text if self.stopped is None else ""
        units = split(text)
        if 0 < self._matched < len(self._head) - len(units) and self._head.startswith(units, self._matched):
            self._matched += len(units)
            return ""
        self._held += self._head[self._noted : self._matched] + units
        self._noted = self._matched = 0
        return self._advance(last=False)

    def flush(self) -> str:
        """The other generation has ended: what is held back and new. Raises `StartedOver`."""
        if self._stage is _Stage.OPEN:
            return ""
        self._held += self._head[self._noted : self._matched]
        self._noted = self._matched = 0
        return self._advance(last=True)

    @property
    def is_holding(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def _advance(self, *, last: bool) -> str:
        if self._stage is _Stage.ECHO and not self._passed_echo(last=last):
            return ""
        if self._stage is _Stage.BLANK and not self._passed_blank(last=last):
            return ""
        if self._stage is _Stage.STOP and not self._passed_stops(last=last):
            return ""
        free, self._held = joined(self._held), ""
        return free

    def _passed_echo(self, *, last: bool) -> bool:
        """Whether it is known that the text was said again, or was not."""
        new, head = self._held.lstrip(), self._head
        if not new and not last:
            return False
        if new.startswith(head):
            if not (self._echoes or (self._echoes is None and len(head) >= MIN_ECHO)):
                raise StartedOver(_ANEW)
            self.echoed = characters(head)
            self._held = new[len(head) :]
        elif head.startswith(new):
            if not last:
                self._noted = self._matched = len(new)
                return False
            if new and (self._echoes or _letters(new) >= MIN_WORD):
                raise StartedOver("the model said what it had said before, and ended before it was through with it")
        elif self._echoes or self._starts_over(new):
            raise StartedOver(_ANEW)
        elif not last and self._may_break_in(new):
            return False
        self._stage = _Stage.BLANK
        return True

    def _starts_over(self, new: str) -> bool:
        head = self._head
        common = common_prefix(new, head)
        least = MIN_HEAD
        if "\n" in self._blank or "\n" in self._held[: len(self._held) - len(new)]:
            least = max(least, head.find("\n") + 1 or len(head))  # lines of a list, or of code, begin alike
        if common >= least and head.find(new[:common], 1) < 0:
            return True
        begun = _NEW_SENTENCE(new)
        return begun is not None and self._breaks_in(begun[1])

    def _may_break_in(self, new: str) -> bool:
        """Whether more of the text may show that a sentence begins in the middle of another."""
        begun = _NEW_WORD(new)
        return begun is not None and self._breaks_in(begun[1])

    def _breaks_in(self, word: str) -> bool:
        """Whether a sentence that begins with this word would begin in the middle of another."""
        if self._held[:1].isspace() or not (word[0].isupper() and (word[1:] or "a").islower()):
            return False
        line = (self._units + self._blank)[-_LAST_LINE:].rpartition("\n")[2]
        before = _PROSE(line)
        if before is None or not before[1].islower() or _CODE(line) is not None:
            return False
        return len(_FENCE(self._units)) % 2 == 0

    def _passed_blank(self, *, last: bool) -> bool:
        """Whether the white space at the end of the text has come again, or will not."""
        if not self._blank:
            self._stage = _Stage.STOP
            return True
        if not last and len(self._held) < len(self._blank) and self._blank.startswith(self._held):
            return False
        common = common_prefix(self._held, self._blank)
        if common < len(self._blank) and "\ud800" <= self._blank[-1] <= "\udbff":
            raise StartedOver("the answer broke off inside a character, and the model did not go on with that one")
        self._held = self._held[common:]
        self._stage = _Stage.STOP
        return True

    def _passed_stops(self, *, last: bool) -> bool:
        """Whether it is known that no stop sequence lies across the seam."""
        text = self._tail + self._held
        border = len(self._tail)
        across = [at for at in (_across(text, border, stop) for stop in self._stops) if at is not None]
        if across:
            self.stopped = joined(min(across)[1])
            self._held = ""
        elif not last and any(_may_end_as(text, border, stop) for stop in self._stops):
            return False
        self._stage = _Stage.OPEN
        return True


def _across(text: str, border: int, stop: str) -> tuple[int, str] | None:
    """Where a stop sequence begins before the border and ends behind it."""
    at = text.find(stop, max(border - len(stop) + 1, 0), border + len(stop) - 1)
    return None if at < 0 else (at, stop)


def _may_end_as(text: str, border: int, stop: str) -> bool:
    """Whether a stop sequence that begins before the border may be on its way."""
    return any(stop.startswith(text[at:]) for at in range(max(border - len(stop) + 1, 0), border))


def _letters(text: str) -> int:
    return sum(1 for each in text[:200] if each.isalnum())
