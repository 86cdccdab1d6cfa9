"""What Cohere's SDK makes of its chat, version 2, wherever it is cut; over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import acheck, check
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

cohere = pytest.importorskip("cohere", reason="the environment for openai 2 has no cohere")

pytestmark = [
    pytest.mark.slow,
    FOREIGN_GENERATORS,
    # It stops reading at the sentinel and leaves its own generators there, wrapped or not.
    pytest.mark.filterwarnings(r"ignore:Async generator 'cohere\.:ResourceWarning"),
]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
EVENTS = formats.cohere_v2()
LAST = len(EVENTS) - 2
"""The place of message-end; the sentinel is behind it."""


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx") as made:
        yield made


def make(url: str, http: Any) -> Any:
    kind = cohere.ClientV2 if isinstance(http, httpx.Client) else cohere.AsyncClientV2
    return kind(api_key="s3cret", base_url=url, httpx_client=http)


def said(api: Any) -> Iterator[Any]:
    yield from (event.model_dump() for event in api.chat_stream(**CHAT))


def run(api: Any) -> Any:
    return list(said(api))


async def arun(api: Any) -> Any:
    return [event.model_dump() async for event in api.chat_stream(**CHAT)]


def unbroken(http: Any) -> Any:
    with Scripted(rest=cuts.honour(EVENTS)) as server:
        return run(make(server.url, http))


def spoken(answer: Answer) -> str:
    """The text of the whole events of an answer."""
    events = dict(zip(wire.blocks(EVENTS), EVENTS, strict=True))
    deltas = [events[piece].json for piece in answer.pieces if piece in events and b"content-delta" in piece]
    return "".join(delta["delta"]["message"]["content"]["text"] for delta in deltas)


def test_uncut(http: Any) -> None:
    with Scripted(rest=cuts.honour(EVENTS)) as server:
        api = make(server.url, http)
        whole = run(rl.wrap(api, policy=policy()))
        assert whole == run(api)
        assert whole[-1]["type"] == "message-end"
        assert not busy(http)


async def test_uncut_async(anyio_backend: str) -> None:
    with Scripted(rest=cuts.honour(EVENTS)) as server:
        async with async_client("httpx") as http:
            api = make(server.url, http)
            assert await arun(rl.wrap(api, policy=policy())) == await arun(api)


def test_cut_anywhere(http: Any) -> None:
    """Nothing is kept: what came before the drop, and an error that has the text of it."""
    whole = unbroken(http)
    for answer in cuts.cut_everywhere(EVENTS[: LAST + 1]):
        with Scripted(answer) as server:
            events: list[Any] = []
            with pytest.raises(rl.CannotResume, match="not kept") as caught:
                events.extend(said(rl.wrap(make(server.url, http), policy=policy())))
            assert isinstance(caught.value, httpx.RemoteProtocolError)
            assert caught.value.partial_text == spoken(answer)
            assert len(server.requests) == 1
            assert not busy(http)
    assert spoken(Answer(wire.blocks(EVENTS))) == wire.TEXT
    assert whole[0]["id"] == "gen-7"


def test_nothing_had_come_of_it(http: Any) -> None:
    with Scripted(Answer(end=End.RST), rest=cuts.honour(EVENTS)) as server:
        assert run(rl.wrap(make(server.url, http), policy=policy())) == unbroken(http)
        keys = {request.headers["idempotency-key"] for request in server.requests}
        assert (len(server.requests), len(keys)) == (2, 1)


@pytest.mark.parametrize("end", [End.FIN, End.RST, End.SILENT])
@pytest.mark.parametrize("count", [LAST + 1, LAST + 2])
def test_behind_the_end(http: Any, count: int, end: End) -> None:
    with Scripted(Answer(wire.blocks(EVENTS[:count]), end)) as server:
        assert run(rl.wrap(make(server.url, http), policy=policy())) == unbroken(http)


def test_inside_the_sentinel(http: Any) -> None:
    with Scripted(Answer([*wire.blocks(EVENTS[: LAST + 1]), b"data: [DO"], End.RST)) as server:
        assert run(rl.wrap(make(server.url, http), policy=policy())) == unbroken(http)


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT"])
def test_an_end_that_is_a_failure_is_the_sdks_own_affair(http: Any, reason: str) -> None:
    failed = replace(EVENTS[LAST], data=EVENTS[LAST].data.replace("COMPLETE", reason))
    with Scripted(Answer(wire.blocks([*EVENTS[:LAST], failed]))) as server:
        events = run(rl.wrap(make(server.url, http), policy=policy()))
        assert events[-1]["delta"]["finish_reason"] == reason
    with Scripted(Answer(wire.blocks([*EVENTS[:LAST], failed]))) as server:
        body = {**CHAT, "stream": True}
        with rl.connect_sse(http, "POST", f"{server.url}/v2/chat", json=body, policy=policy()) as stream:
            events = iter(stream)
            with pytest.raises(rl.UpstreamFailed, match=reason) as caught:
                list(events)
        assert caught.value.partial_text == wire.TEXT


class TestBehindARelay:
    """One that numbers the events."""

    def test_cut_anywhere(self, http: Any) -> None:
        check(lambda url: make(url, http), run, wire.numbered(EVENTS), http)

    async def test_cut_anywhere_async(self, anyio_backend: str) -> None:
        async with async_client("httpx") as http:
            await acheck(lambda url: make(url, http), arun, wire.numbered(EVENTS), http)

    def test_another_answer_is_not_spliced_to_it(self, http: Any) -> None:
        numbered = wire.numbered(EVENTS)
        other = [replace(event, id=f"x{event.id}", data=event.data.replace("gen-7", "gen-8")) for event in numbered]
        with Scripted(Answer(wire.blocks(numbered[:3]), End.RST), Answer(wire.blocks(other))) as server:
            api = rl.wrap(make(server.url, http), policy=policy())
            with pytest.raises(rl.ReplayDiverged, match="another answer"):
                run(api)
