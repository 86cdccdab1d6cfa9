"""The examples in the documentation are Python, and use only names that exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import resumable_llm as rl

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = [
    pytest.param(example, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, example in enumerate(EXAMPLE.findall(page.read_text(encoding="utf-8")), 1)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_names_in_examples_exist(example: str) -> None:
    for node in ast.walk(ast.parse(example)):
        match node:
            case ast.Attribute(value=ast.Name(id="rl"), attr=name):
                assert name in rl.__all__
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="rl"), attr=module), attr=name):
                found = getattr(rl, module)
                assert hasattr(found, name), f"rl.{module} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_table_of_dialects_is_what_they_say() -> None:
    spec = importlib.util.spec_from_file_location("dialect_table", ROOT / "docs" / "dialect_table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run: python docs/dialect_table.py"
