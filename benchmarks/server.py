"""The server: writes rendered bytes from blocking sockets, a thread a connection, in a process of its own.

Knows no client. Where each event must be a read of its own it waits until the client has counted the event before,
which no delay could guarantee: it spins, at no cost to the client but a store in shared memory.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks import shared, wire
from benchmarks.wire import Order

PATIENCE = 30.0
"""Seconds after which a client that does not read on is taken for dead."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_LAST_EVENT_ID = re.compile(rb"last-event-id: *(\d+)", re.IGNORECASE)


def main() -> None:
    """Serve until standard input closes; the port is the first line of standard output."""
    memory = shared.attach(Path(sys.argv[1]))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener, memory), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, memory: memoryview) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, memory), daemon=True).start()


def _serve(connection: socket.socket, memory: memoryview) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while head := _request(connection):
                target = head.split(b" ", 2)[1].decode()
                order = Order.parse(target)
                connection.sendall(wire.HEAD)
                start = _place(head, target)
                if not _MODES[order.mode](connection, order, start, memory):
                    return
                connection.sendall(wire.chunked(wire.terminal(order.kind, order.events)) + wire.END)
        except OSError:
            pass  # the client has gone


def _request(connection: socket.socket) -> bytes:
    """The head of the next request, its body read too; empty when there is none."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (more := connection.recv(65536)):
            return b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        missing -= len(connection.recv(missing))
    return head


def _place(head: bytes, target: str) -> int:
    """The number of events that the client says it has."""
    behind = parse_qs(urlsplit(target).query).get("starting_after")
    if behind:
        return int(behind[0]) + 1
    last = _LAST_EVENT_ID.search(head)
    return int(last[1]) if last else 0


def _send_all(connection: socket.socket, order: Order, _start: int, _memory: memoryview) -> bool:
    for segment in wire.segments(order):
        connection.sendall(segment)
    return True


def _send_each(connection: socket.socket, order: Order, _start: int, memory: memoryview) -> bool:
    for number, segment in enumerate(wire.segments(order)):
        _wait_for(memory, number * order.unit)
        connection.sendall(segment)
    return True


def _send_and_cut(connection: socket.socket, order: Order, start: int, memory: memoryview) -> bool:
    end = min(start + wire.EVENTS_PER_CUT, order.events)
    for segment in wire.segments(order)[start:end]:
        connection.sendall(segment)
    _wait_for(memory, end)
    if end == order.events:
        return True
    memory[shared.CUT] = time.monotonic_ns()
    return False


def _send_paced(connection: socket.socket, order: Order, _start: int, memory: memoryview) -> bool:
    while memory[shared.READ] == 0:  # all streams begin when all are there, each at its own moment within a beat
        time.sleep(1 / wire.EVENTS_PER_SECOND)
    due = time.monotonic()
    for segment in wire.segments(order):
        connection.sendall(segment)
        due += 1 / wire.EVENTS_PER_SECOND
        time.sleep(max(due - time.monotonic(), 0))
    return True


_MODES: dict[str, Callable[[socket.socket, Order, int, memoryview], bool]] = {
    wire.CHUNKS: _send_all,
    wire.BULK: _send_all,
    wire.READS: _send_each,
    wire.CUT: _send_and_cut,
    wire.PACED: _send_paced,
}


def _wait_for(memory: memoryview, read: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while memory[shared.READ] < read:
        time.sleep(0)  # no pause, but other threads and processes may go first
        if time.monotonic() > deadline:
            raise TimeoutError


if __name__ == "__main__":
    main()
