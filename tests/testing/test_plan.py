from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.testing.plan import Fault, FaultPlan

ONE_OF_EACH = (
    Fault.rst(at_event=5),
    Fault.fin(at_byte=0),
    Fault.end(at_byte=1234),
    Fault.stall(at_seconds=0.5),
    Fault.stall(seconds=3, at_event=1),
    Fault.stall_pings(interval=0.25, at_event=2),
    Fault.stall_pings(interval=0.25, seconds=1.5, at_event=2),
    Fault.delay(seconds=2, at_event=3),
    Fault.duplicate(events=2, at_event=4),
    Fault.drop(events=1, at_seconds=0),
    Fault.corrupt(at_byte=7),
    Fault.corrupt(garbage=b"\x00\xff", at_event=0),
)


@pytest.mark.parametrize("fault", ONE_OF_EACH, ids=repr)
def test_a_fault_survives_json_and_repr(fault: Fault) -> None:
    assert Fault.from_json(fault.to_json()) == fault
    assert eval(repr(fault), {"Fault": Fault}) == fault


def test_json_names_only_what_was_given() -> None:
    assert json.loads(Fault.rst(at_event=5).to_json()) == {"kind": "rst", "at_event": 5}
    assert json.loads(Fault.corrupt(garbage=b"\x00\xff", at_byte=1).to_json())["garbage"] == "00ff"


def test_a_plan_survives_json_and_repr() -> None:
    plan = FaultPlan(*ONE_OF_EACH, None)
    assert FaultPlan.from_json(plan.to_json()) == plan
    assert eval(repr(plan), {"Fault": Fault, "FaultPlan": FaultPlan}) == plan
    assert FaultPlan.from_json("[]") == FaultPlan()


def test_faults_and_plans_are_values() -> None:
    assert len({Fault.rst(at_byte=1), Fault.rst(at_byte=1), Fault.fin(at_byte=1)}) == 2
    assert hash(FaultPlan(Fault.rst(at_byte=1), None)) == hash(FaultPlan(Fault.rst(at_byte=1), None))
    with pytest.raises(dataclasses.FrozenInstanceError):
        FaultPlan().faults = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "quake", "at_byte": 1}, "unknown kind of fault 'quake': use one of rst, fin"),
        ({"kind": "rst"}, "a rst fault takes exactly one of at_byte, at_event, at_seconds"),
        ({"kind": "rst", "at_byte": 1, "at_event": 1}, "exactly one of"),
        ({"kind": "delay", "at_byte": 1}, "a delay fault needs seconds"),
        ({"kind": "stall_pings", "at_byte": 1}, "needs interval"),
        ({"kind": "drop", "at_byte": 1}, "needs events"),
        ({"kind": "rst", "at_byte": 1, "seconds": 1, "events": 1}, "a rst fault does not take events, seconds"),
        ({"kind": "rst", "at_byte": -1}, "at_byte must be a whole number, at least 0: -1"),
        ({"kind": "rst", "at_byte": 1.5}, "at_byte must be a whole number"),
        ({"kind": "rst", "at_event": True}, "at_event must be a whole number"),
        ({"kind": "drop", "at_event": 1, "events": 0}, "events must be a whole number, at least 1: 0"),
        ({"kind": "rst", "at_seconds": -0.1}, "at_seconds must be a non-negative number of seconds: -0.1"),
        ({"kind": "rst", "at_seconds": "1"}, "at_seconds must be"),
        ({"kind": "rst", "at_seconds": float("nan")}, "at_seconds must be"),
        ({"kind": "stall", "at_byte": 1, "seconds": 0}, "seconds must be a positive number of seconds: 0"),
        ({"kind": "stall_pings", "at_byte": 1, "interval": True}, "interval must be a positive"),
        ({"kind": "corrupt", "at_byte": 1, "garbage": b""}, "garbage must be bytes and not empty"),
        ({"kind": "corrupt", "at_byte": 1, "garbage": "text"}, "garbage must be bytes"),
        ({"kind": "duplicate", "at_event": 1, "events": 2}, "cannot repeat 2 events after 1"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Fault(**fields)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("7", "a fault is a JSON object, not 7"),
        ('{"at_byte": 1}', "a fault needs a kind"),
        ('{"kind": "rst", "at_bite": 1}', "a fault has no at_bite"),
        ('{"kind": "corrupt", "at_byte": 1, "garbage": "xyz"}', "hexadecimal"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_is_no_fault_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Fault.from_json(text)


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a plan is a JSON array, not \{\}"):
        FaultPlan.from_json("{}")
    with pytest.raises(ValueError, match="a plan is made of faults and None, not 'rst'"):
        FaultPlan(cast("Fault", "rst"))


@given(seed=st.integers(), cuts=st.integers(0, 20), within=st.integers(0, 5000))
def test_a_random_plan_depends_on_its_arguments_only(seed: int, cuts: int, within: int) -> None:
    plan = FaultPlan.random(seed, cuts=cuts, within=within)
    assert plan == FaultPlan.random(seed, cuts=cuts, within=within)
    assert len(plan.faults) == cuts
    for fault in plan.faults:
        assert fault is not None
        assert fault.kind in {"rst", "fin", "end"}
        assert fault.at_byte is not None
        assert fault.at_byte <= within


def test_random_plans_differ_and_keep_to_the_kinds_asked_for() -> None:
    assert len({FaultPlan.random(seed) for seed in range(20)}) == 20
    kinds = {fault.kind for fault in FaultPlan.random(1, cuts=50, kinds=["rst", "fin"]).faults if fault is not None}
    assert kinds == {"rst", "fin"}
