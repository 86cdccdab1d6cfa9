"""Which calls are the same, whose answers they are, and what the store has to say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from resumable_llm.log import LogEnded, MemoryStore, SqliteStore, State, StoreFailed, StoreInUse, StoreUnusable
from resumable_llm.log.live import LiveLog
from resumable_llm.log.redis import RedisStore
from resumable_llm.transports import shelf
from tests.in_memory import ACCEPT, CHAT, CHAT_URL, EVENTS_URL, SSE, Said, chat, numbered, transport
from tests.log import redis_server
from tests.transports.journaled import KEY, Caller, Remote, log_of, open_sync

# Which calls are the same


def test_a_body_that_streams_from_somewhere_is_not_kept(colour: str, store: MemoryStore) -> None:
    caller = Caller("httpx", colour, store)

    class Body(caller.http.SyncByteStream, caller.http.AsyncByteStream):  # type: ignore[name-defined, misc]
        def __iter__(self) -> Iterator[bytes]:
            return iter([b""])

        async def __aiter__(self) -> Any:
            yield b""

    for _ in range(2):
        request = caller.http.Request("POST", EVENTS_URL, headers={**ACCEPT, **KEY}, stream=Body())
        assert len(caller.call(Said(numbered(1)), request=request, take=1).requests) == 1


def test_an_empty_key_names_nothing(caller: Caller) -> None:
    for _ in range(2):
        heard = caller.call(Said(chat("a", done=True)), headers={**KEY, "Idempotency-Key": ""})
        assert (heard.error, len(heard.requests)) == (None, 1)
    assert not [log for log in caller.journal._logs.values() if log.head.status == 200]


def test_answers_that_are_no_streams_are_not_kept(caller: Caller) -> None:
    for status in (401, 503):
        assert caller.call(Said(status=status)).status == status
    assert caller.call(Said(chat("a", done=True))).error is None


@pytest.mark.parametrize(
    "headers",
    [
        {**KEY, "Authorization": "Bearer yours"},
        {**KEY, "X-Api-Key": "yours"},
        {"Idempotency-Key": "cell-7", "Cookie": "session=yours"},
        {"Idempotency-Key": "cell-7"},
    ],
)
def test_others_do_not_see_it(caller: Caller, headers: dict[str, str]) -> None:
    caller.call(Said(chat("mine", done=True)))
    heard = caller.call(Said(chat("yours", done=True)), headers=headers)
    assert (heard.error, b"yours" in heard.data, b"mine" in heard.data, len(heard.requests)) == (None, True, False, 1)


def test_a_balancers_cookies_do_not_matter(caller: Caller) -> None:
    caller.call(Said(chat("a", done=True)))
    assert caller.call(headers={**KEY, "Cookie": "__cf_bm=1"}).error is None


def test_cookies_matter_where_nothing_else_says_who_it_is(caller: Caller) -> None:
    mine = {"Idempotency-Key": "cell-7", "Cookie": "session=mine"}
    caller.call(Said(chat("a", done=True)), headers=mine)
    assert caller.call(headers=mine).requests == []
    assert len(caller.call(Said(chat("a", done=True)), headers={**mine, "Cookie": "session=other"}).requests) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"json": {**CHAT, "messages": [{"role": "user", "content": "secret prompt"}]}},
        {"url": f"{CHAT_URL}?v=2"},
        {"url": CHAT_URL.replace("api", "other")},
    ],
)
def test_a_key_names_one_request(caller: Caller, other: dict[str, Any]) -> None:
    caller.call(Said(chat("a", done=True)))
    heard = caller.call(request=caller.chat(headers=KEY, **other))
    assert isinstance(heard.error, rl.JournalRefused)
    assert isinstance(heard.error, caller.http.TransportError)
    assert "names another request" in str(heard.error)
    assert "secret" not in str(heard.error)
    assert heard.requests == []


def test_what_stands_behind_another_event_is_another_answer(caller: Caller) -> None:
    behind = {**KEY, "Last-Event-ID": "1"}
    caller.call(Said(numbered(2)), Said(status=204), request=caller.events(headers=behind))
    assert caller.call(request=caller.events(headers=behind)).data == numbered(2)[0]
    for other in (KEY, {**KEY, "Last-Event-ID": "2"}):
        heard = caller.call(request=caller.events(headers=other))
        assert isinstance(heard.error, rl.JournalRefused)
        assert heard.requests == []


def test_neither_keys_nor_prompts_are_stored(colour: str, tmp_path: Any) -> None:
    path = tmp_path / "answers.db"
    with closing(SqliteStore(path)) as store:
        body = {**CHAT, "messages": [{"role": "user", "content": "sesame prompt"}]}
        headers = {**KEY, "Authorization": "Bearer sesame", "Cookie": "c=sesame"}
        caller = Caller("httpx", colour, store)
        url = CHAT_URL.replace("https://", "https://me:sesame@") + "?key=sesame"
        for _ in range(2):
            caller.call(Said(chat("a")), request=caller.chat(url=url, json=body, headers=headers), take=1)
    for file in tmp_path.iterdir():
        assert b"sesame" not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


def test_a_store_that_cannot_be_read(store: MemoryStore) -> None:
    caller = Caller("httpx", "sync", store)
    outer = rl.httpx.ResumableTransport(transport("httpx"), journal=store)
    store.close()
    with pytest.raises(rl.JournalRefused, match="the journal cannot be read") as caught:
        outer.handle_request(caller.chat(headers=KEY))
    assert isinstance(caught.value, caller.http.TransportError)


def test_an_answer_of_another_version(caller: Caller) -> None:
    caller.call(Said(chat("a", "b")), take=1)
    log = log_of(caller.journal)
    log.reopen()
    log.append([], note="something else")
    log.end(State.INTERRUPTED)
    heard = caller.call()
    assert isinstance(heard.error, rl.JournalRefused)
    assert "another version" in str(heard.error)


# Who else is at it


def running(caller: Caller) -> Any:
    """Have it look as if another process were receiving the answer that was interrupted."""
    log = log_of(caller.journal)
    log.reopen()
    return log


def test_another_process_is_receiving_it(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "PATIENCE", 0.01)
    caller = Caller("httpx", colour, Remote())
    caller.call(Said(chat("a", "b")), take=1)
    running(caller)
    heard = caller.call()
    assert isinstance(heard.error, rl.JournalRefused)
    assert "by another process" in str(heard.error)


def test_another_process_was_receiving_it(colour: str) -> None:
    """Its lease lapses while we wait."""
    caller = Caller("httpx", colour, Remote())
    caller.call(Said(numbered(1, 2)), request=caller.events(), take=1)
    log = running(caller)
    log.append([], note=log.upstream)
    threading.Timer(0.02, log.end, (State.INTERRUPTED,)).start()
    again = caller.call(Said(numbered(2)), Said(status=204), request=caller.events())
    assert (again.error, again.data) == (None, b"".join(numbered(1, 2)))


def test_nobody_here_is_receiving_it(caller: Caller) -> None:
    """A recording that vanished without a trace, as that of an event loop that was closed under it."""
    caller.call(Said(numbered(1, 2)), request=caller.events(), take=1)
    running(caller)
    again = caller.call(Said(numbered(2)), Said(status=204), request=caller.events())
    assert (again.error, again.data) == (None, b"".join(numbered(1, 2)))


def test_answered_twice_at_the_same_time(caller: Caller) -> None:
    """Two calls with one key at once: the server has had both, and only one answer is kept."""

    def meanwhile() -> None:
        Caller("httpx", "sync", caller.journal).call(Said(chat("inner", done=True)))

    slow = caller.call(Said(chat("outer", done=True), headers=Meanwhile(SSE, meanwhile)))
    assert (slow.error, b"outer" in slow.data, slow.kinds[0]) == (None, True, "journal")
    assert b"inner" in caller.call().data


class Meanwhile(Mapping[str, str]):
    """Response headers that take their time."""

    def __init__(self, headers: Mapping[str, str], meanwhile: Callable[[], None]) -> None:
        self._headers = headers
        self._meanwhile = meanwhile

    def __getitem__(self, name: str) -> str:
        return self._headers[name]

    def __iter__(self) -> Iterator[str]:
        self._meanwhile()
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def test_another_call_was_quicker(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    caller.call(Said(chat("a", "b")), take=1)
    log = log_of(caller.journal)

    def reopen() -> None:
        raise LogEnded("the log is running")

    monkeypatch.setattr(LiveLog, "reopen", lambda _: reopen())
    heard = caller.call()
    assert isinstance(heard.error, rl.JournalRefused)
    assert "by another call" in str(heard.error)
    assert log.state is State.INTERRUPTED


def test_the_rest_cannot_be_kept(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    caller.call(Said(numbered(1, 2)), request=caller.events(), take=1)

    def reopen(_: LiveLog) -> None:
        raise StoreFailed("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(LiveLog, "reopen", reopen)
        for _ in range(2):
            again = caller.call(Said(numbered(2)), Said(status=204), request=caller.events())
            assert (again.error, again.data) == (None, b"".join(numbered(1, 2)))
            assert len(again.requests) == 2


# Where it is


def test_a_path_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_files", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    found = shelf.shelf_of(tmp_path / "answers.db")
    assert found is not None
    with closing(found.store):
        assert shelf.shelf_of(str(tmp_path / "answers.db")) is found
        assert shelf.shelf_of("~/answers.db") is found
        with pytest.raises(StoreInUse):
            SqliteStore(tmp_path / "answers.db")
    assert (tmp_path / "answers.db.key").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_cannot_be_had_does_not_keep_the_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "_files", {})
    path, secret = tmp_path / "answers.db", tmp_path / "answers.db.key"
    secret.mkdir()
    with pytest.raises(StoreUnusable, match=r"answers\.db\.key"):
        shelf.shelf_of(path)
    secret.rmdir()
    found = shelf.shelf_of(path)
    assert found is not None
    found.store.close()


FORK = """
import os, sys
import httpx
import resumable_llm as rl

answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, text="id: 1\\ndata: a\\n\\n")
client = httpx.Client(transport=httpx.MockTransport(lambda request: answer))
wrapped = rl.wrap(client, journal=sys.argv[1])
child = os.fork()
if child:
    os.waitpid(child, 0)
try:
    with rl.connect_sse(client, "GET", "http://a.example/", idempotency_key="k", journal=sys.argv[1]):
        print("begun")
except rl.JournalRefused as error:
    print(error)
try:
    wrapped.get("http://a.example/", headers={"accept": "text/event-stream", "idempotency-key": "k"})
except rl.JournalRefused as error:
    print(error)
"""


def test_another_process_than_the_one_that_opened_it(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, ours = shelf.shelf_of(caller.journal), os.getpid()
    caller.call(Said(chat("a", done=True)))
    monkeypatch.setattr(os, "getpid", lambda: ours + 1)
    heard = caller.call()
    assert isinstance(heard.error, rl.JournalRefused)
    assert isinstance(heard.error, caller.http.TransportError)
    assert (heard.requests, "forked" in str(heard.error)) == ([], True)
    assert kept is not None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_is_another_process(tmp_path: Path) -> None:
    """It would write to a file that no thread of its own writes, and read on a connection that is its parent's."""
    command = [sys.executable, "-u", "-c", FORK, str(tmp_path / "answers.db")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    refused = "nothing was sent, for the journal belongs to the process that this one was forked from"
    assert said.count(refused) == 2
    assert said.count("begun") == 1


def test_a_store_has_its_own_secret(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    secrets = set()
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            found = shelf.shelf_of(store)
            assert found is not None
            assert shelf.shelf_of(store) is found
            secrets.add(found._secret)
    assert len(secrets) == 1
    assert shelf.shelf_of(None) is None


@pytest.mark.parametrize("journal", [7, b"answers.db", object()])
def test_what_is_no_journal(journal: Any) -> None:
    with pytest.raises(TypeError, match="journal must be a path or a store"):
        rl.wrap(httpx.Client(), journal=journal)


def test_what_has_had_its_time_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    store = MemoryStore(clock=lambda: now[0])
    caller = Caller("httpx", "sync", store)
    keep = shelf.shelf_of(store)
    for name in "ab":
        caller.call(Said(chat("a", done=True)), headers={**KEY, "Idempotency-Key": name})
    assert len(store._logs) == 3
    now[0] += shelf.KEPT_SECONDS + 1
    caller.call(Said(chat("a", done=True)), headers={**KEY, "Idempotency-Key": "c"})
    assert len(store._logs) == 2
    assert keep is not None


# A store for several processes, by real Redis


def events() -> httpx.Request:
    return httpx.Request("GET", EVENTS_URL, headers={**ACCEPT, **KEY})


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["sync", "asyncio"])
def test_another_process_goes_on(colour: str) -> None:
    prefix = f"journal-{uuid.uuid4().hex}"

    def process() -> Any:
        return closing(RedisStore(redis_server.shared().url, prefix=prefix))

    with process() as store:
        first = Caller("httpx", colour, store).call(Said(numbered(1, 2, 3)), request=events(), take=2)
        assert first.error is None
    with process() as one, process() as two:
        again = Caller("httpx", colour, one).call(Said(numbered(3)), Said(status=204), request=events())
        assert (again.error, again.data) == (None, b"".join(numbered(1, 2, 3)))
        third = Caller("httpx", colour, two).call(request=events())
        assert (third.error, third.data, third.requests) == (None, again.data, [])


@pytest.mark.slow
def test_what_another_process_receives_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "PATIENCE", 0.2)
    prefix = f"journal-{uuid.uuid4().hex}"
    with (
        closing(RedisStore(redis_server.shared().url, prefix=prefix)) as one,
        closing(RedisStore(redis_server.shared().url, prefix=prefix)) as two,
    ):
        response = open_sync(Caller("httpx", "sync", one), transport("httpx", Said(chat("a", done=True))))
        refused = Caller("httpx", "sync", two).call()
        assert isinstance(refused.error, rl.JournalRefused)
        assert refused.requests == []
        assert list(response.stream) == chat("a", done=True)
        assert Caller("httpx", "sync", two).call().data == b"".join(chat("a", done=True))


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["sync", "asyncio"])
def test_of_two_processes_that_are_given_a_key_at_once_one_asks(colour: str) -> None:
    prefix = f"journal-{uuid.uuid4().hex}"
    begun, whole = threading.Event(), chat("a", done=True)
    with (
        ThreadPoolExecutor(1) as pool,
        closing(RedisStore(redis_server.shared().url, prefix=prefix)) as one,
        closing(RedisStore(redis_server.shared().url, prefix=prefix)) as two,
    ):

        def meanwhile() -> None:
            """Between the question and its answer, until the other process must have looked."""
            waiting.append(pool.submit(Caller("httpx", colour, two).call))
            assert begun.wait(10)

        claim = two.claim

        def looked(scope: str, key: str) -> Any:
            found = claim(scope, key)
            begun.set()
            return found

        waiting: list[Future[Any]] = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(two, "claim", looked)
            first = Caller("httpx", colour, one).call(Said(whole, headers=Meanwhile(SSE, meanwhile)))
            second = waiting[0].result(20)
        assert (first.error, first.data) == (None, b"".join(whole))
        assert (second.error, second.data, second.requests) == (None, first.data, [])


@pytest.mark.slow
def test_who_asks_and_gets_no_answer_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"journal-{uuid.uuid4().hex}"

    def process() -> Any:
        return closing(RedisStore(redis_server.shared().url, prefix=prefix, lease_seconds=1.0))

    with process() as one, process() as two:
        assert Caller("httpx", "sync", one).call(Said(status=503)).status == 503
        assert Caller("httpx", "sync", one).call(Said(status=503)).status == 503
        with monkeypatch.context() as patched:
            patched.setattr(shelf, "PATIENCE", 0.0)
            refused = Caller("httpx", "sync", two).call()
            assert isinstance(refused.error, rl.JournalRefused)
            assert "by another process" in str(refused.error)
        assert Caller("httpx", "sync", two).call(Said(chat("a", done=True))).data == b"".join(chat("a", done=True))
