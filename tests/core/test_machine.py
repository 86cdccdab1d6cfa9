"""The state machine: every case cut at every byte, held against the oracle; every input in every state."""

from __future__ import annotations

import pytest

from tests.conversation import KEY, Case, Played, World, load, play, told
from tests.oracle import Ask, Done, Give, Pause, oracle

CASES = load()
SIZES = (1, 7, 65536)


def foretell(case: Case, world: World) -> Played:
    """What the oracle says must happen."""
    log = Played(requests=world.requests)
    rules = oracle(case.prepared, case.dialect, patient)
    step = next(rules)
    while True:
        if isinstance(step, Ask):
            step = rules.send(world.answer(step.plan))
            continue
        if isinstance(step, Give):
            log.slices.append(step.block)
        elif isinstance(step, Pause):
            log.waits.append(step.seconds)
        else:
            log.outcome, log.proved = step.outcome, step.proved
            return log
        step = next(rules)
