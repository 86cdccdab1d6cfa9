"""A relay of one's own: started when there is none, found when there is, and never taken for what has its port."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from resumable_llm.local import announcement, relay
from resumable_llm.log.sqlite import SqliteStore
from tests.local import own
from tests.local.test_announcement import proving
from tests.sockets.scripted import Answer, Request, Scripted

UPSTREAM = "https://api.example"
NAME = "api.example-e91cdb47"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with own.cache(tmp_path) as found:
        yield found


def said(folder: Path) -> str:
    return (folder / f"{NAME}.log").read_text()


@pytest.mark.slow
def test_it_is_started_once_and_found_again(folder: Path) -> None:
    with ThreadPoolExecutor() as pool:
        urls = set(pool.map(relay.address, [UPSTREAM] * 4))
    (url,) = urls
    assert relay.address(UPSTREAM) == url
    assert httpx.get(f"{url}/_ready").json() == {"running": 0}
    assert said(folder).count(f"{url} in front of {UPSTREAM};") == 1
    if sys.platform != "win32":
        modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]}
        assert modes.pop("relay") == 0o700
        assert set(modes.values()) == {0o600}, modes


@pytest.mark.slow
def test_it_does_not_belong_to_who_has_started_it(folder: Path) -> None:
    """Neither Ctrl-C nor the end of its group is meant for it, and it stands in nobody's folder."""
    code = f"from resumable_llm.local import relay; print(relay.address({UPSTREAM!r}))"
    asked = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    (found,) = own.relays(folder)
    assert asked.stdout.strip() == found.url == relay.address(UPSTREAM)
    assert asked.stderr == ""
    if sys.platform != "win32":
        assert os.getpgid(found.pid) == found.pid != os.getpgid(0)


@pytest.mark.slow
def test_another_one_for_another_upstream(folder: Path) -> None:
    assert relay.address(UPSTREAM) != relay.address("http://api.example")
    assert len(own.relays(folder)) == 2


@pytest.mark.slow
def test_one_that_was_killed_is_started_at_the_same_port(folder: Path) -> None:
    url = relay.address(UPSTREAM)
    (first,) = own.relays(folder)
    own.stop(first, signal.SIGKILL)
    (folder / f"{NAME}.log").write_bytes(b"x" * 1_100_000)
    assert relay.address(UPSTREAM) == url
    (second,) = own.relays(folder)
    assert second.pid != first.pid
    assert len(said(folder)) < 10_000


@pytest.mark.slow
def test_whoever_has_its_port_is_told_nothing(folder: Path) -> None:
    url = relay.address(UPSTREAM)
    (first,) = own.relays(folder)
    own.stop(first)
    with socket.create_server(("127.0.0.1", first.port)) as other:
        other.settimeout(10)
        heard: list[bytes] = []

        def answer() -> None:
            while True:
                try:
                    connection, _ = other.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        found = relay.address(UPSTREAM)
        other.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert found != url
    assert heard
    assert all(each.startswith(b"GET /_health ") for each in heard)
    assert first.token.encode() not in b"".join(heard)


@pytest.mark.slow
def test_one_that_is_just_ending_is_waited_for(folder: Path) -> None:
    folder.mkdir(parents=True)
    store = SqliteStore(folder / f"{NAME}.db")
    ending = threading.Timer(1.5, store.close)
    ending.start()
    try:
        assert relay.address(UPSTREAM) == own.relays(folder)[0].url
    finally:
        ending.join()
    assert "in front of" in said(folder)


def test_one_that_somebody_else_has_just_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours has ended by then, for the other one has the store."""
    path = folder / f"{NAME}.json"

    def answer(request: Request) -> Answer:
        told = announcement.read(path)
        assert told is not None
        return proving(told.token)(request)

    with Scripted(rest=answer) as server:

        def late(place: object, port: int) -> subprocess.Popen[bytes]:
            announcement.announce(path, int(server.url.rpartition(":")[2]))
            process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({relay.IN_USE})"])
            process.wait()
            return process

        monkeypatch.setattr(relay._Place, "_launch", late)
        assert relay.address(UPSTREAM) == server.url


@pytest.mark.slow
def test_one_that_does_not_start_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(relay, "START_SECONDS", 1.5)
    started: list[subprocess.Popen[bytes]] = []
    launch = relay._Place._launch

    def noting(place: relay._Place, port: int) -> subprocess.Popen[bytes]:
        started.append(launch(place, port))
        return started[-1]

    monkeypatch.setattr(relay._Place, "_launch", noting)
    store = SqliteStore(folder / f"{NAME}.db")
    try:
        with pytest.raises(relay.Unavailable, match=r"has not started within 1\.5 s: "):
            relay.address(UPSTREAM)
    finally:
        started[-1].kill()  # it may have been just about to find the store in use
        started[-1].wait(10)
        store.close()


@pytest.mark.slow
def test_file_of_another_version_is_explained(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f"{NAME}.db").write_bytes(b"this is no store, of no version" * 100)
    (folder / f"{NAME}.log").write_text("what another one has said\n")
    with pytest.raises(
        relay.Unavailable, match=r"cannot be started: .*\.db cannot be used: .*\(from .*\.log\)"
    ) as caught:
        relay.address(UPSTREAM)
    assert "another one" not in str(caught.value)


def test_process_that_says_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false" if sys.platform != "win32" else "where.exe")
    with pytest.raises(relay.Unavailable, match="it said nothing"):
        relay.address(UPSTREAM)
    (folder / f"{NAME}.json").write_text('{"port": 1, "pid": 1, "token": "t"}')  # then any other port is tried, too
    with pytest.raises(relay.Unavailable, match="it said nothing"):
        relay.address(UPSTREAM)


@pytest.mark.parametrize(("executable", "why"), [("", "is not known"), ("/nowhere/python", "No such file")])
def test_python_that_cannot_be_started(
    executable: str, why: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(relay.Unavailable, match=f"the local relay cannot be started: .*{why}"):
        relay.address(UPSTREAM)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "resumable-llm").write_text("a file in the way")
    with own.cache(tmp_path), pytest.raises(relay.Unavailable, match="the local relay cannot be started"):
        relay.address(UPSTREAM)


def test_one_that_does_not_prove_itself_is_not_found(folder: Path) -> None:
    folder.mkdir(parents=True)
    with Scripted(Answer.json("{}")) as server:
        announcement.announce(folder / f"{NAME}.json", int(server.url.rpartition(":")[2]))
        assert own.relays(folder) == []


def test_packages_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    relay.require_extras()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'resumable-llm\[cli,relay\]'") as caught:
        relay.require_extras()
    assert caught.value.name == "uvicorn"
