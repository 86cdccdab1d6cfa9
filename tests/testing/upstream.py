"""A raw HTTP/1.1 server that says byte for byte what a test wants, and raw clients that tell how a connection ends."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

EVENTS = tuple(f"id: {n}\ndata: token {n}\n\n".encode() for n in range(1, 9))
BODY = b"".join(EVENTS)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@dataclass
class Call:
    """A request that reached the server, and the socket to answer on."""

    connection: socket.socket
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def stream(self, body: bytes = BODY, size: int = 1000, head: bytes = STREAM_HEAD) -> None:
        """Answer with a chunked stream, each chunk in a segment of its own; a client that goes ends it."""
        with contextlib.suppress(OSError):
            self.send(head)
            for piece in pieces(body, size):
                self.send(chunk(piece))
            self.send(LAST_CHUNK)

    def until_gone(self) -> str:
        """Wait until the client closes; return how: "fin" or "rst"."""
        return ending(self.connection)[1]


class Upstream(socketserver.ThreadingTCPServer):
    """The server; `answer` runs in a thread for each connection, which serves one request."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[Call], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.calls: list[Call] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        raise AssertionError("an answer failed")  # shown by pytest as an unhandled exception of a thread

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(socketserver.StreamRequestHandler):
    server: Upstream
    disable_nagle_algorithm = True
    timeout = 10.0

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        call = Call(self.connection, head, b"")
        if call.header("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                call.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(call.header("Content-Length") or 0)
            call.body = self.rfile.read(length)
            if len(call.body) < length:
                return
        self.server.calls.append(call)
        self.server.answer(call)


def connect(url: str, receive_buffer: int | None = None) -> socket.socket:
    parts = urlsplit(url)
    with contextlib.ExitStack() as unless_connected:
        connection = unless_connected.enter_context(socket.socket())
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        connection.connect((parts.hostname, parts.port))
        unless_connected.pop_all()
    return connection


def ask(connection: socket.socket, version: str = "1.1", method: str = "GET", more: str = "") -> None:
    connection.sendall(f"{method} /v1/stream?a=b HTTP/{version}\r\nHost: example.test\r\n{more}\r\n".encode())


def ending(
    connection: socket.socket, so_far: bytes = b"", pause: Callable[[], object] = lambda: None
) -> tuple[bytes, str]:
    """Return all that arrives, and whether a FIN or a reset ended it; `pause` is called after each read."""
    try:
        while data := connection.recv(20_000):
            so_far += data
            pause()
    except ConnectionResetError:
        return so_far, "rst"
    return so_far, "fin"


def receive_until(connection: socket.socket, end: bytes) -> bytes:
    """Return what arrives up to and including `end`."""
    so_far = b""
    while not so_far.endswith(end):
        data = connection.recv(1)
        assert data, f"the connection ended after {so_far!r}"
        so_far += data
    return so_far


def receive_start(connection: socket.socket, body: bytes) -> bytes:
    """Return the raw response up to where its body so far is `body`."""
    so_far = b""
    while dechunk(so_far)[0] != body:
        data = connection.recv(1)
        assert data, f"the connection ended after {so_far!r}"
        so_far += data
    return so_far


def receive_body(connection: socket.socket) -> bytes:
    """Read a response and return its complete chunked body; the connection stays usable."""
    receive_until(connection, b"\r\n\r\n")
    body = b""
    while size := int(receive_until(connection, b"\r\n"), 16):
        received = b""
        while len(received) < size:
            received += connection.recv(size - len(received))
        body += received
        receive_until(connection, b"\r\n")
    receive_until(connection, b"\r\n")
    return body


def dechunk(response: bytes) -> tuple[bytes, bool]:
    """Return the body bytes of a raw chunked response, and whether its last chunk is there."""
    _, _, rest = response.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if size == b"0":
            assert rest == b"\r\n"
            return body, True
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body, False
