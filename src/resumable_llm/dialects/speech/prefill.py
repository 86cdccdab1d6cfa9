"""Which models go on from a partial answer that they are given, and which refuse, or do not and say nothing.

A table, with the date at which each line was true. What is not in it may be tried where a server that ignores the
partial answer would be recognised, and is refused otherwise; ``can_continue=`` overrides it either way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OVERRIDE = "can_continue=True says that it can"


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
    rule = next((rule for rule in rules if rule.models.match(model)), None)
    if rule is None or rule.goes_on:
        return ""
    return f"{model} does not go on from a partial answer ({rule.source}); {OVERRIDE}"
