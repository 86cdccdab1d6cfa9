"""``wrap(journal=...)`` with real SDKs over real sockets; and processes that are killed, at every event."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import APIConnectionError, AsyncOpenAI, OpenAI

import resumable_llm as rl
from resumable_llm.log import SqliteStore
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, policy
from tests.sockets.scripted import EVENT_STREAM, Answer, End, Request, Scripted
from tests.zygote import Zygote

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

NAMED = {"Idempotency-Key": "cell-7"}
RESPONSES: dict[str, Any] = {"model": "m", "input": "?", "background": True, "extra_headers": NAMED, "stream": True}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "?"}],
    "extra_headers": NAMED,
    "stream": True,
}
MESSAGES: dict[str, Any] = {**CHAT, "max_tokens": 9}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "answers.db")) as made:
        yield made


@dataclass(frozen=True)
class Kind:
    """A call of an SDK.

    Attributes:
        sdk: Makes the client.
        async_sdk: The same for asynchronous code.
        create: Finds what makes the call.
        options: Of the call.
        events: What the server says.
    """

    sdk: Callable[..., Any]
    async_sdk: Callable[..., Any]
    create: Callable[[Any], Any]
    options: dict[str, Any]
    events: list[wire.Event]


KINDS = {
    "responses": Kind(OpenAI, AsyncOpenAI, lambda api: api.responses.create, RESPONSES, wire.responses()),
    "chat": Kind(OpenAI, AsyncOpenAI, lambda api: api.chat.completions.create, CHAT, wire.chat()),
    "messages": Kind(Anthropic, AsyncAnthropic, lambda api: api.messages.create, MESSAGES, wire.messages()),
}
by_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def read(kind: Kind, url: str, store: SqliteStore, *, take: int | None = None, key: str = "mine") -> list[Any]:
    api = rl.wrap(kind.sdk(base_url=url, api_key=key), policy=policy(), journal=store)
    heard = []
    with api, kind.create(api)(**kind.options) as stream:
        for event in stream:
            heard.append(event.to_dict())
            if len(heard) == take:
                break
    return heard


async def aread(kind: Kind, url: str, store: SqliteStore, *, take: int | None = None) -> list[Any]:
    api = rl.wrap(kind.async_sdk(base_url=url, api_key="mine"), policy=policy(), journal=store)
    heard = []
    async with api, await kind.create(api)(**kind.options) as stream:
        async for event in stream:
            heard.append(event.to_dict())
            if len(heard) == take:
                break
    return heard


@by_kind
def test_a_finished_answer_is_told_again(kind: Kind, store: SqliteStore) -> None:
    with Scripted(Answer(wire.blocks(kind.events))) as server:
        first = read(kind, server.url, store)
        assert read(kind, server.url, store) == first != []
        assert len(server.requests) == 1


@by_kind
async def test_a_finished_answer_is_told_again_async(kind: Kind, store: SqliteStore) -> None:
    with Scripted(Answer(wire.blocks(kind.events))) as server:
        first = await aread(kind, server.url, store)
        assert await aread(kind, server.url, store) == first != []
        assert len(server.requests) == 1


@by_kind
def test_another_key_of_the_provider_does_not_see_it(kind: Kind, store: SqliteStore) -> None:
    with Scripted(*[Answer(wire.blocks(kind.events))] * 2) as server:
        assert read(kind, server.url, store) == read(kind, server.url, store, key="yours")
        assert server.methods == ["POST", "POST"]


@by_kind
def test_an_interrupted_answer_is_gone_on_with(kind: Kind, store: SqliteStore) -> None:
    """Resumable, or numbered by whoever stands in front."""
    events = kind.events if kind.options is RESPONSES else wire.numbered(kind.events)
    rest = cuts.starting_after(events) if kind.options is RESPONSES else cuts.honour(events)
    with Scripted(Answer(wire.blocks(events)), rest=rest) as server:
        for count in (1, 4, 7):
            assert len(read(kind, server.url, store, take=count)) == count
        whole = read(kind, server.url, store)
        assert len(whole) >= len(wire.WORDS)
        created = [request for request in server.requests if request.method == "POST"]
        assert len(created) == 1 or kind.options is not RESPONSES
        assert all("last-event-id" in request.headers for request in created[1:])
        assert read(kind, server.url, store) == whole


@by_kind
async def test_an_interrupted_answer_is_gone_on_with_async(kind: Kind, store: SqliteStore) -> None:
    events = kind.events if kind.options is RESPONSES else wire.numbered(kind.events)
    rest = cuts.starting_after(events) if kind.options is RESPONSES else cuts.honour(events)
    with Scripted(Answer(wire.blocks(events)), rest=rest) as server:
        await aread(kind, server.url, store, take=3)
        whole = await aread(kind, server.url, store)
        assert len(whole) >= len(wire.WORDS)
        assert await aread(kind, server.url, store) == whole


def test_what_nobody_kept_is_told_and_then_the_sdks_own_error(store: SqliteStore) -> None:
    kind = KINDS["chat"]
    with Scripted(Answer(wire.blocks(kind.events)[:4], End.SILENT)) as server:
        read(kind, server.url, store, take=4)
        api = rl.wrap(kind.sdk(base_url=server.url, api_key="mine"), policy=policy(), journal=store)
        stream = iter(kind.create(api)(**kind.options))
        heard = [next(stream) for _ in range(4)]
        assert heard[-1].choices[0].delta.content == " is"
        with api, pytest.raises((APIConnectionError, rl.CannotResume)) as caught:
            next(stream)
        error = caught.value if isinstance(caught.value, rl.CannotResume) else caught.value.__cause__
        assert isinstance(error, rl.CannotResume)
        assert error.partial_text == "An answer is"


def test_a_drop_in_between_is_healed_as_ever(store: SqliteStore) -> None:
    """Cut again and again, left and come back to: in the end it is the same answer, and one generation."""
    kind = KINDS["responses"]
    blocks = wire.blocks(kind.events)
    rest = cuts.starting_after(kind.events)
    with Scripted(Answer(blocks[:2], End.RST), Answer(blocks[2:5], End.FIN), rest=rest) as server:
        assert len(read(kind, server.url, store, take=8)) == 8
        assert len(read(kind, server.url, store)) == len(blocks)
        assert server.methods.count("POST") == 1


# Killed

PROGRAM = """
import json, os, signal, ssl, sys
import httpx
import resumable_llm as rl
from resumable_llm.log import SqliteStore

