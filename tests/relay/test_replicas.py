"""Several relays on one Redis: any of them serves any reader, and goes on with what another has left."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from resumable_llm.log.redis import RedisStore
from tests.log.redis_server import shared
from tests.relay.serve import CHAT, CHAT_PATH, Gate, Served, datas, events_in, ids
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
