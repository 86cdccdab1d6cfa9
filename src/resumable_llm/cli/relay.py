"""The command that serves a relay: its store, its socket, what is said when it starts, and how it is shut down.

The packages of the extra ``relay`` are imported when the command runs, so that the others do without.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO
from urllib.parse import urlsplit

from resumable_llm.cli.attended import Attended
from resumable_llm.cli.logs import Format, log_to
from resumable_llm.local.announcement import LOOPBACK, announce
from resumable_llm.local.relay import IN_USE
from resumable_llm.log.errors import LogError, StoreInUse
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.scope import secret_beside
from resumable_llm.log.sqlite import SqliteStore

if TYPE_CHECKING:
    from resumable_llm.log.model import Store
    from resumable_llm.relay import Relay

STOPPED, USAGE, CANNOT_START = 0, 2, 3
"""Exit codes."""

MAX_CONNECTIONS = 10_000
MAX_SAID = 1024
"""Bytes in a message that a reader sends over WebSocket. Nobody listens."""
_GRACE_SECONDS = 5
_MAX_YOUNG_OBJECTS = 5_000
"""So many new ones, and cyclic garbage is looked for. A stream has some hundred, which live as long as it does."""
_SQLITE = "sqlite:///"
_REDIS = ("redis://", "rediss://")
KEYED_WITH = "RESUMABLE_LLM_RELAY_SECRET"
"""The variable with what credentials are hashed with, where several relays share a store."""

_EXTRA = ("aiohttp", "prometheus_client", "uvicorn", "yarl")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to serve.

    Attributes:
        upstream: The provider.
        host: Where to listen.
        port: Where to listen; 0 for any.
        store: ``memory``, ``sqlite:///`` and a path, or where a Redis is.
        strict: Show nobody what is not on disk.
        ttl: How long answers are kept behind their end, in seconds.
        abandon_after: How long an answer that nobody reads is let run, in seconds; None: to its end.
        on_disconnect: What the last reader's going means.
        log_format: How it is said what happens.
        idle_exit: End when there has been nothing to do for so many seconds; None: never.
        announce: A file in which to say how the relay is found, once it is; None: nowhere.
    """

    upstream: str
    host: str
    port: int
    store: str
    strict: bool
    ttl: float
    abandon_after: float | None
    on_disconnect: Literal["continue", "cancel"]
    log_format: Format = "text"
    idle_exit: float | None = None
    announce: Path | None = None


