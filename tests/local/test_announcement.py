"""How a relay on loopback is told from any other program that has its port."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resumable_llm.local import announcement
from resumable_llm.local.announcement import CHALLENGE, PROOF, Announcement, announce, read
from tests.sockets.scripted import Answer, End, Request, Scripted

TOKEN = "t0ken"


def there(server: Scripted, token: str = TOKEN) -> Announcement:
    return Announcement(int(server.url.rpartition(":")[2]), 1, token)


def proving(token: str = TOKEN, port: int | None = None, times: int = 1) -> Callable[[Request], Answer]:
    """A server that answers as a relay with this token, at this port, would."""

    def answer(request: Request) -> Answer:
        at = port or int(request.headers["host"].rpartition(":")[2])
        proof = Announcement(at, 1, token).proof(request.headers[CHALLENGE.lower()])
        names = [PROOF, PROOF.upper()][:times]
        return Answer([b"{}"], headers=dict.fromkeys(names, proof), chunked=False)

    return answer


def test_whoever_knows_the_token_is_the_relay() -> None:
    with Scripted(rest=proving()) as server:
        assert there(server).url == server.url
        assert there(server).holds(5)
        assert there(server).holds(5)
    first, second = server.requests
    assert (first.method, first.target) == ("GET", "/_health")
    assert first.headers[CHALLENGE.lower()] != second.headers[CHALLENGE.lower()]
    assert TOKEN not in first.raw_head.decode()


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: Answer.json('{"status":"ok"}'),
        proving("another"),
        proving(port=7),  # what the real relay, asked by an impostor, would say
        proving(times=2),
        lambda request: Answer(headers={PROOF: "b\xe4h"}, chunked=False),
        lambda request: Answer(headers={PROOF: ""}, chunked=False),
        lambda request: Answer(headers={"X-Long": "x" * 100_000}, chunked=False),
    ],
    ids=["no proof", "token", "port", "twice", "no ascii", "empty", "endless"],
)
def test_nobody_else_is(answer: Callable[[Request], Answer]) -> None:
    with Scripted(answer) as server:
        assert not there(server).holds(5)


def test_nobody_is_there() -> None:
    with Scripted() as server:
        pass
    assert not there(server).holds(5)


def test_whoever_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not Announcement(silent.getsockname()[1], 1, TOKEN).holds(0.05)


def test_whoever_says_it_slowly_is_not_waited_for() -> None:
    """A byte now and then keeps a connection alive, but not the patience."""
    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not gone.wait(0.02):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        since = time.monotonic()
        assert not Announcement(server.getsockname()[1], 1, TOKEN).holds(0.2)
        gone.set()
        thread.join(5)
    assert time.monotonic() - since < 5


def test_whoever_says_nothing_and_hangs_up_is_not_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        assert not Announcement(server.getsockname()[1], 1, TOKEN).holds(5)
        thread.join(5)


def test_whoever_hangs_up_is_not_it() -> None:
    with Scripted(Answer(end=End.RST, headers={})) as server:
        assert not there(server).holds(5)


def test_what_is_announced_can_be_read_by_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "relay.json"
    (tmp_path / f"relay.json.{os.getpid()}").write_text("left by a process of that number")
    first = announce(path, 8787)
    assert first == read(path)
    assert (first.port, first.pid) == (8787, os.getpid())
    assert len(first.token) == 64
    assert list(tmp_path.iterdir()) == [path]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    second = announce(path, 8788)
    assert read(path) == second
    assert second.token != first.token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"port": 1}',
        '{"port": 1, "pid": 1, "token": "t", "more": 1}',
        '{"port": "1", "pid": 1, "token": "t"}',
        '{"port": 0, "pid": 1, "token": "t"}',
        '{"port": 65536, "pid": 1, "token": "t"}',
        '{"port": 1, "pid": 1, "token": 1}',
        '{"port": 1, "pid": 1, "token": ""}',
        '{"port": 1, "pid": 1, "token": "t\xe4"}',
    ],
)
def test_what_is_no_announcement(text: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.json"
    path.write_text(text, encoding="latin-1")
    assert read(path) is None


def test_no_announcement(tmp_path: Path) -> None:
    assert announcement.read(tmp_path / "relay.json") is None
