"""The scripts on every server that is here, the oldest and the newest: the same answers, and the same keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from resumable_llm.log import Missing, State
from resumable_llm.log import redis_scripts as scripts
from resumable_llm.log.redis import RedisStore
from tests.log import redis_server
from tests.log.conftest import Clock, head, wait_until
from tests.log.redis_server import RedisServer

FRAME = b"data: a\n\n"


@pytest.fixture(params=redis_server.programs(), ids=str, scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), program=request.param)
    yield server
    server.kill()


@pytest.mark.slow
def test_a_life_of_a_log(server: RedisServer) -> None:
    clock = Clock()
    with (
        contextlib.closing(RedisStore(server.url, flush_seconds=0.001, clock=clock)) as one,
        contextlib.closing(RedisStore(server.url, flush_seconds=0.001, clock=clock)) as two,
    ):
        log, new = one.begin(head())
        assert new
        log.append([FRAME, FRAME], note="n1")
        log.append([FRAME])
        log.wait_durable(3, 10)
        copy = two.find("alice", "one")
        assert copy.read(0) == log.read(0)
        one._link.ask(one._link.do, "ZADD", one._link.name("leases"), 1, one._me)
        two._link.ask(two._writer.tick)
        wait_until(lambda: copy.state is State.INTERRUPTED)
        assert copy.upstream == "n1"
        copy.reopen()
        copy.append([FRAME])
        wait_until(lambda: log.last == 4)
        assert log.end(State.CANCELLED, "enough")
        wait_until(lambda: copy.state is log.state is State.CANCELLED)
        clock.now += 60
        assert one.sweep(clock.now) == 1
        with pytest.raises(Missing):
            wait_until(lambda: copy.read(0) is None)
        with pytest.raises(Missing):
            two.find("alice", "one")
        assert one.begin(head())[1]
        one.delete("alice", "one")
    left = server.command("KEYS", "*")
    assert b":log:" not in left
    assert b":id:" not in left


def test_of_what_is_not_there_nothing_is_said_or_made(server: RedisServer) -> None:
    with contextlib.closing(RedisStore(server.url)) as store:
        link = store._link
        log, _ = store.begin(head())
        assert link.ask(link.run, scripts.LOOK, store._me, log.stream)[1] == b"running"
        assert link.ask(link.run, scripts.LOOK, store._me, "nobody's") is None
        assert link.ask(link.run, scripts.WISH, "nobody's", "cancelled", "") is None
        assert link.ask(link.run, scripts.REOPEN, store._me, "nobody's", 1000) == []
        assert link.ask(link.run, scripts.REOPEN, store._me, log.stream, 1000) == [b"running"]
        assert link.ask(link.run, scripts.GONE, "nobody's", log.stream) == [b"nobody's"]
        assert link.ask(link.run, scripts.DISOWN, store._me, "nobody's", "", "1") is None
        assert b"nobody" not in server.command("KEYS", "*")
        store.delete("alice", "one")
