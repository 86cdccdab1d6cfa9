"""What all tests share: one that fails does so alone."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LEAKS = """
import gc
import socket

def leave_open():
    left = [socket.socket()]
    left.append(left)

def test_fails():
    left = [socket.socket()]
    left.append(left)
    raise AssertionError

def test_behind_it():
    gc.collect()

def test_of_its_own():
    leave_open()
    gc.collect()

def test_last():
    gc.collect()
"""


def test_what_a_failed_test_left_open_is_not_told_in_another(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest = Path(__file__).with_name("conftest.py")
    pytester.makeconftest(conftest.read_text(encoding="utf-8"))
    pytester.makepyfile(LEAKS)
    monkeypatch.setenv("PYTHONPATH", str(conftest.parents[1]))
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["FAILED *::test_fails*", "FAILED *::test_of_its_own*"])
