"""``connect_sse(journal=...)`` over real sockets, in processes that are killed: at every event, in every colour."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from resumable_llm.core.events import EventDecoder
from resumable_llm.log import SqliteStore
from tests.sockets.clients import FAMILIES
from tests.sockets.scripted import Answer, End, Request, Scripted
from tests.transports.test_journal_of_sdks import PROTOCOLS, Protocol
from tests.zygote import Zygote

pytestmark = pytest.mark.slow

COLOURS = ("sync", "asyncio", "trio")

PROGRAM = """
import importlib, json, os, signal, ssl, sys
import anyio, trio
import resumable_llm as rl
from resumable_llm.log import SqliteStore

FAMILIES = {name: importlib.import_module(name) for name in sys.argv[1:]}
context = ssl.create_default_context()

def told(job, store, out, event, seen):
    os.write(out, json.dumps([event.event, event.data, event.id]).encode() + b"\\n")
    if seen == job["kill_at"]:
        for log in list(store._known.values()) if job["durable"] else ():
            log.wait_durable(log.last)
        os.kill(os.getpid(), signal.SIGKILL)

def options(job, store):
    headers = {"Authorization": job["credentials"]}
    return {"json": job["body"], "headers": headers, "idempotency_key": "cell-7", "journal": store}

def call(job, store, out):
    http = FAMILIES[job["family"]]
    with http.Client(trust_env=False, verify=context) as client:
        with rl.connect_sse(client, "POST", job["url"], **options(job, store)) as stream:
            for seen, event in enumerate(stream, 1):
                told(job, store, out, event, seen)

async def acall(job, store, out):
    http = FAMILIES[job["family"]]
    async with http.AsyncClient(trust_env=False, verify=context) as client:
        async with rl.aconnect_sse(client, "POST", job["url"], **options(job, store)) as stream:
            seen = 0
            async for event in stream:
                seen += 1
                told(job, store, out, event, seen)

def perform(job, out):
    store = SqliteStore(job["path"])
    if job["colour"] == "sync":
        call(job, store, out)
    else:
        anyio.run(acall, job, store, out, backend=job["colour"])
    store.close()

for family in FAMILIES:  # whatever a first request imports
    try:
        FAMILIES[family].Client(trust_env=False, verify=context).get("http://127.0.0.1:1")
    except FAMILIES[family].ConnectError:
        pass
"""
"""The calls; see `Zygote`."""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(PROGRAM, *FAMILIES) as forks:
        yield forks


def run(zygote: Zygote, job: dict[str, Any], *, kill_at: int = 0, durable: bool = True) -> list[Any]:
    """Make a call in a process of its own, to be killed when it has so many events. The events that it had."""
    data, code = zygote.run(**{"credentials": "mine", **job, "kill_at": kill_at, "durable": durable})
    assert code == (-signal.SIGKILL if kill_at else 0)
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("colour", COLOURS)
def test_killed(colour: str, family: str, protocol: Protocol, zygote: Zygote, tmp_path: Path) -> None:
    count = len(protocol.blocks)
    everywhere = (colour, family) in {("sync", "httpx"), ("asyncio", FAMILIES[-1])}
    for kill_at in range(1, count + 1) if everywhere else (1, count - 1):
        killed(protocol, zygote, tmp_path, {"colour": colour, "family": family}, kill_at, durable=True)
    if protocol is not PROTOCOLS["responses"]:  # which cannot be found again without its first event
        # Before the disk has anything, or all of it.
        killed(protocol, zygote, tmp_path / "soon", {"colour": colour, "family": family}, count // 2, durable=False)


def killed(
    protocol: Protocol,
    zygote: Zygote,
    folder: Path,
    kind: dict[str, Any],
    kill_at: int,
    *,
    durable: bool,
) -> None:
    """Kill a process behind so many events, have others make the same call, and look at what all of them were told."""
    folder.mkdir(exist_ok=True)
    whole = b"".join(protocol.blocks)
    events = [[event.event, event.data, event.id] for event in EventDecoder().feed(whole)]
    first = Answer(protocol.blocks[:kill_at], End.SILENT, headers=protocol.headers)

    def rest(request: Request) -> Answer:
        if request.method == "POST" and "last-event-id" not in request.headers:
            return Answer([whole], headers=protocol.headers)
        return protocol.rest(request)

    with Scripted(first, rest=rest) as server:
        path, url = f"{folder}/{kill_at}.db", server.url + protocol.path
        job = {**kind, "path": path, "url": url, "body": protocol.body}
        assert run(zygote, job, kill_at=kill_at, durable=durable) == events[:kill_at]
        assert run(zygote, job) == events
        begun = [each for each in server.requests if each.method == "POST" and "last-event-id" not in each.headers]
        assert len(begun) == 1 or not durable, "another generation"
        before = len(server.requests)
        assert run(zygote, job) == events
        assert kept(path, url, protocol.body) == whole
        assert len(server.requests) == before
        if kill_at == 1:
            assert run(zygote, {**job, "credentials": "yours"}) == events
            assert len(server.requests) > before


def kept(path: str, url: str, body: Any) -> bytes:
    """What the journal holds, to the byte: a wrapped client that makes the same call gets nothing else."""
    headers = {"Idempotency-Key": "cell-7", "Authorization": "mine", "Accept": "text/event-stream"}
    with closing(SqliteStore(path)) as store, httpx.Client(trust_env=False) as client:
        answer = rl.wrap(client, journal=store).post(url, json=body, headers=headers)
    return answer.content
