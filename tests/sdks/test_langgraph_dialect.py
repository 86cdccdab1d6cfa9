"""The langgraph SDK, wrapped, in front of a server that says what LangGraph's development server was heard to say.

Events share ids, nothing stands at the end, and a run's status has the last word: here the SDK, left to itself, loses
events without a word. `test_langgraph` has its other ways to be wrapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle, product
from typing import Any

import pytest

import resumable_llm as rl
from tests.conversation import load
from tests.sdks import cuts
from tests.sdks.wrapped import Watched
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import EVENT_STREAM, Answer, End, Request, Scripted

langgraph = pytest.importorskip("langgraph_sdk.client", reason="the environment for openai 2 has no langgraph-sdk")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

RECORDED = load("langgraph/recorded")[0]
BLOCKS = RECORDED.blocks
IDS = [block.rpartition(b"id: ")[2].strip().decode() for block in BLOCKS]
HEADERS = {**EVENT_STREAM, **RECORDED.data["answers"][0]["headers"]}
STREAM = HEADERS["location"]
RUN = HEADERS["content-location"]
THREAD = RUN.split("/")[2]


def said(blocks: list[bytes], end: End = End.CLEAN) -> Answer:
    return Answer(blocks, end, headers=HEADERS)


class Server:
    """Keeps the events of a run that is done, or will be soon."""

    def __init__(self, *statuses: str) -> None:
        self._statuses = [*statuses]

    def __call__(self, request: Request) -> Answer:
        if request.path == RUN:
            status = self._statuses.pop(0) if self._statuses else "success"
            return Answer.json(json.dumps({"run_id": RUN.split("/")[4], "status": status}))
        cursor = "" if request.method == "POST" else request.headers.get("last-event-id", "~")
        return said([block for block, name in zip(BLOCKS, IDS, strict=True) if name > cursor])


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx", headers={"x-api-key": "s3cret"}) as made:
        yield made


def sdk(url: str, http: Any) -> Any:
    http.base_url = url
    return langgraph.SyncLangGraphClient(http)


def async_sdk(url: str, http: Any) -> Any:
    http.base_url = url
    return langgraph.LangGraphClient(http)


def stream(api: Any, **more: Any) -> Any:
    options = {"stream_mode": "messages-tuple", "stream_resumable": True, **more}
    return list(api.runs.stream(THREAD, "speaker", input={"question": "?"}, **options))


async def astream(api: Any) -> Any:
    parts = api.runs.stream(
        THREAD, "speaker", input={"question": "?"}, stream_mode=["messages-tuple"], stream_resumable=True
    )
    return [part async for part in parts]


CUTS = [
    (count, half, end)
    for (count, half), end in zip(
        product(range(1, len(BLOCKS)), (False, True)), cycle([End.FIN, End.RST, End.CLEAN]), strict=False
    )
]


def broken(count: int, half: bool, end: End) -> Answer:
    rest = [BLOCKS[count][: len(BLOCKS[count]) // 2]] if half else []
    return said([*BLOCKS[:count], *rest], end)


def check_requests(server: Scripted) -> None:
    """One run; what was asked for behind it was the same run, with the same key."""
    first, *others = server.requests
    assert first.method == "POST"
    assert {(each.method, each.path) for each in others} == {("GET", STREAM), ("GET", RUN)}
    assert {each.headers["x-api-key"] for each in server.requests} == {"s3cret"}


def test_cut_anywhere(http: Any) -> None:
    with Scripted(rest=Server()) as server:
        unbroken = stream(sdk(server.url, http))
    assert [part.id for part in unbroken] == IDS
    for cut in CUTS:
        with cuts.server(broken(*cut), Server()) as server:
            watched = Watched(sdk(server.url, http))
            assert stream(watched.client) == unbroken, cut
            assert "resume" in watched.notices or "confirm" in watched.notices
            check_requests(server)
            assert not busy(http)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the SDK itself is bound to it
async def test_cut_anywhere_async(anyio_backend: str) -> None:
    async with async_client("httpx", headers={"x-api-key": "s3cret"}) as http:
        with Scripted(rest=Server()) as server:
            unbroken = await astream(async_sdk(server.url, http))
        for cut in CUTS[::2]:
            with cuts.server(broken(*cut), Server()) as server:
                watched = Watched(async_sdk(server.url, http))
                assert await astream(watched.client) == unbroken, cut
                check_requests(server)
                assert not busy(http)


def test_left_to_itself_the_sdk_loses_events(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a resume goes back to the last id but one."""
    monkeypatch.setattr("langgraph_sdk._sync.http._reconnect_delay", lambda *args, **options: 0.0)
    count = next(at for at in range(1, len(IDS)) if IDS[at] == IDS[at - 1])
    with cuts.server(broken(count, False, End.FIN), Server()) as server:
        assert len(stream(sdk(server.url, http))) < len(BLOCKS)
    with cuts.server(broken(count, False, End.FIN), Server()) as server:
        assert len(stream(rl.wrap(sdk(server.url, http), policy=policy()))) == len(BLOCKS)


def test_closed_while_the_run_goes_on(http: Any) -> None:
    """The repeat of the last event is all that there is for the moment; then the server goes on."""
    with Scripted(broken(5, False, End.CLEAN), said(BLOCKS[4:5]), Server("running"), rest=Server()) as server:
        watched = Watched(sdk(server.url, http))
        assert [part.id for part in stream(watched.client)] == IDS
        assert watched.notices[:4] == ["confirm", "status", "drop", "wait"]


def test_a_run_that_failed_while_nobody_listened(http: Any) -> None:
    with cuts.server(broken(5, False, End.RST), Server("error", "error")) as server:
        *parts, last = stream(rl.wrap(sdk(server.url, http), policy=policy()))
        assert [part.id for part in parts] == IDS
        assert (last.event, last.data["error"]) == ("error", "RunFailed")


def test_joined_by_somebody_else(http: Any) -> None:
    for count in range(6, len(BLOCKS)):
        with cuts.server(said(BLOCKS[5:count], End.RST), Server()) as server:
            api = rl.wrap(sdk(server.url, http), policy=policy())
            cursor = next(name for name in reversed(IDS[:5]) if name < IDS[5])
            parts = list(api.runs.join_stream(THREAD, RUN.split("/")[4], last_event_id=cursor))
            assert [part.id for part in parts] == IDS[5:]
            assert {each.method for each in server.requests} == {"GET"}


def test_upgraded(http: Any) -> None:
    """The SDK says that a run is not resumable unless it is told otherwise."""
    with Scripted(rest=Server()) as server:
        stream(rl.wrap(sdk(server.url, http), upgrade=True), stream_resumable=False)
        sent = json.loads(server.requests[0].body)
        assert (sent["stream_resumable"], sent["on_disconnect"]) == (True, "continue")
        with pytest.raises(rl.UpgradeRefused):
            stream(rl.wrap(sdk(server.url, http), upgrade=True), on_disconnect="cancel")
        assert server.methods.count("POST") == 1


def test_what_is_lost_is_not_passed_over(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has forgotten the run: our error says so, and nothing of it may be hidden by an attempt of the SDK."""
    monkeypatch.setattr("langgraph_sdk._sync.http._reconnect_delay", lambda *args, **options: 0.0)

    def forgetful(request: Request) -> Answer:
        return Server()(request) if request.path == RUN else said([])

    with cuts.server(broken(5, False, End.RST), forgetful) as server:
        api = rl.wrap(sdk(server.url, http), policy=policy())
        with pytest.raises(rl.ResumeExpired):
            stream(api)
