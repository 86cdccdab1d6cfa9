"""What a relay does for whoever looks after it, apart from any server."""

from __future__ import annotations

from typing import Any

import pytest

from resumable_llm.cli.attended import Attended
from resumable_llm.local.announcement import CHALLENGE, PROOF, Announcement

ANNOUNCED = Announcement(8787, 1, "t0ken")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class App:
    """An application whose requests last as long as the test wants."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.within: list[float] = []
        self.attended: Attended | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["type"])
        assert self.attended is not None
        self.within.append(self.attended.idle())
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
            await send({"type": "http.response.body", "body": b""})
        elif scope["type"] == "websocket":
            raise ConnectionError


def attended(announced: Announcement | None = None) -> tuple[Attended, App, Clock, list[int]]:
    app, clock, running = App(), Clock(), [0]
    app.attended = Attended(app, lambda: running[0], announced, clock)
    return app.attended, app, clock, running


async def ask(relay: Attended, kind: str = "http", **headers: str) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await relay({"type": kind, "headers": pairs}, receive, send)
    return sent


async def test_it_is_idle_when_there_is_neither_a_request_nor_an_answer() -> None:
    relay, app, clock, running = attended()
    clock.now += 5
    assert relay.idle() == 5
    await ask(relay)
    assert app.within == [0]
    assert relay.idle() == 0
    clock.now += 5
    running[0] = 1
    assert relay.idle() == 0
    running[0] = 0
    clock.now += 3
    assert relay.idle() == 3
    with pytest.raises(ConnectionError):
        await ask(relay, "websocket")
    assert relay.idle() == 0


async def test_the_lifespan_is_no_request() -> None:
    relay, app, clock, _ = attended(ANNOUNCED)
    clock.now += 5
    nobody: Any = None
    await relay({"type": "lifespan"}, nobody, nobody)
    assert app.seen == ["lifespan"]
    assert app.within == [5]


async def test_it_proves_itself_to_whoever_asks() -> None:
    relay, *_ = attended(ANNOUNCED)
    start, body = await ask(relay, **{CHALLENGE: "wh\xe4t"})
    proof = ANNOUNCED.proof("wh\xe4t".encode().decode("latin-1"))
    assert start["headers"] == [(b"x-own", b"1"), (PROOF.lower().encode(), proof.encode())]
    assert body == {"type": "http.response.body", "body": b""}
    (plain, _) = await ask(relay)
    assert plain["headers"] == [(b"x-own", b"1")]


async def test_there_is_nothing_to_prove_where_nothing_was_announced() -> None:
    relay, *_ = attended()
    start, _ = await ask(relay, **{CHALLENGE: "what"})
    assert start["headers"] == [(b"x-own", b"1")]
