"""The examples in the documentation are Python, and use only names that exist."""

from __future__ import annotations

import ast
import importlib.util
import math
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


NAMED = re.compile(
    r"^\.\. auto(?:class|function|exception|data):: ([\w.]+)|^\.\. currentmodule:: ([\w.]+)", re.MULTILINE
)


def test_every_public_name_is_in_the_reference() -> None:
    module, named = "", set()
    for name, current in NAMED.findall((ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")):
        module = current or module
        if name:
            named.add(name if name.startswith("resumable_llm.") else f"{module}.{name}")
    public = {f"resumable_llm.{name}" for name in rl.__all__} - {"resumable_llm.httpx", "resumable_llm.httpx2"}
    assert public - named == {"resumable_llm.testing"}
    assert {f"resumable_llm.testing.{name}" for name in rl.testing.__all__} <= named
    assert {"resumable_llm.relay.relay", "resumable_llm.log.redis.RedisStore"} <= named


def test_the_table_of_dialects_is_what_they_say() -> None:
    spec = importlib.util.spec_from_file_location("dialect_table", ROOT / "docs" / "dialect_table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run: python docs/dialect_table.py"


COSTS = (ROOT / "docs" / "explanation" / "what-a-drop-costs.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    """The rows of the table whose head begins with this."""
    table = COSTS.partition(f"| {head} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def dollars_per_drop(
    read: float, cached: float, written: float, *, prompt: int, said: int, hit: float
) -> tuple[float, float]:
    """What a drop costs beyond an unbroken answer: asking for all of it again, and having the model go on.

    Args:
        read: Dollars per million tokens read.
        cached: Of those read from a cache.
        written: Of those written.
        prompt: Tokens of the prompt.
        said: Tokens delivered before the drop.
        hit: The part of the prompt that comes from the cache.
    """
    again = prompt * (hit * cached + (1 - hit) * read)
    return (again + said * written) / 1e6, (again + said * read) / 1e6


def test_what_a_thousand_drops_cost() -> None:
    table = rows("model")
    assert len(table) == 8
    for _, *prices, hit, by_replay, by_continue, _ in table:
        read, cached, written = map(float, prices)
        found = dollars_per_drop(read, cached, written, prompt=8000, said=1000, hit=float(hit.removesuffix("%")) / 100)
        shown = [f"{1000 * dollars:.2f}" for dollars in found]
        assert by_replay == shown[0]
        assert by_continue in (shown[1], "refused")


def test_how_long_a_drop_takes() -> None:
    table = rows("tokens per second")
    assert len(table) == 3
    for rate, *shown in table:
        again = 1 + 1000 / int(rate)
        assert shown == [f"{seconds:.1f} s" for seconds in (10 + again, again, 1, 0.3)]


def test_what_frequent_drops_do() -> None:
    table = rows("the answer takes")
    assert len(table) == 3
    for takes, over, on in table:
        seconds = float(takes.removesuffix(" s"))
        assert (over, on) == (f"{60 * math.expm1(seconds / 60):,.0f} s", f"{seconds + seconds / 60:.1f} s")
