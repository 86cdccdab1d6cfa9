"""Answers that are lost, writes that are refused, leases that lapse: what Redis has in the end, and what logs say."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as Disconnected

from resumable_llm.log import Log, LogEnded, Missing, State, StoreFailed
from resumable_llm.log import redis_scripts as scripts
from resumable_llm.log import redis_writer as module
from resumable_llm.log.redis import RedisStore
from tests.log import redis_server
from tests.log.conftest import head, wait_until
from tests.log.redis_server import RedisServer

FRAME = b"data: a\n\n"


@contextlib.contextmanager
def opened(prefix: object, **options: object) -> Iterator[RedisStore]:
    defaults: dict[str, object] = {"flush_seconds": 0.001, "prefix": str(prefix)}
    store = RedisStore(redis_server.shared().url, **{**defaults, **options})  # type: ignore[arg-type]
    with contextlib.closing(store):
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisStore]:
    with opened(tmp_path) as store:
        yield store


class Faults:
    """Stands between a store and Redis.

    Attributes:
        before: Scripts that do not reach Redis.
        after: Scripts whose answer is lost.
        calls: Scripts that were run.
        bytes: How much was sent with each.
    """

    def __init__(self, store: RedisStore) -> None:
        self.before: set[str] = set()
        self.after: set[str] = set()
        self.calls: list[str] = []
        self.arguments: list[tuple[object, ...]] = []
        self.act: Callable[[str], None] = lambda script: None
        self._run = store._link.run
        store._link.run = self.run  # type: ignore[method-assign]

    async def run(self, script: str, *arguments: str | bytes | float) -> object:
        self.calls.append(script)
        self.arguments.append(arguments)
        if script in self.before:
            raise Disconnected("cut before")
        answer = await self._run(script, *arguments)
        self.act(script)
        if script in self.after:
            raise Disconnected("cut after")
        return answer


def kept(prefix: object, id: str = "one") -> Log:
    """The log, as somebody else sees it."""
    with opened(prefix) as other:
        return other.find("alice", id)


# Writing.


@pytest.mark.parametrize("lost", ["before", "after"])
def test_what_may_not_have_been_written_is_written_once(store: RedisStore, tmp_path: Path, lost: str) -> None:
    faults = Faults(store)
    log, _ = store.begin(head())
    getattr(faults, lost).add(scripts.WRITE)
    log.append([FRAME] * 2, note="n2")
    with pytest.raises(StoreFailed, match=f"cut {lost}"):
        log.wait_durable(2, 10)
    log.append([FRAME])
    log.end(State.COMPLETE, "over")
    with pytest.raises(StoreFailed, match=f"cut {lost}"):
        log.wait_durable(3, 10)
    getattr(faults, lost).clear()
    wait_until(lambda: not log.owned)
    other = kept(tmp_path)
    assert (other.read(0), other.state, other.reason, other.upstream) == (log.read(0), State.COMPLETE, "over", "n2")


def test_all_logs_share_one_call(tmp_path: Path) -> None:
    with opened(tmp_path, flush_seconds=3600) as store:
        logs = [store.begin(head(str(number)))[0] for number in range(100)]
        faults = Faults(store)
        for log in logs:
            log.append([FRAME] * 3)
        store.sweep(0)
        assert faults.calls == [scripts.WRITE, scripts.SWEEP]
        assert all(log.durable == 3 for log in logs)


@pytest.mark.parametrize("limit", [("_BATCH", 7), ("_BATCH_BYTES", 1000)])
def test_no_call_is_too_large(tmp_path: Path, limit: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, *limit)
    with opened(tmp_path, flush_seconds=3600) as store:
        logs = [store.begin(head(str(number)))[0] for number in range(20)]
        faults = Faults(store)
        for log in logs:
            log.append([bytes(300) + b"\n\n"])
        store.sweep(0)
        assert faults.calls.count(scripts.WRITE) in (3, 7)
        assert all(log.durable == 1 for log in logs)
        faults.before = {scripts.WRITE}
        for log in logs:
            log.append([FRAME])
        with pytest.raises(StoreFailed):
            store.sweep(0)
        faults.before = set()
        store.sweep(0)
        assert all(log.durable == 2 for log in logs)


def test_strict_shows_nothing_that_redis_has_not_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path, strict=True) as store:
        log, _ = store.begin(head())
        faults = Faults(store)
        faults.after.add(scripts.WRITE)
        with pytest.raises(StoreFailed, match="cut"):
            log.append([FRAME])
        assert (log.last, log.read(0).data) == (0, b"")
        faults.after.clear()
        wait_until(lambda: log.last == 1)
        assert log.append([FRAME]) == log.last == log.durable == 2


def test_one_can_wait_for_redis(tmp_path: Path) -> None:
    with opened(tmp_path, flush_seconds=3600) as store:
        log, _ = store.begin(head())
        log.wait_durable(0)
        log.append([FRAME])
        with pytest.raises(TimeoutError):
            log.wait_durable(1, 0.0)
        waiter = threading.Thread(target=log.wait_durable, args=[1, 10])
        waiter.start()
    waiter.join(10)
    assert log.durable == 1


def test_a_bug_of_ours_is_told_like_any_other_trouble(store: RedisStore) -> None:
    log, _ = store.begin(head())
    faults = Faults(store)

    def fail(script: str) -> None:
        raise ZeroDivisionError("a bug")

    faults.act = fail
    log.append([FRAME])
    with pytest.raises(StoreFailed, match="a bug"):
        log.wait_durable(1, 10)
    faults.act = lambda script: None
    wait_until(lambda: log.durable == 1)


def test_trouble_is_logged_once_and_so_is_its_end(store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log, _ = store.begin(head())
    faults = Faults(store)
    faults.before.add(scripts.WRITE)
    log.append([FRAME])
    wait_until(lambda: faults.calls.count(scripts.WRITE) > 2)
    faults.before.clear()
    wait_until(lambda: "redis.back" in caplog.text)
    assert caplog.text.count("redis.away error=cut before") == 1


def test_a_redis_that_is_away_for_long_is_not_waited_for(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT_BYTES", 1000)
    faults = Faults(store)
    log, _ = store.begin(head())
    faults.before.add(scripts.WRITE)
    with pytest.raises(StoreFailed, match="cut before"):
        wait_until(lambda: log.append([bytes(300) + b"\n\n"]) == 0)
    last = log.last
    assert log.read(0, 1 << 20).last == last
    with pytest.raises(StoreFailed):
        log.reopen()
    assert log.end(State.INTERRUPTED, "full")
    faults.before.clear()
    wait_until(lambda: not log.owned)
    assert log.durable == last
    log.reopen()
    assert log.append([FRAME]) == last + 1


# Refused.


def test_what_was_taken_over_is_found_out_with_the_next_write(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        log.append([FRAME])
        log.wait_durable(1, 10)
        lapse(one)
        two._link.ask(two._writer.tick)
        assert two.interrupted == 1
        copy = two.find("alice", "one")
        assert (copy.state, copy.reason) == (State.INTERRUPTED, "the process that wrote it has died")
        copy.reopen()
        copy.append([b"data: other\n\n"])
        with contextlib.suppress(LogEnded):
            log.append([b"data: never seen\n\n"])
        wait_until(lambda: log.last == 2 and not log.owned)
        assert log.read(0) == copy.read(0)
        with pytest.raises(LogEnded):
            log.append([FRAME])


def lapse(store: RedisStore) -> None:
    """As if it had not renewed its lease for too long."""
    store._link.ask(store._link.do, "ZADD", store._link.name("leases"), 1, store._me)


def test_what_was_taken_over_is_found_out_though_nothing_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        woken = threading.Event()
        log.subscribe(woken.set)
        lapse(one)
        two._link.ask(two._writer.tick)
        assert woken.wait(10)
        wait_until(lambda: log.state is State.INTERRUPTED)
        assert one.find("alice", "one") is log


def test_what_was_deleted_is_found_out_with_the_next_write(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        log, _ = store.begin(head())
        redis_server.shared().command("DEL", store._link.name(f"log:{log.stream}"))
        log.append([FRAME])
        with pytest.raises(Missing):
            log.wait_durable(1, 10)
        assert log not in store._writer._live


@pytest.mark.slow
def test_what_redis_has_forgotten_is_found_out_though_nothing_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        copy = two.find("alice", "one")
        redis_server.shared().command("DEL", one._link.name(f"log:{log.stream}"))
        for store in one, two:
            store._writer.trouble(Disconnected("as when it is restarted"))
        for each in log, copy:
            with pytest.raises(Missing):
                wait_until(lambda each=each: each.read(0) is None)  # type: ignore[misc]


def test_of_a_batch_only_what_was_refused_is_compared(tmp_path: Path) -> None:
    with opened(tmp_path, flush_seconds=3600) as store:
        logs = [store.begin(head(str(number)))[0] for number in range(3)]
        faults = Faults(store)
        key = store._link.name(f"log:{logs[1].stream}")
        redis_server.shared().command("HSET", key, "pen", f"{store._me}:1-0")
        for log in logs:
            log.append([FRAME])
        redis_server.shared().command("HSET", key, "pen", "somebody:2-0")
        store.sweep(0)
        assert [call for call in faults.calls if call != scripts.NUDGE] == [scripts.WRITE, scripts.LOOK, scripts.SWEEP]
        assert [log.durable for log in logs] == [1, 0, 1]
        assert [log.owned for log in logs] == [True, False, True]


def test_a_wish_whose_answer_is_lost_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        copy = two.find("alice", "one")
        faults = Faults(two)
        faults.before.add(scripts.WISH)
        assert copy.end(State.CANCELLED, "enough")
        wait_until(lambda: faults.calls.count(scripts.WISH) > 1)
        assert log.state is State.RUNNING
        faults.before.clear()
        wait_until(lambda: copy.state is State.CANCELLED)


def test_a_wish_is_fulfilled_by_the_lease_where_the_owner_has_died(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        copy = two.find("alice", "one")
        one._link.ask(one._link.do, "ZREM", one._link.name("leases"), one._me)  # so that it is told nothing
        assert copy.end(State.CANCELLED, "enough")
        wait_until(lambda: not two._writer._wishes)
        two._link.ask(two._writer.flush)
        lapse(one)
        two._link.ask(two._writer.tick)
        wait_until(lambda: copy.state is State.CANCELLED)
        assert copy.reason == "enough"
        assert log is not copy


# Reopening.


def test_what_runs_is_not_reopened(store: RedisStore) -> None:
    log, _ = store.begin(head())
    with pytest.raises(LogEnded, match="the log is running"):
        log.reopen()
    assert log.append([FRAME]) == 1


def test_an_end_that_redis_does_not_know_yet_is_told_first(tmp_path: Path) -> None:
    with opened(tmp_path, flush_seconds=3600) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        log.end(State.INTERRUPTED)
        log.reopen()
        assert log.append([FRAME]) == 2
        assert log.read(1).data == b"id: 1.2\n" + FRAME


def test_a_log_that_was_deleted_is_not_reopened(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        log.end(State.INTERRUPTED)
        wait_until(lambda: not log.owned)
        copy = two.find("alice", "one")
        redis = redis_server.shared()
        redis.command("DEL", one._link.name(f"log:{log.stream}"))
        with pytest.raises(Missing):
            copy.reopen()
        with pytest.raises(Missing):
            copy.read(0)


def test_a_log_that_is_deleted_while_it_is_reopened_is_missing(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        log, _ = one.begin(head())
        log.end(State.INTERRUPTED)
        wait_until(lambda: not log.owned)
        faults = Faults(one)

        def delete(script: str) -> None:
            if script == scripts.REOPEN:
                two.delete("alice", "one")

        faults.act = delete
        with pytest.raises(Missing):
            log.reopen()
        assert not one._writer._live


@pytest.mark.parametrize("script", [scripts.BEGIN, scripts.REOPEN])
def test_what_is_ours_without_our_knowing_is_let_go_of(tmp_path: Path, script: str) -> None:
    with opened(tmp_path) as store:
        if script == scripts.REOPEN:
            log, _ = store.begin(head())
            log.end(State.INTERRUPTED)
            wait_until(lambda: not log.owned)
        faults = Faults(store)
        faults.after.add(script)
        with pytest.raises(StoreFailed, match="cut after"):
            log.reopen() if script == scripts.REOPEN else store.begin(head())
        faults.after.clear()
        wait_until(lambda: kept(tmp_path).state is State.INTERRUPTED)
        again = store.find("alice", "one")
        wait_until(lambda: again.state is State.INTERRUPTED)
        again.reopen()


def test_an_end_that_redis_has_lost_is_made_up_for(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        log, _ = store.begin(head())
        log.end(State.COMPLETE)
        wait_until(lambda: not log.owned)
        redis = redis_server.shared()
        # As a Redis that was restarted remembers it.
        redis.command("HSET", store._link.name(f"log:{log.stream}"), "state", "running", "pen", f"{store._me}:1-0")
        redis.command("XTRIM", store._link.name(f"events:{log.stream}"), "MAXLEN", 0)
        redis.command("XSETID", store._link.name(f"events:{log.stream}"), "1-0")
        redis.command("SADD", store._link.name(f"running:{store._me}"), log.stream, "one that never was")
        store._writer._doubt = 1
        store._link.ask(store._writer.tick)
        assert redis.command("HGET", store._link.name(f"log:{log.stream}"), "state").endswith(b"interrupted\r\n")
        assert redis.command("SCARD", store._link.name(f"running:{store._me}")) == b":0\r\n"


# Leases.


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_without_a_lease_nothing_is_written_here(tmp_path: Path, *, strict: bool) -> None:
    with opened(tmp_path, lease_seconds=1.0, strict=strict) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        wait_until(lambda: log.durable == 1)
        faults = Faults(store)
        faults.before |= {scripts.TICK, scripts.WRITE}
        log.append([FRAME], wait=False)
        wait_until(lambda: log.state is State.INTERRUPTED)
        assert log.reason == "Redis could not be reached in time"
        with pytest.raises(LogEnded):
            log.append([FRAME], wait=False)
        assert log.last == 1 if strict else 2
        faults.before.clear()
        wait_until(lambda: not log.owned and store._writer._failure is None and store._writer._doubt == 0)
        assert kept(tmp_path).state is State.INTERRUPTED
        assert kept(tmp_path).last == log.last
        log.reopen()
        assert log.append([FRAME]) == log.last


def test_what_runs_for_long_is_kept_for_long(store: RedisStore) -> None:
    log, _ = store.begin(head())
    redis, key = redis_server.shared(), store._link.name(f"log:{log.stream}")
    redis.command("PEXPIRE", key, 1_000_000)
    store._writer._kept -= 3600
    store._link.ask(store._writer.tick)
    assert int(redis.command("PTTL", key)[1:]) > 3_000_000


@pytest.mark.slow
def test_a_lease_is_renewed(tmp_path: Path) -> None:
    with opened(tmp_path, lease_seconds=1.0) as one, opened(tmp_path, lease_seconds=1.0) as two:
        log, _ = one.begin(head())
        begun = time.monotonic()
        faults = Faults(two)
        wait_until(lambda: time.monotonic() > begun + 1.5)
        assert faults.calls.count(scripts.TICK) > 2
        assert (log.state, two.interrupted) == (State.RUNNING, 0)


def test_a_tick_that_hangs_does_not_hide_that_the_lease_lapses(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    with contextlib.closing(RedisStore(server.url, lease_seconds=0.3)) as store:
        log, _ = store.begin(head())
        with server.paused():
            wait_until(lambda: log.state is State.INTERRUPTED)
    server.kill()


# Closing.


def test_closing_says_what_was_lost(tmp_path: Path) -> None:
    with opened(tmp_path, flush_seconds=3600) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        Faults(store).before.add(scripts.WRITE)
        with pytest.raises(StoreFailed, match="not all") as failed:
            store.close()
        assert "cut before" in str(failed.value.__cause__)
        with pytest.raises(StoreFailed, match="closed"):
            log.wait_durable(1)


def test_closing_loses_nothing_where_there_is_nothing_to_lose(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        Faults(store).before.add(scripts.LEAVE)
        store.close()


def test_a_log_of_a_closed_store_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
    uses: list[Callable[[], object]] = [lambda: log.append([FRAME]), log.reopen]
    for use in uses:
        with pytest.raises(StoreFailed, match="closed"):
            use()
    assert not log.end(State.COMPLETE)
    assert (log.state, log.read(0).last) == (State.INTERRUPTED, 1)


def test_closing_does_not_wait_for_the_window(tmp_path: Path) -> None:
    started = time.monotonic()
    with opened(tmp_path, flush_seconds=3600) as store:
        store.begin(head())[0].append([FRAME])
    assert time.monotonic() - started < 60
    assert kept(tmp_path).last == 1


def test_what_was_begun_while_it_closed_is_left_to_the_lease(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        log, _ = store.begin(head())
        store._writer.let_go(log)  # as if it had come behind the last look
    assert kept(tmp_path).state is State.INTERRUPTED
