"""What the contract cannot say: several processes on one Redis, what it keeps, and what it forgets by itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resumable_llm.log import (
    Ahead,
    Cursor,
    Expired,
    KeyReused,
    Log,
    LogEnded,
    Missing,
    State,
    StoreFailed,
)
from resumable_llm.log import redis_link as link_module
from resumable_llm.log import redis_scripts as scripts
from resumable_llm.log.redis import RedisStore
from resumable_llm.log.redis_log import RedisLog
from tests.log import redis_server
from tests.log.conftest import Clock, head, wait_until
from tests.log.redis_server import RedisServer

FRAME = b"data: a\n\n"


@dataclass
class Several:
    """Stores that share what they keep, as processes do."""

    url: str
    prefix: str
    stack: contextlib.ExitStack

    def open(self, **options: object) -> RedisStore:
        defaults: dict[str, object] = {"flush_seconds": 0.001, "prefix": self.prefix}
        store = RedisStore(self.url, **{**defaults, **options})  # type: ignore[arg-type]
        self.stack.callback(store.close)
        return store


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Several]:
    with contextlib.ExitStack() as stack:
        yield Several(redis_server.shared().url, str(tmp_path), stack)


def whole(log: Log) -> bytes:
    data, after = b"", 0
    while (part := log.read(after)).data:
        data, after = data + part.data, part.last
    return data


def in_threads(targets: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def keys(prefix: str) -> list[str]:
    answer = redis_server.shared().command("KEYS", f"{{{prefix}}}*").decode()
    return [line for line in answer.split("\r\n") if line.startswith("{")]


# Several stores on one Redis, in one process.


def test_what_one_begins_another_finds_and_follows(several: Several) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head(key="k"))
    ours.append([FRAME], note="n1")
    ours.wait_durable(1, 10)
    theirs = two.find("alice", "one")
    assert theirs is not ours
    assert theirs is two.find("alice", "one") is two.by_key("alice", "k") is two.begin(head("other", key="k"))[0]
    assert (theirs.head, theirs.state, theirs.upstream) == (head(key="k"), State.RUNNING, "n1")
    assert theirs.read(0) == ours.read(0)
    ours.append([FRAME, b"data: b\n\n"])
    ours.end(State.FAILED, "why")
    wait_until(lambda: theirs.state is State.FAILED)
    assert (theirs.reason, theirs.ended_at, theirs.last) == ("why", ours.ended_at, 3)
    assert whole(theirs) == whole(ours)
    with pytest.raises(KeyReused):
        two.begin(head("other", key="k", fingerprint="f2"))
    with pytest.raises(Missing):
        two.find("bob", "one")
    assert two.by_key("bob", "k") is None


@pytest.mark.parametrize(("count", "size"), [(scripts.FIRST_ENTRIES + 300, 1), (1, 3_000_000)])
def test_a_long_log_is_found_whole(several: Several, count: int, size: int) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head())
    for _ in range(count):
        ours.append([b"data: %b\n\n" % bytes(size)])
        one.sweep(0)  # which writes what there is
    barrier = threading.Barrier(4)
    found: list[Log] = []

    def look() -> None:
        barrier.wait(10)
        found.append(two.find("alice", "one"))

    in_threads([look] * 4)
    assert len({id(log) for log in found}) == 1
    assert whole(found[0]) == whole(ours)


def test_what_one_interrupts_another_reopens(several: Several) -> None:
    one, two = several.open(), several.open()
    first, _ = one.begin(head())
    first.append([FRAME], note="n1")
    second = two.find("alice", "one")
    with pytest.raises(LogEnded, match="running"):
        second.reopen()
    first.end(State.INTERRUPTED)
    first.wait_durable(1, 10)
    wait_until(lambda: second.state is State.INTERRUPTED)
    assert second.upstream == "n1"
    second.reopen()
    with pytest.raises(LogEnded):
        first.append([FRAME])
    assert second.append([FRAME], note="n2") == 2
    wait_until(lambda: first.last == 2)
    assert first.state is State.RUNNING
    assert whole(first) == whole(second) == b"id: 1\n" + FRAME + b"id: 1.2\n" + FRAME
    assert first.locate(Cursor(1, 2)) == 2
    with pytest.raises(LogEnded, match="running"):
        first.reopen()
    second.end(State.INTERRUPTED)
    wait_until(lambda: first.state is State.INTERRUPTED)
    first.reopen()
    assert first.upstream == "n2"
    assert first.append([FRAME]) == 3
    assert first.end(State.COMPLETE)
    wait_until(lambda: second.state is State.COMPLETE)
    assert whole(second).endswith(b"id: 2.3\n" + FRAME)


def test_one_of_many_reopens_it(several: Several) -> None:
    stores = [several.open() for _ in range(4)]
    log, _ = stores[0].begin(head())
    log.end(State.INTERRUPTED)
    wait_until(lambda: not log.owned)
    outcomes: list[str] = []

    def reopen(log: Log) -> None:
        try:
            log.reopen()
            outcomes.append("reopened")
        except LogEnded:
            outcomes.append("refused")

    logs = [store.find("alice", "one") for store in stores]
    in_threads([lambda log=log: reopen(log) for log in logs])  # type: ignore[misc]
    assert sorted(outcomes) == ["refused"] * 3 + ["reopened"]


def test_one_who_hears_of_a_log_before_its_owner_has_the_same(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = several.open()
    run, begun, found = store._link.run, threading.Event(), threading.Event()

    async def late(script: str, *arguments: str | bytes | float) -> Any:
        answer = await run(script, *arguments)
        if script is scripts.BEGIN and len(answer) == 1:  # it is new, and its owner is told last
            begun.set()
            await asyncio.to_thread(found.wait, 10)
        elif script is scripts.FIND:
            found.set()
        return answer

    monkeypatch.setattr(store._link, "run", late)
    logs: list[Log | None] = []

    def look() -> None:
        assert begun.wait(10)
        logs.append(store.by_key("alice", "key of one"))

    in_threads([lambda: logs.append(store.begin(head())[0]), look])
    assert logs[0] is logs[1] is not None


def test_what_one_has_claimed_no_other_begins(several: Several) -> None:
    one, two = several.open(), several.open()
    right = one.claim("alice", "k")
    assert right is not None
    assert two.claim("alice", "k") is None
    assert two.claim("alice", "other") is not None
    assert two.claim("bob", "k") is not None
    right.release()
    wait_until(lambda: two.claim("alice", "k") is not None)


def test_a_claim_that_was_used_is_gone(several: Several) -> None:
    one, two = several.open(), several.open()
    right = one.claim("alice", "key of one")
    log, _ = one.begin(head())
    assert two.claim("alice", "key of one") is None
    assert not [name for name in keys(several.prefix) if ":claim:" in name]
    one.delete("alice", "one")
    theirs = two.claim("alice", "key of one")
    assert theirs is not None
    assert right is not None
    right.release()
    one.sweep(0)
    assert one.claim("alice", "key of one") is None, "it was not ours to release"
    del log


def test_whoever_claims_again_is_not_deprived_by_the_claim_before(several: Several) -> None:
    one, two = several.open(), several.open()
    first, second = one.claim("alice", "k"), one.claim("alice", "k")
    assert first is not None
    assert second is not None
    first.release()
    one._link.ask(one._release, first)
    assert two.claim("alice", "k") is None


@pytest.mark.slow
def test_a_claim_is_renewed_for_as_long_as_somebody_holds_it(several: Several) -> None:
    one, two = several.open(lease_seconds=0.4), several.open(lease_seconds=0.4)
    right = one.claim("alice", "k")
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        assert two.claim("alice", "k") is None
    del right
    wait_until(lambda: two.claim("alice", "k") is not None)


def test_each_can_cancel(several: Several) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head())
    ours.append([FRAME])
    theirs = two.find("alice", "one")
    woken = threading.Event()
    ours.subscribe(lambda: woken.set() if ours.state is State.CANCELLED else None)
    started = time.monotonic()
    assert theirs.end(State.CANCELLED, "enough")
    assert woken.wait(10), "though it appends nothing"
    assert time.monotonic() - started < 5
    assert (ours.reason, ours.last) == ("enough", 1)
    with pytest.raises(LogEnded):
        ours.append([FRAME])
    wait_until(lambda: theirs.state is State.CANCELLED)
    assert (theirs.reason, theirs.ended_at) == ("enough", ours.ended_at)
    assert whole(theirs) == whole(ours)


def test_what_was_appended_before_the_owner_hears_is_kept(several: Several) -> None:
    one, two = several.open(flush_seconds=3600), several.open()
    ours, _ = one.begin(head())
    theirs = two.find("alice", "one")
    ours.append([FRAME] * 3, note="n3")
    theirs.end(State.CANCELLED, "enough")
    wait_until(lambda: ours.state is State.CANCELLED)
    one.sweep(0)  # which writes what there is
    wait_until(lambda: theirs.state is State.CANCELLED)
    assert (theirs.last, theirs.upstream) == (3, "n3")


def test_an_end_of_its_own_stands_before_a_wish(several: Several) -> None:
    one, two = several.open(flush_seconds=3600), several.open()
    ours, _ = one.begin(head())
    theirs = two.find("alice", "one")
    ours.end(State.COMPLETE)
    follower = one._writer.follower
    before = follower._heard
    assert theirs.end(State.CANCELLED)
    wait_until(lambda: follower._heard != before)
    one.sweep(0)
    wait_until(lambda: theirs.state is State.COMPLETE)
    assert ours.state is State.COMPLETE


def test_a_log_that_has_ended_meanwhile_is_not_cancelled(several: Several) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head())
    theirs = two.find("alice", "one")
    ours.end(State.COMPLETE)
    wait_until(lambda: not ours.owned)
    two._link.ask(two._link.run, scripts.WISH, theirs.stream, "cancelled", "too late")
    again = several.open().find("alice", "one")
    assert again.state is State.COMPLETE


def test_what_one_deletes_is_gone_everywhere(several: Several) -> None:
    one, two, three = several.open(), several.open(), several.open()
    ours, _ = one.begin(head(key="k"))
    copy = three.find("alice", "one")
    two.delete("alice", "one")
    with pytest.raises(Missing):
        two.delete("alice", "one")
    for log in ours, copy:
        with pytest.raises(Missing):
            wait_until(lambda log=log: log.read(0) is None)  # type: ignore[misc]
    with pytest.raises(Missing):
        ours.append([FRAME])
    with pytest.raises(Missing):
        copy.reopen()
    for store in one, two, three:
        assert store.by_key("alice", "k") is None
        with pytest.raises(Missing):
            store.find("alice", "one")


def test_what_one_has_ended_another_sweeps(several: Several) -> None:
    clock = Clock()
    one, two = several.open(clock=clock), several.open(clock=clock)
    ours, _ = one.begin(head())
    ours.end(State.COMPLETE)
    wait_until(lambda: not ours.owned)
    clock.now += 60
    for store in one, two:
        with pytest.raises(Expired):
            store.find("alice", "one")
    assert two.by_key("alice", "key of one") is None
    assert two.sweep(clock.now) == 1
    with pytest.raises(Missing):
        wait_until(lambda: ours.read(0) is None)


def test_sweeping_has_no_end_before_all_is_swept(several: Several) -> None:
    clock = Clock()
    store = several.open(clock=clock)
    for number in range(250):
        store.begin(head(str(number)))[0].end(State.COMPLETE)
    clock.now += 60
    assert store.sweep(clock.now) == 250
    assert [key for key in keys(several.prefix) if ":log:" in key] == []


def test_two_prefixes_know_nothing_of_each_other(several: Several, tmp_path: Path) -> None:
    one, two = several.open(), several.open(prefix=f"{tmp_path}-other")
    one.begin(head())
    with pytest.raises(Missing):
        two.find("alice", "one")


def test_who_has_no_key_is_not_found_by_it(several: Several) -> None:
    store = several.open()
    store.begin(head(key=""))
    assert store.by_key("alice", "") is None


def test_a_name_is_free_once_its_log_has_expired_here(several: Several) -> None:
    clock = Clock()
    store = several.open(clock=clock, flush_seconds=3600)
    store.begin(head())
    log = store.find("alice", "one")
    log.end(State.COMPLETE)
    clock.now += 60
    again, new = store.begin(head())
    assert new
    assert store.find("alice", "one") is again


def test_of_two_that_have_looked_for_long_the_first_stays(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head())
    for _ in range(scripts.FIRST_ENTRIES):
        ours.append([FRAME])
        one.sweep(0)  # which writes what there is
    follower, first = two._writer.follower, list[Log | None]()
    catch_up = follower.catch_up

    async def slow(log: RedisLog) -> bool:
        if not first:
            first.append(None)
            first.append(await two._find(two._catalog.id_name("alice", "one")))
        return await catch_up(log)

    monkeypatch.setattr(follower, "catch_up", slow)
    assert two.find("alice", "one") is first[1]


def test_of_two_looks_at_once_comes_one_copy(several: Several) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head())
    ours.append([FRAME])
    ours.wait_durable(1, 10)
    barrier = threading.Barrier(8)
    found: list[Log] = []

    def look() -> None:
        barrier.wait(10)
        found.append(two.find("alice", "one"))

    in_threads([look] * 8)
    assert len({id(log) for log in found}) == 1


def test_what_nobody_holds_is_not_kept_here(several: Several) -> None:
    one, two = several.open(), several.open()
    ours, _ = one.begin(head())
    ours.append([FRAME])
    theirs = two.find("alice", "one")
    ours.end(State.COMPLETE)
    held = [ours, theirs]
    wait_until(lambda: all(log.state is State.COMPLETE and not log.owned for log in held))
    stream = ours.stream
    del ours, theirs
    held.clear()
    wait_until(lambda: gc.collect() >= 0 and not one._catalog.find(stream) and not two._catalog.find(stream))
    assert one.find("alice", "one").last == 1


# What Redis keeps.


def test_redis_forgets_by_itself(several: Several) -> None:
    store = several.open()
    redis = redis_server.shared()
    store.begin(head("runs"))
    store.begin(head("cancelled"))
    log, _ = store.begin(head("over", ttl=5.0))
    log.append([FRAME])
    log.end(State.COMPLETE)
    wait_until(lambda: not log.owned)
    store.begin(head("deleted"))
    store.delete("alice", "deleted")
    wished = several.open().find("alice", "cancelled")
    wished.end(State.CANCELLED)
    wait_until(lambda: wished.state is State.CANCELLED)
    left = {key: int(redis.command("PTTL", key)[1:]) for key in keys(several.prefix)}
    assert len(left) > 8
    assert all(0 < each <= 3_600_000 for each in left.values()), left
    ended = [each for key, each in left.items() if log.stream in key or key.endswith("over")]
    assert len(ended) == 4
    assert all(60_000 < each <= 65_000 for each in ended), left


def test_keys_share_a_hash_tag(several: Several) -> None:
    several.open().begin(head())
    assert all(key.startswith(f"{{{several.prefix}}}:1:") for key in keys(several.prefix))


def test_a_name_whose_log_redis_has_forgotten_is_free(several: Several) -> None:
    clock = Clock()
    store = several.open(clock=clock)
    log, _ = store.begin(head())
    log.end(State.COMPLETE)
    wait_until(lambda: not log.owned)
    redis_server.shared().command("DEL", f"{{{several.prefix}}}:1:log:{log.stream}")
    other = several.open(clock=clock)
    with pytest.raises(Missing):
        other.find("alice", "one")
    with pytest.raises(Missing):
        other.delete("alice", "one")
    assert other.begin(head())[1]
    assert other.sweep(clock.now + 60) == 0, "it was not there any more"


def test_a_log_that_is_deleted_between_two_looks_is_missing(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = several.open(), several.open()
    log, _ = one.begin(head())
    run = two._link.run

    async def slow(script: str, *arguments: str | bytes | float) -> object:
        found = await run(script, *arguments)
        if script == scripts.FIND:
            found[3][0][0] = b"9-9"  # what comes first is not there, so it is not whole
            found[3][0][1][:] = [b"x", b""]
        return found

    monkeypatch.setattr(two._link, "run", slow)
    with pytest.raises(Missing, match="deleted"):
        two.find("alice", "one")
    assert log.last == 0


def test_a_redis_that_is_not_there_is_reported_at_once() -> None:
    before = set(threading.enumerate())
    with pytest.raises(StoreFailed, match="Redis does not answer") as failed:
        RedisStore(f"redis://:s3cret@127.0.0.1:{redis_server._free_port()}")
    assert "s3cret" not in str(failed.value) + repr(failed.value.__cause__)
    assert set(threading.enumerate()) <= before


def test_closing_says_where_not_all_was_written(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisStore(several.url, prefix=several.prefix, flush_seconds=3600)
    store.begin(head())[0].append([FRAME])

    async def cut(script: str, *arguments: str | bytes | float) -> object:
        raise OSError("cut")

    monkeypatch.setattr(store._link, "run", cut)
    with pytest.raises(StoreFailed, match="not all"):
        store.close()
    store.close()


# Processes.

CHILD = """
import sys, threading, time
from resumable_llm.log import Head, State
from resumable_llm.log.redis import RedisStore
from resumable_llm.log.redis_log import RedisLog
url, prefix, durability, threads, lease = sys.argv[1:]
strict = durability == "strict"
store = RedisStore(url, prefix=prefix, strict=strict, lease_seconds=float(lease), flush_seconds=0.005)
lock = threading.Lock()
def say(*words):
    with lock:
        print(*words, flush=True)
