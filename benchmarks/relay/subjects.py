"""The relays that are compared, and how each is started in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from benchmarks.relay import processes, ways
from benchmarks.relay.load import KEY
from benchmarks.relay.ways import Way
from tests.log.redis_server import programs

_ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0

WRAPPER = "RELAY_BENCHMARKS_WRAPPER"
"""Names a variable of the environment: the command that runs a relay's command, such as valgrind's."""

Start = Callable[[int], "contextlib.AbstractContextManager[Subject]"]
"""Given the upstream's port, starts a relay."""


@dataclass(frozen=True)
class Subject:
    """A running relay.

    Attributes:
        port: Where it listens.
        pid: Its process; None for none.
        folder: What is there is served, by nginx.
        way: How its readers read.
        others: Further processes that serve.
        redis: Where the Redis listens that has part in it.
    """

    port: int
    pid: int | None
    folder: Path | None = None
    way: Way = ways.SSE
    others: tuple[int, ...] = ()
    redis: int | None = None

    def cpu(self) -> float:
        """Seconds of CPU that all of its processes have taken."""
        return 0.0 if self.pid is None else sum(map(processes.cpu, (self.pid, *self.others)))


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """Run the provider, and give its port."""
    command = [sys.executable, "-m", "benchmarks.relay.upstream"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.stdin.close()


@contextlib.contextmanager
def direct(port: int) -> Iterator[Subject]:
    """Nothing in between."""
    yield Subject(port, None, way=ways.DIRECT)


@contextlib.contextmanager
def served(
    port: int, *, application: str, without: Sequence[str] = (), way: Way = ways.SSE, redis: str = ""
) -> Iterator[Subject]:
    """An application on uvicorn."""
    hidden = [f"--without={name}" for name in without]
    command = [sys.executable, "-m", "benchmarks.relay.serve", *hidden, application]
    with _running(command, stdout=subprocess.PIPE, UPSTREAM=_http(port), REDIS=redis) as process:
        assert process.stdout is not None
        yield Subject(int(process.stdout.readline()), process.pid, way=way)


@contextlib.contextmanager
def ours(
    port: int, *, sqlite: bool = False, redis: str = "", without: Sequence[str] = (), way: Way = ways.SSE
) -> Iterator[Subject]:
    """Our relay, as its command starts it."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/relay.db" if sqlite else redis or "memory"
        hidden = [f"--without={name}" for name in without]
        relay = ["relay", "--upstream", _http(port), "--port", "0", "--store", store]
        with (
            Path(folder, "log").open("w+", encoding="utf-8") as log,
            _running(
                [sys.executable, "-m", "benchmarks.relay.ours", *hidden, "--", *relay],
                stderr=log,
                RESUMABLE_LLM_RELAY_SECRET=KEY,
            ) as process,
        ):
            yield Subject(_told(Path(folder, "log"), r"relay: http://127\.0\.0\.1:(\d+)"), process.pid, way=way)


@contextlib.contextmanager
def ours_on_redis(port: int) -> Iterator[Subject]:
    """Our relay, with its logs in Redis."""
    with _redis() as (redis, pid), ours(port, redis=_url(redis)) as relay:
        yield replace(relay, others=(pid,), redis=redis)


@contextlib.contextmanager
def published(port: int) -> Iterator[Subject]:
    """Redis, to which a worker tells events, and from which readers have them: its protocol is theirs."""
    with _redis() as (redis, pid), _worker("publish", redis, port) as worker:
        yield Subject(redis, pid, way=ways.SUBSCRIBED, others=(worker,), redis=redis)


@contextlib.contextmanager
def forwarded(port: int, *, worker: str, gateway: str, way: Way) -> Iterator[Subject]:
    """The same, and a gateway from which readers have events as SSE."""
    application = f"benchmarks.relay.anchors.redis_gateway:{gateway}"
    with (
        _redis() as (redis, pid),
        _worker(worker, redis, port) as other,
        served(port, application=application, way=way, redis=_url(redis)) as subject,
    ):
        yield replace(subject, others=(pid, other), redis=redis)


@contextlib.contextmanager
def _redis() -> Iterator[tuple[int, int]]:
    own, program = free_port(), programs()[0]
    with tempfile.TemporaryDirectory() as folder:
        if not os.access(program, os.X_OK):  # a wheel may say nothing of modes
            program.chmod(0o755)
        command = [str(program), "--port", str(own), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        with _running(command) as process:
            until_listening(own)
            yield own, process.pid


@contextlib.contextmanager
def _worker(kind: str, redis: int, port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.relay.anchors.redis_worker", kind]
    with _running(command, REDIS=_url(redis), UPSTREAM=_http(port)) as process:
        yield process.pid


def _http(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _url(redis: int) -> str:
    return f"redis://127.0.0.1:{redis}/0"


@contextlib.contextmanager
def nginx(port: int) -> Iterator[Subject]:
    """nginx, which does not buffer: the floor."""
    with tempfile.TemporaryDirectory() as folder:
        own = free_port()
        Path(folder).chmod(0o755)  # its workers may be another user
        config = Path(folder, "nginx.conf")
        config.write_text(_NGINX.format(folder=folder, port=own, upstream=port), encoding="ascii")
        with _running(["nginx", "-p", folder, "-c", str(config)]) as process:
            until_listening(own)
            yield Subject(own, process.pid, Path(folder))


_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/event-stream; root {folder}; sendfile on; tcp_nodelay on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location /v1/ {{
      proxy_pass http://127.0.0.1:{upstream}; proxy_buffering off; proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


@contextlib.contextmanager
def litellm(port: int) -> Iterator[Subject]:
    """LiteLLM's proxy, of an environment of its own that LITELLM names, for its requirements are strict."""
    with tempfile.TemporaryDirectory() as folder:
        own = free_port()
        config = Path(folder, "config.yaml")
        config.write_text(_LITELLM.format(upstream=port, key=KEY), encoding="ascii")
        command = [os.environ["LITELLM"], "--config", str(config), "--port", str(own), "--host", "127.0.0.1"]
        # Its list of prices is in the package, too.
        with _running(
            [*command, "--telemetry", "False"], stderr=subprocess.DEVNULL, LITELLM_LOCAL_MODEL_COST_MAP="True"
        ) as process:
            until_listening(own)
            yield Subject(own, process.pid)


_LITELLM = """
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: none
general_settings:
  master_key: {key}
"""


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int | IO[str] | None = None,
    **environment: str,
) -> Iterator[subprocess.Popen[str]]:
    own = {**os.environ, "PYTHONPATH": str(_ROOT), **environment}
    command = [*shlex.split(os.environ.get(WRAPPER, "")), *command]
    with subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, cwd=_ROOT, env=own) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    """A port that was free a moment ago, for a server that cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found: int = listener.getsockname()[1]
        return found


def until_listening(port: int) -> None:
    """Wait for a server to be there."""
    deadline = time.monotonic() + _PATIENCE
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.05)


def _told(log: Path, pattern: str) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = re.search(pattern, log.read_text(encoding="utf-8"))
        if found is not None:
            return int(found[1])
        if time.monotonic() > deadline:
            raise TimeoutError(log.read_text(encoding="utf-8"))
        time.sleep(0.02)


_RAW = "benchmarks.relay.anchors.raw:app"
_HTTPX = "benchmarks.relay.anchors.starlette_httpx:app"
_SSE = "benchmarks.relay.anchors.sse:app"
_ASYNCIO, _H11 = ("uvloop",), ("uvloop", "httptools")

SUBJECTS: dict[str, Start] = {
    "nothing": direct,
    "nginx": nginx,
    "raw ASGI, aiohttp": partial(served, application=_RAW),
    "the same on asyncio": partial(served, application=_RAW, without=_ASYNCIO),
    "the same on asyncio, h11": partial(served, application=_RAW, without=_H11),
    "Starlette, httpx": partial(served, application=_HTTPX),
    "LiteLLM": litellm,
    "sse-starlette": partial(served, application=_SSE),
    "relay, memory": ours,
    "relay, SQLite": partial(ours, sqlite=True),
    "relay, memory, on asyncio": partial(ours, without=_ASYNCIO),
    "relay, SQLite, on asyncio": partial(ours, sqlite=True, without=_ASYNCIO),
    "relay, memory, on asyncio, h11": partial(ours, without=_H11),
    "relay: SSE": ours,
    "relay: SSE, resumed": partial(ours, way=ways.RESUMED),
    "relay: WebSocket": partial(ours, way=ways.WEBSOCKET),
    "relay: WebSocket, deflated": partial(served, application="benchmarks.relay.mounted:app", way=ways.DEFLATED),
    "relay on Redis: SSE": ours_on_redis,
    "Redis pub/sub, no gateway": published,
    "Redis pub/sub, gateway: SSE": partial(forwarded, worker="publish", gateway="pubsub", way=ways.CHANNEL),
    "Redis Streams, gateway: SSE": partial(forwarded, worker="add", gateway="streams", way=ways.SSE),
}
