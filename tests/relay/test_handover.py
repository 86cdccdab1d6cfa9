"""Two relays on one store, and one of them shuts down: its readers read on at the other and see nothing of it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import OpenAI
from websockets.exceptions import ConnectionClosedError

import resumable_llm as rl
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Store
from resumable_llm.log.redis import RedisStore
from tests.log import redis_server
from tests.relay.serve import CHAT, CHAT_PATH, Gate, Served, address_told, chat_body, datas, error_in
from tests.relay.test_websocket import opened
from tests.sockets import wire
from tests.sockets.scripted import Scripted
from tests.systems.node import NodeUnavailable, find_node

pytestmark = pytest.mark.slow

WHOLE = wire.blocks(wire.chat())
DATA = [event.data for event in wire.chat()]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-the-relay.md"
SECRET = b"the same for all of them"


class SharedStore(MemoryStore):
    """As if it were on another machine: it outlives the relays, which ask it in threads."""

    remote = True

    def close(self) -> None:
        pass


class Switch:
    """Takes connections for relays, and hands new ones to whichever it is told.

    Args:
        address: Of the first.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self, pool: ThreadPoolExecutor) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self.connections += 1
                far = socket.create_connection(self.address)
                for source, sink in ((near, far), (far, near)):
                    pool.submit(self._pump, source, sink)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def switched(address: tuple[str, int]) -> Iterator[Switch]:
    switch = Switch(address)
    with ThreadPoolExecutor(16) as pool:
        pool.submit(switch.serve, pool)
        try:
            yield switch
        finally:
            switch.close()


def in_memory() -> Callable[[], Store]:
    store = SharedStore()
    return lambda: store


def in_redis() -> Callable[[], Store]:
    url, prefix = redis_server.shared().url, str(uuid.uuid4())
    return lambda: RedisStore(url, flush_seconds=0.001, prefix=prefix)


@pytest.fixture(params=[in_memory, in_redis])
def stores(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """What makes a store for each relay, on what they share."""
    found: Callable[[], Store] = request.param()
    return found


@contextmanager
def two_relays(upstream: Scripted, stores: Callable[[], Store]) -> Iterator[tuple[Served, Served]]:
    with (
        Served(upstream, store=stores(), secret=SECRET) as one,
        Served(upstream, store=stores(), secret=SECRET) as other,
    ):
        yield one, other


def asked(base_url: str, *, wrapped: bool) -> Iterator[str]:
    with OpenAI(base_url=f"{base_url}/v1", api_key="alice") as plain:
        client = rl.wrap(plain) if wrapped else plain
        stream = client.chat.completions.create(
            model="m", messages=[], stream=True, extra_headers={"idempotency-key": "k1"}
        )
        for chunk in stream:
            yield chunk.choices[0].delta.content or ""


def test_wrapped_client_reads_on_at_the_other_relay(stores: Callable[[], Store]) -> None:
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:3], WHOLE[3:])) as upstream,
        two_relays(upstream, stores) as (owner, other),
        switched(other.address) as switch,
    ):
        first = asked(owner.url, wrapped=False)
        began = next(first)
        reader = asked(switch.url, wrapped=True)
        assert next(reader) == began
        switch.address = owner.address
        other.run(other.relay.drain())
        gate.open()
        assert list(reader) == list(first)
        assert switch.connections == 2
    assert upstream.methods == ["POST"]


PROGRAM = """
import sys
from resumable_llm.cli import app, relay
from resumable_llm.log.redis import RedisStore
url = sys.argv.pop()
relay.open_store = lambda *_, **__: RedisStore(url, flush_seconds=0.001, prefix="handover")
relay.secret_of = lambda _: b"the same for all of them"
app.app()
"""


@contextmanager
def relay_process(upstream: Scripted, store: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    command = [sys.executable, "-c", PROGRAM, "relay", "--port", "0", "--upstream", upstream.url, store]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            host, port = address_told(process).split(":")
            yield process, (host, int(port))
        finally:
            process.terminate()


def test_process_that_is_told_to_stop_is_not_missed() -> None:
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:3], WHOLE[3:])) as upstream,
        relay_process(upstream, redis_server.shared().url) as (_, owner),
        relay_process(upstream, redis_server.shared().url) as (leaving, other),
        switched(other) as switch,
    ):
        first = asked(f"http://{owner[0]}:{owner[1]}", wrapped=False)
        began = next(first)
        reader = asked(switch.url, wrapped=True)
        assert next(reader) == began
        switch.address = owner
        leaving.send_signal(signal.SIGTERM)
        assert leaving.stderr is not None
        said = leaving.stderr.read()
        assert leaving.wait(20) == 0
        gate.open()
        assert list(reader) == list(first)
    assert switch.connections == 2
    assert said.count("relay.moved") == 1
    assert "ERROR" not in said
    assert upstream.methods == ["POST"]


def test_socket_is_asked_to_come_again(stores: Callable[[], Store]) -> None:
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:3], WHOLE[3:])) as upstream,
        two_relays(upstream, stores) as (owner, other),
        owner.client() as client,
        client.stream("POST", CHAT_PATH, json=CHAT) as running,
        opened(other, f"{running.headers['location']}/ws") as reader,
    ):
        for _ in range(3):
            reader.recv(timeout=20)
        other.run(other.relay.drain())
        with pytest.raises(ConnectionClosedError):
            reader.recv(timeout=20)
        assert (reader.close_code, reader.close_reason) == (1012, "running")
        gate.open()


def test_relay_that_shuts_down_sends_readers_of_others_away(stores: Callable[[], Store]) -> None:
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:3], WHOLE[3:])) as upstream,
        two_relays(upstream, stores) as (owner, other),
        owner.client() as client,
        other.client() as there,
        client.stream("POST", CHAT_PATH, content=chat_body()) as running,
    ):
        other.run(other.relay.drain())
        place = running.headers["location"]
        refused = there.get(place)
        assert (refused.status_code, error_in(refused), refused.headers["retry-after"]) == (503, "closing", "5")
        gate.open()
        assert datas(running.read()) == DATA
        while (answer := there.get(place)).status_code == 503:
            pass  # it takes a moment until the other relay hears of the end
        assert datas(answer.content) == DATA  # what has ended can be read to the last


def test_page_of_the_documentation_reads_on_at_the_other_relay(stores: Callable[[], Store]) -> None:
    try:
        node = find_node().program
    except NodeUnavailable as error:
        pytest.skip(str(error))
    found = re.search(r"^```js\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:3], WHOLE[3:])) as upstream,
        two_relays(upstream, stores) as (owner, other),
        switched(other.address) as switch,
        owner.client() as client,
        client.stream("POST", CHAT_PATH, json=CHAT) as running,
    ):
        name = running.headers["location"].rpartition("/")[2]
        code = found[1].replace("wss://relay.example", switch.url.replace("http", "ws"))
        asks = f"{code}\nread('{name}', 'alice', (event) => console.log(JSON.stringify(event)));"
        with subprocess.Popen(
            [node, "--experimental-websocket", "--no-warnings", "-e", asks], stdout=subprocess.PIPE, text=True
        ) as page:
            assert page.stdout is not None
            events = [json.loads(page.stdout.readline()) for _ in range(3)]
            switch.address = owner.address
            other.run(other.relay.drain())
            gate.open()
            events += map(json.loads, page.stdout)
        assert page.returncode == 0
        assert events == [{"id": str(number), "event": "message", "data": data} for number, data in enumerate(DATA, 1)]
        assert switch.connections == 2
