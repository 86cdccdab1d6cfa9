from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from resumable_llm.log import Missing, StoreFailed
from resumable_llm.log import redis_link as module
from resumable_llm.log.redis_link import Link
from tests.log import redis_server
from tests.log.redis_server import RedisServer

ECHO = "return {KEYS[1], ARGV[1], #ARGV}"


@contextlib.contextmanager
def linked(url: str | None = None) -> Iterator[Link]:
    link = Link(url or redis_server.shared().url, "root:")
    try:
        yield link
    finally:
        link.close()


@pytest.mark.parametrize(
    "url", ["http://host", "redis://:s3cret/@host:1", "redis://user:s3cret@host:port/0", "redis://[s3cret", "s3cret"]
)
def test_a_url_that_cannot_be_understood_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="redis://host:6379/0") as refused:
        Link(url, "")
    assert "s3cret" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_script_is_sent_once_and_again_where_redis_does_not_know_it() -> None:
    with linked() as link:
        for _ in range(2):
            assert link.ask(link.run, ECHO, b"a", 2) == [b"root:", b"a", 2]
            link.ask(link.do, "SCRIPT", "FLUSH")
        assert link.name("x") == "root:x"


def test_what_the_work_raises_is_raised() -> None:
    async def missing() -> None:
        raise Missing("nothing")

    with linked() as link:
        with pytest.raises(Missing, match="nothing"):
            link.ask(missing)
        with pytest.raises(StoreFailed, match="no_such_function") as failed:
            link.ask(link.run, "return no_such_function()")
        assert isinstance(failed.value.__cause__, ResponseError)


def test_a_redis_that_is_not_there_is_reported() -> None:
    with linked(f"redis://127.0.0.1:{redis_server._free_port()}") as link, pytest.raises(StoreFailed, match="Connect"):
        link.ask(link.do, "PING")


@pytest.mark.slow
def test_a_redis_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    server = RedisServer(tmp_path)
    with linked(server.url) as link:
        with server.paused(), pytest.raises(StoreFailed, match="Timeout"):
            link.ask(link.do, "PING")
        server.kill()


def test_streams_are_read() -> None:
    with linked() as link:
        place = link.name("a stream of ours")
        assert link.ask(link.read_one, place, "0", 10) == []
        for number in (1, 2):
            link.ask(link.do, "XADD", place, f"1-{number}", "d", number)
        entries = [(b"1-1", {b"d": b"1"}), (b"1-2", {b"d": b"2"})]
        assert link.ask(link.read_one, place, "0", 10) == entries
        assert link.ask(link.read, [place], ["1-1"], 10) == [(place, entries[1:])]
        link.ask(link.do, "DEL", place)


@pytest.mark.slow
def test_a_read_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_SECONDS", 0.01)
    with linked() as link:
        assert link.ask(link.read, ["nothing here"], ["0"], 10) == []


def test_a_call_can_be_left_there() -> None:
    called = threading.Event()
    with linked() as link:
        link.post(called.set)
        assert called.wait(10)


def test_closing_does_one_last_thing_and_leaves_nobody_waiting() -> None:
    link = Link(redis_server.shared().url, "")
    began = threading.Event()

    async def for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    failures: list[Exception] = []

    def wait() -> None:
        try:
            link.ask(for_ever)
        except StoreFailed as error:
            failures.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert began.wait(10)

    async def last() -> str:
        return "done"

    assert link.close(last) == "done"
    assert link.close(last) is None
    waiter.join(10)
    assert [str(each) for each in failures] == ["the store is closed"]
    with pytest.raises(StoreFailed, match="closed"):
        link.ask(last)
    link.post(began.clear)
    assert began.is_set()


def test_closing_insists() -> None:
    link = Link(redis_server.shared().url, "")
    cancelled = 0

    async def stubborn() -> None:
        nonlocal cancelled
        while cancelled < 3:
            with contextlib.suppress(asyncio.CancelledError):  # as wait_for does when its work is done just then
                await asyncio.Event().wait()
            cancelled += 1

    async def start() -> None:
        tasks.append(asyncio.create_task(stubborn()))

    tasks: list[asyncio.Task[None]] = []
    link.ask(start)
    link.close()
    assert cancelled == 3
    assert tasks[0].done()
