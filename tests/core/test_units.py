"""Text in UTF-16 code units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.units import characters, common_prefix, joined, split

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@pytest.mark.parametrize(
    ("whole", "units"),
    [
        ("", ""),
        ("abc", "abc"),
        ("naïve", "naïve"),
        ("a😀b", "a\ud83d\ude00b"),
        ("\ud83dx", "\ud83dx"),
        ("x\ude00", "x\ude00"),
    ],
)
def test_characters_and_their_halves(whole: str, units: str) -> None:
    assert split(whole) == units
    assert joined(units) == whole


@given(ANY_TEXT)
def test_there_and_back(text: str) -> None:
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert joined(split(text)) == joined(text) == whole
    assert len(split(text)) == len(text.encode("utf-16-le", "surrogatepass")) // 2
    assert split(split(text)) == split(text)


@given(st.text(max_size=20), st.integers(0, 40))
def test_characters_in_pieces(text: str, at: int) -> None:
    """Also if a piece ends between the two halves of one."""
    units = split(text)
    assert characters(text) == characters(units) == characters(units[:at]) + characters(units[at:]) == len(text)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_what_two_texts_have_in_common(both: str, one: str, other: str) -> None:
    one, other = both + one, both + other
    common = common_prefix(one, other)
    assert one[:common] == other[:common]
    assert one[common : common + 1] != other[common : common + 1] or common == len(one) == len(other)
    assert common >= len(both)
