"""Every cell of the fault matrix, on real sockets."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import pytest

import resumable_llm as rl
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS
from tests.sockets.matrix import (
    BACKDROPS,
    CELLS,
    EXPECTED,
    FAULTS,
    HIDDEN,
    PAGE,
    POLLED,
    Reader,
    ours,
    render,
    run,
    text,
    whole,
)

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

OPENAI3 = int(version("openai").split(".")[0]) >= 3


@pytest.mark.parametrize(("fault", "backdrop", "reader"), CELLS, ids=str)
def test_cell(fault: str, backdrop: str, reader: Reader) -> None:
    server = BACKDROPS[backdrop]
    expected = EXPECTED[fault][backdrop]
    assert expected is not None
    outcome, requests = expected
    seen = run(FAULTS[fault], server, reader)
    if reader.how == "client":  # comments pass, for whoever reads bytes is used to them
        seen.items = [b"".join(seen.items).replace(b": ping\n\n", b"")]

    if outcome == HIDDEN:
        assert seen.error is None
        unbroken = whole(server, reader)
        assert b"".join(seen.items) == b"".join(unbroken) if reader.how == "client" else seen.items == unbroken
    elif outcome == POLLED:
        assert seen.error is None
        assert text(server, reader, seen.items) == wire.TEXT
        assert wire.response()["output"][0]["content"][0]["text"] in str(seen.items[-1]) or reader.how == "client"
    else:
        error = ours(seen.error)
        assert type(error).__name__ == outcome
        assert isinstance(error, rl.StreamInterrupted)
        assert isinstance(error, importlib.import_module(reader.family).TransportError)
        if reader.how == "openai" and OPENAI3:  # openai 2 lets ours pass as it is
            assert type(seen.error) is importlib.import_module("openai").APIConnectionError
        received = whole(server, reader)[: server.cut]
        assert b"".join(seen.items) == b"".join(received) if reader.how == "client" else seen.items == received
        assert error.partial_text == text(server, reader, received)
        assert error.checkpoint is not None
        assert error.checkpoint.events == server.cut

    report = seen.handle.report
    assert report.attempts == len(seen.requests)
    if outcome == HIDDEN and fault in ("silence", "pings"):
        assert report.attempts >= requests  # where time is short, a slow machine's server falls silent once more
    else:
        assert report.attempts == requests
    # Where no event ends an answer, a clean end is no drop; the server is only asked whether it was one.
    assert report.drops or (fault.startswith("end") and backdrop == "get")
    assert report.end_proved is (outcome in (HIDDEN, POLLED))
    assert seen.requests[0].method == server.method
    assert seen.strangers == 0
    assert not seen.held
    if backdrop in ("responses", "chat"):
        assert [request.method for request in seen.requests].count("POST") == 1, "the answer was generated twice"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tests.sockets.matrix"
