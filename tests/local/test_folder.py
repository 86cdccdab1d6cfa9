"""Where caches are, and who can look into them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from resumable_llm.local.folder import cache_folder, private_folder

PLACES = [
    ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/resumable-llm"),
    ("linux", {}, "/home/me/.cache/resumable-llm"),
    ("darwin", {}, "/home/me/Library/Caches/resumable-llm"),
    ("win32", {"LOCALAPPDATA": "/local"}, "/local/resumable-llm/Cache"),
    ("win32", {}, "/home/me/AppData/Local/resumable-llm/Cache"),
]


@pytest.mark.parametrize(("platform", "environment", "expected"), PLACES)
def test_the_cache_is_where_the_platform_keeps_caches(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder().as_posix() == expected


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "resumable-llm"


def test_private_folder_is_for_its_user_alone(cache: Path) -> None:
    made = private_folder("mine")
    assert made == cache / "mine"
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    assert private_folder("mine").stat().st_mode & 0o777 == 0o700


def test_folder_of_somebody_else_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        private_folder("mine")
    monkeypatch.setattr(sys, "platform", "win32")
    assert private_folder("mine") == cache / "mine"
