from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.log import Ahead, BadCursor, Cursor
from resumable_llm.log.model import locate


@given(st.integers(0, 10**8), st.integers(0, 10**14))
def test_a_cursor_survives_its_text(epoch: int, number: int) -> None:
    cursor = Cursor(epoch, number)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1\n", "-1", "+1", "01", "0.1", "1.", ".1", "1.01", "1.2.3", "1e3", "1_0", "\u0661", "9" * 16, "x"],
)
def test_what_no_log_gives_out_is_no_cursor(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(text)


def test_the_text_of_a_cursor_is_plain_until_a_log_is_reopened() -> None:
    assert (str(Cursor(0, 17)), str(Cursor(1, 18))) == ("17", "1.18")


@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 5), st.integers(0, 6), st.integers(0, 40))
def test_only_ids_that_were_given_out_and_kept_are_found(steps: list[int], more: int, epoch: int, number: int) -> None:
    reopened = [sum(steps[: index + 1]) for index in range(len(steps))]
    last = sum(steps) + more
    given_out = {Cursor(0, 0)}
    for number_of in range(1, last + 1):
        given_out.add(Cursor(sum(at < number_of for at in reopened), number_of))
    try:
        found = locate(Cursor(epoch, number), reopened, last) == number
    except (Ahead, BadCursor):
        found = False
    assert found is (Cursor(epoch, number) in given_out)
