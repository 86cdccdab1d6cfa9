"""The way to Redis: connections on an event loop in a thread of their own, for callers that have no loop.

Knows how to ask and how long to wait, and nothing of logs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from resumable_llm.log.errors import LogError, StoreFailed

T = TypeVar("T")

TROUBLE = (RedisError, OSError, asyncio.TimeoutError)
"""What a call may raise because of Redis, the network or the machine."""

ANSWER_SECONDS = 5.0
"""How long an answer is waited for."""

BLOCK_SECONDS = 1.0
"""How long a read waits for news."""

_CONNECTIONS = 8

Entry = tuple[bytes, dict[bytes, bytes]]


class Link:
    """Connections to one Redis, used from one thread.

    Args:
        url: As redis-py takes it.
        root: What all keys begin with.

    Raises:
        ValueError: The URL cannot be understood. The message does not repeat it, for it may hold a password.
    """

    def __init__(self, url: str, root: str) -> None:
        self._root = root
        options: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": ANSWER_SECONDS,
        }
        try:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=_CONNECTIONS, timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS, **options
            )
            self._reader: Any = Redis.from_url(url, socket_timeout=BLOCK_SECONDS + ANSWER_SECONDS, **options)
        except ValueError:
            raise ValueError("the URL of Redis must be like redis://host:6379/0") from None
        self._redis: Any = Redis.from_pool(pool)
        self._hashes: dict[str, str] = {}
        self._gate = threading.Lock()
        self.closing = False
        """Whether nothing new is done."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="resumable-llm redis", daemon=True)
        self._thread.start()

    def name(self, key: str) -> str:
        """The full name of a key."""
        return self._root + key

    # From any thread but the link's own.

    def ask(self, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Have something done in the link's thread, and wait for it.

        Raises:
            LogError: What the work has raised.
            StoreFailed: Redis does not do what it should, or the link is closed.
        """
        with self._gate:
            self.must_be_open()
            future = asyncio.run_coroutine_threadsafe(work(*arguments), self._loop)
        try:
            return future.result()
        except LogError:
            raise
        except CancelledError:
            raise StoreFailed("the store is closed") from None
        except TROUBLE as error:
            raise StoreFailed(f"Redis does not answer as it should: {error}") from error

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Have something done in the link's thread, which must not fail, unless the link is closed."""
        with self._gate:
            if not self.closing:
                asyncio.run_coroutine_threadsafe(work(*arguments), self._loop)

    def post(self, call: Callable[[], object]) -> None:
        """Have something called in the link's thread, unless the link is closed."""
        with self._gate:
            if not self.closing:
                self._loop.call_soon_threadsafe(call)

    def must_be_open(self) -> None:
        """Raise where the link is closed."""
        if self.closing:
            raise StoreFailed("the store is closed")

    def close(self, work: Callable[[], Coroutine[Any, Any, T | None]] | None = None) -> T | None:
        """Do one last thing, then let go of everything. May be called twice.

        Returns:
            What the work returned; None if the link was closed before.
        """
        with self._gate:
            if self.closing:
                return None
            self.closing = True
            future = asyncio.run_coroutine_threadsafe(self._finish(work), self._loop)
        try:
            return future.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # In the link's thread.

    async def run(self, script: str, *arguments: str | bytes | float) -> Any:
        """Run a script. What it answers is bytes, numbers, lists and None."""
        known = self._hashes.get(script)
        if known is None:
            known = self._hashes[script] = await self._redis.script_load(script)
        try:
            return await self._redis.evalsha(known, 1, self._root, *arguments)
        except NoScriptError:  # Redis was restarted, or another stands in for it
            del self._hashes[script]
            return await self.run(script, *arguments)

    async def do(self, *command: str | bytes | float) -> Any:
        """Send a command."""
        return await self._redis.execute_command(*command)

    async def read(self, places: Sequence[str], positions: Sequence[str], count: int) -> list[tuple[str, list[Entry]]]:
        """What has been added to streams behind positions; where there is nothing, wait for a while."""
        block = int(BLOCK_SECONDS * 1000)
        command = ("XREAD", "COUNT", count, "BLOCK", block, "STREAMS", *places, *positions)
        return [(name.decode(), entries) for name, entries in await self._reader.execute_command(*command)]

    async def read_one(self, place: str, position: str, count: int) -> list[Entry]:
        """The same of one stream, without waiting."""
        found = await self._redis.execute_command("XREAD", "COUNT", count, "STREAMS", place, position)
        return found[0][1] if found else []

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _finish(self, work: Callable[[], Coroutine[Any, Any, T | None]] | None) -> T | None:
        try:
            return None if work is None else await work()
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            while others:
                for task in others:
                    task.cancel()
                # More than once if need be: before Python 3.12, wait_for forgets it if its work is done just then.
                _, others = await asyncio.wait(others, timeout=0.1)
            await self._reader.aclose()
            await self._redis.aclose()
