"""A relay on a real socket: uvicorn in a thread, for tests that are clients.

What it serves, and its event loop, can be reached from the test.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import httpx
import uvicorn
from typing_extensions import Self

import resumable_llm as rl
from resumable_llm.core.events import Event, EventDecoder
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Log, Store
from resumable_llm.relay import Relay, relay
from resumable_llm.relay.generation import Generation
from tests.sockets.scripted import Answer, End, Request, Scripted

T = TypeVar("T")
FAST = rl.RetryPolicy(wait=lambda state: 0.01)
AUTH = {"authorization": "Bearer alice"}
CHAT = {"model": "m", "stream": True, "messages": []}
CHAT_PATH = "/v1/chat/completions"


def address_told(process: subprocess.Popen[str]) -> str:
    """Host and port that the command `relay` tells on starting. Before it may be what it has taken over from others."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        if found := re.match(r"relay: http://(\S+:\d+) ", line):
            return found[1]
        said.append(line)
    raise AssertionError("".join(said) or "it said nothing")


class Gate:
    """An upstream's answer that waits to be let go.

    Args:
        blocks: What it answers.
        end: How it ends.
    """

    def __init__(self, blocks: Sequence[bytes] = (), end: End = End.CLEAN) -> None:
        self._answer = Answer(blocks, end)
        self._open = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        self._open.set()

    def answer(self, request: Request) -> Answer:
        self.wait()
        return self._answer

    def wait(self) -> None:
        assert self._open.wait(20)

    def between(self, first: Sequence[bytes], rest: Sequence[bytes]) -> Answer:
        """An answer that waits behind its first pieces."""

        def pieces() -> Iterator[bytes]:
            yield from first
            self.wait()
            yield from rest

        return Answer(Pieces(pieces))


class Pieces(Sequence[bytes]):
    """The pieces of an answer that are made while they are sent."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        return self._make()

    def __len__(self) -> int:
        raise TypeError

    def __getitem__(self, index: Any) -> Any:
        raise TypeError


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], object], relay: Relay) -> None:
        super().__init__(config)
        self._ready = ready
        self._relay = relay

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._relay.drain()  # as the command does
        # A connection that asyncio accepts just before its server is closed is not closed before the process ends.
        for server in self.servers:
            for listener in server.sockets:
                asyncio.get_running_loop().remove_reader(listener)
        for _ in range(2):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # this is no main thread


class Served:
    """The relay, for `with`.

    Args:
        upstream: What it stands in front of.
        store: Where it keeps answers; default: in memory.
        app: Serve this in place of the relay itself.
        port: Where it listens; 0 for anywhere.
        options: The relay's settings.
    """

    def __init__(
        self,
        upstream: Scripted | str,
        *,
        store: Store | None = None,
        app: Callable[[Relay], Any] | None = None,
        port: int = 0,
        **options: Any,
    ) -> None:
        url = upstream if isinstance(upstream, str) else upstream.url
        self.relay = relay(upstream=url, store=store, **{"policy": FAST, "shutdown_seconds": 0.0, **options})
        self._app = app(self.relay) if app is not None else self.relay
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ready = threading.Event()
        config = uvicorn.Config(self._app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        self.server = _Server(config, self._ready.set, self.relay)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive(), "the relay hangs"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done on the relay's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds on the relay's loop; it is looked at between any two of its steps."""

        async def wait() -> None:
            while not condition():  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0)

        self.run(wait())

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    @property
    def generation(self) -> Generation:
        """The only one that runs."""
        (found,) = self.relay._generations.running
        return found

    @property
    def readers(self) -> int:
        """Who reads what is being generated, or waits for it."""
        return sum(each.readers for each in list(self.relay._generations.running))

    @property
    def reading(self) -> int:
        """Requests that are being served."""
        return len(self.server.server_state.tasks)

    @property
    def logs(self) -> list[Log]:
        store = self.relay._store
        assert isinstance(store, MemoryStore)
        return list(store._logs.values())

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={**AUTH, **headers}, timeout=20)

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server.serve([self._listener])

        asyncio.run(serve())


def events_in(data: bytes) -> list[Event]:
    return EventDecoder().feed(data)


def datas(data: bytes) -> list[str]:
    return [event.data for event in events_in(data)]


def ids(data: bytes) -> list[str]:
    return [event.id for event in events_in(data)]


def error_in(response: httpx.Response) -> str:
    """The code of the relay's own refusal."""
    found = response.json()["error"]["code"]
    assert isinstance(found, str)
    return found


def chat_body(**more: Any) -> bytes:
    return json.dumps({**CHAT, **more}).encode()
