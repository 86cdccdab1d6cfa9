"""The benchmarks can be run: one tiny case, whose numbers mean nothing."""

from __future__ import annotations

import pytest

from benchmarks import cases, harness, report, wire
from benchmarks.wire import Order


@pytest.mark.slow
def test_a_case_is_measured_and_reported() -> None:
    group = cases.load("transports")
    case = next(case for case in group.CASES if case.name == "httpx sync, one event a read")
    told: list[str] = []
    with harness.serving() as server:
        rows = harness.run("transports", [case], server, rounds=2, scale=0.1, tell=told.append)

    bare, ours = rows
    assert [row.variant.name for row in rows] == ["httpx", "transport"]
    assert all(row.values.least > 0 for row in rows)
    assert [row.details["items per event"] for row in rows] == [1, 1], "the server keeps in step with the reader"
    assert bare.ratios is None
    assert ours.ratios is not None
    assert ours.ratios.least <= ours.ratios.median <= ours.ratios.most
    assert told == ["transports: round 1 of 2", "transports: round 2 of 2"]
    lines = report.table(group, rows)
    assert sum(line.startswith(f"| {case.name} |") for line in lines) == 1


@pytest.mark.parametrize("name", cases.GROUPS)
def test_every_group_can_be_loaded_without_its_clients(name: str) -> None:
    group = cases.load(name)
    assert len({case.name for case in group.CASES}) == len(group.CASES)
    assert all(len(case.variants) >= 2 for case in group.CASES)


@pytest.mark.parametrize("kind", [wire.CHAT, wire.IDS])
def test_events_are_of_one_size(kind: str) -> None:
    assert {len(wire.event(kind, number)) for number in (1, 99, 1_000_000)} == {len(wire.event(kind, 2))}
    assert 200 <= len(wire.event(kind, 1)) <= 250


@pytest.mark.parametrize("mode", [wire.READS, wire.CHUNKS, wire.BULK])
def test_an_order_survives_its_path_and_is_served_whole(mode: str) -> None:
    order = Order(mode, wire.IDS, 700, 1)
    assert Order.parse(f"{order.path}/v1/chat/completions?x=1") == order

    body = b"".join(wire.event(wire.IDS, number) for number in range(1, 701))
    sent = b"".join(wire.segments(order))
    assert _unchunked(sent) == body


def _unchunked(sent: bytes) -> bytes:
    body = b""
    while sent:
        size, _, rest = sent.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        sent = rest[length + 2 :]
    return body