context = ssl.create_default_context()
try:
    httpx.Client(trust_env=False, verify=context).get("http://127.0.0.1:1")  # whatever that imports
except httpx.ConnectError:
    pass

def call(job, out):
    store = SqliteStore(job["path"])
    client = rl.wrap(httpx.Client(trust_env=False, verify=context), journal=store)
    headers = {"Idempotency-Key": "cell-7", "Authorization": job["credentials"], "Accept": "text/event-stream"}
    seen = 0
    with client.stream("POST", job["url"], json=job["body"], headers=headers) as response:
        for data in response.iter_raw():
            os.write(out, data)
            seen += data.count(b"\\n\\n")
            if seen >= job["kill_at"]:
                for log in list(store._known.values()) if job["durable"] else ():
                    log.wait_durable(log.last)
                os.kill(os.getpid(), signal.SIGKILL)
    store.close()

def perform(job, out):
    try:
        call(job, out)
    except rl.CannotResume:
        os._exit(2)
"""
"""The calls of a kernel that may die; see `Zygote`."""


class Kernels:
    """Processes that make the same call, one after the other.

    Args:
        zygote: Forks them.
        job: The call.
    """

    def __init__(self, zygote: Zygote, **job: Any) -> None:
        self._zygote = zygote
        self._job = job

    def run(self, *, kill_at: int = 10**9, durable: bool = True, credentials: str = "mine") -> str | None:
        """Make the call; kill the process when it has so many events. What it had by then; None for `CannotResume`."""
        job = {**self._job, "kill_at": kill_at, "durable": durable, "credentials": credentials}
        data, code = self._zygote.run(**job)
        if code == 2 and not data:
            return None
        assert code == (0 if kill_at == 10**9 else -signal.SIGKILL)
        return data


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(PROGRAM) as forks:
        yield forks


@dataclass(frozen=True)
class Protocol:
    """A way to resume.

    Attributes:
        blocks: The answer.
        path: Of the call.
        body: Of the call.
        rest: How the server answers those who come back.
        headers: Of the response.
    """

    blocks: list[bytes]
    path: str
    body: Any
    rest: Callable[[Request], Answer]
    headers: dict[str, str]


def from_offset(request: Request) -> Answer:
    assert (request.path, request.query["conv_id"]) == ("/v1/stream", "cell-7")
    whole = b"".join(wire.blocks(wire.chat()))
    return Answer([whole[int(request.query["from"]) :]], headers={**EVENT_STREAM, "server": "llama.cpp"})


IDS = wire.numbered(wire.plain())
PROTOCOLS = {
    "responses": Protocol(
        wire.blocks(wire.responses()),
        "/v1/responses",
        {"model": "m", "input": "?", "background": True, "stream": True},
        cuts.starting_after(wire.responses()),
        EVENT_STREAM,
    ),
    "llama.cpp": Protocol(
        wire.blocks(wire.chat()),
        "/v1/chat/completions",
        {"model": "m", "messages": [], "stream": True},
        from_offset,
        {**EVENT_STREAM, "server": "llama.cpp"},
    ),
    "last_event_id": Protocol(wire.blocks(IDS), "/events", {"a": 1}, cuts.honour(IDS), EVENT_STREAM),
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_killed_at_every_event(protocol: Protocol, zygote: Zygote, tmp_path: Path) -> None:
    for count in range(1, len(protocol.blocks) + 1):
        killed(protocol, zygote, tmp_path, count, durable=True)
    for count in (1, len(protocol.blocks) // 2):  # before the disk has anything, or all of it
        killed(protocol, zygote, tmp_path / "soon", count, durable=False)


def killed(protocol: Protocol, zygote: Zygote, folder: Path, count: int, *, durable: bool) -> None:
    """Kill a process behind so many events, have others make the same call, and look at what all of them were told."""
    folder.mkdir(exist_ok=True)
    whole = b"".join(protocol.blocks)
    first = Answer(protocol.blocks[:count], End.SILENT, headers=protocol.headers)

    def rest(request: Request) -> Answer:
        if request.method == "POST" and "last-event-id" not in request.headers:
            return Answer([whole], headers=protocol.headers)
        return protocol.rest(request)

    with Scripted(first, rest=rest) as server:
        url = server.url + protocol.path
        kernels = Kernels(zygote, path=f"{folder}/{count}.db", url=url, body=protocol.body)
        assert kernels.run(kill_at=count, durable=durable) == b"".join(protocol.blocks[:count]).decode()
        second = kernels.run()
        if second is None:  # the disk has that there is an answer, and not yet the event with its id
            assert not durable
            assert protocol.body.get("background"), "anything else may be asked for again"
            return
        assert second == whole.decode()
        begun = [each for each in server.requests if each.method == "POST" and "last-event-id" not in each.headers]
        assert len(begun) == 1 or not durable, "another generation"
        before = len(server.requests)
        assert kernels.run() == whole.decode()
        assert len(server.requests) == before
        if count == 1:
            assert kernels.run(credentials="yours") == whole.decode()
            assert len(server.requests) > before
