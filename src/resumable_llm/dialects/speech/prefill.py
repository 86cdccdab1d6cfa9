"""Which models go on from a partial answer that they are given, and which refuse, or do not and say nothing.

A table, with the date at which each line was true. A model that is not in it is given a trial, once: a count that was
begun. ``can_continue=`` overrides both either way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OVERRIDE = "can_continue=True says that it can"

QUESTION = "Count from 41 to 60, separated by commas."
BEGUN = "41, 42, 43, 44, 45, 46,"
TRIAL_TOKENS = 8


def went_on(text: object) -> bool:
    """Whether this is how a model goes on that was asked `QUESTION` and given `BEGUN` as its own partial answer.

    Even a very small model gets this right, and one that begins a new turn never does.
    """
    return isinstance(text, str) and text.lstrip().removeprefix(BEGUN).lstrip().startswith("47")


@dataclass(frozen=True)
class Rule:
    """What is known of some models.

    Attributes:
        models: Matches their names, from the beginning.
        goes_on: Whether they go on from a partial answer.
        source: Where that was read, with the date.
    """

    models: re.Pattern[str]
    goes_on: bool
    source: str


_ANTHROPIC = "https://platform.claude.com/docs/en/build-with-claude/streaming, error recovery, 2026-11-22"
_GOOGLE = "ai.google.dev, as quoted in cline/cline #12521 and danny-avila/agents #323, 2026-11-22"

_FOUR = r"4(?:[.-][0-5](?!\d))?(?![.-]?\d{1,2}(?!\d))"  # a date is no minor version

CLAUDE: tuple[Rule, ...] = (
    Rule(
        re.compile(
            rf"(?:.*[^a-z])?claude-(?:instant|(?:(?:opus|sonnet|haiku)-)?(?:v?[1-3](?!\d)|{_FOUR}))", re.IGNORECASE
        ),
        True,
        _ANTHROPIC,
    ),
    Rule(re.compile(r"(?:.*[^a-z])?claude-", re.IGNORECASE), False, f"{_ANTHROPIC}: 4.6 and later refuse with 400"),
)
GEMINI: tuple[Rule, ...] = (
    Rule(re.compile(r"(?:.*/)?gemini-3\.5-flash-lite"), False, _GOOGLE),
    Rule(re.compile(r"(?:.*/)?gemini-(?:[12](?!\d)|3(?![\d.])|3\.[0-4](?!\d)|3\.5-flash)"), True, _GOOGLE),
    Rule(re.compile(r"(?:.*/)?gemini-"), False, f"{_GOOGLE}: 3.6 Flash and later refuse with 400"),
)


def why_not(model: str, rules: tuple[Rule, ...], can_continue: bool | None) -> str:
    """Why a model cannot be asked to go on; empty if it can, or if nothing is known.

    Args:
        model: Its name.
        rules: What is known, the first that matches.
        can_continue: What the caller says; it overrides the table.
    """
    if can_continue is not None:
        return "" if can_continue else "can_continue=False says that the model does not go on from a partial answer"
    rule = _rule(model, rules)
    if rule is None or rule.goes_on:
        return ""
    return f"{model} does not go on from a partial answer ({rule.source}); {OVERRIDE}"


def is_known(model: str, rules: tuple[Rule, ...], can_continue: bool | None) -> bool:
    """Whether there is no need to try; see `why_not`."""
    return can_continue is not None or _rule(model, rules) is not None


def _rule(model: str, rules: tuple[Rule, ...]) -> Rule | None:
    return next((rule for rule in rules if rule.models.match(model)), None)
