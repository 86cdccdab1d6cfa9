from __future__ import annotations

import subprocess
import sys

import pytest

import resumable_llm as rl

LAZY = ("httpx2", "resumable_llm.transports.httpx2", "resumable_llm.testing", "typer", "rich")


@pytest.mark.slow
def test_nothing_is_imported_before_somebody_wants_it() -> None:
    # httpx has a command of its own, which imports rich where that is installed.
    program = (
        f"import sys, httpx; there = set(sys.modules); import resumable_llm; "
        f"print(*sorted(set({LAZY}) & set(sys.modules) - there))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_comes_when_it_is_asked_for() -> None:
    assert rl.__getattr__("testing") is sys.modules["resumable_llm.testing"]
    assert rl.testing.__name__ == "resumable_llm.testing"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 needs Python 3.11")
def test_httpx2_comes_when_it_is_asked_for() -> None:
    assert rl.httpx2.__name__ == "resumable_llm.transports.httpx2"


def test_what_there_is_not() -> None:
    with pytest.raises(AttributeError, match="'nonsense'"):
        rl.nonsense  # noqa: B018
