"""Several relays on one Redis: any of them serves any reader, and goes on with what another has left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from resumable_llm.log import StoreFailed
from resumable_llm.log.redis import RedisStore
from resumable_llm.log.scope import scope_of
from tests.log.conftest import wait_until
from tests.log.redis_server import RedisServer, shared
from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Gate, Served, datas, error_in, events_in, ids
from tests.relay.test_revival import DATA, HALF, SECRET, begun, provider
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = pytest.mark.slow

CHAT_BLOCKS = wire.blocks(wire.chat())
CHAT_DATA = [event.data for event in wire.chat()]


@contextmanager
def replicas(upstream: Scripted, path: Path, count: int = 2) -> Iterator[tuple[list[Served], list[ExitStack]]]:
    """Relays side by side, and what stops each."""
    with ExitStack() as all_of_them:
        served, stops = [], []
        for _ in range(count):
            stop = all_of_them.enter_context(ExitStack())
            store = RedisStore(shared().url, prefix=str(path), lease_seconds=1.0)
            served.append(stop.enter_context(Served(upstream, store=store, secret=SECRET)))
            stops.append(stop)
        yield served, stops


@contextmanager
def reading(pool: ThreadPoolExecutor, served: Served, place: str) -> Iterator[Future[bytes]]:
    """A reader from the start, once it has half."""

    def read(answer: httpx.Response) -> bytes:
        data = b""
        try:
            for chunk in answer.iter_raw():
                data += chunk
        except httpx.RemoteProtocolError:
            data += b"event: broken\ndata: \n\n"
        return data

    with served.client() as client, client.stream("GET", place) as answer:
        yield pool.submit(read, answer)


def test_any_of_them_serves_any_reader(tmp_path: Path) -> None:
    with Gate() as gate, ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(gate.between(CHAT_BLOCKS[:HALF], CHAT_BLOCKS[HALF:])))
        (first, second), _ = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one, second.client() as two:
            place, _ = begun(one, CHAT_PATH, CHAT, **{"idempotency-key": "k"})
            here = stack.enter_context(reading(pool, first, place))
            there = stack.enter_context(reading(pool, second, place))
            same = pool.submit(two.post, CHAT_PATH, json=CHAT, headers={"idempotency-key": "k"})
            gate.open()
            whole = here.result(10)
            assert datas(whole) == CHAT_DATA
            assert there.result(10) == whole == same.result(10).content
            assert two.get(place, headers={"last-event-id": str(HALF)}).content == whole[whole.index(b"id: 6\n") :]
            assert two.get(place, headers={"authorization": "Bearer eve"}).status_code == 404
            assert two.post(CHAT_PATH, json={**CHAT, "n": 2}, headers={"idempotency-key": "k"}).status_code == 422
    assert upstream.methods == ["POST"]


def test_any_of_them_stops_it_for_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(Answer(CHAT_BLOCKS[:HALF], End.SILENT)))
        (first, second), _ = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one, second.client() as two:
            place, _ = begun(one, CHAT_PATH, CHAT)
            here = stack.enter_context(reading(pool, first, place))
            there = stack.enter_context(reading(pool, second, place))
            assert two.delete(place).status_code == 204
            assert upstream.gone.acquire(timeout=10)
            for data in (here.result(10), there.result(10)):
                assert datas(data)[:-1] == CHAT_DATA[:HALF]
                assert '"cancelled"' in events_in(data)[-1].data
            assert one.get(place, headers={"accept": "application/json"}).json()["state"] == "cancelled"


def test_readers_elsewhere_go_on_when_the_owner_is_stopped(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        upstream = stack.enter_context(provider())
        (first, second), (stop, _) = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one:
            place, _ = begun(one)
        here = stack.enter_context(reading(pool, first, place))
        there = stack.enter_context(reading(pool, second, place))
        first.until(lambda: first.reading == 1)
        stop.close()
        data = here.result(10)
        assert datas(data)[:-1] == DATA[:HALF]
        assert events_in(data)[-1].event == "broken"  # neither an end nor an error: this reader is to come back
        assert datas(there.result(10)) == DATA
        with second.client() as two:
            rest = two.get(place, headers={"last-event-id": str(HALF)}).content
            assert datas(rest) == DATA[HALF:]
            assert ids(rest)[0] == f"1.{HALF + 1}"
    assert upstream.methods == ["POST", "GET"]


def test_readers_elsewhere_are_told_when_nobody_can_go_on(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(Answer(CHAT_BLOCKS[:HALF], End.SILENT)))
        (first, second), (stop, _) = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one:
            place, _ = begun(one, CHAT_PATH, CHAT)
        there = stack.enter_context(reading(pool, second, place))
        second.until(lambda: second.reading == 1)
        stop.close()
        data = there.result(10)
        assert datas(data)[:-1] == CHAT_DATA[:HALF]
        assert '"interrupted"' in events_in(data)[-1].data
    assert upstream.methods == ["POST"]


def test_same_request_at_two_of_them_is_one_answer(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, Gate() as gate, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(rest=lambda _: gate.between(CHAT_BLOCKS[:1], CHAT_BLOCKS[1:])))
        served, _ = stack.enter_context(replicas(upstream, tmp_path))
        clients = [stack.enter_context(each.client(**{"idempotency-key": "k"})) for each in served]
        asked = [pool.submit(client.post, CHAT_PATH, json=CHAT) for client in clients]
        gate.open()
        one, two = (each.result(10) for each in asked)
        assert one.headers["location"] == two.headers["location"]
        assert one.content == two.content
        assert datas(one.content) == CHAT_DATA


def test_of_two_that_are_asked_at_once_one_asks_the_provider(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(rest=lambda _: Answer(CHAT_BLOCKS)))
        served, _ = stack.enter_context(replicas(upstream, tmp_path))
        clients = [stack.enter_context(each.client()) for each in served]
        barrier = Barrier(2)

        def ask(client: httpx.Client, key: str) -> httpx.Response:
            barrier.wait(10)
            return client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": key})

        for number in range(20):
            one, two = pool.map(ask, clients, [f"k{number}"] * 2)
            assert one.headers["location"] == two.headers["location"]
            assert one.content == two.content
            assert datas(one.content) == CHAT_DATA
    assert len(upstream.requests) == 20


def test_another_request_under_a_key_that_is_being_asked_for_is_refused(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, Gate(CHAT_BLOCKS) as gate, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(gate.answer))
        (first, second), _ = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one, second.client() as two:
            key = {"idempotency-key": "k"}
            asked = pool.submit(one.post, CHAT_PATH, json=CHAT, headers=key)
            first.until(lambda: bool(upstream.requests))
            other = pool.submit(two.post, CHAT_PATH, json={**CHAT, "n": 2}, headers=key)
            second.until(lambda: second.relay.running == 1)
            gate.open()
            assert datas(asked.result(10).content) == CHAT_DATA
            assert other.result(10).status_code == 422
    assert upstream.methods == ["POST"]


def test_what_a_provider_has_refused_to_one_another_asks_for_itself(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, Gate() as gate, ExitStack() as stack:
        gate._answer = Answer.json("{}", status=429)
        upstream = stack.enter_context(Scripted(gate.answer, Answer(CHAT_BLOCKS)))
        (first, second), _ = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one, second.client() as two:
            key = {"idempotency-key": "k"}
            asked = pool.submit(one.post, CHAT_PATH, json=CHAT, headers=key)
            first.until(lambda: bool(upstream.requests))
            other = pool.submit(two.post, CHAT_PATH, json=CHAT, headers=key)
            second.until(lambda: second.relay.running == 1)
            gate.open()
            assert asked.result(10).status_code == 429
            assert datas(other.result(10).content) == CHAT_DATA
    assert upstream.methods == ["POST", "POST"]


def test_when_one_dies_before_the_answer_begins_another_asks_for_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from resumable_llm.log.redis import RedisStore;"
        "store = RedisStore(sys.argv[1], prefix=sys.argv[2], lease_seconds=1.0);"
        "right = store.claim(sys.argv[3], 'k'); print(right, flush=True); time.sleep(60)"
    )
    scope = scope_of(SECRET, [(b"authorization", AUTH["authorization"].encode())], b"")
    command = [sys.executable, "-c", program, shared().url, str(tmp_path), scope]
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert "RedisClaim" in process.stdout.readline()
        upstream = stack.enter_context(Scripted(Answer(CHAT_BLOCKS)))
        (served,), _ = stack.enter_context(replicas(upstream, tmp_path, count=1))
        with served.client() as client:
            asked = pool.submit(client.post, CHAT_PATH, json=CHAT, headers={"idempotency-key": "k"})
            served.until(lambda: served.relay.running == 1)
            assert not upstream.requests
            process.kill()
            assert datas(asked.result(15).content) == CHAT_DATA
    assert upstream.methods == ["POST"]


def test_a_relay_that_shuts_down_does_not_wait_for_what_another_asks_for(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool, Gate(CHAT_BLOCKS) as gate, ExitStack() as stack:
        upstream = stack.enter_context(Scripted(gate.answer))
        (first, second), (_, stop) = stack.enter_context(replicas(upstream, tmp_path))
        with first.client() as one, second.client() as two:
            key = {"idempotency-key": "k"}
            asked = pool.submit(one.post, CHAT_PATH, json=CHAT, headers=key)
            first.until(lambda: bool(upstream.requests))
            other = pool.submit(two.post, CHAT_PATH, json=CHAT, headers=key)
            second.until(lambda: second.relay.running == 1)
            stop.close()
            assert other.result(10).status_code == 503
            gate.open()
            assert datas(asked.result(10).content) == CHAT_DATA
    assert upstream.methods == ["POST"]


def test_while_redis_is_away_no_provider_is_asked(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    with ExitStack() as stack:
        stack.callback(redis.kill)
        upstream = stack.enter_context(Scripted(Answer.json("{}")))
        store = RedisStore(redis.url)
        served = stack.enter_context(Served(upstream, store=store, secret=SECRET))
        with served.client() as client:
            redis.kill()
            with pytest.raises(StoreFailed):
                wait_until(lambda: store.must_take() is not None)  # type: ignore[func-returns-value]
            for headers in ({}, {"idempotency-key": "k"}):
                refused = client.post(CHAT_PATH, json=CHAT, headers=headers)
                assert (refused.status_code, error_in(refused)) == (503, "store_failed")
            assert not upstream.requests
            assert client.get("/v1/models").content == b"{}", "what is not kept is passed on"
