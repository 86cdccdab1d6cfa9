"""The fuzzers' invariants hold for a first few thousand inputs, the same ones each time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import machine, parser


@pytest.mark.parametrize("seed", range(5))
def test_parser(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        parser.check(parser.generate(chance))


@pytest.mark.parametrize("seed", range(5))
def test_machine(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        data = machine.generate(chance)
        try:
            machine.check(data)
        except Exception as error:
            raise AssertionError(f"input {data.hex()}") from error


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.binary(max_size=150))
def test_of_any_bytes(data: bytes) -> None:
    parser.check(data)
    machine.check(data)


def test_they_run_by_themselves() -> None:
    assert parser.run(0.05, seed=1) > 0
    assert machine.run(0.05, seed=1) > 0
