"""What the contract cannot say: crashes, failures of the disk, what is in memory and what is on disk."""

from __future__ import annotations

import contextlib
import gc
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resumable_llm.log import Ahead, Cursor, Missing, SqliteStore, State, StoreFailed, StoreInUse
from resumable_llm.log import sqlite as module
from tests.log.conftest import Clock, head, wait_until

FRAME = b"data: a\n\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@contextlib.contextmanager
def opened(path: Path, *, strict: bool = False, flush_seconds: float = 0.001) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(path, strict=strict, flush_seconds=flush_seconds, clock=Clock())) as store:
        yield store


# Crashes: a child appends until it is killed, and says what it knows.

CHILD = """
import sys, threading, time
from resumable_llm.log import Head, SqliteStore
path, strict, threads = sys.argv[1], sys.argv[2] == "strict", int(sys.argv[3])
store = SqliteStore(path, strict=strict)
lock = threading.Lock()
def work(name):
    log, _ = store.begin(Head(name, "s", "", "f", 200, (), time.time(), 60.0))
    number = 0
    while True:
        number = log.append([b"data: %d\\n\\n" % (number + 1)], note=str(number + 1))
        with lock:
            print(name, number, time.monotonic(), flush=True)
        if not strict:
            time.sleep(0.0005)
for name in range(threads):
    threading.Thread(target=work, args=[str(name)], daemon=True).start()
time.sleep(60)
"""


def crash(path: Path, *, strict: bool, threads: int, events: int) -> dict[str, list[tuple[int, float]]]:
    """Kill a child that has told of so many events, and return what each log told, with the times."""
    told: dict[str, list[tuple[int, float]]] = {str(name): [] for name in range(threads)}
    command = [sys.executable, "-c", CHILD, str(path), "strict" if strict else "lazy", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for count, line in enumerate(child.stdout):
            if count == events:
                child.send_signal(signal.SIGKILL)
            if not line.endswith("\n"):
                break
            name, number, at = line.split()
            told[name].append((int(number), float(at)))
    assert child.returncode == -signal.SIGKILL
    return told


needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@needs_kill
@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 8])
def test_killed_a_strict_store_loses_nothing_that_append_had_returned(path: Path, threads: int) -> None:
    told = crash(path, strict=True, threads=threads, events=60 * threads)
    with opened(path) as store:
        assert store.interrupted == threads
        for name, events in told.items():
            log = store.find("s", name)
            assert log.state is State.INTERRUPTED
            assert log.last >= events[-1][0]
            assert_whole(log.read(0).data, log.last)
            assert log.upstream == str(log.last), "a note is kept with its events"


@needs_kill
@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 8])
def test_killed_a_store_loses_no_more_than_the_window_and_never_tells_other_events(path: Path, threads: int) -> None:
    told = crash(path, strict=False, threads=threads, events=300 * threads)
    killed_at = max(events[-1][1] for events in told.values())
    with opened(path) as store:
        assert store.interrupted == threads
        for name, events in told.items():
            log = store.find("s", name)
            lost = [at for number, at in events if number > log.last]
            # The window is 20 ms; the rest is what a commit and this machine's other work may take.
            assert all(at > killed_at - 0.02 - 1.0 for at in lost)
            assert log.last > 0
            assert_whole(log.read(0).data, log.last)
            assert log.upstream == str(log.last)
            kept = log.last
            log.reopen()
            log.append([b"data: other\n\n"] * (len(lost) + 5))
            assert log.locate(Cursor(0, kept)) == kept
            assert log.read(kept).data.startswith(b"id: 1.%d\n" % (kept + 1))
            for number, _ in events:
                if number > kept:
                    with pytest.raises(Ahead):
                        log.locate(Cursor(0, number))


def assert_whole(data: bytes, last: int) -> None:
    assert data == b"".join(b"id: %d\ndata: %d\n\n" % (number, number) for number in range(1, last + 1))


