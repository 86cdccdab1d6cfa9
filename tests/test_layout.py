"""The house stands as drawn: imports go downward only, and every module has a test module of its own."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "resumable_llm"
PACKAGE = SOURCE.name

# A room is a folder or a module of the package. It may use itself and the floors below it, never its neighbours.
FLOORS = (
    {"core"},
    {"policy", "dialects", "log", "local", "testing"},
    {"drivers"},
    {"transports"},
    {"families"},
    {"streams", "wrapping", "relay"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Imports that go upward all the same, each with its reason.
UPWARD = {
    ("testing/plugin.py", "__init__"): "its fixtures give users the public names, imported when a fixture is used",
}

# What the lower floors may import besides the standard library. HTTP libraries are known from transports upward.
OUTSIDE = {
    "core": set[str](),
    "policy": {"tenacity"},
    "dialects": set[str](),
    "log": {"redis"},
    "local": set[str](),
    "drivers": {"anyio", "typing_extensions"},
}

# Modules without a test module of their own, each with its reason. An __init__.py only re-exports; see test_exports.py.
UNTESTED: dict[str, str] = {
    "core/actions.py": "plain values without behaviour",
    "core/dialect.py": "a protocol without behaviour; the type checkers test it on every dialect",
}

MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of the modules that a module imports, anywhere in it; those only for type checkers count too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            # `from resumable_llm import core` names the room in what is imported
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    """The rooms that a module imports from; a public name of the package itself counts as __init__."""
    ours = [name.split(".") for name in imports(path) if name.split(".")[0] == PACKAGE]
    return {name[1] if len(name) > 1 and name[1] in FLOOR else "__init__" for name in ours}


def packages_used(path: Path) -> set[str]:
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - sys.stdlib_module_names - {PACKAGE, "__future__"}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downward_only(path: Path) -> None:
    own = room_of(path)
    upward = {room for room in rooms_used(path) - {own} if FLOOR[room] >= FLOOR[own]}
    allowed = {room for name, room in UPWARD if name == name_of(path)}
    assert upward == allowed, f"{own} may know {allowed or 'nobody'} above it"


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) in OUTSIDE], ids=name_of)
def test_the_lower_floors_know_no_http_library(path: Path) -> None:
    assert packages_used(path) <= OUTSIDE[room_of(path)]


def test_every_module_has_a_test_module() -> None:
    missing = []
    for path in MODULES:
        name = path.relative_to(SOURCE)
        if path.name not in ("__init__.py", "__main__.py") and name.as_posix() not in UNTESTED:
            mirrored = TESTS / name.with_name(f"test_{name.name.lstrip('_')}")
            if not mirrored.is_file():
                missing.append(mirrored.relative_to(TESTS).as_posix())
    assert not missing


@pytest.mark.parametrize("name", UNTESTED)
def test_exceptions_are_still_needed(name: str) -> None:
    path = Path(name)
    assert (SOURCE / path).is_file()
    assert not (TESTS / path.with_name(f"test_{path.name}")).exists()
