"""The langgraph SDK, wrapped. It reconnects by itself where the server gives a `Location`: it must never have to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts, formats
from tests.sdks.wrapped import Watched, acheck, check
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, client, policy
from tests.sockets.scripted import EVENT_STREAM, Answer, End, Request

langgraph = pytest.importorskip("langgraph_sdk.client", reason="the environment for openai 2 has no langgraph-sdk")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

RUN: dict[str, Any] = {"input": {"question": "?"}, "stream_mode": "messages-tuple", "stream_resumable": True}
EVENTS = wire.numbered(formats.langgraph())
LOCATION = "/threads/t-7/runs/run-7/stream"


def serve(request: Request) -> Answer:
    """A server that keeps the events of a run, and says where it can be joined again."""
    if request.method == "GET" and request.path != LOCATION:
        return Answer.json(json.dumps({"run_id": "run-7", "status": "success"}))
    ids = [event.id for event in EVENTS]
    cursor = request.headers.get("last-event-id", "0")
    return located(EVENTS[0 if cursor == "0" else ids.index(cursor) + 1 :])


def located(events: list[wire.Event], end: End = End.CLEAN) -> Answer:
    return Answer(wire.blocks(events), end, headers={**EVENT_STREAM, "location": LOCATION})


def cut_anywhere() -> Iterator[Answer]:
    for answer in cuts.cut_everywhere(EVENTS):
        yield replace(answer, headers={**EVENT_STREAM, "location": LOCATION})


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx") as made:
        yield made


def sdk(url: str, http: Any) -> Any:
    http.base_url = url
    return langgraph.SyncLangGraphClient(http)


def async_sdk(url: str, http: Any) -> Any:
    http.base_url = url
    return langgraph.LangGraphClient(http)


def stream(api: Any) -> Any:
    return list(api.runs.stream("t-7", "agent", **RUN))


async def astream(api: Any) -> Any:
    return [part async for part in api.runs.stream("t-7", "agent", **RUN)]


def test_cut_anywhere(http: Any) -> None:
    check(lambda url: sdk(url, http), stream, EVENTS, http, rest=serve, cut=cut_anywhere())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the SDK itself is bound to it
async def test_cut_anywhere_async(anyio_backend: str) -> None:
    async with async_client("httpx") as http:
        await acheck(lambda url: async_sdk(url, http), astream, EVENTS, http, rest=serve, cut=cut_anywhere())


def test_the_sdk_does_not_come_to_reconnect(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait, and count its attempts, where ours goes on at once."""

    def never(*args: Any, **options: Any) -> float:
        raise AssertionError("the SDK saw the drop")

    monkeypatch.setattr("langgraph_sdk._sync.http._reconnect_delay", never)
    with cuts.server(located(EVENTS[:5], End.FIN), serve) as server:
        watched = Watched(sdk(server.url, http))
        assert [part.event for part in stream(watched.client)] == [event.name for event in EVENTS]
        assert server.methods[:2] == ["POST", "GET"]
        assert server.requests[1].path == LOCATION


def test_a_run_that_is_not_kept_ends_in_our_error(http: Any) -> None:
    with cuts.server(Answer(wire.blocks(formats.langgraph()[:4]), End.FIN), serve) as server:
        with pytest.raises(rl.StreamInterrupted) as caught:
            stream(rl.wrap(sdk(server.url, http), policy=policy()))
        assert caught.value.partial_text == "".join(wire.WORDS[:3])
        assert server.methods == ["POST"]


class TeamClient(langgraph.SyncLangGraphClient):  # type: ignore[misc, name-defined]
    """As users write them: with a constructor of its own."""

    def __init__(self, team: str, http: Any) -> None:
        super().__init__(http)
        self.team = team


def test_a_subclass_with_a_constructor_of_its_own(http: Any) -> None:
    with cuts.server(located(EVENTS[:5], End.FIN), serve) as server:
        http.base_url = server.url
        watched = Watched(TeamClient("blue", http))
        assert watched.client.team == "blue"
        stream(watched.client)
        assert len(server.requests) > 1
