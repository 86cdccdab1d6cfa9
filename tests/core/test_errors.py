"""The errors: what they carry, over processes too, and how they join an HTTP family."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import pickle
import traceback

import pytest

from resumable_llm.core import errors
from resumable_llm.core.errors import ResumableError, as_family
from resumable_llm.core.model import Checkpoint, Drop, Report

ALL = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ResumableError)]
CHECKPOINT = Checkpoint("openai_responses", "POST", "https://api.example/v1/responses", sequence=7, handle="resp_1")
REPORT = Report(attempts=2, drops=(Drop("broke", "resume", 3, 0.5),), events=5)
FAMILIES = [
    "httpx",
    pytest.param(
        "httpx2", marks=pytest.mark.skipif(importlib.util.find_spec("httpx2") is None, reason="httpx2 is not installed")
    ),
]


def make(kind: type[ResumableError]) -> ResumableError:
    return kind("it broke", partial_text="Hel", checkpoint=CHECKPOINT, report=REPORT)


@pytest.mark.parametrize("kind", ALL)
class TestEach:
    def test_carries_what_was_received(self, kind: type[ResumableError]) -> None:
        error = make(kind)
        assert str(error) == "it broke"
        assert error.args == ("it broke",)
        assert (error.partial_text, error.checkpoint, error.report) == ("Hel", CHECKPOINT, REPORT)

    def test_needs_a_message_only(self, kind: type[ResumableError]) -> None:
        error = kind("it broke")
        assert (error.partial_text, error.checkpoint, error.report) == ("", None, None)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_is_pickled(self, kind: type[ResumableError], protocol: int) -> None:
        self.check(kind, pickle.loads(pickle.dumps(make(kind), protocol)))

    def test_is_copied(self, kind: type[ResumableError]) -> None:
        self.check(kind, copy.deepcopy(make(kind)))

    def check(self, kind: type[ResumableError], error: ResumableError) -> None:
        assert type(error) is kind
        assert (str(error), error.partial_text) == ("it broke", "Hel")
        assert (error.checkpoint, error.report) == (CHECKPOINT, REPORT)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_joins_a_family(self, kind: type[ResumableError], family: str) -> None:
        theirs = importlib.import_module(family)
        error = make(kind)
        error.__cause__ = OSError("cable")
        joined: Exception = as_family(error, theirs.RemoteProtocolError)
        assert isinstance(joined, kind)
        assert isinstance(joined, theirs.TransportError)
        assert type(joined).__mro__[1] is kind
        assert type(joined).__name__ == kind.__name__
        assert type(joined).__doc__ == kind.__doc__
        assert joined.__cause__ is error.__cause__
        assert (str(joined), joined.partial_text, joined.checkpoint, joined.report) == (
            "it broke",
            "Hel",
            CHECKPOINT,
            REPORT,
        )
        with pytest.raises(RuntimeError):  # as their own errors do when nobody has set it
            joined.request  # noqa: B018

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_member_of_a_family_is_pickled_without_it(self, kind: type[ResumableError], family: str) -> None:
        joined = as_family(make(kind), importlib.import_module(family).RemoteProtocolError)
        self.check(kind, pickle.loads(pickle.dumps(joined)))


def test_there_is_one_class_for_each_pair() -> None:
    first, second = (as_family(make(errors.CannotResume), ConnectionError) for _ in range(2))
    other = as_family(make(errors.CannotResume), OSError)
    assert type(first) is type(second)
    assert type(first) is not type(other)


def test_is_caught_as_either_and_printed_as_itself() -> None:
    for kind in (ConnectionError, errors.GapDetected, errors.StreamInterrupted, ResumableError):
        with pytest.raises(kind) as caught:
            raise as_family(make(errors.GapDetected), ConnectionError)
        assert "GapDetected: it broke" in "".join(traceback.format_exception_only(caught.value))
