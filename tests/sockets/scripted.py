"""A real HTTP/1.1 server on 127.0.0.1 that does what its script says, byte for byte, and remembers what it was asked.

It knows no library under test: plain sockets and threads, so that it can break every rule of HTTP on purpose.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

from typing_extensions import Self

EVENT_STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


class End(Enum):
    """How an answer ends once its pieces are sent."""

    CLEAN = "clean"
    """As its framing demands; the connection stays usable."""
    CLOSE = "close"
    """As its framing demands, then FIN."""
    FIN = "fin"
    """FIN, without the last chunk."""
    RST = "rst"
    SILENT = "silent"
    """Held open without a byte until the client goes."""
    PINGS = "pings"
    """Held open with a comment every few moments until the client goes."""


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    raw_head: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        pieces: The body; each piece is one chunk and one write.
        end: How it ends.
        status: HTTP status.
        headers: Headers besides those of the framing.
        chunked: Chunked framing; otherwise a content-length.
        ping_every: Seconds between two pings.
    """

    pieces: Sequence[bytes] = ()
    end: End = End.CLEAN
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: EVENT_STREAM)
    chunked: bool = True
    ping_every: float = 0.02

    @classmethod
    def json(cls, text: str, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
        return cls([text.encode()], status=status, headers={**JSON, **(headers or {})}, chunked=False)


Script = Callable[[Request], Answer]


class Scripted:
    """The server, for `with`.

    Args:
        script: One answer for each request, in the order in which they come; a function is asked for its answer.
        rest: Answers all requests after those. Without it they get a 500 and are a failure of the test.
    """

    def __init__(self, *script: Answer | Script, rest: Script | None = None) -> None:
        self._script = script
        self._rest = rest
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._closing = False
        self.requests: list[Request] = []
        self.accepted = 0
        self.unexpected = 0
        self.sent = threading.Semaphore(0)
        """Released when the pieces of an answer are out."""
        self.gone = threading.Semaphore(0)
        """Released when the client of an answer that is held open has gone."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        assert not any(thread.is_alive() for thread in self._threads), "a thread of the scripted server hangs"
        assert error is not None or not self.unexpected, f"{self.unexpected} requests more than the script has answers"

    @property
    def methods(self) -> list[str]:
        """The methods of the requests so far."""
        return [request.method for request in self.requests]

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.accepted += 1
                self._connections.append(connection)
                late = self._closing
            if late:
                connection.close()
            else:
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.closing(connection), contextlib.suppress(OSError):
            pending = b""
            while (received := _receive(connection, pending)) is not None:
                request, pending = received
                if not self._answer(connection, self._choose(request)):
                    return

    def _choose(self, request: Request) -> Answer:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            chosen = self._script[number] if number < len(self._script) else self._rest
            if chosen is None:
                self.unexpected += 1
                return Answer([b"unexpected request"], status=500, headers={}, chunked=False)
        return chosen if isinstance(chosen, Answer) else chosen(request)

    def _answer(self, connection: socket.socket, answer: Answer) -> bool:
        """Whether the connection stays open for another request."""
        headers = dict(answer.headers)
        bodiless = answer.status in (204, 304)
        if answer.chunked and not bodiless:
            headers["transfer-encoding"] = "chunked"
        elif not bodiless:
            headers["content-length"] = str(sum(map(len, answer.pieces)))
        lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        try:
            connection.sendall(head)
            for piece in answer.pieces:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece)
            self.sent.release()
            return self._end(connection, answer, last_chunk=b"0\r\n\r\n" if answer.chunked and not bodiless else b"")
        finally:
            if answer.end in (End.SILENT, End.PINGS):
                self.gone.release()

    def _end(self, connection: socket.socket, answer: Answer, *, last_chunk: bytes) -> bool:
        match answer.end:
            case End.CLEAN | End.CLOSE:
                connection.sendall(last_chunk)
                return answer.end is End.CLEAN
            case End.RST:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case End.SILENT | End.PINGS:
                pause = answer.ping_every if answer.end is End.PINGS else None
                while not select.select([connection], [], [], pause)[0]:
                    connection.sendall(b"8\r\n: ping\n\n\r\n")
            case End.FIN:
                pass
        return False


def _receive(connection: socket.socket, pending: bytes) -> tuple[Request, bytes] | None:
    while b"\r\n\r\n" not in pending:
        received = connection.recv(65536)
        if not received:
            return None
        pending += received
    head, _, pending = pending.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", "0"))
    while len(pending) < size:
        received = connection.recv(65536)
        if not received:
            return None
        pending += received
    return Request(method, target, headers, pending[:size], head), pending[size:]
