"""A real TCP proxy on 127.0.0.1 that does to streamed responses what a fault plan says.

It owns the port, the thread and the connections; what passes over them is the exchange's business. It knows no
provider, no dialect and no client library: whatever speaks HTTP/1.1 can stand on either side.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import h11

from resumable_llm.testing.exchange import MAX_HEAD, Exchange, HangUp, RequestRecord, next_event
from resumable_llm.testing.plan import Fault, FaultPlan
from resumable_llm.testing.sockets import accept, arm_reset, connect, for_ever, prepare

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from typing_extensions import Self


class FaultProxy:
    """A TCP proxy in a thread, for `with` and `async with`: the n-th streamed response suffers the n-th fault.

    Streamed means text/event-stream or application/x-ndjson; these go out chunked to every HTTP/1.1 client. Other
    responses pass untouched, and when the upstream connection is lost, so is the client's, in the same way. Requests
    pass as they are but for `Accept-Encoding`, which becomes `identity`: events cannot be counted in a compressed body.

    Args:
        upstream: where the requests go: an http:// URL, or host and port.
        plan: the faults; by default there are none.

    Raises:
        ValueError: the upstream is not an http:// URL with a host.
    """

    def __init__(self, upstream: str | tuple[str, int], plan: FaultPlan | None = None) -> None:
        if isinstance(upstream, str):
            parts = urlsplit(upstream)
            if parts.scheme != "http" or not parts.hostname:
                raise ValueError(f"the upstream must be an http:// URL with a host: {upstream!r}")
            self._host, self._port, self._prefix = parts.hostname, parts.port or 80, parts.path
        else:
            self._host, self._port = upstream
            self._prefix = ""
        self.plan = FaultPlan() if plan is None else plan
        self._url: str | None = None
        self._thread: threading.Thread | None = None
        self._connections = 0
        self._requests: list[RequestRecord] = []
        self._failures: list[BaseException] = []

    @property
    def plan(self) -> FaultPlan:
        """The faults; setting a plan makes its first fault the next one."""
        return self._plan

    @plan.setter
    def plan(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._to_come = deque(plan.faults)

    @property
    def url(self) -> str:
        """The upstream's URL with the proxy's address in it.

        Raises:
            RuntimeError: the proxy has not been started.
        """
        if self._url is None:
            raise RuntimeError("the proxy has not been started")
        return self._url

    @property
    def connections(self) -> int:
        """Number of TCP connections accepted so far."""
        return self._connections

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests so far, in order of arrival."""
        return list(self._requests)

    def start(self) -> None:
        """Listen on a free port and serve until `close`.

        Raises:
            RuntimeError: the proxy has been started before.
            OSError: the upstream's name has no address, or there is no free port.
        """
        if self._url is not None:
            raise RuntimeError("a proxy starts only once")
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listener.setblocking(False)
        self._url = f"http://127.0.0.1:{listener.getsockname()[1]}{self._prefix}"
        self._loop = asyncio.SelectorEventLoop()  # on Windows too: the other kind has no add_reader
        self._serving = self._loop.create_task(self._serve(listener, addresses))
        self._thread = threading.Thread(target=self._run, name="FaultProxy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all connections and end the thread; once closed, do nothing.

        Raises:
            RuntimeError: the proxy met something that it does not foresee: a bug, given as the cause.
        """
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._thread = None
        if self._failures:
            raise RuntimeError("the fault proxy failed") from self._failures[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Starting and closing take about a millisecond and wait for no peer: they may run on the caller's event loop.
    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        with contextlib.closing(self._loop), contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)

    async def _serve(self, listener: socket.socket, addresses: list[tuple[int, Any]]) -> None:
        running: set[asyncio.Task[None]] = set()

        def start(work: Coroutine[Any, Any, None]) -> None:
            task = asyncio.create_task(work)
            running.add(task)
            task.add_done_callback(end)

        def end(task: asyncio.Task[None]) -> None:
            running.discard(task)
            if not task.cancelled() and (failure := task.exception()) is not None:
                self._failures.append(failure)

        async def accept_all() -> None:
            with listener:
                while True:
                    client = await accept(listener)
                    self._connections += 1
                    start(self._serve_client(client, addresses))

        start(accept_all())
        try:
            await for_ever()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _serve_client(self, client: socket.socket, addresses: list[tuple[int, Any]]) -> None:
        with client:
            try:
                prepare(client)
                await self._serve_requests(client, addresses)
            except HangUp as hang_up:
                if hang_up.reset:
                    await arm_reset(client)
            except (OSError, h11.RemoteProtocolError):
                pass  # the client has gone, or does not speak HTTP: there is nobody to tell

    async def _serve_requests(self, client: socket.socket, addresses: list[tuple[int, Any]]) -> None:
        server = h11.Connection(h11.SERVER, MAX_HEAD)
        while isinstance(request := await next_event(server, client), h11.Request):
            if request.method == b"CONNECT":
                raise h11.RemoteProtocolError("this is no tunnel")
            exchange = Exchange(server, client, request, self._next_fault)
            self._requests.append(exchange.record)
            try:
                upstream = await connect(addresses)
            except ConnectionRefusedError as error:
                raise HangUp(reset=True) from error
            with upstream:
                await exchange.run(upstream)
            if (server.our_state, server.their_state) != (h11.DONE, h11.DONE):
                return
            server.start_next_cycle()

    def _next_fault(self) -> Fault | None:
        return self._to_come.popleft() if self._to_come else None
