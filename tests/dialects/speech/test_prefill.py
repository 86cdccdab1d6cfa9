"""Which models are known to go on from a partial answer, by the names that services give them."""

from __future__ import annotations

import pytest

from resumable_llm.dialects.speech.prefill import CLAUDE, GEMINI, OVERRIDE, Rule, why_not

GOES_ON = [
    "claude-instant-1.2",
    "claude-2.1",
    "anthropic.claude-v2:1",
    "claude-3-haiku-20240307",
    "claude-3-5-sonnet-20241022",
    "claude-3-5-sonnet-v2@20241022",
    "claude-3-7-sonnet-latest",
    "anthropic/claude-3.7-sonnet",
    "claude-opus-4",
    "claude-sonnet-4-0",
    "claude-sonnet-4-20250514",
    "claude-4-sonnet-20250514",
    "claude-opus-4@20250514",
    "claude-opus-4-1",
    "claude-opus-4-1-20250805",
    "anthropic/claude-opus-4.1",
    "claude-haiku-4-5",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5-20250929",
    "claude-sonnet-4-5@20250929",
    "anthropic.claude-sonnet-4-20250514-v1:0",
    "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-opus-4-5-20251101-v1:0",
    "anthropic/claude-sonnet-4.5",
    "anthropic/claude-sonnet-4:beta",
    "anthropic/claude-4.5-sonnet-20250929",
    "databricks-claude-sonnet-4-5",
    "Claude-Sonnet-4.5",
]
REFUSES = [
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-sonnet-4-6-20260217",
    "claude-opus-4-6@default",
    "anthropic.claude-opus-4-6-v1",
    "eu.anthropic.claude-opus-4-6-v1:0",
    "anthropic/claude-opus-4.6",
    "anthropic/claude-4.6-opus-20260205",
    "anthropic/claude-4.6-opus",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "anthropic/claude-opus-4.8:beta",
    "claude-opus-4-10",
    "claude-opus-4-51",
    "claude-opus-46",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-fable-5",
    "claude-fable-5-2",
    "claude-mythos-preview",
    "claude-mythos-5-1",
    "global.anthropic.claude-opus-5",
    "anthropic/claude-opus-latest",
    "claude-10",
    "Claude-Opus-4.6",
]
GEMINI_GOES_ON = [
    "gemini-1.5-pro",
    "gemini-2.0-flash",
    "gemini-2.5-flash",
    "google/gemini-2.5-pro",
    "models/gemini-2.5-flash-lite",
    "gemini-3-pro-preview",
    "gemini-3",
    "gemini-3.1-pro-preview",
    "gemini-3.5-flash",
]
GEMINI_REFUSES = [
    "gemini-3.5-flash-lite",
    "gemini-3.6-flash",
    "models/gemini-3.6-flash",
    "gemini-3.10-pro",
    "gemini-4-pro",
    "gemini-10",
    "gemini-flash-latest",
]


def test_every_claude_that_the_sdk_names_is_known() -> None:
    model = pytest.importorskip("anthropic.types.model")
    known = [name for kind in model.Model.__args__ for name in getattr(kind, "__args__", ())]
    assert known
    refusing = [name for name in known if why_not(name, CLAUDE, None)]
    assert sorted(set(known) - set(refusing)) == [name for name in sorted(known) if "-4-5" in name]


@pytest.mark.parametrize(
    ("model", "rules"), [(name, CLAUDE) for name in GOES_ON] + [(name, GEMINI) for name in GEMINI_GOES_ON]
)
def test_models_that_go_on(model: str, rules: tuple[Rule, ...]) -> None:
    rule = next(rule for rule in rules if rule.models.match(model))
    assert rule.goes_on
    assert why_not(model, rules, None) == ""


@pytest.mark.parametrize(
    ("model", "rules"), [(name, CLAUDE) for name in REFUSES] + [(name, GEMINI) for name in GEMINI_REFUSES]
)
def test_models_that_refuse(model: str, rules: tuple[Rule, ...]) -> None:
    reason = why_not(model, rules, None)
    assert model in reason
    assert OVERRIDE in reason


@pytest.mark.parametrize("model", ["", "gpt-5", "qwen3-4b", "smollm2", "claudette", "gemini"])
def test_nothing_is_known_of_others(model: str) -> None:
    assert why_not(model, CLAUDE + GEMINI, None) == ""


def test_the_caller_knows_better() -> None:
    assert why_not("claude-opus-4-6", CLAUDE, can_continue=True) == ""
    assert "can_continue=False" in why_not("claude-opus-4-5", CLAUDE, can_continue=False)
    assert "can_continue=False" in why_not("smollm2", CLAUDE, can_continue=False)


@pytest.mark.parametrize("rule", CLAUDE + GEMINI)
def test_every_line_says_where_and_when_it_was_read(rule: Rule) -> None:
    assert "2026-11-22" in rule.source
