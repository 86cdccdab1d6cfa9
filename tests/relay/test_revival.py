"""Relays that are stopped or killed while an answer is generated, and those that go on with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

import resumable_llm as rl
from resumable_llm.log.sqlite import SqliteStore
from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Served, address_told, datas, error_in, events_in, ids
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import FAMILIES
from tests.sockets.clients import client as client_of
from tests.sockets.scripted import Answer, End, Scripted

EVENTS = wire.responses()
BLOCKS = wire.blocks(EVENTS)
DATA = [event.data for event in EVENTS]
ASK = {"stream": True, "background": True}
PATH = "/v1/responses"
HALF = 5


def begun(client: httpx.Client, path: str = PATH, body: Any = None, **headers: str) -> tuple[str, bytes]:
    """Begin an answer and read half of it: where it is, and what was read."""
    with client.stream("POST", path, json=body or ASK, headers=headers) as answer:
        read = b""
        for chunk in answer.iter_raw():
            read += chunk
            if len(events_in(read)) >= HALF:
                break
        return answer.headers["location"], read


@contextmanager
def provider(**options: Any) -> Iterator[Scripted]:
    """It keeps answers: half of one comes, then nothing more on that connection; the rest can be asked for."""
    with Scripted(Answer(BLOCKS[:HALF], End.SILENT), rest=cuts.starting_after(EVENTS), **options) as upstream:
        yield upstream


def stored(path: Path) -> SqliteStore:
    return SqliteStore(path / "relay.db")


SECRET = b"0123456789abcdef"


def test_next_relay_goes_on_for_whoever_asks(tmp_path: Path) -> None:
    with provider() as upstream:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            place, read = begun(client, **{"idempotency-key": "k"})
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            state = client.get(place, headers={"accept": "application/json"}).json()
            assert state["state"] == "interrupted"
            assert state["dialect"] == "openai_responses"
            with ThreadPoolExecutor(4) as pool:  # all of them at once, and one goes on
                rest = list(pool.map(lambda _: client.get(place, headers={"last-event-id": str(HALF)}), range(4)))
            whole = client.post(PATH, json=ASK, headers={"idempotency-key": "k"})
            assert client.get(place, headers={"accept": "application/json"}).json()["state"] == "complete"
            assert client.get(place, headers={"authorization": "Bearer eve"}).status_code == 404
    assert {answer.content for answer in rest} == {rest[0].content}
    assert datas(read)[:HALF] + datas(rest[0].content) == DATA == datas(whole.content)
    assert ids(rest[0].content) == [f"1.{number}" for number in range(HALF + 1, len(DATA) + 1)]
    assert upstream.methods == ["POST", "GET"]
    resumed = upstream.requests[1]
    assert resumed.headers["authorization"] == AUTH["authorization"]
    assert "last-event-id" not in resumed.headers


def test_same_request_again_goes_on_too(tmp_path: Path) -> None:
    with provider() as upstream:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            begun(client, **{"idempotency-key": "k"})
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            whole = client.post(PATH, json=ASK, headers={"idempotency-key": "k"})
    assert datas(whole.content) == DATA
    assert upstream.methods == ["POST", "GET"]


def test_key_in_the_query_is_the_readers(tmp_path: Path) -> None:
    with provider() as upstream:
        with (
            Served(upstream, store=stored(tmp_path), secret=SECRET) as served,
            httpx.Client(base_url=served.url) as client,
        ):
            place, _ = begun(client, f"{PATH}?key=s3cret&x=1")
        with (
            Served(upstream, store=stored(tmp_path), secret=SECRET) as served,
            httpx.Client(base_url=served.url) as client,
        ):
            assert client.get(place).status_code == 404
            assert datas(client.get(f"{place}?key=s3cret").content) == DATA
    assert upstream.requests[1].query["key"] == "s3cret"
    assert b"s3cret" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_what_the_provider_does_not_keep_stays_interrupted(tmp_path: Path) -> None:
    blocks = wire.blocks(wire.chat())
    with Scripted(Answer(blocks[:HALF], End.SILENT)) as upstream:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            place, _ = begun(client, CHAT_PATH, CHAT)
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            data = client.get(place).content
    assert events_in(data)[-1].event == "error"
    assert '"interrupted"' in events_in(data)[-1].data
    assert upstream.methods == ["POST"]


def test_another_provider_is_not_asked(tmp_path: Path) -> None:
    with provider() as upstream, Scripted() as other:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            place, _ = begun(client)
        with Served(other, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            assert events_in(client.get(place).content)[-1].event == "error"
    assert not other.requests


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer((b"{}",), status=404, headers={"content-type": "application/json"}), "resume_expired"),
        (Answer((b"{}",), status=401, headers={"content-type": "application/json"}), "cannot_resume"),
    ],
    ids=["expired", "refused"],
)
def test_provider_that_has_nothing_more_is_told_truthfully(answer: Answer, code: str, tmp_path: Path) -> None:
    with Scripted(Answer(BLOCKS[:HALF], End.SILENT), rest=lambda _: answer) as upstream:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            place, _ = begun(client)
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            data = client.get(place).content
            assert datas(data)[:-1] == DATA[:HALF]
            assert code in events_in(data)[-1].data
            assert client.get(place).content == data  # and it stays so


def test_readers_of_a_relay_that_shuts_down_come_back_to_the_next(tmp_path: Path) -> None:
    """A wrapped client does not notice; the relay's address stays the same."""
    with provider() as upstream, ExitStack() as stack, client_of(FAMILIES[-1]) as http, ThreadPoolExecutor(1) as pool:
        first = stack.enter_context(Served(upstream, store=stored(tmp_path), secret=SECRET))
        policy = rl.RetryPolicy(wait=lambda state: 0.05, stop=lambda state: state.attempt_number > 400)
        api = rl.wrap(OpenAI(base_url=f"{first.url}/v1", api_key="s3cret", http_client=http), policy=policy)
        came = threading.Semaphore(0)
        said: list[Any] = []

        def read() -> None:
            for event in api.responses.create(model="m", input="?", stream=True, background=True):
                said.append(event.to_dict())
                came.release()

        reading = pool.submit(read)
        for _ in range(HALF):
            assert came.acquire(timeout=10)
        _, port = first.address
        stack.close()
        with Served(upstream, store=stored(tmp_path), port=port, secret=SECRET):
            reading.result(20)
    assert [each["sequence_number"] for each in said] == list(range(len(EVENTS)))
    assert upstream.methods == ["POST", "GET"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("strict", [False, True], ids=["grouped", "strict"])
def test_killed_relay_loses_what_it_says(strict: bool, tmp_path: Path) -> None:
    """What was read, and what the next relay tells behind it, is the whole; or the cursor is refused."""
    with provider() as upstream, relay_process(tmp_path, upstream, strict=strict) as (url, kill):
        with httpx.Client(base_url=url, headers=AUTH, timeout=20) as client:
            place, read = begun(client, **{"idempotency-key": "k"})
            kill()
        with (
            relay_process(tmp_path, upstream, strict=strict) as (again, _),
            httpx.Client(base_url=again, headers=AUTH, timeout=20) as client,
        ):
            rest = client.get(place, headers={"last-event-id": ids(read)[-1]})
            whole = client.post(PATH, json=ASK, headers={"idempotency-key": "k"})
    if strict or rest.status_code == 200:
        assert datas(read) + datas(rest.content) == DATA
    else:
        assert error_in(rest) in ("no_such_event", "not_found")
    if whole.headers["idempotency-key"] == "k" and upstream.methods == ["POST", "GET"]:
        assert datas(whole.content) == DATA
    else:  # killed before even the head was on disk, so that nothing is known of the answer
        assert not strict


@contextmanager
def relay_process(path: Path, upstream: Scripted, *, strict: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """The command in a process of its own: its address, and what kills it."""
    options = ["--port", "0", "--upstream", upstream.url, "--store", f"sqlite:///{path / 'relay.db'}"]
    options += ["--durability", "strict"] if strict else []
    command = [sys.executable, "-m", "resumable_llm", "relay", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:

        def kill() -> None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

        try:
            yield f"http://{address_told(process)}", kill
        finally:
            process.kill()
