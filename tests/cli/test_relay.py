"""The command `relay`: what it is told, what it says, and how it starts, stops and starts again."""

from __future__ import annotations

import builtins
import io
import logging
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from resumable_llm.cli import relay
from resumable_llm.cli.app import app
from resumable_llm.local import announcement
from resumable_llm.local.relay import IN_USE
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.sqlite import SqliteStore
from tests.log.redis_server import RedisServer
from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Gate, datas
from tests.sockets import wire
from tests.sockets.scripted import Answer, Scripted

UPSTREAM = "https://api.openai.com"


def job(**options: Any) -> relay.Job:
    defaults = {"upstream": UPSTREAM, "host": "127.0.0.1", "port": 0, "store": "memory", "strict": False}
    return relay.Job(**{**defaults, "ttl": 60.0, "abandon_after": None, "on_disconnect": "continue", **options})


def run(**options: Any) -> tuple[int, str]:
    err = io.StringIO()
    return relay.run(job(**options), err), err.getvalue()


@contextmanager
def started(*arguments: str, stop: bool = True) -> Iterator[tuple[str, list[str]]]:
    """The command in a process of its own, stopped in the end or waited for; its address, and what it says."""
    command = [sys.executable, "-m", "resumable_llm", "relay", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = [process.stderr.readline(), process.stderr.readline()]
            found = re.search(r"http://\S+:\d+", said[0])
            assert found, said[0] + process.stderr.read()
            yield found[0], said
        finally:
            if stop:
                process.send_signal(signal.SIGTERM)
            said.append(process.stderr.read())
        assert process.wait(20) == 0, said


def test_options_become_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[relay.Job] = []

    def run(job: relay.Job, err: object) -> int:
        jobs.append(job)
        return 3

    monkeypatch.setattr(relay, "run", run)
    plain = CliRunner().invoke(app, ["relay", "--upstream", UPSTREAM])
    given = ["--host", "::1", "--port", "1", "--store", "sqlite:///x", "--ttl", "9", "--abandon-after", "2"]
    given += ["--on-disconnect", "cancel", "--durability", "strict", "--idle-exit", "5", "--announce", "x.json"]
    assert plain.exit_code == CliRunner().invoke(app, ["relay", "--upstream", UPSTREAM, *given]).exit_code == 3
    first, second = jobs
    assert first == job(port=8787, ttl=3600.0)
    options: dict[str, Any] = {"host": "::1", "port": 1, "store": "sqlite:///x", "ttl": 9.0, "abandon_after": 2.0}
    options |= {"idle_exit": 5.0, "announce": Path("x.json")}
    assert second == job(**options, strict=True, on_disconnect="cancel")


def test_store_may_be_named_where_no_other_user_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[relay.Job] = []

    def run(job: relay.Job, err: object) -> int:
        jobs.append(job)
        return 0

    monkeypatch.setattr(relay, "run", run)
    monkeypatch.setenv("RESUMABLE_LLM_RELAY_STORE", "redis://:password@h/0")
    assert CliRunner().invoke(app, ["relay", "--upstream", UPSTREAM]).exit_code == 0
    told = CliRunner().invoke(app, ["relay", "--help"]).stdout
    assert jobs[0].store == "redis://:password@h/0"
    assert "password" not in told


def test_help_tells_options_and_exit_codes() -> None:
    told = CliRunner().invoke(app, ["relay", "--help"]).stdout
    assert all(word in told for word in ("--upstream", "--abandon-after", "--on-disconnect", "3: cannot start"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"upstream": "openai"}, "upstream must be"),
        ({"store": "redis:/:s3cret@x"}, "--store is"),
        ({"store": "redis://:s3cret@x"}, "the same secret in RESUMABLE_LLM_RELAY_SECRET"),
        ({"store": "sqlite:///"}, "--store is"),
        ({"strict": True}, "--durability strict"),
    ],
)
def test_wrong_usage(options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(relay.KEYED_WITH, raising=False)
    code, said = run(**options)
    assert code == relay.USAGE
    assert told in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("store", "secret", "code", "told"),
    [
        ("redis://:s3cret@127.0.0.1:1", "s" * 16, relay.CANNOT_START, "Redis does not answer"),
        ("redis://:s3cret/@127.0.0.1:1", "s" * 16, relay.USAGE, "the URL of Redis"),
        ("redis://:s3cret@127.0.0.1:1", "short", relay.USAGE, "16 bytes"),
    ],
)
def test_redis_that_cannot_be_used(
    store: str, secret: str, code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(relay.KEYED_WITH, secret)
    ended, said = run(store=store)
    assert ended == code
    assert told in said
    assert "s3cret" not in said


@pytest.mark.parametrize("missing", ["redis", "typing"])
def test_redis_without_its_package(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_redis(name: str, *arguments: Any) -> ModuleType:
        if name == "resumable_llm.log.redis":
            raise ModuleNotFoundError("gone", name=missing)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", no_redis)
    with pytest.raises(ValueError if missing == "redis" else ModuleNotFoundError, match=r"install|gone"):
        relay.open_store("redis://x", strict=False)


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = run(port=taken.getsockname()[1])
    assert code == relay.CANNOT_START
    assert "cannot listen" in said


def test_store_in_use(tmp_path: Path) -> None:
    name = f"sqlite:///{tmp_path / 'relay.db'}"
    store = relay.open_store(name, strict=True)
    try:
        code, said = run(store=name)
    finally:
        store.close()
    assert isinstance(store, SqliteStore)
    assert store.strict
    assert code == IN_USE
    assert said


def test_store_in_memory() -> None:
    assert isinstance(relay.open_store("memory", strict=False), MemoryStore)


def test_secret_is_kept_beside_the_file_for_its_owner_alone(tmp_path: Path) -> None:
    name = f"sqlite:///{tmp_path / 'relay.db'}"
    secret = relay.secret_of(name)
    assert secret is not None
    assert len(secret) == 32
    assert relay.secret_of(name) == secret
    assert relay.secret_of("memory") is None
    if sys.platform != "win32":
        assert (tmp_path / "relay.db.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("missing", ["aiohttp", "typing"])
def test_extra_that_is_not_installed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_uvicorn(name: str, *arguments: Any) -> ModuleType:
        if name == "uvicorn":
            raise ModuleNotFoundError("gone", name=missing)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", no_uvicorn)
    if missing == "aiohttp":
        code, said = run()
        assert code == relay.USAGE
        assert "pip install 'resumable-llm[cli,relay]'" in said
    else:
        with pytest.raises(ModuleNotFoundError):
            run()


@pytest.mark.parametrize(
    ("upstream", "code"),
    [
        (UPSTREAM, 'client = OpenAI(base_url="http://h:1/v1")'),
        ("https://api.groq.com/openai/v1", 'client = OpenAI(base_url="http://h:1")'),
        ("https://api.anthropic.com", 'client = Anthropic(base_url="http://h:1")'),
        (
            "https://generativelanguage.googleapis.com",
            'client = genai.Client(http_options={"base_url": "http://h:1"})',
        ),
    ],
)
def test_welcome_has_the_line_for_the_code(upstream: str, code: str) -> None:
    assert relay.welcome(job(upstream=upstream), "http://h:1")[1] == f"in your code: {code}"


def test_welcome_warns_of_other_machines() -> None:
    assert len(relay.welcome(job(), "http://h:1")) == 2
    assert "TLS" in relay.welcome(job(host="0.0.0.0"), "http://h:1")[2]
    assert relay._url("::1", 1) == "http://[::1]:1"


@pytest.mark.slow
def test_it_serves_stops_and_finds_its_streams_again(tmp_path: Path) -> None:
    store = ["--store", f"sqlite:///{tmp_path / 'relay.db'}"]
    with Scripted(Answer(wire.blocks(wire.chat()))) as upstream:
        with started("--upstream", upstream.url, *store) as (url, said):
            first = httpx.post(f"{url}{CHAT_PATH}?key=s3cret", json=CHAT, headers=AUTH)
            assert datas(first.content) == [event.data for event in wire.chat()]
            place = f"{first.headers['location']}?key=s3cret"
        assert "relay.ended" in said[-1]
        assert "s3cret" not in "".join(said)
        with started("--upstream", upstream.url, *store) as (url, _):
            assert httpx.get(f"{url}{place}", headers=AUTH).content == first.content
            assert httpx.get(f"{url}{place}").status_code == 404
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"s3cret" not in kept
    assert b"alice" not in kept


@pytest.mark.slow
def test_relays_on_one_redis_serve_each_others_streams_and_keep_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(relay.KEYED_WITH, "the same for both")
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always", password="p4ssword")
    store = ["--store", server.url, "--durability", "strict"]
    try:
        with (
            Scripted(Answer(wire.blocks(wire.chat()))) as upstream,
            started("--upstream", upstream.url, *store) as (first, said),
            started("--upstream", upstream.url, *store) as (second, too),
        ):
            answer = httpx.post(f"{first}{CHAT_PATH}?key=s3cret", json=CHAT, headers=AUTH)
            assert datas(answer.content) == [event.data for event in wire.chat()]
            place = f"{answer.headers['location']}?key=s3cret"
            assert httpx.get(f"{second}{place}", headers=AUTH).content == answer.content
            assert httpx.get(f"{second}{place}").status_code == 404
            assert httpx.delete(f"{second}{place}", headers=AUTH).status_code == 204
        assert f"in the Redis of 127.0.0.1 port {server.port}" in said[0]
        kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    finally:
        server.kill()
    assert b"[DONE]" in kept
    for secret in "s3cret", AUTH["authorization"].removeprefix("Bearer "), "p4ssword":
        assert secret not in "".join([*said, *too])
    for secret in "s3cret", AUTH["authorization"].removeprefix("Bearer "), "the same for both":
        assert secret.encode() not in kept


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """What the command changes in its process is put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = [logging.getLogger(name) for name in ("resumable_llm", "uvicorn.error")]
    levels = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for logger, level, propagate, kept in levels:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = kept


@pytest.mark.slow
@pytest.mark.usefixtures("process_as_before")
def test_the_command_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    async def stop_at_once(self: uvicorn.Server) -> None:
        assert self.started

    monkeypatch.setattr(uvicorn.Server, "main_loop", stop_at_once)
    code, said = run()
    assert code == relay.STOPPED
    assert "in your code" in said


@pytest.mark.slow
def test_it_ends_when_it_is_idle_and_not_before(tmp_path: Path) -> None:
    announced = tmp_path / "relay.json"
    said = wire.blocks(wire.chat())
    options = ["--idle-exit", "3", "--announce", str(announced)]
    with (
        Gate() as gate,
        Scripted(gate.between(said[:2], said[2:])) as upstream,
        started("--upstream", upstream.url, *options, stop=False) as (url, log),
    ):
        found = announcement.read(announced)
        assert found is not None
        assert found.url == url
        with httpx.stream("POST", f"{url}{CHAT_PATH}", json=CHAT, headers=AUTH) as response:
            pieces = response.iter_bytes()
            got = next(pieces)
            time.sleep(3.5)  # longer than it may be idle, which with a reader it is not
            gate.open()
            got += b"".join(pieces)
        assert datas(got) == [event.data for event in wire.chat()]
        assert found.holds(5)
    assert "relay.ended" in log[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("process_as_before")
@pytest.mark.parametrize(("idle_exit", "ends"), [(None, False), (0.0, True), (60.0, False)])
def test_the_command_in_this_process_when_it_is_idle(
    idle_exit: float | None, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    async def tick_once(self: uvicorn.Server) -> None:
        assert await self.on_tick(0) is ends

    monkeypatch.setattr(uvicorn.Server, "main_loop", tick_once)
    announced = tmp_path / "relay.json"
    code, said = run(idle_exit=idle_exit, announce=announced)
    assert code == relay.STOPPED
    found = announcement.read(announced)
    assert found is not None
    assert f"relay: {found.url} in front of" in said
