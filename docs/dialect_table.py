"""Writes reference/dialects.md from what the dialects say of themselves.

    python docs/dialect_table.py

A test sees to it that the page is what this writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import Answer
from resumable_llm.dialects import DIALECTS, Dialect, Facts
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.openai_services import SERVICES
from resumable_llm.dialects.relayed import Relayed

PAGE = Path(__file__).parent / "reference" / "dialects.md"
BEGIN, END = "<!-- generated: dialects -->", "<!-- generated: end -->"


def _shown() -> list[tuple[str, Dialect]]:
    # These are not recognised by their requests and stand behind several formats, so they are not in the tuple.
    over = [("llama_cpp", LlamaCpp(OpenAIChat())), ("relay", Relayed(OpenAIChat()))]
    named = [(dialect.name, dialect) for dialect in DIALECTS]
    return [*named[:-1], *over, named[-1]]


def _kept(dialect: Dialect) -> str:
    return dialect.facts.kept or dialect.keeps


def _fallback(dialect: Dialect) -> str:
    """What `fallback=` may be, found out by asking for it as for a model that nobody knows."""
    if dialect.speech is None:
        return "neither"
    host = next((each.hosts[0] for each in SERVICES if dialect.name == f"{each.name}_chat"), "127.0.0.1")
    body = {"model": "unknown", "messages": [], "contents": [], "prompt": "Once"}
    request = RequestPlan("POST", f"https://{host}/v1/chat/completions", (), json.dumps(body).encode())
    answers = [dialect.speech.go_on(request, Answer(), "upon", can_continue=known) for known in (None, True)]
    match [answer.plan is not None for answer in answers]:
        case [True, _]:
            return "`replay`, `continue`"
        case [_, True]:
            return "`replay`; `continue` with `can_continue=True`"
        case _:
            return "`replay`"


def _section(name: str, facts: Facts) -> list[str]:
    lines = [f"### {name}", "", f"Spoken by {facts.systems}.", ""]
    if facts.cancel:
        lines.append(f"- `cancel()`: {facts.cancel}")
    if facts.upgrade:
        lines.append(f"- `upgrade=True`: {facts.upgrade}")
    lines += [f"- Source: {source}" for source in facts.sources]
    return [*lines, ""]


def render() -> str:
    """The generated part of the page."""
    head = [
        "dialect",
        "resumes how",
        "what is kept, for how long",
        "what proves the end",
        "what closing does",
        "`fallback=`",
    ]
    rows = [
        [
            f"[`{name}`](#{name})",
            *(dialect.facts.resume, _kept(dialect), dialect.facts.end, dialect.facts.closing, _fallback(dialect)),
        ]
        for name, dialect in _shown()
    ]
    table = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    sections = [line for name, dialect in _shown() for line in _section(name, dialect.facts)]
    return "\n".join([BEGIN, "", *table, "", "## Each of them", "", *sections, END])


def page() -> str:
    """The whole page, with its generated part as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + render() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE}\n")
