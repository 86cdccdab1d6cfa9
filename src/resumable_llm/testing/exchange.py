"""One HTTP/1.1 request and its response, carried through the proxy with or without a fault.

It sees two sockets and asks for the fault; it knows neither plans nor threads, nor who listens where.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from resumable_llm.testing.injector import Blocks, Injector, JSONLines, Passage, SSEBlocks
from resumable_llm.testing.sockets import TimeUp, for_ever, gone, receive, send

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from resumable_llm.testing.plan import Fault

MAX_HEAD = 65536  # bytes, uvicorn's limit too
_STREAMED: dict[bytes, type[Blocks]] = {b"text/event-stream": SSEBlocks, b"application/x-ndjson": JSONLines}

# Every hop deals with expect and upgrade for itself; events could not be counted in a compressed body.
_NOT_FORWARDED = frozenset({b"accept-encoding", b"expect", b"upgrade"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


@dataclass
class RequestRecord:
    """One request that reached the proxy, and what has become of its response so far.

    Everything is written down before the bytes go out, so it covers all that the client has seen.

    Attributes:
        method: the request's method.
        path: its target, with the query.
        headers: its headers as the client sent them, names in lower case.
        body_bytes: bytes of its body.
        status: the response's status, None before there is one.
        streamed: whether the response is a stream, and so counts in the plan.
        fault: the fault that struck, None before it or without one.
        bytes_sent: body bytes of the response sent to the client, wherever they came from.
        events_sent: whole events of a streamed response sent to the client; one sent twice counts twice.
    """

    method: str
    path: str
    headers: dict[str, str]
    body_bytes: int = 0
    status: int | None = None
    streamed: bool = False
    fault: Fault | None = None
    bytes_sent: int = 0
    events_sent: int = 0


class HangUp(Exception):
    """The client's connection is to be closed now: with a reset, or with a FIN."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class Exchange:
    """A request whose head has been read, to be passed on.

    Args:
        server: the proxy's HTTP state towards the client.
        client: the client's socket, non-blocking.
        request: the head of the request.
        next_fault: called if the response is a stream, for the fault that it shall suffer.
    """

    record: RequestRecord

    def __init__(
        self,
        server: h11.Connection,
        client: socket.socket,
        request: h11.Request,
        next_fault: Callable[[], Fault | None],
    ) -> None:
        self._server = server
        self._client = client
        self._request = request
        self._next_fault = next_fault
        self._sent: Blocks | None = None  # looks at what goes out, as the injector looks at what comes in
        headers: dict[str, str] = {}
        for raw_name, raw_value in request.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.record = RequestRecord(request.method.decode("ascii"), request.target.decode("ascii"), headers)

    async def run(self, upstream: socket.socket) -> None:
        """Pass the request to `upstream` and its response to the client.

        Raises:
            HangUp: a fault, or what happened to the upstream connection, takes the client's connection with it.
            OSError: the client has gone.
            h11.RemoteProtocolError: the client does not keep to HTTP.
        """
        peer = h11.Connection(h11.CLIENT, MAX_HEAD)
        await self._pass_request(peer, upstream)
        answering = asyncio.create_task(self._pass_response(peer, upstream))
        leaving = asyncio.create_task(gone(self._client))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            cut_short = answering.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        if cut_short:
            raise ConnectionResetError("the client has gone")
        answering.result()

    async def _pass_request(self, peer: h11.Connection, upstream: socket.socket) -> None:
        if self._server.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        headers = [*_without(_NOT_FORWARDED, self._request.headers.raw_items()), (b"Accept-Encoding", b"identity")]
        event: h11.Event = h11.Request(method=self._request.method, target=self._request.target, headers=headers)
        while True:
            # An upstream that answers before it has read everything may refuse the rest: its answer is what counts.
            with contextlib.suppress(OSError):
                await send(upstream, peer.send(event))
            if isinstance(event, h11.EndOfMessage):
                return
            event = await next_event(self._server, self._client)
            if isinstance(event, h11.Data):
                self.record.body_bytes += len(event.data)

    async def _pass_response(self, peer: h11.Connection, upstream: socket.socket) -> None:
        response = await _upstream_event(peer, upstream)
        while isinstance(response, h11.InformationalResponse):
            await self._send(response)
            response = await _upstream_event(peer, upstream)
        assert isinstance(response, h11.Response)
        headers = dict(response.headers)
        kind = _STREAMED.get(headers.get(b"content-type", b"").partition(b";")[0].strip().lower())
        self.record.status = response.status_code
        if kind is None or self._request.method == b"HEAD" or response.status_code in {204, 304}:
            # Built anew: h11 refuses to send on the version of an HTTP/1.0 upstream.
            untouched = response.headers.raw_items()
            await self._send(h11.Response(status_code=response.status_code, headers=untouched, reason=response.reason))
            await self._pass_untouched(peer, upstream)
        elif headers.get(b"content-encoding", b"identity").lower() != b"identity":
            await self._refuse(b"The fault proxy asked for identity, but the upstream compresses its stream.\n")
        else:
            # Chunked whatever the upstream's framing, so that an early end and a lost connection always differ.
            left = _without(_FRAMING, response.headers.raw_items())
            await self._send(h11.Response(status_code=response.status_code, headers=left, reason=response.reason))
            await self._pass_stream(peer, upstream, kind)

    async def _pass_untouched(self, peer: h11.Connection, upstream: socket.socket) -> None:
        while isinstance(event := await _upstream_event(peer, upstream), h11.Data):
            await self._send_body(bytes(event.data))
        await self._send(event)

    async def _refuse(self, why: bytes) -> None:
        self.record.status = 502
        headers = [(b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(why))]
        await self._send(h11.Response(status_code=502, headers=headers, reason=b"Bad Gateway"))
        await self._send_body(why)
        await self._send(h11.EndOfMessage())

    async def _pass_stream(self, peer: h11.Connection, upstream: socket.socket, kind: type[Blocks]) -> None:
        self.record.streamed = True
        self._sent = kind()
        fault = self._next_fault()
        injector = Injector(fault, kind())
        wakeup = None
        if fault is not None and fault.at_seconds is not None:
            wakeup = asyncio.get_running_loop().time() + fault.at_seconds
        passage = injector.receive_data(b"")
        end: h11.Event | None = None
        while True:
            if injector.applied:
                self.record.fault = fault
            if not await self._perform(passage, self._sent.ping):
                return
            if end is not None:
                break
            try:
                event = await _upstream_event(peer, upstream, wakeup)
            except TimeUp:
                wakeup = None
                passage = injector.receive_wakeup()
                continue
            if isinstance(event, h11.Data):
                passage = injector.receive_data(bytes(event.data))
            else:
                passage = injector.receive_eof()
                end = event
        self.record.events_sent += _events(self._sent.finish())
        await self._send(end)

    async def _perform(self, passage: Passage, ping: bytes) -> bool:
        """Send a passage and let its happening befall the connection; return whether the response goes on."""
        fault = passage.happening
        if fault is not None and fault.kind in {"rst", "fin"}:
            await self._send_body(passage.before, announced=len(passage.before) + len(passage.after))
            raise HangUp(reset=fault.kind == "rst")
        await self._send_body(passage.before)
        if fault is None:
            return True
        if fault.kind == "end":
            await self._send(h11.EndOfMessage())
            return False
        if fault.kind == "delay":
            assert fault.seconds is not None
            await asyncio.sleep(fault.seconds)
            await self._send_body(passage.after)
            return True
        silence = for_ever() if fault.interval is None else self._send_pings(ping, fault.interval)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(silence, fault.seconds)
        raise HangUp(reset=False)

    async def _send_pings(self, ping: bytes, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self._send_body(ping)

    async def _send_body(self, data: bytes, *, announced: int = 0) -> None:
        """Send body bytes, as a chunk that stays incomplete if it is `announced` to have more of them."""
        self.record.bytes_sent += len(data)
        if self._sent is not None:
            self.record.events_sent += _events(self._sent.feed(data))
        framed = self._server.send(h11.Data(data=data))
        if announced > len(data) and self._server.their_http_version == b"1.1":
            framed = b"%x\r\n%b" % (announced, data)
        await send(self._client, framed)

    async def _send(self, event: h11.Event) -> None:
        await send(self._client, self._server.send(event))


async def next_event(connection: h11.Connection, source: socket.socket, until: float | None = None) -> h11.Event:
    """Return the next HTTP event that arrives.

    Args:
        connection: the HTTP state.
        source: its socket.
        until: give up at this moment of the event loop's clock, in seconds.

    Raises:
        TimeUp: the moment has come.
        OSError: the connection is broken.
        h11.RemoteProtocolError: what arrives is not HTTP.
    """
    clock = asyncio.get_running_loop().time
    while until is None or clock() < until:
        event = connection.next_event()
        if isinstance(event, h11.Event):
            return event
        connection.receive_data(await receive(source, until))
    raise TimeUp


async def _upstream_event(peer: h11.Connection, upstream: socket.socket, until: float | None = None) -> h11.Event:
    """Return the next event from upstream; what befalls that connection befalls the client's too."""
    try:
        return await next_event(peer, upstream, until)
    except OSError as error:
        raise HangUp(reset=True) from error
    except h11.RemoteProtocolError as error:
        raise HangUp(reset=False) from error


def _without(names: frozenset[bytes], headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in names]


def _events(ends: Iterable[tuple[int, bool]]) -> int:
    return sum(is_event for _, is_event in ends)
