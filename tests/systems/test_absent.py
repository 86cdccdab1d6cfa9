"""The hooks, in a conftest.py of a sub-folder as ours is."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from tests.systems.absent import pytest_sessionfinish, pytest_terminal_summary, skip_and_tell

class Unavailable(Exception):
    pass

@pytest.fixture(scope="session")
def server(pytestconfig):
    with skip_and_tell(pytestconfig, "teapot", Unavailable):
        raise Unavailable("no water\\nin the house")

@pytest.fixture(scope="session")
def too_new(pytestconfig):
    with skip_and_tell(pytestconfig, "samovar", Unavailable, python=(9, 9)):
        raise AssertionError

@pytest.fixture(scope="session")
def broken(pytestconfig):
    with skip_and_tell(pytestconfig, "kettle", Unavailable):
        raise ValueError
"""
TESTS = """
def test_of_it(server): ...
def test_again(server): ...
def test_of_another(): ...
"""
MARKED = """
import pytest
from tests.systems.absent import needs_python

@pytest.mark.parametrize(
    "sdk",
    [
        pytest.param("tea_sdk", marks=needs_python("tea_sdk", (9, 9))),
        pytest.param("tea_sdk", marks=needs_python("tea_sdk", (3, 10))),
    ],
)
def test_of_it(sdk):
    __import__(sdk)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    folder = pytester.mkdir("below")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_below.py").write_text(TESTS, encoding="utf-8")
    monkeypatch.delenv("CI", raising=False)
    return pytester


def test_tests_are_skipped_and_the_summary_says_why(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess()
    result.assert_outcomes(passed=1, skipped=2)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*= SERVERS THAT COULD NOT BE RUN =*", "teapot: no water", "in the house"])


def test_in_ci_the_run_fails(run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = run.runpytest_inprocess()
    result.assert_outcomes(passed=1, skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*= SERVERS THAT COULD NOT BE RUN =*", "*So this run fails."])


def test_a_run_that_has_all_its_servers_says_nothing(run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = run.runpytest_inprocess("-k", "another")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*COULD NOT BE RUN*")


def test_a_python_that_is_too_old_is_nothing_amiss(run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    (run.path / "below" / "test_below.py").write_text("def test_of_it(too_new): ...", encoding="utf-8")
    result = run.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*samovar needs Python 9.9*"])
    result.stdout.no_fnmatch_line("*COULD NOT BE RUN*")


def test_an_sdk_is_asked_for_only_where_python_is_new_enough(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    (run.path / "below" / "test_below.py").write_text(MARKED, encoding="utf-8")
    result = run.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*No module named 'tea_sdk'*", "*tea_sdk needs Python 9.9*"])


def test_any_other_exception_is_an_error(run: pytest.Pytester) -> None:
    (run.path / "below" / "test_below.py").write_text("def test_of_it(broken): ...", encoding="utf-8")
    run.runpytest_inprocess().assert_outcomes(errors=1)
