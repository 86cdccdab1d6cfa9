from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.log.extents import Extents

BLOCKS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3)), max_size=30)


def extents_of(blocks: list[tuple[int, int]]) -> tuple[Extents, list[tuple[int, int, int]]]:
    """The extents, and for each block with events its row and the numbers before its first and of its last."""
    extents, place, last, plain = Extents(), 0, 0, []
    for step, events in blocks:
        place += step
        extents.add(place, last + events)
        if events:
            plain.append((place, last, last + events))
        last += events
    return extents, plain


@given(BLOCKS)
def test_packed_and_unpacked_they_are_the_same(blocks: list[tuple[int, int]]) -> None:
    extents, plain = extents_of(blocks)
    again = Extents.unpack(extents.pack())
    assert len(again) == len(blocks)
    assert list(again) == list(extents)
    last = plain[-1][2] if plain else 0
    assert list(again.behind(0, last)) == [(place, before) for place, before, _ in plain]


@given(BLOCKS, st.data())
def test_the_blocks_behind_a_number_are_those_with_later_events(
    blocks: list[tuple[int, int]], data: st.DataObject
) -> None:
    extents, plain = extents_of(blocks)
    last = plain[-1][2] if plain else 0
    after = data.draw(st.integers(0, last))
    upto = data.draw(st.integers(0, last))
    wanted = [(place, before) for place, before, end in plain if end > after and before < upto]
    assert list(extents.behind(after, upto)) == wanted


def test_what_was_added_can_be_taken_back() -> None:
    extents = Extents()
    extents.add(3, 1)
    extents.add(7, 2)
    extents.pop()
    assert list(extents) == [3]
    extents.add(9, 4)
    assert list(extents.behind(1, 4)) == [(9, 1)]


def test_regular_blocks_take_next_to_nothing() -> None:
    extents = Extents()
    for number in range(1, 1001):
        extents.add(100 * number, number)
    assert len(extents.pack()) < 200