def run(job: Job, err: TextIO) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        job: What to serve.
        err: Where everything is said.

    Returns:
        The exit code.
    """
    try:
        import uvicorn

        from resumable_llm.relay import Relay, RelaySettings
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print("the relay needs more packages: pip install 'resumable-llm[cli,relay]'", file=err)
        return USAGE
    try:
        settings = RelaySettings(
            upstream=job.upstream,
            ttl=job.ttl,
            abandon_after=job.abandon_after,
            on_disconnect=job.on_disconnect,
            secret=secret_of(job.store),
        )
        store = open_store(job.store, strict=job.strict)
    except (ValueError, OSError, LogError) as error:
        print(f"resumable-llm: {error}", file=err)
        return USAGE if isinstance(error, ValueError) else IN_USE if isinstance(error, StoreInUse) else CANNOT_START
    with closing(store):
        try:
            family = socket.AF_INET6 if ":" in job.host else socket.AF_INET
            listener = socket.create_server((job.host, job.port), family=family, backlog=2048)
        except (OSError, OverflowError) as error:
            print(f"resumable-llm: cannot listen on {job.host} port {job.port}: {error}", file=err)
            return CANNOT_START
        with listener:
            log_to(err, job.log_format)
            port = listener.getsockname()[1]
            announced = None if job.announce is None else announce(job.announce, port)
            for line in welcome(job, _url(job.host, port)):
                print(line, file=err, flush=True)
            relay = Relay(settings, store)
            attended = Attended(relay, lambda: relay.running, announced)
            config = uvicorn.Config(
                relay if job.idle_exit is None and announced is None else attended,
                access_log=False,  # it would write queries, in which some providers have keys
                log_config=None,
                limit_concurrency=MAX_CONNECTIONS,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                ws_max_size=MAX_SAID,
                ws_per_message_deflate=False,  # an event is small, and waits for nobody
            )
            _serve(config, listener, relay, lambda: job.idle_exit is not None and attended.idle() >= job.idle_exit)
    return STOPPED


def open_store(name: str, *, strict: bool) -> Store:
    """The store that ``--store`` names.

    Raises:
        ValueError: It names none.
        LogError: It cannot be opened.
    """
    if name.startswith(_REDIS):
        try:
            from resumable_llm.log.redis import RedisStore
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise ValueError("--store redis://... needs one more package: pip install 'resumable-llm[redis]'") from None
        return RedisStore(name, strict=strict)
    path = _path(name)
    if path is not None:
        return SqliteStore(path, strict=strict)
    if strict:
        raise ValueError("--durability strict is for --store sqlite:///PATH or redis://...: memory survives nothing")
    return MemoryStore()


def secret_of(name: str) -> bytes | None:
    """What credentials are hashed with, so that callers find their streams again.

    For a file, a secret beside it; for a Redis, what all relays that use it were given.

    Raises:
        ValueError: None was given.
        OSError: It cannot be read, or made.
    """
    if name.startswith(_REDIS):
        secret = os.environ.get(KEYED_WITH, "")
        if not secret:
            raise ValueError(
                f"--store redis://... needs the same secret in {KEYED_WITH} for all relays: openssl rand -hex 32"
            )
        return secret.encode()
    path = _path(name)
    return None if path is None else secret_beside(path)


def welcome(job: Job, url: str) -> list[str]:
    """What is said when the relay starts."""
    host = urlsplit(job.upstream).hostname or ""
    if "anthropic" in host:
        code = f'client = Anthropic(base_url="{url}")'
    elif host.endswith("googleapis.com"):
        code = f'client = genai.Client(http_options={{"base_url": "{url}"}})'
    else:
        code = f'client = OpenAI(base_url="{url}{"" if urlsplit(job.upstream).path.strip("/") else "/v1"}")'
    if job.store.startswith(_REDIS):
        parts = urlsplit(job.store)  # without what may be a password
        kept = f"in the Redis of {parts.hostname or 'localhost'} port {parts.port or 6379}"
    else:
        kept = "in memory" if job.store == "memory" else f"in {_path(job.store)}"
    lines = [
        f"relay: {url} in front of {job.upstream}; answers are kept {kept}, for {job.ttl:g} s behind their end",
        f"in your code: {code}",
    ]
    if job.host not in LOOPBACK:
        lines.append("it speaks plain HTTP, and keys pass through it: let nobody reach it but a proxy with TLS")
    return lines


def _path(name: str) -> Path | None:
    if name == "memory":
        return None
    if not name.startswith(_SQLITE) or len(name) == len(_SQLITE):
        # It is not repeated, for it may be a Redis and its password.
        raise ValueError("--store is memory, sqlite:///PATH (such as sqlite:///relay.db) or redis://HOST:PORT/DB")
    return Path(name.removeprefix(_SQLITE))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _serve(config: object, listener: socket.socket, relay: Relay, is_idle: Callable[[], bool]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Whoever is new goes to another relay, or tries again; so no balancer sends anybody here.
            for server in self.servers:
                server.close()
            for each in sockets or ():
                each.close()
            # Before connections are closed: their readers are to hear how their answers end.
            await relay.drain()
            await super().shutdown(sockets)

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or is_idle()

    assert isinstance(config, uvicorn.Config)
    # uvicorn raises the signal again when it is done, to end the process as if it had not been caught.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    # Looking for garbage stops every stream: what has been imported is not looked at again, and new things seldom.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_MAX_YOUNG_OBJECTS)
    Server(config).run([listener])
    sys.stderr.flush()
