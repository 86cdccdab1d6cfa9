"""`rl.wrap(client, relay="local")`: a process that dies, kernel and all, comes back to its answer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from openai import APIConnectionError, OpenAI

import resumable_llm as rl
from resumable_llm.local import relay as local
from tests.local import own
from tests.relay.serve import Gate
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, LOOPS, async_client, policy
from tests.sockets.clients import client as client_of
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = pytest.mark.slow

SAID = wire.blocks(wire.chat())

READER = """
import sys
import openai
import resumable_llm as rl

client = rl.wrap(openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="s3cret"), relay="local")
completions = client.chat.completions.with_streaming_response
key = {"Idempotency-Key": "cell-7"}
with completions.create(model="m", messages=[], stream=True, extra_headers=key) as response:
    for data in response.iter_bytes():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with own.cache(tmp_path) as found:
        yield found


def reader(upstream: Scripted) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", READER, upstream.url], stdout=subprocess.PIPE)


def wait_for(folder: Path, *, events: int) -> None:
    """Until so many events are on disk."""
    (path,) = folder.glob("*.db")
    with closing(sqlite3.connect(path)) as database:
        while database.execute("SELECT max(last) FROM blocks").fetchone() != (events,):
            time.sleep(0.01)


def test_a_process_that_is_killed_comes_back_to_the_whole_answer(folder: Path) -> None:
    with Gate() as gate, Scripted(gate.between(SAID[:5], SAID[5:])) as upstream:
        with reader(upstream) as first:
            assert first.stdout is not None
            begun = b""
            while begun.count(b"\n\n") < 5:
                begun += os.read(first.stdout.fileno(), 65536)
            first.kill()
        assert first.returncode != 0
        gate.open()
        with reader(upstream) as second, reader(upstream) as third:
            assert second.stdout is not None
            assert third.stdout is not None
            whole = second.stdout.read()
            assert third.stdout.read() == whole
        assert second.returncode == third.returncode == 0
        assert len(upstream.requests) == 1
    assert whole == b"".join(b"id: %d\n%b" % (number, block) for number, block in enumerate(SAID, 1))
    assert whole.startswith(begun)
    assert len(own.relays(folder)) == 1


def test_two_processes_that_start_at_once_have_one_relay(folder: Path) -> None:
    with Scripted(rest=lambda _: Answer(SAID)) as upstream, reader(upstream) as one, reader(upstream) as two:
        assert one.stdout is not None
        assert two.stdout is not None
        assert one.stdout.read() == two.stdout.read() != b""
        assert len(upstream.requests) == 1
    (log,) = folder.glob("*.log")
    assert log.read_text().count(" in front of ") == 1


def test_a_relay_that_is_killed_is_started_again_in_the_middle(folder: Path) -> None:
    """Its readers come back by themselves, and read what it has written down."""
    with (
        Scripted(Answer(SAID[:5], End.SILENT)) as upstream,
        client_of(FAMILIES[-1]) as http,
    ):
        api = rl.wrap(
            OpenAI(base_url=f"{upstream.url}/v1", api_key="s3cret", http_client=http, max_retries=0),
            relay="local",
            policy=policy(),
        )
        stream = api.chat.completions.create(model="m", messages=[], stream=True)
        words = [next(stream).choices[0].delta.content for _ in range(5)]
        (first,) = own.relays(folder)
        wait_for(folder, events=5)
        own.stop(first, signal.SIGKILL)
        with pytest.raises(Exception, match="the relay was stopped while the answer was generated"):
            next(stream)
        (second,) = own.relays(folder)
        assert second.url == first.url
        assert second.pid != first.pid
        assert rl.inspect(stream).report.attempts > 1
        assert words == ["", *wire.WORDS[:4]]


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_the_loop_goes_on_while_it_is_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    address = local.address

    def noting(upstream: str) -> str:
        threads.append(threading.current_thread())
        return address(upstream)

    monkeypatch.setattr(local, "address", noting)
    with Scripted(Answer(SAID[:3], End.RST), Answer(SAID)) as upstream:
        async with async_client(FAMILIES[-1]) as http:
            wrapped = rl.wrap(http, relay="local", policy=policy())
            asked: dict[str, Any] = {"json": {"model": "m", "stream": True, "messages": []}}
            async with wrapped.stream("POST", f"{upstream.url}/v1/chat/completions", **asked) as response:
                assert b"cannot_resume" in await response.aread()
            async with wrapped.stream("POST", f"{upstream.url}/v1/chat/completions", **asked) as response:
                assert (await response.aread()).count(b"id: ") == len(SAID)
    assert threads
    assert threading.main_thread() not in threads
    assert len(own.relays(folder)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_started_before_it_is_needed(family: str, folder: Path) -> None:
    with Scripted(Answer.json("{}")) as upstream, client_of(family) as http:
        assert rl.wrap(http, relay="local").get(upstream.url).json() == {}
    assert not folder.exists()


def test_why_there_is_none_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Scripted() as upstream, client_of(FAMILIES[-1]) as http:
        api = OpenAI(base_url=f"{upstream.url}/v1", api_key="s3cret", http_client=http, max_retries=0)
        with pytest.raises(APIConnectionError) as caught:
            rl.wrap(api, relay="local").chat.completions.create(model="m", messages=[], stream=True)
    assert "the local relay cannot be started" in str(caught.value.__cause__)
