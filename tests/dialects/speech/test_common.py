"""The small things that every protocol's speech needs."""

from __future__ import annotations

from typing import Any

import pytest

from resumable_llm.core.events import Fields
from resumable_llm.dialects.speech.common import count, event_of, number_of, objects_in, reduced, strings_in


def test_an_event_has_a_name_and_data_at_most() -> None:
    assert event_of("error", "x") == Fields("error", "x", None, None)
    assert event_of(None) == Fields(None, None, None, None)


@pytest.mark.parametrize(
    ("value", "expected"), [([{"a": 1}, 2, None, {}], [{"a": 1}, {}]), ({"a": 1}, []), (None, []), ("x", [])]
)
def test_objects(value: object, expected: list[Any]) -> None:
    assert objects_in({"k": value}, "k") == expected
    assert objects_in({}, "k") == []


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (0, 0), (None, 7), ("1", 7), ([], 7), ({}, 7)])
def test_numbers(value: object, expected: int) -> None:
    assert number_of({"index": value}, 7) == expected
    assert number_of({}, 7) == 7


@pytest.mark.parametrize(
    ("value", "expected"), [("x", ["x"]), ("", []), (["a", "", 1, "b"], ["a", "b"]), (None, []), ({"a": 1}, [])]
)
def test_strings(value: object, expected: list[str]) -> None:
    assert strings_in(value) == expected


def test_counts_are_summed_if_the_first_is_there() -> None:
    assert count({"a": 1, "b": 2, "c": None}, "a", "b", "c", "d") == 3
    assert count({"b": 2}, "a", "b") is None


def test_limits_are_reduced_to_one_at_least() -> None:
    body = {"max_tokens": 10, "other": 3, "none": None, "no_limit": -1, "text": "9"}
    assert reduced(body, ("max_tokens", "none", "no_limit", "text"), 4) == {**body, "max_tokens": 6}
    assert reduced(body, ("max_tokens",), 99) == {**body, "max_tokens": 1}