def work(name):
    log, _ = store.begin(Head(name, "s", "", "f", 200, (), time.time(), 60.0))
    number = 0
    try:
        while True:
            number = log.append([b"data: %d\\n\\n" % (number + 1)], note=str(number + 1))
            say(name, number, time.monotonic())
            if not strict:
                time.sleep(0.0005)
    except Exception as error:
        say("over", type(error).__name__, log.state.value)
workers = [threading.Thread(target=work, args=[str(name)]) for name in range(int(threads))]
for each in workers: each.start()
for each in workers: each.join()
store.close()
"""

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@contextlib.contextmanager
def child(url: str, prefix: str, *, strict: bool, threads: int, lease: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, url, prefix, "strict" if strict else "lazy", str(threads), str(lease)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told_by(process: subprocess.Popen[str], events: int) -> dict[str, list[tuple[int, float]]]:
    """Kill it when it has told of so many events, and return what each log told, with the times."""
    told: dict[str, list[tuple[int, float]]] = {}
    assert process.stdout is not None
    for count, line in enumerate(process.stdout):
        if count == events:
            process.kill()
        if not line.endswith("\n"):
            break
        name, number, at = line.split()
        told.setdefault(name, []).append((int(number), float(at)))
    return told


def assert_whole(data: bytes, last: int) -> None:
    assert data == b"".join(b"id: %d\ndata: %d\n\n" % (number, number) for number in range(1, last + 1))


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize(("strict", "threads"), [(True, 1), (True, 8), (False, 8)])
def test_when_an_owner_is_killed_the_others_know_within_the_lease(
    several: Several, *, strict: bool, threads: int
) -> None:
    store = several.open(lease_seconds=1.0)
    with child(several.url, several.prefix, strict=strict, threads=threads, lease=1.0) as process:
        told = told_by(process, 40 * threads)
    killed_at = time.monotonic()
    logs = {name: store.find("s", name) for name in told}
    wait_until(lambda: all(log.state is State.INTERRUPTED for log in logs.values()))
    assert time.monotonic() - killed_at < 1.0 + 0.25 + 8.0, "a lease, a tick, and what a busy machine takes"
    assert store.interrupted == len(told) == threads
    for name, log in logs.items():
        numbers = [number for number, _ in told[name]]
        assert log.reason == "the process that wrote it has died"
        assert_whole(whole(log), log.last)
        assert log.upstream == (str(log.last) if log.last else "")
        if strict:
            assert log.last >= numbers[-1]
        kept = log.last
        log.reopen()
        log.append([b"data: other\n\n"] * 1000)
        assert log.locate(Cursor(0, kept)) == kept
        assert log.read(kept).data.startswith(b"id: 1.%d\n" % (kept + 1))
        for number in numbers:
            if number > kept:
                with pytest.raises(Ahead):
                    log.locate(Cursor(0, number))


@needs_signals
@pytest.mark.slow
def test_what_a_process_had_claimed_when_it_was_killed_lapses_with_its_lease(several: Several) -> None:
    program = (
        "import sys, time; from resumable_llm.log.redis import RedisStore;"
        "store = RedisStore(sys.argv[1], prefix=sys.argv[2], lease_seconds=1.0);"
        "right = store.claim('alice', 'k'); print(right, flush=True); time.sleep(60)"
    )
    store = several.open()
    command = [sys.executable, "-c", program, several.url, several.prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "RedisClaim" in process.stdout.readline()
        assert store.claim("alice", "k") is None
        process.kill()
    killed_at = time.monotonic()
    wait_until(lambda: store.claim("alice", "k") is not None)
    assert time.monotonic() - killed_at < 1.0 + 8.0, "a lease, and what a busy machine takes"


@needs_signals
@pytest.mark.slow
def test_who_was_stopped_beyond_its_lease_writes_nothing_when_it_goes_on(several: Several) -> None:
    store = several.open(lease_seconds=1.0)
    with child(several.url, several.prefix, strict=False, threads=1, lease=1.0) as process:
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        log = store.find("s", "0")
        wait_until(lambda: log.state is State.INTERRUPTED)
        kept = log.last
        log.reopen()
        log.append([b"data: other\n\n"])
        process.send_signal(signal.SIGCONT)
        said = process.stdout.read().splitlines()
        assert process.wait(20) == 0
    assert said[-1].startswith("over LogEnded")
    log.wait_durable(kept + 1, 10)
    again = several.open().find("s", "0")
    assert again.last == kept + 1
    assert_whole(again.read(0).data.partition(b"id: 1.")[0], kept)
    assert again.read(kept).data == b"id: 1.%d\ndata: other\n\n" % (kept + 1)


RACER = """
import sys, time
from resumable_llm.log import Head
from resumable_llm.log.redis import RedisStore
from resumable_llm.log.redis_log import RedisLog
store = RedisStore(sys.argv[1], prefix=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
new = [store.begin(Head(f"{i} {sys.argv[3]}", "s", f"key {i}", "f", 200, (), time.time(), 60.0))[1] for i in range(100)]
print("".join("01"[each] for each in new), flush=True)
sys.stdin.readline()
store.close()
"""


@pytest.mark.slow
def test_of_two_processes_that_begin_the_same_one_does(several: Several) -> None:
    with contextlib.ExitStack() as stack:
        racers = []
        for name in "ab":
            command = [sys.executable, "-c", RACER, several.url, several.prefix, name]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            racers.append(stack.enter_context(process))
        streams = [(each.stdin, each.stdout) for each in racers]
        for _, told in streams:
            assert told is not None
            assert told.readline() == "ready\n"
        for order, _ in streams:
            assert order is not None
            order.write("go\n")
            order.flush()
        outcomes = [told.readline().strip() for _, told in streams if told is not None]
        for order, _ in streams:
            assert order is not None
            order.write("end\n")
            order.flush()
    assert [int(a) + int(b) for a, b in zip(*outcomes, strict=True)] == [1] * 100


@pytest.mark.slow
def test_a_program_that_ends_without_closing_loses_nothing(several: Several) -> None:
    program = (
        "import sys; from resumable_llm.log import *; from resumable_llm.log.redis import RedisStore;"
        "store = RedisStore(sys.argv[1], prefix=sys.argv[2], flush_seconds=60);"
        "log, _ = store.begin(Head('one', 's', '', 'f', 200, (), 0.0, 60.0));"
        "log.append([b'data: a\\n\\n'])"
    )
    subprocess.run([sys.executable, "-c", program, several.url, several.prefix], check=True, timeout=50)
    log = several.open().find("s", "one")
    assert (log.last, log.state, log.reason) == (1, State.INTERRUPTED, "the process that wrote it was stopped")


# Redis itself dies.


@contextlib.contextmanager
def of_its_own(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "ANSWER_SECONDS", 0.3)


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_when_redis_is_killed_nothing_is_lost_as_long_as_the_owner_lives(tmp_path: Path, fsync: str) -> None:
    with of_its_own(tmp_path, "--appendonly", "yes", "--appendfsync", fsync) as server:
        with contextlib.closing(RedisStore(server.url)) as one, contextlib.closing(RedisStore(server.url)) as two:
            ours, _ = one.begin(head())
            theirs = two.find("alice", "one")
            ours.append([FRAME] * 10, note="n10")
            ours.wait_durable(10, 10)
            server.kill()
            ours.append([FRAME] * 10, note="n20")
            with pytest.raises(StoreFailed, match="Redis does not answer"):
                ours.wait_durable(20, 10)
            assert ours.read(0).last == 20, "readers go on"
            server.start()
            wait_until(lambda: theirs.last == 20)
            ours.end(State.COMPLETE)
            wait_until(lambda: theirs.state is State.COMPLETE)
            assert whole(theirs) == whole(ours)
            assert theirs.upstream == "n20"
        with contextlib.closing(RedisStore(server.url)) as three:
            assert three.find("alice", "one").last == 20


@pytest.mark.slow
def test_while_redis_is_away_it_is_known_that_no_log_can_begin(tmp_path: Path) -> None:
    with of_its_own(tmp_path) as server, contextlib.closing(RedisStore(server.url)) as store:
        right = store.claim("alice", "k")
        assert right is not None
        store.must_take()
        server.kill()
        with pytest.raises(StoreFailed, match="Redis does not answer"):
            wait_until(lambda: store.must_take() is not None)  # type: ignore[func-returns-value]
        with pytest.raises(StoreFailed, match="Redis does not answer"):
            store.claim("alice", "k")
        right.release()
        server.start()

        def takes() -> bool:
            try:
                store.must_take()
            except StoreFailed:
                return False
            return True

        wait_until(takes)


@needs_signals
@pytest.mark.slow
def test_what_redis_has_acknowledged_survives_the_death_of_both(tmp_path: Path) -> None:
    with of_its_own(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        with child(server.url, "p", strict=True, threads=4, lease=2.0) as process:
            assert process.stdout is not None
            told = [process.stdout.readline().split() for _ in range(200)]
            server.kill()
            process.kill()
        server.start()
        with contextlib.closing(RedisStore(server.url, prefix="p", lease_seconds=0.5)) as store:
            for name in {name for name, _, _ in told}:
                log = store.find("s", name)
                assert log.last >= max(int(number) for each, number, _ in told if each == name)
                assert_whole(whole(log), log.last)
                wait_until(lambda log=log: log.state is State.INTERRUPTED)  # type: ignore[misc]


@needs_signals
@pytest.mark.slow
def test_a_redis_that_comes_back_empty_has_no_logs(tmp_path: Path) -> None:
    with (
        of_its_own(tmp_path) as server,
        contextlib.closing(RedisStore(server.url)) as one,
        contextlib.closing(RedisStore(server.url)) as two,
    ):
        ours, _ = one.begin(head())
        ours.append([FRAME])
        ours.wait_durable(1, 10)
        theirs = two.find("alice", "one")
        server.kill()
        server.start()
        gone: list[Callable[[], object]] = [lambda: ours.append([FRAME]), lambda: theirs.read(0)]
        for use in gone:
            with pytest.raises(Missing):
                wait_until(lambda use=use: use() is None)  # type: ignore[misc]
        assert one.begin(head())[1]


@needs_signals
@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_redis_that_pauses_is_waited_for(tmp_path: Path) -> None:
    with (
        of_its_own(tmp_path) as server,
        contextlib.closing(RedisStore(server.url)) as one,
        contextlib.closing(RedisStore(server.url)) as two,
    ):
        ours, _ = one.begin(head())
        theirs = two.find("alice", "one")
        with server.paused():
            for _ in range(3):  # what was sent is sent again, and done once
                ours.append([FRAME], note="n")
                with pytest.raises(StoreFailed):
                    ours.wait_durable(ours.last, 10)
                wait_until(lambda: one._writer._failure is not None)
        ours.append([FRAME])
        wait_until(lambda: theirs.last == 4)
        assert whole(theirs) == whole(ours)
        assert ours.state is State.RUNNING
