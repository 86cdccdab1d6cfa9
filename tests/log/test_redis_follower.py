from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as Disconnected

from resumable_llm.log import Log, Missing, State, redis_link
from resumable_llm.log import redis_follower as module
from resumable_llm.log.redis import RedisStore
from resumable_llm.log.redis_link import Entry
from tests.log import redis_server
from tests.log.conftest import head, wait_until

FRAME = b"data: a\n\n"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[RedisStore, RedisStore]]:
    url, prefix = redis_server.shared().url, str(tmp_path)
    with (
        contextlib.closing(RedisStore(url, prefix=prefix, flush_seconds=0.005)) as one,
        contextlib.closing(RedisStore(url, prefix=prefix)) as two,
    ):
        yield one, two


def following() -> int:
    """How many connections wait for events."""
    return redis_server.shared().command("CLIENT", "LIST").count(b"cmd=xread")


@pytest.mark.slow
def test_copies_of_a_hundred_logs_are_byte_for_byte_the_same(stores: tuple[RedisStore, RedisStore]) -> None:
    one, two = stores
    before = following()  # other tests' stores may be open
    logs = [one.begin(head(str(number)))[0] for number in range(100)]
    read: dict[str, bytes] = {}

    def follow(log: Log) -> None:
        news = threading.Event()
        unsubscribe = log.subscribe(news.set)
        data, at = b"", 0
        while True:
            news.clear()
            over = log.state is not State.RUNNING
            part = log.read(at)
            data, at = data + part.data, part.last
            if over and not part.data:
                break
            if not part.data:
                assert news.wait(30)
        unsubscribe()
        read[log.head.id] = data

    threads = [threading.Thread(target=follow, args=[two.find("alice", log.head.id)]) for log in logs]
    for thread in threads:
        thread.start()
    for number in range(200):
        for log in logs[number % 3 :: 3]:
            log.append([b"data: %d of %s\n\n" % (number, log.head.id.encode())] * (1 + number % 4))
        time.sleep(0.001)  # so that it takes many flushes
    for log in logs:
        log.end(State.COMPLETE)
    for thread in threads:
        thread.join(50)
    assert read == {log.head.id: log.read(0, 1 << 30).data for log in logs}
    assert following() - before <= 2, "one connection for each store"


def test_a_copy_that_is_new_is_followed_at_once(
    stores: tuple[RedisStore, RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "BLOCK_SECONDS", 5.0)
    one, two = stores
    for number in range(3):
        log, _ = one.begin(head(str(number)))
        wait_until(lambda: two._writer.follower._asked)
        copy = two.find("alice", str(number))
        log.append([FRAME])
        started = time.monotonic()
        wait_until(lambda copy=copy: copy.last == 1)  # type: ignore[misc]
        assert time.monotonic() - started < 4, "it was not waited for the next question"


def test_what_nobody_holds_is_not_followed(stores: tuple[RedisStore, RedisStore]) -> None:
    one, two = stores
    log, _ = one.begin(head())
    stream = log.stream
    two.find("alice", "one")
    wait_until(lambda: gc.collect() >= 0 and two._catalog.find(stream) is None)
    follower = two._writer.follower
    asked: list[list[str]] = []
    read = two._link.read

    async def remember(places: list[str], positions: list[str], count: int) -> list[tuple[str, list[Entry]]]:
        asked.append(places)
        return await read(places, positions, count)

    two._link.read = remember  # type: ignore[method-assign, assignment]
    log.append([FRAME])
    wait_until(lambda: len(asked) > 0)
    assert asked == [[follower._control]]


def test_what_is_lost_with_a_connection_is_asked_for_again(
    stores: tuple[RedisStore, RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    one, two = stores
    log, _ = one.begin(head())
    copy = two.find("alice", "one")
    read, failures = two._link.read, 0

    async def cut(places: list[str], positions: list[str], count: int) -> list[tuple[str, list[Entry]]]:
        nonlocal failures
        news = await read(places, positions, count)
        if news and failures < 3:
            failures += 1
            raise Disconnected("cut")
        return news

    monkeypatch.setattr(two._link, "read", cut)
    log.append([FRAME])
    wait_until(lambda: copy.last == 1)
    log.append([FRAME] * 4)
    wait_until(lambda: copy.last == 5)
    assert copy.read(0) == log.read(0)
    assert failures == 3


@pytest.mark.slow
def test_a_deletion_that_was_not_heard_is_noticed_later(stores: tuple[RedisStore, RedisStore]) -> None:
    one, two = stores
    log, _ = one.begin(head())
    copy = two.find("alice", "one")
    # As if the minute were over in which Redis remembers, before the connection is there again.
    redis = redis_server.shared()
    redis.command("DEL", one._link.name(f"log:{log.stream}"), one._link.name(f"events:{log.stream}"))
    two._writer.trouble(Disconnected("cut"))
    with pytest.raises(Missing):
        wait_until(lambda: copy.read(0) is None)


def test_messages_of_what_is_not_here_do_no_harm(stores: tuple[RedisStore, RedisStore]) -> None:
    one, two = stores
    theirs, _ = two.begin(head("theirs"))
    copy = one.find("alice", "theirs")
    log, _ = one.begin(head())
    control = one._writer.follower._control
    for stream in ("nobody's", copy.stream, log.stream):
        one._link.ask(one._link.do, "XADD", control, "*", "s", stream)
    theirs.append([FRAME])
    wait_until(lambda: copy.last == 1)
    assert log.state is copy.state is State.RUNNING


def test_news_of_what_was_let_go_meanwhile_do_no_harm(stores: tuple[RedisStore, RedisStore]) -> None:
    one, two = stores
    log, _ = one.begin(head())
    copy = two.find("alice", "one")
    read = two._link.read

    async def stray(places: list[str], positions: list[str], count: int) -> list[tuple[str, list[Entry]]]:
        news = await read(places, positions, count)
        return [*news, (two._catalog.events_name("nobody's"), [(b"1-1", {b"d": b""})])]

    two._link.read = stray  # type: ignore[method-assign, assignment]
    log.append([FRAME])
    wait_until(lambda: copy.last == 1)


def test_a_copy_that_cannot_be_whole_is_given_up(stores: tuple[RedisStore, RedisStore]) -> None:
    one, two = stores
    log, _ = one.begin(head())
    copy = two.find("alice", "one")
    redis_server.shared().command("XADD", one._link.name(f"events:{log.stream}"), "1-7", "d", "x")
    with pytest.raises(Missing):
        wait_until(lambda: copy.read(0) is None)


def test_a_long_log_is_caught_up_with(stores: tuple[RedisStore, RedisStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES", 10)
    one, two = stores
    log, _ = one.begin(head())
    copy = two.find("alice", "one")
    for number in range(50):
        log.append([b"data: %d\n\n" % number])
        one.sweep(0)  # which writes what there is
    follower = two._writer.follower
    assert two._link.ask(follower.catch_up, copy)
    assert copy.read(0) == log.read(0)
    one.delete("alice", "one")
    assert not two._link.ask(follower.catch_up, copy)
