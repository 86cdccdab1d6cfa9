"""What Ollama's SDK and `connect_sse` make of its lines of JSON, wherever they are cut; over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from tests.sdks import formats
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

ollama = pytest.importorskip("ollama", reason="the environment for openai 2 has no ollama")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
LINES = formats.ollama_chat()
NDJSON = {"content-type": "application/x-ndjson"}
WHOLE = Answer(LINES, headers=NDJSON)
ERROR = b'{"error":"model runner has unexpectedly stopped"}\n'


def generated() -> Answer:
    """The same answer, from the other path."""
    lines = [json.loads(line) for line in LINES]
    flat = [{**line, "response": line.pop("message")["content"]} for line in lines]
    return replace(WHOLE, pieces=[json.dumps(line).encode() + b"\n" for line in flat])


def chat(api: Any) -> Iterator[Any]:
    yield from (part.model_dump() for part in api.chat(**CHAT, stream=True))


def generate(api: Any) -> Iterator[Any]:
    yield from (part.model_dump() for part in api.generate(model="m", prompt="?", stream=True))


async def hear(api: Any, said: list[str]) -> None:
    async for part in await api.chat(**CHAT, stream=True):
        said.append(part["message"]["content"])  # noqa: PERF401 - what came before an error counts


def cuts() -> Iterator[tuple[int, Answer]]:
    """Answers cut behind each line but the last, and inside of the one that follows; with the number of whole lines."""
    ends = cycle((End.FIN, End.RST, End.CLEAN))
    for count in range(1, len(LINES)):
        inside = [*LINES[:count], LINES[count][: len(LINES[count]) // 2]]
        yield count, replace(WHOLE, pieces=LINES[:count], end=next(ends))
        yield count, replace(WHOLE, pieces=inside, end=next(ends))


@pytest.mark.parametrize(("run", "answer"), [(chat, WHOLE), (generate, generated())])
def test_uncut(run: Callable[[Any], Iterator[Any]], answer: Answer) -> None:
    with Scripted(rest=lambda request: answer) as server, ollama.Client(host=server.url) as api:
        watched = rl.wrap(api, policy=policy())
        said = list(run(watched))
        assert said == list(run(api))
        assert said[-1]["done"]
        assert server.requests[0].headers["idempotency-key"]
        assert not busy(api._client)


def test_cut_anywhere() -> None:
    with Scripted(rest=lambda request: WHOLE) as server, ollama.Client(host=server.url) as api:
        whole = list(chat(api))
    for count, cut in cuts():
        with Scripted(cut) as server, ollama.Client(host=server.url) as api:
            said: list[Any] = []
            with pytest.raises(rl.CannotResume) as caught:
                said.extend(chat(rl.wrap(api, policy=policy())))
            assert isinstance(caught.value, httpx.RemoteProtocolError)
            assert said == whole[:count]
            assert caught.value.partial_text == "".join(wire.WORDS[:count])
            assert len(server.requests) == 1
            assert not busy(api._client)


async def test_cut_anywhere_async(anyio_backend: str) -> None:
    for count, cut in cuts():
        with Scripted(cut) as server:
            async with ollama.AsyncClient(host=server.url) as api:
                said: list[str] = []
                with pytest.raises(rl.CannotResume) as caught:
                    await hear(rl.wrap(api, policy=policy()), said)
                assert said == [*wire.WORDS[:count]]
                assert caught.value.partial_text == "".join(said)
                assert len(server.requests) == 1
                assert not busy(api._client)


@pytest.mark.parametrize("pieces", [[], [LINES[0][:20]]])
def test_nothing_had_come_of_it(pieces: list[bytes]) -> None:
    with Scripted(replace(WHOLE, pieces=pieces, end=End.RST), rest=lambda request: WHOLE) as server:
        with ollama.Client(host=server.url) as api:
            assert list(chat(rl.wrap(api, policy=policy()))) == list(chat(api))
        assert len(server.requests) == 3
        first, second, _ = server.requests
        assert (first.raw_head, first.body) == (second.raw_head, second.body)


ENDINGS = [
    *(pytest.param(replace(WHOLE, end=end), id=end.value) for end in (End.FIN, End.RST, End.SILENT)),
    pytest.param(replace(WHOLE, pieces=[*LINES, b'{"model":'], end=End.RST), id="half a line behind it"),
    pytest.param(replace(WHOLE, pieces=[*LINES[:-1], LINES[-1].rstrip()]), id="no line feed"),
    pytest.param(replace(WHOLE, pieces=[line.rstrip() + b"\r\n" for line in LINES], end=End.RST), id="crlf"),
]


@pytest.mark.parametrize("answer", ENDINGS)
def test_behind_the_last_line(answer: Answer) -> None:
    with Scripted(rest=lambda request: WHOLE) as server, ollama.Client(host=server.url) as api:
        whole = list(chat(api))
    with Scripted(answer) as server, ollama.Client(host=server.url) as api:
        assert list(chat(rl.wrap(api, policy=policy()))) == whole


@pytest.mark.parametrize("answer", ENDINGS)
async def test_behind_the_last_line_async(anyio_backend: str, answer: Answer) -> None:
    with Scripted(answer) as server:
        async with ollama.AsyncClient(host=server.url) as api:
            said: list[str] = []
            await hear(rl.wrap(api, policy=policy()), said)
            assert said == [*wire.WORDS, ""]


def test_an_error_line_is_the_sdks_own_affair() -> None:
    answer = replace(WHOLE, pieces=[*LINES[:2], ERROR])
    with Scripted(answer) as server, ollama.Client(host=server.url) as api:
        watched = rl.wrap(api, policy=policy())
        with pytest.raises(ollama.ResponseError, match="unexpectedly stopped"):
            list(chat(watched))


@pytest.mark.parametrize("status", [404, 500])
def test_a_refusal_is_the_sdks_own_affair(status: int) -> None:
    with Scripted(rest=lambda request: Answer.json('{"error":"no"}', status)) as server:
        with ollama.Client(host=server.url) as api, pytest.raises(ollama.ResponseError, match="no") as caught:
            list(chat(rl.wrap(api, policy=policy())))
        assert caught.value.status_code == status


def test_what_does_not_stream_is_not_touched() -> None:
    with Scripted(rest=lambda request: Answer.json(LINES[-1].decode())) as server:
        with ollama.Client(host=server.url) as api:
            assert rl.wrap(api).chat(**CHAT) == api.chat(**CHAT)
        first, second = server.requests
        assert (first.raw_head, first.body) == (second.raw_head, second.body)


class TestConnectSse:
    """Each line is an event that has data and nothing else."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_lines_as_events(self, family: str) -> None:
        with Scripted(rest=lambda request: WHOLE) as server, client(family) as http:
            with rl.connect_sse(http, "POST", f"{server.url}/api/chat", json=CHAT, policy=policy()) as stream:
                events = list(stream)
            assert [event.data.encode() + b"\n" for event in events] == LINES
            assert {(event.event, event.id, event.retry) for event in events} == {("message", "", None)}
            assert events[-1].json()["done"] is True
            assert (stream.report.dialect, stream.report.end_proved) == ("ollama", True)
            assert stream.checkpoint.complete
            assert server.requests[0].headers["accept"] == "application/x-ndjson"
            with rl.connect_sse(http, "POST", f"{server.url}/api/chat", json=CHAT, policy=policy()) as stream:
                assert list(stream.text_deltas()) == [*wire.WORDS]

    @pytest.mark.parametrize("family", FAMILIES)
    async def test_lines_as_events_async(self, family: str, anyio_backend: str) -> None:
        with Scripted(rest=lambda request: WHOLE) as server:
            async with async_client(family) as http:
                url = f"{server.url}/api/chat"
                async with rl.aconnect_sse(http, "POST", url, json=CHAT, policy=policy()) as stream:
                    assert [event.data.encode() + b"\n" async for event in stream] == LINES

    def test_a_drop(self) -> None:
        with Scripted(replace(WHOLE, pieces=LINES[:2], end=End.RST)) as server, client("httpx") as http:
            with rl.connect_sse(http, "POST", f"{server.url}/api/chat", json=CHAT, policy=policy()) as stream:
                events = iter(stream)
                with pytest.raises(rl.CannotResume, match="Ollama keeps nothing") as caught:
                    list(events)
            assert caught.value.partial_text == "".join(wire.WORDS[:2])

    def test_an_error_line(self) -> None:
        with Scripted(replace(WHOLE, pieces=[*LINES[:2], ERROR])) as server, client("httpx") as http:
            with rl.connect_sse(http, "POST", f"{server.url}/api/chat", json=CHAT, policy=policy()) as stream:
                events = iter(stream)
                with pytest.raises(rl.UpstreamFailed) as caught:
                    list(events)
            assert caught.value.partial_text == "".join(wire.WORDS[:2])
            assert "unexpectedly stopped" not in str(caught.value)