@needs_kill
@pytest.mark.slow
def test_while_a_process_has_the_file_another_is_refused(path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(path), "strict", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(StoreInUse):
            SqliteStore(path)
        child.kill()
    with opened(path) as store:
        assert store.interrupted == 1


@pytest.mark.slow
def test_a_program_that_ends_without_closing_loses_nothing(path: Path) -> None:
    program = (
        "import sys, time; from resumable_llm.log import *;"
        "log, _ = SqliteStore(sys.argv[1], flush_seconds=60).begin(Head('one', 's', '', 'f', 200, (), 0.0, 60.0));"
        "log.append([b'data: a\\n\\n'])"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=50)
    with opened(path) as store:
        assert store.find("s", "one").last == 1


# What reaches the disk, and when.


def test_delivery_does_not_wait_for_the_disk(path: Path) -> None:
    with opened(path, flush_seconds=3600) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        assert (log.durable, log.last) == (-1, 1)
        with pytest.raises(TimeoutError):
            log.wait_durable(0, 0.0)
    assert log.durable == 1
    log.wait_durable(1)


def test_one_can_wait_for_the_disk(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.wait_durable(0, 10)
        assert log.durable == 0
        log.wait_durable(log.append([FRAME]), 10)
        assert log.durable == 1


def test_strict_shows_nothing_that_is_not_on_disk(path: Path) -> None:
    with opened(path, strict=True) as store:
        log, _ = store.begin(head())
        log.wait_durable(0, 10)
        gate = Gate(store)
        seen: list[tuple[int, State]] = []  # by those who are woken, also for what was there before
        log.subscribe(lambda: seen.append((log.last, log.state)))
        log.append([FRAME], wait=False)
        log.end(State.COMPLETE)
        assert gate.reached.wait(10)
        assert (log.last, log.state, log.read(0).data) == (0, State.RUNNING, b"")
        assert set(seen) <= {(0, State.RUNNING)}
        gate.open.set()
        wait_until(lambda: (1, State.COMPLETE) in seen)


def test_strict_appenders_share_commits(path: Path) -> None:
    with opened(path, strict=True) as store:
        logs = [store.begin(head(str(number)))[0] for number in range(8)]
        for log in logs:
            log.wait_durable(0, 10)
        gate = Gate(store)
        threads = [threading.Thread(target=log.append, args=[[FRAME]]) for log in logs]
        for thread in threads:
            thread.start()
        assert gate.reached.wait(10)
        wait_until(lambda: all(log._frames for log in logs))
        gate.open.set()
        for thread in threads:
            thread.join(10)
        assert all(log.last == 1 for log in logs)
        assert gate.commits <= 3


class Gate:
    """Holds a store's commits until it is opened."""

    def __init__(self, store: SqliteStore) -> None:
        self.reached, self.open, self.commits = threading.Event(), threading.Event(), 0
        write = store._database.write

        def held(*args: object) -> None:
            self.reached.set()
            assert self.open.wait(10)
            self.commits += 1
            write(*args)  # type: ignore[arg-type]

        store._database.write = held  # type: ignore[method-assign, assignment]


def test_memory_lets_go_of_what_has_ended_and_readers_go_on(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME] * 10)
        first = log.read(0, 30)
        log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        assert log._frames == []
        assert log.read(first.last).last == 10
        assert store.find("alice", "one") is log
        del log
        store.recent.clear()
        gc.collect()
        assert not store._known
        assert store.find("alice", "one").read(first.last).data.startswith(b"id: %d\n" % (first.last + 1))


def test_readers_who_come_back_share_what_one_has_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_RECENT_BYTES", 10_000)
    with opened(path) as store:
        for name in ("one", "two"):
            log, _ = store.begin(head(name))
            log.append([FRAME] * 400)
            log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        del log
        gc.collect()
        assert not store._known
        first = store.find("alice", "one").read(5)
        gc.collect()
        kept = store.find("alice", "one")
        assert kept.read(5) is first
        assert kept.read(6).last == 400
        assert kept.read(6) is not first
        store.find("alice", "two").read(0)
        assert kept.read(5) is not first, "there was no room for both"
        assert kept.read(5) == first


def test_what_was_read_is_forgotten_with_the_log(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        assert log.read(0).last == 1
        store.delete("alice", "one")
        with pytest.raises(Missing):
            log.read(0)
        del log
        gc.collect()
        assert not store.recent._logs
        wait_until(lambda: not store._doomed)


def test_what_was_read_while_the_log_is_deleted_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        read = log._read_file

        def late(*asked: int) -> object:
            found = read(*asked)
            store.delete("alice", "one")
            return found

        monkeypatch.setattr(type(log), "_read_file", lambda _, *asked: late(*asked))
        with pytest.raises(Missing):
            log.read(0)
        assert not store.recent._logs


def test_an_answer_that_went_on_is_read_to_its_new_end(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME] * 3)
        log.end(State.INTERRUPTED)
        wait_until(lambda: not store._live)
        assert log.read(0).last == 3
        log.reopen()
        log.append([FRAME])
        assert log.read(3).data == b"id: 1.4\n" + FRAME
        log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        data, after = b"", 0
        while (piece := log.read(after)).data:
            data, after = data + piece.data, piece.last
        assert data.count(FRAME) == 4


def test_a_log_that_runs_is_held_by_its_store(path: Path) -> None:
    with opened(path) as store:
        store.begin(head())[0].append([FRAME])
        gc.collect()
        log = store.find("alice", "one")
        log.wait_durable(1, 10)
        number = id(log)
        del log
        gc.collect()
        log = store.find("alice", "one")
        assert id(log) == number
        assert (log.state, log.last) == (State.RUNNING, 1)


def test_a_log_that_is_deleted_before_it_is_written_leaves_nothing(path: Path) -> None:
    with opened(path, flush_seconds=3600) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        store.delete("alice", "one")
        with pytest.raises(Missing):
            log.wait_durable(1, 10)
    assert counts(path) == (0, 0)


def test_a_log_that_is_deleted_while_it_is_written_leaves_nothing(path: Path) -> None:
    with opened(path) as store:
        gate = Gate(store)
        log, _ = store.begin(head())
        log.append([FRAME])
        assert gate.reached.wait(10)
        store.delete("alice", "one")
        again, new = store.begin(head())
        assert new
        gate.open.set()
        again.wait_durable(0, 10)
        assert store.find("alice", "one") is again
    assert counts(path) == (1, 0)


def counts(path: Path) -> tuple[int, int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT (SELECT count(*) FROM streams), (SELECT count(*) FROM blocks)"
        return connection.execute(query).fetchone()  # type: ignore[no-any-return]


def test_a_reader_is_told_when_the_log_is_deleted_under_it(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        store._database.write([], [(log.stream, log.extents)])  # as between a reader's look and its read
        with pytest.raises(Missing):
            log.read(0)


def test_what_is_forgotten_is_not_found_in_the_file(path: Path) -> None:
    with opened(path) as store:
        store.begin(head())[0].end(State.COMPLETE)
        wait_until(lambda: not store._live)
    with opened(path, flush_seconds=3600) as store:
        store.clock.now = 5000.0  # type: ignore[attr-defined]
        assert store.sweep(5000.0) == 1
        assert store.sweep(5000.0) == 0
        with pytest.raises(Missing):
            store.find("alice", "one")
        assert store.by_key("alice", "key of one") is None
        assert store.begin(head())[1]


# Failures: whoever appends hears of them, and nothing is lost in memory.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)


@contextlib.contextmanager
def full_disk(store: SqliteStore) -> Iterator[None]:
    """A file that may not grow, which is what SQLite calls a full disk."""
    writer = store._database._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")
    yield
    writer.execute("PRAGMA max_page_count = 1000000")


@contextlib.contextmanager
def locked(store: SqliteStore, path: Path) -> Iterator[None]:
    """Somebody works on the file, and does not let go."""
    store._database._writer.execute("PRAGMA busy_timeout = 1")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["full", "locked"])
def test_what_cannot_be_written_is_reported_and_written_later(
    path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    big = b"data: " + b"x" * 50_000 + b"\n\n"
    with opened(path) as store:
        log, _ = store.begin(head())
        log.wait_durable(0, 10)
        with full_disk(store) if kind == "full" else locked(store, path):
            log.append([big], note="n1")
            with pytest.raises(StoreFailed, match=kind) as failed:
                log.wait_durable(1, 10)
            assert isinstance(failed.value.__cause__, sqlite3.OperationalError)
            for use in (lambda: log.append([FRAME]), lambda: store.begin(head("two")), log.reopen):
                with pytest.raises(StoreFailed, match=kind):
                    use()
            assert log.read(0).last == 1, "readers go on"
            assert store.find("alice", "one") is log
            assert log.end(State.FAILED, "the disk")
        wait_until(lambda: store._failure is None)
        log.wait_durable(1, 10)
    told = [record.getMessage() for record in caplog.records]
    assert [message.partition(" ")[0] for message in told] == ["sqlite.away", "sqlite.back"]
    assert kind in told[0]
    with opened(path) as store:
        log = store.find("alice", "one")
        assert (log.state, log.reason, log.last, log.upstream) == (State.FAILED, "the disk", 1, "n1")
        assert log.read(0).data == b"id: 1\n" + big


@pytest.mark.usefixtures("impatient")
def test_a_newer_note_stands_when_an_older_could_not_be_written(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.wait_durable(0, 10)
        gate = Gate(store)
        log.append([FRAME], note="old")
        assert gate.reached.wait(10)
        log.append([FRAME], note="new")
        with locked(store, path):
            gate.open.set()
            with pytest.raises(StoreFailed):
                log.wait_durable(1, 10)
        wait_until(lambda: log.durable == 2)
    with opened(path) as store:
        assert store.find("alice", "one").upstream == "new"


@pytest.mark.usefixtures("impatient")
def test_a_strict_appender_that_waits_hears_of_it(path: Path) -> None:
    with opened(path, strict=True) as store:
        log, _ = store.begin(head())
        log.wait_durable(0, 10)
        with locked(store, path):
            with pytest.raises(StoreFailed, match="locked"):
                log.append([FRAME])
            assert log.last == 0
        wait_until(lambda: log.last == 1)


@pytest.mark.usefixtures("impatient")
def test_strict_readers_do_not_wait_for_an_end_that_cannot_be_written(path: Path) -> None:
    with opened(path, strict=True) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        seen: list[tuple[int, State]] = []  # by those who are woken, also for what was there before
        log.subscribe(lambda: seen.append((log.last, log.state)))
        with full_disk(store):
            log.append([b"data: " + b"x" * 50_000 + b"\n\n"], wait=False)
            assert log.end(State.COMPLETE)
            wait_until(lambda: (1, State.INTERRUPTED) in seen)
            with pytest.raises(StoreFailed, match="full"):
                log.reopen()
        wait_until(lambda: log.state is State.COMPLETE)
        assert log.last == 2


@pytest.mark.usefixtures("impatient")
def test_what_is_forgotten_stays_so_until_the_file_knows(path: Path) -> None:
    with opened(path) as store:
        store.begin(head())[0].wait_durable(0, 10)
        with locked(store, path):
            store.delete("alice", "one")
            wait_until(lambda: store._failure is not None)
            with pytest.raises(Missing):
                store.find("alice", "one")
        wait_until(lambda: not store._doomed)
    assert counts(path) == (0, 0)


def test_closing_says_what_was_lost(path: Path) -> None:
    store = SqliteStore(path, flush_seconds=3600)
    log, _ = store.begin(head())
    with locked(store, path):
        with pytest.raises(StoreFailed, match="not all"):
            store.close()
        store.close()
    with pytest.raises(StoreFailed, match="closed"):
        log.wait_durable(0)


def test_a_log_of_a_closed_store_says_so(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        interrupted, _ = store.begin(head("two"))
        interrupted.append([FRAME])
        interrupted.end(State.INTERRUPTED)
        wait_until(lambda: interrupted not in store._live)
    uses: list[Callable[[], object]] = [lambda: log.append([FRAME]), interrupted.reopen, lambda: interrupted.read(0)]
    for use in uses:
        with pytest.raises(StoreFailed, match="closed"):
            use()
    assert not log.end(State.COMPLETE)
    assert log.read(0).last == 1, "what is in memory can be read"


def test_a_file_that_cannot_be_read_is_reported(path: Path) -> None:
    with opened(path) as store:
        log, _ = store.begin(head())
        log.append([FRAME])
        log.end(State.COMPLETE)
        wait_until(lambda: not store._live)
        store._database._reader.execute("PRAGMA query_only = 1")
        store._database._writer.execute("ALTER TABLE blocks RENAME TO elsewhere")
        with pytest.raises(StoreFailed, match="cannot be read"):
            log.read(0)


def test_closing_does_not_wait_for_the_window(path: Path) -> None:
    started = time.monotonic()
    with opened(path, flush_seconds=3600) as store:
        store.begin(head())
    assert time.monotonic() - started < 60
