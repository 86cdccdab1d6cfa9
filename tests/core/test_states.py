"""The table of states."""

from __future__ import annotations

from resumable_llm.core.states import TRANSITIONS, Input, State


def test_the_table_is_closed() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(targets <= set(State) for inputs in TRANSITIONS.values() for targets in inputs.values())
    assert TRANSITIONS[State.ENDED] == TRANSITIONS[State.FAILED] == {}


def test_every_state_can_be_reached_and_every_input_can_come() -> None:
    reached, found = set[State](), {State.READY}
    while found:
        reached |= found
        found = {target for state in found for targets in TRANSITIONS[state].values() for target in targets} - reached
    assert reached == set(State)
    assert {event for inputs in TRANSITIONS.values() for event in inputs} == set(Input)


def test_from_everywhere_an_end_can_be_reached() -> None:
    ends = {State.ENDED, State.FAILED}
    for state, inputs in TRANSITIONS.items():
        assert state in ends or all(ends <= targets for targets in inputs.values())
