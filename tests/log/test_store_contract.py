"""What every store promises, whatever it keeps its logs in. One suite, run with each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from resumable_llm.log import (
    Ahead,
    BadCursor,
    Cursor,
    Expired,
    KeyReused,
    Log,
    LogEnded,
    LogFull,
    Missing,
    State,
    Store,
    StoreFailed,
)
from tests.log.conftest import STORES, Place, head, place_of, wait_until

A, B, C = b"data: a\n\n", b"event: b\ndata: id: 1\n\n", b": c\n\n"
ENDS = [state for state in State if state is not State.RUNNING]


def begun(store: Store, id: str = "one", **changes: object) -> Log:
    log, new = store.begin(head(id, **changes))
    assert new
    return log


def ended(log: Log, state: State = State.COMPLETE, reason: str = "") -> Log:
    """End it, and wait until readers know."""
    assert log.end(state, reason)
    wait_until(lambda: log.state is state)
    return log


def read_all(log: Log, after: int = 0) -> tuple[bytes, int]:
    """Read on until nothing comes."""
    data = b""
    while (part := log.read(after)).data:
        data, after = data + part.data, part.last
    return data, after


def test_a_new_log_is_empty_and_runs(store: Store) -> None:
    log = begun(store)
    assert log.head == head()
    assert (log.state, log.reason, log.ended_at, log.last) == (State.RUNNING, "", None, 0)
    assert log.upstream == '{"at": 0}'
    assert log.read(0) == (b"", 0)


def test_events_are_numbered_from_one(store: Store) -> None:
    log = begun(store)
    assert log.append([A, B]) == 2
    assert log.append([]) == 2
    assert log.append([C]) == 3
    assert log.last == 3
    assert log.read(0) == (b"id: 1\n" + A + b"id: 2\n" + B + b"id: 3\n" + C, 3)
    assert log.read(1) == (b"id: 2\n" + B + b"id: 3\n" + C, 3)
    assert log.read(2) == (b"id: 3\n" + C, 3)
    assert log.read(3) == (b"", 3)


def test_a_read_is_bounded_but_never_empty_handed(store: Store) -> None:
    log = begun(store)
    log.append([A, A, A])
    one = len(b"id: 1\n" + A)
    assert log.read(0, 2 * one).last == 2
    assert log.read(0, 2 * one - 1).last == 1
    assert log.read(0, 1).last == 1
    assert log.read(2, 1) == (b"id: 3\n" + A, 3)
    assert log.read(3, 1) == (b"", 3)


def test_nothing_is_read_behind_the_last_event(store: Store) -> None:
    log = begun(store)
    log.append([A])
    with pytest.raises(Ahead) as ahead:
        log.read(2)
    assert ahead.value.last == 1
    with pytest.raises(ValueError, match="numbered from 1"):
        log.read(-1)


@pytest.mark.parametrize("state", ENDS)
def test_a_log_ends_once(place: Place, state: State) -> None:
    log = begun(place.open())
    log.append([A])
    place.clock.now = 1005.0
    assert log.end(state, "because")
    assert not log.end(State.FAILED, "too late")
    wait_until(lambda: log.state is not State.RUNNING)
    assert (log.state, log.reason, log.ended_at, log.last) == (state, "because", 1005.0, 1)
    with pytest.raises(LogEnded, match=state.value):
        log.append([A])
    assert log.read(0) == (b"id: 1\n" + A, 1)


def test_it_cannot_end_by_running(store: Store) -> None:
    with pytest.raises(ValueError, match="by running"):
        begun(store).end(State.RUNNING)


def test_a_full_log_takes_nothing_but_can_be_read(place: Place) -> None:
    place.max_log_bytes = 3 * len(b"id: 1\n" + A)
    log = begun(place.open())
    log.append([A, A])
    with pytest.raises(LogFull):
        log.append([A, A])
    assert log.append([A]) == 3
    assert log.read(0).last == 3
    ended(log, State.FAILED, "too long")


def test_the_same_request_gives_the_same_log(store: Store) -> None:
    log = begun(store, key="k")
    log.append([A])
    assert store.begin(head("another", key="k")) == (log, False)
    assert store.by_key("alice", "k") is log
    assert store.find("alice", "one") is log
    with pytest.raises(Missing):
        store.find("alice", "another")


def test_another_request_under_the_same_key_or_id_is_refused(store: Store) -> None:
    begun(store, key="k")
    for other in (
        head("two", key="k", fingerprint="f2"),
        head("one", key="k2"),
        head("one", key=""),
        head("one", key="k", fingerprint="f2"),
    ):
        with pytest.raises(KeyReused):
            store.begin(other)


def test_without_a_key_the_id_names_the_request(store: Store) -> None:
    log = begun(store, "one", key="")
    begun(store, "two", key="")
    assert store.by_key("alice", "") is None
    assert store.begin(head("one", key="")) == (log, False)


def test_scopes_know_nothing_of_each_other(store: Store) -> None:
    log = begun(store, key="k")
    with pytest.raises(Missing):
        store.find("bob", "one")
    with pytest.raises(Missing):
        store.delete("bob", "one")
    assert store.by_key("bob", "k") is None
    theirs = begun(store, key="k", scope="bob", fingerprint="f2")
    theirs.append([B])
    assert log.last == 0
    assert store.find("bob", "one") is theirs


def test_an_ended_log_expires_after_its_time(place: Place) -> None:
    store = place.open()
    log = begun(store, key="k")
    place.clock.now = 5000.0
    assert store.find("alice", "one") is log, "what runs does not expire"
    ended(log)
    place.clock.now = 5059.9
    assert store.find("alice", "one").state is State.COMPLETE
    assert store.by_key("alice", "k") is log
    place.clock.now = 5060.0
    with pytest.raises(Expired):
        store.find("alice", "one")
    assert store.by_key("alice", "k") is None
    assert store.sweep(5059.0) == 0
    assert store.sweep(5060.0) == 1
    assert store.sweep(5060.0) == 0
    with pytest.raises(Missing):
        store.find("alice", "one")
    with pytest.raises(Missing):
        log.read(0)


@pytest.mark.parametrize("name", [{"id": "two", "key": "k"}, {"id": "one", "key": "k"}, {"id": "one", "key": "k2"}])
def test_an_expired_log_makes_room_for_its_name(place: Place, name: dict[str, str]) -> None:
    store = place.open()
    old = ended(begun(store, "one", key="k"))
    place.clock.now += 60
    new = begun(store, **name, fingerprint="f2")
    new.append([B])
    assert store.find("alice", name["id"]) is new
    with pytest.raises(Missing):
        old.read(0)


def test_what_was_deleted_is_gone_for_everyone(store: Store) -> None:
    log = begun(store, key="k")
    log.append([A])
    woken = threading.Event()
    log.subscribe(woken.set)
    store.delete("alice", "one")
    assert woken.is_set()
    for use in (
        lambda: store.find("alice", "one"),
        lambda: store.delete("alice", "one"),
        lambda: log.read(0),
        lambda: log.append([A]),
        log.reopen,
    ):
        with pytest.raises(Missing):
            use()
    assert not log.end(State.COMPLETE)
    assert store.by_key("alice", "k") is None
    again = begun(store, key="k")
    assert again.append([B]) == 1


def test_readers_are_woken_by_events_and_the_end(store: Store) -> None:
    log = begun(store)
    seen: list[tuple[int, State]] = []
    unsubscribe = log.subscribe(lambda: seen.append((log.last, log.state)))
    log.append([A, A])
    wait_until(lambda: (2, State.RUNNING) in seen)
    ended(log)
    wait_until(lambda: (2, State.COMPLETE) in seen)
    unsubscribe()
    unsubscribe()
    before = len(seen)
    store.delete("alice", "one")
    assert len(seen) == before


def test_a_reader_that_cannot_be_woken_harms_nobody(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    log = begun(store)
    woken = threading.Event()

    def broken() -> None:
        raise RuntimeError("the loop is closed")

    log.subscribe(broken)
    log.subscribe(woken.set)
    log.append([A])
    log.append([A])
    assert woken.wait(10)
    wait_until(lambda: log.last == 2)
    assert caplog.text.count("could not be woken") == 1


def test_a_note_replaces_the_one_before(store: Store) -> None:
    log = begun(store)
    log.append([A], note="n1")
    assert log.upstream == "n1"
    log.append([], note="n2")
    log.append([A])
    assert log.upstream == "n2"
    assert log.head.upstream == '{"at": 0}'


def test_an_interrupted_log_goes_on_in_a_new_epoch(store: Store) -> None:
    log = begun(store)
    log.append([A, A])
    ended(log, State.INTERRUPTED)
    log.reopen()
    with pytest.raises(LogEnded):
        log.reopen()
    assert log.append([B]) == 3
    ended(log, State.INTERRUPTED)
    log.reopen()
    log.append([C])
    assert read_all(log) == (b"id: 1\n" + A + b"id: 2\n" + A + b"id: 1.3\n" + B + b"id: 2.4\n" + C, 4)
    assert (log.reason, log.ended_at) == ("", None)

    for cursor, number in ("0", 0), ("1", 1), ("2", 2), ("1.3", 3), ("2.4", 4):
        assert log.locate(Cursor.parse(cursor)) == number
    for cursor, kept in ("3", 2), ("17", 2), ("1.4", 3), ("2.5", 4), ("3.5", 4):
        with pytest.raises(Ahead) as ahead:
            log.locate(Cursor.parse(cursor))
        assert ahead.value.last == kept
    for cursor in "1.2", "1.0", "2.3":
        with pytest.raises(BadCursor):
            log.locate(Cursor.parse(cursor))


@pytest.mark.parametrize("state", [None, *(each for each in ENDS if each is not State.INTERRUPTED)])
def test_nothing_else_can_be_reopened(store: Store, state: State | None) -> None:
    log = begun(store)
    if state is not None:
        ended(log, state)
    with pytest.raises(LogEnded):
        log.reopen()


def test_a_reopened_log_does_not_expire(place: Place) -> None:
    store = place.open()
    log = ended(begun(store), State.INTERRUPTED)
    log.reopen()
    place.clock.now += 1000
    assert store.sweep(place.clock.now) == 0
    assert store.find("alice", "one") is log


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    for use in (
        lambda: store.begin(head()),
        lambda: store.find("alice", "one"),
        lambda: store.by_key("alice", "k"),
        lambda: store.delete("alice", "one"),
        lambda: store.sweep(0),
        lambda: store.claim("alice", "k"),
        store.must_take,
    ):
        with pytest.raises(StoreFailed, match="closed"):
            use()


def test_the_right_to_begin_a_log_ends_with_its_beginning(place: Place) -> None:
    store = place.open()
    store.must_take()
    right = store.claim("alice", "k")
    assert right is not None
    assert store.claim("alice", "k") is not None, "within a process anybody may have it"
    assert store.claim("bob", "k") is not None
    right.release()
    right.release()
    right = store.claim("alice", "k")
    log = begun(store, key="k")
    assert store.claim("alice", "k") is None
    assert store.claim("bob", "k") is not None
    assert right is not None
    right.release()
    assert store.claim("alice", "k") is None
    ended(log, State.COMPLETE)
    assert store.claim("alice", "k") is None
    place.clock.now += 60
    if store.remote:
        store.sweep(0)  # Redis hears of the end with the next write
    assert store.claim("alice", "k") is not None, "it has expired"


def test_one_of_many_begins_it(store: Store) -> None:
    barrier = threading.Barrier(16)
    results: list[tuple[Log, bool]] = []

    def begin(number: int) -> None:
        barrier.wait(10)
        results.append(store.begin(head(f"id {number}", key="k")))

    in_threads([lambda number=number: begin(number) for number in range(16)])
    assert sum(new for _, new in results) == 1
    assert len({id(log) for log, _ in results}) == 1


@pytest.mark.slow
def test_twenty_readers_follow_one_writer(store: Store) -> None:
    log = begun(store)
    frames = [b"data: %d\n\n" % number for number in range(1000)]
    whole = b"".join(b"id: %d\n%b" % (number, frame) for number, frame in enumerate(frames, 1))
    read: list[bytes] = []

    def reader(start: int) -> None:
        news = threading.Event()
        unsubscribe = log.subscribe(news.set)
        data, at = b"", 0
        while True:
            news.clear()
            over = log.state is not State.RUNNING
            part = log.read(at, 100 + start)
            data, at = data + part.data, part.last
            if not part.data:
                if over:
                    break
                assert news.wait(30)
        unsubscribe()
        read.append(data)

    def writer() -> None:
        for start in range(0, len(frames), 7):
            log.append(frames[start : start + 7], wait=False)
        log.end(State.COMPLETE)

    in_threads([writer, *(lambda start=start: reader(start * 50) for start in range(20))])
    assert len(read) == 20
    assert set(read) == {whole}


def in_threads(targets: Sequence[object]) -> None:
    failures: list[BaseException] = []

    def run(target: object) -> None:
        try:
            target()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=[target]) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


# Only for those that outlive their process.


def test_all_is_there_after_an_orderly_close(keeping: Place) -> None:
    store = keeping.open()
    log = begun(store, key="k")
    log.append([A, B], note="n1")
    log.append([C])
    log.end(State.FAILED, "because")
    begun(store, "two").append([A])
    begun(store, "gone")
    store.delete("alice", "gone")

    store = keeping.open()
    log = store.find("alice", "one")
    assert log.head == head(key="k")
    assert (log.state, log.reason, log.ended_at, log.last) == (State.FAILED, "because", 1000.0, 3)
    assert log.upstream == "n1"
    assert log.durable == 3
    assert log.read(0) == (b"id: 1\n" + A + b"id: 2\n" + B + b"id: 3\n" + C, 3)
    assert log.read(1) == (b"id: 2\n" + B + b"id: 3\n" + C, 3)
    assert store.by_key("alice", "k") is log
    with pytest.raises(KeyReused):
        store.begin(head("other", key="k", fingerprint="f2"))
    assert store.begin(head("other", key="k")) == (log, False)
    assert store.find("alice", "two").state is State.INTERRUPTED
    with pytest.raises(Missing):
        store.find("alice", "gone")


def test_a_log_goes_on_in_the_next_process(keeping: Place) -> None:
    begun(keeping.open()).append([A], note="n1")
    keeping.clock.now = 2000.0
    log = keeping.open().find("alice", "one")
    assert (log.state, log.last, log.upstream, log.ended_at) == (State.INTERRUPTED, 1, "n1", 2000.0)
    log.reopen()
    log.append([B])
    assert read_all(log) == (b"id: 1\n" + A + b"id: 1.2\n" + B, 2)
    log = keeping.open().find("alice", "one")
    assert log.state is State.INTERRUPTED
    assert log.read(0) == (b"id: 1\n" + A + b"id: 1.2\n" + B, 2)
    log.reopen()
    assert log.append([C]) == 3
    log.end(State.COMPLETE)
    log = keeping.open().find("alice", "one")
    assert log.read(1) == (b"id: 1.2\n" + B + b"id: 2.3\n" + C, 3)
    with pytest.raises(Ahead):
        log.locate(Cursor(0, 2))


def test_what_has_expired_is_swept_in_the_next_process(keeping: Place) -> None:
    store = keeping.open()
    for name in "one", "two", "three":
        begun(store, name).append([A])
    store.find("alice", "one").end(State.COMPLETE)
    store.find("alice", "two").end(State.COMPLETE)
    store = keeping.open()
    held = store.find("alice", "three")
    held.reopen()
    keeping.clock.now += 60
    assert store.sweep(keeping.clock.now) == 2
    assert store.sweep(keeping.clock.now) == 0
    assert store.begin(head("one"))[1]
    store = keeping.open()
    assert store.find("alice", "one").last == 0
    with pytest.raises(Missing):
        store.find("alice", "two")


class Machine(RuleBasedStateMachine):
    """Stores against dictionaries and lists. What may not be seen at once is waited for."""

    kind: str

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.context = place_of(self.kind, Path(self.directory.name))
        self.place = self.context.__enter__()
        self.store = self.place.open()
        self.logs: dict[str, Log] = {}
        self.events: dict[str, list[bytes]] = {}
        self.states: dict[str, State] = {}
        self.epochs: dict[str, int] = {}
        self.ended_at: dict[str, float] = {}

    ids = st.sampled_from(["one", "two", "three"])

    @rule(name=ids)
    def begin(self, name: str) -> None:
        known = name in self.states and not self.expired(name)
        self.logs[name], new = self.store.begin(head(name))
        assert new is not known
        if new:
            self.events[name], self.states[name], self.epochs[name] = [], State.RUNNING, 0
            self.ended_at.pop(name, None)

    @precondition(lambda self: self.states)
    @rule(name=ids, frames=st.lists(st.sampled_from([A, B, C]), max_size=4))
    def append(self, name: str, frames: list[bytes]) -> None:
        if self.stale(name):
            return
        if self.states[name] is not State.RUNNING:
            with pytest.raises(LogEnded):
                self.logs[name].append(frames)
            return
        for frame in frames:
            epoch, number = self.epochs[name], len(self.events[name]) + 1
            self.events[name].append(b"id: %b\n%b" % (str(Cursor(epoch, number)).encode(), frame))
        assert self.logs[name].append(frames) == len(self.events[name])

    @rule(name=ids, state=st.sampled_from(ENDS))
    def end(self, name: str, state: State) -> None:
        if not self.stale(name) and self.logs[name].end(state):
            assert self.states[name] is State.RUNNING
            self.states[name] = state
            self.ended_at[name] = self.place.clock.now

    @rule(name=ids)
    def reopen(self, name: str) -> None:
        if not self.stale(name) and self.states[name] is State.INTERRUPTED:
            self.logs[name].reopen()
            self.states[name] = State.RUNNING
            self.epochs[name] += 1
            del self.ended_at[name]

    @rule(name=ids)
    def delete(self, name: str) -> None:
        if name in self.states:
            self.store.delete("alice", name)
            del self.states[name]

    @rule(seconds=st.sampled_from([1, 30, 60]))
    def wait(self, seconds: int) -> None:
        self.place.clock.now += seconds

    @rule()
    def sweep(self) -> None:
        gone = [name for name in self.states if self.expired(name)]
        assert self.store.sweep(self.place.clock.now) == len(gone)
        for name in gone:
            del self.states[name]

    @rule()
    def restart(self) -> None:
        if self.kind == "memory":
            return
        self.store = self.place.open()
        for name in self.states:
            if self.states[name] is State.RUNNING:
                self.states[name] = State.INTERRUPTED
                self.ended_at[name] = self.place.clock.now
            if not self.expired(name):
                self.logs[name] = self.store.find("alice", name)

    @rule(name=ids, after=st.integers(0, 8), max_bytes=st.integers(1, 100))
    def read(self, name: str, after: int, max_bytes: int) -> None:
        if name not in self.states:
            with pytest.raises(Missing):
                self.store.find("alice", name)
            return
        if self.expired(name):
            with pytest.raises(Expired):
                self.store.find("alice", name)
            return
        log, events = self.store.find("alice", name), self.events[name]
        assert log is self.logs[name]
        wait_until(lambda: (log.last, log.state) == (len(events), self.states[name]))
        if after > len(events):
            with pytest.raises(Ahead):
                log.read(after)
            return
        assert read_all(log, after) == (b"".join(events[after:]), len(events))
        data, last = log.read(after, max_bytes)
        assert data == b"".join(events[after:last])
        assert last > after or after == len(events)
        assert len(data) <= max_bytes or last == after + 1

    def expired(self, name: str) -> bool:
        return name in self.ended_at and self.place.clock.now >= self.ended_at[name] + 60

    def stale(self, name: str) -> bool:
        """Whether we have no log of this name in hand that may be used."""
        return name not in self.states or self.expired(name)

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)
        self.directory.cleanup()


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
def test_any_use_at_all(kind: str) -> None:
    machine = type("Case", (Machine,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck)),
    )
